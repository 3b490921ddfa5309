#!/usr/bin/env bash
# test.sh - builds and runs every check: the source rules, the tests, and the unit tests again under the sanitizers.
#
#	scripts/test.sh [--fast] [-- ctest options]
#
#	--fast  leaves out the tests labelled slow
#
# Everything runs even when something fails; the last lines say what did, and the exit status is 0 only when all passed. What a
# machine cannot run (no `setup.sh --reference`, no GPU) is listed as skipped. scripts/gpu-check.sh asks more of a GPU.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

select=()
while [ $# -gt 0 ]; do
	case $1 in
	--fast) select=(-LE slow) ;;
	-h | --help) usage; exit 0 ;;
	--) shift; break ;;
	*) echo "test: unknown option '$1' (--help lists them)" >&2; exit 2 ;;
	esac
	shift
done

NLA_SETUP="${NLA_SETUP:-} --tests"
# shellcheck source=scripts/setup.sh
. scripts/setup.sh || exit 1

failed=0
report=()
check() { # TITLE COMMAND...: run, and remember the outcome with what ctest said of it
	local title=$1 log status summary skipped
	shift
	log=$(mktemp)
	echo "== $title"
	"$@" 2>&1 | tee "$log"
	status=${PIPESTATUS[0]}
	summary=$(grep -E 'tests passed, [0-9]+ tests? failed' "$log" || true)
	skipped=$(grep -cE '\*\*\*Skipped' "$log" || true)
	[ "$skipped" = 0 ] || summary="$summary, $skipped skipped"
	if [ "$status" = 0 ]; then
		report+=("passed: $title${summary:+: $summary}")
	else
		report+=("FAILED: $title${summary:+: $summary}")
		failed=1
	fi
	rm -f "$log"
}

# shellcheck disable=SC2317  # called through check
unit_sanitized() {
	cmake -S "$root" -B "$root/build-asan" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DNLA_SANITIZE=ON \
		-DLIBTORCH_DIR="$LIBTORCH_DIR" >/dev/null &&
		cmake --build "$root/build-asan" --target unit-tests &&
		ctest --test-dir "$root/build-asan" -L '^unit$' --no-tests=error --output-on-failure -j "$jobs"
}

jobs=$(nproc) # or what a container's quota leaves of them
if read -r quota period 2>/dev/null </sys/fs/cgroup/cpu.max && [ "$quota" != max ] && [ $((quota / period)) -lt "$jobs" ]; then
	jobs=$(((quota + period - 1) / period))
fi
check "source rules" bash scripts/checksrc.sh
check "tests" ctest --test-dir "$NLA_BUILD" --no-tests=error --output-on-failure -j "$jobs" "${select[@]}" "$@"
check "unit tests under the sanitizers" unit_sanitized

echo "== summary"
printf '%s\n' "${report[@]}"
exit $failed
