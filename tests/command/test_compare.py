#!/usr/bin/env python3
"""nla-compare: intervals against scipy's, differences worked by hand, samples and seeds, failures in and out, refusals, torn files, and
the three forms of output."""

import csv
import io
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

SOURCE = Path(os.environ.get("SOURCE_DIR", Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(SOURCE / "scripts"))
from nla_report import compare, controls, facts, figures, runs, stats, words  # noqa: E402

VAR, MEAN = 0.8, 1.25
N = 240


def series(which, n):
    return [((x * (37 + 10 * which) + 11 * which) % 241 / 241) ** 3 * 1.9 for x in range(n)]


def near(got, want, tolerance, what):
    assert got is not None and abs(got - want) <= tolerance, f"{what}: {got}, want {want} within {tolerance}"


def test_intervals():
    golden = json.loads((SOURCE / "tests" / "data" / "intervals.json").read_text())
    minus = [stats.Column(series(s, N)) for s in range(3)]
    plus = [stats.Column([0.9 * x + 0.02 * s for x in series(s, N)]) for s in range(3)]
    boot = stats.Bootstrap(N, 20000)
    d = stats.difference(boot, minus, plus, True)
    near(d["estimate"], golden["estimate"], 1e-12, "estimate")
    near(stats.standard_error(series(0, N)), golden["se"], 1e-12, "standard error")
    for key in ("over_rows", "both", "over_seeds"):
        width = golden[key][1] - golden[key][0]
        for got, want in zip(d[key], golden[key]):
            near(got, want, 0.03 * width, key)                          # two endpoints of drawn distributions
    for got, want in zip(d["t_over_seeds"], golden["t_over_seeds"]):
        near(got, want, 1e-9, "t over seeds")
    for df, want in golden["t"].items():
        near(stats.t_quantile(int(df)), want, 1e-9 * want, f"t of {df}")
    ordered = sorted(series(0, 11))
    for p, want in zip((0, 0.025, 0.5, 0.975, 1), golden["percentiles"]):
        near(stats.percentile(ordered, p), want, 1e-12, "percentile")
    holes = series(0, N)
    holes[::7] = [None] * len(holes[::7])
    for column, key in ((minus[0], "level"), (stats.Column(holes), "level_with_holes")):
        found = stats.difference(boot, [], [column], False)
        for got, want in zip(found["over_rows"], golden[key]):
            near(got, want, 0.03 * (golden[key][1] - golden[key][0]), key)
        assert found["both"] is None and found["t_over_seeds"] is None
        assert found["careful"] is None and stats.widest(found) == found["over_rows"]
    # The careful interval: what rows and the t interval of the seeds leave open, in quadrature; from ten seeds on over both.
    (low, high), t = d["over_rows"], stats.t_quantile(2) * stats.standard_error([b.mean - a.mean for a, b in zip(minus, plus)])
    e = d["estimate"]
    for got, want in zip(d["careful"], (e - math.hypot(e - low, t), e + math.hypot(high - e, t))):
        near(got, want, 1e-12, "careful")
    assert stats.widest(d) == d["careful"] and d["careful"][0] < min(d["both"][0], d["t_over_seeds"][0])
    ten = stats.difference(boot, [], [stats.Column(series(s % 3, N)) for s in range(10)], False)
    assert stats.widest(ten) == ten["both"] != ten["careful"]
    # Pairs of seeds that differ by the same amount leave nothing to draw; as strangers they vary.
    shifted = [stats.Column([x + 0.1 for x in series(s, N)]) for s in range(3)]
    same, strangers = (stats.difference(boot, minus, shifted, pair)["over_seeds"] for pair in (True, False))
    assert same[1] - same[0] < 1e-12 < strangers[1] - strangers[0]


def drawn_alone(values, resamples):
    """Draws of every row by itself."""
    rng, rows = random.Random("rows 0"), list(range(len(values)))
    drawn = ([values[i] for i in rng.choices(rows, k=len(rows))] for _ in range(resamples))
    return [stats.mean([v for v in one if v is not None]) for one in drawn]


def test_blocks():
    """1000 rows are drawn one by one; 100,000 in blocks, with an interval as wide and little memory."""
    values = [(x * 37 % 1009 / 1009) ** 3 for x in range(1000)]
    holes = [None if i % 7 == 0 else v for i, v in enumerate(values)]
    boot = stats.Bootstrap(1000, 500)
    for column in (values, holes):
        got, want = stats.interval(boot.over_rows(stats.Column(column))), stats.interval(drawn_alone(column, 500))
        assert max(abs(a - b) for a, b in zip(got, want)) < 1e-12, (got, want)
    assert stats.Bootstrap(4, 100, documents="aaaa").over_rows(stats.Column([1, 2, 3, None])) == [2] * 100
    tracemalloc.start()
    many = [(x * 7919 % 100003 / 100003) ** 3 for x in range(100000)]
    low, high = stats.interval(stats.Bootstrap(100000, 4000).over_rows(stats.Column(many)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    near((high - low) / 2, 1.96 * stats.standard_error(many), 0.1 * stats.standard_error(many), "in blocks")
    assert peak < 500e6, f"{peak / 1e6:.0f} MB"


def line(row, mse, tokens, text, failed=None):
    return {"row": row, "explanation": None if failed else text, "response": text, "n_response": tokens, "n_explanation": tokens - 7, "failed": failed,
            "mse": mse, "fve": 1 - mse / VAR, "fve_meannorm": 1 - mse / MEAN}


def evaluation(folder, lines, **summary):
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (folder / "summary.json").write_text(json.dumps({"baseline_var": VAR, "baseline_mean": MEAN, "data": "eval", **summary}))


def run(folder, value, seed, lines, **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"seed": seed, "steps": 3, "reward": {"lambda": value, "score": "fve"}, "update": {"lr": 0.01}, **config}))
    (folder / "metrics.jsonl").write_text('{"step":1,"reward_mean":0.5,"fve":0.5}\n{"step":2,"rew')
    evaluation(folder / "evaluations" / "step-3", lines)


def program(*args, code=0, cwd=None):
    done = subprocess.run([sys.executable, str(SOURCE / "scripts" / "nla-compare"), *map(str, args)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == code and "Traceback" not in done.stderr, f"{args}: exit {done.returncode}\n{done.stderr}"
    return done.stdout, done.stderr


def by_label(result):
    return {g["label"]: g for g in result["groups"]}


def test_by_hand(tmp):
    """Two samples of row 1 are averaged; row 2 fails in B, so failures out compares rows 0, 1, 3."""
    evaluation(tmp / "a", [line(0, 0.4, 50, "the cat sat"), line(1, 0.2, 40, "a dog"), line(1, 0.4, 44, "a bird"), line(2, 0.8, 60, "x"), line(3, 0.2, 30, "y z")])
    evaluation(tmp / "b", [line(0, 0.5, 20, "cat"), line(1, 0.3, 22, "dog"), line(2, 2.0, 99, "x", "truncated"), line(3, 0.2, 15, "y")])
    result = json.loads(program("--json", tmp / "a", tmp / "b")[0])
    a, b = result["groups"]
    assert result["base"] == "a" and a["difference"] is None and result["rows"] == 4
    near(a["tokens"]["mean"], (50 + 42 + 60 + 30) / 4, 1e-12, "tokens")
    near(a["fve"]["mean"], 1 - (0.4 + 0.3 + 0.8 + 0.2) / 4 / VAR, 1e-12, "fve")
    near(b["fve"]["mean"], 1 - (0.5 + 0.3 + 0.2) / 3 / VAR, 1e-12, "fve without failures")
    near(b["fve_all_meannorm"]["mean"], 1 - 3.0 / 4 / MEAN, 1e-12, "with failures")
    near(b["failed_rate"], 0.25, 1e-12, "failed")
    d = b["difference"]
    near(d["tokens"]["estimate"], (20 + 22 + 99 + 15) / 4 - 45.5, 1e-12, "difference of tokens")
    near(d["fve"]["estimate"], -(0.1 + 0 + 0) / 3 / VAR, 1e-12, "difference without failures")
    near(d["fve_meannorm"]["estimate"], -0.1 / 3 / MEAN, 1e-12, "mean-normalised")
    near(d["fve_all"]["estimate"], -(0.1 + 0 + 1.2 + 0) / 4 / VAR, 1e-12, "difference with failures")
    assert d["valid_rows"] == 3 and d["fve"]["both"] is None
    near(d["fve"]["largest_loss_not_excluded"], -d["fve"]["over_rows"][0], 1e-12, "largest loss")
    near(b["wording"]["kept"], (1 / 3 + 1 / 2 + 0 + 1 / 2) / 4, 1e-12, "words kept")
    near(b["wording"]["found"], 1.0, 1e-12, "words found")
    assert json.loads(program("--json", "--base", tmp / "b", tmp / "a", tmp / "b")[0])["base"] == "b"
    for args in ((f"{tmp}/./b", tmp / "a"), (f"{tmp}//b/", tmp / "a"), ("--base", f"{tmp}/./b", tmp / "a", tmp / "b")): # however it is spelled
        assert json.loads(program("--json", *args)[0])["base"] == "b", args
    assert program("--json", tmp / "a", tmp / "b") == program("--json", tmp / "a", tmp / "b")
    assert program("--json", "--seed", 1, tmp / "a", tmp / "b") != program("--json", tmp / "a", tmp / "b")


def test_forms(tmp):
    text, _ = program(tmp / "a", tmp / "b")
    assert "losses excluded" in text and "−0.042" in text and "4 rows" in text, text
    done = subprocess.run([sys.executable, str(SOURCE / "scripts" / "nla-compare"), str(tmp / "a"), str(tmp / "b")], capture_output=True,
                          env={**os.environ, "PYTHONIOENCODING": "latin-1"})                              # as where the locale is no UTF-8
    assert done.stdout.decode("utf-8") == text, done.stderr
    table = program("--markdown", tmp / "a", tmp / "b")[0].splitlines()
    assert table[1].startswith("| --- |") and all(x.count("|") == table[0].count("|") for x in table[:4]), table
    lines = list(csv.DictReader(io.StringIO(program("--csv", tmp / "a", tmp / "b")[0])))
    assert [x["group"] for x in lines] == ["a", "b"] and lines[0]["fve_difference"] == ""
    near(float(lines[1]["fve_difference"]), -0.1 / 3 / VAR, 1e-9, "csv")


def test_stdout(tmp):
    """Nobody reads it any more; there is no room for it."""
    reader, writer = os.pipe()
    os.close(reader)
    for out, limit, said in ((writer, -1, []), (os.open(tmp / "full", os.O_CREAT | os.O_WRONLY), 0, ["nla-compare: error: cannot write to standard output: File too large"])):
        done = subprocess.run([sys.executable, "-B", str(SOURCE / "scripts" / "nla-compare"), str(tmp / "a"), str(tmp / "b")], stdout=out, stderr=subprocess.PIPE, text=True,
                              preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        os.close(out)
        assert done.returncode == 1 and [x for x in done.stderr.splitlines() if "rror" in x] == said, done.stderr


def test_failures(tmp):
    """Failures out: a row counts where some run of either side has it, and who fails there moves nothing."""
    def lines(seed, add, gone):
        return [line(r, 0.1 * (1 + seed % 3) + 0.02 * r + add, 30, "x", "truncated" if gone(r) else None) for r in range(10)]
    for seed in range(10):                                              # a run a row: no row is valid in all
        run(tmp / "each" / f"l0-{seed}", 0, seed, lines(seed, 0, lambda r, s=seed: r == s))
        run(tmp / "each" / f"l1-{seed}", 0.01, seed, lines(seed, 0.1, lambda r, s=seed: r == (s + 3) % 10))
    for seed in (0, 1):                                                 # the worse run fails in most rows, and another in all
        run(tmp / "worse" / f"l0-{seed}", 0, seed, lines(seed, 0, lambda r: False))
        run(tmp / "worse" / f"l1-{seed}", 0.01, seed, lines(seed, 0.1, lambda r, s=seed: s and r < 7))
    for value in (0, 0.01):
        run(tmp / "worse" / f"l{value}-2", value, 2, lines(2, 0, lambda r, v=value: v))
    for sweep, rows, seeds in (("each", 10, 10), ("worse", 10, 2)):
        d = by_label(json.loads(program("--json", tmp / sweep)[0]))["λ 0.01"]["difference"]
        assert d["valid_rows"] == rows and d["fve"]["seeds"] == seeds and d["paired_seeds"], d
        for got in (d["fve"]["estimate"], *d["fve"]["t_over_seeds"]):
            near(got, -0.1 / VAR, 1e-3, sweep)
    # A run whose rows all failed is named, and its lambda keeps the level of the other runs.
    found, said = by_label(json.loads(program("--json", tmp / "worse")[0])), program(tmp / "worse")[1]
    near(found["λ 0.01"]["fve"]["mean"], 1 - stats.mean([stats.mean([0.1 * (1 + s) + 0.02 * r + 0.1 for r in range(7 * s, 10)]) for s in (0, 1)]) / VAR,
         1e-12, "level without the run that failed")
    assert "FVE without failures of λ 0.01 less λ 0 is of 2 of 3 runs of λ 0.01" in said, said
    near(found["λ 0.01"]["wording"]["type_token_pooled"], found["λ 0"]["wording"]["type_token_pooled"], 1e-12, "of the runs that have words")
    # Runs that share few rows need many rounds.
    rng = random.Random(0)
    rows = [(rng.random(), rng.random() < 0.06, rng.random() < 0.06) for _ in range(1000)]
    one, other = ([x + add if has else None for x, *have in rows for has in [have[k]]] for k, add in ((0, 0.0), (1, 0.3)))
    means = [stats.mean([v for v in c if v is not None]) for c in stats.filled([one, other])]
    near(means[1] - means[0], 0.3, 1e-6, "few shared rows")
    out, said = program(tmp / "a", tmp / "b")
    assert "3 of 4" in out and "4 of 4" in out and "b: FVE without failures is of 3 of 4 rows" in said, (out, said)


def test_refusals(tmp):
    evaluation(tmp / "c", [line(0, 0.4, 50, "x"), line(7, 0.2, 40, "y"), line(9, 0.2, 40, "y")])
    _, said = program(tmp / "a", tmp / "c", code=1)
    assert "row 1 of" in said and "--common" in said, said
    out, said = program("--common", "--json", tmp / "a", tmp / "c")
    assert json.loads(out)["rows"] == 1 and "only the 1 rows" in said, said
    evaluation(tmp / "other", [line(r, 0.4, 50, "x") for r in range(4)], baseline_var=0.9, data="another")
    assert "different sets" in program(tmp / "a", tmp / "other", code=1)[1]
    evaluation(tmp / "moved", [line(r, 0.4, 50, "x") for r in range(4)], baseline_var=0.9)
    out, said = program("--json", tmp / "a", tmp / "moved")
    near(by_label(json.loads(out))["moved"]["fve"]["mean"], 0.5, 1e-12, "one baseline for all")
    assert "another baseline" in said
    # Baselines that are stored with a set tell sets apart whose folders share a name; so does the one that both have.
    for name, var, mean in (("half", 0.5, MEAN), ("more", 0.6, MEAN), ("mean", None, MEAN), ("mean-2", None, 1.3)):
        lines = [line(r, 0.4, 50, "x") for r in range(4)]
        evaluation(tmp / name, lines, baseline_of="data", baseline_var=var, baseline_mean=mean)
    for one, other, *have in (("half", "more", "0.5,", "0.6,"), ("mean", "mean-2", "1.25,", "1.3,"),
                              ("half", "mean-2", "1.25,", "1.3,")):
        said = program(tmp / one, tmp / other, code=1)[1]
        assert all(word in said for word in ("different sets", f"{tmp / one}' is {have[0]}", f"{tmp / other}' {have[1]}")), said
    program(tmp / "half", tmp / "mean")
    # Other settings of sampling are said; of given texts there are none.
    settings = {"temperature": 1, "max_new_tokens": 40, "min_new_tokens": 0, "truncated": "fail"}
    for name, other in (("as-it-is", {}), ("longer", {"max_new_tokens": 160}), ("at-least", {"min_new_tokens": 8, "truncated": "score"}), ("cold", {"temperature": 0.5})):
        evaluation(tmp / name, [line(r, 0.4, 50, "x") for r in range(4)], **settings | other)
    evaluation(tmp / "texts", [{**line(r, 0.4, 50, "x"), "n_response": None} for r in range(4)], **settings | {"max_new_tokens": 120})
    for name, want in (("longer", ["max_new_tokens: 40, 160"]), ("at-least", ["min_new_tokens: 0, 8", "truncated: fail, score"]), ("cold", ["sampling temperatures: 1, 0.5"]),
                       ("texts", []), ("a", [])):
        said = [x.split("differ in ")[1] for x in program(tmp / "as-it-is", tmp / name)[1].splitlines() if "differ in" in x]
        assert said == want, (name, said)
    (tmp / "empty").mkdir()
    for args, word in (([tmp / "nowhere"], "there is no"), ([tmp / "empty"], "neither a run"), (["--base", "x", tmp / "a"], "no 'x'")):
        assert word in program(*args, code=1)[1], word
    program(code=2)
    program("--resamples", 1, tmp / "a", code=2)


def test_groups(tmp):
    """Runs of a lambda are one group over seeds; a torn rows.jsonl, a run without evaluation and one of nla-sft do not stop it."""
    for seed in (0, 1, 2):
        run(tmp / "sweep" / f"l0-s{seed}", 0, seed, [line(r, x, 50 + r % 3, f"one two three {r}") for r, x in enumerate(series(seed, 40))])
        run(tmp / "sweep" / f"l1-s{seed}", 0.01, seed, [line(r, 0.9 * x + 0.02 * seed, 30 + r % 3, f"one {r}") for r, x in enumerate(series(seed, 40))])
    rows = tmp / "sweep" / "l1-s2" / "evaluations" / "step-3" / "rows.jsonl"
    rows.write_text(rows.read_text() + '{"row": 40, "mse')
    run(tmp / "sweep" / "new", 0.02, 0, [])
    (tmp / "sweep" / "warm").mkdir()
    (tmp / "sweep" / "warm" / "metrics.jsonl").write_text('{"step":1,"loss":2.5}\n')
    out, said = program("--json", tmp / "sweep")
    result = json.loads(out)
    assert [(g["label"], g["runs"], g["seeds"]) for g in result["groups"]] == [("λ 0", 3, [0, 1, 2]), ("λ 0.01", 3, [0, 1, 2])], result["groups"]
    assert "no finished evaluation" in said and "nla-sft" in said
    text = program(tmp / "sweep")[0]
    assert "Lambda is in units of reward.score a token that counts (score fve)." in text, text
    assert "over both" in text and "careful" in text and "fewer than ten seeds" in text and "corrected" not in text, text
    d = by_label(result)["λ 0.01"]["difference"]
    assert d["paired_seeds"]
    near(d["tokens"]["estimate"], -20, 1e-9, "tokens over seeds")
    gaps = [stats.mean([0.1 * x - 0.02 * s for x in series(s, 40)]) / VAR for s in range(3)]
    near(d["fve"]["estimate"], sum(gaps) / 3, 1e-12, "fve over seeds")
    near(d["fve"]["t_over_seeds"][0], sum(gaps) / 3 - stats.t_quantile(2) * stats.standard_error(gaps), 1e-12, "t")
    assert d["fve"]["both"][0] <= d["fve"]["over_rows"][0] + 0.002
    assert d["fve"]["largest_loss_not_excluded"] == max(0.0, -d["fve"]["careful"][0])
    # Without a seed on one side the others stay pairs, and it is said.
    (tmp / "sweep" / "l0-s1").rename(tmp / "l0-s1")
    out, said = program("--json", tmp / "sweep")
    few = by_label(json.loads(out))["λ 0.01"]["difference"]
    assert few["paired_seeds"] and few["fve"]["seeds"] == 2 and "by the seeds that both have; without a pair: 1" in said, said
    near(few["fve"]["estimate"], (gaps[0] + gaps[2]) / 2, 1e-12, "of the pairs")
    near(few["tokens_of"], stats.mean([50 + r % 3 for r in range(40)]), 1e-12, "tokens of the pairs")
    (tmp / "l0-s1").rename(tmp / "sweep" / "l0-s1")
    wording = by_label(result)["λ 0"]["wording"]
    near(wording["kept"], 1.0, 1e-12, "two seeds of lambda 0")
    near(wording["kept_other_row"], 0.75, 1e-12, "another row")
    near(by_label(result)["λ 0.01"]["wording"]["kept"], 0.5, 1e-12, "kept")
    # One whose configuration cannot be read is no experiment that another label could name.
    shutil.copytree(tmp / "sweep" / "l0-s0", tmp / "sweep" / "torn")
    (tmp / "sweep" / "torn" / "config.json").write_text('{"seed": 0, "ste')
    out, said = program("--json", tmp / "sweep")
    assert json.loads(out)["groups"] == result["groups"] and "torn is left out: its config.json cannot be read" in said and "cannot read '" in said, said
    shutil.rmtree(tmp / "sweep" / "torn")
    # Another learning rate is another experiment; seeds alone stand each for itself.
    run(tmp / "sweep" / "lr", 0.01, 0, [line(r, x, 20, "one") for r, x in enumerate(series(0, 40))], update={"lr": 0.1})
    labels = [g["label"] for g in json.loads(program("--json", tmp / "sweep")[0])["groups"]]
    assert "λ 0.01 update.lr 0.1" in labels and len(labels) == 3, labels
    labels = [g["label"] for g in json.loads(program("--json", tmp / "sweep" / "l0-s0", tmp / "sweep" / "l0-s1")[0])["groups"]]
    assert labels == ["l0-s0", "l0-s1"], labels
    # A key that one version has and another has not makes no other experiment, unless those that have it differ.
    for i, (rollout, want) in enumerate((({0: {"group": 4}, 1: {"group": 4, "min_new_tokens": 0}}, ["λ 0", "λ 0.01"]),
                                         ({0: {"min_new_tokens": 0}, 1: {"min_new_tokens": 8}}, [f"λ {v} rollout.min_new_tokens {n}" for v in (0, 0.01) for n in (0, 8)]))):
        for value in (0, 0.01):
            for seed in (0, 1):
                run(tmp / f"versions-{i}" / f"l{value}-{seed}", value, seed, [line(r, x, 20, "one") for r, x in enumerate(series(0, 40))], rollout=rollout[seed])
        labels = [g["label"] for g in json.loads(program("--json", tmp / f"versions-{i}")[0])["groups"]]
        assert labels == want, labels
    # So are another type of the weights and another base.
    for name in ("dtype", "av_base", "ar_base"):
        for which in (0, 1):
            run(tmp / name / f"l{which}", 0.01, which, [line(r, x, 20, "one") for r, x in enumerate(series(0, 40))], **{name: f"/{which}"})
        labels = [g["label"] for g in json.loads(program("--json", tmp / name)[0])["groups"]]
        assert labels == [f"λ 0.01 {name} /{which}" for which in (0, 1)], labels


def test_beside(tmp):
    """The warm start is the runs' step 0 or an evaluation of the AV they began with; named evaluations stand next to their lambda."""
    lines = [line(r, 0.2, 40, "a b") for r in range(5)]
    sweep = tmp / "beside"
    for value in (0, 0.01):
        run(sweep / f"l{value}", value, 0, lines, av=str(tmp / "av"))
        for name, content in (("eval-0", [line(r, 0.4, 45, "a") for r in range(5)]), ("eval-3", lines)):
            (sweep / f"l{value}" / f"{name}.json").write_text(json.dumps({"baseline_var": VAR, "baseline_mean": MEAN}))
            (sweep / f"l{value}" / f"{name}.rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in content))
    evaluation(sweep / "l0" / "evaluations" / "step-3-odd", [line(r, 0.6, 40, "b a") for r in range(5)])
    evaluation(sweep / "l0" / "evaluations" / "step-3-few", lines[:2])
    few = (sweep / "l0" / "evaluations" / "step-3-few" / "rows.jsonl").read_text()
    (sweep / "l0" / "evaluations" / "step-3" / "rows.jsonl").write_text(few)    # a look at two rows, next to the run's own five
    out, said = program("--json", sweep)
    found = by_label(json.loads(out))
    assert list(found) == ["warm start", "λ 0", "λ 0.01", "λ 0 odd"] and "λ 0 few is left out" in said, (list(found), said)
    assert found["warm start"]["runs"] == 1 and abs(found["warm start"]["fve"]["mean"] - 0.5) < 1e-12   # two runs share it
    assert found["λ 0"]["paths"] == [str(sweep / "l0" / "eval-3.json")] and found["λ 0 odd"]["role"] == "named"
    near(found["λ 0 odd"]["difference"]["fve"]["estimate"], -0.5, 1e-12, "control")
    # A run, or its path, is never the warm start that its step 0 was; an evaluation of the warm start is one.
    for args, base in (([sweep / "l0", sweep / "l0.01"], "λ 0"), ([sweep / "l0.01", sweep / "l0", "--base", sweep / "l0"], "λ 0"),
                       ([sweep / "l0", sweep / "l0.01", "--base", "l0.01"], "λ 0.01"), ([sweep / "l0", "--base", "warm start"], "warm start")):
        assert json.loads(program("--json", *args)[0])["base"] == base, (args, base)
    shutil.copytree(sweep / "l0", tmp / "start", ignore=shutil.ignore_patterns("evaluations", "eval-3*"))
    (tmp / "start" / "config.json").write_text(json.dumps({"seed": 0, "steps": 0, "reward": {"lambda": 0}}))
    assert json.loads(program("--json", tmp / "start", sweep / "l0", sweep / "l0.01")[0])["base"] == "warm start"
    # One of another step says so, and seeds are pooled by step; of several steps the run's own counts.
    steps = tmp / "steps"
    for value, seed, named in ((0, 0, ("2",)), (0, 1, ("3", "9")), (0.01, 0, ("3",))):
        run(steps / f"l{value}-{seed}", value, seed, lines)
        for step in named:
            evaluation(steps / f"l{value}-{seed}" / "evaluations" / f"step-{step}-other", [line(r, 0.1 * int(step), 40, "b a") for r in range(5)])
    found = by_label(json.loads(program("--json", steps)[0]))
    assert list(found) == ["λ 0", "λ 0.01", "λ 0 other of step 2", "λ 0 other", "λ 0.01 other"], list(found)
    for label, paths, mse in (("λ 0 other", ["l0-1/evaluations/step-3-other"], 0.3), ("λ 0 other of step 2", ["l0-0/evaluations/step-2-other"], 0.2)):
        assert found[label]["paths"] == [str(steps / path) for path in paths], found[label]["paths"]
        near(found[label]["fve"]["mean"], 1 - mse / VAR, 1e-12, label)
    evaluation(tmp / "begun", [line(r, 0.4, 45, "a") for r in range(5)], av=str(tmp / "av"))
    out = json.loads(program("--json", sweep, tmp / "begun")[0])
    assert [g["paths"] for g in out["groups"] if g["role"] == "start"] == [[str(tmp / "begun")]]
    evaluation(tmp / "given", [{"row": r, "explanation": "a", "response": None, "n_explanation": 4, "mse": 0.4, "failed": None} for r in range(5)], av=str(tmp / "av"))
    found = by_label(json.loads(program("--json", sweep, tmp / "given")[0]))
    assert found["given"]["role"] == "other" and found["given"]["tokens"] is None and found["given"]["difference"]["tokens"] is None
    near(found["given"]["explanation_tokens"]["mean"], 4, 1e-12, "tokens of given texts")


def test_controls(tmp):
    """Texts of two samples a row, one failed; a control's levels and what it has less, of rows valid in both; the AR at the start."""
    lines = [line(0, 0.2, 50, "the cat sat\non it"), line(0, 0.4, 50, "a dog ran"), line(1, 2.0, 9, "", "truncated"), line(1, 0.6, 60, "one two three four five")]
    for x in lines:
        x["mse_start_ar"] = x["mse"] + 0.2
    folder = tmp / "sweep-c" / "l0"
    run(folder, 0, 0, lines, ar_update={"enabled": True})
    found = runs.Run(folder, []).evaluation
    made = controls.texts_of(found, {0: "text 0", 1: "text 1"})
    assert list(made) == ["empty", "text", "shuffled", "first-2", "first-4"] and made["empty"] == [(0, "", None), (1, "", None)], list(made)
    assert [t for _, t, _ in made["text"]] == ["text 0", "text 1"] and "text" not in controls.texts_of(found, {0: "text 0", 1: ""})
    assert [(row, text, bool(failed)) for row, text, failed in made["first-4"]] == [(0, "the cat sat\non", False), (0, "a dog ran", False), (1, None, True),
                                                                                  (1, "one two three four", False)], made["first-4"]
    shuffled = [text for _, text, failed in made["shuffled"] if not failed]
    assert [sorted(t.split()) for t in shuffled] == [sorted(x["explanation"].split()) for x in lines if not x["failed"]] and shuffled[0].count("\n") == 1
    assert shuffled != [x["explanation"] for x in lines if not x["failed"]] and controls.texts_of(found, {})["shuffled"] == made["shuffled"]
    near(controls.mean_tokens(found), (43 + 43 + 53) / 3, 1e-12, "mean tokens")
    text = " ".join(f"w{i:02}" for i in range(40))                      # a word of 4 characters is 2 tokens, but for the first
    for mean in (10, 33, 80):
        cut = controls.cut([(text, 80), (text[:39], 20)], mean)
        assert text.startswith(cut[0]) and abs(sum(len(c) / 2 for c in cut) / 2 - min(mean, 50)) < 1.1, (mean, cut)
    assert controls.first("\u72ac\u304c \u8d70\u308b", 3) == "\u72ac\u304c \u8d70"
    evaluation(folder / "evaluations" / "step-3-empty", [{"row": r, "explanation": "", "n_explanation": 0, "failed": None, "mse": mse} for r, mse in ((0, 1.3), (1, 1.1))],
               control={"name": "empty"})
    result = json.loads(program("--json", tmp / "sweep-c")[0])
    group = by_label(result)["λ 0"]
    own, empty = group["controls"]
    near(own["fve"], 1 - (0.3 + 0.6) / 2 / VAR, 1e-12, "own")
    near(empty["fve_meannorm"], 1 - 1.2 / MEAN, 1e-12, "empty")
    near(empty["difference"]["estimate"], -(1.0 + 0.5) / 2 / VAR, 1e-12, "less")
    near(group["fve_start_ar"]["mean"], 1 - (0.5 + 0.8) / 2 / VAR, 1e-12, "by the first AR")
    assert len(result["groups"]) == 1 and own["explanation_tokens"] == (43 + 53) / 2 and empty["explanation_tokens"] == 0
    # It stands where it was made of this evaluation and decoded alike, as far as both say.
    own = {"seed": 0, "temperature": 1, "max_new_tokens": 40, "min_new_tokens": 0, "truncated": "fail"}
    given = [{"row": 0, "explanation": "", "n_explanation": 0, "failed": None, "mse": 1.3}]
    of, notes = runs.Evaluation("own", "", own, lines, []), []
    for kind, rows in (("sampled", lines), ("given", given)):
        for other, want in (({}, True), ({"max_new_tokens": 160}, kind == "given"), ({"min_new_tokens": 8}, kind == "given"), ({"truncated": "score"}, kind == "given"),
                            ({"temperature": 0.5}, False)):
            for marked in ({}, {"control": {"evaluation": controls.mark(of)}}):
                found = controls.stands(runs.Evaluation("", "", {**own, **other, **marked}, rows, notes), of)
                assert found == (want or "temperature" in other and bool(marked)), (kind, other, marked)
    assert not controls.stands(runs.Evaluation("", "", {**own, "control": {"evaluation": "another"}}, lines, notes), of)
    assert controls.stands(runs.Evaluation("", "", {"seed": 0}, lines, notes), of)
    out = program(tmp / "sweep-c")[0]
    start = tmp / "sweep-c" / "start"                                   # a run of no steps: the warm start
    run(start, 0, 0, lines)
    (start / "config.json").write_text('{"steps": 0, "reward": {"lambda": 0}}')
    (start / "metrics.jsonl").write_text("")
    (start / "evaluations" / "step-3").rename(start / "evaluations" / "step-0")
    evaluation(start / "evaluations" / "step-0-empty", [{"row": r, "explanation": "", "n_explanation": 0, "failed": None, "mse": 1.2} for r in (0, 1)])
    groups = json.loads(program("--json", tmp / "sweep-c")[0])["groups"]
    assert [(g["label"], g["role"], len(g["controls"])) for g in groups] == [("warm start", "start", 2), ("λ 0", "lambda", 2)], groups
    near(groups[0]["fve_start_ar"]["mean"], groups[0]["fve"]["mean"], 1e-12, "its AR is the first")
    for av, ar, other in (("1", "2", None), ("3", "2", "AV"), ("1", "3", "AR")):
        for path, av_of, ar_of in ((folder, "1", "2"), (start, av, ar)):
            (path / "inputs.json").write_text(json.dumps({"av": av_of, "ar": ar_of}))
        out_of, said = program("--json", tmp / "sweep-c")
        assert (f"the warm start is of another {other} than λ 0: left out" in said) == bool(other), (other, said)
        assert [g["role"] for g in json.loads(out_of)["groups"]] == ["start", "lambda"][bool(other):], other
    (start / "inputs.json").unlink()
    assert "no words" in out and "FVE by the AR at the start" in out, out
    assert list(csv.DictReader(io.StringIO(program("--csv", tmp / "sweep-c")[0])))[1]["empty_fve"] == str(empty["fve"])


def test_settings(tmp):
    """Runs of other settings are compared with the base's lambda of their own; where there is none nothing is claimed."""
    for rate, values in ((1e-5, (0, 0.002, 0.01)), (1e-4, (0, 0.002, 0.01)), (1e-3, (0.01,))):
        for value in values:
            run(tmp / "rates" / f"l{value}-{rate}", value, 0, [line(r, 0.2 + 1000 * rate + value, 30, "x") for r in range(30)],
                update={"lr": rate})
    out = json.loads(program("--json", tmp / "rates")[0])
    found = {g["label"].removeprefix("λ ").replace("update.lr ", ""): g["difference"] for g in out["groups"]}
    assert found["0 0.0001"] is None and out["base"] == "λ 0 update.lr 0.0001", found.keys()
    for label, to, gain, claims in (("0.01 1e-05", "1e-05", -0.01, True), ("0.01 0.0001", "0.0001", -0.01, True),
                                    ("0 1e-05", "0.0001", 0.09, False), ("0.01 0.001", "0.0001", -0.91, False)):
        d = found[label]
        assert d["to"] == f"λ 0 update.lr {to}" and (d["fve"]["largest_loss_not_excluded"] is not None) == claims, (label, d)
        near(d["fve"]["estimate"], gain / VAR, 1e-12, label)
    assert "λ 0.01 update.lr 1e-05, less λ 0 update.lr 1e-05" in program(tmp / "rates")[0]
    lines = figures.joined([(g, g["tokens"]["mean"], g["lambda"]) for g in out["groups"]])
    assert lines == [[(30, 0), (30, 0.002), (30, 0.01)]] * 2 + [[(30, 0.01)]], lines


def facts_json(folder, explanations, words, used, **kinds):
    made = {kind: dict(zip(("true", "false", "missing", "by_chance"), columns)) for kind, columns in kinds.items()}
    (folder / "facts.json").write_text(json.dumps({"row": [0, 1, 2, 3], "explanations": explanations, "words": words, "words_of_facts": used, "facts": made}))


def test_facts(tmp):
    """Shares of all that was counted, by hand; their draws are those of the ratio; what is no facts.json is left out and said."""
    for name, mse in (("fa", 0.2), ("fb", 0.3)):
        evaluation(tmp / name, [line(r, mse, 30, "x") for r in range(4)])
    assert by_label(json.loads(program("--json", tmp / "fa", tmp / "fb")[0]))["fa"]["facts"] is None
    facts_json(tmp / "fa", [1, 2, 1, 1], [10, 20, 10, 10], [4, 10, 4, 2], who=([1, 2, 1, 0], [1, 0, 1, 2], [1, 2, 1, 2], [0, 1, 1, 0]),
               where=([0, 4, 0, 2], [0, 0, 1, 0], [1, 0, 1, 0]))
    facts_json(tmp / "fb", [1, 1, 0, 1], [5, 6, 0, 4], [4, 4, 0, 2], who=([1, 1, 0, 0], [0, 0, 0, 1], [1, 1, 0, 2], [0, 0, 0, 0]),
               where=([0, 2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 2]))
    out, _ = program("--json", tmp / "fa", tmp / "fb")
    a, b = (by_label(json.loads(out))[name]["facts"] for name in ("fa", "fb"))
    for got, want, what in ((a["kinds"]["who"]["recall"], 4 / 10, "recall"), (a["kinds"]["who"]["precision"], 4 / 8, "precision"), (a["kinds"]["where"]["recall"], 6 / 8, "where"),
                            (a["kinds"]["all facts"]["recall"], 10 / 18, "all"), (b["kinds"]["who"]["recall_difference"], 2 / 6 - 4 / 10, "recall, less"),
                            (b["kinds"]["where"]["precision_difference"], 1 - 6 / 7, "precision, less"), (a["true"], 10 / 5, "true"), (a["false"], 5 / 5, "false"),
                            (a["other_words"], 30 / 5, "other words"), (b["other_words_share"], 5 / 15, "share"), (b["true_change"], (4 / 3) / 2 - 1, "true, change"),
                            (b["false_change"], (1 / 3) / 1 - 1, "false, change"), (b["other_words_change"], (5 / 3) / 6 - 1, "other words, change"),
                            (b["other_less_true"], (5 / 3) / 6 - (4 / 3) / 2, "the one less the other")):
        near(got["mean"], want, 1e-12, what)
        assert got["interval"][0] <= want <= got["interval"][1], (what, got)
    near(a["kinds"]["who"]["recall_by_chance"], 2 / 10, 1e-12, "by chance")
    shares = [(key, one["interval"]) for of in (*a["kinds"].values(), *b["kinds"].values()) for key, one in of.items() if isinstance(one, dict)]
    assert all(-key.endswith("_difference") <= low and high <= 1 for key, (low, high) in shares) and any(high == 1 for _, (_, high) in shares), shares
    assert "true_change" not in a and "recall_difference" not in a["kinds"]["who"]
    assert "words of no fact" in program(tmp / "fa", tmp / "fb")[0]
    csv_lines = list(csv.DictReader(io.StringIO(program("--csv", tmp / "fa", tmp / "fb")[0])))
    assert float(csv_lines[1]["recall_who"]) == 2 / 6 and csv_lines[0]["true_change"] == "" and csv_lines[1]["true_change_low"]
    (tmp / "fb" / "facts.json").rename(tmp / "fb" / "kept")               # `words` are the wording's, with facts and without
    assert [x["words"] for x in csv.DictReader(io.StringIO(program("--csv", tmp / "fa", tmp / "fb")[0]))] == [x["words"] for x in csv_lines]
    (tmp / "fb" / "kept").rename(tmp / "fb" / "facts.json")
    evaluation(tmp / "fc", [line(r, 0.3, 30, "x") for r in range(4)])
    facts_json(tmp / "fc", [1, 1, 1, 1], [5, 6, 5, 4], [0, 0, 0, 0], who=([0] * 4, [0] * 4, [2] * 4, [0] * 4), where=([0] * 4, [0] * 4, [2] * 4, [0] * 4))
    c = by_label(json.loads(program("--json", tmp / "fa", tmp / "fc")[0]))["fc"]["facts"]
    for end in c["true_change"]["interval"]:                            # whatever the base drew
        near(end, -1, 1e-12, "no true fact is left")
    tops, bottoms = [x * x for x in series(1, N)], [x + 0.5 for x in series(0, N)]
    boot = stats.Bootstrap(N, 4000)
    want = stats.interval([sum(draw(tops)) / sum(draw(bottoms)) for draw in boot.draws])
    for got, end in zip(stats.interval(boot.over_rows(facts.ratio(tops, bottoms))), want):
        near(got, end, 0.03 * (want[1] - want[0]), "draws of a ratio")
    for broken in ({"row": [0, 1]}, {"row": [0], "explanations": [1], "words": [1], "words_of_facts": ["1"], "facts": {}}, {"x": 1},
                   {"row": [[0]], "explanations": [1], "words": [1], "words_of_facts": [1], "facts": {}}):
        (tmp / "fb" / "facts.json").write_text(json.dumps(broken))
        out, said = program("--json", tmp / "fa", tmp / "fb")
        assert by_label(json.loads(out))["fb"]["facts"] is None and "facts.json of" in said and "left out" in said, (broken, said)


def test_change_of_facts(tmp):
    """Its interval is that of the drawn ratios less 1, of rows that both sides share."""
    rows = range(N)
    had, left = [round(8 * x) for x in series(0, N)], [round(3 * x) for x in series(2, N)]
    for name, true in (("had", had), ("left", left)):
        evaluation(tmp / name, [line(r, 0.3, 30, "x") for r in rows])
        (tmp / name / "facts.json").write_text(json.dumps({
            "row": list(rows), "explanations": [1] * N, "words": [20] * N, "words_of_facts": [4] * N,
            "facts": {"who": {"true": true, "false": [1] * N, "missing": [2] * N, "by_chance": [0] * N}}}))
    got = by_label(json.loads(program("--json", tmp / "had", tmp / "left")[0]))["left"]["facts"]["true_change"]
    want = stats.interval([sum(pick(left)) / sum(pick(had)) - 1 for pick in stats.Bootstrap(N, 4000).draws])
    near(got["mean"], sum(left) / sum(had) - 1, 1e-12, "change")
    for ours, end in zip(got["interval"], want):
        near(ours, end, 0.1 * (want[1] - want[0]), "end of its interval")


def test_two_sweeps(tmp):
    """Runs of one name, and two warm starts, are told apart by their folders; a seed counts once in a group."""
    for sweep, mse in (("old", 0.3), ("new", 0.5)):
        for seed in (0, 1):
            run(tmp / sweep / f"lambda-0-seed-{seed}", 0, seed, [line(r, mse, 30, f"words of {sweep}") for r in range(4)])
        evaluation(tmp / sweep / "start", [line(r, 0.6, 30, f"start of {sweep}") for r in range(4)])
    one = json.loads(program("--json", tmp / "old" / "lambda-0-seed-0", tmp / "new" / "lambda-0-seed-0")[0])
    assert [(g["label"], g["seeds"]) for g in one["groups"]] == [(f"lambda-0-seed-0 in {tmp / x}", [0]) for x in ("old", "new")], one["groups"]
    both = by_label(json.loads(program("--json", tmp / "old", tmp / "new")[0]))
    assert {label: g["seeds"] for label, g in both.items() if g["role"] == "lambda"} == {f"λ 0 in {tmp / x}": [0, 1] for x in ("old", "new")}, both.keys()
    assert sum(g["role"] == "start" for g in both.values()) == 2, both.keys()
    near(both[f"λ 0 in {tmp / 'new'}"]["fve"]["mean"], 1 - 0.5 / VAR, 1e-12, "the new sweep's own")
    shutil.copytree(tmp / "new" / "lambda-0-seed-0", tmp / "new" / "lambda-0-seed-0-copy")
    out, said = program("--json", tmp / "old", tmp / "new")
    assert by_label(json.loads(out)) == both and f"'{tmp / 'new' / 'lambda-0-seed-0-copy'}' is of the same lambda and seed as '{tmp / 'new' / 'lambda-0-seed-0'}': left out" in said, said
    run(tmp / "new" / "lambda-1-seed-0", 1, 0, [line(r, 0.5, 30, "x") for r in range(4)])
    groups = json.loads(program("--json", tmp / "new")[0])["groups"]
    assert [(g["label"], g["seeds"]) for g in groups if g["role"] == "lambda"] == [("λ 0", [0, 1]), ("λ 1", [0])], groups


def test_documents(tmp):
    """Three equal rows of each document say as much as one: the same draws, the same error; the set's file says whose the rows are."""
    values = series(1, N)
    alone, thrice = stats.Bootstrap(N, 200), stats.Bootstrap(3 * N, 200, documents=[i // 3 for i in range(3 * N)])
    for one, other in zip(alone.over_rows(stats.Column(values)), thrice.over_rows(stats.Column([v for v in values for _ in range(3)]))):
        near(other, one, 1e-12, "a draw of documents")
    near(stats.standard_error([v for v in values for _ in range(3)], [i // 3 for i in range(3 * N)]), stats.standard_error(values), 1e-12, "its error")
    numbers = [0.1, 0.2, 0.6, 0.9]
    m = sum(numbers) / 4
    near(stats.standard_error(numbers, "aabc"), math.sqrt(1.5 * ((0.3 - 2 * m) ** 2 + (0.6 - m) ** 2 + (0.9 - m) ** 2)) / 4, 1e-12, "by hand")
    for ids, said in (("aabb", "the 4 rows are of 2 documents"), ("abcd", None), ("aaaa", "the 4 rows are of one document")):
        (tmp / "eval-set").mkdir(exist_ok=True)
        (tmp / "eval-set" / "rows.jsonl").write_text("".join(json.dumps({"doc_id": d, "text": "t"}) + "\n" for d in ids))
        for name in ("doc-a", "doc-b"):
            shutil.rmtree(tmp / name, ignore_errors=True)
            lines = [line(r, mse, 30, f"text {r // 2}") for r, mse in enumerate((0.2, 0.3, 0.6, 0.5 + 0.1 * (name == "doc-a")))]
            evaluation(tmp / name, lines, data=str(tmp / "eval-set"))
        result = json.loads(program("--json", tmp / "doc-a", tmp / "doc-b")[0])
        assert any(said in note for note in result["notes"]) if said else not any("documents" in note for note in result["notes"]), result["notes"]
        chance = {"aabb": 0.5, "abcd": 0.75, "aaaa": None}[ids]         # of another document's text
        assert result["groups"][1]["wording"]["kept_other_row"] == chance, result["groups"][1]["wording"]
        drawn = {"aabb": "draw 2 documents: of fewer", "abcd": "draw 4 rows: of fewer", "aaaa": "of one document there are no"}
        assert any(drawn[ids] in note for note in result["notes"]), result["notes"]
        d = result["groups"][1]["difference"]
        if ids == "aaaa":                                               # one document bounds no loss
            assert result["groups"][1]["fve"]["interval"] is None and d["fve"]["over_rows"] is None, d
            assert d["fve"]["largest_loss_not_excluded"] is None and "above" not in compare.as_text(result), d
            continue
        low, high = result["groups"][1]["fve"]["interval"]
        assert low < high, (ids, low, high)
        if ids == "aabb":                                               # where the set is not at hand, it is said; --data says where it is
            (tmp / "eval-set").rename(tmp / "elsewhere")
            lost, found = (json.loads(program("--json", tmp / "doc-a", tmp / "doc-b", *more)[0]) for more in ((), ("--data", tmp / "elsewhere")))
            assert any("--data SET" in note for note in lost["notes"]) and lost["groups"] != result["groups"], lost["notes"]
            assert found["notes"] == result["notes"] and found["groups"] == result["groups"], found["notes"]
            shutil.rmtree(tmp / "elsewhere")


def test_places(tmp):
    """A path that is not absolute is looked for around the evaluation, never where the reader happens to be; a set is known by its baseline."""
    here, there = tmp / "reader", tmp / "project"
    for folder, ids in ((here, "aaaa"), (there, "aabb")):
        (folder / "sets" / "held").mkdir(parents=True)
        (folder / "sets" / "held" / "rows.jsonl").write_text("".join(json.dumps({"doc_id": d, "text": "t"}) + "\n" for d in ids))
    for name in ("e-1", "e-2"):
        evaluation(there / "runs" / name, [line(r, 0.2, 30, "x") for r in range(4)], data="sets/held", baseline_of="data")

    def notes():
        return json.loads(program("--json", there / "runs" / "e-1", there / "runs" / "e-2", cwd=here)[0])["notes"]
    assert any("the 4 rows are of 2 documents" in note for note in notes()), notes()
    sidecar = there / "sets" / "held" / "nla_meta.yaml"
    for variance, found in ((VAR, True), (0.9, False)):
        sidecar.write_text(f"kind: nla_dataset\nbaseline:\n  raw_variance: {variance}\n  mean_normalised: {MEAN}\n")
        assert any("2 documents" in note for note in notes()) == found, notes()
    assert any("the evaluated set 'sets/held' is not here" in note for note in notes()), notes()
    av = there / "l0" / "checkpoints" / "step-3" / "av"
    av.mkdir(parents=True)
    file = there / "l0" / "evaluations" / "step-3"
    for path, want in ((av, av), ("/gone/l0/checkpoints/step-3/av", av), ("runs/l0/checkpoints/step-3/av", av), ("l0/checkpoints/step-3/av", av),
                       ("/gone/l1/checkpoints/step-3/av", None), ("/gone/av", None), ("sets/held", there / "sets" / "held"), ("held", None)):
        assert runs.placed(str(path), file) == want, (path, runs.placed(str(path), file))
    lines = [line(r, 0.2, 40, "a b") for r in range(5)]                 # the warm start is the AV that runs began with, wherever a reader is
    run(there / "sweep" / "l0", 0, 0, lines, av=str(there / "av"))
    (there / "av").mkdir()
    evaluation(there / "begun", lines, av="av")
    for cwd in (here, there):
        roles = {g["label"]: g["role"] for g in json.loads(program("--json", there / "sweep", there / "begun", cwd=cwd)[0])["groups"]}
        assert roles == {"warm start": "start", "λ 0": "lambda"}, roles


def test_words():
    assert words.words("Don't stop: 3 cats\u3002 \u72ac\u3068") == ["don't", "stop", "3", "cats", "\u72ac", "\u3068"]
    assert words.kept(["a", "a", "b"], ["a", "c"]) == 1 / 3 and words.kept([], ["a"]) is None
    assert [words.elsewhere(x) for x in ("aabac", "aba", "aaa")] == [[2, 2, 3, 4, 0], [1, 2, 1], [None] * 3]
    parts = words.differences("the small cat sat", "the cat slept")
    assert parts == [("=", "the"), ("-", " small"), ("=", " cat"), ("-", " sat"), ("+", " slept")], parts
    assert compare.excluded({"largest_loss_not_excluded": 0.01201}) == "above 0.013"  # never rounded to less than was excluded
    assert compare.excluded({"largest_loss_not_excluded": 0.0}) == "any"
    assert figures.padded([0, 0], zero=True)[0] == 0 > figures.padded([0, 0])[0]    # where nothing fails


def test_files(tmp):
    """Lines that are no objects, broken gzip members, numbers that are none."""
    notes = []
    path = tmp / "odd.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a":1}\n[1]\nnonsense\n\xff\xfe\n{"a":2}\n{"a":')
    assert [x["a"] for x in runs.read_lines(path, notes)] == [1, 2] and "3 unreadable" in notes[0], notes
    path.write_bytes(b'\xef\xbb\xbf\r\n{"a":1}\r\n \t\r\n\n{"a":"\\r\\n"}\r\n\r\n')           # a byte order mark, CR LF and blank lines are nothing to note
    assert [x["a"] for x in runs.read_lines(path, notes)] == [1, "\r\n"] and len(notes) == 1, notes
    assert runs.number(float("nan")) is None and runs.number(True) is None and runs.number("1") is None and runs.number(10 ** 400) is None and runs.number(2) == 2.0
    (tmp / "a" / "facts.json").write_text("\ufeff[]")
    assert runs.read_evaluation(tmp / "a", notes).facts == {} and "no JSON object" in notes[-1]


def main():
    test_intervals()
    test_words()
    test_blocks()
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        test_by_hand(tmp)
        test_forms(tmp)
        test_stdout(tmp)
        test_failures(tmp)
        test_refusals(tmp)
        test_groups(tmp)
        test_beside(tmp)
        test_controls(tmp)
        test_settings(tmp)
        test_facts(tmp)
        test_change_of_facts(tmp)
        test_two_sweeps(tmp)
        test_documents(tmp)
        test_places(tmp)
        test_files(tmp)


if __name__ == "__main__":
    main()
