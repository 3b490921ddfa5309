/* The health of a run: each warning after as many sick steps in a row as its number says, and not before; guards; what is no number. */
#include "run/health.h"

#include <math.h>

#include "unit/scratch.h"

static struct nla_err err = NLA_ERR_INIT;

/* A step's line with one number that is not healthy, or none. */
static cJSON *line_with(const char *key, double x)
{
	static const struct { const char *key; double healthy; } numbers[] = {
		{ "entropy", 1.2 }, { "kl", 0.1 }, { "kl_clamped", 0 }, { "unstopped_rate", 0.1 }, { "groups_failed", 2 },
		{ "groups_tied", 1 }, { "sampler_gap", 1e-6 }, { "fve", 0.4 },
	};
	cJSON *line = cJSON_CreateObject();
	for (size_t i = 0; i < NLA_LEN(numbers); i++) {
		const double value = key && !strcmp(key, numbers[i].key) ? x : numbers[i].healthy;
		cJSON_AddItemToObject(line, numbers[i].key, isnan(value) ? cJSON_CreateNull() : cJSON_CreateNumber(value));
	}
	cJSON_AddItemToObject(line, "warnings", cJSON_CreateArray());
	return line;
}

/* The names in a line's `warnings`, one of them at most; NULL: none. The error, if any, is left in err. */
static const char *warned(struct nla_health *h, const struct nla_config *cfg, const char *key, double x)
{
	static char name[32];
	cJSON *line = line_with(key, x), *list = cJSON_GetObjectItem(line, "warnings");
	nla_health_check(h, cfg, line, &err);
	assert_true(cJSON_GetArraySize(list) <= 1);
	snprintf(name, sizeof(name), "%s", list->child ? list->child->valuestring : "");
	cJSON_Delete(line);
	return *name ? name : NULL;
}

static const struct { const char *name, *key; double sick, edge; int steps; } kinds[NLA_HEALTH_N] = {
	{ "entropy", "entropy", 0.049, 0.05, 10 }, { "kl", "kl", 5.1, 5, 5 }, { "kl_clamped", "kl_clamped", 0.011, 0.01, 1 },
	{ "length", "unstopped_rate", 0.51, 0.5, 10 }, { "groups_failed", "groups_failed", 5, 4, 10 },
	{ "groups_tied", "groups_tied", 5, 4, 10 }, { "sampler_gap", "sampler_gap", 0.11, 0.1, 5 }, { "ar", "fve", -0.01, 0, 10 },
};

static void test_each_after_its_steps(void **state)
{
	(void)state;
	struct nla_config cfg = { .guard = "", .rollout.prompts = 8, .ar_update.enabled = true };
	for (size_t i = 0; i < NLA_LEN(kinds); i++) {
		struct nla_health h = { 0 };
		for (int step = 1; step <= kinds[i].steps + 2; step++) {
			const char *name = warned(&h, &cfg, kinds[i].key, kinds[i].sick);
			assert_true(step < kinds[i].steps ? !name : name && !strcmp(name, kinds[i].name));
		}
		assert_null(warned(&h, &cfg, kinds[i].key, kinds[i].edge)); /* the limit itself is healthy, and the count begins again */
		for (int step = 1; step < kinds[i].steps; step++)
			assert_null(warned(&h, &cfg, kinds[i].key, kinds[i].sick));
		assert_null(warned(&h, &cfg, kinds[i].key, (double)NAN));
		assert_int_equal(err.status, NLA_OK);
	}
	struct nla_health h = { 0 };
	cfg.ar_update.enabled = false; /* a frozen AR is what it is */
	for (int step = 0; step < 20; step++)
		assert_null(warned(&h, &cfg, "fve", -1));
}

static void test_guard(void **state)
{
	(void)state;
	struct nla_config cfg = { .guard = "entropy,kl", .rollout.prompts = 8, .update.kl = 0.01, .ar_update.enabled = true };
	struct nla_health h = { 0 };
	assert_int_equal(nla_health_guard(&cfg, true, &err), NLA_OK);
	for (int step = 1; step < 5; step++)
		assert_null(warned(&h, &cfg, "kl", 6));
	assert_string_equal(warned(&h, &cfg, "kl", 6), "kl"); /* in the line too, which is written before the run ends */
	assert_int_equal(err.status, NLA_FAIL);
	assert_non_null(strstr(err.text, "guard kl: kl has been above 5 for 5 steps, and is 6: "));
	err = (struct nla_err)NLA_ERR_INIT;
	assert_string_equal(warned(&h, &cfg, "kl_clamped", 1), "kl_clamped"); /* no part of the name of another */
	assert_int_equal(err.status, NLA_OK);
	NLA_AUTO(nla_str_release) struct nla_str names = NLA_STR_INIT;
	for (size_t i = 0; i < NLA_LEN(kinds); i++) {
		cfg.guard = (char *)kinds[i].name;
		assert_int_equal(nla_health_guard(&cfg, true, &err), NLA_OK);
		nla_str_addf(&names, "%s%s", i ? ", " : "", kinds[i].name);
	}
	assert_string_equal(names.buf, NLA_HEALTH_NAMES);
	static const char *const wrong[] = { "groups", "kl,", "kl,,entropy", "KL", "kl_", "entropy kl" };
	for (size_t i = 0; i < NLA_LEN(wrong); i++) {
		cfg.guard = (char *)wrong[i];
		assert_int_equal(nla_health_guard(&cfg, true, &err), NLA_USAGE);
		err = (struct nla_err)NLA_ERR_INIT;
	}
	/* what can never fire guards nothing; of a run that is evaluated it is no matter */
	static const char *const idle[] = { "kl", "length,kl_clamped", "ar" };
	cfg.update.kl = 0;
	cfg.ar_update.enabled = false;
	for (size_t i = 0; i < NLA_LEN(idle); i++) {
		cfg.guard = (char *)idle[i];
		assert_int_equal(nla_health_guard(&cfg, false, &err), NLA_OK);
		assert_int_equal(nla_health_guard(&cfg, true, &err), NLA_USAGE);
		err = (struct nla_err)NLA_ERR_INIT;
	}
}

/* Where one guard ends the run, others count that step too: the last good state is from before all of them. */
static void test_guards_together(void **state)
{
	(void)state;
	struct nla_config cfg = { .guard = "kl_clamped,length", .rollout.prompts = 8 };
	struct nla_health h = { 0 };
	for (int step = 1; step <= 7; step++) {
		cJSON *line = line_with(step > 2 ? "unstopped_rate" : NULL, 1);
		if (step == 7)
			cJSON_SetNumberValue(cJSON_GetObjectItem(line, "kl_clamped"), 1);
		nla_health_check(&h, &cfg, line, &err);
		cJSON_Delete(line);
	}
	assert_int_equal(err.status, NLA_FAIL);
	assert_int_equal(nla_health_good(&h, &cfg, 7), 2);
	err = (struct nla_err)NLA_ERR_INIT;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_each_after_its_steps), cmocka_unit_test(test_guard),
					    cmocka_unit_test(test_guards_together) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
