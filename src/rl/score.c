#include "rl/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void make(struct nla_score *s, int64_t n)
{
	s->n = n;
	s->mse = nla_alloc((size_t)n, sizeof(float));
	s->cosine = nla_alloc((size_t)n, sizeof(float));
	s->fve = nla_alloc((size_t)n, sizeof(float));
	s->fve_meannorm = nla_alloc((size_t)n, sizeof(float));
}

/* Rows that can be scored, as texts; row[j] is where text j came from. */
static enum nla_status gather(const struct nla_half *ar, char *const *explanation, int64_t n, enum nla_failure *failed,
			      struct nla_ar_texts *texts, struct nla_i64s *row, struct nla_err *err)
{
	for (int64_t i = 0; i < n; i++) {
		enum nla_ar_fit fit = NLA_AR_FITS;
		size_t before = texts->ids.n;
		if (failed[i])
			continue;
		if (nla_ar_encode(ar, explanation[i], strlen(explanation[i]), &texts->ids, &fit, err))
			return err->status;
		if (fit != NLA_AR_FITS) { /* what merges has no place of its own among the causes */
			failed[i] = NLA_ROW_OVER_LONG;
			texts->ids.n = before;
			continue;
		}
		nla_i64s_push(&texts->offset, (int64_t)texts->ids.n);
		nla_i64s_push(row, i);
	}
	return NLA_OK;
}

enum nla_status nla_score_texts(const struct nla_half *ar, const struct nla_view *view, char *const *explanation, const float *v, int64_t n,
				enum nla_failure *failed, const struct nla_baselines *base, double fail_mse, struct nla_score *out,
				struct nla_err *err)
{
	struct nla_ar_texts texts;
	struct nla_i64s row = { 0 };
	size_t d = (size_t)ar->target->lm.arch.d_model;
	nla_ar_texts_start(&texts);
	texts.max_tokens = NLA_SCORE_TOKENS;
	make(out, n);
	for (int64_t i = 0; i < n; i++)
		out->mse[i] = (float)fail_mse;
	float *target = NULL, *mse = NULL;
	if (gather(ar, explanation, n, failed, &texts, &row, err))
		goto out;
	target = nla_alloc(row.n * d + 1, sizeof(float));
	mse = nla_alloc(row.n + 1, sizeof(float));
	for (size_t j = 0; j < row.n; j++)
		memcpy(target + j * d, v + (size_t)row.data[j] * d, d * sizeof(float));
	if (nla_ar_score(ar, view, &texts, target, mse, NULL, err))
		goto out;
	for (size_t j = 0; j < row.n; j++) {
		if (isfinite(mse[j]))
			out->mse[row.data[j]] = mse[j];
		else
			failed[row.data[j]] = NLA_ROW_NON_FINITE;
	}
	for (int64_t i = 0; i < n; i++) {
		out->cosine[i] = 1 - out->mse[i] / 2;
		out->fve[i] = (float)(1 - out->mse[i] / base->var);
		out->fve_meannorm[i] = (float)(1 - out->mse[i] / base->mean);
	}
out:
	free(target);
	free(mse);
	nla_ar_texts_release(&texts);
	nla_i64s_release(&row);
	if (err->status)
		nla_score_release(out);
	return err->status;
}

enum nla_status nla_score(const struct nla_half *ar, const struct nla_view *view, struct nla_rollout *rollout, const struct nla_baselines *base,
			  double fail_mse, struct nla_score *out, struct nla_err *err)
{
	size_t d = (size_t)ar->target->lm.arch.d_model;
	float *v = nla_alloc((size_t)rollout->n * d, sizeof(float));
	for (int64_t i = 0; i < rollout->n; i++)
		memcpy(v + (size_t)i * d, rollout->v + (size_t)rollout->prompt_of[i] * d, d * sizeof(float));
	nla_score_texts(ar, view, rollout->explanation, v, rollout->n, rollout->failed, base, fail_mse, out, err);
	free(v);
	return err->status;
}

void nla_score_release(struct nla_score *s)
{
	free(s->mse);
	free(s->cosine);
	free(s->fve);
	free(s->fve_meannorm);
	memset(s, 0, sizeof(*s));
}
