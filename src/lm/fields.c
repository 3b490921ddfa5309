/* fields - JSON files of facts read by a table; see fields.h. */
#include "lm/fields.h"

#include <math.h>

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
