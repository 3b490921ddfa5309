"""What an adapter_config.json may say of its modules: one string, a regular expression, full names, all-linear, layers_to_transform, modules
left out; and an AR's adapter over more blocks than it reads. Numbers and modules are PEFT's (tests/golden/make_golden.py)."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import tool

BUILD, TINY = Path(os.environ["BUILD_DIR"]), Path(tool.TINY)
GOLDEN = tool.read_json(TINY / "spelled.json")
KEY = "base_model.model.model."


def program(name, *args):
    return subprocess.run([BUILD / name, "--threads", "1", "--device", "cpu", "--model", TINY / "model", *args], capture_output=True, text=True)


def evaluate(work, given, av=TINY / "av", ar=TINY / "ar"):
    """(rows, or None where it is refused; what it said)"""
    (work / "given.jsonl").write_text("".join(json.dumps(line) + "\n" for line in given))
    done = program("nla-eval", "--av", av, "--ar", ar, "--data", work / "golden", "--score", work / "given.jsonl", "--out", work / "out", "--overwrite")
    assert done.returncode in (0, 1), done.stderr
    return None if done.returncode else [json.loads(line) for line in open(work / "out" / "rows.jsonl")], done.stderr


def near(rows, key, want, what):
    apart = max(abs(a - b) for row, numbers in zip(rows, want, strict=True) for a, b in zip(row[key], numbers, strict=True))
    assert apart < 1e-4, f"{what}: {key} differs by {apart}"


def adapter(work, source, config, modules):
    """A copy with this configuration, of whose tensors those of these modules are kept (None: all)."""
    folder = work / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    tensors, meta = tool.read_tensors(folder / "adapter_model.safetensors")
    kept = {k: v for k, v in tensors.items() if modules is None or k.removeprefix(KEY).partition(".lora_")[0] in modules}
    tool.write_tensors(folder / "adapter_model.safetensors", kept, meta)
    for key, value in config.items():
        tool.put(folder / "adapter_config.json", key, json.dumps(value))
    return folder


def test_spelled(work):
    given = [{"row": row, "response": GOLDEN["response"]} for row in range(2)]
    for what, case in GOLDEN["cases"].items():
        config, modules = case["config"], case["modules"]
        rows, said = evaluate(work, given, av=adapter(work, TINY / "av", config, modules))
        assert rows, f"{what}: {said}"
        near(rows, "logprob", case["logprob"], what)
        gone = (modules or ["layers.3.self_attn.v_proj"])[-1]       # what is named without doubt must be there
        rows, said = evaluate(work, given, av=adapter(work, TINY / "av", config, [m for m in modules or all_modules() if m != gone]))
        if "regex" in what or "exclude_modules" in config:
            assert rows, f"{what}, without {gone}: {said}"
        else:
            assert rows is None and f"2 keys are missing: '{KEY}{gone}.lora_A.weight', '{KEY}{gone}.lora_B.weight', 0 are unexpected" in said, (what, said)


def all_modules():
    return sorted({k.removeprefix(KEY).partition(".lora_")[0] for k in tool.read_tensors(TINY / "av" / "adapter_model.safetensors")[0]})


def test_deeper(work):
    """The AR reads block 2: of an adapter over blocks 0 to 4 those after it are not read, which is said; they may be missing too."""
    texts = tool.read_json(TINY / "golden.json")["scalars"]["ar.texts"]
    given = [{"row": row, "explanation": text} for row, text in enumerate(texts)]
    for n_blocks in (5, 3):
        ar = adapter(work, TINY / "ar", {}, [])
        tensors, meta = tool.read_tensors(TINY / "av" / "adapter_model.safetensors")
        tool.write_tensors(ar / "adapter_model.safetensors", {k: v for k, v in tensors.items() if int(k.split(".")[4]) < n_blocks}, meta)
        rows, said = evaluate(work, given, ar=ar)
        near([{"mse": [row["mse"]]} for row in rows], "mse", [[x] for x in GOLDEN["deeper_mse"]], f"an adapter of {n_blocks} blocks")
        lines = [line for line in said.splitlines() if "are not read" in line]
        assert lines == [f"adapter '{ar}': 28 of its tensors are of blocks after 2 and are not read"] * (n_blocks > 3), lines


def main():
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with open(work / "corpus.jsonl", "w") as f, contextlib.redirect_stdout(f):
            tool.corpus(100, 12)
        done = program("nla-extract", "--corpus", work / "corpus.jsonl", "--layer", "2", "--extract.min_position", "5", "--out", work / "held")
        assert done.returncode == 0, done.stderr
        tool.golden_set(str(work / "held"), str(work / "golden"))
        test_spelled(work)
        test_deeper(work)


if __name__ == "__main__":
    sys.exit(main())
