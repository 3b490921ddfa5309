/*
 * tensors - named tensors to and from safetensors files, and the shim's errors as ours.
 *
 *	struct nla_tensors list = { 0 };
 *	nla_tensors_add(&list, "weight", head);               the name is copied, the tensor borrowed
 *	nla_tensors_write(&list, path, NT_F32, err);
 *	nla_tensors_release(&list);
 */
#pragma once

#include "base/safetensors.h"
#include "shim/nt.h"

struct nla_tensors {
	struct nla_strs names;
	nt_tensor **list; /* [names.n] */
};

void nla_tensors_add(struct nla_tensors *t, const char *name, nt_tensor *tensor);
void nla_tensors_release(struct nla_tensors *t);
/* In that type, in the order added; one tensor is copied to the host at a time. */
enum nla_status nla_tensors_write(const struct nla_tensors *t, const char *path, nt_dtype dtype, struct nla_err *err);

static inline nt_dtype nla_dtype_of(enum nla_st_dtype dtype) { return (nt_dtype)dtype; } /* both enums have one order */
/* The numbers of an entry where they are, in the file's type: scope-owned. */
nt_tensor *nla_tensor_borrow(const struct nla_st_entry *e);
/* NaN and infinities are an error that names the tensor. */
enum nla_status nla_tensor_check(const struct nla_st *st, const struct nla_st_entry *e, struct nla_err *err);
/* Checked and copied into `to`, of the entry's shape and any float type. */
enum nla_status nla_tensor_fill(nt_tensor *to, const struct nla_st *st, const struct nla_st_entry *e, struct nla_err *err);
/* A checked copy in fp32, owned; NULL with err set. */
nt_tensor *nla_tensor_read(const struct nla_st *st, const char *name, int64_t rows, int64_t cols, int device,
			   struct nla_err *err);

/* Turn the shim's error into ours, with context. */
enum nla_status nla_nt_fail(struct nla_err *err, const char *fmt, ...) NLA_PRINTF(2, 3);
