// Attention over a packed token tree, and over a key/value cache.
//
// The fast version (fp32, CPU) runs one task a row and key/value head. A row's keys are a few stretches of the packed sequence,
// its ancestors' and its own, so scores are a few small matrix products straight from the packed arrays: nothing is gathered or
// padded. The backward pass computes the scores again from the saved log-sums (as flash attention does). Gradients of
// ancestors' keys come from many rows: each thread adds them to a buffer of its own, summed at the end in thread order, so a
// run repeats bit for bit.
//
// On a GPU in bf16 flash attention has it (nt_flash.cpp). The plain version gathers rows into padded arrays and calls
// scaled_dot_product_attention with a mask.
#include "shim/nt_gpu.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <map>
#include <memory>

using nt::expr;
using nt::out;
using nt::ptr;
using nt::Tensors;

extern "C" void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha,
		       const float *a, const int *lda, const float *b, const int *ldb, const float *beta, float *c,
		       const int *ldc);

namespace
{

struct Stretch {
	int64_t start, length, before; // before: keys of the stretches in front of it
	size_t row;
};

struct Row {
	int64_t start, length, before; // before: keys of the ancestors
	int64_t shared_at = -1;        // of its first token among those of rows that are parents; -1: it is none
	std::vector<Stretch> keys;     // ancestors from the root, then itself
};

struct Tree {
	std::vector<Row> rows;
	int64_t n = 0, n_shared = 0, max_q = 0, max_k = 0;
	double pairs = 0; // of a token and a key that it sees
	at::Tensor q_index, k_index, last, back; // of the plain version, made when first needed
	std::map<int64_t, at::Tensor> masks;     // by window
	nt::gpu::Sequences sequences;            // of flash attention, likewise
	at::Device device = at::kCPU;
};

void gemm(char ta, char tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb,
	  float beta, float *c, int64_t ldc)
{
	int im = int(m), in = int(n), ik = int(k), ia = int(lda), ib = int(ldb), ic = int(ldc);
	float one = 1;
	sgemm_(&ta, &tb, &im, &in, &ik, &one, a, &ia, b, &ib, &beta, c, &ic);
}

// The stride of one token alone is any number.
int64_t step(const at::Tensor &x) { return x.size(0) > 1 ? x.stride(0) : x.size(1) * x.size(2); }

// What the tasks of both passes share; s*: distance of two tokens in floats.
struct Call {
	const Tree &tree;
	float scale;
	int64_t window, hq, hkv, d, group, sq, sk, sv, tasks;
	const float *q, *k, *v;
	float *o, *lse;		     // [n, hq, d], [hq, n]
	const float *dout = nullptr; // backward only, contiguous
	float *dq = nullptr, *dk = nullptr, *dv = nullptr;

	// s [r.length, keys] = q k^T over all stretches, for query head h
	void scores(const Row &r, int64_t h, float *s) const
	{
		for (const Stretch &p : r.keys)
			gemm('T', 'N', p.length, r.length, d, k + p.start * sk + h / group * d, sk, q + r.start * sq + h * d,
			     sq, 0, s + p.before, r.before + r.length);
	}

	// Where the gradient of a stretch's keys goes: that of a row which others share into the thread's buffer.
	float *key_grad(const Stretch &p, float *direct, float *buffer, int64_t kv_head) const
	{
		int64_t shared = tree.rows[p.row].shared_at;
		return (shared >= 0 ? buffer + shared * hkv * d : direct + p.start * hkv * d) + kv_head * d;
	}
};

Call call(const Tree &tree, int64_t window, double scale, const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
	  const at::Tensor &o, const at::Tensor &lse)
{
	int64_t hq = q.size(1), hkv = k.size(1), tasks = static_cast<int64_t>(tree.rows.size()) * hkv;
	return {tree,	 float(scale), window, hq,     hkv,    q.size(2), hq / hkv, step(q),
		step(k), step(v),      tasks,  ptr(q), ptr(k), ptr(v),	  out(o),   out(lse)};
}

void forward_task(const Call &c, const Row &r, int64_t kv_head, std::vector<float> &scratch)
{
	int64_t cols = r.before + r.length;
	scratch.resize(static_cast<size_t>(r.length * cols));
	for (int64_t h = kv_head * c.group; h < (kv_head + 1) * c.group; h++) {
		c.scores(r, h, scratch.data());
		nt::cpu::causal_softmax(true, scratch.data(), c.lse + h * c.tree.n + r.start, r.length, cols, r.before,
					c.window, c.scale);
		for (const Stretch &p : r.keys)
			gemm('N', 'N', c.d, r.length, p.length, c.v + p.start * c.sv + kv_head * c.d, c.sv,
			     scratch.data() + p.before, cols, p.before ? 1.0f : 0.0f, c.o + (r.start * c.hq + h) * c.d,
			     c.hq * c.d);
	}
}

at::Tensor attention_forward(const Tree &tree, int64_t window, double scale, at::TensorList in, Tensors &keep)
{
	const at::Tensor &q = in[0];
	nt::attention_cost(tree.pairs, q, in[1], 2, 1);
	at::Tensor o = at::empty(q.sizes(), q.options()), lse = at::empty({q.size(1), tree.n}, q.options());
	Call c = call(tree, window, scale, q, in[1], in[2], o, lse);
	at::parallel_for(0, c.tasks, 1, [&](int64_t a, int64_t b) {
		std::vector<float> scratch;
		for (int64_t i = a; i < b; i++)
			forward_task(c, tree.rows[i / c.hkv], i % c.hkv, scratch);
	});
	keep = {o, lse};
	return o;
}

void backward_task(const Call &c, const Row &r, int64_t kv_head, float *dk_buffer, float *dv_buffer,
		   std::vector<float> &scratch)
{
	int64_t cols = r.before + r.length, wq = c.hq * c.d, wk = c.hkv * c.d;
	scratch.resize(static_cast<size_t>(2 * r.length * cols + r.length));
	float *p = scratch.data(), *dp = p + r.length * cols, *delta = dp + r.length * cols;
	for (int64_t h = kv_head * c.group; h < (kv_head + 1) * c.group; h++) {
		int64_t at = r.start * wq + h * c.d;
		const float *q = c.q + r.start * c.sq + h * c.d, *dout = c.dout + at, *o = c.o + at;
		c.scores(r, h, p);
		nt::cpu::causal_softmax(false, p, c.lse + h * c.tree.n + r.start, r.length, cols, r.before, c.window, c.scale);
		for (int64_t t = 0; t < r.length; t++) {
			float sum = 0;
			for (int64_t j = 0; j < c.d; j++)
				sum += dout[t * wq + j] * o[t * wq + j];
			delta[t] = sum;
		}
		for (const Stretch &s : r.keys) {
			gemm('T', 'N', s.length, r.length, c.d, c.v + s.start * c.sv + kv_head * c.d, c.sv, dout, wq, 0,
			     dp + s.before, cols);
			gemm('N', 'T', c.d, s.length, r.length, dout, wq, p + s.before, cols, 1,
			     c.key_grad(s, c.dv, dv_buffer, kv_head), wk);
		}
		nt::cpu::softmax_back(dp, p, delta, r.length, cols, c.scale);
		for (const Stretch &s : r.keys) {
			gemm('N', 'N', c.d, r.length, s.length, c.k + s.start * c.sk + kv_head * c.d, c.sk, dp + s.before, cols,
			     s.before ? 1.0f : 0.0f, c.dq + at, wq);
			gemm('N', 'T', c.d, s.length, r.length, q, c.sq, dp + s.before, cols, 1,
			     c.key_grad(s, c.dk, dk_buffer, kv_head), wk);
		}
	}
}

// Each thread's buffer holds dk and then dv of the shared tokens; they are added in thread order.
Tensors attention_backward(const Tree &tree, int64_t window, double scale, const Tensors &s, const at::Tensor &dout)
{
	at::Tensor dq = at::empty(s[0].sizes(), dout.options()), dk = at::zeros(s[1].sizes(), dout.options()),
		   dv = at::zeros_like(dk);
	nt::attention_cost(tree.pairs, s[0], s[1], 5, 2);
	Call c = call(tree, window, scale, s[0], s[1], s[2], s[3], s[4]);
	c.dout = ptr(dout);
	c.dq = out(dq);
	c.dk = out(dk);
	c.dv = out(dv);
	int64_t width = c.hkv * c.d, size = tree.n_shared * width;
	int64_t threads = std::min<int64_t>(at::get_num_threads(), c.tasks), part = (c.tasks + threads - 1) / threads;
	std::vector<float> buffers(static_cast<size_t>(2 * size * threads));
	at::parallel_for(0, threads, 1, [&](int64_t from, int64_t to) {
		std::vector<float> scratch;
		for (int64_t t = from; t < to; t++)
			for (int64_t i = t * part; i < std::min(c.tasks, (t + 1) * part); i++)
				backward_task(c, tree.rows[i / c.hkv], i % c.hkv, buffers.data() + 2 * size * t,
					      buffers.data() + 2 * size * t + size, scratch);
	});
	for (const Row &r : tree.rows)
		for (int64_t t = 0; r.shared_at >= 0 && t < threads; t++) {
			const float *own_dk = buffers.data() + 2 * size * t + r.shared_at * width, *own_dv = own_dk + size;
			for (int64_t j = 0; j < r.length * width; j++) {
				c.dk[r.start * width + j] += own_dk[j];
				c.dv[r.start * width + j] += own_dv[j];
			}
		}
	return {dq, dk, dv};
}

at::Tensor straight(const at::Tensor &x)
{
	return nt::heads_flat(x) && x.stride(0) >= x.size(1) * x.size(2) ? x : x.contiguous();
}

// ---- on a GPU ----

void plan_flash(Tree &tree)
{
	std::vector<int64_t> from_q = {0}, from_k = {0}, keys;
	for (const Row &r : tree.rows) {
		for (const Stretch &p : r.keys)
			for (int64_t i = p.start; i < p.start + p.length; i++)
				keys.push_back(i);
		from_q.push_back(r.start + r.length);
		from_k.push_back(static_cast<int64_t>(keys.size()));
	}
	auto there = [&](const at::Tensor &t, at::ScalarType type) { return t.to(type).to(tree.device); };
	nt::gpu::Sequences &s = tree.sequences;
	s = {there(at::tensor(from_q), at::kInt), there(at::tensor(from_k), at::kInt), {}, {}, {}, tree.max_q, tree.max_k,
	     tree.pairs};
	if (from_k.back() == tree.n)
		return;
	at::Tensor all = at::tensor(keys), times = at::bincount(all, {}, tree.n); // times that a token is read
	s.keys = there(all, at::kLong);
	s.key_start = there(at::constant_pad_nd(times.cumsum(0), {1, 0}), at::kInt);
	s.key_at = there(at::argsort(all, /*stable=*/true, 0), at::kInt);
}

// ---- the plain version ----

// Padding sees some key, so that its softmax is a number; its queries are dropped.
void plan_plain(Tree &tree)
{
	int64_t rows = static_cast<int64_t>(tree.rows.size());
	at::Tensor start = at::empty({rows, 1}, at::kLong), before = at::empty({rows, 1, 1, 1}, at::kLong);
	at::Tensor k = at::zeros({rows, tree.max_k}, at::kLong), back = at::empty({tree.n}, at::kLong);
	for (int64_t i = 0; i < rows; i++) {
		const Row &r = tree.rows[i];
		start[i] = r.start;
		before[i] = r.before;
		back.narrow(0, r.start, r.length).copy_(at::arange(i * tree.max_q, i * tree.max_q + r.length));
		for (const Stretch &p : r.keys)
			k[i].narrow(0, p.before, p.length).copy_(at::arange(p.start, p.start + p.length));
	}
	at::Tensor t = at::arange(tree.max_q);
	tree.q_index = (start + t).clamp_max(tree.n - 1).to(tree.device);
	tree.k_index = k.to(tree.device);
	tree.last = (before + t.view({1, 1, -1, 1})).clamp_max(tree.max_k - 1).to(tree.device); // [rows, 1, max_q, 1] key seen
	tree.back = back.to(tree.device);
}

at::Tensor gather(const at::Tensor &x, const at::Tensor &index, int64_t repeat)
{
	at::Tensor y =
		x.index_select(0, index.flatten()).view({index.size(0), index.size(1), x.size(1), x.size(2)}).transpose(1, 2);
	return repeat == 1 ? y : y.repeat_interleave(repeat, 1);
}

at::Tensor attention_plain(Tree &tree, const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, int64_t window,
			   double scale)
{
	nt::unordered |= !q.is_cpu() && nt::enabled();
	if (!tree.q_index.defined())
		plan_plain(tree);
	int64_t group = q.size(1) / k.size(1);
	at::Tensor &mask = tree.masks[std::min(window, tree.max_k)]; // [rows, 1, max_q, max_k]
	if (!mask.defined()) {
		at::Tensor key = at::arange(tree.max_k, tree.last.options());
		mask = key.le(tree.last).logical_and_(key.gt(tree.last - window));
	}
	at::Tensor o = at::scaled_dot_product_attention(gather(q, tree.q_index, 1), gather(k, tree.k_index, group),
							gather(v, tree.k_index, group), mask, 0.0, false, scale);
	return o.transpose(1, 2).reshape({-1, q.size(1), q.size(2)}).index_select(0, tree.back);
}

at::Tensor cached_plain(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const at::Tensor &slot,
			const at::Tensor &length, int64_t window, double scale)
{
	int64_t group = q.size(1) / k.size(2);
	auto slabs = [&](const at::Tensor &c) { return c.index_select(0, slot).transpose(1, 2).repeat_interleave(group, 1); };
	at::Tensor at = at::arange(k.size(1), slot.options()).unsqueeze(0), n = length.unsqueeze(1);
	at::Tensor mask = at.lt(n).logical_and_(at.ge(n - window)).unsqueeze(1).unsqueeze(1);
	return at::scaled_dot_product_attention(q.unsqueeze(2), slabs(k), slabs(v), mask, 0.0, false, scale).squeeze(2);
}

} // namespace

struct nt_tree {
	std::shared_ptr<Tree> tree;
};

static void add_row(Tree &tree, int64_t length, int64_t parent)
{
	Row r = {tree.n, length, 0, -1, {}};
	if (parent >= 0) {
		Row &above = tree.rows[static_cast<size_t>(parent)];
		r.keys = above.keys;
		r.before = above.before + above.length;
		if (above.shared_at < 0) {
			above.shared_at = tree.n_shared;
			tree.n_shared += above.length;
		}
	}
	r.keys.push_back({r.start, length, r.before, tree.rows.size()});
	tree.max_q = std::max(tree.max_q, length);
	tree.max_k = std::max(tree.max_k, r.before + length);
	tree.n += length;
	tree.pairs += double(length) * (double(r.before) + 0.5 * double(length + 1));
	tree.rows.push_back(std::move(r));
}

nt_tree *nt_tree_new(const int64_t *length, const int64_t *parent, int64_t n_rows, int index)
{
	nt_tree *made = nullptr;
	nt::action("tree", {}, [&] {
		TORCH_CHECK(n_rows > 0, "it has no rows");
		auto tree = std::make_shared<Tree>();
		tree->device = nt::device(index);
		for (int64_t i = 0; i < n_rows; i++) {
			TORCH_CHECK(length[i] > 0 && parent[i] >= -1 && parent[i] < i, "row ", i, " has length ", length[i],
				    " and parent ", parent[i]);
			add_row(*tree, length[i], parent[i]);
		}
		made = new nt_tree{tree};
	});
	return made;
}

void nt_tree_free(nt_tree *tree) { delete tree; }

static void check_heads(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v)
{
	TORCH_CHECK(k.sizes() == v.sizes() && q.size(-1) == k.size(-1), "keys, values and queries differ in shape");
	TORCH_CHECK(k.size(-2) > 0 && q.size(-2) % k.size(-2) == 0, "query heads are no multiple of key heads");
}

nt_tensor *nt_attention(const nt_tensor *q, const nt_tensor *k, const nt_tensor *v, const nt_tree *tree, int64_t window,
			double scale)
{
	return expr("attention", {q, k, v}, [&] {
		TORCH_CHECK(tree && q->t.dim() == 3 && k->t.dim() == 3 && q->t.size(0) == tree->tree->n &&
				    k->t.size(0) == tree->tree->n,
			    "the tree has another number of tokens");
		check_heads(q->t, k->t, v->t);
		auto t = tree->tree; // the backward pass may come after the handle's end
		const int64_t sees = window ? window : t->max_k;
		if (nt::gpu::flash_takes(q->t, k->t, v->t)) {
			if (!t->sequences.from_q.defined())
				plan_flash(*t);
			return nt::gpu::flash_attention(t->sequences, straight(q->t), straight(k->t), straight(v->t),
							window && window < t->max_k ? window : 0, scale);
		}
		if (!nt::fast({q->t, k->t, v->t}))
			return attention_plain(*t, q->t, k->t, v->t, sees, scale);
		return nt::fused(
			{straight(q->t), straight(k->t), straight(v->t)},
			[=](at::TensorList in, Tensors &keep) { return attention_forward(*t, sees, scale, in, keep); },
			[=](const Tensors &saved, const at::Tensor &dout) {
				return attention_backward(*t, sees, scale, saved, dout);
			});
	});
}

static bool places_fit(const at::Tensor &slot, const at::Tensor &at, int64_t n)
{
	return slot.is_contiguous() && at.is_contiguous() && slot.numel() == n && at.numel() == n &&
	       slot.scalar_type() == at::kLong && at.scalar_type() == at::kLong;
}

nt_tensor *nt_rope_cached(const struct nt_heads *x, nt_tensor *k_cache, nt_tensor *v_cache, const nt_tensor *slot,
			  const nt_tensor *at)
{
	nt_tensor *q = nullptr;
	nt::action("rope_cached", {x->q, x->k, x->v, x->cos, x->sin, k_cache, v_cache, slot, at}, [&] {
		const nt_tensor *q_norm = x->q_norm ? x->q_norm : x->cos, *k_norm = x->k_norm ? x->k_norm : x->cos;
		if (nt::gpu::takes(NT_FAST_DECODING, {k_cache->t, v_cache->t}) &&
		    nt::gpu::takes(NT_FAST_DECODING, {x->cos->t, x->sin->t, q_norm->t, k_norm->t}) &&
		    nt::heads_flat(x->q->t) && nt::heads_flat(x->k->t) && nt::heads_flat(x->v->t) &&
		    places_fit(slot->t, at->t, x->q->t.size(0)) && x->q->t.scalar_type() == k_cache->t.scalar_type())
			q = nt::wrap(nt::gpu::rope_cached(*x, k_cache->t, v_cache->t, slot->t, at->t));
	});
	if (q || nt_check())
		return q;
	nt_tensor *k = nt_qk_rope(x->k, x->k_norm, x->eps, x->cos, x->sin);
	nt_cache_put(k_cache, slot, at, k);
	nt_cache_put(v_cache, slot, at, x->v);
	nt_free(k);
	return nt_qk_rope(x->q, x->q_norm, x->eps, x->cos, x->sin);
}

nt_tensor *nt_attention_cached(const nt_tensor *q, const nt_tensor *k, const nt_tensor *v, const nt_tensor *slot,
			       const nt_tensor *length, int64_t window, double scale)
{
	return expr("attention_cached", {q, k, v, slot, length}, [&] {
		TORCH_CHECK(q->t.dim() == 3 && k->t.dim() == 4 && slot->t.numel() == q->t.size(0) &&
				    length->t.numel() == q->t.size(0),
			    "rows, slots and lengths do not fit");
		check_heads(q->t, k->t, v->t);
		int64_t n = q->t.size(0), hkv = k->t.size(2), d = q->t.size(2), group = q->t.size(1) / hkv, stride = hkv * d;
		const int64_t most = window ? window : k->t.size(1);
		if (nt::gpu::takes(NT_FAST_DECODING, {q->t, k->t, v->t}) && nt::gpu::takes_heads(d, group) &&
		    places_fit(slot->t, length->t, n))
			return nt::gpu::attention_cached(q->t, k->t, v->t, slot->t, length->t, most, scale);
		if (!nt::fast({q->t, k->t, v->t}) || !k->t.is_contiguous() || !v->t.is_contiguous())
			return cached_plain(q->t, k->t, v->t, slot->t, length->t, most, scale);
		at::Tensor qs = q->t.contiguous(), o = at::empty_like(qs);
		at::Tensor slots = slot->t.contiguous(), lengths = length->t.contiguous();
		const int64_t *sl = slots.const_data_ptr<int64_t>(), *len = lengths.const_data_ptr<int64_t>();
		for (int64_t i = 0; i < n; i++)
			TORCH_CHECK(sl[i] >= 0 && sl[i] < k->t.size(0) && len[i] > 0 && len[i] <= k->t.size(1), "row ", i,
				    " has slot ", sl[i], " and length ", len[i]);
		auto seen = [=](int64_t i) { return std::min(len[i], most); };
		double keys = 0;
		for (int64_t i = 0; i < n; i++)
			keys += double(seen(i) * d);
		nt::cost(4 * keys * double(hkv * group), 8 * keys * double(hkv) + 8 * double(qs.numel()));
		at::parallel_for(0, n * hkv, 1, [&](int64_t from, int64_t to) {
			std::vector<float> scratch;
			for (int64_t i = from; i < to; i++) {
				int64_t row = i / hkv, from = len[row] - seen(row);
				int64_t at = (sl[row] * k->t.size(1) + from) * stride + i % hkv * d;
				scratch.resize(static_cast<size_t>(group * seen(row)));
				nt::cpu::decode_row(ptr(qs) + i * group * d, ptr(k->t) + at, ptr(v->t) + at,
						    out(o) + i * group * d, scratch.data(), seen(row), stride, group, d,
						    static_cast<float>(scale));
			}
		});
		return o;
	});
}
