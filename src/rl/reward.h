/*
 * reward - what a row earns:
 *
 *	reward = score - lambda max(0, n - floor)
 *
 * score: fve (lambda in FVE a token) or -mse, as the published sweep (its 0.002 is 0.002 / 0.67 in FVE units).
 * n: tokens of the response with its stop token, or of the explanation alone. A failed row has no explanation to count: there n
 * is the response's: at equal length failing never costs less than explaining. (A lambda so large that the shortest explanation
 * costs more than it earns still makes failing at once the better choice; see docs/mathematics.md.)
 */
#pragma once

#include "base/base.h"

enum nla_reward_score { NLA_REWARD_FVE, NLA_REWARD_NEG_MSE };
enum nla_reward_count { NLA_COUNT_RESPONSE, NLA_COUNT_EXPLANATION };

struct nla_reward_cfg {
	int score; /* enum nla_reward_score */
	double lambda;
	int64_t floor;
	int count; /* enum nla_reward_count */
	double fail_mse;
};

struct nla_reward_row {
	double mse; /* ignored when failed */
	int64_t n_response, n_explanation;
	bool failed;
};

/* Pure. */
double nla_reward_penalty(const struct nla_reward_row *row, const struct nla_reward_cfg *cfg);
double nla_reward_value(const struct nla_reward_row *row, double baseline_var, const struct nla_reward_cfg *cfg);
