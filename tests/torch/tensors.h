/*
 * tensors - what the tests of the shim share: a scope around each test that must leave no handle behind, tensors of keyed
 * normal numbers, and the comparison of a fast version with its plain twin.
 */
#ifndef NLA_TEST_TENSORS_H
#define NLA_TEST_TENSORS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "base/rng.h"
#include "device/device.h"
#include "shim/nt.h"

#define DIMS(...) (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), (const int64_t[]){ __VA_ARGS__ }
#define TEST(f) cmocka_unit_test_setup_teardown(f, open_scope, close_scope)

static inline int open_scope(void **state)
{
	(void)state;
	nt_clear();
	nt_plain(false);
	nt_scope_push();
	return 0;
}

static inline int close_scope(void **state)
{
	(void)state;
	nt_scope_pop();
	if (nt_check())
		printf("an error is left: %s\n", nt_error());
	if (nt_live())
		printf("%lld handles are left\n", (long long)nt_live());
	return nt_check() || nt_live();
}

/* The call is NULL or a failure, the error has `part` in it, on one line, and is cleared. */
#define assert_error(call, part)                                                          \
	do {                                                                              \
		(void)(call);                                                             \
		if (!nt_check())                                                          \
			fail_msg("%s: no error, want '%s'", #call, part);                 \
		if (!strstr(nt_error(), part) || strchr(nt_error(), '\n'))                \
			fail_msg("%s: '%s', want '%s'", #call, nt_error(), part);         \
		nt_clear();                                                               \
	} while (0)

#define assert_made(t)                                     \
	do {                                               \
		if (!(t))                                  \
			fail_msg("%s: %s", #t, nt_error()); \
	} while (0)

/* Every call draws other numbers. */
static inline nt_tensor *gauss(double scale, int ndim, const int64_t *shape)
{
	static const struct nla_rng rng = { 11, NLA_STREAM_TEST };
	static uint32_t call;
	int64_t n = 1;

	for (int i = 0; i < ndim; i++)
		n *= shape[i];
	float *x = malloc((size_t)(n ? n : 1) * sizeof(float));
	for (int64_t i = 0; i < n; i++)
		x[i] = (float)(scale * nla_normal(&rng, call, 0, (uint32_t)i));
	call++;
	nt_tensor *t = nt_from_host(NT_F32, DEVICE, x, ndim, shape);
	free(x);
	assert_made(t);
	return t;
}

/* Owned by the caller: malloc. */
static inline float *host(const nt_tensor *t)
{
	assert_made(t);
	float *x = malloc((size_t)(nt_numel(t) ? nt_numel(t) : 1) * sizeof(float));
	if (nt_to_host_f32(t, x, (size_t)nt_numel(t)))
		fail_msg("%s", nt_error());
	return x;
}

/* Largest difference as a part of the largest number of b; NaN in one alone, or infinity, counts as infinite. */
static inline double difference(const nt_tensor *a, const nt_tensor *b)
{
	double worst = 0, most = 0;
	int64_t n = nt_numel(b);

	assert_made(a);
	assert_made(b);
	assert_int_equal(nt_numel(a), n);
	assert_int_equal(nt_dtype_of(a), nt_dtype_of(b));
	float *x = host(a), *y = host(b);
	for (int64_t i = 0; i < n; i++) {
		if (x[i] == y[i] || (isnan(x[i]) && isnan(y[i])))
			continue;
		if (!isfinite(x[i]) || !isfinite(y[i]))
			worst = INFINITY;
		worst = fmax(worst, fabs((double)x[i] - y[i]));
	}
	for (int64_t i = 0; i < n; i++)
		if (isfinite(y[i]))
			most = fmax(most, fabs(y[i]));
	free(x);
	free(y);
	return most > 0 ? worst / most : worst;
}

/*
 * Runs f on leaves of the inputs, fast and plain, forward and, with a random gradient of its result, backward. f may make views
 * of its inputs. Inputs i with bit i of `frozen` set get no gradient. Returns the largest difference of the results and
 * gradients.
 */
typedef nt_tensor *(*nt_function)(nt_tensor *const *in, const void *arg);
enum { MOST_INPUTS = 8 };

struct twins {
	double out, grad;
};

static inline struct twins compare(nt_function f, const void *arg, nt_tensor *const *in, int n_in, unsigned frozen)
{
	nt_tensor *result[2], *grads[2][MOST_INPUTS] = { 0 }, *g = NULL;
	struct twins d = { 0, 0 };

	for (int plain = 0; plain < 2; plain++) {
		nt_tensor *leaf[MOST_INPUTS];
		for (int i = 0; i < n_in; i++) {
			leaf[i] = nt_clone(in[i]);
			if (!(frozen >> i & 1))
				nt_requires_grad(leaf[i], true);
		}
		nt_plain(plain);
		nt_tensor *bare = f(leaf, arg);
		nt_grad_push(true);
		result[plain] = f(leaf, arg);
		nt_grad_pop();
		nt_plain(false);
		assert_made(result[plain]);
		if (difference(bare, result[plain]) != 0)
			fail_msg("the result depends on gradients being recorded");
		if (!g) {
			int64_t shape[8];
			for (int i = 0; i < nt_ndim(result[0]); i++)
				shape[i] = nt_size(result[0], i);
			g = nt_to(gauss(1, nt_ndim(result[0]), shape), nt_dtype_of(result[0]));
		}
		if (nt_backward_with(result[plain], g))
			fail_msg("%s", nt_error());
		for (int i = 0; i < n_in; i++) {
			if (nt_has_grad(leaf[i]) == (frozen >> i & 1))
				fail_msg("gradient of input %d", i);
			grads[plain][i] = frozen >> i & 1 ? NULL : nt_grad(leaf[i]);
		}
	}
	d.out = difference(result[0], result[1]);
	for (int i = 0; i < n_in; i++)
		if (!(frozen >> i & 1))
			d.grad = fmax(d.grad, difference(grads[0][i], grads[1][i]));
	return d;
}

/* ---- attention over a tree ---- */

struct attention_case {
	int64_t n_rows, length[40], parent[40], hq, hkv, d;
	bool fused; /* q, k, v are stretches of in[0] */
	nt_tree *tree;
	int64_t n, window;
};

static inline nt_tensor *attention(nt_tensor *const *in, const void *arg)
{
	const struct attention_case *c = arg;
	nt_tensor *q = in[0], *k = in[1], *v = in[2];

	if (c->fused) {
		q = nt_reshape(nt_narrow(in[0], 1, 0, c->hq * c->d), DIMS(c->n, c->hq, c->d));
		k = nt_reshape(nt_narrow(in[0], 1, c->hq * c->d, c->hkv * c->d), DIMS(c->n, c->hkv, c->d));
		v = nt_reshape(nt_narrow(in[0], 1, (c->hq + c->hkv) * c->d, c->hkv * c->d), DIMS(c->n, c->hkv, c->d));
	}
	return nt_attention(q, k, v, c->tree, c->window, 1 / sqrt((double)c->d));
}

static inline void open_tree(struct attention_case *c)
{
	c->n = 0;
	for (int64_t i = 0; i < c->n_rows; i++)
		c->n += c->length[i];
	c->tree = nt_tree_new(c->length, c->parent, c->n_rows, DEVICE);
	assert_made(c->tree);
}

static inline void widen(struct twins *all, struct twins d)
{
	all->out = fmax(all->out, d.out);
	all->grad = fmax(all->grad, d.grad);
}

static inline bool own_kernels(void) { return DEVICE != NT_CPU && !*nt_kernels_off(); }

/* Below the bound, and above zero: equal bits would mean that the fast version never ran. On a device without our kernels there is
 * none in fp32: both are the same operations of libtorch, so that anything but equal bits is a mistake. */
static inline void assert_twins(const char *name, struct twins d, double within)
{
	printf("%-28s result %.2g, gradients %.2g of the largest\n", name, d.out, d.grad);
	if (!(d.out <= within && d.grad <= within))
		fail_msg("%s: fast and plain differ", name);
	if (own_kernels())
		return;
	if ((d.out == 0 && d.grad == 0) != (DEVICE != NT_CPU))
		fail_msg("%s: the fast version %s", name, DEVICE == NT_CPU ? "did not run" : "ran on a device");
}

#endif
