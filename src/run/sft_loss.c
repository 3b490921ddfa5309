/* The losses of the three roles over a batch of rows, in micro-batches. */
#include <stdlib.h>
#include <string.h>

#include "run/sft_impl.h"

/* -sum of logprob / n_tokens: the share of this micro-batch in the batch's mean. */
static nt_tensor *cross_entropy(const nt_tensor *logprob, int64_t n_tokens) { return nt_scale(nt_sum(logprob), -1.0 / (double)n_tokens); }

static int64_t sequence_length(const struct nla_sft *s, int64_t row) { return s->offset.data[row + 1] - s->offset.data[row]; }

static nt_tensor *lm_loss(struct nla_sft *s, const int64_t *rows, int64_t n, int64_t n_tokens, struct nla_recompute *re,
			  struct nla_err *err)
{
	struct nla_view view = { .lm = &s->target.lm };
	struct nla_pack pack;
	struct nla_i64s ids = { 0 };
	nt_tensor *loss = NULL;
	nla_pack_init(&pack);
	for (int64_t i = 0; i < n; i++) {
		const int32_t *seq = s->ids.data + s->offset.data[rows[i]];
		int64_t length = sequence_length(s, rows[i]);
		nla_pack_add(&pack, seq, length - 1, -1);
		for (int64_t t = 0; t + 1 < length; t++)
			nla_i64s_push(&ids, seq[t + 1]);
	}
	if (!nla_pack_ready(&pack, view.lm, err)) {
		nt_tensor *x = nla_final_norm(&view, nla_recompute_forward(re, &view, &pack, NULL, view.lm->arch.n_layers));
		loss = cross_entropy(nt_token_logprob(x, view.lm->head, nt_i64(view.lm->device, ids.data, (int64_t)ids.n), 1, NULL), n_tokens);
	}
	nla_pack_release(&pack);
	nla_i64s_release(&ids);
	return loss;
}

static nt_tensor *av_loss(struct nla_sft *s, const int64_t *rows, const int64_t *vectors, int64_t n, int64_t n_tokens,
			  struct nla_recompute *re, struct nla_err *err)
{
	struct nla_view view = nla_half_view(&s->av);
	int64_t width = 0, d = s->set.d;
	for (int64_t i = 0; i < n; i++)
		width = NLA_MAX(width, (int64_t)s->responses[rows[i]].n);
	int32_t *ids = nla_alloc((size_t)(n * width), sizeof(*ids));
	int64_t *length = nla_alloc((size_t)n, sizeof(*length)), *prompt_of = nla_alloc((size_t)n, sizeof(*prompt_of));
	float *v = nla_alloc((size_t)(n * d), sizeof(*v));
	for (int64_t i = 0; i < n; i++) {
		length[i] = (int64_t)s->responses[rows[i]].n;
		prompt_of[i] = i;
		memcpy(ids + i * width, s->responses[rows[i]].data, (size_t)length[i] * sizeof(*ids));
	}
	struct nla_responses r = { .v = v, .n_prompts = n, .ids = ids, .n = n, .width = width, .length = length, .prompt_of = prompt_of };
	nt_tensor *loss = NULL;
	if (!nla_actset_vectors(&s->set, vectors, (size_t)n, v, err))
		loss = cross_entropy(nla_av_logprob(&s->av, &view, &r, 1, NULL, re, err), n_tokens);
	free(ids);
	free(length);
	free(prompt_of);
	free(v);
	return loss;
}

static nt_tensor *ar_loss(struct nla_sft *s, const int64_t *rows, int64_t n, int64_t n_all, struct nla_recompute *re,
			  struct nla_err *err)
{
	struct nla_view view = nla_half_view(&s->ar);
	struct nla_ar_texts texts;
	float *v = nla_alloc((size_t)(n * s->set.d), sizeof(*v));
	int64_t shape[2] = { n, s->set.d };
	nt_tensor *loss = NULL;
	nla_ar_texts_start(&texts);
	for (int64_t i = 0; i < n && !err->status; i++) {
		const char *e = s->set.rows[rows[i]].explanation;
		enum nla_ar_fit fit; /* those that do not were left out */
		nla_ar_encode(&s->ar, e, strlen(e), &texts.ids, &fit, err);
		nla_i64s_push(&texts.offset, (int64_t)texts.ids.n);
	}
	if (!err->status && !nla_actset_vectors(&s->set, rows, (size_t)n, v, err)) {
		nt_tensor *hat = nla_ar_predict(&s->ar, &view, &texts, 0, n, re, err);
		if (hat)
			loss = nt_scale(nt_sum(nla_ar_mse(hat, nt_from_host(NT_F32, s->target.lm.device, v, 2, shape))), 1.0 / (double)n_all);
	}
	nla_ar_texts_release(&texts);
	free(v);
	return loss;
}

int64_t nla_sft_weight(const struct nla_sft *s, const int64_t *rows, int64_t n)
{
	int64_t total = 0;
	for (int64_t i = 0; i < n; i++)
		total += s->cfg->sft.role == NLA_ROLE_LM ? sequence_length(s, rows[i]) - 1
			 : s->cfg->sft.role == NLA_ROLE_AV ? (int64_t)s->responses[rows[i]].n : 1;
	return total;
}

enum nla_status nla_sft_loss(struct nla_sft *s, const int64_t *rows, const int64_t *vectors, int64_t n, bool train, double *loss,
			     struct nla_err *err)
{
	int64_t weight = nla_sft_weight(s, rows, n), micro = s->micro_batch > 0 ? s->micro_batch : n;
	vectors = vectors ? vectors : rows;
	*loss = 0;
	for (int64_t from = 0; from < n && !err->status; from += micro) {
		int64_t m = NLA_MIN(micro, n - from);
		double value = 0;
		struct nla_recompute re = { .on = train && s->recompute };
		nt_scope_push();
		nt_grad_push(train);
		nt_tensor *l = s->cfg->sft.role == NLA_ROLE_LM ? lm_loss(s, rows + from, m, weight, &re, err)
			       : s->cfg->sft.role == NLA_ROLE_AV ? av_loss(s, rows + from, vectors + from, m, weight, &re, err)
								 : ar_loss(s, rows + from, m, weight, &re, err);
		if (l && train)
			nla_recompute_backward(&re, l, err);
		if (l)
			nt_item(l, &value);
		nla_recompute_release(&re);
		nt_grad_pop();
		nt_scope_pop();
		if (!err->status && nt_check())
			nla_nt_fail(err, "cannot compute the loss");
		*loss += value;
	}
	return err->status;
}
