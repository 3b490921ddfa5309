# nla-explain: a row, a text's token and a vector are three ways to one activation.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av
explain() { ok nla-explain --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --max-new-tokens 40 "$@"; }

explain --data "$work/held" --row 5 --samples 6 --seed 2
[ "$(wc -l <"$work/stdout")" -eq 6 ] || fail "want 6 lines: $(cat "$work/stdout")"
cp "$work/stdout" "$work/row"
python3 - "$work/row" "$work/held" <<'END'
import json, os, sys
sys.path.insert(0, os.path.join(os.environ["SOURCE_DIR"], "tests", "command"))
sys.dont_write_bytecode = True
import tool

samples, row = [json.loads(line) for line in open(sys.argv[1])], tool.read_rows(sys.argv[2])[5]
for s in samples:
    assert s["text"] == row["text"], (s["text"], row["text"])
    assert s["row"] == 5 and s["position"] == row["n_raw_tokens"] - 1 and s["token"] and row["text"].endswith(s["token"])
    assert (s["explanation"] or "") in s["response"] and (s["failed"] is None or s["response"])
    assert 0 < s["response_tokens"] <= 40
    assert abs(s["cosine"] - (1 - s["mse"] / 2)) < 1e-6 and {"fve", "fve_meannorm"} <= s.keys()
    assert (s["failed"] is None) == (s["mse"] != 2)
valid = [s for s in samples if s["failed"] is None]
assert len(valid) > 1 and len({s["agreement"] for s in samples}) == 1 and -1 <= samples[0]["agreement"] <= 1, samples
END
explain --data "$work/held" --row 5 --samples 6 --seed 2
same "$work/row" "$work/stdout"
explain --data "$work/held" --row 5 --samples 6 --seed 3
differ "$work/row" "$work/stdout"

# The text up to the row's token, and the row's stored vector, are explained alike: greedy, so that the set's bf16 does no harm.
explain --data "$work/held" --row 5 --temperature 0
cp "$work/stdout" "$work/row"
python3 - "$work/held" "$work/text" "$work/v.safetensors" <<'END'
import os, sys
sys.path.insert(0, os.path.join(os.environ["SOURCE_DIR"], "tests", "command"))
sys.dont_write_bytecode = True
import tool

with open(sys.argv[2], "w", encoding="utf-8") as f:
    f.write(tool.read_rows(sys.argv[1])[5]["text"])
dtype, (_, width), data = tool.read_tensors(sys.argv[1] + "/activations.safetensors")[0]["activations"]
assert dtype == "BF16"
tool.write_tensors(sys.argv[3], {"v": (dtype, [width], data[5 * width * 2:6 * width * 2])})
END
alike() { # FILE TOLERANCE
	python3 - "$work/row" "$1" "$2" <<'END'
import json, sys

a, b = (json.loads(open(path).readline()) for path in sys.argv[1:3])
assert a["explanation"] == b["explanation"] and a["response_tokens"] == b["response_tokens"], (a, b)
assert abs(a["mse"] - b["mse"]) <= float(sys.argv[3]), (a, b)
END
}
explain --text "$(cat "$work/text")" --temperature 0 --data "$work/held"
alike "$work/stdout" 1e-2
grep -q "^nla-explain: AV '$work/av', AR '.*/ar', token [0-9]* '.*' of the text; baselines of '$work/held': raw variance" "$work/stderr" ||
	fail "the first line does not say what is explained: $(cat "$work/stderr")"
python3 - "$work/row" "$work/stdout" <<'END'
import json, sys

a, b = (json.loads(open(path).readline()) for path in sys.argv[1:3])
assert a["position"] == b["position"] and a["token"] == b["token"], (a, b)
assert abs(a["fve"] - b["fve"]) < 2e-2 and abs(a["fve_meannorm"] - b["fve_meannorm"]) < 2e-2, (a, b)
END
explain --text "$(cat "$work/text") and more of it" --position "$(python3 -c '
import os, sys
sys.path.insert(0, os.path.join(os.environ["SOURCE_DIR"], "tests", "command"))
sys.dont_write_bytecode = True
import tool
print(tool.read_rows(sys.argv[1])[5]["n_raw_tokens"] - 1)' "$work/held")" --temperature 0
alike "$work/stdout" 1e-2
explain --vector "$work/v.safetensors" --temperature 0
alike "$work/stdout" 0
! grep -q '"fve"' "$work/stdout" || fail "an fve without a baseline"
cp "$work/stdout" "$work/vector"
python3 -B - "$work/v.safetensors" "$work/two.safetensors" <<'END' # itself, and what points the other way
import os, sys
sys.path.insert(0, os.path.join(os.environ["SOURCE_DIR"], "tests", "command"))
import tool
kind, shape, data = tool.read_tensors(sys.argv[1])[0]["v"]
tool.write_tensors(sys.argv[2], {"v": (kind, [2, shape[-1]], data + bytes(x ^ 0x80 if i % 4 == 3 else x for i, x in enumerate(data)))})
END
explain --vector "$work/two.safetensors" --temperature 0
grep -q ', 2 vectors; no fve' "$work/stderr" || fail "not two vectors: $(cat "$work/stderr")"
python3 -c '
import json, sys
one, (same, other) = (list(map(json.loads, open(path))) for path in sys.argv[1:])
assert same["response"] == one[0]["response"] != other["response"] and abs(same["mse"] - one[0]["mse"]) < 1e-5, (one, same, other)' \
	"$work/vector" "$work/stdout"

# A set that stores no baselines: those that its opening computes.
cp -R "$work/held" "$work/bare"
sed -i '/^baseline:/,/mean_normalised/d' "$work/bare/nla_meta.yaml"
explain --data "$work/bare" --row 5 --temperature 0
same "$work/row" "$work/stdout"

# What fails is there to be read.
explain --row 5 --data "$work/held" --samples 2 --max-new-tokens 2
grep -q '"explanation":null,"response":"[^"].*","failed":"truncated"' "$work/stdout" || fail "no text of a failure: $(cat "$work/stdout")"
grep -q 'warning: 100% of the responses failed, most as truncated .*: likely, .* One of them: .' "$work/stderr" || fail "no warning: $(cat "$work/stderr")"
# A run's folder: its newest checkpoint, and rows of its held-out set.
train --out "$work/run" --steps 2 --eval.data "$work/held" --eval.rows 2
ok nla-explain "$work/run" --row 5
[ "$(python3 -c 'import json, sys; print(json.loads(open(sys.argv[1]).readline())["text"])' "$work/stdout")" = "$(cat "$work/text")" ] ||
	fail "not row 5 of the held-out set: $(cat "$work/stdout")"
grep -q "^nla-explain: AV '$work/run/checkpoints/step-2/av', .* row 5 of '$work/held'; baselines" "$work/stderr" ||
	fail "$(cat "$work/stderr")"
explain --av "$work/run/checkpoints/latest" --ar "$work/run" --row 5 --data "$work/held"
cp "$work/stdout" "$work/row"
ok nla-explain "$work/run/config.json" --row 5 --ar "$tiny/ar"
same "$work/row" "$work/stdout"

# One activation at a time, and one at least.
refused 2 "nothing to explain: give a --text that is not empty" nla-explain "$work/run" --text ""
refused 2 "nothing to explain" nla-explain --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held"
for other in "--vector $work/v.safetensors" "--row 5"; do
	refused 2 "is set: give one" nla-explain --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" --text a $other
done

explain --data "$work/held" --row 5 --samples 2 --temperature 0 # twice the same text
grep -c '"agreement":\(1[,.]\|0[.]99999\)' "$work/stdout" | grep -qx 2 || fail "equal texts do not agree: $(cat "$work/stdout")"

# Several tokens of a text at once: each as it is explained alone, its samples too; the text from a file or stdin.
printf 'the red fox ran over the hill and slept' >"$work/words"
explain --text "@$work/words" --positions all --samples 2 --seed 4
grep -Eq '^nla-explain: .*, [0-9]+ tokens of the text; ' "$work/stderr" || fail "it does not say what it explains: $(cat "$work/stderr")"
cp "$work/stdout" "$work/all"
explain --text - --positions 4,-1 --samples 2 --seed 4 <"$work/words"
cp "$work/stdout" "$work/some"
explain --text "$(cat "$work/words")" --position 4 --samples 2 --seed 4
python3 - "$work/all" "$work/some" "$work/stdout" <<'END'
import json, sys

everything, some, one = ([json.loads(line) for line in open(path)] for path in sys.argv[1:])
n = len(everything) // 2
assert [s["position"] for s in everything] == [i // 2 for i in range(2 * n)] and n > 5, (n, everything)
assert [s["position"] for s in some] == [4, 4, n - 1, n - 1] and len({s["norm"] for s in everything}) == n, everything
for a, b in zip(some, everything[8:10] + everything[-2:]):
    assert all(a[k] == b[k] for k in ("position", "token", "response")) and abs(a["mse"] - b["mse"]) < 1e-5, (a, b)
for a, b in zip(one, some):
    assert all(a[k] == b[k] for k in ("position", "token", "response")) and abs(a["mse"] - b["mse"]) < 1e-5, (a, b)
    assert abs(a["norm"] - b["norm"]) < 1e-3 * a["norm"] and a["norm"] > 0
assert one[0]["text"] and "text" not in some[0]
END
# A full disk under stdout is an error, also where a flush before the end has met it.
for set in '--row 1' --help; do
	code=0
	"$BUILD_DIR/nla-explain" --threads 1 $on --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" $set >/dev/full 2>"$work/stderr" || code=$?
	program=nla-explain
	[ "$code" -eq 1 ] && said 'cannot write to standard output' || fail "$set: a full disk exits $code"
done
explain --text "@$work/words" --positions every:3
[ "$(sed -n 's/^{"position":\([0-9]*\),.*/\1/p' "$work/stdout" | head -n 3 | tr '\n' ' ')" = "0 3 6 " ] || fail "every:3: $(cat "$work/stdout")"
for bad in every: every:0 every:2,3 3, 3,x all,1 1000; do
	refused 2 "explain.positions' is '$bad'|outside the text's" nla-explain --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --text "a b c" --positions "$bad"
done
refused 2 "give --text" nla-explain --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" --row 1 --positions all
