// Handles, scopes, errors, devices; making tensors and looking at them.
#include "shim/nt_internal.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/Parallel.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#if __has_include(<cuda_runtime_api.h>) && __has_include(<crt/host_config.h>)
#include <c10/cuda/CUDACachingAllocator.h>
#define HAVE_CUDA_HEADERS 1
#endif
#include <dlfcn.h>
#include <sys/resource.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

namespace {

struct Scope {
	std::vector<nt_tensor *> handles;
};

thread_local std::vector<Scope> scopes;
thread_local int64_t live = 0;
thread_local nt_status status = NT_OK;
thread_local std::string text;
thread_local std::vector<bool> grad_modes;
bool plain = false;

struct GradOff { // gradients are recorded only when asked for
	GradOff() { c10::GradMode::set_enabled(false); }
};
thread_local GradOff grad_off;

void drop(nt_tensor *t)
{
	live--;
	delete t;
}

const char *dtype_name(at::ScalarType type)
{
	return c10::toString(type);
}

std::string shapes(std::initializer_list<const nt_tensor *> in)
{
	std::string s;
	for (const nt_tensor *x : in) {
		s += s.empty() ? "" : " ";
		if (!x) {
			s += "NULL";
			continue;
		}
		s += dtype_name(x->t.scalar_type());
		s += "[";
		for (int64_t i = 0; i < x->t.dim(); i++)
			s += (i ? "," : "") + std::to_string(x->t.size(i));
		s += "]";
	}
	return s;
}

} // namespace

namespace nt {

nt_tensor *wrap(at::Tensor t)
{
	(void)&grad_off;
	auto *h = new nt_tensor{std::move(t)};
	live++;
	if (!scopes.empty()) {
		h->scope = scopes.size();
		h->place = scopes.back().handles.size();
		scopes.back().handles.push_back(h);
	}
	return h;
}

void record(nt_status s, const char *op, std::initializer_list<const nt_tensor *> in, const char *why)
{
	if (status != NT_OK)
		return;
	status = s;
	text = std::string(op) + " " + shapes(in) + ": " + why;
	for (char &c : text)
		if (c == '\n')
			c = ' ';
}

nt_status caught(const char *op, std::initializer_list<const nt_tensor *> in)
{
	nt_status s = NT_FAILED;
	std::string why = "unknown error";
	try {
		throw;
	} catch (const c10::OutOfMemoryError &e) {
		s = NT_OUT_OF_MEMORY;
		why = e.what_without_backtrace();
	} catch (const c10::Error &e) {
		why = e.what_without_backtrace();
		if (why.find("not enough memory") != std::string::npos ||
		    why.find("can't allocate memory") != std::string::npos)
			s = NT_OUT_OF_MEMORY;
	} catch (const std::bad_alloc &) {
		s = NT_OUT_OF_MEMORY;
		why = "out of memory";
	} catch (const std::exception &e) {
		why = e.what();
	} catch (...) {
	}
	record(s, op, in, why.c_str());
	return s;
}

at::Device device(int index)
{
	return index == NT_CPU ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
}

at::ScalarType scalar(nt_dtype dtype)
{
	switch (dtype) {
	case NT_F32: return at::kFloat;
	case NT_BF16: return at::kBFloat16;
	case NT_F16: return at::kHalf;
	case NT_I64: return at::kLong;
	case NT_I32: return at::kInt;
	case NT_U8: return at::kByte;
	}
	TORCH_CHECK(false, "unknown dtype ", static_cast<int>(dtype));
}

bool fast(std::initializer_list<at::Tensor> in)
{
	if (plain)
		return false;
	for (const at::Tensor &t : in)
		if (t.defined() && (!t.is_cpu() || t.scalar_type() != at::kFloat))
			return false;
	return true;
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
	if (scopes.empty()) {
		nt::record(NT_FAILED, "scope_pop", {}, "no scope is open");
		return;
	}
	Scope last = std::move(scopes.back());
	scopes.pop_back();
	for (nt_tensor *t : last.handles)
		if (t)
			drop(t);
}

nt_tensor *nt_scope_pop_with(nt_tensor *keep)
{
	// What an outer scope or the caller owns is safe already, and must not move to a scope that ends sooner.
	bool moves = keep && keep->scope && keep->scope == scopes.size();
	if (moves)
		nt_own(keep);
	nt_scope_pop();
	if (moves && !scopes.empty()) {
		keep->scope = scopes.size();
		keep->place = scopes.back().handles.size();
		scopes.back().handles.push_back(keep);
	}
	return keep;
}

nt_tensor *nt_own(nt_tensor *t)
{
	if (t && t->scope) {
		scopes[t->scope - 1].handles[t->place] = nullptr;
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

// ---- devices ----

static bool cuda_starts(void)
{
	try {
		return at::globalContext().hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0;
	} catch (...) {
		return false;
	}
}

nt_status nt_device_open(const char *name, int *out)
{
	*out = NT_CPU;
	bool maybe = std::strcmp(name, "auto") == 0;
	long index = 0;
	char *end = const_cast<char *>(name) + 4;
	if (std::strcmp(name, "cpu") == 0)
		return NT_OK;
	if (std::strncmp(name, "cuda:", 5) == 0 && name[5] >= '0' && name[5] <= '9')
		index = std::strtol(name + 5, &end, 10);
	if (!maybe && (std::strncmp(name, "cuda", 4) != 0 || *end)) {
		nt::record(NT_NO_DEVICE, "device", {},
			   ("'" + std::string(name) + "' is none of auto, cpu, cuda, cuda:N").c_str());
		return NT_NO_DEVICE;
	}
	// The driver is the cheap test: without it nothing of CUDA is loaded. RTLD_GLOBAL lets the kernels register themselves.
	void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
	bool ready = driver && dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL);
	if (!ready || !cuda_starts()) {
		if (maybe)
			return NT_OK;
		nt::record(NT_NO_DEVICE, "device", {}, driver ? "CUDA cannot start (is the full torch wheel installed?)"
							     : "there is no GPU driver on this machine");
		return NT_NO_DEVICE;
	}
	if (index >= at::detail::getCUDAHooks().deviceCount()) {
		nt::record(NT_NO_DEVICE, "device", {}, "there is no GPU of that number");
		return NT_NO_DEVICE;
	}
	*out = static_cast<int>(index);
	return NT_OK;
}

const char *nt_device_name(int index)
{
	thread_local std::string name;
	name = index == NT_CPU ? "cpu" : "cuda:" + std::to_string(index);
	return name.c_str();
}

void nt_set_threads(int n)
{
	if (n > 0)
		at::set_num_threads(n);
}

int nt_threads(void) { return at::get_num_threads(); }
const char *nt_version(void) { return TORCH_VERSION; }

// What Linux would give without swapping; 0 where it does not say.
static int64_t available(void)
{
	long long kib = 0;
	char line[128];
	std::FILE *f = std::fopen("/proc/meminfo", "r");
	while (f && std::fgets(line, sizeof(line), f) && std::sscanf(line, "MemAvailable: %lld kB", &kib) != 1)
		;
	if (f)
		std::fclose(f);
	return kib * 1024;
}

nt_status nt_memory(int index, int64_t *free_bytes, int64_t *total_bytes, int64_t *peak_bytes)
{
	return action("memory", {}, [&] {
		if (index == NT_CPU) {
			struct rusage usage;
			getrusage(RUSAGE_SELF, &usage);
			int64_t page = sysconf(_SC_PAGESIZE);
			*free_bytes = available();
			if (*free_bytes <= 0)
				*free_bytes = page * sysconf(_SC_AVPHYS_PAGES);
			*total_bytes = page * sysconf(_SC_PHYS_PAGES);
			*peak_bytes = int64_t(usage.ru_maxrss) * 1024;
			return;
		}
		auto *allocator = c10::getDeviceAllocator(at::kCUDA);
		auto info = allocator->getMemoryInfo(static_cast<c10::DeviceIndex>(index));
		*free_bytes = static_cast<int64_t>(info.first);
		*total_bytes = static_cast<int64_t>(info.second);
		*peak_bytes = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(index)).allocated_bytes[0].peak;
	});
}

// libtorch's CPU allocator tells whoever profiles this thread of every allocation; a GPU's keeps count by itself.
namespace {
struct Watch : c10::MemoryReportingInfoBase {
	int64_t now = 0, peak = 0;
	void reportMemoryUsage(void *, int64_t size, size_t, size_t, c10::Device at) override
	{
		if (!at.is_cpu())
			return;
		now += size;
		peak = std::max(peak, now);
	}
	bool memoryProfilingEnabled() const override { return true; }
};
thread_local std::shared_ptr<Watch> watch;
} // namespace

void nt_peak_reset(int index)
{
	if (index != NT_CPU) {
		nt::action("peak_reset", {}, [&] {
			c10::getDeviceAllocator(at::kCUDA)->resetPeakStats(static_cast<c10::DeviceIndex>(index));
		});
		return;
	}
	if (!watch) {
		watch = std::make_shared<Watch>();
		c10::ThreadLocalDebugInfo::_push(c10::DebugInfoKind::PROFILER_STATE, watch);
	}
	watch->peak = watch->now;
}

int64_t nt_peak(int index)
{
	if (index == NT_CPU)
		return watch ? watch->peak : 0;
	int64_t peak = 0;
	nt::action("peak", {}, [&] {
		auto stats = c10::getDeviceAllocator(at::kCUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(index));
		peak = stats.allocated_bytes[0].peak;
	});
	return peak;
}

// The allocator's own limit. libc10_cuda is loaded at run time only, so its one variable is looked up there; the rest is virtual.
nt_status nt_memory_limit(int index, int64_t bytes)
{
	return action("memory_limit", {}, [&] {
		TORCH_CHECK(index != NT_CPU, "only a GPU's memory can be limited");
#ifdef HAVE_CUDA_HEADERS
		using c10::cuda::CUDACachingAllocator::CUDAAllocator;
		auto at = static_cast<c10::DeviceIndex>(index);
		void *found = dlsym(RTLD_DEFAULT, "_ZN3c104cuda20CUDACachingAllocator9allocatorE");
		TORCH_CHECK(found, "libc10_cuda has no allocator of that name");
		CUDAAllocator *allocator = static_cast<std::atomic<CUDAAllocator *> *>(found)->load();
		double total = static_cast<double>(c10::getDeviceAllocator(at::kCUDA)->getMemoryInfo(at).second);
		allocator->setMemoryFraction(std::min(1.0, static_cast<double>(bytes) / total), at);
#else
		TORCH_CHECK(false, "this build had no CUDA headers");
#endif
	});
}

// ---- making ----

nt_tensor *nt_zeros(nt_dtype dtype, int index, int ndim, const int64_t *shape)
{
	return expr("zeros", {}, [&] {
		return at::zeros(at::IntArrayRef(shape, ndim), at::TensorOptions(nt::scalar(dtype)).device(nt::device(index)));
	});
}

nt_tensor *nt_from_host(nt_dtype dtype, int index, const void *data, int ndim, const int64_t *shape)
{
	return expr("from_host", {}, [&] {
		at::Tensor t = at::from_blob(const_cast<void *>(data), at::IntArrayRef(shape, ndim), nt::scalar(dtype));
		return index == NT_CPU ? t.clone() : t.to(nt::device(index));
	});
}

nt_tensor *nt_borrow(nt_dtype dtype, const void *data, int ndim, const int64_t *shape)
{
	return expr("borrow", {}, [&] {
		return at::from_blob(const_cast<void *>(data), at::IntArrayRef(shape, ndim), nt::scalar(dtype));
	});
}

nt_tensor *nt_i64(int index, const int64_t *data, int64_t n) { return nt_from_host(NT_I64, index, data, 1, &n); }
nt_tensor *nt_f32(int index, const float *data, int64_t n) { return nt_from_host(NT_F32, index, data, 1, &n); }
nt_tensor *nt_share(const nt_tensor *t) { return expr("share", {t}, [&] { return t->t; }); }

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
	switch (t ? t->t.scalar_type() : at::kFloat) {
	case at::kBFloat16: return NT_BF16;
	case at::kHalf: return NT_F16;
	case at::kLong: return NT_I64;
	case at::kInt: return NT_I32;
	case at::kByte: return NT_U8;
	default: return NT_F32;
	}
}

static nt_status to_host(const char *op, const nt_tensor *t, at::ScalarType type, void *out, size_t n)
{
	return action(op, {t}, [&] {
		TORCH_CHECK(static_cast<size_t>(t->t.numel()) == n, "room for ", n, " elements");
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
	if (grad_modes.empty()) {
		nt::record(NT_FAILED, "grad_pop", {}, "no grad mode was pushed");
		return;
	}
	c10::GradMode::set_enabled(grad_modes.back());
	grad_modes.pop_back();
}

nt_status nt_requires_grad(nt_tensor *t, bool on)
{
	return action("requires_grad", {t}, [&] { t->t.requires_grad_(on); });
}

nt_status nt_backward(nt_tensor *loss)
{
	return action("backward", {loss}, [&] { loss->t.backward(); });
}

nt_status nt_backward_with(nt_tensor *y, const nt_tensor *g)
{
	return action("backward_with", {y, g}, [&] { y->t.backward(g->t); });
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

nt_tensor *nt_detach(const nt_tensor *t) { return expr("detach", {t}, [&] { return t->t.detach(); }); }
