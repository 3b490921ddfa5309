/*
 * Sampling, see decode.h: the prompts' token tree once through the blocks, then x [live rows, D] a token at a time over each
 * block's slabs of keys and values [rows, positions, Hkv, d].
 *
 * A GPU draws a window of tokens without the host: what a token needs of the one before stays on the device, and the host looks
 * at a window's end which rows have stopped. What such a row drew behind its stop is not looked at; no other row sees it.
 */
#include "lm/decode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lm/beside.h"

#define WINDOW 8 /* a row wastes half of it at its end, and a look costs about a token's time */

struct state {
	const struct nla_decode *d;
	struct nla_view view; /* d's, its adapters laid out beside it */
	const struct nla_lm *lm;
	int64_t n_layers;
	nt_tensor **k, **v; /* [n_layers] the cache, of [n, S, Hkv, d] */
	int64_t n_live;
	int64_t *slot;   /* [n_live] sample numbers still running */
	int64_t *length; /* [n] tokens in each slab */
	int64_t *token;  /* [n_live] drawn last */
	/* while the prompts are computed: token `from` of the pack has its place in row `row` of the cache, at position `at` */
	nt_tensor *from, *row, *at;
};

/* What a token hands to the next, on the device, for n live rows; scope-owned. */
struct window {
	nt_tensor *token, *slot, *position; /* int64 [n]: drawn last; its row of the cache, and where its key goes there */
	nt_tensor *u;                       /* [tokens, n] */
	nt_tensor *ids, *logprob;           /* [tokens, n] drawn */
};

static void state_init(struct state *s, const struct nla_decode *d)
{
	const struct nla_lm *lm = d->view->lm;
	*s = (struct state){ .d = d, .view = *d->view, .lm = lm, .n_layers = lm->arch.n_layers, .n_live = d->n };
	s->k = nla_alloc((size_t)s->n_layers, sizeof(*s->k));
	s->v = nla_alloc((size_t)s->n_layers, sizeof(*s->v));
	s->slot = nla_alloc((size_t)d->n, sizeof(*s->slot));
	s->length = nla_alloc((size_t)d->n, sizeof(*s->length));
	s->token = nla_alloc((size_t)d->n, sizeof(*s->token));
	for (int64_t i = 0; i < d->n; i++)
		s->slot[i] = i;
}

static void state_release(struct state *s)
{
	for (int64_t l = 0; l < s->n_layers; l++) {
		nt_free(s->k[l]);
		nt_free(s->v[l]);
	}
	free(s->k);
	free(s->v);
	free(s->slot);
	free(s->length);
	free(s->token);
}

/* Checks that the longest row fits into the model's positions. */
static enum nla_status make_cache(struct state *s, struct nla_err *err)
{
	const struct nla_decode *d = s->d;
	int64_t longest = 0, positions = nt_size(s->lm->cos, 0);
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

static bool is_stop(const struct nla_decode *d, int64_t id)
{
	for (size_t i = 0; i < d->n_stop; i++)
		if (d->stop[i] == id)
			return true;
	return false;
}

/* u [tokens, n_live], from token t on. */
static nt_tensor *uniform(const struct state *s, int64_t t, int64_t tokens)
{
	const struct nla_decode *d = s->d;
	int64_t n = s->n_live, shape[2] = { tokens, n };
	nla_auto float *u = nla_alloc((size_t)(tokens * n), sizeof(*u));
	for (int64_t i = 0; i < tokens * n; i++)
		u[i] = nla_uniform(&d->rng, d->step, d->key[s->slot[i % n]], (uint32_t)(t + i / n));
	return nt_from_host(NT_F32, s->lm->device, u, 2, shape);
}

/* One token a live row from hidden [n_live, D]: ids [n_live], their log-probabilities. */
static nt_tensor *draw(const struct state *s, const nt_tensor *hidden, const nt_tensor *u, nt_tensor **logprob)
{
	nt_tensor *logits = nt_logits(nla_final_norm(&s->view, hidden), s->lm->head);
	return nt_sample(logits, u, s->d->temperature, logprob);
}

/* Take over what was drawn from token t on: ids, logprob [tokens, n_live]. Rows that end leave the live list. */
static enum nla_status absorb(struct state *s, const nt_tensor *ids, const nt_tensor *logprob, int64_t t, int64_t tokens,
			      struct nla_decoded *out, struct nla_err *err)
{
	const struct nla_decode *d = s->d;
	int64_t n = s->n_live, n_all = tokens * n;
	nla_auto int64_t *id = nla_alloc((size_t)n_all, sizeof(*id));
	nla_auto float *lp = nla_alloc((size_t)n_all, sizeof(*lp));
	if (nt_to_host_i64(ids, id, (size_t)n_all) || nt_to_host_f32(logprob, lp, (size_t)n_all))
		return NLA_OK; /* said by nla_decode */
	s->n_live = 0;
	for (int64_t i = 0; i < n; i++) {
		int64_t row = s->slot[i], last = t + tokens;
		for (int64_t k = i; k < n_all && !out->stopped[row]; k += n) {
			int64_t at = t + k / n;
			if (!isfinite(lp[k]))
				return nla_lm_blame(s->lm, lp + k, 1, err) ? err->status
				       : nla_fail(err, "cannot decode: the log-probability of token %lld is not finite",
						  (long long)at);
			out->ids[row * out->width + at] = (int32_t)id[k];
			out->logprob[row * out->width + at] = lp[k];
			out->length[row] = at + 1;
			out->stopped[row] = at + 1 > d->min_new_tokens && is_stop(d, id[k]);
		}
		if (out->stopped[row] || last == out->width)
			continue;
		s->slot[s->n_live] = row;
		s->token[s->n_live++] = id[n_all - n + i];
	}
	return NLA_OK;
}

/* One position further for every live row: returns hidden [n_live, D]. */
static nt_tensor *advance(const struct state *s, const struct window *w)
{
	const struct nla_view *view = &s->view;
	const struct nla_lm *lm = s->lm;
	nt_tensor *cos = nt_rows(lm->cos, w->position), *sin = nt_rows(lm->sin, w->position);
	nt_tensor *length = nt_add_scalar(w->position, 1), *x = nt_embedding(lm->embed, w->token);
	for (int64_t l = 0; l < s->n_layers; l++) {
		const struct nla_block *b = &lm->blocks[l];
		nt_tensor *q, *k, *v;
		nt_scope_push();
		nla_block_qkv(view, l, nt_rms_norm(x, b->attn_norm, lm->arch.rms_eps), &q, &k, &v);
		q = nt_rope_cached(&(struct nt_heads){ q, k, v, b->q_norm, b->k_norm, lm->arch.rms_eps, cos, sin }, s->k[l],
				   s->v[l], w->slot, w->position);
		q = nt_attention_cached(q, s->k[l], s->v[l], w->slot, length, 1 / sqrt((double)lm->arch.head_dim));
		x = nt_scope_pop_with(nla_block_finish(view, l, x, q));
	}
	return x;
}

/* Row i of x [.., n], as [n]: a view. */
static nt_tensor *line(const nt_tensor *x, int64_t i)
{
	int64_t n = x ? nt_size(x, 1) : 0;
	return nt_reshape(nt_narrow(x, 0, i, 1), 1, &n);
}

/* The window from token t on, as it begins. */
static void window_start(const struct state *s, struct window *w, int64_t t, int64_t tokens)
{
	int64_t n = s->n_live, shape[2] = { 3, n }, drawn[2] = { tokens, n };
	nla_auto int64_t *state = nla_alloc((size_t)(3 * n), sizeof(*state));
	for (int64_t i = 0; i < n; i++) {
		state[i] = s->token[i];
		state[n + i] = s->slot[i];
		state[2 * n + i] = s->length[s->slot[i]];
		s->length[s->slot[i]] += tokens;
	}
	nt_tensor *all = nt_from_host(NT_I64, s->lm->device, state, 2, shape);
	w->token = line(all, 0);
	w->slot = line(all, 1);
	w->position = line(all, 2);
	w->u = uniform(s, t, tokens);
	w->ids = nt_empty(NT_I64, s->lm->device, 2, drawn);
	w->logprob = nt_empty(NT_F32, s->lm->device, 2, drawn);
}

/* Token i of the window. */
static void window_step(const struct state *s, const struct window *w, int64_t i)
{
	nt_tensor *logprob, *ids = draw(s, advance(s, w), line(w->u, i), &logprob);
	nt_copy_into(line(w->ids, i), ids);
	nt_copy_into(line(w->logprob, i), logprob);
	nt_copy_into(w->token, ids);
	nt_copy_into(w->position, nt_add_scalar(w->position, 1));
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

/* Where the prompts' keys and values go. */
static void find_places(struct state *s)
{
	NLA_AUTO(nla_i64s_release) struct nla_i64s from = { 0 }, row = { 0 }, at = { 0 };
	for (int64_t i = 0; i < s->d->n; i++) {
		prompt_tokens(s->d->prompts, s->d->prompt_row[i], &from);
		for (s->length[i] = 0; row.n < from.n; s->length[i]++) {
			nla_i64s_push(&row, i);
			nla_i64s_push(&at, s->length[i]);
		}
	}
	s->from = nt_i64(s->lm->device, from.data, (int64_t)from.n);
	s->row = nt_i64(s->lm->device, row.data, (int64_t)row.n);
	s->at = nt_i64(s->lm->device, at.data, (int64_t)at.n);
}

/* Block by block, so that the prompts' keys and values are there twice for one block only. */
static void fill_block(int64_t layer, const nt_tensor *k, const nt_tensor *v, void *arg)
{
	const struct state *s = arg;
	nt_cache_put(s->k[layer], s->row, s->at, nt_rows(k, s->from));
	nt_cache_put(s->v[layer], s->row, s->at, nt_rows(v, s->from));
}

/* The prompts in one pass; first tokens are drawn from it. */
static enum nla_status prefill(struct state *s, struct nla_decoded *out, struct nla_err *err)
{
	const struct nla_decode *d = s->d;
	nla_auto int64_t *last = nla_alloc((size_t)d->n, sizeof(*last));
	for (int64_t i = 0; i < d->n; i++)
		last[i] = nla_pack_last(d->prompts, d->prompt_row[i]);
	nt_scope_push();
	find_places(s);
	const struct nla_tap fill = { .kv = fill_block, .arg = s };
	nt_tensor *x = nla_forward(&s->view, d->prompts, d->inject, s->n_layers, &fill);
	nt_decoding(true); /* from here on however many rows are left: a text must not depend on when others end */
	if (nt_check())
		nla_nt_fail(err, "cannot compute the prompts");
	else {
		nt_tensor *logprob, *end = nt_rows(x, nt_i64(s->lm->device, last, d->n));
		nt_tensor *ids = draw(s, end, line(uniform(s, 0, 1), 0), &logprob);
		absorb(s, ids, logprob, 0, 1, out, err);
	}
	nt_scope_pop();
	return err->status;
}

static void decode_window(struct state *s, int64_t t, int64_t tokens, struct nla_decoded *out, struct nla_err *err)
{
	struct window w;
	nt_scope_push();
	window_start(s, &w, t, tokens);
	for (int64_t i = 0; i < tokens; i++) {
		nt_scope_push();
		window_step(s, &w, i);
		nt_scope_pop();
	}
	absorb(s, w.ids, w.logprob, t, tokens, out, err);
	nt_scope_pop();
}

enum nla_status nla_decode(const struct nla_decode *d, struct nla_decoded *out, struct nla_err *err)
{
	struct state s;
	int64_t tokens = d->window ? d->window : d->view->lm->device == NT_CPU ? 1 : WINDOW;
	state_init(&s, d);
	nla_decoded_init(out, d->n, d->max_new_tokens);
	nt_grad_push(false);
	struct nla_beside *beside = nla_beside_make(d->view, err);
	s.view.beside = beside;
	if (!err->status && !make_cache(&s, err) && !prefill(&s, out, err))
		for (int64_t t = 1; s.n_live && !err->status && !nt_check(); t += tokens)
			decode_window(&s, t, NLA_MIN(tokens, out->width - t), out, err);
	if (!err->status && nt_check())
		nla_nt_fail(err, "cannot decode");
	nt_decoding(false);
	nt_grad_pop();
	nla_beside_free(beside, s.n_layers);
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

void nla_decoded_put(struct nla_decoded *to, int64_t at, const struct nla_decoded *part)
{
	size_t n = (size_t)part->n, cells = n * (size_t)part->width;
	memcpy(to->ids + at * to->width, part->ids, cells * sizeof(*to->ids));
	memcpy(to->logprob + at * to->width, part->logprob, cells * sizeof(*to->logprob));
	memcpy(to->length + at, part->length, n * sizeof(*to->length));
	memcpy(to->stopped + at, part->stopped, n * sizeof(*to->stopped));
}

void nla_decoded_release(struct nla_decoded *out)
{
	free(out->ids);
	free(out->logprob);
	free(out->length);
	free(out->stopped);
	*out = (struct nla_decoded){ 0 };
}
