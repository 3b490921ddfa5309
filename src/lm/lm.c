#include "lm/lm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "base/machine.h"
#include "base/safetensors.h"

const char *const nla_proj_names[NLA_N_PROJ] = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" };

enum nla_status nla_nt_fail(struct nla_err *err, const char *fmt, ...)
{
	char what[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	nt_status status = nt_check();
	nla_fail(err, "%s: %s%s", what, status == NT_OUT_OF_MEMORY ? "out of memory, lower the program's batch (rollout.prompts, update.micro_batch, "
		 "eval.batch, sft.batch or teach.batch): " : "", nt_error());
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
	if (lm->mapped && proj != NLA_O && proj != NLA_DOWN)
		return nt_share(proj <= NLA_V ? b->qkv[proj - NLA_Q] : b->gate_up[proj - NLA_GATE]);
	switch (proj) {
	case NLA_Q: return nt_narrow(b->qkv[0], 0, 0, q);
	case NLA_K: return nt_narrow(b->qkv[0], 0, q, kv);
	case NLA_V: return nt_narrow(b->qkv[0], 0, q + kv, kv);
	case NLA_O: return nt_share(b->o);
	case NLA_GATE: return nt_narrow(b->gate_up[0], 0, 0, a->d_ff);
	case NLA_UP: return nt_narrow(b->gate_up[0], 0, a->d_ff, a->d_ff);
	default: return nt_share(b->down);
	}
}

/* ---- the list of tensors: one place says how a model is laid out, for loading, saving and random weights ---- */

enum kind { MATRIX, NORM, BIAS };

struct slot {
	char name[96];     /* in Hugging Face's files */
	nt_tensor **whole; /* the stored tensor */
	int64_t row;       /* where in its rows the slot begins */
	int64_t shape[2];  /* of the slot; NORM, BIAS: [0] alone */
	enum kind kind;
};

typedef enum nla_status slot_fn(const struct slot *slot, void *arg, struct nla_err *err);

static int slot_ndim(const struct slot *s) { return s->kind == MATRIX ? 2 : 1; }
static int64_t slot_numel(const struct slot *s) { return s->shape[0] * (s->kind == MATRIX ? s->shape[1] : 1); }
/* Its part of the stored tensor: scope-owned. */
static nt_tensor *slot_view(const struct slot *s) { return nt_narrow(*s->whole, 0, s->row, s->shape[0]); }

static enum nla_status visit_block(struct nla_lm *lm, int64_t l, slot_fn *fn, void *arg, struct nla_err *err)
{
	const struct nla_arch *a = &lm->arch;
	struct nla_block *b = &lm->blocks[l];
	int64_t d = a->d_model, q = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim, f = a->d_ff;
	bool apart = lm->mapped;
	const struct slot parts[] = {
		{ "input_layernorm.weight", &b->attn_norm, 0, { d }, NORM },
		{ "self_attn.q_proj.weight", &b->qkv[0], 0, { q, d }, MATRIX },
		{ "self_attn.k_proj.weight", &b->qkv[apart ? 1 : 0], apart ? 0 : q, { kv, d }, MATRIX },
		{ "self_attn.v_proj.weight", &b->qkv[apart ? 2 : 0], apart ? 0 : q + kv, { kv, d }, MATRIX },
		{ "self_attn.q_proj.bias", a->qkv_bias ? &b->qkv_bias : NULL, 0, { q }, BIAS },
		{ "self_attn.k_proj.bias", a->qkv_bias ? &b->qkv_bias : NULL, q, { kv }, BIAS },
		{ "self_attn.v_proj.bias", a->qkv_bias ? &b->qkv_bias : NULL, q + kv, { kv }, BIAS },
		{ "self_attn.q_norm.weight", a->qk_norm ? &b->q_norm : NULL, 0, { a->head_dim }, NORM },
		{ "self_attn.k_norm.weight", a->qk_norm ? &b->k_norm : NULL, 0, { a->head_dim }, NORM },
		{ "self_attn.o_proj.weight", &b->o, 0, { d, q }, MATRIX },
		{ "post_attention_layernorm.weight", &b->mlp_norm, 0, { d }, NORM },
		{ "mlp.gate_proj.weight", &b->gate_up[0], 0, { f, d }, MATRIX },
		{ "mlp.up_proj.weight", &b->gate_up[apart ? 1 : 0], apart ? 0 : f, { f, d }, MATRIX },
		{ "mlp.down_proj.weight", &b->down, 0, { d, f }, MATRIX },
	};
	for (size_t i = 0; i < NLA_LEN(parts); i++) {
		struct slot s = parts[i];
		snprintf(s.name, sizeof(s.name), "model.layers.%lld.%.60s", (long long)l, parts[i].name);
		if (s.whole && fn(&s, arg, err))
			return err->status;
	}
	return NLA_OK;
}

static enum nla_status visit_all(struct nla_lm *lm, slot_fn *fn, void *arg, struct nla_err *err)
{
	const struct nla_arch *a = &lm->arch;
	const struct slot embed = { "model.embed_tokens.weight", &lm->embed, 0, { a->vocab, a->d_model }, MATRIX };
	const struct slot norm = { "model.norm.weight", &lm->norm, 0, { a->d_model }, NORM };
	const struct slot head = { "lm_head.weight", &lm->head, 0, { a->vocab, a->d_model }, MATRIX };
	if (fn(&embed, arg, err))
		return err->status;
	for (int64_t l = 0; l < a->n_layers; l++)
		if (visit_block(lm, l, fn, arg, err))
			return err->status;
	return fn(&norm, arg, err) || (!a->tied && fn(&head, arg, err)) ? err->status : NLA_OK;
}

/* ---- memory for the tensors ---- */

static nt_tensor *empty(const struct nla_lm *lm, int64_t rows, int64_t cols)
{
	int64_t shape[2] = { rows, cols };
	return nt_own(nt_zeros(lm->dtype, lm->device, cols ? 2 : 1, shape));
}

/* Llama 3.1's stretched waves: those much shorter than what the model was trained on stay, those much longer are slowed by the
 * factor, and between the two it goes over linearly (in the frequency; all in fp32, as the reference has it). */
static float stretch(const struct nla_arch *a, float inv)
{
	float wave = 6.283185307179586f / inv, original = (float)a->rope_original;
	float low = original / (float)a->rope_low, high = original / (float)a->rope_high;
	if (!a->rope_llama3 || wave < high)
		return inv;
	if (wave > low)
		return inv / (float)a->rope_factor;
	float smooth = (original / wave - (float)a->rope_low) / (float)(a->rope_high - a->rope_low);
	return (1 - smooth) * inv / (float)a->rope_factor + smooth * inv;
}

static void make_tables(struct nla_lm *lm)
{
	int64_t n = NLA_MIN(lm->arch.max_position, NLA_MAX_POSITIONS), half = lm->arch.head_dim / 2;
	float *c = nla_alloc((size_t)(n * half), sizeof(float)), *s = nla_alloc((size_t)(n * half), sizeof(float));
	for (int64_t j = 0; j < half; j++) {
		/* inv_freq in fp32 and the angle as an fp32 product, as the reference has them */
		float inv = stretch(&lm->arch, (float)(1.0 / pow(lm->arch.rope_theta, (double)(2 * j) / (double)lm->arch.head_dim)));
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

/* Tables, and zeros for every tensor; matrices of a mapped model come from its file. */
static enum nla_status allocate(struct nla_lm *lm, struct nla_err *err)
{
	const struct nla_arch *a = &lm->arch;
	int64_t q = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim;
	lm->blocks = nla_alloc((size_t)a->n_layers, sizeof(*lm->blocks));
	lm->norm = empty(lm, a->d_model, 0);
	make_tables(lm);
	for (int64_t l = 0; l < a->n_layers; l++) {
		struct nla_block *b = &lm->blocks[l];
		b->attn_norm = empty(lm, a->d_model, 0);
		b->mlp_norm = empty(lm, a->d_model, 0);
		b->q_norm = a->qk_norm ? empty(lm, a->head_dim, 0) : NULL;
		b->k_norm = a->qk_norm ? empty(lm, a->head_dim, 0) : NULL;
		b->qkv_bias = a->qkv_bias ? empty(lm, q + 2 * kv, 0) : NULL;
		if (lm->mapped)
			continue;
		b->qkv[0] = empty(lm, q + 2 * kv, a->d_model);
		b->o = empty(lm, a->d_model, q);
		b->gate_up[0] = empty(lm, 2 * a->d_ff, a->d_model);
		b->down = empty(lm, a->d_model, a->d_ff);
	}
	if (!lm->mapped) {
		lm->embed = empty(lm, a->vocab, a->d_model);
		lm->head = a->tied ? nt_own(nt_share(lm->embed)) : empty(lm, a->vocab, a->d_model);
	}
	return nt_check() ? nla_nt_fail(err, "cannot allocate the model") : NLA_OK;
}

static enum nla_status start(struct nla_lm *lm, const char *folder, const struct nla_lm_part *part, int device, nt_dtype dtype,
			     struct nla_err *err)
{
	memset(lm, 0, sizeof(*lm));
	lm->device = device;
	lm->dtype = dtype;
	if (nla_arch_read(&lm->arch, folder, err))
		return err->status;
	if (part && part->depth > lm->arch.n_layers)
		return nla_fail(err, "cannot load '%s': it has %lld blocks, want %lld", folder, (long long)lm->arch.n_layers,
				(long long)part->depth);
	if (part) {
		lm->arch.n_layers = part->depth;
		lm->arch.tied = true;
	}
	return NLA_OK;
}

/* ---- loading ---- */

struct loading {
	struct nla_st st;
	nt_dtype dtype;
	bool map, *used; /* [entries] */
	const struct nla_lm_part *part; /* NULL: the whole model */
};

static nt_dtype dtype_of(enum nla_st_dtype dtype)
{
	return dtype == NLA_ST_BF16 ? NT_BF16 : dtype == NLA_ST_F16 ? NT_F16 : NT_F32;
}

static enum nla_status check_entry(const struct loading *in, const struct slot *s, const struct nla_st_entry *e, struct nla_err *err)
{
	if (!e)
		return nla_fail(err, "cannot load '%s': tensor '%s' is missing", in->st.path, s->name);
	if (e->ndim != slot_ndim(s) || memcmp(e->shape, s->shape, (size_t)e->ndim * sizeof(*e->shape))) {
		char *have = nla_st_shape_text(e->shape, e->ndim), *want = nla_st_shape_text(s->shape, slot_ndim(s));
		nla_fail(err, "cannot load '%s': tensor '%s' has shape %s, want %s", in->st.path, s->name, have, want);
		free(have);
		free(want);
		return err->status;
	}
	if (e->dtype > NLA_ST_F16)
		return nla_fail(err, "cannot load '%s': tensor '%s' has type %s, want F32, BF16 or F16", in->st.path, s->name,
				nla_st_dtype_name(e->dtype));
	return NLA_OK;
}

static enum nla_status load_slot(const struct slot *s, void *arg, struct nla_err *err)
{
	struct loading *in = arg;
	const struct nla_st_entry *e = nla_st_find(&in->st, s->name);
	if (in->part && !in->part->norm && !strcmp(s->name, "model.norm.weight"))
		return NLA_OK;
	if (check_entry(in, s, e, err))
		return err->status;
	in->used[e - in->st.entries] = true;
	if (in->map && s->kind == MATRIX) {
		if (dtype_of(e->dtype) != in->dtype || (uintptr_t)e->data % nla_st_dtype_size(e->dtype))
			return nla_fail(err, "cannot map '%s': tensor '%s' has type %s, or is not aligned: it would have to be copied",
					in->st.path, s->name, nla_st_dtype_name(e->dtype));
		*s->whole = nt_own(nt_borrow(in->dtype, e->data, 2, e->shape));
	} else {
		nt_scope_push();
		nt_copy_into(slot_view(s), nt_borrow(dtype_of(e->dtype), e->data, e->ndim, e->shape));
		nt_scope_pop();
	}
	return nt_check() ? nla_nt_fail(err, "cannot load tensor '%s'", s->name) : NLA_OK;
}

/* The head of a tied model may be in its file a second time; another one would be what transformers computes with. */
static bool is_embedding(const struct nla_st *st, const struct nla_st_entry *head)
{
	const struct nla_st_entry *embed = nla_st_find(st, "model.embed_tokens.weight");
	return embed && embed->dtype == head->dtype && embed->nbytes == head->nbytes && !memcmp(embed->data, head->data, head->nbytes);
}

static enum nla_status refuse_extra(const struct nla_lm *lm, const struct loading *in, struct nla_err *err)
{
	if (in->part)
		return NLA_OK;
	for (size_t i = 0; i < in->st.n_entries; i++) {
		const char *name = in->st.entries[i].name;
		long long layer;
		if (in->used[i] || nla_ends_with(name, "rotary_emb.inv_freq"))
			continue;
		if (lm->arch.tied && !strcmp(name, "lm_head.weight")) {
			if (is_embedding(&in->st, &in->st.entries[i]))
				continue;
			return nla_fail(err, "cannot load '%s': 'tie_word_embeddings' is true, but '%s' is not the embedding", in->st.path, name);
		}
		if (sscanf(name, "model.layers.%lld.", &layer) == 1 && layer >= lm->arch.n_layers)
			return nla_fail(err, "cannot load '%s': tensor '%s' belongs to no layer, config.json has %lld", in->st.path, name,
					(long long)lm->arch.n_layers);
		return nla_fail(err, "cannot load '%s': tensor '%s' is not part of family %s", in->st.path, name, lm->arch.family);
	}
	return NLA_OK;
}

/* Can every matrix stay where it is in the file? */
static bool can_map(const struct nla_lm *lm, const struct nla_st *st)
{
	bool same = lm->device == NT_CPU;
	for (size_t i = 0; i < st->n_entries && same; i++)
		same = st->entries[i].ndim != 2 || (dtype_of(st->entries[i].dtype) == lm->dtype && st->entries[i].dtype <= NLA_ST_F16 &&
						    (uintptr_t)st->entries[i].data % nla_st_dtype_size(st->entries[i].dtype) == 0);
	return same;
}

static bool is_large(const struct nla_lm *lm)
{
	int64_t free_bytes, total, peak, bytes = nla_arch_n_params(&lm->arch) * (lm->dtype == NT_F32 ? 4 : 2);
	struct nla_machine machine;
	if (nt_memory(lm->device, &free_bytes, &total, &peak))
		return false;
	nla_machine_read(&machine, "");
	return bytes > (lm->device == NT_CPU ? NLA_MIN(total, machine.memory) : total) / 4;
}

static enum nla_status load_tensors(struct nla_lm *lm, struct loading *in, struct nla_err *err)
{
	in->map = lm->mapped;
	in->dtype = lm->dtype;
	in->used = nla_alloc(in->st.n_entries, sizeof(*in->used));
	if (!allocate(lm, err) && !visit_all(lm, load_slot, in, err) && !refuse_extra(lm, in, err) && lm->mapped && lm->arch.tied)
		lm->head = nt_own(nt_share(lm->embed));
	free(in->used);
	return err->status;
}

static enum nla_status load(struct nla_lm *lm, const char *folder, const struct nla_lm_part *part, int device, nt_dtype dtype,
			    enum nla_lm_how how, struct nla_err *err)
{
	struct loading in = { .part = part };
	if (start(lm, folder, part, device, dtype, err) || nla_st_open_folder(&in.st, folder, "model", err))
		return err->status;
	lm->mapped = how == NLA_LM_MAP || (how == NLA_LM_AUTO && is_large(lm) && can_map(lm, &in.st));
	load_tensors(lm, &in, err);
	if (lm->mapped)
		lm->map = in.st;
	else
		nla_st_close(&in.st);
	if (err->status)
		nla_lm_release(lm);
	return err->status;
}

enum nla_status nla_lm_load(struct nla_lm *lm, const char *folder, int device, nt_dtype dtype, enum nla_lm_how how, struct nla_err *err)
{
	return load(lm, folder, NULL, device, dtype, how, err);
}

enum nla_status nla_lm_load_part(struct nla_lm *lm, const char *folder, const struct nla_lm_part *part, int device, nt_dtype dtype,
				 struct nla_err *err)
{
	return load(lm, folder, part, device, dtype, NLA_LM_AUTO, err);
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
	int64_t n = slot_numel(s), cols = s->kind == MATRIX ? s->shape[1] : 1;
	float *x = nla_alloc((size_t)n, sizeof(float));
	for (int64_t i = 0; i < n && s->kind != BIAS; i++)
		x[i] = s->kind == NORM ? 1.0f : (float)r->std * nla_normal(&r->rng, r->tensor, (uint32_t)(i / cols), (uint32_t)(i % cols));
	r->tensor++;
	nt_scope_push();
	nt_copy_into(slot_view(s), nt_borrow(NT_F32, x, slot_ndim(s), s->shape));
	nt_scope_pop();
	free(x);
	return nt_check() ? nla_nt_fail(err, "cannot initialise '%s'", s->name) : NLA_OK;
}

enum nla_status nla_lm_init(struct nla_lm *lm, const char *folder, uint64_t seed, int device, nt_dtype dtype, struct nla_err *err)
{
	if (start(lm, folder, NULL, device, dtype, err))
		return err->status;
	struct randomness r = { .rng = { seed, NLA_STREAM_INIT }, .std = lm->arch.init_std };
	if (allocate(lm, err) || visit_all(lm, init_slot, &r, err))
		nla_lm_release(lm);
	return err->status;
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
	out->entries = nla_realloc(out->entries, out->n + 1, sizeof(*out->entries));
	struct nla_st_entry *e = &out->entries[out->n++];
	*e = (struct nla_st_entry){ .name = nla_strdup(s->name), .dtype = out->dtype == NT_BF16 ? NLA_ST_BF16 : NLA_ST_F32,
				    .ndim = slot_ndim(s), .shape = { s->shape[0], s->shape[1] } };
	e->nbytes = (size_t)slot_numel(s) * nla_st_dtype_size(e->dtype);
	void *bytes = nla_alloc(e->nbytes, 1);
	e->data = bytes;
	nt_scope_push();
	nt_to_host_raw(nt_to(slot_view(s), out->dtype), bytes, e->nbytes);
	nt_scope_pop();
	return nt_check() ? nla_nt_fail(err, "cannot save '%s'", s->name) : NLA_OK;
}

enum nla_status nla_lm_save(const struct nla_lm *lm, const char *folder, nt_dtype dtype, struct nla_err *err)
{
	struct saving out = { .dtype = dtype };
	struct nla_lm read_only = *lm;
	char *path = nla_path_join(folder, "model.safetensors");
	enum nla_status status = visit_all(&read_only, save_slot, &out, err);
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

/* The tensors of a block in a fixed order; what the block does not have is NULL. */
enum { BLOCK_TENSORS = 12 };
static void block_tensors(const struct nla_block *b, nt_tensor **list)
{
	nt_tensor *all[BLOCK_TENSORS] = { b->attn_norm, b->qkv[0], b->qkv[1], b->qkv[2], b->qkv_bias, b->q_norm, b->k_norm, b->o,
					  b->mlp_norm, b->gate_up[0], b->gate_up[1], b->down };
	memcpy(list, all, sizeof(all));
}

enum nla_status nla_lm_fork(struct nla_lm *lm, const struct nla_lm *from, struct nla_err *err)
{
	struct nla_lm copy = { .arch = from->arch, .device = from->device, .dtype = from->dtype };
	*lm = copy;
	lm->embed = again(from->embed);
	lm->norm = again(from->norm);
	lm->head = again(from->head);
	lm->cos = again(from->cos);
	lm->sin = again(from->sin);
	lm->blocks = nla_alloc((size_t)lm->arch.n_layers, sizeof(*lm->blocks));
	for (int64_t l = 0; l < lm->arch.n_layers; l++) {
		const struct nla_block *b = &from->blocks[l];
		struct nla_block *to = &lm->blocks[l];
		*to = (struct nla_block){ .attn_norm = again(b->attn_norm), .qkv_bias = again(b->qkv_bias), .q_norm = again(b->q_norm),
					  .k_norm = again(b->k_norm), .mlp_norm = again(b->mlp_norm), .o = nt_own(nt_clone(b->o)),
					  .down = nt_own(nt_clone(b->down)) };
		nt_scope_push();
		to->qkv[0] = nt_own(from->mapped ? nt_cat(b->qkv, 3, 0) : nt_clone(b->qkv[0]));
		to->gate_up[0] = nt_own(from->mapped ? nt_cat(b->gate_up, 2, 0) : nt_clone(b->gate_up[0]));
		nt_scope_pop();
	}
	if (nt_check()) {
		nla_nt_fail(err, "cannot copy the model's projections");
		nla_lm_release(lm);
	}
	return err->status;
}

int nla_lm_params(const struct nla_lm *lm, nt_tensor **list)
{
	int n = 0;
	nt_tensor *top[] = { lm->embed, lm->norm, lm->arch.tied ? NULL : lm->head };
	for (size_t i = 0; i < NLA_LEN(top); i++)
		if (top[i] && n++ >= 0 && list)
			list[n - 1] = top[i];
	for (int64_t l = 0; l < lm->arch.n_layers; l++) {
		nt_tensor *all[BLOCK_TENSORS];
		block_tensors(&lm->blocks[l], all);
		for (size_t i = 0; i < NLA_LEN(all); i++)
			if (all[i] && n++ >= 0 && list)
				list[n - 1] = all[i];
	}
	return n;
}

void nla_lm_release(struct nla_lm *lm)
{
	for (int64_t l = 0; lm->blocks && l < lm->arch.n_layers; l++) {
		nt_tensor *all[BLOCK_TENSORS];
		block_tensors(&lm->blocks[l], all);
		for (size_t i = 0; i < NLA_LEN(all); i++)
			nt_free(all[i]);
	}
	nt_tensor *top[] = { lm->embed, lm->norm, lm->head, lm->cos, lm->sin };
	for (size_t i = 0; i < NLA_LEN(top); i++)
		nt_free(top[i]);
	free(lm->blocks);
	if (lm->mapped)
		nla_st_close(&lm->map);
	memset(lm, 0, sizeof(*lm));
}
