# The memory plan of Qwen3-8B against what libtorch's own caching allocator takes: a whole step on cards of 24 and 80 GB, of 8 x 4 and
# of 16 x 16 responses of 160 tokens. The weights are holes in a file.
. "${SOURCE_DIR:?}/tests/cuda/cuda.sh"
python3 "$SOURCE_DIR/scripts/make-shape.py" --out "$work/shape" --sparse
cd "$work"

step() { # GB PROMPTS GROUP: the peak of a step against the plan less its head room
	FAKE_CUDA_GB=$1 on_cuda nla-train shape/config.json --prompts "$2" --group "$3" --max-new-tokens 160 --steps 1 \
		--checkpoint.every 0 --out "run.$1.$2"
	grep -q '"graphs": [1-9]' counts || fail "no graph fits into $1 GB"
	python3 - "run.$1.$2" "$@" <<'END'
import json, re, sys
total, room = map(float, re.search(r"memory plan: ([0-9.]+) of [0-9.]+ GiB, ([0-9.]+) of it head room", open(sys.argv[1] + "/log.txt").read()).groups())
peak = json.loads(open(sys.argv[1] + "/metrics.jsonl").readlines()[-1])["peak_memory_bytes"] / 2**30
ratio = peak / (total - room)
print(f"{sys.argv[2]} GB, {sys.argv[3]} x {sys.argv[4]}: planned {total - room:.2f} GiB without head room, peak {peak:.2f}, ratio {ratio:.4f}")
sys.exit(not 0.98 <= ratio <= 1.02)
END
}
for gb in 24 80; do
	step $gb 8 4
	step $gb 16 16
done
