/* The loop around a step, and its checkpoints; see loop.h. */
#include "run/loop.h"
#include "base/progress.h"
#include "lm/ranks.h"
#include "run/stop.h"

/* Both optimizers, the data cursor and the counters, as a whole; random numbers follow from the step. */
static enum nla_status restore(struct nla_loop *l, struct nla_err *err)
{
	struct nla_st st;
	nla_auto char *path = nla_path_join(l->folder.checkpoint, "optimizer.safetensors");
	if (!nla_state_read(&l->state, l->folder.checkpoint, l->cursor.n, err) && !nla_st_open(&st, path, err)) {
		if (!nla_optim_restore(&l->optim, l->name, &st, err) && l->ar_optim.n)
			nla_optim_restore(&l->ar_optim, "ar", &st, err);
		nla_st_close(&st);
		l->optim.step = l->state.av_updates;
		l->ar_optim.step = l->state.ar_updates;
		l->cursor.position = l->state.cursor;
		l->saved = l->state.step;
		nla_say("resuming from step %lld: %s", (long long)l->state.step, l->folder.checkpoint);
	}
	return err->status;
}

enum nla_status nla_loop_open(struct nla_loop *l, bool fixed_steps, struct nla_err *err)
{
	l->saved = l->evaluated = -1;
	l->state.rows = l->cursor.n;
	if (nla_folder_open(&l->folder, l->cfg, l->device, fixed_steps, err))
		return err->status;
	int64_t first = l->folder.resumed;
	nla_ranks_copy(&first, sizeof(first));
	if (first != l->folder.resumed)
		return nla_fail(err, "rank 0 resumes '%s' from step %lld, and the newest checkpoint here is of step %lld (-1: "
				"none): want a folder that all ranks see", l->cfg->out, (long long)first,
				(long long)l->folder.resumed);
	if (nla_n_ranks() > 1)
		nla_say("%lld ranks, of which each has its share of a batch", (long long)nla_n_ranks());
	return l->folder.checkpoint ? restore(l, err) : NLA_OK;
}

char *nla_loop_left(const struct nla_loop *l)
{
	NLA_AUTO(nla_str_release) struct nla_str s = NLA_STR_INIT;
	const int64_t made = l->state.step - l->from, left = l->cfg->steps - l->state.step;
	if (made > 0 && left > 0) {
		nla_str_add(&s, "  ");
		nla_add_left(&s, (nla_seconds() - l->started) / (double)made * (double)left + l->eval_last);
	}
	return nla_str_detach(&s);
}

enum nla_status nla_loop_optim(struct nla_optim *optim, struct nla_adapter *adapter, nt_tensor *head, struct nla_err *err)
{
	NLA_AUTO(nla_tensors_release) struct nla_tensors all = { 0 };
	nla_adapter_list(adapter, &all);
	if (head) {
		nt_requires_grad(head, true);
		nla_tensors_add(&all, "head", head);
	}
	if (!nla_adapter_train(adapter, true, err))
		nla_optim_init(optim, all.list, (int)all.names.n, err);
	return err->status;
}

static enum nla_status fill_checkpoint(void *arg, const char *dir, struct nla_err *err)
{
	struct nla_loop *l = arg;
	NLA_AUTO(nla_tensors_release) struct nla_tensors tensors = { 0 };
	nla_auto char *optim = nla_path_join(dir, "optimizer.safetensors");
	l->state.av_updates = l->optim.step;
	l->state.ar_updates = l->ar_optim.step;
	nla_optim_list(&l->optim, l->name, &tensors);
	if (l->ar_optim.n)
		nla_optim_list(&l->ar_optim, "ar", &tensors);
	if (!l->save(l, dir, err) && !nla_config_write(l->cfg, l->device, dir, err) &&
	    !nla_tensors_write(&tensors, optim, NT_F32, err))
		nla_state_write(&l->state, dir, err);
	return err->status;
}

static enum nla_status checkpoint(struct nla_loop *l, struct nla_err *err)
{
	const double started = nla_seconds();
	const int64_t step = l->state.step;
	nla_watch(l->cfg->watchdog, "the checkpoint of step", step);
	if (nla_rank() || l->saved == step || /* the first one writes */
	    !nla_checkpoint_write(&l->folder, step, l->cfg->checkpoint.keep, fill_checkpoint, l, err))
		l->saved = step;
	if (!err->status && l->best && !nla_rank())
		nla_checkpoint_link(&l->folder, "best", step, l->cfg->checkpoint.keep);
	l->best = false;
	l->checkpoint_seconds += nla_seconds() - started;
	return err->status;
}

static enum nla_status evaluate(struct nla_loop *l, struct nla_err *err)
{
	const double started = nla_seconds();
	nla_watch(l->cfg->watchdog, "the evaluation at step", l->state.step);
	if (l->evaluate && l->evaluate(l, err) == NLA_STOPPED) { /* the run's work is saved all the same */
		nla_say("evaluation at step %lld: %s", (long long)l->state.step, err->text);
		*err = (struct nla_err)NLA_ERR_INIT;
	}
	l->evaluated = l->state.step;
	l->eval_last = l->eval_seconds = nla_seconds() - started;
	return err->status;
}

/* Weights whose gradient is not finite stay as they are, so what is saved here is the last good state. */
static enum nla_status guard(struct nla_loop *l, struct nla_err *err)
{
	if (l->state.bad_steps >= l->cfg->update.max_bad_steps && !checkpoint(l, err)) {
		nla_ranks_any(false); /* the first one has written it */
		nla_fail(err, "gradients were not finite for %lld steps in a row: the last good state is "
			 "'%s/checkpoints/latest': %s", (long long)l->state.bad_steps, l->folder.path, l->advice);
	}
	return err->status;
}

static bool due(const struct nla_loop *l, int64_t every) { return every && l->state.step % every == 0; }

/* Once: a step that stood in line for most of its time. */
static void say_starved(struct nla_loop *l, double processor)
{
	static const double several = 3;
	if (l->device == NT_CPU && nla_n_ranks() == 1 && !l->starved && l->step_seconds > NLA_MAX(several * processor, 1)) {
		nla_say("warning: step %lld took %.1f s, of which its threads had a processor for %.1f s in all: other "
			"processes want the processors; give this one some of its own (taskset, a job's limits), or end them",
			(long long)l->state.step + 1, l->step_seconds, processor);
		l->starved = true;
	}
}

static enum nla_status one_step(struct nla_loop *l, struct nla_err *err)
{
	const double started = nla_seconds();
	const clock_t processor = clock();
	bool skipped = false;
	nla_watch(l->cfg->watchdog, "step", l->state.step + 1);
	if (l->step(l, &skipped, err))
		return err->status;
	l->step_seconds = nla_seconds() - started;
	say_starved(l, (double)(clock() - processor) / CLOCKS_PER_SEC);
	l->eval_seconds = 0;
	l->state.step++;
	l->state.cursor = l->cursor.position; /* of several it moves for all before the first one's step */
	l->state.bad_steps = skipped ? l->state.bad_steps + 1 : 0;
	l->state.skipped += skipped;
	if (due(l, l->eval_every) && l->state.step < l->cfg->steps && evaluate(l, err))
		return err->status;
	if (l->log(l, err))
		return err->status;
	l->checkpoint_seconds = 0;
	return guard(l, err) || !(l->best || due(l, l->cfg->checkpoint.every)) ? err->status : checkpoint(l, err);
}

/* The evaluation of the step at hand stands, or none is wanted. */
static bool evaluated(const struct nla_loop *l)
{
	nla_auto char *made = nla_format("%s/eval-%lld.json", l->folder.path, (long long)l->state.step);
	bool is = !l->evaluate || nla_exists(made);
	nla_ranks_copy(&is, sizeof(is));
	return is;
}

/* The last line: what came of it, and what to type next. */
static enum nla_status say_end(const struct nla_loop *l, struct nla_err *err)
{
	const long long at = l->state.step, steps = l->cfg->steps;
	const char *path = l->folder.path;
	nla_auto char *quoted = nla_quoted(path);
	NLA_AUTO(nla_str_release) struct nla_str took = NLA_STR_INIT;
	if (at < steps || !evaluated(l))
		return nla_err_set(err, NLA_STOPPED, "stopped after step %lld of %lld%s: '%s/checkpoints/step-%lld' is saved",
				   at, steps, at < steps ? "" : ", before its evaluation", path, at);
	nla_add_duration(&took, nla_seconds() - l->started);
	nla_str_addf(&took, "; next: ");
	nla_str_addf(&took, l->next, quoted);
	nla_say("done: %lld steps, '%s/checkpoints/step-%lld', after %s", at, path, at, took.buf);
	return NLA_OK;
}

/* What comes before the first step. */
static enum nla_status begin(struct nla_loop *l, struct nla_err *err)
{
	const int64_t steps = l->cfg->steps;
	if (l->folder.checkpoint && !nla_rank())
		nla_checkpoint_link(&l->folder, "latest", l->state.step, l->cfg->checkpoint.keep);
	l->idle = l->folder.resumed >= 0 && l->state.step >= steps && evaluated(l);
	if (l->idle)
		nla_say("nothing left to do: '%s' has made %lld steps, and %lld are asked for; %s", l->folder.path,
			(long long)l->state.step, (long long)steps, l->more);
	if (l->idle || (l->folder.resumed < 0 && l->begin(l, err)))
		return err->status;
	/* an evaluation that was due when a signal came is made up for */
	if ((l->state.step == 0 || (due(l, l->eval_every) && l->state.step < steps && !evaluated(l))) && !evaluate(l, err) &&
	    l->best)
		checkpoint(l, err);
	l->from = l->state.step;
	return err->status;
}

/* What comes after the last, or after a signal. */
static enum nla_status end(struct nla_loop *l, struct nla_err *err)
{
	return l->idle || checkpoint(l, err) ||
	       (l->state.step >= l->cfg->steps && l->evaluated != l->state.step && evaluate(l, err)) ||
	       (l->best && checkpoint(l, err)) ? err->status : NLA_OK;
}

void nla_loop_turn(struct nla_loop *l)
{
	if (!l->who)
		return;
	nla_say_tee(l->folder.log.path ? &l->folder.log : NULL); /* a check has no folder */
	nla_say_for(l->who);
}

/* One function of each loop, in its turn, as long as none fails; only: of those that have made that many steps, -1: of all. */
static enum nla_status each(struct nla_loop *const *all, int64_t n, int64_t only,
			    enum nla_status (*call)(struct nla_loop *l, struct nla_err *err), struct nla_err *err)
{
	for (int64_t i = 0; i < n && !err->status; i++) {
		nla_loop_turn(all[i]);
		all[i]->failed = (only < 0 || all[i]->state.step == only) && call(all[i], err);
		if (all[i]->failed && all[i]->who)
			nla_err_context(err, "%s", all[i]->who);
	}
	return err->status;
}

static int64_t furthest_behind(struct nla_loop *const *all, int64_t n)
{
	int64_t step = INT64_MAX;
	for (int64_t i = 0; i < n; i++)
		step = NLA_MIN(step, all[i]->state.step);
	return step;
}

static enum nla_status make_steps(struct nla_loop *const *all, int64_t n, struct nla_err *err)
{
	const int64_t steps = all[0]->cfg->steps;
	struct nla_progress p;
	nla_progress_start(&p, "step", steps);
	for (int64_t i = 0; i < n; i++)
		all[i]->started = p.started;
	p.from = (double)furthest_behind(all, n) / (double)steps;
	for (int64_t at; (at = furthest_behind(all, n)) < steps && !nla_ranks_any(nla_stop_asked());) {
		if (each(all, n, at, one_step, err))
			break;
		if (p.tty) /* elsewhere the lines of log.every do */
			nla_progress_step(&p, at + 1, "%.2f s", all[0]->step_seconds);
	}
	return err->status;
}

/* The line that the program ends with, in the run's log too. */
static void log_end(struct nla_loop *l, const char *text)
{
	nla_auto char *line = nla_format("%s\n", text);
	if (!l->folder.log.path)
		return;
	nla_log_add(&l->folder.log, line, strlen(line));
	nla_log_flush(&l->folder.log, NLA_IGNORED);
}

enum nla_status nla_loop_run(struct nla_loop *const *all, int64_t n, struct nla_err *err)
{
	struct nla_err first = NLA_ERR_INIT;
	if (!each(all, n, -1, begin, err) && !make_steps(all, n, err))
		each(all, n, -1, end, err);
	for (int64_t i = 0; i < n && !err->status; i++) {
		struct nla_err stopped = NLA_ERR_INIT;
		nla_loop_turn(all[i]);
		if (all[i]->idle || !say_end(all[i], &stopped))
			continue;
		log_end(all[i], stopped.text);
		first = first.status ? first : stopped;
	}
	for (int64_t i = 0; i < n && err->status; i++) { /* one that fails takes no other's work with it */
		nla_loop_turn(all[i]);
		if (!all[i]->failed && all[i]->state.step > NLA_MAX(all[i]->saved, 0))
			checkpoint(all[i], NLA_IGNORED);
	}
	for (int64_t i = 0; i < n && err->status; i++)
		log_end(all[i], err->text);
	if (!err->status)
		*err = first;
	return err->status;
}

void nla_loop_close(struct nla_loop *l)
{
	nla_watch(0, "", 0);
	nla_optim_release(&l->optim);
	nla_optim_release(&l->ar_optim);
	nla_cursor_release(&l->cursor);
	nla_folder_close(&l->folder);
}
