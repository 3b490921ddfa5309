# Qwen3-8B's shape with random weights: --check maps, verifies and plans it for 24 GB without reading it, nla-explain runs it on the CPU
# from the mapped file. Takes 17 GB of disk, and some minutes.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
tokenizer=$SOURCE_DIR/../shared/qwen3
[ -f "$tokenizer/tokenizer.json" ] || skip "no Qwen3 tokenizer in ../shared/qwen3"
[ "$(df -k --output=avail "$work" | tail -n 1)" -ge $((20 << 20)) ] || skip "less than 20 GB free in $work"
[ "$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)" -ge $((12 << 20)) ] || skip "less than 12 GB of memory available"
python3 "$SOURCE_DIR/scripts/make-shape.py" --tokenizer "$tokenizer" --out "$work/shape"

# timed PROGRAM ARGS: as ok, with seconds, those of the processor, and the largest resident size (GB) in $work/cost
timed() {
	python3 - "$work/cost" "$BUILD_DIR/$1" "$@" >"$work/stdout" 2>"$work/stderr" <<'END' || fail "$* fails: $(tail -n 3 "$work/stderr")"
import resource, subprocess, sys, time
start = time.time()
code = subprocess.call([sys.argv[2], *sys.argv[4:]])
with open(sys.argv[1], "w") as f:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(round(time.time() - start, 1), round(used.ru_utime + used.ru_stime, 1), round(used.ru_maxrss / 1e6, 2), file=f)
sys.exit(code)
END
	read -r seconds busy resident <"$work/cost"
	echo "$1: $seconds s ($busy s of processor time), $resident GB resident"
}

timed nla-train --check --memory 24G "$work/shape/config.json" --device cpu
cat "$work/stdout"
[ "$(tail -n 1 "$work/stdout")" = go ] || fail "24 GB are not enough"
grep -q '^room: 16 x 16 responses fit too' "$work/stdout" || fail "no room for 16 x 16"
grep -q '^not tried: ' "$work/stdout" || fail "a step of 8B was tried without a GPU, or left out in silence"
python3 -c "import sys; sys.exit(not $resident < 4)" || fail "$resident GB resident, want less than 4: it was read, not mapped"
timed nla-explain --dtype bf16 --device cpu "$work/shape/config.json" --row 0 --max-new-tokens 4
cat "$work/stdout"
python3 -c 'import json, sys; r = json.load(open(sys.argv[1])); assert r["response_tokens"] == 4 and 0 <= r["mse"] <= 4, r' "$work/stdout"
