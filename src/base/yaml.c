/*
 * yaml - nla_yaml_read of json.h: libyaml's document as a tree of cJSON.
 *
 * An alias reads as what its anchor holds. It can make a loop, or unfold a few lines to millions of nodes: depth and number of
 * nodes are bounded. libyaml's time grows with the square of open brackets and of anchors: the former are counted before, and
 * a small file has few of the latter.
 */
#include "base/json.h"

#include <yaml.h>

#include "base/file.h"

enum { MAX_DEPTH = 64, MAX_NODES = 1 << 14, MAX_OPEN = 512, MAX_BYTES = 256 << 10 };

struct yaml {
	yaml_document_t doc;
	const char *path;
	int n_nodes;
	struct nla_err *err;
};

static void refuse(struct yaml *y, const yaml_node_t *node, const char *what)
{
	nla_fail(y->err, "cannot read '%s': line %zu: %s", y->path, node->start_mark.line + 1, what);
}

/* Quoted or not: a field that wants text has it in either case. */
static cJSON *scalar(const yaml_node_t *node)
{
	const char *text = (const char *)node->data.scalar.value;
	cJSON *out = cJSON_CreateString(text);
	char *end;
	double x = nla_strtod(text, &end);
	bool plain = node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	if (plain && (!*text || nla_word_index("~|null|Null|NULL", text) >= 0)) {
		out->type = cJSON_NULL;
	} else if (nla_word_index("true|True|TRUE|yes|Yes|YES|on|On|ON", text) >= 0) {
		out->type = cJSON_True;
	} else if (nla_word_index("false|False|FALSE|no|No|NO|off|Off|OFF", text) >= 0) {
		out->type = cJSON_False;
	} else if (*text && !*end && !text[strspn(text, "+-.0123456789eE")]) {
		out->type = cJSON_Number;
		cJSON_SetNumberValue(out, x);
	}
	return out;
}

static cJSON *convert(struct yaml *y, int id, int depth);

static void add_pairs(struct yaml *y, const yaml_node_t *map, cJSON *out, int depth)
{
	const yaml_node_pair_t *end = map->data.mapping.pairs.top;
	for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < end && !y->err->status; p++) {
		const yaml_node_t *name = yaml_document_get_node(&y->doc, p->key);
		const char *key = (const char *)name->data.scalar.value;
		if (name->type != YAML_SCALAR_NODE)
			continue;
		if (cJSON_GetObjectItemCaseSensitive(out, key)) /* it would say two things */
			nla_fail(y->err, "cannot read '%s': line %zu: key '%s' is there twice", y->path,
				 name->start_mark.line + 1, key);
		else
			cJSON_AddItemToObject(out, key, convert(y, p->value, depth));
	}
}

/* The node and all below it. After an error what is returned is not whole. */
static cJSON *convert(struct yaml *y, int id, int depth)
{
	const yaml_node_t *node = yaml_document_get_node(&y->doc, id);
	cJSON *out = NULL;
	if (depth > MAX_DEPTH || ++y->n_nodes > MAX_NODES) {
		refuse(y, node, depth > MAX_DEPTH ? "nested too deeply" : "too many values");
	} else if (node->type == YAML_MAPPING_NODE) {
		out = cJSON_CreateObject();
		add_pairs(y, node, out, depth + 1);
	} else if (node->type == YAML_SEQUENCE_NODE) {
		out = cJSON_CreateArray();
		const yaml_node_item_t *end = node->data.sequence.items.top;
		for (yaml_node_item_t *i = node->data.sequence.items.start; i < end && !y->err->status; i++)
			cJSON_AddItemToArray(out, convert(y, *i, depth + 1));
	} else if (memchr(node->data.scalar.value, 0, node->data.scalar.length)) {
		refuse(y, node, "a NUL character");
	} else {
		out = scalar(node);
	}
	return out;
}

/* Brackets in texts count too: no template has that many open. */
static bool is_too_deep(const struct nla_str *text)
{
	int open = 0;
	for (size_t i = 0; i < text->len && open <= MAX_OPEN; i++) {
		char c = text->buf[i];
		open += c == '[' || c == '{' ? 1 : open && (c == ']' || c == '}') ? -1 : 0;
	}
	return open > MAX_OPEN;
}

enum nla_status nla_yaml_read(const char *path, cJSON **out, struct nla_err *err)
{
	struct yaml y = { .path = path, .err = err };
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	yaml_parser_t parser;
	*out = NULL;
	if (!nla_file_read(path, &text, err) && (text.len > MAX_BYTES || is_too_deep(&text)))
		nla_fail(err, "cannot read '%s': %s", path, text.len > MAX_BYTES ? "larger than 256 KiB" : "nested too deeply");
	if (err->status)
		return err->status;
	if (!yaml_parser_initialize(&parser))
		NLA_BUG("no memory for a YAML parser");
	yaml_parser_set_input_string(&parser, (const unsigned char *)text.buf, text.len);
	if (!yaml_parser_load(&parser, &y.doc)) {
		nla_fail(err, "cannot read '%s': line %zu: %s", path, parser.problem_mark.line + 1,
			 parser.problem ? parser.problem : "not YAML");
	} else if (yaml_document_get_root_node(&y.doc)) {
		*out = convert(&y, 1, 0);
	} else {
		nla_fail(err, "cannot read '%s': it is empty", path);
	}
	yaml_document_delete(&y.doc);
	yaml_parser_delete(&parser);
	if (err->status) {
		cJSON_Delete(*out);
		*out = NULL;
	}
	return err->status;
}
