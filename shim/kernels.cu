// The GPU's own kernels that training and decoding share; those of decoding alone follow in decode.cu. One source for two
// compilers: NVRTC for the card (nt_cuda.cpp), and for the tests g++ with an emulator's header in front of it (tests/emulator),
// which defines EMULATED.
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
#define KERNEL_OF(name, threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks) name
#define NEGATIVE_INFINITY __int_as_float(0xff800000)
#define UNROLL _Pragma("unroll")
#define UNROLL_8 _Pragma("unroll 8")
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

// Of each so many lanes, a power of two.
template <int lanes, class N> __device__ inline N lanes_sum(N x)
{
	for (int i = lanes / 2; i; i >>= 1)
		x += __shfl_xor_sync(ALL, x, i);
	return x;
}

template <class N> __device__ inline N warp_sum(N x) { return lanes_sum<32>(x); }

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

// ---- RMS norm: x [rows, d] -> y = x r w, r = (mean x^2 + eps)^(-1/2); a block of up to 32 warps a row. w [d]: `wide` in
// fp32, if it is not NULL ----

__device__ inline float block_sum(float x, float *part) // part [32]: shared, of this sum alone
{
	x = warp_sum(x);
	if (threadIdx.x % 32 == 0)
		part[threadIdx.x / 32] = x;
	__syncthreads();
	x = 0;
	for (int i = 0; i < (int)blockDim.x / 32; i++)
		x += part[i];
	return x;
}

__device__ inline void gains(float *to, const T *w, const float *wide, int j, int d)
{
	Eight e = wide ? Eight() : eight(w, j, d);
	for (int i = 0; i < EIGHT; i++)
		to[i] = !wide ? up(e.x[i]) : j + i < d ? wide[j + i] : 0.0f;
}

KERNEL_OF(rms_norm, 1024, 1)(const T *x, const T *w, const float *wide, T *y, int d, float eps)
{
	SHARED(float, part, 32);
	int own = EIGHT * threadIdx.x; // loaded at once, and kept: of most models it is all that the thread has
	float sum = 0, gain[EIGHT];
	x += (i64)blockIdx.x * d;
	y += (i64)blockIdx.x * d;
	Eight first = {};
	if (own < d) {
		first = eight(x, own, d);
		gains(gain, w, wide, own, d);
	}
	for (int j = own; j < d; j += EIGHT * blockDim.x) {
		Eight e = j == own ? first : eight(x, j, d);
		for (int i = 0; i < EIGHT; i++)
			sum += up(e.x[i]) * up(e.x[i]);
	}
	float r = rsqrtf(block_sum(sum, part) / d + eps);
	for (int j = own; j < d; j += EIGHT * blockDim.x) {
		Eight e = first;
		if (j > own) {
			e = eight(x, j, d);
			gains(gain, w, wide, j, d);
		}
		for (int i = 0; i < EIGHT; i++)
			down(e.x + i, up(e.x[i]) * r * gain[i]);
		put_eight(y, e, j, d);
	}
}

// dx = r (w dy - x r^2 mean(w dy x))
KERNEL_OF(rms_norm_back, 1024, 1)(const T *dy, const T *x, const T *w, const float *wide, T *dx, int d, float eps)
{
	SHARED(float, part, 32);
	SHARED(float, other, 32);
	float sum = 0, dot = 0, gain[EIGHT];
	dy += (i64)blockIdx.x * d;
	x += (i64)blockIdx.x * d;
	dx += (i64)blockIdx.x * d;
	for (int j = EIGHT * threadIdx.x; j < d; j += EIGHT * blockDim.x) {
		Eight e = eight(x, j, d), g = eight(dy, j, d);
		gains(gain, w, wide, j, d);
		for (int i = 0; i < EIGHT; i++) {
			sum += up(e.x[i]) * up(e.x[i]);
			dot += up(e.x[i]) * up(g.x[i]) * gain[i];
		}
	}
	float r = rsqrtf(block_sum(sum, part) / d + eps), m = block_sum(dot, other) * r * r / d;
	for (int j = EIGHT * threadIdx.x; j < d; j += EIGHT * blockDim.x) {
		Eight e = eight(x, j, d), g = eight(dy, j, d);
		gains(gain, w, wide, j, d);
		for (int i = 0; i < EIGHT; i++)
			down(e.x + i, r * (gain[i] * up(g.x[i]) - up(e.x[i]) * m));
		put_eight(dx, e, j, d);
	}
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
