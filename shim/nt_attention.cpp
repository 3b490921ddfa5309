// Attention over a packed token tree, and over a key/value cache.
//
// The fast version (fp32, CPU) runs one task a row and key/value head. A row's keys are a few stretches of the packed sequence,
// its ancestors' and its own, so scores are a few small matrix products straight from the packed arrays: nothing is gathered or
// padded. The backward pass computes the scores again from the saved log-sums (as flash attention does). Gradients of
// ancestors' keys come from many rows: each thread adds them to a buffer of its own, summed at the end in thread order, so a
// run repeats bit for bit.
//
// The plain version gathers rows into padded arrays and calls scaled_dot_product_attention with a mask.
#include "shim/nt_internal.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <vector>

using nt::expr;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

extern "C" void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha,
		       const float *a, const int *lda, const float *b, const int *ldb, const float *beta, float *c,
		       const int *ldc);

namespace {

struct Stretch {
	int64_t start, length;
};

struct Row {
	int64_t start, length, before; // before: keys of the ancestors
	bool shared;                   // some row has it as parent
	int64_t shared_at;             // of its first token among the shared tokens
	std::vector<Stretch> keys;     // ancestors from the root, then itself
	std::vector<int64_t> key_shared_at;
};

struct Tree : torch::CustomClassHolder {
	std::vector<Row> rows;
	int64_t n = 0, n_shared = 0, max_q = 0, max_k = 0;
	at::Tensor q_index, k_index, mask, back; // of the plain version, made when first needed
	at::Device device = at::kCPU;
};

void gemm(char ta, char tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb,
	  float beta, float *c, int64_t ldc)
{
	int im = int(m), in = int(n), ik = int(k), ia = int(lda), ib = int(ldb), ic = int(ldc);
	float one = 1;
	sgemm_(&ta, &tb, &im, &in, &ik, &one, a, &ia, b, &ib, &beta, c, &ic);
}

struct Shape {
	int64_t hq, hkv, d, group, sq, sk, sv; // s*: distance of two tokens in floats
	float scale;
};

// The stride of one token alone is any number.
int64_t step(const at::Tensor &x) { return x.size(0) > 1 ? x.stride(0) : x.size(1) * x.size(2); }

Shape shape_of(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, double scale)
{
	return {q.size(1), k.size(1), q.size(2), q.size(1) / k.size(1), step(q), step(k), step(v), static_cast<float>(scale)};
}

// s [len, cols] = q k^T over all stretches
void scores(const Row &r, const Shape &s, const float *q, const float *k, int64_t kv_head, float *out, int64_t cols)
{
	int64_t at = 0;
	for (const Stretch &p : r.keys) {
		gemm('T', 'N', p.length, r.length, s.d, k + p.start * s.sk + kv_head * s.d, s.sk, q, s.sq, 0, out + at, cols);
		at += p.length;
	}
}

void forward_task(const Tree &tree, const Row &r, const Shape &s, int64_t kv_head, const float *q, const float *k,
		  const float *v, float *o, float *lse, std::vector<float> &scratch)
{
	int64_t cols = r.before + r.length;
	scratch.resize(static_cast<size_t>(r.length * cols));
	for (int64_t h = kv_head * s.group; h < (kv_head + 1) * s.group; h++) {
		scores(r, s, q + r.start * s.sq + h * s.d, k, kv_head, scratch.data(), cols);
		nt::cpu::causal_softmax(scratch.data(), lse + h * tree.n + r.start, r.length, cols, cols, r.before, s.scale);
		int64_t at = 0;
		for (const Stretch &p : r.keys) {
			gemm('N', 'N', s.d, r.length, p.length, v + p.start * s.sv + kv_head * s.d, s.sv, scratch.data() + at,
			     cols, at ? 1.0f : 0.0f, o + (r.start * s.hq + h) * s.d, s.hq * s.d);
			at += p.length;
		}
	}
}

at::Tensor attention_forward(const Tree &tree, const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, double scale,
			     at::Tensor *lse)
{
	Shape s = shape_of(q, k, v, scale);
	at::Tensor o = at::empty({tree.n, s.hq, s.d}, q.options().requires_grad(false));
	at::Tensor l = at::empty({s.hq, tree.n}, o.options());
	const float *qp = q.const_data_ptr<float>(), *kp = k.const_data_ptr<float>(), *vp = v.const_data_ptr<float>();
	float *op = o.mutable_data_ptr<float>(), *lp = l.mutable_data_ptr<float>();
	int64_t tasks = static_cast<int64_t>(tree.rows.size()) * s.hkv;
	at::parallel_for(0, tasks, 1, [&](int64_t a, int64_t b) {
		std::vector<float> scratch;
		for (int64_t i = a; i < b; i++)
			forward_task(tree, tree.rows[i / s.hkv], s, i % s.hkv, qp, kp, vp, op, lp, scratch);
	});
	if (lse)
		*lse = l;
	return o;
}

struct Back { // what a backward task reads and writes
	const Tree &tree;
	Shape s;
	const float *q, *k, *v, *o, *lse, *dout;
	float *dq, *dk, *dv; // contiguous [n, H, d]
};

// Where the gradient of a stretch's keys goes: the row's own part in place, ancestors' (and any shared row's) into the thread's
// buffer.
float *key_grad(const Back &b, const Row &r, size_t part, float *direct, float *buffer, int64_t kv_head)
{
	int64_t width = b.s.hkv * b.s.d;
	int64_t shared = r.key_shared_at[part];
	float *base = shared >= 0 ? buffer + shared * width : direct + r.keys[part].start * width;
	return base + kv_head * b.s.d;
}

void backward_task(const Back &b, const Row &r, int64_t kv_head, float *dk_buffer, float *dv_buffer,
		   std::vector<float> &scratch)
{
	const Shape &s = b.s;
	int64_t cols = r.before + r.length, wq = s.hq * s.d, wk = s.hkv * s.d;
	scratch.resize(static_cast<size_t>(2 * r.length * cols + r.length));
	float *p = scratch.data(), *dp = p + r.length * cols, *delta = dp + r.length * cols;
	for (int64_t h = kv_head * s.group; h < (kv_head + 1) * s.group; h++) {
		const float *q = b.q + r.start * s.sq + h * s.d, *dout = b.dout + r.start * wq + h * s.d,
			    *o = b.o + r.start * wq + h * s.d;
		scores(r, s, q, b.k, kv_head, p, cols);
		nt::cpu::causal_softmax_again(p, b.lse + h * b.tree.n + r.start, r.length, cols, cols, r.before, s.scale);
		for (int64_t t = 0; t < r.length; t++) {
			float sum = 0;
			for (int64_t j = 0; j < s.d; j++)
				sum += dout[t * wq + j] * o[t * wq + j];
			delta[t] = sum;
		}
		int64_t at = 0;
		for (size_t i = 0; i < r.keys.size(); at += r.keys[i].length, i++)
			gemm('T', 'N', r.keys[i].length, r.length, s.d, b.v + r.keys[i].start * s.sv + kv_head * s.d, s.sv,
			     dout, wq, 0, dp + at, cols);
		at = 0;
		for (size_t i = 0; i < r.keys.size(); at += r.keys[i].length, i++)
			gemm('N', 'T', s.d, r.keys[i].length, r.length, dout, wq, p + at, cols, 1,
			     key_grad(b, r, i, b.dv, dv_buffer, kv_head), wk);
		nt::cpu::softmax_back(dp, p, delta, r.length, cols, cols, s.scale);
		at = 0;
		for (size_t i = 0; i < r.keys.size(); at += r.keys[i].length, i++) {
			gemm('N', 'N', s.d, r.length, r.keys[i].length, b.k + r.keys[i].start * s.sk + kv_head * s.d, s.sk,
			     dp + at, cols, at ? 1.0f : 0.0f, b.dq + r.start * wq + h * s.d, wq);
			gemm('N', 'T', s.d, r.keys[i].length, r.length, q, s.sq, dp + at, cols, 1,
			     key_grad(b, r, i, b.dk, dk_buffer, kv_head), wk);
		}
	}
}

void attention_backward(const Back &b)
{
	const Tree &tree = b.tree;
	int64_t width = b.s.hkv * b.s.d, size = tree.n_shared * width, tasks = static_cast<int64_t>(tree.rows.size()) * b.s.hkv;
	int64_t threads = std::min<int64_t>(at::get_num_threads(), tasks), step = (tasks + threads - 1) / threads;
	std::vector<float> buffers(static_cast<size_t>(2 * size * threads));
	at::parallel_for(0, threads, 1, [&](int64_t from, int64_t to) {
		std::vector<float> scratch;
		for (int64_t t = from; t < to; t++) {
			float *dk = buffers.data() + 2 * size * t, *dv = dk + size;
			for (int64_t i = t * step; i < std::min(tasks, (t + 1) * step); i++)
				backward_task(b, tree.rows[i / b.s.hkv], i % b.s.hkv, dk, dv, scratch);
		}
	});
	for (const Row &r : tree.rows)
		if (r.shared)
			for (int64_t t = 0; t < threads; t++) {
				const float *dk = buffers.data() + 2 * size * t + r.shared_at * width, *dv = dk + size;
				for (int64_t j = 0; j < r.length * width; j++) {
					b.dk[r.start * width + j] += dk[j];
					b.dv[r.start * width + j] += dv[j];
				}
			}
}

at::Tensor straight(const at::Tensor &x) // tokens may lie apart, heads may not
{
	return x.stride(2) == 1 && x.stride(1) == x.size(2) && x.stride(0) >= x.size(1) * x.size(2) ? x : x.contiguous();
}

struct TreeAttention : Function<TreeAttention> {
	static at::Tensor forward(AutogradContext *c, const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
				  const c10::intrusive_ptr<Tree> &tree, double scale)
	{
		at::Tensor lse, o = attention_forward(*tree, q, k, v, scale, &lse);
		c->save_for_backward({q, k, v, o, lse});
		c->saved_data["tree"] = c10::IValue::make_capsule(tree);
		c->saved_data["scale"] = scale;
		return o;
	}
	static variable_list backward(AutogradContext *c, variable_list g)
	{
		auto s = c->get_saved_variables();
		auto capsule = c->saved_data["tree"].toCapsule();
		const Tree &tree = *static_cast<const Tree *>(capsule.get());
		at::Tensor dout = g[0].contiguous(), q = s[0], k = s[1], v = s[2];
		at::Tensor dq = at::empty(q.sizes(), dout.options()), dk = at::zeros(k.sizes(), dout.options()),
			   dv = at::zeros_like(dk);
		attention_backward({tree, shape_of(q, k, v, c->saved_data["scale"].toDouble()), q.const_data_ptr<float>(),
				    k.const_data_ptr<float>(), v.const_data_ptr<float>(), s[3].const_data_ptr<float>(),
				    s[4].const_data_ptr<float>(), dout.const_data_ptr<float>(), dq.mutable_data_ptr<float>(),
				    dk.mutable_data_ptr<float>(), dv.mutable_data_ptr<float>()});
		return {dq, dk, dv, at::Tensor(), at::Tensor()};
	}
};

// ---- the plain version ----

void plan_plain(Tree &tree)
{
	int64_t rows = static_cast<int64_t>(tree.rows.size());
	at::Tensor q = at::zeros({rows, tree.max_q}, at::kLong), k = at::zeros({rows, tree.max_k}, at::kLong);
	at::Tensor mask = at::zeros({rows, 1, tree.max_q, tree.max_k}, at::kBool), back = at::empty({tree.n}, at::kLong);
	auto qa = q.accessor<int64_t, 2>(), ka = k.accessor<int64_t, 2>();
	auto ma = mask.accessor<bool, 4>();
	for (int64_t i = 0; i < rows; i++) {
		const Row &r = tree.rows[i];
		int64_t at = 0;
		for (const Stretch &p : r.keys)
			for (int64_t j = 0; j < p.length; j++)
				ka[i][at++] = p.start + j;
		for (int64_t t = 0; t < tree.max_q; t++) {
			ma[i][0][t][0] = true; // padding sees one key, so that its softmax is a number
			if (t >= r.length)
				continue;
			qa[i][t] = r.start + t;
			back.mutable_data_ptr<int64_t>()[r.start + t] = i * tree.max_q + t;
			for (int64_t j = 0; j <= r.before + t; j++)
				ma[i][0][t][j] = true;
		}
	}
	tree.q_index = q.to(tree.device);
	tree.k_index = k.to(tree.device);
	tree.mask = mask.to(tree.device);
	tree.back = back.to(tree.device);
}

at::Tensor gather(const at::Tensor &x, const at::Tensor &index, int64_t repeat)
{
	at::Tensor y =
		x.index_select(0, index.flatten()).view({index.size(0), index.size(1), x.size(1), x.size(2)}).transpose(1, 2);
	return repeat == 1 ? y : y.repeat_interleave(repeat, 1);
}

at::Tensor attention_plain(Tree &tree, const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, double scale)
{
	if (!tree.q_index.defined())
		plan_plain(tree);
	int64_t group = q.size(1) / k.size(1);
	at::Tensor o = at::scaled_dot_product_attention(gather(q, tree.q_index, 1), gather(k, tree.k_index, group),
							gather(v, tree.k_index, group), tree.mask, 0.0, false, scale);
	return o.transpose(1, 2).reshape({-1, q.size(1), q.size(2)}).index_select(0, tree.back);
}

at::Tensor cached_plain(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const at::Tensor &slot,
			const at::Tensor &length, double scale)
{
	int64_t group = q.size(1) / k.size(2);
	auto slabs = [&](const at::Tensor &c) { return c.index_select(0, slot).transpose(1, 2).repeat_interleave(group, 1); };
	at::Tensor mask = at::arange(k.size(1), slot.options()).unsqueeze(0).lt(length.unsqueeze(1)).unsqueeze(1).unsqueeze(1);
	return at::scaled_dot_product_attention(q.unsqueeze(2), slabs(k), slabs(v), mask, 0.0, false, scale).squeeze(2);
}

} // namespace

struct nt_tree {
	c10::intrusive_ptr<Tree> tree;
};

static void add_row(Tree &tree, int64_t length, int64_t parent)
{
	Row r{tree.n, length, 0, false, -1, {}, {}};
	if (parent >= 0) {
		r.keys = tree.rows[parent].keys;
		for (const Stretch &p : r.keys)
			r.before += p.length;
		tree.rows[parent].shared = true;
	}
	r.keys.push_back({r.start, length});
	tree.max_q = std::max(tree.max_q, length);
	tree.max_k = std::max(tree.max_k, r.before + length);
	tree.n += length;
	tree.rows.push_back(std::move(r));
}

nt_tree *nt_tree_new(const int64_t *length, const int64_t *parent, int64_t n_rows, int index)
{
	nt_tree *made = nullptr;
	nt::action("tree", {}, [&] {
		TORCH_CHECK(n_rows > 0, "it has no rows");
		auto tree = c10::make_intrusive<Tree>();
		tree->device = nt::device(index);
		for (int64_t i = 0; i < n_rows; i++) {
			TORCH_CHECK(length[i] > 0 && parent[i] >= -1 && parent[i] < i, "row ", i, " has length ", length[i],
				    " and parent ", parent[i]);
			add_row(*tree, length[i], parent[i]);
		}
		for (Row &r : tree->rows)
			if (r.shared) {
				r.shared_at = tree->n_shared;
				tree->n_shared += r.length;
			}
		for (int64_t i = 0; i < n_rows; i++) { // which shared tokens each stretch is
			Row &r = tree->rows[i];
			for (int64_t j = i; j >= 0; j = parent[j])
				r.key_shared_at.insert(r.key_shared_at.begin(),
						       tree->rows[j].shared ? tree->rows[j].shared_at : -1);
		}
		made = new nt_tree{tree};
	});
	return made;
}

void nt_tree_free(nt_tree *tree) { delete tree; }

static void check_heads(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, int64_t hq, int64_t hkv)
{
	TORCH_CHECK(k.sizes() == v.sizes() && q.size(-1) == k.size(-1), "keys, values and queries differ in shape");
	TORCH_CHECK(hkv > 0 && hq % hkv == 0, "query heads are no multiple of key heads");
}

nt_tensor *nt_attention(const nt_tensor *q, const nt_tensor *k, const nt_tensor *v, const nt_tree *tree, double scale)
{
	return expr("attention", {q, k, v}, [&] {
		TORCH_CHECK(tree && q->t.dim() == 3 && k->t.dim() == 3 && q->t.size(0) == tree->tree->n &&
				    k->t.size(0) == tree->tree->n,
			    "the tree has another number of tokens");
		check_heads(q->t, k->t, v->t, q->t.size(1), k->t.size(1));
		if (!nt::fast({q->t, k->t, v->t}))
			return attention_plain(*tree->tree, q->t, k->t, v->t, scale);
		at::Tensor qs = straight(q->t), ks = straight(k->t), vs = straight(v->t);
		if (c10::GradMode::is_enabled() && (qs.requires_grad() || ks.requires_grad() || vs.requires_grad()))
			return TreeAttention::apply(qs, ks, vs, tree->tree, scale);
		return attention_forward(*tree->tree, qs, ks, vs, scale, nullptr);
	});
}

static bool slabs_lie_flat(const at::Tensor &c)
{
	return c.stride(3) == 1 && c.stride(2) == c.size(3) && c.stride(1) == c.size(2) * c.size(3);
}

nt_status nt_cache_put(nt_tensor *cache, const nt_tensor *slot, const nt_tensor *at, const nt_tensor *x)
{
	return nt::action("cache_put", {cache, slot, at, x}, [&] {
		c10::NoGradGuard off;
		for (const at::Tensor &index : {slot->t, at->t}) // libtorch counts negative ones from the end
			TORCH_CHECK(!index.is_cpu() || index.numel() == 0 || index.min().item<int64_t>() >= 0,
				    "an index is negative");
		cache->t.index_put_({slot->t, at->t}, x->t.to(cache->t.scalar_type()));
	});
}

nt_tensor *nt_attention_cached(const nt_tensor *q, const nt_tensor *k, const nt_tensor *v, const nt_tensor *slot,
			       const nt_tensor *length, double scale)
{
	return expr("attention_cached", {q, k, v, slot, length}, [&] {
		TORCH_CHECK(q->t.dim() == 3 && k->t.dim() == 4 && slot->t.numel() == q->t.size(0) &&
				    length->t.numel() == q->t.size(0),
			    "rows, slots and lengths do not fit");
		check_heads(q->t, k->t, v->t, q->t.size(1), k->t.size(2));
		if (!nt::fast({q->t, k->t, v->t}) || !slabs_lie_flat(k->t) || k->t.strides() != v->t.strides())
			return cached_plain(q->t, k->t, v->t, slot->t, length->t, scale);
		at::Tensor qs = q->t.contiguous(), o = at::empty_like(qs);
		int64_t n = qs.size(0), hkv = k->t.size(2), d = qs.size(2), group = qs.size(1) / hkv, slab = k->t.stride(0),
			stride = hkv * d;
		at::Tensor slots = slot->t.contiguous(), lengths = length->t.contiguous();
		const int64_t *sl = slots.const_data_ptr<int64_t>(), *len = lengths.const_data_ptr<int64_t>();
		for (int64_t i = 0; i < n; i++)
			TORCH_CHECK(sl[i] >= 0 && sl[i] < k->t.size(0) && len[i] > 0 && len[i] <= k->t.size(1), "row ", i,
				    " has slot ", sl[i], " and length ", len[i]);
		const float *qp = qs.const_data_ptr<float>(), *kp = k->t.const_data_ptr<float>(),
			    *vp = v->t.const_data_ptr<float>();
		float *op = o.mutable_data_ptr<float>();
		at::parallel_for(0, n * hkv, 1, [&](int64_t from, int64_t to) {
			std::vector<float> scratch;
			for (int64_t i = from; i < to; i++) {
				int64_t row = i / hkv, h = i % hkv, at = sl[row] * slab + h * d;
				scratch.resize(static_cast<size_t>(group * len[row]));
				nt::cpu::decode_row(qp + (row * hkv + h) * group * d, kp + at, vp + at,
						    op + (row * hkv + h) * group * d, scratch.data(), len[row], stride, group,
						    d, static_cast<float>(scale));
			}
		});
		return o;
	});
}
