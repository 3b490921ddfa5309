/*
 * advantage - how much better than its siblings: within a prompt's G samples (Shao et al. 2024, GRPO)
 *
 *	A = (r - mean) / (std + 1e-6),  std with G - 1;  a group with std below min_std gets 0
 *
 * So does a group without a valid row: its rewards differ by length alone, and the division by std would make any lambda,
 * however small, pull at full strength towards the shortest failure.
 */
#pragma once

#include "rl/rollout.h"

/* Pure. reward, failed (NULL: none), advantage [n_prompts * group], group at least 2. */
void nla_group_advantage(const double *reward, const enum nla_failure *failed, int64_t n_prompts, int64_t group, double min_std,
			 double *advantage);
/* Of one group: has it no valid row? */
bool nla_group_failed(const enum nla_failure *failed, int64_t group);
/* Mean and standard deviation with n - 1; of less than two numbers the deviation is 0. */
void nla_mean_std(const double *x, int64_t n, double *mean, double *std);
/* Mean over groups of the standard deviation of x within a group. */
double nla_within_group_std(const double *x, int64_t n_prompts, int64_t group);
