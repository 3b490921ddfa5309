/* The loop around a step, and its checkpoints; see loop.h. */
#include "run/loop.h"

#include <stdlib.h>

#include "base/progress.h"
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
	l->saved = -1;
	l->state.rows = l->cursor.n;
	if (!nla_folder_open(&l->folder, l->cfg, l->device, fixed_steps, err) && l->folder.checkpoint)
		restore(l, err);
	return err->status;
}

enum nla_status nla_loop_optim(struct nla_optim *optim, struct nla_adapter *adapter, nt_tensor *head, struct nla_err *err)
{
	int n = nla_adapter_params(adapter, NULL, NULL);
	nla_auto nt_tensor **list = nla_alloc((size_t)n + 1, sizeof(*list));
	nla_adapter_params(adapter, list, NULL);
	if (head) {
		nt_requires_grad(head, true);
		list[n++] = head;
	}
	if (!nla_adapter_train(adapter, true, err))
		nla_optim_init(optim, list, n, err);
	return err->status;
}

static enum nla_status fill_checkpoint(struct nla_loop *l, const char *dir, struct nla_err *err)
{
	NLA_AUTO(nla_tensors_release) struct nla_tensors tensors = { 0 };
	nla_auto char *optim = nla_path_join(dir, "optimizer.safetensors");
	l->state.cursor = l->cursor.position;
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
	if (l->saved == step)
		return NLA_OK;
	char *dir = nla_checkpoint_begin(&l->folder, step, err);
	if (!err->status)
		fill_checkpoint(l, dir, err);
	if (!nla_checkpoint_end(&l->folder, step, dir, l->cfg->checkpoint.keep, err))
		l->saved = step;
	l->checkpoint_seconds += nla_seconds() - started;
	return err->status;
}

static enum nla_status evaluate(struct nla_loop *l, struct nla_err *err)
{
	const double started = nla_seconds();
	if (l->evaluate && l->evaluate(l, err) == NLA_STOPPED) { /* the run's work is saved all the same */
		nla_say("evaluation at step %lld: %s", (long long)l->state.step, err->text);
		*err = (struct nla_err)NLA_ERR_INIT;
	}
	l->eval_seconds = nla_seconds() - started;
	return err->status;
}

/* Weights whose gradient is not finite stay as they are, so what is saved here is the last good state. */
static enum nla_status guard(struct nla_loop *l, struct nla_err *err)
{
	if (l->state.bad_steps >= l->cfg->update.max_bad_steps && !checkpoint(l, err))
		nla_fail(err, "gradients were not finite for %lld steps in a row: the last good state is "
			 "'%s/checkpoints/latest': %s", (long long)l->state.bad_steps, l->folder.path, l->advice);
	return err->status;
}

static bool due(const struct nla_loop *l, int64_t every) { return every && l->state.step % every == 0; }

static enum nla_status one_step(struct nla_loop *l, struct nla_err *err)
{
	const double started = nla_seconds();
	bool skipped = false;
	if (l->step(l, &skipped, err))
		return err->status;
	l->step_seconds = nla_seconds() - started;
	l->eval_seconds = 0;
	l->state.step++;
	l->state.bad_steps = skipped ? l->state.bad_steps + 1 : 0;
	l->state.skipped += skipped;
	if (due(l, l->eval_every) && l->state.step < l->cfg->steps && evaluate(l, err))
		return err->status;
	if (l->log(l, err))
		return err->status;
	l->checkpoint_seconds = 0;
	return guard(l, err) || !due(l, l->cfg->checkpoint.every) ? err->status : checkpoint(l, err);
}

enum nla_status nla_loop_run(struct nla_loop *l, struct nla_err *err)
{
	nla_auto char *made = nla_format("%s/eval-%lld.json", l->folder.path, (long long)l->state.step);
	/* an evaluation that was due when a signal came */
	const bool missed = due(l, l->eval_every) && l->state.step < l->cfg->steps && !nla_exists(made);
	if ((l->state.step == 0 || missed) && evaluate(l, err))
		return err->status;
	while (l->state.step < l->cfg->steps && !nla_stop_asked())
		if (one_step(l, err))
			return err->status;
	if (checkpoint(l, err))
		return err->status;
	if (!nla_stop_asked() && evaluate(l, err))
		return err->status;
	if (nla_stop_asked())
		nla_say("stopped after step %lld: --resume continues it", (long long)l->state.step);
	return NLA_OK;
}

void nla_loop_close(struct nla_loop *l)
{
	nla_optim_release(&l->optim);
	nla_optim_release(&l->ar_optim);
	nla_cursor_release(&l->cursor);
	nla_folder_close(&l->folder);
}
