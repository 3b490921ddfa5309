/*
 * arch - what a model folder's config.json says of the architecture: a decoder with RMS norms, rotary embedding, grouped
 * queries, SwiGLU and a tied or untied head. Families differ in few facts (families[] in arch.c): Qwen3 norms q and k per head,
 * Qwen2 and 2.5 have biases on q, k and v, Llama (2, 3, SmolLM2) has neither. A field that changes the mathematics, or that is
 * not known, is an error naming it, never a guess.
 */
#pragma once

#include "base/base.h"

struct nla_arch {
	const char *family; /* model_type */
	int64_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab, max_position;
	double rope_theta, rms_eps, init_std;
	bool tied;
	bool cut, bare;   /* a reconstructor's first blocks; no final norm */
	const char *with; /* what its tensors have more than Llama's; NULL: nothing */
	/* Llama 3's stretching of the rotary embedding's long waves (lm.c has the formula) */
	bool rope_llama3;
	double rope_factor, rope_low, rope_high;
	int64_t rope_original; /* positions it was trained on */
};

/* FOLDER/config.json */
enum nla_status nla_arch_read(struct nla_arch *arch, const char *folder, struct nla_err *err);
/* Is `what` among arch->with? */
bool nla_arch_has(const struct nla_arch *arch, const char *what);
