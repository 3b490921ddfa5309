/* Advantage: reward [B*G] -> advantage [B*G], group by group; see advantage.h. */
#include "rl/step.h"

void nla_mean_std(const double *x, int64_t n, double *mean, double *std)
{
	double sum = 0, sq = 0;
	for (int64_t i = 0; i < n; i++)
		sum += x[i];
	*mean = sum / (double)n;
	for (int64_t i = 0; i < n; i++)
		sq += (x[i] - *mean) * (x[i] - *mean);
	*std = n > 1 ? sqrt(sq / (double)(n - 1)) : 0;
}

bool nla_group_failed(const enum nla_failure *failed, int64_t group)
{
	for (int64_t i = 0; i < group; i++)
		if (!failed[i])
			return false;
	return true;
}

void nla_group_advantage(const double *reward, const enum nla_failure *failed, int64_t n_prompts, int64_t group, double min_std,
			 double *advantage)
{
	for (int64_t from = 0; from < n_prompts * group; from += group) {
		double mean, std;
		nla_mean_std(reward + from, group, &mean, &std);
		const bool rest = std < min_std || (failed && nla_group_failed(failed + from, group));
		for (int64_t i = from; i < from + group; i++)
			advantage[i] = rest ? 0 : (reward[i] - mean) / (std + 1e-6);
	}
}

double nla_within_group_std(const double *x, int64_t n_prompts, int64_t group)
{
	double total = 0;
	for (int64_t p = 0; p < n_prompts; p++) {
		double mean, std;
		nla_mean_std(x + p * group, group, &mean, &std);
		total += std;
	}
	return total / (double)n_prompts;
}

enum nla_status nla_advantage(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	nla_group_advantage(step->reward, step->failed, step->n_prompts, step->group, rl->min_std, step->advantage);
	return NLA_OK;
}
