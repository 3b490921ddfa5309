/* --profile: one step under libtorch's profiler, between whose stages a large product and a large copy show what the device
 * reaches; scripts/nla-profile makes a table of the trace. See train.h. */
#include "run/train.h"

#include "base/progress.h"

#define TIMES 5 /* of which the best counts */

static void measure(nt_dtype dtype, int device)
{
	const int64_t n = device == NT_CPU ? 1024 : 8192, large = (int64_t)(device == NT_CPU ? 16 : 64) << 20;
	nla_auto float *x = nla_alloc((size_t)(n * n), sizeof(*x));
	for (int64_t i = 0; i < n * n; i++) /* what multiplies zeros takes less power, and is faster */
		x[i] = (float)(i * 37 % 1001) / 1001 - 0.5f;
	nt_scope_push();
	nt_tensor *a = nt_to(nt_from_host(NT_F32, device, x, 2, (int64_t[]){ n, n }), dtype);
	nt_tensor *from = nt_zeros(NT_F32, device, 1, &large), *to = nt_clone(from);
	nt_profile_stage("roofline");
	for (int i = 0; i < TIMES; i++) {
		nt_free(nt_matmul(a, a));
		nt_copy_into(to, from);
	}
	nt_scope_pop();
	if (nt_check())
		nla_say("the device's rates are not known: %s", nt_error());
	nt_clear(); /* the step is to have what it would have without a profile */
}

enum nla_status nla_profiled_step(struct nla_policy *p, struct nla_err *err)
{
	const struct nla_lm *lm = &p->train->models.target.lm;
	nla_auto char *path = nla_format("%s/trace-%lld.json", p->loop.folder.path, (long long)p->loop.state.step + 1);
	bool kernels = false;
	if (!nt_check() && !nt_profile_start(lm->device)) {
		measure(lm->dtype, lm->device);
		nla_policy_step(p, err);
		nt_profile_stop(path, &kernels);
	}
	if (!err->status && nt_check())
		nla_nt_fail(err, "cannot profile");
	if (err->status)
		return err->status;
	if (lm->device != NT_CPU && !kernels)
		nla_say("the profiler cannot time kernels on %s: times are the host's", nt_device_name(lm->device));
	nla_say("trace of step %lld, for nla-profile, ui.perfetto.dev or chrome://tracing: %s",
		(long long)p->loop.state.step + 1, path);
	return NLA_OK;
}
