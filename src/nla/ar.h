/*
 * ar - the reconstructor: a half (half.h), blocks 0..K, an adapter and a head W, that reads only a text:
 *
 *	h = output of block K at the last token of the AR prompt           no final norm, unless the AR was trained with it
 *	v_hat = n(W n(h)),  n(x) = x sqrt(D) / max(|x|, eps), fp32
 *	mse = mean over D of (v_hat - n(v))^2 = 2 (1 - cos)                 in [0, 4]
 */
#pragma once

#include "lm/recompute.h"
#include "nla/half.h"

#define NLA_AR_MAX_IDS 1024 /* a longer prompt is a failed row, never cut; nor can it be longer than the model's positions */

/* Can an explanation be read? One that merges with the template's end gives a prompt that does not end in critic_suffix_ids. */
enum nla_ar_fit { NLA_AR_FITS, NLA_AR_TOO_LONG, NLA_AR_MERGES };

/* The most ids a prompt may have: NLA_AR_MAX_IDS, or the model's positions. */
int64_t nla_ar_max_ids(const struct nla_half *ar);
/* Ids of the AR prompt for an explanation (its outer white space taken off), appended: also those of one that does not fit,
 * which is a failed row. */
enum nla_status nla_ar_encode(const struct nla_half *ar, const char *explanation, size_t length, struct nla_i32s *ids,
			      enum nla_ar_fit *fit, struct nla_err *err);

/* Prompts as rows of one array: row i is ids[offset[i] .. offset[i+1]). */
struct nla_ar_texts {
	struct nla_i32s ids;
	struct nla_i64s offset; /* [n+1] */
	int64_t max_tokens;     /* of a batch of nla_ar_score; 0: one prompt a batch */
};
void nla_ar_texts_start(struct nla_ar_texts *t);
void nla_ar_texts_release(struct nla_ar_texts *t);

/* v_hat [to - from, D] fp32 of texts from..to under the view; scope-owned, NULL on failure. recompute: by whose backward pass
 * gradients flow, or NULL (nt_backward). */
nt_tensor *nla_ar_predict(const struct nla_half *ar, const struct nla_view *view, const struct nla_ar_texts *texts,
			  int64_t from, int64_t to, struct nla_recompute *recompute, struct nla_err *err);
/* mse of each row [n]: v_hat as predicted, v [n, D] raw. */
nt_tensor *nla_ar_mse(const nt_tensor *v_hat, const nt_tensor *v);
/* What these rows add to a mean mse over n_all: sum of mse / n_all. v [rows, D] raw, host; v_hat NULL: NULL. */
nt_tensor *nla_ar_loss(const nt_tensor *v_hat, const float *v, int64_t n_all);
/* The mse [n] of all texts against v [n, D] (raw, host), a batch at a time; v_hat [n, D] or NULL. */
enum nla_status nla_ar_score(const struct nla_half *ar, const struct nla_view *view, const struct nla_ar_texts *texts,
			     const float *v, float *mse, float *v_hat, struct nla_err *err);
