// The GPU's own kernels for decoding a token, behind kernels.cu, whose types and helpers they use: rotation into the cache,
// attention over it, sampling.

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

// ---- attention of one token a row over the first length[row] positions of its slab, the last `window` of them ----

#ifdef HEAD
#define WARPS (HEAD * GROUP <= 1024 ? 8 : 4)
#define VEC (HEAD % 8 == 0 && (GROUP <= 8 || HEAD > 128) ? 8 : HEAD % 4 == 0 ? 4 : 2) /* components a lane loads at once */
#define LANES (HEAD / VEC > 16 ? 32 : HEAD / VEC > 8 ? 16 : HEAD / VEC > 4 ? 8 : 4)   /* a team, which has a key */
#define TEAMS (32 / LANES)
#define KEYS (sizeof(T) == 2 && HEAD == VEC * LANES ? 4 : 2) /* that a team takes at once, for their loads to overlap */
struct alignas(VEC * sizeof(T) < 16 ? VEC * sizeof(T) : 16) Lane {
	T x[VEC];
};

__device__ inline Lane lane_of(const T *from, bool some)
{
	Lane x = {};
	if (some)
		x = *(const Lane *)from;
	return x;
}

// grid (splits, Hkv, rows), WARPS warps. Scores are in units of ln 2, so that exp2f makes weights of them; the largest begins
// at a number that none reaches, by which an empty part weighs nothing and a NaN stays one. All scores of a few keys, then
// their weights, then the sums: few registers, so that two blocks fit. A single split leaves o [rows, Hq, HEAD]; each of
// several its largest score, its sum and its weighted values in part [rows, Hkv, splits, GROUP, HEAD + 2].
KERNEL_OF(decode_split, 32 * WARPS, GROUP <= 4 && HEAD <= 128 ? 2 : 1)
(const T *q, const T *k, const T *v, const i64 *slot, const i64 *length, float *part, T *o, i64 positions, i64 window, int hkv,
 float scale)
{
	SHARED(float, value, WARPS *GROUP *HEAD);
	SHARED(float, most, WARPS *GROUP);
	SHARED(float, total, WARPS *GROUP);
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, team = lane / LANES, at = lane % LANES * VEC, h = blockIdx.y;
	bool some = at < HEAD;
	i64 row = blockIdx.z, n = length[row], first = n > window ? n - window : 0, width = (i64)hkv * HEAD;
	i64 each = (n - first + gridDim.x - 1) / gridDim.x, start = first + blockIdx.x * each;
	int keys = (int)(start + each < n ? each : n > start ? n - start : 0);
	i64 slab = ((slot[row] * positions + start) * hkv + h) * HEAD + at, of = (row * hkv + h) * GROUP * HEAD;
	float qs[GROUP][VEC], acc[GROUP][VEC], m[GROUP], l[GROUP];
	scale *= 1.44269504f;
	for (int g = 0; g < GROUP; g++) {
		Lane x = lane_of(q + of + g * HEAD + at, some);
		m[g] = -1e30f;
		l[g] = 0;
		for (int i = 0; i < VEC; i++) {
			qs[g][i] = up(x.x[i]) * scale;
			acc[g][i] = 0;
		}
	}
	for (int j = warp * KEYS * TEAMS; j < keys; j += WARPS * KEYS * TEAMS) {
		Lane kx[KEYS], vx[KEYS];
		UNROLL
		for (int c = 0; c < KEYS; c++) { // past the end the last key again, which counts for nothing
			int own = j + c * TEAMS + team;
			i64 place = slab + (own < keys ? own : keys - 1) * width;
			kx[c] = lane_of(k + place, some);
			vx[c] = lane_of(v + place, some);
		}
		float s[GROUP][KEYS], x[VEC];
		UNROLL
		for (int c = 0; c < KEYS; c++) {
			for (int i = 0; i < VEC; i++)
				x[i] = up(kx[c].x[i]);
			UNROLL
			for (int g = 0; g < GROUP; g++) {
				float dot = 0;
				for (int i = 0; i < VEC; i++)
					dot += qs[g][i] * x[i];
				dot = lanes_sum<LANES>(dot);
				s[g][c] = j + c * TEAMS + team < keys ? dot : NEGATIVE_INFINITY;
			}
		}
		UNROLL
		for (int g = 0; g < GROUP; g++) {
			float top = m[g];
			for (int c = 0; c < KEYS; c++)
				top = fmaxf(top, s[g][c]);
			for (int i = 16; i >= LANES; i >>= 1)
				top = fmaxf(top, __shfl_xor_sync(ALL, top, i));
			float keep = exp2f(m[g] - top);
			m[g] = top;
			l[g] *= keep;
			for (int i = 0; i < VEC; i++)
				acc[g][i] *= keep;
			for (int c = 0; c < KEYS; c++)
				l[g] += s[g][c] = exp2f(s[g][c] - top);
		}
		UNROLL
		for (int c = 0; c < KEYS; c++) {
			for (int i = 0; i < VEC; i++)
				x[i] = up(vx[c].x[i]);
			UNROLL
			for (int g = 0; g < GROUP; g++)
				for (int i = 0; i < VEC; i++)
					acc[g][i] += s[g][c] * x[i];
		}
	}
	UNROLL
	for (int g = 0; g < GROUP; g++) {
		for (int step = 16; step >= LANES; step >>= 1) {
			l[g] += __shfl_xor_sync(ALL, l[g], step);
			for (int i = 0; i < VEC; i++)
				acc[g][i] += __shfl_xor_sync(ALL, acc[g][i], step);
		}
		for (int i = 0; i < VEC; i++)
			if (some && team == 0)
				value[(warp * GROUP + g) * HEAD + at + i] = acc[g][i];
		if (lane == 0) {
			most[warp * GROUP + g] = m[g];
			total[warp * GROUP + g] = l[g];
		}
	}
	__syncthreads();
	part += ((row * hkv + h) * gridDim.x + blockIdx.x) * GROUP * (HEAD + 2);
	for (int e = threadIdx.x; e < GROUP * HEAD; e += blockDim.x) {
		int g = e / HEAD, i = e % HEAD;
		float top = most[g], sum = 0, x = 0;
		for (int w = 1; w < WARPS; w++)
			top = fmaxf(top, most[w * GROUP + g]);
		for (int w = 0; w < WARPS; w++) {
			float c = exp2f(most[w * GROUP + g] - top);
			sum += c * total[w * GROUP + g];
			x += c * value[w * GROUP * HEAD + e];
		}
		if (gridDim.x == 1) {
			down(o + of + e, x / sum);
			continue;
		}
		part[g * (HEAD + 2) + i] = x;
		if (i < 2)
			part[g * (HEAD + 2) + HEAD + i] = i ? sum : top;
	}
}

// grid (Hq, rows): o [rows, Hq, HEAD]
KERNEL(decode_join)(const float *part, T *o, int splits)
{
	i64 row = blockIdx.y, h = blockIdx.x / GROUP, g = blockIdx.x % GROUP, hkv = gridDim.x / GROUP;
	const float *p = part + ((row * hkv + h) * splits * GROUP + g) * (HEAD + 2);
	const i64 step = GROUP * (HEAD + 2);
	float top = p[HEAD];
	for (int i = 1; i < splits; i++)
		top = fmaxf(top, p[i * step + HEAD]);
	for (int e = threadIdx.x; e < HEAD; e += blockDim.x) {
		float sum = 0, x = 0;
		for (int i = 0; i < splits; i++) {
			float c = exp2f(p[i * step + HEAD] - top);
			sum += c * p[i * step + HEAD + 1];
			x += c * p[i * step + e];
		}
		down(o + (row * gridDim.x + blockIdx.x) * HEAD + e, x / sum);
	}
}
#endif

// ---- sampling: logits [rows, v] fp32, u [rows] -> ids, log-probabilities; a block of up to 32 warps a row ----

// Of a warp's lanes together, each at every 32nd logit from its `from`.
__device__ inline double weight_of(const float *z, int from, int to, float m, float scale)
{
	double sum = 0;
	UNROLL_8
	for (int j = from; j < to; j += 32)
		sum += expf((z[j] - m) * scale);
	return warp_sum(sum);
}

// The first of n parts that has a weight and with which the sum reaches `want`, or the last that has one; before: those in
// front of it.
__device__ inline int reaches(const double *weight, int n, double want, double *before)
{
	int found = 0;
	double sum = 0;
	for (int i = 0; i < n; sum += weight[i++])
		if (weight[i] > 0) {
			found = i;
			*before = sum;
			if (sum + weight[i] >= want)
				break;
		}
	return found;
}

// The first token with a weight whose cumulative weight reaches u of the total; temperature 0: the largest logit, the first of
// equals. Found by halving twice: the warp in whose stretch it is, by all warps the part of that stretch, by one the token.
KERNEL_OF(sample, 1024, 1)(const float *logits, const float *u, i64 *ids, float *logprob, int v, float temperature)
{
	SHARED(float, most, 32);
	SHARED(int, first, 32);
	SHARED(double, weight, 32);
	SHARED(double, inner, 32);
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5, each = (v + warps - 1) / warps;
	int from = warp * each, to = from + each < v ? from + each : v; // of this warp
	const float *z = logits + (i64)blockIdx.x * v;
	float scale = temperature > 0 ? 1 / temperature : 1, m = NEGATIVE_INFINITY;
	int best = v;
	UNROLL_8
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
	double sum = weight_of(z, from + lane, to, m, scale), total = 0, before = 0, start = 0;
	if (lane == 0)
		weight[warp] = sum;
	__syncthreads();
	for (int i = 0; i < warps; i++)
		total += weight[i];
	int owner = 0;
	if (temperature > 0) {
		double want = u[blockIdx.x] * total;
		owner = reaches(weight, warps, want, &before);
		from = owner * each;
		to = from + each < v ? from + each : v;
		each = (to - from + warps - 1) / warps;
		from += warp * each;
		to = from + each < to ? from + each : to;
		sum = weight_of(z, from + lane, to, m, scale);
		if (lane == 0)
			inner[warp] = sum;
		__syncthreads();
		owner = reaches(inner, warps, want - before, &start);
		before += start;
		best = -1;
		for (int j = from; warp == owner && j < to && best < 0; j += 32) {
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
		for (int j = to - 1; warp == owner && best < 0 && j >= from; j--) // rounding left none: the last with a weight
			if (expf((z[j] - m) * scale) > 0)
				best = j;
	}
	if (warp == owner && lane == 0) {
		best = best < 0 || best >= v ? 0 : best;
		ids[blockIdx.x] = best;
		logprob[blockIdx.x] = (float)((z[best] - m) * scale - log(total));
	}
}
