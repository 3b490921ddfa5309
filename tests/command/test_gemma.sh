# A small Gemma 3 from random weights to an exported AV: alone and inside a folder with other modalities, in both spellings of its tensors,
# with both ways to inject; the texts are the same, and transformers and PEFT compute the same numbers.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
cd "$work"
python3 -B - "$SOURCE_DIR/tests" <<'END'
import json, shutil, sys
sys.path.insert(0, f"{sys.argv[1]}/golden")
from chat_templates import TEMPLATES
shutil.copytree(f"{sys.argv[1]}/data/tokenizer/gemma", "text", ignore=shutil.ignore_patterns("golden.json"))
open("text/chat_template.jinja", "w").write(next(t[3] for t in TEMPLATES if t[0] == "gemma3"))
config = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": 699, "hidden_size": 48, "intermediate_size": 96,
          "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 12,
          "sliding_window": 12, "sliding_window_pattern": 3, "max_position_embeddings": 512, "rope_local_base_freq": 1000,
          "rope_theta": 100000, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "initializer_range": 0.2, "bos_token_id": 2,
          "eos_token_id": 1, "pad_token_id": 0}
json.dump(config, open("text/config.json", "w"))
json.dump({"eos_token_id": [1, 8]}, open("text/generation_config.json", "w"))
config.pop("architectures") # as the published folders have it
inside = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": config, "eos_token_id": [1, 8],
          "mm_tokens_per_image": 1, "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 8,
                                                     "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28, "patch_size": 14}}
json.dump(inside, open("inside.json", "w"))
END
tool corpus 0 24 >train.jsonl
ok nla-sft --role lm --model text --sft.init true --sft.corpus train.jsonl --sft.held_out 0 --steps 3 --batch 4 --lr 1e-2 --sft.warmup 0 --out lm
cp lm/checkpoints/latest/model/model.safetensors text/
for spelling in language_model.model. model.language_model.; do
	cp -R text "in-$spelling"
	cp inside.json "in-$spelling/config.json"
	tool rekey "in-$spelling/model.safetensors" model. "$spelling"
done
mv in-language_model.model. inside
extract() { # MODEL OUT
	ok nla-extract --model "$1" --corpus train.jsonl --layer 2 --extract.min_position 5 --extract.per_doc 2 --extract.dtype fp32 \
		--templates.marker '^' --templates.av 'Say what this holds, inside <explanation> tags. Vector: {injection_char} .' \
		--templates.ar 'A text: {explanation} Vector:' --out "$2"
}
extract text set
extract inside set-inside
extract in-model.language_model. set-other
same set/activations.safetensors set-inside/activations.safetensors
same set/activations.safetensors set-other/activations.safetensors
tool explain set

warm=sft/checkpoints/latest/av
ok nla-sft --role av --model inside --data set --out sft --steps 300 --batch 16 --lr 0.01 --sft.warmup 5 --sft.held_every 1000 \
	--sft.held_out 0.1 --checkpoint.every 0 --lora.rank 8 --lora.alpha 16 --lora.targets q,k,v,o,gate,up,down
grep -q 'format: "gemma"' $warm/nla_meta.yaml || fail "the AV says $(cat $warm/nla_meta.yaml)"
tool tensors $warm/adapter_model.safetensors | grep -v '^base_model.model.model.language_model.layers.' && fail "keys that are not PEFT's"
ok nla-sft --role ar --model inside --data set --out ar-sft --steps 4 --batch 8 --sft.warmup 0 --sft.held_out 0.1
ar=ar-sft/checkpoints/latest/ar
cp -R -L $warm av
cp -R av embed
sed -i 's/injection_mode: .*/injection_mode: embed_replace/; s/injection_scale: null/injection_scale: 300.0/' embed/nla_meta.yaml
for av in av embed; do
	ok nla-eval --model inside --av $av --ar $ar --data set --rows 6 --max-new-tokens 40 --temperature 0 --out eval-$av
	grep -q '"failed": *null' eval-$av/rows.jsonl || fail "no response of $av has closed tags"
done
ok nla-train --model inside --av av --ar $ar --data set --prompts 2 --group 4 --max-new-tokens 30 --steps 2 --lr 1e-3 --out run
ok nla-train --model inside --av embed --ar $ar --data set --prompts 2 --group 4 --max-new-tokens 30 --steps 1 --update.recompute true --out run-embed
ok nla-explain --model inside --av run/checkpoints/latest/av --ar $ar --text "the cold river sings" --max-new-tokens 20
ok nla-explain --model inside --av av --ar $ar --text "the cold river sings" --positions every:9223372036854775807 --max-new-tokens 4
[ "$(sed -n 's/^{"position":\([-0-9]*\),.*/\1/p' stdout)" = 1 ] || fail "every:2^63-1: $(cat stdout)"
ok nla-export --model inside --av av --out whole --export.dtype fp32
ok nla-export --model inside --ar $ar --out cut --export.dtype fp32
cp -R -L $ar bare-ar
sed -i '/add_special/d' bare-ar/nla_meta.yaml
ok nla-export --model inside --ar bare-ar --out bare-cut --export.dtype fp32 --tokens.add_special false
grep -q 'add_special: false' bare-cut/nla_meta.yaml || fail "the export forgets that it reads no special tokens: $(cat bare-cut/nla_meta.yaml)"
[ "$(tool get whole/config.json model_type)" = gemma3_text ] &&
	grep -q '"architectures":.*\["Gemma3ForCausalLM"\]' whole/config.json || fail "the export is not the language model alone: $(cat whole/config.json)"
ok nla-explain --model inside --av av --ar $ar --data set --row 3 --max-new-tokens 30 --temperature 0
cp stdout adapters
ok nla-explain --av whole --ar cut --data set --row 3 --max-new-tokens 30 --temperature 0
python3 - adapters stdout <<'END'
import json, sys
a, b = (json.load(open(x)) for x in sys.argv[1:])
assert a["response"] == b["response"] and abs(a["mse"] - b["mse"]) < 1e-4, (a, b)
END

[ -x "${REFERENCE_PYTHON:-/nowhere}" ] || skip "our own programs passed; without a reference Python nothing was compared with transformers"
check() {
	status=0
	"$REFERENCE_PYTHON" -B "$SOURCE_DIR/tests/reference/peft_check.py" --tolerance 1e-4 "$@" >peft 2>&1 || status=$?
	[ "$status" -ne 77 ] || skip "$(tail -n 1 peft)"
	[ "$status" -eq 0 ] || fail "peft_check $*: $(tail -n 3 peft)"
	tail -n 1 peft
}
# transformers draws a vision tower, which no text reaches
check --model inside --data set --rows eval-av/rows.jsonl --av av --ar $ar
check --model inside --data set --rows eval-embed/rows.jsonl --av embed
check --model text --data set --rows eval-av/rows.jsonl --av-model whole --ar cut
check --model inside --adapter av --merged whole
