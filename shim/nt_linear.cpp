// Matrix products: x W^T for few rows and many, logits, and a projection with low-rank adapters beside it, which is one
// operation with one gradient: what all adapters of a matrix add is two products.
#include "shim/nt_gpu.h"

#include <algorithm>

using nt::expr;
using nt::Tensors;

static thread_local bool decoding;

void nt_decoding(bool on) { decoding = on; }

static const int64_t PIECE = 1 << 21; // numbers of a matrix in the type of the product at once: 8 MB in fp32

static bool is_stored(const at::Tensor &x, const at::Tensor &w)
{
	return w.scalar_type() == at::kBFloat16 && x.scalar_type() == at::kFloat;
}

static bool by_rows(const at::Tensor &x, const at::Tensor &w)
{
	return decoding && nt::fast({x}) && (is_stored(x, w) || nt::fast({w}));
}

static bool by_blocks(const at::Tensor &x, const at::Tensor &w, bool back)
{
	return !decoding && nt::blocks_are_faster(x, w, back);
}

at::Tensor nt::times(const at::Tensor &x, const at::Tensor &w, bool back, at::Tensor y)
{
	if (by_blocks(x, w, back))
		return nt::times_blocks(x, w, back, y);
	if (!y.defined())
		y = at::empty({x.size(0), w.size(back)}, x.options());
	if (x.scalar_type() == w.scalar_type())
		return at::mm_out(y, x, back ? w : w.t());
	int64_t out = w.size(0), step = std::max<int64_t>(1, PIECE / w.size(1));
	for (int64_t o = 0, n = std::min(step, out); o < out; o += n, n = std::min(step, out - o)) {
		at::Tensor piece = w.narrow(0, o, n).to(x.scalar_type());
		if (back)
			y.addmm_(x.narrow(1, o, n), piece, o > 0);
		else
			y.narrow(1, o, n).addmm_(x, piece.t(), 0);
	}
	return y;
}

// x W^T of frozen weights, by times(): of those stored in another type nothing in the type of x outlives a pass.
static at::Tensor product_frozen(const at::Tensor &x, const at::Tensor &w)
{
	return nt::fused(
		{x, w}, [](at::TensorList in, Tensors &) { return nt::times(in[0], in[1], false); },
		[](const Tensors &saved, const at::Tensor &dy) -> Tensors {
			return {nt::times(dy, saved[1], true), saved[0].defined() ? at::mm(dy.t(), saved[0]) : at::Tensor()};
		},
		{!w.requires_grad()});
}

// x W^T + bias, of all ws side by side.
static at::Tensor product(const at::Tensor &x, at::TensorList ws, const at::Tensor &bias = {})
{
	const at::Tensor &w = ws[0];
	if (!c10::GradMode::is_enabled() && nt::fast({x, bias.defined() ? bias : x}) &&
	    std::all_of(ws.begin(), ws.end(), [&](const at::Tensor &one) { return by_rows(x, one); }))
		return nt::linear_rows(x, ws, bias);
	at::Tensor y;
	if (ws.size() > 1) {
		Tensors parts;
		for (const at::Tensor &one : ws)
			parts.push_back(product(x, one));
		y = at::cat(parts, -1);
	} else if (is_stored(x, w) || (by_blocks(x, w, false) && !w.requires_grad())) {
		auto shape = x.sizes().vec();
		shape.back() = w.size(0);
		y = product_frozen(x.reshape({-1, x.size(-1)}), w).view(shape);
	} else {
		return bias.defined() ? at::linear(x, w, bias) : at::linear(x, w);
	}
	return bias.defined() ? y + bias : y;
}

// A GPU keeps the sum that it has anyway.
at::Tensor nt::mm_f32(const at::Tensor &a, const at::Tensor &b)
{
	bool plain = a.is_cpu() || a.scalar_type() == at::kFloat || !gpu::fast(NT_FAST_PRODUCT);
	return plain ? at::mm(a, b).to(at::kFloat) : at::mm(a, b, at::kFloat);
}

nt_tensor *nt_linear(const nt_tensor *x, const nt_tensor *w, const nt_tensor *bias)
{
	if (bias)
		return expr("linear", {x, w, bias}, [&] { return product(x->t, w->t, bias->t); });
	return expr("linear", {x, w}, [&] { return product(x->t, w->t); });
}

nt_tensor *nt_logits(const nt_tensor *h, const nt_tensor *head)
{
	return expr("logits", {h, head},
		    [&] { return h->t.is_cpu() ? product(h->t, head->t) : nt::mm_f32(h->t, head->t.t()); });
}

namespace
{

struct Part { // of an adapter that is trained
	int64_t rank_at, out_at, rank, out;
	double scale;
};

struct Projection {
	size_t n_w;
	bool biased, residual, wants_x; // wants_x: a gradient
	at::Tensor A, B;                // A [R, I], B [O, R], or a stack of them; undefined: no adapter
	const int64_t *rows = nullptr;  // of a stack
	std::vector<Part> trained;
	int64_t from = 0, to = 0; // of the rank: what is trained
};

enum { X, RESIDUAL, BIAS, W }; // the inputs (x in the place of what is missing), then A and B of each trained part

// Adds to y what each adapter of a stack has for its rows. On a GPU equal shares are two products; on the CPU a row's bits must
// not depend on the rows beside it, so each adapter has its own.
at::Tensor add_stacked(const Projection &p, const at::Tensor &x, at::Tensor y)
{
	const int64_t n = p.A.size(0), share = p.rows[0];
	int64_t at = 0;
	if (!x.is_cpu() && std::all_of(p.rows, p.rows + n, [=](int64_t m) { return m == share; })) {
		at::Tensor u = at::bmm(x.reshape({n, share, x.size(1)}), p.A.transpose(1, 2));
		y.view({n, share, y.size(1)}).baddbmm_(u, p.B.transpose(1, 2));
		return y;
	}
	for (int64_t i = 0; i < n; at += p.rows[i++])
		if (p.rows[i])
			y.narrow(0, at, p.rows[i]).add_(product(product(x.narrow(0, at, p.rows[i]), p.A[i]), p.B[i]));
	return y;
}

// Keeps u = x A^T.
at::Tensor project(const Projection &p, at::TensorList in, Tensors &keep)
{
	const at::Tensor &x = in[X], none;
	at::Tensor y;
	if (p.n_w == 1 && p.residual && !p.biased && !x.is_cpu()) { // a GPU adds in the product: a kernel and a rounding less
		y = in[RESIDUAL]; // in place while decoding: else libtorch copies it first
		y = decoding ? y.addmm_(x, in[W].t()) : at::addmm(y, x, in[W].t());
	} else {
		y = product(x, in.slice(W, p.n_w), p.biased ? in[BIAS] : none);
		if (p.residual)
			y = in[RESIDUAL] + y;
	}
	if (!p.A.defined())
		return y;
	if (p.rows)
		return add_stacked(p, x, y);
	at::Tensor u = product(x, p.A);
	keep.push_back(p.trained.empty() ? none : u);
	if (decoding && x.is_cpu()) // a row's bits must not depend on the rows beside it
		return y.add_(product(u, p.B));
	return y.addmm_(u, p.B.t());
}

Tensors project_back(const Projection &p, const Tensors &saved, const at::Tensor &dy)
{
	const at::Tensor &x = saved[X], &u = saved.back();
	Tensors d(W + p.n_w + 2 * p.trained.size());
	at::Tensor du = at::mm(dy, p.B);
	int64_t at = 0;
	for (size_t i = W; i < W + p.n_w; i++) {
		const at::Tensor &w = saved[i], part = dy.narrow(1, at, w.size(0));
		if (p.wants_x)
			d[X] = at ? d[X].add_(nt::times(part, w, true)) : nt::times(part, w, true);
		if (w.requires_grad())
			d[i] = at::mm(part.t(), x);
		at += w.size(0);
	}
	if (p.wants_x)
		d[X].addmm_(du, p.A);
	if (p.residual)
		d[RESIDUAL] = dy;
	if (p.biased && saved[BIAS].requires_grad())
		d[BIAS] = dy.sum(0);
	if (p.trained.empty())
		return d;
	at::Tensor dA = nt::mm_f32(du.narrow(1, p.from, p.to - p.from).t(), x);
	at::Tensor dB = nt::mm_f32(dy.t(), u.narrow(1, p.from, p.to - p.from));
	for (size_t i = 0; i < p.trained.size(); i++) {
		const Part &t = p.trained[i];
		d[W + p.n_w + 2 * i] = dA.narrow(0, t.rank_at - p.from, t.rank);
		d[W + p.n_w + 2 * i + 1] = dB.narrow(0, t.out_at, t.out).narrow(1, t.rank_at - p.from, t.rank) * t.scale;
	}
	return d;
}

} // namespace

nt_tensor *nt_project(const nt_tensor *x, const struct nt_projection *given)
{
	const nt_tensor *const *w = given->w, *bias = given->bias ? given->bias : x;
	const nt_tensor *residual = given->residual ? given->residual : x;
	const struct nt_lora *lora = given->lora && given->lora->A ? given->lora : nullptr;
	const nt_tensor *second = given->n_w > 1 ? w[1] : x, *third = given->n_w > 2 ? w[2] : x;
	return expr("project", {x, w[0], second, third, residual, bias, lora ? lora->B : x}, [&] {
		Projection p;
		p.n_w = static_cast<size_t>(given->n_w);
		p.biased = given->bias;
		p.residual = given->residual;
		p.wants_x = x->t.requires_grad();
		Tensors in = {x->t, residual->t, bias->t}, unused;
		for (int i = 0; i < given->n_w; i++)
			in.push_back(w[i]->t);
		if (!lora)
			return project(p, in, unused);
		p.A = lora->A->t;
		p.B = lora->B->t;
		p.rows = lora->rows;
		for (int i = 0; i < lora->n; i++) {
			const struct nt_lora_part &part = lora->part[i];
			if (!c10::GradMode::is_enabled() || !part.A->t.requires_grad())
				continue;
			p.from = p.trained.empty() ? part.rank_at : p.from;
			p.to = part.rank_at + part.A->t.size(0);
			p.trained.push_back({part.rank_at, part.out_at, part.A->t.size(0), part.B->t.size(0), part.scale});
			in.push_back(part.A->t);
			in.push_back(part.B->t);
		}
		std::vector<bool> unsaved = {true, true, !given->bias};
		for (size_t i = W; i < in.size(); i++) // only the gradients of these take x
			unsaved[X] = unsaved[X] && !in[i].requires_grad();
		return nt::fused(
			in, [=](at::TensorList all, Tensors &keep) { return project(p, all, keep); },
			[=](const Tensors &saved, const at::Tensor &dy) { return project_back(p, saved, dy); }, unsaved);
	});
}
