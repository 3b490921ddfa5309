"""Means, paired differences and their bootstrap intervals.

Rows are the same for every run, so one draw of rows holds for all of them: a difference is paired by itself, and "both" draws
rows and seeds crosswise (the pigeonhole bootstrap of Owen, 2007). Rows of one document are drawn together, as they are alike.
Intervals are percentiles of the drawn means. A bootstrap of a handful of seeds is too narrow, by sqrt((n - 1) / n) and for want
of Student's tails, and the t interval of the seeds' means knows nothing of the rows: the careful one adds both in quadrature.
"""

import math
import random
from math import hypot
from operator import itemgetter


def mean(values):
    return sum(values) / len(values) if values else None


def together(documents):
    """[[places of one document], ..]"""
    places = {}
    for i, document in enumerate(documents):
        places.setdefault(document, []).append(i)
    return list(places.values())


def standard_error(values, documents=None):
    """Of a mean, by documents (Liang and Zeger, 1986) or of independent values; None of fewer than two."""
    each = together(documents or range(len(values)))
    if len(each) < 2:
        return None
    m = sum(values) / len(values)
    return math.sqrt(sum(sum(values[i] - m for i in one) ** 2 for one in each) * len(each) / (len(each) - 1)) / len(values)


def percentile(ordered, p):
    """Linear between order statistics, as numpy's default."""
    place = p * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def interval(values, level=0.95):
    ordered = sorted(v for v in values if v is not None)
    return (percentile(ordered, (1 - level) / 2), percentile(ordered, (1 + level) / 2)) if ordered else None


def t_inside(t, df):
    """P(|T| < t) of Student's t with a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(df))
    term = total = math.cos(angle) if df % 2 else 1.0
    for k in range(3 if df % 2 else 2, df - 1, 2):
        term *= math.cos(angle) ** 2 * (k - 1) / k
        total += term
    if df % 2:
        return 2 / math.pi * (angle + (math.sin(angle) * total if df > 1 else 0))
    return math.sin(angle) * total


def t_quantile(df, level=0.95):
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_inside(middle, df) < level else (low, middle)
    return (low + high) / 2


def filled(columns):
    """What a run lacks of a row that others have, by what row and run add up to (least squares): a row counts as the mean of
    the runs that have it, less what sets those apart from the others on the rows that they share."""
    levels, moved = [0.0] * len(columns), 1.0
    while moved > 1e-9:
        was = levels
        rows = [mean([v - a for v, a in zip(row, levels) if v is not None]) for row in zip(*columns)]
        levels = [mean([v - r for v, r in zip(c, rows) if v is not None]) or 0.0 for c in columns]
        moved = max((abs(a - b) for a, b in zip(was, levels)), default=0.0)
    return [[r + a if v is None and r is not None else v for v, r in zip(c, rows)] for c, a in zip(columns, levels)]


class Column:
    """A number a row of one run; None where it does not exist."""

    def __init__(self, values):
        self.numbers = [0.0 if v is None else v for v in values]
        self.there = [float(v is not None) for v in values] if None in values else None
        n = sum(self.there) if self.there else len(values)
        self.mean = sum(self.numbers) / n if n else None
        self.drawn = None


class Bootstrap:
    """Means of columns over the same draws of documents, of many in at most BLOCKS blocks."""
    BLOCKS = 2000                                                       # a draw is as long, and kept

    def __init__(self, n_rows, resamples=4000, seed=0, documents=None):
        self.resamples, self.seed, self.documents = resamples, seed, documents
        rng, blocks = random.Random(f"rows {seed}"), together(documents or range(n_rows))
        if len(blocks) > self.BLOCKS:
            rng.shuffle(blocks)
            blocks = [[i for one in blocks[k::self.BLOCKS] for i in one] for k in range(self.BLOCKS)]
        places = list(range(len(blocks)))
        draws = (rng.choices(places, k=len(places)) for _ in range(resamples))
        self.blocks, self.draws = blocks, [itemgetter(*one) if len(one) > 1 else tuple for one in draws]
        self.sizes = self.drawn_sums([1.0] * n_rows)

    def drawn_sums(self, values):
        by_block = [sum(map(values.__getitem__, block)) for block in self.blocks]
        return [sum(draw(by_block)) for draw in self.draws]

    def n_documents(self, column):
        """That the column has a row of."""
        there = column.there or [1.0] * len(column.numbers)
        return len({d for d, t in zip(self.documents or range(len(there)), there) if t})

    def over_rows(self, column):
        """The mean of every draw of rows."""
        if column.drawn is None:
            sizes = self.drawn_sums(column.there) if column.there else self.sizes
            column.drawn = [total / n if n else None for total, n in zip(self.drawn_sums(column.numbers), sizes)]
        return column.drawn

    def over_seeds(self, *sizes):
        """Draws of seeds, one tuple of indices for every size."""
        rng = random.Random(f"seeds {self.seed}")
        return [tuple([rng.randrange(n) for _ in range(n)] for n in sizes) for _ in range(self.resamples)]


def difference(boot, minus, plus, paired_seeds):
    """Mean of the columns `plus` (a column a seed) less that of `minus` ([] for a level): estimate, intervals by what is drawn."""
    sides = [(s, c) for s, c in ((-1, minus), (1, plus)) if c]
    if not sides or any(c.mean is None for _, columns in sides for c in columns):
        return None
    estimate = sum(sign * mean([c.mean for c in columns]) for sign, columns in sides)
    drawn = [[boot.over_rows(c) for c in columns] for _, columns in sides]
    found = {"estimate": estimate, "seeds": min(len(c) for _, c in sides), "paired_seeds": paired_seeds, "both": None, "over_seeds": None,
             "t_over_seeds": None, "careful": None}
    alone = min(boot.n_documents(c) for _, columns in sides for c in columns) < 2      # it says nothing of others
    found["over_rows"] = None if alone else interval(combine(sides, lambda i, b: [m[b] for m in drawn[i]], boot.resamples))
    if found["seeds"] > 1 and not alone:
        sizes = [len(sides[0][1])] if paired_seeds else [len(c) for _, c in sides]
        picks = boot.over_seeds(*sizes)

        def seeds(i, b):
            return picks[b][0 if paired_seeds else i]
        found["over_seeds"] = interval(combine(sides, lambda i, b: [sides[i][1][s].mean for s in seeds(i, b)], boot.resamples))
        found["both"] = interval(combine(sides, lambda i, b: [drawn[i][s][b] for s in seeds(i, b)], boot.resamples))
        found["t_over_seeds"] = t = t_interval(sides, estimate, paired_seeds)
        low, high = (hypot(end - estimate, (t[1] - t[0]) / 2) for end in found["over_rows"])
        found["careful"] = (estimate - low, estimate + high)
    return found


def widest(d):
    """The interval that claims are made from: of single runs over rows, below ten seeds the careful one, else over both. Of one
    document None."""
    return d["over_rows"] if d["seeds"] < 2 else d["careful"] if d["seeds"] < 10 else d["both"]


def combine(sides, values, resamples):
    out = []
    for b in range(resamples):
        total = 0.0
        for i, (sign, _) in enumerate(sides):
            drawn = values(i, b)
            if None in drawn:
                total = None
                break
            total += sign * sum(drawn) / len(drawn)
        out.append(total)
    return out


def t_interval(sides, estimate, paired_seeds):
    """Of the seeds' means; of seeds that are not pairs with the degrees of freedom of the smaller side."""
    if paired_seeds:
        errors = [standard_error([sum(sign * c[s].mean for sign, c in sides) for s in range(len(sides[0][1]))])]
    else:
        errors = [standard_error([c.mean for c in columns]) for _, columns in sides]
    half = t_quantile(min(len(c) for _, c in sides) - 1) * math.sqrt(sum(e * e for e in errors))
    return estimate - half, estimate + half
