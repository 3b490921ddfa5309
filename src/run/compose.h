/*
 * compose - the texts around a teacher's answer: its prompt, what of the answer serves, the explanation made of it. Pure.
 *
 *	teach.prompt       {text}    the last tokens of the row's text                                         once
 *	                   {next}    the target's likeliest next tokens, in quotes
 *	teach.explanation  {answer}  what the teacher wrote, its full stop dropped where the template has one  once
 *	                   {end}     the last words of the row's text, in quotes
 *	                   {next}    as above, white space in front of each taken off
 *
 * How much of the end and of the next tokens an explanation quotes is drawn from 1 to the most, by (seed, row): an AV that has
 * read short and long explanations of one kind can be brought from one to the other by degrees.
 */
#pragma once

#include "nla/actset.h"

#define NLA_SLOT_NEXT "{next}"

/* Of teach.prompt, teach.explanation: the slot that is wanted once, then those that may be absent; NULL behind the last. */
extern const char *const nla_prompt_slots[], *const nla_explanation_slots[];
enum nla_status nla_slots_check(const char *key, const char *template, const char *const *slots, struct nla_err *err);

struct nla_compose {
	const char *template;
	int64_t max_end, max_next; /* words, tokens */
	uint64_t seed;
};

/* All returned texts are owned by the caller. */
char *nla_compose_prompt(const char *template, const struct nla_row *row, const char *text);
char *nla_compose(const struct nla_compose *c, const struct nla_row *row, int64_t number, const char *answer);

/* Why an answer does not serve. Order is that of the summary. */
enum nla_unfit { NLA_ANSWER_OK, NLA_ANSWER_EMPTY, NLA_ANSWER_TAGS, NLA_ANSWER_TRUNCATED, NLA_N_UNFIT };
/* An answer's text, stripped, into *out: the inside of its tags where it has a pair. */
enum nla_unfit nla_answer_clean(const char *answer, bool stopped, char **out);
/* Bytes up to the end of the last whole sentence; 0: there is none. */
size_t nla_last_sentence(const char *text);
bool nla_has_tag(const char *text); /* one of those around an explanation */
