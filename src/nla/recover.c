/*
 * recover: see recover.h. A text without its last token is a row of a pack; that token follows it 1 + m times, once as it is
 * and once for each vector, so that a text is computed once: its last token changes nothing before it.
 */
#include "nla/recover.h"

#define TOKENS_A_BATCH 4096
#define LOGITS_A_BATCH (16 << 20)

/* sum of p (log p - log q), of logits [v] each. */
static double divergence(const float *p, const float *q, int64_t v)
{
	double top_p = p[0], top_q = q[0], sum_p = 0, sum_q = 0, apart = 0;
	for (int64_t j = 1; j < v; j++) {
		top_p = fmax(top_p, p[j]);
		top_q = fmax(top_q, q[j]);
	}
	for (int64_t j = 0; j < v; j++) {
		double e = exp(p[j] - top_p);
		sum_p += e;
		sum_q += exp(q[j] - top_q);
		apart += e * ((double)p[j] - (double)q[j]);
	}
	return apart / sum_p - (log(sum_p) + top_p) + (log(sum_q) + top_q);
}

struct batch {
	struct nla_pack pack;
	struct nla_i64s last; /* tokens of the pack, 1 + m a text */
	int64_t n, m;
};

static enum nla_status compute(const struct nla_lm *lm, int64_t block, struct batch *b, const float *x, double *kl,
			       struct nla_err *err)
{
	const int64_t n = b->n, m = b->m, v = lm->arch.vocab, shape[2] = { n * m, lm->arch.d_model };
	const struct nla_i64s *last = &b->last;
	struct nla_view view = { .lm = lm };
	nla_auto int64_t *sites = nla_alloc((size_t)(n * m), sizeof(*sites));
	nla_auto float *logits = nla_alloc((size_t)((int64_t)last->n * v), sizeof(*logits));
	for (int64_t i = 0; i < n * m; i++)
		sites[i] = last->data[i / m * (1 + m) + 1 + i % m];
	nt_scope_push();
	if (!nla_pack_ready(&b->pack, lm, err)) {
		struct nla_inject put = { .at = NLA_INJECT_REPLACE, .block = block, .sites = nt_i64(lm->device, sites, n * m),
					  .v = nt_from_host(NT_F32, lm->device, x, 2, shape) };
		nt_tensor *h = nla_forward(&view, &b->pack, &put, lm->arch.n_layers, NULL);
		h = nla_final_norm(&view, nt_rows(h, nt_i64(lm->device, last->data, (int64_t)last->n)));
		if (nt_to_host_f32(nt_logits(h, lm->head), logits, last->n * (size_t)v))
			nla_nt_fail(err, "cannot compute the next token's distribution");
		else
			nla_lm_blame(lm, logits, last->n * (size_t)v, err);
	}
	nt_scope_pop();
	for (int64_t i = 0; i < n && !err->status; i++)
		for (int64_t j = 0; j < m; j++)
			kl[i * m + j] = divergence(logits + i * (1 + m) * v, logits + (i * (1 + m) + 1 + j) * v, v);
	return err->status;
}

enum nla_status nla_recover(const struct nla_lm *lm, int64_t block, const struct nla_ar_texts *texts, const float *x, int64_t m,
			    double *kl, struct nla_err *err)
{
	const int64_t n = (int64_t)texts->offset.n - 1, most = NLA_MAX(LOGITS_A_BATCH / ((1 + m) * lm->arch.vocab), 1);
	for (int64_t from = 0; from < n && !err->status;) {
		struct batch b = { .m = m };
		while (from + b.n < n && b.n < most && (!b.n || b.pack.n < TOKENS_A_BATCH)) {
			const int64_t *at = texts->offset.data + from + b.n++, tokens = at[1] - at[0];
			const int32_t *ids = texts->ids.data + at[0];
			int64_t parent = tokens > 1 ? nla_pack_add(&b.pack, ids, tokens - 1, -1) : -1;
			for (int64_t j = 0; j <= m; j++) {
				int64_t row = nla_pack_add(&b.pack, ids + tokens - 1, 1, parent);
				nla_i64s_push(&b.last, nla_pack_last(&b.pack, row));
			}
		}
		compute(lm, block, &b, x + from * m * lm->arch.d_model, kl + from * m, err);
		from += b.n;
		nla_i64s_release(&b.last);
		nla_pack_release(&b.pack);
	}
	return err->status;
}
