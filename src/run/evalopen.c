/* What nla-eval loads: target, AV, AR, set, the anchor, and where memory allows the merged copies; see evaluate.h. */

#include "base/json.h"
#include "base/progress.h"
#include "lm/ranks.h"
#include "nla/batch.h"
#include "run/evaluate.h"

/* A checkpoint has the adapter that its run trained next to the joined one: over the AV at the run's start (`start`, or NULL)
 * it gives the numbers of the run's own evaluation, the joined one those numbers but for rounding. Over a whole AV or the bare
 * target the two are one. */
static enum nla_status open_models(struct nla_eval *e, const struct nla_config *cfg, const char *start, int64_t *room,
				   struct nla_err *err)
{
	struct nla_models *m = &e->models;
	nla_auto char *checkpoint = nla_format("%s/..", cfg->av), *trained = nla_path_join(checkpoint, "adapter");
	const bool apart = nla_exists(trained);
	e->joined = apart && !start;
	e->run = nla_exists_in(checkpoint, "state.json") && nla_exists_in(checkpoint, "ar") && !e->joined;
	if ((e->run && nla_state_read(&e->state, checkpoint, 0, err)) ||
	    nla_models_open(m, cfg, apart && start ? start : cfg->av, cfg->ar, room, err))
		return err->status;
	if (apart && start)
		return nla_adapter_load(&e->adapter, &nla_half_lm(&m->av)->arch, m->av.depth, trained,
					m->target.lm.device, err);
	if (e->run) {
		e->adapter = m->av.adapter;
		m->av.adapter = (struct nla_adapter){ 0 };
	}
	return NLA_OK;
}

/* The anchor: --ref, or the AV at the run's start, which is over av's base; else the whole AV that the adapter was trained
 * over, or the AV itself. */
static enum nla_status open_reference(struct nla_eval *e, const struct nla_config *cfg, const char *start,
				      struct nla_err *err)
{
	const struct nla_models *m = &e->models;
	const char *ref = *cfg->ref ? cfg->ref : e->adapter.layers ? NULL : start;
	if (ref && !nla_half_open(&e->ref, NLA_AV, &m->target, ref, *cfg->ref ? "" : cfg->av_base, err))
		e->rl.reference = nla_half_view(&e->ref);
	else if (!ref && !e->adapter.layers && m->av.weights.base && !m->av.weights.shared)
		e->rl.reference.n_adapters = 0;
	return err->status;
}

/* Is that AV or AR of a run which trains its AR? Such a run never merges it, not at its first step either. */
static bool trains_ar(const char *half)
{
	nla_auto char *path = nla_format("%s/../config.json", half);
	nla_auto_json cJSON *run = NULL;
	nla_json_read(path, &run, NLA_IGNORED);
	return cJSON_IsTrue(nla_json_at(run, "ar_update.enabled"));
}

/* How many rows decode at once, and which copies are made: a run's own where one row fits, else one to decode where all do. */
static enum nla_status plan(struct nla_eval *e, const struct nla_config *cfg, int64_t room, struct nla_err *err)
{
	struct nla_plan_in in = nla_models_sizes(&e->models, cfg);
	const struct nla_adapter *trained = e->adapter.layers ? &e->adapter : NULL;
	in.trained = trained;
	in.prompts = in.group = 1;
	in.eval_rows = NLA_MIN(cfg->eval.batch, e->n * cfg->eval.samples);
	in.copies = e->run ? (int)e->state.copies : NLA_PLAN_DECODER;
	in.copies &= (in.dtype == NT_F32 ? NLA_PLAN_ALL_COPIES : NLA_PLAN_ANCHOR) & ~(*cfg->score ? NLA_PLAN_DECODER : 0);
	const int64_t most = e->state.decode_rows ? NLA_MIN(e->state.decode_rows, in.eval_rows) : in.eval_rows;
	int64_t rows = nla_plan_rows(&in, most, room);
	const bool drop = in.copies && rows < (e->run ? 1 : most);
	if (drop) {
		in.copies = 0;
		rows = nla_plan_rows(&in, most, room);
	}
	if (e->run && (drop || rows < most))
		nla_say("the run's merged copies, or the rows that it decoded at once, do not fit now: this rounds "
			"differently than the run, and some texts may differ");
	e->rl.rollout.rows = NLA_MAX(rows, 1);
	e->rl.score_tokens = e->state.score_tokens;
	const bool frozen = !e->state.ar_updates && !(e->run && trains_ar(cfg->av)) && !trains_ar(cfg->ar);
	return nla_copies_make(&e->made, &e->models, trained, in.copies, frozen, &e->rl, err);
}

static void say_what(const struct nla_eval *e, const struct nla_config *cfg)
{
	const struct nla_sidecar *meta = &e->set.meta;
	const int64_t each = cfg->eval.samples;
	nla_auto char *samples = each > 1 ? nla_format(", %lld samples each,", (long long)each) : nla_strdup("");
	nla_auto char *rows = *cfg->score ? nla_format("the texts of '%s' on rows", cfg->score)
					  : nla_format("%lld of %lld rows%s", (long long)e->n, (long long)e->set.n, samples);
	nla_auto char *base = cfg->eval.baseline ? nla_strdup("of these rows") : nla_format(
		"of the set: raw variance %.4f, mean-normalised %.4f", meta->baseline_var, meta->baseline_mean);
	nla_say("nla-eval: AV '%s', AR '%s', %s of '%s' on %s; baselines %s", cfg->av, cfg->ar, rows, e->set.path,
		nt_device_name(e->models.target.lm.device), base);
	if (e->joined)
		nla_say("'%s' is away from its run's reference/: its joined adapter rounds differently than the run, and some "
			"texts may differ", cfg->av);
}

static void warn_of_run(const struct nla_actset *set, const char *run, int depth)
{
	nla_auto_json cJSON *json = NULL;
	nla_auto char *path = nla_path_join(run, "config.json");
	if (nla_json_read(path, &json, NLA_IGNORED))
		return;
	const char *data = cJSON_GetStringValue(nla_json_at(json, "data"));
	const char *av = cJSON_GetStringValue(nla_json_at(json, "av")), *ar = cJSON_GetStringValue(nla_json_at(json, "ar"));
	if (data && nla_shares_docs(set, data))
		nla_say("warning: '%s' trained on '%s', which shares documents with '%s': give held-out rows", run, data,
			set->path);
	if (depth)
		nla_eval_warn(set, av ? av : "", ar ? ar : "", depth - 1);
}

void nla_eval_warn(const struct nla_actset *set, const char *av, const char *ar, int depth)
{
	nla_auto char *of_av = NULL, *of_ar = NULL;
	nla_checkpoint_step(av, &of_av);
	nla_checkpoint_step(ar, &of_ar);
	if (of_av && !nla_rank())
		warn_of_run(set, of_av, depth);
	if (of_ar && !nla_rank() && !(of_av && !strcmp(of_av, of_ar)))
		warn_of_run(set, of_ar, depth);
}

enum nla_status nla_eval_open(struct nla_eval *e, const struct nla_config *cfg, struct nla_err *err)
{
	const char *data = *cfg->eval.data ? cfg->eval.data : cfg->data;
	struct nla_models *m = &e->models;
	nla_auto char *kept = nla_format("%s/../../../reference", cfg->av);
	const char *start = nla_exists_in(kept, "nla_meta.yaml") ? kept : NULL;
	int64_t room;
	if (cfg->eval.recovered_kl && *cfg->model && nla_exists_in(cfg->model, NLA_SIDECAR_NAME))
		return nla_usage(err, "'model' is '%s', an AV, and eval.recovered_kl asks the model that the vectors are from: "
				 "give --model", cfg->model);
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(data, "eval.data", err) ||
	    (*cfg->eval.start_ar && nla_need_dir(cfg->eval.start_ar, err)) || /* before hours of the others */
	    open_models(e, cfg, start, &room, err) ||
	    nla_actset_open(&e->set, data, m->target.lm.arch.d_model, err) ||
	    nla_contract_fits_set(&e->set, &m->target, &m->av.meta, &m->ar.meta, data, err))
		return err->status;
	e->rl = nla_models_rl(m, cfg);
	e->rl.set = &e->set;
	e->rl.another = cfg->eval.vectors;
	e->rows = nla_eval_rows(&e->set, cfg->eval.rows, &e->n);
	e->rl.keep_v_hat = cfg->eval.recovered_kl;
	if (!plan(e, cfg, room, err) && !open_reference(e, cfg, start, err)) {
		say_what(e, cfg);
		nla_eval_warn(&e->set, cfg->av, cfg->ar, NLA_EVAL_WARN);
	}
	return err->status;
}

void nla_eval_close(struct nla_eval *e)
{
	nla_copies_release(&e->made);
	nla_adapter_release(&e->adapter);
	nla_half_release(&e->ref);
	nla_actset_close(&e->set);
	nla_models_close(&e->models);
	free(e->rows);
}
