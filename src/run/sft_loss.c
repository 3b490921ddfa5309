/* The losses of the three roles over a batch of rows, in ranks' shares and micro-batches that add up to the batch's mean. */

#include "lm/ranks.h"
#include "run/sft.h"

/* -sum of logprob / n_tokens: the share of this micro-batch in the batch's mean. */
static nt_tensor *cross_entropy(const nt_tensor *logprob, int64_t n_tokens)
{
	return nt_scale(nt_sum(logprob), -1.0 / (double)n_tokens);
}

static const int32_t *sequence(const struct nla_sft *s, int64_t row) { return s->ids.data + s->offset.data[row]; }

static nt_tensor *lm_loss(struct nla_sft *s, const int64_t *rows, int64_t n, int64_t n_tokens, struct nla_recompute *re,
			  struct nla_err *err)
{
	struct nla_view view = { .lm = &s->target.lm };
	NLA_AUTO(nla_pack_release) struct nla_pack pack = { 0 };
	NLA_AUTO(nla_i64s_release) struct nla_i64s ids = { 0 };
	nt_tensor *loss = NULL;
	for (int64_t i = 0; i < n; i++) {
		int64_t length = nla_sft_length(s, rows[i]);
		nla_pack_add(&pack, sequence(s, rows[i]), length - 1, -1);
		for (int64_t t = 1; t < length; t++)
			nla_i64s_push(&ids, sequence(s, rows[i])[t]);
	}
	if (!nla_pack_ready(&pack, view.lm, err)) {
		nt_tensor *x = nla_final_norm(&view, nla_recompute_forward(re, &view, &pack, NULL, view.lm->arch.n_layers));
		nt_tensor *next = nt_i64(view.lm->device, ids.data, (int64_t)ids.n);
		loss = cross_entropy(nt_token_logprob(x, view.lm->head, next, 1, NULL), n_tokens);
	}
	return loss;
}

static nt_tensor *av_loss(struct nla_sft *s, const int64_t *rows, const int64_t *vectors, int64_t n, int64_t n_tokens,
			  struct nla_recompute *re, struct nla_err *err)
{
	struct nla_view view = nla_half_view(&s->half);
	int64_t width = 0;
	NLA_AUTO(nla_step_release) struct nla_step step;
	nla_auto int64_t *prompt_of = nla_alloc((size_t)n, sizeof(*prompt_of));
	for (int64_t i = 0; i < n; i++)
		width = NLA_MAX(width, nla_sft_length(s, rows[i]));
	nla_step_start(&step, n, 1, s->set.d);
	nla_decoded_init(&step.tokens, n, width);
	for (int64_t i = 0; i < n; i++) {
		step.tokens.length[i] = nla_sft_length(s, rows[i]);
		memcpy(step.tokens.ids + i * width, sequence(s, rows[i]), (size_t)step.tokens.length[i] * sizeof(int32_t));
	}
	struct nla_responses r = nla_step_responses(&step, 0, n, s->set.d, prompt_of);
	return nla_actset_vectors(&s->set, vectors, (size_t)n, step.v, err) ? NULL
	     : cross_entropy(nla_av_logprob(&s->half, &view, &r, 1, NULL, re, err), n_tokens);
}

static nt_tensor *ar_loss(struct nla_sft *s, const int64_t *rows, int64_t n, int64_t n_all, struct nla_recompute *re,
			  struct nla_err *err)
{
	struct nla_view view = nla_half_view(&s->half);
	NLA_AUTO(nla_ar_texts_release) struct nla_ar_texts texts;
	nla_auto float *v = nla_alloc((size_t)(n * s->set.d), sizeof(*v));
	nla_ar_texts_start(&texts);
	for (int64_t i = 0; i < n; i++) {
		nla_i32s_append(&texts.ids, sequence(s, rows[i]), (size_t)nla_sft_length(s, rows[i]));
		nla_i64s_push(&texts.offset, (int64_t)texts.ids.n);
	}
	return nla_actset_vectors(&s->set, rows, (size_t)n, v, err) ? NULL
	     : nla_ar_loss(nla_ar_predict(&s->half, &view, &texts, 0, n, re, err), v, n_all);
}

int64_t nla_sft_weight(const struct nla_sft *s, const int64_t *rows, int64_t n)
{
	int64_t total = 0;
	if (s->cfg->sft.role == NLA_ROLE_AR)
		return n;
	for (int64_t i = 0; i < n; i++) /* a sequence's first token is not predicted */
		total += nla_sft_length(s, rows[i]) - (s->cfg->sft.role == NLA_ROLE_LM);
	return total;
}

/* What this rank's rows add to it. */
static enum nla_status share(struct nla_sft *s, const int64_t *rows, const int64_t *vectors, int64_t n, bool train,
			     double *loss, struct nla_err *err)
{
	int64_t weight = nla_sft_weight(s, rows, n), micro = s->micro_batch > 0 ? s->micro_batch : n, from, to;
	*loss = 0;
	for (nla_share(n, nla_rank(), &from, &to); from < to && !err->status; from += micro) {
		int64_t m = NLA_MIN(micro, to - from);
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

enum nla_status nla_sft_loss(struct nla_sft *s, const int64_t *rows, const int64_t *vectors, int64_t n, bool train,
			     double *loss, struct nla_err *err)
{
	const int64_t most = (n + nla_n_ranks() - 1) / nla_n_ranks(); /* of a rank */
	while (share(s, rows, vectors, n, train, loss, err) &&
	       nla_halve(&s->halved, NLA_STAGE_UPDATE, &s->micro_batch, most, err))
		if (train)
			nla_optim_zero_grad(&s->loop.optim); /* a part of the gradient was there */
	if (!err->status)
		nla_ranks_sum(loss, 1);
	return err->status;
}
