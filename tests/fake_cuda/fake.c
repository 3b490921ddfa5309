/*
 * A CUDA that computes nothing: runtime, driver, cuBLAS and the rest as far as libtorch_cuda calls them, in one library. Memory is
 * address space that nothing touches, streams, events and graphs are numbers, and a kernel's launch is counted. So everything of
 * libtorch's own CUDA code up to the launch runs without a card: which operations exist for a type and a shape, the caching
 * allocator and its limit, what waits for the device, what a graph capture forbids. Values mean nothing: what a copy brings
 * back from the device is zero.
 *
 *	LD_PRELOAD=build/tests/cuda/libcudart.so.13 LD_LIBRARY_PATH=build/tests/cuda:TORCH/lib nla-train --device cuda ...
 *
 *	FAKE_CUDA_GB, FAKE_CUDA_CARDS size of a card in 1e9 bytes (80), how many there are (1)
 *	FAKE_CUDA_DRIVER the CUDA version of the driver (13000)
 *	FAKE_CUDA_SM     compute capability in tenths (90)
 *	FAKE_CUDA_SAY    a file: the counts are appended to it at the end, one JSON object
 *	FAKE_CUDA_TRACE  1: every launch is named on stderr
 *	FAKE_CUDA_BREAKS a number: behind so many graphs every wait and event finds the device broken
 *	FAKE_CUDA_NO_LAUNCH a number: so many launches by the driver, then one finds no memory, once
 *	FAKE_CUDA_NO_GRAPHS 1: a graph's capture is refused; 2: a graph finds no memory
 *
 * A device address carries a mark that no mapping has, so the host dies of SIGSEGV when it follows one. Functions that are not
 * here are weak ones of stubs.sh that return 0.
 */
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/fake_cuda/fake.h"

#define MARK ((uintptr_t)1 << 52) /* not canonical on x86-64, unmapped on aarch64 */
#define API __attribute__((visibility("default")))
#define UNUSED __attribute__((unused))

/* Names of cuBLAS and of the driver, whose headers the wheels do not bring. */
#define EXPORT(type, name, ...) API type name(__VA_ARGS__); API type name(__VA_ARGS__)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct fake_cuda counts;
static int capturing, invalid; /* a graph; what it forbids has happened in it */
static __thread int capture_mode; /* of this thread: 2, relaxed, lets what a capture forbids */
static __thread cudaError_t last;

static void *raw(const void *p) { return (void *)((uintptr_t)p & ~MARK); }
static int on_device(const void *p) { return ((uintptr_t)p & MARK) != 0; }

static double asked(const char *name, double otherwise)
{
	const char *value = getenv(name);
	return value ? strtod(value, NULL) : otherwise;
}

static int64_t total(void) { return (int64_t)(asked("FAKE_CUDA_GB", 80) * 1e9); }
static int sm(void) { return (int)asked("FAKE_CUDA_SM", 90); }

static cudaError_t fails(cudaError_t e)
{
	last = e;
	return e;
}

static cudaError_t refused(void)
{
	counts.refused++;
	invalid = capturing;
	return fails(cudaErrorStreamCaptureUnsupported);
}

/* What a capture records does not run. */
static cudaError_t done(int64_t *count)
{
	__atomic_add_fetch(capturing ? &counts.captured : count, 1, __ATOMIC_RELAXED);
	return cudaSuccess;
}

/* ---- kernels by name ---- */

static struct kernel {
	const void *function;
	const char *name;
} *kernels;
static size_t n_kernels, room;
static int sorted;

static int by_address(const void *a, const void *b)
{
	const struct kernel *x = a, *y = b;
	return x->function < y->function ? -1 : x->function > y->function;
}

static void *binary_handle[2];
API void **__cudaRegisterFatBinary(void *binary UNUSED) { return binary_handle; }
API void __cudaRegisterFatBinaryEnd(void **handle UNUSED) {}
API void __cudaUnregisterFatBinary(void **handle UNUSED) {}

API void __cudaRegisterFunction(void **handle UNUSED, const char *function, char *device UNUSED, const char *name, int limit UNUSED,
				void *tid UNUSED, void *bid UNUSED, void *bdim UNUSED, void *gdim UNUSED, int *size UNUSED)
{
	if (n_kernels == room) {
		room = room ? 2 * room : 1 << 16;
		kernels = realloc(kernels, room * sizeof(*kernels));
	}
	kernels[n_kernels++] = (struct kernel){ function, name };
	sorted = 0;
}

static void trace(const void *function)
{
	if (!sorted)
		qsort(kernels, n_kernels, sizeof(*kernels), by_address);
	sorted = 1;
	struct kernel key = { function, NULL }, *found = bsearch(&key, kernels, n_kernels, sizeof(*kernels), by_address);
	fprintf(stderr, "launch %s\n", found ? found->name : "?");
}

static cudaError_t launch(const void *function)
{
	pthread_mutex_lock(&lock);
	if (getenv("FAKE_CUDA_TRACE"))
		trace(function);
	pthread_mutex_unlock(&lock);
	return done(&counts.launches);
}

API cudaError_t __cudaGetKernel(cudaKernel_t *k, const void *function)
{
	*k = (cudaKernel_t)function;
	return cudaSuccess;
}

API cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 grid UNUSED, dim3 block UNUSED, void **args UNUSED, size_t shared UNUSED,
				   cudaStream_t stream UNUSED)
{
	return launch(k);
}

API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c UNUSED, const void *function, void **args UNUSED)
{
	return launch(function);
}

static __thread struct {
	dim3 grid, block;
	size_t shared;
	void *stream;
} config;

API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream)
{
	config.grid = grid;
	config.block = block;
	config.shared = shared;
	config.stream = stream;
	return 0;
}

API cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream)
{
	*grid = config.grid;
	*block = config.block;
	*shared = config.shared;
	*(void **)stream = config.stream;
	return cudaSuccess;
}

/* ---- the device: one, like an H100 ---- */

API cudaError_t cudaGetDeviceCount(int *n)
{
	*n = (int)asked("FAKE_CUDA_CARDS", 1);
	return cudaSuccess;
}

API cudaError_t cudaGetDevice(int *d)
{
	*d = 0;
	return cudaSuccess;
}

API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d UNUSED)
{
	memset(p, 0, sizeof(*p));
	snprintf(p->name, sizeof(p->name), "fake");
	p->totalGlobalMem = (size_t)total();
	p->major = sm() / 10;
	p->minor = sm() % 10;
	p->multiProcessorCount = 132;
	p->warpSize = 32;
	p->sharedMemPerBlock = 48 << 10;
	p->sharedMemPerBlockOptin = 227 << 10;
	p->sharedMemPerMultiprocessor = 228 << 10;
	p->regsPerBlock = p->regsPerMultiprocessor = 65536;
	p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
	p->maxThreadsDim[2] = 64;
	p->maxThreadsPerMultiProcessor = 2048;
	p->maxBlocksPerMultiProcessor = 32;
	p->maxGridSize[0] = 0x7fffffff;
	p->maxGridSize[1] = p->maxGridSize[2] = 65535;
	p->l2CacheSize = 50 << 20;
	p->textureAlignment = 512;
	return cudaSuccess;
}

API cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int d UNUSED)
{
	switch (a) {
	case cudaDevAttrComputeCapabilityMajor: *v = sm() / 10; break;
	case cudaDevAttrComputeCapabilityMinor: *v = sm() % 10; break;
	case cudaDevAttrMultiProcessorCount: *v = 132; break;
	case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = 227 << 10; break;
	case cudaDevAttrMaxThreadsPerBlock: *v = 1024; break;
	case cudaDevAttrWarpSize: *v = 32; break;
	default: *v = 1;
	}
	return cudaSuccess;
}

API cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, cudaSuccess; }

API cudaError_t cudaDriverGetVersion(int *v) { return *v = (int)asked("FAKE_CUDA_DRIVER", 13000), cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int *v) { return *v = 13000, cudaSuccess; }

API cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *function UNUSED)
{
	memset(a, 0, sizeof(*a));
	a->maxThreadsPerBlock = 1024;
	a->numRegs = 32;
	a->binaryVersion = a->ptxVersion = 90;
	a->maxDynamicSharedSizeBytes = 227 << 10;
	return cudaSuccess;
}

API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *function UNUSED, int block UNUSED,
								       size_t shared UNUSED, unsigned flags UNUSED)
{
	*n = 2;
	return cudaSuccess;
}

API const char *cudaGetErrorString(cudaError_t e)
{
	return e == cudaSuccess ? "no error" : e == cudaErrorMemoryAllocation ? "out of memory" :
	       e == cudaErrorStreamCaptureUnsupported ? "operation not permitted when stream is capturing" : "error of the fake";
}

API const char *cudaGetErrorName(cudaError_t e) { return cudaGetErrorString(e); }

API cudaError_t cudaGetLastError(void)
{
	cudaError_t e = last;
	last = cudaSuccess;
	return e;
}

API cudaError_t cudaPeekAtLastError(void) { return last; }
static int nothing(void) { return 0; }

API cudaError_t cudaGetDriverEntryPointByVersion(const char *name UNUSED, void **function, unsigned version UNUSED,
						 unsigned long long flags UNUSED, enum cudaDriverEntryPointQueryResult *result)
{
	*function = (void *)nothing;
	if (result)
		*result = cudaDriverEntryPointSuccess;
	return cudaSuccess;
}

/* ---- memory: address space ---- */

static struct area {
	void *p;
	size_t n;
} *areas;
static size_t n_areas;

API cudaError_t cudaMalloc(void **p, size_t n)
{
	if (capturing && capture_mode != cudaStreamCaptureModeRelaxed)
		return refused();
	n = n ? n : 1;
	if (counts.bytes + (int64_t)n > total())
		return fails(cudaErrorMemoryAllocation);
	void *m = mmap(NULL, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m == MAP_FAILED)
		return fails(cudaErrorMemoryAllocation);
	pthread_mutex_lock(&lock);
	areas = realloc(areas, (n_areas + 1) * sizeof(*areas));
	areas[n_areas++] = (struct area){ m, n };
	counts.bytes += (int64_t)n;
	counts.peak = counts.bytes > counts.peak ? counts.bytes : counts.peak;
	pthread_mutex_unlock(&lock);
	*p = (void *)((uintptr_t)m | MARK);
	return cudaSuccess;
}

API cudaError_t cudaFree(void *p)
{
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < n_areas; i++)
		if (areas[i].p == raw(p)) {
			munmap(areas[i].p, areas[i].n);
			counts.bytes -= (int64_t)areas[i].n;
			areas[i] = areas[--n_areas];
			break;
		}
	pthread_mutex_unlock(&lock);
	return cudaSuccess;
}

API cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all)
{
	*all = (size_t)total();
	*free_bytes = *all - (size_t)counts.bytes;
	return cudaSuccess;
}

API cudaError_t cudaHostAlloc(void **p, size_t n, unsigned flags UNUSED)
{
	return posix_memalign(p, 4096, n) ? fails(cudaErrorMemoryAllocation) : cudaSuccess;
}

API cudaError_t cudaFreeHost(void *p)
{
	free(p);
	return cudaSuccess;
}

API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind, cudaStream_t stream UNUSED)
{
	enum cudaMemcpyKind is = on_device(to) ? on_device(from) ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice :
			       on_device(from) ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost;
	if (kind != cudaMemcpyDefault && kind != is) {
		fprintf(stderr, "fake CUDA: a copy of kind %d between addresses of kind %d\n", (int)kind, (int)is);
		return fails(cudaErrorInvalidValue);
	}
	if (capturing && is != cudaMemcpyDeviceToDevice)
		return refused();
	if (!on_device(to))
		memset(to, 0, n);
	return done(is == cudaMemcpyHostToDevice ? &counts.to_device : is == cudaMemcpyDeviceToHost ? &counts.to_host :
		    &counts.launches);
}

API cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind)
{
	counts.waits++;
	counts.idle++;
	return cudaMemcpyAsync(to, from, n, kind, NULL);
}

API cudaError_t cudaMemsetAsync(void *p UNUSED, int value UNUSED, size_t n UNUSED, cudaStream_t stream UNUSED)
{
	return done(&counts.launches);
}

API cudaError_t cudaMemset(void *p, int value, size_t n) { return cudaMemsetAsync(p, value, n, NULL); }

API cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p)
{
	memset(a, 0, sizeof(*a));
	a->type = on_device(p) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
	a->devicePointer = a->hostPointer = (void *)p;
	return cudaSuccess;
}

API cudaError_t cudaGetSymbolAddress(void **p, const void *symbol UNUSED)
{
	static char constants[1 << 16];
	*p = (void *)((uintptr_t)constants | MARK);
	return cudaSuccess;
}

/* ---- streams, events, capture ---- */

static cudaStream_t capture_stream;

static void *handle(void)
{
	static uintptr_t n = 16;
	return (void *)__atomic_add_fetch(&n, 16, __ATOMIC_RELAXED);
}

static int64_t work(void) { return counts.launches + counts.products + counts.graphs; }

static int broken(void) { return counts.graphs > (int64_t)asked("FAKE_CUDA_BREAKS", 1e18); }

/* For the first so much work. */
static cudaError_t wait(int64_t first)
{
	if (capturing)
		return refused();
	if (broken())
		return fails(cudaErrorIllegalAddress);
	counts.waits++;
	counts.idle += first == work();
	return cudaSuccess;
}

static int64_t before[1 << 16]; /* by an event's handle: the work recorded */
static int64_t *of_event(cudaEvent_t e) { return &before[(uintptr_t)e / 16 % (1 << 16)]; }

API cudaError_t cudaStreamSynchronize(cudaStream_t s UNUSED) { return wait(work()); }
API cudaError_t cudaDeviceSynchronize(void) { return wait(work()); }
API cudaError_t cudaEventSynchronize(cudaEvent_t e) { return wait(*of_event(e)); }
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s UNUSED, unsigned flags UNUSED)
{
	*of_event(e) = work();
	return broken() ? fails(cudaErrorIllegalAddress) : cudaSuccess;
}
API cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { return cudaEventRecordWithFlags(e, s, 0); }

API cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a UNUSED, cudaEvent_t b UNUSED)
{
	*ms = 0;
	return cudaSuccess;
}

API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags UNUSED, int priority UNUSED)
{
	return *s = handle(), cudaSuccess;
}

API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags UNUSED) { return *e = handle(), cudaSuccess; }

API cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode m UNUSED)
{
	if (!s || asked("FAKE_CUDA_NO_GRAPHS", 0) == 1)
		return refused();
	capturing = 1;
	counts.captured = invalid = 0;
	capture_stream = s;
	return cudaSuccess;
}

API cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *m)
{
	int old = capture_mode;
	capture_mode = (int)*m;
	*m = (enum cudaStreamCaptureMode)old;
	return cudaSuccess;
}

API cudaError_t cudaStreamEndCapture(cudaStream_t s UNUSED, cudaGraph_t *g)
{
	capturing = 0;
	*g = invalid ? NULL : (cudaGraph_t)(counts.captured + 1);
	return invalid ? fails(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
}

API cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status)
{
	*status = capturing && s == capture_stream ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
	return cudaSuccess;
}

API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *status, unsigned long long *id,
					 cudaGraph_t *g, const cudaGraphNode_t **after, const cudaGraphEdgeData **edges, size_t *n)
{
	cudaStreamIsCapturing(s, status);
	if (id)
		*id = 1;
	if (g)
		*g = (cudaGraph_t)1;
	if (after)
		*after = NULL;
	if (edges)
		*edges = NULL;
	if (n)
		*n = 0;
	return cudaSuccess;
}

API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long flags UNUSED)
{
	*e = (cudaGraphExec_t)g;
	return asked("FAKE_CUDA_NO_GRAPHS", 0) == 2 ? cudaErrorMemoryAllocation : cudaSuccess;
}

API cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes UNUSED, size_t *n)
{
	*n = (size_t)g - 1;
	return cudaSuccess;
}

API cudaError_t cudaGraphLaunch(cudaGraphExec_t e UNUSED, cudaStream_t s UNUSED)
{
	counts.graphs++;
	return cudaSuccess;
}

/* ---- cuBLAS and NCCL ---- */

static int made(void **p)
{
	*p = calloc(1, 256);
	return 0;
}

static int unmade(void *p)
{
	free(p);
	return 0;
}

static int multiplied(void) { return done(&counts.products); }

EXPORT(int, cublasCreate_v2, void **h) { return made(h); }
EXPORT(int, cublasGetMathMode, void *h UNUSED, int *m) { return *m = 0; }
EXPORT(int, cublasGetPointerMode_v2, void *h UNUSED, int *m) { return *m = 0; }
EXPORT(size_t, cublasLtGetVersion, void) { return 130000; }
EXPORT(int, cublasLtMatmulDescCreate, void **d, int compute UNUSED, int type UNUSED) { return made(d); }
EXPORT(int, cublasLtMatmulPreferenceCreate, void **p) { return made(p); }
EXPORT(int, cublasLtMatrixLayoutCreate, void **l, int type UNUSED, uint64_t rows UNUSED, uint64_t cols UNUSED, int64_t ld UNUSED)
{
	return made(l);
}
EXPORT(int, cublasLtMatmulDescDestroy, void *p) { return unmade(p); }
EXPORT(int, cublasLtMatmulPreferenceDestroy, void *p) { return unmade(p); }
EXPORT(int, cublasLtMatrixLayoutDestroy, void *p) { return unmade(p); }
EXPORT(int, cublasLtMatmulAlgoGetHeuristic, void *h UNUSED, void *desc UNUSED, void *a UNUSED, void *b UNUSED, void *c UNUSED,
       void *d UNUSED, void *preference UNUSED, int want UNUSED, void *result, int *n)
{
	memset(result, 0, 96); /* one way is always found */
	*n = 1;
	return 0;
}
EXPORT(int, cublasGemmEx, void) { return multiplied(); }
EXPORT(int, cublasGemmStridedBatchedEx, void) { return multiplied(); }
EXPORT(int, cublasSgemm_v2, void) { return multiplied(); }
EXPORT(int, cublasSgemmEx, void) { return multiplied(); }
EXPORT(int, cublasSgemmStridedBatched, void) { return multiplied(); }
EXPORT(int, cublasLtMatmul, void) { return multiplied(); }
EXPORT(int, ncclCommInitRank, void **c) { return made(c); }
EXPORT(int, ncclAllReduce, const void *from) { return on_device(from) ? done(&counts.sums) : 4; /* ncclInvalidArgument */ }

/* ---- the driver, as far as it is asked for by name ---- */

EXPORT(int, cuInit, unsigned flags UNUSED) { return 0; }
EXPORT(int, cuDriverGetVersion, int *v) { return (int)cudaDriverGetVersion(v); }
EXPORT(int, cuDeviceGetCount, int *n) { return (int)cudaGetDeviceCount(n); }
EXPORT(int, cuDeviceGetAttribute, int *v, int a, int d) { return (int)cudaDeviceGetAttribute(v, (enum cudaDeviceAttr)a, d); }
EXPORT(int, cuDeviceGet, int *d, int i) { return *d = i, 0; }
EXPORT(int, cuDevicePrimaryCtxGetState, int d UNUSED, unsigned *flags, int *active) { return *flags = 0, *active = 1, 0; }
EXPORT(int, cuCtxGetCurrent, void **c)
{
	*c = (void *)16;
	return 0;
}
EXPORT(int, cuModuleLoadData, void **m, const void *image)
{
	*m = handle();
	if (!n_areas)
		return 201; /* CUDA_ERROR_INVALID_CONTEXT: what the runtime makes with the first memory */
	return *(const char *)image ? 200 : 0; /* CUDA_ERROR_INVALID_IMAGE: what NVRTC makes here is a zero */
}
EXPORT(int, cuModuleGetFunction, void **f, void *m UNUSED, const char *name UNUSED)
{
	*f = handle();
	return 0;
}
EXPORT(int, cuLaunchKernel, void *f)
{
	static _Atomic long n;
	return ++n == (long)asked("FAKE_CUDA_NO_LAUNCH", 0) ? (int)cudaErrorMemoryAllocation : (int)launch(f);
}

/* ---- NVRTC: any source compiles to one byte. Its version is 0.0, so that the card's cache never has it by a real name ---- */

EXPORT(int, nvrtcVersion, int *major, int *minor) { return *major = *minor = 0; }
EXPORT(int, nvrtcCreateProgram, void **p) { return made(p); }
EXPORT(int, nvrtcCompileProgram, void) { return 0; }
EXPORT(int, nvrtcGetCUBINSize, void *p UNUSED, size_t *n)
{
	*n = 1;
	return 0;
}
EXPORT(int, nvrtcGetCUBIN, void *p UNUSED, char *code) { return *code = 0; }
EXPORT(int, nvrtcDestroyProgram, void **p) { return unmade(*p); }

/* ---- what was done ---- */

struct fake_cuda fake_cuda_counts(void) { return counts; }

__attribute__((destructor)) static void say(void)
{
	const char *path = getenv("FAKE_CUDA_SAY");
	FILE *f = path && counts.launches ? fopen(path, "a") : NULL;
	if (!f)
		return;
	fprintf(f, "{\"launches\": %lld, \"products\": %lld, \"to_device\": %lld, \"to_host\": %lld, \"waits\": %lld, ",
		(long long)counts.launches, (long long)counts.products, (long long)counts.to_device, (long long)counts.to_host,
		(long long)counts.waits);
	fprintf(f, "\"graphs\": %lld, \"refused\": %lld, \"sums\": %lld, \"peak\": %lld}\n", (long long)counts.graphs,
		(long long)counts.refused, (long long)counts.sums, (long long)counts.peak);
	fclose(f);
}
