/* sidecar: both versions and other stacks' spellings are read, what is written reads back, wrong files are named. */
#include "scratch.h"

#include "nla/sidecar.h"

static struct nla_err err;

static enum nla_status parse(struct nla_sidecar *s, const char *text)
{
	put_text("nla_meta.yaml", text);
	return nla_sidecar_read(s, scratch, &err);
}

/* Names of version 1, block scalars, escaped characters. */
static void test_version_1(void **state)
{
	struct nla_sidecar s;

	assert_ok(parse(&s,
		"kind: nla_model\n"
		"schema_version: 1\n"
		"role: actor\n"
		"stage: rl\n"
		"created_by: {tool: other, list: [1, 2]}\n"
		"d_model: 4096\n"
		"extraction:\n"
		"  layer_index: 24\n"
		"  injection_scale: 150.5\n"
		"tokens:\n"
		"  injection_char: \"\\u320E\"\n"
		"  injection_token_id: 149705\n"
		"  injection_left_neighbor_id: 29\n"
		"  injection_right_neighbor_id: 522\n"
		"  critic_suffix_ids: null\n"
		"prompt_templates:\n"
		"  actor: |\n"
		"    You see a vector.\n"
		"\n"
		"    <concept>{injection_char}</concept>\n"));
	assert_string_equal(s.kind, "nla_model");
	assert_string_equal(s.role, "av");
	assert_string_equal(s.stage, "rl");
	assert_null(s.base_checkpoint);
	assert_int_equal(s.d_model, 4096);
	assert_int_equal(s.layer, 24);
	assert_int_equal(s.critic_layer, -1);
	assert_int_equal(s.injection_scale.kind, NLA_SCALE_NUMBER);
	assert_true(nla_scale_value(&s.injection_scale, 4096) == 150.5);
	assert_true(nla_scale_value(&s.mse_scale, 4096) == 64);
	assert_int_equal(s.inject, NLA_INJECT_EMBED_REPLACE);
	assert_string_equal(s.marker, "\xe3\x88\x8e");
	assert_int_equal(s.marker_id, 149705);
	assert_int_equal(s.left_id, 29);
	assert_int_equal(s.right_id, 522);
	assert_int_equal(s.suffix.n, 0);
	assert_string_equal(s.av_template, "You see a vector.\n\n<concept>{injection_char}</concept>\n");
	assert_null(s.ar_template);
	assert_true(isnan(s.baseline_var));
	nla_sidecar_release(&s);
}

/* Flow style, plain characters beyond ASCII, folded lines. */
static void test_version_2(void **state)
{
	struct nla_sidecar s;

	assert_ok(parse(&s,
		"{kind: nla_model, schema_version: 2, role: ar, base_checkpoint: Qwen/Qwen3-8B, d_model: 64,\n"
		" extraction: {layer_index: 3, injection_scale: null, mse_scale: sqrt_d_model},\n"
		" tokens: {injection_char: \xe3\x88\x8e, critic_suffix_ids: &ids [1318, 29, 366]}, others: *ids,\n"
		" prompt_templates: {ar: 'Summary: {explanation}\n\n  <summary>'}, critic: {extraction_layer_index: 3}}\n"));
	assert_string_equal(s.role, "ar");
	assert_string_equal(s.base_checkpoint, "Qwen/Qwen3-8B");
	assert_int_equal(s.inject, NLA_INJECT_RESIDUAL_ADD);
	assert_int_equal(s.injection_scale.kind, NLA_SCALE_NULL);
	assert_true(nla_scale_value(&s.injection_scale, 64) == 0);
	assert_string_equal(s.marker, "\xe3\x88\x8e");
	assert_int_equal(s.suffix.n, 3);
	assert_int_equal(s.suffix.data[2], 366);
	assert_int_equal(s.critic_layer, 3);
	assert_string_equal(s.ar_template, "Summary: {explanation}\n<summary>");
	nla_sidecar_release(&s);
}

/* Other stacks keep a data set's width and the model's name below extraction. */
static void test_data_set(void **state)
{
	struct nla_sidecar s;

	assert_ok(parse(&s, "kind: nla_dataset\nrow_count: 20000\n"
			    "extraction: {base_model: Qwen/Qwen3-8B, d_model: 8, norm: none, layer_index: 0, "
			    "mse_scale: null, injection_scale: sqrt_d_model, injection_mode: residual_add}\n"));
	assert_null(s.role);
	assert_int_equal(s.d_model, 8);
	assert_int_equal(s.layer, 0);
	assert_string_equal(s.base_checkpoint, "Qwen/Qwen3-8B");
	assert_int_equal(s.n_rows, 20000);
	assert_int_equal(s.mse_scale.kind, NLA_SCALE_NULL);
	assert_int_equal(s.injection_scale.kind, NLA_SCALE_SQRT_D);
	assert_int_equal(s.inject, NLA_INJECT_RESIDUAL_ADD);
	nla_sidecar_release(&s);
}

/* The whole key set of a released AV and its AR (kitft's writer: resolved scales, no layer in extraction, provenance). */
static void test_released(void **state)
{
	struct nla_sidecar s;
	static const char *const shared =
		"schema_version: 2\nstage: rl\nbase_checkpoint: /models/base\nd_model: 3584\n"
		"tokens:\n  injection_char: \xe3\x8a\x97\n  injection_token_id: 149705\n  injection_left_neighbor_id: 29\n"
		"  injection_right_neighbor_id: 522\n  critic_suffix_ids:\n  - 1318\n  - 29\n"
		"prompt_templates:\n  actor: 'A <c>{injection_char}</c>.'\n  critic: 'S: {explanation} T'\n"
		"trained_on: [{path: a.parquet, rows: 5}]\nparent_checkpoints: {actor: null}\n"
		"created_at: '2026-01-02T03:04:05+00:00'\ncreated_by: x\ntraining: {lr: 1.0e-05}\n";
	char *av = nla_format("kind: nla_model\nrole: av\nextraction:\n  injection_scale: 150.0\n  mse_scale: 59.866518188383\n%s", shared);
	char *ar = nla_format("kind: nla_model\nrole: critic\nextraction:\n  injection_scale: null\n  mse_scale: 59.866518188383\n"
			      "%scritic:\n  extraction_layer_index: 20\n  final_norm: true\n", shared);

	assert_ok(parse(&s, av));
	assert_string_equal(s.role, "av");
	assert_int_equal(s.inject, NLA_INJECT_EMBED_REPLACE);
	assert_true(s.injection_scale.value == 150 && s.layer == -1 && s.critic_layer == -1 && !s.final_norm);
	assert_true(fabs(s.mse_scale.value - 59.866518188383) < 1e-12);
	assert_string_equal(s.av_template, "A <c>{injection_char}</c>.");
	assert_string_equal(s.base_checkpoint, "/models/base");
	assert_null(s.base_folder);
	nla_sidecar_release(&s);
	assert_ok(parse(&s, ar));
	assert_string_equal(s.role, "ar");
	assert_int_equal(s.injection_scale.kind, NLA_SCALE_NULL);
	assert_true(s.critic_layer == 20 && s.final_norm && s.suffix.n == 2);
	nla_sidecar_release(&s);
	free(av);
	free(ar);
}

/* A data set's, which nanoNLA also copies beside the adapters that it trains. */
static void test_published_set(void **state)
{
	struct nla_sidecar s;

	assert_ok(parse(&s,
		"dataset_id: set_L24\nstage: av_sft\nrow_count: 100\nkind: nla_dataset\nschema_version: 1\nkeep_debug_metadata: true\n"
		"extraction: {base_model: Qwen/Qwen3-8B, d_model: 4096, layer_index: 24, norm: none, injection_scale: raw}\n"
		"tokens: {injection_char: \"\\u320e\", injection_token_id: 149705, injection_left_neighbor_id: 29,\n"
		"  injection_right_neighbor_id: 522, critic_suffix_ids: null}\n"
		"prompt_templates: {actor: \"<c>{injection_char}</c>\"}\ncreated_at: 2026-01-02T03:04:05+00:00\ncreated_by: stage3\n"));
	assert_true(s.layer == 24 && s.d_model == 4096 && s.marker_id == 149705 && s.suffix.n == 0);
	assert_int_equal(s.inject, NLA_INJECT_RESIDUAL_ADD); /* no scale: norm-matched addition */
	assert_null(s.role);
	assert_null(s.ar_template);
	nla_sidecar_release(&s);
}

/* The same facts as others spell them. */
static void test_spellings(void **state)
{
	struct nla_sidecar s;

	assert_ok(parse(&s,
		"kind: NLA_Model\nrole: AR\nstage: on\nd_model: 4096.0\nbase_checkpoint: null\nrow_count: ~\n"
		"extraction: {d_model: '4096', layer_index: \"24\", injection_scale: '150.5', mse_scale: SQRT_D_MODEL, injection_mode: Embed_Replace, norm: None}\n"
		"tokens: {injection_char: '7', injection_token_id: 1.49705e5, critic_suffix_ids: ['1318', 29.0]}\n"
		"critic: {extraction_layer_index: 24, final_norm: True}\nbaseline: {raw_variance: '0.5', mean_normalised: 1}\n"));
	assert_string_equal(s.kind, "nla_model");
	assert_string_equal(s.role, "ar");
	assert_string_equal(s.stage, "on");
	assert_string_equal(s.marker, "7");
	assert_null(s.base_checkpoint);
	assert_true(s.d_model == 4096 && s.layer == 24 && s.n_rows == -1 && s.marker_id == 149705 && s.final_norm);
	assert_true(s.injection_scale.value == 150.5 && s.inject == NLA_INJECT_EMBED_REPLACE);
	assert_int_equal(s.mse_scale.kind, NLA_SCALE_SQRT_D);
	assert_true(s.suffix.n == 2 && s.suffix.data[0] == 1318 && s.suffix.data[1] == 29);
	assert_true(s.baseline_var == 0.5 && s.baseline_mean == 1);
	nla_sidecar_release(&s);
}

#define HEAD "kind: nla_model\nd_model: 8\n"

static void test_wrong(void **state)
{
	static const char *const cases[][2] = {
		{ "", "it is empty" },
		{ "- 1\n", "is an array, want an object" },
		{ "kind: [\n", "line 2: " },
		{ "kind: other\nd_model: 8\n", "'kind' is 'other', want one of nla_model|nla_dataset" },
		{ "kind: nla_model\nd_model: wide\n", "'d_model' is a string, want an integer" },
		{ "kind: nla_model\nd_model: 0\n", "'d_model' is 0, want 1 to " },
		{ HEAD "schema_version: 3\n", "'schema_version' is 3, want 1 or 2" },
		{ HEAD "role: judge\n", "'role' is 'judge', want one of av|ar" },
		{ HEAD "extraction: {d_model: 9}\n", "'d_model' is 8, but 'extraction.d_model' is 9" },
		{ HEAD "extraction: [1]\n", "'extraction' is an array, want an object" },
		{ HEAD "extraction: {layer_index: -2}\n", "'extraction.layer_index' is -2, want 0 to " },
		{ HEAD "extraction: {layer_index: 9223372036854775807}\n", "'extraction.layer_index' is 9.223372037e+18, want an integer" },
		{ HEAD "critic: {extraction_layer_index: 4294967296}\n", "'critic.extraction_layer_index' is 4294967296, want 0 to 2147483647" },
		{ HEAD "extraction: {layer_index: 1}\nstage: a\nextraction: {layer_index: 2}\n", "line 5: key 'extraction' is there twice" },
		{ HEAD "tokens: {injection_char: a, injection_char: a}\n", "key 'injection_char' is there twice" },
		{ HEAD "others: {x: {y: 1, y: 2}}\n", "key 'y' is there twice" },
		{ HEAD "extraction: {layer_index: 1.5}\n", "'extraction.layer_index' is 1.5, want an integer" },
		{ HEAD "extraction: {layer_index: 3}\ncritic: {extraction_layer_index: 4}\n",
		  "'extraction.layer_index' is 3, but 'critic.extraction_layer_index' is 4" },
		{ HEAD "extraction: {injection_scale: big}\n", "'extraction.injection_scale' is not null, a positive number" },
		{ HEAD "extraction: {mse_scale: -1}\n", "'extraction.mse_scale' is not null, a positive number" },
		{ HEAD "extraction: {mse_scale: [1]}\n", "'extraction.mse_scale' is not null, a positive number" },
		{ HEAD "extraction: {injection_mode: add}\n", "'extraction.injection_mode' is 'add', want one of residual_add|" },
		{ HEAD "extraction: {injection_mode: embed_replace}\n", "there is no injection_scale" },
		{ HEAD "extraction: {norm: whitened_zca_v1}\n", "'extraction.norm' is 'whitened_zca_v1', want none" },
		{ HEAD "tokens: {injection_char: ''}\n", "'tokens.injection_char' is empty" },
		{ HEAD "tokens: {injection_char: \"a\\0b\"}\n", "line 3: a NUL character" },
		{ HEAD "tokens: {injection_token_id: 4294967296}\n", "'tokens.injection_token_id' is 4294967296, want 0 to 2147483647" },
		{ HEAD "tokens: {critic_suffix_ids: 7}\n", "'tokens.critic_suffix_ids' is not a list of token ids" },
		{ HEAD "tokens: {critic_suffix_ids: [7, x]}\n", "'tokens.critic_suffix_ids' is not a list of token ids" },
		{ HEAD "prompt_templates: {av: [a]}\n", "'prompt_templates.av' is an array, want a string" },
		{ HEAD "prompt_templates: {ar: 'As {{x}}: {explanation}'}\n", "'prompt_templates.ar' has doubled braces" },
		{ HEAD "prompt_templates: {av: hello}\n", "'prompt_templates.av': template has '{injection_char}' nowhere" },
		{ HEAD "prompt_templates: {ar: '{explanation} {explanation}'}\n", "'prompt_templates.ar': template has '{explanation}' more than once" },
		{ HEAD "chat: {format: [a]}\n", "'chat.format' is an array, want a string" },
		{ HEAD "baseline: {raw_variance: x}\n", "'baseline.raw_variance' is a string, want a number" },
		{ HEAD "x: &a [1, *a]\n", "nested too deeply" },
		{ HEAD "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b]\n"
		  "d: &d [*c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e, *e, *e]\n", "too many values" },
		{ HEAD "baseline: {raw_variance: -1}\n", "a variance in 'baseline' is below 0" },
	};
	static const char *const deep[] = { "[", "{a: ", "{? ", "- " };
	struct nla_sidecar s;

	for (size_t i = 0; i < NLA_LEN(deep); i++) { /* at once: libyaml alone takes minutes */
		struct nla_str text = NLA_STR_INIT;
		for (int n = 0; n < 60000; n++)
			nla_str_add(&text, deep[i]);
		assert_fails(parse(&s, text.buf), "nested too deeply");
		nla_str_release(&text);
	}
	struct nla_str anchors = NLA_STR_INIT; /* so it does with these */
	for (int n = 0; n < 400000; n++)
		nla_str_addf(&anchors, "- &a%d x\n", n);
	assert_fails(parse(&s, anchors.buf), "larger than 256 KiB");
	nla_str_release(&anchors);
	for (size_t i = 0; i < NLA_LEN(cases); i++) {
		assert_fails(parse(&s, cases[i][0]), cases[i][1]);
		assert_non_null(strstr(err.text, "nla_meta.yaml"));
	}
	assert_fails(nla_sidecar_read(&s, in_scratch("nowhere"), &err), "there is no folder '");
	assert_ok(nla_mkdirs(in_scratch("bare"), &err));
	assert_fails(nla_sidecar_read(&s, in_scratch("bare"), &err), "bare/nla_meta.yaml', which says block, templates and marker");
}

/* What a use needs is named at once; either name of the block will do. */
static void test_need(void **state)
{
	struct nla_sidecar s;

	assert_ok(parse(&s, "role: av\n"));
	assert_fails(nla_sidecar_need(&s, NLA_NEED_ANY | NLA_NEED_AV, "a", &err),
		     "'a' lacks kind, d_model, tokens.injection_char, prompt_templates.av: add");
	assert_fails(nla_sidecar_need(&s, NLA_NEED_AR | NLA_NEED_BLOCK, "a", &err), "lacks extraction.layer_index, prompt_templates.ar:");
	nla_sidecar_release(&s);
	assert_ok(parse(&s, HEAD "critic: {extraction_layer_index: 0}\n"));
	assert_ok(nla_sidecar_need(&s, NLA_NEED_ANY | NLA_NEED_BLOCK, "a", &err));
	nla_sidecar_release(&s);
}

static void fill(struct nla_sidecar *s)
{
	nla_sidecar_init(s);
	s->kind = nla_strdup("nla_dataset");
	s->role = nla_strdup("av");
	s->stage = nla_strdup("a \"stage\" # with \\ signs: yes");
	s->base_checkpoint = nla_strdup("null");
	s->base_folder = nla_strdup("../whole");
	s->final_norm = true;
	s->d_model = 16;
	s->layer = 0;
	s->critic_layer = 0;
	s->injection_scale = (struct nla_scale){ NLA_SCALE_NUMBER, 1e-5 };
	s->mse_scale.kind = NLA_SCALE_NULL;
	s->inject = NLA_INJECT_RESIDUAL_ADD;
	s->marker = nla_strdup("\xe3\x88\x8e");
	s->marker_id = 5;
	s->left_id = 0;
	s->right_id = INT32_MAX;
	nla_i32s_append(&s->suffix, (const int32_t[]){ 3, 1, 2 }, 3);
	s->av_template = nla_strdup("  lead\n\ttab\r\n{injection_char}"
				    "\xc2\x85\xe2\x80\xa8\xef\xbb\xbf\x7f\x01 \xf0\x9f\xa6\x8a \n\n");
	s->ar_template = nla_strdup("{explanation}");
	s->baseline_var = 0.1;
	s->baseline_mean = 2.0 / 3;
	s->n_rows = 0;
	s->tokenizer_crc = 4294967295;
	nla_sidecar_chat(s, "chatml", "", "<|im_start|>user\n", " \"<|im_end|>\"\n");
}

static void assert_same(const struct nla_sidecar *a, const struct nla_sidecar *b)
{
	assert_string_equal(a->kind, b->kind);
	assert_string_equal(a->role, b->role);
	assert_string_equal(a->stage, b->stage);
	assert_string_equal(a->base_checkpoint, b->base_checkpoint);
	assert_string_equal(a->base_folder, b->base_folder);
	assert_int_equal(a->final_norm, b->final_norm);
	assert_string_equal(a->marker, b->marker);
	assert_string_equal(a->av_template, b->av_template);
	assert_string_equal(a->ar_template, b->ar_template);
	assert_string_equal(a->chat_format, b->chat_format);
	assert_string_equal(a->chat_system, b->chat_system); /* no system turn is not the same as no word of it */
	assert_string_equal(a->chat_before, b->chat_before);
	assert_string_equal(a->chat_after, b->chat_after);
	assert_true(a->d_model == b->d_model && a->layer == b->layer && a->critic_layer == b->critic_layer);
	assert_true(a->injection_scale.kind == b->injection_scale.kind && a->injection_scale.value == b->injection_scale.value);
	assert_true(a->mse_scale.kind == b->mse_scale.kind && a->inject == b->inject);
	assert_true(a->marker_id == b->marker_id && a->left_id == b->left_id && a->right_id == b->right_id);
	assert_int_equal(a->suffix.n, b->suffix.n);
	assert_memory_equal(a->suffix.data, b->suffix.data, a->suffix.n * sizeof(int32_t));
	assert_true(a->baseline_var == b->baseline_var && a->baseline_mean == b->baseline_mean);
	assert_true(a->n_rows == b->n_rows && a->tokenizer_crc == b->tokenizer_crc);
}

/* What is absent is not written as what a reader refuses. */
static void test_almost_empty(void **state)
{
	struct nla_sidecar a, b;
	nla_sidecar_init(&a);
	assert_ok(nla_sidecar_write(&a, scratch, &err));
	assert_ok(nla_sidecar_read(&b, scratch, &err));
	assert_true(b.d_model == 0 && b.layer == -1 && b.n_rows == -1 && b.marker_id == -1 && !b.kind);
	nla_sidecar_release(&b);
}

static void test_round_trip(void **state)
{
	struct nla_sidecar a, b, c;
	struct nla_str text = NLA_STR_INIT;

	fill(&a);
	assert_ok(nla_sidecar_write(&a, scratch, &err));
	assert_ok(nla_sidecar_read(&b, scratch, &err));
	assert_same(&a, &b);
	nla_sidecar_init(&c);
	c.stage = nla_strdup("another"); /* what it had goes */
	nla_sidecar_copy(&c, &b);
	nla_sidecar_release(&b);
	assert_same(&a, &c);
	assert_ok(nla_file_read(in_scratch("nla_meta.yaml"), &text, &err));
	assert_non_null(strstr(text.buf, "injection_scale: 1.0e-05\n")); /* 1e-05 is a string to YAML 1.1 */
	for (size_t i = 0; i < text.len; i++)
		assert_true(text.buf[i] == '\n' || (text.buf[i] >= ' ' && text.buf[i] < 0x7f));
	nla_str_release(&text);
	free(c.stage);
	c.stage = nla_strdup("\xff");
	assert_fails(nla_sidecar_write(&c, scratch, &err), "'stage' is not valid UTF-8");
	nla_sidecar_release(&a);
	nla_sidecar_release(&c);

	/* the least there can be: what is absent stays absent */
	a.kind = nla_strdup("nla_model");
	a.d_model = 4;
	assert_ok(nla_sidecar_write(&a, scratch, &err));
	assert_ok(nla_sidecar_read(&b, scratch, &err));
	assert_true(!b.role && !b.stage && !b.base_checkpoint && !b.marker && !b.av_template && !b.ar_template && !b.suffix.n && !b.chat_format && !b.chat_system);
	assert_true(b.layer == -1 && b.critic_layer == -1 && b.marker_id == -1 && b.left_id == -1 && b.right_id == -1);
	assert_true(isnan(b.baseline_var) && isnan(b.baseline_mean) && b.n_rows == -1 && b.tokenizer_crc == -1);
	assert_int_equal(b.mse_scale.kind, NLA_SCALE_SQRT_D);
	assert_int_equal(b.inject, NLA_INJECT_RESIDUAL_ADD);
	nla_sidecar_release(&a);
	nla_sidecar_release(&b);
}

static void test_template(void **state)
{
	char *out;

	assert_ok(nla_template_fill("a {x} %s {y}", "x", "{x} %d", &out, &err));
	assert_string_equal(out, "a {x} %d %s {y}");
	free(out);
	assert_ok(nla_template_fill("{x}", "x", "", &out, &err));
	assert_string_equal(out, "");
	free(out);
	assert_fails(nla_template_fill("a", "x", "v", &out, &err), "'{x}' nowhere");
	assert_null(out);
	assert_fails(nla_template_fill("{x}{x}", "x", "v", &out, &err), "'{x}' more than once");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_version_1),
		cmocka_unit_test(test_version_2),
		cmocka_unit_test(test_data_set),
		cmocka_unit_test(test_released),
		cmocka_unit_test(test_published_set),
		cmocka_unit_test(test_spellings),
		cmocka_unit_test(test_wrong),
		cmocka_unit_test(test_need),
		cmocka_unit_test(test_almost_empty), cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_template),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
