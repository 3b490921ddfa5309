// What the shim's own files share: the handle, the one place that holds the `try`, operations with a gradient of their own, and
// the CPU kernels.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/record_function.h>
#include <c10/core/Event.h>
#include <c10/core/GradMode.h>

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "shim/nt.h"

struct nt_tensor {
	at::Tensor t;
	size_t scope = 0; // 1-based depth of the scope that owns it; 0: the caller
	size_t place = 0; // index in that scope
	std::unique_ptr<c10::Event> there = nullptr; // of nt_fetch: when its numbers are
};

namespace nt {

using Handles = std::initializer_list<const nt_tensor *>;
using Tensors = std::vector<at::Tensor>;

nt_tensor *wrap(at::Tensor t);
nt_status record(nt_status status, const char *op, Handles in, const std::string &why); // the first failure stays
nt_status caught(const char *op, Handles in);                                            // call in a catch block
bool given(const char *op, Handles in);                                                  // a NULL among them is a failure

at::Device device(int index);
int local_rank(); // on this host
at::ScalarType scalar(nt_dtype dtype);

// In a profile (nt_profile.cpp): names what runs while f lives; what that costs, where tensors' shapes do not say it.
void profiled(at::RecordFunction &f, const char *op, const char *part, Handles in);
void cost(double flops, double bytes);
// Of attention: `products` of all pairs of a token and a key it sees; q, k, v and a result, `passes` times over.
void attention_cost(double pairs, const at::Tensor &q, const at::Tensor &k, int products, int passes);

template <class F> nt_status action(const char *op, Handles in, F &&f)
{
	if (!given(op, in))
		return nt_check();
	try {
		at::RecordFunction named;
		if (named.isActive())
			profiled(named, op, "", in);
		f();
		return NT_OK;
	} catch (...) {
		return caught(op, in);
	}
}

template <class F> nt_tensor *expr(const char *op, Handles in, F &&f)
{
	nt_tensor *made = nullptr;
	action(op, in, [&] { made = wrap(f()); });
	return made;
}

extern const char *running; // the operation that a profile saw begin last

bool enabled(); // fast versions, by nt_plain
// True when the CPU kernels can take these tensors: fp32, on the CPU, and the fast path is on.
bool fast(at::TensorList in);

// An operation with its own gradient: `forward` appends to keep what only `backward` needs; `backward` gets the inputs and then
// what was kept, and returns a gradient an input (undefined: none). Inputs that it does not look at may be `unsaved`. Without a
// need for gradients nothing is kept.
using Forward = std::function<at::Tensor(at::TensorList in, Tensors &keep)>;
using Backward = std::function<Tensors(const Tensors &saved, const at::Tensor &dy)>;
at::Tensor fused(at::TensorList in, const Forward &forward, const Backward &backward, const std::vector<bool> &unsaved = {});

// While it lives, libtorch takes the deterministic version of what has one.
struct Deterministic {
	bool before = at::globalContext().deterministicAlgorithms();
	Deterministic() { at::globalContext().setDeterministicAlgorithms(true, false); }
	~Deterministic() { at::globalContext().setDeterministicAlgorithms(before, false); }
};

// A GPU has attended by libtorch's operations for fp32, whose gradients are summed in one order only when that is asked for.
extern bool unordered;

// [n, ..]: row i is the sum of the rows of x whose index is i, in fp32 and in one order.
inline at::Tensor sum_rows(const at::Tensor &x, const at::Tensor &index, int64_t n)
{
	auto shape = x.sizes().vec();
	shape[0] = n;
	at::Tensor sum = at::zeros(shape, x.options().dtype(at::kFloat)); // before: then fresh memory would be filled first
	Deterministic on;
	return sum.index_add_(0, index, x.to(at::kFloat)).to(x.scalar_type());
}

// x W^T, or with `back` x W: x [n,..], W [O,I] maybe stored in another type, computed in that of x unless nt_bf16_products,
// into y where it is given. No gradient.
at::Tensor times(const at::Tensor &x, const at::Tensor &w, bool back, at::Tensor y = {});

// x W^T + bias (undefined: none) of all ws side by side (nt_rows.cpp): fast() tensors, W or bf16; no gradient.
at::Tensor linear_rows(const at::Tensor &x, at::TensorList ws, const at::Tensor &bias);
// As times(), of many rows (nt_blocks.cpp), on processors on which it is faster than MKL.
at::Tensor times_blocks(const at::Tensor &x, const at::Tensor &w, bool back, at::Tensor y);
bool blocks_are_faster(const at::Tensor &x, const at::Tensor &w, bool back);

at::Tensor mm_f32(const at::Tensor &a, const at::Tensor &b); // fp32 from whatever type; no gradient

// Of an undefined tensor: NULL.
inline const float *ptr(const at::Tensor &t) { return t.defined() ? t.const_data_ptr<float>() : nullptr; }
inline float *out(const at::Tensor &t) { return t.defined() ? t.mutable_data_ptr<float>() : nullptr; }
inline at::Tensor tensor(const nt_tensor *t) { return t ? t->t : at::Tensor(); }
// The heads of a token, x [.., H, d], lie next to each other; tokens may lie apart.
inline bool heads_flat(const at::Tensor &x) { return x.stride(-1) == 1 && x.stride(-2) == x.size(-1); }

// ---- CPU kernels over plain arrays (nt_kernels.cpp): fp32, contiguous, one row or one range each ----
namespace cpu {
// to[j][i] = from[i][j], n times m; strides in floats
void transpose(const float *from, int64_t from_stride, float *to, int64_t to_stride, int64_t n, int64_t m);
void norm_rope(const float *x, int64_t x_stride, const float *w, const float *cos, const float *sin, float *y, float *inv,
	       int64_t n, int64_t h, int64_t d, float eps);
void norm_rope_back(const float *dy, const float *x, int64_t x_stride, const float *w, const float *cos, const float *sin,
		    const float *inv, float *dx, float *dw, int64_t n, int64_t h, int64_t d);
void glu(bool gelu, const float *gu, float *y, int64_t rows, int64_t f);
void glu_back(bool gelu, const float *dy, const float *gu, float *dgu, int64_t rows, int64_t f);
void causal_softmax(bool first, float *s, float *lse, int64_t rows, int64_t cols, int64_t before, int64_t window, float scale);
void softmax_back(float *ds, const float *p, const float *delta, int64_t rows, int64_t cols, float scale);
void decode_row(const float *q, const float *k, const float *v, float *o, float *s, int64_t length, int64_t stride,
		int64_t group, int64_t d, float scale);
void logprob_row(const float *z, int64_t v, int64_t id, float inv_t, float *logprob, float *lz, float *entropy);
void logprob_row_back(float *z, int64_t v, int64_t id, float inv_t, float lz, float g);
int64_t sample_row(const float *z, int64_t v, float u, float temperature, float *logprob);
} // namespace cpu

} // namespace nt
