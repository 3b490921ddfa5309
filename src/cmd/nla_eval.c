/* nla-eval: held-out rows, sampled or given, to FVE, tokens and failures; one JSON object on stdout, rows in OUT/rows.jsonl. */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "run/evalgiven.h"
#include "cmd/program.h"

struct models {
	struct nla_target target;
	struct nla_half av, ref;
	struct nla_half ar;
	struct nla_actset set;
	struct nla_lm merged;
	bool has_ref, has_merged;
	int64_t room;
};

/* The anchor: --ref, or the reference that a run keeps beside its checkpoints; else evaluate() takes what the AV stands on, or the AV itself. */
static char *find_reference(const struct nla_config *cfg)
{
	if (*cfg->ref)
		return nla_strdup(cfg->ref);
	char *beside = nla_format("%s/../../../reference", cfg->av), *meta = nla_path_join(beside, "nla_meta.yaml");
	if (!nla_exists(meta)) {
		free(beside);
		beside = NULL;
	}
	free(meta);
	return beside;
}

static enum nla_status load(struct models *m, const struct nla_config *cfg, struct nla_err *err)
{
	const char *data = *cfg->eval.data ? cfg->eval.data : cfg->data;
	int device;
	nt_dtype dtype;
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(cfg->av, "av", err) || nla_config_need(cfg->ar, "ar", err) ||
	    nla_config_need(data, "eval.data", err) || nla_config_need(cfg->out, "out", err) || nla_config_device(cfg, &device, &dtype, err) ||
	    nla_config_room(cfg, device, &m->room, err))
		return err->status;
	if (nla_target_open(&m->target, cfg->model, &cfg->chat, device, dtype, -1, err) || nla_half_open(&m->av, NLA_AV, &m->target, cfg->av, cfg->av_base, err) ||
	    nla_half_open(&m->ar, NLA_AR, &m->target, cfg->ar, cfg->ar_base, err) || nla_actset_open(&m->set, data, m->target.lm.arch.d_model, err) ||
	    nla_contract_fits_set(&m->set, &m->target, &m->av.meta, &m->ar.meta, data, err))
		return err->status;
	char *ref = find_reference(cfg);
	if (ref && !nla_half_open(&m->ref, NLA_AV, &m->target, ref, *cfg->ref ? "" : cfg->av_base, err)) /* the run's own is over av's base */
		m->has_ref = true;
	free(ref);
	return err->status;
}

static void unload(struct models *m)
{
	if (m->has_merged)
		nla_lm_release(&m->merged);
	nla_half_release(&m->av);
	nla_half_release(&m->ref);
	nla_half_release(&m->ar);
	nla_actset_close(&m->set);
	nla_target_close(&m->target);
}

static enum nla_status sample(struct models *m, const struct nla_config *cfg, struct nla_evaluated *who, struct nla_eval_result *r,
			      struct nla_err *err)
{
	int64_t n, *rows = nla_eval_rows(&m->set, cfg->eval.rows, &n);
	const struct nla_lm *lm = &m->target.lm;
	struct nla_plan_in in = {
		.arch = &lm->arch, .dtype = lm->dtype, .gpu = lm->device != NT_CPU, .weights = nla_plan_loaded(&m->target, &m->av, &m->ar),
		.av = m->av.adapter.layers ? &m->av.adapter : NULL, .ar = m->ar.adapter.layers ? &m->ar.adapter : NULL, .ar_depth = m->ar.depth,
		.prompt = (int64_t)m->av.prompt.n, .prompt_head = m->av.marker, .prompts = 1, .group = 1,
		.new_tokens = cfg->rollout.max_new_tokens, .eval_rows = NLA_MIN(cfg->eval.batch, n), .copies = 1,
	};
	bool merge = lm->dtype == NT_F32 && nla_plan_rows(&in, in.eval_rows, m->room) == in.eval_rows;
	in.copies = merge;
	who->rows = nla_plan_rows(&in, in.eval_rows, m->room);
	if (merge && !nla_lm_fork(&m->merged, nla_half_lm(&m->av), err)) {
		struct nla_view view = nla_half_view(&m->av);
		m->has_merged = true;
		nla_merge(&m->merged, &view, err);
		who->av_view = (struct nla_view){ .lm = &m->merged };
	}
	if (!err->status)
		nla_evaluate(who, rows, n, cfg, "evaluate", r, err);
	free(rows);
	return err->status;
}

static enum nla_status report(const struct nla_eval_result *r, const struct nla_config *cfg, struct nla_err *err)
{
	char *rows = nla_path_join(cfg->out, "rows.jsonl"), *summary = nla_path_join(cfg->out, "summary.json");
	cJSON *json = nla_eval_summary(r, cfg);
	cJSON_AddStringToObject(json, "av", cfg->av);
	cJSON_AddStringToObject(json, "ar", cfg->ar);
	cJSON_AddStringToObject(json, "data", *cfg->eval.data ? cfg->eval.data : cfg->data);
	if (!nla_eval_write_rows(r, cfg, rows, err) && !nla_json_write(summary, json, true, err)) {
		struct nla_str text = NLA_STR_INIT;
		nla_json_add(&text, json, true, 0);
		puts(text.buf);
		nla_str_release(&text);
	}
	cJSON_Delete(json);
	free(rows);
	free(summary);
	return err->status;
}

static enum nla_status evaluate(struct models *m, const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_view own = nla_half_view(&m->av), reference = m->has_ref ? nla_half_view(&m->ref) : own;
	if (!m->has_ref && m->av.weights.base) /* trained over a whole AV: that is the anchor */
		reference.n_adapters = 0;
	struct nla_evaluated who = { &m->av, own, &m->ar, nla_half_view(&m->ar), &m->set, 0 };
	struct nla_eval_result r = { 0 };
	if (*cfg->score ? nla_eval_read_given(&m->av, &m->set, cfg->score, cfg->rollout.truncated, &r, err) || nla_evaluate_given(&who, &r, cfg->reward.fail_mse, err)
			: sample(m, cfg, &who, &r, err))
		goto out;
	if (!nla_evaluate_logprob(&who, &own, &reference, cfg->eval.batch, *cfg->score || cfg->rollout.temperature == 0 ? 1 : cfg->rollout.temperature, &r, err))
		report(&r, cfg, err);
out:
	nla_eval_result_release(&r);
	return err->status;
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	struct models m = { 0 };
	char *summary = nla_path_join(cfg->out, "summary.json");
	if (*cfg->out && nla_exists(summary) && !cfg->overwrite)
		nla_usage(err, "'%s' is there already: give --overwrite to replace it, or another --out", summary);
	else if (!load(&m, cfg, err) && !nla_mkdirs(cfg->out, err))
		evaluate(&m, cfg, err);
	unload(&m);
	free(summary);
	return err->status;
}

int main(int argc, char **argv)
{
	return nla_program("nla-eval", NLA_CMD_EVAL,
			   "Held-out rows -> FVE (raw-variance and mean-normalised baselines of those rows), tokens, failures.\n"
			   "With --score FILE.jsonl it scores given texts instead of sampling.",
			   argc, argv, run);
}
