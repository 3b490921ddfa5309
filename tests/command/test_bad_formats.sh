# What is wrong with a folder in one of the field's layouts: exit code 1 and one line that names file and cause.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_set held 100 12
cd "$work"
model=$tiny/model av=$tiny/av ar=$tiny/ar
ok nla-export --model "$model" --av "$av" --ar "$ar" --out whole --export.dtype fp32
ok nla-export --model "$model" --av "$av" --out shards --export.shard 0.0001
tool nano "$ar" nano true
echo '{"row": 0, "explanation": "the red fox"}' >given.jsonl
{ cat given.jsonl && echo '{"row": 1, "explanation": "a cold sea"}'; } >two.jsonl
copy() {
	rm -rf "$2"
	cp -R "$1" "$2"
}
bad_av() { pattern=$1; shift; refused 1 "$pattern" nla-eval --model "$model" --av "$@" --ar "$ar" --data held --score given.jsonl --out no; }
bad_ar() { pattern=$1; shift; refused 1 "$pattern" nla-eval --model "$model" --av "$av" --ar "$@" --data held --score given.jsonl --out no; }
key=base_model.model.model.layers.2.self_attn.q_proj

# ---- whole AVs ----
copy whole/av a && rm a/model.safetensors
bad_av "cannot load AV 'a': 'a' holds neither an adapter .* nor a whole checkpoint" a
copy whole/av a && rm a/nla_meta.yaml
bad_av "a/nla_meta.yaml" a
copy whole/av a && tool clip a/model.safetensors 100
bad_av "a/model.safetensors.* 100 bytes" a
copy whole/av a && tool retype a/model.safetensors model.layers.1.mlp.up_proj.weight I32
bad_av "model.layers.1.mlp.up_proj.weight' has type I32, want F32, BF16 or F16" a
copy whole/av a && tool edit a/model.safetensors drop model.norm.weight
bad_av "tensor 'model.norm.weight' is missing" a
copy whole/av a && printf 'garbage' | dd of=a/model.safetensors conv=notrunc 2>/dev/null
bad_av "cannot .*'?a/model.safetensors" a
copy shards a && rm a/model-00002-of-*.safetensors
bad_av "model-00002-of-" a
copy shards a && sed -i 's/"model.norm.weight": "model-00[0-9]*/"model.norm.weight": "model-00001/' a/model.safetensors.index.json
bad_av "model.norm.weight" a
copy whole/av a && sed -i 's/critic_suffix_ids: .*/critic_suffix_ids: [1, 2]/' a/nla_meta.yaml
bad_av "the AR prompt ends in ids .* critic_suffix_ids says 1 2" a
copy whole/av a && echo '  tokenizer_crc: 1' >crc && sed -i '/^tokens:/r crc' a/nla_meta.yaml
bad_av "a/nla_meta.yaml': was made with another tokenizer than" a
copy whole/av a && sed -i 's/injection_mode: .*/injection_mode: embed_replace/' a/nla_meta.yaml
bad_av "'extraction.injection_mode' is embed_replace, but there is no injection_scale" a
bad_av "role is 'ar', want an AV" whole/ar

# ---- adapters ----
copy "$av" a && tool edit a/adapter_model.safetensors rename "$key.lora_A.weight" "$key.lora_A.other.weight"
bad_av "1 keys are missing: '$key.lora_A.weight', 1 are unexpected: '$key.lora_A.other.weight'" a
copy "$av" a && tool edit a/adapter_model.safetensors drop "$key.lora_B.weight"
bad_av "1 keys are missing: '$key.lora_B.weight', 0 are unexpected" a
copy "$av" a && tool retype a/adapter_model.safetensors "$key.lora_A.weight" I32
bad_av "tensor '$key.lora_A.weight' has type I32" a
copy "$av" a && tool edit a/adapter_model.safetensors rename "$key.lora_A.weight" base_model.model.lm_head.lora_A.weight
bad_av "1 are unexpected: 'base_model.model.lm_head.lora_A.weight'" a
copy "$av" a && tool set a/adapter_config.json rank_pattern '{"layers.3.q_proj": 2}'
bad_av "'rank_pattern' has 'layers.3.q_proj', only whole projections are supported" a
copy "$av" a && sed -i 's/"rank_pattern"[^}]*}/"rank_pattern": {"q_proj": 1e999}/' a/adapter_config.json
bad_av "rank of 'q_proj' is inf, want a whole number from 1 to" a
copy "$av" a && sed -i 's/"alpha_pattern"[^}]*}/"alpha_pattern": {"q_proj": 1e999}/' a/adapter_config.json
bad_av "alpha of 'q_proj' is inf, want a finite number" a
for init in pissa pissa_niter_4 olora corda loftq lora_ga; do
	copy "$av" a && tool set a/adapter_config.json init_lora_weights "\"$init\""
	bad_av "'init_lora_weights' is '$init': it changes the base's weights" a
done
for key_of in 'alora_invocation_tokens [1, 2]' 'layer_replication [[0, 2]]' 'target_parameters ["a"]' 'use_bdlora {"x": 1}' 'arrow_config {"x": 1}' \
	'monteclora_config {"x": 1}' 'kasa_config {"beta": 1}' 'velora_config {"x": 1}' 'use_qalora true' 'use_dora true' 'modules_to_save ["lm_head"]'; do
	copy "$av" a && tool set a/adapter_config.json "${key_of%% *}" "${key_of#* }"
	bad_av "a/adapter_config.json': '${key_of%% *}' is .*, only .* is supported" a
done
for init in null true false '"gaussian"' '"eva"' '"mica"' '"orthogonal"'; do
	copy "$av" a && tool set a/adapter_config.json init_lora_weights "$init"
	ok nla-eval --model "$model" --av a --ar "$ar" --data held --score two.jsonl --out "scored-$init"
done
copy "$av" a && echo 'base_folder: "gone"' >>a/nla_meta.yaml
bad_av "'a' stands on the checkpoint 'a/gone', which is not there: say where it is with av_base" a
bad_av "'$work' is no whole checkpoint" "$av" --av_base "$work"
refused 2 "'whole/av' is a whole checkpoint itself: take 'shards' out of av_base or ar_base" nla-eval --model "$model" --av whole/av --av_base shards \
	--ar "$ar" --data held --score given.jsonl --out no

# ---- reconstructors ----
copy whole/ar a && sed -i 's/layer_index: 2/layer_index: 3/' a/nla_meta.yaml
bad_ar "'.*/a': it has 3 blocks, want 4" a
copy whole/ar a && tool set a/config.json num_hidden_layers 4
sed -i 's/layer_index: 2/layer_index: 3/' a/nla_meta.yaml
bad_ar "tensor 'model.layers.3.input_layernorm.weight' is missing" a
copy whole/ar a && sed -i 's/layer_index: 2/layer_index: 1/' a/nla_meta.yaml
bad_ar "'.*/av' is of block 2, the AR of block 1" a
copy whole/ar a && sed -i 's/layer_index: 2/layer_index: 7/' a/nla_meta.yaml # critic.extraction_layer_index too
bad_ar "critic.extraction_layer_index is 7, the model has blocks 0 to 4" a
copy a b && sed -i '/^  layer_index/d' b/nla_meta.yaml # kitft's have the critic's alone
bad_ar "critic.extraction_layer_index is 7, the model has blocks 0 to 4" b
copy whole/ar a && sed -i 's/mse_scale: .*/mse_scale: null/' a/nla_meta.yaml
bad_ar "a/nla_meta.yaml': extraction.mse_scale is null, an AR of raw vectors: only sqrt_d_model is supported" a
copy whole/ar a && sed -i 's/mse_scale: .*/mse_scale: 7.5/' a/nla_meta.yaml
bad_ar "extraction.mse_scale is 7.5, only sqrt_d_model \(6.9282\) is supported" a
refused 1 "extraction.mse_scale is 7.5" nla-export --model "$model" --ar a --out no
copy whole/ar a && sed -i 's/mse_scale: .*/mse_scale: 6.9282032/; /d_model:/d' a/nla_meta.yaml
bad_ar "a/nla_meta.yaml' lacks .*d_model" a
copy whole/ar a && sed -i 's/mse_scale: .*/mse_scale: 6.9282032/' a/nla_meta.yaml
ok nla-eval --model "$model" --av "$av" --ar a --data held --score two.jsonl --out scored-number
copy whole/ar a && rm a/value_head.safetensors
bad_ar "a/value_head.safetensors" a
copy whole/ar a && tool edit a/value_head.safetensors rename weight bias
bad_ar "tensor 'weight' is missing" a
copy whole/ar a && echo '{"ar_num_layers": 3}' >a/ar_meta.json # of before final_norm_stripped: the norm is needed
bad_ar "tensor 'model.norm.weight' is missing" a
copy nano a && tool set a/ar_meta.json quant '"4bit"'
ok nla-eval --model "$model" --av "$av" --ar a --data held --score two.jsonl --out scored-quant
grep -q "warning: 'a/ar_meta.json': 'quant' is '4bit'" "$work/stderr" || fail "no word on quantised weights: $(cat "$work/stderr")"
copy nano a && tool set a/ar_meta.json ar_num_layers 5
bad_ar "ar_meta.json': ar_num_layers is 5, the sidecar's block 2 needs 3" a
copy nano a && tool set a/ar_meta.json ar_num_layers -1
bad_ar "ar_meta.json': ar_num_layers is -1, want a number of blocks" a
copy nano a && tool drop-key a/ar_meta.json ar_num_layers
bad_ar "ar_meta.json': 'ar_num_layers' is missing" a
copy nano a && tool edit a/ar_lora_value_head.safetensors drop value_head.weight
bad_ar "tensor 'value_head.weight' is missing" a
copy nano a && rm a/ar_meta.json
bad_ar "a/adapter_config.json" a
copy nano a && tool set a/ar_meta.json lora_r 3
bad_ar "lora_A.*weight' has shape \[4, 48\], want \[3, 48\]" a

# ---- counts that no file has: each is refused by its name, before anything is made of it ----
for n in 9007199254740992 1e300 4294967297 -1; do
	copy "$av" a && tool set a/adapter_config.json r $n
	bad_av "a/adapter_config.json': 'r' is [-+0-9e]*, want a number from 1 to 65536" a
	copy "$av" a && tool set a/adapter_config.json rank_pattern "{\"q_proj\": $n}"
	bad_av "a/adapter_config.json': rank of 'q_proj' is .*, want a whole number from 1 to 65536" a
	for field in lora_r ar_num_layers; do
		copy nano a && tool set a/ar_meta.json $field $n
		bad_ar "a/ar_meta.json': '?$field'? is [-+.0-9e]*, want " a
	done
	for field in layer_index d_model injection_token_id injection_left_neighbor_id; do
		copy "$av" a && sed -i "s/\(^ *\)$field: .*/\1$field: $n/" a/nla_meta.yaml
		bad_av "a/nla_meta.yaml': '(extraction.|tokens.)?$field' is [-+.0-9e]*, want " a
	done
	copy held s && sed -i "s/^row_count: .*/row_count: $n/" s/nla_meta.yaml
	refused 1 "s(/nla_meta.yaml)?': ('row_count' is [-+.0-9e]*, want |24 vectors, but its sidecar says $n)" nla-eval --model "$model" --av "$av" --ar "$ar" --data s \
		--score given.jsonl --out no
done

# ---- exports: what fails leaves no sidecar ----
bad_export() { pattern=$1; shift; refused 1 "$pattern" nla-export --model "$model" --out no "$@"; [ ! -e no/nla_meta.yaml ] || fail "a failed export left a sidecar"; rm -rf no; }
bad_export "cannot export 'nowhere': .*there is no folder 'nowhere'" --av nowhere
bad_export "role is 'ar', want an AV" --av "$ar"
copy "$model" m && tool edit m/model.safetensors drop model.layers.1.self_attn.o_proj.weight
bad_export "model.layers.1.self_attn.o_proj.weight' is missing" --av "$av" --model m
for lost in model.layers.1.mlp.up_proj.weight model.layers.4.self_attn.k_norm.weight model.norm.weight model.embed_tokens.weight; do
	copy whole/av n && tool edit n/model.safetensors drop $lost
	bad_export "cannot export 'n'.*tensor '$lost' is missing" --av n
done
copy "$ar" a && tool edit a/adapter_model.safetensors drop "$key.lora_B.weight"
bad_export "cannot export 'a'.*1 keys are missing" --ar a

# ---- rows of a slim set ----
mkdir slim && cp held/rows.jsonl.gz held/nla_meta.yaml slim
slim() { pattern=$1; shift; refused 1 "$pattern" nla-extract --model "$model" --corpus slim --extract.meta slim --extract.at last --out no "$@"; }
tool clip slim/rows.jsonl.gz 20
slim "slim/rows.jsonl.gz"
echo '{"text": "a", "n_raw_tokens": "four"}' | gzip >slim/rows.jsonl.gz
slim "slim/rows.jsonl.gz:1': 'n_raw_tokens' is a string"
cp held/rows.jsonl.gz slim && rm slim/nla_meta.yaml
slim "slim/nla_meta.yaml"
cp held/nla_meta.yaml slim && sed -i '/^prompt_templates:/,/^  ar:/d' slim/nla_meta.yaml
slim "'slim' lacks prompt_templates.av, prompt_templates.ar: add"

# ---- the block of another sidecar: its critic's, and never a guess ----
copy whole/ar like && sed -i '/^  layer_index/d; s/extraction_layer_index: 2/extraction_layer_index: 1/' like/nla_meta.yaml
cp held/nla_meta.yaml slim && echo '{"text": "a red fox and a cold sea"}' | gzip >slim/rows.jsonl.gz
ok nla-extract --model "$model" --corpus slim --extract.meta like --extract.at last --out like-set
grep -q '"layer": 1,' stdout || fail "the critic's block was not taken: $(cat stdout)"
copy like unsaid && sed -i '/^critic:/,/^  extraction_layer_index/d' unsaid/nla_meta.yaml
refused 2 "'unsaid': its sidecar names no block \(layer_index\): say which with extract.layer" nla-extract --model "$model" --corpus slim \
	--extract.meta unsaid --extract.at last --out no

# ---- explanations longer than the model's positions (512): a failed row, and left out of training before its first step ----
long=$(python3 -c 'print("the red fox " * 200)')
{ cat two.jsonl && echo "{\"row\": 2, \"explanation\": \"$long\"}"; } >long.jsonl
ok nla-eval --model "$model" --av "$av" --ar "$ar" --data held --score long.jsonl --out long
[ "$(tool get long/summary.json failed.over_long)" = 1 ] || fail "the long explanation was scored"
sft() { echo "nla-sft --model $model --steps 1 --batch 4 --lora.rank 2 --sft.warmup 0 --sft.held_out 0.25 $*"; }
copy held taught && tool explain taught && tool lengthen taught 3 "$long"
ok $(sft --role ar --ar "$ar" --data taught --out sft-ar)
grep -q "^3 rows left out: 3 are longer than the 512 tokens the model reads, 0 merge" stderr || fail "no word of the long rows: $(cat stderr)"
ok $(sft --role av --av "$av" --data taught --out sft-av)
grep -q "^3 rows left out: 3 are longer than the 512 tokens" stderr || fail "no word of the long rows: $(cat stderr)"
tool lengthen taught 99 "$long"
run $(sft --role ar --ar "$ar" --data taught --out sft-none)
[ "$code" -eq 1 ] || fail "nla-sft without a row it can read exits $code"
said "'taught': no row has an explanation that the model can read"
[ ! -e sft-none/metrics.jsonl ] || fail "it began nonetheless"

# ---- --overwrite leaves nothing of an earlier export that a reader would take for ours ----
copy shards over && for name in chat_template.jinja tokenizer.model tokenizer_config.json generation_config.json; do [ -e "over/$name" ] || : >"over/$name"; done
ok nla-export --model "$model" --av "$av" --out over --overwrite
ok nla-export --model "$model" --av "$av" --out fresh
diff -r over fresh >&2 || fail "of an earlier export are left: $(ls over)"
