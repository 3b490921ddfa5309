/*
 * peft - adapters on disk in PEFT's layout; see lora.h. The keys of the file decide which projections of which blocks have an
 * adapter; adapter_config.json gives rank and scale, and what it names without doubt must be in the file.
 */

#include "base/json.h"
#include "base/progress.h"
#include "lm/lora.h"

#define N_LISTED 4 /* keys named in a message before "..." */
#define MAX_RANK 65536

/* ---- configuration ---- */

#define A(field) offsetof(struct nla_adapter, field)
static const struct nla_field peft_fields[] = {
	{ "r", NLA_WHOLE, A(rank), NLA_MUST, .low = 1, .high = MAX_RANK },
	{ "lora_alpha", NLA_REAL, A(alpha), NLA_MUST, .low = -1e9, .high = 1e9 },
	{ "use_rslora", NLA_FLAG, .at = A(rslora) },
	{ .key = "target_modules|layers_to_transform|exclude_modules|rank_pattern|alpha_pattern" }, /* read below */
	{ "peft_type", NLA_ONLY, .want = "'LORA'" },
	{ "bias", NLA_ONLY, .want = "'none'" },
	{ "modules_to_save|layer_replication|target_parameters|trainable_token_indices|alora_invocation_tokens|use_dora|"
	  "use_qalora|use_bdlora|fan_in_fan_out|lora_bias|arrow_config|monteclora_config|kasa_config|velora_config",
	  NLA_ONLY, .want = "false|[]|{}" },
	/* pissa, olora, corda, loftq, lora_ga take something out of the base's weights that the adapter's file does not hold */
	{ "init_lora_weights", NLA_ONLY, .want = "true|false|'gaussian'|'eva'|'mica'|'orthogonal'",
	  .why = "it changes the base's weights; save the adapter converted to a plain one" },
	{ .key =
	  "auto_mapping|base_model_name_or_path|corda_config|ensure_weight_tying|eva_config|inference_mode|layers_pattern|"
	  "loftq_config|lora_dropout|lora_ga_config|megatron_config|megatron_core|peft_version|qalora_group_size|revision|"
	  "runtime_config|task_type" },
};

/* ar_meta.json of nanoNLA's AR: always rsLoRA. */
static const struct nla_field nano_fields[] = {
	{ "lora_r", NLA_WHOLE, A(rank), NLA_MUST, .low = 1, .high = MAX_RANK },
	{ "lora_alpha", NLA_REAL, A(alpha), NLA_MUST, .low = -1e9, .high = 1e9 },
};

/* Does the configuration name this projection without doubt? What a regular expression names is left to the keys. */
static bool named(const cJSON *json, bool inside, int64_t layer, enum nla_proj proj)
{
	const cJSON *targets = nla_json_at(json, "target_modules"), *layers = nla_json_at(json, "layers_to_transform");
	const char *all = cJSON_GetStringValue(targets);
	bool found = all && !strcmp(all, "all-linear");
	NLA_AUTO(nla_i32s_release) struct nla_i32s only = { 0 };
	nla_json_ids(layers, 0x1p31, &only);
	if (nla_json_at(json, "exclude_modules") || (layers && !nla_i32s_has(&only, (int32_t)layer)))
		return false;
	nla_auto char *name = nla_format(".model.%slayers.%lld.%s", inside ? "language_model." : "", (long long)layer,
				      nla_proj_path(proj));
	for (const cJSON *t = cJSON_IsArray(targets) ? targets->child : NULL; t && !found; t = t->next) {
		size_t n = cJSON_IsString(t) ? strlen(t->valuestring) : 0;
		found = n && n < strlen(name) && name[strlen(name) - n - 1] == '.' && nla_ends_with(name, t->valuestring);
	}
	return found;
}

/* rank_pattern and alpha_pattern: values for single projections, by their name ("q_proj", "self_attn.q_proj"); of several that
 * match, the first counts (PEFT's get_pattern_key). */
static enum nla_status read_pattern(const cJSON *json, const char *path, const char *key, double *values, struct nla_err *err)
{
	const cJSON *map = nla_json_at(json, key);
	unsigned seen = 0;
	if (map && !cJSON_IsObject(map))
		return nla_fail(err, "cannot load '%s': '%s' is not an object", path, key);
	for (const cJSON *t = map ? map->child : NULL; t; t = t->next) {
		int p = 0;
		while (p < NLA_N_PROJ && strcmp(t->string, nla_proj_name(p)) && strcmp(t->string, nla_proj_path(p)))
			p++;
		if (p == NLA_N_PROJ || !cJSON_IsNumber(t))
			return nla_fail(err, "cannot load '%s': '%s' has '%s', only whole projections are supported", path, key,
					t->string);
		if (cJSON_GetObjectItemCaseSensitive(map, t->string) != t) /* a Python dictionary has the last value */
			return nla_fail(err, "cannot load '%s': '%s' has '%s' twice", path, key, t->string);
		if (!(seen & 1u << p))
			values[p] = t->valuedouble;
		seen |= 1u << p;
	}
	return NLA_OK;
}

/* Per projection: the values that all share, which the fields put first, and the patterns. */
static enum nla_status read_ranks(struct nla_adapter *a, const cJSON *json, const char *path, struct nla_err *err)
{
	double rank[NLA_N_PROJ];
	for (int p = 0; p < NLA_N_PROJ; p++) {
		rank[p] = (double)a->rank[0];
		a->alpha[p] = a->alpha[0];
	}
	if (read_pattern(json, path, "rank_pattern", rank, err) || read_pattern(json, path, "alpha_pattern", a->alpha, err))
		return err->status;
	for (int p = 0; p < NLA_N_PROJ; p++) {
		if (!(rank[p] >= 1 && rank[p] <= MAX_RANK && rank[p] == floor(rank[p])))
			return nla_fail(err, "cannot load '%s': rank of '%s' is %g, want a whole number from 1 to %d", path,
					nla_proj_name(p), rank[p], MAX_RANK);
		if (!isfinite(a->alpha[p]))
			return nla_fail(err, "cannot load '%s': alpha of '%s' is %g, want a finite number", path,
					nla_proj_name(p), a->alpha[p]);
		a->rank[p] = (int64_t)rank[p];
	}
	return NLA_OK;
}

static enum nla_status read_config(struct nla_adapter *a, const char *path, bool nano, cJSON **json, struct nla_err *err)
{
	const struct nla_field *fields = nano ? nano_fields : peft_fields;
	size_t n = nano ? NLA_LEN(nano_fields) : NLA_LEN(peft_fields);
	a->rslora = nano;
	return nla_json_read(path, json, err) || (!nano && nla_fields_check(fields, n, *json, path, true, err)) ||
	       nla_fields_read(fields, n, *json, path, a, err) || read_ranks(a, *json, path, err);
}

/* ---- tensors ---- */

typedef const struct nla_st_entry *nla_pairs[NLA_N_PROJ][2]; /* A and B of a block's projections */

/* A key that goes by one of the names of lora.h: its block and the projection and side of it, or false. */
static bool take_apart(const char *key, int64_t *layer, int *proj, int *side)
{
	static const char *const prefixes[] = { "base_model.model.model.layers.", "base_model.model.layers.",
						"base_model.model.model.language_model.layers.",
						"base_model.model.language_model.model.layers.",
						"base_model.model.language_model.layers.", "backbone.model.layers." };
	static const char *const ends[] = { "lora_A.weight", "lora_B.weight", "lora_A.default.weight",
					    "lora_B.default.weight" };
	char number[32];
	size_t i = 0;
	while (i < NLA_LEN(prefixes) && !nla_starts_with(key, prefixes[i]))
		i++;
	if (i == NLA_LEN(prefixes))
		return false;
	key += strlen(prefixes[i]);
	*layer = strtoll(key, NULL, 10);
	snprintf(number, sizeof(number), "%lld.", (long long)*layer);
	if (*layer < 0 || !nla_starts_with(key, number)) /* no digits, a sign, zeros in front */
		return false;
	key += strlen(number);
	for (*proj = 0; *proj < NLA_N_PROJ; ++*proj) {
		size_t n = strlen(nla_proj_path(*proj));
		bool ours = !strncmp(key, nla_proj_path(*proj), n) && key[n] == '.';
		for (i = 0; i < NLA_LEN(ends) && ours; i++) {
			*side = i % 2;
			if (!strcmp(key + n + 1, ends[i]))
				return true;
		}
	}
	return false;
}

static void list_key(struct nla_str *s, size_t n, const char *key)
{
	if (n < N_LISTED)
		nla_str_addf(s, "%s'%s'", n ? ", " : ": ", key);
	else if (n == N_LISTED)
		nla_str_add(s, ", ...");
}

/* Every entry to its place: what is over and what is wanting is an error that lists both. cut: blocks beyond are no error. */
static enum nla_status find_all(const struct nla_adapter *a, const struct nla_st *st, const cJSON *json, bool cut,
				nla_pairs *found, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str missing = NLA_STR_INIT, extra = NLA_STR_INIT;
	size_t n_missing = 0, n_extra = 0, n_found = 0, n_deeper = 0, n_others = 0;
	int64_t l;
	int p, side;
	for (size_t i = 0; i < st->n_entries; i++) {
		const char *key = st->entries[i].name;
		bool ours = take_apart(key, &l, &p, &side);
		if (ours && l < a->n_layers && !found[l][p][side])
			found[l][p][side] = &st->entries[i];
		else if (ours && l >= a->n_layers && cut)
			n_deeper++;
		else if (a->inside && strstr(key, ".vision_tower."))
			n_others++;
		else if (strcmp(key, "value_head.weight")) /* nanoNLA keeps the AR's head here */
			list_key(&extra, n_extra++, key);
	}
	for (int64_t i = 0; i < a->n_layers * NLA_N_PROJ * 2; i++) {
		l = i / 2 / NLA_N_PROJ;
		p = (int)(i / 2 % NLA_N_PROJ);
		side = (int)(i % 2);
		n_found += found[l][p][side] != NULL;
		if (found[l][p][side] || (!found[l][p][!side] && !named(json, a->inside, l, p)))
			continue;
		nla_auto char *key = nla_lora_key(a, l, p, side);
		list_key(&missing, n_missing++, key);
	}
	if (n_missing || n_extra)
		nla_fail(err, "cannot load adapter '%s': %zu keys are missing%s, %zu are unexpected%s", st->path, n_missing,
			 missing.buf, n_extra, extra.buf);
	else if (!n_found)
		nla_fail(err, "cannot load adapter '%s': no key of it is of blocks 0 to %lld", st->path,
			 (long long)a->n_layers - 1);
	else if (n_others)
		nla_say("adapter '%s': %zu of its tensors are of the vision tower and are not read", st->path, n_others);
	if (!err->status && n_deeper)
		nla_say("adapter '%s': %zu of its tensors are of blocks after %lld and are not read", st->path, n_deeper,
			(long long)a->n_layers - 1);
	return err->status;
}

static bool is_zero(const struct nla_st_entry *e)
{
	const char *bytes = e->data;
	return e->nbytes && !*bytes && !memcmp(bytes, bytes + 1, e->nbytes - 1);
}

static enum nla_status read_tensors(struct nla_adapter *a, const struct nla_arch *arch, const struct nla_st *st,
				    nla_pairs *found, int device, struct nla_err *err)
{
	bool zero = true;
	int n_read = 0;
	for (int p = 0; p < NLA_N_PROJ; p++) {
		bool used = false;
		for (int64_t l = 0; l < a->n_layers && !err->status; l++) {
			const struct nla_st_entry *A = found[l][p][0], *B = found[l][p][1];
			struct nla_lora *to = &a->layers[l][p];
			if (!A)
				continue;
			if (!n_read++)
				a->stored = nla_dtype_of(A->dtype);
			if (A->dtype != B->dtype || nla_dtype_of(A->dtype) != a->stored)
				a->stored = NT_F32; /* one type for the whole file */
			zero = zero && is_zero(B);
			used = true;
			to->A = nla_tensor_read(st, A->name, a->rank[p], nla_proj_in(arch, p), device, err);
			if (!err->status)
				to->B = nla_tensor_read(st, B->name, nla_proj_out(arch, p), a->rank[p], device, err);
		}
		a->rank[p] = used ? a->rank[p] : 0;
	}
	if (!err->status && zero)
		nla_say("warning: adapter '%s': every B is zero, so it changes nothing: was it saved before training?",
			st->path);
	return err->status;
}

enum nla_status nla_adapter_load(struct nla_adapter *a, const struct nla_arch *arch, int64_t n_layers, const char *folder,
				 int device, struct nla_err *err)
{
	nla_auto char *config = nla_path_join(folder, "adapter_config.json"), *meta = nla_path_join(folder, "ar_meta.json");
	bool nano = !nla_exists(config) && nla_exists(meta), cut = arch->cut || n_layers < arch->n_layers;
	nla_auto nla_pairs *found = nla_alloc((size_t)n_layers, sizeof(*found));
	NLA_AUTO(nla_st_close) struct nla_st st = { 0 };
	nla_auto_json cJSON *json = NULL;
	*a = (struct nla_adapter){ .n_layers = n_layers, .inside = arch->inside,
				   .layers = nla_alloc((size_t)n_layers, sizeof(*a->layers)) };
	if (read_config(a, nano ? meta : config, nano, &json, err) ||
	    nla_st_open_folder(&st, folder, nano ? "ar_lora_value_head" : "adapter_model", err) ||
	    find_all(a, &st, json, cut, found, err) || read_tensors(a, arch, &st, found, device, err))
		nla_adapter_release(a);
	return err->status;
}

/* ---- writing ---- */

/* One name, or where some blocks lack it those of the others. */
static void add_target(cJSON *targets, const struct nla_adapter *a, enum nla_proj proj)
{
	int64_t n = 0;
	for (int64_t l = 0; l < a->n_layers; l++)
		n += a->layers[l][proj].A != NULL;
	if (n == a->n_layers)
		cJSON_AddItemToArray(targets, cJSON_CreateString(nla_proj_name(proj)));
	for (int64_t l = 0; l < a->n_layers && n < a->n_layers; l++) {
		nla_auto char *name = nla_format("layers.%lld.%s", (long long)l, nla_proj_path(proj));
		if (a->layers[l][proj].A)
			cJSON_AddItemToArray(targets, cJSON_CreateString(name));
	}
}

static cJSON *config_json(const struct nla_adapter *a, const char *base_name)
{
	cJSON *json = cJSON_CreateObject(), *targets = cJSON_CreateArray();
	cJSON *ranks = cJSON_CreateObject(), *alphas = cJSON_CreateObject();
	int first = 0;
	while (first < NLA_N_PROJ - 1 && !a->rank[first])
		first++;
	for (int p = first; p < NLA_N_PROJ; p++) {
		if (!a->rank[p])
			continue;
		add_target(targets, a, p);
		if (a->rank[p] != a->rank[first])
			cJSON_AddNumberToObject(ranks, nla_proj_name(p), (double)a->rank[p]);
		if (a->alpha[p] != a->alpha[first])
			cJSON_AddNumberToObject(alphas, nla_proj_name(p), a->alpha[p]);
	}
	cJSON_AddStringToObject(json, "peft_type", "LORA");
	cJSON_AddStringToObject(json, "task_type", "CAUSAL_LM");
	cJSON_AddStringToObject(json, "base_model_name_or_path", base_name ? base_name : "");
	cJSON_AddNumberToObject(json, "r", (double)a->rank[first]);
	cJSON_AddNumberToObject(json, "lora_alpha", a->alpha[first]);
	cJSON_AddNumberToObject(json, "lora_dropout", 0);
	cJSON_AddBoolToObject(json, "use_rslora", a->rslora);
	cJSON_AddStringToObject(json, "bias", "none");
	cJSON_AddBoolToObject(json, "fan_in_fan_out", false);
	cJSON_AddBoolToObject(json, "inference_mode", true);
	cJSON_AddItemToObject(json, "target_modules", targets);
	if (a->inside)
		cJSON_AddStringToObject(json, "exclude_modules", ".*vision_tower.*");
	cJSON_AddItemToObject(json, "rank_pattern", ranks);
	cJSON_AddItemToObject(json, "alpha_pattern", alphas);
	return json;
}

enum nla_status nla_adapter_save(const struct nla_adapter *a, const char *folder, const char *base_name, struct nla_err *err)
{
	nla_auto char *config = nla_path_join(folder, "adapter_config.json");
	nla_auto char *weights = nla_path_join(folder, "adapter_model.safetensors");
	NLA_AUTO(nla_tensors_release) struct nla_tensors out = { 0 };
	nla_adapter_list(a, &out);
	nla_auto_json cJSON *json = config_json(a, base_name);
	if (nla_mkdirs(folder, err) || nla_tensors_write(&out, weights, a->stored, err) ||
	    nla_json_write(config, json, true, err))
		nla_err_context(err, "cannot save adapter '%s'", folder);
	return err->status;
}
