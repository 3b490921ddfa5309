#!/usr/bin/env python3
"""scripts/follow.py: TensorBoard's event files read back, from a run that grows and resumes; Weights & Biases offline. What needs a
package runs where this Python or REFERENCE_PYTHON has it; without either the test skips, after the message was checked."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(os.environ.get("SOURCE_DIR", Path(__file__).resolve().parents[2]))
SCRIPT = SOURCE / "scripts" / "follow.py"
sys.path.insert(0, str(SOURCE / "scripts"))
import follow  # noqa: E402

READ = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0}, purge_orphaned_data=True)
events.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
"""


def python_with(package):
    for python in (sys.executable, os.environ.get("REFERENCE_PYTHON", "")):
        if python and Path(python).exists() and subprocess.run([python, "-c", f"import {package}"], capture_output=True).returncode == 0:
            return python
    return None


def program(*args, python=sys.executable, code=0, **env):
    done = subprocess.run([python, str(SCRIPT), *map(str, args)], capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == code and "Traceback" not in done.stderr, f"{args}: exit {done.returncode}\n{done.stderr}"
    return done.stderr


def line(step, fve):
    return json.dumps({"step": step, "fve": fve, "kl": None, "lambda_unit": "fve", "seconds_rollout": 0.5}) + "\n"


class Sink:
    """What a run tells: [(step, values)], and where steps were taken back."""

    def __init__(self):
        self.logged, self.back = [], []

    def log(self, step, values):
        self.logged.append((step, values))

    def taken_back(self, step):
        self.back.append(step)

    def flush(self):
        pass


def test_reading(tmp):
    """A torn line waits for its end; an evaluation comes after its step; a replaced file is read again, without what was kept."""
    folder, sink = tmp / "grow", Sink()
    folder.mkdir()
    path, run = folder / "metrics.jsonl", follow.Run(folder, [sink])
    assert run.look() == 0
    (folder / "eval-2.json").write_text('{"fve": 0.6, "baseline_of": "data"}')
    path.write_text(line(1, 0.1) + line(2, 0.2)[:20])
    assert run.look() == 1 and sink.logged == [(1, {"fve": 0.1, "seconds/rollout": 0.5})], sink.logged
    with open(path, "a") as f:
        f.write(line(2, 0.2)[20:] + "nonsense\n" + line(3, 0.3))
    assert run.look() == 2 and [s for s, _ in sink.logged] == [1, 2, 3] and sink.logged[1][1]["eval/fve"] == 0.6, sink.logged
    assert run.look() == 0
    other = folder / "new"
    other.write_text(line(1, 0.1) + line(2, 0.2))                       # as a resume cuts it
    other.replace(path)
    assert run.look() == 0 and sink.back == [3] and run.step == 2
    with open(path, "a") as f:
        f.write(line(3, 0.35) + line(4, 0.4))
    assert run.look() == 2 and [(s, v["fve"]) for s, v in sink.logged[3:]] == [(3, 0.35), (4, 0.4)]
    (folder / "eval-4.json").write_text('{"fve": 0.65}')
    assert run.look() == 0 and len(sink.logged) == 6
    other.write_text("".join(line(s, s / 10) for s in (1, 2)) + "".join(line(s, s / 5) for s in (3, 4, 5)))  # it passes its old step before the next look
    other.replace(path)
    assert run.look() == 3 and sink.back == [3, 3] and [(s, v["fve"]) for s, v in sink.logged[6:]] == [(3, 0.6), (4, 0.8), (5, 1.0)], (sink.back, sink.logged[6:])
    assert sink.logged[7][1]["eval/fve"] == 0.65
    other.write_text(path.read_text() + line(6, 1.2))                   # the same again, and more: nothing is taken back
    other.replace(path)
    assert run.look() == 1 and sink.back == [3, 3] and sink.logged[9] == (6, {"fve": 1.2, "seconds/rollout": 0.5}), sink.logged[9:]
    del sink.logged[5:]
    (tmp / "sft").mkdir()
    (tmp / "sft" / "metrics.jsonl").write_text(line(0, 2.5) + line(1, 2.0))
    assert follow.Run(tmp / "sft", [sink]).look() == 2 and [s for s, _ in sink.logged[5:]] == [0, 1]


def test_tensorboard(tmp, python):
    folder = tmp / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(line(s, s / 10) for s in range(1, 6)) + '{"step": 6')
    (folder / "eval-5.json").write_text('{"fve": 0.75}')
    program(tmp / "runs", "--tensorboard", tmp / "tb", "--once", python=python)
    found = json.loads(subprocess.run([python, "-c", READ, str(tmp / "tb" / "a")], capture_output=True, text=True, check=True).stdout)
    assert found.keys() == {"fve", "seconds/rollout", "eval/fve"} and found["eval/fve"] == [[5, 0.75]], found
    assert [s for s, _ in found["fve"]] == [1, 2, 3, 4, 5] and all(abs(v - s / 10) < 1e-6 for s, v in found["fve"]), found
    # Steps taken back are read as those that came again.
    code = ("import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import follow\n"
            "t = follow.TensorBoard(Path(sys.argv[2]), 'b')\n"
            "[t.log(s, {'fve': s / 10}) for s in range(1, 6)]; t.taken_back(4); [t.log(s, {'fve': s * 1.0}) for s in (4, 5, 6)]; t.close()\n")
    subprocess.run([python, "-c", code, str(SCRIPT.parent), str(tmp / "tb")], check=True)
    found = json.loads(subprocess.run([python, "-c", READ, str(tmp / "tb" / "b")], capture_output=True, text=True, check=True).stdout)
    assert [(s, round(v, 3)) for s, v in found["fve"]] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 4.0), (5, 5.0), (6, 6.0)], found


def test_wandb(tmp, python):
    folder = tmp / "w" / "a"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(line(s, s / 10) for s in range(1, 6)))
    (tmp / "out").mkdir()
    program(tmp / "w", "--wandb", "nla-test", "--once", python=python, WANDB_DIR=str(tmp / "out"), WANDB_MODE="offline")
    written = list((tmp / "out").glob("wandb/offline-run-*/*.wandb"))
    assert len(written) == 1 and b"seconds/rollout" in written[0].read_bytes(), written


def test_messages(tmp, without):
    (tmp / "none").mkdir()
    assert "no metrics.jsonl" in program(tmp / "none", "--tensorboard", tmp / "tb0", "--once", code=1)
    assert "there is no" in program(tmp / "nowhere", "--tensorboard", tmp / "tb0", "--once", code=1)
    program(tmp / "none", code=2)
    for package in without:
        assert f"the {package} package is not installed" in program(tmp / "grow", f"--{package}", tmp / "x", "--once", code=1)


def main():
    packages = {p: python_with(p) for p in ("tensorboard", "wandb")}
    here = [p for p in packages if subprocess.run([sys.executable, "-c", f"import {p}"], capture_output=True).returncode]
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        test_reading(tmp)
        test_messages(tmp, here)
        for package, test in (("tensorboard", test_tensorboard), ("wandb", test_wandb)):
            if packages[package]:
                test(tmp, packages[package])
    missing = [p for p, python in packages.items() if not python]
    if missing:
        print(f"skipped in part: no Python here has {' or '.join(missing)}")
    return 77 if len(missing) == len(packages) else 0


if __name__ == "__main__":
    sys.exit(main())
