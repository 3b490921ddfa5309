/*
 * av - the verbalizer: a half (half.h) that is handed an activation at the marker token of its prompt and writes a text.
 *
 * A response is every token it emits, tags and stop token included; the explanation is what stands between <explanation> and
 * </explanation>, whitespace stripped. Only the marker of the prompt is injected: responses are other rows of the pack.
 */
#pragma once

#include "lm/decode.h"
#include "lm/recompute.h"
#include "nla/half.h"

/* Lay B prompts with their vectors v [B, D] (raw, fp32, host) into a fresh pack: what stands before the marker once, the rest a
 * row a prompt. rows [B] receives each prompt's row; inject is filled with scope-owned tensors. Fails unless every vector has
 * one site. */
enum nla_status nla_av_pack(const struct nla_half *av, const float *v, int64_t n_prompts, struct nla_pack *pack, int64_t *rows,
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
/* log p(token | prompt, vector, earlier tokens) of every response token under the view, packed sample by sample [sum of
 * length], fp32, scope-owned; NULL on failure. entropy: as in nt_token_logprob, or NULL. Gradients flow when they are recorded;
 * recompute: by whose backward pass, or NULL (nt_backward). */
nt_tensor *nla_av_logprob(const struct nla_half *av, const struct nla_view *view, const struct nla_responses *r,
			  double temperature, nt_tensor **entropy, struct nla_recompute *recompute, struct nla_err *err);

/* Are log-probabilities of responses [n], on the host, what they can be? One above 0 by more than rounding is an error: the
 * weights or the arithmetic is broken. */
enum nla_status nla_logprob_check(const float *logprob, int64_t n, struct nla_err *err);

/* The explanation in a response of n bytes: false when there are no closed tags. An empty one is found with length 0. */
bool nla_find_explanation(const char *response, size_t n, const char **start, size_t *length);
