/* One step's numbers: the line of metrics.jsonl (spec: per-step log). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "run/train.h"

static const char *const stage_names[NLA_N_STAGES] = { "rollout", "score", "update", "eval", "checkpoint" };

static void mean_std(const double *x, int64_t n, double *mean, double *std)
{
	double sum = 0, sq = 0;
	for (int64_t i = 0; i < n; i++)
		sum += x[i];
	*mean = sum / (double)n;
	for (int64_t i = 0; i < n; i++)
		sq += (x[i] - *mean) * (x[i] - *mean);
	*std = n > 1 ? sqrt(sq / (double)(n - 1)) : 0;
}

static int compare_i64(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

static int compare_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void add_rewards(cJSON *json, const struct nla_train *t, const struct nla_step *s)
{
	int64_t n = s->rollout.n;
	double mean, std, *score = nla_alloc((size_t)n, sizeof(*score));
	mean_std(s->reward, n, &mean, &std);
	nla_json_put(json, "reward_mean", mean);
	nla_json_put(json, "reward_std", std);
	mean_std(s->penalty, n, &mean, &std);
	nla_json_put(json, "penalty_mean", mean);
	for (int64_t i = 0; i < n; i++)
		score[i] = s->reward[i] + s->penalty[i];
	nla_json_put(json, "score_within_std", nla_within_group_std(score, s->rollout.n_prompts, s->rollout.group));
	nla_json_put(json, "penalty_within_std", nla_within_group_std(s->penalty, s->rollout.n_prompts, s->rollout.group));
	cJSON_AddStringToObject(json, "lambda_unit", t->cfg->reward.score == NLA_REWARD_FVE ? "fve" : "-mse");
	free(score);
}

static void add_scores(cJSON *json, const struct nla_train *t, const struct nla_step *s)
{
	double all = 0, valid = 0, n_valid = 0;
	for (int64_t i = 0; i < s->rollout.n; i++) {
		all += s->score.mse[i];
		if (s->rollout.failed[i])
			continue;
		valid += s->score.mse[i];
		n_valid++;
	}
	all /= (double)s->rollout.n;
	valid /= n_valid; /* NaN without valid rows: null in the log */
	nla_json_put(json, "fve", 1 - valid / t->base.var);
	nla_json_put(json, "fve_meannorm", 1 - valid / t->base.mean);
	nla_json_put(json, "fve_all", 1 - all / t->base.var);
	nla_json_put(json, "mse", valid);
	nla_json_put(json, "cosine", 1 - valid / 2);
}

static void add_lengths(cJSON *json, const struct nla_step *s)
{
	int64_t n = s->rollout.n, *sorted = nla_alloc((size_t)n, sizeof(*sorted)), total = 0, explained = 0, tokens = 0;
	for (int64_t i = 0; i < n; i++) {
		sorted[i] = s->rollout.tokens.length[i];
		total += sorted[i];
		explained += s->rollout.explanation[i] != NULL;
		tokens += s->rollout.n_explanation[i];
	}
	qsort(sorted, (size_t)n, sizeof(*sorted), compare_i64);
	nla_json_put(json, "response_tokens_mean", (double)total / (double)n);
	nla_json_put(json, "response_tokens_p10", (double)sorted[(n - 1) / 10]);
	nla_json_put(json, "response_tokens_p50", (double)sorted[(n - 1) / 2]);
	nla_json_put(json, "response_tokens_p90", (double)sorted[(n - 1) * 9 / 10]);
	nla_json_put(json, "explanation_tokens_mean", explained ? (double)tokens / (double)explained : (double)NAN);
	nla_json_put(json, "tokens_per_second", (double)total / s->seconds[NLA_STAGE_ROLLOUT]);
	free(sorted);
}

static void add_failures(cJSON *json, const struct nla_step *s)
{
	int64_t count[NLA_N_FAILURES] = { 0 }, n = s->rollout.n;
	for (int64_t i = 0; i < n; i++)
		count[s->rollout.failed[i]]++;
	nla_json_put(json, "failed_rate", (double)(n - count[NLA_ROW_OK]) / (double)n);
	for (int cause = 1; cause < NLA_N_FAILURES; cause++) {
		char *key = nla_format("failed_%s", nla_failure_names[cause]);
		nla_json_put(json, key, (double)count[cause] / (double)n);
		free(key);
	}
	char **texts = nla_alloc((size_t)n, sizeof(*texts));
	size_t m = 0, unique = 0;
	for (int64_t i = 0; i < n; i++)
		if (s->rollout.explanation[i])
			texts[m++] = s->rollout.explanation[i];
	qsort(texts, m, sizeof(*texts), compare_text);
	for (size_t i = 0; i < m; i++)
		unique += i == 0 || strcmp(texts[i], texts[i - 1]) != 0;
	nla_json_put(json, "unique_explanations", (double)unique);
	free(texts);
}

static void add_update(cJSON *json, const struct nla_train *t, const struct nla_step *s)
{
	nla_json_put(json, "kl", s->stats.kl);
	nla_json_put(json, "entropy", s->stats.entropy);
	nla_json_put(json, "clip_frac", s->stats.clip_frac);
	nla_json_put(json, "sampler_gap", s->stats.sampler_gap);
	nla_json_put(json, "loss", s->stats.loss);
	nla_json_put(json, "grad_norm", s->stats.grad_norm);
	nla_json_put(json, "lr", t->cfg->update.lr);
	nla_json_put(json, "skipped_steps", (double)t->state.skipped);
	nla_json_put(json, "ar_loss", t->cfg->ar_update.enabled ? s->ar_loss : (double)NAN);
}

cJSON *nla_metrics_line(const struct nla_train *t, const struct nla_step *s)
{
	cJSON *json = cJSON_CreateObject();
	int64_t free_bytes, total, peak = 0;
	double seconds = 0;
	nla_json_put(json, "step", (double)t->state.step);
	add_rewards(json, t, s);
	add_scores(json, t, s);
	add_lengths(json, s);
	add_failures(json, s);
	add_update(json, t, s);
	for (int i = 0; i < NLA_N_STAGES; i++) {
		char *key = nla_format("seconds_%s", stage_names[i]);
		nla_json_put(json, key, s->seconds[i]);
		free(key);
		seconds += s->seconds[i];
	}
	nla_json_put(json, "seconds", seconds);
	nt_memory(t->target.lm.device, &free_bytes, &total, &peak);
	nla_json_put(json, "micro_batch", (double)t->plan.micro_batch);
	nla_json_put(json, "peak_memory_bytes", (double)peak);
	return json;
}
