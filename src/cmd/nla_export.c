/* nla-export: an AV, an AR or both as whole checkpoints that transformers loads. */

#include "cmd/program.h"
#include "run/models.h"

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	bool both = *cfg->av && *cfg->ar;
	if (nla_config_need(cfg->model, "model", err))
		return err->status;
	if (!*cfg->av && !*cfg->ar)
		return nla_usage(err, "neither 'av' nor 'ar' is set: "
				 "give one to export it to out, or both, for out/av and out/ar");
	nla_config_threads(cfg);
	nla_auto char *av = both ? nla_path_join(cfg->out, "av") : nla_strdup(cfg->out);
	nla_auto char *ar = both ? nla_path_join(cfg->out, "ar") : nla_strdup(cfg->out);
	if (*cfg->av && !nla_export(cfg, NLA_AV, av, err))
		puts(av);
	if (*cfg->ar && !err->status && !nla_export(cfg, NLA_AR, ar, err))
		puts(ar);
	return err->status;
}

const struct nla_program nla_program = { "nla-export", NLA_CMD_EXPORT, run,
	"AV or AR -> a whole checkpoint in Hugging Face's layout: the adapter added into the weights,\n"
	"tensor by tensor. An AR is cut after its block, with a value_head.safetensors. Both: OUT/av and\n"
	"OUT/ar." };
