# scripts/gpu-check.sh on the fake CUDA: its report is complete, and what fails is in the report and in the exit code. Times and
# numbers mean nothing there; the demo stands for a large model.
. "${SOURCE_DIR:?}/tests/cuda/cuda.sh"
mkdir "$work/bin" "$work/build"
cat >"$work/bin/nvidia-smi" <<'END'
#!/bin/sh
echo "NVIDIA H200, 580.65, 143771, 9.0, 700.00, 1980, 4"
END
chmod +x "$work/bin/nvidia-smi"
built=$BUILD_DIR

check() { # EXIT-CODE OPTIONS...
	want=$1
	shift
	code=0
	PATH=$work/bin:$PATH BUILD_DIR=$built FAKE_CUDA_GB=141 LD_PRELOAD=$FAKE_CUDA/libcudart.so.13 LD_LIBRARY_PATH=$FAKE_CUDA:$LIBTORCH \
		bash "$SOURCE_DIR/scripts/gpu-check.sh" ${QUICK---quick} --out "$work/out" "$@" >"$work/stdout" 2>"$work/stderr" || code=$?
	[ "$code" -eq "$want" ] || fail "gpu-check $* exits $code, want $want: $(cat "$work/stderr")"
}

# verdict CHECK WHAT VERDICT: what the report says of that row, in both its forms.
verdict() {
	python3 - "$work/out" "$@" <<'END' || fail "gpu-check: $*"
import json, sys
out, check, what, want = sys.argv[1:]
report = json.load(open(out + "/gpu-check.json"))
found = [r for r in report["checks"] if r["check"] == check and what in r["what"] + str(r["value"])]
assert found and all(r["verdict"] == want for r in found), (found, report["checks"])
assert report["failed"] == sum(r["verdict"] == "FAILED" for r in report["checks"])
lines = [line for line in open(out + "/gpu-check.md") if line.startswith(f"| {check} | ")]
assert len(lines) == sum(r["check"] == check for r in report["checks"]) and any(what in line and want in line for line in lines), lines
END
}

demo=$SOURCE_DIR/demo/config.json
check 0 --config "$demo" --only repeat,step-8x4,step-16x16,same,evaluation,memory,shape,score
for row in 'machine|a program opens' 'repeat|two runs of the demo' 'repeat|their adapters' 'step-8x4|every response has its length' \
	'step-8x4|peak memory' 'step-16x16|peak memory' 'same|two runs of 8 x 4' 'evaluation|rows evaluated' 'memory|plan and peak'; do
	verdict "${row%|*}" "${row#*|}" ok
done
verdict shape 'is given' skipped
verdict step-8x4 'seconds of a step of 8 x 4 x 16' -
grep -q '^| name | NVIDIA H200 |' "$work/out/gpu-check.md" || fail "the report does not name the card"

# The shape is made and removed; no model, no steps.
check 0 --only shape
verdict shape "Qwen3-8B's shape" ok
[ ! -e "$work/out/gpu-check.shape" ] || fail "17 GB would be left behind"
check 0 --only step-8x4
verdict step-8x4 'no weights to try' skipped

# A card that computes nothing does not pass for one that agrees with the CPU.
check 1 --only demo
verdict demo 'FVE of 4 steps, cpu' ok
verdict demo 'FVE of 4 steps, cuda' FAILED
verdict demo 'gradient norm of step 1, cuda' FAILED

# A card that refuses graphs; it needs more tokens than quick ones.
FAKE_CUDA_NO_GRAPHS=1 QUICK='' check 1 --config "$demo" --only step-8x4 --scratch "$work/out"
verdict step-8x4 'decoding without graphs' FAILED
verdict step-8x4 'seconds of a step of 8 x 4 x 160' - # the target is Qwen3-8B's

# A fast version that proves wrong when the card is opened does not end the report.
cat >"$work/build/nla-explain" <<END
#!/bin/sh
"$BUILD_DIR/nla-explain" "\$@" || exit
echo "warning: on this GPU norms are off: planted" >&2
END
ln -s "$BUILD_DIR/nla-train" "$work/build/nla-train"
chmod +x "$work/build/nla-explain"
built=$work/build
check 1 --only repeat
verdict machine 'norms are off: planted' FAILED
verdict repeat 'two runs of the demo' ok
rm "$work/build"/*

# A plan that is too small, a program that fails or does without a fast version, and one that is not there; the checks after them run.
ln -s "$BUILD_DIR/nla-explain" "$work/build/nla-explain"
cat >"$work/build/nla-train" <<END
#!/bin/sh
"$BUILD_DIR/nla-train" "\$@" || exit
echo "warning: on this GPU rotation is off: planted" >&2
sed -i 's/memory plan: [0-9.]* of/memory plan: 0.01 of/' step-*/log.txt
END
printf '#!/bin/sh\necho "nla-eval: planted" >&2\nexit 3\n' >"$work/build/nla-eval"
chmod +x "$work/build"/*
built=$work/build
check 1 --config "$demo" --only step-8x4,evaluation,repeat
verdict step-8x4 'peak memory' FAILED
verdict repeat 'rotation is off: planted' FAILED
verdict evaluation 'exit 3: nla-eval: planted' FAILED
verdict repeat 'two runs of the demo' ok
rm "$work/build/nla-explain"
check 1 --only repeat
verdict machine nla-explain FAILED
! grep -q '^| repeat ' "$work/out/gpu-check.md" || fail "checks ran without a card"
