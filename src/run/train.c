/* Opening and closing an RL run: who is loaded, the memory plan and its copies, what a checkpoint brings back. */
#include "run/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/progress.h"

static enum nla_status make_copy(struct nla_lm *copy, bool *has, const struct nla_view *view, struct nla_err *err)
{
	nt_grad_push(false);
	if (!nla_lm_fork(copy, view->lm, err)) {
		*has = true;
		nla_merge(copy, view, err);
	}
	nt_grad_pop();
	return err->status;
}

/* The copies that the plan allows, and the four views that the stages read. */
enum nla_status nla_train_views(struct nla_train *t, struct nla_err *err)
{
	bool all = t->plan.copies == NLA_PLAN_ALL_COPIES && t->target.lm.dtype == NT_F32;
	t->reference = nla_half_view(&t->av);
	t->ar_view = nla_half_view(&t->ar);
	if (all && t->reference.n_adapters) {
		if (make_copy(&t->anchor, &t->has_anchor, &t->reference, err))
			return err->status;
		t->reference = (struct nla_view){ .lm = &t->anchor };
	}
	if (all && t->ar_view.n_adapters && !t->cfg->ar_update.enabled) {
		if (make_copy(&t->reader, &t->has_reader, &t->ar_view, err))
			return err->status;
		t->ar_view = (struct nla_view){ .lm = &t->reader };
	}
	t->policy = t->reference;
	t->policy.adapters[t->policy.n_adapters++] = &t->adapter;
	t->sampler = t->policy;
	if (t->plan.copies) {
		if (make_copy(&t->rollout_lm, &t->has_rollout, &t->policy, err))
			return err->status;
		t->sampler = (struct nla_view){ .lm = &t->rollout_lm };
	}
	nt_logprob_chunk(t->plan.chunk);
	return NLA_OK;
}

struct nla_plan_in nla_train_sizes(const struct nla_train *t)
{
	const struct nla_config *cfg = t->cfg;
	const struct nla_lm *lm = &t->target.lm;
	return (struct nla_plan_in){
		.arch = &lm->arch, .dtype = lm->dtype, .gpu = lm->device != NT_CPU, .weights = nla_plan_loaded(&t->target, &t->av, &t->ar),
		.av = t->av.adapter.layers ? &t->av.adapter : NULL, .ar = t->ar.adapter.layers ? &t->ar.adapter : NULL,
		.trained = &t->adapter, .ar_depth = t->ar.depth, .ar_trained = cfg->ar_update.enabled,
		.head_trained = cfg->ar_update.enabled && cfg->ar_update.train_head,
		.prompt = (int64_t)t->av.prompt.n, .prompt_head = t->av.marker,
		.ar_prompt = NLA_MIN(t->ar_tokens + cfg->rollout.max_new_tokens, NLA_AR_MAX_IDS),
		.prompts = cfg->rollout.prompts, .group = cfg->rollout.group, .new_tokens = cfg->rollout.max_new_tokens,
		.eval_rows = t->has_eval ? cfg->eval.batch : 0, .micro_batch = cfg->update.micro_batch, .recompute = cfg->update.recompute,
		.copies = NLA_PLAN_ALL_COPIES, .rollout = true,
	};
}

/* A run that goes on keeps its micro-batch and copies, on which the rounding depends, where they still fit. */
static enum nla_status make_plan(struct nla_train *t, struct nla_err *err)
{
	struct nla_i32s ids = { 0 };
	enum nla_ar_fit fit;
	if (!nla_ar_encode(&t->ar, "", 0, &ids, &fit, err)) {
		t->ar_tokens = (int64_t)ids.n;
		struct nla_plan_in in = nla_train_sizes(t), before = in;
		before.micro_batch = t->state.micro_batch;
		before.copies = (int)t->state.copies;
		if (t->state.micro_batch)
			nla_plan_make(&before, t->room, &t->plan);
		if (!t->state.micro_batch || !t->plan.fits || t->plan.copies != t->state.copies)
			nla_plan_make(&in, t->room, &t->plan);
		t->state.micro_batch = t->plan.micro_batch;
		t->state.copies = t->plan.copies;
	}
	nla_i32s_release(&ids);
	return err->status;
}

static enum nla_status open_data(struct nla_train *t, struct nla_err *err)
{
	const struct nla_config *cfg = t->cfg;
	if (nla_actset_open(&t->set, cfg->data, t->target.lm.arch.d_model, err) ||
	    nla_contract_fits_set(&t->set, &t->target, &t->av.meta, &t->ar.meta, cfg->data, err))
		return err->status;
	t->base = (struct nla_baselines){ t->set.meta.baseline_var, t->set.meta.baseline_mean };
	if (!(t->base.var > 0) || !(t->base.mean > 0))
		return nla_fail(err, "'%s/nla_meta.yaml' has no baselines: make the set with nla-extract", cfg->data);
	if (*cfg->eval.data) {
		t->has_eval = true;
		if (nla_actset_open(&t->eval_set, cfg->eval.data, t->set.d, err) ||
		    nla_contract_fits_set(&t->eval_set, &t->target, &t->av.meta, &t->ar.meta, cfg->eval.data, err) ||
		    nla_disjoint_docs(&t->set, &t->eval_set, err))
			return err->status;
	}
	nla_cursor_init(&t->cursor, (uint64_t)cfg->seed, t->set.n);
	t->state.rows = t->set.n;
	return NLA_OK;
}

static enum nla_status open_optim(struct nla_train *t, struct nla_err *err)
{
	int n = nla_adapter_params(&t->adapter, NULL, NULL);
	nt_tensor **list = nla_alloc((size_t)n, sizeof(*list));
	nla_adapter_params(&t->adapter, list, NULL);
	if (!nla_adapter_train(&t->adapter, true, err))
		nla_optim_init(&t->optim, list, n, err);
	free(list);
	if (err->status || !t->cfg->ar_update.enabled)
		return err->status;
	n = nla_adapter_params(&t->ar.adapter, NULL, NULL);
	list = nla_alloc((size_t)n + 1, sizeof(*list));
	nla_adapter_params(&t->ar.adapter, list, NULL);
	if (t->cfg->ar_update.train_head)
		list[n++] = t->ar.head;
	if (t->cfg->ar_update.train_head)
		nt_requires_grad(t->ar.head, true);
	if (!nla_adapter_train(&t->ar.adapter, true, err))
		nla_optim_init(&t->ar_optim, list, n, err);
	free(list);
	return err->status;
}

/* AV and AR come back as a pair, with their moments, the data cursor and the counters; random numbers follow from the step. */
static enum nla_status restore(struct nla_train *t, struct nla_err *err)
{
	struct nla_st st;
	char *path = nla_path_join(t->folder.checkpoint, "optimizer.safetensors");
	if (!nla_state_read(&t->state, t->folder.checkpoint, t->set.n, err) && !nla_st_open(&st, path, err)) {
		if (!nla_optim_restore(&t->optim, "av", &st, err) && t->cfg->ar_update.enabled)
			nla_optim_restore(&t->ar_optim, "ar", &st, err);
		nla_st_close(&st);
		t->optim.step = t->state.av_updates;
		t->ar_optim.step = t->state.ar_updates;
		t->cursor.position = t->state.cursor;
		t->saved = t->state.step;
	}
	free(path);
	return err->status;
}

/* The anchor as a folder of its own: what nla-eval takes as reference, whatever becomes of the warm start's folder. */
static enum nla_status keep_reference(const struct nla_train *t, struct nla_err *err)
{
	char *dir = nla_path_join(t->folder.path, "reference"), *meta = nla_path_join(dir, "nla_meta.yaml"); /* written last */
	if ((!t->folder.checkpoint || !nla_exists(meta)) && t->av.adapter.layers) /* one without a checkpoint is of another start */
		nla_half_save(&t->av, NULL, dir, "reference", err);
	free(dir);
	free(meta);
	return err->status;
}

/* A run that goes on reads the warm start and the AR from its own folder: those it was given may have changed since. */
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

/* A whole AR that is trained on gets an adapter of its own. */
static enum nla_status open_adapters(struct nla_train *t, const struct nla_lora_spec *spec, struct nla_err *err)
{
	const struct nla_arch *av = &nla_half_lm(&t->av)->arch;
	const uint64_t seed = (uint64_t)t->cfg->seed;
	const int device = t->target.lm.device;
	if (nla_adapter_init(&t->adapter, av, av->n_layers, spec, seed, device, err))
		return err->status;
	if (t->cfg->ar_update.enabled && !t->ar.adapter.layers)
		nla_adapter_init(&t->ar.adapter, &nla_half_lm(&t->ar)->arch, t->ar.depth, spec, seed + 1, device, err);
	return err->status;
}

enum nla_status nla_train_open(struct nla_train *t, const struct nla_config *cfg, struct nla_err *err)
{
	int device;
	nt_dtype dtype;
	struct nla_lora_spec spec;
	memset(t, 0, sizeof(*t));
	t->cfg = cfg;
	t->saved = -1;
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(cfg->av, "av", err) || nla_config_need(cfg->ar, "ar", err) ||
	    nla_config_need(cfg->data, "data", err) || (!cfg->check && nla_config_need(cfg->out, "out", err)) || nla_config_lora(cfg, &spec, err) ||
	    nla_config_device(cfg, &device, &dtype, err) || nla_config_room(cfg, device, &t->room, err))
		return err->status;
	if (nla_target_open(&t->target, cfg->model, &cfg->chat, device, dtype, -1, err) || open_models(t, err) || open_data(t, err) ||
	    open_adapters(t, &spec, err) || open_optim(t, err))
		return err->status;
	if (cfg->check) /* which writes nothing, and makes copies only for what it tries */
		return make_plan(t, err);
	if (nla_folder_open(&t->folder, cfg, false, err) || keep_reference(t, err) || (t->folder.checkpoint && restore(t, err)))
		return err->status;
	return make_plan(t, err) || nla_train_views(t, err) ? err->status : NLA_OK;
}

void nla_train_close(struct nla_train *t)
{
	struct nla_err ignored = NLA_ERR_INIT;
	nla_optim_release(&t->optim);
	nla_optim_release(&t->ar_optim);
	nla_adapter_release(&t->adapter);
	if (t->has_rollout)
		nla_lm_release(&t->rollout_lm);
	if (t->has_anchor)
		nla_lm_release(&t->anchor);
	if (t->has_reader)
		nla_lm_release(&t->reader);
	nla_cursor_release(&t->cursor);
	nla_half_release(&t->av);
	nla_half_release(&t->ar);
	nla_actset_close(&t->set);
	nla_actset_close(&t->eval_set);
	nla_target_close(&t->target);
	if (t->folder.path)
		nla_folder_close(&t->folder, &ignored);
}
