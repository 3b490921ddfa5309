#include "run/teach.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/progress.h"
#include "base/utf8.h"
#include "nla/av.h"
#include "run/teach_impl.h"

#define MOST_OF_A_WORD 24 /* bytes: scripts without spaces keep what they have */

const char *const nla_unfit_names[NLA_N_UNFIT] = { NULL, "empty", "tags", "truncated" };

/* ---- prompts ---- */

/* The last `context` tokens of a text, from the start of a word on when the cut is inside the text. Special tokens of the teacher's, which
 * would end the user's turn, have no place in it. */
static enum nla_status text_tail(const struct nla_teach *t, const char *text, struct nla_str *out, struct nla_err *err)
{
	struct nla_str tail = NLA_STR_INIT;
	struct nla_i32s ids = { 0 };
	size_t keep = (size_t)t->cfg->teach.context, start = 0;
	if (!nla_tokenizer_encode(t->teacher.tok, text, strlen(text), &ids, err)) {
		size_t n = NLA_MIN(keep, ids.n);
		if (!nla_tokenizer_decode(t->teacher.tok, ids.data + (ids.n - n), n, true, &tail, err) && n < ids.n) {
			size_t word = strcspn(tail.buf, " \n\t");
			start = word < MOST_OF_A_WORD && word + 1 < tail.len ? word + 1 : 0;
		}
		nla_str_add(out, tail.buf + start);
	}
	nla_i32s_release(&ids);
	nla_str_release(&tail);
	return err->status;
}

static void add_next(const struct nla_strs *next, struct nla_str *out)
{
	for (size_t i = 0; i < next->n; i++)
		nla_str_addf(out, "%s\"%s\"", i ? ", " : "", next->data[i]);
}

static enum nla_status fill_prompt(const struct nla_teach *t, int64_t row, struct nla_str *out, struct nla_err *err)
{
	const char *at = t->cfg->teach.prompt;
	while (*at && !err->status) {
		if (nla_starts_with(at, NLA_SLOT_TEXT)) {
			text_tail(t, t->set.rows[row].text, out, err);
			at += strlen(NLA_SLOT_TEXT);
		} else if (nla_starts_with(at, NLA_SLOT_NEXT)) {
			add_next(&t->set.rows[row].next, out);
			at += strlen(NLA_SLOT_NEXT);
		} else {
			nla_str_addc(out, *at++);
		}
	}
	return err->status;
}

static enum nla_status make_prompt(const struct nla_teach *t, int64_t row, struct nla_i32s *ids, struct nla_err *err)
{
	struct nla_str content = NLA_STR_INIT;
	int64_t room = nt_size(t->teacher.lm.cos, 0), n;
	if (!fill_prompt(t, row, &content, err) && !nla_chat_prompt(&t->teacher.chat, t->teacher.tok, content.buf, ids, err)) {
		n = (int64_t)ids->n + t->cfg->teach.max_new_tokens;
		if (n > room)
			nla_fail(err, "a prompt of %zu tokens and an answer of %lld are more than the teacher's %lld positions: lower 'teach.context'",
				 ids->n, (long long)t->cfg->teach.max_new_tokens, (long long)room);
	}
	if (err->status)
		nla_err_context(err, "row %lld", (long long)row);
	nla_str_release(&content);
	return err->status;
}

/* What all prompts begin with, at least one token short of every prompt. */
static int64_t shared_head(const struct nla_i32s *prompts, int64_t n)
{
	size_t shared = prompts[0].n - 1;
	for (int64_t i = 1; i < n; i++) {
		size_t k = 0;
		while (k < NLA_MIN(shared, prompts[i].n - 1) && prompts[i].data[k] == prompts[0].data[k])
			k++;
		shared = k;
	}
	return (int64_t)shared;
}

/* ---- answers ---- */

static const char open_tag[] = "<explanation>", close_tag[] = "</explanation>";

enum nla_unfit nla_teach_clean(const char *answer, bool stopped, char **out)
{
	const char *start = answer;
	size_t length = strlen(answer);
	bool whole = nla_find_explanation(answer, length, &start, &length) || stopped;
	if (start == answer)
		start = nla_utf8_strip(answer, strlen(answer), &length);
	char *text = *out = nla_strndup(start, length);
	return !length ? NLA_ANSWER_EMPTY : strstr(text, open_tag) || strstr(text, close_tag) ? NLA_ANSWER_TAGS : whole ? NLA_ANSWER_OK : NLA_ANSWER_TRUNCATED;
}

size_t nla_teach_last_sentence(const char *text)
{
	for (size_t n = strlen(text); n; n--) {
		bool quoted = n > 1 && strchr("\"')", text[n - 1]) && strchr(".!?", text[n - 2]);
		if ((strchr(".!?", text[n - 1]) || quoted) && (!text[n] || isspace((unsigned char)text[n])))
			return n;
	}
	return 0;
}

void nla_teach_take(struct nla_teach *t, const struct nla_answer *a)
{
	t->tries[a->row]++;
	t->n_answers[a->unfit]++;
	size_t whole = a->unfit == NLA_ANSWER_TRUNCATED && !t->cut[a->row] ? nla_teach_last_sentence(a->text) : 0;
	if (a->unfit != NLA_ANSWER_OK && !whole)
		return;
	free(t->explanation[a->row]);
	t->explanation[a->row] = whole ? nla_strndup(a->text, whole) : nla_strdup(a->text);
	t->tokens[a->row] = a->tokens;
	t->served[a->row] = !whole;
	t->cut[a->row] = whole > 0;
}

/* A model's vocabulary may be padded beyond the tokenizer's; a padded id has no text, and an answer with one does not serve. */
static void read_answer(const struct nla_teach *t, const struct nla_decoded *d, int64_t i, struct nla_answer *a)
{
	struct nla_err no_text = NLA_ERR_INIT;
	struct nla_str text = NLA_STR_INIT;
	a->tokens = d->length[i];
	if (nla_tokenizer_decode(t->teacher.tok, d->ids + i * d->width, (size_t)(a->tokens - d->stopped[i]), true, &text, &no_text))
		nla_str_reset(&text);
	a->unfit = nla_teach_clean(text.buf, d->stopped[i], &a->text);
	nla_str_release(&text);
}

static void show(struct nla_teach *t, const struct nla_answer *a)
{
	const char *text = t->set.rows[a->row].text;
	size_t n = strlen(text), skip = n > 200 ? n - 200 : 0;
	while (skip && ((unsigned char)text[skip] & 0xC0) == 0x80) /* not inside a character */
		skip++;
	nla_say("row %lld: %s%s\n  -> %s%s%s", (long long)a->row, skip ? "..." : "", text + skip, a->unfit ? nla_unfit_names[a->unfit] : "",
		a->unfit ? ": " : "", a->text);
	t->shown++;
}

static enum nla_status take_answers(struct nla_teach *t, const int64_t *rows, int64_t n, const struct nla_decoded *d, struct nla_err *err)
{
	struct nla_str lines = NLA_STR_INIT;
	for (int64_t i = 0; i < n; i++) {
		struct nla_answer a = { .row = rows[i], .try = t->tries[rows[i]], .left = n - 1 - i };
		read_answer(t, d, i, &a);
		nla_teach_add_line(&lines, &a);
		nla_teach_take(t, &a);
		if (t->shown < t->cfg->teach.show)
			show(t, &a);
		t->new_tokens += a.tokens;
		free(a.text);
	}
	nla_log_add(&t->log, lines.buf, lines.len);
	nla_str_release(&lines);
	return nla_log_flush(&t->log, err);
}

/* ---- a batch ---- */

static enum nla_status decode(const struct nla_teach *t, const struct nla_i32s *prompts, const int64_t *rows, int64_t n, struct nla_decoded *out,
			      struct nla_err *err)
{
	const struct nla_chat *chat = &t->teacher.chat;
	struct nla_view view = { .lm = &t->teacher.lm };
	int64_t *at = nla_alloc((size_t)n, sizeof(*at)), shared = shared_head(prompts, n);
	uint32_t *keys = nla_alloc((size_t)n, sizeof(*keys));
	struct nla_pack pack;
	nla_pack_init(&pack);
	int64_t head = nla_pack_add(&pack, prompts[0].data, shared, -1);
	for (int64_t i = 0; i < n; i++) {
		at[i] = nla_pack_add(&pack, prompts[i].data + shared, (int64_t)prompts[i].n - shared, head);
		keys[i] = (uint32_t)rows[i];
	}
	nt_scope_push();
	if (!nla_pack_ready(&pack, &t->teacher.lm, err)) {
		struct nla_decode d = { .view = &view, .prompts = &pack, .prompt_row = at, .key = keys, .n = n,
					.max_new_tokens = t->cfg->teach.max_new_tokens, .temperature = t->cfg->teach.temperature,
					.rng = { (uint64_t)t->cfg->seed, NLA_STREAM_TEACH }, .step = (uint32_t)t->tries[rows[0]],
					.stop = chat->stop.data, .n_stop = chat->stop.n };
		nla_decode(&d, out, err);
	}
	nt_scope_pop();
	nla_pack_release(&pack);
	free(at);
	free(keys);
	return err->status;
}

enum nla_status nla_teach_batch(struct nla_teach *t, const int64_t *rows, int64_t n, struct nla_err *err)
{
	struct nla_i32s *prompts = nla_alloc((size_t)n, sizeof(*prompts));
	struct nla_decoded d = { 0 };
	for (int64_t i = 0; i < n && !err->status; i++)
		make_prompt(t, rows[i], &prompts[i], err);
	if (!err->status && !decode(t, prompts, rows, n, &d, err))
		take_answers(t, rows, n, &d, err);
	nla_decoded_release(&d);
	for (int64_t i = 0; i < n; i++)
		nla_i32s_release(&prompts[i]);
	free(prompts);
	return err->status;
}

/* ---- which rows, in which order ---- */

struct pending {
	int64_t row, length;
};

static int longest_first(const void *a, const void *b)
{
	const struct pending *x = a, *y = b;
	return x->length != y->length ? (x->length < y->length) - (x->length > y->length) : (x->row > y->row) - (x->row < y->row);
}

int64_t *nla_teach_pending(const struct nla_teach *t, int64_t try, int64_t *n)
{
	struct pending *list = nla_alloc((size_t)t->set.n, sizeof(*list));
	int64_t *rows = nla_alloc((size_t)t->set.n, sizeof(*rows));
	*n = 0;
	for (int64_t i = 0; i < t->set.n; i++)
		if (t->asked[i] && !t->served[i] && t->tries[i] == try)
			list[(*n)++] = (struct pending){ i, NLA_MIN(t->set.rows[i].n_raw_tokens, t->cfg->teach.context) };
	qsort(list, (size_t)*n, sizeof(*list), longest_first);
	for (int64_t i = 0; i < *n; i++)
		rows[i] = list[i].row;
	free(list);
	return rows;
}

/* ---- the end ---- */

enum nla_status nla_teach_finish(struct nla_teach *t, struct nla_err *err)
{
	const struct nla_config *cfg = t->cfg;
	struct nla_compose compose = { cfg->teach.explanation, cfg->teach.max_end, cfg->teach.max_next, (uint64_t)cfg->seed };
	char **whole = nla_alloc((size_t)t->set.n, sizeof(*whole));
	int64_t n_tags = 0;
	for (int64_t i = 0; i < t->set.n; i++) {
		whole[i] = t->explanation[i] ? nla_compose(&compose, &t->set.rows[i], i, t->explanation[i]) : NULL;
		if (whole[i] && (strstr(whole[i], open_tag) || strstr(whole[i], close_tag))) { /* of {end} or {next}: it would end there */
			free(whole[i]);
			whole[i] = NULL;
			n_tags++;
		}
	}
	if (n_tags)
		nla_say("%lld rows stay without explanation: their own texts hold explanation tags", (long long)n_tags);
	if (!nla_sync(t->log.path, err))
		nla_actset_explain(&t->set, cfg->out, whole, err);
	for (int64_t i = 0; i < t->set.n; i++)
		free(whole[i]);
	free(whole);
	return err->status;
}

void nla_teach_result(const struct nla_teach *t)
{
	double seconds = nla_seconds() - t->started, tokens = 0;
	int64_t taught = 0, served = 0, cut = 0;
	for (int64_t i = 0; i < t->set.n; i++) {
		taught += t->explanation[i] != NULL;
		served += t->explanation[i] && t->asked[i]; /* a resumed run of fewer rows knows of more */
		cut += t->cut[i];
		tokens += t->explanation[i] ? (double)t->tokens[i] : 0;
	}
	cJSON *json = cJSON_CreateObject(), *answers;
	cJSON_AddNumberToObject(json, "rows", (double)t->set.n);
	cJSON_AddNumberToObject(json, "taught", (double)taught);
	cJSON_AddNumberToObject(json, "cut", (double)cut);
	cJSON_AddNumberToObject(json, "failed", (double)(t->n_asked - served));
	cJSON_AddNumberToObject(json, "kept", (double)t->n_kept);
	cJSON_AddNumberToObject(json, "no_text", (double)t->n_no_text);
	answers = cJSON_AddObjectToObject(json, "answers");
	for (int i = 0; i < NLA_N_UNFIT; i++)
		cJSON_AddNumberToObject(answers, nla_unfit_names[i] ? nla_unfit_names[i] : "fit", (double)t->n_answers[i]);
	cJSON_AddNumberToObject(json, "mean_tokens", taught ? tokens / (double)taught : 0);
	cJSON_AddNumberToObject(json, "seconds", seconds);
	cJSON_AddNumberToObject(json, "tokens_per_s", (double)t->new_tokens / seconds);
	struct nla_str text = NLA_STR_INIT;
	nla_json_add(&text, json, true, 0);
	puts(text.buf);
	nla_str_release(&text);
	cJSON_Delete(json);
}
