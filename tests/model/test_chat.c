/*
 * Chat formats against transformers' apply_chat_template (tests/golden/make_tokenizer_golden.py made the numbers), how the format is
 * told, and the errors where it cannot be.
 */
#include "tokenizer_golden.h"

static struct nla_chat_cfg automatic = { NLA_CHAT_AUTO, "auto" };

static void check_prompts(const struct nla_chat *chat, const struct nla_tokenizer *tok, const cJSON *rows)
{
	struct nla_i32s got = {0}, want = {0};
	struct nla_err err = NLA_ERR_INIT;
	const cJSON *row;

	assert_true(cJSON_GetArraySize(rows) >= 8);
	cJSON_ArrayForEach(row, rows) {
		got.n = 0;
		ids_of(row->child->next, &want);
		assert_int_equal(nla_chat_prompt(chat, tok, row->child->valuestring, &got, &err), NLA_OK);
		expect_ids(row->child->valuestring, &got, &want);
	}
	nla_i32s_release(&got);
	nla_i32s_release(&want);
}

static void chat_load(struct nla_chat *chat, const char *folder, const struct nla_tokenizer *tok, const struct nla_chat_cfg *cfg)
{
	struct nla_err err = NLA_ERR_INIT;

	if (nla_chat_load(chat, folder, tok, cfg, &err))
		fail_msg("%s", err.text);
}

static void test_qwen3(void **state)
{
	char *folder = qwen3_folder();
	struct nla_tokenizer *tok = load(folder);
	cJSON *json = golden("qwen3");
	struct nla_chat chat;

	chat_load(&chat, folder, tok, NULL);
	assert_int_equal(chat.format, NLA_CHAT_CHATML);
	assert_int_equal(chat.end_of_turn, 151645);
	check_prompts(&chat, tok, nla_json_at(json, "chat"));
	nla_chat_release(&chat);
	cJSON_Delete(json);
	nla_tokenizer_free(tok);
	free(folder);
}

static cJSON *cases(void)
{
	struct nla_err err = NLA_ERR_INIT;
	cJSON *json = NULL;

	if (nla_json_read(TEST_DATA "/chat/golden.json", &json, &err))
		fail_msg("%s", err.text);
	return json;
}

/* Writes tokenizer_config.json with the template in it, or, as recent transformers does, beside it. */
static void write_template(const char *template, const char *bos, bool beside)
{
	cJSON *config = cJSON_CreateObject();

	if (bos)
		cJSON_AddStringToObject(config, "bos_token", bos);
	if (!beside)
		cJSON_AddStringToObject(config, "chat_template", template);
	write_json("tokenizer_config.json", config);
	if (beside)
		write_text("chat_template.jinja", template);
	else
		remove_file("chat_template.jinja");
	cJSON_Delete(config);
}

/* Every family's template: without a system message, with one, and with the format given instead of found. */
static void test_templates(void **state)
{
	cJSON *json = cases();
	const cJSON *item;
	int n = 0;

	cJSON_ArrayForEach(item, json) {
		const char *template = nla_json_at(item, "template")->valuestring;
		const cJSON *bos = nla_json_at(item, "bos_token");
		char *folder = nla_format(TOKENIZERS "%s", nla_json_at(item, "tokenizer")->valuestring);
		struct nla_tokenizer *tok = load(folder);

		for (int beside = 0; beside < 2; beside++) {
			struct nla_chat_cfg system = { NLA_CHAT_AUTO, "Be  brief." }, named;
			struct nla_chat chat;

			write_template(template, bos ? bos->valuestring : NULL, beside);
			chat_load(&chat, scratch, tok, &automatic);
			check_prompts(&chat, tok, nla_json_at(item, "plain"));
			named = (struct nla_chat_cfg){ (int)chat.format, "auto" };
			nla_chat_release(&chat);
			chat_load(&chat, scratch, tok, &named);
			check_prompts(&chat, tok, nla_json_at(item, "plain"));
			nla_chat_release(&chat);
			chat_load(&chat, scratch, tok, &system);
			check_prompts(&chat, tok, nla_json_at(item, "system"));
			nla_chat_release(&chat);
			n++;
		}
		nla_tokenizer_free(tok);
		free(folder);
	}
	assert_int_equal(n, 16);
	cJSON_Delete(json);
}

static void expect_prompt(const char *folder, const struct nla_tokenizer *tok, const struct nla_chat_cfg *cfg, const char *want)
{
	struct nla_i32s got = {0}, ids = {0};
	struct nla_err err = NLA_ERR_INIT;
	struct nla_chat chat;

	chat_load(&chat, folder, tok, cfg);
	assert_int_equal(nla_chat_prompt(&chat, tok, " Hi", &got, &err), NLA_OK);
	assert_int_equal(nla_tokenizer_encode(tok, want, strlen(want), &ids, &err), NLA_OK);
	expect_ids(want, &got, &ids);
	nla_i32s_release(&got);
	nla_i32s_release(&ids);
	nla_chat_release(&chat);
}

/* No template, the default system turn left out, and a format that the template is not of. */
static void test_override(void **state)
{
	struct nla_tokenizer *small = load(TOKENIZERS "small"), *llama = load(TOKENIZERS "llama"), *llama2 = load(TOKENIZERS "llama2");
	struct nla_chat_cfg no_system = { NLA_CHAT_AUTO, "" }, chatml = { NLA_CHAT_CHATML, "auto" }, two = { NLA_CHAT_LLAMA2, "auto" };
	cJSON *json = cases();

	expect_prompt(TOKENIZERS "small", small, NULL, "<|im_start|>user\n Hi<|im_end|>\n<|im_start|>assistant\n");
	expect_prompt(TOKENIZERS "llama2", llama2, &two, "<s>[INST] Hi [/INST]");
	write_template("{{ 'Human: ' + messages[0]['content'] }}", NULL, false);
	expect_prompt(scratch, small, &chatml, "<|im_start|>user\n Hi<|im_end|>\n<|im_start|>assistant\n");
	for (int i = 0; i < 8; i++) {
		const cJSON *item = cJSON_GetArrayItem(json, i);
		const char *name = nla_json_at(item, "name")->valuestring;

		const cJSON *bos = nla_json_at(item, "bos_token");

		write_template(nla_json_at(item, "template")->valuestring, bos ? bos->valuestring : NULL, true);
		if (!strcmp(name, "qwen2.5"))
			expect_prompt(scratch, small, &no_system, "<|im_start|>user\n Hi<|im_end|>\n<|im_start|>assistant\n");
		if (!strcmp(name, "llama3.2"))
			expect_prompt(scratch, llama, &no_system, "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
				      "<|start_header_id|>assistant<|end_header_id|>\n\n");
	}
	remove_file("chat_template.jinja");
	remove_file("tokenizer_config.json");
	cJSON_Delete(json);
	nla_tokenizer_free(small);
	nla_tokenizer_free(llama);
	nla_tokenizer_free(llama2);
}

/* ---- stop ids ---- */

static void stops(const char *generation, const char *config, const int32_t *want, size_t n)
{
	struct nla_tokenizer *tok = load(TOKENIZERS "small");
	struct nla_chat chat;

	write_text("generation_config.json", generation);
	write_text("config.json", config);
	chat_load(&chat, scratch, tok, NULL);
	assert_int_equal(chat.end_of_turn, 599);
	assert_int_equal(chat.stop.n, n);
	for (size_t i = 0; i < n; i++)
		assert_true(nla_chat_is_stop(&chat, want[i]));
	assert_false(nla_chat_is_stop(&chat, 598));
	nla_chat_release(&chat);
	nla_tokenizer_free(tok);
}

static void test_stop_ids(void **state)
{
	stops("{\"eos_token_id\": [599, 597]}", "{\"eos_token_id\": 3}", (int32_t[]){ 599, 597 }, 2);
	stops("{\"eos_token_id\": 597}", "{\"eos_token_id\": 3}", (int32_t[]){ 599, 597 }, 2);
	stops("{\"top_k\": 20}", "{\"eos_token_id\": 3}", (int32_t[]){ 599, 3 }, 2);
	stops("{\"eos_token_id\": null}", "{\"eos_token_id\": [3, 4]}", (int32_t[]){ 599, 3, 4 }, 3);
	stops("{}", "{}", (int32_t[]){ 599 }, 1);
}

static void test_bad_stop_ids(void **state)
{
	static const char *const bad[] = { "600", "-1", "1.5", "\"<|im_end|>\"", "[599, 600]", "[[1]]" };
	struct nla_tokenizer *small = load(TOKENIZERS "small");
	struct nla_err err = NLA_ERR_INIT;
	struct nla_chat chat;

	for (size_t i = 0; i < NLA_LEN(bad); i++) {
		char *text = nla_format("{\"eos_token_id\": %s}", bad[i]);

		write_text("generation_config.json", text);
		assert_int_equal(nla_chat_load(&chat, scratch, small, NULL, &err), NLA_FAIL);
		assert_non_null(strstr(err.text, "generation_config.json': 'eos_token_id' has"));
		free(text);
	}
	write_text("generation_config.json", "{}");
	nla_tokenizer_free(small);
}

/* ---- what cannot be told ---- */

static void expect_error(const struct nla_tokenizer *tok, const struct nla_chat_cfg *cfg, const char *message)
{
	struct nla_err err = NLA_ERR_INIT;
	struct nla_chat chat;

	if (!nla_chat_load(&chat, scratch, tok, cfg, &err))
		fail_msg("accepted, want '%s'", message);
	if (!strstr(err.text, message) || !strstr(err.text, scratch))
		fail_msg("'%s', want '%s'", err.text, message);
}

#define TURNS "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
#define OPEN "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
#define HEADER "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] + '<|eot_id|>' }}"
#define CHATML(END) "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + " END " }}{% endfor %}" OPEN
#define HEADERS(END) "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] + " END \
	" }}{% endfor %}" HEADER_OPEN
#define CHANGED "changes a message in another way than to strip it; set 'chat.format'"
#define ANOTHER_TURN "prints a turn in another way; set 'chat.format'"
#define HEADER_OPEN "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"

struct untold {
	const char *template, *message;
};

static void check_untold(const struct nla_tokenizer *tok, const struct untold *bad, size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (int beside = 0; beside < 2; beside++) {
			write_template(bad[i].template, NULL, beside);
			expect_error(tok, &automatic, bad[i].message);
		}
}

/* A user's turn that is not the format's, letter by letter. */
static void test_other_turns(void **state)
{
	static const struct untold bad[] = {
		{ CHATML("'<|im_end|>'"), "it has the tokens of ChatML, but " ANOTHER_TURN },
		{ CHATML("'<|im_end|>' + eos_token"), ANOTHER_TURN },
		{ CHATML("'<|im_end|>' + eos_token + '\\n'"), ANOTHER_TURN },
		{ CHATML("'<|im_end|>\\n' + eos_token"), ANOTHER_TURN },
		{ CHATML("'<|im_end|>\\n\\n'"), ANOTHER_TURN },
		{ CHATML("'<|im_end|>' + ('\\n' if not loop.last else '')"), ANOTHER_TURN },
		{ CHATML("'\\n<|im_end|>\\n'"), ANOTHER_TURN },
		{ CHATML("'<|im_end|>' }}{% if not loop.last %}{{ '\\n' }}{% endif %}{{ ''"), ANOTHER_TURN },
		{ "{% for m in messages %}\n{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}\n{% endfor %}\n" OPEN, ANOTHER_TURN },
		{ "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ':\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}" OPEN, ANOTHER_TURN },
		{ "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\nQ: ' + m['content'] + '<|im_end|>\\n' }}{% endfor %}" OPEN, ANOTHER_TURN },
		{ "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
		  "{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}" OPEN, ANOTHER_TURN },
		{ "{% for m in messages %}\n  {{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}" OPEN, ANOTHER_TURN },
		{ "{% for m in messages %}{{ today }}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}" OPEN, ANOTHER_TURN },
		{ "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.role + m.content + '<|im_end|>\\n' }}{% endfor %}" OPEN, ANOTHER_TURN },
		{ "{% for m in messages %}{{ ('<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n') | trim }}{% endfor %}" OPEN, ANOTHER_TURN },
		{ "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content.lstrip() + '<|im_end|>\\n' }}{% endfor %}" OPEN, CHANGED },
		{ "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m['content'] | upper + '<|im_end|>\\n' }}{% endfor %}" OPEN, CHANGED },
		{ "{% for m in messages %}{{ '<|im_start|>' + m.role | capitalize + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}" OPEN, CHANGED },
		{ "{% set content = m.content | trim | lower %}" TURNS OPEN, CHANGED },
		{ HEADERS("'<|eot_id|>\\n'"), "it has the tokens of Llama 3, but " ANOTHER_TURN },
		{ HEADERS("'<|eot_id|>' + eos_token"), ANOTHER_TURN },
		{ HEADERS("'\\n<|eot_id|>'"), ANOTHER_TURN },
		{ HEADERS("'<|eot_id|>' }}\n{{ ''"), ANOTHER_TURN },
		{ "{{ bos_token + '[INST] ' + '<<SYS>>\\n' }}{{ '[INST] ' + messages[0]['content'] + ' [/INST]' + ' ' }}", ANOTHER_TURN },
	};
	struct nla_tokenizer *small = load(TOKENIZERS "small");

	check_untold(small, bad, NLA_LEN(bad));
	remove_file("chat_template.jinja");
	remove_file("tokenizer_config.json");
	nla_tokenizer_free(small);
}

static void test_untold(void **state)
{
	static const struct untold bad[] = {
		{ "{{ 'Human: ' + messages[0]['content'] }}", "its template is not ChatML, Llama 3's or Llama 2's; set 'chat.format'" },
		{ "{# <|im_start|> <|im_end|> #}x", "is not ChatML" },
		{ "", "is not ChatML" },
		{ "{{ '[INST] ' + messages[0]['content'] + ' [/INST]' }}", "is not ChatML" },
		{ TURNS "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}",
		  "it has the tokens of ChatML, but opens the assistant's turn in another way" },
		{ TURNS OPEN "{{ 'Sure' }}", "opens the assistant's turn in another way" },
		{ TURNS "{% if add_generation_prompt %}{{ '<|im_start|>bot\\n' }}{% endif %}", "opens the assistant's turn in another way" },
		{ TURNS, "opens the assistant's turn in another way" },
		{ "{% set system_message = 'Be good.' %}" TURNS OPEN, "its template sets one in a way we do not know; set 'chat.system'" },
		{ "{{ '<|im_start|>system\\nA<|im_end|>\\n' }}{{ '<|im_start|>system\\nB<|im_end|>\\n' }}" TURNS OPEN, "set 'chat.system'" },
		{ "{{ '<|im_start|>system\\nToday is ' + today + '<|im_end|>\\n' }}" TURNS OPEN, "set 'chat.system'" },
		{ "{{ '<|im_start|>system\\n' }}{{ today }}{{ '<|im_end|>\\n' }}" TURNS OPEN, "set 'chat.system'" },
		{ "{% if tools %}x{% else %}{{ '<|im_start|>system\\n' }}{% endif %}" TURNS OPEN, "set 'chat.system'" },
		{ "{{ 'Cutting Knowledge Date: x' + today }}{% for m in messages %}" HEADER "{% endfor %}" HEADER_OPEN, "it prints a date in a way we do not know" },
		{ "{{ 'unclosed", "is not ChatML" },
	};
	struct nla_tokenizer *small = load(TOKENIZERS "small"), *llama = load(TOKENIZERS "llama"), *llama2 = load(TOKENIZERS "llama2");
	struct nla_chat_cfg given = { NLA_CHAT_AUTO, "" }, three = { NLA_CHAT_LLAMA3, "auto" };
	struct nla_chat chat;

	check_untold(small, bad, NLA_LEN(bad));
	write_template("{% set system_message = 'Be good.' %}" TURNS OPEN, NULL, true);
	chat_load(&chat, scratch, small, &given);
	nla_chat_release(&chat);

	write_template(HEADER HEADER_OPEN, NULL, true);
	expect_error(small, NULL, "cannot use the Llama 3 chat format with");
	write_text("tokenizer_config.json", "{\"chat_template\": ");
	expect_error(small, NULL, "tokenizer_config.json");
	remove_file("chat_template.jinja");
	remove_file("tokenizer_config.json");
	expect_error(small, &three, "its tokenizer has no token '<|start_header_id|>'");
	expect_error(llama2, NULL, "it has no chat template, and its tokenizer neither ChatML's nor Llama 3's tokens; set 'chat.format'");
	nla_tokenizer_free(small);
	nla_tokenizer_free(llama);
	nla_tokenizer_free(llama2);
}

/* Templates that print a plain prompt in their own way: where the white space goes, and where the bos comes from. */
static void test_printed(void **state)
{
#define PLAIN "<|im_start|>user\n Hi<|im_end|>\n<|im_start|>assistant\n"
#define STRIPPED "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
#define BRANCH(COND, VALUE) "{%- if " COND " %}{{ '<|im_start|>' + m.role + '\\n' + " VALUE " + '<|im_end|>\\n' }}"
#define ELSE(VALUE) "{%- else %}{{ '<|im_start|>' + m.role + '\\n' + " VALUE " + '<|im_end|>\\n' }}{%- endif %}"
#define LOOP(INNER) "{% for m in messages %}" INNER "{% endfor %}" OPEN
	static const struct {
		const char *template, *bos, *want;
	} good[] = {
		{ TURNS OPEN, "<|im_start|>", PLAIN },
		{ LOOP("{{ '<|im_start|>' + m['role'] + '\\n' + m['content']}}{% if loop.last or not loop.last %}{{ '<|im_end|>' + '\\n'}}{% endif %}"),
		  NULL, PLAIN },
		{ LOOP(BRANCH("m.role == 'assistant'", "m.content + '<|x|>'") ELSE("m.content")), NULL, PLAIN },
		{ LOOP("\n    {%- if true %}\n        {{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' -}}\n    {% endif %}\n"), NULL, PLAIN },
		{ LOOP("\n    {%- if true %}\n        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}    {%- endif %}\n"), NULL, PLAIN },
		/* a trim that is not the user's */
		{ LOOP(BRANCH("m.role == 'user'", "m.content") ELSE("m.content | trim")), NULL, PLAIN },
		{ LOOP(BRANCH("m['role'] == \"assistant\" or m.role == 'tool'", "m.content.strip()") ELSE("m.content")), NULL, PLAIN },
		{ LOOP(BRANCH("m.role != 'user'", "m['content'] | trim") ELSE("m['content']")), NULL, PLAIN },
		{ "{# m.content | trim #}" TURNS OPEN, NULL, PLAIN },
		{ LOOP(BRANCH("m.role == 'user'", "m.content | trim") ELSE("m.content")), NULL, STRIPPED },
		{ LOOP(BRANCH("not (m.role == 'tool' or 'calls' in m)", "m.content.strip()") ELSE("m.content")), NULL, STRIPPED },
		{ LOOP("{% set content = m['content'] | trim %}{{ '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}"), NULL, STRIPPED },
		/* bos_token */
		{ "{{ bos_token }}" TURNS OPEN, "<|im_end|>", "<|im_end|>" PLAIN },
		{ "{{ bos_token }}" TURNS OPEN, NULL, PLAIN },
		{ "{# bos_token #}" TURNS OPEN, "<|im_end|>", PLAIN },
		{ "{% if bos_token %}{% endif %}" TURNS OPEN, "<|im_end|>", PLAIN },
	};
	struct nla_tokenizer *small = load(TOKENIZERS "small");

	for (size_t i = 0; i < NLA_LEN(good); i++) {
		write_template(good[i].template, good[i].bos, true);
		expect_prompt(scratch, small, &automatic, good[i].want);
	}
	write_text("special_tokens_map.json", "{\"bos_token\": {\"content\": \"<|im_end|>\"}}");
	write_template("{{ bos_token }}" TURNS OPEN, NULL, true);
	expect_prompt(scratch, small, &automatic, "<|im_end|>" PLAIN);
	remove_file("special_tokens_map.json");
	remove_file("chat_template.jinja");
	remove_file("tokenizer_config.json");
	nla_tokenizer_free(small);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_qwen3), cmocka_unit_test(test_templates), cmocka_unit_test(test_override), cmocka_unit_test(test_stop_ids),
		cmocka_unit_test(test_bad_stop_ids), cmocka_unit_test(test_untold), cmocka_unit_test(test_other_turns), cmocka_unit_test(test_printed),
	};

	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
