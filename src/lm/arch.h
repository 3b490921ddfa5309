/*
 * arch - what a model folder's config.json says of the architecture: a decoder with RMS norms, rotary embedding, grouped
 * queries, a gated MLP and a tied or untied head. Families differ in few facts (families[] in arch.c): Qwen3 norms q and k per
 * head, Qwen2 and 2.5 have biases on q, k and v, Llama (2, 3, SmolLM2) has neither; Gemma 3 has a window in most blocks, more
 * norms, and whatever is in its row. A field that changes the mathematics, or that is not known, is an error naming it, never a
 * guess.
 */
#pragma once

#include "base/base.h"

struct nla_arch {
	const char *family; /* model_type */
	int64_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab, max_position;
	double rope_theta, rms_eps, init_std;
	bool tied;
	bool cut, bare;   /* a reconstructor's first blocks; no final norm */
	const char *with; /* what it has more than Llama; NULL: nothing */
	const char *inside; /* the folder has other modalities too; this is its text_config, alone of this class; or NULL */
	double query_scalar;    /* scores are q k / sqrt(query_scalar) */
	/* Blocks see the last `window` tokens and turn by rope_local, but for each `pattern`-th; pattern 1: none does. */
	int64_t window, pattern;
	double rope_local;
	/* The rotary embedding of blocks without a window: slowed by rope_factor (0: it is not), with rope_llama3 its long
	 * waves alone (lm.c has the formula) */
	bool rope_llama3;
	double rope_factor, rope_low, rope_high;
	int64_t rope_original; /* positions it was trained on */
};

/* FOLDER/config.json */
enum nla_status nla_arch_read(struct nla_arch *arch, const char *folder, struct nla_err *err);
/* Is `what` among arch->with? */
bool nla_arch_has(const struct nla_arch *arch, const char *what);
/* Has the block a window? */
static inline bool nla_arch_local(const struct nla_arch *arch, int64_t layer)
{
	return arch->pattern > 1 && (layer + 1) % arch->pattern != 0;
}
