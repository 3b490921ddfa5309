// Device memory is ordinary memory whose addresses carry a mark that no mapping has: the host, and a CPU kernel, that follows one
// dies as it would on a GPU's address, at all times and on all threads. The one way in is the boxed fallback below, the "kernel
// launch": it takes arguments that all lie on one device, hands the operation's CPU kernel unmarked aliases of them, and marks
// what comes out, without a copy.
#include "sim/sim.h"

#include "sim/plugin.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <set>
#include <vector>

namespace
{

constexpr auto sim = at::kPrivateUse1;
constexpr auto sim_key = c10::DispatchKey::PrivateUse1;
constexpr uintptr_t mark = uintptr_t(1) << 52; // not canonical on x86-64, unmapped on aarch64
constexpr int64_t memory_size = int64_t(16) << 30;
constexpr c10::DeviceIndex devices = 2;

std::atomic<int64_t> kernels, graphs, to_host, to_device, bytes_now, bytes_peak, limit;
thread_local c10::DeviceIndex current;

struct Graph {
	std::vector<std::function<void()>> launches;
	std::vector<c10::Storage> own; // memory made in it
};
std::atomic<Graph *> capturing;

// ---- memory ----

struct Block { // the context of a device storage's pointer
	c10::Storage host;
	int64_t bytes; // as charged
};
std::set<Block *> blocks;
std::mutex blocks_lock;

void charge(int64_t n)
{
	int64_t now = bytes_now += n, peak = bytes_peak;
	while (now > peak && !bytes_peak.compare_exchange_weak(peak, now))
		;
}

void drop(void *context)
{
	auto *block = static_cast<Block *>(context);
	std::lock_guard<std::mutex> locked(blocks_lock);
	bytes_now -= block->bytes;
	blocks.erase(block);
	delete block;
}

c10::DataPtr marked(c10::Storage host, c10::DeviceIndex index)
{
	auto n = static_cast<int64_t>(host.nbytes());
	TORCH_CHECK_WITH(OutOfMemoryError, !limit || bytes_now + n <= limit, "sim out of memory: tried to allocate ", n, " bytes");
	if (capturing) { // stays as long as the graph, so when it ends is not known: what ran before has shown the peak
		capturing.load()->own.push_back(host);
		n = 0;
	}
	charge(n);
	auto at = reinterpret_cast<uintptr_t>(host.mutable_data());
	auto *block = new Block{std::move(host), n};
	std::lock_guard<std::mutex> locked(blocks_lock);
	blocks.insert(block);
	return {reinterpret_cast<void *>(at ? at | mark : 0), block, drop, at::Device(sim, index)};
}

struct Memory final : c10::DeviceAllocator {
	c10::DataPtr allocate(size_t n) override
	{
		c10::Storage host(c10::Storage::use_byte_size_t(), n, c10::GetAllocator(at::kCPU), true);
		if (n)
			std::memset(host.mutable_data(), 0xff, n); // NaN, or -1: what was never written shows
		return marked(std::move(host), current);
	}
	c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
	void copy_data(void *, const void *, size_t) const override { TORCH_CHECK(false, "sim: copy_data"); }
	bool initialized() override { return true; }
	void emptyCache(c10::MempoolId_t) override {}
	void recordStream(const c10::DataPtr &, c10::Stream) override {}
	c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override
	{
		c10::CachingDeviceAllocator::DeviceStats stats;
		stats.allocated_bytes[0].current = bytes_now;
		stats.allocated_bytes[0].peak = bytes_peak;
		return stats;
	}
	void resetAccumulatedStats(c10::DeviceIndex) override {}
	void resetPeakStats(c10::DeviceIndex) override { bytes_peak = bytes_now.load(); }
	std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override
	{
		return {std::max<int64_t>(memory_size - bytes_now, 0), memory_size};
	}
};

// ---- devices ----

struct Guard final : c10::impl::DeviceGuardImplInterface {
	c10::DeviceType type() const override { return sim; }
	c10::Device getDevice() const override { return {sim, current}; }
	void setDevice(c10::Device d) const override { current = std::max<c10::DeviceIndex>(d.index(), 0); }
	void uncheckedSetDevice(c10::Device d) const noexcept override { setDevice(d); }
	c10::Device exchangeDevice(c10::Device d) const override
	{
		c10::Device old = getDevice();
		setDevice(d);
		return old;
	}
	c10::DeviceIndex deviceCount() const noexcept override { return devices; }
	c10::Stream getStream(c10::Device d) const override { return c10::Stream(c10::Stream::DEFAULT, d); }
	c10::Stream getNewStream(c10::Device d, int) const override { return c10::Stream(c10::Stream::DEFAULT, d); }
	c10::Stream exchangeStream(c10::Stream s) const override { return s; }
	void record(void **, const c10::Stream &, c10::DeviceIndex, c10::EventFlag) const override {}
	void block(void *, const c10::Stream &) const override {}
	bool queryEvent(void *) const override { return true; }
	bool queryStream(const c10::Stream &) const override { return true; }
	void synchronizeStream(const c10::Stream &) const override {}
	void synchronizeDevice(c10::DeviceIndex) const override {}
};

struct Hooks final : at::PrivateUse1HooksInterface {
	bool isBuilt() const override { return true; }
	bool isAvailable() const override { return true; }
	void init() const override {}
	bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
	c10::DeviceIndex deviceCount() const override { return devices; }
	const at::Generator &getDefaultGenerator(c10::DeviceIndex) const override { return at::detail::getDefaultCPUGenerator(); }
	at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
};

// ---- kernels ----

at::Tensor over(c10::Storage storage, c10::DispatchKey key, const at::Tensor &like)
{
	auto t = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
	t.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
	return t;
}

Block *block_of(const at::Tensor &t) { return static_cast<Block *>(t.storage().data_ptr().get_context()); }
at::Tensor host_alias(const at::Tensor &t) { return over(block_of(t)->host, c10::DispatchKey::CPU, t); }

struct Pair {
	at::Tensor device, host;
};

struct Launch {
	const c10::OperatorHandle &op;
	std::vector<Pair> seen = {};
	c10::DeviceIndex index = -1;

	at::Tensor in(const at::Tensor &t)
	{
		if (!t.defined() || (t.is_cpu() && t.unsafeGetTensorImpl()->is_wrapped_number())) // a number of the source text
			return t;
		TORCH_CHECK(t.is_privateuseone() && (index < 0 || index == t.device().index()), "sim: ", op.operator_name(),
			    ": expected all tensors to be on the same device, but found one on ", t.device(), " of shape ", t.sizes());
		index = t.device().index();
		seen.push_back({t, host_alias(t)});
		return seen.back().host;
	}

	// An argument comes back as itself, a view of one as a view; what is new moves to the device as it is.
	at::Tensor out(const at::Tensor &t)
	{
		if (!t.defined())
			return t;
		for (Pair &p : seen)
			if (p.host.is_same(t))
				return p.device;
		for (Pair &p : seen)
			if (p.host.storage().is_alias_of(t.storage()))
				return over(p.device.storage(), sim_key, t);
		c10::Storage storage(c10::Storage::use_byte_size_t(), t.storage().nbytes(),
				     marked(t.storage(), index < 0 ? current : index), c10::GetAllocator(sim), true);
		return over(std::move(storage), sim_key, t);
	}

	// An out= argument may have another size now.
	void resized(Pair &p)
	{
		c10::Storage storage = p.device.storage();
		Block *block = block_of(p.device);
		TORCH_CHECK(p.host.storage().is_alias_of(block->host), "sim: ", op.operator_name(), " changes a tensor's storage");
		if (storage.nbytes() != block->host.nbytes()) {
			bytes_now -= block->bytes; // charged again, and the block dropped
			block->bytes = 0;
			storage.set_data_ptr_noswap(marked(block->host, p.device.device().index()));
			storage.set_nbytes(p.host.storage().nbytes());
		}
		if (p.device.sizes() != p.host.sizes() || p.device.strides() != p.host.strides())
			p.device.unsafeGetTensorImpl()->set_sizes_and_strides(p.host.sizes(), p.host.strides(), p.host.storage_offset());
	}
};

template <class F> c10::IValue each(const c10::IValue &value, const F &f)
{
	if (value.isTensor())
		return f(value.toTensor());
	if (value.isTensorList()) {
		c10::List<at::Tensor> list;
		for (const at::Tensor &t : value.toTensorVector())
			list.push_back(f(t));
		return list;
	}
	if (value.isOptionalTensorList()) {
		c10::List<std::optional<at::Tensor>> list;
		for (const std::optional<at::Tensor> &t : value.toOptionalTensorVector())
			list.push_back(t ? std::optional<at::Tensor>(f(*t)) : std::nullopt);
		return list;
	}
	if (value.isDevice() && value.toDevice().type() == sim)
		return at::Device(at::kCPU);
	return value;
}

void launch(const c10::OperatorHandle &op, torch::jit::Stack *stack)
{
	const auto &returns = op.schema().returns();
	bool view = !returns.empty() && returns[0].alias_info() && !returns[0].alias_info()->isWrite();
	size_t first = stack->size() - op.schema().arguments().size();
	Launch l{op};
	for (size_t i = first; i < stack->size(); i++)
		(*stack)[i] = each((*stack)[i], [&](const at::Tensor &t) { return l.in(t); });
	op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
	kernels += !view;
	for (Pair &p : l.seen)
		l.resized(p);
	for (size_t i = first; i < stack->size(); i++)
		(*stack)[i] = each((*stack)[i], [&](const at::Tensor &t) { return l.out(t); });
}

// ---- graphs ----

// What a recorded kernel returned is where its result goes again.
void again(const c10::OperatorHandle &op, const torch::jit::Stack &in, const torch::jit::Stack &out)
{
	torch::jit::Stack stack = in;
	op.callBoxed(stack);
	for (size_t i = 0; i < stack.size(); i++)
		if (out[i].isTensor() && out[i].toTensor().defined() && !out[i].toTensor().is_alias_of(stack[i].toTensor()))
			host_alias(out[i].toTensor()).copy_(host_alias(stack[i].toTensor()));
}

void fallback(const c10::OperatorHandle &op, torch::jit::Stack *stack)
{
	auto first = static_cast<ptrdiff_t>(stack->size() - op.schema().arguments().size());
	if (!capturing)
		return launch(op, stack);
	torch::jit::Stack in(stack->begin() + first, stack->end());
	launch(op, stack);
	torch::jit::Stack out(stack->begin() + first, stack->end());
	capturing.load()->launches.push_back([op, in, out] { again(op, in, out); });
}

// What is recorded runs, so that its results have their shapes; then memory is again as it was.
void *capture(int, const std::function<void()> &step)
{
	auto g = std::make_unique<Graph>();
	std::vector<std::pair<c10::Storage, std::string>> before;
	for (Block *b : blocks)
		before.emplace_back(b->host, std::string(static_cast<const char *>(b->host.data()), b->host.nbytes()));
	auto end = [&] {
		capturing = nullptr;
		for (auto &[host, bytes] : before)
			std::memcpy(host.mutable_data(), bytes.data(), bytes.size());
	};
	capturing = g.get();
	try {
		step();
	} catch (...) {
		end();
		throw;
	}
	end();
	return g.release();
}

void replay(void *graph)
{
	graphs++;
	for (const auto &launch : static_cast<Graph *>(graph)->launches)
		launch();
}

void drop_graph(void *graph) { delete static_cast<Graph *>(graph); }

// ---- what is no kernel ----

using Bool = std::optional<bool>;
using Dtype = std::optional<at::ScalarType>;
using Layout = std::optional<at::Layout>;
using Device = std::optional<at::Device>;

at::Tensor empty(at::IntArrayRef size, Dtype dtype, Layout, Device device, Bool, std::optional<at::MemoryFormat> format)
{
	c10::DeviceGuard guard(device.value_or(at::Device(sim, current)));
	return at::detail::empty_generic(size, c10::GetAllocator(sim), c10::DispatchKeySet(sim_key), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, Dtype dtype, Layout, Device device, Bool)
{
	c10::DeviceGuard guard(device.value_or(at::Device(sim, current)));
	return at::detail::empty_strided_generic(size, stride, c10::GetAllocator(sim), c10::DispatchKeySet(sim_key),
						 c10::dtype_or_default(dtype));
}

at::Tensor on_host(const at::Tensor &t) { return t.is_cpu() ? t : host_alias(t); }

at::Tensor copy_from(const at::Tensor &from, const at::Tensor &to, bool wait)
{
	TORCH_CHECK(!capturing || from.device() == to.device(), "sim: a copy between host and device while a graph is captured");
	(to.is_cpu() ? to_host : from.is_cpu() ? to_device : kernels)++;
	on_host(to).copy_(on_host(from));
	if (capturing)
		capturing.load()->launches.push_back([=] { copy_from(from, to, wait); });
	return to;
}

at::Scalar item(const at::Tensor &t)
{
	TORCH_CHECK(!capturing, "sim: the host waits for the device while a graph is captured");
	to_host++;
	return host_alias(t).item();
}

Memory memory;
Hooks hooks;

} // namespace

int sim_start(void)
{
	static std::once_flag once;
	std::call_once(once, [] {
		c10::register_privateuse1_backend("sim");
		c10::SetAllocator(sim, &memory);
		at::RegisterPrivateUse1HooksInterface(&hooks);
		static c10::impl::DeviceGuardImplRegistrar guard(sim, new Guard);
		static torch::Library all(torch::Library::IMPL, "_", sim_key, __FILE__, __LINE__); // they undo it when they end
		all.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
		static torch::Library aten(torch::Library::IMPL, "aten", sim_key, __FILE__, __LINE__);
		aten.impl("empty.memory_format", TORCH_FN(empty));
		aten.impl("empty_strided", TORCH_FN(empty_strided));
		aten.impl("_copy_from", TORCH_FN(copy_from));
		aten.impl("_local_scalar_dense", TORCH_FN(item));
	});
	return devices;
}

struct sim_counts sim_counts(void) { return {kernels, graphs, to_host, to_device, bytes_now, bytes_peak}; }
void sim_limit(int64_t bytes) { limit = bytes; }

void sim_launched(const std::function<void()> &kernel)
{
	kernel();
	if (capturing)
		capturing.load()->launches.push_back(kernel);
}

static int start(void)
{
	int n = sim_start();
	nla_plugin.launcher = getenv("SIM_KERNELS") ? sim_launch : nullptr; // the emulator is slow: some 50 ns a thread and wait
	return n;
}

nt::gpu::Plugin nla_plugin = {sim, start, [](int) {}, [](int, int64_t bytes) { sim_limit(bytes); }, capture, replay, drop_graph,
			      nullptr, sim_has_heads, nullptr, nullptr, nullptr, nullptr};
