/*
 * export - an AV or AR as a whole checkpoint: adapters are merged into the projections, an AR is cut after its block, and the
 * tensors go in one file or in shards with an index. Which tensors there are, and their shapes, is what the loader would read
 * (nla_lm_next).
 */
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
#include "nla/half.h"

#define ROWS_AT_ONCE 4096

/* A tensor that is written, and where it comes from. */
struct item {
	struct nla_slot slot;
	const struct nla_st_entry *from;
};

struct export {
	struct nla_target target; /* no weights */
	struct nla_half half;     /* none of its base's either */
	struct nla_lm lm;         /* what is written: described alone */
	const char *source;       /* borrowed: folder whose weights are read */
	struct nla_st in;
	nt_dtype dtype;
	struct item *items;       /* [n], by name */
	struct nla_st_entry *out; /* [n] */
	size_t n;
};

/* ---- what is exported ---- */

static enum nla_status describe(struct export *x, const struct nla_config *cfg, enum nla_half_role role, const char *folder,
				const char *base, const char *out, struct nla_err *err)
{
	if (nla_target_describe(&x->target, cfg->model, &cfg->chat, err) ||
	    nla_half_open(&x->half, role, &x->target, folder, base, err))
		return err->status;
	const struct nla_lm_part part = { .depth = x->half.depth, .norm = x->half.meta.final_norm };
	x->source = x->half.weights.base ? x->half.weights.base : cfg->model;
	x->dtype = cfg->export.dtype ? NT_F32 : NT_BF16;
	if (nla_same_folder(out, x->source))
		return nla_usage(err, "'out' is '%s', whose weights are exported: give another --out", out);
	return nla_lm_describe(&x->lm, x->source, role == NLA_AR ? &part : NULL, err);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct item *)a)->slot.name, ((const struct item *)b)->slot.name);
}

/* Nothing of the architecture may be missing: who loads the export would fail, or worse, draw it at random. */
static enum nla_status list_tensors(struct export *x, struct nla_err *err)
{
	if (nla_st_open_folder(&x->in, x->source, "model", err) || nla_lm_check_file(&x->lm, &x->in, !x->half.head, err))
		return err->status;
	for (struct nla_slot s = { 0 }; nla_lm_next(&x->lm, &s);) {
		x->items = nla_realloc(x->items, x->n + 1, sizeof(*x->items));
		x->items[x->n++] = (struct item){ s, nla_st_find(&x->in, s.name) };
	}
	qsort(x->items, x->n, sizeof(*x->items), by_name);
	x->out = nla_alloc(x->n, sizeof(*x->out));
	for (size_t i = 0; i < x->n; i++) {
		struct nla_slot *s = &x->items[i].slot;
		x->out[i] = (struct nla_st_entry){ s->name, (enum nla_st_dtype)x->dtype, s->ndim,
						   .shape = { s->shape[0], s->shape[1] } };
		x->out[i].nbytes = (size_t)(s->shape[0] * s->shape[1]) * nla_st_dtype_size(x->out[i].dtype);
	}
	return NLA_OK;
}

/* ---- writing ---- */

/* W + s B A, a stretch of rows at a time; what no adapter changes is converted, or written as it is. */
static enum nla_status write_tensor(const struct export *x, size_t i, struct nla_st_writer *w, struct nla_err *err)
{
	const struct nla_slot *s = &x->items[i].slot;
	const struct nla_st_entry *e = x->items[i].from;
	const struct nla_lora *lora = s->proj >= 0 ? nla_lora_of(&x->half.adapter, s->layer, s->proj) : NULL;
	size_t size = nla_st_dtype_size(x->out[i].dtype);
	if (!lora && nla_dtype_of(e->dtype) == x->dtype)
		return nla_st_writer_add(w, e->data, e->nbytes, err);
	void *bytes = nla_alloc((size_t)(NLA_MIN(s->shape[0], ROWS_AT_ONCE) * s->shape[1]), size);
	for (int64_t from = 0; from < s->shape[0] && !err->status; from += ROWS_AT_ONCE) {
		int64_t n = NLA_MIN(s->shape[0] - from, ROWS_AT_ONCE);
		nt_scope_push();
		nt_tensor *t = nt_to(nt_clone(nt_narrow(nla_tensor_borrow(e), 0, from, n)), NT_F32);
		if (lora)
			nt_add_into(t, nt_matmul(nt_narrow(lora->B, 0, from, n), lora->A),
				    nla_lora_scale(&x->half.adapter, s->proj));
		nt_to_host_raw(nt_to(t, x->dtype), bytes, (size_t)(n * s->shape[1]) * size);
		nt_scope_pop();
		if (nt_check())
			nla_nt_fail(err, "cannot export '%s'", s->name);
		else
			nla_st_writer_add(w, bytes, (size_t)(n * s->shape[1]) * size, err);
	}
	free(bytes);
	return err->status;
}

static enum nla_status write_shard(const struct export *x, const char *path, size_t from, size_t to, struct nla_progress *p,
				   struct nla_err *err)
{
	struct nla_st_writer *w;
	if (nla_st_writer_open(&w, path, x->out + from, to - from, err))
		return err->status;
	for (size_t i = from; i < to && !err->status; i++) {
		write_tensor(x, i, w, err);
		nla_progress_step(p, (int64_t)i + 1, "%s", x->out[i].name);
	}
	return nla_st_writer_close(w, err);
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
	cJSON *index = cJSON_CreateObject(), *meta = cJSON_AddObjectToObject(index, "metadata"),
	      *map = cJSON_AddObjectToObject(index, "weight_map");
	struct nla_progress p;
	double total = 0;
	nla_progress_start(&p, "export", (int64_t)x->n);
	for (size_t s = 0; s < n && !err->status; s++) {
		char *name =
			n == 1 ? nla_strdup("model.safetensors") : nla_format("model-%05zu-of-%05zu.safetensors", s + 1, n);
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
		replace(json, cJSON_HasObjectItem(json, "dtype") ? "dtype" : "torch_dtype",
			cJSON_CreateString(x->dtype == NT_F32 ? "float32" : "bfloat16"));
		replace(json, "num_hidden_layers", cJSON_CreateNumber((double)x->lm.arch.n_layers));
		while (cJSON_IsArray(types) && cJSON_GetArraySize(types) > x->lm.arch.n_layers)
			cJSON_DeleteItemFromArray(types, (int)x->lm.arch.n_layers);
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
	cJSON_AddNumberToObject(json, "ar_num_layers", (double)x->lm.arch.n_layers);
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
	static const char *const files[] = { "nla_meta.yaml", "model.safetensors.index.json", "model.safetensors",
					     "ar_meta.json", "value_head.safetensors" };
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
static enum nla_status write_all(struct export *x, const struct nla_config *cfg, const char *out, struct nla_err *err)
{
	char *stage = nla_format("%s%smerged", x->half.meta.stage ? x->half.meta.stage : "", x->half.meta.stage ? ", " : "");
	nla_sidecar_stamp(&x->half.meta, "nla_model", x->half.role == NLA_AR ? "ar" : "av", stage);
	free(stage);
	free(x->half.meta.base_folder);
	x->half.meta.base_folder = NULL;
	if (x->half.head)
		x->half.meta.critic_layer = x->lm.arch.n_layers - 1;
	if (list_tensors(x, err) || nla_mkdirs(out, err))
		return err->status;
	if (cfg->overwrite)
		clear(out);
	if (write_weights(x, cfg, out, err) ||
	    nla_copy_beside(x->target.folder, out, "config.json", err) || write_config(x, out, err))
		return err->status;
	if (x->half.head &&
	    (nla_ar_save_head(x->half.head, out, err) || (x->half.meta.final_norm && write_ar_meta(x, out, err))))
		return err->status;
	return nla_sidecar_write(&x->half.meta, out, err);
}

static void release(struct export *x)
{
	if (x->in.path)
		nla_st_close(&x->in);
	free(x->out);
	free(x->items);
	nla_half_release(&x->half);
	nla_target_close(&x->target);
}

static enum nla_status run(const struct nla_config *cfg, enum nla_half_role role, const char *folder, const char *base,
			   const char *out, struct nla_err *err)
{
	struct export x = { .n = 0 };
	char *there = nla_path_join(out, "config.json");
	if (nla_exists(there) && !cfg->overwrite)
		nla_usage(err, "'%s' is there already: give --overwrite to replace it, or another --out", there);
	else if (nla_same_folder(out, folder) || nla_same_folder(out, cfg->model))
		nla_usage(err, "'out' is '%s', which is what is exported: give another --out", out);
	else if (describe(&x, cfg, role, folder, base, out, err) || write_all(&x, cfg, out, err))
		nla_err_context(err, "cannot export '%s'", folder);
	release(&x);
	free(there);
	return err->status;
}

enum nla_status nla_export_av(const struct nla_config *cfg, const char *out, struct nla_err *err)
{
	return run(cfg, NLA_AV, cfg->av, cfg->av_base, out, err);
}

enum nla_status nla_export_ar(const struct nla_config *cfg, const char *out, struct nla_err *err)
{
	return run(cfg, NLA_AR, cfg->ar, cfg->ar_base, out, err);
}
