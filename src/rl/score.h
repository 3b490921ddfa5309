/*
 * score - the AR reads each explanation and predicts the vector: texts [B*G] -> mse [B*G]
 *
 *	mse = 2 (1 - cosine);  fve = 1 - mse / baseline
 *
 * A failed row scores fail_mse (2: a prediction at a right angle).
 */
#pragma once

#define NLA_SCORE_TOKENS 8192 /* of a batch that the AR reads at once, at most */

/* What fve and fve_meannorm divide by: raw variance, and around the normalised mean. */
struct nla_baselines {
	double var, mean;
};

static inline double nla_fve(double mse, double baseline) { return 1 - mse / baseline; }
static inline double nla_cosine(double mse) { return 1 - mse / 2; }
