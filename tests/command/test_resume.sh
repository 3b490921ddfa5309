# A run that was killed, stopped or cut short continues to the same numbers, bit for bit, as one that never stopped.
. "$SOURCE_DIR/tests/command/lib.sh"
make_sets
make_av

same_end() { # PART: what the checkpoint holds beside optimizer.safetensors
	tool lines "$work/whole/metrics.jsonl" "$out/metrics.jsonl"
	for file in "$@" optimizer.safetensors state.json; do
		same "$work/whole/checkpoints/latest/$file" "$out/checkpoints/latest/$file"
	done
	[ "$(ls -A "$out/checkpoints" | tr '\n' ' ')" = "latest step-15 step-20 " ] ||
		fail "checkpoints: $(ls -A "$out/checkpoints")"
}

rl() { # CO-TRAINED
	set -- --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 3 --group 6 \
		--max-new-tokens 40 --lora.rank 4 --lora.alpha 8 --lr 1e-3 --steps 20 --checkpoint.every 5 \
		--ar_update.enabled "$1" --ar_update.lr 1e-3 --log.samples_every 3
	parts="av/adapter_model.safetensors ar/adapter_model.safetensors"
	out=$work/whole
	rm -rf "$out"
	ok nla-train "$@" --out "$out"

	out=$work/killed
	rm -rf "$out"
	signalled metrics.jsonl 12 KILL nla-train "$@" --out "$out"
	[ "$code" -eq 137 ] || fail "not killed: $code"
	[ "$(wc -l <"$out/metrics.jsonl")" -eq 12 ] || fail "not killed at step 12"
	printf '{"step":13,"rewa' >>"$out/metrics.jsonl"       # a line that the kill cut short
	printf '\037\213\010\000' >>"$out/samples.jsonl.gz"    # and a gzip member
	mkdir "$out/checkpoints/.tmp-13" "$out/checkpoints/.tmp-15" # and checkpoints, before they had their names
	echo torn >"$out/checkpoints/.tmp-15/optimizer.safetensors"
	mkdir "$out/checkpoints/step-15"                       # and one that has it, but no state
	ok nla-train "$@" --out "$out" --resume
	grep -q "resuming from step 10" "$work/stderr" || fail "it did not resume from step 10: $(head -n 3 "$work/stderr")"
	same_end $parts
	gzip -dc "$work/whole/samples.jsonl.gz" >"$work/samples.whole"
	gzip -dc "$out/samples.jsonl.gz" >"$work/samples.killed"
	same "$work/samples.whole" "$work/samples.killed"
}

rl true
rl false

# SIGTERM ends the step at hand, checkpoints, and is no failure.
stop() {
	signal=$1
	shift
	out=$work/stopped
	rm -rf "$out"
	signalled metrics.jsonl 7 "$signal" nla-train "$@" --out "$out"
	[ "$code" -eq 0 ] || fail "SIG$signal: exits $code"
	grep -q "stopped after step 7: --resume continues it" "$work/stderr" || fail "SIG$signal: $(tail -n 1 "$work/stderr")"
	[ "$(readlink "$out/checkpoints/latest")" = step-7 ] || fail "SIG$signal left no checkpoint of step 7"
	ok nla-train "$@" --out "$out" --resume
	same_end $parts
}
set -- --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 3 --group 6 --max-new-tokens 40 \
	--lora.rank 4 --lora.alpha 8 --lr 1e-3 --steps 20 --checkpoint.every 5 --ar_update.lr 1e-3 --log.samples_every 3
stop TERM "$@"
stop INT "$@"

# A scheduler's signals: before its time is up; TERM twice; with CONT. A second one within two seconds is the first again.
set -- "$@" --checkpoint.every 0
for signals in USR1 USR2 HUP TERM,TERM TERM,INT,HUP,CONT; do
	out=$work/scheduled
	rm -rf "$out"
	signalled metrics.jsonl 3 $signals nla-train "$@" --out "$out"
	[ "$code" -eq 0 ] || fail "$signals: exits $code"
	[ "$(readlink "$out/checkpoints/latest")" = step-3 ] || fail "$signals left no checkpoint of step 3"
done
# Under nohup HUP stays ignored.
out=$work/nohup
(
	trap '' HUP
	signalled metrics.jsonl 2 HUP nla-train "$@" --out "$out" --steps 4
	[ "$code" -eq 0 ] || fail "HUP, ignored: exits $code"
)
[ "$(wc -l <"$out/metrics.jsonl")" -eq 4 ] || fail "HUP stops a run under nohup"

# A later second signal ends it at once: no checkpoint, exit code 128 + its number.
out=$work/twice
for last in INT:130 TERM:143 USR1:138; do
	rm -rf "$out"
	signalled metrics.jsonl 1 "TERM,2.1,${last%:*}" nla-train "$@" --out "$out"
	[ "$code" -eq "${last#*:}" ] || fail "TERM, then ${last%:*}: exits $code"
	[ ! -e "$out/checkpoints/latest" ] || fail "two signals, and still a checkpoint"
done

# Fewer steps than a run has made: nothing is taken back, nothing newer is overwritten.
out=$work/stopped
ok nla-train "$@" --out "$out" --resume --steps 10
same_end $parts
# More steps go on from where it ended.
ok nla-train "$@" --out "$out" --resume --steps 22
[ "$(wc -l <"$out/metrics.jsonl")" -eq 22 ] || fail "no steps 21 and 22"
# A damaged newest checkpoint is told, not skipped over.
tool clip "$out/checkpoints/latest/optimizer.safetensors" 100
run nla-train "$@" --out "$out" --resume --steps 23
[ "$code" -eq 1 ] || fail "a damaged checkpoint: exits $code"
said "step-22/optimizer.safetensors"

# Two programs on one folder: the second is refused.
out=$work/busy
rm -rf "$out"
mkdir "$out"
run_busy() {
	exec 9<"$out"
	flock -n 9 || fail "cannot lock"
	refused 1 "in use by another program" nla-train "$@" --out "$out"
	exec 9<&-
}
! command -v flock >/dev/null || run_busy "$@"

# The same for supervised training, AV and AR.
for role in av ar; do
	set -- --role $role --model "$tiny/model" --data "$work/train" --batch 48 --lr 0.01 --sft.warmup 4 --steps 20 \
		--checkpoint.every 5 --sft.held_every 6 --sft.held_out 0.2 --lora.rank 4 --lora.targets q,k,v,o,gate,up,down
	out=$work/whole
	rm -rf "$out" "$work/killed" "$work/stopped"
	ok nla-sft "$@" --out "$out"
	out=$work/killed
	signalled metrics.jsonl 12 KILL nla-sft "$@" --out "$out"
	[ "$code" -eq 137 ] || fail "nla-sft not killed: $code"
	printf '{"step":13,"lo' >>"$out/metrics.jsonl"
	ok nla-sft "$@" --out "$out" --resume
	same_end $role/adapter_model.safetensors
	out=$work/stopped
	signalled metrics.jsonl 6 TERM nla-sft "$@" --out "$out"
	[ "$code" -eq 0 ] || fail "nla-sft SIGTERM: exits $code"
	ok nla-sft "$@" --out "$out" --resume
	same_end $role/adapter_model.safetensors
done

# What the run was given may change while it is stopped: it resumes with its own warm start and AR.
cp -r "$work/av" "$work/av-given"
cp -r "$tiny/ar" "$work/ar-given"
set -- --model "$tiny/model" --av "$work/av-given" --ar "$work/ar-given" --data "$work/train" --prompts 3 --group 6 \
	--max-new-tokens 40 --lora.rank 4 --lora.alpha 8 --lr 1e-3
ok nla-train "$@" --out "$work/straight" --steps 4
ok nla-train "$@" --out "$work/changed" --steps 2
cp "$tiny/av/"adapter* "$work/av-given/"
head -c 8 "$tiny/ar/value_head.safetensors" >"$work/ar-given/value_head.safetensors"
ok nla-train "$@" --out "$work/changed" --steps 4 --resume
tool lines "$work/straight/metrics.jsonl" "$work/changed/metrics.jsonl"
same "$work/straight/checkpoints/latest/av/adapter_model.safetensors" "$work/changed/checkpoints/latest/av/adapter_model.safetensors"

# Another set at the same path: what the checkpoint knows of its data means nothing there.
mv "$work/train" "$work/train.kept"
make_set train 0 20
run nla-train "$@" --out "$work/changed" --steps 5 --resume
[ "$code" -eq 2 ] || fail "another set at the same path: exits $code"
said "cannot resume: '.*train' has another content than the 'data' that the run in '.*changed' began with"

# A signal in an evaluation ends it between two batches: no half summary. nla-train's work is saved all the same, and --resume evaluates.
set -- --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 2 --group 4 --max-new-tokens 40 \
	--lora.rank 4 --lr 1e-3 --steps 2 --eval.data "$work/held" --rows 8
out=$work/evaluating
signalled nla_meta.yaml 1 TERM nla-train "$@" --out "$out"
[ "$code" -eq 0 ] || fail "stopped in its first evaluation: exits $code: $(tail -n 1 "$work/stderr")"
grep -q "evaluation at step 0: stopped after 0 of 8 rows" "$work/stderr" || fail "not stopped in its evaluation: $(cat "$work/stderr")"
[ ! -e "$out/eval-0.json" ] && [ "$(readlink "$out/checkpoints/latest")" = step-0 ] || fail "a half evaluation, or no checkpoint"
ok nla-train "$@" --out "$out" --resume
[ -e "$out/eval-0.json" ] && [ -e "$out/eval-2.json" ] || fail "the evaluations were not made up for"
# One that was due in the middle of a run is made up for at its own step.
set -- --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 2 --group 4 --max-new-tokens 40 \
	--lora.rank 4 --lr 1e-3 --checkpoint.every 2
out=$work/due
ok nla-train "$@" --out "$out" --steps 2
set -- "$@" --steps 5 --eval.data "$work/held" --rows 8 --eval.every 2 --out "$out" --resume
signalled nla_meta.yaml 1 TERM nla-train "$@"
[ "$code" -eq 0 ] || fail "stopped in a later evaluation: exits $code: $(tail -n 1 "$work/stderr")"
grep -q "evaluation at step 2: stopped after 0 of 8 rows" "$work/stderr" || fail "not stopped in its evaluation: $(cat "$work/stderr")"
[ "$(readlink "$out/checkpoints/latest")" = step-2 ] && [ ! -e "$out/eval-2.json" ] || fail "the run went beyond step 2"
ok nla-train "$@"
[ "$(cd "$out" && echo eval-?.json)" = "eval-2.json eval-4.json eval-5.json" ] || fail "evaluations: $(ls "$out")"
signalled nla_meta.yaml 1 TERM nla-eval --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" --max-new-tokens 40 \
	--out "$work/no-eval"
[ "$code" -eq 1 ] || fail "nla-eval stopped: exits $code"
said "stopped after 0 of [0-9]* rows: this evaluation writes nothing"
[ -z "$(ls "$work/no-eval")" ] || fail "a stopped nla-eval left $(ls "$work/no-eval")"

# An extraction that was stopped keeps its rows, but is no success: who waits for the whole set must see it.
tool corpus 1000 2000 >"$work/big.jsonl"
signalled big.jsonl 1000 TERM nla-extract --model "$tiny/model" --corpus "$work/big.jsonl" --layer 2 --extract.min_position 5 \
	--templates.av "$(tool golden av_template)" --templates.ar "$(tool golden ar_template)" --templates.marker "$(tool golden marker)" \
	--out "$work/stopped-set"
[ "$code" -eq 1 ] || fail "a stopped extraction exits $code"
said "stopped after [0-9]* documents: '.*stopped-set' holds their [0-9]* rows"
[ -e "$work/stopped-set/nla_meta.yaml" ] || fail "the rows of a stopped extraction are gone"
