/*
 * rollout - stage 1 of a step: the AV writes G responses for each of B activations.
 *
 *	v [B, D]  ->  B*G responses: token ids, the sampler's log-probabilities, texts, explanations, why a row failed
 *
 * Temperature is the only thing between the model and the sample: no top_p, top_k or penalty, in training or evaluation.
 * Lengths are counted to each row's own first stop token, which counts.
 */
#ifndef NLA_ROLLOUT_H
#define NLA_ROLLOUT_H

#include "nla/av.h"

enum nla_truncated { NLA_TRUNCATED_FAIL, NLA_TRUNCATED_SCORE };

struct nla_rollout_cfg {
	int64_t prompts, group; /* B, G */
	int64_t max_new_tokens, min_new_tokens;
	double temperature;
	int truncated; /* enum nla_truncated: a row without stop token fails, or is scored if its tags closed */
	int64_t rows;  /* decoded at once, 0: all; not an option: the memory plan says. Texts are the same for any value */
};

/* Why a row failed. Order is that of the logs. */
enum nla_failure { NLA_ROW_OK, NLA_ROW_NO_TAGS, NLA_ROW_EMPTY, NLA_ROW_TRUNCATED, NLA_ROW_OVER_LONG, NLA_ROW_NON_FINITE, NLA_N_FAILURES };
extern const char *const nla_failure_names[NLA_N_FAILURES]; /* [0] is NULL */

struct nla_rollout {
	int64_t n_prompts, group, n; /* n = n_prompts * group; row i belongs to prompt i / group */
	const float *v;              /* [n_prompts, D], borrowed */
	struct nla_decoded tokens;   /* [n, max_new_tokens] */
	int64_t *prompt_of;          /* [n] */
	char **response;             /* [n] text, special tokens shown */
	char **explanation;          /* [n] or NULL without tags */
	int64_t *n_explanation;      /* [n] tokens of the explanation alone */
	enum nla_failure *failed;    /* [n]; later stages may turn OK into a failure */
};

/* keys [n_prompts * group]: the rows' random keys; step: of the random numbers. */
enum nla_status nla_rollout(const struct nla_half *av, const struct nla_view *view, const float *v, int64_t n_prompts,
			    const struct nla_rollout_cfg *cfg, const struct nla_rng *rng, uint32_t step, const uint32_t *keys,
			    struct nla_rollout *out, struct nla_err *err);
void nla_rollout_release(struct nla_rollout *r);
/* The responses as nla_av_logprob wants them; borrowed. */
struct nla_responses nla_rollout_responses(const struct nla_rollout *r);
/* Text of a response, its explanation and its failure: also for responses that somebody else wrote. */
enum nla_status nla_rollout_read(const struct nla_half *av, const int32_t *ids, int64_t n, bool stopped, int truncated, char **response,
				 char **explanation, int64_t *n_explanation, enum nla_failure *failed, struct nla_err *err);

#endif
