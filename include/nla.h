/*
 * nla - the public face of libnla, for programs that embed it: load a verbalizer and a reconstructor, explain a vector, score a
 * text.
 *
 *	struct nla *nla;
 *	char message[NLA_MESSAGE];
 *	if (nla_open(&nla, "model", "av", "ar", "auto", message))
 *		fprintf(stderr, "%s\n", message);
 *	float v[...];          nla_width(nla) numbers, raw: the residual stream after block nla_layer(nla)
 *	char *text = nla_explain(nla, v, 160, 1.0, 7, message);
 *	double cosine;
 *	if (text && !nla_reconstruct(nla, text, NULL, v, &cosine, message)) ...
 *	free(text);
 *	nla_close(nla);
 *
 * docs/embedding.md has a whole program; python/nla.py is the same for Python.
 *
 * Functions return 0 or a pointer on success; else 1 or NULL, and message holds one line. One struct nla serves one thread; on
 * a GPU a process uses one card, from the thread that opened it.
 */
#ifndef NLA_H
#define NLA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NLA_MESSAGE 1024

struct nla;

/* model: target folder; av, ar: adapter folders or whole checkpoints with sidecars (the AV's has its prompt's chat format and
 * system turn, else the model's own are used, which is said on stderr where it has one). A run's folder is refused: name
 * RUN/checkpoints/latest/av and .../ar. device: "auto", "cpu", "cuda", "cuda:N". */
int nla_open(struct nla **out, const char *model, const char *av, const char *ar, const char *device, char *message);
void nla_close(struct nla *nla); /* NULL is fine */

int64_t nla_width(const struct nla *nla); /* D */
int64_t nla_layer(const struct nla *nla); /* K, from 0 */

/* The activation of a text at a token (negative: from the end) into v [D]. */
int nla_activation(struct nla *nla, const char *text, int64_t position, float *v, char *message);
/* An explanation of v [D], sampled at this temperature (0: greedy) with this seed; the caller frees it. NULL also when the AV
 * wrote none (no closed tags within max_new_tokens); the message says so. */
char *nla_explain(struct nla *nla, const float *v, int64_t max_new_tokens, double temperature, uint64_t seed, char *message);
/* The same of n activations v [n, D], which decode together: an array of n texts, the caller's to free like each of them. Where
 * the AV wrote none the text is NULL and message says why; else it is empty. The first text is nla_explain's. */
char **nla_explain_many(struct nla *nla, const float *v, int64_t n, int64_t max_new_tokens, double temperature, uint64_t seed,
			char *message);
/* What the AR predicts from a text: v_hat [D] (or NULL), of length sqrt(D); cosine with v [D] when both are given. The mse of
 * the papers is 2 (1 - cosine). */
int nla_reconstruct(struct nla *nla, const char *text, float *v_hat, const float *v, double *cosine, char *message);

#ifdef __cplusplus
}
#endif
#endif
