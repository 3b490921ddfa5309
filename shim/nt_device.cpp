// Devices: which there are, how one is started, its memory and its graphs.
#include "shim/nt_gpu.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <dlfcn.h>
#include <malloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <climits>
#include <memory>
#include <string>

const nt::gpu::Plugin *nt::gpu::plugin;
using nt::gpu::plugin;

static at::DeviceType gpu_type(void) { return plugin ? plugin->type : at::kCUDA; }

at::Device nt::device(int index)
{
	return index == NT_CPU ? at::Device(at::kCPU) : at::Device(gpu_type(), static_cast<c10::DeviceIndex>(index));
}

using nt::action;

static nt_status no_device(const std::string &why) { return nt::record(NT_NO_DEVICE, "", {}, why); }

static std::string version(int tens, int ones) { return std::to_string(tens) + "." + std::to_string(ones); }

// Its libraries' kernels register themselves, for which their symbols must be global.
static bool load(const char *library)
{
	void *found = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
	plugin = found ? static_cast<const nt::gpu::Plugin *>(dlsym(found, "nla_plugin")) : nullptr;
	return plugin;
}

// What keeps CUDA from starting; empty: nothing. The driver is the cheap test: without it nothing of CUDA is loaded.
static std::string cuda_lacks(void)
{
	void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
	if (!driver)
		return "there is no GPU driver on this machine";
	int has = 0;
	auto ask = reinterpret_cast<int (*)(int *)>(dlsym(driver, "cuDriverGetVersion"));
	if (ask && ask(&has) == 0 && has / 1000 < NLA_CUDA)
		return "the driver is of CUDA " + version(has / 1000, has % 1000 / 10) + " and libtorch needs " +
		       version(NLA_CUDA, 0) + ": docs/gpu.md says what to do";
	if (*NLA_NO_CUDA)
		return "this program was built without GPUs: " NLA_NO_CUDA;
	if (!load("libnla_cuda.so"))
		return "CUDA cannot start (is the full torch wheel installed?): " + std::string(dlerror());
	return plugin->count() > 0 ? "" : "the driver shows no GPU";
}

// A card below 8.0 has no bf16.
static std::string too_old(int index)
{
	int tenths = nt::gpu::capability(index);
	if (tenths >= 80)
		return "";
	return "GPU " + std::to_string(index) + " has compute capability " + version(tenths / 10, tenths % 10) +
	       ", want 8.0 or more";
}

static std::string passed_over;

const char *nt_gpu_passed_over(void) { return passed_over.c_str(); }

nt_status nt_device_open(const char *name, int *out)
{
	static int used = -1;
	std::string asked = name, kind = asked.substr(0, asked.find(':'));
	std::string number = kind == asked ? std::to_string(nt::local_rank()) : asked.substr(kind.size() + 1);
	*out = NT_CPU;
	if (asked == "cpu")
		return NT_OK;
	if ((asked != "auto" && kind != "cuda" && kind != "sim") || number.empty() ||
	    number.find_first_not_of("0123456789") != std::string::npos)
		return no_device("'" + asked + "' is none of auto, cpu, cuda, cuda:N");
	int index = number.size() < 5 ? std::stoi(number) : INT_MAX;
	std::string lacks;
	nt_status asking = action("device", {}, [&] {
		if (kind == "sim") // the tests' GPU, which only they put where the loader looks
			lacks = load("libnla_sim.so") ? "" : "there is no simulated GPU here";
		else
			lacks = cuda_lacks();
		if (kind == asked && kind != "sim" && used >= 0)
			index = used; // none is named
		if (lacks.empty() && kind == asked && (plugin->count() == 1 || kind == "sim"))
			index %= std::max(plugin->count(), 1); // the one that this rank was given
		if (lacks.empty() && index >= plugin->count())
			lacks = kind == asked ? "there are more ranks on this machine than GPUs"
					      : "there is no GPU of that number";
		if (lacks.empty() && kind != "sim")
			lacks = used >= 0 && used != index ? "this process uses GPU " + std::to_string(used) + ", and uses one"
							   : too_old(index);
	});
	if (asking)
		return asking;
	if (!lacks.empty() && asked != "auto")
		return no_device(lacks);
	passed_over = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD) ? lacks : "";
	if (!lacks.empty())
		return NT_OK;
	// The allocator exists from here on, so that it can be asked before the first tensor is made.
	return action("device", {}, [&] {
		at::Context &torch = at::globalContext();
		setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 1); // without it deterministic products are refused
		torch.lazyInitDevice(gpu_type());
		torch.setFloat32MatmulPrecision("highest"); // whatever the environment says: no TF32
		torch.setAllowBF16ReductionCuBLAS(false);
		torch.setSDPUseCuDNN(false); // which makes a plan for every new shape
		torch.setDeterministicFillUninitializedMemory(false);
		plugin->open(index);
		nt::gpu::launcher = plugin->launcher;
		nt::gpu::off = plugin->launcher ? "" : "the simulated GPU was not asked to emulate them";
		if (kind != "sim")
			nt::gpu::start(index);
		*out = used = index;
	});
}

const char *nt_kernels_off(void) { return nt::gpu::off.c_str(); }

const char *nt_device_name(int index)
{
	thread_local std::string name;
	name = index == NT_CPU ? "cpu" : nt::device(index).str();
	return name.c_str();
}

int nt_threads(void) { return at::get_num_threads(); }

void nt_parallel(int64_t n, void (*f)(int64_t from, int64_t to, void *arg), void *arg)
{
	at::parallel_for(0, n, 1, [=](int64_t from, int64_t to) { f(from, to, arg); });
}

void nt_set_threads(int n)
{
	if (n > 0)
		at::set_num_threads(n);
}

static c10::DeviceAllocator *gpu_allocator(void) { return c10::getDeviceAllocator(gpu_type()); }
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

nt_status nt_memory_return(int index)
{
	return action("memory_return", {}, [&] {
		if (index == NT_CPU)
			malloc_trim(0);
		else
			gpu_allocator()->emptyCache();
	});
}

nt_status nt_memory_limit(int index, int64_t bytes)
{
	return action("memory_limit", {}, [&] {
		TORCH_CHECK(index != NT_CPU && plugin, "only a GPU's memory can be limited");
		plugin->limit(index, bytes);
	});
}

// ---- graphs ----

nt_graph *nt_graph_capture(int index, void (*step)(void *), void *arg)
{
	void *made = nullptr;
	auto capture = [&] {
		TORCH_CHECK(index != NT_CPU && plugin, "only a GPU has graphs");
		made = plugin->capture(index, [&] {
			step(arg);
			TORCH_CHECK(!nt_check(), nt_error());
		});
	};
	action("graph_capture", {}, capture);
	if (nt_check() == NT_OUT_OF_MEMORY) {
		nt_clear(); // what the allocator keeps for later is not for a capture: it goes back to the device first
		nt_memory_return(index);
		action("graph_capture", {}, capture);
	}
	return static_cast<nt_graph *>(made);
}

nt_status nt_graph_replay(nt_graph *g)
{
	return action("graph_replay", {}, [&] { plugin->replay(g); });
}

void nt_graph_free(nt_graph *g)
{
	if (g)
		action("graph_free", {}, [&] { plugin->drop(g); });
}
