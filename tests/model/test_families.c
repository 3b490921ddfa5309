/*
 * Every family against transformers and PEFT (tests/golden/make_families.py): log-probabilities bare and with adapters, without a vector
 * and with one in both injection modes, and the AR's prediction with and without the final norm; in fp32, in fp32 mapped from the file, and in bf16 within
 * about what transformers itself is off by there; on the CPU, which stores bf16 and computes in fp32, equal to fp32 of the same weights. Then
 * what is refused.
 */
#include "model/golden.h"
#include "nla/recover.h"
#include "unit/st_write.h"

#define FAMILIES TEST_DATA "/families"

enum { F_V = 97, F_D = 32, F_BLOCKS = 4, F_K = 2, F_N = 3, F_PROMPT = 9, F_MARKER_AT = 5, F_RESPONSE = 24, F_WIDTH = F_PROMPT + F_RESPONSE };

static const char *const names[] = { "qwen3", "qwen2", "llama2", "llama3", "smollm2" };

struct family {
	struct nla_st golden;
	const char *name;
	struct nla_lm lm;
	struct nla_adapter av, ar;
	const int64_t *ids;
	int64_t length[F_N];
};

static const float *numbers(const struct family *f, const char *what, bool bf16, size_t n)
{
	char *name = nla_format("%s.%s%s", f->name, what, bf16 ? ".bf16" : "");
	const struct nla_st_entry *e = nla_st_find(&f->golden, name);
	if (!e || e->nbytes != n * sizeof(float))
		fail_msg("golden.safetensors has no '%s' of %zu numbers", name, n);
	free(name);
	return e->data;
}

static void open_family(struct family *f, const char *name, nt_dtype dtype, enum nla_lm_how how)
{
	char *folder = nla_format("%s/%s", FAMILIES, name), *av = nla_path_join(folder, "av"), *ar = nla_path_join(folder, "ar");
	memset(f, 0, sizeof(*f));
	f->name = name;
	assert_ok(nla_st_open(&f->golden, FAMILIES "/golden.safetensors", &err));
	assert_ok(nla_lm_load(&f->lm, folder, NULL, DEVICE, dtype, how, &err));
	assert_ok(nla_adapter_load(&f->av, &f->lm.arch, F_BLOCKS, av, DEVICE, &err));
	assert_ok(nla_adapter_load(&f->ar, &f->lm.arch, F_K + 1, ar, DEVICE, &err));
	f->ids = nla_st_find(&f->golden, "ids")->data;
	for (int i = 0; i < F_N; i++)
		while (f->length[i] < F_WIDTH && f->ids[i * F_WIDTH + f->length[i]] >= 0)
			f->length[i]++;
	free(folder);
	free(av);
	free(ar);
}

static void close_family(struct family *f)
{
	nla_adapter_release(&f->av);
	nla_adapter_release(&f->ar);
	nla_lm_release(&f->lm);
	nla_st_close(&f->golden);
}

/* All rows in one pack; sites: where their markers stand, ends: their last tokens. */
static void pack_rows(const struct family *f, struct nla_pack *pack, int64_t *sites, int64_t *ends)
{
	nla_pack_init(pack);
	for (int i = 0; i < F_N; i++) {
		int32_t row[F_WIDTH];
		for (int64_t j = 0; j < f->length[i]; j++)
			row[j] = (int32_t)f->ids[i * F_WIDTH + j];
		int64_t at = nla_pack_add(pack, row, f->length[i], -1);
		sites[i] = pack->start.data[at] + F_MARKER_AT;
		ends[i] = nla_pack_last(pack, at);
	}
	assert_ok(nla_pack_ready(pack, &f->lm, &err));
}

/* [N, RESPONSE], zero beyond a row's end; mode: -1 or enum nla_inject_at */
static void logprobs(const struct family *f, bool adapted, int mode, float *out)
{
	struct nla_view view = { .lm = &f->lm, .adapters = { &f->av }, .n_adapters = adapted };
	struct nla_pack pack;
	struct nla_i64s at = { 0 }, ids = { 0 };
	int64_t sites[F_N], ends[F_N], shape[2] = { F_N, F_D }, k = 0;
	pack_rows(f, &pack, sites, ends);
	for (int i = 0; i < F_N; i++)
		for (int64_t j = F_PROMPT; j < f->length[i]; j++) {
			nla_i64s_push(&at, pack.start.data[i] + j - 1);
			nla_i64s_push(&ids, f->ids[i * F_WIDTH + j]);
		}
	nt_scope_push();
	struct nla_inject inject = { .at = mode < 0 ? 0 : mode, .block = 1, .scale = 4, .sites = nt_i64(DEVICE, sites, F_N),
				     .v = nt_from_host(NT_F32, DEVICE, nla_st_find(&f->golden, "vectors")->data, 2, shape) };
	nt_tensor *x = nla_forward(&view, &pack, mode < 0 ? NULL : &inject, F_BLOCKS, NULL);
	x = nla_final_norm(&view, nt_rows(x, nt_i64(DEVICE, at.data, (int64_t)at.n)));
	float *packed = host(nt_token_logprob(x, f->lm.head, nt_i64(DEVICE, ids.data, (int64_t)ids.n), 1, NULL), at.n);
	nt_scope_pop();
	memset(out, 0, F_N * F_RESPONSE * sizeof(*out));
	for (int i = 0; i < F_N; i++)
		for (int64_t j = 0; j < f->length[i] - F_PROMPT; j++)
			out[i * F_RESPONSE + j] = packed[k++];
	free(packed);
	nla_i64s_release(&at);
	nla_i64s_release(&ids);
	nla_pack_release(&pack);
}

/* kept: with the final norm, as nanoNLA's ARs may have been trained */
static void reconstruct(const struct family *f, const struct nla_view *view, bool kept, float *out)
{
	struct nla_pack pack;
	int64_t sites[F_N], ends[F_N], shape[2] = { F_D, F_D };
	pack_rows(f, &pack, sites, ends);
	nt_scope_push();
	nt_tensor *h = nt_rows(nla_forward(view, &pack, NULL, F_K + 1, NULL), nt_i64(DEVICE, ends, F_N));
	nt_tensor *head = nt_from_host(NT_F32, DEVICE, numbers(f, "head", false, F_D * F_D), 2, shape);
	h = kept ? nla_final_norm(view, h) : h;
	float *hat = host(nt_normalize(nt_linear(nt_normalize(h), head, NULL)), F_N * F_D);
	memcpy(out, hat, F_N * F_D * sizeof(*out));
	free(hat);
	nt_scope_pop();
	nla_pack_release(&pack);
}

/* [N, 2]: a row's last token given its own vector, and the next row's. */
static void replace(const struct family *f, float *out)
{
	struct nla_ar_texts texts, one;
	const float *v = nla_st_find(&f->golden, "vectors")->data;
	float x[F_N * 2 * F_D];
	double kl[F_N * 2], first;
	nla_ar_texts_start(&texts);
	nla_ar_texts_start(&one);
	nla_i32s_push(&one.ids, (int32_t)f->ids[0]);
	nla_i64s_push(&one.offset, 1);
	for (int i = 0; i < F_N; i++) {
		for (int64_t j = 0; j < f->length[i]; j++)
			nla_i32s_push(&texts.ids, (int32_t)f->ids[i * F_WIDTH + j]);
		nla_i64s_push(&texts.offset, (int64_t)texts.ids.n);
		memcpy(x + 2 * i * F_D, v + i * F_D, F_D * sizeof(*x));
		memcpy(x + (2 * i + 1) * F_D, v + (i + 1) % F_N * F_D, F_D * sizeof(*x));
	}
	assert_ok(nla_recover(&f->lm, F_K, &texts, x, 2, kl, &err));
	for (int i = 0; i < F_N * 2; i++)
		out[i] = (float)kl[i];
	assert_ok(nla_recover(&f->lm, F_K, &one, x, 1, &first, &err)); /* a text of one token */
	assert_true(first > 0.01 && first < 20);
	nla_ar_texts_release(&texts);
	nla_ar_texts_release(&one);
}

static const struct {
	const char *name;
	bool adapted;
	int mode;
} cases[] = {
	{ "bare", false, -1 },
	{ "adapter", true, -1 },
	{ "bare.residual_add", false, NLA_INJECT_AT_BLOCK },
	{ "adapter.residual_add", true, NLA_INJECT_AT_BLOCK },
	{ "bare.embed_replace", false, NLA_INJECT_AT_EMBEDDING },
	{ "adapter.embed_replace", true, NLA_INJECT_AT_EMBEDDING },
};

static double mean_diff(const float *a, const float *b, size_t n)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += fabs((double)a[i] - b[i]);
	return sum / (double)n;
}

/* How far bf16 is off, summed over everything compared: ours from exact, transformers' from exact, ours from transformers'. */
struct off {
	double ours, theirs, apart;
};

/* fp32: within 1e-4. bf16: a row of few numbers says little of its error, so each is held to twice transformers' own, and their sum to what
 * follows. */
static void compare(const struct family *f, const char *what, const float *mine, size_t n, struct off *off)
{
	const float *exact = numbers(f, what, false, n);
	char line[96];
	if (!off) {
		snprintf(line, sizeof(line), "%s %s", f->name, what);
		within(line, worst(mine, exact, n), 1e-4);
		return;
	}
	const float *coarse = numbers(f, what, true, n);
	double ours = mean_diff(mine, exact, n), theirs = mean_diff(coarse, exact, n);
	snprintf(line, sizeof(line), "%s %s, bf16 error over transformers'", f->name, what);
	within(line, ours / theirs, 2);
	off->ours += ours;
	off->theirs += theirs;
	off->apart += mean_diff(mine, coarse, n);
}

static void check_family(const char *name, nt_dtype dtype, enum nla_lm_how how, struct off *off)
{
	struct family f;
	float mine[F_N * F_RESPONSE], hat[F_N * F_D];
	open_family(&f, name, dtype, how);
	assert_int_equal(f.lm.mapped, how == NLA_LM_MAP);
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		logprobs(&f, cases[i].adapted, cases[i].mode, mine);
		compare(&f, cases[i].name, mine, F_N * F_RESPONSE, off);
	}
	const struct nla_view reader = { .lm = &f.lm, .adapters = { &f.ar }, .n_adapters = 1 };
	reconstruct(&f, &reader, false, hat);
	compare(&f, "ar", hat, F_N * F_D, off);
	reconstruct(&f, &reader, true, hat);
	compare(&f, "ar.kept", hat, F_N * F_D, off);
	replace(&f, hat);
	if (!off)
		compare(&f, "kl", hat, F_N * 2, off);
	close_family(&f);
}

static void test_fp32(void **state)
{
	for (size_t i = 0; i < NLA_LEN(names); i++)
		check_family(names[i], NT_F32, NLA_LM_COPY, NULL);
}

/* A device does not read the host's memory, where the mapped file is. */
static void test_mapped(void **state)
{
	struct nla_lm lm;
	if (DEVICE != NT_CPU) {
		assert_fails(nla_lm_load(&lm, FAMILIES "/qwen2", NULL, DEVICE, NT_F32, NLA_LM_MAP, &err), "does not read the host's memory");
		return;
	}
	for (size_t i = 0; i < NLA_LEN(names); i++)
		check_family(names[i], NT_F32, NLA_LM_MAP, NULL);
}

static void test_bf16(void **state)
{
	struct off off = { 0 };
	for (size_t i = 0; i < NLA_LEN(names); i++)
		check_family(names[i], NT_BF16, NLA_LM_COPY, &off);
	within("bf16 error over transformers', all", off.ours / off.theirs, DEVICE == NT_CPU ? 0.6 : 1.1); /* the CPU's is the weights' alone */
	within("bf16 from transformers', over its error, all", off.apart / off.theirs, 1.4); /* two independent errors: sqrt 2 */
}

/* Weights stored in bf16, which the CPU computes with in fp32: what the same numbers stored in fp32 give. */
static void test_stored_bf16(void **state)
{
	if (DEVICE != NT_CPU)
		skip(); /* it computes in bf16 */
	for (size_t i = 0; i < NLA_LEN(names); i++) {
		struct family wide, f;
		float want[F_N * F_RESPONSE], got[F_N * F_RESPONSE];
		open_family(&wide, names[i], NT_F32, NLA_LM_COPY);
		open_family(&f, names[i], NT_BF16, NLA_LM_COPY);
		int n = nla_lm_params(&wide.lm, NULL);
		nt_tensor **list = nla_alloc((size_t)n, sizeof(*list));
		nla_lm_params(&wide.lm, list);
		nt_scope_push();
		for (int p = 0; p < n; p++)
			if (nt_ndim(list[p]) == 2)
				nt_copy_into(list[p], nt_to(list[p], NT_BF16));
		nt_scope_pop();
		free(list);
		assert_int_equal(nt_dtype_of(f.lm.embed), NT_BF16);
		assert_int_equal(nt_dtype_of(f.lm.norm), NT_F32);
		for (size_t c = 0; c < NLA_LEN(cases); c++) {
			logprobs(&wide, cases[c].adapted, cases[c].mode, want);
			logprobs(&f, cases[c].adapted, cases[c].mode, got);
			within(cases[c].name, worst(got, want, F_N * F_RESPONSE), 2e-5);
		}
		close_family(&wide);
		close_family(&f);
	}
}

/* An AR cut off after its block, with and without the final norm: the adapter over the blocks alone, and merged into them. */
static void test_cut_ar(void **state)
{
	for (size_t i = 0; i < NLA_LEN(names); i++)
		for (int kept = 0; kept <= 1; kept++) {
			struct family f;
			struct nla_lm cut, merged;
			const struct nla_lm_part part = { .depth = F_K + 1, .norm = kept };
			char *folder = nla_format("%s/%s", FAMILIES, names[i]);
			float hat[F_N * F_D];
			open_family(&f, names[i], NT_F32, NLA_LM_COPY);
			assert_ok(nla_lm_load(&cut, folder, &part, DEVICE, NT_F32, NLA_LM_AUTO, &err));
			struct nla_view over = { .lm = &cut, .adapters = { &f.ar }, .n_adapters = 1 }, plain = { .lm = &merged };
			assert_ok(nla_merge_copy(&merged, &over, cut.arch.n_layers, &err));
			reconstruct(&f, &over, kept, hat);
			compare(&f, kept ? "ar.kept" : "ar", hat, F_N * F_D, NULL);
			reconstruct(&f, &plain, kept, hat);
			compare(&f, kept ? "ar.kept" : "ar", hat, F_N * F_D, NULL);
			nla_lm_release(&merged);
			nla_lm_release(&cut);
			close_family(&f);
			free(folder);
		}
}

/* A mapped model merged into a copy of its own is the adapted one; the file's pages are never written. */
static void test_mapped_merge(void **state)
{
	struct family f;
	struct nla_lm merged;
	float mine[F_N * F_RESPONSE];
	if (DEVICE != NT_CPU)
		skip(); /* nothing is mapped there */
	open_family(&f, "qwen2", NT_F32, NLA_LM_MAP);
	struct nla_view view = { .lm = &f.lm, .adapters = { &f.av }, .n_adapters = 1 };
	assert_ok(nla_merge_copy(&merged, &view, f.lm.arch.n_layers, &err));
	struct family plain = f;
	plain.lm = merged;
	logprobs(&plain, false, NLA_INJECT_AT_BLOCK, mine);
	within("qwen2 mapped, merged", worst(mine, numbers(&f, "adapter.residual_add", false, F_N * F_RESPONSE), F_N * F_RESPONSE), 1e-4);
	nla_lm_release(&merged);
	close_family(&f);
	assert_fails(nla_lm_load(&f.lm, FAMILIES "/qwen2", NULL, DEVICE, NT_BF16, NLA_LM_MAP, &err), "cannot map");
}

/* ---- what is refused ---- */

static void copy_to_scratch(const char *family, const char *file, const char *from, const char *to)
{
	struct nla_str text = NLA_STR_INIT, changed = NLA_STR_INIT;
	char *in = nla_format("%s/%s/%s", FAMILIES, family, file), *out = nla_path_join(scratch, file);
	assert_ok(nla_file_read(in, &text, &err));
	const char *at = from ? strstr(text.buf, from) : text.buf;
	assert_non_null(at);
	nla_str_addn(&changed, text.buf, (size_t)(at - text.buf));
	nla_str_add(&changed, to ? to : "");
	at += from ? strlen(from) : 0;
	nla_str_addn(&changed, at, text.len - (size_t)(at - text.buf));
	assert_ok(nla_file_write(out, changed.buf, changed.len, false, &err));
	nla_str_release(&text);
	nla_str_release(&changed);
	free(in);
	free(out);
}

static void refused(const char *family, const char *from, const char *to, const char *want)
{
	struct nla_arch arch;
	copy_to_scratch(family, "config.json", from, to);
	assert_fails(nla_arch_read(&arch, scratch, &err), want);
}

static void test_refused(void **state)
{
	refused("llama2", "\"llama\"", "\"gemma3\"", "model_type 'gemma3' is not supported (supported: qwen3, qwen2, llama)");
	refused("llama2", "\"silu\"", "\"gelu\"", "'hidden_act' is 'gelu', only 'silu'|'swish' is supported");
	refused("llama2", "\"attention_bias\": false", "\"attention_bias\": true", "'attention_bias' is true");
	refused("llama2", "\"mlp_bias\": false", "\"mlp_bias\": true", "'mlp_bias' is true");
	refused("llama2", "\"use_cache\"", "\"attn_logit_softcapping\": 50.0,\n \"use_cache\"", "field 'attn_logit_softcapping' is not known");
	refused("llama2", "\"use_cache\"", "\"quantization_config\": {\"bits\": 4},\n \"use_cache\"", "'quantization_config' is {\"bits\":4}: the weights are quantised");
	refused("llama3", "\"rope_type\": \"llama3\"", "\"rope_type\": \"yarn\"", "rope_scaling': 'rope_type' is 'yarn'");
	refused("llama3", "\"factor\": 4.0,", "", "'factor'");
	refused("llama3", "\"rope_scaling\"", "\"rope_parameters\": {\"rope_type\": \"default\"},\n \"rope_scaling\"",
		"'rope_parameters' and 'rope_scaling' differ");
	refused("smollm2", "\"rope_scaling\": null", "\"rope_parameters\": {\"rope_theta\": 5000.0}",
		"'rope_theta' says rope_theta 100000, 'rope_parameters' 5000");
	refused("smollm2", "\"rope_scaling\": null", "\"rope_parameters\": {\"partial_rotary_factor\": 0.5}",
		"'partial_rotary_factor' is 0.5, only 1 is supported");
	refused("llama2", "\"llama\"", "\"qwen3_vl\", \"text_config\": {}", "is of several modalities");
	refused("llama2", "\"max_position_embeddings\": 256", "\"max_position_embeddings\": -1", "max_position_embeddings");
	refused("llama3", "\"factor\": 4.0,", "\"factor\": 4.0, \"attention_factor\": 2,", "rope_scaling': field 'attention_factor' is not known");
	refused("qwen2", "\"use_sliding_window\": false", "\"use_sliding_window\": true", "'use_sliding_window' is true");
	refused("qwen2", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "4 heads are no multiple of 3 key/value heads");
	refused("qwen2", "\"num_key_value_heads\": 2,", "", "'num_key_value_heads' is missing");
	refused("qwen3", "\"full_attention\"", "\"sliding_attention\"", "'layer_types' has an entry other than 'full_attention'");
}

/* One fact in other spellings: what is read is the same (transformers 5.23 computes the same numbers with each). */
static void same_arch(const char *family, const char *from, const char *to)
{
	struct nla_arch want, have;
	char *folder = nla_format("%s/%s", FAMILIES, family);
	assert_ok(nla_arch_read(&want, folder, &err));
	copy_to_scratch(family, "config.json", from, to);
	assert_ok(nla_arch_read(&have, scratch, &err));
	assert_true(have.n_kv_heads == want.n_kv_heads && have.head_dim == want.head_dim && have.rope_theta == want.rope_theta &&
		    have.rope_llama3 == want.rope_llama3 && have.rope_factor == want.rope_factor && have.rope_low == want.rope_low &&
		    have.rope_high == want.rope_high && have.rope_original == want.rope_original && have.rms_eps == want.rms_eps &&
		    have.tied == want.tied && have.with == want.with);
	free(folder);
}

#define LLAMA3_ROPE "\"factor\": 4.0, \"high_freq_factor\": 4.0, \"low_freq_factor\": 1.0, \"original_max_position_embeddings\": 64"

static void test_spellings(void **state)
{
	same_arch("llama2", "\"num_key_value_heads\": 4", "\"num_key_value_heads\": null");
	same_arch("llama2", "\"num_key_value_heads\": 4,", "");
	same_arch("llama2", "\"head_dim\": 8", "\"head_dim\": null");
	same_arch("llama2", "\"silu\"", "\"swish\"");
	same_arch("smollm2", "\"rope_theta\": 100000.0", "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 100000.0, "
		  "\"partial_rotary_factor\": 1.0}");
	same_arch("smollm2", "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"default\"}, \"partial_rotary_factor\": 1.0, "
		  "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 100000.0, \"partial_rotary_factor\": 1.0}");
	same_arch("smollm2", "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"default\", \"rope_type\": \"default\"}");
	same_arch("llama3", "\"rope_theta\": 10000.0", "\"rope_theta\": 10000, \"rope_parameters\": {\"rope_type\": \"llama3\", "
		  "\"rope_theta\": 10000.0, " LLAMA3_ROPE "}");
	same_arch("qwen2", "\"use_cache\"", "\"temperature\": 0.7, \"top_p\": 0.8, \"do_sample\": true, \"max_length\": 20, "
		  "\"gradient_checkpointing\": true, \"task_specific_params\": {\"a\": 1}, \"_name_or_path\": \"/x\", \"pruned_heads\": {}, "
		  "\"_attn_implementation\": \"sdpa\", \"tokenizer_class\": \"T\", \"bad_words_ids\": [[1]], \"use_cache\"");
}

/* Sizes that no memory holds, and sizes that no product may overflow. */
static void test_hostile(void **state)
{
	static const struct {
		const char *from, *to, *want;
	} bad[] = {
		{ "\"head_dim\": 8", "\"head_dim\": 9007199254740992", "'head_dim' is 9007199254740992, want a number from 2 to" },
		{ "\"hidden_size\": 32", "\"hidden_size\": 4294967295", "'hidden_size' is 4294967295, want a number" },
		{ "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 1000000000000", "'num_hidden_layers' is 1000000000000, want" },
		{ "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 1e400", "'num_hidden_layers' is too large" },
		{ "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 4.5", "'num_hidden_layers' is 4.5, want a whole number" },
		{ "\"num_attention_heads\": 4", "\"num_attention_heads\": 0", "'num_attention_heads' is 0, want a number from 1" },
		{ "\"vocab_size\": 97", "\"vocab_size\": -97", "'vocab_size' is -97, want" },
		{ "\"vocab_size\": 97", "\"vocab_size\": 100000000", "has shape [97, 32], want [100000000, 32]" },
		{ "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 10000", "'model.layers.4.input_layernorm.weight' is missing" },
		{ "\"max_position_embeddings\": 256", "\"max_position_embeddings\": 1e300", "'max_position_embeddings' is 1" },
	};
	for (size_t i = 0; i < NLA_LEN(bad); i++) {
		struct nla_lm lm;
		copy_to_scratch("llama2", "config.json", bad[i].from, bad[i].to);
		copy_to_scratch("llama2", "model.safetensors", NULL, NULL);
		assert_fails(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err), bad[i].want);
	}
}

/* A NaN or an infinity in any weight is named: at once where it is copied, at the first result where it is mapped. */
static void test_not_finite(void **state)
{
	static const struct {
		const char *name;
		uint32_t bits;
	} bad[] = { { "model.embed_tokens.weight", 0x7fc00000 }, { "model.layers.2.mlp.up_proj.weight", 0xff800000 },
		      { "model.norm.weight", 0x7f800001 } };
	for (size_t i = 0; i < NLA_LEN(bad); i++) {
		struct nla_st st;
		struct nla_lm lm;
		const float nan = NAN;
		char *want = nla_format("tensor '%s' has a NaN or an infinity (element 5)", bad[i].name);
		copy_to_scratch("llama2", "config.json", NULL, NULL);
		assert_ok(nla_st_open(&st, FAMILIES "/llama2/model.safetensors", &err));
		struct nla_st_entry *e = (struct nla_st_entry *)(uintptr_t)nla_st_find(&st, bad[i].name);
		char *bytes = nla_alloc(e->nbytes, 1);
		memcpy(bytes, e->data, e->nbytes);
		memcpy(bytes + 5 * sizeof(uint32_t), &bad[i].bits, sizeof(uint32_t));
		e->data = bytes;
		assert_ok(st_write(in_scratch("model.safetensors"), st.entries, st.n_entries, &err));
		assert_fails(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_COPY, &err), want);
		err = (struct nla_err)NLA_ERR_INIT;
		if (e->ndim == 2 && DEVICE == NT_CPU) { /* norms are copied always, and all of a device's */
			assert_ok(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_MAP, &err));
			assert_fails(nla_lm_blame(&lm, &nan, 1, &err), want);
			nla_lm_release(&lm);
		}
		nla_st_close(&st);
		free(bytes);
		free(want);
	}
}

/* Weights of one family under another's config: the tensors that would be left out, or are missing, are named. */
static void test_other_family(void **state)
{
	static const struct {
		const char *weights, *config, *from, *to, *want;
	} pairs[] = {
		{ "qwen2", "smollm2", "\"num_key_value_heads\": 1", "\"num_key_value_heads\": 2", "self_attn.k_proj.bias' is not part of family llama" },
		{ "llama3", "qwen2", NULL, NULL, "'model.layers.0.self_attn.q_proj.bias' is missing" },
		{ "llama2", "smollm2", NULL, NULL, "'model.layers.0.self_attn.k_proj.weight' has shape [32, 32], want [8, 32]" },
		{ "smollm2", "smollm2", "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3", "belongs to no layer, config.json has 3" },
		{ "smollm2", "smollm2", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", "'lm_head.weight' is missing" },
	};
	for (size_t i = 0; i < NLA_LEN(pairs); i++) {
		struct nla_lm lm;
		copy_to_scratch(pairs[i].config, "config.json", pairs[i].from, pairs[i].to);
		copy_to_scratch(pairs[i].weights, "model.safetensors", NULL, NULL);
		assert_fails(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err), pairs[i].want);
		assert_fails(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_MAP, &err), pairs[i].want);
	}
}

/* A tied model's file may hold the head a second time; one that is not the embedding would be another model. */
static void test_second_head(void **state)
{
	struct nla_st st;
	struct nla_lm lm;
	copy_to_scratch("smollm2", "config.json", NULL, NULL);
	assert_ok(nla_st_open(&st, FAMILIES "/smollm2/model.safetensors", &err));
	struct nla_st_entry *all = nla_alloc(st.n_entries + 1, sizeof(*all)), *head = &all[st.n_entries];
	char name[] = "lm_head.weight";
	memcpy(all, st.entries, st.n_entries * sizeof(*all));
	*head = *nla_st_find(&st, "model.embed_tokens.weight");
	head->name = name;
	assert_ok(st_write(in_scratch("model.safetensors"), all, st.n_entries + 1, &err));
	assert_ok(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err));
	nla_lm_release(&lm);
	char *other = nla_alloc(head->nbytes, 1);
	head->data = other;
	assert_ok(st_write(in_scratch("model.safetensors"), all, st.n_entries + 1, &err));
	assert_fails(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err), "'lm_head.weight' is not the embedding");
	free(other);
	free(all);
	nla_st_close(&st);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TINY_TEST(test_fp32),	  TINY_TEST(test_mapped),  TINY_TEST(test_bf16), TINY_TEST(test_stored_bf16),
					    TINY_TEST(test_cut_ar),	  TINY_TEST(test_mapped_merge), TINY_TEST(test_refused), TINY_TEST(test_spellings), TINY_TEST(test_hostile), TINY_TEST(test_not_finite), TINY_TEST(test_other_family),
					    TINY_TEST(test_second_head) };
	return run_tiny(tests);
}
