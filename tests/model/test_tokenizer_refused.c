/*
 * Tokenizer files that are not honoured: each is an error that names the file and the field.
 */
#include "tokenizer_golden.h"

struct refused {
	const char *path, *value, *message;
};

/* What changes a file, and what is said of it. */
static void check_refused(const struct refused *cases, size_t n)
{
	for (size_t i = 0; i < n; i++) {
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

static void test_refused(void **state)
{
	static const struct refused cases[] = {
		{ "post_processor", "{\"type\":\"New\"}", "field 'post_processor.type' is \"New\", want TemplateProcessing" },
		{ "post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[]}", "field 'post_processor.single' is [], want a list" },
		{ "post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"X\"}}]}",
		  "'post_processor.special_tokens' has no ids of 'X'" },
		{ "post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"X\"}}],"
		  "\"special_tokens\":{\"X\":{\"ids\":[1e300]}}}", "special_tokens' has for 'X' what is no token's id" },
		{ "normalizer", "7", "field 'normalizer.type' is missing" },
		{ "pre_tokenizer", "[]", "field 'pre_tokenizer.type' is missing" },
		{ "surprise", "1", "field 'surprise' is not supported" },
		{ "normalizer", "{\"type\":\"NFKC\"}", "field 'normalizer.type' is \"NFKC\", want NFC" },
		{ "pre_tokenizer", "null", "field 'pre_tokenizer' is null, want Split and Digits if any, and ByteLevel" },
		{ "pre_tokenizer.type", "\"Metaspace\"", "field 'pre_tokenizer.pretokenizers' is not supported" },
		{ "pre_tokenizer.pretokenizers.0.type", "\"Whitespace\"", "field 'pre_tokenizer.pretokenizers[0].type' is \"Whitespace\"" },
		{ "pre_tokenizer.pretokenizers.0.behavior", "\"Removed\"", "pretokenizers[0].behavior' is \"Removed\", want \"Isolated\"" },
		{ "pre_tokenizer.pretokenizers.0.invert", "true", "pretokenizers[0].invert' is true" },
		{ "pre_tokenizer.pretokenizers.0.pattern", "{\"String\":\" \"}", "pretokenizers[0].pattern' is {\"String\":\" \"}" },
		{ "pre_tokenizer.pretokenizers.0.pattern.Regex", "\"a|\\\\w+\"", "regex 'a|\\w+' is not supported from '\\w+' on" },
		{ "pre_tokenizer.pretokenizers.0.pattern.Regex", "\"(a\"", "regex '(a': missing" },
		{ "pre_tokenizer.pretokenizers.0.pattern.Regex", "\"a{,3}\"", "is not supported from '{,3}' on" },
		{ "pre_tokenizer.pretokenizers.0.pattern.Regex", "\"^a\"", "is not supported from '^a' on" },
		{ "pre_tokenizer.pretokenizers.1.add_prefix_space", "true", "pretokenizers[1].add_prefix_space' is true" },
		{ "pre_tokenizer.pretokenizers.1", "{\"type\":\"Digits\"}", "field 'pre_tokenizer' is {\"type\":\"Sequence\"" },
		{ "pre_tokenizer.pretokenizers.0", "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}", "field 'pre_tokenizer' is {\"type\":\"Sequence\"" },
		{ "decoder.type", "\"Metaspace\"", "field 'decoder.type' is \"Metaspace\", want ByteLevel" },
		{ "decoder", "null", "field 'decoder' is null, want ByteLevel alone" },
		{ "normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Lowercase\"}]}",
		  "'normalizer.normalizers[1].type' is \"Lowercase\"" },
		{ "decoder", "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteLevel\"},{\"type\":\"Fuse\"}]}", "field 'decoder' is {\"type\":\"Sequence\"" },
	};

	check_refused(cases, NLA_LEN(cases));
}

static void test_model_refused(void **state)
{
	static const struct refused cases[] = {
		{ "model.type", "\"Unigram\"", "field 'model.type' is \"Unigram\", want \"BPE\"" },
		{ "model.dropout", "0.1", "field 'model.dropout' is 0.1" },
		{ "model.continuing_subword_prefix", "\"##\"", "field 'model.continuing_subword_prefix' is \"##\"" },
		{ "model.end_of_word_suffix", "\"</w>\"", "field 'model.end_of_word_suffix'" },
		{ "model.byte_fallback", "true", "field 'normalizer' is {\"type\":\"NFC\"}, want null, or Prepend and Replace" },
		{ "model.byte_fallback", "1", "field 'model.byte_fallback' is 1" },
		{ "model.fuse_unk", "7", "field 'model.fuse_unk' is 7" },
		{ "model.ignore_merges", "1", "field 'model.ignore_merges' is 1, want true|false|null" },
		{ "model.vocab", "[]", "field 'model.vocab'" },
		{ "model.vocab.a", "-1", "token 'a' has id -1, want a whole number from 0 to 16777215" },
		{ "model.vocab.a", "1.5", "token 'a' has id 1.5, want a whole number" },
		{ "model.vocab.a", "99999999", "token 'a' has id 99999999" },
		{ "model.vocab.a", "2147483648", "token 'a' has id 2147483648" },
		{ "model.vocab.a", "1e300", "token 'a' has id 1e+300, want a whole number" },
		{ "model.vocab.a", "-1e300", "token 'a' has id -1e+300" },
		{ "model.vocab.a", "\"7\"", "the id of token 'a' is no number" },
		{ "model.merges.3", "7", "'model.merges[3]' is not a pair" },
		{ "model.merges.3", "[\"\",\"a\"]", "'model.merges[3]' is not a pair" },
		{ "model.merges.3", "[7,\"a\"]", "'model.merges[3]' is not a pair" },
		{ "model", "7", "'model' is not an object" },
		{ "added_tokens.1", "7", "'added_tokens[1]' is not an object" },
		{ "added_tokens.1.id", "1e300", "has id 1e+300" },
		{ "added_tokens.1.id", "-1", "has id -1" },
		{ "added_tokens.1.id", "null", "the id of token '<|im_start|>' is no number" },
		{ "model.vocab.a", "0", "tokens '!' and 'a' have the same id 0" },
		{ "model.merges", "null", "field 'model.merges' is null" },
		{ "model.merges.3", "\"a b c\"", "'model.merges[3]' is not a pair" },
		{ "model.merges.3", "[\"a\"]", "'model.merges[3]' is not a pair" },
		{ "model.merges.3", "[\"a\",\"nope\"]", "'model.merges[3]': 'a', 'nope' or 'anope' is not in the vocabulary" },
		{ "added_tokens", "{}", "'added_tokens' is not a list" },
		{ "added_tokens.1.content", "\"\"", "field 'added_tokens[1].content' is \"\"" },
		{ "added_tokens.1.content", "\"\xa9\"", "want a text in UTF-8" }, /* matched inside "é" it would leave half of it */
		{ "added_tokens.1.special", "\"yes\"", "field 'added_tokens[1].special' is \"yes\"" },
		{ "added_tokens.1.id", "3", "have the same id 3" },
		{ "added_tokens.1.content", "\"a\"", "token 'a' has two ids" },
		{ "added_tokens.1", "{\"id\":598,\"content\":\"e\\u0301\",\"normalized\":true}", "in normal form C" },
		{ "added_tokens.1.rare", "true", "field 'added_tokens[1].rare' is not supported" },
	};

	check_refused(cases, NLA_LEN(cases));
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

static void test_unknown_token(void **state)
{
	write_changed_file("smollm", "model.unk_token", "\"<|endoftext|>\"");
	expect_refused("tokenizer.json", "unk_token", "field 'model.unk_token' is \"<|endoftext|>\", want null where bytes have no token");
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
		{ "\"added_tokens_decoder\":[1]", "field 'added_tokens_decoder' is [1], want an object" },
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
		"\"bos_token\":{\"__type\":\"AddedToken\",\"content\":\"<|im_end|>\",\"normalized\":true,\"lstrip\":true}",
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
	expect_refused("added_tokens.json", "another id", "has token '<|im_end|>' as 598, tokenizer.json as 599");
	write_text("added_tokens.json", "{\"<|im_end|>\": 599}");
	nla_tokenizer_free(load(scratch));
	remove_file("added_tokens.json");
	remove_file("tokenizer_config.json");
}

static void test_metaspace_refused(void **state)
{
	static const char *const cases[][3] = {
		{ "normalizer", "{\"type\":\"NFKC\"}", "field 'normalizer.type' is \"NFKC\", want NFC, Prepend" },
		{ "normalizer", "null", "field 'pre_tokenizer' is null, want Metaspace" },
		{ "pre_tokenizer", "{\"type\":\"Digits\"}", "field 'pre_tokenizer' is {\"type\":\"Digits\"}, want null behind that normaliser" },
		{ "decoder", "{\"type\":\"Fuse\"}", "field 'decoder' is {\"type\":\"Fuse\"}" },
		{ "added_tokens.1.normalized", "true", "added token '<s>' is normalized" },
		{ "model.ignore_merges", "true", "field 'model.ignore_merges' is true, want false next to byte_fallback" },
	};

	write_text("tokenizer_config.json", "{\"tokenizer_class\": \"PreTrainedTokenizerFast\"}");
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		write_changed_file("llama2json", cases[i][0], cases[i][1]);
		expect_refused("tokenizer.json", cases[i][0], cases[i][2]);
	}
	write_changed_file("gemma", "added_tokens.1", "{\"id\":1,\"content\":\"<eos>\",\"normalized\":true,\"lstrip\":true,\"special\":true}");
	expect_refused("tokenizer.json", "stripped spaces that are none", "added token '<eos>' is normalized");
	write_changed_file("gemma", "added_tokens.1", "{\"id\":1,\"content\":\"<eos>\",\"normalized\":true,\"special\":true}");
	nla_tokenizer_free(load(scratch));
	copy_file("llama2json/tokenizer.json", "tokenizer.json");
	write_text("tokenizer_config.json", "{\"tokenizer_class\": \"GemmaTokenizer\"}");
	expect_refused("tokenizer_config.json", "class", "field 'tokenizer_class' is \"GemmaTokenizer\", want LlamaTokenizer");
	write_text("tokenizer_config.json", "{\"legacy\": \"yes\"}");
	expect_refused("tokenizer_config.json", "legacy", "field 'legacy' is \"yes\", want true|false|null");
	write_text("tokenizer_config.json", "{\"split_special_tokens\": true}");
	expect_refused("tokenizer_config.json", "special tokens that are split", "field 'split_special_tokens' is true, want false|null");
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
		/* two messages are read as one; a field of another wire type is none */
		{ "\x1a\x05\x12\x01x\x20\x00\x1a\x02\x20\x00", 11, "'normalizer_spec.precompiled_charsmap' is set" },
		{ "\x1a\x07\x12\x01x\x10\x00\x20\x00", 9, "'normalizer_spec.precompiled_charsmap' is set" },
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused), cmocka_unit_test(test_model_refused), cmocka_unit_test(test_unknown_token),
		cmocka_unit_test(test_beside_refused), cmocka_unit_test(test_metaspace_refused), cmocka_unit_test(test_native_refused),
		cmocka_unit_test(test_native_config_refused), cmocka_unit_test(test_no_tokenizer),
	};

	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
