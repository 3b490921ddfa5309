/* corpus: both formats, plain and gzip, give the same documents, and bad ones are named by file and line. */
#include "scratch.h"

#include "text/corpus.h"

static struct nla_err err;

/* All documents as "id=text|"; on an error what came before it. */
static char *read_all(const char *path, enum nla_status *status)
{
	struct nla_str s = NLA_STR_INIT;
	const struct nla_doc *doc = NULL;
	struct nla_corpus c;

	err = (struct nla_err)NLA_ERR_INIT;
	*status = nla_corpus_open(&c, path, &err);
	while (!*status && !(*status = nla_corpus_next(&c, &doc, &err)) && doc)
		nla_str_addf(&s, "%s=%s|", doc->id, doc->text);
	if (!*status && (nla_corpus_next(&c, &doc, &err) || doc))
		fail_msg("a document behind the last");
	nla_corpus_close(&c);
	return nla_str_detach(&s);
}

static void expect(const char *path, const char *want)
{
	enum nla_status status;
	char *got = read_all(path, &status);

	if (status)
		fail_msg("%s", err.text);
	assert_string_equal(got, want);
	free(got);
}

static void expect_error(const char *path, const char *before, const char *part)
{
	enum nla_status status;
	char *got = read_all(path, &status);

	assert_string_equal(got, before);
	if (!status || !strstr(err.text, part))
		fail_msg("'%s', want '%s'", err.text, part);
	free(got);
}

static void test_txt(void **state)
{
	static const char three[] = "one\n\nline\n<|doc|>\ntwo \xe3\x88\x8e\n<|doc|>\n \n\t\n<|doc|>\r\n <|doc|>\r\n";

	expect(put_text("a.txt", "one\n  two\n\n"), "a.txt:1=one\n  two|");
	expect(put_text("a.txt", "no newline"), "a.txt:1=no newline|");
	expect(put_text("a.txt", "\n\n"), "");
	expect(put_text("a.txt", ""), "");
	expect(put_text("a.txt", three), "a.txt:1=one\n\nline|a.txt:2=two \xe3\x88\x8e|a.txt:4= <|doc|>|");
	expect(put("b.txt.gz", three, strlen(three), true),
	       "b.txt.gz:1=one\n\nline|b.txt.gz:2=two \xe3\x88\x8e|b.txt.gz:4= <|doc|>|");
	expect(put_text("a.txt", "<|doc|>\none\n<|doc|>\n"), "a.txt:2=one|");
	expect(put_text("a.txt", "\xef\xbb\xbfone\r\n  two\r\n<|doc|>\r\n\xef\xbb\xbfx"), "a.txt:1=one\n  two|a.txt:2=\xef\xbb\xbfx|");
	expect(put_text("a.jsonl", "\xef\xbb\xbf\r\n{\"text\": \"one\"}\r\n \t\r\n\n{\"text\": \"two\"}\r\n\r\n"),
	       "a.jsonl:1=one|a.jsonl:2=two|");
	expect(put_text("a.jsonl", "\xef\xbb\xbf{\"text\": \"one\"}"), "a.jsonl:1=one|");
	expect_error(put_text("a.txt", "one\n<|doc|>\ntwo\n\xed\xa0\x80\n"), "a.txt:1=one|",
		     "a.txt': line 4 is not valid UTF-8");
	expect_error(put_text("a.txt", "\xc0\xaf"), "", "line 1 is not valid UTF-8");
	expect_error(put("a.txt", "one\nt\0wo\n", 9, false), "", "a.txt': line 2 has a NUL byte");
}

/* What the rows of a slim set bring along. */
static void test_slim_rows(void **state)
{
	struct nla_corpus c;
	const struct nla_doc *doc;

	assert_ok(nla_corpus_open(&c, put_text("a.jsonl", "{\"text\":\"one\",\"explanation\":\"e\",\"n_raw_tokens\":7}\n{\"text\":\"two\"}\n"), &err));
	assert_ok(nla_corpus_next(&c, &doc, &err));
	assert_string_equal(doc->explanation, "e");
	assert_int_equal(doc->n_raw_tokens, 7);
	assert_ok(nla_corpus_next(&c, &doc, &err));
	assert_null(doc->explanation);
	assert_int_equal(doc->n_raw_tokens, -1);
	nla_corpus_close(&c);
	expect_error(put_text("a.jsonl", "{\"text\":\"one\",\"n_raw_tokens\":\"7\"}\n"), "", "'n_raw_tokens' is a string");
	expect_error(put_text("a.jsonl", "{\"text\":\"one\",\"explanation\":7}\n"), "", "'explanation' is a number");
}

static void test_jsonl(void **state)
{
	static const char lines[] = "{\"text\":\"one\\ntwo\",\"doc_id\":\"x\"}\n\n{\"text\":\" \"}\n{\"text\":\"three\"}\n"
				    "{\"doc_id\":-12,\"text\":\"four\",\"more\":[1]}\n{\"doc_id\":null,\"text\":\"five\"}";
	static const char want[] = "x=one\ntwo|a.jsonl:3=three|-12=four|a.jsonl:5=five|";
	char *long_text = nla_alloc(300001, 1), *line, *both;

	expect(put_text("a.jsonl", lines), want);
	expect(put_text("d.jsonl.gz", "{\"doc_id\":\"plain\",\"text\":\"t\"}\n"), "plain=t|");
	memset(long_text, 'x', 300000);
	line = nla_format("{\"doc_id\":\"long\",\"text\":\"%s\"}\n", long_text);
	both = nla_format("long=%s|", long_text);
	expect(put("a.jsonl.gz", line, strlen(line), true), both);
	free(long_text);
	free(line);
	free(both);
	expect_error(put_text("a.jsonl", "{\"text\":\"one\"}\n{\"txt\":\"two\"}\n"), "a.jsonl:1=one|", "a.jsonl:2': 'text'");
	expect_error(put_text("a.jsonl", "{\"text\":7}\n"), "", "a.jsonl:1': 'text' is a number");
	expect_error(put_text("a.jsonl", "{\"text\":\"one\"\n"), "", "a.jsonl:1");
	expect_error(put_text("a.jsonl", "[]\n"), "", "a.jsonl:1");
	expect_error(put_text("a.jsonl", "{\"text\":\"one\",\"doc_id\":1.5}\n"), "", "'doc_id' is neither");
	expect_error(put_text("a.jsonl", "{\"text\":\"one\",\"doc_id\":1e300}\n"), "", "'doc_id' is neither");
	expect_error(put_text("a.jsonl", "\n{\"text\":\"\xff\"}\n"), "", "line 2 is not valid UTF-8");
}

static void test_folder(void **state)
{
	char dir[512];

	snprintf(dir, sizeof(dir), "%s", in_scratch("corpus"));
	assert_ok(nla_mkdirs(in_scratch("corpus/sub.txt"), &err));
	put_text("corpus/README.md", "not a corpus");
	expect_error(dir, "", "no file in it ends in .txt or .jsonl");
	put_text("corpus/b.txt", "second\n");
	put_text("corpus/c.jsonl", "{\"text\":\"third\"}\n");
	put("corpus/a.txt.gz", "first", 5, true);
	put("corpus/._a.txt", "of another system, and no text", 30, false);
	expect(dir, "a.txt.gz:1=first|b.txt:1=second|c.jsonl:1=third|");
	expect_error(in_scratch("corpus/README.md"), "", "its name must end in .txt or .jsonl");
	expect_error(in_scratch("corpus/none.txt"), "", "no such file or folder");
}

/* What was read of it: grows with every document, to all. */
static void test_share(void **state)
{
	struct nla_str s = NLA_STR_INIT;
	struct nla_corpus c;
	const struct nla_doc *doc;
	double before = 0, half = 0;
	char dir[512];

	snprintf(dir, sizeof(dir), "%s", in_scratch("share"));
	err = (struct nla_err)NLA_ERR_INIT;
	assert_ok(nla_mkdirs(dir, &err));
	for (int i = 0; i < 50000; i++)
		nla_str_addf(&s, "{\"text\":\"line %06d\"}\n", i);
	put("share/a.jsonl", s.buf, s.len, false);
	put("share/b.jsonl", s.buf, s.len, false);
	put("share/c.txt.gz", s.buf, s.len, true);
	assert_ok(nla_corpus_open(&c, dir, &err));
	assert_true(nla_corpus_share(&c) == 0);
	for (int n = 1; !nla_corpus_next(&c, &doc, &err) && doc; n++) {
		double share = nla_corpus_share(&c);
		assert_true(share >= before - 1e-3 && share <= 1); /* of a gzip file nearly so */
		half = n == 50000 ? share : half;
		if (n == 75000) /* half of the second of two equal files */
			assert_close((share - half) / half, 0.5, 1e-3);
		before = share;
	}
	assert_true(err.status == NLA_OK && half > 0.4 && half < 0.5 && nla_corpus_share(&c) == 1);
	nla_corpus_close(&c);
	nla_str_release(&s);
}

/* A gzip file cut short: its whole lines come, then the error, not a quiet end. */
static void test_truncated(void **state)
{
	struct nla_str s = NLA_STR_INIT;
	const char *path;
	unsigned x = 1;

	for (int i = 0; i < 200; i++) {
		x = x * 1664525 + 1013904223;
		nla_str_addf(&s, "%08x%08x\n", x, x ^ 0x5bd1e995u);
	}
	path = put("cut.txt.gz", s.buf, s.len, true);
	assert_int_equal(truncate(path, 900), 0);
	expect_error(path, "", "cut.txt.gz");
	nla_str_release(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_txt),
		cmocka_unit_test(test_slim_rows),
		cmocka_unit_test(test_jsonl),
		cmocka_unit_test(test_folder),
		cmocka_unit_test(test_share),
		cmocka_unit_test(test_truncated),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
