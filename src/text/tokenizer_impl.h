/*
 * tokenizer_impl - what the tokenizer's own files share; nobody else includes it. In the order in which a text meets them:
 *
 *	tokenizer.c        the public calls: load, encode, decode
 *	tokenizer_json.c   tokenizer.json -> the structs below; refuses what is not honoured
 *	tokenizer_pre.c    its normaliser, pre-tokenisers and decoder
 *	tokenizer_fields.c reading its objects strictly
 *	tokenizer_config.c the files beside a byte-level tokenizer.json: refuses what transformers obeys and we do not
 *	tokenizer_native.c a sentencepiece .model -> the same structs; what tokenizer_config.json says of such a tokenizer
 *	tokenizer_added.c  text -> added tokens, and the text between them
 *	tokenizer_split.c  text -> NFC -> pieces, by the file's regexes
 *	tokenizer_vocab.c  token text <-> id, merges, which tokens merging can reach
 *	tokenizer_proto.c  vocabulary and scores -> sentencepiece's ModelProto
 *	tokenizer_bytes.c  bytes <-> GPT-2's alphabet, UTF-8
 */
#ifndef NLA_TOKENIZER_IMPL_H
#define NLA_TOKENIZER_IMPL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/json.h"
#include "text/tokenizer.h"
#include "shim/sp.h"

/* Ids from here on are refused: a score is an fp32 -rank, exact up to 2^24, and a wild id must not take all memory. */
#define NLA_TOK_MAX_ID (1 << 24)

/* ---- bytes: GPT-2's alphabet gives each of the 256 bytes a printable character; 188 stand for themselves ---- */

struct nla_tok_alphabet {
	char utf8[256][3];    /* byte -> its character, NUL-terminated, 1 or 2 bytes */
	uint8_t length[256];
	int16_t byte[0x180];  /* code point -> byte, or -1 */
};
void nla_tok_alphabet_init(struct nla_tok_alphabet *a);
/* The bytes that a token in the alphabet's spelling stands for, appended; one with any other character stands for itself. */
void nla_tok_unmap(const struct nla_tok_alphabet *a, const char *token, size_t n, struct nla_str *out);
/* Bytes before the first that is not valid UTF-8: n when all is well. */
size_t nla_tok_valid_utf8(const char *s, size_t n);
/* Append, each invalid sequence as U+FFFD: one for each longest prefix of a valid sequence (Unicode 3.9, table 3-8). */
void nla_tok_add_lossy(struct nla_str *out, const char *s, size_t n);

/* ---- vocabulary: ids may have holes ---- */

enum nla_tok_flag {
	NLA_TOK_USED = 1,    /* the id has a token                                               */
	NLA_TOK_MODEL = 2,   /* it is an entry of the file's model.vocab                         */
	NLA_TOK_WHOLE = 4,   /* merging the token's own text ends in the token: no need to merge */
	NLA_TOK_SPECIAL = 8, /* an added token marked special                                    */
	NLA_TOK_BYTE = 16,   /* <0x00> to <0xFF> of a sentencepiece model: stands for one byte   */
	NLA_TOK_ADDED = 32,  /* an added token: found before any merging                         */
};

struct nla_tok_vocab {
	int32_t n;         /* highest id + 1                     */
	int32_t cap;
	size_t *offset;    /* [n] into text                      */
	uint32_t *length;  /* [n]                                */
	uint8_t *flags;    /* [n] of enum nla_tok_flag           */
	struct nla_str text;
	int32_t *slots;    /* open addressing by nla_hash: id, -1 */
	size_t n_slots, n_used;
};
void nla_tok_vocab_release(struct nla_tok_vocab *v);
/* Fails on an id that is taken or out of range, and on a text that has an id. name: the file, for the message. */
enum nla_status nla_tok_vocab_add(struct nla_tok_vocab *v, const char *name, const char *text, size_t n, int64_t id,
				  uint8_t flags, struct nla_err *err);
int32_t nla_tok_vocab_id(const struct nla_tok_vocab *v, const char *text, size_t n); /* -1: none */
const char *nla_tok_vocab_text(const struct nla_tok_vocab *v, int32_t id, size_t *n); /* borrowed; NULL: a hole */

struct nla_tok_merge {
	int32_t left, right, result;
};
/* The file's merges in order of rank, looked up by pair. Only needed while loading. */
struct nla_tok_merges {
	struct nla_tok_merge *data;
	int32_t n, cap;
	int32_t *slots;
	size_t n_slots;
};
void nla_tok_merges_push(struct nla_tok_merges *m, struct nla_tok_merge merge);
void nla_tok_merges_release(struct nla_tok_merges *m);
/* Sets rank[id] of every id below v->n to the rank of the merge that makes it, 0 for a single byte's token, or -1 when merging
 * never makes it; and sets NLA_TOK_WHOLE. */
void nla_tok_reach(struct nla_tok_vocab *v, struct nla_tok_merges *m, const struct nla_tok_alphabet *a, int32_t *rank);
/* The ModelProto, appended: piece id + 1 for id. Tokens of rank -1 cannot be met, but the bytes, which a character without a
 * piece falls back on. */
void nla_tok_proto(const struct nla_tok_vocab *v, const int32_t *rank, struct nla_str *out);

/* ---- added tokens ---- */

struct nla_tok_added {
	char *text;  /* owned */
	size_t n;
	int32_t id;
	bool single_word, lstrip, rstrip, normalized;
};
/* Tokens to look for in one pass, the longest first where two begin alike. */
struct nla_tok_added_set {
	struct nla_tok_added *data;
	size_t n, cap;
	size_t first[257]; /* data[first[b] .. first[b + 1]) begin with byte b */
};
void nla_tok_added_push(struct nla_tok_added_set *set, struct nla_tok_added token);
void nla_tok_added_sort(struct nla_tok_added_set *set);
void nla_tok_added_release(struct nla_tok_added_set *set);
/* The next token at or after `from`: its index in set->data and its place, or -1. single_word is already applied. */
ptrdiff_t nla_tok_added_find(const struct nla_tok_added_set *set, const char *text, size_t n, size_t from, size_t *at);
size_t nla_tok_spaces_before(const char *text, size_t at);          /* bytes of white space that end at `at`    */
size_t nla_tok_spaces_after(const char *text, size_t n, size_t at); /* bytes of white space that begin at `at`  */

/* ---- splits ---- */

#define NLA_TOK_MAX_SPLITS 8

struct nla_tok_split {
	char *pattern;    /* owned; as translated for PCRE2 */
	pcre2_code *code;
};
enum nla_status nla_tok_split_compile(struct nla_tok_split *s, const char *name, const char *regex, struct nla_err *err);
void nla_tok_split_release(struct nla_tok_split *s);

/* A split at work: the scratch memory of one encode call. */
struct nla_tok_matcher {
	const struct nla_tok_split *split;
	pcre2_match_data *data;
	pcre2_match_context *context;
};
void nla_tok_matcher_init(struct nla_tok_matcher *m, const struct nla_tok_split *split);
void nla_tok_matcher_release(struct nla_tok_matcher *m);
/* The next match at or after `from`, never empty; *start == *stop == n when there is none. Text must be valid UTF-8. */
enum nla_status nla_tok_matcher_next(struct nla_tok_matcher *m, const char *text, size_t n, size_t from, size_t *start,
				     size_t *stop, struct nla_err *err);
/* A letter or number that Unicode 15 or 16 has added, which Debian's libraries do not know. */
bool nla_tok_is_new(uint32_t cp);
/* Append text in normal form C (utf8proc). Text must be valid UTF-8. */
enum nla_status nla_tok_nfc(const char *text, size_t n, struct nla_str *out, struct nla_err *err);

/* ---- a tokenizer.json's objects ---- */

/* An object and where it stands, for messages. */
struct nla_tok_place {
	const char *path;
	const char *where; /* "" or "model." or "pre_tokenizer.pretokenizers[0]." */
	const cJSON *json;
};

struct nla_tok_rule {
	const char *key;
	const char *want; /* '|'-separated JSON texts, null also standing for a missing field; NULL: read elsewhere */
};

enum nla_status nla_tok_fail_field(const struct nla_tok_place *p, const char *key, const char *want, struct nla_err *err);
enum nla_status nla_tok_check(const struct nla_tok_place *p, const struct nla_tok_rule *rules, size_t n, struct nla_err *err);
enum nla_status nla_tok_read_bool(const struct nla_tok_place *p, const char *key, bool def, bool *out, struct nla_err *err);
const char *nla_tok_type(const struct nla_tok_place *p); /* "" when there is none */

/* ---- the whole ---- */

/* Where a metaspace tokenizer puts its U+2581 (a text that begins with one gets none, but for PREPEND). */
enum nla_tok_prefix {
	NLA_TOK_NEVER,
	NLA_TOK_FIRST,   /* at the beginning of the text          */
	NLA_TOK_ALWAYS,  /* also behind each added token          */
	NLA_TOK_PREPEND, /* the same, and whatever the text is    */
};

struct nla_tokenizer {
	char *path;
	sp_model *sp;
	uint32_t crc;
	struct nla_tok_alphabet alphabet;
	struct nla_tok_vocab vocab;
	bool metaspace;                 /* of sentencepiece's kind; else byte-level: alphabet, nfc, ignore_merges, splits */
	enum nla_tok_prefix prefix;     /* metaspace */
	bool strip_first;               /* metaspace: a decoded text loses the space that prefix has put in front */
	bool nfc, ignore_merges;
	bool has_byte[256];             /* a byte without a token leaves no trace in the ids, as in the reference */
	struct nla_tok_split splits[NLA_TOK_MAX_SPLITS]; /* each cuts the pieces of the one before */
	size_t n_splits;
	struct nla_tok_added_set added[2]; /* looked for in the raw text, and then in the normalised text */
};

/* Everything but sp, from tokenizer.json or a sentencepiece model; the serialised ModelProto is appended to proto. */
enum nla_status nla_tok_read_json(struct nla_tokenizer *tok, struct nla_str *proto, struct nla_err *err);
enum nla_status nla_tok_read_native(struct nla_tokenizer *tok, struct nla_str *proto, struct nla_err *err);

enum nla_status nla_tok_read_pipeline(struct nla_tokenizer *tok, const cJSON *json, struct nla_err *err);
enum nla_status nla_tok_read_added_token(struct nla_tokenizer *tok, const struct nla_tok_place *p, const cJSON *number,
					 struct nla_err *err);
enum nla_status nla_tok_check_beside(const struct nla_tokenizer *tok, struct nla_err *err);
uint32_t nla_tok_crc(const struct nla_tokenizer *tok, const struct nla_tok_merges *merges);
/* Metaspace: mark the 256 byte tokens; what tokenizer_config.json says; rank of each piece, from merges or (NULL) from ids. */
enum nla_status nla_tok_find_bytes(struct nla_tokenizer *tok, struct nla_err *err);
enum nla_status nla_tok_llama_config(struct nla_tokenizer *tok, struct nla_err *err);
enum nla_status nla_tok_rank_pieces(struct nla_tokenizer *tok, const struct nla_tok_merges *merges, int32_t *rank,
				    struct nla_err *err);

#endif
