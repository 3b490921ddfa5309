# A missing barrier shows: test_kernels is built with each barrier of the kernels left out in turn, and must fail.
set -eu
work=$(mktemp -d "${TMPDIR:-/tmp}/nla-planted.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/shim"
cd "$SOURCE_DIR"
found=$(grep -n '__syncthreads();' shim/*.cu | cut -d : -f 1,2)
[ -n "$found" ]
cp shim/*.cu "$work/shim"
"$CXX" -std=c++20 -O1 -I"$work" -I. tests/emulator/test_kernels.cpp -o "$work/test"
"$work/test" >"$work/out" || { echo "FAIL: it fails with all its barriers: $(tail -n 1 "$work/out")"; exit 1; }
for at in $found; do
	cp shim/*.cu "$work/shim"
	sed "${at#*:}s/__syncthreads();//" "${at%:*}" >"$work/${at%:*}"
	"$CXX" -std=c++20 -O1 -I"$work" -I. tests/emulator/test_kernels.cpp -o "$work/test"
	! "$work/test" >"$work/out" || { echo "FAIL: nothing shows without the barrier of $at"; exit 1; }
	echo "$at: $(tail -n 1 "$work/out")"
done
