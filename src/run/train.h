/*
 * train - an RL run: what it loads, the memory plan and its merged copies, and the loop's four functions around a step.
 *
 * The weights of the target are in memory once; adapters switch:
 *
 *	policy     = target + warm start + the adapter being trained
 *	reference  = target + warm start                     (the AV as it was at the start)
 *	AR         = target's first blocks + AR adapter
 *
 * A whole AV or AR has weights of its own in the target's place.
 *
 * Where the memory plan (run/plan.h) allows, copies with adapters merged in make it faster: `anchor` (warm start merged: the
 * base of policy, sampler and reference), `reader` (AR, while it is frozen), and in fp32, where merging is exact to rounding,
 * `merged` (the policy, for decoding).
 */
#pragma once

#include <stdio.h>

#include "run/health.h"
#include "run/loop.h"
#include "run/models.h"

/* The algorithm: every stage in its order. */
typedef enum nla_status nla_one_step_fn(struct nla_rl *rl, struct nla_step *step, struct nla_err *err);

struct nla_train {
	struct nla_loop loop;            /* first: the loop's functions cast it back */
	const struct nla_config *cfg;
	nla_one_step_fn *one_step;
	struct nla_rl rl;                /* borrows all of: */
	struct nla_models models;
	struct nla_adapter adapter;      /* trained */
	struct nla_copies copies;
	struct nla_actset set, eval_set;
	bool has_eval;
	struct nla_step step;            /* the newest */
	unsigned eval_halved;            /* rl.halved of evaluations */
	int64_t made;                    /* steps since the start */
	struct nla_health health;
	enum nla_failure failed;         /* of nearly all responses of the newest step */
	int64_t ar_tokens;               /* of the AR's prompt around an empty explanation */
	int64_t room;                    /* bytes the plan may use */
	struct nla_plan plan;
};

/* cfg->check: without run folder and views. */
enum nla_status nla_train_open(struct nla_train *t, const struct nla_config *cfg, nla_one_step_fn *one_step,
			       struct nla_err *err);
/* Makes the copies that the plan allows, and fills rl. */
enum nla_status nla_train_views(struct nla_train *t, struct nla_err *err);
/* The sizes that its plan is made from. */
struct nla_plan_in nla_train_sizes(const struct nla_train *t);
/* A step under libtorch's profiler (profile.c): its trace to OUT/trace-STEP.json. */
enum nla_status nla_profiled_step(struct nla_train *t, struct nla_err *err);
/* The evaluations before and after, in words: a table and some explanations. Empty where they cannot be compared. */
void nla_train_result(const struct nla_train *t, struct nla_str *out);
void nla_train_close(struct nla_train *t);

/*
 * `nla-train --check` (check.c): is this configuration ready, and does it fit? Loads everything as a run would, which verifies
 * files and contracts; writes the memory plan to `out`, for this device or for one of `memory` bytes; makes one step of one
 * prompt, in memory alone. out ends in `go`, or in what to change. No file is written. An error (exit code 1) when it does not
 * fit; the others are those of loading.
 */
enum nla_status nla_check(const struct nla_config *cfg, nla_one_step_fn *one_step, FILE *out, struct nla_err *err);
