/* Adapters on disk in PEFT's layout; see lora.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "lm/lora.h"

#define N_LISTED 4 /* keys named in a message before "..." */
#define MAX_RANK 65536

/* ---- reading ---- */

static enum nla_status read_targets(const cJSON *json, const char *path, unsigned *targets, struct nla_err *err)
{
	const cJSON *list = nla_json_at(json, "target_modules");
	*targets = 0;
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

/* Whose base is the checkpoint as it stands. The other ways (pissa, olora, corda, loftq, lora_ga) take something out of the base's weights,
 * which the adapter's file does not hold. */
static enum nla_status refuse_other_base(const cJSON *json, const char *path, struct nla_err *err)
{
	static const char *const plain[] = { "gaussian", "eva", "orthogonal" };
	const cJSON *v = nla_json_at(json, "init_lora_weights");
	const char *how = cJSON_GetStringValue(v);
	if (!v || cJSON_IsNull(v) || cJSON_IsBool(v))
		return NLA_OK;
	for (size_t i = 0; how && i < NLA_LEN(plain); i++)
		if (!strcmp(how, plain[i]))
			return NLA_OK;
	return nla_fail(err, "cannot load '%s': 'init_lora_weights' is '%s': it changes the base's weights; save the adapter converted to a plain one",
			path, how ? how : "no name");
}

static enum nla_status refuse(const cJSON *json, const char *path, struct nla_err *err)
{
	const char *type, *bias;
	bool dora, fan, qalora;
	if (nla_json_str(json, path, "peft_type", "LORA", &type, err) || nla_json_str(json, path, "bias", "none", &bias, err) ||
	    nla_json_bool(json, path, "use_dora", false, &dora, err) ||
	    nla_json_bool(json, path, "fan_in_fan_out", false, &fan, err) || nla_json_bool(json, path, "use_qalora", false, &qalora, err))
		return err->status;
	if (strcmp(type, "LORA") || strcmp(bias, "none") || dora || fan || qalora)
		return nla_fail(err, "cannot load '%s': '%s' is not supported", path,
				strcmp(type, "LORA") ? "peft_type other than LORA" : strcmp(bias, "none") ? "bias" : dora ? "use_dora" :
				fan ? "fan_in_fan_out" : "use_qalora");
	static const char *const must_be_empty[] = { "modules_to_save", "layers_to_transform", "trainable_token_indices",
						     "alora_invocation_tokens", "layer_replication", "target_parameters", "use_bdlora",
						     "arrow_config", "monteclora_config", "kasa_config" };
	for (size_t i = 0; i < NLA_LEN(must_be_empty); i++) {
		const cJSON *v = nla_json_at(json, must_be_empty[i]);
		if (v && !cJSON_IsNull(v) && !cJSON_IsFalse(v) && !(cJSON_IsArray(v) && !v->child))
			return nla_fail(err, "cannot load '%s': '%s' is not supported", path, must_be_empty[i]);
	}
	return refuse_other_base(json, path, err);
}

/* rank_pattern and alpha_pattern: values for single projections, by their name ("q_proj", "self_attn.q_proj") */
static int proj_of_pattern(const char *key)
{
	const char *dot = strrchr(key, '.'), *name = dot ? dot + 1 : key;
	if (dot && strncmp(key, "self_attn.", (size_t)(name - key)) && strncmp(key, "mlp.", (size_t)(name - key)))
		return -1;
	for (int p = 0; p < NLA_N_PROJ; p++)
		if (!strcmp(name, nla_proj_names[p]))
			return p;
	return -1;
}

static enum nla_status read_pattern(const cJSON *json, const char *path, const char *key, double *values, struct nla_err *err)
{
	const cJSON *map = nla_json_at(json, key);
	for (const cJSON *t = map && !cJSON_IsNull(map) ? map->child : NULL; t; t = t->next) {
		int proj = proj_of_pattern(t->string);
		if (proj < 0 || !cJSON_IsNumber(t))
			return nla_fail(err, "cannot load '%s': '%s' has '%s', only whole projections are supported", path, key, t->string);
		values[proj] = t->valuedouble;
	}
	return NLA_OK;
}

/* Per projection, from the values that all share and the patterns. */
static enum nla_status read_ranks(struct nla_adapter *a, const cJSON *json, const char *path, unsigned targets, const char *rank_key,
				  const char *alpha_key, struct nla_err *err)
{
	double rank[NLA_N_PROJ], alpha[NLA_N_PROJ], r, al;
	if (nla_json_need_num(json, path, rank_key, &r, err) || nla_json_need_num(json, path, alpha_key, &al, err))
		return err->status;
	for (int p = 0; p < NLA_N_PROJ; p++) {
		rank[p] = r;
		alpha[p] = al;
	}
	if (read_pattern(json, path, "rank_pattern", rank, err) || read_pattern(json, path, "alpha_pattern", alpha, err))
		return err->status;
	for (int p = 0; p < NLA_N_PROJ; p++) {
		if (!(targets & 1u << p))
			continue;
		if (!(rank[p] >= 1 && rank[p] <= MAX_RANK && rank[p] == floor(rank[p])))
			return nla_fail(err, "cannot load '%s': rank of '%s' is %g, want a whole number from 1 to %d", path, nla_proj_names[p],
					rank[p], MAX_RANK);
		if (!isfinite(alpha[p]))
			return nla_fail(err, "cannot load '%s': alpha of '%s' is %g, want a finite number", path, nla_proj_names[p], alpha[p]);
		a->rank[p] = (int64_t)rank[p];
		a->alpha[p] = alpha[p];
	}
	return NLA_OK;
}

static enum nla_status read_config(struct nla_adapter *a, const char *folder, unsigned *targets, struct nla_err *err)
{
	char *path = nla_path_join(folder, "adapter_config.json");
	cJSON *json = NULL;
	if (!nla_json_read(path, &json, err) && !refuse(json, path, err) && !read_targets(json, path, targets, err) &&
	    !nla_json_bool(json, path, "use_rslora", false, &a->rslora, err))
		read_ranks(a, json, path, *targets, "r", "lora_alpha", err);
	cJSON_Delete(json);
	free(path);
	return err->status;
}

/* nanoNLA's AR: always rsLoRA. */
static enum nla_status read_nano_config(struct nla_adapter *a, const char *folder, unsigned *targets, struct nla_err *err)
{
	char *path = nla_path_join(folder, "ar_meta.json");
	cJSON *json = NULL;
	a->rslora = true;
	if (!nla_json_read(path, &json, err) && !read_targets(json, path, targets, err))
		read_ranks(a, json, path, *targets, "lora_r", "lora_alpha", err);
	cJSON_Delete(json);
	free(path);
	return err->status;
}

/* A key under the names it goes by: see lora.h. */
static const struct nla_st_entry *find_key(const struct nla_st *st, const char *key)
{
	static const char full[] = "base_model.model.model.", *const prefixes[] = { full, "base_model.model.", "backbone.model." };
	const char *tail = key + strlen(full), *end = strrchr(tail, '.'); /* ".weight" */
	const struct nla_st_entry *e = NULL;
	for (size_t i = 0; i < 2 * NLA_LEN(prefixes) && !e; i++) {
		char *name = nla_format("%s%.*s%s%s", prefixes[i / 2], (int)(end - tail), tail, i % 2 ? ".default" : "", end);
		e = nla_st_find(st, name);
		free(name);
	}
	return e;
}

static void list_key(struct nla_str *s, size_t n, const char *key)
{
	if (n < N_LISTED)
		nla_str_addf(s, "%s'%s'", n ? ", " : "", key);
	else if (n == N_LISTED)
		nla_str_add(s, ", ...");
}

static enum nla_status check_keys(const struct nla_st *st, const struct nla_strs *names, struct nla_err *err)
{
	struct nla_str missing = NLA_STR_INIT, extra = NLA_STR_INIT;
	size_t n_missing = 0, n_extra = 0;
	const struct nla_st_entry **used = nla_alloc(names->n + 1, sizeof(*used));
	for (size_t i = 0; i < names->n; i++) {
		used[i] = find_key(st, names->data[i]);
		if (!used[i])
			list_key(&missing, n_missing++, names->data[i]);
	}
	for (size_t j = 0; j < st->n_entries; j++) {
		bool known = !strcmp(st->entries[j].name, "value_head.weight"); /* nanoNLA keeps the AR's head here */
		for (size_t i = 0; i < names->n && !known; i++)
			known = used[i] == &st->entries[j];
		if (!known)
			list_key(&extra, n_extra++, st->entries[j].name);
	}
	if (n_missing || n_extra)
		nla_fail(err, "cannot load adapter '%s': %zu keys are missing%s%s, %zu are unexpected%s%s", st->path, n_missing,
			 n_missing ? ": " : "", missing.buf, n_extra, n_extra ? ": " : "", extra.buf);
	nla_str_release(&missing);
	nla_str_release(&extra);
	free(used);
	return err->status;
}

static nt_tensor *read_matrix(const struct nla_st *st, const char *key, int64_t rows, int64_t cols, int device, struct nla_err *err)
{
	const struct nla_st_entry *e = find_key(st, key);
	if (e->ndim != 2 || e->shape[0] != rows || e->shape[1] != cols || e->dtype > NLA_ST_F16) {
		char *have = nla_st_shape_text(e->shape, e->ndim);
		nla_fail(err, "cannot load adapter '%s': tensor '%s' has type %s and shape %s, want a float [%lld, %lld]", st->path, key,
			 nla_st_dtype_name(e->dtype), have, (long long)rows, (long long)cols);
		free(have);
		return NULL;
	}
	nt_dtype type = e->dtype == NLA_ST_BF16 ? NT_BF16 : e->dtype == NLA_ST_F16 ? NT_F16 : NT_F32;
	return nt_own(nt_to(nt_from_host(type, device, e->data, 2, e->shape), NT_F32));
}

/* One type for the whole file; fp32 where it mixes several. */
static nt_dtype stored_type(const struct nla_st *st, const struct nla_strs *names)
{
	enum nla_st_dtype first = find_key(st, names->data[0])->dtype;
	for (size_t i = 1; i < names->n; i++)
		if (find_key(st, names->data[i])->dtype != first)
			return NT_F32;
	return first == NLA_ST_BF16 ? NT_BF16 : first == NLA_ST_F16 ? NT_F16 : NT_F32;
}

static enum nla_status read_tensors(struct nla_adapter *a, const struct nla_arch *arch, const char *folder, const char *stem,
				    unsigned targets, int device, struct nla_err *err)
{
	struct nla_st st = { 0 };
	struct nla_strs names = { 0 };
	if (nla_st_open_folder(&st, folder, stem, err))
		return err->status;
	for (int64_t l = 0; l < a->n_layers; l++)
		for (int p = 0; p < NLA_N_PROJ; p++)
			for (int i = 0; i < 2 && targets & 1u << p; i++) {
				char *key = nla_format("base_model.model.model.layers.%lld.%s.%s.lora_%c.weight", (long long)l,
						       p <= NLA_O ? "self_attn" : "mlp", nla_proj_names[p], "AB"[i]);
				nla_strs_push(&names, key);
				free(key);
			}
	nt_scope_push();
	if (!check_keys(&st, &names, err)) {
		size_t at = 0;
		a->stored = stored_type(&st, &names);
		for (int64_t l = 0; l < a->n_layers && !err->status; l++)
			for (int p = 0; p < NLA_N_PROJ && !err->status; p++) {
				if (!(targets & 1u << p))
					continue;
				struct nla_lora *x = &a->layers[l][p];
				x->A = read_matrix(&st, names.data[at++], a->rank[p], nla_proj_in(arch, p), device, err);
				if (!err->status)
					x->B = read_matrix(&st, names.data[at++], nla_proj_out(arch, p), a->rank[p], device, err);
			}
	}
	nt_scope_pop();
	nla_strs_release(&names);
	nla_st_close(&st);
	if (!err->status && nt_check())
		nla_nt_fail(err, "cannot load adapter '%s'", folder);
	return err->status;
}

enum nla_status nla_adapter_load(struct nla_adapter *a, const struct nla_arch *arch, int64_t n_layers, const char *folder, int device,
				 struct nla_err *err)
{
	unsigned targets = 0;
	memset(a, 0, sizeof(*a));
	a->n_layers = n_layers;
	a->layers = nla_alloc((size_t)n_layers, sizeof(*a->layers));
	char *config = nla_path_join(folder, "adapter_config.json"), *meta = nla_path_join(folder, "ar_meta.json");
	bool nano = !nla_exists(config) && nla_exists(meta);
	free(config);
	free(meta);
	if ((nano ? read_nano_config(a, folder, &targets, err) : read_config(a, folder, &targets, err)) ||
	    read_tensors(a, arch, folder, nano ? "ar_lora_value_head" : "adapter_model", targets, device, err))
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
		cJSON_AddItemToArray(targets, cJSON_CreateString(nla_proj_names[p]));
		if (!r) {
			r = a->rank[p];
			alpha = a->alpha[p];
		}
		if (a->rank[p] != r)
			cJSON_AddNumberToObject(ranks, nla_proj_names[p], (double)a->rank[p]);
		if (a->alpha[p] != alpha)
			cJSON_AddNumberToObject(alphas, nla_proj_names[p], a->alpha[p]);
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

static enum nla_status write_tensors(const struct nla_adapter *a, const char *folder, struct nla_err *err)
{
	struct nla_strs names = { 0 };
	const enum nla_st_dtype type = a->stored == NT_BF16 ? NLA_ST_BF16 : a->stored == NT_F16 ? NLA_ST_F16 : NLA_ST_F32;
	int n = nla_adapter_params(a, NULL, NULL);
	nt_tensor **list = nla_alloc((size_t)n, sizeof(*list));
	struct nla_st_entry *entries = nla_alloc((size_t)n, sizeof(*entries));
	nla_adapter_params(a, list, &names);
	for (int i = 0; i < n; i++) {
		struct nla_st_entry *e = &entries[i];
		*e = (struct nla_st_entry){ .name = names.data[i], .dtype = type, .ndim = 2,
					    .shape = { nt_size(list[i], 0), nt_size(list[i], 1) } };
		e->nbytes = (size_t)nt_numel(list[i]) * nla_st_dtype_size(type);
		void *host = nla_alloc(e->nbytes, 1);
		nt_scope_push();
		nt_to_host_raw(nt_to(list[i], a->stored), host, e->nbytes);
		nt_scope_pop();
		e->data = host;
	}
	char *path = nla_path_join(folder, "adapter_model.safetensors");
	if (nt_check())
		nla_nt_fail(err, "cannot read the adapter back");
	else
		nla_st_write(path, entries, (size_t)n, err);
	for (int i = 0; i < n; i++)
		free((void *)(uintptr_t)entries[i].data);
	free(path);
	free(entries);
	free(list);
	nla_strs_release(&names);
	return err->status;
}

enum nla_status nla_adapter_save(const struct nla_adapter *a, const char *folder, const char *base_name, struct nla_err *err)
{
	char *path = nla_path_join(folder, "adapter_config.json");
	cJSON *json = config_json(a, base_name);
	if (nla_mkdirs(folder, err) || write_tensors(a, folder, err) || nla_json_write(path, json, true, err))
		nla_err_context(err, "cannot save adapter '%s'", folder);
	cJSON_Delete(json);
	free(path);
	return err->status;
}
