/*
 * teach - a local instruct model writes the warm-start explanations of an activation set's rows.
 *
 *	texts --prompt, chat format--> ids --decode--> answers --clean--> explanations --> a new set: OUT
 *
 * A row's prompt is the template with the last tokens of its text; a batch of prompts shares what they begin with. Every answer is a line
 * of OUT/teach.jsonl, a batch at a time, behind a first line that says what was asked of whom:
 *
 *	{"row":7,"try":0,"tokens":41,"failed":null,"text":"A recipe for ...","left":63}
 *
 * left: answers of its batch that follow. What stands behind the last line with 0 is of a batch that was cut short, and a resumed run
 * asks for it again. The rows of try t are those that t answers did not serve, longest text first, so a resumed run goes through the same
 * batches as the uninterrupted one; an answer's random numbers depend on (seed, try, row), not on its batch.
 *
 * OUT is an activation set only at the end; the source set is never written to.
 */
#ifndef NLA_TEACH_H
#define NLA_TEACH_H

#include "base/file.h"
#include "nla/actset.h"
#include "lm/decode.h"
#include "nla/target.h"
#include "run/config.h"

/* Why an answer does not serve. Order is that of the summary. */
enum nla_unfit { NLA_ANSWER_OK, NLA_ANSWER_EMPTY, NLA_ANSWER_TAGS, NLA_ANSWER_TRUNCATED, NLA_N_UNFIT };
extern const char *const nla_unfit_names[NLA_N_UNFIT]; /* [0] is NULL */

struct nla_teach {
	const struct nla_config *cfg;
	struct nla_target teacher;
	struct nla_actset set;
	struct nla_log log;      /* OUT/teach.jsonl; locked, one program at a time */
	bool *asked;             /* [set.n] this run is to explain the row */
	int64_t *tries, *tokens; /* [set.n] answers so far; tokens of the one that is kept, the stop token included */
	char **explanation;      /* [set.n] or NULL */
	bool *served, *cut;      /* [set.n] by a whole answer; by a truncated one, so far */
	int64_t n_asked, n_kept, n_no_text;
	int64_t n_answers[NLA_N_UNFIT]; /* by what became of them, in earlier runs too */
	int64_t new_tokens, shown;      /* in this run */
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
/* The summary as one JSON object on stdout. */
void nla_teach_result(const struct nla_teach *t);

/* An answer's text, stripped, into *out (owned): the inside of its tags where it has a pair. Pure. */
enum nla_unfit nla_teach_clean(const char *answer, bool stopped, char **out);
/* Bytes up to the end of the last whole sentence; 0: there is none. Pure. */
size_t nla_teach_last_sentence(const char *text);

#endif
