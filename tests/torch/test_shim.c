/* Scopes and ownership, errors, gradients' extent, and that bad input is an error and never a crash. */
#include <dirent.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "tensors.h"

static const float counting[24] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23 };

static double item(const nt_tensor *t)
{
	double x;

	if (nt_item(t, &x))
		fail_msg("%s", nt_error());
	return x;
}

static void test_scopes(void **state)
{
	int64_t before = nt_live();

	nt_scope_push();
	nt_tensor *a = gauss(1, DIMS(3));
	nt_scope_push();
	nt_tensor *b = nt_add(a, a), *c = nt_add(b, a);
	assert_int_equal(nt_live(), before + 3);
	c = nt_scope_pop_with(c); /* b goes, c moves out */
	assert_int_equal(nt_live(), before + 2);
	assert_true(fabs(item(nt_sum(nt_sub(c, nt_scale(a, 3))))) < 1e-6);
	assert_null(nt_scope_pop_with(NULL));
	assert_int_equal(nt_live(), before);
}

/* What an outer scope or the caller owns stays theirs when an inner scope hands it out. */
static void test_pop_with_somebody_elses_handle(void **state)
{
	nt_tensor *mine = nt_own(gauss(1, DIMS(3)));
	int64_t before = nt_live();

	nt_scope_push();
	nt_tensor *outer = gauss(1, DIMS(3));
	nt_scope_push();
	nt_scope_push();
	assert_ptr_equal(nt_scope_pop_with(outer), outer);
	nt_scope_push();
	assert_ptr_equal(nt_scope_pop_with(mine), mine);
	nt_scope_pop();
	assert_int_equal(nt_live(), before + 1);
	assert_int_equal(nt_numel(outer), 3);
	nt_scope_pop();
	assert_int_equal(nt_live(), before);
	assert_int_equal(nt_numel(mine), 3);
	nt_free(mine);
}

static void test_own_and_free(void **state)
{
	int64_t before = nt_live();

	nt_scope_push();
	nt_tensor *a = nt_own(gauss(1, DIMS(2))), *b = gauss(1, DIMS(2)), *c = gauss(1, DIMS(2));
	nt_free(b); /* before its scope does */
	assert_ptr_equal(nt_own(a), a);
	nt_scope_pop();
	assert_int_equal(nt_live(), before + 1);
	assert_int_equal(nt_size(a, 0), 2);
	nt_free(a);
	nt_free(NULL);
	assert_null(nt_own(NULL));
	assert_int_equal(nt_live(), before);
	(void)c;

	nt_scope_push();
	c = gauss(1, DIMS(2));
	nt_tensor *entropy, *kept;
	nt_token_logprob(gauss(1, DIMS(1, 2)), gauss(1, DIMS(4, 2)), nt_i64(DEVICE, (int64_t[]){ 1 }, 1), 1, &entropy);
	kept = nt_own(entropy); /* second results belong to the scope as well */
	nt_scope_pop();
	assert_true(isfinite(item(kept)));
	nt_free(kept);
	assert_int_equal(nt_live(), before);
}

/* Outside any scope the caller owns what is made, and popping too often is an error. */
static void test_without_scope(void **state)
{
	nt_scope_pop();
	nt_tensor *a = nt_f32(DEVICE, counting, 4);
	assert_int_equal(nt_live(), 1);
	nt_scope_push();
	nt_tensor *b = nt_scope_pop_with(nt_scale(a, 2));
	assert_int_equal(nt_live(), 2);
	float *x = host(b);
	assert_true(x[1] == 2 && x[3] == 6);
	free(x);
	nt_free(b);
	nt_free(a);
	assert_int_equal(nt_live(), 0);
	assert_error(nt_scope_pop(), "no scope is open");
	nt_scope_push();
}

static void test_views_share_memory(void **state)
{
	nt_tensor *a = nt_from_host(NT_F32, DEVICE, counting, DIMS(4, 6)), *view = nt_narrow(a, 0, 1, 2), *again = nt_share(a);

	assert_int_equal(nt_add_into(view, nt_f32(DEVICE, counting, 6), 2), NT_OK);
	assert_true(item(nt_sum(again)) == 276 + 2 * 2 * 15);
	assert_int_equal(nt_copy_into(nt_reshape(view, DIMS(12)), nt_zeros(NT_F32, DEVICE, DIMS(12))), NT_OK);
	assert_true(item(nt_sum(a)) == 276 - 138);
	nt_tensor *copy = nt_clone(a);
	assert_int_equal(nt_add_into(a, a, 1), NT_OK);
	assert_true(item(nt_sum(copy)) == 138);
}

static void test_looking(void **state)
{
	nt_tensor *a = nt_from_host(NT_F32, DEVICE, counting, DIMS(2, 3, 4)), *b = nt_to(a, NT_BF16);
	float out[24];
	uint16_t raw[24];
	int64_t ids[3];

	assert_int_equal(nt_ndim(a), 3);
	assert_int_equal(nt_size(a, 1), 3);
	assert_int_equal(nt_size(a, -1), 4);
	assert_int_equal(nt_numel(a), 24);
	assert_int_equal(nt_dtype_of(b), NT_BF16);
	assert_int_equal(nt_device_of(a), DEVICE);
	assert_int_equal(nt_to_host_f32(b, out, 24), NT_OK);
	assert_memory_equal(out, counting, sizeof(out));
	assert_int_equal(nt_to_host_raw(b, raw, sizeof(raw)), NT_OK);
	assert_int_equal(raw[1], 0x3f80);
	assert_int_equal(nt_to_host_f32(nt_narrow(a, 2, 1, 1), out, 6), NT_OK);
	assert_true(out[0] == 1 && out[5] == 21);
	assert_int_equal(nt_to_host_i64(nt_topk(nt_f32(DEVICE, counting, 9), 3), ids, 3), NT_OK);
	assert_true(ids[0] == 8 && ids[1] == 7 && ids[2] == 6);

	assert_error(nt_size(a, 3), "size Float[2,3,4]");
	assert_error(nt_size(NULL, 0), "NULL");
	assert_true(nt_ndim(NULL) == 0 && nt_numel(NULL) == 0 && nt_device_of(NULL) == NT_CPU && !nt_has_grad(NULL));
	assert_error(nt_to_host_f32(a, out, 23), "to_host_f32 Float[2,3,4]: room for 23");
	assert_error(nt_to_host_raw(b, raw, sizeof(raw) + 1), "to_host_raw");
	assert_error(nt_to_host_f32(NULL, out, 24), "NULL");
	assert_error(nt_item(a, &(double){ 0 }), "item Float[2,3,4]");
}

static void test_first_error_stays(void **state)
{
	nt_tensor *x = gauss(1, DIMS(2, 3)), *w = gauss(1, DIMS(4, 5)), *none = nt_linear(x, w, NULL);
	char first[1000];

	assert_null(none);
	assert_int_equal(nt_check(), NT_FAILED);
	snprintf(first, sizeof(first), "%s", nt_error());
	assert_non_null(strstr(first, "linear Float[2,3] Float[4,5]: "));
	assert_null(strchr(first, '\n'));
	assert_null(strstr(first, "Exception raised from"));
	assert_null(nt_reshape(x, DIMS(7)));
	assert_int_equal(nt_backward(x), NT_FAILED);
	assert_string_equal(nt_error(), first);
	assert_non_null(nt_add(x, x)); /* what can be made still is */
	nt_clear();
	assert_string_equal(nt_error(), "");
	assert_int_equal(nt_check(), NT_OK);
}

static void test_null_in_null_out(void **state)
{
	nt_tensor *x = gauss(1, DIMS(2, 4)), *ids = nt_i64(DEVICE, (int64_t[]){ 0, 1 }, 2), *two[2] = { x, NULL }, *second = x, *none = NULL;
	nt_tree *tree = nt_tree_new((int64_t[]){ 2 }, (int64_t[]){ -1 }, 1, DEVICE);
	nt_tensor *(*const binary[])(const nt_tensor *, const nt_tensor *) = { nt_add, nt_sub,	  nt_mul,    nt_min,
										nt_dot, nt_matmul, nt_rows, nt_embedding };
	nt_tensor *(*const unary[])(const nt_tensor *) = { nt_exp,   nt_sum,   nt_mean_last, nt_clone,	  nt_swiglu,
							   nt_share, nt_detach, nt_grad,	 nt_normalize };
	int64_t live = nt_live();

	for (size_t i = 0; i < NLA_LEN(binary); i++) {
		assert_null(binary[i](NULL, ids));
		assert_null(binary[i](x, NULL));
	}
	for (size_t i = 0; i < NLA_LEN(unary); i++)
		assert_null(unary[i](NULL));
	assert_null(nt_linear(x, NULL, NULL));
	assert_null(nt_project(x, &(struct nt_projection){ .w = &none, .n_w = 1 }));
	assert_int_equal(nt_split(NULL, 1, (int64_t[]){ 1 }, &none), NT_FAILED);
	assert_null(nt_rms_norm(NULL, x, 1e-6));
	assert_null(nt_qk_rope(x, NULL, 1e-6, NULL, x));
	assert_null(nt_attention(x, NULL, x, tree, 0, 1));
	assert_null(nt_attention(x, x, x, NULL, 0, 1));
	assert_null(nt_attention_cached(x, x, x, NULL, ids, 0, 1));
	assert_null(nt_inject_add(x, ids, NULL));
	assert_null(nt_put_rows(x, ids, NULL));
	assert_null(nt_cat(two, 2, 0));
	assert_null(nt_token_logprob(NULL, x, ids, 1, &second));
	assert_null(second);
	second = x;
	assert_null(nt_sample(NULL, x, 1, &second));
	assert_null(second);
	assert_int_equal(nt_cache_put(NULL, ids, ids, x), NT_FAILED);
	assert_int_equal(nt_copy_into(NULL, x), NT_FAILED);
	assert_int_equal(nt_requires_grad(NULL, true), NT_FAILED);
	assert_int_equal(nt_backward(NULL), NT_FAILED);
	nt_zero_grad(NULL);
	assert_int_equal(nt_live(), live);
	assert_error(NULL, "NULL");
	nt_tree_free(tree);
	nt_tree_free(NULL);
}

static void test_ids_out_of_range(void **state)
{
	static const int64_t bad[2] = { 4, -1 };
	if (on_card())
		skip(); /* a kernel's assertion there, after which the program gets nothing more done */
	nt_tensor *w = gauss(1, DIMS(4, 6)), *h = gauss(1, DIMS(1, 6)), *zero = nt_i64(DEVICE, (int64_t[]){ 0 }, 1);
	nt_tensor *cache = nt_zeros(NT_F32, DEVICE, DIMS(4, 4, 1, 6)), *q = gauss(1, DIMS(1, 1, 6)), *entropy = h;

	for (int i = 0; i < 4; i++) {
		nt_tensor *id = nt_i64(DEVICE, &bad[i / 2], 1);
		nt_plain(i % 2);
		assert_error(nt_embedding(w, id), "embedding Float[4,6] Long[1]: ");
		assert_error(nt_rows(w, id), "rows Float[4,6] Long[1]: ");
		assert_error(nt_put_rows(w, id, h), "put_rows");
		assert_error(nt_inject_add(w, id, h), "inject_add");
		assert_error(nt_token_logprob(h, w, id, 1, &entropy), "token_logprob Float[1,6] Float[4,6] Long[1]: ");
		assert_null(entropy);
		if (DEVICE == NT_CPU || bad[i / 2] > 0) { /* below zero is not looked for on a device: the host would wait */
			assert_error(nt_cache_put(cache, id, zero, q), "cache_put");
			assert_error(nt_cache_put(cache, zero, id, q), "cache_put");
		}
		assert_error(nt_attention_cached(q, cache, cache, id, nt_i64(DEVICE, (int64_t[]){ 1 }, 1), 0, 1),
			     "attention_cached");
	}
	nt_plain(false);
	if (DEVICE == NT_CPU) { /* nor are lengths */
		assert_error(nt_attention_cached(q, cache, cache, zero, nt_i64(DEVICE, (int64_t[]){ 5 }, 1), 0, 1), "length 5");
		assert_error(nt_attention_cached(q, cache, cache, zero, zero, 0, 1), "length 0");
	}
	assert_true(item(nt_sum(cache)) == 0);
}

/* Shapes that do not fit: the fast versions read plain arrays, so what they do not check is a wild read. */
static void test_shapes_that_do_not_fit(void **state)
{
	nt_tree *tree = nt_tree_new((int64_t[]){ 2, 1 }, (int64_t[]){ -1, 0 }, 2, DEVICE);
	nt_tensor *q = gauss(1, DIMS(3, 4, 8)), *k = gauss(1, DIMS(3, 2, 8)), *cos = gauss(1, DIMS(3, 4)),
		  *x = gauss(1, DIMS(3, 7));
	nt_tensor *cache = nt_zeros(NT_F32, DEVICE, DIMS(3, 5, 2, 8)), *ids = nt_i64(DEVICE, (int64_t[]){ 1, 2, 1 }, 3);

	for (int plain = 0; plain < 2; plain++) {
		nt_plain(plain);
		assert_non_null(nt_attention(q, k, k, tree, 0, 1));
		assert_error(nt_attention(q, k, nt_narrow(k, 0, 0, 2), tree, 0, 1),
			     "attention Float[3,4,8] Float[3,2,8] Float[2,2,8]: ");
		assert_error(nt_attention(q, k, nt_narrow(k, 1, 0, 1), tree, 0, 1), "attention");
		assert_error(nt_attention(q, nt_narrow(k, 2, 0, 4), nt_narrow(k, 2, 0, 4), tree, 0, 1), "attention");
		assert_error(nt_attention(nt_narrow(q, 1, 0, 3), k, k, tree, 0, 1), "multiple");
		assert_error(nt_attention(nt_narrow(q, 0, 0, 2), nt_narrow(k, 0, 0, 2), nt_narrow(k, 0, 0, 2), tree, 0, 1),
			     "tokens");
		assert_error(nt_attention(x, x, x, tree, 0, 1), "attention");
		assert_non_null(nt_attention_cached(q, cache, cache, ids, ids, 0, 1));
		assert_error(nt_attention_cached(q, cache, nt_narrow(cache, 1, 0, 4), ids, ids, 0, 1), "attention_cached");
		assert_error(nt_attention_cached(q, cache, cache, nt_narrow(ids, 0, 0, 2), ids, 0, 1), "attention_cached");
		assert_error(nt_attention_cached(nt_narrow(q, 2, 0, 4), cache, cache, ids, ids, 0, 1), "attention_cached");
		assert_error(nt_rms_norm(q, cos, 1e-6), "rms_norm");
		assert_error(nt_qk_rope(q, NULL, 1e-6, nt_narrow(cos, 0, 0, 2), cos), "qk_rope");
		assert_error(nt_qk_rope(q, NULL, 1e-6, cos, nt_narrow(cos, 0, 0, 2)), "qk_rope");
		assert_error(nt_qk_rope(q, nt_f32(DEVICE, counting, 7), 1e-6, cos, cos), "qk_rope");
		assert_error(nt_swiglu(x), "swiglu Float[3,7]: ");
		assert_error(nt_token_logprob(x, gauss(1, DIMS(9, 6)), ids, 1, NULL), "token_logprob");
		assert_error(nt_token_logprob(x, gauss(1, DIMS(9, 7)), nt_narrow(ids, 0, 0, 2), 1, NULL), "token_logprob");
		assert_error(nt_token_logprob(x, gauss(1, DIMS(9, 7)), ids, 0, NULL), "temperature");
		assert_error(nt_inject_add(x, ids, nt_narrow(x, 0, 0, 2)), "3 sites and 2 vectors");
		assert_error(nt_copy_into(x, cos), "shapes differ");
	}
	nt_tree_free(tree);
	assert_error(nt_tree_new((int64_t[]){ 2, 1 }, (int64_t[]){ -1, 1 }, 2, DEVICE), "row 1 has length 1 and parent 1");
	assert_error(nt_tree_new((int64_t[]){ 0 }, (int64_t[]){ -1 }, 1, DEVICE), "length 0");
	assert_error(nt_tree_new((int64_t[]){ 1 }, (int64_t[]){ -2 }, 1, DEVICE), "parent -2");
	assert_error(nt_tree_new(NULL, NULL, 0, DEVICE), "no rows");
}

static void test_grad_mode_is_lexical(void **state)
{
	nt_tensor *x = gauss(1, DIMS(3, 4)), *y;

	nt_requires_grad(x, true);
	assert_error(nt_backward(nt_sum(x)), "backward Float[]: ");
	nt_grad_push(true);
	nt_grad_push(false);
	y = nt_sum(x);
	nt_grad_pop();
	assert_error(nt_backward(y), "backward");
	y = nt_sum(x);
	nt_tensor *cut = nt_sum(nt_detach(x));
	nt_grad_pop();
	assert_error(nt_backward(cut), "backward");
	assert_false(nt_has_grad(x));
	assert_error(nt_grad(x), "it has no gradient");
	assert_int_equal(nt_backward(y), NT_OK);
	assert_true(item(nt_sum(nt_grad(x))) == 12);

	nt_grad_push(true);
	y = nt_sum(nt_scale(x, 2));
	nt_grad_pop();
	assert_int_equal(nt_backward(y), NT_OK); /* adds */
	assert_true(item(nt_sum(nt_grad(x))) == 36);
	nt_zero_grad(x);
	assert_false(nt_has_grad(x));
	assert_error(nt_backward(x), "backward Float[3,4]: ");
	assert_error(nt_requires_grad(nt_i64(DEVICE, (int64_t[]){ 1 }, 1), true), "requires_grad Long[1]: ");
	assert_error(nt_grad_pop(), "no grad mode");

	/* Actions change parameters without a trace, whatever the mode. */
	nt_grad_push(true);
	assert_int_equal(nt_add_into(x, x, 1), NT_OK);
	assert_int_equal(nt_copy_into(x, nt_zeros(NT_F32, DEVICE, DIMS(3, 4))), NT_OK);
	assert_int_equal(nt_backward(nt_sum(nt_mul(x, x))), NT_OK);
	nt_grad_pop();
	assert_true(item(nt_sum(nt_grad(x))) == 0);
}

/* The graph keeps what it needs when the handles of a scope are gone. */
static void test_backward_after_the_scope(void **state)
{
	nt_tensor *x = gauss(1, DIMS(5, 8)), *w = gauss(1, DIMS(8)), *k;
	nt_tree *tree = nt_tree_new((int64_t[]){ 2, 3 }, (int64_t[]){ -1, 0 }, 2, DEVICE);

	nt_requires_grad(x, true);
	nt_scope_push();
	nt_grad_push(true);
	k = nt_reshape(nt_rms_norm(x, w, 1e-6), DIMS(5, 2, 4));
	nt_tensor *loss = nt_scope_pop_with(nt_dot(nt_attention(k, k, k, tree, 0, 1), nt_attention(k, k, k, tree, 0, 0.5)));
	nt_grad_pop();
	nt_tree_free(tree);
	assert_int_equal(nt_backward(loss), NT_OK);
	assert_true(item(nt_dot(nt_grad(x), nt_grad(x))) > 0);
}

/* Three threads add their parts in order: the gradients repeat bit for bit, and are those of one thread. */
static void test_gradients_repeat(void **state)
{
	enum { N = 900, WIDE = 64 };
	static const int64_t length[9] = { 300, 75, 75, 75, 75, 75, 75, 75, 75 }, parent[9] = { -1, 0, 0, 0, 0, 0, 0, 0, 0 };
	nt_tensor *x = gauss(1, DIMS(N, WIDE)), *w = gauss(1, DIMS(WIDE)), *turn = gauss(1, DIMS(N, 8)),
		  *gain = gauss(1, DIMS(16));
	nt_tensor *first[3], *leaf[3] = { x, w, gain };
	nt_tree *tree = nt_tree_new(length, parent, 9, DEVICE);
	double alone = 0;

	for (int i = 0; i < 3; i++)
		nt_requires_grad(leaf[i], true);
	for (int run = 0; run < 6; run++) {
		nt_set_threads(run < 5 ? 3 : 1);
		nt_grad_push(true);
		nt_tensor *k = nt_qk_rope(nt_reshape(nt_rms_norm(x, w, 1e-6), DIMS(N, 4, 16)), gain, 1e-6, turn, turn);
		nt_tensor *o = nt_attention(k, k, k, tree, 0, 0.25), *loss = nt_dot(o, k);
		nt_grad_pop();
		assert_int_equal(nt_backward(loss), NT_OK);
		for (int i = 0; i < 3; i++) {
			nt_tensor *g = nt_clone(nt_grad(leaf[i]));
			first[i] = run ? first[i] : g;
			alone = run < 5 ? 0 : fmax(alone, difference(g, first[i]));
			if (run < 5)
				assert_true(difference(g, first[i]) == 0);
			nt_zero_grad(leaf[i]);
		}
	}
	nt_set_threads(3);
	nt_tree_free(tree);
	printf("gradients of 3 threads and of 1 within %.2g\n", alone);
	assert_true(alone < 1e-5);
}

static void test_inject(void **state)
{
	static const int64_t at[2] = { 3, 0 };
	nt_tensor *h = gauss(1, DIMS(4, 8)), *v = gauss(1, DIMS(2, 8)), *sites = nt_i64(DEVICE, at, 2),
		  *out = nt_inject_add(h, sites, v);
	float *a = host(h), *b = host(out), *c = host(v);

	for (int i = 0; i < 4; i++) {
		double norm = 0, length = 0;
		int which = i == 3 ? 0 : 1;
		for (int j = 0; j < 8; j++) {
			norm += (double)a[i * 8 + j] * a[i * 8 + j];
			length += (double)c[which * 8 + j] * c[which * 8 + j];
		}
		for (int j = 0; j < 8; j++) {
			double want = a[i * 8 + j] + (i == 0 || i == 3 ? sqrt(norm / length) * c[which * 8 + j] : 0);
			assert_true(fabs(want - b[i * 8 + j]) < 1e-5);
		}
	}
	free(a);
	free(b);
	free(c);
	assert_true(isfinite(item(nt_sum(nt_normalize(nt_zeros(NT_F32, DEVICE, DIMS(2, 3)))))));
}

/* One part of an adapter, trained or not, for outputs [at, at + out) of a projection. */
struct part {
	int64_t at, out;
	double scale;
	bool trained;
};

/* y of nt_project, or put together from plain operations. */
static nt_tensor *projected(nt_tensor *const *leaf, const struct part *part, int n, int n_w, bool plain)
{
	nt_tensor *x = leaf[0], *residual = leaf[1], *w[3] = { leaf[2] }, *A[4], *y;
	struct nt_lora lora = { .n = n };
	for (int i = 0; i < n_w && n_w > 1; i++)
		w[i] = nt_narrow(leaf[2], 0, i ? 2 * i + 1 : 0, i ? 2 : 3);
	y = nt_add(residual, nt_linear(x, leaf[2], leaf[3]));
	lora.B = nt_zeros(NT_F32, DEVICE, DIMS(7, 2 * n));
	for (int i = 0; i < n; i++) {
		nt_tensor *a = leaf[4 + 2 * i], *b = leaf[5 + 2 * i];
		A[i] = nt_detach(a);
		lora.part[i] = (struct nt_lora_part){ a, b, 2 * i, part[i].at, part[i].scale };
		nt_add_into(nt_narrow(nt_narrow(lora.B, 0, part[i].at, part[i].out), 1, 2 * i, 2), nt_detach(b), part[i].scale);
		nt_tensor *add = nt_scale(nt_linear(nt_linear(x, a, NULL), b, NULL), part[i].scale);
		nt_tensor *before = nt_zeros(NT_F32, DEVICE, DIMS(5, part[i].at)),
			  *after = nt_zeros(NT_F32, DEVICE, DIMS(5, 7 - part[i].at - part[i].out));
		y = nt_add(y, nt_cat((nt_tensor *[]){ before, add, after }, 3, 1));
	}
	lora.A = nt_cat(A, n, 0);
	return plain ? y : nt_project(x, &(struct nt_projection){ w, n_w, leaf[3], residual, &lora });
}

/* A projection with a frozen and a trained adapter beside it, whose parts overlap, over weights that are trained too: values and gradients are those of the plain
 * operations, with the weights in one piece and in three. */
static void test_project(void **state)
{
	const struct part part[4] = { { 0, 3, 0.5, false }, { 3, 4, 2, false }, { 0, 3, 0.25, true }, { 2, 2, 3, true } };
	nt_tensor *leaf[12] = { gauss(1, DIMS(5, 9)), gauss(1, DIMS(5, 7)), gauss(1, DIMS(7, 9)), gauss(1, DIMS(7)) }, *grad[12];
	for (int i = 0; i < 4; i++) {
		leaf[4 + 2 * i] = gauss(1, DIMS(2, 9));
		leaf[5 + 2 * i] = gauss(1, DIMS(part[i].out, 2));
	}
	for (int i = 0; i < 12; i++)
		if (i < 4 || part[(i - 4) / 2].trained)
			nt_requires_grad(leaf[i], true);
	nt_tensor *toward = gauss(1, DIMS(5, 7)), *want = NULL;
	for (int run = 0; run < 3; run++) { /* plain, in one piece, in three */
		nt_grad_push(true);
		nt_tensor *y = projected(leaf, part, 4, run == 2 ? 3 : 1, run == 0), *loss = nt_dot(y, toward);
		nt_grad_pop();
		assert_int_equal(nt_backward(loss), NT_OK);
		want = run ? want : nt_clone(nt_detach(y));
		assert_true(difference(nt_detach(y), want) < 2e-6);
		for (int i = 0; i < 12; i++) {
			assert_int_equal(nt_has_grad(leaf[i]), nt_wants_grad(leaf[i]));
			if (!nt_wants_grad(leaf[i]))
				continue;
			grad[i] = run ? grad[i] : nt_clone(nt_grad(leaf[i]));
			assert_true(difference(nt_grad(leaf[i]), grad[i]) < 2e-6);
			nt_zero_grad(leaf[i]);
		}
	}
}

static void test_devices(void **state)
{
	int device = 5;

	assert_int_equal(nt_device_open("cpu", &device), NT_OK);
	assert_int_equal(device, NT_CPU);
	assert_int_equal(nt_device_open("auto", &device), NT_OK);
	assert_string_equal(nt_device_name(NT_CPU), "cpu");
	if (DEVICE == NT_CPU) {
		assert_string_equal(nt_device_name(2), "cuda:2");
		assert_error(nt_device_open("sim", &device), "there is no simulated GPU here");
	} else if (on_card()) {
		assert_string_equal(nt_device_name(DEVICE), "cuda:0");
		assert_error(nt_device_open("cuda:99", &device), "there is no GPU of that number");
	} else { /* the tests' */
		assert_string_equal(nt_device_name(DEVICE), "sim:0");
		assert_int_equal(nt_device_open("sim:1", &device), NT_OK);
		assert_string_equal(nt_device_name(device), "sim:1");
		assert_error(nt_device_open("sim:2", &device), "there is no GPU of that number");
	}
	assert_int_equal(nt_device_open("cpu", &device), NT_OK);
	assert_error(nt_device_open("sim:", &device), "'sim:' is none of");
	assert_error(nt_device_open("gpu", &device), "'gpu' is none of auto, cpu, cuda, cuda:N");
	assert_error(nt_device_open("cuda:-1", &device), "'cuda:-1'");
	assert_error(nt_device_open("cuda:1x", &device), "'cuda:1x'");
	assert_error(nt_device_open("cudas", &device), "'cudas'");
	int64_t room, total, peak;
	assert_int_equal(nt_memory(NT_CPU, &room, &total, &peak), NT_OK);
	assert_true(room == INT64_MAX && total == INT64_MAX && peak > 1 << 20 && peak < (int64_t)1 << 40);
}

static void test_out_of_memory_has_its_code(void **state)
{
	assert_null(nt_zeros(NT_F32, DEVICE, DIMS((int64_t)1 << 45)));
	assert_int_equal(nt_check(), NT_OUT_OF_MEMORY);
	nt_clear();
	assert_error(nt_zeros(NT_F32, DEVICE, DIMS(-1)), "zeros");
	assert_error(nt_zeros((nt_dtype)77, DEVICE, DIMS(1)), "unknown dtype");
}

static int tasks(void)
{
	DIR *dir = opendir("/proc/self/task");
	int n = -2; /* . and .. */
	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

static void *turn(void *arg)
{
	for (volatile const bool *on = arg; *on;)
		;
	return NULL;
}

/* With more that want to run than processors a second, sleeping team of threads appears, and nothing that is computed changes. */
static void test_threads_give_way(void **state)
{
	enum { BUSY = 64 };
	pthread_t busy[BUSY];
	static volatile bool on = true;
	unsigned long long ran = 0;
	FILE *stat = fopen("/proc/self/schedstat", "r");
	if (!stat || fscanf(stat, "%llu", &ran) != 1 || sysconf(_SC_NPROCESSORS_ONLN) > BUSY / 2 || nt_threads() < 2 ||
	    getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"))
		on = false;
	if (stat)
		fclose(stat);
	if (!on)
		skip();
	nt_tensor *x = gauss(5, DIMS(300, 300));
	double alone = item(nt_sum(nt_matmul(x, x)));
	nt_wait_politely();
	int before = tasks() + BUSY;
	for (int i = 0; i < BUSY; i++)
		assert_int_equal(pthread_create(&busy[i], NULL, turn, (void *)&on), 0);
	for (time_t end = time(NULL) + 120; tasks() <= before && time(NULL) < end;)
		usleep(10000);
	int after = tasks();
	double among = item(nt_sum(nt_matmul(x, x)));
	on = false;
	for (int i = 0; i < BUSY; i++)
		pthread_join(busy[i], NULL);
	assert_true(after > before);
	assert_true(among == alone);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_scopes),
		TEST(test_pop_with_somebody_elses_handle),
		TEST(test_own_and_free),
		TEST(test_without_scope),
		TEST(test_views_share_memory),
		TEST(test_looking),
		TEST(test_first_error_stays),
		TEST(test_null_in_null_out),
		TEST(test_ids_out_of_range),
		TEST(test_shapes_that_do_not_fit),
		TEST(test_grad_mode_is_lexical),
		TEST(test_backward_after_the_scope),
		TEST(test_gradients_repeat),
		TEST(test_inject), TEST(test_project),
		TEST(test_devices),
		TEST(test_out_of_memory_has_its_code),
		TEST(test_threads_give_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
