/*
 * arch - what a model folder's config.json says of the architecture. Qwen3: grouped queries, RMS norm per head on q and k before
 * the rotary embedding, SwiGLU, tied or untied head. A field that changes the mathematics and is not honoured is an error naming
 * it, never a guess.
 */
#ifndef NLA_ARCH_H
#define NLA_ARCH_H

#include "base/base.h"

struct nla_arch {
	char family[32]; /* model_type */
	int64_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab, max_position;
	double rope_theta, rms_eps, init_std;
	bool tied, qk_norm;
};

/* FOLDER/config.json */
enum nla_status nla_arch_read(struct nla_arch *arch, const char *folder, struct nla_err *err);
/* Weights of the whole model. */
int64_t nla_arch_n_params(const struct nla_arch *arch);

#endif
