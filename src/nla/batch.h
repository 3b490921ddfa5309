/*
 * batch - which rows come next, and which rows are held out. All of it is arithmetic on (seed, document ids): no state but a
 * cursor.
 *
 * Split: a document is held out when its hash, keyed by the seed, falls below the fraction; all rows of a document go the same
 * way. Order: epoch e visits the rows in permutation(seed, e); the cursor is the count of rows handed out since the start.
 */
#pragma once

#include "nla/actset.h"

struct nla_split {
	int64_t *train, *held; /* row numbers, ascending; owned */
	int64_t n_train, n_held;
};
/* held_fraction in [0,1). Error when either side would be empty (held may be empty when the fraction is 0). */
enum nla_status nla_split_by_doc(struct nla_split *split, const struct nla_actset *set, uint64_t seed, double held_fraction,
				 struct nla_err *err);
void nla_split_release(struct nla_split *split);
/* Are rows of the set of documents that that folder's set has too, in its first NLA_SHARED_ROWS rows? False without such a
 * set. */
#define NLA_SHARED_ROWS 100000
bool nla_shares_docs(const struct nla_actset *eval, const char *folder);
/* An error naming a document that both sets hold. */
enum nla_status nla_disjoint_docs(const struct nla_actset *train, const struct nla_actset *eval, struct nla_err *err);

struct nla_cursor {
	uint64_t seed;
	int64_t n;        /* rows in an epoch */
	int64_t *order;   /* [n] of the current epoch */
	int64_t epoch;    /* of order; -1: none yet */
	int64_t position; /* rows handed out since the start: the whole state */
};
void nla_cursor_init(struct nla_cursor *c, uint64_t seed, int64_t n);
void nla_cursor_release(struct nla_cursor *c);
/* The next `count` indices in [0, n), across epochs. */
void nla_cursor_next(struct nla_cursor *c, int64_t count, int64_t *out);
