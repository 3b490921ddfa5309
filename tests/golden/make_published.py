#!/usr/bin/env python3
"""The published length-penalty sweep (Qwen3-8B, K = 24, 1000 rows) through the code that compares our runs: its table and paired
differences, as scripts/nla_report/published.json, which nla-report draws beside a run's own curve.

    tests/golden/make_published.py FOLDER        # holds samples.csv.gz of the publication; prints the tables, writes the JSON
"""

import csv
import gzip
import json
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
from nla_report import compare, runs  # noqa: E402

BASELINE = 0.6703636050224304                                           # of the publication's summaries: mean-normalised
FAILED = 2.0                                                            # its reward of a failed row is -2
OUT = SCRIPTS / "nla_report" / "published.json"


def read_groups(folder):
    lines = {}
    with gzip.open(Path(folder) / "samples.csv.gz", "rt", newline="") as f:
        for row in csv.DictReader(f):
            failed = not row["mse"]
            lines.setdefault(row["tag"], []).append({"row": int(row["idx"]), "n_response": int(row["n_tokens"]), "explanation": row["explanation"],
                                                     "mse": FAILED if failed else float(row["mse"]), "failed": "no_tags" if failed else None})
    groups = []
    for tag, rows in lines.items():
        start = tag == "base"
        value = None if start else float(tag[1:])
        group = runs.Group("warm start" if start else runs.lambda_text(value), "start" if start else "lambda", value)
        group.evaluations = [runs.Evaluation(tag, tag, {"baseline_mean": BASELINE}, rows, [])]
        group.runs = [runs.Run.of_evaluation(group.evaluations[0], [])]
        groups.append(group)
    return groups


def result(folder, resamples=4000):
    groups = read_groups(folder)
    return compare.Comparison(groups, next(g for g in groups if g.lambda_ == 0), [], resamples=resamples).result()


def reference(found):
    """What a report draws, at six digits."""
    points = [{"label": g["label"], "lambda": g["lambda"],
               **{key: {k: g[key][k] for k in ("mean", "se", "interval")} for key in ("tokens", "fve_meannorm")},
               "difference": g["difference"] and {k: {"estimate": g["difference"][k]["estimate"], "over_rows": g["difference"][k]["over_rows"]}
                                                  for k in ("tokens", "fve_meannorm")}} for g in found["groups"]]
    whole = {"what": "Qwen3-8B, block 24, 1000 rows, lambda in units of -mse", "baseline_mean": BASELINE, "points": points}
    return json.loads(json.dumps(whole), parse_float=lambda x: float(f"{float(x):.6g}"))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    found = result(sys.argv[1])
    print(compare.as_text(found))
    OUT.write_text(json.dumps(reference(found), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
