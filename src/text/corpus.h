/*
 * corpus - documents from files: .txt (documents separated by a line holding only "<|doc|>", else the whole file is one),
 * .jsonl (one object a line, key "text", optional "doc_id", a string or a whole number; "explanation", "n_raw_tokens" of a slim
 * set's rows), either plain or gzip; a folder means its files of these kinds, sorted; others in it are left alone. Streams: one
 * document in memory at a time.
 *
 *	struct nla_corpus c;
 *	const struct nla_doc *doc;
 *	if (nla_corpus_open(&c, path, err)) ...
 *	while (!nla_corpus_next(&c, &doc, err) && doc) ...
 *	nla_corpus_close(&c);
 */
#pragma once

#include "base/base.h"
#include "base/file.h"

struct nla_doc {
	char *id;   /* "doc_id" of a .jsonl line, else FILE:NUMBER: the file's name without its folder, and the document's
		     * number in it from 1 (empty ones count too) */
	char *text; /* UTF-8, never empty; of a .txt without the line breaks at its end */
	/* of a .jsonl line that is a row of a set without vectors: */
	char *explanation;    /* NULL when absent */
	int64_t n_raw_tokens; /* -1 when absent */
};

struct nla_corpus {
	struct nla_strs files;
	size_t next_file;
	bool open;
	struct nla_lines lines;
	bool jsonl;        /* the open file is */
	int64_t n_in_file; /* documents seen in the open file */
	double bytes, done; /* of all files; of those that were read */
	struct nla_doc doc;
};

enum nla_status nla_corpus_open(struct nla_corpus *c, const char *path, struct nla_err *err);
/* *doc is borrowed until the next call; NULL at the end. Invalid UTF-8, a missing "text" or bad JSON: an error with file and
 * line. Empty documents are skipped. */
enum nla_status nla_corpus_next(struct nla_corpus *c, const struct nla_doc **doc, struct nla_err *err);
double nla_corpus_share(const struct nla_corpus *c); /* of its bytes: what was read so far */
void nla_corpus_close(struct nla_corpus *c);
