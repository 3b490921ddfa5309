#include "lm/arch.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

/* One row a family: facts that config.json does not state. */
static const struct family {
	const char *name;
	bool qk_norm;
} families[] = {
	{ "qwen3", true },
};

static const struct family *family_of(const char *name)
{
	for (size_t i = 0; i < NLA_LEN(families); i++)
		if (!strcmp(families[i].name, name))
			return &families[i];
	return NULL;
}

/* Fields that would change the mathematics. */
static enum nla_status refuse_unknown(const cJSON *json, const char *path, struct nla_err *err)
{
	const char *act, *rope;
	bool sliding, attention_bias, mlp_bias;
	const cJSON *types = nla_json_at(json, "layer_types");
	const char *where = nla_json_at(json, "rope_parameters") ? "rope_parameters.rope_type" :
			    nla_json_at(json, "rope_scaling.type") ? "rope_scaling.type" : "rope_scaling.rope_type"; /* older files: type */
	if (nla_json_str(json, path, "hidden_act", "silu", &act, err) ||
	    nla_json_str(json, path, where, "default", &rope, err) ||
	    nla_json_bool(json, path, "use_sliding_window", false, &sliding, err) ||
	    nla_json_bool(json, path, "attention_bias", false, &attention_bias, err) ||
	    nla_json_bool(json, path, "mlp_bias", false, &mlp_bias, err))
		return err->status;
	if (strcmp(act, "silu"))
		return nla_fail(err, "cannot load '%s': 'hidden_act' is '%s', only 'silu' is supported", path, act);
	if (strcmp(rope, "default"))
		return nla_fail(err, "cannot load '%s': '%s' is '%s', only 'default' is supported", path, where, rope);
	if (sliding)
		return nla_fail(err, "cannot load '%s': 'use_sliding_window' is true, only full attention is supported", path);
	if (attention_bias || mlp_bias)
		return nla_fail(err, "cannot load '%s': '%s' is true, biases are not supported", path,
				attention_bias ? "attention_bias" : "mlp_bias");
	for (const cJSON *t = types ? types->child : NULL; t; t = t->next)
		if (!cJSON_IsString(t) || strcmp(t->valuestring, "full_attention"))
			return nla_fail(err, "cannot load '%s': 'layer_types' has an entry other than 'full_attention'", path);
	return NLA_OK;
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
	return NLA_OK;
}

static enum nla_status read_fields(struct nla_arch *a, const cJSON *json, const char *path, struct nla_err *err)
{
	const char *type, *theta_key = nla_json_at(json, "rope_parameters.rope_theta") ? "rope_parameters.rope_theta" : "rope_theta";
	if (nla_json_need_str(json, path, "model_type", &type, err))
		return err->status;
	const struct family *f = family_of(type);
	if (!f)
		return nla_fail(err, "cannot load '%s': model_type '%s' is not supported (supported: qwen3)", path, type);
	memset(a, 0, sizeof(*a));
	strncpy(a->family, type, sizeof(a->family) - 1);
	a->qk_norm = f->qk_norm;
	if (nla_json_need_int(json, path, "num_hidden_layers", &a->n_layers, err) ||
	    nla_json_need_int(json, path, "hidden_size", &a->d_model, err) ||
	    nla_json_need_int(json, path, "num_attention_heads", &a->n_heads, err) ||
	    nla_json_int(json, path, "num_key_value_heads", a->n_heads, &a->n_kv_heads, err) ||
	    nla_json_int(json, path, "head_dim", a->n_heads ? a->d_model / a->n_heads : 0, &a->head_dim, err) ||
	    nla_json_need_int(json, path, "intermediate_size", &a->d_ff, err) ||
	    nla_json_need_int(json, path, "vocab_size", &a->vocab, err) ||
	    nla_json_int(json, path, "max_position_embeddings", 32768, &a->max_position, err) ||
	    nla_json_num(json, path, theta_key, 10000, &a->rope_theta, err) ||
	    nla_json_num(json, path, "rms_norm_eps", 1e-6, &a->rms_eps, err) ||
	    nla_json_num(json, path, "initializer_range", 0.02, &a->init_std, err) ||
	    nla_json_bool(json, path, "tie_word_embeddings", false, &a->tied, err) ||
	    refuse_unknown(json, path, err))
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
	int64_t block = attention + 3 * a->d_model * a->d_ff + 2 * a->d_model;
	return a->n_layers * block + a->vocab * a->d_model * (a->tied ? 1 : 2) + a->d_model;
}
