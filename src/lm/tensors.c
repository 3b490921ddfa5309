/* tensors - to and from safetensors files; see tensors.h. */
#include "lm/tensors.h"

#include <stdatomic.h>

#define PIECE (1 << 20)

_Static_assert((int)NLA_ST_F32 == NT_F32 && (int)NLA_ST_F16 == NT_F16 && (int)NLA_ST_U8 == NT_U8, "nla_dtype_of");

enum nla_status nla_nt_fail(struct nla_err *err, const char *fmt, ...)
{
	char what[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	nt_status status = nt_check();
	if (err->status) { /* what fails after a failure is its consequence */
		nt_clear();
		return err->status;
	}
	nla_fail(err, "%s: %s%s", what,
		 status == NT_OUT_OF_MEMORY ? "out of memory, lower the program's batch (rollout.prompts, "
					      "update.micro_batch, eval.batch, sft.batch or teach.batch): "
					    : "",
		 nt_error());
	if (status == NT_OUT_OF_MEMORY)
		err->status = NLA_NOMEM;
	nt_clear();
	return err->status;
}

void nla_tensors_add(struct nla_tensors *t, const char *name, nt_tensor *tensor)
{
	t->list = nla_realloc(t->list, t->names.n + 1, sizeof(*t->list));
	t->list[t->names.n] = tensor;
	nla_strs_push(&t->names, name);
}

void nla_tensors_release(struct nla_tensors *t)
{
	nla_strs_release(&t->names);
	free(t->list);
	*t = (struct nla_tensors){ 0 };
}

static enum nla_status write_one(struct nla_st_writer *w, const nt_tensor *t, const struct nla_st_entry *e, struct nla_err *err)
{
	size_t bytes = (size_t)nt_numel(t) * nla_st_dtype_size(e->dtype);
	nla_auto void *host = nla_alloc(bytes, 1);
	nt_scope_push();
	nt_to_host_raw(nt_to(t, nla_dtype_of(e->dtype)), host, bytes);
	nt_scope_pop();
	if (nt_check())
		nla_nt_fail(err, "cannot save '%s'", e->name);
	else
		nla_st_writer_add(w, host, bytes, err);
	return err->status;
}

enum nla_status nla_tensors_write(const struct nla_tensors *t, const char *path, nt_dtype dtype, struct nla_err *err)
{
	nla_auto struct nla_st_entry *entries = nla_alloc(t->names.n, sizeof(*entries));
	struct nla_st_writer *w;
	for (size_t i = 0; i < t->names.n; i++) {
		entries[i] = (struct nla_st_entry){ t->names.data[i], (enum nla_st_dtype)dtype, .ndim = nt_ndim(t->list[i]) };
		for (int j = 0; j < entries[i].ndim; j++)
			entries[i].shape[j] = nt_size(t->list[i], j);
	}
	if (!nla_st_writer_open(&w, path, entries, t->names.n, err)) {
		for (size_t i = 0; i < t->names.n && !err->status; i++)
			write_one(w, t->list[i], &entries[i], err);
		nla_st_writer_close(w, err);
	}
	return err->status;
}

nt_tensor *nla_tensor_borrow(const struct nla_st_entry *e)
{
	return nt_borrow(nla_dtype_of(e->dtype), e->data, e->ndim, e->shape);
}

enum nla_status nla_tensor_check(const struct nla_st *st, const struct nla_st_entry *e, struct nla_err *err)
{
	int64_t at = nla_st_not_finite(e);
	return at < 0 ? NLA_OK
		      : nla_fail(err, "cannot load '%s': tensor '%s' has a NaN or an infinity (element %lld)", st->path,
				 e->name, (long long)at);
}

static struct nla_st_entry rows_of(const struct nla_st_entry *e, int64_t from, int64_t to)
{
	const size_t row = e->nbytes / (size_t)NLA_MAX(e->shape[0], 1);
	struct nla_st_entry part = *e;
	part.shape[0] = to - from;
	part.data = (const char *)e->data + (size_t)from * row;
	part.nbytes = (size_t)(to - from) * row;
	return part;
}

struct scan {
	const struct nla_st_entry *e;
	atomic_bool found;
};

static void scan(int64_t from, int64_t to, void *arg)
{
	struct scan *s = arg;
	const struct nla_st_entry part = rows_of(s->e, from, to);
	if (nla_st_not_finite(&part) >= 0)
		s->found = true;
}

/* In pieces that are still in the threads' caches when they are copied. */
enum nla_status nla_tensor_fill(nt_tensor *to, const struct nla_st *st, const struct nla_st_entry *e, struct nla_err *err)
{
	int64_t rows = e->shape[0], step = PIECE * nt_threads() / NLA_MAX((int64_t)e->nbytes / NLA_MAX(rows, 1), 1) + 1;
	for (int64_t from = 0; from < rows && !err->status; from += step) {
		const struct nla_st_entry part = rows_of(e, from, NLA_MIN(from + step, rows));
		struct scan s = { &part, false };
		nt_scope_push();
		nt_parallel(part.shape[0], scan, &s);
		if (s.found)
			nla_tensor_check(st, e, err);
		else if (nt_copy_into(nt_narrow(to, 0, from, part.shape[0]), nla_tensor_borrow(&part)))
			nla_nt_fail(err, "cannot load tensor '%s'", e->name);
		nt_scope_pop();
	}
	return err->status;
}

nt_tensor *nla_tensor_read(const struct nla_st *st, const char *name, int64_t rows, int64_t cols, int device,
			   struct nla_err *err)
{
	int64_t shape[2] = { rows, cols };
	const struct nla_st_entry *e = nla_st_floats(st, name, 2, shape, err);
	if (!e || nla_tensor_check(st, e, err))
		return NULL;
	nt_scope_push();
	nt_tensor *t = nt_own(nt_to(nt_from_host(nla_dtype_of(e->dtype), device, e->data, 2, e->shape), NT_F32));
	nt_scope_pop();
	if (!t)
		nla_nt_fail(err, "cannot load '%s'", st->path);
	return t;
}
