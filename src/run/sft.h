/*
 * sft - supervised training, for three roles:
 *
 *	lm   a small target from nothing: next-token cross-entropy on a corpus
 *	av   warm start of the verbalizer: cross-entropy on response tokens (end of turn included) given the row's vector
 *	ar   warm start of the reconstructor: mean mse of its prediction
 *
 * Before the first and every held_every steps a figure on held-out documents; for the AV also its loss when every row gets
 * another row's vector: the difference is what it reads from the vector; and its explanations of a few rows (log.probe).
 * Checkpoints hold model/, av/ or ar/ next to optimizer and counters.
 */
#pragma once

#include "run/loop.h"
#include "run/report.h"

struct nla_sft {
	struct nla_loop loop;          /* first: the loop's functions cast it back */
	const struct nla_config *cfg;
	struct nla_target target;
	struct nla_actset set;         /* roles av, ar */
	struct nla_split split;        /* of what is learnt from: rows of the set, or sequences (role lm) */
	struct nla_half half;          /* roles av, ar */
	struct nla_i32s ids;           /* of all sequences: text (lm), response and end of turn (av), AR prompt (ar) */
	struct nla_i64s offset;        /* [n + 1] sequence i is ids[offset[i] .. offset[i + 1]) */
	int64_t micro_batch;           /* rows a backward pass, 0: all */
	unsigned halved;               /* see nla_halve */
	bool recompute;                /* see lm/recompute.h */
	int64_t longest;               /* tokens of a sequence; roles av, ar */
	struct nla_sft_line line;      /* of the newest step */
};

enum nla_status nla_sft_open(struct nla_sft *s, const struct nla_config *cfg, struct nla_err *err);
void nla_sft_close(struct nla_sft *s);

/* sft_data.c: what is trained on, before the model is opened; then its sequences, without the rows that the model cannot read.
 */
enum nla_status nla_sft_load(struct nla_sft *s, struct nla_err *err);
enum nla_status nla_sft_encode(struct nla_sft *s, struct nla_err *err);
static inline int64_t nla_sft_length(const struct nla_sft *s, int64_t i) { return s->offset.data[i + 1] - s->offset.data[i]; }

/* sft_loss.c: mean loss of these rows; train: adds its gradient. vectors: whose vectors the rows get (role av). */
enum nla_status nla_sft_loss(struct nla_sft *s, const int64_t *rows, const int64_t *vectors, int64_t n, bool train,
			     double *loss, struct nla_err *err);
/* What that mean divides by: predicted tokens, or rows (role ar). */
int64_t nla_sft_weight(const struct nla_sft *s, const int64_t *rows, int64_t n);
