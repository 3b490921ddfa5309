/* Products of few rows, as decoding has them: against sums in double, and equal to the bit whatever rows stand beside a row,
 * however many threads there are, and wherever the weights lie. Then what is computed with weights that are stored in bf16:
 * the same numbers as with those weights in fp32, and where the processor multiplies in bf16 with x rounded to it too. */
#include <pthread.h>

#include "tensors.h"

static nt_tensor *few(const nt_tensor *x, const nt_tensor *w, const nt_tensor *bias)
{
	nt_decoding(true);
	nt_tensor *y = nt_linear(x, w, bias);
	nt_decoding(false);
	assert_made(y);
	return y;
}

static void assert_same(const nt_tensor *a, const nt_tensor *b)
{
	assert_int_equal(nt_numel(a), nt_numel(b));
	float *p = host(a), *q = host(b);
	assert_memory_equal(p, q, (size_t)nt_numel(a) * sizeof(*p));
	free(p);
	free(q);
}

/* The largest error as a part of the sum of the terms' sizes. */
static double error(const nt_tensor *y, const nt_tensor *x, const nt_tensor *w, const nt_tensor *bias)
{
	int64_t rows = nt_size(x, 0), in = nt_size(x, 1), out = nt_size(w, 0);
	float *a = host(x), *b = host(w), *c = bias ? host(bias) : NULL, *got = host(y);
	double worst = 0;
	assert_int_equal(nt_numel(y), rows * out);
	for (int64_t r = 0; r < rows; r++)
		for (int64_t o = 0; o < out; o++) {
			double sum = c ? c[o] : 0, size = fabs(sum);
			for (int64_t k = 0; k < in; k++) {
				sum += (double)a[r * in + k] * b[o * in + k];
				size += fabs((double)a[r * in + k] * b[o * in + k]);
			}
			double e = fabs(got[r * out + o] - sum) / size;
			worst = e <= worst ? worst : e; /* a NaN is the worst */
		}
	free(a);
	free(b);
	free(c);
	free(got);
	return worst;
}

static void test_values(void **state)
{
	static const int64_t in[] = { 1, 7, 16, 37 }, wide_out[] = { 47, 48, 49, 145 }, many[] = { 47, 64, 65, 100 };
	double worst = 0;
	for (int64_t rows = 1; rows <= 33; rows++)
		for (size_t i = 0; i < NLA_LEN(in); i++)
			for (int64_t out = 1; out <= 13; out++) {
				nt_scope_push();
				nt_tensor *x = gauss(1, DIMS(rows, in[i])), *w = gauss(1, DIMS(out, in[i]));
				nt_tensor *bias = (rows + out) % 2 ? gauss(1, DIMS(out)) : NULL;
				worst = fmax(worst, error(few(x, w, bias), x, w, bias));
				nt_scope_pop();
			}
	for (size_t i = 0; i < NLA_LEN(many); i++)
		for (size_t k = 0; k < NLA_LEN(wide_out); k++) {
			nt_tensor *x = gauss(1, DIMS(many[i], 131)), *w = gauss(1, DIMS(wide_out[k], 131));
			worst = fmax(worst, error(few(x, w, NULL), x, w, NULL));
		}
	printf("largest error, of the terms' sizes: %.2g\n", worst);
	assert_true(worst < 1e-6);
	nt_tensor *x = gauss(1, DIMS(32, 1536)), *w = gauss(1, DIMS(48, 1536));
	double ours = error(few(x, w, NULL), x, w, NULL), library = error(nt_linear(x, w, NULL), x, w, NULL);
	printf("over 1536 terms: %.2g, the library's product %.2g\n", ours, library);
	assert_true(ours < 1e-6);
}

/* Any stretch of 70 rows has the bits of the whole; so has the first of the weights' rows alone; in fp32 and in bf16. */
static void test_rows_alone(void **state)
{
	static const int64_t in[] = { 5, 64, 203, 422 };
	for (size_t i = 0; i < NLA_LEN(in) * 2; i++) {
		int64_t terms = in[i / 2];
		nt_tensor *x = gauss(1, DIMS(70, terms)), *w = gauss(1, DIMS(101, terms)), *bias = gauss(1, DIMS(101));
		w = i % 2 ? nt_to(w, NT_BF16) : w;
		nt_tensor *all = few(x, w, bias);
		for (int64_t n = 1; n <= 70; n++)
			for (int64_t from = 0; from + n <= 70; from += n < 34 ? 9 : 70) {
				nt_scope_push();
				assert_same(few(nt_narrow(x, 0, from, n), w, bias), nt_narrow(all, 0, from, n));
				nt_scope_pop();
			}
		for (int64_t n = 1; n <= 101; n += 5)
			assert_same(few(x, nt_narrow(w, 0, 0, n), nt_narrow(bias, 0, 0, n)), nt_narrow(all, 1, 0, n));
	}
}

static void test_threads(void **state)
{
	nt_tensor *x = gauss(1, DIMS(21, 300)), *w = gauss(1, DIMS(1003, 300)), *wb = nt_to(w, NT_BF16), *one[2] = { NULL };
	int threads = nt_threads();
	for (int n = 1; n <= 5; n++) {
		nt_set_threads(n);
		nt_tensor *y[] = { few(x, w, NULL), few(x, wb, NULL) };
		for (int i = 0; i < 2; i++) {
			one[i] = one[i] ? one[i] : y[i];
			assert_same(y[i], one[i]);
		}
	}
	nt_set_threads(threads);
}

/* Stretches of wider arrays, three dimensions, weights at any address. */
static void test_views(void **state)
{
	nt_tensor *x = nt_narrow(gauss(1, DIMS(6, 40)), 1, 3, 21), *w = nt_narrow(gauss(1, DIMS(11, 50)), 1, 1, 21);
	nt_tensor *want = few(nt_clone(x), nt_clone(w), NULL), *y = few(nt_reshape(nt_clone(x), DIMS(2, 3, 21)), w, NULL);
	assert_same(few(x, w, NULL), want);
	assert_same(y, want);
	assert_int_equal(nt_ndim(y), 3);
	assert_int_equal(nt_size(y, 2), 11);
	float *moved = malloc((21 * 11 + 3) * sizeof(float)), *at = host(nt_clone(w));
	for (int off = 0; off < 4; off++) {
		memcpy(moved + off, at, 21 * 11 * sizeof(float));
		assert_same(few(x, nt_borrow(NT_F32, moved + off, DIMS(11, 21)), NULL), want);
	}
	free(moved);
	free(at);
}

/* A NaN or infinity stays in its row. The errors are the kernel's own: it ran. */
static void test_edges(void **state)
{
	nt_tensor *x = gauss(1, DIMS(9, 33)), *w = gauss(1, DIMS(10, 33)), *y = few(x, w, NULL);
	float *a = host(x), *want = host(y);
	a[4 * 33 + 7] = NAN;
	a[8 * 33 + 32] = INFINITY;
	float *got = host(few(nt_from_host(NT_F32, NT_CPU, a, DIMS(9, 33)), w, NULL));
	for (int i = 0; i < 90; i++) {
		if (i / 10 == 4)
			assert_true(isnan(got[i]));
		else if (i / 10 == 8)
			assert_true(isinf(got[i]));
		else
			assert_true(got[i] == want[i]);
	}
	free(a);
	free(want);
	free(got);
	nt_decoding(true);
	assert_error(nt_linear(x, gauss(1, DIMS(4, 5)), NULL), "widths differ");
	assert_error(nt_linear(x, w, gauss(1, DIMS(4))), "bias");
	assert_int_equal(nt_numel(nt_linear(gauss(1, DIMS(0, 33)), w, NULL)), 0);
	nt_decoding(false);
}

static void *ends(void *arg)
{
	nt_decoding(false);
	return arg;
}

/* Another thread whose decoding ends leaves this one's. The error is the kernel's own: it runs still. */
static void test_other_thread(void **state)
{
	nt_tensor *x = gauss(1, DIMS(7, 100)), *w = gauss(1, DIMS(4, 5));
	pthread_t other;
	(void)state;
	nt_decoding(true);
	assert_int_equal(pthread_create(&other, NULL, ends, NULL), 0);
	pthread_join(other, NULL);
	assert_error(nt_linear(x, w, NULL), "widths differ");
	nt_decoding(false);
}

/* Only where no gradient is recorded, of fp32, and with the fast versions on: elsewhere the bits are the library's. */
static void test_elsewhere(void **state)
{
	nt_tensor *x = gauss(1, DIMS(7, 100)), *w = gauss(1, DIMS(60, 100)), *bias = gauss(1, DIMS(60));
	nt_tensor *library = nt_linear(x, w, bias);
	nt_grad_push(true);
	assert_same(few(x, w, bias), library);
	nt_grad_pop();
	nt_plain(true);
	assert_same(few(x, w, bias), library);
	nt_plain(false);
	nt_tensor *xb = nt_to(x, NT_BF16), *wb = nt_to(w, NT_BF16);
	assert_same(few(xb, wb, NULL), nt_linear(xb, wb, NULL));
}

static void test_adapters(void **state)
{
	nt_tensor *x = gauss(1, DIMS(33, 100)), *y = gauss(1, DIMS(33, 70)), *w = gauss(1, DIMS(70, 100));
	struct nt_lora lora = { .A = gauss(1, DIMS(6, 100)), .B = gauss(1, DIMS(70, 6)) };
	struct nt_projection p = { .w = &w, .n_w = 1, .residual = y, .lora = &lora };
	nt_tensor *want = nt_project(x, &p);
	nt_decoding(true);
	nt_tensor *all = nt_project(x, &p);
	p.residual = nt_narrow(y, 0, 20, 1);
	nt_tensor *one = nt_project(nt_narrow(x, 0, 20, 1), &p);
	nt_decoding(false);
	assert_true(difference(all, want) < 1e-6);
	assert_same(one, nt_narrow(all, 0, 20, 1));
}

/* ---- weights stored in bf16 ---- */

/* w [out, in] in bf16; *wide: the same numbers in fp32. */
static nt_tensor *stored(int64_t out, int64_t in, nt_tensor **wide)
{
	nt_tensor *w = nt_to(gauss(1, DIMS(out, in)), NT_BF16);
	*wide = nt_to(w, NT_F32);
	return w;
}

/* x as it is multiplied with such weights. */
static nt_tensor *seen(nt_tensor *x)
{
	return nt_bf16_products() && nt_size(x, nt_ndim(x) - 1) % 2 == 0 ? nt_to(nt_to(x, NT_BF16), NT_F32) : x;
}

/* In decoding they have the bits of the fp32 kernel, and so all that it promises: any rows, sizes, threads, addresses. In pairs
 * the products are exact too, and summed in another order. */
static void assert_stored(const nt_tensor *y, nt_tensor *x, const nt_tensor *wide, const nt_tensor *bias)
{
	nt_tensor *s = seen(x);
	if (s == x)
		assert_same(y, few(x, wide, bias));
	else
		assert_true(error(y, s, wide, bias) < 1e-6);
}

static void test_stored_rows(void **state)
{
	static const int64_t in[] = { 1, 2, 5, 16, 54, 203, 421, 1024 }, out[] = { 1, 7, 13, 101 };
	int threads = nt_threads();
	nt_tensor *wide, *bias = gauss(1, DIMS(101));
	for (size_t i = 0; i < NLA_LEN(in); i++)
		for (size_t o = 0; o < NLA_LEN(out); o++)
			for (int64_t rows = 1; rows <= 70; rows += rows < 34 ? 3 : 9) {
				nt_scope_push();
				nt_tensor *x = gauss(1, DIMS(rows, in[i])), *w = stored(out[o], in[i], &wide);
				nt_tensor *b = rows % 2 ? nt_narrow(bias, 0, 0, out[o]) : NULL;
				nt_set_threads(1 + (int)rows % 3);
				assert_stored(few(x, w, b), x, wide, b);
				nt_scope_pop();
			}
	nt_set_threads(threads);
	nt_tensor *w = stored(11, 50, &wide);
	for (int64_t n = 21; n < 23; n++) {
		nt_tensor *x = nt_narrow(gauss(1, DIMS(n - 20, 45)), 1, 3, n); /* of one row and of two */
		assert_stored(few(x, nt_narrow(w, 1, 1, n), NULL), x, nt_clone(nt_narrow(wide, 1, 1, n)), NULL);
	}
	assert_same(nt_logits(gauss(1, DIMS(0, 50)), w), gauss(1, DIMS(0, 11)));
}

/* The gradient of a product's inputs; which: 0 x, 1 w. */
static nt_tensor *slope(nt_tensor *x, nt_tensor *w, const nt_tensor *g, int which)
{
	nt_tensor *leaf = nt_detach(which ? w : x);
	nt_requires_grad(leaf, true);
	nt_grad_push(true);
	nt_tensor *y = nt_linear(which ? x : leaf, which ? leaf : w, NULL);
	nt_grad_pop();
	nt_backward_with(y, g);
	nt_tensor *d = nt_grad(leaf);
	assert_made(d);
	return d;
}

static nt_tensor *transpose(const nt_tensor *w)
{
	int64_t n = nt_size(w, 0), m = nt_size(w, 1);
	float *a = host(w), *t = malloc((size_t)(n * m) * sizeof(*t));
	for (int64_t i = 0; i < n * m; i++)
		t[i % m * n + i / m] = a[i];
	nt_tensor *made = nt_from_host(NT_F32, NT_CPU, t, DIMS(m, n));
	free(a);
	free(t);
	return made;
}

/* Products by blocks, and the gradient of x, g W: in fp32 and of weights in bf16, of one block (64 outputs, 512 terms, 1,024
 * rows) and of several, of wider arrays' stretches; a NaN or infinity in its row. */
static void test_blocks(void **state)
{
	static const int64_t shape[][3] = { { 5, 67, 131 }, { 1, 16, 64 }, { 33, 49, 70 }, { 70, 600, 1024 }, { 3, 2500, 70 },
					    { 1100, 66, 520 }, { 5, 65, 130 }, { 66, 64, 2 } }; /* rows, out, in */
	for (size_t i = 0; i < NLA_LEN(shape) * 2; i++) {
		int64_t n = shape[i / 2][0], out = shape[i / 2][1], in = shape[i / 2][2];
		nt_scope_push();
		nt_tensor *wide, *w = nt_narrow(stored(out, in + 4, &wide), 1, 1 + in % 2, in), *x = gauss(1, DIMS(n, in));
		nt_tensor *g = nt_narrow(gauss(1, DIMS(n, out + 5)), 1, 1, out);
		wide = nt_narrow(wide, 1, 1 + in % 2, in);
		nt_tensor *xs = i % 2 ? seen(x) : x, *gs = nt_clone(i % 2 ? seen(g) : g), *ws = i % 2 ? w : wide;
		nt_tensor *library = slope(x, wide, gs, 0);
		nt_blocks(true);
		nt_tensor *d = slope(x, ws, g, 0), *y = nt_linear(x, ws, NULL);
		assert_error(nt_linear(gauss(1, DIMS(n, in + 2)), wide, NULL), "widths differ"); /* the blocks' own words: they ran */
		nt_blocks(false);
		assert_true(error(d, gs, transpose(wide), NULL) < 1e-6 && difference(d, library) < 1e-5);
		assert_true(error(y, xs, nt_clone(wide), NULL) < 1e-6);
		nt_scope_pop();
	}
	nt_tensor *x = gauss(1, DIMS(3, 64)), *w = gauss(1, DIMS(64, 64)), *wrong = gauss(1, DIMS(3, 64));
	float *g = host(wrong);
	g[64 + 63] = NAN;
	nt_blocks(true);
	float *d = host(slope(x, w, nt_from_host(NT_F32, NT_CPU, g, DIMS(3, 64)), 0));
	nt_blocks(false);
	for (int i = 0; i < 3 * 64; i++)
		assert_true(isnan(d[i]) == (i / 64 == 1));
	free(g);
	free(d);
}

/* Elsewhere they go by blocks, or are converted a piece (2^21 numbers) at a time, and no fp32 copy outlives the pass. */
static void test_stored_pieces(void **state)
{
	static const int64_t shape[][3] = { { 5, 60, 100 }, { 3, 3000, 1024 }, { 2, 4100, 1024 } }; /* rows, out, in */
	for (size_t i = 0; i < NLA_LEN(shape); i++) {
		nt_scope_push();
		int64_t n = shape[i][0], out = shape[i][1], in = shape[i][2];
		nt_tensor *x = gauss(1, DIMS(n, in)), *g = gauss(1, DIMS(n, out)), *bias = gauss(1, DIMS(out)), *wide;
		nt_tensor *w = stored(out, in, &wide), *three = nt_reshape(x, DIMS(1, n, in));
		assert_true(error(nt_linear(x, w, bias), seen(x), wide, bias) < 1e-6);
		assert_true(difference(nt_linear(three, w, NULL), nt_linear(seen(three), wide, NULL)) < 1e-5);
		const struct nt_projection narrow = { .w = &w, .n_w = 1, .residual = g }, full = { .w = &wide, .n_w = 1, .residual = g };
		assert_true(difference(nt_project(x, &narrow), nt_project(seen(x), &full)) < 1e-5);
		assert_true(difference(slope(x, w, g, 0), slope(x, wide, seen(g), 0)) < 1e-5);
		nt_tensor *dw = slope(x, w, g, 1);
		assert_int_equal(nt_dtype_of(dw), NT_BF16);
		assert_same(dw, nt_to(slope(x, wide, g, 1), NT_BF16));
		nt_requires_grad(x, true);
		nt_peak_reset(NT_CPU);
		int64_t before = nt_peak(NT_CPU);
		nt_grad_push(true);
		nt_tensor *y = nt_linear(x, w, NULL);
		nt_grad_pop();
		nt_peak_reset(NT_CPU);
		assert_true(nt_peak(NT_CPU) - before < 8 * n * out); /* y, and a little */
		assert_made(y);
		nt_scope_pop();
	}
}

/* A vocabulary's table: rows in fp32, log-probabilities with their entropy and gradient. */
static void test_stored_table(void **state)
{
	static const int64_t ids[] = { 0, 299, 17, 17, 120 };
	nt_tensor *wide, *table = stored(300, 64, &wide), *id = nt_i64(NT_CPU, ids, 5), *entropy[2], *d[2];
	assert_same(nt_embedding(table, id), nt_embedding(wide, id));
	assert_int_equal(nt_dtype_of(nt_embedding(table, id)), NT_F32);
	nt_logprob_chunk(2 * 300 * 4); /* two rows */
	for (int plain = 0; plain < 2; plain++) {
		nt_plain(plain);
		nt_tensor *h = gauss(0.3, DIMS(5, 64)), *lp[2];
		for (int i = 0; i < 2; i++) {
			nt_tensor *leaf = nt_detach(i && !plain ? seen(h) : h);
			nt_requires_grad(leaf, true);
			nt_grad_push(true);
			lp[i] = nt_token_logprob(leaf, i ? wide : table, id, 0.7, &entropy[i]);
			nt_backward(nt_sum(lp[i]));
			nt_grad_pop();
			d[i] = nt_grad(leaf);
		}
		assert_true(difference(lp[0], lp[1]) < 1e-5 && difference(entropy[0], entropy[1]) < 1e-5);
		assert_true(difference(d[0], d[1]) < (nt_bf16_products() && !plain ? 4e-3 : 1e-5)); /* the logits' gradient is rounded */
	}
	nt_plain(false);
	nt_logprob_chunk(0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_values), TEST(test_rows_alone), TEST(test_threads), TEST(test_views),
		TEST(test_edges), TEST(test_elsewhere),	  TEST(test_adapters), TEST(test_stored_rows), TEST(test_stored_pieces),
		TEST(test_stored_table), TEST(test_other_thread), TEST(test_blocks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
