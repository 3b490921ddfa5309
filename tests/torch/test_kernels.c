/* Each fast version against its plain twin, forward and backward, over many shapes; against sums written out in double; at the
 * edges of fp32; and a composed loss against central differences. */
#include "tensors.h"

/* ---- the operations as functions of leaves ---- */

static nt_tensor *rms(nt_tensor *const *in, const void *arg)
{
	return nt_rms_norm(in[0], in[1], 1e-6);
}

/* x is a stretch of a wider array, as q is of a fused q, k, v. */
struct rope_case {
	int64_t n, h, d, from; /* from: heads before it in the wider array */
	bool norm;
};

static nt_tensor *rope(nt_tensor *const *in, const void *arg)
{
	const struct rope_case *c = arg;
	nt_tensor *x = nt_reshape(nt_narrow(in[0], 1, c->from * c->d, c->h * c->d), DIMS(c->n, c->h, c->d));

	return c->norm ? nt_qk_rope(x, in[3], 1e-6, in[1], in[2]) : nt_qk_rope(x, NULL, 1e-6, in[1], in[2]);
}

static nt_tensor *glu(nt_tensor *const *in, const void *gelu)
{
	return gelu ? nt_geglu(in[0]) : nt_swiglu(in[0]);
}


struct logprob_case {
	nt_tensor *ids;
	double temperature;
};

static nt_tensor *logprob(nt_tensor *const *in, const void *arg)
{
	const struct logprob_case *c = arg;

	return nt_token_logprob(in[0], in[1], c->ids, c->temperature, NULL);
}

/* ---- twins ---- */

static void test_rms_norm(void **state)
{
	static const int64_t shapes[][2] = {
		{ 1, 2 }, { 1, 7 }, { 3, 5 }, { 1, 128 }, { 33, 127 }, { 128, 128 }, { 700, 576 }
	};
	struct twins all = { 0, 0 };

	for (size_t i = 0; i < NLA_LEN(shapes); i++)
		for (unsigned frozen = 0; frozen < 3; frozen++) {
			nt_tensor *in[2] = { gauss(2, 2, shapes[i]), gauss(1, 1, shapes[i] + 1) };
			widen(&all, compare(rms, NULL, in, 2, frozen));
		}
	nt_tensor *in[2] = { gauss(1, DIMS(3, 5, 17)), gauss(1, DIMS(17)) };
	widen(&all, compare(rms, NULL, in, 2, 0));
	assert_twins("rms_norm", all, 3e-6);
}

/* Columns of a wider array are not contiguous, and neither is a gain taken from every second column. */
static void test_rms_norm_of_views(void **state)
{
	nt_tensor *wide = gauss(1, DIMS(9, 40)), *gains = gauss(1, DIMS(16, 2));
	nt_tensor *x = nt_narrow(wide, 1, 5, 16), *w = nt_reshape(nt_narrow(gains, 1, 1, 1), DIMS(16));

	assert_true(difference(nt_rms_norm(x, w, 1e-6), nt_rms_norm(nt_clone(x), nt_clone(w), 1e-6)) == 0);
}

static void test_qk_rope(void **state)
{
	static const struct rope_case cases[] = {
		{ 1, 1, 2, 0, true },	 { 1, 1, 2, 0, false },	 { 5, 1, 10, 0, true },	 { 5, 3, 6, 2, true },
		{ 5, 3, 6, 1, false },	 { 64, 4, 32, 0, true }, { 64, 2, 32, 4, true }, { 64, 2, 32, 6, false },
		{ 200, 9, 64, 3, true }, { 1, 4, 128, 2, true }, { 7, 1, 34, 3, true },
	};
	struct twins all = { 0, 0 };

	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		const struct rope_case *c = &cases[i];
		nt_tensor *in[4] = { gauss(1, DIMS(c->n, (c->h + c->from + 1) * c->d)), gauss(1, DIMS(c->n, c->d / 2)),
				     gauss(1, DIMS(c->n, c->d / 2)), gauss(1, DIMS(c->d)) };
		widen(&all, compare(rope, c, in, c->norm ? 4 : 3, 6));
		if (c->norm)
			widen(&all, compare(rope, c, in, 4, 6 | 8));
	}
	assert_twins("qk_rope", all, 3e-6);
}

static void test_glu(void **state)
{
	static const int64_t shapes[][2] = { { 1, 2 }, { 1, 14 }, { 3, 10 }, { 17, 254 }, { 128, 768 } };
	for (int gelu = 0; gelu < 2; gelu++) {
		struct twins all = { 0, 0 };
		for (size_t i = 0; i < NLA_LEN(shapes); i++)
			for (double scale = 0.1; scale < 200; scale *= 10) {
				nt_tensor *in[1] = { gauss(scale, 2, shapes[i]) };
				widen(&all, compare(glu, gelu ? shapes : NULL, in, 1, 0));
			}
		assert_twins(gelu ? "geglu" : "swiglu", all, 3e-6);
	}
}

static void test_token_logprob(void **state)
{
	static const int64_t shapes[][3] = {
		{ 1, 3, 2 }, { 1, 8, 5 }, { 7, 5, 33 }, { 64, 128, 2048 }, { 300, 8, 151936 }
	}; /* n, D, V */
	struct twins all = { 0, 0 };

	for (size_t i = 0; i < NLA_LEN(shapes); i++)
		for (int cold = 0; cold < (i < 4 ? 2 : 1); cold++) {
			int64_t n = shapes[i][0], v = shapes[i][2], ids[300];
			for (int64_t j = 0; j < n; j++)
				ids[j] = j % 5 == 0 ? v - 1 : (j * 7919 + 3) % v;
			struct logprob_case c = { nt_i64(DEVICE, ids, n), cold ? 0.7 : 1 };
			nt_tensor *in[2] = { gauss(1, DIMS(n, shapes[i][1])), gauss(0.6, DIMS(v, shapes[i][1])) };
			for (unsigned frozen = 0; frozen < (i < 4 ? 3 : 1); frozen++)
				widen(&all, compare(logprob, &c, in, 2, frozen));
		}
	assert_twins("token_logprob", all, 1e-5);
}

/* Against double, with the entropy; some ids come from a strided array. */
static void test_token_logprob_written_out(void **state)
{
	enum { N = 6, D = 9, V = 5000 };
	static const int64_t pairs[2 * N] = { 0, 9, V - 1, 9, 17, 9, 4096, 9, 1023, 9, 1024, 9 };
	double worst[2][2] = { { 0 } };
	nt_tensor *h = gauss(1, DIMS(N, D)), *w = gauss(1, DIMS(V, D));
	nt_tensor *ids = nt_reshape(nt_narrow(nt_reshape(nt_i64(DEVICE, pairs, 2 * N), DIMS(N, 2)), 1, 0, 1), DIMS(N));
	float *hs = host(h), *ws = host(w);

	for (int plain = 0; plain < 2; plain++) {
		nt_tensor *entropy;
		nt_plain(plain);
		float *lp = host(nt_token_logprob(h, w, ids, 0.7, &entropy)), *ent = host(entropy);
		for (int i = 0; i < N; i++) {
			double sum = 0, mean = 0, mine = 0;
			for (int j = 0; j < V; j++) {
				double z = 0;
				for (int l = 0; l < D; l++)
					z += (double)hs[i * D + l] * ws[j * D + l] / 0.7;
				sum += exp(z);
				mean += exp(z) * z;
				mine = j == pairs[2 * i] ? z : mine;
			}
			worst[plain][0] = fmax(worst[plain][0], fabs(mine - log(sum) - lp[i]));
			worst[plain][1] = fmax(worst[plain][1], fabs(log(sum) - mean / sum - ent[i]));
		}
		free(lp);
		free(ent);
	}
	printf("token_logprob from double    fast %.2g, plain %.2g; entropy fast %.2g, plain %.2g\n", worst[0][0], worst[1][0],
	       worst[0][1], worst[1][1]);
	for (int i = 0; i < 4; i++)
		assert_true(worst[i / 2][i % 2] < 2e-5);
	free(hs);
	free(ws);
}

/* ---- other types, the edges of fp32 ---- */

static void test_bf16_keeps_its_type(void **state)
{
	struct attention_case c = { 3, { 4, 3, 2 }, { -1, 0, 0 }, 4, 2, 8, false, NULL, 0, 0 };
	static const int64_t ids[9] = { 0, 1, 2, 3, 4, 5, 6, 7, 8 };
	nt_tensor *made[2][6];

	open_tree(&c);
	nt_tensor *x = nt_to(gauss(1, DIMS(9, 32)), NT_BF16), *w = nt_to(gauss(1, DIMS(32)), NT_BF16);
	nt_tensor *cos = gauss(1, DIMS(9, 4)), *q = nt_reshape(x, DIMS(9, 4, 8)),
		  *k = nt_reshape(nt_narrow(x, 1, 0, 16), DIMS(9, 2, 8));
	nt_tensor *head = nt_to(gauss(1, DIMS(50, 32)), NT_BF16);
	for (int plain = 0; plain < 2; plain++) {
		nt_plain(plain);
		made[plain][0] = nt_rms_norm(x, w, 1e-6);
		made[plain][1] = nt_qk_rope(q, nt_narrow(nt_to(w, NT_F32), 0, 0, 8), 1e-6, cos, cos);
		made[plain][2] = nt_swiglu(x);
		made[plain][3] = nt_attention(q, k, k, c.tree, 0, 0.3);
		made[plain][4] = nt_rms_norm(x, nt_to(w, NT_F32), 1e-6);
		made[plain][5] = nt_token_logprob(x, head, nt_i64(DEVICE, ids, 9), 1, NULL);
	}
	for (int i = 0; i < 6; i++) {
		assert_made(made[0][i]);
		assert_int_equal(nt_dtype_of(made[0][i]), i < 5 ? NT_BF16 : NT_F32);
		assert_true(difference(made[0][i], made[1][i]) <= (DEVICE == NT_CPU ? 0 : 0.008));
	}
	nt_tree_free(c.tree);
}

static int64_t count_nan(const nt_tensor *t, int64_t from, int64_t n)
{
	float *x = host(t);
	int64_t count = 0;

	for (int64_t i = from; i < from + n; i++)
		count += isnan(x[i]) != 0;
	free(x);
	return count;
}

/* A NaN in row 2 of 4 makes row 2 NaN (all of it where the row is mixed) and no other, in results and in gradients. */
static void test_nan_stays_in_its_row(void **state)
{
	static const int64_t ids[4] = { 1, 2, 3, 4 };
	struct attention_case tree = { 4, { 1, 1, 1, 1 }, { -1, -1, -1, -1 }, 4, 2, 8, false, NULL, 0, 0 };
	struct rope_case turn = { 4, 4, 8, 0, true };
	struct logprob_case lp = { nt_i64(DEVICE, ids, 4), 1 };
	static const struct {
		const char *name;
		nt_function f;
		int n_in;
		int64_t mixed; /* numbers of a result row that must be NaN */
	} cases[] = { { "rms_norm", rms, 2, 32 },
		      { "rope", rope, 4, 8 },
		      { "swiglu", glu, 1, 1 },
		      { "attention", attention, 3, 8 },
		      { "token_logprob", logprob, 2, 1 } };
	float bad[4 * 32] = { 0 };

	open_tree(&tree);
	bad[2 * 32 + 3] = NAN;
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		nt_tensor *x = nt_add(gauss(1, DIMS(4, 32)), nt_from_host(NT_F32, DEVICE, bad, DIMS(4, 32)));
		nt_tensor *in[4] = { x, gauss(1, DIMS(32)) };
		if (i == 1) {
			in[1] = in[2] = gauss(1, DIMS(4, 4));
			in[3] = gauss(1, DIMS(8));
		} else if (i == 3) {
			in[0] = nt_reshape(x, DIMS(4, 4, 8));
			in[1] = gauss(1, DIMS(4, 2, 8));
			in[2] = gauss(1, DIMS(4, 2, 8));
		} else if (i == 4) {
			in[1] = gauss(1, DIMS(70, 32));
		}
		const void *arg = i == 1 ? (void *)&turn : i == 3 ? (void *)&tree : i == 4 ? (void *)&lp : NULL;
		nt_requires_grad(in[0], true);
		nt_grad_push(true);
		nt_tensor *y = cases[i].f(in, arg);
		nt_grad_pop();
		assert_made(y);
		int64_t wide = nt_numel(y) / 4;
		assert_int_equal(nt_backward(nt_sum(y)), NT_FAILED); /* the sum was made without gradients */
		nt_clear();
		assert_int_equal(nt_backward_with(y, nt_add_scalar(nt_scale(nt_detach(y), 0), 0)), NT_OK);
		nt_tensor *g = nt_grad(in[0]);
		for (int64_t r = 0; r < 4; r++) {
			int64_t nans = count_nan(y, r * wide, wide), back = count_nan(g, r * 32, 32);
			if (r == 2 ? nans < cases[i].mixed || !back : nans || back)
				fail_msg("%s: %lld and %lld NaN in row %lld", cases[i].name, (long long)nans, (long long)back,
					 (long long)r);
		}
	}
	nt_tree_free(tree.tree);
}

static void test_large_numbers(void **state)
{
	static const int64_t ids[3] = { 0, 1, 4 };
	static const float gates[16] = { 1e4f, -1e4f, 88, -88, 90, -90, 1e20f, -1e20f, 1, 2, 3, 4, 5, 6, 1, 1 };
	struct attention_case c = { 2, { 3, 3 }, { -1, 0 }, 2, 1, 4, false, NULL, 0, 0 };
	struct logprob_case lp = { nt_i64(DEVICE, ids, 3), 1 };
	nt_tensor *entropy;

	nt_tensor *gate[1] = { nt_from_host(NT_F32, DEVICE, gates, DIMS(1, 16)) };
	struct twins d = compare(glu, NULL, gate, 1, 0);
	float *y = host(nt_swiglu(gate[0]));
	assert_true(y[0] == 1e4f && y[1] == 0 && y[6] == 1e20f && y[7] == 0);
	free(y);
	nt_tensor *norm[2] = { gauss(1e12, DIMS(3, 40)), gauss(1, DIMS(40)) };
	widen(&d, compare(rms, NULL, norm, 2, 0)); /* at 1e15 the plain one's gradient has r^3 = 1e-45 and underflows */
	nt_tensor *same = nt_rms_norm(norm[0], norm[1], 1e-6);
	assert_true(difference(nt_rms_norm(nt_scale(norm[0], 1e6), norm[1], 1e-6), same) < 1e-6);
	norm[0] = nt_scale(norm[0], 1e-24); /* far below eps */
	widen(&d, compare(rms, NULL, norm, 2, 0));
	open_tree(&c);
	nt_tensor *q[3] = { gauss(150, DIMS(6, 2, 4)), gauss(100, DIMS(6, 1, 4)), gauss(1, DIMS(6, 1, 4)) };
	/* a saturated softmax: what is left of the gradients of q and k is rounding, another on every processor, but a number */
	widen(&d, compare(attention, &c, q, 3, 3));
	assert_true(isfinite(compare(attention, &c, q, 3, 0).grad));
	nt_tree_free(c.tree);

	/* logits of h [3,2] head^T: 1e4, -1e4, 0, 9999, -1e30 */
	static const float h[6] = { 1e4f, 1, -1e4f, 1, 0, 1 }, w[10] = { 1, 0, -1, 0, 0, 0, 0.9999f, 0, 1, -1e30f };
	nt_tensor *in[2] = { nt_from_host(NT_F32, DEVICE, h, DIMS(3, 2)), nt_from_host(NT_F32, DEVICE, w, DIMS(5, 2)) };
	widen(&d, compare(logprob, &lp, in, 2, 0));
	float *got = host(nt_token_logprob(in[0], in[1], lp.ids, 1, &entropy)), *ent = host(entropy);
	double p = 1 / (1 + exp(-1));
	assert_true(fabs(got[0] - log(p)) < 1e-3 && fabs(got[1]) < 1e-6 && got[2] < -9e29f && isfinite(got[2]));
	assert_true(fabs(ent[0] + p * log(p) + (1 - p) * log(1 - p)) < 1e-3 && fabs(ent[1]) < 1e-6 &&
		    fabs(ent[2] - log(4)) < 1e-5);
	free(got);
	free(ent);
	assert_twins("large numbers", d, 1e-4);
}

/* ---- a whole block, a head and a loss against central differences ---- */

enum { TOKENS = 9, WIDE = 16, HEADS = 4, KV = 2, DEEP = 4, HIDDEN = 12, VOCABULARY = 31, PARAMS = 8 };

static nt_tensor *composed(nt_tensor *const *p, const struct attention_case *c, nt_tensor *const *fixed)
{
	nt_tensor *x = nt_embedding(p[0], fixed[0]);
	nt_tensor *qkv = nt_linear(nt_rms_norm(x, p[1], 1e-6), p[2], NULL);
	nt_tensor *q = nt_reshape(nt_narrow(qkv, 1, 0, HEADS * DEEP), DIMS(TOKENS, HEADS, DEEP));
	nt_tensor *k = nt_reshape(nt_narrow(qkv, 1, HEADS * DEEP, KV * DEEP), DIMS(TOKENS, KV, DEEP));
	nt_tensor *v = nt_reshape(nt_narrow(qkv, 1, (HEADS + KV) * DEEP, KV * DEEP), DIMS(TOKENS, KV, DEEP));
	nt_tensor *o = nt_attention(nt_qk_rope(q, p[3], 1e-6, fixed[1], fixed[2]), nt_qk_rope(k, NULL, 0, fixed[1], fixed[2]),
				    v, c->tree, 0, 0.5);
	x = nt_add(x, nt_linear(nt_reshape(o, DIMS(TOKENS, WIDE)), p[4], NULL));
	x = nt_add(x, nt_linear(nt_swiglu(nt_linear(x, p[5], NULL)), p[6], NULL));
	return nt_dot(nt_token_logprob(x, p[7], fixed[0], 0.9, NULL), fixed[3]);
}

static double loss_at(nt_tensor *const *p, int moved, const nt_tensor *way, double h, const struct attention_case *c,
		      nt_tensor *const *fixed)
{
	nt_tensor *at[PARAMS];
	double loss = 0;

	nt_scope_push();
	memcpy(at, p, sizeof(at));
	at[moved] = nt_add(p[moved], nt_scale(way, h));
	assert_int_equal(nt_item(composed(at, c, fixed), &loss), NT_OK);
	nt_scope_pop();
	return loss;
}

static void test_gradients_by_differences(void **state)
{
	struct attention_case c = { 4, { 3, 2, 1, 3 }, { -1, 0, 1, 1 }, HEADS, KV, DEEP, false, NULL, 0, 0 };
	static const int64_t ids[TOKENS] = { 3, 30, 0, 7, 7, 12, 1, 3, 29 };
	nt_tensor *p[PARAMS] = { gauss(1, DIMS(VOCABULARY, WIDE)),
				 gauss(1, DIMS(WIDE)),
				 gauss(0.4, DIMS((HEADS + 2 * KV) * DEEP, WIDE)),
				 gauss(1, DIMS(DEEP)),
				 gauss(0.4, DIMS(WIDE, WIDE)),
				 gauss(0.4, DIMS(2 * HIDDEN, WIDE)),
				 gauss(0.4, DIMS(WIDE, HIDDEN)),
				 gauss(0.4, DIMS(VOCABULARY, WIDE)) };
	nt_tensor *fixed[4] = { nt_i64(DEVICE, ids, TOKENS), gauss(1, DIMS(TOKENS, DEEP / 2)), gauss(1, DIMS(TOKENS, DEEP / 2)),
				gauss(0.3, DIMS(TOKENS)) };
	double worst = 0;

	open_tree(&c);
	for (int i = 0; i < PARAMS; i++)
		nt_requires_grad(p[i], true);
	nt_grad_push(true);
	nt_tensor *loss = composed(p, &c, fixed);
	nt_grad_pop();
	assert_made(loss);
	assert_int_equal(nt_backward(loss), NT_OK);
	for (int i = 0; i < PARAMS; i++) {
		int64_t shape[2] = { nt_size(p[i], 0), nt_ndim(p[i]) > 1 ? nt_size(p[i], 1) : 1 };
		nt_tensor *way = nt_add(nt_scale(nt_grad(p[i]), 0.5), gauss(0.1, nt_ndim(p[i]), shape));
		double size, said, h;
		nt_item(nt_dot(way, way), &size);
		way = nt_scale(way, 1 / sqrt(size));
		nt_item(nt_dot(way, nt_grad(p[i])), &said);
		h = 0.005;
		double near = loss_at(p, i, way, h, &c, fixed) - loss_at(p, i, way, -h, &c, fixed);
		double far = loss_at(p, i, way, 2 * h, &c, fixed) - loss_at(p, i, way, -2 * h, &c, fixed);
		double found = (8 * near - far) / (12 * h); /* error of order h^4 */
		worst = fmax(worst, fabs(found - said) / fabs(said));
	}
	printf("composed loss                from differences %.2g\n", worst);
	assert_true(worst < 2e-3);
	nt_tree_free(c.tree);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_rms_norm),
		TEST(test_rms_norm_of_views),
		TEST(test_qk_rope),
		TEST(test_glu),
		TEST(test_token_logprob),
		TEST(test_token_logprob_written_out),
		TEST(test_bf16_keeps_its_type),
		TEST(test_nan_stays_in_its_row),
		TEST(test_large_numbers),
		TEST(test_gradients_by_differences),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
