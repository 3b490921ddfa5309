/*
 * rng - random numbers without hidden state: Philox4x32-10 (Salmon et al., SC 2011), keyed by (seed, stream) and counted by
 * (step, row, index). A row's numbers depend neither on its batch nor on what was drawn before, and a resumed run draws what
 * the uninterrupted one would have drawn.
 */
#pragma once

#include "base/base.h"

enum nla_stream { /* one per use: never renumber, checkpoints and results depend on it */
	NLA_STREAM_INIT = 1,    /* weights, a warm start's AV: tensor number, row, column */
	NLA_STREAM_SHUFFLE = 2, /* order of training rows: step = epoch           */
	NLA_STREAM_SAMPLE = 3,  /* rollout tokens: step, row in batch, token      */
	NLA_STREAM_EVAL = 4,    /* evaluation tokens: 0, data set row, token      */
	NLA_STREAM_EXTRACT = 5, /* positions: hash of the document                */
	NLA_STREAM_SPLIT = 6,   /* document -> split                              */
	NLA_STREAM_TEST = 7,
	NLA_STREAM_TEACH = 8,   /* explanations by a teacher: try, data set row, token */
	NLA_STREAM_COMPOSE = 9, /* how much an explanation quotes: 0, row, what   */
	NLA_STREAM_INIT_AR = 10, /* the same of a warm start's AR, of RL's AV and of its AR */
	NLA_STREAM_INIT_RL = 11,
	NLA_STREAM_INIT_RL_AR = 12,
};

struct nla_rng {
	uint64_t seed;
	uint32_t stream;
};

void nla_philox(uint64_t seed, uint32_t stream, uint32_t step, uint32_t row, uint32_t index, uint32_t out[4]);

/* Uniform in the open interval (0,1): an odd multiple of 2^-24, exact in fp32 and never 0 or 1. */
float nla_uniform(const struct nla_rng *rng, uint32_t step, uint32_t row, uint32_t index);
/* Standard normal (Box-Muller on one Philox block). */
float nla_normal(const struct nla_rng *rng, uint32_t step, uint32_t row, uint32_t index);
/* Integer in [0, n), n > 0, unbiased to n / 2^64. */
uint64_t nla_below(const struct nla_rng *rng, uint32_t step, uint32_t row, uint32_t index, uint64_t n);
/* order[0..n) becomes a permutation of 0..n-1, the same for the same (seed, stream, step). */
void nla_permutation(const struct nla_rng *rng, uint32_t step, int64_t *order, size_t n);
/* 64-bit hash of bytes (FNV-1a with a final mix), stable across machines. */
uint64_t nla_hash(const void *bytes, size_t n);
