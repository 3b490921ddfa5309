# on_card.sh PROGRAM: a test program on the first NVIDIA GPU; skipped where there is none. Its fp32 bounds are those of fp32 products:
# libtorch has no TF32 unless this variable, which some containers set, asks for it.
[ -e /dev/nvidiactl ] || [ -e /dev/dxg ] || { echo "skipped: there is no NVIDIA GPU here" >&2; exit 77; }
unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE
NLA_TEST_DEVICE=cuda exec "$1"
