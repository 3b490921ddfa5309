/* libnla's public functions (include/nla.h): the models, and the stages that a program which embeds them calls one by one. */
#include "nla.h"
#include "nla/extract.h"
#include "run/models.h"

#define ROWS_AT_ONCE 128 /* that decode; texts do not depend on it */

struct nla {
	struct nla_models m;
};

static int done(const struct nla_err *err, char *message)
{
	memcpy(message, err->text, sizeof(err->text));
	return err->status != NLA_OK;
}

int nla_open(struct nla **out, const char *model, const char *av, const char *ar, const char *device, char *message)
{
	struct nla_err err = NLA_ERR_INIT;
	int index = NT_CPU;
	const struct nla_chat_cfg chat = { .system = "auto", .file = "", .like = av };
	struct nla *nla = *out = nla_alloc(1, sizeof(*nla));
	if (nt_device_open(device, &index))
		nla_nt_fail(&err, "cannot use device '%s'", device);
	else if (!nla_target_open(&nla->m.target, model, &chat, index, index == NT_CPU ? NT_F32 : NT_BF16, -1, &err) &&
		 !nla_half_open(&nla->m.av, NLA_AV, &nla->m.target, av, NULL, &err) &&
		 !nla_half_open(&nla->m.ar, NLA_AR, &nla->m.target, ar, NULL, &err))
		nla_contract_fits(&nla->m.av.meta, &nla->m.target, &nla->m.av.meta, &nla->m.ar.meta, av, &err);
	if (err.status) {
		nla_close(nla);
		*out = NULL;
	}
	return done(&err, message);
}

void nla_close(struct nla *nla)
{
	if (nla)
		nla_models_close(&nla->m);
	free(nla);
}

int64_t nla_width(const struct nla *nla) { return nla->m.target.lm.arch.d_model; }
int64_t nla_layer(const struct nla *nla) { return nla->m.ar.depth - 1; }

int nla_activation(struct nla *nla, const char *text, int64_t position, float *v, char *message)
{
	struct nla_err err = NLA_ERR_INIT;
	NLA_AUTO(nla_i32s_release) struct nla_i32s ids = { 0 };
	if (!nla_target_encode(&nla->m.target, nla_target_adds_special(&nla->m.target, &nla->m.ar.meta), text, &ids, &err)) {
		const int64_t n = (int64_t)ids.n, at = position < 0 ? n + position : position;
		if (at < 0 || at >= n)
			nla_usage(&err, "position %lld is outside the text's %zu tokens", (long long)position, ids.n);
		else
			nla_extract_at(&nla->m.target, &ids, &at, 1, nla_layer(nla), v, &err);
	}
	return done(&err, message);
}

char **nla_explain_many(struct nla *nla, const float *v, int64_t n, int64_t max_new_tokens, double temperature, uint64_t seed,
			char *message)
{
	struct nla_err err = NLA_ERR_INIT;
	struct nla_rl rl = { .rollout = { .max_new_tokens = max_new_tokens, .temperature = temperature, .rows = ROWS_AT_ONCE,
					  .truncated = NLA_TRUNCATED_SCORE },
			     .av = &nla->m.av, .sampler = nla_half_view(&nla->m.av), .rng = { seed, NLA_STREAM_EVAL } };
	struct nla_step step;
	char **texts = NULL;
	bool fine = n >= 0 && max_new_tokens >= 1 && max_new_tokens <= 16384 && temperature >= 0 && temperature <= 100;
	for (int64_t i = 0; fine && i < n * nla_width(nla); i++)
		fine = isfinite(v[i]) && (i % nla_width(nla) || nla_length(v + i, nla_width(nla)) > 0);
	if (!fine) {
		nla_usage(&err, "want finite activations other than 0, 1 to 16384 new tokens and a temperature of 0 to 100");
		done(&err, message);
		return NULL;
	}
	nla_step_start(&step, n, 1, nla_width(nla));
	memcpy(step.v, v, (size_t)(n * nla_width(nla)) * sizeof(*v));
	if (!nla_rollout(&rl, &step, &err)) {
		texts = nla_alloc((size_t)n + 1, sizeof(*texts));
		for (int64_t i = 0; i < n; i++)
			if (!step.failed[i])
				texts[i] = nla_strdup(step.explanation[i]);
			else
				nla_fail(&err, "the verbalizer wrote no explanation: %s", nla_failures[step.failed[i]].name);
	}
	nla_step_release(&step);
	done(&err, message);
	return texts;
}

char *nla_explain(struct nla *nla, const float *v, int64_t max_new_tokens, double temperature, uint64_t seed, char *message)
{
	char **texts = nla_explain_many(nla, v, 1, max_new_tokens, temperature, seed, message), *text = texts ? texts[0] : NULL;
	free(texts);
	return text;
}

int nla_reconstruct(struct nla *nla, const char *text, float *v_hat, const float *v, double *cosine, char *message)
{
	struct nla_err err = NLA_ERR_INIT;
	struct nla_view view = nla_half_view(&nla->m.ar);
	NLA_AUTO(nla_ar_texts_release) struct nla_ar_texts texts;
	enum nla_ar_fit fit = NLA_AR_FITS;
	float mse = 0;
	nla_auto float *zero = nla_alloc((size_t)nla_width(nla), sizeof(*zero));
	nla_ar_texts_start(&texts);
	if (!nla_ar_encode(&nla->m.ar, text, strlen(text), &texts.ids, &fit, &err) && fit == NLA_AR_TOO_LONG)
		nla_fail(&err, "the text and its template are longer than the %lld tokens the reconstructor reads",
			 (long long)nla_ar_max_ids(&nla->m.ar));
	else if (!err.status && fit == NLA_AR_MERGES)
		nla_fail(&err, "the text's end merges with the template behind it: the prompt does not end in "
			 "critic_suffix_ids");
	nla_i64s_push(&texts.offset, (int64_t)texts.ids.n);
	if (!err.status && !nla_ar_score(&nla->m.ar, &view, &texts, v ? v : zero, &mse, v_hat, &err) && v && cosine)
		*cosine = nla_cosine(mse);
	return done(&err, message);
}
