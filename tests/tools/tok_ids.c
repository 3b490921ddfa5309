/*
 * tok_ids FOLDER [--decode] < documents - the tokenizer for scripts.
 *
 * A document is its length in bytes as a decimal line, then the bytes. Prints one line of ids a document; with --decode what
 * they decode to instead, framed like the input. Seconds for loading and for the documents go to stderr.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

static int answer(const struct nla_tokenizer *tok, const char *text, size_t n, bool decode, double *seconds,
		  struct nla_err *err)
{
	struct nla_str out = NLA_STR_INIT;
	struct nla_i32s ids = {0};
	double start = nla_seconds();
	int failed = nla_tokenizer_encode(tok, text, n, &ids, err);

	*seconds += nla_seconds() - start;
	if (!failed && decode)
		nla_tokenizer_decode(tok, ids.data, ids.n, false, &out);
	if (decode) {
		printf("%zu\n", out.len);
		fwrite(out.buf, 1, out.len, stdout);
	} else {
		for (size_t i = 0; i < ids.n; i++)
			printf(i ? " %d" : "%d", ids.data[i]);
		putchar('\n');
	}
	nla_str_release(&out);
	nla_i32s_release(&ids);
	return failed;
}

int main(int argc, char **argv)
{
	bool decode = argc == 3 && !strcmp(argv[2], "--decode");
	struct nla_err err = NLA_ERR_INIT;
	struct nla_tokenizer *tok = NULL;
	double start = nla_seconds(), loading, seconds = 0;
	int failed;
	size_t n;

	if (argc != 2 && !decode) {
		fprintf(stderr, "usage: %s FOLDER [--decode] < documents\n", argv[0]);
		return 2;
	}
	failed = nla_tokenizer_load(&tok, argv[1], &err);
	loading = nla_seconds() - start;
	while (!failed && scanf("%zu%*1[\n]", &n) == 1) {
		char *text = nla_alloc(n + 1, 1);

		if (fread(text, 1, n, stdin) != n)
			failed = nla_fail(&err, "a document ends before its %zu bytes", n);
		else
			failed = answer(tok, text, n, decode, &seconds, &err);
		free(text);
	}
	if (failed)
		fprintf(stderr, "error: %s\n", err.text);
	else
		fprintf(stderr, "loading %.3f s, encoding %.3f s\n", loading, seconds);
	nla_tokenizer_free(tok);
	return failed ? 1 : 0;
}
