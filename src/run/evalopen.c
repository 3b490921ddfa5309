/* What nla-eval loads: target, AV, AR, set, the anchor, and in fp32 where memory allows a merged copy that decodes; see
 * evaluate.h. */
#include <stdlib.h>

#include "base/file.h"
#include "run/evaluate.h"

/* The anchor: --ref, or the reference that a run keeps next to its checkpoints. NULL: neither. */
static char *find_reference(const struct nla_config *cfg)
{
	if (*cfg->ref)
		return nla_strdup(cfg->ref);
	char *kept = nla_format("%s/../../../reference", cfg->av), *meta = nla_path_join(kept, "nla_meta.yaml");
	if (!nla_exists(meta)) {
		free(kept);
		kept = NULL;
	}
	free(meta);
	return kept;
}

static enum nla_status open_models(struct nla_eval *e, const struct nla_config *cfg, const char *data, struct nla_err *err)
{
	struct nla_models *m = &e->models;
	if (nla_models_open(m, cfg, err) || nla_actset_open(&e->set, data, m->target.lm.arch.d_model, err) ||
	    nla_contract_fits_set(&e->set, &m->target, &m->av.meta, &m->ar.meta, data, err))
		return err->status;
	e->rl = nla_models_rl(m, cfg);
	e->rl.set = &e->set;
	char *ref = find_reference(cfg);
	const char *base = *cfg->ref ? "" : cfg->av_base; /* the run's own is over av's base */
	if (ref && !nla_half_open(&e->ref, NLA_AV, &m->target, ref, base, err))
		e->rl.reference = nla_half_view(&e->ref);
	else if (m->av.weights.base && !m->av.weights.shared) /* trained over a whole AV: that is the anchor */
		e->rl.reference.n_adapters = 0;
	free(ref);
	return err->status;
}

/* How many rows decode at once, and whether a copy with the adapter merged in does. */
static enum nla_status plan(struct nla_eval *e, const struct nla_config *cfg, int64_t room, struct nla_err *err)
{
	const struct nla_half *av = &e->models.av, *ar = &e->models.ar;
	const struct nla_lm *lm = &e->models.target.lm;
	struct nla_plan_in in = {
		.arch = &lm->arch,
		.dtype = lm->dtype,
		.gpu = lm->device != NT_CPU,
		.weights = nla_plan_loaded(&e->models.target, av, ar),
		.av = av->adapter.layers ? &av->adapter : NULL,
		.ar = ar->adapter.layers ? &ar->adapter : NULL,
		.ar_depth = ar->depth,
		.prompt = (int64_t)av->prompt.n,
		.prompt_head = av->marker,
		.prompts = 1,
		.group = 1,
		.new_tokens = cfg->rollout.max_new_tokens,
		.eval_rows = NLA_MIN(cfg->eval.batch, e->n),
		.copies = 1,
	};
	in.copies = lm->dtype == NT_F32 && nla_plan_rows(&in, in.eval_rows, room) == in.eval_rows;
	e->rl.rollout.rows = nla_plan_rows(&in, in.eval_rows, room);
	if (!in.copies || nla_merge_copy(&e->merged, &e->rl.policy, e->models.av.depth, err))
		return err->status;
	e->rl.merged = &e->merged;
	e->rl.sampler = (struct nla_view){ .lm = &e->merged };
	return NLA_OK;
}

enum nla_status nla_eval_open(struct nla_eval *e, const struct nla_config *cfg, struct nla_err *err)
{
	const char *data = *cfg->eval.data ? cfg->eval.data : cfg->data;
	int device;
	int64_t room;
	nt_dtype dtype;
	*e = (struct nla_eval){ 0 };
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(data, "eval.data", err) ||
	    nla_config_need(cfg->out, "out", err) || nla_config_device(cfg, &device, &dtype, err) ||
	    nla_config_room(cfg, device, &room, err) || open_models(e, cfg, data, err))
		return err->status;
	e->rows = nla_eval_rows(&e->set, cfg->eval.rows, &e->n);
	return *cfg->score ? NLA_OK : plan(e, cfg, room, err);
}

void nla_eval_close(struct nla_eval *e)
{
	nla_lm_release(&e->merged);
	nla_half_release(&e->ref);
	nla_actset_close(&e->set);
	nla_models_close(&e->models);
	free(e->rows);
}
