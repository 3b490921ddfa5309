/*
 * report - every number of every log, computed once and named once: a row of report.c is a field's key, its value and its
 * meaning. The same rows make the lines and their documentation (tests/tools/log_keys.c prints what docs/formats.md holds; a
 * test compares).
 */
#pragma once

#include <cjson/cJSON.h>

#include "rl/step.h"
#include "run/folder.h"

/* One step of supervised training; held_loss is NaN between the held-out figures. */
struct nla_sft_line {
	int role;                        /* enum nla_role */
	double loss, grad_norm, lr, seconds;
	struct nt_reduced reduced;
	bool held;
	double held_loss, held_loss_other_vector;
	struct nla_baselines base;       /* role ar; NaN: the set has none */
};

/* A step's line of metrics.jsonl; state is after the step. */
cJSON *nla_report_step(const struct nla_rl *rl, const struct nla_step *s, const struct nla_state *state);
cJSON *nla_report_sft(const struct nla_sft_line *line, const struct nla_state *state);
/* Sample i of a step: a line of samples.jsonl. */
cJSON *nla_report_sample(const struct nla_rl *rl, const struct nla_step *s, int64_t step, int64_t i);
/* An evaluation: its summary, and row i, a line of rows.jsonl. */
cJSON *nla_report_eval(const struct nla_rl *rl, const struct nla_step *s);
cJSON *nla_report_row(const struct nla_rl *rl, const struct nla_step *s, int64_t i);
/* NULL, or gets each row that is written, in their order; rows that only some lines have are written then, too. */
extern void (*nla_report_meaning)(const char *key, const char *meaning);
