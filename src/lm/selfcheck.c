/*
 * Fast operations against plain ones (selfcheck.h): each is a function of one leaf [N, width], random numbers in the model's
 * type, and gives a result and a gradient of that leaf.
 */
#include "lm/selfcheck.h"
#include "base/progress.h"
#include "base/rng.h"
#include "lm/forward.h"

enum { N = 96, HEAD = 24, PROMPT = 24, VOCABULARY = 8192, ROWS = 8, LONG = 1024, ROUNDS = 3 };

/* What the operations read beside their leaf. */
struct given {
	const struct nla_lm *lm;
	nt_tree *tree; /* a common head, a prompt, two responses */
	nt_tensor *cos, *sin, *ids, *u;
};

static nt_tensor *rotation(const struct given *g, const nt_tensor *x)
{
	nt_tensor *qkv[3];
	nla_heads(&g->lm->arch, x, qkv);
	return nt_qk_rope(qkv[0], g->lm->blocks[0].q_norm, g->lm->arch.rms_eps, g->cos, g->sin);
}

static nt_tensor *norm(const struct given *g, const nt_tensor *x)
{
	const nt_tensor *w = g->lm->blocks[0].attn_norm; /* in fp32 for the truth */
	return nt_rms_norm(x, nt_dtype_of(x) == NT_F32 ? nt_to(w, NT_F32) : w, g->lm->arch.rms_eps);
}

static nt_tensor *gate(const struct given *g, const nt_tensor *x) { return nla_glu(&g->lm->arch, x); }

static nt_tensor *attention(const struct given *g, const nt_tensor *x)
{
	nt_tensor *qkv[3];
	nla_heads(&g->lm->arch, x, qkv);
	return nt_attention(qkv[0], qkv[1], qkv[2], g->tree, nla_window(&g->lm->arch, 0), nla_score_scale(&g->lm->arch));
}

/* The last tokens are the next of so many rows, behind 1 to N - ROWS others, in a cache of so many positions. */
static nt_tensor *decoding_in(int64_t positions, int64_t rows, const struct given *g, const nt_tensor *x)
{
	const struct nla_arch *a = &g->lm->arch;
	const struct nla_block *b = &g->lm->blocks[0];
	nt_tensor *qkv[3], *part[3];
	int64_t slot[ROWS], at[ROWS], shape[4] = { rows, positions, a->n_kv_heads, a->head_dim };
	nt_tensor *k = nt_zeros(nt_dtype_of(x), g->lm->device, 4, shape), *v = nt_clone(k);
	nla_heads(&g->lm->arch, x, qkv);
	for (int64_t i = 0; i < rows; i++) {
		slot[i] = rows - 1 - i;
		at[i] = 1 + (N - ROWS - 1) * (ROWS - rows + i) / (ROWS - 1);
		for (int kv = 1; kv < 3; kv++)
			nt_copy_into(nt_narrow(nt_narrow(kv == 1 ? k : v, 0, slot[i], 1), 1, 0, N - ROWS),
				     nt_reshape(nt_narrow(qkv[kv], 0, 0, N - ROWS), 4,
						(int64_t[]){ 1, N - ROWS, a->n_kv_heads, a->head_dim }));
	}
	for (int i = 0; i < 3; i++)
		part[i] = nt_narrow(qkv[i], 0, N - rows, rows);
	nt_tensor *slots = nt_i64(g->lm->device, slot, rows), *places = nt_i64(g->lm->device, at, rows);
	const struct nt_heads new = { part[0], part[1], part[2], b->q_norm, b->k_norm, a->rms_eps,
				      nt_narrow(g->cos, 0, 0, rows), nt_narrow(g->sin, 0, 0, rows) };
	nt_tensor *q = nt_rope_cached(&new, k, v, slots, places);
	return nt_attention_cached(q, k, v, slots, nt_add_scalar(places, 1), nla_window(a, 0), nla_score_scale(a));
}

/* In one go, and, one row, in parts that are joined, as a long cache is read. */
static nt_tensor *decoding(const struct given *g, const nt_tensor *x)
{
	nt_tensor *both[2];
	for (int i = 0; i < 2; i++) {
		nt_scope_push();
		both[i] = nt_scope_pop_with(i ? decoding_in(LONG, 1, g, x) : decoding_in(N, ROWS, g, x));
	}
	return nt_cat(both, 2, 0);
}

/* Log-probabilities of what is drawn; from the same logits, so that the same tokens are. */
static nt_tensor *sampling(const struct given *g, const nt_tensor *x)
{
	nt_tensor *logprob;
	nt_sample(nt_scale(nt_to(x, NT_F32), 3), g->u, 1, &logprob);
	return logprob;
}

static nt_tensor *logprob(const struct given *g, const nt_tensor *x)
{
	nt_tensor *head = nt_narrow(g->lm->head, 0, 0, NLA_MIN(nt_size(g->lm->head, 0), VOCABULARY));
	return nt_token_logprob(x, nt_to(head, nt_dtype_of(x)), g->ids, 1, NULL);
}

enum width { HEADS, MLP, RESIDUAL, LOGITS };

static const struct operation {
	const char *name;
	nt_tensor *(*run)(const struct given *g, const nt_tensor *x);
	enum width width;
	bool trains;
	enum nt_fast fast;
} operations[] = {
	{ "norm", norm, RESIDUAL, true, NT_FAST_NORM },
	{ "rotation with norm", rotation, HEADS, true, NT_FAST_ROPE },
	{ "gated MLP", gate, MLP, true, NT_FAST_SWIGLU },
	{ "attention", attention, HEADS, true, NT_FAST_ATTENTION },
	{ "log-probabilities", logprob, RESIDUAL, true, NT_FAST_PRODUCT },
	{ "attention, decoding", decoding, HEADS, false, NT_FAST_DECODING },
	{ "sampling", sampling, LOGITS, false, NT_FAST_SAMPLING },
};

/* Result and gradient on the host, and the time of a round; fp32 or the model's type, fast or plain. */
struct tried {
	float *y, *dx; /* dx NULL: not trained */
	size_t n_y, n_dx;
	double seconds;
};

static float *to_host(const nt_tensor *t, size_t *n)
{
	*n = t ? (size_t)nt_numel(t) : 0;
	float *x = nla_alloc(*n ? *n : 1, sizeof(*x));
	if (t)
		nt_to_host_f32(t, x, *n);
	return x;
}

/* Numbers from -1 to 1 in the shape of y. */
static nt_tensor *weights(const nt_tensor *y)
{
	const int64_t n = nt_numel(y);
	int64_t shape[4];
	nla_auto float *w = nla_alloc((size_t)n, sizeof(*w));
	for (int64_t i = 0; i < n; i++)
		w[i] = (float)(i * 37 % 101) / 50 - 1;
	for (int i = 0; i < nt_ndim(y); i++)
		shape[i] = nt_size(y, i);
	return nt_to(nt_from_host(NT_F32, nt_device_of(y), w, nt_ndim(y), shape), nt_dtype_of(y));
}

/* The time, once the device has made x and all that was asked for before. */
static double when_made(const nt_tensor *x)
{
	double number;
	nt_scope_push();
	if (x)
		nt_item(nt_sum(nt_narrow(nt_detach(x), 0, 0, 1)), &number);
	nt_scope_pop();
	return nla_seconds();
}

static void try(const struct operation *op, const struct given *g, const nt_tensor *x, bool plain, struct tried *out)
{
	*out = (struct tried){ .seconds = INFINITY };
	nt_plain(plain);
	for (int i = 0; i < ROUNDS && !nt_check(); i++) {
		free(out->y);
		free(out->dx);
		nt_scope_push();
		nt_grad_push(op->trains);
		nt_tensor *leaf = nt_clone(x);
		double start = when_made(leaf);
		if (op->trains)
			nt_requires_grad(leaf, true);
		nt_tensor *y = op->run(g, leaf);
		double seconds = when_made(y) - start;
		if (op->trains && y) {
			nt_tensor *dy = weights(y); /* of a norm's y.y the gradient is nearly 0 */
			start = when_made(dy);
			nt_backward_with(y, dy);
			seconds += when_made(y) - start;
		}
		out->seconds = fmin(out->seconds, seconds);
		out->y = to_host(y ? nt_to(nt_detach(y), NT_F32) : NULL, &out->n_y);
		out->dx = to_host(op->trains && y && !nt_check() ? nt_grad(leaf) : NULL, &out->n_dx);
		nt_grad_pop();
		nt_scope_pop();
	}
	nt_plain(false);
}

/* The largest difference as a part of the largest number; NaN in one alone is infinite. */
static double difference(const float *a, const float *b, size_t n)
{
	double worst = 0, most = 0;
	for (size_t i = 0; i < n; i++) {
		double d = fabs((double)a[i] - b[i]);
		worst = d <= worst || (isnan(a[i]) && isnan(b[i])) ? worst : isnan(d) ? INFINITY : d;
		most = fmax(most, fabs(b[i]));
	}
	return most > 0 ? worst / most : worst;
}

static double off(const struct tried *a, const struct tried *b)
{
	return fmax(difference(a->y, b->y, b->n_y), difference(a->dx, b->dx, b->n_dx));
}

static void check(const struct operation *op, const struct given *g, FILE *table)
{
	const struct nla_arch *a = &g->lm->arch;
	const int64_t widths[] = { [HEADS] = (a->n_heads + 2 * a->n_kv_heads) * a->head_dim, [MLP] = 2 * a->d_ff,
				   [RESIDUAL] = a->d_model, [LOGITS] = NLA_MIN(a->vocab, VOCABULARY) };
	const struct nla_rng rng = { 1, NLA_STREAM_TEST };
	int64_t shape[2] = { N, widths[op->width] };
	nla_auto float *host = nla_alloc((size_t)(N * shape[1]), sizeof(*host));
	struct tried truth, plain, fast;
	for (int64_t i = 0; i < N * shape[1]; i++)
		host[i] = nla_normal(&rng, (uint32_t)op->width, 0, (uint32_t)i);
	nt_tensor *x = nt_to(nt_from_host(NT_F32, g->lm->device, host, 2, shape), g->lm->dtype);
	try(op, g, nt_to(x, NT_F32), true, &truth);
	try(op, g, x, true, &plain);
	const bool twins = !nt_check();
	try(op, g, x, false, &fast);
	const bool ran = !nt_check();
	if (twins && nt_check() == NT_FAILED) {
		nla_say("warning: on this GPU %s does not run, and is switched off; please report it: %s", op->name,
			nt_error());
		nt_clear();
		nt_fast_off(op->fast);
	}
	double own = ran ? off(&fast, &truth) : 0, twin = ran ? off(&plain, &truth) : 0;
	bool wrong = !(own <= 2 * twin + (g->lm->dtype == NT_F32 ? 1e-5 : 0x1p-8));
	if (table && ran)
		fprintf(table, "  %-22s %10.2g %10.2g %12.0f %12.0f   %s\n", op->name, own, twin, 1e6 * fast.seconds,
			1e6 * plain.seconds, wrong || nt_fast_is_off(op->fast) ? "switched off" : "");
	if (wrong) {
		nla_say("warning: on this GPU %s is off by %.2g of its largest number, and %.2g without our fast version: that "
			"is switched off; please report it", op->name, own, twin);
		nt_fast_off(op->fast);
	}
	struct tried *all[] = { &truth, &plain, &fast };
	for (int i = 0; i < 3; i++) {
		free(all[i]->y);
		free(all[i]->dx);
	}
}

bool nla_gpu_plain(int device)
{
	bool off = *nt_kernels_off();
	for (int i = 0; i < NT_FAST_N; i++)
		off |= nt_fast_is_off(i);
	return device != NT_CPU && off;
}

void nla_selfcheck(const struct nla_lm *lm, FILE *table)
{
	const int64_t length[4] = { HEAD, PROMPT, 24, N - HEAD - PROMPT - 24 }, parent[4] = { -1, 0, 1, 1 };
	int64_t ids[N], place[N];
	float u[N];
	for (int i = 0; i < N; i++) {
		ids[i] = i * 37 % NLA_MIN(lm->arch.vocab, VOCABULARY);
		place[i] = i % nt_size(lm->cos[0], 0);
		u[i] = ((float)i + 0.5f) / N;
	}
	nt_scope_push();
	nt_tensor *at = nt_i64(lm->device, place, N);
	struct given g = { lm, nt_tree_new(length, parent, 4, lm->device), nt_rows(lm->cos[0], at), nt_rows(lm->sin[0], at),
			   nt_i64(lm->device, ids, N), nt_f32(lm->device, u, N) };
	if (table)
		fprintf(table, "this GPU's fast operations against plain ones, forward and backward, %d rows\n"
			"  %-22s %10s %10s %12s %12s\n", N, "", "off by", "plain by", "microseconds", "plain");
	for (size_t i = 0; i < NLA_LEN(operations) && !nt_check(); i++) {
		nt_scope_push();
		check(&operations[i], &g, table);
		nt_scope_pop();
	}
	nt_tree_free(g.tree);
	nt_scope_pop();
}
