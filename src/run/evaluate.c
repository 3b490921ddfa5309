#include "run/evaluate.h"

#include <stdlib.h>
#include <string.h>

#include "base/progress.h"
#include "base/rng.h"

static int compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

int64_t *nla_eval_rows(const struct nla_actset *set, int64_t count, int64_t *n)
{
	struct nla_rng rng = { 0, NLA_STREAM_EVAL };
	int64_t *rows = nla_alloc((size_t)set->n, sizeof(*rows));
	nla_permutation(&rng, 0, rows, (size_t)set->n);
	*n = count > 0 ? NLA_MIN(count, set->n) : set->n;
	qsort(rows, (size_t)*n, sizeof(*rows), compare);
	return rows;
}

/* The baselines of the evaluated rows themselves. */
static enum nla_status own_baselines(const struct nla_actset *set, struct nla_eval_result *r, struct nla_err *err)
{
	struct nla_baseline b;
	float *v = nla_alloc((size_t)set->d, sizeof(*v));
	nla_baseline_init(&b, set->d);
	for (int64_t i = 0; i < r->n && !nla_actset_vectors(set, &r->rows[i].row, 1, v, err); i++)
		nla_baseline_add(&b, v);
	nla_baseline_get(&b, &r->base.var, &r->base.mean);
	if (!err->status && !(r->base.var > 0))
		nla_fail(err, "'%s': the %lld evaluated rows do not vary: FVE means nothing on them", set->path, (long long)r->n);
	nla_baseline_release(&b);
	free(v);
	return err->status;
}

static void take_rollout(struct nla_eval_result *r, int64_t from, struct nla_rollout *batch, const struct nla_score *score)
{
	for (int64_t i = 0; i < batch->n; i++) {
		struct nla_eval_row *row = &r->rows[from + i];
		row->response = batch->response[i];
		row->explanation = batch->explanation[i];
		batch->response[i] = batch->explanation[i] = NULL;
		row->has_response = true;
		row->n_response = batch->tokens.length[i];
		row->n_explanation = batch->n_explanation[i];
		row->ids = nla_alloc((size_t)row->n_response, sizeof(*row->ids));
		memcpy(row->ids, batch->tokens.ids + i * batch->tokens.width, (size_t)row->n_response * sizeof(*row->ids));
		row->failed = batch->failed[i];
		row->mse = score->mse[i];
	}
}

static enum nla_status evaluate_batch(const struct nla_evaluated *who, const int64_t *rows, int64_t n, const struct nla_config *cfg,
				      struct nla_eval_result *out, int64_t from, struct nla_err *err)
{
	struct nla_rollout_cfg once = cfg->rollout;
	struct nla_rng rng = { (uint64_t)cfg->seed, NLA_STREAM_EVAL };
	struct nla_rollout batch;
	struct nla_score score;
	float *v = nla_alloc((size_t)(n * who->set->d), sizeof(*v));
	uint32_t *keys = nla_alloc((size_t)n, sizeof(*keys));
	once.group = 1;
	once.rows = who->rows;
	for (int64_t i = 0; i < n; i++)
		keys[i] = (uint32_t)rows[i];
	if (!nla_actset_vectors(who->set, rows, (size_t)n, v, err) &&
	    !nla_rollout(who->av, &who->av_view, v, n, &once, &rng, 0, keys, &batch, err)) {
		if (!nla_score(who->ar, &who->ar_view, &batch, &out->base, cfg->reward.fail_mse, &score, err)) {
			take_rollout(out, from, &batch, &score);
			nla_score_release(&score);
		}
		nla_rollout_release(&batch);
	}
	free(v);
	free(keys);
	return err->status;
}

enum nla_status nla_evaluate(const struct nla_evaluated *who, const int64_t *rows, int64_t n, const struct nla_config *cfg,
			     const char *label, struct nla_eval_result *out, struct nla_err *err)
{
	struct nla_progress p;
	double started = nla_seconds();
	*out = (struct nla_eval_result){ .n = n, .rows = nla_alloc((size_t)n, sizeof(*out->rows)) };
	for (int64_t i = 0; i < n; i++)
		out->rows[i].row = rows[i];
	if (label)
		nla_progress_start(&p, label, n);
	own_baselines(who->set, out, err);
	for (int64_t from = 0; from < n && !err->status; from += cfg->eval.batch) {
		int64_t m = NLA_MIN(cfg->eval.batch, n - from);
		if (!evaluate_batch(who, rows + from, m, cfg, out, from, err) && label)
			nla_progress_step(&p, from + m, "rows");
	}
	out->seconds = nla_seconds() - started;
	if (label && !err->status)
		nla_progress_end(&p, "%lld rows", (long long)n);
	if (err->status)
		nla_eval_result_release(out);
	return err->status;
}

enum nla_status nla_evaluate_given(const struct nla_evaluated *who, struct nla_eval_result *r, double fail_mse, struct nla_err *err)
{
	int64_t d = who->set->d, *rows = nla_alloc((size_t)r->n, sizeof(*rows));
	float *v = nla_alloc((size_t)(r->n * d), sizeof(*v));
	char **texts = nla_alloc((size_t)r->n, sizeof(*texts));
	enum nla_failure *failed = nla_alloc((size_t)r->n, sizeof(*failed));
	struct nla_score score;
	for (int64_t i = 0; i < r->n; i++) {
		rows[i] = r->rows[i].row;
		texts[i] = r->rows[i].explanation;
		failed[i] = r->rows[i].failed;
	}
	if (!own_baselines(who->set, r, err) && !nla_actset_vectors(who->set, rows, (size_t)r->n, v, err) &&
	    !nla_score_texts(who->ar, &who->ar_view, texts, v, r->n, failed, &r->base, fail_mse, &score, err)) {
		for (int64_t i = 0; i < r->n; i++) {
			r->rows[i].mse = score.mse[i];
			r->rows[i].failed = failed[i];
		}
		nla_score_release(&score);
	}
	free(rows);
	free(v);
	free(texts);
	free(failed);
	return err->status;
}

/* Log-probabilities of rows [from, from + n), packed, into `out` [sum of lengths]. */
static enum nla_status logprob_batch(const struct nla_evaluated *who, const struct nla_view *view, const struct nla_eval_result *r,
				     const int64_t *at, int64_t n, double temperature, bool reference, struct nla_err *err)
{
	int64_t width = 1, total = 0, d = who->set->d, k = 0;
	for (int64_t i = 0; i < n; i++) {
		width = NLA_MAX(width, r->rows[at[i]].n_response);
		total += r->rows[at[i]].n_response;
	}
	int32_t *ids = nla_alloc((size_t)(n * width), sizeof(*ids));
	int64_t *length = nla_alloc((size_t)n, sizeof(*length)), *prompt_of = nla_alloc((size_t)n, sizeof(*prompt_of));
	int64_t *rows = nla_alloc((size_t)n, sizeof(*rows));
	float *v = nla_alloc((size_t)(n * d), sizeof(*v)), *host = nla_alloc((size_t)total + 1, sizeof(*host));
	for (int64_t i = 0; i < n; i++) {
		const struct nla_eval_row *row = &r->rows[at[i]];
		memcpy(ids + i * width, row->ids, (size_t)row->n_response * sizeof(*ids));
		length[i] = row->n_response;
		prompt_of[i] = i;
		rows[i] = row->row;
	}
	struct nla_responses resp = { .v = v, .n_prompts = n, .ids = ids, .n = n, .width = width, .length = length, .prompt_of = prompt_of };
	nt_scope_push();
	if (!nla_actset_vectors(who->set, rows, (size_t)n, v, err)) {
		nt_tensor *lp = nla_av_logprob(who->av, view, &resp, temperature, NULL, NULL, err);
		if (lp && nt_to_host_f32(lp, host, (size_t)total))
			nla_nt_fail(err, "cannot read log-probabilities");
		else if (lp)
			nla_lm_blame(view->lm, host, (size_t)total, err);
	}
	nt_scope_pop();
	for (int64_t i = 0; i < n && !err->status; k += length[i], i++) {
		struct nla_eval_row *row = &r->rows[at[i]];
		float **to = reference ? &row->ref_logprob : &row->logprob;
		*to = nla_alloc((size_t)length[i], sizeof(**to));
		memcpy(*to, host + k, (size_t)length[i] * sizeof(**to));
	}
	free(ids);
	free(length);
	free(prompt_of);
	free(rows);
	free(v);
	free(host);
	return err->status;
}

enum nla_status nla_evaluate_logprob(const struct nla_evaluated *who, const struct nla_view *view, const struct nla_view *reference,
				     int64_t batch, double temperature, struct nla_eval_result *r, struct nla_err *err)
{
	struct nla_i64s at = { 0 };
	for (int64_t i = 0; i < r->n; i++)
		if (r->rows[i].ids && r->rows[i].n_response > 0)
			nla_i64s_push(&at, i);
	nt_grad_push(false);
	for (int64_t from = 0, m; from < (int64_t)at.n && !err->status; from += m) {
		int64_t tokens = 0;
		for (m = 0; m < batch && from + m < (int64_t)at.n; m++) {
			tokens += (int64_t)who->av->prompt.n - who->av->marker + r->rows[at.data[from + m]].n_response;
			if (m && tokens > NLA_SCORE_TOKENS)
				break;
		}
		if (logprob_batch(who, view, r, at.data + from, m, temperature, false, err) ||
		    logprob_batch(who, reference, r, at.data + from, m, temperature, true, err))
			break;
	}
	nt_grad_pop();
	nla_i64s_release(&at);
	return err->status;
}

void nla_eval_result_release(struct nla_eval_result *r)
{
	for (int64_t i = 0; r->rows && i < r->n; i++) {
		struct nla_eval_row *row = &r->rows[i];
		free(row->response);
		free(row->explanation);
		free(row->ids);
		free(row->logprob);
		free(row->ref_logprob);
	}
	free(r->rows);
	memset(r, 0, sizeof(*r));
}
