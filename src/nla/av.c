/*
 * av - prompts with their vectors v [B, D] as rows of a pack, and log p of response tokens after them [sum of lengths].
 */
#include "nla/av.h"
#include "base/utf8.h"

enum nla_status nla_av_pack(const struct nla_half *av, const float *v, int64_t n_prompts, struct nla_pack *pack, int64_t *rows,
			    struct nla_inject *inject, struct nla_err *err)
{
	int64_t d = av->target->lm.arch.d_model, shape[2] = { n_prompts, d };
	nla_auto int64_t *sites = nla_alloc((size_t)n_prompts, sizeof(*sites));
	int64_t n_sites = 0, head = nla_pack_add(pack, av->prompt.data, av->marker, -1);
	for (int64_t i = 0; i < n_prompts; i++) {
		rows[i] = nla_pack_add(pack, av->prompt.data + av->marker, (int64_t)av->prompt.n - av->marker, head);
		if (av->prompt.data[av->marker] == av->meta.marker_id)
			sites[n_sites++] = pack->start.data[rows[i]];
	}
	*inject = (struct nla_inject){
		.at = av->meta.inject == NLA_INJECT_EMBED_REPLACE ? NLA_INJECT_AT_EMBEDDING : NLA_INJECT_AT_BLOCK,
		.block = 1,
		.scale = nla_scale_value(&av->meta.injection_scale, d),
		.sites = nt_i64(av->target->lm.device, sites, n_sites),
		.v = nt_from_host(NT_F32, av->target->lm.device, v, 2, shape),
	};
	if (n_sites != n_prompts)
		return nla_fail(err, "%lld of %lld activations have an injection site", (long long)n_sites,
				(long long)n_prompts);
	return nt_check() ? nla_nt_fail(err, "cannot lay out %lld prompts", (long long)n_prompts) : NLA_OK;
}

/* For every response token: which packed token predicts it. Row j's first token is predicted by its prompt's last. */
static void add_responses(const struct nla_responses *r, struct nla_pack *pack, const int64_t *prompt_rows, struct nla_i64s *at,
			  struct nla_i64s *ids)
{
	for (int64_t j = 0; j < r->n; j++) {
		int64_t prompt = prompt_rows[r->prompt_of[j]], n = r->length[j];
		const int32_t *tokens = r->ids + j * r->width;
		int64_t row = nla_pack_add(pack, tokens, NLA_MAX(n - 1, 0), prompt); /* the last token predicts nothing */
		for (int64_t t = 0; t < n; t++) {
			nla_i64s_push(at, t == 0 ? nla_pack_last(pack, prompt) : pack->start.data[row] + t - 1);
			nla_i64s_push(ids, tokens[t]);
		}
	}
}

nt_tensor *nla_av_logprob(const struct nla_half *av, const struct nla_view *view, const struct nla_responses *r,
			  double temperature, nt_tensor **entropy, struct nla_recompute *recompute, struct nla_err *err)
{
	NLA_AUTO(nla_pack_release) struct nla_pack pack = { 0 };
	struct nla_inject inject;
	NLA_AUTO(nla_i64s_release) struct nla_i64s at = { 0 }, ids = { 0 };
	nla_auto int64_t *rows = nla_alloc((size_t)r->n_prompts, sizeof(*rows));
	int device = av->target->lm.device;
	if (nla_av_pack(av, r->v, r->n_prompts, &pack, rows, &inject, err))
		return NULL;
	add_responses(r, &pack, rows, &at, &ids);
	if (nla_pack_ready(&pack, view->lm, err))
		return NULL;
	nt_tensor *x = nla_recompute_forward(recompute, view, &pack, &inject, view->lm->arch.n_layers);
	x = nla_final_norm(view, nt_rows(x, nt_i64(device, at.data, (int64_t)at.n)));
	nt_tensor *next = nt_i64(device, ids.data, (int64_t)ids.n), *logprob;
	logprob = nt_token_logprob(x, view->lm->head, next, temperature, entropy);
	if (!logprob)
		nla_nt_fail(err, "cannot compute log-probabilities");
	return logprob;
}

/* A logit less the log of the sum that it is part of, in fp32: logits of up to 8,000 give 8,000 x 2^-23 = 1e-3 at most. */
enum nla_status nla_logprob_check(const float *logprob, int64_t n, struct nla_err *err)
{
	for (int64_t i = 0; i < n; i++)
		if (logprob[i] > 1e-3f)
			return nla_fail(err, "the log-probability of a response token is %g, above 0: the weights or the "
					"device's arithmetic are broken", logprob[i]);
	return NLA_OK;
}

bool nla_find_explanation(const char *response, size_t n, const char **start, size_t *length)
{
	static const char open[] = "<explanation>", close[] = "</explanation>";
	const size_t n_open = strlen(open), n_close = strlen(close);
	const char *end = response + n, *from = memmem(response, n, open, n_open);
	const char *to = from ? memmem(from + n_open, (size_t)(end - from) - n_open, close, n_close) : NULL;
	if (!to)
		return false;
	from += n_open;
	*start = nla_utf8_strip(from, (size_t)(to - from), length);
	return true;
}
