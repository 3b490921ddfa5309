/*
 * The tokenizer against the reference libraries (tests/golden/make_tokenizer_golden.py made the numbers); what is refused is in
 * test_tokenizer_refused.c.
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
	struct nla_i32s ids = {0};
	const cJSON *row;

	assert_true(cJSON_GetArraySize(rows) >= 60);
	cJSON_ArrayForEach(row, rows) {
		const cJSON *want = row->child->next;

		ids_of(row->child, &ids);
		for (int skip = 0; skip < 2; skip++, want = want->next) {
			nla_str_reset(&text);
			nla_tokenizer_decode(tok, ids.data, ids.n, skip, &text);
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
static void test_gemma(void **state) { check_folder(TOKENIZERS "gemma", "gemma"); }

/* Without a class a .model is a LlamaTokenizer's, and a tokenizer.json is what it says. */
static void test_no_class(void **state)
{
	static const char *const files[][3] = { { "llama2/tokenizer.model", "tokenizer.model", "llama2" },
						{ "llama2json/tokenizer.json", "tokenizer.json", "llama2json" },
						{ "gemma/tokenizer.json", "tokenizer.json", "gemma" } };
	for (size_t i = 0; i < NLA_LEN(files); i++) {
		cJSON *json = golden(files[i][2]);
		copy_file(files[i][0], files[i][1]);
		write_text("tokenizer_config.json", "{\"model_max_length\": 100}");
		struct nla_tokenizer *tok = load(scratch);
		assert_true(check_encode(tok, nla_json_at(json, "encode")) >= 150);
		nla_tokenizer_free(tok);
		remove_file(files[i][1]);
		cJSON_Delete(json);
	}
	remove_file("tokenizer_config.json");
}

/* "legacy" in tokenizer_config.json decides where a space is put in front, for a .model and for a tokenizer.json alike. */
static void test_llama2_config(void **state)
{
	static const char *const files[][2] = { { "llama2/tokenizer.model", "tokenizer.model" },
						{ "llama2json/tokenizer.json", "tokenizer.json" } };
#define LLAMA "\"tokenizer_class\": \"LlamaTokenizer\""
	static const char *const configs[][2] = { { "{" LLAMA ", \"legacy\": true}", "legacy" }, { "{" LLAMA ", \"legacy\": false}", "encode" },
						  { "{" LLAMA "}", "encode" },
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

/* What a sentencepiece model could not say: a piece that is an added token too is still what merging makes; merges in another
 * order. Ids of the tokenizers library. */
static void test_metaspace_merges(void **state)
{
	static const char text[] = "the other there retire a a  b";
	static const struct {
		const char *path, *value;
		int32_t ids[12];
	} cases[] = {
		{ "added_tokens", "[{\"id\":0,\"content\":\"<unk>\",\"special\":true},"
		  "{\"id\":273,\"content\":\"\xe2\x96\x81the\",\"normalized\":false,\"special\":false}]",
		  { 273, 454, 265, 446, 335, 269, 280, 263, 263, 259, 626 } },
		{ "model.merges.0", "[\"r\",\"e\"]", { 273, 454, 265, 446, 335, 269, 280, 263, 263, 613, 297 } },
	};
	struct nla_err err = NLA_ERR_INIT;

	write_text("tokenizer_config.json", "{\"tokenizer_class\": \"PreTrainedTokenizerFast\"}");
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		struct nla_tokenizer *tok;
		struct nla_i32s ids = {0};

		write_changed_file("llama2json", cases[i].path, cases[i].value);
		tok = load(scratch);
		assert_int_equal(nla_tokenizer_encode(tok, text, strlen(text), &ids, &err), NLA_OK);
		assert_int_equal(ids.n, 11);
		assert_memory_equal(ids.data, cases[i].ids, 11 * sizeof(*ids.data));
		nla_i32s_release(&ids);
		nla_tokenizer_free(tok);
	}
	remove_file("tokenizer.json");
	remove_file("tokenizer_config.json");
}

/* Tokens that a checkpoint has added to its sentencepiece model. */
static void test_native_added(void **state)
{
	struct nla_tokenizer *tok;
	struct nla_err err = NLA_ERR_INIT;
	struct nla_i32s ids = {0};
	struct nla_str text = NLA_STR_INIT;

	copy_file("llama2/tokenizer.model", "tokenizer.model");
	write_text("added_tokens.json", "{\"<|pad|>\": 700}");
	assert_int_equal(nla_tokenizer_load(&tok, scratch, &err), NLA_FAIL);
	assert_non_null(strstr(err.text, "added_tokens.json' is not supported without 'added_tokens_decoder'"));
	write_text("tokenizer_config.json", "{\"added_tokens_decoder\": {\"1\": {\"content\": \"<s>\", \"rstrip\": true, \"special\": true}, "
		   "\"2\": {\"content\": \"</s>\", \"special\": false}, \"700\": {\"content\": \"<|pad|>\", \"special\": true}}}");
	tok = load(scratch);
	assert_int_equal(nla_tokenizer_size(tok), 701);
	assert_int_equal(nla_tokenizer_encode(tok, "<s>  <|pad|></s>", 16, &ids, &err), NLA_OK);
	assert_int_equal(ids.n, 3);
	assert_int_equal(ids.data[0], 1);
	assert_int_equal(ids.data[1], 700);
	assert_int_equal(ids.data[2], 2);
	nla_tokenizer_decode(tok, ids.data, ids.n, true, &text); /* special is what the config says */
	assert_string_equal(text.buf, "</s>");
	nla_str_release(&text);
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

	nla_tokenizer_decode(small, &outside, 1, false, &out);
	nla_tokenizer_decode(small, &negative, 1, false, &out);
	nla_tokenizer_decode(flags, &hole, 1, true, &out);
	nla_tokenizer_decode(native, &outside, 1, false, &out);
	nla_tokenizer_piece(flags, hole, &out);
	assert_string_equal(out.buf, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
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
	nla_tokenizer_decode(tok, ids.data, ids.n, false, &out);
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
	nla_tokenizer_piece(tok, ids.data[0], &out);
	nla_tokenizer_piece(tok, ids.data[1], &out);
	assert_string_equal(out.buf, "\xc6\xbf");
	nla_str_reset(&out);
	nla_tokenizer_decode(tok, ids.data, 1, false, &out);
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
		nla_tokenizer_piece(tok, ids.data[i], &out);
	assert_string_equal(out.buf, " the \xf0\x9f\x90\xb8");
	nla_str_release(&out);
	nla_i32s_release(&ids);
	nla_tokenizer_free(tok);
}

/* Sequences of what is honoured alone are honoured; an unknown token is harmless where every byte has one. */
static void test_accepted(void **state)
{
	static const char *const changes[][2] = {
		{ "normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}" },
		{ "decoder", "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteLevel\"}]}" },
		{ "model.unk_token", "\"<|endoftext|>\"" }, { "model.fuse_unk", "true" }, { "post_processor", "null" },
		{ "truncation", "{\"direction\":\"Right\",\"max_length\":4,\"strategy\":\"LongestFirst\",\"stride\":0}" },
		{ "padding", "{\"strategy\":{\"Fixed\":9},\"pad_id\":0,\"pad_type_id\":0,\"pad_token\":\"!\"}" },
		{ "normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Sequence\",\"normalizers\":[]},{\"type\":\"NFC\"}]}" },
		{ "pre_tokenizer.pretokenizers.1", "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Sequence\",\"pretokenizers\":[]},"
		  "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]}" },
		{ "post_processor", "{\"type\":\"Sequence\",\"processors\":[]}" },
		{ "post_processor", "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\",\"trim_offsets\":true}]}" },
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
	cJSON_Delete(json);
}

#define SEQUENCE "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define SPECIAL(id) "{\"SpecialToken\":{\"id\":\"" id "\",\"type_id\":0}}"
#define TEMPLATE(single) "{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"pair\":[],\"special_tokens\":" \
	"{\"X\":{\"id\":\"X\",\"ids\":[1,2],\"tokens\":[]},\"Y\":{\"id\":\"Y\",\"ids\":[3],\"tokens\":[]}}}"

/* What transformers 5 puts around a text: by the post-processor, whatever tokenizer_config.json says; of a .model, add_bos_token. */
static void test_front(void **state)
{
	static const struct {
		const char *file, *post, *config;
		int32_t ids[3];
		size_t n;
		bool behind;
	} cases[] = {
		{ "small", "null", "{\"add_bos_token\":true,\"bos_token\":\"<|im_end|>\"}", { 0 }, 0, false },
		{ "small", TEMPLATE(SPECIAL("X") "," SEQUENCE), "{\"add_bos_token\":false}", { 1, 2 }, 2, false },
		{ "small", TEMPLATE(SEQUENCE "," SPECIAL("X")), "{}", { 0 }, 0, true },
		{ "small", "{\"type\":\"Sequence\",\"processors\":[" TEMPLATE(SPECIAL("X") "," SEQUENCE) "," TEMPLATE(SPECIAL("Y") ","
		  SEQUENCE) "]}", "{}", { 3, 1, 2 }, 3, false },
		{ "small", "{\"type\":\"BertProcessing\",\"sep\":[\"a\",1],\"cls\":[\"b\",2]}", "{}", { 0 }, 0, true },
		{ "llama2json", "null", "{\"add_bos_token\":true,\"bos_token\":\"<s>\"}", { 0 }, 0, false },
		{ NULL, NULL, "{\"bos_token\":\"<s>\"}", { 0 }, 0, false },
		{ NULL, NULL, "{\"add_bos_token\":true}", { 1 }, 1, false },
		{ NULL, NULL, "{\"add_bos_token\":true,\"bos_token\":{\"content\":\"</s>\"}}", { 2 }, 1, false },
		{ NULL, NULL, "{\"add_bos_token\":false,\"add_eos_token\":true}", { 0 }, 0, true },
	};

	copy_file("llama2/tokenizer.model", "tokenizer.model");
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		struct nla_tokenizer *tok;

		if (cases[i].file)
			write_changed_file(cases[i].file, "post_processor", cases[i].post);
		else
			remove_file("tokenizer.json");
		write_text("tokenizer_config.json", cases[i].config);
		tok = load(scratch);
		assert_int_equal(nla_tokenizer_front(tok)->n, cases[i].n);
		for (size_t k = 0; k < cases[i].n; k++)
			assert_int_equal(nla_tokenizer_front(tok)->data[k], cases[i].ids[k]);
		assert_int_equal(nla_tokenizer_behind(tok), cases[i].behind);
		nla_tokenizer_free(tok);
	}
	remove_file("tokenizer.model");
	remove_file("tokenizer_config.json");
}

/* A token that the model has no row for is an error in a text that has it, and only there. */
static void test_limit(void **state)
{
	struct nla_tokenizer *tok = load(TOKENIZERS "small");
	struct nla_err err = NLA_ERR_INIT;
	struct nla_i32s ids = {0};

	nla_tokenizer_limit(tok, 599);
	assert_int_equal(nla_tokenizer_encode(tok, "a<|im_start|>", 13, &ids, &err), NLA_OK);
	assert_int_equal(ids.n, 2);
	assert_int_equal(nla_tokenizer_encode(tok, "a<|im_end|>", 11, &ids, &err), NLA_FAIL);
	assert_non_null(strstr(err.text, "it has token 599, the model has ids below 599"));
	assert_int_equal(ids.n, 2);
	nla_i32s_release(&ids);
	nla_tokenizer_free(tok);
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
	static const char *const folders[] = { TOKENIZERS "small", TOKENIZERS "llama2json" };
	struct nla_err err = NLA_ERR_INIT;

	for (size_t u = 0; u < 2 * NLA_LEN(units); u++) {
		struct nla_tokenizer *tok = load(folders[u % 2]);
		struct nla_str text = NLA_STR_INIT, back = NLA_STR_INIT;
		struct nla_i32s ids = {0};

		while (text.len < 1000000)
			nla_str_add(&text, units[u / 2]);
		assert_int_equal(nla_tokenizer_encode(tok, text.buf, text.len, &ids, &err), NLA_OK);
		nla_tokenizer_decode(tok, ids.data, ids.n, false, &back);
		assert_int_equal(back.len, text.len);
		assert_memory_equal(back.buf, text.buf, text.len);
		nla_str_release(&text);
		nla_str_release(&back);
		nla_i32s_release(&ids);
		nla_tokenizer_free(tok);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small), cmocka_unit_test(test_llama), cmocka_unit_test(test_smollm), cmocka_unit_test(test_flags),
		cmocka_unit_test(test_native), cmocka_unit_test(test_llama2), cmocka_unit_test(test_llama2_json), cmocka_unit_test(test_gemma),
		cmocka_unit_test(test_llama2_config),
		cmocka_unit_test(test_no_class), cmocka_unit_test(test_native_added), cmocka_unit_test(test_accepted),
		cmocka_unit_test(test_qwen3), cmocka_unit_test(test_ids), cmocka_unit_test(test_bytes), cmocka_unit_test(test_native_pieces),
		cmocka_unit_test(test_metaspace_merges), cmocka_unit_test(test_crc),
		cmocka_unit_test(test_front), cmocka_unit_test(test_limit),
		cmocka_unit_test(test_threads), cmocka_unit_test(test_long),
	};

	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
