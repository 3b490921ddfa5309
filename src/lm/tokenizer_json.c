/*
 * tokenizer_json - reads tokenizer.json of the `tokenizers` library: a byte-level BPE model with its normaliser, pre-tokenisers
 * and added tokens. Each object has a table of the fields it may have; where only some values are honoured, the table lists
 * them, and any other field or value is an error. So a file of a family we do not know fails at load, and never gives wrong
 * ids.
 *
 * post_processor is not looked at: every kind only puts special tokens around a text, and nla_tokenizer_encode() puts none.
 */
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "base/file.h"
#include "base/json.h"
#include "lm/tokenizer_impl.h"

/* An object and where it stands, for messages. */
struct place {
	const char *path;
	const char *where; /* "" or "model." or "pre_tokenizer.pretokenizers[0]." */
	const cJSON *json;
};

struct rule {
	const char *key;
	const char *want; /* '|'-separated JSON texts, null also standing for a missing field; NULL: read elsewhere */
};

#define BYTE_LEVEL_REGEX "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static enum nla_status fail_field(const struct place *p, const char *key, const char *want, struct nla_err *err)
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

static enum nla_status check(const struct place *p, const struct rule *rules, size_t n, struct nla_err *err)
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
			return fail_field(p, rules[i].key, rules[i].want, err);
	}
	return NLA_OK;
}

static enum nla_status read_bool(const struct place *p, const char *key, bool def, bool *out, struct nla_err *err)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(p->json, key);

	if (value && !cJSON_IsNull(value) && !cJSON_IsBool(value))
		return fail_field(p, key, "true or false", err);
	*out = cJSON_IsBool(value) ? cJSON_IsTrue(value) : def;
	return NLA_OK;
}

static const char *type_of(const struct place *p)
{
	const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(p->json, "type"));

	return type ? type : "";
}

static enum nla_status add_split(struct nla_tokenizer *tok, const struct place *p, const char *regex, struct nla_err *err)
{
	if (tok->n_splits == NLA_TOK_MAX_SPLITS)
		return nla_fail(err, "cannot read '%s': 'pre_tokenizer' has more than %d splits", p->path, NLA_TOK_MAX_SPLITS);
	return nla_tok_split_compile(&tok->splits[tok->n_splits++], p->path, regex, err);
}

static enum nla_status read_split(struct nla_tokenizer *tok, const struct place *p, struct nla_err *err)
{
	static const struct rule rules[] = { { "type", NULL }, { "pattern", NULL }, { "behavior", "\"Isolated\"" },
					     { "invert", "false|null" } };
	const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(p->json, "pattern");
	const char *regex = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(pattern, "Regex"));

	if (check(p, rules, NLA_LEN(rules), err))
		return err->status;
	return regex ? add_split(tok, p, regex, err) : fail_field(p, "pattern", "{\"Regex\": ...}", err);
}

static enum nla_status read_digits(struct nla_tokenizer *tok, const struct place *p, struct nla_err *err)
{
	static const struct rule rules[] = { { "type", NULL }, { "individual_digits", NULL } };
	bool individual;

	if (check(p, rules, NLA_LEN(rules), err) || read_bool(p, "individual_digits", false, &individual, err))
		return err->status;
	return add_split(tok, p, individual ? "\\p{N}" : "\\p{N}+", err);
}

static enum nla_status read_byte_level(struct nla_tokenizer *tok, const struct place *p, struct nla_err *err)
{
	static const struct rule rules[] = { { "type", NULL }, { "add_prefix_space", "false" }, { "trim_offsets", NULL },
					     { "use_regex", NULL } };
	bool use_regex;

	if (check(p, rules, NLA_LEN(rules), err) || read_bool(p, "use_regex", true, &use_regex, err))
		return err->status;
	return use_regex ? add_split(tok, p, BYTE_LEVEL_REGEX, err) : NLA_OK;
}

/* One pre-tokeniser. *bytes: whether it is the ByteLevel one, after which the text is in the byte alphabet. */
static enum nla_status read_pre_tokenizer(struct nla_tokenizer *tok, const struct place *p, bool *bytes, struct nla_err *err)
{
	const char *type = type_of(p);

	if (*bytes)
		return nla_fail(err, "cannot read '%s': '%stype' follows ByteLevel, which must be the last", p->path, p->where);
	if (!strcmp(type, "Split"))
		return read_split(tok, p, err);
	if (!strcmp(type, "Digits"))
		return read_digits(tok, p, err);
	if (strcmp(type, "ByteLevel"))
		return fail_field(p, "type", "Sequence, Split, Digits or ByteLevel", err);
	*bytes = true;
	return read_byte_level(tok, p, err);
}

static enum nla_status read_pre_tokenizers(struct nla_tokenizer *tok, const struct place *p, struct nla_err *err)
{
	static const struct rule rules[] = { { "type", NULL }, { "pretokenizers", NULL } };
	const cJSON *child, *list = cJSON_GetObjectItemCaseSensitive(p->json, "pretokenizers");
	bool bytes = false;
	int i = 0;

	if (strcmp(type_of(p), "Sequence")) {
		if (read_pre_tokenizer(tok, p, &bytes, err))
			return err->status;
	} else {
		if (check(p, rules, NLA_LEN(rules), err))
			return err->status;
		cJSON_ArrayForEach(child, list) {
			char *where = nla_format("%spretokenizers[%d].", p->where, i++);
			struct place inner = { p->path, where, child };
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

static enum nla_status read_normalizer(struct nla_tokenizer *tok, const struct place *p, struct nla_err *err)
{
	static const struct rule rules[] = { { "type", "\"NFC\"" } };

	if (!p->json || cJSON_IsNull(p->json))
		return NLA_OK;
	tok->nfc = true;
	return check(p, rules, NLA_LEN(rules), err);
}

static enum nla_status read_decoder(const struct place *p, struct nla_err *err)
{
	static const struct rule rules[] = { { "type", "\"ByteLevel\"" }, { "add_prefix_space", NULL }, { "trim_offsets", NULL },
					     { "use_regex", NULL } };

	return check(p, rules, NLA_LEN(rules), err);
}

static enum nla_status read_id(const struct place *p, const cJSON *value, const char *token, int64_t *id, struct nla_err *err)
{
	if (!cJSON_IsNumber(value) || !(value->valuedouble >= 0 && value->valuedouble < NLA_TOK_MAX_ID) ||
	    value->valuedouble != (double)(int64_t)value->valuedouble)
		return nla_fail(err, "cannot read '%s': token '%s' of '%.*s' has no whole id from 0 to %d", p->path, token,
				(int)strcspn(p->where, "."), p->where, NLA_TOK_MAX_ID - 1);
	*id = (int64_t)value->valuedouble;
	return NLA_OK;
}

static enum nla_status read_vocab(struct nla_tokenizer *tok, const struct place *p, struct nla_err *err)
{
	const cJSON *entry, *vocab = cJSON_GetObjectItemCaseSensitive(p->json, "vocab");
	int64_t id;

	if (!cJSON_IsObject(vocab) || !vocab->child)
		return fail_field(p, "vocab", "an object of tokens and ids", err);
	cJSON_ArrayForEach(entry, vocab) {
		if (read_id(p, entry, entry->string, &id, err) ||
		    nla_tok_vocab_add(&tok->vocab, p->path, entry->string, strlen(entry->string), id, NLA_TOK_MODEL, err))
			return err->status;
	}
	for (int b = 0; b < 256; b++)
		tok->has_byte[b] = nla_tok_vocab_id(&tok->vocab, tok->alphabet.utf8[b], tok->alphabet.length[b]) >= 0;
	return NLA_OK;
}

/* A merge is ["a", "b"], or "a b" in older files. */
static bool merge_parts(const cJSON *item, const char **left, size_t *n_left, const char **right)
{
	const char *text = cJSON_GetStringValue(item), *space = text ? strchr(text, ' ') : NULL;

	if (cJSON_IsArray(item) && cJSON_GetArraySize(item) == 2) {
		*left = cJSON_GetStringValue(item->child);
		*right = cJSON_GetStringValue(item->child->next);
		*n_left = *left ? strlen(*left) : 0;
		return *left && *right;
	}
	if (!space || strchr(space + 1, ' '))
		return false;
	*left = text;
	*n_left = (size_t)(space - text);
	*right = space + 1;
	return true;
}

static enum nla_status read_merges(const struct nla_tokenizer *tok, const struct place *p, struct nla_tok_merges *merges,
				   struct nla_err *err)
{
	const cJSON *item, *list = cJSON_GetObjectItemCaseSensitive(p->json, "merges");
	const char *left, *right;
	struct nla_str whole = NLA_STR_INIT;
	enum nla_status status = NLA_OK;
	size_t n_left;

	if (!cJSON_IsArray(list))
		return fail_field(p, "merges", "a list of pairs", err);
	cJSON_ArrayForEach(item, list) {
		struct nla_tok_merge merge;

		if (!merge_parts(item, &left, &n_left, &right)) {
			status = nla_fail(err, "cannot read '%s': 'model.merges[%d]' is not a pair of tokens", p->path, merges->n);
			break;
		}
		nla_str_reset(&whole);
		nla_str_addn(&whole, left, n_left);
		nla_str_add(&whole, right);
		merge.left = nla_tok_vocab_id(&tok->vocab, left, n_left);
		merge.right = nla_tok_vocab_id(&tok->vocab, right, strlen(right));
		merge.result = nla_tok_vocab_id(&tok->vocab, whole.buf, whole.len);
		if (merge.left < 0 || merge.right < 0 || merge.result < 0) {
			status = nla_fail(err, "cannot read '%s': 'model.merges[%d]': '%.*s', '%s' or '%s' is not in the vocabulary",
					  p->path, merges->n, (int)n_left, left, right, whole.buf);
			break;
		}
		nla_tok_merges_push(merges, merge);
	}
	nla_str_release(&whole);
	return status;
}

static enum nla_status read_model(struct nla_tokenizer *tok, const struct place *p, struct nla_tok_merges *merges,
				  struct nla_err *err)
{
	static const struct rule rules[] = { { "type", "\"BPE\"" }, { "dropout", "null|0" }, { "unk_token", "null" },
					     { "continuing_subword_prefix", "null|\"\"" }, { "end_of_word_suffix", "null|\"\"" },
					     { "fuse_unk", "false|null" }, { "byte_fallback", "false|null" },
					     { "ignore_merges", NULL }, { "vocab", NULL }, { "merges", NULL } };

	if (check(p, rules, NLA_LEN(rules), err) || read_bool(p, "ignore_merges", false, &tok->ignore_merges, err) ||
	    read_vocab(tok, p, err) || read_merges(tok, p, merges, err))
		return err->status;
	return NLA_OK;
}

static enum nla_status is_normal(const char *text, bool *normal, struct nla_err *err)
{
	struct nla_str composed = NLA_STR_INIT;
	enum nla_status status = nla_tok_nfc(text, strlen(text), &composed, err);

	*normal = !status && !strcmp(composed.buf, text);
	nla_str_release(&composed);
	return status;
}

static enum nla_status read_added_token(struct nla_tokenizer *tok, const struct place *p, struct nla_err *err)
{
	static const struct rule rules[] = { { "id", NULL }, { "content", NULL }, { "single_word", NULL }, { "lstrip", NULL },
					     { "rstrip", NULL }, { "normalized", NULL }, { "special", NULL } };
	const char *content = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(p->json, "content"));
	struct nla_tok_added added = {0};
	bool special, normal;
	int64_t id;

	if (check(p, rules, NLA_LEN(rules), err))
		return err->status;
	if (!content || !*content)
		return fail_field(p, "content", "a text", err);
	if (read_bool(p, "special", false, &special, err) || read_bool(p, "single_word", false, &added.single_word, err) ||
	    read_bool(p, "lstrip", false, &added.lstrip, err) || read_bool(p, "rstrip", false, &added.rstrip, err) ||
	    read_bool(p, "normalized", !special, &added.normalized, err) ||
	    read_id(p, cJSON_GetObjectItemCaseSensitive(p->json, "id"), content, &id, err) ||
	    is_normal(content, &normal, err))
		return err->status;
	if (added.normalized && tok->nfc && !normal)
		return fail_field(p, "content", "a text in normal form C, as it is matched there", err);
	added.id = nla_tok_vocab_id(&tok->vocab, content, strlen(content));
	if (added.id != id && nla_tok_vocab_add(&tok->vocab, p->path, content, strlen(content), id, 0, err))
		return err->status;
	added.id = (int32_t)id;
	if (special)
		tok->vocab.flags[id] |= NLA_TOK_SPECIAL;
	added.n = strlen(content);
	added.text = nla_strdup(content);
	nla_tok_added_push(&tok->added[added.normalized], added);
	return NLA_OK;
}

static enum nla_status read_added(struct nla_tokenizer *tok, const struct place *p, struct nla_err *err)
{
	const cJSON *child;
	int i = 0;

	if (p->json && !cJSON_IsArray(p->json) && !cJSON_IsNull(p->json))
		return nla_fail(err, "cannot read '%s': 'added_tokens' is not a list", p->path);
	cJSON_ArrayForEach(child, p->json) {
		char *where = nla_format("added_tokens[%d].", i++);
		struct place inner = { p->path, where, child };
		enum nla_status status = read_added_token(tok, &inner, err);

		free(where);
		if (status)
			return status;
	}
	nla_tok_added_sort(&tok->added[0]);
	nla_tok_added_sort(&tok->added[1]);
	return NLA_OK;
}

static void crc_add(uint32_t *crc, const void *bytes, size_t n)
{
	*crc = (uint32_t)crc32(*crc, bytes, (uInt)n);
}

static void crc_add_int(uint32_t *crc, int32_t x)
{
	unsigned char bytes[4] = { (unsigned char)x, (unsigned char)(x >> 8), (unsigned char)(x >> 16), (unsigned char)(x >> 24) };

	crc_add(crc, bytes, sizeof(bytes));
}

static uint32_t crc_of(const struct nla_tokenizer *tok, const struct nla_tok_merges *merges)
{
	uint32_t crc = 0;

	for (int32_t id = 0; id < tok->vocab.n; id++) {
		size_t n = 0;
		const char *text = nla_tok_vocab_text(&tok->vocab, id, &n);

		if (text) {
			crc_add_int(&crc, id);
			crc_add(&crc, text, n + 1);
		}
	}
	for (int32_t i = 0; i < merges->n; i++) {
		crc_add_int(&crc, merges->data[i].left);
		crc_add_int(&crc, merges->data[i].right);
	}
	for (int k = 0; k < 2; k++) {
		for (size_t i = 0; i < tok->added[k].n; i++) {
			const struct nla_tok_added *a = &tok->added[k].data[i];

			crc_add_int(&crc, a->id);
			crc_add_int(&crc, a->single_word | a->lstrip << 1 | a->rstrip << 2 | a->normalized << 3);
		}
	}
	crc_add_int(&crc, tok->nfc | tok->ignore_merges << 1);
	for (size_t i = 0; i < tok->n_splits; i++)
		crc_add(&crc, tok->splits[i].pattern, strlen(tok->splits[i].pattern) + 1);
	return crc;
}

static enum nla_status read_root(struct nla_tokenizer *tok, const cJSON *json, struct nla_tok_merges *merges,
				 struct nla_err *err)
{
	static const struct rule rules[] = { { "version", "\"1.0\"|null" }, { "truncation", "null" }, { "padding", "null" },
					     { "added_tokens", NULL }, { "normalizer", NULL }, { "pre_tokenizer", NULL },
					     { "post_processor", NULL }, { "decoder", NULL }, { "model", NULL } };
	const struct place root = { tok->path, "", json };
	const struct place normalizer = { tok->path, "normalizer.", nla_json_at(json, "normalizer") };
	const struct place pre = { tok->path, "pre_tokenizer.", nla_json_at(json, "pre_tokenizer") };
	const struct place decoder = { tok->path, "decoder.", nla_json_at(json, "decoder") };
	const struct place model = { tok->path, "model.", nla_json_at(json, "model") };
	const struct place added = { tok->path, "added_tokens", nla_json_at(json, "added_tokens") };

	if (check(&root, rules, NLA_LEN(rules), err) || read_normalizer(tok, &normalizer, err) ||
	    read_pre_tokenizers(tok, &pre, err) || read_decoder(&decoder, err) || read_model(tok, &model, merges, err) ||
	    read_added(tok, &added, err))
		return err->status;
	return NLA_OK;
}

enum nla_status nla_tok_read_json(struct nla_tokenizer *tok, struct nla_str *proto, struct nla_err *err)
{
	struct nla_tok_merges merges = {0};
	enum nla_status status;
	cJSON *json = NULL;

	nla_tok_alphabet_init(&tok->alphabet);
	status = nla_json_read(tok->path, &json, err);
	if (!status)
		status = read_root(tok, json, &merges, err);
	if (!status) {
		int32_t *rank = nla_alloc((size_t)tok->vocab.n, sizeof(*rank));

		nla_tok_reach(&tok->vocab, &merges, &tok->alphabet, rank);
		nla_tok_proto(&tok->vocab, rank, proto);
		tok->crc = crc_of(tok, &merges);
		free(rank);
	}
	cJSON_Delete(json);
	nla_tok_merges_release(&merges);
	return status;
}
