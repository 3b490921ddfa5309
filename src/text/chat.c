/*
 * chat - which texts stand around a user's message, and which tokens end a response; see chat.h. nla_chat.json holds the texts;
 * for a template they come from its format's row here and its own row in chat_known.h. A template is never interpreted: what is
 * neither known nor plain by its markers is an error that names scripts/chat-format.py.
 */
#include <zlib.h>

#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/utf8.h"
#include "text/chat.h"

/* One row a format: what stands around each part of a prompt. */
static const struct format_row {
	const char *word, *name;
	const char *bos;              /* where tokenizer_config.json has no bos_token            */
	const char *system[2];        /* around the system text, to the content                  */
	const char *before, *after;   /* the content: without one; to the assistant's header     */
	const char *end;              /* the token that ends a turn                              */
	const char *markers[4];       /* NULL at the end                                         */
	bool tokens;                  /* each marker is a token, and all of them tell the format */
	enum nla_chat_strip strip[2]; /* without a system text, with one                         */
} formats[] = {
	[NLA_CHAT_CHATML] = {
		"chatml", "ChatML", "", { "<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n" },
		"<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>",
		{ "<|im_start|>", "<|im_end|>" }, .tokens = true },
	[NLA_CHAT_LLAMA3] = {
		"llama3", "Llama 3", "<|begin_of_text|>",
		{ "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n" },
		"<|start_header_id|>user<|end_header_id|>\n\n",
		"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>",
		{ "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" }, .tokens = true,
		.strip = { NLA_CHAT_STRIP_BOTH, NLA_CHAT_STRIP_BOTH } },
	[NLA_CHAT_LLAMA2] = {
		"llama2", "Llama 2", "<s>", { "[INST] <<SYS>>\n", "\n<</SYS>>\n\n" }, "[INST] ", " [/INST]", "</s>",
		{ "[INST]", "[/INST]", "<<SYS>>" }, .strip = { NLA_CHAT_STRIP_BOTH, NLA_CHAT_STRIP_END } },
	[NLA_CHAT_GEMMA] = {
		"gemma", "Gemma", "<bos>", { "<start_of_turn>user\n", "\n\n" },
		"<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>",
		{ "<start_of_turn>", "<end_of_turn>" }, .tokens = true, .strip = { NLA_CHAT_STRIP_BOTH, NLA_CHAT_STRIP_BOTH } },
};

/* A template by crc32 and length of its text, without a newline at its end: jinja drops that one. */
static const struct known_row {
	uint32_t crc;
	size_t length;
	enum nla_chat_format format;
	const char *system; /* text of the system turn when none is asked for; NULL: no turn */
	const char *head;   /* what it puts at the head of every system text                 */
} known_templates[] = {
#define ROW(crc, length, format, system, head) { crc, length, NLA_CHAT_##format, system, head },
#include "text/chat_known.h"
};

/* What a checkpoint has. */
struct template {
	char *path;                    /* of the file it is in; NULL: there is none       */
	char *bos;                     /* bos_token of tokenizer_config.json, NULL: not set */
	struct nla_str text;
	const struct known_row *known; /* NULL: not a known one                           */
	enum nla_chat_format format;   /* AUTO: neither known nor of one format's markers */
};

/* ---- stop ids ---- */

/* The id of a chat token as it comes out of a text: -1 unless the text is recognised as that one token. */
static int32_t chat_token(const struct nla_tokenizer *tok, const char *token)
{
	NLA_AUTO(nla_i32s_release) struct nla_i32s ids = {0};
	int32_t id = nla_tokenizer_id(tok, token);
	if (id >= 0 && (nla_tokenizer_encode(tok, token, strlen(token), &ids, NLA_IGNORED) || ids.n != 1 || ids.data[0] != id))
		id = -1;
	return id;
}

const char *nla_chat_name(const struct nla_chat *chat) { return chat->format ? formats[chat->format].word : "file"; }

/* eos_token_id, a number or a list of numbers, of generation_config.json or else of config.json. */
static enum nla_status read_stops(struct nla_chat *chat, const char *folder, const struct nla_tokenizer *tok,
				  struct nla_err *err)
{
	static const char *const files[] = { "generation_config.json", "config.json" };
	bool found = false;
	for (size_t i = 0; i < NLA_LEN(files) && !found && !err->status; i++) {
		nla_auto char *path = nla_path_join(folder, files[i]);
		const cJSON *eos, *item;
		nla_auto_json cJSON *json = NULL;
		if (nla_exists(path))
			nla_json_read(path, &json, err);
		eos = nla_json_at(json, "eos_token_id");
		eos = eos ? eos : nla_json_at(json, "text_config.eos_token_id");
		found = eos != NULL;
		for (item = cJSON_IsArray(eos) ? eos->child : eos; item; item = item == eos ? NULL : item->next) {
			double id = cJSON_IsNumber(item) ? item->valuedouble : -1;
			if (!(id >= 0 && id < nla_tokenizer_size(tok)) || id != (int32_t)id)
				nla_fail(err, "'%s': 'eos_token_id' has what is no token id from 0 to %d", path,
					 nla_tokenizer_size(tok) - 1);
			else if (!nla_i32s_has(&chat->stop, (int32_t)id))
				nla_i32s_push(&chat->stop, (int32_t)id);
		}
	}
	return err->status;
}

/* ---- nla_chat.json ---- */

static enum nla_status use_file(struct nla_chat *chat, const char *path, const struct nla_tokenizer *tok, struct nla_err *err)
{
	const char *before, *after, *strip;
	const cJSON *item;
	nla_auto_json cJSON *json = NULL;
	if (nla_json_read(path, &json, err) || nla_json_need_str(json, path, "before", &before, err) ||
	    nla_json_need_str(json, path, "after", &after, err) || nla_json_need_str(json, path, "strip", &strip, err))
		return err->status;
	const int index = nla_word_index("none|both|end", strip);
	chat->strip = (enum nla_chat_strip)NLA_MAX(index, 0);
	if (index < 0)
		nla_fail(err, "'%s': 'strip' is '%s', want none, both or end", path, strip);
	cJSON_ArrayForEach(item, nla_json_at(json, "stop")) {
		int32_t id = cJSON_IsString(item) ? chat_token(tok, item->valuestring) : -1;
		if (id < 0)
			nla_fail(err, "'%s': 'stop' has '%s', which is no token of this tokenizer", path,
				 cJSON_IsString(item) ? item->valuestring : nla_json_type(item));
		nla_i32s_push(&chat->stop, id);
	}
	if (!chat->stop.n)
		nla_fail(err, "'%s': 'stop' must be a list of tokens, the one that ends a response first", path);
	chat->before = nla_strdup(before);
	chat->after = nla_strdup(after);
	return err->status;
}

/* ---- templates ---- */

static void recognise(struct template *t)
{
	size_t n = t->text.len - (t->text.len && t->text.buf[t->text.len - 1] == '\n');
	uint32_t crc = (uint32_t)crc32(0, (const unsigned char *)t->text.buf, (uInt)n);
	int found = 0;
	for (size_t i = 0; i < NLA_LEN(known_templates); i++)
		if (known_templates[i].crc == crc && known_templates[i].length == n) {
			t->known = &known_templates[i];
			t->format = t->known->format;
			return;
		}
	for (size_t f = 1; f < NLA_LEN(formats); f++) {
		const char *const *m = formats[f].markers;
		while (*m && strstr(t->text.buf, *m))
			m++;
		if (!*m)
			t->format = found++ ? NLA_CHAT_AUTO : (enum nla_chat_format)f;
	}
}

/* chat_template.jinja wins over tokenizer_config.json, as in transformers. Carriage returns are no part of a text file for
 * Python. */
static enum nla_status read_template(struct template *t, const char *folder, struct nla_err *err)
{
	nla_auto char *jinja = nla_path_join(folder, "chat_template.jinja");
	nla_auto char *config = nla_path_join(folder, "tokenizer_config.json");
	NLA_AUTO(nla_str_release) struct nla_str file = NLA_STR_INIT;
	nla_auto_json cJSON *json = NULL;
	if (nla_exists(config))
		nla_json_read(config, &json, err);
	/* chat_template of tokenizer_config.json: a text, or named ones as an object or a list. */
	const cJSON *item, *value = nla_json_at(json, "chat_template"), *bos = nla_json_at(json, "bos_token");
	const char *source = !value || cJSON_IsString(value) ? cJSON_GetStringValue(value) : "";
	cJSON_ArrayForEach(item, value) {
		const char *name = item->string ? item->string : cJSON_GetStringValue(nla_json_at(item, "name"));
		const char *text = cJSON_GetStringValue(item->string ? item : nla_json_at(item, "template"));
		if (name && text && !strcmp(name, "default") && !*source)
			source = text;
	}
	bos = cJSON_IsObject(bos) ? nla_json_at(bos, "content") : bos;
	t->bos = cJSON_IsString(bos) ? nla_strdup(bos->valuestring) : NULL;
	if (nla_exists(jinja))
		source = !err->status && !nla_file_read(jinja, &file, err) ? file.buf : NULL;
	t->path = source ? nla_strdup(source == file.buf ? jinja : config) : NULL;
	for (const char *c = source; c && *c; c++)
		if (*c != '\r')
			nla_str_addc(&t->text, *c);
	if (source)
		recognise(t);
	return err->status;
}

/* The first of a format's tokens that the tokenizer lacks, or NULL. */
static const char *lacking(const struct format_row *row, const struct nla_tokenizer *tok)
{
	for (const char *const *m = row->markers; row->tokens && *m; m++)
		if (chat_token(tok, *m) < 0)
			return *m;
	return chat_token(tok, row->end) < 0 ? row->end : NULL;
}

static enum nla_status choose_format(struct nla_chat *chat, const struct template *t, const char *folder,
				     const struct nla_tokenizer *tok, struct nla_err *err)
{
	const char *missing;
	if (chat->format == NLA_CHAT_AUTO)
		chat->format = t->format;
	for (size_t f = 1; chat->format == NLA_CHAT_AUTO && !t->path && f < NLA_LEN(formats); f++)
		if (formats[f].tokens && !lacking(&formats[f], tok))
			chat->format = (enum nla_chat_format)f;
	if (chat->format == NLA_CHAT_AUTO)
		return nla_fail(
			err, "cannot tell the chat format of '%s': %s, or set 'chat.format'", t->path ? t->path : folder,
			t->path ? "its template is not a known one, and does not have the turn markers of exactly one format; "
				  "run scripts/chat-format.py"
				: "it has no chat template, and its tokenizer not ChatML's, Llama 3's or Gemma's tokens; write "
				  "the prompt's texts into nla_chat.json (docs/formats.md)");
	missing = lacking(&formats[chat->format], tok);
	if (missing)
		return nla_fail(err, "cannot use the %s chat format with '%s': its tokenizer has no token '%s'",
				formats[chat->format].name, folder, missing);
	return NLA_OK;
}

/* What the markers of a template do not tell, by words in it. */
static enum nla_status check_unknown(const struct template *t, const struct format_row *row, bool given, struct nla_err *err)
{
	const char *source = t->text.buf;
	const bool trims = strstr(source, "trim") || strstr(source, "strip("), bos = strstr(source, "bos_token");
	const char *what = NULL, *hint = "";
	if (strstr(source, "date_string") || strstr(source, "strftime_now"))
		what = "mentions a date";
	else if (strstr(source, "think"))
		what = "mentions a think block";
	else if (trims != (row->strip[0] != NLA_CHAT_STRIP_NONE))
		what = trims ? "strips messages" : "does not strip messages";
	else if (*row->bos ? !bos && !strstr(source, row->bos) : bos)
		what = bos ? "mentions a bos_token" : "has no bos_token";
	else if (!given && strcasestr(source, "system")) {
		what = "mentions a system turn";
		hint = ", or set 'chat.system' to its text, or to \"\" for none";
	}
	return !what ? NLA_OK
		     : nla_fail(err,
				"cannot tell the prompts of '%s': its template is not a known one, and %s; "
				"run scripts/chat-format.py, which renders it%s",
				t->path, what, hint);
}

/* The texts around a user's message. */
static enum nla_status compose(struct nla_chat *chat, const struct template *t, const struct nla_chat_cfg *cfg,
			       struct nla_err *err)
{
	const struct format_row *row = &formats[chat->format];
	bool of_format = t->path && t->format == chat->format, given = strcmp(cfg->system, "auto") != 0;
	const struct known_row *known = of_format ? t->known : NULL;
	const char *bos = *row->bos && of_format && t->bos ? t->bos : row->bos;
	const char *usual = known ? known->system : NULL, *system = given ? (*cfg->system ? cfg->system : NULL) : usual;
	const char *head = system && known && known->head ? known->head : "", *own = system ? system : "";
	if (of_format && !known && check_unknown(t, row, given, err))
		return err->status;
	own += nla_starts_with(own, head) ? strlen(head) : 0;
	size_t n = strlen(own);
	if (chat->format == NLA_CHAT_LLAMA3) /* its templates trim it */
		own = nla_utf8_strip(own, n, &n);
	chat->system = nla_format("%s%.*s", head, (int)n, own);
	chat->own = of_format && (known ? !known->head && !strcmp(usual ? usual : "", chat->system) : !given);
	chat->thinks = strstr(t->text.buf, "enable_thinking") != NULL;
	chat->before = system ? nla_format("%s%s%s%s", bos, row->system[0], chat->system, row->system[1])
			      : nla_format("%s%s", bos, row->before);
	chat->after = nla_strdup(row->after);
	chat->strip = row->strip[system != NULL];
	if (cfg->format == NLA_CHAT_AUTO && !known)
		nla_say("chat format %s, recognised by its %s, %s%s%s; %s", row->name,
			of_format ? "template's turn markers" : "tokens", system ? "system turn '" : "no system turn",
			system ? system : "", system ? "'" : "",
			of_format ? "scripts/chat-format.py verifies it" : "the model has no chat template");
	return NLA_OK;
}

/* ---- what others call ---- */

enum nla_status nla_chat_load(struct nla_chat *chat, const char *folder, const struct nla_tokenizer *tok,
			      const struct nla_chat_cfg *cfg, struct nla_err *err)
{
	nla_auto char *beside = nla_path_join(folder, "nla_chat.json");
	const char *file = cfg->file && *cfg->file ? cfg->file : nla_exists(beside) ? beside : NULL;
	struct template t = { .text = NLA_STR_INIT };
	*chat = (struct nla_chat){ .format = file ? NLA_CHAT_AUTO : (enum nla_chat_format)cfg->format };
	if (!file && !read_template(&t, folder, err) && !choose_format(chat, &t, folder, tok, err) &&
	    !compose(chat, &t, cfg, err))
		nla_i32s_push(&chat->stop, chat_token(tok, formats[chat->format].end));
	else if (file && (cfg->format != NLA_CHAT_AUTO || strcmp(cfg->system, "auto")))
		nla_fail(err, "'%s' decides the prompts, system turn included: leave out 'chat.format' and 'chat.system', or "
			 "write it with scripts/chat-format.py --system TEXT", file);
	else if (file)
		use_file(chat, file, tok, err);
	free(t.path);
	free(t.bos);
	nla_str_release(&t.text);
	if (!err->status && !read_stops(chat, folder, tok, err))
		chat->end_of_turn = chat->stop.data[0];
	if (err->status)
		nla_chat_release(chat);
	return err->status;
}

void nla_chat_no_thinking(struct nla_chat *chat)
{
	char *after = nla_format("%s%s", chat->after, chat->thinks ? "<think>\n\n</think>\n\n" : "");
	free(chat->after);
	chat->after = after;
	chat->thinks = false;
}

void nla_chat_release(struct nla_chat *chat)
{
	free(chat->before);
	free(chat->after);
	free(chat->system);
	nla_i32s_release(&chat->stop);
	memset(chat, 0, sizeof(*chat));
}

enum nla_status nla_chat_prompt(const struct nla_chat *chat, const struct nla_tokenizer *tok, const char *content,
				struct nla_i32s *ids, struct nla_err *err)
{
	size_t head = strlen(chat->before), n = strlen(content);
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	if (chat->strip == NLA_CHAT_STRIP_BOTH)
		content = nla_utf8_strip(content, n, &n);
	nla_str_addn(&text, chat->before, head);
	nla_str_addn(&text, content, n);
	if (chat->strip == NLA_CHAT_STRIP_END) {
		const char *inner = nla_utf8_strip(text.buf, text.len, &n);
		text.len = (size_t)(inner - text.buf) + n;
	}
	nla_str_add(&text, chat->after);
	nla_tokenizer_encode(tok, text.buf, text.len, ids, err);
	return err->status;
}
