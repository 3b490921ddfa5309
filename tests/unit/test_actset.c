/* actset: baselines by hand and against two passes, what is written reads back, unfinished and broken sets are refused. */
#include "scratch.h"
#include "st_write.h"

#include "nla/actset.h"

static struct nla_err err;

static char the[] = " the", quote[] = "\"", *next[] = { the, quote };

/* A set of n rows whose vector i is (i + 1, -i, 0.5, ..); every third row has an explanation. */
static enum nla_status make(const char *folder, int64_t n, int64_t d, enum nla_st_dtype dtype)
{
	struct nla_actset_writer *w;
	struct nla_sidecar meta;
	enum nla_status status;
	float v[64];

	err = (struct nla_err)NLA_ERR_INIT;
	nla_sidecar_init(&meta);
	meta.kind = nla_strdup("nla_model");
	meta.d_model = d;
	meta.layer = 3;
	status = nla_actset_create(&w, folder, &meta, dtype, 0, &err);
	for (int64_t i = 0; i < n && !status; i++) {
		char id[32], text[64];
		struct nla_row row = { .doc_id = id, .text = text, .explanation = i % 3 ? NULL : "why \xe3\x88\x8e",
				       .n_raw_tokens = 50 + i, .next = { next, i % 2 ? 2 : 0, 0 } };

		snprintf(id, sizeof(id), "doc %d", (int)i / 2);
		snprintf(text, sizeof(text), "line\n\"%d\"", (int)i);
		for (int64_t k = 0; k < d; k++)
			v[k] = k == 0 ? (float)i + 1 : k == 1 ? (float)-i : 0.5f;
		status = nla_actset_add(w, &row, v, &err);
	}
	if (!status)
		status = nla_actset_finish(w, &err);
	nla_sidecar_release(&meta);
	return status;
}

static size_t n_files(const char *folder)
{
	struct nla_strs names = { 0 };
	size_t n;

	assert_ok(nla_list_dir(folder, &names, &err));
	n = names.n;
	nla_strs_release(&names);
	return n;
}

/*
 * By hand, D = 2: n(3,4) = sqrt 2 (.6, .8), n(0,5) = sqrt 2 (0, 1), mu = sqrt 2 (.3, .9), |mu|^2 = 1.8.
 *	var  = (2 - 1.8) / 2 = 0.1
 *	mean = (2 - 2 sqrt(2 * 1.8) + 2) / 2 = 2 - sqrt 3.6
 */
static void test_baseline_by_hand(void **state)
{
	struct nla_baseline b;
	double var, mean;

	nla_baseline_init(&b, 2);
	nla_baseline_add(&b, (const float[]){ 3, 4 });
	nla_baseline_get(&b, &var, &mean);
	assert_close(var, 0, 1e-15);
	assert_close(mean, 0, 1e-15);
	nla_baseline_add(&b, (const float[]){ 0, 5 });
	nla_baseline_get(&b, &var, &mean);
	assert_close(var, 0.1, 1e-15);
	assert_close(mean, 2 - sqrt(3.6), 1e-15);
	nla_baseline_release(&b);
	nla_baseline_init(&b, 2); /* a zero vector stays one; opposite vectors have no mean to normalise */
	nla_baseline_add(&b, (const float[]){ 0, 0 });
	nla_baseline_add(&b, (const float[]){ 1, 0 });
	nla_baseline_add(&b, (const float[]){ -1e20f, 0 });
	nla_baseline_get(&b, &var, &mean);
	assert_close(var, 2.0 / 3, 1e-15);
	assert_close(mean, 2.0 / 3, 1e-15);
	nla_baseline_release(&b);
}

static void normalise(const double *x, int d, double *out)
{
	double sq = 0;

	for (int i = 0; i < d; i++)
		sq += x[i] * x[i];
	for (int i = 0; i < d; i++)
		out[i] = x[i] * sqrt(d) / sqrt(sq);
}

static void test_baseline_two_pass(void **state)
{
	enum { N = 200, D = 24 };
	static double n[N][D];
	double mu[D] = { 0 }, n_mu[D], var = 0, mean = 0, got_var, got_mean;
	struct nla_baseline b;
	unsigned seed = 1;

	nla_baseline_init(&b, D);
	for (int r = 0; r < N; r++) {
		float v[D];
		double x[D];

		for (int i = 0; i < D; i++) {
			seed = seed * 1664525 + 1013904223;
			v[i] = (float)(seed >> 8) / 1e6f - (i == 3 ? 40 : 5);
			x[i] = v[i];
		}
		nla_baseline_add(&b, v);
		normalise(x, D, n[r]);
		for (int i = 0; i < D; i++)
			mu[i] += n[r][i] / N;
	}
	normalise(mu, D, n_mu);
	for (int r = 0; r < N; r++)
		for (int i = 0; i < D; i++) {
			var += (n[r][i] - mu[i]) * (n[r][i] - mu[i]) / (N * D);
			mean += (n[r][i] - n_mu[i]) * (n[r][i] - n_mu[i]) / (N * D);
		}
	nla_baseline_get(&b, &got_var, &got_mean);
	assert_true(var > 0.1 && mean > var);
	assert_close(got_var, var, 1e-12);
	assert_close(got_mean, mean, 1e-12);
	nla_baseline_release(&b);
}

static void test_round_trip(void **state)
{
	for (int bf16 = 0; bf16 < 2; bf16++) {
		const char *name = bf16 ? "set16" : "set32";
		struct nla_str text = NLA_STR_INIT;
		struct nla_baseline b;
		struct nla_actset set;
		double var, mean;
		float v[2 * 60];

		if (make(in_scratch(name), 700, 60, bf16 ? NLA_ST_BF16 : NLA_ST_F32))
			fail_msg("%s", err.text);
		assert_int_equal(n_files(in_scratch(name)), 3);
		assert_ok(nla_actset_open(&set, in_scratch(name), 60, &err));
		assert_true(set.n == 700 && set.d == 60 && set.meta.layer == 3 && set.meta.n_rows == 700);
		assert_string_equal(set.meta.kind, "nla_dataset");
		assert_string_equal(set.rows[0].explanation, "why \xe3\x88\x8e");
		assert_null(set.rows[1].explanation);
		assert_string_equal(set.rows[699].doc_id, "doc 349");
		assert_string_equal(set.rows[699].text, "line\n\"699\"");
		assert_int_equal(set.rows[699].n_raw_tokens, 749);
		assert_ok(nla_actset_vectors(&set, (const int64_t[]){ 698, 3 }, 2, v, &err));
		assert_true(v[0] == (bf16 ? 700 : 699) && v[60] == 4 && v[61] == -3 && v[119] == 0.5f); /* 699 is no bf16 */
		nla_baseline_init(&b, 60);
		for (int64_t i = 0; i < set.n; i++) {
			assert_ok(nla_actset_vectors(&set, &i, 1, v, &err));
			nla_baseline_add(&b, v);
		}
		nla_baseline_get(&b, &var, &mean);
		assert_true(var == set.meta.baseline_var && mean == set.meta.baseline_mean && var > 0);
		nla_baseline_release(&b);
		nla_actset_close(&set);
		assert_ok(nla_file_read(in_scratch(bf16 ? "set16/rows.jsonl.gz" : "set32/rows.jsonl.gz"), &text, &err));
		assert_non_null(strstr(text.buf, "{\"doc_id\":\"doc 0\",\"n_raw_tokens\":51,\"text\":\"line\\n\\\"1\\\"\","
						 "\"next\":[\" the\",\"\\\"\"]}\n"));
		nla_str_release(&text);
		assert_fails(nla_actset_open(&set, in_scratch(name), 64, &err), "width 60, want 64");
		if (!make(in_scratch(name), 2, 60, NLA_ST_F32))
			fail_msg("an existing set was overwritten");
		assert_non_null(strstr(err.text, "there is one already"));
	}
}

static void test_baseline_rows(void **state)
{
	struct nla_actset_writer *w;
	struct nla_row row = { .doc_id = "a", .text = "t", .n_raw_tokens = 1 };
	struct nla_sidecar meta;
	struct nla_actset set;

	nla_sidecar_init(&meta);
	meta.d_model = 2;
	meta.layer = 0;
	assert_ok(nla_actset_create(&w, in_scratch("many"), &meta, NLA_ST_F32, 0, &err));
	for (int i = 0; i < 60000; i++) /* the worked example, then rows that must not count */
		assert_ok(nla_actset_add(w, &row, i >= 50000 ? (const float[]){ -1, 0 } : i % 2 ? (const float[]){ 3, 4 } :
					 (const float[]){ 0, 5 }, &err));
	assert_ok(nla_actset_finish(w, &err));
	for (int stored = 1; stored >= 0; stored--) { /* a set made elsewhere may lack them: the same are computed */
		assert_ok(nla_actset_open(&set, in_scratch("many"), 0, &err));
		assert_int_equal(set.n, 60000);
		assert_close(set.meta.baseline_var, 0.1, 1e-9);
		assert_close(set.meta.baseline_mean, 2 - sqrt(3.6), 1e-9);
		nla_actset_close(&set);
		put_text("many/nla_meta.yaml", "kind: nla_dataset\nd_model: 2\nextraction: {layer_index: 0}\n");
	}
	put_text("many/nla_meta.yaml", "kind: nla_dataset\n");
	assert_fails(nla_actset_open(&set, in_scratch("many"), 0, &err), "lacks d_model, extraction.layer_index: add");
}

/* The set again with other explanations: rows keep the rest, vectors are one file, and the copy may be made over itself. */
static void test_explain(void **state)
{
	const char *from = in_scratch("set-bare"), *to = in_scratch("set-explained");
	char first[] = "first", other[] = "second \"\n", blank[] = " \n"; /* white space around one is none of it */
	char *explanation[4] = { [0] = first, [1] = first };
	struct nla_actset set, made;
	struct nla_str before = NLA_STR_INIT, after = NLA_STR_INIT;
	float v[6], w[6];
	const int64_t row = 2;

	assert_ok(make(from, 4, 6, NLA_ST_BF16));
	assert_ok(nla_file_read(in_scratch("set-bare/rows.jsonl.gz"), &before, &err));
	assert_ok(nla_actset_open(&set, from, 6, &err));
	assert_ok(nla_actset_explain(&set, to, explanation, &err));
	explanation[1] = other;
	explanation[3] = blank;
	assert_ok(nla_actset_explain(&set, to, explanation, &err));
	assert_ok(nla_actset_open(&made, to, 6, &err));
	assert_int_equal(n_files(to), 3);
	for (int i = 0; i < 4; i++) {
		const char *want = i == 1 ? "second \"" : i == 3 ? NULL : explanation[i] ? explanation[i] : set.rows[i].explanation;
		assert_string_equal(made.rows[i].text, set.rows[i].text);
		assert_int_equal(made.rows[i].next.n, i % 2 ? 2 : 0);
		assert_true(want ? !strcmp(made.rows[i].explanation, want) : !made.rows[i].explanation);
	}
	assert_string_equal(made.rows[1].next.data[0], set.rows[1].next.data[0]);
	assert_ok(nla_actset_vectors(&set, &row, 1, v, &err));
	assert_ok(nla_actset_vectors(&made, &row, 1, w, &err));
	assert_memory_equal(v, w, sizeof(v));
	assert_ok(nla_file_read(in_scratch("set-bare/rows.jsonl.gz"), &after, &err));
	assert_string_equal(before.buf, after.buf);
	nla_actset_close(&set);
	nla_actset_close(&made);
	nla_str_release(&before);
	nla_str_release(&after);
}

/* A byte order mark, CR LF and blank lines change nothing, nor do they reach what is written. */
static void test_spelling(void **state)
{
	const char *from = in_scratch("set-dos"), *to = in_scratch("set-unix"), *path = in_scratch("set-dos/rows.jsonl.gz");
	char *explanation[4] = { NULL };
	struct nla_str lf = NLA_STR_INIT, dos = NLA_STR_INIT, again = NLA_STR_INIT;
	struct nla_actset set;
	struct nla_lines lines;
	const char *line;

	assert_ok(make(from, 4, 6, NLA_ST_F32));
	assert_ok(nla_file_read(path, &lf, &err));
	nla_str_add(&dos, "\xef\xbb\xbf\r\n");
	assert_ok(nla_lines_open(&lines, path, &err));
	while ((line = nla_lines_next(&lines)))
		nla_str_addf(&dos, "%s\r\n \t\r\n", line);
	assert_ok(nla_lines_close(&lines, &err));
	assert_ok(nla_file_write(path, dos.buf, dos.len, true, &err));
	assert_ok(nla_actset_open(&set, from, 6, &err));
	assert_string_equal(set.rows[3].text, "line\n\"3\"");
	assert_ok(nla_actset_explain(&set, to, explanation, &err));
	assert_ok(nla_file_read(in_scratch("set-unix/rows.jsonl.gz"), &again, &err));
	assert_string_equal(again.buf, lf.buf);
	nla_actset_close(&set);
	nla_str_release(&lf);
	nla_str_release(&dos);
	nla_str_release(&again);
}

static void add_some(struct nla_actset_writer *w, int from, int to)
{
	for (int i = from; i < to; i++) {
		char id[16];
		const struct nla_row row = { .doc_id = id, .text = "t", .n_raw_tokens = 1 };
		snprintf(id, sizeof(id), "%d", i);
		assert_ok(nla_actset_add(w, &row, (const float[]){ 1.01f, (float)i }, &err));
	}
}

static void assert_same_set(const char *a, const char *b)
{
	static const char *const names[] = { "activations.safetensors", "rows.jsonl.gz", "nla_meta.yaml" };
	for (size_t i = 0; i < NLA_LEN(names); i++) {
		nla_auto char *one = nla_path_join(a, names[i]), *other = nla_path_join(b, names[i]);
		struct nla_str x = NLA_STR_INIT, y = NLA_STR_INIT;
		assert_ok(nla_file_read(one, &x, &err));
		assert_ok(nla_file_read(other, &y, &err));
		assert_true(x.len && x.len == y.len && !memcmp(x.buf, y.buf, x.len));
		nla_str_release(&x);
		nla_str_release(&y);
	}
}

/* What an earlier writer left is continued from any row, and gives the same bytes; what it wrote behind that row is gone. */
static void test_continued(void **state)
{
	struct nla_actset_writer *w;
	struct nla_sidecar meta;
	nla_auto char *whole = nla_strdup(in_scratch("whole")), *dir = nla_strdup(in_scratch("parts"));

	nla_sidecar_init(&meta);
	meta.d_model = 2;
	for (int bf16 = 0; bf16 < 2; bf16++) {
		const enum nla_st_dtype dtype = bf16 ? NLA_ST_BF16 : NLA_ST_F32;
		assert_ok(nla_rmtree(whole, &err));
		assert_ok(nla_rmtree(dir, &err));
		assert_ok(nla_actset_create(&w, whole, &meta, dtype, 0, &err));
		add_some(w, 0, 40);
		assert_ok(nla_actset_finish(w, &err));
		for (int n = 0; n < 40; n += 13) { /* 0, 13, 26, 39 */
			assert_ok(nla_actset_create(&w, dir, &meta, dtype, n, &err));
			add_some(w, n, n + 13);
			assert_ok(nla_actset_mark(w, "{}\n", &err));
			add_some(w, 100, 103);
			nla_actset_abort(w);
		}
		assert_fails(nla_actset_create(&w, dir, &meta, dtype, 99, &err), "rows.jsonl' has 55 rows, want 99");
		assert_ok(nla_actset_create(&w, dir, &meta, dtype, 40, &err));
		assert_ok(nla_actset_finish(w, &err));
		assert_int_equal(n_files(dir), 3);
		assert_same_set(whole, dir);
	}
	nla_sidecar_release(&meta);
}

static void test_unfinished(void **state)
{
	struct nla_actset_writer *w;
	struct nla_row row = { .doc_id = "a", .text = "t", .n_raw_tokens = 1 };
	struct nla_sidecar meta;
	struct nla_actset set;
	char dir[512];

	snprintf(dir, sizeof(dir), "%s", in_scratch("unfinished"));
	nla_sidecar_init(&meta);
	meta.d_model = 2;
	meta.layer = 0;
	assert_ok(nla_actset_create(&w, dir, &meta, NLA_ST_BF16, 0, &err));
	assert_ok(nla_actset_add(w, &row, (const float[]){ 1, 2 }, &err));
	assert_fails(nla_actset_open(&set, dir, 2, &err), "is not complete: nla-extract was stopped");
	assert_fails(nla_actset_add(w, &row, (const float[]){ 1, NAN }, &err),
		     "row 1 (document 'a') has a NaN at dimension 1");
	assert_fails(nla_actset_add(w, &row, (const float[]){ 3.4e38f, 0 }, &err), "has an infinity at dimension 0");
	nla_actset_abort(w);
	assert_int_equal(n_files(dir), 1); /* part */
	assert_ok(nla_actset_create(&w, dir, &meta, NLA_ST_BF16, 0, &err));
	assert_fails(nla_actset_finish(w, &err), "no rows");
	if (make(dir, 3, 2, NLA_ST_F32) || nla_actset_open(&set, dir, 2, &err))
		fail_msg("%s", err.text);
	assert_int_equal(set.n, 3); /* nothing of the earlier ones */
	nla_actset_close(&set);
	assert_int_equal(n_files(dir), 3);
	unlink(in_scratch("unfinished/nla_meta.yaml"));
	assert_fails(nla_actset_create(&w, dir, &meta, NLA_ST_F32, 0, &err), "there is rows.jsonl.gz already: give --overwrite");
	assert_null(w);
	assert_ok(nla_actset_remove(dir, &err));
	assert_int_equal(n_files(dir), 0);
	assert_fails(nla_actset_open(&set, in_scratch("nowhere"), 2, &err), "no such folder");
	/* a name that cannot be taken: the rest stays to be continued */
	assert_ok(nla_actset_create(&w, dir, &meta, NLA_ST_F32, 0, &err));
	assert_ok(nla_actset_add(w, &row, (const float[]){ 1, 2 }, &err));
	assert_ok(nla_mkdirs(in_scratch("unfinished/rows.jsonl.gz/full"), &err));
	assert_fails(nla_actset_finish(w, &err), "cannot rename");
	assert_false(nla_exists(in_scratch("unfinished/nla_meta.yaml")));
	assert_ok(nla_rmtree(in_scratch("unfinished/rows.jsonl.gz"), &err));
	assert_ok(nla_actset_publish(dir, &err));
	assert_int_equal(n_files(dir), 3);
	assert_ok(nla_actset_open(&set, dir, 2, &err));
	nla_actset_close(&set);
	nla_sidecar_release(&meta);
}

#define META "kind: nla_dataset\nschema_version: 2\nd_model: 2\nextraction: {layer_index: 0}\n"
#define ROW "{\"doc_id\":\"a\",\"n_raw_tokens\":7}\n"

static void rows(const char *text)
{
	put("bad/rows.jsonl.gz", text, strlen(text), true);
}

static void test_broken(void **state)
{
	const float v[6] = { 1, 2, 3, 4, 5, 6 }, bad[6] = { 1, 2, 3, INFINITY, 5, 6 };
	const struct nla_st_entry entry = { "activations", NLA_ST_F32, 2, { 3, 2 }, v, 24 };
	struct nla_st_entry e = entry;
	struct nla_actset set;
	char dir[512], file[512];

	snprintf(dir, sizeof(dir), "%s", in_scratch("bad"));
	snprintf(file, sizeof(file), "%s", in_scratch("bad/activations.safetensors"));
	assert_ok(nla_mkdirs(dir, &err));
	put_text("bad/nla_meta.yaml", META);
	assert_fails(nla_actset_open(&set, dir, 0, &err), "it holds neither activations.safetensors nor");
	assert_ok(st_write(file, &e, 1, &err));
	assert_fails(nla_actset_open(&set, dir, 0, &err), "rows.jsonl.gz");
	rows(ROW ROW);
	assert_fails(nla_actset_open(&set, dir, 0, &err), "3 vectors, but 2 lines");
	rows(ROW ROW ROW ROW);
	assert_fails(nla_actset_open(&set, dir, 0, &err), "3 vectors, but 4 lines");
	rows(ROW "{\"doc_id\":1,\"n_raw_tokens\":7}\n" ROW);
	assert_fails(nla_actset_open(&set, dir, 0, &err), "rows.jsonl.gz:2': 'doc_id' is a number");
	rows(ROW ROW "{\"doc_id\":\"a\",\"n_raw_tokens\":\"7\"}\n");
	assert_fails(nla_actset_open(&set, dir, 0, &err), "'n_raw_tokens' is a string");
	rows(ROW ROW "{\"doc_id\":\"a\",\"n_raw_tokens\":-1}\n");
	assert_fails(nla_actset_open(&set, dir, 0, &err), "'n_raw_tokens' is -1");
	rows(ROW ROW "{\"doc_id\":\n");
	assert_fails(nla_actset_open(&set, dir, 0, &err), "rows.jsonl.gz:3");
	rows(ROW ROW ROW);
	assert_int_equal(truncate(in_scratch("bad/rows.jsonl.gz"), 30), 0);
	assert_fails(nla_actset_open(&set, dir, 0, &err), "rows.jsonl.gz");
	rows(ROW ROW ROW);
	assert_ok(nla_actset_open(&set, dir, 0, &err));
	assert_true(!*set.rows[2].text && !set.rows[2].explanation && set.rows[2].n_raw_tokens == 7);
	nla_actset_close(&set);
	rows(ROW ROW "{\"doc_id\":\"a\"}\n"); /* an imported set need not have counted */
	assert_ok(nla_actset_open(&set, dir, 0, &err));
	assert_true(set.rows[2].n_raw_tokens == -1);
	nla_actset_close(&set);
	rows(ROW ROW ROW);
	put_text("bad/nla_meta.yaml", META "row_count: 4\n");
	assert_fails(nla_actset_open(&set, dir, 0, &err), "3 vectors, but its sidecar says 4");
	put_text("bad/nla_meta.yaml", "kind: nla_model\nd_model: 2\nextraction: {layer_index: 0}\n");
	assert_fails(nla_actset_open(&set, dir, 0, &err), "of kind 'nla_model'");
	put_text("bad/nla_meta.yaml", "kind: nla_dataset\nd_model: 3\nextraction: {layer_index: 0}\n");
	assert_fails(nla_actset_open(&set, dir, 0, &err), "has shape [3, 2], want [N, 3]");
	put_text("bad/nla_meta.yaml", META);
	e.dtype = NLA_ST_I32;
	assert_ok(st_write(file, &e, 1, &err));
	assert_fails(nla_actset_open(&set, dir, 0, &err), "is I32, want F32 or BF16");
	e = entry;
	e.data = bad;
	assert_ok(st_write(file, &e, 1, &err));
	assert_fails(nla_actset_open(&set, dir, 0, &err), "row 1 (document 'a') has an infinity at dimension 1");
	e = entry;
	e.name = "vectors";
	assert_ok(st_write(file, &e, 1, &err));
	assert_fails(nla_actset_open(&set, dir, 0, &err), "has no tensor 'activations', but vectors");
	e = (struct nla_st_entry){ "activations", NLA_ST_F32, 2, { 0, 2 }, NULL, 0 };
	assert_ok(st_write(file, &e, 1, &err));
	assert_fails(nla_actset_open(&set, dir, 0, &err), "has no rows");
}

static void test_shards(void **state)
{
	const float v[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	const uint16_t half[4] = { 0x4110, 0x4120, 0x4130, 0x4140 }; /* 9 10 11 12 */
	const struct nla_st_entry parts[] = {
		{ "activations.0", NLA_ST_F32, 2, { 1, 2 }, v, 8 },
		{ "activations.1", NLA_ST_F32, 2, { 3, 2 }, v + 2, 24 },
		{ "activations.2", NLA_ST_BF16, 2, { 2, 2 }, half, 8 },
	};
	const int64_t all[] = { 0, 1, 2, 3, 4, 5 };
	struct nla_actset set;
	char dir[512];
	float out[12];

	snprintf(dir, sizeof(dir), "%s", in_scratch("shards"));
	assert_ok(nla_mkdirs(dir, &err));
	put_text("shards/nla_meta.yaml", META);
	put("shards/rows.jsonl.gz", ROW ROW ROW ROW ROW ROW, 6 * strlen(ROW), true);
	assert_ok(st_write(in_scratch("shards/b.safetensors"), parts, 1, &err));
	assert_ok(st_write(in_scratch("shards/a.safetensors"), parts + 1, 2, &err));
	put_text("shards/activations.safetensors.index.json", "{\"weight_map\":{\"activations.0\":\"b.safetensors\","
		 "\"activations.1\":\"a.safetensors\",\"activations.2\":\"a.safetensors\"}}");
	assert_ok(nla_actset_open(&set, dir, 2, &err));
	assert_int_equal(set.n, 6);
	assert_ok(nla_actset_vectors(&set, all, 6, out, &err));
	for (int i = 0; i < 12; i++)
		assert_true(out[i] == (float)(i + 1));
	nla_actset_close(&set);
	assert_ok(st_write(in_scratch("shards/a.safetensors"), parts + 2, 1, &err));
	put_text("shards/activations.safetensors.index.json", "{\"weight_map\":{\"activations.0\":\"b.safetensors\","
		 "\"activations.2\":\"a.safetensors\"}}");
	assert_fails(nla_actset_open(&set, dir, 2, &err), "holds 2 tensors, but only 1");
}

/* More than 64 Mi numbers: the middle is not looked at when the set is opened, but when it is read. */
static void test_large(void **state)
{
	enum { N = 2100, D = 32768 };
	struct nla_str text = NLA_STR_INIT;
	const struct nla_st_entry rows = { "activations", NLA_ST_BF16, 2, .shape = { N, D } };
	struct nla_st_writer *s;
	struct nla_actset set;
	const int64_t good = 1023, middle = 1050;
	float *v = nla_alloc(D, sizeof(*v));
	FILE *f;

	assert_ok(nla_mkdirs(in_scratch("large"), &err));
	put_text("large/nla_meta.yaml", "kind: nla_dataset\nd_model: 32768\nextraction: {layer_index: 0}\n"
		 "baseline: {raw_variance: 1, mean_normalised: 1}\n");
	assert_ok(nla_st_writer_open(&s, in_scratch("large/activations.safetensors"), &rows, 1, &err));
	for (int i = 0; i < N; i++) {
		assert_ok(nla_st_writer_add(s, v, D * 2, &err));
		nla_str_add(&text, ROW);
	}
	assert_ok(nla_st_writer_close(s, &err));
	put("large/rows.jsonl.gz", text.buf, text.len, true);
	f = fopen(in_scratch("large/activations.safetensors"), "r+b");
	assert_non_null(f);
	fseek(f, -((long)(N - middle) * D * 2), SEEK_END);
	fwrite("\xc0\x7f", 1, 2, f);
	fclose(f);
	assert_ok(nla_actset_open(&set, in_scratch("large"), D, &err));
	assert_ok(nla_actset_vectors(&set, &good, 1, v, &err));
	assert_fails(nla_actset_vectors(&set, &middle, 1, v, &err), "row 1050 (document 'a') has a NaN at dimension 0");
	nla_actset_close(&set);
	f = fopen(in_scratch("large/activations.safetensors"), "r+b");
	assert_non_null(f);
	fseek(f, -2, SEEK_END);
	fwrite("\x80\x7f", 1, 2, f);
	fclose(f);
	assert_fails(nla_actset_open(&set, in_scratch("large"), D, &err),
		     "row 2099 (document 'a') has an infinity at dimension 32767");
	nla_str_release(&text);
	free(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_baseline_by_hand), cmocka_unit_test(test_baseline_two_pass),
		cmocka_unit_test(test_round_trip),       cmocka_unit_test(test_baseline_rows),
		cmocka_unit_test(test_unfinished),       cmocka_unit_test(test_broken),
		cmocka_unit_test(test_continued),
		cmocka_unit_test(test_explain), cmocka_unit_test(test_spelling),          cmocka_unit_test(test_shards),
		cmocka_unit_test(test_large),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
