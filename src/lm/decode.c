/*
 * Sampling, see decode.h: the prompts' token tree once through the blocks, then x [batch, D] a token at a time over each
 * block's slabs of keys and values [rows, positions, Hkv, d].
 *
 * What a token needs of the one before stays on the device, so a GPU draws the next one, as one graph, while the host looks
 * which rows have stopped: it waits for the host only where the batch changes. A graph has a fixed number of rows: those that
 * have stopped go on drawing until the others fit into fewer. Nobody looks at what they draw, and what a row reads (its slab,
 * its random numbers) is its own, so a text does not depend on when others end.
 */
#include "lm/decode.h"
#include "base/progress.h"

#define EVERY 8  /* tokens: a batch gets smaller no more often, as its rows may end one soon after the other */
#define WORTH 16 /* tokens to come for which a graph is made: it costs about as much as three without */

struct state {
	const struct nla_decode *d;
	struct nla_view view; /* d's, their adapters laid out */
	const struct nla_lm *lm;
	int64_t n_views, share; /* samples of each view */
	int64_t n_layers;
	nt_tensor **k, **v; /* [n_layers] the cache, of [n, S, Hkv, d] */
	nt_tensor *u;       /* [max_new_tokens, n] random numbers */
	int64_t *prompt;    /* [n] tokens of the prompt */
	/* the rows that advance together, where they are as long as the graph lives */
	int64_t n_batch, *of_view, *of_row; /* [n_views] of them, by view; [n_batch] their sample numbers */
	nt_tensor *token, *row; /* int64 [n_batch]: drawn last; sample number, which is the cache's slab */
	nt_tensor *logprob;     /* [n_batch] of what was drawn last */
	nt_tensor *at;          /* int64 [2 n_batch]: where the next key goes; number of the next token, of all the same */
	nt_graph *graph;        /* of one token; NULL: it is computed as it comes */
	bool tried;             /* to make one for these rows */
	/* tokens that were drawn, and looked at; [max_new_tokens] what is on its way to the host: token, logprob */
	int64_t drawn, seen;
	nt_tensor **ids, **logprobs;
	/* while the prompts are computed: token `from` of the pack has its place in slab `to` of the cache, at `place` */
	nt_tensor *from, *to, *place;
};

static bool on_gpu(const struct state *s) { return s->lm->device != NT_CPU; }

static void state_init(struct state *s, const struct nla_decode *d)
{
	const struct nla_lm *lm = d->view->lm;
	*s = (struct state){ .d = d, .lm = lm, .n_views = NLA_MAX(d->n_views, 1), .n_layers = lm->arch.n_layers };
	s->share = d->n / s->n_views;
	s->of_view = nla_alloc((size_t)s->n_views, sizeof(*s->of_view));
	s->k = nla_alloc((size_t)s->n_layers, sizeof(*s->k));
	s->v = nla_alloc((size_t)s->n_layers, sizeof(*s->v));
	s->prompt = nla_alloc((size_t)d->n, sizeof(*s->prompt));
	s->of_row = nla_alloc((size_t)d->n, sizeof(*s->of_row));
	s->ids = nla_alloc((size_t)d->max_new_tokens, sizeof(*s->ids));
	s->logprobs = nla_alloc((size_t)d->max_new_tokens, sizeof(*s->logprobs));
}

static void batch_release(struct state *s)
{
	nt_graph_free(s->graph);
	nt_free(s->token);
	nt_free(s->row);
	nt_free(s->at);
	nt_free(s->logprob);
	s->graph = NULL;
	s->tried = false;
	s->token = s->row = s->at = s->logprob = NULL;
}

static void state_release(struct state *s)
{
	batch_release(s);
	for (int64_t l = 0; l < s->n_layers; l++) {
		nt_free(s->k[l]);
		nt_free(s->v[l]);
	}
	for (int64_t t = s->seen; t < s->drawn; t++) {
		nt_free(s->ids[t]);
		nt_free(s->logprobs[t]);
	}
	nt_free(s->u);
	free(s->k);
	free(s->v);
	free(s->ids);
	free(s->logprobs);
	free(s->prompt);
	free(s->of_row);
	free(s->of_view);
}

/* Checks that the longest row fits into the model's positions. */
static enum nla_status make_cache(struct state *s, struct nla_err *err)
{
	const struct nla_decode *d = s->d;
	int64_t longest = 0, positions = nt_size(s->lm->cos[0], 0);
	for (int64_t i = 0; i < d->n; i++)
		longest = NLA_MAX(longest, nla_pack_end(d->prompts, d->prompt_row[i]));
	if (longest + d->max_new_tokens - 1 > positions)
		return nla_fail(err, "a prompt of %lld tokens and %lld new ones are more than the model's %lld positions: "
				"lower max_new_tokens", (long long)longest, (long long)d->max_new_tokens, (long long)positions);
	int64_t shape[4] = { d->n, longest + d->max_new_tokens, s->lm->arch.n_kv_heads, s->lm->arch.head_dim };
	nt_dtype dtype = nla_compute_dtype(s->lm);
	for (int64_t l = 0; l < s->n_layers; l++) {
		s->k[l] = nt_own(nt_zeros(dtype, s->lm->device, 4, shape));
		s->v[l] = nt_own(nt_zeros(dtype, s->lm->device, 4, shape));
	}
	return !nt_check() ? NLA_OK : nla_nt_fail(err, "cannot make a key/value cache of %lld rows of %lld tokens",
						  (long long)shape[0], (long long)shape[1]);
}

static void make_random(struct state *s)
{
	const struct nla_decode *d = s->d;
	int64_t n = d->n, shape[2] = { d->max_new_tokens, n };
	nla_auto float *u = nla_alloc((size_t)(shape[0] * n), sizeof(*u));
	for (int64_t i = 0; i < shape[0] * n; i++)
		u[i] = nla_uniform(&d->rng, d->step, d->key[i % n], (uint32_t)(i / n));
	s->u = nt_own(nt_from_host(NT_F32, s->lm->device, u, 2, shape));
}

/* Rows of a batch with room for n: few sizes, as each has its graph. Below 64 rows a token takes what its weights take. */
static int64_t batch_of(int64_t n)
{
	int64_t size = 8;
	while (size < n)
		size += size < 64 ? size : size & (size - 1) ? size / 3 : size / 2;
	return size;
}

/* How many rows of each view the next batch has: those that have not stopped; on a GPU of each as many as of the one with the
 * most, and others up to such a size. Returns their sum. */
static int64_t size_batch(const struct state *s, const struct nla_decoded *out, int64_t *of_view)
{
	int64_t most = 0, size = 0;
	for (int64_t v = 0; v < s->n_views; v++) {
		of_view[v] = 0;
		for (int64_t i = v * s->share; i < (v + 1) * s->share; i++)
			of_view[v] += !out->stopped[i];
		most = NLA_MAX(most, of_view[v]);
	}
	for (int64_t v = 0; v < s->n_views; v++) {
		if (on_gpu(s) && most)
			of_view[v] = NLA_MIN(batch_of(most), s->share);
		size += of_view[v];
	}
	return size;
}

/* Take over token t of the batch's rows. */
static enum nla_status absorb(const struct state *s, int64_t t, struct nla_decoded *out, struct nla_err *err)
{
	const struct nla_decode *d = s->d;
	const size_t n = (size_t)s->n_batch;
	nla_auto int64_t *id = nla_alloc(n, sizeof(*id));
	nla_auto float *lp = nla_alloc(n, sizeof(*lp));
	if (nt_check() || nt_to_host_i64(s->ids[t], id, n) || nt_to_host_f32(s->logprobs[t], lp, n))
		return NLA_OK; /* said by nla_decode */
	for (size_t k = 0; k < n; k++) {
		const int64_t row = s->of_row[k];
		if (out->stopped[row])
			continue;
		if (!isfinite(lp[k]))
			return nla_lm_blame(s->lm, lp + k, 1, err) ? err->status
			       : nla_fail(err, "cannot decode: the log-probability of token %lld is not finite", (long long)t);
		out->ids[row * out->width + t] = (int32_t)id[k];
		out->logprob[row * out->width + t] = lp[k];
		out->length[row] = t + 1;
		out->stopped[row] = d->stop && t + 1 > d->min_new_tokens && nla_i32s_has(d->stop, (int32_t)id[k]);
	}
	return NLA_OK;
}

/* At what was drawn, but for the last `ahead` tokens. */
static enum nla_status look(struct state *s, int64_t ahead, struct nla_decoded *out, struct nla_err *err)
{
	for (; s->seen < s->drawn - ahead && !absorb(s, s->seen, out, err) && !nt_check(); s->seen++) {
		nt_free(s->ids[s->seen]);
		nt_free(s->logprobs[s->seen]);
	}
	return err->status;
}

/* The batch of the next token: the rows that have not stopped, and on a GPU others up to such a size. False when there is no
 * more to draw. */
static bool regroup(struct state *s, struct nla_decoded *out, struct nla_err *err)
{
	nla_auto int64_t *of_view = nla_alloc((size_t)s->n_views, sizeof(*of_view));
	int64_t k = 0, end = 0, t = s->drawn, size = size_batch(s, out, of_view);
	if (!size || t >= out->width || err->status || nt_check())
		return false;
	if (s->n_batch && (size == s->n_batch || (on_gpu(s) && ((t - 1) % EVERY || out->width - t <= WORTH))))
		return true;
	if (look(s, 0, out, err) || nt_check() || !(size = size_batch(s, out, of_view)))
		return false;
	memcpy(s->of_view, of_view, (size_t)s->n_views * sizeof(*of_view));
	nla_auto int64_t *state = nla_alloc((size_t)(4 * size), sizeof(*state));
	for (int64_t v = 0; v < s->n_views; v++) {
		end += of_view[v];
		for (int stopped = 0; stopped < 2; stopped++)
			for (int64_t i = v * s->share; i < (v + 1) * s->share && k < end; i++)
				if (out->stopped[i] == stopped) {
					state[k] = t ? NLA_MAX(out->ids[i * out->width + t - 1], 0) : 0;
					state[size + k] = s->of_row[k] = i;
					state[2 * size + k] = s->prompt[i] + t - 1;
					state[3 * size + k++] = t;
				}
	}
	batch_release(s);
	nt_scope_push();
	nt_tensor *all = nt_i64(s->lm->device, state, 4 * size);
	s->token = nt_own(nt_narrow(all, 0, 0, size));
	s->row = nt_own(nt_narrow(all, 0, size, size));
	s->at = nt_own(nt_narrow(all, 0, 2 * size, 2 * size));
	s->logprob = nt_own(nt_empty(NT_F32, s->lm->device, 1, &size));
	nt_scope_pop();
	s->n_batch = size;
	return !nt_check();
}

/* One token a row from hidden [n_batch, D]; then the batch is at `next`. */
static void draw(const struct state *s, const nt_tensor *hidden, const nt_tensor *next)
{
	nt_tensor *t = nt_narrow(s->at, 0, s->n_batch, s->n_batch), *logprob;
	nt_tensor *u = nt_rows(nt_reshape(nt_rows(s->u, nt_narrow(t, 0, 0, 1)), 1, &s->d->n), s->row);
	nt_tensor *logits = nt_logits(nla_final_norm(&s->view, hidden), s->lm->head);
	nt_tensor *ids = nt_sample(logits, u, s->d->temperature, &logprob);
	nt_copy_into(s->logprob, logprob);
	nt_copy_into(s->token, ids);
	nt_copy_into(s->at, next);
}

/* What was drawn sets out for the host, which looks at what was drawn before. */
static void hand_over(struct state *s, struct nla_decoded *out, struct nla_err *err)
{
	s->ids[s->drawn] = nt_own(nt_fetch(s->token));
	s->logprobs[s->drawn++] = nt_own(nt_fetch(s->logprob));
	look(s, s->d->ahead ? s->d->ahead : on_gpu(s), out, err);
}

/* One position further for every row of the batch, to `next`: returns hidden [n_batch, D]. */
static nt_tensor *advance(const struct state *s, const nt_tensor *next)
{
	const struct nla_view *view = &s->view;
	const struct nla_lm *lm = s->lm;
	nt_tensor *position = nt_narrow(s->at, 0, 0, s->n_batch), *length = nt_narrow(next, 0, 0, s->n_batch);
	nt_tensor *cos[2], *sin[2], *x = nla_embed(lm, s->token);
	for (int i = 0; i < 2 && lm->cos[i]; i++) {
		cos[i] = nt_rows(lm->cos[i], position);
		sin[i] = nt_rows(lm->sin[i], position);
	}
	for (int64_t l = 0; l < s->n_layers; l++) {
		const struct nla_block *b = &lm->blocks[l];
		const bool local = nla_arch_local(&lm->arch, l);
		nt_tensor *qkv[3], *q;
		nt_scope_push();
		nla_block_qkv(view, l, nt_rms_norm(x, b->attn_norm, lm->arch.rms_eps), qkv);
		const struct nt_heads heads = { qkv[0], qkv[1], qkv[2], b->q_norm, b->k_norm, lm->arch.rms_eps, cos[local],
						sin[local] };
		q = nt_rope_cached(&heads, s->k[l], s->v[l], s->row, position);
		q = nt_attention_cached(q, s->k[l], s->v[l], s->row, length, nla_window(&lm->arch, l),
					nla_score_scale(&lm->arch));
		x = nt_scope_pop_with(nla_block_finish(view, l, x, q));
	}
	return x;
}

/* Token indices of a row's whole prompt, ancestors first. */
static void prompt_tokens(const struct nla_pack *p, int64_t row, struct nla_i64s *out)
{
	if (row < 0)
		return;
	prompt_tokens(p, p->parent.data[row], out);
	for (int64_t i = 0; i < p->length.data[row]; i++)
		nla_i64s_push(out, p->start.data[row] + i);
}

/* Where the prompts' keys and values go that samples [first, end) continue. */
static void find_places(struct state *s, int64_t first, int64_t end)
{
	NLA_AUTO(nla_i64s_release) struct nla_i64s from = { 0 }, to = { 0 }, place = { 0 };
	for (int64_t i = first; i < end; i++) {
		prompt_tokens(s->d->prompts, s->d->prompt_row[i], &from);
		for (s->prompt[i] = 0; to.n < from.n; s->prompt[i]++) {
			nla_i64s_push(&to, i);
			nla_i64s_push(&place, s->prompt[i]);
		}
	}
	s->from = nt_i64(s->lm->device, from.data, (int64_t)from.n);
	s->to = nt_i64(s->lm->device, to.data, (int64_t)to.n);
	s->place = nt_i64(s->lm->device, place.data, (int64_t)place.n);
}

/* Block by block, so that the prompts' keys and values are there twice for one block only. */
static void fill_block(int64_t layer, const nt_tensor *k, const nt_tensor *v, void *arg)
{
	const struct state *s = arg;
	nt_cache_put(s->k[layer], s->to, s->place, nt_rows(k, s->from));
	nt_cache_put(s->v[layer], s->to, s->place, nt_rows(v, s->from));
}

/* The prompts by one view, into the cache of its samples: hidden [share, D] at the last token before each. */
static nt_tensor *prefill_view(struct state *s, int64_t v)
{
	const struct nla_decode *d = s->d;
	const struct nla_tap fill = { .kv = fill_block, .arg = s };
	nla_auto int64_t *last = nla_alloc((size_t)s->share, sizeof(*last));
	for (int64_t i = 0; i < s->share; i++)
		last[i] = nla_pack_last(d->prompts, d->prompt_row[v * s->share + i]);
	nt_scope_push();
	find_places(s, v * s->share, (v + 1) * s->share);
	nt_tensor *x = nla_forward(s->n_views > 1 ? &d->view[v] : &s->view, d->prompts, d->inject, s->n_layers, &fill);
	return nt_scope_pop_with(nt_rows(x, nt_i64(s->lm->device, last, s->share)));
}

/* The prompts in one pass a view; first tokens are drawn from it. */
static enum nla_status prefill(struct state *s, struct nla_decoded *out, struct nla_err *err)
{
	nla_auto nt_tensor **x = nla_alloc((size_t)s->n_views, sizeof(*x));
	nt_scope_push();
	make_random(s);
	for (int64_t v = 0; v < s->n_views; v++)
		x[v] = prefill_view(s, v);
	nt_decoding(true); /* from here on however many rows are left: a text must not depend on when others end */
	if (nt_check())
		nla_nt_fail(err, "cannot compute the prompts");
	else if (regroup(s, out, err)) {
		draw(s, s->n_views > 1 ? nt_cat(x, (int)s->n_views, 0) : x[0], nt_add_scalar(s->at, 1));
		hand_over(s, out, err);
	}
	nt_scope_pop();
	return err->status;
}

static void step(void *arg)
{
	const struct state *s = arg;
	nt_scope_push();
	nt_tensor *next = nt_add_scalar(s->at, 1);
	draw(s, advance(s, next), next);
	nt_scope_pop();
}

/* The graph of a step, after one that has started what may not start in a graph. */
static void capture(struct state *s)
{
	static bool refused, said;
	if (refused || s->tried || !on_gpu(s) || nt_check())
		return;
	s->tried = true;
	s->graph = nt_graph_capture(s->lm->device, step, s);
	if (s->graph)
		return;
	refused = nt_check() != NT_OUT_OF_MEMORY; /* no GPU that refuses one is asked again; memory may be there later */
	if (!said)
		nla_say("decoding without graphs, which is slower: %s", nt_error());
	said = true;
	nt_clear();
}

static void next_token(struct state *s, struct nla_decoded *out, struct nla_err *err)
{
	if (s->graph)
		nt_graph_replay(s->graph);
	else
		step(s);
	if (!s->graph && s->d->max_new_tokens - s->drawn > WORTH)
		capture(s);
	hand_over(s, out, err);
}

enum nla_status nla_decode(const struct nla_decode *d, struct nla_decoded *out, struct nla_err *err)
{
	struct state s;
	state_init(&s, d);
	nla_decoded_init(out, d->n, d->max_new_tokens);
	nt_grad_push(false);
	s.view = nla_beside_stack(d->view, s.n_views, s.of_view);
	if (!make_cache(&s, err) && !prefill(&s, out, err))
		while (regroup(&s, out, err))
			next_token(&s, out, err);
	if (!err->status)
		look(&s, 0, out, err);
	if (!err->status && nt_check())
		nla_nt_fail(err, "cannot decode");
	nt_decoding(false);
	nt_grad_pop();
	nla_beside_close(&s.view);
	state_release(&s);
	if (err->status)
		nla_decoded_release(out);
	return err->status;
}

void nla_decoded_init(struct nla_decoded *out, int64_t n, int64_t width)
{
	*out = (struct nla_decoded){ .n = n, .width = width };
	out->ids = nla_alloc((size_t)(n * width), sizeof(*out->ids));
	out->logprob = nla_alloc((size_t)(n * width), sizeof(*out->logprob));
	out->length = nla_alloc((size_t)n, sizeof(*out->length));
	out->stopped = nla_alloc((size_t)n, sizeof(*out->stopped));
	for (int64_t i = 0; i < n * width; i++)
		out->ids[i] = -1;
}

void nla_decoded_put(struct nla_decoded *to, int64_t at, const struct nla_decoded *part, int64_t from, int64_t rows)
{
	const int64_t first = from * part->width;
	size_t n = (size_t)rows, cells = n * (size_t)part->width;
	memcpy(to->ids + at * to->width, part->ids + first, cells * sizeof(*to->ids));
	memcpy(to->logprob + at * to->width, part->logprob + first, cells * sizeof(*to->logprob));
	memcpy(to->length + at, part->length + from, n * sizeof(*to->length));
	memcpy(to->stopped + at, part->stopped + from, n * sizeof(*to->stopped));
}

void nla_decoded_release(struct nla_decoded *out)
{
	free(out->ids);
	free(out->logprob);
	free(out->length);
	free(out->stopped);
	*out = (struct nla_decoded){ 0 };
}
