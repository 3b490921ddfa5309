#include "run/sft.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/progress.h"
#include "run/sft_impl.h"
#include "run/stop.h"

#define HELD_ROWS 512 /* of the held-out ones, at most */

static const char *const role_names[] = { "lm", "av", "ar" };
static const char *const parts[] = { "model", "av", "ar" }; /* of a checkpoint */

/* ---- what is trained ---- */

/* A folder to go on from may be a whole checkpoint, or a reconstructor without an adapter: it gets one. */
static enum nla_status open_av(struct nla_sft *s, const struct nla_lora_spec *spec, struct nla_err *err)
{
	const struct nla_config *cfg = s->cfg;
	if (*cfg->av ? nla_half_open(&s->av, NLA_AV, &s->target, cfg->av, cfg->av_base, err) ||
			       nla_contract_fits_set(&s->set, &s->target, &s->av.meta, NULL, cfg->data, err)
		     : nla_contract_fits_set(&s->set, &s->target, NULL, NULL, cfg->data, err) ||
			       nla_half_new(&s->av, NLA_AV, &s->target, &s->set.meta, err))
		return err->status;
	const struct nla_arch *a = &nla_half_lm(&s->av)->arch;
	if (*cfg->av && s->av.adapter.layers)
		nla_say("av: the adapter of '%s' is trained on, as it is: lora.* is not used", cfg->av);
	if (!s->av.adapter.layers)
		nla_adapter_init(&s->av.adapter, a, a->n_layers, spec, (uint64_t)cfg->seed, s->target.lm.device, err);
	return err->status ? err->status : nla_adapter_train(&s->av.adapter, true, err);
}

static enum nla_status open_ar(struct nla_sft *s, const struct nla_lora_spec *spec, struct nla_err *err)
{
	const struct nla_config *cfg = s->cfg;
	if (*cfg->ar ? nla_half_open(&s->ar, NLA_AR, &s->target, cfg->ar, cfg->ar_base, err) ||
			       nla_contract_fits_set(&s->set, &s->target, NULL, &s->ar.meta, cfg->data, err)
		     : nla_contract_fits_set(&s->set, &s->target, NULL, NULL, cfg->data, err) ||
			       nla_half_new(&s->ar, NLA_AR, &s->target, &s->set.meta, err))
		return err->status;
	if (*cfg->ar && s->ar.adapter.layers)
		nla_say("ar: the adapter of '%s' is trained on, as it is: lora.* is not used", cfg->ar);
	if (!s->ar.adapter.layers)
		nla_adapter_init(&s->ar.adapter, &nla_half_lm(&s->ar)->arch, s->ar.depth, spec, (uint64_t)cfg->seed + 1, s->target.lm.device, err);
	return err->status ? err->status : nla_adapter_train(&s->ar.adapter, true, err);
}

static int list_params(struct nla_sft *s, nt_tensor **list)
{
	if (s->cfg->sft.role == NLA_ROLE_LM)
		return nla_lm_params(&s->target.lm, list);
	if (s->cfg->sft.role == NLA_ROLE_AV)
		return nla_adapter_params(&s->av.adapter, list, NULL);
	int n = nla_adapter_params(&s->ar.adapter, list, NULL);
	if (s->cfg->sft.train_head && n++ >= 0 && list)
		list[n - 1] = s->ar.head;
	return n;
}

static enum nla_status open_role(struct nla_sft *s, const struct nla_lora_spec *spec, struct nla_err *err)
{
	if (s->cfg->sft.role != NLA_ROLE_LM && (s->cfg->sft.role == NLA_ROLE_AV ? open_av(s, spec, err) : open_ar(s, spec, err)))
		nla_err_context(err, "cannot train on '%s'", s->cfg->data);
	return err->status;
}

static enum nla_status open_params(struct nla_sft *s, struct nla_err *err)
{
	int n = list_params(s, NULL);
	nt_tensor **list = nla_alloc((size_t)n, sizeof(*list));
	list_params(s, list);
	for (int i = 0; i < n; i++)
		nt_requires_grad(list[i], true);
	nla_optim_init(&s->optim, list, n, err);
	free(list);
	return err->status;
}

/* Rows a backward pass, and whether blocks are recomputed, by the memory plan. A run that goes on keeps its number. Role lm trains
 * small models whole: what is asked for is done. */
static enum nla_status make_plan(struct nla_sft *s, int64_t room, struct nla_err *err)
{
	const struct nla_config *cfg = s->cfg;
	const struct nla_lm *lm = &s->target.lm;
	struct nla_i32s empty = { 0 };
	struct nla_plan plan;
	bool ar = cfg->sft.role == NLA_ROLE_AR;
	enum nla_ar_fit fit;
	int64_t longest = 1;
	s->micro_batch = cfg->update.micro_batch;
	s->recompute = cfg->update.recompute == NLA_RECOMPUTE_TRUE;
	if (cfg->sft.role == NLA_ROLE_LM || (ar && nla_ar_encode(&s->ar, "", 0, &empty, &fit, err)))
		return err->status;
	for (int64_t i = 0; i < s->set.n; i++)
		longest = NLA_MAX(longest, (int64_t)s->responses[i].n);
	struct nla_plan_in in = {
		.arch = &lm->arch, .dtype = lm->dtype, .gpu = lm->device != NT_CPU, .weights = nla_plan_loaded(&s->target, &s->av, &s->ar),
		.trained = ar ? &s->ar.adapter : &s->av.adapter, .ar_only = ar, .ar_depth = s->ar.depth, .head_trained = ar && cfg->sft.train_head,
		.prompt = (int64_t)s->av.prompt.n, .prompt_head = s->av.marker, .ar_prompt = (int64_t)empty.n + longest,
		.prompts = cfg->sft.batch, .group = 1, .new_tokens = longest, .recompute = cfg->update.recompute,
		.micro_batch = cfg->update.micro_batch ? cfg->update.micro_batch : s->state.micro_batch,
	};
	nla_i32s_release(&empty);
	nla_plan_make(&in, room, &plan);
	s->state.micro_batch = s->micro_batch = plan.micro_batch;
	s->recompute = plan.recompute;
	nt_logprob_chunk(plan.chunk);
	char *words = nla_plan_words(&in, &plan);
	nla_say("memory plan: %s%s", words, plan.fits ? "" : "; it does not fit: lower sft.batch or give a larger memory");
	free(words);
	return NLA_OK;
}

static enum nla_status restore(struct nla_sft *s, struct nla_err *err)
{
	struct nla_st st;
	char *path = nla_path_join(s->folder.checkpoint, "optimizer.safetensors");
	if (!nla_state_read(&s->state, s->folder.checkpoint, s->split.n_train, err) && !nla_st_open(&st, path, err)) {
		nla_optim_restore(&s->optim, role_names[s->cfg->sft.role], &st, err);
		nla_st_close(&st);
		s->optim.step = s->state.av_updates;
		s->cursor.position = s->state.cursor;
	}
	free(path);
	return err->status;
}

enum nla_status nla_sft_open(struct nla_sft *s, const struct nla_config *cfg, struct nla_err *err)
{
	int device;
	int64_t room;
	nt_dtype dtype;
	struct nla_lora_spec spec;
	memset(s, 0, sizeof(*s));
	s->cfg = cfg;
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(cfg->out, "out", err) || nla_config_lora(cfg, &spec, err) ||
	    nla_config_device(cfg, &device, &dtype, err) || nla_config_room(cfg, device, &room, err))
		return err->status;
	bool lm = cfg->sft.role == NLA_ROLE_LM;
	if (lm && dtype != NT_F32)
		return nla_usage(err, "role lm trains the weights themselves, which bf16 is too coarse for: give --dtype fp32");
	if (nla_target_open(&s->target, cfg->model, &cfg->chat, device, dtype, lm && cfg->sft.init ? cfg->seed : -1, err) || nla_sft_load(s, err))
		return err->status;
	if (lm && s->target.lm.mapped)
		return nla_fail(err, "role lm trains every weight, and '%s' does not fit this machine's memory for that", cfg->model);
	if (open_role(s, &spec, err) || nla_sft_leave_out(s, err) || open_params(s, err) || nla_folder_open(&s->folder, cfg, cfg->sft.schedule == NLA_SCHEDULE_COSINE, err))
		return err->status;
	nla_cursor_init(&s->cursor, (uint64_t)cfg->seed, s->split.n_train);
	s->state.rows = s->split.n_train;
	return (s->folder.checkpoint && restore(s, err)) || make_plan(s, room, err) ? err->status : NLA_OK;
}

void nla_sft_close(struct nla_sft *s)
{
	struct nla_err ignored = NLA_ERR_INIT;
	for (int64_t i = 0; s->responses && i < s->set.n; i++)
		nla_i32s_release(&s->responses[i]);
	free(s->responses);
	nla_optim_release(&s->optim);
	nla_cursor_release(&s->cursor);
	nla_split_release(&s->split);
	nla_half_release(&s->av);
	nla_half_release(&s->ar);
	nla_i32s_release(&s->ids);
	nla_i64s_release(&s->offset);
	nla_actset_close(&s->set);
	nla_target_close(&s->target);
	if (s->folder.path)
		nla_folder_close(&s->folder, &ignored);
}

/* ---- checkpoints ---- */

static enum nla_status save_part(const struct nla_sft *s, const char *folder, struct nla_err *err)
{
	switch (s->cfg->sft.role) {
	case NLA_ROLE_LM:
		return nla_mkdirs(folder, err) || nla_lm_save(&s->target.lm, folder, s->cfg->sft.save_dtype ? NT_F32 : NT_BF16, err) ||
				       nla_copy_beside(s->target.folder, folder, NULL, err) ? err->status : NLA_OK;
	case NLA_ROLE_AV: return nla_half_save(&s->av, NULL, folder, "sft", err);
	default: return nla_half_save(&s->ar, NULL, folder, "sft", err);
	}
}

static enum nla_status checkpoint(struct nla_sft *s, struct nla_err *err)
{
	struct nla_st_entry *entries = NULL;
	size_t n = 0;
	char *dir = NULL;
	if (nla_checkpoint_begin(&s->folder, s->state.step, &dir, err))
		return err->status;
	char *part = nla_path_join(dir, parts[s->cfg->sft.role]), *optim = nla_path_join(dir, "optimizer.safetensors");
	s->state.cursor = s->cursor.position;
	s->state.av_updates = s->optim.step;
	if (save_part(s, part, err) || nla_optim_entries(&s->optim, role_names[s->cfg->sft.role], &entries, &n, err) ||
	    nla_st_write(optim, entries, n, err) || nla_state_write(&s->state, dir, err) ||
	    nla_checkpoint_commit(&s->folder, s->state.step, dir, s->cfg->checkpoint.keep, err)) {
		nla_err_context(err, "cannot write checkpoint %lld", (long long)s->state.step);
		nla_checkpoint_abandon(dir);
	}
	nla_optim_free_entries(entries, n);
	free(part);
	free(optim);
	free(dir);
	return err->status;
}

/* ---- the loop ---- */

/* The held-out row whose vector row i gets instead of its own: the next one of another document. */
static int64_t other_row(const struct nla_sft *s, int64_t i, int64_t n)
{
	const int64_t *held = s->split.held;
	for (int64_t j = 1; j < n; j++)
		if (strcmp(s->set.rows[held[(i + j) % n]].doc_id, s->set.rows[held[i]].doc_id))
			return held[(i + j) % n];
	return -1;
}

/* Mean over the held-out rows' tokens (role ar: rows); other: with another row's vector each, NaN where all are of one document. */
static enum nla_status held_out(struct nla_sft *s, bool other, double *mean, struct nla_err *err)
{
	int64_t n = NLA_MIN(s->split.n_held, HELD_ROWS), weight = 0;
	int64_t *vectors = nla_alloc((size_t)n + 1, sizeof(*vectors));
	double total = 0;
	bool can = n > 0;
	for (int64_t i = 0; other && i < n; i++)
		can = (vectors[i] = other_row(s, i, n)) >= 0 && can;
	for (int64_t from = 0; can && from < n && !err->status; from += s->cfg->sft.batch) {
		int64_t m = NLA_MIN(s->cfg->sft.batch, n - from), w = nla_sft_weight(s, s->split.held + from, m);
		double loss;
		if (!nla_sft_loss(s, s->split.held + from, other ? vectors + from : NULL, m, false, &loss, err))
			total += loss * (double)w;
		weight += w;
	}
	*mean = can ? total / (double)weight : (double)NAN;
	free(vectors);
	return err->status;
}

static enum nla_status report_held(struct nla_sft *s, cJSON *line, struct nla_str *text, struct nla_err *err)
{
	double own, other;
	if (held_out(s, false, &own, err))
		return err->status;
	cJSON_AddNumberToObject(line, "held_loss", own);
	nla_str_addf(text, "  held %.4f", own);
	if (s->cfg->sft.role == NLA_ROLE_AV) {
		if (held_out(s, true, &other, err))
			return err->status;
		cJSON_AddNumberToObject(line, "held_loss_other_vector", other);
		nla_str_addf(text, isnan(other) ? " (all of one document)" : " (another's vector %.4f)", other);
	} else if (s->cfg->sft.role == NLA_ROLE_AR && !isnan(s->set.meta.baseline_var)) {
		cJSON_AddNumberToObject(line, "held_fve", 1 - own / s->set.meta.baseline_var);
		cJSON_AddNumberToObject(line, "held_fve_meannorm", 1 - own / s->set.meta.baseline_mean);
		nla_str_addf(text, " (fve %.3f)", 1 - own / s->set.meta.baseline_var);
	}
	return NLA_OK;
}

static enum nla_status one_step(struct nla_sft *s, double *loss, double *norm, double *lr, struct nla_err *err)
{
	const struct nla_config *cfg = s->cfg;
	int64_t *rows = nla_alloc((size_t)cfg->sft.batch, sizeof(*rows));
	bool skipped = false;
	nla_cursor_next(&s->cursor, cfg->sft.batch, rows);
	for (int64_t i = 0; i < cfg->sft.batch; i++)
		rows[i] = s->split.train[rows[i]];
	*lr = nla_schedule_lr(cfg->sft.schedule, cfg->sft.lr, s->state.step, cfg->steps, cfg->sft.warmup, cfg->sft.min_lr);
	if (!nla_sft_loss(s, rows, NULL, cfg->sft.batch, true, loss, err))
		nla_optim_step(&s->optim, *lr, cfg->update.grad_clip, norm, &skipped, err);
	free(rows);
	s->state.step++;
	s->state.bad_steps = skipped ? s->state.bad_steps + 1 : 0;
	s->state.skipped += skipped;
	return err->status;
}

/* Too many steps without a finite gradient end the run, with a checkpoint of what it had. */
static enum nla_status guard(struct nla_sft *s, struct nla_err *err)
{
	if (s->state.bad_steps >= s->cfg->update.max_bad_steps && !checkpoint(s, err))
		nla_fail(err, "gradients were not finite for %lld steps in a row: lower sft.lr, or look at the data", (long long)s->state.bad_steps);
	return err->status;
}

static enum nla_status log_step(struct nla_sft *s, double loss, double norm, double lr, double seconds, bool held, struct nla_err *err)
{
	struct nla_str text = NLA_STR_INIT;
	cJSON *line = cJSON_CreateObject();
	cJSON_AddNumberToObject(line, "step", (double)s->state.step);
	cJSON_AddNumberToObject(line, "loss", loss);
	cJSON_AddNumberToObject(line, "grad_norm", norm);
	cJSON_AddNumberToObject(line, "lr", lr);
	cJSON_AddNumberToObject(line, "skipped_steps", (double)s->state.skipped);
	cJSON_AddNumberToObject(line, "seconds", seconds);
	if (!held || !report_held(s, line, &text, err)) {
		if (held || s->state.step % s->cfg->log.every == 0)
			nla_say("%s %lld/%lld  loss %.4f  norm %.2f  lr %.1e  %.2f s%s", role_names[s->cfg->sft.role],
				(long long)s->state.step, (long long)s->cfg->steps, loss, norm, lr, seconds, text.buf);
		nla_log_line(&s->folder.metrics, line, err);
	}
	cJSON_Delete(line);
	nla_str_release(&text);
	return err->status;
}

enum nla_status nla_sft_run(struct nla_sft *s, struct nla_err *err)
{
	const struct nla_config *cfg = s->cfg;
	int64_t saved = s->state.step;
	nla_say("%s: %lld rows to train on, %lld held out, %lld tensors trained", role_names[cfg->sft.role], (long long)s->split.n_train,
		(long long)s->split.n_held, (long long)s->optim.n);
	if (s->folder.checkpoint)
		nla_say("going on from step %lld: %s", (long long)s->state.step, s->folder.checkpoint);
	while (s->state.step < cfg->steps && !nla_stop_asked()) {
		double loss, norm = 0, lr, started = nla_seconds();
		if (one_step(s, &loss, &norm, &lr, err))
			break;
		bool last = s->state.step == cfg->steps;
		if (log_step(s, loss, norm, lr, nla_seconds() - started, last || s->state.step % cfg->sft.held_every == 0, err) ||
		    guard(s, err))
			break;
		if (cfg->checkpoint.every && s->state.step % cfg->checkpoint.every == 0) {
			if (checkpoint(s, err))
				break;
			saved = s->state.step;
		}
	}
	return err->status || (saved != s->state.step && checkpoint(s, err)) ? err->status : NLA_OK;
}
