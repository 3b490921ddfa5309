#include "rl/reward.h"

double nla_reward_penalty(const struct nla_reward_row *row, const struct nla_reward_cfg *cfg)
{
	bool response = cfg->count == NLA_COUNT_RESPONSE || row->failed;
	int64_t over = (response ? row->n_response : row->n_explanation) - cfg->floor;
	return over > 0 ? cfg->lambda * (double)over : 0;
}

double nla_reward_value(const struct nla_reward_row *row, double baseline_var, const struct nla_reward_cfg *cfg)
{
	double mse = row->failed ? cfg->fail_mse : row->mse;
	double score = cfg->score == NLA_REWARD_FVE ? 1 - mse / baseline_var : -mse;
	return score - nla_reward_penalty(row, cfg);
}
