/*
 * fields - a JSON file of facts as a table: one row a field says its name, the values honoured and where the value goes.
 *
 *	static const struct nla_field fields[] = {
 *		{ "hidden_size", NLA_WHOLE, offsetof(struct nla_arch, d_model), NLA_MUST, .low = 1, .high = 1e6 },
 *		{ "hidden_act", NLA_ONLY, .want = "'silu'" },       another value is an error
 *		{ .key = "use_cache|dtype" },                       changes nothing computed here
 *	};
 *	if (nla_fields_read(fields, NLA_LEN(fields), json, path, &arch, err)) ...
 */
#ifndef NLA_FIELDS_H
#define NLA_FIELDS_H

#include "base/json.h"

#define NLA_MUST (-1e308) /* as a default: the field must be there */
#define NLA_KEEP (-1e307) /* what is there stays */

struct nla_field {
	const char *key; /* NLA_ANY, NLA_ONLY: or several, separated by | */
	enum { NLA_ANY, NLA_ONLY, NLA_WHOLE, NLA_REAL, NLA_FLAG } type; /* int64_t, double, bool */
	size_t at;
	double def, low, high; /* a default may be outside of the range */
	const char *want;      /* NLA_ONLY: values as JSON, strings in single quotes, alternatives separated by | */
	const char *why;       /* NLA_ONLY: said instead of "only ... is supported" */
};

/* Fields that are missing or null have their defaults. path: for messages. */
enum nla_status nla_fields_read(const struct nla_field *fields, size_t n, const cJSON *json, const char *path, void *out,
				struct nla_err *err);
/* NLA_ONLY rows hold, and every field has a row; null, and names that begin with '_', pass. empty: false, [] and {} do too. */
enum nla_status nla_fields_check(const struct nla_field *fields, size_t n, const cJSON *json, const char *path, bool empty,
				 struct nla_err *err);

#endif
