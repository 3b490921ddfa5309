/*
 * What an evaluation's reconstructions are worth to the target: v_hat [n, D] of each explanation, at the length of its vector,
 * and the mean of the evaluated vectors [D], in the place of the vector: KL [n, 2]; see nla/recover.h.
 */

#include "base/progress.h"
#include "lm/ranks.h"
#include "nla/recover.h"
#include "run/evaluate.h"

/* Of the evaluated rows. */
static enum nla_status find_mean(const struct nla_rl *rl, const struct nla_step *s, float *mean, struct nla_err *err)
{
	const int64_t d = rl->set->d;
	NLA_AUTO(nla_i64s_release) struct nla_i64s rows = nla_eval_all_rows(s->rows, s->n);
	nla_auto float *v = nla_alloc((size_t)d, sizeof(*v));
	nla_auto double *sum = nla_alloc((size_t)d, sizeof(*sum));
	for (size_t i = 0; i < rows.n && !nla_actset_vectors(rl->set, &rows.data[i], 1, v, err); i++)
		for (int64_t j = 0; j < d; j++)
			sum[j] += v[j];
	for (int64_t j = 0; j < d; j++)
		mean[j] = (float)(sum[j] / (double)rows.n);
	return err->status;
}

/* The text of each of the samples from..to that can be read and has as many tokens as its row says: those samples to `at`. */
static enum nla_status encode(const struct nla_rl *rl, const struct nla_step *s, int64_t from, int64_t to,
			      struct nla_ar_texts *texts, struct nla_i64s *at, struct nla_err *err)
{
	const struct nla_target *t = rl->ar->target;
	const bool special = nla_target_adds_special(t, &rl->set->meta);
	for (int64_t i = from; i < to; i++) {
		const struct nla_row *row = &rl->set->rows[s->rows[i]];
		const int64_t before = (int64_t)texts->ids.n;
		const bool read = !nla_target_encode(t, special, row->text, &texts->ids, NLA_IGNORED);
		const int64_t n = (int64_t)texts->ids.n - before;
		if (!read || !*row->text || (row->n_raw_tokens >= 0 && row->n_raw_tokens != n)) {
			texts->ids.n = (size_t)before;
			continue;
		}
		nla_i64s_push(&texts->offset, (int64_t)texts->ids.n);
		nla_i64s_push(at, i);
	}
	return err->status;
}

/* x [n, 2, D] of the samples `at`: the reconstruction, of a failed one the mean; and the mean. */
static enum nla_status place(const struct nla_rl *rl, const struct nla_step *s, const struct nla_i64s *at, const float *mean,
			     float *x, struct nla_err *err)
{
	const int64_t d = rl->set->d;
	nla_auto float *v = nla_alloc((size_t)d, sizeof(*v));
	for (size_t k = 0; k < at->n; k++) {
		const float *hat = s->v_hat + at->data[k] * d;
		float *own = x + 2 * (int64_t)k * d;
		memcpy(own, mean, (size_t)d * sizeof(*x));
		memcpy(own + d, mean, (size_t)d * sizeof(*x));
		if (s->failed[at->data[k]])
			continue;
		if (nla_actset_vectors(rl->set, &s->rows[at->data[k]], 1, v, err))
			return err->status;
		const double scale = nla_length(v, d) / nla_length(hat, d);
		for (int64_t j = 0; j < d; j++)
			own[j] = (float)(scale * hat[j]);
	}
	return NLA_OK;
}

enum nla_status nla_eval_recover(const struct nla_rl *rl, int64_t batch, struct nla_step *s, struct nla_err *err)
{
	const int64_t d = rl->set->d;
	struct nla_progress p;
	int64_t done = 0;
	nla_auto float *mean = nla_alloc((size_t)d, sizeof(*mean));
	s->kl = nla_alloc((size_t)(2 * s->n), sizeof(*s->kl));
	for (int64_t i = 0; i < 2 * s->n; i++)
		s->kl[i] = NAN;
	find_mean(rl, s, mean, err);
	nla_progress_start(&p, "recovered KL", s->n);
	for (int64_t from = 0, to; from < s->n && !err->status; from = to) {
		NLA_AUTO(nla_i64s_release) struct nla_i64s at = { 0 };
		struct nla_ar_texts texts;
		nla_ar_texts_start(&texts);
		to = NLA_MIN(from + batch, s->n);
		if (!encode(rl, s, from, to, &texts, &at, err) && at.n) {
			nla_auto float *x = nla_alloc(at.n * 2 * (size_t)d, sizeof(*x));
			nla_auto double *kl = nla_alloc(at.n * 2, sizeof(*kl));
			if (!place(rl, s, &at, mean, x, err))
				nla_recover(&rl->ar->target->lm, nla_sidecar_block(&rl->set->meta), &texts, x, 2, kl, err);
			for (size_t k = 0; k < at.n; k++)
				memcpy(s->kl + 2 * at.data[k], kl + 2 * k, 2 * sizeof(*kl));
		}
		nla_ar_texts_release(&texts);
		done += (int64_t)at.n;
		nla_progress_step(&p, to, "rows");
	}
	double out[2] = { (double)(s->n - done), (double)s->n };
	if (!err->status)
		nla_ranks_sum(out, 2);
	if (!err->status && out[0] > 0)
		nla_say("recovered KL: %lld of %lld rows are left out: their text is missing, unreadable, or another number of "
			"tokens here than they say", (long long)out[0], (long long)out[1]);
	return err->status;
}
