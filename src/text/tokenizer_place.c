/* tokenizer_place - an object of a tokenizer's file against the fields and values that are honoured; see tokenizer_read.h. */
#include <string.h>

#include "text/tokenizer_read.h"

enum nla_status nla_place_fail(const struct nla_place *p, const char *key, const char *want, struct nla_err *err)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(p->json, key);
	char *text = value ? cJSON_PrintUnformatted(value) : NULL;
	nla_fail(err, "cannot read '%s': field '%s%s' is %.80s, want %s", p->path, p->where, key, text ? text : "missing",
		 want);
	cJSON_free(text);
	return err->status;
}

bool nla_place_true(const struct nla_place *p, const char *key)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(p->json, key));
}

/* Has a list of rules one of that field? */
static bool has_rule(const char *rules, const char *key)
{
	size_t n = strlen(key);
	while (rules && (strncmp(rules, key, n) || !strchr("=;", rules[n])))
		rules = (rules = strchr(rules, ';')) ? rules + 1 : NULL;
	return rules != NULL;
}

static enum nla_status check_rule(const struct nla_place *p, const char *rule, struct nla_err *err)
{
	size_t n = strcspn(rule, "=;");
	nla_auto char *key = nla_strndup(rule, n);
	nla_auto char *want = rule[n] == '=' ? nla_strndup(rule + n + 1, strcspn(rule + n + 1, ";")) : NULL;
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(p->json, key);
	char *text = want && value ? cJSON_PrintUnformatted(value) : NULL;
	if (want && nla_word_index(want, text ? text : "null") < 0)
		nla_place_fail(p, key, want, err);
	cJSON_free(text);
	return err->status;
}

enum nla_status nla_place_check(const struct nla_place *p, const char *rules, struct nla_err *err)
{
	const cJSON *child;
	if (!cJSON_IsObject(p->json))
		return nla_fail(err, "cannot read '%s': '%.*s' is not an object", p->path, (int)strcspn(p->where, "."),
				p->where);
	cJSON_ArrayForEach(child, p->json)
		if (*rules != '*' && !has_rule(rules, child->string))
			return nla_fail(err, "cannot read '%s': field '%s%s' is not supported", p->path, p->where,
					child->string);
	for (const char *rule = rules; rule; rule = strchr(rule, ';'), rule = rule ? rule + 1 : NULL)
		if (check_rule(p, rule, err))
			return err->status;
	return NLA_OK;
}
