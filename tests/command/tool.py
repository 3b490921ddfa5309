#!/usr/bin/env python3
"""Small jobs of the command tests that a shell does badly. Standard library only.

tool.py corpus FIRST COUNT            documents FIRST.. as JSON lines on stdout
tool.py golden KEY                    a text of tests/data/tiny/golden.json
tool.py explain SET                   give every row of an activation set an explanation
tool.py golden-set SET OUT            a copy of SET that holds the golden vectors; OUT.jsonl: the golden AR texts to score
tool.py get FILE KEY                  the value at a dotted key of a JSON file
tool.py set FILE KEY JSON             change it
tool.py drop-key FILE KEY             take it out
tool.py lengthen SET COUNT TEXT       give the first rows another explanation
tool.py unexplain SET                 take the explanations out
tool.py lines A B [KEY ...]           two metrics.jsonl say the same but for timings (and the keys named)
tool.py vector FILE WIDTH             one tensor of that many numbers
tool.py tensors FILE                  "name shape" of every tensor
tool.py equal A B                     two safetensors files hold the same numbers
tool.py nano AR OUT STRIPPED          an AR folder in nanoNLA's layout; STRIPPED: its final_norm_stripped, true or false
tool.py rekey FILE OLD NEW            replace a part of every name; OLD empty: put NEW in front
tool.py distance A B PREFIX           norm of the difference of fp32 tensors of that name, over the norm of A's
tool.py near A B KEY TOLERANCE        the numbers at KEY of two rows.jsonl, as many, not all null
tool.py halve FILE                    fp32 numbers cut to bf16
tool.py scale FILE PREFIX FACTOR      fp32 tensors of that name, times FACTOR
tool.py dtypes FILE                   the type of every tensor
tool.py retype FILE NAME DTYPE        the same bytes under another type of the same size
tool.py edit FILE drop|rename|reshape|nan|widen NAME [NEW]
tool.py clip FILE BYTES               cut that many bytes off its end
"""

import gzip
import json
import os
import random
import re
import shutil
import struct
import sys

TINY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "tiny")
WORDS = ("the", "a", "cat", "dog", "river", "stone", "runs", "sleeps", "over", "under", "red", "cold", "bread", "night",
         "sings", "house", "walks", "old", "bird", "and", "tree", "sea", "light")


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def corpus(first, count):
    for number in range(int(first), int(first) + int(count)):
        rng = random.Random(number)
        text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(14, 30))) + "."
        print(json.dumps({"doc_id": f"doc-{number}", "text": text}))


def golden(key):
    print(read_json(os.path.join(TINY, "golden.json"))[key])


def read_rows(folder):
    with gzip.open(os.path.join(folder, "rows.jsonl.gz"), "rt", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def write_rows(folder, rows):
    with gzip.open(os.path.join(folder, "rows.jsonl.gz"), "wt", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row) + "\n")


def explain(folder):
    rows = read_rows(folder)
    for number, row in enumerate(rows):
        row["explanation"] = "ab"[number % 2]
    write_rows(folder, rows)


def lengthen(folder, count, text):
    rows = read_rows(folder)
    for row in rows[:int(count)]:
        row["explanation"] = text
    write_rows(folder, rows)


def unexplain(folder):
    write_rows(folder, [{k: v for k, v in row.items() if k != "explanation"} for row in read_rows(folder)])


def read_tensors(path):
    """({name: (dtype, shape, bytes)}, metadata)"""
    with open(path, "rb") as f:
        size, = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(size)), f.read()
    meta = header.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[v["data_offsets"][0]:v["data_offsets"][1]]) for k, v in header.items()}, meta


def write_tensors(path, tensors, meta=None):
    header, at = {"__metadata__": meta} if meta else {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def vector(path, width):
    """A tensor `v` [width] of made-up numbers."""
    width = int(width)
    write_tensors(path, {"v": ("F32", [width], struct.pack(f"<{width}f", *(((7 * i) % 11 - 5) / 3 for i in range(width))))})


def tensors(path):
    for name, (_, shape, _) in sorted(read_tensors(path)[0].items()):
        print(name, "x".join(map(str, shape)))


def equal(a, b):
    one, other = (read_tensors(path)[0] for path in (a, b))
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    assert all(one[name] == other[name] for name in one), f"{a} and {b} hold different numbers"


def edit(path, how, name, new=None):
    all_of, meta = read_tensors(path)
    dtype, shape, data = all_of.pop(name)
    if how == "rename":
        all_of[new] = dtype, shape, data
    elif how == "reshape":
        all_of[name] = dtype, shape[::-1], data
        assert shape != shape[::-1]
    elif how == "widen":
        all_of[name] = dtype, [shape[0], 2 * shape[1]], data + data
    elif how == "nan":
        item = {"F32": b"\x00\x00\xc0\x7f", "BF16": b"\xc0\x7f", "F16": b"\x00\x7e"}[dtype]
        at = int(new or 0) * len(item)
        all_of[name] = dtype, shape, data[:at] + item + data[at + len(item):]
    else:
        assert how == "drop"
    write_tensors(path, all_of, meta)


def rekey(path, old, new):
    all_of, meta = read_tensors(path)
    assert all(old in name for name in all_of), all_of.keys()
    write_tensors(path, {name.replace(old, new) if old else new + name: value for name, value in all_of.items()}, meta)


def nano(folder, out, stripped):
    os.makedirs(out)
    config, adapter = read_json(os.path.join(folder, "adapter_config.json")), read_tensors(os.path.join(folder, "adapter_model.safetensors"))[0]
    assert config["use_rslora"] and not config["rank_pattern"]
    both = {k.replace("base_model.model.", "backbone.").replace(".weight", ".default.weight"): v for k, v in adapter.items()}
    both["value_head.weight"] = read_tensors(os.path.join(folder, "value_head.safetensors"))[0]["weight"]
    write_tensors(os.path.join(out, "ar_lora_value_head.safetensors"), both)
    shutil.copy(os.path.join(folder, "nla_meta.yaml"), out)
    with open(os.path.join(out, "ar_meta.json"), "w", encoding="utf-8") as f:
        json.dump({"ar_num_layers": 3, "lora_r": config["r"], "lora_alpha": config["lora_alpha"], "quant": "none",
                   "target_modules": config["target_modules"], "final_norm_stripped": json.loads(stripped)}, f)


def distance(a, b, prefix):
    one, other = ({name: struct.unpack(f"<{len(data) // 4}f", data) for name, (_, _, data) in read_tensors(path)[0].items()
                   if name.startswith(prefix)} for path in (a, b))
    assert one and one.keys() == other.keys(), f"{a} and {b} have no {prefix}, or others"
    square = sum(x * x for name in one for x in one[name])
    print(f"{(sum((x - y) ** 2 for name in one for x, y in zip(one[name], other[name])) / square) ** 0.5:.3g}")


def near(a, b, key, tolerance):
    one, other = [], []
    for path, numbers in ((a, one), (b, other)):
        with open(path, encoding="utf-8") as f:
            for line in f:
                value = json.loads(line)[key]
                numbers += value if isinstance(value, list) else [value]
    assert len(one) == len(other), f"{len(one)} and {len(other)} numbers"
    assert [x is None for x in one] == [x is None for x in other], "nulls in other places"
    diffs = [abs(x - y) for x, y in zip(one, other) if x is not None]
    assert diffs and max(diffs) <= float(tolerance), f"{key} differs by {max(diffs or [float('nan')])}"


def halve(path):
    all_of, meta = read_tensors(path)
    for name, (dtype, shape, data) in all_of.items():
        assert dtype == "F32"
        all_of[name] = "BF16", shape, b"".join(data[i + 2:i + 4] for i in range(0, len(data), 4))
    write_tensors(path, all_of, meta)


def scale(path, prefix, factor):
    all_of, meta = read_tensors(path)
    for name, (dtype, shape, data) in all_of.items():
        if name.startswith(prefix):
            numbers = struct.unpack(f"<{len(data) // 4}f", data)
            all_of[name] = dtype, shape, struct.pack(f"<{len(numbers)}f", *(float(factor) * x for x in numbers))
    write_tensors(path, all_of, meta)


def dtypes(path):
    print("\n".join(dtype for dtype, _, _ in read_tensors(path)[0].values()))


def retype(path, name, new):
    all_of, meta = read_tensors(path)
    _, shape, data = all_of[name]
    all_of[name] = new, shape, data
    write_tensors(path, all_of, meta)


def clip(path, count):
    os.truncate(path, os.path.getsize(path) - int(count))


def golden_set(source, out):
    """The vectors that the golden AR texts are scored against [8, D] as an activation set, the texts as lines for --score."""
    facts, (arrays, _) = read_json(os.path.join(TINY, "golden.json")), read_tensors(os.path.join(TINY, "golden.safetensors"))
    shutil.copytree(source, out)
    vectors = arrays["ar.targets"]
    write_tensors(os.path.join(out, "activations.safetensors"), {"activations": vectors})
    write_rows(out, [{"doc_id": f"golden-{i}", "n_raw_tokens": 1, "text": ""} for i in range(vectors[1][0])])
    meta = os.path.join(out, "nla_meta.yaml")
    with open(meta, encoding="utf-8") as f:
        text = re.sub(r"(?m)^row_count: .*$", f"row_count: {vectors[1][0]}", f.read())
    with open(meta, "w", encoding="utf-8") as f:
        f.write(text)
    with open(out + ".jsonl", "w", encoding="utf-8") as f:
        for i, explanation in enumerate(facts["scalars"]["ar.texts"]):
            f.write(json.dumps({"row": i, "explanation": explanation}) + "\n")


def golden_mse():
    """[8] as the reference implementation computes them."""
    _, shape, data = read_tensors(os.path.join(TINY, "golden.safetensors"))[0]["ar.mse"]
    return struct.unpack(f"<{shape[0]}f", data)


def at(value, key):
    for part in key.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def get(path, key):
    value = at(read_json(path), key)
    print(json.dumps(value) if not isinstance(value, str) else value)


def put(path, key, text):
    whole = read_json(path)
    parent, _, last = key.rpartition(".")
    (at(whole, parent) if parent else whole)[last] = json.loads(text)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(whole, f)


def drop_key(path, key):
    whole = read_json(path)
    whole.pop(key, None)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(whole, f)


TIMINGS = re.compile(r"seconds|tokens_per_second|peak_memory|live_tensors")


def lines(a, b, *keys):
    both = []
    for path in (a, b):
        with open(path, encoding="utf-8") as f:
            both.append([json.loads(line) for line in f])
    assert both[0] and len(both[0]) == len(both[1]), f"{len(both[0])} and {len(both[1])} lines"
    for one, other in zip(*both):
        assert one.keys() == other.keys(), one.keys() ^ other.keys()
        for key in one.keys() - set(keys):
            assert TIMINGS.search(key) or one[key] == other[key], f"step {one['step']}: {key} is {one[key]} and {other[key]}"


JOBS = {"corpus": corpus, "golden": golden, "explain": explain, "lengthen": lengthen, "unexplain": unexplain, "golden-set": golden_set, "get": get,
        "set": put, "drop-key": drop_key, "lines": lines, "vector": vector, "tensors": tensors, "equal": equal, "edit": edit,
        "nano": nano, "rekey": rekey, "near": near, "distance": distance, "retype": retype, "halve": halve, "scale": scale,
        "dtypes": dtypes, "clip": clip}

if __name__ == "__main__":
    JOBS[sys.argv[1]](*sys.argv[2:])
