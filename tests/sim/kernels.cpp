// The GPU's own kernels on the simulated GPU: the emulator (tests/emulator) runs their source on the memory behind the device's
// addresses. So the numbers of the fast path are had where there is no card, and a call whose arguments do not fit the kernel's shows.
#include "sim/plugin.h"
#include "tests/emulator/cuda_emu.h"

#include <string>
#include <tuple>
#include <utility>

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

#define RUN(kernel) named(name, #kernel, kernel, grid, threads, args)
#define EACH                                                                                                                \
	static bool run(const std::string &name, const unsigned *grid, unsigned threads, void **args)                       \
	{                                                                                                                   \
		return RUN(rope_cached) || RUN(qk_rope) || RUN(qk_rope_back) || RUN(key_sum) || RUN(rms_norm) || RUN(rms_norm_back) || RUN(glu) || RUN(glu_back) || \
		       RUN(sample) || RUN(decode_split) || RUN(decode_join);                                                 \
	}
#define NAME b16_3
#define T bf16
#define HEAD 16
#define GROUP 3
#include "tests/emulator/kernels.h"
#define NAME f16_3
#define T float
#define HEAD 16
#define GROUP 3
#include "tests/emulator/kernels.h"
#define NAME b32_2
#define T bf16
#define HEAD 32
#define GROUP 2
#include "tests/emulator/kernels.h"
#define NAME f32_2
#define T float
#define HEAD 32
#define GROUP 2
#include "tests/emulator/kernels.h"
#define NAME b64_3
#define T bf16
#define HEAD 64
#define GROUP 3
#include "tests/emulator/kernels.h"
#define NAME f64_3
#define T float
#define HEAD 64
#define GROUP 3
#include "tests/emulator/kernels.h"

static const struct {
	int head, group;
	bool fp32;
	bool (*run)(const std::string &name, const unsigned *grid, unsigned threads, void **args);
} compiled[] = {{16, 3, false, b16_3::run}, {16, 3, true, f16_3::run}, {32, 2, false, b32_2::run},
		{32, 2, true, f32_2::run}, {64, 3, false, b64_3::run}, {64, 3, true, f64_3::run}};

bool sim_has_heads(int head, int group)
{
	return std::any_of(std::begin(compiled), std::end(compiled), [=](auto &c) { return c.head == head && c.group == group; });
}

void sim_launch(nt::gpu::Kernel &k, const unsigned *grid, unsigned threads, void **args)
{
	const char *wrong = getenv("SIM_WRONG"); // does nothing: what it should write stays NaN
	if (wrong && !strcmp(wrong, k.name))
		return;
	for (auto &c : compiled)
		if (c.fp32 == k.fp32 && (!k.head || (c.head == k.head && c.group == k.group)) && c.run(k.name, grid, threads, args))
			return;
	emu::die("no kernel of that name");
}
