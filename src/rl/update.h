/*
 * update - stage 5 of a step: one GRPO update over the rollout batch.
 *
 *	ratio = exp(logp - old);  surrogate = min(ratio A, clip(ratio, 1-c, 1+c) A)
 *	d = min(ref - logp, 12);  kl = exp(d) - d - 1                                 (k3, Schulman 2020)
 *	loss = mean over samples of mean over own tokens of -(surrogate - beta kl)
 *
 * old is the trainer's own log-probability before the step. With one update a rollout that is this very forward pass, detached: the
 * ratio is 1 and its gradient is what matters; nothing is computed twice. ref is the AV as it was at the start. Failed rows are
 * trained on, and every mean divides by the samples drawn.
 */
#ifndef NLA_UPDATE_H
#define NLA_UPDATE_H

#include "lm/optim.h"
#include "nla/ar.h"
#include "nla/av.h"

struct nla_update_cfg {
	double lr, clip, kl, temperature, grad_clip;
	int64_t micro_batch; /* samples a backward pass; 0: all */
	bool recompute;      /* blocks again in the backward pass, instead of keeping their activations: the same gradient */
};

struct nla_update_stats {
	double loss, kl, entropy, clip_frac; /* per-token means, loss as above */
	double sampler_gap;                  /* mean |old - sampler| over tokens; NaN when no sampler log-probabilities came */
	double grad_norm;
	bool skipped;                        /* non-finite gradient: nothing was changed */
};

/* A rollout as the loss sees it. */
struct nla_update_batch {
	struct nla_responses responses; /* rows of one prompt adjacent */
	const double *advantage;        /* [n] */
	const float *sampler;           /* [n, width] or NULL */
	const float *old;               /* [n, width] or NULL: this pass's own */
};

/* Gradients of the loss, added to the trained parameters' .grad (policy's adapters that require it). */
enum nla_status nla_update_gradient(const struct nla_half *av, const struct nla_view *policy, const struct nla_view *reference,
				    const struct nla_update_batch *batch, const struct nla_update_cfg *cfg, struct nla_update_stats *stats,
				    struct nla_err *err);
/* The gradient, then one optimizer step at cfg->lr. */
enum nla_status nla_update(const struct nla_half *av, const struct nla_view *policy, const struct nla_view *reference,
			   const struct nla_update_batch *batch, const struct nla_update_cfg *cfg, struct nla_optim *optim,
			   struct nla_update_stats *stats, struct nla_err *err);

/* Co-trained AR: one step of mean mse on (text, v) pairs. loss receives the mean before the step; of cfg
 * lr, grad_clip, micro_batch and recompute count. */
enum nla_status nla_update_ar(const struct nla_half *ar, const struct nla_view *view, const struct nla_ar_texts *texts, const float *v,
			      const struct nla_update_cfg *cfg, struct nla_optim *optim, double *loss, double *grad_norm, bool *skipped,
			      struct nla_err *err);

#endif
