#include "rl/rollout.h"

#include <stdlib.h>
#include <string.h>

const char *const nla_failure_names[NLA_N_FAILURES] = { NULL, "no_tags", "empty", "truncated", "over_long", "non_finite" };

/* A model's vocabulary may be padded beyond the tokenizer's: an id without text, drawn nonetheless, shows as U+FFFD. */
static enum nla_status decode_sampled(const struct nla_tokenizer *tok, const int32_t *ids, int64_t n, struct nla_str *text, struct nla_err *err)
{
	int64_t from = 0;
	for (int64_t i = 0; i <= n && !err->status; i++) {
		struct nla_err unknown = NLA_ERR_INIT;
		struct nla_str piece = NLA_STR_INIT;
		bool known = i < n && !nla_tokenizer_piece(tok, ids[i], &piece, &unknown);
		nla_str_release(&piece);
		if (known)
			continue;
		nla_tokenizer_decode(tok, ids + from, (size_t)(i - from), false, text, err);
		if (i < n)
			nla_str_add(text, "\xEF\xBF\xBD");
		from = i + 1;
	}
	return err->status;
}

enum nla_status nla_rollout_read(const struct nla_half *av, const int32_t *ids, int64_t n, bool stopped, int truncated, char **response,
				 char **explanation, int64_t *n_explanation, enum nla_failure *failed, struct nla_err *err)
{
	struct nla_str text = NLA_STR_INIT;
	struct nla_i32s own = { 0 };
	const char *start;
	size_t length;
	*explanation = NULL;
	*n_explanation = 0;
	*failed = !stopped && truncated == NLA_TRUNCATED_FAIL ? NLA_ROW_TRUNCATED : NLA_ROW_OK;
	if (decode_sampled(av->target->tok, ids, stopped ? n - 1 : n, &text, err))
		goto out;
	if (!nla_find_explanation(text.buf, text.len, &start, &length)) {
		if (!*failed)
			*failed = stopped ? NLA_ROW_NO_TAGS : NLA_ROW_TRUNCATED;
	} else if (nla_tokenizer_encode(av->target->tok, start, length, &own, err)) {
		goto out;
	} else {
		*explanation = nla_strndup(start, length);
		*n_explanation = (int64_t)own.n;
		if (length == 0 && !*failed)
			*failed = NLA_ROW_EMPTY;
	}
	*response = nla_str_detach(&text);
out:
	nla_str_release(&text);
	nla_i32s_release(&own);
	return err->status;
}

/* Decode rows [from, to) into `part`. */
static enum nla_status sample_some(const struct nla_half *av, const struct nla_view *view, const struct nla_rollout_cfg *cfg,
				   const struct nla_rng *rng, uint32_t step, const uint32_t *keys, const struct nla_rollout *out,
				   int64_t from, int64_t to, struct nla_decoded *part, struct nla_err *err)
{
	struct nla_pack pack;
	struct nla_inject inject;
	int64_t first = out->prompt_of[from], n_prompts = out->prompt_of[to - 1] - first + 1;
	int64_t *prompts = nla_alloc((size_t)n_prompts, sizeof(*prompts)), *rows = nla_alloc((size_t)(to - from), sizeof(*rows));
	nla_pack_init(&pack);
	nt_scope_push();
	if (!nla_av_pack(av, out->v + first * av->target->lm.arch.d_model, n_prompts, &pack, prompts, &inject, err) &&
	    !nla_pack_ready(&pack, view->lm, err)) {
		for (int64_t i = from; i < to; i++)
			rows[i - from] = prompts[out->prompt_of[i] - first];
		struct nla_decode d = { .view = view, .prompts = &pack, .inject = &inject, .prompt_row = rows, .key = keys + from,
					.n = to - from, .max_new_tokens = cfg->max_new_tokens, .min_new_tokens = cfg->min_new_tokens,
					.temperature = cfg->temperature, .rng = *rng, .step = step,
					.stop = av->target->chat.stop.data, .n_stop = av->target->chat.stop.n };
		nla_decode(&d, part, err);
	}
	nt_scope_pop();
	nla_pack_release(&pack);
	free(prompts);
	free(rows);
	return err->status;
}

/* All rows, as many at once as the cache may hold. */
static enum nla_status sample(const struct nla_half *av, const struct nla_view *view, const struct nla_rollout_cfg *cfg,
			      const struct nla_rng *rng, uint32_t step, const uint32_t *keys, struct nla_rollout *out, struct nla_err *err)
{
	int64_t at_once = cfg->rows > 0 && cfg->rows < out->n ? cfg->rows : out->n;
	if (at_once == out->n)
		return sample_some(av, view, cfg, rng, step, keys, out, 0, out->n, &out->tokens, err);
	nla_decoded_init(&out->tokens, out->n, cfg->max_new_tokens);
	for (int64_t from = 0, to; from < out->n && !err->status; from = to) {
		struct nla_decoded part = { 0 };
		to = NLA_MIN(from + at_once, out->n);
		if (!sample_some(av, view, cfg, rng, step, keys, out, from, to, &part, err))
			nla_decoded_put(&out->tokens, from, &part);
		nla_decoded_release(&part);
	}
	return err->status;
}

enum nla_status nla_rollout(const struct nla_half *av, const struct nla_view *view, const float *v, int64_t n_prompts,
			    const struct nla_rollout_cfg *cfg, const struct nla_rng *rng, uint32_t step, const uint32_t *keys,
			    struct nla_rollout *out, struct nla_err *err)
{
	size_t n = (size_t)(n_prompts * cfg->group);
	*out = (struct nla_rollout){ .n_prompts = n_prompts, .group = cfg->group, .n = (int64_t)n, .v = v };
	out->prompt_of = nla_alloc(n, sizeof(*out->prompt_of));
	out->response = nla_alloc(n, sizeof(*out->response));
	out->explanation = nla_alloc(n, sizeof(*out->explanation));
	out->n_explanation = nla_alloc(n, sizeof(*out->n_explanation));
	out->failed = nla_alloc(n, sizeof(*out->failed));
	for (size_t i = 0; i < n; i++)
		out->prompt_of[i] = (int64_t)i / cfg->group;
	if (!sample(av, view, cfg, rng, step, keys, out, err))
		for (size_t i = 0; i < n && !err->status; i++)
			nla_rollout_read(av, out->tokens.ids + (int64_t)i * out->tokens.width, out->tokens.length[i],
					 out->tokens.stopped[i], cfg->truncated, &out->response[i], &out->explanation[i],
					 &out->n_explanation[i], &out->failed[i], err);
	if (err->status)
		nla_rollout_release(out);
	return err->status;
}

void nla_rollout_release(struct nla_rollout *r)
{
	for (int64_t i = 0; r->response && i < r->n; i++) {
		free(r->response[i]);
		free(r->explanation[i]);
	}
	nla_decoded_release(&r->tokens);
	free(r->prompt_of);
	free(r->response);
	free(r->explanation);
	free(r->n_explanation);
	free(r->failed);
	memset(r, 0, sizeof(*r));
}

struct nla_responses nla_rollout_responses(const struct nla_rollout *r)
{
	return (struct nla_responses){ .v = r->v, .n_prompts = r->n_prompts, .ids = r->tokens.ids, .n = r->n, .width = r->tokens.width,
				       .length = r->tokens.length, .prompt_of = r->prompt_of };
}
