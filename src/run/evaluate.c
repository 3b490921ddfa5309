/* Evaluation by sampling: rows of a set -> responses, mse, log-probabilities [n, T]; see evaluate.h. */
#include "run/evaluate.h"
#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/utf8.h"
#include "lm/ranks.h"
#include "run/report.h"
#include "run/stop.h"

#define FEW_ROWS 100
#define NEARLY_ALL 0.9

int64_t *nla_eval_rows(const struct nla_actset *set, int64_t count, int64_t *n)
{
	struct nla_rng rng = { 0, NLA_STREAM_EVAL };
	int64_t *rows = nla_alloc((size_t)set->n, sizeof(*rows));
	nla_permutation(&rng, 0, rows, (size_t)set->n);
	*n = count > 0 ? NLA_MIN(count, set->n) : set->n;
	qsort(rows, (size_t)*n, sizeof(*rows), nla_by_number);
	return rows;
}

struct nla_i64s nla_eval_all_rows(const int64_t *rows, int64_t n)
{
	struct nla_i64s all = { 0 };
	nla_i64s_append(&all, rows, (size_t)n);
	nla_ranks_gather_i64(&all);
	return all;
}

enum nla_status nla_eval_need(int64_t n, struct nla_err *err)
{
	return n >= nla_n_ranks() ? NLA_OK
	     : nla_usage(err, "%lld rows to evaluate are fewer than the %lld ranks", (long long)n, (long long)nla_n_ranks());
}

enum nla_status nla_eval_baselines(struct nla_rl *rl, const int64_t *rows, int64_t n, struct nla_err *err)
{
	const struct nla_actset *set = rl->set;
	NLA_AUTO(nla_i64s_release) struct nla_i64s all = nla_eval_all_rows(rows, n);
	qsort(all.data, all.n, sizeof(*all.data), nla_by_number);
	n = 0;
	for (size_t i = 0; i < all.n; i++) /* a row counts once, however many texts are of it */
		if (!n || all.data[i] != all.data[n - 1])
			all.data[n++] = all.data[i];
	rl->base = (struct nla_baselines){ set->meta.baseline_var, set->meta.baseline_mean };
	if (rl->own_baseline && n < FEW_ROWS)
		nla_say("warning: eval.baseline is rows, and %lld rows are few: their variance says little of the data's",
			(long long)n);
	if (rl->own_baseline)
		nla_actset_baselines(set, all.data, n, &rl->base.var, &rl->base.mean, err);
	return err->status || rl->base.var > 0 ? err->status
	       : nla_fail(err, "'%s': the rows of the baseline do not vary: FVE means nothing by them", set->path);
}

enum nla_failure nla_warn_failed(const struct nla_step *s, enum nla_failure said)
{
	int64_t n[NLA_N_FAILURES] = { 0 }, at = 0;
	enum nla_failure worst = 1;
	for (int64_t i = 0; i < s->n; i++)
		n[s->failed[i]]++;
	for (int cause = 1; cause < NLA_N_FAILURES; cause++)
		worst = n[cause] > n[worst] ? (enum nla_failure)cause : worst;
	const double share = 1 - (double)n[NLA_ROW_OK] / (double)s->n;
	if (share < NEARLY_ALL || worst == said)
		return share < NEARLY_ALL ? NLA_ROW_OK : said;
	while (s->failed[at] != worst)
		at++;
	nla_auto char *text = nla_utf8_end(s->response[at] ? s->response[at] : "", 300);
	nla_say("warning: %.0f%% of the responses failed, most as %s (%s): likely, %s. One of them: %s", 100 * share,
		nla_failures[worst].name, nla_failures[worst].meaning, nla_failures[worst].likely, text);
	return worst;
}

static const int64_t *explained(const struct nla_step *s) { return s->vector_of ? s->vector_of : s->rows; }

/* Of the rows of all ranks, those of this one from `first` on. */
static enum nla_status find_another(const struct nla_actset *set, struct nla_step *s, int64_t first, struct nla_err *err)
{
	NLA_AUTO(nla_i64s_release) struct nla_i64s all = nla_eval_all_rows(s->rows, s->n);
	s->vector_of = nla_alloc((size_t)s->n, sizeof(*s->vector_of));
	for (int64_t i = 0; i < s->n && !err->status; i++)
		if ((s->vector_of[i] = nla_actset_another(set, all.data, (int64_t)all.n, first + i)) < 0)
			nla_fail(err, "'%s': eval.vectors is another, and all rows evaluated are of one document", set->path);
	return err->status;
}

/* n rows with their samples, which are a group: a prompt is computed once, and equal texts are scored once. The AV reads the
 * vectors to explain, the AR's prediction is compared with the rows' own. */
static enum nla_status evaluate_batch(struct nla_rl *rl, struct nla_step *out, int64_t samples, int64_t from, int64_t n,
				      struct nla_err *err)
{
	NLA_AUTO(nla_step_release) struct nla_step part;
	nla_auto int64_t *of = nla_alloc((size_t)n, sizeof(*of));
	nla_step_start(&part, n, samples, rl->set->d);
	for (int64_t i = 0; i < part.n; i++) {
		part.rows[i / samples] = out->rows[from * samples + i];
		of[i / samples] = explained(out)[from * samples + i];
		part.keys[i] = (uint32_t)(part.rows[i / samples] + i % samples * rl->set->n);
	}
	if (!nla_actset_vectors(rl->set, of, (size_t)n, part.v, err) && !nla_rollout(rl, &part, err) &&
	    !nla_actset_vectors(rl->set, part.rows, (size_t)n, part.v, err) && !nla_score(rl, &part, err))
		nla_step_take(out, from * samples, &part, 0, part.n, rl->set->d);
	return err->status;
}

enum nla_status nla_evaluate(struct nla_rl *rl, const int64_t *rows, int64_t n, int64_t samples, int64_t batch,
			     struct nla_step *out, struct nla_err *err)
{
	struct nla_progress p;
	const int64_t at_once = NLA_MAX(batch / samples, 1), most = nla_most(n);
	int64_t first, end;
	if (nla_eval_need(n, err))
		return err->status;
	if (n * samples > NLA_MAX_TOKENS / rl->rollout.max_new_tokens)
		return nla_usage(err, "%lld rows * 'eval.samples' * 'rollout.max_new_tokens' are more than %d tokens: evaluate "
				 "fewer (--rows)", (long long)n, NLA_MAX_TOKENS);
	nla_share(n, nla_rank(), &first, &end);
	rows += first;
	n = end - first;
	nla_step_start(out, n * samples, 1, 0);
	nla_decoded_init(&out->tokens, out->n, rl->rollout.max_new_tokens);
	for (int64_t i = 0; i < out->n; i++)
		out->rows[i] = rows[i / samples];
	nla_progress_start(&p, "evaluate", n);
	if (!nla_eval_baselines(rl, rows, n, err) && rl->another)
		find_another(rl->set, out, first * samples, err);
	for (int64_t from = 0; from < most && !err->status; from += at_once) { /* the same number of times on all ranks */
		int64_t m = NLA_MIN(at_once, n - from);
		if (nla_ranks_any(nla_stop_asked())) {
			nla_err_set(err, NLA_STOPPED, "stopped after %lld of %lld rows: this evaluation writes nothing",
				    (long long)from, (long long)n);
			break;
		}
		if (m > 0 && !evaluate_batch(rl, out, samples, from, m, err))
			nla_progress_step(&p, from + m, "rows");
		rl->merged = NULL; /* once is enough: the policy stays as it is */
	}
	nla_step_lap(out, NLA_STAGE_EVAL);
	if (!err->status)
		nla_progress_end(&p, "%lld rows", (long long)n);
	return err->status;
}

static void say_probe(const struct nla_rl *rl, const struct nla_step *s, int64_t i)
{
	const bool failed = s->failed[i];
	nla_auto char *end = nla_utf8_end(rl->set->rows[s->rows[i]].text, 40);
	nla_auto char *text = nla_utf8_end(failed ? s->response[i] : s->explanation[i], SIZE_MAX);
	nla_auto char *fve = isnan(s->mse[i]) ? nla_strdup("") : nla_format("fve %.3f, ", nla_fve(s->mse[i], rl->base.var));
	nla_say("  row %lld, %s -> %s%lld tokens%s%s: %s", (long long)s->rows[i], end, failed ? "" : fve,
		(long long)s->tokens.length[i], failed ? ", failed, " : "", failed ? nla_failures[s->failed[i]].name : "",
		text);
}

enum nla_status nla_probe(const struct nla_rl *run, const int64_t *rows, int64_t n, int64_t at, struct nla_folder *folder,
			  struct nla_err *err)
{
	struct nla_rl rl = *run;
	NLA_AUTO(nla_step_release) struct nla_step s = { 0 };
	rl.rollout.temperature = 0;
	nla_step_start(&s, n, 1, rl.set->d);
	memcpy(s.rows, rows, (size_t)n * sizeof(*rows));
	for (int64_t i = 0; i < n; i++)
		s.mse[i] = NAN;
	if (nla_actset_vectors(rl.set, rows, (size_t)n, s.v, err) || nla_rollout(&rl, &s, err) ||
	    (rl.ar && nla_score(&rl, &s, err)))
		return err->status;
	for (int64_t i = 0; i < n && !err->status; i++) {
		nla_auto_json cJSON *line = nla_report_sample(&rl, &s, at, i);
		say_probe(&rl, &s, i);
		nla_folder_sample(folder, line, err);
	}
	return err->status;
}

/* Log-probabilities of the n samples from `from` on, under policy and reference. */
static enum nla_status logprob_batch(const struct nla_rl *rl, struct nla_step *s, int64_t from, int64_t n, struct nla_err *err)
{
	const int64_t at = from * s->tokens.width;
	nla_auto float *v = nla_alloc((size_t)(n * rl->set->d), sizeof(*v));
	const struct nla_step part = { .n_prompts = n, .group = 1, .n = n, .v = v,
				       .tokens = { .n = n, .width = s->tokens.width, .ids = s->tokens.ids + at,
						   .length = s->tokens.length + from } };
	if (!nla_actset_vectors(rl->set, explained(s) + from, (size_t)n, v, err) &&
	    !nla_step_logprob(rl, &rl->policy, &part, 0, n, s->logprob + at, err))
		nla_step_logprob(rl, &rl->reference, &part, 0, n, s->ref_logprob + at, err);
	return err->status;
}

enum nla_status nla_eval_logprob(struct nla_rl *rl, int64_t *batch, struct nla_step *s, struct nla_err *err)
{
	const size_t cells = (size_t)(s->n * s->tokens.width);
	struct nla_progress p;
	s->logprob = nla_alloc(cells, sizeof(*s->logprob));
	s->ref_logprob = nla_alloc(cells, sizeof(*s->ref_logprob));
	nla_progress_start(&p, "log-probabilities", s->n);
	for (int64_t from = 0, m = 1; from < s->n && !err->status; from += m, m = 1) {
		int64_t tokens = 0;
		if (!s->tokens.length[from]) /* an explanation that was given */
			continue;
		if (nla_n_ranks() == 1 && nla_stop_asked())
			return nla_err_set(err, NLA_STOPPED, "stopped after log-probabilities of %lld rows", (long long)from);
		for (m = 0; m < *batch && from + m < s->n; m++) {
			tokens += (int64_t)rl->av->prompt.n - rl->av->marker + s->tokens.length[from + m];
			if (m && tokens > NLA_SCORE_TOKENS)
				break;
		}
		if (!logprob_batch(rl, s, from, m, err))
			nla_progress_step(&p, from + m, "rows");
		else if (nla_halve(&rl->halved, NLA_STAGE_EVAL, &m, m, err))
			*batch = m, m = 0;
	}
	return err->status;
}

enum nla_status nla_eval_start_ar(struct nla_eval *e, const struct nla_config *cfg, struct nla_step *s, struct nla_err *err)
{
	const char *ar = cfg->eval.start_ar;
	struct nla_models *m = &e->models;
	struct nla_rl *rl = &e->rl;
	nla_half_release(&m->ar);
	if (nla_half_open(&m->ar, NLA_AR, &m->target, ar, cfg->ar_base, err) ||
	    nla_contract_fits_set(&e->set, &m->target, &m->av.meta, &m->ar.meta, e->set.path, err))
		return err->status;
	rl->ar_view = nla_half_view(&m->ar);
	s->mse_start = nla_alloc((size_t)s->n, sizeof(*s->mse_start));
	for (int64_t from = 0, n; from < s->n && !err->status; from += n) {
		struct nla_step part;
		n = NLA_MIN(cfg->eval.batch, s->n - from);
		nla_step_start(&part, n, 1, rl->set->d);
		for (int64_t i = 0; i < n; i++) {
			part.explanation[i] = s->explanation[from + i] ? nla_strdup(s->explanation[from + i]) : NULL;
			part.failed[i] = s->failed[from + i];
		}
		if (!nla_actset_vectors(rl->set, s->rows + from, (size_t)n, part.v, err) && !nla_score(rl, &part, err))
			memcpy(s->mse_start + from, part.mse, (size_t)n * sizeof(*part.mse));
		nla_step_release(&part);
	}
	return err->status;
}

enum nla_status nla_eval_write_rows(const struct nla_rl *rl, const struct nla_step *s, const char *path, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	for (int64_t i = 0; i < s->n; i++) {
		nla_auto_json cJSON *json = nla_report_row(rl, s, i);
		nla_json_add(&text, json, false, 0);
		nla_str_addc(&text, '\n');
	}
	nla_file_write(path, text.buf, text.len, false, err);
	return err->status;
}
