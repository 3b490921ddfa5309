# What scripts/predict.py counts for a step is what a step issues on the fake CUDA: the second of two steps of the demo, in bf16, of 16
# tokens without graphs and of 40 with. Nothing is scored there, as no response closes.
. "${SOURCE_DIR:?}/tests/cuda/cuda.sh"
for tokens in 16 40; do
	for steps in 1 2; do
		on_cuda nla-train "$SOURCE_DIR/demo/config.json" --steps $steps --prompts 2 --group 4 --max-new-tokens $tokens \
			--checkpoint.every 0 --eval.data '' --log.samples 0 --out "$work/run" --overwrite true
		mv "$work/counts" "$work/counts.$steps"
	done
	python3 -B "$SOURCE_DIR/scripts/predict.py" --json --config "$SOURCE_DIR/demo/model/config.json" --prompts 2 --group 4 \
		--tokens $tokens --layer 3 --anchor >"$work/predicted"
	python3 - "$work" $tokens <<'END'
import json, sys
one, two, said = (json.load(open(f"{sys.argv[1]}/{name}")) for name in ("counts.1", "counts.2", "predicted"))
sums = {what: sum(said[what][stage] for stage in ("rollout", "update")) for what in ("products", "kernels", "graphs")}
assert two["graphs"] - one["graphs"] == sums["graphs"] == (0 if sys.argv[2] == "16" else 38), sums
if sums["graphs"]: # what is in a graph is not counted
    sys.exit()
# No gradient passes through the first q k v: two products. Of kernels the script leaves out what stands around the blocks once:
# embedding, loss, copies.
for what, key, bound in ("products", "products", 0.0025), ("kernels", "launches", 0.1):
    counted, predicted = two[key] - one[key], sums[what]
    print(f"{what} of a step: {counted} counted, {predicted:.0f} predicted")
    assert abs(counted - predicted) <= bound * counted, what
END
done
