# Bad input, as a user meets it: exit code 1 (what is there is wrong) or 2 (what was asked for makes no sense), and one line
# that says what and where.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
cd "$work"
model=$tiny/model av=$tiny/av ar=$tiny/ar

# Everything is fine but for what the arguments change: the last of a flag counts.
bad_train() {
	w=$1 p=$2
	shift 2
	refused "$w" "$p" nla-train --model "$model" --av "$av" --ar "$ar" --data train --out out --steps 1 "$@"
}
bad_eval() { w=$1 p=$2; shift 2; refused "$w" "$p" nla-eval --model "$model" --av "$av" --ar "$ar" --data held --out out "$@"; }
late_eval() { # CODE PATTERN FLAGS: fails when it has been said what is evaluated
	w=$1 p=$2
	shift 2
	run nla-eval --model "$model" --av "$av" --ar "$ar" --data held --out out "$@"
	[ "$code" -eq "$w" ] || fail "exits $code, want $w: $(cat "$work/stderr")"
	said "$p"
}
bad_extract() { w=$1 p=$2; shift 2; refused "$w" "$p" nla-extract --model "$model" --corpus train.jsonl --out new "$@"; }
copy() { # FOLDER NAME: a writable copy to spoil
	rm -rf "$2"
	cp -R "$1" "$2"
}

# ---- the configuration ----
config() { echo "$1" >config.json; }
config '{"rollout": {"promts": 2}}'
bad_train 2 "config.json': .*'rollout.promts'.*'rollout.prompts'" config.json
config '{"rolout": {"prompts": 2}}'
bad_train 2 "'rolout.*'rollout" config.json
config '{"rollout": {"group": "four"}}'
bad_train 2 "config.json': 'rollout.group' is \"four\": want an integer, 2 to 4096" config.json
config '{"update": {"clip": 1.5}}'
bad_train 2 "'update.clip' is 1.5.* 0 to 1" config.json
config '{"rollout": {"group": 2.5}}'
bad_train 2 "'rollout.group' is 2.5" config.json
config '{"rollout": {"group": 4,}}'
bad_train 2 "config.json.*line 1" config.json
config '{"reward": {"score": "cosine"}}'
bad_train 2 "'reward.score' is \"cosine\".*fve.*-mse" config.json
bad_train 2 "cannot read 'no.json': No such file" no.json
bad_train 2 "'rollout.group' is 1: want" --group 1
bad_train 2 "'rollout.prompts \* rollout.group \* rollout.max_new_tokens' is 4398046511104 tokens" --prompts 65536 --group 4096 --max-new-tokens 16384
bad_train 2 "is 268435456 tokens of 268435456 rows: want at most" --prompts 65536 --group 4096 --max-new-tokens 1
bad_train 2 "'rollout.temperature' is 0" --temperature 0
bad_train 2 "lora.targets" --lora.targets q,z
refused 2 "which bf16 is too coarse for: give --dtype fp32" nla-sft --role lm --dtype bf16 --model "$work/none" --corpus x --out "$work/no" # before it loads
bad_train 2 "'device' is 'gpu'.*cuda" --device gpu
bad_train 2 "'--lamda'.*lambda" --lamda 1
bad_train 2 "'av' is not set" --av ''
bad_train 2 "--steps" --steps
refused 2 "'explain.row' is 999.*rows 0 to 23" nla-explain --model "$model" --av "$av" --ar "$ar" --data held --row 999

# ---- the target ----
for what in model av ar; do
	bad_train 1 "cannot load (model|AV|AR) 'nowhere': there is no folder 'nowhere'" --$what nowhere
done
bad_eval 1 "cannot load AV 'nowhere': there is no folder 'nowhere'" --ref nowhere
bad_eval 1 "'.*/av': there is no folder 'nowhere'" --av_base nowhere
bad_extract 1 "there is no folder 'nowhere'" --extract.meta nowhere
refused 1 "cannot load model 'nowhere': there is no folder 'nowhere'" nla-teach --model "$model" --teacher nowhere --data held --out taught
copy "$model" m && rm m/model.safetensors
bad_train 1 "'m': it holds neither model.safetensors nor" --model m
copy "$model" m && tool clip m/model.safetensors 1000
bad_train 1 "m/model.safetensors.*1000 bytes" --model m
copy "$model" m && tool edit m/model.safetensors reshape model.layers.1.mlp.up_proj.weight
bad_train 1 "model.layers.1.mlp.up_proj.weight' has .*\[48, 80\], want .*\[80, 48\]" --model m
copy "$model" m && tool edit m/model.safetensors drop model.layers.3.input_layernorm.weight
bad_train 1 "model.layers.3.input_layernorm.weight" --model m
for prefix in module. _orig_mod. transformer.; do # of another program: a name that the file has is said
	copy "$model" m && tool rekey m/model.safetensors '' $prefix
	bad_train 1 "'m': tensor 'model.embed_tokens.weight' is missing: its tensors have names like '${prefix}model.embed_tokens.weight'" --model m
done
copy "$model" m && tool edit m/model.safetensors rename model.norm.weight ln_f.weight
bad_train 1 "'m': tensor 'model.norm.weight' is missing$" --model m # the others have the prefix that is wanted
copy "$model" m && rm m/tokenizer.json
bad_train 1 "'m'.*tokenizer.json" --model m
field() { # KEY JSON PATTERN: a field of config.json that would change the mathematics
	copy "$model" m && tool set m/config.json "$1" "$2"
	bad_train 1 "m/config.json': .*$3" --model m
}
field hidden_act '"gelu"' "'hidden_act' is 'gelu'"
field model_type '"gemma3"' "model_type 'gemma3' is not supported"
tool set m/tokenizer_config.json chat_template '"a template that nobody knows"' # nothing else is to be said of such a folder
bad_train 1 "m/config.json': model_type 'gemma3' is not supported" --model m
field use_sliding_window true "use_sliding_window"
field attention_bias true "attention_bias"
field num_attention_heads 5 "5 heads"
field hidden_size '"48"' "'hidden_size' is a string, want"
copy "$model" m && tool drop-key m/config.json rope_parameters
tool set m/config.json rope_scaling '{"rope_type": "yarn", "factor": 4, "attn_factor": 0.878}'
bad_train 1 "rope_scaling': 'rope_type' is 'yarn'" --model m
tool set m/config.json rope_scaling '{"type": "dynamic", "factor": 2}'
bad_train 1 "rope_scaling': '(rope_)?type' is 'dynamic'" --model m
copy "$model" m && tool set m/config.json vocab_size 300
bad_train 1 "ids, the model 300|shape" --model m

# ---- adapters and their sidecars ----
meta() { # FOLDER PATTERN-IN-FILE REPLACEMENT: a sidecar that says something else
	copy "$1" a
	sed -i "s/$2/$3/" a/nla_meta.yaml
	! cmp -s "$1/nla_meta.yaml" a/nla_meta.yaml || fail "the sidecar has no $2"
}
meta "$av" 'injection_token_id: .*' 'injection_token_id: 7'
bad_train 1 "a/nla_meta.yaml': injection_token_id is 7, the tokenizer gives" --av a
meta "$av" 'injection_left_neighbor_id: .*' 'injection_left_neighbor_id: 7'
bad_train 1 "a/nla_meta.yaml': the marker's neighbours have ids .* the sidecar says 7 and" --av a
meta "$av" 'injection_right_neighbor_id: .*' 'injection_right_neighbor_id: 7'
bad_train 1 "a/nla_meta.yaml': the marker's neighbours" --av a
meta "$av" 'layer_index: .*' 'layer_index: 1'
bad_train 1 "'a' is of block 1, the AR of block 2" --av a
meta "$av" 'layer_index: .*' 'layer_index: 9'
bad_train 1 "layer_index is 9, the model has blocks 0 to 4" --av a
meta "$av" 'd_model: 48' 'd_model: 64'
bad_train 1 "d_model is 64, the model's width is 48" --av a
meta "$av" 'role: .*' 'role: ar'
bad_train 1 "role is 'ar', want an AV" --av a
meta "$av" 'layer_index: .*' 'layer_index: two'
bad_train 1 "a/nla_meta.yaml': 'extraction.layer_index' is a string, want an integer" --av a
meta "$ar" '- 296' '- 297'
bad_train 1 "a/nla_meta.yaml': the AR prompt ends in ids 336 296 25, critic_suffix_ids says 336 297 25" --ar a
copy "$av" a && rm a/nla_meta.yaml
bad_train 1 "there is no 'a/nla_meta.yaml', .*: nla-extract --sidecar makes one" --av a
echo 'role: av' >a/nla_meta.yaml
bad_train 1 "a/nla_meta.yaml' lacks kind, d_model, tokens.injection_char, prompt_templates.av: add" --av a
copy "$ar" a && echo 'role: ar' >a/nla_meta.yaml
bad_train 1 "a/nla_meta.yaml' lacks kind, d_model, extraction.layer_index, prompt_templates.ar: add" --ar a
bad_train 1 "cannot load AV 'Qwen/Qwen3-8B': .*; if it is a name on the hub, run 'hf download Qwen/Qwen3-8B --local-dir DIR'" --av Qwen/Qwen3-8B
bad_train 1 "'hf download Qwen/Qwen3-8B" --model Qwen/Qwen3-8B
bad_train 1 "'hf download Qwen/set" --data Qwen/set
mkdir -p run/checkpoints/latest && copy "$av" run/checkpoints/latest/av
bad_train 1 "it is a run or a checkpoint: name 'run/checkpoints/latest/av'" --av run
copy "$av" a && mkdir a/default && mv a/adapter_* a/default
bad_train 1 "holds neither an adapter .*; 'a/default' has adapter_config.json: is that folder meant" --av a
key=base_model.model.model.layers.2.self_attn.q_proj
copy "$av" a && tool edit a/adapter_model.safetensors rename "$key.lora_A.weight" "$key.lora_C.weight"
bad_train 1 "1 keys are missing: '$key.lora_A.weight', 1 are unexpected: '$key.lora_C.weight'" --av a
for prefix in module.base_model.model.model. base_model.model.transformer. model.; do
	copy "$av" a && tool rekey a/adapter_model.safetensors base_model.model.model. $prefix
	bad_train 1 "70 keys are missing: 'base_model.model.model.layers.0..*, \.\.\., 70 are unexpected: '${prefix}layers.0.mlp.down_proj.lora_A.weight', " --av a
done
copy "$av" a && tool edit a/adapter_model.safetensors reshape "$key.lora_A.weight"
bad_train 1 "$key.lora_A.weight' has shape .*, want \[4, 48\]" --av a
copy "$av" a && tool clip a/adapter_model.safetensors 10
bad_train 1 "a/adapter_model.safetensors.*10 bytes" --av a
copy "$av" a && rm a/adapter_config.json
bad_train 1 "a/adapter_config.json" --av a
copy "$av" a && tool set a/adapter_config.json use_dora true
bad_train 1 "a/adapter_config.json': 'use_dora' is true" --av a
copy "$av" a && tool set a/adapter_config.json rank_pattern '[8]'
bad_train 1 "a/adapter_config.json': 'rank_pattern' is not an object" --av a
copy "$av" a && sed -i '0,/{/s//{"lora_alpha": 3,/' a/adapter_config.json
bad_train 1 "a/adapter_config.json': 'lora_alpha' is there twice" --av a
copy "$av" a && echo '[1]' >a/adapter_config.json
bad_train 1 "a/adapter_config.json'?: " --av a
copy "$model" m && sed -i '0,/{/s//{"rms_norm_eps": 0.1,/' m/config.json
bad_train 1 "m/config.json': 'rms_norm_eps' is there twice" --model m
copy "$ar" a && rm a/value_head.safetensors
bad_train 1 "a/value_head.safetensors" --ar a
copy "$ar" a && tool rekey a/value_head.safetensors '' value_head.
bad_train 1 "a/value_head.safetensors': tensor 'weight' is missing: its tensors have names like 'value_head.weight'" --ar a
copy "$ar" a && tool edit a/value_head.safetensors widen weight
bad_train 1 "a/value_head.safetensors': tensor 'weight' has shape \[48, 96\], want \[48, 48\]" --ar a

# ---- activation sets ----
bad_train 1 "activation set 'nowhere': no such folder" --data nowhere
copy train s && tool edit s/activations.safetensors widen activations
bad_train 1 "'s': tensor 'activations' has shape \[48, 96\], want \[N, 48\]" --data s
sed -i 's/d_model: 48/d_model: 96/' s/nla_meta.yaml
bad_train 1 "'s' has vectors of width 96, want 48" --data s
copy train s && tool edit s/activations.safetensors nan activations 100
bad_train 1 "'s': row 2 \(document 'doc-1'\) has a NaN at dimension 4" --data s
copy train s && tool clip s/activations.safetensors 5
bad_train 1 "s/activations.safetensors.* 5 bytes" --data s
copy train s && tool clip s/rows.jsonl.gz 20
bad_train 1 "s/rows.jsonl.gz" --data s
copy train s && cp held/rows.jsonl.gz s
bad_train 1 "'s': 48 vectors, but 24 lines" --data s
copy train s && sed -i '/layer_index/d' s/nla_meta.yaml
bad_train 1 "s/nla_meta.yaml' lacks extraction.layer_index: add" --data s
refused 1 "s/nla_meta.yaml' lacks extraction.layer_index: add" nla-sft --role av --model "$model" --data s --out out
copy train s && sed -i '/^  av:/d; /injection_char/d' s/nla_meta.yaml
refused 1 "cannot train on 's': .* lacks tokens.injection_char, prompt_templates.av: add" nla-sft --role av --model "$model" --data s --out out
copy train s && rm s/nla_meta.yaml
bad_train 1 "'s' is not complete: it has no nla_meta.yaml" --data s
copy train s && sed -i 's/layer_index: 2/layer_index: 3/' s/nla_meta.yaml
bad_train 1 "'s' is of block 3, the AV of block 2" --data s
meta "$ar" 'layer_index: 2' 'layer_index: 1' # an AR of block 1: without the adapter of block 2
tool tensors a/adapter_model.safetensors | cut -d ' ' -f 1 | grep layers.2 | while read -r key; do
	tool edit a/adapter_model.safetensors drop "$key"
done
bad_train 1 "'$av' is of block 2, the AR of block 1" --ar a
bad_eval 1 "'$av' is of block 2, the AR of block 1" --ar a
refused 1 "'$av' is of block 2, the AR of block 1" nla-explain --model "$model" --av "$av" --ar a --text 'the cat'
bad_train 1 "document 'doc-[0-9]+' is in the training set 'train' and in the evaluation set 'train'" --eval.data train
copy train s && tool unexplain s
refused 1 "'s': no row has an explanation" nla-sft --role av --model "$model" --data s --out out
[ ! -e out ] || fail "a run that could not begin left a folder"

# ---- corpora, and what nla-extract leaves alone ----
extract() { w=$1 p=$2; shift 2; bad_extract "$w" "$p" --extract.min_position 5 --layer 2 "$@"; }
: >empty.txt
extract 1 "'empty.txt' gave no row: its 0 documents" --corpus empty.txt
extract 1 "'train.jsonl' gave no row: its 24 documents are empty or shorter than extract.min_position = 500 tokens" \
	--extract.min_position 500
extract 1 "cannot open corpus 'nowhere.txt'" --corpus nowhere.txt
printf 'fine\n\377\376\n' >bytes.txt
extract 1 "bytes.txt': line 2 is not valid UTF-8" --corpus bytes.txt
echo '{"txt": "a"}' >key.jsonl
extract 1 "key.jsonl:1': 'text' is missing" --corpus key.jsonl
gzip -c train.jsonl >cut.jsonl.gz && tool clip cut.jsonl.gz 20
extract 1 "cut.jsonl.gz" --corpus cut.jsonl.gz
extract 2 "'extract.layer' is 5: .* blocks 0 to 4" --layer 5
extract 2 "'templates.marker' is 'cat dog': the marker 'cat dog' is [0-9]+ tokens.*these work: '.*', '.*', '.*'" --templates.marker 'cat dog'
extract 1 "'templates.av': template has '.injection_char.' nowhere" --templates.av 'no slot'
extract 1 "explanation" --templates.ar 'Text: {explanation}'
[ ! -e new/nla_meta.yaml ] || fail "a failed extraction left a sidecar"
copy held there && echo mine >there/notes.txt && mkdir there/more && echo mine >there/more/notes.txt
extract 2 "'there': there is one already: give --overwrite to replace it, or another --out" --out there
same held/nla_meta.yaml there/nla_meta.yaml
extract 1 "nowhere.txt" --out there --overwrite --corpus nowhere.txt
same held/activations.safetensors there/activations.safetensors # what fails before it begins takes nothing away
ok nla-extract --model "$model" --corpus train.jsonl --out there --overwrite --extract.min_position 5 --layer 2
[ "$(cat there/notes.txt there/more/notes.txt)" = "mine
mine" ] || fail "--overwrite took what is not the set's"
[ "$(gzip -dc there/rows.jsonl.gz | wc -l)" -eq 24 ] || fail "--overwrite made another set"
differ held/activations.safetensors there/activations.safetensors

# ---- numbers that are none, in each file of weights ----
key=base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight
for part in av ar; do
	copy "$tiny/$part" a && tool edit a/adapter_model.safetensors nan $key 3
	bad_train 1 "tensor '$key' has a NaN or an infinity \(element 3\)" --$part a
done
copy "$ar" a && tool edit a/value_head.safetensors nan weight 5
bad_train 1 "tensor 'weight' has a NaN or an infinity \(element 5\)" --ar a

# ---- a vector, a text, a row ----
explain() { w=$1 p=$2; shift 2; refused "$w" "$p" nla-explain --model "$model" --av "$av" --ar "$ar" "$@"; }
tool vector v.safetensors 48 && cp v.safetensors nan.safetensors && tool edit nan.safetensors nan v 7
explain 1 "cannot load 'nan.safetensors': tensor 'v' has a NaN or an infinity \(element 7\)" --vector nan.safetensors
tool vector short.safetensors 40
explain 1 "'short.safetensors': want one float tensor, \[D\] or \[N, D\], of vectors of 48 numbers" --vector short.safetensors
python3 -B - <<'END'
import os, sys
sys.path.insert(0, os.path.join(os.environ["SOURCE_DIR"], "tests", "command"))
import tool
tool.write_tensors("zeros.safetensors", {"v": ("F32", [2, 48], b"\0\0\x80\x3f" * 48 + bytes(4 * 48))})
END
explain 1 "'zeros.safetensors': vector 1 is all zeros" --vector zeros.safetensors
explain 1 "cannot .*'no.safetensors'" --vector no.safetensors
explain 2 "position 50 is outside the text's" --text 'the cat' --position 50
explain 2 "'data' is not set" --row 0

# ---- texts to score ----
score() { printf '%s\n' "$3" >given.jsonl; late_eval "$1" "$2" --score given.jsonl; }
score 1 "'given.jsonl line 1'.*" 'not json'
score 1 "given.jsonl line 1': row 24 is outside 'held' of 24 rows" '{"row": 24, "explanation": "a"}'
score 1 "given.jsonl line 1': row -1 is outside" '{"row": -1, "explanation": "a"}'
score 1 "given.jsonl line 1'.*'row' is missing" '{"explanation": "a"}'
score 1 "given.jsonl line 2': has neither 'explanation' nor 'response'" '{"row": 0, "explanation": "a"}
{"row": 1, "text": "a"}'
score 1 "given.jsonl line 1'.*'explanation' is a number" '{"row": 0, "explanation": 3}'
score 1 "given.jsonl line 1'.*'row' is" '{"row": 0.5, "explanation": "a"}'
score 1 "given.jsonl line 1': 'ids' has what is no token id" '{"row": 0, "response": "a", "ids": [1, 99999]}'
{
	seq 140000 | sed 's/.*/{"row": 0, "response": ""}/'
	echo "{\"row\": 0, \"response\": \"\", \"ids\": [$(seq 16384 | sed 's/.*/5/' | paste -sd ,)]}"
} >given.jsonl
late_eval 2 "24 rows \* 'eval.samples' \* 'rollout.max_new_tokens' are more than 268435456 tokens: evaluate fewer" --eval.samples 4096 --max-new-tokens 16384
late_eval 1 "140001 responses, the longest of 16384 tokens, are too many at once" --score given.jsonl
: >given.jsonl
late_eval 1 "'given.jsonl' holds no line to score" --score given.jsonl
late_eval 1 "nowhere.jsonl" --score nowhere.jsonl

# ---- folders that cannot be written ----
echo file >wall
bad_train 1 "wall" --out wall/run
late_eval 1 "wall" --out wall/eval
extract 1 "wall" --out wall/set
refused 1 "wall" nla-sft --role ar --model "$model" --data train --out wall/sft
[ ! -d /proc/self ] || bad_train 1 "/proc/nla-run" --out /proc/nla-run
[ "$(cat wall)" = file ] || fail "the file in the way was changed"
