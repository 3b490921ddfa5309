/* Rollout: see rollout.h. A prompt is computed once for its G samples; all samples then advance a token together (lm/decode.h).
 */
#include "rl/step.h"

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
	} else if (!nla_tokenizer_encode(tok, start, length, &own, err)) {
		step->explanation[i] = nla_strndup(start, length);
		step->n_explanation[i] = (int64_t)own.n;
		step->failed[i] = !closed_is_enough ? NLA_ROW_TRUNCATED : length ? NLA_ROW_OK : NLA_ROW_EMPTY;
	}
	step->response[i] = nla_str_detach(&text);
	return err->status;
}

/* Decodes samples [from, to) into `part`. */
static enum nla_status decode_some(const struct nla_rl *rl, const struct nla_step *step, int64_t from, int64_t to,
				   struct nla_decoded *part, struct nla_err *err)
{
	const struct nla_target *target = rl->av->target;
	NLA_AUTO(nla_pack_release) struct nla_pack pack = { 0 };
	struct nla_inject inject;
	int64_t first = step->prompt_of[from], n_prompts = step->prompt_of[to - 1] - first + 1;
	nla_auto int64_t *prompts = nla_alloc((size_t)n_prompts, sizeof(*prompts));
	nla_auto int64_t *rows = nla_alloc((size_t)(to - from), sizeof(*rows));
	nt_scope_push();
	if (!nla_av_pack(rl->av, step->v + first * target->lm.arch.d_model, n_prompts, &pack, prompts, &inject, err) &&
	    !nla_pack_ready(&pack, rl->sampler.lm, err)) {
		for (int64_t i = from; i < to; i++)
			rows[i - from] = prompts[step->prompt_of[i] - first];
		struct nla_decode d = { .view = &rl->sampler, .prompts = &pack, .inject = &inject, .prompt_row = rows,
					.key = step->keys + from, .n = to - from, .max_new_tokens = rl->rollout.max_new_tokens,
					.min_new_tokens = rl->rollout.min_new_tokens, .temperature = rl->rollout.temperature,
					.rng = rl->rng, .step = (uint32_t)rl->step,
					.stop = target->chat.stop.data, .n_stop = target->chat.stop.n };
		nla_decode(&d, part, err);
	}
	nt_scope_pop();
	return err->status;
}

/* All samples, as many at once as the key/value cache may hold. */
static enum nla_status decode_all(const struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	const int64_t at_once = rl->rollout.rows > 0 ? NLA_MIN(rl->rollout.rows, step->n) : step->n;
	nla_decoded_release(&step->tokens);
	nla_decoded_init(&step->tokens, step->n, rl->rollout.max_new_tokens);
	for (int64_t from = 0, to; from < step->n && !err->status; from = to) {
		NLA_AUTO(nla_decoded_release) struct nla_decoded part = { 0 };
		to = NLA_MIN(from + at_once, step->n);
		if (!decode_some(rl, step, from, to, &part, err))
			nla_decoded_put(&step->tokens, from, &part);
	}
	return err->status;
}

enum nla_status nla_rollout(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	nt_grad_push(false);
	if (!rl->merged || !nla_merge(rl->merged, &rl->policy, err))
		while (decode_all(rl, step, err) && nla_halve(rl, NLA_STAGE_ROLLOUT, &rl->rollout.rows, step->n, err))
			;
	nt_grad_pop();
	for (int64_t i = 0; i < step->n && !err->status; i++)
		if (!nla_logprob_check(step->tokens.logprob + i * step->tokens.width, step->tokens.length[i], err))
			nla_rollout_read(rl, step, i, err);
	nla_step_lap(step, NLA_STAGE_ROLLOUT);
	return err->status;
}
