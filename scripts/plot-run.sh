#!/bin/sh
# plot-run.sh RUN [RUN ...]: what changed over the steps of run folders, side by side, as run.png in the first. Needs gnuplot.
#
# Of nla-train FVE and response tokens of each step's batch, of nla-sft the loss, its held-out figures and the AR's held-out FVE: a point
# a step, and the running mean of the points around it (a tenth of the run).
set -eu
awk() { LC_ALL=C command awk "$@"; } # mawk reads 0.5 as 0 where the decimal sign is a comma
die() { printf 'plot-run: %s\n' "$*" >&2; exit 1; } # dash's echo reads backslashes
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
[ $# -gt 0 ] || { echo "usage: plot-run.sh RUN [RUN ...]" >&2; exit 2; }
for run; do
	[ -r "$run/metrics.jsonl" ] || die "cannot read '$run/metrics.jsonl'"
done

# Step, value, running mean; nothing when the run has no such key.
values() { # RUN KEY
	sed -n 's/.*"step":\([0-9]*\),.*"'"$2"'":\([-0-9.e]*\)[,}].*/\1 \2/p' "$1/metrics.jsonl" | awk '
		{ step[NR] = $1; value[NR] = $2 }
		END { w = int((NR + 9) / 20)
		      for (i = 1; i <= NR; i++) {
			      sum = n = 0
			      for (j = i - w; j <= i + w; j++) if (j in step) { sum += value[j]; n++ }
			      print step[i], value[i], sum / n } }'
}

panel() { # TITLE RUNS KEY ...
	title=$1 runs=$2 lines="" colour=0
	shift 2
	for key; do
		while IFS= read -r run; do
			colour=$((colour + 1))
			file=$key.$colour
			values "$run" "$key" >"$data/$file"
			[ -s "$data/$file" ] || continue
			name=$(basename "$run" | sed "s/'/''/g") # single quotes: nothing in it is a command or an escape
			lines="$lines${lines:+, }'$file' using 1:2 with points lt $colour pt 7 ps 0.6 notitle, '$file' using 1:3 with lines \
lt $colour lw 2 title '$name $key' noenhanced"
		done <"$data/$runs"
	done
	[ -z "$lines" ] || printf 'set ylabel "%s"\nplot %s\n' "$title" "$lines" >>"$data/panels"
}

printf '%s\n' "$@" >"$data/runs"
for run; do # a step of nla-train has a loss too
	grep -q '"reward_mean"' "$run/metrics.jsonl" || printf '%s\n' "$run"
done >"$data/sft"
panel "FVE of the batch" runs fve
panel "response tokens" runs response_tokens_mean
panel "loss" sft loss held_loss held_loss_other_vector
panel "held-out FVE" runs held_fve
[ -s "$data/panels" ] || die "'$1/metrics.jsonl' has no step of nla-train or nla-sft"
n=$(grep -c '^plot' "$data/panels")
{
	printf 'set terminal pngcairo size 900,%d font "sans,11"\nset output "run.png"\nset multiplot layout %d,1\n' $((n * 380)) "$n"
	printf 'set grid\nset xlabel "step"\nset key above\n'
	cat "$data/panels"
} | (cd "$data" && gnuplot 2>said) || rm -f "$data/run.png"
[ -s "$data/run.png" ] || die "no picture: gnuplot says: $(grep . "$data/said" | tail -n 1)"
mv "$data/run.png" "$1/run.png"
