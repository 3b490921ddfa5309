/*
 * ranks - the processes that make one run together (data parallel): each has all weights, and a share of a batch's rows.
 *
 *	nla_share(n, nla_rank(), &from, &to);              rows from..to of n are this rank's
 *	...                                                its part of a sum over all n
 *	nla_ranks_sum(&loss, 1);                           the whole, on every rank
 *
 * Random numbers are keyed by the row's number among all, and every mean divides by all rows, so the number of ranks changes
 * the order of sums and nothing else. All ranks call these in the same order. A call that cannot be completed ends the process
 * (shim/nt.h): none of them fails. One process alone is rank 0 of 1, where they change nothing.
 */
#pragma once

#include "base/base.h"
#include "shim/nt.h"

int64_t nla_rank(void);
int64_t nla_n_ranks(void);
/* r: an open one's; NULL: alone again. */
void nla_ranks_set(const struct nt_ranks *r);
/* GPUs of several ranks make a first sum, at which NCCL takes memory of its own: before what is free is read. */
nt_status nla_ranks_start(int device);

/* The rows [from, to) of n that are a rank's. */
void nla_share(int64_t n, int64_t rank, int64_t *from, int64_t *to);
static inline int64_t nla_most(int64_t n) { return (n + nla_n_ranks() - 1) / nla_n_ranks(); } /* that one of them has */
/* Over all ranks, in their order: the same bits on each. */
void nla_ranks_sum(double *x, int64_t n);
bool nla_ranks_any(bool x);
int64_t nla_ranks_least(int64_t x);
/* Becomes that of rank 0. */
void nla_ranks_copy(void *x, size_t bytes);
void nla_ranks_copy_str(struct nla_str *s);
/* Becomes what all ranks have, one after the other; start [ranks + 1] (or NULL): where each one's begins. */
void nla_ranks_gather(struct nla_str *s, size_t *start);
void nla_ranks_gather_i64(struct nla_i64s *a);
void *nla_ranks_whole(void *part, size_t bytes); /* the same of an array, whose place it takes; NULL stays, on all ranks */
