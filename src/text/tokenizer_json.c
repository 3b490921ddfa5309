/*
 * tokenizer_json - reads tokenizer.json of the `tokenizers` library: a BPE model, byte-level or of sentencepiece's kind (byte
 * fallback, spaces as U+2581), with its added tokens and the steps around the model. A field, a value or an order of steps that
 * is not honoured is an error, so a file of a family we do not know fails at load, and never gives wrong ids.
 *
 * Every kind of post_processor only puts special tokens around a text; nla_tokenizer_encode() puts none, but those in front are
 * kept.
 */

#include "base/utf8.h"
#include "text/tokenizer_read.h"

#define SPACE "\"" NLA_TOKENIZER_SPACE "\"" /* as a JSON text */
#define BYTE_LEVEL_REGEX "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* ---- an object against the fields and values that are honoured ---- */

enum nla_status nla_place_fail(const struct nla_place *p, const char *key, const char *want, struct nla_err *err)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(p->json, key);
	char *text = value ? cJSON_PrintUnformatted(value) : NULL;
	nla_fail(err, "cannot read '%s': field '%s%s' is %.80s, want %s", p->path, p->where, key, text ? text : "missing",
		 want);
	cJSON_free(text);
	return err->status;
}

bool nla_place_true(const struct nla_place *p, const char *key)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(p->json, key));
}

/* Has a list of rules one of that field? */
static bool has_rule(const char *rules, const char *key)
{
	size_t n = strlen(key);
	while (rules && (strncmp(rules, key, n) || !strchr("=;", rules[n])))
		rules = (rules = strchr(rules, ';')) ? rules + 1 : NULL;
	return rules != NULL;
}

static enum nla_status check_rule(const struct nla_place *p, const char *rule, struct nla_err *err)
{
	size_t n = strcspn(rule, "=;");
	nla_auto char *key = nla_strndup(rule, n);
	nla_auto char *want = rule[n] == '=' ? nla_strndup(rule + n + 1, strcspn(rule + n + 1, ";")) : NULL;
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(p->json, key);
	char *text = want && value ? cJSON_PrintUnformatted(value) : NULL;
	if (want && nla_word_index(want, text ? text : "null") < 0)
		nla_place_fail(p, key, want, err);
	cJSON_free(text);
	return err->status;
}

enum nla_status nla_place_check(const struct nla_place *p, const char *rules, struct nla_err *err)
{
	const cJSON *child;
	if (!cJSON_IsObject(p->json))
		return nla_fail(err, "cannot read '%s': '%.*s' is not an object", p->path, (int)strcspn(p->where, "."),
				p->where);
	cJSON_ArrayForEach(child, p->json)
		if (*rules != '*' && !has_rule(rules, child->string))
			return nla_fail(err, "cannot read '%s': field '%s%s' is not supported", p->path, p->where,
					child->string);
	for (const char *rule = rules; rule; rule = strchr(rule, ';'), rule = rule ? rule + 1 : NULL)
		if (check_rule(p, rule, err))
			return err->status;
	return NLA_OK;
}

static const char *get_string(const struct nla_place *p, const char *key)
{
	return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(p->json, key));
}

/* ---- the model ---- */

static enum nla_status read_vocab(struct nla_tokenizer *tok, const struct nla_place *p, struct nla_err *err)
{
	const cJSON *entry, *vocab = cJSON_GetObjectItemCaseSensitive(p->json, "vocab");
	if (!cJSON_IsObject(vocab) || !vocab->child)
		return nla_place_fail(p, "vocab", "an object of tokens and ids", err);
	cJSON_ArrayForEach(entry, vocab)
		if (nla_bpe_add_token(&tok->bpe, p->path, entry->string, strlen(entry->string), cJSON_GetNumberValue(entry),
				      NLA_BPE_MODEL, err))
			return err->status;
	return NLA_OK;
}

enum nla_status nla_tokenizer_find_bytes(struct nla_tokenizer *tok, bool *complete, struct nla_err *err)
{
	*complete = true;
	for (int b = 0; b < 256; b++) {
		uint32_t letter = nla_bpe_letter((unsigned char)b);
		nla_auto char *name =
			tok->metaspace ? nla_format("<0x%02X>", (unsigned)b) :
			letter < 0x80  ? nla_format("%c", (int)letter) :
					 nla_format("%c%c", (int)(0xc0 | letter >> 6), (int)(0x80 | (letter & 0x3f)));
		tok->byte[b] = nla_bpe_id(&tok->bpe, name, strlen(name));
		*complete &= tok->byte[b] >= 0;
		if (tok->metaspace && !*complete)
			return nla_fail(err, "cannot load '%s': it has no byte token '%s', want all 256 for its byte fallback",
					tok->path, name);
		if (tok->metaspace)
			tok->bpe.tokens[tok->byte[b]].flags |= NLA_BPE_BYTE;
	}
	return NLA_OK;
}

/* A merge is ["a", "b"], or "a b" in older files. joined: the two texts, appended; returns the length of the first, 0: none. */
static size_t read_pair(const cJSON *item, struct nla_str *joined)
{
	const char *left = cJSON_GetStringValue(item), *right = left ? strchr(left, ' ') : NULL;
	size_t n = right ? (size_t)(right - left) : 0;
	if (cJSON_IsArray(item) && cJSON_GetArraySize(item) == 2) {
		left = cJSON_GetStringValue(item->child);
		right = cJSON_GetStringValue(item->child->next);
		n = left && right ? strlen(left) : 0;
	} else if (right && strchr(++right, ' ')) {
		n = 0;
	}
	nla_str_addn(joined, n ? left : "", n);
	nla_str_add(joined, n ? right : "");
	return n;
}

static enum nla_status read_merges(struct nla_tokenizer *tok, const struct nla_place *p, struct nla_err *err)
{
	const cJSON *item, *list = cJSON_GetObjectItemCaseSensitive(p->json, "merges");
	NLA_AUTO(nla_str_release) struct nla_str joined = NLA_STR_INIT;
	uint32_t rank = 0;
	if (!cJSON_IsArray(list))
		return nla_place_fail(p, "merges", "a list of pairs", err);
	cJSON_ArrayForEach(item, list) {
		nla_str_reset(&joined);
		const size_t n = read_pair(item, &joined);
		const int32_t left = nla_bpe_id(&tok->bpe, joined.buf, n);
		const int32_t right = nla_bpe_id(&tok->bpe, joined.buf + n, joined.len - n);
		const int32_t merged = nla_bpe_id(&tok->bpe, joined.buf, joined.len);
		if (!n)
			return nla_fail(err, "cannot read '%s': 'model.merges[%u]' is not a pair of tokens", p->path, rank);
		if (left < 0 || right < 0 || merged < 0)
			return nla_fail(err,
					"cannot read '%s': 'model.merges[%u]': '%.*s', '%s' or '%s' is not in the vocabulary",
					p->path, rank, (int)n, joined.buf, joined.buf + n, joined.buf);
		nla_bpe_add_merge(&tok->bpe, rank++, left, right, merged);
		nla_i32s_push(&tok->merges, left);
		nla_i32s_push(&tok->merges, right);
	}
	return NLA_OK;
}

static enum nla_status read_model(struct nla_tokenizer *tok, const struct nla_place *p, struct nla_err *err)
{
	static const char rules[] = "type=\"BPE\";dropout=null|0;unk_token;continuing_subword_prefix=null|\"\";"
				    "end_of_word_suffix=null|\"\";fuse_unk" NLA_PLACE_BOOL ";byte_fallback" NLA_PLACE_BOOL
				    ";ignore_merges" NLA_PLACE_BOOL ";vocab;merges";
	bool complete;

	if (nla_place_check(p, rules, err))
		return err->status;
	tok->ignore_merges = nla_place_true(p, "ignore_merges");
	if (tok->metaspace && tok->ignore_merges)
		return nla_place_fail(p, "ignore_merges", "false next to byte_fallback", err);
	if (read_vocab(tok, p, err) || nla_tokenizer_find_bytes(tok, &complete, err))
		return err->status;
	if (!complete && get_string(p, "unk_token")) /* it would take the place of a byte that has none */
		return nla_place_fail(p, "unk_token", "null where bytes have no token", err);
	return read_merges(tok, p, err);
}

/* ---- added tokens ---- */

const char *const nla_added_flags[NLA_ADDED_N_FLAGS] = { "single_word", "lstrip", "rstrip", "normalized", "special" };

enum nla_status nla_tokenizer_read_added(struct nla_tokenizer *tok, const struct nla_place *p, double id, struct nla_err *err)
{
	static const char rules[] = "id;content;single_word" NLA_PLACE_BOOL ";lstrip" NLA_PLACE_BOOL ";rstrip" NLA_PLACE_BOOL
				    ";normalized" NLA_PLACE_BOOL ";special" NLA_PLACE_BOOL;
	const char *content = get_string(p, "content");
	const int32_t known = content ? nla_bpe_id(&tok->bpe, content, strlen(content)) : -1;
	NLA_AUTO(nla_str_release) struct nla_str normal = NLA_STR_INIT;
	unsigned flags = 0;
	for (int i = 0; i < NLA_ADDED_N_FLAGS; i++)
		flags |= (unsigned)nla_place_true(p, nla_added_flags[i]) << i;
	if (!nla_json_at(p->json, "normalized") && !(flags & NLA_ADDED_SPECIAL))
		flags |= NLA_ADDED_NORMALIZED;
	if (nla_place_check(p, rules, err))
		return err->status;
	if (!content || !*content || nla_utf8_valid(content, strlen(content)) < strlen(content))
		return nla_place_fail(p, "content", "a text in UTF-8", err);
	if (flags & NLA_ADDED_NORMALIZED && tok->nfc && !nla_tok_split_nfc(content, strlen(content), &normal, err) &&
	    strcmp(normal.buf, content))
		return nla_place_fail(p, "content", "a text in normal form C, as it is matched there", err);
	if (err->status ||
	    ((known < 0 || known != id) && nla_bpe_add_token(&tok->bpe, p->path, content, strlen(content), id, 0, err)))
		return err->status;
	nla_added_push(tok, content, (int32_t)id, flags);
	tok->bpe.tokens[(int32_t)id].flags &= (uint8_t)~NLA_BPE_SPECIAL;
	tok->bpe.tokens[(int32_t)id].flags |= flags & NLA_ADDED_SPECIAL ? NLA_BPE_SPECIAL : 0;
	return NLA_OK;
}

static enum nla_status read_added_tokens(struct nla_tokenizer *tok, const cJSON *list, struct nla_err *err)
{
	const cJSON *child;
	int i = 0;
	if (list && !cJSON_IsArray(list))
		return nla_fail(err, "cannot read '%s': 'added_tokens' is not a list", tok->path);
	cJSON_ArrayForEach(child, list) {
		nla_auto char *where = nla_format("added_tokens[%d].", i++);
		const struct nla_place p = { tok->path, where, child };
		if (nla_tokenizer_read_added(tok, &p, cJSON_GetNumberValue(nla_json_at(child, "id")), err))
			return err->status;
	}
	return NLA_OK;
}

/* ---- the steps around the model ---- */

enum { NORMALIZER, PRE_TOKENIZER, DECODER, POST_PROCESSOR };
static const struct {
	const char *name, *list, *sequence, *types;
} stages[] = {
	{ "normalizer", "normalizers", "type;normalizers", "NFC, Prepend, Replace or Sequence" },
	{ "pre_tokenizer", "pretokenizers", "type;pretokenizers", "Split, Digits, ByteLevel, Metaspace or Sequence" },
	{ "decoder", "decoders", "type;decoders", "ByteLevel, Replace, ByteFallback, Fuse, Strip or Sequence" },
	{ "post_processor", "processors", "type;processors",
	  "TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing or Sequence" }
};

/* Each step's letter, its fields, and the values of them that are honoured. */
static const struct {
	int stage;
	char letter;
	const char *type, *rules;
} steps[] = {
	{ NORMALIZER, 'N', "NFC", "type" },
	{ NORMALIZER, 'P', "Prepend", "type;prepend=" SPACE },
	{ NORMALIZER, 'R', "Replace", "type;pattern={\"String\":\" \"};content=" SPACE },
	{ PRE_TOKENIZER, 'W', "Split", "type;pattern={\"String\":\" \"};behavior=\"MergedWithPrevious\";invert=false|null" },
	{ PRE_TOKENIZER, 'S', "Split", "type;pattern;behavior=\"Isolated\";invert=false|null" },
	{ PRE_TOKENIZER, 'D', "Digits", "type;individual_digits" NLA_PLACE_BOOL },
	{ PRE_TOKENIZER, 'B', "ByteLevel", "type;add_prefix_space=false;trim_offsets;use_regex" NLA_PLACE_BOOL },
	{ PRE_TOKENIZER, 'M', "Metaspace", "type;replacement=" SPACE ";split=false;add_prefix_space;"
					   "prepend_scheme=\"never\"|\"first\"|\"always\"" },
	{ DECODER, 'B', "ByteLevel", "type;add_prefix_space;trim_offsets;use_regex" },
	{ DECODER, 'R', "Replace", "type;pattern={\"String\":" SPACE "};content=\" \"" },
	{ DECODER, 'F', "ByteFallback", "type" },
	{ DECODER, 'U', "Fuse", "type" },
	{ DECODER, 'S', "Strip", "type;content=\" \";start=1;stop=0" },
	{ POST_PROCESSOR, 'B', "ByteLevel", "*" },
	{ POST_PROCESSOR, 'E', "RobertaProcessing", "*" },
	{ POST_PROCESSOR, 'E', "BertProcessing", "*" },
	{ POST_PROCESSOR, 'T', "TemplateProcessing", "type;single;pair;special_tokens" },
};

static enum nla_status add_split(struct nla_tokenizer *tok, const char *regex, struct nla_err *err)
{
	if (tok->n_splits == NLA_LEN(tok->splits))
		return nla_fail(err, "cannot read '%s': 'pre_tokenizer' has more than %zu splits", tok->path,
				NLA_LEN(tok->splits));
	return nla_tok_split_compile(&tok->splits[tok->n_splits++], tok->path, regex, err);
}

static enum nla_status add_pre_tokenizer(struct nla_tokenizer *tok, const struct nla_place *p, char letter, struct nla_err *err)
{
	const char *regex = cJSON_GetStringValue(nla_json_at(p->json, "pattern.Regex"));
	const cJSON *use_regex = nla_json_at(p->json, "use_regex");
	switch (letter) {
	case 'S':
		return regex ? add_split(tok, regex, err) : nla_place_fail(p, "pattern", "{\"Regex\": ...}", err);
	case 'W':
		return NLA_OK;
	case 'D':
		return add_split(tok, nla_place_true(p, "individual_digits") ? "\\p{N}" : "\\p{N}+", err);
	case 'B':
		return cJSON_IsFalse(use_regex) ? NLA_OK : add_split(tok, BYTE_LEVEL_REGEX, err);
	default:
		tok->prefix = strcmp(get_string(p, "prepend_scheme"), "first") ? NLA_PREFIX_ALWAYS : NLA_PREFIX_FIRST;
		tok->prefix = strcmp(get_string(p, "prepend_scheme"), "never") ? tok->prefix : NLA_PREFIX_NEVER;
		return NLA_OK;
	}
}

/* single: [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}], special_tokens: {"<s>": {"ids": [1]}}. */
static enum nla_status add_template(struct nla_tokenizer *tok, const struct nla_place *p, struct nla_err *err)
{
	const cJSON *item, *number, *tokens = nla_json_at(p->json, "special_tokens");
	struct nla_i32s front = {0};
	bool text = false;
	size_t n;
	cJSON_ArrayForEach(item, nla_json_at(p->json, "single")) {
		const char *name = cJSON_GetStringValue(nla_json_at(item, "SpecialToken.id"));
		const cJSON *token = name ? cJSON_GetObjectItemCaseSensitive(tokens, name) : NULL,
			    *ids = nla_json_at(token, "ids");
		text = text || nla_json_at(item, "Sequence");
		tok->behind |= text && name;
		cJSON_ArrayForEach(number, ids) {
			double id = cJSON_GetNumberValue(number);
			if (!(id >= 0 && id < tok->bpe.n) || !nla_bpe_text(&tok->bpe, (int32_t)id, &n))
				nla_fail(err, "cannot read '%s': '%sspecial_tokens' has for '%s' what is no token's id",
					 p->path, p->where, name);
			else if (!text)
				nla_i32s_push(&front, (int32_t)id);
		}
		if (name && !ids)
			nla_fail(err, "cannot read '%s': '%sspecial_tokens' has no ids of '%s'", p->path, p->where, name);
	}
	if (!text && !err->status)
		nla_place_fail(p, "single", "a list with {\"Sequence\": ...} in it", err);
	nla_i32s_append(&front, tok->front.data, tok->front.n);
	nla_i32s_release(&tok->front);
	tok->front = front;
	return err->status;
}

/* Check the steps of a stage, those of a Sequence in order, and append their letters. */
static enum nla_status read_stage(struct nla_tokenizer *tok, const struct nla_place *p, int stage, struct nla_str *letters,
				  struct nla_err *err)
{
	const char *type = get_string(p, "type"), *behavior = get_string(p, "behavior");
	const bool merges = behavior && !strcmp(behavior, "MergedWithPrevious");
	const cJSON *child;
	int n = 0;
	if (type && !strcmp(type, "Sequence")) {
		if (nla_place_check(p, stages[stage].sequence, err))
			return err->status;
		cJSON_ArrayForEach(child, cJSON_GetObjectItemCaseSensitive(p->json, stages[stage].list)) {
			nla_auto char *where = nla_format("%s%s[%d].", p->where, stages[stage].list, n++);
			const struct nla_place inner = { p->path, where, child };
			if (read_stage(tok, &inner, stage, letters, err))
				return err->status;
		}
		return NLA_OK;
	}
	for (size_t i = 0; type && i < NLA_LEN(steps); i++) {
		if (steps[i].stage != stage || strcmp(steps[i].type, type) || (steps[i].letter == 'W' && !merges))
			continue;
		nla_str_addc(letters, steps[i].letter);
		if (nla_place_check(p, steps[i].rules, err))
			return err->status;
		tok->behind |= stage == POST_PROCESSOR && steps[i].letter == 'E';
		if (stage == POST_PROCESSOR)
			return steps[i].letter == 'T' ? add_template(tok, p, err) : NLA_OK;
		return stage == PRE_TOKENIZER ? add_pre_tokenizer(tok, p, steps[i].letter, err) : NLA_OK;
	}
	return nla_place_fail(p, "type", stages[stage].types, err);
}

static enum nla_status read_named_stage(struct nla_tokenizer *tok, const struct nla_place *root, int stage,
					struct nla_str *letters, struct nla_err *err)
{
	nla_auto char *where = nla_format("%s.", stages[stage].name);
	const struct nla_place p = { root->path, where, nla_json_at(root->json, stages[stage].name) };
	return p.json ? read_stage(tok, &p, stage, letters, err) : NLA_OK;
}

/*
 * Two orders of steps are honoured. Byte-level: NFC or none; splits, then ByteLevel. Metaspace: spaces are replaced by the
 * normaliser (transformers 4, and Gemma, which then splits at them) or by the pre-tokeniser (transformers 5).
 */
static enum nla_status read_stages(struct nla_tokenizer *tok, const struct nla_place *root, struct nla_err *err)
{
	struct nla_str found[] = { NLA_STR_INIT, NLA_STR_INIT, NLA_STR_INIT };
	const char *norm, *pre, *dec, *want[] = { NULL, NULL, NULL };
	enum nla_status status = NLA_OK;
	for (int i = 0; i <= DECODER && !status; i++)
		status = read_named_stage(tok, root, i, &found[i], err);
	norm = found[NORMALIZER].buf, pre = found[PRE_TOKENIZER].buf, dec = found[DECODER].buf;
	if (tok->metaspace) {
		if (*norm && strcmp(norm, "R") && strcmp(norm, "PR"))
			want[NORMALIZER] = "null, or Prepend and Replace of U+2581";
		if (*norm && !strcmp(pre, "W"))
			pre = ""; /* a split at spaces, of which none are left */
		if (strcmp(pre, *norm ? "" : "M"))
			want[PRE_TOKENIZER] =
				*norm ? "null behind that normaliser" : "Metaspace, or a normaliser that replaces spaces";
		if (strcmp(dec, "RFU") && strcmp(dec, "RFUS"))
			want[DECODER] = "Replace of U+2581, ByteFallback, Fuse and perhaps Strip of one space";
	} else {
		if (norm[strspn(norm, "N")])
			want[NORMALIZER] = "NFC or null for a byte-level model";
		if (strcmp(pre + strspn(pre, "SD"), "B"))
			want[PRE_TOKENIZER] = "Split and Digits if any, and ByteLevel as the last";
		if (strcmp(dec, "B"))
			want[DECODER] = "ByteLevel alone";
	}
	for (int i = 0; i <= DECODER && !status; i++)
		status = want[i] ? nla_place_fail(root, stages[i].name, want[i], err) : NLA_OK;
	tok->nfc = *norm == 'N';
	tok->strip_first = !strcmp(dec, "RFUS");
	tok->prefix = *norm == 'P' ? NLA_PREFIX_PREPEND : tok->prefix;
	tok->replaces = tok->metaspace && *norm;
	for (int i = 0; i <= DECODER; i++)
		nla_str_release(&found[i]);
	return status;
}

/* ---- the whole ---- */

enum nla_status nla_tokenizer_read_json(struct nla_tokenizer *tok, struct nla_err *err)
{
	static const char rules[] = "version=\"1.0\"|null;truncation;padding;added_tokens;normalizer;pre_tokenizer;"
				    "post_processor;decoder;model";
	NLA_AUTO(nla_str_release) struct nla_str ignored = NLA_STR_INIT;
	nla_auto_json cJSON *json = NULL;
	if (nla_json_read(tok->path, &json, err))
		return err->status;
	const struct nla_place root = { tok->path, "", json }, model = { tok->path, "model.", nla_json_at(json, "model") };
	tok->metaspace = cJSON_IsTrue(nla_json_at(json, "model.byte_fallback"));
	return nla_place_check(&root, rules, err) || read_stages(tok, &root, err) || read_model(tok, &model, err) ||
	       read_added_tokens(tok, nla_json_at(json, "added_tokens"), err) ||
	       read_named_stage(tok, &root, POST_PROCESSOR, &ignored, err) || nla_tokenizer_read_config(tok, err) ?
		       err->status : NLA_OK;
}
