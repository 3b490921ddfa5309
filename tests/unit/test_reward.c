/*
 * reward: the worked examples of tests/golden/golden_rewards.py, and what keeps the policy from paying less by failing or by
 * being padded to its group's longest.
 */
#include "scratch.h"

#include "base/json.h"
#include "rl/reward.h"

static struct nla_err err;

static double number(const cJSON *json, const char *key)
{
	double x;
	assert_ok(nla_json_need_num(json, "golden.json", key, &x, &err));
	return x;
}

static struct nla_reward_cfg config(const cJSON *c)
{
	const char *score = cJSON_GetObjectItem(c, "score")->valuestring, *count = cJSON_GetObjectItem(c, "count")->valuestring;
	return (struct nla_reward_cfg){ .score = strcmp(score, "fve") ? NLA_REWARD_NEG_MSE : NLA_REWARD_FVE,
					.lambda = number(c, "lambda"), .floor = (int64_t)number(c, "floor"),
					.count = strcmp(count, "response") ? NLA_COUNT_EXPLANATION : NLA_COUNT_RESPONSE,
					.fail_mse = number(c, "fail_mse") };
}

static void test_worked(void **state)
{
	cJSON *golden = NULL;
	int n = 0;
	(void)state;
	assert_ok(nla_json_read(TEST_DATA "/tiny/golden.json", &golden, &err));
	for (const cJSON *c = cJSON_GetObjectItem(golden, "rewards")->child; c; c = c->next) {
		struct nla_reward_cfg cfg = config(c);
		const cJSON *want = cJSON_GetObjectItem(c, "rewards")->child;
		for (const cJSON *r = cJSON_GetObjectItem(c, "rows")->child; r; r = r->next, want = want->next, n++) {
			struct nla_reward_row row = { .mse = number(r, "mse"), .n_response = (int64_t)number(r, "n_response"),
						      .n_explanation = (int64_t)number(r, "n_explanation"),
						      .failed = cJSON_IsString(cJSON_GetObjectItem(r, "failed")) };
			assert_close(nla_reward_value(&row, number(c, "baseline"), &cfg), want->valuedouble, 1e-12);
		}
		assert_null(want);
	}
	assert_true(n >= 80);
	cJSON_Delete(golden);
}

/* A group in one batch: each row pays for its own tokens, so the penalty does not cancel in the advantage. */
static void test_own_length(void **state)
{
	struct nla_reward_cfg cfg = { .score = NLA_REWARD_NEG_MSE, .lambda = 0.002, .fail_mse = 2 };
	struct nla_reward_row shorter = { .mse = 0.5, .n_response = 30, .n_explanation = 19 }, longer = shorter;
	(void)state;
	longer.n_response = 130;
	assert_close(nla_reward_penalty(&shorter, &cfg), 0.06, 1e-15);
	assert_close(nla_reward_penalty(&longer, &cfg), 0.26, 1e-15);
	assert_close(nla_reward_value(&shorter, 0.7, &cfg) - nla_reward_value(&longer, 0.7, &cfg), 0.2, 1e-12);
}

/* Below the floor nothing is paid and nothing is earned. */
static void test_floor(void **state)
{
	struct nla_reward_cfg cfg = { .score = NLA_REWARD_FVE, .lambda = 0.1, .floor = 20, .fail_mse = 2 };
	struct nla_reward_row row = { .mse = 0.35 };
	(void)state;
	for (row.n_response = 1; row.n_response <= 20; row.n_response++)
		assert_close(nla_reward_value(&row, 0.7, &cfg), 0.5, 1e-15);
	assert_close(nla_reward_value(&row, 0.7, &cfg), 0.4, 1e-12); /* 21 */
}

/* Whatever lambda, floor, count and unit: a failed row of so many tokens earns no more than one of as many that was scored. */
static void test_failing_is_never_cheaper(void **state)
{
	static const double lambdas[] = { 0, 0.002, 0.03, 10 }, scores[] = { 0, 0.4, 1.3, 2 };
	static const int64_t floors[] = { 0, 15, 1000 }, lengths[] = { 12, 40, 160 };
	int n = 0;
	(void)state;
	for (size_t i = 0; i < NLA_LEN(lambdas) * NLA_LEN(scores) * NLA_LEN(floors) * NLA_LEN(lengths) * 4; i++) {
		size_t rest = i / 4;
		struct nla_reward_cfg cfg = { .score = i & 1 ? NLA_REWARD_FVE : NLA_REWARD_NEG_MSE,
					      .count = i & 2 ? NLA_COUNT_RESPONSE : NLA_COUNT_EXPLANATION, .fail_mse = 2 };
		cfg.lambda = lambdas[rest % NLA_LEN(lambdas)];
		rest /= NLA_LEN(lambdas);
		struct nla_reward_row ok = { .mse = scores[rest % NLA_LEN(scores)] }, bad;
		rest /= NLA_LEN(scores);
		cfg.floor = floors[rest % NLA_LEN(floors)];
		ok.n_response = lengths[rest / NLA_LEN(floors)];
		ok.n_explanation = ok.n_response - 11;
		bad = (struct nla_reward_row){ .mse = 0, .n_response = ok.n_response, .n_explanation = 0, .failed = true };
		assert_true(nla_reward_value(&bad, 0.7, &cfg) <= nla_reward_value(&ok, 0.7, &cfg));
		assert_true(nla_reward_penalty(&bad, &cfg) >= nla_reward_penalty(&ok, &cfg));
		n += nla_reward_penalty(&bad, &cfg) > 0;
	}
	assert_true(n > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_worked),
		cmocka_unit_test(test_own_length),
		cmocka_unit_test(test_floor),
		cmocka_unit_test(test_failing_is_never_cheaper),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
