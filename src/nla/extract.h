/*
 * extract - corpus -> activation set: the target's residual stream after block K at chosen tokens of each document.
 *
 * Positions are keyed by (seed, document): the same document gives the same positions in any corpus. Positions
 * below min_position are never chosen; a document that is too short gives no row. Batched: documents are rows of one pack.
 *
 * Ranks all read all documents and take turns at the batches, so the set is the same for any number of them; the first one
 * writes.
 *
 * `last` is for sets that hold texts and no vectors: each text is a row, taken at its last token, and keeps its explanation,
 * text and n_raw_tokens. A text of more than max_tokens gives no row: cut, it would end in another token.
 */
#pragma once

#include "nla/actset.h"
#include "text/corpus.h"
#include "nla/target.h"

struct nla_extract_cfg {
	int64_t layer, per_doc, min_position, max_tokens, next, max_rows; /* max_rows 0: no limit */
	uint64_t seed;
	bool last;
	bool special; /* special tokens in front of the texts, counted as the texts' own */
	/* or NULL: called after every document; returns false to stop: NLA_STOPPED, whole batches are written. */
	bool (*progress)(int64_t docs, int64_t rows, void *arg);
	void *arg;
};

struct nla_extract_count {
	int64_t docs, rows;      /* read, written */
	int64_t too_long;        /* last: texts left out */
	int64_t other_tokens;    /* last: rows whose text is another number of tokens here than their n_raw_tokens says */
	int64_t one_less;        /* last: of these, rows that have one less here */
};

/* Writes rows to w (NULL: on other ranks) until the corpus ends. count: of what a former start has written, whose documents are
 * passed over. Every batch leaves a mark that holds the counts. */
enum nla_status nla_extract(const struct nla_target *t, struct nla_corpus *corpus, const struct nla_extract_cfg *cfg,
			    struct nla_actset_writer *w, struct nla_extract_count *count, struct nla_err *err);
/* Those of the newest mark in the folder of an unfinished set; zeros without one. */
enum nla_status nla_extract_former(const char *folder, struct nla_extract_count *count, struct nla_err *err);
/* The activations v [n, D] after a block at n tokens of one text. */
enum nla_status nla_extract_at(const struct nla_target *t, const struct nla_i32s *ids, const int64_t *at, int64_t n,
			       int64_t block, float *v, struct nla_err *err);
