/*
 * sidecar - see sidecar.h; sidecar_write.c writes.
 *
 * Reading: libyaml makes a document tree; `struct reader` walks it by dotted keys, one getter a type, so that nla_sidecar_read
 * reads as the list of fields. A key that is absent, or null, leaves the field at what nla_sidecar_init set. The two versions,
 * and the sidecars of data sets made by other stacks, differ only in names: each field lists the names it goes by.
 */
#include "nla/sidecar.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/file.h"

void nla_sidecar_init(struct nla_sidecar *s)
{
	memset(s, 0, sizeof(*s));
	s->version = 2;
	s->layer = s->critic_layer = -1;
	s->mse_scale.kind = NLA_SCALE_SQRT_D;
	s->marker_id = s->left_id = s->right_id = -1;
	s->baseline_var = s->baseline_mean = NAN;
	s->n_rows = s->tokenizer_crc = -1;
}

void nla_sidecar_release(struct nla_sidecar *s)
{
	free(s->kind);
	free(s->role);
	free(s->stage);
	free(s->base_checkpoint);
	free(s->base_folder);
	free(s->marker);
	free(s->av_template);
	free(s->ar_template);
	nla_i32s_release(&s->suffix);
	nla_sidecar_init(s);
}

static char *copy(const char *s)
{
	return s ? nla_strdup(s) : NULL;
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

void nla_sidecar_copy(struct nla_sidecar *to, const struct nla_sidecar *from)
{
	nla_sidecar_release(to);
	*to = *from;
	to->kind = copy(from->kind);
	to->role = copy(from->role);
	to->stage = copy(from->stage);
	to->base_checkpoint = copy(from->base_checkpoint);
	to->base_folder = copy(from->base_folder);
	to->marker = copy(from->marker);
	to->av_template = copy(from->av_template);
	to->ar_template = copy(from->ar_template);
	memset(&to->suffix, 0, sizeof(to->suffix));
	nla_i32s_append(&to->suffix, from->suffix.data, from->suffix.n);
}

int64_t nla_sidecar_block(const struct nla_sidecar *s)
{
	return s->critic_layer >= 0 ? s->critic_layer : s->layer;
}

double nla_scale_value(const struct nla_scale *scale, int64_t d)
{
	switch (scale->kind) {
	case NLA_SCALE_NUMBER:
		return scale->value;
	case NLA_SCALE_SQRT_D:
		return sqrt((double)d);
	case NLA_SCALE_NULL:
		break;
	}
	return 0;
}

static size_t count(const char *text, const char *part)
{
	size_t n = 0;

	for (const char *at = text; (at = strstr(at, part)); at += strlen(part))
		n++;
	return n;
}

enum nla_status nla_template_fill(const char *tmpl, const char *key, const char *value, char **out, struct nla_err *err)
{
	char *slot = nla_format("{%s}", key);
	const size_t n = count(tmpl, slot);
	enum nla_status status = NLA_OK;

	*out = NULL;
	if (n != 1) {
		status = nla_fail(err, "template has '%s' %zu times, want once", slot, n);
	} else {
		const char *at = strstr(tmpl, slot);

		*out = nla_format("%.*s%s%s", (int)(at - tmpl), tmpl, value, at + strlen(slot));
	}
	free(slot);
	return status;
}

/* ---- reading ---- */

struct reader {
	yaml_document_t doc;
	const char *path;
	struct nla_err *err;
};

static enum nla_status wrong(struct reader *r, const char *key, const char *want)
{
	return nla_fail(r->err, "'%s': '%s' is not %s", r->path, key, want);
}

static bool is_null(const yaml_node_t *node)
{
	const char *text = (const char *)node->data.scalar.value;

	return node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
	       (!*text || !strcmp(text, "~") || !strcmp(text, "null") || !strcmp(text, "Null") || !strcmp(text, "NULL"));
}

static yaml_node_t *child(struct reader *r, const yaml_node_t *map, const char *key, size_t n)
{
	for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++) {
		const yaml_node_t *name = yaml_document_get_node(&r->doc, p->key);

		if (name->type == YAML_SCALAR_NODE && name->data.scalar.length == n && !memcmp(name->data.scalar.value, key, n))
			return yaml_document_get_node(&r->doc, p->value);
	}
	return NULL;
}

/* The node at a dotted key; NULL when it, or anything on the way, is absent or null. */
static enum nla_status at(struct reader *r, const char *key, yaml_node_t **out)
{
	yaml_node_t *node = yaml_document_get_root_node(&r->doc);
	char prefix[64];

	for (const char *part = key;;) {
		const size_t n = strcspn(part, ".");

		if (node->type != YAML_MAPPING_NODE) {
			snprintf(prefix, sizeof(prefix), "%.*s", part > key ? (int)(part - key - 1) : 0, key);
			return wrong(r, prefix, "a mapping");
		}
		node = child(r, node, part, n);
		if (node && is_null(node))
			node = NULL;
		if (!node || !part[n])
			break;
		part += n + 1;
	}
	*out = node;
	return NLA_OK;
}

static enum nla_status get_str(struct reader *r, const char *key, char **out)
{
	yaml_node_t *node;

	if (at(r, key, &node))
		return r->err->status;
	if (!node)
		return NLA_OK;
	if (node->type != YAML_SCALAR_NODE)
		return wrong(r, key, "a string");
	if (strlen((const char *)node->data.scalar.value) != node->data.scalar.length)
		return wrong(r, key, "a string without NUL characters");
	free(*out);
	*out = nla_strdup((const char *)node->data.scalar.value);
	return NLA_OK;
}

static bool parse_int(const yaml_node_t *node, int64_t *out)
{
	const char *text = (const char *)node->data.scalar.value;
	char *end;

	if (node->type != YAML_SCALAR_NODE || node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	errno = 0;
	*out = strtoll(text, &end, 10);
	return end != text && !*end && !errno;
}

static bool parse_num(const yaml_node_t *node, double *out)
{
	const char *text = (const char *)node->data.scalar.value;
	char *end;

	if (node->type != YAML_SCALAR_NODE || node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	*out = strtod(text, &end);
	return end != text && !*end && isfinite(*out);
}

static enum nla_status get_int(struct reader *r, const char *key, int64_t min, int64_t *out)
{
	yaml_node_t *node;
	char want[64];

	if (at(r, key, &node))
		return r->err->status;
	if (!node || (parse_int(node, out) && *out >= min))
		return NLA_OK;
	snprintf(want, sizeof(want), "a whole number of at least %" PRId64, min);
	return wrong(r, key, want);
}

static enum nla_status get_id(struct reader *r, const char *key, int32_t *out)
{
	int64_t id = *out;

	if (get_int(r, key, 0, &id))
		return r->err->status;
	if (id > INT32_MAX)
		return wrong(r, key, "a token id");
	*out = (int32_t)id;
	return NLA_OK;
}

static enum nla_status get_num(struct reader *r, const char *key, double *out)
{
	yaml_node_t *node;

	if (at(r, key, &node))
		return r->err->status;
	return !node || parse_num(node, out) ? NLA_OK : wrong(r, key, "a number");
}

static enum nla_status get_bool(struct reader *r, const char *key, bool *out)
{
	yaml_node_t *node;

	if (at(r, key, &node))
		return r->err->status;
	if (!node)
		return NLA_OK;
	if (node->type != YAML_SCALAR_NODE || (strcmp((const char *)node->data.scalar.value, "true") &&
					       strcmp((const char *)node->data.scalar.value, "false")))
		return wrong(r, key, "true or false");
	*out = !strcmp((const char *)node->data.scalar.value, "true");
	return NLA_OK;
}

/* A key that is there but null means no scale; an absent one leaves the default. */
static enum nla_status get_scale(struct reader *r, const char *name, struct nla_scale *out)
{
	yaml_node_t *extraction, *node = NULL;
	char *key = nla_format("extraction.%s", name);

	if (at(r, "extraction", &extraction) || at(r, key, &node))
		goto out;
	if (!node) {
		if (extraction && child(r, extraction, name, strlen(name)))
			out->kind = NLA_SCALE_NULL;
	} else if (node->type == YAML_SCALAR_NODE && !strcmp((const char *)node->data.scalar.value, "sqrt_d_model")) {
		out->kind = NLA_SCALE_SQRT_D;
	} else if (node->type == YAML_SCALAR_NODE && (!strcmp((const char *)node->data.scalar.value, "raw") ||
						      !strcmp((const char *)node->data.scalar.value, "none"))) {
		out->kind = NLA_SCALE_NULL;
	} else if (parse_num(node, &out->value) && out->value > 0) {
		out->kind = NLA_SCALE_NUMBER;
	} else {
		wrong(r, key, "null, a positive number or sqrt_d_model");
	}
out:
	free(key);
	return r->err->status;
}

static enum nla_status get_ids(struct reader *r, const char *key, struct nla_i32s *out)
{
	yaml_node_t *node;
	int64_t id;

	if (at(r, key, &node))
		return r->err->status;
	if (!node)
		return NLA_OK;
	if (node->type != YAML_SEQUENCE_NODE)
		return wrong(r, key, "a list of token ids");
	for (yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top; item++) {
		if (!parse_int(yaml_document_get_node(&r->doc, *item), &id) || id < 0 || id > INT32_MAX)
			return wrong(r, key, "a list of token ids");
		nla_i32s_push(out, (int32_t)id);
	}
	return NLA_OK;
}

static enum nla_status get_kind(struct reader *r, struct nla_sidecar *s)
{
	int64_t version = 1;

	if (get_str(r, "kind", &s->kind) || get_int(r, "schema_version", 1, &version) || get_str(r, "role", &s->role))
		return r->err->status;
	if (!s->kind || (strcmp(s->kind, "nla_model") && strcmp(s->kind, "nla_dataset")))
		return wrong(r, "kind", "'nla_model' or 'nla_dataset'");
	if (version > 2)
		return wrong(r, "schema_version", "1 or 2");
	s->version = (int)version;
	if (s->role && (!strcmp(s->role, "actor") || !strcmp(s->role, "critic"))) {
		const char *name = *s->role == 'a' ? "av" : "ar";

		free(s->role);
		s->role = nla_strdup(name);
	}
	if (s->role && strcmp(s->role, "av") && strcmp(s->role, "ar"))
		return wrong(r, "role", "'av' or 'ar'");
	return NLA_OK;
}

static enum nla_status get_width(struct reader *r, struct nla_sidecar *s)
{
	int64_t other = 0;

	if (get_int(r, "d_model", 1, &s->d_model) || get_int(r, "extraction.d_model", 1, &other))
		return r->err->status;
	if (!s->d_model && !other)
		return nla_fail(r->err, "'%s': 'd_model' is missing", r->path);
	if (s->d_model && other && s->d_model != other)
		return nla_fail(r->err, "'%s': 'd_model' is %" PRId64 ", but 'extraction.d_model' is %" PRId64, r->path,
				s->d_model, other);
	s->d_model = NLA_MAX(s->d_model, other);
	return NLA_OK;
}

static enum nla_status get_inject(struct reader *r, struct nla_sidecar *s)
{
	char *mode = NULL;

	if (get_str(r, "extraction.injection_mode", &mode))
		return r->err->status;
	if (!mode)
		s->inject = s->injection_scale.kind == NLA_SCALE_NULL ? NLA_INJECT_RESIDUAL_ADD : NLA_INJECT_EMBED_REPLACE;
	else if (!strcmp(mode, "residual_add"))
		s->inject = NLA_INJECT_RESIDUAL_ADD;
	else if (!strcmp(mode, "embed_replace"))
		s->inject = NLA_INJECT_EMBED_REPLACE;
	else
		wrong(r, "extraction.injection_mode", "'residual_add' or 'embed_replace'");
	free(mode);
	if (!r->err->status && s->inject == NLA_INJECT_EMBED_REPLACE && s->injection_scale.kind == NLA_SCALE_NULL)
		return nla_fail(r->err, "'%s': 'extraction.injection_mode' is embed_replace, but there is no injection_scale",
				r->path);
	return r->err->status;
}

/* What can be wrong between fields that are each well-formed. */
static enum nla_status check(struct reader *r, const struct nla_sidecar *s)
{
	if (s->layer >= 0 && s->critic_layer >= 0 && s->layer != s->critic_layer)
		return nla_fail(r->err, "'%s': 'extraction.layer_index' is %" PRId64
				", but 'critic.extraction_layer_index' is %" PRId64, r->path, s->layer, s->critic_layer);
	if (nla_sidecar_block(s) > INT32_MAX)
		return wrong(r, s->critic_layer >= 0 ? "critic.extraction_layer_index" : "extraction.layer_index", "a block of any model");
	if (s->marker && !*s->marker)
		return wrong(r, "tokens.injection_char", "a character");
	if (s->av_template && count(s->av_template, "{injection_char}") != 1)
		return wrong(r, "prompt_templates.av", "a text with {injection_char} in it once");
	if (s->ar_template && count(s->ar_template, "{explanation}") != 1)
		return wrong(r, "prompt_templates.ar", "a text with {explanation} in it once");
	if (s->baseline_var < 0 || s->baseline_mean < 0)
		return wrong(r, s->baseline_var < 0 ? "baseline.raw_variance" : "baseline.mean_normalised", "a variance");
	return NLA_OK;
}

static enum nla_status read_fields(struct reader *r, struct nla_sidecar *s)
{
	if (get_kind(r, s) || get_str(r, "stage", &s->stage) || get_str(r, "extraction.base_model", &s->base_checkpoint) ||
	    get_str(r, "base_checkpoint", &s->base_checkpoint) || get_str(r, "base_folder", &s->base_folder) || get_width(r, s) ||
	    get_int(r, "extraction.layer_index", 0, &s->layer) ||
	    get_int(r, "critic.extraction_layer_index", 0, &s->critic_layer) || get_bool(r, "critic.final_norm", &s->final_norm) ||
	    get_scale(r, "injection_scale", &s->injection_scale) || get_scale(r, "mse_scale", &s->mse_scale) ||
	    get_inject(r, s) || get_str(r, "tokens.injection_char", &s->marker) ||
	    get_id(r, "tokens.injection_token_id", &s->marker_id) ||
	    get_id(r, "tokens.injection_left_neighbor_id", &s->left_id) ||
	    get_id(r, "tokens.injection_right_neighbor_id", &s->right_id) ||
	    get_ids(r, "tokens.critic_suffix_ids", &s->suffix) || get_int(r, "tokens.tokenizer_crc", 0, &s->tokenizer_crc) ||
	    get_str(r, "prompt_templates.actor", &s->av_template) || get_str(r, "prompt_templates.av", &s->av_template) ||
	    get_str(r, "prompt_templates.critic", &s->ar_template) || get_str(r, "prompt_templates.ar", &s->ar_template) ||
	    get_num(r, "baseline.raw_variance", &s->baseline_var) ||
	    get_num(r, "baseline.mean_normalised", &s->baseline_mean) || get_int(r, "row_count", 0, &s->n_rows))
		return r->err->status;
	return check(r, s);
}

/* A mapping that has a key twice says two things. */
static enum nla_status refuse_twice(struct reader *r)
{
	yaml_node_t *map;

	for (int i = 1; (map = yaml_document_get_node(&r->doc, i)) != NULL; i++) {
		if (map->type != YAML_MAPPING_NODE)
			continue;
		for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++) {
			const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);

			if (key->type == YAML_SCALAR_NODE && child(r, map, (const char *)key->data.scalar.value, key->data.scalar.length) !=
								     yaml_document_get_node(&r->doc, p->value))
				return nla_fail(r->err, "cannot read '%s': line %zu: key '%s' is there twice", r->path, key->start_mark.line + 1,
						(const char *)key->data.scalar.value);
		}
	}
	return NLA_OK;
}

static enum nla_status parse(const struct nla_str *text, struct reader *r)
{
	yaml_parser_t parser;

	if (!yaml_parser_initialize(&parser))
		return nla_fail(r->err, "cannot read '%s': no memory for a YAML parser", r->path);
	yaml_parser_set_input_string(&parser, (const unsigned char *)text->buf, text->len);
	if (!yaml_parser_load(&parser, &r->doc)) {
		nla_fail(r->err, "cannot read '%s': line %zu: %s", r->path, parser.problem_mark.line + 1,
			 parser.problem ? parser.problem : "not YAML");
	} else if (!yaml_document_get_root_node(&r->doc)) {
		yaml_document_delete(&r->doc);
		nla_fail(r->err, "cannot read '%s': it is empty", r->path);
	}
	yaml_parser_delete(&parser);
	return r->err->status;
}

enum nla_status nla_sidecar_read(struct nla_sidecar *s, const char *folder, struct nla_err *err)
{
	struct nla_str text = NLA_STR_INIT;
	char *path = nla_path_join(folder, NLA_SIDECAR_NAME);
	struct reader r = { .path = path, .err = err };

	nla_sidecar_init(s);
	*err = (struct nla_err)NLA_ERR_INIT;
	if (!nla_file_read(path, &text, err) && !parse(&text, &r)) {
		if (yaml_document_get_root_node(&r.doc)->type != YAML_MAPPING_NODE)
			nla_fail(err, "cannot read '%s': it is not a mapping of keys", path);
		else if (!refuse_twice(&r))
			read_fields(&r, s);
		yaml_document_delete(&r.doc);
	}
	if (err->status)
		nla_sidecar_release(s);
	nla_str_release(&text);
	free(path);
	return err->status;
}
