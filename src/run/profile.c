/* --profile: one step under libtorch's profiler. The table says where its time went, by stage and operation, next to what the
 * device reaches in a large product and a large copy; the trace has every event. See train.h. */
#include "run/train.h"

#include <stdlib.h>
#include <string.h>

#include "base/progress.h"

#define MOST_ROWS 10
#define LEAST_SHARE 0.01 /* of the stage's time, to have a line of its own */

struct roof {
	double flops, bytes; /* a second */
};

static int by_seconds(const void *a, const void *b)
{
	const struct nt_profile_row *x = a, *y = b;
	return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

static void add_row(struct nt_profile_row *sum, const struct nt_profile_row *r)
{
	sum->seconds += r->seconds;
	sum->calls += r->calls;
	sum->flops += r->flops;
	sum->bytes += r->bytes;
}

/* A stage, or one of its operations: with an indent. */
static void write_line(FILE *out, const char *name, const struct nt_profile_row *r, double stage, const struct roof *roof)
{
	const double least = NLA_MAX(r->flops / roof->flops, r->bytes / roof->bytes);
	fprintf(out, "%-24s %10.4f %6.1f%% %8lld %12.4f %12.4f", name, r->seconds, 100 * r->seconds / stage,
		(long long)r->calls, r->flops / 1e9, r->bytes / 1e9);
	if (least > 0 && r->seconds > 0)
		fprintf(out, " %8.0f%%", 100 * least / r->seconds);
	fputc('\n', out);
}

/* rows: those of the stage among n, largest first. */
static void write_stage(FILE *out, const struct nt_profile_row *whole, const struct nt_profile_row *rows, int64_t n,
			const struct roof *roof)
{
	struct nt_profile_row all = *whole, rest = { 0 }, outside = { .seconds = whole->seconds };
	int64_t shown = 0, others = 0;
	for (int64_t i = 0; i < n; i++)
		if (!strcmp(rows[i].stage, whole->stage))
			add_row(&all, &rows[i]);
	all.seconds = whole->seconds;
	write_line(out, whole->stage, &all, whole->seconds, roof);
	for (int64_t i = 0; i < n; i++) {
		const struct nt_profile_row *r = &rows[i];
		if (!*r->operation || strcmp(r->stage, whole->stage))
			continue;
		outside.seconds -= r->seconds;
		nla_auto char *name = nla_format("  %s", r->operation);
		if (shown < MOST_ROWS && r->seconds >= LEAST_SHARE * whole->seconds) {
			write_line(out, name, r, whole->seconds, roof);
			shown++;
			continue;
		}
		add_row(&rest, r);
		others++;
	}
	nla_auto char *name = nla_format("  %lld others", (long long)others);
	if (others)
		write_line(out, name, &rest, whole->seconds, roof);
	write_line(out, "  outside of operations", &outside, whole->seconds, roof);
}

static void write_table(FILE *out, const struct nla_train *t, struct nt_profile_row *rows, int64_t n, const struct roof *roof)
{
	const struct nla_lm *lm = &t->models.target.lm;
	fprintf(out, "step %lld on %s; a large product in %s reaches %.1f GFLOP/s, a large copy %.1f GB/s\n",
		(long long)t->rl.step + 1, nt_device_name(lm->device), lm->dtype == NT_F32 ? "fp32" : "bf16", roof->flops / 1e9,
		roof->bytes / 1e9);
	fprintf(out, "%-24s %10s %7s %8s %12s %12s %9s\n", "", "seconds", "share", "calls", "GFLOP", "GB", "roofline");
	qsort(rows, (size_t)n, sizeof(*rows), by_seconds);
	for (enum nla_stage stage = 0; stage <= NLA_STAGE_UPDATE; stage++)
		for (int64_t i = 0; i < n; i++)
			if (!*rows[i].operation && !strcmp(rows[i].stage, nla_stage_names[stage]))
				write_stage(out, &rows[i], rows, n, roof);
	fflush(out);
}

enum nla_status nla_profiled_step(struct nla_train *t, struct nla_err *err)
{
	const int device = t->models.target.lm.device;
	nla_auto char *name = nla_format("trace-%lld.json", (long long)t->rl.step + 1);
	nla_auto char *path = nla_path_join(t->loop.folder.path, name);
	nla_auto struct nt_profile_row *rows = NULL;
	struct roof roof;
	int64_t n;
	bool kernels;
	if (nt_roofline(t->models.target.lm.dtype, device, &roof.flops, &roof.bytes) || nt_profile_start(device))
		return nla_nt_fail(err, "cannot profile");
	t->one_step(&t->rl, &t->step, err);
	if (nt_profile_stop(path, &rows, &n, &kernels) && !err->status)
		return nla_nt_fail(err, "cannot profile");
	if (err->status)
		return err->status;
	write_table(t->out, t, rows, n, &roof);
	if (device != NT_CPU && !kernels)
		nla_say("the profiler cannot time kernels on %s: seconds are the host's", nt_device_name(device));
	nla_say("trace of step %lld, for ui.perfetto.dev or chrome://tracing: %s", (long long)t->rl.step + 1, path);
	return NLA_OK;
}
