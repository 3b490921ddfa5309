/*
 * step - the one struct that flows through a training step, and what a run holds for its stages. A stage is a file of its name
 * here:
 *
 *	batch      v [B, D]           the next B activations of the set
 *	rollout    B*G responses      the AV writes G for each
 *	score      mse [B*G]          the AR reads each explanation and predicts v
 *	reward     reward [B*G]       the score minus lambda a token
 *	advantage  advantage [B*G]    within a prompt's G
 *	update     the adapter        one AdamW step on the GRPO loss
 *
 * Each reads what the stages before it left in the step and adds its own part. Rollout and score alone, with G = 1 or on a
 * vector of another source, are an evaluation and an explanation:
 *
 *	struct nla_step step;
 *	nla_step_start(&step, 1, G, D);
 *	memcpy(step.v, v, D * sizeof(float));
 *	if (!nla_rollout(&rl, &step, err) && !nla_score(&rl, &step, err))
 *		use(step.explanation[0], step.mse[0]);
 *	nla_step_release(&step);
 *
 * Several policies, one a lambda, draw and are scored together, in a step whose prompts have G samples of the first, then G of
 * the second, and so on; nla_step_share gives each its own for the stages that follow.
 */
#pragma once

#include "lm/optim.h"
#include "nla/ar.h"
#include "nla/av.h"
#include "nla/batch.h"
#include "rl/advantage.h"
#include "rl/reward.h"
#include "rl/rollout.h"
#include "rl/score.h"
#include "rl/update.h"

enum nla_stage { NLA_STAGE_ROLLOUT, NLA_STAGE_SCORE, NLA_STAGE_UPDATE, NLA_STAGE_EVAL, NLA_STAGE_CHECKPOINT, NLA_N_STAGES };

extern const char *const nla_stage_names[NLA_N_STAGES];
extern const char *volatile nla_stage_now; /* its name, for a signal's handler; NULL: none is at work */

struct nla_step {
	int64_t n_prompts, group, n;     /* B, G, B*G: of this rank; sample i is of prompt i / G */
	int64_t n_all;                   /* samples of all ranks */
	/* batch */
	int64_t *rows;                   /* [B] of the activation set */
	int64_t *vector_of;              /* [B] an evaluation's: whose vectors the AV explains; NULL: the rows' own */
	float *v;                        /* [B, D] raw */
	uint32_t *keys;                  /* [B*G] which random numbers a sample draws; from 0 unless set */
	/* rollout */
	struct nla_decoded tokens;       /* [B*G, T] ids, the sampler's log-probabilities, own lengths */
	char **response;                 /* [B*G] text, special tokens shown */
	char **explanation;              /* [B*G] NULL: no tags */
	int64_t *n_explanation;          /* [B*G] tokens of the explanation alone */
	enum nla_failure *failed;        /* [B*G]; score may turn NLA_ROW_OK into a failure */
	/* score */
	float *mse;                      /* [B*G] */
	float *v_hat;                    /* [B*G, D] normalised, of rows that did not fail; NULL unless rl->keep_v_hat */
	/* reward, advantage */
	double *penalty, *reward, *advantage; /* [B*G] */
	/* update */
	const float *old;                /* [B*G, T] log-probabilities before the step; NULL: the update's own forward pass */
	struct nla_update_stats update;
	/* an evaluation's: log-probabilities under policy and reference, or NULL; the latter too of a step drawn together */
	float *logprob, *ref_logprob;    /* [B*G, T] */
	float *mse_start;                /* [B*G] by the AR that the run began with, or NULL */
	double *kl;                      /* [B*G, 2] of an evaluation: nats, of the reconstruction and of the mean vector */
	double seconds[NLA_N_STAGES], lap;
};

/* Everything is borrowed: copy it and change what differs. */
struct nla_rl {
	struct nla_rollout_cfg rollout;
	struct nla_reward_cfg reward;
	double min_std;                  /* advantage.min_std */
	struct nla_update_cfg update;
	const struct nla_half *av;
	const struct nla_half *ar;
	struct nla_view policy;          /* what is trained, or evaluated */
	struct nla_view reference;       /* the AV as it was at the start: anchor of the KL */
	struct nla_view sampler;         /* what decodes: the policy, or `merged` */
	struct nla_view ar_view;
	const struct nla_rl *const *of;  /* [n_of] the policies that draw together */
	int64_t n_of;                    /* 0: this one alone */
	struct nla_lm *merged;           /* gets the policy's adapters merged in before a rollout; NULL: none */
	struct nla_optim *optim, *ar_optim; /* ar_optim NULL: the AR is frozen */
	const struct nla_actset *set;
	struct nla_cursor *cursor;
	struct nla_baselines base;       /* of the set, or of the rows evaluated: */
	bool keep_v_hat;                 /* score keeps what the AR predicts */
	bool another;                    /* an evaluation explains other rows' vectors: nla_actset_another */
	bool own_baseline;               /* an evaluation is measured by its rows' variance, not by its set's */
	struct nla_rng rng;
	int64_t step;                    /* updates made: of the random numbers */
	int64_t score_tokens;            /* of a batch that the AR reads at once; 0: NLA_SCORE_TOKENS */
	unsigned halved;                 /* stages that ran out of memory, a bit each: nla_halve */
};

/* The stages, in the order of a step. */
enum nla_status nla_batch(struct nla_rl *rl, struct nla_step *step, struct nla_err *err);
enum nla_status nla_rollout(struct nla_rl *rl, struct nla_step *step, struct nla_err *err);
enum nla_status nla_score(struct nla_rl *rl, struct nla_step *step, struct nla_err *err);
enum nla_status nla_reward(struct nla_rl *rl, struct nla_step *step, struct nla_err *err);
enum nla_status nla_advantage(struct nla_rl *rl, struct nla_step *step, struct nla_err *err);
enum nla_status nla_update(struct nla_rl *rl, struct nla_step *step, struct nla_err *err);

/* Room for B prompts of width d and their G samples each. */
void nla_step_start(struct nla_step *s, int64_t n_prompts, int64_t group, int64_t d);
void nla_step_release(struct nla_step *s);
/* Of a finished step or evaluation: the samples of all ranks, in their order, but for vectors, keys and tokens.logprob. */
void nla_step_join(struct nla_step *s);
/* Its samples' places, those of a row together and in their order; the caller frees it. */
int64_t *nla_step_by_row(const struct nla_step *s);
/* Samples [from, from + n) of `part`, with their texts, become those from `at` on. */
void nla_step_take(struct nla_step *to, int64_t at, struct nla_step *part, int64_t from, int64_t n, int64_t d);
/* The share of the `which`th of n policies in a step of all of them: `to` is started, and takes its samples. */
void nla_step_share(struct nla_step *to, struct nla_step *all, int64_t which, int64_t n, int64_t d);
/* A stage begins, for profile and watchdog; and it ends: the time since the last end was its. */
void nla_step_begin(enum nla_stage stage);
void nla_step_lap(struct nla_step *s, enum nla_stage stage);
/* After a stage of batches of *batch (0: all of n): true when it ran out of memory, for the first time. Then its batches are
 * half as large from now on, which is said, and it is to be done again from its start. halved: of the run, a bit a stage. */
bool nla_halve(unsigned *halved, enum nla_stage stage, int64_t *batch, int64_t n, struct nla_err *err);
/* Samples [from, to) as nla_av_logprob wants them, borrowed; prompt_of [to - from] is filled. */
struct nla_responses nla_step_responses(const struct nla_step *s, int64_t from, int64_t to, int64_t d, int64_t *prompt_of);
/* Their log-probabilities under a view, without gradients: out [to - from, T]. */
enum nla_status nla_step_logprob(const struct nla_rl *rl, const struct nla_view *view, const struct nla_step *s, int64_t from,
				 int64_t to, float *out, struct nla_err *err);

/* Of a sample whose tokens are there: response, explanation, and whether that failed. */
enum nla_status nla_rollout_read(const struct nla_rl *rl, struct nla_step *step, int64_t i, struct nla_err *err);
/* Samples that have not failed: AR prompts, their vectors [n, D], their numbers [n]. One that the AR cannot read becomes a
 * failure. first [n]: only those that are their own; NULL: all. */
enum nla_status nla_score_texts(const struct nla_rl *rl, struct nla_step *step, const int64_t *first,
				struct nla_ar_texts *texts, struct nla_f32s *v, struct nla_i64s *row, struct nla_err *err);
/* The loss's gradient, added to the policy's trained parameters; fills step->update but for the optimizer's part. */
enum nla_status nla_update_gradient(struct nla_rl *rl, struct nla_step *step, struct nla_err *err);
/* Of policies that draw together: step->ref_logprob, their prompts computed once. Alone: nothing, the update has it. */
enum nla_status nla_reference(struct nla_rl *rl, struct nla_step *step, struct nla_err *err);
/* One step of the AR on mean mse of (text, v) pairs. */
enum nla_status nla_update_ar(struct nla_rl *rl, struct nla_step *step, const struct nla_ar_texts *texts, const float *v,
			      struct nla_err *err);
