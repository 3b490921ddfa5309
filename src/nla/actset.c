/*
 * actset - reading: vectors [N, D] in a memory map, rows (text and ids) in memory. The baselines of vectors.
 */
#include "nla/actset.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/utf8.h"
#include "nla/folder.h"

#define MAX_CHECKED (64 << 20) /* numbers looked at when a set is opened */
#define CHECKED_ENDS 1024      /* rows at each end, when there are more */
#define EPS 1e-12

/* ---- baselines ---- */

void nla_baseline_init(struct nla_baseline *b, int64_t d)
{
	*b = (struct nla_baseline){ .d = d, .sum = nla_alloc((size_t)d, sizeof(*b->sum)) };
}

void nla_baseline_release(struct nla_baseline *b)
{
	free(b->sum);
	memset(b, 0, sizeof(*b));
}

void nla_baseline_add(struct nla_baseline *b, const float *v)
{
	double sq = 0;
	for (int64_t i = 0; i < b->d; i++)
		sq += (double)v[i] * v[i];
	const double scale = sqrt((double)b->d) / fmax(sqrt(sq), EPS);
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
	double mu_sq = 0;
	for (int64_t i = 0; i < b->d; i++)
		mu_sq += b->sum[i] / n * (b->sum[i] / n);
	const double scale = sqrt(d) / fmax(sqrt(mu_sq), EPS); /* n(mu) = scale mu */
	*var = fmax(0, (b->sum_sq / n - mu_sq) / d);
	*mean = fmax(0, (b->sum_sq / n - 2 * scale * mu_sq + scale * scale * mu_sq) / d);
}

/* ---- reading ---- */

enum nla_status nla_row_finite(const float *v, int64_t d, int64_t row, const char *doc_id, struct nla_err *err)
{
	for (int64_t i = 0; i < d; i++)
		if (!isfinite(v[i]))
			return nla_fail(err, "row %" PRId64 " (document '%s') has %s at dimension %" PRId64, row, doc_id,
					isnan(v[i]) ? "a NaN" : "an infinity", i);
	return NLA_OK;
}

static enum nla_status read_vector(const struct nla_actset *set, int64_t row, float *out, struct nla_err *err)
{
	const struct nla_shard *shard = set->shards + set->n_shards - 1;
	while (shard->first > row)
		shard--;
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
	if (nla_row_finite(out, set->d, row, set->rows[row].doc_id, err))
		nla_err_context(err, "activation set '%s'", set->path);
	return err->status;
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

int64_t nla_actset_another(const struct nla_actset *set, const int64_t *rows, int64_t n, int64_t i)
{
	for (int64_t j = 1; j < n; j++)
		if (strcmp(set->rows[rows[(i + j) % n]].doc_id, set->rows[rows[i]].doc_id))
			return rows[(i + j) % n];
	return -1;
}

static enum nla_status add_shard(struct nla_actset *set, const struct nla_st_entry *e, struct nla_err *err)
{
	if (e->ndim != 2 || e->shape[1] != set->d) {
		nla_auto char *shape = nla_st_shape_text(e->shape, e->ndim);
		nla_fail(err, "tensor '%s' has shape %s, want [N, %" PRId64 "]", e->name, shape, set->d);
	} else if (e->dtype != NLA_ST_F32 && e->dtype != NLA_ST_BF16) {
		nla_fail(err, "tensor '%s' is %s, want F32 or BF16", e->name, nla_st_dtype_name(e->dtype));
	} else {
		set->shards[set->n_shards++] = (struct nla_shard){ e, set->n };
		set->n += e->shape[0];
	}
	return err->status;
}

static enum nla_status find_shards(struct nla_actset *set, struct nla_err *err)
{
	const bool one = nla_st_find(&set->st, "activations") != NULL;
	set->shards = nla_alloc(set->st.n_entries + 1, sizeof(*set->shards));
	for (size_t i = 0; i < (one ? 1 : set->st.n_entries); i++) {
		nla_auto char *name = one ? nla_strdup("activations") : nla_format("activations.%zu", i);
		const struct nla_st_entry *e = nla_st_find(&set->st, name);
		if (!e)
			break;
		if (add_shard(set, e, err))
			return err->status;
	}
	if (!set->n_shards)
		return nla_fail(err, "it has no tensor 'activations', but %s",
				set->st.n_entries ? set->st.entries->name : "none");
	if (set->n_shards != set->st.n_entries)
		return nla_fail(err, "it holds %zu tensors, but only %zu are 'activations' in row order", set->st.n_entries,
				set->n_shards);
	if (!set->n)
		return nla_fail(err, "it has no rows");
	return NLA_OK;
}

static enum nla_status read_row(struct nla_row *row, const char *line, size_t n, const char *name, struct nla_err *err)
{
	const char *doc_id, *text, *explanation;
	const cJSON *next;
	nla_auto_json cJSON *json = NULL;
	if (nla_json_parse(line, n, name, &json, err) || nla_json_need_str(json, name, "doc_id", &doc_id, err) ||
	    nla_json_int(json, name, "n_raw_tokens", -1, &row->n_raw_tokens, err) ||
	    nla_json_str(json, name, "text", "", &text, err) ||
	    nla_json_str(json, name, "explanation", NULL, &explanation, err))
		return err->status;
	if (row->n_raw_tokens < 0 && cJSON_IsNumber(nla_json_at(json, "n_raw_tokens")))
		return nla_fail(err, "'%s': 'n_raw_tokens' is %" PRId64 ", want a count", name, row->n_raw_tokens);
	row->doc_id = nla_strdup(doc_id);
	row->text = nla_strdup(text);
	size_t size = explanation ? strlen(explanation) : 0;
	explanation = explanation ? nla_utf8_strip(explanation, size, &size) : NULL; /* as a response's */
	row->explanation = size ? nla_strndup(explanation, size) : NULL;
	cJSON_ArrayForEach(next, nla_json_at(json, "next"))
		if (cJSON_IsString(next))
			nla_strs_push(&row->next, next->valuestring);
	return NLA_OK;
}

void nla_row_release(struct nla_row *row)
{
	free(row->doc_id);
	free(row->text);
	free(row->explanation);
	nla_strs_release(&row->next);
}

static enum nla_status read_rows(struct nla_actset *set, struct nla_err *err)
{
	nla_auto char *path = nla_path_join(set->path, NLA_ACTSET_ROWS);
	struct nla_lines lines;
	const char *line;
	set->rows = nla_alloc((size_t)set->n, sizeof(*set->rows));
	if (nla_lines_open(&lines, path, err))
		return err->status;
	int64_t n = 0;
	for (; !err->status && (line = nla_lines_next_filled(&lines)); n++) {
		nla_auto char *name = nla_format("%s:%zu", path, lines.number);
		if (n < set->n)
			read_row(&set->rows[n], line, lines.line.len, name, err);
	}
	if (!nla_lines_close(&lines, err) && !err->status && n != set->n)
		nla_fail(err, "%" PRId64 " vectors, but %" PRId64 " lines in " NLA_ACTSET_ROWS, set->n, n);
	return err->status;
}

static enum nla_status check_vectors(const struct nla_actset *set, struct nla_err *err)
{
	const bool all = set->n <= MAX_CHECKED / set->d;
	nla_auto float *v = nla_alloc((size_t)set->d, sizeof(*v));
	for (int64_t row = 0; row < set->n && !err->status; row++) {
		if (!all && row == CHECKED_ENDS)
			row = NLA_MAX(row, set->n - CHECKED_ENDS);
		read_vector(set, row, v, err);
	}
	return err->status;
}

enum nla_status nla_actset_baselines(const struct nla_actset *set, const int64_t *rows, int64_t n, double *var, double *mean,
				     struct nla_err *err)
{
	nla_auto float *v = nla_alloc((size_t)set->d, sizeof(*v));
	NLA_AUTO(nla_baseline_release) struct nla_baseline b;
	nla_baseline_init(&b, set->d);
	for (int64_t i = 0; i < n && !read_vector(set, rows ? rows[i] : i, v, err); i++)
		nla_baseline_add(&b, v);
	nla_baseline_get(&b, var, mean);
	return err->status;
}

/* Of a set made elsewhere; what it stores stays. */
static enum nla_status fill_baselines(struct nla_actset *set, struct nla_err *err)
{
	double *const var = &set->meta.baseline_var, *const mean = &set->meta.baseline_mean, both[2];
	const int64_t n = NLA_MIN(set->n, NLA_BASELINE_ROWS);
	if ((!isnan(*var) && !isnan(*mean)) || nla_actset_baselines(set, NULL, n, &both[0], &both[1], err))
		return err->status;
	*var = isnan(*var) ? both[0] : *var;
	*mean = isnan(*mean) ? both[1] : *mean;
	nla_say("'%s' stores no baselines: of its first %" PRId64 " rows, raw variance %.4f, mean-normalised %.4f", set->path,
		n, *var, *mean);
	return NLA_OK;
}

enum nla_status nla_actset_open(struct nla_actset *set, const char *folder, int64_t d, struct nla_err *err)
{
	nla_auto char *path = nla_path_join(folder, NLA_SIDECAR_NAME);
	*set = (struct nla_actset){ .path = nla_strdup(folder) };
	nla_sidecar_init(&set->meta);
	if (!nla_is_dir(folder))
		nla_fail(err, "cannot open activation set '%s': no such folder", folder);
	else if (!nla_exists(path) && nla_exists_in(folder, NLA_ACTSET_PART))
		nla_fail(err, "activation set '%s' is not complete: nla-extract was stopped, and continues with --resume",
			 folder);
	else if (!nla_exists(path))
		nla_fail(err, "activation set '%s' is not complete: it has no " NLA_SIDECAR_NAME " (nla-extract --sidecar "
			 "gives one to a set made elsewhere)", folder);
	if (err->status || nla_sidecar_read(&set->meta, folder, err) ||
	    nla_sidecar_need(&set->meta, NLA_NEED_ANY | NLA_NEED_BLOCK, path, err))
		goto out;
	set->d = set->meta.d_model;
	if (strcmp(set->meta.kind, "nla_dataset"))
		nla_fail(err, "activation set '%s': its sidecar is of kind '%s', want 'nla_dataset'", folder, set->meta.kind);
	else if (d && set->d != d)
		nla_fail(err, "activation set '%s' has vectors of width %" PRId64 ", want %" PRId64, folder, set->d, d);
	else if (nla_st_open_folder(&set->st, folder, "activations", err) || find_shards(set, err))
		nla_err_context(err, "activation set '%s'", folder);
	else if (set->meta.n_rows >= 0 && set->meta.n_rows != set->n)
		nla_fail(err, "activation set '%s': %" PRId64 " vectors, but its sidecar says %" PRId64, folder, set->n,
			 set->meta.n_rows);
	else if (read_rows(set, err))
		nla_err_context(err, "activation set '%s'", folder);
	else if (!check_vectors(set, err))
		fill_baselines(set, err);
out:
	if (err->status)
		nla_actset_close(set);
	return nla_folder_lead(err, folder, NLA_SIDECAR_NAME, NULL);
}

void nla_actset_close(struct nla_actset *set)
{
	for (int64_t i = 0; set->rows && i < set->n; i++)
		nla_row_release(&set->rows[i]);
	free(set->rows);
	free(set->shards);
	free(set->path);
	nla_sidecar_release(&set->meta);
	if (set->st.path)
		nla_st_close(&set->st);
	*set = (struct nla_actset){ 0 };
	nla_sidecar_init(&set->meta);
}
