#!/usr/bin/env python3
"""Reference intervals for scripts/nla_report/stats.py, by scipy and numpy: tests/data/intervals.json.

    make_intervals.py          # needs scipy; the test needs its output alone

Rows and seeds are made from integers, so that the test makes the same; intervals come from scipy.stats.bootstrap (method percentile)
with many more draws than ours, those over seeds from every possible draw, those over both from numpy's crosswise draws.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import scipy.stats

OUT = Path(__file__).resolve().parents[1] / "data" / "intervals.json"
N, SEEDS, DRAWS = 240, 3, 200000


def series(which, n):
    """Skewed numbers in [0, 2), as mse are."""
    x = np.arange(n, dtype=np.float64)
    return ((x * (37 + 10 * which) + 11 * which) % 241 / 241) ** 3 * 1.9


def both(minus, plus, rng, draws):
    """Rows and seeds crosswise, seeds as pairs."""
    out = np.empty(draws)
    difference = plus - minus                                           # [seed, row]
    for i in range(draws):
        rows, seeds = rng.integers(0, N, N), rng.integers(0, SEEDS, SEEDS)
        out[i] = difference[seeds][:, rows].mean()
    return np.percentile(out, [2.5, 97.5])


def main():
    rng = np.random.default_rng(0)
    minus = np.stack([series(s, N) for s in range(SEEDS)])
    plus = np.stack([series(s, N) * 0.9 + 0.02 * s for s in range(SEEDS)])

    def paired(a, b, axis):
        return np.mean(b - a, axis=axis)
    rows = scipy.stats.bootstrap((minus.mean(0), plus.mean(0)), paired, paired=True, vectorized=True, n_resamples=DRAWS, batch=1000,
                                 method="percentile", rng=rng).confidence_interval
    level = scipy.stats.bootstrap((minus[0],), np.mean, vectorized=True, n_resamples=DRAWS, batch=1000, method="percentile", rng=rng).confidence_interval
    gap = (plus - minus).mean(1)
    seeds = np.percentile([gap[list(draw)].mean() for draw in itertools.product(range(SEEDS), repeat=SEEDS)], [2.5, 97.5], method="inverted_cdf")
    t_paired = scipy.stats.ttest_rel(plus.mean(1), minus.mean(1)).confidence_interval(0.95)
    missing = minus[0].copy()
    missing[::7] = np.nan
    hole = scipy.stats.bootstrap((missing,), np.nanmean, vectorized=True, n_resamples=DRAWS, batch=1000, method="percentile", rng=rng).confidence_interval
    golden = {
        "made_by": "tests/golden/make_intervals.py", "n": N, "seeds": SEEDS, "estimate": gap.mean(), "se": scipy.stats.sem(minus[0]),
        "over_rows": list(rows), "over_seeds": list(seeds), "both": list(both(minus, plus, rng, 40000)), "t_over_seeds": list(t_paired),
        "level": list(level), "level_with_holes": list(hole),
        "t": {str(df): scipy.stats.t.ppf(0.975, df) for df in (1, 2, 3, 4, 5, 9, 10, 30)},
        "percentiles": list(np.percentile(minus[0][:11], [0, 2.5, 50, 97.5, 100])),
    }
    OUT.write_text(json.dumps(golden, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
