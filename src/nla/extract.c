/*
 * extract - documents as rows of a pack, one forward pass a batch: v [rows, D] after block K at the chosen tokens, and the
 * likeliest next tokens of each [rows, next].
 */
#include "nla/extract.h"
#include "base/rng.h"
#include "lm/forward.h"
#include "lm/ranks.h"

#define TOKENS_A_BATCH 4096

/* Rows before their forward pass. */
struct waiting {
	struct nla_pack pack;
	struct nla_i64s at;   /* token index in the pack, a row each */
	struct nla_row *rows; /* as they will be written */
	struct nla_extract_count behind; /* what was read up to its end */
};

/* Positions for a document of n tokens, ascending, into out[per_doc]; returns how many. */
static int64_t choose_positions(const char *doc_id, int64_t n, const struct nla_extract_cfg *cfg, int64_t *out)
{
	struct nla_rng rng = { cfg->seed, NLA_STREAM_EXTRACT };
	uint64_t key = nla_hash(doc_id, strlen(doc_id));
	int64_t room = n - cfg->min_position, count = 0;
	if (room <= 0)
		return 0;
	for (uint32_t draw = 0; count < NLA_MIN(cfg->per_doc, room); draw++) { /* distinct: draw again on a repeat */
		int64_t p = cfg->min_position +
			    (int64_t)nla_below(&rng, (uint32_t)key, (uint32_t)(key >> 32), draw, (uint64_t)room);
		bool seen = false;
		for (int64_t i = 0; i < count; i++)
			seen = seen || out[i] == p;
		if (!seen)
			out[count++] = p;
	}
	qsort(out, (size_t)count, sizeof(*out), nla_by_number);
	return count;
}

static void release(struct waiting *w)
{
	nla_pack_release(&w->pack);
	for (size_t i = 0; i < w->at.n; i++)
		nla_row_release(&w->rows[i]);
	free(w->rows);
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

/* v [n, D] after block `layer` at n tokens of the pack, and n_next next tokens of each. */
static enum nla_status compute(const struct nla_target *t, struct waiting *w, int64_t layer, float *v, int64_t n_next,
			       int64_t *next, struct nla_err *err)
{
	struct nla_view view = { .lm = &t->lm };
	int64_t n = (int64_t)w->at.n;
	nt_scope_push();
	if (!nla_pack_ready(&w->pack, &t->lm, err)) {
		struct tapped tap = { layer, nt_i64(t->lm.device, w->at.data, n), NULL };
		nt_tensor *x = nla_forward(&view, &w->pack, NULL, n_next ? t->lm.arch.n_layers : layer + 1,
					   &(struct nla_tap){ .out = take, .arg = &tap });
		nt_to_host_f32(tap.rows, v, (size_t)(n * t->lm.arch.d_model));
		if (n_next) {
			nt_tensor *logits = nt_logits(nla_final_norm(&view, nt_rows(x, tap.at)), t->lm.head);
			nt_to_host_i64(nt_topk(logits, n_next), next, (size_t)(n * n_next));
		}
		nt_free(tap.rows);
	}
	nt_scope_pop();
	if (!err->status && nt_check())
		nla_nt_fail(err, "cannot compute activations");
	return err->status || nla_lm_blame(&t->lm, v, (size_t)(n * t->lm.arch.d_model), err) ? err->status : NLA_OK;
}

static void add_next(const struct nla_target *t, struct nla_row *row, const int64_t *next, int64_t n)
{
	for (int64_t j = 0; j < n; j++) {
		NLA_AUTO(nla_str_release) struct nla_str word = NLA_STR_INIT;
		nla_tokenizer_piece(t->tok, (int32_t)next[j], &word);
		nla_strs_push(&row->next, word.buf);
	}
}

/* A batch's line: the counts behind it. */
#define NUMBER "%" PRId64
#define MARK "{\"docs\":" NUMBER ",\"rows\":" NUMBER ",\"too_long\":" NUMBER ",\"other_tokens\":" NUMBER \
	",\"one_less\":" NUMBER "}"

enum nla_status nla_extract_former(const char *folder, struct nla_extract_count *count, struct nla_err *err)
{
	nla_auto char *path = nla_format("%s/" NLA_ACTSET_PART "/" NLA_ACTSET_MARKS, folder);
	struct nla_extract_count c;
	struct nla_lines in;
	const char *line;
	memset(count, 0, sizeof(*count));
	if (!nla_exists(path) || nla_lines_open(&in, path, err))
		return err->status;
	while ((line = nla_lines_next(&in))) {
		int whole = 0; /* a kill may have cut it short */
		sscanf(line, MARK "%n", &c.docs, &c.rows, &c.too_long, &c.other_tokens, &c.one_less, &whole);
		*count = whole ? c : *count;
	}
	return nla_lines_close(&in, err);
}

/* A batch's next tokens [n, next] and then its activations [n, D], appended: a multiple of 8 bytes, so that they can be read
 * where they are. */
static enum nla_status compute_batch(const struct nla_target *t, struct waiting *w, const struct nla_extract_cfg *cfg,
				     struct nla_str *made, struct nla_err *err)
{
	const size_t n = w->at.n, n_next = n * (size_t)cfg->next, n_v = n * (size_t)t->lm.arch.d_model;
	nla_auto int64_t *next = nla_alloc(n_next + (n_v + 1) / 2, sizeof(*next));
	if (n && compute(t, w, cfg->layer, (float *)(next + n_next), cfg->next, next, err))
		return err->status;
	nla_str_addn(made, next, (n_next + (n_v + 1) / 2) * sizeof(*next));
	return NLA_OK;
}

/* out NULL: another rank writes. */
static enum nla_status write_batch(const struct nla_target *t, struct waiting *w, const struct nla_extract_cfg *cfg,
				   const char *made, struct nla_actset_writer *out, struct nla_extract_count *count,
				   struct nla_err *err)
{
	const size_t n = w->at.n, d = (size_t)t->lm.arch.d_model;
	const int64_t *next = (const int64_t *)(const void *)made;
	const float *v = (const float *)(next + n * (size_t)cfg->next);
	if (n == 0)
		return NLA_OK;
	for (size_t i = 0; i < n && !err->status; i++) {
		add_next(t, &w->rows[i], next + (int64_t)i * cfg->next, cfg->next);
		count->rows += !out || !nla_actset_add(out, &w->rows[i], v + i * d, err);
	}
	nla_auto char *line = nla_format(MARK "\n", w->behind.docs, count->rows, w->behind.too_long, w->behind.other_tokens,
					 w->behind.one_less);
	return err->status || !out ? err->status : nla_actset_mark(out, line, err);
}

/* n batches, at most one for each rank, which computes its own. */
static enum nla_status flush(const struct nla_target *t, struct waiting *w, int64_t n, const struct nla_extract_cfg *cfg,
			     struct nla_actset_writer *out, struct nla_extract_count *count, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str made = NLA_STR_INIT;
	nla_auto size_t *start = nla_alloc((size_t)nla_n_ranks() + 1, sizeof(*start));
	if (nla_rank() < n && compute_batch(t, &w[nla_rank()], cfg, &made, err))
		return err->status;
	nla_ranks_gather(&made, start);
	for (int64_t i = 0; i < n; i++) {
		if (!err->status)
			write_batch(t, &w[i], cfg, made.buf + start[i], out, count, err);
		release(&w[i]);
	}
	return err->status;
}

/* One row at token p of a row of the pack. */
static struct nla_row *add_row(struct waiting *w, int64_t pack_row, int64_t p, const struct nla_doc *doc)
{
	w->rows = nla_realloc(w->rows, w->at.n + 1, sizeof(*w->rows));
	struct nla_row *row = &w->rows[w->at.n];
	*row = (struct nla_row){ .doc_id = nla_strdup(doc->id), .n_raw_tokens = p + 1 };
	nla_i64s_push(&w->at, w->pack.start.data[pack_row] + p);
	return row;
}

static int64_t n_front(const struct nla_target *t, const struct nla_extract_cfg *cfg)
{
	return cfg->special ? (int64_t)nla_tokenizer_front(t->tok)->n : 0;
}

/* Some tokens of a document, none of those in front of it. */
static enum nla_status add_some(const struct nla_target *t, struct waiting *w, const struct nla_doc *doc,
				const struct nla_i32s *ids, const struct nla_extract_cfg *cfg, int64_t rows_left,
				struct nla_err *err)
{
	nla_auto int64_t *positions = nla_alloc((size_t)cfg->per_doc, sizeof(*positions));
	const int64_t front = n_front(t, cfg);
	struct nla_extract_cfg own = *cfg;
	own.min_position = NLA_MAX(cfg->min_position, front);
	int64_t count =
		NLA_MIN(choose_positions(doc->id, NLA_MIN((int64_t)ids->n, cfg->max_tokens), &own, positions), rows_left);
	int64_t pack_row =
		count ? nla_pack_add(&w->pack, ids->data, positions[count - 1] + 1, -1) : -1; /* later tokens change nothing */
	for (int64_t i = 0; i < count && !err->status; i++) {
		struct nla_str text = NLA_STR_INIT;
		struct nla_row *row = add_row(w, pack_row, positions[i], doc);
		nla_tokenizer_decode(t->tok, ids->data + front, (size_t)(row->n_raw_tokens - front), false, &text);
		row->text = nla_str_detach(&text);
	}
	return err->status;
}

/* Its last token, with what the document says of the row. */
static void add_last(struct waiting *w, const struct nla_doc *doc, const struct nla_i32s *ids, struct nla_extract_count *done)
{
	int64_t n = (int64_t)ids->n;
	struct nla_row *row = add_row(w, nla_pack_add(&w->pack, ids->data, n, -1), n - 1, doc);
	row->text = nla_strdup(doc->text);
	row->explanation = doc->explanation ? nla_strdup(doc->explanation) : NULL;
	if (doc->n_raw_tokens >= 0) {
		done->other_tokens += doc->n_raw_tokens != n;
		done->one_less += doc->n_raw_tokens == n + 1;
		row->n_raw_tokens = doc->n_raw_tokens;
	}
}

/* One document into the waiting batch. */
static enum nla_status add(const struct nla_target *t, struct waiting *w, const struct nla_doc *doc,
			   const struct nla_extract_cfg *cfg, int64_t rows_left, struct nla_extract_count *done,
			   struct nla_err *err)
{
	NLA_AUTO(nla_i32s_release) struct nla_i32s ids = { 0 };
	if (!nla_target_encode(t, cfg->special, doc->text, &ids, err)) {
		bool fits = (int64_t)ids.n <= cfg->max_tokens;
		done->too_long += cfg->last && !fits;
		if (!cfg->last)
			add_some(t, w, doc, &ids, cfg, rows_left, err);
		else if (fits && (int64_t)ids.n > n_front(t, cfg) && rows_left)
			add_last(w, doc, &ids, done);
	}
	if (err->status)
		nla_err_context(err, "document '%s'", doc->id);
	return err->status;
}

enum nla_status nla_extract(const struct nla_target *t, struct nla_corpus *corpus, const struct nla_extract_cfg *cfg,
			    struct nla_actset_writer *out, struct nla_extract_count *count, struct nla_err *err)
{
	const int64_t ranks = nla_n_ranks();
	nla_auto struct waiting *w = nla_alloc((size_t)ranks, sizeof(*w));
	const struct nla_doc *doc;
	int64_t passed = 0, full = 0, waiting = 0; /* batches; rows in them */
	int64_t left = cfg->max_rows ? cfg->max_rows - count->rows : INT64_MAX;
	bool go = true;
	while (passed < count->docs && !nla_corpus_next(corpus, &doc, err) && doc)
		passed++;
	while (!err->status && left > 0 && !nla_corpus_next(corpus, &doc, err) && doc) {
		count->docs++;
		if (add(t, &w[full], doc, cfg, left, count, err))
			break;
		if (cfg->max_rows)
			left = cfg->max_rows - count->rows - waiting - (int64_t)w[full].at.n;
		w[full].behind = *count;
		if (w[full].pack.n >= TOKENS_A_BATCH)
			waiting += (int64_t)w[full++].at.n;
		if (full == ranks && flush(t, w, full, cfg, out, count, err))
			break;
		go = go && (!cfg->progress || cfg->progress(count->docs, count->rows, cfg->arg));
		if (ranks == 1 ? !go : full == ranks && nla_ranks_any(!go)) /* which they find out together */
			nla_err_set(err, NLA_STOPPED, "stopped after %lld documents, %lld rows", (long long)count->docs,
				    (long long)count->rows);
		if (full == ranks)
			full = waiting = 0;
	}
	if (!err->status)
		flush(t, w, NLA_MIN(full + 1, ranks), cfg, out, count, err);
	for (int64_t i = 0; i < ranks; i++)
		release(&w[i]);
	return err->status;
}

enum nla_status nla_extract_at(const struct nla_target *t, const struct nla_i32s *ids, const int64_t *at, int64_t n,
			       int64_t block, float *v, struct nla_err *err)
{
	struct waiting w = { 0 };
	int64_t end = 0;
	for (int64_t i = 0; i < n; i++) {
		nla_i64s_push(&w.at, at[i]);
		end = NLA_MAX(end, at[i] + 1);
	}
	nla_pack_add(&w.pack, ids->data, end, -1); /* later tokens change nothing */
	compute(t, &w, block, v, 0, NULL, err);
	w.at.n = 0; /* it has no rows */
	release(&w);
	return err->status;
}
