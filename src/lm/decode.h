/*
 * decode - sampling many responses at once. Every row has a slab of a static key/value cache; its prompt is computed once in a
 * packed forward pass (shared by all rows that continue it) and copied in; then all unfinished rows advance one token together.
 * On the CPU a row that has drawn a stop id costs nothing from then on; on a GPU, when the others fit into a smaller batch.
 *
 * Which token is drawn depends on the row's own uniform numbers (seed, stream, step, row, token), never on its batch.
 *
 * Several views (policies) decode as one batch: each computes the prompts by itself; then the weights' products take all rows,
 * and each view's adapters its own.
 */
#pragma once

#include "base/rng.h"
#include "lm/forward.h"

struct nla_decode {
	const struct nla_view *view;      /* merged weights make it fastest; adapters work too */
	int64_t n_views;                  /* 0: one; else view [n_views] over the same weights, each for n / n_views samples: */
	const struct nla_pack *prompts;   /* ready */
	const struct nla_inject *inject;  /* or NULL */
	const int64_t *prompt_row;        /* [n] the row of `prompts` that sample i continues */
	const uint32_t *key;              /* [n] the random numbers' row key */
	int64_t n;                        /* those of the first view first */
	int64_t max_new_tokens;
	double temperature;               /* 0: greedy */
	struct nla_rng rng;
	uint32_t step;
	const struct nla_i32s *stop;      /* stop ids; NULL: every row runs to max_new_tokens */
	int64_t min_new_tokens;           /* stop ids before that many tokens do not end a row (benchmarks) */
	int64_t ahead;                    /* tokens drawn before the host looks at one; 0: none on the CPU, 1 on a GPU */
};

struct nla_decoded {
	int64_t n, width; /* width: max_new_tokens */
	int32_t *ids;     /* [n, width], the stop token included, then -1 */
	float *logprob;   /* [n, width] of what was drawn, at the sampling temperature */
	int64_t *length;  /* [n] tokens, the stop token included */
	bool *stopped;    /* [n] ended by a stop id */
};

enum nla_status nla_decode(const struct nla_decode *d, struct nla_decoded *out, struct nla_err *err);
/* Room for n rows that nla_decoded_put fills, some at a time: rows at, at + 1, ... become `rows` of part's (same width), from
 * `from` on. */
void nla_decoded_init(struct nla_decoded *out, int64_t n, int64_t width);
void nla_decoded_put(struct nla_decoded *to, int64_t at, const struct nla_decoded *part, int64_t from, int64_t rows);
void nla_decoded_release(struct nla_decoded *out);
