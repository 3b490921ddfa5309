/* utf8 - strict decoding, and white space, of UTF-8. See utf8.h. */
#include "base/utf8.h"

int nla_utf8_length(const char *s, size_t n)
{
	const unsigned char *p = (const unsigned char *)s;
	unsigned char c = p[0], low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
	unsigned char high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
	int length = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
	for (int i = 1; i < length; i++) {
		if ((size_t)i >= n || p[i] < low || p[i] > high)
			return -i;
		low = 0x80;
		high = 0xbf;
	}
	return length ? length : -1;
}

size_t nla_utf8_next(const char *s, size_t n, uint32_t *code)
{
	static const unsigned char first[] = { 0, 0x7f, 0x1f, 0x0f, 0x07 };
	int length = n ? nla_utf8_length(s, n) : 0;
	if (length <= 0)
		return 0;
	*code = (unsigned char)s[0] & first[length];
	for (int i = 1; i < length; i++)
		*code = *code << 6 | ((unsigned char)s[i] & 0x3f);
	return (size_t)length;
}

size_t nla_utf8_valid(const char *s, size_t n)
{
	size_t i = 0;
	for (int length; i < n && (length = nla_utf8_length(s + i, n - i)) > 0; i += (size_t)length)
		;
	return i;
}

void nla_utf8_add_lossy(struct nla_str *out, const char *s, size_t n)
{
	for (size_t i = 0; i < n;) {
		int length = nla_utf8_length(s + i, n - i);
		nla_str_addn(out, length > 0 ? s + i : NLA_UTF8_UNKNOWN, length > 0 ? (size_t)length : 3);
		i += (size_t)abs(length);
	}
}

bool nla_utf8_is_space(uint32_t code)
{
	return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xa0 || code == 0x1680 ||
	       (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f ||
	       code == 0x3000;
}

const char *nla_utf8_strip(const char *s, size_t n, size_t *length)
{
	size_t start = n, stop = n;
	for (size_t i = 0, len; i < n; i += len) {
		uint32_t code = 0;
		len = nla_utf8_next(s + i, n - i, &code);
		if (len && (nla_utf8_is_space(code) || (code >= 0x1c && code <= 0x1f)))
			continue;
		len = NLA_MAX(len, 1);
		start = NLA_MIN(start, i);
		stop = i + len;
	}
	*length = stop - start;
	return s + start;
}

char *nla_utf8_end(const char *text, size_t most)
{
	const size_t n = strlen(text);
	size_t skip = n > most ? n - most : 0;
	while (skip && ((unsigned char)text[skip] & 0xC0) == 0x80)
		skip++;
	char *line = nla_format("%s%s", skip ? "..." : "", text + skip);
	for (unsigned char *c = (unsigned char *)line; *c; c++) /* nor may a text move a terminal's cursor */
		if (*c < ' ' || *c == 0x7f)
			*c = ' ';
		else if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) /* U+0080 to U+009F, in two bytes */
			c[0] = c[1] = ' ';
	return line;
}
