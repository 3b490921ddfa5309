/* What becomes of a teacher's answer: the text it gives, why it does not serve, and where a truncated one is cut. */
#include "unit/scratch.h"

#include "run/teach.h"

static void check(const char *answer, bool stopped, const char *text, enum nla_unfit unfit)
{
	char *got;
	assert_int_equal(nla_teach_clean(answer, stopped, &got), unfit);
	assert_string_equal(got, text);
	free(got);
}

static void test_clean(void **state)
{
	check(" A recipe.\n", true, "A recipe.", NLA_ANSWER_OK);
	check(" A recipe.\nFor", false, "A recipe.\nFor", NLA_ANSWER_TRUNCATED);
	check(" \n\t", true, "", NLA_ANSWER_EMPTY);
	check("", false, "", NLA_ANSWER_EMPTY);
	check("Sure: <explanation>\n a b \n</explanation> Bye", true, "a b", NLA_ANSWER_OK);
	check("<explanation>a b</explanation> and then", false, "a b", NLA_ANSWER_OK); /* what is cut off is no part of it */
	check("<explanation> </explanation>", true, "", NLA_ANSWER_EMPTY);
	check("a <explanation> b", true, "a <explanation> b", NLA_ANSWER_TAGS);
	check("a</explanation>", true, "a</explanation>", NLA_ANSWER_TAGS);
	check("<explanation>a <explanation>b</explanation>", true, "a <explanation>b", NLA_ANSWER_TAGS);
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
		char *cut = nla_strndup(cases[i].text, nla_teach_last_sentence(cases[i].text));
		assert_string_equal(cut, cases[i].cut);
		free(cut);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_clean), cmocka_unit_test(test_last_sentence) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
