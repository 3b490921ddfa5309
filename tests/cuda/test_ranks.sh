# Two ranks on the fake CUDA: the verbalizer's gradients go through NCCL, on the device, one sum a step, and one before the
# memory plan, since NCCL's own memory is in none. No response closes there, so the reconstructor has nothing to train on.
. "${SOURCE_DIR:?}/tests/cuda/cuda.sh"
code=0
FAKE_CUDA_SAY=$work/counts timeout 300 "$SOURCE_DIR/scripts/launch.sh" -n 2 env LD_PRELOAD="$FAKE_CUDA/libcudart.so.13" \
	LD_LIBRARY_PATH="$FAKE_CUDA:$LIBTORCH" "$BUILD_DIR/nla-train" --threads 1 --device cuda "$SOURCE_DIR/demo/config.json" --steps 3 \
	--prompts 2 --group 4 --max-new-tokens 8 --eval.rows 4 --ar_update.enabled true --out "$work/run" >"$work/stdout" 2>"$work/stderr" || code=$?
[ "$code" -eq 0 ] || fail "two ranks exit $code: $(tail -n 3 "$work/stderr")"
python3 - "$work/counts" "$work/run/metrics.jsonl" <<'END'
import json, sys

counts, steps = ([json.loads(line) for line in open(path)] for path in sys.argv[1:])
assert len(counts) == 2 and len(steps) == 3, (counts, steps)
assert steps[0]["ar_loss"] is None
assert all(c["sums"] == 3 + 1 and c["refused"] == 0 for c in counts), counts
END
