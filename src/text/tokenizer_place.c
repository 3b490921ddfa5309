/* tokenizer_place - an object of a tokenizer's file against the fields and values that are honoured; see tokenizer_read.h. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_read.h"

enum nla_status nla_place_fail(const struct nla_place *p, const char *key, const char *want, struct nla_err *err)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(p->json, key);
	char *text = value ? cJSON_PrintUnformatted(value) : NULL;
	enum nla_status status = nla_fail(err, "cannot read '%s': field '%s%s' is %.80s, want %s", p->path, p->where, key,
					  text ? text : "missing", want);

	cJSON_free(text);
	return status;
}

bool nla_place_true(const struct nla_place *p, const char *key)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(p->json, key));
}

/* Where in a list word is an element, which ends at one of ends. */
static const char *find(const char *list, const char *word, char separator, const char *ends)
{
	size_t n = strlen(word);

	for (const char *s = list; s; s = strchr(s, separator), s = s ? s + 1 : NULL)
		if (!strncmp(s, word, n) && strchr(ends, s[n]))
			return s;
	return NULL;
}

static enum nla_status check_rule(const struct nla_place *p, const char *rule, struct nla_err *err)
{
	size_t n = strcspn(rule, "=;");
	char *key = nla_strndup(rule, n), *want = rule[n] == '=' ? nla_strndup(rule + n + 1, strcspn(rule + n + 1, ";")) : NULL;
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(p->json, key);
	char *text = want && value ? cJSON_PrintUnformatted(value) : NULL;
	enum nla_status status =
		!want || find(want, text ? text : "null", '|', "|") ? NLA_OK : nla_place_fail(p, key, want, err);

	cJSON_free(text);
	free(key);
	free(want);
	return status;
}

enum nla_status nla_place_check(const struct nla_place *p, const char *rules, struct nla_err *err)
{
	const cJSON *child;

	if (!cJSON_IsObject(p->json))
		return nla_fail(err, "cannot read '%s': '%.*s' is not an object", p->path, (int)strcspn(p->where, "."),
				p->where);
	cJSON_ArrayForEach(child, p->json)
		if (*rules != '*' && !find(rules, child->string, ';', "=;"))
			return nla_fail(err, "cannot read '%s': field '%s%s' is not supported", p->path, p->where,
					child->string);
	for (const char *rule = rules; rule; rule = strchr(rule, ';'), rule = rule ? rule + 1 : NULL)
		if (check_rule(p, rule, err))
			return err->status;
	return NLA_OK;
}
