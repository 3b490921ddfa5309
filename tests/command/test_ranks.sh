# Several ranks make the run that one makes, up to the order of sums; and when one of them is gone, the others say which and end.
# On NLA_TEST_DEVICE's simulated device, where sums go through the host, only the training.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av
launch=$SOURCE_DIR/scripts/launch.sh

ranks() { # N PROGRAM ...: as run, by so many ranks
	n=$1 program=$2
	shift 2
	code=0
	timeout 300 "$launch" -n "$n" "$BUILD_DIR/$program" --threads 1 $on "$@" >"$work/stdout" 2>"$work/stderr" || code=$?
}

ok_ranks() {
	ranks "$@"
	[ "$code" -eq 0 ] || fail "$* exits $code: $(tail -n 3 "$work/stderr")"
}

# One line on stderr, from whichever rank, that matches.
refused_ranks() { # CODE PATTERN N PROGRAM ...
	want=$1 pattern=$2
	shift 2
	ranks "$@"
	[ "$code" -eq "$want" ] || fail "$* exits $code, want $want: $(tail -n 3 "$work/stderr")"
	[ "$(wc -l <"$work/stderr")" -eq 1 ] || fail "$*: stderr is not one line: $(cat "$work/stderr")"
	said "$pattern"
}

below() { [ -n "$1" ] && awk -v x="$1" -v most="$2" -v what="$3" 'BEGIN { print "    " what ": " x " of " most; exit !(x <= most) }' || fail "$3: $1"; }
apart_by() { tool distance "$work/$1/checkpoints/latest/optimizer.safetensors" "$work/$2/checkpoints/latest/optimizer.safetensors" "$3"; }

# ---- RL, with the AR co-trained ----

# 12 responses for each of four ranks: the scores of as few texts as 8 are rounded otherwise, which advantages carry on by 1 / std.
cat >"$work/run.json" <<END
{"model": "$tiny/model", "av": "$work/av", "ar": "$tiny/ar", "data": "$work/train", "steps": 10, "seed": 1,
 "rollout": {"prompts": 12, "group": 4, "max_new_tokens": 40}, "lora": {"rank": 4, "alpha": 8}, "reward": {"lambda": 0.002},
 "update": {"lr": 1e-3, "micro_batch": 48}, "ar_update": {"enabled": true, "lr": 1e-4},
 "log": {"samples": 100, "probe": 0}, "checkpoint": {"every": 0}}
END
ok nla-train "$work/run.json" --out "$work/one" --steps 1
ok nla-train "$work/run.json" --out "$work/ten"
ok nla-train "$work/run.json" --out "$work/split" --update.micro_batch 5
for n in 2 3 4; do
	ok_ranks $n nla-train "$work/run.json" --out "$work/one-$n" --steps 1
	below "$(apart_by one one-$n av.m.)" 1e-6 "$n ranks, the reduced gradient of the AV"
	below "$(apart_by one one-$n ar.m.)" 1e-6 "$n ranks, of the AR"
	python3 - "$work/one" "$work/one-$n" <<'END'
import json, sys

one, other = ([json.loads(line) for line in open(folder + "/samples.jsonl")] for folder in sys.argv[1:])
assert len(one) == 48 and [(s["row"], s["response"], s["failed"]) for s in one] == [(s["row"], s["response"], s["failed"]) for s in other]
one, other = (json.loads(open(folder + "/metrics.jsonl").readline()) for folder in sys.argv[1:])
assert one.keys() == other.keys() and one["reduced_bytes"] == 0 and other["reduced_bytes"] > 1e4 and other["reduce_seconds"] > 0
for key in one:
    if "second" in key or "bytes" in key or key in ("micro_batch", "live_tensors"):
        continue
    if isinstance(one[key], (float, int)):
        assert abs(one[key] - other[key]) <= 1e-5 * max(1, abs(one[key])), (key, one[key], other[key])
    else:
        assert one[key] == other[key], key
END
done
ok_ranks 3 nla-train "$work/run.json" --out "$work/ten-3"
most=$(awk -v x="$(apart_by ten split av.param.)" 'BEGIN { print 5 * x }')
below "$(apart_by ten ten-3 av.param.)" "$most" "3 ranks, the adapter after 10 steps, of 5 times what micro-batches differ"
[ "$(ls "$work/ten-3/checkpoints" | tr '\n' ' ')" = "latest step-10 " ] || fail "checkpoints: $(ls "$work/ten-3/checkpoints")"
[ "$(wc -l <"$work/ten-3/metrics.jsonl")" -eq 10 ] || fail "ranks write lines of their own"
grep -q '^step 10/10 ' "$work/ten-3/rank-2.log" && fail "rank 2 has lines of the first"

# A signal to one of two ranks stops both after the same step, and three resume.
cat >"$work/signal.sh" <<'END'
[ "$RANK" != 0 ] || export SIGNAL_AT="metrics.jsonl 5 USR1" LD_PRELOAD="$BUILD_DIR/tests/libsignal_at.so"
exec "$@"
END
code=0
"$launch" -n 2 sh "$work/signal.sh" "$BUILD_DIR/nla-train" --threads 1 $on "$work/run.json" --out "$work/resumed" \
	>"$work/stdout" 2>"$work/stderr" || code=$?
[ "$code" -eq 3 ] || fail "a signal to one rank: exit $code: $(tail -n 3 "$work/stderr")"
program=nla-train
said 'stopped after step 5 of 10: .* to continue: '
ok_ranks 3 nla-train "$work/run.json" --out "$work/resumed" --resume
grep -q 'resuming from step 5' "$work/stderr" || fail "does not resume: $(cat "$work/stderr")"
below "$(apart_by ten resumed av.param.)" "$most" "resumed from 2 ranks by 3"
# One process that goes on makes its own plan: a rank's share is not its batch.
ok_ranks 3 nla-train "$work/run.json" --out "$work/shares" --steps 1 --update.micro_batch 0
[ "$(tool get "$work/shares/checkpoints/step-1/state.json" micro_batch)" = 16 ] || fail "a rank's share"
tool set "$work/shares/checkpoints/step-1/state.json" decode_rows 16
ok nla-train "$work/run.json" --out "$work/shares" --steps 2 --update.micro_batch 0 --resume
for key in 'micro_batch 48' 'decode_rows 0'; do
	[ "$(tool get "$work/shares/checkpoints/step-2/state.json" "${key% *}")" = "${key#* }" ] ||
		fail "$key of 3 ranks, then of one: $(cat "$work"/shares/checkpoints/step-?/state.json)"
done

# An evaluation splits its rows, and all ranks skip a step whose gradient is not finite (as test_train.sh makes one).
set -- "$work/run.json" --lr 0 --eval.data "$work/held" --eval.every 1 --max-new-tokens 40 --update.max_bad_steps 3 --checkpoint.every 1
ok nla-train "$@" --out "$work/bad" --steps 1
ok_ranks 2 nla-train "$@" --out "$work/bad-2" --steps 1
for key in ids mse cosine fve; do
	tool near "$work/bad/eval-1.rows.jsonl" "$work/bad-2/eval-1.rows.jsonl" $key 1e-4
done
tool scale "$work/bad-2/checkpoints/latest/optimizer.safetensors" av.param. 1e30
ranks 2 nla-train "$@" --out "$work/bad-2" --steps 9 --resume
[ "$code" -eq 1 ] || fail "gradients that are not finite end no ranks: exit $code"
program=nla-train
said "gradients were not finite for 3 steps in a row: the last good state is '$work/bad-2/checkpoints/latest'"
[ "$(sed -n 's/.*"skipped_steps":\([0-9]*\).*/\1/p' "$work/bad-2/metrics.jsonl" | tr '\n' ' ')" = "0 1 2 3 " ] || fail "skipped: $(cat "$work/bad-2/metrics.jsonl")"

# ---- sft ----

for role in av ar lm; do
	rows="--data $work/train" steps=3
	# AdamW's first step of a weight is its gradient's sign: of all weights some are rounding, and split batches of one rank differ as much.
	[ $role != lm ] || { rows="--corpus $work/train.jsonl --sft.context 16" steps=1; }
	for n in 1 3; do
		# shellcheck disable=SC2086
		ok_ranks $n nla-sft --role $role --model "$tiny/model" $rows --out "$work/sft-$role-$n" --steps $steps --batch 7 \
			--lr 1e-3 --sft.schedule constant --sft.warmup 0 --checkpoint.every 0 --sft.held_every 3 --sft.held_out 0.2 --log.probe 0
	done
	below "$(apart_by sft-$role-1 sft-$role-3 $role.m.)" 1e-5 "3 ranks, nla-sft --role $role, moments"
	python3 - $steps "$work/sft-$role-1/metrics.jsonl" "$work/sft-$role-3/metrics.jsonl" <<'END'
import json, sys

one, other = ([json.loads(line) for line in open(path)] for path in sys.argv[2:])
assert len(one) == len(other) == int(sys.argv[1]) + 1
assert all(abs(a[k] - b[k]) < 1e-5 for a, b in zip(one, other) for k in ("loss", "held_loss") if a.get(k) is not None)
END
done
[ -z "${NLA_TEST_DEVICE:-}" ] || exit 0

# ---- what splits its rows ----

mkdir "$work/texts" && cp "$work/train.jsonl" "$work/texts"
for n in 1 3; do
	[ $n = 1 ] && corpus=$work/train.jsonl || corpus=$work/texts # for ranks the folder that holds it
	ok_ranks $n nla-extract --model "$tiny/model" --corpus "$corpus" --layer 2 --extract.min_position 5 --extract.per_doc 2 \
		--extract.next 3 --out "$work/set-$n"
	ok_ranks $n nla-teach --model "$tiny/model" --data "$work/set-$n" --teach.prompt 'Say {text}' --max-new-tokens 8 --teach.batch 10 \
		--chat.format chatml --out "$work/taught-$n"
	for vectors in own another; do
		ok_ranks $n nla-eval --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" --max-new-tokens 40 --eval.samples 2 \
			--eval.baseline rows --eval.vectors $vectors --eval.recovered_kl --eval.batch 6 --out "$work/eval-$vectors-$n"
	done
	ok_ranks $n nla-eval --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" --score "$work/eval-own-1/rows.jsonl" \
		--out "$work/given-$n"
done
for file in activations.safetensors rows.jsonl.gz; do
	same "$work/set-1/$file" "$work/set-3/$file"
done
same "$work/taught-1/rows.jsonl.gz" "$work/taught-3/rows.jsonl.gz"
for what in eval-own eval-another given; do
	python3 - "$work/$what-1" "$work/$what-3" <<'END'
import json, math, sys

one, other = ([json.loads(line) for line in open(folder + "/rows.jsonl")] for folder in sys.argv[1:])
assert len(one) == len(other) > 20 and any(r["failed"] is None for r in one)
for a, b in zip(one, other):
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], float) or isinstance(b[key], float):
            assert abs(a[key] - b[key]) <= 1e-4, (key, a[key], b[key])
        elif key not in ("logprob", "ref_logprob"):
            assert a[key] == b[key], (key, a[key], b[key])
        else:
            assert len(a[key]) == len(b[key]) and all(abs(x - y) < 1e-4 for x, y in zip(a[key], b[key])), key
one, other = (json.load(open(folder + "/summary.json")) for folder in sys.argv[1:])
for key in one.keys() - {"seconds", "made_by"}:
    assert one[key] == other[key] or abs(one[key] - other[key]) <= 1e-4 * max(1, abs(one[key])), (key, one[key], other[key])
END
done
refused_ranks 2 'work of one process, and here are 2 ranks' 2 nla-export --model "$tiny/model" --av "$work/av" --out "$work/none"
mkfifo "$work/pipe"
refused_ranks 2 "pipe' can be read once, and each rank reads it" 2 nla-extract --model "$tiny/model" --corpus "$work/pipe" --layer 2 --out "$work/none"
refused_ranks 2 'work of one process' 2 nla-train --check "$work/run.json"
refused_ranks 2 'rollout.prompts is 6: want at least one for each of 7 ranks' 7 nla-train "$work/run.json" --prompts 6 --out "$work/none"
refused_ranks 2 "unknown option '--no-such" 3 nla-train "$work/run.json" --no-such 1
refused_ranks 1 'no_such_set' 3 nla-train "$work/run.json" --data "$work/no_such_set" --out "$work/none"

# ---- ranks that differ, or do not meet ----

cat >"$work/other.sh" <<'END'
rank=$1 option=$2 value=$3
shift 3
[ "$RANK" != "$rank" ] || set -- "$@" "$option" "$value"
exec "$@"
END
differs() { # PATTERN RANK OPTION VALUE
	pattern=$1
	shift
	code=0
	timeout 60 "$launch" -n 2 sh "$work/other.sh" "$@" "$BUILD_DIR/nla-train" --threads 1 $on "$work/run.json" --out "$work/none" \
		>"$work/stdout" 2>"$work/stderr" || code=$?
	program=nla-train
	[ "$code" -ne 0 ] && [ "$(wc -l <"$work/stderr")" -eq 1 ] || fail "$*: $code, $(cat "$work/stderr")"
	said "$pattern"
}
differs "rank 1 on .*: its 'update.lr' is 0.5, and that of rank 0 is 0.001" 1 --lr 0.5
differs "rank 1 on .*: its 'data' is \"[0-9a-f]*\", and that of rank 0 is" 1 --data "$work/held"
differs "rank 1 on .*: its 'update.lr' is 0.001, and that of rank 0 is 0.5" 0 --lr 0.5

# One that has less memory decides the plan of all: what is merged is rounded, and the ranks' policies would differ.
timeout 60 "$launch" -n 2 sh "$work/other.sh" 1 --memory 1M "$BUILD_DIR/nla-train" --threads 1 $on "$work/run.json" --steps 1 --out "$work/tight" \
	>/dev/null 2>"$work/stderr" || fail "a rank with less memory: $(cat "$work/stderr")"
grep -q 'memory plan: .* no merged copies' "$work/tight/log.txt" || fail "another plan: $(grep 'memory plan' "$work/tight/log.txt")"

alone() { # NAME=VALUE ... : as one rank with this environment
	code=0
	env MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + $$ % 10000)) "$@" timeout 60 "$BUILD_DIR/nla-train" --threads 1 $on "$work/run.json" \
		--out "$work/none" --dist.timeout 4 >"$work/stdout" 2>"$work/stderr" || code=$?
	program=nla-train
	[ "$code" -eq 1 ] || [ "$code" -eq 2 ] || fail "$*: exits $code: $(cat "$work/stderr")" # 124: it hangs
	[ "$(wc -l <"$work/stderr")" -eq 1 ] || fail "$*: $(cat "$work/stderr")"
}
alone RANK=0 WORLD_SIZE=2
said 'rank 1 has not come (within|to the start for) [0-9]+ s' # whichever of its two watches looks first
# Two of three; and one whose options are wrong, while another waits for it.
env MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + $$ % 10000)) RANK=1 WORLD_SIZE=3 timeout 60 "$BUILD_DIR/nla-train" --threads 1 $on "$work/run.json" \
	--out "$work/none" --dist.timeout 4 >/dev/null 2>&1 &
alone RANK=0 WORLD_SIZE=3
said 'rank 2 has not come (within|to the start for) [0-9]+ s' # whichever of its two watches looks first
code=0
wait $! || code=$?
[ "$code" -eq 1 ] || fail "a rank that waited exits $code"
env MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + $$ % 10000)) RANK=1 WORLD_SIZE=2 timeout 60 "$BUILD_DIR/nla-train" --no-such 1 --dist.timeout 4 >/dev/null 2>&1 &
alone RANK=0 WORLD_SIZE=2
said "rank 1 .*no-such"
wait
alone RANK=1 WORLD_SIZE=2
said 'ranks cannot meet at 127.0.0.1:[0-9]*: .*[Tt]imed out'
alone RANK=2 WORLD_SIZE=2
said "RANK is '2': want a number, 0 to 1"
alone RANK=1 WORLD_SIZE=2 MASTER_PORT=x
said "MASTER_PORT is 'x'"

# srun and mpirun say it in their own words; a batch script, which has SLURM_PROCID and is no step, is alone.
by() { # "NAME=VALUE ... %r ...": of each of two ranks
	for r in 0 1; do
		env MASTER_PORT=$((21000 + $$ % 9000)) $(printf '%s' "$1" | sed "s/%r/$r/g") "$BUILD_DIR/nla-train" --threads 1 $on "$work/run.json" \
			--out "$work/by" --overwrite --steps 1 2>"$work/stderr-$r" >"$work/stdout-$r" &
	done
	wait
	tail -n 1 "$work/stderr-0" | grep -q '^done: 1 steps' && [ ! -s "$work/stderr-1" ] || fail "$1: $(cat "$work/stderr-0" "$work/stderr-1")"
	below "$(apart_by one by av.m.)" 1e-6 "${1%%=*}"
}
by 'SLURM_PROCID=%r SLURM_STEP_NUM_TASKS=2 SLURM_JOB_ID=7 SLURM_STEP_NODELIST=localhost'
by 'OMPI_COMM_WORLD_RANK=%r OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2'
by 'PMI_RANK=%r PMI_SIZE=2 MASTER_ADDR=127.0.0.1'

# Another program's rank that comes to the same port, by mistake, ends by itself, and not the run that is under way there.
one_of() { # RANK PROGRAM ...: takes the place of its subshell
	r=$1 program=$2
	shift 2
	exec env MASTER_PORT=$((21000 + $$ % 9000)) OMPI_COMM_WORLD_RANK="$r" OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2 "$BUILD_DIR/$program" \
		--threads 1 $on "$@"
}
for r in 0 1; do
	one_of $r nla-train "$work/run.json" --out "$work/first" --steps 100000 >"$work/stdout-$r" 2>"$work/stderr-$r" &
	eval "first_$r=$!"
done
until [ -s "$work/first/metrics.jsonl" ]; do
	kill -0 "$first_0" || fail "the first run: $(cat "$work/stderr-0")"
	sleep 0.1
done
! (one_of 1 nla-eval --no-such 1 2>"$work/stderr") || fail "an option that is none"
! (one_of 1 nla-train "$work/run.json" --out "$work/none" 2>"$work/stderr") || fail "two processes are rank 1"
at=$(wc -l <"$work/first/metrics.jsonl")
for try in $(seq 300); do
	[ "$(wc -l <"$work/first/metrics.jsonl")" -le $((at + 5)) ] || break
	[ "$try" -lt 300 ] || fail "a stray ends the run: $(tail -n 1 "$work/stderr-0")"
	sleep 0.1
done
kill -TERM "$first_0"
code=0
wait "$first_0" || code=$?
[ "$code" -eq 3 ] || fail "the first run exits $code: $(tail -n 1 "$work/stderr-0")"
wait

step='SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_JOB_ID=7' # mpirun in a step of one task
by "OMPI_COMM_WORLD_RANK=%r OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2 $step"
by "PMI_RANK=%r PMI_SIZE=2 MASTER_ADDR=127.0.0.1 $step"
SLURM_PROCID=0 SLURM_NTASKS=2 ok nla-train "$work/run.json" --out "$work/batch" --steps 1
same "$work/one/checkpoints/latest/optimizer.safetensors" "$work/batch/checkpoints/latest/optimizer.safetensors"
if "$REFERENCE_PYTHON" -c 'import torch.distributed.run' 2>/dev/null; then
	"$REFERENCE_PYTHON" -m torch.distributed.run --nproc-per-node 2 --no-python --master-port $((22000 + $$ % 8000)) "$BUILD_DIR/nla-train" \
		--threads 1 $on "$work/run.json" --out "$work/torchrun" --steps 1 >"$work/stdout" 2>"$work/stderr" || fail "torchrun: $(cat "$work/stderr")"
	below "$(apart_by one torchrun av.m.)" 1e-6 torchrun
else
	echo "    no torchrun here"
fi

# ---- a rank that is gone ----

# It lives, and waits for something else: a pipe that nobody writes to.
mkfifo "$work/pipe-0" "$work/pipe-1"
cat "$work/eval-own-1/rows.jsonl" >"$work/pipe-0" &
code=0
timeout 60 "$launch" -n 2 sh -c 'exec "$@" --score "$0/pipe-$RANK"' "$work" "$BUILD_DIR/nla-eval" --threads 1 $on --model "$tiny/model" \
	--av "$work/av" --ar "$tiny/ar" --data "$work/held" --out "$work/none" --dist.timeout 4 >"$work/stdout" 2>"$work/stderr" || code=$?
program=nla-eval
[ "$code" -eq 1 ] || fail "a rank that hangs: exit $code: $(cat "$work/stderr")"
said 'rank 1 on [^ ]* has not come to a sum for [0-9]+ s'

# One that fails ends with its own reason though the first, which keeps the ranks' store, stands still.
mkfifo "$work/score-0" "$work/score-1"
for r in 0 1; do
	one_of $r nla-eval --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" --score "$work/score-$r" --out "$work/none" \
		--dist.timeout 8 >"$work/stdout-$r" 2>"$work/stderr-$r" &
	eval "eval_$r=$!"
done
cat "$work/eval-own-1/rows.jsonl" >"$work/score-0"
kill -s STOP "$eval_0"
echo 'no JSON' >"$work/score-1"
for try in $(seq 300); do
	kill -0 "$eval_1" 2>/dev/null || break
	[ "$try" -lt 300 ] || fail "a rank that failed waits for one that stands still: $(cat "$work/stderr-1")"
	sleep 0.1
done
code=0
wait "$eval_1" || code=$?
kill -s KILL "$eval_0"
wait "$eval_0" 2>/dev/null || true # bash says who was killed
[ "$code" -eq 1 ] && grep -q "^nla-eval: rank 1: .*score-1.* line 1" "$work/stderr-1" || fail "a rank that failed exits $code: $(cat "$work/stderr-1")"

# lost SIGNAL RANK N: a run of many steps whose rank gets the signal once there is a checkpoint.
lost() {
	rm -rf "$work/lost"
	code=0
	timeout 120 "$launch" -n "$3" sh -c 'echo $$ >"$0/lost-pid-$RANK"; exec "$@"' "$work" "$BUILD_DIR/nla-train" --threads 1 $on \
		"$work/run.json" --out "$work/lost" --steps 100000 --checkpoint.every 1 --dist.timeout 6 >"$work/stdout" 2>"$work/stderr" &
	at=0
	while [ ! -e "$work/lost/checkpoints/latest/state.json" ]; do
		sleep 0.1
		at=$((at + 1))
		[ $at -lt 600 ] || fail "no checkpoint: $(cat "$work/stderr")"
	done
	began=$(date +%s)
	kill -s "$1" "$(cat "$work/lost-pid-$2")"
	sleep 12 # the timeout, and the looks at it
	kill -s CONT "$(cat "$work/lost-pid-$2")" 2>/dev/null || true
	wait $! || code=$?
	[ "$code" -ne 0 ] && [ $(($(date +%s) - began)) -lt 30 ] || fail "$*: exits $code after $(($(date +%s) - began)) s: $(tail -n 2 "$work/stderr")"
	program=nla-train
	said "rank $2 on [^ ]*:? ?(gives no sign of life for [0-9]* s|stood still for [0-9]* s|is gone, and with it)"
	last=$(readlink "$work/lost/checkpoints/latest")
	[ -s "$work/lost/checkpoints/$last/state.json" ] && [ -s "$work/lost/checkpoints/$last/optimizer.safetensors" ] || fail "no whole checkpoint"
}
lost KILL 1 3
ok_ranks 2 nla-train "$work/run.json" --out "$work/lost" --steps $((${last#step-} + 1)) --checkpoint.every 1 --resume # as a job that is queued again
lost STOP 1 2
lost KILL 0 2
lost STOP 0 2
