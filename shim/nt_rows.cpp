// x W^T for few rows on the CPU, as decoding has it, of weights in fp32 or bf16: they stream by once as they lie, rows are the
// lanes of a vector. All is in fp32; but where the processor multiplies pairs of bf16 numbers, x is rounded to bf16 for
// weights in bf16, with sums in fp32. A general product copies all weights into an order of its own first, which for 8 rows
// takes longer than the product.
// A row's result is the same to the bit whatever rows stand beside it and however many threads there are. Compiled without
// relaxed floating point: the order of the sums is the point.
#include "shim/nt_internal.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define RESTRICT __restrict__

void nt::cpu::transpose(const float *from, int64_t from_stride, float *to, int64_t to_stride, int64_t n, int64_t m)
{
	using Four = float __attribute__((vector_size(16), aligned(2), may_alias)); // pairs of bf16 are moved too
	using One = float __attribute__((aligned(2), may_alias));
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
				static_cast<One *>(to)[j * to_stride + k] = static_cast<const One *>(from)[k * from_stride + j];
	}
	for (; i < n; i++)
		for (int64_t j = 0; j < m; j++)
			static_cast<One *>(to)[j * to_stride + i] = static_cast<const One *>(from)[i * from_stride + j];
}

namespace
{

using nt::cpu::transpose;

constexpr int64_t PANEL = 48;    // outputs: a multiple of every tile's
constexpr int64_t STRETCH = 192; // terms (or pairs) summed apart: sums of sums round less

using Bf16 = uint16_t; // as it is stored: the upper half of an fp32
struct __attribute__((packed, aligned(2), may_alias)) Pair { // of such, side by side
	int32_t both;
};

struct Product { // x W^T + bias -> y [rows][out], whose rows are `width` apart; xt: x as transposed() returns it
	const float *xt;
	const void *w;
	const float *bias; // or NULL
	float *y;
	int64_t rows, in, out, width;
};

using Outputs = void (*)(const Product &p, int64_t from, int64_t to);
struct Kernel {
	int64_t lanes, group; // group: rows in one pass over the weights
	Outputs of_fp32, of_bf16;
};

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

namespace pairs
{
#define TARGET __attribute__((target("avx512bf16,avx512vl,avx512f,avx2,fma")))
#define LANES 8
#define MOST 4
#define DOT(sum, x, w) _mm256_dpbf16_ps(sum, (__m256bh)(x), (__m256bh)(w))
#include "shim/nt_rows_tile.h"
} // namespace pairs

namespace wide_pairs
{
#define TARGET __attribute__((target("avx512bf16,avx512vl,avx512f,avx2,fma")))
#define LANES 16
#define MOST 2
#define DOT(sum, x, w) _mm512_dpbf16_ps(sum, (__m512bh)(x), (__m512bh)(w))
#include "shim/nt_rows_tile.h"
} // namespace wide_pairs
#endif

// The narrower vector, where it holds all rows: with 8 of them two thirds of the time.
const Kernel &choose(int64_t rows, bool paired)
{
#if defined(__x86_64__)
	if (paired)
		return rows > pairs::kernel.lanes ? wide_pairs::kernel : pairs::kernel;
	static const bool wide = __builtin_cpu_supports("avx512f");
	static const bool middle = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
	if (wide && rows > avx2::kernel.lanes)
		return avx512::kernel;
	if (middle)
		return avx2::kernel;
#endif
	return plain::kernel;
}

// Groups of rows, each [in][rows rounded up to whole vectors]; what is beyond the rows is zero.
at::Tensor transposed(const Kernel &kernel, const at::Tensor &x, int64_t rows, int64_t in)
{
	const int64_t stride = x.dim() == 2 ? x.stride(0) : in;
	int64_t rounded = (rows + kernel.lanes - 1) / kernel.lanes * kernel.lanes;
	at::Tensor xt = rounded == rows ? at::empty({rounded * in}, x.options()) : at::zeros({rounded * in}, x.options());
	for (int64_t r = 0; r < rows; r += kernel.group) {
		int64_t n = std::min(kernel.group, rows - r), width = std::min(kernel.group, rounded - r);
		for (int64_t k = 0; k < in; k += 16) // a line of each row at a time
			transpose(nt::ptr(x) + r * stride + k, stride, nt::out(xt) + r * in + k * width, width, n,
				  std::min<int64_t>(16, in - k));
	}
	return xt;
}

int64_t panels(const at::Tensor &w) { return (w.size(0) + PANEL - 1) / PANEL; }

} // namespace

namespace nt
{

at::Tensor linear_rows(const at::Tensor &x, at::TensorList ws, const at::Tensor &bias)
{
	TORCH_CHECK(x.dim() > 0, "widths differ");
	int64_t in = x.size(-1), rows = x.numel() / std::max<int64_t>(in, 1), width = 0, units = 0;
	auto is_bf16 = [](const at::Tensor &w) { return w.scalar_type() == at::kBFloat16; };
	const bool paired = nt_bf16_products() && in % 2 == 0 && std::all_of(ws.begin(), ws.end(), is_bf16);
	const Kernel &kernel = choose(rows, paired);
	Tensors matrices;
	for (const at::Tensor &w : ws) {
		TORCH_CHECK(w.dim() == 2 && in == w.size(1), "widths differ");
		matrices.push_back(w.contiguous());
		width += w.size(0);
		units += panels(w);
	}
	TORCH_CHECK(!bias.defined() || bias.numel() == width, "the bias has ", bias.numel(), " numbers");
	auto shape = x.sizes().vec();
	shape.back() = width;
	at::Tensor y = at::empty(shape, x.options());
	at::Tensor xs = x.dim() == 2 && x.stride(1) == 1 ? x : x.contiguous(); // a reshape is 4 % of a rollout of 8 rows
	const double w_bytes = double(in * width) * (is_bf16(ws[0]) ? 2 : 4);
	cost(2.0 * double(rows) * double(in * width), 4.0 * double(rows * (in + width)) + w_bytes);
	if (paired) {
		xs = xs.to(at::kBFloat16, false, false, at::MemoryFormat::Contiguous).view(at::kFloat);
		in /= 2;
	}
	at::Tensor xt = transposed(kernel, xs, rows, in), bs = bias.defined() ? bias.contiguous() : bias;
	int64_t grain = std::max<int64_t>(1, 65536 / (PANEL * std::max<int64_t>(1, in * rows)));
	at::parallel_for(0, units, grain, [&](int64_t from, int64_t to) {
		int64_t at = 0;
		for (const at::Tensor &w : matrices) {
			const Product p = {ptr(xt), w.const_data_ptr(), bs.defined() ? ptr(bs) + at : nullptr, nt::out(y) + at,
					   rows, in, w.size(0), width};
			const Outputs outputs = w.scalar_type() == at::kFloat ? kernel.of_fp32 : kernel.of_bf16;
			outputs(p, std::max<int64_t>(from, 0) * PANEL, std::min(to * PANEL, p.out));
			from -= panels(w);
			to -= panels(w);
			at += p.out;
		}
	});
	return y;
}

} // namespace nt
