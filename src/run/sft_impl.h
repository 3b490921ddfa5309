/* What the files of sft share. */
#ifndef NLA_SFT_IMPL_H
#define NLA_SFT_IMPL_H

#include "run/sft.h"

enum nla_status nla_sft_load(struct nla_sft *s, struct nla_err *err);
/* Leaves out the rows that this role's model cannot read, and says how many. */
enum nla_status nla_sft_leave_out(struct nla_sft *s, struct nla_err *err);
/* Mean loss of these rows; train: adds its gradient. vectors: whose vectors the rows get (role av), NULL: their own. */
enum nla_status nla_sft_loss(struct nla_sft *s, const int64_t *rows, const int64_t *vectors, int64_t n, bool train, double *loss,
			     struct nla_err *err);
/* What that mean divides by: predicted tokens, or rows (role ar). */
int64_t nla_sft_weight(const struct nla_sft *s, const int64_t *rows, int64_t n);

#endif
