# For the scripts of the label cuda: the real programs on the fake CUDA (tests/fake_cuda) with libtorch's own CUDA code above it.
#
#	on_cuda nla-train ...     must exit 0; stdout, stderr as for ok; $work/counts: launches, products, waits, ... as one line of JSON
. "${SOURCE_DIR:?}/tests/command/lib.sh"
[ -e "${FAKE_CUDA:?}/libcudart.so.13" ] || skip "no fake CUDA was built: this libtorch has no libtorch_cuda.so"

cuda_run() {
	program=$1
	shift
	code=0
	rm -f "$work/counts"
	FAKE_CUDA_SAY=$work/counts LD_PRELOAD=$FAKE_CUDA/libcudart.so.13 LD_LIBRARY_PATH=$FAKE_CUDA:$LIBTORCH \
		"$BUILD_DIR/$program" --threads 1 --device cuda "$@" >"$work/stdout" 2>"$work/stderr" || code=$?
}

on_cuda() {
	cuda_run "$@"
	[ "$code" -eq 0 ] || fail "$* exits $code: $(tail -n 3 "$work/stderr")"
	[ -s "$work/counts" ] || fail "$*: nothing ran on the device"
}
