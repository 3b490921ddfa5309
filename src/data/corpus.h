/*
 * corpus - documents from files: .txt (documents separated by a line holding only "<|doc|>", else the whole file is one), .jsonl
 * (one object a line, key "text", optional "doc_id"), either plain or gzip; a folder means its files, sorted. Streams: one document
 * in memory at a time.
 */
#ifndef NLA_CORPUS_H
#define NLA_CORPUS_H

#include "base/base.h"
#include "base/file.h"

struct nla_doc {
	char *id;   /* "doc_id" of a .jsonl line, else FILE:NUMBER */
	char *text; /* UTF-8 */
};

struct nla_corpus {
	struct nla_strs files;
	size_t next_file;
	bool open;
	struct nla_lines lines;
	int64_t n_in_file; /* documents seen in the open file */
	struct nla_doc doc;
};

enum nla_status nla_corpus_open(struct nla_corpus *c, const char *path, struct nla_err *err);
/* *doc is borrowed until the next call; NULL at the end. Invalid UTF-8, a missing "text" or bad JSON: an error with file and line.
 * Empty documents are skipped. */
enum nla_status nla_corpus_next(struct nla_corpus *c, const struct nla_doc **doc, struct nla_err *err);
void nla_corpus_close(struct nla_corpus *c);

#endif
