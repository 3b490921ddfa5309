/* Adapters side by side in one A [R, in] and one B [out, R] a matrix; see beside.h. */
#include "lm/beside.h"

#include <stdlib.h>

/* The projections that a copied model stores in one matrix with `first`, a bit each; 0: it is not the first of them. */
static unsigned together(const struct nla_arch *arch, int first, int64_t *rows)
{
	const struct nla_lm lm = { .arch = *arch };
	struct nla_slot own, other;
	unsigned found = 0;
	nla_proj_slot(&lm, 0, first, &own);
	for (int p = 0; p < NLA_N_PROJ; p++) {
		nla_proj_slot(&lm, 0, p, &other);
		if (other.at == own.at)
			found |= 1u << p;
		if (other.at == own.at && p < first)
			return 0;
	}
	*rows = own.rows;
	return found;
}

/* Adapter by adapter, so that what is trained stands together. */
static void lay_out(const struct nla_view *view, int64_t layer, unsigned projs, int64_t rows, struct nt_lora *out)
{
	const struct nla_lm copied = { .arch = view->lm->arch };
	nt_tensor *A[NLA_LEN(out->part)];
	int64_t rank = 0;
	for (int i = 0; i < view->n_adapters; i++)
		for (int p = 0; p < NLA_N_PROJ; p++) {
			const struct nla_adapter *a = view->adapters[i];
			const struct nla_lora *x = projs & 1u << p ? nla_lora_of(a, layer, p) : NULL;
			struct nla_slot slot;
			if (!x)
				continue;
			nla_proj_slot(&copied, layer, p, &slot);
			A[out->n] = x->A;
			out->part[out->n++] = (struct nt_lora_part){ x->A, x->B, rank, slot.row, nla_lora_scale(a, p) };
			rank += a->rank[p];
		}
	if (!out->n)
		return;
	out->A = nt_own(nt_to(nt_cat(A, out->n, 0), nla_compute_dtype(view->lm)));
	out->B = nt_own(nt_zeros(nla_compute_dtype(view->lm), view->lm->device, 2, (int64_t[]){ rows, rank }));
	for (const struct nt_lora_part *x = out->part; x < out->part + out->n; x++)
		nt_add_into(nt_narrow(nt_narrow(out->B, 0, x->out_at, nt_size(x->B, 0)), 1, x->rank_at, nt_size(x->B, 1)), x->B,
			    x->scale);
}

struct nla_view nla_beside_open(const struct nla_view *view)
{
	struct nla_view laid_out = *view;
	int64_t n = view->lm->arch.n_layers, rows;
	if (!view->n_adapters)
		return laid_out;
	laid_out.beside = nla_alloc((size_t)n, sizeof(*laid_out.beside));
	nt_grad_push(false);
	for (int64_t l = 0; l < n; l++)
		for (int p = 0; p < NLA_N_PROJ; p++) {
			unsigned projs = together(&view->lm->arch, p, &rows);
			nt_scope_push();
			lay_out(view, l, projs, rows, &laid_out.beside[l].at[p]);
			nt_scope_pop();
		}
	nt_grad_pop();
	return laid_out;
}

void nla_beside_close(struct nla_view *laid_out)
{
	for (int64_t l = 0; laid_out->beside && l < laid_out->lm->arch.n_layers; l++)
		for (int p = 0; p < NLA_N_PROJ; p++) {
			nt_free(laid_out->beside[l].at[p].A);
			nt_free(laid_out->beside[l].at[p].B);
		}
	free(laid_out->beside);
	laid_out->beside = NULL;
}

int64_t nla_beside_bytes(const struct nla_arch *arch, const struct nla_adapter *const *adapters, int n, int64_t element)
{
	int64_t bytes = 0, rows;
	for (int first = 0; first < NLA_N_PROJ; first++) {
		unsigned projs = together(arch, first, &rows);
		int64_t rank = 0;
		for (int p = 0; p < NLA_N_PROJ; p++)
			for (int i = 0; i < n; i++)
				rank += projs & 1u << p ? adapters[i]->rank[p] : 0;
		bytes += projs ? rank * (nla_proj_in(arch, first) + rows) : 0;
	}
	return bytes * element * arch->n_layers;
}
