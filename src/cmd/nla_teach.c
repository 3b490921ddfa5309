/* nla-teach (run/teach.h): try 0, every row, a batch at a time; try 1, rows that its answers did not serve; ... */
#include "base/progress.h"
#include "cmd/program.h"
#include "lm/ranks.h"
#include "run/stop.h"
#include "run/teach.h"

static bool stopped;

static bool stop(void) { return stopped = stopped || nla_ranks_any(nla_stop_asked()); } /* all ranks alike */

/* Ask about every row that `try` answers have not served. */
static enum nla_status ask(struct nla_teach *t, int64_t try, struct nla_err *err)
{
	struct nla_progress p;
	int64_t n, batch = t->cfg->teach.batch, *rows = nla_teach_pending(t, try, &n);
	double started = nla_seconds();
	nla_auto char *label = try ? nla_format("teach, try %lld", (long long)try + 1) : nla_strdup("teach");
	nla_progress_start(&p, label, n);
	for (int64_t from = 0; from < n && !stop(); from += batch) {
		int64_t done = NLA_MIN(from + batch, n);
		if (nla_teach_batch(t, rows + from, done - from, err))
			break;
		nla_progress_step(&p, done, "%.2f rows/s", (double)done / (nla_seconds() - started));
	}
	if (n && !err->status && !stopped)
		nla_progress_end(&p, "%lld answers, %.2f rows/s", (long long)n, (double)n / (nla_seconds() - started));
	free(rows);
	return err->status;
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_teach t;
	nla_stop_catch();
	if (!nla_teach_open(&t, cfg, err)) {
		nla_say("nla-teach: %s on %s, %lld of %lld rows to explain, %lld have an explanation, seed %lld",
			t.teacher.folder, nt_device_name(t.teacher.lm.device), (long long)t.n_asked, (long long)t.set.n,
			(long long)t.n_kept, (long long)cfg->seed);
		for (int64_t try = 0; try < cfg->teach.tries && !err->status && !stop(); try++)
			ask(&t, try, err);
		if (!err->status && stopped) {
			nla_err_set(err, NLA_STOPPED, "stopped: '%s' holds the answers so far", t.log.path);
		} else if (!err->status && !nla_rank() && !nla_teach_finish(&t, err)) {
			nla_program_print(nla_teach_summary(&t), true);
			nla_auto char *out = nla_quoted(cfg->out);
			nla_say("'%s' is explained; next: nla-sft --role av --model MODEL --data %s --out AV, and --role ar",
				cfg->out, out);
		}
	}
	nla_teach_close(&t);
	return err->status;
}

const struct nla_program nla_program = { "nla-teach", NLA_CMD_TEACH, run,
	"A local instruct model (--teacher) writes explanations of an activation set's texts, for the warm\n"
	"start: the rows of --data become the set --out. --resume continues from OUT/teach.jsonl." };
