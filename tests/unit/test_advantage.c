/* advantage: the worked examples of tests/golden/golden_rewards.py; groups without spread stay at rest. */
#include "scratch.h"

#include "base/json.h"
#include "rl/advantage.h"

#define MAX_ROWS 64

static struct nla_err err;

static int numbers(const cJSON *list, double *out)
{
	int n = 0;
	for (const cJSON *x = list->child; x; x = x->next) {
		assert_true(n < MAX_ROWS && cJSON_IsNumber(x));
		out[n++] = x->valuedouble;
	}
	return n;
}

static void test_worked(void **state)
{
	cJSON *golden = NULL;
	int cases = 0;
	(void)state;
	assert_ok(nla_json_read(TEST_DATA "/tiny/golden.json", &golden, &err));
	for (const cJSON *c = cJSON_GetObjectItem(golden, "rewards")->child; c; c = c->next, cases++) {
		double reward[MAX_ROWS], want[MAX_ROWS], got[MAX_ROWS];
		int64_t group = (int64_t)cJSON_GetObjectItem(c, "group")->valuedouble;
		double cfg = cJSON_GetObjectItem(c, "min_std")->valuedouble;
		int n = numbers(cJSON_GetObjectItem(c, "rewards"), reward);
		assert_int_equal(numbers(cJSON_GetObjectItem(c, "advantages"), want), n);
		nla_group_advantage(reward, NULL, n / group, group, cfg, got);
		for (int i = 0; i < n; i++)
			assert_close(got[i], want[i], 1e-9);
	}
	assert_true(cases >= 10);
	cJSON_Delete(golden);
}

/* Rewards that differ by rounding alone must not become advantages of +-1; min_std silences groups of hardly any spread. */
static void test_no_spread(void **state)
{
	double reward[12], got[12];
	const double off = 0, on = 1e-3;
	(void)state;
	for (int i = 0; i < 4; i++) {
		reward[i] = 0.1 + 0.2 * (i % 2) - 0.2 * (i % 2); /* 0.1, or 0.1 with a rounding error */
		reward[4 + i] = -1.0 / 3;
		reward[8 + i] = 0.5 + 1e-4 * i;
	}
	nla_group_advantage(reward, NULL, 3, 4, off, got);
	for (int i = 0; i < 8; i++)
		assert_true(fabs(got[i]) < 1e-8);
	assert_true(got[8] < -0.9 && got[11] > 0.9);
	nla_group_advantage(reward, NULL, 3, 4, on, got);
	for (int i = 0; i < 12; i++)
		assert_true(fabs(got[i]) < 1e-8);
}

/* A group's advantages sum to zero and do not see the other groups; shifting all its rewards changes nothing. */
static void test_groups_stand_alone(void **state)
{
	const double reward[8] = { 0.5, -0.25, 0.125, 0.75, 100, 300, 200, 500 };
	double both[8], second[4], shifted[8], got[8];
	const double cfg = 0;
	(void)state;
	nla_group_advantage(reward, NULL, 2, 4, cfg, both);
	nla_group_advantage(reward + 4, NULL, 1, 4, cfg, second);
	for (int i = 0; i < 8; i++)
		shifted[i] = reward[i] - 2;
	nla_group_advantage(shifted, NULL, 2, 4, cfg, got);
	for (int i = 0; i < 4; i++) {
		assert_true(both[4 + i] == second[i]);
		assert_close(got[i], both[i], 1e-9);
	}
	assert_close(both[0] + both[1] + both[2] + both[3], 0, 1e-12);
	assert_close(both[4] + both[5] + both[6] + both[7], 0, 1e-12);
	/* of 100, 300, 200, 500: mean 275, variance with n-1 87500 / 3 */
	assert_close(both[4], -175 / sqrt(87500.0 / 3), 1e-6);
}

/*
 * A group in which all fail rests, though its lengths differ: rewards -2 - 0.002 n. One valid row among failures is what the others are
 * measured by: of -0.5, -2, -2 the mean is -1.5 and the variance with n-1 is (1 + 0.25 + 0.25) / 2.
 */
static void test_failed_groups(void **state)
{
	const double reward[6] = { -2.02, -2.04, -2.3, -0.5, -2, -2 };
	const enum nla_failure failed[6] = { NLA_ROW_NO_TAGS, NLA_ROW_TRUNCATED, NLA_ROW_EMPTY, NLA_ROW_OK, NLA_ROW_NO_TAGS, NLA_ROW_TRUNCATED };
	double got[6];
	const double cfg = 0;
	(void)state;
	nla_group_advantage(reward, failed, 2, 3, cfg, got);
	for (int i = 0; i < 3; i++)
		assert_true(got[i] == 0);
	assert_close(got[3], 1 / sqrt(0.75), 1e-5);
	assert_close(got[4], -0.5 / sqrt(0.75), 1e-5);
	assert_close(got[5], -0.5 / sqrt(0.75), 1e-5);
	assert_true(nla_group_failed(failed, 3) && !nla_group_failed(failed + 3, 3));
}

static void test_within_group_std(void **state)
{
	const double x[6] = { 1, 3, 5, 7, 10, 10 };
	(void)state;
	/* pairs: sqrt 2, sqrt 2, 0; threes: 2, sqrt 3 */
	assert_close(nla_within_group_std(x, 3, 2), 2 * sqrt(2) / 3, 1e-12);
	assert_close(nla_within_group_std(x, 2, 3), (2 + sqrt(3)) / 2, 1e-12);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_worked),
		cmocka_unit_test(test_no_spread),
		cmocka_unit_test(test_groups_stand_alone),
		cmocka_unit_test(test_failed_groups),
		cmocka_unit_test(test_within_group_std),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
