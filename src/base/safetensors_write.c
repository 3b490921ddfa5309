/*
 * safetensors - writing (see safetensors.h). Header, then the data as they come, into PATH.tmp; at close it is synced and
 * renamed.
 */
#include "base/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"

struct nla_st_writer {
	FILE *f;
	char *path, *tmp;
	uint64_t written, want; /* bytes of data */
};

static enum nla_status cannot_write(const struct nla_st_writer *w, struct nla_err *err)
{
	return nla_fail(err, "cannot write '%s': %s", w->tmp, strerror(errno));
}

static uint64_t bytes_of(const struct nla_st_entry *e)
{
	uint64_t bytes = nla_st_dtype_size(e->dtype);
	for (int i = 0; i < e->ndim; i++)
		bytes *= (uint64_t)e->shape[i];
	return bytes;
}

/* 8 bytes of length and the JSON, with spaces to a multiple of 8. */
static enum nla_status write_header(struct nla_st_writer *w, const struct nla_st_entry *entries, size_t n, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str json = NLA_STR_INIT;
	unsigned char length[8];
	nla_str_add(&json, "{\"__metadata__\":{\"format\":\"pt\"}");
	for (const struct nla_st_entry *e = entries; e < entries + n; e++) {
		nla_auto char *shape = nla_st_shape_text(e->shape, e->ndim);
		nla_str_addc(&json, ',');
		nla_json_add_str(&json, e->name, strlen(e->name));
		nla_str_addf(&json, ":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
			     nla_st_dtype_name(e->dtype), shape, w->want, w->want + bytes_of(e));
		w->want += bytes_of(e);
	}
	nla_str_addc(&json, '}');
	while (json.len % 8)
		nla_str_addc(&json, ' ');
	for (int i = 0; i < 8; i++)
		length[i] = (unsigned char)((uint64_t)json.len >> (8 * i));
	if (fwrite(length, 1, 8, w->f) != 8 || fwrite(json.buf, 1, json.len, w->f) != json.len)
		cannot_write(w, err);
	return err->status;
}

enum nla_status nla_st_writer_open(struct nla_st_writer **out, const char *path, const struct nla_st_entry *entries, size_t n,
				   struct nla_err *err)
{
	struct nla_st_writer *w = nla_alloc(1, sizeof(*w));
	*out = NULL;
	*err = (struct nla_err)NLA_ERR_INIT;
	w->path = nla_strdup(path);
	w->tmp = nla_format("%s.tmp", path);
	/* a link could lead anywhere */
	const int fd = open(w->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
	w->f = fd < 0 ? NULL : fdopen(fd, "wb");
	if (!w->f)
		nla_fail(err, "cannot create '%s': %s", w->tmp, strerror(errno));
	else if (!write_header(w, entries, n, err))
		*out = w;
	return *out ? NLA_OK : nla_st_writer_close(w, err);
}

enum nla_status nla_st_writer_add(struct nla_st_writer *w, const void *bytes, size_t n, struct nla_err *err)
{
	w->written += n;
	return n && fwrite(bytes, 1, n, w->f) != n ? cannot_write(w, err) : NLA_OK;
}

enum nla_status nla_st_writer_close(struct nla_st_writer *w, struct nla_err *err)
{
	nla_auto char *dir = nla_path_dir(w->path);
	if (!err->status && w->written != w->want)
		NLA_BUG("'%s' has %" PRIu64 " bytes of %" PRIu64, w->path, w->written, w->want);
	if (!err->status && (fflush(w->f) || fsync(fileno(w->f))))
		cannot_write(w, err);
	if (w->f && fclose(w->f) && !err->status)
		cannot_write(w, err);
	if (!err->status && rename(w->tmp, w->path))
		nla_fail(err, "cannot rename '%s' to '%s': %s", w->tmp, w->path, strerror(errno));
	if (!err->status)
		nla_sync(dir, err);
	else
		unlink(w->tmp);
	free(w->tmp);
	free(w->path);
	free(w);
	return err->status;
}

void nla_st_writer_abort(struct nla_st_writer *w)
{
	struct nla_err err = { .status = NLA_FAIL };
	if (w)
		nla_st_writer_close(w, &err);
}
