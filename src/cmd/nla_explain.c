/* nla-explain: one vector (a row, a file, or a text's token) -> explanations, their score, the reconstruction's cosine. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/safetensors.h"
#include "nla/actset.h"
#include "nla/extract.h"
#include "rl/step.h"
#include "run/program.h"

/* What is explained. */
struct subject {
	float *v; /* [D] */
	struct nla_str text;
	struct nla_baselines base; /* NaN: unknown */
};

static enum nla_status from_file(const char *path, int64_t d, float *v, struct nla_err *err)
{
	struct nla_st st;
	if (nla_st_open(&st, path, err))
		return err->status;
	const struct nla_st_entry *e = st.n_entries == 1 ? &st.entries[0] : NULL;
	int64_t n = 1;
	for (int i = 0; e && i < e->ndim; i++)
		n *= e->shape[i];
	if (!e || n != d || e->dtype > NLA_ST_F16)
		nla_fail(err, "'%s': want one float tensor of %lld numbers", path, (long long)d);
	else if (e->dtype == NLA_ST_F32)
		memcpy(v, e->data, (size_t)d * sizeof(*v));
	else if (e->dtype == NLA_ST_BF16)
		nla_bf16_to_f32(e->data, v, (size_t)d);
	else
		nla_f16_to_f32(e->data, v, (size_t)d);
	for (int64_t i = 0; i < d && !err->status; i++)
		if (!isfinite(v[i]))
			nla_fail(err, "'%s': element %lld is not a finite number", path, (long long)i);
	nla_st_close(&st);
	return err->status;
}

static enum nla_status from_row(const struct nla_config *cfg, const struct nla_half *av, const struct nla_half *ar, struct subject *s,
				struct nla_err *err)
{
	struct nla_actset set;
	if (nla_config_need(cfg->data, "data", err) || nla_actset_open(&set, cfg->data, av->target->lm.arch.d_model, err))
		return err->status;
	if (cfg->explain.row >= set.n)
		nla_usage(err, "'explain.row' is %lld: '%s' has rows 0 to %lld", (long long)cfg->explain.row, cfg->data, (long long)set.n - 1);
	else if (!nla_contract_fits(&set.meta, av->target, &av->meta, &ar->meta, cfg->data, err) &&
		 !nla_actset_vectors(&set, &cfg->explain.row, 1, s->v, err))
		nla_str_add(&s->text, set.rows[cfg->explain.row].text);
	s->base = (struct nla_baselines){ set.meta.baseline_var, set.meta.baseline_mean };
	nla_actset_close(&set);
	return err->status;
}

static enum nla_status find_subject(const struct nla_config *cfg, const struct nla_half *av, const struct nla_half *ar, struct subject *s,
				    struct nla_err *err)
{
	const struct nla_target *t = av->target;
	s->v = nla_alloc((size_t)t->lm.arch.d_model, sizeof(*s->v));
	s->base = (struct nla_baselines){ (double)NAN, (double)NAN };
	if (nla_contract_fits(&av->meta, t, &av->meta, &ar->meta, cfg->av, err))
		return err->status;
	if (*cfg->explain.vector)
		return from_file(cfg->explain.vector, t->lm.arch.d_model, s->v, err);
	if (*cfg->explain.text)
		return nla_extract_one(t, cfg->explain.text, cfg->explain.position, ar->depth - 1, s->v, &s->text, err);
	return from_row(cfg, av, ar, s, err);
}

static void print_one(const struct nla_step *r, const struct subject *s, int64_t i)
{
	cJSON *json = cJSON_CreateObject();
	if (s->text.len)
		cJSON_AddStringToObject(json, "text", s->text.buf);
	cJSON_AddItemToObject(json, "explanation", r->explanation[i] ? cJSON_CreateString(r->explanation[i]) : cJSON_CreateNull());
	cJSON_AddItemToObject(json, "failed", r->failed[i] ? cJSON_CreateString(nla_failures[r->failed[i]].name) : cJSON_CreateNull());
	cJSON_AddNumberToObject(json, "response_tokens", (double)r->tokens.length[i]);
	cJSON_AddNumberToObject(json, "mse", r->mse[i]);
	cJSON_AddNumberToObject(json, "cosine", (float)nla_cosine(r->mse[i]));
	if (s->base.var > 0) {
		cJSON_AddNumberToObject(json, "fve", (float)nla_fve(r->mse[i], s->base.var));
		cJSON_AddNumberToObject(json, "fve_meannorm", (float)nla_fve(r->mse[i], s->base.mean));
	}
	struct nla_str line = NLA_STR_INIT;
	nla_json_add(&line, json, false, 0);
	puts(line.buf);
	nla_str_release(&line);
	cJSON_Delete(json);
}

static enum nla_status explain(const struct nla_config *cfg, const struct nla_half *av, const struct nla_half *ar, const struct subject *s,
			       struct nla_err *err)
{
	struct nla_view view = nla_half_view(av);
	struct nla_rl rl = { .rollout = cfg->rollout, .reward = cfg->reward, .av = av, .ar = ar, .policy = view, .sampler = view,
			     .ar_view = nla_half_view(ar), .rng = { (uint64_t)cfg->seed, NLA_STREAM_EVAL } };
	const int64_t d = av->target->lm.arch.d_model;
	struct nla_step step;
	nla_step_start(&step, 1, cfg->explain.samples, d);
	memcpy(step.v, s->v, (size_t)d * sizeof(*s->v));
	if (!nla_rollout(&rl, &step, err) && !nla_score(&rl, &step, err))
		for (int64_t i = 0; i < step.n; i++)
			print_one(&step, s, i);
	nla_step_release(&step);
	return err->status;
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_target target = { 0 };
	struct nla_half av = { 0 };
	struct nla_half ar = { 0 };
	struct subject s = { .text = NLA_STR_INIT };
	int device;
	nt_dtype dtype;
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(cfg->av, "av", err) || nla_config_need(cfg->ar, "ar", err) ||
	    nla_config_device(cfg, &device, &dtype, err))
		return err->status;
	if (!nla_target_open(&target, cfg->model, &cfg->chat, device, dtype, -1, err) && !nla_half_open(&av, NLA_AV, &target, cfg->av, cfg->av_base, err) &&
	    !nla_half_open(&ar, NLA_AR, &target, cfg->ar, cfg->ar_base, err) && !find_subject(cfg, &av, &ar, &s, err))
		explain(cfg, &av, &ar, &s, err);
	nla_str_release(&s.text);
	free(s.v);
	nla_half_release(&av);
	nla_half_release(&ar);
	nla_target_close(&target);
	return err->status;
}

int main(int argc, char **argv)
{
	return nla_program("nla-explain", NLA_CMD_EXPLAIN,
			   "Explain one activation: a row of a set (--data --row), a text at a token (--text --position), or a file\n"
			   "(--vector). One JSON object a sample on stdout.",
			   argc, argv, run);
}
