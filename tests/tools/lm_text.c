/*
 * lm_text FOLDER greedy N < documents - N ids of greedy continuation a document, on one line; stop ids do not stop it.
 * lm_text FOLDER score    < documents - "TOKENS SUM" a document: tokens predicted (all but the first), their summed log-probability.
 *
 * A language model for scripts, in fp32 on the CPU. Documents as in tok_ids: the length in bytes as a decimal line, then the bytes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lm/decode.h"
#include "text/tokenizer.h"

/* All documents together, as a rollout decodes them. */
static enum nla_status greedy(const struct nla_view *view, struct nla_pack *prompts, int64_t n_new, struct nla_err *err)
{
	struct nla_decoded out = { 0 };
	int64_t n = prompts->n_rows, *row = nla_alloc((size_t)n, sizeof(*row));
	uint32_t *key = nla_alloc((size_t)n, sizeof(*key));
	for (int64_t i = 0; i < n; i++)
		row[i] = i;
	struct nla_decode d = { .view = view, .prompts = prompts, .prompt_row = row, .key = key, .n = n, .max_new_tokens = n_new };
	nt_scope_push();
	if (!nla_pack_ready(prompts, view->lm, err) && !nla_decode(&d, &out, err))
		for (int64_t i = 0; i < n * n_new; i++)
			printf("%" PRId32 "%c", out.ids[i], (i + 1) % n_new ? ' ' : '\n');
	nt_scope_pop();
	nla_decoded_release(&out);
	free(key);
	free(row);
	return err->status;
}

static enum nla_status score(const struct nla_view *view, const struct nla_i32s *ids, struct nla_err *err)
{
	struct nla_pack pack;
	int64_t n = (int64_t)ids->n - 1, *next = nla_alloc((size_t)n + 1, sizeof(*next));
	float *logprob = nla_alloc((size_t)n + 1, sizeof(*logprob));
	double sum = 0;
	nla_pack_init(&pack);
	nla_pack_add(&pack, ids->data, n, -1);
	for (int64_t i = 0; i < n; i++)
		next[i] = ids->data[i + 1];
	nt_scope_push();
	if (!nla_pack_ready(&pack, view->lm, err)) {
		nt_tensor *x = nla_final_norm(view, nla_forward(view, &pack, NULL, view->lm->arch.n_layers, NULL));
		if (nt_to_host_f32(nt_token_logprob(x, view->lm->head, nt_i64(NT_CPU, next, n), 1, NULL), logprob, (size_t)n))
			nla_nt_fail(err, "cannot score a text");
	}
	nt_scope_pop();
	for (int64_t i = 0; i < n; i++)
		sum += logprob[i];
	if (!err->status)
		printf("%" PRId64 " %.9g\n", n, sum);
	nla_pack_release(&pack);
	free(logprob);
	free(next);
	return err->status;
}

/* One document's ids, into the pack (greedy) or scored. */
static enum nla_status one(const struct nla_view *view, const struct nla_tokenizer *tok, size_t n, struct nla_pack *prompts,
			   struct nla_err *err)
{
	struct nla_i32s ids = { 0 };
	char *text = nla_alloc(n + 1, 1);
	if (fread(text, 1, n, stdin) != n)
		nla_fail(err, "a document ends before its %zu bytes", n);
	else if (!nla_tokenizer_encode(tok, text, n, &ids, err) && ids.n < 2)
		nla_fail(err, "a document has fewer than two tokens");
	else if (!err->status && prompts)
		nla_pack_add(prompts, ids.data, (int64_t)ids.n, -1);
	else if (!err->status)
		score(view, &ids, err);
	nla_i32s_release(&ids);
	free(text);
	return err->status;
}

int main(int argc, char **argv)
{
	struct nla_err err = NLA_ERR_INIT;
	struct nla_tokenizer *tok = NULL;
	struct nla_lm lm = { 0 };
	struct nla_view view = { .lm = &lm };
	struct nla_pack prompts;
	int64_t n_new = argc == 4 && !strcmp(argv[2], "greedy") ? strtol(argv[3], NULL, 10) : 0;
	size_t n;

	if (n_new < 1 && (argc != 3 || strcmp(argv[2], "score") != 0)) {
		fprintf(stderr, "usage: %s FOLDER greedy N|score < documents\n", argv[0]);
		return 2;
	}
	nla_pack_init(&prompts);
	if (!nla_tokenizer_load(&tok, argv[1], &err) && !nla_lm_load(&lm, argv[1], NULL, NT_CPU, NT_F32, NLA_LM_AUTO, &err))
		while (scanf("%zu%*1[\n]", &n) == 1 && !one(&view, tok, n, n_new ? &prompts : NULL, &err))
			;
	if (!err.status && n_new)
		greedy(&view, &prompts, n_new, &err);
	if (err.status)
		fprintf(stderr, "error: %s\n", err.text);
	nla_pack_release(&prompts);
	nla_lm_release(&lm);
	nla_tokenizer_free(tok);
	return err.status ? 1 : 0;
}
