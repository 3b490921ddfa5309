/* The step's memory and its clock; see step.h. */
#include "rl/step.h"

#include <stdlib.h>
#include <string.h>

#include "base/progress.h"

const char *const nla_stage_names[NLA_N_STAGES] = { "rollout", "score", "update", "eval", "checkpoint" };
const char *volatile nla_stage_now;

void nla_step_start(struct nla_step *s, int64_t n_prompts, int64_t group, int64_t d)
{
	const size_t n = (size_t)(n_prompts * group);
	*s = (struct nla_step){ .n_prompts = n_prompts, .group = group, .n = (int64_t)n, .lap = nla_seconds() };
	s->rows = nla_alloc((size_t)n_prompts, sizeof(*s->rows));
	s->v = nla_alloc((size_t)(n_prompts * d), sizeof(*s->v));
	s->prompt_of = nla_alloc(n, sizeof(*s->prompt_of));
	s->keys = nla_alloc(n, sizeof(*s->keys));
	s->response = nla_alloc(n, sizeof(*s->response));
	s->explanation = nla_alloc(n, sizeof(*s->explanation));
	s->n_explanation = nla_alloc(n, sizeof(*s->n_explanation));
	s->failed = nla_alloc(n, sizeof(*s->failed));
	s->mse = nla_alloc(n, sizeof(*s->mse));
	s->penalty = nla_alloc(n, sizeof(*s->penalty));
	s->reward = nla_alloc(n, sizeof(*s->reward));
	s->advantage = nla_alloc(n, sizeof(*s->advantage));
	nt_profile_stage(nla_stage_now = nla_stage_names[NLA_STAGE_ROLLOUT]);
	for (size_t i = 0; i < n; i++) {
		s->prompt_of[i] = (int64_t)i / group;
		s->keys[i] = (uint32_t)i;
	}
}

void nla_step_release(struct nla_step *s)
{
	void *arrays[] = { s->rows,   s->v,   s->prompt_of, s->keys,   s->response,  s->explanation, s->n_explanation,
			   s->failed, s->mse, s->penalty,   s->reward, s->advantage, s->logprob,     s->ref_logprob,   s->kl,
			   s->mse_start, s->vector_of, s->v_hat };
	for (int64_t i = 0; i < s->n; i++) {
		free(s->response[i]);
		free(s->explanation[i]);
	}
	for (size_t i = 0; i < NLA_LEN(arrays); i++)
		free(arrays[i]);
	nla_decoded_release(&s->tokens);
	memset(s, 0, sizeof(*s));
}

void nla_step_lap(struct nla_step *s, enum nla_stage stage)
{
	const double now = nla_seconds();
	s->seconds[stage] += now - s->lap;
	s->lap = now;
	nt_profile_stage(nla_stage_now = stage < NLA_STAGE_UPDATE ? nla_stage_names[stage + 1] : NULL);
}

bool nla_halve(struct nla_rl *rl, enum nla_stage stage, int64_t *batch, int64_t n, struct nla_err *err)
{
	static const char *const what[] = { "rollout, rows at once", "score, tokens at once",
					    "update, responses a backward pass" };
	const int64_t now = *batch > 0 ? NLA_MIN(*batch, n) : n;
	if (err->status != NLA_NOMEM || rl->halved & 1u << stage || now < 2)
		return false;
	rl->halved |= 1u << stage;
	*batch = (now + 1) / 2;
	*err = (struct nla_err)NLA_ERR_INIT;
	nt_clear(); /* of what came after the failure */
	nla_say("out of memory, once more with half: %s, from %lld to %lld", what[stage], (long long)now,
		(long long)*batch);
	return true;
}

struct nla_responses nla_step_responses(const struct nla_step *s, int64_t from, int64_t to, int64_t d, int64_t *prompt_of)
{
	const int64_t first = s->prompt_of[from];
	for (int64_t i = from; i < to; i++)
		prompt_of[i - from] = s->prompt_of[i] - first;
	return (struct nla_responses){ .v = s->v + first * d, .n_prompts = s->prompt_of[to - 1] - first + 1,
				       .ids = s->tokens.ids + from * s->tokens.width, .n = to - from, .width = s->tokens.width,
				       .length = s->tokens.length + from, .prompt_of = prompt_of };
}
