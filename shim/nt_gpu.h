// The GPU's own kernels as the shim's operations call them (nt_cuda.cpp): bf16 or fp32, contiguous; what they give has no
// gradient of its own. And what only a device's own library can do.
#pragma once

#include "shim/nt_internal.h"

#include <utility>

namespace nt::gpu
{

struct Kernel { // of kernels.cu or decode.cu
	const char *name;
	bool fp32 = false;       // T: float or bf16
	int head = 0, group = 0; // of the attention's: HEAD and GROUP
	int card = -1;           // where `function` is, which its first launch looks up
	void *function = nullptr;
};

// Who runs kernels: the driver, or the tests' emulator. args: addresses of the arguments.
using Launcher = void (*)(Kernel &k, const unsigned *grid, unsigned threads, void **args);
extern Launcher launcher;

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
	bool (*has_heads)(int head, int group); // NULL: any; the emulator has a few
	// Sums over ranks, in fp32; NULL: they go through the host. An id is 128 bytes, made by one for all.
	void (*ranks_id)(void *id);
	void *(*ranks_join)(int rank, int size, const void *id); // on the open device
	void (*ranks_sum)(void *ranks, void *data, int64_t n); // in place; returns when it is there
	void (*ranks_leave)(void *ranks);
};
extern const Plugin *plugin; // the GPU's, once one was asked for

extern std::string off; // why there are no kernels; empty: there are

int capability(int device);                  // of a card, in tenths
void start(int device);                      // makes them ready, or sets `off`
bool fast(nt_fast what);                     // enabled, and not switched off
bool takes(nt_fast what, at::TensorList in); // can its kernel have these, of one type, now?
bool takes_type(const at::Tensor &t);        // bf16 or fp32
bool takes_heads(int64_t head, int64_t group);

// A token tree as flash attention has it: a sequence a row, its keys those of its ancestors and then its own.
struct Sequences {
	at::Tensor from_q, from_k;    // int32 [rows + 1]: where a row's queries and keys begin
	at::Tensor keys;              // int64 [m]: which token each is; undefined: the tokens as they are
	at::Tensor key_start, key_at; // int32 [n + 1], [m]: where a token stands among the keys, as key_sum has it
	int64_t max_q, max_k;
	double pairs; // of a token and a key that it sees
};
bool flash_takes(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v);
// q [n,Hq,d], k, v [n,Hkv,d], whose tokens may lie apart -> [n,Hq,d], with gradients (nt_flash.cpp); window 0: none
at::Tensor flash_attention(const Sequences &tree, const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, int64_t window,
			   double scale);

// What is computed of x, or with dy the gradient of x.
at::Tensor rms_norm(const at::Tensor &dy, const at::Tensor &x, const at::Tensor &w, double eps);
at::Tensor glu(bool gelu, const at::Tensor &dy, const at::Tensor &gate_up);
// x [n,H,d], whose tokens may lie apart; w [d] fp32 or undefined; cos, sin [n,d/2].
at::Tensor qk_rope(const at::Tensor &dy, const at::Tensor &x, const at::Tensor &w, double eps, const at::Tensor &cos,
		   const at::Tensor &sin);
// [n,H,d] from dk, dv [m,H,d]: token i is the sum of place[start[i]] .. place[start[i + 1] - 1]; int32.
std::pair<at::Tensor, at::Tensor> key_sum(const at::Tensor &dk, const at::Tensor &dv, const at::Tensor &start,
					  const at::Tensor &place);
// Tokens of x may lie apart, its norms are fp32.
at::Tensor rope_cached(const nt_heads &x, const at::Tensor &k_cache, const at::Tensor &v_cache, const at::Tensor &slot,
		       const at::Tensor &at);
at::Tensor attention_cached(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const at::Tensor &slot,
			    const at::Tensor &length, int64_t window, double scale);
at::Tensor sample(const at::Tensor &z, const at::Tensor &u, double temperature, const at::Tensor &lp);

} // namespace nt::gpu
