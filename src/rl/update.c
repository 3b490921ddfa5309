/*
 * Update: tokens [B*G, T] and advantage [B*G] -> gradients of the policy's adapter, one AdamW step; see update.h. The samples
 * go through forward and backward passes in micro-batches of whole prompts, and a token's share of the loss is its weight 1 /
 * (samples * own tokens), so that micro-batches and ranks add up to the batch's mean. A co-trained AR then makes its own step.
 */
#include "rl/step.h"
#include "lm/ranks.h"

/* Sums over tokens, gathered over micro-batches and ranks. */
struct sums {
	double kl, clamped, entropy, clipped, gap, loss, tokens;
};

/* One micro-batch on the host, packed token by token: samples [from, to). */
struct tokens {
	int64_t from, to, n;
	float *advantage, *weight, *old, *logp, *ref, *entropy; /* [n] */
};

/* Rows of whole prompts where they fit, so that a prompt is computed once: [from, to). */
static int64_t micro_end(const struct nla_step *s, int64_t from, int64_t micro_batch)
{
	int64_t to = micro_batch > 0 ? NLA_MIN(from + micro_batch, s->n) : s->n, whole = to;
	while (to < s->n && whole > from && (whole - 1) / s->group == to / s->group)
		whole--;
	return whole > from ? whole : to;
}

static void tokens_init(struct tokens *t, const struct nla_step *s, int64_t from, int64_t to)
{
	int64_t n = 0, k = 0;
	for (int64_t i = from; i < to; i++)
		n += s->tokens.length[i];
	float *all = nla_alloc((size_t)(6 * n), sizeof(float));
	*t = (struct tokens){ from, to, n, all, all + n, all + 2 * n, all + 3 * n, all + 4 * n, all + 5 * n };
	for (int64_t i = from; i < to; i++)
		for (int64_t j = 0; j < s->tokens.length[i]; j++, k++) {
			t->advantage[k] = (float)s->advantage[i];
			t->weight[k] = (float)(1.0 / ((double)s->n_all * (double)s->tokens.length[i]));
			if (s->old)
				t->old[k] = s->old[i * s->tokens.width + j];
			if (s->ref_logprob)
				t->ref[k] = s->ref_logprob[i * s->tokens.width + j];
		}
}

/* ref NULL: without the KL. */
static nt_tensor *loss_of(const struct tokens *t, nt_tensor *logp, const nt_tensor *ref, const nt_tensor *old,
			  const struct nla_update_cfg *cfg)
{
	const int device = nt_device_of(logp);
	nt_tensor *a = nt_f32(device, t->advantage, t->n), *w = nt_f32(device, t->weight, t->n);
	nt_tensor *ratio = nt_exp(nt_sub(logp, old));
	nt_tensor *surrogate = nt_min(nt_mul(ratio, a), nt_mul(nt_clamp(ratio, 1 - cfg->clip, 1 + cfg->clip), a));
	if (!ref)
		return nt_scale(nt_dot(surrogate, w), -1);
	nt_tensor *d = nt_clamp(nt_sub(ref, logp), -INFINITY, NLA_KL_MAX_D);
	nt_tensor *kl = nt_add_scalar(nt_sub(nt_exp(d), d), -1);
	return nt_scale(nt_dot(nt_sub(surrogate, nt_scale(kl, cfg->kl)), w), -1);
}

static void add_stats(struct sums *sum, const struct tokens *t, const struct nla_step *s, double clip)
{
	int64_t k = 0;
	for (int64_t i = t->from; i < t->to; i++)
		for (int64_t j = 0; j < s->tokens.length[i]; j++, k++) {
			double d = (double)t->ref[k] - t->logp[k];
			double ratio = exp((double)t->logp[k] - t->old[k]), a = t->advantage[k];
			sum->kl += nla_k3(d);
			sum->clamped += d >= NLA_KL_MAX_D;
			sum->entropy += t->entropy[k];
			sum->clipped += (a > 0 && ratio > 1 + clip) || (a < 0 && ratio < 1 - clip);
			if (s->tokens.logprob)
				sum->gap += fabs((double)t->old[k] - s->tokens.logprob[i * s->tokens.width + j]);
		}
	sum->tokens += (double)k;
}

/* Without gradients; its intermediates are gone when it returns. */
static nt_tensor *logprob_of(const struct nla_rl *rl, const struct nla_view *view, const struct nla_responses *r,
			     struct nla_err *err)
{
	nt_grad_push(false);
	nt_scope_push();
	nt_tensor *logprob = nla_av_logprob(rl->av, view, r, rl->rollout.temperature, NULL, NULL, err);
	logprob = nt_scope_pop_with(logprob);
	nt_grad_pop();
	return logprob;
}

enum nla_status nla_step_logprob(const struct nla_rl *rl, const struct nla_view *view, const struct nla_step *s, int64_t from,
				 int64_t to, float *out, struct nla_err *err)
{
	const int64_t width = s->tokens.width;
	nla_auto int64_t *prompt_of = nla_alloc((size_t)(to - from), sizeof(*prompt_of));
	nla_auto float *host = nla_alloc((size_t)((to - from) * width), sizeof(*host));
	struct nla_responses r = nla_step_responses(s, from, to, rl->av->target->lm.arch.d_model, prompt_of);
	int64_t n = 0;
	for (int64_t i = from; i < to; i++)
		n += s->tokens.length[i];
	nt_scope_push();
	const nt_tensor *logprob = logprob_of(rl, view, &r, err);
	if (logprob && nt_to_host_f32(logprob, host, (size_t)n))
		nla_nt_fail(err, "cannot read log-probabilities");
	else if (logprob && !nla_lm_blame(view->lm, host, (size_t)n, err) && !nla_logprob_check(host, n, err))
		for (int64_t i = 0; i < n && !err->status; i++)
			if (isnan(host[i]))
				nla_fail(err, "the log-probability of a response token is no number: the weights of the "
					 "model or of an adapter are too large for their type, or broken");
	nt_scope_pop();
	for (int64_t i = from, at = 0; i < to; at += s->tokens.length[i++])
		memcpy(out + (i - from) * width, host + at, (size_t)s->tokens.length[i] * sizeof(*out));
	return err->status;
}

static enum nla_status micro(const struct nla_rl *rl, const struct nla_step *s, struct tokens *t, struct sums *sum,
			     struct nla_err *err)
{
	nla_auto int64_t *prompt_of = nla_alloc((size_t)(t->to - t->from), sizeof(*prompt_of));
	struct nla_responses r = nla_step_responses(s, t->from, t->to, rl->av->target->lm.arch.d_model, prompt_of);
	struct nla_recompute re = { .on = rl->update.recompute };
	nt_tensor *entropy = NULL, *logp = NULL, *loss = NULL;
	double value = 0;
	nt_scope_push();
	/* computed here, it stays on the device: the host does not wait for it before the policy's pass */
	const nt_tensor *ref = rl->update.kl == 0 ? NULL
			     : s->ref_logprob ? nt_f32(rl->av->target->lm.device, t->ref, t->n)
					      : logprob_of(rl, &rl->reference, &r, err);
	nt_grad_push(true);
	if (!err->status)
		logp = nla_av_logprob(rl->av, &rl->policy, &r, rl->rollout.temperature, &entropy, &re, err);
	if (logp)
		loss = loss_of(t, logp, ref, s->old ? nt_f32(nt_device_of(logp), t->old, t->n) : nt_detach(logp), &rl->update);
	if (loss && !nla_recompute_backward(&re, loss, err)) {
		nt_to_host_f32(logp, t->logp, (size_t)t->n);
		if (ref && !s->ref_logprob)
			nt_to_host_f32(ref, t->ref, (size_t)t->n);
		nt_to_host_f32(entropy, t->entropy, (size_t)t->n);
		nt_item(loss, &value);
		nla_logprob_check(t->logp, t->n, err);
		nla_logprob_check(t->ref, t->n, err);
		if (!s->old)
			memcpy(t->old, t->logp, (size_t)t->n * sizeof(float));
		add_stats(sum, t, s, rl->update.clip);
		sum->loss += value;
	}
	nla_recompute_release(&re);
	nt_grad_pop();
	nt_scope_pop();
	return err->status || !nt_check() ? err->status : nla_nt_fail(err, "cannot compute the update");
}

enum nla_status nla_reference(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	if (!rl->n_of || rl->update.kl == 0)
		return NLA_OK;
	step->ref_logprob = nla_alloc((size_t)(step->n * step->tokens.width), sizeof(*step->ref_logprob));
	nla_step_begin(NLA_STAGE_UPDATE);
	do {
		for (int64_t from = 0, to; from < step->n && !err->status; from = to) {
			to = micro_end(step, from, rl->update.micro_batch);
			nla_step_logprob(rl, &rl->reference, step, from, to, step->ref_logprob + from * step->tokens.width,
					 err);
		}
	} while (err->status && nla_halve(&rl->halved, NLA_STAGE_UPDATE, &rl->update.micro_batch, step->n, err));
	nla_step_lap(step, NLA_STAGE_UPDATE);
	return err->status;
}

enum nla_status nla_update_gradient(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	struct sums sum = { 0 };
	for (int64_t from = 0, to; from < step->n && !err->status; from = to) {
		struct tokens t;
		to = micro_end(step, from, rl->update.micro_batch);
		tokens_init(&t, step, from, to);
		micro(rl, step, &t, &sum, err);
		free(t.advantage); /* the block's first */
	}
	if (err->status)
		return err->status;
	nla_ranks_sum(&sum.kl, sizeof(sum) / sizeof(double));
	double n = sum.tokens, n_ref = rl->update.kl > 0 ? n : (double)NAN;
	step->update = (struct nla_update_stats){ .loss = sum.loss,
						  .kl = sum.kl / n_ref,
						  .kl_clamped = sum.clamped / n_ref,
						  .entropy = sum.entropy / n,
						  .clip_frac = sum.clipped / n,
						  .ar_loss = (double)NAN,
						  .sampler_gap = step->tokens.logprob ? sum.gap / n : (double)NAN };
	return err->status;
}

/* ---- the AR ---- */

/* mean: over n_all texts of all ranks, the share of these. */
static enum nla_status ar_gradient(const struct nla_rl *rl, const struct nla_ar_texts *texts, const float *v, double n_all,
				   double *mean, struct nla_err *err)
{
	int64_t n = (int64_t)texts->offset.n - 1, m = rl->update.micro_batch > 0 ? rl->update.micro_batch : n;
	*mean = 0;
	for (int64_t from = 0; from < n && !err->status; from += m) {
		struct nla_recompute re = { .on = rl->update.recompute };
		double value = 0;
		nt_scope_push();
		nt_grad_push(true);
		nt_tensor *hat = nla_ar_predict(rl->ar, &rl->ar_view, texts, from, NLA_MIN(from + m, n), &re, err);
		if (hat) {
			nt_tensor *loss = nla_ar_loss(hat, v + from * rl->ar->target->lm.arch.d_model, (int64_t)n_all);
			nla_recompute_backward(&re, loss, err);
			nt_item(loss, &value);
			if (nt_check())
				nla_nt_fail(err, "cannot train the AR");
		}
		nla_recompute_release(&re);
		nt_grad_pop();
		nt_scope_pop();
		*mean += value;
	}
	return err->status;
}

enum nla_status nla_update_ar(struct nla_rl *rl, struct nla_step *step, const struct nla_ar_texts *texts, const float *v,
			      struct nla_err *err)
{
	struct nla_update_stats *u = &step->update;
	double n_all = (double)texts->offset.n - 1;
	nla_ranks_sum(&n_all, 1);
	if (n_all == 0)
		return NLA_OK;
	while (ar_gradient(rl, texts, v, n_all, &u->ar_loss, err) &&
	       nla_halve(&rl->halved, NLA_STAGE_UPDATE, &rl->update.micro_batch, (int64_t)texts->offset.n - 1, err))
		nla_optim_zero_grad(rl->ar_optim);
	if (err->status)
		return err->status;
	nla_ranks_sum(&u->ar_loss, 1);
	return nla_optim_step(rl->ar_optim, rl->update.ar_lr, rl->update.grad_clip, &u->ar_grad_norm, &u->ar_skipped, err);
}

/* The AR's step on this batch's explanations that could be scored. */
static enum nla_status train_ar(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	NLA_AUTO(nla_ar_texts_release) struct nla_ar_texts texts;
	NLA_AUTO(nla_f32s_release) struct nla_f32s v = { 0 };
	NLA_AUTO(nla_i64s_release) struct nla_i64s row = { 0 };
	nla_ar_texts_start(&texts);
	if (!nla_score_texts(rl, step, NULL, &texts, &v, &row, err))
		nla_update_ar(rl, step, &texts, v.data, err);
	return err->status;
}

enum nla_status nla_update(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	struct nla_update_stats *u = &step->update;
	nla_step_begin(NLA_STAGE_UPDATE);
	while (nla_update_gradient(rl, step, err) &&
	       nla_halve(&rl->halved, NLA_STAGE_UPDATE, &rl->update.micro_batch, step->n, err))
		nla_optim_zero_grad(rl->optim); /* a part of the gradient was there */
	if (!err->status &&
	    !nla_optim_step(rl->optim, rl->update.lr, rl->update.grad_clip, &u->grad_norm, &u->skipped, err) && rl->ar_optim)
		train_ar(rl, step, err);
	for (struct nla_optim *o = rl->optim; !err->status && o; o = o == rl->optim ? rl->ar_optim : NULL) {
		u->reduced.bytes += o->reduced.bytes;
		u->reduced.seconds += o->reduced.seconds;
		u->reduced.waited += o->reduced.waited;
		o->reduced = (struct nt_reduced){ 0 };
	}
	nla_step_lap(step, NLA_STAGE_UPDATE);
	return err->status;
}
