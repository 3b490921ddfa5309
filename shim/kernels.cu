// The GPU's own kernels, for decoding a token and for training. One source for two compilers: NVRTC for the card (nt_cuda.cpp),
// and for the tests g++ with an emulator's header in front of it (tests/emulator), which defines EMULATED.
//
// Defined for a model when it is compiled: T, the type of its numbers, bf16 or float; for attention HEAD and GROUP: that many
// query heads share a key head of HEAD numbers. Rows of tokens are blocks, so what a row gets depends on no other row.
// Statistics and sums are fp32 whatever T is.
#ifndef EMULATED
typedef unsigned short u16;
struct bf16 {
	u16 bits;
};
#define SHARED(type, name, size) __shared__ type name[size]
#define KERNEL(name) extern "C" __global__ void name
#define NEGATIVE_INFINITY __int_as_float(0xff800000)
#define UNROLL _Pragma("unroll")
__device__ inline float up(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ inline void down(bf16 *p, float x) // to nearest, ties to even
{
	unsigned u = __float_as_uint(x);
	p->bits = x != x ? 0x7fff : (u16)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
#endif
typedef long long i64;
#define ALL 0xffffffffu

__device__ inline float up(float x) { return x; }
__device__ inline void down(float *p, float x) { *p = x; }

template <class N> __device__ inline N warp_sum(N x)
{
	for (int i = 16; i; i >>= 1)
		x += __shfl_xor_sync(ALL, x, i);
	return x;
}

// Numbers j .. j + 7 of a row of n: one load where n is a multiple of 8, since every row is then aligned.
#define EIGHT 8
struct alignas(16) Eight {
	T x[EIGHT];
};

__device__ inline Eight eight(const T *row, int j, int n)
{
	Eight e = {};
	if (n % EIGHT == 0)
		return *(const Eight *)(row + j);
	for (int i = 0; i < EIGHT && j + i < n; i++)
		e.x[i] = row[j + i];
	return e;
}

__device__ inline void put_eight(T *row, const Eight &e, int j, int n)
{
	if (n % EIGHT == 0)
		*(Eight *)(row + j) = e;
	else
		for (int i = 0; i < EIGHT && j + i < n; i++)
			row[j + i] = e.x[i];
}

// ---- heads: x [rows, heads, d], a row's `stride` numbers apart, norms w [d] or NULL, cos, sin [rows, d/2]; a warp a head ----

__device__ inline float inverse_norm(const T *x, int d, float eps)
{
	float s = 0;
	for (int j = threadIdx.x; j < d; j += 32)
		s += up(x[j]) * up(x[j]);
	return rsqrtf(warp_sum(s) / d + eps);
}

// o = the rotation of x r w
__device__ inline void turn(const T *x, const float *w, const float *cos, const float *sin, T *o, int d, float eps)
{
	int half = d / 2;
	float r = w ? inverse_norm(x, d, eps) : 1;
	for (int j = threadIdx.x; j < half; j += 32) {
		float a = up(x[j]) * r, b = up(x[half + j]) * r;
		if (w) {
			a *= w[j];
			b *= w[half + j];
		}
		down(o + j, a * cos[j] - b * sin[j]);
		down(o + half + j, b * cos[j] + a * sin[j]);
	}
}

// grid (rows, heads): y [rows, heads, d]
KERNEL(qk_rope)(const T *x, i64 stride, const float *w, const float *cos, const float *sin, T *y, int d, float eps)
{
	i64 row = blockIdx.x, h = blockIdx.y, t = row * (d / 2);
	turn(x + row * stride + h * d, w, cos + t, sin + t, y + (row * gridDim.y + h) * d, d, eps);
}

// With g = the rotation of dy back: dx = g, or r (w g - x r^2 mean(w g x)).
KERNEL(qk_rope_back)(const T *dy, const T *x, i64 stride, const float *w, const float *cos, const float *sin, T *dx, int d,
		     float eps)
{
	int half = d / 2;
	i64 row = blockIdx.x, h = blockIdx.y, at = (row * gridDim.y + h) * d;
	x += row * stride + h * d;
	dy += at;
	dx += at;
	cos += row * half;
	sin += row * half;
	float r = w ? inverse_norm(x, d, eps) : 1, m = 0;
	for (int j = threadIdx.x; w && j < half; j += 32) {
		float a = up(dy[j]), b = up(dy[half + j]);
		m += (a * cos[j] + b * sin[j]) * w[j] * up(x[j]);
		m += (b * cos[j] - a * sin[j]) * w[half + j] * up(x[half + j]);
	}
	m = w ? warp_sum(m) * r * r / d : 0;
	for (int j = threadIdx.x; j < half; j += 32) {
		float a = up(dy[j]), b = up(dy[half + j]), g = a * cos[j] + b * sin[j], n = b * cos[j] - a * sin[j];
		down(dx + j, w ? r * (w[j] * g - up(x[j]) * m) : g);
		down(dx + half + j, w ? r * (w[half + j] * n - up(x[half + j]) * m) : n);
	}
}

// ---- a new token's heads: the keys and values straight into the cache ----

// grid (Hq + 2 Hkv, rows), a warp each. q, k, v: rows of `stride` numbers; w: norms [d] fp32 or NULL; cos, sin [rows, d/2];
// out [rows, Hq, d]; caches [slots, positions, Hkv, d].
KERNEL(rope_cached)(const T *q, const T *k, const T *v, i64 q_stride, i64 k_stride, i64 v_stride, const float *q_norm,
		    const float *k_norm, const float *cos, const float *sin, T *out, T *k_cache, T *v_cache, const i64 *slot,
		    const i64 *position, i64 positions, int hq, int hkv, int d, float eps)
{
	int head = blockIdx.x;
	i64 row = blockIdx.y, at = (slot[row] * positions + position[row]) * hkv;
	bool query = head < hq, key = !query && head < hq + hkv;
	int h = query ? head : key ? head - hq : head - hq - hkv;
	const T *a = (query ? q + row * q_stride : key ? k + row * k_stride : v + row * v_stride) + (i64)h * d;
	T *o = query ? out + (row * hq + h) * d : (key ? k_cache : v_cache) + (at + h) * d;
	if (query || key)
		return turn(a, query ? q_norm : k_norm, cos + row * (d / 2), sin + row * (d / 2), o, d, eps);
	for (int j = threadIdx.x; j < d; j += 32)
		o[j] = a[j];
}

// ---- SwiGLU and GeGLU: gate_up [rows, 2f], gate first -> y [rows, f]; grid (rows, parts of a row) ----

// A gate g is g sigmoid(z): z = g, and with gelu 2 sqrt(2/pi) (g + 0.044715 g^3), since 1 + tanh(x) = 2 sigmoid(2x).
#define GELU 1.5957691216f
#define GELU_CUBE (0.044715f * GELU)
__device__ inline float glu_sigmoid(float g, int gelu)
{
	return 1.0f / (1.0f + expf(gelu ? -g * (GELU + GELU_CUBE * g * g) : -g));
}

KERNEL(glu)(const T *gate_up, T *y, int f, int gelu)
{
	const T *gate = gate_up + (i64)blockIdx.x * 2 * f;
	y += (i64)blockIdx.x * f;
	for (int j = EIGHT * (blockIdx.y * blockDim.x + threadIdx.x); j < f; j += EIGHT * gridDim.y * blockDim.x) {
		Eight g = eight(gate, j, f), u = eight(gate + f, j, f), o = {};
		for (int i = 0; i < EIGHT; i++)
			down(o.x + i, up(g.x[i]) * glu_sigmoid(up(g.x[i]), gelu) * up(u.x[i]));
		put_eight(y, o, j, f);
	}
}

// d: the gradient of gate_up
KERNEL(glu_back)(const T *dy, const T *gate_up, T *d, int f, int gelu)
{
	const T *gate = gate_up + (i64)blockIdx.x * 2 * f;
	d += (i64)blockIdx.x * 2 * f;
	dy += (i64)blockIdx.x * f;
	for (int j = EIGHT * (blockIdx.y * blockDim.x + threadIdx.x); j < f; j += EIGHT * gridDim.y * blockDim.x) {
		Eight gs = eight(gate, j, f), us = eight(gate + f, j, f), ys = eight(dy, j, f), dg = {}, du = {};
		for (int i = 0; i < EIGHT; i++) {
			float g = up(gs.x[i]), u = up(us.x[i]), sig = glu_sigmoid(g, gelu), y = up(ys.x[i]);
			float slope = gelu ? GELU + 3 * GELU_CUBE * g * g : 1.0f; // of z
			down(dg.x + i, y * u * sig * (1.0f + g * slope * (1.0f - sig)));
			down(du.x + i, y * g * sig);
		}
		put_eight(d, dg, j, f);
		put_eight(d + f, du, j, f);
	}
}

// ---- gradients of keys and values that several rows of a tree read ----

// grid (n, 2): to[i] = the sum of from[place[j]], start[i] <= j < start[i + 1], in that order; rows of `width` numbers
KERNEL(key_sum)(const T *dk, const T *dv, const int *start, const int *place, T *k, T *v, int width)
{
	const T *from = blockIdx.y ? dv : dk;
	T *to = (blockIdx.y ? v : k) + (i64)blockIdx.x * width;
	for (int e = threadIdx.x; e < width; e += blockDim.x) {
		float sum = 0;
		for (int j = start[blockIdx.x]; j < start[blockIdx.x + 1]; j++)
			sum += up(from[(i64)place[j] * width + e]);
		down(to + e, sum);
	}
}

// ---- attention of one token a row over the first length[row] positions of its slab, the last `window` of them ----

#ifdef HEAD
#define WARPS 4
#define PER ((HEAD + 31) / 32) /* components that a lane holds */
#define AT_ONCE (HEAD % 32 == 0 && (PER & (PER - 1)) == 0) /* a lane loads them in one go, for which they must be aligned */
struct alignas(AT_ONCE ? sizeof(T) * PER : sizeof(T)) Lane {
	T x[PER];
};

__device__ inline void load(float *to, const T *from, int lane)
{
	Lane part = {};
	if (lane * PER < HEAD)
		part = *(const Lane *)(from + lane * PER);
	for (int i = 0; i < PER; i++)
		to[i] = up(part.x[i]);
}

// grid (splits, Hkv, rows), WARPS warps, of which each takes KEYS keys at once, for their loads to overlap. A split leaves its
// largest score, its sum and its weighted values in part [rows, Hkv, splits, GROUP, HEAD + 2].
#define KEYS 4
KERNEL(decode_split)(const T *q, const T *k, const T *v, const i64 *slot, const i64 *length, float *part, i64 positions,
		     i64 window, int hkv, float scale)
{
	SHARED(float, value, WARPS *GROUP *HEAD);
	SHARED(float, most, WARPS *GROUP);
	SHARED(float, total, WARPS *GROUP);
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, h = blockIdx.y;
	i64 row = blockIdx.z, n = length[row], first = n > window ? n - window : 0;
	i64 each = (n - first + gridDim.x - 1) / gridDim.x;
	i64 from = first + blockIdx.x * each, to = from + each < n ? from + each : n;
	float qs[GROUP][PER], acc[GROUP][PER], m[GROUP], l[GROUP], kx[KEYS][PER], vx[KEYS][PER];
	for (int g = 0; g < GROUP; g++) {
		m[g] = NEGATIVE_INFINITY;
		l[g] = 0;
		load(qs[g], q + ((row * hkv + h) * GROUP + g) * HEAD, lane);
		for (int i = 0; i < PER; i++) {
			qs[g][i] *= scale;
			acc[g][i] = 0;
		}
	}
	for (i64 j = from + warp * KEYS; j < to; j += WARPS * KEYS) {
		UNROLL
		for (int c = 0; c < KEYS; c++) { // past the end the last key again, which counts for nothing
			i64 at = ((slot[row] * positions + (j + c < to ? j + c : to - 1)) * hkv + h) * HEAD;
			load(kx[c], k + at, lane);
			load(vx[c], v + at, lane);
		}
		UNROLL
		for (int g = 0; g < GROUP; g++) {
			float s[KEYS], top = m[g];
			for (int c = 0; c < KEYS; c++) {
				s[c] = 0;
				for (int i = 0; i < PER; i++)
					s[c] += qs[g][i] * kx[c][i];
				s[c] = warp_sum(s[c]);
				s[c] = j + c < to ? s[c] : NEGATIVE_INFINITY;
				top = fmaxf(top, s[c]);
			}
			float keep = expf(m[g] - top);
			m[g] = top;
			l[g] *= keep;
			for (int i = 0; i < PER; i++)
				acc[g][i] *= keep;
			for (int c = 0; c < KEYS; c++) {
				float p = expf(s[c] - top);
				l[g] += p;
				for (int i = 0; i < PER; i++)
					acc[g][i] += p * vx[c][i];
			}
		}
	}
	for (int g = 0; g < GROUP; g++) {
		for (int i = 0; i < PER && lane * PER < HEAD; i++)
			value[(warp * GROUP + g) * HEAD + lane * PER + i] = acc[g][i];
		if (lane == 0) {
			most[warp * GROUP + g] = m[g];
			total[warp * GROUP + g] = l[g];
		}
	}
	__syncthreads();
	float *o = part + ((row * hkv + h) * gridDim.x + blockIdx.x) * GROUP * (HEAD + 2);
	for (int g = 0; g < GROUP; g++, o += HEAD + 2) {
		float top = NEGATIVE_INFINITY, c[WARPS], sum = 0;
		for (int i = 0; i < WARPS; i++)
			top = fmaxf(top, most[i * GROUP + g]);
		for (int i = 0; i < WARPS; i++) {
			c[i] = total[i * GROUP + g] == 0 ? 0.0f : expf(most[i * GROUP + g] - top); // NaN stays NaN
			sum += c[i] * total[i * GROUP + g];
		}
		for (int e = threadIdx.x; e < HEAD; e += blockDim.x) {
			float x = 0;
			for (int i = 0; i < WARPS; i++)
				x += c[i] > 0 ? c[i] * value[(i * GROUP + g) * HEAD + e] : 0.0f;
			o[e] = x;
		}
		if (threadIdx.x == 0) {
			o[HEAD] = top;
			o[HEAD + 1] = sum;
		}
	}
}

// grid (Hq, rows): o [rows, Hq, HEAD]
KERNEL(decode_join)(const float *part, T *o, int splits)
{
	i64 row = blockIdx.y, h = blockIdx.x / GROUP, g = blockIdx.x % GROUP, hkv = gridDim.x / GROUP;
	const float *p = part + ((row * hkv + h) * splits * GROUP + g) * (HEAD + 2);
	const i64 step = GROUP * (HEAD + 2);
	float top = NEGATIVE_INFINITY;
	for (int i = 0; i < splits; i++)
		top = fmaxf(top, p[i * step + HEAD]);
	for (int e = threadIdx.x; e < HEAD; e += blockDim.x) {
		float sum = 0, x = 0;
		for (int i = 0; i < splits; i++) {
			float n = p[i * step + HEAD + 1], c = n == 0 ? 0.0f : expf(p[i * step + HEAD] - top);
			sum += c * n;
			x += c * p[i * step + e];
		}
		down(o + (row * gridDim.x + blockIdx.x) * HEAD + e, x / sum);
	}
}
#endif

// ---- sampling: logits [rows, v] fp32, u [rows] -> ids, log-probabilities; a block of up to 32 warps a row ----

// The first token whose cumulative weight reaches u of the total; temperature 0: the largest logit, the first of equals.
KERNEL(sample)(const float *logits, const float *u, i64 *ids, float *logprob, int v, float temperature)
{
	SHARED(float, most, 32);
	SHARED(int, first, 32);
	SHARED(double, weight, 32);
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5, each = (v + warps - 1) / warps;
	int from = warp * each,
	    to = from + each < v ? from + each : v; // of this warp
	const float *z = logits + (i64)blockIdx.x * v;
	float scale = temperature > 0 ? 1 / temperature : 1, m = NEGATIVE_INFINITY;
	int best = v;
	for (int j = from + lane; j < to; j += 32)
		if (z[j] > m) {
			m = z[j];
			best = j;
		}
	for (int i = 16; i; i >>= 1) {
		float other = __shfl_xor_sync(ALL, m, i);
		int its = __shfl_xor_sync(ALL, best, i);
		if (other > m || (other == m && its < best)) {
			m = other;
			best = its;
		}
	}
	if (lane == 0) {
		most[warp] = m;
		first[warp] = best;
	}
	__syncthreads();
	for (int i = 0; i < warps; i++)
		if (most[i] > m || (most[i] == m && first[i] < best)) {
			m = most[i];
			best = first[i];
		}
	double sum = 0;
	for (int j = from + lane; j < to; j += 32)
		sum += expf((z[j] - m) * scale);
	sum = warp_sum(sum);
	if (lane == 0)
		weight[warp] = sum;
	__syncthreads();
	double total = 0, before = 0, want;
	for (int i = 0; i < warps; i++)
		total += weight[i];
	want = u[blockIdx.x] * total;
	int owner = warps - 1; // the warp that draws
	for (int i = 0; i < warps - 1; i++) {
		if (before + weight[i] >= want) {
			owner = i;
			break;
		}
		before += weight[i];
	}
	if (temperature == 0) {
		owner = 0;
	} else if (warp == owner) {
		best = -1;
		for (int j = from; j < to && best < 0; j += 32) {
			double s = j + lane < to ? expf((z[j + lane] - m) * scale) : 0.0f;
			bool some = s > 0;
			for (int i = 1; i < 32; i <<= 1) {
				double below = __shfl_sync(ALL, s, lane - i < 0 ? lane : lane - i);
				s += lane - i < 0 ? 0 : below;
			}
			int mine = some && before + s >= want ? j + lane : v;
			for (int i = 16; i; i >>= 1) {
				int its = __shfl_xor_sync(ALL, mine, i);
				mine = its < mine ? its : mine;
			}
			best = mine < v ? mine : -1;
			before += __shfl_sync(ALL, s, 31);
		}
		for (int j = to - 1; best < 0 && j >= from; j--) // rounding left none: the last that has a weight
			if (expf((z[j] - m) * scale) > 0)
				best = j;
	}
	if (warp == owner && lane == 0) {
		best = best < 0 || best >= v ? 0 : best;
		ids[blockIdx.x] = best;
		logprob[blockIdx.x] = (float)((z[best] - m) * scale - log(total));
	}
}
