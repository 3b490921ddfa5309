/*
 * advantage - how much better than its siblings: within a prompt's G samples (Shao et al. 2024, GRPO)
 *
 *	A = (r - mean) / (std + 1e-6),  std with G - 1;  a group with std below min_std gets 0
 */
#ifndef NLA_ADVANTAGE_H
#define NLA_ADVANTAGE_H

#include "base/base.h"

struct nla_advantage_cfg {
	double min_std;
};

/* Pure. reward, advantage [n_prompts * group]; group 1 is an error. */
enum nla_status nla_group_advantage(const double *reward, int64_t n_prompts, int64_t group, const struct nla_advantage_cfg *cfg,
				    double *advantage, struct nla_err *err);
/* Mean and standard deviation with n - 1; of less than two numbers the deviation is 0. */
void nla_mean_std(const double *x, int64_t n, double *mean, double *std);
/* Mean over groups of the standard deviation of x within a group. */
double nla_within_group_std(const double *x, int64_t n_prompts, int64_t group);

#endif
