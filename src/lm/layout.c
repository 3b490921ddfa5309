/*
 * layout - what a model consists of; see lm.h. tensors[] says it once: names, shapes, and which tensors of a file are rows of
 * one stored matrix.
 *
 * nla_lm_next visits them as slots; loading, mapping, saving, exporting, random weights, the list of parameters, copies and the
 * count of weights are what is done at each slot.
 */
#include "lm/lm.h"

enum kind { TABLE, NORM, BIAS, PROJ }; /* PROJ + enum nla_proj: a projection */
enum dim { NONE, D, Q, KV, F, HEAD, VOCAB };

/* The embedding, the tensors of a block, the final norm and the head: the order of a saved file. */
static const struct tensor {
	const char *name; /* without ".weight" or ".bias"; a block's without "model.layers.N." */
	size_t at;
	int kind;
	enum dim out, in; /* in: of matrices alone */
	bool below;       /* its rows come below those of the tensor before, except in a mapped matrix */
	const char *only; /* in families that have it alone (arch.c), or with ! those that have not */
} tensors[] = {
#define L(field) offsetof(struct nla_lm, field)
#define B(field) offsetof(struct nla_block, field)
	{ "model.embed_tokens", L(embed), TABLE, .out = VOCAB, .in = D },
	{ "input_layernorm", B(attn_norm), NORM, .out = D },
	{ "self_attn.q_proj", B(qkv[0]), PROJ + NLA_Q, .out = Q, .in = D },
	{ "self_attn.k_proj", B(qkv[1]), PROJ + NLA_K, KV, D, .below = true },
	{ "self_attn.v_proj", B(qkv[2]), PROJ + NLA_V, KV, D, .below = true },
	{ "self_attn.q_proj", B(qkv_bias), BIAS, Q, .only = "qkv_bias" },
	{ "self_attn.k_proj", B(qkv_bias), BIAS, KV, .below = true, .only = "qkv_bias" },
	{ "self_attn.v_proj", B(qkv_bias), BIAS, KV, .below = true, .only = "qkv_bias" },
	{ "self_attn.q_norm", B(q_norm), NORM, HEAD, .only = "qk_norm" },
	{ "self_attn.k_norm", B(k_norm), NORM, HEAD, .only = "qk_norm" },
	{ "self_attn.o_proj", B(o), PROJ + NLA_O, .out = D, .in = Q },
	{ "post_attention_layernorm", B(mlp_norm), NORM, .out = D, .only = "!out_norm" },
	{ "post_attention_layernorm", B(attn_out_norm), NORM, .out = D, .only = "out_norm" },
	{ "pre_feedforward_layernorm", B(mlp_norm), NORM, .out = D, .only = "out_norm" },
	{ "mlp.gate_proj", B(gate_up[0]), PROJ + NLA_GATE, .out = F, .in = D },
	{ "mlp.up_proj", B(gate_up[1]), PROJ + NLA_UP, F, D, .below = true },
	{ "mlp.down_proj", B(down), PROJ + NLA_DOWN, .out = D, .in = F },
	{ "post_feedforward_layernorm", B(mlp_out_norm), NORM, .out = D, .only = "out_norm" },
	{ "model.norm", L(norm), NORM, .out = D },
	{ "lm_head", L(head), TABLE, .out = VOCAB, .in = D },
};
#define N_BLOCK ((int64_t)NLA_LEN(tensors) - 3)
static const struct tensor *const block = &tensors[1];
static const struct tensor *const final_norm = &tensors[1 + N_BLOCK], *const head = &tensors[2 + N_BLOCK];

static int64_t size_of(const struct nla_arch *a, enum dim dim)
{
	const int64_t sizes[] = { [NONE] = 1, [D] = a->d_model, [Q] = a->n_heads * a->head_dim, [F] = a->d_ff,
				  [KV] = a->n_kv_heads * a->head_dim, [HEAD] = a->head_dim, [VOCAB] = a->vocab };
	return sizes[dim];
}

/* From the slot before to that of t: all but its name. */
static void advance(const struct nla_lm *lm, const struct tensor *t, struct nla_slot *s)
{
	bool matrix = t->in != NONE, apart = matrix && lm->mapped, below = t->below && !apart;
	s->row = below ? s->row + s->shape[0] : 0;
	s->at = below ? s->at : t->at;
	s->shape[0] = size_of(&lm->arch, t->out);
	s->shape[1] = size_of(&lm->arch, t->in);
	s->ndim = matrix ? 2 : 1;
	s->bias = t->kind == BIAS;
	s->less = t->kind == NORM && nla_arch_has(&lm->arch, "norm_plus_one") ? 1 : 0;
	s->exact = s->less > 0 || t->out == HEAD; /* of heads: so their kernels read them */
	s->proj = t->kind >= PROJ ? t->kind - PROJ : -1;
	s->rows = s->row + s->shape[0];
	while (!apart && t < head && (++t)->below)
		s->rows += size_of(&lm->arch, t->out);
}

static bool has(const struct nla_arch *a, const struct tensor *t)
{
	if (t == final_norm || t == head)
		return t == head ? !a->tied : !a->bare;
	const bool not = t->only && *t->only == '!';
	return !t->only || nla_arch_has(a, t->only + not) != not;
}

bool nla_lm_next(const struct nla_lm *lm, struct nla_slot *s)
{
	int64_t in_blocks = lm->arch.n_layers * N_BLOCK;
	while (s->n_seen < in_blocks + 3) {
		int64_t at = s->n_seen++ - 1;
		bool inside = at >= 0 && at < in_blocks;
		const struct tensor *t = inside ? &block[at % N_BLOCK] : at < 0 ? tensors : &final_norm[at - in_blocks];
		if (!has(&lm->arch, t))
			continue;
		char prefix[40] = "";
		s->layer = inside ? at / N_BLOCK : -1;
		advance(lm, t, s);
		if (inside)
			snprintf(prefix, sizeof(prefix), "model.layers.%lld.", (long long)s->layer);
		snprintf(s->name, sizeof(s->name), "%s%.40s.%s", prefix, t->name, s->bias ? "bias" : "weight");
		return true;
	}
	return false;
}

int64_t nla_arch_n_params(const struct nla_arch *a)
{
	const struct nla_lm lm = { .arch = *a };
	int64_t n = 0;
	for (struct nla_slot s = { 0 }; nla_lm_next(&lm, &s);)
		n += s.shape[0] * s.shape[1];
	return n;
}

static const struct tensor *proj_tensor(enum nla_proj proj)
{
	const struct tensor *t = block;
	while (t->kind != PROJ + (int)proj)
		t++;
	return t;
}

const char *nla_proj_path(enum nla_proj proj) { return proj_tensor(proj)->name; }
const char *nla_proj_name(enum nla_proj proj) { return strrchr(nla_proj_path(proj), '.') + 1; }
int64_t nla_proj_in(const struct nla_arch *a, enum nla_proj proj) { return size_of(a, proj_tensor(proj)->in); }
int64_t nla_proj_out(const struct nla_arch *a, enum nla_proj proj) { return size_of(a, proj_tensor(proj)->out); }

void nla_proj_slot(const struct nla_lm *lm, int64_t layer, enum nla_proj proj, struct nla_slot *slot)
{
	*slot = (struct nla_slot){ .layer = layer };
	for (const struct tensor *t = block; t <= proj_tensor(proj); t++)
		advance(lm, t, slot);
}

unsigned nla_proj_together(const struct nla_lm *lm, enum nla_proj proj)
{
	struct nla_slot own, other;
	unsigned found = 0;
	nla_proj_slot(lm, 0, proj, &own);
	for (int p = 0; p < NLA_N_PROJ; p++) {
		nla_proj_slot(lm, 0, p, &other);
		found |= (unsigned)(other.at == own.at) << p;
	}
	return found;
}
