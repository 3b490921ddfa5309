#!/usr/bin/env python3
"""
What a run of scripts/smollm2.sh left, as RUN/report.md: hours, corpus, warm start, the held-out table, explanations side by side,
and RUN/steps.png, RUN/warm.png (gnuplot). Every number comes from the run's files; what is not there yet is left out.

    scripts/smollm2-report.py RUN [--examples 12] [--seed 0]
"""
import argparse
import gzip
import json
import math
import pathlib
import random
import shutil
import subprocess
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


def mean_se(values):
    n = len(values)
    mean = sum(values) / n
    return mean, math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1) / n) if n > 1 else math.nan


def number(value, digits=3):
    return "–" if value is None else f"{value:.{digits}f}"              # of no valid row


def plus_minus(error, digits=3):
    return "" if error is None or math.isnan(error) else f" ± {error:.{digits}f}"   # of one row there is none


def evaluations(run):
    """[(name, lambda or None, folder)]: the warm start, then the sweep's by lambda and seed; those that are finished."""
    found = [("start", None, run / "start")]
    folders = []
    for path in run.glob("sweep/lambda-*-seed-*"):
        value, seed = path.name.removeprefix("lambda-").split("-seed-")
        folders.append((float(value), int(seed), path))
    several = len({seed for _, seed, _ in folders}) > 1
    found += [(f"λ {value:g}" + (f" seed {seed}" if several else ""), value, path / "eval") for value, seed, path in sorted(folders)]
    return [(name, value, folder) for name, value, folder in found if (folder / "summary.json").exists()]


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


def held_out(found):
    """Means and standard errors over the rows, and each lambda against lambda 0 row by row, failed rows scored at their mse."""
    rows, zero = [], None
    for name, value, folder in found:
        summary, each = load(folder / "summary.json"), {x["row"]: x for x in lines(folder / "rows.jsonl")}
        zero = each if value == 0 and zero is None else zero
        tokens, tokens_se = mean_se([x["n_response"] for x in each.values()])
        change = ["", ""]
        if zero is not None and each is not zero and each.keys() == zero.keys():
            base = sum(x["n_response"] for x in zero.values()) / len(zero)
            difference, error = mean_se([each[r]["fve"] - zero[r]["fve"] for r in zero])
            change = [f"{100 * (tokens / base - 1):+.0f} %", f"{difference:+.3f}{plus_minus(error)}"]
        rows.append([name, summary["rows"], f"{tokens:.1f}{plus_minus(tokens_se, 1)}",
                     f"{number(summary['fve'])}{plus_minus(summary['fve_se'])}",
                     number(summary["fve_meannorm"]), number(summary["fve_all"]), f"{100 * summary['failed_rate']:.1f} %", *change])
    head = ["", "rows", "response tokens", "FVE (raw variance)", "mean-normalised", "FVE with failures", "failures", "tokens against λ 0",
            "FVE with failures against λ 0, by row"]
    return ["## Held out", "", *table(head, rows)] if rows else []


def side_by_side(run, found, count, seed):
    texts = lines(run / "eval" / "rows.jsonl.gz")
    answers = [(name, {x["row"]: x for x in lines(folder / "rows.jsonl")}) for name, _, folder in found]
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


def plot(run, name, script, data):
    if not data or not shutil.which("gnuplot"):
        return []
    blocks = "".join(f"${label} << EOD\n" + "".join(" ".join(f"{v:.6g}" for v in point) + "\n" for point in points) + "EOD\n"
                     for label, points in data.items())
    head = f'set encoding utf8\nset terminal pngcairo size 900,620 font "sans,11"\nset output "{run / name}"\n' \
           'set grid lc rgb "#dddddd"\nset key below\n'
    done = subprocess.run(["gnuplot"], input=blocks + head + script, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"smollm2-report: error: gnuplot: {done.stderr.strip().splitlines()[-1]}")
    return [f"![{name}]({name})", ""]


def plots(run):
    data, fve, tokens = {}, [], []
    found = [(path.name.removeprefix("lambda-").split("-seed-")[0], path) for path in run.glob("sweep/lambda-*-seed-*")]
    for i, (value, folder) in enumerate(sorted(found, key=lambda x: float(x[0]))):
        points = [(x["step"], x["fve"], x["response_tokens_mean"]) for x in lines(folder / "metrics.jsonl") if x.get("fve") is not None]
        if points:
            data[f"run{i}"] = points
            label = f'lt {i + 1} lw 2 title "λ {value}"'
            fve.append(f"$run{i} using 1:2 with points lt {i + 1} pt 7 ps 0.3 notitle, $run{i} using 1:2 smooth bezier {label}")
            tokens.append(f"$run{i} using 1:3 with points lt {i + 1} pt 7 ps 0.3 notitle, $run{i} using 1:3 smooth bezier {label}")
    out = plot(run, "steps.png", 'set multiplot layout 2,1\nset ylabel "FVE of the batch"\nplot ' + ", ".join(fve) +
               '\nset xlabel "step"\nset ylabel "response tokens"\nset yrange [0:*]\nplot ' + ", ".join(tokens) + "\n", data)
    ar = [(x["step"], x["held_fve"]) for x in lines(run / "ar" / "metrics.jsonl") if "held_fve" in x]
    av = [(x["step"], x["held_loss"], x["held_loss_other_vector"]) for x in lines(run / "av" / "metrics.jsonl")
          if x.get("held_loss_other_vector") is not None]
    if ar and av:
        out += plot(run, "warm.png", 'set multiplot layout 1,2\nset xlabel "step"\nset title "AR, held-out FVE"\n'
                    'plot $ar using 1:2 with linespoints lt 1 lw 2 pt 7 notitle\nset title "AV, held-out loss"\n'
                    'plot $av using 1:2 with linespoints lt 1 lw 2 pt 7 title "own vector", '
                    '$av using 1:3 with linespoints lt 2 lw 2 pt 7 title "another row\'s"\n', {"ar": ar, "av": av})
    if (run / "sweep" / "curve.png").exists():
        out += ["![FVE against tokens](sweep/curve.png)", ""]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--examples", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = evaluations(args.run)
    report = [*hours(args.run), *corpus(args.run), *warm_start(args.run), *held_out(found), *plots(args.run),
              *side_by_side(args.run, found, args.examples, args.seed)]
    if not report:
        sys.exit(f"smollm2-report: error: '{args.run}' holds nothing of a run")
    (args.run / "report.md").write_text("\n".join(report).rstrip() + "\n", "utf-8")


if __name__ == "__main__":
    main()
