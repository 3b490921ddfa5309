/*
 * chat - the chat format of a model: one user message and the opening of the assistant's turn, with the ids that transformers'
 * `apply_chat_template([{"role": "user", ...}], add_generation_prompt=True)` gives.
 *
 *	chatml  <|im_start|>system\n SYSTEM <|im_end|>\n<|im_start|>user\n CONTENT <|im_end|>\n<|im_start|>assistant\n
 *	llama3  <|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n SYSTEM <|eot_id|> .. the same for user ..
 *	        <|start_header_id|>assistant<|end_header_id|>\n\n
 *	llama2  <s>[INST] <<SYS>>\n SYSTEM \n<</SYS>>\n\n CONTENT [/INST]
 *	gemma   <bos><start_of_turn>user\n SYSTEM \n\n CONTENT <end_of_turn>\n<start_of_turn>model\n
 *
 * No jinja is run here. The first of these that a checkpoint has decides:
 *
 *	nla_chat.json       beside the model, or `chat.file`: what scripts/chat-format.py found by rendering the template
 *	a known template    by its checksum (chat_known.h): format, default system turn, dates
 *	turn markers        of exactly one format; only where the system turn is known: set by `chat.system`, or a template that
 *	                    mentions none. One line on stderr says what is used.
 *	no template         the tokenizer's tokens tell ChatML, Llama 3 and Gemma; the same line
 */
#pragma once

#include "text/tokenizer.h"

enum nla_chat_format { NLA_CHAT_AUTO, NLA_CHAT_CHATML, NLA_CHAT_LLAMA3, NLA_CHAT_LLAMA2, NLA_CHAT_GEMMA };
#define NLA_CHAT_FORMATS "auto|chatml|llama3|llama2|gemma"

/* What a user may set. */
struct nla_chat_cfg {
	int format;   /* enum nla_chat_format                                              */
	char *system; /* "auto": the checkpoint's default; "": no system turn; else its text */
	char *file;   /* an nla_chat.json; "" or NULL: the one in the model's folder, if any */
	int add_special; /* of other texts than chat prompts, see nla/target.h: 0 auto, 1 true, 2 false */
	const char *like; /* an AV's folder whose sidecar says what is auto here, see nla/target.h; or NULL */
};

/* White space that is stripped, as by Python: BOTH sides of the content, the END of before + content. */
enum nla_chat_strip { NLA_CHAT_STRIP_NONE, NLA_CHAT_STRIP_BOTH, NLA_CHAT_STRIP_END };

struct nla_chat {
	enum nla_chat_format format; /* AUTO: nla_chat.json's                                       */
	char *before, *after;        /* around the content; before has the system turn; owned       */
	char *system;                /* text of the system turn, "": none; NULL: nla_chat.json's    */
	bool own;                    /* as the model's own template prints it on any day            */
	bool thinks;                 /* that template has enable_thinking, which is left undefined  */
	enum nla_chat_strip strip;
	int32_t end_of_turn;         /* what ends a response                                        */
	struct nla_i32s stop;        /* every stop id: end_of_turn and generation_config's eos ids  */
};

/* Stop ids from FOLDER/generation_config.json, else config.json eos_token_id. */
enum nla_status nla_chat_load(struct nla_chat *chat, const char *folder, const struct nla_tokenizer *tok,
			      const struct nla_chat_cfg *cfg, struct nla_err *err);
/* Of a model that thinks unless told not to: prompts end with an empty think block, as Qwen3's template prints it then. */
void nla_chat_no_thinking(struct nla_chat *chat);
void nla_chat_release(struct nla_chat *chat);
const char *nla_chat_name(const struct nla_chat *chat); /* of its format: one of NLA_CHAT_FORMATS, or "file" */
/* Ids of the prompt, appended. Tokenised as one text. */
enum nla_status nla_chat_prompt(const struct nla_chat *chat, const struct nla_tokenizer *tok, const char *content,
				struct nla_i32s *ids, struct nla_err *err);
