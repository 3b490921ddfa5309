/*
 * The AR against transformers and PEFT: prompts, the residual it reads, its prediction and score, one by one and batched; rows
 * that cannot be scored; the fractions of variance explained.
 */
#include "model/golden.h"

#include "nla/actset.h"

/* golden.json, and in it the first of the golden explanations. */
static cJSON *golden_json(const cJSON **first)
{
	cJSON *json = NULL;
	assert_ok(nla_json_read(TINY "/golden.json", &json, &err));
	*first = cJSON_GetObjectItem(cJSON_GetObjectItem(json, "scalars"), "ar.texts")->child;
	return json;
}

/* ---- prompts ---- */

static void test_encode(void **state)
{
	struct tiny *t = *state;
	const cJSON *text;
	cJSON *json = golden_json(&text);
	const int64_t *offset = golden_i64(t, "ar.offsets", M + 1), *want = golden_i64(t, "ar.ids", (size_t)offset[M]);
	struct nla_i32s ids = { 0 };
	enum nla_ar_fit fit = NLA_AR_MERGES;
	for (int i = 0; i < M; i++, text = text->next) {
		size_t before = ids.n;
		assert_ok(nla_ar_encode(&t->ar, text->valuestring, strlen(text->valuestring), &ids, &fit, &err));
		assert_int_equal(fit, NLA_AR_FITS);
		assert_int_equal(before, offset[i]);
		assert_int_equal(ids.n, offset[i + 1]);
	}
	for (size_t i = 0; i < ids.n; i++)
		assert_int_equal(ids.data[i], want[i]);
	nla_i32s_release(&ids);
	cJSON_Delete(json);
}

static char *digits(size_t n) /* one token each */
{
	char *s = nla_alloc(n + 1, 1);
	memset(s, '7', n);
	return s;
}

/* As many ids as the model has positions pass, one more is too long: told, not cut. White space around a text is none of it. */
static void test_too_long(void **state)
{
	struct tiny *t = *state;
	struct nla_i32s ids = { 0 };
	enum nla_ar_fit fit;
	char *one = digits(1);
	assert_ok(nla_ar_encode(&t->ar, one, 1, &ids, &fit, &err));
	size_t around = ids.n - 1;
	size_t limit = (size_t)nla_ar_max_ids(&t->ar);
	assert_int_equal(limit, 512);
	char *most = digits(limit - around), *more = digits(limit - around + 1), *spaced = nla_format(" \n%s\t\xc2\xa0", most);
	ids.n = 0;
	assert_ok(nla_ar_encode(&t->ar, most, strlen(most), &ids, &fit, &err));
	assert_int_equal(ids.n, limit);
	assert_int_equal(fit, NLA_AR_FITS);
	ids.n = 0;
	assert_ok(nla_ar_encode(&t->ar, spaced, strlen(spaced), &ids, &fit, &err));
	assert_int_equal(ids.n, limit);
	ids.n = 0;
	assert_ok(nla_ar_encode(&t->ar, more, strlen(more), &ids, &fit, &err));
	assert_int_equal(ids.n, limit + 1);
	assert_int_equal(fit, NLA_AR_TOO_LONG);
	nla_i32s_release(&ids);
	free(one);
	free(most);
	free(more);
	free(spaced);
}

/* The closing ids are checked against the live tokenizer at load, and at every prompt. */
static void test_suffix(void **state)
{
	struct tiny *t = *state;
	struct nla_sidecar meta;
	struct nla_half ar;
	struct nla_i32s ids = { 0 };
	enum nla_ar_fit fit;
	nla_sidecar_init(&meta);
	nla_sidecar_copy(&meta, &t->ar.meta);
	meta.suffix.data[meta.suffix.n - 1] = 26;
	assert_fails(nla_half_new(&ar, NLA_AR, &t->target, &meta, &err), "ends in ids 336 296 25, critic_suffix_ids says 336 296 26");
	nla_sidecar_copy(&meta, &t->ar.meta);
	meta.critic_layer = BLOCKS; /* the critic's own word alone, as kitft's sidecars have it */
	meta.layer = -1;
	assert_fails(nla_half_new(&ar, NLA_AR, &t->target, &meta, &err), "critic.extraction_layer_index is 5, the model has blocks 0 to 4");
	nla_sidecar_release(&meta);
	t->ar.meta.suffix.data[0]++;
	/* a text that merges with the template's end is a failed row, not the end of the run */
	assert_ok(nla_ar_encode(&t->ar, "fox", 3, &ids, &fit, &err));
	assert_int_equal(fit, NLA_AR_MERGES);
	nla_i32s_release(&ids);
	assert_fails(nla_half_open(&ar, NLA_AR, &t->target, TINY "/av", NULL, &err), "role is 'av', want an AR");
}

/* ---- predictions ---- */

static void check_predictions(struct tiny *t, const char *what)
{
	struct nla_ar_texts texts = golden_texts(t);
	struct nla_view view = nla_half_view(&t->ar);
	int64_t shape[2] = { M, D };
	char line[80];
	nt_scope_push();
	nt_tensor *hat_t = nla_ar_predict(&t->ar, &view, &texts, 0, M, NULL, &err);
	nt_tensor *v = nt_from_host(NT_F32, DEVICE, golden_f32(t, "ar.targets", M * D), 2, shape);
	float *hat = host(hat_t, M * D), *mse = host(nla_ar_mse(hat_t, v), M);
	snprintf(line, sizeof(line), "v_hat, %s", what);
	within(line, worst(hat, golden_f32(t, "ar.v_hat", M * D), M * D), 2e-5);
	snprintf(line, sizeof(line), "mse, %s", what);
	within(line, worst(mse, golden_f32(t, "ar.mse", M), M), 1e-5);
	nt_scope_pop();
	nla_ar_texts_release(&texts);
	free(hat);
	free(mse);
}

static void test_predict(void **state)
{
	check_predictions(*state, "batched");
	nt_plain(true);
	check_predictions(*state, "batched, plain");
}

/* Scores do not depend on what is scored with them: one by one, a few at a time, all at once. */
static void test_batches(void **state)
{
	struct tiny *t = *state;
	struct nla_ar_texts texts = golden_texts(t);
	struct nla_view view = nla_half_view(&t->ar);
	static const int64_t max_tokens[] = { 1, 60, 100000 };
	static const char *const names[] = { "mse and v_hat, one by one", "mse and v_hat, 60 tokens at most",
					      "mse and v_hat, all at once" };
	for (size_t i = 0; i < NLA_LEN(max_tokens); i++) {
		float mse[M], hat[M * D];
		texts.max_tokens = max_tokens[i];
		assert_ok(nla_ar_score(&t->ar, &view, &texts, golden_f32(t, "ar.targets", M * D), mse, hat, &err));
		within(names[i], NLA_MAX(worst(mse, golden_f32(t, "ar.mse", M), M), worst(hat, golden_f32(t, "ar.v_hat", M * D), M * D)),
		       2e-5);
	}
	nla_ar_texts_release(&texts);
}

/* Saved and opened again: the same numbers, the head in fp32. A new one predicts with the identity on the bare target. */
static void test_save(void **state)
{
	struct tiny *t = *state;
	struct nla_ar_texts texts = golden_texts(t);
	struct nla_half again, fresh;
	float mse[M];
	assert_ok(nla_half_save(&t->ar, NULL, in_scratch("ar"), "rl", &err));
	assert_ok(nla_half_open(&again, NLA_AR, &t->target, in_scratch("ar"), NULL, &err));
	assert_int_equal(again.depth, K + 1);
	assert_int_equal(nt_dtype_of(again.head), NT_F32);
	struct nla_view view = nla_half_view(&again);
	assert_ok(nla_ar_score(&again, &view, &texts, golden_f32(t, "ar.targets", M * D), mse, NULL, &err));
	within("mse of the saved AR", worst(mse, golden_f32(t, "ar.mse", M), M), 1e-5);
	assert_ok(nla_half_new(&fresh, NLA_AR, &t->target, &t->ar.meta, &err));
	float *head = host(fresh.head, D * D);
	for (int i = 0; i < D * D; i++)
		assert_true(head[i] == (i % (D + 1) == 0));
	assert_null(fresh.adapter.layers);
	free(head);
	nla_half_release(&fresh);
	nla_half_release(&again);
	nla_ar_texts_release(&texts);
}

/* mse = 2 (1 - cos) whatever the lengths; a vector of zeros gives 1, not NaN. */
static void test_mse(void **state)
{
	const float hat[3 * 4] = { 1, -1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
	const float v[3 * 4] = { 30, -30, 30, 30, -1e-4f, -1e-4f, -1e-4f, -1e-4f, 0, 0, 0, 0 };
	int64_t shape[2] = { 3, 4 };
	(void)state;
	nt_scope_push();
	float *mse = host(nla_ar_mse(nt_from_host(NT_F32, DEVICE, hat, 2, shape), nt_from_host(NT_F32, DEVICE, v, 2, shape)), 3);
	assert_close(mse[0], 0, 1e-6);
	assert_close(mse[1], 4, 1e-6);
	assert_close(mse[2], 1, 1e-6);
	nt_scope_pop();
	free(mse);
}

/* ---- scores ---- */

static double cosine(const float *a, const float *b)
{
	double ab = 0, aa = 0, bb = 0;
	for (int i = 0; i < D; i++) {
		ab += (double)a[i] * b[i];
		aa += (double)a[i] * a[i];
		bb += (double)b[i] * b[i];
	}
	return ab / sqrt(aa * bb);
}

/*
 * Texts as a rollout gives them: failed ones keep their cause and score fail_mse, an over-long one and one without a finite
 * score become failures, and neither touches its neighbours.
 */
static void test_score(void **state)
{
	struct tiny *t = *state;
	const cJSON *text;
	cJSON *json = golden_json(&text);
	const float *golden_mse = golden_f32(t, "ar.mse", M), *hat = golden_f32(t, "ar.v_hat", M * D);
	struct nla_rl rl = golden_rl(t, &golden_cfg, NULL);
	struct nla_step s;
	char *much = digits(2000);
	nla_step_start(&s, M, 1, D);
	memcpy(s.v, golden_f32(t, "ar.targets", M * D), M * D * sizeof(*s.v));
	for (int i = 0; i < M; i++, text = text->next)
		s.explanation[i] = i == 1 ? NULL : nla_strdup(i == 4 ? much : text->valuestring);
	s.failed[1] = NLA_ROW_NO_TAGS;
	s.failed[3] = NLA_ROW_TRUNCATED; /* has a text all the same */
	s.v[6 * D + 5] = NAN;
	assert_ok(nla_score(&rl, &s, &err));
	static const enum nla_failure want[M] = { 0, NLA_ROW_NO_TAGS, 0, NLA_ROW_TRUNCATED, NLA_ROW_OVER_LONG, 0,
						  NLA_ROW_NON_FINITE, 0 };
	double most = 0;
	for (int i = 0; i < M; i++) {
		double mse = want[i] ? 2 : golden_mse[i];
		assert_int_equal(s.failed[i], want[i]);
		most = fmax(most, fabs(s.mse[i] - mse));
		assert_close(nla_cosine(s.mse[i]), want[i] ? 0 : cosine(hat + i * D, s.v + i * D), 2e-5);
		assert_close(nla_fve(s.mse[i], 0.75), 1 - mse / 0.75, 2e-5);
	}
	within("mse among failed rows", most, 1e-5);
	for (int i = 0; i < M; i++)
		s.failed[i] = NLA_ROW_EMPTY;
	assert_ok(nla_score(&rl, &s, &err));
	for (int i = 0; i < M; i++)
		assert_true(s.mse[i] == 2);
	t->ar.meta.suffix.data[0]++; /* no prompt ends in it: as if all merged with the template's end */
	for (int i = 0; i < M; i++)
		s.failed[i] = i == 1 ? NLA_ROW_NO_TAGS : NLA_ROW_OK;
	assert_ok(nla_score(&rl, &s, &err));
	for (int i = 0; i < M; i++)
		assert_int_equal(s.failed[i], i == 1 ? NLA_ROW_NO_TAGS : i == 4 ? NLA_ROW_OVER_LONG : NLA_ROW_MERGES);
	nla_step_release(&s);
	free(much);
	cJSON_Delete(json);
}

/* A group's rows are scored against their own prompt's vector. */
static void test_score_groups(void **state)
{
	struct tiny *t = *state;
	const cJSON *text;
	cJSON *json = golden_json(&text);
	struct nla_rl rl = golden_rl(t, &golden_cfg, NULL);
	struct nla_step s;
	const float *hat = golden_f32(t, "ar.v_hat", M * D);
	nla_step_start(&s, 2, 4, D);
	memcpy(s.v, t->responses.v, 2 * D * sizeof(*s.v));
	for (int i = 0; i < M; i++, text = text->next)
		s.explanation[i] = nla_strdup(text->valuestring);
	assert_ok(nla_score(&rl, &s, &err));
	for (int i = 0; i < M; i++)
		assert_close(nla_cosine(s.mse[i]), cosine(hat + i * D, s.v + i / 4 * D), 2e-5);
	nla_step_release(&s);
	cJSON_Delete(json);
}

/* Equal texts of one vector have one score, in bf16 too, where their batches would tell them apart; of another vector their own. */
static void check_equal_texts(const struct nla_half *ar, const char *what)
{
	struct nla_rl rl = { .reward = { .fail_mse = 2 }, .ar = ar, .ar_view = nla_half_view(ar) };
	struct nla_step s, alone;
	enum { ROWS = 200 };
	float apart = 0;
	char line[80];
	nla_step_start(&s, 2, ROWS, D);
	nla_step_start(&alone, 1, 1, D);
	for (int i = 0; i < 2 * D; i++)
		s.v[i] = (float)sin(1.7 * i);
	memcpy(alone.v, s.v, D * sizeof(*s.v));
	for (int i = 0; i < 2 * ROWS; i++) /* every fourth is the same, among longer ones that fill several batches */
		s.explanation[i] = i % 4 ? digits(i % 100 + 40) : nla_strdup("the red fox");
	alone.explanation[0] = nla_strdup("the red fox");
	assert_ok(nla_score(&rl, &s, &err));
	assert_ok(nla_score(&rl, &alone, &err));
	for (int i = 0; i < 2 * ROWS; i += 4)
		assert_true(s.mse[i] == s.mse[i < ROWS ? 0 : ROWS] && !s.failed[i]);
	assert_true(s.mse[0] != s.mse[ROWS]);
	for (int i = 1; i < ROWS; i++) /* texts repeat after 100 as well */
		assert_true(s.mse[i] == s.mse[(i + 100) % ROWS]);
	assert_true(s.mse[1] != s.mse[2]);
	apart = fabsf(s.mse[0] - alone.mse[0]);
	snprintf(line, sizeof(line), "mse, in a batch of its own, %s", what);
	within(line, apart, strcmp(what, "fp32") ? 0.05 : 2e-5);
	nla_step_release(&s);
	nla_step_release(&alone);
}

static void test_equal_texts(void **state)
{
	struct tiny *t = *state;
	struct nla_target target;
	struct nla_half ar;
	check_equal_texts(&t->ar, "fp32");
	assert_ok(nla_target_open(&target, TINY "/model", NULL, DEVICE, NT_BF16, -1, &err));
	assert_ok(nla_half_open(&ar, NLA_AR, &target, TINY "/ar", NULL, &err));
	assert_int_equal(nt_dtype_of(ar.head), NT_F32); /* whatever the target's */
	check_equal_texts(&ar, "bf16");
	nla_half_release(&ar);
	nla_target_close(&target);
}

/* 200 equal texts of a vector take the memory of one. */
static void test_equal_texts_memory(void **state)
{
	struct tiny *t = *state;
	struct nla_rl rl = { .reward = { .fail_mse = 2 }, .ar = &t->ar, .ar_view = nla_half_view(&t->ar), .score_tokens = 1 << 20 };
	int64_t peak[2];
	for (int many = 0; many < 2; many++) {
		struct nla_step s;
		nla_step_start(&s, 1, many ? 200 : 1, D);
		memcpy(s.v, golden_f32(t, "fve.vectors", 20 * D), D * sizeof(*s.v));
		for (int64_t i = 0; i < s.n; i++)
			s.explanation[i] = nla_strdup("the red fox");
		nt_peak_reset(DEVICE);
		const int64_t before = nt_peak(DEVICE);
		assert_ok(nla_score(&rl, &s, &err));
		peak[many] = nt_peak(DEVICE) - before;
		nla_step_release(&s);
	}
	assert_true(peak[0] > 0 && peak[1] < 3 * peak[0]);
}

static void test_baselines(void **state)
{
	struct tiny *t = *state;
	const float *v = golden_f32(t, "fve.vectors", 20 * D);
	struct nla_baseline b;
	double var, mean;
	nla_baseline_init(&b, D);
	for (int i = 0; i < 20; i++)
		nla_baseline_add(&b, v + i * D);
	nla_baseline_get(&b, &var, &mean);
	within("raw variance", fabs(var - golden_scalar(t, "fve.baseline_var")), 1e-6);
	within("mean-normalised", fabs(mean - golden_scalar(t, "fve.baseline_mean")), 1e-6);
	nla_baseline_release(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TINY_TEST(test_encode),
		TINY_TEST(test_too_long),
		TINY_TEST(test_suffix),
		TINY_TEST(test_predict),
		TINY_TEST(test_batches),
		TINY_TEST(test_save),
		TINY_TEST(test_mse),
		TINY_TEST(test_score),
		TINY_TEST(test_score_groups),
		TINY_TEST(test_equal_texts),
		TINY_TEST(test_equal_texts_memory),
		TINY_TEST(test_baselines),
	};
	return run_tiny(tests);
}
