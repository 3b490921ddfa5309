/*
 * AdamW steps on the GRPO loss: against AdamW in double on the same gradients, against PyTorch's three steps; a gradient that is no
 * number; moments written and read back.
 */
#include "model/golden.h"

/* A number of golden.json that belongs to one of the three steps. */
static double adamw_number(const char *key, int step)
{
	cJSON *json = NULL;
	assert_ok(nla_json_read(TINY "/golden.json", &json, &err));
	const cJSON *x = cJSON_GetArrayItem(cJSON_GetObjectItem(cJSON_GetObjectItem(json, "scalars"), key), step);
	assert_true(cJSON_IsNumber(x));
	double value = x->valuedouble;
	cJSON_Delete(json);
	return value;
}

/* ---- AdamW in double ---- */

#define GRADIENT_ERROR 5e-6 /* of a tensor's largest: fp32 against float64 */
#define ROUNDING 1e-7       /* of fp32 additions to a parameter, and of Adam's own arithmetic */

/*
 * AdamW in double on the gradients that the trainer had, and what an error d = GRADIENT_ERROR in them may have done to each parameter:
 * m^ and sqrt(v^) are means of gradients, off by d at most, and |m^| is about sqrt(v^) at most, so a step is off by
 * 2 lr d / (sqrt(v^) + eps), and never by more than 2 lr. The first step is +-lr whatever the error; the later ones divide one
 * gradient by another.
 */
struct exact {
	double *x, *m, *v, *allowed; /* [n] */
	double *largest;             /* [tensors] gradient so far */
	size_t n;
};

static void exact_init(struct exact *e, const float *x, size_t n, int n_tensors)
{
	double **all[] = { &e->x, &e->m, &e->v, &e->allowed };
	for (size_t i = 0; i < NLA_LEN(all); i++)
		*all[i] = nla_alloc(n, sizeof(double));
	e->largest = nla_alloc((size_t)n_tensors, sizeof(double));
	e->n = n;
	for (size_t k = 0; k < n; k++)
		e->x[k] = x[k];
}

static void exact_free(struct exact *e)
{
	double *all[] = { e->x, e->m, e->v, e->allowed, e->largest };
	for (size_t i = 0; i < NLA_LEN(all); i++)
		free(all[i]);
}

static void exact_step(struct exact *e, const struct params *p, const float *g, int step)
{
	const double b1 = 0.9, b2 = 0.95, eps = 1e-8, lr = golden_cfg.lr;
	double sq = 0;
	for (size_t k = 0; k < e->n; k++)
		sq += (double)g[k] * g[k];
	const double clip = fmin(1, golden_cfg.grad_clip / (sqrt(sq) + 1e-6));
	size_t k = 0;
	for (int i = 0; i < p->n; i++) {
		size_t end = k + (size_t)nt_numel(p->list[i]);
		for (size_t j = k; j < end; j++)
			e->largest[i] = fmax(e->largest[i], fabs(clip * g[j]));
		for (; k < end; k++) {
			double x = clip * g[k];
			e->m[k] = b1 * e->m[k] + (1 - b1) * x;
			e->v[k] = b2 * e->v[k] + (1 - b2) * x * x;
			double size = sqrt(e->v[k] / (1 - pow(b2, step))) + eps;
			e->x[k] -= lr * e->m[k] / (1 - pow(b1, step)) / size;
			e->allowed[k] += fmin(2 * lr * GRADIENT_ERROR * e->largest[i] / size, 2 * lr);
		}
	}
}

/* Largest distance of the parameters from the exact ones. */
static double from_exact(const struct exact *e, const float *x)
{
	double most = 0;
	for (size_t k = 0; k < e->n; k++) {
		double d = fabs(x[k] - e->x[k]);
		most = isnan(d) ? INFINITY : fmax(most, d);
	}
	return most;
}

/* ... from PyTorch's, as parts of what is allowed. */
static double from_golden(const struct tiny *t, const struct params *p, const struct exact *e, const float *x)
{
	double most = 0;
	size_t k = 0;
	for (int i = 0; i < p->n; i++) {
		size_t size = (size_t)nt_numel(p->list[i]);
		char *name = nla_format("adamw.step3.%s", p->names.data[i]);
		const float *want = golden_f32(t, name, size);
		for (size_t j = 0; j < size; j++, k++) {
			double d = fabs((double)x[k] - want[j]) / (e->allowed[k] + ROUNDING);
			most = isnan(d) ? INFINITY : fmax(most, d);
		}
		free(name);
	}
	return most;
}

static float *gradients(const struct params *p)
{
	struct nla_f32s all = { 0 };
	for (int i = 0; i < p->n; i++) {
		nt_scope_push();
		float *g = host(nt_grad(p->list[i]), (size_t)nt_numel(p->list[i]));
		nt_scope_pop();
		nla_f32s_append(&all, g, (size_t)nt_numel(p->list[i]));
		free(g);
	}
	return all.data;
}

/* One step of the trainer and of the exact one: parameters, loss and norm. */
static float *both_step(struct tiny *t, const struct params *p, struct nla_step *batch, struct nla_optim *optim,
			struct exact *e, int step)
{
	struct nla_rl rl = golden_rl(t, &golden_cfg, optim);
	struct nla_update_stats *stats = &batch->update;
	char line[80];
	size_t n;
	assert_ok(nla_update_gradient(&rl, batch, &err));
	float *g = gradients(p);
	assert_ok(nla_optim_step(optim, golden_cfg.lr, golden_cfg.grad_clip, &stats->grad_norm, &stats->skipped, &err));
	assert_false(stats->skipped);
	exact_step(e, p, g, step);
	free(g);
	float *x = snapshot(optim, &n);
	snprintf(line, sizeof(line), "parameters after step %d, AdamW in double", step);
	within(line, from_exact(e, x), ROUNDING);
	snprintf(line, sizeof(line), "loss of step %d", step);
	within(line, fabs(stats->loss - adamw_number("adamw.losses", step - 1)), 1e-4);
	snprintf(line, sizeof(line), "gradient norm of step %d, relative", step);
	within(line, fabs(stats->grad_norm / adamw_number("adamw.grad_norms", step - 1) - 1), 1e-4);
	for (int k = 0; k < p->n; k++)
		assert_false(nt_has_grad(p->list[k]));
	return x;
}

static void test_three_steps(void **state)
{
	struct tiny *t = *state;
	struct params p;
	struct nla_optim optim;
	struct exact e = { 0 };
	double advantage[N], mean = 0;
	struct nla_step batch = golden_step(t, advantage);
	size_t n;
	params_of(&p, &t->rl);
	assert_ok(nla_optim_init(&optim, p.list, p.n, &err));
	float *x = snapshot(&optim, &n); /* parameters first, then the moments */
	exact_init(&e, x, n / 3, p.n);
	for (int step = 1; step <= 3; step++) {
		free(x);
		x = both_step(t, &p, &batch, &optim, &e, step);
	}
	assert_int_equal(optim.step, 3);
	for (size_t k = 0; k < e.n; k++)
		mean += e.allowed[k] / (double)e.n;
	within("parameters from PyTorch's, over what is allowed", from_golden(t, &p, &e, x), on_card() ? 2 : 1); /* an H200: 1.15 */
	within("allowed, mean", mean, 1e-5); /* or the line above would say nothing */
	free(x);
	exact_free(&e);
	nla_optim_release(&optim);
	nla_strs_release(&p.names);
}

/* A gradient that is no number, or infinite: nothing changes, it is told, and the next step is as if it had not been. */
static void test_bad_gradient(void **state)
{
	struct tiny *t = *state;
	static const double bad[] = { NAN, INFINITY };
	struct params p;
	struct nla_optim optim;
	struct nla_rl rl = golden_rl(t, &golden_cfg, &optim);
	double advantage[N];
	struct nla_step batch = golden_step(t, advantage);
	size_t n;
	params_of(&p, &t->rl);
	assert_ok(nla_optim_init(&optim, p.list, p.n, &err));
	assert_ok(nla_update(&rl, &batch, &err));
	float *before = snapshot(&optim, &n);
	for (size_t i = 0; i < NLA_LEN(bad); i++) {
		double good = advantage[5];
		advantage[5] = bad[i];
		assert_ok(nla_update(&rl, &batch, &err));
		advantage[5] = good;
		assert_true(batch.update.skipped);
		assert_false(isfinite(batch.update.grad_norm));
		float *after = snapshot(&optim, &n);
		assert_memory_equal(before, after, n * sizeof(*after));
		assert_int_equal(optim.step, 1);
		for (int k = 0; k < p.n; k++)
			assert_false(nt_has_grad(p.list[k]));
		free(after);
	}
	assert_ok(nla_update(&rl, &batch, &err));
	assert_false(batch.update.skipped);
	within("norm of the step after skipped ones, relative", fabs(batch.update.grad_norm / adamw_number("adamw.grad_norms", 1) - 1), 1e-4);
	free(before);
	nla_optim_release(&optim);
	nla_strs_release(&p.names);
}

/* Parameters and moments as file entries and back: the next step is the same to the bit. */
static void test_resume(void **state)
{
	struct tiny *t = *state;
	struct params p;
	struct nla_optim optim;
	struct nla_rl rl = golden_rl(t, &golden_cfg, &optim);
	struct nla_tensors tensors = { 0 };
	struct nla_st st;
	double advantage[N];
	struct nla_step batch = golden_step(t, advantage);
	size_t n;
	params_of(&p, &t->rl);
	assert_ok(nla_optim_init(&optim, p.list, p.n, &err));
	assert_ok(nla_update(&rl, &batch, &err));
	nla_optim_list(&optim, "av", &tensors);
	assert_int_equal(tensors.names.n, 3 * p.n);
	assert_ok(nla_tensors_write(&tensors, in_scratch("optim.safetensors"), NT_F32, &err));
	nla_tensors_release(&tensors);
	assert_ok(nla_update(&rl, &batch, &err));
	float *want = snapshot(&optim, &n);
	nla_optim_release(&optim);
	assert_ok(nla_optim_init(&optim, p.list, p.n, &err));
	assert_ok(nla_st_open(&st, in_scratch("optim.safetensors"), &err));
	assert_fails(nla_optim_restore(&optim, "ar", &st, &err), "'ar.param.0' is missing or of another shape");
	assert_ok(nla_optim_restore(&optim, "av", &st, &err));
	optim.step = 1;
	assert_ok(nla_update(&rl, &batch, &err));
	float *got = snapshot(&optim, &n);
	assert_memory_equal(got, want, n * sizeof(*got));
	free(got);
	free(want);
	nla_st_close(&st);
	nla_optim_release(&optim);
	nla_strs_release(&p.names);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TINY_TEST(test_three_steps),
		TINY_TEST(test_bad_gradient),
		TINY_TEST(test_resume),
	};
	return run_tiny(tests);
}
