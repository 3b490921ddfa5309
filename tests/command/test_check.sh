# nla-train --check: what it prints, that it writes nothing, when it says no; and what the memory plan may not change.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av

files() { (cd "$work" && find train held av sft -type f -exec ls -l --time-style=full-iso {} + && ls); }
check() { run nla-train --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 2 --group 4 --max-new-tokens 40 --check "$@"; }
said_go() {
	[ "$code" -eq 0 ] || fail "--check $* exits $code: $(tail -n 3 "$work/stderr")"
	[ "$(tail -n 1 "$work/stdout")" = go ] || fail "--check $* ends in '$(tail -n 1 "$work/stdout")'"
}
has() { grep -Eq -- "$1" "$work/stdout" || fail "no line '$1' in: $(cat "$work/stdout")"; }

# This device: every part of the plan, one step, and no file more, less or newer.
: >"$work/stdout"; : >"$work/stderr"; : >"$work/code"
files >"$work.before"
check
said_go
for part in weights copies adapters optimizer 'rollout: cache' 'update: activations' 'update: log-prob chunk' 'head room'; do
	has "^  $part.* [0-9]+\.[0-9]{3} "
done
has '^  total .* of [0-9.]+: '
has '^memory plan in GiB for cpu, fp32: 2 x 4 responses of at most 40 tokens$'
has '^room: 16 x 16 responses fit too'
has '^tried one prompt: 4 responses '
has '^a run of 250 steps and 0 evaluations, begun now on this device: about .* left, until .* \(from a step of [12] of 2 prompts\)$'
check --ar_update.enabled --update.recompute true --update.micro_batch 3
said_go
has '3 of 8 responses a backward pass, blocks recomputed'
files >"$work.after"
cmp -s "$work.before" "$work.after" || fail "--check wrote: $(diff "$work.before" "$work.after")"
rm -f "$work.before" "$work.after"

# A GPU that is not here: bf16, unless told otherwise; the size also from a file.
check --memory 24G
said_go
has '^memory plan in GiB for a GPU of 24G, bf16: '
echo '{"memory": "1.5Gi", "dtype": "fp32"}' >"$work/memory.json"
check "$work/memory.json"
said_go
has '^memory plan in GiB for a GPU of 1.5Gi, fp32: '
has ' of 1.500: '
check --memory 24G --group 4096 --max-new-tokens 1000 # too long to try without that GPU
said_go
has '^not tried: one prompt takes [0-9]+ x 10\^12 operations'

# What does not fit is said, with what to change, on stdout and as the error.
no_go() {
	pattern=$1
	shift
	check "$@"
	[ "$code" -eq 1 ] || fail "--check $* exits $code: $(cat "$work/stdout")"
	grep -Eq -- "^no go: .*$pattern" "$work/stdout" || fail "--check $* says: $(tail -n 1 "$work/stdout")"
	[ "$(wc -l <"$work/stderr")" -eq 1 ] || fail "--check $* says: $(cat "$work/stderr")"
	said "do not fit into .*$pattern"
	sed -n 's/.* \([0-9.]*\) GiB do not fit into \([0-9.]*\):.*/\1 \2/p' "$work/stderr" | awk '{ bad = !($1 > $2) } END { exit bad || NR != 1 }' ||
		fail "the number that does not fit is no larger: $(cat "$work/stderr")"
}
no_go 'no setting makes it less than' --memory 512M
need=$(sed -n 's/.* \([0-9.]*\) GiB do not fit into .*/\1/p' "$work/stderr") # a hair less reads differently
no_go . --memory "$(awk -v need="$need" 'BEGIN { printf "%.0f", (need - 0.0015) * 1024 ^ 3 }')"
no_go 'lower rollout.max_new_tokens from 16000 to [0-9]+, and it takes' --memory 850M --max-new-tokens 16000
no_go 'set update.recompute to auto, .*lower update.micro_batch from 256 to [0-9]+, and it takes' --memory 1G --prompts 64 --max-new-tokens 200 \
	--update.micro_batch 256 --update.recompute false

# Sizes that are none, and contracts that do not hold.
for size in 24Q G 24GG -3G 1e3x 12; do
	refused 2 "'memory' is '$size': want a size of at least 1M, such as 24G" nla-train --memory="$size" --check
done
refused 1 'cannot load AV' nla-train --model "$tiny/model" --av "$tiny/ar" --ar "$tiny/ar" --data "$work/train" --check
refused 2 "'data' is not set" nla-train --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --check

# Recomputed blocks: the same run to the bit. Its log has the plan.
train --out "$work/a" --steps 3
train --out "$work/b" --steps 3 --update.recompute true
grep -q '^memory plan: .*8 responses a backward pass, blocks kept' "$work/a/log.txt" || fail "no plan in log.txt"
grep -q '^memory plan: .*blocks recomputed' "$work/b/log.txt" || fail "no plan in log.txt"
same "$work/a/checkpoints/latest/av/adapter_model.safetensors" "$work/b/checkpoints/latest/av/adapter_model.safetensors"
[ "$(head -n 1 "$work/a/metrics.jsonl" | python3 -c 'import json, sys; print(json.load(sys.stdin)["micro_batch"])')" = 8 ] ||
	fail "metrics.jsonl has no micro_batch"
for role in av ar; do
	for again in false true; do
		ok nla-sft --role $role --model "$tiny/model" --data "$work/train" --out "$work/$role-$again" --steps 3 --batch 8 --lr 1e-3 \
			--sft.held_every 1000 --sft.held_out 0.1 --update.recompute $again
	done
	same "$work/$role-false/checkpoints/latest/$role/adapter_model.safetensors" "$work/$role-true/checkpoints/latest/$role/adapter_model.safetensors"
done
# A run that resumes keeps the micro-batch it began with.
train --out "$work/c" --steps 1
tool set "$work/c/checkpoints/latest/state.json" micro_batch 3
train --out "$work/c" --steps 2 --resume
tail -n 1 "$work/c/metrics.jsonl" | grep -q '"step":2,.*"micro_batch":3,' || fail "the micro-batch changed on resume"
