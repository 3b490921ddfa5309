/*
 * ar - the reconstructor: blocks 0..K of the target (or of a whole checkpoint, cut there) + adapter + head, reading only a text:
 *
 *	h = output of block K at the last token of the AR prompt           no final norm, unless the AR was trained with it
 *	v_hat = n(W n(h)),  n(x) = x sqrt(D) / max(|x|, eps), fp32
 *	mse = mean over D of (v_hat - n(v))^2 = 2 (1 - cos)                 in [0, 4]
 */
#ifndef NLA_AR_H
#define NLA_AR_H

#include "lm/recompute.h"
#include "nla/weights.h"

#define NLA_AR_MAX_IDS 1024 /* a longer prompt is a failed row, never cut; nor can it be longer than the model's positions */

/* Can an explanation be read? One that merges with the template's end gives a prompt that does not end in critic_suffix_ids. */
enum nla_ar_fit { NLA_AR_FITS, NLA_AR_TOO_LONG, NLA_AR_MERGES };

struct nla_ar {
	const struct nla_target *target; /* borrowed */
	struct nla_sidecar meta;         /* meta.final_norm: h is taken after the final norm */
	struct nla_weights weights;      /* where they come from */
	struct nla_lm own;               /* blocks 0..K of a whole checkpoint that is not the target; blocks == NULL: none */
	struct nla_adapter adapter;      /* of blocks 0..K; layers == NULL: none */
	nt_tensor *head;                 /* W [D, D] fp32 */
	int64_t depth;                   /* K + 1 */
};

/* From a PEFT folder with value_head.safetensors and sidecar; a whole checkpoint with them (kitft's truncated one); or nanoNLA's
 * ar_lora_value_head.safetensors and ar_meta.json. base: as for nla_av_open_on. */
enum nla_status nla_ar_open(struct nla_ar *ar, const struct nla_target *target, const char *folder, struct nla_err *err);
enum nla_status nla_ar_open_on(struct nla_ar *ar, const struct nla_target *target, const char *folder, const char *base,
			       struct nla_err *err);
/* A new one: no adapter, identity head. */
enum nla_status nla_ar_new(struct nla_ar *ar, const struct nla_target *target, const struct nla_sidecar *meta, struct nla_err *err);
/* PEFT folder (the adapter may be none), head, sidecar. A whole checkpoint under them is named, not copied. */
enum nla_status nla_ar_save(const struct nla_ar *ar, const char *folder, const char *stage, struct nla_err *err);
void nla_ar_release(struct nla_ar *ar);
const struct nla_lm *nla_ar_lm(const struct nla_ar *ar);
struct nla_view nla_ar_view(const struct nla_ar *ar);
/* The head of an AR folder, whichever file it is in: [d, d] fp32, owned. NULL on failure. */
nt_tensor *nla_ar_load_head(const char *folder, int64_t d, int device, struct nla_err *err);
enum nla_status nla_ar_save_head(const nt_tensor *head, const char *folder, struct nla_err *err);
/* What nanoNLA's ar_meta.json adds to the sidecar, when there is one: final_norm, and the block if the sidecar has none. Fails for an AR
 * of another mse_scale than ours. */
enum nla_status nla_ar_read_meta(struct nla_sidecar *meta, const char *folder, struct nla_err *err);

/* The most ids a prompt may have: NLA_AR_MAX_IDS, or the model's positions. */
int64_t nla_ar_max_ids(const struct nla_ar *ar);
/* Ids of the AR prompt for an explanation (its outer white space taken off), appended: also those of one that does not fit, which is a
 * failed row. */
enum nla_status nla_ar_encode(const struct nla_ar *ar, const char *explanation, size_t length, struct nla_i32s *ids,
			      enum nla_ar_fit *fit, struct nla_err *err);

/* Prompts as rows of one array: row i is ids[offset[i] .. offset[i+1]). */
struct nla_ar_texts {
	struct nla_i32s ids;
	struct nla_i64s offset; /* [n+1] */
};
void nla_ar_texts_start(struct nla_ar_texts *t);
void nla_ar_texts_release(struct nla_ar_texts *t);

/* v_hat [to - from, D] fp32 of texts from..to under the view, scope-owned; NULL on failure. h: when not NULL, the residual read;
 * recompute: by whose backward pass gradients flow, or NULL (nt_backward). */
nt_tensor *nla_ar_predict(const struct nla_ar *ar, const struct nla_view *view, const struct nla_ar_texts *texts, int64_t from, int64_t to,
			  nt_tensor **h, struct nla_recompute *recompute, struct nla_err *err);
/* mse of each row [n]: v_hat as predicted, v [n, D] raw. */
nt_tensor *nla_ar_mse(const nt_tensor *v_hat, const nt_tensor *v);
/* The mse of all texts against v [n, D] (raw, host), in batches of at most max_tokens; mse [n]; v_hat [n, D] or NULL. */
enum nla_status nla_ar_score(const struct nla_ar *ar, const struct nla_view *view, const struct nla_ar_texts *texts, const float *v,
			     int64_t max_tokens, float *mse, float *v_hat, struct nla_err *err);

#endif
