/*
 * config - every option of every command, one table row each (base/options.h). The resolved configuration of a run is written
 * to its config.json, and one file serves all commands.
 */
#pragma once

#include "base/options.h"
#include "nla/target.h"
#include "rl/reward.h"
#include "rl/rollout.h"
#include "run/plan.h"

enum nla_command {
	NLA_CMD_TRAIN = 1, NLA_CMD_SFT = 2, NLA_CMD_EXTRACT = 4, NLA_CMD_EVAL = 8, NLA_CMD_EXPLAIN = 16, NLA_CMD_TEACH = 32,
	NLA_CMD_EXPORT = 64, NLA_CMD_ALL = 127, NLA_CMD_LOOPS = NLA_CMD_TRAIN | NLA_CMD_SFT
};
enum nla_dtype_choice { NLA_DTYPE_AUTO, NLA_DTYPE_FP32, NLA_DTYPE_BF16 };
enum nla_role { NLA_ROLE_LM, NLA_ROLE_AV, NLA_ROLE_AR };

#define NLA_MAX_TOKENS (1 << 28) /* of rows that are drawn, or written, at once */

struct nla_config {
	char *model, *av, *ar, *av_base, *ar_base, *ref, *data, *out, *device, *memory, *guard;
	char *lambdas; /* with commas, each as JSON has it; the first is reward.lambda */
	int dtype;
	int64_t seed, threads, steps, watchdog;
	int64_t memory_bytes; /* what `memory` says; 0: nothing */
	bool resume, overwrite, check, profile, quiet;
	struct nla_chat_cfg chat;
	struct { int64_t rank; double alpha; bool rslora; char *targets; } lora;
	struct nla_rollout_cfg rollout;
	struct nla_reward_cfg reward;
	struct { double min_std; } advantage;
	struct {
		double lr, clip, kl, grad_clip;
		int64_t micro_batch, max_bad_steps;
		int recompute; /* enum nla_recompute_choice */
	} update;
	struct { bool enabled, train_head; double lr; } ar_update;
	struct {
		char *data, *name, *start_ar;
		int64_t rows, samples, every, batch;
		int baseline, vectors; /* 0: data, own; 1: rows, another */
		bool recovered_kl, logprob;
	} eval;
	struct { int64_t every, keep; bool best; } checkpoint;
	struct { int64_t every, samples_every, samples, probe; } log;
	struct {
		int role, schedule; /* enum nla_role, enum nla_schedule */
		char *corpus;
		int64_t batch, context, warmup, held_every;
		double lr, min_lr, held_out;
		bool init, train_head;
		int save_dtype; /* 0: bf16, 1: fp32 */
	} sft;
	struct {
		char *corpus, *meta;
		int64_t layer, per_doc, min_position, max_tokens, next, rows;
		int at, dtype;
		bool sidecar;
	} extract;
	struct { char *av, *ar, *marker; } templates;
	struct {
		char *model, *prompt, *system, *explanation;
		int64_t max_end, max_next, context, max_new_tokens, tries, batch, rows, show;
		double temperature;
		bool again;
	} teach;
	struct { int64_t row, position, samples; char *vector, *text, *positions; } explain;
	struct { int dtype; double shard; } export; /* dtype 0: bf16, 1: fp32 */
	struct { double timeout; } dist;
	char *score; /* nla-eval --score FILE */
};

extern const struct nla_option nla_config_table[];
extern const size_t nla_config_n;

/* Defaults, then file, or what a run's folder says, then flags; checks combinations, which no row can. A run or a checkpoint
 * named as a model, an AV or an AR becomes that part of it; nla-eval's out is the run's evaluations/. *help: see
 * nla_options_args. */
enum nla_status nla_config_read(struct nla_config *cfg, enum nla_command command, int argc, char **argv, bool *help,
				struct nla_err *err);
void nla_config_release(struct nla_config *cfg);
/* As FOLDER/config.json, with who wrote it. */
enum nla_status nla_config_write(const struct nla_config *cfg, int device, const char *folder, struct nla_err *err);
/* Errors (NLA_USAGE) naming the key when a path is "". */
enum nla_status nla_config_need(const char *value, const char *key, struct nla_err *err);
/* Sets the number of CPU threads (0: no more than this process may use) and how they wait for each other. */
void nla_config_threads(const struct nla_config *cfg);
/* The target on the configuration's device and in its type, threads set. like, random_seed: see nla_target_open. room (or
 * NULL): bytes of the device that a memory plan may use: what is free before, within 'memory', which then limits a GPU. */
enum nla_status nla_config_target(const struct nla_config *cfg, const char *like, int64_t random_seed, int64_t *room,
				  struct nla_target *target, struct nla_err *err);
