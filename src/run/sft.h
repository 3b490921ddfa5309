/*
 * sft - supervised training, one loop for three roles:
 *
 *	lm   a small target from nothing: next-token cross-entropy on a corpus
 *	av   warm-start of the verbalizer: cross-entropy on response tokens (end-of-turn included) given the row's vector
 *	ar   warm-start of the reconstructor: mean mse of its prediction
 *
 * Every held_every steps a figure on held-out documents; for the AV also its loss when every row gets another row's vector: the
 * difference is what it reads from the vector. Checkpoints hold model/, av/ or ar/ beside optimizer and counters; --resume goes on.
 */
#ifndef NLA_SFT_H
#define NLA_SFT_H

#include "nla/batch.h"
#include "run/folder.h"

struct nla_sft {
	const struct nla_config *cfg;
	struct nla_target target;
	struct nla_actset set;         /* roles av, ar */
	struct nla_split split;
	struct nla_half av;
	struct nla_half ar;
	struct nla_i32s ids;           /* role lm: all sequences */
	struct nla_i64s offset;        /* role lm: [n + 1] */
	struct nla_i32s *responses;    /* role av: [n rows] ids of response + end of turn */
	struct nla_optim optim;
	struct nla_cursor cursor;
	struct nla_folder folder;
	struct nla_state state;
	int64_t micro_batch;           /* rows a backward pass, 0: all; recompute: see lm/recompute.h */
	bool recompute;
};

enum nla_status nla_sft_open(struct nla_sft *s, const struct nla_config *cfg, struct nla_err *err);
/* The loop: ends at cfg->steps, or after a step when stop is asked for; checkpoints at its end. */
enum nla_status nla_sft_run(struct nla_sft *s, struct nla_err *err);
void nla_sft_close(struct nla_sft *s);

/* How a response is written around an explanation: what the AV learns to write. Owned by the caller. */
char *nla_sft_response(const char *explanation);

#endif
