/* The sampler's frequencies, log-probabilities and edges, fast and plain; AdamW and the gradient norm against double. */
#include "tensors.h"

static const struct nla_rng rng = { 5, NLA_STREAM_TEST };

static nt_tensor *uniforms(uint32_t step, int64_t n)
{
	float *u = malloc((size_t)n * sizeof(float));

	for (int64_t i = 0; i < n; i++)
		u[i] = nla_uniform(&rng, step, (uint32_t)i, 0);
	nt_tensor *t = nt_f32(DEVICE, u, n);
	free(u);
	return t;
}

static void to_ids(const nt_tensor *t, int64_t *ids, int64_t n)
{
	assert_made(t);
	assert_int_equal(nt_to_host_i64(t, ids, (size_t)n), NT_OK);
}

/* One row of logits, n times. */
static nt_tensor *repeated(const nt_tensor *row, int64_t n)
{
	int64_t *zero = calloc((size_t)n, sizeof(*zero));
	nt_tensor *t = nt_rows(row, nt_i64(DEVICE, zero, n));

	free(zero);
	return t;
}

/* Chi-square quantile by Wilson and Hilferty (1931), at one in a million. */
static double most_likely(double freedom)
{
	double a = 2 / (9 * freedom);

	return freedom * pow(1 - a + 4.75 * sqrt(a), 3);
}

static void check_frequencies(bool plain, double temperature)
{
	enum { V = 60, CHUNK = 25000, CHUNKS = 10 };
	static int64_t ids[CHUNK];
	double p[V], total = 0, chi = 0, gap = 0, rest = 0, n_rest = 0;
	int64_t count[V] = { 0 }, freedom = -1;

	nt_plain(plain);
	nt_tensor *row = gauss(1.5, DIMS(1, V));
	float *z = host(row);
	for (int i = 0; i < V; i++)
		total += p[i] = exp(z[i] / temperature);
	for (uint32_t c = 0; c < CHUNKS; c++) {
		nt_tensor *lp;
		nt_scope_push();
		to_ids(nt_sample(repeated(row, CHUNK), uniforms(c, CHUNK), temperature, &lp), ids, CHUNK);
		float *said = host(lp);
		for (int i = 0; i < CHUNK; i++) {
			assert_true(ids[i] >= 0 && ids[i] < V);
			count[ids[i]]++;
			gap = fmax(gap, fabs(said[i] - log(p[ids[i]] / total)));
		}
		free(said);
		nt_scope_pop();
	}
	for (int i = 0; i < V; i++) { /* tokens too rare for the approximation count as one */
		double want = (double)CHUNK * CHUNKS * p[i] / total;
		if (want < 10) {
			rest += want;
			n_rest += (double)count[i];
			continue;
		}
		chi += (count[i] - want) * (count[i] - want) / want;
		freedom++;
	}
	if (rest >= 10) {
		chi += (n_rest - rest) * (n_rest - rest) / rest;
		freedom++;
	}
	printf("%s, temperature %g: chi-square %.1f, %d degrees of freedom, bound %.1f, %d draws; log-probability within "
	       "%.2g\n",
	       plain ? "plain" : "fast", temperature, chi, (int)freedom, most_likely((double)freedom), CHUNK * CHUNKS, gap);
	assert_true(freedom > 20 && chi < most_likely((double)freedom));
	assert_true(gap < 2e-6);
	free(z);
}

static void test_frequencies(void **state)
{
	for (int plain = 0; plain < 2; plain++) {
		check_frequencies(plain, 1);
		check_frequencies(plain, 0.7);
	}
}

/* At Qwen3's size, per draw: u lies between the distribution's sums before and after the token, computed in double. */
static void test_wide_rows(void **state)
{
	enum { V = 151936, N = 24 };
	double *before = malloc((V + 1) * sizeof(*before));
	int64_t ids[2][N], differ = 0;

	for (int cold = 0; cold < 2; cold++) {
		double t = cold ? 0.7 : 1, gap[2] = { 0 }, off = 0;
		nt_tensor *z = gauss(3, DIMS(N, V)), *u = uniforms(100 + (uint32_t)cold, N);
		float *zs = host(z), *us = host(u);
		for (int plain = 0; plain < 2; plain++) {
			nt_tensor *lp;
			nt_plain(plain);
			to_ids(nt_sample(z, u, t, &lp), ids[plain], N);
			float *said = host(lp);
			for (int i = 0; i < N; i++) {
				int64_t id = ids[plain][i];
				before[0] = 0;
				for (int j = 0; j < V; j++)
					before[j + 1] = before[j] + exp(zs[(int64_t)i * V + j] / t);
				off = fmax(off, fmax(before[id] / before[V] - us[i], us[i] - before[id + 1] / before[V]));
				gap[plain] = fmax(gap[plain], fabs(said[i] - (zs[(int64_t)i * V + id] / t - log(before[V]))));
			}
			free(said);
		}
		for (int i = 0; i < N; i++)
			differ += ids[0][i] != ids[1][i];
		printf("V %d, temperature %g: u outside its token by %.2g, log-probability within %.2g, plain %.2g\n", V, t,
		       off, gap[0], gap[1]);
		/* the plain one, which is both on a device, sums in fp32 */
		assert_true(off < 1e-6 && gap[0] < (DEVICE == NT_CPU ? 5e-6 : 5e-5) && gap[1] < 5e-5);
		free(zs);
		free(us);
	}
	printf("fast and plain draw another token: %d of %d\n", (int)differ, 2 * N);
	assert_true(differ <= 1);
	free(before);
}

/* Ends of (0,1), and ids without weight at both ends and in between: never drawn, however u falls. */
static void test_ends_and_impossible_ids(void **state)
{
	enum { V = 3000, N = 4000 };
	static float z[V], u[N];
	static int64_t ids[N];

	for (int i = 0; i < V; i++)
		z[i] = i < 10 || i >= V - 10 || i % 3 == 1 || (i >= 1024 && i < 2048) ? -INFINITY
										      : nla_normal(&rng, 1, 0, (uint32_t)i);
	u[0] = 0x1p-24f;
	u[1] = 1 - 0x1p-24f;
	for (int i = 2; i < N; i++)
		u[i] = nla_uniform(&rng, 2, (uint32_t)i, 0);
	nt_tensor *row = nt_from_host(NT_F32, DEVICE, z, DIMS(1, V));
	for (int plain = 0; plain < 2; plain++) {
		nt_tensor *lp;
		nt_plain(plain);
		for (double t = 0.5; t < 1.6; t += 0.5) {
			to_ids(nt_sample(repeated(row, N), nt_f32(DEVICE, u, N), t, &lp), ids, N);
			float *said = host(lp);
			for (int i = 0; i < N; i++)
				assert_true(isfinite(z[ids[i]]) && isfinite(said[i]));
			free(said);
			assert_int_equal(ids[0], 11); /* the first with weight: 10 is 1 modulo 3 */
			assert_int_equal(ids[1], V - 12); /* the last: 2989 is 1 modulo 3 */
		}
		/* One id alone has weight: it is drawn at both ends, at log-probability 0. */
		for (int at = 0; at < V; at += V - 1) {
			static float lone[V];
			for (int i = 0; i < V; i++)
				lone[i] = i == at ? 5 : -INFINITY;
			to_ids(nt_sample(repeated(nt_from_host(NT_F32, DEVICE, lone, DIMS(1, V)), N), nt_f32(DEVICE, u, N), 1,
					 &lp),
			       ids, N);
			float *said = host(lp);
			for (int i = 0; i < N; i++)
				assert_true(ids[i] == at && said[i] == 0);
			free(said);
		}
	}
}

/* At the largest u a sum in another order may fall short of u of the total: what is left goes to the last id with weight. */
static void test_what_rounding_leaves(void **state)
{
	enum { V = 700, LAST = 650, N = 500 };
	static float z[N * V], u[N];
	static int64_t ids[N];

	for (int i = 0; i < N; i++) {
		u[i] = 1 - 0x1p-24f;
		for (int j = 0; j < V; j++)
			z[i * V + j] = j > LAST ? -INFINITY : nla_normal(&rng, 4, (uint32_t)i, (uint32_t)j);
	}
	for (int plain = 0; plain < 2; plain++) {
		nt_plain(plain);
		to_ids(nt_sample(nt_from_host(NT_F32, DEVICE, z, DIMS(N, V)), nt_f32(DEVICE, u, N), 1, NULL), ids, N);
		for (int i = 0; i < N; i++)
			assert_int_equal(ids[i], LAST);
	}
}

static void test_greedy(void **state)
{
	enum { V = 4097, N = 40 };
	int64_t ids[N];
	double gap = 0;
	nt_tensor *z = gauss(3, DIMS(N, V)), *u = uniforms(9, N);
	float *zs = host(z);

	for (int plain = 0; plain < 2; plain++) {
		nt_tensor *lp;
		nt_plain(plain);
		to_ids(nt_sample(z, u, 0, &lp), ids, N);
		float *said = host(lp);
		for (int i = 0; i < N; i++) {
			const float *r = zs + i * V;
			double total = 0;
			int best = 0;
			for (int j = 0; j < V; j++) {
				total += exp(r[j]);
				best = r[j] > r[best] ? j : best;
			}
			assert_int_equal(ids[i], best);
			gap = fmax(gap, fabs(said[i] - (r[best] - log(total))));
		}
		free(said);
	}
	printf("greedy log-probability within %.2g\n", gap);
	assert_true(gap < 2e-6);
	free(zs);

	static const float tied[4] = { 1, 7, 7, 0 };
	to_ids(nt_sample(nt_from_host(NT_F32, DEVICE, tied, DIMS(1, 4)), nt_narrow(u, 0, 0, 1), 0, NULL), ids, 1);
	assert_true(ids[0] == 1 || ids[0] == 2);
}

/* A row alone, among others, in another order and in a strided array draws the same token with the same bits of
 * log-probability. */
static void test_same_draw_in_any_batch(void **state)
{
	enum { V = 5003, N = 37 };
	int64_t ids[N], back[N], turned[N], one;

	for (int plain = 0; plain < 2; plain++) {
		nt_tensor *wide = gauss(2, DIMS(N, V + 3)), *z = nt_narrow(wide, 1, 1, V), *u = uniforms(7, N), *lp, *lp2;
		nt_plain(plain);
		to_ids(nt_sample(z, u, 1, &lp), ids, N);
		for (int i = 0; i < N; i++)
			back[i] = N - 1 - i;
		nt_tensor *order = nt_i64(DEVICE, back, N);
		to_ids(nt_sample(nt_rows(z, order), nt_rows(u, order), 1, &lp2), turned, N);
		float *a = host(lp), *b = host(lp2);
		for (int i = 0; i < N; i++) {
			assert_true(turned[N - 1 - i] == ids[i] && a[i] == b[N - 1 - i]);
			to_ids(nt_sample(nt_narrow(z, 0, i, 1), nt_narrow(u, 0, i, 1), 1, &lp2), &one, 1);
			float *c = host(lp2);
			assert_true(one == ids[i] && c[0] == a[i]);
			free(c);
		}
		free(a);
		free(b);
	}
}

static void test_bad_logits(void **state)
{
	float z[20] = { 0 };
	nt_tensor *lp, *u = uniforms(3, 1);
	int64_t id;

	z[13] = NAN;
	for (int plain = 0; plain < 2; plain++)
		for (int t = 0; t < 2; t++) {
			nt_plain(plain);
			to_ids(nt_sample(nt_from_host(NT_F32, DEVICE, z, DIMS(1, 20)), u, t, &lp), &id, 1);
			float *said = host(lp);
			assert_true(isnan(said[0]) && id >= 0 && id < 20);
			free(said);
		}
	nt_tensor *rows = gauss(1, DIMS(3, 4));
	assert_error(nt_sample(rows, u, 1, NULL), "sample Float[3,4] Float[1]");
	assert_error(nt_sample(rows, uniforms(3, 3), -1, &lp), "temperature");
	assert_true(lp == NULL);
}

/* ---- AdamW, gradient norm ---- */

enum { LIST = 5 };

/* The gradient of p becomes g. */
static void set_gradient(nt_tensor *p, const nt_tensor *g)
{
	nt_zero_grad(p);
	nt_grad_push(true);
	nt_tensor *loss = nt_dot(p, g);
	nt_grad_pop();
	assert_int_equal(nt_backward(loss), NT_OK);
}

static void make_list(nt_tensor **p, nt_tensor **m, nt_tensor **v)
{
	static const int64_t shapes[LIST][2] = { { 1, 1 }, { 3, 7 }, { 64, 33 }, { 1, 1000 }, { 5, 5 } };

	for (int i = 0; i < LIST; i++) {
		p[i] = gauss(1, 2, shapes[i]);
		nt_requires_grad(p[i], true);
		m[i] = nt_zeros(NT_F32, DEVICE, 2, shapes[i]);
		v[i] = nt_zeros(NT_F32, DEVICE, 2, shapes[i]);
	}
}

static void check_adamw(double weight_decay)
{
	const struct nt_adamw hyper = { 3e-3, 0.9, 0.95, 1e-8, weight_decay };
	nt_tensor *p[LIST], *m[LIST], *v[LIST];
	double *x[LIST], *ms[LIST], *vs[LIST], worst = 0;

	make_list(p, m, v);
	for (int i = 0; i < LIST; i++) {
		int64_t n = nt_numel(p[i]);
		float *start = host(p[i]);
		x[i] = malloc((size_t)n * sizeof(double));
		ms[i] = calloc((size_t)n, sizeof(double));
		vs[i] = calloc((size_t)n, sizeof(double));
		for (int64_t j = 0; j < n; j++)
			x[i][j] = start[j];
		free(start);
	}
	for (int step = 1; step <= 12; step++) {
		for (int i = 0; i < LIST - 1; i++) { /* the last never has a gradient */
			int64_t n = nt_numel(p[i]);
			nt_tensor *g = gauss(i == 1 ? 1e-6 : 1, DIMS(nt_size(p[i], 0), nt_size(p[i], 1)));
			float *gs = host(g);
			set_gradient(p[i], g);
			for (int64_t j = 0; j < n; j++) {
				ms[i][j] = 0.9 * ms[i][j] + 0.1 * gs[j];
				vs[i][j] = 0.95 * vs[i][j] + 0.05 * (double)gs[j] * gs[j];
				double up = ms[i][j] / (1 - pow(0.9, step)),
				       down = sqrt(vs[i][j] / (1 - pow(0.95, step))) + 1e-8;
				x[i][j] -= 3e-3 * weight_decay * x[i][j];
				x[i][j] -= 3e-3 * up / down;
			}
			free(gs);
		}
		assert_int_equal(nt_adamw_step(p, m, v, LIST, step, &hyper), NT_OK);
	}
	for (int i = 0; i < LIST; i++) {
		float *now = host(p[i]), *mn = host(m[i]), *vn = host(v[i]);
		for (int64_t j = 0; j < nt_numel(p[i]); j++) {
			worst = fmax(worst, fabs(now[j] - x[i][j]));
			assert_true(fabs(mn[j] - ms[i][j]) <= 1e-6 * (1e-6 + fabs(ms[i][j])) + (i == 1 ? 1e-12 : 1e-6));
			assert_true(fabs(vn[j] - vs[i][j]) <= 1e-5 * vs[i][j]);
			if (i == LIST - 1)
				assert_true(now[j] == (float)x[i][j] && mn[j] == 0 && vn[j] == 0);
		}
		free(now);
		free(mn);
		free(vn);
		free(x[i]);
		free(ms[i]);
		free(vs[i]);
	}
	printf("adamw, weight decay %g: after 12 steps of 3e-3 within %.2g\n", weight_decay, worst);
	assert_true(worst < 2e-6);
}

static void test_adamw(void **state)
{
	check_adamw(0);
	check_adamw(0.1);
	nt_tensor *p[1] = { NULL }, *m[1] = { NULL }, *v[1] = { NULL };
	assert_error(nt_adamw_step(p, m, v, 1, 1, &(struct nt_adamw){ 1, 0.9, 0.95, 1e-8, 0 }), "NULL");
}

static void test_grad_norm(void **state)
{
	nt_tensor *p[LIST], *m[LIST], *v[LIST];
	double want = 0, norm = -1;

	make_list(p, m, v);
	assert_int_equal(nt_grad_norm(p, LIST, &norm), NT_OK);
	assert_true(norm == 0);
	assert_int_equal(nt_grad_scale(p, LIST, 0.5), NT_OK);
	for (int i = 0; i < LIST - 1; i++) {
		nt_tensor *g = gauss(1 + i, DIMS(nt_size(p[i], 0), nt_size(p[i], 1)));
		float *gs = host(g);
		set_gradient(p[i], g);
		for (int64_t j = 0; j < nt_numel(g); j++)
			want += (double)gs[j] * gs[j];
		free(gs);
	}
	want = sqrt(want);
	assert_int_equal(nt_grad_norm(p, LIST, &norm), NT_OK);
	printf("gradient norm %.9g, in double %.9g\n", norm, want);
	assert_true(fabs(norm - want) < 1e-6 * want);
	assert_int_equal(nt_grad_scale(p, LIST, 1 / want), NT_OK);
	assert_int_equal(nt_grad_norm(p, LIST, &norm), NT_OK);
	assert_true(fabs(norm - 1) < 1e-6);
	assert_false(nt_has_grad(p[LIST - 1]));

	set_gradient(p[0], nt_from_host(NT_F32, DEVICE, &(float){ NAN }, DIMS(1, 1)));
	assert_int_equal(nt_grad_norm(p, LIST, &norm), NT_OK);
	assert_true(isnan(norm));
	set_gradient(p[0], nt_from_host(NT_F32, DEVICE, &(float){ INFINITY }, DIMS(1, 1)));
	assert_int_equal(nt_grad_norm(p, LIST, &norm), NT_OK);
	assert_true(isinf(norm));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_frequencies),
		TEST(test_wide_rows),
		TEST(test_ends_and_impossible_ids),
		TEST(test_what_rounding_leaves),
		TEST(test_greedy),
		TEST(test_same_draw_in_any_batch),
		TEST(test_bad_logits),
		TEST(test_adamw),
		TEST(test_grad_norm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
