/* arch - config.json to the facts of an architecture; see arch.h. fields[] says what each of its fields does here. */
#include "lm/arch.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"

/* One row a family: the facts that config.json does not state. */
static const struct family {
	const char *name;         /* model_type */
	const char *with;         /* qk_norm: RMS norm per head on q and k, before the rotary embedding; qkv_bias: none on o */
	int64_t default_head_dim; /* where config.json has no head_dim; 0: hidden_size / num_attention_heads */
	bool default_kv_heads;    /* num_key_value_heads may be absent: as many as heads, as when it is null */
} families[] = {
	{ .name = "qwen3", .with = "qk_norm", .default_head_dim = 128 },
	{ .name = "qwen2", .with = "qkv_bias" },
	{ .name = "llama", .default_kv_heads = true },
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
	{ "rope_theta", NLA_REAL, A(rope_theta), 10000, .low = 1e-3, .high = 1e30 },
	{ .key = "model_type|rope_parameters|rope_scaling|layer_types" },

	{ "hidden_act", NLA_ONLY, .want = "'silu'|'swish'" },
	{ "attention_bias|mlp_bias|use_sliding_window|rope_interleaved|qk_layernorm|use_mrope|is_encoder_decoder|"
	  "add_cross_attention|tie_encoder_decoder", NLA_ONLY, .want = "false" },
	{ "pretraining_tp|partial_rotary_factor", NLA_ONLY, .want = "1" },
	{ "is_llama_config", NLA_ONLY, .want = "true" },
	{ "pruned_heads", NLA_ONLY, .want = "{}" },
	{ "quantization_config|compression_config", NLA_ONLY, .want = "{}",
	  .why = "the weights are quantised; save the model in bf16, or take the checkpoint that it was made from" },

	{ .key = "architectures|attention_dropout|auto_map|bad_words_ids|begin_suppress_tokens|bos_token_id|"
	  "chunk_size_feed_forward|cross_attention_hidden_size|decoder_start_token_id|diversity_penalty|do_sample|"
	  "dtype|early_stopping|encoder_no_repeat_ngram_size|eos_token_id|exponential_decay_length_penalty|"
	  "finetuning_task|forced_bos_token_id|forced_eos_token_id|gradient_checkpointing|id2label|is_decoder|"
	  "label2id|length_penalty|max_length|max_window_layers|min_length|model_max_length|name_or_path|"
	  "no_repeat_ngram_size|num_beam_groups|num_beams|num_return_sequences|output_attentions|output_hidden_states|"
	  "output_scores|pad_token_id|prefix|problem_type|remove_invalid_values|repetition_penalty|return_dict|"
	  "return_dict_in_generate|sep_token_id|sliding_window|suppress_tokens|task_specific_params|temperature|"
	  "tf_legacy_loss|tokenizer_class|top_k|top_p|torch_dtype|torchscript|transformers_version|"
	  "transformers.js_config|typical_p|unk_token_id|unsloth_fixed|unsloth_version|use_bfloat16|use_cache" },
};

/* Of the rotary embedding; the last rows are of Llama 3's alone. */
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
	    nla_json_str(rope, path, "rope_type", older, &type, err) ||
	    nla_fields_check(rope_fields, NLA_LEN(rope_fields), rope, path, false, err))
		return err->status;
	if (nla_json_at(rope, "type") && strcmp(type, older))
		return nla_fail(err, "cannot load '%s': 'rope_type' is '%s', 'type' is '%s'", path, type, older);
	a->rope_llama3 = !strcmp(type, "llama3");
	if (!a->rope_llama3 && strcmp(type, "default"))
		return nla_fail(err, "cannot load '%s': 'rope_type' is '%s', only 'default' and 'llama3' are supported", path,
				type);
	if (nla_fields_read(rope_fields, a->rope_llama3 ? NLA_LEN(rope_fields) : 3, rope, path, a, err))
		return err->status;
	return a->rope_llama3 && a->rope_high <= a->rope_low ?
		       nla_fail(err, "cannot load '%s': 'high_freq_factor' is not above 'low_freq_factor'", path) : NLA_OK;
}

/* rope_theta at the top, objects `rope_parameters` (transformers 5) and `rope_scaling`: what several say must be equal. */
static enum nla_status read_rope(struct nla_arch *a, const cJSON *json, const char *path, struct nla_err *err)
{
	static const char *const objects[] = { "rope_parameters", "rope_scaling" };
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
	return err->status;
}

static enum nla_status read_family(struct nla_arch *a, const cJSON *json, const char *path, const struct family **family,
				   struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str names = NLA_STR_INIT;
	const char *type;
	*family = NULL;
	if (nla_json_need_str(json, path, "model_type", &type, err))
		return err->status;
	for (size_t i = 0; i < NLA_LEN(families); i++) {
		nla_str_addf(&names, "%s%s", i ? ", " : "", families[i].name);
		if (!strcmp(families[i].name, type))
			*family = &families[i];
	}
	if (*family)
		*a = (struct nla_arch){ .family = (*family)->name, .with = (*family)->with };
	else if (nla_json_at(json, "text_config"))
		nla_fail(err, "cannot load '%s': model_type '%s' is of several modalities: save its language model alone "
			 "('text_config') and give that folder", path, type);
	else
		nla_fail(err, "cannot load '%s': model_type '%s' is not supported (supported: %s)", path, type, names.buf);
	return err->status;
}

static enum nla_status read_arch(struct nla_arch *a, const cJSON *json, const char *path, struct nla_err *err)
{
	const cJSON *types = nla_json_at(json, "layer_types");
	const struct family *f;
	if (read_family(a, json, path, &f, err) || nla_fields_read(fields, NLA_LEN(fields), json, path, a, err) ||
	    nla_fields_check(fields, NLA_LEN(fields), json, path, false, err))
		return err->status;
	if (!a->n_kv_heads && !f->default_kv_heads && !cJSON_HasObjectItem(json, "num_key_value_heads"))
		return nla_fail(err, "'%s': 'num_key_value_heads' is missing, want a number", path);
	a->n_kv_heads = a->n_kv_heads ? a->n_kv_heads : a->n_heads;
	if (!a->head_dim)
		a->head_dim = f->default_head_dim ? f->default_head_dim : a->d_model / a->n_heads;
	if (read_rope(a, json, path, err))
		return err->status;
	if (a->n_heads % a->n_kv_heads)
		return nla_fail(err, "cannot load '%s': %lld heads are no multiple of %lld key/value heads", path,
				(long long)a->n_heads, (long long)a->n_kv_heads);
	if (a->head_dim < 2 || a->head_dim % 2)
		return nla_fail(err, "cannot load '%s': head_dim is %lld, want an even number", path, (long long)a->head_dim);
	for (const cJSON *t = types ? types->child : NULL; t; t = t->next)
		if (!cJSON_IsString(t) || strcmp(t->valuestring, "full_attention"))
			return nla_fail(err, "cannot load '%s': 'layer_types' has an entry other than 'full_attention'", path);
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
