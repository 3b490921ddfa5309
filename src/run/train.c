/* An RL run: opening it (models, data, memory plan), and what the loop calls around a step; see train.h. */
#include "run/train.h"
#include "base/json.h"
#include "base/progress.h"
#include "lm/ranks.h"
#include "run/evaluate.h"
#include "run/report.h"

/* ---- memory plan ---- */

struct nla_plan_in nla_train_sizes(const struct nla_train *t, int64_t policies)
{
	const struct nla_config *cfg = t->cfg;
	struct nla_plan_in in = nla_models_sizes(&t->models, cfg);
	in.policies = policies;
	in.trained = &t->policies->adapter;
	in.ar_trained = cfg->ar_update.enabled;
	in.head_trained = cfg->ar_update.enabled && cfg->ar_update.train_head;
	in.ar_prompt = NLA_MIN(t->ar_tokens + cfg->rollout.max_new_tokens, NLA_AR_MAX_IDS);
	in.prompts = nla_most(cfg->rollout.prompts);
	in.group = cfg->rollout.group;
	in.eval_rows = t->has_eval ? cfg->eval.batch : 0;
	in.micro_batch = cfg->update.micro_batch;
	in.recompute = cfg->update.recompute;
	in.copies = NLA_PLAN_ALL_COPIES;
	in.rollout = true;
	return in;
}

/* The rows that a step or an evaluation of one policy would decode at once. */
static int64_t most_rows(const struct nla_train *t)
{
	const struct nla_plan_in one = nla_train_sizes(t, 1);
	return NLA_MAX(one.prompts * one.group, one.eval_rows);
}

int64_t nla_train_rows(const struct nla_train *t) { return t->plan.rows < most_rows(t) ? t->plan.rows : 0; }

/* A resumed run keeps its micro-batch, copies and rows that decode at once, on which the rounding depends, where they still
 * fit; several keep those of the first. */
static enum nla_status make_plan(struct nla_train *t, struct nla_err *err)
{
	struct nla_state *state = &t->policies->loop.state;
	struct nla_plan_in in = nla_train_sizes(t, t->n), before = in;
	before.micro_batch = in.micro_batch ? NLA_MIN(in.micro_batch, state->micro_batch) : state->micro_batch;
	before.copies &= (int)state->copies;
	if (state->micro_batch)
		nla_plan_make(&before, t->room, &t->plan);
	if (!state->micro_batch || !t->plan.fits || t->plan.copies != state->copies)
		nla_plan_make(&in, t->room, &t->plan);
	if (state->decode_rows && t->n == 1)
		t->plan.rows = NLA_MIN(t->plan.rows, state->decode_rows);
	const int64_t rows = nla_train_rows(t);
	for (struct nla_policy *p = t->policies; p < t->policies + t->n && !err->status; p++) {
		state = &p->loop.state;
		nla_loop_turn(&p->loop);
		if (state->micro_batch && (t->plan.micro_batch != state->micro_batch || t->plan.copies != state->copies ||
					   (rows && (!state->decode_rows || rows < state->decode_rows))))
			nla_say("the memory plan is not the one that the run had: it rounds differently from here on");
		state->micro_batch = t->plan.micro_batch;
		state->copies = t->plan.copies;
		state->decode_rows = rows;
	}
	return err->status;
}

/* ---- opening ---- */

/* A resumed run reads the warm start and the AR from its own folder: those it was given may have changed since. */
static enum nla_status open_models(struct nla_train *t, struct nla_err *err)
{
	const struct nla_config *cfg = &t->policies->cfg;
	nla_auto char *ar = nla_policy_ar(t->policies, err), *av = nla_path_join(cfg->out, "reference");
	const bool own = strcmp(ar, cfg->ar) != 0 && nla_exists_in(av, "nla_meta.yaml");
	return err->status ? err->status : nla_models_open(&t->models, cfg, own ? av : cfg->av, ar, &t->room, err);
}

static enum nla_status open_set(struct nla_train *t, struct nla_actset *set, const char *path, struct nla_err *err)
{
	struct nla_models *m = &t->models;
	return nla_actset_open(set, path, m->target.lm.arch.d_model, err) ||
	       nla_contract_fits_set(set, &m->target, &m->av.meta, &m->ar.meta, path, err) ? err->status : NLA_OK;
}

static enum nla_status open_data(struct nla_train *t, struct nla_err *err)
{
	const struct nla_config *cfg = t->cfg;
	if (open_set(t, &t->set, cfg->data, err))
		return err->status;
	if (!(t->set.meta.baseline_var > 0) || !(t->set.meta.baseline_mean > 0))
		return nla_fail(err, "'%s': its baseline is 0, all vectors are the same: no FVE can be computed", cfg->data);
	if (cfg->rollout.prompts < nla_n_ranks())
		return nla_usage(err, "rollout.prompts is %lld: want at least one for each of %lld ranks",
				 (long long)cfg->rollout.prompts, (long long)nla_n_ranks());
	t->has_eval = *cfg->eval.data;
	if (t->has_eval && !open_set(t, &t->eval_set, cfg->eval.data, err) && !nla_disjoint_docs(&t->set, &t->eval_set, err))
		nla_eval_warn(&t->eval_set, cfg->av, cfg->ar, NLA_EVAL_WARN);
	return err->status;
}

/* Several runs that resume together share what the first one reads: they must have begun with the same. */
static enum nla_status same_inputs(const struct nla_policy *p, struct nla_err *err)
{
	const struct nla_policy *first = p->train->policies;
	nla_auto char *a = nla_path_join(first->cfg.out, "inputs.json"), *b = nla_path_join(p->cfg.out, "inputs.json");
	nla_auto_json cJSON *was = NULL, *now = NULL;
	if (p == first || nla_json_read(a, &was, err) || nla_json_read(b, &now, err) || cJSON_Compare(was, now, true))
		return err->status;
	return nla_usage(err, "'%s' and '%s' began with other models or other data: resume them one at a time", first->cfg.out,
			 p->cfg.out);
}

/* The anchor as a folder of its own: what nla-eval takes as reference, even when the warm start's folder is gone. One that is
 * there without a checkpoint is of another start. */
static enum nla_status keep_reference(const struct nla_policy *p, struct nla_err *err)
{
	const struct nla_train *t = p->train;
	const struct nla_folder *f = &p->loop.folder;
	nla_auto char *dir = nla_path_join(f->path, "reference");
	if (!nla_rank() && t->models.av.adapter.layers && !(f->checkpoint && nla_exists_in(dir, "nla_meta.yaml")))
		nla_half_save(&t->models.av, NULL, dir, "reference", err);
	return err->status;
}

static void say_what(const struct nla_policy *p)
{
	const struct nla_train *t = p->train;
	const struct nla_config *cfg = t->cfg;
	struct nla_plan_in in = nla_train_sizes(t, t->n);
	nla_auto char *words = nla_plan_words(&in, &t->plan);
	nla_say("nla-train: %s on %s, %lld activations of block %lld, seed %lld", cfg->model,
		nt_device_name(t->models.target.lm.device), (long long)t->set.n, (long long)t->models.ar.depth - 1,
		(long long)cfg->seed);
	nla_say("lambda %g in units of %s a token; baselines of the data: raw variance %.4f, mean-normalised %.4f",
		p->cfg.reward.lambda, cfg->reward.score == NLA_REWARD_FVE ? "fve" : "-mse", p->rl.base.var, p->rl.base.mean);
	if (cfg->update.kl == 0)
		nla_say("update.kl is 0: the reference does not run in training, and kl is null in metrics.jsonl");
	nla_say("memory plan: %s%s", words, t->plan.fits ? "" : "; that may be too much, see --check");
	if (t->n < t->n_wanted)
		nla_say("%lld of %lld lambdas fit into memory together: the others follow", (long long)t->n,
			(long long)t->n_wanted);
}

/* ---- what the loop calls ---- */

static enum nla_status step(struct nla_loop *loop, bool *skipped, struct nla_err *err)
{
	struct nla_policy *p = (struct nla_policy *)loop;
	const bool only = loop->state.step + 1 == p->cfg.steps; /* else the second is profiled: the first warms up */
	if (p->cfg.profile && !nla_rank() && (p->made == 1 || (p->made == 0 && only)))
		nla_profiled_step(p, err);
	else
		nla_policy_step(p, err);
	p->made++;
	loop->state.micro_batch = p->rl.update.micro_batch; /* as memory allowed */
	loop->state.decode_rows = p->rl.rollout.rows;
	loop->state.score_tokens = p->rl.score_tokens;
	*skipped = p->step.update.skipped || p->step.update.ar_skipped;
	if (!err->status)
		nla_step_join(&p->step);
	return err->status;
}

/* The best reward of the run's evaluations before that step, -inf without one: a run that was killed may have later ones. now:
 * the step's own; one of other rows or by another baseline, with which the run began, does not count. */
static double best_reward(const char *run, int64_t step, const cJSON *now, struct nla_err *err)
{
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	double best = -(double)INFINITY;
	nla_list_dir(run, &names, err);
	for (size_t i = 0; i < names.n && !err->status; i++) {
		nla_auto char *path = nla_path_join(run, names.data[i]);
		nla_auto_json cJSON *json = NULL;
		const int64_t at = nla_step_named(names.data[i], "eval-", ".json");
		if (at >= 0 && at < step && !nla_json_read(path, &json, err) &&
		    nla_json_value(json, "rows") == nla_json_value(now, "rows") &&
		    nla_json_value(json, "baseline_var") == nla_json_value(now, "baseline_var"))
			best = fmax(best, nla_json_value(json, "reward"));
	}
	return best;
}

/* eval-STEP.json and eval-STEP.rows.jsonl, by the policy as it is. */
static enum nla_status evaluate(struct nla_loop *loop, struct nla_err *err)
{
	struct nla_policy *p = (struct nla_policy *)loop;
	const struct nla_train *t = p->train;
	const long long at = loop->state.step;
	struct nla_rl *rl = &p->eval;
	NLA_AUTO(nla_step_release) struct nla_step s = { 0 };
	int64_t n;
	nla_auto int64_t *rows = nla_eval_rows(&t->eval_set, t->cfg->eval.rows, &n);
	nla_auto char *summary = nla_format("%s/eval-%lld.json", loop->folder.path, at);
	nla_auto char *lines = nla_format("%s/eval-%lld.rows.jsonl", loop->folder.path, at);
	rl->merged = p->rl.merged; /* which the last evaluation took away: it is to be made again, of the policy as it is now */
	rl->rollout.rows = nla_lower_limit(rl->rollout.rows, p->rl.rollout.rows);
	rl->score_tokens = nla_lower_limit(rl->score_tokens, p->rl.score_tokens);
	if (!nla_evaluate(rl, rows, n, 1, t->cfg->eval.batch, &s, err) && !nla_reward(rl, &s, err) &&
	    (t->cfg->update.kl > 0 || !t->cfg->eval.logprob || /* the steps have the KL, or it is not wanted */
	     !nla_eval_logprob(rl, &p->eval_batch, &s, err))) {
		double reward, spread;
		nla_step_join(&s);
		nla_mean_std(s.reward, s.n, &reward, &spread);
		nla_auto_json cJSON *json = nla_report_eval(rl, &s);
		loop->best = t->cfg->checkpoint.best && !nla_rank() &&
			     reward > best_reward(loop->folder.path, at, json, err);
		cJSON_AddNumberToObject(json, "reward", reward);
		nla_auto char *fve = nla_figure(nla_json_value(json, "fve"), nla_json_value(json, "fve_se"), 4);
		nla_auto char *meannorm = nla_figure(nla_json_value(json, "fve_meannorm"), (double)NAN, 4);
		if (!nla_rank() && !err->status && !nla_eval_write_rows(rl, &s, lines, err) &&
		    !nla_json_write(summary, json, true, err))
			nla_say("eval at step %lld: fve %s (mean-normalised %s), %.1f response tokens, %.1f%% failed, "
				"%lld rows",
				at, fve, meannorm, nla_json_value(json, "response_tokens"),
				100 * nla_json_value(json, "failed_rate"), (long long)n);
	}
	if (!err->status)
		nla_ranks_copy(&loop->best, sizeof(loop->best));
	return err->status;
}

/* Held-out rows, or rows of the data where there is no other set. */
static enum nla_status probe(struct nla_loop *loop, struct nla_err *err)
{
	const struct nla_policy *p = (struct nla_policy *)loop;
	const struct nla_train *t = p->train;
	struct nla_rl rl = p->rl;
	int64_t n;
	rl.set = t->has_eval ? &t->eval_set : &t->set;
	rl.base = (struct nla_baselines){ rl.set->meta.baseline_var, rl.set->meta.baseline_mean };
	rl.rng.stream = NLA_STREAM_EVAL;
	if (!rl.rollout.rows) /* as many as the plan has seen */
		rl.rollout.rows = most_rows(t);
	nla_auto int64_t *rows = nla_eval_rows(rl.set, t->cfg->log.probe, &n);
	return t->cfg->log.probe && !nla_rank() ? nla_probe(&rl, rows, n, loop->state.step, &loop->folder, err) : NLA_OK;
}

/* The first responses of the step, and one that failed where none of them did. */
static enum nla_status log_samples(struct nla_policy *p, struct nla_err *err)
{
	const struct nla_step *s = &p->step;
	const int64_t wanted = p->cfg.log.samples;
	bool failed = !wanted;
	for (int64_t i = 0; i < s->n && !err->status; i++) {
		if (i >= wanted && (failed || !s->failed[i]))
			continue;
		nla_auto_json cJSON *sample = nla_report_sample(&p->rl, s, p->loop.state.step, i);
		failed = failed || s->failed[i];
		nla_folder_sample(&p->loop.folder, sample, err);
	}
	return err->status;
}

static enum nla_status log_step(struct nla_loop *loop, struct nla_err *err)
{
	struct nla_policy *p = (struct nla_policy *)loop;
	const struct nla_config *cfg = &p->cfg;
	const struct nla_state *state = &loop->state;
	struct nla_step *s = &p->step;
	struct nla_err sick = NLA_ERR_INIT;
	if (nla_rank())
		return NLA_OK;
	s->seconds[NLA_STAGE_EVAL] = loop->eval_seconds;
	s->seconds[NLA_STAGE_CHECKPOINT] = loop->checkpoint_seconds;
	nla_auto_json cJSON *line = nla_report_step(&p->rl, s, state);
	nla_auto char *kl = cfg->update.kl > 0 ? nla_format("%.4f", s->update.kl) : nla_strdup("off");
	nla_auto char *fve = nla_figure(nla_json_value(line, "fve"), (double)NAN, 3), *left = nla_loop_left(loop);
	if (state->step % cfg->log.every == 0 || state->step == cfg->steps)
		nla_say("step %lld/%lld  fve %s  tokens %.1f  reward %.3f  failed %.0f%%  kl %s  entropy %.2f  norm %.2f  "
			"%.2f s%s%s",
			(long long)state->step, (long long)cfg->steps, fve,
			nla_json_value(line, "response_tokens_mean"), nla_json_value(line, "reward_mean"),
			100 * nla_json_value(line, "failed_rate"), kl, s->update.entropy, s->update.grad_norm,
			nla_json_value(line, "seconds"), left, s->update.skipped ? "  (skipped: gradient not finite)" :
			s->update.ar_skipped ? "  (AR skipped: its gradient not finite)" : "");
	p->failed = nla_warn_failed(s, p->failed);
	nla_health_check(&p->health, cfg, line, &sick);
	loop->folder.good = nla_health_good(&p->health, cfg, state->step);
	nla_log_line(&loop->folder.metrics, line, err);
	if (sick.status && !err->status) {
		*err = sick;
		const int64_t good = nla_checkpoint_good(&loop->folder);
		nla_auto char *with = good < 0 ? nla_strdup("no checkpoint is from before it began")
					       : nla_format("the last good state is checkpoints/step-%lld", (long long)good);
		nla_err_context(err, "step %lld, %s", (long long)state->step, with);
	}
	const bool due = state->step % cfg->log.samples_every == 0;
	if (!err->status && (due || state->step == 1))
		log_samples(p, err);
	return err->status || (!due && state->step < cfg->steps) ? err->status : probe(loop, err);
}

static enum nla_status save(struct nla_loop *loop, const char *dir, struct nla_err *err)
{
	const struct nla_policy *p = (struct nla_policy *)loop;
	const struct nla_models *m = &p->train->models;
	nla_auto char *av = nla_path_join(dir, "av"), *ar = nla_path_join(dir, "ar"), *alone = nla_path_join(dir, "adapter");
	nla_auto char *base = nla_half_base(&m->av);
	if (!nla_half_save(&m->av, &p->adapter, av, "rl", err) &&
	    (!m->av.adapter.layers || !nla_adapter_save(&p->adapter, alone, base, err)))
		nla_half_save(p->ar, NULL, ar, p->cfg.ar_update.enabled ? "rl" : p->ar->meta.stage, err);
	return err->status;
}

static void init_loop(struct nla_policy *p)
{
	p->loop = (struct nla_loop){ .cfg = &p->cfg, .name = "av", .who = p->who, .eval_every = p->cfg.eval.every, .step = step,
				     .begin = probe, .evaluate = *p->cfg.eval.data ? evaluate : NULL, .log = log_step,
				     .save = save };
	p->loop.next = "nla-explain %s --row 0";
	p->loop.more = "a larger --steps goes on";
	p->loop.advice = p->cfg.ar_update.enabled
				 ? "start a new run from its av and ar with a lower update.lr or ar_update.lr"
				 : "start a new run from its av and ar with a lower update.lr";
}

/* A kill may have come between the checkpoint of the best evaluation and the link to it. */
static enum nla_status find_best(struct nla_policy *p, struct nla_err *err)
{
	struct nla_folder *f = &p->loop.folder;
	const int64_t at = p->loop.state.step;
	nla_auto char *path = nla_format("%s/eval-%lld.json", f->path, (long long)at);
	nla_auto_json cJSON *json = NULL;
	if (p->cfg.checkpoint.best && f->checkpoint && !nla_rank() && nla_exists(path) && !nla_json_read(path, &json, err) &&
	    nla_json_value(json, "reward") > best_reward(f->path, at, json, err) && !err->status)
		nla_checkpoint_link(f, "best", at, p->cfg.checkpoint.keep);
	return err->status;
}

static enum nla_status open_folder(struct nla_policy *p, struct nla_err *err)
{
	p->loop.device = p->train->models.target.lm.device;
	nla_say_for(p->who);
	if (nla_loop_open(&p->loop, false, err) || same_inputs(p, err) ||
	    (p->loop.folder.checkpoint && !nla_rank() &&
	     nla_health_resume(&p->health, &p->cfg, p->loop.folder.metrics.path, err)))
		return err->status;
	p->loop.folder.good = nla_health_good(&p->health, &p->cfg, p->loop.state.step);
	return find_best(p, err) || keep_reference(p, err) ? err->status : NLA_OK;
}

/* Several lambdas are one process's and have their folders below `out`; one has `out` itself. */
static enum nla_status of_one_or_several(const struct nla_train *t, struct nla_err *err)
{
	const struct nla_config *cfg = t->cfg, *first = &t->policies->cfg;
	const bool several = t->policies->who, run = nla_is_run(cfg->out);
	nla_auto char *own = nla_policy_out(cfg->out, first->lambdas, cfg->seed);
	if (several && nla_n_ranks() > 1)
		return nla_usage(err, "'reward.lambda' is %s: several lambdas train in one process, and there are %lld ranks: "
				 "give one", cfg->lambdas, (long long)nla_n_ranks());
	if (several && run)
		return nla_usage(err, "'%s' is a run's folder: several lambdas have theirs below 'out': give another --out",
				 cfg->out);
	if (!several && !run && nla_is_run(own))
		return nla_usage(err, "'%s' holds the runs of several lambdas: give --out %s, which is of this one", cfg->out,
				 own);
	return NLA_OK;
}

enum nla_status nla_train_open(struct nla_train *t, const struct nla_config *cfg, const struct nla_algorithm *algorithm,
			       int64_t from, struct nla_err *err)
{
	struct nla_lora_spec spec;
	NLA_AUTO(nla_i32s_release) struct nla_i32s ids = { 0 };
	enum nla_ar_fit fit;
	*t = (struct nla_train){ .cfg = cfg, .algorithm = algorithm };
	nla_policies_init(t, from);
	for (int64_t i = 0; i < t->n_wanted; i++)
		init_loop(&t->policies[i]);
	if (of_one_or_several(t, err) || nla_config_need(cfg->model, "model", err) || nla_config_need(cfg->av, "av", err) ||
	    nla_config_need(cfg->ar, "ar", err) || nla_config_need(cfg->data, "data", err) ||
	    (!cfg->check && nla_config_need(cfg->out, "out", err)) || nla_models_lora(cfg, &spec, err) ||
	    open_models(t, err) || open_data(t, err) || nla_policy_open(t->policies, &spec, err) ||
	    nla_ar_encode(&t->models.ar, "", 0, &ids, &fit, err))
		return err->status;
	t->ar_tokens = (int64_t)ids.n;
	const struct nla_plan_in one = nla_train_sizes(t, 1);
	t->n = nla_plan_policies(&one, t->n_wanted, t->room);
	for (int64_t i = 1; i < t->n && !err->status; i++)
		nla_policy_open(&t->policies[i], &spec, err);
	if (err->status || cfg->check) /* which writes nothing, and makes copies only for what it tries */
		return err->status ? err->status : make_plan(t, err);
	for (int64_t i = 0; i < t->n_wanted && t->policies->who && !err->status; i++)
		nla_folder_may_open(&t->policies[i].cfg, err);
	for (int64_t i = 0; i < t->n && !err->status; i++)
		open_folder(&t->policies[i], err);
	if (err->status || make_plan(t, err) || nla_train_views(t, err))
		return err->status;
	for (struct nla_policy *p = t->policies + t->n - 1; p >= t->policies; p--) { /* on stderr of the first */
		if (t->n > 1)
			nla_say_quiet(p > t->policies ? NLA_SAY_NOTHING : cfg->quiet ? NLA_SAY_WARNINGS : NLA_SAY_ALL);
		nla_loop_turn(&p->loop);
		say_what(p);
	}
	return err->status;
}

void nla_train_close(struct nla_train *t)
{
	const int device = t->models.target.lm.blocks ? t->models.target.lm.device : NT_CPU;
	nla_policies_release(t);
	nla_actset_close(&t->set);
	nla_actset_close(&t->eval_set);
	nla_models_close(&t->models);
	nt_memory_return(device); /* the next lambdas, if memory did not hold all, plan with what is free */
}
