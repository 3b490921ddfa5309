/*
 * rollout - the AV writes G responses for each of B activations: v [B, D] -> token ids [B*G, T], texts, explanations, why one
 * failed.
 *
 * Temperature is the only thing between the model and the sample: no top_p, top_k or penalty, in training or evaluation.
 * Lengths are counted to each row's own first stop token, which counts.
 */
#pragma once

#include "base/base.h"

enum nla_truncated { NLA_TRUNCATED_FAIL, NLA_TRUNCATED_SCORE };

struct nla_rollout_cfg {
	int64_t prompts, group; /* B, G */
	int64_t max_new_tokens, min_new_tokens;
	double temperature;
	int truncated; /* enum nla_truncated: a row without stop token fails, or is scored if its tags closed */
	int64_t rows;  /* decoded at once, 0: all; not an option: the memory plan says. Texts are the same for any value */
};

/* Why a row failed, in the order of the logs: enum, name there, meaning, what it likely comes from where nearly all do. A cause
 * is added here alone. */
#define NLA_FAILURES(X)                                                                                    \
	X(NLA_ROW_NO_TAGS, "no_tags", "the explanation tags are not there or not closed",                  \
	  "the AV had no warm start (nla-sft), or one of another template, chat format or system turn")    \
	X(NLA_ROW_EMPTY, "empty", "nothing between the tags",                                              \
	  "lambda is too large, or the warm start's explanations were empty")                              \
	X(NLA_ROW_TRUNCATED, "truncated", "no stop token within rollout.max_new_tokens",                   \
	  "rollout.max_new_tokens is too small, or the warm start too short to learn where texts end")     \
	X(NLA_ROW_OVER_LONG, "over_long", "the AR's prompt is too long", "rollout.max_new_tokens is too large") \
	X(NLA_ROW_MERGES, "merges", "the explanation's end and the AR template's are one token",           \
	  "the AR template's text behind {explanation} begins with neither space nor line break")          \
	X(NLA_ROW_UNREADABLE, "unreadable", "the explanation spells a token that the model has no embedding of",  \
	  "the tokenizer has added tokens beyond the model's vocabulary")                                  \
	X(NLA_ROW_NON_FINITE, "non_finite", "the score is not a finite number",                            \
	  "the AR's weights or the activations are too large for their type")

#define NLA_FAILURE_ENUM(id, name, meaning, likely) id,
enum nla_failure { NLA_ROW_OK, NLA_FAILURES(NLA_FAILURE_ENUM) NLA_N_FAILURES };
extern const struct nla_failure_text {
	const char *name, *meaning, *likely;
} nla_failures[NLA_N_FAILURES]; /* those of NLA_ROW_OK are NULL */
