/* chat - see chat.h. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/chat_impl.h"

const struct nla_chat_row nla_chat_rows[NLA_CHAT_ROWS] = {
	[NLA_CHAT_CHATML] = {
		.name = "ChatML",
		.bos = "",
		.system = { "<|im_start|>system\n", "<|im_end|>\n" },
		.user = { "<|im_start|>user\n", "<|im_end|>\n" },
		.open = "<|im_start|>assistant\n",
		.end = "<|im_end|>",
		.tokens = { "<|im_start|>", "<|im_end|>" },
		.texts = { "<|im_start|>", "<|im_end|>" },
		.told_by_tokens = true,
	},
	[NLA_CHAT_LLAMA3] = {
		.name = "Llama 3",
		.bos = "<|begin_of_text|>",
		.system = { "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>" },
		.user = { "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>" },
		.open = "<|start_header_id|>assistant<|end_header_id|>\n\n",
		.end = "<|eot_id|>",
		.tokens = { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" },
		.texts = { "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>" },
		.strip = true,
		.told_by_tokens = true,
	},
	[NLA_CHAT_LLAMA2] = {
		.name = "Llama 2",
		.bos = "<s>",
		.system = { "<<SYS>>\n", "\n<</SYS>>\n\n" },
		.user = { "[INST] ", " [/INST]" },
		.open = "",
		.end = "</s>",
		.tokens = { "</s>" },
		.texts = { "[INST] ", " [/INST]", "<<SYS>>\n" },
		.strip = true,
		.system_in_user = true,
	},
};

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

static enum nla_status read_all_stops(struct nla_chat *chat, const char *folder, const struct nla_tokenizer *tok,
				      struct nla_err *err)
{
	bool found = false;
	enum nla_status status;

	nla_i32s_push(&chat->stop, chat->end_of_turn);
	status = read_stops(chat, folder, "generation_config.json", tok, &found, err);
	return status || found ? status : read_stops(chat, folder, "config.json", tok, &found, err);
}

/* The first of a format's tokens that the tokenizer lacks, or NULL. */
static const char *lacking(const struct nla_chat_row *row, const struct nla_tokenizer *tok)
{
	for (size_t i = 0; i < NLA_LEN(row->tokens) && row->tokens[i]; i++)
		if (chat_token(tok, row->tokens[i]) < 0)
			return row->tokens[i];
	return NULL;
}

static enum nla_status choose(struct nla_chat *chat, const char *folder, const struct nla_tokenizer *tok,
			      const struct nla_chat_template *t, struct nla_err *err)
{
	const char *missing;

	if (chat->format == NLA_CHAT_AUTO)
		chat->format = t->format;
	for (int f = 1; chat->format == NLA_CHAT_AUTO && f < NLA_CHAT_ROWS; f++)
		if (nla_chat_rows[f].told_by_tokens && !lacking(&nla_chat_rows[f], tok))
			chat->format = (enum nla_chat_format)f;
	if (chat->format == NLA_CHAT_AUTO)
		return nla_fail(err, "cannot tell the chat format of '%s': it has no chat template, and its tokenizer neither ChatML's "
				"nor Llama 3's tokens; set 'chat.format'", folder);
	missing = lacking(&nla_chat_rows[chat->format], tok);
	if (missing)
		return nla_fail(err, "cannot use the %s chat format with '%s': its tokenizer has no token '%s'",
				nla_chat_rows[chat->format].name, folder, missing);
	chat->end_of_turn = chat_token(tok, nla_chat_rows[chat->format].end);
	return NLA_OK;
}

/* The texts around a user's message. system: as in struct nla_chat_cfg. */
static enum nla_status compose(struct nla_chat *chat, const struct nla_chat_template *t, const char *system, struct nla_err *err)
{
	const struct nla_chat_row *row = &nla_chat_rows[chat->format];
	bool told = t->format == chat->format;
	const char *head = told && t->system_head ? t->system_head : "";
	const char *bos = !told || t->bos_literal ? row->bos : !t->bos ? "" : t->bos_text ? t->bos_text :
			  chat->format == NLA_CHAT_LLAMA2 && t->llama_class ? row->bos : "";
	char *turn;

	if (!strcmp(system, "auto")) {
		if (told && t->system_unclear)
			return nla_fail(err, "cannot tell the system turn of '%s': its template sets one in a way we do not know; set "
					"'chat.system' to its text, or to \"\" for none", t->path);
		system = told ? t->system : NULL;
	} else if (!*system) {
		system = NULL;
	}
	turn = system ? nla_format("%s%s%s%s", row->system[0], head, system, row->system[1]) : nla_strdup("");
	chat->strip = told ? t->strip : row->strip;
	chat->before = nla_format("%s%s%s", bos, row->system_in_user ? "" : turn, row->user[0]);
	chat->lead = nla_strdup(row->system_in_user ? turn : "");
	chat->after = nla_format("%s%s", row->user[1], row->open);
	free(turn);
	return NLA_OK;
}

enum nla_status nla_chat_load(struct nla_chat *chat, const char *folder, const struct nla_tokenizer *tok,
			      const struct nla_chat_cfg *cfg, struct nla_err *err)
{
	struct nla_chat_template t;
	enum nla_status status;

	memset(chat, 0, sizeof(*chat));
	chat->format = cfg ? (enum nla_chat_format)cfg->format : NLA_CHAT_AUTO;
	status = nla_chat_template_read(&t, folder, chat->format, err);
	if (!status)
		status = choose(chat, folder, tok, &t, err);
	if (!status)
		status = compose(chat, &t, cfg ? cfg->system : "auto", err);
	if (!status)
		status = read_all_stops(chat, folder, tok, err);
	nla_chat_template_release(&t);
	if (status)
		nla_chat_release(chat);
	return status;
}

void nla_chat_release(struct nla_chat *chat)
{
	free(chat->before);
	free(chat->lead);
	free(chat->after);
	nla_i32s_release(&chat->stop);
	memset(chat, 0, sizeof(*chat));
}

enum nla_status nla_chat_prompt(const struct nla_chat *chat, const struct nla_tokenizer *tok, const char *content,
				struct nla_i32s *ids, struct nla_err *err)
{
	char *message = nla_format("%s%s", chat->lead, content), *text;
	size_t n = strlen(message);
	const char *inner = chat->strip ? nla_utf8_strip(message, n, &n) : message;
	enum nla_status status;

	text = nla_format("%s%.*s%s", chat->before, (int)n, inner, chat->after);
	status = nla_tokenizer_encode(tok, text, strlen(text), ids, err);
	free(message);
	free(text);
	return status;
}
