/* report: standard errors of numbers that are nearly equal, where sums of squares around zero lose all digits; groups that tie. */
#include <math.h>

#include "unit/scratch.h"

#include "base/json.h"
#include "run/report.h"

enum { N = 500 };

/* An evaluation of N rows, whose response tokens are base, base + 1, base, ...; the first row's are `first`. */
static cJSON *evaluation(int64_t first, int64_t base)
{
	struct nla_rl rl = { .base = { 1, 1 } };
	struct nla_step s;
	nla_step_start(&s, N, 1, 1);
	nla_decoded_init(&s.tokens, N, 1);
	for (int64_t i = 0; i < N; i++) {
		s.rows[i] = i;
		s.response[i] = nla_strdup("x");
		s.tokens.length[i] = i ? base + i % 2 : first;
		s.mse[i] = (float)(1 + (double)(i % 2) * 0x1p-20);
	}
	cJSON *json = nla_report_eval(&rl, &s);
	nla_step_release(&s);
	return json;
}

static void expect(const cJSON *json, const char *key, double want)
{
	const double have = nla_json_value(json, key);
	if (!(fabs(have - want) <= 1e-6 * want))
		fail_msg("%s is %.12g, want %.12g", key, have, want);
}

static void test_standard_error(void **state)
{
	const int64_t large = 1000000007;
	cJSON *even = evaluation(large, large), *outlier = evaluation(1, large);
	const double var = 0.25 * N / (N - 1); /* of a half and a half, 1 apart */
	expect(even, "response_tokens_se", sqrt(var / N));
	expect(even, "fve_se", sqrt(var / N) * 0x1p-20);
	expect(outlier, "response_tokens_se", (double)large / N); /* one number d from n - 1 equal ones: d / n */
	cJSON_Delete(even);
	cJSON_Delete(outlier);
}

/* Three times 0.1 have a mean that is not 0.1, and are equal all the same; a group without a valid row is no tie. One whose
 * rewards differ by less than min_std has no advantages. */
static void test_groups_tied(void **state)
{
	static const double reward[] = { 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.1, 0.1, 0.1 };
	struct nla_rl rl = { .base = { 1, 1 } };
	struct nla_state counters = { 0 };
	struct nla_step s;
	(void)state;
	nla_step_start(&s, 3, 3, 1);
	nla_decoded_init(&s.tokens, 9, 1);
	for (int64_t i = 0; i < 9; i++) {
		s.response[i] = nla_strdup("x");
		s.reward[i] = reward[i];
		s.advantage[i] = i % 3 - 1;
		s.failed[i] = i < 6 ? NLA_ROW_OK : NLA_ROW_EMPTY;
	}
	cJSON *json = nla_report_step(&rl, &s, &counters);
	expect(json, "groups_tied", 1);
	expect(json, "groups_failed", 1);
	cJSON_Delete(json);
	memset(s.advantage + 3, 0, 3 * sizeof(*s.advantage));
	json = nla_report_step(&rl, &s, &counters);
	expect(json, "groups_tied", 2);
	cJSON_Delete(json);
	nla_step_release(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_standard_error), cmocka_unit_test(test_groups_tied) };
	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
