/*
 * json - strict typed reading and exact writing around cJSON. See json.h.
 *
 * cJSON parses; we print. Its printer compares numbers within an epsilon and may lose the last bits of a double, and it copies
 * invalid UTF-8. It also ends a string at \u0000: such an escape becomes U+FFFD before parsing, so that no text is lost unseen.
 */
#include "base/json.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* Does text hold the escape \u0000 (not an escaped backslash before u0000)? Then out gets the text with \ufffd instead. */
static bool replace_nul_escapes(const char *text, size_t n, struct nla_str *out)
{
	if (!memmem(text, n, "\\u0000", 6))
		return false;
	nla_str_addn(out, text, n);
	for (size_t i = 0; i + 1 < n; i++) {
		if (text[i] != '\\')
			continue;
		if (i + 6 <= n && !memcmp(text + i, "\\u0000", 6))
			memcpy(out->buf + i, "\\ufffd", 6);
		i++;
	}
	return true;
}

static enum nla_status not_json(const char *text, size_t n, const char *name, const char *at, struct nla_err *err)
{
	size_t offset = at ? NLA_MIN((size_t)(at - text), n) : 0, line = 1, column = 1, blank = 0;

	while (blank < n && isspace((unsigned char)text[blank]))
		blank++;
	if (blank == n)
		return nla_fail(err, "'%s' is not JSON: it is empty", name);
	for (size_t i = 0; i < offset; i++) {
		if (text[i] == '\n') {
			line++;
			column = 1;
		} else if (((unsigned char)text[i] & 0xc0) != 0x80) {
			column++;
		}
	}
	return nla_fail(err, "'%s' is not JSON: error at line %zu, column %zu", name, line, column);
}

enum nla_status nla_json_parse(const char *text, size_t n, const char *name, cJSON **out, struct nla_err *err)
{
	struct nla_str copy = NLA_STR_INIT;
	enum nla_status status = NLA_OK;
	const char *end = NULL;

	if (replace_nul_escapes(text, n, &copy))
		text = copy.buf;
	*out = cJSON_ParseWithLengthOpts(text, n, &end, false);
	while (*out && end < text + n && strchr(" \t\r\n", *end) && *end)
		end++;
	if (!*out || end < text + n) {
		cJSON_Delete(*out);
		*out = NULL;
		status = not_json(text, n, name, end, err);
	}
	nla_str_release(&copy);
	return status;
}

enum nla_status nla_json_read(const char *path, cJSON **out, struct nla_err *err)
{
	struct nla_str text = NLA_STR_INIT;
	enum nla_status status;

	*out = NULL;
	status = nla_file_read(path, &text, err);
	if (!status)
		status = nla_json_parse(text.buf, text.len, path, out, err);
	nla_str_release(&text);
	return status;
}

static void newline(struct nla_str *s, bool pretty, int depth)
{
	if (pretty)
		nla_str_addf(s, "\n%*s", 2 * depth, "");
}

/* An array of numbers or strings stays on one line; what holds objects or arrays is spread. */
static bool is_flat(const cJSON *json)
{
	const cJSON *child;

	cJSON_ArrayForEach(child, json)
		if (cJSON_IsObject(child) || cJSON_IsArray(child))
			return false;
	return cJSON_IsArray(json) || !json->child;
}

void nla_json_add(struct nla_str *s, const cJSON *json, bool pretty, int depth)
{
	bool object = cJSON_IsObject(json), spread = pretty && !is_flat(json);
	const cJSON *child;

	if (cJSON_IsNumber(json)) {
		nla_json_add_num(s, json->valuedouble);
	} else if (cJSON_IsString(json)) {
		nla_json_add_str(s, json->valuestring, strlen(json->valuestring));
	} else if (cJSON_IsRaw(json)) {
		nla_str_add(s, json->valuestring);
	} else if (!object && !cJSON_IsArray(json)) {
		nla_str_add(s, cJSON_IsTrue(json) ? "true" : cJSON_IsFalse(json) ? "false" : "null");
	} else {
		nla_str_addc(s, object ? '{' : '[');
		cJSON_ArrayForEach(child, json) {
			newline(s, spread, depth + 1);
			if (object) {
				nla_json_add_str(s, child->string, strlen(child->string));
				nla_str_add(s, pretty ? ": " : ":");
			}
			nla_json_add(s, child, pretty, depth + 1);
			if (child->next)
				nla_str_add(s, pretty && !spread ? ", " : ",");
		}
		newline(s, spread, depth);
		nla_str_addc(s, object ? '}' : ']');
	}
}

enum nla_status nla_json_write(const char *path, const cJSON *json, bool pretty, struct nla_err *err)
{
	struct nla_str text = NLA_STR_INIT;

	nla_json_add(&text, json, pretty, 0);
	nla_str_addc(&text, '\n');
	enum nla_status status = nla_file_write(path, text.buf, text.len, nla_ends_with(path, ".gz"), err);
	nla_str_release(&text);
	return status;
}

const char *nla_json_type(const cJSON *json)
{
	return cJSON_IsString(json)   ? "a string"
	       : cJSON_IsNumber(json) ? "a number"
	       : cJSON_IsBool(json)   ? "a boolean"
	       : cJSON_IsArray(json)  ? "an array"
	       : cJSON_IsObject(json) ? "an object"
				      : "null";
}

/* The value at key, NULL when missing or null. Where the path leads through something that is no object, *wrong is that value
 * and *wrong_len the length of its key (0: the root). A key that holds a dot itself is found under its whole name. */
static const cJSON *walk(const cJSON *json, const char *key, const cJSON **wrong, size_t *wrong_len)
{
	const char *rest = key;

	for (;;) {
		if (!cJSON_IsObject(json)) {
			*wrong = json;
			*wrong_len = rest == key ? 0 : (size_t)(rest - key) - 1;
			return NULL;
		}
		const cJSON *whole = cJSON_GetObjectItemCaseSensitive(json, rest);
		const char *dot = strchr(rest, '.');
		if (whole || !dot)
			return cJSON_IsNull(whole) ? NULL : whole;
		char *part = nla_strndup(rest, (size_t)(dot - rest));
		json = cJSON_GetObjectItemCaseSensitive(json, part);
		free(part);
		if (!json || cJSON_IsNull(json))
			return NULL;
		rest = dot + 1;
	}
}

const cJSON *nla_json_at(const cJSON *json, const char *key)
{
	const cJSON *wrong;
	size_t n;

	return walk(json, key, &wrong, &n);
}

/* Look key up for a getter that wants `want`. A missing one is NULL: an error when need is set. */
static enum nla_status look_up(const cJSON *json, const char *name, const char *key, const char *want, bool need,
			       const cJSON **out, struct nla_err *err)
{
	const cJSON *wrong = NULL;
	size_t n = 0;

	*out = walk(json, key, &wrong, &n);
	if (wrong && !n)
		return nla_fail(err, "'%s': is %s, want an object", name, nla_json_type(wrong));
	if (wrong)
		return nla_fail(err, "'%s': '%.*s' is %s, want an object", name, (int)n, key, nla_json_type(wrong));
	if (!*out && need)
		return nla_fail(err, "'%s': '%s' is missing, want %s", name, key, want);
	return NLA_OK;
}

static enum nla_status wrong_type(const cJSON *value, const char *name, const char *key, const char *want, struct nla_err *err)
{
	return nla_fail(err, "'%s': '%s' is %s, want %s", name, key, nla_json_type(value), want);
}

static enum nla_status to_num(const cJSON *value, const char *name, const char *key, double *out, struct nla_err *err)
{
	if (!cJSON_IsNumber(value))
		return wrong_type(value, name, key, "a number", err);
	if (!isfinite(value->valuedouble))
		return nla_fail(err, "'%s': '%s' is too large for a number", name, key);
	*out = value->valuedouble;
	return NLA_OK;
}

/* JSON numbers are doubles: beyond 2^53 an integer may not be the one that was written. */
static enum nla_status to_int(const cJSON *value, const char *name, const char *key, int64_t *out, struct nla_err *err)
{
	if (!cJSON_IsNumber(value))
		return wrong_type(value, name, key, "an integer", err);
	if (!(fabs(value->valuedouble) <= 0x1p53) || value->valuedouble != trunc(value->valuedouble))
		return nla_fail(err, "'%s': '%s' is %.10g, want an integer%s", name, key, value->valuedouble,
				fabs(value->valuedouble) > 0x1p53 ? " of at most 2^53" : "");
	*out = (int64_t)value->valuedouble;
	return NLA_OK;
}

static enum nla_status to_str(const cJSON *value, const char *name, const char *key, const char **out, struct nla_err *err)
{
	if (!cJSON_IsString(value))
		return wrong_type(value, name, key, "a string", err);
	*out = value->valuestring;
	return NLA_OK;
}

enum nla_status nla_json_need_int(const cJSON *json, const char *name, const char *key, int64_t *out, struct nla_err *err)
{
	const cJSON *value;
	enum nla_status status = look_up(json, name, key, "an integer", true, &value, err);

	return status ? status : to_int(value, name, key, out, err);
}

enum nla_status nla_json_need_num(const cJSON *json, const char *name, const char *key, double *out, struct nla_err *err)
{
	const cJSON *value;
	enum nla_status status = look_up(json, name, key, "a number", true, &value, err);

	return status ? status : to_num(value, name, key, out, err);
}

enum nla_status nla_json_need_str(const cJSON *json, const char *name, const char *key, const char **out, struct nla_err *err)
{
	const cJSON *value;
	enum nla_status status = look_up(json, name, key, "a string", true, &value, err);

	return status ? status : to_str(value, name, key, out, err);
}

enum nla_status nla_json_int(const cJSON *json, const char *name, const char *key, int64_t def, int64_t *out,
			     struct nla_err *err)
{
	const cJSON *value;
	enum nla_status status = look_up(json, name, key, "an integer", false, &value, err);

	*out = def;
	return status || !value ? status : to_int(value, name, key, out, err);
}

enum nla_status nla_json_num(const cJSON *json, const char *name, const char *key, double def, double *out,
			     struct nla_err *err)
{
	const cJSON *value;
	enum nla_status status = look_up(json, name, key, "a number", false, &value, err);

	*out = def;
	return status || !value ? status : to_num(value, name, key, out, err);
}

enum nla_status nla_json_bool(const cJSON *json, const char *name, const char *key, bool def, bool *out, struct nla_err *err)
{
	const cJSON *value;
	enum nla_status status = look_up(json, name, key, "a boolean", false, &value, err);

	*out = def;
	if (status || !value)
		return status;
	if (!cJSON_IsBool(value))
		return wrong_type(value, name, key, "a boolean", err);
	*out = cJSON_IsTrue(value);
	return NLA_OK;
}

enum nla_status nla_json_str(const cJSON *json, const char *name, const char *key, const char *def, const char **out,
			     struct nla_err *err)
{
	const cJSON *value;
	enum nla_status status = look_up(json, name, key, "a string", false, &value, err);

	*out = def;
	return status || !value ? status : to_str(value, name, key, out, err);
}

/*
 * Length of the well-formed UTF-8 character at p, or minus the length of the longest start of one that is cut or wrong there
 * (at least 1): Unicode 15, table 3-7 and the practice of section 3.9, so that other programs count the same replacements.
 */
static int utf8_length(const unsigned char *p, size_t n)
{
	unsigned char c = p[0], low = 0x80, high = 0xbf;
	int length = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;

	if (!length)
		return -1;
	if (c == 0xe0)
		low = 0xa0;
	else if (c == 0xed)
		high = 0x9f;
	else if (c == 0xf0)
		low = 0x90;
	else if (c == 0xf4)
		high = 0x8f;
	for (int i = 1; i < length; i++) {
		if ((size_t)i >= n || p[i] < low || p[i] > high)
			return -i;
		low = 0x80;
		high = 0xbf;
	}
	return length;
}

void nla_json_add_str(struct nla_str *s, const char *text, size_t n)
{
	static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
	const unsigned char *p = (const unsigned char *)text;

	nla_str_addc(s, '"');
	for (size_t i = 0; i < n;) {
		int length = utf8_length(p + i, n - i);
		const char *escape = p[i] ? strchr(from, p[i]) : NULL;
		if (length < 0) {
			nla_str_add(s, "\xef\xbf\xbd");
			length = -length;
		} else if (escape) {
			nla_str_addf(s, "\\%c", to[escape - from]);
		} else if (p[i] < 0x20) {
			nla_str_addf(s, "\\u%04x", p[i]);
		} else {
			nla_str_addn(s, p + i, (size_t)length);
		}
		i += (size_t)length;
	}
	nla_str_addc(s, '"');
}

/* Any decimal of up to 15 digits survives the way through a double, and %g drops zeros: so 15 digits, where they suffice, are
 * already the fewest. Below the normal range a double holds fewer digits than that. */
void nla_json_add_num(struct nla_str *s, double x)
{
	char text[32];

	if (!isfinite(x)) {
		nla_str_add(s, "null");
		return;
	}
	if (fabs(x) <= 0x1p53 && x == trunc(x)) {
		nla_str_addf(s, "%.0f", x);
		return;
	}
	for (int digits = fpclassify(x) == FP_SUBNORMAL ? 1 : 15; digits <= 17; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, x);
		if (strtod(text, NULL) == x)
			break;
	}
	char *comma = strchr(text, ','); /* a program that embeds us may have set a locale */
	if (comma)
		*comma = '.';
	nla_str_add(s, text);
}

void nla_json_put(cJSON *json, const char *key, double x)
{
	cJSON_AddItemToObject(json, key, isfinite(x) ? cJSON_CreateNumber(x) : cJSON_CreateNull());
}

double nla_json_value(const cJSON *json, const char *key)
{
	const cJSON *x = cJSON_GetObjectItem(json, key);
	return cJSON_IsNumber(x) ? x->valuedouble : (double)NAN;
}
