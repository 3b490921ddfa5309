// CPU kernels: plain loops over fp32 arrays that the compiler turns into vector code for each level of instruction set. No
// libtorch here. Built with relaxed floating point (order of sums), but NaN and infinity keep their meaning.
#include <cmath>
#include <cstdint>
#include <cstring>

#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#if !defined(__x86_64__)
#undef CLONES
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))
#define RESTRICT __restrict__

// exp, relative error below 2e-7: x = n ln2 + r, a polynomial in r, n added to the exponent. Below -87.3 zero, above 88.3
// infinity; NaN stays NaN.
INLINE float fexp(float x)
{
	float c = x > 88.3f ? 88.3f : x;
	c = c < -87.3f ? -87.3f : c;
	float n = __builtin_floorf(c * 1.44269504f + 0.5f);
	float r = c - n * 0.693359375f;
	r = r > 1.0f ? 1.0f : r; // never: it keeps the compiler from adding the two parts of ln2 first
	r += n * 2.12194440e-4f;
	float p = 1.9875691500e-4f;
	p = p * r + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * r * r + r + 1.0f;
	int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
	float two_n;
	std::memcpy(&two_n, &bits, 4);
	float y = p * two_n;
	y = x < -87.3f ? 0.0f : y;
	y = x > 88.3f ? INFINITY : y;
	return x != x ? x : y;
}

// In 16 lanes by hand: a maximum that minds NaN is not a reduction to the compiler. A NaN is passed over.
INLINE float row_max(const float *z, int64_t n)
{
	float lane[16], m = -INFINITY;
	for (int l = 0; l < 16; l++)
		lane[l] = -INFINITY;
	int64_t j = 0;
	for (; j + 16 <= n; j += 16)
		for (int l = 0; l < 16; l++)
			lane[l] = z[j + l] > lane[l] ? z[j + l] : lane[l];
	for (int l = 0; l < 16; l++)
		m = lane[l] > m ? lane[l] : m;
	for (; j < n; j++)
		m = z[j] > m ? z[j] : m;
	return m;
}

namespace nt::cpu
{

// Each head x [d] becomes x r w, r = (mean x^2 + eps)^(-1/2), unless w is NULL; cos, sin [n, d/2] turn it, unless cos is NULL.
CLONES void norm_rope(const float *RESTRICT x, int64_t x_stride, const float *RESTRICT w, const float *RESTRICT cos,
		      const float *RESTRICT sin, float *RESTRICT y, float *RESTRICT inv, int64_t n, int64_t h, int64_t d,
		      float eps)
{
	int64_t half = d / 2, turn = cos ? half : 0;
	for (int64_t i = 0; i < n * h; i++) {
		const float *a = x + i / h * x_stride + i % h * d, *b = a + half, *c = cos + i / h * turn,
			    *s = sin + i / h * turn;
		float *o = y + i * d, r = 1, q = 0;
		if (w) {
			for (int64_t j = 0; j < d; j++)
				q += a[j] * a[j];
			r = 1.0f / std::sqrt(q / static_cast<float>(d) + eps);
		}
		inv[i] = r;
		if (!cos) {
			for (int64_t j = 0; j < d; j++)
				o[j] = a[j] * r * w[j];
		} else if (w) {
			for (int64_t j = 0; j < half; j++) {
				float u = a[j] * r * w[j], v = b[j] * r * w[half + j];
				o[j] = u * c[j] - v * s[j];
				o[half + j] = v * c[j] + u * s[j];
			}
		} else {
			for (int64_t j = 0; j < half; j++) {
				o[j] = a[j] * c[j] - b[j] * s[j];
				o[half + j] = b[j] * c[j] + a[j] * s[j];
			}
		}
	}
}

// The transpose of the rotation, and behind it dx = r (w dy - x r^2 mean(w dy x)), dw += dy x r.
CLONES void norm_rope_back(const float *RESTRICT dy, const float *RESTRICT x, int64_t x_stride, const float *RESTRICT w,
			   const float *RESTRICT cos, const float *RESTRICT sin, const float *RESTRICT inv, float *RESTRICT dx,
			   float *RESTRICT dw, int64_t n, int64_t h, int64_t d)
{
	int64_t half = d / 2, turn = cos ? half : 0;
	for (int64_t i = 0; i < n * h; i++) {
		const float *a = x + i / h * x_stride + i % h * d, *c = cos + i / h * turn, *s = sin + i / h * turn,
			    *g = dy + i * d;
		float *o = dx + i * d, r = inv[i], sum = 0;
		if (cos) {
			for (int64_t j = 0; j < half; j++) {
				o[j] = g[j] * c[j] + g[half + j] * s[j];
				o[half + j] = g[half + j] * c[j] - g[j] * s[j];
			}
		} else {
			std::memcpy(o, g, static_cast<size_t>(d) * sizeof(*o));
		}
		if (!w)
			continue;
		if (dw)
			for (int64_t j = 0; j < d; j++)
				dw[j] += o[j] * a[j] * r;
		for (int64_t j = 0; j < d; j++)
			sum += o[j] * w[j] * a[j];
		float m = sum * r * r / static_cast<float>(d);
		for (int64_t j = 0; j < d; j++)
			o[j] = r * (w[j] * o[j] - a[j] * m);
	}
}

// A gate g is g sigmoid(z): z = g in SwiGLU, and in GeGLU 2 sqrt(2/pi) (g + 0.044715 g^3), since 1 + tanh(x) = 2 sigmoid(2x).
#define GELU 1.5957691216f
#define GELU_CUBE (0.044715f * GELU)

template <bool gelu> INLINE void glu_rows(const float *RESTRICT gu, float *RESTRICT y, int64_t rows, int64_t f)
{
	for (int64_t i = 0; i < rows; i++, gu += 2 * f, y += f)
		for (int64_t j = 0; j < f; j++) {
			float g = gu[j], z = gelu ? g * (GELU + GELU_CUBE * g * g) : g;
			y[j] = g / (1.0f + fexp(-z)) * gu[f + j];
		}
}

template <bool gelu>
INLINE void glu_rows_back(const float *RESTRICT dy, const float *RESTRICT gu, float *RESTRICT dgu, int64_t rows, int64_t f)
{
	for (int64_t i = 0; i < rows; i++, gu += 2 * f, dgu += 2 * f, dy += f)
		for (int64_t j = 0; j < f; j++) {
			float g = gu[j], z = gelu ? g * (GELU + GELU_CUBE * g * g) : g;
			float sig = 1.0f / (1.0f + fexp(-z)), slope = gelu ? GELU + 3 * GELU_CUBE * g * g : 1.0f;
			dgu[j] = dy[j] * gu[f + j] * sig * (1.0f + g * slope * (1.0f - sig));
			dgu[f + j] = dy[j] * g * sig;
		}
}

CLONES void glu(bool gelu, const float *gu, float *y, int64_t rows, int64_t f)
{
	if (gelu)
		glu_rows<true>(gu, y, rows, f);
	else
		glu_rows<false>(gu, y, rows, f);
}

CLONES void glu_back(bool gelu, const float *dy, const float *gu, float *dgu, int64_t rows, int64_t f)
{
	if (gelu)
		glu_rows_back<true>(dy, gu, dgu, rows, f);
	else
		glu_rows_back<false>(dy, gu, dgu, rows, f);
}

// Row t of s [rows, cols] becomes softmax(scale s) over its columns up to before+t, the last `window` of them, zero elsewhere.
// lse is the log of the sum: given, or with `first` found.
CLONES void causal_softmax(bool first, float *s, float *lse, int64_t rows, int64_t cols, int64_t before, int64_t window,
			   float scale)
{
	for (int64_t t = 0; t < rows; t++, s += cols) {
		int64_t n = before + t + 1, from = n > window ? n - window : 0;
		for (int64_t j = 0; j < from; j++)
			s[j] = 0;
		for (int64_t j = n; j < cols; j++)
			s[j] = 0;
		if (!first) {
			float l = lse[t];
			for (int64_t j = from; j < n; j++)
				s[j] = fexp(s[j] * scale - l);
			continue;
		}
		float m = row_max(s + from, n - from), sum = 0;
		for (int64_t j = from; j < n; j++) {
			s[j] = fexp((s[j] - m) * scale);
			sum += s[j];
		}
		float inv = 1.0f / sum;
		for (int64_t j = from; j < n; j++)
			s[j] *= inv;
		lse[t] = m * scale + std::log(sum);
	}
}

CLONES void softmax_back(float *RESTRICT ds, const float *RESTRICT p, const float *RESTRICT delta, int64_t rows, int64_t cols,
			 float scale)
{
	for (int64_t t = 0; t < rows; t++, ds += cols, p += cols) {
		float l = delta[t];
		for (int64_t j = 0; j < cols; j++)
			ds[j] = p[j] * (ds[j] - l) * scale;
	}
}

// One query position, `group` query heads over one key/value head: q, o [group, d]; k, v rows `stride` apart; s: scratch
// [group, length]. Inlined once for each common d, which the compiler then unrolls.
INLINE void decode(const float *RESTRICT q, const float *RESTRICT k, const float *RESTRICT v, float *RESTRICT o,
		   float *RESTRICT s, int64_t length, int64_t stride, int64_t group, int64_t d, float scale)
{
	for (int64_t j = 0; j < length; j++, k += stride)
		for (int64_t g = 0; g < group; g++) {
			float x = 0;
			for (int64_t i = 0; i < d; i++)
				x += q[g * d + i] * k[i];
			s[g * length + j] = x * scale;
		}
	for (int64_t g = 0; g < group; g++, s += length, o += d) {
		float m = row_max(s, length), sum = 0;
		for (int64_t j = 0; j < length; j++) {
			s[j] = fexp(s[j] - m);
			sum += s[j];
		}
		for (int64_t i = 0; i < d; i++)
			o[i] = 0;
		for (int64_t j = 0; j < length; j++) {
			const float *vj = v + j * stride;
			float p = s[j];
			for (int64_t i = 0; i < d; i++)
				o[i] += p * vj[i];
		}
		float inv = 1.0f / sum;
		for (int64_t i = 0; i < d; i++)
			o[i] *= inv;
	}
}

CLONES void decode_row(const float *q, const float *k, const float *v, float *o, float *s, int64_t length, int64_t stride,
		       int64_t group, int64_t d, float scale)
{
	switch (d) {
	case 32: decode(q, k, v, o, s, length, stride, group, 32, scale); break;
	case 64: decode(q, k, v, o, s, length, stride, group, 64, scale); break;
	case 128: decode(q, k, v, o, s, length, stride, group, 128, scale); break;
	default: decode(q, k, v, o, s, length, stride, group, d, scale);
	}
}

const int64_t block = 1024; // of a row of logits: within it fp32 adds numbers of like size, beyond it double

// The sum of exp(y), y = (z - m) inv_t; *mean grows by that of exp(y) y, where a weight of zero counts zero, whatever y.
INLINE double block_sum(const float *z, int64_t n, float m, float inv_t, double *mean = nullptr)
{
	float s = 0, t = 0;
	for (int64_t j = 0; j < n; j++) {
		float y = (z[j] - m) * inv_t, e = fexp(y);
		s += e;
		t += e * (y < -100.0f ? -100.0f : y);
	}
	if (mean)
		*mean += t;
	return s;
}

INLINE int64_t block_size(int64_t v, int64_t at) { return v - at < block ? v - at : block; }

INLINE double exp_sum(const float *z, int64_t v, float m, float inv_t, double *mean = nullptr)
{
	double total = 0;
	for (int64_t i = 0; i < v; i += block)
		total += block_sum(z + i, block_size(v, i), m, inv_t, mean);
	return total;
}

CLONES void logprob_row(const float *z, int64_t v, int64_t id, float inv_t, float *logprob, float *lz, float *entropy)
{
	float m = row_max(z, v);
	double mean = 0, total = entropy ? exp_sum(z, v, m, inv_t, &mean) : exp_sum(z, v, m, inv_t);
	double log_total = std::log(total);
	*lz = static_cast<float>(m * inv_t + log_total);
	*logprob = static_cast<float>((z[id] - m) * inv_t - log_total);
	if (entropy) // H = log_total - E[y]
		*entropy = static_cast<float>(log_total - mean / total);
}

// z becomes d loss / d z for loss = g logprob: g inv_t (onehot - softmax)
CLONES void logprob_row_back(float *z, int64_t v, int64_t id, float inv_t, float lz, float g)
{
	float c = -g * inv_t;
	for (int64_t j = 0; j < v; j++)
		z[j] = fexp(z[j] * inv_t - lz) * c;
	z[id] += g * inv_t;
}

// The first token at which the running sum of weights reaches u of the total. Whole blocks are skipped by their sums; what
// rounding leaves at the end goes to the last token of non-zero weight, so one without weight is never drawn.
CLONES int64_t sample_row(const float *z, int64_t v, float u, float temperature, float *logprob)
{
	float m = row_max(z, v);
	if (temperature == 0) {
		int64_t best = 0;
		while (best < v - 1 && !(z[best] >= m))
			best++;
		*logprob = static_cast<float>(-std::log(exp_sum(z, v, m, 1.0f)));
		return best;
	}
	float inv_t = 1.0f / temperature;
	double total = exp_sum(z, v, m, inv_t), want = u * total, before = 0;
	int64_t at = 0, id = 0;
	for (int64_t i = 0; i < v; i += block) {
		double s = block_sum(z + i, block_size(v, i), m, inv_t);
		if (!(s > 0))
			continue;
		at = i;
		if (before + s >= want)
			break;
		before += s;
	}
	float weight[block];
	int64_t n = block_size(v, at);
	for (int64_t j = 0; j < n; j++)
		weight[j] = fexp((z[at + j] - m) * inv_t);
	for (int64_t j = 0; j < n; j++) {
		if (!(weight[j] > 0))
			continue;
		id = at + j;
		before += weight[j];
		if (before >= want)
			break;
	}
	*logprob = static_cast<float>((z[id] - m) * inv_t - std::log(total));
	return id;
}

} // namespace nt::cpu
