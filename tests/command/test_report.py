#!/usr/bin/env python3
"""nla-report: a page from runs finished, torn, in progress, of nla-sft, alone or hostile; what comes from files is escaped; figures
have titles; the tables are those of nla-compare; an installed copy finds its modules; --watch follows."""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path

SOURCE = Path(os.environ.get("SOURCE_DIR", Path(__file__).resolve().parents[2]))
SCRIPTS = SOURCE / "scripts"
sys.path.insert(0, str(SCRIPTS))
from nla_report import page as pages, runs  # noqa: E402

HOSTILE = "</p></template><script>alert(1)</script><img src=x onerror=alert(2)> & \"quoted\" ]]> {{x}}"
VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """Balanced tags, no attribute that acts, nothing loaded; what the tests ask of it."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.count, self.rows, self.hidden, self.text = [], {}, [], [], ""
        self.feed(text)
        assert not self.stack, self.stack

    def handle_starttag(self, tag, attributes):
        self.count[tag] = self.count.get(tag, 0) + 1
        names = dict(attributes)
        assert tag not in ("i", "img"), tag                             # of hostile names and texts
        for name, value in attributes:
            assert not name.startswith("on") and name not in ("src", "href", "action"), (tag, attributes)
        if tag == "article":
            (self.hidden if "template" in self.stack else self.rows).append((int(names["data-row"]), [float(x) for x in names["data-lost"].split(",")]))
        if tag == "svg":
            assert names["role"] == "img" and ("aria-label" in names or "aria-labelledby" in names), names
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, (tag, self.stack)
        self.stack.pop()

    def handle_data(self, data):
        if not self.stack or self.stack[-1] not in ("script", "style"):
            self.text += data


def program(out, *args, code=0, script=SCRIPTS / "nla-report", env=None):
    done = subprocess.run([sys.executable, str(script), "-o", str(out), "--resamples", "200", *map(str, args)], capture_output=True, text=True, env=env)
    assert done.returncode == code and "Traceback" not in done.stderr, f"{args}: exit {done.returncode}\n{done.stderr}"
    return (Page(Path(out).read_text("utf-8")) if not code else None), done.stderr


def line(row, mse, tokens, text, failed=None):
    return {"row": row, "explanation": text, "response": text, "n_response": tokens, "n_explanation": tokens - 7, "failed": failed, "mse": mse}


def metrics(steps):
    return "".join(json.dumps({"step": s, "reward_mean": 0.5, "fve": 0.5 + s / 100, "response_tokens_mean": 40 - s, "kl": None, "entropy": 1.5,
                               "failed_rate": 0, "seconds_rollout": 1.0, "seconds_update": 2.0, "seconds": 3.0, "loss": 0.1}) + "\n" for s in range(1, steps + 1))


def run(folder, value, seed, data, lines=None, steps=20, **summary):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"seed": seed, "steps": 20, "reward": {"lambda": value}, "eval": {"data": str(data)}}))
    (folder / "metrics.jsonl").write_text(metrics(steps) + '{"step":99,"rew')
    if lines:
        place = folder / "evaluations" / "step-20"
        place.mkdir(parents=True)
        (place / "rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        (place / "summary.json").write_text(json.dumps({"baseline_var": 0.8, "baseline_mean": 1.2, "rows": len(lines), **summary}))
    return folder


def make(tmp):
    data = tmp / "set"
    data.mkdir(parents=True)
    with gzip.open(data / "rows.jsonl.gz", "wt") as f:
        for r in range(12):
            f.write(json.dumps({"text": f"Story {r}. The cat {HOSTILE if r == 3 else ''} sat"}) + "\n")
    sweep = tmp / "sweep <b>&\""
    for seed in (0, 1):
        run(sweep / f"l0-{seed}", 0, seed, data, [line(r, 0.1 + 0.02 * r, 50, f"the small cat sat {r}") for r in range(12)], recovered_kl=0.9)
        run(sweep / f"l1-{seed}<i>", 0.01, seed, data, [line(r, 0.2 + 0.03 * r, 20, HOSTILE if r == 5 else "the cat", HOSTILE if r == 6 else None) for r in range(12)],
            recovered_kl=0.7)
    for name, true in (("l0-0", 4), ("l0-1", 3), ("l1-0<i>", 2), ("l1-1<i>", 1.5)):
        columns = {key: [value] * 12 for key, value in (("true", true), ("false", 2), ("missing", 1), ("by_chance", 1))}
        (sweep / name / "evaluations" / "step-20" / "facts.json").write_text(json.dumps(
            {"row": list(range(12)), "explanations": [1] * 12, "words": [(5 if name < "l1" else 3) * true] * 12, "words_of_facts": [true + 2] * 12, "facts": {HOSTILE: columns, "who": columns}}))
    run(tmp / "control", 0, 2, data, [line(r, 1.9, 50, "sat the") for r in range(12)])
    for name in ("shuffled", "first", "first-2"):
        shutil.copytree(tmp / "control" / "evaluations" / "step-20", sweep / "l0-0" / "evaluations" / f"step-20-{name}")
    shutil.move(tmp / "control" / "evaluations" / "step-20", sweep / "l0-0" / "evaluations" / "step-20-garbled")
    return sweep


def test_page(tmp, sweep):
    page, said = program(tmp / "a.html", sweep)
    text = (tmp / "a.html").read_text("utf-8")
    assert page.count["script"] == 1 and page.count["template"] == 1 and "img" not in page.count and "noscript" in page.count
    assert text.count("alert(1)") > 2 and "<script>alert" not in text and HOSTILE not in text
    for external in ("http:", "https:", "url(", "@import"):
        assert external not in text.replace("url(#", ""), external
    assert "prefers-color-scheme:dark" in text and "@media print" in text and 'name="viewport"' in text
    assert [r for r, _ in page.rows] == [11, 10, 9, 8, 7] and len(page.hidden) == 7, page.rows     # lost most first
    for row, lost in page.rows:
        assert abs(lost[1] - (0.1 + 0.01 * row) / 0.8) < 1e-4 and lost[0] == 0, (row, lost)
    assert text.count("<mark>sat</mark>") == 12 and "<del>small</del>" in text
    assert "small dots: single seeds" in page.text and 'r="1.8"' in text    # a few seeds say more as they are than by an interval
    assert "20.0 tokens instead of 50.0 (−60 %)" in page.text and "over rows and seeds" in page.text
    assert "changes the true facts that an explanation states by −50 %, the false ones by 0 %" in page.text, page.text
    assert "What goes first" in page.text, page.text
    assert page.text.count("Recall.") == 1 and "the words go first, by −" in page.text
    assert "Recovered KL" in text and "Seconds a step" in text and "published sweep" in text
    assert "Outside the frame: λ 0 garbled" in page.text
    # One of 12 rows fails at lambda 0.01: the claim is about all rows, and a lambda that only fails is not left out.
    assert "8.3 % fail instead of 0.0 %; FVE changes by −0.193" in page.text, page.text
    assert ": with failures a loss above 0." in page.text, page.text
    failed = [run(tmp / f"failed-{value}", value, 0, tmp / "set", [line(r, mse, 50, "x", why) for r in range(12)])
              for value, mse, why in ((0, 0.2, None), (0.02, 1.9, "no_tags"))]
    page, _ = program(tmp / "failed.html", *failed)
    assert "100.0 % fail instead of 0.0 %; all rows failed, with failures by −2.125" in page.text, page.text
    assert "with failures a loss above 2.125 is excluded" in page.text, page.text
    for path in [*tmp.glob("failed-*/evaluations/step-20/rows.jsonl")]:     # of one row nothing is claimed
        path.write_text(path.read_text().splitlines()[0] + "\n")
        facts = {"who": {"true": [1], "false": [2], "missing": [1], "by_chance": [0]}}
        (path.parent / "facts.json").write_text(json.dumps(
            {"row": [0], "explanations": [1], "words": [5], "words_of_facts": [2], "facts": facts}))
    page, _ = program(tmp / "failed.html", *failed, "--figures", tmp / "one", "--csv", tmp / "one.csv")
    assert "with failures by −2.125: of one document nothing is claimed" in page.text and "above" not in page.text, page.text
    other, _ = program(tmp / "other.html", sweep, "--base", "0.01")     # published differences are to lambda 0
    assert "published sweep" not in other.text and "What is lost for what is saved" in other.text
    few, _ = program(tmp / "few.html", sweep, "--rows", 6)
    assert len(few.rows) == 5 and len(few.hidden) == 1 and "6 of 12 rows" in few.text
    assert "texts are not here" not in page.text


def test_marked(*_):
    """The explained token is in the text's last word, or is the white space after it."""
    for text, want in (("The cat sat", "The cat <mark>sat</mark>"), ("sat\n", "sat<mark>\n</mark>"), ("sat\n\n", "sat<mark>\n\n</mark>"), ("a <b>", "a &lt;b<mark>&gt;</mark>")):
        assert pages.marked(text) == want, (text, pages.marked(text))


def test_lambdas(tmp, _):
    """In the table of runs as everywhere: a small one is not nothing."""
    for value, want in ((0, "0"), (1e-7, "1e-07"), (1.5e-6, "1.5e-06"), (0.002, "0.002")):
        found = pages.run_table([runs.Run(run(tmp / "values" / want, value, 7, tmp / "set"), [])])
        assert f"<td>nla-train</td><td>{want}</td><td>7</td>" in found, (value, found)


def test_tables(tmp, sweep):
    """The files of --csv and --markdown are what nla-compare prints; figures need gnuplot."""
    program(tmp / "a.html", sweep, "--csv", tmp / "t.csv", "--markdown", tmp / "t.md", "--figures", tmp / "figures")
    for form, name in (("--csv", "t.csv"), ("--markdown", "t.md")):
        want = subprocess.run([sys.executable, str(SCRIPTS / "nla-compare"), "--resamples", "200", form, str(sweep)], capture_output=True, text=True, check=True).stdout
        assert (tmp / name).read_text("utf-8") == want, name
    if shutil.which("gnuplot"):
        assert {p.name for p in (tmp / "figures").iterdir()} == {"curve.png", "curve.pdf", "training.png", "training.pdf"}
        assert (tmp / "figures" / "curve.png").read_bytes().startswith(b"\x89PNG")
        program(tmp / "a.html", run(tmp / "uncompared", 0, 0, tmp / "set"), "--figures", tmp / "figures")  # nor does an earlier curve stay beside its training
        assert {p.name for p in (tmp / "figures").iterdir()} == {"training.png", "training.pdf"}
        assert "cannot write" in program(tmp / "a.html", sweep, "--figures", tmp / "t.csv" / "x", code=1)[1]
    for name in ("broken", "figures"):
        (tmp / name).mkdir(exist_ok=True)
    (tmp / "broken" / "gnuplot").write_text("#!/bin/sh\nsed -n \"s/^set output '\\(.*\\)'/\\1/p\" | while read -r file; do echo half >$file; done\necho no luck >&2\nexit 1\n")
    (tmp / "broken" / "gnuplot").chmod(0o755)
    (tmp / "figures" / "curve.png").write_text("old")
    said = program(tmp / "a.html", sweep, "--figures", tmp / "figures", env={**os.environ, "PATH": f"{tmp / 'broken'}:{os.environ['PATH']}"})[1]
    assert "no curve.png: gnuplot says: no luck" in said and not list((tmp / "figures").iterdir()), said
    for args, said in (((sweep, "--base", "nonsense"), "no 'nonsense'"), ((run(tmp / "unevaluated", 0, 0, tmp / "set"),), "no table was written")):
        done = subprocess.run([sys.executable, str(SCRIPTS / "nla-report"), *map(str, args), "-o", str(tmp / "b.html"), "--markdown", str(tmp / "t.md")],
                              capture_output=True, text=True)
        assert done.returncode == 1 and said in done.stderr, done.stderr
    said = program(tmp / "a.html", sweep, "--figures", tmp / "none", env={**os.environ, "PATH": ""})[1]
    assert "gnuplot is not installed" in said, said


def test_controls(tmp, sweep):
    """Controls stand in tables of their own, the first words in a figure, and no group is made of them."""
    cut = tmp / "controls"
    shutil.copytree(sweep, cut / "sweep")
    for name, add, tokens in (("another", 1.5, 40), ("first-2", 0.4, 3), ("first-4", 0.2, 6), ("first", 0.1, 13)):
        for run_ in (cut / "sweep").iterdir():
            shutil.copytree(run_ / "evaluations" / "step-20", run_ / "evaluations" / f"step-20-{name}", dirs_exist_ok=True)
            path = run_ / "evaluations" / f"step-20-{name}" / "rows.jsonl"
            lines = [json.loads(x) for x in path.read_text().splitlines()]
            path.write_text("".join(json.dumps({**x, "mse": x["mse"] + add, "response": None, "n_response": None, "n_explanation": tokens}) + "\n" for x in lines))
            (path.parent / "summary.json").write_text('{"baseline_var": 0.8, "baseline_mean": 1.2, "control": {"of": "<b>λ 0"}}')
    page, said = program(cut / "a.html", cut / "sweep")
    text = (cut / "a.html").read_text("utf-8")
    assert "How early the information comes" in text and "another row's vector" in page.text and "Controls" in page.text and "left out" not in said, said
    assert "λ 0 another" not in page.text and "Small circles: first words of <b>λ 0, as long" in page.text and "−1.875" in page.text
    assert "FVE of the first words24all" in page.text


def test_unfinished(tmp, sweep):
    data = tmp / "set"
    lone = run(tmp / "lone<i>", 0.5, 0, data)
    (lone / "samples.jsonl").write_text(json.dumps({"step": 3, "row": 1, "tokens": 9, "fve": None, "failed": "no_tags", "response": HOSTILE}) + '\n{"st')
    page, said = program(tmp / "b.html", lone)
    assert "no evaluation yet" in said and "failed: no_tags" in page.text and "article" not in page.count and page.count["svg"] >= 5
    with gzip.open(lone / "samples.jsonl.gz", "wt") as f:
        f.write(json.dumps({"step": 4, "row": 2, "response": "old ones"}) + "\n")
    (lone / "samples.jsonl").unlink()
    torn = (lone / "samples.jsonl.gz").read_bytes()
    (lone / "samples.jsonl.gz").write_bytes(torn + torn[:15])
    assert "old ones" in program(tmp / "b.html", lone)[0].text
    sft = tmp / "sft"
    sft.mkdir()
    (sft / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "loss": 2 / s, **({"held_loss": 2.0, "held_loss_other_vector": 2.5} if s % 5 == 0 else {})}) + "\n"
                                               for s in range(1, 11)))
    page, _ = program(tmp / "c.html", sft)
    assert "another row's vector" in page.text and "Warm start" in page.text
    (tmp / "bare").mkdir()
    (tmp / "bare" / "metrics.jsonl").write_text("")
    program(tmp / "c.html", tmp / "bare")
    # One run of a sweep is evaluated on other rows, another has a broken summary and a folder for a file: the rest is compared.
    small = run(tmp / "more" / "small", 0.02, 0, data, [line(r, 0.3, 10, "x") for r in range(3)])
    broken = run(tmp / "more" / "broken", 0.03, 0, data, [line(0, 0.3, 10, "x")])
    (broken / "evaluations" / "step-20" / "summary.json").write_text('{"rows": 1')
    (broken / "config.json").unlink()
    (broken / "samples.jsonl").mkdir()
    page, said = program(tmp / "d.html", sweep, small, broken)
    assert "other rows" in said and "cannot read" in said and len(page.rows) == 5, said
    odd = run(tmp / "odd", 0.02, 0, data, [line(r, None if r == 3 else 0.3, 10, "x") for r in range(12)])   # a row without mse
    said = program(tmp / "d.html", sweep, odd)[1]
    assert "odd is left out of the comparison" in said and "no evaluation yet" not in said, said
    many = [run(tmp / "many" / str(i), 0, i, data, steps=1999) for i in range(30)]     # a page that can be sent
    program(tmp / "d.html", *many)
    assert (tmp / "d.html").stat().st_size < 6e6, (tmp / "d.html").stat().st_size
    half = run(tmp / "half", 0.02, 0, data, [line(r, 0.3, 10, "x") for r in range(12)])
    (half / "evaluations" / "step-20").rename(half / "evaluations" / "step-10")
    assert "half is not finished: its evaluation is of step 10 of 20" in program(tmp / "d.html", sweep, half)[1]
    one, _ = program(tmp / "e.html", sweep / "l1-0<i>")
    assert one.rows and "Paired differences" not in one.text
    rows, _ = program(tmp / "e.html", sweep / "l1-0<i>" / "evaluations" / "step-20", sweep / "l0-0" / "evaluations" / "step-20", "--data", tmp / "set")
    assert rows.count["mark"] == 12
    for args, word in (([tmp / "nowhere"], "there is no"), ([tmp / "set"], "neither a run"), ([sweep, "--data", tmp / "bare"], "no activation set")):
        assert word in program(tmp / "f.html", *args, code=1)[1], word
    assert "cannot write" in program(tmp / "bare" / "metrics.jsonl" / "x.html", sweep, code=1)[1]


def test_outputs(tmp, sweep):
    """A link stays, a pipe is written to, and what is no report is not replaced: settings, an input, a table by a page."""
    os.mkfifo(tmp / "pipe")
    reader = os.open(tmp / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    program(tmp / "a.html", sweep, "--markdown", tmp / "pipe", "--csv", tmp / "t.csv")
    assert os.read(reader, 12) == b"|  | runs | "
    os.close(reader)
    (tmp / "target.html").write_text("")
    (tmp / "page.html").symlink_to("target.html")
    for _ in range(2):
        program(tmp / "page.html", sweep)
    assert (tmp / "page.html").is_symlink() and (tmp / "target.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    rows = sweep / "l0-0" / "evaluations" / "step-20" / "rows.jsonl"
    for out, args in ((sweep / "l0-0" / "config.json", [sweep]), (rows, [rows]), (tmp / "t.csv", [sweep])):
        kept = out.read_bytes()
        assert f"'{out}' is no report: give another -o" in program(out, *args, code=1)[1] and out.read_bytes() == kept
    assert "t.csv' is no report: give another --markdown" in program(tmp / "a.html", sweep, "--markdown", tmp / "t.csv", code=1)[1]


def test_installed(tmp, sweep):
    """bin/ and share/nla/ next to each other, wherever they lie; build/ has links."""
    (tmp / "prefix" / "bin").mkdir(parents=True)
    shutil.copytree(SCRIPTS / "nla_report", tmp / "prefix" / "share" / "nla" / "nla_report")
    shutil.copy(SCRIPTS / "nla-report", tmp / "prefix" / "bin" / "nla-report")
    program(tmp / "g.html", sweep, script=tmp / "prefix" / "bin" / "nla-report")
    (tmp / "link").symlink_to(SCRIPTS / "nla-report")
    program(tmp / "g.html", sweep, script=tmp / "link")


def test_watch(tmp, sweep):
    late = run(tmp / "late", 0.5, 0, tmp / "set")
    watcher = subprocess.Popen([sys.executable, str(SCRIPTS / "nla-report"), "-o", str(tmp / "w.html"), "--watch", "1", "--resamples", "200", str(late)],
                               stderr=subprocess.DEVNULL)

    def wait_for(word):
        end = time.monotonic() + 120
        while time.monotonic() < end and watcher.poll() is None:
            if (tmp / "w.html").exists() and word in (tmp / "w.html").read_text("utf-8"):
                return
            time.sleep(0.2)
        raise AssertionError(f"no {word!r} in the watched page")
    try:
        wait_for("no evaluation yet")
        assert 'http-equiv="refresh" content="1"' in (tmp / "w.html").read_text("utf-8")
        shutil.copytree(sweep / "l0-0" / "evaluations", late / "evaluations")
        wait_for("<article")
    finally:
        watcher.terminate()
        watcher.wait()


def mutated(value, rng):
    """A value somewhere in a tree becomes another one, or is gone."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        rest = {k: v for k, v in value.items() if k != key}
        return rest if rng.random() < 0.2 else {**rest, key: mutated(value[key], rng)}
    return rng.choice([None, True, "x", -1, 0, 1e308, float("nan"), float("inf"), [], {}, [1], {"a": 1}, 10 ** 400, 1e-300, HOSTILE])


def test_mutated(tmp, _):
    """Files that no program writes: a page or one line of error, never a traceback."""
    rng = random.Random(0)
    for i in range(12):
        sweep = make(tmp / f"mutated-{i}")
        for path in rng.sample(sorted(p for p in sweep.rglob("*.json*") if p.is_file()), 6):
            data = path.read_text("utf-8")
            if rng.random() < 0.2:
                path.write_text(data[:rng.randrange(len(data))])
            else:
                lines = [json.dumps(mutated(json.loads(x), rng)) if x.startswith("{") and x.endswith("}") and rng.random() < 0.4 else x for x in data.splitlines()]
                path.write_text("\n".join(lines) + "\n")
        done = subprocess.run([sys.executable, str(SCRIPTS / "nla-report"), "-o", str(tmp / "m.html"), "--resamples", "100", str(sweep)], capture_output=True, text=True)
        assert "Traceback" not in done.stderr and (done.returncode == 0 or done.stderr.count("\n") == 1), done.stderr
        if done.returncode == 0:
            Page((tmp / "m.html").read_text("utf-8"))


def main():
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        sweep = make(tmp)
        for test in (test_page, test_marked, test_lambdas, test_tables, test_controls, test_unfinished, test_installed, test_watch, test_mutated):
            test(tmp, sweep)
        test_outputs(tmp, sweep)


if __name__ == "__main__":
    main()
