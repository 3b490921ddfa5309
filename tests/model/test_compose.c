/* compose: slots, what is quoted, and that the amounts are drawn by row. */
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

static void test_check(void **state)
{
	assert_ok(nla_compose_check("{answer}", &err));
	assert_ok(nla_compose_check("{next} {answer} {end}", &err));
	assert_fails(nla_compose_check("{end}", &err), "'teach.explanation' has '{answer}' nowhere, want it once");
	assert_fails(nla_compose_check("{answer}{answer}", &err), "'{answer}' more than once, want it once");
	assert_fails(nla_compose_check("{answer}{next}{next}", &err), "'{next}' more than once, want it once or not at all");
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_slots), cmocka_unit_test(test_end), cmocka_unit_test(test_check) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
