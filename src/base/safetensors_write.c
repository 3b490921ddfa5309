/*
 * safetensors - writing. The writers go through `struct out`, a temporary file that is renamed when it is whole. The stream of rows
 * reserves a header of fixed size, since the row count is known only at close; the format allows spaces behind the JSON.
 */
#include "base/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"

struct out {
	FILE *f;
	char *path, *tmp;
};

static enum nla_status out_fail(struct out *o, const char *doing, struct nla_err *err)
{
	return nla_fail(err, "cannot %s '%s': %s", doing, o->tmp, strerror(errno));
}

static enum nla_status out_open(struct out *o, const char *path, struct nla_err *err)
{
	o->path = nla_strdup(path);
	o->tmp = nla_format("%s.tmp", path);
	o->f = fopen(o->tmp, "wb");
	return o->f ? NLA_OK : out_fail(o, "create", err);
}

static enum nla_status out_write(struct out *o, const void *bytes, size_t n, struct nla_err *err)
{
	return n && fwrite(bytes, 1, n, o->f) != n ? out_fail(o, "write", err) : NLA_OK;
}

/* 8 bytes of length and the JSON, padded with spaces to `total` bytes, or to the next multiple of 8 when total is 0. */
static enum nla_status out_header(struct out *o, struct nla_str *json, size_t total, struct nla_err *err)
{
	unsigned char length[8];

	if (total && 8 + json->len > total)
		NLA_BUG("safetensors header of %zu bytes does not fit in %zu", json->len, total);
	while (total ? 8 + json->len < total : json->len % 8 != 0)
		nla_str_addc(json, ' ');
	for (int i = 0; i < 8; i++)
		length[i] = (unsigned char)((uint64_t)json->len >> (8 * i));
	return out_write(o, length, sizeof(length), err) || out_write(o, json->buf, json->len, err) ? err->status : NLA_OK;
}

/* On disk, then under its name; `failed` (an earlier error, already in err): removed. Releases o. */
static enum nla_status out_close(struct out *o, bool failed, struct nla_err *err)
{
	enum nla_status status = failed ? err->status : NLA_OK;
	char *dir = nla_path_dir(o->path);

	if (!failed && o->f && (fflush(o->f) || fsync(fileno(o->f))))
		status = out_fail(o, "write", err);
	if (o->f && fclose(o->f) && !failed && !status)
		status = out_fail(o, "write", err);
	if (!failed && !status && rename(o->tmp, o->path))
		status = nla_fail(err, "cannot rename '%s' to '%s': %s", o->tmp, o->path, strerror(errno));
	if (failed || status)
		unlink(o->tmp);
	else
		status = nla_sync(dir, err);
	free(dir);
	free(o->tmp);
	free(o->path);
	memset(o, 0, sizeof(*o));
	return status;
}

static void add_entry(struct nla_str *json, const struct nla_st_entry *e, uint64_t at)
{
	char *shape = nla_st_shape_text(e->shape, e->ndim);

	nla_str_add(json, json->len > 1 ? "," : "");
	nla_json_add_str(json, e->name, strlen(e->name));
	nla_str_addf(json, ":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
		     nla_st_dtype_name(e->dtype), shape, at, at + e->nbytes);
	free(shape);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct nla_st_entry *)a)->name, ((const struct nla_st_entry *)b)->name);
}

static void check_entries(const struct nla_st_entry *entries, size_t n)
{
	struct nla_st_entry *sorted = nla_alloc(n + 1, sizeof(*sorted));

	for (size_t i = 0; i < n; i++) {
		uint64_t bytes = nla_st_dtype_size(entries[i].dtype);

		for (int k = 0; k < entries[i].ndim; k++)
			bytes *= (uint64_t)entries[i].shape[k];
		if (bytes != entries[i].nbytes)
			NLA_BUG("tensor '%s' has %zu bytes, its shape %" PRIu64, entries[i].name, entries[i].nbytes, bytes);
		sorted[i] = entries[i];
	}
	qsort(sorted, n, sizeof(*sorted), by_name);
	for (size_t i = 1; i < n; i++)
		if (!strcmp(sorted[i - 1].name, sorted[i].name))
			NLA_BUG("tensor '%s' is written twice", sorted[i].name);
	free(sorted);
}

enum nla_status nla_st_write(const char *path, const struct nla_st_entry *entries, size_t n, struct nla_err *err)
{
	struct nla_str json = NLA_STR_INIT;
	struct out o = { 0 };
	uint64_t at = 0;
	bool failed;

	check_entries(entries, n);
	nla_str_add(&json, "{\"__metadata__\":{\"format\":\"pt\"}");
	for (size_t size = 8; size; size /= 2)
		for (size_t i = 0; i < n; i++)
			if (nla_st_dtype_size(entries[i].dtype) == size) {
				add_entry(&json, &entries[i], at);
				at += entries[i].nbytes;
			}
	nla_str_addc(&json, '}');
	failed = out_open(&o, path, err) || out_header(&o, &json, 0, err);
	for (size_t size = 8; size; size /= 2)
		for (size_t i = 0; i < n && !failed; i++)
			if (nla_st_dtype_size(entries[i].dtype) == size)
				failed = out_write(&o, entries[i].data, entries[i].nbytes, err);
	nla_str_release(&json);
	return out_close(&o, failed, err);
}

/* ---- streaming tensors one after the other ---- */

struct nla_st_parts {
	struct out out;
	uint64_t left; /* bytes still to come */
};

enum nla_status nla_st_parts_open(struct nla_st_parts **out, const char *path, const struct nla_st_entry *entries, size_t n,
				  struct nla_err *err)
{
	struct nla_st_parts *s = nla_alloc(1, sizeof(*s));
	struct nla_str json = NLA_STR_INIT;

	*out = NULL;
	nla_str_add(&json, "{\"__metadata__\":{\"format\":\"pt\"}");
	for (size_t i = 0; i < n; i++) {
		struct nla_st_entry e = entries[i];

		e.nbytes = nla_st_dtype_size(e.dtype);
		for (int k = 0; k < e.ndim; k++)
			e.nbytes *= (size_t)e.shape[k];
		add_entry(&json, &e, s->left);
		s->left += e.nbytes;
	}
	nla_str_addc(&json, '}');
	if (out_open(&s->out, path, err) || out_header(&s->out, &json, 0, err))
		nla_st_parts_abort(s);
	else
		*out = s;
	nla_str_release(&json);
	return err->status;
}

enum nla_status nla_st_parts_add(struct nla_st_parts *s, const void *bytes, size_t n, struct nla_err *err)
{
	if (n > s->left)
		NLA_BUG("%zu bytes for the %" PRIu64 " that are left of '%s'", n, s->left, s->out.path);
	s->left -= n;
	return out_write(&s->out, bytes, n, err);
}

enum nla_status nla_st_parts_close(struct nla_st_parts *s, struct nla_err *err)
{
	enum nla_status status;

	if (s->left)
		NLA_BUG("'%s' lacks %" PRIu64 " bytes", s->out.path, s->left);
	status = out_close(&s->out, false, err);
	free(s);
	return status;
}

void nla_st_parts_abort(struct nla_st_parts *s)
{
	struct nla_err ignored = NLA_ERR_INIT;

	if (!s)
		return;
	out_close(&s->out, true, &ignored);
	free(s);
}

/* ---- streaming one array of rows ---- */

struct nla_st_stream {
	struct out out;
	struct nla_st_entry entry;
	size_t row_bytes, header_bytes;
};

/* The header with the row count so far, in the room reserved for it. */
static enum nla_status stream_header(struct nla_st_stream *s, struct nla_err *err)
{
	struct nla_str json = NLA_STR_INIT;
	enum nla_status status;

	nla_str_add(&json, "{\"__metadata__\":{\"format\":\"pt\"}");
	add_entry(&json, &s->entry, 0);
	nla_str_addc(&json, '}');
	if (!s->header_bytes) /* two counts of at most 20 digits, where one digit each stands now */
		s->header_bytes = (8 + json.len + 40 + 7) / 8 * 8;
	status = out_header(&s->out, &json, s->header_bytes, err);
	nla_str_release(&json);
	return status;
}

enum nla_status nla_st_stream_open(struct nla_st_stream **out, const char *path, const char *name, enum nla_st_dtype dtype,
				   int64_t width, struct nla_err *err)
{
	struct nla_st_stream *s = nla_alloc(1, sizeof(*s));

	*out = NULL;
	s->entry.name = nla_strdup(name);
	s->entry.dtype = dtype;
	s->entry.ndim = 2;
	s->entry.shape[1] = width;
	s->row_bytes = (size_t)width * nla_st_dtype_size(dtype);
	if (out_open(&s->out, path, err) || stream_header(s, err)) {
		nla_st_stream_abort(s);
		return err->status;
	}
	*out = s;
	return NLA_OK;
}

enum nla_status nla_st_stream_rows(struct nla_st_stream *s, const void *rows, int64_t n, struct nla_err *err)
{
	if (out_write(&s->out, rows, (size_t)n * s->row_bytes, err))
		return err->status;
	s->entry.shape[0] += n;
	s->entry.nbytes += (size_t)n * s->row_bytes;
	return NLA_OK;
}

enum nla_status nla_st_stream_close(struct nla_st_stream *s, struct nla_err *err)
{
	enum nla_status status = NLA_OK;

	if (fseeko(s->out.f, 0, SEEK_SET))
		status = out_fail(&s->out, "write", err);
	if (!status)
		status = stream_header(s, err);
	status = out_close(&s->out, status != NLA_OK, err);
	free(s->entry.name);
	free(s);
	return status;
}

void nla_st_stream_abort(struct nla_st_stream *s)
{
	struct nla_err ignored = NLA_ERR_INIT;

	if (!s)
		return;
	out_close(&s->out, true, &ignored);
	free(s->entry.name);
	free(s);
}
