/* nla-train: the RL loop. One step flows from top to bottom; each stage is a file of its name in src/rl, src/run/loop.c is
 * around it. */
#include <stdio.h>

#include "cmd/program.h"
#include "lm/ranks.h"
#include "run/stop.h"
#include "run/train.h"

static enum nla_status one_step(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	return nla_batch(rl, step, err) ||     /* v [B, D]                       */
	       nla_rollout(rl, step, err) ||   /* B*G responses                  */
	       nla_score(rl, step, err) ||     /* mse, fve [B*G]                 */
	       nla_reward(rl, step, err) ||    /* r [B*G]                        */
	       nla_advantage(rl, step, err) || /* A [B*G]                        */
	       nla_update(rl, step, err)       /* the adapter, one AdamW step    */
		       ? err->status : NLA_OK;
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_train train;
	NLA_AUTO(nla_str_release) struct nla_str result = NLA_STR_INIT;
	if (cfg->check)
		return nla_check(cfg, one_step, stdout, err);
	nla_stop_catch();
	if (!nla_train_open(&train, cfg, one_step, err) && !nla_loop_run(&train.loop, err) && !nla_rank())
		nla_train_result(&train, &result);
	fputs(result.buf, stdout);
	nla_train_close(&train);
	return err->status;
}

int main(int argc, char **argv)
{
	return nla_program("nla-train", NLA_CMD_TRAIN,
		"Train a verbalizer by GRPO on how well a reconstructor predicts the activation from its explanation,\n"
		"minus lambda a token. Writes OUT/{metrics.jsonl,eval-*.json,checkpoints/latest/{av,ar}}.", argc, argv, run);
}
