// Operations with a fast CPU version and a plain one: norms, rotary embedding, SwiGLU, token log-probabilities, sampling.
#include "shim/nt_internal.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

using nt::expr;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

const int64_t grain = 16384; // floats of work below which a second thread does not pay

int64_t rows_grain(int64_t width) { return std::max<int64_t>(1, grain / std::max<int64_t>(1, width)); }

bool want_grad(std::initializer_list<at::Tensor> in)
{
	if (!c10::GradMode::is_enabled())
		return false;
	for (const at::Tensor &t : in)
		if (t.defined() && t.requires_grad())
			return true;
	return false;
}

const float *ptr(const at::Tensor &t) { return t.const_data_ptr<float>(); }
float *out(at::Tensor &t) { return t.mutable_data_ptr<float>(); }

// Runs f(from, to, sum) over all rows, in a part a thread; the parts' own sums are added in order, so that a run repeats bit
// for bit.
template <class F> void rows_with_sum(int64_t rows, int64_t width, at::Tensor &sum, F &&f)
{
	int64_t n = sum.defined() ? sum.numel() : 0;
	int64_t parts = std::clamp<int64_t>(rows / rows_grain(width), 1, at::get_num_threads()),
		step = (rows + parts - 1) / parts;
	std::vector<float> own(static_cast<size_t>(parts * n));
	at::parallel_for(0, parts, 1, [&](int64_t a, int64_t b) {
		for (int64_t i = a; i < b; i++)
			f(std::min(rows, i * step), std::min(rows, (i + 1) * step), n ? own.data() + i * n : nullptr);
	});
	float *all = n ? out(sum) : nullptr;
	for (int64_t i = 0; i < parts * n; i++)
		all[i % n] += own[i];
}

// ---- RMS norm ----

at::Tensor rms_forward(const at::Tensor &x, const at::Tensor &w, double eps, at::Tensor *inv)
{
	int64_t d = x.size(-1), rows = x.numel() / d;
	at::Tensor y = at::empty_like(x);
	if (inv)
		*inv = at::empty({rows}, x.options());
	const float *xs = ptr(x), *ws = ptr(w);
	float *ys = out(y), *is = inv ? out(*inv) : nullptr;
	at::parallel_for(0, rows, rows_grain(d), [&](int64_t a, int64_t b) {
		nt::cpu::rms_norm(xs + a * d, ws, ys + a * d, is ? is + a : nullptr, b - a, d, static_cast<float>(eps));
	});
	return y;
}

struct RmsNorm : Function<RmsNorm> {
	static at::Tensor forward(AutogradContext *c, const at::Tensor &x, const at::Tensor &w, double eps)
	{
		at::Tensor inv, y = rms_forward(x, w, eps, &inv);
		c->save_for_backward({x, w, inv});
		return y;
	}
	static variable_list backward(AutogradContext *c, variable_list g)
	{
		auto s = c->get_saved_variables();
		at::Tensor x = s[0], dy = g[0].contiguous(), dx = at::empty_like(x), dw;
		int64_t d = x.size(-1), rows = x.numel() / d;
		if (s[1].requires_grad())
			dw = at::zeros_like(s[1]);
		const float *dys = ptr(dy), *xs = ptr(x), *ws = ptr(s[1]), *is = ptr(s[2]);
		float *dxs = out(dx);
		rows_with_sum(rows, d, dw, [&](int64_t a, int64_t b, float *sum) {
			nt::cpu::rms_norm_back(dys + a * d, xs + a * d, ws, is + a, dxs + a * d, sum, b - a, d);
		});
		return {dx, dw, at::Tensor()};
	}
};

at::Tensor rms_plain(const at::Tensor &x, const at::Tensor &w, double eps)
{
	at::Tensor f = x.to(at::kFloat);
	return (f * at::rsqrt(f.pow(2).mean(-1, true) + eps)).to(x.scalar_type()) * w;
}

// ---- norm per head and rotary embedding ----

at::Tensor rope_forward(const at::Tensor &x, const at::Tensor &w, double eps, const at::Tensor &cos, const at::Tensor &sin,
			at::Tensor *inv)
{
	int64_t n = x.size(0), h = x.size(1), d = x.size(2), stride = x.stride(0);
	at::Tensor y = at::empty({n, h, d}, x.options());
	if (inv)
		*inv = at::empty({n * h}, x.options());
	const float *xs = ptr(x), *ws = w.defined() ? ptr(w) : nullptr, *cs = ptr(cos), *ss = ptr(sin);
	float *ys = out(y), *is = inv ? out(*inv) : nullptr;
	at::parallel_for(0, n, rows_grain(h * d), [&](int64_t a, int64_t b) {
		nt::cpu::rope(xs + a * stride, stride, ws, cs + a * d / 2, ss + a * d / 2, ys + a * h * d,
			      is ? is + a * h : nullptr, b - a, h, d, static_cast<float>(eps));
	});
	return y;
}

struct Rope : Function<Rope> {
	static at::Tensor forward(AutogradContext *c, const at::Tensor &x, const std::optional<at::Tensor> &norm, double eps,
				  const at::Tensor &cos, const at::Tensor &sin)
	{
		at::Tensor w = norm.value_or(at::Tensor());
		at::Tensor inv, y = rope_forward(x, w, eps, cos, sin, &inv);
		c->save_for_backward({x, w, cos, sin, inv});
		return y;
	}
	static variable_list backward(AutogradContext *c, variable_list g)
	{
		auto s = c->get_saved_variables();
		at::Tensor x = s[0], w = s[1], dy = g[0].contiguous(), dw;
		int64_t n = x.size(0), h = x.size(1), d = x.size(2), stride = x.stride(0);
		at::Tensor dx = at::empty({n, h, d}, x.options());
		if (w.defined() && w.requires_grad())
			dw = at::zeros_like(w);
		const float *dys = ptr(dy), *xs = ptr(x), *ws = w.defined() ? ptr(w) : nullptr, *cs = ptr(s[2]),
			    *ss = ptr(s[3]);
		const float *is = ptr(s[4]);
		float *dxs = out(dx);
		rows_with_sum(n, h * d, dw, [&](int64_t a, int64_t b, float *sum) {
			nt::cpu::rope_back(dys + a * h * d, xs + a * stride, stride, ws, cs + a * d / 2, ss + a * d / 2,
					   is + a * h, dxs + a * h * d, sum, b - a, h, d);
		});
		return {dx, dw, at::Tensor(), at::Tensor(), at::Tensor()};
	}
};

at::Tensor rope_plain(const at::Tensor &x, const at::Tensor &w, double eps, const at::Tensor &cos, const at::Tensor &sin)
{
	at::Tensor f = w.defined() ? rms_plain(x, w, eps) : x;
	at::Tensor c = at::cat({cos, cos}, -1).unsqueeze(1).to(x.scalar_type()),
		   s = at::cat({sin, sin}, -1).unsqueeze(1).to(x.scalar_type());
	int64_t half = x.size(-1) / 2;
	at::Tensor turned = at::cat({-f.narrow(-1, half, half), f.narrow(-1, 0, half)}, -1);
	return f * c + turned * s;
}

// ---- SwiGLU ----

at::Tensor swiglu_forward(const at::Tensor &gu)
{
	int64_t f = gu.size(-1) / 2, rows = gu.numel() / (2 * f);
	auto shape = gu.sizes().vec();
	shape.back() = f;
	at::Tensor y = at::empty(shape, gu.options());
	const float *in = ptr(gu);
	float *ys = out(y);
	at::parallel_for(0, rows, rows_grain(2 * f),
			 [&](int64_t a, int64_t b) { nt::cpu::swiglu(in + a * 2 * f, ys + a * f, b - a, f); });
	return y;
}

struct SwiGlu : Function<SwiGlu> {
	static at::Tensor forward(AutogradContext *c, const at::Tensor &gu)
	{
		c->save_for_backward({gu});
		return swiglu_forward(gu);
	}
	static variable_list backward(AutogradContext *c, variable_list g)
	{
		at::Tensor gu = c->get_saved_variables()[0], dy = g[0].contiguous(), d = at::empty_like(gu);
		int64_t f = gu.size(-1) / 2, rows = gu.numel() / (2 * f);
		at::parallel_for(0, rows, rows_grain(2 * f), [&](int64_t a, int64_t b) {
			nt::cpu::swiglu_back(ptr(dy) + a * f, ptr(gu) + a * 2 * f, out(d) + a * 2 * f, b - a, f);
		});
		return {d};
	}
};

// ---- token log-probabilities in chunks ----

int64_t chunk_bytes; // of logits in fp32; 0: the device's own

struct LogprobArgs {
	double inv_t;
	int64_t chunk;
	bool fast;
};

at::Tensor logits_of(const at::Tensor &h, const at::Tensor &w) { return at::mm(h, w.t()).to(at::kFloat); }

void logprob_chunk(at::Tensor z, const at::Tensor &ids, const LogprobArgs &a, at::Tensor lp, at::Tensor lz, at::Tensor entropy)
{
	if (a.fast) {
		int64_t v = z.size(1);
		const int64_t *id = ids.const_data_ptr<int64_t>();
		at::parallel_for(0, z.size(0), rows_grain(v), [&](int64_t from, int64_t to) {
			for (int64_t i = from; i < to; i++)
				nt::cpu::logprob_row(ptr(z) + i * v, v, id[i], static_cast<float>(a.inv_t), out(lp) + i,
						     out(lz) + i, entropy.defined() ? out(entropy) + i : nullptr);
		});
		return;
	}
	z.mul_(a.inv_t);
	at::Tensor sum = at::logsumexp(z, -1);
	lz.copy_(sum);
	lp.copy_(z.gather(1, ids.unsqueeze(1)).squeeze(1).sub_(sum));
	if (entropy.defined())
		entropy.copy_(sum - at::exp(z - sum.unsqueeze(1)).mul_(z.clamp_min_(-1e30)).sum(-1)); // weight zero counts zero
}

at::Tensor logprob_all(const at::Tensor &h, const at::Tensor &w, const at::Tensor &ids, const LogprobArgs &a, at::Tensor &lz,
		       at::Tensor &entropy)
{
	int64_t n = h.size(0);
	auto options = h.options().dtype(at::kFloat).requires_grad(false);
	at::Tensor lp = at::empty({n}, options);
	lz = at::empty({n}, options);
	for (int64_t i = 0; i < n; i += a.chunk) {
		int64_t m = std::min(a.chunk, n - i);
		logprob_chunk(logits_of(h.narrow(0, i, m), w), ids.narrow(0, i, m), a, lp.narrow(0, i, m), lz.narrow(0, i, m),
			      entropy.defined() ? entropy.narrow(0, i, m) : at::Tensor());
	}
	return lp;
}

struct TokenLogprob : Function<TokenLogprob> {
	static at::Tensor forward(AutogradContext *c, const at::Tensor &h, const at::Tensor &w, const at::Tensor &ids,
				  double inv_t, int64_t chunk, bool fast,
				  at::Tensor *entropy) // a pointer: autograd wants no undefined tensor
	{
		at::Tensor lz, lp = logprob_all(h, w, ids, {inv_t, chunk, fast}, lz, *entropy);
		c->save_for_backward({h, w, ids, lz});
		c->saved_data["t"] = inv_t;
		c->saved_data["chunk"] = chunk;
		c->saved_data["fast"] = fast;
		return lp;
	}
	static variable_list backward(AutogradContext *c, variable_list grads)
	{
		auto s = c->get_saved_variables();
		at::Tensor h = s[0], w = s[1], g = grads[0].to(at::kFloat).contiguous(), dh = at::empty_like(h), dw;
		double inv_t = c->saved_data["t"].toDouble();
		int64_t chunk = c->saved_data["chunk"].toInt(), v = w.size(0);
		bool fast = c->saved_data["fast"].toBool();
		if (w.requires_grad())
			dw = at::zeros_like(w);
		for (int64_t i = 0; i < h.size(0); i += chunk) {
			int64_t m = std::min(chunk, h.size(0) - i);
			at::Tensor hi = h.narrow(0, i, m), z = logits_of(hi, w), ids = s[2].narrow(0, i, m);
			at::Tensor lz = s[3].narrow(0, i, m), gi = g.narrow(0, i, m);
			if (fast) {
				at::parallel_for(0, m, rows_grain(v), [&](int64_t from, int64_t to) {
					for (int64_t r = from; r < to; r++)
						nt::cpu::logprob_row_back(out(z) + r * v, v, ids.const_data_ptr<int64_t>()[r],
									  static_cast<float>(inv_t), ptr(lz)[r], ptr(gi)[r]);
				});
			} else {
				z.mul_(inv_t).sub_(lz.unsqueeze(1)).exp_().mul_((gi * -inv_t).unsqueeze(1));
				z.scatter_add_(1, ids.unsqueeze(1), (gi * inv_t).unsqueeze(1));
			}
			z = z.to(h.scalar_type());
			dh.narrow(0, i, m).copy_(at::mm(z, w));
			if (dw.defined())
				dw.addmm_(z.t(), hi);
		}
		return {dh, dw, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
	}
};

} // namespace

nt_tensor *nt_rms_norm(const nt_tensor *x, const nt_tensor *w, double eps)
{
	return expr("rms_norm", {x, w}, [&] {
		TORCH_CHECK(w->t.numel() == x->t.size(-1), "widths differ");
		if (!nt::fast({x->t, w->t}))
			return rms_plain(x->t, w->t, eps);
		at::Tensor in = x->t.contiguous(), gain = w->t.contiguous();
		return want_grad({in, gain}) ? RmsNorm::apply(in, gain, eps) : rms_forward(in, gain, eps, nullptr);
	});
}

nt_tensor *nt_qk_rope(const nt_tensor *x, const nt_tensor *w, double eps, const nt_tensor *cos, const nt_tensor *sin)
{
	return expr("qk_rope", {x, cos, sin}, [&] {
		at::Tensor in = x->t, norm = w ? w->t.contiguous() : at::Tensor(), c = cos->t.contiguous(),
			   s = sin->t.contiguous();
		TORCH_CHECK(in.dim() == 3 && c.dim() == 2 && c.size(0) == in.size(0) && c.size(1) * 2 == in.size(2) &&
				    s.sizes() == c.sizes(), "positions do not fit");
		TORCH_CHECK(!w || norm.numel() == in.size(2), "widths differ");
		if (!nt::fast({in, norm, c, s}))
			return rope_plain(in, norm, eps, c, s);
		if (in.stride(2) != 1 || in.stride(1) != in.size(2))
			in = in.contiguous();
		return want_grad({in, norm}) ? Rope::apply(in, w ? std::optional<at::Tensor>(norm) : std::nullopt, eps, c, s)
					     : rope_forward(in, norm, eps, c, s, nullptr);
	});
}

nt_tensor *nt_swiglu(const nt_tensor *gate_up)
{
	return expr("swiglu", {gate_up}, [&] {
		TORCH_CHECK(gate_up->t.size(-1) % 2 == 0, "the width is odd");
		if (!nt::fast({gate_up->t})) {
			auto parts = gate_up->t.chunk(2, -1);
			return at::silu(parts[0]) * parts[1];
		}
		at::Tensor in = gate_up->t.contiguous();
		return want_grad({in}) ? SwiGlu::apply(in) : swiglu_forward(in);
	});
}

void nt_logprob_chunk(int64_t bytes) { chunk_bytes = bytes; }

nt_tensor *nt_token_logprob(const nt_tensor *h, const nt_tensor *head, const nt_tensor *ids, double temperature,
			    nt_tensor **entropy)
{
	at::Tensor ent;
	nt_tensor *lp = expr("token_logprob", {h, head, ids}, [&] {
		int64_t v = head->t.size(0);
		TORCH_CHECK(h->t.dim() == 2 && head->t.dim() == 2 && h->t.size(1) == head->t.size(1), "widths differ");
		TORCH_CHECK(ids->t.dim() == 1 && ids->t.numel() == h->t.size(0), "ids do not fit");
		TORCH_CHECK(temperature > 0, "the temperature is ", temperature);
		int64_t bytes = chunk_bytes ? chunk_bytes : h->t.is_cpu() ? NT_CHUNK_CPU : NT_CHUNK_GPU;
		int64_t chunk = std::max<int64_t>(1, bytes / int64_t(sizeof(float)) / v);
		bool fast = nt::fast({h->t, head->t});
		at::Tensor id = ids->t.contiguous();
		if (id.is_cpu()) // a GPU finds it out by itself, and a check would wait for it
			for (int64_t i = 0; i < id.numel(); i++)
				TORCH_CHECK(id.const_data_ptr<int64_t>()[i] >= 0 && id.const_data_ptr<int64_t>()[i] < v, "id ",
					    id.const_data_ptr<int64_t>()[i], " is outside [0, ", v, ")");
		if (entropy)
			ent = at::empty({h->t.size(0)}, h->t.options().dtype(at::kFloat).requires_grad(false));
		at::Tensor lz, in = h->t.contiguous();
		if (want_grad({in, head->t}))
			return TokenLogprob::apply(in, head->t, id, 1 / temperature, chunk, fast, &ent);
		return logprob_all(in, head->t, id, {1 / temperature, chunk, fast}, lz, ent);
	});
	if (entropy)
		*entropy = lp ? nt::wrap(ent) : nullptr;
	return lp;
}

nt_tensor *nt_sample(const nt_tensor *logits, const nt_tensor *u, double temperature, nt_tensor **logprob)
{
	at::Tensor lp;
	nt_tensor *ids = expr("sample", {logits, u}, [&] {
		TORCH_CHECK(logits->t.dim() == 2 && logits->t.size(1) > 0 && u->t.numel() == logits->t.size(0),
			    "uniform numbers do not fit");
		TORCH_CHECK(temperature >= 0, "the temperature is ", temperature);
		at::Tensor z = logits->t.to(at::kFloat).contiguous(), us = u->t.contiguous();
		int64_t n = z.size(0), v = z.size(1);
		if (nt::fast({logits->t, u->t})) {
			at::Tensor id = at::empty({n}, z.options().dtype(at::kLong));
			lp = at::empty({n}, z.options());
			at::parallel_for(0, n, rows_grain(v), [&](int64_t a, int64_t b) {
				for (int64_t i = a; i < b; i++)
					id.mutable_data_ptr<int64_t>()[i] = nt::cpu::sample_row(
						ptr(z) + i * v, v, ptr(us)[i], static_cast<float>(temperature), out(lp) + i);
			});
			return id;
		}
		at::Tensor all = at::log_softmax(temperature == 0 ? z : z / temperature, -1), id;
		if (temperature == 0)
			id = at::argmax(z, -1);
		else { // the first token whose cumulative weight reaches u of the total; in double, for 150,000 of them
			at::Tensor sum = at::exp(all.to(at::kDouble)).cumsum(-1);
			id = at::searchsorted(sum, us.to(at::kDouble).unsqueeze(1) * sum.narrow(1, v - 1, 1))
				     .squeeze(1)
				     .clamp_max(v - 1);
		}
		lp = all.gather(1, id.unsqueeze(1)).squeeze(1);
		return id;
	});
	if (logprob)
		*logprob = ids ? nt::wrap(lp) : nullptr;
	return ids;
}
