/*
 * score - stage 2 of a step: the AR reads each explanation and predicts the vector.
 *
 *	mse = 2 (1 - cosine);  fve = 1 - mse / baseline_var;  fve_meannorm = 1 - mse / baseline_mean
 *
 * A failed row scores fail_mse (2: a prediction at a right angle).
 */
#ifndef NLA_SCORE_H
#define NLA_SCORE_H

#include "nla/ar.h"
#include "rl/rollout.h"

struct nla_baselines {
	double var, mean; /* of the data set: raw variance, mean-normalised */
};

#define NLA_SCORE_TOKENS 8192 /* of a batch that the AR reads at once, at most */

struct nla_score {
	int64_t n;
	float *mse, *cosine, *fve, *fve_meannorm; /* [n] */
};

/* Turns rows whose AR prompt does not fit or whose score is not finite into failures. */
enum nla_status nla_score(const struct nla_half *ar, const struct nla_view *view, struct nla_rollout *rollout, const struct nla_baselines *base,
			  double fail_mse, struct nla_score *out, struct nla_err *err);
/* Given texts: explanation[i] (NULL: failed already) against v [n, D]. */
enum nla_status nla_score_texts(const struct nla_half *ar, const struct nla_view *view, char *const *explanation, const float *v, int64_t n,
				enum nla_failure *failed, const struct nla_baselines *base, double fail_mse, struct nla_score *out,
				struct nla_err *err);
void nla_score_release(struct nla_score *s);

#endif
