// Where time goes: libtorch's own profiler (kineto) around a part of a run, its events summed by stage and operation. An
// operation is one of nt.h's, or the backward pass of one; what libtorch runs inside it counts as its own, and the trace has
// each event. FLOPs and bytes come from tensors' shapes, and from nt::cost where shapes do not say them. On a GPU kernels
// count for the operation that launched them.
#include "shim/nt_internal.h"

#include <kineto/ActivityType.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

namespace profiler = torch::autograd::profiler;
using libkineto::ActivityType;
using nt::action;

namespace
{

constexpr char COST[] = "cost";

bool on;
std::vector<std::string> stages;
std::optional<at::RecordFunction> stage;

struct Span {
	uint64_t end, thread;
	std::string name;
};

double numel(const std::vector<int64_t> &shape)
{
	double n = shape.empty() ? 0 : 1;
	for (int64_t size : shape)
		n *= static_cast<double>(size);
	return n;
}

double width(const std::string &type)
{
	return type == "long int" ? 8 : type == "float" || type == "int" ? 4 : type == "unsigned char" ? 1 : 2;
}

// Elementwise operations: each input is read, and as much as the largest written.
const char *const elementwise[] = {"aten::add", "aten::add_", "aten::sub",     "aten::mul",	  "aten::mul_",
				   "aten::exp", "aten::neg",  "aten::minimum", "aten::clamp", "aten::copy_",
				   "aten::silu"};

// What other operations move, in sizes of their first input; a backward pass's is the gradient.
const std::map<std::string, double> moved = {{"rms_norm", 2},	   {"qk_rope", 2},	{"swiglu", 1.5},    {"sample", 1},
					     {"rms_norm back", 3}, {"qk_rope back", 3}, {"swiglu back", 5}};

// Adds what an event costs to its operation's row.
void add_cost(nt_profile_row &row, const profiler::KinetoEvent &e)
{
	const std::string name = e.name();
	const auto shapes = e.shapes();
	const auto types = e.dtypes();
	const bool known = moved.count(row.operation);
	if (name == COST) {
		row.flops += e.concreteInputs()[0].toDouble();
		row.bytes += e.concreteInputs()[1].toDouble();
	} else if (known && name == row.operation && !shapes.empty()) {
		row.bytes += moved.at(name) * numel(shapes[0]) * width(types[0]);
	} else if (name == "aten::mm" || name == "aten::addmm" || name == "aten::addmm_" || name == "aten::bmm") {
		const size_t at = name.find("addmm") != name.npos;
		const double m = static_cast<double>(shapes[at + 1].back());
		row.flops += 2 * numel(shapes[at]) * m;
		row.bytes += width(types[at]) * (numel(shapes[at]) + numel(shapes[at + 1]) +
						 numel(shapes[at]) / static_cast<double>(shapes[at].back()) * m);
	} else if (!known && std::find(std::begin(elementwise), std::end(elementwise), name) != std::end(elementwise)) {
		double most = 0;
		for (size_t i = 0; i < shapes.size(); i++) {
			most = std::max(most, numel(shapes[i]) * width(types[i]));
			row.bytes += numel(shapes[i]) * width(types[i]);
		}
		row.bytes += most;
	}
}

// Events of one profile become rows; operations that no stage holds are left out.
struct Sums {
	std::vector<nt_profile_row> rows;
	std::vector<double> kernels;			 // seconds, by row
	std::map<uint64_t, Span> spans;			 // the stages, by start
	std::map<uint64_t, std::vector<std::pair<uint64_t, size_t>>> open; // by thread: end and row
	std::map<uint64_t, size_t> by_id;		 // row of an event that kernels may belong to

	size_t row(const std::string &in, const std::string &operation)
	{
		auto same = [&](const nt_profile_row &r) { return in == r.stage && operation == r.operation; };
		size_t at = static_cast<size_t>(std::find_if(rows.begin(), rows.end(), same) - rows.begin());
		if (at < rows.size())
			return at;
		nt_profile_row fresh = {};
		in.copy(fresh.stage, sizeof(fresh.stage) - 1);
		operation.copy(fresh.operation, sizeof(fresh.operation) - 1);
		rows.push_back(fresh);
		kernels.push_back(0);
		return at;
	}

	void host(const profiler::KinetoEvent &e)
	{
		auto after = spans.upper_bound(e.startNs());
		auto &above = open[e.startThreadId()];
		const double seconds = static_cast<double>(e.durationNs()) * 1e-9;
		while (!above.empty() && above.back().first <= e.startNs())
			above.pop_back();
		if (after == spans.begin() || std::prev(after)->second.end <= e.startNs())
			return;
		const auto &[end, thread, in] = std::prev(after)->second;
		const std::string name = e.name();
		if (e.scope() == static_cast<uint8_t>(at::RecordScope::USER_SCOPE)) {
			rows[row(in, "")].seconds += seconds;
			return;
		}
		const bool ours = e.scope() == static_cast<uint8_t>(at::RecordScope::FUNCTION) && name.find("::") == name.npos;
		const bool own = (ours && name != COST) || above.empty();
		const size_t at = !own ? above.back().second : row(in, name.rfind("autograd::", 0) ? name : "backward");
		rows[at].calls += own && ours;
		rows[at].seconds += seconds;
		if (!above.empty())
			rows[above.back().second].seconds -= seconds;
		else if (e.startThreadId() != thread) // autograd's, for a GPU: who called it waits
			rows[row(in, "backward")].seconds -= seconds;
		add_cost(rows[at], e);
		above.emplace_back(e.endNs(), at);
		by_id[e.correlationId()] = at;
	}

	// True when there were kernels: rows have their time then.
	bool device(const std::vector<profiler::KinetoEvent> &events)
	{
		bool any = false;
		for (const auto &e : events) {
			auto launched = by_id.find(e.linkedCorrelationId());
			if (e.deviceType() == at::kCPU || e.activityType() < static_cast<uint8_t>(ActivityType::GPU_MEMCPY) ||
			    e.activityType() > static_cast<uint8_t>(ActivityType::CONCURRENT_KERNEL) || launched == by_id.end())
				continue;
			any = true;
			kernels[launched->second] += static_cast<double>(e.durationNs()) * 1e-9;
		}
		for (size_t i = 0; any && i < rows.size(); i++)
			if (*rows[i].operation)
				rows[i].seconds = kernels[i];
		return any;
	}
};

bool is_host(const profiler::KinetoEvent &e)
{
	return e.activityType() <= static_cast<uint8_t>(ActivityType::USER_ANNOTATION);
}

} // namespace

const char *nt::running = "";

void nt::profiled(at::RecordFunction &f, const char *op, const char *part, Handles in)
{
	const std::string name = std::string(op) + part;
	std::vector<c10::IValue> inputs;
	for (const nt_tensor *t : in)
		inputs.emplace_back(t->t);
	if (!*part)
		running = op;
	f.before(std::string_view(name), c10::ArrayRef<const c10::IValue>(inputs.data(), inputs.size()));
}

void nt::cost(double flops, double bytes)
{
	at::RecordFunction f;
	const c10::IValue values[] = {flops, bytes};
	if (f.isActive())
		f.before(std::string_view(COST), c10::ArrayRef<const c10::IValue>(values, 2));
}

void nt::attention_cost(double pairs, const at::Tensor &q, const at::Tensor &k, int products, int passes)
{
	cost(2.0 * products * pairs * double(q.size(1) * q.size(2)), 2.0 * passes * double(q.nbytes() + k.nbytes()));
}

nt_status nt_profile_start(int index)
{
	return action("profile_start", {}, [&] {
		setenv("KINETO_LOG_LEVEL", "99", 0); // it calls a machine without a GPU an error
		std::set<profiler::ActivityType> what = {profiler::ActivityType::CPU};
		if (nt::device(index).is_cuda())
			what.insert(profiler::ActivityType::CUDA);
		profiler::ProfilerConfig config(profiler::ProfilerState::KINETO, true);
		profiler::prepareProfiler(config, what);
		profiler::enableProfiler(config, what);
		on = true;
	});
}

void nt_profile_stage(const char *name)
{
	stage.reset();
	if (!on || !name)
		return;
	stages.push_back(name);
	stage.emplace(at::RecordScope::USER_SCOPE);
	stage->before(std::string_view(name));
}

nt_status nt_profile_stop(const char *trace, struct nt_profile_row **rows, int64_t *n, bool *kernels)
{
	nt_profile_stage(nullptr);
	at::DisableRecordFunctionGuard end;
	on = false;
	*rows = nullptr;
	*n = 0;
	return action("profile_stop", {}, [&] {
		auto result = profiler::disableProfiler();
		result->save(trace);
		TORCH_CHECK(std::filesystem::exists(trace), "cannot write '", trace, "'");
		std::vector<const profiler::KinetoEvent *> events;
		Sums sums;
		for (const auto &e : result->events()) {
			if (!is_host(e))
				continue;
			events.push_back(&e);
			if (std::find(stages.begin(), stages.end(), e.name()) != stages.end())
				sums.spans[e.startNs()] = {e.endNs(), e.startThreadId(), e.name()};
		}
		stages.clear();
		std::stable_sort(events.begin(), events.end(), [](auto *a, auto *b) {
			return a->startNs() != b->startNs() ? a->startNs() < b->startNs() : a->endNs() > b->endNs();
		});
		for (auto *e : events)
			sums.host(*e);
		*kernels = sums.device(result->events());
		*n = static_cast<int64_t>(sums.rows.size());
		*rows = static_cast<nt_profile_row *>(std::calloc(sums.rows.size() + 1, sizeof(**rows)));
		TORCH_CHECK(*rows, "out of memory");
		std::copy(sums.rows.begin(), sums.rows.end(), *rows);
	});
}

nt_status nt_roofline(nt_dtype dtype, int index, double *flops, double *bytes)
{
	return action("roofline", {}, [&] {
		const bool gpu = nt::device(index).is_cuda();
		const int64_t n = gpu ? 8192 : 1024, size = int64_t(gpu ? 256 : 64) << 20, times = gpu ? 8 : 1;
		at::Tensor a = at::rand({n, n}).to(nt::device(index), nt::scalar(dtype));
		at::Tensor from = at::zeros({size}, a.options().dtype(at::kByte)), to = at::zeros_like(from);
		auto rate = [&](double work, auto &&f) { // the best of a few
			double best = 0;
			for (int i = 0; i < 5; i++) {
				auto start = std::chrono::steady_clock::now();
				for (int64_t j = 0; j < times; j++)
					f();
				to.narrow(0, 0, 1).item<uint8_t>(); // waits for a GPU
				std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
				best = std::max(best, work * static_cast<double>(times) / took.count());
			}
			return best;
		};
		*flops = rate(2.0 * static_cast<double>(n * n * n), [&] { at::mm(a, a); });
		*bytes = rate(2.0 * static_cast<double>(size), [&] { to.copy_(from); });
	});
}
