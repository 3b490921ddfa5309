// Expressions that are one libtorch operation or a short composition, and the actions on parameters.
#include "shim/nt_internal.h"

#include <ATen/ops/_fused_adamw.h>

#include <algorithm>
#include <cmath>
#include <cstring>

using nt::action;
using nt::expr;
using In = const nt_tensor *;

// nt_NAME of PARAMS is the value; INPUTS are the tensors among them.
#define INPUTS(...) {__VA_ARGS__}
#define EXPR(name, params, inputs, ...) \
	nt_tensor *nt_##name params { return expr(#name, INPUTS inputs, [&] { return __VA_ARGS__; }); }

// ---- making ----

static at::Tensor blob(nt_dtype dtype, const void *data, int ndim, const int64_t *shape)
{
	return at::from_blob(const_cast<void *>(data), at::IntArrayRef(shape, ndim), nt::scalar(dtype));
}

#define AS at::IntArrayRef(shape, n), at::TensorOptions(nt::scalar(dtype)).device(nt::device(index))
EXPR(empty, (nt_dtype dtype, int index, int n, const int64_t *shape), (), at::empty(AS))
EXPR(zeros, (nt_dtype dtype, int index, int n, const int64_t *shape), (), at::zeros(AS))
EXPR(borrow, (nt_dtype dtype, const void *data, int n, const int64_t *shape), (), blob(dtype, data, n, shape))
EXPR(from_host, (nt_dtype dtype, int index, const void *data, int n, const int64_t *shape), (),
     index == NT_CPU ? blob(dtype, data, n, shape).clone() : blob(dtype, data, n, shape).to(nt::device(index)))
nt_tensor *nt_i64(int index, const int64_t *data, int64_t n) { return nt_from_host(NT_I64, index, data, 1, &n); }
nt_tensor *nt_f32(int index, const float *data, int64_t n) { return nt_from_host(NT_F32, index, data, 1, &n); }

// ---- elementwise and shape ----

EXPR(add, (In a, In b), (a, b), a->t + b->t)
EXPR(sub, (In a, In b), (a, b), a->t - b->t)
EXPR(mul, (In a, In b), (a, b), a->t * b->t)
EXPR(min, (In a, In b), (a, b), at::minimum(a->t, b->t))
EXPR(scale, (In a, double c), (a), a->t * c)
EXPR(add_scalar, (In a, double c), (a), a->t.is_floating_point() ? a->t + c : a->t + static_cast<int64_t>(c))
EXPR(exp, (In a), (a), at::exp(a->t))
EXPR(clamp, (In a, double lo, double hi), (a), at::clamp(a->t, lo, hi))
EXPR(sum, (In a), (a), at::sum(a->t))
EXPR(dot, (In a, In b), (a, b), at::sum(a->t * b->t))
EXPR(mean_last, (In a), (a), at::mean(a->t, -1))
EXPR(to, (In a, nt_dtype dtype), (a), a->t.to(nt::scalar(dtype)))
EXPR(clone, (In a), (a), a->t.clone(at::MemoryFormat::Contiguous))
EXPR(share, (In a), (a), a->t)
EXPR(detach, (In a), (a), a->t.detach())
EXPR(narrow, (In a, int dim, int64_t start, int64_t length), (a), a->t.narrow(dim, start, length))
EXPR(reshape, (In a, int ndim, const int64_t *shape), (a), a->t.reshape(at::IntArrayRef(shape, ndim)))
// A row that is taken several times sums their gradients, which libtorch does atomically on a GPU: in any order.
EXPR(rows, (In a, In index), (a, index), nt::fused({a->t},
	[i = index->t](at::TensorList in, nt::Tensors &) { return at::index_select(in[0], 0, i); },
	[i = index->t, n = a->t.size(0)](const nt::Tensors &, const at::Tensor &dy) {
		return nt::Tensors{nt::sum_rows(dy, i, n)};
	},
	{true}))
EXPR(put_rows, (In a, In index, In b), (a, index, b), at::index_copy(a->t, 0, index->t, b->t))
EXPR(topk, (In a, int64_t k), (a), std::get<1>(at::topk(a->t, k, -1)))

nt_status nt_split(const nt_tensor *x, int n, const int64_t *widths, nt_tensor **out)
{
	std::fill(out, out + n, nullptr);
	return action("split", {x}, [&] {
		nt::Tensors parts = at::split_with_sizes(x->t, at::IntArrayRef(widths, static_cast<size_t>(n)), -1);
		for (int i = 0; i < n; i++)
			out[i] = nt::wrap(parts[static_cast<size_t>(i)]);
	});
}

nt_tensor *nt_cat(nt_tensor *const *list, int n, int dim)
{
	nt::Tensors parts;
	for (int i = 0; i < n; i++) {
		if (!nt::given("cat", {list[i]}))
			return nullptr;
		parts.push_back(list[i]->t);
	}
	return expr("cat", {}, [&] { return at::cat(parts, dim); });
}

// ---- the model's plain parts ----

EXPR(matmul, (In a, In b), (a, b), at::mm(a->t, b->t))
EXPR(embedding, (In w, In ids), (w, ids), at::embedding(w->t, ids->t).to(w->t.is_cpu() ? at::kFloat : w->t.scalar_type()))

static at::Tensor norm_last(const at::Tensor &x) { return at::linalg_vector_norm(x, 2, {-1}, true); }

nt_tensor *nt_normalize(const nt_tensor *x)
{
	return expr("normalize", {x}, [&] {
		at::Tensor f = x->t.to(at::kFloat);
		return f * (std::sqrt(static_cast<double>(f.size(-1))) / norm_last(f).clamp_min(1e-12));
	});
}

nt_tensor *nt_inject_add(const nt_tensor *h, const nt_tensor *sites, const nt_tensor *v)
{
	return expr("inject_add", {h, sites, v}, [&] {
		TORCH_CHECK(sites->t.numel() == v->t.size(0), "injection has ", sites->t.numel(), " sites and ", v->t.size(0),
			    " vectors");
		at::Tensor at_site = at::index_select(h->t, 0, sites->t).to(at::kFloat);
		at::Tensor u = v->t.detach().to(at::kFloat);
		at::Tensor moved = at_site + norm_last(at_site) * (u / (norm_last(u) + 1e-9));
		return at::index_copy(h->t, 0, sites->t, moved.to(h->t.scalar_type()));
	});
}

// ---- actions on parameters ----

nt_status nt_copy_into(nt_tensor *to, const nt_tensor *from)
{
	return action("copy_into", {to, from}, [&] {
		TORCH_CHECK(to->t.sizes() == from->t.sizes(), "shapes differ");
		c10::NoGradGuard off;
		to->t.copy_(from->t);
	});
}

nt_status nt_add_into(nt_tensor *to, const nt_tensor *x, double c)
{
	return action("add_into", {to, x}, [&] {
		c10::NoGradGuard off;
		to->t.add_(x->t, c);
	});
}

// The gradients that there are, and what goes with them: the parameters themselves, or their state.
static nt::Tensors with_gradient(nt_tensor *const *params, nt_tensor *const *list, int n, bool gradients)
{
	nt::Tensors found;
	for (int i = 0; i < n; i++) {
		TORCH_CHECK(params[i] && list[i], "parameter ", i, " or its state is NULL");
		if (params[i]->t.grad().defined())
			found.push_back(gradients ? params[i]->t.grad() : list[i]->t);
	}
	return found;
}

nt_status nt_grad_norm(nt_tensor *const *params, int n, double *norm)
{
	return action("grad_norm", {}, [&] {
		c10::NoGradGuard off;
		*norm = 0;
		nt::Tensors g = with_gradient(params, params, n, true);
		if (!g.empty())
			*norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(g, 2, at::kFloat)).to(at::kDouble))
					.item<double>();
	});
}

nt_status nt_grad_scale(nt_tensor *const *params, int n, double c)
{
	return action("grad_scale", {}, [&] {
		c10::NoGradGuard off;
		nt::Tensors g = with_gradient(params, params, n, true);
		if (!g.empty())
			at::_foreach_mul_(g, c);
	});
}

nt_status nt_adamw_step(nt_tensor *const *params, nt_tensor *const *m, nt_tensor *const *v, int n, int64_t step,
			const struct nt_adamw *hyper)
{
	return action("adamw_step", {}, [&] {
		c10::NoGradGuard off;
		nt::Tensors p = with_gradient(params, params, n, false), g = with_gradient(params, params, n, true);
		nt::Tensors ms = with_gradient(params, m, n, false), vs = with_gradient(params, v, n, false);
		if (p.empty())
			return;
		at::Tensor count =
			at::full({}, static_cast<double>(step), p[0].options().dtype(at::kFloat)); // one for all of them
		nt::Tensors steps(p.size(), count);
		at::_fused_adamw_(p, g, ms, vs, {}, steps, hyper->lr, hyper->beta1, hyper->beta2, hyper->weight_decay,
				  hyper->eps, false, false);
	});
}

// index_put_ takes several times the time of these copies.
static void put_rows(const at::Tensor &cache, const at::Tensor &slot, const at::Tensor &at, const at::Tensor &x)
{
	int64_t n = x.size(0), places = cache.size(0) * cache.size(1), width = cache.numel() / std::max<int64_t>(places, 1);
	TORCH_CHECK(cache.is_contiguous() && slot.numel() == n && at.numel() == n && x.numel() == n * width,
		    "rows, places and cache do not fit");
	at::Tensor slots = slot.contiguous(), ats = at.contiguous(), rows = x.contiguous();
	const int64_t *s = slots.const_data_ptr<int64_t>(), *p = ats.const_data_ptr<int64_t>();
	size_t bytes = static_cast<size_t>(width) * cache.element_size();
	const char *from = static_cast<const char *>(rows.const_data_ptr());
	char *to = static_cast<char *>(cache.mutable_data_ptr());
	for (int64_t i = 0; i < n; i++, from += bytes) {
		bool fits = s[i] >= 0 && s[i] < cache.size(0) && p[i] >= 0 && p[i] < cache.size(1);
		TORCH_CHECK(fits, "row ", i, " goes to ", s[i], ", ", p[i]);
		memcpy(to + static_cast<size_t>(s[i] * cache.size(1) + p[i]) * bytes, from, bytes);
	}
}

nt_status nt_cache_put(nt_tensor *cache, const nt_tensor *slot, const nt_tensor *at, const nt_tensor *x)
{
	return nt::action("cache_put", {cache, slot, at, x}, [&] {
		c10::NoGradGuard off;
		at::Tensor rows = x->t.to(cache->t.scalar_type());
		if (cache->t.is_cpu())
			put_rows(cache->t, slot->t, at->t, rows);
		else
			cache->t.index_put_({slot->t, at->t}, rows);
	});
}
