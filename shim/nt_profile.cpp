// Where time goes: libtorch's own profiler (kineto) around a part of a run, as a trace that scripts/nla-profile sums by stage
// and operation. An operation is one of nt.h's, or the backward pass of one. FLOPs and bytes follow from tensors' shapes, which
// the trace has, and from nt::cost where shapes do not say them.
#include "shim/nt_internal.h"

#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <set>

namespace profiler = torch::autograd::profiler;
using nt::action;

static bool on;
static std::optional<at::RecordFunction> stage;

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
		f.before(std::string_view("cost"), c10::ArrayRef<const c10::IValue>(values, 2));
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
	stage.emplace(at::RecordScope::USER_SCOPE);
	stage->before(std::string_view(name));
}

nt_status nt_profile_stop(const char *trace, bool *kernels)
{
	nt_profile_stage(nullptr);
	at::DisableRecordFunctionGuard end;
	on = false;
	return action("profile_stop", {}, [&] {
		auto result = profiler::disableProfiler();
		auto &events = result->events();
		*kernels = std::any_of(events.begin(), events.end(), [](auto &e) { return e.deviceType() != at::kCPU; });
		result->save(trace);
		TORCH_CHECK(std::filesystem::exists(trace), "cannot write '", trace, "'");
	});
}
