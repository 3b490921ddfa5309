#!/usr/bin/env bash
# sweep.sh with stand-ins for the programs and for Slurm: what it calls, skips, resumes, survives, runs at once, prints.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "FAIL: $*"; exit 1; }
unset OMP_NUM_THREADS CUDA_VISIBLE_DEVICES SLURM_ARRAY_TASK_ID SLURM_JOB_ID

mkdir bin
cat >bin/nla-train <<'SH'
#!/bin/sh
echo "train $*" >>calls
[ ! -e replaced ] || echo "'av' has another content than at the start of the run, which resumes with its own av"
n=3
while [ $# -gt 0 ]; do case $1 in --lambda) l=$2 ;; --seed) s=$2 ;; --out) o=$2 ;; --steps) n=$2 ;; esac; shift; done
folders=$o
case $l in *,*) folders=$(for one in $(echo "$l" | tr , ' '); do echo "$o/lambda-$one-seed-$s"; done) ;; esac
for o in $folders; do
	mkdir -p "$o/checkpoints/step-$n"
	echo '{"micro_batch": 16}' >"$o/checkpoints/step-$n/state.json"
	echo "{\"seed\": $s, \"steps\": $n, \"eval\": {\"data\": \"$(cat held)\"}}" >"$o/config.json"
done
echo "step 1/3  fve 0.5"
[ "$n" != 0 ] || { echo "${OMP_NUM_THREADS-}" >gate-threads; exit 0; }
echo "$l $s threads ${OMP_NUM_THREADS-} card ${CUDA_VISIBLE_DEVICES-}" >>devices
if [ -e together ]; then # as many at once as it says: waits for the others
	: >"work-$l-$s"
	until [ "$(ls work-* | wc -l)" -ge "$(cat together)" ]; do sleep 0.1; done
fi
while [ -e watched ] && ! grep -q ' 30 %' err; do sleep 0.1; done # until a line says that it runs
if [ "$l" = 0.002 ] && [ "$s" = 0 ] && [ -e stopped ]; then exit "$(cat stopped)"; fi
if [ -e signalled ]; then # the sweep alone gets a signal, and must pass it on
	trap 'echo passed on >>calls; exit 3' TERM
	kill -"$(cat signalled)" "$(cat sweep.pid)"
	while :; do sleep 0.1; done
fi
if [ "$l $s" = "$(cat broken 2>/dev/null)" ]; then echo "nla-train: error: out of luck" >&2; exit 1; fi
SH
cat >bin/nla-eval <<'SH'
#!/bin/sh
echo "eval $*" >>calls
run=$1 name= again=
if [ -e evaluating ]; then kill -"$(cat evaluating)" "$(cat sweep.pid)"; exec sleep 60; fi # ends at the signal that is passed on
while [ $# -gt 0 ]; do case $1 in --name) name=-$2 ;; --overwrite) again=1 ;; esac; shift; done
for at in "$run"/checkpoints/step-*; do o=$run/evaluations/${at##*/}$name; done
[ -z "$again" ] && [ -e "$o/summary.json" ] && exit 2
mkdir -p "$o"
case $o in
*start*another) f=$(cat other) t=30 ;;
*start*) f=$(cat own 2>/dev/null || echo 0.25) t=30 ;;
*lambda-0-seed-0*) f=0.6 t=100 ;;
*lambda-0-seed-1*) f=0.7 t=110 ;;
*seed-0*) f=0.5 t=40 ;;
*) f=-1e-1 t=50 ;;
esac
printf '{\n\t"fve_se": 0.03,\n\t"fve": %s,\n\t"fve_meannorm":0.2, "response_tokens": %s, "failed_rate": 0.125,\n' $f $t >"$o/summary.json"
printf '"response_tokens_se": 2.5, "failed": {\n\t"no_tags": 3, "empty": 0,\n\t"truncated": 61}, "rows": 64}\n' >>"$o/summary.json"
SH
printf '#!/bin/sh\necho "controls $*" >>calls\n' >bin/nla-controls # of a run and its base
cat >bin/nla-report <<'SH'
#!/bin/sh
echo "report $*" >>calls
{ cat "$1"/*/evaluations/*/summary.json | cksum; printf '\nanother table\n'; } >"$5"
SH
mkdir awk # that reads numbers by the locale is told not to
printf '#!/bin/sh\n[ "$LC_ALL" = C ] || exit 9\nexec %s "$@"\n' "$(command -v awk)" >awk/awk
chmod +x bin/* awk/awk
export PATH="$work/awk:$PATH"
echo '{}' >c.json
echo held >held
echo -0.5 >other
export NLA_BUILD=$work/bin
lambdas="0 0.002"
sweep() {
	sh -c 'echo $$ >sweep.pid; exec sh "$@"' - "$SOURCE_DIR/scripts/sweep.sh" --seeds "$seeds" --lambdas "$lambdas" --out out c.json -- --steps 3 "$@" >table 2>err
}

# what cannot be meant, before anything is trained
refused() { # MESSAGE WORD...
	want=$1 code=0
	shift
	sh "$SOURCE_DIR/scripts/sweep.sh" --out out "$@" 2>err || code=$?
	[ $code = 2 ] && [ "$(cat err)" = "sweep: $want" ] && [ ! -e out ] || fail "$* exits $code: $(cat err)"
}
refused "unknown option '--lambda': did you mean '--lambdas'?" --lambda 0 c.json
for flag in --lambda --reward.lambda --seed --out; do
	own=--${flag##*[-.]} && [ $own = --out ] || own=${own}s
	refused "'$flag' behind -- would be that of all runs: give $own in front of it" c.json -- --steps 3 $flag 1
	refused "'$flag' behind -- would be that of all runs: give $own in front of it" c.json -- $flag=1
done
for bad in "0 -1" "0 x" '' ' ' "0,nan" "1e999" "0x1"; do
	word=$(echo "$bad" | tr , ' ')
	word=${word##* }
	[ "$word" != 1e999 ] || word=inf
	refused "--lambdas wants numbers, 0 or more, not '$word'" --lambdas "$bad" c.json
done
for bad in "0 -1" "1 1.5" '' "1e3" "0 x"; do refused "--seeds wants whole numbers, 0 or more, not '${bad##* }'" --seeds "$bad" c.json; done

# the gate: a warm start that says nothing of its vector ends the sweep before a run
seeds="0 1"
echo 0.24 >other
sweep && fail "the gate must stay shut"
grep -q "^sweep: the gate stays shut: the warm start's FVE is 0.250 (want -0.5), with another row's vector 0.240 (want 0.05 less)" err || fail "the gate says: $(cat err)"
grep -q "lambda 0.002" calls && fail "runs were made: $(cat calls)"
# Other flags before any run, or another AV of the same name: the start is made anew.
rm calls
sweep --lr 1 && fail "the gate must stay shut"
[ "$(grep -c '^eval out/start' calls)" = 2 ] || fail "the start of other flags is kept: $(cat calls)"
sweep --lr 1 && fail "the gate must stay shut"
[ "$(grep -c '^eval out/start' calls)" = 2 ] || fail "the start is not kept: $(cat calls)"
: >replaced
sweep --lr 1 && fail "the gate must stay shut"
grep -q "warm start: 'av' has another content than before: made anew" err && [ "$(grep -c '^eval out/start' calls)" = 4 ] ||
	fail "the start of another AV is kept: $(cat err calls)"
rm replaced
echo null >own
rm -r out
sweep && fail "the gate must stay shut"
[ "$(tail -n 1 err)" = "sweep: the gate stays shut: every response of the warm start failed (3 no_tags, 61 truncated): see out/start/evaluations/step-0/rows.jsonl" ] ||
	fail "of failures the gate says: $(cat err)"
rm own
echo -0.5 >other
rm -r out calls
code=0
sh "$SOURCE_DIR/scripts/sweep.sh" --gate 0.3 --out out c.json 2>err || code=$?
[ $code = 1 ] && grep -q 'FVE is 0.250 (want 0.3)' err || fail "--gate 0.3 exits $code: $(cat err)"
rm -r out calls

echo 0.002 1 >broken
sweep && fail "a failed run must make it exit 1"
[ "$(grep -c ^train calls)" = 5 ] || fail "it must continue after a failure: $(cat calls)"
[ "$(grep -c ^eval calls)" = 5 ] || fail "the start, twice, and three runs can be evaluated: $(cat calls)"
grep -q "out of luck" err && grep -q "failed: lambda-0.002-seed-1" err || fail "the failure is not named: $(cat err)"
grep -qx 'train --lambda 0 --seed 0 --steps 3 --steps 0 --out out/start --resume c.json' calls || fail "call for the start: $(cat calls)"
grep -qx 'train --lambda 0 --seed 0 --update.micro_batch 16 --steps 3 --out out/lambda-0-seed-0 --resume c.json' calls ||
	fail "call of nla-train: $(cat calls)"
grep -qx 'eval out/lambda-0-seed-0 --overwrite --seed 0 --eval.samples 1' calls || fail "call of nla-eval: $(cat calls)"
grep -qx 'eval out/start --overwrite --seed 0 --name another --eval.samples 1 --eval.vectors another --eval.logprob false --eval.recovered_kl false' calls || fail "call for the gate: $(cat calls)"
grep -qx 'controls out/lambda-0.002-seed-0 --base out/lambda-0-seed-0' calls && grep -qx 'controls out/start' calls || fail "controls: $(cat calls)"
[ "$(grep -c ^controls calls)" = 4 ] || fail "controls of what was not evaluated: $(cat calls)"
[ "$(tail -n 1 calls)" = "report out -o out/report.html --markdown out/table.md --figures out/figures" ] || fail "no report: $(cat calls)"
[ "$(cat table)" = "$(cat out/*/evaluations/*/summary.json | cksum)" ] || fail "the first table is printed, not: $(cat table)"

# A later call's seeds are of the lambdas that are there, and its lambdas are compared with the smallest of them.
cp -r out more
rm broken calls more/lambdas # as before there was that file
sh "$SOURCE_DIR/scripts/sweep.sh" --seeds 2 --out more c.json -- --steps 3 >table 2>err || fail "another seed: $(cat err)"
[ "$(echo more/*-seed-2)" = "more/lambda-0-seed-2 more/lambda-0.002-seed-2" ] || fail "another seed has other lambdas: $(ls more)"
sh "$SOURCE_DIR/scripts/sweep.sh" --lambdas 0.004 --out more c.json -- --steps 3 >table 2>err || fail "another lambda: $(cat err)"
grep -qx 'controls more/lambda-0.004-seed-0 --base more/lambda-0-seed-0' calls || fail "another lambda's base: $(cat calls)"
sh "$SOURCE_DIR/scripts/sweep.sh" --lambdas "0.004 0.002" --seeds 5 --out more c.json -- --steps 3 >table 2>err || fail "without the smallest: $(cat err)"
grep -qx 'controls more/lambda-0.004-seed-5 --base more/lambda-0.002-seed-5' calls || fail "the smallest that has a run: $(cat calls)"
[ "$(tr '\n' ' ' <more/lambdas)" = "0 0.002 0.004 " ] || fail "lambdas: $(cat more/lambdas)"
rm -r more
echo 0.002 1 >broken

# A base that failed takes no other's controls with it.
echo 0 1 >broken
sh "$SOURCE_DIR/scripts/sweep.sh" --seeds 1 --lambdas "$lambdas" --out baseless c.json >table 2>err && fail "a failed base must make it exit 1"
grep -qx 'controls baseless/lambda-0.002-seed-1' calls || fail "controls without a base: $(cat calls)"
rm -r baseless
echo 0.002 1 >broken

# every row failed: no FVE, and done all the same
cp -r out hopeless
sed -i 's/"fve_se": 0.03/"fve_se": null/; s/"fve": [^,]*/"fve": null/; s/"fve_meannorm":0.2/"fve_meannorm": null/' hopeless/lambda-0.002-seed-0/evaluations/step-3/summary.json
mv out kept && mv hopeless out
seeds=0 lambdas="0.0 2e-3 0 0.002" # the same two, in other spellings
rm calls
sweep || fail "a run whose rows all failed is finished: $(cat err)"
[ "$(grep -c ^controls calls)" = 3 ] || fail "a lambda that is named twice has two runs: $(cat calls)"
[ "$(ls -d out/lambda-*-seed-0 | wc -l)" -eq 2 ] || fail "another spelling of a lambda is another run: $(ls out)"
seeds="0 1" lambdas="0 0.002"
rm -r out && mv kept out

# without held-out rows there is nothing to evaluate
: >held
sh "$SOURCE_DIR/scripts/sweep.sh" --lambdas 0 --out unset c.json >table 2>err && fail "held-out rows are needed"
grep -q "'eval.data' is not set" err || fail "eval.data is not named: $(cat err)"
echo held >held

rm broken calls
rm -r out/lambda-0.002-seed-0
stops() { # CODE: with which it ends, and with the command that continues it
	want=$1 code=0
	sweep || code=$?
	[ "$code" = "$want" ] || fail "stopped: exits $code, want $want: $(cat err)"
	[ "$(tail -n 1 err)" = "sweep: stopped: 2 of 4 runs are done; to continue: $SOURCE_DIR/scripts/sweep.sh --seeds '0 1' --lambdas '0 0.002' --out out c.json -- --steps 3" ] ||
		fail "the last line is: $(tail -n 1 err)"
}
for code in 3 130; do # a run that a signal stopped, and one that it ended at once
	echo $code >stopped
	stops $code
done
echo 134 >stopped # one that crashed, by an assertion
sweep && fail "a crash is a failure"
grep -q "failed: lambda-0.002-seed-0$" err || fail "it must continue after a crash: $(cat err)"
rm stopped
rm -r out/lambda-0.002-seed-0 out/lambda-0.002-seed-1
for signal in TERM USR1; do
	echo $signal >signalled
	stops 3
	[ "$(tail -n 1 calls)" = "passed on" ] || fail "$signal did not reach nla-train"
done
rm signalled
echo USR1 >evaluating # the work is saved there, too: a job of Slurm is to be queued again
stops 3
rm -r evaluating calls out/lambda-0.002-seed-0
# What an earlier, killed sweep left at work, until the next one says that it waits for it.
: >err
flock out/lock sh -c 'touch locked; for i in $(seq 600); do ! grep -q "another call is at work" err || break; sleep 0.1; done; rm locked' &
until [ -e locked ]; do sleep 0.01; done
sweep || fail "the second call must finish: $(cat err)"
[ "$(grep -c '^train.*out/lambda' calls)" = 2 ] || fail "two runs are left to do: $(cat calls)"
grep -q '^train --lambda 0 --seed 0 --steps 3 --steps 0 --out out/start' calls || fail "the start is not compared: $(cat calls)"
grep -q "^sweep: another call is at work in 'out', or programs of one that was killed: waiting for it" err && [ ! -e locked ] || fail "not waited for: $(cat err)"
[ "$(grep -c ^eval calls)" = 2 ] || fail "finished evaluations are kept: $(cat calls)"
cp table plain

# Settings of a call that failed before any run began bind no other.
mkdir -p typo/start
: >typo/start/train.log
printf 'other settings\n' >typo/settings
sh "$SOURCE_DIR/scripts/sweep.sh" --lambdas 0 --seeds 0 --gate off --out typo c.json >table 2>err || fail "after a call that failed at once: $(cat err)"
rm -r typo

rm calls
: >replaced
code=0
sh "$SOURCE_DIR/scripts/sweep.sh" --seeds "2" --lambdas 0 --out out c.json -- --steps 3 2>err || code=$?
[ $code = 1 ] && grep -qx "sweep: 'av' has another content than 'out' began with: give another --out" err && [ ! -e out/lambda-0-seed-2 ] ||
	fail "a run of another AV exits $code: $(cat err)"
rm replaced calls
sweep || fail "a third call: $(cat err)"
! grep -q '^train\|^eval' calls || fail "nothing was left to do: $(cat calls)"
set +e
sweep --lr 1
[ $? = 2 ] || fail "other flags in the same folder must be refused"
echo '{"steps": 1}' >c.json
sweep
[ $? = 2 ] || fail "another configuration in the same folder must be refused"
echo '{}' >c.json
set -e

# Words as people have them: lines, commas, twice the same, a backslash; the second call finds the first one's settings.
cp -r out kept
for call in first second; do
	rm -f calls
	sh "$SOURCE_DIR/scripts/sweep.sh" --seeds "$(printf '0\n1\n0')" --lambdas 0,0.002,0 --out 'words\t' c.json -- --chat.system 'a\nb' >table 2>err ||
		fail "the $call call with odd words: $(cat err)"
done
[ "$(cd 'words\t' && printf '%s\n' lambda-*)" = "$(cd kept && printf '%s\n' lambda-*)" ] || fail "runs: $(ls -d words*/*)"
sh "$SOURCE_DIR/scripts/sweep.sh" --out 'words\t' c.json -- --lr 'a\nb' 2>err && fail "other flags were taken"
grep -Fq "sweep: 'words\t' holds runs of another configuration or other flags (those of 'words\t/settings'): give another --out; where" err || fail "it says: $(cat err)"
rm -r 'words\t' kept

# several at once: a card each, or slots that share the cores; a line says what runs
mkdir path
printf '#!/bin/sh\necho "GPU 0: NVIDIA (UUID: x)"\necho "GPU 1: NVIDIA (UUID: y)"\n' >path/nvidia-smi
chmod +x path/nvidia-smi
rm -rf out devices
echo 2 >together
PATH=$work/path:$PATH sweep || fail "over two cards: $(cat err)"
[ "$(cut -d' ' -f5- devices | sort | uniq -c | tr -s ' ')" = " 2 card 0
 2 card 1" ] || fail "cards: $(cat devices)"
cmp table plain
rm -rf out devices together work-*
echo 2 >together # a flag goes over the file
echo '{"device": "cpu"}' >c.json
PATH=$work/path:$PATH sweep --device cuda || fail "over two cards by a flag: $(cat err)"
[ "$(cut -d' ' -f5- devices | sort | uniq -c | tr -s ' ')" = " 2 card 0
 2 card 1" ] || fail "cards by a flag: $(cat devices)"
echo '{}' >c.json
rm -rf out devices together work-*
PATH=$work/path:$PATH sweep --device cuda:1 || fail "on the card that is named: $(cat err)"
[ "$(cut -d' ' -f5- devices | sort -u)" = "card " ] || fail "a card of its own beside cuda:1: $(cat devices)"
rm -rf out devices
touch watched
sh "$SOURCE_DIR/scripts/sweep.sh" --slots 3 --every 0 --seeds "$seeds" --lambdas "$lambdas" --out out c.json -- --device cpu >table 2>err || fail "three slots: $(cat err)"
grep -q "^0 0 threads $(($(nproc) > 3 ? $(nproc) / 3 : 1)) card" devices || fail "threads of a slot: $(cat devices)"
[ "$(cat gate-threads)" = "$(nproc)" ] || fail "threads of the gate: $(cat gate-threads)"
grep -Eq '^sweep: 0 of 4 runs done; lambda [0-9.]+ seed [01] (0|30) %, ' err || fail "no line of what runs: $(head -n 20 err)"
grep -Eq '^sweep: [1-4] of 4 runs done.* min left, until .* [0-9][0-9]:[0-9][0-9]$' err || fail "no time left: $(head -n 20 err)"
grep -q '^sweep: 0 of 4 runs done; the warm start' err && grep -q '^sweep: 4 of 4 runs done; .*controls of lambda [0-9.]* seed [01]' err ||
	fail "no line of the gate or of the controls: $(cat err)"
cmp table plain
rm watched

# Together: one call a seed, then what a sweep finds trained
rm -rf out calls
sh "$SOURCE_DIR/scripts/sweep.sh" --together --seeds "$seeds" --lambdas "$lambdas" --out out c.json -- --steps 3 >table 2>err || fail "--together: $(cat err)"
for seed in $seeds; do
	grep -qx "train --lambda 0,0.002 --seed $seed --update.micro_batch 16 --steps 3 --out out --resume c.json" calls || fail "--together calls: $(cat calls)"
done
[ "$(grep -c ^train calls)" = 3 ] || fail "the start and one call a seed: $(cat calls)"
[ "$(grep -c ^eval calls)" = 6 ] || fail "evaluations: $(cat calls)"
code=0
sh "$SOURCE_DIR/scripts/sweep.sh" --together --part 1 c.json 2>err || code=$?
[ $code = 2 ] && grep -q 'leave --slurm and --part away' err || fail "--together --part exits $code: $(cat err)"

# Slurm: the gate, an array, the rest; the stand-in does at once what a job would
cat >path/sbatch <<'SH'
#!/bin/sh
echo "sbatch $*" >>calls
array=0-0 words=
for word; do case $word in --array=*) array=${word#--array=} ;; --*) ;; *) words="$words $word" ;; esac; done
export SLURM_JOB_ID=$((100 + $(grep -c ^sbatch calls)))
for i in $(seq ${array%-*} ${array#*-}); do
	case $* in *--array*) export SLURM_ARRAY_TASK_ID=$i ;; esac
	sh $words >>jobs 2>&1 || echo "exit $?" >>jobs
done
echo "$SLURM_JOB_ID;cluster"
SH
printf '#!/bin/sh\necho "scontrol $*" >>calls\n' >path/scontrol
chmod +x path/*
rm -rf out calls
echo 3 >stopped
PATH=$work/path:$PATH sh "$SOURCE_DIR/scripts/sweep.sh" --slurm "--gres=gpu:1 --time=1:00:00" --seeds "$seeds" --lambdas "$lambdas" --out out c.json -- --steps 3 2>err ||
	fail "--slurm: $(cat err)"
sed -i "s,$work/,," calls
grep -q '^sbatch --parsable --gres=gpu:1 --time=1:00:00 out/sweep.sbatch 0$' calls &&
	grep -q '^sbatch --parsable --dependency=afterok:101 --kill-on-invalid-dep=yes --array=1-4 --gres=gpu:1 --time=1:00:00 out/sweep.sbatch$' calls &&
	grep -q '^sbatch --parsable --dependency=afterany:102 --gres=gpu:1 --time=1:00:00 out/sweep.sbatch$' calls || fail "submitted: $(grep ^sbatch calls)"
[ "$(grep -c '^scontrol requeue 102$' calls)" = 1 ] || fail "a stopped run is queued again: $(cat calls)"
(cd "$work" && PATH=$work/path:$PATH sh "$SOURCE_DIR/scripts/sweep.sh" --slurm "" --seeds "$seeds" --lambdas "$lambdas" --out out c.json -- --steps 3 2>said) || fail "--slurm '': $(cat said)"
grep -q '^sweep: submitted: ' said || fail "--slurm '' makes no jobs: $(cat said)"
grep -q "submitted: the gate as job 101, 4 runs as 102, controls, table and report as 103" err || fail "--slurm says: $(cat err)"
[ "$(grep -c '^train.*out/start' calls)" = 1 ] || fail "the gate is done once: $(cat calls)"
rm stopped
sh out/sweep.sbatch >table 2>>jobs || fail "the last job: $(cat jobs)"
cmp table plain
echo "ok"
