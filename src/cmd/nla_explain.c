/*
 * nla-explain: one activation (a row, a file, or a text's token) -> explanations, their scores, the reconstructions' cosines.
 *
 *	v [D] -> rollout: G responses -> score: mse, fve [G] -> a line of JSON each
 */
#include <string.h>

#include "base/progress.h"
#include "cmd/program.h"
#include "run/evaluate.h"

static cJSON *string(const char *s) { return s ? cJSON_CreateString(s) : cJSON_CreateNull(); }

static void print_one(const struct nla_step *r, const struct nla_subject *s, int64_t i)
{
	cJSON *json = cJSON_CreateObject();
	if (s->row >= 0)
		cJSON_AddNumberToObject(json, "row", (double)s->row);
	if (s->text)
		cJSON_AddStringToObject(json, "text", s->text);
	if (s->position >= 0)
		cJSON_AddNumberToObject(json, "position", (double)s->position);
	if (s->token)
		cJSON_AddStringToObject(json, "token", s->token);
	cJSON_AddItemToObject(json, "explanation", string(r->explanation[i]));
	cJSON_AddItemToObject(json, "response", string(r->response[i]));
	cJSON_AddItemToObject(json, "failed", string(nla_failures[r->failed[i]].name));
	cJSON_AddNumberToObject(json, "response_tokens", (double)r->tokens.length[i]);
	cJSON_AddNumberToObject(json, "mse", r->mse[i]);
	cJSON_AddNumberToObject(json, "cosine", (float)nla_cosine(r->mse[i]));
	if (s->base.var > 0) {
		cJSON_AddNumberToObject(json, "fve", (float)nla_fve(r->mse[i], s->base.var));
		cJSON_AddNumberToObject(json, "fve_meannorm", (float)nla_fve(r->mse[i], s->base.mean));
	}
	nla_program_print(json, false);
}

/* What is explained, by whom, and what its fve is measured by. */
static void say_what(const struct nla_config *cfg, const struct nla_subject *s)
{
	nla_auto char *models = nla_models_words(cfg);
	nla_auto char *what = s->row >= 0 ? nla_format("row %lld of '%s'", (long long)s->row, cfg->data) :
			      s->token ? nla_format("token %lld '%s' of the text", (long long)s->position, s->token) :
					 nla_format("'%s'", cfg->explain.vector);
	nla_auto char *base = s->base.var > 0
		? nla_format("baselines of '%s': raw variance %.4f, mean-normalised %.4f", cfg->data, s->base.var, s->base.mean)
		: nla_strdup("no fve: without data of its block there is no baseline");
	nla_say("nla-explain: %s, %s; %s", models, what, base);
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_models m = { 0 };
	NLA_AUTO(nla_subject_release) struct nla_subject s = { 0 };
	NLA_AUTO(nla_step_release) struct nla_step step = { 0 };
	if (!nla_models_open(&m, cfg, cfg->av, NULL, err) && !nla_subject_find(&s, &m, cfg, err)) {
		const int64_t d = m.target.lm.arch.d_model;
		struct nla_rl rl = nla_models_rl(&m, cfg);
		say_what(cfg, &s);
		nla_step_start(&step, 1, cfg->explain.samples, d);
		memcpy(step.v, s.v, (size_t)d * sizeof(*s.v));
		if (!nla_rollout(&rl, &step, err) && !nla_score(&rl, &step, err)) {
			for (int64_t i = 0; i < step.n; i++)
				print_one(&step, &s, i);
			nla_warn_failed(&step, NLA_ROW_OK);
		}
	}
	nla_models_close(&m);
	return err->status;
}

int main(int argc, char **argv)
{
	return nla_program("nla-explain", NLA_CMD_EXPLAIN,
			   "Explain one activation: a row of a set (--data --row), a text at a token (--text --position), or\n"
			   "a file (--vector). One JSON object a sample on stdout. Of a run's folder: its newest checkpoint.",
			   argc, argv, run);
}
