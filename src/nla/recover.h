/*
 * recover - what a reconstruction is worth to the model that the vector is from.
 *
 * The model reads a text; after block K the residual stream of its last token becomes x, and the distribution of the next
 * token, q_x, is compared with p, that of the text as it is:
 *
 *	KL(x) = sum over the vocabulary of p (log p - log q_x)                  nats, in double precision from fp32 logits
 *	recovered = 1 - mean KL(v_hat |v| / |v_hat|) / mean KL(mean of v)       1: the vector itself, 0: no better than the mean
 *
 * as dictionaries are judged by the loss that they recover (Bricken et al. 2023, "Towards Monosemanticity").
 */
#pragma once

#include "nla/ar.h"

/* kl [n, m] of n texts and m vectors x [n, m, D] for each, as they are to stand after `block`. */
enum nla_status nla_recover(const struct nla_lm *lm, int64_t block, const struct nla_ar_texts *texts, const float *x, int64_t m,
			    double *kl, struct nla_err *err);
