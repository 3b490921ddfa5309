/* arch - config.json to the facts of an architecture; see arch.h. fields[] says what each of its fields does here. */
#include "lm/arch.h"
#include "base/file.h"
#include "base/json.h"

/* One row a family: what config.json does not state. `with` names what others lack, for tensors[] (layout.c) and forward.c:
 *
 *	qk_norm        RMS norm per head on q and k, before the rotary embedding
 *	qkv_bias       biases on q, k and v, none on o
 *	out_norm       RMS norms of what attention and MLP add
 *	norm_plus_one  a norm's file holds its weight less 1; it is computed in fp32
 *	embed_scale    the embedding times sqrt(hidden_size)
 *	gelu           the MLP's gate, in place of SiLU
 */
static const struct family {
	const char *name;     /* model_type */
	const char *with;
	const char *defaults; /* of fields that config.json may leave out, where they are not fields[]'s; as JSON */
	double rope_theta;    /* likewise; 0: 10000 */
	int64_t pattern;      /* of blocks without a window, where config.json has none; 0: no block has one */
	const char *outside;  /* model_type of folders that hold it as their text_config */
	const char *alone;    /* its class in transformers, which those do not name */
} families[] = {
	{ .name = "qwen3", .with = "qk_norm", .defaults = "{\"head_dim\": 128}" },
	{ .name = "qwen2", .with = "qkv_bias" },
	{ .name = "llama", .defaults = "{\"num_key_value_heads\": null}" },
	{ .name = "gemma3_text",
	  .with = "qk_norm, out_norm, norm_plus_one, embed_scale, gelu",
	  .defaults = "{\"vocab_size\": 262208, \"hidden_size\": 2304, \"intermediate_size\": 9216, \"num_hidden_layers\": 26, "
		      "\"num_attention_heads\": 8, \"num_key_value_heads\": 4, \"head_dim\": 256, \"sliding_window\": 4096, "
		      "\"max_position_embeddings\": 131072, \"tie_word_embeddings\": true, \"query_pre_attn_scalar\": 256}",
	  .rope_theta = 1e6, .pattern = 6, .outside = "gemma3", .alone = "Gemma3ForCausalLM" },
};

bool nla_arch_has(const struct nla_arch *arch, const char *what) { return arch->with && strstr(arch->with, what); }

/* The bounds keep every product of sizes within 63 bits. What is NLA_ANY is read elsewhere or changes nothing that is computed
 * here: ids, dropout, where a file came from, how its owner samples. */
static const struct nla_field fields[] = {
#define A(field) offsetof(struct nla_arch, field)
	{ "num_hidden_layers", NLA_WHOLE, A(n_layers), NLA_MUST, .low = 1, .high = 1e4 },
	{ "hidden_size", NLA_WHOLE, A(d_model), NLA_MUST, .low = 1, .high = 1e6 },
	{ "num_attention_heads", NLA_WHOLE, A(n_heads), NLA_MUST, .low = 1, .high = 1e4 },
	{ "num_key_value_heads", NLA_WHOLE, A(n_kv_heads), 0, .low = 1, .high = 1e4 },
	{ "head_dim", NLA_WHOLE, A(head_dim), 0, .low = 2, .high = 4096 },
	{ "intermediate_size", NLA_WHOLE, A(d_ff), NLA_MUST, .low = 1, .high = 1e7 },
	{ "vocab_size", NLA_WHOLE, A(vocab), NLA_MUST, .low = 1, .high = 1e8 },
	{ "max_position_embeddings", NLA_WHOLE, A(max_position), 32768, .low = 1, .high = 1e12 },
	{ "rms_norm_eps", NLA_REAL, A(rms_eps), 1e-6, .low = 0, .high = 1 },
	{ "initializer_range", NLA_REAL, A(init_std), 0.02, .low = 0, .high = 1e3 },
	{ "tie_word_embeddings", NLA_FLAG, .at = A(tied) },
	{ "rope_theta", NLA_REAL, A(rope_theta), NLA_KEEP, .low = 1e-3, .high = 1e30 },
	{ .key = "model_type|rope_parameters|rope_scaling|layer_types|text_config" },

	/* of families with a pattern; others do not look at them */
	{ "sliding_window", NLA_WHOLE, A(window), NLA_KEEP, .low = 0, .high = 1e12 },
	{ "sliding_window_pattern", NLA_WHOLE, A(pattern), NLA_KEEP, .low = 1, .high = 1e9 },
	{ "rope_local_base_freq", NLA_REAL, A(rope_local), 10000, .low = 1e-3, .high = 1e30 },
	{ "query_pre_attn_scalar", NLA_REAL, A(query_scalar), NLA_KEEP, .low = 1e-3, .high = 1e6 },
	{ "hidden_activation", NLA_ONLY, .want = "'gelu_pytorch_tanh'" },
	{ "attn_logit_softcapping|final_logit_softcapping", NLA_ONLY, .want = "null" },

	{ "hidden_act", NLA_ONLY, .want = "'silu'|'swish'" },
	{ "attention_bias|mlp_bias|use_sliding_window|use_bidirectional_attention|rope_interleaved|qk_layernorm|use_mrope|"
	  "is_encoder_decoder|add_cross_attention|tie_encoder_decoder", NLA_ONLY, .want = "false" },
	{ "partial_rotary_factor", NLA_ONLY, .want = "1" },
	{ "is_llama_config", NLA_ONLY, .want = "true" },
	{ "pruned_heads", NLA_ONLY, .want = "{}" },
	{ "quantization|quantization_config|compression_config", NLA_ONLY, .want = "{}",
	  .why = "the weights are quantised; save the model in bf16, or take the checkpoint that it was made from" },

	{ .key = "architectures|attention_dropout|auto_map|bad_words_ids|begin_suppress_tokens|boi_token_index|bos_token_id|"
	  "cache_implementation|chunk_size_feed_forward|cross_attention_hidden_size|decoder_start_token_id|"
	  "diversity_penalty|do_sample|dual_chunk_attention_config|"
	  "dtype|early_stopping|encoder_no_repeat_ngram_size|eoi_token_index|eos_token_id|exponential_decay_length_penalty|"
	  "finetuning_task|forced_bos_token_id|forced_eos_token_id|gradient_checkpointing|id2label|image_token_index|"
	  "is_decoder|label2id|length_penalty|max_length|max_window_layers|min_length|mm_tokens_per_image|"
	  "max_sequence_length|model_max_length|model_name|name_or_path|no_repeat_ngram_size|"
	  "num_beam_groups|num_beams|num_return_sequences|output_attentions|output_hidden_states|"
	  "output_scores|pad_token_id|prefix|pretraining_tp|problem_type|remove_invalid_values|repetition_penalty|return_dict|"
	  "return_dict_in_generate|sep_token_id|suppress_tokens|task_specific_params|temperature|"
	  "tf_legacy_loss|tokenizer_class|top_k|top_p|torch_dtype|torchscript|transformers_version|"
	  "transformers.js_config|typical_p|unk_token_id|unsloth_fixed|unsloth_version|use_bfloat16|use_cache|vision_config" },
};

/* Of the rotary embedding: 3 rows of all types, the factor where there is one, and what Llama 3's alone has. */
static const struct nla_field rope_fields[] = {
	{ "rope_theta", NLA_REAL, A(rope_theta), NLA_KEEP, .low = 1e-3, .high = 1e30 },
	{ .key = "rope_type|type" },
	{ "partial_rotary_factor", NLA_ONLY, .want = "1" },
	{ "factor", NLA_REAL, A(rope_factor), NLA_MUST, .low = 1e-6, .high = 1e9 },
	{ "low_freq_factor", NLA_REAL, A(rope_low), NLA_MUST, .low = 1e-6, .high = 1e9 },
	{ "high_freq_factor", NLA_REAL, A(rope_high), NLA_MUST, .low = 1e-6, .high = 1e9 },
	{ "original_max_position_embeddings", NLA_WHOLE, A(rope_original), NLA_MUST, .low = 1, .high = 1e12 },
};

static enum nla_status read_rope_object(struct nla_arch *a, const cJSON *rope, const char *path, struct nla_err *err)
{
	const char *type, *older;
	if (nla_json_str(rope, path, "type", "default", &older, err) ||
	    nla_json_str(rope, path, "rope_type", older, &type, err))
		return err->status;
	if (nla_json_at(rope, "type") && strcmp(type, older))
		return nla_fail(err, "cannot load '%s': 'rope_type' is '%s', 'type' is '%s'", path, type, older);
	const int kind = nla_word_index("default|linear|llama3", type);
	if (kind < 0)
		return nla_fail(err, "cannot load '%s': 'rope_type' is '%s', only 'default', 'linear' and 'llama3' are "
				"supported", path, type);
	a->rope_llama3 = kind == 2;
	if (nla_fields_check(rope_fields, NLA_LEN(rope_fields), rope, path, false, err) ||
	    nla_fields_read(rope_fields, (size_t[]){ 3, 4, NLA_LEN(rope_fields) }[kind], rope, path, a, err))
		return err->status;
	return a->rope_llama3 && a->rope_high <= a->rope_low ?
		       nla_fail(err, "cannot load '%s': 'high_freq_factor' is not above 'low_freq_factor'", path) : NLA_OK;
}

/* Of the blocks with a window: a theta alone, rope_local_base_freq or in an object of transformers 5. */
static enum nla_status read_rope_local(struct nla_arch *a, const cJSON *json, const char *path, struct nla_err *err)
{
	const cJSON *rope = nla_json_at(json, "rope_parameters.sliding_attention");
	nla_auto char *name = nla_format("%s: rope_parameters.sliding_attention", path);
	struct nla_arch one = { .rope_theta = a->rope_local };
	if (!rope || read_rope_object(&one, rope, name, err))
		return err->status;
	if (one.rope_factor != 0)
		return nla_fail(err, "cannot load '%s': 'rope_type' is not 'default', which alone is supported there", name);
	if (nla_json_at(json, "rope_local_base_freq") && one.rope_theta != a->rope_local)
		return nla_fail(err, "cannot load '%s': 'rope_local_base_freq' is %g, 'rope_parameters' has %g", path,
				a->rope_local, one.rope_theta);
	a->rope_local = one.rope_theta;
	return NLA_OK;
}

/* rope_theta at the top, objects `rope_parameters` (transformers 5; of a family with windows one in it for either kind of
 * block) and `rope_scaling`: what several say must be equal. */
static enum nla_status read_rope(struct nla_arch *a, const cJSON *json, const char *path, struct nla_err *err)
{
	const bool apart = nla_json_at(json, "rope_parameters.full_attention");
	const char *const objects[] = { apart ? "rope_parameters.full_attention" : "rope_parameters", "rope_scaling" };
	const char *said = nla_json_at(json, "rope_theta") ? "rope_theta" : NULL, *before = NULL;
	for (size_t i = 0; i < NLA_LEN(objects) && !err->status; i++) {
		const cJSON *rope = nla_json_at(json, objects[i]);
		struct nla_arch one = *a;
		nla_auto char *name = nla_format("%s: %s", path, objects[i]);
		bool theta = nla_json_at(rope, "rope_theta") != NULL;
		if (!rope || read_rope_object(&one, rope, name, err))
			;
		else if (theta && said && one.rope_theta != a->rope_theta)
			nla_fail(err, "cannot load '%s': '%s' says rope_theta %g, '%s' %g", path, said, a->rope_theta,
				 objects[i], one.rope_theta);
		else if (before && (one.rope_llama3 != a->rope_llama3 || one.rope_factor != a->rope_factor ||
				    one.rope_low != a->rope_low || one.rope_high != a->rope_high ||
				    one.rope_original != a->rope_original))
			nla_fail(err, "cannot load '%s': 'rope_parameters' and 'rope_scaling' differ", path);
		else
			*a = one;
		said = theta ? objects[i] : said;
		before = rope ? objects[i] : before;
	}
	return err->status ? err->status : read_rope_local(a, json, path, err);
}

/* The family of *json, which becomes its text_config where other modalities stand around that. */
static enum nla_status read_family(struct nla_arch *a, cJSON **json, const char *path, const struct family **family,
				   struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str names = NLA_STR_INIT;
	cJSON *text = cJSON_GetObjectItemCaseSensitive(*json, "text_config");
	const char *type, *inner = cJSON_GetStringValue(nla_json_at(text, "model_type"));
	bool known = false; /* the language model inside */
	*family = NULL;
	if (nla_json_need_str(*json, path, "model_type", &type, err))
		return err->status;
	for (size_t i = 0; i < NLA_LEN(families) && !*family; i++) {
		const struct family *f = &families[i];
		const bool outside = f->outside && text && !strcmp(f->outside, type) && inner && !strcmp(f->name, inner);
		nla_str_addf(&names, "%s%s", i ? ", " : "", f->name);
		known = known || (inner && !strcmp(f->name, inner));
		if (outside || !strcmp(f->name, type))
			*family = f;
	}
	if (*family)
		*a = (struct nla_arch){ .family = (*family)->name, .with = (*family)->with,
					.inside = strcmp((*family)->name, type) ? (*family)->alone : NULL,
					.pattern = NLA_MAX((*family)->pattern, 1),
					.rope_theta = (*family)->rope_theta > 0 ? (*family)->rope_theta : 10000 };
	else if (known)
		nla_fail(err, "cannot load '%s': model_type '%s' is of several modalities: save its language model alone "
			 "('text_config') and give that folder", path, type);
	else
		nla_fail(err, "cannot load '%s': model_type '%s' is not supported (supported: %s)", path, inner ? inner : type,
			 names.buf);
	if (!err->status && a->inside && !nla_fields_check(fields, NLA_LEN(fields), *json, path, false, err))
		*json = text;
	return err->status;
}

static void add_defaults(cJSON *json, const char *defaults)
{
	nla_auto_json cJSON *all = cJSON_Parse(defaults ? defaults : "{}");
	for (cJSON *item; (item = cJSON_DetachItemFromArray(all, 0));) {
		if (nla_json_at(json, item->string)) {
			cJSON_Delete(item);
			continue;
		}
		cJSON_DeleteItemFromObjectCaseSensitive(json, item->string); /* null */
		cJSON_AddItemToObject(json, item->string, item);
	}
}

/* Which blocks have a window, by sliding_window_pattern and by layer_types: each `pattern`-th has none. */
static enum nla_status read_layer_types(struct nla_arch *a, const cJSON *json, const char *path, struct nla_err *err)
{
	const cJSON *types = nla_json_at(json, "layer_types"), *t = types ? types->child : NULL;
	int64_t first = 1;
	if (types && a->pattern > 1 && !nla_json_at(json, "sliding_window_pattern")) {
		for (; t && cJSON_IsString(t) && strcmp(t->valuestring, "full_attention"); t = t->next)
			first++;
		a->pattern = first; /* of blocks that all have a window: behind the last */
	}
	first = 0;
	for (t = types ? types->child : NULL; t; t = t->next, first++) {
		const char *want = nla_arch_local(a, first) ? "sliding_attention" : "full_attention";
		if (cJSON_IsString(t) && !strcmp(t->valuestring, want))
			continue;
		if (a->pattern == 1)
			return nla_fail(err, "cannot load '%s': 'layer_types' has an entry other than 'full_attention'", path);
		return nla_fail(err, "cannot load '%s': 'layer_types' has another entry than '%s' for block %lld: want "
				"'full_attention' for every %lld, 'sliding_attention' for the others", path, want,
				(long long)first, (long long)a->pattern);
	}
	if (types && a->pattern > 1 && first < a->n_layers)
		return nla_fail(err, "cannot load '%s': 'layer_types' has %lld entries of %lld", path, (long long)first,
				(long long)a->n_layers);
	return NLA_OK;
}

static enum nla_status read_arch(struct nla_arch *a, cJSON *json, const char *path, struct nla_err *err)
{
	const cJSON *tied = nla_json_at(json, "tie_word_embeddings");
	const struct family *f;
	if (read_family(a, &json, path, &f, err))
		return err->status;
	add_defaults(json, f->defaults);
	if (nla_fields_read(fields, NLA_LEN(fields), json, path, a, err) ||
	    nla_fields_check(fields, NLA_LEN(fields), json, path, false, err))
		return err->status;
	if (!a->n_kv_heads && !cJSON_HasObjectItem(json, "num_key_value_heads"))
		return nla_fail(err, "'%s': 'num_key_value_heads' is missing, want a number", path);
	a->n_kv_heads = a->n_kv_heads ? a->n_kv_heads : a->n_heads;
	a->head_dim = a->head_dim ? a->head_dim : a->d_model / a->n_heads;
	if (!f->pattern) {
		a->pattern = 1;
		a->query_scalar = (double)a->head_dim;
	}
	if (read_layer_types(a, json, path, err) || read_rope(a, json, path, err))
		return err->status;
	if (a->inside && cJSON_IsBool(tied) && cJSON_IsTrue(tied) != a->tied)
		return nla_fail(err, "cannot load '%s': 'tie_word_embeddings' is %s, in 'text_config' %s", path,
				a->tied ? "false" : "true", a->tied ? "true" : "false");
	if (a->pattern > 1 && a->window < 1)
		return nla_fail(err, "cannot load '%s': 'sliding_window' is 0, want the tokens that a block sees", path);
	if (a->n_heads % a->n_kv_heads)
		return nla_fail(err, "cannot load '%s': %lld heads are no multiple of %lld key/value heads", path,
				(long long)a->n_heads, (long long)a->n_kv_heads);
	if (a->head_dim < 2 || a->head_dim % 2)
		return nla_fail(err, "cannot load '%s': head_dim is %lld, want an even number", path, (long long)a->head_dim);
	return NLA_OK;
}

enum nla_status nla_arch_read(struct nla_arch *arch, const char *folder, struct nla_err *err)
{
	nla_auto char *path = nla_path_join(folder, "config.json");
	nla_auto_json cJSON *json = NULL;
	if (!nla_json_read(path, &json, err))
		read_arch(arch, json, path, err);
	return err->status;
}
