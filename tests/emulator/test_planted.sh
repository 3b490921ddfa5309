# A missing barrier shows: test_kernels is built with each barrier of shim/kernels.cu left out in turn, and must fail.
set -eu
work=$(mktemp -d "${TMPDIR:-/tmp}/nla-planted.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/shim"
lines=$(grep -n '__syncthreads();' "$SOURCE_DIR/shim/kernels.cu" | cut -d : -f 1)
[ -n "$lines" ]
for line in $lines; do
	sed "${line}s/__syncthreads();//" "$SOURCE_DIR/shim/kernels.cu" >"$work/shim/kernels.cu"
	"$CXX" -std=c++20 -O1 -I"$work" -I"$SOURCE_DIR" "$SOURCE_DIR/tests/emulator/test_kernels.cpp" -o "$work/test"
	! "$work/test" >"$work/out" || { echo "FAIL: nothing shows without the barrier of line $line"; exit 1; }
	echo "line $line: $(tail -n 1 "$work/out")"
done
