/* nla-sft: supervised training of a small target, of an AV or of an AR; the loss is in src/run/sft_loss.c, the loop in
 * src/run/loop.c. */
#include "cmd/program.h"
#include "run/sft.h"
#include "run/stop.h"

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_sft sft;
	nla_stop_catch();
	if (!nla_sft_open(&sft, cfg, err))
		nla_loop_run(&(struct nla_loop *){ &sft.loop }, 1, err);
	nla_sft_close(&sft);
	return err->status;
}

const struct nla_program nla_program = { "nla-sft", NLA_CMD_SFT, run,
	"Supervised training: pre-train a small target (--role lm), warm-start a verbalizer (--role av) or a\n"
	"reconstructor (--role ar). Writes OUT/checkpoints/latest/{model,av,ar}." };
