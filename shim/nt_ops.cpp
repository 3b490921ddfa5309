// Expressions that are one libtorch operation or a short composition, and the actions on parameters.
#include "shim/nt_internal.h"

#include <ATen/ops/_fused_adamw.h>

#include <cmath>
#include <vector>

using nt::action;
using nt::expr;

// ---- elementwise and shape ----

nt_tensor *nt_add(const nt_tensor *a, const nt_tensor *b) { return expr("add", {a, b}, [&] { return a->t + b->t; }); }
nt_tensor *nt_sub(const nt_tensor *a, const nt_tensor *b) { return expr("sub", {a, b}, [&] { return a->t - b->t; }); }
nt_tensor *nt_mul(const nt_tensor *a, const nt_tensor *b) { return expr("mul", {a, b}, [&] { return a->t * b->t; }); }
nt_tensor *nt_min(const nt_tensor *a, const nt_tensor *b)
{
	return expr("min", {a, b}, [&] { return at::minimum(a->t, b->t); });
}
nt_tensor *nt_scale(const nt_tensor *a, double c) { return expr("scale", {a}, [&] { return a->t * c; }); }
nt_tensor *nt_add_scalar(const nt_tensor *a, double c) { return expr("add_scalar", {a}, [&] { return a->t + c; }); }
nt_tensor *nt_exp(const nt_tensor *a) { return expr("exp", {a}, [&] { return at::exp(a->t); }); }
nt_tensor *nt_clamp(const nt_tensor *a, double lo, double hi)
{
	return expr("clamp", {a}, [&] { return at::clamp(a->t, lo, hi); });
}
nt_tensor *nt_sum(const nt_tensor *a) { return expr("sum", {a}, [&] { return at::sum(a->t); }); }
nt_tensor *nt_dot(const nt_tensor *a, const nt_tensor *b) { return expr("dot", {a, b}, [&] { return at::sum(a->t * b->t); }); }
nt_tensor *nt_mean_last(const nt_tensor *a) { return expr("mean_last", {a}, [&] { return at::mean(a->t, -1); }); }
nt_tensor *nt_to(const nt_tensor *a, nt_dtype dtype) { return expr("to", {a}, [&] { return a->t.to(nt::scalar(dtype)); }); }
nt_tensor *nt_clone(const nt_tensor *a) { return expr("clone", {a}, [&] { return a->t.clone(at::MemoryFormat::Contiguous); }); }

nt_tensor *nt_narrow(const nt_tensor *a, int dim, int64_t start, int64_t length)
{
	return expr("narrow", {a}, [&] { return a->t.narrow(dim, start, length); });
}

nt_tensor *nt_reshape(const nt_tensor *a, int ndim, const int64_t *shape)
{
	return expr("reshape", {a}, [&] { return a->t.reshape(at::IntArrayRef(shape, ndim)); });
}

nt_tensor *nt_cat(nt_tensor *const *list, int n, int dim)
{
	for (int i = 0; i < n; i++)
		if (!list[i])
			return expr("cat", {list[i]}, [] { return at::Tensor(); });
	return expr("cat", {}, [&] {
		std::vector<at::Tensor> parts;
		for (int i = 0; i < n; i++)
			parts.push_back(list[i]->t);
		return at::cat(parts, dim);
	});
}

nt_tensor *nt_rows(const nt_tensor *a, const nt_tensor *index)
{
	return expr("rows", {a, index}, [&] { return at::index_select(a->t, 0, index->t); });
}

nt_tensor *nt_put_rows(const nt_tensor *a, const nt_tensor *index, const nt_tensor *b)
{
	return expr("put_rows", {a, index, b}, [&] { return at::index_copy(a->t, 0, index->t, b->t); });
}

// ---- the model's plain parts ----

nt_tensor *nt_matmul(const nt_tensor *a, const nt_tensor *b)
{
	return expr("matmul", {a, b}, [&] { return at::mm(a->t, b->t); });
}

nt_tensor *nt_linear(const nt_tensor *x, const nt_tensor *w, const nt_tensor *bias)
{
	if (bias)
		return expr("linear", {x, w, bias}, [&] { return at::linear(x->t, w->t, bias->t); });
	return expr("linear", {x, w}, [&] { return at::linear(x->t, w->t); });
}

nt_tensor *nt_lora(const nt_tensor *y, const nt_tensor *x, const nt_tensor *A, const nt_tensor *B, double scale)
{
	return expr("lora", {y, x, A, B}, [&] {
		auto type = x->t.scalar_type();
		return at::add(y->t, at::linear(at::linear(x->t, A->t.to(type)), B->t.to(type)), scale);
	});
}

nt_tensor *nt_embedding(const nt_tensor *w, const nt_tensor *ids)
{
	return expr("embedding", {w, ids}, [&] { return at::embedding(w->t, ids->t); });
}

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

nt_tensor *nt_topk(const nt_tensor *logits, int64_t k)
{
	return expr("topk", {logits}, [&] { return std::get<1>(at::topk(logits->t, k, -1)); });
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

static std::vector<at::Tensor> gradients(nt_tensor *const *params, int n)
{
	std::vector<at::Tensor> grads;
	for (int i = 0; i < n; i++) {
		TORCH_CHECK(params[i], "parameter ", i, " is NULL");
		if (params[i]->t.grad().defined())
			grads.push_back(params[i]->t.grad());
	}
	return grads;
}

nt_status nt_grad_norm(nt_tensor *const *params, int n, double *norm)
{
	return action("grad_norm", {}, [&] {
		c10::NoGradGuard off;
		std::vector<at::Tensor> grads = gradients(params, n);
		*norm = grads.empty()
				? 0
				: at::linalg_vector_norm(at::stack(at::_foreach_norm(grads, 2, at::kFloat)).to(at::kDouble))
					  .item<double>();
	});
}

nt_status nt_grad_scale(nt_tensor *const *params, int n, double c)
{
	return action("grad_scale", {}, [&] {
		c10::NoGradGuard off;
		std::vector<at::Tensor> grads = gradients(params, n);
		if (!grads.empty())
			at::_foreach_mul_(grads, c);
	});
}

nt_status nt_adamw_step(nt_tensor *const *params, nt_tensor *const *m, nt_tensor *const *v, int n, int64_t step,
			const struct nt_adamw *hyper)
{
	return action("adamw_step", {}, [&] {
		c10::NoGradGuard off;
		std::vector<at::Tensor> p, g, ms, vs, steps;
		at::Tensor count; // one for all of them, on their device
		for (int i = 0; i < n; i++) {
			TORCH_CHECK(params[i] && m[i] && v[i], "parameter ", i, " or its state is NULL");
			if (!params[i]->t.grad().defined())
				continue;
			if (!count.defined())
				count = at::full({}, static_cast<double>(step),
						 params[i]->t.options().dtype(at::kFloat).requires_grad(false));
			p.push_back(params[i]->t);
			g.push_back(params[i]->t.grad());
			ms.push_back(m[i]->t);
			vs.push_back(v[i]->t);
			steps.push_back(count);
		}
		if (!p.empty())
			at::_fused_adamw_(p, g, ms, vs, {}, steps, hyper->lr, hyper->beta1, hyper->beta2, hyper->weight_decay,
					  hyper->eps, false, false);
	});
}
