"""Mutated files of a model, an AV, an AR and an activation set: nla-train --check reads each, and ends by itself with exit code 0, 1
or 2 and, where it fails, one last line that begins with its name. The seed of a case is its number.

    test_mutated.py [FIRST [COUNT]]     those cases (default: the first 250; tests/slow/test_mutated.sh has a thousand)

A failing case keeps its files in NLA_KEEP, when that names a folder.
"""

import copy
import gzip
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import tool
from faults import Server

BUILD, SOURCE = Path(os.environ["BUILD_DIR"]), Path(os.environ["SOURCE_DIR"])
TINY = SOURCE / "tests" / "data" / "tiny"
CASES = 250
FILES = ["model/config.json", "model/tokenizer.json", "model/tokenizer_config.json", "model/generation_config.json", "model/nla_chat.json",
         "model/model.safetensors", "av/nla_meta.yaml", "av/adapter_config.json", "av/adapter_model.safetensors", "ar/nla_meta.yaml",
         "ar/value_head.safetensors", "train/nla_meta.yaml", "train/rows.jsonl.gz", "train/activations.safetensors"]
CHAT = {"before": "<|im_start|>user\n", "after": "<|im_end|>\n<|im_start|>assistant\n", "strip": "none", "stop": ["<|im_end|>"]}


class Literal(str):
    """A text that goes into JSON as it is."""


DEEP = Literal("[" * 5000 + "]" * 5000)
DEEP_OBJECT = Literal('{"a":' * 5000 + "1" + "}" * 5000)
HOSTILE = [None, True, False, 0, -1, 1, 2, 1.5, -0.0, 2**31 - 1, 2**31, 2**32 - 1, 2**32 + 1, 2**53, 2**63 - 1, 2**63, 2**64, -2**31, -2**63,
           10**12, 1e300, -1e300, Literal("1e999"), Literal("NaN"), Literal("-Infinity"), Literal("0x10"), Literal(""), "", "x", "\u0000", "\udcff",
           "12", "true", "A" * 100000, [], {}, [[]], [None], {"": None}, [0, -1], list(range(3000)), DEEP, DEEP_OBJECT]
YAML = ["", "~", "-1", "2147483648", "9007199254740992", "9223372036854775808", "1e300", ".nan", "-.inf", "true", "x", "''", "[]", "{}", "[[", "{a: {", "&a [*a]",
        "*none", "!!binary x", "\"\\0\"", "|", ">-", "\t- x", "? : ?", "A" * 100000, "[" * 5000 + "]" * 5000, "{a: " * 3000 + "}" * 3000, "%", "- - - -", "\x00", "\ufeff"]
LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


def dump(value):
    """JSON, with literals as they are."""
    marks = []

    def mark(v):
        if isinstance(v, Literal):
            marks.append(v)
            return f"\ue000{len(marks) - 1}\ue001"
        if isinstance(v, dict):
            return {k: mark(x) for k, x in v.items()}
        return [mark(x) for x in v] if isinstance(v, list) else v

    text = json.dumps(mark(value), ensure_ascii=False)
    return re.sub("\"\ue000(\\d+)\ue001\"", lambda m: marks[int(m[1])], text).encode("utf-8", "surrogateescape")


def places(value):
    """(container, key) of everything in a value; the first few of a long list, so that a vocabulary does not drown the rest."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for n, (key, inner) in enumerate(list(items)):
        if n < 60:
            yield value, key
            yield from places(inner)


def mutate_json(rng, data):
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        where, key = rng.choice(list(places(value)) or [([value], 0)])
        how = rng.randrange(7)
        if how == 0:
            del where[key]
        elif how == 1 and isinstance(where, dict):
            where["x" * rng.choice((1, 300))] = where[key]
        elif how == 2:
            other, at = rng.choice(list(places(value)) or [([value], 0)])
            where[key] = copy.deepcopy(other[at])
        elif how == 3 and isinstance(where[key], int):
            where[key] = where[key] * rng.choice((-1, 2, 1000)) + rng.choice((-1, 0, 1))
        elif how == 4 and isinstance(where, dict):
            return dump(value).replace(b"{", b"{" + dump({str(key): rng.choice(HOSTILE)})[1:-1] + b", ", 1)    # one key twice
        else:
            where[key] = rng.choice(HOSTILE)
    return dump(value)


def mutate_yaml(rng, data):
    lines = data.decode().split("\n")
    for _ in range(rng.choice((1, 1, 2))):
        n = rng.randrange(len(lines))
        head = re.match(r"(\s*(?:- |[\w.]+:)?)", lines[n])[1]
        lines[n:n + 1] = rng.choice(([], [lines[n]] * 2, [head + " " + rng.choice(YAML)], [head + " " + rng.choice(YAML)], [head + " " + rng.choice(YAML)],
                                     [" " + lines[n]], ["---", lines[n]], [rng.choice(lines), lines[n]], LAUGHS.split("\n") + [head + " *a9"]))
    return "\n".join(lines).encode()


def mutate_bytes(rng, data):
    data, how = bytearray(data), rng.randrange(7)
    at = rng.randrange(len(data)) if data else 0
    if how == 0:
        return b""
    if how == 1:
        return bytes(data[:at])
    if how == 2:
        return bytes(data * 2)
    if how == 3:
        data[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 8, 1000))))
    elif how == 4:
        del data[at:at + rng.choice((1, 8, 1000))]
    else:
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(min(len(data), rng.choice((16, 4000, 10**9))))] = rng.randrange(256)
    return bytes(data)


def mutate_tensors(rng, data):
    size, = struct.unpack("<Q", data[:8])
    header, rest, how = data[8:8 + size], data[8 + size:], rng.randrange(8)
    if how == 0:
        size = rng.choice((0, 1, size - 1, size + 1, len(data), 2**31, 2**32, 2**53, 2**63, 2**64 - 1, 2**64 - 8))
        return struct.pack("<Q", size) + header + rest
    if how == 1:
        return data[:8] + header + rest[:rng.randrange(len(rest))]
    value = json.loads(header)
    if how < 5:     # sizes and offsets
        entry = value[rng.choice([k for k in value if k != "__metadata__"])]
        where = rng.choice((entry["shape"], entry["data_offsets"], entry))
        where[rng.randrange(len(where)) if isinstance(where, list) else "dtype"] = rng.choice((0, -1, 1, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64, "I64", "F64", "F8_E4M3", *HOSTILE))
        if rng.random() < 0.3:
            entry["shape"] = rng.choice(([2**32, 2**32], [2**62, 4], [0, 2**63 - 1], [1] * 100, [], [-1, -48], entry["shape"][::-1]))
        header = dump(value)
    else:
        header = mutate_json(rng, header)
    return struct.pack("<Q", len(header)) + header + rest


def mutate_rows(rng, data):
    lines = gzip.decompress(data).split(b"\n")[:-1]
    for _ in range(rng.choice((1, 3))):
        n = rng.randrange(len(lines))
        try:
            lines[n] = rng.choice((mutate_json, mutate_json, mutate_bytes))(rng, lines[n])
        except ValueError:      # a mutated line is no JSON any more
            lines[n] = mutate_bytes(rng, lines[n])
    if rng.random() < 0.2:
        del lines[rng.randrange(len(lines)):]
    return gzip.compress(b"\n".join(lines) + b"\n" * rng.randrange(3), mtime=0)


def mutate(rng, name, data):
    kinds = {"json": mutate_json, "yaml": mutate_yaml, "safetensors": mutate_tensors, "gz": mutate_rows}
    return (mutate_bytes if rng.random() < 0.2 else kinds[name.rpartition(".")[2]])(rng, data)


def make_originals(work):
    for part in ("model", "av", "ar"):
        shutil.copytree(TINY / part, work / part)
    (work / "model" / "nla_chat.json").write_text(json.dumps(CHAT))
    golden = tool.read_json(TINY / "golden.json")
    with open(work / "corpus.jsonl", "w", encoding="utf-8") as f:
        for number in range(12):
            f.write(json.dumps({"doc_id": f"doc-{number}", "text": " ".join(random.Random(number).choices(tool.WORDS, k=20))}) + "\n")
    subprocess.run([BUILD / "nla-extract", "--threads", "1", "--device", "cpu", "--model", work / "model", "--corpus", work / "corpus.jsonl", "--layer", "2",
                    "--extract.min_position", "5", "--templates.av", golden["av_template"], "--templates.ar", golden["ar_template"],
                    "--templates.marker", golden["marker"], "--out", work / "train"], check=True, capture_output=True)
    tool.explain(work / "train")


def judge(code, text):
    last = text.rstrip("\n").rpartition("\n")[2]
    if code not in (0, 1, 2):
        return f"ends with {code}"
    if code and not last.startswith("nla-train: "):
        return f"exits {code} and its last line is {last[:200]!r}"
    if code and text.count("nla-train: ") != 1:
        return "says more than one line"
    return None


def run_case(work, server, number):
    """(what is wrong with a case or None, its exit code)"""
    rng = random.Random(number)
    name = FILES[number % len(FILES)]
    data = mutate(rng, name, (work / name).read_bytes())
    case = work / "case"
    shutil.rmtree(case, ignore_errors=True)
    for part in ("model", "av", "ar", "train"):
        (case / part).mkdir(parents=True)
        for file in (work / part).iterdir():
            if f"{part}/{file.name}" != name and (file.name != "nla_chat.json" or name.endswith("nla_chat.json")):
                (case / part / file.name).symlink_to(file)
    (case / name).write_bytes(data)
    args = ["nla-train", "--check", "--threads", "1", "--device", "cpu", "--model", case / "model", "--av", case / "av", "--ar", case / "ar",
            "--data", case / "train", "--out", work / "out", "--prompts", "2", "--group", "2", "--max-new-tokens", "4"]
    code, said = server.run(args)
    wrong = judge(code, said)
    if wrong and os.environ.get("NLA_KEEP"):
        shutil.copytree(case, Path(os.environ["NLA_KEEP"]) / f"case-{number}", dirs_exist_ok=True)
        (Path(os.environ["NLA_KEEP"]) / f"case-{number}" / "said").write_text(said, "utf-8")
    return wrong and f"case {number}, {name}: {wrong}", code


def main():
    first, count = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 0), (2, CASES)))
    codes, wrong = {}, []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_originals(work)
        server = Server("nla-train", work)
        for number in range(first, first + count):
            found, code = run_case(work, server, number)
            codes[code] = codes.get(code, 0) + 1
            if number % 100 == 99:
                print(f"{number + 1} cases: {codes}", flush=True)
            if found:
                print(found, flush=True)
                wrong.append(found)
        server.close()
    print(f"{count} mutated files: exit codes {dict(sorted(codes.items()))}, {len(wrong)} wrong")
    assert count < 100 or {0, 1} <= codes.keys(), codes     # some are read to their end, some are refused
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
