/* An evaluation as numbers: the summary and rows.jsonl. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "run/evaluate.h"

struct moments {
	double n, sum, sq;
};

static void add(struct moments *m, double x)
{
	m->n++;
	m->sum += x;
	m->sq += x * x;
}

static double mean(const struct moments *m) { return m->n ? m->sum / m->n : (double)NAN; }

static double standard_error(const struct moments *m)
{
	if (m->n < 2)
		return (double)NAN;
	double var = (m->sq - m->sum * m->sum / m->n) / (m->n - 1);
	return sqrt(fmax(var, 0) / m->n);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void add_lengths(cJSON *json, const struct nla_eval_result *r)
{
	double *n = nla_alloc((size_t)r->n + 1, sizeof(*n));
	size_t count = 0;
	struct moments response = { 0 }, explanation = { 0 };
	for (int64_t i = 0; i < r->n; i++) {
		if (r->rows[i].explanation)
			add(&explanation, (double)r->rows[i].n_explanation);
		if (!r->rows[i].has_response)
			continue;
		add(&response, (double)r->rows[i].n_response);
		n[count++] = (double)r->rows[i].n_response;
	}
	qsort(n, count, sizeof(*n), compare);
	nla_json_put(json, "response_tokens", mean(&response));
	nla_json_put(json, "response_tokens_se", standard_error(&response));
	static const int parts[] = { 10, 50, 90 };
	for (size_t i = 0; i < NLA_LEN(parts); i++) {
		char *key = nla_format("response_tokens_p%d", parts[i]);
		nla_json_put(json, key, count ? n[(count - 1) * (size_t)parts[i] / 100] : (double)NAN);
		free(key);
	}
	nla_json_put(json, "explanation_tokens", mean(&explanation));
	free(n);
}

static void add_failures(cJSON *json, const struct nla_eval_result *r)
{
	cJSON *causes = cJSON_CreateObject();
	int64_t failed = 0;
	for (int cause = 1; cause < NLA_N_FAILURES; cause++) {
		int64_t n = 0;
		for (int64_t i = 0; i < r->n; i++)
			n += r->rows[i].failed == (enum nla_failure)cause;
		cJSON_AddNumberToObject(causes, nla_failure_names[cause], (double)n);
		failed += n;
	}
	nla_json_put(json, "failed_rate", (double)failed / (double)r->n);
	cJSON_AddItemToObject(json, "failed", causes);
}

cJSON *nla_eval_summary(const struct nla_eval_result *r, const struct nla_config *cfg)
{
	cJSON *json = cJSON_CreateObject();
	struct moments all = { 0 }, valid = { 0 };
	for (int64_t i = 0; i < r->n; i++) {
		add(&all, r->rows[i].mse);
		if (!r->rows[i].failed)
			add(&valid, r->rows[i].mse);
	}
	nla_json_put(json, "rows", (double)r->n);
	nla_json_put(json, "fve", 1 - mean(&valid) / r->base.var);
	nla_json_put(json, "fve_se", standard_error(&valid) / r->base.var);
	nla_json_put(json, "fve_meannorm", 1 - mean(&valid) / r->base.mean);
	nla_json_put(json, "fve_meannorm_se", standard_error(&valid) / r->base.mean);
	nla_json_put(json, "fve_all", 1 - mean(&all) / r->base.var);
	nla_json_put(json, "fve_all_meannorm", 1 - mean(&all) / r->base.mean);
	nla_json_put(json, "mse", mean(&valid));
	nla_json_put(json, "cosine", 1 - mean(&valid) / 2);
	add_lengths(json, r);
	add_failures(json, r);
	nla_json_put(json, "baseline_var", r->base.var);
	nla_json_put(json, "baseline_mean", r->base.mean);
	cJSON_AddStringToObject(json, "baseline_of", "the evaluated rows");
	nla_json_put(json, "temperature", cfg->rollout.temperature);
	nla_json_put(json, "fail_mse", cfg->reward.fail_mse);
	nla_json_put(json, "seed", (double)cfg->seed);
	nla_json_put(json, "seconds", r->seconds);
	return json;
}

static void add_text(cJSON *json, const char *key, const char *text)
{
	if (text)
		cJSON_AddStringToObject(json, key, text);
	else
		cJSON_AddNullToObject(json, key);
}

static void add_floats(cJSON *json, const char *key, const float *x, int64_t n)
{
	cJSON *list = cJSON_CreateArray();
	for (int64_t i = 0; i < n; i++)
		cJSON_AddItemToArray(list, cJSON_CreateNumber(x[i]));
	cJSON_AddItemToObject(json, key, list);
}

static cJSON *row_json(const struct nla_eval_row *row, const struct nla_baselines *base)
{
	cJSON *json = cJSON_CreateObject();
	cJSON_AddNumberToObject(json, "row", (double)row->row);
	add_text(json, "explanation", row->explanation);
	add_text(json, "response", row->response);
	if (row->has_response)
		cJSON_AddNumberToObject(json, "n_response", (double)row->n_response);
	cJSON_AddNumberToObject(json, "n_explanation", (double)row->n_explanation);
	add_text(json, "failed", nla_failure_names[row->failed]);
	nla_json_put(json, "mse", row->mse);
	nla_json_put(json, "cosine", 1 - row->mse / 2);
	nla_json_put(json, "fve", 1 - row->mse / base->var);
	nla_json_put(json, "fve_meannorm", 1 - row->mse / base->mean);
	if (row->ids && row->has_response) {
		cJSON *ids = cJSON_CreateArray();
		for (int64_t i = 0; i < row->n_response; i++)
			cJSON_AddItemToArray(ids, cJSON_CreateNumber(row->ids[i]));
		cJSON_AddItemToObject(json, "ids", ids);
	}
	if (row->logprob)
		add_floats(json, "logprob", row->logprob, row->n_response);
	if (row->ref_logprob)
		add_floats(json, "ref_logprob", row->ref_logprob, row->n_response);
	return json;
}

enum nla_status nla_eval_write_rows(const struct nla_eval_result *r, const struct nla_config *cfg, const char *path, struct nla_err *err)
{
	struct nla_str text = NLA_STR_INIT;
	for (int64_t i = 0; i < r->n; i++) {
		cJSON *json = row_json(&r->rows[i], &r->base);
		nla_json_add(&text, json, false, 0);
		nla_str_addc(&text, '\n');
		cJSON_Delete(json);
	}
	nla_file_write(path, text.buf, text.len, false, err);
	nla_str_release(&text);
	return err->status;
}
