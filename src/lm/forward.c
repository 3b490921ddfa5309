/*
 * The transformer over a pack, see forward.h: embedding [n, D]; blocks (norm, q k v, rotary embedding, attention over the tree,
 * o; norm, gated MLP); a vector added to the residual stream at its marker. Training and decoding share the parts of a block.
 */
#include "lm/forward.h"

/* A stored matrix, or its n parts in a mapped model; `first` is its first projection. */
static struct nt_projection stored(const struct nla_lm *lm, int64_t layer, enum nla_proj first)
{
	const struct nla_block *b = &lm->blocks[layer];
	struct nt_projection p = first == NLA_Q ? (struct nt_projection){ .w = b->qkv, .n_w = 3, .bias = b->qkv_bias }
			       : first == NLA_GATE ? (struct nt_projection){ .w = b->gate_up, .n_w = 2 }
			       : (struct nt_projection){ .w = first == NLA_O ? &b->o : &b->down, .n_w = 1 };
	if (!lm->mapped)
		p.n_w = 1;
	return p;
}

/* residual: or NULL */
static nt_tensor *project(const struct nla_view *view, int64_t layer, enum nla_proj first, const nt_tensor *x,
			  const nt_tensor *residual)
{
	struct nt_projection p = stored(view->lm, layer, first);
	int n = 0;
	p.residual = residual;
	p.lora = view->beside ? &view->beside[layer].at[first] : NULL;
	if (!view->each)
		return nt_project(x, &p);
	nla_auto nt_tensor **part = nla_alloc((size_t)view->n_each, sizeof(*part));
	for (int64_t i = 0, at = 0; i < view->n_each; at += view->rows[i++])
		if (view->rows[i])
			part[n++] = project(&view->each[i], layer, first, nt_narrow(x, 0, at, view->rows[i]), NULL);
	nt_tensor *y = nt_cat(part, n, 0);
	return residual ? nt_add(residual, y) : y;
}

void nla_heads(const struct nla_arch *arch, const nt_tensor *together, nt_tensor *qkv[3])
{
	const int64_t d = arch->head_dim, n[3] = { arch->n_heads, arch->n_kv_heads, arch->n_kv_heads };
	nt_split(together, 3, (int64_t[]){ n[0] * d, n[1] * d, n[2] * d }, qkv);
	for (int i = 0; i < 3; i++)
		qkv[i] = qkv[i] ? nt_reshape(qkv[i], 3, (int64_t[]){ nt_size(qkv[i], 0), n[i], d }) : NULL;
}

void nla_block_qkv(const struct nla_view *view, int64_t layer, const nt_tensor *x, nt_tensor *qkv[3])
{
	nla_heads(&view->lm->arch, project(view, layer, NLA_Q, x, NULL), qkv);
}

nt_tensor *nla_embed(const struct nla_lm *lm, const nt_tensor *ids)
{
	nt_tensor *x = nt_embedding(lm->embed, ids);
	float scale = sqrtf((float)lm->arch.d_model);
	uint16_t half;
	if (nla_compute_dtype(lm) != NT_F32) { /* the reference has it in the weights' type */
		nla_f32_to_bf16(&scale, &half, 1);
		nla_bf16_to_f32(&half, &scale, 1);
	}
	return nla_arch_has(&lm->arch, "embed_scale") ? nt_scale(x, (double)scale) : x;
}

nt_tensor *nla_glu(const struct nla_arch *arch, const nt_tensor *gate_up)
{
	return nla_arch_has(arch, "gelu") ? nt_geglu(gate_up) : nt_swiglu(gate_up);
}

double nla_score_scale(const struct nla_arch *arch) { return 1 / sqrt(arch->query_scalar); }

int64_t nla_window(const struct nla_arch *arch, int64_t l) { return nla_arch_local(arch, l) ? arch->window : 0; }

/* x + a projection of h to the residual stream, or + the norm of it. */
static nt_tensor *add(const struct nla_view *view, int64_t layer, enum nla_proj proj, const nt_tensor *h, const nt_tensor *norm,
		      const nt_tensor *x)
{
	nt_tensor *y = project(view, layer, proj, h, norm ? NULL : x);
	return norm ? nt_add(x, nt_rms_norm(y, norm, view->lm->arch.rms_eps)) : y;
}

nt_tensor *nla_block_finish(const struct nla_view *view, int64_t layer, const nt_tensor *x, const nt_tensor *attended)
{
	const struct nla_arch *a = &view->lm->arch;
	const struct nla_block *b = &view->lm->blocks[layer];
	int64_t flat[2] = { attended ? nt_size(attended, 0) : 0, a->n_heads * a->head_dim };
	attended = nt_reshape(attended, 2, flat);
	x = add(view, layer, NLA_O, attended, b->attn_out_norm, x);
	nt_tensor *h = project(view, layer, NLA_GATE, nt_rms_norm(x, b->mlp_norm, a->rms_eps), NULL);
	return add(view, layer, NLA_DOWN, nla_glu(a, h), b->mlp_out_norm, x);
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
	nt_tensor *x = nla_embed(view->lm, pack->ids_t);
	return inject && inject->at == NLA_INJECT_AT_EMBEDDING ? inject_embedding(x, inject) : x;
}

nt_tensor *nla_forward_block(const struct nla_view *view, int64_t l, const struct nla_pack *pack,
			     const struct nla_inject *inject, const nt_tensor *x, const struct nla_tap *tap)
{
	const struct nla_arch *a = &view->lm->arch;
	const struct nla_block *b = &view->lm->blocks[l];
	const bool local = nla_arch_local(a, l);
	nt_tensor *qkv[3], *q, *k, *y;
	nt_scope_push(); /* a block's own intermediates end with it, unless a gradient needs them */
	nla_block_qkv(view, l, nt_rms_norm(x, b->attn_norm, a->rms_eps), qkv);
	q = nt_qk_rope(qkv[0], b->q_norm, a->rms_eps, pack->cos[local], pack->sin[local]);
	k = nt_qk_rope(qkv[1], b->k_norm, a->rms_eps, pack->cos[local], pack->sin[local]);
	if (tap && tap->kv)
		tap->kv(l, k, qkv[2], tap->arg);
	y = nla_block_finish(view, l, x, nt_attention(q, k, qkv[2], pack->tree, nla_window(a, l), nla_score_scale(a)));
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
