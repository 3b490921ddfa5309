/* What a supervised run trains on: sequences of a corpus, or rows of an activation set with their responses. */
#include <stdlib.h>
#include <string.h>

#include "base/progress.h"
#include "base/rng.h"
#include "text/corpus.h"
#include "run/sft_impl.h"

char *nla_sft_response(const char *explanation) { return nla_format("<explanation>\n%s\n</explanation>", explanation); }

/* A document's ids and the end token, cut into sequences of at most `context`. */
static void add_sequences(struct nla_sft *s, const struct nla_i32s *doc, int64_t context)
{
	for (size_t from = 0; from + 1 < doc->n; from += (size_t)context) {
		size_t n = NLA_MIN(doc->n - from, (size_t)context);
		if (n < 2)
			break;
		nla_i32s_append(&s->ids, doc->data + from, n);
		nla_i64s_push(&s->offset, (int64_t)s->ids.n);
	}
}

static int32_t end_of_document(const struct nla_target *t)
{
	int32_t id = nla_tokenizer_id(t->tok, "<|endoftext|>");
	return id >= 0 ? id : t->chat.end_of_turn;
}

/* Held-out sequences are those of held-out documents; they stand behind the others. */
static enum nla_status read_corpus(struct nla_sft *s, bool held, int64_t *n, struct nla_err *err)
{
	struct nla_corpus corpus;
	const struct nla_doc *doc;
	struct nla_i32s ids = { 0 };
	struct nla_rng rng = { (uint64_t)s->cfg->seed, NLA_STREAM_SPLIT };
	size_t before = s->offset.n;
	if (nla_corpus_open(&corpus, s->cfg->sft.corpus, err))
		return err->status;
	while (!nla_corpus_next(&corpus, &doc, err) && doc) {
		uint64_t key = nla_hash(doc->id, strlen(doc->id));
		bool is_held = nla_uniform(&rng, (uint32_t)key, (uint32_t)(key >> 32), 0) < (float)s->cfg->sft.held_out;
		if (is_held != held)
			continue;
		ids.n = 0;
		if (nla_tokenizer_encode(s->target.tok, doc->text, strlen(doc->text), &ids, err))
			break;
		nla_i32s_push(&ids, end_of_document(&s->target));
		add_sequences(s, &ids, s->cfg->sft.context);
	}
	nla_corpus_close(&corpus);
	nla_i32s_release(&ids);
	*n = (int64_t)(s->offset.n - before);
	return err->status;
}

static enum nla_status load_sequences(struct nla_sft *s, struct nla_err *err)
{
	int64_t n_train, n_held;
	nla_i64s_push(&s->offset, 0);
	if (nla_config_need(s->cfg->sft.corpus, "sft.corpus", err) || read_corpus(s, false, &n_train, err) || read_corpus(s, true, &n_held, err))
		return err->status;
	if (n_train == 0)
		return nla_fail(err, "'%s' holds no text to train on", s->cfg->sft.corpus);
	s->split.train = nla_alloc((size_t)n_train, sizeof(int64_t));
	s->split.held = nla_alloc((size_t)n_held + 1, sizeof(int64_t));
	s->split.n_train = n_train;
	s->split.n_held = n_held;
	for (int64_t i = 0; i < n_train; i++)
		s->split.train[i] = i;
	for (int64_t i = 0; i < n_held; i++)
		s->split.held[i] = n_train + i;
	return NLA_OK;
}

/* Keeps of rows[0..n) those that have an explanation to learn from. */
static int64_t keep_explained(const struct nla_actset *set, int64_t *rows, int64_t n)
{
	int64_t kept = 0;
	for (int64_t i = 0; i < n; i++)
		if (set->rows[rows[i]].explanation)
			rows[kept++] = rows[i];
	return kept;
}

/* Response ids as generation would emit them: the text and the end-of-turn token, encoded apart from the prompt. */
static enum nla_status load_rows(struct nla_sft *s, struct nla_err *err)
{
	const struct nla_config *cfg = s->cfg;
	if (nla_config_need(cfg->data, "data", err) || nla_actset_open(&s->set, cfg->data, s->target.lm.arch.d_model, err) ||
	    nla_split_by_doc(&s->split, &s->set, (uint64_t)cfg->seed, cfg->sft.held_out, err))
		return err->status;
	s->split.n_train = keep_explained(&s->set, s->split.train, s->split.n_train);
	s->split.n_held = keep_explained(&s->set, s->split.held, s->split.n_held);
	if (!s->split.n_train || (cfg->sft.held_out > 0 && !s->split.n_held))
		return nla_fail(err, "'%s': no row%s has an explanation to learn from", s->set.path, s->split.n_train ? " that is held out" : "");
	s->responses = nla_alloc((size_t)s->set.n, sizeof(*s->responses));
	for (int64_t i = 0; i < s->set.n; i++) {
		if (!s->set.rows[i].explanation)
			continue;
		char *text = nla_sft_response(s->set.rows[i].explanation);
		nla_tokenizer_encode(s->target.tok, text, strlen(text), &s->responses[i], err);
		nla_i32s_push(&s->responses[i], s->target.chat.end_of_turn);
		free(text);
		if (err->status)
			return err->status;
	}
	return NLA_OK;
}

/* Of a row: can the model read it? */
static enum nla_status row_fits(const struct nla_sft *s, int64_t row, enum nla_ar_fit *fit, struct nla_err *err)
{
	const char *e = s->set.rows[row].explanation;
	struct nla_i32s ids = { 0 };
	if (s->cfg->sft.role == NLA_ROLE_AV) /* the last token predicts nothing */
		*fit = (int64_t)(s->av.prompt.n + s->responses[row].n) - 1 > nt_size(nla_half_lm(&s->av)->cos, 0) ? NLA_AR_TOO_LONG : NLA_AR_FITS;
	else
		nla_ar_encode(&s->ar, e, strlen(e), &ids, fit, err);
	nla_i32s_release(&ids);
	return err->status;
}

/* Keeps of rows[0..*n) those that fit; counts the others by why. */
static enum nla_status keep_fitting(const struct nla_sft *s, int64_t *rows, int64_t *n, int64_t *left_out, struct nla_err *err)
{
	int64_t kept = 0;
	for (int64_t i = 0; i < *n; i++) {
		enum nla_ar_fit fit = NLA_AR_FITS;
		if (row_fits(s, rows[i], &fit, err))
			return err->status;
		if (fit == NLA_AR_FITS)
			rows[kept++] = rows[i];
		else
			left_out[fit]++;
	}
	*n = kept;
	return NLA_OK;
}

enum nla_status nla_sft_leave_out(struct nla_sft *s, struct nla_err *err)
{
	int64_t left_out[NLA_AR_MERGES + 1] = { 0 }, *longer = &left_out[NLA_AR_TOO_LONG], *merge = &left_out[NLA_AR_MERGES];
	if (s->cfg->sft.role == NLA_ROLE_LM)
		return NLA_OK;
	int64_t limit = s->cfg->sft.role == NLA_ROLE_AV ? nt_size(nla_half_lm(&s->av)->cos, 0) : nla_ar_max_ids(&s->ar);
	if (keep_fitting(s, s->split.train, &s->split.n_train, left_out, err) || keep_fitting(s, s->split.held, &s->split.n_held, left_out, err))
		return err->status;
	if (*longer || *merge)
		nla_say("%lld rows left out: %lld are longer than the %lld tokens the model reads, %lld merge with the AR template's end",
			(long long)(*longer + *merge), (long long)*longer, (long long)limit, (long long)*merge);
	if (!s->split.n_train || (s->cfg->sft.held_out > 0 && !s->split.n_held))
		return nla_fail(err, "'%s': no row%s has an explanation that the model can read", s->set.path,
				s->split.n_train ? " that is held out" : "");
	return NLA_OK;
}

enum nla_status nla_sft_load(struct nla_sft *s, struct nla_err *err)
{
	return s->cfg->sft.role == NLA_ROLE_LM ? load_sequences(s, err) : load_rows(s, err);
}
