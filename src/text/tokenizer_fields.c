/*
 * tokenizer_fields - strict reading of the objects of a tokenizer.json. Each has a table of the fields it may have; where only
 * some values are honoured, the table lists them, and any other field or value is an error that names it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/tokenizer_impl.h"

enum nla_status nla_tok_fail_field(const struct nla_tok_place *p, const char *key, const char *want, struct nla_err *err)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(p->json, key);
	char *text = value ? cJSON_PrintUnformatted(value) : NULL;
	enum nla_status status = nla_fail(err, "cannot read '%s': field '%s%s' is %.80s, want %s", p->path, p->where, key,
					  text ? text : "missing", want);

	cJSON_free(text);
	return status;
}

static bool listed(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *s = list; s; s = strchr(s, '|'), s = s ? s + 1 : NULL)
		if (!strncmp(s, word, n) && (s[n] == '|' || s[n] == '\0'))
			return true;
	return false;
}

enum nla_status nla_tok_check(const struct nla_tok_place *p, const struct nla_tok_rule *rules, size_t n, struct nla_err *err)
{
	const cJSON *child;

	if (!cJSON_IsObject(p->json))
		return nla_fail(err, "cannot read '%s': '%.*s' is not an object", p->path, (int)strcspn(p->where, "."), p->where);
	cJSON_ArrayForEach(child, p->json) {
		size_t i = 0;

		while (i < n && strcmp(rules[i].key, child->string))
			i++;
		if (i == n)
			return nla_fail(err, "cannot read '%s': field '%s%s' is not supported", p->path, p->where, child->string);
	}
	for (size_t i = 0; i < n; i++) {
		const cJSON *value = cJSON_GetObjectItemCaseSensitive(p->json, rules[i].key);
		char *text = rules[i].want && value ? cJSON_PrintUnformatted(value) : NULL;
		bool good = !rules[i].want || listed(rules[i].want, text ? text : "null");

		cJSON_free(text);
		if (!good)
			return nla_tok_fail_field(p, rules[i].key, rules[i].want, err);
	}
	return NLA_OK;
}

enum nla_status nla_tok_read_bool(const struct nla_tok_place *p, const char *key, bool def, bool *out, struct nla_err *err)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(p->json, key);

	if (value && !cJSON_IsNull(value) && !cJSON_IsBool(value))
		return nla_tok_fail_field(p, key, "true or false", err);
	*out = cJSON_IsBool(value) ? cJSON_IsTrue(value) : def;
	return NLA_OK;
}

const char *nla_tok_type(const struct nla_tok_place *p)
{
	const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(p->json, "type"));

	return type ? type : "";
}

