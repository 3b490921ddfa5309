/* What nla-eval loads: target, AV, AR, set, the anchor, and in fp32 where memory allows a merged copy that decodes; see
 * evaluate.h. */
#include <stdlib.h>

#include "run/evaluate.h"
#include "run/folder.h"

/* The anchor: --ref, or the reference that a run keeps next to its checkpoints, which is over av's base; else the whole AV that
 * the adapter was trained over, or the AV itself. */
static enum nla_status open_reference(struct nla_eval *e, const struct nla_config *cfg, struct nla_err *err)
{
	const struct nla_models *m = &e->models;
	nla_auto char *kept = nla_format("%s/../../../reference", cfg->av);
	const char *ref = *cfg->ref ? cfg->ref : nla_exists_in(kept, "nla_meta.yaml") ? kept : NULL;
	if (ref && !nla_half_open(&e->ref, NLA_AV, &m->target, ref, *cfg->ref ? "" : cfg->av_base, err))
		e->rl.reference = nla_half_view(&e->ref);
	else if (m->av.weights.base && !m->av.weights.shared)
		e->rl.reference.n_adapters = 0;
	return err->status;
}

/* How many rows decode at once, and whether a copy with the adapter merged in does. */
static enum nla_status plan(struct nla_eval *e, const struct nla_config *cfg, int64_t room, struct nla_err *err)
{
	struct nla_plan_in in = nla_models_sizes(&e->models, cfg);
	in.prompts = in.group = 1;
	in.eval_rows = NLA_MIN(cfg->eval.batch, e->n);
	in.copies = 1;
	in.copies = in.dtype == NT_F32 && nla_plan_rows(&in, in.eval_rows, room) == in.eval_rows;
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
	struct nla_models *m = &e->models;
	int64_t room;
	*e = (struct nla_eval){ 0 };
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(data, "eval.data", err) ||
	    nla_config_need(cfg->out, "out", err) || nla_models_open(m, cfg, &room, err) ||
	    nla_actset_open(&e->set, data, m->target.lm.arch.d_model, err) ||
	    nla_contract_fits_set(&e->set, &m->target, &m->av.meta, &m->ar.meta, data, err))
		return err->status;
	e->rl = nla_models_rl(m, cfg);
	e->rl.set = &e->set;
	e->rows = nla_eval_rows(&e->set, cfg->eval.rows, &e->n);
	return open_reference(e, cfg, err) || *cfg->score ? err->status : plan(e, cfg, room, err);
}

void nla_eval_close(struct nla_eval *e)
{
	nla_lm_release(&e->merged);
	nla_half_release(&e->ref);
	nla_actset_close(&e->set);
	nla_models_close(&e->models);
	free(e->rows);
}
