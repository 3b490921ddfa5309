#include "nla/extract.h"

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "lm/forward.h"

#define TOKENS_A_BATCH 4096

/* Documents waiting for their forward pass. */
struct waiting {
	struct nla_pack pack;
	struct nla_i32s ids;      /* of all documents */
	struct nla_i64s at;       /* token index in the pack, a row each */
	struct nla_i64s doc;      /* which document, a row each */
	struct nla_i64s from, position; /* document's start in ids, chosen position; a row each */
	struct nla_strs doc_ids;
	struct nla_row *given;    /* last: what each row keeps, owned; else NULL */
};

static int compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

int64_t nla_extract_positions(const char *doc_id, int64_t n, const struct nla_extract_cfg *cfg, int64_t *out)
{
	struct nla_rng rng = { cfg->seed, NLA_STREAM_EXTRACT };
	uint64_t key = nla_hash(doc_id, strlen(doc_id));
	int64_t room = n - cfg->min_position, count = 0;
	if (room <= 0)
		return 0;
	for (uint32_t draw = 0; count < NLA_MIN(cfg->per_doc, room); draw++) { /* distinct: draw again on a repeat */
		int64_t p = cfg->min_position + (int64_t)nla_below(&rng, (uint32_t)key, (uint32_t)(key >> 32), draw, (uint64_t)room);
		bool seen = false;
		for (int64_t i = 0; i < count; i++)
			seen = seen || out[i] == p;
		if (!seen)
			out[count++] = p;
	}
	qsort(out, (size_t)count, sizeof(*out), compare);
	return count;
}

static void release(struct waiting *w)
{
	nla_pack_release(&w->pack);
	nla_i32s_release(&w->ids);
	nla_i64s_release(&w->doc);
	nla_i64s_release(&w->from);
	nla_i64s_release(&w->position);
	nla_strs_release(&w->doc_ids);
	for (size_t i = 0; w->given && i < w->at.n; i++) {
		free(w->given[i].text);
		free(w->given[i].explanation);
	}
	free(w->given);
	nla_i64s_release(&w->at);
	memset(w, 0, sizeof(*w));
}

struct tapped {
	int64_t layer;
	const nt_tensor *at;
	nt_tensor *rows;
};

static void take(int64_t block, const nt_tensor *x, void *arg)
{
	struct tapped *t = arg;
	if (block == t->layer)
		t->rows = nt_own(nt_rows(x, t->at));
}

static enum nla_status write_row(const struct nla_target *t, const struct waiting *w, int64_t i, const float *v, const int64_t *next,
				 int64_t n_next, struct nla_actset_writer *out, struct nla_err *err)
{
	struct nla_str text = NLA_STR_INIT;
	struct nla_strs words = { 0 };
	const int32_t *ids = w->ids.data + w->from.data[i];
	struct nla_row row = { .doc_id = w->doc_ids.data[w->doc.data[i]], .n_raw_tokens = w->position.data[i] + 1 };
	if (w->given) {
		const char *doc_id = row.doc_id;
		row = w->given[i];
		row.doc_id = (char *)(uintptr_t)doc_id;
	} else if (nla_tokenizer_decode(t->tok, ids, (size_t)row.n_raw_tokens, false, &text, err)) {
		goto out;
	} else {
		row.text = text.buf;
	}
	for (int64_t j = 0; j < n_next; j++) {
		struct nla_err unknown = NLA_ERR_INIT;
		struct nla_str word = NLA_STR_INIT;
		if (nla_tokenizer_piece(t->tok, (int32_t)next[j], &word, &unknown)) /* a padded vocabulary's id without text */
			nla_str_add(&word, "\xef\xbf\xbd");
		nla_strs_push(&words, word.buf);
		nla_str_release(&word);
	}
	if (!err->status)
		nla_actset_add(out, &row, v, (const char *const *)words.data, words.n, err);
out:
	nla_strs_release(&words);
	nla_str_release(&text);
	return err->status;
}

static enum nla_status flush(const struct nla_target *t, struct waiting *w, const struct nla_extract_cfg *cfg,
			     struct nla_actset_writer *out, int64_t *n_rows, struct nla_err *err)
{
	struct nla_view view = { .lm = &t->lm };
	int64_t n = (int64_t)w->at.n, d = t->lm.arch.d_model;
	if (n == 0)
		return NLA_OK;
	float *v = nla_alloc((size_t)(n * d), sizeof(float));
	int64_t *next = nla_alloc((size_t)(n * cfg->next) + 1, sizeof(*next));
	nt_scope_push();
	if (!nla_pack_ready(&w->pack, &t->lm, err)) {
		struct tapped tap = { cfg->layer, nt_i64(t->lm.device, w->at.data, n), NULL };
		nt_tensor *x = nla_forward_tapped(&view, &w->pack, NULL, cfg->next ? t->lm.arch.n_layers : cfg->layer + 1, NULL, take, &tap);
		nt_to_host_f32(tap.rows, v, (size_t)(n * d));
		if (cfg->next) {
			nt_tensor *logits = nt_linear(nla_final_norm(&view, nt_rows(x, tap.at)), t->lm.head, NULL);
			nt_to_host_i64(nt_topk(logits, cfg->next), next, (size_t)(n * cfg->next));
		}
		nt_free(tap.rows);
	}
	nt_scope_pop();
	if (!err->status && nt_check())
		nla_nt_fail(err, "cannot compute activations");
	for (int64_t i = 0; i < n && !err->status; i++)
		if (!write_row(t, w, i, v + i * d, next + i * cfg->next, cfg->next, out, err))
			(*n_rows)++;
	free(v);
	free(next);
	release(w);
	return err->status;
}

/* One row at position p of the document that was added last. */
static void add_row(struct waiting *w, int64_t pack_row, int64_t from, int64_t p)
{
	nla_i64s_push(&w->at, w->pack.start.data[pack_row] + p);
	nla_i64s_push(&w->doc, (int64_t)w->doc_ids.n - 1);
	nla_i64s_push(&w->from, from);
	nla_i64s_push(&w->position, p);
}

/* Some tokens of a document whose ids are the last n of the waiting ones. */
static bool add_some(struct waiting *w, const struct nla_doc *doc, int64_t n, const struct nla_extract_cfg *cfg, int64_t rows_left)
{
	int64_t *positions = nla_alloc((size_t)cfg->per_doc, sizeof(*positions)), from = (int64_t)w->ids.n - n;
	int64_t count = NLA_MIN(nla_extract_positions(doc->id, NLA_MIN(n, cfg->max_tokens), cfg, positions), rows_left);
	if (count) { /* nothing behind the last position matters */
		int64_t row = nla_pack_add(&w->pack, w->ids.data + from, positions[count - 1] + 1, -1);
		nla_strs_push(&w->doc_ids, doc->id);
		for (int64_t i = 0; i < count; i++)
			add_row(w, row, from, positions[i]);
	}
	free(positions);
	return count > 0;
}

/* Its last token, with what the row brings along. */
static bool add_last(struct waiting *w, const struct nla_doc *doc, int64_t n, const struct nla_extract_cfg *cfg, int64_t rows_left,
		     struct nla_extract_count *done)
{
	int64_t from = (int64_t)w->ids.n - n;
	bool fits = n <= cfg->max_tokens;
	done->too_long += !fits;
	if (!fits || n == 0 || rows_left == 0)
		return false;
	done->other_tokens += doc->n_raw_tokens >= 0 && doc->n_raw_tokens != n;
	w->given = nla_realloc(w->given, w->at.n + 1, sizeof(*w->given));
	w->given[w->at.n] = (struct nla_row){ .text = nla_strdup(doc->text),
					      .explanation = doc->explanation ? nla_strdup(doc->explanation) : NULL,
					      .n_raw_tokens = doc->n_raw_tokens >= 0 ? doc->n_raw_tokens : n };
	nla_strs_push(&w->doc_ids, doc->id);
	add_row(w, nla_pack_add(&w->pack, w->ids.data + from, n, -1), from, n - 1);
	return true;
}

/* One document into the waiting batch. */
static enum nla_status add(const struct nla_target *t, struct waiting *w, const struct nla_doc *doc, const struct nla_extract_cfg *cfg,
			   int64_t rows_left, struct nla_extract_count *done, struct nla_err *err)
{
	int64_t from = (int64_t)w->ids.n;
	if (nla_tokenizer_encode(t->tok, doc->text, strlen(doc->text), &w->ids, err))
		return err->status;
	int64_t n = (int64_t)w->ids.n - from;
	if (!(cfg->last ? add_last(w, doc, n, cfg, rows_left, done) : add_some(w, doc, n, cfg, rows_left)))
		w->ids.n = (size_t)from;
	return NLA_OK;
}

enum nla_status nla_extract(const struct nla_target *t, struct nla_corpus *corpus, const struct nla_extract_cfg *cfg,
			    struct nla_actset_writer *out, nla_extract_progress *progress, void *arg, struct nla_extract_count *count,
			    struct nla_err *err)
{
	struct waiting w = { 0 };
	const struct nla_doc *doc;
	bool go = true;
	memset(count, 0, sizeof(*count));
	while (go && !nla_corpus_next(corpus, &doc, err) && doc) {
		int64_t left = cfg->max_rows ? cfg->max_rows - count->rows - (int64_t)w.at.n : INT64_MAX;
		count->docs++;
		if (add(t, &w, doc, cfg, left, count, err) || (w.pack.n >= TOKENS_A_BATCH && flush(t, &w, cfg, out, &count->rows, err)))
			break;
		go = (!progress || progress(count->docs, count->rows, arg)) && left > 0;
	}
	if (!err->status)
		flush(t, &w, cfg, out, &count->rows, err);
	release(&w);
	return err->status;
}

enum nla_status nla_extract_one(const struct nla_target *t, const char *text, int64_t position, int64_t layer, float *v,
				struct nla_str *prefix, struct nla_err *err)
{
	struct nla_view view = { .lm = &t->lm };
	struct nla_i32s ids = { 0 };
	struct nla_pack pack;
	nla_pack_init(&pack);
	if (nla_tokenizer_encode(t->tok, text, strlen(text), &ids, err))
		goto out;
	int64_t at = position < 0 ? (int64_t)ids.n + position : position;
	if (at < 0 || at >= (int64_t)ids.n) {
		nla_usage(err, "position %lld is outside the text's %zu tokens", (long long)position, ids.n);
		goto out;
	}
	nla_pack_add(&pack, ids.data, at + 1, -1);
	nt_scope_push();
	if (!nla_pack_ready(&pack, &t->lm, err)) {
		nt_tensor *x = nla_forward(&view, &pack, NULL, layer + 1, NULL);
		if (nt_to_host_f32(nt_narrow(x, 0, at, 1), v, (size_t)t->lm.arch.d_model))
			nla_nt_fail(err, "cannot compute the activation");
	}
	nt_scope_pop();
	if (!err->status)
		nla_tokenizer_decode(t->tok, ids.data, (size_t)at + 1, false, prefix, err);
out:
	nla_pack_release(&pack);
	nla_i32s_release(&ids);
	return err->status;
}
