/* Score: see score.h. Texts are read in batches of NLA_SCORE_TOKENS; a row that cannot be scored becomes a failure. */
#include "rl/step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum nla_status nla_score_texts(const struct nla_rl *rl, struct nla_step *step, struct nla_ar_texts *texts, struct nla_f32s *v,
				struct nla_i64s *row, struct nla_err *err)
{
	const size_t d = (size_t)rl->ar->target->lm.arch.d_model;
	for (int64_t i = 0; i < step->n; i++) {
		enum nla_ar_fit fit = NLA_AR_FITS;
		size_t before = texts->ids.n;
		if (step->failed[i])
			continue;
		if (nla_ar_encode(rl->ar, step->explanation[i], strlen(step->explanation[i]), &texts->ids, &fit, err))
			return err->status;
		if (fit != NLA_AR_FITS) {
			step->failed[i] = fit == NLA_AR_MERGES ? NLA_ROW_MERGES : NLA_ROW_OVER_LONG;
			texts->ids.n = before;
			continue;
		}
		nla_i64s_push(&texts->offset, (int64_t)texts->ids.n);
		nla_f32s_append(v, step->v + (size_t)step->prompt_of[i] * d, d);
		nla_i64s_push(row, i);
	}
	return NLA_OK;
}

enum nla_status nla_score(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	struct nla_ar_texts texts;
	struct nla_f32s v = { 0 };
	struct nla_i64s row = { 0 };
	float *mse = NULL;
	nla_ar_texts_start(&texts);
	texts.max_tokens = NLA_SCORE_TOKENS;
	for (int64_t i = 0; i < step->n; i++)
		step->mse[i] = (float)rl->reward.fail_mse;
	if (nla_score_texts(rl, step, &texts, &v, &row, err))
		goto out;
	mse = nla_alloc(row.n, sizeof(*mse));
	if (nla_ar_score(rl->ar, &rl->ar_view, &texts, v.data, mse, NULL, err))
		goto out;
	for (size_t j = 0; j < row.n; j++) {
		if (isfinite(mse[j]))
			step->mse[row.data[j]] = mse[j];
		else
			step->failed[row.data[j]] = NLA_ROW_NON_FINITE;
	}
out:
	free(mse);
	nla_ar_texts_release(&texts);
	nla_f32s_release(&v);
	nla_i64s_release(&row);
	nla_step_lap(step, NLA_STAGE_SCORE);
	return err->status;
}
