/*
 * pack - many token rows as one sequence (nt_attention's token tree): no padding, and what rows share is stored once.
 *
 *	struct nla_pack p;
 *	nla_pack_init(&p);
 *	int64_t prompt = nla_pack_add(&p, prompt_ids, n, -1);
 *	int64_t a = nla_pack_add(&p, response_a, na, prompt), b = nla_pack_add(&p, response_b, nb, prompt);
 *	if (nla_pack_ready(&p, &lm, err)) ...
 *	hidden = nla_forward(...);                      [p.n, D]
 *	hidden row of the last token of a: nla_pack_last(&p, a)
 *	nla_pack_release(&p);
 */
#pragma once

#include "lm/lm.h"

struct nla_pack {
	struct nla_i64s ids, positions;
	struct nla_i64s start, length, parent; /* a row each */
	int64_t n, n_rows;
	/* made by nla_pack_ready, owned: */
	nt_tensor *ids_t;     /* [n] */
	nt_tensor *cos[2], *sin[2]; /* [n, d/2], as in struct nla_lm */
	nt_tree *tree;
};

void nla_pack_init(struct nla_pack *p);
/* Adds a row whose tokens follow the last token of `parent` (-1: none); returns its number. An empty row is its parent. */
int64_t nla_pack_add(struct nla_pack *p, const int32_t *ids, int64_t n, int64_t parent);
/* Index of a row's last token, and the position that would follow it. */
int64_t nla_pack_last(const struct nla_pack *p, int64_t row);
int64_t nla_pack_end(const struct nla_pack *p, int64_t row);
enum nla_status nla_pack_ready(struct nla_pack *p, const struct nla_lm *lm, struct nla_err *err);
void nla_pack_release(struct nla_pack *p);
