#!/usr/bin/env bash
# demo.sh - from a bare machine to a trained NLA: installs what is missing, builds, and runs the main job on the embedded demo.
#
#	scripts/demo.sh [--out DIR] [nla-train flags, such as --lambda 0 or --steps 50]
#
# A verbalizer of a 1.4-million-parameter model learns by GRPO to say the same with fewer tokens. A line a step goes to stderr; the
# table before/after, on held-out rows, and three explanations before and after stand at the end. The run folder is OUT
# (default runs/demo; an earlier one of that name is replaced).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/runs/demo
flags=()
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
	--out=*) out=${1#*=} ;;
	--out) out=${2:?--out needs a folder}; shift ;;
	*) flags+=("$1") ;;
	esac
	shift
done

# shellcheck source=scripts/setup.sh
. "$root/scripts/setup.sh"

mkdir -p "$(dirname "$out")"
started=$(date +%s)
"$NLA_BUILD/nla-train" "$root/demo/config.json" --out "$out" --overwrite "${flags[@]}"
echo
echo "Trained in $(($(date +%s) - started)) s. Run folder: $out. Next, a model of your own: $root/docs/your-model.md"
if command -v gnuplot >/dev/null 2>&1 && "$root/scripts/plot-run.sh" "$out"; then
	echo "Picture of the run: $out/run.png"
fi
echo "Explain a held-out row with it:  $NLA_BUILD/nla-explain $out --row 7"
