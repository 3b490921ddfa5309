/*
 * json - strict typed reading and exact writing around cJSON. See json.h.
 *
 * cJSON parses; we print. Its printer compares numbers within an epsilon and may lose the last bits of a double, and it copies
 * invalid UTF-8. It also ends a string at \u0000: such an escape becomes U+FFFD before parsing, so that no text is lost unseen.
 */
#include "base/json.h"
#include "base/file.h"
#include "base/utf8.h"

/* The tree of a file takes up to forty times its size. */
#define MAX_JSON (64 << 20)

/* cJSON leaves out what it has no memory for, and most of its callers could not see that: its allocations, too, do not fail. */
static void *allocate(size_t n) { return nla_alloc(n, 1); }

__attribute__((constructor)) static void set_hooks(void) { cJSON_InitHooks(&(cJSON_Hooks){ allocate, free }); }

void nla_json_free_at(cJSON **json) { cJSON_Delete(*json); }

static enum nla_status not_json(const char *text, size_t n, const char *name, const char *at, struct nla_err *err)
{
	size_t offset = at ? NLA_MIN((size_t)(at - text), n) : 0, line = 1, column = 1, blank = 0;
	while (blank < n && isspace((unsigned char)text[blank]))
		blank++;
	if (blank == n)
		return nla_fail(err, "'%s' is not JSON: it is empty", name);
	for (size_t i = 0; i < offset; i++) {
		line += text[i] == '\n';
		column = text[i] == '\n' ? 1 : column + (((unsigned char)text[i] & 0xc0) != 0x80);
	}
	return nla_fail(err, "'%s' is not JSON: error at line %zu, column %zu", name, line, column);
}

enum nla_status nla_json_parse(const char *text, size_t n, const char *name, cJSON **out, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str copy = NLA_STR_INIT;
	const char *end = NULL;
	if (memmem(text, n, "\\u0000", 6)) {
		nla_str_addn(&copy, text, n);
		for (size_t i = 0; i + 6 <= n; i += text[i] == '\\' ? 2 : 1) /* what an escaped backslash precedes is none */
			if (!memcmp(text + i, "\\u0000", 6))
				memcpy(copy.buf + i, "\\ufffd", 6);
		text = copy.buf;
	}
	*out = cJSON_ParseWithLengthOpts(text, n, &end, false);
	while (*out && end < text + n && strchr(" \t\r\n", *end) && *end)
		end++;
	const char *zero = *out ? memchr(text, 0, n) : NULL; /* where cJSON ends a string, too */
	end = zero ? zero : end;
	if (*out && end == text + n)
		return NLA_OK;
	cJSON_Delete(*out);
	*out = NULL;
	return not_json(text, n, name, end, err);
}

enum nla_status nla_json_read(const char *path, cJSON **out, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	*out = NULL;
	if (nla_file_read(path, &text, err))
		return err->status;
	return text.len > MAX_JSON ? nla_fail(err, "cannot read '%s': it holds more than %d MiB", path, MAX_JSON >> 20)
				   : nla_json_parse(text.buf, text.len, path, out, err);
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
			if (spread)
				nla_str_addf(s, "\n%*s", 2 * depth + 2, "");
			if (object) {
				nla_json_add_str(s, child->string, strlen(child->string));
				nla_str_add(s, pretty ? ": " : ":");
			}
			nla_json_add(s, child, pretty, depth + 1);
			if (child->next)
				nla_str_add(s, pretty && !spread ? ", " : ",");
		}
		if (spread)
			nla_str_addf(s, "\n%*s", 2 * depth, "");
		nla_str_addc(s, object ? '}' : ']');
	}
}

enum nla_status nla_json_write(const char *path, const cJSON *json, bool pretty, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	nla_json_add(&text, json, pretty, 0);
	nla_str_addc(&text, '\n');
	return nla_file_write(path, text.buf, text.len, nla_ends_with(path, ".gz"), err);
}

const char *nla_json_type(const cJSON *json)
{
	if (cJSON_IsArray(json) || cJSON_IsObject(json))
		return cJSON_IsArray(json) ? "an array" : "an object";
	if (cJSON_IsBool(json) || cJSON_IsNumber(json))
		return cJSON_IsBool(json) ? "a boolean" : "a number";
	return cJSON_IsString(json) ? "a string" : "null";
}

/* The value at key, NULL when missing or null. Where the path leads through something that is no object, *wrong is that value
 * and *wrong_len the length of its key (0: the root). A key that holds a dot itself is found under its whole name. */
static const cJSON *walk(const cJSON *json, const char *key, const cJSON **wrong, size_t *wrong_len)
{
	for (const char *rest = key, *dot;; rest = dot + 1) {
		if (!cJSON_IsObject(json)) {
			*wrong = json;
			*wrong_len = rest == key ? 0 : (size_t)(rest - key) - 1;
			return NULL;
		}
		const cJSON *whole = cJSON_GetObjectItemCaseSensitive(json, rest);
		dot = strchr(rest, '.');
		if (whole || !dot)
			return cJSON_IsNull(whole) ? NULL : whole;
		nla_auto char *part = nla_strndup(rest, (size_t)(dot - rest));
		json = cJSON_GetObjectItemCaseSensitive(json, part);
		if (!json || cJSON_IsNull(json))
			return NULL;
	}
}

const cJSON *nla_json_at(const cJSON *json, const char *key)
{
	const cJSON *wrong;
	size_t n;
	return walk(json, key, &wrong, &n);
}

enum kind { INT, NUM, BOOL, STR };

/* The value at key into *out, of the type that kind says. A missing one leaves *out, and is an error when need is set. JSON
 * numbers are doubles: from 2^53 on an integer may not be the one that was written. */
static enum nla_status get(const cJSON *json, const char *name, const char *key, enum kind kind, bool need, void *out,
			   struct nla_err *err)
{
	static const char *const wants[] = { "an integer", "a number", "a boolean", "a string" };
	size_t n = 0;
	const cJSON *wrong = NULL, *value = walk(json, key, &wrong, &n);
	if (wrong && !n)
		return nla_fail(err, "'%s': is %s, want an object", name, nla_json_type(wrong));
	if (wrong)
		return nla_fail(err, "'%s': '%.*s' is %s, want an object", name, (int)n, key, nla_json_type(wrong));
	if (!value)
		return need ? nla_fail(err, "'%s': '%s' is missing, want %s", name, key, wants[kind]) : NLA_OK;
	double x = value->valuedouble;
	if (kind == STR ? !value->valuestring : kind == BOOL ? !cJSON_IsBool(value) : !cJSON_IsNumber(value))
		return nla_fail(err, "'%s': '%s' is %s, want %s", name, key, nla_json_type(value), wants[kind]);
	if (kind == INT && (!(fabs(x) < 0x1p53) || x != trunc(x)))
		return nla_fail(err, "'%s': '%s' is %.10g, want an integer%s", name, key, x,
				fabs(x) >= 0x1p53 ? " below 2^53" : "");
	if (kind == NUM && !isfinite(x))
		return nla_fail(err, "'%s': '%s' is too large for a number", name, key);
	if (kind == INT)
		*(int64_t *)out = (int64_t)x;
	else if (kind == NUM)
		*(double *)out = x;
	else if (kind == BOOL)
		*(bool *)out = cJSON_IsTrue(value);
	else
		*(const char **)out = value->valuestring;
	return NLA_OK;
}

#define GETTERS(type, ctype, kind)                                                                             \
	enum nla_status nla_json_need_##type(const cJSON *json, const char *name, const char *key, ctype *out, \
					     struct nla_err *err)                                              \
	{                                                                                                      \
		return get(json, name, key, kind, true, out, err);                                             \
	}                                                                                                      \
	enum nla_status nla_json_##type(const cJSON *json, const char *name, const char *key, ctype def,       \
					ctype *out, struct nla_err *err)                                       \
	{                                                                                                      \
		*out = def;                                                                                    \
		return get(json, name, key, kind, false, out, err);                                            \
	}

GETTERS(int, int64_t, INT)
GETTERS(num, double, NUM)
GETTERS(bool, bool, BOOL)
GETTERS(str, const char *, STR)

/* ---- facts by a table ---- */

static enum nla_status read_number(const struct nla_field *f, const cJSON *json, const char *path, double *x,
				   struct nla_err *err)
{
	if (nla_json_need_num(json, path, f->key, x, err))
		return err->status;
	if (f->type == NLA_WHOLE && *x != floor(*x))
		return nla_fail(err, "'%s': '%s' is %g, want a whole number", path, f->key, *x);
	if (!(*x >= f->low && *x <= f->high))
		return nla_fail(err, "'%s': '%s' is %.16g, want a number from %g to %g", path, f->key, *x, f->low, f->high);
	return NLA_OK;
}

enum nla_status nla_fields_read(const struct nla_field *fields, size_t n, const cJSON *json, const char *path, void *out,
				struct nla_err *err)
{
	for (const struct nla_field *f = fields; f < fields + n && !err->status; f++) {
		char *to = (char *)out + f->at;
		double x = f->def;
		bool there = nla_json_at(json, f->key) != NULL;
		if (f->type == NLA_FLAG)
			nla_json_bool(json, path, f->key, f->def != 0, (bool *)to, err);
		if (f->type < NLA_WHOLE || f->type == NLA_FLAG || (!there && x == NLA_KEEP) ||
		    ((there || x == NLA_MUST) && read_number(f, json, path, &x, err)))
			continue;
		if (f->type == NLA_WHOLE)
			*(int64_t *)to = (int64_t)x;
		else
			*(double *)to = x;
	}
	return err->status;
}

enum nla_status nla_fields_check(const struct nla_field *fields, size_t n, const cJSON *json, const char *path, bool empty,
				 struct nla_err *err)
{
	if (!cJSON_IsObject(json))
		return nla_fail(err, "cannot load '%s': it is not an object", path);
	for (const cJSON *field = json->child; field && !err->status; field = field->next) {
		const struct nla_field *f = fields, *end = fields + n;
		while (f < end && nla_word_index(f->key, field->string) < 0)
			f++;
		if (f < end && cJSON_GetObjectItemCaseSensitive(json, field->string) != field) /* other readers take the last */
			return nla_fail(err, "cannot load '%s': '%s' is there twice", path, field->string);
		if (cJSON_IsNull(field) || *field->string == '_' || (f < end && f->type != NLA_ONLY))
			continue;
		NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
		if (cJSON_IsString(field))
			nla_str_addf(&text, "'%s'", field->valuestring);
		else
			nla_json_add(&text, field, false, 0);
		if (nla_word_index(f < end ? f->want : empty ? "false|[]|{}" : NULL, text.buf) >= 0)
			;
		else if (f == end)
			nla_fail(err, "cannot load '%s': field '%s' is not known, and it may change what the model computes",
				 path, field->string);
		else if (f->why)
			nla_fail(err, "cannot load '%s': '%s' is %.80s: %s", path, field->string, text.buf, f->why);
		else
			nla_fail(err, "cannot load '%s': '%s' is %.80s, only %s is supported", path, field->string, text.buf,
				 f->want);
	}
	return err->status;
}

/* ---- numbers and strings, written ---- */

void nla_json_add_str(struct nla_str *s, const char *text, size_t n)
{
	static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
	nla_str_addc(s, '"');
	for (size_t i = 0; i < n;) {
		int length = nla_utf8_length(text + i, n - i);
		const char *escape = text[i] ? strchr(from, text[i]) : NULL;
		if (length < 0) {
			nla_str_add(s, "\xef\xbf\xbd");
			length = -length;
		} else if (escape) {
			nla_str_addf(s, "\\%c", to[escape - from]);
		} else if (length == 1 && text[i] < 0x20) {
			nla_str_addf(s, "\\u%04x", text[i]);
		} else {
			nla_str_addn(s, text + i, (size_t)length);
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

double nla_json_value(const cJSON *json, const char *key)
{
	const cJSON *x = cJSON_GetObjectItem(json, key);
	return cJSON_IsNumber(x) ? x->valuedouble : (double)NAN;
}

bool nla_json_ids(const cJSON *list, double size, struct nla_i32s *ids)
{
	for (const cJSON *x = cJSON_IsArray(list) ? list->child : list; x; x = cJSON_IsArray(list) ? x->next : NULL) {
		const double id = cJSON_IsNumber(x) ? x->valuedouble : -1;
		if (!(id >= 0 && id < size) || id != trunc(id))
			return false;
		nla_i32s_push(ids, (int32_t)id);
	}
	return true;
}
