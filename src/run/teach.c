/* A teacher's run: opening it (which rows, the log of an earlier start), asking a batch, and writing the set; see teach.h. */
#include "run/teach.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/utf8.h"
#include "lm/ranks.h"
#include "nla/half.h"
#include "rl/step.h"
#include "run/folder.h"

#define MOST_OF_A_WORD 24 /* bytes: scripts without spaces keep what they have */
#define BATCH_END "\"left\":0}\n" /* ends the line of a batch's last answer */

static const char *const unfit_names[NLA_N_UNFIT] = { NULL, "empty", "tags", "truncated" };

/* A line of teach.jsonl. */
struct answer {
	int64_t row, try, tokens, left;
	enum nla_unfit unfit;
	char *text;
};

/* What an answer means for its row: the first that serves, else the first truncated one with a whole sentence. */
static void take(struct nla_teach *t, const struct answer *a)
{
	struct nla_taught *row = &t->rows[a->row];
	size_t whole = a->unfit == NLA_ANSWER_TRUNCATED && !row->cut ? nla_last_sentence(a->text) : 0;
	row->tries++;
	t->n_answers[a->unfit]++;
	if (a->unfit != NLA_ANSWER_OK && !whole)
		return;
	free(row->explanation);
	row->explanation = whole ? nla_strndup(a->text, whole) : nla_strdup(a->text);
	row->tokens = a->tokens;
	row->served = !whole;
	row->cut = whole > 0;
}

/* ---- the log ---- */

static void add_line(struct nla_str *out, const struct answer *a)
{
	nla_str_addf(out, "{\"row\":%lld,\"try\":%lld,\"tokens\":%lld,\"failed\":", (long long)a->row, (long long)a->try,
		     (long long)a->tokens);
	nla_str_addf(out, a->unfit ? "\"%s\"" : "null", a->unfit ? unfit_names[a->unfit] : "");
	nla_str_add(out, ",\"text\":");
	nla_json_add_str(out, a->text, strlen(a->text));
	nla_str_addf(out, ",\"left\":%lld}\n", (long long)a->left);
}

static enum nla_status take_line(struct nla_teach *t, const cJSON *json, const char *name, struct nla_err *err)
{
	struct answer a = { 0 };
	const char *text, *failed;
	if (nla_json_need_int(json, name, "row", &a.row, err) || nla_json_need_int(json, name, "tokens", &a.tokens, err) ||
	    nla_json_need_str(json, name, "text", &text, err) || nla_json_str(json, name, "failed", NULL, &failed, err))
		return err->status;
	while (failed && ++a.unfit < NLA_N_UNFIT && strcmp(unfit_names[a.unfit], failed))
		;
	if (a.unfit == NLA_N_UNFIT)
		return nla_fail(err, "'%s': 'failed' is '%s'", name, failed);
	if (a.row < 0 || a.row >= t->set.n)
		return nla_fail(err, "'%s': 'row' is %lld: '%s' has rows 0 to %lld", name, (long long)a.row, t->set.path,
				(long long)t->set.n - 1);
	a.text = nla_strdup(text);
	take(t, &a);
	free(a.text);
	return NLA_OK;
}

/* What an older version's line lacks cannot be compared. */
static enum nla_status same_question(const cJSON *then, const cJSON *now, const char *path, struct nla_err *err)
{
	const cJSON *item, *before;
	cJSON_ArrayForEach(item, now)
		if ((before = cJSON_GetObjectItemCaseSensitive(then, item->string)) &&
		    nla_same_setting(item->string, path, before, item, err))
			break;
	return err->status;
}

/* Where the answers of whole batches end; behind them are those of a batch that a kill cut short. */
static size_t whole_batches(const struct nla_str *log)
{
	const size_t tail = strlen(BATCH_END);
	const char *first = memchr(log->buf, '\n', log->len);
	for (size_t n = log->len; n >= tail; n--)
		if (log->buf[n - 1] == '\n' && !memcmp(log->buf + n - tail, BATCH_END, tail))
			return n;
	return first ? (size_t)(first + 1 - log->buf) : 0;
}

/* Continue from the answers that are there, if they are to this question; else begin the log with it. */
static enum nla_status start_log(struct nla_teach *t, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str log = NLA_STR_INIT;
	nla_auto_json cJSON *now = nla_same_describe(t->cfg, NLA_CMD_TEACH, NLA_SAME_SETTINGS, err);
	const char *name = t->log.path ? t->log.path : "teach.jsonl";
	cJSON *line;
	size_t number = 0, whole;
	if (err->status || (!nla_rank() && nla_file_read(t->log.path, &log, err)))
		return err->status;
	nla_ranks_copy_str(&log);
	whole = whole_batches(&log);
	for (size_t at = 0, n; at < whole && !err->status; at += n + 1) {
		n = (size_t)((char *)memchr(log.buf + at, '\n', whole - at) - (log.buf + at));
		if (!nla_json_parse(log.buf + at, n, name, &line, err)) {
			if (number++ ? take_line(t, line, name, err) : same_question(line, now, name, err))
				nla_err_context(err, "line %zu", number);
			cJSON_Delete(line);
		}
	}
	if (!err->status && !nla_rank() && whole < log.len && ftruncate(t->log.fd, (off_t)whole))
		nla_fail(err, "cannot write '%s': %s", t->log.path, strerror(errno));
	if (!err->status && !whole)
		nla_log_line(&t->log, now, err);
	return err->status;
}

/* ---- opening ---- */

/* Which rows are to be explained. */
static enum nla_status choose_rows(struct nla_teach *t, struct nla_err *err)
{
	const struct nla_config *cfg = t->cfg;
	const bool asks = strstr(cfg->teach.prompt, NLA_SLOT_NEXT), says = strstr(cfg->teach.explanation, NLA_SLOT_NEXT);
	t->rows = nla_alloc((size_t)t->set.n, sizeof(*t->rows));
	for (int64_t i = 0; i < t->set.n; i++) {
		const struct nla_row *row = &t->set.rows[i];
		bool kept = row->explanation && !cfg->teach.again;
		t->n_kept += kept;
		t->n_no_text += !kept && !*row->text;
		t->rows[i].asked = !kept && *row->text && (!cfg->teach.rows || t->n_asked < cfg->teach.rows);
		t->n_asked += t->rows[i].asked;
		if (t->rows[i].asked && (asks || says) && !row->next.n)
			return nla_fail(err, "'%s' has '{next}', but row %lld of '%s' has no next tokens: nla-extract keeps "
					"them with extract.next", asks ? "teach.prompt" : "teach.explanation", (long long)i,
					cfg->data);
	}
	if (!t->n_asked && t->n_no_text)
		return nla_fail(err, "cannot teach '%s': its rows have no texts", cfg->data);
	return NLA_OK;
}

/* OUT holds nothing of ours, or what --resume continues, or what --overwrite replaces. */
static enum nla_status open_out(struct nla_teach *t, struct nla_err *err)
{
	const struct nla_config *cfg = t->cfg;
	const char *out = cfg->out;
	nla_auto char *log = nla_path_join(out, "teach.jsonl"), *meta = nla_path_join(out, "nla_meta.yaml");
	if (nla_rank()) /* the first one writes */
		start_log(t, err);
	else if (nla_same_folder(out, cfg->data))
		nla_usage(err, "'out' and 'data' are both '%s': give another --out, the set is left as it is", out);
	else if (nla_exists(meta) && !nla_exists(log) && !cfg->overwrite)
		nla_usage(err, "'%s' holds an activation set that nla-teach did not write: another --out, or --overwrite", out);
	else if (!nla_may_write(cfg, nla_exists(log), "a teach.jsonl already", err) && !nla_mkdirs(out, err) &&
		 !nla_log_open(&t->log, out, "teach.jsonl", err) && !nla_lock(t->log.fd, out, err)) {
		if (cfg->overwrite && (ftruncate(t->log.fd, 0) || nla_actset_remove(out, err)) && !err->status)
			nla_fail(err, "cannot write '%s': %s", log, strerror(errno));
		if (!err->status)
			start_log(t, err);
	}
	return err->status;
}

enum nla_status nla_teach_open(struct nla_teach *t, const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_config asked = *cfg; /* the teacher in the target's place */
	if (*cfg->teach.model) { /* else it is the target itself: chat.format and chat.file are about that model */
		asked.model = cfg->teach.model;
		asked.chat = (struct nla_chat_cfg){ .format = NLA_CHAT_AUTO };
	}
	asked.chat.system = cfg->teach.system;
	*t = (struct nla_teach){ .cfg = cfg, .log.fd = -1, .started = nla_seconds() };
	if (nla_config_need(asked.model, "model", err) || nla_config_need(cfg->data, "data", err) ||
	    nla_config_need(cfg->out, "out", err) ||
	    nla_slots_check("teach.prompt", cfg->teach.prompt, nla_prompt_slots, err) ||
	    nla_slots_check("teach.explanation", cfg->teach.explanation, nla_explanation_slots, err) ||
	    nla_actset_open(&t->set, cfg->data, 0, err) || choose_rows(t, err) ||
	    nla_config_target(&asked, NULL, -1, NULL, &t->teacher, err))
		return err->status;
	if (t->teacher.chat.thinks)
		nla_say("the teacher answers without thinking first: its prompts end with an empty think block");
	nla_chat_no_thinking(&t->teacher.chat);
	return open_out(t, err);
}

void nla_teach_close(struct nla_teach *t)
{
	for (int64_t i = 0; t->rows && i < t->set.n; i++)
		free(t->rows[i].explanation);
	free(t->rows);
	nla_log_close(&t->log, NLA_IGNORED);
	nla_target_close(&t->teacher);
	nla_actset_close(&t->set);
	memset(t, 0, sizeof(*t));
}

/* ---- a batch ---- */

/* The last `context` tokens of a text, from the start of a word on when the cut is inside the text. Special tokens of the
 * teacher's, which would end the user's turn, have no place in it. */
static char *text_tail(const struct nla_teach *t, const char *text, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str tail = NLA_STR_INIT;
	NLA_AUTO(nla_i32s_release) struct nla_i32s ids = { 0 };
	size_t start = 0, word;
	if (!nla_tokenizer_encode(t->teacher.tok, text, strlen(text), &ids, err)) {
		size_t n = NLA_MIN((size_t)t->cfg->teach.context, ids.n);
		nla_tokenizer_decode(t->teacher.tok, ids.data + (ids.n - n), n, true, &tail);
		word = n < ids.n ? strcspn(tail.buf, " \n\t") : MOST_OF_A_WORD;
		start = word < MOST_OF_A_WORD && word + 1 < tail.len ? word + 1 : 0;
	}
	return nla_strdup(tail.buf + start);
}

static enum nla_status make_prompt(const struct nla_teach *t, int64_t row, struct nla_i32s *ids, struct nla_err *err)
{
	nla_auto char *text = text_tail(t, t->set.rows[row].text, err);
	nla_auto char *content = nla_compose_prompt(t->cfg->teach.prompt, &t->set.rows[row], text);
	int64_t room = nt_size(t->teacher.lm.cos[0], 0), most = t->cfg->teach.max_new_tokens;
	if (!err->status && !nla_chat_prompt(&t->teacher.chat, t->teacher.tok, content, ids, err) &&
	    (int64_t)ids->n + most > room)
		nla_fail(err, "a prompt of %zu tokens and an answer of %lld are more than the teacher's %lld positions: lower "
			 "'teach.context'", ids->n, (long long)most, (long long)room);
	if (err->status)
		nla_err_context(err, "row %lld", (long long)row);
	return err->status;
}

/* Answers to n prompts, in the rows of `out` from `to` on. */
static enum nla_status decode(const struct nla_teach *t, const struct nla_i32s *prompts, const int64_t *rows, int64_t n,
			      struct nla_decoded *out, int64_t to, struct nla_err *err)
{
	NLA_AUTO(nla_decoded_release) struct nla_decoded part = { 0 };
	const struct nla_chat *chat = &t->teacher.chat;
	struct nla_view view = { .lm = &t->teacher.lm };
	nla_auto int64_t *at = nla_alloc((size_t)n, sizeof(*at));
	nla_auto uint32_t *keys = nla_alloc((size_t)n, sizeof(*keys));
	NLA_AUTO(nla_pack_release) struct nla_pack pack = { 0 };
	nla_prompts_pack(&pack, prompts, n, at);
	for (int64_t i = 0; i < n; i++)
		keys[i] = (uint32_t)rows[i];
	nt_scope_push();
	if (!nla_pack_ready(&pack, &t->teacher.lm, err)) {
		struct nla_decode d = { .view = &view, .prompts = &pack, .prompt_row = at, .key = keys, .n = n,
					.max_new_tokens = t->cfg->teach.max_new_tokens,
					.temperature = t->cfg->teach.temperature,
					.rng = { (uint64_t)t->cfg->seed, NLA_STREAM_TEACH },
					.step = (uint32_t)t->rows[rows[0]].tries,
					.stop = &chat->stop };
		if (!nla_decode(&d, &part, err))
			nla_decoded_put(out, to, &part, 0, n);
	}
	nt_scope_pop();
	return err->status;
}

static void show(const struct nla_teach *t, const struct answer *a)
{
	nla_auto char *end = nla_utf8_end(t->set.rows[a->row].text, 200);
	nla_say("row %lld: %s\n  -> %s%s%s", (long long)a->row, end, a->unfit ? unfit_names[a->unfit] : "",
		a->unfit ? ": " : "", a->text);
}

/* Of ranks each has asked about its share of a batch: their answers, one after the other. */
static void join(struct nla_decoded *d)
{
	const size_t n = (size_t)d->n;
	d->ids = nla_ranks_whole(d->ids, n * (size_t)d->width * sizeof(*d->ids));
	d->length = nla_ranks_whole(d->length, n * sizeof(*d->length));
	d->stopped = nla_ranks_whole(d->stopped, n * sizeof(*d->stopped));
}

static enum nla_status take_answers(struct nla_teach *t, const int64_t *rows, int64_t n, const struct nla_decoded *d,
				    struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str lines = NLA_STR_INIT, text = NLA_STR_INIT;
	for (int64_t i = 0; i < n; i++) {
		struct answer a = { .row = rows[i], .try = t->rows[rows[i]].tries, .tokens = d->length[i], .left = n - 1 - i };
		nla_str_reset(&text);
		nla_tokenizer_decode(t->teacher.tok, d->ids + i * d->width, (size_t)(a.tokens - d->stopped[i]), true, &text);
		a.unfit = nla_answer_clean(text.buf, d->stopped[i], &a.text);
		add_line(&lines, &a);
		take(t, &a);
		if (t->shown++ < t->cfg->teach.show)
			show(t, &a);
		t->new_tokens += a.tokens;
		free(a.text);
	}
	if (nla_rank())
		return NLA_OK;
	nla_log_add(&t->log, lines.buf, lines.len);
	return nla_log_sync(&t->log, err);
}

enum nla_status nla_teach_batch(struct nla_teach *t, const int64_t *rows, int64_t n, struct nla_err *err)
{
	nla_auto struct nla_i32s *prompts = nla_alloc((size_t)n, sizeof(*prompts));
	NLA_AUTO(nla_decoded_release) struct nla_decoded d = { 0 };
	int64_t from, to;
	nla_share(n, nla_rank(), &from, &to);
	nla_decoded_init(&d, to - from, t->cfg->teach.max_new_tokens);
	for (int64_t i = from; i < to && !err->status; i++)
		make_prompt(t, rows[i], &prompts[i], err);
	for (int64_t i = from, m; i < to && !err->status; i += m) {
		m = t->at_once ? NLA_MIN(t->at_once, to - i) : to - i;
		if (decode(t, prompts + i, rows + i, m, &d, i - from, err) &&
		    nla_halve(&t->halved, NLA_STAGE_ROLLOUT, &m, m, err))
			t->at_once = m, m = 0;
	}
	if (!err->status) {
		join(&d);
		take_answers(t, rows, n, &d, err);
	}
	for (int64_t i = 0; i < n; i++)
		nla_i32s_release(&prompts[i]);
	return err->status;
}

/* ---- which rows, in which order ---- */

int64_t *nla_teach_pending(const struct nla_teach *t, int64_t try, int64_t *n)
{
	int64_t *rows = nla_alloc((size_t)t->set.n, sizeof(*rows)), context = t->cfg->teach.context;
	*n = 0;
	for (int64_t i = 0; i < t->set.n; i++) /* longest first, then by number: both in one key */
		if (t->rows[i].asked && !t->rows[i].served && t->rows[i].tries == try)
			rows[(*n)++] = (context - NLA_MIN(t->set.rows[i].n_raw_tokens, context)) * t->set.n + i;
	qsort(rows, (size_t)*n, sizeof(*rows), nla_by_number);
	for (int64_t i = 0; i < *n; i++)
		rows[i] %= t->set.n;
	return rows;
}

/* ---- the end ---- */

enum nla_status nla_teach_finish(struct nla_teach *t, struct nla_err *err)
{
	const struct nla_config *cfg = t->cfg;
	struct nla_compose compose = { cfg->teach.explanation, cfg->teach.max_end, cfg->teach.max_next, (uint64_t)cfg->seed };
	nla_auto char **whole = nla_alloc((size_t)t->set.n, sizeof(*whole));
	int64_t n_tags = 0;
	for (int64_t i = 0; i < t->set.n; i++) {
		struct nla_taught *row = &t->rows[i];
		whole[i] = row->explanation ? nla_compose(&compose, &t->set.rows[i], i, row->explanation) : NULL;
		if (whole[i] && nla_has_tag(whole[i])) { /* of {end} or {next}: it would end there */
			free(whole[i]);
			free(row->explanation);
			whole[i] = row->explanation = NULL;
			row->cut = false;
			n_tags++;
		}
		if (!whole[i] && row->asked) /* it has none, and no former teacher's either */
			whole[i] = nla_strdup("");
	}
	if (n_tags)
		nla_say("%lld rows stay without explanation: their own texts hold explanation tags", (long long)n_tags);
	nla_actset_explain(&t->set, cfg->out, whole, err);
	for (int64_t i = 0; i < t->set.n; i++)
		free(whole[i]);
	return err->status;
}

cJSON *nla_teach_summary(const struct nla_teach *t)
{
	double seconds = nla_seconds() - t->started, tokens = 0;
	int64_t taught = 0, served = 0, cut = 0;
	for (int64_t i = 0; i < t->set.n; i++) {
		const struct nla_taught *row = &t->rows[i];
		taught += row->explanation != NULL;
		served += row->explanation && row->asked; /* a resumed run of fewer rows knows of more */
		cut += row->cut;
		tokens += row->explanation ? (double)row->tokens : 0;
	}
	cJSON *json = cJSON_CreateObject();
	cJSON_AddNumberToObject(json, "rows", (double)t->set.n);
	cJSON_AddNumberToObject(json, "taught", (double)taught);
	cJSON_AddNumberToObject(json, "cut", (double)cut);
	cJSON_AddNumberToObject(json, "failed", (double)(t->n_asked - served));
	cJSON_AddNumberToObject(json, "kept", (double)t->n_kept);
	cJSON_AddNumberToObject(json, "no_text", (double)t->n_no_text);
	cJSON *answers = cJSON_AddObjectToObject(json, "answers");
	for (int i = 0; i < NLA_N_UNFIT; i++)
		cJSON_AddNumberToObject(answers, i ? unfit_names[i] : "fit", (double)t->n_answers[i]);
	cJSON_AddNumberToObject(json, "mean_tokens", taught ? tokens / (double)taught : 0);
	cJSON_AddNumberToObject(json, "seconds", seconds);
	cJSON_AddNumberToObject(json, "tokens_per_s", (double)t->new_tokens / seconds);
	return json;
}
