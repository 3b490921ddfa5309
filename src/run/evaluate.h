/*
 * evaluate - held-out rows -> FVE, tokens, failures; a row one sample or more, by the same sampler as training.
 *
 * An evaluation is a struct nla_step with G = 1, and the struct nla_rl that made it: the baselines in it become those of its
 * set, or of the evaluated rows (eval.baseline). A row's k-th sample depends on (seed, data set row, k) and on its vector; with
 * rl.another that is not its own (nla_actset_another), while the score is by its own: what the texts get without the vector.
 *
 *	int64_t n, *rows = nla_eval_rows(rl.set, cfg->eval.rows, &n);
 *	if (!nla_evaluate(&rl, rows, n, 1, cfg->eval.batch, &step, err))
 *		nla_eval_write_rows(&rl, &step, path, err);
 *	nla_step_release(&step);
 */
#pragma once

#include "run/folder.h"
#include "run/models.h"

/* Row numbers: `count` of the set's (0: all), chosen by a permutation that depends on the set's size only; ascending, owned. */
int64_t *nla_eval_rows(const struct nla_actset *set, int64_t count, int64_t *n);

/* Samples so many responses for each row, `batch` at a time, and scores them: out has n * samples rows, those of one adjacent.
 * Of ranks each does its share, and has that in out, until nla_step_join. A signal ends it between two batches: NLA_STOPPED. */
enum nla_status nla_evaluate(struct nla_rl *rl, const int64_t *rows, int64_t n, int64_t samples, int64_t batch,
			     struct nla_step *out, struct nla_err *err);
/* The explanations of a run's probe rows at step `at`, greedy, so that one can see them change: into its samples.jsonl, and
 * said. rl->ar NULL: without scores. */
enum nla_status nla_probe(const struct nla_rl *rl, const int64_t *rows, int64_t n, int64_t at, struct nla_folder *folder,
			  struct nla_err *err);
/* Scores the texts of nla-eval --score FILE.jsonl: {"row": i, "explanation": "..."} or {"row": i, "response": "..."} a line. A
 * line of a rows.jsonl serves as it is: its "ids" are scored instead of those that the tokenizer gives its text. Errors name
 * the line. */
enum nla_status nla_evaluate_given(struct nla_rl *rl, const char *path, struct nla_step *out, struct nla_err *err);
/* Log-probabilities of the responses under policy and reference, at the sampling temperature. *batch: responses at once, fewer
 * afterwards where memory ran out. */
enum nla_status nla_eval_logprob(struct nla_rl *rl, int64_t *batch, struct nla_step *s, struct nla_err *err);
/* s->kl [n, 2] of s->v_hat: see nla/recover.h; NaN where a row's text is not the one that its vector is from. */
enum nla_status nla_eval_recover(const struct nla_rl *rl, int64_t batch, struct nla_step *s, struct nla_err *err);
/* rows.jsonl. */
enum nla_status nla_eval_write_rows(const struct nla_rl *rl, const struct nla_step *s, const char *path, struct nla_err *err);
/* The numbers that all ranks have, owned; and an error where n rows are too few for each to have one. */
struct nla_i64s nla_eval_all_rows(const int64_t *rows, int64_t n);
enum nla_status nla_eval_need(int64_t n, struct nla_err *err);
/* Sets rl->base: as stored with the set (computed where it has none), or of these rows, with a warning where they are few. */
enum nla_status nla_eval_baselines(struct nla_rl *rl, const int64_t *rows, int64_t n, struct nla_err *err);
/* Where nearly all samples failed: what most of them failed by, which is warned of, with its likely cause and one's raw text,
 * unless it was `said` already. Else NLA_ROW_OK. */
enum nla_failure nla_warn_failed(const struct nla_step *s, enum nla_failure said);

/* Warns when rows of the set are of documents that a run trained on of which av or ar is a checkpoint, or one that such a run
 * began with, up to `depth` runs back. */
#define NLA_EVAL_WARN 3
void nla_eval_warn(const struct nla_actset *set, const char *av, const char *ar, int depth);

/* What nla-eval loads: models and set named by the configuration. */
struct nla_eval {
	struct nla_models models;
	struct nla_half ref;
	struct nla_adapter adapter;      /* what a run trained, over the AV at its start; layers == NULL: av is no run's */
	bool run, joined;                /* av is a run's, as the run had it; or it is away from the run, as one adapter */
	struct nla_state state;          /* that the run had; zeros: unknown */
	struct nla_actset set;
	struct nla_copies made;
	int64_t n, *rows;                /* to evaluate */
	struct nla_rl rl;                /* borrows the above */
};
enum nla_status nla_eval_open(struct nla_eval *e, const struct nla_config *cfg, struct nla_err *err);
/* s->mse_start [n]: by the AR of eval.start_ar, which takes the other's place, so that memory holds one. Texts that it alone
 * cannot read have reward.fail_mse. */
enum nla_status nla_eval_start_ar(struct nla_eval *e, const struct nla_config *cfg, struct nla_step *s, struct nla_err *err);
void nla_eval_close(struct nla_eval *e);
