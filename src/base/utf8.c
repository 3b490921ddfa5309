/* utf8 - see utf8.h. */
#include "base/utf8.h"

size_t nla_utf8_next(const char *s, size_t n, uint32_t *code)
{
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	const unsigned char *b = (const unsigned char *)s;
	size_t len;
	uint32_t c;

	if (!n)
		return 0;
	if (b[0] < 0x80) {
		*code = b[0];
		return 1;
	}
	len = b[0] >> 5 == 6 ? 2 : b[0] >> 4 == 14 ? 3 : b[0] >> 3 == 30 ? 4 : 0;
	if (!len || len > n)
		return 0;
	c = b[0] & (0x7fu >> len);
	for (size_t i = 1; i < len; i++) {
		if (b[i] >> 6 != 2)
			return 0;
		c = c << 6 | (b[i] & 0x3f);
	}
	if (c < smallest[len] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return 0;
	*code = c;
	return len;
}

bool nla_utf8_valid(const char *s, size_t n)
{
	uint32_t code;

	for (size_t i = 0, len; i < n; i += len)
		if (!(len = nla_utf8_next(s + i, n - i, &code)))
			return false;
	return true;
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
