/* optim - AdamW and its schedules; see optim.h. */
#include "lm/optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum nla_status nla_optim_init(struct nla_optim *o, nt_tensor *const *params, int n, struct nla_err *err)
{
	*o = (struct nla_optim){ .n = n, .hyper = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8 } };
	o->params = nla_alloc((size_t)n, sizeof(*o->params));
	o->m = nla_alloc((size_t)n, sizeof(*o->m));
	o->v = nla_alloc((size_t)n, sizeof(*o->v));
	for (int i = 0; i < n; i++) {
		int64_t shape[4];
		for (int j = 0; j < nt_ndim(params[i]); j++)
			shape[j] = nt_size(params[i], j);
		o->params[i] = params[i];
		o->m[i] = nt_own(nt_zeros(NT_F32, nt_device_of(params[i]), nt_ndim(params[i]), shape));
		o->v[i] = nt_own(nt_zeros(NT_F32, nt_device_of(params[i]), nt_ndim(params[i]), shape));
	}
	return nt_check() ? nla_nt_fail(err, "cannot make the optimizer's state") : NLA_OK;
}

void nla_optim_release(struct nla_optim *o)
{
	for (int i = 0; i < o->n; i++) {
		nt_zero_grad(o->params[i]);
		nt_free(o->m[i]);
		nt_free(o->v[i]);
	}
	free(o->params);
	free(o->m);
	free(o->v);
	memset(o, 0, sizeof(*o));
}

enum nla_status nla_optim_step(struct nla_optim *o, double lr, double grad_clip, double *norm, bool *skipped,
			       struct nla_err *err)
{
	*skipped = false;
	if (nt_grad_norm(o->params, o->n, norm))
		return nla_nt_fail(err, "cannot take the gradient's norm");
	if (!isfinite(*norm)) {
		*skipped = true;
	} else {
		double c = grad_clip > 0 ? grad_clip / (*norm + 1e-6) : 1;
		o->hyper.lr = lr;
		if (c < 1)
			nt_grad_scale(o->params, o->n, c);
		nt_adamw_step(o->params, o->m, o->v, o->n, ++o->step, &o->hyper);
	}
	for (int i = 0; i < o->n; i++)
		nt_zero_grad(o->params[i]);
	return nt_check() ? nla_nt_fail(err, "cannot make an optimizer step") : NLA_OK;
}

/* What is saved of parameter i: itself, m, v. */
static nt_tensor *state_of(const struct nla_optim *o, int kind, int i)
{
	return (kind == 0 ? o->params : kind == 1 ? o->m : o->v)[i];
}

static char *state_name(const char *prefix, int kind, int i)
{
	static const char *const kinds[] = { "param", "m", "v" };
	return nla_format("%s.%s.%d", prefix, kinds[kind], i);
}

void nla_optim_list(const struct nla_optim *o, const char *prefix, struct nla_tensors *out)
{
	for (int k = 0; k < 3 * o->n; k++) {
		char *name = state_name(prefix, k / o->n, k % o->n);
		nla_tensors_add(out, name, state_of(o, k / o->n, k % o->n));
		free(name);
	}
}

enum nla_status nla_optim_restore(struct nla_optim *o, const char *prefix, const struct nla_st *st, struct nla_err *err)
{
	for (int k = 0; k < 3 * o->n && !err->status; k++) {
		nt_tensor *t = state_of(o, k / o->n, k % o->n);
		char *name = state_name(prefix, k / o->n, k % o->n);
		const struct nla_st_entry *e = nla_st_find(st, name);
		nt_scope_push();
		if (!e || e->dtype != NLA_ST_F32 || e->nbytes != (size_t)nt_numel(t) * sizeof(float))
			nla_fail(err, "cannot resume from '%s': '%s' is missing or of another shape (was lora changed?)",
				 st->path, name);
		else if (nt_copy_into(t, nla_tensor_borrow(e)))
			nla_nt_fail(err, "cannot restore the optimizer");
		nt_scope_pop();
		free(name);
	}
	return err->status;
}

double nla_schedule_lr(enum nla_schedule kind, double lr, int64_t step, int64_t total, int64_t warmup, double floor)
{
	if (step < warmup)
		return lr * (double)(step + 1) / (double)warmup;
	if (kind == NLA_SCHEDULE_CONSTANT || total - 1 <= warmup)
		return lr;
	double part = (double)(step - warmup) / (double)(total - 1 - warmup);
	return lr * (floor + (1 - floor) * 0.5 * (1 + cos(M_PI * NLA_MIN(part, 1.0))));
}
