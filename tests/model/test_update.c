/*
 * One GRPO update against PyTorch: loss, statistics and every gradient; what may not change it (micro-batches, the kernels) and what must
 * (the KL term, the sampler's gap).
 */
#include "model/golden.h"

/* All gradients one behind the other, to be freed by the caller; the parameters lose theirs. */
static float *take_gradients(const struct params *p, size_t *n)
{
	float *all = NULL;
	*n = 0;
	for (int i = 0; i < p->n; i++) {
		size_t size = (size_t)nt_numel(p->list[i]);
		nt_scope_push();
		float *g = host(nt_grad(p->list[i]), size);
		nt_scope_pop();
		all = nla_realloc(all, *n + size, sizeof(*all));
		memcpy(all + *n, g, size * sizeof(*g));
		*n += size;
		free(g);
		nt_zero_grad(p->list[i]);
	}
	return all;
}

/* The gradient of a batch under a configuration, as take_gradients has it. */
static float *gradient(struct tiny *t, const struct params *p, struct nla_step *batch, const struct nla_update_cfg *cfg,
		       struct nla_update_stats *stats, size_t *n)
{
	struct nla_rl rl = golden_rl(t, cfg, NULL);
	assert_ok(nla_update_gradient(&rl, batch, &err));
	*stats = batch->update;
	return take_gradients(p, n);
}

/* ---- the gradient ---- */

static void check_gradient(struct tiny *t, const char *what)
{
	struct params p;
	struct nla_update_stats stats;
	double advantage[N], sq = 0;
	struct nla_step batch = golden_step(t, advantage);
	char line[80];
	size_t n;
	params_of(&p, &t->rl);
	assert_int_equal(p.n, 40);
	float *g = gradient(t, &p, &batch, &golden_cfg, &stats, &n);
	for (size_t i = 0; i < n; i++)
		sq += (double)g[i] * g[i];
	snprintf(line, sizeof(line), "loss, %s", what);
	within(line, fabs(stats.loss - golden_scalar(t, "grpo.loss")), 2e-6);
	snprintf(line, sizeof(line), "kl, %s", what);
	within(line, fabs(stats.kl - golden_scalar(t, "grpo.kl")), 2e-5);
	snprintf(line, sizeof(line), "clip_frac, %s", what);
	within(line, fabs(stats.clip_frac - golden_scalar(t, "grpo.clip_frac")), 1e-7);
	snprintf(line, sizeof(line), "40 gradients, relative, %s", what);
	within(line, worst_param(t, &p, "grpo.grad", g), 1e-4);
	snprintf(line, sizeof(line), "gradient norm, relative, %s", what);
	within(line, fabs(sqrt(sq) / golden_scalar(t, "grpo.grad_norm") - 1), 1e-5);
	assert_true(isnan(stats.sampler_gap)); /* none was handed in */
	free(g);
	nla_strs_release(&p.names);
}

static void test_gradient(void **state) { check_gradient(*state, "fast"); }

static void test_gradient_threads(void **state)
{
	nt_set_threads(3);
	check_gradient(*state, "3 threads");
}

static void test_gradient_plain(void **state)
{
	nt_plain(true);
	check_gradient(*state, "plain");
}

/* A step again gives the same bits, in fp32 and in bf16. */
static void test_again(void **state)
{
	struct tiny *t = *state;
	for (int bf16 = 0; bf16 < 2; bf16++) {
		struct params p;
		struct nla_update_stats first, second;
		double advantage[N];
		struct nla_step batch = golden_step(t, advantage);
		struct nla_lm half;
		size_t n;
		params_of(&p, &t->rl);
		if (bf16) {
			assert_ok(nla_lm_load(&half, TINY "/model", NULL, DEVICE, NT_BF16, NLA_LM_AUTO, &err));
			t->policy.lm = t->reference.lm = &half;
		}
		float *want = gradient(t, &p, &batch, &golden_cfg, &first, &n), *g = gradient(t, &p, &batch, &golden_cfg, &second, &n);
		assert_memory_equal(g, want, n * sizeof(*g));
		assert_true(second.loss == first.loss && second.kl == first.kl && second.entropy == first.entropy);
		free(want);
		free(g);
		nla_strs_release(&p.names);
		if (bf16)
			nla_lm_release(&half);
	}
}

/* A device that runs out of memory in the update, or in decoding: half the batch, once, and the numbers of a step that began so. */
static void test_out_of_memory(void **state)
{
	struct tiny *t = *state;
	struct params p;
	double advantage[N];
	struct nla_step batch = golden_step(t, advantage);
	struct nla_update_cfg cfg = golden_cfg;
	struct nla_optim optim;
	struct nla_update_stats stats;
	int64_t peak[2];
	size_t n;
	if (DEVICE == NT_CPU || on_card())
		skip(); /* nothing limits a CPU's memory, and a card's allocator has what it kept */
	params_of(&p, &t->rl);
	assert_ok(nla_optim_init(&optim, p.list, p.n, &err));
	cfg.lr = 0; /* the parameters stay, for the comparison */
	for (int i = 0; i < 2; i++) {
		cfg.micro_batch = i ? N : (N + 1) / 2;
		free(gradient(t, &p, &batch, &cfg, &stats, &n));
		nt_peak_reset(DEVICE);
		free(gradient(t, &p, &batch, &cfg, &stats, &n));
		peak[i] = nt_peak(DEVICE);
	}
	print_message("    peak at %d responses %lld bytes, at %d %lld\n", N, (long long)peak[1], (N + 1) / 2, (long long)peak[0]);
	struct nla_rl rl = golden_rl(t, &cfg, &optim), halved = rl;
	halved.update.micro_batch = (N + 1) / 2;
	assert_ok(nla_update(&halved, &batch, &err));
	stats = batch.update;
	assert_ok(nla_update_gradient(&halved, &batch, &err)); /* as of micro-batches before the one that fails: not to be counted */
	assert_int_equal(nt_memory_limit(DEVICE, (peak[0] + peak[1]) / 2), NT_OK);
	assert_ok(nla_update(&rl, &batch, &err));
	assert_int_equal(rl.update.micro_batch, (N + 1) / 2);
	assert_true(batch.update.loss == stats.loss && batch.update.grad_norm == stats.grad_norm && batch.update.kl == stats.kl);
	assert_ok(nla_update(&rl, &batch, &err)); /* which fits now */
	assert_int_equal(nt_memory_limit(DEVICE, 1), NT_OK);
	assert_int_equal(nla_update(&rl, &batch, &err), NLA_NOMEM); /* the second time is an error */
	assert_int_equal(nt_memory_limit(DEVICE, 0), NT_OK);
	assert_non_null(strstr(err.text, "out of memory"));
	err = (struct nla_err)NLA_ERR_INIT;
	nla_optim_release(&optim);
	nla_strs_release(&p.names);
}

/* The base and the warm start stay as they are: no gradient reaches them. */
static void test_only_the_policy(void **state)
{
	struct tiny *t = *state;
	struct params p;
	double advantage[N];
	struct nla_step batch = golden_step(t, advantage);
	params_of(&p, &t->rl);
	struct nla_rl rl = golden_rl(t, &golden_cfg, NULL);
	assert_ok(nla_update_gradient(&rl, &batch, &err));
	struct nla_tensors frozen = { 0 };
	nla_adapter_list(&t->av.adapter, &frozen);
	assert_int_equal(frozen.names.n, 70);
	nla_lm_list(&t->target.lm, &frozen);
	assert_true(frozen.names.n > 70);
	for (size_t i = 0; i < frozen.names.n; i++)
		assert_false(nt_has_grad(frozen.list[i]));
	nla_tensors_release(&frozen);
	for (int i = 0; i < p.n; i++) {
		assert_true(nt_has_grad(p.list[i]));
		nt_zero_grad(p.list[i]);
	}
	nla_strs_release(&p.names);
}

/* Blocks run again in the backward pass: the same gradients to the bit, and loss, whatever the injection and the operations. */
static void check_recompute(struct tiny *t, const char *what)
{
	struct params p;
	struct nla_update_stats kept, again;
	double advantage[N];
	struct nla_step batch = golden_step(t, advantage);
	struct nla_update_cfg cfg = golden_cfg;
	size_t n;
	char line[80];
	params_of(&p, &t->rl);
	cfg.micro_batch = 5;
	nt_peak_reset(DEVICE);
	int64_t before = nt_peak(DEVICE);
	float *want = gradient(t, &p, &batch, &cfg, &kept, &n);
	int64_t peak_kept = nt_peak(DEVICE) - before;
	cfg.recompute = true;
	nt_peak_reset(DEVICE);
	before = nt_peak(DEVICE);
	float *g = gradient(t, &p, &batch, &cfg, &again, &n);
	int64_t peak_again = nt_peak(DEVICE) - before;
	assert_memory_equal(g, want, n * sizeof(*g));
	assert_true(again.loss == kept.loss && again.kl == kept.kl && again.entropy == kept.entropy);
	snprintf(line, sizeof(line), "peak of tensors when recomputed / kept, %s", what);
	within(line, (double)peak_again / (double)peak_kept, 0.6);
	free(want);
	free(g);
	nla_strs_release(&p.names);
}

static void test_recompute(void **state) { check_recompute(*state, "fast"); }

static void test_recompute_plain(void **state)
{
	nt_plain(true);
	check_recompute(*state, "plain");
}

/* The other injection, at the embedding: run again in the backward pass of what enters block 0, which nothing trained needs. */
static void test_recompute_embedding(void **state)
{
	struct tiny *t = *state;
	t->av.meta.inject = NLA_INJECT_EMBED_REPLACE;
	t->av.meta.injection_scale = (struct nla_scale){ .kind = NLA_SCALE_NUMBER, .value = 3 };
	check_recompute(t, "embed_replace");
}

/* Weights trained themselves, embedding and tied head among them: what enters block 0 has a gradient too. */
static void test_recompute_weights(void **state)
{
	struct tiny *t = *state;
	struct nla_update_stats stats;
	double advantage[N];
	struct nla_step batch = golden_step(t, advantage);
	size_t n;
	for (int tied = 0; tied < 2; tied++) {
		struct params p = { 0 };
		struct nla_tensors all = { 0 };
		struct nla_update_cfg cfg = golden_cfg;
		if (tied) { /* as loading makes it */
			nt_free(t->target.lm.head);
			t->target.lm.head = nt_own(nt_share(t->target.lm.embed));
			t->target.lm.arch.tied = true;
		}
		nla_lm_list(&t->target.lm, &all);
		p.n = (int)all.names.n;
		assert_true(p.n <= MAX_PARAMS);
		memcpy(p.list, all.list, all.names.n * sizeof(*all.list));
		nla_tensors_release(&all);
		for (int i = 0; i < p.n; i++)
			assert_int_equal(nt_requires_grad(p.list[i], true), NT_OK);
		float *want = gradient(t, &p, &batch, &cfg, &stats, &n);
		cfg.recompute = true;
		float *g = gradient(t, &p, &batch, &cfg, &stats, &n);
		within(tied ? "the same with a tied head" : "gradients of all weights, relative, recomputed, kept",
		       relative(g, want, n), 1e-6);
		free(want);
		free(g);
	}
}

/* However the samples are cut into backward passes, across prompts or not: gradient and statistics of the whole batch. */
static void test_micro_batches(void **state)
{
	struct tiny *t = *state;
	static const int64_t sizes[] = { 1, 3, 4, 5, 100 };
	struct params p;
	struct nla_update_stats whole, stats;
	double advantage[N];
	struct nla_step batch = golden_step(t, advantage);
	size_t n;
	params_of(&p, &t->rl);
	batch.tokens.logprob = (float *)golden_f32(t, "av.ref_logp", N * WIDTH);
	float *want = gradient(t, &p, &batch, &golden_cfg, &whole, &n);
	for (size_t i = 0; i < NLA_LEN(sizes); i++) {
		struct nla_update_cfg cfg = golden_cfg;
		char line[80];
		cfg.micro_batch = sizes[i];
		float *g = gradient(t, &p, &batch, &cfg, &stats, &n);
		snprintf(line, sizeof(line), "gradient, relative, micro_batch %d, whole batch", (int)sizes[i]);
		within(line, relative(g, want, n), 1e-5);
		assert_close(stats.loss, whole.loss, 2e-6);
		assert_close(stats.kl, whole.kl, 1e-5);
		assert_close(stats.entropy, whole.entropy, 1e-5);
		assert_close(stats.clip_frac, whole.clip_frac, 1e-12);
		assert_close(stats.sampler_gap, whole.sampler_gap, 1e-6);
		free(g);
	}
	free(want);
	nla_strs_release(&p.names);
}

/*
 * Without `old` it is this pass itself: every ratio is 1, nothing is clipped, and the loss is -mean A + beta mean kl. The
 * gradient is that with the same numbers handed in, and the sampler's gap is measured from them.
 */
static void test_ratio_one(void **state)
{
	struct tiny *t = *state;
	struct params p;
	struct nla_update_stats stats, given;
	double advantage[N], mean = 0;
	struct nla_step batch = golden_step(t, advantage);
	float sampler[N * WIDTH];
	size_t n;
	params_of(&p, &t->rl);
	for (int i = 0; i < N; i++) {
		advantage[i] += 0.25; /* else the means would vanish */
		mean += advantage[i] / N;
	}
	memcpy(sampler, golden_f32(t, "av.logp", N * WIDTH), sizeof(sampler));
	batch.old = sampler;
	float *want = gradient(t, &p, &batch, &golden_cfg, &given, &n);
	for (int i = 0; i < N * WIDTH; i++)
		sampler[i] += i % 2 ? 0.25f : -0.25f;
	batch.old = NULL;
	batch.tokens.logprob = sampler;
	float *g = gradient(t, &p, &batch, &golden_cfg, &stats, &n);
	within("loss at ratio 1", fabs(stats.loss - (0.01 * golden_scalar(t, "grpo.kl_sample_mean") - mean)), 2e-6);
	within("gradient, relative, old absent or the same", relative(g, want, n), 1e-4);
	within("sampler_gap of 0.25", fabs(stats.sampler_gap - 0.25), 1e-5);
	assert_true(stats.clip_frac == 0);
	free(g);
	free(want);
	nla_strs_release(&p.names);
}

static void test_statistics(void **state)
{
	struct tiny *t = *state;
	struct params p;
	struct nla_update_stats stats;
	double advantage[N], entropy = 0;
	struct nla_step batch = golden_step(t, advantage);
	const float *want = golden_f32(t, "av.entropy", N * WIDTH);
	size_t n;
	params_of(&p, &t->rl);
	free(gradient(t, &p, &batch, &golden_cfg, &stats, &n));
	for (int i = 0; i < N; i++)
		for (int64_t k = 0; k < t->length[i]; k++)
			entropy += want[i * WIDTH + k];
	within("mean entropy", fabs(stats.entropy - entropy / (double)t->n_tokens), 1e-5);
	nla_strs_release(&p.names);
}

/* The KL term pulls: with no advantage at all the gradient is beta times its own, and a step lowers the divergence. */
static void test_kl(void **state)
{
	struct tiny *t = *state;
	struct params p;
	struct nla_update_stats stats, after;
	double advantage[N];
	struct nla_step batch = golden_step(t, advantage);
	struct nla_update_cfg none = golden_cfg, twice = golden_cfg;
	size_t n;
	params_of(&p, &t->rl);
	none.kl = 0;
	float *with = gradient(t, &p, &batch, &golden_cfg, &stats, &n), *without = gradient(t, &p, &batch, &none, &stats, &n);
	assert_true(relative(with, without, n) > 1e-3);
	memset(advantage, 0, sizeof(advantage));
	batch.old = NULL;
	twice.kl = 0.02;
	float *one = gradient(t, &p, &batch, &golden_cfg, &stats, &n), *two = gradient(t, &p, &batch, &twice, &stats, &n);
	float *nothing = gradient(t, &p, &batch, &none, &stats, &n);
	for (size_t i = 0; i < n; i++) {
		assert_true(nothing[i] == 0);
		one[i] *= 2;
	}
	within("gradient at twice beta, relative", relative(one, two, n), 1e-4);
	struct nla_optim optim;
	assert_ok(nla_optim_init(&optim, p.list, p.n, &err));
	twice.lr = 1e-3;
	struct nla_rl rl = golden_rl(t, &twice, &optim);
	assert_ok(nla_update(&rl, &batch, &err));
	stats = batch.update;
	free(gradient(t, &p, &batch, &twice, &after, &n));
	assert_true(after.kl < stats.kl - 1e-3);
	nla_optim_release(&optim);
	float *all[] = { with, without, one, two, nothing };
	for (size_t i = 0; i < NLA_LEN(all); i++)
		free(all[i]);
	nla_strs_release(&p.names);
}

/* At beta 0 the reference does not run: there need not be one. The gradient is that of a KL without weight. */
static void test_no_reference(void **state)
{
	struct tiny *t = *state;
	struct params p;
	struct nla_update_stats stats;
	double advantage[N];
	struct nla_step batch = golden_step(t, advantage);
	struct nla_update_cfg none = golden_cfg, hardly = golden_cfg;
	size_t n;
	params_of(&p, &t->rl);
	none.kl = 0;
	hardly.kl = 1e-12;
	float *want = gradient(t, &p, &batch, &hardly, &stats, &n);
	assert_true(isfinite(stats.kl) && isfinite(stats.kl_clamped));
	memset(&t->reference, 0, sizeof(t->reference));
	float *g = gradient(t, &p, &batch, &none, &stats, &n);
	within("gradient, relative, beta 1e-12 or 0", relative(g, want, n), 1e-6);
	assert_true(isnan(stats.kl) && isnan(stats.kl_clamped));
	assert_true(isnan(nla_k3((double)NAN)) && nla_k3(13) == nla_k3(12));
	free(g);
	free(want);
	nla_strs_release(&p.names);
}

/* A policy far from its reference: the share of tokens at the clamp, counted from the log-probabilities themselves. */
static void test_clamped(void **state)
{
	struct tiny *t = *state;
	struct params p;
	double advantage[N], clamped = 0;
	struct nla_step batch = golden_step(t, advantage);
	struct nla_rl rl = golden_rl(t, &golden_cfg, NULL);
	size_t n;
	params_of(&p, &t->rl);
	rl.rollout.temperature = 0.05; /* log-probabilities are far apart */
	assert_ok(nla_update_gradient(&rl, &batch, &err));
	free(take_gradients(&p, &n));
	float *logp = logprob_of(&t->av, &t->policy, &t->responses, 0.05), *ref = logprob_of(&t->av, &t->reference, &t->responses, 0.05);
	for (int64_t i = 0; i < t->n_tokens; i++)
		clamped += ref[i] - logp[i] >= 12;
	assert_true(clamped > 0 && clamped < (double)t->n_tokens);
	assert_close(batch.update.kl_clamped, clamped / (double)t->n_tokens, 1e-12);
	free(logp);
	free(ref);
	nla_strs_release(&p.names);
}

/* A failed row is one of the samples drawn: it is trained on, and every mean divides by all of them. */
static void test_every_sample_counts(void **state)
{
	struct tiny *t = *state;
	struct params p;
	struct nla_update_stats stats;
	double advantage[N];
	struct nla_step batch = golden_step(t, advantage), half = batch;
	struct nla_update_cfg cfg = golden_cfg;
	size_t n;
	params_of(&p, &t->rl);
	cfg.kl = 0;
	for (int i = N / 2; i < N; i++)
		advantage[i] = 0;
	half.n = half.n_all = N / 2;
	enum nla_failure failed[N]; /* count as well; `half` has none */
	for (int i = 0; i < N; i++)
		failed[i] = i % 2 ? NLA_ROW_TRUNCATED : NLA_ROW_NO_TAGS;
	batch.failed = failed;
	float *all = gradient(t, &p, &batch, &cfg, &stats, &n), *first = gradient(t, &p, &half, &cfg, &stats, &n);
	for (size_t i = 0; i < n; i++)
		first[i] /= 2;
	within("half the samples at rest, relative", relative(all, first, n), 1e-5);
	free(all);
	free(first);
	nla_strs_release(&p.names);
}

/* Nothing behind a row's own length enters: other ids and old values there leave every number as it is. */
static void test_padding(void **state)
{
	struct tiny *t = *state;
	struct params p;
	struct nla_update_stats stats, other;
	double advantage[N];
	struct nla_step batch = golden_step(t, advantage);
	float old[N * WIDTH];
	size_t n;
	params_of(&p, &t->rl);
	float *want = gradient(t, &p, &batch, &golden_cfg, &stats, &n);
	memcpy(old, batch.old, sizeof(old));
	for (int i = 0; i < N; i++)
		for (int64_t k = t->length[i]; k < WIDTH; k++) {
			t->ids[i * WIDTH + k] = t->target.chat.end_of_turn;
			old[i * WIDTH + k] = -3;
		}
	batch.old = old;
	float *g = gradient(t, &p, &batch, &golden_cfg, &other, &n);
	assert_memory_equal(g, want, n * sizeof(*g));
	assert_true(stats.loss == other.loss && stats.kl == other.kl && stats.entropy == other.entropy);
	free(g);
	free(want);
	nla_strs_release(&p.names);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TINY_TEST(test_gradient),
		TINY_TEST(test_gradient_threads),
		TINY_TEST(test_gradient_plain),
		TINY_TEST(test_again),
		TINY_TEST(test_out_of_memory),
		TINY_TEST(test_only_the_policy),
		TINY_TEST(test_recompute),
		TINY_TEST(test_recompute_plain),
		TINY_TEST(test_recompute_embedding),
		TINY_TEST(test_recompute_weights),
		TINY_TEST(test_micro_batches),
		TINY_TEST(test_ratio_one),
		TINY_TEST(test_statistics),
		TINY_TEST(test_kl),
		TINY_TEST(test_no_reference),
		TINY_TEST(test_clamped),
		TINY_TEST(test_every_sample_counts),
		TINY_TEST(test_padding),
	};
	return run_tiny(tests);
}
