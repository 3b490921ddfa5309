// The GPU's own kernels as the shim's operations call them (nt_cuda.cpp): no gradients, bf16 or fp32, contiguous. And what only
// a device's own library can do.
#pragma once

#include "shim/nt_internal.h"

namespace nt::gpu
{

struct Grid {
	unsigned x, y, z;
	Grid(int64_t x, int64_t y = 1, int64_t z = 1) : x(unsigned(x)), y(unsigned(y)), z(unsigned(z)) {}
};
struct Kernel { // of kernels.cu
	const char *name;
	int head = 0, group = 0; // of the attention's: HEAD and GROUP
	int card = -1;           // where `function` is, which its first launch looks up
	void *function = nullptr;
};

// Who runs kernels: the driver, or the tests' emulator. args: addresses of the arguments.
using Launcher = void (*)(Kernel &k, const unsigned *grid, unsigned threads, void **args);
extern Launcher launcher;
extern bool (*has_heads)(int head, int group); // NULL: any; the emulator has a few

// A device's own library exports one as nla_plugin: libnla_cuda.so (cuda.cpp), or the tests' libnla_sim.so.
struct Plugin {
	at::DeviceType type;
	int (*count)(void); // devices; called first
	void (*open)(int device);
	void (*limit)(int device, int64_t bytes);
	// A graph of what `step` launches, which does not run; throws what it throws.
	void *(*capture)(int device, const std::function<void()> &step);
	void (*replay)(void *graph);
	void (*drop)(void *graph);
	Launcher launcher; // NULL: the driver
	bool (*has_heads)(int head, int group);
};

extern std::string off; // why there are no kernels; empty: there are

int capability(int device);    // of a card, in tenths
void start(int device);        // makes them ready, or sets `off`
bool takes(at::TensorList in); // can a kernel have these, of one type, now?
bool takes_heads(int64_t head, int64_t group);

template <class... A> void launch(Kernel &k, const Grid &grid, unsigned threads, A... a)
{
	void *args[] = {&a...};
	const unsigned size[3] = {grid.x, grid.y, grid.z};
	launcher(k, size, threads, args);
}

// What the heads of a new token come from: q [n,Hq,d], k, v [n,Hkv,d], whose tokens may lie apart; norms [d] or undefined.
struct Rope {
	at::Tensor q, k, v, q_norm, k_norm, cos, sin;
	double eps;
};

at::Tensor rms_norm(const at::Tensor &x, const at::Tensor &w, double eps);
at::Tensor swiglu(const at::Tensor &gate_up);
at::Tensor rope_cached(const Rope &a, const at::Tensor &k_cache, const at::Tensor &v_cache, const at::Tensor &slot,
		       const at::Tensor &at);
at::Tensor attention_cached(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const at::Tensor &slot,
			    const at::Tensor &length, double scale);
at::Tensor sample(const at::Tensor &z, const at::Tensor &u, double temperature, const at::Tensor &lp);

} // namespace nt::gpu
