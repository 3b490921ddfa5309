/* Whole files, folders, maps, lines and logs; a full disk when this user may mount a small one. */
#include "scratch.h"

#include "base/json.h"
#include "base/safetensors.h"

#include <errno.h>
#include <sys/mount.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <zlib.h>

static void test_paths(void **state)
{
	static const struct {
		const char *path, *dir, *base;
	} rows[] = {
		{ "a", ".", "a" },       { "a/b", "a", "b" },   { "a//b", "a", "b" }, { "/a", "/", "a" },
		{ "a/b/", "a", "b/" },   { "/", "/", "/" },     { "", ".", "" },      { "/a/b.c", "/a", "b.c" },
	};

	for (size_t i = 0; i < NLA_LEN(rows); i++) {
		char *dir = nla_path_dir(rows[i].path);
		if (strcmp(rows[i].path, "/")) /* the root has no name: only its folder is told */
			assert_string_equal(nla_path_base(rows[i].path), rows[i].base);
		assert_string_equal(dir, rows[i].dir);
		free(dir);
	}
	static const char *const joins[][3] = {
		{ "a", "b", "a/b" }, { "a/", "b", "a/b" }, { "a", "/b", "/b" }, { "", "b", "b" }, { "/", "b", "/b" },
	};
	for (size_t i = 0; i < NLA_LEN(joins); i++) {
		char *path = nla_path_join(joins[i][0], joins[i][1]);
		assert_string_equal(path, joins[i][2]);
		free(path);
	}
}

static void test_write_and_read(void **state)
{
	struct nla_err err;
	struct nla_str s = NLA_STR_INIT;
	enum { N = 1000003 };
	char *big = nla_alloc(N, 1);

	for (size_t i = 0; i < N; i++)
		big[i] = (char)(i * i >> 7);
	for (int gz = 0; gz < 2; gz++) {
		const char *path = in_scratch(gz ? "big.gz" : "big");
		assert_ok(nla_file_write(path, "old", 3, gz, &err));
		assert_ok(nla_file_write(path, big, N, gz, &err));
		nla_str_reset(&s);
		nla_str_add(&s, "before");
		assert_ok(nla_file_read(path, &s, &err));
		assert_int_equal(s.len, N + 6);
		assert_memory_equal(s.buf + 6, big, N);
		assert_ok(nla_file_write(path, NULL, 0, gz, &err));
		nla_str_reset(&s);
		assert_ok(nla_file_read(path, &s, &err));
		assert_int_equal(s.len, 0);
		assert_true(nla_exists(path));
	}
	assert_false(nla_exists(in_scratch("big.tmp")) || nla_exists(in_scratch("big.gz.tmp")));
	nla_str_release(&s);
	free(big);
}

static void test_bad_gzip(void **state)
{
	struct nla_err err;
	struct nla_str packed = NLA_STR_INIT, s = NLA_STR_INIT;
	struct nla_map whole;
	struct nla_lines l;

	for (int i = 0; i < 5000; i++)
		nla_str_addf(&s, "line %d\n", i);
	assert_ok(nla_map_open(&whole, put("whole.gz", s.buf, s.len, true), &err));
	nla_str_addn(&packed, whole.data, whole.size);
	nla_map_close(&whole);
	nla_str_reset(&s);
	const char *cut = put("cut.gz", packed.buf, packed.len / 2, false);
	assert_fails(nla_file_read(cut, &s, &err), "cut.gz': damaged gzip: unexpected end of file");

	assert_ok(nla_lines_open(&l, cut, &err));
	size_t n = 0;
	for (const char *line; (line = nla_lines_next(&l)) != NULL; n++) {
		char *want = nla_format("line %zu", n);
		assert_string_equal(line, want); /* never half a line */
		free(want);
	}
	assert_true(n > 100 && n < 5000 && n == l.number);
	assert_fails(nla_lines_close(&l, &err), "unexpected end of file");
	assert_ok(nla_lines_close(&l, &err));

	packed.buf[packed.len - 8] ^= 1; /* the checksum */
	const char *wrong = put("wrong.gz", packed.buf, packed.len, false);
	assert_fails(nla_file_read(wrong, &s, &err), "incorrect data check");
	nla_str_release(&packed);
	nla_str_release(&s);
}

static void test_errors_name_path_and_reason(void **state)
{
	struct nla_err err;
	struct nla_str s = NLA_STR_INIT;
	struct nla_map m;
	struct nla_strs names = { 0 };
	struct nla_lines l;
	struct nla_log log;
	const char *none = in_scratch("none/x");
	struct stat before, after;

	assert_fails(nla_file_read(none, &s, &err), "/none/x': No such file or directory");
	assert_fails(nla_file_read(scratch, &s, &err), "Is a directory");
	assert_fails(nla_file_write(none, "", 0, false, &err), "cannot write '");
	assert_fails(nla_file_write(scratch, "", 0, false, &err), "it is a folder");
	assert_fails(nla_map_open(&m, none, &err), "No such file");
	assert_fails(nla_map_open(&m, scratch, &err), "it is a folder");
	assert_fails(nla_list_dir(none, &names, &err), "No such file");
	assert_fails(nla_sync(none, &err), "No such file");
	assert_fails(nla_lines_open(&l, none, &err), "No such file");
	assert_fails(nla_log_open(&log, "", none, &err), "No such file");
	assert_ok(nla_sync(scratch, &err));

	assert_int_equal(stat("/dev/null", &before), 0);
	assert_fails(nla_file_write("/dev/null", "x", 1, false, &err), "no regular file");
	assert_int_equal(stat("/dev/null", &after), 0);
	assert_true(S_ISCHR(after.st_mode) && before.st_ino == after.st_ino);
	nla_str_release(&s);
}

static void test_folders(void **state)
{
	struct nla_err err;
	struct nla_strs names = { 0 };
	const char *deep = in_scratch("d/e//f/"), *file = put_text("plain", "x");
	char *target = nla_strdup(put_text("kept", "y")); /* outlives the turn of its buffer */

	assert_ok(nla_mkdirs(deep, &err));
	assert_ok(nla_mkdirs(deep, &err));
	assert_true(nla_is_dir(deep) && nla_exists(file) && !nla_is_dir(file));
	assert_fails(nla_mkdirs(in_scratch("plain/g"), &err), "/plain' is not a folder");
	assert_fails(nla_mkdirs(file, &err), "is not a folder");
	assert_fails(nla_mkdirs("", &err), "empty name");
	put_text("d/b", "");
	put_text("d/B", "");
	put_text("d/.a", "");
	assert_int_equal(symlink(target, in_scratch("d/e/link")), 0);
	assert_int_equal(symlink(scratch, in_scratch("d/e/up")), 0);
	assert_ok(nla_list_dir(in_scratch("d"), &names, &err));
	assert_int_equal(names.n, 4);
	assert_string_equal(names.data[0], ".a");
	assert_string_equal(names.data[1], "B");
	assert_string_equal(names.data[2], "b");
	assert_string_equal(names.data[3], "e");
	nla_strs_release(&names);
	assert_ok(nla_rmtree(in_scratch("d"), &err));
	assert_false(nla_exists(in_scratch("d")));
	assert_true(nla_exists(target)); /* links were removed, not followed */
	assert_ok(nla_rmtree(in_scratch("d"), &err));
	assert_ok(nla_rmtree(target, &err));
	assert_false(nla_exists(target));
	free(target);
}

/* A drop box: names may be made in it, but it cannot be read. Root may read all, so a child becomes someone else. */
static void test_folder_without_reading(void **state)
{
	struct nla_err err;
	const char *dir = in_scratch("drop"), *file = in_scratch("drop/file");
	int status;

	assert_ok(nla_mkdirs(dir, &err));
	assert_int_equal(chmod(dir, 0333), 0);
	assert_int_equal(chmod(scratch, 0755), 0);
	pid_t child = fork();
	if (!child) {
		if ((!getuid() && (setgid(65534) || setuid(65534))) || open(dir, O_RDONLY) >= 0)
			_exit(77);
		_exit(nla_file_write(file, "x", 1, false, &err) || nla_sync(dir, &err));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(chmod(dir, 0755), 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_true(nla_exists(file));
}

static void test_map(void **state)
{
	struct nla_err err;
	struct nla_map m;

	assert_ok(nla_map_open(&m, put("map", "abc\0d", 5, false), &err));
	assert_int_equal(m.size, 5);
	assert_memory_equal(m.data, "abc\0d", 5);
	nla_map_close(&m);
	nla_map_close(&m);
	assert_null(m.data);
	assert_ok(nla_map_open(&m, put("map", "", 0, false), &err));
	assert_true(!m.data && !m.size);
	nla_map_close(&m);
	assert_int_equal(mkfifo(in_scratch("pipe"), 0600), 0); /* nobody writes: it would wait for ever */
	assert_fails(nla_map_open(&m, in_scratch("pipe"), &err), "pipe': it is no regular file");
}

static void test_lines(void **state)
{
	struct nla_err err;
	struct nla_lines l;
	struct nla_str s = NLA_STR_INIT;
	enum { LONG = 300000 };

	nla_str_add(&s, "first\n\r\n\nnul");
	nla_str_addc(&s, '\0');
	nla_str_add(&s, "here\n");
	for (int i = 0; i < LONG; i++)
		nla_str_addc(&s, 'x');
	nla_str_add(&s, "\nlast");
	for (int gz = 0; gz < 2; gz++) {
		assert_ok(nla_lines_open(&l, put("lines", s.buf, s.len, gz), &err));
		assert_string_equal(nla_lines_next(&l), "first");
		assert_string_equal(nla_lines_next(&l), "");
		assert_string_equal(nla_lines_next(&l), "");
		assert_int_equal(l.number, 3);
		assert_non_null(nla_lines_next(&l));
		assert_int_equal(l.line.len, 8);
		assert_memory_equal(l.line.buf, "nul\0here", 9);
		assert_int_equal(strlen(nla_lines_next(&l)), LONG);
		assert_string_equal(nla_lines_next(&l), "last");
		assert_null(nla_lines_next(&l));
		assert_null(nla_lines_next(&l));
		assert_int_equal(l.number, 6);
		assert_ok(nla_lines_close(&l, &err));
	}
	assert_ok(nla_lines_open(&l, put("lines", "a\n", 2, false), &err));
	assert_string_equal(nla_lines_next(&l), "a");
	assert_null(nla_lines_next(&l));
	assert_ok(nla_lines_close(&l, &err));
	assert_ok(nla_lines_open(&l, put("lines", "", 0, false), &err));
	assert_null(nla_lines_next(&l));
	assert_ok(nla_lines_close(&l, &err));
	assert_ok(nla_lines_open(&l, scratch, &err)); /* a folder opens and does not read */
	assert_null(nla_lines_next(&l));
	err = (struct nla_err)NLA_ERR_INIT;
	nla_usage(&err, "what came first");
	assert_int_equal(nla_lines_close(&l, &err), NLA_USAGE);
	assert_string_equal(err.text, "what came first");
	nla_str_release(&s);
}

static void log_text(struct nla_log *log, const char *text)
{
	struct nla_err err;

	nla_log_add(log, text, strlen(text));
	assert_ok(nla_log_flush(log, &err));
}

static void assert_content(const char *path, const char *want)
{
	struct nla_err err;
	struct nla_str s = NLA_STR_INIT;

	assert_ok(nla_file_read(path, &s, &err));
	assert_string_equal(s.buf, want);
	nla_str_release(&s);
}

/* By each way of reading, and only the whole of its first line. */
static void test_git_lfs(void **state)
{
	struct nla_err err = NLA_ERR_INIT;
	struct nla_str s = NLA_STR_INIT;
	struct nla_lines l;
	struct nla_map m;
	struct nla_st st;
	cJSON *json;
	const char *want = "/x.txt': it is a git-lfs pointer, not the file: run 'git lfs pull' there";
	const char *path = put_text("x.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n");
	assert_ok(nla_lines_open(&l, path, &err));
	assert_null(nla_lines_next(&l));
	assert_fails(nla_lines_close(&l, &err), want);
	assert_fails(nla_file_read(path, &s, &err), want);
	assert_fails(nla_map_open(&m, path, &err), want);
	assert_fails(nla_json_read(path, &json, &err), want);
	assert_fails(nla_st_open(&st, path, &err), want);
	path = put_text("x.npy", "\x93NUMPY\x01");
	assert_fails(nla_st_open(&st, path, &err), "/x.npy': it is a NumPy file: save the array with safetensors.numpy");
	path = put_text("y.txt", "version https://git-lfs");
	assert_ok(nla_lines_open(&l, path, &err));
	assert_string_equal(nla_lines_next(&l), "version https://git-lfs");
	assert_ok(nla_lines_close(&l, &err));
	nla_str_release(&s);
}

static void test_log(void **state)
{
	struct nla_err err;
	struct nla_log log;

	const char *path = in_scratch("log");
	assert_ok(nla_log_open(&log, "", path, &err));
	log_text(&log, "one\n");
	assert_content(path, "one\n"); /* readable while it is open */
	log_text(&log, "two\n");
	nla_log_add(&log, "three\n", 6);
	assert_ok(nla_log_close(&log, &err));
	assert_ok(nla_log_close(&log, &err));
	assert_ok(nla_log_open(&log, "", path, &err));
	nla_log_add(&log, "four\n", 5);
	assert_ok(nla_log_close(&log, &err));
	assert_content(path, "one\ntwo\nthree\nfour\n");
}

/* A link in a folder that came from elsewhere could lead to any file. */
static void test_links(void **state)
{
	struct nla_err err;
	struct nla_log log;
	struct nla_st_writer *w;
	char *victim = nla_strdup(put("victim", "mine", 4, false));

	assert_int_equal(symlink(victim, in_scratch("out.tmp")), 0);
	assert_fails(nla_file_write(in_scratch("out"), "x", 1, false, &err), "out.tmp': Too many levels of symbolic links");
	assert_fails(nla_log_open(&log, "", in_scratch("out.tmp"), &err), "out.tmp': Too many levels of symbolic links");
	assert_fails(nla_st_writer_open(&w, in_scratch("out"), NULL, 0, &err), "out.tmp': Too many levels of symbolic links");
	assert_int_equal(unlink(in_scratch("out.tmp")), 0);
	assert_int_equal(symlink(victim, in_scratch("out")), 0);
	assert_ok(nla_file_write(in_scratch("out"), "x", 1, false, &err)); /* takes the link's place */
	assert_content(in_scratch("out"), "x");
	assert_content(victim, "mine");
	free(victim);
}

static void test_full_disk(void **state)
{
	struct nla_err err;
	struct nla_log log;
	struct nla_strs names = { 0 };
	const char *disk = in_scratch("disk"), *path = in_scratch("disk/file"), *log_path = in_scratch("disk/log");
	enum { N = 1 << 20 };
	char *big = nla_alloc(N, 1);
	struct stat st;

	assert_ok(nla_mkdirs(disk, &err));
	if (mount("tmpfs", disk, "tmpfs", 0, "size=256k")) {
		print_message("the full disk is skipped: cannot mount a small one: %s\n", strerror(errno));
		free(big);
		skip();
	}
	int written = nla_file_write(path, "former", 6, false, &err);
	int failed = nla_file_write(path, big, N, false, &err);
	bool says = strstr(err.text, "disk/file': No space left on device") != NULL;
	int listed = nla_list_dir(disk, &names, &err);
	size_t n_left = names.n;

	int opened = nla_log_open(&log, "", log_path, &err);
	nla_log_add(&log, "line\n", 5);
	int flushed = nla_log_flush(&log, &err);
	nla_log_add(&log, big, N);
	int overflowed = nla_log_flush(&log, &err);
	bool cut_back = !stat(log_path, &st) && st.st_size == 5;
	nla_str_reset(&log.pending);
	int closed = nla_log_close(&log, &err);
	struct nla_str content = NLA_STR_INIT;
	err = (struct nla_err)NLA_ERR_INIT;
	int read = nla_file_read(path, &content, &err);
	assert_int_equal(umount(disk), 0); /* before anything can fail, or the scratch folder could not go */

	assert_true(!written && !listed && !opened && !flushed && !closed && !read);
	assert_int_equal(failed, NLA_FAIL);
	assert_true(says);
	assert_int_equal(n_left, 1); /* no file.tmp */
	assert_string_equal(content.buf, "former");
	assert_int_equal(overflowed, NLA_FAIL);
	assert_true(cut_back);
	nla_str_release(&content);
	nla_strs_release(&names);
	free(big);
}

/* 65 MiB that are 65 kB as a file. */
static void test_line_too_long(void **state)
{
	size_t n = 65 << 20;
	char *text = nla_alloc(n, 1);
	struct nla_err err;
	struct nla_lines l;

	memset(text, 'a', n);
	text[9] = '\n';
	assert_ok(nla_lines_open(&l, put("long.gz", text, n, true), &err));
	assert_string_equal(nla_lines_next(&l), "aaaaaaaaa");
	assert_null(nla_lines_next(&l));
	assert_fails(nla_lines_close(&l, &err), "long.gz': line 2 is longer than 64 MiB");
	text[n / 2] = '\n';
	assert_ok(nla_lines_open(&l, put("long.gz", text, n, true), &err));
	for (int i = 0; i < 3; i++)
		assert_non_null(nla_lines_next(&l));
	assert_ok(nla_lines_close(&l, &err));
	free(text);
}

/* 300 MiB of long lines, which are 300 kB: neither a reader of lines nor one of whole files takes them all. */
static void test_bomb(void **state)
{
	struct nla_err err;
	struct nla_str all = NLA_STR_INIT;
	struct nla_lines l;
	const char *path = in_scratch("bomb.gz");
	char piece[1 << 16];
	gzFile gz = gzopen(path, "wb6");
	size_t n = 0;

	memset(piece, 'a', sizeof(piece));
	piece[0] = '\n';
	for (int i = 0; i < 300 << 4; i++)
		assert_int_equal(gzwrite(gz, piece, sizeof(piece)), sizeof(piece));
	assert_int_equal(gzclose(gz), Z_OK);
	assert_ok(nla_lines_open(&l, path, &err));
	while (nla_lines_next(&l))
		n++;
	assert_true(n > 200 << 4 && n < 270 << 4);
	assert_fails(nla_lines_close(&l, &err), "bomb.gz': its gzip holds more than 250 times its size");
	assert_fails(nla_file_read(path, &all, &err), "bomb.gz': its gzip holds more than 250 times its size");
	nla_str_release(&all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_paths),     cmocka_unit_test(test_write_and_read),
		cmocka_unit_test(test_bad_gzip),  cmocka_unit_test(test_errors_name_path_and_reason),
		cmocka_unit_test(test_folders),   cmocka_unit_test(test_map),
		cmocka_unit_test(test_lines),     cmocka_unit_test(test_git_lfs),     cmocka_unit_test(test_log),
		cmocka_unit_test(test_full_disk), cmocka_unit_test(test_links),
		cmocka_unit_test(test_line_too_long), cmocka_unit_test(test_bomb), cmocka_unit_test(test_folder_without_reading),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
