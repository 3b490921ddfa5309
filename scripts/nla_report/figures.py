"""The figures of a report: numbers of a comparison and of runs -> SVG, with a caption each."""

import json
import math
from html import escape
from itertools import accumulate
from pathlib import Path

from . import controls, facts, stats
from .compare import METRICS, percent, show, show_interval
from .runs import number
from .stats import widest
from .svg import Plot, padded

STAGES = ("rollout", "score", "update", "eval", "checkpoint")
PANELS = (("fve", "FVE of the batch", False), ("response_tokens_mean", "response tokens", True), ("reward_mean", "reward", False),
          ("kl", "KL to the start", True), ("entropy", "entropy, nats a token", False), ("failed_rate", "failed rows", True))
HELD = {"fve": "fve", "response_tokens_mean": "response_tokens"}        # what an evaluation calls it


def reference():
    return json.loads((Path(__file__).parent / "published.json").read_text("utf-8"))


def figure(svg, caption, cls=""):
    return f'<figure class="{cls}">{svg}<figcaption>{caption}</figcaption></figure>'


def curve(result, colours):
    """Tokens against FVE; the second scale is the same FVE by the other baseline."""
    key = "fve" if result["baseline_var"] else "fve_meannorm"
    points = [p for p in (place(g, key, result["groups"]) for g in result["groups"]) if p]
    if not points:
        return ""
    main = [p for p in points if p[0]["role"] in ("lambda", "start")] or points
    ends = [v for _, x, y, xs, ys in main for v in (ys or (y,))]
    low, high = min(ends), max(ends)                                    # a control that collapsed must not flatten the curve

    def inside(p):
        return low - (high - low) / 2 <= p[2] <= high + (high - low) / 2
    below, points = [p for p in points if not inside(p)], [p for p in points if inside(p)]
    cut = [p for p in cuts(main, key) if inside(p)]
    seeds = [(g, *at) for g, *_ in points for at in each_seed(g, key)]
    ends = [v for _, x, y, xs, ys in points for v in (ys or (y,))] + [y for _, _, y, _ in cut] + [y for *_, y in seeds]
    across = [v for _, x, y, xs, ys in points for v in (xs or (x,))] + [x for _, x, _ in seeds]
    both = result["baseline_var"] and result["baseline_mean"]
    ratio = result["baseline_var"] / result["baseline_mean"] if both else 1
    plot = Plot(480, 340, padded(across), padded(ends), top=30, right=54 if both else 16)
    plot.axes("response tokens, mean", "FVE, raw variance" if both or key == "fve" else "FVE, mean-normalised",
              (lambda v: 1 - (1 - v) * ratio, lambda v: 1 - (1 - v) / ratio) if both else None, "mean-normalised")
    for line in joined(points):
        plot.line(line, "faint", 1.2)
        plot.block(line)
    for g, x, y, xs, ys in points:
        plot.cross(x, y, xs, ys, colours[g["label"]])
    for g, x, y, _ in cut:
        plot.dot(x, y, colours[g["label"]], 2.5, hollow=True)
    for g, x, y in seeds:
        plot.dot(x, y, colours[g["label"]], 1.8)
    for g, x, y, xs, ys in points:
        plot.dot(x, y, colours[g["label"]], hollow=g["role"] != "lambda", square=g["role"] == "start",
                 title=f"{g['label']}: {x:.1f} tokens, FVE {y:.3f}")
    for g, x, y, _, _ in points:
        plot.label(x, y, g["label"], colours[g["label"]])
    said = "; ".join(f"{g['label']}: {x:.1f} tokens, FVE {y:.3f}" for g, x, y, _, _ in points)
    kinds = {g["role"] for g, *_ in points}
    caption = ("<b>FVE against tokens.</b> Bars are 95 % intervals of each mean over rows" + ("; small dots: single seeds." if seeds else ".")
               + (" Both scales show the same points: they differ in the baseline alone." if both else "")
               + (" Square: the warm start, before RL." if "start" in kinds else "")
               + (f" Small circles: {escape(cut[0][3])} as its explanations." if cut else "")
               + (" Hollow circles: controls and other evaluations." if kinds & {"named", "other"} else "")
               + (" Outside the frame: " + ", ".join(f"{escape(g['label'])} ({show(y, 3)})" for g, _, y, _, _ in below) + "." if below else ""))
    return figure(plot.render("curve", "FVE against response tokens", said), caption)


def joined(points):
    """[(x, y), ..] of (group, x, y, ..), a list for every configuration, whose lambdas a line joins."""
    found = {}
    for g, x, y, *_ in points:
        if g["role"] == "lambda" and g["lambda"] is not None:
            found.setdefault(str(g["setting"]), []).append((x, y))
    return list(found.values())


def each_seed(group, key):
    """(tokens, FVE) of each of several runs."""
    both = [group[name]["each"] if group[name] else [] for name in ("tokens", key)]
    return list(zip(*both)) if len(both[0]) == len(both[1]) > 1 else []


def cuts(points, key):
    """The first words of the base's explanations, as long as those of each of `points`."""
    out = []
    for g, x, *_ in points:
        first = next((c for c in g["controls"] if c["name"] == "first" and c[key] is not None), None)
        if first and None not in (first["explanation_tokens"], first["explanation_tokens_of"]):
            out.append((g, x + first["explanation_tokens"] - first["explanation_tokens_of"], first[key], first["label"]))
    return out


def early(result, colours):
    """FVE of the first 2, 4, .. words of every explanation, up to all of them."""
    key = "fve" if result["baseline_var"] else "fve_meannorm"
    lines = []
    for g in result["groups"]:
        points = [(c["explanation_tokens"], c[key]) for c in g["controls"] if c["name"] in controls.CUTS or not c["name"]]
        points = [p for p in points if None not in p]
        if len(points) > 1:
            lines.append((g, sorted(points)))
    if not lines:
        return ""
    plot = Plot(480, 340, padded([x for _, points in lines for x, _ in points], zero=True), padded([y for _, points in lines for _, y in points]), top=30)
    plot.axes("explanation tokens, mean", "FVE, raw variance" if key == "fve" else "FVE, mean-normalised")
    for g, points in lines:
        plot.line(points, colours[g["label"]], 1.3)
        plot.block(points)
    for g, points in lines:
        for x, y in points[:-1]:
            plot.dot(x, y, colours[g["label"]], 2.5, hollow=True)
        plot.dot(*points[-1], colours[g["label"]], square=g["role"] == "start", hollow=g["role"] != "lambda")
    for g, points in lines:
        plot.label(*points[-1], g["label"], colours[g["label"]])
    said = "; ".join(f"{g['label']}: {', '.join(f'{x:.1f} tokens {show(y, 3)}' for x, y in points)}" for g, points in lines)
    counts = ", ".join(map(str, controls.CUTS.values()))
    return figure(plot.render("early", "FVE of the first words", said), f"<b>How early the information comes.</b> FVE of the first {counts} words of "
                  "every explanation alone, and of all of it, against their mean tokens.")


def over(result):
    return ", over rows and seeds" if any(g["runs"] > 1 for g in result["groups"]) else ", over rows"


def place(group, key, groups):
    """Texts that were given have no response: they stand at their own tokens and those that tags and stop token took of others."""
    tokens, fve = group["tokens"], group[key]
    if not tokens and group["explanation_tokens"]:
        around = next((g["tokens"]["mean"] - g["explanation_tokens"]["mean"] for g in groups if g["tokens"] and g["explanation_tokens"]), 0.0)
        own = group["explanation_tokens"]
        tokens = {"mean": own["mean"] + around, "interval": own["interval"] and tuple(v + around for v in own["interval"])}
    return (group, tokens["mean"], fve["mean"], tokens["interval"], fve["interval"]) if tokens and fve else None


def losses(result, colours):
    """Against lambda 0: tokens saved and FVE lost, in which runs of any model can stand next to each other."""
    by_label = {g["label"]: g for g in result["groups"]}
    base, points = by_label[result["base"]], []
    for g in result["groups"]:
        d = g["difference"]
        own = by_label[d["to"]] if d else base
        if g["role"] == "lambda" and d and d["tokens"] and d["fve_meannorm"] and d["tokens_of"] \
                and own["setting"] in (g["setting"], ()):
            y = d["fve_meannorm"]["estimate"]
            points.append((g, 1 + d["tokens"]["estimate"] / d["tokens_of"], y, widest(d["fve_meannorm"]) or (y, y)))
    if not points or base["lambda"] is None:
        return ""
    published = reference()["points"] if base["lambda"] == 0 else []    # whose differences are to 0
    zero = next((p["tokens"]["mean"] for p in published if p["lambda"] == 0), None)
    known = [(1 + p["difference"]["tokens"]["estimate"] / zero, p["difference"]["fve_meannorm"]["estimate"], p["difference"]["fve_meannorm"]["over_rows"],
              p["lambda"]) for p in published if p["difference"] and p["lambda"] is not None]
    low = min(0.0, *(min(y, s[0]) for _, _, y, s in points))
    high = max(0.0, *(max(y, s[1]) for _, _, y, s in points))
    floor = min(2.2 * low, -0.06)                                       # the reference may leave the frame, never squeeze it
    shown = [k for k in known if floor <= k[1]]
    low, high = min([low, *(k[2][0] for k in shown)]), max([high, *(k[2][1] for k in shown)])
    plot = Plot(480, 340, (0.0, max(1.04, *(1.04 * x for _, x, _, _ in points))), padded((low, high), 0.06), top=30, left=56)
    whose = f"{base['label']}'s" if all(g["difference"]["to"] == base["label"] for g, *_ in points) else "its base's"
    plot.axes(f"response tokens, as a share of {whose}", f"FVE, mean-normalised, less {whose}", percent=False)
    plot.add(f'<path class="axis" d="M{plot.box[0]} {plot.sy(0):.1f}H{plot.box[2]}"/>')
    plot.taken.append((plot.width / 2, plot.sy(0), plot.width / 2, 1))
    plot.add('<g clip-path="url(#losses-clip)">')
    if known:
        plot.line([(x, y) for x, y, _, _ in reversed(known)] + [(1, 0)], "quiet", 1, ' stroke-dasharray="3 3"')
    for x, y, s, _ in shown:
        plot.cross(x, y, None, s, "quiet")
        plot.dot(x, y, "quiet", 2.5, hollow=True)
    plot.add("</g>")
    for line in joined(points):
        line = sorted([*line, (1.0, 0.0)])
        plot.line(line, "faint", 1.2)
        plot.block(line)
    plot.block([(x, y) for x, y, _, _ in reversed(shown)] + [(1, 0)])
    plot.dot(1.0, 0.0, colours[base["label"]])
    for g, x, y, s in points:
        plot.cross(x, y, None, s, colours[g["label"]])
        plot.dot(x, y, colours[g["label"]], title=f"{g['label']}: {x:.0%} of the tokens, {y:+.3f} FVE")
    for g, x, y, _ in points:
        plot.label(x, y, g["label"], colours[g["label"]])
    plot.label(1.0, 0.0, base["label"], colours[base["label"]])
    for x, y, _, value in shown:
        plot.label(x, y, f"{value:g}", "quiet", 10)
    said = "; ".join(f"{g['label']}: {100 * x:.0f} % of the tokens, FVE {show(y, 3, True)}" for g, x, y, _ in points)
    caption = f"<b>What is lost for what is saved</b>, row by row, with 95 % intervals{over(result)}." + (
        " Dashed: the published sweep on Qwen3-8B (1000 rows, one seed, intervals over rows)"
        + (", which goes on below the frame" if len(shown) < len(known) else "")
        + "; its lambda is in units of −mse." if known else "")
    return figure(plot.render("losses", "FVE lost against tokens saved", said, clip=True), caption)


def extras(result, evaluations, colours):
    """Recovered KL against tokens, where evaluations have it: {label: [evaluation, ..]}; and what goes first of what explanations state."""
    def recovered(g):
        found = [v for v in (number(e.summary.get("recovered_kl")) for e in evaluations[g["label"]]) if v is not None]
        return {"mean": stats.mean(found), "interval": None} if found else None

    def left(g, key):
        change = g["facts"] and g["facts"].get(f"{key}_change")
        if not change:
            return {"mean": 100, "interval": None} if g["facts"] and not g["difference"] else None
        return {"mean": 100 + 100 * change["mean"], "interval": tuple(100 + 100 * v for v in change["interval"] or ()) or None}
    out = extra_plot("kl", "Recovered KL", "share of the KL recovered", [("", "", [(g, recovered(g)) for g in result["groups"]])], colours,
                     "<b>Recovered KL.</b> The share of the mean vector's KL that the reconstruction recovers, in the target's own next-token distribution.")
    if not facts.with_facts(result):
        return out
    series = [(name, dash, [(g, left(g, key)) for g in result["groups"]])
              for key, name, dash in (("true", "true facts", ""), ("false", "false facts", "2 3"), ("other_words", "words of no fact", "6 3"))]
    return out + extra_plot("first", "What goes first", f"left of {result['base']}'s, %", series, colours,
                            f"<b>What goes first</b>: the facts that an explanation states, true and false, and the words that state none, of {escape(result['base'])}'s, "
                            f"with 95 % intervals{over(result)}.")


def extra_plot(name, title, ylabel, series, colours, caption):
    series = [(what, dash, [(g, g["tokens"]["mean"], y["mean"], y["interval"]) for g, y in points if y and g["tokens"] and g["role"] in ("lambda", "start")])
              for what, dash, points in series]
    series = [s for s in series if s[2]]
    if not series:
        return ""
    every = [p for _, _, points in series for p in points]
    plot = Plot(480, 290, padded([p[1] for p in every]), padded([v for p in every for v in (p[2], *(p[3] or ()))], zero=True), top=30)
    plot.axes("response tokens, mean", ylabel)
    for _, dash, points in series:
        for line in map(sorted, joined(points)):
            plot.line(line, "faint", 1.2, f' stroke-dasharray="{dash}"' if dash else "")
            plot.block(line)
        for g, x, y, interval in points:
            plot.cross(x, y, None, interval, colours[g["label"]])
            plot.dot(x, y, colours[g["label"]], hollow=g["role"] != "lambda", square=g["role"] == "start")
    for what, _, points in series if len(series) > 1 else []:
        _, x, y, _ = min(points, key=lambda p: p[1])                    # where they are apart
        plot.label(x, y, what, "quiet")
    for g, x, y, _ in series[0][2]:
        plot.label(x, y, g["label"], colours[g["label"]])
    said = "; ".join(f"{what}, {g['label']}: {y:.3f}" for what, _, points in series for g, _, y, _ in points)
    return figure(plot.render(name, title, said), caption)


def by_kind(result, colours, what, caption):
    """A line a kind of fact, a dot a group: the share from 0 to 1, and by chance as a tick."""
    groups = facts.with_facts(result, ("lambda", "start")) or facts.with_facts(result)[:1]
    kinds = list(groups[0]["facts"]["kinds"])
    if not kinds:
        return ""
    step = 12 + 5 * len(groups)
    plot = Plot(480, step * len(kinds) + 34, (0.0, 1.0), (len(kinds), 0.0), left=min(18 + 7 * max(map(len, kinds)), 160), top=8, bottom=26, right=12)
    for v in (0, 0.25, 0.5, 0.75, 1):
        plot.add(f'<path class="grid" d="M{plot.sx(v):.1f} {plot.box[1]}V{plot.box[3]}"/>')
        plot.text(plot.sx(v), plot.height - 8, f"{v:g}", "tick", "middle")
    said = []
    for row, kind in enumerate(kinds):
        plot.text(plot.box[0] - 12, plot.sy(row + 0.5) + 4, kind if len(kind) < 22 else kind[:20] + "…", "name", "end")
        chance = groups[0]["facts"]["kinds"][kind][f"{what}_by_chance"]
        if chance is not None:
            plot.add(f'<path class="axis" d="M{plot.sx(chance):.1f} {plot.sy(row + 0.12):.1f}V{plot.sy(row + 0.88):.1f}"/>')
        for i, g in enumerate(groups):
            of = g["facts"]["kinds"][kind][what]
            if of:
                y = row + 0.5 + (i - (len(groups) - 1) / 2) * 5 / step
                plot.cross(of["mean"], y, tuple(min(max(v, 0.0), 1.0) for v in of["interval"] or ()), None, colours[g["label"]])
                plot.dot(of["mean"], y, colours[g["label"]], 2.6, hollow=g["role"] != "lambda", square=g["role"] == "start",
                         title=f"{kind}, {g['label']}: {show(of['mean'], 2)}")
                said.append(f"{kind}, {g['label']}: {show(of['mean'], 2)}")
    return figure(plot.render(what, f"{what} of facts by kind", "; ".join(said)), caption)


def sketch(d, span, cls):
    """A difference as a dot with its intervals, over rows thick and the widest thin; span: of all of the table."""
    low, high = span
    if not low <= d["estimate"] <= high:
        return ""

    def at(v):
        return 4 + (v - low) / (high - low) * 152
    parts = [f'<path class="grid" d="M{at(0):.1f} 0V18"/>']
    for span, width in ((widest(d), 1.2), (d["over_rows"], 3.5)):
        if span:
            parts.append(f'<path class="line {cls}" stroke-width="{width}" d="M{at(span[0]):.1f} 9H{at(span[1]):.1f}"/>')
    parts.append(f'<circle class="dot {cls}" cx="{at(d["estimate"]):.1f}" cy="9" r="3.6"/>')
    text = f"{show(d['estimate'], 3, True)}, 95 % over rows {show_interval(d['over_rows'], 3)}"
    return f'<svg class="sketch" viewBox="0 0 160 18" role="img" aria-label="{escape(text)}">{"".join(parts)}</svg>'


# ---- training ----

def running(points, width):
    """Centred means over `width` neighbours."""
    there = [y for _, y in points if y is not None]
    at, sums = [0, *accumulate(int(y is not None) for _, y in points)], [0.0, *accumulate(there)]
    out, half = [], width // 2
    for i, (x, _) in enumerate(points):
        first, end = at[max(0, i - half)], at[min(len(points), i + half + 1)]
        out.append((x, (sums[end] - sums[first]) / (end - first) if end > first else None))
    return out


def thinned(points, lines):
    """What a panel of some hundred pixels can show, of many lines less of each."""
    return points[::len(points) // max(200, 20000 // lines) + 1]


def training(runs, colour_of):
    """A panel a quantity, a line a run: points as they were, and their running mean."""
    runs = [r for r in runs if r.kind == "train" and r.metrics]
    out = ""
    for key, name, zero in PANELS:
        lines = [(r, [(m["step"], number(m.get(key))) for m in r.metrics]) for r in runs]
        lines = [(r, points) for r, points in lines if any(y is not None for _, y in points)]
        if not lines:
            continue
        held = [(r, step, number(e.get(HELD.get(key, "")))) for r, _ in lines for step, e in r.held]
        held = [(r, s, y) for r, s, y in held if y is not None]
        ys = [y for _, points in lines for _, y in points] + [y for _, _, y in held]
        steps = [x for _, points in lines for x, _ in points]
        plot = Plot(330, 190, (min([0, *steps]), max([1, *steps])), padded(ys, zero=zero), left=52, right=8, top=26, bottom=32)
        plot.axes("", name, yticks=4, xticks=4)
        for r, points in lines:
            width = max(1, len(points) // 15) | 1
            if width > 1:
                plot.line(thinned(points, len(lines)), colour_of(r), 0.8, f' opacity="{0.28 * min(1, 6 / len(lines)):.2f}"')
            plot.line(thinned(running(points, width), len(lines)), colour_of(r), 1.5)
            if len(points) == 1:
                plot.dot(*points[0], colour_of(r), 2)
        for r, s, y in held:
            plot.dot(s, y, colour_of(r), 2.6, hollow=True)
        said = "; ".join(f"{r.name}: {last_of(points)}" for r, points in lines)
        out += plot.render(f"train-{key}", name, f"Last values. {said}")
    return f'<figure class="small">{out}</figure>' if out else ""


def last_of(points):
    return next((f"{y:.4g}" for _, y in reversed(points) if y is not None), "none")


def warm_starts(runs):
    """nla-sft: loss of the batches and on held-out documents."""
    out = ""
    for i, r in enumerate(r for r in runs if r.kind == "sft"):
        loss = [(m["step"], number(m.get("loss"))) for m in r.metrics]
        series = [(key, name, [(m["step"], number(m.get(key))) for m in r.metrics if number(m.get(key)) is not None])
                  for key, name in (("held_loss", "held out"), ("held_loss_other_vector", "another row's vector"), ("held_fve", "held-out FVE"))]
        for part, chosen in (("loss", [s for s in series if s[0] != "held_fve"]), ("fve", [s for s in series if s[0] == "held_fve"])):
            curves = [s for s in chosen if s[2]]
            if part == "fve" and not curves:
                continue
            ys = [y for _, _, points in curves for _, y in points] + ([y for _, y in loss] if part == "loss" else [])
            plot = Plot(330, 190, (0, max([1, *(m["step"] for m in r.metrics)])), padded(ys), left=52, right=8, top=26, bottom=32)
            plot.axes("", f"{r.name}: {'loss' if part == 'loss' else 'held-out FVE'}", yticks=4, xticks=4)
            if part == "loss":
                plot.line(loss, "quiet", 0.8, ' opacity="0.6"')
            for j, (key, name, points) in enumerate(curves):
                cls = "ink" if j == 0 else "g0"
                plot.line(points, cls, 1.4)
                plot.block(points)
                for x, y in points:
                    plot.dot(x, y, cls, 2.2)
                if part == "loss":
                    plot.label(*points[-1], name, cls, 11)
            out += plot.render(f"sft-{i}-{part}", f"{r.name}: {part}", f"Last loss {last_of(loss)}" + "".join(
                f"; {name} {last_of(points)}" for _, name, points in curves))
    return f'<figure class="small">{out}</figure>' if out else ""


def seconds(runs):
    """Mean seconds a step by stage, a bar a run."""
    bars = []
    for r in (r for r in runs if r.kind == "train" and r.metrics):
        means = [sum(number(m.get(f"seconds_{s}")) or 0 for m in r.metrics) / len(r.metrics) for s in STAGES]
        if sum(means):
            bars.append((r, means))
    if not bars:
        return ""
    longest, step = max(sum(m) for _, m in bars), 20
    label = min(230, 14 + 7 * max(len(r.name) for r, _ in bars))
    plot = Plot(560, 34 + step * len(bars), (0, longest), (0, 1), left=label, right=70)
    x = 4.0
    for i, s in enumerate(STAGES):
        plot.add(f'<rect class="s{i}" x="{x:.1f}" y="4" width="10" height="10"/>')
        plot.text(x + 14, 13, s, "tick")
        x += 30 + 6.4 * len(s)
    for row, (r, means) in enumerate(bars):
        y, start = 28 + row * step, 0.0
        plot.text(label - 8, y + 11, r.name if len(r.name) < 31 else "…" + r.name[-29:], "tick", "end")
        for i, v in enumerate(means):
            plot.add(f'<rect class="s{i}" x="{plot.sx(start):.1f}" y="{y}" width="{plot.sx(start + v) - plot.sx(start):.1f}" height="14"/>')
            start += v
        plot.text(plot.sx(start) + 6, y + 11, f"{start:.3g} s", "tick")
    said = "; ".join(f"{r.name}: {', '.join(f'{s} {v:.3g} s' for s, v in zip(STAGES, means))}" for r, means in bars)
    return figure(plot.render("seconds", "Seconds a step by stage", said), "<b>Seconds a step</b> by stage, mean over the steps so far.", "wide")
