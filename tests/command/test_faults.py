#!/usr/bin/env python3
"""
A fault at every system call, and a power cut after every one, of each program that writes: what has its name is whole, the message
names the file, and the program, started again, ends as one that nothing disturbed, bit for bit.

    test_faults.py [EVERY [PROGRAM ...]]    every EVERY-th call meets one of its faults in turn, and every EVERY-th change a power cut
                                            (default: 60; tests/slow/test_faults.sh: 10; 1: each; 0: all faults at each call)

Prints a line a program and call, and every case that went wrong. A failing case keeps its folder in NLA_KEEP, when that names one.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.dont_write_bytecode = True
import faults
import tool
from faults import BUILD, COMMON, SOURCE, TINY, Disk, Server

EVERY = 60
DONE = 10**9
KEEP = os.environ.get("NLA_KEEP")
LOGS = ("metrics.jsonl", "samples.jsonl", "teach.jsonl")     # grow in place


# ---- the programs ----

class Program:
    """One way to start a program. `again`: what starts it after a fault; `start`: what its folder holds at first; `folder`: where its
    calls meet faults, if not all over."""

    def __init__(self, name, argv, again, start=None, folder=None):
        self.name, self.argv, self.again, self.start, self.folder = name, argv, argv + again, start, folder


def fast_folder():
    """A file system in memory, where syncs cost nothing; None: the usual one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(program, *args):
    done = subprocess.run([BUILD / program, *COMMON, *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def make_inputs(inputs):
    """Model, AR, two activation sets, an AV that closes its tags, a corpus, two evaluations."""
    inputs.mkdir()
    for part in ("model", "ar"):
        shutil.copytree(TINY / part, inputs / part)
    golden = tool.read_json(TINY / "golden.json")
    config = {"model": "model", "extract": {"layer": 2, "min_position": 5, "per_doc": 2, "next": 2},
              "templates": {"av": golden["av_template"], "ar": golden["ar_template"], "marker": golden["marker"]}}
    (inputs / "extract.json").write_text(json.dumps(config))
    for name, first, count in (("train", 0, 24), ("held", 100, 6), ("long", 1000, 450)):
        with open(inputs / f"{name}.jsonl", "w", encoding="utf-8") as f:
            for n in range(first, first + count):
                f.write(json.dumps({"doc_id": f"doc-{n}", "text": " ".join(random.Random(n).choices(tool.WORDS, k=24)) + "."}) + "\n")
        if name != "long":
            run("nla-extract", inputs / "extract.json", "--corpus", inputs / f"{name}.jsonl", "--out", inputs / name)
            tool.explain(inputs / name)
    run("nla-sft", "--role", "av", "--model", inputs / "model", "--data", inputs / "train", "--out", inputs / "sft", "--steps", 80,
        "--batch", 16, "--lr", 0.006, "--sft.warmup", 5, "--sft.held_every", 1000, "--checkpoint.every", 0, "--lora.rank", 8,
        "--lora.alpha", 16, "--lora.targets", "q,k,v,o,gate,up,down")
    os.rename(inputs / "sft" / "checkpoints" / "step-80" / "av", inputs / "av")
    shutil.rmtree(inputs / "sft")
    for n in range(2):
        run("nla-eval", *AV_AR(inputs), "--data", inputs / "held", "--max-new-tokens", 12, "--seed", n, "--out", inputs / f"eval-{n}")


def AV_AR(inputs):
    return ["--model", inputs / "model", "--av", inputs / "av", "--ar", inputs / "ar"]


def programs(work):
    inputs = work / "in"
    half = [*AV_AR(inputs), "--max-new-tokens", 12]
    lora = ["--lora.rank", 2, "--lora.alpha", 4]
    loop = ["--data", inputs / "train", *lora, "--lr", "1e-3", "--steps", 2, "--checkpoint.every", 1, "--checkpoint.keep", 1, "--log.probe", 1]
    train = ["nla-train", *half, *loop, "--eval.data", inputs / "held", "--rows", 2, "--prompts", 2, "--group", 2, "--log.samples_every", 1]
    sft = ["nla-sft", "--model", inputs / "model", *loop, "--batch", 4, "--sft.held_every", 1, "--sft.held_out", 0.2, "--sft.warmup", 1]
    lm = ["nla-sft", "--role", "lm", "--model", inputs / "model", "--corpus", inputs / "held.jsonl", "--steps", 2, "--checkpoint.every", 1,
          "--checkpoint.keep", 1, "--log.probe", 0, "--batch", 2, "--sft.context", 16, "--sft.warmup", 1]
    found = [
        Program("nla-train", train, ["--resume"]),
        Program("nla-train, AR trained", train + ["--ar_update.enabled", "true", "--ar_update.lr", "1e-3"], ["--resume"]),
        Program("nla-train --resume", train + ["--resume"], [], work.parent / "stopped"),
        Program("nla-sft --role av", sft, ["--resume"]),
        Program("nla-sft --role ar", sft + ["--role", "ar"], ["--resume"]),
        Program("nla-sft --role lm", lm, ["--resume"]),
        Program("nla-extract", ["nla-extract", "--corpus", inputs / "long.jsonl", inputs / "extract.json"], ["--resume"]),
        Program("nla-teach", ["nla-teach", "--model", inputs / "model", "--data", inputs / "held", "--batch", 4, "--max-new-tokens", 6,
                              "--teach.again", "true"], ["--resume"]),
        Program("nla-eval", ["nla-eval", *half, "--data", inputs / "held", "--rows", 4], ["--overwrite"]),
        Program("nla-export", ["nla-export", *AV_AR(inputs), "--av", inputs / "av"], ["--overwrite"]),
        Program("nla-report", [sys.executable, "-B", SOURCE / "scripts" / "nla-report", inputs / "eval-0", inputs / "eval-1",
                               "--resamples", 100, "-o", work / "out" / "report.html", "--csv", work / "out" / "report.csv"], [], folder=work),
    ]
    for p in found[:-1]:
        p.argv, p.again = ([*argv[:1], *COMMON, "--out", work / "out", *argv[1:]] for argv in (p.argv, p.again))
    return found


def progress(folder):
    """How far the work in a folder is: checkpoints, batches, answers, or whether there is a result."""
    steps = [json.loads(p.read_text())["step"] for p in folder.glob("checkpoints/step-*/state.json") if p.stat().st_size]
    marks = [p.read_bytes().count(end) for name, end in (("nla-extract.part/batches.jsonl", b"\n"), ("teach.jsonl", b'"left":0}\n')) for p in folder.glob(name)]
    return max([0, *steps, *marks, *(DONE for name in ("summary.json", "nla_meta.yaml", "ar/nla_meta.yaml") if (folder / name).exists())])


# ---- a program's cases ----

class Cases:
    def __init__(self, program, work, server):
        self.program, self.work, self.server, self.out = program, work, server, work / "out"
        self.folder = program.folder or work
        self.done, self.wrong, self.seen, self.whole = Counter(), 0, {}, {}
        faults.restore(self.out, program.start)
        self.disk = Disk(work)
        if program.start:
            self.note(self.out)
        self.calls = server.record(program.argv, self.folder)
        self.end = faults.snapshot(self.out)
        for call in self.calls:     # what has its name, when it gets it
            self.disk.apply(call)
            if call.name == "rename" and call.result == 0:
                self.note(call.other)
        self.note(self.out)

    def note(self, path):
        for file, data in self.disk.below(path):
            if file.startswith(f"{self.out}/"):
                key = os.path.relpath(file, self.out)
                self.whole.setdefault(key, []).append(faults.content(key, data))

    def halves(self):
        """Files that have their names and are not whole."""
        for key, value in faults.snapshot(self.out).items():
            if value == "a folder" or not faults.is_final(key) or (self.out / key).is_symlink():
                continue
            if Path(key).name in LOGS:
                lines = [x for x in value if not x.startswith("torn") and x.endswith("\n")]
                if lines != self.end[key][:len(lines)] or len(value) > len(lines) + 1:
                    yield key
            elif value not in self.whole.get(key, []):
                yield key

    def resumed(self):
        """What is wrong with the end of the program when it is started again, or None."""
        key = repr(sorted(faults.snapshot(self.out).items()))
        if key not in self.seen:
            code, said = self.server.run(self.program.again)
            now = faults.snapshot(self.out)
            apart = faults.difference(now, self.end)
            if self.program.folder:     # nla-report's parts have a name a process
                apart = [k for k in apart if k in self.end]
            self.seen[key] = f"started again, it exits {code}: {said[-300:]}" if code else f"started again, it differs in {apart}" if apart else None
        return self.seen[key]

    def report(self, name, what, wrong):
        self.done[name] += 1
        if wrong:
            self.wrong += 1
            print(f"{self.program.name}, {what}: {wrong}", flush=True)
            if KEEP:
                shutil.copytree(self.out, Path(KEEP) / f"{len(os.listdir(KEEP))}", symlinks=True, dirs_exist_ok=True)

    # ---- a fault ----

    def judge(self, kind, code, said):
        name = os.path.basename(self.program.name.split()[0].rstrip(","))
        last = said.rstrip("\n").rpartition("\n")[2]
        if kind == "kill" or kind == "short":
            wanted = -9 if kind == "kill" else 0
            return None if code == wanted else f"exits {code}, want {wanted}: {last}"
        if code not in (0, 1, 2) or (code == 2 and "/in/extract.json'" not in last):    # a configuration that cannot be read: usage
            return f"exits {code}: {last}"
        if code and not (last.startswith(f"{name}: ") and f"'{self.work}" in last and faults.reason(kind) in last):
            return f"the message is: {last}"
        return None

    def fault(self, at, kind):
        call = self.calls[at - 1]
        faults.restore(self.out, self.program.start)
        code, said = self.server.run(self.program.argv, self.folder, "", at, faults.number(kind))
        wrong = self.judge(kind, code, said)
        halves = None if wrong else list(self.halves())
        if halves:
            wrong = f"not whole: {halves}; it said {said[-200:]}"
        if not wrong:
            wrong = self.resumed()
        self.report(call.name, f"{kind} at call {at}, {call.name} {os.path.relpath(call.path, self.work)}", wrong)

    def all_faults(self, every, offset):
        for n, at in enumerate(range(1 + offset % (every or 1), len(self.calls) + 1, every or 1), offset):
            kinds = faults.kinds(self.calls[at - 1])
            for kind in [kinds[n % len(kinds)]] if every else kinds:
                self.fault(at, kind)

    def all_allocations(self, every, offset):
        """No memory for a place's first, a middle and its last allocation."""
        faults.restore(self.out, self.program.start)
        for at in self.server.allocations(self.program.argv)[offset % (every or 1)::every or 1]:
            faults.restore(self.out, self.program.start)
            code, said = self.server.run(self.program.argv, "", "", at, "memory")
            last = said.rstrip("\n").rpartition("\n")[2]
            wrong = None if code == 0 or code == 1 and "memory" in last else f"exits {code}: {last}"
            halves = None if wrong else list(self.halves())
            if halves:
                wrong = f"not whole: {halves}"
            self.report("allocation", f"no memory at allocation {at}", wrong or self.resumed())

    # ---- a power cut ----

    def cut(self, disk, choose, at_end):
        """What is wrong after a power cut, or None: at the end nothing may be lost, before that one interval."""
        disk.survive(self.out, disk.everything)
        before = progress(self.out)
        disk.survive(self.out, choose)
        after, least = progress(self.out), before if at_end else before - 1 if before < DONE else 0
        return f"of {before} steps {after} are left" if after < least else self.resumed()

    def all_cuts(self, every):
        faults.restore(self.out, self.program.start)
        disk, rng = Disk(self.work), random.Random(0)
        for at, call in enumerate(self.calls, 1):
            disk.apply(call)
            if call.changes and at % (every or 1) == 0 or at == len(self.calls):
                for how, choose in (("what was synced", disk.synced), ("names", disk.names), ("some", disk.some(rng))):
                    self.report("power cut", f"power cut after call {at}, {how}", self.cut(disk, choose, at == len(self.calls)))

    # ---- planted defects, each of which must be seen ----

    def without(self, synced):
        """A program that leaves out some of its syncs: what is wrong after a power cut at its end."""
        faults.restore(self.out, self.program.start)
        disk = Disk(self.work)
        for call in self.calls:
            if call.name != "fsync" or not re.search(synced, call.path):
                disk.apply(call)
        return self.cut(disk, disk.names, True) or self.cut(disk, disk.synced, True)

    def planted(self):
        for synced in ("/state.json.tmp$", "/checkpoints$", "/out$", "/metrics.jsonl$"):
            self.report("planted", f"no sync of what ends in {synced}", None if self.without(synced) else "is not noticed")

    def handles(self):
        """A handle that is leaked in each step would make those of later files larger."""
        most = []
        for steps in (2, 6):
            faults.restore(self.out, None)
            calls = self.server.record([*self.program.argv, "--steps", steps], self.work)
            most.append(max(call.result for call in calls if call.name == "open"))
        self.report("handles", "6 steps", None if most[0] == most[1] else f"up to {most[1]} handles are open, in 2 steps {most[0]}")


def stop(server, program, work):
    """A run that was killed after the line of its second step, before that step's checkpoint."""
    faults.restore(work / "out", None)
    calls = server.record(program.argv, work)
    at = [n for n, call in enumerate(calls, 1) if call.name == "write" and call.path.endswith("/metrics.jsonl")][1]
    faults.restore(work / "out", None)
    code, said = server.run(program.argv, work, "", at + 1, "kill")
    assert code == -9, said
    os.rename(work / "out", program.start)


def main():
    every = int(sys.argv[1]) if len(sys.argv) > 1 else EVERY
    total = wrong = 0
    servers = {}
    with tempfile.TemporaryDirectory(dir=fast_folder()) as name:
        work = Path(name, "work")
        work.mkdir()
        make_inputs(work / "in")
        for n, p in enumerate(programs(work)):
            if sys.argv[2:] and p.name not in sys.argv[2:]:
                continue
            server = servers.setdefault(p.argv[0], Server(str(p.argv[0]), work.parent))
            if p.start:
                stop(server, p, work)
            cases = Cases(p, work, server)
            cases.all_faults(every, n)
            cases.all_cuts(every)
            if not p.folder:
                cases.all_allocations(every * 2, n)
            if p.name == "nla-train":
                cases.planted()
                cases.handles()
            print(f"{p.name}: {len(cases.calls)} calls; " + ", ".join(f"{k} {v}" for k, v in cases.done.items()) + f"; {cases.wrong} wrong", flush=True)
            total, wrong = total + sum(cases.done.values()), wrong + cases.wrong
        for server in servers.values():
            server.close()
    print(f"{total} faults, {wrong} wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
