/*
 * tokenizer_bpe - byte-pair encoding: a vocabulary, and a list of merges that is run on one piece of text at a time. It knows
 * nothing of files.
 *
 *	nla_bpe_add_token(&bpe, "a.json", "ab", 2, 7, NLA_BPE_MODEL, err);    all tokens,
 *	nla_bpe_add_merge(&bpe, 0, a, b, ab);                                 then the merges in order of rank
 *	nla_bpe_work_add(&work, id); ...                                      the symbols of a piece: bytes or characters
 *	nla_bpe_merge(&bpe, &work, &ids);                                     its tokens
 */
#pragma once

#include <stdatomic.h>

#include "base/base.h"

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

struct nla_bpe {
	int32_t n, cap;               /* highest id + 1; ids may have holes */
	struct nla_bpe_token *tokens; /* [n] */
	struct nla_str text;
	int32_t *slots;               /* [n_slots] text -> id, open addressing by nla_hash; -1: free */
	size_t n_slots, n_tokens;
	struct nla_bpe_pair *pairs;   /* [n_pairs] (left, right) -> rank and merged token, open addressing */
	size_t n_pairs, n_merges;
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
