# Several at once, on one tree, one set and one disk: eight runs, of which two are of one folder; two sweeps of one folder; and runs on a disk
# that becomes full for all of them. Each ends with the bytes of a run that was alone, or is refused.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av
cp -R "$work/train" "$work/train.before"
one() { # OUT SEED ...: in the background, each with files of its own for what it says
	local out=$1 seed=$2
	shift 2
	(work=$out.said; mkdir -p "$work"; train --seed "$seed" --steps 30 --checkpoint.every 1 --out "$out" "$@") &
}
train() { # as lib.sh's, whose $work is not that of a run
	run nla-train --model "$tiny/model" --av "$root/av" --ar "$tiny/ar" --data "$root/train" --prompts 2 --group 4 --max-new-tokens 40 \
		--lora.rank 4 --lora.alpha 8 --lr 1e-3 "$@"
	exit "$code"
}
root=$work
ended() { # OUT: as the run that was alone
	local alone=$work/alone-$2
	tool lines "$alone/metrics.jsonl" "$1/metrics.jsonl"
	for file in av/adapter_model.safetensors optimizer.safetensors; do same "$alone/checkpoints/latest/$file" "$1/checkpoints/latest/$file"; done
}

for seed in 0 1 2 3 4 5 6; do
	one "$work/alone-$seed" $seed
	wait $! || fail "alone, seed $seed: $(tail -n 1 "$work/alone-$seed.said/stderr")"
done

# ---- eight runs ----
for seed in 0 1 2 3 4 5 6; do one "$work/tree/run-$seed" $seed; done
until [ -s "$work/tree/run-6/metrics.jsonl" ]; do sleep 0.01; done
code=0
(work=$work/second; mkdir -p "$work"; train --seed 6 --steps 30 --out "$root/tree/run-6" --resume) || code=$?
[ "$code" -eq 1 ] || fail "a second program on one run's folder exits $code"
grep -q "run-6.*in use\|run-6.*another" "$work/second/stderr" || fail "it says: $(cat "$work/second/stderr")"
wait
for seed in 0 1 2 3 4 5 6; do ended "$work/tree/run-$seed" $seed; done
diff -r "$work/train.before" "$work/train" || fail "the activation set has changed"

# ---- two sweeps of one folder ----
cat >"$work/rl.json" <<END
{"model": "$tiny/model", "av": "$work/av", "ar": "$tiny/ar", "data": "$work/train", "steps": 6, "lora": {"rank": 4, "alpha": 8},
 "rollout": {"prompts": 2, "group": 4, "max_new_tokens": 40}, "update": {"lr": 0.001}, "threads": 1, "checkpoint": {"every": 2},
 "eval": {"data": "$work/held", "rows": 6}}
END
sweep() { # OUT SAID
	NLA_BUILD=$BUILD_DIR sh "$SOURCE_DIR/scripts/sweep.sh" --gate off --lambdas "0 0.002" --seeds 3 --slots 2 --samples 2 --out "$1" "$work/rl.json" -- \
		$on >"$2" 2>&1
}
sweep "$work/whole" "$work/whole.said" || fail "a sweep exits $?: $(tail -n 3 "$work/whole.said")"
sweep "$work/shared" "$work/shared.1" &
first=$!
sweep "$work/shared" "$work/shared.2" || fail "the second sweep exits $?: $(tail -n 3 "$work/shared.2")"
wait $first || fail "the first sweep exits $?: $(tail -n 3 "$work/shared.1")"
same "$work/whole/table.md" "$work/shared/table.md"
for run in lambda-0-seed-3 lambda-0.002-seed-3; do
	tool lines "$work/whole/$run/metrics.jsonl" "$work/shared/$run/metrics.jsonl"
	same "$work/whole/$run/evaluations/step-6/rows.jsonl" "$work/shared/$run/evaluations/step-6/rows.jsonl"
done

# ---- one disk for all, which becomes full ----
mkdir "$work/disk"
mount -t tmpfs -o size=2m tmpfs "$work/disk" 2>/dev/null || skip "the part with a full disk: no tmpfs may be mounted here"
trap 'umount "$work/disk"; rm -rf "$work"' EXIT
pids=
for seed in 0 1 2 3; do
	one "$work/disk/run-$seed" $seed
	pids="$pids $!"
done
full=0
for pid in $pids; do wait "$pid" || full=$((full + 1)); done
[ "$full" -gt 0 ] || fail "the disk is too large for the test"
mount -o remount,size=64m "$work/disk"
for seed in 0 1 2 3; do
	one "$work/disk/run-$seed" $seed --resume
	wait $! || fail "resumed, seed $seed: $(tail -n 1 "$work/disk/run-$seed.said/stderr")"
	ended "$work/disk/run-$seed" $seed
done
echo "7 runs at once, 2 sweeps of one folder, $full of 4 runs that met a full disk"
