/*
 * Sampling, see decode.h: the prompts' token tree once through the blocks, then x [live rows, D] a token at a time over each
 * block's slabs of keys and values [rows, positions, Hkv, d].
 */
#include "lm/decode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct state {
	const struct nla_decode *d;
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

static void state_init(struct state *s, const struct nla_decode *d)
{
	*s = (struct state){ .d = d, .lm = d->view->lm, .n_layers = d->view->lm->arch.n_layers, .n_live = d->n };
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
	for (int64_t l = 0; l < s->n_layers; l++) {
		s->k[l] = nt_own(nt_zeros(s->lm->dtype, s->lm->device, 4, shape));
		s->v[l] = nt_own(nt_zeros(s->lm->dtype, s->lm->device, 4, shape));
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

/* Draw one token a live row from hidden [n_live, D]; rows that end leave the live list. */
static enum nla_status draw(struct state *s, const nt_tensor *hidden, int64_t t, struct nla_decoded *out, struct nla_err *err)
{
	const struct nla_decode *d = s->d;
	int64_t n = s->n_live;
	float *u = nla_alloc((size_t)n, sizeof(float)), *lp = nla_alloc((size_t)n, sizeof(float));
	nt_tensor *logprob;
	for (int64_t i = 0; i < n; i++)
		u[i] = nla_uniform(&d->rng, d->step, d->key[s->slot[i]], (uint32_t)t);
	nt_tensor *logits = nt_linear(nla_final_norm(d->view, hidden), s->lm->head, NULL);
	nt_tensor *ids = nt_sample(logits, nt_f32(s->lm->device, u, n), d->temperature, &logprob);
	if (!nt_to_host_i64(ids, s->token, (size_t)n) && !nt_to_host_f32(logprob, lp, (size_t)n)) {
		s->n_live = 0;
		for (int64_t i = 0; i < n && !err->status; i++) {
			int64_t row = s->slot[i], id = s->token[i];
			if (!isfinite(lp[i]) && !nla_lm_blame(s->lm, lp, (size_t)n, err))
				nla_fail(err, "cannot decode: the log-probability of token %lld is not finite", (long long)t);
			out->ids[row * out->width + t] = (int32_t)id;
			out->logprob[row * out->width + t] = lp[i];
			out->length[row] = t + 1;
			out->stopped[row] = t + 1 > d->min_new_tokens && is_stop(d, id);
			if (out->stopped[row] || t + 1 == out->width)
				continue;
			s->slot[s->n_live] = row;
			s->token[s->n_live++] = id;
		}
	}
	free(u);
	free(lp);
	return err->status;
}

/* One position further for every live row: returns hidden [n_live, D]. */
static nt_tensor *advance(struct state *s)
{
	const struct nla_view *view = s->d->view;
	const struct nla_lm *lm = s->lm;
	int64_t n = s->n_live, *at = nla_alloc((size_t)n, sizeof(*at)), *length = nla_alloc((size_t)n, sizeof(*length));
	for (int64_t i = 0; i < n; i++) {
		at[i] = s->length[s->slot[i]]++;
		length[i] = at[i] + 1;
	}
	nt_tensor *slot = nt_i64(lm->device, s->slot, n), *pos = nt_i64(lm->device, at, n);
	nt_tensor *len = nt_i64(lm->device, length, n), *cos = nt_rows(lm->cos, pos), *sin = nt_rows(lm->sin, pos);
	nt_tensor *x = nt_embedding(lm->embed, nt_i64(lm->device, s->token, n));
	for (int64_t l = 0; l < s->n_layers; l++) {
		nt_tensor *q, *k, *v;
		nt_scope_push();
		nla_block_qkv(view, l, nt_rms_norm(x, lm->blocks[l].attn_norm, lm->arch.rms_eps), &q, &k, &v);
		nla_block_rope(view, l, cos, sin, &q, &k);
		nt_cache_put(s->k[l], slot, pos, k);
		nt_cache_put(s->v[l], slot, pos, v);
		q = nt_attention_cached(q, s->k[l], s->v[l], slot, len, 1 / sqrt((double)lm->arch.head_dim));
		x = nt_scope_pop_with(nla_block_finish(view, l, x, q));
	}
	free(at);
	free(length);
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
	nt_tensor *x = nla_forward(d->view, d->prompts, d->inject, s->n_layers, &fill);
	nt_decoding(true); /* from here on however many rows are left: a text must not depend on when others end */
	if (nt_check())
		nla_nt_fail(err, "cannot compute the prompts");
	else
		draw(s, nt_rows(x, nt_i64(s->lm->device, last, d->n)), 0, out, err);
	nt_scope_pop();
	return err->status;
}

enum nla_status nla_decode(const struct nla_decode *d, struct nla_decoded *out, struct nla_err *err)
{
	struct state s;
	state_init(&s, d);
	nla_decoded_init(out, d->n, d->max_new_tokens);
	nt_grad_push(false);
	if (!make_cache(&s, err) && !prefill(&s, out, err))
		for (int64_t t = 1; s.n_live && !err->status && !nt_check(); t++) {
			nt_scope_push();
			draw(&s, advance(&s), t, out, err);
			nt_scope_pop();
		}
	if (!err->status && nt_check())
		nla_nt_fail(err, "cannot decode");
	nt_decoding(false);
	nt_grad_pop();
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
