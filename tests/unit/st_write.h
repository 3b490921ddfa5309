/*
 * st_write - a safetensors file at once: entries with their data, the largest elements first, so that every tensor is aligned.
 */
#ifndef NLA_TEST_ST_WRITE_H
#define NLA_TEST_ST_WRITE_H

#include "base/safetensors.h"

static inline enum nla_status st_write(const char *path, const struct nla_st_entry *entries, size_t n, struct nla_err *error)
{
	struct nla_st_entry *ordered = nla_alloc(n + 1, sizeof(*ordered));
	struct nla_st_writer *w;
	size_t k = 0;

	for (size_t size = 8; size; size /= 2)
		for (size_t i = 0; i < n; i++)
			if (nla_st_dtype_size(entries[i].dtype) == size)
				ordered[k++] = entries[i];
	if (!nla_st_writer_open(&w, path, ordered, n, error)) {
		for (size_t i = 0; i < n && !error->status; i++)
			nla_st_writer_add(w, ordered[i].data, ordered[i].nbytes, error);
		nla_st_writer_close(w, error);
	}
	free(ordered);
	return error->status;
}

#endif
