/*
 * The memory plan against the bytes that tensors take, on the demo's model: the update kept and recomputed, the rollout, with the
 * CPU's operations over weights in fp32 and bf16 and libtorch's in fp32; on a device with libtorch's, all that it has; and the same of a
 * Gemma 3 of its sizes. And what it says of Qwen3-8B on a card of 24 GB.
 */
#include "device/device.h"
#include "unit/scratch.h"

#include <math.h>

#include "base/rng.h"
#include "rl/step.h"
#include "run/plan.h"

#define DEMO SOURCE_DIR "/demo"
#define TOLERANCE 0.15 /* of what was measured, either way */
enum { PROMPTS = 4, GROUP = 4, N = PROMPTS * GROUP, NEW = 40 };

static struct nla_err err;
static const char *model = DEMO "/model"; /* with its weights, or random ones */
static int64_t random_seed = -1;

struct demo {
	struct nla_target target;
	struct nla_half av;
	struct nla_adapter trained;
	struct nla_view policy, reference;
	float *v;
	struct nla_plan_in in;
};

static void open_demo(struct demo *d, nt_dtype dtype)
{
	struct nla_lora_spec spec = { .rank = 16, .alpha = 32, .rslora = true, .targets = 15 }; /* q, k, v, o */
	struct nla_rng rng = { 1, NLA_STREAM_INIT };
	memset(d, 0, sizeof(*d));
	nt_peak_reset(DEVICE); /* from the first tensor on */
	assert_ok(nla_target_open(&d->target, model, NULL, DEVICE, dtype, random_seed, &err));
	assert_ok(nla_half_open(&d->av, NLA_AV, &d->target, DEMO "/av", NULL, &err));
	const struct nla_arch *a = &d->target.lm.arch;
	assert_ok(nla_adapter_init(&d->trained, a, a->n_layers, &spec, (struct nla_rng){ 1, NLA_STREAM_INIT }, DEVICE, &err));
	assert_ok(nla_adapter_train(&d->trained, true, &err));
	d->reference = d->policy = nla_half_view(&d->av);
	d->policy.adapters[d->policy.n_adapters++] = &d->trained;
	d->v = nla_alloc((size_t)(PROMPTS * a->d_model), sizeof(*d->v));
	for (int64_t i = 0; i < PROMPTS * a->d_model; i++)
		d->v[i] = nla_normal(&rng, 9, 0, (uint32_t)i);
	d->in = (struct nla_plan_in){ .arch = a, .dtype = dtype, .gpu = DEVICE != NT_CPU, .weights = nla_plan_weights(a, dtype), .av = &d->av.adapter,
				      .trained = &d->trained, .prompt = (int64_t)d->av.prompt.n, .prompt_head = d->av.marker, .prompts = PROMPTS,
				      .group = GROUP, .new_tokens = NEW, .ar_prompt = 100, .rollout = true };
}

static void close_demo(struct demo *d)
{
	struct nla_tensors all = { 0 };
	nla_adapter_list(&d->trained, &all);
	for (size_t i = 0; i < all.names.n; i++)
		nt_zero_grad(all.list[i]);
	nla_tensors_release(&all);
	free(d->v);
	nla_adapter_release(&d->trained);
	nla_half_release(&d->av);
	nla_target_close(&d->target);
	nt_plain(false);
	assert_int_equal(nt_live(), 0);
}

/* Prints both, and fails beyond the tolerance. */
static void compare(const char *what, int64_t planned, int64_t measured)
{
	double off = (double)planned / (double)measured - 1;
	printf("%-60s planned %8.2f MB, measured %8.2f MB (%+.1f %%)\n", what, (double)planned / 1e6, (double)measured / 1e6, 100 * off);
	assert_true(fabs(off) <= TOLERANCE);
}

static int64_t measured_update(struct demo *d, int64_t micro, bool recompute)
{
	int32_t *ids = nla_alloc(N * NEW, sizeof(*ids));
	int64_t length[N];
	double advantage[N];
	for (int i = 0; i < N; i++) {
		length[i] = NEW;
		advantage[i] = i % 2 ? 1 : -1;
	}
	for (int i = 0; i < N * NEW; i++)
		ids[i] = i * 7 % 1000;
	struct nla_step step = { .n_prompts = PROMPTS, .group = GROUP, .n = N, .v = d->v, .advantage = advantage,
				 .tokens = { .n = N, .width = NEW, .ids = ids, .length = length } };
	struct nla_rl rl = { .rollout = { .temperature = 1 }, .update = { .clip = 0.2, .kl = 0.01, .micro_batch = micro, .recompute = recompute },
			     .av = &d->av, .policy = d->policy, .reference = d->reference };
	int64_t before = 0;
	for (int i = 0; i < 2; i++) { /* the first makes the gradients' own memory, which belongs to the optimizer */
		nt_peak_reset(DEVICE);
		before = nt_peak(DEVICE);
		assert_ok(nla_update_gradient(&rl, &step, &err));
	}
	free(ids);
	return nt_peak(DEVICE) - before;
}

static struct nla_rl rollout_rl(struct demo *d, int64_t max_new_tokens, int64_t min_new_tokens)
{
	return (struct nla_rl){ .rollout = { .max_new_tokens = max_new_tokens, .min_new_tokens = min_new_tokens, .temperature = 1 },
				.av = &d->av, .policy = d->policy, .sampler = d->policy, .rng = { 3, NLA_STREAM_SAMPLE } };
}

/* The demo's prompts, to be continued. */
static void start(struct nla_step *step, struct demo *d)
{
	const int64_t width = d->av.target->lm.arch.d_model;
	nla_step_start(step, PROMPTS, GROUP, width);
	memcpy(step->v, d->v, (size_t)(PROMPTS * width) * sizeof(float));
}

static int64_t measured_rollout(struct demo *d)
{
	struct nla_rl rl = rollout_rl(d, NEW, NEW);
	struct nla_step step;
	start(&step, d);
	nt_peak_reset(DEVICE);
	int64_t before = nt_peak(DEVICE);
	assert_ok(nla_rollout(&rl, &step, &err));
	nla_step_release(&step);
	return nt_peak(DEVICE) - before;
}

static void check_all(const char *what, nt_dtype dtype, bool plain)
{
	static const int64_t micros[] = { N, GROUP };
	struct demo d;
	char line[100];
	open_demo(&d, dtype);
	nt_plain(plain);
	d.in.plain = plain || (DEVICE != NT_CPU && *nt_kernels_off());
	for (size_t i = 0; i < NLA_LEN(micros); i++)
		for (int again = 0; again < 2; again++) {
			snprintf(line, sizeof(line), "%s: update, %d responses, blocks %s", what, (int)micros[i], again ? "recomputed" : "kept");
			compare(line, nla_plan_update(&d.in, micros[i], again, DEVICE == NT_CPU ? NT_CHUNK_CPU : NT_CHUNK_GPU, NULL),
				measured_update(&d, micros[i], again));
		}
	snprintf(line, sizeof(line), "%s: rollout of %d rows", what, N);
	compare(line, nla_plan_cache(&d.in, N) + nla_plan_decoding(&d.in, N), measured_rollout(&d));
	close_demo(&d);
}

static void test_fast(void **state)
{
	(void)state;
	check_all("fp32", NT_F32, false);
}

static void test_plain(void **state)
{
	(void)state;
	if (DEVICE != NT_CPU)
		skip(); /* what test_fast has measured there */
	check_all("fp32, libtorch's operations", NT_F32, true);
}

static void test_bf16(void **state)
{
	(void)state;
	/* In bf16 the simulated GPU takes up to 58 % more than planned; likely as libtorch has no fused attention for it, not looked into.
	 * tests/cuda/test_memory.sh holds the plan in bf16 to CUDA's own allocator. */
	if (DEVICE != NT_CPU)
		skip();
	check_all("bf16", NT_BF16, false);
}

/* The same sizes with a window in most blocks, four norms a block and another gate. */
static void test_gemma(void **state)
{
	static const char config[] = "{\"model_type\": \"gemma3_text\", \"vocab_size\": 1536, \"hidden_size\": 128, \"intermediate_size\": 384, "
		"\"num_hidden_layers\": 6, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 32, \"sliding_window\": 16, "
		"\"max_position_embeddings\": 512, \"sliding_window_pattern\": 3}";
	(void)state;
	assert_ok(nla_copy_beside(model, scratch, "config.json", &err));
	assert_ok(nla_file_write(in_scratch("config.json"), config, strlen(config), false, &err));
	model = scratch;
	random_seed = 1;
	check_all("Gemma 3 in fp32", NT_F32, false);
	if (DEVICE == NT_CPU)
		check_all("Gemma 3 in fp32, libtorch's operations", NT_F32, true);
	model = DEMO "/model";
	random_seed = -1;
}

static int64_t held(void)
{
	nt_peak_reset(DEVICE);
	return nt_peak(DEVICE);
}

/* The bytes of a copy with the adapters merged in. */
static int64_t measured_copy(const struct nla_view *view, int64_t depth, struct nla_lm *copy)
{
	int64_t before = held();
	assert_ok(nla_merge_copy(copy, view, depth, &err));
	return held() - before;
}

/* Copies hold the blocks that are read and the matrices that an adapter touches: qkv for q alone. */
static void test_copies(void **state)
{
	struct demo d;
	struct nla_half ar;
	struct nla_lm rollout, anchor, reader;
	struct nla_plan p;
	struct nla_lora_spec q = { .rank = 4, .alpha = 4, .targets = 1u << NLA_Q };
	struct nla_adapter alone;
	(void)state;
	open_demo(&d, NT_F32);
	assert_ok(nla_half_open(&ar, NLA_AR, &d.target, DEMO "/ar", NULL, &err));
	const struct nla_arch *a = d.in.arch;
	struct nla_view policy = { .lm = &anchor, .adapters = { &d.trained }, .n_adapters = 1 }, reads = nla_half_view(&ar);
	d.in.ar = &ar.adapter;
	d.in.ar_depth = ar.depth;
	d.in.copies = NLA_PLAN_ALL_COPIES;
	nla_plan_make(&d.in, (int64_t)8 << 30, &p);
	assert_int_equal(p.copies, NLA_PLAN_ALL_COPIES);
	int64_t bytes = measured_copy(&d.reference, a->n_layers, &anchor);
	bytes += measured_copy(&policy, a->n_layers, &rollout) + measured_copy(&reads, ar.depth, &reader);
	compare("fp32: copies with adapters merged in", p.merged, bytes);
	nla_lm_release(&rollout);
	assert_ok(nla_adapter_init(&alone, a, a->n_layers, &q, (struct nla_rng){ 1, NLA_STREAM_INIT }, DEVICE, &err));
	policy.adapters[0] = d.in.trained = &alone;
	d.in.av = d.in.ar = NULL;
	d.in.copies = 1;
	nla_plan_make(&d.in, (int64_t)8 << 30, &p);
	assert_int_equal(p.merged, (a->n_heads + 2 * a->n_kv_heads) * a->head_dim * a->d_model * a->n_layers * 4);
	compare("fp32: a copy with q merged in", p.merged, measured_copy(&policy, a->n_layers, &rollout));
	nla_lm_release(&rollout);
	nla_lm_release(&anchor);
	nla_lm_release(&reader);
	nla_adapter_release(&alone);
	nla_half_release(&ar);
	close_demo(&d);
}

/* Texts do not depend on how many rows decode at once. */
static void test_rows(void **state)
{
	(void)state;
	struct demo d;
	struct nla_step all, some;
	static const int64_t rows[] = { 1, 3, 5, 12 };
	open_demo(&d, NT_F32);
	struct nla_rl rl = rollout_rl(&d, 40, 0);
	start(&all, &d);
	assert_ok(nla_rollout(&rl, &all, &err));
	for (size_t k = 0; k < NLA_LEN(rows); k++) {
		rl.rollout.rows = rows[k];
		start(&some, &d);
		assert_ok(nla_rollout(&rl, &some, &err));
		assert_memory_equal(some.tokens.ids, all.tokens.ids, (size_t)(N * 40) * sizeof(*all.tokens.ids));
		assert_memory_equal(some.tokens.length, all.tokens.length, N * sizeof(*all.tokens.length));
		for (int i = 0; i < N; i++)
			assert_string_equal(some.response[i], all.response[i]);
		nla_step_release(&some);
	}
	nla_step_release(&all);
	close_demo(&d);
}

/* ---- Qwen3-8B ---- */

static const struct nla_arch qwen3_8b = { .family = "qwen3", .n_layers = 36, .d_model = 4096, .n_heads = 32, .n_kv_heads = 8, .head_dim = 128,
					  .d_ff = 12288, .vocab = 151936, .max_position = 40960, .with = "qk_norm" };

static void describe(struct nla_adapter *a, int64_t n_layers, int64_t rank, unsigned targets)
{
	*a = (struct nla_adapter){ .n_layers = n_layers, .rslora = true };
	for (int p = 0; p < NLA_N_PROJ; p++)
		a->rank[p] = targets & 1u << p ? rank : 0;
}

static void say(const char *what, const struct nla_plan_in *in, const struct nla_plan *p)
{
	char *words = nla_plan_words(in, p);
	printf("Qwen3-8B, %s: %s\n", what, words);
	free(words);
}

static void test_qwen3_8b(void **state)
{
	(void)state;
	struct nla_adapter av, ar, trained;
	struct nla_plan p;
	describe(&av, 36, 64, 127);
	describe(&ar, 25, 64, 127);
	describe(&trained, 36, 16, 15);
	struct nla_plan_in in = {
		.arch = &qwen3_8b, .dtype = NT_BF16, .gpu = true, .weights = nla_plan_weights(&qwen3_8b, NT_BF16), .av = &av, .ar = &ar,
		.trained = &trained, .ar_depth = 25, .prompt = 60, .prompt_head = 50, .ar_prompt = 200, .prompts = 8, .group = 4,
		.new_tokens = 160, .eval_rows = 128, .copies = NLA_PLAN_ALL_COPIES, .rollout = true,
	};
	assert_int_equal(nla_arch_n_params(&qwen3_8b) * 2, 16381470720); /* total_size of the published index */
	nla_plan_make(&in, 24000000000, &p);
	say("8 x 4", &in, &p);
	assert_true(p.fits && p.copies == 0 && p.micro_batch >= 8 && p.rows >= 32);
	in.prompts = in.group = 16;
	nla_plan_make(&in, 24000000000, &p);
	say("16 x 16", &in, &p);
	assert_true(p.fits && p.micro_batch >= 8 && p.rows >= 32 && p.rows < 256);
	nla_plan_make(&in, 80000000000, &p); /* on 80 GB more at once, and the warm starts merged: what is trained never is in bf16 */
	say("16 x 16 on 80 GB", &in, &p);
	assert_true(p.fits && p.copies == NLA_PLAN_ANCHOR && p.rows == 256);
	assert_int_equal(p.merged, (36 + 25) * 2 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * (int64_t)12288 * 4096));
	in.copies = 0; /* what a run had without is kept without */
	nla_plan_make(&in, 80000000000, &p);
	assert_true(p.fits && p.copies == 0);
	in.copies = NLA_PLAN_ALL_COPIES;
	nla_plan_make(&in, (int64_t)16 << 30, &p); /* the weights alone do not leave room */
	assert_false(p.fits);
	in.micro_batch = 4; /* what is asked for is kept */
	in.recompute = NLA_RECOMPUTE_FALSE;
	nla_plan_make(&in, (int64_t)80 << 30, &p);
	assert_true(p.fits && p.micro_batch == 4 && !p.recompute);
	const int64_t kept = p.update;
	/* As the self-check does: libtorch's pads 6 rows, queries and keys of all 32 heads, in each of 36 blocks. */
	nt_fast_off(NT_FAST_ATTENTION);
	assert_true(nt_fast_is_off(NT_FAST_ATTENTION) && !nt_fast_is_off(NT_FAST_NORM));
	nla_plan_make(&in, (int64_t)80 << 30, &p);
	say("4 responses, padded", &in, &p);
	assert_true(p.update > kept + 36 * (6 * 4096 * 2 * 2 * (160 + 160) - (1 << 20)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fast), cmocka_unit_test(test_plain), cmocka_unit_test(test_bf16), cmocka_unit_test(test_gemma),
		cmocka_unit_test(test_rows), cmocka_unit_test(test_copies), cmocka_unit_test(test_qwen3_8b),
	};
	nt_set_threads(1);
	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
