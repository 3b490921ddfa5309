// Operations that libtorch has on CUDA only, from their formulas in double, as CPU kernels: the simulated GPU reaches them as it
// does all others. Types and shapes are those that CUDA's take, with fp32 beside bf16.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

namespace
{

using at::Tensor;
using Maybe = std::optional<Tensor>;

void check_type(const char *what, const Tensor &t)
{
	TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16, "sim: ", what, " of ", t.scalar_type());
}

Tensor mm_dtype(const Tensor &a, const Tensor &b, at::ScalarType out)
{
	check_type("mm", a);
	TORCH_CHECK(a.scalar_type() == b.scalar_type(), "sim: mm of two types");
	TORCH_CHECK(out == a.scalar_type() || out == at::kFloat, "sim: mm to ", out);
	return at::mm(a.to(at::kDouble), b.to(at::kDouble)).to(out);
}

// ---- flash attention ----

Tensor doubles(const Tensor &t) { return t.to(at::kDouble).contiguous(); }

// One pack of sequences: q [n, Hq, d], k and v [m, Hkv, d], sequence s at from_q[s] .. from_q[s+1] of q and from_k[s] on of k.
// Queries stand at the end of their sequence's keys, so that query i of nq sees nk - nq + i + 1 of them when causal.
struct Attention {
	Tensor q, k, v; // in double
	std::vector<int64_t> from_q, from_k, used;
	int64_t hq, hkv, d;
	double scale;
	bool causal;
	int64_t window; // keys that a query sees at most; 0: no window

	Attention(const Tensor &query, const Tensor &key, const Tensor &value, const Maybe &cum_q, const Maybe &cum_k, const Maybe &used_k,
		  double dropout, bool is_causal, std::optional<double> factor, std::optional<int64_t> left, std::optional<int64_t> right)
		: q(doubles(query)), k(doubles(key)), v(doubles(value)), hq(query.size(-2)), hkv(key.size(-2)), d(query.size(-1)),
		  scale(factor.value_or(1 / std::sqrt(static_cast<double>(query.size(-1))))), causal(is_causal), window(left.value_or(-1) + 1)
	{
		check_type("flash attention", query);
		TORCH_CHECK(query.scalar_type() == key.scalar_type() && query.scalar_type() == value.scalar_type(), "sim: types differ");
		TORCH_CHECK(dropout == 0 && right.value_or(-1) < 0 && (causal || !window), "sim: no dropout, no window to the right");
		TORCH_CHECK(hq % hkv == 0 && key.sizes() == value.sizes() && key.size(-1) == d && d <= 256, "sim: shapes of attention");
		bool packed = cum_q && cum_q->defined();
		TORCH_CHECK(query.dim() == (packed ? 3 : 4) && key.dim() == query.dim() && packed == (cum_k && cum_k->defined()),
			    "sim: packed sequences are [n, H, d] with both cum_seq, others [N, S, H, d]");
		from_q = packed ? numbers(*cum_q, query.size(0)) : evenly(query);
		from_k = packed ? numbers(*cum_k, key.size(0)) : evenly(key);
		TORCH_CHECK(from_q.size() == from_k.size(), "sim: ", from_q.size() - 1, " and ", from_k.size() - 1, " sequences");
		for (size_t s = 0; s + 1 < from_k.size(); s++)
			used.push_back(from_k[s + 1] - from_k[s]);
		if (used_k && used_k->defined()) {
			TORCH_CHECK(used_k->scalar_type() == at::kInt && used_k->numel() == static_cast<int64_t>(used.size()), "sim: seqused_k");
			for (size_t s = 0; s < used.size(); s++) {
				int64_t n = (*used_k)[static_cast<int64_t>(s)].item<int>();
				TORCH_CHECK(n >= 0 && n <= used[s], "sim: ", n, " keys used of ", used[s]);
				used[s] = n;
			}
		}
	}

	static std::vector<int64_t> numbers(const Tensor &cum, int64_t end)
	{
		TORCH_CHECK(cum.scalar_type() == at::kInt && cum.dim() == 1 && cum.is_contiguous(), "sim: cum_seq must be int32 and contiguous");
		const int *at = cum.const_data_ptr<int>();
		std::vector<int64_t> from(at, at + cum.numel());
		TORCH_CHECK(from.size() > 1 && from[0] == 0 && from.back() <= end && std::is_sorted(from.begin(), from.end()), "sim: cum_seq");
		return from;
	}

	static std::vector<int64_t> evenly(const Tensor &t)
	{
		std::vector<int64_t> from;
		for (int64_t s = 0; s <= t.size(0); s++)
			from.push_back(s * t.size(1));
		return from;
	}

	// f(row of q, rows of k from first on, how many the row sees, head of q, head of k)
	template <class F> void rows(const F &f) const
	{
		for (size_t s = 0; s < used.size(); s++)
			for (int64_t i = from_q[s]; i < from_q[s + 1]; i++) {
				int64_t to = causal ? std::max<int64_t>(used[s] - (from_q[s + 1] - i) + 1, 0) : used[s];
				int64_t from = window ? std::max<int64_t>(to - window, 0) : 0;
				for (int64_t h = 0; h < hq; h++)
					f(i, from_k[s] + from, to - from, h, h / (hq / hkv));
			}
	}

	double *row(const Tensor &t, int64_t i, int64_t h, int64_t heads) const { return t.mutable_data_ptr<double>() + (i * heads + h) * d; }
	double dot(const double *a, const double *b) const
	{
		double sum = 0;
		for (int64_t i = 0; i < d; i++)
			sum += a[i] * b[i];
		return sum;
	}
	void add(double *to, double c, const double *x) const
	{
		for (int64_t i = 0; i < d; i++)
			to[i] += c * x[i];
	}

	// Packed: [Hq, n]; else [N, Hq, S].
	int64_t lse_at(int64_t i, int64_t h) const
	{
		int64_t n = q.dim() == 3 ? q.size(0) : q.size(1);
		return (i / n * hq + h) * n + i % n;
	}
};

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Forward flash_forward(const Tensor &q, const Tensor &k, const Tensor &v, const Maybe &cum_q, const Maybe &cum_k, int64_t, int64_t,
		      double dropout, bool causal, bool debug, std::optional<double> scale, std::optional<int64_t> left,
		      std::optional<int64_t> right, const Maybe &used_k, const Maybe &alibi)
{
	Attention a(q, k, v, cum_q, cum_k, used_k, dropout, causal, scale, left, right);
	TORCH_CHECK(!debug && !(alibi && alibi->defined()), "sim: no debug mask, no slopes");
	Tensor out = at::zeros(q.sizes(), at::kDouble);
	Tensor lse = at::full(q.dim() == 3 ? at::IntArrayRef{a.hq, q.size(0)} : at::IntArrayRef{q.size(0), a.hq, q.size(1)}, INFINITY, at::kFloat);
	std::vector<double> s;
	a.rows([&](int64_t i, int64_t first, int64_t n, int64_t h, int64_t hk) {
		if (!n) // it sees nothing: zero
			return;
		double most = -INFINITY, sum = 0;
		s.resize(static_cast<size_t>(n));
		for (int64_t j = 0; j < n; j++)
			most = std::max(most, s[j] = a.scale * a.dot(a.row(a.q, i, h, a.hq), a.row(a.k, first + j, hk, a.hkv)));
		for (int64_t j = 0; j < n; j++)
			sum += s[j] = std::exp(s[j] - most);
		for (int64_t j = 0; j < n; j++)
			a.add(a.row(out, i, h, a.hq), s[j] / sum, a.row(a.v, first + j, hk, a.hkv));
		lse.mutable_data_ptr<float>()[a.lse_at(i, h)] = static_cast<float>(most + std::log(sum));
	});
	auto none = at::empty({0}, q.options());
	return {out.to(q.scalar_type()), lse, at::zeros({2}, at::kLong), at::zeros({}, at::kLong), none};
}

// seqused_k is no argument here, in libtorch either: what it left out gets a gradient.
std::tuple<Tensor, Tensor, Tensor> flash_backward(const Tensor &grad, const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &out,
						  const Tensor &lse, const Tensor &cum_q, const Tensor &cum_k, int64_t, int64_t,
						  double dropout, bool causal, const Tensor &, const Tensor &,
						  std::optional<double> scale, std::optional<int64_t> left, std::optional<int64_t> right)
{
	Attention a(q, k, v, cum_q, cum_k, {}, dropout, causal, scale, left, right);
	Tensor g = doubles(grad), o = doubles(out);
	Tensor dq = at::zeros_like(a.q), dk = at::zeros_like(a.k), dv = at::zeros_like(a.v);
	a.rows([&](int64_t i, int64_t first, int64_t n, int64_t h, int64_t hk) {
		const double *gi = a.row(g, i, h, a.hq), *qi = a.row(a.q, i, h, a.hq);
		double delta = a.dot(gi, a.row(o, i, h, a.hq)), l = lse.const_data_ptr<float>()[a.lse_at(i, h)];
		for (int64_t j = first; j < first + n; j++) {
			const double *kj = a.row(a.k, j, hk, a.hkv);
			double p = std::exp(a.scale * a.dot(qi, kj) - l), ds = a.scale * p * (a.dot(gi, a.row(a.v, j, hk, a.hkv)) - delta);
			a.add(a.row(dv, j, hk, a.hkv), p, gi);
			a.add(a.row(dq, i, h, a.hq), ds, kj);
			a.add(a.row(dk, j, hk, a.hkv), ds, qi);
		}
	});
	return {dq.to(q.scalar_type()), dk.to(k.scalar_type()), dv.to(v.scalar_type())};
}

} // namespace

TORCH_LIBRARY_IMPL(aten, CPU, m)
{
	m.impl("mm.dtype", TORCH_FN(mm_dtype));
	m.impl("_flash_attention_forward", TORCH_FN(flash_forward));
	m.impl("_flash_attention_backward", TORCH_FN(flash_backward));
}
