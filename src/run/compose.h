/*
 * compose - an explanation from a teacher's answer and what the row itself says: a template with slots.
 *
 *	{answer}  what the teacher wrote, its full stop dropped where the template goes on with one     once
 *	{end}     the last words of the row's text, in quotes
 *	{next}    the target's likeliest next tokens, in quotes
 *
 * How much of the end and of the next tokens a row quotes is drawn from 1 to the most, by (seed, row): an AV that has read short and long
 * explanations of one kind can be brought from one to the other by degrees.
 */
#ifndef NLA_COMPOSE_H
#define NLA_COMPOSE_H

#include "base/base.h"
#include "nla/actset.h"

#define NLA_SLOT_ANSWER "{answer}"
#define NLA_SLOT_END "{end}"
#define NLA_SLOT_NEXT "{next}"

struct nla_compose {
	const char *template;
	int64_t max_end, max_next; /* words, tokens */
	uint64_t seed;
};

/* {answer} once, the others at most once. */
enum nla_status nla_compose_check(const char *template, struct nla_err *err);
/* Owned by the caller. Pure. */
char *nla_compose(const struct nla_compose *c, const struct nla_row *row, int64_t number, const char *answer);

#endif
