/* tokenizer_read - a tokenizer's parts: what tokenizer_json.c and tokenizer_model.c read, and tokenizer.c runs. */
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdatomic.h>

#include "base/json.h"
#include "shim/sp.h"
#include "text/tokenizer.h"

#define NLA_TOKENIZER_SPACE "\xe2\x96\x81" /* U+2581, a space in the vocabulary of a metaspace tokenizer */

/*
 * Byte-pair encoding: a vocabulary, and a list of merges that is run on one piece of text at a time.
 *
 *	nla_bpe_add_token(&bpe, "a.json", "ab", 2, 7, NLA_BPE_MODEL, err);    all tokens,
 *	nla_bpe_add_merge(&bpe, 0, a, b, ab);                                 then the merges in order of rank
 *	nla_bpe_work_add(&work, id); ...                                      the symbols of a piece: bytes or characters
 *	nla_bpe_merge(&bpe, &work, &ids);                                     its tokens
 */
enum nla_bpe_flag {
	NLA_BPE_USED = 1,    /* the id has a token                          */
	NLA_BPE_MODEL = 2,   /* merging may use it, unlike an added token   */
	NLA_BPE_SPECIAL = 4, /* an added token marked special               */
	NLA_BPE_BYTE = 8,    /* <0x00> to <0xFF>: stands for one byte       */
};

struct nla_bpe_token {
	size_t offset; /* into text */
	uint32_t length;
	uint8_t flags;
	_Atomic uint8_t whole; /* whether merging its own text ends in it: 1 yes, 2 no, 0 not tried yet; see tokenizer.c */
};

struct nla_bpe_table {
	struct nla_bpe_entry {
		uint64_t key, value; /* all ones: free */
	} *entries; /* [size] open addressing */
	size_t n, size;
};

struct nla_bpe {
	int32_t n, cap;               /* highest id + 1; ids may have holes */
	struct nla_bpe_token *tokens; /* [n] */
	struct nla_str text;
	struct nla_bpe_table ids;     /* hash of a text -> its id */
	struct nla_bpe_table merges;  /* left, right -> rank, merged token: two numbers in one */
};
void nla_bpe_release(struct nla_bpe *bpe);

/* number: the id. Fails when it is taken or out of range, and when the text has an id. name: the file, for the message. */
enum nla_status nla_bpe_add_token(struct nla_bpe *bpe, const char *name, const char *text, size_t n, double number,
				  uint8_t flags, struct nla_err *err);
int32_t nla_bpe_id(const struct nla_bpe *bpe, const char *text, size_t n);       /* -1: none */
int32_t nla_bpe_piece(const struct nla_bpe *bpe, const char *text, size_t n);    /* the same, of NLA_BPE_MODEL's */
const char *nla_bpe_text(const struct nla_bpe *bpe, int32_t id, size_t *n); /* borrowed, NUL-terminated; NULL: a hole */
/* A pair that is listed twice counts at its later place. merged: the id of the two texts joined. */
void nla_bpe_add_merge(struct nla_bpe *bpe, uint32_t rank, int32_t left, int32_t right, int32_t merged);

/* The scratch memory of one thread's merging: {0} at first. */
struct nla_bpe_work {
	struct nla_bpe_symbol *symbols; /* [n] */
	uint64_t *heap;                 /* [n_heap] */
	size_t n, cap, n_heap, cap_heap;
};
void nla_bpe_work_add(struct nla_bpe_work *work, int32_t id);
void nla_bpe_work_release(struct nla_bpe_work *work);
/* Merges the symbols, lowest rank first, the leftmost where equal; appends the tokens and empties work. */
void nla_bpe_merge(const struct nla_bpe *bpe, struct nla_bpe_work *work, struct nla_i32s *ids);

/* GPT-2's alphabet: a printable character for each of the 256 bytes (bytes_to_unicode of openai/gpt-2, src/encoder.py). */
uint32_t nla_bpe_letter(unsigned char byte);
int nla_bpe_byte(uint32_t letter); /* -1: no letter of it */

/* A regex that cuts a text into pieces. Texts that go in are valid UTF-8. */
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

/* Where a metaspace tokenizer puts a space in front (a text that begins with one gets none, but for PREPEND). */
enum nla_prefix {
	NLA_PREFIX_NEVER,
	NLA_PREFIX_FIRST,   /* at the beginning of the text      */
	NLA_PREFIX_ALWAYS,  /* also behind each added token      */
	NLA_PREFIX_PREPEND, /* the same, and to any text at all  */
};

enum nla_added_flag {
	NLA_ADDED_SINGLE_WORD = 1, NLA_ADDED_LSTRIP = 2, NLA_ADDED_RSTRIP = 4, NLA_ADDED_NORMALIZED = 8, NLA_ADDED_SPECIAL = 16,
	NLA_ADDED_N_FLAGS = 5,
};
extern const char *const nla_added_flags[NLA_ADDED_N_FLAGS]; /* their names in files */

struct nla_added {
	char *text; /* owned */
	size_t n;
	int32_t id;
	unsigned flags;
};
struct nla_added_set {
	struct nla_added *data; /* by first byte, the longest first */
	size_t n, cap;
	size_t first[257];      /* data[first[b] .. first[b + 1]) begin with byte b */
};

struct nla_tokenizer {
	char *path;
	struct nla_bpe bpe;
	struct nla_i32s merges;            /* of tokenizer.json, in pairs: for crc */
	sp_model *sp;                      /* a .model: merges in the place of bpe */
	bool metaspace;                    /* spaces are U+2581, characters fall back on bytes; else byte-level */
	enum nla_prefix prefix;            /* metaspace */
	bool replaces;                     /* metaspace: a normaliser does it, before added tokens that are normalized */
	bool strip_first;                  /* metaspace: a decoded text loses the space that prefix has put in front */
	bool nfc, ignore_merges;           /* byte-level */
	int32_t byte[256];                 /* ids; -1 (byte-level): leaves no trace, as in the reference */
	struct nla_tok_split splits[8];    /* byte-level: each cuts the pieces of the one before */
	size_t n_splits;
	struct nla_added_set added[2];     /* looked for in the raw text, and then in the normalised text */
	struct nla_i32s front;             /* ids that a text gets in front by default */
	bool behind;                       /* it gets some behind, too */
	int32_t limit;                     /* ids of texts are below; 0: any */
	uint32_t crc;
};

/* Fill tok, of which path is set. */
enum nla_status nla_tokenizer_read_json(struct nla_tokenizer *tok, struct nla_err *err);
enum nla_status nla_tokenizer_read_model(struct nla_tokenizer *tok, struct nla_err *err);
/* The files next to it: tokenizer_config.json, special_tokens_map.json, added_tokens.json. */
enum nla_status nla_tokenizer_read_config(struct nla_tokenizer *tok, struct nla_err *err);

/* An object of a file, and where it is, for messages: "" or "model." or "pre_tokenizer.pretokenizers[0].". */
struct nla_place {
	const char *path, *where;
	const cJSON *json;
};
/*
 * Fails on a field that is not in rules, or has another value than those honoured. rules: fields separated by ';', "key" or
 * "key=VALUE|VALUE", values being JSON texts, null also of a missing field; a first '*': other fields are fine.
 */
enum nla_status nla_place_check(const struct nla_place *p, const char *rules, struct nla_err *err);
enum nla_status nla_place_fail(const struct nla_place *p, const char *key, const char *want, struct nla_err *err);
bool nla_place_true(const struct nla_place *p, const char *key);
#define NLA_PLACE_BOOL "=true|false|null"

/* A copy of text is recognised as that token. */
void nla_added_push(struct nla_tokenizer *tok, const char *text, int32_t id, unsigned flags);
/* p: the token's object. */
enum nla_status nla_tokenizer_read_added(struct nla_tokenizer *tok, const struct nla_place *p, double id, struct nla_err *err);
/* The tokens of the 256 bytes, complete: if all have one. Metaspace: else an error. */
enum nla_status nla_tokenizer_find_bytes(struct nla_tokenizer *tok, bool *complete, struct nla_err *err);
