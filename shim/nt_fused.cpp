// Operations with a fast CPU version and a plain one: norms, rotary embedding, gates, token log-probabilities, sampling.
#include "shim/nt_gpu.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

using nt::expr;
using nt::out;
using nt::ptr;
using nt::Tensors;

// ---- a gradient of one's own ----

namespace
{

struct Held : torch::CustomClassHolder {
	nt::Backward backward;
	const char *op = nt::running;
	explicit Held(const nt::Backward &b) : backward(b) {}
};

struct Fused : torch::autograd::Function<Fused> {
	static at::Tensor forward(torch::autograd::AutogradContext *c, at::TensorList in, const nt::Forward *f,
				  const nt::Backward *b, const std::vector<bool> *unsaved)
	{
		Tensors saved = in.vec(), keep;
		for (size_t i = 0; i < unsaved->size(); i++)
			if ((*unsaved)[i])
				saved[i].reset();
		at::Tensor y = (*f)(in, keep);
		saved.insert(saved.end(), keep.begin(), keep.end());
		c->save_for_backward(saved);
		c->saved_data["backward"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(*b));
		return y;
	}
	static Tensors backward(torch::autograd::AutogradContext *c, const Tensors &g)
	{
		auto capsule = c->saved_data["backward"].toCapsule();
		auto held = static_cast<const Held *>(capsule.get());
		nt_tensor dy{g[0].contiguous()};
		at::RecordFunction named;
		if (named.isActive())
			nt::profiled(named, held->op, " back", {&dy});
		Tensors d = held->backward(c->get_saved_variables(), dy.t);
		d.resize(d.size() + 3); // forward's other arguments
		return d;
	}
};

} // namespace

at::Tensor nt::fused(at::TensorList in, const Forward &forward, const Backward &backward, const std::vector<bool> &unsaved)
{
	Tensors none;
	for (const at::Tensor &t : in)
		if (t.requires_grad() && c10::GradMode::is_enabled())
			return Fused::apply(in, &forward, &backward, &unsaved);
	return forward(in, none);
}

namespace
{

// Of one function: f(undefined, x) is y, f(dy, x) the gradient of x.
template <class F> at::Tensor fused_one(const at::Tensor &x, F f)
{
	return nt::fused({x}, [=](at::TensorList in, Tensors &) { return f(at::Tensor(), in[0]); },
			 [=](const Tensors &saved, const at::Tensor &dy) { return Tensors{f(dy, saved[0])}; });
}

const int64_t grain = 16384; // floats of work below which a second thread does not pay

int64_t rows_grain(int64_t width) { return std::max<int64_t>(1, grain / std::max<int64_t>(1, width)); }

template <class F> void each_row(int64_t rows, int64_t width, F &&f)
{
	at::parallel_for(0, rows, rows_grain(width), [&](int64_t from, int64_t to) {
		for (int64_t i = from; i < to; i++)
			f(i);
	});
}

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

// ---- RMS norm and rotary embedding, one or both: x [.., d], or [n, h, d] with cos, sin [n, d/2]; w [d] ----

struct NormRope {
	at::Tensor w, cos, sin; // undefined: without
	double eps;
	int64_t n, h, d, stride; // of x: rows, heads, width, from row to row

	at::Tensor forward(const at::Tensor &x, Tensors &keep) const
	{
		at::Tensor y = at::empty(x.sizes(), x.options()), inv = at::empty({n * h}, x.options());
		at::parallel_for(0, n, rows_grain(h * d), [&](int64_t from, int64_t to) {
			int64_t turn = cos.defined() ? from * d / 2 : 0;
			nt::cpu::norm_rope(ptr(x) + from * stride, stride, ptr(w), ptr(cos) + turn, ptr(sin) + turn,
					   out(y) + from * h * d, out(inv) + from * h, to - from, h, d, float(eps));
		});
		keep.push_back(inv);
		return y;
	}

	Tensors backward(const Tensors &saved, const at::Tensor &dy) const
	{
		const at::Tensor &x = saved[0], &inv = saved.back();
		at::Tensor dx = at::empty(x.sizes(), dy.options()), dw = w.requires_grad() ? at::zeros_like(w) : at::Tensor();
		rows_with_sum(n, h * d, dw, [&](int64_t from, int64_t to, float *sum) {
			int64_t turn = cos.defined() ? from * d / 2 : 0;
			nt::cpu::norm_rope_back(ptr(dy) + from * h * d, ptr(x) + from * stride, stride, ptr(w),
						ptr(cos) + turn, ptr(sin) + turn, ptr(inv) + from * h,
						out(dx) + from * h * d, sum, to - from, h, d);
		});
		return {dx, dw};
	}
};

at::Tensor norm_rope(const at::Tensor &x, const at::Tensor &w, double eps, const at::Tensor &cos, const at::Tensor &sin)
{
	int64_t d = x.size(-1), h = cos.defined() ? x.size(1) : 1;
	NormRope a = {w, cos, sin, eps, x.numel() / (h * d), h, d, cos.defined() ? x.stride(0) : d};
	return nt::fused(
		w.defined() ? Tensors{x, w} : Tensors{x},
		[a](at::TensorList in, Tensors &keep) { return a.forward(in[0], keep); },
		[a](const Tensors &saved, const at::Tensor &dy) { return a.backward(saved, dy); });
}

// In the type of w, when that is another one.
at::Tensor norm_plain(const at::Tensor &x, const at::Tensor &w, double eps)
{
	return at::rms_norm(x.to(w.scalar_type()), {x.size(-1)}, w, eps).to(x.scalar_type());
}

at::Tensor rope_plain(const at::Tensor &x, const at::Tensor &cos, const at::Tensor &sin)
{
	at::Tensor c = at::cat({cos, cos}, -1).unsqueeze(1).to(x.scalar_type()),
		   s = at::cat({sin, sin}, -1).unsqueeze(1).to(x.scalar_type());
	int64_t half = x.size(-1) / 2;
	at::Tensor turned = at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
	return x * c + turned * s;
}

// ---- SwiGLU and GeGLU: gate_up [.., 2f], gate first ----

at::Tensor glu_cpu(bool gelu, const at::Tensor &dy, const at::Tensor &gu)
{
	auto shape = gu.sizes().vec();
	int64_t f = shape.back() / 2, rows = gu.numel() / (2 * f);
	shape.back() = dy.defined() ? 2 * f : f;
	at::Tensor y = at::empty(shape, gu.options());
	at::parallel_for(0, rows, rows_grain(2 * f), [&](int64_t a, int64_t b) {
		if (dy.defined())
			nt::cpu::glu_back(gelu, ptr(dy) + a * f, ptr(gu) + a * 2 * f, out(y) + a * 2 * f, b - a, f);
		else
			nt::cpu::glu(gelu, ptr(gu) + a * 2 * f, out(y) + a * f, b - a, f);
	});
	return y;
}

nt_tensor *glu(const char *op, bool gelu, const nt_tensor *gate_up)
{
	return expr(op, {gate_up}, [&] {
		TORCH_CHECK(gate_up->t.size(-1) % 2 == 0, "the width is odd");
		bool cpu = nt::fast({gate_up->t});
		if (cpu || nt::gpu::takes(NT_FAST_SWIGLU, {gate_up->t}))
			return fused_one(gate_up->t.contiguous(), [=](const at::Tensor &dy, const at::Tensor &gu) {
				return (cpu ? glu_cpu : nt::gpu::glu)(gelu, dy, gu);
			});
		auto parts = gate_up->t.chunk(2, -1);
		return (gelu ? at::gelu(parts[0], "tanh") : at::silu(parts[0])) * parts[1];
	});
}

// ---- token log-probabilities in chunks: h [n, D], head [v, D], ids [n] ----

int64_t chunk_bytes; // of logits in fp32; 0: the device's own

struct Logprob {
	double inv_t;
	int64_t chunk;
	bool fast;
	at::Tensor entropy; // [n]; undefined: not wanted
};

// Of a chunk. On the CPU all chunks, of which the first is the longest, share `room`: the system clears every page of fresh
// memory, which took a tenth of an update.
at::Tensor logits_of(const at::Tensor &h, const at::Tensor &w, at::Tensor &room)
{
	if (!h.is_cpu())
		return nt::mm_f32(h, w.t());
	if (!room.defined())
		room = at::empty({h.size(0), w.size(0)}, h.options());
	return nt::times(h, w, false, room.narrow(0, 0, h.size(0))).to(at::kFloat);
}

// z [m, v], ids, lp, lz, entropy [m]
void logprob_chunk(const Logprob &a, const at::Tensor &z, const at::Tensor &ids, const at::Tensor &lp, const at::Tensor &lz,
		   const at::Tensor &entropy)
{
	int64_t v = z.size(1);
	if (a.fast) {
		each_row(z.size(0), v, [&](int64_t i) {
			nt::cpu::logprob_row(ptr(z) + i * v, v, ids.const_data_ptr<int64_t>()[i], static_cast<float>(a.inv_t),
					     out(lp) + i, out(lz) + i, entropy.defined() ? out(entropy) + i : nullptr);
		});
		return;
	}
	at::Tensor sum = at::logsumexp(z.mul_(a.inv_t), -1);
	lz.copy_(sum);
	lp.copy_(z.gather(1, ids.unsqueeze(1)).squeeze(1).sub_(sum));
	if (entropy.defined()) { // of log-probabilities: a sum of p z would round as the logits do; weight zero counts zero
		z.sub_(sum.unsqueeze(1));
		entropy.copy_(at::exp(z).mul_(z.clamp_min_(-1e30)).sum(-1).neg_());
	}
}

at::Tensor logprob_forward(const Logprob &a, at::TensorList in, Tensors &keep)
{
	const at::Tensor &h = in[0];
	int64_t n = h.size(0);
	at::Tensor lp = at::empty({n}, h.options().dtype(at::kFloat)), lz = at::empty_like(lp), room;
	for (int64_t i = 0; i < n; i += a.chunk) {
		auto part = [=](const at::Tensor &t) { return t.defined() ? t.narrow(0, i, std::min(a.chunk, n - i)) : t; };
		logprob_chunk(a, logits_of(part(h), in[1], room), part(in[2]), part(lp), part(lz), part(a.entropy));
	}
	keep.push_back(lz);
	return lp;
}

// z [m, v] becomes the gradient of its logits: g / T (onehot - softmax)
void logprob_chunk_back(const Logprob &a, const at::Tensor &z, const at::Tensor &ids, const at::Tensor &lz, const at::Tensor &g)
{
	int64_t v = z.size(1);
	if (!a.fast) {
		z.mul_(a.inv_t).sub_(lz.unsqueeze(1)).exp_().mul_((g * -a.inv_t).unsqueeze(1));
		z.scatter_add_(1, ids.unsqueeze(1), (g * a.inv_t).unsqueeze(1));
		return;
	}
	each_row(z.size(0), v, [&](int64_t i) {
		nt::cpu::logprob_row_back(out(z) + i * v, v, ids.const_data_ptr<int64_t>()[i], static_cast<float>(a.inv_t),
					  ptr(lz)[i], ptr(g)[i]);
	});
}

Tensors logprob_backward(const Logprob &a, const Tensors &saved, const at::Tensor &g)
{
	const at::Tensor &h = saved[0], &w = saved[1];
	at::Tensor room, dh = at::empty_like(h), dw = w.requires_grad() ? at::zeros_like(w, h.options()) : at::Tensor();
	for (int64_t i = 0; i < h.size(0); i += a.chunk) {
		int64_t m = std::min(a.chunk, h.size(0) - i);
		at::Tensor hi = h.narrow(0, i, m), z = logits_of(hi, w, room);
		logprob_chunk_back(a, z, saved[2].narrow(0, i, m), saved[3].narrow(0, i, m), g.narrow(0, i, m));
		z = z.to(h.scalar_type());
		nt::times(z, w, true, dh.narrow(0, i, m));
		if (dw.defined())
			dw.addmm_(z.t(), hi);
	}
	return {dh, dw, at::Tensor()};
}

// ---- sampling: z [n, v], u [n] ----

at::Tensor sample_fast(const at::Tensor &z, const at::Tensor &u, double temperature, const at::Tensor &lp)
{
	int64_t n = z.size(0), v = z.size(1);
	at::Tensor id = at::empty({n}, z.options().dtype(at::kLong));
	each_row(n, v, [&](int64_t i) {
		id.mutable_data_ptr<int64_t>()[i] =
			nt::cpu::sample_row(ptr(z) + i * v, v, ptr(u)[i], static_cast<float>(temperature), out(lp) + i);
	});
	return id;
}

// The first token whose cumulative weight reaches u of the total; in double, for 150,000 of them.
at::Tensor sample_plain(const at::Tensor &z, const at::Tensor &u, double temperature, const at::Tensor &lp)
{
	at::Tensor all = at::log_softmax(temperature == 0 ? z : z / temperature, -1), id;
	if (temperature == 0) {
		id = at::argmax(z, -1);
	} else {
		at::Tensor sum = at::exp(all.to(at::kDouble)).cumsum(-1);
		at::Tensor want = u.to(at::kDouble).unsqueeze(1) * sum.narrow(1, z.size(1) - 1, 1);
		id = at::searchsorted(sum, want).squeeze(1).clamp_max(z.size(1) - 1);
	}
	lp.copy_(all.gather(1, id.unsqueeze(1)).squeeze(1));
	return id;
}

} // namespace

nt_tensor *nt_rms_norm(const nt_tensor *x, const nt_tensor *w, double eps)
{
	return expr("rms_norm", {x, w}, [&] {
		TORCH_CHECK(w->t.numel() == x->t.size(-1), "widths differ");
		at::Tensor in = x->t.contiguous(), gain = w->t.contiguous();
		if (nt::fast({in, gain}))
			return norm_rope(in, gain, eps, {}, {});
		bool types = gain.scalar_type() == in.scalar_type() || gain.scalar_type() == at::kFloat;
		bool gpu = types && nt::gpu::takes(NT_FAST_NORM, {in}) && nt::gpu::takes(NT_FAST_NORM, {gain});
		if (!gpu || gain.requires_grad())
			return norm_plain(in, gain, eps);
		return fused_one(in, [=](const at::Tensor &dy, const at::Tensor &of) {
			return nt::gpu::rms_norm(dy, of, gain, eps);
		});
	});
}

nt_tensor *nt_qk_rope(const nt_tensor *x, const nt_tensor *w, double eps, const nt_tensor *cos, const nt_tensor *sin)
{
	return expr("qk_rope", {x, cos, sin}, [&] {
		at::Tensor in = x->t, c = cos->t.contiguous(), s = sin->t.contiguous(), norm = nt::tensor(w);
		TORCH_CHECK(in.dim() == 3 && c.dim() == 2 && c.size(0) == in.size(0) && c.size(1) * 2 == in.size(2) &&
				    s.sizes() == c.sizes(),
			    "positions do not fit");
		TORCH_CHECK(!w || norm.numel() == in.size(2), "widths differ");
		bool gpu = nt::gpu::takes(NT_FAST_ROPE, {c, s, w ? norm : c}) && nt::gpu::takes_type(in) &&
			   !norm.requires_grad();
		if (!gpu && !nt::fast({in, w ? norm : c, c, s}))
			return rope_plain(w ? norm_plain(in, norm, eps) : in, c, s);
		if (!nt::heads_flat(in))
			in = in.contiguous();
		if (!gpu)
			return norm_rope(in, w ? norm.contiguous() : norm, eps, c, s);
		return fused_one(in, [=](const at::Tensor &dy, const at::Tensor &of) {
			return nt::gpu::qk_rope(dy, of, norm, eps, c, s);
		});
	});
}

nt_tensor *nt_swiglu(const nt_tensor *gate_up) { return glu("swiglu", false, gate_up); }
nt_tensor *nt_geglu(const nt_tensor *gate_up) { return glu("geglu", true, gate_up); }

void nt_logprob_chunk(int64_t bytes) { chunk_bytes = bytes; }

nt_tensor *nt_token_logprob(const nt_tensor *h, const nt_tensor *head, const nt_tensor *ids, double temperature,
			    nt_tensor **entropy)
{
	Logprob a = {1 / temperature, 1, false, {}};
	nt_tensor *lp = expr("token_logprob", {h, head, ids}, [&] {
		int64_t v = head->t.size(0), bytes = chunk_bytes ? chunk_bytes : h->t.is_cpu() ? NT_CHUNK_CPU : NT_CHUNK_GPU;
		TORCH_CHECK(h->t.dim() == 2 && head->t.dim() == 2 && h->t.size(1) == head->t.size(1), "widths differ");
		TORCH_CHECK(ids->t.dim() == 1 && ids->t.numel() == h->t.size(0), "ids do not fit");
		TORCH_CHECK(temperature > 0, "the temperature is ", temperature);
		a.chunk = std::max<int64_t>(1, bytes / int64_t(sizeof(float)) / v);
		a.fast = nt::fast({h->t});
		at::Tensor id = ids->t.contiguous();
		for (int64_t i = 0; id.is_cpu() && i < id.numel();
		     i++) { // a GPU finds it out by itself, and a check would wait for it
			int64_t one = id.const_data_ptr<int64_t>()[i];
			TORCH_CHECK(one >= 0 && one < v, "id ", one, " is outside [0, ", v, ")");
		}
		if (entropy)
			a.entropy = at::empty({h->t.size(0)}, h->t.options().dtype(at::kFloat));
		return nt::fused(
			{h->t.contiguous(), head->t, id},
			[a](at::TensorList in, Tensors &keep) { return logprob_forward(a, in, keep); },
			[a](const Tensors &saved, const at::Tensor &g) { return logprob_backward(a, saved, g); });
	});
	if (entropy)
		*entropy = lp ? nt::wrap(a.entropy) : nullptr;
	return lp;
}

nt_tensor *nt_sample(const nt_tensor *logits, const nt_tensor *u, double temperature, nt_tensor **logprob)
{
	at::Tensor lp;
	nt_tensor *ids = expr("sample", {logits, u}, [&] {
		TORCH_CHECK(logits->t.dim() == 2 && logits->t.size(1) > 0 && u->t.numel() == logits->t.size(0),
			    "uniform numbers do not fit");
		TORCH_CHECK(temperature >= 0, "the temperature is ", temperature);
		at::Tensor z = logits->t.to(at::kFloat).contiguous();
		lp = at::empty({z.size(0)}, z.options());
		if (nt::gpu::takes(NT_FAST_SAMPLING, {z, u->t}))
			return nt::gpu::sample(z, u->t, temperature, lp);
		return (nt::fast({logits->t, u->t}) ? sample_fast : sample_plain)(z, u->t.contiguous(), temperature, lp);
	});
	if (logprob)
		*logprob = ids ? nt::wrap(lp) : nullptr;
	return ids;
}
