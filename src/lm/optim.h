/*
 * optim - AdamW over a list of parameters with its moments, and learning-rate schedules.
 *
 *	struct nla_optim opt;
 *	if (nla_optim_init(&opt, list, n, err)) ...                  the list is copied, the tensors are borrowed
 *	loss backward;
 *	if (nla_optim_step(&opt, lr, 1.0, &norm, &skipped, err)) ...  clips, steps, clears the gradients
 *	nla_optim_release(&opt);
 */
#pragma once

#include "lm/tensors.h"

struct nla_optim {
	nt_tensor **state; /* [3 n] the parameters, borrowed; their m, owned; their v, owned */
	int n;
	int64_t step; /* updates made */
	struct nt_adamw hyper;
	struct nt_reduced reduced; /* over ranks, in the last step */
};

/* Defaults: betas 0.9, 0.95, eps 1e-8, no weight decay. */
enum nla_status nla_optim_init(struct nla_optim *o, nt_tensor *const *params, int n, struct nla_err *err);
void nla_optim_release(struct nla_optim *o);
void nla_optim_zero_grad(const struct nla_optim *o);
/* Ranks sum their gradients and then do the same. Gradient norm first: non-finite -> gradients are cleared, nothing else
 * changes, *skipped is set. Else clip to grad_clip (0: off) as torch's clip_grad_norm_ (c / (norm + 1e-6), at most 1), AdamW,
 * clear. */
enum nla_status nla_optim_step(struct nla_optim *o, double lr, double grad_clip, double *norm, bool *skipped,
			       struct nla_err *err);

/* State as safetensors: PREFIX.param.I, PREFIX.m.I, PREFIX.v.I (all fp32), added to `out`. The step counter travels in the
 * checkpoint's own state. */
void nla_optim_list(const struct nla_optim *o, const char *prefix, struct nla_tensors *out);
enum nla_status nla_optim_restore(struct nla_optim *o, const char *prefix, const struct nla_st *st, struct nla_err *err);

enum nla_schedule { NLA_SCHEDULE_CONSTANT, NLA_SCHEDULE_COSINE };
/* Learning rate of update `step` (from 0) of `total`: linear warm-up over `warmup` updates, then constant, or a cosine down to
 * floor * lr at the last update. Pure. */
double nla_schedule_lr(enum nla_schedule kind, double lr, int64_t step, int64_t total, int64_t warmup, double floor);
