/*
 * nt - tensors: a thin C face of libtorch. Only opaque handles, pointers, sized integers, doubles and bool cross it.
 *
 * Expressions return a new handle owned by the innermost scope, or NULL. NULL in, NULL out, and the first error stays: a
 * forward pass reads as mathematics and is checked once, at its end. Actions return nt_status. There is no third shape of call.
 *
 *	nt_scope_push();
 *	nt_tensor *y = nt_linear(nt_swiglu(nt_linear(x, gate_up, NULL)), down, NULL);
 *	y = nt_scope_pop_with(y);                   frees everything else made since the push
 *	if (!y) report(nt_error());
 *
 * A handle is made in a scope and freed with it. nt_own takes it out (parameters, caches); nt_free ends an owned one. Outside
 * any scope the caller owns a new handle. Handles are references: nt_narrow, nt_reshape and nt_share see the same memory.
 * Gradients are recorded only between nt_grad_push(true) and nt_grad_pop. Nothing here is shared between threads.
 *
 * On the CPU weights [O,I] may be stored in bf16: they multiply an fp32 x, with sums in fp32 (nt_linear, nt_project, nt_logits,
 * nt_token_logprob), and nt_embedding gives fp32. Where nt_bf16_products, x (and so a gradient of y) is rounded to bf16 for
 * the product, unless it has an odd number of terms, or after nt_plain(true).
 *
 * Fast versions stand behind one semantic call (nt_rms_norm, nt_qk_rope, nt_swiglu, nt_geglu, nt_attention, nt_token_logprob,
 * nt_sample; in decoding nt_linear and nt_project too): for fp32 on the CPU, and on a GPU (kernels.cu, decode.cu). Each has a
 * plain twin of libtorch operations, for all other devices and types, and everywhere after nt_plain(true). Tests compare both,
 * forward and backward.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nt_tensor nt_tensor;
typedef enum nt_status { NT_OK = 0, NT_FAILED, NT_OUT_OF_MEMORY, NT_NO_DEVICE } nt_status;
typedef enum nt_dtype { NT_F32, NT_BF16, NT_F16, NT_I64, NT_I32, NT_U8 } nt_dtype;

/* ---- errors: the first one stays until cleared ---- */
nt_status nt_check(void);     /* NT_OK when nothing failed since the last clear       */
const char *nt_error(void);   /* operation, shapes, reason; "" when nothing failed     */
void nt_clear(void);

/* ---- devices: a device is a number, NT_CPU or the index of a GPU ---- */
#define NT_CPU (-1)
/* "auto" | "cpu" | "cuda" | "cuda:N". Loads libtorch_cuda only when a GPU is asked for and a driver is there. */
nt_status nt_device_open(const char *name, int *device);
const char *nt_gpu_passed_over(void);   /* where a driver is, but "auto" is the CPU: why; else "" */
const char *nt_device_name(int device); /* "cpu", "cuda:0" */
const char *nt_kernels_off(void);       /* why a GPU that is open runs without our own kernels; "": it has them */
void nt_set_threads(int n);             /* 0: as libtorch chooses */
int nt_threads(void);
/* f of ranges of 0 to n, by these threads. */
void nt_parallel(int64_t n, void (*f)(int64_t from, int64_t to, void *arg), void *arg);
/* From here on threads sleep instead of spinning for each other while other processes want the processors (not where
 * OMP_WAIT_POLICY or GOMP_SPINCOUNT say how). For programs: it starts a thread. */
void nt_wait_politely(void);
/* Device memory in bytes: free and total now, peak since start. CPU: no limit known here (base/machine reads the system's), and
 * this process's peak resident size. */
nt_status nt_memory(int device, int64_t *free_bytes, int64_t *total_bytes, int64_t *peak_bytes);
/* The most bytes that tensors on the device held at once since nt_peak_reset. On the CPU: of those made since the first reset,
 * borrowed memory apart. */
void nt_peak_reset(int device);
int64_t nt_peak(int device);
/* A GPU: allocations beyond that many bytes fail as out of memory. */
nt_status nt_memory_limit(int device, int64_t bytes);
/* What the allocator keeps of freed memory goes back, and counts as free again. */
nt_status nt_memory_return(int device);

/* ---- scopes and handles ---- */
void nt_scope_push(void);
void nt_scope_pop(void);
nt_tensor *nt_scope_pop_with(nt_tensor *keep); /* keep moves to the scope outside (or to the caller); NULL stays NULL */
nt_tensor *nt_own(nt_tensor *t);               /* out of its scope: freed by nt_free only; returns t */
void nt_free(nt_tensor *t);                    /* NULL is fine */
int64_t nt_live(void);                         /* handles alive: every test ends at zero */
void nt_plain(bool on);
/* A GPU's fast version that proved wrong there runs no more. */
enum nt_fast {
	NT_FAST_NORM, NT_FAST_ROPE, NT_FAST_SWIGLU, NT_FAST_ATTENTION, NT_FAST_PRODUCT, NT_FAST_DECODING, NT_FAST_SAMPLING,
	NT_FAST_N
};
void nt_fast_off(enum nt_fast what);
bool nt_fast_is_off(enum nt_fast what);

/* ---- making ---- */
nt_tensor *nt_zeros(nt_dtype dtype, int device, int ndim, const int64_t *shape);
nt_tensor *nt_empty(nt_dtype dtype, int device, int ndim, const int64_t *shape); /* to be filled: its values are any */
nt_tensor *nt_from_host(nt_dtype dtype, int device, const void *data, int ndim, const int64_t *shape); /* copies */
nt_tensor *nt_borrow(nt_dtype dtype, const void *data, int ndim, const int64_t *shape); /* CPU, no copy: data outlives it */
nt_tensor *nt_i64(int device, const int64_t *data, int64_t n);                         /* copies, [n] */
nt_tensor *nt_f32(int device, const float *data, int64_t n);                           /* copies, [n] */
nt_tensor *nt_share(const nt_tensor *t); /* a second handle of the same tensor */

/* ---- looking ---- */
int nt_ndim(const nt_tensor *t);
int64_t nt_size(const nt_tensor *t, int dim); /* negative counts from the end */
int64_t nt_numel(const nt_tensor *t);
nt_dtype nt_dtype_of(const nt_tensor *t);
int nt_device_of(const nt_tensor *t);
nt_status nt_to_host_f32(const nt_tensor *t, float *out, size_t n);   /* n must be numel; any float type, converted */
nt_status nt_to_host_i64(const nt_tensor *t, int64_t *out, size_t n);
nt_status nt_to_host_raw(const nt_tensor *t, void *out, size_t bytes); /* as it is stored, contiguous */
nt_status nt_item(const nt_tensor *t, double *out);
/* A copy that sets out for the host, behind what was launched before: nt_to_host_* of it, and nothing else, waits until it is
 * there, and not for what was launched since. */
nt_tensor *nt_fetch(const nt_tensor *t);

/* ---- gradients ---- */
void nt_grad_push(bool on);
void nt_grad_pop(void);
nt_status nt_requires_grad(nt_tensor *t, bool on);
nt_status nt_backward(nt_tensor *loss);                       /* scalar; adds to the .grad of the leaves */
nt_status nt_backward_with(nt_tensor *y, const nt_tensor *g); /* the gradient of y is g */
nt_tensor *nt_grad(const nt_tensor *t);                       /* NULL with an error when it has none */
bool nt_has_grad(const nt_tensor *t);
bool nt_wants_grad(const nt_tensor *t);                       /* trained, or made from what is */
void nt_zero_grad(nt_tensor *t);
nt_tensor *nt_detach(const nt_tensor *t);

/* ---- expressions: elementwise and shape ---- */
nt_tensor *nt_add(const nt_tensor *a, const nt_tensor *b);
nt_tensor *nt_sub(const nt_tensor *a, const nt_tensor *b);
nt_tensor *nt_mul(const nt_tensor *a, const nt_tensor *b);
nt_tensor *nt_min(const nt_tensor *a, const nt_tensor *b);
nt_tensor *nt_scale(const nt_tensor *a, double c);
nt_tensor *nt_add_scalar(const nt_tensor *a, double c);        /* of integers: c without its fraction */
nt_tensor *nt_exp(const nt_tensor *a);
nt_tensor *nt_clamp(const nt_tensor *a, double lo, double hi); /* gradient zero outside */
nt_tensor *nt_sum(const nt_tensor *a);                         /* scalar */
nt_tensor *nt_dot(const nt_tensor *a, const nt_tensor *b);     /* sum of a*b over everything, scalar */
nt_tensor *nt_mean_last(const nt_tensor *a);                   /* over the last dimension */
nt_tensor *nt_to(const nt_tensor *a, nt_dtype dtype);
nt_tensor *nt_clone(const nt_tensor *a);
nt_tensor *nt_narrow(const nt_tensor *a, int dim, int64_t start, int64_t length);
nt_tensor *nt_reshape(const nt_tensor *a, int ndim, const int64_t *shape);
nt_tensor *nt_cat(nt_tensor *const *list, int n, int dim);
nt_status nt_split(const nt_tensor *x, int n, const int64_t *widths, nt_tensor **out); /* views along the last dimension */
nt_tensor *nt_rows(const nt_tensor *a, const nt_tensor *index);                       /* a[index], dim 0 */
nt_tensor *nt_put_rows(const nt_tensor *a, const nt_tensor *index, const nt_tensor *b); /* copy of a with a[index] = b */

/* ---- expressions: the model ---- */
nt_tensor *nt_matmul(const nt_tensor *a, const nt_tensor *b);                         /* [M,K] [K,N] -> [M,N] */
/* x [..,I], w [O,I], bias [O] or NULL -> [..,O] */
nt_tensor *nt_linear(const nt_tensor *x, const nt_tensor *w, const nt_tensor *bias);
/*
 * A projection with low-rank adapters (LoRA, Hu et al. 2021) beside it, all of them in two products:
 *
 *	y = residual + x W^T + bias + (x A^T) B^T
 *
 * A [R,I] has the adapters' A below each other, B [O,R] their B with its scale, each in its own rows and columns and zero
 * elsewhere, both in x's type. The gradients of parts that want one go to the fp32 tensors they were laid out from; those parts
 * stand next to each other in the rank. Under an adapter w and bias are not trained.
 *
 * A stack has A [L,R,I] and B [L,O,R]: L adapters, each for rows of x of its own, which follow each other. No gradients.
 */
struct nt_lora_part {
	nt_tensor *A, *B; /* [r,I] [O',r] */
	int64_t rank_at, out_at;
	double scale;
};
struct nt_lora {
	nt_tensor *A, *B; /* NULL: no adapter */
	int n;
	struct nt_lora_part part[6];
	const int64_t *rows; /* NULL: no stack; [L] how many are each one's */
};
struct nt_projection {
	nt_tensor *const *w; /* [n_w] of [O_i,I], whose outputs follow each other */
	int n_w;
	const nt_tensor *bias, *residual; /* [O] and [n,O], or NULL */
	const struct nt_lora *lora;       /* or NULL */
};
nt_tensor *nt_project(const nt_tensor *x, const struct nt_projection *p); /* x [n,I] */
nt_tensor *nt_embedding(const nt_tensor *w, const nt_tensor *ids);                    /* w [V,D], ids [n] -> [n,D] */
/* x [..,D], w [D] of x's type, or fp32, and then all of it is computed in fp32; statistics always are. */
nt_tensor *nt_rms_norm(const nt_tensor *x, const nt_tensor *w, double eps);
/* Rotary embedding, rotate-half layout (Su et al. 2021), after a per-head RMS norm when w is not NULL: x [n,H,d], w [d] as of
 * nt_rms_norm, cos, sin [n,d/2] fp32. */
nt_tensor *nt_qk_rope(const nt_tensor *x, const nt_tensor *w, double eps, const nt_tensor *cos, const nt_tensor *sin);
/* gate_up [n,2F], gate first -> silu(gate)*up [n,F]; nt_geglu: gelu(gate)*up, by its approximation with tanh (Shazeer 2020) */
nt_tensor *nt_swiglu(const nt_tensor *gate_up);
nt_tensor *nt_geglu(const nt_tensor *gate_up);
nt_tensor *nt_normalize(const nt_tensor *x);    /* x [..,D] -> x sqrt(D) / max(|x|, 1e-12), fp32 */
/* h [n,D], sites [s] rows of h, v [s,D] -> h with h' = h + |h| v / (|v| + 1e-9) at the sites; norms fp32; no gradient to v. */
nt_tensor *nt_inject_add(const nt_tensor *h, const nt_tensor *sites, const nt_tensor *v);

/*
 * Attention over a packed token tree. A batch is one sequence of n tokens cut into rows; a row may have a parent row, and its
 * tokens attend to all tokens of its ancestors and to their own row's, causally. So a prompt of G responses stands once:
 *
 *	row 0: the prompts' common head         parent -1
 *	row 1: the rest of prompt 1             parent 0
 *	row 2, 3: its two responses             parent 1
 *
 * A parent comes before its children; rows cover the tokens without gaps, in order.
 */
typedef struct nt_tree nt_tree;
nt_tree *nt_tree_new(const int64_t *length, const int64_t *parent, int64_t n_rows, int device); /* NULL: error */
void nt_tree_free(nt_tree *tree);
/* q [n,Hq,d], k v [n,Hkv,d], Hq a multiple of Hkv -> [n,Hq,d]. window: a token sees itself and the window - 1 before it on its
 * way from the root; 0: all. */
nt_tensor *nt_attention(const nt_tensor *q, const nt_tensor *k, const nt_tensor *v, const nt_tree *tree, int64_t window,
			double scale);

/*
 * log softmax(h head^T / temperature)[ids], fp32 [n]: h [n,D], head [V,D], ids [n]. Computed in chunks of rows and again in the
 * backward pass, so that no [n,V] array outlives a chunk. entropy: when not NULL, receives the entropy of each row's
 * distribution in nats, [n], without gradient.
 */
nt_tensor *nt_token_logprob(const nt_tensor *h, const nt_tensor *head, const nt_tensor *ids, double temperature,
			    nt_tensor **entropy);
/* Bytes of a chunk's logits in fp32; 0: NT_CHUNK_CPU or NT_CHUNK_GPU. */
#define NT_CHUNK_CPU ((int64_t)64 << 20)
#define NT_CHUNK_GPU ((int64_t)512 << 20)
void nt_logprob_chunk(int64_t bytes);

/* The processor multiplies in bf16 (AVX512-BF16, AMX), and ATEN_CPU_CAPABILITY does not forbid it. */
bool nt_bf16_products(void);
/* Tests: products with frozen weights go by blocks on a processor of any make, as they do on AMD's with AVX-512. */
void nt_blocks(bool on);

/* ---- decoding (no gradients) ---- */
/* While on, the products of an fp32 x on the CPU take a kernel for few rows: several times as fast for 8, and a row's
 * result is the same to the bit whatever rows stand beside it and however many threads there are. On a GPU nt_project leaves
 * its result in `residual`, which saves the copy that libtorch's product with an addend begins with. */
void nt_decoding(bool on);
/* cache [N,S,..]: cache[slot[i], at[i]] = x[i], x [n,..]; slot, at int64 [n]. */
nt_status nt_cache_put(nt_tensor *cache, const nt_tensor *slot, const nt_tensor *at, const nt_tensor *x);
/* The heads of a new token a row, as they come from the projections: q [n,Hq,d], k and v [n,Hkv,d], norms [d] or NULL. */
struct nt_heads {
	const nt_tensor *q, *k, *v, *q_norm, *k_norm;
	double eps;
	const nt_tensor *cos, *sin; /* [n,d/2] */
};
/* nt_qk_rope of q, returned, and of k, which goes with v into the caches, as nt_cache_put. */
nt_tensor *nt_rope_cached(const struct nt_heads *x, nt_tensor *k_cache, nt_tensor *v_cache, const nt_tensor *slot,
			  const nt_tensor *at);
/* q [n,Hq,d]; row i attends to the first length[i] positions of slab slot[i] of k, v [N,S,Hkv,d], or to the last `window` of
 * them -> [n,Hq,d] */
nt_tensor *nt_attention_cached(const nt_tensor *q, const nt_tensor *k, const nt_tensor *v, const nt_tensor *slot,
			       const nt_tensor *length, int64_t window, double scale);
nt_tensor *nt_logits(const nt_tensor *h, const nt_tensor *head); /* [n,D] [V,D] -> [n,V]; fp32 where the device can */
/* Inverse-CDF sampling from softmax(logits / temperature): logits [n,V], u [n] uniform in (0,1) -> ids [n] int64; logprob
 * (when not NULL) [n] fp32 of what was drawn, at that temperature. temperature 0: the largest logit, logprob at 1. */
nt_tensor *nt_sample(const nt_tensor *logits, const nt_tensor *u, double temperature, nt_tensor **logprob);
nt_tensor *nt_topk(const nt_tensor *logits, int64_t k); /* ids [n,k], largest first */

/* ---- graphs: what a step launches on a GPU, launched again as one ---- */
typedef struct nt_graph nt_graph;
/* Records what step(arg) launches without running it: the same kernels on the same memory, which stays where it is as long as
 * the graph lives. A step like it has run before: what starts at first use may not start in one. Waits of the host and copies
 * from or to it are errors: NULL, nothing else happened, and nt_clear goes on without. */
nt_graph *nt_graph_capture(int device, void (*step)(void *arg), void *arg);
nt_status nt_graph_replay(nt_graph *g);
void nt_graph_free(nt_graph *g); /* NULL is fine */

/* ---- a profile: libtorch's own profiler (kineto) around a part of a run ---- */
nt_status nt_profile_start(int device);
/* A stage of the profiled part begins, and the one before it ends; NULL: no other begins. Without a profile: nothing. */
void nt_profile_stage(const char *name);
/* Ends it, and writes the trace for scripts/nla-profile, Perfetto or chrome://tracing. kernels: it has a GPU's kernels. */
nt_status nt_profile_stop(const char *trace, bool *kernels);

/*
 * ---- ranks: the processes of one run, over PyTorch's c10d: Gloo in the host's memory, NCCL on CUDA cards ----
 *
 * A process that opened nothing is alone, and the calls do nothing. All ranks make the same calls in the same order. A call
 * that cannot be completed does not return: when a rank is gone, hangs or fails, the others end within `timeout`, with exit
 * code 1, after `over` (which any thread may call, and which says the line) where it is this rank's turn to say why.
 */
struct nt_ranks {
	int rank, size;
	int local, here;                   /* made by open: its number on its host, its GPU's; how many are there */
	const char *address;               /* of rank 0, which holds the store */
	int port;
	bool served;                       /* somebody else holds it there: torchrun's agent */
	const char *run, *log;             /* what this start's keys begin with; a file for what c10d prints, or NULL */
	double timeout;                    /* seconds */
	void (*over)(const char *line);
};
nt_status nt_ranks_open(struct nt_ranks *r);                    /* the strings outlive the ranks */
bool nt_ranks_fail(const struct nt_ranks *r, const char *text); /* ends the others too; true: this process is to say it */
void nt_ranks_close(void);                                      /* waits for all */
nt_status nt_all_reduce(nt_tensor *t);                          /* sums it, in place: the same bits on all ranks */
struct nt_reduced {
	double waited, seconds; /* for other ranks, since the sum before; of the sum */
	int64_t bytes;
};
/* Sums the gradients, in one flat fp32 array of which they become views; a missing one counts zero. */
nt_status nt_reduce_grads(nt_tensor *const *params, int n, struct nt_reduced *r);

/* ---- actions on parameters ---- */
nt_status nt_copy_into(nt_tensor *to, const nt_tensor *from);               /* shapes equal; converts */
nt_status nt_add_into(nt_tensor *to, const nt_tensor *x, double c);         /* to += c x */
nt_status nt_grad_norm(nt_tensor *const *params, int n, double *norm);      /* 2-norm of all; a missing one counts zero */
nt_status nt_grad_scale(nt_tensor *const *params, int n, double c);
/* AdamW (Loshchilov & Hutter 2019), bias-corrected, fp32: m, v like params; step counts from 1. Weight decay decoupled. */
struct nt_adamw {
	double lr, beta1, beta2, eps, weight_decay;
};
nt_status nt_adamw_step(nt_tensor *const *params, nt_tensor *const *m, nt_tensor *const *v, int n, int64_t step,
			const struct nt_adamw *hyper);

#ifdef __cplusplus
}
#endif
