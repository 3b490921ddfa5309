/*
 * export - an AV or AR as a whole checkpoint in Hugging Face's layout: the adapter added into the weights, tensor by tensor
 * from the mapped files of the base, so that a model larger than the memory is no problem. Which tensors there are, and their
 * shapes, is what the loader would read (nla_lm_next).
 *
 *	AV  config.json, generation_config.json, tokenizer, model.safetensors or shards, sidecar
 *	AR  the same cut after block K, without lm_head and final norm, and value_head.safetensors (kitft's layout); an AR that
 *	    was trained with the final norm has it, and an ar_meta.json that says so
 */
#include "run/models.h"

#include <fnmatch.h>

#include "base/json.h"
#include "base/progress.h"
#include "base/safetensors.h"

#define ROWS_AT_ONCE 4096

struct export {
	struct nla_target target; /* no weights */
	struct nla_half half;     /* none of its base's either */
	struct nla_lm lm;         /* what is written: described alone */
	const char *source;       /* borrowed: folder whose weights are read */
	struct nla_st in;
	nt_dtype dtype;
	struct nla_slot *slots;   /* [n] */
	struct nla_st_entry *out; /* [n] */
	size_t n;
};

/* ---- what is exported ---- */

static enum nla_status describe(struct export *x, const struct nla_config *cfg, enum nla_half_role role, const char *folder,
				const char *out, struct nla_err *err)
{
	struct nla_chat_cfg chat = cfg->chat;
	chat.like = role == NLA_AV ? folder : NULL;
	if (nla_target_describe(&x->target, cfg->model, &chat, err) ||
	    nla_half_open(&x->half, role, &x->target, folder, role == NLA_AV ? cfg->av_base : cfg->ar_base, err))
		return err->status;
	const struct nla_lm_part part = { .depth = x->half.depth, .norm = x->half.meta.final_norm };
	x->source = x->half.weights.base ? x->half.weights.base : cfg->model;
	x->dtype = cfg->export.dtype ? NT_F32 : NT_BF16;
	if (nla_same_folder(out, x->source))
		return nla_usage(err, "'out' is '%s', whose weights are exported: give another --out", out);
	return nla_lm_describe(&x->lm, x->source, role == NLA_AR ? &part : NULL, err);
}

/* Nothing of the architecture may be missing: who loads the export would fail, or worse, draw it at random. */
static enum nla_status list_tensors(struct export *x, struct nla_err *err)
{
	if (nla_lm_open(&x->in, x->source, err) || nla_lm_check_file(&x->lm, &x->in, !x->half.head, err))
		return err->status;
	for (struct nla_slot s = { 0 }; nla_lm_next(&x->lm, &s);) {
		x->slots = nla_realloc(x->slots, x->n + 1, sizeof(*x->slots));
		x->slots[x->n++] = s;
	}
	x->out = nla_alloc(x->n, sizeof(*x->out));
	for (size_t i = 0; i < x->n; i++) {
		struct nla_slot *s = &x->slots[i];
		const enum nla_st_dtype dtype = (enum nla_st_dtype)x->dtype;
		x->out[i] = (struct nla_st_entry){ s->name, dtype, s->ndim, .shape = { s->shape[0], s->shape[1] },
						   .nbytes = (size_t)(s->shape[0] * s->shape[1]) * nla_st_dtype_size(dtype) };
	}
	return NLA_OK;
}

/* ---- writing ---- */

/* W + s B A, a stretch of rows at a time; what no adapter changes is converted, or written as it is. */
static enum nla_status write_tensor(const struct export *x, const struct nla_slot *s, struct nla_st_writer *w,
				    struct nla_err *err)
{
	const struct nla_adapter *adapter = &x->half.adapter;
	const struct nla_st_entry *e = nla_st_find(&x->in, s->name);
	const struct nla_lora *lora = s->proj >= 0 ? nla_lora_of(adapter, s->layer, s->proj) : NULL;
	const size_t row_bytes = (size_t)s->shape[1] * nla_st_dtype_size((enum nla_st_dtype)x->dtype);
	if (!lora && nla_dtype_of(e->dtype) == x->dtype)
		return nla_st_writer_add(w, e->data, e->nbytes, err);
	nla_auto void *bytes = nla_alloc((size_t)NLA_MIN(s->shape[0], ROWS_AT_ONCE), row_bytes);
	for (int64_t from = 0; from < s->shape[0] && !err->status; from += ROWS_AT_ONCE) {
		int64_t n = NLA_MIN(s->shape[0] - from, ROWS_AT_ONCE);
		nt_scope_push();
		nt_tensor *t = nt_to(nt_clone(nt_narrow(nla_tensor_borrow(e), 0, from, n)), NT_F32);
		if (lora)
			nt_add_into(t, nt_matmul(nt_narrow(lora->B, 0, from, n), lora->A), nla_lora_scale(adapter, s->proj));
		nt_to_host_raw(nt_to(t, x->dtype), bytes, (size_t)n * row_bytes);
		nt_scope_pop();
		if (nt_check())
			nla_nt_fail(err, "cannot export '%s'", s->name);
		else
			nla_st_writer_add(w, bytes, (size_t)n * row_bytes, err);
	}
	return err->status;
}

static enum nla_status write_shard(const struct export *x, const char *path, size_t from, size_t to, struct nla_progress *p,
				   struct nla_err *err)
{
	struct nla_st_writer *w;
	if (nla_st_writer_open(&w, path, x->out + from, to - from, err))
		return err->status;
	for (size_t i = from; i < to && !err->status; i++) {
		write_tensor(x, &x->slots[i], w, err);
		nla_progress_step(p, (int64_t)i + 1, "%s", x->out[i].name);
	}
	return nla_st_writer_close(w, err);
}

/* Where the shard that begins at `from` ends. */
static size_t shard_end(const struct export *x, size_t from, double limit)
{
	double bytes = (double)x->out[from++].nbytes;
	while (from < x->n && bytes + (double)x->out[from].nbytes <= limit)
		bytes += (double)x->out[from++].nbytes;
	return from;
}

static enum nla_status write_weights(const struct export *x, const char *out, double limit, struct nla_err *err)
{
	nla_auto_json cJSON *index = cJSON_CreateObject();
	cJSON *meta = cJSON_AddObjectToObject(index, "metadata"), *map = cJSON_AddObjectToObject(index, "weight_map");
	nla_auto char *listed = nla_path_join(out, "model.safetensors.index.json");
	struct nla_progress p;
	double total = 0;
	size_t n = 0, shard = 0;
	for (size_t from = 0; from < x->n; from = shard_end(x, from, limit))
		n++;
	nla_progress_start(&p, "export", (int64_t)x->n);
	for (size_t from = 0, to; from < x->n && !err->status; from = to) {
		nla_auto char *name = n == 1 ? nla_strdup("model.safetensors")
					     : nla_format("model-%05zu-of-%05zu.safetensors", ++shard, n);
		nla_auto char *path = nla_path_join(out, name);
		to = shard_end(x, from, limit);
		for (size_t i = from; i < to; i++) {
			cJSON_AddStringToObject(map, x->out[i].name, name);
			total += (double)x->out[i].nbytes;
		}
		write_shard(x, path, from, to, &p, err);
	}
	cJSON_AddNumberToObject(meta, "total_size", total);
	if (!err->status)
		nla_progress_end(&p, "%zu tensors in %zu files, %.2f GB", x->n, n, total / 1e9);
	return err->status || n == 1 ? err->status : nla_json_write(listed, index, true, err);
}

static void replace(cJSON *json, const char *key, cJSON *value)
{
	cJSON_DeleteItemFromObjectCaseSensitive(json, key);
	cJSON_AddItemToObject(json, key, value);
}

/* The base's, with the type and the depth of what is written. */
static enum nla_status write_config(const struct export *x, const char *out, struct nla_err *err)
{
	const int64_t depth = x->lm.arch.n_layers;
	nla_auto char *in = nla_path_join(x->source, "config.json"), *to = nla_path_join(out, "config.json");
	nla_auto_json cJSON *json = NULL;
	if (nla_json_read(in, &json, err))
		return err->status;
	cJSON *text = x->lm.arch.inside ? cJSON_DetachItemFromObjectCaseSensitive(json, "text_config") : NULL;
	if (text) { /* what is written is a model alone */
		cJSON_Delete(json);
		json = text;
		replace(json, "architectures", cJSON_CreateStringArray(&x->lm.arch.inside, 1));
	}
	cJSON *types = cJSON_GetObjectItemCaseSensitive(json, "layer_types");
	replace(json, cJSON_HasObjectItem(json, "dtype") ? "dtype" : "torch_dtype",
		cJSON_CreateString(x->dtype == NT_F32 ? "float32" : "bfloat16"));
	replace(json, "num_hidden_layers", cJSON_CreateNumber((double)depth));
	while (cJSON_IsArray(types) && cJSON_GetArraySize(types) > depth)
		cJSON_DeleteItemFromArray(types, (int)depth);
	return nla_json_write(to, json, true, err);
}

static enum nla_status write_head(const struct export *x, const char *out, struct nla_err *err)
{
	if (nla_ar_save_head(x->half.head, out, err) || !x->half.meta.final_norm)
		return err->status;
	nla_auto_json cJSON *json = cJSON_CreateObject();
	nla_auto char *path = nla_path_join(out, "ar_meta.json");
	cJSON_AddNumberToObject(json, "ar_num_layers", (double)x->lm.arch.n_layers);
	cJSON_AddBoolToObject(json, "final_norm_stripped", false);
	return nla_json_write(path, json, true, err);
}

/* Where the model's own template prints another prompt than the AV was trained with, one that prints it and nothing else. */
static enum nla_status write_chat(const struct export *x, const char *file, const char *out, struct nla_err *err)
{
	static const char *const prompts[] = { [NLA_CHAT_STRIP_NONE] = "%s + messages[0]['content'] + %s",
					       [NLA_CHAT_STRIP_BOTH] = "%s + messages[0]['content'].strip() + %s",
					       [NLA_CHAT_STRIP_END] = "(%s + messages[0]['content']).rstrip() + %s" };
	const struct nla_chat *c = &x->target.chat;
	nla_auto char *path = nla_path_join(out, "chat_template.jinja"), *copy = nla_path_join(out, "nla_chat.json");
	NLA_AUTO(nla_str_release) struct nla_str before = NLA_STR_INIT, after = NLA_STR_INIT, text = NLA_STR_INIT;
	if (c->own)
		return NLA_OK;
	nla_json_add_str(&before, c->before, strlen(c->before));
	nla_json_add_str(&after, c->after, strlen(c->after));
	nla_str_add(&text, "{%- if messages | length != 1 %}{{ raise_exception('an AV reads one message') }}{% endif -%}\n{{ ");
	nla_str_addf(&text, prompts[c->strip], before.buf, after.buf);
	nla_str_add(&text, " }}");
	nla_file_write(path, text.buf, text.len, false, err);
	return err->status || !*file || nla_copy_file(file, copy, false, err) ? err->status : NLA_OK;
}

/* An earlier export's files, which ours need not replace, and a reader would take for ours. */
static bool is_ours(const char *name, int64_t beyond)
{
	static const char ours[] =
		"nla_meta.yaml|model.safetensors.index.json|model.safetensors|ar_meta.json|value_head.safetensors";
	bool found = nla_word_index(ours, name) >= 0 || !fnmatch("model-[0-9]*-of-[0-9]*.safetensors", name, 0);
	for (const char *const *beside = nla_beside; *beside; beside++)
		found = found || !strcmp(*beside, name);
	return found;
}

/* The sidecar last: a folder without one is no AV or AR yet. */
static enum nla_status write_all(struct export *x, const struct nla_config *cfg, const char *out, struct nla_err *err)
{
	struct nla_sidecar *meta = &x->half.meta;
	nla_auto char *stage = nla_format("%s%smerged", meta->stage ? meta->stage : "", meta->stage ? ", " : "");
	nla_half_stamp(&x->half, meta, stage);
	free(meta->base_folder);
	meta->base_folder = NULL;
	if (list_tensors(x, err) || nla_mkdirs(out, err) || (cfg->overwrite && nla_remove_ours(out, is_ours, 0, err)))
		return err->status;
	nla_say("nla-export: '%s' as '%s'", x->half.role == NLA_AV ? cfg->av : cfg->ar, out);
	if (write_weights(x, out, cfg->export.shard * 1e9, err) ||
	    nla_copy_beside(x->target.folder, out, "config.json", err) || write_config(x, out, err) ||
	    (x->half.head ? write_head(x, out, err) : write_chat(x, cfg->chat.file, out, err)))
		return err->status;
	return nla_sidecar_write(meta, out, err);
}

/* What a reader of `out` would take for a part of the export: an adapter, which nothing here replaces, or an AV or AR. */
static enum nla_status check_out(const char *out, bool overwrite, struct nla_err *err)
{
	enum { N_ADAPTER = 3 };
	static const char *const names[] = { "adapter_config.json", "adapter_model.safetensors",
					     "ar_lora_value_head.safetensors", "config.json", "nla_meta.yaml",
					     "value_head.safetensors", "ar_meta.json" };
	for (size_t i = 0; i < NLA_LEN(names); i++) {
		nla_auto char *path = nla_path_join(out, names[i]);
		if (nla_exists(path) && i < N_ADAPTER)
			return nla_usage(err, "'%s' is an adapter's, and would be read as the export's: give another --out",
					 path);
		if (nla_exists(path) && !overwrite)
			return nla_usage(err, "'%s' is there already: give --overwrite to replace it, or another --out", path);
	}
	return NLA_OK;
}

enum nla_status nla_export(const struct nla_config *cfg, enum nla_half_role role, const char *out, struct nla_err *err)
{
	const char *folder = role == NLA_AV ? cfg->av : cfg->ar;
	struct export x = { .n = 0 };
	if (nla_same_folder(out, folder) || nla_same_folder(out, cfg->model))
		nla_usage(err, "'out' is '%s', which is what is exported: give another --out", out);
	else if (!check_out(out, cfg->overwrite, err) &&
		 (describe(&x, cfg, role, folder, out, err) || write_all(&x, cfg, out, err)))
		nla_err_context(err, "cannot export '%s'", folder);
	nla_st_close(&x.in);
	free(x.out);
	free(x.slots);
	nla_half_release(&x.half);
	nla_target_close(&x.target);
	return err->status;
}
