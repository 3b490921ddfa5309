/*
 * tokenizer_json - reads tokenizer.json of the `tokenizers` library: a BPE model, byte-level or of sentencepiece's kind (byte
 * fallback, spaces as U+2581), with its added tokens; tokenizer_pre.c reads what stands around the model. A field or a value that
 * is not honoured is an error, so a file of a family we do not know fails at load, and never gives wrong ids.
 *
 * post_processor is not looked at: every kind only puts special tokens around a text, and nla_tokenizer_encode() puts none.
 */
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer_impl.h"

static enum nla_status read_id(const struct nla_tok_place *p, const cJSON *value, const char *token, int64_t *id,
			       struct nla_err *err)
{
	if (!cJSON_IsNumber(value) || !(value->valuedouble >= 0 && value->valuedouble < NLA_TOK_MAX_ID) ||
	    value->valuedouble != (double)(int64_t)value->valuedouble)
		return nla_fail(err, "cannot read '%s': token '%s' of '%.*s' has no whole id from 0 to %d", p->path, token,
				(int)strcspn(p->where, "."), p->where, NLA_TOK_MAX_ID - 1);
	*id = (int64_t)value->valuedouble;
	return NLA_OK;
}

static enum nla_status read_vocab(struct nla_tokenizer *tok, const struct nla_tok_place *p, struct nla_err *err)
{
	const cJSON *entry, *vocab = cJSON_GetObjectItemCaseSensitive(p->json, "vocab");
	int64_t id;

	if (!cJSON_IsObject(vocab) || !vocab->child)
		return nla_tok_fail_field(p, "vocab", "an object of tokens and ids", err);
	cJSON_ArrayForEach(entry, vocab) {
		if (read_id(p, entry, entry->string, &id, err) ||
		    nla_tok_vocab_add(&tok->vocab, p->path, entry->string, strlen(entry->string), id, NLA_TOK_MODEL, err))
			return err->status;
	}
	return NLA_OK;
}

/* Every byte needs a token, else an unknown one would have to stand for it; without such a token it leaves no trace. */
static enum nla_status read_bytes(struct nla_tokenizer *tok, const struct nla_tok_place *p, struct nla_err *err)
{
	bool complete = true;

	if (tok->metaspace)
		return nla_tok_find_bytes(tok, err);
	for (int b = 0; b < 256; b++) {
		tok->has_byte[b] = nla_tok_vocab_id(&tok->vocab, tok->alphabet.utf8[b], tok->alphabet.length[b]) >= 0;
		complete &= tok->has_byte[b];
	}
	if (!complete && cJSON_IsString(cJSON_GetObjectItemCaseSensitive(p->json, "unk_token")))
		return nla_tok_fail_field(p, "unk_token", "null where bytes have no token", err);
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

static enum nla_status read_merges(const struct nla_tokenizer *tok, const struct nla_tok_place *p, struct nla_tok_merges *merges,
				   struct nla_err *err)
{
	const cJSON *item, *list = cJSON_GetObjectItemCaseSensitive(p->json, "merges");
	const char *left, *right;
	struct nla_str whole = NLA_STR_INIT;
	enum nla_status status = NLA_OK;
	size_t n_left;

	if (!cJSON_IsArray(list))
		return nla_tok_fail_field(p, "merges", "a list of pairs", err);
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

static enum nla_status read_model(struct nla_tokenizer *tok, const struct nla_tok_place *p, struct nla_tok_merges *merges,
				  struct nla_err *err)
{
	static const struct nla_tok_rule rules[] = { { "type", "\"BPE\"" }, { "dropout", "null|0" }, { "unk_token", NULL },
					     { "continuing_subword_prefix", "null|\"\"" }, { "end_of_word_suffix", "null|\"\"" },
					     { "fuse_unk", "false|true|null" }, { "byte_fallback", "false|true|null" },
					     { "ignore_merges", NULL }, { "vocab", NULL }, { "merges", NULL } };

	if (nla_tok_check(p, rules, NLA_LEN(rules), err) || nla_tok_read_bool(p, "ignore_merges", false, &tok->ignore_merges, err))
		return err->status;
	if (tok->metaspace && tok->ignore_merges)
		return nla_tok_fail_field(p, "ignore_merges", "false beside byte_fallback", err);
	if (read_vocab(tok, p, err) || read_bytes(tok, p, err) || read_merges(tok, p, merges, err))
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

enum nla_status nla_tok_read_added_token(struct nla_tokenizer *tok, const struct nla_tok_place *p, const cJSON *number,
					 struct nla_err *err)
{
	static const struct nla_tok_rule rules[] = { { "id", NULL }, { "content", NULL }, { "single_word", NULL }, { "lstrip", NULL },
					     { "rstrip", NULL }, { "normalized", NULL }, { "special", NULL } };
	const char *content = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(p->json, "content"));
	struct nla_tok_added added = {0};
	bool special, normal;
	int64_t id;

	if (nla_tok_check(p, rules, NLA_LEN(rules), err))
		return err->status;
	if (!content || !*content)
		return nla_tok_fail_field(p, "content", "a text", err);
	if (nla_tok_read_bool(p, "special", false, &special, err) || nla_tok_read_bool(p, "single_word", false, &added.single_word, err) ||
	    nla_tok_read_bool(p, "lstrip", false, &added.lstrip, err) || nla_tok_read_bool(p, "rstrip", false, &added.rstrip, err) ||
	    nla_tok_read_bool(p, "normalized", !special, &added.normalized, err) ||
	    read_id(p, number, content, &id, err) ||
	    is_normal(content, &normal, err))
		return err->status;
	if (added.normalized && tok->nfc && !normal)
		return nla_tok_fail_field(p, "content", "a text in normal form C, as it is matched there", err);
	added.id = nla_tok_vocab_id(&tok->vocab, content, strlen(content));
	if (added.id != id && nla_tok_vocab_add(&tok->vocab, p->path, content, strlen(content), id, 0, err))
		return err->status;
	added.id = (int32_t)id;
	tok->vocab.flags[id] = (uint8_t)((tok->vocab.flags[id] & ~NLA_TOK_SPECIAL) | NLA_TOK_ADDED | (special ? NLA_TOK_SPECIAL : 0));
	added.n = strlen(content);
	added.text = nla_strdup(content);
	nla_tok_added_push(&tok->added[added.normalized], added);
	return NLA_OK;
}

static enum nla_status read_added(struct nla_tokenizer *tok, const struct nla_tok_place *p, struct nla_err *err)
{
	const cJSON *child;
	int i = 0;

	if (p->json && !cJSON_IsArray(p->json) && !cJSON_IsNull(p->json))
		return nla_fail(err, "cannot read '%s': 'added_tokens' is not a list", p->path);
	cJSON_ArrayForEach(child, p->json) {
		char *where = nla_format("added_tokens[%d].", i++);
		struct nla_tok_place inner = { p->path, where, child };
		enum nla_status status = nla_tok_read_added_token(tok, &inner, cJSON_GetObjectItemCaseSensitive(child, "id"), err);

		free(where);
		if (status)
			return status;
	}
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

uint32_t nla_tok_crc(const struct nla_tokenizer *tok, const struct nla_tok_merges *merges)
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
	if (tok->metaspace)
		crc_add_int(&crc, 1 + (int32_t)tok->prefix);
	for (size_t i = 0; i < tok->n_splits; i++)
		crc_add(&crc, tok->splits[i].pattern, strlen(tok->splits[i].pattern) + 1);
	return crc;
}

static enum nla_status read_root(struct nla_tokenizer *tok, const cJSON *json, struct nla_tok_merges *merges,
				 struct nla_err *err)
{
	static const struct nla_tok_rule rules[] = { { "version", "\"1.0\"|null" }, { "truncation", "null" }, { "padding", "null" },
					     { "added_tokens", NULL }, { "normalizer", NULL }, { "pre_tokenizer", NULL },
					     { "post_processor", NULL }, { "decoder", NULL }, { "model", NULL } };
	const struct nla_tok_place root = { tok->path, "", json };
	const struct nla_tok_place model = { tok->path, "model.", nla_json_at(json, "model") };
	const struct nla_tok_place added = { tok->path, "added_tokens", nla_json_at(json, "added_tokens") };

	if (nla_tok_check(&root, rules, NLA_LEN(rules), err) || nla_tok_read_pipeline(tok, json, err) ||
	    read_model(tok, &model, merges, err) || read_added(tok, &added, err))
		return err->status;
	return tok->metaspace ? nla_tok_llama_config(tok, err) : nla_tok_check_beside(tok, err);
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

		if (tok->metaspace)
			status = nla_tok_rank_pieces(tok, &merges, rank, err);
		else
			nla_tok_reach(&tok->vocab, &merges, &tok->alphabet, rank);
		nla_tok_proto(&tok->vocab, rank, proto);
		tok->crc = nla_tok_crc(tok, &merges);
		free(rank);
	}
	cJSON_Delete(json);
	nla_tok_merges_release(&merges);
	return status;
}
