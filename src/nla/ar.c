/*
 * ar - prompts of explanations, and what the reconstructor makes of them: h [n, D] at each prompt's last token, v_hat [n, D],
 * mse [n].
 */
#include "nla/ar.h"
#include "base/utf8.h"

int64_t nla_ar_max_ids(const struct nla_half *ar) { return NLA_MIN(NLA_AR_MAX_IDS, nt_size(nla_half_lm(ar)->cos[0], 0)); }

enum nla_status nla_ar_encode(const struct nla_half *ar, const char *explanation, size_t length, struct nla_i32s *ids,
			      enum nla_ar_fit *fit, struct nla_err *err)
{
	const char *inner = nla_utf8_strip(explanation, length, &length);
	nla_auto char *bare = nla_strndup(inner, length), *text = NULL;
	size_t before = ids->n, n_tail = ar->meta.suffix.n;
	if (!nla_template_fill(ar->meta.ar_template, "explanation", bare, &text, err) &&
	    !nla_target_encode(ar->target, nla_target_adds_special(ar->target, &ar->meta), text, ids, err)) {
		size_t n = ids->n - before;
		bool tail =
			n >= n_tail && !memcmp(ids->data + ids->n - n_tail, ar->meta.suffix.data, n_tail * sizeof(*ids->data));
		*fit = (int64_t)n > nla_ar_max_ids(ar) ? NLA_AR_TOO_LONG : tail ? NLA_AR_FITS : NLA_AR_MERGES;
	}
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

nt_tensor *nla_ar_predict(const struct nla_half *ar, const struct nla_view *view, const struct nla_ar_texts *texts,
			  int64_t from, int64_t to, struct nla_recompute *recompute, struct nla_err *err)
{
	const int64_t n = to - from;
	nla_auto int64_t *at = nla_alloc((size_t)n, sizeof(*at));
	nla_auto struct nla_i32s *prompts = nla_alloc((size_t)n, sizeof(*prompts));
	NLA_AUTO(nla_pack_release) struct nla_pack pack = { 0 };
	nt_tensor *v_hat = NULL;
	for (int64_t i = 0; i < n; i++) {
		int64_t start = texts->offset.data[from + i];
		prompts[i] = (struct nla_i32s){ .data = texts->ids.data + start,
						.n = (size_t)(texts->offset.data[from + i + 1] - start) };
	}
	nla_prompts_pack(&pack, prompts, n, at);
	for (int64_t i = 0; i < n; i++)
		at[i] = nla_pack_last(&pack, at[i]);
	if (!nla_pack_ready(&pack, view->lm, err)) {
		nt_tensor *h = nla_recompute_forward(recompute, view, &pack, NULL, ar->depth);
		h = nt_rows(h, nt_i64(view->lm->device, at, n));
		if (ar->meta.final_norm)
			h = nla_final_norm(view, h);
		v_hat = nt_normalize(nt_linear(nt_normalize(h), ar->head, NULL));
		if (!v_hat)
			nla_nt_fail(err, "cannot compute the reconstruction");
	}
	return v_hat;
}

nt_tensor *nla_ar_mse(const nt_tensor *v_hat, const nt_tensor *v)
{
	nt_tensor *diff = nt_sub(v_hat, nt_normalize(v));
	return nt_mean_last(nt_mul(diff, diff));
}

nt_tensor *nla_ar_loss(const nt_tensor *v_hat, const float *v, int64_t n_all)
{
	if (!v_hat)
		return NULL;
	const int64_t shape[2] = { nt_size(v_hat, 0), nt_size(v_hat, 1) };
	nt_tensor *target = nt_from_host(NT_F32, nt_device_of(v_hat), v, 2, shape);
	return nt_scale(nt_sum(nla_ar_mse(v_hat, target)), 1.0 / (double)n_all);
}

enum nla_status nla_ar_score(const struct nla_half *ar, const struct nla_view *view, const struct nla_ar_texts *texts,
			     const float *v, float *mse, float *v_hat, struct nla_err *err)
{
	int64_t n = (int64_t)texts->offset.n - 1, d = ar->target->lm.arch.d_model;
	nt_grad_push(false);
	for (int64_t from = 0, to; from < n && !err->status; from = to) {
		for (to = from + 1; to < n && texts->offset.data[to + 1] - texts->offset.data[from] <= texts->max_tokens;)
			to++;
		int64_t shape[2] = { to - from, d };
		nt_scope_push();
		nt_tensor *hat = nla_ar_predict(ar, view, texts, from, to, NULL, err);
		if (hat) {
			nt_tensor *m = nla_ar_mse(hat, nt_from_host(NT_F32, view->lm->device, v + from * d, 2, shape));
			nt_to_host_f32(m, mse + from, (size_t)(to - from));
			if (v_hat)
				nt_to_host_f32(hat, v_hat + from * d, (size_t)((to - from) * d));
			if (nt_check())
				nla_nt_fail(err, "cannot score");
			else
				nla_lm_blame(view->lm, mse + from, (size_t)(to - from), err);
		}
		nt_scope_pop();
	}
	nt_grad_pop();
	return err->status;
}
