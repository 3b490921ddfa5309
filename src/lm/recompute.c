/* Backward pass a block at a time, from the inputs x_l [n, D] that the forward pass kept; see recompute.h. */
#include "lm/recompute.h"

nt_tensor *nla_recompute_forward(struct nla_recompute *r, const struct nla_view *view, struct nla_pack *pack,
				 const struct nla_inject *inject, int64_t n_blocks)
{
	if (!r || !r->on)
		return nla_forward(view, pack, inject, n_blocks, NULL);
	static const struct nla_inject none = { .at = NLA_INJECT_AT_BLOCK, .block = -1 };
	*r = (struct nla_recompute){ .on = true, .view = nla_beside_open(view), .pack = *pack, .n_blocks = n_blocks,
				     .inject = inject ? *inject : none };
	nla_pack_init(pack);
	r->x = nla_alloc((size_t)n_blocks, sizeof(*r->x));
	nt_grad_push(false); /* the pass without gradients, keeping x_l: scope-owned handles move into r */
	nt_tensor *x = nla_forward_start(&r->view, &r->pack, &r->inject);
	for (int64_t l = 0; l < n_blocks && x; l++) {
		r->x[l] = nt_own(x);
		x = nla_forward_block(&r->view, l, &r->pack, &r->inject, x, NULL);
	}
	nt_grad_pop();
	r->top = nt_own(x);
	return nt_check() || nt_requires_grad(r->top, true) ? NULL : nt_share(r->top);
}

/* Block l again, or with l == -1 what enters the first: the gradient g of its output goes to its parameters; returns that of
 * its input, or NULL where nobody below wants one. */
static nt_tensor *back_through(struct nla_recompute *r, int64_t l, const nt_tensor *g)
{
	nt_tensor *x = l < 0 ? NULL : r->x[l], *y;
	if (l > 0 || (x && nt_wants_grad(r->view.lm->embed)))
		nt_requires_grad(x, true);
	y = l < 0 ? nla_forward_start(&r->view, &r->pack, &r->inject)
		  : nla_forward_block(&r->view, l, &r->pack, &r->inject, x, NULL);
	if (!y || !nt_wants_grad(y) || nt_backward_with(y, g))
		return NULL;
	return l >= 0 && nt_has_grad(x) ? nt_grad(x) : NULL;
}

enum nla_status nla_recompute_backward(struct nla_recompute *r, nt_tensor *loss, struct nla_err *err)
{
	nt_backward(loss);
	if (r->on && !nt_check()) {
		nt_tensor *g = nt_own(nt_grad(r->top));
		nt_zero_grad(r->top);
		nt_grad_push(true);
		for (int64_t l = r->n_blocks - 1; l >= -1 && g; l--) {
			nt_scope_push();
			nt_tensor *below = nt_own(back_through(r, l, g));
			nt_scope_pop();
			nt_free(g);
			g = below;
			if (l >= 0) {
				nt_free(r->x[l]);
				r->x[l] = NULL;
			}
		}
		nt_grad_pop();
		nt_free(g);
	}
	return nt_check() ? nla_nt_fail(err, "cannot compute the gradient") : NLA_OK;
}

void nla_recompute_release(struct nla_recompute *r)
{
	for (int64_t l = 0; r->x && l < r->n_blocks; l++)
		nt_free(r->x[l]);
	free(r->x);
	nt_free(r->top);
	nla_pack_release(&r->pack);
	nla_beside_close(&r->view);
	*r = (struct nla_recompute){ .on = r->on };
}
