"""What explanations state, where an evaluation has a facts.json (docs/formats.md): recall and precision by kind of fact, and whether a
penalty takes true facts first, or the words that state none."""

from . import stats
from .runs import number

COUNTS = ("true", "false", "missing", "by_chance")
ALL = "all facts"
DRAWS = 1000                                                            # enough for two digits of many numbers


def read(evaluation, notes):
    """{kind: {row: its COUNTS}}, and under None {row: [explanations, words, words of facts]}; {} without a facts.json, or of one that is none."""
    tree = evaluation.facts
    try:
        rows, kinds = tree.get("row"), tree.get("facts", {})
        columns = {None: [tree[key] for key in ("explanations", "words", "words_of_facts")]} if tree else {}
        columns |= {kind: [of.get(key, [0] * len(rows)) for key in COUNTS] for kind, of in kinds.items()}
        for several in columns.values():
            if any(len(one) != len(rows) or not all((number(v) or 0) >= 0 and number(v) is not None for v in one) for one in several):
                raise ValueError
        return {kind: dict(zip(rows, zip(*several))) for kind, several in columns.items()}
    except (KeyError, TypeError, AttributeError, ValueError):
        notes.append(f"facts.json of '{evaluation.path}' is left out: it wants numbers of facts, as many of each as it has rows")
        return {}


def ratio(tops, bottoms):
    """A column whose mean is sum(tops) / sum(bottoms), and whose draws are that ratio's to first order; None where nothing is counted."""
    total, n = sum(bottoms), len(bottoms)
    r = sum(tops) / total if total else 0.0
    return stats.Column([r + (a - r * b) * n / total for a, b in zip(tops, bottoms)]) if total else None


def columns_of(facts, rows):
    """{what, or (what, kind): column} of an evaluation over the compared rows."""
    kinds = {kind: [list(one) for one in zip(*(of.get(row, [0] * len(COUNTS)) for row in rows))] for kind, of in facts.items() if kind is not None}
    kinds = {ALL: [[sum(v) for v in zip(*one)] for one in zip(*kinds.values())]} | kinds if kinds else {}
    explanations, words, used = zip(*(facts[None].get(row, [0] * 3) for row in rows))
    other = [a - b for a, b in zip(words, used)]
    columns = {"words": ratio(words, explanations), "other_words": ratio(other, explanations), "other_words_share": ratio(other, words)}
    for kind, (true, false, missing, by_chance) in kinds.items():
        stated, told = ([a + b for a, b in zip(true, more)] for more in (false, missing))
        columns |= {("recall", kind): ratio(true, told), ("precision", kind): ratio(true, stated), ("recall_by_chance", kind): ratio(by_chance, told),
                    ("precision_by_chance", kind): ratio(by_chance, stated)}
        if kind == ALL:
            columns |= {"true": ratio(true, explanations), "false": ratio(false, explanations)}
    return columns


class Facts:
    """Of a Comparison."""

    def __init__(self, comparison):
        self.of, boot = comparison, comparison.boot
        every = {id(e): read(e, comparison.notes) for g in comparison.groups for e in g.evaluations}
        self.columns = {key: columns_of(facts, comparison.rows) for key, facts in every.items() if facts}
        if self.columns:
            self.boot = stats.Bootstrap(len(comparison.rows), min(boot.resamples, DRAWS), boot.seed, boot.documents)
        base = [self.columns.get(id(e), {}) for e in comparison.base.evaluations]
        self.kinds = list(dict.fromkeys(key[1] for columns in base for key in columns if key[0] == "recall"))
        self.zero = {key: stats.mean([c[key].mean for c in base]) for key in ("true", "false", "other_words") if all(c.get(key) for c in base)}

    def found(self, sides, paired, key):
        """Mean and interval over all that was drawn; of the second side less the first where there are two."""
        columns = [[self.columns[id(e)].get(key) for e in side] for side in sides]
        if None in [c for side in columns for c in side]:
            return None
        d = stats.difference(self.boot, *([[]] + columns)[-2:], paired)
        found = stats.widest(d)
        if found and (key == "other_words_share" or isinstance(key, tuple)):    # shares: draws to first order, and added errors, know no ends
            found = tuple(min(max(v, 1 - len(sides)), 1) for v in found)
        return {"mean": d["estimate"], "interval": found}

    def change(self, sides, paired, signs):
        """Sum of sign * what / the base's: the base is drawn too, by what changes to first order, of a ratio r the (what - r base) / base."""
        base, group = ([self.columns[id(e)] for e in side] for side in sides)
        if not all(self.zero.get(key) and all(c.get(key) for c in base + group) for key in signs):
            return None
        zero, own = ({key: stats.mean([c[key].mean for c in side]) for key in signs} for side in (base, group))
        if not all(zero.values()):
            return None
        r = {key: own[key] / zero[key] for key in signs}

        def mixed(columns, factor):
            return [stats.Column([sum(x) for x in zip(*([sign * factor.get(key, 1) / zero[key] * v for v in c[key].numbers]
                                                        for key, sign in signs.items()))]) for c in columns]
        d = stats.difference(self.boot, mixed(base, r), mixed(group, {}), paired)
        mean = sum(sign * (r[key] - 1) for key, sign in signs.items())
        return {"mean": mean, "interval": tuple(mean + v for v in stats.widest(d) or ()) or None}

    def result(self, group):
        """None where an evaluation of the group or of the base has no facts.json."""
        both, paired = self.of.sides(group)
        if any(id(e) not in self.columns for side in (*both, group.evaluations) for e in side):
            return None
        level, kinds = {}, {kind: {} for kind in self.kinds}
        for key in ("words", "true", "false", "other_words", "other_words_share"):
            level[key] = self.found([group.evaluations], False, key)
        for kind in kinds:
            for what in ("recall", "precision"):
                kinds[kind][what] = self.found([group.evaluations], False, (what, kind))
                guessed = [self.columns[id(e)].get((f"{what}_by_chance", kind)) for e in group.evaluations]
                kinds[kind][f"{what}_by_chance"] = stats.mean([c.mean for c in guessed if c])
        if group is not self.of.base and self.of.base_of(group) is self.of.base:
            for key in self.zero:
                level[f"{key}_change"] = self.change(both, paired, {key: 1})
            level["other_less_true"] = self.change(both, paired, {"other_words": 1, "true": -1})
            for kind in kinds:
                for what in ("recall", "precision"):
                    kinds[kind][f"{what}_difference"] = self.found(both, paired, (what, kind))
        return {**level, "kinds": kinds}


# ---- what is shown ----

def with_facts(result, roles=("lambda", "start", "other", "named")):
    """The groups that have them, the base first; none where the base has none."""
    groups = sorted((g for g in result["groups"] if g["facts"] and g["role"] in roles), key=lambda g: g["label"] != result["base"])
    return groups if groups and groups[0]["label"] == result["base"] else []


def cell(one, show, digits, change=False, factor=1):
    if not one:
        return "–"
    mean, *span = (show(factor * v, digits, change) for v in (one["mean"], *(one["interval"] or ())))
    return f"{mean} [{', '.join(span)}]" if span else mean


def tables(result, show):
    """What explanations are made of; recall and precision by kind of fact, without controls. Heads and rows."""
    groups, out = with_facts(result), []
    if not groups:
        return out
    head = ["what explanations state", "words", "true facts", "false facts", "words of no fact", "their share, %", "change of true facts, %",
            "of false facts, %", "of words of no fact, %", "these less true facts"]
    out.append((head, [[g["label"], show(g["facts"]["words"]["mean"], 1), *(cell(g["facts"][key], show, 1) for key in ("true", "false", "other_words")),
                        cell(g["facts"]["other_words_share"], show, 0, factor=100),
                        *(cell(g["facts"].get(key), show, 0, True, 100) for key in ("true_change", "false_change", "other_words_change", "other_less_true"))]
                       for g in groups if g["facts"]["words"]]))
    first, *others = with_facts(result, ("lambda", "start")) or groups[:1]
    for what in ("recall", "precision"):
        rows = [[kind, show(of[f"{what}_by_chance"], 2), cell(of[what], show, 2),
                 *(cell(g["facts"]["kinds"][kind].get(f"{what}_difference"), show, 2, True) for g in others)] for kind, of in first["facts"]["kinds"].items()]
        out.append(([f"{what} of facts", "by chance", first["label"], *(f"{g['label']}, less that" for g in others)], rows))
    return out


def as_columns(found):
    """Of a line of CSV."""
    line = {}
    for key, one in {**found, **{f"{what} {kind}": v for kind, of in found["kinds"].items() for what, v in of.items()}}.items():
        if key != "kinds":
            name = "stated_words" if key == "words" else key.replace(" ", "_") # the wording's are of each row's first sample
            low, high = isinstance(one, dict) and one["interval"] or (None, None)
            line |= {name: one["mean"], f"{name}_low": low, f"{name}_high": high} if isinstance(one, dict) else {name: one}
    return line
