/*
 * Sampling: greedy choices against transformers; the cached, batched, ragged decoder against the training forward pass; every
 * row its own random numbers and its own first stop token; rollouts and why their rows failed.
 */
#include "model/golden.h"

#include <dlfcn.h>

#include "sim/sim.h"

#define LONG 32

static const uint32_t keys[N] = { 100, 101, 102, 103, 7, 8, 9, 10, 55, 56, 57, 58 };

/* What a test decodes: samples prompt_of[0..n) of the golden vectors under a view. */
struct job {
	const struct nla_view *view;
	const int64_t *prompt_of;
	const uint32_t *key;
	int64_t n, n_views, max_new_tokens;
	double temperature;
	int32_t *stop;
	size_t n_stop;
	uint32_t step;
	int64_t min_new_tokens, ahead;
};

static struct nla_decoded run(const struct tiny *t, const struct job *j)
{
	struct nla_decoded out;
	struct nla_pack pack;
	struct nla_inject inject;
	const struct nla_i32s stop = { j->stop, j->n_stop, 0 };
	int64_t prompts[B], *rows = nla_alloc((size_t)j->n, sizeof(*rows));
	nla_pack_init(&pack);
	nt_scope_push();
	assert_ok(nla_av_pack(&t->av, t->responses.v, B, &pack, prompts, &inject, &err));
	assert_ok(nla_pack_ready(&pack, j->view->lm, &err));
	for (int64_t i = 0; i < j->n; i++)
		rows[i] = prompts[j->prompt_of[i]];
	struct nla_decode d = { .view = j->view, .n_views = j->n_views, .prompts = &pack, .inject = &inject, .prompt_row = rows, .key = j->key, .n = j->n,
				.max_new_tokens = j->max_new_tokens, .temperature = j->temperature,
				.rng = { 1234, NLA_STREAM_TEST }, .step = j->step, .stop = &stop,
				.min_new_tokens = j->min_new_tokens, .ahead = j->ahead };
	assert_ok(nla_decode(&d, &out, &err));
	nt_scope_pop();
	nla_pack_release(&pack);
	free(rows);
	return out;
}

static struct job whole(const struct tiny *t)
{
	return (struct job){ .view = &t->policy, .prompt_of = t->prompt_of, .key = keys, .n = N, .max_new_tokens = LONG,
			     .temperature = 1 };
}

static struct nla_responses drawn(const struct tiny *t, const struct nla_decoded *d, const int64_t *prompt_of)
{
	return (struct nla_responses){ .v = t->responses.v, .n_prompts = B, .ids = d->ids, .n = d->n, .width = d->width,
				       .length = d->length, .prompt_of = prompt_of };
}

static void check_greedy(struct tiny *t, const struct nla_view *view)
{
	static const int64_t prompt_of[B] = { 0, 1, 2 };
	struct job j = { .view = view, .prompt_of = prompt_of, .key = keys, .n = B, .max_new_tokens = 24 };
	const int64_t *want = golden_i64(t, "greedy.ids", B * 24);
	struct nla_decoded out = run(t, &j);
	for (int i = 0; i < B * 24; i++)
		assert_int_equal(out.ids[i], want[i]);
	for (int i = 0; i < B; i++) {
		assert_int_equal(out.length[i], 24);
		assert_false(out.stopped[i]);
	}
	nla_decoded_release(&out);
}

/* Twice 72 choices, the closest by 0.006; with adapters, merged, and by the plain operations. */
static void test_greedy(void **state)
{
	struct tiny *t = *state;
	struct nla_lm merged;
	check_greedy(t, &t->policy);
	assert_ok(nla_merge_copy(&merged, &t->policy, t->target.lm.arch.n_layers, &err));
	struct nla_view view = { .lm = &merged };
	check_greedy(t, &view);
	nt_plain(true);
	check_greedy(t, &t->policy);
	nla_lm_release(&merged);
}

/* A stop id for about every eighth token, so that rows end at many lengths. */
static size_t common_stops(const struct nla_decoded *d, int32_t *stop)
{
	size_t n = 0;
	for (int64_t i = 0; i < d->n; i += 2)
		stop[n++] = d->ids[i * d->width + 2 + i];
	return n;
}

static double gap(struct tiny *t, const struct nla_view *view, const struct nla_decoded *d, const int64_t *prompt_of,
		  double temperature)
{
	struct nla_responses r = drawn(t, d, prompt_of);
	float *logp = logprob_of(&t->av, view, &r, temperature);
	double most = 0;
	for (int64_t i = 0, k = 0; i < d->n; k += d->length[i++])
		most = NLA_MAX(most, worst(logp + k, d->logprob + i * d->width, (size_t)d->length[i]));
	free(logp);
	return most;
}

/* The sampler and the training forward pass are one policy: what was drawn has the same log-probability in both. */
static void test_same_policy(void **state)
{
	struct tiny *t = *state;
	int32_t stop[N];
	struct job j = whole(t);
	struct nla_decoded free_run = run(t, &j);
	within("cached decode, training pass, T 1", gap(t, &t->policy, &free_run, t->prompt_of, 1), 1e-4);
	j.n_stop = common_stops(&free_run, stop);
	j.stop = stop;
	nla_decoded_release(&free_run);
	for (int plain = 0; plain < 2; plain++) {
		nt_plain(plain);
		j.temperature = 0.7;
		struct nla_decoded ragged = run(t, &j);
		int64_t least = LONG, most = 0;
		for (int i = 0; i < N; i++) {
			least = NLA_MIN(least, ragged.length[i]);
			most = NLA_MAX(most, ragged.length[i]);
		}
		assert_true(most > least + 3);
		within(plain ? "the same, plain, ragged, T 0.7" : "the same, ragged, T 0.7",
		       gap(t, &t->policy, &ragged, t->prompt_of, 0.7), 1e-4);
		nla_decoded_release(&ragged);
	}
}

/* Merged weights, as rollouts use them, against the adapters that are trained: the log's sampler_gap. */
static void test_merged_policy(void **state)
{
	struct tiny *t = *state;
	struct nla_lm merged;
	struct job j = whole(t);
	assert_ok(nla_merge_copy(&merged, &t->policy, t->target.lm.arch.n_layers, &err));
	struct nla_view view = { .lm = &merged };
	j.view = &view;
	struct nla_decoded out = run(t, &j);
	within("merged decode, training pass with adapters", gap(t, &t->policy, &out, t->prompt_of, 1), 1e-4);
	assert_true(gap(t, &t->reference, &out, t->prompt_of, 1) > 0.1);
	nla_decoded_release(&out);
	nla_lm_release(&merged);
}

/* The adapters beside weights that are stored otherwise: mapped, where q, k and v are matrices apart, and on the CPU in bf16. */
static void test_stored_otherwise(void **state)
{
	struct tiny *t = *state;
	struct job j = whole(t);
	if (DEVICE != NT_CPU)
		skip(); /* a GPU maps nothing, and computes in bf16 */
	struct nla_decoded copied = run(t, &j);
	for (int bf16 = 0; bf16 < 2; bf16++) {
		nla_lm_release(&t->target.lm);
		assert_ok(nla_lm_load(&t->target.lm, TINY "/model", NULL, NT_CPU, bf16 ? NT_BF16 : NT_F32,
				      bf16 ? NLA_LM_AUTO : NLA_LM_MAP, &err));
		struct nla_decoded out = run(t, &j);
		within(bf16 ? "weights in bf16" : "weights mapped", gap(t, &t->policy, &out, t->prompt_of, 1),
		       bf16 && nt_bf16_products() ? 0.06 : 1e-4); /* a sum in another order may round another way next */
		if (!bf16)
			assert_memory_equal(out.ids, copied.ids, (size_t)(out.n * out.width) * sizeof(*out.ids));
		nla_decoded_release(&out);
	}
	nla_decoded_release(&copied);
}

static void same_row(const struct nla_decoded *a, int64_t i, const struct nla_decoded *b, int64_t j)
{
	assert_int_equal(a->length[i], b->length[j]);
	assert_memory_equal(a->ids + i * a->width, b->ids + j * b->width, (size_t)a->width * sizeof(*a->ids));
	/* to the bit on the CPU; a GPU's products round by the number of rows */
	double apart = worst(a->logprob + i * a->width, b->logprob + j * b->width, (size_t)a->length[i]);
	if (!(apart <= (DEVICE == NT_CPU ? 0 : 1e-4)))
		fail_msg("log-probabilities of a row differ by %g", apart);
}

/* Views with adapters of their own decode as one batch what each does alone: with stop ids, which take rows out of it. */
static void test_several_views(void **state)
{
	struct tiny *t = *state;
	struct nla_adapter other;
	int32_t stop[N];
	int64_t prompt_of[3 * N];
	uint32_t key[3 * N];
	struct job j = whole(t), both = j;
	assert_ok(nla_adapter_load(&other, &t->target.lm.arch, t->target.lm.arch.n_layers, TINY "/rl", DEVICE, &err));
	for (int64_t l = 0; l < other.n_layers; l++)
		for (int p = 0; p < NLA_N_PROJ; p++)
			if (other.layers[l][p].A)
				nt_add_into(other.layers[l][p].B, t->rl.layers[l][p].B, -3);
	struct nla_view views[3] = { t->policy, t->policy, t->policy };
	views[1].adapters[views[1].n_adapters - 1] = &other;
	struct nla_decoded free_run = run(t, &j), alone[3], all;
	j.n_stop = common_stops(&free_run, stop);
	j.stop = both.stop = stop;
	both.n_stop = j.n_stop;
	for (int v = 0; v < 3; v++) {
		j.view = &views[v];
		alone[v] = run(t, &j);
		memcpy(prompt_of + v * N, t->prompt_of, sizeof(t->prompt_of));
		memcpy(key + v * N, keys, sizeof(keys));
	}
	assert_memory_not_equal(alone[0].ids, alone[1].ids, N * LONG * sizeof(*alone[0].ids));
	both.view = views;
	both.n_views = 3;
	both.n = 3 * N;
	both.prompt_of = prompt_of;
	both.key = key;
	all = run(t, &both);
	for (int i = 0; i < 3 * N; i++)
		same_row(&alone[i / N], i % N, &all, i);
	for (int v = 0; v < 3; v++)
		nla_decoded_release(&alone[v]);
	nla_decoded_release(&all);
	nla_decoded_release(&free_run);
	nla_adapter_release(&other);
}

/* A row's sample follows from its key, its log-probabilities too: alone, in another order, and beside other rows. Other
 * keys and steps draw otherwise. */
static void test_keys(void **state)
{
	struct tiny *t = *state;
	struct job j = whole(t);
	struct nla_decoded all = run(t, &j), other;
	int64_t prompt_of[N];
	uint32_t key[N];
	for (int i = 0; i < N; i++) {
		struct job one = j;
		one.n = 1;
		one.prompt_of = t->prompt_of + i;
		one.key = keys + i;
		other = run(t, &one);
		same_row(&other, 0, &all, i);
		nla_decoded_release(&other);
		prompt_of[N - 1 - i] = t->prompt_of[i];
		key[N - 1 - i] = keys[i];
	}
	struct job back = j;
	back.prompt_of = prompt_of;
	back.key = key;
	other = run(t, &back);
	for (int i = 0; i < N; i++)
		same_row(&other, N - 1 - i, &all, i);
	nla_decoded_release(&other);
	back = j;
	back.step = 1;
	other = run(t, &back);
	for (int i = 0; i < N; i++) {
		assert_memory_not_equal(other.ids + i * LONG, all.ids + i * LONG, LONG * sizeof(*all.ids));
		for (int k = 0; k < i; k++)
			assert_memory_not_equal(all.ids + i * LONG, all.ids + k * LONG, LONG * sizeof(*all.ids));
	}
	nla_decoded_release(&other);
	nla_decoded_release(&all);
}

/* However late the host looks who has stopped: what a row draws behind its stop is seen by nobody. */
static void same_ahead(struct tiny *t, const struct job *j, const struct nla_decoded *want)
{
	static const int64_t ahead[] = { 1, 3, 8, 2 * LONG };
	for (size_t i = 0; i < NLA_LEN(ahead); i++) {
		struct job late = *j;
		late.ahead = ahead[i];
		struct nla_decoded out = run(t, &late);
		assert_memory_equal(out.ids, want->ids, N * LONG * sizeof(*out.ids));
		assert_memory_equal(out.length, want->length, N * sizeof(*out.length));
		assert_memory_equal(out.stopped, want->stopped, N * sizeof(*out.stopped));
		for (int k = 0; k < N; k++)
			within("log-probabilities, looked at late", worst(out.logprob + k * LONG, want->logprob + k * LONG,
			       (size_t)want->length[k]), 1e-5);
		nla_decoded_release(&out);
	}
}

/*
 * Stop ids end a row at the first of any of them, which counts; behind it is -1. What a row draws up to there is what it draws
 * without stop ids. Two ids that both end some row: leaving either out must show.
 */
static void test_stops(void **state)
{
	struct tiny *t = *state;
	struct job j = whole(t);
	struct nla_decoded all = run(t, &j);
	int32_t stop[2] = { all.ids[0 * LONG + 4], all.ids[5 * LONG + 9] };
	int ended_by[2] = { 0, 0 }, ended = 0;
	assert_int_not_equal(stop[0], stop[1]);
	j.stop = stop;
	j.n_stop = 2;
	struct nla_decoded out = run(t, &j);
	for (int i = 0; i < N; i++) {
		const int32_t *ids = out.ids + i * LONG, *free_ids = all.ids + i * LONG;
		int first = 0;
		while (first < LONG && free_ids[first] != stop[0] && free_ids[first] != stop[1])
			first++;
		bool stopped = first < LONG;
		int length = stopped ? first + 1 : LONG;
		assert_int_equal(out.stopped[i], stopped);
		assert_int_equal(out.length[i], length);
		assert_memory_equal(ids, free_ids, (size_t)length * sizeof(*ids));
		for (int k = length; k < LONG; k++)
			assert_int_equal(ids[k], -1);
		if (stopped)
			ended_by[ids[first] == stop[1]]++;
		ended += stopped;
	}
	assert_true(ended_by[0] > 0 && ended_by[1] > 0 && ended < N);
	same_ahead(t, &j, &out);
	nla_decoded_release(&out);
	j.min_new_tokens = LONG;
	out = run(t, &j);
	assert_memory_equal(out.ids, all.ids, N * LONG * sizeof(*all.ids));
	nla_decoded_release(&out);
	nla_decoded_release(&all);
}

static int64_t graphs_launched(void)
{
	struct sim_counts (*counts)(void) = (struct sim_counts(*)(void))dlsym(RTLD_DEFAULT, "sim_counts");
	return counts ? counts().graphs : 0;
}

/*
 * A GPU draws in graphs, and in fewer rows once that few have not stopped: a row's text is what it is alone and without a graph,
 * for which 16 tokens are too few.
 */
static void test_graphs(void **state)
{
	struct tiny *t = *state;
	int32_t stop[N];
	struct job j = whole(t);
	struct nla_decoded free_run = run(t, &j);
	j.n_stop = common_stops(&free_run, stop);
	j.stop = stop;
	nla_decoded_release(&free_run);
	int64_t launched = graphs_launched();
	struct nla_decoded out = run(t, &j);
	assert_int_equal(graphs_launched() > launched, DEVICE != NT_CPU && !on_card()); /* nothing counts a card's */
	same_ahead(t, &j, &out);
	launched = graphs_launched();
	for (int i = 0; i < N; i++) {
		struct job one = j;
		one.n = 1;
		one.prompt_of = t->prompt_of + i;
		one.key = keys + i;
		one.max_new_tokens = LONG / 2;
		struct nla_decoded alone = run(t, &one);
		size_t length = (size_t)alone.length[0];
		assert_int_equal(length, NLA_MIN(out.length[i], LONG / 2));
		assert_memory_equal(alone.ids, out.ids + i * LONG, length * sizeof(*out.ids));
		assert_true(worst(alone.logprob, out.logprob + i * LONG, length) <= 1e-4);
		nla_decoded_release(&alone);
	}
	assert_int_equal(graphs_launched(), launched);
	nla_decoded_release(&out);
}

/* ---- rollouts ---- */

#define GROUP 24
#define ROWS (B * GROUP)
#define TOKENS 48

static struct nla_step roll(struct tiny *t)
{
	struct nla_rl rl = golden_rl(t, &golden_cfg, NULL);
	struct nla_step step;
	rl.rollout.max_new_tokens = TOKENS;
	rl.rng = (struct nla_rng){ 99, NLA_STREAM_SAMPLE };
	rl.step = 5;
	nla_step_start(&step, B, GROUP, D);
	memcpy(step.v, t->responses.v, B * D * sizeof(*step.v));
	assert_ok(nla_rollout(&rl, &step, &err));
	return step;
}

/* Both of the model's stop ids end rows, each at its own length, and the penalty of a row is that of its own length. */
static void test_rollout_stops(void **state)
{
	struct tiny *t = *state;
	struct nla_step r = roll(t);
	struct nla_reward_cfg cfg = { .score = NLA_REWARD_NEG_MSE, .lambda = 0.002, .fail_mse = 2 };
	int by_turn = 0, by_text = 0, cut = 0, other_penalty = 0;
	double first_penalty = -1;
	assert_int_equal(t->target.chat.stop.n, 2);
	for (int i = 0; i < ROWS; i++) {
		int64_t n = r.tokens.length[i];
		const int32_t *ids = r.tokens.ids + i * TOKENS;
		struct nla_reward_row row = { .n_response = n, .failed = true };
		double penalty = nla_reward_penalty(&row, &cfg);
		for (int64_t k = 0; k + 1 < n; k++)
			assert_false(nla_i32s_has(&t->target.chat.stop, ids[k]));
		assert_int_equal(r.tokens.stopped[i], nla_i32s_has(&t->target.chat.stop, ids[n - 1]));
		assert_int_equal(r.failed[i], r.tokens.stopped[i] ? NLA_ROW_NO_TAGS : NLA_ROW_TRUNCATED); /* a random model */
		assert_close(penalty, 0.002 * (double)n, 1e-12);
		by_turn += r.tokens.stopped[i] && ids[n - 1] == t->target.chat.end_of_turn;
		by_text += r.tokens.stopped[i] && ids[n - 1] != t->target.chat.end_of_turn;
		cut += !r.tokens.stopped[i];
		if (first_penalty < 0)
			first_penalty = penalty;
		other_penalty += i < GROUP && penalty != first_penalty;
	}
	assert_true(by_turn > 0 && by_text > 0 && cut > 0 && other_penalty > 0);
	nla_step_release(&r);
}

/*
 * Nothing stands between the model and the sample, though the checkpoint's generation_config says T 0.6, top_k 20, top_p 0.95:
 * over all tokens -log p less the entropy has the mean zero, within four standard errors, and unlikely tokens are drawn.
 */
static void test_full_distribution(void **state)
{
	struct tiny *t = *state;
	struct nla_step r = roll(t);
	int64_t prompt_of[ROWS];
	struct nla_responses responses = nla_step_responses(&r, 0, ROWS, D, prompt_of);
	size_t n = 0;
	for (int i = 0; i < ROWS; i++)
		n += (size_t)r.tokens.length[i];
	nt_scope_push();
	nt_tensor *entropy_t = NULL, *logp_t = nla_av_logprob(&t->av, &t->policy, &responses, 1, &entropy_t, NULL, &err);
	float *logp = host(logp_t, n), *entropy = host(entropy_t, n);
	double sum = 0, sq = 0, least = 0;
	for (size_t i = 0; i < n; i++) {
		double x = -(double)logp[i] - entropy[i];
		sum += x;
		sq += x * x;
		least = fmin(least, logp[i]);
	}
	assert_true(n > 1000);
	within("mean of -log p less entropy, in standard errors", fabs(sum) / sqrt(sq), 4);
	assert_true(least < -7);
	nt_scope_pop();
	free(logp);
	free(entropy);
	nla_step_release(&r);
}

static void test_read(void **state)
{
	struct tiny *t = *state;
	static const struct {
		const char *text;
		bool stopped;
		int truncated;
		const char *explanation;
		enum nla_failure failed;
	} cases[] = {
		{ "<explanation>\nthe red fox\n</explanation>", true, NLA_TRUNCATED_FAIL, "the red fox", NLA_ROW_OK },
		{ "<explanation>fox</explanation>", false, NLA_TRUNCATED_FAIL, "fox", NLA_ROW_TRUNCATED },
		{ "<explanation>fox</explanation>", false, NLA_TRUNCATED_SCORE, "fox", NLA_ROW_OK },
		{ "<explanation>fox", false, NLA_TRUNCATED_SCORE, NULL, NLA_ROW_TRUNCATED },
		{ "<explanation>fox", true, NLA_TRUNCATED_FAIL, NULL, NLA_ROW_NO_TAGS },
		{ "<explanation> \n </explanation>", true, NLA_TRUNCATED_FAIL, "", NLA_ROW_EMPTY },
		{ "", true, NLA_TRUNCATED_FAIL, NULL, NLA_ROW_NO_TAGS },
	};
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		struct nla_rl rl = golden_rl(t, &golden_cfg, NULL);
		struct nla_i32s ids = { 0 }, own = { 0 };
		struct nla_step s;
		rl.rollout.truncated = cases[i].truncated;
		assert_ok(nla_tokenizer_encode(t->target.tok, cases[i].text, strlen(cases[i].text), &ids, &err));
		if (cases[i].stopped)
			nla_i32s_push(&ids, t->target.chat.stop.data[i % 2]);
		nla_step_start(&s, 1, 1, D);
		nla_decoded_init(&s.tokens, 1, (int64_t)ids.n);
		memcpy(s.tokens.ids, ids.data, ids.n * sizeof(*ids.data));
		s.tokens.length[0] = (int64_t)ids.n;
		s.tokens.stopped[0] = cases[i].stopped;
		assert_ok(nla_rollout_read(&rl, &s, 0, &err));
		assert_string_equal(s.response[0], cases[i].text);
		assert_int_equal(s.failed[0], cases[i].failed);
		assert_int_equal(s.explanation[0] != NULL, cases[i].explanation != NULL);
		if (s.explanation[0]) {
			assert_string_equal(s.explanation[0], cases[i].explanation);
			assert_ok(nla_tokenizer_encode(t->target.tok, s.explanation[0], strlen(s.explanation[0]), &own, &err));
		}
		assert_int_equal(s.n_explanation[0], own.n);
		nla_i32s_release(&ids);
		nla_i32s_release(&own);
		nla_step_release(&s);
	}
}

/* s: the text as it would be sampled, read while the model has ids below `limit` (0: as it has them). */
static void read_text(struct tiny *t, const char *text, size_t n, int32_t limit, struct nla_step *s)
{
	struct nla_rl rl = golden_rl(t, &golden_cfg, NULL);
	struct nla_i32s ids = { 0 };
	assert_ok(nla_tokenizer_encode(t->target.tok, text, n, &ids, &err));
	nla_step_start(s, 1, 1, D);
	nla_decoded_init(&s->tokens, 1, (int64_t)ids.n);
	memcpy(s->tokens.ids, ids.data, ids.n * sizeof(*ids.data));
	s->tokens.length[0] = (int64_t)ids.n;
	rl.rollout.truncated = NLA_TRUNCATED_SCORE;
	nla_tokenizer_limit(t->target.tok, limit ? limit : (int32_t)t->target.lm.arch.vocab);
	assert_ok(nla_rollout_read(&rl, s, 0, &err));
	nla_tokenizer_limit(t->target.tok, (int32_t)t->target.lm.arch.vocab);
	nla_i32s_release(&ids);
}

/* A text is a C string from here on: one that begins with a zero byte is empty. */
static void test_read_zero(void **state)
{
	static const char text[] = "<explanation>\0fox</explanation>";
	struct nla_step s;
	read_text(*state, text, sizeof(text) - 1, 0, &s);
	assert_int_equal(s.failed[0], NLA_ROW_EMPTY);
	nla_step_release(&s);
}

/* One that spells a token which the model lacks is a failed row, and not the run's end. */
static void test_read_unknown(void **state)
{
	static const char text[] = "<explanation>fox</explanation>";
	struct nla_step s;
	read_text(*state, text, sizeof(text) - 1, 1, &s);
	assert_int_equal(s.failed[0], NLA_ROW_UNREADABLE);
	assert_string_equal(s.explanation[0], "fox");
	assert_true(s.n_explanation[0] > 0); /* it pays for its length */
	nla_step_release(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TINY_TEST(test_greedy),
		TINY_TEST(test_same_policy),
		TINY_TEST(test_merged_policy),
		TINY_TEST(test_stored_otherwise),
		TINY_TEST(test_keys),
		TINY_TEST(test_several_views),
		TINY_TEST(test_stops),
		TINY_TEST(test_graphs),
		TINY_TEST(test_rollout_stops),
		TINY_TEST(test_full_distribution),
		TINY_TEST(test_read),
		TINY_TEST(test_read_zero),
		TINY_TEST(test_read_unknown),
	};
	return run_tiny(tests);
}
