/* How a teacher's run begins: what is asked for, the log of answers, and what an earlier start has written there. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/progress.h"
#include "run/teach_impl.h"

/* ---- the lines of teach.jsonl ---- */

void nla_teach_add_line(struct nla_str *out, const struct nla_answer *a)
{
	nla_str_addf(out, "{\"row\":%lld,\"try\":%lld,\"tokens\":%lld,\"failed\":", (long long)a->row, (long long)a->try, (long long)a->tokens);
	nla_str_addf(out, a->unfit ? "\"%s\"" : "null", nla_unfit_names[a->unfit] ? nla_unfit_names[a->unfit] : "");
	nla_str_add(out, ",\"text\":");
	nla_json_add_str(out, a->text, strlen(a->text));
	nla_str_addf(out, ",\"left\":%lld}\n", (long long)a->left);
}

static enum nla_status read_line(struct nla_teach *t, const char *line, size_t n, const char *name, struct nla_answer *a, struct nla_err *err)
{
	const char *text, *failed;
	cJSON *json;
	if (nla_json_parse(line, n, name, &json, err))
		return err->status;
	if (!nla_json_need_int(json, name, "row", &a->row, err) && !nla_json_need_int(json, name, "tokens", &a->tokens, err) &&
	    !nla_json_need_int(json, name, "left", &a->left, err) && !nla_json_need_str(json, name, "text", &text, err) &&
	    !nla_json_str(json, name, "failed", NULL, &failed, err)) {
		a->text = nla_strdup(text);
		for (a->unfit = NLA_ANSWER_OK; failed && a->unfit < NLA_N_UNFIT; a->unfit++)
			if (nla_unfit_names[a->unfit] && !strcmp(nla_unfit_names[a->unfit], failed))
				break;
		if (a->unfit == NLA_N_UNFIT)
			nla_fail(err, "'%s': 'failed' is '%s'", name, failed);
		else if (a->row < 0 || a->row >= t->set.n)
			nla_fail(err, "'%s': 'row' is %lld: '%s' has rows 0 to %lld", name, (long long)a->row, t->set.path, (long long)t->set.n - 1);
	}
	cJSON_Delete(json);
	return err->status;
}

/* ---- what was asked of whom: the first line ---- */

/* Of all rows' documents and texts: another set at the same path is not the one that was asked about. */
static char *texts_hash(const struct nla_actset *set)
{
	uint64_t of[3] = { 0 };
	for (int64_t i = 0; i < set->n; i++) {
		of[1] = nla_hash(set->rows[i].doc_id, strlen(set->rows[i].doc_id));
		of[2] = nla_hash(set->rows[i].text, strlen(set->rows[i].text));
		of[0] = nla_hash(of, sizeof(of));
	}
	return nla_format("%016llx", (unsigned long long)of[0]);
}

static cJSON *describe(const struct nla_teach *t)
{
	const struct nla_config *cfg = t->cfg;
	char *model = realpath(*cfg->teach.model ? cfg->teach.model : cfg->model, NULL), *data = realpath(cfg->data, NULL);
	char *texts = texts_hash(&t->set);
	cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "teach.model", model ? model : "");
	cJSON_AddStringToObject(json, "data", data ? data : "");
	cJSON_AddStringToObject(json, "texts of data", texts);
	cJSON_AddStringToObject(json, "dtype", t->teacher.lm.dtype == NT_BF16 ? "bf16" : "fp32");
	cJSON_AddNumberToObject(json, "seed", (double)cfg->seed);
	cJSON_AddStringToObject(json, "teach.prompt", cfg->teach.prompt);
	cJSON_AddStringToObject(json, "teach.system", cfg->teach.system);
	cJSON_AddNumberToObject(json, "chat.format", t->teacher.chat.format);
	cJSON_AddNumberToObject(json, "teach.context", (double)cfg->teach.context);
	cJSON_AddNumberToObject(json, "teach.max_new_tokens", (double)cfg->teach.max_new_tokens);
	cJSON_AddNumberToObject(json, "teach.temperature", cfg->teach.temperature);
	cJSON_AddBoolToObject(json, "teach.again", cfg->teach.again);
	free(model);
	free(data);
	free(texts);
	return json;
}

static enum nla_status same_question(const struct nla_teach *t, const char *line, size_t n, const char *path, struct nla_err *err)
{
	cJSON *then, *now = describe(t);
	const cJSON *item;
	if (!nla_json_parse(line, n, path, &then, err)) {
		cJSON_ArrayForEach(item, now) {
			const cJSON *before = cJSON_GetObjectItemCaseSensitive(then, item->string);
			if (err->status || cJSON_Compare(before, item, true))
				continue;
			char *a = before ? cJSON_PrintUnformatted(before) : NULL, *b = cJSON_PrintUnformatted(item);
			nla_usage(err, "cannot resume: '%s' is %.200s in '%s' and %.200s now", item->string, a ? a : "missing", path, b);
			cJSON_free(a);
			cJSON_free(b);
		}
		cJSON_Delete(then);
	}
	cJSON_Delete(now);
	return err->status;
}

/* ---- opening ---- */

static size_t count(const char *text, const char *slot)
{
	size_t n = 0;
	for (; (text = strstr(text, slot)); text += strlen(slot))
		n++;
	return n;
}

static enum nla_status check_prompt(const struct nla_config *cfg, struct nla_err *err)
{
	size_t texts = count(cfg->teach.prompt, NLA_SLOT_TEXT), nexts = count(cfg->teach.prompt, NLA_SLOT_NEXT);
	if (texts != 1)
		return nla_usage(err, "'teach.prompt' has '" NLA_SLOT_TEXT "' %zu times, want once", texts);
	if (nexts > 1)
		return nla_usage(err, "'teach.prompt' has '" NLA_SLOT_NEXT "' %zu times, want once or not at all", nexts);
	return nla_compose_check(cfg->teach.explanation, err);
}

/* Which rows are to be explained. */
static enum nla_status choose_rows(struct nla_teach *t, struct nla_err *err)
{
	const struct nla_config *cfg = t->cfg;
	bool asks_next = strstr(cfg->teach.prompt, NLA_SLOT_NEXT), says_next = strstr(cfg->teach.explanation, NLA_SLOT_NEXT);
	size_t n = (size_t)t->set.n;
	t->asked = nla_alloc(n, sizeof(*t->asked));
	t->tries = nla_alloc(n, sizeof(*t->tries));
	t->tokens = nla_alloc(n, sizeof(*t->tokens));
	t->explanation = nla_alloc(n, sizeof(*t->explanation));
	t->served = nla_alloc(n, sizeof(*t->served));
	t->cut = nla_alloc(n, sizeof(*t->cut));
	for (int64_t i = 0; i < t->set.n; i++) {
		const struct nla_row *row = &t->set.rows[i];
		bool kept = row->explanation && !cfg->teach.again;
		t->n_kept += kept;
		t->n_no_text += !kept && !*row->text;
		t->asked[i] = !kept && *row->text && (!cfg->teach.rows || t->n_asked < cfg->teach.rows);
		t->n_asked += t->asked[i];
		if (t->asked[i] && (asks_next || says_next) && !row->next.n)
			return nla_fail(err, "'%s' has '" NLA_SLOT_NEXT "', but row %lld of '%s' has no next tokens (nla-extract keeps them "
					"with extract.next)", asks_next ? "teach.prompt" : "teach.explanation", (long long)i, cfg->data);
	}
	if (!t->n_asked && t->n_no_text)
		return nla_fail(err, "cannot teach '%s': its rows have no texts", cfg->data);
	return NLA_OK;
}

/* Answers of whole batches count, the rest is cut off: *whole is where. A line without its end was being written when the run was
 * killed; any other that cannot be read is an error, and the file stays as it is. */
static enum nla_status read_log(struct nla_teach *t, off_t size, off_t *whole, struct nla_err *err)
{
	struct nla_lines in;
	const char *line;
	struct nla_answer *batch = NULL;
	size_t n = 0;
	off_t at = 0;
	*whole = 0;
	if (nla_lines_open(&in, t->log.path, err))
		return err->status;
	while (!err->status && (line = nla_lines_next(&in)) && (at += (off_t)in.line.len + 1) <= size) {
		struct nla_answer a = { 0 };
		if (in.number == 1) {
			same_question(t, line, in.line.len, t->log.path, err);
			*whole = at;
			continue;
		}
		if (read_line(t, line, in.line.len, t->log.path, &a, err)) {
			nla_err_context(err, "line %zu", in.number);
			free(a.text);
			break;
		}
		batch = nla_realloc(batch, n + 1, sizeof(*batch));
		batch[n++] = a;
		if (a.left)
			continue;
		for (size_t i = 0; i < n; i++) {
			nla_teach_take(t, &batch[i]);
			free(batch[i].text);
		}
		n = 0;
		*whole = at;
	}
	for (size_t i = 0; i < n; i++)
		free(batch[i].text);
	free(batch);
	return nla_lines_close(&in, err) ? err->status : NLA_OK;
}

static enum nla_status start_log(struct nla_teach *t, struct nla_err *err)
{
	struct nla_str line = NLA_STR_INIT;
	cJSON *json = describe(t);
	nla_json_add(&line, json, false, 0);
	nla_str_addc(&line, '\n');
	nla_log_add(&t->log, line.buf, line.len);
	nla_str_release(&line);
	cJSON_Delete(json);
	return nla_log_flush(&t->log, err);
}

/* Goes on from the answers that are there, behind a first line that says what was asked. */
static enum nla_status go_on(struct nla_teach *t, struct nla_err *err)
{
	struct stat st;
	off_t whole = 0;
	if (fstat(t->log.fd, &st) || (st.st_size && read_log(t, st.st_size, &whole, err)))
		return err->status ? err->status : nla_fail(err, "cannot read '%s': %s", t->log.path, strerror(errno));
	if (whole < st.st_size && ftruncate(t->log.fd, whole))
		return nla_fail(err, "cannot write '%s': %s", t->log.path, strerror(errno));
	return whole ? NLA_OK : start_log(t, err);
}

static bool same_folder(const char *a, const char *b)
{
	struct stat x, y;
	return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* OUT holds nothing of ours, or what --resume goes on from, or what --overwrite replaces. */
static enum nla_status open_out(struct nla_teach *t, struct nla_err *err)
{
	const char *out = t->cfg->out;
	char *log = nla_path_join(out, "teach.jsonl"), *meta = nla_path_join(out, "nla_meta.yaml");
	if (same_folder(out, t->cfg->data))
		nla_usage(err, "'out' and 'data' are both '%s': give another --out, the set is left as it is", out);
	else if (nla_exists(meta) && !nla_exists(log) && !t->cfg->overwrite)
		nla_usage(err, "'%s' holds an activation set that nla-teach did not write: give another --out, or --overwrite to replace it", out);
	else if (nla_exists(log) && !t->cfg->overwrite && !t->cfg->resume)
		nla_usage(err, "'%s' is there already: give --resume to go on, --overwrite to replace it, or another --out", log);
	else if (!nla_mkdirs(out, err) && !nla_log_open(&t->log, log, err)) {
		if (flock(t->log.fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
			nla_fail(err, "'%s' is in use by another program", out);
		else if (t->cfg->overwrite && (ftruncate(t->log.fd, 0) || nla_actset_remove(out, err)) && !err->status)
			nla_fail(err, "cannot write '%s': %s", log, strerror(errno));
		else if (!err->status)
			go_on(t, err);
	}
	free(log);
	free(meta);
	return err->status;
}

enum nla_status nla_teach_open(struct nla_teach *t, const struct nla_config *cfg, struct nla_err *err)
{
	bool own = !*cfg->teach.model; /* the target itself: chat.format and chat.file are about that model */
	const char *model = own ? cfg->model : cfg->teach.model;
	struct nla_chat_cfg chat = { own ? cfg->chat.format : NLA_CHAT_AUTO, cfg->teach.system, own ? cfg->chat.file : NULL };
	int device;
	nt_dtype dtype;
	*t = (struct nla_teach){ .cfg = cfg, .log.fd = -1, .started = nla_seconds() };
	if (nla_config_need(model, "model", err) || nla_config_need(cfg->data, "data", err) || nla_config_need(cfg->out, "out", err) ||
	    check_prompt(cfg, err) || nla_config_device(cfg, &device, &dtype, err) || nla_actset_open(&t->set, cfg->data, 0, err) ||
	    choose_rows(t, err) || nla_target_open(&t->teacher, model, &chat, device, dtype, -1, err))
		return err->status;
	return open_out(t, err);
}

void nla_teach_close(struct nla_teach *t)
{
	struct nla_err ignored = NLA_ERR_INIT;
	for (int64_t i = 0; t->explanation && i < t->set.n; i++)
		free(t->explanation[i]);
	free(t->explanation);
	free(t->asked);
	free(t->tries);
	free(t->tokens);
	free(t->served);
	free(t->cut);
	nla_log_close(&t->log, &ignored);
	nla_target_close(&t->teacher);
	nla_actset_close(&t->set);
	memset(t, 0, sizeof(*t));
}
