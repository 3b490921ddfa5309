/*
 * The AR's training step against PyTorch: loss and every gradient, its head's among them; small steps of the head, bad
 * targets. And the schedules of learning rates.
 */
#include "model/golden.h"

/*
 * The AR's gradients, its head's among them, whatever the micro-batch. AdamW's first moment after one unclipped step from zero
 * is 0.1 times the gradient, which is how a gradient that the step clears can be seen.
 */
static void test_ar(void **state)
{
	struct tiny *t = *state;
	static const int64_t sizes[] = { 0, 1, 3, 3 }; /* the last one with its blocks recomputed */
	struct params p;
	struct nla_ar_texts texts = golden_texts(t);
	params_of(&p, &t->ar.adapter);
	p.list[p.n] = t->ar.head;
	assert_int_equal(nt_requires_grad(t->ar.head, true), NT_OK);
	for (size_t i = 0; i < NLA_LEN(sizes); i++) {
		struct nla_update_cfg cfg = { .micro_batch = sizes[i], .recompute = i == 3 };
		struct nla_optim optim;
		struct nla_rl rl = golden_rl(t, &cfg, NULL);
		struct nla_step step = { 0 };
		double sq = 0, most;
		char line[80];
		size_t n, n_head = (size_t)D * D;
		assert_ok(nla_optim_init(&optim, p.list, p.n + 1, &err));
		rl.ar_optim = &optim;
		assert_ok(nla_update_ar(&rl, &step, &texts, golden_f32(t, "ar.targets", M * D), &err));
		assert_false(step.update.ar_skipped);
		float *all = snapshot(&optim, &n), *g = all + n / 3;
		for (size_t k = 0; k < n / 3; k++) {
			g[k] *= 10;
			sq += (double)g[k] * g[k];
		}
		most = fmax(worst_param(t, &p, "ar_sft.grad", g),
			    relative(g + n / 3 - n_head, golden_f32(t, "ar_sft.grad.head", n_head), n_head));
		snprintf(line, sizeof(line), "AR loss, micro_batch %d", (int)sizes[i]);
		within(line, fabs(step.update.ar_loss - golden_scalar(t, "ar_sft.loss")), 1e-6);
		snprintf(line, sizeof(line), "42 + 1 AR gradients, relative, micro_batch %d", (int)sizes[i]);
		within(line, most, 1e-4);
		assert_close(step.update.ar_grad_norm / sqrt(sq), 1, 1e-5);
		nla_optim_release(&optim);
		free(all);
	}
	nla_ar_texts_release(&texts);
	nla_strs_release(&p.names);
}

/* Steps lower the AR's loss, its head moves by less than bf16 could hold, and a target that is no number skips the step. */
static void test_ar_steps(void **state)
{
	struct tiny *t = *state;
	struct params p;
	struct nla_optim optim;
	struct nla_ar_texts texts = golden_texts(t);
	struct nla_update_cfg cfg = { .grad_clip = 1, .micro_batch = 3 };
	struct nla_rl rl = golden_rl(t, &cfg, NULL);
	struct nla_step step = { 0 };
	const struct nla_update_stats *u = &step.update;
	double first = 0;
	float v[M * D];
	size_t n;
	memcpy(v, golden_f32(t, "ar.targets", M * D), sizeof(v));
	params_of(&p, &t->ar.adapter);
	p.list[p.n] = t->ar.head;
	assert_int_equal(nt_requires_grad(t->ar.head, true), NT_OK);
	assert_ok(nla_optim_init(&optim, p.list, p.n + 1, &err));
	float *head = host(t->ar.head, D * D);
	for (int i = 0; i < 20; i++) {
		rl.ar_optim = &optim;
		rl.update.ar_lr = i ? 3e-3 : 1e-6;
		assert_ok(nla_update_ar(&rl, &step, &texts, v, &err));
		if (i)
			continue;
		first = u->ar_loss;
		float *moved = host(t->ar.head, D * D);
		double most = worst(moved, head, D * D);
		assert_true(most > 5e-7 && most < 2e-6);
		free(moved);
	}
	assert_true(u->ar_loss < 0.7 * first);
	float *before = snapshot(&optim, &n);
	v[7] = NAN;
	assert_ok(nla_update_ar(&rl, &step, &texts, v, &err));
	float *after = snapshot(&optim, &n);
	assert_true(u->ar_skipped);
	assert_memory_equal(before, after, n * sizeof(*after));
	nla_optim_release(&optim);
	nla_ar_texts_release(&texts);
	nla_strs_release(&p.names);
	free(head);
	free(before);
	free(after);
}

static void test_schedule(void **state)
{
	(void)state;
	for (int64_t i = 0; i < 10; i++)
		assert_close(nla_schedule_lr(NLA_SCHEDULE_CONSTANT, 3, i, 10, 0, 0), 3, 1e-12);
	assert_close(nla_schedule_lr(NLA_SCHEDULE_COSINE, 2, 0, 101, 50, 0.1), 0.04, 1e-12);   /* 1/50 */
	assert_close(nla_schedule_lr(NLA_SCHEDULE_COSINE, 2, 49, 101, 50, 0.1), 2, 1e-12);
	assert_close(nla_schedule_lr(NLA_SCHEDULE_COSINE, 2, 50, 101, 50, 0.1), 2, 1e-12);
	assert_close(nla_schedule_lr(NLA_SCHEDULE_COSINE, 2, 75, 101, 50, 0.1), 1.1, 1e-12);   /* half way: (1 + 0.1) / 2 */
	assert_close(nla_schedule_lr(NLA_SCHEDULE_COSINE, 2, 100, 101, 50, 0.1), 0.2, 1e-12);
	assert_close(nla_schedule_lr(NLA_SCHEDULE_COSINE, 2, 500, 101, 50, 0.1), 0.2, 1e-12);  /* behind the end */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TINY_TEST(test_ar),
		TINY_TEST(test_ar_steps),
		TINY_TEST(test_schedule),
	};
	return run_tiny(tests);
}
