#include "rl/advantage.h"

#include <math.h>

static void moments(const double *x, int64_t n, double *mean, double *std)
{
	double sum = 0, sq = 0;
	for (int64_t i = 0; i < n; i++)
		sum += x[i];
	*mean = sum / (double)n;
	for (int64_t i = 0; i < n; i++)
		sq += (x[i] - *mean) * (x[i] - *mean);
	*std = sqrt(sq / (double)(n - 1));
}

enum nla_status nla_advantage(const double *reward, int64_t n_prompts, int64_t group, const struct nla_advantage_cfg *cfg,
			      double *advantage, struct nla_err *err)
{
	if (group < 2)
		return nla_usage(err, "rollout.group is %lld: an advantage needs at least 2 samples a prompt", (long long)group);
	for (int64_t p = 0; p < n_prompts; p++) {
		double mean, std;
		moments(reward + p * group, group, &mean, &std);
		for (int64_t i = p * group; i < (p + 1) * group; i++)
			advantage[i] = std < cfg->min_std ? 0 : (reward[i] - mean) / (std + 1e-6);
	}
	return NLA_OK;
}

double nla_within_group_std(const double *x, int64_t n_prompts, int64_t group)
{
	double total = 0;
	for (int64_t p = 0; p < n_prompts; p++) {
		double mean, std;
		moments(x + p * group, group, &mean, &std);
		total += std;
	}
	return total / (double)n_prompts;
}
