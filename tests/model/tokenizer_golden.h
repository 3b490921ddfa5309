/*
 * What the tests of tokenizers and of chat formats share: tests/data/tokenizer, golden numbers, and a scratch folder to change
 * files in.
 */
#ifndef TOKENIZER_GOLDEN_H
#define TOKENIZER_GOLDEN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "text/chat.h"
#include "text/tokenizer.h"

#define TOKENIZERS TEST_DATA "/tokenizer/"

static inline struct nla_tokenizer *load(const char *folder)
{
	struct nla_err err = NLA_ERR_INIT;
	struct nla_tokenizer *tok;

	if (nla_tokenizer_load(&tok, folder, &err))
		fail_msg("%s", err.text);
	return tok;
}

static inline cJSON *golden(const char *name)
{
	char *path = nla_format(TOKENIZERS "%s/golden.json", name);
	struct nla_err err = NLA_ERR_INIT;
	cJSON *json = NULL;

	if (nla_json_read(path, &json, &err))
		fail_msg("%s", err.text);
	free(path);
	return json;
}

static inline void ids_of(const cJSON *list, struct nla_i32s *ids)
{
	const cJSON *item;

	ids->n = 0;
	cJSON_ArrayForEach(item, list)
		nla_i32s_push(ids, item->valueint);
}

static inline void expect_ids(const char *text, const struct nla_i32s *got, const struct nla_i32s *want)
{
	for (size_t i = 0; i < NLA_MIN(got->n, want->n); i++)
		if (got->data[i] != want->data[i])
			fail_msg("'%s': id %zu is %d, want %d", text, i, got->data[i], want->data[i]);
	if (got->n != want->n)
		fail_msg("'%s': %zu ids, want %zu", text, got->n, want->n);
}

/* The folder of the real Qwen3 tokenizer; skips the test when there is none. Owned by the caller. */
static inline char *qwen3_folder(void)
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

static char scratch[] = "/tmp/nla-test-tokenizer-XXXXXX";

static inline void write_text(const char *name, const char *text)
{
	char *path = nla_path_join(scratch, name);
	struct nla_err err = NLA_ERR_INIT;

	if (nla_file_write(path, text, strlen(text), false, &err))
		fail_msg("%s", err.text);
	free(path);
}

static inline void write_json(const char *name, const cJSON *json)
{
	char *text = cJSON_PrintUnformatted(json);

	write_text(name, text);
	cJSON_free(text);
}

/* tokenizer.json of a folder with the field at a path of keys and indices, "a.0.b", set to a JSON text. */
static inline void write_changed_file(const char *folder, const char *path, const char *value)
{
	char *keys = nla_strdup(path), *rest = keys, *key = strsep(&rest, "."), *from = nla_format(TOKENIZERS "%s/tokenizer.json", folder);
	struct nla_err err = NLA_ERR_INIT;
	cJSON *json = NULL, *at;

	if (nla_json_read(from, &json, &err))
		fail_msg("%s", err.text);
	free(from);
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

static inline void write_changed(const char *path, const char *value)
{
	write_changed_file("small", path, value);
}

/* A file of tests/data/tokenizer, into the scratch folder. */
static inline void copy_file(const char *from, const char *name)
{
	char *path = nla_format(TOKENIZERS "%s", from), *to = nla_path_join(scratch, name);
	struct nla_err err = NLA_ERR_INIT;
	struct nla_str text = NLA_STR_INIT;

	if (nla_file_read(path, &text, &err) || nla_file_write(to, text.buf, text.len, false, &err))
		fail_msg("%s", err.text);
	nla_str_release(&text);
	free(path);
	free(to);
}

static inline void remove_file(const char *name)
{
	char *path = nla_path_join(scratch, name);

	unlink(path);
	free(path);
}

static inline int make_scratch(void **state)
{
	return mkdtemp(scratch) ? 0 : -1;
}

static inline int remove_scratch(void **state)
{
	struct nla_err err = NLA_ERR_INIT;

	return nla_rmtree(scratch, &err);
}

#endif
