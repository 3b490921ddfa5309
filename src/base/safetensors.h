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
 * names that occur twice; index entries whose shard or tensor is missing. A truncated file says by how many bytes. When open
 * fails there is nothing to close. Files of early writers may hold unaligned data: copy, or look at the pointer, before reading
 * numbers.
 */
#ifndef NLA_SAFETENSORS_H
#define NLA_SAFETENSORS_H

#include "base/base.h"
#include "base/file.h"

enum nla_st_dtype { NLA_ST_F32, NLA_ST_BF16, NLA_ST_F16, NLA_ST_I64, NLA_ST_I32, NLA_ST_U8 };

#define NLA_ST_MAX_DIMS 4

struct nla_st_entry {
	char *name;
	enum nla_st_dtype dtype;
	int ndim;
	int64_t shape[NLA_ST_MAX_DIMS];
	const void *data; /* borrowed: into the map, or the caller's when writing */
	size_t nbytes;
};

struct nla_st {
	char *path; /* file or folder: for messages */
	struct nla_map *maps;
	size_t n_maps;
	struct nla_st_entry *entries; /* sorted by name */
	size_t n_entries;
	struct nla_str meta; /* the first file's __metadata__ as JSON text, empty when absent */
};

enum nla_status nla_st_open(struct nla_st *st, const char *path, struct nla_err *err);
enum nla_status nla_st_open_folder(struct nla_st *st, const char *folder, const char *stem, struct nla_err *err);
void nla_st_close(struct nla_st *st);
const struct nla_st_entry *nla_st_find(const struct nla_st *st, const char *name);
size_t nla_st_dtype_size(enum nla_st_dtype dtype);
const char *nla_st_dtype_name(enum nla_st_dtype dtype);
/* "[2, 3]" of a shape, owned by the caller. */
char *nla_st_shape_text(const int64_t *shape, int ndim);

/* Write entries (name, dtype, shape, data, nbytes) to one file, atomically (temporary name, fsync, rename). Laid out by element
 * size, largest first, else in the order given: every tensor is aligned. Has the metadata {"format": "pt"}, which transformers
 * and peft want. */
enum nla_status nla_st_write(const char *path, const struct nla_st_entry *entries, size_t n, struct nla_err *err);

/* The same, streamed: the entries say name, type and shape (data and nbytes are not looked at); their bytes follow in that order, in
 * pieces of any size. The file appears under its name only at close. */
struct nla_st_parts;
enum nla_status nla_st_parts_open(struct nla_st_parts **out, const char *path, const struct nla_st_entry *entries, size_t n,
				  struct nla_err *err);
enum nla_status nla_st_parts_add(struct nla_st_parts *s, const void *bytes, size_t n, struct nla_err *err);
enum nla_status nla_st_parts_close(struct nla_st_parts *s, struct nla_err *err); /* frees s also on failure */
void nla_st_parts_abort(struct nla_st_parts *s);

/* Streaming writer for one large 2-D array: rows are appended as they come; the header is completed at close. The file appears
 * under its name only at close. */
struct nla_st_stream;
enum nla_status nla_st_stream_open(struct nla_st_stream **out, const char *path, const char *name, enum nla_st_dtype dtype,
				   int64_t width, struct nla_err *err);
enum nla_status nla_st_stream_rows(struct nla_st_stream *s, const void *rows, int64_t n, struct nla_err *err);
enum nla_status nla_st_stream_close(struct nla_st_stream *s, struct nla_err *err); /* frees s also on failure */
void nla_st_stream_abort(struct nla_st_stream *s);

/* bf16 <-> fp32 on the host, round to nearest even. fp16 -> fp32. */
void nla_bf16_to_f32(const uint16_t *in, float *out, size_t n);
void nla_f32_to_bf16(const float *in, uint16_t *out, size_t n);
void nla_f16_to_f32(const uint16_t *in, float *out, size_t n);

#endif
