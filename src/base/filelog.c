/*
 * filelog - the line reader and the append-only writer of file.h.
 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define BOM "\xef\xbb\xbf" /* U+FEFF, which some editors put at the beginning of a file */

enum { CHUNK = 1 << 16, MAX_LINE = 64 << 20 };

struct lines_stream {
	gzFile gz;
	size_t at, n;
	char chunk[CHUNK];
};

enum nla_status nla_lines_open(struct nla_lines *l, const char *path, struct nla_err *err)
{
	*l = (struct nla_lines){ .line = NLA_STR_INIT };
	errno = 0;
	gzFile gz = gzopen(path, "rbe");
	if (!gz)
		return nla_fail(err, "cannot read '%s': %s", path, strerror(errno ? errno : ENOMEM));
	gzbuffer(gz, CHUNK);
	struct lines_stream *stream = nla_alloc(1, sizeof(*stream));
	stream->gz = gz;
	l->gz = stream;
	l->path = nla_strdup(path);
	return NLA_OK;
}

/* Refill the chunk: false at the end, and on an error, which zlib keeps until close. */
static bool lines_fill(struct nla_lines *l)
{
	struct lines_stream *stream = l->gz;
	int n = gzread(stream->gz, stream->chunk, CHUNK), code;
	stream->at = 0;
	stream->n = n > 0 ? (size_t)n : 0;
	if (n <= 0) {
		gzerror(stream->gz, &code);
		l->failed = n < 0 || code < 0;
	}
	return n > 0;
}

const char *nla_lines_next(struct nla_lines *l)
{
	struct lines_stream *stream = l->gz;
	bool any = false;
	if (!stream || l->failed)
		return NULL;
	nla_str_reset(&l->line);
	while (stream->at < stream->n || lines_fill(l)) {
		const char *from = stream->chunk + stream->at;
		const char *end = memchr(from, '\n', stream->n - stream->at);
		size_t n = end ? (size_t)(end - from) : stream->n - stream->at;
		l->failed = l->too_long = l->line.len + n > MAX_LINE; /* a small gzip file can hold one that fills the memory */
		if (l->too_long)
			break;
		nla_str_addn(&l->line, from, n);
		stream->at += n + (end != NULL);
		any = true;
		if (end)
			break;
	}
	if (!any || l->failed)
		return NULL;
	if (l->line.len && l->line.buf[l->line.len - 1] == '\r')
		l->line.buf[--l->line.len] = '\0';
	if (l->number++ == 0 && nla_starts_with(l->line.buf, BOM))
		memmove(l->line.buf, l->line.buf + strlen(BOM), (l->line.len -= strlen(BOM)) + 1);
	return l->line.buf;
}

const char *nla_lines_next_filled(struct nla_lines *l)
{
	const char *line;
	do {
		line = nla_lines_next(l);
	} while (line && strspn(line, " \t\r\f\v") == l->line.len);
	return line;
}

enum nla_status nla_lines_close(struct nla_lines *l, struct nla_err *err)
{
	struct lines_stream *stream = l->gz;
	enum nla_status status = NLA_OK;
	if (!stream)
		return NLA_OK;
	if (l->failed && err->status)
		status = err->status;
	else if (l->too_long)
		status = nla_fail(err, "cannot read '%s': line %zu is longer than %d MiB", l->path, l->number + 1,
				  MAX_LINE >> 20);
	else if (l->failed)
		status = nla_gz_error(stream->gz, l->path, err);
	gzclose_r(stream->gz);
	free(stream);
	free(l->path);
	nla_str_release(&l->line);
	l->gz = NULL;
	l->path = NULL;
	return status;
}

/* Where the last whole gzip member of fd ends; -1 when the file is damaged before its last member, or no gzip file at all. */
static off_t gzip_whole(int fd, const char *path, struct nla_err *err)
{
	unsigned char in[CHUNK / 2], out[CHUNK / 2];
	off_t read_to = 0, whole = 0;
	z_stream z = { 0 };
	ssize_t n;
	int code = Z_OK;
	if (inflateInit2(&z, 15 + 16) != Z_OK)
		NLA_BUG("cannot start gunzip");
	while (code >= 0 && (n = pread(fd, in, sizeof(in), read_to)) > 0) {
		read_to += n;
		z.next_in = in;
		z.avail_in = (uInt)n;
		while (z.avail_in && code >= 0) {
			z.next_out = out;
			z.avail_out = sizeof(out);
			code = inflate(&z, Z_NO_FLUSH);
			if (code == Z_STREAM_END) {
				whole = read_to - z.avail_in;
				inflateReset(&z);
			}
		}
	}
	if (code >= 0 && n < 0)
		nla_fail(err, "cannot read '%s': %s", path, strerror(errno));
	else if (code < 0)
		nla_fail(err, "cannot append to '%s': damaged gzip: %s", path, z.msg ? z.msg : "unknown error");
	inflateEnd(&z);
	return err->status ? -1 : whole;
}

static enum nla_status log_repair(struct nla_log *log, struct nla_err *err)
{
	struct nla_err why = NLA_ERR_INIT;
	off_t whole = gzip_whole(log->fd, log->path, &why), size = lseek(log->fd, 0, SEEK_END);
	if (whole < 0) {
		*err = why;
		return err->status;
	}
	if (size > whole && ftruncate(log->fd, whole))
		return nla_fail(err, "cannot write '%s': %s", log->path, strerror(errno));
	return NLA_OK;
}

enum nla_status nla_log_open(struct nla_log *log, const char *path, struct nla_err *err)
{
	bool gz = nla_ends_with(path, ".gz");
	enum nla_status status = NLA_OK;
	*log = (struct nla_log){ .fd = -1, .gz = gz, .pending = NLA_STR_INIT };
	log->fd = open(path, (gz ? O_RDWR : O_WRONLY) | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (log->fd < 0)
		return nla_fail(err, "cannot write '%s': %s", path, strerror(errno));
	log->path = nla_strdup(path);
	if (gz && log_repair(log, err)) {
		status = err->status;
		nla_log_close(log, err);
	}
	return status;
}

void nla_log_add(struct nla_log *log, const char *text, size_t n)
{
	nla_str_addn(&log->pending, text, n);
}

enum nla_status nla_log_flush(struct nla_log *log, struct nla_err *err)
{
	struct nla_str packed = NLA_STR_INIT;
	const struct nla_str *out = &log->pending;
	struct stat before;
	if (!log->pending.len)
		return NLA_OK;
	if (log->fd < 0)
		NLA_BUG("log is not open");
	if (log->gz) {
		nla_gzip(log->pending.buf, log->pending.len, &packed);
		out = &packed;
	}
	bool regular = !fstat(log->fd, &before) && S_ISREG(before.st_mode);
	int why = nla_write_all(log->fd, out->buf, out->len);
	nla_str_release(&packed);
	if (why) {
		bool torn = regular && ftruncate(log->fd, before.st_size);
		return nla_fail(err, "cannot write '%s': %s%s", log->path, strerror(why), torn ? " (its end is torn)" : "");
	}
	nla_str_reset(&log->pending);
	return NLA_OK;
}

enum nla_status nla_log_close(struct nla_log *log, struct nla_err *err)
{
	struct nla_err why = NLA_ERR_INIT;
	enum nla_status status = NLA_OK;
	if (!log->path) /* closed, or never opened */
		return NLA_OK;
	status = nla_log_flush(log, &why);
	if (close(log->fd) && status == NLA_OK)
		status = nla_fail(&why, "cannot write '%s': %s", log->path, strerror(errno));
	if (status && !err->status)
		*err = why;
	free(log->path);
	nla_str_release(&log->pending);
	*log = (struct nla_log){ .fd = -1, .pending = NLA_STR_INIT };
	return status;
}
