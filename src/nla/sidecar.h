/*
 * sidecar - nla_meta.yaml: what binds a checkpoint or an activation set to a tokenizer and a layer (spec: files). Versions 1
 * and 2 are read, 2 is written. This file parses, checks for internal consistency and writes; comparing it with a live
 * tokenizer and model is nla_contract_check in nla/target.h.
 *
 * Unknown keys are kept out of the way silently (other stacks add their own); a known key of the wrong type is an error naming
 * file and key. What must be there depends on the use: nla_sidecar_need.
 */
#pragma once

#include "base/base.h"

#define NLA_SIDECAR_NAME "nla_meta.yaml"

enum nla_inject_mode { NLA_INJECT_RESIDUAL_ADD, NLA_INJECT_EMBED_REPLACE };
enum nla_scale_kind { NLA_SCALE_NULL, NLA_SCALE_NUMBER, NLA_SCALE_SQRT_D };

struct nla_scale {
	enum nla_scale_kind kind;
	double value; /* of NLA_SCALE_NUMBER */
};

struct nla_sidecar {
	char *kind;                  /* "nla_model" | "nla_dataset" */
	char *role;                  /* "av" | "ar" | NULL (data set) */
	char *stage;                 /* free text, or NULL */
	char *base_checkpoint;       /* name of the target, or NULL */
	char *base_folder;           /* ours: the whole checkpoint that an adapter is based on; NULL: the target itself */
	int64_t d_model;
	int64_t layer;               /* K; -1 when absent */
	int64_t critic_layer;        /* critic.extraction_layer_index; -1 when absent */
	bool final_norm;             /* ours, critic.final_norm: the AR's head reads the residual after the final norm */
	int norm;                    /* extraction.norm, of the stored vectors: 0, none; any other is refused */
	struct nla_scale injection_scale;
	struct nla_scale mse_scale;  /* absent: sqrt_d_model */
	enum nla_inject_mode inject; /* ours; absent: embed_replace if there is an injection_scale, else residual_add */
	char *marker;                /* tokens.injection_char */
	int64_t marker_id, left_id, right_id; /* tokens; -1 when absent */
	struct nla_i32s suffix;      /* tokens.critic_suffix_ids */
	int add_special; /* tokens.add_special: texts have the tokenizer's special tokens in front; 0, 1, -1 when absent */
	char *av_template;           /* with {injection_char}; NULL when absent */
	char *ar_template;           /* with {explanation};    NULL when absent */
	/* ours, of an AV: what its prompts had around a message; NULL when absent */
	char *chat_format, *chat_system; /* "chatml" ..; its system turn, "" for none, NULL: known to nla_chat.json alone */
	char *chat_before, *chat_after;
	/* kind nla_dataset: */
	double baseline_var, baseline_mean; /* NaN when absent: baseline.raw_variance, baseline.mean_normalised */
	int64_t n_rows;              /* row_count; -1 when absent */
	int64_t tokenizer_crc;       /* tokens.tokenizer_crc; -1 when absent: ours, tells drift */
};

/* Who needs which keys. */
enum nla_need { NLA_NEED_ANY = 1, NLA_NEED_AV = 2, NLA_NEED_AR = 4, NLA_NEED_BLOCK = 8 };

void nla_sidecar_init(struct nla_sidecar *s);
void nla_sidecar_release(struct nla_sidecar *s);
void nla_sidecar_copy(struct nla_sidecar *to, const struct nla_sidecar *from); /* to is released first */
/* Set kind, role and stage (copied; role, stage: or NULL). */
void nla_sidecar_stamp(struct nla_sidecar *s, const char *kind, const char *role, const char *stage);
void nla_sidecar_chat(struct nla_sidecar *s, const char *format, const char *system, const char *before, const char *after);
/* An error that lists every key of these (enum nla_need, or'ed) that s lacks. path: of its file. */
enum nla_status nla_sidecar_need(const struct nla_sidecar *s, int need, const char *path, struct nla_err *err);
/* FOLDER/nla_meta.yaml. read initialises s; when it fails s is empty. */
enum nla_status nla_sidecar_read(struct nla_sidecar *s, const char *folder, struct nla_err *err);
enum nla_status nla_sidecar_write(const struct nla_sidecar *s, const char *folder, struct nla_err *err);
/* The block whose output it is about, K: critic.extraction_layer_index, else layer_index; -1 when it names none. */
int64_t nla_sidecar_block(const struct nla_sidecar *s);
/* The scale as a number for width d; NULL kind gives 0. */
double nla_scale_value(const struct nla_scale *scale, int64_t d);
/* Replace the one occurrence of "{key}" in a template; an error when it does not occur exactly once. Owned by the caller. */
enum nla_status nla_template_fill(const char *tmpl, const char *key, const char *value, char **out, struct nla_err *err);
