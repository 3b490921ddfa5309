#!/usr/bin/env python3
"""What bench/run.sh measured: seconds by stage on both sides, and the ratio of each round. Usage: compare.py FOLDER ROUNDS"""

import json
import statistics
import sys


def read(path):
    with open(path) as f:
        return [json.loads(line) for line in f][1:]  # the first step warms up


def main():
    folder, rounds = sys.argv[1], int(sys.argv[2])
    ours, reference, ratios = [], [], []
    for r in range(1, rounds + 1):
        a, b = read(f"{folder}/ours-{r}.jsonl"), read(f"{folder}/reference-{r}.jsonl")
        for line in a:
            line["total"] = line["seconds_rollout"] + line["seconds_score"] + line["seconds_update"]
        ratios.append(statistics.median(x["total"] for x in b) / statistics.median(x["total"] for x in a))
        ours += a
        reference += b
    tokens = {round(x["response_tokens_mean"]) for x in ours} | {round(x["response_tokens"]) for x in reference}
    print(f"tokens a response on both sides: {sorted(tokens)}; {len(ours)} steps of each")
    print(f"{'seconds a step (median)':28s}{'nla-train':>12s}{'Python':>12s}{'ratio':>9s}")
    for name, key, other in (("rollout", "seconds_rollout", "rollout"), ("score", "seconds_score", "score"),
                             ("update", "seconds_update", "update"), ("step", "total", "total")):
        a, b = statistics.median(x[key] for x in ours), statistics.median(x[other] for x in reference)
        print(f"{name:28s}{a:12.3f}{b:12.3f}{b / a:9.1f}")
    print(f"ratio of a step by round: {', '.join(f'{x:.1f}' for x in ratios)} (min {min(ratios):.1f}, max {max(ratios):.1f})")


if __name__ == "__main__":
    main()
