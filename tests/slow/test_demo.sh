#!/bin/sh
# The phenomenon on the embedded demo, in short: a penalty makes explanations shorter without making them worse, within 60 steps.
set -eu
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$BUILD_DIR/nla-train" "$SOURCE_DIR/demo/config.json" --out "$out/run" --steps 60 --lambda 0.01 --eval.rows 300 >"$out/table"
cat "$out/table"
python3 - "$out/run" <<'EOF'
import json, sys
before, after = (json.load(open(f"{sys.argv[1]}/eval-{step}.json")) for step in (0, 60))
lines = [json.loads(line) for line in open(f"{sys.argv[1]}/metrics.jsonl")]
tokens = [line["response_tokens_mean"] for line in lines]
assert after["response_tokens"] < 0.75 * before["response_tokens"], (before, after)
assert after["fve_all"] > before["fve_all"] - 0.05, (before, after)
assert after["failed_rate"] < 0.05, after
assert max(line["sampler_gap"] for line in lines) < 1e-4
# gradually: no ten steps hold more than 70 % of the whole fall
falls = [sum(tokens[i:i + 5]) - sum(tokens[i + 10:i + 15]) for i in range(0, 45, 5)]
assert max(falls) < 0.7 * (sum(tokens[:5]) - sum(tokens[-5:])) + 10, tokens
EOF
