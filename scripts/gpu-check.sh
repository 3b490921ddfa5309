#!/usr/bin/env bash
# gpu-check.sh - what only a card can say, in one report to paste into an issue: OUT/gpu-check.md and gpu-check.json. Under ten minutes.
#
#	scripts/gpu-check.sh [--out DIR] [--scratch DIR] [--tokenizer DIR] [--config FILE] [--only a,b] [--minutes N] [--quick]
#
#	--out        default runs/gpu-check
#	--scratch    where 17 GB of random weights go, and are removed from at the end; default OUT
#	--tokenizer  a folder with Qwen3's tokenizer; default: the demo's stands in
#	--config     a configuration with real model, av, ar and data instead of random weights
#	--only       some of: machine tests demo repeat shape score step-8x4 step-16x16 same evaluation memory
#	--quick      16 tokens, weights of zeros, no targets: whether this script works
#
# Builds first (setup.sh), unless BUILD_DIR names a built tree. LIBTORCH_DIR is the torch/ folder of an installed wheel 2.11, for a
# machine without a package registry. Exit 0: no check failed; 1: one did, or there is no card.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
if [ -z "${BUILD_DIR:-}" ]; then
	NLA_SETUP="${NLA_SETUP:-} --tests"
	# shellcheck source=scripts/setup.sh
	. "$root/scripts/setup.sh"
	BUILD_DIR=$NLA_BUILD
fi
[ -z "${LIBTORCH_DIR:-}" ] || export LIBTORCH_DIR LD_LIBRARY_PATH="$LIBTORCH_DIR/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE # which some containers set: fp32 would not be fp32
exec env BUILD_DIR="$BUILD_DIR" python3 -B "$root/scripts/gpu-check.py" "$@"
