/*
 * tokenizer_native - a sentencepiece `.model` (Llama 2), as transformers' LlamaTokenizer runs it, and what is common to it and a
 * tokenizer.json of the same kind.
 *
 * sentencepiece's own normaliser is not used: transformers 5 splits off added tokens, replaces spaces by U+2581, and puts one in
 * front of the text (tokenizer_config.json: `legacy` false or absent), in front of each part between added tokens (`legacy` true),
 * or nowhere (`add_prefix_space` false); whatever a tokenizer.json says of that, where `tokenizer_class` is LlamaTokenizer. Merges
 * are all splits of each piece into two, pieces in order of id; that is what sentencepiece does by scores, so the merging stays
 * with it (tokenizer_proto.c). A tokenizer.json whose merges are not of that form is refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/utf8.h"
#include "text/tokenizer_impl.h"

enum { MODEL_PIECE = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_BYTE = 6 };

/* ---- protobuf's wire format ---- */

struct wire {
	const unsigned char *at, *end;
	bool broken;
};
struct field {
	unsigned number;
	uint64_t value;     /* of a varint or fixed field */
	struct wire bytes;  /* of a length-delimited one  */
};

static uint64_t read_varint(struct wire *w)
{
	uint64_t x = 0;

	for (int shift = 0; shift < 64 && w->at < w->end; shift += 7) {
		x |= (uint64_t)(*w->at & 0x7f) << shift;
		if (!(*w->at++ & 0x80))
			return x;
	}
	w->broken = true;
	return 0;
}

static bool next_field(struct wire *w, struct field *f)
{
	uint64_t tag, n;

	if (w->broken || w->at == w->end)
		return false;
	tag = read_varint(w);
	memset(f, 0, sizeof(*f));
	f->number = (unsigned)(tag >> 3);
	switch (tag & 7) {
	case 0:
		f->value = read_varint(w);
		break;
	case 1: case 5:
		n = (tag & 7) == 1 ? 8 : 4;
		w->broken |= (uint64_t)(w->end - w->at) < n;
		for (uint64_t i = 0; i < n && !w->broken; i++)
			f->value |= (uint64_t)*w->at++ << 8 * i;
		break;
	case 2:
		n = read_varint(w);
		w->broken |= (uint64_t)(w->end - w->at) < n;
		if (!w->broken) {
			f->bytes = (struct wire){ w->at, w->at + n, false };
			w->at += n;
		}
		break;
	default:
		w->broken = true;
	}
	return !w->broken;
}

/* ---- the model ---- */

static void add_mark(struct nla_tokenizer *tok, const char *text, int32_t id, bool special)
{
	struct nla_tok_added added = { .text = nla_strdup(text), .n = strlen(text), .id = id };

	tok->vocab.flags[id] |= special ? NLA_TOK_ADDED | NLA_TOK_SPECIAL : NLA_TOK_ADDED;
	nla_tok_added_push(&tok->added[0], added);
}

static enum nla_status read_piece(struct nla_tokenizer *tok, struct wire w, int32_t id, float *last, struct nla_err *err)
{
	uint64_t type = TYPE_NORMAL;
	uint32_t bits = 0;
	struct wire text = {0};
	struct field f;
	float score;
	enum nla_status status;
	char *name;

	while (next_field(&w, &f)) {
		if (f.number == 1)
			text = f.bytes;
		else if (f.number == 2)
			bits = (uint32_t)f.value;
		else if (f.number == 3)
			type = f.value;
	}
	memcpy(&score, &bits, sizeof(score));
	if (w.broken || text.at == text.end || type > TYPE_BYTE || type == 0 || type == 5)
		return nla_fail(err, "cannot load '%s': piece %d is damaged or of an unknown type", tok->path, (int)id);
	if (type == TYPE_NORMAL && score > *last)
		return nla_fail(err, "cannot load '%s': the score of piece %d is above that of one before it, want them in order", tok->path,
				(int)id);
	*last = type == TYPE_NORMAL ? score : *last;
	name = nla_strndup((const char *)text.at, (size_t)(text.end - text.at));
	status = nla_tok_vocab_add(&tok->vocab, tok->path, name, strlen(name), id, type == TYPE_NORMAL ? NLA_TOK_MODEL : 0, err);
	if (!status && type >= TYPE_UNKNOWN && type <= TYPE_USER)
		add_mark(tok, name, id, type != TYPE_USER);
	free(name);
	return status;
}

static enum nla_status check_spec(const struct nla_tokenizer *tok, struct wire trainer, struct wire normalizer, struct nla_err *err)
{
	uint64_t type = 1, suffix = 0, extra = 1, escape = 1;
	bool charsmap = false;
	struct field f;
	const char *wrong = NULL;

	while (next_field(&trainer, &f)) {
		type = f.number == 3 ? f.value : type;
		suffix = f.number == 24 ? f.value : suffix;
	}
	while (next_field(&normalizer, &f)) {
		charsmap |= f.number == 2 && f.bytes.at < f.bytes.end;
		extra = f.number == 4 ? f.value : extra;
		escape = f.number == 5 ? f.value : escape;
	}
	if (trainer.broken || normalizer.broken)
		wrong = "its trainer_spec or normalizer_spec is damaged";
	else if (type != 2)
		wrong = "'trainer_spec.model_type' is not BPE";
	else if (suffix)
		wrong = "'trainer_spec.treat_whitespace_as_suffix' is set, want it false";
	else if (charsmap)
		wrong = "'normalizer_spec.precompiled_charsmap' is set, want the identity";
	else if (extra)
		wrong = "'normalizer_spec.remove_extra_whitespaces' is true, want false";
	else if (!escape)
		wrong = "'normalizer_spec.escape_whitespaces' is false, want true";
	return wrong ? nla_fail(err, "cannot load '%s': %s", tok->path, wrong) : NLA_OK;
}

enum nla_status nla_tok_find_bytes(struct nla_tokenizer *tok, struct nla_err *err)
{
	char name[8];

	for (int b = 0; b < 256; b++) {
		int32_t id;

		snprintf(name, sizeof(name), "<0x%02X>", b);
		id = nla_tok_vocab_id(&tok->vocab, name, strlen(name));
		if (id < 0)
			return nla_fail(err, "cannot load '%s': it has no byte token '%s', want all 256 for its byte fallback", tok->path,
					name);
		tok->vocab.flags[id] = (uint8_t)((tok->vocab.flags[id] & ~NLA_TOK_MODEL) | NLA_TOK_BYTE);
	}
	return NLA_OK;
}

static bool is_piece(const struct nla_tok_vocab *v, const char *text, size_t n)
{
	int32_t id = nla_tok_vocab_id(v, text, n);

	return id >= 0 && (v->flags[id] & NLA_TOK_MODEL);
}

/* Ways to cut a token into two pieces; 0 also for one that has a character without a piece, *single for one character. */
static int32_t count_splits(const struct nla_tok_vocab *v, int32_t id, bool *single)
{
	size_t n = 0, length;
	const char *text = nla_tok_vocab_text(v, id, &n);
	bool whole = true;
	int32_t count = 0;
	uint32_t cp;

	*single = false;
	for (size_t i = 0; i < n && (length = nla_utf8_next(text + i, n - i, &cp)) > 0; i += length) {
		*single |= length == n;
		whole &= is_piece(v, text + i, length);
		count += i > 0 && is_piece(v, text, i) && is_piece(v, text + i, n - i);
	}
	return whole ? count : 0;
}

/* merges[first[id] .. last[id]] must be the splits of id, all of them and no others: count[id] of them. */
enum nla_status nla_tok_rank_pieces(struct nla_tokenizer *tok, const struct nla_tok_merges *merges, int32_t *rank,
				    struct nla_err *err)
{
	struct nla_tok_vocab *v = &tok->vocab;
	int32_t *count = nla_alloc((size_t)v->n, sizeof(*count)), *last = nla_alloc((size_t)v->n, sizeof(*last)), bad = -1;

	for (int32_t id = 0; id < v->n; id++)
		rank[id] = -1;
	for (int32_t i = 0; merges && i < merges->n; i++) {
		int32_t id = merges->data[i].result;

		rank[id] = count[id]++ ? rank[id] : i;
		last[id] = i;
	}
	for (int32_t id = 0; id < v->n && bad < 0; id++) {
		bool single = false;
		int32_t splits = v->flags[id] & NLA_TOK_MODEL ? count_splits(v, id, &single) : 0;

		if (!(v->flags[id] & NLA_TOK_MODEL)) { /* one that is an added token too is met by merging as well: " the" for U+2581 "the" */
			rank[id] = -1;
		} else if (!merges) {
			rank[id] = single ? 0 : splits ? id : -1;
		} else if (single) {
			rank[id] = 0;
		} else if (count[id] != splits || (splits && last[id] - rank[id] + 1 != splits)) {
			bad = id;
		}
	}
	free(count);
	free(last);
	if (bad < 0)
		return NLA_OK;
	return nla_fail(err, "cannot read '%s': the merges that make '%s' are not those of a sentencepiece model; put its tokenizer.model "
			"in the place of this file", tok->path, v->text.buf + v->offset[bad]);
}

/* ---- tokenizer_config.json ---- */

static bool listed(const cJSON *tokens, const struct nla_tok_added *token)
{
	char key[16];

	snprintf(key, sizeof(key), "%d", (int)token->id);
	return cJSON_HasObjectItem(tokens, key);
}

/* added_tokens_decoder, {"32000": {"content": ..}, ..}: takes the place of what the model says of the same ids. */
static enum nla_status read_decoder_tokens(struct nla_tokenizer *tok, const char *path, const cJSON *json, struct nla_err *err)
{
	struct nla_tok_added_set *set = &tok->added[0];
	const struct nla_tok_place root = { path, "", json };
	const cJSON *item, *tokens = nla_json_at(json, "added_tokens_decoder");
	size_t kept = 0;

	if (!cJSON_IsObject(tokens))
		return nla_tok_fail_field(&root, "added_tokens_decoder", "an object of ids and tokens", err);
	for (size_t i = 0; i < set->n; i++) {
		if (listed(tokens, &set->data[i]))
			free(set->data[i].text);
		else
			set->data[kept++] = set->data[i];
	}
	set->n = kept;
	cJSON_ArrayForEach(item, tokens) {
		char *where = nla_format("added_tokens_decoder.%s.", item->string);
		bool is_id = *item->string && item->string[strspn(item->string, "0123456789")] == '\0';
		struct nla_tok_place place = { path, where, item };
		cJSON *number = cJSON_CreateNumber(strtod(item->string, NULL));
		enum nla_status status = is_id ? nla_tok_read_added_token(tok, &place, number, err) :
						 nla_fail(err, "cannot read '%s': 'added_tokens_decoder' has '%s' in the place of an id", path,
							  item->string);

		cJSON_Delete(number);
		free(where);
		if (status)
			return status;
	}
	return NLA_OK;
}

static enum nla_status apply_config(struct nla_tokenizer *tok, const char *path, const cJSON *json, bool native,
				    struct nla_err *err)
{
	const struct nla_tok_place place = { path, "", json };
	const char *class = cJSON_GetStringValue(nla_json_at(json, "tokenizer_class"));
	bool llama = !class || !strcmp(class, "LlamaTokenizer") || !strcmp(class, "LlamaTokenizerFast"), legacy, prefix;

	if (!llama && !(!native && (!strcmp(class, "PreTrainedTokenizerFast") || !strcmp(class, "TokenizersBackend"))))
		return nla_tok_fail_field(&place, "tokenizer_class", "LlamaTokenizer for a sentencepiece model", err);
	if (nla_tok_read_bool(&place, "legacy", false, &legacy, err) ||
	    nla_tok_read_bool(&place, "add_prefix_space", true, &prefix, err))
		return NLA_FAIL;
	if (llama) {
		tok->prefix = !prefix ? NLA_TOK_NEVER : legacy ? NLA_TOK_ALWAYS : NLA_TOK_FIRST;
		tok->strip_first = prefix;
	}
	return native && nla_json_at(json, "added_tokens_decoder") ? read_decoder_tokens(tok, path, json, err) : NLA_OK;
}

static enum nla_status read_config(struct nla_tokenizer *tok, bool native, struct nla_err *err)
{
	char *dir = nla_path_dir(tok->path), *path = nla_path_join(dir, "tokenizer_config.json");
	char *beside = nla_path_join(dir, "added_tokens.json");
	enum nla_status status = NLA_OK;
	cJSON *json = NULL;

	if (nla_exists(path))
		status = nla_json_read(path, &json, err);
	if (!status && native && nla_exists(beside) && !(json && nla_json_at(json, "added_tokens_decoder")))
		status = nla_fail(err, "cannot load '%s': '%s' is not supported without 'added_tokens_decoder' in tokenizer_config.json",
				  tok->path, beside);
	if (!status)
		status = apply_config(tok, path, json, native, err);
	if (!status && tok->prefix == NLA_TOK_PREPEND && tok->added[1].n)
		status = nla_fail(err, "cannot load '%s': added token '%s' is normalized, which is not supported behind a Prepend normaliser",
				  tok->path, tok->added[1].data[0].text);
	cJSON_Delete(json);
	free(beside);
	free(path);
	free(dir);
	return status;
}

enum nla_status nla_tok_llama_config(struct nla_tokenizer *tok, struct nla_err *err)
{
	return read_config(tok, false, err);
}

static enum nla_status read_model(struct nla_tokenizer *tok, const struct nla_str *file, struct nla_err *err)
{
	struct wire w = { (const unsigned char *)file->buf, (const unsigned char *)file->buf + file->len, false };
	struct wire trainer = {0}, normalizer = {0};
	float last = 1e30f;
	int32_t id = 0;
	struct field f;

	while (next_field(&w, &f)) {
		if (f.number == MODEL_PIECE && read_piece(tok, f.bytes, id++, &last, err))
			return err->status;
		if (f.number == MODEL_TRAINER)
			trainer = f.bytes;
		if (f.number == MODEL_NORMALIZER)
			normalizer = f.bytes;
	}
	if (w.broken || !id)
		return nla_fail(err, "cannot load '%s': it is no sentencepiece model, or damaged", tok->path);
	return check_spec(tok, trainer, normalizer, err);
}

enum nla_status nla_tok_read_native(struct nla_tokenizer *tok, struct nla_str *proto, struct nla_err *err)
{
	static const struct nla_tok_merges none = {0};
	struct nla_str file = NLA_STR_INIT;
	enum nla_status status = nla_file_read(tok->path, &file, err);

	tok->metaspace = true;
	if (!status)
		status = read_model(tok, &file, err);
	if (!status)
		status = nla_tok_find_bytes(tok, err);
	if (!status)
		status = read_config(tok, true, err);
	if (!status) {
		int32_t *rank = nla_alloc((size_t)tok->vocab.n, sizeof(*rank));

		status = nla_tok_rank_pieces(tok, NULL, rank, err);
		nla_tok_proto(&tok->vocab, rank, proto);
		tok->crc = nla_tok_crc(tok, &none);
		free(rank);
	}
	nla_str_release(&file);
	return status;
}
