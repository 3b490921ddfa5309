// What the shim's own files share: the handle, the one place that holds the `try`, and the CPU kernels' interface.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <initializer_list>
#include <string>

#include "shim/nt.h"

struct nt_tensor {
	at::Tensor t;
	size_t scope = 0; // 1-based depth of the scope that owns it; 0: the caller
	size_t place = 0; // index in that scope
};

namespace nt {

nt_tensor *wrap(at::Tensor t);
void record(nt_status status, const char *op, std::initializer_list<const nt_tensor *> in, const char *why);
nt_status caught(const char *op, std::initializer_list<const nt_tensor *> in); // call in a catch block

at::Device device(int index);
at::ScalarType scalar(nt_dtype dtype);

template <class F> nt_tensor *expr(const char *op, std::initializer_list<const nt_tensor *> in, F &&f)
{
	for (const nt_tensor *x : in)
		if (!x) {
			if (nt_check() == NT_OK)
				record(NT_FAILED, op, in, "a tensor is NULL");
			return nullptr;
		}
	try {
		return wrap(f());
	} catch (...) {
		caught(op, in);
		return nullptr;
	}
}

template <class F> nt_status action(const char *op, std::initializer_list<const nt_tensor *> in, F &&f)
{
	for (const nt_tensor *x : in)
		if (!x) {
			if (nt_check() == NT_OK)
				record(NT_FAILED, op, in, "a tensor is NULL");
			return nt_check();
		}
	try {
		f();
		return NT_OK;
	} catch (...) {
		return caught(op, in);
	}
}

// True when the CPU kernels can take these tensors: fp32, on the CPU, and the fast path is on.
bool fast(std::initializer_list<at::Tensor> in);

// ---- CPU kernels over plain arrays (nt_kernels.cpp): fp32, contiguous, one row or one range each ----
namespace cpu {
void rms_norm(const float *x, const float *w, float *y, float *inv, int64_t rows, int64_t d, float eps);
void rms_norm_back(const float *dy, const float *x, const float *w, const float *inv, float *dx, float *dw, int64_t rows, int64_t d);
void rope(const float *x, int64_t x_stride, const float *w, const float *cos, const float *sin, float *y, float *inv, int64_t n,
	  int64_t h, int64_t d, float eps);
void rope_back(const float *dy, const float *x, int64_t x_stride, const float *w, const float *cos, const float *sin, const float *inv,
	       float *dx, float *dw, int64_t n, int64_t h, int64_t d);
void swiglu(const float *gu, float *y, int64_t rows, int64_t f);
void swiglu_back(const float *dy, const float *gu, float *dgu, int64_t rows, int64_t f);
void causal_softmax(float *s, float *lse, int64_t rows, int64_t cols, int64_t stride, int64_t before, float scale);
void causal_softmax_again(float *s, const float *lse, int64_t rows, int64_t cols, int64_t stride, int64_t before, float scale);
void softmax_back(float *ds, const float *p, const float *delta, int64_t rows, int64_t cols, int64_t stride, float scale);
void decode_row(const float *q, const float *k, const float *v, float *o, float *s, int64_t length, int64_t stride, int64_t group,
		int64_t d, float scale);
void logprob_row(const float *z, int64_t v, int64_t id, float inv_t, float *logprob, float *lz, float *entropy);
void logprob_row_back(float *z, int64_t v, int64_t id, float inv_t, float lz, float g);
int64_t sample_row(const float *z, int64_t v, float u, float temperature, float *logprob);
} // namespace cpu

} // namespace nt
