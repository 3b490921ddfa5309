/* The memory plan as a table, advice where it does not fit, and a trial step: B = 1, G responses (train.h). */
#include "run/train.h"
#include "base/progress.h"
#include "lm/selfcheck.h"

#define GIB ((double)(1 << 30))
#define TRIAL 2e12 /* operations: a minute or so on two cores */
#define SOON 3.0 /* seconds of a trial after which another, of twice the prompts, is made */
#define SHARE 0.75 /* of this machine's memory that a trial may need: other programs live here too */

/* In GiB of three digits: what is needed up, what is there down, so that the one that is larger reads larger. */
static double need(int64_t bytes) { return ceil((double)bytes / GIB * 1e3) / 1e3; }
static double spare(int64_t bytes) { return floor((double)bytes / GIB * 1e3) / 1e3; }

static void write_plan(FILE *out, const struct nla_plan_in *in, const struct nla_plan *p, const char *where)
{
#define ROW(what, bytes, note, ...) fprintf(out, "  %-26s %8.3f   " note "\n", what, (double)(bytes) / GIB, __VA_ARGS__)
	static const char *const copies[] = { "none: they do not fit", "for decoding", "the anchor, the AR",
					      "for decoding, the anchor, the AR" };
	fprintf(out, "memory plan in GiB for %s, %s: %lld x %lld responses of at most %lld tokens\n", where,
		in->dtype == NT_F32 ? "fp32" : "bf16", (long long)in->prompts, (long long)in->group, (long long)in->new_tokens);
	ROW("weights", p->weights, "%s", "once: AV, reference and AR share them");
	ROW("copies, adapters merged in", p->merged, "%s", copies[p->copies]);
	ROW("adapters, AR head", p->adapters, "%s", "as they were loaded");
	ROW("optimizer", p->optimizer, "%s", "the trained adapter with gradient and two moments");
	ROW("rollout: cache", p->cache, "%lld rows of %lld tokens at once", (long long)p->rows,
	    (long long)(in->prompt + in->new_tokens));
	ROW("rollout: intermediates", p->decoding, "%s", "of one token a row, or of the prompts");
	ROW("score: intermediates", p->score, "%s", "of a batch of texts");
	ROW("update: activations", p->update - p->logits, "%lld of %lld responses a backward pass, %s",
	    (long long)p->micro_batch, (long long)(in->prompts * in->group),
	    p->recompute ? "blocks recomputed" : "all blocks kept");
	ROW("update: log-prob chunk", p->logits, "%lld MiB of logits at a time", (long long)(p->chunk >> 20));
	ROW("head room", p->head_room, "%s", in->gpu ? "CUDA context, fragmentation" : "libraries, fragmentation");
	ROW("total", p->total, "of %.3f: the stages follow one another, so the largest counts", (double)p->room / GIB);
#undef ROW
}

/* What a rollout of 16 x 16 would take, or the largest that fits. */
static void write_larger(FILE *out, const struct nla_plan_in *in, int64_t room)
{
	struct nla_plan_in more = *in;
	struct nla_plan p;
	const int64_t rows = 256 * NLA_MAX(in->policies, 1);
	more.prompts = more.group = 16;
	nla_plan_make(&more, room, &p);
	if (!p.fits)
		fprintf(out, "room: 16 x 16 responses do not fit, they need %.1f GiB\n", (double)p.total / GIB);
	else
		fprintf(out, "room: 16 x 16 responses fit too, %lld rows decoding at once (%lld batches), %lld responses a "
			"backward pass, %.1f GiB\n", (long long)p.rows, (long long)((rows + p.rows - 1) / p.rows),
			(long long)p.micro_batch, (double)p.total / GIB);
}

/* What to change so that it fits: each on top of those before it. */
static void advise(const struct nla_plan_in *asked, int64_t room, struct nla_str *s)
{
	struct nla_plan_in in = *asked;
	struct nla_plan p;
	in.recompute = NLA_RECOMPUTE_AUTO;
	nla_plan_make(&in, room, &p);
	if (asked->recompute == NLA_RECOMPUTE_FALSE)
		nla_str_add(s, "set update.recompute to auto, ");
	if (!p.fits && in.micro_batch > 1) {
		in.micro_batch = 0;
		nla_plan_make(&in, room, &p);
		nla_str_addf(s, "lower update.micro_batch from %lld to %lld, ", (long long)asked->micro_batch,
			     (long long)p.micro_batch);
	}
	if (!p.fits && in.dtype == NT_F32) {
		in.dtype = NT_BF16;
		in.weights /= 2;
		nla_plan_make(&in, room, &p);
		nla_str_add(s, "set dtype to bf16, ");
	}
	while (!p.fits && in.new_tokens > 32) {
		in.new_tokens /= 2;
		nla_plan_make(&in, room, &p);
	}
	if (p.fits && in.new_tokens < asked->new_tokens)
		nla_str_addf(s, "lower rollout.max_new_tokens from %lld to %lld, ", (long long)asked->new_tokens,
			     (long long)in.new_tokens);
	nla_str_addf(s, p.fits ? "and it takes %.3f GiB" :
			s->len ? "and still it needs %.3f GiB" : "no setting makes it less than %.3f GiB", need(p.total));
}

/* What all steps and evaluations would take, if the work of these `prompts` grew in proportion. */
static void write_time(FILE *out, const struct nla_train *t, const double *seconds, int64_t prompts)
{
	const struct nla_config *cfg = t->cfg;
	const double texts = seconds[NLA_STAGE_ROLLOUT] + seconds[NLA_STAGE_SCORE];
	const int64_t during = cfg->steps && cfg->eval.every ? (cfg->steps - 1) / cfg->eval.every : 0;
	const int64_t evals = t->has_eval ? 1 + (cfg->steps > 0) + during : 0;
	const int64_t rows = cfg->eval.rows ? NLA_MIN(cfg->eval.rows, t->eval_set.n) : t->eval_set.n;
	NLA_AUTO(nla_str_release) struct nla_str time = NLA_STR_INIT;
	const double all = (double)(cfg->steps * cfg->rollout.prompts) / (double)prompts;
	const double samples = (double)(prompts * cfg->rollout.group), turns = (double)t->n_wanted / (double)t->n;
	nla_add_left(&time, turns * (all * (texts + seconds[NLA_STAGE_UPDATE]) + texts / samples * (double)(evals * rows)));
	fprintf(out, "a run of %lld steps and %lld evaluations%s, begun now on this device: about %s (from a step of "
		"%lld of %lld prompts)\n", (long long)cfg->steps, (long long)evals, t->n_wanted > 1 ? " of each lambda" : "",
		time.buf, (long long)prompts, (long long)cfg->rollout.prompts);
}

/* A step of all policies; seconds of its stages, of all together. */
static enum nla_status step_of(struct nla_train *t, int64_t prompts, double *seconds, struct nla_err *err)
{
	for (int64_t i = 0; i < t->n; i++)
		t->policies[i].rl.rollout.prompts = prompts;
	for (int64_t i = 0; i < t->n && !nla_policy_step(&t->policies[i], err); i++)
		for (int stage = 0; stage < NLA_N_STAGES; stage++)
			seconds[stage] += t->policies[i].step.seconds[stage];
	return err->status;
}

/* One step of one prompt; on the run's own device of twice as many while that is soon done, to say how long the run takes. */
static enum nla_status try_step(FILE *out, struct nla_train *t, bool other, struct nla_err *err)
{
	const int device = t->models.target.lm.device;
	if (nla_train_views(t, err))
		return err->status;
	for (int64_t prompts = 1, most = t->cfg->rollout.prompts; prompts && !err->status;) {
		double seconds[NLA_N_STAGES] = { 0 }, started = nla_seconds();
		nt_peak_reset(device);
		int64_t before = nt_peak(device);
		if (!step_of(t, prompts, seconds, err) && prompts == 1)
			fprintf(out, "tried one prompt: %lld responses in %.1f s, scored in %.1f s, update in %.1f s; it took "
				"%.3f GiB\n", (long long)(t->n * t->cfg->rollout.group), seconds[NLA_STAGE_ROLLOUT],
				seconds[NLA_STAGE_SCORE], seconds[NLA_STAGE_UPDATE], (double)(nt_peak(device) - before) / GIB);
		const bool more = !other && prompts < most && nla_seconds() - started < SOON;
		if (!err->status && !other && !more)
			write_time(out, t, seconds, prompts);
		prompts = more ? NLA_MIN(2 * prompts, most) : 0;
	}
	return err->status;
}

/* The step is made where the model fits this device; planned for another, it must have room to spare and be done soon. */
static enum nla_status maybe_try(FILE *out, struct nla_train *t, bool other, struct nla_err *err)
{
	struct nla_plan_in one = nla_train_sizes(t, t->n);
	one.prompts = 1;
	one.eval_rows = 0;
	one.copies = 0; /* a trial is over before copies pay */
	if (other)
		nla_plan_make(&one, (int64_t)(SHARE * (double)t->room), &t->plan);
	/* multiplications and additions: rollout, reference, the policy forward, again, and twice as many backward */
	double operations = 2.0 * (double)nla_arch_n_params(one.arch) * 6 * (double)(one.prompt + one.group * one.new_tokens);
	if (!t->plan.fits)
		fprintf(out, "not tried: one prompt takes %.3f GiB on this machine, which has %.3f to spare\n",
			need(t->plan.total), spare(t->plan.room));
	else if (other && operations > TRIAL)
		fprintf(out, "not tried: one prompt takes %.0f x 10^12 operations, too long without a GPU\n",
			operations / 1e12);
	else
		try_step(out, t, other, err);
	return err->status;
}

static enum nla_status plan_and_try(FILE *out, struct nla_train *t, struct nla_err *err)
{
	struct nla_plan_in in = nla_train_sizes(t, t->n);
	struct nla_plan plan = t->plan;
	NLA_AUTO(nla_str_release) struct nla_str advice = NLA_STR_INIT;
	int64_t room = t->room, n = t->n;
	bool other = t->cfg->memory_bytes && !in.gpu;
	const char *device = nt_device_name(t->models.target.lm.device);
	nla_auto char *where = other ? nla_format("a GPU of %s", t->cfg->memory) : nla_strdup(device);
	if (other) {
		in.gpu = true;
		room = t->cfg->memory_bytes;
		n = nla_plan_policies(&in, t->n_wanted, room);
		in.policies = n;
		nla_plan_make(&in, room, &plan);
	}
	if (t->n_wanted > 1)
		fprintf(out, "lambdas: %lld of %lld train together%s\n", (long long)n, (long long)t->n_wanted,
			n < t->n_wanted ? ", which is what memory allows; the others follow" : "");
	write_plan(out, &in, &plan, where);
	if (plan.fits) {
		write_larger(out, &in, room);
		maybe_try(out, t, other, err);
	} else {
		advise(&in, room, &advice);
		nla_fail(err, "%.3f GiB do not fit into %.3f: %s", need(plan.total), spare(room), advice.buf);
	}
	if (!err->status || !plan.fits)
		fprintf(out, "%s%s\n", plan.fits ? "go" : "no go: ", err->text);
	return err->status;
}

enum nla_status nla_check(const struct nla_config *cfg, const struct nla_algorithm *algorithm, FILE *out, struct nla_err *err)
{
	struct nla_train t;
	nt_peak_reset(NT_CPU); /* so that what is loaded counts when it is freed */
	if (!nla_train_open(&t, cfg, algorithm, 0, err)) {
		fprintf(out, "loaded: %s, AV %s, AR %s, %lld activations of block %lld\n", cfg->model, cfg->av, cfg->ar,
			(long long)t.set.n, (long long)t.models.ar.depth - 1);
		if (t.models.target.lm.device != NT_CPU)
			nla_selfcheck(&t.models.target.lm, out);
		plan_and_try(out, &t, err);
	}
	nla_train_close(&t);
	return err->status;
}
