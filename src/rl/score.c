/*
 * Score: see score.h. Texts are read in batches of NLA_SCORE_TOKENS; a row that cannot be scored becomes a failure. Equal texts
 * of one prompt are read once: in bf16 the same text in two batches differs by rounding, and a group of one text would get
 * advantages of that noise.
 */
#include "rl/step.h"

/* The first sample of i's prompt that has its text, of those that have not failed and that one AR scores, group of them. */
static int64_t first_of(const struct nla_step *s, int64_t i, int64_t group)
{
	int64_t first = i - i % group;
	while (first < i && (s->failed[i] || s->failed[first] || strcmp(s->explanation[first], s->explanation[i])))
		first++;
	return first;
}

enum nla_status nla_score_texts(const struct nla_rl *rl, struct nla_step *step, const int64_t *first,
				struct nla_ar_texts *texts, struct nla_f32s *v, struct nla_i64s *row, struct nla_err *err)
{
	const size_t d = (size_t)rl->ar->target->lm.arch.d_model;
	for (int64_t i = 0; i < step->n; i++) {
		enum nla_ar_fit fit = NLA_AR_FITS;
		size_t before = texts->ids.n;
		if (step->failed[i] || (first && first[i] != i))
			continue;
		if (nla_ar_encode(rl->ar, step->explanation[i], strlen(step->explanation[i]), &texts->ids, &fit, err))
			return err->status;
		if (fit != NLA_AR_FITS) {
			step->failed[i] = fit == NLA_AR_MERGES ? NLA_ROW_MERGES : NLA_ROW_OVER_LONG;
			texts->ids.n = before;
			continue;
		}
		nla_i64s_push(&texts->offset, (int64_t)texts->ids.n);
		nla_f32s_append(v, step->v + (size_t)(i / step->group) * d, d);
		nla_i64s_push(row, i);
	}
	return NLA_OK;
}

/* By one AR of n: those of a prompt's samples that are its own. */
static enum nla_status score_by(struct nla_rl *rl, int64_t which, int64_t n, struct nla_step *step, struct nla_err *err)
{
	const struct nla_rl *by = n > 1 ? rl->of[which] : rl;
	const int64_t group = step->group / n;
	const size_t d = (size_t)rl->ar->target->lm.arch.d_model;
	NLA_AUTO(nla_ar_texts_release) struct nla_ar_texts texts;
	NLA_AUTO(nla_f32s_release) struct nla_f32s v = { 0 };
	NLA_AUTO(nla_i64s_release) struct nla_i64s row = { 0 };
	nla_auto int64_t *first = nla_alloc((size_t)step->n, sizeof(*first));
	nla_auto float *mse = nla_alloc((size_t)step->n, sizeof(*mse)), *hat = NULL;
	nla_ar_texts_start(&texts);
	for (int64_t i = 0; i < step->n; i++) {
		const bool own = i % step->group / group == which;
		first[i] = own ? first_of(step, i, group) : -1;
		if (own)
			step->mse[i] = (float)rl->reward.fail_mse;
	}
	if (nla_score_texts(rl, step, first, &texts, &v, &row, err))
		return err->status;
	if (rl->keep_v_hat) {
		hat = nla_alloc(row.n * d, sizeof(*hat));
		step->v_hat = nla_alloc((size_t)step->n * d, sizeof(*step->v_hat));
	}
	do
		texts.max_tokens = rl->score_tokens ? rl->score_tokens : NLA_SCORE_TOKENS;
	while (nla_ar_score(by->ar, &by->ar_view, &texts, v.data, mse, hat, err) &&
	       nla_halve(&rl->halved, NLA_STAGE_SCORE, &rl->score_tokens,
			 NLA_MIN((int64_t)texts.ids.n, texts.max_tokens), err));
	if (err->status)
		return err->status;
	for (size_t j = 0; j < row.n; j++) {
		if (hat)
			memcpy(step->v_hat + (size_t)row.data[j] * d, hat + j * d, d * sizeof(*hat));
		if (isfinite(mse[j]))
			step->mse[row.data[j]] = mse[j];
		else
			step->failed[row.data[j]] = NLA_ROW_NON_FINITE;
	}
	for (int64_t i = 0; i < step->n; i++) {
		if (first[i] < 0)
			continue;
		step->mse[i] = step->mse[first[i]];
		step->failed[i] = step->failed[first[i]];
		if (hat)
			memmove(step->v_hat + (size_t)i * d, step->v_hat + (size_t)first[i] * d, d * sizeof(*hat));
	}
	return err->status;
}

enum nla_status nla_score(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	const int64_t n = rl->n_of && rl->of[0]->ar_optim ? rl->n_of : 1; /* a trained AR is its policy's own */
	nla_step_begin(NLA_STAGE_SCORE);
	for (int64_t i = 0; i < n && !err->status; i++)
		score_by(rl, i, n, step, err);
	if (!err->status)
		nla_step_lap(step, NLA_STAGE_SCORE);
	return err->status;
}
