# nla-train --profile and nla-profile: the table's FLOPs are those counted by hand from the model's shapes, its times fit into
# their stage, the trace can be read, and the run's numbers are those of a run without it.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_set train 0 24
av=$tiny/av

one="--prompts 1 --group 4 --rollout.min_new_tokens 40"
train --out "$work/a" --steps 3 $one
[ ! -s "$work/stdout" ] || fail "a profile that was not asked for"
train --out "$work/b" --steps 3 $one --profile
tool lines "$work/a/metrics.jsonl" "$work/b/metrics.jsonl"
same "$work/a/checkpoints/latest/av/adapter_model.safetensors" "$work/b/checkpoints/latest/av/adapter_model.safetensors"
[ "$(grep -c '^trace of step 2, .*/b/trace-2.json$' "$work/stderr")" -eq 1 ] || fail "the trace is not named: $(cat "$work/stderr")"
[ ! -s "$work/stdout" ] || fail "a profile prints: $(cat "$work/stdout")"
python3 "$SOURCE_DIR/scripts/nla-profile" "$work/b/trace-2.json" >"$work/table"
! python3 "$SOURCE_DIR/scripts/nla-profile" "$work/b/config.json" 2>"$work/stderr" || fail "a table of no trace"
grep -q "^nla-profile: cannot read '.*config.json'.* want a trace" "$work/stderr" ||
	fail "of no trace it says: $(cat "$work/stderr")"

python3 -B "$SOURCE_DIR/scripts/nla-profile" "$work/b/trace-2.json" 2>"$work/stderr" | true # gone before a word is written
[ ! -s "$work/stderr" ] || fail "without a reader it says: $(cat "$work/stderr")"

python3 - "$work" "$tiny/model/config.json" <<'END_PY'
import json, sys

work = sys.argv[1]
c = json.load(open(sys.argv[2]))
D, F, L, V = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"], c["vocab_size"]
H, KV = (c[key] * c["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
R, RANK = 3 * 4, 4  # q, k and v in one product; o

table = open(f"{work}/table").read().splitlines()
assert table[0].startswith("times of the host; a large product reaches "), table[0]
stages = []
for line in table[2:]:
    seconds, flops = float(line[24:].split()[0]), float(line[24:].split()[3]) * 1e9
    if line[0] != " ":
        stages.append((line.split()[0], seconds, flops, []))
    else:
        stages[-1][3].append(seconds)
assert [s[0] for s in stages] == ["rollout", "score", "update"], stages
for name, seconds, _, parts in stages:
    assert min(parts) >= 0 and abs(sum(parts) - seconds) < 1e-4 * (len(parts) + 1), (name, seconds, parts)

trace = json.load(open(f"{work}/b/trace-2.json"))["traceEvents"]
tokens = {}  # in the stage's longest sequence
for span in [e for e in trace if e.get("cat") == "user_annotation"]:
    inside = [e for e in trace if e.get("name") == "project" and span["ts"] <= e["ts"] <= span["ts"] + span["dur"]]
    tokens[span["name"]] = max([e["args"]["Input Dims"][0][0] for e in inside], default=0)
P, n, N = tokens["rollout"], tokens["update"], 4 * 40
assert n == P + 4 * 39, (P, n)  # a response's last token is predicted, and predicts nothing

Q = H + 2 * KV
weights = D * Q + H * D + 3 * D * F
adapters = R * (D + Q) + RANK * (H + D)
pairs = P * (P + 1) // 2 + 4 * (39 * P + 39 * 40 // 2)
want = [
    2 * n * L * (2 * weights + adapters),  # forward: the reference, whose adapter is merged in, and the policy
    2 * n * L * (weights + 2 * adapters),  # dx; u's gradient and its part of dx, dA, dB
    -2 * n * (D * Q + R * D),  # the first block's input wants none
    2 * N * D * V * (2 + 2),  # log-probabilities: of both, and backward the logits again and dx
    2 * pairs * H * L * (2 * 2 + 5),  # attention: two products forward, five backward
]
got = stages[2][2]
assert abs(got - sum(want)) <= 1e5, (got, sum(want), want)
END_PY

# A made-up trace of a GPU: kernels count for the operation that launched them, whoever else runs meanwhile, a graph's for themselves.
python3 - >"$work/gpu.json" <<'END_PY'
import json

def event(cat, name, start, ms, tid=1, id=None, dims=()):
    return {"cat": cat, "name": name, "ts": 1000 * start, "dur": 1000 * ms, "tid": tid,
            "args": {"External id": id, "Input Dims": list(dims), "Input type": ["float"] * len(dims)}}

square = [[1000, 1000]] * 2
print(json.dumps({"traceEvents": [
    event("user_annotation", "rollout", 0, 1000), event("cpu_op", "project", 10, 9, id=1), event("cpu_op", "aten::mm", 11, 5, id=2, dims=square),
    event("cpu_op", "attention", 20, 1, id=3), event("kernel", "gemm", 500, 300, 7, 2), event("gpu_memset", "Memset", 490, 5, 7, 1),
    event("gpu_memcpy", "Memcpy", 810, 40, 7, 3), event("kernel", "late", 900, 50, 7, 99),
    event("cpu_op", "graph_replay", 850, 1, id=8), event("kernel", "void ns::decode_split<float>(float*)", 860, 20, 7, 8),
    event("kernel", "std::enable_if<!(a<b<c>>)>::type (anonymous namespace)::project<int>(T)", 880, 10, 7),
    event("user_annotation", "update", 1000, 500), event("cpu_op", "autograd::engine::evaluate_function: MmBackward0", 1010, 9, 2, 4),
    event("kernel", "gemm", 1100, 100, 7, 4),
    event("user_annotation", "roofline", 2000, 100), event("cpu_op", "aten::mm", 2001, 1, id=5, dims=square), event("kernel", "gemm", 2010, 10, 7, 5),
    event("cpu_op", "aten::copy_", 2020, 1, id=6, dims=[[1000000]] * 2), event("kernel", "copy", 2030, 1, 7, 6)]}))
END_PY
python3 -B "$SOURCE_DIR/scripts/nla-profile" "$work/gpu.json" | tr -s ' ' >"$work/table"
for line in 'times of kernels; a large product reaches 200.0 GFLOP/s, a large copy 8.0 GB/s' 'rollout 1.0000 100.0% 6 2.0000 0.0120 1%' \
	' project 0.3050 30.5% 1 2.0000 0.0120 3%' ' attention 0.0400 4.0% 1 0.0000 0.0000' ' graph late 0.0500 5.0% 1 0.0000 0.0000' ' graph project 0.0100 1.0% 1 0.0000 0.0000' ' graph decode_split 0.0200 2.0% 1 0.0000 0.0000' ' outside of operations 0.5750 57.5% 0 0.0000 0.0000' \
	' backward 0.1000 20.0% 0 0.0000 0.0000'; do
	grep -qxF -- "$line" "$work/table" || fail "no '$line' of kernels: $(cat "$work/table")"
done

# A run of one step profiles that one; --overwrite removes what the former wrote.
train --out "$work/b" --steps 1 --profile --overwrite
[ "$(ls "$work/b" | grep '^trace')" = trace-1.json ] || fail "traces: $(ls "$work/b")"
