# What a program says of the GPU's fast operations: a table that finds nothing wrong; and with a kernel that does nothing, a warning
# that names the operation, which then runs plain: the same tokens and nearly the same numbers.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av
export SIM_KERNELS=1
train() { ok nla-train --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 2 --group 2 --max-new-tokens 8 --steps 1 "$@"; }

train --check
for operation in norm 'rotation with norm' 'gated MLP' attention log-probabilities 'attention, decoding' sampling; do
	grep -Eq "^  $operation +[0-9.e-]+ +[0-9.e-]+ +[0-9]+ +[0-9]+ *$" "$work/stdout" || fail "no clean row of $operation: $(cat "$work/stdout")"
done
train --out "$work/right"
! grep -q 'warning: on this GPU' "$work/stderr" || fail "$(cat "$work/stderr")"

# The table names what the first check, when the model was opened, has switched off.
SIM_WRONG=glu train --check
[ "$(grep -c ' switched off$' "$work/stdout")" -eq 1 ] && grep -q '^  gated MLP .* switched off$' "$work/stdout" || fail "the table: $(cat "$work/stdout")"

for kernel in rms_norm:norm rms_norm_back:norm glu:'gated MLP' qk_rope_back:rotation decode_join:'attention, decoding'; do
	export SIM_WRONG=${kernel%:*}
	train --out "$work/$SIM_WRONG"
	[ "$(grep -c 'warning: on this GPU' "$work/stderr")" -eq 1 ] || fail "$SIM_WRONG: $(cat "$work/stderr")"
	grep -q "warning: on this GPU ${kernel#*:}.* is switched off" "$work/stderr" || fail "$SIM_WRONG: $(cat "$work/stderr")"
	python3 - "$work/right/metrics.jsonl" "$work/$SIM_WRONG/metrics.jsonl" <<'END'
import json, sys
a, b = (json.loads(open(f).read()) for f in sys.argv[1:])
assert a["response_tokens_mean"] == b["response_tokens_mean"], (a, b)
assert abs(a["grad_norm"] - b["grad_norm"]) <= 1e-3 * abs(a["grad_norm"]), (a["grad_norm"], b["grad_norm"])
END
done

# Gains of one, as a model has that begins: the gradient of the norm's square would be nearly 0, and rounding compared with rounding.
printf '{"text": "a b c d e f g h"}\n' >"$work/lm.jsonl"
unset SIM_WRONG
ok nla-sft --role lm --model "$tiny/model" --sft.corpus "$work/lm.jsonl" --out "$work/fresh" --sft.init true --steps 1 --batch 1
! grep -q 'warning: on this GPU' "$work/stderr" || fail "of a fresh model: $(cat "$work/stderr")"
