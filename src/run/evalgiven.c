/* nla-eval --score: the step of an evaluation from texts that were given; see evaluate.h. */

#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "lm/ranks.h"
#include "run/evaluate.h"

static enum nla_status take_explanation(const struct nla_target *target, struct nla_step *s, int64_t i, const char *text,
					const char *name, struct nla_err *err)
{
	NLA_AUTO(nla_i32s_release) struct nla_i32s ids = { 0 };
	size_t n;
	text = nla_utf8_strip(text, strlen(text), &n);
	s->explanation[i] = nla_strndup(text, n);
	if (nla_tokenizer_encode_any(target->tok, text, n, &ids, err))
		return nla_err_context(err, "'%s'", name);
	s->failed[i] = nla_tokenizer_unknown(target->tok, &ids, 0) < 0 ? NLA_ROW_OK : NLA_ROW_UNREADABLE;
	s->n_explanation[i] = (int64_t)ids.n;
	return NLA_OK;
}

/* One line: its row number, and its explanation, or the ids of its response, appended. */
static enum nla_status take_line(const struct nla_rl *rl, const cJSON *json, const char *name, struct nla_step *s, int64_t i,
				 struct nla_i32s *ids, struct nla_err *err)
{
	const struct nla_target *target = rl->av->target;
	const char *explanation, *response;
	if (nla_json_need_int(json, name, "row", &s->rows[i], err) ||
	    nla_json_str(json, name, "explanation", NULL, &explanation, err) ||
	    nla_json_str(json, name, "response", NULL, &response, err))
		return err->status;
	if (s->rows[i] < 0 || s->rows[i] >= rl->set->n)
		return nla_fail(err, "'%s': row %lld is outside '%s' of %lld rows", name, (long long)s->rows[i], rl->set->path,
				(long long)rl->set->n);
	if (s->vector_of && (nla_json_int(json, name, "vector_of", s->rows[i], &s->vector_of[i], err) ||
			     s->vector_of[i] < 0 || s->vector_of[i] >= rl->set->n))
		return nla_fail(err, "'%s': 'vector_of' is no row of '%s'", name, rl->set->path);
	if (response) {
		const cJSON *list = nla_json_at(json, "ids");
		const size_t before = ids->n;
		const double size = (double)nla_tokenizer_size(target->tok);
		if (list) /* as they were sampled, which need not be what the tokenizer would choose for their text */
			return cJSON_IsArray(list) && list->child && nla_json_ids(list, size, ids)
				       ? NLA_OK : nla_fail(err, "'%s': 'ids' has what is no token id", name);
		if (!nla_tokenizer_encode(target->tok, response, strlen(response), ids, err) &&
		    (ids->n == before || !nla_i32s_has(&target->chat.stop, ids->data[ids->n - 1])))
			nla_i32s_push(ids, target->chat.end_of_turn); /* as generation would have emitted it */
		return err->status ? nla_err_context(err, "'%s'", name) : NLA_OK;
	}
	return explanation ? take_explanation(target, s, i, explanation, name, err)
			   : nla_fail(err, "'%s': has neither 'explanation' nor 'response'", name);
}

/* The lines of a file or a pipe, read once: an array, and where each stood. */
static enum nla_status read_lines(const char *path, cJSON *list, struct nla_strs *names, struct nla_err *err)
{
	struct nla_lines in;
	const char *line;
	if (nla_lines_open(&in, path, err))
		return err->status;
	while (!err->status && (line = nla_lines_next_filled(&in))) {
		nla_auto char *name = nla_format("%s line %zu", path, in.number);
		cJSON *json = NULL;
		if (!nla_json_parse(line, strlen(line), name, &json, err))
			cJSON_AddItemToArray(list, json);
		nla_strs_push(names, name);
	}
	if (!nla_lines_close(&in, err) && !names->n)
		nla_fail(err, "'%s' holds no line to score", path);
	return err->status;
}

/* The ids of the lines as a rollout has them, [n, T], read as one. */
static enum nla_status take_responses(const struct nla_rl *rl, struct nla_step *s, const int32_t *ids, const int64_t *offset,
				      struct nla_err *err)
{
	int64_t width = 1;
	for (int64_t i = 0; i < s->n; i++)
		width = NLA_MAX(width, offset[i + 1] - offset[i]);
	width = -nla_ranks_least(-width); /* all ranks have the same */
	if (width > INT32_MAX / s->n)
		return nla_fail(err, "%lld responses, the longest of %lld tokens, are too many at once: score them in parts",
				(long long)s->n, (long long)width);
	nla_decoded_init(&s->tokens, s->n, width);
	for (int64_t i = 0; i < s->n && !err->status; i++) {
		int64_t n = s->tokens.length[i] = offset[i + 1] - offset[i];
		if (!n)
			continue;
		memcpy(s->tokens.ids + i * width, ids + offset[i], (size_t)n * sizeof(*ids));
		s->tokens.stopped[i] = nla_i32s_has(&rl->av->target->chat.stop, ids[offset[i] + n - 1]);
		nla_rollout_read(rl, s, i, err);
	}
	return err->status;
}

enum nla_status nla_evaluate_given(struct nla_rl *rl, const char *path, struct nla_step *out, struct nla_err *err)
{
	NLA_AUTO(nla_i32s_release) struct nla_i32s ids = { 0 };
	NLA_AUTO(nla_i64s_release) struct nla_i64s offset = { 0 };
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	nla_auto_json cJSON *list = cJSON_CreateArray();
	int64_t from, to, at = 0;
	memset(out, 0, sizeof(*out));
	if (read_lines(path, list, &names, err) || nla_eval_need((int64_t)names.n, err))
		return err->status;
	nla_share((int64_t)names.n, nla_rank(), &from, &to);
	nla_step_start(out, to - from, 1, rl->set->d);
	nla_i64s_push(&offset, 0);
	for (const cJSON *json = list->child; json && !rl->another; json = json->next)
		rl->another = cJSON_HasObjectItem(json, "vector_of");
	if (rl->another) /* some texts are of other rows' vectors, as those of eval.vectors another */
		out->vector_of = nla_alloc((size_t)out->n, sizeof(*out->vector_of));
	for (const cJSON *json = list->child; json && at < to && !err->status; json = json->next, at++) {
		if (at < from)
			continue;
		take_line(rl, json, names.data[at], out, at - from, &ids, err);
		nla_i64s_push(&offset, (int64_t)ids.n);
	}
	if (!err->status && !take_responses(rl, out, ids.data, offset.data, err) &&
	    !nla_eval_baselines(rl, out->rows, out->n, err) &&
	    !nla_actset_vectors(rl->set, out->rows, (size_t)out->n, out->v, err))
		nla_score(rl, out, err);
	out->seconds[NLA_STAGE_EVAL] = out->seconds[NLA_STAGE_SCORE];
	return err->status;
}
