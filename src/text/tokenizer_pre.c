/*
 * tokenizer_pre - what a tokenizer.json does to a text before and after its model: normaliser, pre-tokenisers, decoder.
 *
 * Two pipelines are known. Byte-level: normal form C or nothing, splits by regex, then GPT-2's byte alphabet. Metaspace, that of
 * sentencepiece models: spaces become U+2581, one is put in front, and nothing is split.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/tokenizer_impl.h"

#define BYTE_LEVEL_REGEX "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static enum nla_status add_split(struct nla_tokenizer *tok, const struct nla_tok_place *p, const char *regex, struct nla_err *err)
{
	if (tok->n_splits == NLA_TOK_MAX_SPLITS)
		return nla_fail(err, "cannot read '%s': 'pre_tokenizer' has more than %d splits", p->path, NLA_TOK_MAX_SPLITS);
	return nla_tok_split_compile(&tok->splits[tok->n_splits++], p->path, regex, err);
}

static enum nla_status read_split(struct nla_tokenizer *tok, const struct nla_tok_place *p, struct nla_err *err)
{
	static const struct nla_tok_rule rules[] = { { "type", NULL }, { "pattern", NULL }, { "behavior", "\"Isolated\"" },
					     { "invert", "false|null" } };
	const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(p->json, "pattern");
	const char *regex = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(pattern, "Regex"));

	if (nla_tok_check(p, rules, NLA_LEN(rules), err))
		return err->status;
	return regex ? add_split(tok, p, regex, err) : nla_tok_fail_field(p, "pattern", "{\"Regex\": ...}", err);
}

static enum nla_status read_digits(struct nla_tokenizer *tok, const struct nla_tok_place *p, struct nla_err *err)
{
	static const struct nla_tok_rule rules[] = { { "type", NULL }, { "individual_digits", NULL } };
	bool individual;

	if (nla_tok_check(p, rules, NLA_LEN(rules), err) || nla_tok_read_bool(p, "individual_digits", false, &individual, err))
		return err->status;
	return add_split(tok, p, individual ? "\\p{N}" : "\\p{N}+", err);
}

static enum nla_status read_byte_level(struct nla_tokenizer *tok, const struct nla_tok_place *p, struct nla_err *err)
{
	static const struct nla_tok_rule rules[] = { { "type", NULL }, { "add_prefix_space", "false" }, { "trim_offsets", NULL },
					     { "use_regex", NULL } };
	bool use_regex;

	if (nla_tok_check(p, rules, NLA_LEN(rules), err) || nla_tok_read_bool(p, "use_regex", true, &use_regex, err))
		return err->status;
	return use_regex ? add_split(tok, p, BYTE_LEVEL_REGEX, err) : NLA_OK;
}

/* One pre-tokeniser. *bytes: whether it is the ByteLevel one, after which the text is in the byte alphabet. */
static enum nla_status read_pre_tokenizer(struct nla_tokenizer *tok, const struct nla_tok_place *p, bool *bytes,
					  struct nla_err *err)
{
	const char *type = nla_tok_type(p);

	if (*bytes)
		return nla_fail(err, "cannot read '%s': '%stype' follows ByteLevel, which must be the last", p->path, p->where);
	if (!strcmp(type, "Split"))
		return read_split(tok, p, err);
	if (!strcmp(type, "Digits"))
		return read_digits(tok, p, err);
	if (strcmp(type, "ByteLevel"))
		return nla_tok_fail_field(p, "type", "Sequence, Split, Digits or ByteLevel", err);
	*bytes = true;
	return read_byte_level(tok, p, err);
}

static enum nla_status read_pre_tokenizers(struct nla_tokenizer *tok, const struct nla_tok_place *p, struct nla_err *err)
{
	static const struct nla_tok_rule rules[] = { { "type", NULL }, { "pretokenizers", NULL } };
	const cJSON *child, *list = cJSON_GetObjectItemCaseSensitive(p->json, "pretokenizers");
	bool bytes = false;
	int i = 0;

	if (strcmp(nla_tok_type(p), "Sequence")) {
		if (read_pre_tokenizer(tok, p, &bytes, err))
			return err->status;
	} else {
		if (nla_tok_check(p, rules, NLA_LEN(rules), err))
			return err->status;
		cJSON_ArrayForEach(child, list) {
			char *where = nla_format("%spretokenizers[%d].", p->where, i++);
			struct nla_tok_place inner = { p->path, where, child };
			enum nla_status status = read_pre_tokenizer(tok, &inner, &bytes, err);

			free(where);
			if (status)
				return status;
		}
	}
	if (!bytes)
		return nla_fail(err, "cannot read '%s': 'pre_tokenizer' has no ByteLevel, want a byte-level model", p->path);
	return NLA_OK;
}

/* NFC, nothing, or a sequence of those. */
static enum nla_status read_normalizer(struct nla_tokenizer *tok, const struct nla_tok_place *p, struct nla_err *err)
{
	static const struct nla_tok_rule rules[] = { { "type", "\"NFC\"" } };
	static const struct nla_tok_rule sequence[] = { { "type", NULL }, { "normalizers", NULL } };
	const cJSON *child;
	int i = 0;

	if (!p->json || cJSON_IsNull(p->json))
		return NLA_OK;
	if (strcmp(nla_tok_type(p), "Sequence")) {
		tok->nfc = true;
		return nla_tok_check(p, rules, NLA_LEN(rules), err);
	}
	if (nla_tok_check(p, sequence, NLA_LEN(sequence), err))
		return NLA_FAIL;
	cJSON_ArrayForEach(child, cJSON_GetObjectItemCaseSensitive(p->json, "normalizers")) {
		char *where = nla_format("%snormalizers[%d].", p->where, i++);
		struct nla_tok_place inner = { p->path, where, child };
		enum nla_status status = nla_tok_check(&inner, rules, NLA_LEN(rules), err);

		free(where);
		if (status)
			return status;
		tok->nfc = true;
	}
	return NLA_OK;
}

/* ByteLevel, or a sequence of it alone. */
static enum nla_status read_decoder(const struct nla_tok_place *p, struct nla_err *err)
{
	static const struct nla_tok_rule rules[] = { { "type", "\"ByteLevel\"" }, { "add_prefix_space", NULL }, { "trim_offsets", NULL },
						     { "use_regex", NULL } };
	static const struct nla_tok_rule sequence[] = { { "type", NULL }, { "decoders", NULL } };
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(p->json, "decoders");
	const struct nla_tok_place inner = { p->path, "decoder.decoders[0].", list ? list->child : NULL };

	if (strcmp(nla_tok_type(p), "Sequence"))
		return nla_tok_check(p, rules, NLA_LEN(rules), err);
	if (nla_tok_check(p, sequence, NLA_LEN(sequence), err))
		return NLA_FAIL;
	if (cJSON_GetArraySize(list) != 1)
		return nla_tok_fail_field(p, "decoders", "ByteLevel alone", err);
	return nla_tok_check(&inner, rules, NLA_LEN(rules), err);
}

/* ---- metaspace ---- */

#define SPACE "\"\xe2\x96\x81\"" /* U+2581 as a JSON text */
#define REPLACE "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":" SPACE "}"
#define PREPEND "{\"type\":\"Prepend\",\"prepend\":" SPACE "}"
#define RESTORE "{\"type\":\"Replace\",\"pattern\":{\"String\":" SPACE "},\"content\":\" \"}," \
		"{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}"
#define STRIP "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"

/* Which of the n JSON texts a value is: -1 when none; NULL counts as null. */
static int which(const cJSON *value, const char *const *texts, int n)
{
	char *text = value ? cJSON_PrintUnformatted(value) : NULL;
	int i = 0;

	while (i < n && strcmp(text ? text : "null", texts[i]))
		i++;
	cJSON_free(text);
	return i < n ? i : -1;
}

static enum nla_status read_scheme(struct nla_tokenizer *tok, const struct nla_tok_place *p, struct nla_err *err)
{
	static const struct nla_tok_rule rules[] = { { "type", "\"Metaspace\"" }, { "replacement", SPACE }, { "split", "false" },
						     { "prepend_scheme", "\"never\"|\"first\"|\"always\"" },
						     { "add_prefix_space", NULL } };
	static const char *const schemes[] = { "\"never\"", "\"first\"", "\"always\"" };

	if (nla_tok_check(p, rules, NLA_LEN(rules), err))
		return NLA_FAIL;
	tok->prefix = (enum nla_tok_prefix)which(cJSON_GetObjectItemCaseSensitive(p->json, "prepend_scheme"), schemes, 3);
	return NLA_OK;
}

/* Spaces are replaced by the normaliser (transformers 4) or by the pre-tokeniser (transformers 5). */
static enum nla_status read_metaspace(struct nla_tokenizer *tok, const cJSON *json, struct nla_err *err)
{
	static const char *const normalizers[] = { "null", "{\"type\":\"Sequence\",\"normalizers\":[" PREPEND "," REPLACE "]}",
						   "{\"type\":\"Sequence\",\"normalizers\":[" REPLACE "]}", REPLACE };
	static const char *const decoders[] = { "{\"type\":\"Sequence\",\"decoders\":[" RESTORE "]}",
						"{\"type\":\"Sequence\",\"decoders\":[" RESTORE "," STRIP "]}" };
	const struct nla_tok_place root = { tok->path, "", json };
	const struct nla_tok_place pre = { tok->path, "pre_tokenizer.", nla_json_at(json, "pre_tokenizer") };
	int normalizer = which(nla_json_at(json, "normalizer"), normalizers, NLA_LEN(normalizers));
	int decoder = which(nla_json_at(json, "decoder"), decoders, NLA_LEN(decoders));

	if (normalizer < 0)
		return nla_tok_fail_field(&root, "normalizer", "null, or Prepend and Replace of U+2581", err);
	if (decoder < 0)
		return nla_tok_fail_field(&root, "decoder", "Replace of U+2581, ByteFallback, Fuse and perhaps Strip of one space", err);
	tok->strip_first = decoder == 1;
	tok->prefix = normalizer == 1 ? NLA_TOK_PREPEND : NLA_TOK_NEVER;
	if (!normalizer)
		return read_scheme(tok, &pre, err);
	return pre.json ? nla_tok_fail_field(&root, "pre_tokenizer", "null behind that normaliser", err) : NLA_OK;
}

enum nla_status nla_tok_read_pipeline(struct nla_tokenizer *tok, const cJSON *json, struct nla_err *err)
{
	const struct nla_tok_place normalizer = { tok->path, "normalizer.", nla_json_at(json, "normalizer") };
	const struct nla_tok_place pre = { tok->path, "pre_tokenizer.", nla_json_at(json, "pre_tokenizer") };
	const struct nla_tok_place decoder = { tok->path, "decoder.", nla_json_at(json, "decoder") };

	tok->metaspace = cJSON_IsTrue(nla_json_at(json, "model.byte_fallback"));
	if (tok->metaspace)
		return read_metaspace(tok, json, err);
	if (read_normalizer(tok, &normalizer, err) || read_pre_tokenizers(tok, &pre, err))
		return err->status;
	return read_decoder(&decoder, err);
}
