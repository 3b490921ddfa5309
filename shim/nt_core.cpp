// Handles, scopes, errors, devices; making tensors and looking at them.
#include "shim/nt_gpu.h"

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

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

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

void drop(nt_tensor *t)
{
	live--;
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
		text = std::string(op) + " " + shapes(in) + ": " + why;
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
		bool memory = dynamic_cast<const c10::OutOfMemoryError *>(&e) ||
			      why.find("not enough memory") != std::string::npos ||
			      why.find("can't allocate memory") != std::string::npos;
		return record(memory ? NT_OUT_OF_MEMORY : NT_FAILED, op, in, why);
	} catch (const std::bad_alloc &) {
		return record(NT_OUT_OF_MEMORY, op, in, "out of memory");
	} catch (const std::exception &e) {
		return record(NT_FAILED, op, in, e.what());
	} catch (...) {
		return record(NT_FAILED, op, in, "unknown error");
	}
}

at::Device device(int index)
{
	return index == NT_CPU ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
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

// ---- devices ----

static nt_status no_device(const std::string &why) { return nt::record(NT_NO_DEVICE, "device", {}, why); }

static std::string version(int tens, int ones) { return std::to_string(tens) + "." + std::to_string(ones); }

// What keeps CUDA from starting; empty: nothing. The driver is the cheap test: without it nothing of CUDA is loaded.
static std::string cuda_lacks(void)
{
	constexpr int runtime = 13000; // of the wheel that is built against
	void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
	if (!driver)
		return "there is no GPU driver on this machine";
	int has = 0;
	auto ask = reinterpret_cast<int (*)(int *)>(dlsym(driver, "cuDriverGetVersion"));
	if (ask && ask(&has) == 0 && has / 1000 < runtime / 1000)
		return "the driver is of CUDA " + version(has / 1000, has % 1000 / 10) + " and libtorch needs " +
		       version(runtime / 1000, 0) + ": update the driver";
	if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) // RTLD_GLOBAL lets the kernels register themselves
		return "CUDA cannot start (is the full torch wheel installed?): " + std::string(dlerror());
	try {
		if (at::globalContext().hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0)
			return "";
	} catch (...) {
	}
	return "the driver shows no GPU";
}

// A card below 8.0 has no bf16.
static std::string too_old(int index)
{
	constexpr int major = 75, minor = 76; // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
	int tens = 8, ones = 0;
	auto ask = reinterpret_cast<int (*)(int *, int, int)>(dlsym(dlopen("libcuda.so.1", RTLD_LAZY), "cuDeviceGetAttribute"));
	if (!ask || ask(&tens, major, index) || ask(&ones, minor, index) || tens >= 8)
		return "";
	return "GPU " + std::to_string(index) + " has compute capability " + version(tens, ones) + ", want 8.0 or more";
}

nt_status nt_device_open(const char *name, int *out)
{
	std::string asked = name, number = asked.substr(0, 5) == "cuda:" ? asked.substr(5) : "0";
	*out = NT_CPU;
	if (asked == "cpu")
		return NT_OK;
	bool known = asked == "auto" || asked == "cuda" || asked == "cuda:" + number;
	if (!known || number.empty() || number.size() > 4 ||
	    number.find_first_not_of("0123456789") != std::string::npos)
		return no_device("'" + asked + "' is none of auto, cpu, cuda, cuda:N");
	std::string lacks = cuda_lacks();
	int index = std::stoi(number);
	if (lacks.empty())
		lacks = index < at::detail::getCUDAHooks().deviceCount() ? too_old(index) : "there is no GPU of that number";
	if (!lacks.empty())
		return asked == "auto" ? NT_OK : no_device(lacks);
	// The allocator exists from here on, so that it can be asked before the first tensor is made.
	return action("device", {}, [&] {
		at::globalContext().lazyInitDevice(at::kCUDA);
		nt::gpu::start(index);
		*out = index;
	});
}

const char *nt_kernels_off(void) { return nt::gpu::off.c_str(); }

const char *nt_device_name(int index)
{
	thread_local std::string name;
	name = index == NT_CPU ? "cpu" : "cuda:" + std::to_string(index);
	return name.c_str();
}

int nt_threads(void) { return at::get_num_threads(); }

void nt_set_threads(int n)
{
	if (n > 0)
		at::set_num_threads(n);
}

static c10::DeviceAllocator *gpu_allocator(void) { return c10::getDeviceAllocator(at::kCUDA); }
static int64_t gpu_peak(int index)
{
	return gpu_allocator()->getDeviceStats(static_cast<c10::DeviceIndex>(index)).allocated_bytes[0].peak;
}

nt_status nt_memory(int index, int64_t *free_bytes, int64_t *total_bytes, int64_t *peak_bytes)
{
	return action("memory", {}, [&] {
		if (index == NT_CPU) {
			struct rusage usage;
			getrusage(RUSAGE_SELF, &usage);
			*free_bytes = *total_bytes = INT64_MAX;
			*peak_bytes = int64_t(usage.ru_maxrss) * 1024;
			return;
		}
		auto info = gpu_allocator()->getMemoryInfo(static_cast<c10::DeviceIndex>(index));
		*free_bytes = static_cast<int64_t>(info.first);
		*total_bytes = static_cast<int64_t>(info.second);
		*peak_bytes = gpu_peak(index);
	});
}

// libtorch's CPU allocator reports every allocation to the thread's profiler; a GPU's allocator keeps count by itself.
namespace
{
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
		action("peak_reset", {}, [&] { gpu_allocator()->resetPeakStats(static_cast<c10::DeviceIndex>(index)); });
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
	int64_t peak = 0;
	if (index == NT_CPU)
		return watch ? watch->peak : 0;
	action("peak", {}, [&] { peak = gpu_peak(index); });
	return peak;
}

// The allocator's own limit. libc10_cuda is loaded at run time only, so its one variable is looked up; the rest is virtual.
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
		double total = static_cast<double>(gpu_allocator()->getMemoryInfo(at).second);
		allocator->setMemoryFraction(std::min(1.0, static_cast<double>(bytes) / total), at);
#else
		TORCH_CHECK(false, "this build had no CUDA headers");
#endif
	});
}

// ---- making ----

static nt_tensor *fresh(const char *name, bool zero, nt_dtype dtype, int index, at::IntArrayRef shape)
{
	return expr(name, {}, [&] {
		auto options = at::TensorOptions(nt::scalar(dtype)).device(nt::device(index));
		return zero ? at::zeros(shape, options) : at::empty(shape, options);
	});
}

nt_tensor *nt_empty(nt_dtype t, int at, int n, const int64_t *shape) { return fresh("empty", 0, t, at, {shape, size_t(n)}); }
nt_tensor *nt_zeros(nt_dtype t, int at, int n, const int64_t *shape) { return fresh("zeros", 1, t, at, {shape, size_t(n)}); }

static at::Tensor blob(nt_dtype dtype, const void *data, int ndim, const int64_t *shape)
{
	return at::from_blob(const_cast<void *>(data), at::IntArrayRef(shape, ndim), nt::scalar(dtype));
}

nt_tensor *nt_from_host(nt_dtype dtype, int index, const void *data, int ndim, const int64_t *shape)
{
	return expr("from_host", {}, [&] {
		at::Tensor t = blob(dtype, data, ndim, shape);
		return index == NT_CPU ? t.clone() : t.to(nt::device(index));
	});
}

nt_tensor *nt_borrow(nt_dtype dtype, const void *data, int ndim, const int64_t *shape)
{
	return expr("borrow", {}, [&] { return blob(dtype, data, ndim, shape); });
}

nt_tensor *nt_i64(int index, const int64_t *data, int64_t n) { return nt_from_host(NT_I64, index, data, 1, &n); }
nt_tensor *nt_f32(int index, const float *data, int64_t n) { return nt_from_host(NT_F32, index, data, 1, &n); }

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
nt_status nt_backward(nt_tensor *loss) { return action("backward", {loss}, [&] { loss->t.backward(); }); }
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
