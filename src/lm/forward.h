/*
 * forward - the transformer over a packed batch (nla_pack), with or without gradients.
 *
 *	x = embedding;  for each block: x += o(attention(norm x));  x += down(glu(gate_up(norm x)))
 *
 * In families with out_norm (arch.c) what is added is normed first; with embed_scale x begins as sqrt(D) times the embedding.
 */
#pragma once

#include "lm/lora.h"
#include "lm/pack.h"

/* An activation put into the residual stream (spec: injection). sites: indices into the pack. v stays raw. */
enum nla_inject_at { NLA_INJECT_AT_EMBEDDING, NLA_INJECT_AT_BLOCK, NLA_INJECT_REPLACE };
struct nla_inject {
	enum nla_inject_at at;
	int64_t block;    /* of the others: after this block's output, h' = h + |h| v / (|v| + 1e-9), or h' = v */
	double scale;     /* of NLA_INJECT_AT_EMBEDDING: the embedding becomes v scale / |v|                   */
	nt_tensor *sites; /* int64 [s] */
	nt_tensor *v;     /* [s, D] fp32 */
};

/* Who looks on, a block at a time; either function may be NULL. What they are given is gone after the call. */
struct nla_tap {
	void (*kv)(int64_t block, const nt_tensor *k, const nt_tensor *v, void *arg); /* [n, Hkv, d], keys after the rotation */
	void (*out)(int64_t block, const nt_tensor *x, void *arg); /* the residual stream after the block */
	void *arg;
};

/* Residual stream after `n_blocks` blocks [n, D], no final norm; scope-owned, NULL on failure. inject, tap: or NULL. */
nt_tensor *nla_forward(const struct nla_view *view, const struct nla_pack *pack, const struct nla_inject *inject,
		       int64_t n_blocks, const struct nla_tap *tap);

/* Its parts: what enters block 0, and block l with the injection that follows it. */
nt_tensor *nla_forward_start(const struct nla_view *view, const struct nla_pack *pack, const struct nla_inject *inject);
nt_tensor *nla_forward_block(const struct nla_view *view, int64_t l, const struct nla_pack *pack,
			     const struct nla_inject *inject, const nt_tensor *x, const struct nla_tap *tap);

/* Parts the decoder shares. ids [n] -> x [n,D] */
nt_tensor *nla_embed(const struct nla_lm *lm, const nt_tensor *ids);
/* The gate of the family; what scores of q and k are multiplied by; tokens that block l sees, 0: all. */
nt_tensor *nla_glu(const struct nla_arch *arch, const nt_tensor *gate_up);
double nla_score_scale(const struct nla_arch *arch);
int64_t nla_window(const struct nla_arch *arch, int64_t l);
/* [n,(Hq+2Hkv)d] -> q [n,Hq,d], k and v [n,Hkv,d]; v may be a view. */
void nla_heads(const struct nla_arch *arch, const nt_tensor *together, nt_tensor *qkv[3]);
/* The same of x [n,D] after the norm. */
void nla_block_qkv(const struct nla_view *view, int64_t layer, const nt_tensor *x, nt_tensor *qkv[3]);
/* x + o(attended) and then x + mlp(x): attended [n,Hq,d] */
nt_tensor *nla_block_finish(const struct nla_view *view, int64_t layer, const nt_tensor *x, const nt_tensor *attended);
nt_tensor *nla_final_norm(const struct nla_view *view, const nt_tensor *x);
