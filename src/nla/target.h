/*
 * target - the language model being explained, with its tokenizer and chat format: held once, shared by AV, reference and AR.
 */
#pragma once

#include "nla/actset.h"
#include "text/chat.h"
#include "lm/lora.h"
#include "lm/pack.h"

struct nla_target {
	char *folder;
	struct nla_lm lm;
	struct nla_tokenizer *tok;
	struct nla_chat chat;
	int add_special; /* tokens.add_special: 0 auto, 1 true, 2 false */
};

/* chat: NULL for the checkpoint's own format; what is auto there, the sidecar of the AV `like` says before the checkpoint does.
 * random_seed >= 0: random weights for the folder's config.json instead of its weights (pre-training from nothing). */
enum nla_status nla_target_open(struct nla_target *t, const char *folder, const struct nla_chat_cfg *chat, int device,
				nt_dtype dtype, int64_t random_seed, struct nla_err *err);
/* The same without weights: tokenizer, chat format, and lm.arch. For reading sidecars without a forward pass. */
enum nla_status nla_target_describe(struct nla_target *t, const char *folder, const struct nla_chat_cfg *chat,
				    struct nla_err *err);
void nla_target_close(struct nla_target *t);

/* Do extraction texts and AR prompts of what meta describes (NULL: something new) get the special tokens that the tokenizer
 * puts in front by default? By tokens.add_special, else meta's, else yes. False when it puts none. */
bool nla_target_has_special(const struct nla_target *t); /* does its tokenizer put any around a text? */
bool nla_target_adds_special(const struct nla_target *t, const struct nla_sidecar *meta);
/* Ids of such a text, appended; those in front first, where special. */
enum nla_status nla_target_encode(const struct nla_target *t, bool special, const char *text, struct nla_i32s *ids,
				  struct nla_err *err);

/*
 * What the templates of a sidecar come to under this tokenizer and chat format. Fails unless the marker is in the AV prompt
 * once.
 */
struct nla_prompts {
	struct nla_i32s av;             /* the AV prompt; empty when there is no template */
	int64_t at;                     /* index of its marker */
	int32_t marker_id, left, right; /* the marker and its neighbours in av; -1: none */
	struct nla_i32s ar;             /* the AR prompt of some explanation; empty when there is no template */
	struct nla_i32s suffix;         /* what AR prompts end in, for every explanation */
};
enum nla_status nla_prompts_find(struct nla_prompts *p, const struct nla_sidecar *meta, const struct nla_target *t,
				 struct nla_err *err);
void nla_prompts_release(struct nla_prompts *p);
/* Lay n prompts into a pack, the head that they share once; the last token of each is its own. row [n] receives their rows. */
void nla_prompts_pack(struct nla_pack *pack, const struct nla_i32s *prompts, int64_t n, int64_t *row);

/* Does a sidecar fit this target? Width, block, tokenizer, and the ids that it names against nla_prompts. path: for messages,
 * which name found and expected values. */
enum nla_status nla_contract_check(const struct nla_sidecar *meta, const struct nla_target *t, const char *path,
				   struct nla_err *err);
/* Does what is described by meta (an activation set, an AV) go with this AV and this AR (either may be NULL)?
 * nla_contract_check, and the same block where both say one. */
enum nla_status nla_contract_fits(const struct nla_sidecar *meta, const struct nla_target *t, const struct nla_sidecar *av,
				  const struct nla_sidecar *ar, const char *path, struct nla_err *err);
/* The same of a set. One without tokens.add_special is judged by its rows' counts first, and its meta filled in. */
enum nla_status nla_contract_fits_set(struct nla_actset *set, const struct nla_target *t, const struct nla_sidecar *av,
				      const struct nla_sidecar *ar, const char *path, struct nla_err *err);
/* For a new sidecar: without a marker, the first of a list that is a token of its own in the AV template, which gets a line
 * break around it where every one merges. A marker that is not is an error that names three that are. */
enum nla_status nla_marker_choose(struct nla_sidecar *meta, const struct nla_target *t, struct nla_err *err);
/* Fill in what follows from templates and tokenizer: marker id, neighbours, closing ids where there are none, tokenizer crc.
 * What is there must have been checked. */
enum nla_status nla_contract_bind(struct nla_sidecar *meta, const struct nla_target *t, struct nla_err *err);
/* The same for a new sidecar, with d_model and add_special. */
enum nla_status nla_contract_make(struct nla_sidecar *meta, const struct nla_target *t, struct nla_err *err);
/* config.json, generation_config.json and the files of the tokenizer, from one folder to another; skip: a name left out, or
 * NULL. */
extern const char *const nla_beside[]; /* their names; NULL at the end */
enum nla_status nla_copy_beside(const char *from, const char *to, const char *skip, struct nla_err *err);
