/*
 * fuzz - every format that comes from outside, one target each: bytes become the file that a reader of ours opens. The answer is
 * success, or an error of one line; what was read must stay itself when it is written and read again.
 *
 * With clang's libFuzzer the program's own name is the target: `fuzz/sidecar CORPUS`. Built plainly it replays: each argument is
 * a folder of files, named as its target; without arguments it lists the targets.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "lm/arch.h"
#include "run/evaluate.h"
#include "run/folder.h"
#include "text/corpus.h"

#define DATA SOURCE_DIR "/tests/data"
#define TINY DATA "/tiny"
#define CHECK(ok) ((ok) ? (void)0 : NLA_BUG("%s: %s", target->name, #ok))

static struct target {
	const char *name, *file;
	void (*read)(struct nla_err *err); /* the file, in the folder */
	const char *around;                /* a folder of DATA, whose other files are next to it */
	size_t data;                       /* what comes is a safetensors header alone: bytes of data behind it */
} *target;
static char *folder, *file;

/* ---- what is done with a file ---- */

/* What follows the file in its last page can be read without a fault. */
static bool is_in_file(const struct nla_st *st, const struct nla_st_entry *e)
{
	size_t i = 0;
	while (i < st->n_maps && (size_t)((const char *)e->data - (const char *)st->maps[i].data) > st->maps[i].size)
		i++;
	return i < st->n_maps && e->nbytes <= st->maps[i].size - (size_t)((const char *)e->data - (const char *)st->maps[i].data);
}

static void use_tensors(struct nla_st *st, struct nla_err *err)
{
	for (size_t i = 0; i < st->n_entries && !err->status; i++) {
		const struct nla_st_entry *e = &st->entries[i];
		CHECK(nla_st_find(st, e->name) == e && is_in_file(st, e));
		CHECK(e->nbytes == 0 || ((const char *)e->data)[0] + ((const char *)e->data)[e->nbytes - 1] < 1000);
		if (e->dtype <= NLA_ST_F16)
			CHECK(nla_st_not_finite(e) < (int64_t)e->nbytes);
	}
	if (!err->status)
		nla_st_close(st);
}

static void read_safetensors(struct nla_err *err)
{
	struct nla_st st;
	nla_st_open(&st, file, err);
	use_tensors(&st, err);
}

static void read_index(struct nla_err *err)
{
	struct nla_st st;
	nla_st_open_folder(&st, folder, "model", err);
	use_tensors(&st, err);
}

static void read_json(struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str once = NLA_STR_INIT, twice = NLA_STR_INIT;
	nla_auto_json cJSON *json = NULL, *again = NULL;
	if (nla_json_read(file, &json, err))
		return;
	nla_json_add(&once, json, true, 0);
	CHECK(!nla_json_parse(once.buf, once.len, file, &again, err));
	nla_json_add(&twice, again, true, 0);
	CHECK(!strcmp(once.buf, twice.buf));
}

static void read_tokenizer(struct nla_err *err)
{
	static const char *const texts[] = { "", " the fox  jumps", "<s>\xc3\xa9 <|im_start|>12345\n\n\tcat's", "\xf0\x9f\xa6\x8a<0x41>\xe2\x96\x81 e\xcc\x81" };
	struct nla_tokenizer *tok;
	if (nla_tokenizer_load(&tok, folder, err)) {
		CHECK(!tok);
		return;
	}
	for (size_t i = 0; i < NLA_LEN(texts); i++) {
		struct nla_err one = NLA_ERR_INIT;
		NLA_AUTO(nla_i32s_release) struct nla_i32s ids = { 0 };
		NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
		if (nla_tokenizer_encode(tok, texts[i], strlen(texts[i]), &ids, &one))
			continue;
		for (size_t j = 0; j < ids.n; j++)
			CHECK(ids.data[j] >= 0 && ids.data[j] < nla_tokenizer_size(tok));
		nla_tokenizer_decode(tok, ids.data, ids.n, i % 2, &text);
	}
	for (int32_t id = 0; id < NLA_MIN(nla_tokenizer_size(tok), 1000); id++) {
		NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
		nla_tokenizer_piece(tok, id, &text);
	}
	nla_tokenizer_free(tok);
}

static struct nla_tokenizer *small_tokenizer(void)
{
	static struct nla_tokenizer *tok;
	struct nla_err err = NLA_ERR_INIT;
	if (!tok)
		CHECK(!nla_tokenizer_load(&tok, TINY "/model", &err));
	return tok;
}

static void read_chat(struct nla_err *err)
{
	struct nla_chat chat;
	struct nla_tokenizer *tok = small_tokenizer();
	NLA_AUTO(nla_i32s_release) struct nla_i32s ids = { 0 };
	if (nla_chat_load(&chat, folder, tok, &(const struct nla_chat_cfg){ .system = "auto" }, err))
		return;
	CHECK(nla_i32s_has(&chat.stop, chat.end_of_turn));
	struct nla_err one = NLA_ERR_INIT;
	nla_chat_prompt(&chat, tok, " hello ", &ids, &one);
	nla_chat_release(&chat);
}

static char *whole(const char *path)
{
	struct nla_str s = NLA_STR_INIT;
	struct nla_err err = NLA_ERR_INIT;
	CHECK(!nla_file_read(path, &s, &err));
	return nla_str_detach(&s);
}

static void read_sidecar(struct nla_err *err)
{
	struct nla_sidecar one, two;
	if (nla_sidecar_read(&one, folder, err))
		return;
	CHECK(!nla_sidecar_write(&one, folder, err));
	nla_auto char *first = whole(file);
	CHECK(!nla_sidecar_read(&two, folder, err));
	CHECK(!nla_sidecar_write(&two, folder, err));
	nla_auto char *second = whole(file);
	CHECK(!strcmp(first, second));
	nla_sidecar_copy(&one, &two);
	nla_sidecar_release(&one);
	nla_sidecar_release(&two);
}

static void read_config(struct nla_err *err)
{
	struct nla_arch arch;
	if (!nla_arch_read(&arch, folder, err))
		CHECK(arch.n_layers > 0 && arch.head_dim % 2 == 0 && nla_arch_n_params(&arch) > 0);
}

static void read_adapter(struct nla_err *err)
{
	static struct nla_arch arch;
	struct nla_err none = NLA_ERR_INIT;
	struct nla_adapter a;
	if (!arch.n_layers)
		CHECK(!nla_arch_read(&arch, TINY "/model", &none));
	if (!nla_adapter_load(&a, &arch, arch.n_layers, folder, NT_CPU, err))
		nla_adapter_release(&a);
	CHECK(!nt_live());
}

static void read_options(struct nla_err *err)
{
	struct nla_config one = { 0 }, two = { 0 };
	nla_options_defaults(nla_config_table, nla_config_n, &one);
	nla_options_defaults(nla_config_table, nla_config_n, &two);
	if (!nla_options_json(nla_config_table, nla_config_n, &one, file, err)) {
		nla_auto_json cJSON *first = nla_options_dump(nla_config_table, nla_config_n, &one), *second = NULL;
		CHECK(!nla_json_write(file, first, true, err));
		CHECK(!nla_options_json(nla_config_table, nla_config_n, &two, file, err));
		second = nla_options_dump(nla_config_table, nla_config_n, &two);
		CHECK(cJSON_Compare(first, second, true));
	}
	nla_config_release(&one);
	nla_config_release(&two);
}

static void read_rows(struct nla_err *err)
{
	struct nla_actset set;
	if (nla_actset_open(&set, folder, 0, err))
		return;
	for (int64_t i = 0; i < set.n; i++)
		CHECK(set.rows[i].doc_id && set.rows[i].text);
	nla_actset_close(&set);
}

static void read_state(struct nla_err *err)
{
	struct nla_state s = { 0 };
	struct nla_cursor c;
	int64_t rows[2];
	if (nla_state_read(&s, folder, 7, err))
		return;
	nla_cursor_init(&c, 1, 7);
	c.position = s.cursor;
	nla_cursor_next(&c, 2, rows);
	CHECK(rows[0] >= 0 && rows[0] < 7 && rows[1] >= 0 && rows[1] < 7);
	nla_cursor_release(&c);
	CHECK(s.step >= 0 && s.micro_batch >= 0 && s.decode_rows >= 0);
}

/* Texts to score, with the tiny models. */
static void read_score(struct nla_err *err)
{
	static struct nla_target model;
	static struct nla_half av, ar;
	static struct nla_actset set;
	struct nla_step step;
	struct nla_err none = NLA_ERR_INIT;
	if (!set.n) {
		CHECK(!nla_target_open(&model, TINY "/model", NULL, NT_CPU, NT_F32, -1, &none) &&
		      !nla_half_open(&av, NLA_AV, &model, TINY "/av", NULL, &none) &&
		      !nla_half_open(&ar, NLA_AR, &model, TINY "/ar", NULL, &none) && !nla_actset_open(&set, folder, 0, &none));
		nt_tensor *all = model.lm.cos[0]; /* few positions: a text is read, and is mostly too long to be scored, which takes long */
		model.lm.cos[0] = nt_own(nt_narrow(all, 0, 0, 12));
		nt_free(all);
	}
	struct nla_rl rl = { .av = &av, .ar = &ar, .ar_view = nla_half_view(&ar), .set = &set, .reward.fail_mse = 4 };
	nla_evaluate_given(&rl, file, &step, err);
	for (int64_t i = 0; i < step.n && !err->status; i++)
		CHECK(step.rows[i] >= 0 && step.rows[i] < set.n && (step.failed[i] || step.explanation[i]));
	nla_step_release(&step);
}

static void read_corpus(struct nla_err *err)
{
	struct nla_corpus c;
	const struct nla_doc *doc = NULL;
	if (!nla_corpus_open(&c, file, err))
		while (!nla_corpus_next(&c, &doc, err) && doc)
			CHECK(*doc->text && doc->id);
	nla_corpus_close(&c);
}

/* ---- the targets ---- */

static struct target targets[] = {
	{ "safetensors", "x.safetensors", read_safetensors, NULL, 0 },
	{ "header", "x.safetensors", read_safetensors, NULL, 64 },
	{ "index", "model.safetensors.index.json", read_index, NULL, 0 },
	{ "json", "x.json", read_json, NULL, 0 },
	{ "tokenizer", "tokenizer.json", read_tokenizer, NULL, 0 },
	{ "tokenizer_config", "tokenizer_config.json", read_tokenizer, "../fuzz/beside/letters", 0 },
	{ "model", "tokenizer.model", read_tokenizer, NULL, 0 },
	{ "model_config", "tokenizer_config.json", read_tokenizer, "../fuzz/beside/bytes", 0 },
	{ "chat", "nla_chat.json", read_chat, NULL, 0 },
	{ "template", "chat_template.jinja", read_chat, NULL, 0 },
	{ "stops", "generation_config.json", read_chat, "tiny/model", 0 },
	{ "sidecar", NLA_SIDECAR_NAME, read_sidecar, NULL, 0 },
	{ "config", "config.json", read_config, NULL, 0 },
	{ "adapter", "adapter_config.json", read_adapter, "tiny/av", 0 },
	{ "adapter_header", "adapter_model.safetensors", read_adapter, "tiny/av", 66560 },
	{ "options", "config.json", read_options, NULL, 0 },
	{ "rows", NLA_ACTSET_ROWS, read_rows, NULL, 0 },
	{ "state", "state.json", read_state, NULL, 0 },
	{ "score", "given.jsonl", read_score, NULL, 0 },
	{ "jsonl", "c.jsonl", read_corpus, NULL, 0 },
	{ "text", "c.txt", read_corpus, NULL, 0 },
};

static void put(const char *name, const char *head, size_t n_head, const void *bytes, size_t n)
{
	nla_auto char *path = nla_path_join(folder, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	CHECK(fd >= 0 && write(fd, head, n_head) == (ssize_t)n_head && write(fd, bytes, n) == (ssize_t)n && !close(fd));
}

/* A safetensors file: its length in 8 bytes of this machine's order, the header, zeros. */
static void put_tensors(const char *name, const char *header, size_t n, size_t data)
{
	const uint64_t length = n;
	nla_auto char *rest = nla_alloc(n + data, 1);
	memcpy(rest, header, n);
	put(name, (const char *)&length, sizeof(length), rest, n + data);
}

static void put_shards(void)
{
	static const char *const headers[] = { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
		"{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[4,4]}}" };
	put_tensors("model-1.safetensors", headers[0], strlen(headers[0]), 8);
	put_tensors("model-2.safetensors", headers[1], strlen(headers[1]), 4);
}

static void put_set(void)
{
	static const char header[] = "{\"activations\":{\"dtype\":\"F32\",\"shape\":[2,48],\"data_offsets\":[0,384]}}",
			  rows[] = "{\"doc_id\":\"a\"}\n{\"doc_id\":\"b\"}\n";
	struct nla_sidecar meta;
	struct nla_err err = NLA_ERR_INIT;
	CHECK(!nla_sidecar_read(&meta, TINY "/av", &err));
	nla_sidecar_stamp(&meta, "nla_dataset", NULL, NULL);
	meta.baseline_var = meta.baseline_mean = 1;
	CHECK(!nla_sidecar_write(&meta, folder, &err));
	nla_sidecar_release(&meta);
	put_tensors("activations.safetensors", header, sizeof(header) - 1, 384);
	put(NLA_ACTSET_ROWS, rows, sizeof(rows) - 1, "", 0);
}

static void end(void)
{
	struct nla_err ignored = NLA_ERR_INIT;
	if (folder)
		nla_rmtree(folder, &ignored);
	free(folder);
	free(file);
	folder = file = NULL;
}

/* A folder with all that the target's file has around it. */
static bool begin(const char *name)
{
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	struct nla_err err = NLA_ERR_INIT;
	end();
	target = targets;
	while (target < targets + NLA_LEN(targets) && strcmp(target->name, name))
		target++;
	if (target == targets + NLA_LEN(targets)) {
		fprintf(stderr, "fuzz: there is no target '%s'\n", name);
		return false;
	}
	folder = nla_format("%s/nla-fuzz-%d", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", (int)getpid());
	file = nla_path_join(folder, target->file);
	CHECK(!nla_mkdirs(folder, &err));
	nla_auto char *around = target->around ? nla_path_join(DATA, target->around) : NULL;
	CHECK(!around || !nla_list_dir(around, &names, &err));
	for (size_t i = 0; i < names.n; i++) {
		nla_auto char *from = nla_path_join(around, names.data[i]), *to = nla_path_join(folder, names.data[i]);
		CHECK(!strcmp(names.data[i], target->file) || !symlink(from, to));
	}
	if (target->read == read_index)
		put_shards();
	if (target->read == read_rows || target->read == read_score)
		put_set();
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct nla_err err = NLA_ERR_INIT;
	if (target->data)
		put_tensors(target->file, (const char *)bytes, n, target->data);
	else
		put(target->file, "", 0, bytes, n);
	target->read(&err);
	CHECK(err.status != NLA_STOPPED && !err.status == !*err.text && !strchr(err.text, '\n'));
	return 0;
}

#ifdef FUZZER
size_t LLVMFuzzerMutate(uint8_t *bytes, size_t n, size_t most);

static void list_values(cJSON *json, cJSON **list, size_t *n, size_t most)
{
	for (; json && *n < most; json = json->next) {
		list[(*n)++] = json;
		list_values(json->child, list, n, most);
	}
}

/* Of JSON a value becomes another of its values or a hostile one, mostly; of what is none, and else, bytes change. */
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t n, size_t most, unsigned seed)
{
	static const char *const hostile[] = { "null", "true", "0", "-1", "0.5", "2147483648", "4294967297", "9007199254740992", "1e18", "1e300",
		"1e999", "\"\"", "\"x\"", "\"\\u0000\"", "\"..\"", "\"../x\"", "\"/dev/null\"", "[]", "{}", "[[]]", "[null]", "{\"\":0}" };
	cJSON *values[512];
	size_t n_values = 0;
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT, all = NLA_STR_INIT;
	nla_auto_json cJSON *json = seed % 3 ? cJSON_ParseWithLength((const char *)bytes, n) : NULL;
	list_values(json, values, &n_values, NLA_LEN(values));
	if (n_values) {
		cJSON *value = values[seed / 3 % n_values], *other = values[seed / 7 % n_values];
		if (seed / 11 % 2)
			nla_json_add(&text, other, false, 0);
		else
			nla_str_add(&text, hostile[seed / 13 % NLA_LEN(hostile)]);
		cJSON_Delete(value->child);
		free(value->valuestring);
		value->type = cJSON_Raw;
		value->child = NULL;
		value->valuestring = nla_strdup(text.buf);
		nla_json_add(&all, json, false, 0);
	}
	if (!n_values || all.len > most)
		return LLVMFuzzerMutate(bytes, n, most);
	memcpy(bytes, all.buf, all.len);
	return all.len;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	atexit(end);
	return begin(nla_path_base((*argv)[0])) ? 0 : (exit(2), 1);
}
#else
int main(int argc, char **argv)
{
	size_t n = 0;
	for (size_t i = 0; argc == 1 && i < NLA_LEN(targets); i++)
		puts(targets[i].name);
	for (int i = 1; i < argc; i++) {
		NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
		struct nla_err err = NLA_ERR_INIT;
		if (!begin(nla_path_base(argv[i])) || nla_list_dir(argv[i], &names, &err) || !names.n) {
			fprintf(stderr, "fuzz: no files in '%s': %s\n", argv[i], err.text);
			return 1;
		}
		for (size_t j = 0; j < names.n; j++, n++) {
			nla_auto char *path = nla_path_join(argv[i], names.data[j]);
			struct nla_map map;
			CHECK(!nla_map_open(&map, path, &err));
			fprintf(stderr, "%s\n", path);
			LLVMFuzzerTestOneInput(map.data, map.size);
			nla_map_close(&map);
		}
	}
	end();
	printf("%zu files\n", n);
	return 0;
}
#endif
