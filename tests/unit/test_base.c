/* Errors, strings, arrays, nearest names. */
#include "scratch.h"

#include "base/progress.h"
#include "base/utf8.h"

#include <signal.h>
#include <sys/wait.h>

static void test_error_text(void **state)
{
	struct nla_err err = NLA_ERR_INIT;

	assert_int_equal(nla_fail(&err, "cannot read '%s'", "a"), NLA_FAIL);
	assert_int_equal(nla_err_context(&err, "step %d", 7), NLA_FAIL);
	assert_string_equal(err.text, "step 7: cannot read 'a'");
	assert_int_equal(nla_usage(&err, "%s!", err.text), NLA_USAGE); /* the old text as an argument */
	assert_string_equal(err.text, "step 7: cannot read 'a'!");
	assert_int_equal(nla_err_context(&err, "x"), NLA_USAGE);
	nla_fail(&err, "no token '%s'", "a\n\tb"); /* one line, whatever a file's names have */
	nla_err_context(&err, "cannot load '%s'", "c\r\nd");
	assert_string_equal(err.text, "cannot load 'c  d': no token 'a  b'");
}

static void test_strip(void **state)
{
	static const char *const cases[][2] = {
		{ "", "" }, { " \t\r\n\v\f", "" }, { "a", "a" }, { "  a b ", "a b" }, { "\x1c\x1f" "a\x1e", "a" }, { "\xc2\xa0 a\xc2\x85", "a" },
		{ "\xe2\x80\x83" "a\xe3\x80\x80\xe2\x80\xa9", "a" }, { "\xe2\x80\x8b" "a", "\xe2\x80\x8b" "a" }, { " \xff ", "\xff" }, { "\x1b", "\x1b" },
	};

	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		size_t n;
		const char *text = nla_utf8_strip(cases[i][0], strlen(cases[i][0]), &n);

		assert_int_equal(n, strlen(cases[i][1]));
		assert_memory_equal(text, cases[i][1], n);
	}
}

/* A chain too long for the buffer keeps its cause, which stands at the end. */
static void test_error_too_long(void **state)
{
	struct nla_err err = NLA_ERR_INIT;
	char longer[3000];

	memset(longer, 'p', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	nla_fail(&err, "the cause");
	nla_err_context(&err, "%s", longer);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	assert_true(nla_ends_with(err.text, "ppp: the cause"));
	nla_fail(&err, "%s", longer);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	nla_err_context(&err, "prefix");
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	assert_int_equal(err.text[0], 'p');
	assert_null(strstr(err.text, "prefix"));
}

static void test_quoted(void **state)
{
	static const char *const words[][2] = { { "a/b-1", "a/b-1" }, { "", "''" }, { "a b", "'a b'" }, { "it's", "'it'\\''s'" }, { "$x", "'$x'" } };
	for (size_t i = 0; i < NLA_LEN(words); i++) {
		nla_auto char *quoted = nla_quoted(words[i][0]);
		assert_string_equal(quoted, words[i][1]);
	}
}

static void test_str(void **state)
{
	struct nla_str s = NLA_STR_INIT;

	assert_string_equal(s.buf, "");
	nla_str_reset(&s); /* must not write to the shared empty string */
	nla_str_add(&s, "ab");
	nla_str_addc(&s, 'c');
	nla_str_addn(&s, "d\0e", 3);
	nla_str_addf(&s, "%03d", 7);
	assert_int_equal(s.len, 9);
	assert_memory_equal(s.buf, "abcd\0e007", 10);
	nla_str_reset(&s);
	assert_string_equal(s.buf, "");
	for (int i = 0; i < 100000; i++)
		nla_str_addc(&s, (char)('a' + i % 26));
	assert_int_equal(strlen(s.buf), 100000);
	assert_int_equal(s.buf[99999], 'a' + 99999 % 26);
	char *mine = nla_str_detach(&s);
	assert_int_equal(strlen(mine), 100000);
	assert_string_equal(s.buf, "");
	free(mine);
	mine = nla_str_detach(&s);
	assert_string_equal(mine, "");
	mine[0] = 'x'; /* ours to write, unlike the shared one */
	assert_string_equal(s.buf, "");
	free(mine);
	nla_str_addn(&s, NULL, 0);
	nla_str_release(&s);
	nla_str_release(&s);
	assert_string_equal(nla_str_empty, "");
}

static void test_copies(void **state)
{
	static const char raw[3] = { 'a', 'b', 'c' }; /* no NUL behind it */
	char *a = nla_strndup(raw, 3), *b = nla_strndup("ab", 10), *c = nla_format("%s-%d", "n", 3);

	assert_string_equal(a, "abc");
	assert_string_equal(b, "ab");
	assert_string_equal(c, "n-3");
	free(a);
	free(b);
	free(c);
	assert_true(nla_starts_with("abc", "ab") && nla_starts_with("abc", "") && !nla_starts_with("a", "ab"));
	assert_true(nla_ends_with("abc", "bc") && nla_ends_with("abc", "") && !nla_ends_with("c", "bc"));
}

static void test_arrays(void **state)
{
	struct nla_i32s a = { 0 };
	struct nla_i64s b = { 0 };
	struct nla_f32s f = { 0 };
	struct nla_strs s = { 0 };
	static const int32_t three[] = { 5, 6, 7 };
	char word[] = "one";

	for (int32_t i = 0; i < 1000; i++)
		nla_i32s_push(&a, i * i);
	nla_i32s_append(&a, three, 3);
	nla_i32s_append(&a, NULL, 0);
	assert_int_equal(a.n, 1003);
	assert_int_equal(a.data[999], 999 * 999);
	assert_int_equal(a.data[1002], 7);
	nla_i64s_push(&b, INT64_MIN);
	assert_true(b.data[0] == INT64_MIN);
	nla_f32s_append(&f, (const float[]){ 0.5f, 1.5f }, 2);
	assert_true(f.n == 2 && f.data[1] == 1.5f);
	nla_strs_push(&s, word);
	word[0] = 'X';
	assert_string_equal(s.data[0], "one");
	nla_i32s_release(&a);
	nla_i32s_release(&a);
	assert_true(!a.data && !a.n && !a.cap);
	nla_i64s_release(&b);
	nla_f32s_release(&f);
	nla_strs_release(&s);
	assert_true(!s.data && !s.n);
}

static void test_nearest(void **state)
{
	static const char *const words[] = { "lambda", "steps", "rollout.group", "rollout.prompts", "lr", "kl" };
	struct nla_strs names = { 0 };

	assert_null(nla_nearest("lambda", &names));
	for (size_t i = 0; i < NLA_LEN(words); i++)
		nla_strs_push(&names, words[i]);
	assert_string_equal(nla_nearest("lamda", &names), "lambda");
	assert_string_equal(nla_nearest("lmabda", &names), "lambda");
	assert_string_equal(nla_nearest("step", &names), "steps");
	assert_string_equal(nla_nearest("rollout.gruop", &names), "rollout.group");
	assert_string_equal(nla_nearest("prompt", &names), "rollout.prompts"); /* the last parts count */
	assert_string_equal(nla_nearest("rl", &names), "kl"); /* one edit; lr is two */
	assert_null(nla_nearest("zebra", &names));
	assert_null(nla_nearest("x", &names));
	assert_null(nla_nearest("", &names));
	nla_strs_release(&names);
}

/* `code`: of its exit, 0: it aborts. */
static void ends_in_child(void (*call)(void), int code, const char *says)
{
	char text[512] = "";
	int out[2], status;

	assert_int_equal(pipe(out), 0);
	pid_t child = fork();
	if (!child) {
		signal(SIGABRT, SIG_DFL);
		dup2(out[1], STDERR_FILENO);
		call();
		_exit(0);
	}
	close(out[1]);
	for (ssize_t n = 0, got; n < (ssize_t)sizeof(text) - 1; n += got)
		if ((got = read(out[0], text + n, sizeof(text) - 1 - (size_t)n)) <= 0)
			break;
	close(out[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(code ? WIFEXITED(status) && WEXITSTATUS(status) == code : WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	if (!strstr(text, says))
		fail_msg("'%s', want '%s'", text, says);
}

static void bug(void)
{
	NLA_BUG("row %d is lost", 3);
}

static void too_much(void)
{
	free(nla_realloc(NULL, SIZE_MAX / 2, 4)); /* the product does not fit */
}

static void no_error(void)
{
	struct nla_err err = NLA_ERR_INIT;

	nla_err_context(&err, "reading");
}

static void test_bugs_and_memory(void **state)
{
	ends_in_child(bug, 0, "row 3 is lost");
	ends_in_child(bug, 0, "test_base.c");
	ends_in_child(no_error, 0, "no error");
	ends_in_child(too_much, 1, ": out of memory: cannot allocate 9223372036854775807 times 4 bytes\n");
}

static void assert_text(char *got, const char *want)
{
	assert_string_equal(got, want);
	free(got);
}

/* What people read: numbers that are none, times, the end of a text. */
static void test_words(void **state)
{
	static const struct { double seconds; const char *want; } times[] = {
		{ 0.04, "0.0 s" }, { 9.94, "9.9 s" }, { 9.96, "10 s" }, { 119, "119 s" }, { 120, "2 min 00 s" }, { 7199, "119 min 59 s" },
		{ 7200, "2 h 00 min" }, { 100000, "27 h 46 min" },
	};
	struct nla_str s = NLA_STR_INIT;
	int hours, minutes, used = 0;

	for (size_t i = 0; i < NLA_LEN(times); i++) {
		nla_add_duration(&s, times[i].seconds);
		assert_string_equal(s.buf, times[i].want);
		nla_str_reset(&s);
	}
	nla_add_left(&s, 200);
	assert_true(sscanf(s.buf, "3 min 20 s left, until %2d:%2d%n", &hours, &minutes, &used) == 2 && (size_t)used == s.len);
	nla_str_reset(&s);
	nla_add_left(&s, 100000); /* not today: with its day */
	assert_true(sscanf(s.buf, "27 h 46 min left, until %*3s %*d %*3s %2d:%2d%n", &hours, &minutes, &used) == 2 && (size_t)used == s.len);
	nla_str_release(&s);
	assert_text(nla_figure(0.73151, 0.0123, 3), "0.732 +- 0.012");
	assert_text(nla_figure(0.73151, NAN, 3), "0.732");
	assert_text(nla_figure(NAN, NAN, 3), "-");
	assert_text(nla_utf8_end("a\nb", 9), "a b");
	assert_text(nla_utf8_end("\x1b[2Ja\x7f\tb", 9), " [2Ja  b"); /* nothing that a terminal obeys */
	assert_text(nla_utf8_end("\xc2\x9b" "2J\xc2\xa0", 9), "  2J\xc2\xa0");
	assert_text(nla_utf8_end("one two", 3), "...two");
	assert_text(nla_utf8_end("ab\xc3\xa9", 1), "...");
	assert_text(nla_utf8_end("ab\xc3\xa9", 2), "...\xc3\xa9");
}

static void test_clock(void **state)
{
	double before = nla_seconds();

	usleep(2000);
	double passed = nla_seconds() - before;
	assert_true(passed >= 0.002 && passed < 60);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_error_text), cmocka_unit_test(test_strip), cmocka_unit_test(test_error_too_long), cmocka_unit_test(test_quoted), cmocka_unit_test(test_str),
		cmocka_unit_test(test_copies),     cmocka_unit_test(test_arrays),         cmocka_unit_test(test_nearest),
		cmocka_unit_test(test_bugs_and_memory), cmocka_unit_test(test_words),          cmocka_unit_test(test_clock),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
