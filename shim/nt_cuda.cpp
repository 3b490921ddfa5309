// The GPU's own kernels (kernels.cu, decode.cu): compiled for the card at first use by NVRTC, kept in the cache folder by hash,
// launched through the driver. Nothing of CUDA is linked: libcuda.so.1 and NVRTC, of the wheel's version, are opened when a
// GPU is. Without NVRTC the operations are libtorch's own.
#include "shim/nt_gpu.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/hash.h>
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

asm(".section .rodata\n"
    ".balign 16\n"
    "nla_kernels_source: .incbin \"" NLA_SHIM "/kernels.cu\"\n"
    ".incbin \"" NLA_SHIM "/decode.cu\"\n"
    ".byte 0\n"
    ".previous\n");
extern "C" const char nla_kernels_source[];

namespace nt::gpu
{

Launcher launcher; // NULL: the plain operations run
std::string off = "no GPU is open"; // why

namespace
{

namespace fs = std::filesystem;

template <class F> F symbol(void *library, const char *name)
{
	void *f = dlsym(library, name);
	TORCH_CHECK(f, "a library has no ", name);
	return reinterpret_cast<F>(f);
}

void *driver() { return dlopen("libcuda.so.1", RTLD_LAZY); }

void *open_nvrtc()
{
	const fs::path own = "nvidia/" NLA_NVRTC, name = own.filename();
	void *found = dlopen(name.c_str(), RTLD_LAZY);
	Dl_info torch;
	if (!found && dladdr(reinterpret_cast<void *>(&c10::SetAllocator), &torch)) { // the wheels' own lies beside it
		fs::path wheels = fs::path(torch.dli_fname).parent_path().parent_path().parent_path();
		found = dlopen((wheels / own).c_str(), RTLD_LAZY);
	}
	TORCH_CHECK(found, "there is no ", name.c_str(), " (pip: nvidia-cuda-nvrtc, of CUDA 12 nvidia-cuda-nvrtc-cu12)");
	return found;
}

std::string compile(void *lib, const std::string &source, const std::string &arch)
{
	void *program = nullptr;
	auto create = symbol<int (*)(void **, const char *, const char *, int, const char *const *, const char *const *)>(
		lib, "nvrtcCreateProgram");
	auto build = symbol<int (*)(void *, int, const char *const *)>(lib, "nvrtcCompileProgram");
	auto take = [&](const char *size, const char *get) {
		size_t n = 0;
		symbol<int (*)(void *, size_t *)>(lib, size)(program, &n);
		std::string s(n, 0);
		symbol<int (*)(void *, char *)>(lib, get)(program, s.data());
		return s;
	};
	std::string target = "--gpu-architecture=" + arch;
	const char *options[] = {target.c_str(), "--std=c++17"};
	TORCH_CHECK(create(&program, source.c_str(), "kernels.cu", 0, nullptr, nullptr) == 0, "NVRTC does not start");
	int failed = build(program, 2, options);
	std::string out =
		failed ? take("nvrtcGetProgramLogSize", "nvrtcGetProgramLog") : take("nvrtcGetCUBINSize", "nvrtcGetCUBIN");
	symbol<int (*)(void **)>(lib, "nvrtcDestroyProgram")(&program);
	TORCH_CHECK(!failed, "NVRTC: ", out);
	return out;
}

fs::path cache_folder()
{
	const char *own = std::getenv("NLA_CACHE"), *xdg = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
	return own ? fs::path(own) / "kernels"
		   : (xdg ? fs::path(xdg) : fs::path(home ? home : "/tmp") / ".cache") / "nla" / "kernels";
}

// From the cache, or (anew: what is there is damaged) compiled into it. A folder that cannot be written costs the time of
// compiling, no more.
std::string cubin(const std::string &source, const std::string &arch, bool anew)
{
	void *nvrtc = open_nvrtc();
	int version[2] = {0, 0};
	symbol<int (*)(int *, int *)>(nvrtc, "nvrtcVersion")(&version[0], &version[1]);
	std::string all = source + arch + ":" + std::to_string(version[0]) + "." + std::to_string(version[1]);
	fs::path path = cache_folder() / (c10::sha1(all).str() + ".cubin"), fresh = path;
	std::ifstream in(path, std::ios::binary);
	if (in && !anew)
		return {std::istreambuf_iterator<char>(in), {}};
	std::string made = compile(nvrtc, source, arch);
	std::error_code ignored;
	fresh += "." + std::to_string(getpid());
	fs::create_directories(path.parent_path(), ignored);
	if (std::ofstream(fresh, std::ios::binary) << made << std::flush)
		fs::rename(fresh, path, ignored);
	return made;
}

// What the driver returns; 2: another process has the rest of the card's memory.
void need(int rc, const char *what, const char *name = "")
{
	TORCH_CHECK_WITH(OutOfMemoryError, rc != 2, what, name, ": out of memory");
	TORCH_CHECK(rc == 0, what, name, ": error ", rc);
}

void *module(int device, const Kernel &k)
{
	static std::map<std::array<int, 4>, void *> modules;
	void *&m = modules[{device, k.fp32, k.head, k.group}], *loaded = nullptr;
	if (m)
		return m;
	std::string source = k.fp32 ? "#define T float\n" : "#define T bf16\n";
	if (k.head)
		source += "#define HEAD " + std::to_string(k.head) + "\n#define GROUP " + std::to_string(k.group) + "\n";
	source += nla_kernels_source;
	const std::string arch = "sm_" + std::to_string(capability(device));
	auto load = symbol<int (*)(void **, const void *)>(driver(), "cuModuleLoadData");
	int rc = load(&loaded, cubin(source, arch, false).data());
	if (rc && rc != 2)
		rc = load(&loaded, cubin(source, arch, true).data());
	need(rc, "the driver does not load the kernels");
	return m = loaded;
}

int card; // that kernels start on

void launch_cuda(Kernel &k, const unsigned *grid, unsigned threads, void **args)
{
	static auto run = symbol<int (*)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *,
					 void **, void **)>(driver(), "cuLaunchKernel");
	if (k.card != card) {
		auto get = symbol<int (*)(void **, void *, const char *)>(driver(), "cuModuleGetFunction");
		need(get(&k.function, module(card, k), k.name), "the driver does not find the kernel ", k.name);
		k.card = card;
	}
	c10::impl::VirtualGuardImpl guard(at::kCUDA);
	c10::Stream stream = guard.getStream(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(card)));
	void *handle = guard.getStreamNativeHandle(stream);
	need(run(k.function, grid[0], grid[1], grid[2], threads, 1, 1, 0, handle, args, nullptr),
	     "the driver does not start the kernel ", k.name);
}

} // namespace

int capability(int device)
{
	auto ask = symbol<int (*)(int *, int, int)>(driver(), "cuDeviceGetAttribute");
	int major = 0, minor = 0; // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
	TORCH_CHECK(ask(&major, 75, device) == 0 && ask(&minor, 76, device) == 0, "the driver does not know the card");
	return 10 * major + minor;
}

void start(int device)
{
	try {
		at::zeros({1}, at::TensorOptions(nt::device(device))); // with it the card has a context
		card = device;
		module(card, {"sample", true});
		launcher = launch_cuda;
		off.clear();
	} catch (const c10::Error &e) {
		off = e.what_without_backtrace();
	} catch (const std::exception &e) {
		off = e.what();
	}
}

bool takes_type(const at::Tensor &t) { return t.scalar_type() == at::kBFloat16 || t.scalar_type() == at::kFloat; }

static bool switched_off[NT_FAST_N];

bool fast(nt_fast what) { return enabled() && !switched_off[what]; }

bool takes(nt_fast what, at::TensorList in)
{
	return launcher && fast(what) && std::all_of(in.begin(), in.end(), [&](const at::Tensor &t) {
		       return !t.is_cpu() && t.is_contiguous() && t.scalar_type() == in[0].scalar_type() && takes_type(t) &&
			      reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0; // they load 16 bytes at once
	       });
}

// The kernel for the type of t, and for heads of such a size.
static Kernel &typed(Kernel &k, const at::Tensor &t, int64_t head = 0, int64_t group = 0)
{
	bool fp32 = t.scalar_type() == at::kFloat;
	if (k.fp32 != fp32 || k.head != head || k.group != group)
		k = {k.name, fp32, static_cast<int>(head), static_cast<int>(group)};
	return k;
}

static void *argument(const at::Tensor &t) { return t.defined() ? t.data_ptr() : nullptr; }
static void *argument(const nt_tensor *t) { return argument(tensor(t)); }
static float argument(double x) { return static_cast<float>(x); }
template <class N> static N argument(N x) { return x; }

template <class... A> static void launch(Kernel &k, at::IntArrayRef blocks, unsigned threads, const A &...a)
{
	unsigned grid[3] = {1, 1, 1};
	std::copy(blocks.begin(), blocks.end(), grid);
	[&](auto... args) {
		void *addresses[] = {&args...};
		launcher(k, grid, threads, addresses);
	}(argument(a)...);
}

static unsigned norm_threads(int64_t d) { return unsigned(std::clamp<int64_t>((d + 255) / 256 * 32, 32, 1024)); }

// w: of the type of x, or fp32.
at::Tensor rms_norm(const at::Tensor &dy, const at::Tensor &x, const at::Tensor &w, double eps)
{
	static Kernel kernel = {"rms_norm"}, back = {"rms_norm_back"};
	const at::Tensor y = at::empty_like(x), none, &wide = w.scalar_type() == at::kFloat ? w : none;
	const at::Tensor &narrow = wide.defined() ? none : w;
	int64_t d = x.size(-1), rows = x.numel() / d;
	if (dy.defined())
		launch(typed(back, x), {rows}, norm_threads(d), dy, x, narrow, wide, y, int(d), eps);
	else
		launch(typed(kernel, x), {rows}, norm_threads(d), x, narrow, wide, y, int(d), eps);
	return y;
}

at::Tensor glu(bool gelu, const at::Tensor &dy, const at::Tensor &gate_up)
{
	static Kernel kernel = {"glu"}, back = {"glu_back"};
	auto shape = gate_up.sizes().vec();
	int64_t f = shape.back() / 2, rows = gate_up.numel() / (2 * f), parts = (f + 2047) / 2048;
	shape.back() = dy.defined() ? 2 * f : f;
	at::Tensor y = at::empty(shape, gate_up.options());
	if (dy.defined())
		launch(typed(back, y), {rows, parts}, 256, dy, gate_up, y, int(f), int(gelu));
	else
		launch(typed(kernel, y), {rows, parts}, 256, gate_up, y, int(f), int(gelu));
	return y;
}

at::Tensor qk_rope(const at::Tensor &dy, const at::Tensor &x, const at::Tensor &w, double eps, const at::Tensor &cos,
		   const at::Tensor &sin)
{
	static Kernel kernel = {"qk_rope"}, back = {"qk_rope_back"};
	at::Tensor y = at::empty(x.sizes(), x.options());
	if (dy.defined())
		launch(typed(back, y), {x.size(0), x.size(1)}, 32, dy, x, x.stride(0), w, cos, sin, y, int(x.size(2)), eps);
	else
		launch(typed(kernel, y), {x.size(0), x.size(1)}, 32, x, x.stride(0), w, cos, sin, y, int(x.size(2)), eps);
	return y;
}

std::pair<at::Tensor, at::Tensor> key_sum(const at::Tensor &dk, const at::Tensor &dv, const at::Tensor &start,
					  const at::Tensor &place)
{
	static Kernel kernel = {"key_sum"};
	auto shape = dk.sizes().vec();
	shape[0] = start.numel() - 1;
	at::Tensor k = at::empty(shape, dk.options()), v = at::empty_like(k);
	launch(typed(kernel, k), {shape[0], 2}, 256, dk, dv, start, place, k, v, int(shape[1] * shape[2]));
	return {k, v};
}

at::Tensor rope_cached(const nt_heads &x, const at::Tensor &k_cache, const at::Tensor &v_cache, const at::Tensor &slot,
		       const at::Tensor &position)
{
	static Kernel kernel = {"rope_cached"};
	const at::Tensor &q = x.q->t, &k = x.k->t, &v = x.v->t;
	at::Tensor out = at::empty(q.sizes(), q.options());
	int64_t hq = q.size(1), hkv = k.size(1);
	launch(typed(kernel, out), {hq + 2 * hkv, q.size(0)}, 32, q, k, v, q.stride(0), k.stride(0), v.stride(0), x.q_norm,
	       x.k_norm, x.cos, x.sin, out, k_cache, v_cache, slot, position, k_cache.size(1), int(hq), int(hkv),
	       int(q.size(2)), x.eps);
	return out;
}

bool takes_heads(int64_t head, int64_t group)
{
	int64_t at_once = head % 8 == 0 ? 8 : head % 4 == 0 ? 4 : 2; // components of a lane, of which a warp has 32
	bool fits = head % 2 == 0 && head <= 32 * at_once && group <= 16;
	fits = fits && head * group <= 2048; // 32 KB of shared memory
	return fits && (!plugin->has_heads || plugin->has_heads(int(head), int(group)));
}

at::Tensor attention_cached(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const at::Tensor &slot,
			    const at::Tensor &length, int64_t window, double scale)
{
	static Kernel split = {"decode_split"}, join = {"decode_join"};
	int64_t n = q.size(0), hkv = k.size(2), head = q.size(2), group = q.size(1) / hkv;
	// By the cache's size alone: the same for every token, and a row's sums do not depend on how many rows there are.
	int64_t splits = std::clamp<int64_t>(std::min(window, k.size(1)) / 512, 1, 32);
	unsigned threads = head * group <= 1024 ? 256 : 128; // WARPS of decode.cu
	at::Tensor o = at::empty_like(q), part;
	if (splits > 1)
		part = at::empty({n, hkv, splits, group, head + 2}, q.options().dtype(at::kFloat));
	launch(typed(split, q, head, group), {splits, hkv, n}, threads, q, k, v, slot, length, part, o, k.size(1), window,
	       int(hkv), scale);
	if (splits > 1)
		launch(typed(join, q, head, group), {q.size(1), n}, unsigned(std::max<int64_t>(head, 32)), part, o,
		       int(splits));
	return o;
}

at::Tensor sample(const at::Tensor &z, const at::Tensor &u, double temperature, const at::Tensor &lp)
{
	static Kernel kernel = {"sample", true};
	at::Tensor ids = at::empty({z.size(0)}, z.options().dtype(at::kLong));
	// Whole warps, whose threads have 64 numbers or more each.
	int64_t v = z.size(1), threads = std::clamp<int64_t>((v / 64 + 31) / 32 * 32, 32, 1024);
	launch(kernel, {z.size(0)}, unsigned(threads), z, u, ids, lp, int(v), temperature);
	return ids;
}

} // namespace nt::gpu

bool nt_fast_is_off(enum nt_fast what) { return nt::gpu::switched_off[what]; }
void nt_fast_off(enum nt_fast what) { nt::gpu::switched_off[what] = true; }
