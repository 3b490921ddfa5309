#!/usr/bin/env python3
"""
A long run: from its first quarter to its end the memory, the open handles, the live tensors and the files on the disk stay what they were, with
evaluations, samples and checkpoints all the way. A run that leaks a handle, or 64 KiB, at each checkpoint must be seen. Memory is what
is resident less what malloc has free: that is kept, and grows when arrays of other sizes happen to lie badly.

    test_soak.py                          400 steps of the tiny model, and the two that leak
    test_soak.py STEPS nla-train ARG ...  of a run of one's own, prints the curve, a line a tenth
    test_soak.py 120m nla-train ARG ...   as many steps as that time holds, then SIGTERM

NLA_TEST_DEVICE names the device of the first form (default: cpu).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "command"))
import faults
import test_faults

STOPPED = 3           # exit code of a run that a signal ends
GROWTH = 1 << 20      # bytes that libtorch's caches may differ by between two moments
KEEPS = 10            # moments a quarter, at least
TAIL = 1 << 16        # bytes that hold the last line of metrics.jsonl


def look(pid, out, memory):
    """(steps done, bytes, handles, files but for results of evaluations, live tensors, resident bytes), or None before the first step and
    after the last"""
    try:
        resident, free = map(int, memory.read_text().split())
        handles = len(os.listdir(f"/proc/{pid}/fd"))
        with open(out / "metrics.jsonl", "rb") as metrics:
            metrics.seek(max(0, os.fstat(metrics.fileno()).st_size - TAIL))
            lines = metrics.read().split(b"\n")
    except OSError:
        return None
    files = sum(not name.startswith("eval-") for _, _, names in os.walk(out) for name in names)
    last = json.loads(lines[-2]) if len(lines) > 1 else None
    return (last["step"], resident - free, handles, files, last["live_tensors"], resident) if last else None


def soak(argv, out, steps, env, seconds=0):
    """The moments of a run, one a percent of its steps, or of the seconds, at most: (part of the whole, look())."""
    seen, shown, began = [], 0, time.monotonic()
    said, memory = tempfile.TemporaryFile("w+"), Path(tempfile.mkdtemp(), "memory")
    env |= {"LD_PRELOAD": str(faults.BUILD / "tests" / "libleak.so"), "NLA_MEMORY": str(memory)}
    process = subprocess.Popen(list(map(str, argv)), env=os.environ | env, stdout=said, stderr=said)
    while process.poll() is None:
        now = look(process.pid, out, memory)
        part = (time.monotonic() - began) / seconds if seconds else now[0] / steps if now else 0
        if seconds and part >= 1:
            process.terminate()
            break
        if now and (not seen or part - seen[-1][0] >= 0.01):
            seen.append((part, *now))
            if part >= shown / 10:
                print(f"step {now[0]}: {now[1] / 2**20:.1f} MiB of {now[5] / 2**20:.1f} resident, {now[2]} handles, {now[3]} files, {now[4]} tensors", flush=True)
                shown += 1
        time.sleep(0.01)
    process.wait()
    shutil.rmtree(memory.parent)
    said.seek(0)
    assert process.returncode == (STOPPED if seconds else 0), said.read()[-2000:]
    return seen


def grown(seen):
    """
    What is more in the last quarter than in the second: the least of the late memory than the least of the early; and the least of the
    late handles and files than the MOST of the early, as a moment may see a checkpoint half written (a few of each), but what leaks goes on.
    """
    early, late = ([s for s in seen if a <= s[0] <= b] for a, b in ((0.25, 0.5), (0.75, 1)))
    assert min(len(early), len(late)) >= KEEPS, f"{len(early)} and {len(late)} moments were seen: more steps are needed"
    more = {name: min(s[i] for s in late) - most(s[i] for s in early) for i, name, most in ((2, "memory", min), (3, "handle", max), (4, "file", max), (5, "tensor", max))}
    print("from the second quarter to the last: " + ", ".join(f"{name} {value:+d}" for name, value in more.items()), flush=True)
    return {name for name, value in more.items() if value > (GROWTH if name == "memory" else 0)}


def main():
    if len(sys.argv) > 2:
        minutes = int(sys.argv[1][:-1]) if sys.argv[1].endswith("m") else 0
        steps = 10**9 if minutes else int(sys.argv[1])
        argv = [faults.BUILD / sys.argv[2], *sys.argv[3:], "--steps", steps]
        return bool(grown(soak(argv, Path(sys.argv[sys.argv.index("--out") + 1]), steps, {}, 60 * minutes)))
    with tempfile.TemporaryDirectory(dir=test_faults.fast_folder()) as name:
        work = Path(name, "work")
        work.mkdir()
        test_faults.make_inputs(work / "in")
        program = test_faults.programs(work)[1]     # trains the AR, too
        argv = [faults.BUILD / program.argv[0], *program.argv[1:], "--steps", 400, "--eval.every", 20, "--device", os.environ.get("NLA_TEST_DEVICE", "cpu"),
                "--dtype", "fp32"]      # libtorch keeps up to 1,024 products of bf16 on the CPU, by their shapes: a gigabyte
        for leak in ("", "handle", "memory"):
            faults.restore(work / "out", None)
            found = grown(soak(argv, work / "out", 400, {"OMP_NUM_THREADS": "1", "NLA_LEAK": leak}))
            assert found == {leak} - {""}, f"{leak or 'no'} leak: {found or 'nothing'} grows"
    return 0


if __name__ == "__main__":
    sys.exit(main())
