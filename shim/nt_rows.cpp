// x W^T for few rows on the CPU, as decoding has it, in fp32, of weights in fp32 or bf16: they stream by once as they lie, rows
// are the lanes of a vector. A general product copies all weights into an order of its own first, which for 8 rows takes longer
// than the product.
// A row's result is the same to the bit whatever rows stand beside it and however many threads there are. Compiled without
// relaxed floating point: the order of the sums is the point.
#include "shim/nt_internal.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>

#define INLINE static inline __attribute__((always_inline))
#define RESTRICT __restrict__

namespace
{

constexpr int64_t PANEL = 48;    // outputs: a multiple of every tile's
constexpr int64_t STRETCH = 192; // terms summed apart: sums of sums round less

using Bf16 = uint16_t; // as it is stored: the upper half of an fp32

using Outputs = void (*)(const float *xt, const void *w, const float *bias, float *y, int64_t rows, int64_t in, int64_t out,
			 int64_t from, int64_t to);
struct Kernel {
	int64_t lanes, group; // group: rows in one pass over the weights
	Outputs of_fp32, of_bf16;
};

// to[j][i] = from[i][j], n times m; strides in floats
void transpose(const float *from, int64_t from_stride, float *to, int64_t to_stride, int64_t n, int64_t m)
{
	using Four = float __attribute__((vector_size(16), aligned(4), may_alias));
	int64_t i = 0;
	for (; i + 4 <= n; i += 4) {
		int64_t j = 0;
		for (; j + 4 <= m; j += 4) {
			const float *f = from + i * from_stride + j;
			float *t = to + j * to_stride + i;
			auto in = [&](int64_t k) { return *reinterpret_cast<const Four *>(f + k * from_stride); };
			auto put = [&](int64_t k) -> Four & { return *reinterpret_cast<Four *>(t + k * to_stride); };
			Four a = in(0), b = in(1), c = in(2), d = in(3);
			Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
			put(0) = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
			put(1) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
			ab = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
			put(2) = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
			put(3) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
		}
		for (; j < m; j++)
			for (int64_t k = i; k < i + 4; k++)
				to[j * to_stride + k] = from[k * from_stride + j];
	}
	for (; i < n; i++)
		for (int64_t j = 0; j < m; j++)
			to[j * to_stride + i] = from[i * from_stride + j];
}

namespace plain
{
#define TARGET
#define LANES 4
#define MOST 4
#include "shim/nt_rows_tile.h"
} // namespace plain

#if defined(__x86_64__)
namespace avx2
{
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define MOST 4
#include "shim/nt_rows_tile.h"
} // namespace avx2

namespace avx512
{
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define LANES 16
#define MOST 2
#include "shim/nt_rows_tile.h"
} // namespace avx512
#endif

const Kernel &choose()
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512f"))
		return avx512::kernel;
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return avx2::kernel;
#endif
	return plain::kernel;
}

// Groups of rows, each [in][rows rounded up to whole vectors]; what is beyond the rows is zero.
at::Tensor transposed(const Kernel &kernel, const float *x, int64_t rows, int64_t in, const at::TensorOptions &options)
{
	int64_t rounded = (rows + kernel.lanes - 1) / kernel.lanes * kernel.lanes;
	at::Tensor xt = rounded == rows ? at::empty({rounded * in}, options) : at::zeros({rounded * in}, options);
	for (int64_t r = 0; r < rows; r += kernel.group) {
		int64_t n = std::min(kernel.group, rows - r), width = std::min(kernel.group, rounded - r);
		for (int64_t k = 0; k < in; k += 16) // a line of each row at a time
			transpose(x + r * in + k, in, nt::out(xt) + r * in + k * width, width, n,
				  std::min<int64_t>(16, in - k));
	}
	return xt;
}

} // namespace

namespace nt
{

at::Tensor linear_rows(const at::Tensor &x, const at::Tensor &w, const at::Tensor &bias)
{
	static const Kernel &kernel = choose();
	TORCH_CHECK(w.dim() == 2 && x.dim() > 0 && x.size(-1) == w.size(1), "widths differ");
	TORCH_CHECK(!bias.defined() || bias.numel() == w.size(0), "the bias has ", bias.numel(), " numbers");
	int64_t in = w.size(1), out = w.size(0), rows = x.numel() / std::max<int64_t>(in, 1), units = (out + PANEL - 1) / PANEL;
	auto shape = x.sizes().vec();
	shape.back() = out;
	at::Tensor y = at::empty(shape, x.options()), xs = x.contiguous(), ws = w.contiguous();
	at::Tensor bs = bias.defined() ? bias.contiguous() : bias, xt = transposed(kernel, ptr(xs), rows, in, x.options());
	cost(2.0 * double(rows) * double(in * out), 4.0 * double(rows * in + in * out + rows * out));
	int64_t grain = std::max<int64_t>(1, 65536 / (PANEL * std::max<int64_t>(1, in * rows)));
	Outputs outputs = w.scalar_type() == at::kFloat ? kernel.of_fp32 : kernel.of_bf16;
	at::parallel_for(0, units, grain, [&](int64_t from, int64_t to) {
		outputs(ptr(xt), ws.const_data_ptr(), ptr(bs), nt::out(y), rows, in, out, from * PANEL,
			std::min(to * PANEL, out));
	});
	return y;
}

} // namespace nt
