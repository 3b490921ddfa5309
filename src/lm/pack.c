/* Token rows of different lengths as one sequence [n] without padding, each hanging on a parent row or on none; see pack.h. */
#include "lm/pack.h"

void nla_pack_init(struct nla_pack *p) { *p = (struct nla_pack){ 0 }; }

int64_t nla_pack_end(const struct nla_pack *p, int64_t row)
{
	return row < 0 ? 0 : p->positions.data[nla_pack_last(p, row)] + 1;
}

int64_t nla_pack_last(const struct nla_pack *p, int64_t row) { return p->start.data[row] + p->length.data[row] - 1; }

int64_t nla_pack_add(struct nla_pack *p, const int32_t *ids, int64_t n, int64_t parent)
{
	if (n == 0)
		return parent;
	int64_t first = nla_pack_end(p, parent);
	nla_i64s_push(&p->start, p->n);
	nla_i64s_push(&p->length, n);
	nla_i64s_push(&p->parent, parent);
	for (int64_t i = 0; i < n; i++) {
		nla_i64s_push(&p->ids, ids[i]);
		nla_i64s_push(&p->positions, first + i);
	}
	p->n += n;
	return p->n_rows++;
}

static enum nla_status check(const struct nla_pack *p, const struct nla_lm *lm, struct nla_err *err)
{
	if (p->n == 0)
		NLA_BUG("an empty pack");
	for (int64_t i = 0; i < p->n; i++) {
		if (p->ids.data[i] < 0 || p->ids.data[i] >= lm->arch.vocab)
			return nla_fail(err, "token id %lld is outside the model's vocabulary of %lld",
					(long long)p->ids.data[i], (long long)lm->arch.vocab);
		if (p->positions.data[i] >= nt_size(lm->cos[0], 0))
			return nla_fail(err, "a text of more than %lld tokens is longer than the model's positions",
					(long long)nt_size(lm->cos[0], 0));
	}
	return NLA_OK;
}

enum nla_status nla_pack_ready(struct nla_pack *p, const struct nla_lm *lm, struct nla_err *err)
{
	if (check(p, lm, err))
		return err->status;
	nt_scope_push();
	nt_tensor *at = nt_i64(lm->device, p->positions.data, p->n);
	p->ids_t = nt_own(nt_i64(lm->device, p->ids.data, p->n));
	for (int i = 0; i < 2 && lm->cos[i]; i++) {
		p->cos[i] = nt_own(nt_rows(lm->cos[i], at));
		p->sin[i] = nt_own(nt_rows(lm->sin[i], at));
	}
	p->tree = nt_tree_new(p->length.data, p->parent.data, p->n_rows, lm->device);
	nt_scope_pop();
	return nt_check() ? nla_nt_fail(err, "cannot lay out a batch of %lld tokens", (long long)p->n) : NLA_OK;
}

void nla_pack_release(struct nla_pack *p)
{
	nla_i64s_release(&p->ids);
	nla_i64s_release(&p->positions);
	nla_i64s_release(&p->start);
	nla_i64s_release(&p->length);
	nla_i64s_release(&p->parent);
	nt_free(p->ids_t);
	for (int i = 0; i < 2; i++) {
		nt_free(p->cos[i]);
		nt_free(p->sin[i]);
	}
	nt_tree_free(p->tree);
	nla_pack_init(p);
}
