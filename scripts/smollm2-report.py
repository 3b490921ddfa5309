#!/usr/bin/env python3
"""
What a run of scripts/smollm2.sh left, as RUN/report.md: hours, corpus, warm start, nla-report's tables (RUN/tables.md), and some
explanations side by side. Every number comes from the run's files; what is not there yet is left out.

    scripts/smollm2-report.py RUN [--examples 12] [--seed 0]
"""
import argparse
import gzip
import json
import pathlib
import random
import sys


def lines(path):
    """Objects of a .jsonl or .jsonl.gz; none where it is absent. A last line that is cut off (a run in progress) is left out."""
    if not path.exists():
        return []
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.endswith("}\n")]


def load(path):
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def table(head, rows):
    return ["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]] + [""]


def evaluations(run):
    """[(name, folder)]: the warm start, then the sweep's runs by lambda and seed; those that are finished."""
    found = [(-1, 0, "warm start", run / "sweep" / "start")]
    for path in run.glob("sweep/lambda-*-seed-*"):
        value, seed = path.name.removeprefix("lambda-").split("-seed-")
        found.append((float(value), int(seed), f"λ {value} seed {seed}", path))
    plain = [(name, [p for p in path.glob("evaluations/step-*") if p.name.count("-") == 1]) for _, _, name, path in sorted(found)]
    newest = [(name, max(each, key=lambda p: int(p.name.removeprefix("step-")))) for name, each in plain if each]
    return [(name, folder) for name, folder in newest if (folder / "summary.json").exists()]


def hours(run):
    path = run / "hours.tsv"
    if not path.exists():
        return []
    spent = {}
    for line in path.read_text().splitlines():
        name, seconds, _ = line.split("\t")
        spent[name] = spent.get(name, 0) + int(seconds)
    rows = [[name, f"{seconds / 60:.1f}"] for name, seconds in spent.items()]
    return ["## Time", "", *table(["stage", "minutes"], rows + [["all", f"{sum(spent.values()) / 60:.1f}"]])]


def corpus(run):
    manifest = load(run / "manifest.json")
    if not manifest:
        return []
    groups = {}
    for row in manifest["sources"]:                                     # the campaigns of one game are one line
        group = groups.setdefault(row["source"], {"packages": [], "licence": row["licence"], "n": [0, 0, 0]})
        group["packages"].append(f"{row['package']} {row['version']}")
        group["n"] = [a + b for a, b in zip(group["n"], (row["documents"], row["passages"], row["bytes"]))]
    rows = [[name, g["packages"][0] + (f" and {len(g['packages']) - 1} more" if len(g["packages"]) > 1 else ""), g["licence"],
             g["n"][0], g["n"][1], f"{g['n'][2] / 1e6:.2f}"] for name, g in groups.items()]
    splits = ", ".join(f"{name} {s['passages']} passages of {s['documents']} documents" for name, s in manifest["splits"].items())
    return ["## Corpus", "", f"{manifest['bytes'] / 1e6:.1f} MB; by document: {splits}.", "",
            *table(["source", "package", "licence", "documents", "passages", "MB"], rows)]


def warm_start(run):
    out = []
    held = [x for x in lines(run / "ar" / "metrics.jsonl") if "held_fve" in x]
    if held:
        out += table(["AR step", "held-out mse", "held-out FVE", "mean-normalised"],
                     [[x["step"], f"{x['held_loss']:.4f}", f"{x['held_fve']:.3f}", f"{x['held_fve_meannorm']:.3f}"] for x in held])
    held = [x for x in lines(run / "av" / "metrics.jsonl") if x.get("held_loss_other_vector") is not None]
    if held:
        out += table(["AV step", "held-out loss", "with another row's vector", "difference"],
                     [[x["step"], f"{x['held_loss']:.4f}", f"{x['held_loss_other_vector']:.4f}",
                       f"{x['held_loss_other_vector'] - x['held_loss']:.4f}"] for x in held])
    return ["## Warm start", "", *out] if out else []


def recovered(found):
    rows = []
    for name, folder in found:
        x = load(folder / "summary.json")
        if x.get("recovered_kl") is not None:
            rows.append([name, *(f"{x[key]:.3f}" for key in ("fve", "recovered_kl", "recovered_kl_all", "kl"))])
    return ["## The model's next token", "", "The share of the KL of the mean vector that the reconstructions bring back, and the AV's own KL to the "
            "warm start.", "", *table(["", "FVE", "recovered KL", "with failures", "KL of the AV"], rows)] if rows else []


def side_by_side(run, found, count, seed):
    texts = lines(run / "eval" / "rows.jsonl.gz")
    answers = [(name, {x["row"]: x for x in reversed(lines(folder / "rows.jsonl"))}) for name, folder in found]     # first samples
    common = sorted(set.intersection(*(set(rows) for _, rows in answers))) if answers else []
    out = ["## Explanations of held-out rows", "", f"{min(count, len(common))} rows drawn with seed {seed}, not picked; the text up to "
           "the token whose activation is explained.", ""]
    for row in sorted(random.Random(seed).sample(common, min(count, len(common)))):
        out += [f"**Row {row}**, {texts[row]['doc_id']}:", "", "> " + " ".join(texts[row]["text"].split()), ""]
        cells = [(name, rows[row]) for name, rows in answers]
        out += table(["", "explanation", "tokens", "FVE"],
                     [[name, " ".join((x["explanation"] or f"({x['failed']})").split()).replace("|", "\\|"), x["n_response"],
                       f"{x['fve']:.2f}"] for name, x in cells])
    return out if common else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--examples", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = evaluations(args.run)
    tables = args.run / "tables.md"
    report = [*hours(args.run), *corpus(args.run), *warm_start(args.run),
              *(tables.read_text("utf-8").splitlines() + [""] if tables.exists() else []),
              *recovered(found), *side_by_side(args.run, found, args.examples, args.seed)]
    if not report:
        sys.exit(f"smollm2-report: error: '{args.run}' holds nothing of a run")
    (args.run / "report.md").write_text("\n".join(report).rstrip() + "\n", "utf-8")


if __name__ == "__main__":
    main()
