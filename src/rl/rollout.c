/* Rollout: see rollout.h. A prompt is computed once for its G samples; all samples then advance a token together (lm/decode.h).
 */
#include "rl/step.h"

#define MOST_ROWS 65535 /* decode at once: the blocks that a CUDA grid has along its second and third side */

#define FAILURE_TEXT(id, name, meaning, likely) [id] = { name, meaning, likely },
const struct nla_failure_text nla_failures[NLA_N_FAILURES] = { NLA_FAILURES(FAILURE_TEXT) };

enum nla_status nla_rollout_read(const struct nla_rl *rl, struct nla_step *step, int64_t i, struct nla_err *err)
{
	const struct nla_tokenizer *tok = rl->av->target->tok;
	const bool stopped = step->tokens.stopped[i],
		   closed_is_enough = stopped || rl->rollout.truncated == NLA_TRUNCATED_SCORE;
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	NLA_AUTO(nla_i32s_release) struct nla_i32s own = { 0 };
	const char *start;
	size_t length;
	nla_tokenizer_decode(tok, step->tokens.ids + i * step->tokens.width, (size_t)(step->tokens.length[i] - stopped), false,
			     &text);
	if (!nla_find_explanation(text.buf, text.len, &start, &length)) {
		step->failed[i] = stopped ? NLA_ROW_NO_TAGS : NLA_ROW_TRUNCATED;
	} else if (!nla_tokenizer_encode_any(tok, start, length, &own, err)) {
		const bool read = nla_tokenizer_unknown(tok, &own, 0) < 0;
		step->explanation[i] = nla_strndup(start, length);
		step->n_explanation[i] = (int64_t)own.n;
		step->failed[i] = !closed_is_enough ? NLA_ROW_TRUNCATED : !read ? NLA_ROW_UNREADABLE
				: *step->explanation[i] ? NLA_ROW_OK : NLA_ROW_EMPTY;
	}
	step->response[i] = nla_str_detach(&text);
	return err->status;
}

/* Decodes samples [from, to) of each policy. */
static enum nla_status decode_some(const struct nla_rl *rl, struct nla_step *step, int64_t from, int64_t to,
				   struct nla_err *err)
{
	const struct nla_target *target = rl->av->target;
	NLA_AUTO(nla_pack_release) struct nla_pack pack = { 0 };
	NLA_AUTO(nla_decoded_release) struct nla_decoded part = { 0 };
	struct nla_inject inject;
	const int64_t n_views = NLA_MAX(rl->n_of, 1), group = step->group / n_views, n = n_views * (to - from);
	nla_auto struct nla_view *views = nla_alloc((size_t)n_views, sizeof(*views));
	nla_auto int64_t *sample = nla_alloc((size_t)n, sizeof(*sample)), *rows = nla_alloc((size_t)n, sizeof(*rows));
	nla_auto uint32_t *keys = nla_alloc((size_t)n, sizeof(*keys));
	for (int64_t v = 0, k = 0; v < n_views; v++) {
		views[v] = rl->n_of ? rl->of[v]->sampler : rl->sampler;
		for (int64_t i = from; i < to; i++, k++) {
			sample[k] = i / group * step->group + v * group + i % group;
			keys[k] = step->keys[sample[k]];
		}
	}
	int64_t first = sample[0] / step->group, n_prompts = sample[n - 1] / step->group - first + 1;
	nla_auto int64_t *prompts = nla_alloc((size_t)n_prompts, sizeof(*prompts));
	nt_scope_push();
	if (!nla_av_pack(rl->av, step->v + first * target->lm.arch.d_model, n_prompts, &pack, prompts, &inject, err) &&
	    !nla_pack_ready(&pack, views[0].lm, err)) {
		for (int64_t k = 0; k < n; k++)
			rows[k] = prompts[sample[k] / step->group - first];
		struct nla_decode d = { .view = views, .n_views = n_views, .prompts = &pack, .inject = &inject,
					.prompt_row = rows, .key = keys, .n = n, .max_new_tokens = rl->rollout.max_new_tokens,
					.min_new_tokens = rl->rollout.min_new_tokens, .temperature = rl->rollout.temperature,
					.rng = rl->rng, .step = (uint32_t)rl->step,
					.stop = &target->chat.stop };
		nla_decode(&d, &part, err);
	}
	for (int64_t k = 0; k < n && !err->status; k++)
		nla_decoded_put(&step->tokens, sample[k], &part, k, 1);
	nt_scope_pop();
	return err->status;
}

/* All samples, as many at once as the key/value cache may hold. */
static enum nla_status decode_all(const struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	const int64_t n_views = NLA_MAX(rl->n_of, 1), each = step->n / n_views;
	const int64_t at_once = rl->rollout.rows > 0 ? NLA_MIN(NLA_MAX(rl->rollout.rows / n_views, 1), each) : each;
	nla_decoded_release(&step->tokens);
	nla_decoded_init(&step->tokens, step->n, rl->rollout.max_new_tokens);
	for (int64_t from = 0; from < each && !err->status; from += at_once)
		decode_some(rl, step, from, NLA_MIN(from + at_once, each), err);
	return err->status;
}

enum nla_status nla_rollout(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	nla_step_begin(NLA_STAGE_ROLLOUT);
	nt_grad_push(false);
	for (int64_t i = 0; i < NLA_MAX(rl->n_of, 1) && !err->status; i++) {
		const struct nla_rl *of = rl->n_of ? rl->of[i] : rl;
		if (of->merged)
			nla_merge(of->merged, &of->policy, err);
	}
	if (step->n > MOST_ROWS && (!rl->rollout.rows || rl->rollout.rows > MOST_ROWS))
		rl->rollout.rows = MOST_ROWS;
	if (!err->status)
		while (decode_all(rl, step, err) && nla_halve(&rl->halved, NLA_STAGE_ROLLOUT, &rl->rollout.rows, step->n, err))
			;
	nt_grad_pop();
	for (int64_t i = 0; i < step->n && !err->status; i++)
		if (!nla_logprob_check(step->tokens.logprob + i * step->tokens.width, step->tokens.length[i], err))
			nla_rollout_read(rl, step, i, err);
	nla_step_lap(step, NLA_STAGE_ROLLOUT);
	return err->status;
}
