/*
 * layout - what a model consists of; see lm.h.
 *
 * block_tensors[] and top_tensors[] say once what a model consists of: names, shapes, and which tensors of a file are rows of
 * one stored matrix. nla_lm_each visits them as slots; loading, mapping, saving, exporting, random weights, the list of
 * parameters, copies and the count of weights are what is done at each slot.
 */
#include "lm/lm.h"

#include <stdio.h>
#include <string.h>

enum kind { PROJ, TABLE, NORM, BIAS }; /* the first two are matrices; projections are in the order of enum nla_proj */
enum dim { NONE, D, Q, KV, F, HEAD, VOCAB };

static const struct tensor {
	const char *name; /* without ".weight" or ".bias"; a block's without "model.layers.N." */
	size_t at;
	enum kind kind;
	enum dim out, in;
	bool below;       /* its rows come below those of the tensor before, except in a mapped matrix */
	const char *only; /* in families that have it alone (arch.c) */
} block_tensors[] = {
#define B(field) offsetof(struct nla_block, field)
	{ "input_layernorm", B(attn_norm), NORM, .out = D },
	{ "self_attn.q_proj", B(qkv[0]), PROJ, .out = Q, .in = D },
	{ "self_attn.k_proj", B(qkv[1]), PROJ, KV, D, .below = true },
	{ "self_attn.v_proj", B(qkv[2]), PROJ, KV, D, .below = true },
	{ "self_attn.q_proj", B(qkv_bias), BIAS, Q, .only = "qkv_bias" },
	{ "self_attn.k_proj", B(qkv_bias), BIAS, KV, .below = true, .only = "qkv_bias" },
	{ "self_attn.v_proj", B(qkv_bias), BIAS, KV, .below = true, .only = "qkv_bias" },
	{ "self_attn.q_norm", B(q_norm), NORM, HEAD, .only = "qk_norm" },
	{ "self_attn.k_norm", B(k_norm), NORM, HEAD, .only = "qk_norm" },
	{ "self_attn.o_proj", B(o), PROJ, .out = D, .in = Q },
	{ "post_attention_layernorm", B(mlp_norm), NORM, .out = D },
	{ "mlp.gate_proj", B(gate_up[0]), PROJ, .out = F, .in = D },
	{ "mlp.up_proj", B(gate_up[1]), PROJ, F, D, .below = true },
	{ "mlp.down_proj", B(down), PROJ, .out = D, .in = F },
}, top_tensors[] = {
	{ "model.embed_tokens", offsetof(struct nla_lm, embed), TABLE, .out = VOCAB, .in = D },
	{ "model.norm", offsetof(struct nla_lm, norm), NORM, .out = D },
	{ "lm_head", offsetof(struct nla_lm, head), TABLE, .out = VOCAB, .in = D },
};

static int64_t size_of(const struct nla_arch *a, enum dim dim)
{
	switch (dim) {
	case D: return a->d_model;
	case Q: return a->n_heads * a->head_dim;
	case KV: return a->n_kv_heads * a->head_dim;
	case F: return a->d_ff;
	case HEAD: return a->head_dim;
	case VOCAB: return a->vocab;
	default: return 1;
	}
}

/* From the slot before to that of t: all but its name. end: of the table. */
static void advance(const struct nla_lm *lm, const struct tensor *t, const struct tensor *end, struct nla_slot *s)
{
	bool matrix = t->in != NONE, apart = matrix && lm->mapped;
	s->row = t->below && !apart ? s->row + s->shape[0] : 0;
	s->at = t->below && !apart ? s->at : t->at;
	s->shape[0] = size_of(&lm->arch, t->out);
	s->shape[1] = size_of(&lm->arch, t->in);
	s->ndim = matrix ? 2 : 1;
	s->bias = t->kind == BIAS;
	s->rows = s->row + s->shape[0];
	while (!apart && ++t < end && t->below)
		s->rows += size_of(&lm->arch, t->out);
}

static bool has(const struct nla_arch *a, const struct tensor *t) { return !t->only || nla_arch_has(a, t->only); }

static enum nla_status visit(const struct nla_lm *lm, const struct tensor *t, size_t n, int64_t layer, nla_slot_fn *fn,
			     void *arg, struct nla_err *err)
{
	const struct tensor *end = t + n;
	struct nla_slot s = { .layer = layer };
	char prefix[40] = "";
	int proj = 0;
	if (layer >= 0)
		snprintf(prefix, sizeof(prefix), "model.layers.%lld.", (long long)layer);
	for (; t < end && !err->status; t++) {
		if (!has(&lm->arch, t))
			continue;
		advance(lm, t, end, &s);
		snprintf(s.name, sizeof(s.name), "%s%.40s.%s", prefix, t->name, t->kind == BIAS ? "bias" : "weight");
		s.proj = t->kind == PROJ ? proj++ : -1;
		fn(&s, arg, err);
	}
	return err->status;
}

enum nla_status nla_lm_each(const struct nla_lm *lm, nla_slot_fn *fn, void *arg, struct nla_err *err)
{
	visit(lm, top_tensors, 1, -1, fn, arg, err);
	for (int64_t l = 0; l < lm->arch.n_layers && !err->status; l++)
		visit(lm, block_tensors, NLA_LEN(block_tensors), l, fn, arg, err);
	if (!err->status && !lm->arch.bare)
		visit(lm, top_tensors + 1, 1, -1, fn, arg, err);
	if (!err->status && !lm->arch.tied)
		visit(lm, top_tensors + 2, 1, -1, fn, arg, err);
	return err->status;
}

static enum nla_status count_slot(const struct nla_slot *s, void *arg, struct nla_err *err)
{
	*(int64_t *)arg += s->shape[0] * s->shape[1];
	return NLA_OK;
}

int64_t nla_arch_n_params(const struct nla_arch *a)
{
	const struct nla_lm lm = { .arch = *a };
	struct nla_err none = NLA_ERR_INIT;
	int64_t n = 0;
	nla_lm_each(&lm, count_slot, &n, &none);
	return n;
}

static const struct tensor *proj_tensor(enum nla_proj proj)
{
	const struct tensor *t = block_tensors;
	for (int n = 0;; t++)
		if (t->kind == PROJ && n++ == (int)proj)
			return t;
}

const char *nla_proj_path(enum nla_proj proj) { return proj_tensor(proj)->name; }

const char *nla_proj_name(enum nla_proj proj) { return strrchr(nla_proj_path(proj), '.') + 1; }

int64_t nla_proj_in(const struct nla_arch *a, enum nla_proj proj) { return size_of(a, proj_tensor(proj)->in); }

int64_t nla_proj_out(const struct nla_arch *a, enum nla_proj proj) { return size_of(a, proj_tensor(proj)->out); }

void nla_proj_slot(const struct nla_lm *lm, int64_t layer, enum nla_proj proj, struct nla_slot *slot)
{
	*slot = (struct nla_slot){ .layer = layer };
	for (const struct tensor *t = block_tensors; t <= proj_tensor(proj); t++)
		advance(lm, t, block_tensors + NLA_LEN(block_tensors), slot);
}
