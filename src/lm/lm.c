/*
 * lm - loading, making, saving, copying and listing weights; see lm.h. Each is what is done at every slot of the layout (layout.c): the first
 * slot of a stored tensor makes it, and every slot fills its rows.
 */
#include "lm/lm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/machine.h"
#include "base/rng.h"

/* Where the handle of the stored tensor is. */
static nt_tensor **handle(const struct nla_lm *lm, const struct nla_slot *s)
{
	const char *base = s->layer < 0 ? (const char *)lm : (const char *)&lm->blocks[s->layer];
	return (nt_tensor **)(uintptr_t)(base + s->at);
}

/* The slot's part of the stored tensor: scope-owned. */
static nt_tensor *view_of(const struct nla_lm *lm, const struct nla_slot *s)
{
	return nt_narrow(*handle(lm, s), 0, s->row, s->shape[0]);
}

nt_tensor *nla_lm_proj(const struct nla_lm *lm, int64_t layer, enum nla_proj proj)
{
	struct nla_slot s;
	nla_proj_slot(lm, layer, proj, &s);
	return view_of(lm, &s);
}

/* ---- making ---- */

/* Llama 3.1's stretched waves: those much shorter than what the model was trained on stay, those much longer are slowed by the
 * factor, and between the two it is interpolated linearly (in the frequency; all in fp32, as the reference has it). */
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
	int64_t n = NLA_MIN(lm->arch.max_position, NLA_MAX_POSITIONS), half = lm->arch.head_dim / 2, shape[2] = { n, half };
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
	lm->cos = nt_own(nt_from_host(NT_F32, lm->device, c, 2, shape));
	lm->sin = nt_own(nt_from_host(NT_F32, lm->device, s, 2, shape));
	free(c);
	free(s);
}

enum nla_status nla_lm_describe(struct nla_lm *lm, const char *folder, const struct nla_lm_part *part, struct nla_err *err)
{
	*lm = (struct nla_lm){ .device = NT_CPU };
	if (nla_arch_read(&lm->arch, folder, err) || !part)
		return err->status;
	if (part->depth > lm->arch.n_layers)
		return nla_fail(err, "cannot load '%s': it has %lld blocks, want %lld", folder, (long long)lm->arch.n_layers,
				(long long)part->depth);
	lm->arch.n_layers = part->depth;
	lm->arch.tied = lm->arch.cut = true;
	lm->arch.bare = !part->norm;
	return NLA_OK;
}

/* What fills the slots of a model: a file, random numbers or another model. */
struct source {
	struct nla_lm *lm;
	const struct nla_st *st;
	struct nla_rng rng;
	uint32_t tensor; /* of the random numbers */
	const struct nla_lm *from;
	unsigned targets; /* whose matrices are copied of it */
};

/* All slots, then what is not in one. Whatever fails releases the model. */
static enum nla_status make(struct source *src, nla_slot_fn *fill, const char *what, struct nla_err *err)
{
	struct nla_lm *lm = src->lm;
	lm->blocks = nla_alloc((size_t)lm->arch.n_layers, sizeof(*lm->blocks));
	if (!src->from)
		make_tables(lm);
	if (!nla_lm_each(lm, fill, src, err) && lm->arch.tied)
		lm->head = nt_own(nt_share(lm->embed));
	if (!err->status && nt_check())
		nla_nt_fail(err, "cannot %s", what);
	if (err->status)
		nla_lm_release(lm);
	return err->status;
}

/* The slot's view, whose stored tensor is made at its first. */
static nt_tensor *room(const struct source *src, const struct nla_slot *s)
{
	nt_tensor **whole = handle(src->lm, s);
	if (!*whole)
		*whole = nt_own(nt_zeros(src->lm->dtype, src->lm->device, s->ndim, (int64_t[]){ s->rows, s->shape[1] }));
	return view_of(src->lm, s);
}

/* ---- loading ---- */

static enum nla_status load_slot(const struct nla_slot *s, void *arg, struct nla_err *err)
{
	const struct source *src = arg;
	const struct nla_st_entry *e = nla_st_find(src->st, s->name);
	bool alone = s->rows == s->shape[0] && nla_dtype_of(e->dtype) == src->lm->dtype;
	nt_scope_push();
	if (!src->lm->mapped && alone) { /* no zeros first */
		if (!nla_tensor_check(src->st, e, err))
			*handle(src->lm, s) = nt_own(nt_from_host(src->lm->dtype, src->lm->device, e->data, e->ndim, e->shape));
	} else if (!src->lm->mapped || s->ndim < 2) {
		nla_tensor_fill(room(src, s), src->st, e, err);
	} else if (nla_dtype_of(e->dtype) != src->lm->dtype || (uintptr_t)e->data % nla_st_dtype_size(e->dtype)) {
		nla_fail(err, "cannot map '%s': tensor '%s' has type %s, or is not aligned: it would have to be copied", src->st->path, s->name,
			 nla_st_dtype_name(e->dtype));
	} else {
		*handle(src->lm, s) = nt_own(nla_tensor_borrow(e));
	}
	nt_scope_pop();
	return !err->status && nt_check() ? nla_nt_fail(err, "cannot load tensor '%s'", s->name) : err->status;
}

static enum nla_status blame_slot(const struct nla_slot *s, void *arg, struct nla_err *err)
{
	const struct nla_st *st = arg;
	return nla_tensor_check(st, nla_st_find(st, s->name), err);
}

enum nla_status nla_lm_blame(const struct nla_lm *lm, const float *results, size_t n, struct nla_err *err)
{
	size_t i = 0;
	while (i < n && isfinite(results[i]))
		i++;
	return i < n && lm->mapped ? nla_lm_each(lm, blame_slot, (void *)(uintptr_t)&lm->map, err) : NLA_OK;
}

struct checking {
	const struct nla_st *st;
	bool *used; /* [entries] */
};

static enum nla_status check_slot(const struct nla_slot *s, void *arg, struct nla_err *err)
{
	const struct checking *in = arg;
	const struct nla_st_entry *e = nla_st_floats(in->st, s->name, s->ndim, s->shape, err);
	if (e)
		in->used[e - in->st->entries] = true;
	return err->status;
}

/* The head of a tied model may be in its file a second time; another one would be what transformers computes with. */
static bool is_embedding(const struct nla_st *st, const struct nla_st_entry *head)
{
	const struct nla_st_entry *embed = nla_st_find(st, "model.embed_tokens.weight");
	return embed && embed->dtype == head->dtype && embed->nbytes == head->nbytes && !memcmp(embed->data, head->data, head->nbytes);
}

static enum nla_status refuse_extra(const struct nla_lm *lm, const struct nla_st *st, const struct nla_st_entry *e, struct nla_err *err)
{
	long long layer;
	if (nla_ends_with(e->name, "rotary_emb.inv_freq"))
		return NLA_OK;
	if (lm->arch.tied && !strcmp(e->name, "lm_head.weight"))
		return is_embedding(st, e) ? NLA_OK : nla_fail(err, "cannot load '%s': 'tie_word_embeddings' is true, but '%s' is not the embedding",
							       st->path, e->name);
	if (sscanf(e->name, "model.layers.%lld.", &layer) == 1 && layer >= lm->arch.n_layers)
		return nla_fail(err, "cannot load '%s': tensor '%s' belongs to no layer, config.json has %lld", st->path, e->name,
				(long long)lm->arch.n_layers);
	return nla_fail(err, "cannot load '%s': tensor '%s' is not part of family %s", st->path, e->name, lm->arch.family);
}

enum nla_status nla_lm_check_file(const struct nla_lm *lm, const struct nla_st *st, bool whole, struct nla_err *err)
{
	struct checking in = { st, nla_alloc(st->n_entries, sizeof(bool)) };
	nla_lm_each(lm, check_slot, &in, err);
	for (size_t i = 0; whole && i < st->n_entries && !err->status; i++)
		if (!in.used[i])
			refuse_extra(lm, st, &st->entries[i], err);
	free(in.used);
	return err->status;
}

/* Can every matrix stay where it is in the file? */
static bool can_map(const struct nla_lm *lm, const struct nla_st *st)
{
	bool same = lm->device == NT_CPU;
	for (size_t i = 0; i < st->n_entries && same; i++) {
		const struct nla_st_entry *e = &st->entries[i];
		same = e->ndim != 2 || (nla_dtype_of(e->dtype) == lm->dtype && (uintptr_t)e->data % nla_st_dtype_size(e->dtype) == 0);
	}
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

enum nla_status nla_lm_load(struct nla_lm *lm, const char *folder, const struct nla_lm_part *part, int device, nt_dtype dtype,
			    enum nla_lm_how how, struct nla_err *err)
{
	struct nla_st st;
	struct source src = { .lm = lm, .st = &st };
	if (nla_lm_describe(lm, folder, part, err) || nla_st_open_folder(&st, folder, "model", err))
		return err->status;
	lm->device = device;
	lm->dtype = dtype;
	lm->mapped = how == NLA_LM_MAP || (how == NLA_LM_AUTO && is_large(lm) && can_map(lm, &st));
	if (!nla_lm_check_file(lm, &st, !part, err))
		make(&src, load_slot, "load the model", err);
	if (!err->status && lm->mapped)
		lm->map = st;
	else
		nla_st_close(&st);
	return err->status;
}

/* ---- random weights ---- */

static enum nla_status init_slot(const struct nla_slot *s, void *arg, struct nla_err *err)
{
	struct source *r = arg;
	int64_t n = s->shape[0] * s->shape[1], cols = s->shape[1];
	float *x = nla_alloc((size_t)n, sizeof(float)), std = (float)r->lm->arch.init_std;
	for (int64_t i = 0; i < n && !s->bias; i++)
		x[i] = s->ndim == 1 ? 1.0f : std * nla_normal(&r->rng, r->tensor, (uint32_t)(i / cols), (uint32_t)(i % cols));
	r->tensor++;
	nt_scope_push();
	nt_copy_into(room(r, s), nt_borrow(NT_F32, x, s->ndim, s->shape));
	nt_scope_pop();
	free(x);
	return nt_check() ? nla_nt_fail(err, "cannot initialise '%s'", s->name) : NLA_OK;
}

enum nla_status nla_lm_init(struct nla_lm *lm, const char *folder, uint64_t seed, int device, nt_dtype dtype, struct nla_err *err)
{
	struct source src = { .lm = lm, .rng = { seed, NLA_STREAM_INIT } };
	if (nla_lm_describe(lm, folder, NULL, err))
		return err->status;
	lm->device = device;
	lm->dtype = dtype;
	return make(&src, init_slot, "make the model", err);
}

/* ---- saving ---- */

struct saving {
	const struct nla_lm *lm;
	struct nla_tensors out;
};

static enum nla_status save_slot(const struct nla_slot *s, void *arg, struct nla_err *err)
{
	struct saving *to = arg;
	nla_tensors_add(&to->out, s->name, view_of(to->lm, s));
	return nt_check() ? nla_nt_fail(err, "cannot save '%s'", s->name) : NLA_OK;
}

enum nla_status nla_lm_save(const struct nla_lm *lm, const char *folder, nt_dtype dtype, struct nla_err *err)
{
	struct saving to = { .lm = lm };
	char *path = nla_path_join(folder, "model.safetensors");
	nt_scope_push();
	if (!nla_lm_each(lm, save_slot, &to, err))
		nla_tensors_write(&to.out, path, dtype, err);
	nt_scope_pop();
	nla_tensors_release(&to.out);
	free(path);
	return err->status;
}

/* ---- copies and lists ---- */

static bool is_copied(const struct source *src, const struct nla_slot *s)
{
	for (int p = 0; p < NLA_N_PROJ; p++) {
		struct nla_slot target;
		nla_proj_slot(src->lm, s->layer, p, &target);
		if (src->targets & 1u << p && s->layer >= 0 && target.at == s->at)
			return true;
	}
	return false;
}

static enum nla_status fork_slot(const struct nla_slot *s, void *arg, struct nla_err *err)
{
	const struct source *src = arg;
	nt_scope_push();
	if (is_copied(src, s))
		nt_copy_into(room(src, s), nla_lm_proj(src->from, s->layer, s->proj));
	else if (!s->row)
		*handle(src->lm, s) = nt_own(nt_share(*handle(src->from, s)));
	nt_scope_pop();
	return NLA_OK;
}

enum nla_status nla_lm_fork(struct nla_lm *lm, const struct nla_lm *from, int64_t depth, unsigned targets, struct nla_err *err)
{
	struct source src = { .lm = lm, .from = from, .targets = targets };
	*lm = (struct nla_lm){ .arch = from->arch, .device = from->device, .dtype = from->dtype, .mapped = from->mapped };
	lm->arch.n_layers = depth;
	lm->cos = nt_own(nt_share(from->cos));
	lm->sin = nt_own(nt_share(from->sin));
	return make(&src, fork_slot, "copy the model's projections", err);
}

struct listing {
	const struct nla_lm *lm;
	nt_tensor **list;
	int n;
	bool blocks, release;
};

static enum nla_status list_slot(const struct nla_slot *s, void *arg, struct nla_err *err)
{
	struct listing *out = arg;
	nt_tensor *t = s->row || out->blocks != (s->layer >= 0) ? NULL : *handle(out->lm, s);
	if (t && out->list)
		out->list[out->n] = t;
	if (t && out->release)
		nt_free(t);
	out->n += t != NULL;
	return NLA_OK;
}

int nla_lm_params(const struct nla_lm *lm, nt_tensor **list)
{
	struct listing out = { .lm = lm, .list = list };
	struct nla_err none = NLA_ERR_INIT;
	nla_lm_each(lm, list_slot, &out, &none);
	out.blocks = true;
	nla_lm_each(lm, list_slot, &out, &none);
	return out.n;
}

void nla_lm_release(struct nla_lm *lm)
{
	struct listing all = { .lm = lm, .blocks = true, .release = true };
	struct nla_err none = NLA_ERR_INIT;
	nt_tensor *top[] = { lm->embed, lm->norm, lm->head, lm->cos, lm->sin };
	if (lm->blocks)
		nla_lm_each(lm, list_slot, &all, &none);
	for (size_t i = 0; i < NLA_LEN(top); i++)
		nt_free(top[i]);
	free(lm->blocks);
	if (lm->map.path)
		nla_st_close(&lm->map);
	*lm = (struct nla_lm){ 0 };
}
