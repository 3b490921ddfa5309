/* What a supervised run trains on: documents of a corpus cut into sequences, or rows of an activation set with their
 * explanations. */

#include "base/progress.h"
#include "base/rng.h"
#include "run/sft.h"
#include "text/corpus.h"

/* ---- role lm ---- */

/* A document's ids and the end token are cut into sequences of at most `context`; one of a single token predicts nothing. */
static enum nla_status read_corpus(struct nla_sft *s, struct nla_err *err)
{
	struct nla_corpus corpus;
	const struct nla_doc *doc;
	NLA_AUTO(nla_i32s_release) struct nla_i32s ids = { 0 };
	struct nla_i64s train = { 0 }, held = { 0 };
	struct nla_rng rng = { (uint64_t)s->cfg->seed, NLA_STREAM_SPLIT };
	const int32_t text_end = nla_tokenizer_id(s->target.tok, "<|endoftext|>"),
		      end = text_end >= 0 ? text_end : s->target.chat.end_of_turn;
	const size_t context = (size_t)s->cfg->sft.context;
	if (nla_corpus_open(&corpus, s->cfg->sft.corpus, err))
		return err->status;
	while (!nla_corpus_next(&corpus, &doc, err) && doc) {
		uint64_t key = nla_hash(doc->id, strlen(doc->id));
		bool is_held = nla_uniform(&rng, (uint32_t)key, (uint32_t)(key >> 32), 0) < (float)s->cfg->sft.held_out;
		ids.n = 0;
		if (nla_tokenizer_encode(s->target.tok, doc->text, strlen(doc->text), &ids, err)) {
			nla_err_context(err, "document '%s'", doc->id);
			break;
		}
		nla_i32s_push(&ids, end);
		for (size_t from = 0; from + 1 < ids.n; from += context) {
			nla_i32s_append(&s->ids, ids.data + from, NLA_MIN(ids.n - from, context));
			nla_i64s_push(is_held ? &held : &train, (int64_t)s->offset.n - 1);
			nla_i64s_push(&s->offset, (int64_t)s->ids.n);
		}
	}
	nla_corpus_close(&corpus);
	s->split = (struct nla_split){ train.data, held.data, (int64_t)train.n, (int64_t)held.n };
	return err->status;
}

enum nla_status nla_sft_load(struct nla_sft *s, struct nla_err *err)
{
	const struct nla_config *cfg = s->cfg;
	nla_i64s_push(&s->offset, 0);
	if (cfg->sft.role != NLA_ROLE_LM) {
		if (nla_config_need(cfg->data, "data", err) ||
		    nla_actset_open(&s->set, cfg->data, s->target.lm.arch.d_model, err))
			return err->status;
		return nla_split_by_doc(&s->split, &s->set, (uint64_t)cfg->seed, cfg->sft.held_out, err);
	}
	if (nla_config_need(cfg->sft.corpus, "sft.corpus", err) || read_corpus(s, err))
		return err->status;
	return s->split.n_train ? NLA_OK : nla_fail(err, "'%s' holds no text to train on", cfg->sft.corpus);
}

/* ---- roles av, ar ---- */

/* The most ids that the model reads: an AV's whole text, or an AR's prompt. */
static int64_t most_ids(const struct nla_sft *s)
{
	return s->half.role == NLA_AV ? nt_size(nla_half_lm(&s->half)->cos[0], 0) : nla_ar_max_ids(&s->half);
}

/* A response is encoded apart from the prompt, as generation emits it; its last token predicts nothing. */
static enum nla_status encode_response(const struct nla_sft *s, const char *explanation, struct nla_i32s *ids,
				       enum nla_ar_fit *fit, struct nla_err *err)
{
	const size_t before = ids->n;
	nla_auto char *text = nla_format("<explanation>\n%s\n</explanation>", explanation);
	nla_tokenizer_encode(s->target.tok, text, strlen(text), ids, err);
	nla_i32s_push(ids, s->target.chat.end_of_turn);
	const bool fits = (int64_t)(s->half.prompt.n + ids->n - before) - 1 <= most_ids(s);
	*fit = fits ? NLA_AR_FITS : NLA_AR_TOO_LONG;
	return err->status;
}

/* Every row of the set becomes a sequence: an empty one where it has no explanation, or one that the model cannot read. */
static enum nla_status encode_rows(struct nla_sft *s, int64_t *fits, struct nla_err *err)
{
	for (int64_t i = 0; i < s->set.n && !err->status; i++) {
		const char *e = s->set.rows[i].explanation;
		const size_t before = s->ids.n;
		enum nla_ar_fit fit = NLA_AR_FITS;
		if (e && s->half.role == NLA_AV)
			encode_response(s, e, &s->ids, &fit, err);
		else if (e)
			nla_ar_encode(&s->half, e, strlen(e), &s->ids, &fit, err);
		if (err->status)
			nla_err_context(err, "row %lld of '%s'", (long long)i, s->cfg->data);
		fits[fit]++;
		if (fit != NLA_AR_FITS)
			s->ids.n = before;
		s->longest = NLA_MAX(s->longest, (int64_t)(s->ids.n - before));
		nla_i64s_push(&s->offset, (int64_t)s->ids.n);
	}
	return err->status;
}

/* Keeps of rows[0..*n) those that can be learnt from. */
static void keep(const struct nla_sft *s, int64_t *rows, int64_t *n)
{
	int64_t kept = 0;
	for (int64_t i = 0; i < *n; i++)
		if (nla_sft_length(s, rows[i]))
			rows[kept++] = rows[i];
	*n = kept;
}

enum nla_status nla_sft_encode(struct nla_sft *s, struct nla_err *err)
{
	int64_t fits[NLA_AR_MERGES + 1] = { 0 };
	if (s->cfg->sft.role == NLA_ROLE_LM)
		return NLA_OK;
	if (!encode_rows(s, fits, err)) {
		keep(s, s->split.train, &s->split.n_train);
		keep(s, s->split.held, &s->split.n_held);
	}
	const int64_t longer = fits[NLA_AR_TOO_LONG], merge = fits[NLA_AR_MERGES];
	if (longer || merge)
		nla_say("%lld rows left out: %lld are longer than the %lld tokens the model reads, %lld merge with the AR "
			"template's end",
			(long long)(longer + merge), (long long)longer, (long long)most_ids(s), (long long)merge);
	if (!err->status && (!s->split.n_train || (s->cfg->sft.held_out > 0 && !s->split.n_held)))
		nla_fail(err, "'%s': no row%s has an explanation %s", s->set.path, s->split.n_train ? " that is held out" : "",
			 longer || merge ? "that the model can read" : "to learn from: nla-teach writes them");
	return err->status;
}
