// Attention over a token tree on a GPU by flash attention (Dao 2023): no mask and no padding, each row a sequence whose keys
// are its ancestors' and its own. Keys that several rows read are laid out once for each; their gradients are summed in fp32,
// in one order, and the backward pass is flash attention's deterministic one: a run repeats bit for bit.
#include "shim/nt_gpu.h"

#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>

namespace nt::gpu
{

namespace
{

at::Tensor laid_out(const Sequences &s, const at::Tensor &x) { return s.keys.defined() ? x.index_select(0, s.keys) : x; }

} // namespace

bool flash_takes(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v)
{
	auto bf16 = [](const at::Tensor &t) { return !t.is_cpu() && t.scalar_type() == at::kBFloat16; };
	return fast(NT_FAST_ATTENTION) && bf16(q) && bf16(k) && bf16(v) && q.size(2) % 8 == 0 && q.size(2) <= 256;
}

at::Tensor flash_attention(const Sequences &s, const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, int64_t window,
			   double scale)
{
	const auto before = window ? std::optional<int64_t>(window - 1) : std::nullopt; // keys in front of a query that it sees
	auto forward = [=](at::TensorList in, Tensors &keep) {
		attention_cost(s.pairs, in[0], in[1], 2, 1);
		auto [o, lse, seed, unused, mask] = at::_flash_attention_forward(
			in[0], laid_out(s, in[1]), laid_out(s, in[2]), s.from_q, s.from_k, s.max_q, s.max_k, 0.0, true, false,
			scale, before);
		keep = {o, lse, seed, unused};
		return o;
	};
	auto backward = [=](const Tensors &saved, const at::Tensor &dy) -> Tensors {
		Deterministic on;
		attention_cost(s.pairs, saved[0], saved[1], 5, 2);
		auto [dq, dk, dv] = at::_flash_attention_backward(
			dy, saved[0], laid_out(s, saved[1]), laid_out(s, saved[2]), saved[3], saved[4], s.from_q, s.from_k,
			s.max_q, s.max_k, 0.0, true, saved[5], saved[6], scale, before);
		if (!s.keys.defined())
			return {dq, dk, dv};
		const int64_t n = s.key_start.numel() - 1;
		if (!takes(NT_FAST_ATTENTION, {dk, dv}))
			return {dq, sum_rows(dk, s.keys, n), sum_rows(dv, s.keys, n)};
		auto [sum_k, sum_v] = key_sum(dk, dv, s.key_start, s.key_at);
		return {dq, sum_k, sum_v};
	};
	return fused({q, k, v}, forward, backward);
}

} // namespace nt::gpu
