/*
 * tokenizer_split - the regexes that cut a text into pieces, and normal form C. Texts that go in are valid UTF-8.
 */
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/base.h"

struct nla_tok_split {
	char *pattern; /* owned; as translated for PCRE2 */
	pcre2_code *code;
	pcre2_match_context *limits;
};
/* regex: as the tokenizers library has it, in Oniguruma's syntax. name: the file, for the message. */
enum nla_status nla_tok_split_compile(struct nla_tok_split *split, const char *name, const char *regex, struct nla_err *err);
void nla_tok_split_release(struct nla_tok_split *split);
/* The next match at or after `from`, never empty: bytes span[0] to span[1] of the text; both n when there is none. scratch: one
 * thread's. */
enum nla_status nla_tok_split_next(const struct nla_tok_split *split, pcre2_match_data *scratch, const char *text, size_t n,
				   size_t from, size_t span[2], struct nla_err *err);

/* A word character, as the boundaries of a single_word token have it. */
bool nla_tok_split_is_word(uint32_t code);
/* Append in normal form C. */
enum nla_status nla_tok_split_nfc(const char *text, size_t n, struct nla_str *out, struct nla_err *err);
