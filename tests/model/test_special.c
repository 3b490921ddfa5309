/*
 * Special tokens in front of extraction texts and AR prompts: activations and the AR's mse as transformers has them with tok(text)
 * (tests/golden/make_special.py); without them when tokens.add_special says so; sets and ARs that disagree; sets without the key.
 */
#include <math.h>

#include "device/device.h"
#include "unit/scratch.h"

#include "base/json.h"
#include "nla/actset.h"
#include "nla/ar.h"
#include "nla/extract.h"

enum { D = 16, K = 1, ROWS = 3, AUTO = 0, YES = 1, NO = 2 };

static struct nla_err err;

struct special {
	struct nla_target target;
	struct nla_sidecar meta;
	cJSON *json;
};

static void open_special(struct special *s, const char *name, int add_special)
{
	char *folder = nla_format(TEST_DATA "/special/%s", name), *path = nla_path_join(folder, "golden.json");
	const struct nla_chat_cfg chat = { strcmp(name, "llama3") ? NLA_CHAT_LLAMA2 : NLA_CHAT_LLAMA3, "", "", add_special, NULL };

	assert_ok(nla_json_read(path, &s->json, &err));
	assert_ok(nla_target_open(&s->target, folder, &chat, DEVICE, NT_F32, -1, &err));
	nla_sidecar_init(&s->meta);
	nla_sidecar_stamp(&s->meta, "nla_dataset", NULL, NULL);
	s->meta.layer = K;
	s->meta.ar_template = nla_strdup("A text: {explanation} Vector:");
	assert_ok(nla_contract_make(&s->meta, &s->target, &err));
	free(folder);
	free(path);
}

static void close_special(struct special *s)
{
	nla_sidecar_release(&s->meta);
	nla_target_close(&s->target);
	cJSON_Delete(s->json);
	assert_int_equal(nt_live(), 0);
}

static void expect_vector(const float *v, const cJSON *want)
{
	for (int i = 0; i < D; i++)
		assert_true(fabs((double)v[i] - cJSON_GetArrayItem(want, i)->valuedouble) < 1e-4);
}

/* The row's activation and the mse of an explanation, with special tokens or without. */
static void check(const char *name, int option)
{
	struct special s;
	struct nla_half ar;
	const char *v_key = option == NO ? "bare" : "v", *mse_key = option == NO ? "bare" : "mse";

	open_special(&s, name, option);
	assert_int_equal(s.meta.add_special, option != NO);
	assert_ok(nla_half_new(&ar, NLA_AR, &s.target, &s.meta, &err));
	for (int i = 0; i < ROWS; i++) {
		const cJSON *row = cJSON_GetArrayItem(nla_json_at(s.json, "rows"), i), *say = cJSON_GetArrayItem(nla_json_at(s.json, "ar"), i);
		const char *text = nla_json_at(row, "text")->valuestring, *explanation = nla_json_at(say, "explanation")->valuestring;
		const bool special = nla_target_adds_special(&s.target, &s.meta);
		const int64_t front = special ? (int64_t)nla_tokenizer_front(s.target.tok)->n : 0;
		struct nla_i32s ids = { 0 };
		int64_t position = nla_json_at(row, "position")->valueint - (option == NO);
		struct nla_ar_texts texts;
		struct nla_str prefix = NLA_STR_INIT;
		struct nla_view view = nla_half_view(&ar);
		enum nla_ar_fit fit;
		float v[D], target[D], mse;

		assert_ok(nla_target_encode(&s.target, special, text, &ids, &err));
		assert_ok(nla_extract_at(&s.target, &ids, &position, 1, K, v, &err));
		nla_tokenizer_decode(s.target.tok, ids.data + front, (size_t)(position + 1 - front), false, &prefix);
		nla_i32s_release(&ids);
		expect_vector(v, nla_json_at(row, v_key));
		assert_true(nla_starts_with(text, prefix.buf) && prefix.len); /* the BOS is no part of a text */
		for (int j = 0; j < D; j++)
			target[j] = (float)cJSON_GetArrayItem(nla_json_at(row, "v"), j)->valuedouble;
		nla_ar_texts_start(&texts);
		assert_ok(nla_ar_encode(&ar, explanation, strlen(explanation), &texts.ids, &fit, &err));
		nla_i64s_push(&texts.offset, (int64_t)texts.ids.n);
		assert_ok(nla_ar_score(&ar, &view, &texts, target, &mse, NULL, &err));
		assert_true(fabs((double)mse - nla_json_at(say, mse_key)->valuedouble) < 1e-4);
		nla_ar_texts_release(&texts);
		nla_str_release(&prefix);
	}
	nla_half_release(&ar);
	close_special(&s);
}

static void test_llama3(void **state) { check("llama3", AUTO); check("llama3", YES); check("llama3", NO); }
static void test_llama2(void **state) { check("llama2", AUTO); check("llama2", NO); }

/* A set of the golden rows, whose counts are n ids and `more`. */
static void open_set(struct nla_actset *set, struct special *s, int more)
{
	char *path = nla_strdup(in_scratch("set"));
	struct nla_actset_writer *w;
	float v[D] = { 1 };

	if (nla_exists(path))
		assert_ok(nla_rmtree(path, &err));
	assert_ok(nla_actset_create(&w, path, &s->meta, NLA_ST_F32, 0, &err));
	for (int i = 0; i < ROWS; i++) {
		const cJSON *row = cJSON_GetArrayItem(nla_json_at(s->json, "rows"), i);
		struct nla_row one = { .doc_id = "a", .text = nla_json_at(row, "text")->valuestring,
				       .n_raw_tokens = cJSON_GetArraySize(nla_json_at(row, "ids")) - 1 + more };

		v[1] = (float)i;
		assert_ok(nla_actset_add(w, &one, v, &err));
	}
	assert_ok(nla_actset_finish(w, &err));
	assert_ok(nla_actset_open(set, path, D, &err));
	free(path);
}

/* The key is written and read back; one without it is judged by its counts; what disagrees is an error. */
static void test_sets(void **state)
{
	struct special s;
	struct nla_actset set;

	open_special(&s, "llama3", AUTO);
	for (int key = -1; key < 2; key++) {
		for (int more = 0; more < 3; more++) {
			int want = key >= 0 ? key : more < 2 ? more : -1; /* two more: no telling */
			struct nla_sidecar ar;

			s.meta.add_special = key;
			open_set(&set, &s, more);
			assert_int_equal(set.meta.add_special, key);
			assert_ok(nla_contract_fits_set(&set, &s.target, NULL, NULL, "set", &err));
			assert_int_equal(set.meta.add_special, want);
			nla_sidecar_init(&ar);
			nla_sidecar_copy(&ar, &s.meta);
			ar.add_special = 1;
			if (want == 0)
				assert_fails(nla_contract_fits_set(&set, &s.target, NULL, &ar, "set", &err),
					     "'set' was made without special tokens in front of its texts, the AR's prompts get them");
			else
				assert_ok(nla_contract_fits_set(&set, &s.target, NULL, &ar, "set", &err));
			nla_sidecar_release(&ar);
			nla_actset_close(&set);
		}
	}
	s.meta.add_special = 1;
	s.target.add_special = NO;
	assert_fails(nla_contract_check(&s.meta, &s.target, "set", &err), "tokens.add_special is true there, the option says false");
	close_special(&s);
}

/* An AR of a set without the key keeps what the option said when it was made, or the default. */
static void test_ar_keeps(void **state)
{
	for (int option = AUTO; option <= NO; option++) {
		struct special s;
		struct nla_half ar;
		struct nla_sidecar kept;

		open_special(&s, "llama3", option);
		s.meta.add_special = -1;
		assert_ok(nla_half_new(&ar, NLA_AR, &s.target, &s.meta, &err));
		assert_ok(nla_half_save(&ar, NULL, in_scratch("ar"), "sft", &err));
		nla_sidecar_init(&kept);
		assert_ok(nla_sidecar_read(&kept, in_scratch("ar"), &err));
		assert_int_equal(kept.add_special, option != NO);
		nla_sidecar_release(&kept);
		nla_half_release(&ar);
		close_special(&s);
	}
}

/* A tokenizer without special tokens in front: no key, and nothing is put. */
static void test_none(void **state)
{
	struct nla_target t;
	struct nla_sidecar meta;
	const struct nla_chat_cfg chat = { NLA_CHAT_AUTO, "auto", "", YES, NULL };

	assert_ok(nla_target_open(&t, TEST_DATA "/tiny/model", &chat, DEVICE, NT_F32, -1, &err));
	nla_sidecar_init(&meta);
	meta.ar_template = nla_strdup("A text: {explanation} Vector:");
	assert_ok(nla_contract_make(&meta, &t, &err));
	assert_int_equal(meta.add_special, -1);
	assert_false(nla_target_adds_special(&t, &meta));
	nla_sidecar_release(&meta);
	nla_target_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_llama3), cmocka_unit_test(test_llama2), cmocka_unit_test(test_sets),
					    cmocka_unit_test(test_ar_keeps), cmocka_unit_test(test_none) };

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
