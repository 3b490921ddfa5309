#!/bin/sh
# fuzz.sh TARGET [SECONDS [FLAG...]]: clang's libFuzzer on a target of fuzz.c, from the corpus and what former runs of it have found.
#
# Needs BUILD_DIR, where `cmake --build BUILD_DIR --target fuzzer` has built it. What fails stays as BUILD_DIR/tests/fuzz/TARGET-*; that
# file belongs into corpus/TARGET, with the mend.
set -eu
target=$1 seconds=${2:-5} dir=$BUILD_DIR/tests/fuzz
shift $(($# < 2 ? $# : 2))
[ -x "$dir/fuzzer" ] || { echo "no fuzzing: there is no clang with libFuzzer"; exit 77; }
mkdir -p "$dir/found/$target"
[ -d "$dir/corpus/$target" ] || sh "$(dirname "$0")/corpus.sh" "$dir/corpus"
ln -sf fuzzer "$dir/$target"
export OMP_NUM_THREADS=1 ASAN_OPTIONS="${ASAN_OPTIONS-malloc_context_size=2:quarantine_size_mb=8}" # several times the executions a second
exec "$dir/$target" -max_total_time="$seconds" -error_exitcode=1 -timeout=60 -malloc_limit_mb=1024 -rss_limit_mb=4096 -close_fd_mask=2 -print_final_stats=1 \
	-artifact_prefix="$dir/$target-" "$@" "$dir/found/$target" "$dir/corpus/$target"
