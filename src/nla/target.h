/*
 * target - the language model being explained, with its tokenizer and chat format: held once, shared by AV, reference and AR.
 */
#ifndef NLA_TARGET_H
#define NLA_TARGET_H

#include "nla/sidecar.h"
#include "text/chat.h"
#include "lm/lora.h"

struct nla_target {
	char *folder;
	struct nla_lm lm;
	struct nla_tokenizer *tok;
	struct nla_chat chat;
};

/* chat: NULL for the checkpoint's own format. random_seed >= 0: random weights for the folder's config.json instead of its weights
 * (pre-training from nothing). */
enum nla_status nla_target_open(struct nla_target *t, const char *folder, const struct nla_chat_cfg *chat, int device,
				nt_dtype dtype, int64_t random_seed, struct nla_err *err);
/* The same without weights: tokenizer, chat format, and lm.arch. For who reads sidecars but runs nothing. */
enum nla_status nla_target_describe(struct nla_target *t, const char *folder, const struct nla_chat_cfg *chat, struct nla_err *err);
void nla_target_close(struct nla_target *t);

/*
 * Does a sidecar fit this target? Width, layer, the marker's id under the live tokenizer, the ids of its neighbours in the rendered
 * AV prompt (role av), the closing ids of the AR template (role ar). path: for messages, which name found and expected values.
 */
enum nla_status nla_contract_check(const struct nla_sidecar *meta, const struct nla_target *t, const char *path, struct nla_err *err);
/* Does what is described by meta (an activation set, an AV) go with this AV and this AR (either may be NULL)? nla_contract_check, and the
 * same block where both say one. */
enum nla_status nla_contract_fits(const struct nla_sidecar *meta, const struct nla_target *t, const struct nla_sidecar *av,
				  const struct nla_sidecar *ar, const char *path, struct nla_err *err);
/* The AV prompt's ids and where its one marker stands. */
enum nla_status nla_av_prompt(const struct nla_sidecar *meta, const struct nla_target *t, struct nla_i32s *ids, int64_t *marker,
			      struct nla_err *err);
/* Fill in what follows from templates and tokenizer: marker id, neighbours, closing ids, tokenizer crc. For a new sidecar. */
enum nla_status nla_contract_make(struct nla_sidecar *meta, const struct nla_target *t, struct nla_err *err);

#endif
