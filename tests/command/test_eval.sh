# nla-eval: sampled rows, given texts, and that both ways agree; golden reconstructions; the same rows for every AV.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av
eval_() { ok nla-eval --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --max-new-tokens 40 "$@"; }

(cd "$work" && ok nla-eval --model "$tiny/model" --av av --ar "$tiny/ar" --max-new-tokens 40 --data held --rows 16 --out a --seed 3)
python3 -c 'import json, sys; a, b = (json.load(open(p)) for p in sys.argv[1:]); assert a == b' \
	"$work/stdout" "$work/a/summary.json" || fail "stdout is not summary.json"
python3 - "$work/a/summary.json" "$work" "$tiny" <<'END'
import json, sys
summary, work, tiny = json.load(open(sys.argv[1])), *sys.argv[2:] # later tools run in other folders, and decode alike
paths = {key: summary[key] for key in ("model", "av", "ar", "data")}
assert paths == {"model": f"{tiny}/model", "av": f"{work}/av", "ar": f"{tiny}/ar", "data": f"{work}/held"}, paths
assert [summary[key] for key in ("max_new_tokens", "min_new_tokens", "truncated")] == [40, 0, "fail"], summary
END
grep -q "^nla-eval: AV 'av', AR '.*/ar', 16 of 24 rows of 'held' on .*; baselines of the set: raw variance" "$work/stderr" ||
	fail "the first line does not say what is evaluated: $(cat "$work/stderr")"
! grep -q warning "$work/stderr" || fail "a warning: $(cat "$work/stderr")"
eval_ --data "$work/held" --rows 16 --out "$work/a-own" --seed 3 --eval.baseline rows
grep -q 'warning: eval.baseline is rows, and 16 rows are few' "$work/stderr" || fail "no warning of few rows: $(cat "$work/stderr")"
cp -R "$work/held" "$work/bare"
sed -i '/^baseline:/,/mean_normalised/d' "$work/bare/nla_meta.yaml"
eval_ --data "$work/bare" --rows 16 --out "$work/a-none" --seed 3
# A set and an AV of other models by their names on the hub.
cp -R "$work/held" "$work/base-set" && cp -R "$work/av" "$work/hub-av"
sed -i '/^base_checkpoint:/d; $a base_checkpoint: Qwen/Qwen3-8B-Base' "$work/base-set/nla_meta.yaml"
for name in Qwen/Qwen3-8B unsloth/qwen3-8b-base; do
	sed -i "/^base_checkpoint:/d; \$a base_checkpoint: $name" "$work/hub-av/nla_meta.yaml"
	eval_ --data "$work/base-set" --av "$work/hub-av" --rows 4 --out "$work/hub-${name%/*}"
	echo "$name: $(grep -c "warning: '.*/base-set' is of 'Qwen/Qwen3-8B-Base', the AV of '$name'" "$work/stderr" || true)"
done >"$work/names"
printf 'Qwen/Qwen3-8B: 1\nunsloth/qwen3-8b-base: 0\n' | cmp - "$work/names" || fail "set and AV of two models: $(cat "$work/names")"
# A set whose sidecar names the block as its AR's alone recovers the same KL.
cp -R "$work/held" "$work/critic"
sed -i '/^  layer_index:/d' "$work/critic/nla_meta.yaml"
printf 'critic:\n  extraction_layer_index: 2\n' >>"$work/critic/nla_meta.yaml"
for set in held critic; do eval_ --data "$work/$set" --rows 8 --eval.recovered_kl true --out "$work/recovered-$set"; done
same "$work/recovered-held/rows.jsonl" "$work/recovered-critic/rows.jsonl"
# The warm start's loss is the mean over all tokens of its texts, the end of the turn among them.
ok nla-sft --role av --av "$work/av" --model "$tiny/model" --data "$work/held" --out "$work/loss" --steps 1 --batch 24 --lr 0 --sft.held_out 0
python3 -c 'import json
for i in range(24): print(json.dumps({"row": i, "response": "<explanation>\n%s\n</explanation>" % "ab"[i % 2]}))' >"$work/loss.jsonl"
eval_ --data "$work/held" --score "$work/loss.jsonl" --out "$work/loss-eval"
python3 - "$work/loss" "$work/loss-eval" <<'END'
import json, sys
p = [x for line in open(sys.argv[2] + "/rows.jsonl") for x in json.loads(line)["logprob"]]
loss = [json.loads(line) for line in open(sys.argv[1] + "/metrics.jsonl")][1]["loss"]
assert abs(loss + sum(p) / len(p)) < 1e-5, (loss, -sum(p) / len(p))
END
python3 - "$work/a" "$work/held" <<'END'
import json, math, os, statistics, sys
sys.path.insert(0, os.path.join(os.environ["SOURCE_DIR"], "tests", "command"))
sys.dont_write_bytecode = True
import tool

folder, data = sys.argv[1:]
rows = [json.loads(line) for line in open(folder + "/rows.jsonl")]
summary = tool.read_json(folder + "/summary.json")
assert len(rows) == 16 == summary["rows"]
assert [r["row"] for r in rows] == sorted({r["row"] for r in rows}), "rows ascend, each once"
near = lambda a, b: abs(a - b) <= 1e-6 * max(1, abs(b))

# The baselines are those of the whole set, which it stores.
tensor = tool.read_tensors(data + "/activations.safetensors")[0]["activations"]
width = tensor[1][1]
import struct
def vector(i):
    raw = struct.unpack(f"<{width}H", tensor[2][2 * width * i:2 * width * (i + 1)])
    v = [struct.unpack("<f", struct.pack("<I", x << 16))[0] for x in raw]
    return unit(v)
def unit(v):
    norm = math.sqrt(sum(x * x for x in v))
    return [x * math.sqrt(width) / norm for x in v]
def baselines(vectors):
    mu = [sum(column) / len(vectors) for column in zip(*vectors)]
    spread = lambda centre: sum((x - c) ** 2 for v in vectors for x, c in zip(v, centre)) / len(vectors) / width
    return spread(mu), spread(unit(mu))
def measured_by(found, of, vectors):
    var, mean = baselines(vectors)
    assert found["baseline_of"] == of and near(found["baseline_var"], var) and near(found["baseline_mean"], mean), found
measured_by(summary, "data", [vector(i) for i in range(len(tool.read_rows(data)))])
assert summary["step"] is None and summary["made_by"].keys() == {"version", "commit", "libtorch", "device"}
own = tool.read_json(folder + "-own/summary.json") # the same evaluation by eval.baseline rows
measured_by(own, "rows", [vector(r["row"]) for r in rows])
assert own["mse"] == summary["mse"] and near(own["fve"], 1 - own["mse"] / own["baseline_var"]) and own["fve"] != summary["fve"]
none = tool.read_json(folder + "-none/summary.json") # of a set that stores none: computed
assert near(none["baseline_var"], summary["baseline_var"]) and near(none["baseline_mean"], summary["baseline_mean"])

failed = 0
for r in rows:
    assert r.keys() == {"row", "explanation", "response", "n_response", "n_explanation", "failed", "mse", "cosine", "fve",
                        "fve_meannorm", "ids", "logprob", "ref_logprob"}, r.keys()
    assert near(r["cosine"], 1 - r["mse"] / 2)
    assert near(r["fve"], 1 - r["mse"] / summary["baseline_var"])
    assert near(r["fve_meannorm"], 1 - r["mse"] / summary["baseline_mean"])
    assert len(r["logprob"]) == len(r["ref_logprob"]) == len(r["ids"]) == r["n_response"] <= 40
    assert all(p <= 0 for p in r["logprob"]) and r["logprob"] == r["ref_logprob"], "no other reference was given"
    if r["failed"]:
        failed += 1
        assert r["mse"] == 2
    else:
        assert 0 <= r["mse"] <= 4 and r["explanation"] == r["explanation"].strip() != "" and r["n_explanation"] > 0
        assert "<explanation>" in r["response"] and "</explanation>" in r["response"]
assert 0 < failed < 16, f"{failed} of 16 failed: the test needs both kinds"
valid = [r["mse"] for r in rows if not r["failed"]]
assert near(summary["failed_rate"], failed / 16) and sum(summary["failed"].values()) == failed
assert near(summary["mse"], sum(valid) / len(valid)) and near(summary["fve"], 1 - summary["mse"] / summary["baseline_var"])
assert near(summary["fve_all"], 1 - sum(r["mse"] for r in rows) / 16 / summary["baseline_var"])
assert near(summary["response_tokens"], sum(r["n_response"] for r in rows) / 16)
error = lambda x: statistics.stdev(x) / math.sqrt(len(x))
assert near(summary["fve_se"], error(valid) / summary["baseline_var"])
assert near(summary["response_tokens_se"], error([r["n_response"] for r in rows]))
END

# Scored again from what was written: ids, failures, scores and log-probabilities come out the same; so with another batch size.
again() { # A B TOLERANCE
	python3 - "$1" "$2" "$3" <<'END'
import json, sys

one, other = ([json.loads(line) for line in open(f"{path}/rows.jsonl")] for path in sys.argv[1:3])
tolerance, compared = float(sys.argv[3]), 0
assert len(one) == len(other)
for a, b in zip(one, other):
    for key in ("row", "response", "explanation", "n_response", "n_explanation", "failed", "ids"):
        assert a[key] == b[key], (key, a[key], b[key])
    assert abs(a["mse"] - b["mse"]) <= tolerance, (a["row"], a["mse"], b["mse"])
    for x, y in zip(a["logprob"] + a["ref_logprob"], b["logprob"] + b["ref_logprob"]):
        assert abs(x - y) <= tolerance, (a["row"], x, y)
        compared += 1
assert compared
END
}
eval_ --data "$work/held" --score "$work/a/rows.jsonl" --out "$work/again"
again "$work/a" "$work/again" 2e-5
eval_ --data "$work/held" --rows 16 --out "$work/small" --seed 3 --eval.batch 3
again "$work/a" "$work/small" 2e-5
eval_ --data "$work/held" --rows 16 --out "$work/seed" --seed 4
differ "$work/a/rows.jsonl" "$work/seed/rows.jsonl"
refused 2 "give --overwrite" nla-eval --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" --out "$work/a"
eval_ --data "$work/held" --rows 16 --out "$work/small" --seed 3 --overwrite
same "$work/a/rows.jsonl" "$work/small/rows.jsonl"
# Killed over another one, it leaves that: never its rows under a former summary.
cp -r "$work/small" "$work/kept"
signalled .new-summary.json.tmp 1 KILL nla-eval --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" --rows 16 --seed 9 --overwrite \
	--out "$work/small"
[ "$code" -eq 137 ] || fail "killed at its summary: exits $code: $(cat "$work/stderr")"
for file in rows.jsonl summary.json; do same "$work/kept/$file" "$work/small/$file"; done
eval_ --data "$work/held" --rows 16 --out "$work/small" --seed 9 --overwrite
[ "$(ls -A "$work/small" | tr '\n' ' ')" = "rows.jsonl summary.json " ] || fail "the folder holds $(ls -A "$work/small")"
differ "$work/kept/rows.jsonl" "$work/small/rows.jsonl"
# Killed between what goes and what comes: what was there comes back.
mv "$work/small/summary.json" "$work/small/.old-summary.json"
mv "$work/small/rows.jsonl" "$work/small/.old-rows.jsonl"
cp "$work/kept/rows.jsonl" "$work/small/rows.jsonl"
cp "$work/kept/summary.json" "$work/small/.new-summary.json"
refused 2 "give --overwrite" nla-eval --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" --out "$work/small"
[ "$(ls -A "$work/small" | tr '\n' ' ')" = "rows.jsonl summary.json " ] || fail "the folder holds $(ls -A "$work/small")"
differ "$work/kept/rows.jsonl" "$work/small/rows.jsonl"

# Several samples a row: the first is that of one, the others are others, whatever the batches; the errors are those of the rows' means.
eval_ --data "$work/held" --rows 16 --out "$work/three" --seed 3 --eval.samples 3 --eval.batch 7
grep -q '16 of 24 rows, 3 samples each, of' "$work/stderr" || fail "samples are not said: $(head -n 1 "$work/stderr")"
python3 - "$work/a" "$work/three" <<'END'
import json, math, statistics, sys

one, three = ([json.loads(line) for line in open(f"{path}/rows.jsonl")] for path in sys.argv[1:])
summary = json.load(open(sys.argv[2] + "/summary.json"))
assert (summary["rows"], summary["samples"], len(three)) == (16, 3, 48)
assert [r["row"] for r in three] == [r["row"] for r in one for _ in range(3)]
assert [r["ids"] for r in three[::3]] == [r["ids"] for r in one]
different = sum(len({json.dumps(r["ids"]) for r in three[i:i + 3]}) > 1 for i in range(0, 48, 3))
assert different > 5, f"of {different} rows the samples differ"
tokens = [sum(r["n_response"] for r in three[i:i + 3]) / 3 for i in range(0, 48, 3)]
assert abs(summary["response_tokens"] - sum(tokens) / 16) < 1e-9
assert abs(summary["response_tokens_se"] - statistics.stdev(tokens) / 4) < 1e-9
valid = [[r["mse"] for r in three[i:i + 3] if not r["failed"]] for i in range(0, 48, 3)]
valid = [v for v in valid if v]
mean = sum(map(sum, valid)) / sum(map(len, valid))
off = sum(sum(x - mean for x in v) ** 2 for v in valid)
error = math.sqrt(off * len(valid) / (len(valid) - 1)) / sum(map(len, valid))
assert abs(summary["fve_se"] * summary["baseline_var"] - error) < 1e-9 and any(len(v) < 3 for v in valid)
END

# eval.vectors another: each row gets what the next row of another document gets, greedily, and is scored by its own vector.
eval_ --data "$work/held" --rows 15 --out "$work/greedy" --temperature 0
eval_ --data "$work/held" --rows 15 --out "$work/another" --temperature 0 --eval.vectors another
eval_ --data "$work/held" --score "$work/another/rows.jsonl" --out "$work/another-again"
python3 - "$work/greedy" "$work/another" "$work/another-again" "$work/held" <<'END'
import gzip, json, sys

own, other, again = ([json.loads(line) for line in open(f"{path}/rows.jsonl")] for path in sys.argv[1:4])
docs = [json.loads(line)["doc_id"] for line in gzip.open(sys.argv[4] + "/rows.jsonl.gz", "rt")]
assert [json.load(open(f"{path}/summary.json"))["vectors"] for path in sys.argv[1:4]] == ["own", "another", "another"]
rows, scored = [r["row"] for r in own], 0
for i, r in enumerate(other):
    k = next(k for k in (rows[i + 1:] + rows[:i]) if docs[k] != docs[rows[i]])
    twin = own[rows.index(k)]
    assert r["row"] == rows[i] and r["vector_of"] == k and "vector_of" not in twin
    assert r["ids"] == twin["ids"] and max(map(abs, map(float.__sub__, r["logprob"], twin["logprob"]))) < 2e-5, (r, twin)
    assert abs(r["mse"] - again[i]["mse"]) < 2e-5, "not scored by its own vector"
    assert again[i]["vector_of"] == k and max(map(abs, map(float.__sub__, r["logprob"], again[i]["logprob"]))) < 2e-5, "given another vector"
    scored += not r["failed"] and abs(r["mse"] - twin["mse"]) > 1e-3
assert scored and any(docs[rows[i]] == docs[rows[i + 1]] for i in range(len(rows) - 1)), "the rows show nothing"
END
run nla-eval --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" --rows 1 --out "$work/one-row" --eval.vectors another
[ "$code" -eq 1 ] || fail "one row has another's vector"
said "eval.vectors is another, and all rows evaluated are of one document"
refused 2 "texts of --score name their vectors: leave out eval.vectors" nla-eval --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" \
	--score "$work/a/rows.jsonl" --out "$work/no" --eval.vectors another

# --rows picks the same rows for another AV; a run's own reference is found beside its checkpoint.
train --out "$work/run" --steps 3 --lr 1e-2
latest=$work/run/checkpoints/latest
ok nla-eval --model "$tiny/model" --av "$latest/av" --ar "$latest/ar" --data "$work/held" --rows 16 --max-new-tokens 40 \
	--out "$work/b" --seed 3
python3 - "$work/a" "$work/b" <<'END'
import json, math, sys

one, other = ([json.loads(line) for line in open(f"{path}/rows.jsonl")] for path in sys.argv[1:])
assert [r["row"] for r in one] == [r["row"] for r in other]
assert any(r["logprob"] != r["ref_logprob"] for r in other), "the reference is the policy itself"
d = [ref - p for r in other for p, ref in zip(r["logprob"], r["ref_logprob"])]
kl = [json.load(open(f"{path}/summary.json"))["kl"] for path in sys.argv[1:]]
assert kl[0] == 0 and abs(kl[1] - sum(math.exp(x) - x - 1 for x in d) / len(d)) < 1e-9 < kl[1], kl
END
# The reference's log-probabilities are those that the warm start gives the same ids.
eval_ --data "$work/held" --score "$work/b/rows.jsonl" --out "$work/warm"
python3 - "$work/b" "$work/warm" <<'END'
import json, sys

one, other = ([json.loads(line) for line in open(f"{path}/rows.jsonl")] for path in sys.argv[1:])
assert all(abs(x - y) < 1e-4 for a, b in zip(one, other) for x, y in zip(a["ref_logprob"], b["logprob"]))
END

# A run's own evaluation once more, by its folder alone: the same tokens and scores to the bit, by its warm start and its adapter apart,
# with a frozen AR, a co-trained one, and over a whole AV. Away from its run a checkpoint has the joined adapter, which bf16 rounds
# differently.
as_the_run() { # RUN STEP EVALUATION
	python3 - "$1/eval-$2" "$1/evaluations/$3" "$2" <<'END'
import json, sys

load = lambda path: [json.loads(line) for line in open(path)]
own, again = load(sys.argv[1] + ".rows.jsonl"), load(sys.argv[2] + "/rows.jsonl")
assert len(own) == len(again) == 16 and any(not row["failed"] for row in own)
for a, b in zip(own, again):
    assert a == {key: b[key] for key in a}, (a, b)
a, b = json.load(open(sys.argv[1] + ".json")), json.load(open(sys.argv[2] + "/summary.json"))
a.pop("reward") # of the run alone, whose objective it is
assert all(b[key] == a[key] for key in a if a[key] is not None and key != "seconds"), (a, b)
assert b["step"] == int(sys.argv[3]) and (0 < b["kl"]) == (b["step"] > 0), b
END
}
export_() { (on="--device cpu" && ok nla-export "$@"); } # it has no dtype
export_ --model "$tiny/model" --av "$work/av" --out "$work/whole" --export.dtype fp32
for kind in fp32 bf16 co co16 start whole; do
	own=$work/own.$kind dtype=fp32 steps=3
	case $kind in
	fp32 | bf16) set -- --dtype $kind && dtype=$kind ;;
	co) set -- --ar_update.enabled --ar_update.lr 1e-2 ;;
	co16) set -- --ar_update.enabled --ar_update.lr 1e-2 --dtype bf16 && dtype=bf16 ;;
	start) set -- --ar_update.enabled --ar_update.lr 1e-2 --dtype bf16 && dtype=bf16 steps=0 ;;
	whole) set -- --av "$work/whole" ;;
	esac
	train --out "$own" --steps $steps --lr 2e-3 --eval.data "$work/held" --eval.rows 16 "$@"
	ok nla-eval "$own" ${NLA_TEST_DEVICE:+--dtype $dtype} # over the one that lib.sh gives on a device
	as_the_run "$own" $steps step-$steps
	! grep -q "rounds differently" "$work/stderr" || fail "$kind: $(cat "$work/stderr")"
done
# Where another run reads its texts, an AR that was trained is as little merged as in its own.
ok nla-eval "$work/own.bf16" --dtype bf16 --ar "$work/own.co16" --name by-co
ok nla-eval "$work/own.co16" --dtype bf16 --score "$work/own.bf16/evaluations/step-3/rows.jsonl" --name of-bf16
tool near "$work/own.bf16/evaluations/step-3-by-co/rows.jsonl" "$work/own.co16/evaluations/step-3-of-bf16/rows.jsonl" mse 1e-7
# Texts are scored by the AR that the run began with too, where the run trained it, as --score does by that AR.
eval_ --data "$work/held" --score "$work/own.co/evaluations/step-3/rows.jsonl" --out "$work/by-start"
python3 - "$work/own.co/evaluations/step-3" "$work/by-start" "$work/own.fp32/evaluations/step-3" "$tiny/ar" <<'END'
import json, os, sys

load = lambda path: ([json.loads(line) for line in open(path + "/rows.jsonl")], json.load(open(path + "/summary.json")))
(rows, summary), (again, by_start), (frozen, plain) = map(load, sys.argv[1:4])
assert all(abs(a["mse_start_ar"] - b["mse"]) < 2e-5 for a, b in zip(rows, again)), "not what the first AR says"
assert (gap := max(abs(a["mse_start_ar"] - a["mse"]) for a in rows)) > 1e-3, f"the AR was not trained: {gap}"
for key in ("fve", "fve_se"):
    assert abs(summary[key.replace("fve", "fve_start_ar")] - by_start[key]) < 5e-5, (key, summary, by_start)
assert abs(summary["fve_start_ar_meannorm"] - by_start["fve_meannorm"]) < 5e-5 and os.path.samefile(summary["start_ar"], sys.argv[4])
assert not any("start_ar" in key for key in (*plain, *frozen[0])), "a frozen AR is its own start"
END
cp -R "$work/own.co" "$work/gone"
tool set "$work/gone/config.json" ar '"nowhere"'
ok nla-eval "$work/gone" --name gone --rows 2
grep -q "the AR that the run began with is not in '.*nowhere': it scores nothing" "$work/stderr" || fail "no word of it: $(cat "$work/stderr")"
cp -R "$tiny/ar" "$work/ar-of-now" # where it was another one is now
tool scale "$work/ar-of-now/value_head.safetensors" weight 1.01
tool set "$work/gone/config.json" ar "\"$work/ar-of-now\""
ok nla-eval "$work/gone" --name now --rows 2
grep -q "the AR that the run began with is not in '$work/ar-of-now': it scores nothing" "$work/stderr" || fail "scores by another AR: $(cat "$work/stderr")"
! grep -q start_ar "$work/gone/evaluations/step-3-now/summary.json" || fail "scored by another AR than the first"
own=$work/own.whole
ok nla-eval "$own" --name start --eval.start_ar "$work/own.co" --rows 2 # any other AR will do
tool get "$own/evaluations/step-3-start/summary.json" fve_start_ar >"$work/start"
grep -q "^nla-eval: AV '$own/checkpoints/step-3/av', AR '$own/checkpoints/step-3/ar', 2 of 24 rows" "$work/stderr" ||
	fail "the first line does not say what is evaluated: $(cat "$work/stderr")"
tail -n 1 "$work/stderr" | grep -q "written to '$own/evaluations/step-3-start'" || fail "where is it? $(cat "$work/stderr")"
for dtype in fp32 bf16; do
	cp -RL "$work/own.$dtype/checkpoints/latest" "$work/away.$dtype"
	ok nla-eval --dtype $dtype --model "$tiny/model" --av "$work/away.$dtype" --ar "$work/away.$dtype" --data "$work/held" --rows 16 \
		--max-new-tokens 40 --out "$work/away.$dtype.eval"
	grep -q "is away from its run's reference/.* some texts may differ" "$work/stderr" || fail "no word of the joined adapter: $(cat "$work/stderr")"
done
python3 - "$work/own.bf16/evaluations/step-3/rows.jsonl" "$work/away.bf16.eval/rows.jsonl" <<'END'
import json, sys
one, other = ([json.loads(line)["logprob"] for line in open(path)] for path in sys.argv[1:])
assert one != other, "the adapters were not apart"
END

refused 2 "'$tiny/ar' is not the AR of that checkpoint: give --name or --out" nla-eval --model "$tiny/model" --av "$work/own.fp32" \
	--ar "$tiny/ar" --data "$work/held" --rows 4
# Every way to name the run means its newest checkpoint; a file of it never its warm start, nor its `out`.
own=$work/own.fp32
ok nla-eval "$own" --rows 4 --eval.vectors another
[ "$(tool get "$own/evaluations/step-3-another/summary.json" vectors)" = another ] || fail "the control has no folder of its own"
ok nla-eval "$own/config.json" --name file
ok nla-eval "$own/checkpoints/latest" --name latest
ok nla-eval --model "$tiny/model" --av "$own" --ar "$own/checkpoints/step-3" --data "$work/held" --rows 16 --max-new-tokens 40 --name flags
for name in file latest flags; do
	as_the_run "$own" 3 step-3-$name
done
mkdir "$own/checkpoints/step-9" # not whole: it has no state.json
ok nla-eval "$own" --name seed --seed 4 --rows 4
! grep warning "$work/stderr" || fail "held-out rows have a warning"
ok nla-eval "$own" --name plain --seed 4 --rows 4 --eval.logprob false
python3 - "$own/evaluations/step-3-seed" "$own/evaluations/step-3-plain" <<'END'
import json, sys
whole, plain = ([json.loads(line) for line in open(path + "/rows.jsonl")] for path in sys.argv[1:])
for row in whole:
    assert row.pop("logprob") and row.pop("ref_logprob"), row
assert whole == plain, (whole, plain)
whole, plain = (json.load(open(path + "/summary.json")) for path in sys.argv[1:])
assert "kl" in whole and "kl" not in plain and whole["fve"] == plain["fve"]
END
ok nla-eval "$own" --name own --data "$work/../$(basename "$work")/train" --rows 4
grep -q "^warning: '$own' trained on '.*/train', which shares documents with '.*/train'" "$work/stderr" ||
	fail "the run's own rows pass as held-out: $(cat "$work/stderr")"
# So does a warm start's set: of an AR alone, of the run that begins with it, and of that run's evaluation.
ok nla-sft --role ar --model "$tiny/model" --data "$work/held" --out "$work/warm" --steps 1 --batch 4 --lora.rank 2 --sft.warmup 0
warned() { # HOW OFTEN
	[ "$(grep -c "^warning: '$work/warm' trained on '$work/held', which shares documents with '$work/held'" "$work/stderr")" -eq "$1" ] ||
		fail "rows of the warm start pass as held-out, or not: $(cat "$work/stderr")"
}
set -- --model "$tiny/model" --av "$work/av" --ar "$work/warm" --max-new-tokens 2
ok nla-eval "$@" --data "$work/held" --rows 4 --out "$work/shared"
warned 1
ok nla-eval "$@" --data "$work/train" --rows 4 --out "$work/apart"
warned 0
ok nla-train "$@" --data "$work/train" --eval.data "$work/held" --rows 4 --out "$work/after-warm" --steps 1 --prompts 2 --group 2
warned 1
ok nla-eval "$work/after-warm" --rows 4
warned 1
refused 1 "there is no folder '$work/typo'" nla-eval "$own" --name typo --rows 4 --eval.start_ar "$work/typo" # before anything is sampled
[ "$(tool get "$own/evaluations/step-3-seed/summary.json" rows)" = 4 ] || fail "--rows does not change a run's"
[ ! -e "$own/summary.json" ] || fail "an evaluation in the run's own folder"
refused 2 "evaluations/step-3/summary.json' is there already: give --overwrite .* or another --out or --name" nla-eval "$own"
refused 2 "'out' is '$own', a run's folder: give another --out" nla-eval "$own" --out "$own"
refused 2 "'$own' is a run's folder: 'nla-train $own/config.json --out $own --resume' continues that run" nla-train "$own"
refused 2 "'nla-train $own/config.json --out $own --resume' continues that run" nla-train "$own/checkpoints/latest"
refused 2 "'nla-sft .*--resume' continues that run" nla-sft "$work/sft"
refused 1 "the checkpoint '$work/sft/checkpoints/step-100' has no model/" nla-teach --teacher "$work/sft" --data "$work/held" --out "$work/t"
mkdir "$work/none"
refused 2 "'$work/none' is not a run's folder: it has no config.json" nla-eval "$work/none"
refused 2 "'out' is not set" nla-extract "$own" --corpus "$work/held.jsonl"
refused 2 "texts of --score are not what a run says: give --name or --out" nla-eval "$own" --score "$work/a/rows.jsonl"
refused 2 "'eval.name' is part of a folder's name" nla-eval "$own" --name a/b
echo "{\"model\": \"$tiny/model\", \"av\": \"$work/av\", \"ar\": \"$tiny/ar\", \"data\": \"$work/held\", \"out\": \"$work/mine\"}" >"$work/train.json"
refused 2 "'out' is not set: give --out, or an AV of a run" nla-eval "$work/train.json"
tool set "$work/train.json" eval '{"data": "held"}'
for asked in resume check; do tool set "$work/train.json" $asked true; done # of nla-train
for data in held bare; do # a flag goes over what a file holds out
	[ $data = held ] && set -- || set -- --data "$work/$data"
	ok nla-eval "$work/train.json" --rows 2 --out "$work/by-file" --max-new-tokens 2 --overwrite "$@"
	[ "$(tool get "$work/by-file/summary.json" data)" = "$work/$data" ] || fail "not the rows of '$data': $(cat "$work/stderr")"
done
(on="--device cpu" && refused 2 "'out' is not set: give --out" nla-export "$work/train.json")
refused 1 "the checkpoint '$work/sft/checkpoints/step-100' has no ar/" nla-eval --model "$tiny/model" --av "$work/sft" --ar "$work/sft" --data "$work/held"
mkdir "$work/young"
: >"$work/young/metrics.jsonl"
refused 1 "the run '$work/young' has no whole checkpoint yet" nla-eval "$work/train.json" --av "$work/young"
# What nla-sft leaves is a run too.
eval_ --av "$work/sft" --data "$work/held" --rows 16 --seed 3
python3 - "$work/a/rows.jsonl" "$work/sft/evaluations/step-100/rows.jsonl" <<'END'
import sys
assert open(sys.argv[1]).read() == open(sys.argv[2]).read(), "not the AV that nla-sft trained"
END
export_ "$own" --out "$work/both"
[ -e "$work/both/av/config.json" ] && [ -e "$work/both/ar/value_head.safetensors" ] || fail "nla-export RUN: $(ls -R "$work/both")"
export_ "$work/sft" --out "$work/one"
[ -e "$work/one/nla_meta.yaml" ] || fail "nla-export of a warm start: $(ls -R "$work/one")"
# It is known who wrote a run and its checkpoints.
for file in "$own/config.json" "$own/checkpoints/step-3/config.json" "$work/sft/checkpoints/step-100/config.json"; do
	[ "$(tool get "$file" _made_by.device)" = "$(tool get "$work/a/summary.json" made_by.device)" ] || fail "'$file' does not say who made it"
	"$BUILD_DIR/nla-eval" --version | grep -q "^nla-eval $(tool get "$file" _made_by.version), commit $(tool get "$file" _made_by.commit)" ||
		fail "'$file' names another program than $("$BUILD_DIR/nla-eval" --version)"
done
# Most rows fail: the cause, and what one of them says. The table of a run says it too.
ok nla-eval --model "$tiny/model" --av "$tiny/av" --ar "$tiny/ar" --data "$work/held" --rows 4 --max-new-tokens 8 --out "$work/failing"
grep -q 'warning: 100% of the responses failed, most as truncated (no stop token within rollout.max_new_tokens): likely, .* One of them: .' "$work/stderr" ||
	fail "no word of failures: $(cat "$work/stderr")"
av=$tiny/av train --out "$work/fails" --steps 1 --max-new-tokens 8 --eval.data "$work/held" --eval.rows 4
python3 - "$work/fails" <<'END'
import json, sys
base = json.load(open(sys.argv[1] + "/eval-0.json"))["baseline_var"]
probes = [s for s in map(json.loads, open(sys.argv[1] + "/samples.jsonl")) if s["probe"]]
assert len(probes) == 6 and all(s["failed"] and abs(s["fve"] - (1 - 2 / base)) < 1e-6 for s in probes), (base, probes)
END
[ "$(grep -c '^  \(before\|after \) (failed, [a-z_]*): .' "$work/stdout")" -eq 6 ] || fail "no texts of failures: $(cat "$work/stdout")"

# Responses without ids are read as the tokenizer reads them; an explanation's whitespace goes; a row may come twice. One
# that was given is scored though it is empty; a response without one fails.
cat >"$work/given.jsonl" <<'END'
{"row": 5, "explanation": "the red fox"}
{"row": 5, "explanation": " \n the red fox\t"}
{"row": 5, "response": "<explanation>\nthe red fox\n</explanation>"}
{"row": 5, "response": "<explanation>\nthe red fox\n</explanation><|im_end|>"}
{"row": 2, "explanation": "   "}
{"row": 2, "response": "<explanation></explanation>"}
{"row": 2, "response": "<explanation>the red fox"}
{"row": 2, "explanation": "the old mill"}
{"row": 2, "explanation": ""}
{"row": 5, "explanation": ""}
END
sed -i -e '1s/^/\xef\xbb\xbf/' -e 's/$/\r\n/' "$work/given.jsonl" # a byte order mark, CR LF and blank lines change nothing
eval_ --data "$work/held" --score "$work/given.jsonl" --out "$work/given"
cat "$work/given.jsonl" | eval_ --data "$work/held" --score /dev/stdin --out "$work/piped" # a pipe is read once
same "$work/given/rows.jsonl" "$work/piped/rows.jsonl"
python3 - "$work/given" <<'END'
import json, sys

r = [json.loads(line) for line in open(sys.argv[1] + "/rows.jsonl")]
assert [x["failed"] for x in r] == [None] * 5 + ["empty", "no_tags"] + [None] * 3, [x["failed"] for x in r]
assert len({x["explanation"] for x in r[:4]}) == 1 and len({x["n_explanation"] for x in r[:4]}) == 1
assert max(x["mse"] for x in r[:4]) - min(x["mse"] for x in r[:4]) < 2e-6
assert all(x["mse"] == 2 for x in r[5:7])
assert r[4]["mse"] == r[8]["mse"] and len({x["mse"] for x in r[4:]}) == 4 and r[8]["explanation"] == "" and r[8]["n_explanation"] == 0
assert r[2]["ids"] == r[3]["ids"] and r[2]["logprob"] == r[3]["logprob"] and len(r[2]["logprob"]) == r[2]["n_response"]
assert "logprob" not in r[0] and "n_response" not in r[0] and r[0]["response"] is None
summary = json.load(open(sys.argv[1] + "/summary.json"))
assert summary["seconds"] > 0 and summary["rows"] == 2 and summary["samples"] == 5, summary
END
# A text whose end and the AR template's are one token ("probe" and "x" are not, "a" and "x" are) fails by that cause, and not as too long.
cp -R "$tiny/ar" "$work/merging"
sed -i 's/{explanation}/&x/; s/^  - 336$/  - 263\n  - 198\n&/' "$work/merging/nla_meta.yaml"
cat >"$work/ends.jsonl" <<END
{"row": 0, "explanation": "probe"}
{"row": 1, "explanation": "a"}
{"row": 2, "response": "<explanation>\nb\n</explanation>"}
{"row": 3, "explanation": "$(printf 'a %.0s' $(seq 600))"}
END
eval_ --ar "$work/merging" --data "$work/held" --score "$work/ends.jsonl" --out "$work/ends"
train --ar "$work/merging" --steps 1 --rollout.truncated score --lambda 0.01 --out "$work/merges"
grep -q "most as merges (the explanation's end and the AR template's are one token): likely, the AR template's text behind {explanation} begins" \
	"$work/stderr" || fail "no word of texts that merge: $(cat "$work/stderr")"
python3 - "$work" <<'END'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1] + "/ends/rows.jsonl")]
assert [r["failed"] for r in rows] == [None, "merges", "merges", "over_long"] and [r["mse"] == 2 for r in rows] == [False, True, True, True], rows
failed = json.load(open(sys.argv[1] + "/ends/summary.json"))["failed"]
assert failed["merges"] == 2 and failed["over_long"] == 1 and sum(failed.values()) == 3, failed
line = json.loads(open(sys.argv[1] + "/merges/metrics.jsonl").readline())
assert line["failed_merges"] > 0 and line["failed_over_long"] == 0, line
assert abs(sum(line["failed_" + cause] for cause in failed) - line["failed_rate"]) < 1e-9, line
END
run nla-sft --role ar --ar "$work/merging" --model "$tiny/model" --data "$work/held" --out "$work/no-rows" --steps 1 --sft.held_out 0
[ "$code" -eq 1 ] && grep -q '^24 rows left out: 0 are longer than the 512 tokens the model reads, 24 merge with the AR template' "$work/stderr" ||
	fail "rows that merge: exits $code: $(cat "$work/stderr")"

# Texts of a row need not be adjacent; rows count once in their baseline.
python3 -c 'import sys; lines = sys.stdin.readlines(); sys.stdout.writelines(x for i in range(3) for x in lines[i::3])' \
	<"$work/three/rows.jsonl" >"$work/apart.jsonl"
for order in three/rows apart; do
	eval_ --data "$work/held" --score "$work/$order.jsonl" --eval.baseline rows --out "$work/given-${order%/*}"
	grep -q 'eval.baseline is rows, and 16 rows are few' "$work/stderr" || fail "48 texts of 16 rows: $(cat "$work/stderr")"
done
python3 - "$work/given-three" "$work/given-apart" "$work/a-own" <<'END'
import json, sys
three, apart, own = (json.load(open(path + "/summary.json")) for path in sys.argv[1:])
assert (apart["rows"], apart["samples"]) == (16, 3) and three["baseline_var"] == apart["baseline_var"] == own["baseline_var"], (apart, own)
for key in ("fve_se", "response_tokens_se"):
    assert 0 < three[key] and abs(three[key] - apart[key]) <= 1e-4 * three[key], (key, three[key], apart[key])
END

# The numbers of the reference implementation.
tool golden-set "$work/held" "$work/golden"
eval_ --data "$work/golden" --score "$work/golden.jsonl" --out "$work/g"
python3 - "$work/g" <<'END'
import json, os, sys
sys.path.insert(0, os.path.join(os.environ["SOURCE_DIR"], "tests", "command"))
sys.dont_write_bytecode = True
import tool

rows = [json.loads(line) for line in open(sys.argv[1] + "/rows.jsonl")]
want = tool.golden_mse()
assert len(rows) == len(want) == 8
for row, mse in zip(rows, want):
    assert abs(row["mse"] - mse) < 1e-5, (row["row"], row["mse"], mse)
END
