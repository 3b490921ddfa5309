/*
 * train - what an RL run holds, and the parts of its step that are not a stage: the next batch, logs, evaluation, checkpoints.
 *
 * The weights of the target stand in memory once; adapters switch:
 *
 *	policy     = target + warm start + the adapter being trained
 *	reference  = target + warm start                     (the AV as it was at the start)
 *	AR         = target's first blocks + AR adapter
 *
 * A whole AV or AR has weights of its own in the target's place.
 *
 * Where the memory plan (run/plan.h) allows, copies with adapters merged in make it faster: `rollout` (decoding), and in fp32, where merging is exact to
 * rounding, `anchor` (warm start merged: the base of policy and reference) and `reader` (AR, while it is frozen).
 */
#ifndef NLA_TRAIN_H
#define NLA_TRAIN_H

#include "nla/batch.h"
#include "run/evaluate.h"
#include "run/folder.h"

enum nla_stage { NLA_STAGE_ROLLOUT, NLA_STAGE_SCORE, NLA_STAGE_UPDATE, NLA_STAGE_EVAL, NLA_STAGE_CHECKPOINT, NLA_N_STAGES };

/* One step's data, made stage by stage; nla_step_release frees it. */
struct nla_step {
	int64_t *rows;      /* [B] of the activation set */
	float *v;           /* [B, D] */
	uint32_t *keys;     /* [B*G] */
	struct nla_rollout rollout;
	struct nla_score score;
	double *reward, *penalty, *advantage; /* [B*G] */
	struct nla_update_stats stats;
	double ar_loss;
	bool skipped, ar_skipped; /* whose gradient was not finite */
	double seconds[NLA_N_STAGES];
};

struct nla_train {
	const struct nla_config *cfg;
	struct nla_target target;
	struct nla_half av;
	struct nla_half ar;
	struct nla_adapter adapter;      /* trained */
	struct nla_lm rollout_lm, anchor, reader;
	bool has_rollout, has_anchor, has_reader;
	struct nla_view policy, reference, sampler, ar_view;
	struct nla_actset set, eval_set;
	bool has_eval;
	struct nla_baselines base;       /* of the training set */
	struct nla_cursor cursor;
	struct nla_optim optim, ar_optim;
	struct nla_folder folder;
	struct nla_state state;
	int64_t ar_tokens;               /* of the AR's prompt around an empty explanation */
	int64_t room;                    /* bytes the plan may use */
	struct nla_plan plan;
	int64_t saved;                   /* step of the newest checkpoint */
	double checkpoint_seconds;       /* since the last line of metrics.jsonl */
};

/* cfg->check: without run folder and views. */
enum nla_status nla_train_open(struct nla_train *t, const struct nla_config *cfg, struct nla_err *err);
enum nla_status nla_train_views(struct nla_train *t, struct nla_err *err);
/* The sizes that its plan is made from. */
struct nla_plan_in nla_train_sizes(const struct nla_train *t);
void nla_train_close(struct nla_train *t);

/* The stages' inputs and outputs around the pure ones; in the order of a step. */
enum nla_status nla_train_batch(struct nla_train *t, struct nla_step *s, struct nla_err *err);
enum nla_status nla_train_rollout(struct nla_train *t, struct nla_step *s, struct nla_err *err);
enum nla_status nla_train_score(struct nla_train *t, struct nla_step *s, struct nla_err *err);
enum nla_status nla_train_reward(struct nla_train *t, struct nla_step *s, struct nla_err *err);
enum nla_status nla_train_update(struct nla_train *t, struct nla_step *s, struct nla_err *err);
/* A step's line stands before its checkpoint: a kill in between repeats the step, and never loses the line. */
enum nla_status nla_train_log(struct nla_train *t, struct nla_step *s, struct nla_err *err);
/* Too many gradients in a row that were not finite: a checkpoint of the last good state, and an error. */
enum nla_status nla_train_guard(struct nla_train *t, struct nla_err *err);
void nla_step_release(struct nla_step *s);

/* Evaluation into eval-STEP.json (and rows beside it); print: a line for people. No eval.data: nothing. */
enum nla_status nla_train_evaluate(struct nla_train *t, struct nla_step *s, struct nla_err *err);
enum nla_status nla_train_checkpoint(struct nla_train *t, struct nla_err *err);
/* The table before/after on stdout. */
enum nla_status nla_train_result(struct nla_train *t, struct nla_err *err);

/* One step's numbers as the line of metrics.jsonl. */
cJSON *nla_metrics_line(const struct nla_train *t, const struct nla_step *s);

#endif
