/* batch: splits go by document, epochs visit every row once, and a cursor's position is its whole state. */
#include "scratch.h"

#include "base/rng.h"
#include "nla/batch.h"

static struct nla_err err;

/* A set in memory alone: n rows, each document having `each` of them. Released by drop. */
static struct nla_actset docs(const char *prefix, int64_t n, int64_t each)
{
	struct nla_actset set;

	memset(&set, 0, sizeof(set));
	nla_sidecar_init(&set.meta);
	set.path = nla_strdup(prefix);
	set.n = n;
	set.rows = nla_alloc((size_t)n, sizeof(*set.rows));
	for (int64_t i = 0; i < n; i++)
		set.rows[i].doc_id = nla_format("%s-%d", prefix, (int)(i / each));
	return set;
}

static void test_split(void **state)
{
	struct nla_actset set = docs("doc", 9000, 3), few = docs("doc", 600, 3);
	struct nla_split split, again, other, part;
	bool *held = nla_alloc(9000, sizeof(*held));
	int64_t same = 0, n = 0;

	assert_ok(nla_split_by_doc(&split, &set, 7, 0.1, &err));
	assert_ok(nla_split_by_doc(&again, &set, 7, 0.1, &err));
	assert_ok(nla_split_by_doc(&other, &set, 8, 0.1, &err));
	assert_ok(nla_split_by_doc(&part, &few, 7, 0.1, &err));
	assert_int_equal(split.n_train + split.n_held, 9000);
	assert_in_range(split.n_held, 750, 1050); /* 900, and 3 standard deviations of 49 */
	for (int64_t i = 0; i < split.n_held; i++) {
		assert_true(!i || split.held[i] > split.held[i - 1]);
		held[split.held[i]] = true;
	}
	for (int64_t i = 0; i < split.n_train; i++) {
		assert_true(!i || split.train[i] > split.train[i - 1]);
		assert_false(held[split.train[i]]);
	}
	for (int64_t i = 0; i < 9000; i++)
		assert_int_equal(held[i], held[i / 3 * 3]);
	assert_int_equal(again.n_held, split.n_held);
	assert_memory_equal(again.held, split.held, (size_t)split.n_held * sizeof(int64_t));
	for (int64_t i = 0; i < other.n_held; i++)
		same += held[other.held[i]];
	assert_in_range(same, 1, 200); /* another seed, another tenth: 90 in common by chance */
	while (n < split.n_held && split.held[n] < 600)
		n++;
	assert_int_equal(part.n_held, n); /* a document's side does not depend on the others */
	assert_memory_equal(part.held, split.held, (size_t)n * sizeof(int64_t));
	nla_split_release(&split);
	nla_split_release(&again);
	nla_split_release(&other);
	nla_split_release(&part);
	nla_actset_close(&set);
	nla_actset_close(&few);
	free(held);
}

static void test_split_ends(void **state)
{
	struct nla_actset set = docs("one", 5, 5);
	struct nla_split split;

	assert_ok(nla_split_by_doc(&split, &set, 1, 0, &err));
	assert_true(split.n_train == 5 && split.n_held == 0 && split.train[4] == 4);
	nla_split_release(&split);
	assert_fails(nla_split_by_doc(&split, &set, 1, 1e-9, &err), "none would be held out");
	assert_fails(nla_split_by_doc(&split, &set, 1, 0.999999999, &err), "none would be left to train on");
	assert_null(split.train);
	nla_actset_close(&set);
}

static void test_disjoint(void **state)
{
	struct nla_actset a = docs("a", 30000, 1), b = docs("b", 30000, 1);

	assert_ok(nla_disjoint_docs(&a, &b, &err));
	free(b.rows[12345].doc_id);
	b.rows[12345].doc_id = nla_strdup("a-29999");
	assert_fails(nla_disjoint_docs(&a, &b, &err),
		     "document 'a-29999' is in the training set 'a' and in the evaluation set 'b'");
	nla_actset_close(&a);
	nla_actset_close(&b);
}

static void test_cursor(void **state)
{
	enum { N = 37, TOTAL = 5 * N };
	const struct nla_rng rng = { 11, NLA_STREAM_SHUFFLE };
	struct nla_cursor c, resumed;
	int64_t all[TOTAL], out[TOTAL], order[N];

	nla_cursor_init(&c, 11, N);
	nla_cursor_next(&c, TOTAL, all);
	assert_int_equal(c.position, TOTAL);
	for (int e = 0; e < 5; e++) {
		int seen[N] = { 0 };

		nla_permutation(&rng, (uint32_t)e, order, N);
		assert_memory_equal(all + e * N, order, sizeof(order));
		for (int i = 0; i < N; i++)
			seen[all[e * N + i]]++;
		for (int i = 0; i < N; i++)
			assert_int_equal(seen[i], 1);
	}
	assert_memory_not_equal(all, all + N, N * sizeof(*all));
	nla_cursor_release(&c);

	nla_cursor_init(&c, 11, N); /* in steps, across epochs */
	for (int at = 0; at + 8 <= TOTAL; at += 8)
		nla_cursor_next(&c, 8, out + at);
	assert_memory_equal(out, all, TOTAL / 8 * 8 * sizeof(*all));
	for (int at = 0; at < TOTAL; at += 9) { /* any position set anew gives the same future */
		nla_cursor_init(&resumed, 11, N);
		resumed.position = at;
		nla_cursor_next(&resumed, TOTAL - at, out);
		assert_memory_equal(out, all + at, (size_t)(TOTAL - at) * sizeof(*all));
		nla_cursor_release(&resumed);
	}
	c.position = 3; /* back again, on a cursor that holds another epoch's order */
	nla_cursor_next(&c, 5, out);
	assert_memory_equal(out, all + 3, 5 * sizeof(*all));
	nla_cursor_release(&c);
	nla_cursor_init(&c, 12, N);
	nla_cursor_next(&c, N, out);
	assert_memory_not_equal(out, all, N * sizeof(*all));
	nla_cursor_release(&c);
	nla_cursor_init(&c, 12, 1);
	nla_cursor_next(&c, 3, out);
	assert_true(out[0] == 0 && out[1] == 0 && out[2] == 0);
	nla_cursor_release(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_split_ends),
		cmocka_unit_test(test_disjoint),
		cmocka_unit_test(test_cursor),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
