# A card that is short of memory: the program halves the batch of the stage that runs out, says so once, and ends with the numbers of
# a run that was given half. (The stages of nla-train: model/test_update.)
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av

# halved WHAT PROGRAM...: with as much memory as makes it halve that, found by bisection, in kB.
halved() {
	what=$1 low=500000 high=1000000
	shift
	while :; do
		[ $((high - low)) -gt 1 ] || fail "$*: no memory makes it halve '$what': $high kB are enough, $low kB too few: $(tail -n 1 "$work/stderr")"
		middle=$(((low + high) / 2))
		rm -rf "$work/out"
		run "$@" --out "$work/out" --memory "${middle}000"
		again=$(grep -c "out of memory, once more with half: $what" "$work/stderr") || :
		[ "$code" -ne 0 ] || [ "$again" -eq 0 ] || break
		if [ "$code" -eq 0 ]; then high=$middle; else low=$middle; fi
	done
	[ "$again" -eq 1 ] || fail "$*: it is said $again times"
}

for role in av ar; do
	set -- nla-sft --role $role --model "$tiny/model" --data "$work/train" --steps 2 --batch 32 --lr 1e-3 --sft.warmup 0 --sft.held_out 0.2 \
		--lora.rank 2 --update.recompute false --log.probe 0 --sft.schedule constant
	ok "$@" --update.micro_batch 16 --out "$work/half"
	halved 'update, rows a backward pass, from 32 to 16' "$@" --update.micro_batch 32
	same "$work/half/checkpoints/latest/$role/adapter_model.safetensors" "$work/out/checkpoints/latest/$role/adapter_model.safetensors"
	ok "$@" --update.micro_batch 16 --out "$work/half" --steps 4 --resume # each with the batch that it had
	ok "$@" --update.micro_batch 32 --out "$work/out" --steps 4 --resume
	same "$work/half/checkpoints/latest/$role/adapter_model.safetensors" "$work/out/checkpoints/latest/$role/adapter_model.safetensors"
	rm -rf "$work/half"
done

set -- nla-teach --model "$tiny/model" --data "$work/train" --teach.prompt 'Explain {text}' --max-new-tokens 24 --teach.batch 48 --teach.again true
ok "$@" --out "$work/all"
halved 'rows decoded at once, from 48 to 24' "$@"
same "$work/all/rows.jsonl.gz" "$work/out/rows.jsonl.gz"

# An AR whose prompt is long takes more than the AV: in the score, and in its own update.
cp -R "$tiny/ar" "$work/ar"
python3 - "$work/ar/nla_meta.yaml" <<'END'
import sys
text = open(sys.argv[1]).read()
open(sys.argv[1], "w").write(text.replace("    Vector:'", "    " + "the cold river sings and " * 40 + "\n\n    Vector:'"))
END
set -- nla-train --model "$tiny/model" --av "$work/av" --ar "$work/ar" --data "$work/train" --prompts 8 --group 4 --max-new-tokens 12 --steps 1 \
	--update.kl 0 --log.probe 0 --lora.rank 2
ok "$@" --update.micro_batch 2 --update.recompute true --out "$work/scored"
halved 'score, tokens at once, from [0-9]* to [0-9]*' "$@" --update.micro_batch 2 --update.recompute true
python3 - "$work/scored/metrics.jsonl" "$work/out/metrics.jsonl" <<'END'
import json, sys
a, b = (json.loads(open(path).readline()) for path in sys.argv[1:])
assert all(abs(a[key] - b[key]) < 1e-5 for key in ("fve", "mse", "cosine", "reward_mean", "grad_norm")), (a, b)
END
set -- "$@" --prompts 4 --update.recompute false --ar_update.enabled true
ok "$@" --update.micro_batch 8 --out "$work/half"
halved 'update, rows a backward pass, from 1[56] to 8' "$@" --update.micro_batch 16
same "$work/half/checkpoints/latest/ar/adapter_model.safetensors" "$work/out/checkpoints/latest/ar/adapter_model.safetensors"

# At each of three evaluations, of which the first is given half.
set -- nla-train --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 2 --group 2 --max-new-tokens 40 --steps 2 \
	--update.kl 0 --log.probe 0 --eval.data "$work/held" --eval.every 1 --eval.batch 24
halved 'evaluation, rows at once, from 24 to 12' "$@"
[ -e "$work/out/eval-2.json" ] || fail "there is no last evaluation"

set -- nla-eval --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" --eval.batch 24 --max-new-tokens 40
ok "$@" --out "$work/whole"
halved 'evaluation, rows at once, from 24 to 12' "$@"
same "$work/whole/rows.jsonl" "$work/out/rows.jsonl"
