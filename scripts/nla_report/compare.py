"""Groups of evaluations -> levels, paired differences to one of them, wording: one dictionary, and its text, CSV and Markdown."""

import csv
import io
import json
import math
from pathlib import Path

from . import controls, facts, runs, stats, words
from .stats import widest

METRICS = ("fve", "fve_meannorm", "fve_all", "fve_all_meannorm", "fve_start_ar")
NAMES = {"tokens": "response tokens", "fve": "FVE", "fve_meannorm": "FVE, mean-normalised", "fve_all": "FVE with failures",
         "fve_all_meannorm": "FVE with failures, mean-normalised", "fve_start_ar": "FVE by the AR at the start"}


def common_rows(groups, allow, notes):
    """Row numbers that all evaluations have; others are an error unless allowed."""
    each = [(g, e) for g in groups for e in g.evaluations]
    common = set.intersection(*(set(e.rows) for _, e in each))
    for g, e in each:
        odd = set(e.rows) - common
        if odd and not allow:
            lacks = next(f"'{o.path}'" for _, o in each if min(odd) not in o.rows)
            raise runs.Error(f"the evaluations are of different rows: row {min(odd)} of '{e.path}' is not in {lacks}; "
                             "--common compares the rows that all have")
    if not common:
        raise runs.Error("the evaluations have no row in common")
    left = max(len(e.rows) for _, e in each) - len(common)
    if left:
        notes.append(f"only the {len(common)} rows that all evaluations have are compared; the largest has {left} more")
    return sorted(common)


def baselines(groups, notes):
    """One pair for all, the first's: FVE is taken from mse and these."""
    each = [e for g in groups for e in g.evaluations]
    first = next((e for e in each if e.var or e.mean), None)
    if first is None:
        raise runs.Error(f"'{each[0].path}' names no baselines (baseline_var, baseline_mean): FVE cannot be computed")
    for e in each:
        own, other = (e.var, first.var) if e.var and first.var else (e.mean, first.mean)
        if own and other and abs(own / other - 1) > 1e-6:
            sets = [x.summary.get("data") for x in (first, e)]
            if all(x.summary.get("baseline_of") == "data" for x in (first, e)):
                raise runs.Error(f"the evaluations are of different sets: the baseline of '{first.path}' is {other:.6g}, "
                                 f"that of '{e.path}' {own:.6g}, both of the set that they name")
            if all(sets) and len({str(s).rstrip("/").split("/")[-1] for s in sets}) > 1:
                raise runs.Error(f"the evaluations are of different sets: '{sets[0]}' and '{sets[1]}'")
            notes.append(f"'{e.path}' measured FVE by another baseline ({own:.6g}, here {other:.6g}): recomputed from its mse")
    for key, what in (("temperature", "sampling temperatures"), ("fail_mse", "mse of a failed row"), *((key, key) for key in controls.DECODING)):
        values = [e.summary.get(key) for e in each if key not in controls.DECODING or not e.given]
        values = dict.fromkeys(f"{v:g}" if runs.number(v) is not None else v for v in values if isinstance(v, str) or runs.number(v) is not None)
        if len(values) > 1:
            notes.append(f"the evaluations differ in {what}: {', '.join(values)}")
    return first.var, first.mean


class Table:
    """An evaluation as columns over the compared rows, several samples of a row averaged first."""

    def __init__(self, evaluation, rows):
        samples = [evaluation.rows[row] for row in rows]
        def mean_of(key, failed=True):
            return [stats.mean([s[key] for s in one if s[key] is not None and (failed or not s["failed"])]) for one in samples]
        self.tokens, self.payload = mean_of("tokens"), mean_of("explanation_tokens")
        self.all = mean_of("mse")
        self.valid, self.start, self.written = (mean_of(key, failed=False) for key in ("mse", "start", "explanation_tokens"))
        self.failed = [stats.mean([float(bool(s["failed"])) for s in one]) for one in samples]
        self.columns = {}

    def column(self, name):
        if name not in self.columns:
            self.columns[name] = stats.Column(getattr(self, name))
        return self.columns[name]


def without_failures(sides, name, paired):
    """Columns of the rows that have a valid sample in some run of either side, and their number. A run without any is out, with
    its pair."""
    there = [[any(v is not None for v in getattr(t, name)) for t in side] for side in sides]
    there = [[all(x) for x in zip(*there)]] * 2 if paired else there
    sides = [[t for t, has in zip(side, some) if has] for side, some in zip(sides, there)]
    values = [[getattr(t, name) for t in side] for side in sides]
    mask = [all(any(v is not None for v in row) for row in both) for both in zip(*(zip(*side) for side in values))]
    if mask and not any(None in c for side in values for c in side):
        return [[t.column(name) for t in side] for side in sides], len(mask)
    values = [stats.filled([[v if m else None for v, m in zip(c, mask)] for c in side]) for side in values]
    return [[stats.Column(c) for c in side] for side in values], sum(mask)


def scaled(found, factor, offset=0.0):
    """mse -> FVE: offset + factor x, intervals the right way round."""
    if found is None:
        return None
    def move(x):
        return tuple(sorted(offset + factor * v for v in x)) if isinstance(x, tuple) else x
    return {**{k: move(v) for k, v in found.items()}, "estimate": offset + factor * found["estimate"]}


class Comparison:
    """groups against `base`; result() is what the programs print."""

    def __init__(self, groups, base, notes, allow_common=False, resamples=4000, seed=0, data=None):
        wanted = {row for g in groups if g.role not in ("start", "named") for e in g.evaluations for row in e.rows}
        beside = [g for g in groups if g.role in ("start", "named") and g is not base and wanted]
        odd = [g for g in beside if not allow_common and any(set(e.rows) != wanted for e in g.evaluations)]
        notes += [f"{g.label} is left out: its evaluation is of other rows" for g in odd]
        self.groups, self.base, self.notes = [g for g in groups if g not in odd], base, notes
        groups = self.groups
        self.rows = common_rows(groups, allow_common, notes)
        self.var, self.mean = baselines(groups, notes)
        documents = runs.documents_of([r for g in groups for r in g.runs], self.rows, data, notes)
        drawn = len(set(documents or self.rows))
        if drawn < 20:
            notes.append(f"intervals draw {drawn} {'documents' if documents else 'rows'}: of fewer than 20 they are too narrow"
                         if drawn > 1 else "of one document there are no intervals, and nothing is claimed")
        self.boot = stats.Bootstrap(len(self.rows), resamples, seed, documents)
        self.tables = {id(e): Table(e, self.rows) for g in groups for e in g.evaluations}
        self.co_trained = any(t.start != t.valid and any(v is not None for v in t.start) for t in self.tables.values())

    def of(self, group):
        return [self.tables[id(e)] for e in group.evaluations]

    def level(self, group, name, base=None):
        """Mean over seeds; its standard error over seeds, of a single one over rows; interval over rows; the mean of each seed."""
        factor, offset = (-1 / base, 1.0) if base else (1.0, 0.0)
        columns = [t.column(name) for t in self.of(group)]
        if name == "valid":                                             # a run whose rows all failed is named where it is compared
            columns = [c for c in columns if c.mean is not None]
        found = scaled(stats.difference(self.boot, [], columns, False), factor, offset)
        if found is None:
            return None
        left = next(t for t in self.of(group) if t.column(name) in columns)
        single = [(v, d) for v, d in zip(getattr(left, name), self.boot.documents or range(len(self.rows))) if v is not None]
        error = stats.standard_error([c.mean for c in columns]) if len(columns) > 1 else stats.standard_error(*zip(*single))
        return {"mean": found["estimate"], "se": None if error is None else abs(factor) * error, "interval": found["over_rows"],
                "each": [offset + factor * c.mean for c in columns]}

    def levels(self, group):
        out = {"runs": len(group.evaluations), "tokens": self.level(group, "tokens"), "explanation_tokens": self.level(group, "payload"),
               "failed_rate": stats.mean([stats.mean(t.failed) for t in self.of(group)])}
        for key, name, base in self.fve_columns():
            out[key] = self.level(group, name, base) if base else None
        return out

    def fve_columns(self):
        """A set may name one baseline only: the other FVE does not exist."""
        return (("fve", "valid", self.var), ("fve_meannorm", "valid", self.mean), ("fve_all", "all", self.var),
                ("fve_all_meannorm", "all", self.mean), ("fve_start_ar", "start", (self.var or self.mean) if self.co_trained else None))

    def controls(self, group):
        """The group itself and its controls: levels, and what each has less than the explanations that it is of, row by row."""
        base, out = self.var or self.mean, []

        def line(name, label, pairs):
            tables = [Table(e, self.rows) for _, e in pairs]
            numbers = {key: stats.mean([stats.Column(getattr(t, of)).mean for t in tables if any(v is not None for v in getattr(t, of))])
                       for key, of in (("mse", "valid"), ("explanation_tokens", "written"))}
            return {"name": name, "label": label, "runs": len(pairs), "explanation_tokens": numbers["explanation_tokens"],
                    "explanation_tokens_of": stats.mean([v for own, _ in pairs for v in self.tables[id(own)].written if v is not None]),
                    **{key: 1 - numbers["mse"] / b if b and numbers["mse"] is not None else None for key, b in (("fve", self.var), ("fve_meannorm", self.mean))},
                    "failed_rate": stats.mean([stats.mean(t.failed) for t in tables]), "difference": self.less(pairs, tables, base) if name else None}
        for name in controls.NAMES:
            pairs = [(own, e) for own, e in group.controls.get(name, ()) if set(self.rows) <= set(e.rows)]
            if pairs:
                of = next((e.summary["control"]["of"] for _, e in pairs if runs.at(e.summary, "control.of")), "another run")
                out.append(line(name, controls.NAMES[name].format(base=of), pairs))
        return [line("", "its explanations", [(e, e) for e in group.evaluations]), *out] if out else []

    def less(self, pairs, tables, base):
        columns = [stats.Column([None if a is None or b is None else b - a for a, b in zip(self.tables[id(own)].valid, t.valid)]) for (own, _), t in zip(pairs, tables)]
        return scaled(stats.difference(self.boot, [], columns, False), -1 / base)

    def base_of(self, group):
        """Of runs with other settings than the base's the group of its lambda with those; where there is none the base."""
        if group.setting == self.base.setting:
            return self.base
        own = (g for g in self.groups if g.role == "lambda" and (g.setting, g.lambda_) == (group.setting, self.base.lambda_))
        found = next(own, self.base)
        return self.base if found is group else found

    def sides(self, group):
        """The evaluations of its base and of the group, and whether seeds make them pairs: then those of the seeds that both
        have."""
        base = self.base_of(group)
        by_seed = [dict(zip(map(str, g.seeds()), g.evaluations)) for g in (base, group)]
        common = sorted(by_seed[0].keys() & by_seed[1].keys() - {"None"})
        if len(common) < 2 or any(len(e) < len(g.evaluations) for e, g in zip(by_seed, (base, group))):
            return [base.evaluations, group.evaluations], False
        odd = sorted(by_seed[0].keys() ^ by_seed[1].keys())
        note = f"{group.label} is compared with {base.label} by the seeds that both have; without a pair: {', '.join(odd)}"
        self.notes += [note] if odd and note not in self.notes else []
        return [[side[seed] for seed in common] for side in by_seed], True

    def difference(self, group):
        both, paired = self.sides(group)
        sides = [[self.tables[id(e)] for e in side] for side in both]
        columns = {key: [[t.column(key) for t in side] for side in sides] for key in ("tokens", "all")}
        columns["valid"], valid = without_failures(sides, "valid", paired)
        if self.co_trained:
            columns["start"], _ = without_failures(sides, "start", paired)
        plain = {key: stats.difference(self.boot, *of, paired) if all(of) else None for key, of in columns.items()}
        for k, one in enumerate(sides):
            if len(columns["valid"][k]) < len(one):
                self.notes.append(f"FVE without failures of {group.label} less {self.base_of(group).label} is of {len(columns['valid'][k])} of "
                                  f"{len(one)} runs of {(self.base_of(group), group)[k].label}: in the others all rows failed, or those of their pair")
        if valid < 0.9 * len(self.rows):
            self.notes.append(f"{group.label}: FVE without failures is of {valid} of {len(self.rows)} rows, those with a valid "
                              "sample on both sides")
        base = self.base_of(group)
        alike = group.setting == base.setting or () in (group.setting, base.setting)
        out = {"to": base.label, "rows": len(self.rows), "valid_rows": valid, "paired_seeds": paired,
               "tokens": plain["tokens"], "tokens_of": stats.mean([c.mean for c in columns["tokens"][0] if c.mean is not None])}
        for key, name, baseline in self.fve_columns():
            out[key] = scaled(plain[name], -1 / baseline) if baseline else None
            if out[key]:
                span = widest(out[key]) if alike else None              # other settings may be what it loses
                out[key]["largest_loss_not_excluded"] = max(0.0, -span[0]) if span else None
        return out

    def result(self):
        wording, stated = words.wording(self.groups, self.base, self.rows, self.boot.documents), facts.Facts(self)
        rewards = [{k: runs.at(r.config, f"reward.{k}") for k in ("score", "count", "floor")}
                   for g in self.groups if g.role == "lambda" for r in g.runs]
        units = {", ".join(f"{k} {v}" for k, v in r.items() if v is not None) for r in rewards}
        return {"rows": len(self.rows), "baseline_var": self.var, "baseline_mean": self.mean, "base": self.base.label,
                "units": sorted(units - {""}),
                "resamples": self.boot.resamples, "seed": self.boot.seed, "notes": self.notes,
                "groups": [{"label": g.label, "role": g.role, "lambda": g.lambda_, "setting": g.setting,
                            "paths": [str(e.path) for e in g.evaluations],
                            "seeds": g.seeds(), **self.levels(g), "wording": wording[g.label], "facts": stated.result(g),
                            "controls": self.controls(g), "difference": None if g is self.base else self.difference(g)} for g in self.groups]}


def choose_base(groups, paths, name=None):
    """The named group; else the group of the first argument when that is a run or an evaluation; else the smallest lambda's."""
    def group_of(is_it):                                                # not the warm start that a run's step 0 was
        return next((g for g in groups for r in g.runs if is_it(r) and any(e is r.evaluation for e in g.evaluations)), None)
    if name is not None:
        found = next((g for g in groups if name in (g.label, g.label.removeprefix("λ "))), None) or \
            group_of(lambda r: name.rstrip("/") == r.name or Path(name) == r.path)
        if found:
            return found
        raise runs.Error(f"no '{name}' to compare with; there are {', '.join(repr(g.label) for g in groups)}")
    return group_of(lambda r: r.path == Path(paths[0])) or next((g for g in groups if g.role == "lambda"), groups[0])


# ---- what is printed ----

def show(value, digits=3, sign=False):
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "").replace("+", "")


def show_level(level, digits):
    if not level:
        return "–"
    return show(level["mean"], digits) + (f" ± {show(level['se'], digits)}" if level["se"] is not None else "")


def show_interval(pair, digits):
    return f"[{show(pair[0], digits, True)}, {show(pair[1], digits, True)}]" if pair else "–"


def percent(value, digits=0):
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def excluded(d, digits=3):
    """A bound rounds away from zero, so that the words stay true. "–" where nothing is claimed."""
    loss = d["largest_loss_not_excluded"]
    if loss is None:
        return "–"
    if not loss:
        return "any"
    step = 10 ** -digits
    return f"above {show(math.ceil(loss / step - 1e-9) * step, digits)}"


def said(head, rows):
    """Without the columns that say nothing."""
    keep = [i for i in range(len(head)) if i < 2 or any(r[i] not in ("–", "") for r in rows)]
    return [head[i] for i in keep], [[r[i] for i in keep] for r in rows]


def level_rows(result):
    head = ["", "runs", "response tokens", "of them explanation", "FVE", "FVE, mean-normalised", "FVE by the AR at the start", "FVE with failures", "failed"]
    return head, [[g["label"], str(g["runs"]), show_level(g["tokens"], 1), show_level(g["explanation_tokens"], 1), show_level(g["fve"], 3),
                   show_level(g["fve_meannorm"], 3), show_level(g["fve_start_ar"], 3), show_level(g["fve_all"] or g["fve_all_meannorm"], 3),
                   percent(g["failed_rate"], 1)] for g in result["groups"]]


def control_rows(result):
    head = ["controls", "", "explanation tokens", "FVE", "FVE, mean-normalised", "less its explanations", "95 % over rows",
            "careful", "failed"]
    out = []
    for g in result["groups"]:
        for i, c in enumerate(c for c in g["controls"] if c["name"] not in controls.CUTS):
            d = c["difference"] or {}
            out.append([g["label"] if i == 0 else "", c["label"], show(c["explanation_tokens"], 1), show(c["fve"]), show(c["fve_meannorm"]),
                        show(d.get("estimate"), 3, True), *(show_interval(d.get(k), 3) for k in ("over_rows", "careful")),
                        percent(c["failed_rate"], 1)])
    return head, out


def early_rows(result):
    """How early the information comes: FVE of the first words alone."""
    kind = "fve" if result["baseline_var"] else "fve_meannorm"
    names = [*controls.CUTS, ""]
    out = []
    for g in result["groups"]:
        by_name = {c["name"]: c[kind] for c in g["controls"]}
        if by_name.keys() & controls.CUTS.keys():
            out.append([g["label"], "", *(show(by_name.get(name)) for name in names)])
    return [f"{NAMES[kind]} of the first words", "", *map(str, controls.CUTS.values()), "all"], out


def difference_rows(result, metrics=("tokens", *METRICS)):
    head = [f"less {result['base']}, row by row", "", "rows", "difference", "95 % over rows", "over seeds", "over both",
            "careful", "losses excluded"]
    out = []
    for g in (g for g in result["groups"] if g["difference"]):
        label = g["label"] + (f", less {g['difference']['to']}" if g["difference"]["to"] != result["base"] else "")
        for i, key in enumerate(m for m in metrics if g["difference"][m]):
            d, digits = g["difference"][key], 1 if key == "tokens" else 3
            rows = g["difference"]["rows" if key == "tokens" or "_all" in key else "valid_rows"]
            out.append([label if i == 0 else "", NAMES[key], f"{rows} of {result['rows']}",
                        show(d["estimate"], digits, True),
                        *(show_interval(d[k], digits) for k in ("over_rows", "over_seeds", "both", "careful")),
                        "" if key == "tokens" else excluded(d)])
    return head, out


def wording_rows(result):
    head = ["", "words", f"kept from {result['base']}", "kept from another row's", f"found in {result['base']}", "type-token ratio",
            "the same, of equally many words"]
    return head, [[g["label"] + (f" (two {g['wording']['kept_of']})" if g["wording"]["kept_of"] != "runs" and g["wording"]["kept"] is not None else ""), show(g["wording"]["words"], 1),
                   percent(g["wording"]["kept"]), percent(g["wording"]["kept_other_row"]), percent(g["wording"]["found"]),
                   show(g["wording"]["type_token"], 2), show(g["wording"]["type_token_pooled"], 3)] for g in result["groups"]]


def tables(result):
    """Head and rows of each."""
    found = [level_rows(result)] + ([difference_rows(result)] if len(result["groups"]) > 1 else [])
    found += [control_rows(result), early_rows(result), wording_rows(result), *facts.tables(result, show)]
    return [said(*one) for one in found if one[1]]


def footing(result):
    """What the numbers are of, in sentences."""
    kinds = [f"{name} {result[key]:.4f}" for key, name in (("baseline_var", "raw variance"), ("baseline_mean", "mean-normalised")) if result[key]]
    out = [f"{result['rows']} rows; FVE is 1 - mse / baseline ({', '.join(kinds)}); "
           "± is the standard error over seeds, of a single run over rows; tokens of all rows, FVE of those that did not fail."]
    for unit in result["units"]:
        out.append(f"Lambda is in units of reward.score a token that counts ({unit}).")
    differences = [g for g in result["groups"] if g["difference"]]
    if differences:
        out.append(f"Intervals are the middle 95 % of {result['resamples']} bootstrap draws (seed {result['seed']}). "
                   "Losses excluded: those beyond the careful interval, from ten seeds on beyond that over both, of single "
                   "runs over rows.")
    if len([g for g in differences if g["role"] == "lambda"]) > 1:
        out.append("No interval is corrected for the number of lambdas, and to pick the largest lambda that passes is a "
                   "selection: its own interval is then too kind.")
    if facts.with_facts(result):
        out.append(f"Facts, of {min(facts.DRAWS, result['resamples'])} draws: recall is the share stated of those that a text has told, precision the share "
                   "that is true of those stated, by chance what holds of another row's text. A word states a fact once; words of no fact are all others.")
    counts = {g["runs"] for g in result["groups"] if g["role"] == "lambda"}
    if 1 in counts and differences:
        out.append("Of a single run an interval over rows speaks of this run, not of its lambda: another seed may differ by more.")
    if any((g["difference"][k] or {}).get("careful") for g in differences for k in ("tokens", *METRICS)):
        out.append("Careful: as wide on either side as the interval over rows and the t interval of the seeds' means are in "
                   "quadrature. A bootstrap of fewer than ten seeds is too narrow.")
    return out


def as_text(result):
    out = []
    for head, rows in tables(result):
        widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
        left = [i == 0 or not head[i] for i in range(len(head))]
        out += ["  ".join(c.ljust(w) if l else c.rjust(w) for c, w, l in zip(r, widths, left)).rstrip() for r in [head, *rows]] + [""]
    return "\n".join(out + footing(result)) + "\n"


def as_markdown(result):
    def line(cells):
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"
    out = []
    for head, rows in tables(result):
        out += [line(head), line(["---"] * len(head)), *map(line, rows), ""]
    return "\n".join(out + [text + "\n" for text in footing(result)]).rstrip() + "\n"


def as_csv(result):
    """A line a group: levels, differences with every interval, wording."""
    lines = []
    for g in result["groups"]:
        line = {"group": g["label"], "role": g["role"], "lambda": g["lambda"], "runs": g["runs"], "rows": result["rows"],
                "failed_rate": g["failed_rate"]}
        for key in ("tokens", "explanation_tokens", *METRICS):
            level = g[key] or {"mean": None, "se": None, "interval": None}
            line |= {key: level["mean"], f"{key}_se": level["se"], **ends(key, level["interval"])}
        line |= {k: v for k, v in g["wording"].items()}
        for name in controls.NAMES:
            c = next((c for c in g["controls"] if c["name"] == name), {"fve": None, "fve_meannorm": None, "difference": None})
            line |= {f"{name}_{k}": c[k] for k in ("fve", "fve_meannorm")} | ends(f"{name}_difference_over_rows", (c["difference"] or {}).get("over_rows"))
        for key in ("tokens", *METRICS):
            d = (g["difference"] or {}).get(key) or {}
            line[f"{key}_difference"] = d.get("estimate")
            for k in ("over_rows", "over_seeds", "both", "t_over_seeds", "careful"):
                line |= ends(f"{key}_difference_{k}", d.get(k))
        lines.append(line | facts.as_columns(g["facts"] or {"kinds": {}}))
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def ends(key, pair):
    return {f"{key}_low": pair[0] if pair else None, f"{key}_high": pair[1] if pair else None}


def as_json(result):
    return json.dumps(result, indent=1, ensure_ascii=False) + "\n"
