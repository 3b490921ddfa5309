/*
 * weights - whose weights a verbalizer's or reconstructor's folder means. It may hold
 *
 *	an adapter (PEFT's files, or nanoNLA's ar_lora_value_head.safetensors) over the target, or over another whole checkpoint
 *	a whole checkpoint: config.json and model.safetensors or its shards (merged AVs, kitft's AV and truncated AR)
 *	neither, and a sidecar that names a whole checkpoint: what a run saves of a whole AR whose weights it did not train
 *
 * The base of an adapter is, in this order: what the user says (av_base, ar_base), `base_folder` of its sidecar,
 * adapter_config.json's base_model_name_or_path when that is a whole checkpoint with a sidecar here, else the target. A base
 * that is the target's own folder is the target: nothing is loaded twice.
 */
#ifndef NLA_WEIGHTS_H
#define NLA_WEIGHTS_H

#include "nla/target.h"

struct nla_weights {
	char *base;   /* folder of the whole checkpoint, absolute, owned; NULL: the target */
	bool shared;  /* base is the target's own folder */
	bool adapter; /* the folder holds an adapter */
};

/* asked: as the user says, or NULL or "". target: its folder, or NULL when there is none to share. */
enum nla_status nla_weights_find(struct nla_weights *w, const char *folder, const struct nla_sidecar *meta, const char *asked,
				 const char *target, struct nla_err *err);
/* Into the sidecar of what is saved: its base_folder. */
void nla_weights_record(const struct nla_weights *w, struct nla_sidecar *meta);
void nla_weights_release(struct nla_weights *w);
/* config.json and weights? */
bool nla_is_whole(const char *folder);
/* Two names of one folder that is there? */
bool nla_same_folder(const char *a, const char *b);
/* config.json, generation_config.json and whatever the tokenizer consists of, from one folder to another; skip: a name left out, or NULL. */
extern const char *const nla_beside[]; /* their names; NULL behind the last */
enum nla_status nla_copy_beside(const char *from, const char *to, const char *skip, struct nla_err *err);

#endif
