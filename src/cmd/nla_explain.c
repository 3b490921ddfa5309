/*
 * nla-explain: one activation (a row, a file, or a text's token) -> explanations, their scores, the reconstructions' cosines.
 *
 *	v [D] -> rollout: G responses -> score: mse, fve [G] -> a line of JSON each
 */
#include <stdio.h>
#include <stdlib.h>

#include "cmd/program.h"
#include "run/models.h"

static cJSON *string(const char *s) { return s ? cJSON_CreateString(s) : cJSON_CreateNull(); }

static void print_one(const struct nla_rollout *r, const struct nla_score *score, const struct nla_subject *s, int64_t i)
{
	cJSON *json = cJSON_CreateObject();
	if (s->text)
		cJSON_AddStringToObject(json, "text", s->text);
	cJSON_AddItemToObject(json, "explanation", string(r->explanation[i]));
	cJSON_AddItemToObject(json, "failed", string(nla_failure_names[r->failed[i]]));
	cJSON_AddNumberToObject(json, "response_tokens", (double)r->tokens.length[i]);
	cJSON_AddNumberToObject(json, "mse", score->mse[i]);
	cJSON_AddNumberToObject(json, "cosine", score->cosine[i]);
	if (s->base.var > 0) {
		cJSON_AddNumberToObject(json, "fve", score->fve[i]);
		cJSON_AddNumberToObject(json, "fve_meannorm", score->fve_meannorm[i]);
	}
	nla_program_print(json, false);
	cJSON_Delete(json);
}

static enum nla_status explain(const struct nla_config *cfg, const struct nla_models *m, const struct nla_subject *s,
			       struct nla_err *err)
{
	struct nla_rollout_cfg once = cfg->rollout;
	struct nla_rng rng = { (uint64_t)cfg->seed, NLA_STREAM_EVAL };
	struct nla_view av = nla_half_view(&m->av), ar = nla_half_view(&m->ar);
	struct nla_rollout r;
	struct nla_score score;
	once.group = cfg->explain.samples;
	uint32_t *keys = nla_alloc((size_t)once.group, sizeof(*keys));
	for (int64_t i = 0; i < once.group; i++)
		keys[i] = (uint32_t)i;
	if (!nla_rollout(&m->av, &av, s->v, 1, &once, &rng, 0, keys, &r, err)) {
		if (!nla_score(&m->ar, &ar, &r, &s->base, cfg->reward.fail_mse, &score, err)) {
			for (int64_t i = 0; i < r.n; i++)
				print_one(&r, &score, s, i);
			nla_score_release(&score);
		}
		nla_rollout_release(&r);
	}
	free(keys);
	return err->status;
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_models m = { 0 };
	struct nla_subject s = { 0 };
	if (!nla_models_open(&m, cfg, err) && !nla_subject_find(&s, &m, cfg, err))
		explain(cfg, &m, &s, err);
	nla_subject_release(&s);
	nla_models_close(&m);
	return err->status;
}

int main(int argc, char **argv)
{
	return nla_program("nla-explain", NLA_CMD_EXPLAIN,
			   "Explain one activation: a row of a set (--data --row), a text at a token (--text --position), or\n"
			   "a file (--vector). One JSON object a sample on stdout.",
			   argc, argv, run);
}
