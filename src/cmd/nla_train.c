/* nla-train: the RL loop. One step flows top to bottom; each stage is a file of the same name in src/rl. */
#include <stdio.h>
#include <stdlib.h>

#include "base/progress.h"
#include "run/check.h"
#include "cmd/program.h"
#include "run/stop.h"
#include "run/train.h"

static enum nla_status loop(struct nla_train *run, const struct nla_config *cfg, struct nla_err *err)
{
	while (run->state.step < cfg->steps && !nla_stop_asked()) {
		struct nla_step step;
		if (nla_train_batch(run, &step, err) ||   /* v [B, D]                     */
		    nla_train_rollout(run, &step, err) || /* B*G responses                */
		    nla_train_score(run, &step, err) ||   /* mse, fve [B*G]               */
		    nla_train_reward(run, &step, err) ||  /* r, A [B*G]                   */
		    nla_train_update(run, &step, err))    /* the adapter, one AdamW step  */
			goto out;
		if (cfg->eval.every && run->state.step % cfg->eval.every == 0 && run->state.step < cfg->steps &&
		    nla_train_evaluate(run, &step, err))
			goto out;
		if (nla_train_log(run, &step, err) || nla_train_guard(run, err))
			goto out;
		if (cfg->checkpoint.every && run->state.step % cfg->checkpoint.every == 0)
			nla_train_checkpoint(run, err);
out:
		nla_step_release(&step);
		if (err->status)
			break;
	}
	return err->status;
}

static void say_what(const struct nla_train *run, const struct nla_config *cfg)
{
	nla_say("nla-train: %s on %s, %lld activations of block %lld, seed %lld", cfg->model, nt_device_name(run->target.lm.device),
		(long long)run->set.n, (long long)run->ar.depth - 1, (long long)cfg->seed);
	nla_say("lambda %g in units of %s a token; baselines of the data: raw variance %.4f, mean-normalised %.4f", cfg->reward.lambda,
		cfg->reward.score == NLA_REWARD_FVE ? "fve" : "-mse", run->base.var, run->base.mean);
	struct nla_plan_in in = nla_train_sizes(run);
	char *words = nla_plan_words(&in, &run->plan);
	nla_say("memory plan: %s%s", words, run->plan.fits ? "" : "; that may be too much, see --check");
	free(words);
	if (run->folder.checkpoint)
		nla_say("going on from step %lld: %s", (long long)run->state.step, run->folder.checkpoint);
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_train train;
	if (cfg->check)
		return nla_check(cfg, stdout, err);
	nla_stop_catch();
	if (!nla_train_open(&train, cfg, err)) {
		say_what(&train, cfg);
		bool fresh = train.state.step == 0;
		if ((!fresh || !nla_train_evaluate(&train, NULL, err)) && !loop(&train, cfg, err) &&
		    !nla_train_checkpoint(&train, err)) {
			if (nla_stop_asked())
				nla_say("stopped after step %lld: go on with --resume", (long long)train.state.step);
			else if (!nla_train_evaluate(&train, NULL, err))
				nla_train_result(&train, err);
		}
	}
	nla_train_close(&train);
	return err->status;
}

int main(int argc, char **argv)
{
	return nla_program("nla-train", NLA_CMD_TRAIN,
			   "Train a verbalizer by GRPO on how well a reconstructor predicts the activation from its explanation,\n"
			   "minus lambda a token. Writes OUT/{metrics.jsonl,eval-*.json,checkpoints/latest/{av,ar}}.",
			   argc, argv, run);
}
