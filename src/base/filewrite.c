/*
 * filewrite - the writing of file.h: gzip, whole files, and append-only logs.
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

void nla_gzip(const void *bytes, size_t n, struct nla_str *out)
{
	z_stream z = { .next_in = (unsigned char *)bytes };
	unsigned char chunk[1 << 15];
	size_t piece;
	int code;
	if (deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		NLA_BUG("cannot start gzip");
	do {
		piece = NLA_MIN(n, (size_t)1 << 30); /* zlib counts in 32 bits */
		n -= piece;
		z.avail_in = (uInt)piece;
		do {
			z.next_out = chunk;
			z.avail_out = sizeof(chunk);
			code = deflate(&z, n ? Z_NO_FLUSH : Z_FINISH);
			nla_str_addn(out, chunk, sizeof(chunk) - z.avail_out);
		} while (!z.avail_out);
	} while (n);
	if (code != Z_STREAM_END)
		NLA_BUG("gzip stopped with code %d", code);
	deflateEnd(&z);
}

/* write() until all is written: 0 or an errno. */
static int write_all(int fd, const void *bytes, size_t n)
{
	const char *p = bytes;
	while (n) {
		ssize_t done = write(fd, p, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done ? errno : ENOSPC;
		p += done;
		n -= (size_t)done;
	}
	return 0;
}

/* A new name is safe from a power cut once its folder is on disk; some file systems cannot sync folders, and say EINVAL. A
 * folder that may be written and not read cannot be opened, and is left to the system. */
static int sync_path(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), why = 0;
	if (fd < 0)
		return errno == EACCES ? 0 : errno;
	if (fsync(fd) && errno != EINVAL)
		why = errno;
	close(fd);
	return why;
}

enum nla_status nla_file_write(const char *path, const void *bytes, size_t n, bool gz, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str packed = NLA_STR_INIT;
	struct stat st;
	/* Renaming over a device would replace it, over a pipe would starve its reader: only a regular file is replaced. */
	if (!stat(path, &st) && !S_ISREG(st.st_mode))
		return nla_fail(err, "cannot write '%s': it is %s", path, S_ISDIR(st.st_mode) ? "a folder" : "no regular file");
	if (gz) {
		nla_gzip(bytes, n, &packed);
		bytes = packed.buf;
		n = packed.len;
	}
	nla_auto char *tmp = nla_format("%s.tmp", path), *dir = nla_path_dir(path);
	int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666); /* a link could lead anywhere */
	int why = fd < 0 ? errno : write_all(fd, bytes, n);
	if (!why && fsync(fd))
		why = errno;
	if (fd >= 0 && close(fd) && !why)
		why = errno;
	if (!why && rename(tmp, path))
		why = errno;
	if (why && fd >= 0)
		unlink(tmp);
	if (!why)
		why = sync_path(dir);
	return why ? nla_fail(err, "cannot write '%s': %s", path, strerror(why)) : NLA_OK;
}

enum nla_status nla_copy_file(const char *from, const char *to, struct nla_err *err)
{
	struct nla_map map;
	if (nla_map_open(&map, from, err))
		return err->status;
	nla_file_write(to, map.data, map.size, false, err);
	nla_map_close(&map);
	return err->status;
}

enum nla_status nla_sync(const char *path, struct nla_err *err)
{
	int why = sync_path(path);
	return why ? nla_fail(err, "cannot sync '%s': %s", path, strerror(why)) : NLA_OK;
}

enum nla_status nla_log_open(struct nla_log *log, const char *path, struct nla_err *err)
{
	*log = (struct nla_log){ .pending = NLA_STR_INIT };
	log->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0666);
	if (log->fd < 0)
		return nla_fail(err, "cannot write '%s': %s", path, strerror(errno));
	log->path = nla_strdup(path);
	return NLA_OK;
}

enum nla_status nla_log_open_in(struct nla_log *log, const char *folder, const char *name, struct nla_err *err)
{
	nla_auto char *path = nla_path_join(folder, name);
	return nla_log_open(log, path, err);
}

void nla_log_add(struct nla_log *log, const char *text, size_t n) { nla_str_addn(&log->pending, text, n); }

enum nla_status nla_log_flush(struct nla_log *log, struct nla_err *err)
{
	struct stat before;
	if (!log->pending.len)
		return NLA_OK;
	if (log->fd < 0)
		NLA_BUG("log is not open");
	bool regular = !fstat(log->fd, &before) && S_ISREG(before.st_mode);
	int why = write_all(log->fd, log->pending.buf, log->pending.len);
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
	if (!log->path) /* closed, or never opened */
		return NLA_OK;
	nla_log_flush(log, &why);
	if (close(log->fd) && !why.status)
		nla_fail(&why, "cannot write '%s': %s", log->path, strerror(errno));
	if (why.status && !err->status)
		*err = why;
	free(log->path);
	nla_str_release(&log->pending);
	*log = (struct nla_log){ .fd = -1, .pending = NLA_STR_INIT };
	return why.status;
}
