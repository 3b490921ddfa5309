/*
 * lm - loading, making, saving, copying and listing weights; see lm.h. Each is what is done at every slot of the layout
 * (layout.c): the first slot of a stored tensor makes it, and every slot fills its rows.
 */
#include "lm/lm.h"
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

/* Waves slowed by a factor: all of them, or as Llama 3.1 has it: those much shorter than what the model was trained on stay,
 * those much longer are slowed, and between the two it is interpolated linearly (in the frequency; all in fp32, as the
 * reference has it). */
static float stretch(const struct nla_arch *a, float inv)
{
	float wave = 6.283185307179586f / inv, original = (float)a->rope_original;
	float low = original / (float)a->rope_low, high = original / (float)a->rope_high;
	if (!a->rope_llama3)
		return a->rope_factor > 0 ? inv / (float)a->rope_factor : inv;
	if (wave < high)
		return inv;
	if (wave > low)
		return inv / (float)a->rope_factor;
	float smooth = (original / wave - (float)a->rope_low) / (float)(a->rope_high - a->rope_low);
	return (1 - smooth) * inv / (float)a->rope_factor + smooth * inv;
}

static void make_table(struct nla_lm *lm, bool local)
{
	int64_t n = NLA_MIN(lm->arch.max_position, NLA_MAX_POSITIONS), half = lm->arch.head_dim / 2, shape[2] = { n, half };
	nla_auto float *c = nla_alloc((size_t)(n * half), sizeof(float)), *s = nla_alloc((size_t)(n * half), sizeof(float));
	for (int64_t j = 0; j < half; j++) {
		/* inv_freq in fp32 and the angle as an fp32 product, as the reference has them */
		const double theta = local ? lm->arch.rope_local : lm->arch.rope_theta;
		float inv = (float)(1.0 / pow(theta, (double)(2 * j) / (double)lm->arch.head_dim));
		inv = local ? inv : stretch(&lm->arch, inv);
		for (int64_t p = 0; p < n; p++) {
			float angle = (float)p * inv;
			c[p * half + j] = (float)cos(angle);
			s[p * half + j] = (float)sin(angle);
		}
	}
	lm->cos[local] = nt_own(nt_from_host(NT_F32, lm->device, c, 2, shape));
	lm->sin[local] = nt_own(nt_from_host(NT_F32, lm->device, s, 2, shape));
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

/* Room for the handles; nothing is in them. */
static void begin(struct nla_lm *lm)
{
	lm->blocks = nla_alloc((size_t)lm->arch.n_layers, sizeof(*lm->blocks));
	for (int local = 0; local <= (lm->arch.pattern > 1); local++)
		make_table(lm, local);
}

/* After all slots. Whatever failed releases the model. */
static enum nla_status finish(struct nla_lm *lm, const char *what, struct nla_err *err)
{
	if (!err->status && lm->arch.tied)
		lm->head = nt_own(nt_share(lm->embed));
	if (!err->status && nt_check())
		nla_nt_fail(err, "cannot %s", what);
	if (err->status)
		nla_lm_release(lm);
	return err->status;
}

static nt_dtype type_of(const struct nla_lm *lm, const struct nla_slot *s)
{
	return s->ndim == 2 ? lm->dtype : s->exact ? NT_F32 : nla_compute_dtype(lm);
}

/* The slot's view, whose stored tensor is made at its first. */
static nt_tensor *room(const struct nla_lm *lm, const struct nla_slot *s)
{
	nt_tensor **whole = handle(lm, s);
	if (!*whole)
		*whole = nt_own(nt_empty(type_of(lm, s), lm->device, s->ndim, (int64_t[]){ s->rows, s->shape[1] }));
	return view_of(lm, s);
}

/* ---- loading ---- */

static bool of_others(const char *name)
{
	const char *bare = nla_starts_with(name, "model.") ? name + strlen("model.") : name;
	return nla_starts_with(bare, "vision_tower.") || nla_starts_with(bare, "multi_modal_projector.");
}

enum nla_status nla_lm_open(struct nla_st *st, const char *folder, struct nla_err *err)
{
	static const char *const names[][2] = { { "language_model.model.", "model." }, { "model.language_model.", "model." },
						{ "language_model.lm_head.", "lm_head." } };
	bool inside = false;
	size_t n = 0;
	if (nla_st_open_folder(st, folder, "model", err))
		return err->status;
	for (size_t i = 0; i < st->n_entries * NLA_LEN(names); i++) {
		struct nla_st_entry *e = &st->entries[i / NLA_LEN(names)];
		const char *const *name = names[i % NLA_LEN(names)];
		if (!nla_starts_with(e->name, name[0]))
			continue;
		nla_auto char *old = e->name;
		e->name = nla_format("%s%s", name[1], old + strlen(name[0]));
		inside = true;
	}
	for (size_t i = 0; i < st->n_entries; i++) {
		if (!inside || !of_others(st->entries[i].name))
			st->entries[n++] = st->entries[i];
		else
			free(st->entries[i].name);
	}
	st->n_entries = n;
	qsort(st->entries, n, sizeof(*st->entries), nla_by_text);
	return NLA_OK;
}

/* Of the model's type, and where it can be read as it is? */
static bool fits(const struct nla_lm *lm, const struct nla_st_entry *e)
{
	return nla_dtype_of(e->dtype) == lm->dtype && (uintptr_t)e->data % nla_st_dtype_size(e->dtype) == 0;
}

static enum nla_status load_slot(struct nla_lm *lm, const struct nla_slot *s, const struct nla_st *st, struct nla_err *err)
{
	const struct nla_st_entry *e = nla_st_find(st, s->name);
	nt_scope_push();
	if (!lm->mapped && s->rows == s->shape[0] && nla_dtype_of(e->dtype) == type_of(lm, s)) {
		if (!nla_tensor_check(st, e, err))
			*handle(lm, s) = nt_own(nt_from_host(type_of(lm, s), lm->device, e->data, e->ndim, e->shape));
	} else if (!lm->mapped || s->ndim < 2) {
		nla_tensor_fill(room(lm, s), st, e, err);
	} else if (lm->device != NT_CPU) {
		nla_fail(err, "cannot map '%s': %s does not read the host's memory", st->path, nt_device_name(lm->device));
	} else if (!fits(lm, e)) {
		nla_fail(err, "cannot map '%s': tensor '%s' has type %s, or is not aligned: it would have to be copied",
			 st->path, s->name, nla_st_dtype_name(e->dtype));
	} else {
		*handle(lm, s) = nt_own(nla_tensor_borrow(e));
	}
	if (s->less > 0 && !err->status)
		nt_copy_into(*handle(lm, s), nt_add_scalar(*handle(lm, s), s->less));
	nt_scope_pop();
	return !err->status && nt_check() ? nla_nt_fail(err, "cannot load tensor '%s'", s->name) : err->status;
}

enum nla_status nla_lm_blame(const struct nla_lm *lm, const float *results, size_t n, struct nla_err *err)
{
	size_t i = 0;
	while (i < n && isfinite(results[i]))
		i++;
	lm = lm->of ? lm->of : lm;
	for (struct nla_slot s = { 0 }; i < n && lm->mapped && !err->status && nla_lm_next(lm, &s);)
		nla_tensor_check(&lm->map, nla_st_find(&lm->map, s.name), err);
	return err->status;
}

/* The head of a tied model may be in its file a second time; another one would be what transformers computes with. */
static bool is_embedding(const struct nla_st *st, const struct nla_st_entry *head)
{
	const struct nla_st_entry *embed = nla_st_find(st, "model.embed_tokens.weight");
	return embed && embed->dtype == head->dtype && embed->nbytes == head->nbytes &&
	       !memcmp(embed->data, head->data, head->nbytes);
}

static enum nla_status refuse_extra(const struct nla_lm *lm, const struct nla_st *st, const struct nla_st_entry *e,
				    struct nla_err *err)
{
	long long layer;
	if (nla_ends_with(e->name, "rotary_emb.inv_freq"))
		return NLA_OK;
	if (lm->arch.tied && !strcmp(e->name, "lm_head.weight"))
		return is_embedding(st, e)
			       ? NLA_OK
			       : nla_fail(err, "cannot load '%s': 'tie_word_embeddings' is true, but '%s' is not the embedding",
					  st->path, e->name);
	if (sscanf(e->name, "model.layers.%lld.", &layer) == 1 && layer >= lm->arch.n_layers)
		return nla_fail(err, "cannot load '%s': tensor '%s' belongs to no layer, config.json has %lld", st->path,
				e->name, (long long)lm->arch.n_layers);
	return nla_fail(err, "cannot load '%s': tensor '%s' is not part of family %s", st->path, e->name, lm->arch.family);
}

enum nla_status nla_lm_check_file(const struct nla_lm *lm, const struct nla_st *st, bool whole, struct nla_err *err)
{
	nla_auto bool *used = nla_alloc(st->n_entries, sizeof(*used));
	for (struct nla_slot s = { 0 }; !err->status && nla_lm_next(lm, &s);) {
		const struct nla_st_entry *e = nla_st_floats(st, s.name, s.ndim, s.shape, err);
		if (e)
			used[e - st->entries] = true;
	}
	for (size_t i = 0; whole && i < st->n_entries && !err->status; i++)
		if (!used[i])
			refuse_extra(lm, st, &st->entries[i], err);
	return err->status;
}

/* Can every matrix stay where it is in the file? */
static bool can_map(const struct nla_lm *lm, const struct nla_st *st)
{
	bool can = lm->device == NT_CPU;
	for (size_t i = 0; i < st->n_entries && can; i++)
		can = st->entries[i].ndim != 2 || fits(lm, &st->entries[i]);
	return can;
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
	if (nla_lm_describe(lm, folder, part, err) || nla_lm_open(&st, folder, err))
		return err->status;
	lm->device = device;
	lm->dtype = dtype;
	lm->mapped = how == NLA_LM_MAP || (is_large(lm) && can_map(lm, &st));
	if (!nla_lm_check_file(lm, &st, !part, err)) {
		begin(lm);
		for (struct nla_slot s = { 0 }; !err->status && nla_lm_next(lm, &s);)
			load_slot(lm, &s, &st, err);
		finish(lm, "load the model", err);
	}
	if (!err->status && lm->mapped)
		lm->map = st;
	else
		nla_st_close(&st);
	return err->status;
}

/* ---- random weights ---- */

static enum nla_status init_slot(struct nla_lm *lm, const struct nla_slot *s, const struct nla_rng *rng, uint32_t tensor,
				 struct nla_err *err)
{
	int64_t n = s->shape[0] * s->shape[1], cols = s->shape[1];
	const float std = (float)lm->arch.init_std;
	nla_auto float *x = nla_alloc((size_t)n, sizeof(*x));
	for (int64_t i = 0; i < n && !s->bias; i++)
		x[i] = s->ndim == 1 ? 1.0f : std * nla_normal(rng, tensor, (uint32_t)(i / cols), (uint32_t)(i % cols));
	nt_scope_push();
	nt_copy_into(room(lm, s), nt_borrow(NT_F32, x, s->ndim, s->shape));
	nt_scope_pop();
	return nt_check() ? nla_nt_fail(err, "cannot initialise '%s'", s->name) : NLA_OK;
}

enum nla_status nla_lm_init(struct nla_lm *lm, const char *folder, uint64_t seed, int device, nt_dtype dtype,
			    struct nla_err *err)
{
	const struct nla_rng rng = { seed, NLA_STREAM_INIT };
	uint32_t tensor = 0;
	if (nla_lm_describe(lm, folder, NULL, err))
		return err->status;
	lm->device = device;
	lm->dtype = dtype;
	begin(lm);
	for (struct nla_slot s = { 0 }; !err->status && nla_lm_next(lm, &s);)
		init_slot(lm, &s, &rng, tensor++, err);
	return finish(lm, "make the model", err);
}

/* ---- saving, copies and lists ---- */

enum nla_status nla_lm_save(const struct nla_lm *lm, const char *folder, nt_dtype dtype, struct nla_err *err)
{
	NLA_AUTO(nla_tensors_release) struct nla_tensors out = { 0 };
	nla_auto char *path = nla_path_join(folder, "model.safetensors");
	nt_scope_push();
	for (struct nla_slot s = { 0 }; !err->status && nla_lm_next(lm, &s);) {
		nla_tensors_add(&out, s.name, s.less > 0 ? nt_add_scalar(view_of(lm, &s), -s.less) : view_of(lm, &s));
		if (nt_check())
			nla_nt_fail(err, "cannot save '%s'", s.name);
	}
	if (!err->status)
		nla_tensors_write(&out, path, dtype, err);
	nt_scope_pop();
	return err->status;
}

enum nla_status nla_lm_fork(struct nla_lm *lm, const struct nla_lm *from, int64_t depth, unsigned targets, struct nla_err *err)
{
	*lm = (struct nla_lm){ .arch = from->arch, .device = from->device, .dtype = from->dtype, .mapped = from->mapped,
			       .of = from->of ? from->of : from };
	lm->arch.n_layers = depth;
	for (int i = 0; i < 2 && from->cos[i]; i++) {
		lm->cos[i] = nt_own(nt_share(from->cos[i]));
		lm->sin[i] = nt_own(nt_share(from->sin[i]));
	}
	lm->blocks = nla_alloc((size_t)depth, sizeof(*lm->blocks));
	for (struct nla_slot s = { 0 }; nla_lm_next(lm, &s);) {
		nt_scope_push();
		if (s.proj >= 0 && targets & nla_proj_together(lm, s.proj))
			nt_copy_into(room(lm, &s), view_of(from, &s));
		else if (!s.row)
			*handle(lm, &s) = nt_own(nt_share(*handle(from, &s)));
		nt_scope_pop();
	}
	return finish(lm, "copy the model's projections", err);
}

void nla_lm_list(const struct nla_lm *lm, struct nla_tensors *out)
{
	for (int blocks = 0; blocks < 2; blocks++) /* those of no block come first */
		for (struct nla_slot s = { 0 }; nla_lm_next(lm, &s);)
			if (!s.row && blocks == (s.layer >= 0))
				nla_tensors_add(out, s.name, *handle(lm, &s));
}

void nla_lm_release(struct nla_lm *lm)
{
	nt_tensor *top[] = { lm->embed, lm->norm, lm->head, lm->cos[0], lm->sin[0], lm->cos[1], lm->sin[1] };
	for (struct nla_slot s = { 0 }; lm->blocks && nla_lm_next(lm, &s);)
		if (!s.row && s.layer >= 0)
			nt_free(*handle(lm, &s));
	for (size_t i = 0; i < NLA_LEN(top); i++)
		nt_free(top[i]);
	free(lm->blocks);
	if (lm->map.path)
		nla_st_close(&lm->map);
	*lm = (struct nla_lm){ 0 };
}
