#include "lm/arch.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

/* One row a family: the facts that config.json does not state. */
static const struct family {
	const char *name;         /* model_type */
	bool qk_norm;             /* RMS norm per head on q and k, before the rotary embedding */
	bool qkv_bias;            /* biases on q, k and v, none on o */
	int64_t default_head_dim; /* where config.json has no head_dim; 0: hidden_size / num_attention_heads */
	bool default_kv_heads;    /* without num_key_value_heads there are as many as heads; else the key must be there */
} families[] = {
	{ .name = "qwen3", .qk_norm = true, .default_head_dim = 128 },
	{ .name = "qwen2", .qkv_bias = true },
	{ .name = "llama", .default_kv_heads = true },
};

static const struct family *family_of(const char *name)
{
	for (size_t i = 0; i < NLA_LEN(families); i++)
		if (!strcmp(families[i].name, name))
			return &families[i];
	return NULL;
}

/* Fields that may stand in config.json with the values given, as value_text has them; NULL: any value, for it is read elsewhere or changes nothing that
 * is computed here (ids, dropout, where a file came from, how its owner samples). */
static const struct known {
	const char *key, *want;
} known[] = {
	{ "model_type", NULL }, { "num_hidden_layers", NULL }, { "hidden_size", NULL }, { "num_attention_heads", NULL },
	{ "num_key_value_heads", NULL }, { "head_dim", NULL }, { "intermediate_size", NULL }, { "vocab_size", NULL },
	{ "max_position_embeddings", NULL }, { "rope_theta", NULL }, { "rope_parameters", NULL }, { "rope_scaling", NULL },
	{ "rms_norm_eps", NULL }, { "initializer_range", NULL }, { "tie_word_embeddings", NULL }, { "layer_types", NULL },

	{ "hidden_act", "'silu'" }, { "attention_bias", "false" }, { "mlp_bias", "false" }, { "use_sliding_window", "false" },
	{ "pretraining_tp", "1" }, { "rope_interleaved", "false" }, { "is_llama_config", "true" }, { "partial_rotary_factor", "1" },
	{ "qk_layernorm", "false" }, { "use_mrope", "false" }, { "is_encoder_decoder", "false" }, { "add_cross_attention", "false" },

	{ "architectures", NULL }, { "attention_dropout", NULL }, { "auto_map", NULL }, { "bos_token_id", NULL }, { "dtype", NULL },
	{ "eos_token_id", NULL }, { "id2label", NULL }, { "label2id", NULL }, { "max_window_layers", NULL }, { "name_or_path", NULL },
	{ "output_attentions", NULL }, { "output_hidden_states", NULL }, { "pad_token_id", NULL }, { "problem_type", NULL },
	{ "return_dict", NULL }, { "sliding_window", NULL }, { "torch_dtype", NULL }, { "transformers_version", NULL },
	{ "transformers.js_config", NULL }, { "unk_token_id", NULL }, { "unsloth_fixed", NULL }, { "unsloth_version", NULL },
	{ "use_cache", NULL }, { "chunk_size_feed_forward", NULL }, { "is_decoder", NULL }, { "task_specific_params", NULL },
};

static const struct known *known_of(const char *key)
{
	for (size_t i = 0; i < NLA_LEN(known); i++)
		if (!strcmp(known[i].key, key))
			return &known[i];
	return NULL;
}

/* A field's value for comparing and for messages: JSON, but strings in single quotes. Owned by the caller. */
static char *value_text(const cJSON *field)
{
	struct nla_str text = NLA_STR_INIT;
	if (cJSON_IsString(field))
		nla_str_addf(&text, "'%s'", field->valuestring);
	else
		nla_json_add(&text, field, false, 0);
	return nla_str_detach(&text);
}

/* A field that would change the mathematics, or might, for all we know: null, and names that begin with '_', say nothing. */
static enum nla_status refuse_unknown(const cJSON *json, const char *path, struct nla_err *err)
{
	for (const cJSON *field = json->child; field; field = field->next) {
		const struct known *k = known_of(field->string);
		if (cJSON_IsNull(field) || *field->string == '_' || (k && !k->want))
			continue;
		char *text = value_text(field);
		if (!k)
			nla_fail(err, "cannot load '%s': field '%s' is not known: if it changes nothing in what the model computes, remove it",
				 path, field->string);
		else if (strcmp(text, k->want))
			nla_fail(err, "cannot load '%s': '%s' is %s, only %s is supported", path, field->string, text, k->want);
		free(text);
		if (err->status)
			return err->status;
	}
	for (const cJSON *t = nla_json_at(json, "layer_types") ? nla_json_at(json, "layer_types")->child : NULL; t; t = t->next)
		if (!cJSON_IsString(t) || strcmp(t->valuestring, "full_attention"))
			return nla_fail(err, "cannot load '%s': 'layer_types' has an entry other than 'full_attention'", path);
	return NLA_OK;
}

/* The fields of the rotary embedding: an object `rope_parameters`, or in older files `rope_scaling` with rope_theta at the top. */
static enum nla_status read_rope(struct nla_arch *a, const cJSON *json, const char *path, struct nla_err *err)
{
	static const char *const fields[] = { "rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor",
					      "original_max_position_embeddings" };
	const char *object = nla_json_at(json, "rope_parameters") ? "rope_parameters" : "rope_scaling", *type = NULL;
	const cJSON *rope = nla_json_at(json, object);
	double original = 0;
	const cJSON *old = nla_json_at(json, "rope_scaling");
	if (rope && old && old != rope && !cJSON_IsNull(old) && !cJSON_Compare(rope, old, true))
		return nla_fail(err, "cannot load '%s': 'rope_parameters' and 'rope_scaling' differ: remove the one that does not hold", path);
	if (nla_json_num(json, path, "rope_theta", 10000, &a->rope_theta, err))
		return err->status;
	if (!rope)
		return NLA_OK;
	char *name = nla_format("%s: %s", path, object);
	for (const cJSON *field = rope->child; field && !err->status; field = field->next) {
		size_t i = 0;
		while (i < NLA_LEN(fields) && strcmp(fields[i], field->string))
			i++;
		if (i == NLA_LEN(fields) && !cJSON_IsNull(field))
			nla_fail(err, "cannot load '%s': field '%s.%s' is not known", path, object, field->string);
	}
	if (err->status || nla_json_str(rope, name, nla_json_at(rope, "rope_type") ? "rope_type" : "type", "default", &type, err) ||
	    nla_json_num(rope, name, "rope_theta", a->rope_theta, &a->rope_theta, err))
		goto out;
	if (!strcmp(type, "llama3")) {
		a->rope_llama3 = true;
		if (nla_json_need_num(rope, name, "factor", &a->rope_factor, err) ||
		    nla_json_need_num(rope, name, "low_freq_factor", &a->rope_low, err) ||
		    nla_json_need_num(rope, name, "high_freq_factor", &a->rope_high, err) ||
		    nla_json_need_num(rope, name, "original_max_position_embeddings", &original, err))
			goto out;
		a->rope_original = (int64_t)original;
		if (!(a->rope_factor > 0) || !(a->rope_high > a->rope_low) || !(a->rope_low > 0) || a->rope_original < 1)
			nla_fail(err, "cannot load '%s': '%s' has factors out of range", path, object);
	} else if (strcmp(type, "default")) {
		nla_fail(err, "cannot load '%s': '%s.%s' is '%s', only 'default' and 'llama3' are supported", path, object,
			 nla_json_at(rope, "rope_type") ? "rope_type" : "type", type);
	}
out:
	free(name);
	return err->status;
}

static enum nla_status check_sizes(const struct nla_arch *a, const char *path, struct nla_err *err)
{
	if (a->n_layers < 1 || a->d_model < 1 || a->n_heads < 1 || a->n_kv_heads < 1 || a->d_ff < 1 || a->vocab < 1)
		return nla_fail(err, "cannot load '%s': a size is not positive", path);
	if (a->n_heads % a->n_kv_heads)
		return nla_fail(err, "cannot load '%s': %lld heads are no multiple of %lld key/value heads", path,
				(long long)a->n_heads, (long long)a->n_kv_heads);
	if (a->head_dim < 2 || a->head_dim % 2)
		return nla_fail(err, "cannot load '%s': head_dim is %lld, want an even number", path, (long long)a->head_dim);
	if (a->max_position < 1 || !(a->rope_theta > 0) || !(a->rms_eps >= 0) || !(a->init_std >= 0))
		return nla_fail(err, "cannot load '%s': one of max_position_embeddings, rope_theta, rms_norm_eps, initializer_range is out of range",
				path);
	return NLA_OK;
}

static enum nla_status read_fields(struct nla_arch *a, const cJSON *json, const char *path, struct nla_err *err)
{
	const char *type;
	if (nla_json_need_str(json, path, "model_type", &type, err))
		return err->status;
	const struct family *f = family_of(type);
	if (!f) {
		struct nla_str names = NLA_STR_INIT;
		for (size_t i = 0; i < NLA_LEN(families); i++)
			nla_str_addf(&names, "%s%s", i ? ", " : "", families[i].name);
		nla_fail(err, "cannot load '%s': model_type '%s' is not supported (supported: %s)", path, type, names.buf);
		nla_str_release(&names);
		return err->status;
	}
	memset(a, 0, sizeof(*a));
	strncpy(a->family, type, sizeof(a->family) - 1);
	a->qk_norm = f->qk_norm;
	a->qkv_bias = f->qkv_bias;
	if (nla_json_need_int(json, path, "num_hidden_layers", &a->n_layers, err) ||
	    nla_json_need_int(json, path, "hidden_size", &a->d_model, err) ||
	    nla_json_need_int(json, path, "num_attention_heads", &a->n_heads, err) ||
	    (f->default_kv_heads ? nla_json_int(json, path, "num_key_value_heads", a->n_heads, &a->n_kv_heads, err)
				 : nla_json_need_int(json, path, "num_key_value_heads", &a->n_kv_heads, err)) ||
	    nla_json_int(json, path, "head_dim", f->default_head_dim ? f->default_head_dim : a->d_model / NLA_MAX(a->n_heads, 1),
			 &a->head_dim, err) ||
	    nla_json_need_int(json, path, "intermediate_size", &a->d_ff, err) ||
	    nla_json_need_int(json, path, "vocab_size", &a->vocab, err) ||
	    nla_json_int(json, path, "max_position_embeddings", 32768, &a->max_position, err) ||
	    nla_json_num(json, path, "rms_norm_eps", 1e-6, &a->rms_eps, err) ||
	    nla_json_num(json, path, "initializer_range", 0.02, &a->init_std, err) ||
	    nla_json_bool(json, path, "tie_word_embeddings", false, &a->tied, err) ||
	    refuse_unknown(json, path, err) || read_rope(a, json, path, err))
		return err->status;
	return check_sizes(a, path, err);
}

enum nla_status nla_arch_read(struct nla_arch *arch, const char *folder, struct nla_err *err)
{
	char *path = nla_path_join(folder, "config.json");
	cJSON *json = NULL;
	enum nla_status status = nla_json_read(path, &json, err);
	if (!status)
		status = read_fields(arch, json, path, err);
	cJSON_Delete(json);
	free(path);
	return status;
}

int64_t nla_arch_n_params(const struct nla_arch *a)
{
	int64_t attention = a->d_model * a->head_dim * (2 * a->n_heads + 2 * a->n_kv_heads) + (a->qk_norm ? 2 * a->head_dim : 0);
	attention += a->qkv_bias ? a->head_dim * (a->n_heads + 2 * a->n_kv_heads) : 0;
	int64_t block = attention + 3 * a->d_model * a->d_ff + 2 * a->d_model;
	return a->n_layers * block + a->vocab * a->d_model * (a->tied ? 1 : 2) + a->d_model;
}
