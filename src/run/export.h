/*
 * export - an AV or AR as a whole checkpoint in Hugging Face's layout, which transformers loads without us: the adapter added
 * into the weights under it. Tensor by tensor, from the mapped files of the base: a model larger than the memory is no problem.
 *
 *	AV  config.json, generation_config.json, tokenizer, model.safetensors or shards, sidecar
 *	AR  the same cut after block K, without lm_head and final norm, and value_head.safetensors (kitft's layout); an AR that
 * was trained with the final norm has it, and an ar_meta.json that says so
 */
#pragma once

#include "nla/half.h"
#include "run/config.h"

/* cfg->av or cfg->ar, by role, into the folder out. */
enum nla_status nla_export(const struct nla_config *cfg, enum nla_half_role role, const char *out, struct nla_err *err);
