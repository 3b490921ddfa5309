/*
 * evalgiven - the rows of nla-eval --score FILE.jsonl: {"row": i, "explanation": "..."} or {"row": i, "response": "..."} a line. A line
 * of a rows.jsonl does as it is: its "ids" are scored instead of those that the tokenizer gives its text.
 */
#ifndef NLA_EVALGIVEN_H
#define NLA_EVALGIVEN_H

#include "run/evaluate.h"

/* Rows with texts, ids (of responses) and failures filled, for nla_evaluate_given and nla_evaluate_logprob. Errors name the line.
 * truncated: what becomes of ids that end in no stop token (rl/rollout.h). */
enum nla_status nla_eval_read_given(const struct nla_half *av, const struct nla_actset *set, const char *path, int truncated,
				    struct nla_eval_result *r, struct nla_err *err);

#endif
