/* Reward: mse and token counts [B*G] -> penalty and reward [B*G]; see reward.h. */
#include "rl/step.h"

double nla_reward_penalty(const struct nla_reward_row *row, const struct nla_reward_cfg *cfg)
{
	bool response = cfg->count == NLA_COUNT_RESPONSE || row->failed;
	int64_t over = (response ? row->n_response : row->n_explanation) - cfg->floor;
	return over > 0 ? cfg->lambda * (double)over : 0;
}

double nla_reward_value(const struct nla_reward_row *row, double baseline_var, const struct nla_reward_cfg *cfg)
{
	double mse = row->failed ? cfg->fail_mse : row->mse;
	double score = cfg->score == NLA_REWARD_FVE ? nla_fve(mse, baseline_var) : -mse;
	return score - nla_reward_penalty(row, cfg);
}

enum nla_status nla_reward(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	for (int64_t i = 0; i < step->n; i++) {
		struct nla_reward_row row = { step->mse[i], step->tokens.length[i], step->n_explanation[i],
					      step->failed[i] != NLA_ROW_OK };
		step->penalty[i] = nla_reward_penalty(&row, &rl->reward);
		step->reward[i] = nla_reward_value(&row, rl->base.var, &rl->reward);
	}
	return err->status;
}
