/*
 * Score: see score.h. Texts are read in batches of NLA_SCORE_TOKENS; a row that cannot be scored becomes a failure. Equal texts
 * of one vector are read once: in bf16 the same text in two batches differs by rounding, and a group of one text would get
 * advantages of that noise.
 */
#include "rl/step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct item {
	const char *text;
	const float *v; /* [d] */
	size_t d;
	int64_t i;
};

static int compare(const void *a, const void *b)
{
	const struct item *x = a, *y = b;
	int order = strcmp(x->text, y->text);
	if (!order && x->v != y->v)
		order = memcmp(x->v, y->v, x->d * sizeof(*x->v));
	return order;
}

static int compare_all(const void *a, const void *b)
{
	const struct item *x = a, *y = b;
	int order = compare(a, b);
	return order ? order : (x->i > y->i) - (x->i < y->i);
}

/* first[i]: the first sample that has sample i's text and vector, of those that have not failed. */
static void find_first(const struct nla_step *step, size_t d, int64_t *first)
{
	nla_auto struct item *items = nla_alloc((size_t)step->n, sizeof(*items));
	size_t n = 0;
	for (int64_t i = 0; i < step->n; i++) {
		first[i] = i;
		if (!step->failed[i])
			items[n++] = (struct item){ step->explanation[i], step->v + (size_t)step->prompt_of[i] * d, d, i };
	}
	qsort(items, n, sizeof(*items), compare_all);
	for (size_t j = 1; j < n; j++)
		if (!compare(&items[j - 1], &items[j]))
			first[items[j].i] = first[items[j - 1].i];
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
	float *mse = NULL, *hat = NULL;
	const size_t d = (size_t)rl->ar->target->lm.arch.d_model;
	int64_t *first = nla_alloc((size_t)step->n, sizeof(*first));
	find_first(step, d, first);
	nla_ar_texts_start(&texts);
	for (int64_t i = 0; i < step->n; i++)
		step->mse[i] = (float)rl->reward.fail_mse;
	if (nla_score_texts(rl, step, first, &texts, &v, &row, err))
		goto out;
	mse = nla_alloc(row.n, sizeof(*mse));
	hat = step->v_hat ? nla_alloc(row.n * d, sizeof(*hat)) : NULL;
	do
		texts.max_tokens = rl->score_tokens ? rl->score_tokens : NLA_SCORE_TOKENS;
	while (nla_ar_score(rl->ar, &rl->ar_view, &texts, v.data, mse, hat, err) &&
	       nla_halve(rl, NLA_STAGE_SCORE, &rl->score_tokens, NLA_MIN((int64_t)texts.ids.n, texts.max_tokens), err));
	if (err->status)
		goto out;
	for (size_t j = 0; j < row.n; j++) {
		if (hat)
			memcpy(step->v_hat + (size_t)row.data[j] * d, hat + j * d, d * sizeof(*hat));
		if (isfinite(mse[j]))
			step->mse[row.data[j]] = mse[j];
		else
			step->failed[row.data[j]] = NLA_ROW_NON_FINITE;
	}
	for (int64_t i = 0; i < step->n; i++) {
		step->mse[i] = step->mse[first[i]];
		step->failed[i] = step->failed[first[i]];
		if (hat)
			memmove(step->v_hat + (size_t)i * d, step->v_hat + (size_t)first[i] * d, d * sizeof(*hat));
	}
out:
	free(first);
	free(mse);
	free(hat);
	nla_ar_texts_release(&texts);
	nla_f32s_release(&v);
	nla_i64s_release(&row);
	nla_step_lap(step, NLA_STAGE_SCORE);
	return err->status;
}
