/* optim - AdamW and its schedules; see optim.h. */
#include "lm/optim.h"

enum nla_status nla_optim_init(struct nla_optim *o, nt_tensor *const *params, int n, struct nla_err *err)
{
	*o = (struct nla_optim){ .n = n, .hyper = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8 } };
	o->state = nla_alloc((size_t)n * 3, sizeof(*o->state));
	for (int i = 0; i < n; i++) {
		int64_t shape[4];
		for (int j = 0; j < nt_ndim(params[i]); j++)
			shape[j] = nt_size(params[i], j);
		o->state[i] = params[i];
		for (int k = i + n; k < 3 * n; k += n)
			o->state[k] = nt_own(nt_zeros(NT_F32, nt_device_of(params[i]), nt_ndim(params[i]), shape));
	}
	return nt_check() ? nla_nt_fail(err, "cannot make the optimizer's state") : NLA_OK;
}

void nla_optim_zero_grad(const struct nla_optim *o)
{
	for (int i = 0; i < o->n; i++)
		nt_zero_grad(o->state[i]);
}

void nla_optim_release(struct nla_optim *o)
{
	nla_optim_zero_grad(o);
	for (int k = o->n; k < 3 * o->n; k++)
		nt_free(o->state[k]);
	free(o->state);
	*o = (struct nla_optim){ 0 };
}

enum nla_status nla_optim_step(struct nla_optim *o, double lr, double grad_clip, double *norm, bool *skipped,
			       struct nla_err *err)
{
	if (nt_reduce_grads(o->state, o->n, &o->reduced) || nt_grad_norm(o->state, o->n, norm))
		return nla_nt_fail(err, "cannot take the gradient's norm");
	*skipped = !isfinite(*norm);
	if (!*skipped) {
		double c = grad_clip > 0 ? grad_clip / (*norm + 1e-6) : 1;
		o->hyper.lr = lr;
		if (c < 1)
			nt_grad_scale(o->state, o->n, c);
		nt_adamw_step(o->state, o->state + o->n, o->state + 2 * o->n, o->n, ++o->step, &o->hyper);
	}
	nla_optim_zero_grad(o);
	return nt_check() ? nla_nt_fail(err, "cannot make an optimizer step") : NLA_OK;
}

static char *state_name(const struct nla_optim *o, const char *prefix, int k)
{
	static const char *const kinds[] = { "param", "m", "v" };
	return nla_format("%s.%s.%d", prefix, kinds[k / o->n], k % o->n);
}

void nla_optim_list(const struct nla_optim *o, const char *prefix, struct nla_tensors *out)
{
	for (int k = 0; k < 3 * o->n; k++) {
		nla_auto char *name = state_name(o, prefix, k);
		nla_tensors_add(out, name, o->state[k]);
	}
}

enum nla_status nla_optim_restore(struct nla_optim *o, const char *prefix, const struct nla_st *st, struct nla_err *err)
{
	for (int k = 0; k < 3 * o->n && !err->status; k++) {
		nla_auto char *name = state_name(o, prefix, k);
		const struct nla_st_entry *e = nla_st_find(st, name);
		nt_scope_push();
		if (!e || e->dtype != NLA_ST_F32 || e->nbytes != (size_t)nt_numel(o->state[k]) * sizeof(float))
			nla_fail(err, "cannot resume from '%s': '%s' is missing or of another shape (was lora changed?)",
				 st->path, name);
		else if (nt_copy_into(o->state[k], nla_tensor_borrow(e)))
			nla_nt_fail(err, "cannot restore the optimizer");
		nt_scope_pop();
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
