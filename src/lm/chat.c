/* chat - see chat.h. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "lm/chat.h"

#define TURN_START "<|im_start|>"
#define TURN_END "<|im_end|>"

/* The id of a chat token as it comes out of a text: -1 unless the text is recognised as that one token. */
static int32_t chat_token(const struct nla_tokenizer *tok, const char *token)
{
	struct nla_err ignored = NLA_ERR_INIT;
	struct nla_i32s ids = {0};
	int32_t id = nla_tokenizer_id(tok, token);

	if (id >= 0 && (nla_tokenizer_encode(tok, token, strlen(token), &ids, &ignored) || ids.n != 1 || ids.data[0] != id))
		id = -1;
	nla_i32s_release(&ids);
	return id;
}

bool nla_chat_is_stop(const struct nla_chat *chat, int32_t id)
{
	for (size_t i = 0; i < chat->stop.n; i++)
		if (chat->stop.data[i] == id)
			return true;
	return false;
}

static enum nla_status add_stop(struct nla_chat *chat, const char *path, const cJSON *value, const struct nla_tokenizer *tok,
				struct nla_err *err)
{
	int32_t size = nla_tokenizer_size(tok);

	if (!cJSON_IsNumber(value) || !(value->valuedouble >= 0 && value->valuedouble < size) ||
	    value->valuedouble != (double)(int32_t)value->valuedouble) {
		char *text = cJSON_PrintUnformatted(value);
		enum nla_status status = nla_fail(err, "'%s': 'eos_token_id' has %.80s, want a token id from 0 to %d", path,
						  text ? text : "nothing", size - 1);

		cJSON_free(text);
		return status;
	}
	if (!nla_chat_is_stop(chat, (int32_t)value->valuedouble))
		nla_i32s_push(&chat->stop, (int32_t)value->valuedouble);
	return NLA_OK;
}

/* *found: whether the file has eos_token_id, a number or a list of numbers. */
static enum nla_status read_stops(struct nla_chat *chat, const char *folder, const char *file, const struct nla_tokenizer *tok,
				  bool *found, struct nla_err *err)
{
	char *path = nla_path_join(folder, file);
	const cJSON *eos, *item;
	enum nla_status status = NLA_OK;
	cJSON *json = NULL;

	if (nla_exists(path))
		status = nla_json_read(path, &json, err);
	if (!status && json) {
		eos = nla_json_at(json, "eos_token_id");
		*found = eos && !cJSON_IsNull(eos);
		item = cJSON_IsArray(eos) ? eos->child : *found ? eos : NULL;
		for (; item && !status; item = cJSON_IsArray(eos) ? item->next : NULL)
			status = add_stop(chat, path, item, tok, err);
	}
	cJSON_Delete(json);
	free(path);
	return status;
}

enum nla_status nla_chat_load(struct nla_chat *chat, const char *folder, const struct nla_tokenizer *tok, struct nla_err *err)
{
	bool found = false;

	memset(chat, 0, sizeof(*chat));
	chat->end_of_turn = chat_token(tok, TURN_END);
	if (chat->end_of_turn < 0 || chat_token(tok, TURN_START) < 0)
		return nla_fail(err, "cannot tell the chat format of '%s': its tokenizer lacks '%s' or '%s' (supported: ChatML)", folder,
				TURN_START, TURN_END);
	nla_i32s_push(&chat->stop, chat->end_of_turn);
	if (read_stops(chat, folder, "generation_config.json", tok, &found, err) ||
	    (!found && read_stops(chat, folder, "config.json", tok, &found, err))) {
		nla_chat_release(chat);
		return err->status;
	}
	return NLA_OK;
}

void nla_chat_release(struct nla_chat *chat)
{
	nla_i32s_release(&chat->stop);
	memset(chat, 0, sizeof(*chat));
}

enum nla_status nla_chat_prompt(const struct nla_chat *chat, const struct nla_tokenizer *tok, const char *content,
				struct nla_i32s *ids, struct nla_err *err)
{
	char *text = nla_format(TURN_START "user\n%s" TURN_END "\n" TURN_START "assistant\n", content);
	enum nla_status status = nla_tokenizer_encode(tok, text, strlen(text), ids, err);

	(void)chat;
	free(text);
	return status;
}
