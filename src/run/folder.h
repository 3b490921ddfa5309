/*
 * folder - a run folder: config.json (resolved), inputs.json, metrics.jsonl, samples.jsonl, log.txt, checkpoints/step-N,
 * checkpoints/latest.
 *
 * An existing run is overwritten only when the configuration says so. On resume the configuration must be the one the run began
 * with (same.c), save for what does not change the mathematics (steps, logs, checkpoints, evaluation, threads). A folder that
 * another program writes is refused. Of ranks the first opens it, and the others find the checkpoint in it.
 *
 * A checkpoint is written to checkpoints/.tmp-N, synced, renamed to step-N; a crash or a full disk leaves the former one whole.
 */
#pragma once

#include "base/file.h"
#include "run/config.h"

/* "0.1.0", "4c5a10bbf77e" ("-dirty" behind it: with changes; "": built without git), "2.11.0+cu130"; these and a device. */
extern const char nla_version[], nla_commit[], nla_libtorch[];
cJSON *nla_made_by(int device);

struct nla_folder {
	char *path;
	struct nla_log metrics, samples, log;
	int lock; /* of the folder: one program at a time */
	int64_t resumed; /* step of the checkpoint that the run resumes from, -1: a fresh run */
	char *checkpoint; /* its folder, or NULL */
	int64_t good; /* the newest checkpoint up to this step stays, whatever checkpoint.keep is */
	bool warned_latest, warned_old, warned_best; /* housekeeping that failed */
};

/* Whether nla_folder_open would refuse a folder for what it holds, another run's settings too, or because it is in use: asked
 * of several before the first is changed. */
enum nla_status nla_folder_may_open(const struct nla_config *cfg, struct nla_err *err);
/* fixed_steps: `steps` is part of what the run computes (a cosine schedule ends there), so it may not change on resume. */
enum nla_status nla_folder_open(struct nla_folder *f, const struct nla_config *cfg, int device, bool fixed_steps,
				struct nla_err *err);
void nla_folder_close(struct nla_folder *f);
/* An error where `out` holds ("a run already") what the configuration says neither to resume nor to replace. */
enum nla_status nla_may_write(const struct nla_config *cfg, bool there, const char *what, struct nla_err *err);
/* The step in a name such as eval-120.json: what is between `before` and `after`; -1: it is another name. */
int64_t nla_step_named(const char *name, const char *before, const char *after);
/* One line into a log of the folder, or another, flushed; of ranks the first one writes. */
enum nla_status nla_log_line(struct nla_log *log, const cJSON *line, struct nla_err *err);
/* One into samples.jsonl, which is made with the first. */
enum nla_status nla_folder_sample(struct nla_folder *f, const cJSON *sample, struct nla_err *err);
/* Held until fd is closed, or the process is gone. name: the folder, for the message when another program has it. */
enum nla_status nla_lock(int fd, const char *name, struct nla_err *err);

/* A checkpoint: a fresh folder, which `fill` gets to write into, is synced and renamed, `latest` points to it, and old ones are
 * dropped; a link that cannot be made, and an old one that cannot be removed, is warned of, once. With an error it is gone. */
typedef enum nla_status nla_fill_fn(void *arg, const char *dir, struct nla_err *err);
enum nla_status nla_checkpoint_write(struct nla_folder *f, int64_t step, int64_t keep, nla_fill_fn *fill, void *arg,
				     struct nla_err *err);
/* The link checkpoints/latest, or best, points to that of `step` from now on, and old ones are removed: for a new best one, and
 * what a kill after a checkpoint left undone. */
void nla_checkpoint_link(struct nla_folder *f, const char *which, int64_t step, int64_t keep);
/* The step of the newest checkpoint up to f->good; -1: there is none. */
int64_t nla_checkpoint_good(const struct nla_folder *f);
/* Newest whole checkpoint (has state.json): *path owned, NULL when there is none. */
enum nla_status nla_checkpoint_find(const char *run, char **path, int64_t *step, struct nla_err *err);
bool nla_is_run(const char *folder); /* did a run write there? */
/* What a path means that may name a run: of a run its newest whole checkpoint, of a checkpoint itself: owned. NULL: neither. */
enum nla_status nla_checkpoint_of(const char *path, char **checkpoint, struct nla_err *err);
/* The checkpoint that an AV or AR is a part of: its step, -1 where it is none's; run (or NULL): its run, owned, or NULL. */
int64_t nla_checkpoint_step(const char *part, char **run);

/* Counters and cursor of a run: state.json of a checkpoint. */
struct nla_state {
	int64_t step, cursor, bad_steps, skipped, av_updates, ar_updates;
	int64_t micro_batch, copies; /* what the memory plan chose; micro_batch 0: nothing yet */
	int64_t rows;                /* of the data, which the cursor passes through; 0: written by an older version */
	int64_t decode_rows;         /* at once, as memory allowed, in evaluations too; 0: all */
	int64_t score_tokens;        /* the same of what the AR reads; 0: NLA_SCORE_TOKENS */
	int64_t ranks;               /* whose shares micro_batch and decode_rows are: others make their own plan */
};
enum nla_status nla_state_write(const struct nla_state *s, const char *folder, struct nla_err *err);
/* rows: of the data as it is now; 0: any. An error when the run had another number of them: its cursor means nothing there. */
enum nla_status nla_state_read(struct nla_state *s, const char *folder, int64_t rows, struct nla_err *err);

/*
 * same.c: does a run resume with what it began with? Options are compared by their values, and what paths name by its content:
 * a link, a copy and a moved folder are the same, another set at the same path is not.
 */

/* What options of these programs say, and what their paths hold, owned: of those that may not change (inputs: the paths alone),
 * or of all that ranks must agree on. */
enum nla_same { NLA_SAME_INPUTS, NLA_SAME_SETTINGS, NLA_SAME_RANKS };
cJSON *nla_same_describe(const struct nla_config *cfg, unsigned of, enum nla_same what, struct nla_err *err);
/* The value of a setting that a run in the file `path` began with (NULL: missing) and that of now: a difference is an error. */
enum nla_status nla_same_setting(const char *key, const char *path, const cJSON *was, const cJSON *now, struct nla_err *err);
/* A run folder's config.json and inputs.json ({"data": "9f3c...", ...}: what its paths held) against cfg, or written by it. of:
 * the programs whose options count. own: the run has its own AV and AR, so another one is only said to be unused. */
enum nla_status nla_same_run(const char *folder, const struct nla_config *cfg, unsigned of, bool fixed_steps, bool own,
			     struct nla_err *err);
/* Does a folder still hold what the run of this checkpoint began with? Without inputs.json: is there any? */
bool nla_same_input(const char *checkpoint, const char *key, const char *path);
enum nla_status nla_same_write(const char *folder, const struct nla_config *cfg, unsigned of, int device, struct nla_err *err);
