/*
 * beside - a view's adapters laid out for decoding on a GPU: whatever several adapters add to the projections of one stored
 * matrix (q, k and v; gate and up) is two products,
 *
 *	y += (x A^T) B^T        A [R, in] all their A below each other, B [out, R] their scaled B, each where its rows are
 *
 * in the model's type. A snapshot: made anew when an adapter has changed.
 */
#ifndef NLA_BESIDE_H
#define NLA_BESIDE_H

#include "lm/lora.h"

struct nla_beside {
	struct nla_lora layers[NLA_N_PROJ]; /* at the matrix's first projection (q, o, gate, down); A NULL: nothing to add */
};

/* [n_layers] of the view's model, owned by the caller; NULL: no adapters (err is OK), or an error. */
struct nla_beside *nla_beside_make(const struct nla_view *view, struct nla_err *err);
void nla_beside_free(struct nla_beside *b, int64_t n_layers);
/* Bytes of A and B of all layers, for adapters of such ranks, by arithmetic. */
int64_t nla_beside_bytes(const struct nla_arch *arch, const struct nla_adapter *const *adapters, int n, int64_t element);

#endif
