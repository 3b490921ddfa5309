/* Strict typed reading, and writing that reads back. */
#include "scratch.h"

#include <float.h>
#include <math.h>

#include "base/json.h"

static cJSON *parsed(const char *text)
{
	struct nla_err err = NLA_ERR_INIT;
	cJSON *json;

	if (nla_json_parse(text, strlen(text), "f.json", &json, &err))
		fail_msg("%s", err.text);
	return json;
}

static void test_getters(void **state)
{
	cJSON *json = parsed("{\"i\": 1e3, \"f\": 0.5, \"s\": \"x\", \"b\": true, \"z\": null,"
			     " \"o\": {\"p\": {\"q\": -7}, \"s\": \"y\"}, \"dot.ted\": 4, \"half\": 1.5, \"huge\": 1e18,"
			     " \"inf\": 1e999, \"e\": 9007199254740991, \"over\": 9007199254740993}");
	struct nla_err err;
	int64_t i;
	double x;
	bool b;
	const char *s;

	assert_ok(nla_json_need_int(json, "f.json", "i", &i, &err));
	assert_int_equal(i, 1000);
	assert_ok(nla_json_need_int(json, "f.json", "o.p.q", &i, &err));
	assert_int_equal(i, -7);
	assert_ok(nla_json_need_int(json, "f.json", "dot.ted", &i, &err));
	assert_int_equal(i, 4);
	assert_ok(nla_json_need_int(json, "f.json", "e", &i, &err));
	assert_true(i == (1ll << 53) - 1);
	assert_ok(nla_json_need_num(json, "f.json", "f", &x, &err));
	assert_true(x == 0.5);
	assert_ok(nla_json_need_str(json, "f.json", "o.s", &s, &err));
	assert_string_equal(s, "y");
	assert_ok(nla_json_bool(json, "f.json", "b", false, &b, &err));
	assert_true(b);

	assert_ok(nla_json_int(json, "f.json", "none", 5, &i, &err));
	assert_int_equal(i, 5);
	assert_ok(nla_json_int(json, "f.json", "z", 6, &i, &err));
	assert_int_equal(i, 6);
	assert_ok(nla_json_num(json, "f.json", "z.deeper", 0.25, &x, &err));
	assert_true(x == 0.25);
	assert_ok(nla_json_str(json, "f.json", "o.none", "def", &s, &err));
	assert_string_equal(s, "def");
	assert_ok(nla_json_bool(json, "f.json", "none.at.all", true, &b, &err));
	assert_true(b);

	assert_fails(nla_json_need_int(json, "f.json", "s", &i, &err), "'f.json': 's' is a string, want an integer");
	assert_fails(nla_json_need_int(json, "f.json", "half", &i, &err), "'f.json': 'half' is 1.5, want an integer");
	assert_fails(nla_json_need_int(json, "f.json", "huge", &i, &err), "'huge' is 1e+18, want an integer below 2^53");
	assert_fails(nla_json_need_int(json, "f.json", "over", &i, &err), "'over' is 9.007199255e+15, want an integer below 2^53");
	assert_fails(nla_json_need_int(json, "f.json", "inf", &i, &err), "want an integer");
	assert_fails(nla_json_need_num(json, "f.json", "inf", &x, &err), "'inf' is too large");
	assert_fails(nla_json_need_num(json, "f.json", "o", &x, &err), "'o' is an object, want a number");
	assert_fails(nla_json_need_num(json, "f.json", "o.r", &x, &err), "'f.json': 'o.r' is missing, want a number");
	assert_fails(nla_json_need_str(json, "f.json", "z", &s, &err), "'z' is missing, want a string");
	assert_fails(nla_json_need_str(json, "f.json", "o.p.q", &s, &err), "'o.p.q' is a number, want a string");
	assert_fails(nla_json_int(json, "f.json", "o.s.t", 1, &i, &err), "'f.json': 'o.s' is a string, want an object");
	assert_fails(nla_json_bool(json, "f.json", "i", true, &b, &err), "'i' is a number, want a boolean");
	assert_fails(nla_json_str(json, "f.json", "b", "", &s, &err), "'b' is a boolean, want a string");
	assert_non_null(nla_json_at(json, "o.p"));
	assert_null(nla_json_at(json, "o.p.q.r"));
	cJSON_Delete(json);
	json = parsed("[1]");
	assert_fails(nla_json_int(json, "f.json", "i", 1, &i, &err), "'f.json': is an array, want an object");
	cJSON_Delete(json);
}

static void test_bad_text(void **state)
{
	struct nla_err err;
	cJSON *json;

	assert_fails(nla_json_parse("{\n  \"a\": 1,\n  \"b\": tru\n}", 25, "f", &json, &err),
		     "'f' is not JSON: error at line 3, column 8");
	assert_null(json);
	assert_fails(nla_json_parse("", 0, "f", &json, &err), "it is empty");
	assert_fails(nla_json_parse(" \n\t", 3, "f", &json, &err), "it is empty");
	assert_fails(nla_json_parse("{} x", 4, "f", &json, &err), "line 1, column 4");
	assert_fails(nla_json_parse("{}{}", 4, "f", &json, &err), "line 1, column 3");
	assert_fails(nla_json_parse("{\"a\": 1", 7, "f", &json, &err), "'f' is not JSON");
	assert_fails(nla_json_parse("[\"a\0b\"]", 7, "f", &json, &err), "line 1, column 4");
	assert_fails(nla_json_parse("{\"a\": NaN}", 10, "f", &json, &err), "column 7");
	assert_fails(nla_json_parse("[\"\xc3\xa4\", x]", 9, "f", &json, &err), "column 7"); /* characters, not bytes */
	assert_fails(nla_json_read(in_scratch("none.json"), &json, &err), "none.json': No such file");
	assert_fails(nla_json_read(put_text("bad.json", "{"), &json, &err), "bad.json' is not JSON");
	char deep[100001] = "";
	memset(deep, '[', 100000);
	assert_fails(nla_json_parse(deep, 100000, "f", &json, &err), "'f' is not JSON: error at line 1, column 100");
	assert_ok(nla_json_parse("[12]34", 4, "f", &json, &err)); /* n bounds the text */
	cJSON_Delete(json);
	assert_ok(nla_json_parse("7 \n", 3, "f", &json, &err));
	cJSON_Delete(json);
}

/* A C string ends at NUL: text behind one must not get lost. */
static void test_nul_escape(void **state)
{
	cJSON *json = parsed("[\"a\\u0000b\", \"\\\\u0000\", \"\\\\\\u0000c\"]");

	assert_string_equal(cJSON_GetArrayItem(json, 0)->valuestring, "a\xef\xbf\xbd" "b");
	assert_string_equal(cJSON_GetArrayItem(json, 1)->valuestring, "\\u0000");
	assert_string_equal(cJSON_GetArrayItem(json, 2)->valuestring, "\\\xef\xbf\xbd" "c");
	cJSON_Delete(json);
}

static void assert_num(double x, const char *want)
{
	struct nla_str s = NLA_STR_INIT;

	nla_json_add_num(&s, x);
	assert_string_equal(s.buf, want);
	if (isfinite(x))
		assert_true(strtod(s.buf, NULL) == x);
	nla_str_release(&s);
}

static void test_numbers(void **state)
{
	struct nla_str s = NLA_STR_INIT;
	uint64_t bits = 88172645463325252ull;

	assert_num(0, "0");
	assert_num(-1, "-1");
	assert_num(0.1, "0.1");
	assert_num(0.002, "0.002");
	assert_num(1e-5, "1e-05");
	assert_num(1.0 / 3, "0.3333333333333333");
	assert_num(0.1 + 0.2, "0.30000000000000004");
	assert_num(9007199254740991.0, "9007199254740991");
	assert_num(123456789012.0, "123456789012");
	assert_num(1e300, "1e+300");
	assert_num(5e-324, "5e-324");
	assert_num(DBL_MAX, "1.7976931348623157e+308");
	assert_num(NAN, "null");
	assert_num(-INFINITY, "null");
	for (int i = 0; i < 20000; i++) { /* any bit pattern comes back */
		double x, y;
		bits ^= bits << 13;
		bits ^= bits >> 7;
		bits ^= bits << 17;
		memcpy(&x, &bits, sizeof(x));
		if (!isfinite(x))
			continue;
		nla_str_reset(&s);
		nla_json_add_num(&s, x);
		y = strtod(s.buf, NULL);
		assert_memory_equal(&x, &y, sizeof(x));
	}
	nla_str_release(&s);
}

static void assert_str(const char *text, size_t n, const char *want)
{
	struct nla_str s = NLA_STR_INIT;

	nla_json_add_str(&s, text, n);
	assert_string_equal(s.buf, want);
	nla_str_release(&s);
}

#define FFFD "\xef\xbf\xbd"

/* Replacements as Python's bytes.decode('utf-8', 'replace') makes them. */
static void test_strings(void **state)
{
	assert_str("", 0, "\"\"");
	assert_str("a\"b\\c/\n\t\r\b\f\x01\x7f", 13, "\"a\\\"b\\\\c/\\n\\t\\r\\b\\f\\u0001\x7f\"");
	assert_str("a\0b", 3, "\"a\\u0000b\"");
	assert_str("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"");
	assert_str("\xf4\x8f\xbf\xbf\xee\x80\x80", 7, "\"\xf4\x8f\xbf\xbf\xee\x80\x80\"");
	assert_str("\xff" "a\x80", 3, "\"" FFFD "a" FFFD "\"");
	assert_str("\xc0\xaf", 2, "\"" FFFD FFFD "\"");                  /* overlong */
	assert_str("\xe0\x9f\xbf", 3, "\"" FFFD FFFD FFFD "\"");         /* overlong */
	assert_str("\xed\xa0\x80", 3, "\"" FFFD FFFD FFFD "\"");         /* surrogate */
	assert_str("\xf4\x90\x80\x80", 4, "\"" FFFD FFFD FFFD FFFD "\""); /* above U+10FFFF */
	assert_str("\xe2\x82" "a", 3, "\"" FFFD "a\"");                  /* cut by another character */
	assert_str("\xf0\x9f\x98", 3, "\"" FFFD "\"");                   /* cut by the end */
}

static void test_write(void **state)
{
	static const char compact[] = "{\"a\":[1,2.5,\"x\"],\"o\":{\"t\":true,\"f\":false,\"z\":null,\"e\":{},\"l\":[]},"
				      "\"n\":[{\"i\":9007199254740991},[3]]}";
	static const char pretty[] = "{\n  \"a\": [1, 2.5, \"x\"],\n  \"o\": {\n    \"t\": true,\n    \"f\": false,\n"
				     "    \"z\": null,\n"
				     "    \"e\": {},\n    \"l\": []\n  },\n  \"n\": [\n    {\n      \"i\": 9007199254740991\n    },\n"
				     "    [3]\n  ]\n}\n";
	struct nla_err err;
	struct nla_str s = NLA_STR_INIT;
	cJSON *json = parsed(compact), *back;

	nla_json_add(&s, json, false, 0);
	assert_string_equal(s.buf, compact);
	assert_ok(nla_json_write(in_scratch("p.json"), json, true, &err));
	nla_str_reset(&s);
	assert_ok(nla_file_read(in_scratch("p.json"), &s, &err));
	assert_string_equal(s.buf, pretty);
	for (int gz = 0; gz < 2; gz++) {
		const char *path = in_scratch(gz ? "j.json.gz" : "j.json");
		assert_ok(nla_json_write(path, json, gz, &err));
		assert_ok(nla_json_read(path, &back, &err));
		assert_true(cJSON_Compare(json, back, true));
		cJSON_Delete(back);
	}
	cJSON_Delete(json);
	nla_str_release(&s);
}

/* 64 MiB, which a small gzip file may hold, would be gigabytes of tree. */
static void test_too_large(void **state)
{
	const size_t n = (64 << 20) + 1;
	nla_auto char *text = nla_alloc(n, 1);
	struct nla_err err;
	cJSON *json;

	memset(text, ' ', n);
	text[0] = '1';
	assert_fails(nla_json_read(put("large.json", text, n, true), &json, &err), "large.json': it holds more than 64 MiB");
	assert_null(json);
	assert_ok(nla_json_read(put("large.json", text, n - 1, true), &json, &err));
	cJSON_Delete(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_getters), cmocka_unit_test(test_bad_text), cmocka_unit_test(test_nul_escape),
		cmocka_unit_test(test_numbers), cmocka_unit_test(test_strings),  cmocka_unit_test(test_write),
		cmocka_unit_test(test_too_large),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
