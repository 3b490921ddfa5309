# Several lambdas in one process: every run folder is what a run of its own leaves, and resumes together or alone.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av

lambdas="0 0.002 0.03"
list=0,0.002,0.03
folder() { echo "$1/lambda-$2-seed-0"; } # OUT LAMBDA

same_run() { # RUN RUN: to the bit, but for seconds
	tool lines "$1/metrics.jsonl" "$2/metrics.jsonl"
	same "$1/samples.jsonl" "$2/samples.jsonl"
	for file in av/adapter_model.safetensors ar/adapter_model.safetensors adapter/adapter_model.safetensors optimizer.safetensors state.json; do
		[ ! -e "$1/checkpoints/latest/$file" ] || same "$1/checkpoints/latest/$file" "$2/checkpoints/latest/$file"
	done
	[ "$(ls "$1" | tr '\n' ' ')" = "$(ls "$2" | tr '\n' ' ')" ] || fail "'$1' holds $(ls "$1"), '$2' $(ls "$2")"
	[ "$(ls -A "$1/checkpoints" | tr '\n' ' ')" = "$(ls -A "$2/checkpoints" | tr '\n' ' ')" ] || fail "checkpoints of '$1' and '$2' differ"
}

# ---- as runs of their own ----

set -- --prompts 3 --group 6 --checkpoint.every 3 --log.samples_every 2 --eval.data "$work/held" --rows 6 --eval.every 4
train "$@" --steps 6 --lambda $list --out "$work/all"
[ "$(grep -c '^lambda 0.002: step [1-6]/6 ' "$work/stderr")" -eq 6 ] || fail "stderr has not six steps of lambda 0.002"
[ "$(grep -c ': nla-train: ' "$work/stderr")" -eq 1 ] || fail "not one head on stderr: $(head "$work/stderr")"
[ "$(grep -c '^FVE (raw variance)' "$work/stdout")" -eq 3 ] || fail "not a table for each lambda: $(cat "$work/stdout")"
for l in $lambdas; do
	train "$@" --steps 6 --lambda $l --out "$work/alone-$l"
	run=$(folder "$work/all" $l)
	grep -q '^nla-train: ' "$run/log.txt" && grep -q "^lambda $l in units of fve" "$run/log.txt" || fail "no head in lambda $l's log: $(head -n 4 "$run/log.txt")"
	grep -q '^step 6/6 ' "$run/log.txt" && grep -q '^done: 6 steps' "$run/log.txt" || fail "log.txt of lambda $l: $(cat "$run/log.txt")"
	[ "$(tool get "$run/config.json" reward.lambda)" = "$l" ] || fail "lambda $l is $(tool get "$run/config.json" reward.lambda)"
	[ "$(ls "$run" | tr '\n' ' ')" = "$(ls "$work/alone-$l" | tr '\n' ' ')" ] || fail "'$run' holds $(ls "$run")"
	python3 - "$run" "$work/alone-$l" <<'END'
import json, sys
one, other = ([json.loads(line) for line in open(f"{path}/samples.jsonl")] for path in sys.argv[1:])
first = [[(s["row"], s["response"], s["failed"]) for s in run if s["step"] == 1] for run in (one, other)]
assert first[0] and first[0] == first[1], "other texts in the first step"
a, b = (json.loads(open(f"{path}/metrics.jsonl").readline()) for path in sys.argv[1:])
for key in ("fve", "reward_mean", "grad_norm", "kl", "entropy", "response_tokens_mean", "penalty_mean", "loss"):
    assert abs(a[key] - b[key]) < 1e-5, (key, a[key], b[key])
assert [r["ids"] for r in map(json.loads, open(f"{sys.argv[1]}/eval-0.rows.jsonl"))] == \
       [r["ids"] for r in map(json.loads, open(f"{sys.argv[2]}/eval-0.rows.jsonl"))]
END
	ok nla-eval "$run" --rows 6
	python3 - "$run" <<'END'
import json, sys
one, other = ([r["ids"] for r in map(json.loads, open(sys.argv[1] + name))] for name in ("/eval-6.rows.jsonl", "/evaluations/step-6/rows.jsonl"))
assert one and one == other, "nla-eval draws other texts than the run"
END
done
differ "$(folder "$work/all" 0)/checkpoints/latest/av/adapter_model.safetensors" "$(folder "$work/all" 0.03)/checkpoints/latest/av/adapter_model.safetensors"
ok nla-train "$(folder "$work/all" 0.03)/config.json" --out "$(folder "$work/all" 0.03)" --resume --steps 7
grep -q 'rounds differently' "$work/stderr" && fail "alone, another plan: $(cat "$work/stderr")"
tail -n 1 "$(folder "$work/all" 0.03)/metrics.jsonl" | grep -q '"step":7' || fail "no step 7"

# ---- to the bit, where the shapes of all batches are the same: the AR is trained, so each has its own, and no reference runs ----

set -- --prompts 3 --group 6 --checkpoint.every 2 --log.samples_every 2 --ar_update.enabled --ar_update.lr 1e-3 --kl 0 \
	--eval.data "$work/held" --rows 6
set -- "$@" --steps 8
train "$@" --lambda $list --out "$work/whole"
for l in $lambdas; do
	train "$@" --lambda $l --out "$(folder "$work/own" $l)"
	same_run "$(folder "$work/own" $l)" "$(folder "$work/whole" $l)"
done

# ---- killed between two lambdas' lines, and gone on with: together, alone, and with one of them further ahead ----

for line in 4 8 14; do # lines of all of them: 14 is the second of step 5
	rm -rf "$work/killed"
	out=$work/killed
	signalled metrics.jsonl $line KILL nla-train --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" \
		--max-new-tokens 40 --lora.rank 4 --lora.alpha 8 --lr 1e-3 "$@" --lambda $list --out "$out"
	[ "$code" -eq 137 ] || fail "not killed: $code"
	[ $line -ne 14 ] || train "$@" --lambda 0.03 --out "$(folder "$out" 0.03)" --resume # alone, to its end; the others follow
	train "$@" --lambda $list --out "$out" --resume
	for l in $lambdas; do same_run "$(folder "$work/whole" $l)" "$(folder "$out" $l)"; done
done
train "$@" --lambda $list --out "$out" --resume
[ "$(grep -c '^lambda [0-9.]*: nothing left to do: ' "$work/stderr")" -eq 3 ] || fail "something left to do: $(cat "$work/stderr")"

# A signal ends all of them after the same step; the command that it says goes on.
rm -rf "$out"
signalled metrics.jsonl 8 TERM nla-train --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" \
	--max-new-tokens 40 --lora.rank 4 --lora.alpha 8 --lr 1e-3 "$@" --lambda $list --out "$out"
[ "$code" -eq 3 ] || fail "TERM: exits $code: $(tail -n 1 "$work/stderr")"
for l in $lambdas; do [ "$(readlink "$(folder "$out" $l)/checkpoints/latest")" = step-3 ] || fail "lambda $l has no checkpoint of step 3"; done
for l in $lambdas; do
	tail -n 1 "$(folder "$out" $l)/log.txt" | grep -q "^stopped after step 3 of 8: '$(folder "$out" $l)/" || fail "lambda $l's log: $(tail -n 1 "$(folder "$out" $l)/log.txt")"
done
sed -n 's/.*; to continue: //p' "$work/stderr" >"$work/again"
sh "$work/again" >"$work/stdout" 2>"$work/stderr" || fail "'$(cat "$work/again")': $(tail -n 1 "$work/stderr")"
for l in $lambdas; do tool lines "$(folder "$work/whole" $l)/metrics.jsonl" "$(folder "$out" $l)/metrics.jsonl"; done

# ---- what memory holds, and turns ----

set -- --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 2 --group 4 --max-new-tokens 40 \
	--lora.rank 4 --lora.alpha 8 --lr 1e-3 --steps 2
ok nla-train "$@" --check --lambda $list
grep -q '^lambdas: 3 of 3 train together$' "$work/stdout" || fail "--check: $(cat "$work/stdout")"
ok nla-train "$@" --check --lambda 0.1
! grep -q '^lambdas' "$work/stdout" || fail "--check of one: $(cat "$work/stdout")"
if [ -z "${NLA_TEST_DEVICE:-}" ]; then
	ok nla-train "$SOURCE_DIR/demo/config.json" --check --prompts 2 --group 4 --max-new-tokens 40 --lambda $list --memory 900M
	sed -n 's/^room: .* fit too, \([0-9]*\) rows .* (\([0-9]*\) batches).*/\1 \2/p' "$work/stdout" |
		awk '{ ok = $1 < 768 && $2 == int((767 + $1) / $1) } END { exit !ok }' || fail "batches of 3 x 16 x 16 rows: $(cat "$work/stdout")"
	ok nla-train "$@" --memory 338M --lambda $list --out "$work/turns"
	[ "$(grep -c ': 1 of [23] lambdas fit into memory together: the others follow$' "$work/stderr")" -eq 2 ] || fail "turns: $(cat "$work/stderr")"
	for l in $lambdas; do [ -e "$(folder "$work/turns" $l)/checkpoints/step-2" ] || fail "lambda $l had no turn"; done
	rm -r "$(folder "$work/turns" 0)" # of which the last one's turn would come after the first one's steps
	run nla-train "$@" --memory 338M --lambda $list --out "$work/turns"
	[ "$code" -eq 2 ] && [ ! -e "$(folder "$work/turns" 0)" ] || fail "refused for a later turn: exits $code, $(ls "$work/turns")"
	run nla-train "$@" --memory 338M --lambda $list --out "$work/turns" --resume --lr 2e-3
	[ "$code" -eq 2 ] && [ ! -e "$(folder "$work/turns" 0)" ] || fail "another lr than a later turn's: exits $code, $(ls "$work/turns")"
	said "cannot resume: 'update.lr' is "
fi

# ---- what is wrong ----

refused 2 "'reward.lambda' is \"0,0.1,0\": want a number, or several that differ with commas" nla-train "$@" --out "$work/no" --lambda 0,0.1,0
refused 2 "'reward.lambda' is \"0,0.1,1e-1\": want a number, or several" nla-train "$@" --out "$work/no" --lambda 0,0.1,1e-1
for bad in 0,x 0, ,0 0,,1 0,-1 0,101 0,nan 0,0x1 ''; do
	refused 2 "'reward.lambda' is .*: want a number, or several" nla-train "$@" --out "$work/no" --lambda="$bad"
done
echo '{"reward": {"lambda": [0, "x"]}}' >"$work/bad.json"
refused 2 "'reward.lambda' is an array: want a number, or several" nla-train "$@" --out "$work/no" "$work/bad.json"
[ ! -e "$work/no" ] || fail "a refused run leaves '$work/no'"
echo '{"reward": {"lambda": [0, 0.5]}}' >"$work/two.json"
ok nla-train "$@" --out "$work/two" "$work/two.json"
[ -e "$(folder "$work/two" 0.5)/checkpoints/step-2" ] || fail "a file's lambdas: $(ls "$work/two")"
for flag in --resume --overwrite --quiet; do
	refused 2 "two' holds the runs of several lambdas: give --out .*/two/lambda-0.5-seed-0, which is of this one" nla-train "$@" --out "$work/two" \
		--lambda 5e-1 $flag
done
run nla-train "$@" --out "$work/two" --lambda 0.00001,5e-1
said "lambda-0.5-seed-0' holds a run already: give --resume" # another spelling of the same number names the same folder
run nla-train "$@" --out "$work/two" --lambda 0,0.5
[ "$code" -eq 2 ] || fail "runs that are there: exits $code"
said "lambda-0-seed-0' holds a run already: give --resume"
rm -r "$(folder "$work/two" 0)"
run nla-train "$@" --out "$work/two" --lambda 0,0.5
[ "$code" -eq 2 ] && [ ! -e "$(folder "$work/two" 0)" ] || fail "refused for the second: exits $code, $(ls "$work/two")"
said "lambda-0.5-seed-0' holds a run already: give --resume"

# What fails takes no other's work with it.
run nla-train "$@" --steps 40 --out "$work/guarded" --lambda 0,0.5 --guard groups_tied,groups_failed,entropy,length --lr 0.05 --checkpoint.every 1000
[ "$code" -eq 1 ] || fail "a guard: exits $code: $(tail -n 1 "$work/stderr")"
for l in 0 0.5; do
	tail -n 1 "$work/stderr" | grep -q "^nla-train: lambda $l: step [0-9]*, .*: guard " || [ -s "$(folder "$work/guarded" $l)/checkpoints/latest/state.json" ] ||
		fail "lambda $l is not saved: $(tail -n 1 "$work/stderr")"
done
ok nla-train "$@" --out "$work/one" --lambda 0.5
run nla-train "$@" --out "$work/one" --lambda 0,0.5
[ "$code" -eq 2 ] || fail "a run's folder: exits $code"
said "one' is a run's folder: several lambdas have theirs below 'out': give another --out"
mkdir "$work/file"
: >"$(folder "$work/file" 0.5)"
run nla-train "$@" --out "$work/file" --lambda 0,0.5
[ "$code" -eq 1 ] || fail "a file in a folder's place: exits $code"
said "lambda-0.5-seed-0"
code=0
timeout 60 "$SOURCE_DIR/scripts/launch.sh" -n 2 "$BUILD_DIR/nla-train" --threads 1 $on "$@" --out "$work/ranks" --lambda 0,0.5 2>"$work/stderr" || code=$?
[ "$code" -eq 2 ] && grep -q "'reward.lambda' is 0,0.5: several lambdas train in one process, and there are 2 ranks: give one$" "$work/stderr" ||
	fail "several ranks: exits $code: $(cat "$work/stderr")"
