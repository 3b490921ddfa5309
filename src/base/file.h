/* file - whole files, atomic writes, gzip, memory maps, folders. Errors name the path and the system's reason. */
#pragma once

#include "base.h"

bool nla_exists(const char *path);
bool nla_exists_in(const char *folder, const char *name);
bool nla_is_dir(const char *path);
/* An error unless it is. */
enum nla_status nla_need_dir(const char *path, struct nla_err *err);
char *nla_path_join(const char *dir, const char *name);  /* owned; an absolute name stays as it is */
char *nla_path_dir(const char *path);                    /* owned; "." when there is no slash; "a" of "a/b/" */
const char *nla_path_base(const char *path);             /* borrowed from path: a slash at its end stays */

/* An error if that is the beginning of a git-lfs pointer or of a NumPy file. Every reader below asks. */
enum nla_status nla_file_refuse(const char *path, const void *bytes, size_t n, struct nla_err *err);
/* Read a whole file (plain or gzip, by its magic bytes) of at most 2 GiB into s, appended. */
enum nla_status nla_file_read(const char *path, struct nla_str *s, struct nla_err *err);
/*
 * A file is written through PATH.tmp, fsync, rename: the former one stays whole until the new one is, and a failure, or one
 * that err holds before close, leaves no PATH.tmp. What exists and is no regular file (/dev/null) is an error: a rename would
 * replace it. So is a link in the place of PATH.tmp, or of a log: what is written stays in its folder. When open fails there is
 * nothing to close.
 */
struct nla_new_file {
	int fd;
	char *path, *tmp;
};
enum nla_status nla_new_open(struct nla_new_file *out, const char *path, struct nla_err *err);
enum nla_status nla_new_write(const struct nla_new_file *out, const void *bytes, size_t n, struct nla_err *err);
enum nla_status nla_new_close(struct nla_new_file *out, struct nla_err *err);
/* All of it at once; gz: compressed, the same bytes to the same file (no time stamp). */
enum nla_status nla_file_write(const char *path, const void *bytes, size_t n, bool gz, struct nla_err *err);
enum nla_status nla_copy_file(const char *from, const char *to, bool gz, struct nla_err *err);
/* Each folder that is made is synced into the one above it. */
enum nla_status nla_mkdirs(const char *path, struct nla_err *err);
/* Remove a file, or a folder and everything below it; a missing one is no error. Symbolic links are removed, not followed. */
enum nla_status nla_rmtree(const char *path, struct nla_err *err);
/* The same of all in a folder that `ours` finds to be ours, which is handed `beyond`, too. */
enum nla_status nla_remove_ours(const char *folder, bool (*ours)(const char *name, int64_t beyond), int64_t beyond,
				struct nla_err *err);
/* fsync a file or folder by name. What may be written and not read is no error. */
enum nla_status nla_sync(const char *path, struct nla_err *err);
/* Names in a folder, sorted by bytes, without "." and "..", appended. */
enum nla_status nla_list_dir(const char *path, struct nla_strs *names, struct nla_err *err);

/* A read-only private memory map. close is idempotent. An empty file has no data. */
struct nla_map {
	void *data;
	size_t size;
};
enum nla_status nla_map_open(struct nla_map *m, const char *path, struct nla_err *err);
void nla_map_close(struct nla_map *m);

/*
 * Line reader over a plain or gzip file; a line comes without its newline (LF or CR LF), the first without a byte order mark.
 * One of more than 64 MiB is an error, and a gzip file that unpacks to more than 256 MiB and 250 times its size.
 *
 *	struct nla_lines l;
 *	if (nla_lines_open(&l, path, err)) return err->status;
 *	while ((s = nla_lines_next(&l)) != NULL) ...
 *	nla_lines_close(&l, err)      reports a read error or a truncated gzip stream met on the way
 *
 * line.len counts when a line may hold NULs. A last line without a newline comes too, unless the gzip stream broke inside it.
 * close is idempotent, and keeps an error that err already has.
 */
struct nla_lines {
	void *gz; /* zlib's stream */
	char *path, *chunk;
	size_t at, n; /* of the chunk: read so far, held */
	struct nla_str line;
	size_t number; /* of the line last returned, from 1 */
	struct nla_err why; /* of the first failure */
};
enum nla_status nla_lines_open(struct nla_lines *l, const char *path, struct nla_err *err);
const char *nla_lines_next(struct nla_lines *l);
const char *nla_lines_next_filled(struct nla_lines *l); /* the next that is not blank */
int64_t nla_lines_at(const struct nla_lines *l); /* bytes of the file that were read; of a gzip file nearly so */
enum nla_status nla_lines_close(struct nla_lines *l, struct nla_err *err);

/*
 * Append-only writer. flush pushes to the system; when it fails the file is cut back to what it was and the text kept, so that
 * a later flush may try again. sync flushes, and to the disk; of a log that is not open it does nothing. close flushes, is
 * idempotent, and keeps an error that err already has. The name of a new log is synced when it is opened.
 */
struct nla_log {
	int fd;
	char *path;
	struct nla_str pending;
};
enum nla_status nla_log_open(struct nla_log *log, const char *folder, const char *name, struct nla_err *err);
void nla_log_add(struct nla_log *log, const char *text, size_t n);
enum nla_status nla_log_flush(struct nla_log *log, struct nla_err *err);
enum nla_status nla_log_sync(struct nla_log *log, struct nla_err *err);
enum nla_status nla_log_close(struct nla_log *log, struct nla_err *err);
