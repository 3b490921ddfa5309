/*
 * actset - see actset.h.
 *
 * The reader keeps the vectors in the memory map and the rows (text and ids) in memory. The writer streams vectors and rows to
 * temporary names; finish gives the vectors, then the rows, then the sidecar their names, in this order, so that a sidecar in
 * the folder means a whole set.
 */
#include "nla/actset.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "nla/actset_impl.h"

#define ROWS_TMP "rows.tmp.jsonl.gz" /* ends in .gz, which is what tells nla_log to compress */
#define MAX_CHECKED (64 << 20) /* numbers looked at when a set is opened */
#define CHECKED_ENDS 1024      /* rows at each end, when there are more */
#define MAX_BASELINE_ROWS 50000
#define FLUSH_BYTES (4 << 20)
#define EPS 1e-12

/* ---- baselines ---- */

void nla_baseline_init(struct nla_baseline *b, int64_t d)
{
	b->d = d;
	b->n = 0;
	b->sum = nla_alloc((size_t)d, sizeof(*b->sum));
	b->sum_sq = 0;
}

void nla_baseline_release(struct nla_baseline *b)
{
	free(b->sum);
	memset(b, 0, sizeof(*b));
}

void nla_baseline_add(struct nla_baseline *b, const float *v)
{
	double sq = 0, scale;

	for (int64_t i = 0; i < b->d; i++)
		sq += (double)v[i] * v[i];
	scale = sqrt((double)b->d) / fmax(sqrt(sq), EPS);
	for (int64_t i = 0; i < b->d; i++)
		b->sum[i] += v[i] * scale;
	b->sum_sq += sq * scale * scale;
	b->n++;
}

/*
 * With mu = mean n(v), the cross terms of both squares collapse to products of |mu|:
 *	D var  = mean |n(v) - mu|^2    = mean |n(v)|^2 - |mu|^2
 *	D mean = mean |n(v) - n(mu)|^2 = mean |n(v)|^2 - 2 mu.n(mu) + |n(mu)|^2
 */
void nla_baseline_get(const struct nla_baseline *b, double *var, double *mean)
{
	const double n = (double)b->n, d = (double)b->d;
	double mu_sq = 0, mu, scale;

	for (int64_t i = 0; i < b->d; i++)
		mu_sq += b->sum[i] / n * (b->sum[i] / n);
	mu = sqrt(mu_sq);
	scale = sqrt(d) / fmax(mu, EPS); /* n(mu) = scale mu */
	*var = fmax(0, (b->sum_sq / n - mu_sq) / d);
	*mean = fmax(0, (b->sum_sq / n - 2 * scale * mu_sq + scale * scale * mu_sq) / d);
}

/* ---- reading ---- */

static const struct nla_shard *shard_of(const struct nla_actset *set, int64_t row)
{
	size_t low = 0, high = set->n_shards;

	while (high - low > 1) {
		const size_t middle = (low + high) / 2;

		if (set->shards[middle].first <= row)
			low = middle;
		else
			high = middle;
	}
	return &set->shards[low];
}

static enum nla_status read_vector(const struct nla_actset *set, int64_t row, float *out, struct nla_err *err)
{
	const struct nla_shard *shard = shard_of(set, row);
	const size_t d = (size_t)set->d, at = (size_t)(row - shard->first) * d;
	const char *data = shard->entry->data;

	if (shard->entry->dtype == NLA_ST_BF16) {
		uint16_t half[512]; /* the map may be unaligned */

		for (size_t i = 0, n; i < d; i += n) {
			n = NLA_MIN(d - i, NLA_LEN(half));
			memcpy(half, data + (at + i) * sizeof(*half), n * sizeof(*half));
			nla_bf16_to_f32(half, out + i, n);
		}
	} else {
		memcpy(out, data + at * sizeof(*out), d * sizeof(*out));
	}
	for (size_t i = 0; i < d; i++)
		if (!isfinite(out[i]))
			return nla_fail(err, "activation set '%s': row %" PRId64 " has %s at dimension %zu", set->path, row,
					isnan(out[i]) ? "a NaN" : "an infinity", i);
	return NLA_OK;
}

enum nla_status nla_actset_vectors(const struct nla_actset *set, const int64_t *rows, size_t n_rows, float *out,
				   struct nla_err *err)
{
	for (size_t i = 0; i < n_rows; i++) {
		if (rows[i] < 0 || rows[i] >= set->n)
			NLA_BUG("row %" PRId64 " of a set of %" PRId64, rows[i], set->n);
		if (read_vector(set, rows[i], out + i * (size_t)set->d, err))
			return err->status;
	}
	return NLA_OK;
}

static enum nla_status add_shard(struct nla_actset *set, const struct nla_st_entry *e, struct nla_err *err)
{
	char *shape = nla_st_shape_text(e->shape, e->ndim);

	if (e->ndim != 2 || e->shape[1] != set->d)
		nla_fail(err, "activation set '%s': tensor '%s' has shape %s, want [N, %" PRId64 "]", set->path, e->name, shape,
			 set->d);
	else if (e->dtype != NLA_ST_F32 && e->dtype != NLA_ST_BF16)
		nla_fail(err, "activation set '%s': tensor '%s' is %s, want F32 or BF16", set->path, e->name,
			 nla_st_dtype_name(e->dtype));
	free(shape);
	if (err->status)
		return err->status;
	set->shards = nla_realloc(set->shards, set->n_shards + 1, sizeof(*set->shards));
	set->shards[set->n_shards++] = (struct nla_shard){ e, set->n };
	set->n += e->shape[0];
	return NLA_OK;
}

static enum nla_status find_shards(struct nla_actset *set, struct nla_err *err)
{
	const struct nla_st_entry *e = nla_st_find(&set->st, "activations");
	char name[40];

	if (e && add_shard(set, e, err))
		return err->status;
	for (size_t i = 0; !e; i++) {
		const struct nla_st_entry *part;

		snprintf(name, sizeof(name), "activations.%zu", i);
		part = nla_st_find(&set->st, name);
		if (!part && i)
			break;
		if (!part)
			return nla_fail(err, "activation set '%s' has no tensor 'activations'", set->path);
		if (add_shard(set, part, err))
			return err->status;
	}
	if (set->n_shards != set->st.n_entries)
		return nla_fail(err, "activation set '%s' holds %zu tensors, but only %zu are 'activations' in row order",
				set->path, set->st.n_entries, set->n_shards);
	return NLA_OK;
}

static enum nla_status check_finite(const struct nla_actset *set, struct nla_err *err)
{
	const bool all = set->n <= MAX_CHECKED / set->d;
	float *v = nla_alloc((size_t)set->d, sizeof(*v));

	for (int64_t row = 0; row < set->n && !err->status; row++) {
		if (!all && row == CHECKED_ENDS)
			row = NLA_MAX(row, set->n - CHECKED_ENDS);
		read_vector(set, row, v, err);
	}
	free(v);
	return err->status;
}

static enum nla_status read_row(struct nla_row *row, const char *line, size_t n, const char *name, struct nla_err *err)
{
	const char *doc_id, *text, *explanation;
	const cJSON *next;
	cJSON *json;

	if (nla_json_parse(line, n, name, &json, err))
		return err->status;
	if (nla_json_need_str(json, name, "doc_id", &doc_id, err) ||
	    nla_json_int(json, name, "n_raw_tokens", -1, &row->n_raw_tokens, err) ||
	    nla_json_str(json, name, "text", "", &text, err) ||
	    nla_json_str(json, name, "explanation", NULL, &explanation, err))
		goto out;
	if (row->n_raw_tokens < 0 && cJSON_IsNumber(nla_json_at(json, "n_raw_tokens"))) {
		nla_fail(err, "'%s': 'n_raw_tokens' is %" PRId64 ", want a count", name, row->n_raw_tokens);
		goto out;
	}
	row->doc_id = nla_strdup(doc_id);
	row->text = nla_strdup(text);
	row->explanation = explanation && *explanation ? nla_strdup(explanation) : NULL;
	cJSON_ArrayForEach(next, nla_json_at(json, "next"))
		if (cJSON_IsString(next))
			nla_strs_push(&row->next, next->valuestring);
out:
	cJSON_Delete(json);
	return err->status;
}

static enum nla_status read_rows(struct nla_actset *set, struct nla_err *err)
{
	char *path = nla_path_join(set->path, ROWS_NAME);
	struct nla_lines lines;
	const char *line;
	int64_t n = 0;

	set->rows = nla_alloc((size_t)set->n + 1, sizeof(*set->rows));
	if (nla_lines_open(&lines, path, err))
		goto out;
	while (!err->status && (line = nla_lines_next(&lines))) {
		if (n < set->n) {
			char *name = nla_format("%s:%zu", path, lines.number);

			read_row(&set->rows[n], line, lines.line.len, name, err);
			free(name);
		}
		n++;
	}
	if (!nla_lines_close(&lines, err) && !err->status && n != set->n)
		nla_fail(err, "activation set '%s': %" PRId64 " vectors, but %" PRId64 " lines in %s", set->path, set->n, n,
			 ROWS_NAME);
out:
	free(path);
	return err->status;
}

static enum nla_status check_meta(const struct nla_actset *set, int64_t d, struct nla_err *err)
{
	if (strcmp(set->meta.kind, "nla_dataset"))
		return nla_fail(err, "activation set '%s': its sidecar is of kind '%s', want 'nla_dataset'", set->path,
				set->meta.kind);
	if (d && set->meta.d_model != d)
		return nla_fail(err, "activation set '%s' has vectors of width %" PRId64 ", want %" PRId64, set->path,
				set->meta.d_model, d);
	return NLA_OK;
}

enum nla_status nla_actset_open(struct nla_actset *set, const char *folder, int64_t d, struct nla_err *err)
{
	char *meta = nla_path_join(folder, META_NAME);

	memset(set, 0, sizeof(*set));
	nla_sidecar_init(&set->meta);
	*err = (struct nla_err)NLA_ERR_INIT;
	set->path = nla_strdup(folder);
	if (!nla_is_dir(folder)) {
		nla_fail(err, "cannot open activation set '%s': no such folder", folder);
		goto out;
	}
	if (!nla_exists(meta)) {
		nla_fail(err, "activation set '%s' is not complete: it has no %s", folder, META_NAME);
		goto out;
	}
	if (nla_sidecar_read(&set->meta, folder, err) || check_meta(set, d, err))
		goto out;
	set->d = set->meta.d_model;
	if (nla_st_open_folder(&set->st, folder, "activations", err) || find_shards(set, err))
		goto out;
	if (set->meta.n_rows >= 0 && set->meta.n_rows != set->n) {
		nla_fail(err, "activation set '%s': %" PRId64 " vectors, but its sidecar says %" PRId64, folder, set->n,
			 set->meta.n_rows);
		goto out;
	}
	if (!set->n)
		nla_fail(err, "activation set '%s' has no rows", folder);
	else if (!read_rows(set, err))
		check_finite(set, err);
out:
	if (err->status)
		nla_actset_close(set);
	free(meta);
	return err->status;
}

void nla_actset_close(struct nla_actset *set)
{
	for (int64_t i = 0; set->rows && i < set->n; i++) {
		free(set->rows[i].doc_id);
		free(set->rows[i].text);
		free(set->rows[i].explanation);
		nla_strs_release(&set->rows[i].next);
	}
	free(set->rows);
	free(set->shards);
	free(set->path);
	nla_sidecar_release(&set->meta);
	if (set->st.path)
		nla_st_close(&set->st);
	memset(set, 0, sizeof(*set));
	nla_sidecar_init(&set->meta);
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

static void writer_free(struct nla_actset_writer *w)
{
	nla_baseline_release(&w->baseline);
	nla_sidecar_release(&w->meta);
	nla_str_release(&w->line);
	free(w->half);
	free(w->stored);
	free(w->folder);
	free(w->rows);
	free(w->rows_tmp);
	free(w->data);
	free(w);
}

void nla_actset_abort(struct nla_actset_writer *w)
{
	struct nla_err ignored = NLA_ERR_INIT;

	if (!w)
		return;
	nla_st_writer_abort(w->stream);
	if (w->log_open)
		nla_log_close(&w->log, &ignored);
	unlink(w->rows_tmp);
	writer_free(w);
}

static enum nla_status check_folder(const char *folder, struct nla_err *err)
{
	static const char *const names[] = { META_NAME, DATA_NAME, DATA_NAME ".index.json", ROWS_NAME };

	for (size_t i = 0; i < NLA_LEN(names); i++) {
		char *path = nla_path_join(folder, names[i]);
		const bool there = nla_exists(path);

		free(path);
		if (there && i == 0)
			return nla_fail(err, "cannot create activation set '%s': there is one already", folder);
		if (there)
			return nla_fail(err, "cannot create activation set '%s': it holds %s of a set that was not completed, "
					"remove it first", folder, names[i]);
	}
	return NLA_OK;
}

/* activations.safetensors, its index, the shards activations-00001-of-00002.safetensors. */
bool nla_actset_is_data(const char *name)
{
	return !strcmp(name, DATA_NAME) || !strcmp(name, DATA_NAME ".index.json") ||
	       (nla_starts_with(name, "activations-") && nla_ends_with(name, ".safetensors"));
}

enum nla_status nla_actset_remove(const char *folder, struct nla_err *err)
{
	static const char *const first[] = { META_NAME, ROWS_NAME, ROWS_TMP }; /* without a sidecar it is no set any more */
	struct nla_strs names = { 0 };

	if (!nla_is_dir(folder) || nla_list_dir(folder, &names, err))
		return err->status;
	for (size_t i = 0; i < NLA_LEN(first) + names.n && !err->status; i++) {
		const char *name = i < NLA_LEN(first) ? first[i] : names.data[i - NLA_LEN(first)];
		char *path = nla_path_join(folder, name);

		if ((i < NLA_LEN(first) || nla_actset_is_data(name)) && unlink(path) && errno != ENOENT)
			nla_fail(err, "cannot remove '%s': %s", path, strerror(errno));
		free(path);
	}
	nla_strs_release(&names);
	return err->status;
}

enum nla_status nla_actset_create(struct nla_actset_writer **out, const char *folder, const struct nla_sidecar *meta,
				  enum nla_st_dtype dtype, struct nla_err *err)
{
	struct nla_actset_writer *w;

	*out = NULL;
	if ((dtype != NLA_ST_F32 && dtype != NLA_ST_BF16) || meta->d_model < 1)
		NLA_BUG("activation set of dtype %d, width %" PRId64, (int)dtype, meta->d_model);
	if (check_folder(folder, err) || nla_mkdirs(folder, err))
		return err->status;
	w = nla_alloc(1, sizeof(*w));
	w->folder = nla_strdup(folder);
	w->rows = nla_path_join(folder, ROWS_NAME);
	w->rows_tmp = nla_path_join(folder, ROWS_TMP);
	w->data = nla_path_join(folder, DATA_NAME);
	nla_sidecar_init(&w->meta);
	nla_sidecar_copy(&w->meta, meta);
	free(w->meta.kind);
	w->meta.kind = nla_strdup("nla_dataset");
	w->dtype = dtype;
	nla_str_init(&w->line);
	w->half = nla_alloc((size_t)meta->d_model, sizeof(*w->half));
	w->stored = nla_alloc((size_t)meta->d_model, sizeof(*w->stored));
	nla_baseline_init(&w->baseline, meta->d_model);
	unlink(w->rows_tmp); /* of a run that was killed: the log would append to it */
	if (nla_log_open(&w->log, w->rows_tmp, err))
		goto fail;
	w->log_open = true;
	const struct nla_st_entry entry = { "activations", dtype, 2, .shape = { -1, meta->d_model } };
	if (nla_st_writer_open(&w->stream, w->data, &entry, 1, err))
		goto fail;
	*out = w;
	return NLA_OK;
fail:
	nla_actset_abort(w);
	return err->status;
}

static void add_line(struct nla_str *s, const struct nla_row *row, const char *const *next, size_t n_next)
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
	for (size_t i = 0; next && i < n_next; i++) {
		nla_str_add(s, i ? "," : ",\"next\":[");
		nla_json_add_str(s, next[i], strlen(next[i]));
	}
	nla_str_add(s, next && n_next ? "]}\n" : "}\n");
}

enum nla_status nla_actset_add(struct nla_actset_writer *w, const struct nla_row *row, const float *v, const char *const *next,
			       size_t n_next, struct nla_err *err)
{
	const size_t d = (size_t)w->meta.d_model;
	const bool bf16 = w->dtype == NLA_ST_BF16;

	memcpy(w->stored, v, d * sizeof(*v));
	if (bf16) {
		nla_f32_to_bf16(v, w->half, d);
		nla_bf16_to_f32(w->half, w->stored, d);
	}
	for (size_t i = 0; i < d; i++)
		if (!isfinite(w->stored[i]))
			return nla_fail(err, "cannot write activation set '%s': row %" PRId64 " (document '%s') has %s at "
					"dimension %zu", w->folder, w->n, row->doc_id,
					isnan(w->stored[i]) ? "a NaN" : "an infinity", i);
	if (nla_st_writer_add(w->stream, bf16 ? (const void *)w->half : w->stored, d * nla_st_dtype_size(w->dtype), err))
		return err->status;
	add_line(&w->line, row, next, n_next);
	nla_log_add(&w->log, w->line.buf, w->line.len);
	if (w->log.pending.len >= FLUSH_BYTES && nla_log_flush(&w->log, err))
		return err->status;
	if (w->n < MAX_BASELINE_ROWS)
		nla_baseline_add(&w->baseline, w->stored);
	w->n++;
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
	if (rename(w->rows_tmp, w->rows)) {
		nla_fail(err, "cannot rename '%s' to '%s': %s", w->rows_tmp, w->rows, strerror(errno));
		goto undo;
	}
	nla_baseline_get(&w->baseline, &w->meta.baseline_var, &w->meta.baseline_mean);
	w->meta.n_rows = w->n;
	if (nla_sync(w->folder, err) || nla_sidecar_write(&w->meta, w->folder, err))
		goto undo;
	return NLA_OK;
undo:
	unlink(w->rows);
	unlink(w->data);
	return err->status;
}

enum nla_status nla_actset_finish(struct nla_actset_writer *w, struct nla_err *err)
{
	enum nla_status status = finish(w, err);

	nla_actset_abort(w); /* what is left: nothing, or the temporary files of a failure */
	return status;
}
