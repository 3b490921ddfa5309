/*
 * lm - the weights of a language model, held once and shared by everybody who reads them.
 *
 *	struct nla_lm lm;
 *	if (nla_lm_load(&lm, "model/", NULL, NT_CPU, NT_F32, NLA_LM_AUTO, err)) ...
 *	nla_lm_release(&lm);
 *
 * Projections that always run together are stored as one matrix: q, k, v as `qkv` and gate, up as `gate_up`; files hold them
 * apart, under Hugging Face's names. A model that would fill much of the memory is not copied: on the CPU, when the file's type
 * is the one asked for, its matrices stay in the mapped file (and apart). All tensors are owned by the struct.
 */
#pragma once

#include "lm/arch.h"
#include "lm/tensors.h"

/* Positions the rotary tables hold at most: no prompt here comes near. */
#define NLA_MAX_POSITIONS 32768

enum nla_proj { NLA_Q, NLA_K, NLA_V, NLA_O, NLA_GATE, NLA_UP, NLA_DOWN, NLA_N_PROJ };

/* Every tensor has a handle here and a row in layout.c's table, which says its name, shape and place; the rest follows. */
struct nla_block {
	nt_tensor *attn_norm; /* [D] */
	nt_tensor *qkv[3];    /* [(Hq+2Hkv)d, D]; mapped: q [Hq d, D], k and v [Hkv d, D] */
	nt_tensor *qkv_bias;  /* [(Hq+2Hkv)d] or NULL */
	nt_tensor *q_norm;    /* [d] or NULL */
	nt_tensor *k_norm;    /* [d] or NULL */
	nt_tensor *o;         /* [D, Hq d] */
	nt_tensor *attn_out_norm, *mlp_out_norm; /* [D] or NULL */
	nt_tensor *mlp_norm;  /* [D] */
	nt_tensor *gate_up[2]; /* [2F, D]; mapped: gate and up [F, D] */
	nt_tensor *down;      /* [D, F] */
};

struct nla_lm {
	struct nla_arch arch;
	int device;
	nt_dtype dtype; /* of the matrices */
	nt_tensor *embed; /* [V, D] */
	nt_tensor *norm;  /* [D]; NULL: a reconstructor without one */
	nt_tensor *head;  /* [V, D]; a second handle of embed when tied */
	nt_tensor *cos[2], *sin[2]; /* [positions, d/2] fp32, by nla_arch_local; [1] NULL: no block has a window */
	struct nla_block *blocks; /* [n_layers] */
	struct nla_st map; /* the open file of a mapped model */
	bool mapped;
	const struct nla_lm *of; /* a fork's: whose file its weights are from */
};

/* Of activations, of the key/value cache, of norms and biases: fp32 on the CPU, whatever its matrices are stored in. */
static inline nt_dtype nla_compute_dtype(const struct nla_lm *lm) { return lm->device == NT_CPU ? NT_F32 : lm->dtype; }

/* From a folder in Hugging Face's layout. Missing tensors and wrong shapes are errors that name the tensor; extra ones too,
 * except rotary tables that old files carry, and a tied model's head when it equals the embedding. AUTO maps what takes more
 * than a quarter of the memory; MAP fails where the file must be converted, and on a GPU. */
enum nla_lm_how { NLA_LM_AUTO, NLA_LM_MAP };
/* NULL: the whole model. Else a reconstructor's first blocks without a head, of a folder that holds no more or of a whole
 * model. */
struct nla_lm_part {
	int64_t depth; /* blocks wanted, an error where there are fewer */
	bool norm;     /* with the final norm */
};
enum nla_status nla_lm_load(struct nla_lm *lm, const char *folder, const struct nla_lm_part *part, int device, nt_dtype dtype,
			    enum nla_lm_how how, struct nla_err *err);
/* A copied model was checked for NaN and infinities when it was read. Of a mapped one, an error names the tensor that has one
 * when one of these results is not finite. */
enum nla_status nla_lm_blame(const struct nla_lm *lm, const float *results, size_t n, struct nla_err *err);
/* Random weights for the architecture of FOLDER/config.json: normal with initializer_range, norms 1. */
enum nla_status nla_lm_init(struct nla_lm *lm, const char *folder, uint64_t seed, int device, nt_dtype dtype,
			    struct nla_err *err);
/* model.safetensors in Hugging Face's names. dtype: fp32 or bf16. */
enum nla_status nla_lm_save(const struct nla_lm *lm, const char *folder, nt_dtype dtype, struct nla_err *err);
void nla_lm_release(struct nla_lm *lm);

/* The first `depth` blocks again, with matrices of their own where one of `targets` (a bit per enum nla_proj) is in them; all
 * else is shared with `from`, which must outlive it. For merging adapters (nla_merge_copy). */
enum nla_status nla_lm_fork(struct nla_lm *lm, const struct nla_lm *from, int64_t depth, unsigned targets, struct nla_err *err);
/* Every stored tensor, for pre-training, added to `out`; the names are those of the first in each. */
void nla_lm_list(const struct nla_lm *lm, struct nla_tensors *out);
/* Weights of the whole model. */
int64_t nla_arch_n_params(const struct nla_arch *arch);

/* One tensor as files hold it, and where it is stored. */
struct nla_slot {
	char name[96];
	int64_t shape[2];  /* a vector has [0] alone */
	int ndim;
	int64_t layer;     /* -1: not of a block */
	int proj;          /* enum nla_proj, -1: not a projection */
	bool bias;
	bool exact;        /* fp32 everywhere */
	double less;       /* files hold so much less */
	size_t at;         /* of the stored tensor's handle, in struct nla_block or nla_lm */
	int64_t row, rows; /* its first row there, and the rows there are */
	int64_t n_seen;    /* how far nla_lm_next has come */
};
/* Step to the next tensor, in the order of a saved file: for (struct nla_slot s = { 0 }; nla_lm_next(lm, &s);) ... */
bool nla_lm_next(const struct nla_lm *lm, struct nla_slot *slot);
/* A folder's weights, without those of other modalities: its text model's names are those of one that is alone. */
enum nla_status nla_lm_open(struct nla_st *st, const char *folder, struct nla_err *err);
/* The architecture of a folder, or of a part of it; no weights. */
enum nla_status nla_lm_describe(struct nla_lm *lm, const char *folder, const struct nla_lm_part *part, struct nla_err *err);
/* Has the file what the model needs, and (whole) nothing else? */
enum nla_status nla_lm_check_file(const struct nla_lm *lm, const struct nla_st *st, bool whole, struct nla_err *err);

/* A projection: "self_attn.q_proj", "q_proj", its sizes, and the view [out, in] of its weights (scope-owned). */
const char *nla_proj_path(enum nla_proj proj);
const char *nla_proj_name(enum nla_proj proj);
int64_t nla_proj_in(const struct nla_arch *a, enum nla_proj proj);
int64_t nla_proj_out(const struct nla_arch *a, enum nla_proj proj);
void nla_proj_slot(const struct nla_lm *lm, int64_t layer, enum nla_proj proj, struct nla_slot *slot);
/* Those that are stored in one matrix with proj, itself among them: a bit each. */
unsigned nla_proj_together(const struct nla_lm *lm, enum nla_proj proj);
nt_tensor *nla_lm_proj(const struct nla_lm *lm, int64_t layer, enum nla_proj proj);
