/*
 * tokenizer_added - finds added tokens in a text as the reference does (added_vocabulary.rs of huggingface/tokenizers): the
 * leftmost match, the longest where several begin at one place, never overlapping; a single_word match inside a word is no
 * match, but its text is passed over all the same.
 */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/utf8.h"
#include "text/tokenizer_impl.h"

void nla_tok_added_push(struct nla_tok_added_set *set, struct nla_tok_added token)
{
	if (set->n == set->cap) {
		set->cap = NLA_MAX(16, 2 * set->cap);
		set->data = nla_realloc(set->data, set->cap, sizeof(*set->data));
	}
	set->data[set->n++] = token;
}

void nla_tok_added_release(struct nla_tok_added_set *set)
{
	for (size_t i = 0; i < set->n; i++)
		free(set->data[i].text);
	free(set->data);
	memset(set, 0, sizeof(*set));
}

/* By first byte, then the longest first: the first that fits is the longest that fits. */
static int compare(const void *a, const void *b)
{
	const struct nla_tok_added *x = a, *y = b;
	int cx = (unsigned char)x->text[0], cy = (unsigned char)y->text[0];

	return cx != cy ? cx - cy : (x->n < y->n) - (x->n > y->n);
}

void nla_tok_added_sort(struct nla_tok_added_set *set)
{
	size_t i = 0;

	if (set->n)
		qsort(set->data, set->n, sizeof(*set->data), compare);
	for (size_t b = 0; b <= 256; b++) {
		while (i < set->n && (unsigned char)set->data[i].text[0] < b)
			i++;
		set->first[b] = i;
	}
}

static uint32_t before(const char *text, size_t at, size_t *length)
{
	uint32_t cp = 0;
	size_t start = at;

	while (start > 0 && ((unsigned char)text[--start] & 0xc0) == 0x80)
		;
	*length = at - start;
	return nla_utf8_next(text + start, at - start, &cp) ? cp : 0;
}

/* A word character of UTS 18 annex C: letters, marks, decimal and letter numbers, connectors, joiners, and the enclosed letters
 * that are alphabetic though symbols. */
static bool is_word(uint32_t cp)
{
	switch (utf8proc_category((utf8proc_int32_t)cp)) {
	case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM:
	case UTF8PROC_CATEGORY_LO: case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME:
	case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_PC:
		return true;
	default:
		return cp == 0x200c || cp == 0x200d || (cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f149) ||
		       (cp >= 0x1f150 && cp <= 0x1f169) || (cp >= 0x1f170 && cp <= 0x1f189) || nla_tok_is_new(cp);
	}
}

static bool inside_word(const char *text, size_t n, size_t start, size_t stop)
{
	size_t length;
	uint32_t cp;

	if (start > 0 && is_word(before(text, start, &length)))
		return true;
	return stop < n && nla_utf8_next(text + stop, n - stop, &cp) && is_word(cp);
}

ptrdiff_t nla_tok_added_find(const struct nla_tok_added_set *set, const char *text, size_t n, size_t from, size_t *at)
{
	if (!set->n)
		return -1;
	for (size_t i = from; i < n; i++) {
		unsigned char b = (unsigned char)text[i];

		for (size_t k = set->first[b]; k < set->first[b + 1]; k++) {
			const struct nla_tok_added *token = &set->data[k];

			if (token->n > n - i || memcmp(token->text, text + i, token->n))
				continue;
			if (token->single_word && inside_word(text, n, i, i + token->n)) {
				i += token->n - 1;
				break;
			}
			*at = i;
			return (ptrdiff_t)k;
		}
	}
	return -1;
}

size_t nla_tok_spaces_before(const char *text, size_t at)
{
	size_t length, start = at;

	while (start > 0 && nla_utf8_is_space(before(text, start, &length)))
		start -= length;
	return at - start;
}

size_t nla_tok_spaces_after(const char *text, size_t n, size_t at)
{
	size_t length, stop = at;
	uint32_t cp;

	while (stop < n && (length = nla_utf8_next(text + stop, n - stop, &cp)) > 0 && nla_utf8_is_space(cp))
		stop += length;
	return stop - at;
}
