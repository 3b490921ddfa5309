// The GPU's kernels (shim/kernels.cu, shim/decode.cu) on the emulator against the same in double precision: every kernel in bf16 and fp32, in three
// orders of threads, which must agree bit for bit. Built a second time under AddressSanitizer, and under ThreadSanitizer with SMALL
// grids, where a thread costs much. Exits 1 on the first number that is off.
#include "tests/emulator/cuda_emu.h"

#define NAME wide
#define T bf16
#define HEAD 128
#define GROUP 4
#include "tests/emulator/kernels.h"
#define NAME wide_float
#define T float
#define HEAD 128
#define GROUP 4
#include "tests/emulator/kernels.h"
#define NAME narrow
#define T bf16
#define HEAD 16
#define GROUP 3
#include "tests/emulator/kernels.h"
#define NAME narrow_float
#define T float
#define HEAD 16
#define GROUP 3
#include "tests/emulator/kernels.h"
#define NAME odd
#define T bf16
#define HEAD 80
#define GROUP 16
#include "tests/emulator/kernels.h"
#define NAME many
#define T bf16
#define HEAD 100
#define GROUP 5
#include "tests/emulator/kernels.h"
#define NAME small_head
#define T bf16
#define HEAD 64
#define GROUP 3
#include "tests/emulator/kernels.h"
#define NAME large_head
#define T bf16
#define HEAD 256
#define GROUP 2
#include "tests/emulator/kernels.h"
using wide::down;
using wide::i64;
using wide::up;

#ifdef SMALL
static const bool small = true;
#else
static const bool small = false;
#endif

static std::mt19937 rng(1);
static uint64_t seen; // hash of all results of a round

static void note(const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		seen = (seen ^ static_cast<const unsigned char *>(p)[i]) * 1099511628211u;
}

template <class T> static std::vector<T> normal(size_t n, float size = 1)
{
	std::normal_distribution<float> d;
	std::vector<T> v(n);
	for (T &x : v)
		down(&x, d(rng) * size);
	return v;
}

template <class T> static double precision() { return sizeof(T) == 2 ? 0.004 : 2e-6; } // half a step of bf16; fp32 sums

// Fails when the error is above `limit` or no number.
static void within(const char *what, double error, double limit)
{
	if (!(error <= limit)) {
		printf("%s: off by %g, at most %g allowed\n", what, error, limit);
		exit(1);
	}
}

static double off(double want, double got) { return fabs(want - got) / (fabs(want) + 0.1); }

// Norm and rotation of one head: y, and with dy the gradient of x, by the chain rule written out.
static std::vector<double> turned(const std::vector<double> &x, const double *w, const float *cos, const float *sin, const double *dy)
{
	size_t d = x.size(), half = d / 2;
	double s = 0, m = 0;
	for (double a : x)
		s += a * a;
	double r = w ? 1 / sqrt(s / double(d) + 1e-6) : 1;
	std::vector<double> y(d), g(d);
	for (size_t j = 0; j < half; j++) {
		double a = x[j] * r * (w ? w[j] : 1), b = x[half + j] * r * (w ? w[half + j] : 1);
		y[j] = a * cos[j] - b * sin[j];
		y[half + j] = b * cos[j] + a * sin[j];
		if (!dy)
			continue;
		g[j] = (dy[j] * cos[j] + dy[half + j] * sin[j]) * (w ? w[j] : 1);
		g[half + j] = (dy[half + j] * cos[j] - dy[j] * sin[j]) * (w ? w[half + j] : 1);
	}
	for (size_t j = 0; dy && j < d; j++)
		m += g[j] * x[j] * r * r / double(d);
	for (size_t j = 0; j < d; j++)
		g[j] = w ? r * (g[j] - x[j] * m) : g[j];
	return dy ? g : y;
}

template <class T> static std::vector<double> wide_of(const T *x, int n)
{
	std::vector<double> y;
	for (int i = 0; i < n; i++)
		y.push_back(up(x[i]));
	return y;
}

template <class T, class F, class B> static void check_turn(F &&forward, B &&backward, bool norm, int d)
{
	const int n = small ? 2 : 5, h = 3, stride = (h + 2) * d;
	auto x = normal<T>(n * stride), dy = normal<T>(n * h * d);
	auto w = normal<float>(d);
	std::vector<T> y(dy.size()), dx(dy.size());
	std::vector<float> c(n * d / 2), s(c.size());
	for (size_t i = 0; i < c.size(); i++) {
		c[i] = cosf(0.3f * float(i));
		s[i] = sinf(0.3f * float(i));
	}
	const float *at = norm ? w.data() : nullptr;
	emu::launch(dim3(n, h), 32, [&] { forward(x.data(), stride, at, c.data(), s.data(), y.data(), d, 1e-6f); });
	emu::launch(dim3(n, h), 32, [&] { backward(dy.data(), x.data(), stride, at, c.data(), s.data(), dx.data(), d, 1e-6f); });
	auto ws = wide_of(w.data(), d);
	for (int i = 0; i < n; i++)
		for (int k = 0; k < h; k++) {
			auto head = wide_of(x.data() + i * stride + k * d, d), up_there = wide_of(dy.data() + (i * h + k) * d, d);
			const float *ci = c.data() + i * d / 2, *si = s.data() + i * d / 2;
			auto want = turned(head, norm ? ws.data() : nullptr, ci, si, nullptr);
			auto back = turned(head, norm ? ws.data() : nullptr, ci, si, up_there.data());
			for (int j = 0; j < d; j++) {
				within("qk_rope", off(want[j], up(y[(i * h + k) * d + j])), 2 * precision<T>());
				within("qk_rope_back", off(back[j], up(dx[(i * h + k) * d + j])), 2 * precision<T>());
			}
		}
	note(y.data(), y.size() * sizeof(T));
	note(dx.data(), dx.size() * sizeof(T));
}

// w in the type of x, or in fp32.
template <class T, class F, class B> static void check_norm(F &&forward, B &&backward, bool fp32, int d)
{
	const int rows = 3, threads = small ? 32 : 96;
	auto x = normal<T>(rows * d, 3), dy = normal<T>(rows * d), w = normal<T>(d);
	auto wide = normal<float>(d);
	std::vector<T> y(x.size()), dx(x.size());
	const T *own = fp32 ? nullptr : w.data();
	const float *other = fp32 ? wide.data() : nullptr;
	emu::launch(rows, threads, [&] { forward(x.data(), own, other, y.data(), d, 1e-6f); });
	emu::launch(rows, threads, [&] { backward(dy.data(), x.data(), own, other, dx.data(), d, 1e-6f); });
	for (int i = 0; i < rows; i++) {
		double sum = 0, dot = 0;
		auto a = wide_of(x.data() + i * d, d), g = wide_of(dy.data() + i * d, d);
		auto gain = fp32 ? wide_of(wide.data(), d) : wide_of(w.data(), d);
		for (int j = 0; j < d; j++) {
			sum += a[j] * a[j];
			dot += a[j] * g[j] * gain[j];
		}
		double r = 1 / sqrt(sum / d + 1e-6);
		for (int j = 0; j < d; j++) {
			within("rms_norm", off(a[j] * r * gain[j], up(y[i * d + j])), 2 * precision<T>());
			within("rms_norm_back", off(r * (gain[j] * g[j] - a[j] * dot * r * r / d), up(dx[i * d + j])), 2 * precision<T>());
		}
	}
	note(y.data(), y.size() * sizeof(T));
	note(dx.data(), dx.size() * sizeof(T));
}

template <class T, class F> static void check_key_sum(F &&kernel)
{
	const int n = 4, width = small ? 40 : 300;
	std::vector<int> start = {0, 3, 4, 4, 6}, place = {4, 0, 2, 1, 3, 5}; // token 2 is read by nobody
	auto dk = normal<T>(6 * width), dv = normal<T>(6 * width);
	std::vector<T> k(n * width), v(k.size());
	emu::launch(dim3(n, 2), 64, [&] { kernel(dk.data(), dv.data(), start.data(), place.data(), k.data(), v.data(), width); });
	for (int i = 0; i < n * width; i++) {
		double a = 0, b = 0;
		for (int j = start[i / width]; j < start[i / width + 1]; j++) {
			a += up(dk[place[j] * width + i % width]);
			b += up(dv[place[j] * width + i % width]);
		}
		within("key_sum", off(a, up(k[i])) + off(b, up(v[i])), 2 * precision<T>());
	}
	note(k.data(), k.size() * sizeof(T));
	note(v.data(), v.size() * sizeof(T));
}

template <class T, class F> static void check_rope(F &&kernel, bool norm, int d)
{
	const int n = 3, hq = 4, hkv = 2, slots = 4, positions = 5, wide = (hq + 2 * hkv) * d;
	auto all = normal<T>(n * wide), kc = normal<T>(slots * positions * hkv * d);
	auto wq = normal<float>(d), wk = normal<float>(d);
	std::vector<T> vc = kc, before = kc, out(n * hq * d);
	std::vector<float> c(n * d / 2), s(c.size());
	std::vector<i64> slot = {2, 0, 3}, position = {4, 0, 2};
	for (size_t i = 0; i < c.size(); i++) {
		c[i] = cosf(0.3f * float(i));
		s[i] = sinf(0.3f * float(i));
	}
	const T *q = all.data(), *k = q + hq * d, *v = k + hkv * d;
	emu::launch(dim3(hq + 2 * hkv, n), 32, [&] {
		kernel(q, k, v, wide, wide, wide, norm ? wq.data() : nullptr, norm ? wk.data() : nullptr, c.data(), s.data(), out.data(),
		       kc.data(), vc.data(), slot.data(), position.data(), positions, hq, hkv, d, 1e-6f);
	});
	std::vector<bool> written(kc.size());
	auto check = [&](const T *x, const float *w, int row, const T *got) {
		double sum = 0;
		for (int j = 0; j < d; j++)
			sum += double(up(x[j])) * up(x[j]);
		double r = norm ? 1 / sqrt(sum / d + 1e-6) : 1;
		for (int j = 0; j < d / 2; j++) {
			double a = up(x[j]) * r * (norm ? w[j] : 1), b = up(x[d / 2 + j]) * r * (norm ? w[d / 2 + j] : 1);
			double cj = c[row * d / 2 + j], sj = s[row * d / 2 + j];
			within("rope_cached", off(a * cj - b * sj, up(got[j])), 2 * precision<T>());
			within("rope_cached", off(b * cj + a * sj, up(got[d / 2 + j])), 2 * precision<T>());
		}
	};
	for (int i = 0; i < n; i++) {
		for (int h = 0; h < hq; h++)
			check(q + i * wide + h * d, wq.data(), i, out.data() + (i * hq + h) * d);
		for (int h = 0; h < hkv; h++) {
			size_t at = size_t(((slot[i] * positions + position[i]) * hkv + h) * d);
			check(k + i * wide + h * d, wk.data(), i, kc.data() + at);
			for (int j = 0; j < d; j++) {
				within("the value", fabs(up(v[i * wide + h * d + j]) - up(vc[at + j])), 0);
				written[at + j] = true;
			}
		}
	}
	for (size_t i = 0; i < kc.size(); i++)
		if (!written[i])
			within("another place of the cache", fabs(up(kc[i]) - up(before[i])) + fabs(up(vc[i]) - up(before[i])), 0);
	note(kc.data(), kc.size() * sizeof(T));
	note(out.data(), out.size() * sizeof(T));
}

// The gate's derivative from its value a little to both sides.
template <class T, class F, class B> static void check_glu(F &&forward, B &&backward, int gelu, int rows, int f)
{
	auto gate = [=](double g) { return gelu ? g / 2 * (1 + tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) : g / (1 + exp(-g)); };
	auto gu = normal<T>(size_t(rows) * 2 * f, 3), dy = normal<T>(size_t(rows) * f);
	std::vector<T> y(dy.size()), d(gu.size());
	emu::launch(dim3(rows, 2), 32, [&] { forward(gu.data(), y.data(), f, gelu); });
	emu::launch(dim3(rows, 2), 32, [&] { backward(dy.data(), gu.data(), d.data(), f, gelu); });
	for (int i = 0; i < rows * f; i++) {
		int at = i / f * 2 * f + i % f;
		double g = up(gu[at]), u = up(gu[at + f]), by = up(dy[i]), slope = (gate(g + 1e-5) - gate(g - 1e-5)) / 2e-5;
		within("glu", off(gate(g) * u, up(y[i])), precision<T>());
		within("glu_back", off(by * u * slope, up(d[at])), precision<T>());
		within("glu_back", off(by * gate(g), up(d[at + f])), precision<T>());
	}
	note(y.data(), y.size() * sizeof(T));
	note(d.data(), d.size() * sizeof(T));
}

// Ragged rows in slabs of their own; NaN stands where no row may look, also in front of the window.
template <class T, class S, class J>
static void check_attention(S &&split, J &&join, int head, int group, int positions, int splits, int window = 1000)
{
	const int rows = small ? 2 : 5, hkv = 2, slots = rows + 1;
	auto q = normal<T>(size_t(rows) * hkv * group * head), k = normal<T>(size_t(slots) * positions * hkv * head), v = k;
	std::vector<i64> slot(rows), length(rows);
	for (int i = 0; i < rows; i++) {
		slot[i] = (i + 2) % slots;
		length[i] = i == 0 ? 1 : 1 + i * (positions - 1) / (rows - 1);
		for (i64 e = (slot[i] * positions + length[i]) * hkv * head; e < (slot[i] + 1) * positions * hkv * head; e++)
			down(&k[e], NAN), down(&v[e], NAN);
		for (i64 e = slot[i] * positions * hkv * head; e < (slot[i] * positions + length[i] - window) * hkv * head; e++)
			down(&k[e], NAN), down(&v[e], NAN);
	}
	std::vector<float> part(size_t(rows) * hkv * splits * group * (head + 2), NAN);
	std::vector<T> o(q.size());
	float scale = 1 / sqrtf(float(head));
	emu::launch(dim3(splits, hkv, rows), head * group <= 1024 ? 256 : 128, [&] {
		split(q.data(), k.data(), v.data(), slot.data(), length.data(), part.data(), o.data(), positions, window, hkv, scale);
	});
	if (splits > 1)
		emu::launch(dim3(hkv * group, rows), std::max(head, 32), [&] { join(part.data(), o.data(), splits); });
	std::vector<T> alone(hkv * group * head); // the last row: bits that do not depend on the others
	const size_t last = o.size() - alone.size();
	emu::launch(dim3(splits, hkv), head * group <= 1024 ? 256 : 128, [&] {
		split(q.data() + last, k.data(), v.data(), &slot[rows - 1], &length[rows - 1], part.data(), alone.data(), positions, window, hkv,
		      scale);
	});
	if (splits > 1)
		emu::launch(dim3(hkv * group), std::max(head, 32), [&] { join(part.data(), alone.data(), splits); });
	within("a row alone", memcmp(alone.data(), o.data() + last, alone.size() * sizeof(T)), 0);
	for (int i = 0; i < rows; i++)
		for (int h = 0; h < hkv * group; h++) {
			i64 n = std::min<i64>(length[i], window);
			std::vector<double> w(n);
			double most = -INFINITY, sum = 0;
			auto at = [&](i64 j) { return ((slot[i] * positions + length[i] - n + j) * hkv + h / group) * head; };
			for (i64 j = 0; j < n; j++) {
				for (int e = 0; e < head; e++)
					w[j] += double(up(q[(i * hkv * group + h) * head + e])) * up(k[at(j) + e]) * scale;
				most = std::max(most, w[j]);
			}
			for (double &x : w)
				sum += x = exp(x - most);
			for (int e = 0; e < head; e++) {
				double want = 0;
				for (i64 j = 0; j < n; j++)
					want += w[j] / sum * up(v[at(j) + e]);
				within("attention", off(want, up(o[(i * hkv * group + h) * head + e])), 2 * precision<T>());
			}
		}
	note(o.data(), o.size() * sizeof(T));
}

static void check_sample(int v, float temperature)
{
	const int rows = small ? 1 : 6;
	auto z = normal<float>(size_t(rows) * v, 4);
	std::vector<float> u(rows), lp(rows);
	std::vector<i64> id(rows, -1);
	for (int i = 0; i < rows; i++)
		u[i] = (float(i) + 0.5f) / float(rows);
	z[v / 2] = z[v - 1] = 99; // equals: the first counts at temperature 0
	emu::launch(rows, v < 1000 ? 64 : 1024, [&] { wide::sample(z.data(), u.data(), id.data(), lp.data(), v, temperature); });
	for (int i = 0; i < rows; i++) {
		const float *row = z.data() + i * v;
		double t = temperature > 0 ? temperature : 1, most = *std::max_element(row, row + v), total = 0, below = 0;
		for (int j = 0; j < v; j++)
			total += exp((row[j] - most) / t);
		for (int j = 0; j < id[i]; j++)
			below += exp((row[j] - most) / t) / total;
		double own = exp((row[id[i]] - most) / t) / total;
		within("log-probability", fabs(log(own) - lp[i]), 1e-5);
		if (temperature == 0)
			within("the largest", double(id[i] - (std::max_element(row, row + v) - row)), 0);
		else
			within("u outside the token's part", std::max(below - u[i], u[i] - below - own), 1e-6);
	}
	note(id.data(), id.size() * sizeof(id[0]));
	note(lp.data(), lp.size() * sizeof(lp[0]));
}

static uint64_t round_of(const char *order)
{
	setenv("CUDA_EMU_ORDER", order, 1);
	rng.seed(1);
	seen = 1469598103934665603u;
	for (bool norm : {false, true}) {
		check_rope<bf16>(wide::rope_cached, norm, small ? 32 : 128);
		check_rope<float>(wide_float::rope_cached, norm, 16);
		check_turn<bf16>(wide::qk_rope, wide::qk_rope_back, norm, small ? 32 : 128);
		check_turn<float>(wide_float::qk_rope, wide_float::qk_rope_back, norm, 16);
	}
	for (bool fp32 : {false, true}) {
		check_norm<bf16>(wide::rms_norm, wide::rms_norm_back, fp32, small ? 40 : 1600);
		check_norm<float>(wide_float::rms_norm, wide_float::rms_norm_back, fp32, 81);
	}
	check_key_sum<bf16>(wide::key_sum);
	check_key_sum<float>(wide_float::key_sum);
	for (int gelu : {0, 1}) {
		check_glu<bf16>(wide::glu, wide::glu_back, gelu, 5, 80);
		check_glu<float>(wide_float::glu, wide_float::glu_back, gelu, 5, 81);
	}
	check_attention<bf16>(wide::decode_split, wide::decode_join, 128, 4, small ? 9 : 150, small ? 2 : 4);
	check_attention<float>(wide_float::decode_split, wide_float::decode_join, 128, 4, small ? 9 : 40, 1);
	check_attention<bf16>(narrow::decode_split, narrow::decode_join, 16, 3, small ? 9 : 70, 2);
	check_attention<float>(narrow_float::decode_split, narrow_float::decode_join, 16, 3, small ? 9 : 70, 3);
	check_attention<bf16>(many::decode_split, many::decode_join, 100, 5, small ? 9 : 150, 2);
	check_attention<bf16>(small_head::decode_split, small_head::decode_join, 64, 3, small ? 9 : 150, 2);
	check_attention<bf16>(large_head::decode_split, large_head::decode_join, 256, 2, small ? 9 : 150, 2);
	check_attention<bf16>(odd::decode_split, odd::decode_join, 80, 16, small ? 9 : 70, 2);
	for (int window : {1, 4, small ? 8 : 33})
		check_attention<float>(narrow_float::decode_split, narrow_float::decode_join, 16, 3, small ? 9 : 70, 3, window);
	for (float temperature : {0.0f, 1.0f, 0.7f})
		{
		check_sample(small ? 70 : 380, temperature);
		if (!small)
			check_sample(temperature == 1 ? 50001 : 1500, temperature);
	}
	return seen;
}

int main()
{
	uint64_t first = round_of("0");
	for (const char *order : {"1", "7"})
		if (round_of(order) != first) {
			printf("order %s gives other numbers\n", order);
			return 1;
		}
	printf("all kernels within their bounds, in three orders\n");
	return 0;
}
