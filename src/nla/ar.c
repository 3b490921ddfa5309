#include "nla/ar.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "base/utf8.h"

#define HEAD_FILE "value_head.safetensors"
#define NANO_FILE "ar_lora_value_head.safetensors" /* nanoNLA: adapter and head in one */

static enum nla_status prepare(struct nla_ar *ar, const char *path, struct nla_err *err)
{
	int64_t block = nla_sidecar_block(&ar->meta);
	if (!ar->meta.ar_template || block < 0)
		return nla_fail(err, "'%s': has no AR template or no layer_index", path);
	ar->depth = block + 1;
	return nla_contract_check(&ar->meta, ar->target, path, err);
}

nt_tensor *nla_ar_load_head(const char *folder, int64_t d, int device, struct nla_err *err)
{
	char *path = nla_path_join(folder, NANO_FILE);
	const char *name = nla_exists(path) ? "value_head.weight" : "weight";
	struct nla_st st;
	nt_tensor *head = NULL;
	if (!nla_exists(path)) {
		free(path);
		path = nla_path_join(folder, HEAD_FILE);
	}
	if (!nla_st_open(&st, path, err)) {
		head = nla_tensor_read(&st, name, d, d, device, err);
		nla_st_close(&st);
	}
	free(path);
	return head;
}

/* We score n(v_hat) against n(v), n(x) of length sqrt(D): another scale is another loss. */
static enum nla_status check_scale(const struct nla_sidecar *meta, const char *folder, struct nla_err *err)
{
	double want = sqrt((double)meta->d_model), have = nla_scale_value(&meta->mse_scale, meta->d_model);
	if (fabs(have - want) <= 1e-6 * want)
		return NLA_OK;
	if (meta->mse_scale.kind == NLA_SCALE_NULL)
		return nla_fail(err, "'%s/nla_meta.yaml': extraction.mse_scale is null, an AR of raw vectors: only sqrt_d_model is supported", folder);
	return nla_fail(err, "'%s/nla_meta.yaml': extraction.mse_scale is %g, only sqrt_d_model (%g) is supported", folder, have, want);
}

/* An absent final_norm_stripped means kept: files of the time before that key were trained so. */
enum nla_status nla_ar_read_meta(struct nla_sidecar *meta, const char *folder, struct nla_err *err)
{
	char *path = nla_path_join(folder, "ar_meta.json");
	cJSON *json = NULL;
	bool stripped;
	int64_t depth, block = nla_sidecar_block(meta);
	check_scale(meta, folder, err);
	if (!err->status && nla_exists(path) && !nla_json_read(path, &json, err) && !nla_json_need_int(json, path, "ar_num_layers", &depth, err) &&
	    !nla_json_bool(json, path, "final_norm_stripped", false, &stripped, err)) {
		meta->final_norm = !stripped;
		if (depth < 1 || depth > INT32_MAX)
			nla_fail(err, "'%s': ar_num_layers is %lld, want a number of blocks", path, (long long)depth);
		else if (block < 0)
			meta->layer = depth - 1;
		else if (block + 1 != depth)
			nla_fail(err, "'%s': ar_num_layers is %lld, the sidecar's block %lld needs %lld", path, (long long)depth,
				 (long long)block, (long long)block + 1);
	}
	cJSON_Delete(json);
	free(path);
	return err->status;
}

/* The first blocks of the base, unless they are the target's; then the adapter over them. A truncated folder says its depth. */
static enum nla_status load_weights(struct nla_ar *ar, const char *folder, struct nla_err *err)
{
	const struct nla_lm *target = &ar->target->lm;
	if (ar->weights.base && !ar->weights.shared) {
		const struct nla_lm_part part = { .depth = ar->depth, .norm = ar->meta.final_norm };
		if (nla_lm_load(&ar->own, ar->weights.base, &part, target->device, target->dtype, NLA_LM_AUTO, err))
			return err->status;
		if (ar->own.arch.d_model != target->arch.d_model || ar->own.arch.vocab < nla_tokenizer_size(ar->target->tok))
			return nla_fail(err, "'%s' has width %lld and %lld ids, the target width %lld and %lld ids", ar->weights.base,
					(long long)ar->own.arch.d_model, (long long)ar->own.arch.vocab, (long long)target->arch.d_model,
					(long long)nla_tokenizer_size(ar->target->tok));
	}
	return ar->weights.adapter ? nla_adapter_load(&ar->adapter, &nla_ar_lm(ar)->arch, ar->depth, folder, target->device, err) : NLA_OK;
}

/* A sidecar without a block (kitft's) leaves it to the depth of the truncated folder. */
static enum nla_status find_layer(struct nla_ar *ar, struct nla_err *err)
{
	struct nla_arch arch;
	if (nla_sidecar_block(&ar->meta) >= 0 || !ar->weights.base)
		return NLA_OK;
	if (!nla_arch_read(&arch, ar->weights.base, err))
		ar->meta.layer = arch.n_layers - 1;
	return err->status;
}

enum nla_status nla_ar_open_on(struct nla_ar *ar, const struct nla_target *target, const char *folder, const char *base,
			       struct nla_err *err)
{
	char *path = nla_path_join(folder, "nla_meta.yaml");
	memset(ar, 0, sizeof(*ar));
	ar->target = target;
	if (nla_sidecar_read(&ar->meta, folder, err))
		goto out;
	if (ar->meta.role && strcmp(ar->meta.role, "ar")) {
		nla_fail(err, "'%s': role is '%s', want an AR", path, ar->meta.role);
		goto out;
	}
	if (nla_ar_read_meta(&ar->meta, folder, err) ||
	    nla_weights_find(&ar->weights, folder, &ar->meta, base, target->folder, err) || find_layer(ar, err) ||
	    prepare(ar, path, err) || load_weights(ar, folder, err))
		goto out;
	ar->head = nla_ar_load_head(folder, target->lm.arch.d_model, target->lm.device, err);
out:
	free(path);
	if (err->status) {
		nla_err_context(err, "cannot load AR '%s'", folder);
		nla_ar_release(ar);
	}
	return err->status;
}

enum nla_status nla_ar_open(struct nla_ar *ar, const struct nla_target *target, const char *folder, struct nla_err *err)
{
	return nla_ar_open_on(ar, target, folder, NULL, err);
}

enum nla_status nla_ar_new(struct nla_ar *ar, const struct nla_target *target, const struct nla_sidecar *meta, struct nla_err *err)
{
	int64_t d = target->lm.arch.d_model, shape[2] = { d, d };
	memset(ar, 0, sizeof(*ar));
	ar->target = target;
	nla_sidecar_init(&ar->meta);
	nla_sidecar_copy(&ar->meta, meta);
	ar->meta.mse_scale = (struct nla_scale){ .kind = NLA_SCALE_SQRT_D }; /* whatever the data set says: it is what we train by */
	float *eye = nla_alloc((size_t)(d * d), sizeof(float));
	for (int64_t i = 0; i < d; i++)
		eye[i * d + i] = 1;
	ar->head = nt_own(nt_from_host(NT_F32, target->lm.device, eye, 2, shape));
	free(eye);
	if (!ar->head)
		nla_nt_fail(err, "cannot make the head");
	else
		prepare(ar, "nla_meta.yaml", err);
	if (err->status)
		nla_ar_release(ar);
	return err->status;
}

enum nla_status nla_ar_save_head(const nt_tensor *head, const char *folder, struct nla_err *err)
{
	struct nla_tensors out = { 0 };
	char *path = nla_path_join(folder, HEAD_FILE);
	nla_tensors_add(&out, "weight", head);
	nla_tensors_write(&out, path, NT_F32, err);
	nla_tensors_release(&out);
	free(path);
	return err->status;
}

enum nla_status nla_ar_save(const struct nla_ar *ar, const char *folder, const char *stage, struct nla_err *err)
{
	struct nla_sidecar meta;
	nla_sidecar_init(&meta);
	nla_sidecar_copy(&meta, &ar->meta);
	nla_sidecar_stamp(&meta, "nla_model", "ar", stage);
	meta.critic_layer = ar->depth - 1;
	nla_weights_record(&ar->weights, &meta);
	const char *base = meta.base_folder ? meta.base_folder : meta.base_checkpoint;
	if (nla_mkdirs(folder, err) || (ar->adapter.layers && nla_adapter_save(&ar->adapter, folder, base, err)) ||
	    nla_ar_save_head(ar->head, folder, err) || nla_sidecar_write(&meta, folder, err))
		nla_err_context(err, "cannot save AR '%s'", folder);
	nla_sidecar_release(&meta);
	return err->status;
}

void nla_ar_release(struct nla_ar *ar)
{
	nla_sidecar_release(&ar->meta);
	nla_weights_release(&ar->weights);
	nla_lm_release(&ar->own);
	nla_adapter_release(&ar->adapter);
	nt_free(ar->head);
	memset(ar, 0, sizeof(*ar));
}

const struct nla_lm *nla_ar_lm(const struct nla_ar *ar) { return ar->own.blocks ? &ar->own : &ar->target->lm; }

struct nla_view nla_ar_view(const struct nla_ar *ar)
{
	struct nla_view view = { .lm = nla_ar_lm(ar) };
	if (ar->adapter.layers)
		view.adapters[view.n_adapters++] = &ar->adapter;
	return view;
}

int64_t nla_ar_max_ids(const struct nla_ar *ar) { return NLA_MIN(NLA_AR_MAX_IDS, nt_size(nla_ar_lm(ar)->cos, 0)); }

enum nla_status nla_ar_encode(const struct nla_ar *ar, const char *explanation, size_t length, struct nla_i32s *ids,
			      enum nla_ar_fit *fit, struct nla_err *err)
{
	const char *inner = nla_utf8_strip(explanation, length, &length);
	char *bare = nla_strndup(inner, length), *text = NULL;
	size_t before = ids->n, n_tail = ar->meta.suffix.n;
	if (!nla_template_fill(ar->meta.ar_template, "explanation", bare, &text, err) &&
	    !nla_tokenizer_encode(ar->target->tok, text, strlen(text), ids, err)) {
		size_t n = ids->n - before;
		bool tail = n >= n_tail && !memcmp(ids->data + ids->n - n_tail, ar->meta.suffix.data, n_tail * sizeof(*ids->data));
		*fit = (int64_t)n > nla_ar_max_ids(ar) ? NLA_AR_TOO_LONG : tail ? NLA_AR_FITS : NLA_AR_MERGES;
	}
	free(text);
	free(bare);
	return err->status;
}

void nla_ar_texts_start(struct nla_ar_texts *t)
{
	memset(t, 0, sizeof(*t));
	nla_i64s_push(&t->offset, 0);
}

void nla_ar_texts_release(struct nla_ar_texts *t)
{
	nla_i32s_release(&t->ids);
	nla_i64s_release(&t->offset);
}

/* Tokens that all of these texts begin with: the template's head. Every row keeps at least its last token. */
static int64_t common_head(const struct nla_ar_texts *t, int64_t from, int64_t to)
{
	const int64_t *at = t->offset.data;
	const int32_t *ids = t->ids.data, *first = ids + at[from];
	int64_t n = at[from + 1] - at[from] - 1;
	for (int64_t i = from + 1; i < to; i++) {
		int64_t m = 0, limit = NLA_MIN(n, at[i + 1] - at[i] - 1);
		while (m < limit && ids[at[i] + m] == first[m])
			m++;
		n = m;
	}
	return to - from > 1 ? n : 0;
}

nt_tensor *nla_ar_predict(const struct nla_ar *ar, const struct nla_view *view, const struct nla_ar_texts *texts, int64_t from, int64_t to,
			  nt_tensor **h, struct nla_recompute *recompute, struct nla_err *err)
{
	struct nla_pack pack;
	int64_t shared = common_head(texts, from, to), *last = nla_alloc((size_t)(to - from), sizeof(*last));
	nt_tensor *v_hat = NULL;
	nla_pack_init(&pack);
	int64_t head = nla_pack_add(&pack, texts->ids.data + texts->offset.data[from], shared, -1);
	for (int64_t i = from; i < to; i++) {
		int64_t start = texts->offset.data[i] + shared;
		int64_t row = nla_pack_add(&pack, texts->ids.data + start, texts->offset.data[i + 1] - start, head);
		last[i - from] = nla_pack_last(&pack, row);
	}
	if (!nla_pack_ready(&pack, view->lm, err)) {
		nt_tensor *x = nla_recompute_forward(recompute, view, &pack, NULL, ar->depth);
		x = nt_rows(x, nt_i64(view->lm->device, last, to - from));
		if (ar->meta.final_norm)
			x = nla_final_norm(view, x);
		v_hat = nt_normalize(nt_linear(nt_normalize(x), ar->head, NULL));
		if (h)
			*h = x;
		if (!v_hat)
			nla_nt_fail(err, "cannot compute the reconstruction");
	}
	nla_pack_release(&pack);
	free(last);
	return v_hat;
}

nt_tensor *nla_ar_mse(const nt_tensor *v_hat, const nt_tensor *v)
{
	nt_tensor *diff = nt_sub(v_hat, nt_normalize(v));
	return nt_mean_last(nt_mul(diff, diff));
}

enum nla_status nla_ar_score(const struct nla_ar *ar, const struct nla_view *view, const struct nla_ar_texts *texts, const float *v,
			     int64_t max_tokens, float *mse, float *v_hat, struct nla_err *err)
{
	int64_t n = (int64_t)texts->offset.n - 1, d = ar->target->lm.arch.d_model;
	nt_grad_push(false);
	for (int64_t from = 0, to; from < n && !err->status; from = to) {
		for (to = from + 1; to < n && texts->offset.data[to + 1] - texts->offset.data[from] <= max_tokens;)
			to++;
		int64_t shape[2] = { to - from, d };
		nt_scope_push();
		nt_tensor *hat = nla_ar_predict(ar, view, texts, from, to, NULL, NULL, err);
		if (hat) {
			nt_tensor *m = nla_ar_mse(hat, nt_from_host(NT_F32, view->lm->device, v + from * d, 2, shape));
			nt_to_host_f32(m, mse + from, (size_t)(to - from));
			if (v_hat)
				nt_to_host_f32(hat, v_hat + from * d, (size_t)((to - from) * d));
			if (nt_check())
				nla_nt_fail(err, "cannot score");
		}
		nt_scope_pop();
	}
	nt_grad_pop();
	return err->status;
}
