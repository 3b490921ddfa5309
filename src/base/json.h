/*
 * json - typed, strict reading of JSON and YAML over cJSON's tree. Every getter names the file and the full key on error:
 *	'model/config.json': 'rope_scaling.factor' is a string, want a number
 * A getter with a default accepts a missing key or null; one without ("need") does not.
 */
#pragma once

#include <cjson/cJSON.h>

#include "base.h"

/* nla_auto_json cJSON *json = NULL: deleted where its block ends. */
#define nla_auto_json NLA_AUTO(nla_json_free_at)
void nla_json_free_at(cJSON **json);

/* Parse text (error gives line and column) or a file (plain or gzip, of at most 64 MiB). The caller frees with cJSON_Delete.
 * name: for messages. The escape \u0000 in a string reads as U+FFFD, since C strings end at NUL. */
enum nla_status nla_json_parse(const char *text, size_t n, const char *name, cJSON **out, struct nla_err *err);
enum nla_status nla_json_read(const char *path, cJSON **out, struct nla_err *err);
/* A YAML file as the same tree. A scalar that is a number, true, false or (unquoted) null becomes one, and keeps its
 * text in valuestring: a string getter reads `stage: 3`. Aliases are resolved; a key that is there twice is an error. */
enum nla_status nla_yaml_read(const char *path, cJSON **out, struct nla_err *err);
/* Write compactly or indented, with a newline at the end, through nla_file_write (a name that ends in .gz: compressed). Every
 * double reads back as it was. */
enum nla_status nla_json_write(const char *path, const cJSON *json, bool pretty, struct nla_err *err);

/*
 * nla_json_need_int(json, name, key, &out, err)    nla_json_int(json, name, key, def, &out, err)    likewise num, bool, str
 * name: the file for the message. key may be dotted ("tokens.injection_token_id"). Returned strings are borrowed from json.
 */
#define NLA_JSON_GETTERS(type, ctype)                                                                          \
	enum nla_status nla_json_need_##type(const cJSON *json, const char *name, const char *key, ctype *out, \
					     struct nla_err *err);                                             \
	enum nla_status nla_json_##type(const cJSON *json, const char *name, const char *key, ctype def,       \
					ctype *out, struct nla_err *err)

NLA_JSON_GETTERS(int, int64_t);
NLA_JSON_GETTERS(num, double);
NLA_JSON_GETTERS(bool, bool);
NLA_JSON_GETTERS(str, const char *);
/* The value at a dotted key, or NULL when it is missing or null. */
const cJSON *nla_json_at(const cJSON *json, const char *key);

/*
 * A JSON file of facts as a table: one row a field says its name, the values honoured and where the value goes.
 *
 *	static const struct nla_field fields[] = {
 *		{ "hidden_size", NLA_WHOLE, offsetof(struct nla_arch, d_model), NLA_MUST, .low = 1, .high = 1e6 },
 *		{ "hidden_act", NLA_ONLY, .want = "'silu'" },       another value is an error
 *		{ .key = "use_cache|dtype" },                       changes nothing computed here
 *	};
 *	if (nla_fields_read(fields, NLA_LEN(fields), json, path, &arch, err)) ...
 */
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

/* Append a JSON string literal (quotes included, invalid UTF-8 replaced by U+FFFD) or a number (shortest form that reads back
 * to the same double; NaN and infinities become null) to s: for logs written a line at a time. */
void nla_json_add_str(struct nla_str *s, const char *text, size_t n);
void nla_json_add_num(struct nla_str *s, double x);
/* A whole value; pretty: two spaces of indentation for each level below depth. */
void nla_json_add(struct nla_str *s, const cJSON *json, bool pretty, int depth);
/* Whole numbers from 0 to below `size`, of a list or a single one, appended; false: something is none. */
bool nla_json_ids(const cJSON *list, double size, struct nla_i32s *ids);
/* "a string", "a number", ...: for messages. */
const char *nla_json_type(const cJSON *json);

/* A number of a log line, NaN when it is missing or no number. */
double nla_json_value(const cJSON *json, const char *key);
