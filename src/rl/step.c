/* The step's memory and its clock; see step.h. */
#include "rl/step.h"
#include "base/progress.h"
#include "lm/ranks.h"

const char *const nla_stage_names[NLA_N_STAGES] = { "rollout", "score", "update", "eval", "checkpoint" };
const char *volatile nla_stage_now;

void nla_step_start(struct nla_step *s, int64_t n_prompts, int64_t group, int64_t d)
{
	const size_t n = (size_t)(n_prompts * group);
	*s = (struct nla_step){ .n_prompts = n_prompts, .group = group, .n = (int64_t)n, .lap = nla_seconds() };
	s->n_all = s->n;
	s->rows = nla_alloc((size_t)n_prompts, sizeof(*s->rows));
	s->v = nla_alloc((size_t)(n_prompts * d), sizeof(*s->v));
	s->keys = nla_alloc(n, sizeof(*s->keys));
	s->response = nla_alloc(n, sizeof(*s->response));
	s->explanation = nla_alloc(n, sizeof(*s->explanation));
	s->n_explanation = nla_alloc(n, sizeof(*s->n_explanation));
	s->failed = nla_alloc(n, sizeof(*s->failed));
	s->mse = nla_alloc(n, sizeof(*s->mse));
	s->penalty = nla_alloc(n, sizeof(*s->penalty));
	s->reward = nla_alloc(n, sizeof(*s->reward));
	s->advantage = nla_alloc(n, sizeof(*s->advantage));
	for (size_t i = 0; i < n; i++)
		s->keys[i] = (uint32_t)i;
}

void nla_step_release(struct nla_step *s)
{
	void *arrays[] = { s->rows, s->v, s->keys, s->response, s->explanation, s->n_explanation, s->failed, s->mse, s->penalty,
			   s->reward, s->advantage, s->logprob, s->ref_logprob, s->kl, s->mse_start, s->vector_of, s->v_hat };
	for (int64_t i = 0; i < s->n; i++) {
		free(s->response[i]);
		free(s->explanation[i]);
	}
	for (size_t i = 0; i < NLA_LEN(arrays); i++)
		free(arrays[i]);
	nla_decoded_release(&s->tokens);
	memset(s, 0, sizeof(*s));
}

void nla_step_take(struct nla_step *to, int64_t at, struct nla_step *part, int64_t from, int64_t n, int64_t d)
{
	const int64_t width = part->tokens.width;
	if (part->v_hat && !to->v_hat)
		to->v_hat = nla_alloc((size_t)(to->n * d), sizeof(*to->v_hat));
	if (part->v_hat)
		memcpy(to->v_hat + at * d, part->v_hat + from * d, (size_t)(n * d) * sizeof(*to->v_hat));
	if (part->ref_logprob && !to->ref_logprob)
		to->ref_logprob = nla_alloc((size_t)(to->n * width), sizeof(*to->ref_logprob));
	if (part->ref_logprob)
		memcpy(to->ref_logprob + at * width, part->ref_logprob + from * width, (size_t)(n * width) * sizeof(float));
	nla_decoded_put(&to->tokens, at, &part->tokens, from, n);
	for (int64_t i = 0; i < n; i++) {
		to->response[at + i] = part->response[from + i];
		to->explanation[at + i] = part->explanation[from + i];
		part->response[from + i] = part->explanation[from + i] = NULL; /* they have moved */
		to->n_explanation[at + i] = part->n_explanation[from + i];
		to->failed[at + i] = part->failed[from + i];
		to->mse[at + i] = part->mse[from + i];
	}
}

void nla_step_share(struct nla_step *to, struct nla_step *all, int64_t which, int64_t n, int64_t d)
{
	const int64_t group = all->group / n;
	nla_step_start(to, all->n_prompts, group, d);
	nla_decoded_init(&to->tokens, to->n, all->tokens.width);
	memcpy(to->rows, all->rows, (size_t)all->n_prompts * sizeof(*to->rows));
	memcpy(to->v, all->v, (size_t)(all->n_prompts * d) * sizeof(*to->v));
	for (int64_t p = 0; p < all->n_prompts; p++)
		nla_step_take(to, p * group, all, p * all->group + which * group, group, d);
	nla_step_lap(to, NLA_STAGE_SCORE); /* an update comes next */
	for (int stage = 0; stage < NLA_N_STAGES; stage++)
		to->seconds[stage] = all->seconds[stage] / (double)n;
}

/* ---- over ranks ---- */

/* What all ranks have of such texts: n of this one, n_all in the end. */
static char **whole_texts(char **texts, int64_t n, int64_t n_all)
{
	NLA_AUTO(nla_str_release) struct nla_str sent = NLA_STR_INIT;
	for (int64_t i = 0; i < n; i++) {
		nla_str_addc(&sent, texts[i] ? '+' : '-');
		if (texts[i])
			nla_str_addn(&sent, texts[i], strlen(texts[i]) + 1);
		free(texts[i]);
	}
	nla_ranks_gather(&sent, NULL);
	texts = nla_realloc(texts, (size_t)n_all, sizeof(*texts));
	const char *from = sent.buf;
	for (int64_t i = 0; i < n_all; i++) {
		texts[i] = *from++ == '+' ? nla_strdup(from) : NULL;
		from += texts[i] ? strlen(from) + 1 : 0;
	}
	return texts;
}

void nla_step_join(struct nla_step *s)
{
	const size_t b = (size_t)s->n_prompts, n = (size_t)s->n, row = n * (size_t)s->tokens.width * sizeof(float);
	double prompts = (double)s->n_prompts;
	if (nla_n_ranks() == 1)
		return;
	nla_ranks_sum(&prompts, 1);
	s->rows = nla_ranks_whole(s->rows, b * sizeof(*s->rows));
	s->vector_of = nla_ranks_whole(s->vector_of, b * sizeof(*s->vector_of));
	s->n_explanation = nla_ranks_whole(s->n_explanation, n * sizeof(*s->n_explanation));
	s->failed = nla_ranks_whole(s->failed, n * sizeof(*s->failed));
	s->mse = nla_ranks_whole(s->mse, n * sizeof(*s->mse));
	s->mse_start = nla_ranks_whole(s->mse_start, n * sizeof(*s->mse_start));
	s->kl = nla_ranks_whole(s->kl, 2 * n * sizeof(*s->kl));
	s->penalty = nla_ranks_whole(s->penalty, n * sizeof(*s->penalty));
	s->reward = nla_ranks_whole(s->reward, n * sizeof(*s->reward));
	s->advantage = nla_ranks_whole(s->advantage, n * sizeof(*s->advantage));
	s->logprob = nla_ranks_whole(s->logprob, row);
	s->ref_logprob = nla_ranks_whole(s->ref_logprob, row);
	s->tokens.ids = nla_ranks_whole(s->tokens.ids, row);
	s->tokens.length = nla_ranks_whole(s->tokens.length, n * sizeof(*s->tokens.length));
	s->tokens.stopped = nla_ranks_whole(s->tokens.stopped, n * sizeof(*s->tokens.stopped));
	s->n_prompts = (int64_t)prompts;
	s->n = s->n_all = s->tokens.n = s->n_prompts * s->group;
	s->response = whole_texts(s->response, (int64_t)n, s->n);
	s->explanation = whole_texts(s->explanation, (int64_t)n, s->n);
}

static int by_row(const void *a, const void *b, void *rows)
{
	const int order = nla_by_number((int64_t *)rows + *(const int64_t *)a, (int64_t *)rows + *(const int64_t *)b);
	return order ? order : nla_by_number(a, b);
}

int64_t *nla_step_by_row(const struct nla_step *s)
{
	int64_t *at = nla_alloc((size_t)s->n, sizeof(*at));
	for (int64_t i = 0; i < s->n; i++)
		at[i] = i;
	qsort_r(at, (size_t)s->n, sizeof(*at), by_row, s->rows);
	return at;
}

void nla_step_begin(enum nla_stage stage) { nt_profile_stage(nla_stage_now = nla_stage_names[stage]); }

void nla_step_lap(struct nla_step *s, enum nla_stage stage)
{
	const double now = nla_seconds();
	s->seconds[stage] += now - s->lap;
	s->lap = now;
	nt_profile_stage(nla_stage_now = NULL);
}

bool nla_halve(unsigned *halved, enum nla_stage stage, int64_t *batch, int64_t n, struct nla_err *err)
{
	static const char *const what[] = { "rows decoded at once", "score, tokens at once", "update, rows a backward pass",
					    "evaluation, rows at once" };
	const int64_t now = *batch > 0 ? NLA_MIN(*batch, n) : n;
	if (err->status != NLA_NOMEM || *halved & 1u << stage || now < 2)
		return false;
	*halved |= 1u << stage;
	*batch = (now + 1) / 2;
	*err = (struct nla_err)NLA_ERR_INIT;
	nt_clear(); /* of what came after the failure */
	nla_say("out of memory, once more with half: %s, from %lld to %lld", what[stage], (long long)now,
		(long long)*batch);
	return true;
}

struct nla_responses nla_step_responses(const struct nla_step *s, int64_t from, int64_t to, int64_t d, int64_t *prompt_of)
{
	const int64_t first = from / s->group;
	for (int64_t i = from; i < to; i++)
		prompt_of[i - from] = i / s->group - first;
	return (struct nla_responses){ .v = s->v + first * d, .n_prompts = (to - 1) / s->group - first + 1,
				       .ids = s->tokens.ids + from * s->tokens.width, .n = to - from, .width = s->tokens.width,
				       .length = s->tokens.length + from, .prompt_of = prompt_of };
}
