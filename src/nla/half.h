/*
 * half - one half of the autoencoder, the AV (verbalizer, av.h) or the AR (reconstructor, ar.h): a sidecar, and the weights of
 * the target or of a whole checkpoint, with an adapter over them or none. An AR has blocks 0..K and a head. Its folder may hold
 *
 *	an adapter (PEFT's files, or nanoNLA's ar_lora_value_head.safetensors) over the target, or over another whole checkpoint
 *	a whole checkpoint: config.json and model.safetensors or its shards (merged AVs, kitft's AV and truncated AR)
 *	neither, and a sidecar that names a whole checkpoint: what a run saves of a whole AR whose weights it did not train
 *
 * (nanoNLA: github.com/ceselder/nanoNLA; kitft: github.com/kitft/natural_language_autoencoders)
 *
 * The base of an adapter is, in this order: what the user says (av_base, ar_base), `base_folder` of its sidecar,
 * adapter_config.json's base_model_name_or_path when that is a whole checkpoint with a sidecar here, else the target. A base
 * that is the target's own folder is the target: nothing is loaded twice.
 */
#pragma once

#include "nla/target.h"

enum nla_half_role { NLA_AV, NLA_AR };

/* Whose weights. */
struct nla_weights {
	char *base;   /* folder of the whole checkpoint, absolute, owned; NULL: the target */
	bool shared;  /* base is the target's own folder */
	bool adapter; /* the folder holds an adapter */
};

struct nla_half {
	enum nla_half_role role;
	const struct nla_target *target; /* borrowed */
	struct nla_sidecar meta;
	struct nla_weights weights;
	struct nla_lm own;               /* of a whole checkpoint that is not the target */
	struct nla_adapter adapter;      /* the warm start; layers == NULL: none */
	struct nla_i32s prompt;          /* AV */
	int64_t marker;                  /* AV: index in prompt */
	nt_tensor *head;                 /* AR: W [D, D] fp32 */
	int64_t depth;                   /* blocks: K + 1 of an AR, all of an AV */
};

/* From a folder with its sidecar, checked against the target. base: the whole checkpoint that an adapter stands on; NULL or "":
 * as the folder says. Of a target without weights (nla_target_describe) adapter and head alone are read. */
enum nla_status nla_half_open(struct nla_half *half, enum nla_half_role role, const struct nla_target *target,
			      const char *folder, const char *base, struct nla_err *err);
/* A new one on the bare target, with the templates of `meta` (a set's sidecar): no adapter, the head the identity. */
enum nla_status nla_half_new(struct nla_half *half, enum nla_half_role role, const struct nla_target *target,
			     const struct nla_sidecar *meta, struct nla_err *err);
/* What every folder of the half says of it, into its sidecar: role and stage, an AV's chat format, an AR's block and whether it
 * reads special tokens. */
void nla_half_stamp(const struct nla_half *half, struct nla_sidecar *meta, const char *stage);
/* PEFT folder (the adapter may be none), head, sidecar. extra (or NULL): a second adapter over its own, joined with it. A whole
 * checkpoint under them is named, not copied. */
enum nla_status nla_half_save(const struct nla_half *half, const struct nla_adapter *extra, const char *folder,
			      const char *stage, struct nla_err *err);
char *nla_half_base(const struct nla_half *half); /* what its adapters are over, for adapter_config.json; owned by the caller */
void nla_half_release(struct nla_half *half);
/* The weights under its adapter, and both. */
const struct nla_lm *nla_half_lm(const struct nla_half *half);
struct nla_view nla_half_view(const struct nla_half *half);

bool nla_is_whole(const char *folder);              /* config.json and weights? */
bool nla_same_folder(const char *a, const char *b); /* two names of one folder that exists? */
enum nla_status nla_ar_save_head(nt_tensor *head, const char *folder, struct nla_err *err);
