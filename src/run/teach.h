/*
 * teach - a local instruct model writes the warm-start explanations of an activation set's rows.
 *
 *	texts --prompt, chat format--> ids --decode--> answers --clean--> explanations --> a new set: OUT
 *
 * A batch of prompts shares what they begin with. Every answer is a line of OUT/teach.jsonl, a batch at a time, behind a first
 * line that holds the settings and the identity of the teacher and the set:
 *
 *	{"row":7,"try":0,"tokens":41,"failed":null,"text":"A recipe for ...","left":63}
 *
 * left: answers of its batch that follow. What follows the last line with 0 is of a batch that was cut short, and a
 * resumed run asks for it again. The rows of try t are those that t answers did not serve, longest text first, so a resumed run
 * has the same batches as an uninterrupted one; an answer's random numbers depend on (seed, try, row), not on its batch.
 *
 * OUT is an activation set only at the end; the source set is never written to.
 */
#pragma once

#include "base/file.h"
#include "nla/target.h"
#include "run/compose.h"
#include "run/config.h"

struct nla_teach {
	const struct nla_config *cfg;
	struct nla_target teacher;
	struct nla_actset set;
	struct nla_log log;        /* OUT/teach.jsonl; locked, one program at a time */
	struct nla_taught {
		bool asked;        /* this run is to explain the row */
		bool served, cut;  /* by a whole answer; by a truncated one, so far */
		int64_t tries;     /* answers so far */
		int64_t tokens;    /* of the one that is kept, the stop token included */
		char *explanation; /* or NULL */
	} *rows;                   /* [set.n] */
	int64_t n_asked, n_kept, n_no_text;
	int64_t n_answers[NLA_N_UNFIT]; /* by what became of them, in earlier runs too */
	int64_t new_tokens, shown;      /* in this run */
	int64_t at_once;                /* rows decoded together, 0: a batch's */
	unsigned halved;                /* see nla_halve */
	double started;
};

enum nla_status nla_teach_open(struct nla_teach *t, const struct nla_config *cfg, struct nla_err *err);
void nla_teach_close(struct nla_teach *t);
/* The rows of try number `try`, in the order they are asked: [*n], owned by the caller. */
int64_t *nla_teach_pending(const struct nla_teach *t, int64_t try, int64_t *n);
/* Ask about these rows once; the answers are in the log when it returns. */
enum nla_status nla_teach_batch(struct nla_teach *t, const int64_t *rows, int64_t n, struct nla_err *err);
/* Write the set. */
enum nla_status nla_teach_finish(struct nla_teach *t, struct nla_err *err);
/* The summary; owned by the caller. */
cJSON *nla_teach_summary(const struct nla_teach *t);
