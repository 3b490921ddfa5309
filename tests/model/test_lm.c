/*
 * The language model against transformers and PEFT: logits, the residual stream after every block, tied embeddings, adapters
 * read, written, joined and merged, and files that come back byte for byte.
 */
#include "model/golden.h"
#include "unit/st_write.h"

#define T 40
#define T_TIED 16

/* ---- the forward pass ---- */

struct tapped {
	float hidden[BLOCKS][T * D];
	int n;
};

static void tap(int64_t block, const nt_tensor *x, void *arg)
{
	struct tapped *out = arg;
	assert_int_equal(block, out->n++);
	assert_int_equal(nt_to_host_f32(x, out->hidden[block], T * D), NT_OK);
}

static void pack_ids(struct nla_pack *pack, const struct nla_lm *lm, const int64_t *ids, int64_t n)
{
	nla_pack_init(pack);
	int32_t *narrow = nla_alloc((size_t)n, sizeof(*narrow));
	for (int64_t i = 0; i < n; i++)
		narrow[i] = (int32_t)ids[i];
	assert_int_equal(nla_pack_add(pack, narrow, n, -1), 0);
	assert_ok(nla_pack_ready(pack, lm, &err));
	free(narrow);
}

/* Logits [n, V] of one text, to be freed by the caller. */
static float *logits_of(const struct nla_view *view, const int64_t *ids, int64_t n, const struct nla_tap *tap)
{
	struct nla_pack pack;
	pack_ids(&pack, view->lm, ids, n);
	nt_scope_push();
	nt_tensor *x = nla_forward(view, &pack, NULL, view->lm->arch.n_layers, tap);
	float *logits = host(nt_linear(nla_final_norm(view, x), view->lm->head, NULL), (size_t)(n * view->lm->arch.vocab));
	nt_scope_pop();
	nla_pack_release(&pack);
	return logits;
}

static void check_logits(struct tiny *t, const char *what)
{
	struct nla_view bare = { .lm = &t->target.lm };
	struct tapped tapped = { .n = 0 };
	const float *hidden = golden_f32(t, "lm.hidden", BLOCKS * T * D);
	float *logits = logits_of(&bare, golden_i64(t, "lm.ids", T), T, &(struct nla_tap){ .out = tap, .arg = &tapped });
	char line[80];
	assert_int_equal(tapped.n, BLOCKS);
	for (int l = 0; l < BLOCKS; l++) {
		snprintf(line, sizeof(line), "hidden after block %d, %s", l, what);
		within(line, worst(tapped.hidden[l], hidden + l * T * D, T * D), 2e-5);
	}
	snprintf(line, sizeof(line), "logits, %s", what);
	within(line, worst(logits, golden_f32(t, "lm.logits", T * VOCAB), T * VOCAB), 5e-5);
	free(logits);
}

static void test_logits(void **state) { check_logits(*state, "fast"); }

static void test_logits_threads(void **state)
{
	nt_set_threads(3);
	check_logits(*state, "3 threads");
}

static void test_logits_plain(void **state)
{
	nt_plain(true);
	check_logits(*state, "plain");
}

/* n_blocks counts: K + 1 blocks end with the output of block K, its raw residual stream. */
static void test_depth(void **state)
{
	struct tiny *t = *state;
	struct nla_view bare = { .lm = &t->target.lm };
	const float *hidden = golden_f32(t, "lm.hidden", BLOCKS * T * D);
	struct nla_pack pack;
	pack_ids(&pack, bare.lm, golden_i64(t, "lm.ids", T), T);
	nt_scope_push();
	float *x = host(nla_forward(&bare, &pack, NULL, K + 1, NULL), T * D);
	within("K + 1 blocks", worst(x, hidden + K * T * D, T * D), 2e-5);
	assert_true(worst(x, hidden + (K + 1) * T * D, T * D) > 0.1 && worst(x, hidden + (K - 1) * T * D, T * D) > 0.1);
	nt_scope_pop();
	nla_pack_release(&pack);
	free(x);
}

static void test_tied(void **state)
{
	struct tiny *t = *state;
	struct nla_lm lm;
	assert_ok(nla_lm_load(&lm, TINY "/tied", NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err));
	assert_true(lm.arch.tied);
	assert_true(lm.arch.rope_theta == 500000);
	struct nla_view bare = { .lm = &lm };
	float *logits = logits_of(&bare, golden_i64(t, "tied.ids", T_TIED), T_TIED, NULL);
	within("logits, tied embeddings", worst(logits, golden_f32(t, "tied.logits", T_TIED * VOCAB), T_TIED * VOCAB), 5e-5);
	free(logits);
	nla_lm_release(&lm);
}

/* A prompt that rows share stands once: rows over a common head are the same as each text in a pack of its own. */
static void test_shared_head(void **state)
{
	struct tiny *t = *state;
	struct nla_view bare = { .lm = &t->target.lm };
	const int64_t *ids = golden_i64(t, "lm.ids", T);
	int32_t texts[3][T], lengths[3] = { 40, 17, 29 };
	struct nla_pack pack;
	nla_pack_init(&pack);
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < T; j++)
			texts[i][j] = (int32_t)ids[j < 11 ? j : (j + 7 * i) % T];
	int64_t head = nla_pack_add(&pack, texts[0], 11, -1), rows[3];
	for (int i = 0; i < 3; i++)
		rows[i] = nla_pack_add(&pack, texts[i] + 11, lengths[i] - 11, head);
	assert_int_equal(nla_pack_add(&pack, texts[0], 0, rows[1]), rows[1]); /* an empty row is its parent */
	assert_int_equal(nla_pack_end(&pack, rows[1]), 17);
	assert_ok(nla_pack_ready(&pack, bare.lm, &err));
	nt_scope_push();
	float *all = host(nla_forward(&bare, &pack, NULL, BLOCKS, NULL), (size_t)pack.n * D);
	double most = 0;
	for (int i = 0; i < 3; i++) {
		struct nla_pack alone;
		nla_pack_init(&alone);
		nla_pack_add(&alone, texts[i], lengths[i], -1);
		assert_ok(nla_pack_ready(&alone, bare.lm, &err));
		float *x = host(nla_forward(&bare, &alone, NULL, BLOCKS, NULL), (size_t)alone.n * D);
		most = NLA_MAX(most, worst(x + 11 * D, all + pack.start.data[rows[i]] * D, (size_t)(lengths[i] - 11) * D));
		nla_pack_release(&alone);
		free(x);
	}
	within("rows over a shared head, each alone", most, 5e-5);
	nt_scope_pop();
	nla_pack_release(&pack);
	free(all);
}

static void test_refused_ids(void **state)
{
	struct tiny *t = *state;
	struct nla_pack pack;
	int32_t beyond = VOCAB, many[513] = { 0 };
	nla_pack_init(&pack);
	nla_pack_add(&pack, &beyond, 1, -1);
	assert_fails(nla_pack_ready(&pack, &t->target.lm, &err), "outside the model's vocabulary of 380");
	nla_pack_release(&pack);
	nla_pack_add(&pack, many, 513, -1);
	assert_fails(nla_pack_ready(&pack, &t->target.lm, &err), "more than 512 tokens");
	nla_pack_release(&pack);
}

/* ---- files ---- */

/* Both files hold the same names, types, shapes and bytes. */
static void same_tensors(const char *a_path, const char *b_path)
{
	struct nla_st a, b;
	assert_ok(nla_st_open(&a, a_path, &err));
	assert_ok(nla_st_open(&b, b_path, &err));
	assert_int_equal(a.n_entries, b.n_entries);
	assert_true(a.n_entries > 0);
	for (size_t i = 0; i < a.n_entries; i++) {
		const struct nla_st_entry *x = &a.entries[i], *y = &b.entries[i];
		assert_string_equal(x->name, y->name);
		assert_int_equal(x->dtype, y->dtype);
		assert_int_equal(x->ndim, y->ndim);
		assert_memory_equal(x->shape, y->shape, sizeof(x->shape));
		assert_int_equal(x->nbytes, y->nbytes);
		assert_memory_equal(x->data, y->data, x->nbytes);
	}
	nla_st_close(&a);
	nla_st_close(&b);
}

static void test_model_round_trip(void **state)
{
	static const char *const folders[] = { TINY "/model", TINY "/tied" };
	for (size_t i = 0; i < NLA_LEN(folders); i++) {
		struct nla_lm lm;
		char *from = nla_path_join(folders[i], "model.safetensors");
		assert_ok(nla_lm_load(&lm, folders[i], NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err));
		assert_ok(nla_lm_save(&lm, scratch, NT_F32, &err));
		same_tensors(in_scratch("model.safetensors"), from);
		nla_lm_release(&lm);
		free(from);
	}
	(void)state;
}

/* What PEFT wrote comes back byte for byte under PEFT's names, with the settings that scale it. */
static void test_adapter_round_trip(void **state)
{
	struct tiny *t = *state;
	const struct {
		const struct nla_adapter *adapter;
		const char *file;
	} cases[] = { { &t->av.adapter, TINY "/av/adapter_model.safetensors" },
		      { &t->rl, TINY "/rl/adapter_model.safetensors" },
		      { &t->ar.adapter, TINY "/ar/adapter_model.safetensors" } };
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		const struct nla_adapter *a = cases[i].adapter;
		struct nla_adapter again;
		const char *folder = in_scratch("adapter");
		assert_ok(nla_adapter_save(a, folder, "tiny/model", &err));
		same_tensors(in_scratch("adapter/adapter_model.safetensors"), cases[i].file);
		assert_ok(nla_adapter_load(&again, &t->target.lm.arch, a->n_layers, folder, DEVICE, &err));
		assert_int_equal(again.rslora, a->rslora);
		assert_memory_equal(again.rank, a->rank, sizeof(a->rank));
		assert_memory_equal(again.alpha, a->alpha, sizeof(a->alpha));
		nla_adapter_release(&again);
	}
	assert_close(nla_lora_scale(&t->av.adapter, NLA_Q), 4, 1e-12);  /* 8 / sqrt 4 */
	assert_close(nla_lora_scale(&t->rl, NLA_O), 6 / sqrt(3), 1e-12); /* 6 / sqrt 3 */
	assert_int_equal(t->rl.rank[NLA_GATE], 0);
}

static void set_config(const char *rank_pattern, const char *alpha_pattern)
{
	cJSON *config;
	assert_ok(nla_json_read(TINY "/rl/adapter_config.json", &config, &err));
	cJSON_ReplaceItemInObject(config, "rank_pattern", cJSON_Parse(rank_pattern));
	cJSON_ReplaceItemInObject(config, "alpha_pattern", cJSON_Parse(alpha_pattern));
	assert_ok(nla_json_write(in_scratch("patterns/adapter_config.json"), config, false, &err));
	cJSON_Delete(config);
}

/* Two patterns that match one projection: PEFT takes the first in the file's order, whichever it is. */
static void test_adapter_patterns(void **state)
{
	struct tiny *t = *state;
	const struct nla_arch *arch = &t->target.lm.arch;
	struct nla_adapter a;
	const char *folder = in_scratch("patterns");
	assert_ok(nla_adapter_save(&t->rl, folder, NULL, &err));
	set_config("{\"q_proj\": 3, \"self_attn.q_proj\": 5}", "{\"self_attn.o_proj\": 5, \"v_proj\": 9, \"o_proj\": 7}");
	assert_ok(nla_adapter_load(&a, arch, BLOCKS, folder, DEVICE, &err));
	assert_int_equal(a.rank[NLA_Q], 3);
	assert_close(a.alpha[NLA_O], 5, 0);
	assert_close(a.alpha[NLA_V], 9, 0);
	assert_close(a.alpha[NLA_Q], 6, 0);
	nla_adapter_release(&a);
	set_config("{\"self_attn.q_proj\": 5, \"q_proj\": 3}", "{}");
	assert_fails(nla_adapter_load(&a, arch, BLOCKS, folder, DEVICE, &err), "has shape [3, 48], want [5, 48]");
	set_config("{\"q_proj\": 3, \"k_proj\": 3, \"q_proj\": 4}", "{}");
	assert_fails(nla_adapter_load(&a, arch, BLOCKS, folder, DEVICE, &err), "'rank_pattern' has 'q_proj' twice");
}

static void test_adapter_keys(void **state)
{
	struct tiny *t = *state;
	const struct nla_arch *arch = &t->target.lm.arch;
	struct nla_adapter a;
	assert_fails(nla_adapter_load(&a, arch, BLOCKS, TINY "/ar", DEVICE, &err), "28 keys are missing: "
		     "'base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight'");
	struct nla_arch shallow = *arch;
	shallow.n_layers = BLOCKS - 1;
	assert_fails(nla_adapter_load(&a, &shallow, BLOCKS - 1, TINY "/rl", DEVICE, &err), "8 are unexpected: "
		     "'base_model.model.model.layers.4.self_attn.k_proj.lora_A.weight'");
	assert_ok(nla_adapter_load(&a, arch, BLOCKS - 1, TINY "/rl", DEVICE, &err)); /* a reconstructor's: its first blocks */
	nla_adapter_release(&a);
	/* one key renamed: missing under its name, unexpected under the other, also where a lax reader takes it for the same */
	static const char *const layers[] = { "9", "", "+0", " 0", "00", "-0", "0x0", "36893488147419103232" };
	struct nla_st st;
	assert_ok(nla_st_open(&st, TINY "/rl/adapter_model.safetensors", &err));
	char *own = st.entries[0].name;
	assert_ok(nla_adapter_save(&t->rl, in_scratch("keys"), NULL, &err));
	for (size_t i = 0; i < NLA_LEN(layers); i++) {
		char *other = nla_format("base_model.model.model.layers.%s.self_attn.k_proj.lora_A.weight", layers[i]);
		char *missing = nla_format("1 keys are missing: '%s', 1 are unexpected: '%s'", own, other);
		st.entries[0].name = other;
		assert_ok(st_write(in_scratch("keys/adapter_model.safetensors"), st.entries, st.n_entries, &err));
		st.entries[0].name = own;
		assert_fails(nla_adapter_load(&a, arch, BLOCKS, in_scratch("keys"), DEVICE, &err), missing);
		free(other);
		free(missing);
	}
	nla_st_close(&st);
}

/* A model file with one tensor left out, or of another shape, is refused by that tensor's name. */
static void test_model_refused(void **state)
{
	struct nla_st st;
	struct nla_str config = NLA_STR_INIT;
	struct nla_lm lm;
	(void)state;
	assert_ok(nla_file_read(TINY "/model/config.json", &config, &err));
	put("config.json", config.buf, config.len, false);
	assert_ok(nla_st_open(&st, TINY "/model/model.safetensors", &err));
	assert_ok(st_write(in_scratch("model.safetensors"), st.entries, st.n_entries - 1, &err)); /* sorted: the final norm */
	assert_fails(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err), "'model.norm.weight' is missing");
	st.entries[st.n_entries - 1].ndim = 2;
	st.entries[st.n_entries - 1].shape[0] = 6;
	st.entries[st.n_entries - 1].shape[1] = 8;
	assert_ok(st_write(in_scratch("model.safetensors"), st.entries, st.n_entries, &err));
	assert_fails(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err), "'model.norm.weight' has shape [6, 8], want [48]");
	nla_st_close(&st);
	nla_str_release(&config);
}

/* ---- adapters over the model ---- */

static float *adapted_logits(struct tiny *t, const struct nla_view *view)
{
	return logits_of(view, golden_i64(t, "lm.ids", T), T, NULL);
}

/* One adapter of two does what both do, also after a trip through PEFT's format. */
static void test_join(void **state)
{
	struct tiny *t = *state;
	struct nla_adapter joined, again;
	assert_ok(nla_adapter_join(&joined, &t->av.adapter, &t->rl, &err));
	assert_int_equal(joined.rank[NLA_Q], 7);
	assert_int_equal(joined.rank[NLA_DOWN], 4);
	assert_ok(nla_adapter_save(&joined, in_scratch("joined"), "tiny/model", &err));
	assert_ok(nla_adapter_load(&again, &t->target.lm.arch, BLOCKS, in_scratch("joined"), DEVICE, &err));
	struct nla_view one = { .lm = &t->target.lm, .adapters = { &joined }, .n_adapters = 1 }, read = one;
	read.adapters[0] = &again;
	float *both = adapted_logits(t, &t->policy), *x = adapted_logits(t, &one), *y = adapted_logits(t, &read);
	float *first = adapted_logits(t, &t->reference);
	assert_true(worst(both, first, T * VOCAB) > 0.1);
	within("joined adapter, two adapters", worst(x, both, T * VOCAB), 5e-5);
	assert_memory_equal(x, y, T * VOCAB * sizeof(float));
	free(both);
	free(first);
	free(x);
	free(y);
	nla_adapter_release(&joined);
	nla_adapter_release(&again);
}

/* A warm start that adapts some blocks alone: what RL saves over it is read again, and does what both do. */
static void test_join_some(void **state)
{
	struct tiny *t = *state;
	struct nla_adapter some, joined, again;
	struct nla_lora gone = t->av.adapter.layers[0][NLA_Q];
	t->av.adapter.layers[0][NLA_Q] = (struct nla_lora){ 0 };
	assert_ok(nla_adapter_save(&t->av.adapter, in_scratch("some"), "tiny/model", &err));
	t->av.adapter.layers[0][NLA_Q] = gone;
	assert_ok(nla_adapter_load(&some, &t->target.lm.arch, BLOCKS, in_scratch("some"), DEVICE, &err));
	assert_ok(nla_adapter_join(&joined, &some, &t->rl, &err));
	assert_ok(nla_adapter_save(&joined, in_scratch("joined"), "tiny/model", &err));
	assert_ok(nla_adapter_load(&again, &t->target.lm.arch, BLOCKS, in_scratch("joined"), DEVICE, &err));
	struct nla_view two = { .lm = &t->target.lm, .adapters = { &some, &t->rl }, .n_adapters = 2 }, one = two;
	one.adapters[0] = &again;
	one.n_adapters = 1;
	float *want = adapted_logits(t, &two), *got = adapted_logits(t, &one), *all = adapted_logits(t, &t->policy);
	assert_true(worst(want, all, T * VOCAB) > 1e-3);
	within("joined with an adapter of some blocks", worst(got, want, T * VOCAB), 5e-5);
	free(want);
	free(got);
	free(all);
	nla_adapter_release(&some);
	nla_adapter_release(&joined);
	nla_adapter_release(&again);
}

/* Weights with the adapters merged in; merging again starts from the base, which never changes. */
static void test_merge(void **state)
{
	struct tiny *t = *state;
	struct nla_lm merged;
	struct nla_view bare = { .lm = &t->target.lm }, view = { .lm = &merged };
	float *base = adapted_logits(t, &bare), *want = adapted_logits(t, &t->policy);
	assert_ok(nla_lm_fork(&merged, &t->target.lm, BLOCKS, (1u << NLA_N_PROJ) - 1, &err));
	float *forked = adapted_logits(t, &view);
	assert_memory_equal(forked, base, T * VOCAB * sizeof(float));
	assert_ok(nla_merge(&merged, &t->policy, &err));
	float *first = adapted_logits(t, &view);
	assert_ok(nla_merge(&merged, &t->policy, &err));
	float *second = adapted_logits(t, &view), *base_again = adapted_logits(t, &bare);
	within("merged weights, adapters", worst(first, want, T * VOCAB), 1e-4);
	assert_true(worst(first, base, T * VOCAB) > 0.1);
	assert_memory_equal(first, second, T * VOCAB * sizeof(float));
	assert_memory_equal(base, base_again, T * VOCAB * sizeof(float));
	float *all[] = { base, want, forked, first, second, base_again };
	for (size_t i = 0; i < NLA_LEN(all); i++)
		free(all[i]);
	nla_lm_release(&merged);
}

/* A fresh adapter changes nothing, its A fills +-1/sqrt(in), and the seed decides it. */
static void test_fresh_adapter(void **state)
{
	struct tiny *t = *state;
	struct nla_lora_spec spec = { .rank = 8, .alpha = 16, .rslora = false };
	struct nla_adapter fresh, other;
	struct nla_view bare = { .lm = &t->target.lm }, view = { .lm = &t->target.lm, .adapters = { &fresh }, .n_adapters = 1 };
	assert_ok(nla_lora_targets("q,v_proj,down", &spec.targets, &err));
	assert_int_equal(spec.targets, 1u << NLA_Q | 1u << NLA_V | 1u << NLA_DOWN);
	assert_fails(nla_lora_targets("q,x", &spec.targets, &err), "unknown LoRA target 'x'");
	spec.targets = 1u << NLA_Q | 1u << NLA_V | 1u << NLA_DOWN;
	assert_ok(nla_adapter_init(&fresh, &t->target.lm.arch, BLOCKS, &spec, (struct nla_rng){ 7, NLA_STREAM_INIT }, DEVICE, &err));
	assert_ok(nla_adapter_init(&other, &t->target.lm.arch, BLOCKS, &spec, (struct nla_rng){ 8, NLA_STREAM_INIT }, DEVICE, &err));
	float *base = adapted_logits(t, &bare), *with = adapted_logits(t, &view);
	assert_memory_equal(base, with, T * VOCAB * sizeof(float));
	struct nla_tensors all = { 0 };
	nla_adapter_list(&fresh, &all);
	assert_int_equal(all.names.n, BLOCKS * 3 * 2);
	nla_tensors_release(&all);
	assert_close(nla_lora_scale(&fresh, NLA_V), 2, 1e-12); /* 16 / 8 */
	float *a = host(fresh.layers[1][NLA_DOWN].A, 8 * 80), *b = host(other.layers[1][NLA_DOWN].A, 8 * 80), most = 0;
	double sq = 0, bound = 1 / sqrt(80);
	for (int i = 0; i < 8 * 80; i++) {
		most = fmaxf(most, fabsf(a[i]));
		sq += (double)a[i] * a[i];
	}
	assert_true(most <= bound && most > 0.98 * bound);
	assert_close(sqrt(sq / 640), bound / sqrt(3), 0.05 * bound);
	assert_true(worst(a, b, 640) > 0.5 * bound);
	free(base);
	free(with);
	free(a);
	free(b);
	nla_adapter_release(&fresh);
	nla_adapter_release(&other);
}

static void test_random_weights(void **state)
{
	struct nla_lm a, b, c;
	(void)state;
	assert_ok(nla_lm_init(&a, TINY "/model", 3, DEVICE, NT_F32, &err));
	assert_ok(nla_lm_init(&b, TINY "/model", 3, DEVICE, NT_F32, &err));
	assert_ok(nla_lm_init(&c, TINY "/model", 4, DEVICE, NT_F32, &err));
	int64_t total = 0;
	struct nla_tensors params = { 0 };
	nla_lm_list(&a, &params);
	for (size_t i = 0; i < params.names.n; i++)
		total += nt_numel(params.list[i]);
	nla_tensors_release(&params);
	assert_int_equal(total, nla_arch_n_params(&a.arch));
	float *x = host(a.blocks[3].down, D * 80), *y = host(b.blocks[3].down, D * 80), *z = host(c.blocks[3].down, D * 80);
	float *norm = host(a.norm, D);
	double sq = 0;
	for (int i = 0; i < D * 80; i++)
		sq += (double)x[i] * x[i];
	assert_close(sqrt(sq / (D * 80)), a.arch.init_std, 0.05 * a.arch.init_std);
	assert_memory_equal(x, y, D * 80 * sizeof(float));
	assert_true(worst(x, z, D * 80) > a.arch.init_std);
	for (int i = 0; i < D; i++)
		assert_true(norm[i] == 1);
	float *all[] = { x, y, z, norm };
	for (size_t i = 0; i < NLA_LEN(all); i++)
		free(all[i]);
	nla_lm_release(&a);
	nla_lm_release(&b);
	nla_lm_release(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TINY_TEST(test_logits),
		TINY_TEST(test_logits_threads),
		TINY_TEST(test_logits_plain),
		TINY_TEST(test_depth),
		TINY_TEST(test_tied),
		TINY_TEST(test_shared_head),
		TINY_TEST(test_refused_ids),
		TINY_TEST(test_model_round_trip),
		TINY_TEST(test_adapter_round_trip),
		TINY_TEST(test_adapter_patterns), TINY_TEST(test_adapter_keys),
		TINY_TEST(test_model_refused),
		TINY_TEST(test_join),
		TINY_TEST(test_join_some),
		TINY_TEST(test_merge),
		TINY_TEST(test_fresh_adapter),
		TINY_TEST(test_random_weights),
	};
	return run_tiny(tests);
}
