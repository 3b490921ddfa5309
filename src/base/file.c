/* file - paths, maps, folders, writing, logs; see file.h. */
#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <zlib.h>

bool nla_exists(const char *path) { return !access(path, F_OK); }

bool nla_exists_in(const char *folder, const char *name)
{
	nla_auto char *path = nla_path_join(folder, name);
	return nla_exists(path);
}

bool nla_is_dir(const char *path)
{
	struct stat st;
	return !stat(path, &st) && S_ISDIR(st.st_mode);
}

enum nla_status nla_need_dir(const char *path, struct nla_err *err)
{
	return nla_is_dir(path) ? NLA_OK : nla_fail(err, "there is no folder '%s'", path);
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
	nla_auto char *copy = nla_strdup(path);
	return nla_strdup(dirname(copy));
}

enum nla_status nla_file_refuse(const char *path, const void *bytes, size_t n, struct nla_err *err)
{
	static const struct { const char *head, *is; } others[] = {
		{ "version https://git-lfs.github.com/spec/v1", "a git-lfs pointer, not the file: run 'git lfs pull' there" },
		{ "\x93NUMPY", "a NumPy file: save the array with safetensors.numpy.save_file()" },
	};
	for (size_t i = 0; i < NLA_LEN(others); i++)
		if (n > strlen(others[i].head) && !memcmp(bytes, others[i].head, strlen(others[i].head)))
			return nla_fail(err, "cannot read '%s': it is %s", path, others[i].is);
	return NLA_OK;
}

/* ---- maps ---- */

enum nla_status nla_map_open(struct nla_map *m, const char *path, struct nla_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* waits for no pipe */
	struct stat st;
	void *data = NULL; /* a map of no bytes is an error of the system's; an empty file is none of ours */
	*m = (struct nla_map){ 0 };
	if (fd < 0 || fstat(fd, &st))
		nla_fail(err, "cannot read '%s': %s", path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		nla_fail(err, "cannot map '%s': it is %s", path, S_ISDIR(st.st_mode) ? "a folder" : "no regular file");
	else if (st.st_size && (data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
		nla_fail(err, "cannot map '%s': %s", path, strerror(errno));
	else
		*m = (struct nla_map){ data, (size_t)st.st_size };
	if (fd >= 0)
		close(fd);
	if (nla_file_refuse(path, m->data, m->size, err))
		nla_map_close(m);
	return err->status;
}

void nla_map_close(struct nla_map *m)
{
	if (m->data)
		munmap(m->data, m->size);
	*m = (struct nla_map){ 0 };
}

/* ---- folders ---- */

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
	if (names->n > first)
		qsort(names->data + first, names->n - first, sizeof(*names->data), nla_by_text);
	return why ? nla_fail(err, "cannot list '%s': %s", path, strerror(why)) : NLA_OK;
}

enum nla_status nla_mkdirs(const char *path, struct nla_err *err)
{
	nla_auto char *part = nla_strdup(path);
	char *end = part;
	if (!*path)
		nla_fail(err, "cannot make folder '': empty name");
	while (!err->status && *end) {
		end = strchrnul(end + 1, '/');
		*end = '\0';
		nla_auto char *above = nla_path_dir(part);
		const int why = mkdir(part, 0777) ? errno : 0;
		if (!why)
			nla_sync(above, err);
		else if (!nla_is_dir(part) && why == EEXIST) /* EROFS and EACCES come for folders that are there, too */
			nla_fail(err, "cannot make folder '%s': '%s' is not a folder", path, part);
		else if (!nla_is_dir(part))
			nla_fail(err, "cannot make folder '%s': %s", path, strerror(why));
		*end = path[end - part];
	}
	return err->status;
}

enum nla_status nla_rmtree(const char *path, struct nla_err *err)
{
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	struct stat st;
	if (path[strspn(path, "/")] == '\0')
		NLA_BUG("asked to remove '%s'", path);
	bool folder = !lstat(path, &st) && S_ISDIR(st.st_mode);
	enum nla_status status = folder ? nla_list_dir(path, &names, err) : NLA_OK;
	for (size_t i = 0; i < names.n && status == NLA_OK; i++) {
		nla_auto char *child = nla_path_join(path, names.data[i]);
		status = nla_rmtree(child, err);
	}
	if (status == NLA_OK && (folder ? rmdir(path) : unlink(path)) && errno != ENOENT)
		status = nla_fail(err, "cannot remove '%s': %s", path, strerror(errno));
	return status;
}

enum nla_status nla_remove_ours(const char *folder, bool (*ours)(const char *name, int64_t beyond), int64_t beyond,
				struct nla_err *err)
{
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	nla_list_dir(folder, &names, err);
	for (size_t i = 0; i < names.n && !err->status; i++) {
		nla_auto char *path = nla_path_join(folder, names.data[i]);
		if (ours(names.data[i], beyond))
			nla_rmtree(path, err);
	}
	return err->status;
}

/* ---- writing ---- */

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

/* A new name is safe from a power cut once its folder is on disk; some file systems cannot sync (folders), and say EINVAL. A
 * folder that may be written and not read cannot be opened, and is left to the system. */
enum nla_status nla_sync(const char *path, struct nla_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), why = 0;
	if (fd < 0)
		why = errno == EACCES ? 0 : errno;
	else if (fsync(fd) && errno != EINVAL)
		why = errno;
	if (fd >= 0)
		close(fd);
	return why ? nla_fail(err, "cannot sync '%s': %s", path, strerror(why)) : NLA_OK;
}

static enum nla_status cannot_write(const char *path, int why, struct nla_err *err)
{
	return why ? nla_fail(err, "cannot write '%s': %s", path, strerror(why)) : NLA_OK;
}

enum nla_status nla_new_open(struct nla_new_file *out, const char *path, struct nla_err *err)
{
	struct stat st;
	/* Renaming over a device would replace it, over a pipe would starve its reader: only a regular file is replaced. */
	if (!stat(path, &st) && !S_ISREG(st.st_mode))
		return nla_fail(err, "cannot write '%s': it is %s", path, S_ISDIR(st.st_mode) ? "a folder" : "no regular file");
	*out = (struct nla_new_file){ .path = nla_strdup(path), .tmp = nla_format("%s.tmp", path) };
	out->fd = open(out->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666); /* a link could lead anywhere */
	if (out->fd >= 0)
		return NLA_OK;
	cannot_write(errno == ELOOP ? out->tmp : path, errno, err);
	return nla_new_close(out, err);
}

enum nla_status nla_new_write(const struct nla_new_file *out, const void *bytes, size_t n, struct nla_err *err)
{
	return cannot_write(out->path, write_all(out->fd, bytes, n), err);
}

enum nla_status nla_new_close(struct nla_new_file *out, struct nla_err *err)
{
	nla_auto char *dir = nla_path_dir(out->path), *path = out->path, *tmp = out->tmp;
	int why = !err->status && fsync(out->fd) && errno != EINVAL ? errno : 0;
	if (out->fd >= 0 && close(out->fd) && !why)
		why = errno;
	if (!err->status && !why && rename(tmp, path))
		why = errno;
	if (out->fd >= 0 && (err->status || why))
		unlink(tmp);
	return err->status || cannot_write(path, why, err) || nla_sync(dir, err) ? err->status : NLA_OK;
}

static enum nla_status write_gzip(const struct nla_new_file *out, const void *bytes, size_t n, struct nla_err *err)
{
	z_stream z = { .next_in = (unsigned char *)bytes };
	unsigned char chunk[1 << 15]; /* for our own write(): zlib's ends at an EINTR */
	if (deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		NLA_BUG("cannot start gzip");
	do {
		if (!z.avail_in)
			n -= z.avail_in = (uInt)NLA_MIN(n, (size_t)1 << 30); /* zlib counts in 32 bits */
		z.next_out = chunk;
		z.avail_out = sizeof(chunk);
		deflate(&z, n ? Z_NO_FLUSH : Z_FINISH);
	} while (!nla_new_write(out, chunk, sizeof(chunk) - z.avail_out, err) && (n || !z.avail_out));
	deflateEnd(&z);
	return err->status;
}

enum nla_status nla_file_write(const char *path, const void *bytes, size_t n, bool gz, struct nla_err *err)
{
	struct nla_new_file out;
	if (nla_new_open(&out, path, err))
		return err->status;
	gz ? write_gzip(&out, bytes, n, err) : nla_new_write(&out, bytes, n, err);
	return nla_new_close(&out, err);
}

enum nla_status nla_copy_file(const char *from, const char *to, bool gz, struct nla_err *err)
{
	NLA_AUTO(nla_map_close) struct nla_map map;
	if (!nla_map_open(&map, from, err))
		nla_file_write(to, map.data, map.size, gz, err);
	return err->status;
}

enum nla_status nla_log_open(struct nla_log *log, const char *folder, const char *name, struct nla_err *err)
{
	nla_auto char *path = nla_path_join(folder, name), *dir = nla_path_dir(path);
	*log = (struct nla_log){ .pending = NLA_STR_INIT };
	log->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0666);
	if (log->fd < 0)
		return nla_fail(err, "cannot write '%s': %s", path, strerror(errno));
	log->path = nla_strdup(path);
	const enum nla_status status = nla_sync(dir, err);
	if (status)
		nla_log_close(log, err);
	return status;
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

enum nla_status nla_log_sync(struct nla_log *log, struct nla_err *err)
{
	if (!log->path)
		return NLA_OK;
	if (nla_log_flush(log, err))
		return err->status;
	return fsync(log->fd) && errno != EINVAL ? nla_fail(err, "cannot sync '%s': %s", log->path, strerror(errno)) : NLA_OK;
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
