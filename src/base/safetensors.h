/*
 * safetensors - named arrays in a file: 8 bytes little-endian header length, a JSON header, the data. Knows nothing of tensors
 * on devices: an entry is a pointer into a memory map, and src/lm makes tensors of it. Hugging Face's format,
 * https://github.com/huggingface/safetensors (format description in its README).
 *
 * Reading:
 *	struct nla_st st;
 *	if (nla_st_open(&st, "model.safetensors", err)) ...           one file
 *	if (nla_st_open_folder(&st, "model/", "model", err)) ...      model.safetensors or model.safetensors.index.json + shards
 *	const struct nla_st_entry *e = nla_st_find(&st, "model.norm.weight");
 *	nla_st_close(&st);                                            entries die with it
 *
 * Checked at open: header length, JSON, dtypes, sizes that match shapes, offsets that fill the file without overlap or holes,
 * names that occur twice; index entries whose shard or tensor is missing. A tensor in several shards is that of the index. A
 * truncated file says by how many bytes. When open fails there is nothing to close. Files of early writers may hold unaligned
 * data: copy, or look at the pointer, before reading numbers.
 *
 * Writing:
 *	struct nla_st_writer *w;
 *	if (!nla_st_writer_open(&w, "model.safetensors", entries, n, err)) {
 *		nla_st_writer_add(w, bytes, size, err);               any number of times: the data in the entries' order
 *		nla_st_writer_close(w, err);
 *	}
 */
#pragma once

#include "base/base.h"
#include "base/file.h"

enum nla_st_dtype { NLA_ST_F32, NLA_ST_BF16, NLA_ST_F16, NLA_ST_I64, NLA_ST_I32, NLA_ST_U8 };

#define NLA_ST_MAX_DIMS 4

struct nla_st_entry {
	char *name; /* first: nla_by_text compares it */
	enum nla_st_dtype dtype;
	int ndim;
	int64_t shape[NLA_ST_MAX_DIMS];
	const void *data; /* borrowed: into the map; writers do not look at it */
	size_t nbytes;
};

struct nla_st {
	char *path; /* file or folder: for messages */
	struct nla_map *maps;
	size_t n_maps;
	struct nla_st_entry *entries; /* sorted by name */
	size_t n_entries;
};

enum nla_status nla_st_open(struct nla_st *st, const char *path, struct nla_err *err);
enum nla_status nla_st_open_folder(struct nla_st *st, const char *folder, const char *stem, struct nla_err *err);
void nla_st_close(struct nla_st *st);
const struct nla_st_entry *nla_st_find(const struct nla_st *st, const char *name);
/* The entry of that name, which must be of floats and have that shape. NULL: the error says what is wrong. */
const struct nla_st_entry *nla_st_floats(const struct nla_st *st, const char *name, int ndim, const int64_t *shape,
					 struct nla_err *err);
/* The first element of floats that is NaN or infinite; -1: none. */
int64_t nla_st_not_finite(const struct nla_st_entry *e);
size_t nla_st_dtype_size(enum nla_st_dtype dtype);
const char *nla_st_dtype_name(enum nla_st_dtype dtype);
/* "[2, 3]" of a shape, owned by the caller. */
char *nla_st_shape_text(const int64_t *shape, int ndim);

/* Through nla_new_file. The entries say name, type and shape. Has the metadata {"format": "pt"}, which transformers and peft
 * want. */
struct nla_st_writer;
enum nla_status nla_st_writer_open(struct nla_st_writer **out, const char *path, const struct nla_st_entry *entries, size_t n,
				   struct nla_err *err);
enum nla_status nla_st_writer_add(struct nla_st_writer *w, const void *bytes, size_t n, struct nla_err *err);
/* Frees w. Where err holds a failure already, it stays, and nothing is left of the file. */
enum nla_status nla_st_writer_close(struct nla_st_writer *w, struct nla_err *err);

/* bf16 <-> fp32 on the host, round to nearest even. */
void nla_bf16_to_f32(const uint16_t *in, float *out, size_t n);
void nla_f32_to_bf16(const float *in, uint16_t *out, size_t n);
