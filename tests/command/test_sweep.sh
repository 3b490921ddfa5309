#!/usr/bin/env bash
# sweep.sh with stand-ins for nla-train and nla-eval: what it calls, skips, resumes, survives, and the arithmetic of its table.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "FAIL: $*"; exit 1; }

mkdir bin
cat >bin/nla-train <<'SH'
#!/bin/sh
echo "train $*" >>calls
while [ $# -gt 0 ]; do case $1 in --lambda) l=$2 ;; --seed) s=$2 ;; --out) o=$2 ;; esac; shift; done
mkdir -p "$o/checkpoints/latest/av" "$o/checkpoints/latest/ar"
echo '{"steps": 3}' >"$o/config.json"
if [ "$l" = 0.002 ] && [ "$s" = 0 ] && [ -e stopped ]; then exit "$(cat stopped)"; fi
if [ -e signalled ]; then # the sweep alone gets a signal, and must pass it on
	trap 'echo passed on >>calls; exit 3' TERM
	kill -"$(cat signalled)" $PPID
	while :; do sleep 0.1; done
fi
if [ "$l" = 0.002 ] && [ "$s" = 1 ] && [ -e broken ]; then echo "nla-train: error: out of luck" >&2; exit 1; fi
SH
cat >bin/nla-eval <<'SH'
#!/bin/sh
echo "eval $*" >>calls
again=
while [ $# -gt 0 ]; do case $1 in --av) av=$2 ;; --out) o=$2 ;; --overwrite) again=1 ;; esac; shift; done
[ -d "$av" ] || exit 1
[ -z "$again" ] && [ -e "$o/summary.json" ] && exit 2
mkdir -p "$o"
case $o in *lambda-0-seed-0*) f=0.6 t=100 ;; *lambda-0-seed-1*) f=0.7 t=110 ;; *seed-0*) f=0.5 t=40 ;; *) f=-1e-1 t=50 ;; esac
printf '{\n\t"fve_se": 0.03,\n\t"fve": %s,\n\t"fve_meannorm":0.2, "response_tokens": %s, "failed_rate": 0.125,\n' $f $t >"$o/summary.json"
printf '"response_tokens_se": 2.5, "rows": 64}\n' >>"$o/summary.json"
SH
chmod +x bin/*
echo '{}' >c.json
export NLA_BUILD=$work/bin
sweep() { sh "$SOURCE_DIR/scripts/sweep.sh" --seeds "$seeds" --lambdas "0 0.002" --out out c.json -- --steps 3 "$@" >table 2>err; }

touch broken
seeds="0 1"
sweep && fail "a failed run must make it exit 1"
[ "$(grep -c ^train calls)" = 4 ] || fail "it must go on after a failure: $(cat calls)"
[ "$(grep -c ^eval calls)" = 3 ] || fail "three runs can be evaluated: $(cat calls)"
grep -q "out of luck" err && grep -q "failed: lambda-0.002-seed-1" err || fail "the failure is not named: $(cat err)"
grep -qx 'train --lambda 0 --seed 0 --out out/lambda-0-seed-0 --resume --steps 3 c.json' calls || fail "call of nla-train: $(cat calls)"
grep -qx 'eval --overwrite --av out/lambda-0-seed-0/checkpoints/latest/av --ar out/lambda-0-seed-0/checkpoints/latest/ar --out out/lambda-0-seed-0/eval --seed 0 out/lambda-0-seed-0/config.json' calls ||
	fail "call of nla-eval: $(cat calls)"
# mean of .6 and .7, standard error .05; one seed: the rows' error, and .03 * (1 - .2) / (1 - .5) for the second FVE
grep -qxF '| 0 | 2 | 105.0 ± 5.0 | 0.650 ± 0.050 | 0.200 ± 0.000 | 12.5 % |' table || fail "table: $(cat table)"
grep -qxF '| 0.002 | 1 | 40.0 ± 2.5 | 0.500 ± 0.030 | 0.200 ± 0.048 | 12.5 % |' table || fail "table: $(cat table)"
cmp table out/table.md
command -v gnuplot >/dev/null && { [ -s out/curve.png ] || fail "no curve: $(cat err out/gnuplot.log)"; }

# every row failed: no FVE, and done all the same
cp -r out hopeless
sed -i 's/"fve_se": 0.03/"fve_se": null/; s/"fve": [^,]*/"fve": null/; s/"fve_meannorm":0.2/"fve_meannorm": null/' hopeless/lambda-0.002-seed-0/eval/summary.json
mv out kept && mv hopeless out
lambdas_kept=$seeds seeds=0
sweep || fail "a run whose rows all failed is finished: $(cat err)"
grep -qxF '| 0.002 | 1 | 40.0 ± 2.5 | – | – | 12.5 % |' table || fail "table: $(cat table)"
seeds=$lambdas_kept
rm -r out && mv kept out

# without held-out rows there is nothing to evaluate
sed 's/{"steps": 3}/{"steps": 3, "eval": {"data": ""}}/' bin/nla-train >bin/train && chmod +x bin/train && cp bin/nla-train bin/kept && mv bin/train bin/nla-train
sh "$SOURCE_DIR/scripts/sweep.sh" --lambdas 0 --out unset c.json >table 2>err && fail "held-out rows are needed"
grep -q "'eval.data' is not set" err || fail "eval.data is not named: $(cat err)"
mv bin/kept bin/nla-train

rm broken calls
rm -r out/lambda-0.002-seed-0
stops() { # CODE: with which it ends, and with the command that continues it
	want=$1 code=0
	sweep || code=$?
	[ "$code" = "$want" ] || fail "stopped: exits $code, want $want: $(cat err)"
	[ "$(tail -n 1 err)" = "sweep: stopped: 1 of 4 runs are done; to continue: $SOURCE_DIR/scripts/sweep.sh --seeds '0 1' --lambdas '0 0.002' --out out c.json -- --steps 3" ] ||
		fail "the last line is: $(tail -n 1 err)"
}
for code in 3 130; do # a run that a signal stopped, and one that it ended at once
	echo $code >stopped
	stops $code
done
echo 134 >stopped # one that crashed, by an assertion
sweep && fail "a crash is a failure"
grep -q "failed: lambda-0.002-seed-0$" err || fail "it must go on after a crash: $(cat err)"
rm stopped
for signal in TERM USR1; do
	echo $signal >signalled
	stops 3
	[ "$(tail -n 1 calls)" = "passed on" ] || fail "$signal did not reach nla-train"
done
rm signalled calls
rm -r out/lambda-0.002-seed-0
rm -r out/lambda-0.002-seed-1
sweep || fail "the second call must finish: $(cat err)"
grep -q 'lambda 0 seed 1: already done' err && grep -q 'lambda 0.002 seed 0: training (run 2 of 4), see' err || fail "what is done: $(cat err)"
grep -q 'lambda 0.002 seed 1: training (run 4 of 4, 0 min left, until .* [0-9][0-9]:[0-9][0-9]), see' err || fail "no time left: $(cat err)"
[ "$(grep -c . calls)" = 4 ] || fail "only two runs are left to do: $(cat calls)"
grep -qx 'train --lambda 0.002 --seed 1 --out out/lambda-0.002-seed-1 --resume --steps 3 c.json' calls || fail "no resume: $(cat calls)"
grep -qxF '| 0.002 | 2 | 45.0 ± 5.0 | 0.200 ± 0.300 | 0.200 ± 0.000 | 12.5 % |' table || fail "table: $(cat table)"

rm calls
sweep || fail "a third call: $(cat err)"
[ ! -e calls ] || fail "nothing was left to do: $(cat calls)"
set +e
sweep --lr 1
[ $? = 2 ] || fail "other flags in the same folder must be refused"
echo '{"steps": 1}' >c.json
sweep
[ $? = 2 ] || fail "another configuration in the same folder must be refused"
echo "ok"
