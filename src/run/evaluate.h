/*
 * evaluate - held-out rows -> FVE, tokens, failures; one sample a row, by the same sampler as training.
 *
 * Names: `fve` and `fve_meannorm` are of valid rows (as published sweeps count), `fve_all` and `fve_all_meannorm` (not in
 * metrics.jsonl) count failed rows at fail_mse; the share of failed rows stands beside them. An evaluation's baselines are those of
 * its own rows. A row's sample depends on (seed, data set row) alone.
 */
#ifndef NLA_EVALUATE_H
#define NLA_EVALUATE_H

#include "nla/actset.h"
#include "rl/score.h"
#include "run/config.h"

/* What one row came to; strings owned. Filled from sampling or from given texts. */
struct nla_eval_row {
	int64_t row;
	char *response, *explanation; /* or NULL */
	int32_t *ids;                 /* [n_response] */
	int64_t n_response, n_explanation;
	bool has_response;            /* given explanations have none */
	enum nla_failure failed;
	float mse;
	float *logprob, *ref_logprob; /* [n_response] or NULL */
};

struct nla_eval_result {
	int64_t n;
	struct nla_eval_row *rows; /* [n] */
	struct nla_baselines base;
	double seconds;
};

/* Who is evaluated. */
struct nla_evaluated {
	const struct nla_half *av;
	struct nla_view av_view; /* what samples: merged weights make it fast */
	const struct nla_half *ar;
	struct nla_view ar_view;
	const struct nla_actset *set;
	int64_t rows; /* decoded at once at most; 0: eval.batch */
};

/* Row numbers: `count` of the set's (0: all), chosen by a permutation that depends on the set's size only; ascending, owned. */
int64_t *nla_eval_rows(const struct nla_actset *set, int64_t count, int64_t *n);

/* Sample a response for each row and score it. label: of the progress line, NULL: none. */
enum nla_status nla_evaluate(const struct nla_evaluated *who, const int64_t *rows, int64_t n, const struct nla_config *cfg,
			     const char *label, struct nla_eval_result *out, struct nla_err *err);
/* Rows whose explanation, ids and failure are filled already: their mse. */
enum nla_status nla_evaluate_given(const struct nla_evaluated *who, struct nla_eval_result *r, double fail_mse, struct nla_err *err);
/* Log-probabilities of the responses under two views, into every row that has ids. */
enum nla_status nla_evaluate_logprob(const struct nla_evaluated *who, const struct nla_view *view, const struct nla_view *reference,
				     int64_t batch, double temperature, struct nla_eval_result *r, struct nla_err *err);
void nla_eval_result_release(struct nla_eval_result *r);

/* Summary numbers as JSON, and rows.jsonl (spec: commands). */
cJSON *nla_eval_summary(const struct nla_eval_result *r, const struct nla_config *cfg);
enum nla_status nla_eval_write_rows(const struct nla_eval_result *r, const struct nla_config *cfg, const char *path, struct nla_err *err);

#endif
