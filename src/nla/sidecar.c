/*
 * sidecar - see sidecar.h. nla_meta.yaml is a table of fields, in the order of the file; reading, checking, copying and writing
 * follow it.
 *
 * A key that is absent, or null, leaves the field at what nla_sidecar_init set. The two versions, and the sidecars of data sets
 * made by other stacks, differ in names only: `also` is a second name that a field is read by.
 *
 * Text is written in double quotes with everything but printable ASCII escaped, so that no reader's idea of line folding, byte
 * order marks or printable characters can change a template. Numbers always have a point: YAML 1.1 reads 1e-05 as a string.
 */
#include "nla/sidecar.h"
#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"

enum type {
	CONST, /* only written: words                    */
	TEXT,  /* char *                                 */
	WORD,  /* int: index into words                  */
	INT,   /* int64_t, -1 when absent                */
	NUM,   /* double, NaN when absent                */
	BOOL,  /* bool, written when true                */
	MAYBE, /* int: 0, 1, -1 when absent              */
	SCALE, /* struct nla_scale                       */
	IDS,   /* struct nla_i32s                        */
};

struct field {
	const char *key;
	enum type type;
	size_t at;
	const char *also;
	const char *words; /* of WORD, and of a TEXT that is one of a few: '|'-separated */
	const char *slot;  /* of a TEXT: a template with {slot} in it once */
	int64_t min, max;  /* of INT; max 0: none */
	int need;          /* who needs it: enum nla_need */
};

#define ROW(name, kind, field, ...) { .key = name, .type = kind, .at = offsetof(struct nla_sidecar, field), ##__VA_ARGS__ }

static const struct field fields[] = {
	ROW("kind", TEXT, kind, .words = "nla_model|nla_dataset", .need = NLA_NEED_ANY),
	{ .key = "schema_version", .type = CONST, .words = "2" },
	ROW("role", TEXT, role, .words = "av|ar|actor|critic"),
	ROW("stage", TEXT, stage),
	ROW("base_checkpoint", TEXT, base_checkpoint, .also = "extraction.base_model"),
	ROW("base_folder", TEXT, base_folder),
	ROW("d_model", INT, d_model, .also = "extraction.d_model", .min = 1, .max = 1 << 20, .need = NLA_NEED_ANY),
	ROW("extraction.d_model", INT, d_model, .also = "d_model", .min = 1, .max = 1 << 20), /* for readers of sets */
	ROW("extraction.layer_index", INT, layer, .max = INT32_MAX, .need = NLA_NEED_BLOCK),
	ROW("extraction.norm", WORD, norm, .words = "none"),
	ROW("extraction.injection_scale", SCALE, injection_scale),
	ROW("extraction.mse_scale", SCALE, mse_scale),
	ROW("extraction.injection_mode", WORD, inject, .words = "residual_add|embed_replace"),
	ROW("tokens.injection_char", TEXT, marker, .need = NLA_NEED_AV),
	ROW("tokens.injection_token_id", INT, marker_id, .max = INT32_MAX),
	ROW("tokens.injection_left_neighbor_id", INT, left_id, .max = INT32_MAX),
	ROW("tokens.injection_right_neighbor_id", INT, right_id, .max = INT32_MAX),
	ROW("tokens.critic_suffix_ids", IDS, suffix),
	ROW("tokens.tokenizer_crc", INT, tokenizer_crc),
	ROW("tokens.add_special", MAYBE, add_special),
	ROW("prompt_templates.av", TEXT, av_template, .also = "prompt_templates.actor", .slot = "injection_char",
	    .need = NLA_NEED_AV),
	ROW("prompt_templates.ar", TEXT, ar_template, .also = "prompt_templates.critic", .slot = "explanation",
	    .need = NLA_NEED_AR),
	ROW("chat.format", TEXT, chat_format),
	ROW("chat.system", TEXT, chat_system),
	ROW("chat.before", TEXT, chat_before),
	ROW("chat.after", TEXT, chat_after),
	ROW("critic.extraction_layer_index", INT, critic_layer, .max = INT32_MAX),
	ROW("critic.final_norm", BOOL, final_norm),
	ROW("baseline.raw_variance", NUM, baseline_var),
	ROW("baseline.mean_normalised", NUM, baseline_mean),
	ROW("row_count", INT, n_rows),
};

void nla_sidecar_init(struct nla_sidecar *s)
{
	memset(s, 0, sizeof(*s));
	s->layer = s->critic_layer = -1;
	s->mse_scale.kind = NLA_SCALE_SQRT_D;
	s->marker_id = s->left_id = s->right_id = -1;
	s->baseline_var = s->baseline_mean = NAN;
	s->n_rows = s->tokenizer_crc = s->add_special = -1;
}

void nla_sidecar_release(struct nla_sidecar *s)
{
	for (size_t i = 0; i < NLA_LEN(fields); i++)
		if (fields[i].type == TEXT)
			free(*(char **)((char *)s + fields[i].at));
	nla_i32s_release(&s->suffix);
	nla_sidecar_init(s);
}

static void set_text(char **field, const char *text)
{
	char *copy = text ? nla_strdup(text) : NULL;
	free(*field);
	*field = copy;
}

void nla_sidecar_stamp(struct nla_sidecar *s, const char *kind, const char *role, const char *stage)
{
	set_text(&s->kind, kind);
	set_text(&s->role, role);
	set_text(&s->stage, stage);
}

void nla_sidecar_chat(struct nla_sidecar *s, const char *format, const char *system, const char *before, const char *after)
{
	set_text(&s->chat_format, format);
	set_text(&s->chat_system, system);
	set_text(&s->chat_before, before);
	set_text(&s->chat_after, after);
}

void nla_sidecar_copy(struct nla_sidecar *to, const struct nla_sidecar *from)
{
	nla_sidecar_release(to);
	*to = *from;
	for (size_t i = 0; i < NLA_LEN(fields); i++) {
		char **text = (char **)((char *)to + fields[i].at);
		if (fields[i].type == TEXT && *text)
			*text = nla_strdup(*text);
	}
	memset(&to->suffix, 0, sizeof(to->suffix));
	nla_i32s_append(&to->suffix, from->suffix.data, from->suffix.n);
}

int64_t nla_sidecar_block(const struct nla_sidecar *s)
{
	return s->critic_layer >= 0 ? s->critic_layer : s->layer;
}

double nla_scale_value(const struct nla_scale *scale, int64_t d)
{
	return scale->kind == NLA_SCALE_NUMBER ? scale->value : scale->kind == NLA_SCALE_SQRT_D ? sqrt((double)d) : 0;
}

enum nla_status nla_sidecar_need(const struct nla_sidecar *s, int need, const char *path, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str list = NLA_STR_INIT;
	for (const struct field *f = fields; f < fields + NLA_LEN(fields); f++) {
		const void *at = (const char *)s + f->at;
		if (f->need & need && (f->need == NLA_NEED_BLOCK ? nla_sidecar_block(s) < 0
				       : f->type == TEXT ? !*(char *const *)at : !*(const int64_t *)at))
			nla_str_addf(&list, "%s%s", list.len ? ", " : "", f->key);
	}
	return !list.len ? NLA_OK : nla_fail(err, "'%s' lacks %s: add that, or make it anew with nla-extract --sidecar", path,
					     list.buf);
}

enum nla_status nla_template_fill(const char *tmpl, const char *key, const char *value, char **out, struct nla_err *err)
{
	nla_auto char *slot = nla_format("{%s}", key);
	const char *at = strstr(tmpl, slot);
	enum nla_status status = NLA_OK;
	*out = NULL;
	if (!at || strstr(at + 1, slot))
		status = nla_fail(err, "template has '%s' %s, want once", slot, at ? "more than once" : "nowhere");
	else
		*out = nla_format("%.*s%s%s", (int)(at - tmpl), tmpl, value, at + strlen(slot));
	return status;
}

/* ---- reading ---- */

/* A file that is read; key: what the field of the moment is called in it. */
struct reader {
	cJSON *json;
	const char *path, *key;
	struct nla_err *err;
};

#define REFUSE(r, ...) (nla_fail((r)->err, __VA_ARGS__), nla_err_context((r)->err, "'%s'", (r)->path))

/* The place of a word in a list of lower case; others write them in capitals too. */
static int word_index(const char *words, const char *text)
{
	nla_auto char *lower = nla_strdup(text);
	for (char *c = lower; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	return nla_word_index(words, lower);
}

/* A TEXT or a WORD. */
static enum nla_status read_text(struct reader *r, const struct field *f, void *out)
{
	const char *text;
	nla_auto char *filled = NULL, *word = NULL;
	if (nla_json_str(r->json, r->path, r->key, NULL, &text, r->err) || !text)
		return r->err->status;
	int index = f->words ? word_index(f->words, text) : 0;
	if (index < 0)
		return REFUSE(r, "'%s' is '%s', want %s%s", r->key, text, strchr(f->words, '|') ? "one of " : "", f->words);
	if (f->slot && nla_template_fill(text, f->slot, "", &filled, r->err))
		return nla_err_context(r->err, "'%s': '%s'", r->path, r->key);
	if (filled && (strstr(filled, "{{") || strstr(filled, "}}")))
		return REFUSE(r, "'%s' has doubled braces, which Python's format() reads as one: write it without them",
			      r->key);
	if (f->type == WORD) {
		*(int *)out = index;
		return NLA_OK;
	}
	word = f->words ? nla_word_at(f->words, index) : NULL;
	set_text(out, word ? word : text);
	return NLA_OK;
}

static enum nla_status read_int(struct reader *r, const struct field *f, int64_t *out)
{
	int64_t other, max = f->max ? f->max : INT64_MAX;
	if (nla_json_int(r->json, r->path, r->key, *out, out, r->err) ||
	    nla_json_int(r->json, r->path, f->also ? f->also : r->key, *out, &other, r->err))
		return r->err->status;
	if (nla_json_at(r->json, r->key) && (*out < f->min || *out > max))
		return REFUSE(r, "'%s' is %" PRId64 ", want %" PRId64 " to %" PRId64, r->key, *out, f->min, max);
	if (other != *out)
		return REFUSE(r, "'%s' is %" PRId64 ", but '%s' is %" PRId64, r->key, *out, f->also, other);
	return NLA_OK;
}

/* A key that is there but null means no scale; an absent one leaves the default. */
static enum nla_status read_scale(struct reader *r, struct nla_scale *out)
{
	const cJSON *section = nla_json_at(r->json, "extraction"), *value;
	value = cJSON_GetObjectItemCaseSensitive(section, strchr(r->key, '.') + 1);
	if (!value)
		return NLA_OK;
	if (cJSON_IsNull(value) || (cJSON_IsString(value) && word_index("raw|none|null", value->valuestring) >= 0))
		out->kind = NLA_SCALE_NULL;
	else if (cJSON_IsString(value) && word_index("sqrt_d_model|sqrt(d_model)", value->valuestring) >= 0)
		out->kind = NLA_SCALE_SQRT_D;
	else if (cJSON_IsNumber(value) && value->valuedouble > 0 && isfinite(value->valuedouble))
		*out = (struct nla_scale){ NLA_SCALE_NUMBER, value->valuedouble };
	else
		return REFUSE(r, "'%s' is not null, a positive number or sqrt_d_model", r->key);
	return NLA_OK;
}

static enum nla_status read_field(struct reader *r, const struct field *f, struct nla_sidecar *s)
{
	void *at = (char *)s + f->at;
	bool yes;
	const cJSON *list;
	r->key = f->also && !nla_json_at(r->json, f->key) && nla_json_at(r->json, f->also) ? f->also : f->key;
	switch (f->type) {
	case CONST:
		break;
	case TEXT:
	case WORD:
		return read_text(r, f, at);
	case INT:
		return read_int(r, f, at);
	case NUM:
		nla_json_num(r->json, r->path, r->key, *(double *)at, at, r->err);
		break;
	case BOOL:
		return nla_json_bool(r->json, r->path, r->key, false, at, r->err);
	case MAYBE:
		if (!nla_json_bool(r->json, r->path, r->key, false, &yes, r->err) && nla_json_at(r->json, r->key))
			*(int *)at = yes;
		break;
	case SCALE:
		return read_scale(r, at);
	case IDS:
		list = nla_json_at(r->json, r->key);
		return !list || (cJSON_IsArray(list) && nla_json_ids(list, 0x1p31, at))
			       ? NLA_OK : REFUSE(r, "'%s' is not a list of token ids", r->key);
	}
	return r->err->status;
}

/* What no field says alone. */
static enum nla_status check(struct reader *r, struct nla_sidecar *s)
{
	int64_t version;
	if (nla_json_int(r->json, r->path, "schema_version", 1, &version, r->err))
		return r->err->status;
	if (version < 1 || version > 2)
		return REFUSE(r, "'schema_version' is %" PRId64 ", want 1 or 2", version);
	if (s->marker && !*s->marker)
		return REFUSE(r, "'tokens.injection_char' is empty");
	if (s->baseline_var < 0 || s->baseline_mean < 0)
		return REFUSE(r, "a variance in 'baseline' is below 0");
	if (s->role && nla_word_index("actor|critic", s->role) >= 0)
		set_text(&s->role, *s->role == 'a' ? "av" : "ar");
	if (s->layer >= 0 && s->critic_layer >= 0 && s->layer != s->critic_layer)
		return REFUSE(r, "'extraction.layer_index' is %" PRId64 ", but 'critic.extraction_layer_index' is %" PRId64,
			      s->layer, s->critic_layer);
	if (!nla_json_at(r->json, "extraction.injection_mode") && s->injection_scale.kind != NLA_SCALE_NULL)
		s->inject = NLA_INJECT_EMBED_REPLACE;
	if (s->inject == NLA_INJECT_EMBED_REPLACE && s->injection_scale.kind == NLA_SCALE_NULL)
		return REFUSE(r, "'extraction.injection_mode' is embed_replace, but there is no injection_scale");
	return NLA_OK;
}

enum nla_status nla_sidecar_read(struct nla_sidecar *s, const char *folder, struct nla_err *err)
{
	nla_auto char *path = nla_path_join(folder, NLA_SIDECAR_NAME);
	struct reader r = { .path = path, .err = err };
	nla_sidecar_init(s);
	*err = (struct nla_err)NLA_ERR_INIT;
	if (!nla_need_dir(folder, err) && !nla_exists(path))
		nla_fail(err, "there is no '%s', which says block, templates and marker: nla-extract --sidecar makes one",
			 path);
	else if (!err->status)
		nla_yaml_read(path, &r.json, err);
	for (size_t i = 0; i < NLA_LEN(fields) && !err->status; i++)
		read_field(&r, &fields[i], s);
	if (err->status || check(&r, s))
		nla_sidecar_release(s);
	cJSON_Delete(r.json);
	return err->status;
}

/* ---- writing ---- */

static enum nla_status add_text(struct nla_str *out, const char *key, const char *text, struct nla_err *err)
{
	uint32_t c;
	nla_str_addc(out, '"');
	for (size_t n = strlen(text), len; n; text += len, n -= len) {
		if (!(len = nla_utf8_next(text, n, &c)))
			return nla_fail(err, "cannot write the sidecar: '%s' is not valid UTF-8", key);
		if (c == '\n')
			nla_str_add(out, "\\n");
		else if (c == '"' || c == '\\')
			nla_str_addf(out, "\\%c", (char)c);
		else if (c >= ' ' && c < 0x7f)
			nla_str_addc(out, (char)c);
		else
			nla_str_addf(out, c < 0x10000 ? "\\u%04X" : "\\U%08X", c);
	}
	nla_str_addc(out, '"');
	return NLA_OK;
}

static void add_num(struct nla_str *out, double value)
{
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	nla_json_add_num(&text, value);
	size_t digits = strcspn(text.buf, "e");
	nla_str_addf(out, "%.*s%s%s", (int)digits, text.buf, strchr(text.buf, '.') ? "" : ".0", text.buf + digits);
}

/* The value alone; nothing when it is absent. */
static enum nla_status add_value(struct nla_str *out, const struct field *f, const struct nla_sidecar *s, struct nla_err *err)
{
	const void *at = (const char *)s + f->at;
	const struct nla_i32s *ids = at;
	const struct nla_scale *scale = at;
	const int64_t n = f->type == INT ? *(const int64_t *)at : -1;
	nla_auto char *word = f->type == WORD ? nla_word_at(f->words, *(const int *)at) : NULL;
	if (word || f->type == CONST)
		nla_str_add(out, word ? word : f->words);
	else if (f->type == TEXT && *(char *const *)at)
		return add_text(out, strrchr(f->key, '.') ? strrchr(f->key, '.') + 1 : f->key, *(char *const *)at, err);
	else if (n >= f->min)
		nla_str_addf(out, "%" PRId64, n);
	else if (f->type == NUM && !isnan(*(const double *)at))
		add_num(out, *(const double *)at);
	else if (f->type == MAYBE && *(const int *)at >= 0)
		nla_str_add(out, *(const int *)at ? "true" : "false");
	else if (f->type == BOOL && *(const bool *)at)
		nla_str_add(out, "true");
	else if (f->type == SCALE && scale->kind == NLA_SCALE_NUMBER)
		add_num(out, scale->value);
	else if (f->type == SCALE)
		nla_str_add(out, scale->kind == NLA_SCALE_NULL ? "null" : "sqrt_d_model");
	for (size_t i = 0; f->type == IDS && i < ids->n; i++)
		nla_str_addf(out, "%s%" PRId32 "%s", i ? ", " : "[", ids->data[i], i + 1 < ids->n ? "" : "]");
	return NLA_OK;
}

enum nla_status nla_sidecar_write(const struct nla_sidecar *s, const char *folder, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str out = NLA_STR_INIT, value = NLA_STR_INIT;
	nla_auto char *path = nla_path_join(folder, NLA_SIDECAR_NAME);
	enum nla_status status = NLA_OK;
	const char *section = "";
	size_t length = 0;
	for (size_t i = 0; i < NLA_LEN(fields) && !(status = add_value(&value, &fields[i], s, err)); i++) {
		const char *key = fields[i].key, *dot = strchr(key, '.');
		if (value.len && dot && (length != (size_t)(dot - key) || strncmp(section, key, length))) {
			section = key;
			length = (size_t)(dot - key);
			nla_str_addf(&out, "%.*s:\n", (int)length, section);
		}
		if (value.len)
			nla_str_addf(&out, "%s%s: %s\n", dot ? "  " : "", dot ? dot + 1 : key, value.buf);
		nla_str_reset(&value);
	}
	if (!status)
		status = nla_file_write(path, out.buf, out.len, false, err);
	return status;
}
