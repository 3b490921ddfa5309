/* The stages of one RL step on a run's data; see train.h. Each adds its seconds. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/progress.h"
#include "base/rng.h"
#include "run/train.h"

enum nla_status nla_train_batch(struct nla_train *t, struct nla_step *s, struct nla_err *err)
{
	const struct nla_rollout_cfg *cfg = &t->cfg->rollout;
	size_t n = (size_t)(cfg->prompts * cfg->group);
	memset(s, 0, sizeof(*s));
	s->ar_loss = (double)NAN; /* until a row could be scored */
	s->rows = nla_alloc((size_t)cfg->prompts, sizeof(*s->rows));
	s->v = nla_alloc((size_t)(cfg->prompts * t->set.d), sizeof(*s->v));
	s->keys = nla_alloc(n, sizeof(*s->keys));
	s->reward = nla_alloc(n, sizeof(*s->reward));
	s->penalty = nla_alloc(n, sizeof(*s->penalty));
	s->advantage = nla_alloc(n, sizeof(*s->advantage));
	for (size_t i = 0; i < n; i++)
		s->keys[i] = (uint32_t)i;
	nla_cursor_next(&t->cursor, cfg->prompts, s->rows);
	return nla_actset_vectors(&t->set, s->rows, (size_t)cfg->prompts, s->v, err);
}

enum nla_status nla_train_rollout(struct nla_train *t, struct nla_step *s, struct nla_err *err)
{
	struct nla_rng rng = { (uint64_t)t->cfg->seed, NLA_STREAM_SAMPLE };
	double started = nla_seconds();
	struct nla_rollout_cfg cfg = t->cfg->rollout;
	cfg.rows = t->plan.rows;
	nt_grad_push(false);
	if (!t->has_rollout || !nla_merge(&t->rollout_lm, &t->policy, err))
		nla_rollout(&t->av, &t->sampler, s->v, cfg.prompts, &cfg, &rng, (uint32_t)t->state.step, s->keys,
			    &s->rollout, err);
	nt_grad_pop();
	s->seconds[NLA_STAGE_ROLLOUT] = nla_seconds() - started;
	return err->status;
}

enum nla_status nla_train_score(struct nla_train *t, struct nla_step *s, struct nla_err *err)
{
	double started = nla_seconds();
	nla_score(&t->ar, &t->ar_view, &s->rollout, &t->base, t->cfg->reward.fail_mse, &s->score, err);
	s->seconds[NLA_STAGE_SCORE] = nla_seconds() - started;
	return err->status;
}

enum nla_status nla_train_reward(struct nla_train *t, struct nla_step *s, struct nla_err *err)
{
	for (int64_t i = 0; i < s->rollout.n; i++) {
		struct nla_reward_row row = { s->score.mse[i], s->rollout.tokens.length[i], s->rollout.n_explanation[i],
					      s->rollout.failed[i] != NLA_ROW_OK };
		s->penalty[i] = nla_reward_penalty(&row, &t->cfg->reward);
		s->reward[i] = nla_reward_value(&row, t->base.var, &t->cfg->reward);
	}
	return nla_advantage(s->reward, s->rollout.n_prompts, s->rollout.group, &t->cfg->advantage, s->advantage, err);
}

/* The AR's step on this batch's explanations that could be scored. */
static enum nla_status update_ar(struct nla_train *t, struct nla_step *s, struct nla_err *err)
{
	struct nla_ar_texts texts;
	struct nla_f32s v = { 0 };
	double norm;
	bool skipped = false;
	enum nla_ar_fit fit; /* those that do not have failed */
	struct nla_update_cfg u = { .lr = t->cfg->ar_update.lr, .grad_clip = t->cfg->update.grad_clip,
				    .micro_batch = t->plan.micro_batch, .recompute = t->plan.recompute };
	nla_ar_texts_start(&texts);
	for (int64_t i = 0; i < s->rollout.n && !err->status; i++) {
		if (s->rollout.failed[i])
			continue;
		const char *e = s->rollout.explanation[i];
		nla_ar_encode(&t->ar, e, strlen(e), &texts.ids, &fit, err);
		nla_i64s_push(&texts.offset, (int64_t)texts.ids.n);
		nla_f32s_append(&v, s->v + s->rollout.prompt_of[i] * t->set.d, (size_t)t->set.d);
	}
	if (!err->status && texts.offset.n > 1)
		nla_update_ar(&t->ar, &t->ar_view, &texts, v.data, &u, &t->ar_optim, &s->ar_loss, &norm, &skipped, err);
	s->ar_skipped = skipped;
	nla_ar_texts_release(&texts);
	nla_f32s_release(&v);
	return err->status;
}

enum nla_status nla_train_update(struct nla_train *t, struct nla_step *s, struct nla_err *err)
{
	const struct nla_config *cfg = t->cfg;
	struct nla_update_cfg u = { .lr = cfg->update.lr, .clip = cfg->update.clip, .kl = cfg->update.kl,
				    .temperature = cfg->rollout.temperature, .grad_clip = cfg->update.grad_clip,
				    .micro_batch = t->plan.micro_batch, .recompute = t->plan.recompute };
	struct nla_update_batch batch = { .responses = nla_rollout_responses(&s->rollout), .advantage = s->advantage,
					  .sampler = s->rollout.tokens.logprob };
	double started = nla_seconds();
	if (nla_update(&t->av, &t->policy, &t->reference, &batch, &u, &t->optim, &s->stats, err))
		return err->status;
	s->skipped = s->stats.skipped;
	if (cfg->ar_update.enabled && update_ar(t, s, err))
		return err->status;
	t->state.step++;
	bool any = s->skipped || s->ar_skipped;
	t->state.bad_steps = any ? t->state.bad_steps + 1 : 0;
	t->state.skipped += any;
	s->seconds[NLA_STAGE_UPDATE] = nla_seconds() - started;
	return NLA_OK;
}

enum nla_status nla_train_guard(struct nla_train *t, struct nla_err *err)
{
	if (t->state.bad_steps < t->cfg->update.max_bad_steps)
		return NLA_OK;
	if (!nla_train_checkpoint(t, err)) /* weights whose gradient is not finite stay as they are: this is the last good state */
		nla_fail(err, "gradients were not finite for %lld steps in a row: the last good state is '%s/checkpoints/latest': start a new run from its av and ar with a lower update.lr%s",
			 (long long)t->state.bad_steps, t->folder.path, t->cfg->ar_update.enabled ? " or ar_update.lr" : "");
	return err->status;
}

static enum nla_status write_samples(struct nla_train *t, const struct nla_step *s, struct nla_err *err)
{
	for (int64_t i = 0; i < NLA_MIN(t->cfg->log.samples, s->rollout.n) && !err->status; i++) {
		cJSON *json = cJSON_CreateObject();
		cJSON_AddNumberToObject(json, "step", (double)t->state.step);
		cJSON_AddNumberToObject(json, "row", (double)s->rows[s->rollout.prompt_of[i]]);
		cJSON_AddStringToObject(json, "response", s->rollout.response[i]);
		cJSON_AddItemToObject(json, "failed", s->rollout.failed[i] ? cJSON_CreateString(nla_failure_names[s->rollout.failed[i]])
									  : cJSON_CreateNull());
		cJSON_AddNumberToObject(json, "fve", s->score.fve[i]);
		cJSON_AddNumberToObject(json, "tokens", (double)s->rollout.tokens.length[i]);
		cJSON_AddNumberToObject(json, "reward", s->reward[i]);
		cJSON_AddNumberToObject(json, "advantage", s->advantage[i]);
		nla_log_line(&t->folder.samples, json, err);
		cJSON_Delete(json);
	}
	return err->status;
}

enum nla_status nla_train_log(struct nla_train *t, struct nla_step *s, struct nla_err *err)
{
	s->seconds[NLA_STAGE_CHECKPOINT] = t->checkpoint_seconds;
	t->checkpoint_seconds = 0;
	cJSON *line = nla_metrics_line(t, s);
	if (t->state.step % t->cfg->log.every == 0 || t->state.step == t->cfg->steps)
		nla_say("step %lld/%lld  fve %.3f  tokens %.1f  reward %.3f  failed %.0f%%  kl %.4f  entropy %.2f  norm %.2f  %.2f s%s",
			(long long)t->state.step, (long long)t->cfg->steps, nla_json_value(line, "fve"), nla_json_value(line, "response_tokens_mean"),
			nla_json_value(line, "reward_mean"), 100 * nla_json_value(line, "failed_rate"), s->stats.kl, s->stats.entropy, s->stats.grad_norm,
			nla_json_value(line, "seconds"), s->skipped ? "  (skipped: gradient not finite)" : s->ar_skipped ? "  (AR skipped: its gradient not finite)" : "");
	nla_log_line(&t->folder.metrics, line, err);
	cJSON_Delete(line);
	if (!err->status && t->state.step % t->cfg->log.samples_every == 0)
		write_samples(t, s, err);
	return err->status;
}

void nla_step_release(struct nla_step *s)
{
	nla_rollout_release(&s->rollout);
	nla_score_release(&s->score);
	free(s->rows);
	free(s->v);
	free(s->keys);
	free(s->reward);
	free(s->penalty);
	free(s->advantage);
	memset(s, 0, sizeof(*s));
}
