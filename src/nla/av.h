/*
 * av - the verbalizer: target + adapter, or a whole checkpoint with or without one, that is handed an activation at the marker token
 * of its prompt and writes a text.
 *
 * A response is every token it emits, tags and stop token included; the explanation is what stands between <explanation> and
 * </explanation>, whitespace stripped. Only the marker of the prompt is injected: responses are other rows of the pack.
 */
#ifndef NLA_AV_H
#define NLA_AV_H

#include "lm/decode.h"
#include "lm/recompute.h"
#include "nla/weights.h"

struct nla_av {
	const struct nla_target *target; /* borrowed */
	struct nla_sidecar meta;
	struct nla_weights weights;      /* where they come from */
	struct nla_lm own;               /* of a whole checkpoint that is not the target; blocks == NULL: none */
	struct nla_adapter adapter;      /* the warm start; layers == NULL: none */
	struct nla_i32s prompt;
	int64_t marker;                  /* index in prompt */
};

/* From a PEFT folder or a whole checkpoint with its sidecar, checked against the target. base: the whole checkpoint that an adapter
 * stands on, "": as it says itself (weights.h). */
enum nla_status nla_av_open(struct nla_av *av, const struct nla_target *target, const char *folder, struct nla_err *err);
enum nla_status nla_av_open_on(struct nla_av *av, const struct nla_target *target, const char *folder, const char *base,
			       struct nla_err *err);
/* A new one on the bare target, with the templates of `meta` (an activation set's sidecar). */
enum nla_status nla_av_new(struct nla_av *av, const struct nla_target *target, const struct nla_sidecar *meta, struct nla_err *err);
/* PEFT folder + sidecar; extra (or NULL) is a second adapter over av's own, joined with it. A whole checkpoint under them is named,
 * not copied. */
enum nla_status nla_av_save(const struct nla_av *av, const struct nla_adapter *extra, const char *folder, const char *stage,
			    struct nla_err *err);
void nla_av_release(struct nla_av *av);
/* The weights under its adapter. */
const struct nla_lm *nla_av_lm(const struct nla_av *av);
/* The AV's own view: its weights + its adapter. */
struct nla_view nla_av_view(const struct nla_av *av);

/* Lay B prompts with their vectors v [B, D] (raw, fp32, host) into a fresh pack: what stands before the marker once, the rest a row
 * a prompt. rows [B] receives each prompt's row; inject is filled with scope-owned tensors. Fails unless every vector has one site. */
enum nla_status nla_av_pack(const struct nla_av *av, const float *v, int64_t n_prompts, struct nla_pack *pack, int64_t *rows,
			    struct nla_inject *inject, struct nla_err *err);

/* Responses to take log-probabilities of. */
struct nla_responses {
	const float *v;           /* [n_prompts, D] */
	int64_t n_prompts;
	const int32_t *ids;       /* [n, width] */
	int64_t n, width;
	const int64_t *length;    /* [n] */
	const int64_t *prompt_of; /* [n] in [0, n_prompts) */
};
/* log p(token | prompt, vector, earlier tokens) of every response token under the view, packed sample by sample [sum of length], fp32,
 * scope-owned; NULL on failure. entropy: as in nt_token_logprob, or NULL. Gradients flow when they are recorded; recompute: by whose
 * backward pass, or NULL (nt_backward). */
nt_tensor *nla_av_logprob(const struct nla_av *av, const struct nla_view *view, const struct nla_responses *r, double temperature,
			  nt_tensor **entropy, struct nla_recompute *recompute, struct nla_err *err);

/* The explanation in a response of n bytes: false when there are no closed tags. An empty one is found with length 0. */
bool nla_find_explanation(const char *response, size_t n, const char **start, size_t *length);

#endif
