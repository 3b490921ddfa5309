"""What the programs write, read back: run folders, evaluations, and the groups that are compared.

A run that is going on has torn last lines and no evaluation yet; what makes no sense becomes a line of `notes`, never a traceback, and
what the disk does not give an Error.
"""

import contextlib
import gzip
import json
import os
import re
import zlib
from collections import Counter
from pathlib import Path

from . import controls


class Error(Exception):
    """One line for the user."""


class Unreadable(Error):
    """A file that is there."""


NO_FILE = IsADirectoryError, NotADirectoryError, gzip.BadGzipFile       # in its place


def read_json(path, notes):
    try:
        value = json.loads(Path(path).read_text("utf-8-sig", "replace"))
        if isinstance(value, dict):
            return value
        notes.append(f"'{path}' holds no JSON object")
    except FileNotFoundError:
        pass
    except (*NO_FILE, ValueError) as e:
        notes.append(f"cannot read '{path}': {e}")
    except OSError as e:
        raise Unreadable(f"cannot read '{path}': {e.strerror}") from e
    return {}


def each_line(path, notes):
    """Objects of a .jsonl, or of a .jsonl.gz; a last line that was cut off is left out without a word."""
    bad = 0
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rt", encoding="utf-8-sig", errors="replace") as f:
            for line in f:
                try:
                    value = json.loads(line)
                except ValueError:
                    bad += line.endswith("\n") and bool(line.strip())
                    continue
                if isinstance(value, dict):
                    yield value
                else:
                    bad += 1
    except FileNotFoundError:
        pass
    except (EOFError, zlib.error):
        pass                                                            # a gzip member in the making
    except NO_FILE as e:
        notes.append(f"cannot read '{path}': {e}")
    except OSError as e:                                                # half of an evaluation is none
        raise Unreadable(f"cannot read '{path}': {e.strerror}") from e
    if bad:
        notes.append(f"'{path}': {bad} unreadable lines left out")


def read_lines(path, notes):
    return list(each_line(path, notes))


BEGIN = ("<!DOCTYPE html><html lang=", "group,role,lambda,", "|  | runs |")  # a page, a table as CSV and as Markdown


def write(path, text, option="-o"):
    """Whole or not at all: a browser may be reading. A link stays, and its target is replaced; a pipe or a device is written to; a file
    that does not begin as one of ours is left alone."""
    target, begin = Path(os.path.realpath(path)), next(b for b in BEGIN if text.startswith(b)).encode()
    part = target.parent / f".{target.name}.{os.getpid()}"
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            Path(path).write_text(text, "utf-8", "replace")
            return
        if os.path.exists(path):
            with open(path, "rb") as f:
                if f.read(len(begin)) not in (b"", begin):
                    raise Error(f"'{path}' is no report: give another {option}")
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, "utf-8", "replace")
        part.replace(target)
    except OSError as e:
        with contextlib.suppress(OSError):
            part.unlink()
        raise Error(f"cannot write '{path}': {e.strerror}") from e


def number(value):
    """A float that can be squared, or None."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e100 else None


def at(tree, key):
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


class Evaluation:
    """A set of evaluated rows: rows[row] is a list of samples, each {tokens, explanation_tokens, mse, failed, explanation}."""

    def __init__(self, name, path, summary, lines, notes):
        self.name, self.path, self.summary, self.facts, self.step = name, path, summary, {}, None
        self.var, self.mean = (v if v and v > 0 else None for v in (number(summary.get(k)) for k in ("baseline_var", "baseline_mean")))
        self.rows, wrong = {}, 0
        for line in lines:
            mse, row = number(line.get("mse")), line.get("row")
            if mse is None or type(row) is not int:
                wrong += 1
                continue
            failed, text = line.get("failed"), line.get("explanation")
            self.rows.setdefault(row, []).append({
                "mse": mse, "start": number(line.get("mse_start_ar")), "failed": str(failed) if failed else None, "tokens": number(line.get("n_response")),
                "explanation_tokens": number(line.get("n_explanation")), "explanation": text if isinstance(text, str) else None,
                "response": line["response"] if failed and isinstance(line.get("response"), str) else None})
            if self.var is None and self.mean is None:                  # a rows.jsonl alone: fve = 1 - mse / baseline
                self.var, self.mean = baseline(mse, line.get("fve")), baseline(mse, line.get("fve_meannorm"))
        self.given = all(s["tokens"] is None for samples in self.rows.values() for s in samples)    # nla-eval --score: nobody wrote them
        if wrong:
            notes.append(f"'{path}': {wrong} lines without row or mse left out")


def placed(path, folder):
    """Where a path lies that a file in `folder` names; None where it is not there. A relative one (older files) was typed in a folder that nobody
    noted, and is looked for in those around the file; of a checkpoint its run, which may have moved with the file, is too."""
    path, folder = Path(path), Path(os.path.abspath(folder))
    names = [path, *(Path(*path.parts[i - 1:]) for i, part in enumerate(path.parts) if i and part == "checkpoints")]
    return next((base / name for name in names for base in (folder, *folder.parents) if os.path.exists(base / name)), None)


def by_start(evaluation):
    """Its AR is the one that the run began with."""
    for samples in evaluation.rows.values():
        for s in samples:
            s["start"] = s["mse"]


def baseline(mse, fve):
    fve = number(fve)
    return mse / (1 - fve) if fve is not None and mse > 1e-6 else None


def read_evaluation(folder, notes, name=None):
    """A folder of nla-eval; None where its summary or rows are not there (yet)."""
    folder = Path(folder)
    summary = read_json(folder / "summary.json", notes)
    if not summary:
        return None
    found = Evaluation(name or folder.name, str(folder), summary, each_line(folder / "rows.jsonl", notes), notes)
    found.facts = read_json(folder / "facts.json", notes)
    return found if found.rows else None


class Run:
    """kind: train, start (a run of no steps: the warm start), sft or eval (an evaluation without a run). controls: {name: evaluation}."""
    left_out = False                                                    # its evaluation is of other rows

    def __init__(self, path, notes):
        self.path, self.name, self.notes = Path(path), label_of(path), notes
        self.config = read_json(self.path / "config.json", notes)
        self.metrics = [m for m in read_lines(self.path / "metrics.jsonl", notes) if number(m.get("step")) is not None]
        sft = "loss" in self.metrics[-1] and "reward_mean" not in self.metrics[-1] if self.metrics else False
        self.kind = "sft" if sft else "train"
        self.lambda_, self.seed = number(at(self.config, "reward.lambda")), at(self.config, "seed")
        self.evaluation = self.start = None
        self.named, self.held, self.controls = {}, [], {}
        if self.kind == "train":
            self.read_evaluations()
            if at(self.config, "steps") == 0 and self.start and not self.evaluation:
                self.kind, self.evaluation = "start", self.start
            self.take_controls()
            if not at(self.config, "ar_update.enabled"):                # the AR is the one at the start
                for e in (self.evaluation, *self.controls.values()) if self.evaluation else ():
                    by_start(e)

    @classmethod
    def of_evaluation(cls, evaluation, notes):
        run = cls.__new__(cls)
        run.path, run.name, run.kind, run.config, run.metrics = Path(evaluation.path), label_of(evaluation.path), "eval", {}, []
        run.lambda_, run.seed, run.evaluation, run.start, run.held, run.notes = None, None, evaluation, None, [], notes
        if "/checkpoints/" not in str(evaluation.summary.get("ar")):
            by_start(evaluation)
        run.named = {name: read_evaluation(run.control_folder(name), notes, name) for name in controls.NAMES}
        run.take_controls()
        return run

    def control_folder(self, name):
        """Of the evaluation's control."""
        if self.kind == "eval":
            return self.path / "controls" / name
        return self.path / "evaluations" / f"step-{self.evaluation.step}-{name}"

    def take_controls(self):
        """Of those that have a name, those that are controls of this evaluation."""
        known = {name: e for name, e in self.named.items() if name in controls.NAMES}
        self.named = {name: e for name, e in self.named.items() if e and name not in known}
        own = self.evaluation
        self.controls = {name: known[name] for name in controls.NAMES if own and known.get(name) and known[name].step == own.step
                         and known[name].rows.keys() == own.rows.keys() and controls.stands(known[name], own)}

    def read_evaluations(self):
        """evaluations/step-N[-name]/ of nla-eval, eval/ of scripts/sweep.sh, eval-N.json of the run itself; of the newest the largest
        counts: a look at a few rows is no evaluation of a run."""
        found, newest = [], 0
        for path in self.path.glob("evaluations/step-*"):
            step, _, name = path.name.removeprefix("step-").partition("-")
            if step.isdigit():
                found.append((int(step), 2, name, path))
        if (self.path / "eval").is_dir():
            found.append((self.last_step() or 0, 1, "", self.path / "eval"))
        for path in self.path.glob("eval-*.json"):
            step = path.stem.removeprefix("eval-")
            if step.isdigit():
                found.append((int(step), 0, "", path))
                self.held.append((int(step), read_json(path, self.notes)))
        self.held.sort(key=lambda x: x[0])
        for step, kind, name, path in sorted((x for x in found if not x[2]), key=lambda x: (-x[0], -x[1])):
            if step > 0 and step >= newest:
                evaluation = self.read(kind, path, f"step {step}")
                if evaluation and (not self.evaluation or len(evaluation.rows) > len(self.evaluation.rows)):
                    self.evaluation, evaluation.step, newest = evaluation, step, step
            elif step == 0 and not self.start:
                self.start = self.read(kind, path, "warm start")
                if self.start:
                    self.start.step = 0
                    by_start(self.start)
        own = self.evaluation or self.start                             # of each name that of its step, else the newest
        for step, kind, name, path in sorted((x for x in found if x[2]), key=lambda x: (not own or x[0] != own.step, -x[0])):
            evaluation = self.read(kind, path, name) if name not in self.named else None
            if evaluation:
                self.named[name], evaluation.step = evaluation, step

    def read(self, kind, path, name):
        if kind:
            return read_evaluation(path, self.notes, name)
        summary, lines = read_json(path, self.notes), each_line(path.with_suffix(".rows.jsonl"), self.notes)
        evaluation = Evaluation(name, str(path), summary, lines, self.notes)
        return evaluation if summary and evaluation.rows else None

    def last_step(self):
        return int(self.metrics[-1]["step"]) if self.metrics else None

    def samples(self):
        for name in ("samples.jsonl", "samples.jsonl.gz"):
            if (self.path / name).exists():
                return read_lines(self.path / name, self.notes)
        return []


def label_of(path):
    """`runs/x` of runs/x; of a run's evaluation the run too."""
    parts = [p for p in Path(os.path.abspath(path)).parts if p not in ("/", "evaluations")]
    return "/".join(parts[-2:]) if parts and (parts[-1] == "eval" or parts[-1].startswith(("eval-", "step-"))) else parts[-1] if parts else "/"


def natural(path):
    return [float(x) if i % 2 else x for i, x in enumerate(re.split(r"(\d+(?:\.\d+)?)", path.name))]


def is_run(path):
    return (path / "metrics.jsonl").exists() or ((path / "config.json").exists() and (path / "log.txt").exists())


def find_runs(path, notes, depth=2):
    """A run, an evaluation, a rows.jsonl, or a folder of those."""
    if path.is_file():
        evaluation = Evaluation(path.name, str(path), {}, each_line(path, notes), notes)
        if not evaluation.rows:
            raise Error(f"'{path}' holds no evaluated rows (lines with row and mse)")
        return [Run.of_evaluation(evaluation, notes)]
    if is_run(path):
        return [Run(path, notes)]
    if (path / "summary.json").exists():
        evaluation = read_evaluation(path, notes)
        return [Run.of_evaluation(evaluation, notes)] if evaluation else []
    if not depth:
        return []
    skip = ("checkpoints", "reference", "eval", "evaluations")
    return [run for child in sorted((p for p in path.iterdir() if p.is_dir() and p.name not in skip), key=natural)
            for run in find_runs(child, notes, depth - 1)]


def open_runs(paths, notes):
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise Error(f"there is no '{path}'")
        try:
            runs = find_runs(path, notes)
        except OSError as e:
            raise Error(f"cannot read '{e.filename}': {e.strerror}") from e
        if not runs:
            raise Error(f"'{path}' holds neither a run (metrics.jsonl) nor an evaluation (summary.json, rows.jsonl)")
        seen = {os.path.realpath(r.path) for r in found}
        found += [run for run in runs if os.path.realpath(run.path) not in seen]
    return found


def leave_out_other_rows(found, notes):
    """Keeps the evaluations of the rows that most runs were evaluated on: one that is still training has a smaller one of its own."""
    sets = Counter(frozenset(r.evaluation.rows) for r in found if r.evaluation)
    if len(sets) > 1:
        rows = max(sets, key=lambda s: (sets[s], len(s)))
        for r in found:
            if r.evaluation and r.evaluation.rows.keys() != rows:
                notes.append(f"{r.name} is left out of the comparison: its evaluation is of {len(r.evaluation.rows)} other rows")
                r.evaluation, r.left_out = None, True


# ---- groups: runs that differ in their seed alone ----

COMPARED = ("model", "av", "ar", "av_base", "ar_base", "data", "dtype", "steps", "lora", "rollout", "reward", "advantage", "update", "ar_update", "chat", "tokens")
PATHS = ("model", "av", "ar", "av_base", "ar_base", "data")


def settings(run, inputs):
    """Everything of a run's configuration that makes it another experiment, by dotted key; a path counts by what it held."""
    flat = {}

    def walk(prefix, value):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}", inner)
        elif prefix not in ("update.micro_batch", "update.recompute"):
            flat[prefix] = inputs.get(prefix) or value if prefix in PATHS else value
    for key in COMPARED:
        if key in run.config:
            walk(key, run.config[key])
    return flat


class Group:
    """Evaluations of one lambda (or of one thing that is no run), one a seed. role: lambda, start, other or named.
    setting: what else sets runs apart."""

    def __init__(self, label, role, lambda_=None, runs=(), setting=()):
        self.label, self.role, self.lambda_, self.runs, self.setting = label, role, lambda_, list(runs), setting
        self.evaluations = []
        self.controls = {}                                              # {name: [(evaluation, its control), ..]}

    def seeds(self):
        return [r.seed for r in self.runs]


def lambda_text(value):
    return f"λ {value:g}"


def tell_apart(groups):
    """A label that several have gets the folder of each: all that is shown goes by its label."""
    same = {}
    for g in groups:
        same.setdefault(g.label, []).append(g)
    for several in (s for s in same.values() if len(s) > 1):
        apart = len({g.runs[0].path.parent for g in several}) == len(several)
        for g in several:
            g.label += f" in {g.runs[0].path.parent if apart else g.runs[0].path}"
    return groups


def make_groups(runs, notes):
    """The warm start, then by lambda, then what else there is; `notes` says in what runs of different groups differ besides lambda."""
    trained = [r for r in runs if r.kind == "train" and r.evaluation]
    for r in [r for r in trained if not r.config and any(o.config for o in trained)]:
        notes.append(f"{r.name} is left out: its config.json cannot be read")
        trained.remove(r)
    for r in trained:
        steps = number(at(r.config, "steps"))
        if steps is not None and r.evaluation.step is not None and r.evaluation.step < steps:
            notes.append(f"{r.name} is not finished: its evaluation is of step {r.evaluation.step} of {steps:g}")
    each = {id(r): settings(r, read_json(r.path / "inputs.json", [])) for r in trained}
    keys = sorted({k for s in each.values() for k in s})
    odd = [k for k in keys if k != "reward.lambda" and len({json.dumps(s[k]) for s in each.values() if k in s}) > 1]   # older versions lack keys
    groups = {}
    for r in trained:
        key = (r.lambda_, *(json.dumps(each[id(r)].get(k)) for k in odd))
        label = lambda_text(r.lambda_) if r.lambda_ is not None else r.name
        extra = "" if not odd else " " + ", ".join(f"{k} {at(r.config, k)}" for k in odd)
        groups.setdefault(key, Group(label + extra, "lambda", r.lambda_, setting=key[1:])).runs.append(r)
    if odd:
        notes.append(f"the runs differ in more than lambda and seed: {', '.join(odd)}")
    if len(groups) == 1 and len(trained) > 1 and len(trained) == len(runs):  # seeds alone: each for itself
        groups = {id(r): Group(r.name, "lambda", r.lambda_, [r]) for r in trained}
    for key, g in list(groups.items()):
        if len(set(g.seeds())) < len(g.runs):                           # a seed twice: of two sweeps, each for itself
            del groups[key]
            for r in g.runs:
                of = groups.setdefault((key, r.path.parent), Group(g.label, g.role, g.lambda_, setting=g.setting)).runs
                same = next((o for o in of if o.seed == r.seed is not None), None)
                if same:                                                # a copy is no seed
                    notes.append(f"'{r.path}' is of the same lambda and seed as '{same.path}': left out")
                else:
                    of.append(r)
    found = tell_apart(sorted(groups.values(), key=lambda g: (g.lambda_ is None, g.lambda_ or 0, g.label)))
    for g in found:
        g.evaluations = [r.evaluation for r in g.runs]

    def real(path, folder):
        place = placed(path, folder) if isinstance(path, str) else None
        return os.path.realpath(place) if place else path
    begun = {real(r.config["av"], r.path) for r in trained if isinstance(r.config.get("av"), str)}
    others = []
    for r in (r for r in runs if r.kind in ("eval", "start") and r.evaluation):
        av = r.evaluation.summary.get("av")
        start = r.kind == "start" or trained and not r.evaluation.given and (
            isinstance(av, str) and real(av, r.path) in begun or r.path.name in ("start", "warm-start"))
        group = Group("warm start" if start else r.name, "start" if start else "other")
        group.runs, group.evaluations = [r], [r.evaluation]
        other = other_input(r, trained) if r.kind == "start" else None
        if other:
            notes.append(f"the warm start is of another {other} than {found[0].label}: left out")
            continue
        others.append(group)
    if not any(g.role == "start" for g in others):
        others += start_group(trained)
    for name in sorted({name for r in trained for name in r.named}):
        for g in found:
            of_step = {}                                                # None: of the runs' own
            for r in g.runs if g.role == "lambda" else ():
                if name in r.named:
                    step = r.named[name].step
                    of_step.setdefault(None if step == r.evaluation.step else step, []).append(r)
            for step, with_it in of_step.items():
                group = Group(f"{g.label} {name}" + ("" if step is None else f" of step {step}"), "named", g.lambda_, setting=g.setting)
                group.runs, group.evaluations = with_it, [r.named[name] for r in with_it]
                others.append(group)
    for g in found + others:
        for r, e in zip(g.runs, g.evaluations):
            for name, control in r.controls.items() if e is r.evaluation else ():
                g.controls.setdefault(name, []).append((e, control))
    order = {"start": 0, "other": 2, "named": 3}
    return tell_apart(sorted(found + others, key=lambda g: order.get(g.role, 1)))


def other_input(run, trained):
    """AV or AR, where it was made of one that no other run began with."""
    own, theirs = read_json(run.path / "inputs.json", []), [read_json(r.path / "inputs.json", []) for r in trained]
    return next((key.upper() for key in ("av", "ar") if theirs and key in own and all(i.get(key, own[key]) != own[key] for i in theirs)), None)


def start_group(trained):
    """The runs' own evaluations at step 0."""
    group, seen = Group("warm start", "start"), set()
    for r in trained:
        if r.start:
            same = tuple((row, s[0]["mse"], s[0]["tokens"]) for row, s in sorted(r.start.rows.items()))
            if same not in seen:                                        # runs of one seed share it
                seen.add(same)
                group.runs.append(r)
                group.evaluations.append(r.start)
    return [group] if group.runs else []


def set_of(runs, override):
    """The file of the evaluated set's rows: --data, else what the evaluations name; None where it is not here."""
    places = [(Path(override), None)] if override else []
    for r in (r for r in runs if r.evaluation and not override):
        named = [p for p in (r.evaluation.summary.get("data"), at(r.config, "eval.data")) if isinstance(p, str) and p]
        places += [(placed(p, r.evaluation.path), r.evaluation) for p in named]
    for folder, evaluation in places:
        for path in (folder / "rows.jsonl.gz", folder / "rows.jsonl", folder) if folder and is_of(evaluation, folder) else ():
            if os.path.isfile(path):                                    # False, too, where one may not look
                return path
    if override:
        raise Error(f"'{override}' is no activation set: it holds no rows.jsonl.gz")
    return None


def is_of(evaluation, folder):
    """Is it of this set, as far as the baseline stored with both says?"""
    if evaluation and evaluation.var and evaluation.summary.get("baseline_of") == "data":
        with contextlib.suppress(OSError, ValueError):
            stored = re.search(r"(?m)^ +raw_variance: (.*)$", (folder / "nla_meta.yaml").read_text("utf-8", "replace"))
            return not stored or abs(float(stored[1]) / evaluation.var - 1) < 1e-6
    return True


def set_named(runs):
    """As the evaluations name it, for messages."""
    named = (r.evaluation.summary.get("data") or at(r.config, "eval.data") for r in runs if r.evaluation)
    return next((f" '{name}'" for name in named if isinstance(name, str)), "")


def documents_of(runs, rows, override, notes):
    """The document of each of these rows; None where the set is not here, or every row is a document of its own."""
    path = set_of(runs, override)
    ids = {i: row.get("doc_id") for i, row in enumerate(each_line(path, notes) if path else ())}
    found = [ids.get(row) for row in rows]
    if None in found:
        notes.append(f"the evaluated set{set_named(runs)} is not here to say which rows are of one document (--data SET): intervals draw every row by itself")
        return None
    if len(set(found)) == len(found):
        return None
    of = "one document" if len(set(found)) == 1 else f"{len(set(found))} documents, which the intervals draw as wholes"
    notes.append(f"the {len(found)} rows are of {of}")
    return found


def texts_of(runs, rows, override, notes):
    """{row: text} of these rows of the evaluated set."""
    path = set_of(runs, override)
    return {i: row["text"] for i, row in enumerate(each_line(path, notes) if path else ())
            if i in rows and isinstance(row.get("text"), str)}
