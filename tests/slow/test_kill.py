#!/usr/bin/env python3
"""
kill -9 at random moments: runs that checkpoint every step are killed and resumed until they end, again and again. At most one step
is lost each time, no line of metrics.jsonl is torn or doubled after a resume, and each run ends as one that was never killed, bit
for bit.

    test_kill.py [KILLS [SEED]]     (default: 300 kills, seed 0)
"""

import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "command"))
import faults
import test_faults

STEPS = 8
LONGEST = 0.2       # seconds of processor time before a kill, or half of what a whole run takes


def steps(out):
    """(newest whole checkpoint or 0, the steps of the whole lines of metrics.jsonl)"""
    whole = [json.loads(p.read_text())["step"] for p in out.glob("checkpoints/step-*/state.json")]
    lines = (out / "metrics.jsonl").read_bytes().split(b"\n")[:-1] if (out / "metrics.jsonl").exists() else []
    return max([0, *whole]), [json.loads(line)["step"] for line in lines]


def main():
    kills, seed = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 300), (2, 0)))
    rng, killed, runs, lost = random.Random(seed), 0, 0, 0
    with tempfile.TemporaryDirectory(dir=test_faults.fast_folder()) as name:
        work = Path(name, "work")
        work.mkdir()
        test_faults.make_inputs(work / "in")
        program = test_faults.programs(work)[1]
        argv, out = [*program.argv, "--steps", STEPS, "--resume"], work / "out"
        server = faults.Server("nla-train", work.parent)
        began = time.monotonic()
        code, said = server.run(argv)
        assert code == 0, said
        longest = max(LONGEST, (time.monotonic() - began) / 2)
        end = faults.snapshot(out)
        shutil.rmtree(out)
        before = 0
        while killed < kills or before:
            code, said = server.run(argv, at=rng.randrange(int(1e6 * longest)) + 1 if killed < kills else 0, kind="time" if killed < kills else "-")
            newest, lines = steps(out)
            assert newest >= before, f"kill {killed}: the checkpoint of step {before} is gone, {newest} is left"
            assert lines == list(range(1, len(lines) + 1)), f"kill {killed}: metrics.jsonl has the steps {lines}"
            assert len(lines) <= newest + 1, f"kill {killed}: {len(lines)} steps were made, and {newest} are left"
            assert code in (-9, 0), f"kill {killed}: exits {code}: {said}"
            lost += len(lines) - newest if code else 0
            killed, before = killed + (code != 0), newest
            if code == 0:
                apart = faults.difference(faults.snapshot(out), end)
                assert not apart, f"after {killed} kills: {apart} differ from a run that was never killed"
                shutil.rmtree(out)
                runs, before = runs + 1, 0
        server.close()
    assert lost and runs or kills < 100, f"no kill came between a step and its checkpoint: {lost} steps lost, {runs} runs"
    print(f"{killed} kills, {lost} steps made twice, {runs} runs ended as one that was never killed (seed {seed})")


if __name__ == "__main__":
    main()
