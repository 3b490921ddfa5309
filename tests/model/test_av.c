/*
 * The AV against transformers and PEFT: its prompt, log-probabilities with the vector injected, and that a row's numbers depend
 * neither on what it is packed with nor on order. Sampling is test_decode.c.
 */
#include "model/golden.h"
#include "nla.h"

/* ---- the prompt ---- */

static void test_prompt(void **state)
{
	struct tiny *t = *state;
	const int64_t *want = golden_i64(t, "av.prompt_ids", 30);
	assert_int_equal(t->av.prompt.n, 30);
	for (int i = 0; i < 30; i++)
		assert_int_equal(t->av.prompt.data[i], want[i]);
	assert_int_equal(t->av.marker, 11);
	assert_int_equal(t->av.prompt.data[t->av.marker], t->av.meta.marker_id);
}

/* Opens an AV whose sidecar says something else. */
static enum nla_status reopen(struct tiny *t, const struct nla_sidecar *meta)
{
	struct nla_half av;
	enum nla_status status = nla_half_new(&av, NLA_AV, &t->target, meta, &err);
	if (!status)
		nla_half_release(&av);
	return status;
}

static void set(char **field, const char *text)
{
	free(*field);
	*field = nla_strdup(text);
}

/* A sidecar that does not fit the live tokenizer is refused, naming what was found and what was expected. */
static void test_contract(void **state)
{
	struct tiny *t = *state;
	struct nla_sidecar meta;
	nla_sidecar_init(&meta);
	nla_sidecar_copy(&meta, &t->av.meta);
	assert_ok(reopen(t, &meta));
	meta.right_id = 7;
	assert_fails(reopen(t, &meta), "neighbours have ids 29 and 329, the sidecar says 29 and 7");
	nla_sidecar_copy(&meta, &t->av.meta);
	meta.marker_id = 300;
	assert_fails(reopen(t, &meta), "injection_token_id is 300, the tokenizer gives marker '\xe3\x88\x8e' the id 379");
	nla_sidecar_copy(&meta, &t->av.meta);
	set(&meta.av_template, "Vector <v>{injection_char}</v>, not \xe3\x88\x8e.");
	assert_fails(reopen(t, &meta), "2 times as one token (id 379)");
	nla_sidecar_copy(&meta, &t->av.meta);
	set(&meta.marker, "two words");
	assert_fails(reopen(t, &meta), "0 times as one token (id 379)");
	nla_sidecar_copy(&meta, &t->av.meta);
	meta.d_model = 64;
	assert_fails(reopen(t, &meta), "d_model is 64, the model's width is 48");
	nla_sidecar_copy(&meta, &t->av.meta);
	meta.layer = BLOCKS;
	meta.critic_layer = -1;
	assert_fails(reopen(t, &meta), "layer_index is 5, the model has blocks 0 to 4");
	/* a set is of the block that AV and AR are of, and says so */
	nla_sidecar_copy(&meta, &t->av.meta);
	set(&meta.kind, "nla_dataset");
	assert_ok(nla_contract_fits(&meta, &t->target, &t->av.meta, &t->ar.meta, "set", &err));
	meta.layer = meta.critic_layer = 1;
	assert_fails(nla_contract_fits(&meta, &t->target, NULL, &t->ar.meta, "set", &err), "'set' is of block 1, the AR of block 2");
	/* prompts as in training, by their texts where the sidecar has them, else by name */
	nla_sidecar_copy(&meta, &t->av.meta);
	nla_sidecar_chat(&meta, "file", NULL, t->target.chat.before, t->target.chat.after);
	assert_ok(reopen(t, &meta));
	nla_sidecar_chat(&meta, "chatml", "Be brief.", "<|im_start|>system\n", t->target.chat.after);
	assert_fails(reopen(t, &meta), "chat format chatml with system turn 'Be brief.', here it is chatml without a system turn: without");
	nla_sidecar_chat(&meta, "chatml", "", NULL, NULL);
	assert_ok(reopen(t, &meta));
	nla_sidecar_chat(&meta, "chatml", "x", NULL, NULL);
	assert_fails(reopen(t, &meta), "with system turn 'x'");
	nla_sidecar_chat(&meta, "llama3", NULL, NULL, NULL);
	assert_fails(reopen(t, &meta), "chat format llama3");
	/* where there is no block 1, nothing can be added after it */
	nla_sidecar_copy(&meta, &t->av.meta);
	meta.layer = meta.critic_layer = 0;
	t->target.lm.arch.n_layers = 1;
	assert_fails(reopen(t, &meta), "residual_add, which adds the vector after block 1: the model has block 0 alone");
	meta.inject = NLA_INJECT_EMBED_REPLACE;
	assert_ok(reopen(t, &meta));
	t->target.lm.arch.n_layers = BLOCKS;
	nla_sidecar_release(&meta);
}

/* Every vector has its site, or nothing is computed. */
static void test_sites(void **state)
{
	struct tiny *t = *state;
	struct nla_pack pack;
	struct nla_inject inject;
	int64_t rows[B], sites[B];
	nla_pack_init(&pack);
	nt_scope_push();
	assert_ok(nla_av_pack(&t->av, t->responses.v, B, &pack, rows, &inject, &err));
	assert_int_equal(nt_numel(inject.sites), B);
	assert_int_equal(nt_to_host_i64(inject.sites, sites, B), NT_OK);
	for (int i = 0; i < B; i++) {
		assert_int_equal(pack.ids.data[sites[i]], t->av.meta.marker_id);
		assert_int_equal(pack.positions.data[sites[i]], t->av.marker);
		for (int j = 0; j < i; j++)
			assert_int_not_equal(sites[i], sites[j]);
	}
	nla_pack_release(&pack);
	t->av.prompt.data[t->av.marker] = 5;
	assert_fails(nla_av_pack(&t->av, t->responses.v, B, &pack, rows, &inject, &err), "0 of 3 activations have an injection site");
	nla_pack_release(&pack);
	assert_null(nla_av_logprob(&t->av, &t->policy, &t->responses, 1, NULL, NULL, &err));
	assert_non_null(strstr(err.text, "injection site"));
	nt_scope_pop();
}

/* ---- log-probabilities ---- */

static void check_logprob(struct tiny *t, const struct nla_view *view, double temperature, const char *golden, const char *what)
{
	float *logp = logprob_of(&t->av, view, &t->responses, temperature);
	within(what, worst_packed(t, logp, golden_f32(t, golden, N * WIDTH)), 5e-5);
	free(logp);
}

static void test_logprob(void **state)
{
	struct tiny *t = *state;
	check_logprob(t, &t->policy, 1, "av.logp", "policy, T 1");
	check_logprob(t, &t->policy, 0.7, "av.logp_t07", "policy, T 0.7");
	check_logprob(t, &t->reference, 1, "av.ref_logp", "reference, T 1");
	nt_plain(true);
	check_logprob(t, &t->policy, 1, "av.logp", "policy, T 1, plain");
	check_logprob(t, &t->policy, 0.7, "av.logp_t07", "policy, T 0.7, plain");
}

static void test_entropy(void **state)
{
	struct tiny *t = *state;
	for (int plain = 0; plain < 2; plain++) {
		nt_plain(plain);
		nt_scope_push();
		nt_tensor *entropy = NULL, *logprob = nla_av_logprob(&t->av, &t->policy, &t->responses, 1, &entropy, NULL, &err);
		assert_non_null(logprob);
		float *x = host(entropy, (size_t)t->n_tokens);
		within(plain ? "entropy, plain" : "entropy", worst_packed(t, x, golden_f32(t, "av.entropy", N * WIDTH)), 5e-5);
		free(x);
		nt_scope_pop();
	}
}

/* Rounding passes; what is above it, or no number of ours, is not taken for a probability. NaN has its own ends. */
static void test_above_zero(void **state)
{
	(void)state;
	assert_ok(nla_logprob_check((const float[]){ -3, 0, 1e-4f, NAN, -INFINITY }, 5, &err));
	assert_fails(nla_logprob_check((const float[]){ -3, 0.25f }, 2, &err), "a response token is 0.25, above 0");
}

/* Row 0's whole distributions: every token's log-probability adds up to the golden logits less their log-sum. */
static void test_distribution(void **state)
{
	struct tiny *t = *state;
	int64_t n = t->length[0];
	const float *logits = golden_f32(t, "av.logits0", (size_t)n * VOCAB);
	double most = 0;
	for (int64_t i = 0; i < n; i += 4) { /* the prefix of i tokens, then each of the vocabulary as a row */
		int32_t *ids = nla_alloc((size_t)(VOCAB * (i + 1)), sizeof(*ids));
		int64_t *length = nla_alloc(VOCAB, sizeof(*length)), *prompt_of = nla_alloc(VOCAB, sizeof(*prompt_of));
		double peak = -INFINITY, sum = 0;
		for (int id = 0; id < VOCAB; id++) {
			memcpy(ids + id * (i + 1), t->ids, (size_t)i * sizeof(*ids));
			ids[id * (i + 1) + i] = id;
			length[id] = i + 1;
			peak = fmax(peak, logits[i * VOCAB + id]);
		}
		for (int id = 0; id < VOCAB; id++)
			sum += exp(logits[i * VOCAB + id] - peak);
		struct nla_responses r = { .v = t->responses.v, .n_prompts = 1, .ids = ids, .n = VOCAB, .width = i + 1,
					   .length = length, .prompt_of = prompt_of };
		float *logp = logprob_of(&t->av, &t->policy, &r, 1);
		for (int id = 0; id < VOCAB; id++)
			most = fmax(most, fabs(logp[id * (i + 1) + i] - (logits[i * VOCAB + id] - peak - log(sum))));
		free(logp);
		free(ids);
		free(length);
		free(prompt_of);
	}
	within("every token of the vocabulary", most, 5e-5);
}

/* kitft's mode: the marker's embedding becomes v scale / |v|. */
static void test_embed_replace(void **state)
{
	struct tiny *t = *state;
	t->av.meta.inject = NLA_INJECT_EMBED_REPLACE;
	t->av.meta.injection_scale = (struct nla_scale){ NLA_SCALE_NUMBER, 7.5 };
	check_logprob(t, &t->policy, 1, "embed.logp", "policy, embed_replace");
}

/* Weights that have both adapters merged in are the same policy. */
static void test_merged(void **state)
{
	struct tiny *t = *state;
	struct nla_lm merged;
	assert_ok(nla_merge_copy(&merged, &t->policy, t->target.lm.arch.n_layers, &err));
	struct nla_view view = { .lm = &merged };
	check_logprob(t, &view, 1, "av.logp", "merged policy");
	nla_lm_release(&merged);
}

/* A saved AV (its own adapter joined with a second) opens as the same policy. */
static void test_save(void **state)
{
	struct tiny *t = *state;
	struct nla_half again;
	assert_ok(nla_half_save(&t->av, &t->rl, in_scratch("av"), "rl", &err));
	assert_ok(nla_half_open(&again, NLA_AV, &t->target, in_scratch("av"), NULL, &err));
	assert_string_equal(again.meta.stage, "rl");
	assert_string_equal(again.meta.role, "av");
	struct nla_view view = nla_half_view(&again);
	float *logp = logprob_of(&again, &view, &t->responses, 1);
	within("saved AV", worst_packed(t, logp, golden_f32(t, "av.logp", N * WIDTH)), 5e-5);
	free(logp);
	nla_half_release(&again);
	assert_fails(nla_half_open(&again, NLA_AV, &t->target, TINY "/ar", NULL, &err), "role is 'ar', want an AV");
}

/* The chat format and system turn that an AV was trained with: kept, taken where nothing is asked for, and no others. */
static void test_chat_kept(void **state)
{
	const struct tiny *t = *state;
	struct nla_target target;
	struct nla_half av;
	struct nla *embedded;
	struct nla_chat_cfg chat = { NLA_CHAT_AUTO, "Be brief.", "", 0, NULL };
	char message[NLA_MESSAGE], *folder = nla_strdup(in_scratch("brief"));

	assert_ok(nla_target_open(&target, TINY "/model", &chat, DEVICE, NT_F32, -1, &err));
	assert_ok(nla_half_open(&av, NLA_AV, &target, TINY "/av", NULL, &err));
	assert_true(av.prompt.n > t->av.prompt.n);
	assert_ok(nla_half_save(&av, NULL, folder, "sft", &err));
	nla_half_release(&av);
	assert_fails(nla_half_open(&av, NLA_AV, &t->target, folder, NULL, &err),
		     "with system turn 'Be brief.', here it is chatml without a system turn");
	nla_target_close(&target);
	chat = (struct nla_chat_cfg){ NLA_CHAT_AUTO, "auto", "", 0, folder };
	assert_ok(nla_target_open(&target, TINY "/model", &chat, DEVICE, NT_F32, -1, &err));
	assert_string_equal(target.chat.system, "Be brief.");
	assert_ok(nla_half_open(&av, NLA_AV, &target, folder, NULL, &err));
	nla_half_release(&av);
	nla_target_close(&target);
	chat.system = (char[]){ "x" };
	assert_ok(nla_target_open(&target, TINY "/model", &chat, DEVICE, NT_F32, -1, &err));
	assert_fails(nla_half_open(&av, NLA_AV, &target, folder, NULL, &err), "here it is chatml with system turn 'x'");
	nla_target_close(&target);
	if (nla_open(&embedded, TINY "/model", folder, TINY "/ar", "cpu", message))
		fail_msg("%s", message);
	nla_close(embedded);
	free(folder);
}

/* ---- packing ---- */

/* Responses [0, n) of t in another order, or some of them. */
struct subset {
	int32_t ids[N * WIDTH];
	int64_t length[N], prompt_of[N];
	struct nla_responses r;
};

static void take(struct subset *s, const struct tiny *t, const int *rows, int n)
{
	for (int i = 0; i < n; i++) {
		memcpy(s->ids + i * WIDTH, t->ids + rows[i] * WIDTH, WIDTH * sizeof(*s->ids));
		s->length[i] = t->length[rows[i]];
		s->prompt_of[i] = t->prompt_of[rows[i]];
	}
	s->r = t->responses;
	s->r.ids = s->ids;
	s->r.n = n;
	s->r.length = s->length;
	s->r.prompt_of = s->prompt_of;
}

/* Row i as one plain text, prompt and response in a single row of the pack. */
static float *flat(const struct tiny *t, int i)
{
	int64_t n = t->length[i], first = (int64_t)t->av.prompt.n - 1, ids[WIDTH], shape[2] = { 1, D };
	struct nla_i32s text = { 0 };
	struct nla_pack pack;
	nla_i32s_append(&text, t->av.prompt.data, t->av.prompt.n);
	nla_i32s_append(&text, t->ids + i * WIDTH, (size_t)n);
	nla_pack_init(&pack);
	nla_pack_add(&pack, text.data, (int64_t)text.n, -1);
	assert_ok(nla_pack_ready(&pack, t->policy.lm, &err));
	for (int64_t j = 0; j < n; j++)
		ids[j] = t->ids[i * WIDTH + j];
	nt_scope_push();
	struct nla_inject inject = { .at = NLA_INJECT_AT_BLOCK, .block = 1, .sites = nt_i64(DEVICE, &t->av.marker, 1),
				     .v = nt_from_host(NT_F32, DEVICE, t->responses.v + t->prompt_of[i] * D, 2, shape) };
	nt_tensor *x = nla_final_norm(&t->policy, nla_forward(&t->policy, &pack, &inject, BLOCKS, NULL));
	x = nt_token_logprob(nt_narrow(x, 0, first, n), t->policy.lm->head, nt_i64(DEVICE, ids, n), 1, NULL);
	float *logp = host(x, (size_t)n);
	nt_scope_pop();
	nla_pack_release(&pack);
	nla_i32s_release(&text);
	return logp;
}

/* Sharing a prompt changes nothing: every row in a pack of its own with its vector alone, and as one plain text. */
static void test_alone(void **state)
{
	struct tiny *t = *state;
	float *all = logprob_of(&t->av, &t->policy, &t->responses, 1);
	double most = 0, most_flat = 0;
	for (int i = 0, k = 0; i < N; k += (int)t->length[i++]) {
		struct subset s;
		take(&s, t, &i, 1);
		s.r.v = t->responses.v + s.prompt_of[0] * D;
		s.r.n_prompts = 1;
		s.prompt_of[0] = 0;
		float *x = logprob_of(&t->av, &t->policy, &s.r, 1), *y = flat(t, i);
		most = NLA_MAX(most, worst(x, all + k, (size_t)t->length[i]));
		most_flat = NLA_MAX(most_flat, worst(y, all + k, (size_t)t->length[i]));
		free(x);
		free(y);
	}
	within("every row alone, all packed", most, 1e-4);
	within("every row as one plain text, all packed", most_flat, 1e-4);
	free(all);
}

static void test_order(void **state)
{
	struct tiny *t = *state;
	static const int order[N] = { 7, 0, 11, 3, 3, 5, 1, 10, 2, 9, 8, 4 };
	const float *want = golden_f32(t, "av.logp", N * WIDTH);
	struct subset s;
	double most = 0;
	take(&s, t, order, N);
	float *x = logprob_of(&t->av, &t->policy, &s.r, 1);
	for (int i = 0, k = 0; i < N; k += (int)s.length[i++])
		most = NLA_MAX(most, worst(x + k, want + order[i] * WIDTH, (size_t)s.length[i]));
	within("rows in another order", most, 1e-4);
	free(x);
}

/* Row 4 holds the marker's id: it is a token like any other there. After another vector row 4 must differ. */
static void test_marker_in_response(void **state)
{
	struct tiny *t = *state;
	const float *want = golden_f32(t, "av.logp", N * WIDTH);
	int row = 4, at = 3;
	struct subset s;
	assert_int_equal(t->ids[row * WIDTH + at], t->av.meta.marker_id);
	take(&s, t, &row, 1);
	float *x = logprob_of(&t->av, &t->policy, &s.r, 1);
	within("a response with the marker", worst(x, want + row * WIDTH, (size_t)s.length[0]), 5e-5);
	free(x);
	s.prompt_of[0] = 2;
	x = logprob_of(&t->av, &t->policy, &s.r, 1);
	assert_true(worst(x, want + row * WIDTH, (size_t)s.length[0]) > 0.02);
	free(x);
}

/* -sum of log-probabilities over the number of tokens: the warm-start's loss, end of turn included. */
static void test_sft_loss(void **state)
{
	struct tiny *t = *state;
	float *x = logprob_of(&t->av, &t->policy, &t->responses, 1);
	double sum = 0;
	for (int64_t i = 0; i < t->n_tokens; i++)
		sum -= x[i];
	within("cross-entropy", fabs(sum / (double)t->n_tokens - golden_scalar(t, "sft.loss")), 1e-5);
	free(x);
}

static void test_find_explanation(void **state)
{
	static const struct {
		const char *response, *explanation; /* NULL: none */
	} cases[] = {
		{ "<explanation>fox</explanation>", "fox" },
		{ "x <explanation>\n a fox\nand a key \n</explanation> y", "a fox\nand a key" },
		{ "<explanation>one</explanation><explanation>two</explanation>", "one" },
		{ "<explanation> \n\t </explanation>", "" },
		{ "<explanation></explanation>", "" },
		{ "<explanation>\v\f\xc2\xa0\x1c fox\xe3\x80\x80\xe2\x80\xa8\x85</explanation>", "fox\xe3\x80\x80\xe2\x80\xa8\x85" }, /* 0x85 alone is no text */
		{ "<explanation>\xc2\xa0 fox \xc2\x85\xe3\x80\x80</explanation>", "fox" },
		{ "<explanation>never closed", NULL },
		{ "</explanation>backwards<explanation>", NULL },
		{ "no tags", NULL },
		{ "", NULL },
	};
	(void)state;
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		const char *start = NULL, *want = cases[i].explanation;
		size_t length = 0;
		assert_int_equal(nla_find_explanation(cases[i].response, strlen(cases[i].response), &start, &length), want != NULL);
		if (!want)
			continue;
		assert_int_equal(length, strlen(want));
		assert_memory_equal(start, want, length);
	}
	const char nul[] = "a\0b<explanation> a\0b </explanation>", *start;
	size_t length;
	assert_true(nla_find_explanation(nul, sizeof(nul) - 1, &start, &length));
	assert_int_equal(length, 3);
	assert_memory_equal(start, "a\0b", 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TINY_TEST(test_prompt),
		TINY_TEST(test_contract),
		TINY_TEST(test_sites),
		TINY_TEST(test_logprob),
		TINY_TEST(test_entropy),
		TINY_TEST(test_above_zero),
		TINY_TEST(test_distribution),
		TINY_TEST(test_embed_replace),
		TINY_TEST(test_merged),
		TINY_TEST(test_save),
		TINY_TEST(test_chat_kept),
		TINY_TEST(test_alone),
		TINY_TEST(test_order),
		TINY_TEST(test_marker_in_response),
		TINY_TEST(test_sft_loss),
		TINY_TEST(test_find_explanation),
	};
	return run_tiny(tests);
}
