/*
 * nla-extract: corpus -> activation set.
 *
 *	documents -> ids -> target -> residual stream after block K at chosen tokens, v [rows, D] -> OUT, with its baselines
 *
 * OUT/nla-extract.part holds what is written, with the settings and inputs that it depends on, until the set is whole; these
 * stay in OUT/nla-extract.done.
 */
#include <fcntl.h>

#include "base/progress.h"
#include "cmd/program.h"
#include "lm/ranks.h"
#include "nla/extract.h"
#include "run/folder.h"
#include "run/models.h"
#include "run/stop.h"

struct shown {
	struct nla_progress p; /* first: show casts it back */
	const struct nla_corpus *corpus;
	int64_t former; /* rows of an earlier start */
};

static bool show(int64_t docs, int64_t rows, void *arg)
{
	struct shown *s = arg;
	s->p.share = nla_corpus_share(s->corpus);
	if (rows == s->former) /* what was passed over took no time */
		s->p.from = s->p.total ? NLA_MAX((double)rows / (double)s->p.total, s->p.share) : s->p.share;
	nla_progress_step(&s->p, rows, "%lld documents", (long long)docs);
	return !nla_stop_asked();
}

/* What OUT holds: nothing, the part of a set that --resume continues behind its newest batch, or a set, which needs no more. */
static enum nla_status look(const struct nla_config *cfg, int *lock, struct nla_extract_count *former, bool *whole,
			    struct nla_err *err)
{
	nla_auto char *part = nla_path_join(cfg->out, NLA_ACTSET_PART), *done = nla_path_join(cfg->out, NLA_ACTSET_DONE);
	if (nla_mkdirs(cfg->out, err) || nla_lock(*lock = open(cfg->out, O_RDONLY | O_DIRECTORY | O_CLOEXEC), cfg->out, err) ||
	    (cfg->overwrite && nla_actset_remove(cfg->out, err)) || (cfg->resume && nla_actset_publish(cfg->out, err)))
		return err->status;
	*whole = cfg->resume && nla_exists_in(cfg->out, NLA_SIDECAR_NAME);
	if (*whole && nla_exists_in(done, "config.json"))
		return nla_same_run(done, cfg, NLA_CMD_EXTRACT, false, false, err);
	if (*whole || !nla_exists_in(part, "config.json"))
		return NLA_OK;
	return nla_may_write(cfg, true, "a part of a set", err) ||
	       nla_same_run(part, cfg, NLA_CMD_EXTRACT, false, false, err) || nla_extract_former(cfg->out, former, err)
		       ? err->status : NLA_OK;
}

/* Into the set that w writes, or an error that says why there is none. */
static enum nla_status fill(const struct nla_config *cfg, const struct nla_target *t, struct nla_corpus *corpus,
			    const struct nla_sidecar *meta, struct nla_extract_count n, struct nla_actset_writer *w,
			    struct nla_err *err)
{
	struct shown s = { .corpus = corpus, .former = n.rows };
	struct nla_extract_cfg x = { .layer = meta->layer, .special = nla_target_adds_special(t, meta),
				     .per_doc = cfg->extract.per_doc, .min_position = cfg->extract.min_position,
				     .max_tokens = cfg->extract.max_tokens, .next = cfg->extract.next,
				     .max_rows = cfg->extract.rows, .seed = (uint64_t)cfg->seed, .last = cfg->extract.at,
				     .progress = show, .arg = &s };
	nla_progress_start(&s.p, "extract", cfg->extract.rows);
	nla_extract(t, corpus, &x, w, &n, err);
	const long long docs = n.docs, rows = n.rows, others = n.other_tokens;
	if (!err->status && rows == 0)
		nla_fail(err, "'%s' gave no row: its %lld %s = %lld tokens", cfg->extract.corpus, docs,
			 x.last ? "texts are empty or longer than extract.max_tokens"
				: "documents are empty or shorter than extract.min_position",
			 (long long)(x.last ? x.max_tokens : x.min_position));
	if (nla_rank())
		return err->status;
	if (err->status) {
		nla_actset_abort(w);
		if (err->status == NLA_STOPPED)
			nla_err_context(err, "'%s' holds what is done", cfg->out);
		else if (rows == 0)
			nla_actset_remove(cfg->out, NLA_IGNORED);
		return err->status;
	}
	if (n.too_long)
		nla_say("%lld texts are longer than extract.max_tokens = %lld tokens: left out", (long long)n.too_long,
			(long long)x.max_tokens);
	if (others && n.one_less == others && others == rows)
		nla_say("all n_raw_tokens are one more than the texts' tokens here: that set has a special token in front of "
			"its texts (tokens.add_special, now %s)", x.special ? "true" : "false");
	else if (others)
		nla_say("%lld of %lld texts are another number of tokens here than their n_raw_tokens: another tokenizer, or "
			"text that does not encode back", others, rows);
	if (nla_actset_finish(w, err))
		return err->status;
	nla_progress_end(&s.p, "'%s': %lld rows from %lld documents, block %lld, width %lld", cfg->out, rows, docs,
			 (long long)meta->layer, (long long)t->lm.arch.d_model);
	return NLA_OK;
}

/* All of the set, from where a former start ended. */
static enum nla_status make(const struct nla_config *cfg, const struct nla_target *t, struct nla_corpus *corpus,
			    const struct nla_sidecar *meta, struct nla_err *err)
{
	struct nla_extract_count former = { 0 };
	struct nla_actset_writer *w = NULL;
	bool whole = false;
	int lock = -1;
	nla_auto char *part = nla_path_join(cfg->out, NLA_ACTSET_PART);
	if (!nla_rank() && look(cfg, &lock, &former, &whole, err)) /* the first one writes */
		goto out;
	nla_ranks_copy(&former, sizeof(former));
	nla_ranks_copy(&whole, sizeof(whole));
	if (whole)
		nla_say("nothing left to do: '%s' is whole; --overwrite makes it anew", cfg->out);
	else if (nla_rank())
		fill(cfg, t, corpus, meta, former, NULL, err);
	else if (!nla_actset_create(&w, cfg->out, meta, cfg->extract.dtype ? NLA_ST_F32 : NLA_ST_BF16, former.rows, err) &&
		 !nla_same_write(part, cfg, NLA_CMD_EXTRACT, t->lm.device, err))
		fill(cfg, t, corpus, meta, former, w, err);
	else
		nla_actset_abort(w);
out:
	if (lock >= 0)
		close(lock);
	return err->status;
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	NLA_AUTO(nla_target_close) struct nla_target target = { 0 };
	NLA_AUTO(nla_sidecar_release) struct nla_sidecar meta, made;
	NLA_AUTO(nla_corpus_close) struct nla_corpus corpus = { 0 };
	nla_sidecar_init(&meta);
	nla_sidecar_init(&made);
	if (cfg->extract.sidecar) {
		nla_auto char *path = nla_path_join(cfg->out, NLA_SIDECAR_NAME);
		NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
		if (!nla_sidecar_make(cfg, err) && !nla_file_read(path, &text, err))
			fputs(text.buf, stdout);
		return err->status;
	}
	nla_stop_catch();
	if (*cfg->out && nla_exists_in(cfg->out, "config.json"))
		return nla_usage(err, "'%s' has a config.json: it is a model or a run, give another --out", cfg->out);
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(cfg->extract.corpus, "extract.corpus", err) ||
	    nla_config_need(cfg->out, "out", err) || nla_config_target(cfg, cfg->extract.meta, -1, NULL, &target, err) ||
	    nla_newset_describe(&meta, &target, cfg, err) || nla_corpus_open(&corpus, cfg->extract.corpus, err) ||
	    make(cfg, &target, &corpus, &meta, err) || nla_rank() || nla_sidecar_read(&made, cfg->out, err))
		return err->status;
	if (made.layer != meta.layer) /* one that was whole before this start */
		return nla_usage(err, "'%s' is a whole set of block %lld, and block %lld is asked for: give --overwrite to "
				 "replace it, or another --out", cfg->out, (long long)made.layer, (long long)meta.layer);
	nla_auto char *model = nla_quoted(cfg->model), *out = nla_quoted(cfg->out);
	nla_say("next: nla-teach --model %s --data %s --out TAUGHT (nla-sft, where its rows have explanations), or nla-train "
		"--data %s", model, out, out);
	printf("{\"rows\": %lld, \"d_model\": %lld, \"layer\": %lld, \"baseline_var\": %.9g, \"baseline_mean\": %.9g}\n",
	       (long long)made.n_rows, (long long)made.d_model, (long long)made.layer, made.baseline_var, made.baseline_mean);
	return NLA_OK;
}

const struct nla_program nla_program = { "nla-extract", NLA_CMD_EXTRACT, run,
	"Corpus -> activation set: the target's residual stream after block K at chosen tokens.\n"
	"--sidecar: the nla_meta.yaml of an AV, an AR or a set made elsewhere." };
