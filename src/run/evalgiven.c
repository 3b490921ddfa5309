/* nla-eval --score: rows of texts that somebody else wrote. */
#include "run/evalgiven.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"

/* Ids of a whole response as generation would have emitted them: the end-of-turn token follows unless the text ends in a stop token. */
static enum nla_status response_ids(const struct nla_half *av, const char *text, struct nla_i32s *ids, struct nla_err *err)
{
	if (nla_tokenizer_encode(av->target->tok, text, strlen(text), ids, err))
		return err->status;
	if (!ids->n || !nla_chat_is_stop(&av->target->chat, ids->data[ids->n - 1]))
		nla_i32s_push(ids, av->target->chat.end_of_turn);
	return NLA_OK;
}

static enum nla_status take_explanation(const struct nla_half *av, struct nla_eval_row *row, const char *text, struct nla_err *err)
{
	struct nla_i32s ids = { 0 };
	size_t n;
	text = nla_utf8_strip(text, strlen(text), &n);
	row->explanation = nla_strndup(text, n);
	row->failed = n ? NLA_ROW_OK : NLA_ROW_EMPTY;
	if (!nla_tokenizer_encode(av->target->tok, text, n, &ids, err))
		row->n_explanation = (int64_t)ids.n;
	nla_i32s_release(&ids);
	return err->status;
}

/* The ids that a rows.jsonl keeps: sampled ones need not be those the tokenizer would choose for their text. */
static enum nla_status given_ids(const struct nla_half *av, const cJSON *list, const char *name, struct nla_i32s *ids, struct nla_err *err)
{
	const double size = (double)nla_tokenizer_size(av->target->tok);
	for (const cJSON *x = cJSON_IsArray(list) ? list->child : NULL; x; x = x->next) {
		if (!cJSON_IsNumber(x) || !(x->valuedouble >= 0 && x->valuedouble < size) || x->valuedouble != (double)(int32_t)x->valuedouble)
			return nla_fail(err, "%s: 'ids' has what is no token id", name);
		nla_i32s_push(ids, (int32_t)x->valuedouble);
	}
	return ids->n ? NLA_OK : nla_fail(err, "%s: 'ids' is not a list of token ids", name);
}

static enum nla_status take_response(const struct nla_half *av, struct nla_eval_row *row, const char *text, const cJSON *list, int truncated,
				     const char *name, struct nla_err *err)
{
	struct nla_i32s ids = { 0 };
	if (!(list ? given_ids(av, list, name, &ids, err) : response_ids(av, text, &ids, err)) &&
	    !nla_rollout_read(av, ids.data, (int64_t)ids.n, nla_chat_is_stop(&av->target->chat, ids.data[ids.n - 1]), truncated,
			      &row->response, &row->explanation, &row->n_explanation, &row->failed, err)) {
		row->has_response = true;
		row->n_response = (int64_t)ids.n;
		row->ids = nla_alloc(ids.n, sizeof(*row->ids));
		memcpy(row->ids, ids.data, ids.n * sizeof(*row->ids));
	}
	nla_i32s_release(&ids);
	return err->status;
}

static enum nla_status take_line(const struct nla_half *av, const struct nla_actset *set, int truncated, const char *name, const char *line,
				 struct nla_eval_row *row, struct nla_err *err)
{
	cJSON *json = NULL;
	const char *explanation, *response;
	if (nla_json_parse(line, strlen(line), name, &json, err) || nla_json_need_int(json, name, "row", &row->row, err) ||
	    nla_json_str(json, name, "explanation", NULL, &explanation, err) || nla_json_str(json, name, "response", NULL, &response, err))
		goto out;
	if (row->row < 0 || row->row >= set->n)
		nla_fail(err, "%s: row %lld is outside '%s' of %lld rows", name, (long long)row->row, set->path, (long long)set->n);
	else if (response)
		take_response(av, row, response, nla_json_at(json, "ids"), truncated, name, err);
	else if (explanation)
		take_explanation(av, row, explanation, err);
	else
		nla_fail(err, "%s: has neither 'explanation' nor 'response'", name);
out:
	cJSON_Delete(json);
	return err->status;
}

enum nla_status nla_eval_read_given(const struct nla_half *av, const struct nla_actset *set, const char *path, int truncated,
				    struct nla_eval_result *r, struct nla_err *err)
{
	struct nla_lines in;
	const char *line;
	memset(r, 0, sizeof(*r));
	if (nla_lines_open(&in, path, err))
		return err->status;
	while (!err->status && (line = nla_lines_next_filled(&in))) {
		char *name = nla_format("'%s' line %zu", path, in.number);
		r->rows = nla_realloc(r->rows, (size_t)r->n + 1, sizeof(*r->rows));
		memset(&r->rows[r->n], 0, sizeof(*r->rows));
		take_line(av, set, truncated, name, line, &r->rows[r->n++], err);
		free(name);
	}
	nla_lines_close(&in, err);
	if (!err->status && r->n == 0)
		nla_fail(err, "'%s' holds no line to score", path);
	if (err->status)
		nla_eval_result_release(r);
	return err->status;
}
