"""The lines of nla-explain as one HTML page: a text whose tokens are coloured by how well their explanation reconstructs them, the
explanations of a token a click away, several runs side by side. Without JavaScript: a token is a link, and the page shows its target.
"""

import itertools
import re
from html import escape
from pathlib import Path

from . import stats
from .compare import percent, show
from .page import colour_rules
from .runs import Error, number, read_lines
from .words import average, kept, words

HERE = Path(__file__).parent
STEPS = 10                                                              # of the colour between 0 and 1
CSS = """
:root{--tone:31 122 140;--below:176 72 40;--most:.62}
@media screen and (prefers-color-scheme:dark){:root{--tone:102 198 216;--below:240 130 90;--most:.46}}
main{max-width:none;margin:0 27rem 0 0;padding:2.2rem 2rem 4rem}
.texts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:0 2.5rem}
h2{margin-top:1.4rem}
.text{white-space:pre-wrap;overflow-wrap:anywhere;max-width:none;line-height:1.75}
.t{color:inherit;text-decoration:none;border-radius:2px;background:rgb(var(--tone)/calc(var(--v,0)*var(--most)))}
.t.below{background:rgb(var(--below)/.38)}
.t.none{background:none;text-decoration:underline dotted var(--soft)}
.t:hover,.t:focus-visible{outline:2px solid var(--soft)}
.gap{color:var(--soft)}
.scale{display:flex;flex-wrap:wrap;gap:0;align-items:center;color:var(--soft);font-size:.86rem;max-width:none}
.scale .t{display:inline-block;width:1.1rem;height:1em}
.scale span:not(.t){margin:0 .7rem 0 .4rem}
.read{position:fixed;inset:0 0 0 auto;width:27rem;overflow-y:auto;padding:2.2rem 1.5rem 2rem;border-left:1px solid var(--rule);background:var(--paper)}
.read article{display:none;padding:0;scroll-margin-top:3rem}
.read article:target{display:block}
.read:has(:target) .hint{display:none}
.read h3{display:flex;justify-content:space-between;gap:1rem;margin-top:0}
.read h3 code{font:inherit;white-space:pre-wrap;color:var(--ink);overflow-wrap:anywhere}
.read nav a{color:var(--soft);text-decoration:none;padding:.3rem .5rem}
.cells{display:block}.cell{margin-bottom:1.2rem}
.cell p{white-space:pre-wrap}
.cell p span{color:var(--soft);font-variant-numeric:tabular-nums;margin-right:.5rem}
@media screen and (max-width:60rem){main{margin:0;padding:1.4rem 1rem 55vh}.read{inset:auto 0 0 0;width:auto;max-height:50vh;padding:.9rem 1rem 1.2rem;border-left:0;border-top:1px solid var(--soft)}.text{line-height:1.9}}
@media print{main{margin:0}.read{position:static;width:auto;border:0}.t{-webkit-print-color-adjust:exact;print-color-adjust:exact}.read nav,.hint{display:none}}
"""
UNSEEN = {**{chr(i): chr(0x2400 + i) for i in range(32)}, "\x7f": "\u2421", "\n": "\u21b5\n", "\t": "\u21e5\t",
          **{chr(i): f"\u27e8U+{i:04X}\u27e9" for i in (*range(0x80, 0xa0), 0xad, 0x200b, 0x200e, 0x200f, *range(0x2028, 0x202f), 0x2060, *range(0x2066, 0x206a), 0xfeff)}}
NEVER = re.compile("[\ud800-\udfff]")


def visible(text, breaks=False):
    """What would not be seen, or would turn the rest of a line around, by a sign; as HTML. breaks: line breaks as they are."""
    return escape(NEVER.sub("\ufffd", "".join(c if breaks and c == "\n" else UNSEEN.get(c, c) for c in text)))


class Explained:
    """A file of nla-explain: tokens[position] is its token, samples[position] its lines."""

    def __init__(self, name, path, notes):
        self.name, self.tokens, self.samples = name, {}, {}
        for line in read_lines(path, notes):
            at = line.get("position")
            if type(at) is not int or at < 0 or not isinstance(line.get("mse"), (int, float)):
                continue
            token = line["token"] if isinstance(line.get("token"), str) else "?"
            if self.tokens.setdefault(at, token) != token:
                raise Error(f"'{path}' holds more than one text: token {at} is '{self.tokens[at]}' and '{token}'")
            self.samples.setdefault(at, []).append(line)
        if not self.tokens:
            raise Error(f"'{path}' holds no tokens of a text: nla-explain --text TEXT --positions all writes them")
        self.kind = "fve" if all(number(s.get("fve")) is not None for one in self.samples.values() for s in one) else "cosine"

    def value(self, at):
        """Mean over a token's samples; None where there is none."""
        found = [number(s.get(self.kind)) for s in self.samples.get(at, [])]
        return stats.mean([v for v in found if v is not None])

    def kept(self, at):
        """Mean share of the words of a sample that another of the same token has too."""
        said = [words(text_of(s)) for s in self.samples.get(at, []) if not s.get("failed")]
        return average([kept(a, b) for a, b in itertools.permutations(said, 2)])


def text_of(sample):
    return next((sample[key] for key in ("explanation", "response") if isinstance(sample.get(key), str)), "")


def token_link(run, at, word):
    value = run.value(at)
    cls, style = ("below", "") if value is not None and value < 0 else ("none", "") if value is None else ("", f' style="--v:{min(round(value * STEPS) / STEPS, 1):g}"')
    said = f"{word} {show(value, 2)}"
    return f'<a class="t {cls}" href="#t{at}" title="{said}"{style}>{visible(run.tokens[at])}</a>'


def text_block(run, word):
    """The text as its tokens; where some were not asked for there is a gap."""
    out, last = "", -1
    for at in sorted(run.tokens):
        out += ('<span class="gap">\u2026</span>' if at > last + 1 and last >= 0 else "") + token_link(run, at, word)
        last = at
    every = [s for one in run.samples.values() for s in one]
    failed = sum(bool(s.get("failed")) for s in every)
    facts = [f"mean {word} {show(stats.mean([v for v in map(run.value, run.tokens) if v is not None]), 2)}",
             f"{show(stats.mean([number(s.get('response_tokens')) or 0 for s in every]), 0)} tokens a response"]
    facts += [f"{failed} of {len(every)} failed"] if failed else []
    if len(every) > len(run.tokens):
        facts += agreement(average(map(run.kept, run.tokens)), average([number(s.get("agreement")) for s in every]))
    return f'<section><h2>{visible(run.name)}</h2><p class="note">{"; ".join(facts)}</p><p class="text" dir="auto">{out}</p></section>'


def agreement(share, cosine):
    """Of several samples of a token: words kept between two, and the cosine of two reconstructions."""
    return ([f"two samples share {percent(share)} of their words"] if share is not None else []) + (
        [f"cosine of their reconstructions {show(cosine, 2)}"] if cosine is not None else [])


def cell(run, at, word):
    samples = run.samples.get(at, [])
    if not samples:
        return f'<div class="cell"><h4><span class="key">{visible(run.name)}</span><span>not explained</span></h4></div>'
    head = f"{word} {show(run.value(at), 2)}"
    body = "".join("<p>" + (f"<span>{show(number(s.get(run.kind)), 2)}</span>" if len(samples) > 1 else "")
                   + (f"<em>failed: {visible(str(s['failed']))}</em> " if s.get("failed") else "") + visible(text_of(s), True) + "</p>" for s in samples)
    together = agreement(run.kept(at), number(samples[0].get("agreement"))) if len(samples) > 1 else []
    note = f'<p class="note">{"; ".join(together)}</p>' if together else ""
    count = number(samples[0].get("response_tokens"))
    head += f", {show(count, 0)} tokens" if len(samples) == 1 and count is not None else ""
    return f'<div class="cell"><h4><span class="key">{visible(run.name)}</span><span>{head}</span></h4>{body}{note}</div>'


def same_text(runs):
    """Every position's token, which the runs must agree on."""
    tokens = {}
    for run in runs:
        for at, token in run.tokens.items():
            if tokens.setdefault(at, token) != token:
                first = next(r for r in runs if at in r.tokens)
                raise Error(f"the files are of different texts: token {at} is '{first.tokens[at]}' in '{first.name}' and '{token}' in '{run.name}'")
    return tokens


def build(title, runs):
    tokens = same_text(runs)
    word = "FVE" if all(run.kind == "fve" for run in runs) else "cosine"
    for run in runs:
        run.kind = word.lower()
    order, articles, rules = sorted(tokens), "", ""
    for i, at in enumerate(order):
        ways = "".join(f'<a href="#t{order[j]}" aria-label="{name} token">{sign}</a>' for j, name, sign in ((i - 1, "previous", "\u2190"), (i + 1, "next", "\u2192"))
                       if 0 <= j < len(order))
        articles += (f'<article id="t{at}"><h3><span>token {at} <code>{visible(tokens[at])}</code></span><nav>{ways}</nav></h3>'
                     f'<div class="cells">{"".join(cell(run, at, word) for run in runs)}</div></article>')
        rules += f'body:has(#t{at}:target) .text [href="#t{at}"]{{outline:2px solid var(--ink)}}'
    scale = "".join(f'<span class="t" style="--v:{v / STEPS:g}"></span>' for v in range(STEPS + 1))
    css = (HERE / "page.css").read_text("utf-8") + colour_rules(1) + CSS + rules
    return ('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">'
            f'<title>{visible(title)}</title><style>{css}</style></head><body><main><header><h1>{visible(title)}</h1>'
            f'<p class="scale">{word} 0 {scale}<span>1</span><span class="t below"></span><span>below 0</span></p></header>'
            f'<div class="texts">{"".join(text_block(run, word) for run in runs)}</div></main>'
            f'<aside class="read" aria-label="explanations"><p class="hint">Pick a token to read its explanation.</p>{articles}</aside></body></html>\n')
