#!/usr/bin/env bash
# run.sh - one RL step of nla-train against the same step as Python trainers shape it (reference_loop.py), in turn, on the demo.
#
#	bench/run.sh [--rounds 3] [--prompts 8] [--group 4] [--tokens 60] [--threads 2] [--steps 4]
#
# Both sides do equal work: every response has exactly TOKENS tokens. A round runs one program after the other (A B A B ...); the
# first step of each run is left out (warm-up). Prints seconds by stage, medians over all steps, and the ratio of each round's
# median steps with its spread. Needs scripts/setup.sh --reference, and a machine with nothing else to do.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
rounds=3 prompts=8 group=4 tokens=60 threads=2 steps=4
while [ $# -gt 0 ]; do
	case $1 in
	--rounds) rounds=$2 ;;
	--prompts) prompts=$2 ;;
	--group) group=$2 ;;
	--tokens) tokens=$2 ;;
	--threads) threads=$2 ;;
	--steps) steps=$2 ;;
	*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 2 ;;
	esac
	shift 2
done
# shellcheck source=scripts/setup.sh
. "$root/scripts/setup.sh"
[ -x "$NLA_REFERENCE" ] || { echo "bench: there is no reference environment: run scripts/setup.sh --reference" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
demo=$root/demo

for round in $(seq "$rounds"); do
	echo "round $round of $rounds" >&2
	"$NLA_BUILD/nla-train" "$demo/config.json" --eval.data= --out "$work/ours-$round" --steps "$steps" --prompts "$prompts" \
		--group "$group" --max-new-tokens "$tokens" --rollout.min_new_tokens "$tokens" --threads "$threads" \
		--checkpoint.every 0 2>/dev/null
	cp "$work/ours-$round/metrics.jsonl" "$work/ours-$round.jsonl"
	"$NLA_REFERENCE" "$root/bench/reference_loop.py" --model "$demo/model" --av "$demo/av" --ar "$demo/ar" --data "$demo/train" \
		--steps "$steps" --prompts "$prompts" --group "$group" --max-new-tokens "$tokens" --min-new-tokens "$tokens" \
		--threads "$threads" >"$work/reference-$round.jsonl" 2>"$work/reference.log" || { cat "$work/reference.log" >&2; exit 1; }
done
python3 "$root/bench/compare.py" "$work" "$rounds"
