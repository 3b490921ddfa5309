#include "run/export.h"

#include <dirent.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/progress.h"
#include "base/safetensors.h"
#include "nla/ar.h"

#define ROWS_AT_ONCE 4096

struct export {
	struct nla_target target; /* no weights */
	struct nla_sidecar meta;
	struct nla_weights weights;
	struct nla_arch arch;     /* of what is under the adapter */
	struct nla_adapter adapter;
	nt_tensor *head;          /* of an AR */
	int64_t depth;            /* blocks kept */
	const char *source;       /* borrowed: folder whose weights are read */
	struct nla_st in;
	nt_dtype dtype;
	struct nla_st_entry *out; /* in the order of `from` */
	const struct nla_st_entry **from;
	size_t n;
};

/* ---- what is exported ---- */

static enum nla_status describe(struct export *x, const struct nla_config *cfg, const char *folder, const char *role, const char *base,
				const char *out, struct nla_err *err)
{
	bool is_ar = !strcmp(role, "ar");
	if (nla_target_describe(&x->target, cfg->model, &cfg->chat, err) || nla_sidecar_read(&x->meta, folder, err))
		return err->status;
	if (x->meta.role && strcmp(x->meta.role, role))
		return nla_fail(err, "'%s/nla_meta.yaml': role is '%s', want an %s", folder, x->meta.role, is_ar ? "AR" : "AV");
	if ((is_ar && nla_ar_read_meta(&x->meta, folder, err)) ||
	    nla_weights_find(&x->weights, folder, &x->meta, base, cfg->model, err) || nla_contract_check(&x->meta, &x->target, folder, err))
		return err->status;
	x->source = x->weights.base ? x->weights.base : cfg->model;
	if (nla_same_folder(out, x->source))
		return nla_usage(err, "'out' is '%s', whose weights are exported: give another --out", out);
	if (nla_arch_read(&x->arch, x->source, err))
		return err->status;
	int64_t block = nla_sidecar_block(&x->meta);
	x->depth = is_ar && block >= 0 ? block + 1 : x->arch.n_layers;
	if (x->depth > x->arch.n_layers)
		return nla_fail(err, "'%s' has %lld blocks, the AR of block %lld needs %lld", x->source, (long long)x->arch.n_layers,
				(long long)block, (long long)x->depth);
	if (x->weights.adapter && nla_adapter_load(&x->adapter, &x->arch, x->depth, folder, NT_CPU, err))
		return err->status;
	if (is_ar)
		x->head = nla_ar_load_head(folder, x->arch.d_model, NT_CPU, err);
	x->dtype = cfg->export.dtype ? NT_F32 : NT_BF16;
	return err->status;
}

/* Is the tensor one of the AR's? */
static bool of_ar(const struct export *x, const char *name)
{
	long long layer;
	if (sscanf(name, "model.layers.%lld.", &layer) == 1)
		return layer < x->depth;
	return strcmp(name, "lm_head.weight") && (x->meta.final_norm || strcmp(name, "model.norm.weight"));
}

static enum nla_status list_tensors(struct export *x, struct nla_err *err)
{
	if (nla_st_open_folder(&x->in, x->source, "model", err))
		return err->status;
	x->out = nla_alloc(x->in.n_entries + 1, sizeof(*x->out));
	x->from = nla_alloc(x->in.n_entries + 1, sizeof(*x->from));
	for (size_t i = 0; i < x->in.n_entries; i++) {
		const struct nla_st_entry *e = &x->in.entries[i];
		if (x->head && !of_ar(x, e->name))
			continue;
		if (e->dtype > NLA_ST_F16)
			return nla_fail(err, "cannot export '%s': tensor '%s' has type %s, want F32, BF16 or F16", x->in.path, e->name,
					nla_st_dtype_name(e->dtype));
		x->from[x->n] = e;
		x->out[x->n] = *e;
		x->out[x->n].dtype = x->dtype == NT_F32 ? NLA_ST_F32 : NLA_ST_BF16;
		x->out[x->n].nbytes = e->nbytes / nla_st_dtype_size(e->dtype) * nla_st_dtype_size(x->out[x->n].dtype);
		x->n++;
	}
	return NLA_OK;
}

static enum nla_status need(const struct export *x, const char *name, struct nla_err *err)
{
	return nla_st_find(&x->in, name) ? NLA_OK : nla_fail(err, "cannot export '%s': tensor '%s' is missing", x->in.path, name);
}

/* Nothing of the architecture may be missing: who loads the export would fail, or worse, draw it at random. */
static enum nla_status check_complete(const struct export *x, struct nla_err *err)
{
	const struct nla_arch *a = &x->arch;
	const struct {
		const char *name;
		bool has;
	} parts[] = { { "input_layernorm.weight", true }, { "post_attention_layernorm.weight", true }, { "self_attn.q_proj.weight", true },
		      { "self_attn.k_proj.weight", true }, { "self_attn.v_proj.weight", true }, { "self_attn.o_proj.weight", true },
		      { "mlp.gate_proj.weight", true }, { "mlp.up_proj.weight", true }, { "mlp.down_proj.weight", true },
		      { "self_attn.q_proj.bias", a->qkv_bias }, { "self_attn.k_proj.bias", a->qkv_bias }, { "self_attn.v_proj.bias", a->qkv_bias },
		      { "self_attn.q_norm.weight", a->qk_norm }, { "self_attn.k_norm.weight", a->qk_norm } };
	for (int64_t l = 0; l < x->depth && !err->status; l++)
		for (size_t i = 0; i < NLA_LEN(parts) && !err->status; i++) {
			char *name = nla_format("model.layers.%lld.%s", (long long)l, parts[i].name);
			if (parts[i].has)
				need(x, name, err);
			free(name);
		}
	if (err->status || need(x, "model.embed_tokens.weight", err) || ((!x->head || x->meta.final_norm) && need(x, "model.norm.weight", err)))
		return err->status;
	return x->head || a->tied ? NLA_OK : need(x, "lm_head.weight", err);
}

/* The name of a projection that the adapter changes, as files have it. */
static char *proj_name(int64_t layer, int p)
{
	return nla_format("model.layers.%lld.%s.%s.weight", (long long)layer, p <= NLA_O ? "self_attn" : "mlp", nla_proj_names[p]);
}

/* Every projection that the adapter has must be there, in its shape. */
static enum nla_status check_projections(const struct export *x, struct nla_err *err)
{
	for (int64_t l = 0; l < x->adapter.n_layers && !err->status; l++)
		for (int p = 0; p < NLA_N_PROJ && !err->status; p++) {
			if (!x->adapter.layers[l][p].A)
				continue;
			char *name = proj_name(l, p);
			const struct nla_st_entry *e = nla_st_find(&x->in, name);
			if (!e || e->ndim != 2 || e->shape[0] != nla_proj_out(&x->arch, p) || e->shape[1] != nla_proj_in(&x->arch, p))
				nla_fail(err, "cannot export '%s': tensor '%s' is missing or has another shape than config.json says", x->in.path, name);
			free(name);
		}
	return err->status;
}

/* ---- writing ---- */

/* W + s B A, a stretch of rows at a time; what no adapter changes is converted, or written as it is. */
static enum nla_status write_tensor(const struct export *x, const struct nla_st_entry *e, const struct nla_lora *lora, double scale,
				    struct nla_st_parts *w, struct nla_err *err)
{
	nt_dtype type = e->dtype == NLA_ST_BF16 ? NT_BF16 : e->dtype == NLA_ST_F16 ? NT_F16 : NT_F32;
	if (!lora && type == x->dtype)
		return nla_st_parts_add(w, e->data, e->nbytes, err);
	int64_t rows = e->ndim == 2 ? e->shape[0] : 1, cols = (int64_t)(e->nbytes / nla_st_dtype_size(e->dtype)) / NLA_MAX(rows, 1);
	size_t size = x->dtype == NT_F32 ? 4 : 2;
	void *bytes = nla_alloc((size_t)(NLA_MIN(rows, ROWS_AT_ONCE) * cols), size);
	for (int64_t from = 0; from < rows && !err->status; from += ROWS_AT_ONCE) {
		int64_t n = NLA_MIN(rows - from, ROWS_AT_ONCE), shape[2] = { n, cols };
		nt_scope_push();
		nt_tensor *t = nt_to(nt_from_host(type, NT_CPU, (const char *)e->data + (size_t)(from * cols) * nla_st_dtype_size(e->dtype), 2, shape), NT_F32);
		if (lora)
			nt_add_into(t, nt_matmul(nt_narrow(lora->B, 0, from, n), lora->A), scale);
		nt_to_host_raw(nt_to(t, x->dtype), bytes, (size_t)(n * cols) * size);
		nt_scope_pop();
		if (nt_check())
			nla_nt_fail(err, "cannot export '%s'", e->name);
		else
			nla_st_parts_add(w, bytes, (size_t)(n * cols) * size, err);
	}
	free(bytes);
	return err->status;
}

static const struct nla_lora *lora_of(const struct export *x, const char *tensor, double *scale)
{
	long long l;
	if (sscanf(tensor, "model.layers.%lld.", &l) != 1 || l < 0 || l >= x->adapter.n_layers)
		return NULL;
	for (int p = 0; p < NLA_N_PROJ; p++) {
		char *name = proj_name(l, p);
		bool same = !strcmp(name, tensor);
		free(name);
		if (same && x->adapter.layers[l][p].A) {
			*scale = nla_lora_scale(&x->adapter, p);
			return &x->adapter.layers[l][p];
		}
	}
	return NULL;
}

static enum nla_status write_shard(const struct export *x, const char *path, size_t from, size_t to, struct nla_progress *p, struct nla_err *err)
{
	struct nla_st_parts *w;
	if (nla_st_parts_open(&w, path, x->out + from, to - from, err))
		return err->status;
	for (size_t i = from; i < to && !err->status; i++) {
		double scale = 0;
		const struct nla_lora *lora = lora_of(x, x->from[i]->name, &scale);
		write_tensor(x, x->from[i], lora, scale, w, err);
		nla_progress_step(p, (int64_t)i + 1, "%s", x->from[i]->name);
	}
	if (err->status)
		nla_st_parts_abort(w);
	else
		nla_st_parts_close(w, err);
	return err->status;
}

/* Where each shard begins: starts[0..n], the last one the number of tensors. Returns n. */
static size_t cut_shards(const struct export *x, double limit, size_t *starts)
{
	size_t n = 0;
	double bytes = 0;
	for (size_t i = 0; i < x->n; i++) {
		if (i == 0 || bytes + (double)x->out[i].nbytes > limit) {
			starts[n++] = i;
			bytes = 0;
		}
		bytes += (double)x->out[i].nbytes;
	}
	starts[n] = x->n;
	return n;
}

static enum nla_status write_weights(const struct export *x, const struct nla_config *cfg, const char *out, struct nla_err *err)
{
	size_t *starts = nla_alloc(x->n + 1, sizeof(*starts)), n = cut_shards(x, cfg->export.shard * 1e9, starts);
	cJSON *index = cJSON_CreateObject(), *meta = cJSON_AddObjectToObject(index, "metadata"), *map = cJSON_AddObjectToObject(index, "weight_map");
	struct nla_progress p;
	double total = 0;
	nla_progress_start(&p, "export", (int64_t)x->n);
	for (size_t s = 0; s < n && !err->status; s++) {
		char *name = n == 1 ? nla_strdup("model.safetensors") : nla_format("model-%05zu-of-%05zu.safetensors", s + 1, n);
		char *path = nla_path_join(out, name);
		for (size_t i = starts[s]; i < starts[s + 1]; i++) {
			cJSON_AddStringToObject(map, x->out[i].name, name);
			total += (double)x->out[i].nbytes;
		}
		write_shard(x, path, starts[s], starts[s + 1], &p, err);
		free(name);
		free(path);
	}
	cJSON_AddNumberToObject(meta, "total_size", total);
	char *path = nla_path_join(out, "model.safetensors.index.json");
	if (!err->status && n > 1)
		nla_json_write(path, index, true, err);
	if (!err->status)
		nla_progress_end(&p, "%zu tensors in %zu files, %.2f GB", x->n, n, total / 1e9);
	cJSON_Delete(index);
	free(path);
	free(starts);
	return err->status;
}

static void replace(cJSON *json, const char *key, cJSON *value)
{
	cJSON_DeleteItemFromObjectCaseSensitive(json, key);
	cJSON_AddItemToObject(json, key, value);
}

/* The base's, with the type and the depth of what is written. */
static enum nla_status write_config(const struct export *x, const char *out, struct nla_err *err)
{
	char *in = nla_path_join(x->source, "config.json"), *to = nla_path_join(out, "config.json");
	cJSON *json = NULL;
	if (!nla_json_read(in, &json, err)) {
		cJSON *types = cJSON_GetObjectItemCaseSensitive(json, "layer_types");
		replace(json, cJSON_HasObjectItem(json, "dtype") ? "dtype" : "torch_dtype", cJSON_CreateString(x->dtype == NT_F32 ? "float32" : "bfloat16"));
		replace(json, "num_hidden_layers", cJSON_CreateNumber((double)x->depth));
		while (cJSON_IsArray(types) && cJSON_GetArraySize(types) > x->depth)
			cJSON_DeleteItemFromArray(types, (int)x->depth);
		nla_json_write(to, json, true, err);
	}
	cJSON_Delete(json);
	free(in);
	free(to);
	return err->status;
}

static enum nla_status write_ar_meta(const struct export *x, const char *out, struct nla_err *err)
{
	char *path = nla_path_join(out, "ar_meta.json");
	cJSON *json = cJSON_CreateObject();
	cJSON_AddNumberToObject(json, "ar_num_layers", (double)x->depth);
	cJSON_AddBoolToObject(json, "final_norm_stripped", false);
	nla_json_write(path, json, true, err);
	cJSON_Delete(json);
	free(path);
	return err->status;
}

static void remove_one(const char *folder, const char *name)
{
	char *path = nla_path_join(folder, name);
	unlink(path);
	free(path);
}

/* An earlier export's files that ours need not replace, and a reader would take for ours. */
static void clear(const char *out)
{
	static const char *const files[] = { "nla_meta.yaml", "model.safetensors.index.json", "model.safetensors", "ar_meta.json", "value_head.safetensors" };
	for (size_t i = 0; i < NLA_LEN(files); i++)
		remove_one(out, files[i]);
	for (const char *const *name = nla_beside; *name; name++)
		remove_one(out, *name);
	DIR *dir = opendir(out);
	for (const struct dirent *e; dir && (e = readdir(dir));)
		if (!fnmatch("model-[0-9]*-of-[0-9]*.safetensors", e->d_name, 0))
			remove_one(out, e->d_name);
	if (dir)
		closedir(dir);
}

/* The sidecar last: a folder without one is no AV or AR yet. */
static enum nla_status write_all(struct export *x, const struct nla_config *cfg, const char *out, const char *role, struct nla_err *err)
{
	char *stage = nla_format("%s%smerged", x->meta.stage ? x->meta.stage : "", x->meta.stage ? ", " : "");
	nla_sidecar_stamp(&x->meta, "nla_model", role, stage);
	free(stage);
	free(x->meta.base_folder);
	x->meta.base_folder = NULL;
	if (x->head)
		x->meta.critic_layer = x->depth - 1;
	if (list_tensors(x, err) || check_complete(x, err) || check_projections(x, err) || nla_mkdirs(out, err))
		return err->status;
	if (cfg->overwrite)
		clear(out);
	if (write_weights(x, cfg, out, err) ||
	    nla_copy_beside(x->target.folder, out, "config.json", err) || write_config(x, out, err))
		return err->status;
	if (x->head && (nla_ar_save_head(x->head, out, err) || (x->meta.final_norm && write_ar_meta(x, out, err))))
		return err->status;
	return nla_sidecar_write(&x->meta, out, err);
}

static void release(struct export *x)
{
	if (x->in.path)
		nla_st_close(&x->in);
	free(x->out);
	free(x->from);
	nt_free(x->head);
	nla_adapter_release(&x->adapter);
	nla_weights_release(&x->weights);
	nla_sidecar_release(&x->meta);
	nla_target_close(&x->target);
}

static enum nla_status run(const struct nla_config *cfg, const char *folder, const char *base, const char *out, const char *role,
			   struct nla_err *err)
{
	struct export x = { .n = 0 };
	char *there = nla_path_join(out, "config.json");
	nla_sidecar_init(&x.meta);
	if (nla_exists(there) && !cfg->overwrite)
		nla_usage(err, "'%s' is there already: give --overwrite to replace it, or another --out", there);
	else if (nla_same_folder(out, folder) || nla_same_folder(out, cfg->model))
		nla_usage(err, "'out' is '%s', which is what is exported: give another --out", out);
	else if (describe(&x, cfg, folder, role, base, out, err) || write_all(&x, cfg, out, role, err))
		nla_err_context(err, "cannot export '%s'", folder);
	release(&x);
	free(there);
	return err->status;
}

enum nla_status nla_export_av(const struct nla_config *cfg, const char *out, struct nla_err *err)
{
	return run(cfg, cfg->av, cfg->av_base, out, "av", err);
}

enum nla_status nla_export_ar(const struct nla_config *cfg, const char *out, struct nla_err *err)
{
	return run(cfg, cfg->ar, cfg->ar_base, out, "ar", err);
}
