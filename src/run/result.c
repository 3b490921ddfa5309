/* The end of an RL run in words: the evaluations before and after as a table, and the first explanations of both. */

#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/utf8.h"
#include "run/train.h"

#define SHOWN 3     /* explanations */
#define TEXT_END 90 /* bytes of a row's text */
#define RAW_END 400 /* and of a response that failed */

static cJSON *read_eval(const struct nla_policy *p, int64_t step)
{
	cJSON *json = NULL;
	nla_auto char *path = nla_format("%s/eval-%lld.json", p->loop.folder.path, (long long)step);
	nla_json_read(path, &json, NLA_IGNORED);
	return json;
}

static void add_table(struct nla_str *out, const cJSON *before, const cJSON *after)
{
	static const struct {
		const char *name, *key;
	} rows[] = {
		{ "FVE (raw variance)", "fve" },          { "FVE (mean-normalised)", "fve_meannorm" },
		{ "FVE, failures counted", "fve_all" },   { "response tokens", "response_tokens" },
		{ "explanation tokens", "explanation_tokens" }, { "failed rows, share", "failed_rate" },
	};
	nla_str_addf(out, "%-24s %10s %10s\n", "held-out rows", "before", "after");
	for (size_t i = 0; i < NLA_LEN(rows); i++) {
		nla_auto char *was = nla_figure(nla_json_value(before, rows[i].key), (double)NAN, 3);
		nla_auto char *is = nla_figure(nla_json_value(after, rows[i].key), (double)NAN, 3);
		nla_str_addf(out, "%-24s %10s %10s\n", rows[i].name, was, is);
	}
}

/* "(fve 0.71): Ends ..."; of a failure its cause and all that the AV wrote. */
static void add_side(struct nla_str *out, const char *side, const cJSON *row)
{
	const char *failed = cJSON_GetStringValue(cJSON_GetObjectItem(row, "failed"));
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(row, failed ? "response" : "explanation"));
	nla_auto char *line = nla_utf8_end(text ? text : "", failed ? RAW_END : SIZE_MAX);
	if (failed)
		nla_str_addf(out, "  %s (failed, %s): %s\n", side, failed, line);
	else
		nla_str_addf(out, "  %s (fve %.2f): %s\n", side, nla_json_value(row, "fve"), line);
}

static void add_explanation(struct nla_str *out, const struct nla_actset *set, const cJSON *before, const cJSON *after)
{
	const double row = nla_json_value(before, "row");
	if (!(row >= 0 && row < (double)set->n && row == nla_json_value(after, "row"))) /* another set was evaluated */
		return;
	nla_auto char *end = nla_utf8_end(set->rows[(int64_t)row].text, TEXT_END);
	nla_str_addf(out, "\nrow %lld, whose text ends: %s\n", (long long)row, end);
	add_side(out, "before", before);
	add_side(out, "after ", after);
}

static void add_explanations(struct nla_str *out, const struct nla_policy *p)
{
	struct nla_lines a, b;
	const char *x, *y;
	nla_auto char *from = nla_format("%s/eval-0.rows.jsonl", p->loop.folder.path);
	nla_auto char *to = nla_format("%s/eval-%lld.rows.jsonl", p->loop.folder.path, (long long)p->loop.state.step);
	if (!nla_lines_open(&a, from, NLA_IGNORED) && !nla_lines_open(&b, to, NLA_IGNORED)) {
		for (int i = 0; i < SHOWN && (x = nla_lines_next(&a)) && (y = nla_lines_next(&b)); i++) {
			nla_auto_json cJSON *before = cJSON_Parse(x), *after = cJSON_Parse(y);
			add_explanation(out, &p->train->eval_set, before, after);
		}
		nla_lines_close(&b, NLA_IGNORED);
	}
	nla_lines_close(&a, NLA_IGNORED);
}

void nla_train_result(const struct nla_policy *p, struct nla_str *out)
{
	const bool has_eval = p->train->has_eval;
	nla_auto_json cJSON *before = has_eval ? read_eval(p, 0) : NULL;
	nla_auto_json cJSON *after = has_eval ? read_eval(p, p->loop.state.step) : NULL;
	/* eval.* may have changed on resume: other rows have another baseline */
	if (before && after && p->loop.state.step > 0 && nla_json_value(before, "rows") == nla_json_value(after, "rows") &&
	    nla_json_value(before, "baseline_var") == nla_json_value(after, "baseline_var")) {
		if (p->who)
			nla_str_addf(out, "%s%s\n", out->len ? "\n" : "", p->who);
		add_table(out, before, after);
		add_explanations(out, p);
	}
}
