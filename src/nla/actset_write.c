/*
 * actset_write - making and removing the files of an activation set.
 *
 * The writer streams vectors [N, D] and rows to temporary names; finish gives the vectors, then the rows, then the sidecar
 * their names, so that a sidecar in the folder means a whole set. A set with other explanations is made in the same order,
 * every file replaced as a whole.
 */
#include "nla/actset.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"

#define DATA_NAME "activations.safetensors"
#define ROWS_TMP "rows.tmp.jsonl.gz" /* ends in .gz: nla_log compresses it */
#define FLUSH_BYTES (4 << 20)

/* ---- the folder ---- */

/* activations.safetensors, its index, the shards activations-00001-of-00002.safetensors. */
static bool is_data(const char *name)
{
	return !strcmp(name, DATA_NAME) || !strcmp(name, DATA_NAME ".index.json") ||
	       (nla_starts_with(name, "activations-") && nla_ends_with(name, ".safetensors"));
}

/* The folder's names, the sidecar's first: without one it is no set any more. */
static enum nla_status list(const char *folder, struct nla_strs *names, struct nla_err *err)
{
	nla_strs_push(names, NLA_SIDECAR_NAME);
	return nla_is_dir(folder) ? nla_list_dir(folder, names, err) : NLA_OK;
}

enum nla_status nla_actset_remove(const char *folder, struct nla_err *err)
{
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	list(folder, &names, err);
	for (size_t i = 0; i < names.n && !err->status; i++) {
		const char *name = names.data[i];
		nla_auto char *path = nla_path_join(folder, name);
		if ((i == 0 || is_data(name) || !strcmp(name, NLA_ACTSET_ROWS) || !strcmp(name, ROWS_TMP)) && unlink(path) &&
		    errno != ENOENT)
			nla_fail(err, "cannot remove '%s': %s", path, strerror(errno));
	}
	return err->status;
}

static enum nla_status check_folder(const char *folder, struct nla_err *err)
{
	static const char *const names[] = { NLA_SIDECAR_NAME, DATA_NAME, DATA_NAME ".index.json", NLA_ACTSET_ROWS };
	if (nla_exists_in(folder, names[0]))
		return nla_fail(err, "cannot create activation set '%s': there is one already", folder);
	for (size_t i = 1; i < NLA_LEN(names); i++)
		if (nla_exists_in(folder, names[i]))
			return nla_fail(err, "cannot create activation set '%s': it holds %s of a set that was not completed, "
					"remove it first", folder, names[i]);
	return NLA_OK;
}

/* ---- writing ---- */

struct nla_actset_writer {
	char *folder, *rows, *rows_tmp, *data;
	struct nla_sidecar meta;
	enum nla_st_dtype dtype;
	struct nla_st_writer *stream;
	struct nla_log log;
	bool log_open;
	struct nla_str line;
	uint16_t *half; /* [D] */
	float *stored;  /* [D]: the vector as a reader will see it */
	struct nla_baseline baseline;
	int64_t n;
};

void nla_actset_abort(struct nla_actset_writer *w)
{
	struct nla_err ignored = NLA_ERR_INIT;
	if (!w)
		return;
	nla_st_writer_abort(w->stream);
	if (w->log_open)
		nla_log_close(&w->log, &ignored);
	unlink(w->rows_tmp);
	nla_baseline_release(&w->baseline);
	nla_sidecar_release(&w->meta);
	nla_str_release(&w->line);
	void *const owned[] = { w->half, w->stored, w->folder, w->rows, w->rows_tmp, w->data, w };
	for (size_t i = 0; i < NLA_LEN(owned); i++)
		free(owned[i]);
}

enum nla_status nla_actset_create(struct nla_actset_writer **out, const char *folder, const struct nla_sidecar *meta,
				  enum nla_st_dtype dtype, struct nla_err *err)
{
	const size_t d = (size_t)meta->d_model;
	const struct nla_st_entry entry = { "activations", dtype, 2, .shape = { -1, meta->d_model } };
	*out = NULL;
	if ((dtype != NLA_ST_F32 && dtype != NLA_ST_BF16) || meta->d_model < 1)
		NLA_BUG("activation set of dtype %d, width %" PRId64, (int)dtype, meta->d_model);
	if (check_folder(folder, err) || nla_mkdirs(folder, err))
		return err->status;
	struct nla_actset_writer *w = nla_alloc(1, sizeof(*w));
	*w = (struct nla_actset_writer){ .folder = nla_strdup(folder), .rows = nla_path_join(folder, NLA_ACTSET_ROWS),
					 .rows_tmp = nla_path_join(folder, ROWS_TMP), .data = nla_path_join(folder, DATA_NAME),
					 .dtype = dtype, .line = NLA_STR_INIT, .half = nla_alloc(d, sizeof(*w->half)),
					 .stored = nla_alloc(d, sizeof(*w->stored)) };
	nla_sidecar_init(&w->meta);
	nla_sidecar_copy(&w->meta, meta);
	free(w->meta.kind);
	w->meta.kind = nla_strdup("nla_dataset");
	nla_baseline_init(&w->baseline, meta->d_model);
	unlink(w->rows_tmp); /* of a run that was killed: the log would append to it */
	w->log_open = !nla_log_open(&w->log, w->rows_tmp, err);
	if (err->status || nla_st_writer_open(&w->stream, w->data, &entry, 1, err))
		nla_actset_abort(w);
	else
		*out = w;
	return err->status;
}

static void add_line(struct nla_str *s, const struct nla_row *row)
{
	const char *text = row->text ? row->text : "";
	nla_str_reset(s);
	nla_str_add(s, "{\"doc_id\":");
	nla_json_add_str(s, row->doc_id, strlen(row->doc_id));
	if (row->n_raw_tokens >= 0)
		nla_str_addf(s, ",\"n_raw_tokens\":%" PRId64, row->n_raw_tokens);
	nla_str_add(s, ",\"text\":");
	nla_json_add_str(s, text, strlen(text));
	if (row->explanation) {
		nla_str_add(s, ",\"explanation\":");
		nla_json_add_str(s, row->explanation, strlen(row->explanation));
	}
	for (size_t i = 0; i < row->next.n; i++) {
		nla_str_add(s, i ? "," : ",\"next\":[");
		nla_json_add_str(s, row->next.data[i], strlen(row->next.data[i]));
	}
	nla_str_add(s, row->next.n ? "]}\n" : "}\n");
}

enum nla_status nla_actset_add(struct nla_actset_writer *w, const struct nla_row *row, const float *v, struct nla_err *err)
{
	const size_t d = (size_t)w->meta.d_model;
	const bool bf16 = w->dtype == NLA_ST_BF16;
	memcpy(w->stored, v, d * sizeof(*v));
	if (bf16) {
		nla_f32_to_bf16(v, w->half, d);
		nla_bf16_to_f32(w->half, w->stored, d);
	}
	if (nla_row_finite(w->stored, w->meta.d_model, w->n, row->doc_id, err))
		return nla_err_context(err, "cannot write activation set '%s'", w->folder);
	if (nla_st_writer_add(w->stream, bf16 ? (const void *)w->half : w->stored, d * nla_st_dtype_size(w->dtype), err))
		return err->status;
	add_line(&w->line, row);
	nla_log_add(&w->log, w->line.buf, w->line.len);
	if (w->log.pending.len >= FLUSH_BYTES && nla_log_flush(&w->log, err))
		return err->status;
	if (w->n++ < NLA_BASELINE_ROWS)
		nla_baseline_add(&w->baseline, w->stored);
	return NLA_OK;
}

static enum nla_status finish(struct nla_actset_writer *w, struct nla_err *err)
{
	struct nla_st_writer *stream = w->stream;
	if (!w->n)
		return nla_fail(err, "cannot write activation set '%s': no rows", w->folder);
	w->log_open = false;
	if (nla_log_close(&w->log, err) || nla_sync(w->rows_tmp, err))
		return err->status;
	w->stream = NULL;
	if (nla_st_writer_close(stream, err))
		return err->status;
	nla_baseline_get(&w->baseline, &w->meta.baseline_var, &w->meta.baseline_mean);
	w->meta.n_rows = w->n;
	if (rename(w->rows_tmp, w->rows))
		nla_fail(err, "cannot rename '%s' to '%s': %s", w->rows_tmp, w->rows, strerror(errno));
	if (err->status || nla_sync(w->folder, err) || nla_sidecar_write(&w->meta, w->folder, err)) {
		unlink(w->rows);
		unlink(w->data);
	}
	return err->status;
}

enum nla_status nla_actset_finish(struct nla_actset_writer *w, struct nla_err *err)
{
	finish(w, err);
	nla_actset_abort(w); /* what is left: nothing, or the temporary files of a failure */
	return err->status;
}

/* ---- other explanations ---- */

/* The link gets a name of its own first: link() does not replace. */
static enum nla_status share_file(const char *from, const char *to, struct nla_err *err)
{
	nla_auto char *tmp = nla_format("%s.tmp", to);
	unlink(tmp);
	if (linkat(AT_FDCWD, from, AT_FDCWD, tmp, AT_SYMLINK_FOLLOW))
		nla_copy_file(from, to, err); /* another file system, or one without hard links */
	else if (rename(tmp, to))
		nla_fail(err, "cannot rename '%s' to '%s': %s", tmp, to, strerror(errno));
	unlink(tmp); /* rename() leaves it when both are links to one file */
	return err->status;
}

static enum nla_status share_data(const char *from, const char *to, struct nla_err *err)
{
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	nla_list_dir(from, &names, err);
	for (size_t i = 0; i < names.n && !err->status; i++) {
		nla_auto char *a = nla_path_join(from, names.data[i]), *b = nla_path_join(to, names.data[i]);
		if (is_data(names.data[i]))
			share_file(a, b, err);
	}
	return err->status;
}

static void add_explained(struct nla_str *rows, const char *line, size_t n, const char *explanation, const char *path,
			  struct nla_err *err)
{
	cJSON *json;
	if (nla_json_parse(line, n, path, &json, err))
		return;
	if (cJSON_GetObjectItemCaseSensitive(json, "explanation"))
		cJSON_ReplaceItemInObjectCaseSensitive(json, "explanation", cJSON_CreateString(explanation));
	else
		cJSON_AddItemToObject(json, "explanation", cJSON_CreateString(explanation));
	nla_json_add(rows, json, false, 0);
	cJSON_Delete(json);
}

static enum nla_status write_rows(const struct nla_actset *set, const char *to, char *const *explanation, struct nla_err *err)
{
	char *from = nla_path_join(set->path, NLA_ACTSET_ROWS), *path = nla_path_join(to, NLA_ACTSET_ROWS);
	struct nla_str rows = NLA_STR_INIT;
	struct nla_lines lines;
	const char *line;
	if (nla_lines_open(&lines, from, err))
		goto out;
	for (int64_t i = 0; i < set->n && !err->status && (line = nla_lines_next_filled(&lines)); i++) {
		if (explanation[i])
			add_explained(&rows, line, lines.line.len, explanation[i], from, err);
		else
			nla_str_addn(&rows, line, lines.line.len);
		nla_str_addc(&rows, '\n');
	}
	if (!nla_lines_close(&lines, err) && !err->status)
		nla_file_write(path, rows.buf, rows.len, true, err);
out:
	nla_str_release(&rows);
	free(from);
	free(path);
	return err->status;
}

enum nla_status nla_actset_explain(const struct nla_actset *from, const char *to, char *const *explanation, struct nla_err *err)
{
	nla_auto char *meta = nla_path_join(from->path, NLA_SIDECAR_NAME), *copy = nla_path_join(to, NLA_SIDECAR_NAME);
	if (!nla_mkdirs(to, err) && !share_data(from->path, to, err) && !write_rows(from, to, explanation, err))
		nla_copy_file(meta, copy, err);
	return err->status;
}
