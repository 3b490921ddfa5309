/*
 * nla-explain: activations (a row, a file, or tokens of a text) -> explanations, their scores, the reconstructions' cosines.
 *
 *	v [n, D] -> rollout: G responses each -> score: mse, fve [n*G] -> a line of JSON each
 *
 * A sample's random numbers depend on the seed and its number among its activation's, so a token is explained alike alone or
 * with others.
 */

#include "base/progress.h"
#include "cmd/program.h"
#include "run/evaluate.h"

#define AT_ONCE 64 /* responses that decode together */

static cJSON *string(const char *s) { return s ? cJSON_CreateString(s) : cJSON_CreateNull(); }

/* Mean cosine between the reconstructions of two samples of a prompt; NaN of fewer than two that have not failed. */
static double agreement(const struct nla_step *r, int64_t prompt, int64_t d)
{
	double squares = 0, n = 0;
	const int64_t from = prompt * r->group, to = from + r->group;
	for (int64_t i = from; i < to; i++)
		n += !r->failed[i];
	for (int64_t j = 0; j < d; j++) {
		double sum = 0;
		for (int64_t i = from; i < to; i++)
			sum += r->failed[i] ? 0 : r->v_hat[i * d + j];
		squares += sum * sum / (double)d;
	}
	return n > 1 ? (squares - n) / (n * (n - 1)) : (double)NAN;
}

/* Response i of activation `of`; agree: of all of its responses. */
static void print_one(const struct nla_step *r, const struct nla_subject *s, int64_t of, int64_t i, double agree)
{
	cJSON *json = cJSON_CreateObject();
	if (s->row >= 0)
		cJSON_AddNumberToObject(json, "row", (double)s->row);
	if (s->text)
		cJSON_AddStringToObject(json, "text", s->text);
	if (s->position[of] >= 0)
		cJSON_AddNumberToObject(json, "position", (double)s->position[of]);
	if (s->token[of])
		cJSON_AddStringToObject(json, "token", s->token[of]);
	cJSON_AddItemToObject(json, "explanation", string(r->explanation[i]));
	cJSON_AddItemToObject(json, "response", string(r->response[i]));
	cJSON_AddItemToObject(json, "failed", string(nla_failures[r->failed[i]].name));
	cJSON_AddNumberToObject(json, "response_tokens", (double)r->tokens.length[i]);
	cJSON_AddNumberToObject(json, "mse", r->mse[i]);
	cJSON_AddNumberToObject(json, "cosine", (float)nla_cosine(r->mse[i]));
	if (!isnan(agree))
		cJSON_AddNumberToObject(json, "agreement", (float)agree);
	cJSON_AddNumberToObject(json, "norm", (float)nla_length(s->v + of * s->d, s->d));
	if (s->base.var > 0) {
		cJSON_AddNumberToObject(json, "fve", (float)nla_fve(r->mse[i], s->base.var));
		cJSON_AddNumberToObject(json, "fve_meannorm", (float)nla_fve(r->mse[i], s->base.mean));
	}
	nla_program_print(json, false);
}

/* What is explained, by whom, and what its fve is measured by. */
static void say_what(const struct nla_config *cfg, const struct nla_subject *s)
{
	const bool of_text = *cfg->explain.text;
	nla_auto char *what = s->row >= 0 ? nla_format("row %lld of '%s'", (long long)s->row, cfg->data) :
			      s->n > 1 ? nla_format("%lld %s", (long long)s->n, of_text ? "tokens of the text" : "vectors") :
			      s->token[0] ? nla_format("token %lld '%s' of the text", (long long)s->position[0], s->token[0]) :
					    nla_format("'%s'", cfg->explain.vector);
	nla_auto char *base = s->base.var > 0
		? nla_format("baselines of '%s': raw variance %.4f, mean-normalised %.4f", cfg->data, s->base.var, s->base.mean)
		: nla_strdup("no fve: without data of its block there is no baseline");
	nla_say("nla-explain: AV '%s', AR '%s', %s; %s", cfg->av, cfg->ar, what, base);
}

/* The activations from..to. */
static enum nla_status explain(struct nla_rl *rl, const struct nla_subject *s, int64_t samples, int64_t from, int64_t to,
			       struct nla_err *err)
{
	const int64_t d = s->d;
	NLA_AUTO(nla_step_release) struct nla_step step = { 0 };
	nla_step_start(&step, to - from, samples, d);
	memcpy(step.v, s->v + from * d, (size_t)((to - from) * d) * sizeof(*s->v));
	for (int64_t i = 0; i < step.n; i++)
		step.keys[i] = (uint32_t)(i % samples);
	if (nla_rollout(rl, &step, err) || nla_score(rl, &step, err))
		return err->status;
	for (int64_t p = 0; p < step.n_prompts; p++) {
		const double agree = agreement(&step, p, d);
		for (int64_t i = p * samples; i < (p + 1) * samples; i++)
			print_one(&step, s, from + p, i, agree);
	}
	if (from == 0)
		nla_warn_failed(&step, NLA_ROW_OK);
	return !fflush(stdout) ? NLA_OK : nla_fail(err, "cannot write to standard output: %s", strerror(errno));
}

static enum nla_status run(const struct nla_config *cfg, struct nla_err *err)
{
	struct nla_models m = { 0 };
	struct nla_progress p;
	NLA_AUTO(nla_subject_release) struct nla_subject s = { 0 };
	if (!nla_models_open(&m, cfg, cfg->av, cfg->ar, NULL, err) && !nla_subject_find(&s, &m, cfg, err)) {
		struct nla_rl rl = nla_models_rl(&m, cfg);
		rl.keep_v_hat = true;
		const int64_t each = NLA_MAX(AT_ONCE / cfg->explain.samples, 1);
		say_what(cfg, &s);
		nla_progress_start(&p, "explain", s.n);
		for (int64_t from = 0, to; from < s.n && !err->status; from = to) {
			to = NLA_MIN(from + each, s.n);
			if (!explain(&rl, &s, cfg->explain.samples, from, to, err) && s.n > each)
				nla_progress_step(&p, to, "tokens");
		}
	}
	nla_models_close(&m);
	return err->status;
}

const struct nla_program nla_program = { "nla-explain", NLA_CMD_EXPLAIN, run,
	"Explain an activation: a row of a set (--data --row), a text at a token (--text --position) or at\n"
	"several (--text @FILE --positions all), or a file (--vector). One JSON object a sample on stdout.\n"
	"Of a run's folder: its newest checkpoint." };
