/*
 * health - whether a run learns, by what its log lines say: each sickness of a table is warned of once, with what to do.
 *
 *	nla_health_check(&health, cfg, line, err);        after each step, of its line of metrics.jsonl
 *
 * A line gets the names of those that last, as `warnings`. One that `guard` names is an error, which ends the run; the newest
 * checkpoint from before it began is kept.
 */
#pragma once

#include <cjson/cJSON.h>

#include "run/config.h"

#define NLA_HEALTH_N 8
#define NLA_HEALTH_NAMES "entropy, kl, kl_clamped, length, groups_failed, groups_tied, sampler_gap, ar"

struct nla_health {
	int64_t steps[NLA_HEALTH_N]; /* in a row, of each */
	bool said[NLA_HEALTH_N];
};

enum nla_status nla_health_check(struct nla_health *h, const struct nla_config *cfg, cJSON *line, struct nla_err *err);
/* What the lines of a run's metrics.jsonl so far have counted and warned of: a resumed run continues as one that never
 * stopped. */
enum nla_status nla_health_resume(struct nla_health *h, const struct nla_config *cfg, const char *metrics, struct nla_err *err);
/* The last step before any that `guard` names and that holds at `step` began; INT64_MAX: none does. */
int64_t nla_health_good(const struct nla_health *h, const struct nla_config *cfg, int64_t step);
/* NLA_USAGE: `guard` names what is none, or (trains) what the run has no number for. */
enum nla_status nla_health_guard(const struct nla_config *cfg, bool trains, struct nla_err *err);
