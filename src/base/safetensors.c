/*
 * safetensors - reading (see safetensors.h; writing is safetensors_write.c).
 *
 * A file is mapped, its header parsed into entries [first, n_entries) of the one table, the byte ranges sorted and
 * checked to tile the data exactly (so a truncated, padded or overlapping file cannot pass), and only then pointers are made.
 * A folder is the same for each shard of the index, and the index is checked against the shard it names. The table is sorted by
 * name at the end: find is a binary search, and a name that occurs twice is its own neighbour.
 */
#include "base/safetensors.h"
#include "base/json.h"

static const struct {
	const char *name;
	size_t size;
} dtypes[] = {
	[NLA_ST_F32] = { "F32", 4 }, [NLA_ST_BF16] = { "BF16", 2 }, [NLA_ST_F16] = { "F16", 2 },
	[NLA_ST_I64] = { "I64", 8 }, [NLA_ST_I32] = { "I32", 4 },   [NLA_ST_U8] = { "U8", 1 },
};

#define MAX_HEADER 100000000 /* the format's own limit */

size_t nla_st_dtype_size(enum nla_st_dtype dtype) { return dtypes[dtype].size; }

const char *nla_st_dtype_name(enum nla_st_dtype dtype) { return dtypes[dtype].name; }

char *nla_st_shape_text(const int64_t *shape, int ndim)
{
	struct nla_str s = NLA_STR_INIT;
	nla_str_addc(&s, '[');
	for (int i = 0; i < ndim; i++)
		nla_str_addf(&s, "%s%" PRId64, i ? ", " : "", shape[i]);
	nla_str_addc(&s, ']');
	return nla_str_detach(&s);
}

/* ---- one file ---- */

static bool whole_number(const cJSON *item, uint64_t *out)
{
	if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > 0x1p53) /* JSON's numbers are doubles */
		return false;
	*out = (uint64_t)item->valuedouble;
	return (double)*out == item->valuedouble;
}

static enum nla_status read_dtype(const cJSON *item, struct nla_st_entry *e, struct nla_err *err)
{
	const char *dtype = cJSON_GetStringValue(nla_json_at(item, "dtype"));
	if (!dtype)
		return nla_fail(err, "tensor '%s' has no dtype", e->name);
	for (size_t i = 0; i < NLA_LEN(dtypes); i++)
		if (!strcmp(dtype, dtypes[i].name)) {
			e->dtype = (enum nla_st_dtype)i;
			return NLA_OK;
		}
	return nla_fail(err, "tensor '%s' has dtype '%s', want F32, BF16, F16, I64, I32 or U8", e->name, dtype);
}

/* The shape, and the bytes it takes. */
static enum nla_status read_shape(const cJSON *item, struct nla_st_entry *e, struct nla_err *err)
{
	const cJSON *shape = nla_json_at(item, "shape"), *dim;
	uint64_t size, bytes = dtypes[e->dtype].size;
	if (!cJSON_IsArray(shape))
		return nla_fail(err, "tensor '%s' has no shape", e->name);
	cJSON_ArrayForEach(dim, shape) {
		if (e->ndim == NLA_ST_MAX_DIMS)
			return nla_fail(err, "tensor '%s' has %d dimensions, want at most %d", e->name,
					cJSON_GetArraySize(shape), NLA_ST_MAX_DIMS);
		if (!whole_number(dim, &size))
			return nla_fail(err, "tensor '%s' has a shape that is not of whole numbers", e->name);
		if (size && bytes > (uint64_t)INT64_MAX / size)
			return nla_fail(err, "tensor '%s' has a shape too large for any memory", e->name);
		bytes *= size;
		e->shape[e->ndim++] = (int64_t)size;
	}
	e->nbytes = bytes;
	return NLA_OK;
}

/* Until the spans are checked, `data` is the offset from the end of the header. */
static uint64_t begin(const struct nla_st_entry *e) { return (uintptr_t)e->data; }

static enum nla_status read_span(const cJSON *item, struct nla_st_entry *e, struct nla_err *err)
{
	const cJSON *offsets = nla_json_at(item, "data_offsets");
	uint64_t from, to;
	if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 || !whole_number(offsets->child, &from) ||
	    !whole_number(offsets->child->next, &to) || from > to)
		return nla_fail(err, "tensor '%s' has no data_offsets of the form [begin, end]", e->name);
	e->data = (const void *)(uintptr_t)from;
	if (to - from == e->nbytes)
		return NLA_OK;
	nla_auto char *shape = nla_st_shape_text(e->shape, e->ndim);
	return nla_fail(err, "tensor '%s' has %" PRIu64 " bytes, but %s of %s needs %zu", e->name, to - from, shape,
		 dtypes[e->dtype].name, e->nbytes);
}

static int by_span(const void *a, const void *b)
{
	const struct nla_st_entry *x = a, *y = b;
	if (begin(x) != begin(y))
		return begin(x) < begin(y) ? -1 : 1;
	return x->nbytes < y->nbytes ? -1 : x->nbytes > y->nbytes;
}

/* The spans must tile [0, size): the format allows neither overlap nor holes, and a file cut short shows as a missing end. */
static enum nla_status check_spans(struct nla_st_entry *entries, size_t n, uint64_t size, struct nla_err *err)
{
	uint64_t at = 0;
	qsort(entries, n, sizeof(*entries), by_span);
	for (size_t i = 0; i < n; i++) {
		if (begin(&entries[i]) < at)
			return nla_fail(err, "tensors '%s' and '%s' overlap", entries[i - 1].name, entries[i].name);
		if (begin(&entries[i]) > at)
			return nla_fail(err, "%" PRIu64 " bytes before tensor '%s' belong to no tensor",
					begin(&entries[i]) - at, entries[i].name);
		at += entries[i].nbytes;
	}
	if (at > size)
		return nla_fail(err, "truncated by %" PRIu64 " bytes", at - size);
	return at < size ? nla_fail(err, "%" PRIu64 " bytes at its end belong to no tensor", size - at) : NLA_OK;
}

/* Sort entries [first, n_entries) by name; equal names are an error. */
static enum nla_status sort_entries(struct nla_st *st, size_t first, struct nla_err *err)
{
	if (st->n_entries > first)
		qsort(st->entries + first, st->n_entries - first, sizeof(*st->entries), nla_by_text);
	for (size_t i = first + 1; i < st->n_entries; i++)
		if (!strcmp(st->entries[i - 1].name, st->entries[i].name))
			return nla_fail(err, "tensor '%s' is there twice", st->entries[i].name);
	return NLA_OK;
}

/* Every tensor of a parsed header becomes an entry behind the ones the table has, sorted among themselves. */
static enum nla_status read_entries(struct nla_st *st, const cJSON *header, const char *data, uint64_t size,
				    struct nla_err *err)
{
	const size_t first = st->n_entries;
	const cJSON *item;
	if (!cJSON_IsObject(header))
		return nla_fail(err, "header is not a JSON object");
	st->entries = nla_realloc(st->entries, first + (size_t)cJSON_GetArraySize(header) + 1, sizeof(*st->entries));
	cJSON_ArrayForEach(item, header) {
		struct nla_st_entry *e = &st->entries[st->n_entries];
		if (!strcmp(item->string, "__metadata__"))
			continue;
		*e = (struct nla_st_entry){ .name = nla_strdup(item->string) };
		st->n_entries++;
		if (read_dtype(item, e, err) || read_shape(item, e, err) || read_span(item, e, err))
			return err->status;
	}
	if (check_spans(st->entries + first, st->n_entries - first, size, err))
		return err->status;
	for (size_t i = first; i < st->n_entries; i++)
		st->entries[i].data = data + begin(&st->entries[i]);
	return sort_entries(st, first, err);
}

/* Map one file and append its entries, sorted among themselves. */
static enum nla_status load_file(struct nla_st *st, const char *path, struct nla_err *err)
{
	uint64_t length = 0;
	nla_auto_json cJSON *header = NULL;
	st->maps = nla_realloc(st->maps, st->n_maps + 1, sizeof(*st->maps));
	struct nla_map *map = &st->maps[st->n_maps];
	if (nla_map_open(map, path, err))
		return err->status;
	st->n_maps++;
	if (map->size < 8)
		return nla_fail(err, "cannot read '%s': %zu bytes are too few for a safetensors file", path, map->size);
	const unsigned char *bytes = map->data;
	for (int i = 7; i >= 0; i--)
		length = length << 8 | bytes[i];
	if (length > MAX_HEADER && length <= map->size - 8)
		return nla_fail(err, "cannot read '%s': a header of %" PRIu64 " bytes, want at most %d", path, length,
				MAX_HEADER);
	if (length > map->size - 8)
		return nla_fail(err, "cannot read '%s': header length %" PRIu64 " goes beyond the file (%zu bytes): "
				"truncated by %" PRIu64 " bytes or not a safetensors file", path, length, map->size,
				length - (map->size - 8));
	if (nla_json_parse((const char *)bytes + 8, (size_t)length, path, &header, err))
		return err->status;
	if (read_entries(st, header, (const char *)bytes + 8 + length, map->size - 8 - length, err))
		nla_err_context(err, "cannot read '%s'", path);
	return err->status;
}

enum nla_status nla_st_open(struct nla_st *st, const char *path, struct nla_err *err)
{
	*err = (struct nla_err)NLA_ERR_INIT;
	*st = (struct nla_st){ .path = nla_strdup(path) };
	if (load_file(st, path, err))
		nla_st_close(st);
	return err->status;
}

/* ---- shards ---- */

static bool has(const struct nla_strs *names, const char *name)
{
	for (size_t i = 0; i < names->n; i++)
		if (!strcmp(names->data[i], name))
			return true;
	return false;
}

/* Load the shard of a tensor. Of a tensor that several shards hold, the index says which counts. */
static enum nla_status load_shard(struct nla_st *st, const cJSON *weight_map, const char *index, const cJSON *tensor,
				  struct nla_err *err)
{
	const char *shard = tensor->valuestring;
	nla_auto char *path = nla_path_join(st->path, shard);
	size_t n = st->n_entries;
	if (!nla_exists(path))
		nla_fail(err, "cannot read '%s': shard '%s' of tensor '%s' is missing", index, shard, tensor->string);
	else
		load_file(st, path, err);
	for (size_t i = n; i < st->n_entries && !err->status; i++) {
		const char *other = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(weight_map, st->entries[i].name));
		if (!other || !strcmp(other, shard))
			st->entries[n++] = st->entries[i];
		else
			free(st->entries[i].name);
	}
	st->n_entries = err->status ? st->n_entries : n;
	return err->status;
}

static enum nla_status load_index(struct nla_st *st, const char *index, struct nla_err *err)
{
	NLA_AUTO(nla_strs_release) struct nla_strs shards = { 0 };
	const cJSON *item;
	nla_auto_json cJSON *json = NULL;
	if (nla_json_read(index, &json, err))
		return err->status;
	const cJSON *weight_map = nla_json_at(json, "weight_map");
	if (!cJSON_IsObject(weight_map))
		nla_fail(err, "cannot read '%s': no object 'weight_map'", index);
	cJSON_ArrayForEach(item, weight_map)
		if (!err->status && (!cJSON_IsString(item) || !*item->valuestring || strchr(item->valuestring, '/')))
			nla_fail(err, "cannot read '%s': the shard of tensor '%s' is not a file name", index, item->string);
	cJSON_ArrayForEach(item, weight_map) {
		if (err->status || has(&shards, item->valuestring))
			continue;
		nla_strs_push(&shards, item->valuestring);
		load_shard(st, weight_map, index, item, err);
	}
	if (!err->status && sort_entries(st, 0, err))
		nla_err_context(err, "cannot read '%s'", index);
	cJSON_ArrayForEach(item, weight_map)
		if (!err->status && !nla_st_find(st, item->string))
			nla_fail(err, "cannot read '%s': tensor '%s' is not in its shard '%s'", index, item->string,
				 item->valuestring);
	return err->status;
}

enum nla_status nla_st_open_folder(struct nla_st *st, const char *folder, const char *stem, struct nla_err *err)
{
	nla_auto char *base = nla_path_join(folder, stem), *path = nla_format("%s.safetensors", base);
	nla_auto char *index = nla_format("%s.index.json", path);
	*err = (struct nla_err)NLA_ERR_INIT;
	*st = (struct nla_st){ .path = nla_strdup(folder) };
	if (nla_exists(path))
		load_file(st, path, err);
	else if (nla_exists(index))
		load_index(st, index, err);
	else
		nla_fail(err, "cannot read '%s': it holds neither %s.safetensors nor %s.safetensors.index.json", folder,
			 stem, stem);
	if (err->status)
		nla_st_close(st);
	return err->status;
}

void nla_st_close(struct nla_st *st)
{
	for (size_t i = 0; i < st->n_entries; i++)
		free(st->entries[i].name);
	for (size_t i = 0; i < st->n_maps; i++)
		nla_map_close(&st->maps[i]);
	free(st->entries);
	free(st->maps);
	free(st->path);
	*st = (struct nla_st){ 0 };
}

/* ---- entries ---- */

const struct nla_st_entry *nla_st_find(const struct nla_st *st, const char *name)
{
	return st->n_entries ? bsearch(&name, st->entries, st->n_entries, sizeof(*st->entries), nla_by_text) : NULL;
}

/* For the message: a name of the file that ends as `name` does but begins otherwise, or any when none begins so. */
static const char *similar(const struct nla_st *st, const char *name)
{
	size_t first = strcspn(name, ".") + 1;
	bool own = false;
	for (size_t i = 0; i < st->n_entries; i++) {
		const char *other = st->entries[i].name;
		own = own || !strncmp(other, name, first);
		if (strlen(name) > first && nla_ends_with(other, name + first - 1))
			return other;
	}
	return own || !st->n_entries ? NULL : st->entries[0].name;
}

const struct nla_st_entry *nla_st_floats(const struct nla_st *st, const char *name, int ndim, const int64_t *shape,
					 struct nla_err *err)
{
	const struct nla_st_entry *e = nla_st_find(st, name);
	if (!e) {
		const char *like = similar(st, name);
		nla_fail(err, "cannot load '%s': tensor '%s' is missing%s%s%s", st->path, name,
			 like ? ": its tensors have names like '" : "", like ? like : "", like ? "'" : "");
	} else if (e->ndim != ndim || memcmp(e->shape, shape, (size_t)ndim * sizeof(*shape))) {
		nla_auto char *have = nla_st_shape_text(e->shape, e->ndim), *want = nla_st_shape_text(shape, ndim);
		nla_fail(err, "cannot load '%s': tensor '%s' has shape %s, want %s", st->path, name, have, want);
	} else if (e->dtype > NLA_ST_F16) {
		nla_fail(err, "cannot load '%s': tensor '%s' has type %s, want F32, BF16 or F16", st->path, name,
			 dtypes[e->dtype].name);
	}
	return err->status ? NULL : e;
}

/* NaN and the infinities have all bits of the exponent (mask): no number has more. Data may be unaligned. A maximum, and AVX2
 * where there is any, keep the scan at a few percent of loading: 40 GB/s a core, where comparing each made 10. */
#ifdef __x86_64__
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif
struct __attribute__((packed)) s16 { int16_t v; };
struct __attribute__((packed)) s32 { int32_t v; };

CLONES static bool finite16(const struct s16 *x, size_t n, int16_t mask)
{
	int16_t most = 0;
	for (size_t i = 0; i < n; i++)
		most = (int16_t)NLA_MAX(most, x[i].v & mask);
	return most != mask;
}

CLONES static bool finite32(const struct s32 *x, size_t n, int32_t mask)
{
	int32_t most = 0;
	for (size_t i = 0; i < n; i++)
		most = NLA_MAX(most, x[i].v & mask);
	return most != mask;
}

static bool is_finite(const struct nla_st_entry *e, size_t from, size_t n)
{
	const char *at = (const char *)e->data + from * dtypes[e->dtype].size;
	if (e->dtype == NLA_ST_F32)
		return finite32((const struct s32 *)at, n, 0x7f800000);
	return finite16((const struct s16 *)at, n, e->dtype == NLA_ST_BF16 ? 0x7f80 : 0x7c00);
}

int64_t nla_st_not_finite(const struct nla_st_entry *e)
{
	size_t n = e->nbytes / dtypes[e->dtype].size, i = 0;
	if (is_finite(e, 0, n))
		return -1;
	while (is_finite(e, i, 1))
		i++;
	return (int64_t)i;
}

/* ---- 16-bit numbers ---- */

void nla_bf16_to_f32(const uint16_t *in, float *out, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t bits = (uint32_t)in[i] << 16;
		memcpy(&out[i], &bits, sizeof(bits));
	}
}

void nla_f32_to_bf16(const float *in, uint16_t *out, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t bits;
		memcpy(&bits, &in[i], sizeof(bits));
		if ((bits & 0x7fffffff) > 0x7f800000) /* rounding could turn a NaN into an infinity */
			out[i] = (uint16_t)(bits >> 16 | 0x40);
		else
			out[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
	}
}
