// The loops of nt_rows.cpp for one instruction set: included once for each, in a namespace of its own, with
//	TARGET  the attribute of a function that may use it
//	LANES   floats in a vector
//	MOST    vectors of rows in one pass over the weights
//	DOT     where x and weights are pairs of bf16 numbers: the instruction that adds the products of pairs
// xt holds the rows of x in groups of up to MOST * LANES, each as [in][rows rounded up to LANES].

using Vector = float __attribute__((vector_size(LANES * sizeof(float))));

#ifdef DOT
using Lanes = int32_t __attribute__((vector_size(LANES * sizeof(float))));

TARGET INLINE Lanes all_lanes(Pair p) { return p.both - Lanes{}; }
TARGET INLINE Vector add_products(Vector sum, Vector x, Lanes w) { return reinterpret_cast<Vector>(DOT(sum, x, w)); }
#endif

TARGET INLINE Vector all_lanes(float f) { return f - Vector{}; } // less zero is no operation; plus zero would be one
TARGET INLINE Vector add_products(Vector sum, Vector x, Vector w) { return sum + x * w; }

// m numbers (or pairs) of OUT rows of weights: where they lie, or, of bf16 alone, as fp32 in `room`.
template <int OUT, class W>
TARGET INLINE auto widened(const W *RESTRICT w, int64_t m, int64_t in, float (&room)[OUT][16])
{
	if constexpr (!std::is_same_v<W, Bf16>)
		return w;
	else {
		for (int o = 0; o < OUT; o++)
			for (int64_t j = 0; j < m; j++)
				room[o][j] = std::bit_cast<float>(uint32_t(w[o * in + j]) << 16);
		asm("" : "+m"(room)); // read each number from memory: taking them out of vectors again is slower
		return &room[0][0];
	}
}

// One k of a tile. The shorter side of it is held in registers, so that 16 of them hold everything.
template <int VECS, int OUT, class W>
TARGET INLINE void step(Vector (&sum)[OUT][VECS], const Vector *x, const W *RESTRICT w, int64_t in)
{
	if constexpr (VECS > OUT) {
		decltype(all_lanes(*w)) b[OUT];
		for (int o = 0; o < OUT; o++)
			b[o] = all_lanes(w[o * in]);
		for (int v = 0; v < VECS; v++)
			for (int o = 0; o < OUT; o++)
				sum[o][v] = add_products(sum[o][v], x[v], b[o]);
	} else {
		for (int o = 0; o < OUT; o++)
			for (int v = 0; v < VECS; v++)
				sum[o][v] = add_products(sum[o][v], x[v], all_lanes(w[o * in]));
	}
}

// acc[o][row] = bias[o] + sum over k of x[row][k] w[o][k]. Each is one chain of additions in the order of k within a stretch,
// and one over the stretches, whatever VECS and OUT are. The next tile's weights are fetched meanwhile: the streams are too
// short and too many for the processor to foresee.
template <int VECS, int OUT, class W>
TARGET INLINE void tile(const float *xt, const W *RESTRICT w, const float *bias, int64_t in, float *acc)
{
	const Vector *x = reinterpret_cast<const Vector *>(xt);
	Vector *total = reinterpret_cast<Vector *>(acc);
	const W *next = w + OUT * in;
	const int64_t stride = std::is_same_v<W, Bf16> ? 16 : in;
	alignas(64) float room[OUT][16];
	for (int o = 0; o < OUT; o++)
		for (int v = 0; v < VECS; v++)
			total[o * VECS + v] = all_lanes(bias ? bias[o] : 0);
	for (int64_t k = 0; k < in;) {
		Vector sum[OUT][VECS] = {};
		int64_t end = std::min(k + STRETCH, in);
		for (; k + 16 <= end; k += 16) {
			for (int o = 0; o < OUT; o++)
				__builtin_prefetch(next + o * in + k);
			const auto *line = widened(w + k, 16, in, room);
#pragma GCC unroll 16
			for (int j = 0; j < 16; j++)
				step<VECS, OUT>(sum, x + (k + j) * VECS, line + j, stride);
		}
		for (; k < end; k++)
			step<VECS, OUT>(sum, x + k * VECS, widened(w + k, 1, in, room), stride);
		for (int o = 0; o < OUT; o++)
			for (int v = 0; v < VECS; v++)
				total[o * VECS + v] += sum[o][v];
	}
}

template <int VECS, int OUT, class W>
TARGET __attribute__((noinline)) void panel(const float *xt, const W *w, const float *bias, int64_t in, int64_t n, float *acc)
{
	int64_t o = 0;
	for (; o + OUT <= n; o += OUT)
		tile<VECS, OUT>(xt, w + o * in, bias ? bias + o : nullptr, in, acc + o * VECS * LANES);
	for (; o < n; o++)
		tile<VECS, 1>(xt, w + o * in, bias ? bias + o : nullptr, in, acc + o * VECS * LANES);
}

template <class W> TARGET void outputs(const Product &p, int64_t from, int64_t to)
{
	alignas(64) float acc[PANEL * MOST * LANES];
	for (int64_t o = from; o < to; o += PANEL)
		for (int64_t r = 0; r < p.rows; r += MOST * LANES) {
			int64_t n = std::min<int64_t>(PANEL, to - o), m = std::min<int64_t>(MOST * LANES, p.rows - r);
			int64_t vecs = (m + LANES - 1) / LANES;
			const float *x = p.xt + r * p.in, *b = p.bias ? p.bias + o : nullptr;
			const W *w = static_cast<const W *>(p.w) + o * p.in;
			if (vecs == 1)
				panel<1, 8>(x, w, b, p.in, n, acc);
			else if (vecs == 2)
				panel<2, MOST == 2 ? 8 : 6>(x, w, b, p.in, n, acc);
			else if (vecs == 3)
				panel<MOST == 2 ? 1 : 3, 4>(x, w, b, p.in, n, acc);
			else
				panel<MOST == 2 ? 1 : 4, 3>(x, w, b, p.in, n, acc);
			for (int64_t i = 0; i < m; i += 4) // few at a time: rows 4 KB apart share a place in the cache
				transpose(acc + i, vecs * LANES, p.y + (r + i) * p.width + o, p.width, n,
					  std::min<int64_t>(4, m - i));
		}
}

#ifdef DOT
static const Kernel kernel = {LANES, MOST * LANES, nullptr, outputs<Pair>};
#else
static const Kernel kernel = {LANES, MOST * LANES, outputs<float>, outputs<Bf16>};
#endif

#undef TARGET
#undef LANES
#undef MOST
#undef DOT
