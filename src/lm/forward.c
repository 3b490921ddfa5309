/*
 * The transformer over a pack, see forward.h: embedding [n, D]; blocks (norm, q k v, rotary embedding, attention over the tree,
 * o; norm, SwiGLU); a vector added to the residual stream at its marker. Training and decoding share the parts of a block.
 */
#include "lm/forward.h"

#include <math.h>

#include "lm/beside.h"

/* y plus what the view's adapters add for this projection */
static nt_tensor *adapt(const struct nla_view *view, int64_t layer, enum nla_proj proj, const nt_tensor *x, nt_tensor *y)
{
	for (int i = 0; !view->beside && i < view->n_adapters; i++) {
		const struct nla_lora *lora = nla_lora_of(view->adapters[i], layer, proj);
		if (lora)
			y = nt_lora(y, x, lora->A, lora->B, nla_lora_scale(view->adapters[i], proj));
	}
	return y;
}

/* the same for a whole stored matrix, in place: y is fresh */
static nt_tensor *add_beside(const struct nla_view *view, int64_t layer, enum nla_proj first, const nt_tensor *x, nt_tensor *y)
{
	const struct nla_lora *lora = &view->beside[layer].layers[first];
	if (lora->A)
		nt_lora_into(y, x, lora->A, lora->B);
	return y;
}

/* x plus a projection of h, adapters included */
static nt_tensor *add_projection(const struct nla_view *view, int64_t layer, enum nla_proj proj, const nt_tensor *x,
				 const nt_tensor *h, const nt_tensor *w)
{
	bool adapted = false;
	if (view->beside)
		return add_beside(view, layer, proj, h, nt_add_linear(x, h, w));
	for (int i = 0; i < view->n_adapters; i++)
		adapted = adapted || nla_lora_of(view->adapters[i], layer, proj);
	return adapted ? nt_add(x, adapt(view, layer, proj, h, nt_linear(h, w, NULL))) : nt_add_linear(x, h, w);
}

static nt_tensor *heads(const nt_tensor *x, int64_t n_heads, int64_t d)
{
	int64_t shape[3] = { x ? nt_size(x, 0) : 0, n_heads, d };
	return nt_reshape(x, 3, shape);
}

/* x W^T + bias of projections that are one matrix, or apart (a mapped model) in n */
static nt_tensor *linear(const struct nla_lm *lm, const nt_tensor *x, nt_tensor *const *w, int n, const nt_tensor *bias)
{
	nt_tensor *parts[3];
	if (!lm->mapped)
		return nt_linear(x, w[0], bias);
	for (int i = 0; i < n; i++)
		parts[i] = nt_linear(x, w[i], NULL);
	nt_tensor *all = nt_cat(parts, n, 1);
	return bias ? nt_add(all, bias) : all;
}

void nla_block_qkv(const struct nla_view *view, int64_t layer, const nt_tensor *x, nt_tensor **q, nt_tensor **k, nt_tensor **v)
{
	const struct nla_arch *a = &view->lm->arch;
	int64_t d = a->head_dim, nq = a->n_heads * d, nkv = a->n_kv_heads * d;
	const struct nla_block *b = &view->lm->blocks[layer];
	nt_tensor *all = linear(view->lm, x, b->qkv, 3, b->qkv_bias);
	if (view->beside)
		add_beside(view, layer, NLA_Q, x, all);
	*q = heads(adapt(view, layer, NLA_Q, x, nt_narrow(all, 1, 0, nq)), a->n_heads, d);
	*k = heads(adapt(view, layer, NLA_K, x, nt_narrow(all, 1, nq, nkv)), a->n_kv_heads, d);
	*v = heads(adapt(view, layer, NLA_V, x, nt_narrow(all, 1, nq + nkv, nkv)), a->n_kv_heads, d);
}

void nla_block_rope(const struct nla_view *view, int64_t layer, const nt_tensor *cos, const nt_tensor *sin, nt_tensor **q,
		    nt_tensor **k)
{
	const struct nla_block *b = &view->lm->blocks[layer];
	*q = nt_qk_rope(*q, b->q_norm, view->lm->arch.rms_eps, cos, sin);
	*k = nt_qk_rope(*k, b->k_norm, view->lm->arch.rms_eps, cos, sin);
}

static nt_tensor *gate_up(const struct nla_view *view, int64_t layer, const nt_tensor *x)
{
	int64_t f = view->lm->arch.d_ff;
	nt_tensor *all = linear(view->lm, x, view->lm->blocks[layer].gate_up, 2, NULL);
	bool adapted = false;
	if (view->beside)
		return add_beside(view, layer, NLA_GATE, x, all);
	for (int i = 0; i < view->n_adapters; i++)
		adapted |= nla_lora_of(view->adapters[i], layer, NLA_GATE) || nla_lora_of(view->adapters[i], layer, NLA_UP);
	if (!adapted)
		return all;
	nt_tensor *parts[2] = { adapt(view, layer, NLA_GATE, x, nt_narrow(all, 1, 0, f)),
				adapt(view, layer, NLA_UP, x, nt_narrow(all, 1, f, f)) };
	return nt_cat(parts, 2, 1);
}

nt_tensor *nla_block_finish(const struct nla_view *view, int64_t layer, const nt_tensor *x, const nt_tensor *attended)
{
	const struct nla_arch *a = &view->lm->arch;
	const struct nla_block *b = &view->lm->blocks[layer];
	int64_t flat[2] = { attended ? nt_size(attended, 0) : 0, a->n_heads * a->head_dim };
	attended = nt_reshape(attended, 2, flat);
	x = add_projection(view, layer, NLA_O, x, attended, b->o);
	nt_tensor *h = nt_swiglu(gate_up(view, layer, nt_rms_norm(x, b->mlp_norm, a->rms_eps)));
	return add_projection(view, layer, NLA_DOWN, x, h, b->down);
}

nt_tensor *nla_final_norm(const struct nla_view *view, const nt_tensor *x)
{
	return nt_rms_norm(x, view->lm->norm, view->lm->arch.rms_eps);
}

/* The embedding at the marker becomes v scale / |v|: n(v) has length sqrt(D). */
static nt_tensor *inject_embedding(const nt_tensor *x, const struct nla_inject *inject)
{
	double d = inject->v ? (double)nt_size(inject->v, 1) : 1;
	nt_tensor *row = nt_scale(nt_normalize(inject->v), inject->scale / sqrt(d));
	return nt_put_rows(x, inject->sites, nt_to(row, x ? nt_dtype_of(x) : NT_F32));
}

nt_tensor *nla_forward_start(const struct nla_view *view, const struct nla_pack *pack, const struct nla_inject *inject)
{
	nt_tensor *x = nt_embedding(view->lm->embed, pack->ids_t);
	return inject && inject->at == NLA_INJECT_AT_EMBEDDING ? inject_embedding(x, inject) : x;
}

nt_tensor *nla_forward_block(const struct nla_view *view, int64_t l, const struct nla_pack *pack,
			     const struct nla_inject *inject, const nt_tensor *x, const struct nla_tap *tap)
{
	const struct nla_arch *a = &view->lm->arch;
	nt_tensor *q, *k, *v, *y;
	nt_scope_push(); /* a block's own intermediates end with it, unless a gradient needs them */
	nla_block_qkv(view, l, nt_rms_norm(x, view->lm->blocks[l].attn_norm, a->rms_eps), &q, &k, &v);
	nla_block_rope(view, l, pack->cos, pack->sin, &q, &k);
	if (tap && tap->kv)
		tap->kv(l, k, v, tap->arg);
	y = nla_block_finish(view, l, x, nt_attention(q, k, v, pack->tree, 1 / sqrt((double)a->head_dim)));
	if (inject && inject->at == NLA_INJECT_AT_BLOCK && inject->block == l)
		y = nt_inject_add(y, inject->sites, inject->v);
	return nt_scope_pop_with(y);
}

nt_tensor *nla_forward(const struct nla_view *view, const struct nla_pack *pack, const struct nla_inject *inject,
		       int64_t n_blocks, const struct nla_tap *tap)
{
	nt_tensor *x = nla_forward_start(view, pack, inject);
	for (int64_t l = 0; l < n_blocks && x; l++) {
		nt_tensor *y = nla_forward_block(view, l, pack, inject, x, tap);
		nt_free(x); /* autograd keeps it where it is needed */
		x = y;
		if (tap && tap->out && x)
			tap->out(l, x, tap->arg);
	}
	return x;
}
