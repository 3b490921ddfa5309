# Published parquet sets become activation sets and come back equal; slim ones get their vectors from the target; what is wrong with a
# file is one line.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
[ -x "${REFERENCE_PYTHON:-/nowhere}" ] && "$REFERENCE_PYTHON" -c 'import pyarrow, numpy, yaml' 2>/dev/null ||
	skip "no Python with pyarrow: scripts/setup.sh --reference installs it"
make_sets
cd "$work"
import() { # ARGUMENTS of import-parquet.py
	code=0
	"$REFERENCE_PYTHON" -B "$SOURCE_DIR/scripts/import-parquet.py" "$@" >stdout 2>stderr || code=$?
}
imported() {
	import "$@"
	[ "$code" -eq 0 ] || fail "import-parquet $*: $(tail -n 2 stderr)"
}
not_imported() { # PATTERN ARGUMENTS: exit 1 and one line, and nothing is left
	pattern=$1
	shift
	import "$@"
	[ "$code" -eq 1 ] || fail "import-parquet $* exits $code"
	[ "$(wc -l <stderr)" -eq 1 ] || fail "import-parquet $*: stderr is not one line: $(cat stderr)"
	grep -Eq -- "^import-parquet: .*$pattern" stderr || fail "'$(cat stderr)' does not match '$pattern'"
	for last; do :; done
	[ ! -e "$last" ] && [ ! -e "$last.part" ] && [ ! -e "$last.tmp" ] || fail "a failed import left '$last'"
}
python() { "$REFERENCE_PYTHON" -B "$@"; }

# A set like the published ones: prompts with <INJECT>, tags, several row groups, one row without an explanation, one with words around it.
python - held "$(tool golden av_template)" <<'END'
import gzip, json, shutil, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, yaml
rows = [json.loads(line) for line in gzip.open(f"{sys.argv[1]}/rows.jsonl.gz", "rt")]
n = len(rows)
v = np.random.default_rng(0).normal(size=(n, 48)).astype(np.float32) * 30
prompt = [{"role": "user", "content": sys.argv[2].replace("{injection_char}", "<INJECT>")}]
response = [f"<explanation>\n{r['explanation']}\n</explanation>" for r in rows]
response[3], response[4] = "no tags", f"Well. {response[4]} That is all."
table = pa.table({
    "prompt": [prompt] * n, "response": response, "activation_vector": pa.array(list(v), pa.list_(pa.float32())),
    "n_raw_tokens": pa.array([r["n_raw_tokens"] for r in rows], pa.int64()), "activation_layer": pa.array([2] * n, pa.int64()),
    "doc_id": [r["doc_id"] for r in rows], "detokenized_text_truncated": [r["text"] for r in rows]})
pq.write_table(table, "set.parquet", row_group_size=7)
pq.write_table(table.drop_columns(["activation_vector"]), "slim.parquet", row_group_size=7)
pq.write_table(table.drop_columns(["activation_vector", "detokenized_text_truncated"]), "nothing.parquet")
pq.write_table(table.set_column(2, "activation_vector", pa.array([x[:40] for x in v], pa.list_(pa.float32()))), "narrow.parquet")
pq.write_table(table.set_column(2, "activation_vector", pa.array([x[:48 - (i == 9)] for i, x in enumerate(v)], pa.list_(pa.float32()))), "ragged.parquet")
pq.write_table(table.set_column(2, "activation_vector", pa.array(["x"] * n)), "words.parquet")
bad = v.copy()
bad[5, 1] = np.nan
pq.write_table(table.set_column(2, "activation_vector", pa.array(list(bad), pa.list_(pa.float32()))), "nan.parquet")
ar = [f"Text: {r['explanation']}\nVector:" for r in rows]
pq.write_table(table.set_column(0, "prompt", pa.array(ar)).drop_columns(["response"]), "ar.parquet", row_group_size=7)
pq.write_table(table.drop_columns(["doc_id", "n_raw_tokens"]), "plain.parquet")
pq.write_table(table.drop_columns(["doc_id", "n_raw_tokens"]), "other.parquet")
api = [" the fox\n", "", "  ", None] + ["x"] * (n - 4)
pq.write_table(table.drop_columns(["prompt"]).set_column(0, "response", pa.array(["<explanation> \n</explanation>"] * n)).append_column("api_explanation", pa.array(api)),
               "api.parquet")
pq.write_table(table.set_column(4, "activation_layer", pa.array([2] * 9 + [3] * (n - 9), pa.int64())), "layers.parquet")
counts = [float(r["n_raw_tokens"]) for r in rows]
doubles = table.set_column(4, "activation_layer", pa.array([2.0] * n))
doubles = doubles.set_column(5, "doc_id", pa.array([None, float("nan")] + [float(i) for i in range(2, n)]))
pq.write_table(doubles.set_column(3, "n_raw_tokens", pa.array([None, float("nan")] + counts[2:])), "doubles.parquet")
pq.write_table(table.set_column(3, "n_raw_tokens", pa.array(counts[:-1] + [57.5])), "halves.parquet")
meta = yaml.safe_load(open(f"{sys.argv[1]}/nla_meta.yaml"))
tokens = {k: meta["tokens"][k] for k in ("injection_char", "injection_token_id", "injection_left_neighbor_id", "injection_right_neighbor_id", "critic_suffix_ids")}
sidecar = {"dataset_id": "test", "stage": "av_sft", "row_count": n, "kind": "nla_dataset", "schema_version": 1, "keep_debug_metadata": True,
           "extraction": {"base_model": "tiny/model", "d_model": 48, "layer_index": 2, "norm": "none"}, "tokens": tokens,
           "prompt_templates": {"actor": sys.argv[2], "critic": meta["prompt_templates"]["ar"]}, "created_at": "2026-01-01", "created_by": "test"}
for name in ("set", "slim", "nothing", "narrow", "ragged", "words", "nan", "ar", "plain", "other", "api", "layers"):
    yaml.safe_dump(sidecar, open(f"{name}.parquet.nla_meta.yaml", "w"), allow_unicode=True, sort_keys=False)
END
equal_tables() { # A B [COLUMN ...]: the same values, row by row, in these columns or all
	python - "$@" <<'END' || fail "$1 and $2 differ"
import sys
import pyarrow.parquet as pq
a, b = (pq.read_table(path) for path in sys.argv[1:3])
for name in sys.argv[3:] or a.column_names:
    assert a.column(name).to_pylist() == b.column(name).to_pylist(), name
assert a.num_rows > 0
END
}

imported set.parquet set
imported --export set back.parquet
equal_tables set.parquet back.parquet
imported back.parquet again
cmp set/activations.safetensors again/activations.safetensors || fail "vectors changed on the way"
cp -R set late # the first rows have no prompt and no template that would give one
python - <<'END'
import gzip, importlib.util, json, os, re
rows = [json.loads(line) for line in gzip.open("late/rows.jsonl.gz", "rt")]
for i, row in enumerate(rows):
    row["prompt"] = [{"role": "user", "content": f"of {i}"} | ({"name": "n"} if i == 5 else {})] if i > 2 else None
with gzip.open("late/rows.jsonl.gz", "wt") as f:
    f.writelines(json.dumps(row) + "\n" for row in rows)
spec = importlib.util.spec_from_file_location("importer", os.environ["SOURCE_DIR"] + "/scripts/import-parquet.py")
importer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(importer)
importer.ROWS_AT_ONCE = 2
importer.export_set("late", "late.parquet")
whole = [r["prompt"] and [m | {"name": m.get("name")} for m in r["prompt"]] for r in rows]
assert [r["prompt"] for r in importer.pq.read_table("late.parquet").to_pylist()] == whole and rows[3]["prompt"]
END
cp -R set dos # a byte order mark, CR LF and blank lines change nothing
gzip -dc set/rows.jsonl.gz | sed -e '1s/^/\xef\xbb\xbf\n/' -e 's/$/\r\n \t\r/' | gzip >dos/rows.jsonl.gz
imported --export dos dos.parquet
equal_tables set.parquet dos.parquet
imported ar.parquet ar-set
imported --export ar-set ar-back.parquet
equal_tables ar.parquet ar-back.parquet
python - <<'END'
import gzip, json
av, ar = ([json.loads(line) for line in gzip.open(f"{name}/rows.jsonl.gz", "rt")] for name in ("set", "ar-set"))
assert "explanation" not in av[3] and av[4]["explanation"] == ar[4]["explanation"], "explanations are not what stands between the tags"
assert all(row["explanation"] in "ab" for row in ar), "the AR template was not taken off"
END
imported set.parquet set.parquet half --dtype bf16
imported plain.parquet other.parquet plain
imported api.parquet api
python - <<'END'
import gzip, json
plain, api = ([json.loads(line) for line in gzip.open(f"{name}/rows.jsonl.gz", "rt")] for name in ("plain", "api"))
assert len({row["doc_id"] for row in plain}) == len(plain) and plain[0]["doc_id"] == "plain-0", plain[0]["doc_id"]
assert plain[-1]["doc_id"].startswith("other-") and not any("n_raw_tokens" in row for row in plain), "a count that nobody made"
assert api[0]["explanation"] == "the fox" and not any("explanation" in row for row in api[1:4]) and api[4]["explanation"] == "x", api[:5]
END
ok nla-eval --model "$tiny/model" --av "$tiny/av" --ar "$tiny/ar" --data plain --max-new-tokens 4 --rows 4 --out plain-eval

# some of the rows, within a row group, over several, and over two files
imported plain.parquet other.parquet every
for rows in 2:5 5:20 14: 20:31 :7; do
	imported plain.parquet other.parquet part --rows $rows --overwrite
	python - $rows <<'END' || fail "--rows $rows"
import gzip, json, sys
import numpy as np
begin, end = (int(x) if x else None for x in sys.argv[1].split(":"))
rows, vectors = {}, {}
for name in ("every", "part"):
    rows[name] = [json.loads(line) for line in gzip.open(f"{name}/rows.jsonl.gz", "rt")]
    raw = open(f"{name}/activations.safetensors", "rb").read()
    vectors[name] = np.frombuffer(raw[-4 * 48 * len(rows[name]):], np.float32).reshape(-1, 48)
assert rows["part"] == rows["every"][begin:end] and len(rows["part"]) > 2, rows["part"][0]
assert (vectors["part"] == vectors["every"][begin:end]).all()
END
done
not_imported "no rows from 48 on: there are 48" plain.parquet other.parquet beyond --rows 48:50
import plain.parquet beyond --rows 5:5
[ "$code" -eq 2 ] && grep -q "rows is '5:5', want FROM:TO" stderr || fail "--rows 5:5 exits $code: $(cat stderr)"

# integers as doubles, as pandas makes of a column with gaps, and as a sidecar may have them: the same rows, without the gaps
sed 's/layer_index: 2$/layer_index: 2.0/' set.parquet.nla_meta.yaml >doubles.parquet.nla_meta.yaml
grep -q 'layer_index: 2.0' doubles.parquet.nla_meta.yaml || fail "the sidecar has no layer_index to write as a double"
imported doubles.parquet doubles
python - <<'END'
import gzip, json
a, b = ([json.loads(line) for line in gzip.open(f"{name}/rows.jsonl.gz", "rt")] for name in ("set", "doubles"))
ids = [(x.pop("doc_id"), y.pop("doc_id"))[1] for x, y in zip(a, b)]
assert len({*ids}) == len(b) and ids[2:] == [str(i) for i in range(2, len(b))], ids # a row without one is a document of its own
for row in a[:2]:
    del row["n_raw_tokens"]
assert a == b and all(isinstance(row["activation_layer"], int) for row in b), (a[0], b[0])
END
ok nla-eval --model "$tiny/model" --av "$tiny/av" --ar "$tiny/ar" --data doubles --max-new-tokens 4 --rows 4 --out doubles-eval

# our programs read what was imported; the stored baselines are theirs
ok nla-eval --model "$tiny/model" --av "$tiny/av" --ar "$tiny/ar" --data set --max-new-tokens 4 --rows 0 --out eval
python - <<'END'
import json, yaml
summary, baseline = json.load(open("eval/summary.json")), yaml.safe_load(open("set/nla_meta.yaml"))["baseline"]
for ours, theirs in (("baseline_var", "raw_variance"), ("baseline_mean", "mean_normalised")):
    assert abs(summary[ours] - baseline[theirs]) < 1e-6, (ours, summary[ours], baseline[theirs])
END

# slim: rows alone, then vectors from the target, at the last token; these texts are those of held, so are their vectors
imported slim.parquet slim
[ ! -e slim/activations.safetensors ] || fail "a slim set has vectors"
ok nla-extract --model "$tiny/model" --corpus slim --extract.meta slim --extract.at last --out filled
python - <<'END'
import gzip, json
import torch
from safetensors.torch import load_file
read = lambda name: [json.loads(line) for line in gzip.open(f"{name}/rows.jsonl.gz", "rt")]
for a, b in zip(read("slim"), read("filled"), strict=True):
    assert all(a.get(k) == b.get(k) for k in ("doc_id", "n_raw_tokens", "text", "explanation")), (a, b)
v, w = (load_file(f"{name}/activations.safetensors")["activations"].float() for name in ("held", "filled"))
assert v.shape == w.shape and (v - w).abs().max() <= v.abs().max() / 128, (v - w).abs().max()
END

# ---- what is wrong ----
cp set.parquet cut.parquet && tool clip cut.parquet 100
not_imported "cannot read 'cut.parquet'" cut.parquet no
head -c 300 set.parquet >hole.parquet && head -c 2000 /dev/zero >>hole.parquet && tail -c +2301 set.parquet >>hole.parquet
not_imported "cannot read 'hole.parquet'" hole.parquet no
not_imported "cannot read 'nowhere.parquet'" nowhere.parquet no
not_imported "neither a column 'activation_vector' nor 'detokenized_text_truncated'" nothing.parquet no
not_imported "'narrow.parquet': vectors have width 40, want 48" narrow.parquet no
not_imported "'ragged.parquet': vectors have widths \[47, 48\]" ragged.parquet no
not_imported "'halves.parquet': column 'n_raw_tokens' holds 57.5, want whole numbers" halves.parquet no
not_imported "'words.parquet': column 'activation_vector' holds string" words.parquet no
not_imported "'nan.parquet': the vector of row 5 is not finite" nan.parquet no
not_imported "'slim.parquet' has no column 'activation_vector', which 'set.parquet' has" set.parquet slim.parquet no
not_imported "'slim.parquet' has no column 'activation_vector', which 'set.parquet' has" slim.parquet set.parquet no
not_imported "'ar.parquet' has no column 'response', which 'set.parquet' has" ar.parquet set.parquet no
not_imported "'plain.parquet' has no column 'n_raw_tokens', which 'set.parquet' has" plain.parquet other.parquet set.parquet no
cp set.parquet meta.parquet && echo '[' >meta.parquet.nla_meta.yaml
not_imported "cannot read 'meta.parquet.nla_meta.yaml'" meta.parquet no
not_imported "cannot read 'nowhere/nla_meta.yaml'" --export nowhere no.parquet
for norm in none None null; do # vectors that are not raw, and the ways to say that they are
	sed "s/norm: none/norm: $norm/" set.parquet.nla_meta.yaml >meta.parquet.nla_meta.yaml
	imported meta.parquet raw --overwrite
done
cp -R set white && sed -i 's/norm: none/norm: whitened_zca_v1/' white/nla_meta.yaml
sed -i 's/norm: null/norm: whitened_zca_v1/' meta.parquet.nla_meta.yaml
not_imported "'meta.parquet.nla_meta.yaml': 'extraction.norm' is 'whitened_zca_v1', want none" meta.parquet no
not_imported "'meta.parquet.nla_meta.yaml': 'extraction.norm' is 'whitened_zca_v1', want none" set.parquet meta.parquet no
not_imported "'white/nla_meta.yaml': 'extraction.norm' is 'whitened_zca_v1', want none" --export white no.parquet
not_imported "'layers.parquet': column 'activation_layer' holds 3, its sidecar says block 2" layers.parquet no
for what in 'block layer_index:.2 layer_index:.1' 'tokens injection_token_id:.* injection_token_id:.5' 'templates critic:.* critic:.x{explanation}y'; do
	set -- $what
	cp set.parquet second.parquet && sed "s/$2/$3/; s/:\./: /" set.parquet.nla_meta.yaml >second.parquet.nla_meta.yaml
	not_imported "'second.parquet.nla_meta.yaml' has other $1 than 'set.parquet.nla_meta.yaml': import them one by one" set.parquet second.parquet no
done
extraction() { # LINE: the sidecar with another line there
	sed "/^ *base_model:/d; /^ *d_model:/d; s/^extraction:/&\n  $1/" set.parquet.nla_meta.yaml
}
cp set.parquet first.parquet
while IFS='|' read -r what first second; do # what both say must be one, in whatever words
	extraction "$first" >first.parquet.nla_meta.yaml
	extraction "$second" >second.parquet.nla_meta.yaml
	if [ "$what" = same ]; then
		imported first.parquet second.parquet both --overwrite
	else
		not_imported "'second.parquet.nla_meta.yaml' has other $what than 'first.parquet.nla_meta.yaml': import them one by one" first.parquet second.parquet no
	fi
done <<'END'
base model|base_model: a|base_model: b
d_model|d_model: 48|d_model: 40
injection_scale|injection_scale: 60|injection_scale: 75.5
mse_scale|mse_scale: sqrt_d_model|mse_scale: null
injection_mode|injection_mode: residual_add|injection_mode: embed_replace
same|base_model: a|injection_scale: 60
same|injection_scale: 60|injection_scale: 60.0
same|mse_scale: sqrt(d_model)|mse_scale: SQRT_D_MODEL
same|injection_scale: raw|injection_scale: null
END
sed 's/^extraction:/base_checkpoint: other\n&/; /^ *base_model:/d' set.parquet.nla_meta.yaml >second.parquet.nla_meta.yaml
not_imported "'second.parquet.nla_meta.yaml' has other base model than 'set.parquet.nla_meta.yaml'" set.parquet second.parquet no
"$(command -v python3)" -S "$SOURCE_DIR/scripts/import-parquet.py" --help >stdout || fail "--help needs more than Python"
grep -q -- --overwrite stdout || fail "no --overwrite in --help"
import --export set back.parquet
[ "$code" -eq 1 ] && grep -q "'back.parquet' is there already" stderr || fail "an export replaced a file"
equal_tables set.parquet back.parquet
cp -R set bad && tool clip bad/rows.jsonl.gz 20
not_imported "cannot export 'bad'" --export bad no.parquet
import set.parquet set
[ "$code" -eq 1 ] && grep -q "'set' is there already" stderr || fail "an import replaced a set"
echo mine >set/notes.txt && cp set/nla_meta.yaml before.yaml
imported set.parquet set --dtype bf16 --overwrite
[ "$(wc -c <set/activations.safetensors)" -lt 4000 ] || fail "--overwrite left the old vectors"
[ "$(cat set/notes.txt)" = mine ] || fail "--overwrite took what is not the set's"
imported --export set back.parquet --overwrite
import set.parquet
[ "$code" -eq 2 ] || fail "no folder to write: exits $code"
