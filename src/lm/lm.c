#include "lm/lm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "base/safetensors.h"

const char *const nla_proj_names[NLA_N_PROJ] = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" };

/* Positions the rotary tables hold at most: no prompt here comes near. */
#define MAX_POSITIONS 32768

enum nla_status nla_nt_fail(struct nla_err *err, const char *fmt, ...)
{
	char what[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	nt_status status = nt_check();
	nla_fail(err, "%s: %s%s", what, status == NT_OUT_OF_MEMORY ? "out of memory, lower update.micro_batch or rollout.prompts: " : "",
		 nt_error());
	if (status == NT_OUT_OF_MEMORY)
		err->status = NLA_NOMEM;
	nt_clear();
	return err->status;
}

int64_t nla_proj_in(const struct nla_arch *a, enum nla_proj proj)
{
	return proj == NLA_O ? a->n_heads * a->head_dim : proj == NLA_DOWN ? a->d_ff : a->d_model;
}

int64_t nla_proj_out(const struct nla_arch *a, enum nla_proj proj)
{
	switch (proj) {
	case NLA_Q: return a->n_heads * a->head_dim;
	case NLA_K:
	case NLA_V: return a->n_kv_heads * a->head_dim;
	case NLA_GATE:
	case NLA_UP: return a->d_ff;
	default: return a->d_model;
	}
}

nt_tensor *nla_lm_proj(const struct nla_lm *lm, int64_t layer, enum nla_proj proj)
{
	const struct nla_arch *a = &lm->arch;
	const struct nla_block *b = &lm->blocks[layer];
	int64_t q = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim;
	switch (proj) {
	case NLA_Q: return nt_narrow(b->qkv, 0, 0, q);
	case NLA_K: return nt_narrow(b->qkv, 0, q, kv);
	case NLA_V: return nt_narrow(b->qkv, 0, q + kv, kv);
	case NLA_O: return nt_share(b->o);
	case NLA_GATE: return nt_narrow(b->gate_up, 0, 0, a->d_ff);
	case NLA_UP: return nt_narrow(b->gate_up, 0, a->d_ff, a->d_ff);
	default: return nt_share(b->down);
	}
}

/* ---- the list of tensors: one place says how a model is laid out, for loading, saving and random weights ---- */

struct slot {
	char name[96];     /* in Hugging Face's files */
	nt_tensor *whole;  /* the stored tensor; borrowed */
	int64_t row, rows; /* which of its rows; rows 0: all of it */
	bool is_norm;
};

typedef enum nla_status slot_fn(const struct slot *slot, void *arg, struct nla_err *err);

static enum nla_status visit(const char *name, nt_tensor *whole, int64_t row, int64_t rows, slot_fn *fn, void *arg, struct nla_err *err)
{
	struct slot s = { .whole = whole, .row = row, .rows = rows, .is_norm = nt_ndim(whole) == 1 };
	snprintf(s.name, sizeof(s.name), "%s", name);
	return fn(&s, arg, err);
}

static enum nla_status visit_block(const struct nla_lm *lm, int64_t l, slot_fn *fn, void *arg, struct nla_err *err)
{
	const struct nla_arch *a = &lm->arch;
	const struct nla_block *b = &lm->blocks[l];
	int64_t q = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim, f = a->d_ff;
	const struct {
		const char *name;
		nt_tensor *whole;
		int64_t row, rows;
	} parts[] = {
		{ "input_layernorm", b->attn_norm, 0, 0 },
		{ "self_attn.q_proj", b->qkv, 0, q },
		{ "self_attn.k_proj", b->qkv, q, kv },
		{ "self_attn.v_proj", b->qkv, q + kv, kv },
		{ "self_attn.q_norm", b->q_norm, 0, 0 },
		{ "self_attn.k_norm", b->k_norm, 0, 0 },
		{ "self_attn.o_proj", b->o, 0, 0 },
		{ "post_attention_layernorm", b->mlp_norm, 0, 0 },
		{ "mlp.gate_proj", b->gate_up, 0, f },
		{ "mlp.up_proj", b->gate_up, f, f },
		{ "mlp.down_proj", b->down, 0, 0 },
	};
	for (size_t i = 0; i < NLA_LEN(parts); i++) {
		char name[96];
		snprintf(name, sizeof(name), "model.layers.%lld.%s.weight", (long long)l, parts[i].name);
		if (parts[i].whole && visit(name, parts[i].whole, parts[i].row, parts[i].rows, fn, arg, err))
			return err->status;
	}
	return NLA_OK;
}

static enum nla_status visit_all(const struct nla_lm *lm, slot_fn *fn, void *arg, struct nla_err *err)
{
	if (visit("model.embed_tokens.weight", lm->embed, 0, 0, fn, arg, err))
		return err->status;
	for (int64_t l = 0; l < lm->arch.n_layers; l++)
		if (visit_block(lm, l, fn, arg, err))
			return err->status;
	if (visit("model.norm.weight", lm->norm, 0, 0, fn, arg, err))
		return err->status;
	return lm->arch.tied ? NLA_OK : visit("lm_head.weight", lm->head, 0, 0, fn, arg, err);
}

/* ---- memory for the tensors ---- */

static nt_tensor *empty(const struct nla_lm *lm, int64_t rows, int64_t cols)
{
	int64_t shape[2] = { rows, cols };
	return cols ? nt_own(nt_zeros(lm->dtype, lm->device, 2, shape)) : nt_own(nt_zeros(lm->dtype, lm->device, 1, shape));
}

static void make_tables(struct nla_lm *lm)
{
	int64_t n = NLA_MIN(lm->arch.max_position, MAX_POSITIONS), half = lm->arch.head_dim / 2;
	float *c = nla_alloc((size_t)(n * half), sizeof(float)), *s = nla_alloc((size_t)(n * half), sizeof(float));
	for (int64_t j = 0; j < half; j++) {
		/* inv_freq in fp32 and the angle as an fp32 product, as the reference has them */
		float inv = (float)(1.0 / pow(lm->arch.rope_theta, (double)(2 * j) / (double)lm->arch.head_dim));
		for (int64_t p = 0; p < n; p++) {
			float angle = (float)p * inv;
			c[p * half + j] = (float)cos(angle);
			s[p * half + j] = (float)sin(angle);
		}
	}
	int64_t shape[2] = { n, half };
	lm->cos = nt_own(nt_from_host(NT_F32, lm->device, c, 2, shape));
	lm->sin = nt_own(nt_from_host(NT_F32, lm->device, s, 2, shape));
	free(c);
	free(s);
}

static enum nla_status allocate(struct nla_lm *lm, struct nla_err *err)
{
	const struct nla_arch *a = &lm->arch;
	int64_t q = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim;
	lm->blocks = nla_alloc((size_t)a->n_layers, sizeof(*lm->blocks));
	lm->embed = empty(lm, a->vocab, a->d_model);
	lm->norm = empty(lm, a->d_model, 0);
	lm->head = a->tied ? nt_own(nt_share(lm->embed)) : empty(lm, a->vocab, a->d_model);
	make_tables(lm);
	for (int64_t l = 0; l < a->n_layers; l++) {
		struct nla_block *b = &lm->blocks[l];
		b->attn_norm = empty(lm, a->d_model, 0);
		b->qkv = empty(lm, q + 2 * kv, a->d_model);
		b->q_norm = a->qk_norm ? empty(lm, a->head_dim, 0) : NULL;
		b->k_norm = a->qk_norm ? empty(lm, a->head_dim, 0) : NULL;
		b->o = empty(lm, a->d_model, q);
		b->mlp_norm = empty(lm, a->d_model, 0);
		b->gate_up = empty(lm, 2 * a->d_ff, a->d_model);
		b->down = empty(lm, a->d_model, a->d_ff);
	}
	return nt_check() ? nla_nt_fail(err, "cannot allocate the model") : NLA_OK;
}

static enum nla_status start(struct nla_lm *lm, const char *folder, int device, nt_dtype dtype, struct nla_err *err)
{
	memset(lm, 0, sizeof(*lm));
	lm->device = device;
	lm->dtype = dtype;
	return nla_arch_read(&lm->arch, folder, err) || allocate(lm, err) ? err->status : NLA_OK;
}

/* ---- loading ---- */

struct loading {
	struct nla_st st;
	size_t n_used;
};

static nt_dtype dtype_of(enum nla_st_dtype dtype)
{
	return dtype == NLA_ST_BF16 ? NT_BF16 : dtype == NLA_ST_F16 ? NT_F16 : NT_F32;
}

static enum nla_status load_slot(const struct slot *s, void *arg, struct nla_err *err)
{
	struct loading *in = arg;
	const struct nla_st_entry *e = nla_st_find(&in->st, s->name);
	if (!e)
		return nla_fail(err, "cannot load '%s': tensor '%s' is missing", in->st.path, s->name);
	int64_t rows = s->rows ? s->rows : nt_size(s->whole, 0);
	bool fits = e->ndim == nt_ndim(s->whole) && e->shape[0] == rows && (e->ndim == 1 || e->shape[1] == nt_size(s->whole, 1));
	if (!fits) {
		int64_t want[2] = { rows, s->is_norm ? 0 : nt_size(s->whole, 1) };
		char *have_text = nla_st_shape_text(e->shape, e->ndim), *want_text = nla_st_shape_text(want, s->is_norm ? 1 : 2);
		nla_fail(err, "cannot load '%s': tensor '%s' has shape %s, want %s", in->st.path, s->name, have_text, want_text);
		free(have_text);
		free(want_text);
		return err->status;
	}
	if (e->dtype > NLA_ST_F16)
		return nla_fail(err, "cannot load '%s': tensor '%s' has type %s, want F32, BF16 or F16", in->st.path, s->name,
				nla_st_dtype_name(e->dtype));
	in->n_used++;
	nt_scope_push();
	nt_copy_into(nt_narrow(s->whole, 0, s->row, rows), nt_from_host(dtype_of(e->dtype), NT_CPU, e->data, e->ndim, e->shape));
	nt_scope_pop();
	return nt_check() ? nla_nt_fail(err, "cannot load tensor '%s'", s->name) : NLA_OK;
}

static enum nla_status refuse_extra(const struct nla_lm *lm, const struct loading *in, struct nla_err *err)
{
	if (in->n_used == in->st.n_entries)
		return NLA_OK;
	for (size_t i = 0; i < in->st.n_entries; i++) {
		const char *name = in->st.entries[i].name;
		long long layer;
		if (nla_ends_with(name, "rotary_emb.inv_freq") || (lm->arch.tied && !strcmp(name, "lm_head.weight")))
			continue;
		if (sscanf(name, "model.layers.%lld.", &layer) == 1 && layer >= lm->arch.n_layers)
			return nla_fail(err, "cannot load '%s': tensor '%s' belongs to no layer, config.json has %lld", in->st.path, name,
					(long long)lm->arch.n_layers);
		if (nla_ends_with(name, ".bias"))
			return nla_fail(err, "cannot load '%s': tensor '%s' is not part of family %s", in->st.path, name,
					lm->arch.family);
	}
	return NLA_OK;
}

enum nla_status nla_lm_load(struct nla_lm *lm, const char *folder, int device, nt_dtype dtype, struct nla_err *err)
{
	struct loading in = { .n_used = 0 };
	enum nla_status status = start(lm, folder, device, dtype, err);
	if (!status && !(status = nla_st_open_folder(&in.st, folder, "model", err))) {
		status = visit_all(lm, load_slot, &in, err);
		if (!status)
			status = refuse_extra(lm, &in, err);
		nla_st_close(&in.st);
	}
	if (status)
		nla_lm_release(lm);
	return status;
}

/* ---- random weights ---- */

struct randomness {
	struct nla_rng rng;
	double std;
	uint32_t tensor;
};

static enum nla_status init_slot(const struct slot *s, void *arg, struct nla_err *err)
{
	struct randomness *r = arg;
	int64_t rows = s->rows ? s->rows : nt_size(s->whole, 0), cols = s->is_norm ? 1 : nt_size(s->whole, 1);
	float *x = nla_alloc((size_t)(rows * cols), sizeof(float));
	for (int64_t i = 0; i < rows * cols; i++)
		x[i] = s->is_norm ? 1.0f : (float)r->std * nla_normal(&r->rng, r->tensor, (uint32_t)(i / cols), (uint32_t)(i % cols));
	r->tensor++;
	int64_t shape[2] = { rows, cols };
	nt_scope_push();
	nt_copy_into(nt_narrow(s->whole, 0, s->row, rows), nt_from_host(NT_F32, NT_CPU, x, s->is_norm ? 1 : 2, shape));
	nt_scope_pop();
	free(x);
	return nt_check() ? nla_nt_fail(err, "cannot initialise '%s'", s->name) : NLA_OK;
}

enum nla_status nla_lm_init(struct nla_lm *lm, const char *folder, uint64_t seed, int device, nt_dtype dtype, struct nla_err *err)
{
	enum nla_status status = start(lm, folder, device, dtype, err);
	struct randomness r = { .rng = { seed, NLA_STREAM_INIT }, .std = lm->arch.init_std };
	if (!status)
		status = visit_all(lm, init_slot, &r, err);
	if (status)
		nla_lm_release(lm);
	return status;
}

/* ---- saving ---- */

struct saving {
	struct nla_st_entry *entries;
	size_t n;
	nt_dtype dtype;
};

static enum nla_status save_slot(const struct slot *s, void *arg, struct nla_err *err)
{
	struct saving *out = arg;
	int64_t rows = s->rows ? s->rows : nt_size(s->whole, 0);
	out->entries = nla_realloc(out->entries, out->n + 1, sizeof(*out->entries));
	struct nla_st_entry *e = &out->entries[out->n++];
	*e = (struct nla_st_entry){ .name = nla_strdup(s->name), .dtype = out->dtype == NT_BF16 ? NLA_ST_BF16 : NLA_ST_F32,
				    .ndim = s->is_norm ? 1 : 2, .shape = { rows, s->is_norm ? 0 : nt_size(s->whole, 1) } };
	e->nbytes = (size_t)(rows * (s->is_norm ? 1 : e->shape[1])) * nla_st_dtype_size(e->dtype);
	void *bytes = nla_alloc(e->nbytes, 1);
	e->data = bytes;
	nt_scope_push();
	nt_to_host_raw(nt_to(nt_narrow(s->whole, 0, s->row, rows), out->dtype), bytes, e->nbytes);
	nt_scope_pop();
	return nt_check() ? nla_nt_fail(err, "cannot save '%s'", s->name) : NLA_OK;
}

enum nla_status nla_lm_save(const struct nla_lm *lm, const char *folder, nt_dtype dtype, struct nla_err *err)
{
	struct saving out = { .dtype = dtype };
	char *path = nla_path_join(folder, "model.safetensors");
	enum nla_status status = visit_all(lm, save_slot, &out, err);
	if (!status)
		status = nla_st_write(path, out.entries, out.n, err);
	for (size_t i = 0; i < out.n; i++) {
		free(out.entries[i].name);
		free((void *)(uintptr_t)out.entries[i].data);
	}
	free(out.entries);
	free(path);
	return status;
}

/* ---- the rest ---- */

static nt_tensor *again(const nt_tensor *t) { return t ? nt_own(nt_share(t)) : NULL; }
static nt_tensor *copy(const nt_tensor *t) { return nt_own(nt_clone(t)); }

enum nla_status nla_lm_fork(struct nla_lm *lm, const struct nla_lm *from, struct nla_err *err)
{
	*lm = *from;
	lm->embed = again(from->embed);
	lm->norm = again(from->norm);
	lm->head = again(from->head);
	lm->cos = again(from->cos);
	lm->sin = again(from->sin);
	lm->blocks = nla_alloc((size_t)lm->arch.n_layers, sizeof(*lm->blocks));
	for (int64_t l = 0; l < lm->arch.n_layers; l++) {
		const struct nla_block *b = &from->blocks[l];
		lm->blocks[l] = (struct nla_block){ again(b->attn_norm), copy(b->qkv), again(b->q_norm), again(b->k_norm),
						    copy(b->o), again(b->mlp_norm), copy(b->gate_up), copy(b->down) };
	}
	return nt_check() ? nla_nt_fail(err, "cannot copy the model's projections") : NLA_OK;
}

int nla_lm_params(const struct nla_lm *lm, nt_tensor **list)
{
	int n = 0;
	nt_tensor *top[] = { lm->embed, lm->norm, lm->arch.tied ? NULL : lm->head };
	for (size_t i = 0; i < NLA_LEN(top); i++)
		if (top[i] && n++ >= 0 && list)
			list[n - 1] = top[i];
	for (int64_t l = 0; l < lm->arch.n_layers; l++) {
		const struct nla_block *b = &lm->blocks[l];
		nt_tensor *all[] = { b->attn_norm, b->qkv, b->q_norm, b->k_norm, b->o, b->mlp_norm, b->gate_up, b->down };
		for (size_t i = 0; i < NLA_LEN(all); i++)
			if (all[i] && n++ >= 0 && list)
				list[n - 1] = all[i];
	}
	return n;
}

void nla_lm_release(struct nla_lm *lm)
{
	for (int64_t l = 0; lm->blocks && l < lm->arch.n_layers; l++) {
		struct nla_block *b = &lm->blocks[l];
		nt_tensor *all[] = { b->attn_norm, b->qkv, b->q_norm, b->k_norm, b->o, b->mlp_norm, b->gate_up, b->down };
		for (size_t i = 0; i < NLA_LEN(all); i++)
			nt_free(all[i]);
	}
	nt_tensor *top[] = { lm->embed, lm->norm, lm->head, lm->cos, lm->sin };
	for (size_t i = 0; i < NLA_LEN(top); i++)
		nt_free(top[i]);
	free(lm->blocks);
	memset(lm, 0, sizeof(*lm));
}
