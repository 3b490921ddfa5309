/*
 * lines - files read whole or by the line; see file.h.
 *
 * Reading goes through zlib throughout: it hands on what does not start with gzip's magic bytes. It reports a stream cut short
 * only after everything before the cut was read, so the error is looked for at the end too.
 */
#include "base/file.h"

#include <zlib.h>

#define BOM "\xef\xbb\xbf" /* U+FEFF, which some editors put at the beginning of a file */

/* A small gzip file can hold what fills the memory. */
#define MAX_FILE ((size_t)2 << 30)
enum { CHUNK = 1 << 16, MAX_LINE = 64 << 20 };
/* Text shrinks to a third or a tenth, rows that repeat each other to a hundredth. */
enum { MAX_RATIO = 250, ANY_RATIO = 256 << 20 };

enum nla_status nla_lines_open(struct nla_lines *l, const char *path, struct nla_err *err)
{
	*l = (struct nla_lines){ .line = NLA_STR_INIT };
	errno = 0;
	l->gz = gzopen(path, "rbe");
	if (!l->gz)
		return nla_fail(err, "cannot read '%s': %s", path, strerror(errno ? errno : ENOMEM));
	gzbuffer(l->gz, CHUNK);
	l->chunk = nla_alloc(CHUNK, 1);
	l->path = nla_strdup(path);
	return NLA_OK;
}

/* Refill the chunk: false at the end, and on an error. */
static bool fill(struct nla_lines *l)
{
	int n = gzread(l->gz, l->chunk, CHUNK), code;
	l->at = 0;
	l->n = n > 0 ? (size_t)n : 0;
	if (n <= 0) {
		const char *why = gzerror(l->gz, &code);
		if (nla_starts_with(why, l->path) && nla_starts_with(why + strlen(l->path), ": ")) /* begins with it */
			why += strlen(l->path) + 2;
		if (n < 0 || code < 0)
			nla_fail(&l->why, "cannot read '%s': %s%s", l->path, code == Z_BUF_ERROR || code == Z_DATA_ERROR ?
				 "damaged gzip: " : "", why[0] ? why : "unknown error");
	} else if (gztell(l->gz) == n) {
		nla_file_refuse(l->path, l->chunk, l->n, &l->why);
	} else if (!gzdirect(l->gz) && gztell(l->gz) > ANY_RATIO) {
		const int64_t packed = gzoffset(l->gz); /* below 0: of a pipe */
		if (packed > 0 && gztell(l->gz) / MAX_RATIO > packed)
			nla_fail(&l->why, "cannot read '%s': its gzip holds more than %d times its size, which no text does",
				 l->path, MAX_RATIO);
	}
	return n > 0 && !l->why.status;
}

const char *nla_lines_next(struct nla_lines *l)
{
	bool any = false;
	if (!l->gz || l->why.status)
		return NULL;
	nla_str_reset(&l->line);
	while (l->at < l->n || fill(l)) {
		const char *from = l->chunk + l->at, *end = memchr(from, '\n', l->n - l->at);
		size_t n = end ? (size_t)(end - from) : l->n - l->at;
		if (l->line.len + n > MAX_LINE) {
			nla_fail(&l->why, "cannot read '%s': line %zu is longer than %d MiB", l->path, l->number + 1,
				 MAX_LINE >> 20);
			break;
		}
		nla_str_addn(&l->line, from, n);
		l->at += n + (end != NULL);
		any = true;
		if (end)
			break;
	}
	if (!any || l->why.status)
		return NULL;
	if (l->line.len && l->line.buf[l->line.len - 1] == '\r')
		l->line.buf[--l->line.len] = '\0';
	if (l->number++ == 0 && nla_starts_with(l->line.buf, BOM))
		memmove(l->line.buf, l->line.buf + strlen(BOM), (l->line.len -= strlen(BOM)) + 1);
	return l->line.buf;
}

const char *nla_lines_next_filled(struct nla_lines *l)
{
	while (nla_lines_next(l))
		if (strspn(l->line.buf, " \t\r\f\v") < l->line.len)
			return l->line.buf;
	return NULL;
}

int64_t nla_lines_at(const struct nla_lines *l)
{
	const double given = (double)gztell(l->gz), used = given - (double)(l->n - l->at);
	return (int64_t)(gzdirect(l->gz) || given == 0 ? used : used / given * (double)gzoffset(l->gz));
}

enum nla_status nla_lines_close(struct nla_lines *l, struct nla_err *err)
{
	if (!l->gz)
		return NLA_OK;
	if (l->why.status && !err->status)
		*err = l->why;
	const enum nla_status status = l->why.status ? err->status : NLA_OK;
	gzclose_r(l->gz);
	free(l->chunk);
	free(l->path);
	nla_str_release(&l->line);
	*l = (struct nla_lines){ .line = NLA_STR_INIT };
	return status;
}

enum nla_status nla_file_read(const char *path, struct nla_str *s, struct nla_err *err)
{
	struct nla_lines in;
	if (nla_lines_open(&in, path, err))
		return err->status;
	while (s->len <= MAX_FILE && fill(&in))
		nla_str_addn(s, in.chunk, in.n);
	if (s->len > MAX_FILE)
		nla_fail(err, "cannot read '%s': it holds more than %zu GiB", path, MAX_FILE >> 30);
	nla_lines_close(&in, err);
	return err->status;
}
