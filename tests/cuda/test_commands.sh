# Every program once on the fake CUDA, in bf16, to its end: no operation is missing there, none mixes devices or reads the device's
# memory. Numbers mean nothing, so nothing is said of them: what comes back is zero, every response is token 0 to its full length.
. "${SOURCE_DIR:?}/tests/cuda/cuda.sh"
demo=$SOURCE_DIR/demo
cd "$work"
tool corpus 0 8 >corpus.jsonl
on_cuda nla-extract --model "$tiny/model" --corpus corpus.jsonl --layer 2 --extract.min_position 5 --extract.per_doc 2 --out set
for role in av ar; do
	on_cuda nla-sft --role $role --model "$demo/model" --data "$demo/train" --out sft-$role --steps 2 --batch 8 --lr 1e-3 \
		--checkpoint.every 0 --lora.targets q,k,v,o,gate,up,down
done
on_cuda nla-sft --role lm --model "$demo/model" --corpus corpus.jsonl --out sft-lm --steps 2 --batch 2 --sft.context 32 # in fp32, by auto

# A run with a co-trained AR, with and without its blocks kept, resumed, and evaluated from its checkpoint.
for recompute in false true; do
	on_cuda nla-train "$demo/config.json" --steps 2 --prompts 2 --group 4 --max-new-tokens 8 --eval.rows 4 --checkpoint.every 1 \
		--update.recompute $recompute --ar_update.enabled true --ar_update.lr 1e-4 --ar_update.train_head true --out run-$recompute
done
on_cuda nla-train "$demo/config.json" --steps 3 --prompts 2 --group 4 --max-new-tokens 8 --eval.rows 4 --checkpoint.every 1 \
	--update.recompute true --ar_update.enabled true --ar_update.lr 1e-4 --ar_update.train_head true --out run-true --resume \
	--profile
"$SOURCE_DIR/scripts/nla-profile" run-true/trace-3.json >table
[ "$(grep -c '^[rsu][a-z]* .* 100.0%' table)" -eq 3 ] || fail "no profile: $(cat table)"
grep -q 'the profiler cannot time kernels on cuda:0' stderr || fail "the fake has kernel times"
# A run that the CPU began continues on the card, with the copies of its type, and the other way round.
set -- "$demo/config.json" --prompts 2 --group 4 --max-new-tokens 8 --eval.rows 4 --log.probe 0 --out moved --resume
ok nla-train "$@" --steps 1
on_cuda nla-train "$@" --steps 2
grep -q "^'moved' was made on cpu so far and continues on cuda:0: " stderr || fail "it moved to the card: $(cat stderr)"
ok nla-train "$@" --steps 3
grep -q "^'moved' was made on cuda:0 so far and continues on cpu: " stderr || fail "it moved to the CPU: $(cat stderr)"
on_cuda nla-train --check "$demo/config.json"
grep -qx go stdout || fail "the check of a GPU does not end in go: $(cat stdout)"
on_cuda nla-eval "$demo/config.json" --data "$demo/eval" --eval.rows 4 --max-new-tokens 8 --out eval
on_cuda nla-eval "$demo/config.json" --av run-true/checkpoints/latest/av --ar run-true/checkpoints/latest/ar --data "$demo/eval" \
	--eval.rows 4 --max-new-tokens 8 --out eval-run
for i in 0 1 2 3; do
	echo "{\"row\": $i, \"explanation\": \"a red cup and a hen\"}"
done >given.jsonl
on_cuda nla-eval "$demo/config.json" --data "$demo/eval" --score given.jsonl --out given
on_cuda nla-explain "$demo/config.json" --text 'The hen and the fox went home.' --max-new-tokens 8
on_cuda nla-teach --model "$demo/model" --data "$demo/eval" --teach.prompt 'Explain {text}' --max-new-tokens 8 --rows 4 \
	--teach.again true --out taught

# A cached kernel that is damaged is compiled again.
(
	export NLA_CACHE=$work/cache
	set -- nla-explain "$demo/config.json" --text 'The hen and the fox went home.' --max-new-tokens 8
	on_cuda "$@"
	for kernel in cache/kernels/*.cubin; do printf torn >"$kernel"; done
	on_cuda "$@"
	! grep -l torn cache/kernels/*.cubin || fail "a damaged kernel stays in the cache"

	# Several that begin at once fill one cache, and leave nothing else in it.
	mv cache one
	for i in 1 2 3 4; do (mkdir "$i" && work=$PWD/$i && on_cuda "$@") & pids="${pids:-} $!"; done
	for pid in $pids; do wait "$pid"; done
	[ "$(ls one/kernels)" = "$(ls cache/kernels)" ] || fail "one program keeps $(ls one/kernels), four keep $(ls cache/kernels)"
)

# An installed program finds what it loads for a GPU.
cmake --install "$BUILD_DIR" --prefix "$work/prefix" >installed
BUILD_DIR=$work/prefix/bin on_cuda nla-explain "$demo/config.json" --text 'The hen and the fox went home.' --max-new-tokens 8

# A driver or a card that is too old is named with what is needed.
refused() { # WHAT
	[ "$code" -eq 1 ] || fail "exits $code: $(cat stderr)"
	said "$1"
}
FAKE_CUDA_DRIVER=12080 cuda_run nla-explain "$demo/config.json" --text a
refused 'the driver is of CUDA 12.8 and libtorch needs 13.0'
FAKE_CUDA_DRIVER=12080 cuda_run nla-explain "$demo/config.json" --device auto --text 'The hen and the fox went home.' --max-new-tokens 2
[ "$code" -eq 0 ] && grep -q "warning: this computes on the CPU, though there is a GPU's driver: the driver is of CUDA 12.8 and" "$work/stderr" ||
	fail "with a driver that is too old: $(cat "$work/stderr")"
FAKE_CUDA_SM=75 cuda_run nla-explain "$demo/config.json" --text a
refused 'GPU 0 has compute capability 7.5, want 8.0 or more'
cuda_run nla-explain "$demo/config.json" --text a --device cuda:1
refused 'there is no GPU of that number'
cuda_run nla-explain "$demo/config.json" --text a --device cuda:12345
refused 'there is no GPU of that number'

# So does a system without NVRTC, which compiles our kernels.
cp -R "$FAKE_CUDA" plain && rm plain/libnvrtc.so.13 && ${CC:-cc} -shared -o plain/libnvrtc.so.13 -x c /dev/null
for program in nla-explain nla-train; do
	what="--text a" && [ $program = nla-explain ] || what="--check"
	FAKE_CUDA=$PWD/plain NLA_CACHE=$work/none on_cuda $program "$demo/config.json" $what --max-new-tokens 4
	[ "$(grep -c "this GPU runs without our own kernels, which is slower: " stderr)" -eq 1 ] || fail "$program does not say it once: $(cat stderr)"
done

planned() { # GiB of nla-sft's plan
	on_cuda nla-sft --role av --model "$demo/model" --data "$demo/train" --dtype bf16 --steps 1 --batch 64 --lr 1e-3 --checkpoint.every 0 --overwrite --out sized
	sed -n 's/^memory plan: \([0-9.]*\) of .*/\1/p' stderr
}
planned >with
FAKE_CUDA=$PWD/plain NLA_CACHE=$work/none planned >without
[ -s with ] && [ -s without ] && awk 'NR == FNR { x = $1; next } { exit !($1 > x && x > 0) }' with without || fail "nla-sft plans $(cat without) GiB without kernels, $(cat with) with them"

# A driver that refuses graphs costs time, and one line.
FAKE_CUDA_NO_GRAPHS=1 on_cuda nla-eval "$demo/config.json" --data "$demo/eval" --eval.rows 4 --eval.batch 2 --max-new-tokens 24 --out slow
[ "$(grep -c 'decoding without graphs, which is slower: .*operation not permitted when stream is capturing$' stderr)" -eq 1 ] ||
	fail "it is not said once: $(cat stderr)"
# So does one without memory for them, which is tried once for a batch of rows.
FAKE_CUDA_NO_GRAPHS=2 on_cuda nla-eval "$demo/config.json" --data "$demo/eval" --eval.rows 4 --eval.batch 2 --max-new-tokens 24 --out slower
[ "$(grep -c 'decoding without graphs, which is slower: .*out of memory' stderr)" -eq 1 ] || fail "it is not said once: $(cat stderr)"

# What is too much for the card is one line that says what to do.
export FAKE_CUDA_GB=0.8
cuda_run nla-train "$demo/config.json" --steps 1 --prompts 64 --group 256 --update.micro_batch 4096 --eval.every 0 --eval.rows 4 --out small
[ "$code" -eq 1 ] || fail "16,384 responses on 0.8 GB exit $code: $(tail -n 3 stderr)"
said 'out of memory, lower the program.s batch'

# A driver that finds no memory for a kernel, since another process took it, is no operation that goes wrong: a batch is halved, or the
# check of operations ends.
set -- "$demo/config.json" --steps 1 --prompts 2 --group 4 --max-new-tokens 8 --eval.rows 4 --out taken
FAKE_CUDA_NO_LAUNCH=100 on_cuda nla-train "$@"
grep -q '^out of memory, once more with half: ' stderr || fail "a kernel without memory: $(cat stderr)"
FAKE_CUDA_NO_LAUNCH=30 cuda_run nla-train "$@" --overwrite
[ "$code" -eq 1 ] || fail "a check without memory exits $code: $(tail -n 3 stderr)"
said 'cannot check this GPU.s operations: out of memory'

# A device that breaks while a batch decodes ends the run with one line.
FAKE_CUDA_BREAKS=5 cuda_run nla-train "$demo/config.json" --steps 1 --prompts 2 --group 4 --max-new-tokens 40 --eval.every 0 --out broken
[ "$code" -eq 1 ] || fail "a broken device exits $code: $(tail -n 3 stderr)"
said 'cannot decode: .*CUDA error'

# So it is wherever memory ends: while weights are loaded, and while the card's operations are checked.
unset FAKE_CUDA_GB
for megabytes in 820 835 850 865 880; do
	cuda_run nla-train "$demo/config.json" --steps 1 --eval.rows 4 --memory ${megabytes}M --out tiny
	[ "$code" -eq 1 ] || fail "$megabytes MB exit $code: $(tail -n 3 stderr)"
	said 'out of memory, lower the program.s batch'
done

# Lambdas that memory does not hold together take turns, and each has what the one before it had, but for some workspace of cuBLAS.
FAKE_CUDA_GB=0.25 on_cuda nla-train "$demo/config.json" --steps 1 --prompts 4 --group 4 --max-new-tokens 16 --lora.rank 512 --lora.targets q,k,v,o,gate,up,down \
	--eval.every 0 --eval.rows 4 --lambda 0,0.001,0.002 --out turns
[ "$(grep -c ': 1 of [23] lambdas fit into memory together' stderr)" -eq 2 ] || fail "no turns: $(cat stderr)"
[ "$(grep -c 'memory plan: .*warm starts merged into copies' stderr)" -eq 3 ] || fail "a turn has less memory than the first: $(cat stderr)"
