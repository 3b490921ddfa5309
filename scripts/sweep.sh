#!/bin/sh
# sweep.sh - one training run and one evaluation for every length penalty and seed, and the table of FVE against tokens.
#
#	scripts/sweep.sh [--seeds "0 1 2"] [--lambdas "0 0.001 ..."] [--out runs/sweep] config.json [-- nla-train flags]
#
# Writes OUT/lambda-L-seed-S/ (the run folder, and eval/ inside), OUT/table.md, and OUT/curve.png where gnuplot is installed.
# Call it again after an interruption or a failure: finished evaluations are kept, an unfinished run continues from its newest
# checkpoint. More seeds or lambdas may be added later; another configuration or other flags need another OUT, because a table
# must not mix them. Programs come from $NLA_BUILD, else build/, else the PATH.
#
# Exit 0: all done; 1: some run failed (named at the end; the table holds the others); 2: usage; 3: stopped by a signal, which the
# program at hand gets too, with its work saved; 128 + signal: ended at once. The last line is the command that continues it.
set -u

again=$0
for word; do
	case $word in
	'' | *[!A-Za-z0-9%+,./:=@_-]*) again="$again '$(printf %s "$word" | sed "s/'/'\\\\''/g")'" ;;
	*) again="$again $word" ;;
	esac
done

seeds='0'
lambdas='0 0.001 0.002 0.006 0.015 0.03'
out=runs/sweep
config=
root=$(cd "$(dirname "$0")/.." && pwd)

usage_error() { echo "sweep: $*" >&2; exit 2; }

while [ $# -gt 0 ]; do
	case $1 in
	--seeds | --lambdas | --out)
		[ $# -ge 2 ] || usage_error "$1 needs a value"
		case $1 in
		--seeds) seeds=$2 ;;
		--lambdas) lambdas=$2 ;;
		--out) out=$2 ;;
		esac
		shift ;;
	-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
	--) shift; break ;;
	-*) usage_error "unknown option '$1' (flags for nla-train follow --)" ;;
	*) [ -z "$config" ] || usage_error "two configurations: '$config' and '$1'"; config=$1 ;;
	esac
	shift
done
[ -n "$config" ] || usage_error "a configuration file is needed (--help)"
[ -r "$config" ] || usage_error "cannot read '$config'"

program() { # NAME: its path
	for folder in ${NLA_BUILD:+"$NLA_BUILD"} "$root/build"; do
		if [ -x "$folder/$1" ]; then
			echo "$folder/$1"
			return
		fi
	done
	command -v "$1" || { echo "sweep: no program '$1' in '$root/build' or on the PATH: run scripts/setup.sh" >&2; exit 1; }
}
train=$(program nla-train) || exit 1
evaluate=$(program nla-eval) || exit 1

mkdir -p "$out" || exit 1
settings="$(cksum <"$config") $*"
if [ -e "$out/settings" ] && [ "$(cat "$out/settings")" != "$settings" ]; then
	usage_error "'$out' holds runs of another configuration or other flags: give another --out"
fi
if [ ! -e "$out/settings" ]; then # whole or not at all: other jobs may be reading
	echo "$settings" >"$out/settings.$$" && mv "$out/settings.$$" "$out/settings" || exit 1
fi

exec 3>&2 # for what is said while a program writes to its log
stopped() { # CODE
	echo "sweep: stopped: $done_now of $wanted runs are done; to continue: $again" >&3
	exit "$1"
}

# Runs a program in the background, so that a signal to this script alone reaches it too; where one stopped it, the sweep ends.
child=
run() { # PROGRAM ...
	"$@" 3>&- &
	child=$!
	wait "$child" && code=0 || code=$?
	child=
	case $code in 3 | 129 | 130 | 138 | 140 | 143) stopped "$code" ;; esac # HUP, INT, USR1, USR2, TERM; what crashed is a failure
	return "$code"
}
pass_on() {
	code=3
	[ -z "$child" ] || kill -TERM "$child" 2>/dev/null
	while [ -n "$child" ] && kill -0 "$child" 2>/dev/null; do
		wait "$child" && code=3 || code=$?
	done
	stopped "$([ "$code" -gt 128 ] && echo "$code" || echo 3)"
}
trap pass_on INT TERM USR1 USR2 HUP

number() { # KEY FILE: the number at that key, or nan
	awk -v key="\"$1\"" '{ text = text $0 " " } END {
		if (!match(text, key "[ \t]*:[ \t]*-?[0-9][-+0-9.eE]*")) { print "nan"; exit }
		value = substr(text, RSTART, RLENGTH); sub(/^"[^"]*"[ \t]*:[ \t]*/, "", value); print value }' "$2"
}

finished() { # RUN: its summary is there; where every row failed it has no FVE
	[ -s "$1/eval/summary.json" ] || return 1
	for key in response_tokens failed_rate; do
		[ "$(number $key "$1/eval/summary.json")" != nan ] || return 1
	done
}

held_out() { # RUN: it has rows of its own to be evaluated on
	! sed -n '/"eval": *{/,/}/p' "$1/config.json" | grep -q '"data": *""'
}

last_line() { tail -n 1 "$1" 2>/dev/null; }

left() { # how long the runs that are left will take, from those that this start made
	[ "$made" -gt 0 ] || return 0
	seconds=$((($(date +%s) - began) * (unmade - made) / made))
	[ $seconds -lt 7200 ] && time="$((seconds / 60)) min" || time="$((seconds / 3600)) h $((seconds / 60 % 60)) min"
	echo ", $time left, until $(date -d "@$(($(date +%s) + seconds))" '+%a %H:%M')"
}

# A run counts as trained once nla-train has said so, by its code and then the file `trained`; nla-eval writes its summary whole and last.
one_run() { # LAMBDA SEED RUN [flags]: 0 when its evaluation stands
	lambda=$1 seed=$2 run=$3
	shift 3
	if finished "$run"; then
		echo "sweep: lambda $lambda seed $seed: already done" >&2
		return 0
	fi
	mkdir -p "$run" || return 1
	if [ ! -e "$run/trained" ]; then
		echo "sweep: lambda $lambda seed $seed: training (run $((done_now + 1)) of $wanted$(left)), see $run/train.log" >&2
		if ! run "$train" --lambda "$lambda" --seed "$seed" --out "$run" --resume "$@" "$config" >>"$run/train.log" 2>&1; then
			echo "sweep: lambda $lambda seed $seed: nla-train failed: $(last_line "$run/train.log")" >&2
			return 1
		fi
		: >"$run/trained"
	fi
	if ! held_out "$run"; then
		echo "sweep: lambda $lambda seed $seed: 'eval.data' is not set: no held-out rows to evaluate on" >&2
		return 1
	fi
	echo "sweep: lambda $lambda seed $seed: evaluating" >&2
	if ! run "$evaluate" --overwrite --av "$run/checkpoints/latest/av" --ar "$run/checkpoints/latest/ar" --out "$run/eval" --seed 0 "$run/config.json" \
		>"$run/eval.log" 2>&1; then
		echo "sweep: lambda $lambda seed $seed: nla-eval failed: $(last_line "$run/eval.log")" >&2
		return 1
	fi
	if ! finished "$run"; then
		echo "sweep: lambda $lambda seed $seed: '$run/eval/summary.json' has no number of tokens or failures" >&2
		return 1
	fi
}

failures= wanted=0 unmade=0 made=0 done_now=0 began=$(date +%s)
for seed in $seeds; do
	for lambda in $lambdas; do
		wanted=$((wanted + 1))
		finished "$out/lambda-$lambda-seed-$seed" || unmade=$((unmade + 1))
	done
done
for seed in $seeds; do
	for lambda in $lambdas; do
		run=$out/lambda-$lambda-seed-$seed new=1
		! finished "$run" || new=0
		one_run "$lambda" "$seed" "$run" "$@" || failures="$failures lambda-$lambda-seed-$seed"
		made=$((made + new)) done_now=$((done_now + 1))
	done
done

# One line a finished run: lambda, response tokens, fve, fve_meannorm, failed_rate, and the first three's errors over rows.
# Both FVEs are 1 - mse / baseline with a fixed baseline, so the error of the second follows from the first's.
for lambda in $lambdas; do
	for seed in $seeds; do
		summary=$out/lambda-$lambda-seed-$seed/eval/summary.json
		finished "$out/lambda-$lambda-seed-$seed" || continue
		line=$lambda
		for key in response_tokens fve fve_meannorm failed_rate response_tokens_se fve_se; do
			line="$line $(number $key "$summary")"
		done
		echo "$line"
	done
done >"$out/runs.dat"

# Over seeds: mean and standard error; of a single seed: the standard error over rows, or nan where nla-eval gave none.
awk '
	function spread(sum, squares, n, v) { v = (squares - sum * sum / n) / (n - 1); return v > 0 ? sqrt(v / n) : 0 }
	{
		if (!($1 in n)) order[++lambdas] = $1
		n[$1]++
		for (i = 2; i <= 5; i++)
			if ($i != "nan") { known[$1, i]++; sum[$1, i] += $i; squares[$1, i] += $i * $i }
		row_error[$1, 2] = $6
		row_error[$1, 3] = $7
		row_error[$1, 4] = $7 == "nan" || $3 == 1 ? "nan" : $7 * (1 - $4) / (1 - $3)
	}
	END {
		for (k = 1; k <= lambdas; k++) {
			l = order[k]
			printf "%s %d", l, n[l]
			for (i = 2; i <= 4; i++) {
				if (!known[l, i]) { printf " nan nan"; continue } # every row of every seed failed
				error = known[l, i] > 1 ? spread(sum[l, i], squares[l, i], known[l, i]) : row_error[l, i]
				printf " %.6f %s", sum[l, i] / known[l, i], error
			}
			printf " %.6f\n", sum[l, 5] / n[l]
		}
	}' "$out/runs.dat" >"$out/curve.dat"

awk '
	function cell(digits, mean, error, format) {
		format = "%." digits "f"
		if (mean == "nan") return "–"
		return sprintf(format, mean) (error == "nan" ? "" : " ± " sprintf(format, error))
	}
	BEGIN {
		print "| lambda | seeds | response tokens | FVE (raw variance) | FVE (mean-normalised) | failures |"
		print "|---|---|---|---|---|---|"
	}
	{ printf "| %s | %d | %s | %s | %s | %.1f %% |\n", $1, $2, cell(1, $3, $4), cell(3, $5, $6), cell(3, $7, $8), 100 * $9 }
' "$out/curve.dat" >"$out/table.md"
cat "$out/table.md"

if [ -s "$out/curve.dat" ] && command -v gnuplot >/dev/null 2>&1; then
	gnuplot >"$out/gnuplot.log" 2>&1 <<-PLOT || echo "sweep: no curve: gnuplot says: $(last_line "$out/gnuplot.log")" >&2
		set encoding utf8
		set terminal pngcairo size 900,600 font "sans,12"
		set output "$out/curve.png"
		set xlabel "response tokens"
		set ylabel "fraction of variance explained"
		set key bottom right
		set grid
		set offsets graph 0.08, graph 0.08, graph 0.08, graph 0.08
		plot "$out/curve.dat" using 3:5:4:6 with xyerrorbars linetype 1 notitle, \
			"" using 3:5 with linespoints linetype 1 pointtype 7 title "raw variance", \
			"" using 3:7:4:8 with xyerrorbars linetype 2 notitle, \
			"" using 3:7 with linespoints linetype 2 pointtype 5 title "mean-normalised", \
			"" using 3:5:(sprintf(" λ %s", strcol(1))) with labels left offset 0.4,-0.7 font "sans,9" notitle
	PLOT
fi

if [ -n "$failures" ]; then
	echo "sweep: failed:$failures" >&2
	exit 1
fi
