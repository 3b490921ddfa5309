/*
 * tokenizer - see tokenizer.h. A text's way through a byte-level tokenizer:
 *
 *	text -> added tokens | gaps -> NFC -> added tokens (normalised) | gaps -> split 0 -> split 1 -> ... -> one piece -> ids
 *
 * Each step walks its text and hands what lies between to the next, so nothing is stored but the gap's normal form. A piece
 * that is a token reached by its own merges is that token; sentencepiece merges the rest.
 */
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "base/file.h"
#include "lm/tokenizer_impl.h"

/* One encode call. */
struct run {
	const struct nla_tokenizer *tok;
	struct nla_i32s *ids;
	struct nla_err *err;
	struct nla_tok_matcher matchers[NLA_TOK_MAX_SPLITS];
	struct nla_str mapped; /* a piece in the byte alphabet */
	struct nla_str normal; /* a gap in normal form */
	int32_t *found;        /* [cap] what sentencepiece returns */
	size_t cap;
};

static enum nla_status load_native(struct nla_tokenizer *tok, struct nla_err *err)
{
	char *dir = nla_path_dir(tok->path), *beside = nla_path_join(dir, "added_tokens.json");
	enum nla_status status = NLA_OK;

	tok->native = true;
	if (nla_exists(beside))
		status = nla_fail(err, "cannot load '%s': added tokens beside a sentencepiece model ('%s') are not supported",
				  tok->path, beside);
	free(beside);
	free(dir);
	if (status)
		return status;
	tok->sp = sp_from_model(tok->path);
	if (!tok->sp)
		return nla_fail(err, "cannot load '%s': %s", tok->path, sp_error());
	for (int32_t id = 0; id < sp_vocab_size(tok->sp); id++) {
		const char *piece = sp_piece(tok->sp, id);
		float score = sp_score(tok->sp, id);
		uint32_t bits;
		unsigned char bytes[5];

		memcpy(&bits, &score, sizeof(bits));
		for (int i = 0; i < 4; i++)
			bytes[i] = (unsigned char)(bits >> 8 * i);
		bytes[4] = (unsigned char)sp_kind(tok->sp, id);
		tok->crc = (uint32_t)crc32(tok->crc, (const Bytef *)piece, (uInt)strlen(piece) + 1);
		tok->crc = (uint32_t)crc32(tok->crc, bytes, sizeof(bytes));
	}
	return NLA_OK;
}

static enum nla_status load_json(struct nla_tokenizer *tok, struct nla_err *err)
{
	struct nla_str proto = NLA_STR_INIT;

	enum nla_status status = nla_tok_read_json(tok, &proto, err);

	if (!status) {
		tok->sp = sp_from_bytes(proto.buf, proto.len);
		if (!tok->sp)
			status = nla_fail(err, "cannot load '%s': %s", tok->path, sp_error());
	}
	nla_str_release(&proto);
	return status;
}

enum nla_status nla_tokenizer_load(struct nla_tokenizer **out, const char *folder, struct nla_err *err)
{
	struct nla_tokenizer *tok = nla_alloc(1, sizeof(*tok));
	enum nla_status status;
	bool json;

	*out = NULL;
	nla_str_init(&tok->vocab.text);
	tok->path = nla_path_join(folder, "tokenizer.json");
	json = nla_exists(tok->path);
	if (!json) {
		free(tok->path);
		tok->path = nla_path_join(folder, "tokenizer.model");
		if (!nla_exists(tok->path)) {
			nla_tokenizer_free(tok);
			return nla_fail(err, "cannot load a tokenizer from '%s': it has neither tokenizer.json nor tokenizer.model",
					folder);
		}
	}
	status = json ? load_json(tok, err) : load_native(tok, err);
	if (status)
		nla_tokenizer_free(tok);
	else
		*out = tok;
	return status;
}

void nla_tokenizer_free(struct nla_tokenizer *tok)
{
	if (!tok)
		return;
	if (tok->sp)
		sp_free(tok->sp);
	nla_tok_vocab_release(&tok->vocab);
	for (size_t i = 0; i < tok->n_splits; i++)
		nla_tok_split_release(&tok->splits[i]);
	nla_tok_added_release(&tok->added[0]);
	nla_tok_added_release(&tok->added[1]);
	free(tok->path);
	free(tok);
}

int32_t nla_tokenizer_size(const struct nla_tokenizer *tok)
{
	return tok->native ? sp_vocab_size(tok->sp) : tok->vocab.n;
}

int32_t nla_tokenizer_id(const struct nla_tokenizer *tok, const char *token)
{
	int32_t id;

	if (!tok->native)
		return nla_tok_vocab_id(&tok->vocab, token, strlen(token));
	id = sp_piece_id(tok->sp, token);
	return strcmp(sp_piece(tok->sp, id), token) ? -1 : id;
}

uint32_t nla_tokenizer_crc(const struct nla_tokenizer *tok)
{
	return tok->crc;
}

/* Merge with sentencepiece; an id is a piece less `offset`. */
static enum nla_status merge(struct run *r, const char *text, size_t n, int32_t offset)
{
	int64_t count = sp_encode(r->tok->sp, text, n, r->found, r->cap);

	if (count > (int64_t)r->cap) {
		r->cap = (size_t)count;
		r->found = nla_realloc(r->found, r->cap, sizeof(*r->found));
		count = sp_encode(r->tok->sp, text, n, r->found, r->cap);
	}
	if (count < 0)
		return nla_fail(r->err, "cannot tokenise a text of %zu bytes: %s", n, sp_error());
	for (int64_t i = 0; i < count; i++)
		nla_i32s_push(r->ids, r->found[i] - offset);
	return NLA_OK;
}

static enum nla_status encode_piece(struct run *r, const char *text, size_t n)
{
	const struct nla_tokenizer *tok = r->tok;
	bool complete = true;
	int32_t id;

	nla_str_reset(&r->mapped);
	for (size_t i = 0; i < n; i++) {
		unsigned char b = (unsigned char)text[i];

		if (tok->has_byte[b])
			nla_str_addn(&r->mapped, tok->alphabet.utf8[b], tok->alphabet.length[b]);
		else
			complete = false;
	}
	if (!r->mapped.len)
		return NLA_OK;
	id = nla_tok_vocab_id(&tok->vocab, r->mapped.buf, r->mapped.len);
	if (id >= 0 && (tok->vocab.flags[id] & (tok->ignore_merges && complete ? NLA_TOK_MODEL : NLA_TOK_WHOLE))) {
		nla_i32s_push(r->ids, id);
		return NLA_OK;
	}
	return merge(r, r->mapped.buf, r->mapped.len, 1);
}

/* Cut text by split `level`: each match is a piece, and what lies between two is one. */
static enum nla_status encode_splits(struct run *r, size_t level, const char *text, size_t n)
{
	size_t from = 0, start, stop;

	if (level == r->tok->n_splits)
		return encode_piece(r, text, n);
	while (from < n) {
		if (nla_tok_matcher_next(&r->matchers[level], text, n, from, &start, &stop, r->err))
			return r->err->status;
		if (start > from && encode_splits(r, level + 1, text + from, start - from))
			return r->err->status;
		if (stop > start && encode_splits(r, level + 1, text + start, stop - start))
			return r->err->status;
		from = stop;
	}
	return NLA_OK;
}

static enum nla_status encode_added(struct run *r, int pass, const char *text, size_t n);

static enum nla_status encode_gap(struct run *r, int pass, const char *text, size_t n)
{
	if (!n)
		return NLA_OK;
	if (pass == 1)
		return encode_splits(r, 0, text, n);
	if (!r->tok->nfc)
		return encode_added(r, 1, text, n);
	nla_str_reset(&r->normal);
	if (nla_tok_nfc(text, n, &r->normal, r->err))
		return r->err->status;
	return encode_added(r, 1, r->normal.buf, r->normal.len);
}

/* Added tokens of one pass: 0 in the raw text, 1 in its normal form. A token that strips takes the white space beside it. */
static enum nla_status encode_added(struct run *r, int pass, const char *text, size_t n)
{
	const struct nla_tok_added_set *set = &r->tok->added[pass];
	size_t done = 0, from = 0, at;
	ptrdiff_t k;

	while ((k = nla_tok_added_find(set, text, n, from, &at)) >= 0) {
		const struct nla_tok_added *token = &set->data[k];
		size_t stop = at + token->n;

		from = stop;
		if (token->lstrip)
			at -= nla_tok_spaces_before(text, at);
		if (token->rstrip)
			stop += nla_tok_spaces_after(text, n, stop);
		if (at > done && encode_gap(r, pass, text + done, at - done))
			return r->err->status;
		nla_i32s_push(r->ids, token->id);
		done = stop;
	}
	return done < n ? encode_gap(r, pass, text + done, n - done) : NLA_OK;
}

enum nla_status nla_tokenizer_encode(const struct nla_tokenizer *tok, const char *text, size_t n, struct nla_i32s *ids,
				     struct nla_err *err)
{
	struct run r = { .tok = tok, .ids = ids, .err = err, .mapped = NLA_STR_INIT, .normal = NLA_STR_INIT };
	size_t valid = nla_tok_valid_utf8(text, n), before = ids->n;
	enum nla_status status;

	if (valid < n)
		return nla_fail(err, "cannot tokenise a text of %zu bytes: byte %zu is not valid UTF-8", n, valid);
	for (size_t i = 0; i < tok->n_splits; i++)
		nla_tok_matcher_init(&r.matchers[i], &tok->splits[i]);
	status = tok->native ? merge(&r, text, n, 0) : encode_added(&r, 0, text, n);
	if (status)
		ids->n = before;
	for (size_t i = 0; i < tok->n_splits; i++)
		nla_tok_matcher_release(&r.matchers[i]);
	nla_str_release(&r.mapped);
	nla_str_release(&r.normal);
	free(r.found);
	return status;
}

static enum nla_status fail_id(const struct nla_tokenizer *tok, int32_t id, struct nla_err *err)
{
	return nla_fail(err, "cannot decode id %d: '%s' has no such token (highest id %d)", id, tok->path,
			nla_tokenizer_size(tok) - 1);
}

static enum nla_status decode_native(const struct nla_tokenizer *tok, const int32_t *ids, size_t n, struct nla_str *out,
				     struct nla_err *err)
{
	int64_t length;
	char *text;

	for (size_t i = 0; i < n; i++)
		if (!sp_piece(tok->sp, ids[i]))
			return fail_id(tok, ids[i], err);
	length = sp_decode(tok->sp, ids, n, NULL, 0);
	if (length < 0)
		return nla_fail(err, "cannot decode %zu ids: %s", n, sp_error());
	text = nla_alloc((size_t)length + 1, 1);
	sp_decode(tok->sp, ids, n, text, (size_t)length);
	nla_tok_add_lossy(out, text, (size_t)length);
	free(text);
	return NLA_OK;
}

enum nla_status nla_tokenizer_decode(const struct nla_tokenizer *tok, const int32_t *ids, size_t n, bool skip_special,
				     struct nla_str *out, struct nla_err *err)
{
	struct nla_str bytes = NLA_STR_INIT;

	if (tok->native)
		return decode_native(tok, ids, n, out, err);
	for (size_t i = 0; i < n; i++) {
		size_t length = 0;
		const char *text = nla_tok_vocab_text(&tok->vocab, ids[i], &length);

		if (!text) {
			nla_str_release(&bytes);
			return fail_id(tok, ids[i], err);
		}
		if (!skip_special || !(tok->vocab.flags[ids[i]] & NLA_TOK_SPECIAL))
			nla_tok_unmap(&tok->alphabet, text, length, &bytes);
	}
	nla_tok_add_lossy(out, bytes.buf, bytes.len);
	nla_str_release(&bytes);
	return NLA_OK;
}

/* A native piece writes a space as U+2581, and a byte as <0x0A>. */
static void add_native_piece(const struct nla_tokenizer *tok, int32_t id, struct nla_str *out)
{
	const char *text = sp_piece(tok->sp, id), *space;

	if (sp_kind(tok->sp, id) == SP_BYTE) {
		nla_str_addc(out, (char)strtol(text + 3, NULL, 16));
		return;
	}
	for (; (space = strstr(text, "\xe2\x96\x81")) != NULL; text = space + 3) {
		nla_str_addn(out, text, (size_t)(space - text));
		nla_str_addc(out, ' ');
	}
	nla_str_add(out, text);
}

enum nla_status nla_tokenizer_piece(const struct nla_tokenizer *tok, int32_t id, struct nla_str *out, struct nla_err *err)
{
	size_t n = 0;
	const char *text = tok->native ? sp_piece(tok->sp, id) : nla_tok_vocab_text(&tok->vocab, id, &n);

	if (!text)
		return fail_id(tok, id, err);
	if (tok->native)
		add_native_piece(tok, id, out);
	else
		nla_tok_unmap(&tok->alphabet, text, n, out);
	return NLA_OK;
}
