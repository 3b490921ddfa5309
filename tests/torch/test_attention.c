/* Attention over token trees and over a cache: the fast versions against the plain one, forward and backward, over many trees and
 * windows; against sums written out in double; flash attention's bf16 against fp32. */
#include "tensors.h"

/* Three generations: a common head, prompts under it, responses under them, and rows that stand alone between. */
static void fill_forest(struct attention_case *c)
{
	c->n_rows = 0;
	for (int prompt = 0; prompt < 8; prompt++) {
		int64_t at = c->n_rows, alone = prompt % 3 == 2;
		if (prompt % 4 == 0) {
			c->length[at] = 11 + prompt;
			c->parent[at] = -1;
			c->n_rows = ++at;
		}
		c->length[at] = 1 + prompt * 5;
		c->parent[at] = alone ? -1 : prompt < 4 ? 0 : prompt == 4 ? at - 1 : c->parent[at - 3];
		c->n_rows = at + 1;
		for (int response = 0; response < 2; response++) {
			c->length[c->n_rows] = response ? 1 : 9 + prompt;
			c->parent[c->n_rows++] = at;
		}
	}
}

static struct attention_case attention_cases[] = {
	{ 1, { 1 }, { -1 }, 1, 1, 4, false, NULL, 0, 0 },
	{ 1, { 1 }, { -1 }, 4, 2, 8, true, NULL, 0, 0 },
	{ 1, { 7 }, { -1 }, 3, 3, 5, false, NULL, 0, 0 },
	{ 1, { 33 }, { -1 }, 4, 1, 16, true, NULL, 0, 0 },
	{ 5, { 1, 1, 1, 1, 1 }, { -1, -1, 0, 0, 2 }, 4, 2, 8, true, NULL, 0, 0 },
	{ 6, { 5, 3, 4, 1, 6, 2 }, { -1, 0, 1, 1, 0, 4 }, 4, 2, 16, true, NULL, 0, 0 },
	{ 6, { 5, 3, 4, 1, 6, 2 }, { -1, 0, 1, 1, 0, 4 }, 6, 3, 7, false, NULL, 0, 0 },
	{ 3, { 200, 120, 40 }, { -1, 0, 0 }, 4, 2, 32, true, NULL, 0, 0 },
	{ 1, { 300 }, { -1 }, 2, 1, 64, false, NULL, 0, 0 },
	{ 0, { 0 }, { 0 }, 4, 2, 32, true, NULL, 0, 0 }, /* the forest */
	{ 0, { 0 }, { 0 }, 9, 3, 64, false, NULL, 0, 0 },
};

static const int64_t windows[] = { 0, 2, 3, 8, 40 }; /* seeing itself alone, a token has no gradient but rounding */

static void test_attention(void **state)
{
	struct twins all = { 0, 0 };

	for (size_t i = 0; i < NLA_LEN(attention_cases) * NLA_LEN(windows); i++) {
		struct attention_case *c = &attention_cases[i / NLA_LEN(windows)];
		c->window = windows[i % NLA_LEN(windows)];
		if (!c->n_rows)
			fill_forest(c);
		open_tree(c);
		nt_tensor *apart[3] = { gauss(1, DIMS(c->n, c->hq, c->d)), gauss(1, DIMS(c->n, c->hkv, c->d)),
					gauss(1, DIMS(c->n, c->hkv, c->d)) };
		nt_tensor *fused[1] = { gauss(1.5, DIMS(c->n, (c->hq + 2 * c->hkv) * c->d)) };
		widen(&all, compare(attention, c, c->fused ? fused : apart, c->fused ? 1 : 3, 0));
		if (!c->fused && !c->window)
			for (unsigned frozen = 1; frozen < 7; frozen++)
				widen(&all, compare(attention, c, apart, 3, frozen));
		nt_tree_free(c->tree);
	}
	assert_twins("attention", all, 1e-5);
}

/* In bf16, on a GPU by flash attention: against fp32 on the same numbers, within what bf16 holds; and the same bits again. */
static void test_attention_bf16(void **state)
{
	struct twins all = { 0, 0 };

	for (size_t i = 0; i < NLA_LEN(attention_cases) * NLA_LEN(windows); i++) {
		struct attention_case *c = &(struct attention_case){ 0 };
		nt_tensor *leaf[3][3], *y[3], *toward = NULL; /* fp32, bf16, bf16 again */
		*c = attention_cases[i / NLA_LEN(windows)];
		c->fused = false;
		c->window = windows[i % NLA_LEN(windows)];
		if (c->d % 8)
			continue;
		if (!c->n_rows)
			fill_forest(c);
		open_tree(c);
		for (int k = 0; k < 3; k++) {
			nt_tensor *x = nt_to(gauss(1, DIMS(c->n, k ? c->hkv : c->hq, c->d)), NT_BF16);
			for (int run = 0; run < 3; run++)
				nt_requires_grad(leaf[run][k] = nt_clone(run ? x : nt_to(x, NT_F32)), true);
		}
		toward = nt_to(gauss(1, DIMS(c->n, c->hq, c->d)), NT_BF16);
		for (int run = 0; run < 3; run++) {
			nt_grad_push(true);
			y[run] = attention(leaf[run], c);
			nt_grad_pop();
			assert_int_equal(nt_backward_with(y[run], run ? toward : nt_to(toward, NT_F32)), NT_OK);
		}
		all.out = fmax(all.out, difference(nt_to(y[1], NT_F32), y[0]));
		assert_true(difference(y[2], y[1]) == 0);
		for (int k = 0; k < 3; k++) {
			all.grad = fmax(all.grad, difference(nt_to(nt_grad(leaf[1][k]), NT_F32), nt_grad(leaf[0][k])));
			assert_true(difference(nt_grad(leaf[2][k]), nt_grad(leaf[1][k])) == 0);
		}
		nt_tree_free(c->tree);
	}
	printf("attention in bf16: result %.2g, gradients %.2g of the largest\n", all.out, all.grad);
	assert_true(all.out < 0.004 && all.grad < (DEVICE == NT_CPU ? 0.012 : 0.008)); /* SDPA sums shared keys in bf16 */
}

/* One token alone, out of a wider array: what it sees is its own value. */
static void test_attention_of_one_token(void **state)
{
	struct attention_case c = { 1, { 1 }, { -1 }, 2, 1, 8, false, NULL, 0, 0 };

	open_tree(&c);
	nt_tensor *wide = gauss(1, DIMS(3, 64));
	nt_tensor *q = nt_reshape(nt_narrow(nt_narrow(wide, 0, 1, 1), 1, 8, 16), DIMS(1, 2, 8));
	nt_tensor *k = nt_reshape(nt_narrow(nt_narrow(wide, 0, 1, 1), 1, 24, 8), DIMS(1, 1, 8));
	nt_tensor *o = nt_attention(q, k, k, c.tree, 0, 0.3);
	float *got = host(o), *want = host(k);
	for (int i = 0; i < 16; i++)
		assert_true(fabs(got[i] - want[i % 8]) < 1e-6);
	free(got);
	free(want);
	nt_tree_free(c.tree);
}

/* What the header says, in double: tokens see their ancestors' tokens and their own row's, causally, the last `window` of them. */
static void test_attention_written_out(void **state)
{
	struct attention_case c = { 6, { 5, 3, 4, 1, 6, 2 }, { -1, 0, 1, 1, 0, 4 }, 4, 2, 16, false, NULL, 0, 0 };
	int64_t row_of[64], place[64], n = 0;
	double worst[2] = { 0, 0 };

	open_tree(&c);
	for (int64_t i = 0; i < c.n_rows; i++)
		for (int64_t j = 0; j < c.length[i]; j++) {
			place[n] = j;
			row_of[n] = i;
			for (int64_t a = c.parent[i]; a >= 0; a = c.parent[a])
				place[n] += c.length[a];
			n++;
		}
	nt_tensor *in[3] = { gauss(1, DIMS(n, 4, 16)), gauss(1, DIMS(n, 2, 16)), gauss(1, DIMS(n, 2, 16)) };
	float *q = host(in[0]), *k = host(in[1]), *v = host(in[2]);
	for (size_t w = 0; w < 2 * NLA_LEN(windows); w++) {
		int plain = w % 2;
		c.window = windows[w / 2];
		nt_plain(plain);
		float *o = host(attention(in, &c));
		for (int64_t t = 0; t < n; t++)
			for (int64_t h = 0; h < 4; h++) {
				double sum = 0, want[16] = { 0 };
				for (int64_t s = 0; s <= t; s++) {
					bool sees = false;
					for (int64_t a = row_of[t]; a >= 0; a = c.parent[a])
						sees |= a == row_of[s] && (!c.window || place[s] > place[t] - c.window);
					if (!sees)
						continue;
					double z = 0;
					for (int i = 0; i < 16; i++)
						z += (double)q[(t * 4 + h) * 16 + i] * k[(s * 2 + h / 2) * 16 + i];
					z = exp(z / 4);
					sum += z;
					for (int i = 0; i < 16; i++)
						want[i] += z * v[(s * 2 + h / 2) * 16 + i];
				}
				for (int i = 0; i < 16; i++)
					worst[plain] = fmax(worst[plain], fabs(want[i] / sum - o[(t * 4 + h) * 16 + i]));
			}
		free(o);
	}
	printf("attention from double        fast %.2g, plain %.2g\n", worst[0], worst[1]);
	assert_true(worst[0] < 2e-6 && worst[1] < 2e-6);
	free(q);
	free(k);
	free(v);
	nt_tree_free(c.tree);
}

/* A step of decoding sees what the same tokens would in one packed row; slots are out of order, and S is longer than any row.
 */
static void test_attention_cached(void **state)
{
	static const int64_t dims[] = { 5, 32, 64, 128 }, length[4] = { 1, 9, 30, 17 }, slot[4] = { 3, 0, 4, 1 };
	double worst = 0, twin = 0, once = 0;

	for (size_t i = 0; i < NLA_LEN(dims) * NLA_LEN(windows); i++)
		for (int64_t hq = 2; hq <= 8; hq *= 2) {
			int64_t d = dims[i % NLA_LEN(dims)], window = windows[i / NLA_LEN(dims)];
			nt_tensor *kc = nt_zeros(NT_F32, DEVICE, DIMS(5, 32, 2, d)),
				  *vc = nt_zeros(NT_F32, DEVICE, DIMS(5, 32, 2, d));
			nt_tensor *q = gauss(1, DIMS(4, hq, d)), *want[4];
			for (int64_t r = 0; r < 4; r++) {
				int64_t n = length[r], at[32], in[32], none = -1;
				nt_tensor *k = gauss(1, DIMS(n, 2, d)), *v = gauss(1, DIMS(n, 2, d));
				for (int64_t j = 0; j < n; j++) {
					at[j] = j;
					in[j] = slot[r];
				}
				assert_int_equal(nt_cache_put(kc, nt_i64(DEVICE, in, n), nt_i64(DEVICE, at, n), k), NT_OK);
				assert_int_equal(nt_cache_put(vc, nt_i64(DEVICE, in, n), nt_i64(DEVICE, at, n), v), NT_OK);
				nt_tree *tree = nt_tree_new(&n, &none, 1, DEVICE);
				nt_tensor *parts[2] = { n > 1 ? nt_zeros(NT_F32, DEVICE, DIMS(n - 1, hq, d)) : NULL,
							nt_narrow(q, 0, r, 1) };
				nt_tensor *all = n > 1 ? nt_cat(parts, 2, 0) : parts[1];
				want[r] = nt_narrow(nt_attention(all, k, v, tree, window, 0.2), 0, n - 1, 1);
				nt_tree_free(tree);
			}
			nt_tensor *slots = nt_i64(DEVICE, slot, 4), *lengths = nt_i64(DEVICE, length, 4),
				  *w = nt_cat(want, 4, 0);
			nt_tensor *fast = nt_attention_cached(q, kc, vc, slots, lengths, window, 0.2);
			worst = fmax(worst, difference(fast, w));
			nt_plain(true);
			twin = fmax(twin, difference(fast, nt_attention_cached(q, kc, vc, slots, lengths, window, 0.2)));
			nt_plain(false);
			for (int64_t r = 0; r < 4; r++)
				once = fmax(once, difference(nt_attention_cached(nt_narrow(q, 0, r, 1), kc, vc,
										 nt_narrow(slots, 0, r, 1),
										 nt_narrow(lengths, 0, r, 1), window, 0.2),
							     nt_narrow(fast, 0, r, 1)));
		}
	printf("attention_cached             packed %.2g, plain %.2g, row alone %.2g\n", worst, twin, once);
	/* The fast version takes row by row; libtorch's products, all that a device has, sum in another order for another batch. */
	assert_true(worst < 2e-6 && twin < 2e-6 && (twin > 0) == (DEVICE == NT_CPU || own_kernels()));
	assert_true(DEVICE == NT_CPU ? once == 0 : once < 2e-6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_attention),
		TEST(test_attention_bf16),
		TEST(test_attention_of_one_token),
		TEST(test_attention_written_out),
		TEST(test_attention_cached),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
