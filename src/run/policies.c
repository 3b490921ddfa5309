/* The policies of a run, one a lambda: what each has of its own, and the step that they make together; see train.h. */

#include "base/progress.h"
#include "run/train.h"

char *nla_policy_out(const char *out, const char *lambda, int64_t seed)
{
	return nla_format("%s/lambda-%s-seed-%lld", out, lambda, (long long)seed);
}

void nla_policies_init(struct nla_train *t, int64_t from)
{
	const struct nla_config *cfg = t->cfg;
	const char *at = cfg->lambdas;
	int64_t n = 1;
	for (const char *c = at; *c; c++)
		n += *c == ',';
	t->n_wanted = n - from;
	t->policies = nla_alloc((size_t)t->n_wanted, sizeof(*t->policies));
	t->loops = nla_alloc((size_t)t->n_wanted, sizeof(*t->loops));
	for (int64_t i = -from; i < t->n_wanted; i++, at += strcspn(at, ",") + 1) {
		struct nla_policy *p = &t->policies[NLA_MAX(i, 0)];
		if (i < 0)
			continue;
		p->train = t;
		p->cfg = *cfg;
		p->cfg.lambdas = nla_strndup(at, strcspn(at, ","));
		p->cfg.reward.lambda = strtod(p->cfg.lambdas, NULL);
		p->cfg.out = n == 1 || !*cfg->out ? nla_strdup(cfg->out)
			   : nla_policy_out(cfg->out, p->cfg.lambdas, cfg->seed);
		p->who = n == 1 ? NULL : nla_format("lambda %s", p->cfg.lambdas);
		t->loops[i] = &p->loop;
	}
}

char *nla_policy_ar(const struct nla_policy *p, struct nla_err *err)
{
	nla_auto char *checkpoint = NULL;
	int64_t step;
	if (p->cfg.resume && !nla_checkpoint_find(p->cfg.out, &checkpoint, &step, err) && checkpoint)
		return nla_path_join(checkpoint, "ar");
	return nla_strdup(p->cfg.ar);
}

/* The first policy's AR is the models'; that of another has its weights too. */
static enum nla_status open_ar(struct nla_policy *p, struct nla_err *err)
{
	struct nla_train *t = p->train;
	p->ar = &t->models.ar;
	if (p == t->policies || !p->cfg.ar_update.enabled)
		return NLA_OK;
	nla_auto char *path = nla_policy_ar(p, err);
	p->ar = &p->own_ar;
	if (t->models.ar.own.blocks)
		return nla_usage(err, "'ar_update.enabled' is set, and '%s' has weights of its own: want one lambda, or an AR "
				 "that is an adapter over the target", p->cfg.ar);
	return err->status ? err->status : nla_half_open(p->ar, NLA_AR, &t->models.target, path, p->cfg.ar_base, err);
}

/* The policy's new adapter; the AR's, which it gets where it has none. */
enum nla_status nla_policy_open(struct nla_policy *p, const struct nla_lora_spec *spec, struct nla_err *err)
{
	const struct nla_models *m = &p->train->models;
	const struct nla_config *cfg = &p->cfg;
	const struct nla_arch *arch = &nla_half_lm(&m->av)->arch;
	const int device = m->target.lm.device;
	struct nla_rng rng = { (uint64_t)cfg->seed, NLA_STREAM_INIT_RL };
	nla_cursor_init(&p->loop.cursor, rng.seed, p->train->set.n);
	if (open_ar(p, err) || nla_adapter_init(&p->adapter, arch, arch->n_layers, spec, rng, device, err) ||
	    nla_loop_optim(&p->loop.optim, &p->adapter, NULL, err) || !cfg->ar_update.enabled)
		return err->status;
	rng.stream = NLA_STREAM_INIT_RL_AR;
	if (!p->ar->adapter.layers && nla_adapter_init(&p->ar->adapter, &nla_half_lm(p->ar)->arch, p->ar->depth, spec, rng,
						       device, err))
		return err->status;
	return nla_loop_optim(&p->loop.ar_optim, &p->ar->adapter, cfg->ar_update.train_head ? p->ar->head : NULL, err);
}

enum nla_status nla_train_views(struct nla_train *t, struct nla_err *err)
{
	const struct nla_config *cfg = t->cfg;
	nt_logprob_chunk(t->plan.chunk);
	for (struct nla_policy *p = t->policies; p < t->policies + t->n && !err->status; p++) {
		struct nla_rl *rl = &p->rl;
		*rl = nla_models_rl(&t->models, &p->cfg);
		rl->ar = p->ar;
		rl->ar_view = nla_half_view(p->ar);
		rl->rollout.rows = nla_train_rows(t);
		rl->score_tokens = p->loop.state.score_tokens;
		rl->update = (struct nla_update_cfg){ cfg->update.lr, cfg->update.clip, cfg->update.kl, cfg->update.grad_clip,
						      cfg->ar_update.lr, t->plan.micro_batch, t->plan.recompute };
		rl->optim = &p->loop.optim;
		rl->ar_optim = cfg->ar_update.enabled ? &p->loop.ar_optim : NULL;
		rl->set = &t->set;
		rl->cursor = &p->loop.cursor;
		rl->base = (struct nla_baselines){ t->set.meta.baseline_var, t->set.meta.baseline_mean };
		rl->rng.stream = NLA_STREAM_SAMPLE;
		if (p > t->policies) { /* with the first one's anchor and reader */
			rl->reference = t->policies->rl.reference;
			rl->ar_view = rl->ar_optim ? rl->ar_view : t->policies->rl.ar_view;
		}
		nla_copies_make(&p->copies, &t->models, &p->adapter,
				t->plan.copies & (p > t->policies ? NLA_PLAN_DECODER : NLA_PLAN_ALL_COPIES), !rl->ar_optim, rl,
				err);
		p->eval = *rl;
		p->eval.set = &t->eval_set;
		p->eval.rng.stream = NLA_STREAM_EVAL; /* of step 0: the same random numbers in every evaluation */
		p->eval_batch = cfg->eval.batch;
	}
	return err->status;
}

/* The samples of all policies that have made as many steps as this one. */
static enum nla_status draw_together(struct nla_policy *first, struct nla_err *err)
{
	struct nla_train *t = first->train;
	nla_auto const struct nla_rl **of = nla_alloc((size_t)t->n, sizeof(*of));
	struct nla_rl rl = first->rl;
	nla_step_release(&t->drawn);
	t->n_drawn = 0;
	for (struct nla_policy *p = t->policies; p < t->policies + t->n; p++)
		if (p->loop.state.step == first->loop.state.step) { /* and so by the same cursor */
			of[t->n_drawn] = &p->rl;
			p->share = ++t->n_drawn;
		}
	rl.of = of;
	rl.n_of = t->n_drawn;
	rl.rollout.rows = t->plan.rows;
	t->algorithm->draw(&rl, &t->drawn, err);
	t->plan.rows = rl.rollout.rows;
	for (struct nla_policy *p = t->policies; p < t->policies + t->n; p++)
		if (p->share) { /* what memory allowed them together holds for each */
			p->rl.halved |= rl.halved;
			p->rl.score_tokens = nla_lower_limit(p->rl.score_tokens, rl.score_tokens);
			p->rl.update.micro_batch = NLA_MIN(p->rl.update.micro_batch, rl.update.micro_batch);
			p->rl.cursor->position = rl.cursor->position;
		}
	return err->status;
}

enum nla_status nla_policy_step(struct nla_policy *p, struct nla_err *err)
{
	struct nla_train *t = p->train;
	nla_step_release(&p->step);
	p->rl.step = p->loop.state.step;
	if (t->n == 1 && t->algorithm->draw(&p->rl, &p->step, err))
		return err->status;
	if (t->n > 1 && !p->share && draw_together(p, err))
		return err->status;
	if (t->n > 1)
		nla_step_share(&p->step, &t->drawn, p->share - 1, t->n_drawn, t->set.d);
	p->share = 0;
	return t->algorithm->learn(&p->rl, &p->step, err);
}

void nla_policies_release(struct nla_train *t)
{
	for (int64_t i = 0; i < t->n_wanted; i++) {
		struct nla_policy *p = &t->policies[i];
		nla_step_release(&p->step);
		nla_loop_close(&p->loop);
		nla_adapter_release(&p->adapter);
		nla_half_release(&p->own_ar);
		nla_copies_release(&p->copies);
		free(p->cfg.lambdas);
		free(p->cfg.out);
		free(p->who);
	}
	nla_say_for(NULL);
	nla_step_release(&t->drawn);
	free(t->policies);
	free(t->loops);
}
