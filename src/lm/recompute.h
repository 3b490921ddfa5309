/*
 * recompute - a backward pass that does not need every block's activations at once (gradient checkpointing, Chen et al. 2016).
 *
 * The forward pass records nothing and keeps what enters each block, x_l [n, D]. The loss is taken on the last block's output,
 * cut off from what made it. Then, from the last block to the first, the block runs again with gradients recorded, injection
 * included, and hands the gradient of its output down to its input:
 *
 *	dx_l = (d block_l(x_l) / d x_l)^T dx_(l+1),  and the block's parameters get theirs
 *
 * The operations are those of the ordinary pass, in the same order, so the gradients are the same bits. It costs one forward
 * pass.
 *
 *	struct nla_recompute r = { .on = true };            on == false: nla_forward and nt_backward, nothing else
 *	x = nla_recompute_forward(&r, view, &pack, inject, n_blocks);
 *	loss = ...x...;
 *	if (nla_recompute_backward(&r, loss, err)) ...
 *	nla_recompute_release(&r);                          after every forward, whatever failed
 *
 * The pack moves into r when it is on (what is left may be released as ever). view's model and inject's tensors stay the
 * caller's and must be there until the backward pass is done.
 */
#pragma once

#include "lm/forward.h"

struct nla_recompute {
	bool on;
	/* between forward and backward: */
	struct nla_view view;
	struct nla_pack pack;
	struct nla_inject inject;
	int64_t n_blocks;
	nt_tensor **x;  /* [n_blocks] what enters each block, owned */
	nt_tensor *top; /* the last block's output, a leaf; owned */
};

/* As nla_forward. r NULL or not on: nla_forward itself. */
nt_tensor *nla_recompute_forward(struct nla_recompute *r, const struct nla_view *view, struct nla_pack *pack,
				 const struct nla_inject *inject, int64_t n_blocks);
/* Gradients of the scalar loss, added to those of the parameters. */
enum nla_status nla_recompute_backward(struct nla_recompute *r, nt_tensor *loss, struct nla_err *err);
/* Frees what is kept; on stays, for the next one. */
void nla_recompute_release(struct nla_recompute *r);
