/*
 * tokenizer_split - normal form C, and the file's regexes.
 *
 * The regexes are written for Oniguruma (Ruby syntax, Unicode 16), and run here by PCRE2 (10.42: Unicode 14). So they are
 * translated: \s becomes the White_Space property, because PCRE2's \s also has U+180E; \p{L} and \p{N} get the characters that
 * Unicode 15, 15.1 and 16 have added (no harm where PCRE2 knows them already). Constructs that mean different things to the
 * two, or that no tokenizer we load uses, are refused.
 */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "lm/tokenizer_impl.h"

#define MATCH_LIMIT 1000000000 /* steps of the interpreter: minutes; only a hostile pattern comes near */

/* Letters and numbers of Unicode 16.0 that are unassigned in 14.0 (DerivedGeneralCategory.txt of both). */
static const char new_letters[] =
	"\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}"
	"\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}"
	"\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}"
	"\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}"
	"\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}"
	"\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}";
static const char new_numbers[] =
	"\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}\\x{16130}-\\x{16139}"
	"\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}";

struct translation {
	struct nla_str out;
	bool in_class;
};

/* One escape at s, which is a backslash. Returns its length, 0 when it is not supported. */
static size_t translate_escape(struct translation *t, const char *s)
{
	bool letters = !strncmp(s + 1, "p{L}", 4) || !strncmp(s + 1, "P{L}", 4);
	bool numbers = !strncmp(s + 1, "p{N}", 4) || !strncmp(s + 1, "P{N}", 4);

	if (s[1] == 's' || s[1] == 'S') {
		nla_str_add(&t->out, s[1] == 's' ? "\\p{White_Space}" : "\\P{White_Space}");
		return 2;
	}
	if (letters || numbers) {
		if (t->in_class && s[1] == 'P')
			return 0;
		nla_str_add(&t->out, t->in_class ? "" : s[1] == 'P' ? "[^" : "[");
		nla_str_addf(&t->out, "\\p{%c}%s%s", s[3], letters ? new_letters : new_numbers, t->in_class ? "" : "]");
		return 5;
	}
	if (s[1] == '\0' || (strchr("0123456789", s[1])) || (s[1] >= 'A' && s[1] <= 'Z' && !strchr("DP", s[1])) ||
	    (s[1] >= 'a' && s[1] <= 'z' && !strchr("rntfdpx", s[1])))
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
	} else if (strchr("^$.", *s) || (s[0] == '}' && s[1] == '+')) {
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
	return NLA_OK;
}

void nla_tok_split_release(struct nla_tok_split *split)
{
	free(split->pattern);
	pcre2_code_free(split->code);
	memset(split, 0, sizeof(*split));
}

void nla_tok_matcher_init(struct nla_tok_matcher *m, const struct nla_tok_split *split)
{
	m->split = split;
	m->data = pcre2_match_data_create(1, NULL);
	m->context = pcre2_match_context_create(NULL);
	if (!m->data || !m->context)
		NLA_BUG("out of memory");
	pcre2_set_match_limit(m->context, MATCH_LIMIT);
}

void nla_tok_matcher_release(struct nla_tok_matcher *m)
{
	pcre2_match_data_free(m->data);
	pcre2_match_context_free(m->context);
	memset(m, 0, sizeof(*m));
}

enum nla_status nla_tok_matcher_next(struct nla_tok_matcher *m, const char *text, size_t n, size_t from, size_t *start,
				     size_t *stop, struct nla_err *err)
{
	PCRE2_UCHAR reason[256];
	PCRE2_SIZE *ends = pcre2_get_ovector_pointer(m->data);
	uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
	int rc = pcre2_match(m->split->code, (PCRE2_SPTR)text, n, from, options, m->data, m->context);

	if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
		rc = pcre2_match(m->split->code, (PCRE2_SPTR)text, n, from, options | PCRE2_NO_JIT, m->data, m->context);
	if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
		pcre2_get_error_message(rc, reason, sizeof(reason));
		return nla_fail(err, "cannot split the text at byte %zu of %zu: %s", from, n, (const char *)reason);
	}
	*start = rc == PCRE2_ERROR_NOMATCH ? n : ends[0];
	*stop = rc == PCRE2_ERROR_NOMATCH ? n : ends[1];
	return NLA_OK;
}

/* Every character below U+0300, whose first byte is below 0xCC, is in normal form already. */
static bool is_plainly_nfc(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)text[i] >= 0xcc)
			return false;
	return true;
}

enum nla_status nla_tok_nfc(const char *text, size_t n, struct nla_str *out, struct nla_err *err)
{
	utf8proc_uint8_t *composed = NULL;
	utf8proc_ssize_t length;

	if (is_plainly_nfc(text, n)) {
		nla_str_addn(out, text, n);
		return NLA_OK;
	}
	length = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
	if (length < 0)
		return nla_fail(err, "cannot normalise a text of %zu bytes: %s", n, utf8proc_errmsg(length));
	nla_str_addn(out, composed, (size_t)length);
	free(composed);
	return NLA_OK;
}
