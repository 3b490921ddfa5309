/*
 * tokenizer_split - the regexes that cut a text into pieces, and normal form C; see tokenizer_read.h.
 *
 * The regexes are written for Oniguruma (Ruby syntax, Unicode 16), and run here by PCRE2 (10.42: Unicode 14). So they are
 * translated: \s becomes the White_Space property, because PCRE2's \s also has U+180E; \p{L} and \p{N} get the characters that
 * Unicode 15, 15.1 and 16 have added (no harm where PCRE2 knows them already). Constructs that mean different things to the
 * two, or that no tokenizer we load uses, are refused.
 */

#include <utf8proc.h>

#include "text/tokenizer_read.h"

#define MATCH_LIMIT 1000000000 /* steps of the interpreter: minutes; only a hostile pattern comes near */

/* Letters, and then numbers, of Unicode 16.0 that are unassigned in 14.0 (DerivedGeneralCategory.txt of both); joiners, and the
 * enclosed letters that are alphabetic though symbols. */
enum { NUMBERS = 35, OTHERS = 45 };
static const struct range {
	uint32_t first, last;
} ranges[] = {
	{ 0x1c89, 0x1c8a }, { 0xa7cb, 0xa7cd }, { 0xa7da, 0xa7dc }, { 0x105c0, 0x105f3 }, { 0x10d4a, 0x10d65 },
	{ 0x10d6f, 0x10d85 }, { 0x10ec2, 0x10ec4 }, { 0x1123f, 0x11240 }, { 0x11380, 0x11389 }, { 0x1138b, 0x1138b },
	{ 0x1138e, 0x1138e }, { 0x11390, 0x113b5 }, { 0x113b7, 0x113b7 }, { 0x113d1, 0x113d1 }, { 0x113d3, 0x113d3 },
	{ 0x11bc0, 0x11be0 }, { 0x11f02, 0x11f02 }, { 0x11f04, 0x11f10 }, { 0x11f12, 0x11f33 }, { 0x1342f, 0x1342f },
	{ 0x13441, 0x13446 }, { 0x13460, 0x143fa }, { 0x16100, 0x1611d }, { 0x16d40, 0x16d6c }, { 0x18cff, 0x18cff },
	{ 0x1b132, 0x1b132 }, { 0x1b155, 0x1b155 }, { 0x1df25, 0x1df2a }, { 0x1e030, 0x1e06d }, { 0x1e4d0, 0x1e4eb },
	{ 0x1e5d0, 0x1e5ed }, { 0x1e5f0, 0x1e5f0 }, { 0x2b739, 0x2b739 }, { 0x2ebf0, 0x2ee5d }, { 0x31350, 0x323af },
	{ 0x10d40, 0x10d49 }, { 0x116d0, 0x116e3 }, { 0x11bf0, 0x11bf9 }, { 0x11f50, 0x11f59 }, { 0x16130, 0x16139 },
	{ 0x16d70, 0x16d79 }, { 0x1ccf0, 0x1ccf9 }, { 0x1d2c0, 0x1d2d3 }, { 0x1e4f0, 0x1e4f9 }, { 0x1e5f1, 0x1e5fa },
	{ 0x200c, 0x200d },   { 0x24b6, 0x24e9 },   { 0x1f130, 0x1f149 }, { 0x1f150, 0x1f169 }, { 0x1f170, 0x1f189 },
};

/* UTS 18 annex C: letters, marks, decimal and letter numbers, connectors, and what ranges[] has. */
bool nla_tok_split_is_word(uint32_t code)
{
	bool is = strstr("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl Pc", utf8proc_category_string((utf8proc_int32_t)code));
	for (size_t i = 0; i < NLA_LEN(ranges) && !is; i++)
		is = code >= ranges[i].first && code <= ranges[i].last;
	return is;
}

struct translation {
	struct nla_str out;
	bool in_class;
};

static void add_property(struct translation *t, const char *escape)
{
	size_t i = escape[3] == 'L' ? 0 : NUMBERS, end = escape[3] == 'L' ? NUMBERS : OTHERS;
	nla_str_addf(&t->out, "%s\\p{%c}", t->in_class ? "" : escape[1] == 'P' ? "[^" : "[", escape[3]);
	for (; i < end; i++)
		nla_str_addf(&t->out, "\\x{%x}-\\x{%x}", ranges[i].first, ranges[i].last);
	nla_str_add(&t->out, t->in_class ? "" : "]");
}

/* One escape at s, which is a backslash. Returns its length, 0 when it is not supported. */
static size_t translate_escape(struct translation *t, const char *s)
{
	char c = s[1];
	if (c == 's' || c == 'S') {
		nla_str_addf(&t->out, "\\%c{White_Space}", c == 's' ? 'p' : 'P');
		return 2;
	}
	if ((c == 'p' || c == 'P') && (!strncmp(s + 2, "{L}", 3) || !strncmp(s + 2, "{N}", 3))) {
		if (t->in_class && c == 'P')
			return 0;
		add_property(t, s);
		return 5;
	}
	if (!c || strchr("0123456789", c) || (c >= 'A' && c <= 'Z' && !strchr("DP", c)) ||
	    (c >= 'a' && c <= 'z' && !strchr("rntfdpx", c)))
		return 0;
	nla_str_addn(&t->out, s, 2);
	return 2;
}

/* Any other character or group opening at s, whose length is at least 1. Returns its length, 0 when it is not supported. */
static size_t translate_plain(struct translation *t, const char *s)
{
	static const char *const groups[] = { "(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>" };
	size_t length = 1;
	if (t->in_class) {
		if (*s == '[' || (s[0] == '&' && s[1] == '&'))
			return 0;
		t->in_class = *s != ']';
	} else if (*s == '[') {
		length = s[1] == '^' ? 2 : 1;
		if (s[length] == ']') /* a literal to one, an empty class to the other */
			return 0;
		t->in_class = true;
	} else if (strchr("^$.", *s) || (s[0] == '}' && s[1] == '+') || (s[0] == '{' && s[1] == ',')) {
		/* {,n} is 0 to n to one, these characters to the other */
		return 0;
	} else if (s[0] == '(' && s[1] == '?') {
		length = 0;
		for (size_t i = 0; i < NLA_LEN(groups); i++)
			if (nla_starts_with(s, groups[i]))
				length = strlen(groups[i]);
	}
	nla_str_addn(&t->out, s, length);
	return length;
}

enum nla_status nla_tok_split_compile(struct nla_tok_split *split, const char *name, const char *regex, struct nla_err *err)
{
	struct translation t = { NLA_STR_INIT, false };
	PCRE2_UCHAR reason[256];
	PCRE2_SIZE at;
	size_t length;
	int code;

	for (const char *s = regex; *s; s += length) {
		length = *s == '\\' ? translate_escape(&t, s) : translate_plain(&t, s);
		if (!length) {
			nla_str_release(&t.out);
			return nla_fail(err, "cannot read '%s': regex '%s' is not supported from '%.12s' on", name, regex, s);
		}
	}
	split->pattern = nla_str_detach(&t.out);
	split->code = pcre2_compile((PCRE2_SPTR)split->pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
	if (!split->code) {
		pcre2_get_error_message(code, reason, sizeof(reason));
		return nla_fail(err, "cannot read '%s': regex '%s': %s", name, regex, (const char *)reason);
	}
	pcre2_jit_compile(split->code, PCRE2_JIT_COMPLETE); /* where there is no JIT, matching interprets */
	split->limits = pcre2_match_context_create(NULL);
	if (!split->limits)
		NLA_BUG("out of memory");
	pcre2_set_match_limit(split->limits, MATCH_LIMIT);
	return NLA_OK;
}

void nla_tok_split_release(struct nla_tok_split *split)
{
	free(split->pattern);
	pcre2_code_free(split->code);
	pcre2_match_context_free(split->limits);
}

enum nla_status nla_tok_split_next(const struct nla_tok_split *split, pcre2_match_data *scratch, const char *text, size_t n,
				   size_t from, size_t span[2], struct nla_err *err)
{
	const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(scratch);
	uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
	PCRE2_UCHAR reason[256];
	int rc = pcre2_match(split->code, (PCRE2_SPTR)text, n, from, options, scratch, split->limits);

	if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
		rc = pcre2_match(split->code, (PCRE2_SPTR)text, n, from, options | PCRE2_NO_JIT, scratch, split->limits);
	if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
		pcre2_get_error_message(rc, reason, sizeof(reason));
		return nla_fail(err, "cannot split the text at byte %zu of %zu: %s", from, n, (const char *)reason);
	}
	span[0] = rc == PCRE2_ERROR_NOMATCH ? n : ends[0];
	span[1] = rc == PCRE2_ERROR_NOMATCH ? n : ends[1];
	return NLA_OK;
}

enum nla_status nla_tok_split_nfc(const char *text, size_t n, struct nla_str *out, struct nla_err *err)
{
	nla_auto utf8proc_uint8_t *composed = NULL;
	utf8proc_ssize_t length;
	size_t plain = 0;
	while (plain < n && (unsigned char)text[plain] < 0xcc) /* below U+0300 all is in normal form already */
		plain++;
	if (plain == n) {
		nla_str_addn(out, text, n);
		return NLA_OK;
	}
	length = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &composed,
			      UTF8PROC_STABLE | UTF8PROC_COMPOSE);
	if (length < 0)
		return nla_fail(err, "cannot normalise a text of %zu bytes: %s", n, utf8proc_errmsg(length));
	nla_str_addn(out, composed, (size_t)length);
	return NLA_OK;
}
