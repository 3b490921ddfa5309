/*
 * mapped: the weights of a mapped model are not scanned when it is opened. Decoding, extraction, the AR's score and evaluation
 * name the tensor that has a NaN when one of their results is not finite.
 */
#include "model/golden.h"
#include "unit/st_write.h"

#include "nla/extract.h"
#include "run/evaluate.h"

#define BAD "model.layers.0.mlp.up_proj.weight"
#define WANT "tensor '" BAD "' has a NaN or an infinity (element 5)"

/* Replaces the tiny target by a mapped copy with a NaN in its first block, which all of them run. */
static void map_bad(struct tiny *t)
{
	struct nla_st st;
	struct nla_str config = NLA_STR_INIT;
	const float nan = NAN;
	assert_ok(nla_file_read(TINY "/model/config.json", &config, &err));
	put("config.json", config.buf, config.len, false);
	assert_ok(nla_st_open(&st, TINY "/model/model.safetensors", &err));
	struct nla_st_entry *e = (struct nla_st_entry *)(uintptr_t)nla_st_find(&st, BAD);
	char *bytes = nla_alloc(e->nbytes, 1);
	memcpy(bytes, e->data, e->nbytes);
	memcpy(bytes + 5 * sizeof(nan), &nan, sizeof(nan));
	e->data = bytes;
	assert_ok(st_write(in_scratch("model.safetensors"), st.entries, st.n_entries, &err));
	nla_lm_release(&t->target.lm);
	assert_ok(nla_lm_load(&t->target.lm, scratch, NULL, NT_CPU, NT_F32, NLA_LM_MAP, &err));
	nla_st_close(&st);
	nla_str_release(&config);
	free(bytes);
}

static void test_decode(void **state)
{
	struct tiny *t = *state;
	struct nla_pack pack;
	struct nla_inject inject;
	struct nla_decoded out;
	int64_t prompts[B];
	const uint32_t keys[B] = { 1, 2, 3 };
	map_bad(t);
	nla_pack_init(&pack);
	nt_scope_push();
	assert_ok(nla_av_pack(&t->av, t->responses.v, B, &pack, prompts, &inject, &err));
	assert_ok(nla_pack_ready(&pack, t->policy.lm, &err));
	struct nla_decode d = { .view = &t->policy, .prompts = &pack, .inject = &inject, .prompt_row = prompts, .key = keys, .n = B,
				.max_new_tokens = 3, .temperature = 1, .rng = { 1, NLA_STREAM_TEST } };
	assert_fails(nla_decode(&d, &out, &err), WANT);
	nt_scope_pop();
	nla_pack_release(&pack);
}

/* A copy with adapters merged in has tensors of its own, and names those of the file. */
static void test_merged(void **state)
{
	struct tiny *t = *state;
	struct nla_lm merged;
	const float bad[2] = { 1, NAN };
	map_bad(t);
	assert_ok(nla_merge_copy(&merged, &t->policy, t->target.lm.arch.n_layers, &err));
	assert_fails(nla_lm_blame(&merged, bad, 2, &err), WANT);
	assert_ok(nla_lm_blame(&merged, bad, 1, &err));
	nla_lm_release(&merged);
}

static void test_extract(void **state)
{
	struct tiny *t = *state;
	struct nla_i32s ids = { 0 };
	float v[D];
	map_bad(t);
	assert_ok(nla_target_encode(&t->target, false, "the red fox", &ids, &err));
	assert_fails(nla_extract_at(&t->target, &ids, (int64_t[]){ (int64_t)ids.n - 1 }, 1, K, v, &err), WANT);
	nla_i32s_release(&ids);
}

static void test_score(void **state)
{
	struct tiny *t = *state;
	struct nla_ar_texts texts = golden_texts(t);
	struct nla_view view = nla_half_view(&t->ar);
	float mse[M];
	map_bad(t);
	assert_fails(nla_ar_score(&t->ar, &view, &texts, golden_f32(t, "ar.targets", M * D), mse, NULL, &err), WANT);
	nla_ar_texts_release(&texts);
}

/* A set of one row. */
static void open_set(struct nla_actset *set, const float *v)
{
	struct nla_actset_writer *w;
	struct nla_sidecar meta;
	char text[] = "the red fox", id[] = "doc";
	const struct nla_row row = { .doc_id = id, .text = text, .n_raw_tokens = 3 };
	nla_sidecar_init(&meta);
	meta.kind = nla_strdup("nla_model");
	meta.d_model = D;
	meta.layer = K;
	assert_ok(nla_actset_create(&w, in_scratch("set"), &meta, NLA_ST_F32, 0, &err));
	assert_ok(nla_actset_add(w, &row, v, &err));
	assert_ok(nla_actset_finish(w, &err));
	assert_ok(nla_actset_open(set, in_scratch("set"), D, &err));
	nla_sidecar_release(&meta);
}

static void test_evaluate(void **state)
{
	struct tiny *t = *state;
	struct nla_rl rl = golden_rl(t, &golden_cfg, NULL);
	struct nla_actset set;
	struct nla_step s;
	open_set(&set, t->responses.v);
	rl.set = &set;
	nla_step_start(&s, 1, 1, D);
	nla_decoded_init(&s.tokens, 1, 4);
	memcpy(s.tokens.ids, t->ids, 4 * sizeof(*t->ids));
	s.tokens.length[0] = 4;
	map_bad(t);
	assert_fails(nla_eval_logprob(&rl, &(int64_t){ 1 }, &s, &err), WANT);
	nla_step_release(&s);
	nla_actset_close(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TINY_TEST(test_decode),
		TINY_TEST(test_merged),
		TINY_TEST(test_extract),
		TINY_TEST(test_score),
		TINY_TEST(test_evaluate),
	};
	return run_tiny(tests);
}
