/*
 * loop - what surrounds a training step, the same for RL and for supervised training:
 *
 *	begin, evaluate
 *	until `steps` are made or a signal comes: step, evaluate when due, log, checkpoint when due
 *	checkpoint, evaluate
 *
 * A step's line is written before its checkpoint: a kill in between repeats the step, and never loses the line.
 *
 * Several loops, one a policy, run together: those that are furthest behind make a step each, in their order, until all are
 * done; then they make one each in every round.
 *
 * A run embeds a struct nla_loop as its first member, which its five functions cast back. Checkpoints hold what the loop itself
 * holds (counters, data cursor, optimizers) and what `save` adds.
 */
#pragma once

#include "lm/optim.h"
#include "nla/batch.h"
#include "run/folder.h"

struct nla_loop {
	const struct nla_config *cfg;
	const char *name;                /* of optim in a checkpoint */
	const char *who;                 /* of several loops: which, in what is said; NULL: the only one */
	const char *advice;              /* what to change when gradients stay bad */
	const char *next, *more;         /* the command after the last step, %s the folder; how to get more steps */
	int device;                      /* of the models */
	bool starved;                    /* it was said that other processes have the processors */
	int64_t eval_every;              /* steps; 0: at start and end only */
	enum nla_status (*begin)(struct nla_loop *l, struct nla_err *err);                 /* what a fresh run says first */
	enum nla_status (*step)(struct nla_loop *l, bool *skipped, struct nla_err *err);   /* one update */
	enum nla_status (*evaluate)(struct nla_loop *l, struct nla_err *err);              /* or NULL */
	enum nla_status (*log)(struct nla_loop *l, struct nla_err *err);                   /* of the step just made */
	enum nla_status (*save)(struct nla_loop *l, const char *dir, struct nla_err *err); /* models into a checkpoint */
	struct nla_cursor cursor;
	struct nla_optim optim, ar_optim; /* ar_optim.n 0: none */
	struct nla_folder folder;
	struct nla_state state;
	bool best;                       /* the newest evaluation is the best: its step gets a checkpoint that stays */
	int64_t saved, evaluated;        /* step of the newest checkpoint, and of this start's newest evaluation; -1: none */
	double step_seconds, eval_seconds, checkpoint_seconds; /* of this step; of checkpoints since the last line */
	bool idle, failed;               /* nothing was left to do; what is said is its failure */
	double started, eval_last;       /* the first step of this start; an evaluation's seconds */
	int64_t from;                    /* steps made before this start */
};

/* Opens the run folder, and restores what a checkpoint holds of the loop: cursor and optimizers are there already. */
enum nla_status nla_loop_open(struct nla_loop *l, bool fixed_steps, struct nla_err *err);
/* An optimizer over an adapter, and the AR's head where that is trained (or NULL). */
enum nla_status nla_loop_optim(struct nla_optim *optim, struct nla_adapter *adapter, nt_tensor *head, struct nla_err *err);
/* Of several: what is said from now on is this loop's, and in its log. */
void nla_loop_turn(struct nla_loop *l);
/* Runs n loops of as many steps. NLA_STOPPED: a signal came before all was done, which is saved. */
enum nla_status nla_loop_run(struct nla_loop *const *all, int64_t n, struct nla_err *err);
/* "  3 min 20 s left, until 14:32", for a step's line; owned. */
char *nla_loop_left(const struct nla_loop *l);
void nla_loop_close(struct nla_loop *l);
