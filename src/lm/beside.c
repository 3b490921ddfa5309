/* Adapters side by side in one A [R, in] and one B [out, R] a stored matrix; see beside.h. */
#include "lm/beside.h"

#include <stdlib.h>

/* The projections in one matrix with `first`, a bit each; 0: it is not the first of them. `lm`: of a model that is not mapped,
 * for one that is puts the results of its matrices together. */
static unsigned together(const struct nla_lm *lm, int first, int64_t *rows)
{
	struct nla_slot own, other;
	unsigned found = 0;
	nla_proj_slot(lm, 0, first, &own);
	for (int p = 0; p < NLA_N_PROJ; p++) {
		nla_proj_slot(lm, 0, p, &other);
		if (other.at == own.at)
			found |= 1u << p;
		if (other.at == own.at && p < first)
			return 0;
	}
	*rows = own.rows;
	return found;
}

static void lay_out(const struct nla_view *view, const struct nla_lm *lm, int64_t layer, unsigned projs, int64_t rows,
		    struct nla_lora *out)
{
	nt_tensor *A[2 * NLA_N_PROJ];
	int64_t rank = 0, at = 0;
	int n = 0;
	for (int p = 0; p < NLA_N_PROJ; p++)
		for (int i = 0; i < view->n_adapters; i++) {
			const struct nla_lora *x = projs & 1u << p ? nla_lora_of(view->adapters[i], layer, p) : NULL;
			if (x) {
				A[n++] = x->A;
				rank += view->adapters[i]->rank[p];
			}
		}
	if (!n)
		return;
	nt_dtype dtype = nla_compute_dtype(view->lm);
	out->A = nt_own(nt_to(nt_cat(A, n, 0), dtype));
	out->B = nt_own(nt_zeros(dtype, view->lm->device, 2, (int64_t[]){ rows, rank }));
	for (int p = 0; p < NLA_N_PROJ; p++)
		for (int i = 0; i < view->n_adapters; i++) {
			const struct nla_adapter *a = view->adapters[i];
			const struct nla_lora *x = projs & 1u << p ? nla_lora_of(a, layer, p) : NULL;
			struct nla_slot slot;
			if (!x)
				continue;
			nla_proj_slot(lm, 0, p, &slot);
			nt_tensor *place = nt_narrow(nt_narrow(out->B, 0, slot.row, slot.shape[0]), 1, at, a->rank[p]);
			nt_copy_into(place, nt_scale(x->B, nla_lora_scale(a, p)));
			at += a->rank[p];
		}
}

struct nla_beside *nla_beside_make(const struct nla_view *view, struct nla_err *err)
{
	const struct nla_lm lm = { .arch = view->lm->arch };
	int64_t n = lm.arch.n_layers, rows;
	if (!view->n_adapters)
		return NULL;
	struct nla_beside *b = nla_alloc((size_t)n, sizeof(*b));
	for (int64_t l = 0; l < n; l++)
		for (int p = 0; p < NLA_N_PROJ; p++) {
			unsigned projs = together(&lm, p, &rows);
			nt_scope_push();
			lay_out(view, &lm, l, projs, rows, &b[l].layers[p]);
			nt_scope_pop();
		}
	if (!nt_check())
		return b;
	nla_nt_fail(err, "cannot lay out the adapters");
	nla_beside_free(b, n);
	return NULL;
}

void nla_beside_free(struct nla_beside *b, int64_t n_layers)
{
	for (int64_t l = 0; b && l < n_layers; l++)
		for (int p = 0; p < NLA_N_PROJ; p++) {
			nt_free(b[l].layers[p].A);
			nt_free(b[l].layers[p].B);
		}
	free(b);
}

int64_t nla_beside_bytes(const struct nla_arch *arch, const struct nla_adapter *const *adapters, int n, int64_t element)
{
	const struct nla_lm lm = { .arch = *arch };
	int64_t bytes = 0, rows;
	for (int first = 0; first < NLA_N_PROJ; first++) {
		unsigned projs = together(&lm, first, &rows);
		int64_t rank = 0;
		for (int p = 0; p < NLA_N_PROJ; p++)
			for (int i = 0; i < n; i++)
				rank += projs & 1u << p ? adapters[i]->rank[p] : 0;
		bytes += projs ? rank * (nla_proj_in(arch, first) + rows) : 0;
	}
	return bytes * element * arch->n_layers;
}
