/* compose: slots, what is quoted, that the amounts are drawn by row; which answers serve, and where a truncated one is cut. */
#include "unit/scratch.h"

#include "run/compose.h"

static struct nla_err err;

static char *of(const char *template, const char *text, int64_t row, const char *answer)
{
	char a[] = " the", b[] = "\n", c[] = " its";
	char *next[] = { a, b, c };
	struct nla_compose how = { template, 3, 2, 7 };
	struct nla_row r = { .text = (char *)(uintptr_t)text, .next = { .data = next, .n = 3 } };
	return nla_compose(&how, &r, row, answer);
}

static void test_slots(void **state)
{
	char *plain = of("{answer}", "a b", 0, "It is. "), *stop = of("{answer}. Next {next}.", "a b", 0, "It is.");
	assert_string_equal(plain, "It is. ");
	assert_true(!strncmp(stop, "It is. Next \"the\"", 17)); /* one full stop */
	assert_true(!strcmp(stop + 17, ".") || !strcmp(stop + 17, ", \"\"."));
	free(plain);
	free(stop);
}

/* 1 to 3 words, each about as often; a text shorter than that is quoted whole; white space becomes one space. */
static void test_end(void **state)
{
	static const char *const want[] = { "x \"five\"", "x \"four five\"", "x \"three four five\"" };
	int seen[3] = { 0 };
	for (int64_t row = 0; row < 300; row++) {
		char *text = of("{answer} {end}", "one two\nthree \t four\n\nfive ", row, "x");
		int k = 0;
		while (k < 3 && strcmp(text, want[k]))
			k++;
		if (k == 3)
			fail_msg("%s", text);
		seen[k]++;
		free(text);
	}
	for (int k = 0; k < 3; k++)
		assert_in_range(seen[k], 70, 130);
	char *whole = of("{answer} {end}", "one", 1, "x"), *none = of("{answer} {end}", " ", 1, "x");
	assert_string_equal(whole, "x \"one\"");
	assert_string_equal(none, "x \"\"");
	free(whole);
	free(none);
}

static enum nla_status check(const char *template, struct nla_err *e)
{
	return nla_slots_check("teach.explanation", template, nla_explanation_slots, e);
}

static void test_check(void **state)
{
	assert_ok(check("{answer}", &err));
	assert_ok(check("{next} {answer} {end}", &err));
	assert_fails(check("{end}", &err), "'teach.explanation' has '{answer}' nowhere, want it once");
	assert_fails(check("{answer}{answer}", &err), "'{answer}' more than once, want it once");
	assert_fails(check("{answer}{next}{next}", &err), "'{next}' more than once, want it once or not at all");
}

static void check_clean(const char *answer, bool stopped, const char *text, enum nla_unfit unfit)
{
	char *got;
	assert_int_equal(nla_answer_clean(answer, stopped, &got), unfit);
	assert_string_equal(got, text);
	free(got);
}

static void test_clean(void **state)
{
	check_clean(" A recipe.\n", true, "A recipe.", NLA_ANSWER_OK);
	check_clean(" A recipe.\nFor", false, "A recipe.\nFor", NLA_ANSWER_TRUNCATED);
	check_clean(" \n\t", true, "", NLA_ANSWER_EMPTY);
	check_clean("", false, "", NLA_ANSWER_EMPTY);
	check_clean("Sure: <explanation>\n a b \n</explanation> Bye", true, "a b", NLA_ANSWER_OK);
	check_clean("<explanation>a b</explanation> and then", false, "a b", NLA_ANSWER_OK); /* what is cut off is no part of it */
	check_clean("<explanation> </explanation>", true, "", NLA_ANSWER_EMPTY);
	check_clean("a <explanation> b", true, "a <explanation> b", NLA_ANSWER_TAGS);
	check_clean("a</explanation>", true, "a</explanation>", NLA_ANSWER_TAGS);
	check_clean("<explanation>a <explanation>b</explanation>", true, "a <explanation>b", NLA_ANSWER_TAGS);
}

static void test_last_sentence(void **state)
{
	static const struct {
		const char *text, *cut;
	} cases[] = {
		{ "One. Two. Thr", "One. Two." }, { "One. Two.", "One. Two." },     { "Why? Wh", "Why?" },     { "Version 1.5 of", "" },
		{ "Go!\nAnd", "Go!" },            { "He said \"go.\" Th", "He said \"go.\"" }, { "(So.) It", "(So.)" }, { "no end", "" },
		{ "", "" },                       { "It's \"x\" and", "" },          { ".", "." },
	};
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		char *cut = nla_strndup(cases[i].text, nla_last_sentence(cases[i].text));
		assert_string_equal(cut, cases[i].cut);
		free(cut);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_slots), cmocka_unit_test(test_end), cmocka_unit_test(test_check),
					    cmocka_unit_test(test_clean), cmocka_unit_test(test_last_sentence) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
