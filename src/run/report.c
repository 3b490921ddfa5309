/*
 * Every number of the logs; see report.h. The functions at the end are the fields: each row is written into a JSON object, and
 * handed to who documents them. A new field is a new row.
 */
#include "run/report.h"

void (*nla_report_meaning)(const char *key, const char *meaning);

static void item(cJSON *o, const char *key, cJSON *value, const char *meaning)
{
	cJSON_AddItemToObject(o, key, value);
	if (nla_report_meaning)
		nla_report_meaning(key, meaning);
}

/* A number that does not exist is null. */
static void num(cJSON *o, const char *key, double x, const char *meaning)
{
	item(o, key, isfinite(x) ? cJSON_CreateNumber(x) : cJSON_CreateNull(), meaning);
}

static void text(cJSON *o, const char *key, const char *s, const char *meaning)
{
	item(o, key, s ? cJSON_CreateString(s) : cJSON_CreateNull(), meaning);
}

/* ---- what the rows are computed from ---- */

struct moments {
	double n, sum;
};

static void add(struct moments *m, double x)
{
	m->n++;
	m->sum += x;
}

/* NaN without numbers. */
static double mean(const struct moments *m) { return m->sum / m->n; }

typedef double value_fn(const struct nla_step *s, int64_t i); /* of a sample; NaN: does not count */

/* Of m, the mean of an evaluation's samples: those of one row are drawn together (Liang and Zeger 1986). With one sample a row
 * it is the textbook's. */
static double standard_error(const struct moments *m, const struct nla_step *s, value_fn *value)
{
	double rows = 0, sq = 0, off = 0;
	bool counts = false;
	nla_auto int64_t *at = nla_step_by_row(s);
	for (int64_t i = 0; i < s->n; i++) {
		const double x = value(s, at[i]);
		counts = counts || !isnan(x);
		off += isnan(x) ? 0 : x - mean(m);
		if (i + 1 < s->n && s->rows[at[i + 1]] == s->rows[at[i]])
			continue;
		rows += counts;
		sq += off * off;
		counts = false;
		off = 0;
	}
	return rows < 2 ? (double)NAN : sqrt(sq * rows / (rows - 1)) / m->n;
}

static double valid_mse(const struct nla_step *s, int64_t i) { return s->failed[i] ? (double)NAN : s->mse[i]; }
static double start_mse(const struct nla_step *s, int64_t i) { return s->failed[i] ? (double)NAN : s->mse_start[i]; }

/* An explanation that was given has none. */
static double response_tokens(const struct nla_step *s, int64_t i)
{
	return s->response[i] ? (double)s->tokens.length[i] : (double)NAN;
}

static double unique_texts(char *const *all, int64_t n)
{
	nla_auto char **texts = nla_alloc((size_t)n, sizeof(*texts));
	size_t m = 0, unique = 0;
	for (int64_t i = 0; i < n; i++)
		if (all[i])
			texts[m++] = all[i];
	qsort(texts, m, sizeof(*texts), nla_by_text);
	for (size_t i = 0; i < m; i++)
		unique += i == 0 || strcmp(texts[i], texts[i - 1]) != 0;
	return (double)unique;
}

/* What training and evaluation say of their samples alike. */
struct numbers {
	struct moments valid, all, start;     /* mse of the rows that did not fail, and of all; mse_start */
	struct moments response, explanation; /* tokens */
	double p10, p50, p90;                 /* of response tokens */
	double failed[NLA_N_FAILURES];        /* rows, by cause */
	double unstopped;                     /* responses */
};

static struct numbers numbers_of(const struct nla_step *s)
{
	struct numbers x = { .p10 = (double)NAN, .p50 = (double)NAN, .p90 = (double)NAN };
	nla_auto int64_t *sorted = nla_alloc((size_t)s->n, sizeof(*sorted));
	int64_t n = 0;
	for (int64_t i = 0; i < s->n; i++) {
		add(&x.all, s->mse[i]);
		if (!s->failed[i])
			add(&x.valid, s->mse[i]);
		if (!s->failed[i] && s->mse_start)
			add(&x.start, s->mse_start[i]);
		x.failed[s->failed[i]]++;
		if (s->explanation[i])
			add(&x.explanation, (double)s->n_explanation[i]);
		if (!s->response[i]) /* an explanation that was given */
			continue;
		sorted[n++] = s->tokens.length[i];
		x.unstopped += !s->tokens.stopped[i];
		add(&x.response, (double)s->tokens.length[i]);
	}
	qsort(sorted, (size_t)n, sizeof(*sorted), nla_by_number);
	if (n) {
		x.p10 = (double)sorted[(n - 1) / 10];
		x.p50 = (double)sorted[(n - 1) / 2];
		x.p90 = (double)sorted[(n - 1) * 9 / 10];
	}
	return x;
}

/* ---- rows that several logs have ---- */

/* s: an evaluation's, which has standard errors; or NULL */
static void put_scores(cJSON *o, const struct numbers *x, const struct nla_baselines *base, const struct nla_step *s)
{
	const double error = s ? standard_error(&x->valid, s, valid_mse) : 0;
	num(o, "fve", nla_fve(mean(&x->valid), base->var), "of valid rows, as published sweeps count: 1 - mse / raw variance");
	if (s)
		num(o, "fve_se", error / base->var, "its standard error over rows");
	num(o, "fve_meannorm", nla_fve(mean(&x->valid), base->mean), "fve with the mean-normalised baseline");
	if (s)
		num(o, "fve_meannorm_se", error / base->mean, "its standard error");
	num(o, "fve_all", nla_fve(mean(&x->all), base->var), "fve of all rows, failed ones at reward.fail_mse");
	if (s)
		num(o, "fve_all_meannorm", nla_fve(mean(&x->all), base->mean), "the same, mean-normalised");
	num(o, "mse", mean(&x->valid),
	    "of valid rows: mean over D of the squared difference of normalised vectors, 2 (1 - cosine)");
	num(o, "cosine", nla_cosine(mean(&x->valid)), "of valid rows, 1 - mse / 2");
}

static void put_percentiles(cJSON *o, const struct numbers *x)
{
	num(o, "response_tokens_p10", x->p10, "tenth percentile of response tokens");
	num(o, "response_tokens_p50", x->p50, "median");
	num(o, "response_tokens_p90", x->p90, "ninetieth percentile");
}

static double groups_failed(const struct nla_step *s)
{
	double n = 0;
	for (int64_t from = 0; from < s->n; from += s->group)
		n += nla_group_failed(s->failed + from, s->group);
	return n;
}

/* With valid rows, all of nearly the same reward: it has no advantages. */
static double groups_tied(const struct nla_step *s)
{
	double n = 0;
	for (int64_t from = 0; from < s->n; from += s->group) {
		int64_t equal = 1;
		while (equal < s->group && (s->reward[from + equal] == s->reward[from] ||
					    (s->advantage[from] == 0 && s->advantage[from + equal] == 0)))
			equal++;
		n += equal == s->group && !nla_group_failed(s->failed + from, s->group);
	}
	return n;
}

static double failed_rate(const struct numbers *x) { return (x->all.n - x->failed[NLA_ROW_OK]) / x->all.n; }

/* ---- the fields ---- */

static void put_rewards(cJSON *o, const struct nla_rl *rl, const struct nla_step *s)
{
	double reward, reward_std, penalty, penalty_std;
	nla_auto double *score = nla_alloc((size_t)s->n, sizeof(*score));
	for (int64_t i = 0; i < s->n; i++)
		score[i] = s->reward[i] + s->penalty[i];
	nla_mean_std(s->reward, s->n, &reward, &reward_std);
	nla_mean_std(s->penalty, s->n, &penalty, &penalty_std);
	num(o, "reward_mean", reward, "mean reward: score less penalty");
	num(o, "reward_std", reward_std, "its standard deviation over all samples");
	num(o, "penalty_mean", penalty, "mean penalty: lambda a token above the floor");
	num(o, "score_within_std", nla_within_group_std(score, s->n_prompts, s->group),
	    "standard deviation of the score within a group, mean over groups");
	num(o, "penalty_within_std", nla_within_group_std(s->penalty, s->n_prompts, s->group), "the same of the penalty");
	text(o, "lambda_unit", rl->reward.score == NLA_REWARD_FVE ? "fve" : "-mse",
	     "what lambda is measured in: `fve` or `-mse`");
}

static void put_update(cJSON *o, const struct nla_rl *rl, const struct nla_step *s, const struct nla_state *state)
{
	const struct nla_update_stats *u = &s->update;
	num(o, "kl", u->kl, "k3 estimate of the divergence from the reference, mean over tokens; null at update.kl 0");
	num(o, "kl_clamped", u->kl_clamped,
	    "share of tokens that the reference finds e^12 times likelier or more: their KL has no gradient");
	num(o, "entropy", u->entropy, "of the policy, mean over tokens");
	num(o, "clip_frac", u->clip_frac, "share of tokens whose ratio was clipped");
	num(o, "sampler_gap", u->sampler_gap,
	    "mean over tokens of the difference between the trainer's and the sampler's log-probability: must stay small");
	num(o, "loss", u->loss, "of the update");
	num(o, "grad_norm", u->grad_norm, "before clipping; null: not finite, the step was skipped");
	num(o, "lr", rl->update.lr, "learning rate");
	num(o, "skipped_steps", (double)state->skipped, "steps skipped since the start");
	num(o, "ar_loss", u->ar_loss, "mean mse of the co-trained AR before its step; null: frozen, or no row to train on");
}

static void put_reduced(cJSON *o, struct nt_reduced r)
{
	num(o, "reduced_bytes", (double)r.bytes, "of gradients summed over ranks; 0: there is one rank");
	num(o, "reduce_seconds", r.seconds, "of that sum, within the step");
	num(o, "wait_seconds", r.waited, "that the first rank waited for others, since the sum before");
}

static void put_seconds(cJSON *o, const struct nla_step *s)
{
	double total = 0;
	for (int i = 0; i < NLA_N_STAGES; i++) {
		nla_auto char *key = nla_format("seconds_%s", nla_stage_names[i]);
		num(o, key, s->seconds[i], "of that stage");
		total += s->seconds[i];
	}
	num(o, "seconds", total, "of all stages; a checkpoint counts in the line after it");
}

cJSON *nla_report_step(const struct nla_rl *rl, const struct nla_step *s, const struct nla_state *state)
{
	cJSON *o = cJSON_CreateObject();
	const struct numbers x = numbers_of(s);
	int64_t free_bytes, total, peak = 0;
	nt_memory(rl->av ? rl->av->target->lm.device : NT_CPU, &free_bytes, &total, &peak);
	num(o, "step", (double)state->step, "updates made");
	put_rewards(o, rl, s);
	put_scores(o, &x, &rl->base, NULL);
	num(o, "response_tokens_mean", mean(&x.response), "mean tokens of a response, the stop token included");
	put_percentiles(o, &x);
	num(o, "explanation_tokens_mean", mean(&x.explanation), "mean tokens of an explanation alone");
	num(o, "tokens_per_second", x.response.sum / s->seconds[NLA_STAGE_ROLLOUT],
	    "response tokens over the rollout's seconds");
	num(o, "failed_rate", failed_rate(&x), "share of rows that failed");
	for (int cause = 1; cause < NLA_N_FAILURES; cause++) {
		nla_auto char *key = nla_format("failed_%s", nla_failures[cause].name);
		num(o, key, x.failed[cause] / x.all.n, nla_failures[cause].meaning);
	}
	num(o, "unstopped_rate", x.unstopped / x.response.n, "share of responses that have no stop token, scored ones too");
	num(o, "groups_failed", groups_failed(s), "groups without a valid row: their advantages are 0");
	num(o, "groups_tied", groups_tied(s), "groups with valid rows whose rewards are all the same, or spread less than "
	    "`advantage.min_std`: their advantages are 0");
	num(o, "unique_explanations", unique_texts(s->explanation, s->n), "different explanations of the step");
	put_update(o, rl, s, state);
	put_seconds(o, s);
	put_reduced(o, s->update.reduced);
	num(o, "micro_batch", (double)rl->update.micro_batch, "responses a backward pass");
	item(o, "warnings", cJSON_CreateArray(), "names of the warnings of the run's health that hold now (`guard`)");
	num(o, "live_tensors", (double)nt_live(), "that the program holds");
	num(o, "peak_memory_bytes", (double)peak, "most that tensors took of the device so far");
	return o;
}

cJSON *nla_report_sample(const struct nla_rl *rl, const struct nla_step *s, int64_t step, int64_t i)
{
	cJSON *o = cJSON_CreateObject();
	const bool probe = s->group == 1; /* a group of training has at least two */
	num(o, "step", (double)step, "the step it was drawn for");
	num(o, "row", (double)s->rows[i / s->group], "of the activation set");
	item(o, "probe", cJSON_CreateBool(probe), "one of `log.probe` held-out rows, the same throughout, decoded greedily");
	text(o, "response", s->response[i], "what the AV wrote, special tokens shown");
	text(o, "failed", nla_failures[s->failed[i]].name, "cause, or null");
	num(o, "fve", (float)nla_fve(s->mse[i], rl->base.var), "its score; null without an AR (`nla-sft`)");
	num(o, "tokens", (double)s->tokens.length[i], "of the response, the stop token included");
	num(o, "reward", probe ? (double)NAN : s->reward[i], "score less penalty; null: a probe");
	num(o, "advantage", probe ? (double)NAN : s->advantage[i], "within its group; null: a probe");
	return o;
}

cJSON *nla_report_sft(const struct nla_sft_line *l, const struct nla_state *state)
{
	cJSON *o = cJSON_CreateObject();
	num(o, "step", (double)state->step, "updates made; 0: before the first");
	num(o, "loss", l->loss, "of the batch: cross-entropy a token (roles lm, av), mse (ar)");
	num(o, "grad_norm", l->grad_norm, "before clipping; null: not finite, the step was skipped");
	num(o, "lr", l->lr, "learning rate of this step");
	num(o, "skipped_steps", (double)state->skipped, "steps skipped since the start");
	num(o, "seconds", l->seconds, "of the step");
	put_reduced(o, l->reduced);
	if (!l->held)
		return o;
	num(o, "held_loss", l->held_loss, "every `sft.held_every` steps: the loss on held-out documents");
	if (nla_report_meaning || l->role == NLA_ROLE_AV)
		num(o, "held_loss_other_vector", l->held_loss_other_vector,
		    "role av: the same when every row gets another document's vector");
	if (nla_report_meaning || (l->role == NLA_ROLE_AR && !isnan(l->base.var))) {
		num(o, "held_fve", nla_fve(l->held_loss, l->base.var), "role ar: fve on held-out documents");
		num(o, "held_fve_meannorm", nla_fve(l->held_loss, l->base.mean), "role ar: the same, mean-normalised");
	}
	return o;
}

/* Over the tokens of all responses; NaN without log-probabilities. */
static double mean_kl(const struct nla_step *s)
{
	double sum = 0, n = 0;
	for (int64_t i = 0; s->logprob && i < s->n; i++)
		for (int64_t at = i * s->tokens.width, end = at + s->tokens.length[i]; s->response[i] && at < end; at++, n++)
			sum += nla_k3((double)s->ref_logprob[at] - s->logprob[at]);
	return sum / n;
}

/* 1 - mean KL / mean KL of the mean vector, over rows that did not fail, or all. */
static double recovered(const struct nla_step *s, bool all)
{
	double kl = 0, of_mean = 0;
	for (int64_t i = 0; i < s->n; i++)
		if (!isnan(s->kl[2 * i]) && (all || !s->failed[i])) {
			kl += s->kl[2 * i];
			of_mean += s->kl[2 * i + 1];
		}
	return 1 - kl / of_mean;
}

cJSON *nla_report_eval(const struct nla_rl *rl, const struct nla_step *s)
{
	cJSON *o = cJSON_CreateObject();
	const struct numbers x = numbers_of(s);
	nla_auto int64_t *at = nla_step_by_row(s);
	double rows = 0;
	for (int64_t i = 0; i < s->n; i++)
		rows += i == 0 || s->rows[at[i]] != s->rows[at[i - 1]];
	cJSON *causes = cJSON_CreateObject();
	for (int cause = 1; cause < NLA_N_FAILURES; cause++)
		cJSON_AddNumberToObject(causes, nla_failures[cause].name, x.failed[cause]);
	num(o, "rows", rows, "rows evaluated");
	num(o, "samples", (double)s->n / rows, "of each row");
	put_scores(o, &x, &rl->base, s);
	if (nla_report_meaning || s->mse_start) {
		num(o, "fve_start_ar", nla_fve(mean(&x.start), rl->base.var), "fve by the AR of `eval.start_ar`");
		num(o, "fve_start_ar_se", standard_error(&x.start, s, start_mse) / rl->base.var, "its standard error");
		num(o, "fve_start_ar_meannorm", nla_fve(mean(&x.start), rl->base.mean), "the same, mean-normalised");
	}
	num(o, "response_tokens", mean(&x.response), "mean tokens of a response, the stop token included");
	num(o, "response_tokens_se", standard_error(&x.response, s, response_tokens), "its standard error");
	put_percentiles(o, &x);
	num(o, "explanation_tokens", mean(&x.explanation), "mean tokens of an explanation alone");
	num(o, "failed_rate", failed_rate(&x), "share of rows that failed");
	item(o, "failed", causes, "number of failed rows by cause");
	if (nla_report_meaning || s->logprob)
		num(o, "kl", mean_kl(s),
		    "k3 estimate of the divergence from the reference, mean over response tokens (nla-eval; `update.kl` 0)");
	if (nla_report_meaning || s->kl) {
		num(o, "recovered_kl", recovered(s, false),
		    "share of the mean vector's KL of the target's next token that reconstructions take away "
		    "(`eval.recovered_kl`)");
		num(o, "recovered_kl_all", recovered(s, true), "the same with failed rows, as the mean vector");
	}
	num(o, "baseline_var", rl->base.var, "raw variance of the baseline's rows");
	num(o, "baseline_mean", rl->base.mean, "mean-normalised");
	text(o, "baseline_of", rl->own_baseline ? "rows" : "data", "`eval.baseline`: of the set, or of the evaluated rows");
	text(o, "vectors", rl->another ? "another" : "own", "`eval.vectors`: whose were explained, or some of them");
	num(o, "temperature", rl->rollout.temperature, "of sampling");
	num(o, "max_new_tokens", (double)rl->rollout.max_new_tokens, "longest response");
	num(o, "min_new_tokens", (double)rl->rollout.min_new_tokens, "shortest");
	text(o, "truncated", rl->rollout.truncated ? "score" : "fail", "`rollout.truncated`");
	num(o, "fail_mse", rl->reward.fail_mse, "mse of a failed row");
	num(o, "seed", (double)rl->rng.seed, "of the random numbers");
	num(o, "seconds", s->seconds[NLA_STAGE_EVAL], "of sampling and scoring");
	item(o, "made_by", nla_made_by(rl->av ? rl->av->target->lm.device : NT_CPU), "version, commit, libtorch, device");
	return o;
}

cJSON *nla_report_row(const struct nla_rl *rl, const struct nla_step *s, int64_t i)
{
	cJSON *o = cJSON_CreateObject();
	const int64_t at = i * s->tokens.width, n = s->tokens.length[i];
	num(o, "row", (double)s->rows[i], "of the activation set");
	if (s->vector_of)
		num(o, "vector_of", (double)s->vector_of[i], "the row whose vector was explained, where it may be another's");
	text(o, "explanation", s->explanation[i], "or null without tags");
	text(o, "response", s->response[i], "special tokens shown; null: an explanation was given");
	if (s->response[i])
		num(o, "n_response", (double)n, "its tokens, the stop token included");
	num(o, "n_explanation", (double)s->n_explanation[i], "tokens of the explanation alone");
	text(o, "failed", nla_failures[s->failed[i]].name, "cause, or null");
	num(o, "mse", s->mse[i], "a failed row's is reward.fail_mse");
	num(o, "cosine", (float)nla_cosine(s->mse[i]), "of prediction and vector");
	num(o, "fve", nla_fve(s->mse[i], rl->base.var), "1 - mse / baseline_var");
	num(o, "fve_meannorm", nla_fve(s->mse[i], rl->base.mean), "1 - mse / baseline_mean");
	if (s->mse_start)
		num(o, "mse_start_ar", s->mse_start[i], "mse by the AR of `eval.start_ar`");
	if (s->kl) {
		num(o, "kl_next", s->kl[2 * i], "KL of the target's next token, given the reconstruction");
		num(o, "kl_next_mean", s->kl[2 * i + 1], "given the mean vector of the evaluated rows");
	}
	if (s->response[i])
		item(o, "ids", cJSON_CreateIntArray(s->tokens.ids + at, (int)n), "token ids of the response");
	if (s->response[i] && s->logprob) {
		item(o, "logprob", cJSON_CreateFloatArray(s->logprob + at, (int)n), "of each of them under the AV (nla-eval)");
		item(o, "ref_logprob", cJSON_CreateFloatArray(s->ref_logprob + at, (int)n), "under the reference (nla-eval)");
	}
	return o;
}
