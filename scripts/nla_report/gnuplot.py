"""PNG and PDF of the curve and of the training, for papers, where gnuplot is installed."""

import os
import shutil
import subprocess

from .figures import each_seed
from .page import palette
from .runs import Error, lambda_text, number

TERMINALS = (("png", 'pngcairo size 1350,900 fontscale 1.4 font "sans,12"'), ("pdf", 'pdfcairo size 13cm,9cm font "sans,10"'))


def block(name, rows):
    """A data block; numbers only, so nothing of a file can be a command."""
    return f"${name} << EOD\n" + "".join(" ".join("nan" if v is None else f"{v:.6g}" for v in row) + "\n" for row in rows) + "EOD\n"


def quoted(text):
    return "".join(c for c in text if c.isprintable() and c not in "\"'\\`").replace("@", "")


def curve(result):
    rows, labels, seeds = [], [], []
    for g in sorted(result["groups"], key=lambda g: str(g["setting"])):
        if g["role"] == "lambda" and g["tokens"] and g["fve"]:
            if labels and g["setting"] != setting:
                rows.append([])                                         # a gap in the line
            setting = g["setting"]
            rows.append([g["tokens"]["mean"], g["fve"]["mean"], *(g["tokens"]["interval"] or [g["tokens"]["mean"]] * 2),
                         *(g["fve"]["interval"] or [g["fve"]["mean"]] * 2)])
            seeds += each_seed(g, "fve")
            labels.append(f'set label "{quoted(g["label"])}" at {rows[-1][0]:.6g},{rows[-1][1]:.6g} offset 0.7,-0.7 noenhanced')
    if not rows:
        return None
    return (block("curve", rows) + block("seeds", seeds or [[None, None]]) + "\n".join(labels) + '\nset xlabel "response tokens"\nset ylabel "FVE (raw variance)"\nunset key\n'
            "set offsets graph 0.1, graph 0.14, graph 0.1, graph 0.1\n"
            "plot $curve using 1:2:3:4:5:6 with xyerrorbars lc rgb '#27509b' pt 7, $curve using 1:2 with lines lc rgb '#aaaaaa', "
            "$seeds using 1:2 with points lc rgb '#27509b' pt 7 ps 0.5\n")


def training(runs):
    """A line a run in the colour of its lambda, as on the page."""
    runs = sorted((r for r in runs if r.kind == "train" and r.metrics), key=lambda r: (r.lambda_ is None, r.lambda_ or 0))
    names = list(dict.fromkeys(lambda_text(r.lambda_) if r.lambda_ is not None else r.name for r in runs))
    blocks, lines, named = "", {"fve": [], "response_tokens_mean": []}, set()
    for i, r in enumerate(runs):
        blocks += block(f"run{i}", [[m["step"], number(m.get("fve")), number(m.get("response_tokens_mean"))] for m in r.metrics])
        name = lambda_text(r.lambda_) if r.lambda_ is not None else r.name
        for column, key in enumerate(lines, 2):
            title = f'title "{quoted(name)}" noenhanced' if key == "fve" and name not in named else "notitle"
            lines[key].append(f"$run{i} using 1:{column} with lines lw 1.5 lc rgb '{palette(len(names))[0][names.index(name)]}' {title}")
        named.add(name)
    if not blocks:
        return None
    return (blocks + 'set key above\nset multiplot layout 2,1\nset ylabel "FVE of the batch"\nplot ' + ", ".join(lines["fve"])
            + '\nset xlabel "step"\nset ylabel "response tokens"\nplot ' + ", ".join(lines["response_tokens_mean"]) + "\n")


def figures(folder, runs, result):
    """Writes them, each whole or not at all, and returns what there is to say. One that cannot be made does not stay from before."""
    if not shutil.which("gnuplot"):
        return ["no figures: gnuplot is not installed"]
    notes = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, script in (("curve", curve(result) if result else None), ("training", training(runs))):
            for ending, terminal in TERMINALS:
                notes += figure(folder, f"{name}.{ending}", terminal, script)
    except OSError as e:
        raise Error(f"cannot write '{e.filename or folder}': {e.strerror}") from e
    return notes


def figure(folder, name, terminal, script):
    part = folder / f".{name}.{os.getpid()}"
    head = f"set encoding utf8\nset terminal {terminal}\nset output '{part.name}'\nset grid lc rgb '#dddddd'\nset border 3\nset tics nomirror\n"
    done = subprocess.run(["gnuplot"], input=head + script, encoding="utf-8", capture_output=True, cwd=folder) if script else None
    if done and not done.returncode and part.exists():
        part.replace(folder / name)
        return []
    for path in (part, folder / name):
        path.unlink(missing_ok=True)
    return [f"no {name}: gnuplot says: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}"] if done else []
