#!/usr/bin/env python3
"""The published length-penalty sweep through the code that compares our runs: tokens, FVE (1 - mean mse of the valid rows / its
mean-normalised baseline) and standard errors of all seven from its raw rows, the paired differences that docs/report.md speaks of,
and scripts/nla_report/published.json, which is made of them. Skips without ../shared."""

import json
import os
import sys
from pathlib import Path

SOURCE = Path(os.environ.get("SOURCE_DIR", Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(SOURCE / "tests" / "golden"))
import make_published  # noqa: E402

PUBLISHED = {"base": ("126", "0.532"), "p0.0": ("127", "0.585"), "p0.001": ("92", "0.592"), "p0.002": ("74", "0.570"),
             "p0.006": ("32", "0.482"), "p0.015": ("25", "0.450"), "p0.03": ("14", "0.225")}


def main():
    folder = Path(os.environ.get("NLA_SHARED", SOURCE.parent / "shared")) / "reference" / "length_penalty_sweep"
    if not folder.is_dir():
        print(f"skipped: there is no {folder}")
        return 77
    result = make_published.result(folder)
    groups = {g["paths"][0]: g for g in result["groups"]}
    assert groups.keys() == PUBLISHED.keys(), groups.keys()
    for tag, (tokens, fve) in PUBLISHED.items():
        summary, g = json.loads((folder / f"{tag}.summary.json").read_text()), groups[tag]
        n, valid = summary["n"], round(summary["n"] * summary["extraction_rate"])
        for ours, theirs, count in ((g["tokens"], "mean_tokens", n), (g["fve_meannorm"], "fve", valid)):
            assert abs(ours["mean"] - summary[theirs]) < 1e-6, (tag, theirs, ours)
            error = summary[f"{theirs}_sem"]                            # theirs divides by n, ours by n - 1
            assert abs(ours["se"] * ((count - 1) / count) ** 0.5 - error) < 1e-6 * max(1, error), (tag, theirs, ours, error)
            assert f"{ours['se']:.3f}" == f"{error:.3f}" or theirs == "mean_tokens" and f"{ours['se']:.2f}" == f"{error:.2f}", (tag, ours, error)
        assert f"{g['tokens']['mean']:.0f}" == tokens and abs(g["fve_meannorm"]["mean"] - float(fve)) < 0.0005, (tag, g)
    # -0.015: a loss, if a small one, of rows that did not fail. +0.007: may be nothing. With failures in, both are gains.
    low, high = (groups[t]["difference"]["fve_meannorm"]["over_rows"] for t in ("p0.002", "p0.001"))
    assert -0.030 < low[0] < -0.020 and -0.006 < low[1] < 0 and high[0] < 0 < high[1], (low, high)
    assert groups["p0.002"]["difference"]["fve_all_meannorm"]["estimate"] > 0.005 and groups["p0.001"]["difference"]["fve_all_meannorm"]["over_rows"][0] > 0
    committed = json.loads(make_published.OUT.read_text())
    assert make_published.reference(result) == committed, "published.json is of other rows or other code: run tests/golden/make_published.py"
    return 0


if __name__ == "__main__":
    sys.exit(main())
