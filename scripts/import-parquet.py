#!/usr/bin/env python3
"""import-parquet.py - published parquet sets to an activation set, and back.

	import-parquet.py SET.parquet [more.parquet ...] OUT [--rows FROM:TO] [--dtype fp32|bf16] [--sidecar FILE] [--overwrite]
	import-parquet.py --export SET OUT.parquet [--overwrite]

Columns read: activation_vector, response, api_explanation, prompt, n_raw_tokens, doc_id, detokenized_text_truncated, activation_layer; of these
only the text or the vector must be there. The explanation is what stands between the tags of `response`, else the column `api_explanation`, else what the AR template of
the sidecar holds in a `prompt` that is a text. A sidecar is SET.parquet.nla_meta.yaml, or the file that --sidecar names.

A slim set, without activation_vector, becomes a folder with rows.jsonl.gz and sidecar only. Its vectors come from the target:

	nla-extract --model MODEL --corpus OUT --extract.meta OUT --extract.at last --out SET

Row groups are read and written one after the other: the set may be larger than the memory. --export writes the same columns; a response or
prompt that is not the plain one ("<explanation>\\n...\\n</explanation>", the template with <INJECT>) is kept in rows.jsonl.gz, so that a set
comes back as it was. fp32 keeps every bit of the vectors; bf16 is half as large.

Exit 0: done, 1: failed (one line on stderr), 2: usage. Needs Python with pyarrow, numpy and yaml: scripts/setup.sh --reference installs them.
"""

import argparse
import gzip
import json
import os
import re
import shutil
import struct
import sys
from pathlib import Path

try:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import yaml
    lacking = None
except ImportError as error:  # --help needs none of them
    lacking = error

TAGS = re.compile(r"<explanation>(.*?)</explanation>", re.DOTALL)
BASELINE_ROWS = 50000
ROWS_AT_ONCE = 1024
VECTOR, TEXT = "activation_vector", "detokenized_text_truncated"
COLUMNS = (VECTOR, "response", "api_explanation", "prompt", "n_raw_tokens", "doc_id", TEXT, "activation_layer")


class Refused(Exception):
    """Something is wrong with what was given; its text is the line that is printed."""


def stripped(text):
    """A text without its outer white space; None when nothing is left: an empty explanation is none."""
    return (text.strip() or None) if isinstance(text, str) else None


def explanation_of(response):
    found = TAGS.search(response) if isinstance(response, str) else None
    return stripped(found.group(1)) if found else None


def plain_response(explanation):
    return None if explanation is None else f"<explanation>\n{explanation}\n</explanation>"


# ---- sidecars

def read_sidecar(path):
    try:
        with open(path, encoding="utf-8") as f:
            meta = yaml.safe_load(f)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"cannot read '{path}': {first_line(error)}") from None
    if not isinstance(meta, dict):
        raise Refused(f"cannot read '{path}': it is not a mapping of keys")
    norm = (meta.get("extraction") or {}).get("norm")
    if str(norm).lower() != "none":
        raise Refused(f"'{path}': 'extraction.norm' is '{norm}', want none: AV and AR take vectors as the model has them")
    return meta


def templates_of(meta):
    templates = meta.get("prompt_templates") or {}
    return templates.get("av", templates.get("actor")), templates.get("ar", templates.get("critic"))


def layer_of(meta):
    layer = (meta.get("critic") or {}).get("extraction_layer_index")
    return (meta.get("extraction") or {}).get("layer_index") if layer is None else layer


SPELLINGS = {"raw": "none", "null": "none", "sqrt(d_model)": "sqrt_d_model"}


def also_said(meta):
    """What a sidecar may be silent about; names and spellings of one meaning are those of src/nla/sidecar.c."""
    extraction = meta.get("extraction") or {}
    words = {key: str(extraction[key]).lower() for key in ("injection_scale", "mse_scale", "injection_mode") if key in extraction}
    found = {key: extraction[key] if isinstance(extraction[key], (int, float)) else SPELLINGS.get(word, word) for key, word in words.items()}
    named = {"base model": meta.get("base_checkpoint") or extraction.get("base_model"), "d_model": meta.get("d_model") or extraction.get("d_model")}
    return {**found, **{key: value for key, value in named.items() if value}}


def same_sidecar(first, meta, path, first_path):
    """One folder has one sidecar: what it says must hold for every file."""
    known, found = also_said(first), also_said(meta)
    other = [key for key in found if key in known and found[key] != known[key]]
    other += [what for what, of in (("block", layer_of), ("tokens", lambda m: m.get("tokens") or {}), ("templates", templates_of)) if of(meta) != of(first)]
    if other:
        raise Refused(f"'{path}' has other {other[-1]} than '{first_path}': import them one by one")


def plain_prompt(av_template):
    if not av_template:
        return None
    return [{"content": av_template.replace("{injection_char}", "<INJECT>"), "role": "user"}]


def write_sidecar(folder, meta, width, count, baselines):
    extraction = dict(meta.get("extraction") or {})
    extraction["d_model"] = width or extraction.get("d_model")
    meta = {**meta, "kind": "nla_dataset", "schema_version": 2, "stage": "import", "row_count": count, "extraction": extraction}
    if extraction["d_model"] is not None:
        meta["d_model"] = extraction["d_model"]
    if baselines:
        meta["baseline"] = {"raw_variance": baselines[0], "mean_normalised": baselines[1]}
    with open(folder / "nla_meta.yaml", "w", encoding="utf-8") as f:
        yaml.safe_dump(meta, f, sort_keys=False, allow_unicode=True)


# ---- vectors

class Vectors:
    """activations.safetensors, written row by row; the header is known beforehand, since parquet says how many rows there are."""

    def __init__(self, path, count, width, dtype):
        self.width, self.dtype, self.seen = width, dtype, 0
        self.sum, self.squares = np.zeros(width), 0.0
        size = 4 if dtype == "fp32" else 2
        header = {"__metadata__": {"format": "pt"},
                  "activations": {"dtype": "F32" if dtype == "fp32" else "BF16", "shape": [count, width], "data_offsets": [0, count * width * size]}}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.file = open(path, "wb")
        self.file.write(struct.pack("<Q", len(text)) + text)

    def add(self, rows, where):
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise Refused(f"{where}: the vector of row {self.seen + int(bad[0])} is not finite")
        if self.dtype == "bf16":  # round to nearest even
            bits = rows.view(np.uint32)
            stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            rows = (stored.astype(np.uint32) << 16).view(np.float32)
        else:
            stored = rows
        self.file.write(stored.tobytes())
        part = rows[:max(0, BASELINE_ROWS - self.seen)].astype(np.float64)
        part = part * (np.sqrt(self.width) / np.maximum(np.sqrt((part * part).sum(axis=1, keepdims=True)), 1e-12))
        self.sum += part.sum(axis=0)
        self.squares += (part * part).sum()
        self.seen += len(rows)

    def close(self):
        """Both baselines: mean over rows and D of (n(v)-mu)^2, and the same with n(mu) in place of mu."""
        self.file.close()
        n, d = min(self.seen, BASELINE_ROWS), self.width
        mu = self.sum / n
        scaled = mu * (np.sqrt(d) / max(np.sqrt((mu * mu).sum()), 1e-12))
        mean_sq = self.squares / (n * d)
        return float(mean_sq - (mu * mu).mean()), float(mean_sq - 2 * (mu * scaled).mean() + (scaled * scaled).mean())


def vectors_of(column, where):
    """[n, D] fp32 of a column of lists."""
    if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type) or pa.types.is_large_list(column.type)):
        raise Refused(f"{where}: column '{VECTOR}' holds {column.type}, want a list of numbers")
    if column.null_count:
        raise Refused(f"{where}: column '{VECTOR}' has {column.null_count} rows without a vector")
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        raise Refused(f"{where}: vectors have widths {sorted(lengths)[:4]}, want one")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat, dtype=np.float32).reshape(len(column), lengths[0])


# ---- import

def open_parquet(path):
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise Refused(f"cannot read '{path}': {first_line(error)}") from None


def batches_of(path, file, columns, begin, end):
    """Of the file's rows begin to end."""
    at = 0
    try:
        for group in range(file.num_row_groups):
            n = file.metadata.row_group(group).num_rows
            if at + n <= begin or end <= at:
                at += n
                continue
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns):
                low, high = max(begin - at, 0), min(end - at, len(batch))
                if low < high:
                    yield batch.slice(low, high - low)
                at += len(batch)
    except (OSError, pa.ArrowException) as error:
        raise Refused(f"cannot read '{path}': {first_line(error)}") from None


def between(text, template):
    """What replaces {explanation}."""
    head, slot, tail = (template or "").partition("{explanation}")
    if slot and isinstance(text, str) and text.startswith(head) and text.endswith(tail) and len(text) >= len(head) + len(tail):
        return stripped(text[len(head):len(text) - len(tail)])
    return None


def whole(values, column, where):
    """An integer, also as the double that pandas makes of it in a column with gaps (NaN); None where there is none."""
    x = values.get(column)
    if x is None or x != x:
        return None
    if isinstance(x, bool) or not isinstance(x, (int, float)) or x in (float("inf"), float("-inf")) or x != int(x):
        raise Refused(f"{where}: column '{column}' holds {x!r}, want whole numbers")
    return int(x)


def row_of(values, invented, templates, layer, where):
    explanation = explanation_of(values.get("response"))
    prompt = values.get("prompt")
    if explanation is None:
        explanation = stripped(values.get("api_explanation"))
    if explanation is None:
        explanation = between(prompt, templates[1])
    text, doc = values.get(TEXT), values.get("doc_id")
    if isinstance(doc, float):                                          # as pandas makes of integers with gaps
        doc = None if doc != doc else int(doc) if doc.is_integer() else doc
    row = {"doc_id": invented if doc is None else str(doc), "n_raw_tokens": whole(values, "n_raw_tokens", where), "text": text or ""}
    if row["n_raw_tokens"] is None:
        del row["n_raw_tokens"]
    if explanation is not None:
        row["explanation"] = explanation
    if values.get("response") != plain_response(explanation):
        row["response"] = values.get("response")
    if prompt != plain_prompt(templates[0]):
        row["prompt"] = prompt
    block = whole(values, "activation_layer", where)
    if None not in (block, layer) and block != layer:
        raise Refused(f"{where}: column 'activation_layer' holds {block}, its sidecar says block {layer}")
    if block is not None:
        row["activation_layer"] = block
    return row


def import_sets(paths, out, dtype, sidecar, begin, end):
    files = [(path, open_parquet(path)) for path in paths]
    beside = sidecar or f"{paths[0]}.nla_meta.yaml"
    meta = read_sidecar(beside) if sidecar or os.path.exists(beside) else {}
    for path in paths[1:]:
        other = f"{path}.nla_meta.yaml"
        if not sidecar and os.path.exists(other):
            same_sidecar(meta, read_sidecar(other), other, beside)
    templates, names = templates_of(meta), set(files[0][1].schema_arrow.names)
    slim = VECTOR not in names
    if slim and TEXT not in names:
        raise Refused(f"'{paths[0]}' has neither a column '{VECTOR}' nor '{TEXT}': its columns are {', '.join(sorted(names))}")
    columns = [c for c in COLUMNS if c in names]
    for path, file in files:
        for c in COLUMNS:
            if (c in file.schema_arrow.names) != (c in names):
                without, has = (paths[0], path) if c in file.schema_arrow.names else (path, paths[0])
                raise Refused(f"'{without}' has no column '{c}', which '{has}' has")
    there, number, vectors = sum(file.metadata.num_rows for _, file in files), 0, None
    end = min(end, there)
    if there and begin >= end:
        raise Refused(f"'{paths[0]}': no rows from {begin} on: there are {there}")
    width = (meta.get("extraction") or {}).get("d_model", meta.get("d_model"))
    with gzip.open(out / "rows.jsonl.gz", "wt", encoding="utf-8") as rows:
        at = 0
        for path, file in files:
            for batch in batches_of(path, file, columns, begin - at, end - at):
                if not slim:
                    v = vectors_of(batch.column(VECTOR), f"'{path}'")
                    if width and v.shape[1] != width:
                        raise Refused(f"'{path}': vectors have width {v.shape[1]}, want {width}")
                    width = v.shape[1]
                    vectors = vectors or Vectors(out / "activations.safetensors", end - begin, width, dtype)
                    vectors.add(v, f"'{path}'")
                for values in batch.select([c for c in columns if c != VECTOR]).to_pylist():
                    row = row_of(values, f"{Path(path).stem}-{begin + number}", templates, layer_of(meta), f"'{path}'")
                    rows.write(json.dumps(row, ensure_ascii=False) + "\n")
                    number += 1
            at += file.metadata.num_rows
    if number == 0:
        raise Refused(f"'{paths[0]}' has no rows")
    write_sidecar(out, meta, width, number, vectors.close() if vectors else None)
    if not meta:
        print(f"import-parquet: '{beside}' is not there: the set has no block, marker or templates", file=sys.stderr)
    return {"rows": number, "d_model": width, "vectors": not slim}


def place(part, out):
    """Of a folder that is there only a set's own files are replaced; the sidecar, which makes it a set, comes last."""
    if not out.exists():
        part.rename(out)
        return
    for old in [out / "nla_meta.yaml", out / "rows.jsonl.gz", *out.glob("activations*.safetensors*")]:
        old.unlink(missing_ok=True)
    for new in sorted(part.iterdir(), key=lambda path: path.name == "nla_meta.yaml"):
        new.rename(out / new.name)


# ---- export

def open_vectors(folder):
    """(map, [N, D] stored) of a set in one file."""
    path = folder / "activations.safetensors"
    try:
        with open(path, "rb") as f:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
            start = f.tell()
        entry = header["activations"]
        kind = {"F32": np.float32, "BF16": np.uint16}[entry["dtype"]]
        return np.memmap(path, dtype=kind, mode="r", offset=start, shape=tuple(entry["shape"]))
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise Refused(f"cannot read '{path}': {first_line(error)}") from None


def as_fp32(stored):
    return np.array(stored) if stored.dtype == np.float32 else (stored.astype(np.uint32) << 16).view(np.float32)


def table_of(rows, stored, meta, prompt):
    av_template, _ = templates_of(meta)
    layer = (meta.get("extraction") or {}).get("layer_index")
    v = as_fp32(stored)
    lists = pa.ListArray.from_arrays(pa.array(range(0, v.size + 1, v.shape[1]), pa.int32()), pa.array(v.reshape(-1)))
    return pa.table({
        "prompt": pa.array(prompts_of(rows, av_template), prompt),
        "response": pa.array([row["response"] if "response" in row else plain_response(row.get("explanation")) for row in rows], pa.string()),
        VECTOR: lists,
        "n_raw_tokens": pa.array([row.get("n_raw_tokens") for row in rows], pa.int64()),
        "activation_layer": pa.array([row.get("activation_layer", layer) for row in rows], pa.int64()),
        "doc_id": pa.array([str(row["doc_id"]) for row in rows], pa.string()),
        TEXT: pa.array([row["text"] for row in rows], pa.string()),
    })


def prompts_of(rows, template):
    return [row["prompt"] if "prompt" in row else plain_prompt(template) for row in rows]


def prompt_type(folder, template):
    """Of all rows: the first chunk may have none, or without a key that others have."""
    schemas = {}
    with gzip.open(folder / "rows.jsonl.gz", "rt", encoding="utf-8-sig") as lines:
        filled = (line for line in lines if line.strip())
        while rows := [json.loads(line) for _, line in zip(range(ROWS_AT_ONCE), filled)]:
            found = pa.array(prompts_of(rows, template)).type
            schemas[str(found)] = pa.schema([("prompt", found)])
    return pa.unify_schemas(list(schemas.values()), promote_options="permissive").field("prompt").type if schemas else pa.null()


def export_set(folder, out):
    folder, writer, done = Path(folder), None, 0
    meta, stored = read_sidecar(folder / "nla_meta.yaml"), open_vectors(folder)
    try:
        prompt = prompt_type(folder, templates_of(meta)[0])
        with gzip.open(folder / "rows.jsonl.gz", "rt", encoding="utf-8-sig") as lines:
            filled = (line for line in lines if line.strip())
            while rows := [json.loads(line) for _, line in zip(range(ROWS_AT_ONCE), filled)]:
                if done + len(rows) > len(stored):
                    raise Refused(f"'{folder}': {len(stored)} vectors, but more rows")
                table = table_of(rows, stored[done:done + len(rows)], meta, prompt)
                writer = writer or pq.ParquetWriter(f"{out}.tmp", table.schema)
                writer.write_table(table)
                done += len(rows)
    except (OSError, EOFError, ValueError, KeyError, pa.ArrowException) as error:
        raise Refused(f"cannot export '{folder}': {first_line(error)}") from None
    finally:
        if writer:
            writer.close()
    if done != len(stored):
        raise Refused(f"'{folder}': {len(stored)} vectors, but {done} rows")
    os.replace(f"{out}.tmp", out)
    with open(f"{out}.nla_meta.yaml", "w", encoding="utf-8") as f:
        yaml.safe_dump(meta, f, sort_keys=False, allow_unicode=True)
    return {"rows": done, "d_model": int(stored.shape[1])}


# ----

def first_line(error):
    return (str(error) or type(error).__name__).splitlines()[0]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("paths", nargs="+", metavar="PATH")
    p.add_argument("--export", action="store_true", help="an activation set to one parquet file")
    p.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="of the stored vectors")
    p.add_argument("--overwrite", action="store_true", help="replace the set or the file that is there")
    p.add_argument("--sidecar", help="nla_meta.yaml to take block, marker and templates from")
    p.add_argument("--rows", default="0:", metavar="FROM:TO", help="of all files together, counted from 0, TO not among them")
    a = p.parse_args()
    begin, colon, end = a.rows.partition(":")
    if not colon or not all(x == "" or x.isdecimal() for x in (begin, end)) or (end and int(begin or 0) >= int(end)):
        p.error(f"--rows is '{a.rows}', want FROM:TO, such as 0:20000")
    a.rows = int(begin or 0), int(end) if end else sys.maxsize
    if len(a.paths) < 2 or (a.export and len(a.paths) > 2):
        p.error("want one or more parquet files and the folder to write, or --export with a set and the file to write")
    return a


def main():
    a = arguments()
    if lacking:
        print(f"import-parquet: {lacking}: scripts/setup.sh --reference installs a Python that has it", file=sys.stderr)
        return 1
    out = Path(a.paths[-1])
    try:
        if out.exists() and not a.overwrite:
            raise Refused(f"'{out}' is there already: give --overwrite to replace it")
        if a.export:
            result = export_set(a.paths[0], out)
        else:
            part = out.with_name(out.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            try:
                result = import_sets(a.paths[:-1], part, a.dtype, a.sidecar, *a.rows)
                place(part, out)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except (Refused, OSError) as error:
        print(f"import-parquet: {error}", file=sys.stderr)
        Path(f"{out}.tmp").unlink(missing_ok=True)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
