/* lora - adapters in memory: making, joining, merging, listing, laying out for a pass; see lora.h. peft.c is their files. */
#include "lm/lora.h"
#include "base/rng.h"

enum nla_status nla_lora_targets(const char *list, unsigned *targets, struct nla_err *err)
{
	*targets = 0;
	for (const char *p = list; *p;) {
		size_t n = strcspn(p, ","), bare = n > 5 && !strncmp(p + n - 5, "_proj", 5) ? n - 5 : n;
		int found = 0;
		while (found < NLA_N_PROJ &&
		       (strlen(nla_proj_name(found)) != bare + 5 || strncmp(nla_proj_name(found), p, bare)))
			found++;
		if (found == NLA_N_PROJ)
			return nla_usage(err, "unknown LoRA target '%.*s': want some of q,k,v,o,gate,up,down", (int)n, p);
		*targets |= 1u << found;
		p += n + (p[n] == ',');
	}
	return *targets ? NLA_OK : nla_usage(err, "is empty: want some of q,k,v,o,gate,up,down");
}

const struct nla_lora *nla_lora_of(const struct nla_adapter *a, int64_t layer, enum nla_proj proj)
{
	return layer < a->n_layers && a->layers[layer][proj].A ? &a->layers[layer][proj] : NULL;
}

double nla_lora_scale(const struct nla_adapter *a, enum nla_proj proj)
{
	double r = (double)a->rank[proj];
	return a->alpha[proj] / (a->rslora ? sqrt(r) : r);
}

char *nla_lora_key(const struct nla_adapter *a, int64_t layer, enum nla_proj proj, int side)
{
	return nla_format("base_model.model.model.%slayers.%lld.%s.lora_%c.weight", a->inside ? "language_model." : "",
			  (long long)layer, nla_proj_path(proj), "AB"[side]);
}

static nt_tensor *uniform(const struct nla_rng *rng, uint32_t tensor, int64_t rows, int64_t cols, int device)
{
	int64_t shape[2] = { rows, cols };
	const float bound = 1.0f / sqrtf((float)cols);
	nla_auto float *x = nla_alloc((size_t)(rows * cols), sizeof(float));
	for (int64_t i = 0; i < rows * cols; i++)
		x[i] = bound * (2 * nla_uniform(rng, tensor, (uint32_t)(i / cols), (uint32_t)(i % cols)) - 1);
	return nt_own(nt_from_host(NT_F32, device, x, 2, shape));
}

enum nla_status nla_adapter_init(struct nla_adapter *a, const struct nla_arch *arch, int64_t n_layers,
				 const struct nla_lora_spec *spec, struct nla_rng rng, int device, struct nla_err *err)
{
	*a = (struct nla_adapter){ .n_layers = n_layers, .inside = arch->inside, .rslora = spec->rslora };
	a->layers = nla_alloc((size_t)n_layers, sizeof(*a->layers));
	for (int p = 0; p < NLA_N_PROJ; p++) {
		if (!(spec->targets & 1u << p))
			continue;
		a->rank[p] = spec->rank;
		a->alpha[p] = spec->alpha;
		int64_t in = nla_proj_in(arch, p), b_shape[2] = { nla_proj_out(arch, p), spec->rank };
		for (int64_t l = 0; l < n_layers; l++) {
			a->layers[l][p].A = uniform(&rng, (uint32_t)(l * NLA_N_PROJ + p), spec->rank, in, device);
			a->layers[l][p].B = nt_own(nt_zeros(NT_F32, device, 2, b_shape));
		}
	}
	return nt_check() ? nla_nt_fail(err, "cannot make an adapter of rank %lld", (long long)spec->rank) : NLA_OK;
}

/* A [r, in] of both below each other; up: scaled B [out, r] next to each other; zeros for one that has the projection in other
 * blocks alone. NULL: neither has it in this. */
static nt_tensor *side_by_side(const struct nla_adapter *const from[2], int64_t l, int p, bool up)
{
	const struct nla_lora *x[2], *any = NULL;
	nt_tensor *parts[2];
	int n = 0;
	for (int i = 0; i < 2; i++) {
		x[i] = from[i] ? nla_lora_of(from[i], l, p) : NULL;
		any = x[i] ? x[i] : any;
	}
	for (int i = 0; i < 2 && any; i++) {
		const int64_t r = from[i] ? from[i]->rank[p] : 0, width = up ? nt_size(any->B, 0) : nt_size(any->A, 1);
		if (x[i])
			parts[n++] = up ? nt_scale(x[i]->B, nla_lora_scale(from[i], p)) : nt_share(x[i]->A);
		else if (r)
			parts[n++] = nt_zeros(NT_F32, nt_device_of(any->A), 2, (int64_t[]){ up ? width : r, up ? r : width });
	}
	return n ? nt_own(nt_cat(parts, n, up ? 1 : 0)) : NULL;
}

enum nla_status nla_adapter_join(struct nla_adapter *to, const struct nla_adapter *a, const struct nla_adapter *b,
				 struct nla_err *err)
{
	const struct nla_adapter *const from[2] = { a, b };
	*to = (struct nla_adapter){ .n_layers = NLA_MAX(a ? a->n_layers : 0, b ? b->n_layers : 0),
				    .inside = a ? a->inside : b && b->inside };
	to->layers = nla_alloc((size_t)to->n_layers, sizeof(*to->layers));
	nt_scope_push();
	for (int p = 0; p < NLA_N_PROJ; p++) {
		to->rank[p] = (a ? a->rank[p] : 0) + (b ? b->rank[p] : 0);
		to->alpha[p] = (double)to->rank[p]; /* scale 1: it is in B */
		for (int64_t l = 0; l < to->n_layers; l++)
			to->layers[l][p] = (struct nla_lora){ side_by_side(from, l, p, false), side_by_side(from, l, p, true) };
	}
	nt_scope_pop();
	return nt_check() ? nla_nt_fail(err, "cannot join two adapters") : NLA_OK;
}

void nla_adapter_release(struct nla_adapter *a)
{
	for (int64_t l = 0; a->layers && l < a->n_layers; l++)
		for (int p = 0; p < NLA_N_PROJ; p++) {
			nt_free(a->layers[l][p].A);
			nt_free(a->layers[l][p].B);
		}
	free(a->layers);
	*a = (struct nla_adapter){ 0 };
}

void nla_adapter_list(const struct nla_adapter *a, struct nla_tensors *out)
{
	for (int64_t i = 0; i < a->n_layers * NLA_N_PROJ * 2; i++) {
		const int64_t l = i / 2 / NLA_N_PROJ;
		const int p = (int)(i / 2 % NLA_N_PROJ), side = (int)(i % 2);
		nla_auto char *key = nla_lora_key(a, l, p, side);
		if (a->layers[l][p].A)
			nla_tensors_add(out, key, side ? a->layers[l][p].B : a->layers[l][p].A);
	}
}

enum nla_status nla_adapter_train(struct nla_adapter *a, bool on, struct nla_err *err)
{
	NLA_AUTO(nla_tensors_release) struct nla_tensors all = { 0 };
	nla_adapter_list(a, &all);
	for (size_t i = 0; i < all.names.n; i++)
		nt_requires_grad(all.list[i], on);
	if (on)
		a->stored = NT_F32;
	return nt_check() ? nla_nt_fail(err, "cannot train the adapter") : NLA_OK;
}

enum nla_status nla_merge(struct nla_lm *lm, const struct nla_view *view, struct nla_err *err)
{
	for (int64_t l = 0; l < lm->arch.n_layers; l++)
		for (int p = 0; p < NLA_N_PROJ; p++) {
			nt_tensor *to = NULL;
			nt_scope_push();
			for (int i = 0; i < view->n_adapters; i++) {
				const struct nla_adapter *a = view->adapters[i];
				const struct nla_lora *x = nla_lora_of(a, l, p);
				if (!x)
					continue;
				if (!to) {
					to = nla_lm_proj(lm, l, p);
					nt_copy_into(to, nla_lm_proj(view->lm, l, p));
				}
				nt_add_into(to, nt_matmul(x->B, x->A), nla_lora_scale(a, p));
			}
			nt_scope_pop();
		}
	return nt_check() ? nla_nt_fail(err, "cannot merge an adapter into the weights") : NLA_OK;
}

enum nla_status nla_merge_copy(struct nla_lm *lm, const struct nla_view *view, int64_t depth, struct nla_err *err)
{
	unsigned targets = 0;
	for (int i = 0; i < view->n_adapters; i++)
		for (int p = 0; p < NLA_N_PROJ; p++)
			targets |= (unsigned)(view->adapters[i]->rank[p] > 0) << p;
	if (!nla_lm_fork(lm, view->lm, depth, targets, err) && nla_merge(lm, view, err))
		nla_lm_release(lm);
	return err->status;
}

/* ---- laid out for a pass: one A [R, in] and one B [out, R] a matrix ---- */

/* The projections that a copied model stores in one matrix of so many rows with `first`; 0: it is not the first of them. */
static unsigned together(const struct nla_arch *arch, int first, int64_t *rows)
{
	const struct nla_lm lm = { .arch = *arch };
	const unsigned found = nla_proj_together(&lm, first);
	struct nla_slot own;
	nla_proj_slot(&lm, 0, first, &own);
	*rows = own.rows;
	return found & ((1u << first) - 1) ? 0 : found;
}

/* Adapter by adapter, so that what is trained stands together. */
static void lay_out(const struct nla_view *view, int64_t layer, unsigned projs, int64_t rows, struct nt_lora *out)
{
	const struct nla_lm copied = { .arch = view->lm->arch };
	nt_tensor *A[NLA_LEN(out->part)];
	int64_t rank = 0;
	for (int i = 0; i < view->n_adapters; i++)
		for (int p = 0; p < NLA_N_PROJ; p++) {
			const struct nla_adapter *a = view->adapters[i];
			const struct nla_lora *x = projs & 1u << p ? nla_lora_of(a, layer, p) : NULL;
			struct nla_slot slot;
			if (!x)
				continue;
			nla_proj_slot(&copied, layer, p, &slot);
			A[out->n] = x->A;
			out->part[out->n++] = (struct nt_lora_part){ x->A, x->B, rank, slot.row, nla_lora_scale(a, p) };
			rank += a->rank[p];
		}
	if (!out->n)
		return;
	out->A = nt_own(nt_to(nt_cat(A, out->n, 0), nla_compute_dtype(view->lm)));
	out->B = nt_own(nt_zeros(nla_compute_dtype(view->lm), view->lm->device, 2, (int64_t[]){ rows, rank }));
	for (const struct nt_lora_part *x = out->part; x < out->part + out->n; x++)
		nt_add_into(nt_narrow(nt_narrow(out->B, 0, x->out_at, nt_size(x->B, 0)), 1, x->rank_at, nt_size(x->B, 1)), x->B,
			    x->scale);
}

/* What lay_out makes of each view, on top of each other: A [n, R, in], B [n, out, R]. */
static void lay_out_stack(const struct nla_view *views, int64_t n, int64_t layer, unsigned projs, int64_t rows,
			  struct nt_lora *out)
{
	nla_auto nt_tensor **parts = nla_alloc((size_t)(2 * n), sizeof(*parts));
	for (int64_t i = 0; i < n; i++) {
		struct nt_lora one = { 0 };
		lay_out(&views[i], layer, projs, rows, &one);
		if (!one.A)
			return;
		parts[i] = nt_reshape(one.A, 3, (int64_t[]){ 1, nt_size(one.A, 0), nt_size(one.A, 1) });
		parts[n + i] = nt_reshape(one.B, 3, (int64_t[]){ 1, nt_size(one.B, 0), nt_size(one.B, 1) });
		nt_free(one.A);
		nt_free(one.B);
	}
	out->A = nt_own(nt_cat(parts, (int)n, 0));
	out->B = nt_own(nt_cat(parts + n, (int)n, 0));
}

struct nla_view nla_beside_stack(const struct nla_view *views, int64_t n, const int64_t *rows)
{
	struct nla_view laid_out = *views;
	int64_t n_layers = views->lm->arch.n_layers, out;
	if (n > 1 && views[1].lm != views->lm) {
		laid_out.each = nla_alloc((size_t)n, sizeof(*laid_out.each));
		laid_out.n_each = n;
		laid_out.rows = rows;
		for (int64_t i = 0; i < n; i++)
			laid_out.each[i] = nla_beside_open(&views[i]);
		return laid_out;
	}
	if (!views->n_adapters)
		return laid_out;
	laid_out.beside = nla_alloc((size_t)n_layers, sizeof(*laid_out.beside));
	nt_grad_push(false);
	for (int64_t l = 0; l < n_layers; l++)
		for (int p = 0; p < NLA_N_PROJ; p++) {
			unsigned projs = together(&views->lm->arch, p, &out);
			struct nt_lora *at = &laid_out.beside[l].at[p];
			nt_scope_push();
			if (n == 1)
				lay_out(views, l, projs, out, at);
			else
				lay_out_stack(views, n, l, projs, out, at);
			at->rows = n == 1 ? NULL : rows;
			nt_scope_pop();
		}
	nt_grad_pop();
	return laid_out;
}

struct nla_view nla_beside_open(const struct nla_view *view) { return nla_beside_stack(view, 1, NULL); }

void nla_beside_close(struct nla_view *laid_out)
{
	for (int64_t l = 0; laid_out->beside && l < laid_out->lm->arch.n_layers; l++)
		for (int p = 0; p < NLA_N_PROJ; p++) {
			nt_free(laid_out->beside[l].at[p].A);
			nt_free(laid_out->beside[l].at[p].B);
		}
	free(laid_out->beside);
	for (int64_t i = 0; i < laid_out->n_each; i++)
		nla_beside_close(&laid_out->each[i]);
	free(laid_out->each);
	laid_out->beside = NULL;
	laid_out->each = NULL;
	laid_out->n_each = 0;
}

int64_t nla_beside_bytes(const struct nla_arch *arch, const struct nla_adapter *const *adapters, int n, int64_t element)
{
	int64_t bytes = 0, rows;
	for (int first = 0; first < NLA_N_PROJ; first++) {
		unsigned projs = together(arch, first, &rows);
		int64_t rank = 0;
		for (int p = 0; p < NLA_N_PROJ; p++)
			for (int i = 0; i < n; i++)
				rank += projs & 1u << p ? adapters[i]->rank[p] : 0;
		bytes += projs ? rank * (nla_proj_in(arch, first) + rows) : 0;
	}
	return bytes * element * arch->n_layers;
}
