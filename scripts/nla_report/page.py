"""The report as one HTML file: figures, tables and a browser of explanations. Whatever comes from a file is escaped."""

import re
from html import escape
from pathlib import Path

from . import compare, facts, figures, words
from .compare import excluded, percent, show, show_interval, show_level
from .runs import at, number
from .stats import widest

HERE = Path(__file__).parent
LISTED = 5                                                              # rows of a page without JavaScript

# Of equal lightness, ordered by hue: lambda 0 first, the strongest penalty last; on paper and in the dark.
LIGHT = ("#27509b", "#1f7a8c", "#3d7d46", "#8a6d0f", "#b1541d", "#a0304f", "#6d3a8f")
DARK = ("#8db4f5", "#66c6d8", "#8fcf97", "#dcbf5e", "#f19a66", "#f08aa5", "#c79ae8")


def palette(n):
    """n places spread over the colours."""
    def mix(colours, t):
        i = min(int(t), len(colours) - 2)
        a, b = (tuple(int(c[k:k + 2], 16) for k in (1, 3, 5)) for c in colours[i:i + 2])
        return "#" + "".join(f"{round(x + (t - i) * (y - x)):02x}" for x, y in zip(a, b))
    places = [i * (len(LIGHT) - 2) / max(n - 1, 1) for i in range(n)]
    return [mix(LIGHT, t) for t in places], [mix(DARK, t) for t in places]


def colour_rules(n):
    light, dark = palette(n)
    def rules(colours):
        return "".join(f".g{i}{{--c:{c}}}" for i, c in enumerate(colours))
    return f"{rules(light)}@media screen and (prefers-color-scheme:dark){{{rules(dark)}}}"


def table(head, rows, cls="", first=True):
    """Cells are HTML already."""
    def row(tag, cells):
        return "<tr>" + "".join(f"<th scope=row>{c}</th>" if tag == "td" and first and i == 0 else
                                f"<th scope=col>{c}</th>" if tag == "th" else f"<td>{c}</td>" for i, c in enumerate(cells)) + "</tr>"
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="table"><table class="{cls}"><thead>{row("th", head)}</thead><tbody>'
            + "".join(row("td", r) for r in rows) + "</tbody></table></div>")


def key(label, colours):
    return f'<span class="key {colours[label]}">{escape(label)}</span>'


def chart_head(result, colours):
    """A sentence a lambda: what it saves, how much fails, what it loses, which losses the data exclude. Of the rows that did
    not fail, unless a side fails more: who fails where it is hard looks good there."""
    by_label, out = {g["label"]: g for g in result["groups"]}, []
    for g in result["groups"]:
        d = g["difference"]
        base = by_label[d["to"]] if d else g
        if g["role"] != "lambda" or not d or not d["tokens"] or not d["tokens_of"]:
            continue
        fve, whole = d["fve"] or d["fve_meannorm"], d["fve_all"] or d["fve_all_meannorm"]
        was, change = d["tokens_of"], d["tokens"]["estimate"]           # of the seeds that make pairs
        apart = not fve or abs(g["failed_rate"] - base["failed_rate"]) > 0.01
        loss = excluded(whole if apart else fve)
        silent = "across settings" if g["setting"] != base["setting"] else "of one document"
        claim = f"{silent} nothing is claimed" if loss == "–" else \
            f'{"with failures " if apart else ""}a loss{"" if loss == "any" else " " + loss} is excluded'
        first = next((c for c in g["controls"] if c["name"] == "first" and c["difference"]), None)
        cut = f' {escape(first["label"].capitalize())}, differ by {estimated(first["difference"])} FVE.' if first else ""
        gone = "all rows failed" if g["failed_rate"] == 1 else "no row is valid on both sides"
        changes = f"FVE changes by {estimated(fve)}" if fve else gone
        out.append(f'<li>{key(g["label"], colours)} writes {was + change:.1f} tokens instead of {was:.1f} '
                   f'({show(100 * change / was, 0, True)} %), and {percent(g["failed_rate"], 1)} fail instead of '
                   f'{percent(base["failed_rate"], 1)}; {changes}, with failures by {estimated(whole)}: {claim}.{cut}</li>')
    return f'<ul class="findings">{"".join(out)}</ul>' if out else ""


def estimated(d):
    span = widest(d)
    return show(d["estimate"], 3, True) + (f" <span class=interval>{show_interval(span, 3)}</span>" if span else "")


def tables(result, colours):
    def swatch(rows):
        return [[key(r[0], colours) if r[0] in colours else escape(r[0]), *map(escape, r[1:])] for r in rows]
    head, rows = compare.said(*compare.level_rows(result))
    out = "<h2>Levels</h2>" + table(map(escape, head), swatch(rows))
    compared = [g for g in result["groups"] if g["difference"] and (g["difference"]["fve"] or g["difference"]["fve_meannorm"])]
    if compared:
        kind = "fve" if compared[0]["difference"]["fve"] else "fve_meannorm"
        main = [g for g in compared if g["role"] in ("lambda", "start")] or compared
        spans = [v for g in main for v in widest(g["difference"][kind]) or [g["difference"][kind]["estimate"]]] + [0.0]
        several = any(g["difference"][kind]["both"] for g in compared)
        body = []
        for g in compared:
            d, tokens, to = (g["difference"][k] for k in (kind, "tokens", "to"))
            change = "–" if not tokens or not g["difference"]["tokens_of"] else \
                f'{show(tokens["estimate"], 1, True)} ({show(100 * tokens["estimate"] / g["difference"]["tokens_of"], 0, True)} %)'
            failures = g["difference"]["fve_all" if kind == "fve" else "fve_all_meannorm"]
            body.append([key(g["label"], colours) + (f", less {escape(to)}" if to != result["base"] else ""),
                         show(d["estimate"], 3, True),
                         figures.sketch(d, (min(spans), max(spans) or 1e-9), colours[g["label"]]),
                         f'{g["difference"]["valid_rows"]} of {result["rows"]}', change,
                         show_interval(d["over_rows"], 3), *([show_interval(d["both"], 3), show_interval(d["careful"], 3)]
                                                             if several else []), excluded(d),
                         estimated(failures) if failures else "–"])
        head = ["", "FVE" if kind == "fve" else "FVE, mean-norm.", "", "rows", "tokens", "95 % over rows",
                *(["over rows and seeds", "careful"] if several else []), "losses excluded", "with failures"]
        out += (f'<h2>Paired differences to {escape(result["base"])}</h2>' + table(head, body)
                + '<p class="note">Thick: the interval over rows'
                + ("; thin: the one that losses are excluded by" if several else "") + ".</p>")
    for title, made, note in (
            ("Controls", compare.control_rows, "Texts that the same AR read in place of the explanations. Another row's vector: the AV explained the vector of another document. "
             "First words, as long: cut so that their mean tokens are those of the explanations, which they are compared with."),
            ("First words", compare.early_rows, "")):
        head, rows = compare.said(*made(result))
        if rows:
            out += f"<h2>{title}</h2>" + table(map(escape, ["", *head[1:]] if note else head), swatch(rows), "named" if note else "") + (f'<p class="note">{note}</p>' if note else "")
    head, rows = compare.said(*compare.wording_rows(result))
    labels = [g["label"] for g in result["groups"]]
    out += "<h2>Wording</h2>" + table(map(escape, head), [[key(label, colours) + escape(r[0].removeprefix(label)), *map(escape, r[1:])]
                                                         for label, r in zip(labels, rows)])
    out += (f'<p class="note">Kept: the share of the words of {escape(result["base"])}\'s explanation that the other explanation of the same row has too; beside it '
            "the share that an explanation of another row has. Found: the share of the shorter explanation's own words. Where everything was the same but the seed, "
            "the line of two seeds says what is kept.</p>")
    return out


def facts_section(result, colours):
    """What explanations state, where that was checked."""
    found = facts.tables(result, show)
    if not found:
        return ""
    claims = "".join(f"<li>{key(g['label'], colours)} changes the true facts that an explanation states by {changed(g, 'true')}, the false ones by {changed(g, 'false')}, "
                     f"the words of no fact by {changed(g, 'other_words')}: {escape(first_gone(g['facts']['other_less_true']))}.</li>"
                     for g in facts.with_facts(result, ("lambda",)) if g["facts"].get("other_less_true"))
    swatches = [table(map(escape, head), [[key(r[0], colours) if r[0] in colours else escape(r[0]), *map(escape, r[1:])] for r in rows]) for head, rows in found]
    legend = " ".join(key(g["label"], colours) for g in facts.with_facts(result, ("lambda", "start")))
    return (f'<h2>Facts</h2><ul class="findings">{claims}</ul>{swatches[0]}<div class="pair">'
            + figures.by_kind(result, colours, "recall", f"<b>Recall.</b> Of the facts that the text has told, the share that explanations state. The tick: by chance. {legend}")
            + figures.by_kind(result, colours, "precision", "<b>Precision.</b> Of the facts that explanations state, the share that is true. The tick: by chance.")
            + "</div>" + "".join(swatches[1:]))


def changed(group, what):
    return facts.cell(group["facts"].get(f"{what}_change"), show, 0, True, 100).split(" ")[0] + " %"


def first_gone(d):
    """Which goes faster, true facts or words that state none, if the interval tells them apart."""
    low, high = d["interval"] or (0, 0)
    said = "the words go first" if high < 0 else "the facts go first" if low > 0 else "neither goes first"
    return f"{said}, by {facts.cell(d, show, 0, True, 100)} points"


# ---- the browser of explanations ----

def marked(text):
    """The text with its last word, which holds the explained token, marked."""
    m = re.search(r"(\w+|[^\w\s]+|\s+)\Z", text)
    return f"{escape(text[:m.start()])}<mark>{escape(m[0])}</mark>" if m else escape(text)


def struck(old, new):
    out = []
    for op, part in words.differences(old, new):
        body = escape(part.strip())
        out.append(body if op == "=" else f"<del>{body}</del>" if op == "-" else f"<ins>{body}</ins>")
    return " ".join(x for x in out if x)


def first_sample(evaluation, row):
    return evaluation.rows[row][0]


def row_values(comparison, group, i):
    """Mean FVE of the i-th row over seeds and samples, failures in."""
    values = [t.all[i] for t in comparison.of(group)]
    return 1 - sum(values) / len(values) / (comparison.var or comparison.mean)


def browser(comparison, texts, colours, limit):
    shown = [g for g in comparison.groups if g.role == "lambda"] or comparison.groups
    base = comparison.base if comparison.base in shown else shown[0]
    last = shown[-1]
    order = []
    for i, row in enumerate(comparison.rows):
        fve = {g.label: row_values(comparison, g, i) for g in shown}
        order.append((fve[base.label] - fve[last.label], i, row, fve))
    order.sort(key=lambda x: (-x[0], x[2]))
    left_out = len(order) - limit
    if left_out > 0:                                                    # every n-th in this order: the middle too
        order = [order[i * len(order) // limit] for i in range(limit)]
    articles = [article(comparison, shown, base, row, fve, texts.get(row), colours) for _, _, row, fve in order]
    options = [f'<option value="lost{k}">lost most by {escape(g.label)}</option>' for k, g in reversed(list(enumerate(shown))) if g is not base]
    options += [f'<option value="kept{k}">gained most by {escape(g.label)}</option>' for k, g in reversed(list(enumerate(shown))) if g is not base]
    options += [f'<option value="low">lowest FVE of {escape(base.label)}</option>', '<option value="row">row</option>']
    note = f"{len(order)} of {len(comparison.rows)} rows, evenly from those that lost most to those that gained most. " if left_out > 0 else ""
    return (f'<section id="rows"><h2>Explanations</h2><p>{note}The last word of the text, which holds the explained token, is marked. '
            f'Struck out is what {escape(base.label)} wrote and the other did not; underlined is what only the other wrote. Each is the first sample of the first seed; '
            "rows are ordered by the FVE that they lost, mean over seeds and samples.</p>"
            '<input type="checkbox" id="plain"><label for="plain">plain, without the struck words</label>'
            f'<noscript><p class="note">With JavaScript all rows can be picked and sorted; these are the first {min(LISTED, len(order))}.</p></noscript>'
            f'<div class="browser"><div class="picker" hidden><label>order <select id="sort">{"".join(options)}</select></label>'
            '<label>find <input id="find" type="search" placeholder="a word"></label><ol id="list"></ol></div>'
            f'<div id="shown">{"".join(articles[:LISTED])}</div></div><template id="more">{"".join(articles[LISTED:])}</template></section>')


def article(comparison, shown, base, row, fve, text, colours):
    zero = first_sample(base.evaluations[0], row)["explanation"] or ""
    cells = []
    for g in shown:
        s = first_sample(g.evaluations[0], row)
        own = 1 - s["mse"] / (comparison.var or comparison.mean)
        if s["failed"]:
            body = f'<em>failed: {escape(s["failed"])}</em> {escape(s["response"] or s["explanation"] or "")}'
        else:
            body = escape(s["explanation"] or "") if g is base else struck(zero, s["explanation"] or "")
        tokens = s["tokens"] if s["tokens"] is not None else s["explanation_tokens"]
        cells.append(f'<div class="cell"><h4>{key(g.label, colours)}<span>{show(tokens, 0)} tokens, FVE {show(own, 2)}</span></h4><p>{body}</p></div>')
    lost = ",".join(f"{fve[base.label] - fve[g.label]:.4f}" for g in shown)
    context = f'<blockquote>{marked(text)}</blockquote>' if text else '<p class="note">The set\'s texts are not here (--data SET).</p>'
    return (f'<article id="row-{row}" data-row="{row}" data-lost="{lost}" data-fve="{fve[base.label]:.4f}"><h3>Row {row}</h3>{context}'
            f'<div class="cells">{"".join(cells)}</div></article>')


# ---- what else a page has ----

def run_table(runs):
    body = []
    for r in runs:
        last = r.metrics[-1] if r.metrics else {}
        steps = at(r.config, "steps")
        done = f'{last.get("step", "–")}' + (f" of {steps}" if number(steps) is not None and r.kind == "train" else "")
        hours = sum(number(m.get("seconds")) or 0 for m in r.metrics) / 3600
        used = Path(r.evaluation.path).name if r.evaluation else "–"
        value = f"{r.lambda_:g}" if r.kind == "train" and r.lambda_ is not None else "–"
        made = " ".join(str(at(r.config, f"_made_by.{k}") or "")[:12] for k in ("version", "commit")).strip() or "–"
        body.append([escape(r.name), {"train": "nla-train", "start": "nla-train", "sft": "nla-sft", "eval": "evaluation"}[r.kind], value, escape(str(r.seed if r.seed is not None else "–")),
                     escape(done) if r.kind != "eval" else "–", show(hours, 2) if r.metrics else "–", escape(used), escape(made)])
    return "<h2>Runs</h2>" + table(["", "of", "lambda", "seed", "steps", "hours", "evaluation", "made by"], body)


def latest_samples(runs):
    """Of runs that have no evaluation yet: what they wrote last."""
    out = ""
    for r in (r for r in runs if r.kind == "train" and not r.evaluation):
        samples = [(f'step {s.get("step")}, row {s.get("row")}: {show(number(s.get("tokens")), 0)} tokens, '
                    + (f'failed: {s["failed"]}' if s.get("failed") else f'FVE {show(number(s.get("fve")), 2)}'), s.get("response") or "") for s in r.samples()[-4:]]
        if samples:
            out += f"<h3>{escape(r.name)}</h3>" + "".join(f'<p><span class="note">{escape(what)}</span><br>{escape(str(text))}</p>' for what, text in samples)
    return f"<h2>Last samples</h2>{out}" if out else ""


def methods(result):
    return "<h2>How the numbers are made</h2>" + "".join(f"<p>{escape(text)}</p>" for text in compare.footing(result)) + (
        "<p>Every evaluation is of the same rows, so a difference is taken row by row and a draw of rows holds for all runs; over both means that rows and seeds are "
        "drawn crosswise. Several samples of a row are averaged first. FVE without failures compares the rows that have a "
        "valid sample in some run of either side, each averaged over its side's runs (what failed there is filled in by row "
        "and run); with failures every row counts, a failed one at the mse that the run gave it.</p>")


def build(title, runs, comparison, result, texts, notes, rows=500, refresh=0, stamp=""):
    labels = [g.label for g in comparison.groups] if comparison else []
    graded = [g for g in comparison.groups if g.role == "lambda"] if comparison else []
    group_of = {id(r): g.label for g in graded for r in g.runs}
    left = [r for r in runs if r.kind == "train" and id(r) not in group_of]
    colours = {label: "quiet" for label in labels} | {g.label: f"g{i}" for i, g in enumerate(graded)}
    if comparison and not graded:
        colours = {label: f"g{i}" for i, label in enumerate(labels)}
    values = sorted({r.lambda_ for r in left if r.lambda_ is not None})
    known = {g.lambda_: colours[g.label] for g in graded}
    by_value = known | {v: f"g{len(known) + i}" for i, v in enumerate(v for v in values if v not in known)}

    def colour_of(r):
        return colours[group_of[id(r)]] if id(r) in group_of else by_value.get(r.lambda_, "ink")
    body = [f"<header><h1>{escape(title)}</h1><p>{escape(stamp)}</p></header>"]
    if notes:
        body.append('<ul class="notes">' + "".join(f"<li>{escape(n)}</li>" for n in notes) + "</ul>")
    if comparison:
        evaluations = {g.label: g.evaluations for g in comparison.groups}
        body += [chart_head(result, colours), '<div class="pair">', figures.curve(result, colours), figures.losses(result, colours), figures.early(result, colours),
                 figures.extras(result, evaluations, colours), "</div>", tables(result, colours), facts_section(result, colours)]
    training = figures.training(runs, colour_of)
    if training:
        legend = " ".join(dict.fromkeys(f'<span class="key {colour_of(r)}">{escape(group_of.get(id(r)) or (f"λ {r.lambda_:g}" if r.lambda_ is not None else r.name))}</span>'
                                        for r in sorted((r for r in runs if r.kind == "train" and r.metrics), key=lambda r: (r.lambda_ is None, r.lambda_ or 0))))
        body += [f"<h2>Training</h2><p>{legend}. Over the steps, a line a run: the running mean, the single steps faint; circles: evaluations on held-out rows.</p>", training, figures.seconds(runs)]
    warm = figures.warm_starts(runs)
    body += [f"<h2>Warm start</h2>{warm}"] if warm else []
    body += [latest_samples(runs), browser(comparison, texts, colours, rows) if comparison else "", methods(result) if comparison else "", run_table(runs)]
    css = (HERE / "page.css").read_text("utf-8") + colour_rules(max(len(graded) or len(labels), len(by_value), 1))
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    return ('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'; '
            f'script-src \'unsafe-inline\'">{again}<title>{escape(title)}</title><style>{css}</style></head><body><main>{"".join(body)}</main>'
            f'<script>{(HERE / "page.js").read_text("utf-8")}</script></body></html>\n')
