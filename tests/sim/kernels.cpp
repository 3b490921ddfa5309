// The GPU's own kernels on the simulated GPU: the emulator (tests/emulator) runs their source on the memory behind the device's
// addresses. So the numbers of the fast path are had where there is no card, and a call whose arguments do not fit the kernel's shows.
#include "sim/plugin.h"
#include "tests/emulator/cuda_emu.h"

#include <string>
#include <tuple>
#include <utility>

// Those of HEAD and GROUP, by name.
#define TABLE                                                                                                          \
	static bool run(const std::string &name, const unsigned *grid, unsigned threads, void **args)                  \
	{                                                                                                              \
		return named(name, "decode_split_bf16", decode_split_bf16, grid, threads, args) ||                     \
		       named(name, "decode_split_float", decode_split_float, grid, threads, args) ||                   \
		       named(name, "decode_join_bf16", decode_join_bf16, grid, threads, args) ||                       \
		       named(name, "decode_join_float", decode_join_float, grid, threads, args);                       \
	}

static constexpr uintptr_t mark = uintptr_t(1) << 52; // of sim.cpp

template <class T> static T host(T x)
{
	if constexpr (std::is_pointer_v<T>) {
		auto at = reinterpret_cast<uintptr_t>(x);
		if (at && !(at & mark))
			emu::die("a kernel was given an address of the host");
		return reinterpret_cast<T>(at & ~mark);
	} else {
		return x;
	}
}

template <class... A, size_t... I>
static void call(void (*kernel)(A...), const unsigned *grid, unsigned threads, void **args, std::index_sequence<I...>)
{
	std::tuple<A...> given{host(*static_cast<A *>(args[I]))...};
	dim3 blocks(grid[0], grid[1], grid[2]);
	sim_launched([=] { emu::launch(blocks, threads, [&] { std::apply(kernel, given); }); });
}

template <class... A>
static bool named(const std::string &name, const char *own, void (*kernel)(A...), const unsigned *grid, unsigned threads, void **args)
{
	if (name != own)
		return false;
	call(kernel, grid, threads, args, std::index_sequence_for<A...>());
	return true;
}

#define HEAD 16
#define GROUP 3
namespace h16_3
{
#include "shim/kernels.cu"
TABLE
}
#undef HEAD
#undef GROUP
#define HEAD 32
#define GROUP 2
namespace h32_2
{
#include "shim/kernels.cu"
TABLE
}
#undef HEAD
#undef GROUP
#define HEAD 64
#define GROUP 3
namespace h64_3
{
#include "shim/kernels.cu"
TABLE
}

bool sim_has_heads(int head, int group)
{
	return (head == 16 && group == 3) || (head == 32 && group == 2) || (head == 64 && group == 3);
}

void sim_launch(nt::gpu::Kernel &k, const unsigned *grid, unsigned threads, void **args)
{
	using namespace h16_3;
	std::string name = k.name;
	int head = k.head;
	const char *wrong = getenv("SIM_WRONG"); // does nothing: what it should write stays NaN
	if (wrong && name == wrong)
		return;
#define BOTH(kernel) (named(name, #kernel "_bf16", kernel##_bf16, grid, threads, args) || \
		      named(name, #kernel "_float", kernel##_float, grid, threads, args))
	bool ran = head == 16 ? h16_3::run(name, grid, threads, args) : head == 32 ? h32_2::run(name, grid, threads, args) :
		   head == 64 ? h64_3::run(name, grid, threads, args) :
		   BOTH(rope_cached) || BOTH(qk_rope) || BOTH(qk_rope_back) || BOTH(key_sum) || BOTH(glu) || BOTH(glu_back) ||
		   named(name, "sample", sample, grid, threads, args);
	if (!ran)
		emu::die("no kernel of that name");
}
