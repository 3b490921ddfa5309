#include "rl/update.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KL_MAX_D 12

/* Sums over tokens, gathered over micro-batches. */
struct sums {
	double kl, entropy, clipped, gap, loss;
	int64_t tokens;
};

/* One micro-batch on the host, packed token by token. */
struct tokens {
	int64_t n;
	float *advantage, *weight, *old, *logp, *ref, *entropy;
};

static void tokens_init(struct tokens *t, int64_t n)
{
	float *all = nla_alloc((size_t)(6 * n), sizeof(float));
	*t = (struct tokens){ n, all, all + n, all + 2 * n, all + 3 * n, all + 4 * n, all + 5 * n };
}

/* Rows of whole prompts where they fit, so that a prompt is computed once: [from, to). */
static int64_t micro_end(const struct nla_responses *r, int64_t from, int64_t micro_batch)
{
	int64_t to = micro_batch > 0 ? NLA_MIN(from + micro_batch, r->n) : r->n, whole = to;
	while (to < r->n && whole > from && r->prompt_of[whole - 1] == r->prompt_of[to])
		whole--;
	return whole > from ? whole : to;
}

/* The responses [from, to) with the prompts they use. */
static struct nla_responses slice(const struct nla_responses *r, int64_t from, int64_t to, int64_t d, int64_t *prompt_of)
{
	int64_t first = r->prompt_of[from];
	struct nla_responses s = *r;
	for (int64_t i = from; i < to; i++)
		prompt_of[i - from] = r->prompt_of[i] - first;
	s.v = r->v + first * d;
	s.n_prompts = r->prompt_of[to - 1] - first + 1;
	s.ids = r->ids + from * r->width;
	s.n = to - from;
	s.length = r->length + from;
	s.prompt_of = prompt_of;
	return s;
}

static void fill_tokens(struct tokens *t, const struct nla_update_batch *b, int64_t from, int64_t to)
{
	int64_t k = 0;
	for (int64_t i = from; i < to; i++)
		for (int64_t j = 0; j < b->responses.length[i]; j++, k++) {
			t->advantage[k] = (float)b->advantage[i];
			t->weight[k] = (float)(1.0 / ((double)b->responses.n * (double)b->responses.length[i]));
			if (b->old)
				t->old[k] = b->old[i * b->responses.width + j];
		}
}

static nt_tensor *loss_of(const struct tokens *t, nt_tensor *logp, const nt_tensor *ref, const nt_tensor *old, const struct nla_update_cfg *cfg)
{
	int device = logp ? nt_device_of(logp) : NT_CPU;
	nt_tensor *a = nt_f32(device, t->advantage, t->n), *w = nt_f32(device, t->weight, t->n);
	nt_tensor *ratio = nt_exp(nt_sub(logp, old));
	nt_tensor *surrogate = nt_min(nt_mul(ratio, a), nt_mul(nt_clamp(ratio, 1 - cfg->clip, 1 + cfg->clip), a));
	nt_tensor *d = nt_clamp(nt_sub(ref, logp), -INFINITY, KL_MAX_D);
	nt_tensor *kl = nt_add_scalar(nt_sub(nt_exp(d), d), -1);
	return nt_scale(nt_dot(nt_sub(surrogate, nt_scale(kl, cfg->kl)), w), -1);
}

static void gather_stats(struct sums *sum, const struct tokens *t, const struct nla_update_batch *b, int64_t from, int64_t to,
			 const struct nla_update_cfg *cfg)
{
	int64_t k = 0;
	for (int64_t i = from; i < to; i++)
		for (int64_t j = 0; j < b->responses.length[i]; j++, k++) {
			double d = fmin((double)t->ref[k] - t->logp[k], KL_MAX_D);
			double ratio = exp((double)t->logp[k] - t->old[k]), a = t->advantage[k];
			sum->kl += exp(d) - d - 1;
			sum->entropy += t->entropy[k];
			sum->clipped += (a > 0 && ratio > 1 + cfg->clip) || (a < 0 && ratio < 1 - cfg->clip);
			if (b->sampler)
				sum->gap += fabs((double)t->old[k] - b->sampler[i * b->responses.width + j]);
		}
	sum->tokens += k;
}

static enum nla_status micro(const struct nla_half *av, const struct nla_view *policy, const struct nla_view *reference,
			     const struct nla_update_batch *b, int64_t from, int64_t to, const struct nla_update_cfg *cfg, struct sums *sum,
			     struct nla_err *err)
{
	struct tokens t;
	int64_t n = 0, *prompt_of = nla_alloc((size_t)(to - from), sizeof(*prompt_of));
	for (int64_t i = from; i < to; i++)
		n += b->responses.length[i];
	tokens_init(&t, n);
	fill_tokens(&t, b, from, to);
	struct nla_responses r = slice(&b->responses, from, to, av->target->lm.arch.d_model, prompt_of);
	nt_tensor *entropy = NULL, *logp, *ref, *loss;
	struct nla_recompute re = { .on = cfg->recompute };
	double value = 0;
	nt_scope_push();
	nt_grad_push(false);
	nt_scope_push();
	ref = nla_av_logprob(av, reference, &r, cfg->temperature, NULL, NULL, err);
	ref = nt_scope_pop_with(ref);
	nt_grad_pop();
	nt_grad_push(true);
	logp = ref ? nla_av_logprob(av, policy, &r, cfg->temperature, &entropy, &re, err) : NULL;
	loss = logp ? loss_of(&t, logp, ref, b->old ? nt_f32(nt_device_of(logp), t.old, n) : nt_detach(logp), cfg) : NULL;
	if (loss && !nla_recompute_backward(&re, loss, err)) {
		nt_to_host_f32(logp, t.logp, (size_t)n);
		nt_to_host_f32(ref, t.ref, (size_t)n);
		nt_to_host_f32(entropy, t.entropy, (size_t)n);
		nt_item(loss, &value);
		if (!b->old)
			memcpy(t.old, t.logp, (size_t)n * sizeof(float));
		gather_stats(sum, &t, b, from, to, cfg);
		sum->loss += value;
	}
	nla_recompute_release(&re);
	nt_grad_pop();
	nt_scope_pop();
	if (!err->status && nt_check())
		nla_nt_fail(err, "cannot compute the update");
	free(t.advantage);
	free(prompt_of);
	return err->status;
}

enum nla_status nla_update_gradient(const struct nla_half *av, const struct nla_view *policy, const struct nla_view *reference,
				    const struct nla_update_batch *batch, const struct nla_update_cfg *cfg, struct nla_update_stats *stats,
				    struct nla_err *err)
{
	struct sums sum = { 0 };
	for (int64_t from = 0, to; from < batch->responses.n; from = to) {
		to = micro_end(&batch->responses, from, cfg->micro_batch);
		if (micro(av, policy, reference, batch, from, to, cfg, &sum, err))
			return err->status;
	}
	double n = (double)sum.tokens;
	*stats = (struct nla_update_stats){ .loss = sum.loss, .kl = sum.kl / n, .entropy = sum.entropy / n, .clip_frac = sum.clipped / n,
					    .sampler_gap = batch->sampler ? sum.gap / n : (double)NAN };
	return NLA_OK;
}

enum nla_status nla_update(const struct nla_half *av, const struct nla_view *policy, const struct nla_view *reference,
			   const struct nla_update_batch *batch, const struct nla_update_cfg *cfg, struct nla_optim *optim,
			   struct nla_update_stats *stats, struct nla_err *err)
{
	return nla_update_gradient(av, policy, reference, batch, cfg, stats, err) ||
			       nla_optim_step(optim, cfg->lr, cfg->grad_clip, &stats->grad_norm, &stats->skipped, err)
		       ? err->status
		       : NLA_OK;
}

static enum nla_status ar_micro(const struct nla_half *ar, const struct nla_view *view, const struct nla_ar_texts *texts, const float *v,
				int64_t from, int64_t to, bool recompute, double *loss, struct nla_err *err)
{
	int64_t shape[2] = { to - from, ar->target->lm.arch.d_model }, n = (int64_t)texts->offset.n - 1;
	struct nla_recompute re = { .on = recompute };
	double value = 0;
	nt_scope_push();
	nt_grad_push(true);
	nt_tensor *hat = nla_ar_predict(ar, view, texts, from, to, &re, err);
	if (hat) {
		nt_tensor *target = nt_from_host(NT_F32, view->lm->device, v + from * shape[1], 2, shape);
		nt_tensor *mean = nt_scale(nt_sum(nla_ar_mse(hat, target)), 1 / (double)n);
		nla_recompute_backward(&re, mean, err);
		nt_item(mean, &value);
		if (nt_check())
			nla_nt_fail(err, "cannot train the AR");
	}
	nla_recompute_release(&re);
	nt_grad_pop();
	nt_scope_pop();
	*loss += value;
	return err->status;
}

enum nla_status nla_update_ar(const struct nla_half *ar, const struct nla_view *view, const struct nla_ar_texts *texts, const float *v,
			      const struct nla_update_cfg *cfg, struct nla_optim *optim, double *loss, double *grad_norm, bool *skipped,
			      struct nla_err *err)
{
	int64_t n = (int64_t)texts->offset.n - 1, step = cfg->micro_batch > 0 ? cfg->micro_batch : n;
	*loss = 0;
	for (int64_t from = 0; from < n; from += step)
		if (ar_micro(ar, view, texts, v, from, NLA_MIN(from + step, n), cfg->recompute, loss, err))
			return err->status;
	return nla_optim_step(optim, cfg->lr, cfg->grad_clip, grad_norm, skipped, err);
}
