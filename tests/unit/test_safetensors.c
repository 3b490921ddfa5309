/* safetensors: what is written reads back, and each way a file can be broken has its own message. */
#include "scratch.h"
#include "st_write.h"

#include "base/safetensors.h"

static struct nla_err err;

/* A file of a header text and `n` zero bytes of data; length: the header length to claim, or 0 for the true one. */
static const char *make(const char *name, const char *header, size_t n, uint64_t length)
{
	struct nla_str s = NLA_STR_INIT;
	const char *path;

	if (!length)
		length = strlen(header);
	for (int i = 0; i < 8; i++)
		nla_str_addc(&s, (char)(length >> (8 * i)));
	nla_str_add(&s, header);
	while (n--)
		nla_str_addc(&s, 0);
	path = put(name, s.buf, s.len, false);
	nla_str_release(&s);
	return path;
}

static void test_round_trip(void **state)
{
	const float w[6] = { 1, -2, 3.5f, 0, 1e-30f, 7 };
	const uint8_t bytes[3] = { 1, 2, 255 };
	const int64_t big[1] = { INT64_MIN };
	const uint16_t half[2] = { 0x3f80, 0xc000 };
	const struct nla_st_entry in[] = {
		{ "z.bytes", NLA_ST_U8, 1, { 3 }, bytes, 3 },     { "w", NLA_ST_F32, 2, { 2, 3 }, w, 24 },
		{ "half", NLA_ST_BF16, 1, { 2 }, half, 4 },       { "scalar", NLA_ST_I64, 0, { 0 }, big, 8 },
		{ "none", NLA_ST_F16, 3, { 4, 0, 2 }, NULL, 0 },  { "na\"me\n", NLA_ST_I32, 4, { 1, 1, 1, 1 }, w, 4 },
	};
	const struct nla_st_entry *e;
	struct nla_st st;

	assert_ok(st_write(in_scratch("a.safetensors"), in, NLA_LEN(in), &err));
	assert_false(nla_exists(in_scratch("a.safetensors.tmp")));
	assert_ok(nla_st_open(&st, in_scratch("a.safetensors"), &err));
	assert_int_equal(st.n_entries, NLA_LEN(in));
	for (size_t i = 0; i < NLA_LEN(in); i++) {
		e = nla_st_find(&st, in[i].name);
		assert_non_null(e);
		assert_int_equal(e->dtype, in[i].dtype);
		assert_int_equal(e->ndim, in[i].ndim);
		assert_memory_equal(e->shape, in[i].shape, sizeof(int64_t) * (size_t)e->ndim);
		assert_int_equal(e->nbytes, in[i].nbytes);
		assert_int_equal((uintptr_t)e->data % nla_st_dtype_size(e->dtype), 0);
		if (e->nbytes)
			assert_memory_equal(e->data, in[i].data, e->nbytes);
	}
	for (size_t i = 1; i < st.n_entries; i++)
		assert_true(strcmp(st.entries[i - 1].name, st.entries[i].name) < 0);
	assert_null(nla_st_find(&st, "W"));
	nla_st_close(&st);
	nla_st_close(&st);
	assert_ok(st_write(in_scratch("a.safetensors"), NULL, 0, &err));
	assert_ok(nla_st_open(&st, in_scratch("a.safetensors"), &err));
	assert_int_equal(st.n_entries, 0);
	assert_null(nla_st_find(&st, "w"));
	nla_st_close(&st);
	assert_fails(st_write(in_scratch("no/folder.safetensors"), in, 1, &err), "no/folder.safetensors");
}

#define T(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_broken_files(void **state)
{
	static const struct {
		const char *header;
		size_t n;
		uint64_t length;
		const char *want;
	} cases[] = {
		{ "{}", 0, 100, "header length 100 goes beyond the file (10 bytes): truncated by 98 bytes" },
		{ "{}", 0, UINT64_MAX, "header length 18446744073709551615 goes beyond the file" },
		{ "{\"a\":", 0, 0, "bad.safetensors" },
		{ "[1]", 0, 0, "header is not a JSON object" },
		{ "{\"a\":" T("F32", "[2,3]", "[0,24]") "}", 17, 0, "truncated by 7 bytes" },
		{ "{\"a\":" T("F32", "[2,3]", "[0,24]") "}", 25, 0, "1 bytes at its end belong to no tensor" },
		{ "{\"a\":" T("F32", "[2,3]", "[0,20]") "}", 24, 0, "tensor 'a' has 20 bytes, but [2, 3] of F32 needs 24" },
		{ "{\"a\":" T("F64", "[2]", "[0,16]") "}", 16, 0, "tensor 'a' has dtype 'F64'" },
		{ "{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, 0, "tensor 'a' has no dtype" },
		{ "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,8]}}", 8, 0, "tensor 'a' has no shape" },
		{ "{\"a\":7}", 0, 0, "tensor 'a' has no dtype" },
		{ "{\"a\":" T("U8", "[-2]", "[0,2]") "}", 2, 0, "not of whole numbers" },
		{ "{\"a\":" T("U8", "[1.5]", "[0,2]") "}", 2, 0, "not of whole numbers" },
		{ "{\"a\":" T("U8", "[1,1,1,1,2]", "[0,2]") "}", 2, 0, "has 5 dimensions, want at most 4" },
		{ "{\"a\":" T("F32", "[4294967296,4294967296]", "[0,0]") "}", 0, 0, "shape too large" },
		{ "{\"a\":" T("U8", "[2]", "[2,0]") "}", 2, 0, "no data_offsets of the form" },
		{ "{\"a\":" T("U8", "[2]", "[0]") "}", 2, 0, "no data_offsets of the form" },
		{ "{\"a\":" T("U8", "[2]", "[0,\"2\"]") "}", 2, 0, "no data_offsets of the form" },
		{ "{\"a\":" T("U8", "[4]", "[0,4]") ",\"b\":" T("U8", "[4]", "[2,6]") "}", 6, 0, "'a' and 'b' overlap" },
		{ "{\"a\":" T("U8", "[2]", "[0,2]") ",\"b\":" T("U8", "[2]", "[4,6]") "}", 6, 0,
		  "2 bytes before tensor 'b' belong to no tensor" },
		{ "{\"a\":" T("U8", "[2]", "[0,2]") ",\"a\":" T("U8", "[2]", "[2,4]") "}", 4, 0, "tensor 'a' is there twice" },
	};
	struct nla_st st;

	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		const char *path = make("bad.safetensors", cases[i].header, cases[i].n, cases[i].length);

		assert_fails(nla_st_open(&st, path, &err), cases[i].want);
		assert_non_null(strstr(err.text, path));
	}
	assert_fails(nla_st_open(&st, put("bad.safetensors", "abc", 3, false), &err), "3 bytes are too few");
	assert_fails(nla_st_open(&st, put("bad.safetensors", "", 0, false), &err), "0 bytes are too few");
	/* as the format has it; the file is sparse */
	assert_int_equal(truncate(make("huge.safetensors", "{}", 0, 100000001), 100000100), 0);
	assert_fails(nla_st_open(&st, in_scratch("huge.safetensors"), &err), "a header of 100000001 bytes, want at most 100000000");
	assert_fails(nla_st_open(&st, in_scratch("missing.safetensors"), &err), "missing.safetensors");
}

static void test_folder(void **state)
{
	static const char *const outside[] = { "../one.safetensors", "/etc/passwd", "x/../../one.safetensors", "..", "." };
	struct nla_st st;
	char dir[512];

	snprintf(dir, sizeof(dir), "%s", in_scratch("m"));
	assert_ok(nla_mkdirs(dir, &err));
	assert_fails(nla_st_open_folder(&st, dir, "model", &err), "it holds neither model.safetensors nor");
	make("m/one.safetensors", "{\"__metadata__\":{\"x\":\"1\"},\"b\":" T("U8", "[2]", "[0,2]") "}", 2, 0);
	make("m/two.safetensors", "{\"a\":" T("U8", "[1]", "[0,1]") ",\"c\":" T("U8", "[0]", "[1,1]") "}", 1, 0);
	put_text("m/model.safetensors.index.json",
		 "{\"weight_map\":{\"b\":\"one.safetensors\",\"c\":\"two.safetensors\",\"a\":\"two.safetensors\"}}");
	assert_ok(nla_st_open_folder(&st, dir, "model", &err));
	assert_int_equal(st.n_entries, 3);
	assert_int_equal(st.n_maps, 2);
	assert_int_equal(nla_st_find(&st, "a")->nbytes, 1);
	assert_int_equal(nla_st_find(&st, "b")->nbytes, 2);
	assert_int_equal(nla_st_find(&st, "c")->nbytes, 0);
	nla_st_close(&st);
	put_text("m/model.safetensors.index.json", "{\"weight_map\":{\"b\":\"one.safetensors\",\"a\":\"three.safetensors\"}}");
	assert_fails(nla_st_open_folder(&st, dir, "model", &err), "shard 'three.safetensors' of tensor 'a' is missing");
	put_text("m/model.safetensors.index.json", "{\"weight_map\":{\"b\":\"one.safetensors\",\"a\":\"one.safetensors\"}}");
	assert_fails(nla_st_open_folder(&st, dir, "model", &err), "tensor 'a' is not in its shard 'one.safetensors'");
	for (size_t i = 0; i < NLA_LEN(outside); i++) {
		nla_auto char *index = nla_format("{\"weight_map\":{\"b\":\"%s\"}}", outside[i]);
		put_text("m/model.safetensors.index.json", index);
		assert_fails(nla_st_open_folder(&st, dir, "model", &err),
			     strchr(outside[i], '/') ? "the shard of tensor 'b' is not a file name" : "it is a folder");
	}
	put_text("m/model.safetensors.index.json", "{\"weight_map\":{\"b\":1}}");
	assert_fails(nla_st_open_folder(&st, dir, "model", &err), "the shard of tensor 'b' is not a file name");
	put_text("m/model.safetensors.index.json", "{\"weights\":{}}");
	assert_fails(nla_st_open_folder(&st, dir, "model", &err), "no object 'weight_map'");
	make("m/two.safetensors", "{\"a\":" T("U8", "[1]", "[0,1]") ",\"b\":" T("U8", "[1]", "[1,2]") "}", 2, 0);
	put_text("m/model.safetensors.index.json", "{\"weight_map\":{\"b\":\"one.safetensors\",\"a\":\"two.safetensors\"}}");
	assert_ok(nla_st_open_folder(&st, dir, "model", &err)); /* both shards hold b: the index says which counts */
	assert_int_equal(st.n_entries, 2);
	assert_int_equal(nla_st_find(&st, "b")->nbytes, 2);
	nla_st_close(&st);
	make("m/model.safetensors", "{\"solo\":" T("U8", "[1]", "[0,1]") "}", 1, 0);
	assert_ok(nla_st_open_folder(&st, dir, "model", &err));
	assert_int_equal(st.n_entries, 1);
	nla_st_close(&st);
}

/* Tensors one after the other, in pieces: the file that st_write makes of them. */
static void test_writer(void **state)
{
	static const float x[6] = { 1, 2, 3, 4, 5, 6 };
	const struct nla_st_entry entries[] = { { "z", NLA_ST_F32, 2, { 2, 2 }, x, 16 }, { "a", NLA_ST_F32, 1, { 2 }, x + 4, 8 } };
	struct nla_str whole = NLA_STR_INIT, parts = NLA_STR_INIT;
	struct nla_st_writer *w;

	assert_ok(st_write(in_scratch("whole.safetensors"), entries, 2, &err));
	assert_ok(nla_st_writer_open(&w, in_scratch("parts.safetensors"), entries, 2, &err));
	assert_ok(nla_st_writer_add(w, x, 4, &err));
	assert_ok(nla_st_writer_add(w, x + 1, 12, &err));
	assert_false(nla_exists(in_scratch("parts.safetensors")));
	assert_ok(nla_st_writer_add(w, x + 4, 8, &err));
	assert_ok(nla_st_writer_close(w, &err));
	assert_ok(nla_file_read(in_scratch("whole.safetensors"), &whole, &err));
	assert_ok(nla_file_read(in_scratch("parts.safetensors"), &parts, &err));
	assert_int_equal(whole.len, parts.len);
	assert_memory_equal(whole.buf, parts.buf, whole.len);
	nla_str_release(&whole);
	nla_str_release(&parts);

	assert_ok(nla_st_writer_open(&w, in_scratch("gone.safetensors"), entries, 2, &err));
	nla_fail(&err, "what came between");
	assert_int_equal(nla_st_writer_close(w, &err), NLA_FAIL);
	assert_false(nla_exists(in_scratch("gone.safetensors")) || nla_exists(in_scratch("gone.safetensors.tmp")));
	assert_fails(nla_st_writer_open(&w, in_scratch("no/t.safetensors"), entries, 2, &err), "no/t.safetensors");
	assert_null(w);
}

static void test_half(void **state)
{
	static const struct {
		float x;
		uint16_t bf16;
	} rounded[] = {
		{ 1.0f, 0x3f80 },           { -2.0f, 0xc000 },          { 0x1.01p0f, 0x3f80 },  { 0x1.03p0f, 0x3f82 },
		{ 0x1.010002p0f, 0x3f81 },  { 3.4e38f, 0x7f80 },        { INFINITY, 0x7f80 },   { -0.0f, 0x8000 },
		{ 0x1p-133f, 0x0001 },
	};
	uint16_t h;
	float x, nan;

	for (size_t i = 0; i < NLA_LEN(rounded); i++) {
		nla_f32_to_bf16(&rounded[i].x, &h, 1);
		assert_int_equal(h, rounded[i].bf16);
	}
	for (uint32_t i = 0; i < 0x10000; i++) {
		const uint16_t in = (uint16_t)i;

		nla_bf16_to_f32(&in, &x, 1);
		nla_f32_to_bf16(&x, &h, 1);
		if (isnan(x))
			assert_int_equal(h, in | 0x40);
		else
			assert_int_equal(h, in);
	}
	memcpy(&nan, (const uint32_t[]){ 0x7f800001 }, 4); /* only low bits: truncation would make an infinity */
	nla_f32_to_bf16(&nan, &h, 1);
	assert_true((h & 0x7fff) > 0x7f80);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_broken_files), cmocka_unit_test(test_folder),
		cmocka_unit_test(test_writer),         cmocka_unit_test(test_half),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
