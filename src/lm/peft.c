/*
 * peft - adapters on disk in PEFT's layout; see lora.h. The keys of the file decide what the adapter holds; adapter_config.json gives rank and
 * scale, and what it names must be there.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lm/fields.h"
#include "lm/lora.h"

#define N_LISTED 4 /* keys named in a message before "..." */
#define MAX_RANK 65536

/* ---- configuration ---- */

struct config {
	int64_t rank;
	double alpha;
	bool rslora;
	unsigned targets; /* bit per enum nla_proj */
};

#define C(field) offsetof(struct config, field)
#define EMPTY "false|[]|{}"
static const struct nla_field peft_fields[] = {
	{ "r", NLA_WHOLE, C(rank), NLA_MUST, .low = 1, .high = MAX_RANK },
	{ "lora_alpha", NLA_REAL, C(alpha), NLA_MUST, .low = -1e9, .high = 1e9 },
	{ "use_rslora", NLA_FLAG, .at = C(rslora) },
	{ "peft_type", NLA_ONLY, .want = "'LORA'" },
	{ "bias", NLA_ONLY, .want = "'none'" },
	{ "use_dora", NLA_ONLY, .want = "false" },
	{ "fan_in_fan_out", NLA_ONLY, .want = "false" },
	{ "use_qalora", NLA_ONLY, .want = "false" },
	{ "modules_to_save", NLA_ONLY, .want = EMPTY },
	{ "layers_to_transform", NLA_ONLY, .want = EMPTY },
	{ "trainable_token_indices", NLA_ONLY, .want = EMPTY },
	{ "alora_invocation_tokens", NLA_ONLY, .want = EMPTY },
	{ "layer_replication", NLA_ONLY, .want = EMPTY },
	{ "target_parameters", NLA_ONLY, .want = EMPTY },
	{ "use_bdlora", NLA_ONLY, .want = EMPTY },
	{ "arrow_config", NLA_ONLY, .want = EMPTY },
	{ "monteclora_config", NLA_ONLY, .want = EMPTY },
	{ "kasa_config", NLA_ONLY, .want = EMPTY },
	/* pissa, olora, corda, loftq, lora_ga take something out of the base's weights that the adapter's file does not hold */
	{ "init_lora_weights", NLA_ONLY, .want = "true|false|'gaussian'|'eva'|'orthogonal'",
	  .why = "it changes the base's weights; save the adapter converted to a plain one" },
};

/* ar_meta.json of nanoNLA's AR: always rsLoRA. */
static const struct nla_field nano_fields[] = {
	{ "lora_r", NLA_WHOLE, C(rank), NLA_MUST, .low = 1, .high = MAX_RANK },
	{ "lora_alpha", NLA_REAL, C(alpha), NLA_MUST, .low = -1e9, .high = 1e9 },
};

static enum nla_status read_targets(const cJSON *json, const char *path, unsigned *targets, struct nla_err *err)
{
	const cJSON *list = nla_json_at(json, "target_modules");
	if (!cJSON_IsArray(list))
		return nla_fail(err, "cannot load '%s': 'target_modules' must be a list of projections", path);
	for (const cJSON *t = list->child; t; t = t->next) {
		unsigned one;
		if (!cJSON_IsString(t) || nla_lora_targets(t->valuestring, &one, err))
			return nla_fail(err, "cannot load '%s': 'target_modules' has '%s', only q k v o gate up down_proj are supported",
					path, cJSON_IsString(t) ? t->valuestring : "a value that is no string");
		*targets |= one;
	}
	return *targets ? NLA_OK : nla_fail(err, "cannot load '%s': 'target_modules' is empty, want a list of projections", path);
}

/* rank_pattern and alpha_pattern: values for single projections, by their name ("q_proj", "self_attn.q_proj") */
static enum nla_status read_pattern(const cJSON *json, const char *path, const char *key, double *values, struct nla_err *err)
{
	const cJSON *map = nla_json_at(json, key);
	for (const cJSON *t = map ? map->child : NULL; t; t = t->next) {
		int p = 0;
		while (p < NLA_N_PROJ && strcmp(t->string, nla_proj_name(p)) && strcmp(t->string, nla_proj_path(p)))
			p++;
		if (p == NLA_N_PROJ || !cJSON_IsNumber(t))
			return nla_fail(err, "cannot load '%s': '%s' has '%s', only whole projections are supported", path, key, t->string);
		values[p] = t->valuedouble;
	}
	return NLA_OK;
}

/* Per projection, from the values that all share and the patterns. */
static enum nla_status read_ranks(struct nla_adapter *a, const cJSON *json, const char *path, const struct config *c, struct nla_err *err)
{
	double rank[NLA_N_PROJ], alpha[NLA_N_PROJ];
	for (int p = 0; p < NLA_N_PROJ; p++) {
		rank[p] = (double)c->rank;
		alpha[p] = c->alpha;
	}
	if (read_pattern(json, path, "rank_pattern", rank, err) || read_pattern(json, path, "alpha_pattern", alpha, err))
		return err->status;
	for (int p = 0; p < NLA_N_PROJ; p++) {
		if (!(rank[p] >= 1 && rank[p] <= MAX_RANK && rank[p] == floor(rank[p])))
			return nla_fail(err, "cannot load '%s': rank of '%s' is %g, want a whole number from 1 to %d", path, nla_proj_name(p),
					rank[p], MAX_RANK);
		if (!isfinite(alpha[p]))
			return nla_fail(err, "cannot load '%s': alpha of '%s' is %g, want a finite number", path, nla_proj_name(p), alpha[p]);
		a->rank[p] = c->targets & 1u << p ? (int64_t)rank[p] : 0;
		a->alpha[p] = c->targets & 1u << p ? alpha[p] : 0;
	}
	return NLA_OK;
}

static enum nla_status read_config(struct nla_adapter *a, const char *folder, bool nano, struct nla_err *err)
{
	char *path = nla_path_join(folder, nano ? "ar_meta.json" : "adapter_config.json");
	const struct nla_field *fields = nano ? nano_fields : peft_fields;
	size_t n = nano ? NLA_LEN(nano_fields) : NLA_LEN(peft_fields);
	struct config c = { .rslora = nano };
	cJSON *json = NULL;
	if (!nla_json_read(path, &json, err) && !nla_fields_check(fields, n, json, path, true, err) &&
	    !nla_fields_read(fields, n, json, path, &c, err) && !read_targets(json, path, &c.targets, err))
		read_ranks(a, json, path, &c, err);
	a->rslora = c.rslora;
	cJSON_Delete(json);
	free(path);
	return err->status;
}

/* ---- tensors ---- */

/* A key that goes by one of the names of lora.h: which matrix it is, or NULL. */
static const struct nla_st_entry **place_of(const struct nla_adapter *a, const char *name, const struct nla_st_entry *(*found)[NLA_N_PROJ][2])
{
	static const char *const prefixes[] = { "base_model.model.model.layers.", "base_model.model.layers.", "backbone.model.layers." };
	static const char *const ends[] = { "lora_A.weight", "lora_B.weight", "lora_A.default.weight", "lora_B.default.weight" };
	for (size_t i = 0; i < NLA_LEN(prefixes); i++) {
		if (!nla_starts_with(name, prefixes[i]))
			continue;
		char *rest;
		int64_t layer = strtoll(name + strlen(prefixes[i]), &rest, 10);
		for (int p = 0; *rest == '.' && p < NLA_N_PROJ; p++) {
			size_t n = strlen(nla_proj_path(p));
			for (size_t e = 0; e < NLA_LEN(ends); e++)
				if (!strncmp(rest + 1, nla_proj_path(p), n) && rest[n + 1] == '.' && !strcmp(rest + n + 2, ends[e]) &&
				    a->rank[p] && layer >= 0 && layer < a->n_layers)
					return &found[layer][p][e % 2];
		}
	}
	return NULL;
}

static void list_key(struct nla_str *s, size_t n, const char *key)
{
	if (n < N_LISTED)
		nla_str_addf(s, "%s'%s'", n ? ", " : ": ", key);
	else if (n == N_LISTED)
		nla_str_add(s, ", ...");
}

/* Every entry to its place: what is over and what is wanting is an error that lists both. */
static enum nla_status find_all(const struct nla_adapter *a, const struct nla_st *st, const struct nla_st_entry *(*found)[NLA_N_PROJ][2],
				struct nla_err *err)
{
	struct nla_str missing = NLA_STR_INIT, extra = NLA_STR_INIT;
	size_t n_missing = 0, n_extra = 0;
	for (size_t i = 0; i < st->n_entries; i++) {
		const struct nla_st_entry **place = place_of(a, st->entries[i].name, found);
		if (place && !*place)
			*place = &st->entries[i];
		else if (strcmp(st->entries[i].name, "value_head.weight")) /* nanoNLA keeps the AR's head here */
			list_key(&extra, n_extra++, st->entries[i].name);
	}
	for (int64_t i = 0; i < a->n_layers * NLA_N_PROJ * 2; i++) {
		int p = (int)(i / 2 % NLA_N_PROJ);
		if (!a->rank[p] || found[0][0][i])
			continue;
		char *key = nla_lora_key(i / 2 / NLA_N_PROJ, p, (int)(i % 2));
		list_key(&missing, n_missing++, key);
		free(key);
	}
	if (n_missing || n_extra)
		nla_fail(err, "cannot load adapter '%s': %zu keys are missing%s, %zu are unexpected%s", st->path, n_missing, missing.buf,
			 n_extra, extra.buf);
	nla_str_release(&missing);
	nla_str_release(&extra);
	return err->status;
}

static enum nla_status read_tensors(struct nla_adapter *a, const struct nla_arch *arch, const char *folder, const char *stem, int device,
				    struct nla_err *err)
{
	struct nla_st st;
	if (nla_st_open_folder(&st, folder, stem, err))
		return err->status;
	const struct nla_st_entry *(*found)[NLA_N_PROJ][2] = nla_alloc((size_t)a->n_layers, sizeof(*found));
	find_all(a, &st, found, err);
	bool first = true;
	for (int64_t l = 0; l < a->n_layers; l++)
		for (int p = 0; p < NLA_N_PROJ && !err->status; p++) {
			const struct nla_st_entry *const *pair = found[l][p];
			if (!pair[0])
				continue;
			for (int i = 0; i < 2; i++, first = false) /* one type for the whole file; fp32 where it mixes several */
				a->stored = first || a->stored == nla_dtype_of(pair[i]->dtype) ? nla_dtype_of(pair[i]->dtype) : NT_F32;
			a->layers[l][p].A = nla_tensor_read(&st, pair[0]->name, a->rank[p], nla_proj_in(arch, p), device, err);
			if (!err->status)
				a->layers[l][p].B = nla_tensor_read(&st, pair[1]->name, nla_proj_out(arch, p), a->rank[p], device, err);
		}
	free(found);
	nla_st_close(&st);
	return err->status;
}

enum nla_status nla_adapter_load(struct nla_adapter *a, const struct nla_arch *arch, int64_t n_layers, const char *folder, int device,
				 struct nla_err *err)
{
	char *config = nla_path_join(folder, "adapter_config.json"), *meta = nla_path_join(folder, "ar_meta.json");
	bool nano = !nla_exists(config) && nla_exists(meta);
	*a = (struct nla_adapter){ .n_layers = n_layers, .layers = nla_alloc((size_t)n_layers, sizeof(*a->layers)) };
	free(config);
	free(meta);
	if (read_config(a, folder, nano, err) ||
	    read_tensors(a, arch, folder, nano ? "ar_lora_value_head" : "adapter_model", device, err))
		nla_adapter_release(a);
	return err->status;
}

/* ---- writing ---- */

static cJSON *config_json(const struct nla_adapter *a, const char *base_name)
{
	cJSON *json = cJSON_CreateObject(), *targets = cJSON_CreateArray(), *ranks = cJSON_CreateObject(), *alphas = cJSON_CreateObject();
	int64_t r = 0;
	double alpha = 0;
	for (int p = 0; p < NLA_N_PROJ; p++) {
		if (!a->rank[p])
			continue;
		cJSON_AddItemToArray(targets, cJSON_CreateString(nla_proj_name(p)));
		alpha = r ? alpha : a->alpha[p];
		r = r ? r : a->rank[p];
		if (a->rank[p] != r)
			cJSON_AddNumberToObject(ranks, nla_proj_name(p), (double)a->rank[p]);
		if (a->alpha[p] != alpha)
			cJSON_AddNumberToObject(alphas, nla_proj_name(p), a->alpha[p]);
	}
	cJSON_AddStringToObject(json, "peft_type", "LORA");
	cJSON_AddStringToObject(json, "task_type", "CAUSAL_LM");
	cJSON_AddStringToObject(json, "base_model_name_or_path", base_name ? base_name : "");
	cJSON_AddNumberToObject(json, "r", (double)r);
	cJSON_AddNumberToObject(json, "lora_alpha", alpha);
	cJSON_AddNumberToObject(json, "lora_dropout", 0);
	cJSON_AddBoolToObject(json, "use_rslora", a->rslora);
	cJSON_AddStringToObject(json, "bias", "none");
	cJSON_AddBoolToObject(json, "fan_in_fan_out", false);
	cJSON_AddBoolToObject(json, "inference_mode", true);
	cJSON_AddItemToObject(json, "target_modules", targets);
	cJSON_AddItemToObject(json, "rank_pattern", ranks);
	cJSON_AddItemToObject(json, "alpha_pattern", alphas);
	return json;
}

enum nla_status nla_adapter_save(const struct nla_adapter *a, const char *folder, const char *base_name, struct nla_err *err)
{
	char *config = nla_path_join(folder, "adapter_config.json"), *weights = nla_path_join(folder, "adapter_model.safetensors");
	struct nla_tensors out = { 0 };
	out.list = nla_alloc((size_t)nla_adapter_params(a, NULL, NULL), sizeof(*out.list));
	nla_adapter_params(a, (nt_tensor **)out.list, &out.names);
	cJSON *json = config_json(a, base_name);
	if (nla_mkdirs(folder, err) || nla_tensors_write(&out, weights, a->stored, err) || nla_json_write(config, json, true, err))
		nla_err_context(err, "cannot save adapter '%s'", folder);
	cJSON_Delete(json);
	nla_tensors_release(&out);
	free(config);
	free(weights);
	return err->status;
}
