/*
 * actset_write - making and removing the files of an activation set.
 *
 * The writer appends vectors [N, D], as stored, and rows, as plain lines, to files in NLA_ACTSET_PART. finish makes a set of
 * them there and moves its files out, the sidecar last, so that a sidecar in OUT means a whole set. A set with other
 * explanations is made in the same order, every file replaced as a whole.
 */
#include "nla/actset.h"

#include <fcntl.h>

#include "base/json.h"

#define DATA_NAME "activations.safetensors"
#define ROWS_PART "rows.jsonl"
#define VECTORS_PART "vectors"

/* In the order in which they get their places. */
static const char *const files[] = { DATA_NAME ".index.json", DATA_NAME, NLA_ACTSET_ROWS, NLA_SIDECAR_NAME };

/* ---- the folder ---- */

/* activations.safetensors, its index, the shards activations-00001-of-00002.safetensors. */
static bool is_data(const char *name)
{
	return !strcmp(name, DATA_NAME) || !strcmp(name, DATA_NAME ".index.json") ||
	       (nla_starts_with(name, "activations-") && nla_ends_with(name, ".safetensors"));
}

static bool is_ours(const char *name, int64_t beyond)
{
	return is_data(name) || nla_word_index(NLA_ACTSET_ROWS "|" NLA_ACTSET_PART "|" NLA_ACTSET_DONE, name) >= 0;
}

/* The sidecar first: without one it is no set any more. */
enum nla_status nla_actset_remove(const char *folder, struct nla_err *err)
{
	nla_auto char *sidecar = nla_path_join(folder, NLA_SIDECAR_NAME);
	return nla_rmtree(sidecar, err) || !nla_is_dir(folder) ? err->status : nla_remove_ours(folder, is_ours, 0, err);
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

/* Of the folder in which a set was made what tells later with what: its settings and inputs. */
static enum nla_status keep_settings(const char *folder, const char *part, struct nla_err *err)
{
	static const char *const work[] = { VECTORS_PART, ROWS_PART, NLA_ACTSET_MARKS };
	nla_auto char *done = nla_path_join(folder, NLA_ACTSET_DONE);
	if (!nla_exists_in(part, "config.json"))
		return nla_rmtree(part, err);
	for (size_t i = 0; i < NLA_LEN(work) && !err->status; i++) {
		nla_auto char *path = nla_path_join(part, work[i]);
		nla_rmtree(path, err);
	}
	if (!err->status && !nla_sync(part, err) && !nla_rmtree(done, err) && rename(part, done))
		nla_fail(err, "cannot rename '%s' to '%s': %s", part, done, strerror(errno));
	return err->status || nla_sync(folder, err) ? err->status : NLA_OK;
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
	return err->status || nla_sync(folder, err) ? err->status : keep_settings(folder, part, err);
}

/* ---- writing ---- */

struct nla_actset_writer {
	char *folder;
	struct nla_sidecar meta;
	enum nla_st_dtype dtype;
	struct nla_log vectors, rows, marks;
	struct nla_str line;
	uint16_t *half; /* [D] */
	float *stored;  /* [D]: the vector as a reader will see it */
	int64_t n;
};

static size_t row_bytes(const struct nla_actset_writer *w) { return (size_t)w->meta.d_model * nla_st_dtype_size(w->dtype); }

void nla_actset_abort(struct nla_actset_writer *w)
{
	if (!w)
		return;
	nla_log_close(&w->vectors, NLA_IGNORED);
	nla_log_close(&w->rows, NLA_IGNORED);
	nla_log_close(&w->marks, NLA_IGNORED);
	nla_sidecar_release(&w->meta);
	nla_str_release(&w->line);
	free(w->half);
	free(w->stored);
	free(w->folder);
	free(w);
}

/* Cuts off what follows the first n rows. */
static enum nla_status keep(struct nla_actset_writer *w, int64_t n, struct nla_err *err)
{
	const struct nla_log *const logs[] = { &w->rows, &w->vectors };
	struct nla_map map;
	if (nla_map_open(&map, w->rows.path, err))
		return err->status;
	size_t at = 0, vectors = (size_t)n * row_bytes(w);
	int64_t left = n;
	for (; left && at < map.size; at++)
		left -= ((const char *)map.data)[at] == '\n';
	nla_map_close(&map);
	if (left)
		return nla_fail(err, "'%s' has %" PRId64 " rows, want %" PRId64, w->rows.path, n - left, n);
	if (lseek(w->vectors.fd, 0, SEEK_END) < (off_t)vectors)
		return nla_fail(err, "'%s' is shorter than what was written to it", w->vectors.path);
	for (int i = 0; i < 2 && !err->status; i++)
		if (ftruncate(logs[i]->fd, (off_t)(i ? vectors : at)))
			nla_fail(err, "cannot write '%s': %s", logs[i]->path, strerror(errno));
	return err->status;
}

enum nla_status nla_actset_create(struct nla_actset_writer **out, const char *folder, const struct nla_sidecar *meta,
				  enum nla_st_dtype dtype, int64_t n, struct nla_err *err)
{
	const size_t d = (size_t)meta->d_model;
	nla_auto char *part = nla_path_join(folder, NLA_ACTSET_PART);
	*out = NULL;
	if (check_folder(folder, err) || nla_mkdirs(part, err))
		return err->status;
	struct nla_actset_writer *w = nla_alloc(1, sizeof(*w));
	*w = (struct nla_actset_writer){ .folder = nla_strdup(folder), .dtype = dtype, .line = NLA_STR_INIT, .n = n,
					 .half = nla_alloc(d, sizeof(*w->half)), .stored = nla_alloc(d, sizeof(*w->stored)) };
	nla_sidecar_copy(&w->meta, meta);
	free(w->meta.kind);
	w->meta.kind = nla_strdup("nla_dataset");
	if (nla_log_open(&w->vectors, part, VECTORS_PART, err) || nla_log_open(&w->rows, part, ROWS_PART, err) ||
	    nla_log_open(&w->marks, part, NLA_ACTSET_MARKS, err) || keep(w, n, err))
		nla_actset_abort(w);
	else
		*out = w;
	return err->status;
}

static void add_line(struct nla_str *s, const struct nla_row *row)
{
	nla_auto_json cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "doc_id", row->doc_id);
	if (row->n_raw_tokens >= 0)
		cJSON_AddNumberToObject(json, "n_raw_tokens", (double)row->n_raw_tokens);
	cJSON_AddStringToObject(json, "text", row->text ? row->text : "");
	if (row->explanation)
		cJSON_AddStringToObject(json, "explanation", row->explanation);
	if (row->next.n)
		cJSON_AddItemToObject(json, "next",
				      cJSON_CreateStringArray((const char *const *)row->next.data, (int)row->next.n));
	nla_json_add(s, json, false, 0);
	nla_str_addc(s, '\n');
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
	nla_log_add(&w->vectors, bf16 ? (const char *)w->half : (const char *)w->stored, row_bytes(w));
	nla_str_reset(&w->line);
	add_line(&w->line, row);
	nla_log_add(&w->rows, w->line.buf, w->line.len);
	w->n++;
	return NLA_OK;
}

enum nla_status nla_actset_mark(struct nla_actset_writer *w, const char *line, struct nla_err *err)
{
	if (nla_log_sync(&w->vectors, err) || nla_log_sync(&w->rows, err))
		return err->status;
	nla_log_add(&w->marks, line, strlen(line));
	return nla_log_sync(&w->marks, err);
}

/* The vectors as a tensor, and their baselines. */
static enum nla_status pack_vectors(struct nla_actset_writer *w, const char *part, struct nla_err *err)
{
	const size_t d = (size_t)w->meta.d_model;
	struct nla_st_entry entry = { "activations", w->dtype, 2, .shape = { w->n, w->meta.d_model } };
	nla_auto char *from = nla_path_join(part, VECTORS_PART), *to = nla_path_join(part, DATA_NAME);
	NLA_AUTO(nla_baseline_release) struct nla_baseline baseline = { 0 };
	NLA_AUTO(nla_map_close) struct nla_map map = { 0 };
	struct nla_st_writer *out;
	if (nla_map_open(&map, from, err))
		return err->status;
	nla_baseline_init(&baseline, w->meta.d_model);
	for (int64_t i = 0; i < NLA_MIN(w->n, NLA_BASELINE_ROWS); i++) {
		const void *row = (const char *)map.data + (size_t)i * row_bytes(w);
		if (w->dtype == NLA_ST_BF16)
			nla_bf16_to_f32(row, w->stored, d);
		nla_baseline_add(&baseline, w->dtype == NLA_ST_BF16 ? w->stored : row);
	}
	nla_baseline_get(&baseline, &w->meta.baseline_var, &w->meta.baseline_mean);
	if (!nla_st_writer_open(&out, to, &entry, 1, err)) {
		nla_st_writer_add(out, map.data, map.size, err);
		nla_st_writer_close(out, err);
	}
	return err->status;
}

enum nla_status nla_actset_finish(struct nla_actset_writer *w, struct nla_err *err)
{
	nla_auto char *part = nla_path_join(w->folder, NLA_ACTSET_PART);
	nla_auto char *lines = nla_path_join(part, ROWS_PART), *rows = nla_path_join(part, NLA_ACTSET_ROWS);
	w->meta.n_rows = w->n;
	if (!w->n)
		nla_fail(err, "cannot write activation set '%s': no rows", w->folder);
	else if (!nla_log_close(&w->vectors, err) && !nla_log_close(&w->rows, err) && !nla_copy_file(lines, rows, true, err) &&
		 !pack_vectors(w, part, err) && !nla_sidecar_write(&w->meta, part, err))
		nla_actset_publish(w->folder, err);
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
		nla_copy_file(from, to, false, err); /* another file system, or one without hard links */
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
	if (!*explanation)
		cJSON_DeleteItemFromObjectCaseSensitive(json, "explanation");
	else if (cJSON_GetObjectItemCaseSensitive(json, "explanation"))
		cJSON_ReplaceItemInObjectCaseSensitive(json, "explanation", cJSON_CreateString(explanation));
	else
		cJSON_AddItemToObject(json, "explanation", cJSON_CreateString(explanation));
	nla_json_add(rows, json, false, 0);
	cJSON_Delete(json);
}

static enum nla_status write_rows(const struct nla_actset *set, const char *to, char *const *explanation, struct nla_err *err)
{
	nla_auto char *from = nla_path_join(set->path, NLA_ACTSET_ROWS), *path = nla_path_join(to, NLA_ACTSET_ROWS);
	NLA_AUTO(nla_str_release) struct nla_str rows = NLA_STR_INIT;
	struct nla_lines lines;
	const char *line;
	if (nla_lines_open(&lines, from, err))
		return err->status;
	for (int64_t i = 0; i < set->n && !err->status && (line = nla_lines_next_filled(&lines)); i++) {
		if (explanation[i])
			add_explained(&rows, line, lines.line.len, explanation[i], from, err);
		else
			nla_str_addn(&rows, line, lines.line.len);
		nla_str_addc(&rows, '\n');
	}
	if (!nla_lines_close(&lines, err) && !err->status)
		nla_file_write(path, rows.buf, rows.len, true, err);
	return err->status;
}

enum nla_status nla_actset_explain(const struct nla_actset *from, const char *to, char *const *explanation, struct nla_err *err)
{
	nla_auto char *meta = nla_path_join(from->path, NLA_SIDECAR_NAME), *copy = nla_path_join(to, NLA_SIDECAR_NAME);
	if (!nla_mkdirs(to, err) && !share_data(from->path, to, err) && !write_rows(from, to, explanation, err))
		nla_copy_file(meta, copy, false, err);
	return err->status;
}
