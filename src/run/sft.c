/* Supervised training: opening what is trained, its memory plan, and what the loop calls around a step; see sft.h. */
#include "run/sft.h"
#include "base/json.h"
#include "base/progress.h"
#include "lm/ranks.h"
#include "lm/selfcheck.h"
#include "run/evaluate.h"

#define HELD_ROWS 512 /* of the held-out ones, at most */

static const struct {
	const char *name, *part; /* part: its folder in a checkpoint */
	const char *next;        /* the command after it */
} roles[] = {
	[NLA_ROLE_LM] = { "lm", "model", "nla-extract --model %s --corpus TEXTS --out SET" },
	[NLA_ROLE_AV] = { "av", "av", "nla-train --model MODEL --av %s --ar AR --data SET --out RUN" },
	[NLA_ROLE_AR] = { "ar", "ar", "nla-train --model MODEL --av AV --ar %s --data SET --out RUN" },
};

/* ---- what is trained ---- */

/* A new AV or AR, or one whose training continues; it gets an adapter where it has none. */
static enum nla_status open_half(struct nla_sft *s, const struct nla_lora_spec *spec, struct nla_err *err)
{
	const struct nla_config *cfg = s->cfg;
	const bool ar = cfg->sft.role == NLA_ROLE_AR;
	const enum nla_half_role role = ar ? NLA_AR : NLA_AV;
	const char *from = ar ? cfg->ar : cfg->av, *base = ar ? cfg->ar_base : cfg->av_base;
	struct nla_half *half = &s->half;
	const struct nla_sidecar *av_meta = *from && !ar ? &half->meta : NULL, *ar_meta = *from && ar ? &half->meta : NULL;
	if ((*from && nla_half_open(half, role, &s->target, from, base, err)) ||
	    nla_contract_fits_set(&s->set, &s->target, av_meta, ar_meta, cfg->data, err) ||
	    (!*from && nla_half_new(half, role, &s->target, &s->set.meta, err)))
		return nla_err_context(err, "cannot train on '%s'", cfg->data);
	if (*from && half->adapter.layers)
		nla_say("%s: the adapter of '%s' is trained on, as it is: lora.* is not used", s->loop.name, from);
	const struct nla_rng rng = { (uint64_t)cfg->seed, ar ? NLA_STREAM_INIT_AR : NLA_STREAM_INIT };
	if (!half->adapter.layers && nla_adapter_init(&half->adapter, &nla_half_lm(half)->arch, half->depth, spec, rng,
						      s->target.lm.device, err))
		return err->status;
	return nla_loop_optim(&s->loop.optim, &half->adapter, ar && cfg->sft.train_head ? half->head : NULL, err);
}

/* Every weight of the target. */
static enum nla_status open_weights(struct nla_sft *s, struct nla_err *err)
{
	const struct nla_lm *lm = &s->target.lm;
	if (lm->mapped)
		return nla_fail(err, "role lm trains every weight, and '%s' does not fit this machine's memory for that",
				s->cfg->model);
	NLA_AUTO(nla_tensors_release) struct nla_tensors all = { 0 };
	nla_lm_list(lm, &all);
	for (size_t i = 0; i < all.names.n; i++)
		nt_requires_grad(all.list[i], true);
	nla_optim_init(&s->loop.optim, all.list, (int)all.names.n, err);
	return err->status;
}

/* Rows a backward pass, and whether blocks are recomputed, by the memory plan. A resumed run keeps its number. Role lm trains
 * small models whole: what is asked for is done. */
static void make_plan(struct nla_sft *s, int64_t room)
{
	const struct nla_config *cfg = s->cfg;
	const struct nla_lm *lm = &s->target.lm;
	const struct nla_half *half = &s->half, none = { 0 };
	const bool ar = cfg->sft.role == NLA_ROLE_AR;
	struct nla_plan plan;
	const int64_t had = s->loop.state.micro_batch, asked = cfg->update.micro_batch;
	s->micro_batch = had && asked ? NLA_MIN(had, asked) : had + asked;
	s->recompute = cfg->update.recompute == NLA_RECOMPUTE_TRUE;
	if (cfg->sft.role == NLA_ROLE_LM)
		return;
	struct nla_plan_in in = {
		.arch = &lm->arch, .dtype = lm->dtype, .gpu = lm->device != NT_CPU,
		.plain = nla_gpu_plain(lm->device),
		.weights = nla_plan_loaded(&s->target, half, &none),
		.trained = &half->adapter, .head_trained = ar && cfg->sft.train_head,
		.ar_only = ar, .ar_depth = ar ? half->depth : 0,
		.prompt = (int64_t)half->prompt.n, .prompt_head = half->marker, .ar_prompt = s->longest,
		.prompts = nla_most(cfg->sft.batch), .group = 1, .new_tokens = s->longest, .recompute = cfg->update.recompute,
		.micro_batch = s->micro_batch,
	};
	nla_plan_make(&in, room, &plan);
	s->loop.state.micro_batch = s->micro_batch = plan.micro_batch;
	s->recompute = plan.recompute;
	nt_logprob_chunk(plan.chunk);
	nla_auto char *words = nla_plan_words(&in, &plan);
	nla_say("memory plan: %s%s", words, plan.fits ? "" : "; it does not fit: lower sft.batch or give a larger memory");
}

/* ---- held-out figures ---- */

/* Mean over the held-out rows' tokens (role ar: rows); other: with another row's vector each, NaN where all are of one
 * document. */
static enum nla_status held_out(struct nla_sft *s, bool other, double *mean, struct nla_err *err)
{
	const int64_t *held = s->split.held, n = NLA_MIN(s->split.n_held, HELD_ROWS);
	nla_auto int64_t *vectors = nla_alloc((size_t)n, sizeof(*vectors));
	int64_t weight = 0;
	double total = 0, loss;
	bool can = n > 0;
	for (int64_t i = 0; i < n; i++)
		can = (vectors[i] = other ? nla_actset_another(&s->set, held, n, i) : held[i]) >= 0 && can;
	for (int64_t from = 0; can && from < n && !err->status; from += s->cfg->sft.batch) {
		int64_t m = NLA_MIN(s->cfg->sft.batch, n - from), w = nla_sft_weight(s, held + from, m);
		if (!nla_sft_loss(s, held + from, vectors + from, m, false, &loss, err))
			total += loss * (double)w;
		weight += w;
	}
	*mean = can ? total / (double)weight : (double)NAN;
	return err->status;
}

/* Fills in the held-out figures of a step's line, and says them. */
static enum nla_status say_held(struct nla_sft *s, struct nla_str *text, struct nla_err *err)
{
	struct nla_sft_line *l = &s->line;
	l->held = s->split.n_held > 0;
	if (!l->held || held_out(s, false, &l->held_loss, err) ||
	    (l->role == NLA_ROLE_AV && held_out(s, true, &l->held_loss_other_vector, err)))
		return err->status;
	nla_str_addf(text, "  held %.4f", l->held_loss);
	if (l->role == NLA_ROLE_AV)
		nla_str_addf(text, isnan(l->held_loss_other_vector) ? " (all of one document)" : " (another's vector %.4f)",
			     l->held_loss_other_vector);
	else if (l->role == NLA_ROLE_AR && !isnan(l->base.var))
		nla_str_addf(text, " (fve %.3f)", nla_fve(l->held_loss, l->base.var));
	return NLA_OK;
}

/* Explanations of some rows, the same throughout: held-out ones where there are any. */
static enum nla_status probe(struct nla_sft *s, struct nla_err *err)
{
	const int64_t held = s->split.n_held, n_all = held ? held : s->split.n_train, n = NLA_MIN(s->cfg->log.probe, n_all);
	const struct nla_view view = nla_half_view(&s->half);
	const struct nla_rl rl = { .rollout.max_new_tokens = s->longest, .av = &s->half, .policy = view, .sampler = view,
				   .set = &s->set, .rng.stream = NLA_STREAM_EVAL, .base = s->line.base };
	nla_auto int64_t *rows = nla_alloc((size_t)n, sizeof(*rows));
	for (int64_t i = 0; i < n; i++)
		rows[i] = (held ? s->split.held : s->split.train)[i * n_all / n];
	return n && !nla_rank() ? nla_probe(&rl, rows, n, s->loop.state.step, &s->loop.folder, err) : NLA_OK;
}

/* ---- what the loop calls ---- */

static enum nla_status step(struct nla_loop *loop, bool *skipped, struct nla_err *err)
{
	struct nla_sft *s = (struct nla_sft *)loop;
	const struct nla_config *cfg = s->cfg;
	struct nla_sft_line *l = &s->line;
	nla_auto int64_t *rows = nla_alloc((size_t)cfg->sft.batch, sizeof(*rows));
	nla_cursor_next(&loop->cursor, cfg->sft.batch, rows);
	for (int64_t i = 0; i < cfg->sft.batch; i++)
		rows[i] = s->split.train[rows[i]];
	l->lr = nla_schedule_lr(cfg->sft.schedule, cfg->sft.lr, loop->state.step, cfg->steps, cfg->sft.warmup, cfg->sft.min_lr);
	if (!nla_sft_loss(s, rows, rows, cfg->sft.batch, true, &l->loss, err))
		nla_optim_step(&loop->optim, l->lr, cfg->update.grad_clip, &l->grad_norm, skipped, err);
	loop->state.micro_batch = s->micro_batch; /* as memory allowed */
	return err->status;
}

static enum nla_status log_step(struct nla_loop *loop, struct nla_err *err)
{
	struct nla_sft *s = (struct nla_sft *)loop;
	const long long at = loop->state.step, steps = s->cfg->steps;
	struct nla_sft_line *l = &s->line;
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	const bool due = at == steps || at % s->cfg->sft.held_every == 0; /* before the first step, too */
	l->seconds = loop->step_seconds;
	l->reduced = loop->optim.reduced;
	l->held = false;
	if (at)
		nla_str_addf(&text, "  loss %.4f  norm %.2f  lr %.1e  %.2f s", l->loss, l->grad_norm, l->lr, l->seconds);
	if (due && say_held(s, &text, err))
		return err->status;
	nla_auto char *left = nla_loop_left(loop);
	if (due || at % s->cfg->log.every == 0)
		nla_say("%s %lld/%lld%s%s", loop->name, at, steps, text.buf, left);
	nla_auto_json cJSON *line = nla_report_sft(l, &loop->state);
	if (!nla_log_line(&loop->folder.metrics, line, err) && due && s->cfg->sft.role == NLA_ROLE_AV)
		probe(s, err);
	return err->status;
}

static enum nla_status save(struct nla_loop *loop, const char *dir, struct nla_err *err)
{
	const struct nla_sft *s = (struct nla_sft *)loop;
	nla_auto char *part = nla_path_join(dir, roles[s->cfg->sft.role].part);
	if (s->cfg->sft.role != NLA_ROLE_LM)
		nla_half_save(&s->half, NULL, part, "sft", err);
	else if (!nla_mkdirs(part, err) && !nla_lm_save(&s->target.lm, part, s->cfg->sft.save_dtype ? NT_F32 : NT_BF16, err))
		nla_copy_beside(s->target.folder, part, NULL, err);
	return err->status;
}

/* ---- opening ---- */

enum nla_status nla_sft_open(struct nla_sft *s, const struct nla_config *cfg, struct nla_err *err)
{
	const bool lm = cfg->sft.role == NLA_ROLE_LM;
	struct nla_config target = *cfg;
	struct nla_lora_spec spec;
	int64_t room;
	const bool cosine = cfg->sft.schedule == NLA_SCHEDULE_COSINE;
	const char *like = cfg->sft.role == NLA_ROLE_AV ? cfg->av : NULL;
	*s = (struct nla_sft){ .cfg = cfg, .longest = 1, .line = { .loss = NAN, .grad_norm = NAN, .lr = NAN } };
	s->loop = (struct nla_loop){ .cfg = cfg, .name = roles[cfg->sft.role].name, .begin = log_step, .step = step,
				     .log = log_step, .save = save, .next = roles[cfg->sft.role].next,
				     .advice = "lower sft.lr, or look at the data" };
	s->loop.more = cosine ? "its schedule ended there: start from it (--av, --ar or --model) into another --out"
			      : "a larger --steps goes on";
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(cfg->out, "out", err) ||
	    nla_models_lora(cfg, &spec, err))
		return err->status;
	if (lm && cfg->dtype == NLA_DTYPE_BF16)
		return nla_usage(err, "role lm trains the weights themselves, which bf16 is too coarse for: give --dtype fp32");
	target.dtype = lm ? NLA_DTYPE_FP32 : cfg->dtype;
	if (nla_config_target(&target, like, lm && cfg->sft.init ? cfg->seed : -1, &room, &s->target, err))
		return err->status;
	if (nla_sft_load(s, err) || (lm ? open_weights(s, err) : open_half(s, &spec, err)) || nla_sft_encode(s, err))
		return err->status;
	nla_cursor_init(&s->loop.cursor, (uint64_t)cfg->seed, s->split.n_train);
	s->line.role = cfg->sft.role;
	s->loop.device = s->target.lm.device;
	s->line.base = (struct nla_baselines){ s->set.meta.baseline_var, s->set.meta.baseline_mean };
	if (nla_loop_open(&s->loop, cosine, err))
		return err->status;
	make_plan(s, room);
	nla_say("%s: %lld rows to train on, %lld held out, %lld tensors trained", s->loop.name, (long long)s->split.n_train,
		(long long)s->split.n_held, (long long)s->loop.optim.n);
	return NLA_OK;
}

void nla_sft_close(struct nla_sft *s)
{
	nla_loop_close(&s->loop);
	nla_split_release(&s->split);
	nla_half_release(&s->half);
	nla_i32s_release(&s->ids);
	nla_i64s_release(&s->offset);
	nla_actset_close(&s->set);
	nla_target_close(&s->target);
}
