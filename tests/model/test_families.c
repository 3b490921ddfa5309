/*
 * Every family against transformers and PEFT (tests/golden/make_families.py): log-probabilities bare and with adapters, without a vector
 * and with one in both injection modes, the adapter's gradient, and the AR's prediction with and without the final norm; in fp32, in fp32 mapped from the file, and in bf16 within
 * about what transformers itself is off by there; on a CPU that stores bf16 and computes in fp32, equal to fp32 of the same weights.
 */
#include "model/families.h"
#include "lm/decode.h"
#include "nla/recover.h"

enum { F_V = 97, F_D = 32, F_BLOCKS = 4, F_K = 2, F_N = 3, F_PROMPT = 9, F_MARKER_AT = 5, F_RESPONSE = 24, F_WIDTH = F_PROMPT + F_RESPONSE };

static const char *const names[] = { "qwen3", "qwen2", "llama2", "llama3", "gemma3", "gemma3long", "gemma3mm", "smollm2" };

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

/* [N, RESPONSE], zero beyond a row's end; mode: -1 or enum nla_inject_at. grad: their sum goes to the adapter's gradients. */
static void logprobs_of(const struct family *f, bool adapted, int mode, bool grad, float *out)
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
	nt_grad_push(grad);
	struct nla_inject inject = { .at = mode < 0 ? 0 : mode, .block = 1, .scale = 4, .sites = nt_i64(DEVICE, sites, F_N),
				     .v = nt_from_host(NT_F32, DEVICE, nla_st_find(&f->golden, "vectors")->data, 2, shape) };
	nt_tensor *x = nla_forward(&view, &pack, mode < 0 ? NULL : &inject, F_BLOCKS, NULL);
	x = nla_final_norm(&view, nt_rows(x, nt_i64(DEVICE, at.data, (int64_t)at.n)));
	nt_tensor *lp = nt_token_logprob(x, f->lm.head, nt_i64(DEVICE, ids.data, (int64_t)ids.n), 1, NULL);
	float *packed = host(nt_detach(lp), at.n);
	if (grad)
		assert_int_equal(nt_backward(nt_sum(lp)), NT_OK);
	nt_grad_pop();
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

static void logprobs(const struct family *f, bool adapted, int mode, float *out) { logprobs_of(f, adapted, mode, false, out); }

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
		check_family(names[i], NT_F32, NLA_LM_AUTO, NULL);
}

/* The gradient of all A and B, relative to its largest number. */
static void test_gradient(void **state)
{
	for (size_t i = 0; i < NLA_LEN(names); i++) {
		struct family f;
		float mine[F_N * F_RESPONSE];
		double most = 0, off = 0;
		size_t n = 0, at = 0;
		open_family(&f, names[i], NT_F32, NLA_LM_AUTO);
		assert_ok(nla_adapter_train(&f.av, true, &err));
		logprobs_of(&f, true, NLA_INJECT_AT_BLOCK, true, mine);
		struct nla_tensors all = { 0 };
		nla_adapter_list(&f.av, &all);
		for (size_t p = 0; p < all.names.n; p++)
			n += (size_t)nt_numel(all.list[p]);
		const float *want = numbers(&f, "gradient", false, n);
		nt_scope_push();
		for (size_t p = 0; p < all.names.n; p++) {
			size_t size = (size_t)nt_numel(all.list[p]);
			float *g = host(nt_grad(all.list[p]), size);
			for (size_t j = 0; j < size; j++, at++) {
				off = fmax(off, fabs((double)g[j] - want[at]));
				most = fmax(most, fabs(want[at]));
			}
			free(g);
		}
		nt_scope_pop();
		within(names[i], off / most, 1e-4);
		nla_tensors_release(&all);
		close_family(&f);
	}
}

/* What is drawn one by one over the cache, past the window, has the log-probability of one pass over all of it. */
static void test_cached(void **state)
{
	enum { NEW = 26 };
	for (size_t i = 0; i < NLA_LEN(names); i++) {
		struct family f;
		struct nla_pack prompts, whole;
		struct nla_decoded out;
		struct nla_i64s at = { 0 }, next = { 0 };
		int64_t row[F_N];
		const uint32_t key[F_N] = { 3, 1, 2 };
		open_family(&f, names[i], NT_F32, NLA_LM_AUTO);
		const struct nla_view view = { .lm = &f.lm, .adapters = { &f.av }, .n_adapters = 1 };
		nla_pack_init(&prompts);
		nla_pack_init(&whole);
		for (int r = 0; r < F_N; r++) {
			int32_t ids[F_PROMPT];
			for (int j = 0; j < F_PROMPT; j++)
				ids[j] = (int32_t)f.ids[r * F_WIDTH + j];
			row[r] = nla_pack_add(&prompts, ids, F_PROMPT - 3 * r, -1);
			nla_pack_add(&whole, ids, F_PROMPT - 3 * r, -1);
		}
		assert_ok(nla_pack_ready(&prompts, &f.lm, &err));
		const struct nla_decode d = { .view = &view, .prompts = &prompts, .prompt_row = row, .key = key, .n = F_N,
					      .max_new_tokens = NEW, .temperature = 1, .rng = { 1, NLA_STREAM_TEST } };
		assert_ok(nla_decode(&d, &out, &err));
		for (int r = 0; r < F_N; r++) {
			int64_t child = nla_pack_add(&whole, out.ids + r * NEW, NEW, r);
			for (int64_t j = 0; j < NEW; j++) {
				nla_i64s_push(&at, j ? whole.start.data[child] + j - 1 : nla_pack_last(&whole, r));
				nla_i64s_push(&next, out.ids[r * NEW + j]);
			}
		}
		assert_ok(nla_pack_ready(&whole, &f.lm, &err));
		nt_scope_push();
		nt_tensor *x = nla_forward(&view, &whole, NULL, F_BLOCKS, NULL);
		x = nla_final_norm(&view, nt_rows(x, nt_i64(DEVICE, at.data, (int64_t)at.n)));
		float *want = host(nt_token_logprob(x, f.lm.head, nt_i64(DEVICE, next.data, (int64_t)next.n), 1, NULL), at.n);
		nt_scope_pop();
		within(names[i], worst(out.logprob, want, at.n), 1e-5);
		free(want);
		nla_i64s_release(&at);
		nla_i64s_release(&next);
		nla_decoded_release(&out);
		nla_pack_release(&prompts);
		nla_pack_release(&whole);
		close_family(&f);
	}
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
		check_family(names[i], NT_BF16, NLA_LM_AUTO, &off);
	double part = DEVICE != NT_CPU ? 1.1 : nt_bf16_products() ? 0.8 : 0.6; /* the CPU's is that of the weights, and of what they multiply */
	within("bf16 error over transformers', all", off.ours / off.theirs, part);
	within("bf16 from transformers', over its error, all", off.apart / off.theirs, 1.4); /* two independent errors: sqrt 2 */
}

/* Weights stored in bf16, which a CPU computes with in fp32: what the same numbers stored in fp32 give. */
static void test_stored_bf16(void **state)
{
	if (DEVICE != NT_CPU || nt_bf16_products())
		skip(); /* it computes in bf16 */
	for (size_t i = 0; i < NLA_LEN(names); i++) {
		struct family wide, f;
		float want[F_N * F_RESPONSE], got[F_N * F_RESPONSE];
		open_family(&wide, names[i], NT_F32, NLA_LM_AUTO);
		open_family(&f, names[i], NT_BF16, NLA_LM_AUTO);
		struct nla_tensors all = { 0 };
		nla_lm_list(&wide.lm, &all);
		nt_scope_push();
		for (size_t p = 0; p < all.names.n; p++)
			if (nt_ndim(all.list[p]) == 2)
				nt_copy_into(all.list[p], nt_to(all.list[p], NT_BF16));
		nt_scope_pop();
		nla_tensors_release(&all);
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
			open_family(&f, names[i], NT_F32, NLA_LM_AUTO);
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

/* ---- inside a folder with other modalities ---- */

static bool is_text(const char *name) { return !strstr(name, "vision_tower") && !strstr(name, "multi_modal_projector"); }

/* Whatever spelling the tensors have, and whatever the adapter's keys: the same model, and PEFT's keys are written. */
static void test_inside(void **state)
{
	static const char from[] = "language_model.model.", *const to[] = { "model.language_model.", "model." };
	struct family f;
	struct nla_st st, av, saved;
	struct nla_lm again;
	open_family(&f, "gemma3mm", NT_F32, NLA_LM_AUTO);
	assert_true(f.lm.arch.inside && f.av.inside);
	assert_ok(nla_st_open(&st, FAMILIES "/gemma3mm/model.safetensors", &err));
	copy_to_scratch("gemma3mm", "config.json", NULL, NULL);
	for (size_t k = 0; k < NLA_LEN(to); k++) {
		struct nla_st_entry *all = nla_alloc(st.n_entries, sizeof(*all));
		size_t n = 0;
		for (size_t i = 0; i < st.n_entries; i++) {
			const struct nla_st_entry *e = &st.entries[i];
			if (k == 1 && !is_text(e->name))
				continue; /* a text model's weights next to a config of the whole */
			all[n] = *e;
			all[n++].name = nla_starts_with(e->name, from) ? nla_format("%s%s", to[k], e->name + strlen(from))
								       : nla_format("model.%s", e->name);
		}
		assert_ok(st_write(in_scratch("model.safetensors"), all, n, &err));
		assert_ok(nla_lm_load(&again, scratch, NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err));
		struct nla_tensors a = { 0 }, b = { 0 };
		nla_lm_list(&again, &a);
		nla_lm_list(&f.lm, &b);
		for (size_t p = 0; p < a.names.n; p++) {
			size_t size = (size_t)nt_numel(a.list[p]);
			float *x = host(a.list[p], size), *y = host(b.list[p], size);
			assert_memory_equal(x, y, size * sizeof(*x));
			free(x);
			free(y);
		}
		nla_lm_release(&again);
		for (size_t i = 0; i < n; i++)
			free(all[i].name);
		free(all);
		nla_tensors_release(&a);
		nla_tensors_release(&b);
	}
	nla_st_close(&st);
	assert_ok(nla_st_open(&av, FAMILIES "/gemma3mm/av/adapter_model.safetensors", &err));
	assert_ok(nla_adapter_save(&f.av, in_scratch("av"), "base", &err));
	assert_ok(nla_st_open(&saved, in_scratch("av/adapter_model.safetensors"), &err));
	size_t n = 0;
	for (size_t i = 0; i < av.n_entries; i++)
		if (is_text(av.entries[i].name)) {
			const struct nla_st_entry *e = nla_st_find(&saved, av.entries[i].name);
			assert_non_null(e);
			assert_memory_equal(e->data, av.entries[i].data, e->nbytes);
			n++;
		}
	assert_true(n == saved.n_entries && n < av.n_entries);
	nla_st_close(&av);
	nla_st_close(&saved);
	close_family(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TINY_TEST(test_fp32), TINY_TEST(test_gradient), TINY_TEST(test_cached), TINY_TEST(test_mapped),
					    TINY_TEST(test_bf16), TINY_TEST(test_stored_bf16), TINY_TEST(test_cut_ar), TINY_TEST(test_mapped_merge),
					    TINY_TEST(test_inside) };
	return run_tiny(tests);
}
