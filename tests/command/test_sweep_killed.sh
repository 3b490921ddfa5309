# A sweep that was killed with all its programs, and started again, leaves what an undisturbed one leaves: real programs, two runs at once.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av
export NLA_BUILD=$BUILD_DIR
cat >"$work/rl.json" <<END
{"model": "$tiny/model", "av": "$work/av", "ar": "$tiny/ar", "data": "$work/train", "steps": 8, "lora": {"rank": 4, "alpha": 8},
 "rollout": {"prompts": 3, "group": 4, "max_new_tokens": 40}, "update": {"lr": 0.001}, "threads": 1, "checkpoint": {"every": 2},
 "eval": {"data": "$work/held", "rows": 12}}
END
sweep() { # OUT, in a process group of its own, whose number is in OUT.pid
	setsid -w sh -c 'echo $$ >"$0.pid"; exec sh "$@"' "$1" "$SOURCE_DIR/scripts/sweep.sh" --gate off --lambdas "0 0.002" --seeds "3 4" \
		--slots 2 --samples 2 --out "$1" "$work/rl.json" -- $on >>"$1.out" 2>>"$1.err"
}
sweep "$work/whole" || fail "the sweep exits $?: $(tail -n 3 "$work/whole.err")"
sweep "$work/cut" &
pid=$!
first=$work/cut/lambda-0-seed-3
until [ "$(cat "$first/metrics.jsonl" 2>/dev/null | wc -l)" -ge 5 ]; do
	kill -0 $pid || fail "the sweep ended before it could be killed: $(tail -n 3 "$work/cut.err")"
	sleep 0.02
done
kill -KILL "-$(cat "$work/cut.pid")" || fail "the sweep had ended" # and its programs
wait $pid && fail "the sweep was not killed"
[ ! -e "$work/cut/table.md" ] || fail "killed too late"
sweep "$work/cut" || fail "the second call exits $?: $(tail -n 3 "$work/cut.err")"

same "$work/whole/table.md" "$work/cut/table.md"
[ "$(sed -n '3,/^$/s/^| \([^|]*\) | \([0-9]*\) | .*/\1: \2/p' "$work/whole/table.md" | tr '\n' ',')" = "warm start: 1,λ 0: 2,λ 0.002: 2," ] ||
	fail "the table has other runs: $(cat "$work/whole/table.md")"
for run in start lambda-0-seed-3 lambda-0-seed-4 lambda-0.002-seed-3 lambda-0.002-seed-4; do
	[ $run = start ] || tool lines "$work/whole/$run/metrics.jsonl" "$work/cut/$run/metrics.jsonl"
	for file in "$work/whole/$run"/checkpoints/latest/*/*.safetensors "$work/whole/$run"/evaluations/*/rows.jsonl; do
		same "$file" "$work/cut/${file#"$work/whole/"}"
	done
done
[ "$(ls -d "$work/cut"/*/evaluations/step-8 | wc -l)" -eq 4 ] || fail "evaluations: $(ls -d "$work/cut"/*/evaluations/*)"
echo '{}' >"$work/av/tokenizer_config.json"
! sh "$SOURCE_DIR/scripts/sweep.sh" --lambdas 0 --seeds 5 --samples 2 --out "$work/whole" "$work/rl.json" -- $on 2>"$work/stderr" &&
	grep -q "^sweep: '$work/av' has another content than '$work/whole' began with" "$work/stderr" || fail "of another AV: $(cat "$work/stderr")"
! tool lines "$work/whole/lambda-0-seed-3/metrics.jsonl" "$work/whole/lambda-0.002-seed-3/metrics.jsonl" 2>/dev/null || fail "all runs are one"
