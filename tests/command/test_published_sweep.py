#!/usr/bin/env python3
"""The published length-penalty sweep: its table follows from its raw rows by our definition of `fve_meannorm` (1 - mean mse of the
valid rows / baseline), with its baseline 0.6703636; tokens are counted over all rows. Skips without ../shared."""

import csv
import gzip
import json
import os
import sys
from pathlib import Path

BASELINE = 0.6703636050224304
PUBLISHED = {"base": (126, .532), "p0.0": (127, .585), "p0.001": (92, .592), "p0.002": (74, .570), "p0.006": (32, .482),
             "p0.015": (25, .450), "p0.03": (14, .225)}


def main():
    source = Path(os.environ.get("SOURCE_DIR", Path(__file__).resolve().parents[2]))
    folder = Path(os.environ.get("NLA_SHARED", source.parent / "shared")) / "reference" / "length_penalty_sweep"
    if not folder.is_dir():
        print(f"skipped: there is no {folder}")
        return 77
    rows = {}
    with gzip.open(folder / "samples.csv.gz", "rt", newline="") as f:
        for row in csv.DictReader(f):
            rows.setdefault(row["tag"], []).append((int(row["n_tokens"]), row["mse"]))
    assert rows.keys() == PUBLISHED.keys(), rows.keys()
    for tag, (tokens, fve) in PUBLISHED.items():
        n = len(rows[tag])
        mean_tokens = sum(t for t, _ in rows[tag]) / n
        valid = [float(m) for _, m in rows[tag] if m]
        mean_fve = 1 - sum(valid) / len(valid) / BASELINE
        summary = json.loads((folder / f"{tag}.summary.json").read_text())
        print(f"{tag:8s} rows {n:5d} failed {n - len(valid):3d}  tokens {mean_tokens:7.2f} (published {tokens})  fve {mean_fve:.4f} (published {fve})")
        assert abs(mean_tokens - tokens) < 0.5 + 1e-9 and abs(mean_fve - fve) < 0.001
        assert abs(mean_tokens - summary["mean_tokens"]) < 1e-6 and abs(mean_fve - summary["fve"]) < 1e-6
    return 0


if __name__ == "__main__":
    sys.exit(main())
