/* The memory plan's arithmetic (plan.h): a model's sizes, a packed batch's, what a block holds, the stages, the choice. */
#include "run/plan.h"

#include "rl/score.h"

#define MIB ((int64_t)1 << 20)
#define GIB ((double)(1 << 30))
#define PROGRAM (320 * MIB)       /* CPU: libtorch itself */
#define MANY 32                   /* rows that decode at once: fewer waste the reading of the weights */
#define FEW 8                     /* responses below which a backward pass wastes its prompts and its matrix products */

/* ---- sizes of the model ---- */

static int64_t policies(const struct nla_plan_in *in) { return NLA_MAX(in->policies, 1); }
static int64_t samples(const struct nla_plan_in *in) { return in->prompts * in->group * policies(in); } /* of a step */

static int64_t size_of(nt_dtype dtype) { return dtype == NT_F32 ? 4 : 2; }
static int64_t element(const struct nla_plan_in *in) { return in->gpu ? size_of(in->dtype) : 4; } /* of activations */
/* libtorch's attention over padded rows instead of ours */
static bool pads(const struct nla_plan_in *in)
{
	return in->gpu ? in->dtype == NT_F32 || nt_fast_is_off(NT_FAST_ATTENTION) : in->plain;
}
static int64_t q_width(const struct nla_arch *a) { return a->n_heads * a->head_dim; }
static int64_t kv_width(const struct nla_arch *a) { return a->n_kv_heads * a->head_dim; }

int64_t nla_plan_weights(const struct nla_arch *arch, nt_dtype dtype)
{
	int64_t tables = arch->pattern > 1 ? 2 : 1;
	return nla_arch_n_params(arch) * size_of(dtype) +
	       tables * NLA_MIN(arch->max_position, NLA_MAX_POSITIONS) * arch->head_dim * 4;
}

int64_t nla_plan_loaded(const struct nla_target *target, const struct nla_half *av, const struct nla_half *ar)
{
	return nla_plan_weights(&target->lm.arch, target->lm.dtype) +
	       (av->own.blocks ? nla_plan_weights(&av->own.arch, av->own.dtype) : 0) +
	       (ar->own.blocks ? nla_plan_weights(&ar->own.arch, ar->own.dtype) : 0);
}

static int64_t adapter_params(const struct nla_arch *arch, const struct nla_adapter *a)
{
	int64_t n = 0;
	for (int p = 0; a && p < NLA_N_PROJ; p++)
		n += a->rank[p] * (nla_proj_in(arch, p) + nla_proj_out(arch, p)) * a->n_layers;
	return n;
}

/* ---- a packed batch ---- */

struct shape {
	int64_t tokens, rows, longest, context; /* longest: tokens of a row; context: with its ancestors */
	int64_t keys; /* of all rows, each with its ancestors' */
	int64_t predicted;
};

/* n responses over the prompts they need: the prompts' common head once, the rest once a prompt. */
static struct shape responses(const struct nla_plan_in *in, int64_t n)
{
	int64_t prompts = n ? (n + in->group - 1) / in->group : 0, rest = in->prompt - in->prompt_head,
		own = in->new_tokens - 1;
	return (struct shape){ .tokens = in->prompt_head + prompts * rest + n * own, .rows = 1 + prompts + n,
			       .keys = in->prompt_head + prompts * in->prompt + n * (in->prompt + own),
			       .longest = NLA_MAX(own, NLA_MAX(rest, in->prompt_head)), .context = in->prompt + own,
			       .predicted = n * in->new_tokens };
}

static struct shape texts(const struct nla_plan_in *in, int64_t n)
{
	int64_t one = in->ar_prompt;
	return (struct shape){ .tokens = n * one, .rows = n + 1, .keys = n * one, .longest = one, .context = one,
			       .predicted = n };
}

/* Who is run through: adapters over the weights; in an update the last is trained. */
struct who {
	const struct nla_adapter *adapters[2];
	int n;
};

static bool trains(const struct who *w, enum nla_proj p) { return w->n && w->adapters[w->n - 1]->rank[p] > 0; }

static struct who policy(const struct nla_plan_in *in, int copies)
{
	struct who w = { .n = 0 };
	if (in->av && !(copies & NLA_PLAN_ANCHOR))
		w.adapters[w.n++] = in->av;
	if (in->trained)
		w.adapters[w.n++] = in->trained;
	return w;
}

/* ---- a block ---- */

/* Norms of what attention and MLP add: each makes a sum and a norm where there was a projection alone. */
static int64_t out_norms(const struct nla_arch *a) { return nla_arch_has(a, "out_norm") ? 2 : 0; }

/* Numbers in fp32 for one that a norm reads, where it computes in another type than the rest. */
static int64_t norm_copies(const struct nla_plan_in *in)
{
	return nla_arch_has(in->arch, "norm_plus_one") && element(in) < 4 ? 4 / element(in) : 0;
}

/* What attention needs for itself. Over padded rows: queries, keys and values of all query heads, its output, the mask. Flash
 * attention: keys and values of each row; backward their gradients too, for all query heads first, and the queries' in fp32. */
static int64_t attention(const struct nla_plan_in *in, const struct shape *s, bool backward)
{
	const struct nla_arch *a = in->arch;
	int64_t q = q_width(a), kv = kv_width(a);
	if (pads(in))
		return s->rows * q * element(in) * 2 * (s->longest + s->context) + s->rows * s->longest * s->context;
	if (!in->gpu)
		return 0;
	return s->keys * 2 * element(in) * (backward ? 2 * kv + (q > kv ? q : 0) : kv) + (backward ? s->tokens * q * 4 : 0);
}

/* Bytes that live at the end of a block's forward pass: every intermediate of its scope (nla_forward_block). */
static int64_t block_scope(const struct nla_plan_in *in, const struct shape *s)
{
	const struct nla_arch *a = in->arch;
	int64_t d = a->d_model, q = q_width(a), kv = kv_width(a), f = a->d_ff;
	int64_t half = (2 + out_norms(a)) * d + (q + 2 * kv) + (q + kv) + q, mlp = (2 + out_norms(a)) * d + 3 * f;
	int64_t inside = NLA_MAX(in->plain ? f : d, 2 * norm_copies(in) * d);
	return s->tokens * element(in) * half + NLA_MAX(attention(in, s, false), s->tokens * element(in) * (mlp + inside));
}

/* Bytes that autograd saves of a block until its backward pass: what norms, rotation, attention and SwiGLU read, and what
 * trained adapters do. */
static int64_t block_saved(const struct nla_plan_in *in, const struct who *w, const struct shape *s)
{
	const struct nla_arch *a = in->arch;
	int64_t e = element(in), d = a->d_model, q = q_width(a), kv = kv_width(a), f = a->d_ff, ranks = 0;
	bool qkv = trains(w, NLA_Q) || trains(w, NLA_K) || trains(w, NLA_V), gate_up = trains(w, NLA_GATE) || trains(w, NLA_UP);
	for (int i = 0; i < w->n; i++)
		for (int p = 0; p < NLA_N_PROJ; p++)
			ranks += w->adapters[i]->rank[p];
	int64_t read = (2 + out_norms(a)) * NLA_MAX(norm_copies(in), 1) * d + (q + 2 * kv) + (q + kv) + q + 2 * f;
	int64_t trained = (qkv ? d : 0) + (gate_up ? d : 0) + (trains(w, NLA_DOWN) ? f : 0) + ranks;
	int64_t sums = 4 * (2 * a->n_heads + a->n_kv_heads + 2);
	return s->tokens * (e * (read + trained + (in->plain ? f : 0)) + sums) + (pads(in) ? attention(in, s, false) : 0);
}

/* Bytes on top of what is saved while gradients pass down through one block. At attention the MLP's half is freed. */
static int64_t block_gradients(const struct nla_plan_in *in, const struct shape *s)
{
	const struct nla_arch *a = in->arch;
	int64_t e = element(in), stream = (3 + out_norms(a) / 2 + 2 * norm_copies(in)) * a->d_model;
	int64_t mlp = (in->plain ? 4 : 3) * a->d_ff + stream;
	int64_t heads = 2 * (q_width(a) + 2 * kv_width(a)) + stream - (in->plain ? 3 : 2) * a->d_ff;
	return NLA_MAX(s->tokens * mlp * e, attention(in, s, true) + s->tokens * heads * e);
}

/* ---- the update ---- */

/* The peak is at the last block's backward pass, or before it, when only the chunk's logits add to what is kept. */
static int64_t backward(const struct nla_plan_in *in, const struct who *w, const struct shape *s, int64_t blocks,
			bool recompute, int64_t logits)
{
	int64_t e = element(in), d = in->arch->d_model, saved = block_saved(in, w, s), scope = block_scope(in, s);
	int64_t inputs = blocks * s->tokens * d * e, all = recompute ? inputs : blocks * saved;
	int64_t top = nla_beside_bytes(in->arch, w->adapters, w->n, e) + 2 * s->tokens * d * e + s->predicted * d * 3 * e;
	int64_t others = recompute ? inputs : (blocks - 1) * saved;
	return top + NLA_MAX(all + logits, others + NLA_MAX(scope, saved + block_gradients(in, s)));
}

int64_t nla_plan_update(const struct nla_plan_in *in, int64_t n, bool recompute, int64_t chunk, int64_t *logits)
{
	struct who w = policy(in, in->copies), ar = { .adapters = { in->ar }, .n = in->ar != NULL };
	struct shape s = in->ar_only ? texts(in, n) : responses(in, n), ar_texts = texts(in, n);
	int64_t row = in->arch->vocab * 4, rows = NLA_MIN(s.predicted, NLA_MAX(chunk / row, 1));
	int64_t z = in->ar_only ? 0 : rows * row * (in->gpu || in->plain ? 2 : 1);
	if (logits)
		*logits = z;
	return NLA_MAX(backward(in, &w, &s, in->ar_only ? in->ar_depth : in->arch->n_layers, recompute, z),
		       in->ar_trained ? backward(in, &ar, &ar_texts, in->ar_depth, recompute, 0) : 0);
}

/* ---- rollout and score ---- */

int64_t nla_plan_cache(const struct nla_plan_in *in, int64_t rows)
{
	return rows * (in->prompt + in->new_tokens) * 2 * kv_width(in->arch) * in->arch->n_layers * element(in);
}

/* A token's graph has memory of its own, for which what the prompts took is given back: the larger of both counts. */
int64_t nla_plan_decoding(const struct nla_plan_in *in, int64_t rows)
{
	const struct nla_arch *a = in->arch;
	struct who w = policy(in, in->copies);
	const bool decoder = in->copies & NLA_PLAN_DECODER;
	int64_t laid_out = policies(in) + (policies(in) > 1); /* several: a stack, and one's own for its prompts */
	int64_t beside = decoder ? 0 : nla_beside_bytes(a, w.adapters, w.n, element(in)) * laid_out;
	int64_t prompts = in->eval_rows ? rows : NLA_MIN(rows, in->prompts), slab = in->prompt + in->new_tokens,
		e = element(in);
	struct shape prefill = { .tokens = in->prompt_head + prompts * (in->prompt - in->prompt_head), .rows = 1 + prompts,
				 .keys = in->prompt_head + prompts * in->prompt,
				 .longest = NLA_MAX(in->prompt_head, in->prompt - in->prompt_head), .context = in->prompt };
	struct shape step = { .tokens = rows, .rows = 0, .longest = 0, .context = 0 };
	int64_t logits = rows * a->vocab * (in->plain ? e + 28 : 4);
	int64_t copied = in->plain ? rows * slab * (2 * q_width(a) + kv_width(a)) * e : 0;
	int64_t first = NLA_MAX(block_scope(in, &prefill), logits);
	int64_t merge = decoder ? NLA_MAX(a->d_ff, q_width(a)) * a->d_model * 4 : 0;
	return beside + NLA_MAX(merge, NLA_MAX(first, NLA_MAX(block_scope(in, &step) + copied, logits)));
}

static int64_t score(const struct nla_plan_in *in)
{
	int64_t n = NLA_MIN(NLA_MAX(NLA_SCORE_TOKENS / NLA_MAX(in->ar_prompt, 1), 1),
			    NLA_MAX(samples(in), in->eval_rows));
	struct shape s = texts(in, n);
	return nla_beside_bytes(in->arch, &in->ar, in->ar != NULL, element(in)) + block_scope(in, &s);
}

/* ---- the choice ---- */

/* A copy of `depth` blocks with adapters merged in: the matrices that they touch, all else is shared (nla_merge_copy). */
static int64_t copy(const struct nla_plan_in *in, const struct who *w, int64_t depth)
{
	const struct nla_lm lm = { .arch = *in->arch };
	int64_t n = 0;
	for (int p = 0; p < NLA_N_PROJ; p++) {
		const unsigned together = nla_proj_together(&lm, p);
		bool touched = false;
		for (int i = 0; i < w->n; i++)
			for (int q = 0; q < NLA_N_PROJ; q++)
				touched = touched || (together >> q & 1 && w->adapters[i]->rank[q] > 0);
		n += touched ? nla_proj_in(in->arch, p) * nla_proj_out(in->arch, p) : 0;
	}
	return n * depth * size_of(in->dtype);
}

static int64_t merged(const struct nla_plan_in *in, int copies)
{
	struct who rollout = policy(in, copies), anchor = { .adapters = { in->av }, .n = in->av != NULL };
	struct who reader = { .adapters = { in->ar }, .n = in->ar && !in->ar_trained };
	return (copies & NLA_PLAN_DECODER ? policies(in) * copy(in, &rollout, in->arch->n_layers) : 0) +
	       (copies & NLA_PLAN_ANCHOR ? copy(in, &anchor, in->arch->n_layers) + copy(in, &reader, in->ar_depth) : 0);
}

/* The sizes that do not depend on the stages; returns their sum. */
static int64_t standing(const struct nla_plan_in *in, struct nla_plan *p)
{
	const struct nla_arch *a = in->arch;
	int64_t head = in->ar_depth ? a->d_model * a->d_model * 4 : 0, trained = adapter_params(a, in->trained) * 4;
	int64_t ar = adapter_params(a, in->ar) * 4, ars = in->ar_trained ? policies(in) : 1;
	p->weights = in->weights;
	p->merged = merged(in, p->copies);
	p->adapters = adapter_params(a, in->av) * 4 + ars * (ar + head);
	p->optimizer = policies(in) * (4 * trained + (in->ar_trained ? 3 * ar : 0) + (in->head_trained ? 3 * head : 0));
	return p->weights + p->merged + p->adapters + p->optimizer + (in->gpu ? NLA_PLAN_CONTEXT : PROGRAM);
}

/* Everything for one choice of copies, recomputation and micro-batch, with as many rows decoded at once as fit. */
static void fill(const struct nla_plan_in *asked, int64_t room, int copies, bool recompute, int64_t micro, struct nla_plan *p)
{
	struct nla_plan_in in = *asked;
	int64_t rows = NLA_MAX(samples(&in), in.eval_rows), stage;
	in.copies = copies;
	*p = (struct nla_plan){ .copies = copies, .recompute = recompute, .micro_batch = micro, .room = room };
	int64_t fixed = standing(&in, p);
	p->chunk = !in.gpu ? NT_CHUNK_CPU : NLA_MIN(NLA_MAX(room / 128, 64 * MIB), NT_CHUNK_GPU);
	p->update = nla_plan_update(&in, micro, recompute, p->chunk, &p->logits);
	p->score = in.rollout ? score(&in) : 0;
	for (p->rows = in.rollout ? rows : 0;; p->rows = (p->rows + 1) / 2) {
		p->cache = nla_plan_cache(&in, p->rows);
		p->decoding = in.rollout ? nla_plan_decoding(&in, p->rows) : 0;
		stage = NLA_MAX(p->cache + p->decoding, NLA_MAX(p->score, p->update));
		p->head_room = (in.gpu ? NLA_PLAN_CONTEXT : PROGRAM) + stage / 10; /* allocators round and fragment */
		p->total = fixed + stage + stage / 10;
		p->fits = p->total <= room;
		if (p->fits || p->rows <= 1 || p->cache + p->decoding < stage)
			break;
	}
}

/*
 * In order of speed. Recomputing costs a forward pass (a third of the update) and copies save adapters' products, so copies go
 * before recomputation, and both before backward passes of a few responses. fp32 has 3, 1 or 0, bf16 2 or 0.
 */
void nla_plan_make(const struct nla_plan_in *in, int64_t room, struct nla_plan *plan)
{
	static const struct {
		int copies;
		bool recompute;
	} order[] = { { 3, false }, { 2, false }, { 1, false }, { 3, true }, { 2, true }, { 1, true },
		      { 0, false }, { 0, true } };
	const int64_t all = in->prompts * in->group, few = NLA_MIN(FEW, all), rows = in->rollout ? NLA_MIN(MANY, all) : 0;
	const int64_t most = in->micro_batch ? NLA_MIN(in->micro_batch, all) : all;
	struct nla_plan p;
	*plan = (struct nla_plan){ 0 };
	for (size_t i = 0; i < NLA_LEN(order); i++) {
		int choice = order[i].recompute ? NLA_RECOMPUTE_TRUE : NLA_RECOMPUTE_FALSE;
		if (order[i].copies & ~in->copies || (order[i].copies && (order[i].copies == 2) != (in->dtype != NT_F32)) ||
		    (in->recompute != NLA_RECOMPUTE_AUTO && in->recompute != choice))
			continue;
		int64_t micro = 2 * most;
		do { /* the largest that fits: all responses, or halves of that */
			micro = (micro + 1) / 2;
			fill(in, room, order[i].copies, order[i].recompute, micro, &p);
		} while (!p.fits && micro > 1 && !in->micro_batch);
		if (p.fits || (!plan->fits && (!plan->total || p.total <= plan->total))) /* the leanest, if none is ample */
			*plan = p;
		if (p.fits && p.rows >= rows && (p.micro_batch >= few || in->micro_batch))
			return;
	}
}

int64_t nla_plan_policies(const struct nla_plan_in *in, int64_t most, int64_t room)
{
	struct nla_plan_in several = *in;
	struct nla_plan p;
	for (several.policies = most; several.policies > 1; several.policies--) {
		nla_plan_make(&several, room, &p);
		if (p.fits)
			break;
	}
	return several.policies;
}

int64_t nla_plan_rows(const struct nla_plan_in *in, int64_t rows, int64_t room)
{
	struct nla_plan p = { .copies = in->copies };
	int64_t fixed = standing(in, &p);
	while (rows && fixed + (nla_plan_cache(in, rows) + nla_plan_decoding(in, rows)) / 10 * 11 > room)
		rows = rows > 1 ? (rows + 1) / 2 : 0;
	return rows;
}

char *nla_plan_words(const struct nla_plan_in *in, const struct nla_plan *p)
{
	struct nla_str s = NLA_STR_INIT;
	nla_str_addf(&s, "%.2f of %.1f GiB, %.2f of it head room: ", (double)p->total / GIB, (double)p->room / GIB,
		     (double)p->head_room / GIB);
	if (in->rollout)
		nla_str_addf(&s, "%s, %lld rows decode at once, ",
			     !p->merged ? "no merged copies" :
			     p->copies & NLA_PLAN_DECODER ? "adapters merged into copies" : "warm starts merged into copies",
			     (long long)p->rows);
	nla_str_addf(&s, "%lld %s a backward pass, blocks %s", (long long)p->micro_batch, in->rollout ? "responses" : "rows",
		     p->recompute ? "recomputed" : "kept");
	return nla_str_detach(&s);
}
