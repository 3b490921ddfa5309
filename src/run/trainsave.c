/* Checkpoints and evaluations of an RL run, and the table at its end. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/progress.h"
#include "run/train.h"

static enum nla_status save_parts(const struct nla_train *t, const char *dir, struct nla_err *err)
{
	struct nla_st_entry *entries = NULL;
	size_t n = 0;
	char *av = nla_path_join(dir, "av"), *ar = nla_path_join(dir, "ar"), *optim = nla_path_join(dir, "optimizer.safetensors");
	char *config = nla_path_join(dir, "config.json");
	if (nla_half_save(&t->av, &t->adapter, av, "rl", err) || nla_half_save(&t->ar, NULL, ar, t->cfg->ar_update.enabled ? "rl" : t->ar.meta.stage, err) ||
	    nla_optim_entries(&t->optim, "av", &entries, &n, err) ||
	    (t->cfg->ar_update.enabled && nla_optim_entries(&t->ar_optim, "ar", &entries, &n, err)) ||
	    nla_st_write(optim, entries, n, err) || nla_config_write(t->cfg, config, err))
		goto out;
out:
	nla_optim_free_entries(entries, n);
	free(av);
	free(ar);
	free(optim);
	free(config);
	return err->status;
}

enum nla_status nla_train_checkpoint(struct nla_train *t, struct nla_err *err)
{
	char *dir = NULL;
	double started = nla_seconds();
	if (t->saved == t->state.step)
		return NLA_OK;
	t->state.cursor = t->cursor.position;
	t->state.av_updates = t->optim.step;
	t->state.ar_updates = t->ar_optim.step;
	if (nla_checkpoint_begin(&t->folder, t->state.step, &dir, err))
		return nla_err_context(err, "cannot write checkpoint %lld", (long long)t->state.step);
	if (save_parts(t, dir, err) || nla_state_write(&t->state, dir, err) ||
	    nla_checkpoint_commit(&t->folder, t->state.step, dir, t->cfg->checkpoint.keep, err)) {
		nla_err_context(err, "cannot write checkpoint %lld, the former one is whole", (long long)t->state.step);
		nla_checkpoint_abandon(dir);
	} else {
		t->saved = t->state.step;
	}
	free(dir);
	t->checkpoint_seconds += nla_seconds() - started;
	return err->status;
}

static enum nla_status write_eval(struct nla_train *t, const struct nla_eval_result *r, struct nla_err *err)
{
	char *summary = nla_format("%s/eval-%lld.json", t->folder.path, (long long)t->state.step);
	char *rows = nla_format("%s/eval-%lld.rows.jsonl", t->folder.path, (long long)t->state.step);
	cJSON *json = nla_eval_summary(r, t->cfg);
	if (!nla_json_write(summary, json, true, err))
		nla_eval_write_rows(r, t->cfg, rows, err);
	nla_say("eval at step %lld: fve %.4f +- %.4f (mean-normalised %.4f), %.1f response tokens, %.1f%% failed, %lld rows",
		(long long)t->state.step, nla_json_value(json, "fve"), nla_json_value(json, "fve_se"), nla_json_value(json, "fve_meannorm"), nla_json_value(json, "response_tokens"),
		100 * nla_json_value(json, "failed_rate"), (long long)r->n);
	cJSON_Delete(json);
	free(summary);
	free(rows);
	return err->status;
}

enum nla_status nla_train_evaluate(struct nla_train *t, struct nla_step *s, struct nla_err *err)
{
	struct nla_eval_result r;
	double started = nla_seconds();
	int64_t n;
	if (!t->has_eval)
		return NLA_OK;
	int64_t *rows = nla_eval_rows(&t->eval_set, t->cfg->eval.rows, &n);
	struct nla_evaluated who = { &t->av, t->sampler, &t->ar, t->ar_view, &t->eval_set, t->plan.rows };
	nt_grad_push(false);
	if ((!t->has_rollout || !nla_merge(&t->rollout_lm, &t->policy, err)) &&
	    !nla_evaluate(&who, rows, n, t->cfg, "evaluate", &r, err)) {
		write_eval(t, &r, err);
		nla_eval_result_release(&r);
	}
	nt_grad_pop();
	free(rows);
	if (s)
		s->seconds[NLA_STAGE_EVAL] += nla_seconds() - started;
	return err->status;
}

/* ---- the result: a table before/after, three explanations before and after ---- */

static cJSON *read_eval(const struct nla_train *t, int64_t step)
{
	struct nla_err ignored = NLA_ERR_INIT;
	cJSON *json = NULL;
	char *path = nla_format("%s/eval-%lld.json", t->folder.path, (long long)step);
	if (nla_exists(path))
		nla_json_read(path, &json, &ignored);
	free(path);
	return json;
}

static void print_table(const cJSON *before, const cJSON *after)
{
	static const struct {
		const char *name, *key;
	} rows[] = {
		{ "FVE (raw variance)", "fve" },          { "FVE (mean-normalised)", "fve_meannorm" },
		{ "FVE, failures counted", "fve_all" },   { "response tokens", "response_tokens" },
		{ "explanation tokens", "explanation_tokens" }, { "failed rows, share", "failed_rate" },
	};
	printf("%-24s %10s %10s\n", "held-out rows", "before", "after");
	for (size_t i = 0; i < NLA_LEN(rows); i++)
		printf("%-24s %10.3f %10.3f\n", rows[i].name, nla_json_value(before, rows[i].key), nla_json_value(after, rows[i].key));
}

static void print_explanations(const struct nla_train *t, int64_t first, int64_t last, int64_t count)
{
	struct nla_err ignored = NLA_ERR_INIT;
	struct nla_lines a, b;
	char *from = nla_format("%s/eval-%lld.rows.jsonl", t->folder.path, (long long)first);
	char *to = nla_format("%s/eval-%lld.rows.jsonl", t->folder.path, (long long)last);
	if (!nla_lines_open(&a, from, &ignored) && !nla_lines_open(&b, to, &ignored)) {
		const char *x, *y;
		for (int64_t i = 0; i < count && (x = nla_lines_next(&a)) && (y = nla_lines_next(&b)); i++) {
			cJSON *jx = cJSON_Parse(x), *jy = cJSON_Parse(y);
			const cJSON *ex = cJSON_GetObjectItem(jx, "explanation"), *ey = cJSON_GetObjectItem(jy, "explanation");
			const double row = nla_json_value(jx, "row");
			const bool same = row >= 0 && row < (double)t->eval_set.n && row == nla_json_value(jy, "row"); /* another set was evaluated? */
			const char *text = same ? t->eval_set.rows[(int64_t)row].text : "";
			size_t n = strlen(text), skip = n > 90 ? n - 90 : 0;
			while (skip && ((unsigned char)text[skip] & 0xC0) == 0x80)
				skip++;
			if (same)
				printf("\nrow %lld, whose text ends: ...%s\n  before (fve %.2f): %s\n  after  (fve %.2f): %s\n",
				       (long long)row, text + skip, nla_json_value(jx, "fve"), cJSON_IsString(ex) ? ex->valuestring : "(failed)",
				       nla_json_value(jy, "fve"), cJSON_IsString(ey) ? ey->valuestring : "(failed)");
			cJSON_Delete(jx);
			cJSON_Delete(jy);
		}
		nla_lines_close(&b, &ignored);
	}
	nla_lines_close(&a, &ignored);
	free(from);
	free(to);
}

enum nla_status nla_train_result(struct nla_train *t, struct nla_err *err)
{
	cJSON *before = t->has_eval ? read_eval(t, 0) : NULL, *after = t->has_eval ? read_eval(t, t->state.step) : NULL;
	/* eval.* may have changed when the run went on: other rows have another baseline */
	bool same = before && after && nla_json_value(before, "rows") == nla_json_value(after, "rows") &&
		    nla_json_value(before, "baseline_var") == nla_json_value(after, "baseline_var");
	if (same && t->state.step > 0) {
		print_table(before, after);
		print_explanations(t, 0, t->state.step, 3);
	}
	cJSON_Delete(before);
	cJSON_Delete(after);
	return err->status;
}
