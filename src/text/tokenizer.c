/*
 * tokenizer - see tokenizer.h. A text's way through a byte-level tokenizer:
 *
 *	text -> added tokens | gaps -> NFC -> added tokens (normalised) | gaps -> split 0 -> split 1 -> ... -> one piece -> ids
 *
 * Each step walks its text and hands what lies between to the next, so nothing is stored but the gap's normal form. A piece
 * whose text is a token that its own merges end in needs no merging, which is most of a text: each token remembers that from
 * the first time it was merged. A metaspace tokenizer does not split its gaps.
 */
#include <zlib.h>

#include "base/file.h"
#include "base/utf8.h"
#include "text/tokenizer_read.h"

#define SPACE NLA_TOKENIZER_SPACE

/* One encode call. */
struct run {
	const struct nla_tokenizer *tok;
	const char *text;
	struct nla_i32s *ids;
	struct nla_err *err;
	pcre2_match_data *match;
	struct nla_bpe_work work;
	struct nla_str mapped; /* a piece in the vocabulary's spelling */
	struct nla_str normal; /* a gap in normal form */
};

void nla_added_push(struct nla_tokenizer *tok, const char *text, int32_t id, unsigned flags)
{
	struct nla_added_set *set = &tok->added[flags & NLA_ADDED_NORMALIZED ? 1 : 0];
	set->data = nla_grow(set->data, set->n, 1, &set->cap, sizeof(*set->data));
	set->data[set->n++] = (struct nla_added){ nla_strdup(text), strlen(text), id, flags };
}

static int compare_added(const void *a, const void *b)
{
	const struct nla_added *x = a, *y = b;
	int cx = (unsigned char)x->text[0], cy = (unsigned char)y->text[0];
	return cx != cy ? cx - cy : (x->n < y->n) - (x->n > y->n);
}

static void sort_added(struct nla_added_set *set)
{
	size_t i = 0;
	if (set->n)
		qsort(set->data, set->n, sizeof(*set->data), compare_added);
	for (size_t b = 0; b <= 256; b++) {
		while (i < set->n && (unsigned char)set->data[i].text[0] < b)
			i++;
		set->first[b] = i;
	}
}

static void add_crc(uint32_t *crc, int32_t x) { *crc = (uint32_t)crc32(*crc, (const Bytef *)&x, sizeof(x)); }

static uint32_t find_crc(const struct nla_tokenizer *tok)
{
	uint32_t crc = 0;
	for (int32_t id = 0; id < tok->bpe.n; id++) {
		size_t n = 0;
		const char *text = nla_bpe_text(&tok->bpe, id, &n);
		if (!text)
			continue;
		add_crc(&crc, id);
		crc = (uint32_t)crc32(crc, (const Bytef *)text, (uInt)n + 1);
	}
	for (size_t i = 0; i < tok->merges.n; i++)
		add_crc(&crc, tok->merges.data[i]);
	for (int k = 0; k < 2; k++)
		for (size_t i = 0; i < tok->added[k].n; i++) {
			add_crc(&crc, tok->added[k].data[i].id);
			add_crc(&crc, tok->added[k].data[i].flags & ~NLA_ADDED_SPECIAL);
		}
	add_crc(&crc, tok->nfc | tok->ignore_merges << 1);
	if (tok->metaspace)
		add_crc(&crc, 1 + (int32_t)tok->prefix);
	for (size_t i = 0; i < tok->n_splits; i++)
		crc = (uint32_t)crc32(crc, (const Bytef *)tok->splits[i].pattern, (uInt)strlen(tok->splits[i].pattern) + 1);
	return crc;
}

enum nla_status nla_tokenizer_load(struct nla_tokenizer **out, const char *folder, struct nla_err *err)
{
	struct nla_tokenizer *tok = *out = nla_alloc(1, sizeof(*tok));
	const bool json = nla_exists_in(folder, "tokenizer.json");
	nla_str_init(&tok->bpe.text);
	tok->path = nla_path_join(folder, json ? "tokenizer.json" : "tokenizer.model");
	if (!nla_exists(tok->path))
		nla_fail(err, "cannot load a tokenizer from '%s': it has neither tokenizer.json nor tokenizer.model", folder);
	else if (!(json ? nla_tokenizer_read_json : nla_tokenizer_read_model)(tok, err))
		tok->crc = find_crc(tok);
	sort_added(&tok->added[0]);
	sort_added(&tok->added[1]);
	if (err->status) {
		nla_tokenizer_free(tok);
		*out = NULL;
	}
	return err->status;
}

void nla_tokenizer_free(struct nla_tokenizer *tok)
{
	if (!tok)
		return;
	if (tok->sp)
		sp_free(tok->sp);
	nla_bpe_release(&tok->bpe);
	nla_i32s_release(&tok->front);
	nla_i32s_release(&tok->merges);
	for (size_t i = 0; i < tok->n_splits; i++)
		nla_tok_split_release(&tok->splits[i]);
	for (size_t k = 0; k < 2; k++) {
		for (size_t i = 0; i < tok->added[k].n; i++)
			free(tok->added[k].data[i].text);
		free(tok->added[k].data);
	}
	free(tok->path);
	free(tok);
}

int32_t nla_tokenizer_size(const struct nla_tokenizer *tok) { return tok->bpe.n; }
void nla_tokenizer_limit(struct nla_tokenizer *tok, int32_t n) { tok->limit = n; }
int32_t nla_tokenizer_id(const struct nla_tokenizer *tok, const char *token)
{
	return nla_bpe_id(&tok->bpe, token, strlen(token));
}

const struct nla_i32s *nla_tokenizer_front(const struct nla_tokenizer *tok) { return &tok->front; }
bool nla_tokenizer_behind(const struct nla_tokenizer *tok) { return tok->behind; }
uint32_t nla_tokenizer_crc(const struct nla_tokenizer *tok) { return tok->crc; }

/* ---- encode ---- */

/* Byte-level. The piece in the alphabet is the texts of its bytes' tokens. */
static void encode_piece(struct run *r, const char *text, size_t n)
{
	const struct nla_tokenizer *tok = r->tok;
	struct nla_bpe_token *token;
	size_t before = r->ids->n;
	bool complete = true;
	int32_t id;
	nla_str_reset(&r->mapped);
	for (size_t i = 0; i < n; i++) {
		id = tok->byte[(unsigned char)text[i]];
		complete &= id >= 0;
		if (id < 0)
			continue;
		nla_str_addn(&r->mapped, tok->bpe.text.buf + tok->bpe.tokens[id].offset, tok->bpe.tokens[id].length);
		nla_bpe_work_add(&r->work, id);
	}
	id = nla_bpe_piece(&tok->bpe, r->mapped.buf, r->mapped.len);
	token = id >= 0 ? &tok->bpe.tokens[id] : NULL;
	if (token && ((tok->ignore_merges && complete) || atomic_load_explicit(&token->whole, memory_order_relaxed) == 1)) {
		nla_i32s_push(r->ids, id);
		r->work.n = 0;
		return;
	}
	nla_bpe_merge(&tok->bpe, &r->work, r->ids);
	if (token)
		atomic_store_explicit(&token->whole, r->ids->n == before + 1 && r->ids->data[before] == id ? 1 : 2,
				      memory_order_relaxed);
}

/* By sentencepiece, whose pieces have the ids of the file. */
static enum nla_status encode_model(struct run *r, const char *text, size_t n)
{
	int32_t *found = nla_alloc(n, sizeof(*found)); /* a token is at least a byte */
	int64_t count = sp_encode(r->tok->sp, text, n, found, n);
	if (count > 0)
		nla_i32s_append(r->ids, found, (size_t)count);
	free(found);
	return count < 0 ? nla_fail(r->err, "cannot tokenise a text of %zu bytes: %s", n, sp_error()) : NLA_OK;
}

static enum nla_status encode_metaspace(struct run *r, const char *text, size_t n)
{
	const struct nla_tokenizer *tok = r->tok;
	bool spaced = *text == ' ' || nla_starts_with(text, SPACE), first = text == r->text;
	size_t length;
	uint32_t code;
	int32_t id;
	nla_str_reset(&r->mapped);
	if (tok->prefix == NLA_PREFIX_PREPEND ||
	    (!spaced && (tok->prefix == NLA_PREFIX_ALWAYS || (tok->prefix == NLA_PREFIX_FIRST && first))))
		nla_str_add(&r->mapped, SPACE);
	for (size_t i = 0; i < n; i++)
		nla_str_addn(&r->mapped, text[i] == ' ' ? SPACE : text + i, text[i] == ' ' ? 3 : 1);
	if (tok->sp)
		return encode_model(r, r->mapped.buf, r->mapped.len);
	for (const char *s = r->mapped.buf, *end = s + r->mapped.len; s < end; s += length) {
		length = nla_utf8_next(s, (size_t)(end - s), &code);
		id = nla_bpe_piece(&tok->bpe, s, length);
		for (size_t i = 0; i < (id < 0 ? length : 1); i++)
			nla_bpe_work_add(&r->work, id < 0 ? tok->byte[(unsigned char)s[i]] : id);
	}
	nla_bpe_merge(&tok->bpe, &r->work, r->ids);
	return NLA_OK;
}

/* Cut text by split `level`: each match is a piece, and what lies between two is one. */
static enum nla_status encode_splits(struct run *r, size_t level, const char *text, size_t n)
{
	size_t from = 0, span[2];
	if (level == r->tok->n_splits) {
		encode_piece(r, text, n);
		return NLA_OK;
	}
	while (from < n) {
		if (nla_tok_split_next(&r->tok->splits[level], r->match, text, n, from, span, r->err))
			return r->err->status;
		if (span[0] > from && encode_splits(r, level + 1, text + from, span[0] - from))
			return r->err->status;
		if (span[1] > span[0] && encode_splits(r, level + 1, text + span[0], span[1] - span[0]))
			return r->err->status;
		from = span[1];
	}
	return NLA_OK;
}

/* The character that ends at `at`, or (ahead) begins there: its length, 0 where there is none. */
static size_t next_to(const char *text, size_t n, size_t at, bool ahead, uint32_t *code)
{
	size_t start = at;
	while (!ahead && start > 0 && ((unsigned char)text[--start] & 0xc0) == 0x80)
		;
	return nla_utf8_next(text + start, (ahead ? n : at) - start, code);
}

/* The end of the white space on one side. */
static size_t past_spaces(const char *text, size_t n, size_t at, bool ahead)
{
	uint32_t code;
	for (size_t length; (length = next_to(text, n, at, ahead, &code)) > 0 && nla_utf8_is_space(code);)
		at = ahead ? at + length : at - length;
	return at;
}

static bool inside_word(const char *text, size_t n, size_t start, size_t stop)
{
	uint32_t code;
	return (next_to(text, n, start, false, &code) && nla_tok_split_is_word(code)) ||
	       (next_to(text, n, stop, true, &code) && nla_tok_split_is_word(code));
}

/*
 * The next added token at or after `from`, and its place; NULL: none. As in added_vocabulary.rs of huggingface/tokenizers: the
 * leftmost match, the longest where several begin at one place; a single_word match inside a word is no match, but its text is
 * passed over all the same.
 */
static const struct nla_added *find_added(const struct nla_added_set *set, const char *text, size_t n, size_t from, size_t *at)
{
	for (size_t i = from; set->n && i < n; i++) {
		unsigned char b = (unsigned char)text[i];
		for (size_t k = set->first[b]; k < set->first[b + 1]; k++) {
			const struct nla_added *token = &set->data[k];
			if (token->n > n - i || memcmp(token->text, text + i, token->n))
				continue;
			if (token->flags & NLA_ADDED_SINGLE_WORD && inside_word(text, n, i, i + token->n)) {
				i += token->n - 1;
				break;
			}
			*at = i;
			return token;
		}
	}
	return NULL;
}

static enum nla_status encode_added(struct run *r, int pass, const char *text, size_t n);

static enum nla_status encode_gap(struct run *r, int pass, const char *text, size_t n)
{
	if (pass == 1)
		return r->tok->metaspace ? encode_metaspace(r, text, n) : encode_splits(r, 0, text, n);
	if (!r->tok->nfc)
		return encode_added(r, 1, text, n);
	nla_str_reset(&r->normal);
	if (nla_tok_split_nfc(text, n, &r->normal, r->err))
		return r->err->status;
	return encode_added(r, 1, r->normal.buf, r->normal.len);
}

/* Added tokens of one pass: 0 in the raw text, 1 in its normal form. A token that strips takes the white space next to it. */
static enum nla_status encode_added(struct run *r, int pass, const char *text, size_t n)
{
	size_t done = 0, from = 0, at;
	const struct nla_added *token;
	while ((token = find_added(&r->tok->added[pass], text, n, from, &at))) {
		size_t stop = from = at + token->n;
		if (token->flags & NLA_ADDED_LSTRIP)
			at = past_spaces(text, n, at, false);
		if (token->flags & NLA_ADDED_RSTRIP)
			stop = past_spaces(text, n, stop, true);
		if (at > done && encode_gap(r, pass, text + done, at - done))
			return r->err->status;
		nla_i32s_push(r->ids, token->id);
		done = stop;
	}
	return done < n ? encode_gap(r, pass, text + done, n - done) : NLA_OK;
}

enum nla_status nla_tokenizer_encode_any(const struct nla_tokenizer *tok, const char *text, size_t n, struct nla_i32s *ids,
					 struct nla_err *err)
{
	struct run r = { .tok = tok, .text = text, .ids = ids, .err = err, .mapped = NLA_STR_INIT, .normal = NLA_STR_INIT };
	size_t valid = nla_utf8_valid(text, n), before = ids->n;
	enum nla_status status;
	if (valid < n)
		return nla_fail(err, "cannot tokenise a text of %zu bytes: byte %zu is not valid UTF-8", n, valid);
	if (n > INT32_MAX / 4)
		return nla_fail(err, "cannot tokenise a text of %zu bytes: want at most %d", n, INT32_MAX / 4);
	r.match = pcre2_match_data_create(1, NULL);
	if (!r.match)
		NLA_BUG("out of memory");
	status = encode_added(&r, 0, text, n);
	if (status)
		ids->n = before;
	pcre2_match_data_free(r.match);
	nla_bpe_work_release(&r.work);
	nla_str_release(&r.mapped);
	nla_str_release(&r.normal);
	return status;
}

int32_t nla_tokenizer_unknown(const struct nla_tokenizer *tok, const struct nla_i32s *ids, size_t from)
{
	for (size_t i = from; i < ids->n; i++)
		if (tok->limit && ids->data[i] >= tok->limit)
			return ids->data[i];
	return -1;
}

enum nla_status nla_tokenizer_encode(const struct nla_tokenizer *tok, const char *text, size_t n, struct nla_i32s *ids,
				     struct nla_err *err)
{
	const size_t before = ids->n;
	if (nla_tokenizer_encode_any(tok, text, n, ids, err))
		return err->status;
	const int32_t unknown = nla_tokenizer_unknown(tok, ids, before);
	if (unknown < 0)
		return NLA_OK;
	ids->n = before;
	return nla_fail(err, "cannot tokenise a text: it has token %d, the model has ids below %d", unknown, tok->limit);
}

/* ---- decode ---- */

/* The bytes of one token, appended. A byte-level token with a character outside the alphabet is its own text; an id without a
 * token, such as pads a vocabulary, is U+FFFD. */
void nla_tokenizer_piece(const struct nla_tokenizer *tok, int32_t id, struct nla_str *out)
{
	size_t n = 0, before = out->len, length;
	const char *text = nla_bpe_text(&tok->bpe, id, &n);
	uint32_t code = 0;
	if (!text) {
		nla_str_add(out, NLA_UTF8_UNKNOWN);
		return;
	}
	if (tok->bpe.tokens[id].flags & NLA_BPE_BYTE) {
		nla_str_addc(out, (char)strtol(text + strlen("<0x"), NULL, 16));
		return;
	}
	for (size_t i = 0; i < n; i += length) {
		length = nla_utf8_next(text + i, n - i, &code);
		if (tok->metaspace) {
			nla_str_addn(out, code == 0x2581 ? " " : text + i, code == 0x2581 ? 1 : NLA_MAX(length, 1));
		} else if (!length || nla_bpe_byte(code) < 0) {
			out->len = before;
			nla_str_addn(out, text, n);
			return;
		} else {
			nla_str_addc(out, (char)nla_bpe_byte(code));
		}
		length = NLA_MAX(length, 1);
	}
}

/* Byte tokens in a row: the text they are, or else one U+FFFD for each. */
static void flush_bytes(struct nla_str *bytes, struct nla_str *out)
{
	bool valid = nla_utf8_valid(bytes->buf, bytes->len) == bytes->len;
	for (size_t i = 0; i < bytes->len; i++)
		nla_str_addn(out, valid ? bytes->buf + i : NLA_UTF8_UNKNOWN, valid ? 1 : 3);
	nla_str_reset(bytes);
}

void nla_tokenizer_decode(const struct nla_tokenizer *tok, const int32_t *ids, size_t n, bool skip_special,
			  struct nla_str *out)
{
	NLA_AUTO(nla_str_release) struct nla_str bytes = NLA_STR_INIT, whole = NLA_STR_INIT;
	for (size_t i = 0, length; i < n; i++) {
		uint8_t flags = nla_bpe_text(&tok->bpe, ids[i], &length) ? tok->bpe.tokens[ids[i]].flags : 0;
		if (flags & NLA_BPE_BYTE) {
			nla_tokenizer_piece(tok, ids[i], &bytes);
		} else if (!skip_special || !(flags & NLA_BPE_SPECIAL)) {
			flush_bytes(&bytes, &whole);
			nla_tokenizer_piece(tok, ids[i], &whole);
		}
	}
	flush_bytes(&bytes, &whole);
	size_t skip = tok->strip_first && *whole.buf == ' ';
	nla_utf8_add_lossy(out, whole.buf + skip, whole.len - skip);
}
