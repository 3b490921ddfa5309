/* rng - Philox4x32-10 (rng.h). The key is the seed's two halves, the counter (index, row, step, stream): 192 bits to 128. */
#include "base/rng.h"

void nla_philox(uint64_t seed, uint32_t stream, uint32_t step, uint32_t row, uint32_t index, uint32_t out[4])
{
	uint32_t c0 = index, c1 = row, c2 = step, c3 = stream, k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
	for (int round = 0; round < 10; round++) {
		uint64_t p0 = (uint64_t)0xd2511f53 * c0, p1 = (uint64_t)0xcd9e8d57 * c2;
		c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		c1 = (uint32_t)p1;
		c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c3 = (uint32_t)p0;
		k0 += 0x9e3779b9; /* golden ratio */
		k1 += 0xbb67ae85; /* sqrt(3) - 1  */
	}
	memcpy(out, (uint32_t[]){ c0, c1, c2, c3 }, 4 * sizeof(*out));
}

float nla_uniform(const struct nla_rng *rng, uint32_t step, uint32_t row, uint32_t index)
{
	uint32_t x[4];
	nla_philox(rng->seed, rng->stream, step, row, index, x);
	return (float)((x[0] >> 9) * 2 + 1) * 0x1p-24f;
}

float nla_normal(const struct nla_rng *rng, uint32_t step, uint32_t row, uint32_t index)
{
	uint32_t x[4];
	nla_philox(rng->seed, rng->stream, step, row, index, x);
	double u = ((double)x[0] + 0.5) * 0x1p-32, v = ((double)x[1] + 0.5) * 0x1p-32;
	return (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * v));
}

/* The high half of a 64-bit number times n (Lemire): off by at most n / 2^64. */
uint64_t nla_below(const struct nla_rng *rng, uint32_t step, uint32_t row, uint32_t index, uint64_t n)
{
	uint32_t x[4];
	nla_philox(rng->seed, rng->stream, step, row, index, x);
	return (uint64_t)((unsigned __int128)((uint64_t)x[1] << 32 | x[0]) * n >> 64);
}

void nla_permutation(const struct nla_rng *rng, uint32_t step, int64_t *order, size_t n)
{
	for (size_t i = 0; i < n; i++)
		order[i] = (int64_t)i;
	for (size_t i = n; i > 1; i--) { /* Fisher-Yates */
		size_t j = (size_t)nla_below(rng, step, (uint32_t)((uint64_t)i >> 32), (uint32_t)i, i);
		int64_t last = order[i - 1];
		order[i - 1] = order[j];
		order[j] = last;
	}
}

/* FNV-1a leaves the high bits of short inputs weak; the final mix is MurmurHash3's. */
uint64_t nla_hash(const void *bytes, size_t n)
{
	const unsigned char *p = bytes;
	uint64_t h = 0xcbf29ce484222325;
	for (size_t i = 0; i < n; i++)
		h = (h ^ p[i]) * 0x100000001b3;
	h = (h ^ h >> 33) * 0xff51afd7ed558ccd;
	h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53;
	return h ^ h >> 33;
}
