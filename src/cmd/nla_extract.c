#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/progress.h"
#include "nla/extract.h"
#include "run/program.h"
#include "run/stop.h"

static bool show(int64_t docs, int64_t rows, void *arg)
{
	nla_progress_step(arg, rows, "%lld documents", (long long)docs);
	return !nla_stop_asked();
}

/* Marker and templates of another sidecar, which must fit this tokenizer; its block, unless one is asked for. */
static enum nla_status describe_like(const struct nla_config *cfg, const struct nla_target *t, struct nla_sidecar *meta, struct nla_err *err)
{
	struct nla_sidecar like;
	if (nla_sidecar_read(&like, cfg->extract.meta, err))
		return err->status;
	if (!like.marker || !like.av_template || !like.ar_template)
		nla_fail(err, "'%s': its sidecar has no injection_char, AV template or AR template: give them as options, without extract.meta",
			 cfg->extract.meta);
	else if (!nla_contract_check(&like, t, cfg->extract.meta, err)) {
		meta->marker = nla_strdup(like.marker);
		meta->av_template = nla_strdup(like.av_template);
		meta->ar_template = nla_strdup(like.ar_template);
		meta->inject = like.inject;
		meta->injection_scale = like.injection_scale;
		meta->layer = nla_sidecar_block(&like);
	}
	nla_sidecar_release(&like);
	return err->status;
}

/* The sidecar of the set: layer, templates, and the ids that follow from them. */
static enum nla_status describe(const struct nla_config *cfg, const struct nla_target *t, struct nla_sidecar *meta, struct nla_err *err)
{
	meta->version = 2;
	meta->kind = nla_strdup("nla_dataset");
	meta->stage = nla_strdup("extract");
	meta->base_checkpoint = nla_strdup(nla_path_base(cfg->model));
	if (*cfg->extract.meta) {
		if (describe_like(cfg, t, meta, err))
			return err->status;
		if (cfg->extract.layer < 0 && meta->layer < 0)
			return nla_usage(err, "'%s': its sidecar names no block (layer_index): say which with extract.layer", cfg->extract.meta);
	} else {
		meta->marker = nla_strdup(cfg->templates.marker);
		meta->av_template = nla_strdup(cfg->templates.av);
		meta->ar_template = nla_strdup(cfg->templates.ar);
	}
	if (cfg->extract.layer >= 0 || meta->layer < 0)
		meta->layer = cfg->extract.layer >= 0 ? cfg->extract.layer : 2 * t->lm.arch.n_layers / 3;
	if (meta->layer >= t->lm.arch.n_layers)
		return nla_usage(err, "'extract.layer' is %lld: '%s' has blocks 0 to %lld", (long long)meta->layer, cfg->model,
				 (long long)t->lm.arch.n_layers - 1);
	return nla_contract_make(meta, t, err);
}

static enum nla_status nothing(const struct nla_config *cfg, const struct nla_extract_count *n, struct nla_err *err)
{
	if (cfg->extract.at)
		return nla_fail(err, "'%s' gave no row: its %lld texts are empty or longer than extract.max_tokens = %lld tokens",
				cfg->extract.corpus, (long long)n->docs, (long long)cfg->extract.max_tokens);
	return nla_fail(err, "'%s' gave no row: its %lld documents are empty or shorter than extract.min_position = %lld tokens",
			cfg->extract.corpus, (long long)n->docs, (long long)cfg->extract.min_position);
}

static enum nla_status extract(const struct nla_config *cfg, const struct nla_target *t, const struct nla_sidecar *meta, struct nla_err *err)
{
	struct nla_extract_cfg x = { .layer = meta->layer, .per_doc = cfg->extract.per_doc, .min_position = cfg->extract.min_position,
				     .max_tokens = cfg->extract.max_tokens, .next = cfg->extract.next, .max_rows = cfg->extract.rows,
				     .seed = (uint64_t)cfg->seed, .last = cfg->extract.at, .progress = show };
	struct nla_actset_writer *w;
	struct nla_corpus corpus;
	struct nla_progress p;
	struct nla_extract_count n;
	if (nla_corpus_open(&corpus, cfg->extract.corpus, err))
		return err->status;
	if ((!cfg->overwrite || !nla_actset_remove(cfg->out, err)) &&
	    !nla_actset_create(&w, cfg->out, meta, cfg->extract.dtype ? NLA_ST_F32 : NLA_ST_BF16, err)) {
		nla_progress_start(&p, "extract", cfg->extract.rows);
		x.arg = &p;
		if (!nla_extract(t, &corpus, &x, w, &n, err) && n.rows == 0)
			nothing(cfg, &n, err);
		if (!err->status && n.too_long)
			nla_say("%lld texts are longer than extract.max_tokens = %lld tokens: left out", (long long)n.too_long, (long long)x.max_tokens);
		if (!err->status && n.other_tokens)
			nla_say("%lld of %lld texts are another number of tokens here than their n_raw_tokens: another tokenizer, or text that does not encode back",
				(long long)n.other_tokens, (long long)n.rows);
		if (err->status)
			nla_actset_abort(w);
		else if (!nla_actset_finish(w, err))
			nla_progress_end(&p, "%lld rows from %lld documents, block %lld, width %lld", (long long)n.rows, (long long)n.docs,
					 (long long)x.layer, (long long)meta->d_model);
		if (!err->status && nla_stop_asked()) /* not what was asked for: who waits for the whole set must see it */
			nla_fail(err, "stopped after %lld documents: '%s' holds their %lld rows; --overwrite extracts anew", (long long)n.docs, cfg->out,
				 (long long)n.rows);
	}
	nla_corpus_close(&corpus);
	return err->status;
}

/* The baselines of the finished set: stdout is the result. */
static enum nla_status print_result(const char *folder, struct nla_err *err)
{
	struct nla_sidecar made;
	if (!nla_sidecar_read(&made, folder, err)) {
		printf("{\"rows\": %lld, \"d_model\": %lld, \"layer\": %lld, \"baseline_var\": %.9g, \"baseline_mean\": %.9g}\n",
		       (long long)made.n_rows, (long long)made.d_model, (long long)made.layer, made.baseline_var, made.baseline_mean);
		nla_sidecar_release(&made);
	}
	return err->status;
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_target target;
	struct nla_sidecar meta;
	int device;
	nt_dtype dtype;
	nla_stop_catch();
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(cfg->extract.corpus, "extract.corpus", err) ||
	    nla_config_need(cfg->out, "out", err) || nla_config_device(cfg, &device, &dtype, err))
		return err->status;
	if (nla_target_open(&target, cfg->model, &cfg->chat, device, dtype, -1, err))
		return err->status;
	nla_sidecar_init(&meta);
	if (!describe(cfg, &target, &meta, err) && !extract(cfg, &target, &meta, err))
		print_result(cfg->out, err);
	nla_sidecar_release(&meta);
	nla_target_close(&target);
	return err->status;
}

int main(int argc, char **argv)
{
	return nla_program("nla-extract", NLA_CMD_EXTRACT,
			   "Corpus -> activation set: the target's residual stream after block K at chosen tokens of each document.", argc,
			   argv, run);
}
