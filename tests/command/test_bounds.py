"""Every number that is an option, in every program that has it: beyond its range, and where it is no number, one line and exit code 2; at the
end of its range the program ends by itself, and what it cannot do is one line."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import tool
from faults import BUILD, COMMON, SOURCE, TINY, Server

RANGE = r"(?:at least (-?[\d.e-]+)|(-?[\d.e-]+) to ([\d.e+]+))"
NUMBERS = re.findall(r"^\| `([\w.]+)` \| [^|]*\| (integer|number(?:, or several)?), " + RANGE + r" \|", (SOURCE / "docs" / "options.md").read_text(), re.M)
# What takes minutes, or more memory than a test should, when it is as large as it may be.
LARGE = {"steps", "threads", "rollout.prompts", "rollout.group", "sft.batch", "eval.samples", "explain.samples", "extract.per_doc"}


def programs(work, extract):
    model, halves, out = ["--model", TINY / "model"], ["--av", TINY / "av", "--ar", TINY / "ar"], ["--out", work / "out"]
    data, short = ["--data", work / "set"], ["--max-new-tokens", "4"]
    return {
        "nla-train": [*model, *halves, *data, *out, *short, "--prompts", "2", "--group", "2", "--lora.rank", "2", "--steps", "1", "--log.probe", "0"],
        "nla-sft": ["--role", "ar", *model, *data, *out, "--steps", "1", "--batch", "4", "--lora.rank", "2", "--sft.warmup", "0", "--sft.held_out", "0.2"],
        "nla-extract": [*extract, *out],
        "nla-eval": [*model, *halves, *data, *out, *short, "--rows", "4"],
        "nla-explain": [*model, *halves, *data, *short, "--row", "0"],
        "nla-teach": [*model, *data, *out, *short, "--teach.prompt", "Say {text}", "--chat.format", "chatml", "--rows", "4"],
        "nla-export": [*model, "--ar", TINY / "ar", *out],
    }


def beyond(kind, least, low, high):
    """Values that are out of the range, or no number."""
    yield from ("1e999", "nan", "x", "9223372036854775808", "-9223372036854775809")
    yield str((int if kind == "integer" else float)(low or least) - 1)
    yield str(int(float(high)) + 1) if high else "9007199254740993"
    if kind == "integer":
        yield "1.5"


def main():
    assert len(NUMBERS) > 50, NUMBERS
    tried = dict.fromkeys((key for key, *_ in NUMBERS), 0)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with open(work / "texts.jsonl", "w") as f:
            f.writelines(f'{{"doc_id": "d{i}", "text": "the red fox and the river {i} and the old mill in the cold rain"}}\n' for i in range(12))
        extract = ["--model", TINY / "model", "--corpus", work / "texts.jsonl", "--layer", "2", "--extract.min_position", "5"]
        subprocess.run([BUILD / "nla-extract", *COMMON, *extract, "--out", work / "set"], check=True, capture_output=True)
        tool.explain(work / "set")
        for program, args in programs(work, extract).items():
            server, out = Server(program, work), work / "out"

            def run(*more):
                shutil.rmtree(out, ignore_errors=True)
                return server.run([program, *COMMON, *args, *more])

            code, said = run()
            assert code == 0, (program, said)
            for key, kind, least, low, high in NUMBERS:
                code, said = run(f"--{key}=x")
                if "does not use the option" in said:
                    continue
                for value in beyond(kind, least, low, high):
                    code, said = run(f"--{key}={value}")
                    assert code == 2 and said.startswith(f"{program}: '{key}' is ") and said.count("\n") == 1, (program, key, value, code, said)
                tried[key] += 1
                for value in () if key in LARGE else (low or least, high or "9007199254740991"):
                    code, said = run(f"--{key}={value}")
                    last = said.rstrip("\n").rpartition("\n")[2]
                    assert code in (0, 1, 2) and (code == 0 or last.startswith(program + ": ")), (program, key, value, code, said[-500:])
            server.close()
    assert all(tried.values()), [key for key, n in tried.items() if not n]
    print(f"{len(NUMBERS)} numbers, in {sum(tried.values())} places")


if __name__ == "__main__":
    sys.exit(main())
