/*
 * The tokenizer and the chat format against the reference libraries (tests/golden/make_tokenizer_golden.py made the numbers),
 * and that whatever a tokenizer.json holds which we do not honour is refused by name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <pthread.h>

#include "base/file.h"
#include "base/json.h"
#include "lm/chat.h"
#include "lm/tokenizer.h"

#define TOKENIZERS TEST_DATA "/tokenizer/"

static struct nla_tokenizer *load(const char *folder)
{
	struct nla_err err = NLA_ERR_INIT;
	struct nla_tokenizer *tok;

	if (nla_tokenizer_load(&tok, folder, &err))
		fail_msg("%s", err.text);
	return tok;
}

static cJSON *golden(const char *name)
{
	char *path = nla_format(TOKENIZERS "%s/golden.json", name);
	struct nla_err err = NLA_ERR_INIT;
	cJSON *json = NULL;

	if (nla_json_read(path, &json, &err))
		fail_msg("%s", err.text);
	free(path);
	return json;
}

static void ids_of(const cJSON *list, struct nla_i32s *ids)
{
	const cJSON *item;

	ids->n = 0;
	cJSON_ArrayForEach(item, list)
		nla_i32s_push(ids, item->valueint);
}

static void expect_ids(const char *text, const struct nla_i32s *got, const struct nla_i32s *want)
{
	for (size_t i = 0; i < NLA_MIN(got->n, want->n); i++)
		if (got->data[i] != want->data[i])
			fail_msg("'%s': id %zu is %d, want %d", text, i, got->data[i], want->data[i]);
	if (got->n != want->n)
		fail_msg("'%s': %zu ids, want %zu", text, got->n, want->n);
}

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

/* The folder of the real Qwen3 tokenizer; skips the test when there is none. Owned by the caller. */
static char *qwen3_folder(void)
{
	const char *shared = getenv("NLA_SHARED");
	char *folder = nla_format("%s/qwen3", shared && *shared ? shared : SOURCE_DIR "/../shared");

	if (!nla_exists(folder)) {
		print_message("no '%s': set NLA_SHARED to the folder that holds qwen3/tokenizer.json\n", folder);
		free(folder);
		skip();
	}
	return folder;
}

static void test_qwen3(void **state)
{
	char *folder = qwen3_folder();

	check_folder(folder, "qwen3");
	free(folder);
}

static void test_qwen3_chat(void **state)
{
	char *folder = qwen3_folder();
	struct nla_tokenizer *tok = load(folder);
	struct nla_i32s got = {0}, want = {0};
	struct nla_err err = NLA_ERR_INIT;
	cJSON *json = golden("qwen3");
	struct nla_chat chat;
	const cJSON *row;

	assert_int_equal(nla_chat_load(&chat, folder, tok, NULL, &err), NLA_OK);
	assert_int_equal(chat.end_of_turn, 151645);
	assert_true(cJSON_GetArraySize(nla_json_at(json, "chat")) >= 8);
	cJSON_ArrayForEach(row, nla_json_at(json, "chat")) {
		got.n = 0;
		ids_of(row->child->next, &want);
		assert_int_equal(nla_chat_prompt(&chat, tok, row->child->valuestring, &got, &err), NLA_OK);
		expect_ids(row->child->valuestring, &got, &want);
	}
	nla_i32s_release(&got);
	nla_i32s_release(&want);
	nla_chat_release(&chat);
	cJSON_Delete(json);
	nla_tokenizer_free(tok);
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

static char scratch[] = "/tmp/nla-test-tokenizer-XXXXXX";

static void write_text(const char *name, const char *text)
{
	char *path = nla_path_join(scratch, name);
	struct nla_err err = NLA_ERR_INIT;

	if (nla_file_write(path, text, strlen(text), false, &err))
		fail_msg("%s", err.text);
	free(path);
}

static void write_json(const char *name, const cJSON *json)
{
	char *text = cJSON_PrintUnformatted(json);

	write_text(name, text);
	cJSON_free(text);
}

/* tokenizer.json of `small` with the field at a path of keys and indices, "a.0.b", set to a JSON text. */
static void write_changed(const char *path, const char *value)
{
	char *keys = nla_strdup(path), *rest = keys, *key = strsep(&rest, ".");
	struct nla_err err = NLA_ERR_INIT;
	cJSON *json = NULL, *at;

	if (nla_json_read(TOKENIZERS "small/tokenizer.json", &json, &err))
		fail_msg("%s", err.text);
	for (at = json; rest; key = strsep(&rest, "."))
		at = cJSON_IsArray(at) ? cJSON_GetArrayItem(at, (int)strtol(key, NULL, 10)) : cJSON_GetObjectItemCaseSensitive(at, key);
	assert_non_null(at);
	if (cJSON_IsArray(at))
		cJSON_ReplaceItemInArray(at, (int)strtol(key, NULL, 10), cJSON_Parse(value));
	else if (cJSON_HasObjectItem(at, key))
		cJSON_ReplaceItemInObjectCaseSensitive(at, key, cJSON_Parse(value));
	else
		cJSON_AddItemToObject(at, key, cJSON_Parse(value));
	write_json("tokenizer.json", json);
	cJSON_Delete(json);
	free(keys);
}

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
		{ "model.unk_token", "\"<unk>\"", "field 'model.unk_token'" },
		{ "model.continuing_subword_prefix", "\"##\"", "field 'model.continuing_subword_prefix' is \"##\"" },
		{ "model.end_of_word_suffix", "\"</w>\"", "field 'model.end_of_word_suffix'" },
		{ "model.byte_fallback", "true", "field 'model.byte_fallback' is true" },
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

/* ---- chat ---- */

static void stops(const char *generation, const char *config, const int32_t *want, size_t n)
{
	struct nla_tokenizer *tok = load(TOKENIZERS "small");
	struct nla_err err = NLA_ERR_INIT;
	struct nla_chat chat;

	write_text("generation_config.json", generation);
	write_text("config.json", config);
	assert_int_equal(nla_chat_load(&chat, scratch, tok, NULL, &err), NLA_OK);
	assert_int_equal(chat.end_of_turn, 599);
	assert_int_equal(chat.stop.n, n);
	for (size_t i = 0; i < n; i++)
		assert_true(nla_chat_is_stop(&chat, want[i]));
	assert_false(nla_chat_is_stop(&chat, 598));
	nla_chat_release(&chat);
	nla_tokenizer_free(tok);
}

static void test_stop_ids(void **state)
{
	stops("{\"eos_token_id\": [599, 597]}", "{\"eos_token_id\": 3}", (int32_t[]){ 599, 597 }, 2);
	stops("{\"eos_token_id\": 597}", "{\"eos_token_id\": 3}", (int32_t[]){ 599, 597 }, 2);
	stops("{\"top_k\": 20}", "{\"eos_token_id\": 3}", (int32_t[]){ 599, 3 }, 2);
	stops("{\"eos_token_id\": null}", "{\"eos_token_id\": [3, 4]}", (int32_t[]){ 599, 3, 4 }, 3);
	stops("{}", "{}", (int32_t[]){ 599 }, 1);
}

static void test_chat_errors(void **state)
{
	struct nla_tokenizer *small = load(TOKENIZERS "small"), *native = load(TOKENIZERS "native"), *tok;
	static const char *const bad[] = { "600", "-1", "1.5", "\"<|im_end|>\"", "[599, 600]", "[[1]]" };
	struct nla_err err = NLA_ERR_INIT;
	struct nla_chat chat;

	for (size_t i = 0; i < NLA_LEN(bad); i++) {
		char *text = nla_format("{\"eos_token_id\": %s}", bad[i]);

		write_text("generation_config.json", text);
		assert_int_equal(nla_chat_load(&chat, scratch, small, NULL, &err), NLA_FAIL);
		assert_non_null(strstr(err.text, "generation_config.json': 'eos_token_id' has"));
		free(text);
	}
	write_text("generation_config.json", "{}");
	write_changed("added_tokens.2.content", "\"</s>\"");
	tok = load(scratch);
	assert_int_equal(nla_chat_load(&chat, scratch, tok, NULL, &err), NLA_FAIL);
	assert_non_null(strstr(err.text, "neither ChatML's nor Llama 3's tokens"));
	/* A sentencepiece model puts a space before a text, so it does not yield the token alone: not ChatML as we know it. */
	assert_int_equal(nla_chat_load(&chat, scratch, native, NULL, &err), NLA_FAIL);
	nla_tokenizer_free(tok);
	nla_tokenizer_free(small);
	nla_tokenizer_free(native);
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

static int make_scratch(void **state)
{
	return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state)
{
	struct nla_err err = NLA_ERR_INIT;

	return nla_rmtree(scratch, &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small), cmocka_unit_test(test_llama), cmocka_unit_test(test_smollm), cmocka_unit_test(test_flags),
		cmocka_unit_test(test_native), cmocka_unit_test(test_qwen3), cmocka_unit_test(test_qwen3_chat),
		cmocka_unit_test(test_ids), cmocka_unit_test(test_bytes), cmocka_unit_test(test_native_pieces),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_no_tokenizer), cmocka_unit_test(test_crc),
		cmocka_unit_test(test_stop_ids), cmocka_unit_test(test_chat_errors), cmocka_unit_test(test_threads),
		cmocka_unit_test(test_long),
	};

	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
