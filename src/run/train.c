/* An RL run: opening it (models, data, memory plan, merged copies), and what the loop calls around a step; see train.h. */
#include "run/train.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/progress.h"
#include "run/evaluate.h"
#include "run/report.h"

/* ---- memory plan, merged copies ---- */

/* A view with its adapters merged into a copy of its weights, which then is the view. */
static enum nla_status make_copy(struct nla_lm *copy, struct nla_view *view, int64_t depth, struct nla_err *err)
{
	nt_grad_push(false);
	nla_merge_copy(copy, view, depth, err);
	nt_grad_pop();
	*view = (struct nla_view){ .lm = copy };
	return err->status;
}

/* The configuration of the stages, and what they borrow; the views are nla_train_views' to set. */
static void fill_rl(struct nla_train *t)
{
	const struct nla_config *cfg = t->cfg;
	t->rl = (struct nla_rl){
		.rollout = cfg->rollout,
		.reward = cfg->reward,
		.advantage = cfg->advantage,
		.update = { .lr = cfg->update.lr,
			    .clip = cfg->update.clip,
			    .kl = cfg->update.kl,
			    .grad_clip = cfg->update.grad_clip,
			    .ar_lr = cfg->ar_update.lr,
			    .micro_batch = t->plan.micro_batch,
			    .recompute = t->plan.recompute },
		.av = &t->av,
		.ar = &t->ar,
		.optim = &t->loop.optim,
		.ar_optim = cfg->ar_update.enabled ? &t->loop.ar_optim : NULL,
		.set = &t->set,
		.cursor = &t->loop.cursor,
		.base = { t->set.meta.baseline_var, t->set.meta.baseline_mean },
		.rng = { (uint64_t)cfg->seed, NLA_STREAM_SAMPLE },
	};
	t->rl.rollout.rows = t->plan.rows;
}

enum nla_status nla_train_views(struct nla_train *t, struct nla_err *err)
{
	const bool all = t->plan.copies == NLA_PLAN_ALL_COPIES && t->target.lm.dtype == NT_F32;
	struct nla_view reference = nla_half_view(&t->av), reader = nla_half_view(&t->ar);
	fill_rl(t);
	if ((all && reference.n_adapters && make_copy(&t->anchor, &reference, t->av.depth, err)) ||
	    (all && reader.n_adapters && !t->cfg->ar_update.enabled && make_copy(&t->reader, &reader, t->ar.depth, err)))
		return err->status;
	t->rl.reference = t->rl.policy = reference;
	t->rl.ar_view = reader;
	t->rl.policy.adapters[t->rl.policy.n_adapters++] = &t->adapter;
	t->rl.sampler = t->rl.policy;
	t->rl.merged = t->plan.copies ? &t->merged : NULL;
	if (t->rl.merged && make_copy(t->rl.merged, &t->rl.sampler, t->av.depth, err))
		return err->status;
	nt_logprob_chunk(t->plan.chunk);
	return NLA_OK;
}

struct nla_plan_in nla_train_sizes(const struct nla_train *t)
{
	const struct nla_config *cfg = t->cfg;
	const struct nla_lm *lm = &t->target.lm;
	return (struct nla_plan_in){
		.arch = &lm->arch,
		.dtype = lm->dtype,
		.gpu = lm->device != NT_CPU,
		.weights = nla_plan_loaded(&t->target, &t->av, &t->ar),
		.av = t->av.adapter.layers ? &t->av.adapter : NULL,
		.ar = t->ar.adapter.layers ? &t->ar.adapter : NULL,
		.trained = &t->adapter,
		.ar_depth = t->ar.depth,
		.ar_trained = cfg->ar_update.enabled,
		.head_trained = cfg->ar_update.enabled && cfg->ar_update.train_head,
		.prompt = (int64_t)t->av.prompt.n,
		.prompt_head = t->av.marker,
		.ar_prompt = NLA_MIN(t->ar_tokens + cfg->rollout.max_new_tokens, NLA_AR_MAX_IDS),
		.prompts = cfg->rollout.prompts,
		.group = cfg->rollout.group,
		.new_tokens = cfg->rollout.max_new_tokens,
		.eval_rows = t->has_eval ? cfg->eval.batch : 0,
		.micro_batch = cfg->update.micro_batch,
		.recompute = cfg->update.recompute,
		.copies = NLA_PLAN_ALL_COPIES,
		.rollout = true,
	};
}

/* A resumed run keeps its micro-batch and copies, on which the rounding depends, where they still fit. */
static enum nla_status make_plan(struct nla_train *t, struct nla_err *err)
{
	struct nla_i32s ids = { 0 };
	enum nla_ar_fit fit;
	if (!nla_ar_encode(&t->ar, "", 0, &ids, &fit, err)) {
		t->ar_tokens = (int64_t)ids.n;
		struct nla_plan_in in = nla_train_sizes(t), before = in;
		before.micro_batch = t->loop.state.micro_batch;
		before.copies = (int)t->loop.state.copies;
		if (t->loop.state.micro_batch)
			nla_plan_make(&before, t->room, &t->plan);
		if (!t->loop.state.micro_batch || !t->plan.fits || t->plan.copies != t->loop.state.copies)
			nla_plan_make(&in, t->room, &t->plan);
		t->loop.state.micro_batch = t->plan.micro_batch;
		t->loop.state.copies = t->plan.copies;
	}
	nla_i32s_release(&ids);
	return err->status;
}

/* ---- opening ---- */

static enum nla_status open_data(struct nla_train *t, struct nla_err *err)
{
	const struct nla_config *cfg = t->cfg;
	if (nla_actset_open(&t->set, cfg->data, t->target.lm.arch.d_model, err) ||
	    nla_contract_fits_set(&t->set, &t->target, &t->av.meta, &t->ar.meta, cfg->data, err))
		return err->status;
	if (!(t->set.meta.baseline_var > 0) || !(t->set.meta.baseline_mean > 0))
		return nla_fail(err, "'%s/nla_meta.yaml' has no baselines: make the set with nla-extract", cfg->data);
	nla_cursor_init(&t->loop.cursor, (uint64_t)cfg->seed, t->set.n);
	t->has_eval = *cfg->eval.data;
	return t->has_eval && (nla_actset_open(&t->eval_set, cfg->eval.data, t->set.d, err) ||
			       nla_contract_fits_set(&t->eval_set, &t->target, &t->av.meta, &t->ar.meta, cfg->eval.data, err) ||
			       nla_disjoint_docs(&t->set, &t->eval_set, err)) ? err->status : NLA_OK;
}

/* An optimizer over an adapter's parameters, and the AR's head where that is trained. */
static enum nla_status open_optim(struct nla_optim *optim, struct nla_adapter *adapter, nt_tensor *head, struct nla_err *err)
{
	int n = nla_adapter_params(adapter, NULL, NULL);
	nt_tensor **list = nla_alloc((size_t)n + 1, sizeof(*list));
	nla_adapter_params(adapter, list, NULL);
	if (head) {
		nt_requires_grad(head, true);
		list[n++] = head;
	}
	if (!nla_adapter_train(adapter, true, err))
		nla_optim_init(optim, list, n, err);
	free(list);
	return err->status;
}

/* What is trained: the policy's new adapter; the AR's, which it gets where it has none. */
static enum nla_status open_trained(struct nla_train *t, const struct nla_lora_spec *spec, struct nla_err *err)
{
	const struct nla_config *cfg = t->cfg;
	const struct nla_arch *av = &nla_half_lm(&t->av)->arch;
	const int device = t->target.lm.device;
	if (nla_adapter_init(&t->adapter, av, av->n_layers, spec, (uint64_t)cfg->seed, device, err) ||
	    open_optim(&t->loop.optim, &t->adapter, NULL, err) || !cfg->ar_update.enabled)
		return err->status;
	if (!t->ar.adapter.layers && nla_adapter_init(&t->ar.adapter, &nla_half_lm(&t->ar)->arch, t->ar.depth, spec,
						      (uint64_t)cfg->seed + 1, device, err))
		return err->status;
	return open_optim(&t->loop.ar_optim, &t->ar.adapter, cfg->ar_update.train_head ? t->ar.head : NULL, err);
}

/* The anchor as a folder of its own: what nla-eval takes as reference, even when the warm start's folder is gone. */
static enum nla_status keep_reference(const struct nla_train *t, struct nla_err *err)
{
	char *dir = nla_path_join(t->loop.folder.path, "reference"),
	     *meta = nla_path_join(dir, "nla_meta.yaml"); /* written last */
	if ((!t->loop.folder.checkpoint || !nla_exists(meta)) &&
	    t->av.adapter.layers) /* one without a checkpoint is of another start */
		nla_half_save(&t->av, NULL, dir, "reference", err);
	free(dir);
	free(meta);
	return err->status;
}

/* A resumed run reads the warm start and the AR from its own folder: those it was given may have changed since. */
static enum nla_status open_models(struct nla_train *t, struct nla_err *err)
{
	char *checkpoint = NULL, *av = nla_strdup(t->cfg->av), *ar = nla_strdup(t->cfg->ar);
	char *own = nla_path_join(t->cfg->out, "reference"), *meta = nla_path_join(own, "nla_meta.yaml");
	int64_t step;
	if (t->cfg->resume && !nla_checkpoint_find(t->cfg->out, &checkpoint, &step, err) && checkpoint) {
		free(ar);
		ar = nla_path_join(checkpoint, "ar");
		if (nla_exists(meta)) {
			free(av);
			av = nla_strdup(own);
		}
	}
	if (!err->status && !nla_half_open(&t->av, NLA_AV, &t->target, av, t->cfg->av_base, err))
		nla_half_open(&t->ar, NLA_AR, &t->target, ar, t->cfg->ar_base, err);
	free(checkpoint);
	free(av);
	free(ar);
	free(own);
	free(meta);
	return err->status;
}

static void say_what(const struct nla_train *t)
{
	const struct nla_config *cfg = t->cfg;
	struct nla_plan_in in = nla_train_sizes(t);
	char *words = nla_plan_words(&in, &t->plan);
	nla_say("nla-train: %s on %s, %lld activations of block %lld, seed %lld", cfg->model,
		nt_device_name(t->target.lm.device), (long long)t->set.n, (long long)t->ar.depth - 1, (long long)cfg->seed);
	nla_say("lambda %g in units of %s a token; baselines of the data: raw variance %.4f, mean-normalised %.4f",
		cfg->reward.lambda, cfg->reward.score == NLA_REWARD_FVE ? "fve" : "-mse", t->rl.base.var, t->rl.base.mean);
	if (cfg->update.kl == 0)
		nla_say("update.kl is 0: the reference does not run in training, and kl is null in metrics.jsonl");
	nla_say("memory plan: %s%s", words, t->plan.fits ? "" : "; that may be too much, see --check");
	free(words);
}

/* ---- what the loop calls ---- */

static enum nla_status step(struct nla_loop *loop, bool *skipped, struct nla_err *err)
{
	struct nla_train *t = (struct nla_train *)loop;
	nla_step_release(&t->step);
	t->rl.step = loop->state.step;
	t->one_step(&t->rl, &t->step, err);
	*skipped = t->step.update.skipped || t->step.update.ar_skipped;
	return err->status;
}

/* eval-STEP.json and eval-STEP.rows.jsonl, by the policy as it is. */
static enum nla_status evaluate(struct nla_loop *loop, struct nla_err *err)
{
	struct nla_train *t = (struct nla_train *)loop;
	const long long at = loop->state.step;
	struct nla_rl rl = t->rl;
	struct nla_step s = { 0 };
	int64_t n;
	if (!t->has_eval)
		return NLA_OK;
	int64_t *rows = nla_eval_rows(&t->eval_set, t->cfg->eval.rows, &n);
	char *summary = nla_format("%s/eval-%lld.json", loop->folder.path, at),
	     *lines = nla_format("%s/eval-%lld.rows.jsonl", loop->folder.path, at);
	rl.set = &t->eval_set;
	rl.rng.stream = NLA_STREAM_EVAL;
	rl.step = 0; /* the same random numbers in every evaluation */
	if (!nla_evaluate(&rl, rows, n, t->cfg->eval.batch, &s, err)) {
		cJSON *json = nla_report_eval(&rl, &s);
		if (!nla_json_write(summary, json, true, err) && !nla_eval_write_rows(&rl, &s, lines, err))
			nla_say("eval at step %lld: fve %.4f +- %.4f (mean-normalised %.4f), %.1f response tokens, %.1f%% "
				"failed, %lld rows",
				at, nla_json_value(json, "fve"), nla_json_value(json, "fve_se"),
				nla_json_value(json, "fve_meannorm"), nla_json_value(json, "response_tokens"),
				100 * nla_json_value(json, "failed_rate"), (long long)n);
		cJSON_Delete(json);
	}
	nla_step_release(&s);
	free(rows);
	free(summary);
	free(lines);
	return err->status;
}

#define FAILING_STEPS 10
#define CLAMPED_SHARE 0.01

/* What the numbers of a step say against the run. */
static void warn(struct nla_train *t, const cJSON *line)
{
	const struct nla_step *s = &t->step;
	t->failing = 2 * nla_json_value(line, "groups_failed") > (double)s->n_prompts ? t->failing + 1 : 0;
	if (t->failing && t->failing % FAILING_STEPS == 0)
		nla_say("warning: for %lld steps most groups had no valid row, and a group without one teaches nothing: "
			"failed_* of metrics.jsonl says why they fail",
			(long long)t->failing);
	if (s->update.kl_clamped > CLAMPED_SHARE)
		nla_say("warning: %.1f%% of the tokens are beyond the KL's clamp, where it does not hold the policy: lower "
			"update.lr, or raise update.kl",
			100 * s->update.kl_clamped);
}

static enum nla_status log_step(struct nla_loop *loop, struct nla_err *err)
{
	struct nla_train *t = (struct nla_train *)loop;
	const struct nla_config *cfg = t->cfg;
	const struct nla_state *state = &loop->state;
	struct nla_step *s = &t->step;
	s->seconds[NLA_STAGE_EVAL] = loop->eval_seconds;
	s->seconds[NLA_STAGE_CHECKPOINT] = loop->checkpoint_seconds;
	cJSON *line = nla_report_step(&t->rl, s, state);
	char *kl = cfg->update.kl > 0 ? nla_format("%.4f", s->update.kl) : nla_strdup("off");
	if (state->step % cfg->log.every == 0 || state->step == cfg->steps)
		nla_say("step %lld/%lld  fve %.3f  tokens %.1f  reward %.3f  failed %.0f%%  kl %s  entropy %.2f  norm %.2f  "
			"%.2f s%s",
			(long long)state->step, (long long)cfg->steps, nla_json_value(line, "fve"),
			nla_json_value(line, "response_tokens_mean"), nla_json_value(line, "reward_mean"),
			100 * nla_json_value(line, "failed_rate"), kl, s->update.entropy, s->update.grad_norm,
			nla_json_value(line, "seconds"),
			s->update.skipped      ? "  (skipped: gradient not finite)"
			: s->update.ar_skipped ? "  (AR skipped: its gradient not finite)"
					       : "");
	free(kl);
	warn(t, line);
	nla_log_line(&loop->folder.metrics, line, err);
	cJSON_Delete(line);
	for (int64_t i = 0; state->step % cfg->log.samples_every == 0 && i < NLA_MIN(cfg->log.samples, s->n) && !err->status;
	     i++) {
		cJSON *sample = nla_report_sample(&t->rl, s, state->step, i);
		nla_log_line(&loop->folder.samples, sample, err);
		cJSON_Delete(sample);
	}
	return err->status;
}

static enum nla_status save(struct nla_loop *loop, const char *dir, struct nla_err *err)
{
	const struct nla_train *t = (struct nla_train *)loop;
	char *av = nla_path_join(dir, "av"), *ar = nla_path_join(dir, "ar"), *config = nla_path_join(dir, "config.json");
	if (!nla_half_save(&t->av, &t->adapter, av, "rl", err) &&
	    !nla_half_save(&t->ar, NULL, ar, t->cfg->ar_update.enabled ? "rl" : t->ar.meta.stage, err))
		nla_config_write(t->cfg, config, err);
	free(av);
	free(ar);
	free(config);
	return err->status;
}

enum nla_status nla_train_open(struct nla_train *t, const struct nla_config *cfg, nla_one_step_fn *one_step,
			       struct nla_err *err)
{
	int device;
	nt_dtype dtype;
	struct nla_lora_spec spec;
	*t = (struct nla_train){ .cfg = cfg, .one_step = one_step };
	t->loop = (struct nla_loop){ .cfg = cfg,
				     .name = "av",
				     .eval_every = cfg->eval.every,
				     .step = step,
				     .evaluate = evaluate,
				     .log = log_step,
				     .save = save };
	t->loop.advice = cfg->ar_update.enabled ? "start a new run from its av and ar with a lower update.lr or ar_update.lr"
						: "start a new run from its av and ar with a lower update.lr";
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(cfg->av, "av", err) ||
	    nla_config_need(cfg->ar, "ar", err) || nla_config_need(cfg->data, "data", err) ||
	    (!cfg->check && nla_config_need(cfg->out, "out", err)) || nla_config_lora(cfg, &spec, err) ||
	    nla_config_device(cfg, &device, &dtype, err) || nla_config_room(cfg, device, &t->room, err))
		return err->status;
	if (nla_target_open(&t->target, cfg->model, &cfg->chat, device, dtype, -1, err) || open_models(t, err) ||
	    open_data(t, err) || open_trained(t, &spec, err))
		return err->status;
	if (cfg->check) /* which writes nothing, and makes copies only for what it tries */
		return make_plan(t, err);
	if (nla_loop_open(&t->loop, false, err) || keep_reference(t, err) || make_plan(t, err) || nla_train_views(t, err))
		return err->status;
	say_what(t);
	return NLA_OK;
}

void nla_train_close(struct nla_train *t)
{
	nla_step_release(&t->step);
	nla_loop_close(&t->loop);
	nla_adapter_release(&t->adapter);
	nla_lm_release(&t->merged);
	nla_lm_release(&t->anchor);
	nla_lm_release(&t->reader);
	nla_half_release(&t->av);
	nla_half_release(&t->ar);
	nla_actset_close(&t->set);
	nla_actset_close(&t->eval_set);
	nla_target_close(&t->target);
}
