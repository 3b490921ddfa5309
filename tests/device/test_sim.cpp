// The simulated GPU itself: what runs on it equals the CPU's, what must fail there fails, and its counts, limit and graphs.
#include "sim/plugin.h"
#include "sim/sim.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_fused_adamw.h>
#include <torch/csrc/autograd/custom_function.h>

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <functional>
#include <limits>

extern "C" {
#include <cmocka.h>
}

using at::Tensor;

static const at::Device cpu(at::kCPU), dev(at::kPrivateUse1, 0), other(at::kPrivateUse1, 1);

static Tensor numbers(at::IntArrayRef shape, double scale = 1)
{
	return at::randn(shape) * scale;
}

static Tensor ids(std::initializer_list<int64_t> list) { return at::tensor(list, at::kLong); }

// What f does with tensors of the device is what it does with those of the CPU, to the bit.
static void same(const char *what, const std::vector<Tensor> &in, const std::function<Tensor(std::vector<Tensor> &)> &f)
{
	std::vector<Tensor> host, device;
	for (const Tensor &t : in) {
		host.push_back(t.clone());
		device.push_back(t.to(dev));
	}
	Tensor want = f(host), got = f(device);
	if (!got.is_privateuseone() || !want.is_cpu())
		fail_msg("%s: a result on %s", what, got.device().str().c_str());
	if (!at::equal(got.to(cpu), want))
		fail_msg("%s: another result than on the CPU", what);
	for (size_t i = 0; i < in.size(); i++)
		if (!at::equal(device[i].to(cpu), host[i]))
			fail_msg("%s: argument %zu is not what it is on the CPU", what, i);
}

using List = std::vector<Tensor>;

static void test_views_and_in_place(void **)
{
	Tensor a = numbers({4, 6});
	same("view", {a}, [](List &x) { return x[0].view({3, 8}); });
	same("as_strided", {a}, [](List &x) { return x[0].as_strided({2, 2}, {6, 2}, 1); });
	same("transposed part", {a}, [](List &x) { return x[0].t().narrow(0, 1, 3).contiguous(); });
	same("in place on a part", {a}, [](List &x) { return x[0].narrow(0, 1, 2).mul_(3); });
	same("in place on a part of a part", {a}, [](List &x) { return x[0].select(1, 2).narrow(0, 1, 2).fill_(7); });
	same("index_put_", {a, ids({2, 0}), numbers({2, 6})}, [](List &x) { return x[0].index_put_({x[1]}, x[2]); });
	same("index_copy_ on a part", {a, ids({1, 0})}, [](List &x) { return x[0].narrow(0, 2, 2).index_copy_(0, x[1], x[0].narrow(0, 0, 2)); });
}

static void test_out_is_resized(void **)
{
	Tensor a = numbers({4, 6}), empty = at::empty({0});
	same("cat to out", {a, empty}, [](List &x) { return at::cat_out(x[1], {x[0], x[0]}, 1); });
	same("add to out", {a, empty}, [](List &x) { return at::add_out(x[1], x[0], x[0]); });
	same("topk to out", {a, empty, at::empty({0}, at::kLong)}, [](List &x) { return std::get<0>(at::topk_out(x[1], x[2], x[0], 2)); });
	same("resize_", {a}, [](List &x) {
		x[0].resize_({2, 30}).view(-1).narrow(0, 24, 36).zero_();
		return x[0].clone();
	});
	Tensor out = at::empty({0}, at::TensorOptions(dev));
	int64_t before = sim_counts().bytes;
	at::cat_out(out, {a.to(dev), a.to(dev)}, 0);
	assert_int_equal(sim_counts().bytes - before, 48 * 4); /* the new storage alone is charged */
}

static void test_operations(void **)
{
	Tensor a = numbers({4, 6}), q = numbers({2, 4, 5, 8}), k = numbers({2, 4, 7, 8});
	Tensor mask = at::rand({2, 1, 5, 7}) > 0.3;
	mask.select(-1, 0).fill_(true);
	same("arange", {a}, [](List &x) { return at::arange(7, x[0].options()); });
	same("cat", {a, a}, [](List &x) { return at::cat(x, 1); });
	same("index_select", {a, ids({2, 0})}, [](List &x) { return at::index_select(x[0], 0, x[1]); });
	same("index", {a, ids({2, 0})}, [](List &x) { return at::index(x[0], {x[1]}); });
	same("topk", {a}, [](List &x) { return std::get<1>(at::topk(x[0], 2, -1)); });
	same("mm in bf16", {a.to(at::kBFloat16)}, [](List &x) { return at::mm(x[0], x[0].t()); });
	same("foreach_norm", {a}, [](List &x) { return at::_foreach_norm(x, 2)[0]; });
	same("a number", {a}, [](List &x) { return 2 * x[0] + 1; });
	same("to another type", {a}, [](List &x) { return x[0].to(at::kBFloat16); });
	Tensor want = at::scaled_dot_product_attention(q, k, k, mask);
	Tensor got = at::scaled_dot_product_attention(q.to(dev), k.to(dev), k.to(dev), mask.to(dev)); // another backend of libtorch's
	assert_true(at::allclose(got.to(cpu), want, 1e-4, 1e-5));
	assert_true(at::equal(a.to(dev).to(other).to(cpu), a));
	assert_true(at::isnan(at::empty({3}, at::TensorOptions(dev))).all().item<bool>());
}

// ---- what must fail ----

static std::string thrown(const std::function<void()> &f)
{
	try {
		f();
	} catch (const std::exception &e) {
		return e.what();
	}
	return "";
}

static void test_mixed_devices_throw(void **)
{
	Tensor h = numbers({4, 6}), d = h.to(dev), at_h = ids({1}), at_d = at_h.to(dev), far = h.to(other);
	const struct {
		const char *what;
		std::function<void()> f;
	} calls[] = {
		{"device + host", [&] { (void)(d + h); }},
		{"host + device", [&] { (void)(h + d); }},
		{"linear", [&] { at::linear(d, h); }},
		{"mm", [&] { at::mm(h, d.t()); }},
		{"index_select", [&] { at::index_select(d, 0, at_h); }},
		{"index_select of the host's", [&] { at::index_select(h, 0, at_d); }},
		{"cat", [&] { at::cat({h, d}); }},
		{"index_put_", [&] { h.index_put_({at_d}, at::ones({6})); }},
		{"embedding", [&] { at::embedding(d, at_h); }},
		{"add_", [&] { h.add_(d); }},
		{"two devices", [&] { (void)(d + far); }},
		{"where", [&] { at::where(d > 0, h, d); }},
		{"index_copy_", [&] { h.index_copy_(0, at_h, d.narrow(0, 0, 1)); }},
	};
	for (const auto &call : calls) {
		std::string why = thrown(call.f);
		if (why.find("same device") == std::string::npos)
			fail_msg("%s: '%s'", call.what, why.c_str());
	}
}

// Does f end of a bad address in a process of its own? SIGBUS is what x86-64 makes of one that was reached by the stack's registers.
static bool dies(const std::function<void()> &f)
{
	pid_t child = fork();
	if (!child) {
		signal(SIGSEGV, SIG_DFL); // cmocka and AddressSanitizer catch it
		signal(SIGBUS, SIG_DFL);
		f();
		_exit(0);
	}
	int status = 0;
	waitpid(child, &status, 0);
	return WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

static void test_host_access_dies(void **)
{
	Tensor h = numbers({4, 6}), d = h.to(dev);
	assert_false(dies([&] { volatile float x = *h.const_data_ptr<float>(); (void)x; }));
	assert_true(dies([&] { volatile float x = *d.const_data_ptr<float>(); (void)x; }));
	assert_true(dies([&] { *static_cast<volatile float *>(d.mutable_data_ptr()) = 1; }));
	assert_true(dies([&] { at::from_blob(d.data_ptr(), {4, 6}).sum().item<float>(); })); // a CPU kernel
	int null = open("/dev/null", O_WRONLY), zero = open("/dev/zero", O_RDONLY);
	assert_true(read(zero, d.mutable_data_ptr(), 4) == -1); // the system's calls refuse it
	close(null);
	close(zero);
}

static void test_limit(void **)
{
	Tensor d = at::zeros({1 << 17}, at::TensorOptions(dev)); // 512 KiB
	sim_limit(sim_counts().bytes + (1 << 20));
	try {
		at::empty({1 << 19}, at::TensorOptions(dev));
		fail_msg("2 MiB of 1");
	} catch (const c10::OutOfMemoryError &e) {
		assert_non_null(strstr(e.what(), "tried to allocate 2097152 bytes"));
	}
	assert_true(thrown([&] { at::cat({d, d, d}); }).find("out of memory") != std::string::npos);
	at::empty({1 << 18}, at::TensorOptions(dev)); // all of it
	at::empty({1 << 18}, at::TensorOptions(dev)); // again: it was freed
	sim_limit(0);
}

static void test_counts(void **)
{
	Tensor h = numbers({8});
	struct sim_counts a = sim_counts();
	Tensor d = h.to(dev);
	struct sim_counts b = sim_counts();
	assert_true(b.to_device == a.to_device + 1 && b.kernels == a.kernels && b.bytes == a.bytes + 32);
	Tensor v = d.view({2, 4}).t().narrow(0, 0, 2);
	assert_int_equal(sim_counts().kernels, b.kernels); /* views are none */
	Tensor sum = d + d;
	d.mul_(2);
	a = sim_counts();
	assert_true(a.kernels == b.kernels + 2 && a.bytes == b.bytes + 32 && a.peak >= a.bytes && a.to_host == b.to_host);
	sum.sum().item<float>();
	d.to(cpu);
	assert_int_equal(sim_counts().to_host, b.to_host + 2);
}

// ---- training ----

struct Twice : torch::autograd::Function<Twice> {
	static Tensor forward(torch::autograd::AutogradContext *, const Tensor &x) { return x * 2; }
	static torch::autograd::variable_list backward(torch::autograd::AutogradContext *, const torch::autograd::variable_list &g)
	{
		return {g[0] * 2};
	}
};

// The losses of 20 steps of AdamW on a small net.
static std::vector<double> trained(at::Device at)
{
	enum { V = 50, D = 32, N = 64, P = 4 };
	at::manual_seed(1);
	List p = {numbers({V, D}, 0.1), numbers({4 * D, D}, 0.1), numbers({V, 4 * D}, 0.1), numbers({4 * D}, 0.1)}, m, v, steps;
	Tensor in = at::randint(V, {N}, at::kLong).to(at), want = at::randint(V, {N}, at::kLong).to(at).unsqueeze(1);
	for (Tensor &t : p) {
		t = t.to(at).requires_grad_(true);
		m.push_back(at::zeros_like(t).detach());
		v.push_back(at::zeros_like(t).detach());
		steps.push_back(at::zeros({}, at::TensorOptions(at)));
	}
	std::vector<double> losses;
	for (int i = 0; i < 20; i++) {
		Tensor h = Twice::apply(at::silu(at::linear(at::embedding(p[0], in), p[1], p[3])));
		Tensor loss = -at::log_softmax(at::linear(h, p[2]), -1).gather(1, want).mean();
		loss.backward();
		losses.push_back(loss.item<double>());
		c10::NoGradGuard off;
		List g;
		for (Tensor &t : p)
			g.push_back(t.grad());
		at::_foreach_add_(steps, 1);
		at::_fused_adamw_(p, g, m, v, {}, steps, 1e-3, .9, .999, .01, 1e-8, false, false);
		for (Tensor &t : p)
			t.mutable_grad() = Tensor();
	}
	return losses;
}

static void test_training(void **)
{
	std::vector<double> want = trained(cpu), got = trained(dev);
	double worst = 0;
	for (size_t i = 0; i < want.size(); i++)
		worst = std::max(worst, std::abs(want[i] - got[i]));
	print_message("    loss %.4f to %.4f, from the CPU's within %.2g\n", want[0], want.back(), worst);
	assert_true(worst < 1e-5 && want.back() < want[0]);
}

// ---- graphs ----

// A step of decoding whose state is in device memory: replayed it goes on as it would when launched again.
static void test_capture(void **)
{
	at::TensorOptions f = dev, l = f.dtype(at::kLong);
	Tensor e = numbers({5, 4}).to(dev), w = numbers({5, 4}).to(dev);
	Tensor token = at::zeros({2}, l), length = at::zeros({1}, l), cache = at::zeros({8, 4}, f), rows = at::zeros({2, 8}, l);
	auto step = [&] {
		Tensor h = at::embedding(e, token);
		cache.index_copy_(0, length, h.sum(0, true));
		token.copy_(at::argmax(at::linear(h + cache.sum(0, true), w), -1));
		rows.index_copy_(1, length, token.unsqueeze(1));
		length.add_(1);
	};
	auto clear = [&] {
		for (Tensor *t : {&token, &length, &cache, &rows})
			t->zero_();
	};
	int64_t kernels = sim_counts().kernels, bytes = sim_counts().bytes;
	for (int i = 0; i < 6; i++)
		step();
	kernels = sim_counts().kernels - kernels;
	Tensor want = rows.to(cpu);
	clear();
	void *graph = nla_plugin.capture(0, step);
	assert_true(sim_counts().bytes == bytes && !at::any(rows).item<bool>()); /* it has not run */
	struct sim_counts before = sim_counts();
	for (int i = 0; i < 6; i++)
		nla_plugin.replay(graph);
	assert_true(sim_counts().to_host == before.to_host && sim_counts().kernels == before.kernels + kernels);
	assert_true(at::equal(rows.to(cpu), want));
	nla_plugin.drop(graph);
	const std::function<void()> forbidden[] = {[&] { length.item<int64_t>(); }, [&] { length.to(cpu); }, [&] { at::ones({1}).to(dev); }};
	for (const auto &f : forbidden) {
		std::string why = thrown([&] {
			nla_plugin.capture(0, [&] {
				step();
				f();
			});
		});
		assert_true(why.find("while a graph is captured") != std::string::npos);
		assert_true(at::equal(rows.to(cpu), want));
	}
	step(); /* goes on */
}

// ---- operations of CUDA alone ----

static double apart(const Tensor &a, const Tensor &b) { return (a.to(cpu).to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>(); }

static void test_mm_dtype(void **)
{
	Tensor a = numbers({5, 7}).to(at::kBFloat16), b = numbers({7, 3}).to(at::kBFloat16);
	Tensor got = at::mm(a.to(dev), b.to(dev), at::kFloat);
	assert_true(got.is_privateuseone() && got.scalar_type() == at::kFloat);
	assert_true(apart(got, at::mm(a.to(at::kDouble), b.to(at::kDouble))) < 1e-6);
	assert_true(thrown([&] { at::mm(a.to(dev), b, at::kFloat); }).find("same device") != std::string::npos);
	assert_true(thrown([&] { at::mm(a.to(at::kHalf).to(dev), b.to(at::kHalf).to(dev), at::kFloat); }) != "");
}

// One sequence by libtorch's own attention with a mask, in double: q [nq, Hq, d], k and v [nk, Hkv, d].
static Tensor plain_attention(const Tensor &q, const Tensor &k, const Tensor &v, bool causal)
{
	int64_t nq = q.size(0), nk = k.size(0), group = q.size(1) / k.size(1);
	auto heads = [](const Tensor &t, int64_t times) { return t.repeat_interleave(times, 1).transpose(0, 1); };
	Tensor mask = at::ones({nq, nk}, at::kBool);
	if (causal)
		mask = mask.tril(nk - nq); // the last query sees all keys
	Tensor z = at::matmul(heads(q, 1), heads(k, group).transpose(1, 2)) / std::sqrt(static_cast<double>(q.size(2)));
	Tensor p = at::softmax(z.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity()), -1);
	return at::matmul(p.nan_to_num(0), heads(v, group)).transpose(0, 1); // a query that sees no key: zero
}

static void check_flash(at::ScalarType type, bool causal, bool some, double within)
{
	const int from_q[] = {0, 3, 4, 9, 13}, from_k[] = {0, 5, 6, 11, 13}; // fewer keys than queries in the last
	const int used[] = {4, 1, 5, 1};
	Tensor leaf[3] = {numbers({13, 6, 8}).to(type).to(at::kDouble), numbers({13, 2, 8}).to(type).to(at::kDouble),
			  numbers({13, 2, 8}).to(type).to(at::kDouble)};
	Tensor device[3], grad = numbers({13, 6, 8}).to(type);
	for (int i = 0; i < 3; i++) {
		leaf[i].requires_grad_(true);
		device[i] = leaf[i].detach().to(type).to(dev).requires_grad_(true);
	}
	auto ints = [](const int *x, int64_t n) { return at::tensor(at::ArrayRef<int>(x, static_cast<size_t>(n)), at::kInt).to(dev); };
	std::optional<Tensor> keys = some ? std::optional<Tensor>(ints(used, 4)) : std::nullopt;
	Tensor got = std::get<0>(at::_flash_attention_forward(device[0], device[1], device[2], ints(from_q, 5), ints(from_k, 5), 5, 5, 0.0,
							      causal, false, std::nullopt, std::nullopt, std::nullopt, keys));
	List parts;
	for (int s = 0; s < 4; s++) {
		int64_t nk = some ? used[s] : from_k[s + 1] - from_k[s];
		parts.push_back(plain_attention(leaf[0].narrow(0, from_q[s], from_q[s + 1] - from_q[s]), leaf[1].narrow(0, from_k[s], nk),
						leaf[2].narrow(0, from_k[s], nk), causal));
	}
	Tensor want = at::cat(parts);
	double off = apart(got.detach(), want.detach()), worst = 0;
	if (!some) { // libtorch's backward pass has no seqused_k
		want.backward(grad.to(at::kDouble));
		got.backward(grad.to(dev));
		for (int i = 0; i < 3; i++)
			worst = std::max(worst, apart(device[i].grad(), leaf[i].grad()));
	}
	print_message("    flash attention in %s%s%s: result within %.2g, gradients %.2g\n", c10::toString(type), causal ? ", causal" : "",
		      some ? ", some keys" : "", off, worst);
	assert_true(off <= within && worst <= within && got.scalar_type() == type);
}

static void test_flash_attention(void **)
{
	for (bool causal : {false, true})
		for (bool some : {false, true}) {
			check_flash(at::kFloat, causal, some, 2e-6);
			check_flash(at::kBFloat16, causal, some, 3e-2);
		}
	Tensor q = numbers({2, 5, 4, 8}), k = numbers({2, 5, 2, 8}); // [N, S, H, d]
	auto flash = [&](const Tensor &k_on) {
		return at::_flash_attention_forward(q.to(dev), k_on, k.to(dev), std::nullopt, std::nullopt, 5, 5, 0.0, true, false);
	};
	Tensor got = std::get<0>(flash(k.to(dev)));
	for (int i = 0; i < 2; i++) {
		Tensor d = k[i].to(at::kDouble);
		assert_true(apart(got[i], plain_attention(q[i].to(at::kDouble), d, d, true)) < 2e-6);
	}
	assert_true(thrown([&] { flash(k); }).find("same device") != std::string::npos);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_views_and_in_place), cmocka_unit_test(test_out_is_resized),  cmocka_unit_test(test_operations),
		cmocka_unit_test(test_mixed_devices_throw), cmocka_unit_test(test_host_access_dies), cmocka_unit_test(test_limit),
		cmocka_unit_test(test_counts),		    cmocka_unit_test(test_training),	     cmocka_unit_test(test_capture),
		cmocka_unit_test(test_mm_dtype),	    cmocka_unit_test(test_flash_attention),
	};
	at::set_num_threads(1);
	at::manual_seed(7);
	if (sim_start() != 2)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
