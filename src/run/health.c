/* A table of sicknesses, each a number of a step's line beyond a limit for some steps in a row; see health.h. */
#include "run/health.h"
#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"

enum of { OF_ALL, OF_GROUPS, OF_TRAINED_AR }; /* as it is; by the number of groups; only where the AR is trained */

static const struct sickness {
	const char *name, *key;
	enum of of;
	bool below;
	double limit;
	int64_t steps;
	const char *advice;
} table[NLA_HEALTH_N] = {
	{ "entropy", "entropy", OF_ALL, true, 0.05, 10,
	  "the policy writes nearly the same whatever it draws: raise update.kl, or lower update.lr" },
	{ "kl", "kl", OF_ALL, false, 5, 5, "the policy is far from the warm start: raise update.kl, or lower update.lr" },
	{ "kl_clamped", "kl_clamped", OF_ALL, false, 0.01, 1,
	  "these tokens are beyond the KL's clamp, where it does not hold the policy: lower update.lr, or raise update.kl" },
	{ "length", "unstopped_rate", OF_ALL, false, 0.5, 10,
	  "most responses end at rollout.max_new_tokens: raise it, or lambda" },
	{ "groups_failed", "groups_failed", OF_GROUPS, false, 0.5, 10,
	  "a group without a valid row teaches nothing: failed_* of metrics.jsonl says why they fail" },
	{ "groups_tied", "groups_tied", OF_GROUPS, false, 0.5, 10,
	  "a group whose rewards are equal teaches nothing: raise rollout.temperature or update.kl" },
	{ "sampler_gap", "sampler_gap", OF_ALL, false, 0.1, 5,
	  "the sampler is not the policy: --check compares this device's operations, --dtype fp32 is exact" },
	{ "ar", "fve", OF_TRAINED_AR, true, 0, 10,
	  "the trained AR predicts worse than the mean vector: lower ar_update.lr" },
};

static bool named(const char *list, const char *name)
{
	const size_t n = strlen(name);
	for (const char *at = list; (at = strstr(at, name)); at += n)
		if ((at == list || at[-1] == ',') && (!at[n] || at[n] == ','))
			return true;
	return false;
}

enum nla_status nla_health_guard(const struct nla_config *cfg, bool trains, struct nla_err *err)
{
	const char *guard = cfg->guard;
	size_t known = 0, words = *guard != 0;
	for (const char *c = guard; *c; c++)
		words += *c == ',';
	for (size_t i = 0; i < NLA_HEALTH_N; i++)
		known += named(guard, table[i].name);
	if (known != words)
		return nla_usage(err, "'guard' is '%s': want some of " NLA_HEALTH_NAMES ", separated by commas, without spaces",
				 guard);
	const char *why = !trains ? NULL
			: cfg->update.kl == 0 && (named(guard, "kl") || named(guard, "kl_clamped"))
				? "with 'update.kl' 0 a step has no KL: nothing would end the run"
			: !cfg->ar_update.enabled && named(guard, "ar")
				? "'ar_update.enabled' is not set: the AR is frozen" : NULL;
	if (why && !cfg->resume)
		return nla_usage(err, "'guard' is '%s', but %s", guard, why);
	if (why) /* an older run goes on */
		nla_say("warning: 'guard' is '%s', but %s", guard, why);
	return NLA_OK;
}

/* Counts a step; true where it has been sick for long enough. *x: its number. */
static bool lasts(struct nla_health *h, size_t i, const struct nla_config *cfg, const cJSON *line, double *x)
{
	const struct sickness *t = &table[i];
	const bool counts = t->of != OF_TRAINED_AR || cfg->ar_update.enabled;
	*x = nla_json_value(line, t->key) / (t->of == OF_GROUPS ? (double)cfg->rollout.prompts : 1);
	h->steps[i] = counts && (t->below ? *x < t->limit : *x > t->limit) ? h->steps[i] + 1 : 0; /* NaN is beyond no limit */
	return h->steps[i] >= t->steps;
}

int64_t nla_health_good(const struct nla_health *h, const struct nla_config *cfg, int64_t step)
{
	int64_t good = INT64_MAX;
	for (size_t i = 0; i < NLA_HEALTH_N; i++)
		if (h->steps[i] && named(cfg->guard, table[i].name))
			good = NLA_MIN(good, step - h->steps[i]);
	return good;
}

enum nla_status nla_health_resume(struct nla_health *h, const struct nla_config *cfg, const char *metrics, struct nla_err *err)
{
	struct nla_lines in;
	const char *text;
	double x;
	if (nla_lines_open(&in, metrics, err))
		return err->status;
	while (!err->status && (text = nla_lines_next_filled(&in))) {
		nla_auto_json cJSON *line = NULL;
		nla_json_parse(text, strlen(text), metrics, &line, err);
		for (size_t i = 0; i < NLA_HEALTH_N && !err->status; i++)
			h->said[i] = lasts(h, i, cfg, line, &x) || h->said[i];
	}
	return nla_lines_close(&in, err);
}

enum nla_status nla_health_check(struct nla_health *h, const struct nla_config *cfg, cJSON *line, struct nla_err *err)
{
	cJSON *warnings = cJSON_GetObjectItem(line, "warnings");
	for (size_t i = 0; i < NLA_HEALTH_N; i++) { /* of each the count, and in `warnings` each that lasts */
		const struct sickness *t = &table[i];
		double x;
		if (!lasts(h, i, cfg, line, &x))
			continue;
		cJSON_AddItemToArray(warnings, cJSON_CreateString(t->name));
		if (named(cfg->guard, t->name) && !err->status)
			nla_fail(err, "guard %s: %s has been %s %g for %lld steps, and is %.3g: %s", t->name, t->key,
				 t->below ? "below" : "above", t->limit, (long long)h->steps[i], x, t->advice);
		else if (!h->said[i])
			nla_say("warning: %s: %s has been %s %g for %lld step%s, and is %.3g: %s", t->name, t->key,
				t->below ? "below" : "above", t->limit, (long long)t->steps, t->steps > 1 ? "s" : "", x,
				t->advice);
		h->said[i] = true;
	}
	return err->status;
}
