/*
 * tokenizer_bytes - GPT-2's byte alphabet and UTF-8.
 *
 * The alphabet (bytes_to_unicode of openai/gpt-2, src/encoder.py): the printable bytes of Latin-1, 0x21-0x7E, 0xA1-0xAC and
 * 0xAE-0xFF, stand for themselves; the other 68 become U+0100, U+0101, ... in order.
 */
#include <string.h>

#include "base/utf8.h"
#include "text/tokenizer_impl.h"

static bool stands_for_itself(int b)
{
	return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
}

void nla_tok_alphabet_init(struct nla_tok_alphabet *a)
{
	int next = 0x100;

	for (size_t i = 0; i < NLA_LEN(a->byte); i++)
		a->byte[i] = -1;
	for (int b = 0; b < 256; b++) {
		int cp = stands_for_itself(b) ? b : next++;

		a->byte[cp] = (int16_t)b;
		memset(a->utf8[b], 0, sizeof(a->utf8[b]));
		if (cp < 0x80) {
			a->utf8[b][0] = (char)cp;
		} else {
			a->utf8[b][0] = (char)(0xc0 | cp >> 6);
			a->utf8[b][1] = (char)(0x80 | (cp & 0x3f));
		}
		a->length[b] = cp < 0x80 ? 1 : 2;
	}
}

void nla_tok_unmap(const struct nla_tok_alphabet *a, const char *token, size_t n, struct nla_str *out)
{
	size_t before = out->len, length;
	uint32_t cp;

	for (size_t i = 0; i < n; i += length) {
		length = nla_utf8_next(token + i, n - i, &cp);
		if (!length || cp >= NLA_LEN(a->byte) || a->byte[cp] < 0) {
			out->len = before;
			nla_str_addn(out, token, n);
			return;
		}
		nla_str_addc(out, (char)a->byte[cp]);
	}
}

size_t nla_tok_valid_utf8(const char *s, size_t n)
{
	size_t length, i = 0;
	uint32_t cp;

	while (i < n && (length = nla_utf8_next(s + i, n - i, &cp)) > 0)
		i += length;
	return i;
}

/* Length of the invalid bytes at s that one U+FFFD stands for: the longest start of any well-formed sequence (Unicode table
 * 3-7: the second byte's range depends on the first), at least 1. */
static size_t invalid_length(const char *s, size_t n)
{
	const unsigned char *u = (const unsigned char *)s;
	unsigned char lo = u[0] == 0xe0 ? 0xa0 : u[0] == 0xf0 ? 0x90 : 0x80;
	unsigned char hi = u[0] == 0xed ? 0x9f : u[0] == 0xf4 ? 0x8f : 0xbf;
	size_t want = u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4, i = 1;

	if (u[0] < 0xc2 || u[0] > 0xf4)
		return 1;
	for (; i < want && i < n && u[i] >= lo && u[i] <= hi; i++) {
		lo = 0x80;
		hi = 0xbf;
	}
	return i;
}

void nla_tok_add_lossy(struct nla_str *out, const char *s, size_t n)
{
	while (n) {
		size_t skip = nla_tok_valid_utf8(s, n);

		nla_str_addn(out, s, skip);
		if (skip < n) {
			nla_str_addn(out, "\xef\xbf\xbd", 3);
			skip += invalid_length(s + skip, n - skip);
		}
		s += skip;
		n -= skip;
	}
}
