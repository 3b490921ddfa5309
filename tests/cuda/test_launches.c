/*
 * What a token and an update cost a GPU apart from arithmetic: kernels, matrix products, copies and waits of the host, counted on
 * the fake CUDA (tests/fake_cuda) under libtorch's own CUDA code, in bf16, on the tiny model of five blocks.
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

static int model_open(void **state)
{
	struct model *m = nla_alloc(1, sizeof(*m));
	int device;
	assert_int_equal(nt_device_open("cuda", &device), NT_OK);
	assert_ok(nla_target_open(&m->target, TINY "/model", NULL, device, NT_BF16, -1, &err));
	assert_ok(nla_half_open(&m->av, NLA_AV, &m->target, TINY "/av", NULL, &err));
	assert_ok(nla_adapter_load(&m->rl, &m->target.lm.arch, m->target.lm.arch.n_layers, TINY "/rl", device, &err));
	m->base = (struct nla_view){ .lm = &m->target.lm };
	m->beside = nla_half_view(&m->av);
	m->beside.adapters[m->beside.n_adapters++] = &m->rl;
	*state = m;
	return 0;
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
				   .waits = a.waits - b.waits };
}

enum { ROWS = 8, FEW = 16, MANY = 48 };

/* What decoding `tokens` tokens a row takes, all 8 rows to the end. */
static struct fake_cuda decode(const struct model *m, const struct nla_view *view, int64_t tokens)
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
	struct nla_decode d = { .view = view, .prompts = &pack, .inject = &inject, .prompt_row = rows, .key = keys, .n = ROWS,
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

/* Of one token more: kernels (products apart), products, copies and waits. */
static void token_costs(const struct model *m, const struct nla_view *view, const char *name, double kernels, double products,
			double waits)
{
	struct fake_cuda few = decode(m, view, FEW), many = decode(m, view, MANY);
	double n = MANY - FEW, k = (double)(many.launches - few.launches) / n, p = (double)(many.products - few.products) / n;
	double w = (double)(many.waits - few.waits) / n, up = (double)(many.to_device - few.to_device) / n;
	double down = (double)(many.to_host - few.to_host) / n;
	print_message("    a token, %s: %.2f kernels, %.2f products, %.2f copies up, %.2f down, %.2f waits\n", name, k, p, up, down, w);
	if (k > kernels || p > products || w > waits || up > waits || down > waits)
		fail_msg("want at most %g kernels, %g products, %g copies and waits", kernels, products, waits);
}

static void test_token(void **state)
{
	const struct model *m = *state;
	/* 8 kernels a block and 4 products, 12 with adapters beside; 11 and 1 around them; copies and waits: two at each end of a window of eight tokens */
	token_costs(m, &m->base, "no adapters", 51, 21, 0.5);
	token_costs(m, &m->beside, "two adapters beside", 51, 61, 0.5);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test_setup_teardown(test_token, model_open, model_close),
					    cmocka_unit_test_setup_teardown(test_block, model_open, model_close) };
	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
