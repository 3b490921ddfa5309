/*
 * tokenizer_config - what transformers obeys of the files beside a tokenizer.json (tokenizer_config.json, special_tokens_map.json,
 * added_tokens.json), and we do not: each is an error that names it. Measured on transformers 5: a special token that tokenizer.json
 * lacks is added with a new id, another flag of added_tokens_decoder takes the place of tokenizer.json's, and a tokenizer of a class
 * of its own (Qwen2Tokenizer) has the added tokens of added_tokens_decoder alone.
 */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/tokenizer_impl.h"

/* One of the files. */
struct beside {
	const struct nla_tokenizer *tok;
	const char *path;
	const cJSON *json;
};

static const struct nla_tok_added *find_added(const struct nla_tokenizer *tok, const char *text)
{
	for (size_t k = 0; k < 2; k++)
		for (size_t i = 0; i < tok->added[k].n; i++)
			if (!strcmp(tok->added[k].data[i].text, text))
				return &tok->added[k].data[i];
	return NULL;
}

static enum nla_status check_flags(const struct beside *b, const char *key, const struct nla_tok_added *a, const cJSON *value,
				   struct nla_err *err)
{
	const struct {
		const char *name;
		bool ours;
	} flags[] = { { "single_word", a->single_word }, { "lstrip", a->lstrip }, { "rstrip", a->rstrip }, { "normalized", a->normalized },
		      { "special", (b->tok->vocab.flags[a->id] & NLA_TOK_SPECIAL) != 0 } };

	for (size_t i = 0; i < NLA_LEN(flags); i++) {
		const cJSON *theirs = cJSON_GetObjectItemCaseSensitive(value, flags[i].name);

		if (cJSON_IsBool(theirs) && cJSON_IsTrue(theirs) != flags[i].ours)
			return nla_fail(err, "cannot use '%s': '%s' has '%s' of token '%s' %s, tokenizer.json has it %s: make them agree", b->path, key,
					flags[i].name, a->text, flags[i].ours ? "false" : "true", flags[i].ours ? "true" : "false");
	}
	return NLA_OK;
}

/* A token by its text, or an object with its flags. */
static enum nla_status check_token(const struct beside *b, const char *key, const cJSON *value, struct nla_err *err)
{
	const char *text = cJSON_IsObject(value) ? cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(value, "content")) :
						   cJSON_GetStringValue(value);
	const struct nla_tok_added *a = text ? find_added(b->tok, text) : NULL;

	if (cJSON_IsNull(value) || (text && !*text))
		return NLA_OK;
	if (!text)
		return nla_fail(err, "cannot use '%s': '%s' has what is no token", b->path, key);
	if (!a)
		return nla_fail(err, "cannot use '%s': '%s' has '%.60s', which is no added token of tokenizer.json: transformers adds it; save "
				"the tokenizer with it, or take it out", b->path, key, text);
	return cJSON_IsObject(value) ? check_flags(b, key, a, value, err) : NLA_OK;
}

static enum nla_status check_specials(const struct beside *b, struct nla_err *err)
{
	static const char *const names[] = { "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token" };
	static const char *const lists[] = { "additional_special_tokens", "extra_special_tokens" };
	const cJSON *item;

	for (size_t i = 0; i < NLA_LEN(names); i++) {
		const cJSON *value = cJSON_GetObjectItemCaseSensitive(b->json, names[i]);

		if (value && check_token(b, names[i], value, err))
			return err->status;
	}
	for (size_t i = 0; i < NLA_LEN(lists); i++)
		cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(b->json, lists[i]))
			if (check_token(b, lists[i], item, err))
				return err->status;
	return NLA_OK;
}

static bool has_id(const cJSON *tokens, int32_t id)
{
	char *key = nla_format("%d", (int)id);
	bool has = cJSON_GetObjectItemCaseSensitive(tokens, key) != NULL;

	free(key);
	return has;
}

/* added_tokens_decoder: {"151645": {"content": .., flags}, ..} */
static enum nla_status check_decoder(const struct beside *b, const cJSON *tokens, struct nla_err *err)
{
	static const char key[] = "added_tokens_decoder";
	const char *class = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(b->json, "tokenizer_class"));
	bool plain = !class || !strcmp(class, "PreTrainedTokenizerFast") || !strcmp(class, "TokenizersBackend");
	const cJSON *item;

	if (!cJSON_IsObject(tokens))
		return nla_fail(err, "cannot use '%s': '%s' is not an object of ids and tokens", b->path, key);
	cJSON_ArrayForEach(item, tokens) {
		const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "content"));

		if (!text || check_token(b, key, item, err))
			return err->status ? err->status : nla_fail(err, "cannot use '%s': '%s' has what is no token", b->path, key);
		if (strtol(item->string, NULL, 10) != find_added(b->tok, text)->id)
			return nla_fail(err, "cannot use '%s': '%s' has token '%s' as %s, tokenizer.json as %d", b->path, key, text, item->string,
					(int)find_added(b->tok, text)->id);
	}
	for (size_t k = 0; k < 2 && !plain && tokens->child; k++)
		for (size_t i = 0; i < b->tok->added[k].n; i++)
			if (!has_id(tokens, b->tok->added[k].data[i].id))
				return nla_fail(err, "cannot use '%s': '%s' lacks token '%s' of tokenizer.json, which a %s then lacks", b->path, key,
						b->tok->added[k].data[i].text, class);
	return NLA_OK;
}

/* added_tokens.json: {"<|im_end|>": 151645, ..} */
static enum nla_status check_added_file(const struct beside *b, struct nla_err *err)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, b->json) {
		const struct nla_tok_added *a = item->string ? find_added(b->tok, item->string) : NULL;

		if (!a || !cJSON_IsNumber(item) || item->valuedouble != a->id)
			return nla_fail(err, "cannot use '%s': its token '%s' is not that of tokenizer.json", b->path, item->string ? item->string : "");
	}
	return NLA_OK;
}

static enum nla_status check_config(const struct beside *b, struct nla_err *err)
{
	static const char *const must_not[] = { "split_special_tokens", "add_prefix_space" };
	const struct nla_tok_place place = { b->path, "", b->json };
	const cJSON *decoder = cJSON_GetObjectItemCaseSensitive(b->json, "added_tokens_decoder");

	for (size_t i = 0; i < NLA_LEN(must_not); i++) {
		bool set;

		if (nla_tok_read_bool(&place, must_not[i], false, &set, err))
			return err->status;
		if (set)
			return nla_tok_fail_field(&place, must_not[i], "false for a byte-level tokenizer", err);
	}
	if (decoder && !cJSON_IsNull(decoder) && check_decoder(b, decoder, err))
		return err->status;
	return check_specials(b, err);
}

enum nla_status nla_tok_check_beside(const struct nla_tokenizer *tok, struct nla_err *err)
{
	static const struct {
		const char *name;
		enum nla_status (*check)(const struct beside *b, struct nla_err *err);
	} files[] = { { "tokenizer_config.json", check_config }, { "special_tokens_map.json", check_specials }, { "added_tokens.json", check_added_file } };
	char *dir = nla_path_dir(tok->path);
	enum nla_status status = NLA_OK;
	bool complete = false; /* the config lists all: the others are then not looked at */

	for (size_t i = 0; i < NLA_LEN(files) && !status && !complete; i++) {
		char *path = nla_path_join(dir, files[i].name);
		cJSON *json = NULL;

		if (nla_exists(path) && !(status = nla_json_read(path, &json, err))) {
			const struct beside b = { tok, path, json };

			status = files[i].check(&b, err);
			complete = cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(json, "added_tokens_decoder"));
		}
		cJSON_Delete(json);
		free(path);
	}
	free(dir);
	return status;
}
