#!/usr/bin/env bash
# make-demo.sh - makes everything below demo/ that is not text: the target, its activation sets, the warm-started AV and AR.
#
#	scripts/make-demo.sh [--out demo] [--work runs/make-demo] [--threads N]
#
# Needs scripts/setup.sh --reference for one thing: training the tokenizer. All else is our own programs. Stages that are finished
# are skipped, unfinished ones resumed, so it may be interrupted. Seeds are fixed below; on two cores about 35 minutes:
#
#	corpora and tokenizer     1 min   24,000 stories and 24,000 chats (seed 1)
#	target (nla-sft lm)      15 min   2200 steps of 32 sequences
#	activations               2 min   40,000 rows to warm-start on (seed 2), 4,000 for RL (seed 3), 500 held out (seed 4)
#	AR warm-start             7 min   1500 steps of 64 rows, LoRA rank 32 on all projections, head frozen at the identity
#	AV warm-start             8 min   1000 steps of 64 rows, LoRA rank 32 on all projections
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/demo work=$root/runs/make-demo threads=0
while [ $# -gt 0 ]; do
	case $1 in
	--out) out=$2 ;;
	--work) work=$2 ;;
	--threads) threads=$2 ;;
	*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 2 ;;
	esac
	shift 2
done
# shellcheck source=scripts/setup.sh
. "$root/scripts/setup.sh"
[ -x "$NLA_REFERENCE" ] || { echo "make-demo: training the tokenizer needs scripts/setup.sh --reference" >&2; exit 1; }
stories=$root/demo/stories.py
# shellcheck disable=SC2054  # commas within one word
lora=(--lora.rank 32 --lora.alpha 64 --lora.targets q,k,v,o,gate,up,down)
mkdir -p "$work/corpus" "$work/model" "$out"
out=$(cd "$out" && pwd)
cd "$work"

once() { # FILE COMMAND...: run unless FILE is there
	local file=$1
	shift
	[ ! -e "$file" ] || return 0
	echo "make-demo: $*" >&2
	"$@" || { code=$?; echo "make-demo: stopped before '$file' was there; the same command continues it" >&2; exit $code; }
}

once corpus/stories.jsonl.gz python3 "$stories" corpus --seed 1 --docs 24000 --split pretrain --out corpus/stories.jsonl.gz
once corpus/chat.jsonl.gz python3 "$stories" chat --seed 1 --docs 24000 --out corpus/chat.jsonl.gz
once model/tokenizer.json "$NLA_REFERENCE" "$stories" tokenizer --corpus corpus/stories.jsonl.gz --chat corpus/chat.jsonl.gz \
	--out model/tokenizer.json
once lm/checkpoints/step-2200/state.json "$NLA_BUILD/nla-sft" --role lm --model model --corpus corpus --out lm --resume --sft.init true \
	--lr 3e-3 --batch 32 --sft.warmup 100 --steps 2200 --checkpoint.every 200 --log.every 50 --threads "$threads"
rm -rf "$out/model"
cp -r lm/checkpoints/latest/model "$out/model"

# The prompts that the chats above have taught the target.
python3 "$stories" templates | python3 -c '
import json, sys
t = json.load(sys.stdin)
json.dump({"templates": {"av": t["av"], "ar": t["ar"], "marker": t["injection_char"]},
           "extract": {"layer": t["layer_index"], "min_position": t["min_position"], "max_tokens": t["max_tokens"], "next": 5}},
          open("extract.json", "w"))'
extract() { # NAME SPLIT SEED DOCS
	once "$1.jsonl.gz" python3 "$stories" corpus --seed "$3" --docs "$4" --split "$2" --out "$1.jsonl.gz"
	once "$1/nla_meta.yaml" sh -c "'$NLA_BUILD/nla-extract' --model '$out/model' --corpus '$1.jsonl.gz' --out '$1.part' --resume \
		--threads '$threads' extract.json && mv '$1.part' '$1'"
	once "$1/explained" sh -c "python3 '$stories' explain --rows $1/rows.jsonl.gz --corpus $1.jsonl.gz --seed 1 --out $1.rows.gz &&
		mv $1.rows.gz $1/rows.jsonl.gz && touch $1/explained"
}
extract warm train 2 40000
extract train train 3 4000
extract eval eval 4 500
once ar/checkpoints/step-1500/state.json "$NLA_BUILD/nla-sft" --role ar --model "$out/model" --data warm --out ar --resume "${lora[@]}" --lr 2e-3 \
	--batch 64 --steps 1500 --checkpoint.every 250 --log.every 50 --threads "$threads"
once av/checkpoints/step-1000/state.json "$NLA_BUILD/nla-sft" --role av --model "$out/model" --data warm --out av --resume "${lora[@]}" --lr 3e-3 \
	--batch 64 --steps 1000 --checkpoint.every 250 --log.every 50 --threads "$threads"

for part in av ar train eval; do rm -rf "${out:?}/$part"; done
cp -r av/checkpoints/latest/av "$out/av"
cp -r ar/checkpoints/latest/ar "$out/ar"
sed -i 's|"base_model_name_or_path": .*|"base_model_name_or_path": "demo/model",|' "$out"/a[vr]/adapter_config.json # from the repository's root
cp -r train eval "$out"
rm -rf "$out"/*/explained "$out"/*/nla-extract.done # what continues a stage
[ "$out" -ef "$root/demo" ] || cp "$root/demo/config.json" "$out"
du -sh "$out"
