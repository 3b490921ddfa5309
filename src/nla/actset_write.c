/*
 * actset_write - making and removing the files of an activation set.
 *
 * The writer streams vectors [N, D] and rows, as plain lines, into NLA_ACTSET_PART. finish makes a whole set there and moves
 * its files out, the sidecar last, so that a sidecar in OUT means a whole set. A set with other explanations is made in the
 * same order, every file replaced as a whole.
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
#define ROWS_PART "rows.jsonl"

/* In the order in which they get their places. */
static const char *const files[] = { DATA_NAME ".index.json", DATA_NAME, NLA_ACTSET_ROWS, NLA_SIDECAR_NAME };

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
		if (i == 0 || is_data(name) || !strcmp(name, NLA_ACTSET_ROWS) || !strcmp(name, NLA_ACTSET_PART))
			nla_rmtree(path, err);
	}
	return err->status;
}

static enum nla_status check_folder(const char *folder, struct nla_err *err)
{
	for (size_t i = NLA_LEN(files); i-- > 0;)
		if (nla_exists_in(folder, files[i]))
			return nla_usage(err, "cannot create activation set '%s': there is %s already: give --overwrite to "
					 "replace it, or another --out",
					 folder, strcmp(files[i], NLA_SIDECAR_NAME) ? files[i] : "one");
	return NLA_OK;
}

enum nla_status nla_actset_publish(const char *folder, struct nla_err *err)
{
	nla_auto char *part = nla_path_join(folder, NLA_ACTSET_PART);
	if (!nla_exists_in(part, NLA_SIDECAR_NAME) && !nla_exists_in(folder, NLA_SIDECAR_NAME))
		return NLA_OK;
	for (size_t i = 0; i < NLA_LEN(files) && !err->status; i++) {
		nla_auto char *from = nla_path_join(part, files[i]), *to = nla_path_join(folder, files[i]);
		if (nla_exists(from) && rename(from, to))
			nla_fail(err, "cannot rename '%s' to '%s': %s", from, to, strerror(errno));
		if (!err->status && i + 2 == NLA_LEN(files)) /* before the sidecar says that they are there */
			nla_sync(folder, err);
	}
	return err->status || nla_sync(folder, err) ? err->status : nla_rmtree(part, err);
}

/* ---- writing ---- */

struct nla_actset_writer {
	char *folder, *data;
	struct nla_sidecar meta;
	enum nla_st_dtype dtype;
	struct nla_st_writer *stream;
	struct nla_log rows, marks;
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
	nla_log_close(&w->rows, &ignored);
	nla_log_close(&w->marks, &ignored);
	nla_baseline_release(&w->baseline);
	nla_sidecar_release(&w->meta);
	nla_str_release(&w->line);
	void *const owned[] = { w->half, w->stored, w->folder, w->data, w };
	for (size_t i = 0; i < NLA_LEN(owned); i++)
		free(owned[i]);
}

/* The first n lines of the rows, cut there. */
static enum nla_status keep_rows(struct nla_actset_writer *w, int64_t n, struct nla_err *err)
{
	struct nla_map map;
	if (nla_map_open(&map, w->rows.path, err))
		return err->status;
	size_t at = 0;
	int64_t left = n;
	for (; left && at < map.size; at++)
		left -= ((const char *)map.data)[at] == '\n';
	if (left)
		nla_fail(err, "'%s' has %" PRId64 " rows, want %" PRId64, w->rows.path, n - left, n);
	else if (ftruncate(w->rows.fd, (off_t)at))
		nla_fail(err, "cannot write '%s': %s", w->rows.path, strerror(errno));
	nla_map_close(&map);
	return err->status;
}

/* The first n vectors; the baseline sees them again. */
static enum nla_status keep_vectors(struct nla_actset_writer *w, int64_t n, struct nla_err *err)
{
	const size_t d = (size_t)w->meta.d_model, bytes = d * nla_st_dtype_size(w->dtype);
	nla_auto char *tmp = nla_format("%s.tmp", w->data);
	struct nla_map map;
	if (nla_st_writer_keep(w->stream, (size_t)n * bytes, err) || nla_map_open(&map, tmp, err))
		return err->status;
	const char *first = (const char *)map.data + nla_st_writer_header(w->stream);
	for (int64_t i = 0; i < NLA_MIN(n, NLA_BASELINE_ROWS); i++) {
		if (w->dtype == NLA_ST_BF16)
			nla_bf16_to_f32((const uint16_t *)(const void *)(first + (size_t)i * bytes), w->stored, d);
		else
			memcpy(w->stored, first + (size_t)i * bytes, bytes);
		nla_baseline_add(&w->baseline, w->stored);
	}
	w->n = n;
	nla_map_close(&map);
	return NLA_OK;
}

enum nla_status nla_actset_create(struct nla_actset_writer **out, const char *folder, const struct nla_sidecar *meta,
				  enum nla_st_dtype dtype, int64_t n, struct nla_err *err)
{
	const size_t d = (size_t)meta->d_model;
	const struct nla_st_entry entry = { "activations", dtype, 2, .shape = { -1, meta->d_model } };
	nla_auto char *part = nla_path_join(folder, NLA_ACTSET_PART);
	*out = NULL;
	if ((dtype != NLA_ST_F32 && dtype != NLA_ST_BF16) || meta->d_model < 1)
		NLA_BUG("activation set of dtype %d, width %" PRId64, (int)dtype, meta->d_model);
	if (check_folder(folder, err) || nla_mkdirs(part, err))
		return err->status;
	struct nla_actset_writer *w = nla_alloc(1, sizeof(*w));
	*w = (struct nla_actset_writer){ .folder = nla_strdup(folder), .data = nla_path_join(part, DATA_NAME), .dtype = dtype,
					 .line = NLA_STR_INIT, .half = nla_alloc(d, sizeof(*w->half)),
					 .stored = nla_alloc(d, sizeof(*w->stored)) };
	nla_auto char *tmp = nla_format("%s.tmp", w->data);
	nla_sidecar_init(&w->meta);
	nla_sidecar_copy(&w->meta, meta);
	free(w->meta.kind);
	w->meta.kind = nla_strdup("nla_dataset");
	nla_baseline_init(&w->baseline, meta->d_model);
	if (nla_exists(w->data) && rename(w->data, tmp)) /* of a finish that was killed */
		nla_fail(err, "cannot rename '%s' to '%s': %s", w->data, tmp, strerror(errno));
	if (err->status || nla_log_open_in(&w->rows, part, ROWS_PART, err) ||
	    nla_log_open_in(&w->marks, part, NLA_ACTSET_MARKS, err) ||
	    nla_st_writer_open(&w->stream, w->data, &entry, 1, err) || keep_rows(w, n, err) || keep_vectors(w, n, err))
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
	nla_log_add(&w->rows, w->line.buf, w->line.len);
	if (w->n++ < NLA_BASELINE_ROWS)
		nla_baseline_add(&w->baseline, w->stored);
	return NLA_OK;
}

enum nla_status nla_actset_mark(struct nla_actset_writer *w, const char *line, struct nla_err *err)
{
	if (nla_st_writer_sync(w->stream, err) || nla_log_sync(&w->rows, err))
		return err->status;
	nla_log_add(&w->marks, line, strlen(line));
	return nla_log_sync(&w->marks, err);
}

/* The lines, compressed. */
static enum nla_status pack_rows(const struct nla_actset_writer *w, const char *part, struct nla_err *err)
{
	nla_auto char *lines = nla_path_join(part, ROWS_PART), *rows = nla_path_join(part, NLA_ACTSET_ROWS);
	struct nla_map map;
	if (nla_map_open(&map, lines, err))
		return err->status;
	nla_file_write(rows, map.data, map.size, true, err);
	nla_map_close(&map);
	return err->status;
}

static enum nla_status finish(struct nla_actset_writer *w, struct nla_err *err)
{
	struct nla_st_writer *stream = w->stream;
	nla_auto char *part = nla_path_join(w->folder, NLA_ACTSET_PART);
	if (!w->n)
		return nla_fail(err, "cannot write activation set '%s': no rows", w->folder);
	if (nla_log_close(&w->rows, err) || pack_rows(w, part, err))
		return err->status;
	w->stream = NULL;
	nla_baseline_get(&w->baseline, &w->meta.baseline_var, &w->meta.baseline_mean);
	w->meta.n_rows = w->n;
	return nla_st_writer_close(stream, err) || nla_sidecar_write(&w->meta, part, err) ? err->status
		: nla_actset_publish(w->folder, err);
}

enum nla_status nla_actset_finish(struct nla_actset_writer *w, struct nla_err *err)
{
	finish(w, err);
	nla_actset_abort(w);
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
