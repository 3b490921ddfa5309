/*
 * The transformer over a pack, see forward.h: embedding [n, D]; blocks (norm, q k v, rotary embedding, attention over the tree,
 * o; norm, SwiGLU); a vector added to the residual stream at its marker. Training and decoding share the parts of a block.
 */
#include "lm/forward.h"

#include <math.h>

/* Of a stored matrix, or of its n parts in a mapped model; `first` is its first projection. */
static nt_tensor *project(const struct nla_view *view, int64_t layer, enum nla_proj first, const nt_tensor *x,
			  struct nt_projection p)
{
	if (!view->lm->mapped)
		p.n_w = 1;
	if (view->beside)
		p.lora = &view->beside[layer].at[first];
	return nt_project(x, &p);
}

static nt_tensor *heads(const nt_tensor *x, int64_t n_heads, int64_t d)
{
	int64_t shape[3] = { x ? nt_size(x, 0) : 0, n_heads, d };
	return nt_reshape(x, 3, shape);
}

void nla_block_qkv(const struct nla_view *view, int64_t layer, const nt_tensor *x, nt_tensor **q, nt_tensor **k, nt_tensor **v)
{
	const struct nla_arch *a = &view->lm->arch;
	int64_t nq = a->n_heads * a->head_dim, nkv = a->n_kv_heads * a->head_dim;
	const struct nla_block *b = &view->lm->blocks[layer];
	nt_tensor *part[3];
	nt_split(project(view, layer, NLA_Q, x, (struct nt_projection){ .w = b->qkv, .n_w = 3, .bias = b->qkv_bias }), 3,
		 (int64_t[]){ nq, nkv, nkv }, part);
	*q = heads(part[0], a->n_heads, a->head_dim);
	*k = heads(part[1], a->n_kv_heads, a->head_dim);
	*v = heads(part[2], a->n_kv_heads, a->head_dim);
}

nt_tensor *nla_block_finish(const struct nla_view *view, int64_t layer, const nt_tensor *x, const nt_tensor *attended)
{
	const struct nla_arch *a = &view->lm->arch;
	const struct nla_block *b = &view->lm->blocks[layer];
	int64_t flat[2] = { attended ? nt_size(attended, 0) : 0, a->n_heads * a->head_dim };
	attended = nt_reshape(attended, 2, flat);
	x = project(view, layer, NLA_O, attended, (struct nt_projection){ .w = &b->o, .n_w = 1, .residual = x });
	nt_tensor *h = project(view, layer, NLA_GATE, nt_rms_norm(x, b->mlp_norm, a->rms_eps),
			       (struct nt_projection){ .w = b->gate_up, .n_w = 2 });
	return project(view, layer, NLA_DOWN, nt_swiglu(h), (struct nt_projection){ .w = &b->down, .n_w = 1, .residual = x });
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
	const struct nla_block *b = &view->lm->blocks[l];
	nt_tensor *q, *k, *v, *y;
	nt_scope_push(); /* a block's own intermediates end with it, unless a gradient needs them */
	nla_block_qkv(view, l, nt_rms_norm(x, b->attn_norm, a->rms_eps), &q, &k, &v);
	q = nt_qk_rope(q, b->q_norm, a->rms_eps, pack->cos, pack->sin);
	k = nt_qk_rope(k, b->k_norm, a->rms_eps, pack->cos, pack->sin);
	if (tap && tap->kv)
		tap->kv(l, k, v, tap->arg);
	y = nla_block_finish(view, l, x, nt_attention(q, k, v, pack->tree, 0, 1 / sqrt((double)a->head_dim)));
	if (inject && inject->at == NLA_INJECT_AT_BLOCK && inject->block == l)
		y = nt_inject_add(y, inject->sites, inject->v);
	else if (inject && inject->at == NLA_INJECT_REPLACE && inject->block == l)
		y = nt_put_rows(y, inject->sites, nt_to(inject->v, y ? nt_dtype_of(y) : NT_F32));
	return nt_scope_pop_with(y);
}

nt_tensor *nla_forward(const struct nla_view *view, const struct nla_pack *pack, const struct nla_inject *inject,
		       int64_t n_blocks, const struct nla_tap *tap)
{
	struct nla_view laid_out = view->beside ? *view : nla_beside_open(view);
	nt_tensor *x = nla_forward_start(view, pack, inject);
	for (int64_t l = 0; l < n_blocks && x; l++) {
		nt_tensor *y = nla_forward_block(&laid_out, l, pack, inject, x, tap);
		nt_free(x); /* autograd keeps it where it is needed */
		x = y;
		if (tap && tap->out && x)
			tap->out(l, x, tap->arg);
	}
	if (!view->beside)
		nla_beside_close(&laid_out);
	return nt_check() ? NULL : x;
}
