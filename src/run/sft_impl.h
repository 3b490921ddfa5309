/* What the files of sft share. */
#ifndef NLA_SFT_IMPL_H
#define NLA_SFT_IMPL_H

#include "run/sft.h"

enum nla_status nla_sft_load(struct nla_sft *s, struct nla_err *err);
/* Mean loss of these rows; train: adds its gradient. shift: rows get the vector of the row `shift` places on (role av). */
enum nla_status nla_sft_loss(struct nla_sft *s, const int64_t *rows, int64_t n, bool train, int64_t shift, double *loss, struct nla_err *err);

#endif
