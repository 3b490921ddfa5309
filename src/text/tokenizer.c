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

#include "base/file.h"
#include "text/tokenizer_impl.h"

#define SPACE "\xe2\x96\x81" /* U+2581, a space in the vocabulary of a metaspace tokenizer */

/* One encode call. */
struct run {
	const struct nla_tokenizer *tok;
	const char *text;
	struct nla_i32s *ids;
	struct nla_err *err;
	struct nla_tok_matcher matchers[NLA_TOK_MAX_SPLITS];
	struct nla_str mapped; /* a piece in the byte alphabet */
	struct nla_str normal; /* a gap in normal form */
	int32_t *found;        /* [cap] what sentencepiece returns */
	size_t cap;
};

static enum nla_status load(struct nla_tokenizer *tok, bool json, struct nla_err *err)
{
	struct nla_str proto = NLA_STR_INIT;
	enum nla_status status = json ? nla_tok_read_json(tok, &proto, err) : nla_tok_read_native(tok, &proto, err);

	if (!status) {
		nla_tok_added_sort(&tok->added[0]);
		nla_tok_added_sort(&tok->added[1]);
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
	status = load(tok, json, err);
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
	return tok->vocab.n;
}

int32_t nla_tokenizer_id(const struct nla_tokenizer *tok, const char *token)
{
	return nla_tok_vocab_id(&tok->vocab, token, strlen(token));
}

uint32_t nla_tokenizer_crc(const struct nla_tokenizer *tok)
{
	return tok->crc;
}

/* Merge with sentencepiece; an id is a piece less one. */
static enum nla_status merge(struct run *r, const char *text, size_t n)
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
		nla_i32s_push(r->ids, r->found[i] - 1);
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
	return merge(r, r->mapped.buf, r->mapped.len);
}

/* A part of a text between added tokens; metaspace tokenizers do not split it. */
static enum nla_status encode_metaspace(struct run *r, const char *text, size_t n)
{
	enum nla_tok_prefix prefix = r->tok->prefix;

	nla_str_reset(&r->mapped);
	if (prefix == NLA_TOK_PREPEND || ((prefix == NLA_TOK_ALWAYS || (prefix == NLA_TOK_FIRST && text == r->text)) && *text != ' ' &&
					  (n < 3 || memcmp(text, SPACE, 3))))
		nla_str_add(&r->mapped, SPACE);
	for (size_t i = 0; i < n; i++) {
		if (text[i] == ' ')
			nla_str_add(&r->mapped, SPACE);
		else
			nla_str_addc(&r->mapped, text[i]);
	}
	return merge(r, r->mapped.buf, r->mapped.len);
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
		return r->tok->metaspace ? encode_metaspace(r, text, n) : encode_splits(r, 0, text, n);
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
	struct run r = { .tok = tok, .text = text, .ids = ids, .err = err, .mapped = NLA_STR_INIT, .normal = NLA_STR_INIT };
	size_t valid = nla_tok_valid_utf8(text, n), before = ids->n;
	enum nla_status status;

	if (valid < n)
		return nla_fail(err, "cannot tokenise a text of %zu bytes: byte %zu is not valid UTF-8", n, valid);
	for (size_t i = 0; i < tok->n_splits; i++)
		nla_tok_matcher_init(&r.matchers[i], &tok->splits[i]);
	status = encode_added(&r, 0, text, n);
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

/* Bytes in a row: the text they are, or else one U+FFFD for each. */
static void flush_bytes(struct nla_str *bytes, struct nla_str *out)
{
	if (nla_tok_valid_utf8(bytes->buf, bytes->len) == bytes->len)
		nla_str_addn(out, bytes->buf, bytes->len);
	else
		for (size_t i = 0; i < bytes->len; i++)
			nla_str_add(out, "\xef\xbf\xbd");
	nla_str_reset(bytes);
}

static void add_piece(const struct nla_tokenizer *tok, const char *text, size_t n, struct nla_str *out)
{
	if (!tok->metaspace) {
		nla_tok_unmap(&tok->alphabet, text, n, out);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		bool space = n - i >= 3 && !memcmp(text + i, SPACE, 3);

		nla_str_addc(out, space ? ' ' : text[i]);
		i += space ? 2 : 0;
	}
}

static char byte_of(const char *text)
{
	return (char)strtol(text + strlen("<0x"), NULL, 16);
}

enum nla_status nla_tokenizer_decode(const struct nla_tokenizer *tok, const int32_t *ids, size_t n, bool skip_special,
				     struct nla_str *out, struct nla_err *err)
{
	struct nla_str bytes = NLA_STR_INIT, whole = NLA_STR_INIT;
	enum nla_status status = NLA_OK;
	size_t skip;

	for (size_t i = 0; i < n && !status; i++) {
		size_t length = 0;
		const char *text = nla_tok_vocab_text(&tok->vocab, ids[i], &length);

		if (!text) {
			status = fail_id(tok, ids[i], err);
		} else if (tok->vocab.flags[ids[i]] & NLA_TOK_BYTE) {
			nla_str_addc(&bytes, byte_of(text));
		} else if (!skip_special || !(tok->vocab.flags[ids[i]] & NLA_TOK_SPECIAL)) {
			flush_bytes(&bytes, &whole);
			add_piece(tok, text, length, &whole);
		}
	}
	flush_bytes(&bytes, &whole);
	skip = tok->strip_first && *whole.buf == ' ';
	if (!status)
		nla_tok_add_lossy(out, whole.buf + skip, whole.len - skip);
	nla_str_release(&bytes);
	nla_str_release(&whole);
	return status;
}

enum nla_status nla_tokenizer_piece(const struct nla_tokenizer *tok, int32_t id, struct nla_str *out, struct nla_err *err)
{
	size_t n = 0;
	const char *text = nla_tok_vocab_text(&tok->vocab, id, &n);

	if (!text)
		return fail_id(tok, id, err);
	if (tok->vocab.flags[id] & NLA_TOK_BYTE)
		nla_str_addc(out, byte_of(text));
	else
		add_piece(tok, text, n, out);
	return NLA_OK;
}
