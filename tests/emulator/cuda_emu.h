// Runs the GPU's kernels (shim/kernels.cu) on the CPU, for tests: include this first. A block's threads are fibers, switched only where they wait for one another; between two
// waits they run one by one, in an order that CUDA_EMU_ORDER picks: 0 ascending, 1 descending, n shuffled with seed n. Shared memory
// starts as NaN. A barrier or warp operation that not all threads reach ends the program.
//
// With -fsanitize=thread every CUDA thread is a thread to the sanitizer, ordered by barriers, __syncwarp and the end of the kernel
// only: it reports a missing barrier, and two blocks that write one place. With -fsanitize=address it reports what lies outside.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define EMU_TSAN(x) x
#define EMU_OWN __attribute__((no_sanitize("thread"), noinline)) // the emulator's own memory, which is no kernel's
#else
#define EMU_TSAN(x)
#define EMU_OWN inline
#endif

#define EMULATED
struct bf16 {
	uint16_t bits;
};
static inline float up(bf16 x)
{
	uint32_t u = uint32_t(x.bits) << 16;
	float f;
	memcpy(&f, &u, 4);
	return f;
}
static inline void down(bf16 *p, float f) // to nearest, ties to even
{
	uint32_t u;
	memcpy(&u, &f, 4);
	p->bits = f != f ? 0x7fff : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

struct dim3 {
	unsigned x, y, z;
	dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emu {

enum Wait { RUN, WARP, BLOCK, DONE };
struct Fiber {
	ucontext_t context;
	jmp_buf at;
	Wait wait = RUN;
	dim3 index;
	std::unique_ptr<char[]> stack;
	uint64_t gift[2]; // to its warp; two, so that none is overwritten before all have read it
	unsigned gifts = 0;
	void *tsan = nullptr;
};
static const size_t stack_size = 64 << 10;
static Fiber fibers[1024];
static Fiber *self;
[[maybe_unused]] static ucontext_t scheduler_context;
[[maybe_unused]] static jmp_buf scheduler;
[[maybe_unused]] static void *scheduler_tsan;
static const std::function<void()> *body;
static dim3 block_index, block_dim, grid_dim;
static int64_t block_number; // shared arrays are cleared at the first touch in each block
[[maybe_unused]] static char block_sync, warp_sync[64], kernel_end;

static inline void die(const char *why)
{
	fprintf(stderr, "cuda_emu: block (%u,%u,%u): %s\n", block_index.x, block_index.y, block_index.z, why);
	abort();
}

static EMU_OWN void leave(Wait w)
{
	self->wait = w;
#ifdef __SANITIZE_THREAD__
	__tsan_switch_to_fiber(scheduler_tsan, __tsan_switch_to_fiber_no_sync);
	swapcontext(&self->context, &scheduler_context);
#else
	if (!_setjmp(self->at))
		_longjmp(scheduler, 1);
#endif
}

static EMU_OWN const std::function<void()> *what() { return body; }
static inline void call() { (*what())(); }

static EMU_OWN void entry()
{
	call();
	EMU_TSAN(__tsan_release(&kernel_end);)
	leave(DONE);
}

static EMU_OWN void resume(Fiber &f, bool fresh)
{
	self = &f;
	f.wait = RUN;
	if (fresh) {
		getcontext(&f.context);
		if (!f.stack)
			f.stack.reset(new char[stack_size]);
		f.context.uc_stack.ss_sp = f.stack.get();
		f.context.uc_stack.ss_size = stack_size;
		f.context.uc_link = nullptr;
		f.gifts = 0;
		makecontext(&f.context, entry, 0);
	}
#ifdef __SANITIZE_THREAD__
	__tsan_switch_to_fiber(f.tsan, __tsan_switch_to_fiber_no_sync);
	swapcontext(&scheduler_context, &f.context);
#else
	if (_setjmp(scheduler))
		return;
	if (fresh)
		setcontext(&f.context);
	_longjmp(f.at, 1);
#endif
}

static EMU_OWN void run_block(unsigned n, const std::vector<unsigned> &lanes, const std::vector<unsigned> &warps)
{
	bool fresh = true;
	for (unsigned done = 0; done < n; fresh = false) {
		for (unsigned w : warps) { // every warp to the next barrier
			unsigned size = std::min(32u, n - w * 32), count[4];
			for (bool again = true, first = fresh; again; first = false) {
				count[WARP] = count[BLOCK] = count[DONE] = 0;
				for (unsigned i : lanes) {
					if (i >= size)
						continue;
					Fiber &f = fibers[w * 32 + i];
					if (f.wait != DONE || first)
						resume(f, first);
					count[f.wait]++;
				}
				again = count[WARP] > 0;
				if (again && count[WARP] != size)
					die("not all threads of a warp reach its operation");
			}
			done += count[DONE];
			if (count[BLOCK] && count[DONE])
				die("threads ended before a barrier");
		}
		if (done && done != n)
			die("warps ended before a barrier");
	}
}

static EMU_OWN unsigned lane() { return unsigned(self - fibers) % 32; }

static EMU_OWN dim3 where(int what) { return what == 0 ? self->index : what == 1 ? block_index : what == 2 ? block_dim : grid_dim; }

#ifdef __SANITIZE_THREAD__
static std::vector<std::unique_ptr<char[]>> retired; // stacks of earlier blocks: two blocks of a kernel have no order
static char arena[64 << 20]; // a kernel's shared memory, of all its blocks
static size_t arena_used;
static EMU_OWN char *fresh(size_t n)
{
	arena_used += (n + 15) / 16 * 16;
	if (arena_used > sizeof arena)
		die("too many blocks for the sanitizer");
	return arena + arena_used - (n + 15) / 16 * 16;
}
#endif

template <class T, size_t N> struct Shared {
	alignas(16) T own[N];
	T *data = own;
	int64_t block = 0;
	EMU_OWN T *get()
	{
		if (block != block_number) {
			EMU_TSAN(data = reinterpret_cast<T *>(fresh(sizeof own));) // no block races with another about it
			for (size_t i = 0; i < sizeof own; i++)
				reinterpret_cast<volatile unsigned char *>(data)[i] = 0xff;
			block = block_number;
		}
		return data;
	}
};

// No order of memory comes with it, as on a GPU.
template <class T> EMU_OWN T shuffle(T v, unsigned from)
{
	static_assert(sizeof(T) <= 8, "");
	unsigned slot = self->gifts++ & 1;
	__builtin_memcpy(&self->gift[slot], &v, sizeof v);
	leave(WARP);
	Fiber *giver = self - lane() + from % 32;
	__builtin_memcpy(&v, &giver->gift[slot], sizeof v);
	return v;
}

static EMU_OWN void sync(Wait w, [[maybe_unused]] char *what)
{
	EMU_TSAN(__tsan_release(what);)
	leave(w);
	EMU_TSAN(__tsan_acquire(what);)
}

static EMU_OWN void launch(dim3 grid, dim3 block, const std::function<void()> &f)
{
	const char *e = getenv("CUDA_EMU_ORDER");
	unsigned n = block.x * block.y * block.z, mode = e ? unsigned(strtol(e, nullptr, 10)) : 0;
	std::vector<unsigned> lanes(32), warps((n + 31) / 32);
	for (auto *v : { &lanes, &warps }) {
		for (unsigned i = 0; i < v->size(); i++)
			(*v)[i] = i;
		if (mode == 1)
			std::reverse(v->begin(), v->end());
		if (mode > 1)
			std::shuffle(v->begin(), v->end(), std::mt19937(mode));
	}
	if (n > 1024)
		die("more than 1024 threads");
	if (grid.y > 65535 || grid.z > 65535)
		die("a grid of more than 65535 in y or z");
	body = &f;
	grid_dim = grid;
	block_dim = block;
	EMU_TSAN(scheduler_tsan = __tsan_get_current_fiber(); arena_used = 0;)
	for (unsigned b = 0; b < grid.x * grid.y * grid.z; b++) {
		block_index = dim3(b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y));
		block_number++;
		for (unsigned i = 0; i < n; i++) {
			fibers[i].index = dim3(i % block.x, i / block.x % block.y, i / (block.x * block.y));
			EMU_TSAN(fibers[i].tsan = __tsan_create_fiber(0); retired.push_back(std::move(fibers[i].stack));)
		}
		run_block(n, lanes, warps);
		EMU_TSAN(for (unsigned i = 0; i < n; i++) __tsan_destroy_fiber(fibers[i].tsan);)
	}
	EMU_TSAN(__tsan_acquire(&kernel_end); retired.clear();)
}

} // namespace emu

#define threadIdx emu::where(0)
#define blockIdx emu::where(1)
#define blockDim emu::where(2)
#define gridDim emu::where(3)
#define __device__
#define KERNEL(name) static inline void name
#define KERNEL_OF(name, threads, blocks) static inline void name
#define NEGATIVE_INFINITY (-INFINITY)
#define UNROLL
#define UNROLL_8
#define SHARED(type, name, size)                      \
	static emu::Shared<type, size> name##_shared; \
	type *name = name##_shared.get()
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline void __syncthreads() { emu::sync(emu::BLOCK, &emu::block_sync); }
template <class T> T __shfl_xor_sync(unsigned, T v, int mask) { return emu::shuffle(v, emu::lane() ^ unsigned(mask)); }
template <class T> T __shfl_sync(unsigned, T v, int from) { return emu::shuffle(v, unsigned(from)); }
