/*
 * nla-extract: corpus -> activation set.
 *
 *	documents -> ids -> target -> residual stream after block K at chosen tokens, v [rows, D] -> OUT, with its baselines
 */
#include <stdio.h>

#include "base/progress.h"
#include "cmd/program.h"
#include "nla/extract.h"
#include "run/models.h"
#include "run/stop.h"

static bool show(int64_t docs, int64_t rows, void *arg)
{
	nla_progress_step(arg, rows, "%lld documents", (long long)docs);
	return !nla_stop_asked();
}

/* Into the set that w writes, or an error that says why there is none. */
static enum nla_status fill(const struct nla_config *cfg, const struct nla_target *t, struct nla_corpus *corpus,
			    const struct nla_sidecar *meta, struct nla_actset_writer *w, struct nla_err *err)
{
	struct nla_progress p;
	struct nla_extract_cfg x = { .layer = meta->layer, .special = nla_target_adds_special(t, meta),
				     .per_doc = cfg->extract.per_doc, .min_position = cfg->extract.min_position,
				     .max_tokens = cfg->extract.max_tokens, .next = cfg->extract.next,
				     .max_rows = cfg->extract.rows, .seed = (uint64_t)cfg->seed, .last = cfg->extract.at,
				     .progress = show, .arg = &p };
	struct nla_extract_count n = { 0 };
	nla_progress_start(&p, "extract", cfg->extract.rows);
	nla_extract(t, corpus, &x, w, &n, err);
	const long long docs = n.docs, rows = n.rows, others = n.other_tokens;
	if (!err->status && rows == 0)
		nla_fail(err, "'%s' gave no row: its %lld %s = %lld tokens", cfg->extract.corpus, docs,
			 x.last ? "texts are empty or longer than extract.max_tokens"
				: "documents are empty or shorter than extract.min_position",
			 (long long)(x.last ? x.max_tokens : x.min_position));
	if (err->status) {
		nla_actset_abort(w);
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
	nla_progress_end(&p, "%lld rows from %lld documents, block %lld, width %lld", rows, docs, (long long)meta->layer,
			 (long long)t->lm.arch.d_model);
	if (nla_stop_asked()) /* not what was asked for: a script that waits for the whole set must see it */
		nla_fail(err, "stopped after %lld documents: '%s' holds their %lld rows; --overwrite extracts anew", docs,
			 cfg->out, rows);
	return err->status;
}

static enum nla_status print_sidecar(const char *folder, struct nla_err *err)
{
	nla_auto char *path = nla_path_join(folder, NLA_SIDECAR_NAME);
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	if (!nla_file_read(path, &text, err))
		fputs(text.buf, stdout);
	return err->status;
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_target target = { 0 };
	struct nla_sidecar meta, made;
	struct nla_corpus corpus = { 0 };
	struct nla_actset_writer *w;
	int device;
	nt_dtype dtype;
	struct nla_chat_cfg chat = cfg->chat;
	chat.like = cfg->extract.meta;
	if (cfg->extract.sidecar)
		return nla_sidecar_make(cfg, err) || print_sidecar(cfg->out, err) ? err->status : NLA_OK;
	nla_stop_catch();
	nla_sidecar_init(&meta);
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(cfg->extract.corpus, "extract.corpus", err) ||
	    nla_config_need(cfg->out, "out", err) || nla_config_device(cfg, &device, &dtype, err) ||
	    nla_target_open(&target, cfg->model, &chat, device, dtype, -1, err) ||
	    nla_newset_describe(&meta, &target, cfg, err) || nla_corpus_open(&corpus, cfg->extract.corpus, err) ||
	    (cfg->overwrite && nla_actset_remove(cfg->out, err)) ||
	    nla_actset_create(&w, cfg->out, &meta, cfg->extract.dtype ? NLA_ST_F32 : NLA_ST_BF16, err) ||
	    fill(cfg, &target, &corpus, &meta, w, err) || nla_sidecar_read(&made, cfg->out, err))
		goto out;
	printf("{\"rows\": %lld, \"d_model\": %lld, \"layer\": %lld, \"baseline_var\": %.9g, \"baseline_mean\": %.9g}\n",
	       (long long)made.n_rows, (long long)made.d_model, (long long)made.layer, made.baseline_var, made.baseline_mean);
	nla_sidecar_release(&made);
out:
	nla_corpus_close(&corpus);
	nla_sidecar_release(&meta);
	nla_target_close(&target);
	return err->status;
}

int main(int argc, char **argv)
{
	return nla_program("nla-extract", NLA_CMD_EXTRACT, "Corpus -> activation set: the target's residual stream after "
			   "block K at chosen tokens.\n--sidecar: the nla_meta.yaml of an AV, an AR or a set made elsewhere.",
			   argc, argv, run);
}
