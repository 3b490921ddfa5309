/* Philox against the published vectors (Random123's kat_vectors, philox4x32 10), and the laws its users count on. */
#include "scratch.h"

#include <math.h>

#include "base/rng.h"

static void test_known_answers(void **state)
{
	static const struct {
		uint32_t counter[4], key[2], want[4];
	} rows[] = {
		{ { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
		{ { ~0u, ~0u, ~0u, ~0u }, { ~0u, ~0u }, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
		{ { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
		  { 0xa4093822, 0x299f31d0 },
		  { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
	};
	uint32_t out[4];

	for (size_t i = 0; i < NLA_LEN(rows); i++) {
		const uint32_t *c = rows[i].counter;
		nla_philox((uint64_t)rows[i].key[1] << 32 | rows[i].key[0], c[3], c[2], c[1], c[0], out);
		assert_memory_equal(out, rows[i].want, sizeof(out));
	}
}

/* Seed, stream, step, row and index each change the number: none is dropped. */
static void test_every_coordinate_counts(void **state)
{
	const struct nla_rng base = { 1, 2 };
	float u[7] = {
		nla_uniform(&base, 3, 4, 5), nla_uniform(&(struct nla_rng){ 1 | 1ull << 40, 2 }, 3, 4, 5),
		nla_uniform(&(struct nla_rng){ 2, 2 }, 3, 4, 5), nla_uniform(&(struct nla_rng){ 1, 3 }, 3, 4, 5),
		nla_uniform(&base, 4, 4, 5), nla_uniform(&base, 3, 5, 5), nla_uniform(&base, 3, 4, 6),
	};

	for (int i = 0; i < 7; i++)
		for (int j = 0; j < i; j++)
			assert_true(u[i] != u[j]);
	assert_true(u[0] == nla_uniform(&base, 3, 4, 5));
}

static void test_uniform(void **state)
{
	const struct nla_rng rng = { 7, NLA_STREAM_TEST };
	enum { N = 1 << 20 };
	double sum = 0, square = 0;
	float low = 1, high = 0;

	for (uint32_t i = 0; i < N; i++) {
		float u = nla_uniform(&rng, 0, i & 1, i >> 1);
		low = fminf(low, u);
		high = fmaxf(high, u);
		sum += u;
		square += (double)u * u;
	}
	assert_true(low >= 0x1p-24f && high <= 1 - 0x1p-24f);
	assert_true(low < 1e-4f && high > 1 - 1e-4f);
	assert_true(fabs(sum / N - 0.5) < 5 * sqrt(1.0 / 12 / N));
	assert_true(fabs(square / N - 1.0 / 3) < 5 * sqrt(4.0 / 45 / N));
}

/* Moments, and the tail beyond two standard deviations (0.0455), all within five standard errors. */
static void test_normal(void **state)
{
	const struct nla_rng rng = { 11, NLA_STREAM_TEST };
	enum { N = 1 << 18 };
	double m1 = 0, m2 = 0, m4 = 0, tail = 0;

	for (uint32_t i = 0; i < N; i++) {
		double x = nla_normal(&rng, 1, 2, i);
		assert_true(isfinite(x));
		m1 += x;
		m2 += x * x;
		m4 += x * x * x * x;
		tail += fabs(x) > 2;
	}
	assert_true(fabs(m1 / N) < 5 / sqrt(N));
	assert_true(fabs(m2 / N - 1) < 5 * sqrt(2.0 / N));
	assert_true(fabs(m4 / N - 3) < 5 * sqrt(96.0 / N));
	assert_true(fabs(tail / N - 0.0455) < 5 * sqrt(0.0455 / N));
}

static void test_below(void **state)
{
	const struct nla_rng rng = { 3, NLA_STREAM_TEST };
	enum { N = 70000 };
	int count[7] = { 0 };

	for (uint32_t i = 0; i < N; i++) {
		uint64_t x = nla_below(&rng, 0, 0, i, 7);
		assert_true(x < 7);
		count[x]++;
	}
	for (int i = 0; i < 7; i++)
		assert_true(abs(count[i] - N / 7) < 5 * sqrt(N / 7.0));
	assert_int_equal(nla_below(&rng, 0, 0, 0, 1), 0);
	uint64_t large = 0;
	for (uint32_t i = 0; i < 64; i++)
		large = NLA_MAX(large, nla_below(&rng, 0, 1, i, UINT64_MAX));
	assert_true(large > UINT64_MAX / 2); /* all 64 bits are drawn */
}

static void test_permutation(void **state)
{
	const struct nla_rng rng = { 5, NLA_STREAM_SHUFFLE };
	enum { N = 1000 };
	int64_t a[N], b[N];
	bool seen[N] = { false };
	int fixed = 0, same = 0, first[3][3] = { { 0 } };

	nla_permutation(&rng, 0, a, N);
	nla_permutation(&rng, 1, b, N);
	for (int i = 0; i < N; i++) {
		assert_true(a[i] >= 0 && a[i] < N && !seen[a[i]]);
		seen[a[i]] = true;
		fixed += a[i] == i;
		same += a[i] == b[i];
	}
	assert_true(fixed < 10 && same < 10); /* one of each expected */
	nla_permutation(&rng, 0, b, N);
	assert_memory_equal(a, b, sizeof(a));
	for (uint32_t step = 0; step < 9000; step++) {
		nla_permutation(&rng, step, b, 3);
		for (int i = 0; i < 3; i++)
			first[i][b[i]]++;
	}
	for (int i = 0; i < 9; i++)
		assert_true(abs(first[i / 3][i % 3] - 3000) < 5 * sqrt(2000));
	nla_permutation(&rng, 0, b, 1);
	assert_int_equal(b[0], 0);
	nla_permutation(&rng, 0, NULL, 0);
}

/* The last step before the mix is invertible, so the published FNV-1a values pin the hash through it. */
static uint64_t mix(uint64_t h)
{
	h = (h ^ h >> 33) * 0xff51afd7ed558ccd;
	h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53;
	return h ^ h >> 33;
}

static void test_hash(void **state)
{
	assert_true(nla_hash("", 0) == mix(0xcbf29ce484222325)); /* FNV-1a test vectors, Noll */
	assert_true(nla_hash("a", 1) == mix(0xaf63dc4c8601ec8c));
	assert_true(nla_hash("foobar", 6) == mix(0x85944171f73967e8));
	assert_true(nla_hash("\xff", 1) == mix((0xcbf29ce484222325 ^ 0xff) * 0x100000001b3)); /* bytes are unsigned */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known_answers), cmocka_unit_test(test_every_coordinate_counts),
		cmocka_unit_test(test_uniform),       cmocka_unit_test(test_normal),
		cmocka_unit_test(test_below),         cmocka_unit_test(test_permutation),
		cmocka_unit_test(test_hash),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
