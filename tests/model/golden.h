/*
 * golden - the tiny target with its adapters, and the numbers of transformers and PEFT on it (tests/golden/make_golden.py wrote
 * both). Every test opens a fresh one and closes it, which checks that no handle of the shim outlives a test.
 *
 *	static void test_x(void **state)
 *	{
 *		struct tiny *t = *state;
 *		double diff = worst(mine, golden_f32(t, "av.logp", n), n);
 *		within("log-probabilities", diff, 1e-4);            prints what was measured, fails above the limit
 *	}
 *	int main(void) { const struct CMUnitTest tests[] = { TINY_TEST(test_x) }; return run_tiny(tests); }
 */
#ifndef NLA_TEST_GOLDEN_H
#define NLA_TEST_GOLDEN_H

#include "device/device.h"
#include "unit/scratch.h"

#include "base/json.h"
#include "base/safetensors.h"
#include "lm/optim.h"
#include "nla/ar.h"
#include "nla/av.h"
#include "rl/step.h"

#define TINY TEST_DATA "/tiny"

static struct nla_err err;

/* The responses of golden.safetensors: N of at most WIDTH tokens, G for each of B vectors of D numbers. */
enum { D = 48, BLOCKS = 5, K = 2, VOCAB = 380, B = 3, G = 4, N = B * G, WIDTH = 20, M = 8 };

struct tiny {
	struct nla_st golden;
	struct nla_target target;
	struct nla_half av;
	struct nla_adapter rl;
	struct nla_half ar;
	struct nla_view policy, reference; /* base + av + rl, base + av */
	int32_t ids[N * WIDTH];
	int64_t length[N], prompt_of[N];
	struct nla_responses responses;
	int64_t n_tokens;
};

static inline const struct nla_st_entry *golden_entry(const struct tiny *t, const char *name, enum nla_st_dtype dtype, size_t n)
{
	const struct nla_st_entry *e = nla_st_find(&t->golden, name);
	if (!e || e->dtype != dtype || e->nbytes != n * nla_st_dtype_size(dtype) || (uintptr_t)e->data % nla_st_dtype_size(dtype))
		fail_msg("golden.safetensors has no aligned '%s' of %zu elements", name, n);
	return e;
}

static inline const float *golden_f32(const struct tiny *t, const char *name, size_t n)
{
	return golden_entry(t, name, NLA_ST_F32, n)->data;
}

static inline const int64_t *golden_i64(const struct tiny *t, const char *name, size_t n)
{
	return golden_entry(t, name, NLA_ST_I64, n)->data;
}

static inline double golden_scalar(const struct tiny *t, const char *name) { return golden_f32(t, name, 1)[0]; }

/* Largest |a - b|; infinite when anything is not a number, so that no comparison passes by it. */
static inline double worst(const float *a, const float *b, size_t n)
{
	double most = 0;
	for (size_t i = 0; i < n; i++) {
		double diff = fabs((double)a[i] - b[i]);
		most = isnan(diff) ? INFINITY : NLA_MAX(most, diff);
	}
	return most;
}

/* |a - b| / |b| as vectors. */
static inline double relative(const float *a, const float *b, size_t n)
{
	double diff = 0, size = 0;
	for (size_t i = 0; i < n; i++) {
		diff += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
		size += (double)b[i] * b[i];
	}
	return isnan(diff) || size == 0 ? INFINITY : sqrt(diff / size);
}

/* One line for whoever quotes it; NaN fails. */
static inline void within(const char *what, double diff, double limit)
{
	print_message("    %-58s %.2e (limit %.0e)\n", what, diff, limit);
	if (!(diff <= limit))
		fail_msg("%s: off by %g, at most %g allowed", what, diff, limit);
}

/* Values of a tensor, to be freed by the caller; fails the test on the shim's error. */
static inline float *host(const nt_tensor *tensor, size_t n)
{
	float *x = nla_alloc(n, sizeof(*x));
	if (nt_check() || !tensor || nt_to_host_f32(tensor, x, n))
		fail_msg("the shim failed: %s", nt_error());
	return x;
}

/* Packed values, sample by sample, against a golden array [N, WIDTH]. */
static inline double worst_packed(const struct tiny *t, const float *packed, const float *golden)
{
	double most = 0;
	for (int64_t i = 0, k = 0; i < N; k += t->length[i++])
		most = NLA_MAX(most, worst(packed + k, golden + i * WIDTH, (size_t)t->length[i]));
	return most;
}

/* Log-probabilities of responses under a view, to be freed by the caller. */
static inline float *logprob_of(const struct nla_half *av, const struct nla_view *view, const struct nla_responses *r,
				double temperature)
{
	size_t n = 0;
	for (int64_t i = 0; i < r->n; i++)
		n += (size_t)r->length[i];
	nt_scope_push();
	nt_tensor *logprob = nla_av_logprob(av, view, r, temperature, NULL, NULL, &err);
	if (!logprob)
		fail_msg("%s", err.text);
	float *x = host(logprob, n);
	nt_scope_pop();
	return x;
}

#define MAX_PARAMS 64

/* The trained parameters by their names in the adapter's file. */
struct params {
	nt_tensor *list[MAX_PARAMS];
	struct nla_strs names;
	int n;
};

static inline void params_of(struct params *p, struct nla_adapter *a)
{
	struct nla_tensors all = { 0 };
	nla_adapter_list(a, &all);
	*p = (struct params){ .n = (int)all.names.n, .names = all.names };
	assert_true(p->n < MAX_PARAMS);
	memcpy(p->list, all.list, all.names.n * sizeof(*all.list));
	free(all.list);
	assert_ok(nla_adapter_train(a, true, &err));
}

/* Largest relative error of a parameter's values against the golden ones under PREFIX.NAME. */
static inline double worst_param(const struct tiny *t, const struct params *p, const char *prefix, const float *all)
{
	double most = 0;
	size_t at = 0;
	for (int i = 0; i < p->n; i++) {
		size_t size = (size_t)nt_numel(p->list[i]);
		char *name = nla_format("%s.%s", prefix, p->names.data[i]);
		most = fmax(most, relative(all + at, golden_f32(t, name, size), size));
		at += size;
		free(name);
	}
	return most;
}

/* Everything that a step could change, one behind the other. */
static inline float *snapshot(const struct nla_optim *o, size_t *n)
{
	float *all = NULL;
	*n = 0;
	for (int i = 0; i < 3 * o->n; i++) {
		const nt_tensor *tensor = o->state[i];
		size_t size = (size_t)nt_numel(tensor);
		all = nla_realloc(all, *n + size, sizeof(*all));
		assert_int_equal(nt_to_host_f32(tensor, all + *n, size), NT_OK);
		*n += size;
	}
	return all;
}

/* The golden AR prompts. */
static inline struct nla_ar_texts golden_texts(const struct tiny *t)
{
	struct nla_ar_texts texts;
	const int64_t *offset = golden_i64(t, "ar.offsets", M + 1), *ids = golden_i64(t, "ar.ids", (size_t)offset[M]);
	nla_ar_texts_start(&texts);
	for (int64_t i = 0; i < offset[M]; i++)
		nla_i32s_push(&texts.ids, (int32_t)ids[i]);
	nla_i64s_append(&texts.offset, offset + 1, M);
	return texts;
}

static inline void tiny_read_responses(struct tiny *t)
{
	const int64_t *ids = golden_i64(t, "av.responses", N * WIDTH);
	memcpy(t->length, golden_i64(t, "av.lengths", N), sizeof(t->length));
	for (int i = 0; i < N * WIDTH; i++)
		t->ids[i] = (int32_t)ids[i];
	for (int i = 0; i < N; i++) {
		t->prompt_of[i] = i / G;
		t->n_tokens += t->length[i];
	}
	t->responses = (struct nla_responses){ .v = golden_f32(t, "av.vectors", B * D), .n_prompts = B, .ids = t->ids, .n = N,
					       .width = WIDTH, .length = t->length, .prompt_of = t->prompt_of };
}

static inline int tiny_open(void **state)
{
	struct tiny *t = nla_alloc(1, sizeof(*t));
	const struct nla_arch *arch = &t->target.lm.arch;
	assert_int_equal(nt_live(), 0);
	nt_set_threads(1); /* so small a model only waits for its threads, long when the machine is busy */
	assert_ok(nla_st_open(&t->golden, TINY "/golden.safetensors", &err));
	assert_ok(nla_target_open(&t->target, TINY "/model", NULL, DEVICE, NT_F32, -1, &err));
	assert_ok(nla_half_open(&t->av, NLA_AV, &t->target, TINY "/av", NULL, &err));
	assert_ok(nla_half_open(&t->ar, NLA_AR, &t->target, TINY "/ar", NULL, &err));
	assert_ok(nla_adapter_load(&t->rl, arch, arch->n_layers, TINY "/rl", DEVICE, &err));
	t->reference = nla_half_view(&t->av);
	t->policy = t->reference;
	t->policy.adapters[t->policy.n_adapters++] = &t->rl;
	tiny_read_responses(t);
	*state = t;
	return 0;
}

static inline int tiny_close(void **state)
{
	struct tiny *t = *state;
	nt_plain(false);
	nla_adapter_release(&t->rl);
	nla_half_release(&t->ar);
	nla_half_release(&t->av);
	nla_target_close(&t->target);
	nla_st_close(&t->golden);
	free(t);
	assert_int_equal(nt_live(), 0);
	assert_string_equal(nt_error(), "");
	return 0;
}

#define TINY_TEST(f) cmocka_unit_test_setup_teardown(f, tiny_open, tiny_close)
#define run_tiny(tests) (cmocka_set_test_filter(getenv("TEST_FILTER")), cmocka_run_group_tests(tests, scratch_setup, scratch_teardown))

/* ---- one update ---- */

static const struct nla_update_cfg golden_cfg = { .lr = 1e-2, .clip = 0.2, .kl = 0.01, .grad_clip = 1 };

/* What the stages hold of the tiny model; everything in it is borrowed. */
static inline struct nla_rl golden_rl(struct tiny *t, const struct nla_update_cfg *cfg, struct nla_optim *optim)
{
	return (struct nla_rl){ .rollout = { .temperature = 1 }, .reward = { .fail_mse = 2 }, .update = *cfg, .av = &t->av, .ar = &t->ar,
				.policy = t->policy, .reference = t->reference, .sampler = t->policy, .ar_view = nla_half_view(&t->ar),
				.optim = optim };
}

/* The golden rollout, borrowed: never released. advantage [N] has to outlive it. */
static inline struct nla_step golden_step(struct tiny *t, double *advantage)
{
	const float *a = golden_f32(t, "grpo.advantage", N);
	for (int i = 0; i < N; i++)
		advantage[i] = a[i];
	return (struct nla_step){ .n_prompts = B, .group = G, .n = N, .n_all = N, .v = (float *)t->responses.v,
				  .tokens = { .n = N, .width = WIDTH, .ids = t->ids, .length = t->length }, .advantage = advantage,
				  .old = golden_f32(t, "grpo.old", N * WIDTH) };
}

#endif
