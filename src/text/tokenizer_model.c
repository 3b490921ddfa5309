/*
 * tokenizer_model - a sentencepiece `.model` (Llama 2), as transformers' LlamaTokenizer runs it, and the files next to any
 * tokenizer: tokenizer_config.json, special_tokens_map.json, added_tokens.json.
 *
 * sentencepiece merges, but its normaliser is not used: transformers 5 splits off added tokens, replaces spaces by U+2581, and
 * puts one in front of the text (tokenizer_config.json: `legacy` false or absent), in front of each part between added tokens
 * (`legacy` true), or nowhere (`add_prefix_space` false); also for a tokenizer.json, where `tokenizer_class` is LlamaTokenizer.
 *
 * Of a byte-level tokenizer, what transformers obeys in those files and we do not is an error that names it. Measured on
 * transformers 5: a special token that tokenizer.json lacks is added with a new id, another flag of added_tokens_decoder takes
 * the place of tokenizer.json's, and a tokenizer of a class of its own (Qwen2Tokenizer) has the added tokens of
 * added_tokens_decoder alone.
 */

#include "base/file.h"
#include "base/utf8.h"
#include "text/tokenizer_read.h"

/* ---- protobuf's wire format, and sentencepiece_model.proto ---- */

struct wire {
	const unsigned char *at, *end;
	bool broken;
};
enum wire_type { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };
struct field {
	uint64_t number, type;
	uint64_t value;    /* of a number; the length of bytes */
	struct wire bytes;
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
	static const uint8_t fixed[8] = { [FIXED64] = 8, [FIXED32] = 4 };
	uint64_t tag, type, n;
	if (w->broken || w->at == w->end)
		return false;
	tag = read_varint(w);
	type = tag & 7;
	n = type == VARINT || type == BYTES ? read_varint(w) : fixed[type];
	*f = (struct field){ .number = tag >> 3, .type = type, .value = fixed[type] ? 0 : n };
	n = type == VARINT ? 0 : n;
	w->broken |= (uint64_t)(w->end - w->at) < n || (type != VARINT && type != BYTES && !fixed[type]);
	if (w->broken)
		return false;
	f->bytes = (struct wire){ w->at, w->at + n, false };
	w->at += n;
	for (uint64_t i = 0; i < fixed[type]; i++)
		f->value |= (uint64_t)f->bytes.at[i] << 8 * i;
	return true;
}

enum { PIECE = 1, TRAINER = 2, NORMALIZER = 3 };
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_UNUSED = 5, TYPE_BYTE = 6 };

/* What the fields of a message must be, or be by default. */
static const struct {
	unsigned message, number;
	enum wire_type type;
	uint64_t unsaid, want;
	const char *wrong;
} facts[] = { { TRAINER, 3, VARINT, 1, 2, "'trainer_spec.model_type' is not BPE" },
	      { TRAINER, 24, VARINT, 0, 0, "'trainer_spec.treat_whitespace_as_suffix' is set, want it false" },
	      { NORMALIZER, 2, BYTES, 0, 0, "'normalizer_spec.precompiled_charsmap' is set, want the identity" },
	      { NORMALIZER, 4, VARINT, 1, 0, "'normalizer_spec.remove_extra_whitespaces' is true, want false" },
	      { NORMALIZER, 5, VARINT, 1, 1, "'normalizer_spec.escape_whitespaces' is false, want true" } };

static enum nla_status read_piece(struct nla_tokenizer *tok, struct wire w, int32_t id, float *last, struct nla_err *err)
{
	static const uint8_t flags[] = { [TYPE_NORMAL] = NLA_BPE_MODEL, [TYPE_UNKNOWN] = NLA_BPE_SPECIAL,
					 [TYPE_CONTROL] = NLA_BPE_SPECIAL, [TYPE_BYTE] = NLA_BPE_BYTE };
	struct wire text = { 0 };
	uint64_t type = TYPE_NORMAL;
	uint32_t bits = 0;
	float score;
	for (struct field f; next_field(&w, &f);) {
		if (f.number == 1 && f.type == BYTES)
			text = f.bytes;
		else if (f.number == 2 && f.type == FIXED32)
			bits = (uint32_t)f.value;
		else if (f.number == 3 && f.type == VARINT)
			type = f.value;
	}
	memcpy(&score, &bits, sizeof(score));
	const size_t n = w.broken ? 0 : (size_t)(text.end - text.at);
	if (!n || nla_utf8_valid((const char *)text.at, n) < n || type > TYPE_BYTE || !type || type == TYPE_UNUSED)
		return nla_fail(err, "cannot load '%s': piece %d is damaged or of an unknown type", tok->path, (int)id);
	if (type == TYPE_NORMAL && score > *last)
		return nla_fail(err,
				"cannot load '%s': the score of piece %d is above that of one before it, want them in order",
				tok->path, (int)id);
	*last = type == TYPE_NORMAL ? score : *last;
	nla_auto char *name = nla_strndup((const char *)text.at, (size_t)(text.end - text.at));
	if (!nla_bpe_add_token(&tok->bpe, tok->path, name, strlen(name), id, flags[type], err) && type != TYPE_NORMAL &&
	    type != TYPE_BYTE)
		nla_added_push(tok, name, id, 0);
	return err->status;
}

/* The last field of a number counts, of several messages as of one; one of another wire type does not. */
static enum nla_status read_proto(struct nla_tokenizer *tok, struct wire w, struct nla_err *err)
{
	uint64_t found[NLA_LEN(facts)];
	bool broken = false;
	float last = 1e30f;
	int32_t n = 0;
	for (size_t i = 0; i < NLA_LEN(facts); i++)
		found[i] = facts[i].unsaid;
	for (struct field m, f; next_field(&w, &m); broken |= m.bytes.broken) {
		if (m.type == BYTES && m.number == PIECE && read_piece(tok, m.bytes, n++, &last, err))
			return err->status;
		while (m.type == BYTES && (m.number == TRAINER || m.number == NORMALIZER) && next_field(&m.bytes, &f))
			for (size_t i = 0; i < NLA_LEN(facts); i++)
				if (facts[i].message == m.number && facts[i].number == f.number && facts[i].type == f.type)
					found[i] = f.value;
	}
	if (w.broken || !n)
		return nla_fail(err, "cannot load '%s': it is no sentencepiece model, or damaged", tok->path);
	for (size_t i = 0; i < NLA_LEN(facts); i++)
		if (broken || found[i] != facts[i].want)
			return nla_fail(err, "cannot load '%s': %s", tok->path, broken ? "it is damaged" : facts[i].wrong);
	return NLA_OK;
}

enum nla_status nla_tokenizer_read_model(struct nla_tokenizer *tok, struct nla_err *err)
{
	/* Later fields count: byte_fallback true; add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces false. */
	static const char ours[] = "\x12\x03\x98\x02\x01\x1a\x06\x18\x00\x20\x00\x28\x00";
	NLA_AUTO(nla_str_release) struct nla_str file = NLA_STR_INIT;
	bool complete;
	tok->metaspace = true;
	if (nla_file_read(tok->path, &file, err))
		return err->status;
	const struct wire w = { (const unsigned char *)file.buf, (const unsigned char *)file.buf + file.len, false };
	if (read_proto(tok, w, err) || nla_tokenizer_find_bytes(tok, &complete, err) || nla_tokenizer_read_config(tok, err))
		return err->status;
	nla_str_addn(&file, ours, sizeof(ours) - 1);
	tok->sp = sp_from_bytes(file.buf, file.len);
	return tok->sp ? NLA_OK : nla_fail(err, "cannot load '%s': %s", tok->path, sp_error());
}

/* ---- the files next to it ---- */

static bool has_id(const cJSON *tokens, int32_t id)
{
	char key[16];
	snprintf(key, sizeof(key), "%d", (int)id);
	return cJSON_GetObjectItemCaseSensitive(tokens, key) != NULL;
}

static const struct nla_added *find_added(const struct nla_tokenizer *tok, const char *text)
{
	for (size_t k = 0; text && k < 2; k++)
		for (size_t i = 0; i < tok->added[k].n; i++)
			if (!strcmp(tok->added[k].data[i].text, text))
				return &tok->added[k].data[i];
	return NULL;
}

/* A token that a file names, perhaps with its flags and its id (NAN: not said), must be tokenizer.json's. */
static enum nla_status check_token(const struct nla_tokenizer *tok, const struct nla_place *p, const char *key,
				   const char *text, const cJSON *flags, double id, struct nla_err *err)
{
	const struct nla_added *a = find_added(tok, text);
	if (!text)
		return nla_fail(err, "cannot use '%s': '%s' has what is no token", p->path, key);
	if (!a)
		return nla_fail(err,
				"cannot use '%s': '%s' has '%.60s', which is no added token of tokenizer.json: transformers "
				"adds it; save the tokenizer with it, or take it out",
				p->path, key, text);
	if (!isnan(id) && id != a->id)
		return nla_fail(err, "cannot use '%s': '%s' has token '%s' as %.15g, tokenizer.json as %d", p->path, key, text,
				id, (int)a->id);
	for (int i = 0; i < NLA_ADDED_N_FLAGS; i++) {
		const cJSON *theirs = cJSON_GetObjectItemCaseSensitive(flags, nla_added_flags[i]);
		const bool ours = a->flags & 1u << i;
		if (cJSON_IsBool(theirs) && cJSON_IsTrue(theirs) != ours)
			return nla_fail(err, "cannot use '%s': '%s' has '%s' of token '%s' %s, tokenizer.json has it %s: make "
					"them agree", p->path, key, nla_added_flags[i], a->text, ours ? "false" : "true",
					ours ? "true" : "false");
	}
	return NLA_OK;
}

/* Under each key a token, by its text or as an object, or a list of such. transformers takes no flags from here. */
static enum nla_status check_specials(const struct nla_tokenizer *tok, const struct nla_place *p, struct nla_err *err)
{
	static const char *const keys[] = { "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
					    "mask_token", "additional_special_tokens", "extra_special_tokens" };
	for (size_t i = 0; i < NLA_LEN(keys); i++) {
		const cJSON *value = nla_json_at(p->json, keys[i]), *content = nla_json_at(value, "content");
		bool list = cJSON_IsArray(value) || (cJSON_IsObject(value) && !content);
		for (const cJSON *item = list ? value->child : value; item; item = list ? item->next : NULL) {
			const char *text = cJSON_GetStringValue(cJSON_IsObject(item) ? nla_json_at(item, "content") : item);
			if (!(text && !*text) && check_token(tok, p, keys[i], text, NULL, NAN, err))
				return err->status;
		}
	}
	return NLA_OK;
}

/* Byte-level. tokens: added_tokens_decoder, {"151645": {"content": .., flags}, ..} */
static enum nla_status check_config(struct nla_tokenizer *tok, const struct nla_place *p, const char *class,
				    const cJSON *tokens, struct nla_err *err)
{
	bool plain = !class || !strcmp(class, "PreTrainedTokenizerFast") || !strcmp(class, "TokenizersBackend");
	const cJSON *item;
	if (nla_place_check(p, "*;split_special_tokens=false|null;add_prefix_space=false|null", err))
		return err->status;
	cJSON_ArrayForEach(item, tokens)
		if (check_token(tok, p, "added_tokens_decoder", cJSON_GetStringValue(nla_json_at(item, "content")), item,
				item->string ? strtod(item->string, NULL) : -1, err))
			return err->status;
	for (size_t k = 0; k < 2 && !plain && tokens && tokens->child; k++)
		for (size_t i = 0; i < tok->added[k].n; i++)
			if (!has_id(tokens, tok->added[k].data[i].id))
				return nla_fail(err,
						"cannot use '%s': 'added_tokens_decoder' lacks token '%s' of tokenizer.json, "
						"which a %s then lacks",
						p->path, tok->added[k].data[i].text, class);
	return check_specials(tok, p, err);
}

/* Of a .model: takes the place of what the model says of these ids. */
static enum nla_status take_decoder(struct nla_tokenizer *tok, const struct nla_place *root, const cJSON *tokens,
				    struct nla_err *err)
{
	struct nla_added_set *set = &tok->added[0];
	size_t kept = 0;
	for (size_t i = 0; i < set->n; i++) {
		if (has_id(tokens, set->data[i].id))
			free(set->data[i].text);
		else
			set->data[kept++] = set->data[i];
	}
	set->n = kept;
	for (const cJSON *item = tokens->child; item; item = item->next) {
		nla_auto char *where = nla_format("added_tokens_decoder.%s.", item->string);
		const struct nla_place p = { root->path, where, item };
		if (!*item->string || item->string[strspn(item->string, "0123456789")])
			return nla_fail(err, "cannot read '%s': 'added_tokens_decoder' has '%s' in the place of an id",
					root->path, item->string);
		if (nla_tokenizer_read_added(tok, &p, strtod(item->string, NULL), err))
			return err->status;
	}
	return NLA_OK;
}

/* What transformers puts around a text: bos_token where add_bos_token is true, "<s>" unless it is said. */
static enum nla_status take_bos(struct nla_tokenizer *tok, const struct nla_place *p, struct nla_err *err)
{
	const cJSON *token = nla_json_at(p->json, "bos_token");
	const char *text = cJSON_GetStringValue(cJSON_IsObject(token) ? nla_json_at(token, "content") : token);
	int32_t id = nla_bpe_id(&tok->bpe, text ? text : "<s>", strlen(text ? text : "<s>"));
	tok->behind = nla_place_true(p, "add_eos_token");
	if (!nla_place_true(p, "add_bos_token"))
		return NLA_OK;
	if (id < 0)
		return nla_place_fail(p, "bos_token", "a token of the model, as add_bos_token is true", err);
	nla_i32s_push(&tok->front, id);
	return NLA_OK;
}

/* A normalized added token is looked for among spaces here, which such a normaliser has replaced: does it match otherwise? */
static bool differs(const struct nla_tokenizer *tok, const struct nla_added *a)
{
	return tok->prefix == NLA_PREFIX_PREPEND ||
	       (tok->replaces && (a->flags & (NLA_ADDED_LSTRIP | NLA_ADDED_RSTRIP) || strchr(a->text, ' ') ||
				  strstr(a->text, NLA_TOKENIZER_SPACE)));
}

static enum nla_status take_config(struct nla_tokenizer *tok, const struct nla_place *p, const char *class,
				   const cJSON *decoder, struct nla_err *err)
{
	bool native = !tok->bpe.merges.n;
	if (!class) /* what transformers takes: of a tokenizer.json what it says */
		class = native ? "LlamaTokenizer" : "TokenizersBackend";
	bool llama = nla_word_index("LlamaTokenizer|LlamaTokenizerFast", class) >= 0;
	bool gemma = !llama && nla_word_index("GemmaTokenizer|GemmaTokenizerFast", class) >= 0 && !tok->prefix;
	if (!llama && (native || (!gemma && nla_word_index("PreTrainedTokenizerFast|TokenizersBackend", class) < 0)))
		return nla_place_fail(p, "tokenizer_class", native ? "LlamaTokenizer for a sentencepiece model"
							   : "LlamaTokenizer, or GemmaTokenizer without a space in front", err);
	if (nla_place_check(p, "*;legacy" NLA_PLACE_BOOL ";add_prefix_space" NLA_PLACE_BOOL ";add_bos_token" NLA_PLACE_BOOL
			    ";add_eos_token" NLA_PLACE_BOOL ";split_special_tokens=false|null", err))
		return err->status;
	if (llama) {
		tok->strip_first = !cJSON_IsFalse(nla_json_at(p->json, "add_prefix_space"));
		tok->prefix = nla_place_true(p, "legacy") ? NLA_PREFIX_ALWAYS : NLA_PREFIX_FIRST;
		tok->prefix = tok->strip_first ? tok->prefix : NLA_PREFIX_NEVER;
	}
	for (size_t i = 0; i < tok->added[1].n; i++)
		if (!llama && differs(tok, &tok->added[1].data[i]))
			return nla_fail(err, "cannot load '%s': added token '%s' is normalized, which is not supported behind "
					"a normaliser that replaces spaces", tok->path, tok->added[1].data[i].text);
	if (native && decoder && take_decoder(tok, p, decoder, err))
		return err->status;
	return native ? take_bos(tok, p, err) : NLA_OK;
}

/* added_tokens.json: {"<|im_end|>": 151645, ..} */
static enum nla_status check_added_file(const struct nla_tokenizer *tok, const struct nla_place *p, struct nla_err *err)
{
	const cJSON *item;
	if (tok->metaspace)
		return nla_fail(err, "cannot load '%s': '%s' is not supported without 'added_tokens_decoder' in "
				"tokenizer_config.json", tok->path, p->path);
	cJSON_ArrayForEach(item, p->json)
		if (check_token(tok, p, "", item->string, NULL, cJSON_IsNumber(item) ? item->valuedouble : -1, err))
			return err->status;
	return NLA_OK;
}

/* Where the config lists all added tokens, the other files are not looked at. An absent file reads as an empty object. */
enum nla_status nla_tokenizer_read_config(struct nla_tokenizer *tok, struct nla_err *err)
{
	static const char *const names[] = { "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json" };
	nla_auto char *dir = nla_path_dir(tok->path);
	bool complete = false;
	for (size_t i = 0; i < NLA_LEN(names) && !err->status && !complete; i++) {
		nla_auto char *path = nla_path_join(dir, names[i]);
		nla_auto_json cJSON *json = nla_exists(path) ? NULL : cJSON_CreateObject();
		if (!json && nla_json_read(path, &json, err))
			break;
		const struct nla_place p = { path, "", json };
		const char *class = cJSON_GetStringValue(nla_json_at(json, "tokenizer_class"));
		const cJSON *decoder = nla_json_at(json, "added_tokens_decoder");
		if (decoder && !cJSON_IsObject(decoder))
			nla_place_fail(&p, "added_tokens_decoder", "an object of ids and tokens", err);
		else if (i == 0)
			(tok->metaspace ? take_config : check_config)(tok, &p, class, decoder, err);
		else if (i == 1 && !tok->metaspace)
			check_specials(tok, &p, err);
		else if (i == 2 && json->child && !(tok->metaspace && tok->bpe.merges.n))
			check_added_file(tok, &p, err);
		complete = decoder;
	}
	return err->status;
}
