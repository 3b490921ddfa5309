/*
 * What a token costs a GPU apart from arithmetic: graphs, kernels, matrix products, copies and waits of the host, counted on the
 * fake CUDA (tests/fake_cuda) under libtorch's own CUDA code, in bf16, on the tiny model of five blocks. And what a graph forbids.
 */
#include "unit/scratch.h"

#include <dlfcn.h>

#include "nla/av.h"
#include "tests/fake_cuda/fake.h"

#define TINY TEST_DATA "/tiny"

static struct nla_err err;

struct model {
	struct nla_target target;
	struct nla_half av;
	struct nla_adapter rl;
	struct nla_view base, beside; /* with nothing to add; with the warm start and the trained adapter beside */
};

static int open_folder(void **state, const char *folder, int64_t random_seed)
{
	struct model *m = nla_alloc(1, sizeof(*m));
	int device;
	assert_int_equal(nt_device_open("cuda", &device), NT_OK);
	assert_ok(nla_target_open(&m->target, folder, NULL, device, NT_BF16, random_seed, &err));
	assert_ok(nla_half_open(&m->av, NLA_AV, &m->target, TINY "/av", NULL, &err));
	assert_ok(nla_adapter_load(&m->rl, &m->target.lm.arch, m->target.lm.arch.n_layers, TINY "/rl", device, &err));
	m->base = (struct nla_view){ .lm = &m->target.lm };
	m->beside = nla_half_view(&m->av);
	m->beside.adapters[m->beside.n_adapters++] = &m->rl;
	*state = m;
	return 0;
}

static int model_open(void **state) { return open_folder(state, TINY "/model", -1); }

/* A Gemma 3 of those sizes: windows shorter than what is decoded. */
static int gemma_open(void **state)
{
	static const char config[] = "{\"model_type\": \"gemma3_text\", \"vocab_size\": 380, \"hidden_size\": 48, \"intermediate_size\": 80, "
		"\"num_hidden_layers\": 5, \"num_attention_heads\": 6, \"num_key_value_heads\": 2, \"head_dim\": 16, "
		"\"sliding_window\": 12, \"sliding_window_pattern\": 3, \"max_position_embeddings\": 512}";
	assert_ok(nla_copy_beside(TINY "/model", scratch, "config.json", &err));
	assert_ok(nla_file_write(in_scratch("config.json"), config, strlen(config), false, &err));
	return open_folder(state, scratch, 1);
}

static int model_close(void **state)
{
	struct model *m = *state;
	nla_adapter_release(&m->rl);
	nla_half_release(&m->av);
	nla_target_close(&m->target);
	free(m);
	assert_int_equal(nt_live(), 0);
	return 0;
}

static struct fake_cuda now(void)
{
	struct fake_cuda (*counts)(void) = (struct fake_cuda(*)(void))dlsym(RTLD_DEFAULT, "fake_cuda_counts");
	assert_non_null(counts);
	return counts();
}

static struct fake_cuda less(struct fake_cuda a, struct fake_cuda b)
{
	return (struct fake_cuda){ .launches = a.launches - b.launches, .products = a.products - b.products,
				   .to_device = a.to_device - b.to_device, .to_host = a.to_host - b.to_host,
				   .waits = a.waits - b.waits, .idle = a.idle - b.idle, .graphs = a.graphs - b.graphs };
}

enum { ROWS = 8, FEW = 24, MANY = 48, BLOCKS = 5 };

/* What decoding `tokens` tokens a row takes, all 8 rows to the end, as many of each view. */
static struct fake_cuda decode(const struct model *m, const struct nla_view *view, int64_t n_views, int64_t tokens)
{
	float v[48] = { 1 };
	uint32_t keys[ROWS] = { 0 };
	int64_t prompt, rows[ROWS];
	struct nla_decoded out;
	struct nla_pack pack;
	struct nla_inject inject;
	nla_pack_init(&pack);
	nt_scope_push();
	assert_ok(nla_av_pack(&m->av, v, 1, &pack, &prompt, &inject, &err));
	assert_ok(nla_pack_ready(&pack, view->lm, &err));
	for (int i = 0; i < ROWS; i++)
		rows[i] = prompt;
	struct nla_decode d = { .view = view, .n_views = n_views, .prompts = &pack, .inject = &inject, .prompt_row = rows, .key = keys, .n = ROWS,
				.max_new_tokens = tokens, .temperature = 1 };
	struct fake_cuda before = now();
	assert_ok(nla_decode(&d, &out, &err));
	struct fake_cuda after = now();
	nla_decoded_release(&out);
	nt_scope_pop();
	nla_pack_release(&pack);
	return less(after, before);
}

/* What a forward and backward pass of a prompt with four responses takes. */
static struct fake_cuda train(const struct model *m, const struct nla_view *view, int64_t blocks)
{
	static const int32_t ids[20] = { 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24 };
	struct nla_pack pack;
	nla_pack_init(&pack);
	nt_scope_push();
	int64_t prompt = nla_pack_add(&pack, ids, 10, -1);
	for (int i = 0; i < 4; i++)
		nla_pack_add(&pack, ids, 12 + 2 * i, prompt);
	assert_ok(nla_pack_ready(&pack, &m->target.lm, &err));
	nt_grad_push(true);
	struct fake_cuda before = now();
	assert_int_equal(nt_backward(nt_sum(nla_forward(view, &pack, NULL, blocks, NULL))), NT_OK);
	struct fake_cuda after = now();
	nt_grad_pop();
	nt_scope_pop();
	nla_pack_release(&pack);
	return less(after, before);
}

/* Of one block more, forward and backward, gradients added to those there are. */
static void test_block(void **state)
{
	const struct model *m = *state;
	assert_ok(nla_adapter_train(&((struct model *)m)->rl, true, &err));
	train(m, &m->beside, 5);
	struct fake_cuda few = train(m, &m->beside, 2), many = train(m, &m->beside, 4);
	double n = 2, kernels = (double)(many.launches - few.launches) / n, products = (double)(many.products - few.products) / n;
	print_message("    a block's training: %.1f kernels, %.1f products\n", kernels, products);
	assert_int_equal(many.to_device + many.to_host + many.waits, few.to_device + few.to_host + few.waits);
	assert_true(kernels <= 39 && products <= 28); /* 248 and 60 with libtorch's operations alone */
}

/*
 * A token more is one graph of so many kernels and products: nothing else is launched, and the host copies what was drawn and its
 * log-probability, for which it waits while the device has the next token to do.
 */
static void tokens_cost(const struct model *m, const struct nla_view *view, int64_t n_views, const char *name, int64_t kernels)
{
	struct fake_cuda few = decode(m, view, n_views, FEW), many = decode(m, view, n_views, MANY);
	int64_t n = MANY - FEW;
	print_message("    a token, %s: a graph of %lld kernels and products, %.2f other launches, %.2f waits, %.2f of an idle device\n",
		      name, (long long)now().captured, (double)(many.launches - few.launches) / (double)n,
		      (double)(many.waits - few.waits) / (double)n, (double)(many.idle - few.idle) / (double)n);
	assert_int_equal(now().captured, kernels);
	assert_int_equal(many.graphs - few.graphs, n);
	assert_int_equal(many.launches + many.products, few.launches + few.products);
	assert_int_equal(many.to_device, few.to_device);
	assert_int_equal(many.to_host - few.to_host, 2 * n);
	assert_int_equal(many.waits - few.waits, 2 * n);
	assert_int_equal(many.idle, few.idle);
}

static void token_costs(const struct model *m, const struct nla_view *view, const char *name, int64_t kernels)
{
	tokens_cost(m, view, 1, name, kernels);
}

static void test_token(void **state)
{
	const struct model *m = *state;
	/* 5 kernels a block and 4 products, 12 with adapters beside; 11 and 1 around them */
	token_costs(m, &m->base, "no adapters", (5 + 4) * BLOCKS + 11 + 1);
	token_costs(m, &m->beside, "two adapters beside", (5 + 12) * BLOCKS + 11 + 1);
	/* and as many for several policies, each with adapters of its own */
	const struct nla_view views[4] = { m->beside, m->beside, m->beside, m->beside };
	tokens_cost(m, views, 4, "of four policies", (5 + 12) * BLOCKS + 11 + 1);
}

/* Blocks with windows and four norms, which compute in fp32: one graph as well. */
static void test_gemma(void **state)
{
	const struct model *m = *state;
	token_costs(m, &m->base, "Gemma 3", (9 + 4) * BLOCKS + 14 + 1);
	token_costs(m, &m->beside, "Gemma 3, two adapters beside", (9 + 12) * BLOCKS + 14 + 1);
	assert_ok(nla_adapter_train(&((struct model *)m)->rl, true, &err));
	train(m, &m->beside, 5);
	struct fake_cuda few = train(m, &m->beside, 2), many = train(m, &m->beside, 4);
	assert_int_equal(many.to_device + many.to_host + many.waits, few.to_device + few.to_host + few.waits);
}

static void reads_a_number(void *x)
{
	double number;
	nt_item(x, &number);
}

static void copies_to_the_host(void *x)
{
	float number[2];
	nt_to_host_f32(x, number, 2);
}

static void copies_to_the_device(void *x)
{
	float number = 1;
	nt_scope_push();
	nt_add(x, nt_f32(nt_device_of(x), &number, 1));
	nt_scope_pop();
}

/* What a graph cannot have ends its capture with libtorch's words, and nothing else. */
static void test_forbidden(void **state)
{
	static const struct {
		void (*step)(void *);
		const char *says;
	} cases[] = {
		{ reads_a_number, "CUDA error: operation not permitted when stream is capturing" },
		{ copies_to_the_host, "Cannot copy between CPU and CUDA tensors during CUDA graph capture" },
		{ copies_to_the_device, "Cannot copy between CPU and CUDA tensors during CUDA graph capture" },
	};
	const struct model *m = *state;
	float numbers[2] = { 1, 2 };
	nt_scope_push();
	nt_tensor *two = nt_f32(m->target.lm.device, numbers, 2);
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		assert_null(nt_graph_capture(m->target.lm.device, cases[i].step, i ? two : nt_narrow(two, 0, 0, 1)));
		if (!strstr(nt_error(), cases[i].says))
			fail_msg("capture %zu says '%s'", i, nt_error());
		nt_clear();
	}
	nt_scope_pop();
	assert_int_equal(decode(m, &m->base, 1, FEW).graphs, FEW - 2); /* all but the prompts' and the one before the capture */
}

static void makes_64_mb(void *model)
{
	const struct model *m = model;
	nt_free(nt_zeros(NT_F32, m->target.lm.device, 1, (int64_t[]){ 16 << 20 }));
}

/* A graph's memory is its own: what the allocator keeps for later is given back for it. */
static void test_memory(void **state)
{
	struct model *m = *state;
	int device = m->target.lm.device;
	int64_t free_before, free_bytes, total, peak;
	nt_free(nt_zeros(NT_F32, device, 1, (int64_t[]){ 256 << 20 }));
	assert_ok(nt_memory(device, &free_before, &total, &peak));
	assert_ok(nt_memory_limit(device, total - free_before + (4 << 20)));
	nt_graph *graph = nt_graph_capture(device, makes_64_mb, m);
	assert_non_null(graph);
	assert_ok(nt_memory(device, &free_bytes, &total, &peak));
	assert_true(free_bytes > free_before + (900 << 20));
	nt_graph_free(graph);
	free_before = free_bytes;
	assert_ok(nt_memory(device, &free_bytes, &total, &peak));
	assert_int_equal(free_bytes, free_before + (64 << 20));
	assert_ok(nt_memory_limit(device, total));
}

/* A process uses one card. */
static void test_second_card(void **state)
{
	int device;
	(void)state;
	assert_int_equal(nt_device_open("cuda:0", &device), NT_OK);
	assert_int_equal(nt_device_open("cuda:1", &device), NT_NO_DEVICE);
	assert_non_null(strstr(nt_error(), "this process uses GPU 0, and uses one"));
	nt_clear();
}

int main(void)
{
	setenv("FAKE_CUDA_CARDS", "2", 1);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_token, model_open, model_close),
		cmocka_unit_test_setup_teardown(test_gemma, gemma_open, model_close),
		cmocka_unit_test_setup_teardown(test_forbidden, model_open, model_close),
		cmocka_unit_test_setup_teardown(test_memory, model_open, model_close),
		cmocka_unit_test_setup_teardown(test_block, model_open, model_close),
		cmocka_unit_test(test_second_card),
	};
	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
