# A run that was killed, stopped or cut short continues to the same numbers, bit for bit, as one that never stopped.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
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
	trained=$1
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
	printf '{"step":13,"row' >>"$out/samples.jsonl"
	mkdir "$out/checkpoints/.tmp-13" "$out/checkpoints/.tmp-15" # and checkpoints, before they had their names
	echo torn >"$out/checkpoints/.tmp-15/optimizer.safetensors"
	mkdir "$out/checkpoints/step-15"                       # and one that has it, but no state
	ok nla-train "$@" --out "$out" --resume
	grep -q "resuming from step 10" "$work/stderr" || fail "it did not resume from step 10: $(head -n 3 "$work/stderr")"
	same_end $parts
	same "$work/whole/samples.jsonl" "$out/samples.jsonl"
}

rl true
rl false

# A signal is answered at once; the step at hand ends, a checkpoint is made, exit code 3; the last line's command continues the run.
stopped() { # PATTERN
	[ "$code" -eq 3 ] || fail "$1: exits $code, want 3: $(tail -n 2 "$work/stderr")"
	grep -q '^stopping: what is at hand is finished and saved first; a second signal' "$work/stderr" || fail "$1: no word on the signal"
	grep -Eq "^$program: $1.*; to continue: " "$work/stderr" || fail "it ends in '$(tail -n 1 "$work/stderr")', not in '$1'"
	sed -n '/; to continue: /,$p' "$work/stderr" | sed '1s/.*; to continue: //' >"$work/again" # a word may have line breaks
	tail -n 1 "$work/again" | grep -q -- ' --resume$' || fail "the command is: $(cat "$work/again")"
	if grep -q -- '--overwrite' "$work/again"; then fail "it would replace what is there: $(cat "$work/again")"; fi
}
go_on() {
	sh "$work/again" >"$work/stdout" 2>"$work/stderr" || fail "'$(cat "$work/again")' exits $?: $(tail -n 1 "$work/stderr")"
}
stop() {
	signal=$1
	shift
	out=$work/stopped
	rm -rf "$out"
	signalled metrics.jsonl 7 "$signal" nla-train "$@" --out "$out" --overwrite
	stopped "stopped after step 7 of 20: '$out/checkpoints/step-7' is saved"
	[ "$(readlink "$out/checkpoints/latest")" = step-7 ] || fail "SIG$signal left no checkpoint of step 7"
	go_on
	same_end $parts
	grep -Eq "^step 19/20 .* left, until " "$out/log.txt" || fail "no time left: $(grep 'step 19' "$out/log.txt")"
	[ "$(tail -n 1 "$work/stderr" | cut -c 1-16)" = "done: 20 steps, " ] || fail "no last line: $(tail -n 1 "$work/stderr")"
}
set -- --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 3 --group 6 --max-new-tokens 40 \
	--lora.rank 4 --lora.alpha 8 --lr 1e-3 --steps 20 --checkpoint.every 5 --ar_update.lr 1e-3 --log.samples_every 3
stop TERM "$@"
stop INT "$@"

# Where a file asks to overwrite, the command takes that back, before a -- behind which all are files.
echo '{"overwrite": true}' >"$work/over.json"
for dash in '' --; do
	out=$work/over$dash
	signalled metrics.jsonl 7 TERM nla-train "$@" --out "$out" $dash "$work/over.json"
	sed -n 's/.*; to continue: //p' "$work/stderr" >"$work/again"
	grep -q -- " --resume --overwrite false${dash:+ -- $work/over.json}\$" "$work/again" || fail "the command is: $(cat "$work/again")"
	go_on
	same_end $parts
done

# A scheduler's signals: before its time is up; TERM twice; with CONT. A second one within two seconds is the first again.
set -- "$@" --checkpoint.every 0
for signals in USR1 USR2 HUP TERM,TERM TERM,INT,HUP,CONT; do
	out=$work/scheduled
	rm -rf "$out"
	signalled metrics.jsonl 3 $signals nla-train "$@" --out "$out"
	[ "$code" -eq 3 ] || fail "$signals: exits $code"
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

# What was to read its lines is gone: no reason to lose the work.
out=$work/unread
rm -rf "$out"
(signalled metrics.jsonl 3 TERM nla-train "$@" --out "$out" 2>&1) >/dev/null
"$BUILD_DIR/nla-train" --threads 1 $on "$@" --out "$out" --resume --steps 5 2>&1 | true
[ "$(readlink "$out/checkpoints/latest")" = step-5 ] || fail "a closed pipe ended the run"

# A signal in the last step, where nothing is left to do but what the last line says: all is done.
out=$work/last
signalled metrics.jsonl 2 TERM nla-train "$@" --out "$out" --steps 2
[ "$code" -eq 0 ] && grep -q '^done: 2 steps, ' "$work/stderr" || fail "stopped when all was done: exits $code: $(tail -n 1 "$work/stderr")"

# Fewer steps than a run has made: nothing is taken back, nothing newer is overwritten, which is said.
out=$work/stopped
ok nla-train "$@" --out "$out" --resume --steps 10
grep -q "^nothing left to do: '$out' has made 20 steps, and 10 are asked for; a larger --steps goes on$" "$work/stderr" || fail "$(cat "$work/stderr")"
same_end $parts
# More steps go on from where it ended.
ok nla-train "$@" --out "$out" --resume --steps 22
[ "$(wc -l <"$out/metrics.jsonl")" -eq 22 ] || fail "no steps 21 and 22"
# Also on another device, which is said, once; and on the same one by another name, of which nothing is said.
moved="^'$out' was made on sim:0 so far and continues on cpu: "
elsewhere() {
	if [ -n "${NLA_TEST_DEVICE:-}" ]; then
		(on="--device cpu --dtype fp32" && ok nla-train "$@" --out "$out" --resume)
	else
		(export CUDA_VISIBLE_DEVICES='' && on='' && ok nla-train "$@" --out "$out" --resume)
	fi
}
elsewhere "$@" --steps 23
[ "$(grep -c "$moved" "$work/stderr")" -eq "$([ -n "${NLA_TEST_DEVICE:-}" ] && echo 1 || echo 0)" ] || fail "moved: $(cat "$work/stderr")"
elsewhere "$@" --steps 24
if grep "so far and continues" "$work/stderr"; then fail "said again on the new device, or of the same one"; fi
# A damaged newest checkpoint is told, not skipped over.
tool clip "$out/checkpoints/latest/optimizer.safetensors" 100
run nla-train "$@" --out "$out" --resume --steps 25
[ "$code" -eq 1 ] || fail "a damaged checkpoint: exits $code"
said "step-24/optimizer.safetensors"

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
	signalled metrics.jsonl 13 KILL nla-sft "$@" --out "$out" # the first line is of step 0
	[ "$code" -eq 137 ] || fail "nla-sft not killed: $code"
	printf '{"step":13,"lo' >>"$out/metrics.jsonl"
	ok nla-sft "$@" --out "$out" --resume
	same_end $role/adapter_model.safetensors
	out=$work/stopped
	signalled metrics.jsonl 6 TERM nla-sft "$@" --out "$out"
	stopped "stopped after step 5 of 20"
	go_on
	grep -Eq "^done: 20 steps, '$out/checkpoints/step-20', .*; next: nla-train --model MODEL " "$work/stderr" || fail "$(tail -n 1 "$work/stderr")"
	same_end $role/adapter_model.safetensors
	ok nla-sft "$@" --out "$out" --resume
	grep -q "^nothing left to do: .* its schedule ended there" "$work/stderr" || fail "$(cat "$work/stderr")"
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
# So it does with the rows that it decoded and the tokens that its AR read at once, on which rounding depends.
for kept in 'decode_rows 5' 'score_tokens 100'; do tool set "$work/changed/checkpoints/latest/state.json" $kept; done
ok nla-train "$@" --out "$work/changed" --steps 5 --resume
for kept in 'decode_rows 5' 'score_tokens 100'; do
	[ "$(tool get "$work/changed/checkpoints/step-5/state.json" "${kept% *}")" = "${kept#* }" ] || fail "not kept: $kept"
done
# A counter below 0 would be a row before the first.
cp -R "$work/changed" "$work/below" && tool set "$work/below/checkpoints/step-5/state.json" cursor -15
run nla-train "$@" --out "$work/below" --steps 6 --resume
[ "$code" -eq 1 ] || fail "a cursor below 0: exits $code"
said "step-5/state.json': 'cursor' is -15, want a number from 0"

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
stopped "stopped after step 0 of 2"
grep -q "evaluation at step 0: stopped after 0 of 8 rows" "$work/stderr" || fail "not stopped in its evaluation: $(cat "$work/stderr")"
[ ! -e "$out/eval-0.json" ] && [ "$(readlink "$out/checkpoints/latest")" = step-0 ] || fail "a half evaluation, or no checkpoint"
go_on
[ -e "$out/eval-0.json" ] && [ -e "$out/eval-2.json" ] || fail "the evaluations were not made up for"
# In the last one, all steps made: not all was done.
out=$work/unevaluated
ok nla-train "$@" --out "$out" --eval.data ''
signalled nla_meta.yaml 1 TERM nla-train "$@" --out "$out" --resume
stopped "stopped after step 2 of 2, before its evaluation"
go_on
[ -e "$out/eval-2.json" ] || fail "the last evaluation was not made up for"
# One that was due in the middle of a run is made up for at its own step.
set -- --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 2 --group 4 --max-new-tokens 40 \
	--lora.rank 4 --lr 1e-3 --checkpoint.every 2
out=$work/due
ok nla-train "$@" --out "$out" --steps 2
set -- "$@" --steps 5 --eval.data "$work/held" --rows 8 --eval.every 2 --out "$out" --resume
signalled nla_meta.yaml 1 TERM nla-train "$@"
stopped "stopped after step 2 of 5"
grep -q "evaluation at step 2: stopped after 0 of 8 rows" "$work/stderr" || fail "not stopped in its evaluation: $(cat "$work/stderr")"
[ "$(readlink "$out/checkpoints/latest")" = step-2 ] && [ ! -e "$out/eval-2.json" ] || fail "the run went beyond step 2"
ok nla-train "$@"
[ "$(cd "$out" && echo eval-?.json)" = "eval-2.json eval-4.json eval-5.json" ] || fail "evaluations: $(ls "$out")"
signalled nla_meta.yaml 1 TERM nla-eval --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/held" --max-new-tokens 40 \
	--out "$work/no-eval"
[ "$code" -eq 143 ] || fail "nla-eval, which has nothing to save: exits $code"
[ -z "$(ls "$work/no-eval")" ] || fail "a stopped nla-eval left $(ls "$work/no-eval")"

# An extraction that was stopped or killed, at any point, continues to the same bytes; it is a set only when it is whole.
tool corpus 1000 600 >"$work/big.jsonl"
set -- --model "$tiny/model" --corpus "$work/big.jsonl" --layer 2 --extract.min_position 5 --extract.per_doc 2 --extract.next 2 --rows 900 \
	--templates.av "$(tool golden av_template)" --templates.ar "$(tool golden ar_template)" --templates.marker "$(tool golden marker)"
same_set() {
	[ "$(ls "$1" | tr '\n' ' ')" = "activations.safetensors nla-extract.done nla_meta.yaml rows.jsonl.gz " ] || fail "the set holds $(ls "$1")"
	[ "$(ls "$1/nla-extract.done" | tr '\n' ' ')" = "config.json inputs.json " ] || fail "its settings: $(ls "$1/nla-extract.done")"
	for file in activations.safetensors nla_meta.yaml rows.jsonl.gz; do same "$work/big/$file" "$1/$file"; done
}
{ head -n 3 "$work/big.jsonl" && echo '{"broken'; } >"$work/enough.jsonl" # what is behind the last row is not read
ok nla-extract "$@" --corpus "$work/enough.jsonl" --rows 6 --out "$work/enough"
ok nla-extract "$@" --out "$work/big"
cp "$work/stdout" "$work/big.said"
refused 2 "there is one already: give --overwrite to replace it, or another --out" nla-extract "$@" --out "$work/big"
out=$work/part
for at in 'batches.jsonl 1' 'rows.jsonl 200' 'batches.jsonl 5' 'nla_meta.yaml.tmp 1'; do # the last: whole, but for its name
	signalled ${at% *} ${at#* } KILL nla-extract "$@" --out "$out" --resume
	[ "$code" -eq 137 ] || fail "nla-extract, killed at $at: exits $code: $(cat "$work/stderr")"
	[ ! -e "$out/nla_meta.yaml" ] || fail "killed at $at, and a set"
	printf '{"docs":9' >>"$out/nla-extract.part/batches.jsonl"
done
refused 2 "holds a part of a set: give --resume to continue it, --overwrite to replace it" nla-extract "$@" --out "$out"
run nla-extract "$@" --out "$out" --resume --seed 3
[ "$code" -eq 2 ] && said "cannot resume: 'seed' is 0 in '.*' and 3 now" || fail "resumed with another seed"
cp "$work/big.jsonl" "$work/big.kept"
tool corpus 5000 600 >"$work/big.jsonl"
run nla-extract "$@" --out "$out" --resume
[ "$code" -eq 2 ] && said "cannot resume: '.*big.jsonl' has another content" || fail "resumed with another corpus"
mv "$work/big.kept" "$work/big.jsonl"
ok nla-extract "$@" --out "$out" --resume
same_set "$out"
same "$work/big.said" "$work/stdout"
# Killed between two of the renames that make it a set.
mkdir "$out/nla-extract.part"
mv "$out/rows.jsonl.gz" "$out/nla_meta.yaml" "$out/nla-extract.part"
ok nla-extract "$@" --out "$out" --resume
same_set "$out"
grep -q "^nothing left to do: '$out' is whole" "$work/stderr" || fail "$(cat "$work/stderr")"
same "$work/big.said" "$work/stdout"
# A whole set says with what it was made, like a part of one; without that at least its block counts.
run nla-extract "$@" --out "$out" --resume --seed 3
[ "$code" -eq 2 ] && said "cannot resume: 'seed' is 0 in '.*' and 3 now" || fail "a set of another seed: exits $code"
tool corpus 5000 600 >"$work/other.jsonl"
run nla-extract "$@" --out "$out" --resume --corpus "$work/other.jsonl"
[ "$code" -eq 2 ] && said "cannot resume: '.*other.jsonl' has another content" || fail "a set of another corpus: exits $code"
rm -r "$out/nla-extract.done"
run nla-extract "$@" --out "$out" --resume --layer 1
[ "$code" -eq 2 ] && said "is a whole set of block 2, and block 1 is asked for" || fail "a set of another block: exits $code"
# Stopped by a signal, continued by the last line's command; replaced by --overwrite.
out=$work/stopped-set
signalled batches.jsonl 2 TERM nla-extract "$@" --out "$out"
stopped "'$out' holds what is done: stopped after [0-9]* documents, [0-9]* rows"
go_on
same_set "$out"
signalled batches.jsonl 2 USR1 nla-extract "$@" --out "$out" --overwrite
stopped "'$out' holds what is done: stopped after"
[ ! -e "$out/nla_meta.yaml" ] || fail "--overwrite kept the former set"
ok nla-extract "$@" --out "$out" --overwrite
same_set "$out"
