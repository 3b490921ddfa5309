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

struct part {
	void *at; /* NULL: it is not there */
	size_t size; /* bytes a prompt */
};
enum { N_PARTS = 16 };

static void parts_of(const struct nla_step *s, struct part *parts)
{
	const size_t g = (size_t)s->group, row = g * (size_t)s->tokens.width * sizeof(float);
	const struct part all[N_PARTS] = {
		{ s->rows, sizeof(*s->rows) }, { s->vector_of, sizeof(*s->vector_of) }, { s->keys, g * sizeof(*s->keys) },
		{ s->n_explanation, g * sizeof(*s->n_explanation) }, { s->failed, g * sizeof(*s->failed) },
		{ s->mse, g * sizeof(*s->mse) }, { s->penalty, g * sizeof(*s->penalty) }, { s->reward, g * sizeof(*s->reward) },
		{ s->advantage, g * sizeof(*s->advantage) }, { s->tokens.length, g * sizeof(*s->tokens.length) },
		{ s->tokens.stopped, g * sizeof(*s->tokens.stopped) },
		{ s->tokens.ids, row }, { s->logprob, row }, { s->ref_logprob, row },
		{ s->mse_start, g * sizeof(*s->mse_start) }, { s->kl, 2 * g * sizeof(*s->kl) },
	};
	memcpy(parts, all, sizeof(all));
}

static void add_texts(struct nla_str *out, char *const *texts, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		nla_str_addc(out, texts[i] ? '+' : '-');
		if (texts[i])
			nla_str_addn(out, texts[i], strlen(texts[i]) + 1);
	}
}

static const char *take_texts(const char *from, char **texts, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		if (*from++ == '+') {
			texts[i] = nla_strdup(from);
			from += strlen(from) + 1;
		}
	return from;
}

/* The samples that a rank has sent become those from prompt `at` on. */
static void take(struct nla_step *s, int64_t at, const char *from, int64_t n)
{
	struct part parts[N_PARTS];
	parts_of(s, parts);
	for (int i = 0; i < N_PARTS; i++) {
		const size_t bytes = parts[i].at ? (size_t)n * parts[i].size : 0;
		if (bytes)
			memcpy((char *)parts[i].at + (size_t)at * parts[i].size, from, bytes);
		from += bytes;
	}
	from = take_texts(from, s->response + at * s->group, n * s->group);
	take_texts(from, s->explanation + at * s->group, n * s->group);
}

void nla_step_join(struct nla_step *s)
{
	NLA_AUTO(nla_str_release) struct nla_str sent = NLA_STR_INIT;
	const int64_t ranks = nla_n_ranks();
	nla_auto size_t *start = nla_alloc((size_t)ranks + 1, sizeof(*start));
	nla_auto int64_t *n = nla_alloc((size_t)ranks, sizeof(*n));
	struct part parts[N_PARTS];
	struct nla_step all;
	int64_t total = 0;
	if (ranks == 1)
		return;
	parts_of(s, parts);
	nla_str_addn(&sent, &s->n_prompts, sizeof(s->n_prompts));
	for (int i = 0; i < N_PARTS; i++)
		if (parts[i].at)
			nla_str_addn(&sent, parts[i].at, (size_t)s->n_prompts * parts[i].size);
	add_texts(&sent, s->response, s->n);
	add_texts(&sent, s->explanation, s->n);
	nla_ranks_gather(&sent, start);
	for (int64_t r = 0; r < ranks; r++) {
		memcpy(&n[r], sent.buf + start[r], sizeof(*n));
		total += n[r];
	}
	nla_step_start(&all, total, s->group, 0);
	nla_decoded_init(&all.tokens, all.n, s->tokens.width);
	const size_t cells = (size_t)(all.n * s->tokens.width);
	all.vector_of = s->vector_of ? nla_alloc((size_t)total, sizeof(*s->vector_of)) : NULL;
	all.logprob = s->logprob ? nla_alloc(cells, sizeof(*s->logprob)) : NULL;
	all.ref_logprob = s->ref_logprob ? nla_alloc(cells, sizeof(*s->ref_logprob)) : NULL;
	all.mse_start = s->mse_start ? nla_alloc((size_t)all.n, sizeof(*s->mse_start)) : NULL;
	all.kl = s->kl ? nla_alloc((size_t)all.n * 2, sizeof(*s->kl)) : NULL;
	for (int64_t r = 0, at = 0; r < ranks; at += n[r++])
		take(&all, at, sent.buf + start[r] + sizeof(*n), n[r]);
	all.update = s->update;
	memcpy(all.seconds, s->seconds, sizeof(s->seconds));
	nla_step_release(s);
	*s = all;
	nla_stage_now = NULL;
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

void nla_step_lap(struct nla_step *s, enum nla_stage stage)
{
	const double now = nla_seconds();
	s->seconds[stage] += now - s->lap;
	s->lap = now;
	nt_profile_stage(nla_stage_now = stage < NLA_STAGE_UPDATE ? nla_stage_names[stage + 1] : NULL);
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
	const int64_t first = s->prompt_of[from];
	for (int64_t i = from; i < to; i++)
		prompt_of[i - from] = s->prompt_of[i] - first;
	return (struct nla_responses){ .v = s->v + first * d, .n_prompts = s->prompt_of[to - 1] - first + 1,
				       .ids = s->tokens.ids + from * s->tokens.width, .n = to - from, .width = s->tokens.width,
				       .length = s->tokens.length + from, .prompt_of = prompt_of };
}
