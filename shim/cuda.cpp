// What only CUDA has: a stream of our own, the limit of its memory, graphs. A library by itself, libnla_cuda.so, because it
// links libtorch_cuda, which costs a start a second and 350 MB: nt_device.cpp loads it when a GPU is asked for. No nvcc needed.
#include "shim/nt_gpu.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <exception>

// NCCL, which comes with libtorch_cuda; its header does not.
extern "C" {
struct ncclUniqueId {
	char internal[128];
};
int ncclGetUniqueId(ncclUniqueId *id);
int ncclCommInitRank(void **comm, int size, ncclUniqueId id, int rank);
int ncclAllReduce(const void *from, void *to, size_t n, int type, int op, void *comm, cudaStream_t stream);
int ncclCommDestroy(void *comm);
const char *ncclGetErrorString(int rc);
}

namespace
{

namespace memory = c10::cuda::CUDACachingAllocator;

int count(void) { return c10::cuda::device_count(); }

// The default stream cannot be captured, so this thread leaves it.
void open(int device)
{
	auto card = static_cast<c10::DeviceIndex>(device);
	c10::cuda::set_device(card);
	if (c10::cuda::getCurrentCUDAStream(card) == c10::cuda::getDefaultCUDAStream(card))
		c10::cuda::setCurrentCUDAStream(c10::cuda::getStreamFromPool(false, card));
}

void limit(int device, int64_t bytes)
{
	auto card = static_cast<c10::DeviceIndex>(device);
	double total = static_cast<double>(memory::get()->getMemoryInfo(card).second);
	memory::setMemoryFraction(bytes ? std::min(1.0, static_cast<double>(bytes) / total) : 1.0, card);
}

// Intermediates are where they were recorded at each launch: in memory that is nobody else's until the graph ends.
struct Graph {
	c10::cuda::CUDAStream stream;
	c10::MempoolId_t pool = at::cuda::graph_pool_handle();
	cudaGraphExec_t exec = nullptr;

	explicit Graph(c10::cuda::CUDAStream on) : stream(on)
	{
		auto ours = [this](cudaStream_t s) { return s == stream.stream(); };
		memory::beginAllocateToPool(stream.device_index(), pool, ours);
	}
	~Graph()
	{
		if (exec)
			C10_CUDA_CHECK_WARN(cudaGraphExecDestroy(exec));
		try {
			memory::releasePool(stream.device_index(), pool);
			memory::emptyCache(pool);
		} catch (const c10::Error &) { // what broke the device has been said
		}
	}
};

void *capture(int device, const std::function<void()> &step)
{
	auto g = std::make_unique<Graph>(c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)));
	cudaGraph_t made = nullptr;
	std::exception_ptr thrown;
	// Other threads may do what a capture forbids.
	cudaError_t rc = cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal);
	if (rc == cudaSuccess) {
		try {
			step();
		} catch (...) {
			thrown = std::current_exception();
		}
		rc = cudaStreamEndCapture(g->stream, &made);
	}
	if (rc == cudaSuccess && !thrown)
		rc = cudaGraphInstantiateWithFlags(&g->exec, made, 0);
	if (made)
		C10_CUDA_CHECK_WARN(cudaGraphDestroy(made));
	memory::endAllocateToPool(g->stream.device_index(), g->pool);
	if (thrown) {
		(void)cudaGetLastError(); // else the next kernel reports it
		std::rethrow_exception(thrown);
	}
	C10_CUDA_CHECK(rc);
	return g.release();
}

void replay(void *graph)
{
	auto *g = static_cast<Graph *>(graph);
	C10_CUDA_CHECK(cudaGraphLaunch(g->exec, g->stream));
}

void drop(void *graph) { delete static_cast<Graph *>(graph); }

void nccl(int rc) { TORCH_CHECK(rc == 0, "NCCL: ", ncclGetErrorString(rc)); }

void ranks_id(void *id) { nccl(ncclGetUniqueId(static_cast<ncclUniqueId *>(id))); }

void *ranks_join(int rank, int size, const void *id)
{
	void *comm = nullptr;
	nccl(ncclCommInitRank(&comm, size, *static_cast<const ncclUniqueId *>(id), rank));
	return comm;
}

void ranks_sum(void *ranks, void *data, int64_t n)
{
	auto stream = c10::cuda::getCurrentCUDAStream();
	nccl(ncclAllReduce(data, data, static_cast<size_t>(n), 7, 0, ranks, stream)); // ncclFloat32, ncclSum
	stream.synchronize();
}

void ranks_leave(void *ranks) { nccl(ncclCommDestroy(ranks)); }

} // namespace

extern "C" const nt::gpu::Plugin nla_plugin = {at::kCUDA, count,    open,       limit,     capture,    replay, drop,
					       nullptr,   nullptr,  ranks_id,   ranks_join, ranks_sum, ranks_leave};
