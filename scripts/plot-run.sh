#!/bin/sh
# plot-run.sh RUN: FVE and response tokens over the steps of a run folder, as RUN/run.png. Needs gnuplot.
set -eu
run=${1:?usage: plot-run.sh RUN}
[ -r "$run/metrics.jsonl" ] || { echo "plot-run: cannot read '$run/metrics.jsonl'" >&2; exit 1; }
data=$(mktemp)
trap 'rm -f "$data"' EXIT
# three numbers a line: step, fve, tokens
sed -n 's/.*"step":\([0-9]*\),.*"fve":\([-0-9.e]*\),.*"response_tokens_mean":\([0-9.e]*\),.*/\1 \2 \3/p' "$run/metrics.jsonl" >"$data"
gnuplot <<PLOT
set terminal pngcairo size 900,420 font "sans,11"
set output "$run/run.png"
set grid lc rgb "#dddddd"
set xlabel "step"
set ylabel "FVE of the batch (raw variance)"
set y2label "response tokens"
set y2tics
set ytics nomirror
set y2range [0:*]
set key below
plot "$data" using 1:2 smooth sbezier lw 2 lc rgb "#1f77b4" title "FVE", \
     "$data" using 1:3 axes x1y2 smooth sbezier lw 2 lc rgb "#d62728" title "response tokens"
PLOT
