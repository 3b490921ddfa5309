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
 * Several lambdas make as many policies: what is above stands once, and each has its adapter, its optimizer and its run folder
 * (a co-trained AR is one adapter a policy). A step draws and scores the samples of all as one batch; then each learns from its
 * own, as in a run of its own.
 *
 * Where the memory plan (run/plan.h) allows, copies with adapters merged in make it faster: `anchor` (warm start merged: the
 * base of policy, sampler and reference), `reader` (AR, while it is frozen), and in fp32, where merging is exact to rounding,
 * `merged` (the policy, for decoding).
 */
#pragma once

#include "run/health.h"
#include "run/loop.h"
#include "run/models.h"

/* The algorithm, every stage in its order: what policies do together, and what each does with its own samples. */
typedef enum nla_status nla_stages_fn(struct nla_rl *rl, struct nla_step *step, struct nla_err *err);
struct nla_algorithm {
	nla_stages_fn *draw, *learn;
};

/* What is trained with one lambda: a run of its own, with a folder of its own. */
struct nla_policy {
	struct nla_loop loop;            /* first: the loop's functions cast it back */
	struct nla_train *train;         /* what it shares with the others */
	struct nla_config cfg;           /* the train's, but for: lambdas and out, owned, and the lambda in reward */
	char *who;                       /* "lambda 0.002"; NULL: the only one */
	struct nla_rl rl;                /* borrows all of it */
	struct nla_adapter adapter;      /* trained */
	struct nla_copies copies;        /* the first has those that all share */
	struct nla_half *ar, own_ar;     /* the models' AR, or, trained, one of its own over the same weights */
	struct nla_step step;            /* the newest */
	int64_t share;                   /* which of those that have drawn together, from 1, and has yet to learn; 0: none */
	struct nla_rl eval;              /* as evaluations have it: what memory left of them must not limit the steps */
	int64_t eval_batch;              /* log-probabilities at once */
	int64_t made;                    /* steps since the start */
	struct nla_health health;
	enum nla_failure failed;         /* of nearly all responses of the newest step */
};

struct nla_train {
	const struct nla_config *cfg;
	const struct nla_algorithm *algorithm;
	struct nla_models models;
	struct nla_actset set, eval_set;
	bool has_eval;
	int64_t n, n_wanted;             /* policies that train together; lambdas from the first one's on */
	struct nla_policy *policies;     /* [n_wanted], of which n are open */
	struct nla_loop **loops;         /* [n] theirs */
	struct nla_step drawn;           /* by n_drawn of them together */
	int64_t n_drawn;
	int64_t ar_tokens;               /* of the AR's prompt around an empty explanation */
	int64_t room;                    /* bytes the plan may use */
	struct nla_plan plan;
};

/* As many of cfg's lambdas, from number `from` on, as fit into memory together. cfg->check: without run folder and views. */
enum nla_status nla_train_open(struct nla_train *t, const struct nla_config *cfg, const struct nla_algorithm *algorithm,
			       int64_t from, struct nla_err *err);
/* policies.c: the lambdas' configurations; what each trains; its copies and rl, as the plan allows. */
void nla_policies_init(struct nla_train *t, int64_t from);
enum nla_status nla_policy_open(struct nla_policy *p, const struct nla_lora_spec *spec, struct nla_err *err);
enum nla_status nla_train_views(struct nla_train *t, struct nla_err *err);
void nla_policies_release(struct nla_train *t);
/* The folder of one of several below `out`, owned. */
char *nla_policy_out(const char *out, const char *lambda, int64_t seed);
/* The folder of the AR that a policy starts or resumes from, owned. */
char *nla_policy_ar(const struct nla_policy *p, struct nla_err *err);
/* One step: it draws with all policies that have made as many, unless one of them has. */
enum nla_status nla_policy_step(struct nla_policy *p, struct nla_err *err);
/* Of limits of which 0 is none. */
static inline int64_t nla_lower_limit(int64_t a, int64_t b) { return a && (!b || a < b) ? a : b; }
/* Rows that one of its policies decodes at once by itself, where memory does not hold all; else 0. */
int64_t nla_train_rows(const struct nla_train *t);
/* The sizes that its plan is made from, of so many policies. */
struct nla_plan_in nla_train_sizes(const struct nla_train *t, int64_t policies);
/* A step under libtorch's profiler (profile.c): its trace to OUT/trace-STEP.json. */
enum nla_status nla_profiled_step(struct nla_policy *p, struct nla_err *err);
/* The evaluations before and after, in words: a table and some explanations. Empty where they cannot be compared. */
void nla_train_result(const struct nla_policy *p, struct nla_str *out);
void nla_train_close(struct nla_train *t);

/*
 * `nla-train --check` (check.c): is this configuration ready, and does it fit? Loads everything as a run would, which verifies
 * files and contracts; writes the memory plan to `out`, for this device or for one of `memory` bytes; makes one step of one
 * prompt, in memory alone. out ends in `go`, or in what to change. No file is written. An error (exit code 1) when it does not
 * fit; the others are those of loading.
 */
enum nla_status nla_check(const struct nla_config *cfg, const struct nla_algorithm *algorithm, FILE *out, struct nla_err *err);
