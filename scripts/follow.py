#!/usr/bin/env python3
"""
Logs of runs, growing or finished, to TensorBoard or Weights & Biases: every number of metrics.jsonl at its step, and of the run's own
evaluations (eval-STEP.json) under eval/.

    scripts/follow.py runs/a runs/b --tensorboard runs/tb      # then: tensorboard --logdir runs/tb
    scripts/follow.py runs/sweep --wandb my-project            # offline unless WANDB_MODE says otherwise: wandb sync later

An argument is a run folder or a folder of those; new runs are found as they come. It looks every --every seconds until interrupted; --once:
what is there now. A run that resumed from a checkpoint has lines taken back: TensorBoard drops its steps from there on, Weights & Biases
keeps what it was told first. Needs the tensorboard or the wandb package.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path


def scalars(line):
    """{tag: number}: what a log groups by its name becomes a group."""
    out = {}
    for key, value in line.items():
        if key != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
            group, _, rest = key.partition("_")
            out[f"{group}/{rest}" if rest and group in ("seconds", "failed", "held") else key] = float(value)
    return out


class TensorBoard:
    def __init__(self, folder, name):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        self.event, self.summary = event_pb2, summary_pb2
        self.writer = EventFileWriter(str(folder / name))

    def log(self, step, values):
        values = [self.summary.Summary.Value(tag=tag, simple_value=v) for tag, v in values.items()]
        self.writer.add_event(self.event.Event(wall_time=time.time(), step=step, summary=self.summary.Summary(value=values)))

    def taken_back(self, step):
        """Steps from this one on will come again."""
        start = self.event.SessionLog(status=self.event.SessionLog.START)
        self.writer.add_event(self.event.Event(wall_time=time.time(), step=step, session_log=start))

    def flush(self):
        self.writer.flush()

    def close(self):
        self.writer.close()


class WeightsAndBiases:
    def __init__(self, project, name, config):
        import wandb
        os.environ.setdefault("WANDB_SILENT", "true")
        self.run = wandb.init(project=project, name=name, config=config, mode=os.environ.get("WANDB_MODE", "offline"), reinit="create_new")
        self.last = -1

    def log(self, step, values):
        if step >= self.last:
            self.run.log(values, step=step)
            self.last = step

    def taken_back(self, step):
        print(f"follow: {self.run.name}: steps from {step} on came again after a resume; Weights & Biases keeps the first ones", file=sys.stderr)

    def flush(self):
        pass

    def close(self):
        self.run.finish()


class Run:
    def __init__(self, folder, sinks):
        self.folder, self.sinks = folder, sinks
        self.offset, self.inode, self.step, self.evaluated = 0, None, -1, set()
        self.sent = {}                                                  # {step: hash of its values}

    def new_lines(self):
        """Whole lines since the last look; from the beginning when the file was replaced, which a resume does."""
        try:
            with open(self.folder / "metrics.jsonl", "rb") as f:
                found = os.fstat(f.fileno())
                replaced = self.inode is not None and (found.st_ino != self.inode or found.st_size < self.offset)
                self.inode, self.offset = found.st_ino, 0 if replaced else self.offset
                f.seek(self.offset)
                whole, newline, _ = f.read().rpartition(b"\n")
        except OSError:
            return [], False
        self.offset += len(whole) + len(newline)
        lines = []
        for line in whole.splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and isinstance(value.get("step"), int):
                lines.append(value)
        return lines, replaced

    def look(self):
        """Returns how many steps were new."""
        lines, replaced = self.new_lines()
        values = {} # of a step and its evaluation together: Weights & Biases takes no step after a later one
        for x in lines:
            values.setdefault(x["step"], {}).update(scalars(x))
        found = {step: hash(tuple(of.items())) for step, of in values.items()}
        other = [step for step in self.sent if found.get(step) != self.sent[step]] if replaced else []
        if other:
            first = min(other)
            for sink in self.sinks:
                sink.taken_back(first)
            self.step = first - 1
            self.sent = {step: of for step, of in self.sent.items() if step < first}
            self.evaluated = {name for name in self.evaluated if int(name[5:-5]) < first} # eval-N.json
        values = {step: of for step, of in values.items() if step > self.step}
        self.sent.update((step, found[step]) for step in values)
        self.step, new = max(values, default=self.step), len(values)
        for path in sorted(self.folder.glob("eval-*.json"), key=lambda p: (len(p.name), p.name)):
            step = path.stem.removeprefix("eval-")
            if step.isdigit() and path.name not in self.evaluated and int(step) <= self.step:
                try:
                    summary = json.loads(path.read_text("utf-8"))
                except (OSError, ValueError):
                    continue
                self.evaluated.add(path.name)
                values.setdefault(int(step), {}).update({f"eval/{tag}": v for tag, v in scalars(summary).items()})
        for step in sorted(values):
            for sink in self.sinks:
                sink.log(step, values[step])
        for sink in self.sinks:
            sink.flush()
        return new


def find(paths):
    for path in paths:
        yield from (p.parent for p in sorted([path / "metrics.jsonl"] if (path / "metrics.jsonl").exists() else path.glob("**/metrics.jsonl")))


def name_of(folder, paths, taken):
    """Of a folder inside an argument its path there, of several arguments with theirs; of an argument its own name; longer where that is taken."""
    inside = [len(folder.relative_to(path).parts) + (len(paths) > 1) for path in paths if path in folder.parents]
    parts, n = folder.resolve().parts, inside[0] if inside else 1
    while "/".join(parts[-n:]) in taken and n < len(parts) - 1:
        n += 1
    return "/".join(parts[-n:])


def read_config(folder):
    try:
        return json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def main():
    parser = argparse.ArgumentParser(prog="follow.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="write event files there, a folder a run")
    parser.add_argument("--wandb", metavar="PROJECT", help="log to this project of Weights & Biases")
    parser.add_argument("--every", type=float, default=10, metavar="SECONDS", help="between looks [default 10]")
    parser.add_argument("--once", action="store_true", help="what is there now, and end")
    args = parser.parse_args()
    if not args.tensorboard and not args.wandb:
        parser.error("one of --tensorboard and --wandb is needed")
    if not args.every > 0:
        parser.error("--every must be above 0")
    for path in args.runs:
        if not path.exists():
            sys.exit(f"follow: error: there is no '{path}'")
    followed, taken = {}, set()
    try:
        while True:
            for folder in find(args.runs):
                if folder not in followed:
                    name = name_of(folder, args.runs, taken)
                    taken.add(name)
                    followed[folder] = Run(folder, ([TensorBoard(args.tensorboard, name)] if args.tensorboard else [])
                                           + ([WeightsAndBiases(args.wandb, name, read_config(folder))] if args.wandb else []))
                run = followed[folder]
                new = run.look()
                if new:
                    print(f"follow: {folder}: {new} steps, at step {run.step}", file=sys.stderr)
            if args.once:
                break
            time.sleep(args.every)
    except ModuleNotFoundError as e:
        package = str(e.name).split(".")[0]
        sys.exit(f"follow: error: the {package} package is not installed for {sys.executable}: {sys.executable} -m pip install {package}")
    except KeyboardInterrupt:
        pass
    finally:
        for run in followed.values():
            for sink in run.sinks:
                sink.close()
    if not followed:
        sys.exit(f"follow: error: no metrics.jsonl in {', '.join(repr(str(p)) for p in args.runs)}")


if __name__ == "__main__":
    main()
