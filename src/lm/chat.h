/*
 * chat - the chat format of a model: one user message and the opening of the assistant's turn, as `apply_chat_template(...,
 * add_generation_prompt=True)` renders it (Qwen3: ChatML without a system turn, no think block).
 *
 *	<|im_start|>user\n CONTENT <|im_end|>\n<|im_start|>assistant\n
 *
 * Only ChatML is known so far, told by the tokenizer's <|im_start|> and <|im_end|>; any other tokenizer is an error. A system
 * turn that a model's own template would put in front (Qwen2.5 and SmolLM2 do) is not put in.
 */
#ifndef NLA_CHAT_H
#define NLA_CHAT_H

#include "lm/tokenizer.h"

struct nla_chat {
	int32_t end_of_turn;     /* what ends a response: <|im_end|>                           */
	struct nla_i32s stop;    /* every stop id: end_of_turn and generation_config's eos ids */
};

/* Chosen from the tokenizer's tokens; stop ids from FOLDER/generation_config.json, else config.json eos_token_id. */
enum nla_status nla_chat_load(struct nla_chat *chat, const char *folder, const struct nla_tokenizer *tok, struct nla_err *err);
void nla_chat_release(struct nla_chat *chat);
bool nla_chat_is_stop(const struct nla_chat *chat, int32_t id);
/* Ids of the prompt, appended. Tokenised as one text. */
enum nla_status nla_chat_prompt(const struct nla_chat *chat, const struct nla_tokenizer *tok, const char *content,
				struct nla_i32s *ids, struct nla_err *err);

#endif
