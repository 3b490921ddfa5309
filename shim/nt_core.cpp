// Handles, scopes, errors; making tensors and looking at them.
#include "shim/nt_internal.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <optional>
#include <vector>

#include <unistd.h>

namespace
{

thread_local std::vector<std::vector<nt_tensor *>> scopes; // a place is NULL once its handle is owned elsewhere
thread_local int64_t live = 0;
thread_local nt_status status = NT_OK;
thread_local std::string text;
thread_local std::vector<bool> grad_modes;
bool plain = false;

struct GradOff { // gradients are recorded only when asked for
	GradOff() { c10::GradMode::set_enabled(false); }
};
thread_local GradOff grad_off;

// Handles and scopes, whose loss would be noticed nowhere, and whatever else is small: without memory for them the process
// ends, as the C side's does. A tensor's memory is not asked for by `new`, and is an error that a program may recover from.
const std::new_handler on_no_memory = std::set_new_handler([] {
	fprintf(stderr, "%s: out of memory\n", program_invocation_short_name);
	_exit(1);
});

// Page-locked memory's allocator, when it takes some back, throws where the device broke: in a destructor the process would
// end.
void give_back(const at::Tensor &host)
{
	at::DataPtr memory = host.storage().set_data_ptr(at::DataPtr());
	auto take = memory.get_deleter();
	try {
		take(memory.release_context());
	} catch (const c10::Error &) { // what broke it is said by what waits for it
	}
}

void drop(nt_tensor *t)
{
	live--;
	if (t->there && t->t.storage().use_count() == 1)
		give_back(t->t);
	delete t;
}

void into_scope(nt_tensor *t)
{
	if (scopes.empty())
		return;
	t->scope = scopes.size();
	t->place = scopes.back().size();
	scopes.back().push_back(t);
}

std::string shapes(nt::Handles in)
{
	std::string s;
	for (const nt_tensor *x : in) {
		s += s.empty() ? "" : " ";
		s += x ? std::string(c10::toString(x->t.scalar_type())) + "[" : "NULL";
		for (int64_t i = 0; x && i < x->t.dim(); i++)
			s += (i ? "," : "") + std::to_string(x->t.size(i));
		s += x ? "]" : "";
	}
	return s;
}

} // namespace

namespace nt
{

nt_tensor *wrap(at::Tensor t)
{
	(void)&grad_off;
	auto *h = new nt_tensor{std::move(t)};
	live++;
	into_scope(h);
	return h;
}

nt_status record(nt_status s, const char *op, Handles in, const std::string &why)
{
	if (status == NT_OK) {
		status = s;
		text = *op ? std::string(op) + " " + shapes(in) + ": " + why : why;
		std::replace(text.begin(), text.end(), '\n', ' ');
	}
	return s;
}

bool given(const char *op, Handles in)
{
	bool all = std::find(in.begin(), in.end(), nullptr) == in.end();
	if (!all)
		record(NT_FAILED, op, in, "a tensor is NULL");
	return all;
}

nt_status caught(const char *op, Handles in)
{
	try {
		throw;
	} catch (const c10::Error &e) {
		std::string why = e.what_without_backtrace();
		if (dynamic_cast<const c10::AcceleratorError *>(&e))
			why = why.substr(0, why.find('\n')); // the rest is advice on debugging
		auto says = [&](const char *what) { return why.find(what) != std::string::npos; };
		bool memory = dynamic_cast<const c10::OutOfMemoryError *>(&e) || says("not enough memory") ||
			      says("can't allocate memory") || says("CUDA error: out of memory") ||
			      says("CUBLAS_STATUS_ALLOC_FAILED");
		return record(memory ? NT_OUT_OF_MEMORY : NT_FAILED, op, in, why);
	} catch (const std::exception &e) {
		return record(NT_FAILED, op, in, e.what());
	} catch (...) {
		return record(NT_FAILED, op, in, "unknown error");
	}
}

static const at::ScalarType types[] = {at::kFloat, at::kBFloat16, at::kHalf, at::kLong, at::kInt, at::kByte}; // by nt_dtype

at::ScalarType scalar(nt_dtype dtype)
{
	TORCH_CHECK(dtype >= 0 && dtype < std::size(types), "unknown dtype ", static_cast<int>(dtype));
	return types[dtype];
}

bool enabled() { return !plain; }

bool fast(at::TensorList in)
{
	return !plain && std::all_of(in.begin(), in.end(),
				     [](const at::Tensor &t) { return t.is_cpu() && t.scalar_type() == at::kFloat; });
}

} // namespace nt

using nt::action;
using nt::expr;

nt_status nt_check(void) { return status; }
const char *nt_error(void) { return text.c_str(); }

void nt_clear(void)
{
	status = NT_OK;
	text.clear();
}

void nt_plain(bool on) { plain = on; }

// ---- scopes ----

void nt_scope_push(void) { scopes.emplace_back(); }

void nt_scope_pop(void)
{
	action("scope_pop", {}, [] {
		TORCH_CHECK(!scopes.empty(), "no scope is open");
		auto last = std::move(scopes.back());
		scopes.pop_back();
		for (nt_tensor *t : last)
			if (t)
				drop(t);
	});
}

nt_tensor *nt_scope_pop_with(nt_tensor *keep)
{
	// What an outer scope or the caller owns is safe already, and must not move to a scope that ends sooner.
	bool moves = keep && keep->scope && keep->scope == scopes.size();
	if (moves)
		nt_own(keep);
	nt_scope_pop();
	if (moves)
		into_scope(keep);
	return keep;
}

nt_tensor *nt_own(nt_tensor *t)
{
	if (t && t->scope) {
		scopes[t->scope - 1][t->place] = nullptr;
		t->scope = 0;
	}
	return t;
}

void nt_free(nt_tensor *t)
{
	if (t)
		drop(nt_own(t));
}

int64_t nt_live(void) { return live; }

// ---- looking ----

int nt_ndim(const nt_tensor *t) { return t ? static_cast<int>(t->t.dim()) : 0; }
int64_t nt_numel(const nt_tensor *t) { return t ? t->t.numel() : 0; }
int nt_device_of(const nt_tensor *t) { return !t || t->t.is_cpu() ? NT_CPU : t->t.device().index(); }

int64_t nt_size(const nt_tensor *t, int dim)
{
	int64_t size = 0;
	action("size", {t}, [&] { size = t->t.size(dim); });
	return size;
}

nt_dtype nt_dtype_of(const nt_tensor *t)
{
	auto at = std::find(std::begin(nt::types), std::end(nt::types), t ? t->t.scalar_type() : at::kFloat);
	return at == std::end(nt::types) ? NT_F32 : static_cast<nt_dtype>(at - std::begin(nt::types));
}

static nt_status to_host(const char *op, const nt_tensor *t, at::ScalarType type, void *out, size_t n)
{
	return action(op, {t}, [&] {
		TORCH_CHECK(static_cast<size_t>(t->t.numel()) == n, "room for ", n, " elements");
		if (t->there)
			t->there->synchronize();
		at::Tensor c = t->t.detach().to(at::kCPU, type).contiguous();
		std::memcpy(out, c.data_ptr(), c.nbytes());
	});
}

nt_status nt_to_host_f32(const nt_tensor *t, float *out, size_t n) { return to_host("to_host_f32", t, at::kFloat, out, n); }
nt_status nt_to_host_i64(const nt_tensor *t, int64_t *out, size_t n) { return to_host("to_host_i64", t, at::kLong, out, n); }

nt_status nt_to_host_raw(const nt_tensor *t, void *out, size_t bytes)
{
	if (!t)
		return action("to_host_raw", {t}, [] {});
	size_t size = static_cast<size_t>(t->t.element_size());
	return to_host("to_host_raw", t, t->t.scalar_type(), out, bytes / size + (bytes % size != 0));
}

nt_tensor *nt_fetch(const nt_tensor *t)
{
	std::unique_ptr<c10::Event> there;
	nt_tensor *copy = expr("fetch", {t}, [&] {
		if (!t->t.is_cuda())
			return t->t.to(at::kCPU, false, true);
		at::Tensor host = t->t.to(at::kCPU, true);
		try {
			there = std::make_unique<c10::Event>(t->t.device().type());
			there->record(c10::impl::VirtualGuardImpl(t->t.device().type()).getStream(t->t.device()));
		} catch (...) {
			give_back(host);
			throw;
		}
		return host;
	});
	if (copy)
		copy->there = std::move(there);
	return copy;
}

nt_status nt_item(const nt_tensor *t, double *out)
{
	return action("item", {t}, [&] { *out = t->t.detach().to(at::kDouble).item<double>(); });
}

// ---- gradients ----

void nt_grad_push(bool on)
{
	(void)&grad_off;
	grad_modes.push_back(c10::GradMode::is_enabled());
	c10::GradMode::set_enabled(on);
}

void nt_grad_pop(void)
{
	action("grad_pop", {}, [] {
		TORCH_CHECK(!grad_modes.empty(), "no grad mode was pushed");
		c10::GradMode::set_enabled(grad_modes.back());
		grad_modes.pop_back();
	});
}

nt_status nt_requires_grad(nt_tensor *t, bool on)
{
	return action("requires_grad", {t}, [&] { t->t.requires_grad_(on); });
}
bool nt::unordered;

static void backward(const at::Tensor &y, const at::Tensor &dy = {})
{
	std::optional<nt::Deterministic> on;
	if (nt::unordered)
		on.emplace();
	y.backward(dy);
}

nt_status nt_backward(nt_tensor *loss) { return action("backward", {loss}, [&] { backward(loss->t); }); }
nt_status nt_backward_with(nt_tensor *y, const nt_tensor *g)
{
	return action("backward_with", {y, g}, [&] { backward(y->t, g->t); });
}

nt_tensor *nt_grad(const nt_tensor *t)
{
	return expr("grad", {t}, [&] {
		TORCH_CHECK(t->t.grad().defined(), "it has no gradient");
		return t->t.grad();
	});
}

bool nt_has_grad(const nt_tensor *t) { return t && t->t.grad().defined(); }
bool nt_wants_grad(const nt_tensor *t) { return t && t->t.requires_grad(); }
void nt_zero_grad(nt_tensor *t)
{
	if (t)
		t->t.mutable_grad() = at::Tensor();
}
