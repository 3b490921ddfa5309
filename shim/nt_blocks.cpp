// Products of many rows on the CPU, by libtorch's small product (brgemm: oneDNN's) of blocks that stay in a cache: in fp32 on
// AMD's processors, for which MKL has no AVX-512 and reaches half of what they can; of weights in bf16 where the processor
// multiplies in bf16, x rounded to it and sums in fp32.
#include "shim/nt_internal.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>

static bool of_any_make;

void nt_blocks(bool on) { of_any_make = on; }

bool nt_bf16_products()
{
#if defined(__x86_64__)
	static const bool is = __builtin_cpu_supports("avx512bf16") && at::get_cpu_capability() == "AVX512";
	return is;
#else
	return false;
#endif
}

namespace
{

using at::BFloat16;

// A block of W has WIDE outputs and DEEP terms of their sums. It is laid out once for TALL rows of x, which pass by LOW at a
// time.
constexpr int64_t WIDE = 64, DEEP = 512, LOW = 64, TALL = 1024;

bool is_amd()
{
#if defined(__x86_64__)
	static const bool is = __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512f");
	return is;
#else
	return false;
#endif
}

// W^T, or with `back` W, from w on: [m][n], `apart` from one of m to the next; copied to `room`, or where it is.
const float *laid_out(const float *w, int64_t stride, bool back, int64_t n, int64_t m, float *room, int64_t *apart)
{
	*apart = back ? stride : n;
	if (back)
		return w;
	nt::cpu::transpose(w, stride, room, n, n, m);
	return room;
}

// Pairs of terms side by side, [m / 2][n][2], each moved like an fp32.
const BFloat16 *laid_out(const BFloat16 *w, int64_t stride, bool back, int64_t n, int64_t m, BFloat16 *room, int64_t *apart)
{
	*apart = n;
	if (!back)
		nt::cpu::transpose(reinterpret_cast<const float *>(w), stride / 2, reinterpret_cast<float *>(room), n, n,
				   m / 2);
	else
		for (int64_t k = 0; k < m; k += 2)
			for (int64_t i = 0; i < n; i++) {
				room[k * n + 2 * i] = w[k * stride + i];
				room[k * n + 2 * i + 1] = w[(k + 1) * stride + i];
			}
	return room;
}

// WIDE outputs from o on, of TALL rows from `first` on. rest: the last rows of x, which are no LOW, and zeros to a multiple of
// 16: oneDNN makes a program for each number of rows.
template <class T>
void block(const at::Tensor &x, const at::Tensor &rest, const at::Tensor &w, bool back, const at::Tensor &y, int64_t o,
	   int64_t first)
{
	const int64_t in = x.size(1), n = std::min(WIDE, y.size(1) - o), end = std::min(first + TALL, y.size(0));
	alignas(64) float sum[LOW * WIDE];
	alignas(64) T room[DEEP * WIDE];
	for (int64_t k = 0; k < in; k += DEEP) {
		int64_t m = std::min(DEEP, in - k), apart;
		const T *from = w.const_data_ptr<T>() + (back ? k * w.stride(0) + o : o * w.stride(0) + k);
		const T *b = laid_out(from, w.stride(0), back, n, m, room, &apart);
		for (int64_t r = first; r < end; r += LOW) {
			const bool last = r + LOW > end;
			const at::Tensor &a = last ? rest : x;
			const T *rows = a.const_data_ptr<T>() + (last ? 0 : r * a.stride(0)) + k;
			at::native::cpublas::brgemm(last ? rest.size(0) : LOW, n, m, a.stride(0), apart, n, false, rows, b, sum,
						    std::is_same_v<T, BFloat16>);
			for (int64_t i = 0; i < std::min(LOW, end - r); i++) {
				float *to = nt::out(y) + (r + i) * y.stride(0) + o;
				for (int64_t j = 0; j < n; j++)
					to[j] = sum[i * n + j] + (k ? to[j] : 0);
			}
		}
	}
}

} // namespace

namespace nt
{

bool blocks_are_faster(const at::Tensor &x, const at::Tensor &w, bool back)
{
	if (fast({x}) && w.scalar_type() == at::kBFloat16)
		return nt_bf16_products() && w.size(!back) % 2 == 0;
	return fast({x, w}) && (of_any_make || (is_amd() && w.size(back) >= WIDE));
}

at::Tensor times_blocks(const at::Tensor &x, const at::Tensor &w, bool back, at::Tensor y)
{
	TORCH_CHECK(x.dim() == 2 && w.dim() == 2 && x.size(1) == w.size(!back), "widths differ");
	const int64_t rows = x.size(0), in = x.size(1), width = w.size(back);
	const int64_t down = (rows + TALL - 1) / TALL, over = rows % LOW;
	const bool lies = x.stride(1) == 1 && x.stride(0) >= in;
	const at::Tensor xs = lies ? x.to(w.scalar_type()) : x.to(w.scalar_type()).contiguous();
	at::Tensor rest = at::zeros({(over + 15) / 16 * 16, in}, w.options());
	rest.narrow(0, 0, over).copy_(xs.narrow(0, rows - over, over));
	const at::Tensor ws = w.stride(1) == 1 && w.stride(0) % 2 == 0 ? w : w.contiguous(); // pairs lie in a row alike
	if (!y.defined())
		y = at::empty({rows, width}, x.options());
	if (!in)
		return y.zero_();
	cost(2.0 * double(rows) * double(in * width), 4.0 * double(rows * (in + width)) + double(ws.nbytes()));
	at::parallel_for(0, (width + WIDE - 1) / WIDE * down, 1, [&](int64_t from, int64_t to) {
		auto one = ws.scalar_type() == at::kFloat ? block<float> : block<BFloat16>;
		for (int64_t i = from; i < to; i++)
			one(xs, rest, ws, back, y, i / down * WIDE, i % down * TALL);
		at::native::cpublas::brgemm_release();
	});
	return y;
}

} // namespace nt
