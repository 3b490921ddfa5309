/*
 * file - whole files, folders, maps. See file.h; line reader and append-only logs are in filelog.c.
 *
 * Reading goes through zlib throughout: it hands on what does not start with gzip's magic bytes. It reports a stream cut short
 * only after everything before the cut was read, so the error is looked for at the end too.
 */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

bool nla_exists(const char *path)
{
	struct stat st;
	return !stat(path, &st);
}

bool nla_is_dir(const char *path)
{
	struct stat st;
	return !stat(path, &st) && S_ISDIR(st.st_mode);
}

char *nla_path_join(const char *dir, const char *name)
{
	if (name[0] == '/' || !dir[0])
		return nla_strdup(name);
	return nla_format("%s%s%s", dir, nla_ends_with(dir, "/") ? "" : "/", name);
}

const char *nla_path_base(const char *path)
{
	size_t n = strlen(path);
	while (n > 1 && path[n - 1] == '/')
		n--;
	while (n > 0 && path[n - 1] != '/')
		n--;
	return path + n;
}

char *nla_path_dir(const char *path)
{
	size_t n = (size_t)(nla_path_base(path) - path);
	while (n > 1 && path[n - 1] == '/')
		n--;
	return n ? nla_strndup(path, n) : nla_strdup(".");
}

#define MAX_FILE ((size_t)2 << 30) /* a small gzip file can hold what fills the memory */

enum nla_status nla_gz_error(void *gz, const char *path, struct nla_err *err)
{
	int code;
	const char *why = gzerror(gz, &code);
	size_t n = strlen(path);
	if (!strncmp(why, path, n) && !strncmp(why + n, ": ", 2)) /* zlib's text starts with the path it was given */
		why += n + 2;
	return nla_fail(err, "cannot read '%s': %s%s", path,
			code == Z_BUF_ERROR || code == Z_DATA_ERROR ? "damaged gzip: " : "", why[0] ? why : "unknown error");
}

enum nla_status nla_file_read(const char *path, struct nla_str *s, struct nla_err *err)
{
	enum nla_status status = NLA_OK;
	enum { CHUNK = 1 << 18 };
	int n, code;
	errno = 0;
	gzFile gz = gzopen(path, "rbe");
	if (!gz)
		return nla_fail(err, "cannot read '%s': %s", path, strerror(errno ? errno : ENOMEM));
	char *chunk = nla_alloc(CHUNK, 1);
	gzbuffer(gz, CHUNK);
	while ((n = gzread(gz, chunk, CHUNK)) > 0 && s->len <= MAX_FILE)
		nla_str_addn(s, chunk, (size_t)n);
	gzerror(gz, &code);
	if (n < 0 || code < 0)
		status = nla_gz_error(gz, path, err);
	else if (n)
		status = nla_fail(err, "cannot read '%s': it holds more than %zu GiB", path, MAX_FILE >> 30);
	gzclose_r(gz);
	free(chunk);
	return status;
}

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

int nla_write_all(int fd, const void *bytes, size_t n)
{
	const char *p = bytes;
	while (n) {
		ssize_t done = write(fd, p, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return errno;
		if (!done)
			return ENOSPC;
		p += done;
		n -= (size_t)done;
	}
	return 0;
}

/* A new name is safe from a power cut once its folder is on disk; some file systems cannot sync folders, and say EINVAL. */
static int sync_path(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), why = 0;
	if (fd < 0)
		return errno;
	if (fsync(fd) && errno != EINVAL)
		why = errno;
	close(fd);
	return why;
}

enum nla_status nla_file_write(const char *path, const void *bytes, size_t n, bool gz, struct nla_err *err)
{
	struct nla_str packed = NLA_STR_INIT;
	struct stat st;
	int why = 0;
	/* Renaming over a device would replace it, over a pipe would starve its reader: only a regular file is replaced. */
	if (!stat(path, &st) && !S_ISREG(st.st_mode))
		return nla_fail(err, "cannot write '%s': it is %s", path, S_ISDIR(st.st_mode) ? "a folder" : "no regular file");
	if (gz) {
		nla_gzip(bytes, n, &packed);
		bytes = packed.buf;
		n = packed.len;
	}
	char *tmp = nla_format("%s.tmp", path), *dir = nla_path_dir(path);
	int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0) {
		why = errno;
		goto out;
	}
	why = nla_write_all(fd, bytes, n);
	if (!why && fsync(fd))
		why = errno;
	if (close(fd) && !why)
		why = errno;
	if (!why && rename(tmp, path))
		why = errno;
	if (why)
		unlink(tmp);
	else if ((why = sync_path(dir)) == EACCES) /* a folder one may write to and not read */
		why = 0;
out:
	free(tmp);
	free(dir);
	nla_str_release(&packed);
	return why ? nla_fail(err, "cannot write '%s': %s", path, strerror(why)) : NLA_OK;
}

enum nla_status nla_mkdirs(const char *path, struct nla_err *err)
{
	char *part = nla_strdup(path);
	enum nla_status status = NLA_OK;
	for (char *p = part + 1; part[0] && status == NLA_OK; p++) {
		char c = *p;
		if (c && c != '/')
			continue;
		*p = '\0';
		int why = mkdir(part, 0777) ? errno : 0;
		if (why == EEXIST && !nla_is_dir(part))
			status = nla_fail(err, "cannot make folder '%s': '%s' is not a folder", path, part);
		else if (why && !nla_is_dir(part)) /* EROFS and EACCES come for folders that are there, too */
			status = nla_fail(err, "cannot make folder '%s': %s", path, strerror(why));
		*p = c;
		if (!c)
			break;
	}
	if (!part[0])
		status = nla_fail(err, "cannot make folder '': empty name");
	free(part);
	return status;
}

static enum nla_status remove_failed(const char *path, struct nla_err *err)
{
	return nla_fail(err, "cannot remove '%s': %s", path, strerror(errno));
}

/* A symbolic link is removed, never followed. */
enum nla_status nla_rmtree(const char *path, struct nla_err *err)
{
	struct nla_strs names = { 0 };
	enum nla_status status = NLA_OK;
	struct stat st;
	if (!path[0] || path[strspn(path, "/")] == '\0')
		NLA_BUG("asked to remove '%s'", path);
	if (lstat(path, &st))
		return errno == ENOENT ? NLA_OK : remove_failed(path, err);
	if (!S_ISDIR(st.st_mode))
		return unlink(path) ? remove_failed(path, err) : NLA_OK;
	status = nla_list_dir(path, &names, err);
	for (size_t i = 0; i < names.n && status == NLA_OK; i++) {
		char *child = nla_path_join(path, names.data[i]);
		status = nla_rmtree(child, err);
		free(child);
	}
	nla_strs_release(&names);
	if (status == NLA_OK && rmdir(path))
		status = remove_failed(path, err);
	return status;
}

enum nla_status nla_sync(const char *path, struct nla_err *err)
{
	int why = sync_path(path);
	return why ? nla_fail(err, "cannot sync '%s': %s", path, strerror(why)) : NLA_OK;
}

enum nla_status nla_list_dir(const char *path, struct nla_strs *names, struct nla_err *err)
{
	DIR *dir = opendir(path);
	size_t first = names->n;
	struct dirent *entry;
	if (!dir)
		return nla_fail(err, "cannot list '%s': %s", path, strerror(errno));
	while (errno = 0, (entry = readdir(dir)) != NULL)
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			nla_strs_push(names, entry->d_name);
	int why = errno;
	closedir(dir);
	if (why)
		return nla_fail(err, "cannot list '%s': %s", path, strerror(why));
	if (names->n > first)
		qsort(names->data + first, names->n - first, sizeof(*names->data), nla_by_name);
	return NLA_OK;
}

enum nla_status nla_map_open(struct nla_map *m, const char *path, struct nla_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	enum nla_status status = NLA_OK;
	struct stat st;
	*m = (struct nla_map){ 0 };
	if (fd < 0)
		return nla_fail(err, "cannot read '%s': %s", path, strerror(errno));
	if (fstat(fd, &st)) {
		status = nla_fail(err, "cannot read '%s': %s", path, strerror(errno));
	} else if (!S_ISREG(st.st_mode)) {
		status = nla_fail(err, "cannot map '%s': it is %s", path, S_ISDIR(st.st_mode) ? "a folder" : "no regular file");
	} else if (st.st_size) { /* a map of no bytes is an error of the system's; an empty file is none of ours */
		void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (data == MAP_FAILED)
			status = nla_fail(err, "cannot map '%s': %s", path, strerror(errno));
		else
			*m = (struct nla_map){ data, (size_t)st.st_size };
	}
	close(fd);
	return status;
}

void nla_map_close(struct nla_map *m)
{
	if (m->data)
		munmap(m->data, m->size);
	*m = (struct nla_map){ 0 };
}
