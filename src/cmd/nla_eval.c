/* nla-eval: held-out rows, sampled or given, to FVE, tokens and failures; one JSON object on stdout, rows in OUT/rows.jsonl. */
#include "base/json.h"
#include "base/progress.h"
#include "cmd/program.h"
#include "lm/ranks.h"
#include "run/evaluate.h"
#include "run/report.h"

/* Given texts, and greedy ones, have the log-probabilities of temperature 1. */
static enum nla_status logprob(const struct nla_eval *e, const struct nla_config *cfg, struct nla_step *step,
			       struct nla_err *err)
{
	struct nla_rl rl = e->rl;
	int64_t batch = cfg->eval.batch;
	rl.rollout.temperature = *cfg->score || rl.rollout.temperature == 0 ? 1 : rl.rollout.temperature;
	return nla_eval_logprob(&rl, &batch, step, err);
}

/* Under such names is what has been written and not yet published, and what it replaces until it is. */
#define NEW ".new-"
#define OLD ".old-"

/* The files of an evaluation to other names: its summary goes first and comes last, as without one it is none. */
static enum nla_status move(const char *out, const char *from, const char *to, struct nla_err *err)
{
	static const char *const names[] = { "summary.json", "facts.json", "rows.jsonl" };
	for (int i = 0; i < 3 && !err->status; i++) {
		const char *name = names[*to ? i : 2 - i];
		nla_auto char *own = nla_format("%s%s", from, name), *other = nla_format("%s%s", to, name);
		nla_auto char *a = nla_path_join(out, own), *b = nla_path_join(out, other);
		if (nla_exists(a) && rename(a, b))
			nla_fail(err, "cannot rename '%s' to '%s': %s", a, b, strerror(errno));
		else
			nla_sync(*out ? out : ".", err);
	}
	return err->status;
}

static bool is_aside(const char *name, int64_t beyond) { return nla_starts_with(name, NEW) || nla_starts_with(name, OLD); }

/* A former start was killed between what goes and what comes: what was there is there again. */
static enum nla_status settle(const char *out, const char *summary, struct nla_err *err)
{
	if (!nla_is_dir(out) || (!nla_exists(summary) && move(out, OLD, "", err)))
		return err->status;
	return nla_remove_ours(out, is_aside, 0, err);
}

static enum nla_status publish(const char *out, struct nla_err *err)
{
	if (!move(out, "", OLD, err) && !move(out, NEW, "", err))
		return nla_remove_ours(out, is_aside, 0, err);
	move(out, OLD, "", NLA_IGNORED);
	return err->status;
}

static void add_path(cJSON *json, const char *key, const char *path)
{
	nla_auto char *whole = nla_options_path(path);
	cJSON_AddStringToObject(json, key, whole);
}

static enum nla_status report(const struct nla_eval *e, const struct nla_config *cfg, const struct nla_step *step,
			      struct nla_err *err)
{
	nla_auto char *rows = nla_path_join(cfg->out, NEW "rows.jsonl"), *summary = nla_path_join(cfg->out, NEW "summary.json");
	cJSON *json = nla_report_eval(&e->rl, step);
	const int64_t at = nla_checkpoint_step(cfg->av, NULL);
	cJSON_AddItemToObject(json, "step", at < 0 ? cJSON_CreateNull() : cJSON_CreateNumber((double)at));
	add_path(json, "model", cfg->model);
	add_path(json, "av", cfg->av);
	add_path(json, "ar", cfg->ar);
	if (step->mse_start)
		add_path(json, "start_ar", cfg->eval.start_ar);
	add_path(json, "data", e->set.path);
	if (nla_eval_write_rows(&e->rl, step, rows, err) || nla_json_write(summary, json, true, err) || publish(cfg->out, err))
		cJSON_Delete(json);
	else
		nla_program_print(json, true);
	if (!err->status)
		nla_say("nla-eval: written to '%s'", cfg->out);
	return err->status;
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_eval e = { 0 };
	NLA_AUTO(nla_step_release) struct nla_step step = { 0 };
	nla_auto char *summary = nla_path_join(cfg->out, "summary.json");
	const bool start_ar = *cfg->eval.start_ar && !nla_same_folder(cfg->eval.start_ar, cfg->ar);
	if (*cfg->out && !nla_rank() && settle(cfg->out, summary, err))
		return err->status;
	if (*cfg->out && nla_exists(summary) && !cfg->overwrite)
		nla_usage(err, "'%s' is there already: give --overwrite to replace it, or another --out or --name", summary);
	else if (!nla_eval_open(&e, cfg, err) && !nla_mkdirs(cfg->out, err) &&
		 !(*cfg->score ? nla_evaluate_given(&e.rl, cfg->score, &step, err)
			       : nla_evaluate(&e.rl, e.rows, e.n, cfg->eval.samples, cfg->eval.batch, &step, err)) &&
		 !(cfg->eval.logprob && logprob(&e, cfg, &step, err)) &&
		 !(cfg->eval.recovered_kl && nla_eval_recover(&e.rl, cfg->eval.batch, &step, err)) &&
		 !(start_ar && nla_eval_start_ar(&e, cfg, &step, err))) {
		nla_step_join(&step);
		nla_warn_failed(&step, NLA_ROW_OK);
		if (!nla_rank())
			report(&e, cfg, &step, err);
	}
	nla_eval_close(&e);
	return err->status;
}

const struct nla_program nla_program = { "nla-eval", NLA_CMD_EVAL, run,
	"Held-out rows -> FVE (raw-variance and mean-normalised), tokens, failures. Of a run's folder: its newest\n"
	"checkpoint, into RUN/evaluations/step-N. With --score FILE.jsonl it scores given texts instead of sampling." };
