/*
 * plan - what a run holds in memory, by arithmetic on sizes alone, and what follows from it: which merged copies are made,
 * whether blocks are recomputed, how many responses a backward pass takes, how many rows decode at once.
 *
 *	total = weights + copies + adapters + optimizer + head room + the largest of the stages, which follow one another
 *
 *	rollout   key/value cache of the rows that decode at once, and the step's (or the prompts') intermediates
 *	score     intermediates of the AR over a batch of texts
 *	update    what the backward pass needs of one micro-batch, and the logits of one chunk of its tokens
 *
 * The counts per token are those of the operations in src/lm/forward.c and shim/: what autograd saves in a block, and what
 * lives while a block runs. Two sets of operations exist (nt_plain): the CPU's own in fp32, and libtorch's for everything
 * else, which pad rows and keep fp32 copies of what they normalise. A test holds the formulas against the bytes that tensors
 * really took.
 */
#pragma once

#include "nla/ar.h"
#include "nla/av.h"

enum nla_recompute_choice { NLA_RECOMPUTE_AUTO, NLA_RECOMPUTE_TRUE, NLA_RECOMPUTE_FALSE };

/* What is planned. Of adapters only ranks and depth count; they may be descriptions without tensors. */
struct nla_plan_in {
	const struct nla_arch *arch;
	nt_dtype dtype;
	bool gpu, plain;                              /* plain: without our own kernels, the CPU's or some of a GPU's */
	int64_t weights;                              /* bytes of all models loaded, the target's first of all */
	const struct nla_adapter *av, *ar, *trained;  /* warm starts, NULL: none; trained: over the AV's (nla-sft: alone) */
	int64_t ar_depth;                             /* blocks the AR runs; 0: there is no AR */
	bool ar_trained, head_trained, ar_only;       /* ar_only: `trained` is the AR's, there is no AV in the update */
	int64_t prompt, prompt_head;                  /* tokens of the AV's prompt; of them those all prompts share */
	int64_t ar_prompt;                            /* tokens of the longest AR prompt */
	int64_t prompts, group, new_tokens;           /* a step: prompts x group responses of so many tokens at most */
	int64_t policies;                             /* each draws so many, and they decode together; 0: one */
	int64_t eval_rows;                            /* rows an evaluation decodes at once; 0: none */
	int64_t micro_batch;                          /* 0: the plan's choice */
	int recompute;                                /* enum nla_recompute_choice */
	int copies;                                   /* at most these; NLA_PLAN_ALL_COPIES: all that are of use */
	bool rollout;                                 /* false: supervised training, no rollout and no score */
};
/* Copies with adapters merged in, a bit each. What is trained is merged in fp32 only: a small update is below half a step of
 * most bf16 weights, and vanishes. */
#define NLA_PLAN_DECODER 1 /* the policy, for decoding */
#define NLA_PLAN_ANCHOR 2  /* the warm starts: the base that sampler, policy and reference share, and the frozen AR */
#define NLA_PLAN_ALL_COPIES (NLA_PLAN_DECODER | NLA_PLAN_ANCHOR)
#define NLA_PLAN_CONTEXT ((int64_t)768 << 20) /* GPU: driver's context and workspaces, which the allocator does not count */

struct nla_plan {
	/* decided */
	int copies;             /* of NLA_PLAN_ALL_COPIES; bf16: NLA_PLAN_ANCHOR or none */
	bool recompute;
	int64_t micro_batch;    /* responses a backward pass */
	int64_t rows;           /* decoded at once */
	int64_t chunk;          /* bytes of fp32 logits a chunk: nt_logprob_chunk */
	/* bytes */
	int64_t weights, merged, adapters, optimizer, head_room;
	int64_t cache, decoding;           /* of the rollout: cache; intermediates */
	int64_t score;
	int64_t update, logits;            /* the update in all; a chunk's part of it */
	int64_t total, room;
	bool fits;
};

/* The best plan for `room` bytes; fits says whether there is one, else it is the smallest that was found. */
void nla_plan_make(const struct nla_plan_in *in, int64_t room, struct nla_plan *plan);
/* Of `most` policies, how many fit together; 1 where not even one does. */
int64_t nla_plan_policies(const struct nla_plan_in *in, int64_t most, int64_t room);
/* Bytes of a model's weights; of all models loaded: the target, and a whole AV's and AR's own. */
int64_t nla_plan_weights(const struct nla_arch *arch, nt_dtype dtype);
int64_t nla_plan_loaded(const struct nla_target *target, const struct nla_half *av, const struct nla_half *ar);
/* Of that many rows, how many can decode at once (in->copies, no update); 0: not one. */
int64_t nla_plan_rows(const struct nla_plan_in *in, int64_t rows, int64_t room);
/* In words: "19.04 of 24.0 GiB, 1.21 of it head room: no merged copies, 32 rows decode at once, 8 responses a backward pass,
 * blocks kept"; owned. */
char *nla_plan_words(const struct nla_plan_in *in, const struct nla_plan *plan);
/* Update stage of a micro-batch: *logits (or NULL) receives the chunk's part, which adds to all that is kept, but not to what a
 * block needs while it runs. A test holds this against what was measured. */
int64_t nla_plan_update(const struct nla_plan_in *in, int64_t micro_batch, bool recompute, int64_t chunk, int64_t *logits);
/* Rollout stage: cache and intermediates of so many rows. */
int64_t nla_plan_cache(const struct nla_plan_in *in, int64_t rows);
int64_t nla_plan_decoding(const struct nla_plan_in *in, int64_t rows);
