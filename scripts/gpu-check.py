#!/usr/bin/env python3
"""The checks of gpu-check.sh, which see: each runs programs of BUILD_DIR and adds rows (what, number, wanted, verdict) to the report.
A check that fails, or runs out of its time, does not stop the others."""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import predict  # noqa: E402

TIMES = re.compile("^(seconds|tokens_per_second|peak_memory)")  # what differs between two runs of the same
PLAN = re.compile(r"memory plan: ([0-9.]+) of [0-9.]+ GiB, ([0-9.]+) of it head room.*?(?:(\d+) rows decode at once, )?"
                  r"(\d+) (?:responses|rows) a backward pass, blocks (kept|recomputed)")
SLOWER = re.compile("(?:warning: on this GPU|this GPU runs without|decoding without) .*")  # what goes on without a fast version
GIB = 2**30


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


def say(text):
    print(f"gpu-check: {text}", file=sys.stderr, flush=True)


def shown(x):
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def sizes_of(config):
    """What a configuration's model has in its config.json; None where that is not to be found: then nothing is predicted."""
    try:
        model = json.loads((config.parent / json.loads(config.read_text())["model"] / "config.json").read_text())
        sizes = model.get("text_config", model)
        predict.Model(sizes)
        return sizes
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class Report:
    def __init__(self, args):
        self.args, self.out, self.build = args, Path(args.out).resolve(), Path(os.environ["BUILD_DIR"]).resolve()
        self.scratch, self.made = Path(args.scratch or args.out).resolve() / "gpu-check.shape", []
        self.config = Path(args.config).resolve() if args.config else self.scratch / "config.json"
        self.sizes = sizes_of(self.config) if args.config else predict.QWEN3_8B
        self.until = time.monotonic() + 60 * args.minutes
        self.check, self.limit, self.rows, self.machine, self.card, self.text_seconds, self.slower = "", 0.0, [], {}, None, None, []
        self.opened = False
        self.tokens, self.prompt = 16 if args.quick else 160, 26 if args.tokenizer or args.config else 31
        (self.out / "logs").mkdir(parents=True, exist_ok=True)

    # ---- rows ----

    def row(self, what, value, wanted="", ok=None):
        verdict = "-" if ok is None else ok if isinstance(ok, str) else "ok" if ok else "FAILED"
        self.rows.append({"check": self.check, "what": what, "value": value, "wanted": wanted, "verdict": verdict})
        say(f"{self.check}: {what}: {shown(value)}{f' (want {wanted})' if wanted else ''} {verdict}")

    def below(self, what, value, limit, unit=""):
        self.row(what, value, f"at most {limit:g}{unit}", value is not None and value <= limit)

    def guarded(self, check):
        try:
            if time.monotonic() > self.until:
                raise Skipped(f"{self.args.minutes:g} minutes are over")
            check()
        except Skipped as e:
            self.row(self.check, str(e), ok="skipped")
        except Failed as e:
            self.row(self.check, str(e), ok=False)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as e:  # what a program left is not what it should be
            self.row(self.check, f"{type(e).__name__}: {e}", ok=False)

    def failed(self):
        return [r for r in self.rows if r["verdict"] == "FAILED"]

    # ---- programs ----

    def run(self, name, *command, env=None):
        """Runs it to its end or the check's; stdout and stderr go to OUT/logs/NAME.txt. Returns stdout and seconds."""
        log, start = self.out / "logs" / f"{name}.txt", time.monotonic()
        with open(log, "w") as err, open(self.out / "logs" / f"{name}.out", "w") as out:
            try:
                child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, cwd=self.out, env={**os.environ, **(env or {})},
                                         start_new_session=True)
            except OSError as e:
                raise Failed(f"{name}: {e}") from e
            told = start
            try:
                while child.poll() is None:
                    time.sleep(0.05)
                    now = time.monotonic()
                    if now > min(self.limit, self.until):
                        raise Failed(f"{name}: not done after {now - start:.0f} s")
                    if now - told > 10:
                        told = now
                        say(f"{name}: {now - start:.0f} s")
            finally:
                if child.poll() is None:    # with what it has started, which would stay on the card
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        text = log.read_text(errors="replace")
        for line in SLOWER.findall(text):
            if line not in self.slower:
                self.slower.append(line)
                self.row("a program says", line, "nothing of the kind", False)
        if child.returncode:
            last = [line for line in text.splitlines() if line.strip()]
            raise Failed(f"{name}: exit {child.returncode}: {last[-1] if last else 'no word'}")
        return (self.out / "logs" / f"{name}.out").read_text(), time.monotonic() - start

    def train(self, name, config, *flags, device="cuda"):
        """A run into OUT/NAME without checkpoints but the last: its metrics and its log."""
        self.made.append(self.out / name)
        self.run(name, self.build / "nla-train", config, "--device", device, "--overwrite", "true", "--out", self.out / name,
                 "--checkpoint.every", 0, "--eval.data", "", "--log.samples", 0, *flags)
        lines = [json.loads(line) for line in open(self.out / name / "metrics.jsonl")]
        return lines, (self.out / name / "log.txt").read_text()

    def shape_needed(self):
        if not self.config.exists():
            raise Skipped("there are no weights to try: see shape")

    # ---- the checks ----

    def machine_(self):
        made = subprocess.run([self.build / "nla-train", "--version"], capture_output=True, text=True).stdout
        commit = re.search(r"commit (\S+),", made)
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
        self.machine = {"commit": commit.group(1) if commit else "", "kernel": platform.platform(),
                        "processor": cpu.group(1) if cpu else "",
                        "cores": len(os.sched_getaffinity(0)), "memory GB": round(int(memory.group(1)) / 1e6)}
        cache = self.build / "CMakeCache.txt"
        built = re.search(r"^LIBTORCH_DIR:PATH=(.*)", cache.read_text(), re.M) if cache.exists() else None
        version = Path(os.environ.get("LIBTORCH_DIR") or (built.group(1) if built else "")) / "version.py"
        found = re.search(r"__version__ = '(.*)'", version.read_text()) if version.is_file() else None
        self.machine["torch"] = found.group(1) if found else "unknown"
        keys = "name", "driver_version", "memory.total", "compute_cap", "power.limit", "clocks.max.sm", "memory.used"
        try:
            which = os.environ.get("CUDA_VISIBLE_DEVICES")
            text = self.run("nvidia-smi", "nvidia-smi", "--query-gpu=" + ",".join(keys), "--format=csv,noheader,nounits",
                            *(["-i", which.split(",")[0]] if which else []))[0]
            self.machine.update(zip(keys, (x.strip() for x in text.splitlines()[0].split(","))))
        except (Failed, IndexError) as e:
            self.row("nvidia-smi", str(e), ok="-")
        name = re.sub(r".*(PCIe|NVL|Laptop|4090 D).*", "", self.machine.get("name", ""))  # slower relatives
        self.card = next((predict.CARDS[key] for key in predict.CARDS if re.search(rf"\b{key}\b", name, re.I)), None)
        cache, explain = self.out / "gpu-check.cache", (self.build / "nla-explain", ROOT / "demo/config.json", "--device", "cuda", "--data",
                                              ROOT / "demo/eval", "--row", 0, "--max-new-tokens", 8)
        shutil.rmtree(cache, ignore_errors=True)
        first = self.run("explain-first", *explain, env={"NLA_CACHE": str(cache)})[1]
        second = self.run("explain", *explain, env={"NLA_CACHE": str(cache)})[1]
        self.opened = True
        self.row("a program opens the card", second, "seconds", True)
        self.row("compiling the kernels, once", max(first - second, 0.0), "seconds")

    def tests(self):
        ctest = shutil.which("ctest")
        if not ctest or not (self.build / "CTestTestfile.cmake").exists():
            raise Skipped("no ctest here, or a build without tests")
        failure = ""
        try:
            self.run("tests", ctest, "--test-dir", self.build, "-L", "^gpu$", "--no-tests=error", "--output-on-failure")
        except Failed as e:
            failure = str(e)
        text = (self.out / "logs" / "tests.out").read_text()
        results = re.findall(r"\d+: (gpu/\S+) \.+\s*(Passed|\*\*\*\S+)", text)
        for name, result in results:
            self.row(name, result.strip("*"), "Passed", "skipped" if "Skipped" in result else result == "Passed")
        if failure and not any(r["verdict"] == "FAILED" and r["check"] == "tests" for r in self.rows):
            raise Failed(failure)

    def demo(self):
        size = ("--prompts", 2, "--group", 4) if self.args.quick else ()
        runs = {}
        for device, dtype in ("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16"):
            name = f"demo-{device}-{dtype}"
            runs[device, dtype] = self.train(name, ROOT / "demo/config.json", "--steps", 4, "--dtype", dtype, *size, device=device)[0]
        self.row("kernels and graphs of our own run", "no" if self.slower else "yes", "yes", not self.slower)

        def mean(key, lines, of=slice(None)):
            values = [line[key] for line in lines[of] if line[key] is not None]
            return statistics.mean(values) if values else None
        first, steps = slice(0, 1), slice(None)
        for what, key, of, fp32, bf16, relative in (
                ("FVE of 4 steps", "fve", steps, 0.02, 0.05, False), ("response tokens", "response_tokens_mean", steps, 0.05, 0.1, True),
                ("gradient norm of step 1", "grad_norm", first, 0.05, 0.2, True), ("entropy of step 1", "entropy", first, 0.02, 0.05, True)):
            cpu = mean(key, runs["cpu", "fp32"], of)
            self.row(f"{what}, cpu fp32", cpu, "a number above 0", bool(cpu))
            for dtype, bound in ("fp32", fp32), ("bf16", bf16):
                gpu = mean(key, runs["cuda", dtype], of)
                off = abs(gpu - cpu) / (abs(cpu) if relative else 1) if gpu is not None and cpu else None
                self.row(f"{what}, cuda {dtype}", gpu, f"within {bound:g}{' of it' if relative else ''}", off is not None and off <= bound)
        for dtype, bound in ("fp32", 1e-4), ("bf16", 5e-3):
            self.below(f"sampler against trainer, cuda {dtype}", mean("sampler_gap", runs["cuda", dtype]), bound, " nats")

    def same(self, what, one, two):
        n = min(len(one), len(two))
        keys = sorted({k for a, b in zip(one, two) for k in a if a[k] != b.get(k) and not TIMES.match(k)})
        self.row(what, f"{n} steps equal" if not keys else "differ: " + ", ".join(keys), "equal", n > 0 and not keys)

    def repeat(self):
        size = ("--prompts", 2, "--group", 4, "--max-new-tokens", 16) if self.args.quick else ()
        one, two = (self.train(name, ROOT / "demo/config.json", "--steps", 3, *size)[0] for name in ("repeat-1", "repeat-2"))
        self.same("two runs of the demo, bf16", one, two)
        files = [self.out / name / "checkpoints/latest/av/adapter_model.safetensors" for name in ("repeat-1", "repeat-2")]
        self.row("their adapters", "equal" if files[0].read_bytes() == files[1].read_bytes() else "differ", "equal bytes",
                 files[0].read_bytes() == files[1].read_bytes())

    def shape(self):
        if self.args.config:
            raise Skipped(f"{self.config} is given")
        memory = float(self.machine.get("memory.total") or 1e9) * 2**20
        if memory < 22e9:
            raise Skipped(f"Qwen3-8B needs a card of 24 GB, this one has {memory / 1e9:.0f}")
        self.scratch.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.scratch.parent).free
        if free < 20e9 and not self.args.quick:
            raise Skipped(f"20 GB of disk are needed, {self.scratch.parent} has {free / 1e9:.0f}: --scratch names another place")
        more = (["--tokenizer", self.args.tokenizer] if self.args.tokenizer else []) + (["--sparse"] if self.args.quick else [])
        seconds = self.run("make-shape", sys.executable, ROOT / "scripts/make-shape.py", "--out", self.scratch, *more)[1]
        self.row("Qwen3-8B's shape, " + ("zeros" if self.args.quick else "random weights"), seconds, "seconds", True)

    def expected(self, prompts, group, log):
        """The stages by predict.py, as the run's plan has them; None without a known card."""
        plan = PLAN.search(log)
        if not plan:
            raise Failed("the run's log has no memory plan")
        if not self.card or not self.sizes:
            return None
        rows, n = int(plan.group(3) or 0), prompts * group
        step = predict.Step(prompts, group, self.tokens, self.tokens, plan.group(5) == "recomputed", int(plan.group(4)), rows or n,
                            predict.chunk_of(self.card.memory), prompt=self.prompt)
        return predict.stages(predict.Model(self.sizes), step, predict.MERGED if "merged into copies" in log else predict.WARM)

    def share(self, what, seconds, work):
        if not work or not seconds:
            self.row(what, seconds, "seconds")
            return
        floor = work.roofline(self.card)
        self.row(what, seconds, f"predicted {work.seconds(self.card):.3g} s; the roofline, {floor:.3g} s, is {floor / seconds:.0%} of it")

    def peak(self, lines, log):
        total, room = (float(x) for x in PLAN.search(log).groups()[:2])
        peak = lines[-1]["peak_memory_bytes"] / GIB
        self.row("peak memory, GiB", peak, f"at most the plan's {total:g}", peak <= total)
        self.row("peak over the plan less its head room", peak / (total - room), "about 1")
        return peak, total

    def step(self, prompts, group):
        self.shape_needed()
        lines, log = self.train(f"step-{prompts}x{group}", self.config, "--prompts", prompts, "--group", group, "--max-new-tokens", self.tokens,
                                "--rollout.min_new_tokens", self.tokens, "--steps", 2 if self.args.quick else 3)
        later, work, n = lines[1:], self.expected(prompts, group, log), prompts * group

        def median(key):
            return statistics.median(line[key] for line in later)
        exact = all(line["response_tokens_mean"] == self.tokens for line in lines)
        self.row("every response has its length", self.tokens if exact else "no", str(self.tokens), exact)
        self.row("decoded tokens a second", median("tokens_per_second"),
                 f"predicted {n * self.tokens / work['rollout'].seconds(self.card):,.0f}" if work else "")
        for stage in "rollout", "update":
            self.share(f"seconds of the {stage}", median(f"seconds_{stage}"), work and work[stage])
        scored = n * self.text_seconds if self.text_seconds and not self.args.config else 0.0
        target = next((predict.TARGETS.get((key, prompts, group)) for key, card in predict.CARDS.items() if card == self.card), None)
        seconds = median("seconds") + scored
        what = f"seconds of a step of {prompts} x {group} x {self.tokens}" + (f", with {scored:.2f} to score the texts" if scored else "")
        if target and not self.args.quick and all((self.sizes or {}).get(key) == size for key, size in predict.QWEN3_8B.items()):
            self.below(what, seconds, target)
        else:
            self.row(what, seconds, f"predicted {sum(w.seconds(self.card) for k, w in work.items() if k != 'update_ar'):.3g}" if work else "")
        gap = max((line["sampler_gap"] for line in lines if line["sampler_gap"] is not None), default=None)
        self.below("sampler against trainer", gap, 0.2, " nats")  # random logits deviate by about 1: what is wrong is as far off
        self.peak(lines, log)

    def same_(self):
        self.shape_needed()
        first = self.out / "step-8x4/metrics.jsonl"
        if not first.exists():
            raise Skipped("step-8x4 has not run")
        one = [json.loads(line) for line in open(first)]
        two, _ = self.train("step-again", self.config, "--prompts", 8, "--group", 4, "--max-new-tokens", self.tokens,
                            "--rollout.min_new_tokens", self.tokens, "--steps", 2)
        self.same("two runs of 8 x 4", one, two)

    def evaluate(self, name, *flags):
        out = self.run(name, self.build / "nla-eval", self.config, "--device", "cuda", "--overwrite", "true", "--out", self.out / name, *flags)[0]
        return json.loads(out)

    def score(self):
        """No random model closes its tags, so nothing is scored in its steps: given texts are."""
        self.shape_needed()
        if self.args.config:
            raise Skipped("a real model's steps are scored")
        n, words = 32 if self.args.quick else 512, "the hen and the fox went home to see a red cup".split()
        with open(self.out / "given.jsonl", "w") as f:
            for i in range(n):
                text = " ".join(words[(i + j * (1 + i % 7)) % len(words)] for j in range(self.tokens - 12)) + f" {i}"
                f.write(json.dumps({"row": i, "explanation": text}) + "\n")
        summary = self.evaluate("score", "--score", "given.jsonl")
        self.row("texts scored", n - sum(summary["failed"].values()), str(n), not any(summary["failed"].values()))
        length = summary["explanation_tokens"] + 15
        work = predict.Work()
        batch = max(1, int(predict.SCORE_TOKENS // length))
        work.add(predict.forward(predict.Model(predict.QWEN3_8B), predict.texts(batch, length), (predict.WARM,), 25), n / batch)
        self.text_seconds = summary["seconds"] / n
        self.share(f"seconds to score {n} texts of {length:.0f} tokens, first use included", summary["seconds"], self.card and work)

    def evaluation(self):
        self.shape_needed()
        rows = 32 if self.args.quick else 256
        s = self.evaluate("evaluation", "--eval.rows", rows, "--max-new-tokens", self.tokens, "--rollout.min_new_tokens", self.tokens)
        self.row("rows evaluated", s["rows"], str(rows), s["rows"] == rows)
        batch = min(128, rows)
        work = self.card and self.sizes and predict.Work().add(
            predict.decode(predict.Model(self.sizes), batch, batch, self.prompt, 20, self.tokens, (predict.WARM,)), rows / batch)
        self.share(f"seconds to sample {rows} rows", s["seconds"], work)

    def memory(self):
        self.shape_needed()
        if float(self.machine.get("memory.total") or 1e9) * 2**20 < 25e9:
            raise Skipped("the card itself is of that size")
        lines, log = self.train("memory-24G", self.config, "--prompts", 8, "--group", 4, "--max-new-tokens", self.tokens,
                                "--rollout.min_new_tokens", self.tokens, "--steps", 2, "--memory", "24G")
        peak, total = self.peak(lines, log)
        self.row("plan and peak under --memory 24G, GB", max(peak, total) * GIB / 1e9, "at most 24", max(peak, total) * GIB <= 24e9)

    # ---- the report ----

    def write(self, seconds):
        failed = self.failed()
        result = {"failed": len(failed), "seconds": round(seconds), "quick": self.args.quick, "machine": self.machine, "checks": self.rows}
        (self.out / "gpu-check.json").write_text(json.dumps(result, indent=1) + "\n")
        quick = " (quick: times mean nothing)" if self.args.quick else ""
        text = [f"# GPU check: {len(failed)} of {len(self.rows)} rows failed, {seconds:.0f} s{quick}", "", "| the machine | |", "|---|---|", *(f"| {key} | {value} |" for key, value in self.machine.items()), "",
                "| check | what | number | wanted | verdict |", "|---|---|---|---|---|"]
        for r in self.rows:
            cells = [r["check"], r["what"], shown(r["value"]), r["wanted"], f"**{r['verdict']}**" if r["verdict"] == "FAILED" else r["verdict"]]
            text.append("| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |")
        (self.out / "gpu-check.md").write_text("\n".join(text) + "\n")
        say(f"{len(failed)} of {len(self.rows)} rows failed: {self.out / 'gpu-check.md'}, {self.out / 'logs'}")


def main():
    parser = argparse.ArgumentParser(prog="gpu-check")
    parser.add_argument("--out", default="runs/gpu-check")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--quick", action="store_true")
    for name in "scratch", "tokenizer", "config", "only":
        parser.add_argument("--" + name, default="")
    args = parser.parse_args()
    for number in signal.SIGTERM, signal.SIGHUP:    # what runs ends with us
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    args.tokenizer = args.tokenizer and os.path.abspath(args.tokenizer)
    r, start = Report(args), time.monotonic()
    checks = {"machine": (r.machine_, 60), "tests": (r.tests, 200), "demo": (r.demo, 120), "repeat": (r.repeat, 60), "shape": (r.shape, 150),
              "score": (r.score, 90), "step-8x4": (lambda: r.step(8, 4), 90), "step-16x16": (lambda: r.step(16, 16), 120),
              "same": (r.same_, 90), "evaluation": (r.evaluation, 90), "memory": (r.memory, 90)}
    only = args.only.split(",") if args.only else list(checks)
    unknown = [name for name in only if name not in checks]
    if unknown:
        parser.error(f"no such check: {', '.join(unknown)} (there are: {' '.join(checks)})")
    try:
        for i, (name, (check, limit)) in enumerate(checks.items()):
            if name not in only and name != "machine":
                continue
            r.check, r.limit = name, time.monotonic() + limit
            say(f"[{i + 1}/{len(checks)}] {name}, {time.monotonic() - start:.0f} s so far")
            r.guarded(check)
            if not r.opened:
                break
    finally:
        shutil.rmtree(r.scratch, ignore_errors=True)
        for run in r.made:
            for part in "checkpoints", "reference":
                shutil.rmtree(run / part, ignore_errors=True)
        r.write(time.monotonic() - start)
    return 1 if r.failed() or not any(row["verdict"] == "ok" for row in r.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
