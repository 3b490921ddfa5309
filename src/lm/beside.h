/*
 * beside - a view's adapters laid out for a pass: whatever several of them add to the projections of one stored matrix (q, k
 * and v; gate and up) is one nt_lora, in the model's type. A snapshot: opened anew when an adapter has changed.
 */
#ifndef NLA_BESIDE_H
#define NLA_BESIDE_H

#include "lm/lora.h"

struct nla_beside {
	struct nt_lora at[NLA_N_PROJ]; /* at the matrix's first projection (q, o, gate, down) */
};

/* The view with its adapters laid out; close frees them, after the pass and its backward pass. A failure shows in nt_check. */
struct nla_view nla_beside_open(const struct nla_view *view);
void nla_beside_close(struct nla_view *laid_out);
/* Bytes of A and B of all layers, for adapters of such ranks, by arithmetic. */
int64_t nla_beside_bytes(const struct nla_arch *arch, const struct nla_adapter *const *adapters, int n, int64_t element);

#endif
