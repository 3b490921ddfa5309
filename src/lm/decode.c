/*
 * Sampling, see decode.h: the prompts' token tree once through the blocks, then x [live rows, D] a token at a time over each
 * block's slabs of keys and values [rows, positions, Hkv, d].
 */
#include "lm/decode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct cache {
	nt_tensor **k, **v; /* [n_layers] of [n, S, Hkv, d] */
};

struct state {
	const struct nla_decode *d;
	const struct nla_arch *arch;
	struct cache cache;
	int64_t n_live;
	int64_t *slot;   /* [n_live] sample numbers still running */
	int64_t *length; /* [n] tokens in each slab */
	int64_t *token;  /* [n_live] drawn last */
};

static enum nla_status make_cache(struct state *s, int64_t slab, struct nla_err *err)
{
	const struct nla_lm *lm = s->d->view->lm;
	int64_t shape[4] = { s->d->n, slab, s->arch->n_kv_heads, s->arch->head_dim };
	s->cache.k = nla_alloc((size_t)s->arch->n_layers, sizeof(nt_tensor *));
	s->cache.v = nla_alloc((size_t)s->arch->n_layers, sizeof(nt_tensor *));
	for (int64_t l = 0; l < s->arch->n_layers; l++) {
		s->cache.k[l] = nt_own(nt_zeros(lm->dtype, lm->device, 4, shape));
		s->cache.v[l] = nt_own(nt_zeros(lm->dtype, lm->device, 4, shape));
	}
	return nt_check() ? nla_nt_fail(err, "cannot make a key/value cache of %lld rows of %lld tokens", (long long)s->d->n,
					(long long)slab)
			  : NLA_OK;
}

static void free_cache(struct state *s)
{
	for (int64_t l = 0; s->cache.k && l < s->arch->n_layers; l++) {
		nt_free(s->cache.k[l]);
		nt_free(s->cache.v[l]);
	}
	free(s->cache.k);
	free(s->cache.v);
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

/* Where the prompts' keys and values go: token `from` of the pack to row `row` of the cache, position `at`. */
struct filling {
	struct state *s;
	nt_tensor *from, *row, *at;
};

static void start_filling(struct filling *f, struct state *s)
{
	struct nla_i64s from = { 0 }, row = { 0 }, at = { 0 };
	int device = s->d->view->lm->device;
	for (int64_t i = 0; i < s->d->n; i++) {
		size_t before = from.n;
		prompt_tokens(s->d->prompts, s->d->prompt_row[i], &from);
		s->length[i] = (int64_t)(from.n - before);
		for (int64_t j = 0; j < s->length[i]; j++) {
			nla_i64s_push(&row, i);
			nla_i64s_push(&at, j);
		}
	}
	*f = (struct filling){ s, nt_i64(device, from.data, (int64_t)from.n), nt_i64(device, row.data, (int64_t)row.n),
			       nt_i64(device, at.data, (int64_t)at.n) };
	nla_i64s_release(&from);
	nla_i64s_release(&row);
	nla_i64s_release(&at);
}

/* Block by block, so that the prompts' keys and values stand twice for one block only. */
static void fill_block(int64_t layer, const nt_tensor *k, const nt_tensor *v, void *arg)
{
	const struct filling *f = arg;
	nt_cache_put(f->s->cache.k[layer], f->row, f->at, nt_rows(k, f->from));
	nt_cache_put(f->s->cache.v[layer], f->row, f->at, nt_rows(v, f->from));
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
	nt_tensor *logits = nt_linear(nla_final_norm(d->view, hidden), d->view->lm->head, NULL);
	nt_tensor *ids = nt_sample(logits, nt_f32(d->view->lm->device, u, n), d->temperature, &logprob);
	if (!nt_to_host_i64(ids, s->token, (size_t)n) && !nt_to_host_f32(logprob, lp, (size_t)n)) {
		s->n_live = 0;
		for (int64_t i = 0; i < n && !err->status; i++) {
			int64_t row = s->slot[i], id = s->token[i];
			if (!isfinite(lp[i]) && !nla_lm_blame(d->view->lm, lp, (size_t)n, err))
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
	const struct nla_lm *lm = view->lm;
	int64_t *at = nla_alloc((size_t)s->n_live, sizeof(*at)), *length = nla_alloc((size_t)s->n_live, sizeof(*length));
	for (int64_t i = 0; i < s->n_live; i++) {
		at[i] = s->length[s->slot[i]]++;
		length[i] = at[i] + 1;
	}
	nt_tensor *slot = nt_i64(lm->device, s->slot, s->n_live), *pos = nt_i64(lm->device, at, s->n_live);
	nt_tensor *len = nt_i64(lm->device, length, s->n_live), *cos = nt_rows(lm->cos, pos), *sin = nt_rows(lm->sin, pos);
	nt_tensor *x = nla_embed(view, nt_i64(lm->device, s->token, s->n_live));
	for (int64_t l = 0; l < s->arch->n_layers; l++) {
		nt_tensor *q, *k, *v;
		nt_scope_push();
		nla_block_qkv(view, l, nt_rms_norm(x, lm->blocks[l].attn_norm, s->arch->rms_eps), &q, &k, &v);
		nla_block_rope(view, l, cos, sin, &q, &k);
		nt_cache_put(s->cache.k[l], slot, pos, k);
		nt_cache_put(s->cache.v[l], slot, pos, v);
		x = nla_block_finish(view, l, x, nt_attention_cached(q, s->cache.k[l], s->cache.v[l], slot, len,
								     1 / sqrt((double)s->arch->head_dim)));
		x = nt_scope_pop_with(x);
	}
	free(at);
	free(length);
	return x;
}

/* The prompts in one pass; first tokens are drawn from it. */
static enum nla_status prefill(struct state *s, struct nla_decoded *out, struct nla_err *err)
{
	const struct nla_decode *d = s->d;
	struct filling f;
	int64_t *last = nla_alloc((size_t)d->n, sizeof(*last));
	for (int64_t i = 0; i < d->n; i++)
		last[i] = nla_pack_last(d->prompts, d->prompt_row[i]);
	nt_scope_push();
	start_filling(&f, s);
	nt_tensor *x = nla_forward(d->view, d->prompts, d->inject, s->arch->n_layers, &(struct nla_kv){ fill_block, &f });
	if (nt_check())
		nla_nt_fail(err, "cannot compute the prompts");
	else
		draw(s, nt_rows(x, nt_i64(d->view->lm->device, last, d->n)), 0, out, err);
	nt_scope_pop();
	free(last);
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

enum nla_status nla_decode(const struct nla_decode *d, struct nla_decoded *out, struct nla_err *err)
{
	struct state s = { .d = d, .arch = &d->view->lm->arch, .n_live = d->n };
	int64_t longest = 0;
	s.slot = nla_alloc((size_t)d->n, sizeof(*s.slot));
	s.length = nla_alloc((size_t)d->n, sizeof(*s.length));
	s.token = nla_alloc((size_t)d->n, sizeof(*s.token));
	for (int64_t i = 0; i < d->n; i++) {
		s.slot[i] = i;
		longest = NLA_MAX(longest, nla_pack_end(d->prompts, d->prompt_row[i]));
	}
	nla_decoded_init(out, d->n, d->max_new_tokens);
	nt_grad_push(false);
	if (longest + d->max_new_tokens - 1 > nt_size(d->view->lm->cos, 0))
		nla_fail(err,
			 "a prompt of %lld tokens and %lld new ones are more than the model's %lld positions: lower "
			 "max_new_tokens",
			 (long long)longest, (long long)d->max_new_tokens, (long long)nt_size(d->view->lm->cos, 0));
	else if (!make_cache(&s, longest + d->max_new_tokens, err) && !prefill(&s, out, err))
		for (int64_t t = 1; s.n_live && !err->status && !nt_check(); t++) {
			nt_scope_push();
			draw(&s, advance(&s), t, out, err);
			nt_scope_pop();
		}
	if (!err->status && nt_check())
		nla_nt_fail(err, "cannot decode");
	nt_grad_pop();
	free_cache(&s);
	free(s.slot);
	free(s.length);
	free(s.token);
	if (err->status)
		nla_decoded_release(out);
	return err->status;
}

void nla_decoded_release(struct nla_decoded *out)
{
	free(out->ids);
	free(out->logprob);
	free(out->length);
	free(out->stopped);
	memset(out, 0, sizeof(*out));
}
