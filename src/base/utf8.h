/* utf8 - one code point at a time, strict (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF). */
#pragma once

#include "base/base.h"

/* Length of the well-formed character at s[0..n), n > 0; or minus the length of the longest start of one that is cut or wrong
 * there: Unicode 15, table 3-7 and the practice of section 3.9, so that other programs count the same replacements. */
int nla_utf8_length(const char *s, size_t n);
/* The code point at the start of s[0..n) and its length in bytes, 1 to 4; 0 when the bytes are not valid or n is 0. */
size_t nla_utf8_next(const char *s, size_t n, uint32_t *code);
/* Bytes before the first that is not valid: n when all is well. */
size_t nla_utf8_valid(const char *s, size_t n);
#define NLA_UTF8_UNKNOWN "\xef\xbf\xbd" /* U+FFFD, in the place of what is no text */
/* Append, with one U+FFFD for what nla_utf8_length says is cut or wrong. */
void nla_utf8_add_lossy(struct nla_str *out, const char *s, size_t n);
/* White_Space of Unicode's PropList. */
bool nla_utf8_is_space(uint32_t code);
/* s[0..n) without its outer white space, as Python's str.strip() has it (White_Space and 0x1c to 0x1f): its start, and *length
 * how much is left. Bytes that are no valid character are no white space. */
const char *nla_utf8_strip(const char *s, size_t n, size_t *length);
/* On one line, owned: the last `most` bytes from a character's start on, with "..." in front where that is not all. */
char *nla_utf8_end(const char *text, size_t most);
