/*
 * update - one GRPO update over the step's samples:
 *
 *	ratio = exp(logp - old);  surrogate = min(ratio A, clip(ratio, 1-c, 1+c) A)
 *	d = min(ref - logp, 12);  kl = exp(d) - d - 1                                 (k3, Schulman 2020)
 *	loss = mean over samples of mean over own tokens of -(surrogate - beta kl)
 *
 * old is the trainer's own log-probability before the step. With one update a rollout that is this very forward pass, detached:
 * the ratio is 1 and its gradient is what matters; nothing is computed twice. ref is the AV as it was at the start. Failed rows
 * are trained on, and every mean divides by the samples drawn.
 */
#pragma once

#include "base/base.h"
#include "shim/nt.h"

#define NLA_KL_MAX_D 12
/* k3 of a token, whose d is ref - logp. */
static inline double nla_k3(double d)
{
	d = d > NLA_KL_MAX_D ? NLA_KL_MAX_D : d; /* NaN stays */
	return exp(d) - d - 1;
}

struct nla_update_cfg {
	double lr, clip, kl, grad_clip, ar_lr;
	int64_t micro_batch; /* samples a backward pass; 0: all */
	bool recompute;      /* blocks again in the backward pass, instead of keeping their activations: the same gradient */
};

struct nla_update_stats {
	double loss, kl, entropy, clip_frac; /* per-token means, loss as above; kl: NaN at beta 0, where ref is not computed */
	double kl_clamped;                   /* share of tokens with ref - logp above 12, where the KL has no gradient */
	double sampler_gap;                  /* mean |old - sampler| over tokens; NaN without the sampler's log-probabilities */
	double grad_norm;
	bool skipped;                        /* non-finite gradient: nothing was changed */
	double ar_loss, ar_grad_norm;        /* the AR's mean mse before its step; NaN: no step */
	bool ar_skipped;
	struct nt_reduced reduced;           /* gradients over ranks, the AR's too */
};
