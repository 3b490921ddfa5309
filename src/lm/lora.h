/*
 * lora - low-rank adapters (Hu et al. 2021): y = W x + s B A x, A [r,in] and B [out,r] in fp32, s = alpha/sqrt(r) (rsLoRA,
 * Kalajdzievski 2023) or alpha/r. Fresh: A uniform in +-1/sqrt(in), B zero.
 *
 * On disk a PEFT folder: adapter_config.json and adapter_model.safetensors with keys such as
 * `base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight`; of a base inside a folder with other modalities they have
 * `model.language_model.layers`. Also read: `language_model.model.layers`, a bare backbone's keys (one `model.` less), keys
 * that name the adapter (`lora_A.default.weight`), and nanoNLA's AR (ar_meta.json and ar_lora_value_head.safetensors, whose
 * keys begin with `backbone.model.`). An adapter that was only read is written in the type that its file had, bit for bit.
 */
#pragma once

#include "base/rng.h"
#include "lm/lm.h"

struct nla_lora_spec {
	int64_t rank;
	double alpha;
	bool rslora;
	unsigned targets; /* bit per enum nla_proj */
};

struct nla_lora {
	nt_tensor *A; /* [r, in],  NULL: this projection has no adapter */
	nt_tensor *B; /* [out, r] */
};

struct nla_adapter {
	int64_t n_layers;
	bool inside; /* its base is a part of a folder with other modalities: arch.inside */
	bool rslora;
	nt_dtype stored;           /* of the file it came from; fp32 for what was trained or computed here */
	int64_t rank[NLA_N_PROJ];  /* 0: not a target */
	double alpha[NLA_N_PROJ];
	struct nla_lora (*layers)[NLA_N_PROJ]; /* [n_layers] */
};

/* "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", owned by the caller; side: 0 A, 1 B. */
char *nla_lora_key(const struct nla_adapter *a, int64_t layer, enum nla_proj proj, int side);
/* Names as in a configuration: "q,k,v,o,gate,up,down" or PEFT's "q_proj". Error on an unknown one. */
enum nla_status nla_lora_targets(const char *list, unsigned *targets, struct nla_err *err);
/* NULL: that projection of that block has none. */
const struct nla_lora *nla_lora_of(const struct nla_adapter *a, int64_t layer, enum nla_proj proj);
double nla_lora_scale(const struct nla_adapter *a, enum nla_proj proj);

/* A fresh one for the first n_layers blocks. rng: a stream of its own; adapters that share one begin in one
 * subspace. */
enum nla_status nla_adapter_init(struct nla_adapter *a, const struct nla_arch *arch, int64_t n_layers,
				 const struct nla_lora_spec *spec, struct nla_rng rng, int device, struct nla_err *err);
/* Missing and unexpected keys are an error that lists both; those of blocks after an AR's last are said and not read. */
enum nla_status nla_adapter_load(struct nla_adapter *a, const struct nla_arch *arch, int64_t n_layers, const char *folder,
				 int device, struct nla_err *err);
enum nla_status nla_adapter_save(const struct nla_adapter *a, const char *folder, const char *base_name, struct nla_err *err);
/* One adapter that does what both do: ranks put side by side, scales folded into B. Either may be NULL. */
enum nla_status nla_adapter_join(struct nla_adapter *to, const struct nla_adapter *a, const struct nla_adapter *b,
				 struct nla_err *err);
void nla_adapter_release(struct nla_adapter *a);

/* All A and B in a fixed order, under PEFT's keys, added to `out`. */
void nla_adapter_list(const struct nla_adapter *a, struct nla_tensors *out);
/* requires_grad on all; what is trained is saved in fp32 */
enum nla_status nla_adapter_train(struct nla_adapter *a, bool on, struct nla_err *err);

/*
 * What a forward pass reads: the base and up to two adapters over it. Switching adapters is making another view; the base is
 * never copied for it.
 */
struct nla_view {
	const struct nla_lm *lm;
	const struct nla_adapter *adapters[2];
	int n_adapters;
	struct nla_beside *beside; /* NULL, or the adapters again, as a pass wants them */
	/* of a stack of views over weights of their own (nla_beside_stack): them, each laid out, and the rows of each */
	struct nla_view *each; /* [n_each] NULL: no stack of that kind */
	int64_t n_each;
	const int64_t *rows;
};

/* The first `depth` blocks of the view as weights with its adapters added in; what no adapter touches is shared. Again, when
 * the adapters have changed: nla_merge. */
enum nla_status nla_merge_copy(struct nla_lm *lm, const struct nla_view *view, int64_t depth, struct nla_err *err);
enum nla_status nla_merge(struct nla_lm *lm, const struct nla_view *view, struct nla_err *err);

/* A view's adapters laid out for a pass: whatever several of them add to the projections of one stored matrix (q, k and v; gate
 * and up) is one nt_lora, in the model's type. A snapshot: opened anew when an adapter has changed. */
struct nla_beside {
	struct nt_lora at[NLA_N_PROJ]; /* at the matrix's first projection (q, o, gate, down) */
};

/* The view with its adapters laid out; close frees them, after the pass and its backward pass. A failure shows in nt_check. */
struct nla_view nla_beside_open(const struct nla_view *view);
void nla_beside_close(struct nla_view *laid_out);
/* Views [n] over the same weights with adapters of the same shapes, or over copies of a model that share what no adapter
 * touches (nla_merge_copy), laid out for a pass without gradients whose first rows[0] rows are the first view's, and so on.
 * rows [n] is borrowed, and may change between two operations. */
struct nla_view nla_beside_stack(const struct nla_view *views, int64_t n, const int64_t *rows);
/* Bytes of A and B of all layers, for adapters of such ranks, by arithmetic. */
int64_t nla_beside_bytes(const struct nla_arch *arch, const struct nla_adapter *const *adapters, int n, int64_t element);
