/*
 * The tokenizer against the reference libraries (tests/golden/make_tokenizer_golden.py made the numbers),
 * and that whatever a tokenizer.json holds which we do not honour is refused by name.
 */
#include <pthread.h>

#include "tokenizer_golden.h"

static size_t check_encode(const struct nla_tokenizer *tok, const cJSON *rows)
{
	struct nla_i32s got = {0}, want = {0};
	struct nla_err err = NLA_ERR_INIT;
	const cJSON *row;
	size_t n = 0;

	cJSON_ArrayForEach(row, rows) {
		const char *text = row->child->valuestring;

		got.n = 0;
		ids_of(row->child->next, &want);
		if (nla_tokenizer_encode(tok, text, strlen(text), &got, &err))
			fail_msg("'%s': %s", text, err.text);
		expect_ids(text, &got, &want);
		n++;
	}
	nla_i32s_release(&got);
	nla_i32s_release(&want);
	return n;
}

static void check_decode(const struct nla_tokenizer *tok, const cJSON *rows)
{
	struct nla_str text = NLA_STR_INIT;
	struct nla_err err = NLA_ERR_INIT;
	struct nla_i32s ids = {0};
	const cJSON *row;

	assert_true(cJSON_GetArraySize(rows) >= 60);
	cJSON_ArrayForEach(row, rows) {
		const cJSON *want = row->child->next;

		ids_of(row->child, &ids);
		for (int skip = 0; skip < 2; skip++, want = want->next) {
			nla_str_reset(&text);
			assert_int_equal(nla_tokenizer_decode(tok, ids.data, ids.n, skip, &text, &err), NLA_OK);
			assert_string_equal(text.buf, want->valuestring);
		}
	}
	nla_str_release(&text);
	nla_i32s_release(&ids);
}

static void check_folder(const char *folder, const char *name)
{
	struct nla_tokenizer *tok = load(folder);
	cJSON *json = golden(name);

	assert_true(check_encode(tok, nla_json_at(json, "encode")) >= 200);
	check_decode(tok, nla_json_at(json, "decode"));
	cJSON_Delete(json);
	nla_tokenizer_free(tok);
}

static void test_small(void **state) { check_folder(TOKENIZERS "small", "small"); }
static void test_llama(void **state) { check_folder(TOKENIZERS "llama", "llama"); }
static void test_smollm(void **state) { check_folder(TOKENIZERS "smollm", "smollm"); }
static void test_flags(void **state) { check_folder(TOKENIZERS "flags", "flags"); }
static void test_native(void **state) { check_folder(TOKENIZERS "native", "native"); }
static void test_llama2(void **state) { check_folder(TOKENIZERS "llama2", "llama2"); }
static void test_llama2_json(void **state) { check_folder(TOKENIZERS "llama2json", "llama2json"); }

/* "legacy" in tokenizer_config.json decides where a space is put in front, for a .model and for a tokenizer.json alike. */
static void test_llama2_config(void **state)
{
	static const char *const files[][2] = { { "llama2/tokenizer.model", "tokenizer.model" },
						{ "llama2json/tokenizer.json", "tokenizer.json" } };
	static const char *const configs[][2] = { { "{\"legacy\": true}", "legacy" }, { "{\"legacy\": false}", "encode" }, { "{}", "encode" },
						  { "{\"tokenizer_class\": \"LlamaTokenizerFast\", \"legacy\": true}", "legacy" } };
	cJSON *json = golden("llama2");
	uint32_t crc[NLA_LEN(configs)];

	for (size_t f = 0; f < NLA_LEN(files); f++) {
		copy_file(files[f][0], files[f][1]);
		for (size_t i = 0; i < NLA_LEN(configs); i++) {
			struct nla_tokenizer *tok;

			write_text("tokenizer_config.json", configs[i][0]);
			tok = load(scratch);
			assert_true(check_encode(tok, nla_json_at(json, configs[i][1])) >= 150);
			if (!strcmp(configs[i][1], "encode"))
				check_decode(tok, nla_json_at(json, "decode"));
			crc[i] = nla_tokenizer_crc(tok);
			nla_tokenizer_free(tok);
		}
		assert_int_not_equal(crc[0], crc[1]);
		assert_int_equal(crc[1], crc[2]);
		remove_file(files[f][1]);
	}
	remove_file("tokenizer_config.json");
	cJSON_Delete(json);
}

/* Tokens that a checkpoint has added to its sentencepiece model. */
static void test_native_added(void **state)
{
	struct nla_tokenizer *tok;
	struct nla_err err = NLA_ERR_INIT;
	struct nla_i32s ids = {0};

	copy_file("llama2/tokenizer.model", "tokenizer.model");
	write_text("added_tokens.json", "{\"<|pad|>\": 700}");
	assert_int_equal(nla_tokenizer_load(&tok, scratch, &err), NLA_FAIL);
	assert_non_null(strstr(err.text, "added_tokens.json' is not supported without 'added_tokens_decoder'"));
	write_text("tokenizer_config.json", "{\"added_tokens_decoder\": {\"1\": {\"content\": \"<s>\", \"rstrip\": true, \"special\": true}, "
		   "\"700\": {\"content\": \"<|pad|>\", \"special\": true}}}");
	tok = load(scratch);
	assert_int_equal(nla_tokenizer_size(tok), 701);
	assert_int_equal(nla_tokenizer_encode(tok, "<s>  <|pad|></s>", 16, &ids, &err), NLA_OK);
	assert_int_equal(ids.n, 3);
	assert_int_equal(ids.data[0], 1);
	assert_int_equal(ids.data[1], 700);
	assert_int_equal(ids.data[2], 2);
	nla_i32s_release(&ids);
	nla_tokenizer_free(tok);
	remove_file("added_tokens.json");
	remove_file("tokenizer_config.json");
	remove_file("tokenizer.model");
}

static void test_qwen3(void **state)
{
	char *folder = qwen3_folder();

	check_folder(folder, "qwen3");
	free(folder);
}

static void test_ids(void **state)
{
	struct nla_tokenizer *small = load(TOKENIZERS "small"), *flags = load(TOKENIZERS "flags"), *native = load(TOKENIZERS "native");
	struct nla_err err = NLA_ERR_INIT;
	struct nla_str out = NLA_STR_INIT;
	const int32_t hole = 90, outside = 600, negative = -1;

	assert_int_equal(nla_tokenizer_size(small), 600);
	assert_int_equal(nla_tokenizer_id(small, "<|endoftext|>"), 597);
	assert_int_equal(nla_tokenizer_id(small, "<|im_end|>"), 599);
	assert_int_equal(nla_tokenizer_id(small, "!"), 0);
	assert_int_equal(nla_tokenizer_id(small, "no such token"), -1);
	assert_int_equal(nla_tokenizer_id(native, "<|im_end|>"), 5);
	assert_int_equal(nla_tokenizer_id(native, "no such token"), -1);
	assert_int_equal(nla_tokenizer_id(native, "<unk>"), 0);

	assert_int_equal(nla_tokenizer_decode(small, &outside, 1, false, &out, &err), NLA_FAIL);
	assert_non_null(strstr(err.text, "cannot decode id 600"));
	assert_int_equal(nla_tokenizer_decode(small, &negative, 1, false, &out, &err), NLA_FAIL);
	assert_int_equal(nla_tokenizer_decode(flags, &hole, 1, false, &out, &err), NLA_FAIL);
	assert_int_equal(nla_tokenizer_piece(flags, hole, &out, &err), NLA_FAIL);
	assert_int_equal(nla_tokenizer_decode(native, &outside, 1, false, &out, &err), NLA_FAIL);
	assert_int_equal(out.len, 0);
	nla_str_release(&out);
	nla_tokenizer_free(small);
	nla_tokenizer_free(flags);
	nla_tokenizer_free(native);
}

/* Bytes that end a text early in C, or that are no text. */
static void test_bytes(void **state)
{
	struct nla_tokenizer *tok = load(TOKENIZERS "small");
	struct nla_err err = NLA_ERR_INIT;
	struct nla_i32s ids = {0};
	struct nla_str out = NLA_STR_INIT;
	const int32_t want[] = { nla_tokenizer_id(tok, "a"), nla_tokenizer_id(tok, "\xc4\x80"), nla_tokenizer_id(tok, "b") };

	assert_int_equal(nla_tokenizer_encode(tok, "a\0b", 3, &ids, &err), NLA_OK);
	assert_int_equal(ids.n, 3);
	assert_memory_equal(ids.data, want, sizeof(want));
	assert_int_equal(nla_tokenizer_decode(tok, ids.data, ids.n, false, &out, &err), NLA_OK);
	assert_int_equal(out.len, 3);
	assert_memory_equal(out.buf, "a\0b", 3);

	assert_int_equal(nla_tokenizer_encode(tok, "ab\xe2\x82", 4, &ids, &err), NLA_FAIL);
	assert_non_null(strstr(err.text, "byte 2 is not valid UTF-8"));
	assert_int_equal(ids.n, 3);

	/* Half a character: its raw byte as a piece, U+FFFD as a text; whole again when the other half follows. */
	nla_str_reset(&out);
	ids.n = 0;
	assert_int_equal(nla_tokenizer_encode(tok, "\xc6\xbf", 2, &ids, &err), NLA_OK);
	assert_int_equal(ids.n, 2);
	assert_int_equal(nla_tokenizer_piece(tok, ids.data[0], &out, &err), NLA_OK);
	assert_int_equal(nla_tokenizer_piece(tok, ids.data[1], &out, &err), NLA_OK);
	assert_string_equal(out.buf, "\xc6\xbf");
	nla_str_reset(&out);
	assert_int_equal(nla_tokenizer_decode(tok, ids.data, 1, false, &out, &err), NLA_OK);
	assert_string_equal(out.buf, "\xef\xbf\xbd");
	nla_str_release(&out);
	nla_i32s_release(&ids);
	nla_tokenizer_free(tok);
}

static void test_native_pieces(void **state)
{
	struct nla_tokenizer *tok = load(TOKENIZERS "native");
	struct nla_err err = NLA_ERR_INIT;
	struct nla_str out = NLA_STR_INIT;
	struct nla_i32s ids = {0};

	assert_int_equal(nla_tokenizer_encode(tok, "the \xf0\x9f\x90\xb8", 8, &ids, &err), NLA_OK);
	for (size_t i = 0; i < ids.n; i++)
		assert_int_equal(nla_tokenizer_piece(tok, ids.data[i], &out, &err), NLA_OK);
	assert_string_equal(out.buf, " the \xf0\x9f\x90\xb8");
	nla_str_release(&out);
	nla_i32s_release(&ids);
	nla_tokenizer_free(tok);
}

/* ---- files that are not honoured ---- */

static void test_refused(void **state)
{
	static const struct {
		const char *path, *value, *message;
	} cases[] = {
		{ "truncation", "{\"max_length\":4}", "field 'truncation' is {\"max_length\":4}, want null" },
		{ "padding", "{\"pad_id\":0}", "field 'padding'" },
		{ "surprise", "1", "field 'surprise' is not supported" },
		{ "normalizer", "{\"type\":\"NFKC\"}", "field 'normalizer.type' is \"NFKC\", want \"NFC\"" },
		{ "pre_tokenizer", "null", "field 'pre_tokenizer.type' is missing" },
		{ "pre_tokenizer.type", "\"Metaspace\"", "field 'pre_tokenizer.type' is \"Metaspace\"" },
		{ "pre_tokenizer.pretokenizers.0.type", "\"Whitespace\"", "field 'pre_tokenizer.pretokenizers[0].type' is \"Whitespace\"" },
		{ "pre_tokenizer.pretokenizers.0.behavior", "\"Removed\"", "pretokenizers[0].behavior' is \"Removed\", want \"Isolated\"" },
		{ "pre_tokenizer.pretokenizers.0.invert", "true", "pretokenizers[0].invert' is true" },
		{ "pre_tokenizer.pretokenizers.0.pattern", "{\"String\":\" \"}", "pretokenizers[0].pattern' is {\"String\":\" \"}" },
		{ "pre_tokenizer.pretokenizers.0.pattern.Regex", "\"a|\\\\w+\"", "regex 'a|\\w+' is not supported from '\\w+' on" },
		{ "pre_tokenizer.pretokenizers.0.pattern.Regex", "\"(a\"", "regex '(a': missing" },
		{ "pre_tokenizer.pretokenizers.0.pattern.Regex", "\"^a\"", "is not supported from '^a' on" },
		{ "pre_tokenizer.pretokenizers.1.add_prefix_space", "true", "pretokenizers[1].add_prefix_space' is true" },
		{ "pre_tokenizer.pretokenizers.1", "{\"type\":\"Digits\"}", "'pre_tokenizer' has no ByteLevel" },
		{ "pre_tokenizer.pretokenizers.0", "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}", "[1].type' follows ByteLevel" },
		{ "decoder.type", "\"Metaspace\"", "field 'decoder.type' is \"Metaspace\"" },
		{ "decoder", "null", "'decoder' is not an object" },
		{ "model.type", "\"Unigram\"", "field 'model.type' is \"Unigram\", want \"BPE\"" },
		{ "model.dropout", "0.1", "field 'model.dropout' is 0.1" },
		{ "model.continuing_subword_prefix", "\"##\"", "field 'model.continuing_subword_prefix' is \"##\"" },
		{ "model.end_of_word_suffix", "\"</w>\"", "field 'model.end_of_word_suffix'" },
		{ "model.byte_fallback", "true", "field 'normalizer' is {\"type\":\"NFC\"}, want null, or Prepend and Replace" },
		{ "model.byte_fallback", "1", "field 'model.byte_fallback' is 1" },
		{ "model.fuse_unk", "7", "field 'model.fuse_unk' is 7" },
		{ "normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Lowercase\"}]}",
		  "'normalizer.normalizers[1].type' is \"Lowercase\"" },
		{ "decoder", "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteLevel\"},{\"type\":\"Fuse\"}]}", "field 'decoder.decoders'" },
		{ "model.ignore_merges", "1", "field 'model.ignore_merges' is 1, want true or false" },
		{ "model.vocab", "[]", "field 'model.vocab'" },
		{ "model.vocab.a", "-1", "token 'a' of 'model' has no whole id" },
		{ "model.vocab.a", "1.5", "token 'a' of 'model' has no whole id" },
		{ "model.vocab.a", "99999999", "token 'a' of 'model' has no whole id" },
		{ "model.vocab.a", "0", "tokens '!' and 'a' have the same id 0" },
		{ "model.merges", "null", "field 'model.merges' is null" },
		{ "model.merges.3", "\"a b c\"", "'model.merges[3]' is not a pair" },
		{ "model.merges.3", "[\"a\"]", "'model.merges[3]' is not a pair" },
		{ "model.merges.3", "[\"a\",\"nope\"]", "'model.merges[3]': 'a', 'nope' or 'anope' is not in the vocabulary" },
		{ "added_tokens", "{}", "'added_tokens' is not a list" },
		{ "added_tokens.1.content", "\"\"", "field 'added_tokens[1].content' is \"\"" },
		{ "added_tokens.1.special", "\"yes\"", "field 'added_tokens[1].special' is \"yes\"" },
		{ "added_tokens.1.id", "3", "have the same id 3" },
		{ "added_tokens.1.content", "\"a\"", "token 'a' has two ids" },
		{ "added_tokens.1", "{\"id\":598,\"content\":\"e\\u0301\",\"normalized\":true}", "in normal form C" },
		{ "added_tokens.1.rare", "true", "field 'added_tokens[1].rare' is not supported" },
	};

	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		struct nla_err err = NLA_ERR_INIT;
		struct nla_tokenizer *tok;

		write_changed(cases[i].path, cases[i].value);
		if (!nla_tokenizer_load(&tok, scratch, &err))
			fail_msg("%s = %s was accepted", cases[i].path, cases[i].value);
		assert_null(tok);
		assert_int_equal(err.status, NLA_FAIL);
		if (!strstr(err.text, cases[i].message) || !strstr(err.text, "tokenizer.json"))
			fail_msg("%s = %s: '%s', want '%s'", cases[i].path, cases[i].value, err.text, cases[i].message);
	}
}

static void expect_refused(const char *file, const char *what, const char *message)
{
	struct nla_err err = NLA_ERR_INIT;
	struct nla_tokenizer *tok;

	if (!nla_tokenizer_load(&tok, scratch, &err))
		fail_msg("%s was accepted", what);
	if (!strstr(err.text, message) || !strstr(err.text, file))
		fail_msg("%s: '%s', want '%s'", what, err.text, message);
}

/* Sequences of what is honoured alone are honoured; an unknown token is harmless where every byte has one. */
static void test_accepted(void **state)
{
	static const char *const changes[][2] = {
		{ "normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}" },
		{ "decoder", "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteLevel\"}]}" },
		{ "model.unk_token", "\"<|endoftext|>\"" }, { "model.fuse_unk", "true" }, { "post_processor", "null" },
	};
	cJSON *json = golden("small");

	for (size_t i = 0; i < NLA_LEN(changes); i++) {
		struct nla_tokenizer *tok;

		write_changed(changes[i][0], changes[i][1]);
		tok = load(scratch);
		assert_true(check_encode(tok, nla_json_at(json, "encode")) >= 200);
		check_decode(tok, nla_json_at(json, "decode"));
		nla_tokenizer_free(tok);
	}
	write_changed_file("smollm", "model.unk_token", "\"<|endoftext|>\"");
	expect_refused("tokenizer.json", "unk_token", "field 'model.unk_token' is \"<|endoftext|>\", want null where bytes have no token");
	cJSON_Delete(json);
}

#define IM_END "\"content\":\"<|im_end|>\",\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"single_word\":false,\"special\":true"
#define OTHERS "\"597\":{\"content\":\"<|endoftext|>\"},\"598\":{\"content\":\"<|im_start|>\"},"

/* What transformers obeys of the files beside a byte-level tokenizer.json. */
static void test_beside_refused(void **state)
{
	static const char *const cases[][2] = {
		{ "\"split_special_tokens\":true", "field 'split_special_tokens' is true, want false" },
		{ "\"add_prefix_space\":true", "field 'add_prefix_space' is true, want false" },
		{ "\"pad_token\":\"<X>\"", "'pad_token' has '<X>', which is no added token of tokenizer.json" },
		{ "\"eos_token\":\"the\"", "'eos_token' has 'the', which is no added token" },
		{ "\"unk_token\":{\"content\":\"<X>\"}", "'unk_token' has '<X>'" },
		{ "\"bos_token\":1", "'bos_token' has what is no token" },
		{ "\"additional_special_tokens\":[\"<|im_end|>\",\"<X>\"]", "'additional_special_tokens' has '<X>'" },
		{ "\"extra_special_tokens\":{\"x_token\":\"<X>\"}", "'extra_special_tokens' has '<X>'" },
		{ "\"added_tokens_decoder\":[1]", "'added_tokens_decoder' is not an object" },
		{ "\"added_tokens_decoder\":{\"599\":1}", "'added_tokens_decoder' has what is no token" },
		{ "\"added_tokens_decoder\":{\"600\":{\"content\":\"<X>\"}}", "'added_tokens_decoder' has '<X>'" },
		{ "\"added_tokens_decoder\":{\"5\":{" IM_END "}}", "has token '<|im_end|>' as 5, tokenizer.json as 599" },
		{ "\"added_tokens_decoder\":{\"599\":{\"content\":\"<|im_end|>\",\"lstrip\":true}}",
		  "'added_tokens_decoder' has 'lstrip' of token '<|im_end|>' true, tokenizer.json has it false" },
		{ "\"added_tokens_decoder\":{\"599\":{\"content\":\"<|im_end|>\",\"special\":false}}", "has 'special' of token '<|im_end|>' false" },
		{ "\"tokenizer_class\":\"Qwen2Tokenizer\",\"added_tokens_decoder\":{\"599\":{" IM_END "}}",
		  "'added_tokens_decoder' lacks token '<|endoftext|>' of tokenizer.json, which a Qwen2Tokenizer then lacks" },
	};
	static const char *const good[] = {
		"", "\"bos_token\":null,\"eos_token\":\"<|im_end|>\",\"add_prefix_space\":false,\"split_special_tokens\":false",
		"\"additional_special_tokens\":[\"<|im_end|>\",{" IM_END "}],\"unk_token\":\"<|endoftext|>\"",
		"\"added_tokens_decoder\":{\"599\":{" IM_END "}}",
		"\"tokenizer_class\":\"Qwen2Tokenizer\",\"added_tokens_decoder\":{" OTHERS "\"599\":{" IM_END "}}",
	};

	copy_file("small/tokenizer.json", "tokenizer.json");
	for (size_t i = 0; i < NLA_LEN(cases) + NLA_LEN(good); i++) {
		char *text = nla_format("{%s}", i < NLA_LEN(cases) ? cases[i][0] : good[i - NLA_LEN(cases)]);

		write_text("tokenizer_config.json", text);
		if (i < NLA_LEN(cases))
			expect_refused("tokenizer_config.json", cases[i][0], cases[i][1]);
		else
			nla_tokenizer_free(load(scratch));
		free(text);
	}
	write_text("tokenizer_config.json", "{}");
	write_text("special_tokens_map.json", "{\"pad_token\":\"<X>\"}");
	expect_refused("special_tokens_map.json", "pad_token", "'pad_token' has '<X>'");
	write_text("tokenizer_config.json", "{\"added_tokens_decoder\":{}}"); /* then it is not looked at */
	nla_tokenizer_free(load(scratch));
	remove_file("special_tokens_map.json");
	write_text("tokenizer_config.json", "{}");
	write_text("added_tokens.json", "{\"<|im_end|>\": 598}");
	expect_refused("added_tokens.json", "another id", "its token '<|im_end|>' is not that of tokenizer.json");
	write_text("added_tokens.json", "{\"<|im_end|>\": 599}");
	nla_tokenizer_free(load(scratch));
	remove_file("added_tokens.json");
	remove_file("tokenizer_config.json");
}

static void test_metaspace_refused(void **state)
{
	static const char *const cases[][3] = {
		{ "normalizer", "{\"type\":\"NFKC\"}", "field 'normalizer' is {\"type\":\"NFKC\"}" },
		{ "normalizer", "null", "'pre_tokenizer' is not an object" },
		{ "pre_tokenizer", "{\"type\":\"Digits\"}", "field 'pre_tokenizer' is {\"type\":\"Digits\"}, want null behind that normaliser" },
		{ "decoder", "{\"type\":\"Fuse\"}", "field 'decoder' is {\"type\":\"Fuse\"}" },
		{ "added_tokens.1.normalized", "true", "added token '<s>' is normalized" },
		{ "model.merges.0", "[\"r\",\"e\"]", "are not those of a sentencepiece model; put its tokenizer.model" },
	};

	write_text("tokenizer_config.json", "{\"tokenizer_class\": \"PreTrainedTokenizerFast\"}");
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		write_changed_file("llama2json", cases[i][0], cases[i][1]);
		expect_refused("tokenizer.json", cases[i][0], cases[i][2]);
	}
	copy_file("llama2json/tokenizer.json", "tokenizer.json");
	write_text("tokenizer_config.json", "{\"tokenizer_class\": \"GemmaTokenizer\"}");
	expect_refused("tokenizer_config.json", "class", "field 'tokenizer_class' is \"GemmaTokenizer\", want LlamaTokenizer");
	write_text("tokenizer_config.json", "{\"legacy\": \"yes\"}");
	expect_refused("tokenizer_config.json", "legacy", "field 'legacy' is \"yes\", want true or false");
	write_text("tokenizer_config.json", "{\"legacy\": ");
	expect_refused("tokenizer_config.json", "half a file", "tokenizer_config.json");
	remove_file("tokenizer_config.json");
	remove_file("tokenizer.json");
}

/* Later fields of a protobuf message take the place of earlier ones, so a model is changed by what is put behind it. */
static void test_native_refused(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
		const char *message;
	} cases[] = {
		{ "\x12\x02\x18\x01", 4, "'trainer_spec.model_type' is not BPE" },
		{ "\x12\x05\x18\x02\xc0\x01\x01", 7, "'trainer_spec.treat_whitespace_as_suffix' is set" },
		{ "\x1a\x05\x12\x01x\x20\x00", 7, "'normalizer_spec.precompiled_charsmap' is set" },
		{ "\x1a\x02\x20\x01", 4, "'normalizer_spec.remove_extra_whitespaces' is true, want false" },
		{ "\x1a\x04\x20\x00\x28\x00", 6, "'normalizer_spec.escape_whitespaces' is false" },
		{ "\x0a\x00", 2, "piece 700 is damaged" },
		{ "\x0a\x05\x0a\x03new", 7, "the score of piece 700 is above that of one before it" },
		{ "\x0a\x05\x0a\x03<s>", 7, "the score of piece 700" },
		{ "\x0a\x7f", 2, "it is no sentencepiece model, or damaged" },
	};
	struct nla_err err = NLA_ERR_INIT;
	struct nla_str model = NLA_STR_INIT;
	size_t n;

	assert_int_equal(nla_file_read(TOKENIZERS "llama2/tokenizer.model", &model, &err), NLA_OK);
	n = model.len;
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		char *path = nla_path_join(scratch, "tokenizer.model");

		model.len = n;
		nla_str_addn(&model, cases[i].bytes, cases[i].n);
		assert_int_equal(nla_file_write(path, model.buf, model.len, false, &err), NLA_OK);
		expect_refused("tokenizer.model", cases[i].message, cases[i].message);
		free(path);
	}
	write_text("tokenizer.model", "");
	expect_refused("tokenizer.model", "an empty file", "it is no sentencepiece model, or damaged");
	write_text("tokenizer.model", "hello");
	expect_refused("tokenizer.model", "a text", "it is no sentencepiece model, or damaged");
	remove_file("tokenizer.model");
	nla_str_release(&model);
}

static void test_native_config_refused(void **state)
{
	static const char *const cases[][2] = {
		{ "[1]", "field 'added_tokens_decoder' is [1], want an object of ids and tokens" },
		{ "{\"\":{\"content\":\"<x>\"}}", "'added_tokens_decoder' has '' in the place of an id" },
		{ "{\"7e2\":{\"content\":\"<x>\"}}", "'added_tokens_decoder' has '7e2' in the place of an id" },
		{ "{\"-1\":{\"content\":\"<x>\"}}", "'added_tokens_decoder' has '-1' in the place of an id" },
		{ "{\"700\":1}", "'added_tokens_decoder' is not an object" },
	};

	remove_file("tokenizer.json");
	copy_file("llama2/tokenizer.model", "tokenizer.model");
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		char *text = nla_format("{\"added_tokens_decoder\": %s}", cases[i][0]);

		write_text("tokenizer_config.json", text);
		expect_refused("tokenizer_config.json", cases[i][0], cases[i][1]);
		free(text);
	}
	remove_file("tokenizer.model");
	remove_file("tokenizer_config.json");
}

static void test_no_tokenizer(void **state)
{
	struct nla_err err = NLA_ERR_INIT;
	struct nla_tokenizer *tok;

	assert_int_equal(nla_tokenizer_load(&tok, TEST_DATA, &err), NLA_FAIL);
	assert_non_null(strstr(err.text, "neither tokenizer.json nor tokenizer.model"));
}

/* A change of anything that decides ids changes the crc, and the same file gives the same one. */
static void test_crc(void **state)
{
	static const char *const changes[][2] = {
		{ "version", "\"1.0\"" }, { "normalizer", "null" }, { "model.merges.0", "[\"a\",\"t\"]" }, { "model.ignore_merges", "true" },
		{ "added_tokens.0.lstrip", "true" }, { "pre_tokenizer.pretokenizers.0.pattern.Regex", "\"\\\\p{L}+\"" },
	};
	struct nla_tokenizer *small = load(TOKENIZERS "small");
	uint32_t seen[NLA_LEN(changes)];

	for (size_t i = 0; i < NLA_LEN(changes); i++) {
		struct nla_tokenizer *tok;

		write_changed(changes[i][0], changes[i][1]);
		tok = load(scratch);
		seen[i] = nla_tokenizer_crc(tok);
		for (size_t k = 0; k < i; k++)
			assert_int_not_equal(seen[i], seen[k]);
		nla_tokenizer_free(tok);
	}
	assert_int_equal(seen[0], nla_tokenizer_crc(small));
	nla_tokenizer_free(small);
}

/* ---- threads ---- */

struct job {
	const struct nla_tokenizer *tok;
	const cJSON *rows;
	size_t wrong;
};

static void *encode_all(void *arg)
{
	struct job *job = arg;
	struct nla_err err = NLA_ERR_INIT;
	struct nla_i32s got = {0}, want = {0};
	const cJSON *row;

	for (int round = 0; round < 5; round++) {
		cJSON_ArrayForEach(row, job->rows) {
			const char *text = row->child->valuestring;

			got.n = 0;
			ids_of(row->child->next, &want);
			if (nla_tokenizer_encode(job->tok, text, strlen(text), &got, &err) || got.n != want.n ||
			    (got.n && memcmp(got.data, want.data, got.n * sizeof(*got.data))))
				job->wrong++;
		}
	}
	nla_i32s_release(&got);
	nla_i32s_release(&want);
	return NULL;
}

static void test_threads(void **state)
{
	struct nla_tokenizer *tok = load(TOKENIZERS "small");
	cJSON *json = golden("small");
	struct job jobs[4];
	pthread_t threads[NLA_LEN(jobs)];

	for (size_t i = 0; i < NLA_LEN(jobs); i++) {
		jobs[i] = (struct job){ tok, nla_json_at(json, "encode"), 0 };
		assert_int_equal(pthread_create(&threads[i], NULL, encode_all, &jobs[i]), 0);
	}
	for (size_t i = 0; i < NLA_LEN(jobs); i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(jobs[i].wrong, 0);
	}
	cJSON_Delete(json);
	nla_tokenizer_free(tok);
}

/* Long runs without a place to cut: no limit of the regex engine is met, and nothing is quadratic (the test would time out). */
static void test_long(void **state)
{
	static const char *const units[] = { "a", " ", "\n", " \n", "\xcc\x81", "\xe4\xb8\x80", "ab1" };
	struct nla_tokenizer *tok = load(TOKENIZERS "small");
	struct nla_err err = NLA_ERR_INIT;

	for (size_t u = 0; u < NLA_LEN(units); u++) {
		struct nla_str text = NLA_STR_INIT, back = NLA_STR_INIT;
		struct nla_i32s ids = {0};

		while (text.len < 300000)
			nla_str_add(&text, units[u]);
		assert_int_equal(nla_tokenizer_encode(tok, text.buf, text.len, &ids, &err), NLA_OK);
		assert_int_equal(nla_tokenizer_decode(tok, ids.data, ids.n, false, &back, &err), NLA_OK);
		assert_int_equal(back.len, text.len);
		assert_memory_equal(back.buf, text.buf, text.len);
		nla_str_release(&text);
		nla_str_release(&back);
		nla_i32s_release(&ids);
	}
	nla_tokenizer_free(tok);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small), cmocka_unit_test(test_llama), cmocka_unit_test(test_smollm), cmocka_unit_test(test_flags),
		cmocka_unit_test(test_native), cmocka_unit_test(test_llama2), cmocka_unit_test(test_llama2_json),
		cmocka_unit_test(test_llama2_config), cmocka_unit_test(test_native_added), cmocka_unit_test(test_accepted),
		cmocka_unit_test(test_metaspace_refused), cmocka_unit_test(test_native_refused),
		cmocka_unit_test(test_qwen3), cmocka_unit_test(test_ids), cmocka_unit_test(test_bytes), cmocka_unit_test(test_native_pieces),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_beside_refused), cmocka_unit_test(test_native_config_refused), cmocka_unit_test(test_no_tokenizer), cmocka_unit_test(test_crc),
		cmocka_unit_test(test_threads), cmocka_unit_test(test_long),
	};

	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
