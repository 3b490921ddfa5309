/* safetensors - writing (see safetensors.h): header, then the data as they come. */
#include "base/safetensors.h"
#include "base/json.h"

struct nla_st_writer {
	struct nla_new_file file;
	uint64_t written, want; /* bytes of data */
};

static uint64_t bytes_of(const struct nla_st_entry *e)
{
	uint64_t bytes = nla_st_dtype_size(e->dtype);
	for (int i = 0; i < e->ndim; i++)
		bytes *= (uint64_t)e->shape[i];
	return bytes;
}

/* 8 bytes of length and the JSON, with spaces to a multiple of 8. */
static enum nla_status write_header(struct nla_st_writer *w, const struct nla_st_entry *entries, size_t n, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str json = NLA_STR_INIT;
	unsigned char length[8];
	nla_str_add(&json, "{\"__metadata__\":{\"format\":\"pt\"}");
	for (const struct nla_st_entry *e = entries; e < entries + n; e++) {
		nla_auto char *shape = nla_st_shape_text(e->shape, e->ndim);
		nla_str_addc(&json, ',');
		nla_json_add_str(&json, e->name, strlen(e->name));
		nla_str_addf(&json, ":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
			     nla_st_dtype_name(e->dtype), shape, w->want, w->want + bytes_of(e));
		w->want += bytes_of(e);
	}
	nla_str_addc(&json, '}');
	while (json.len % 8)
		nla_str_addc(&json, ' ');
	for (int i = 0; i < 8; i++)
		length[i] = (unsigned char)((uint64_t)json.len >> (8 * i));
	return nla_new_write(&w->file, length, 8, err) || nla_new_write(&w->file, json.buf, json.len, err);
}

enum nla_status nla_st_writer_open(struct nla_st_writer **out, const char *path, const struct nla_st_entry *entries, size_t n,
				   struct nla_err *err)
{
	struct nla_st_writer *w = nla_alloc(1, sizeof(*w));
	*out = NULL;
	*err = (struct nla_err)NLA_ERR_INIT;
	if (nla_new_open(&w->file, path, err))
		free(w);
	else if (write_header(w, entries, n, err))
		nla_st_writer_close(w, err);
	else
		*out = w;
	return err->status;
}

enum nla_status nla_st_writer_add(struct nla_st_writer *w, const void *bytes, size_t n, struct nla_err *err)
{
	w->written += n;
	return nla_new_write(&w->file, bytes, n, err);
}

enum nla_status nla_st_writer_close(struct nla_st_writer *w, struct nla_err *err)
{
	if (!err->status && w->written != w->want)
		NLA_BUG("'%s' has %" PRIu64 " bytes of %" PRIu64, w->file.path, w->written, w->want);
	nla_new_close(&w->file, err);
	free(w);
	return err->status;
}
