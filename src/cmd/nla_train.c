/* nla-train: the RL loop. One step flows from top to bottom; each stage is a file of its name in src/rl, src/run/loop.c is
 * around it. */

#include "cmd/program.h"
#include "lm/ranks.h"
#include "run/stop.h"
#include "run/train.h"

/* The policies of several lambdas draw as one. */
static enum nla_status draw(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	return nla_batch(rl, step, err) ||     /* v [B, D]                       */
	       nla_rollout(rl, step, err) ||   /* B*G responses                  */
	       nla_score(rl, step, err) ||     /* mse, fve [B*G]                 */
	       nla_reference(rl, step, err)    /* log-probabilities, if several  */
		       ? err->status : NLA_OK;
}

static enum nla_status learn(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	return nla_reward(rl, step, err) ||    /* r [B*G]                        */
	       nla_advantage(rl, step, err) || /* A [B*G]                        */
	       nla_update(rl, step, err)       /* the adapter, one AdamW step    */
		       ? err->status : NLA_OK;
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	static const struct nla_algorithm algorithm = { draw, learn };
	NLA_AUTO(nla_str_release) struct nla_str result = NLA_STR_INIT;
	int64_t from = 0;
	if (cfg->check)
		return nla_check(cfg, &algorithm, stdout, err);
	nla_stop_catch();
	for (bool more = true; more;) { /* once, unless memory does not hold the policies of all lambdas */
		struct nla_train train;
		if (!nla_train_open(&train, cfg, &algorithm, from, err) && !nla_loop_run(train.loops, train.n, err))
			for (int64_t i = 0; i < train.n && !nla_rank(); i++)
				nla_train_result(&train.policies[i], &result);
		more = !err->status && train.n < train.n_wanted;
		from += train.n;
		nla_train_close(&train);
	}
	fputs(result.buf, stdout);
	return err->status;
}

const struct nla_program nla_program = { "nla-train", NLA_CMD_TRAIN, run,
	"Train a verbalizer by GRPO on how well a reconstructor predicts the activation from its explanation,\n"
	"minus lambda a token. Writes OUT/{metrics.jsonl,eval-*.json,checkpoints/latest/{av,ar}}." };
