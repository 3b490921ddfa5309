/*
 * Chat formats against transformers' apply_chat_template (tests/golden/make_tokenizer_golden.py made the numbers): known templates,
 * templates by their turn markers, nla_chat.json, and the errors where none of them decides. What scripts/chat-format.py makes of odd
 * templates is in tests/command/test_chat_format.py.
 */
#include "base/progress.h"
#include "tokenizer_golden.h"

static struct nla_chat_cfg automatic = { NLA_CHAT_AUTO, "auto", "", 0, NULL };

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

	chat_load(&chat, folder, tok, &automatic);
	assert_int_equal(chat.format, NLA_CHAT_CHATML);
	assert_int_equal(chat.end_of_turn, 151645);
	assert_true(chat.own && chat.thinks);
	check_prompts(&chat, tok, nla_json_at(json, "chat"));
	for (int i = 0; i < 2; i++) { /* a second time it is no news */
		nla_chat_no_thinking(&chat);
		assert_string_equal(chat.after, "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
	}
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

static void expect_prompts(const struct nla_chat_cfg *cfg, const struct nla_tokenizer *tok, const cJSON *rows)
{
	struct nla_chat chat;

	chat_load(&chat, scratch, tok, cfg);
	check_prompts(&chat, tok, rows);
	nla_chat_release(&chat);
}

/* Format and system turn by name, as a sidecar keeps them, give the same prompts. */
static void expect_again(const struct nla_chat_cfg *cfg, const struct nla_tokenizer *tok)
{
	struct nla_chat chat, again;

	chat_load(&chat, scratch, tok, cfg);
	const struct nla_chat_cfg named = { (int)chat.format, chat.system, "", 0, NULL };
	chat_load(&again, scratch, tok, &named);
	assert_string_equal(again.before, chat.before);
	assert_string_equal(again.after, chat.after);
	assert_true(again.own == chat.own && chat.own == (cfg == &automatic && !strstr(chat.before, "26 Jul 2024")));
	nla_chat_release(&chat);
	nla_chat_release(&again);
}

/* Every family's template: without a system message, with one, and with the format given instead of found. */
static void test_templates(void **state)
{
	cJSON *json = cases();
	const cJSON *item;
	int n = 0, trimmed = 0;

	cJSON_ArrayForEach(item, json) {
		const char *template = nla_json_at(item, "template")->valuestring;
		const cJSON *bos = nla_json_at(item, "bos_token");
		char *folder = nla_format(TOKENIZERS "%s", nla_json_at(item, "tokenizer")->valuestring);
		struct nla_tokenizer *tok = load(folder);

		for (int beside = 0; beside < 2; beside++) {
			struct nla_chat_cfg system = { NLA_CHAT_AUTO, "Be  brief.", "", 0, NULL }, named = automatic;
			struct nla_chat chat;

			write_template(template, bos ? bos->valuestring : NULL, beside);
			expect_prompts(&automatic, tok, nla_json_at(item, "plain"));
			expect_prompts(&system, tok, nla_json_at(item, "system"));
			if (strstr(template, "<|start_header_id|>")) { /* Llama 3's trim it */
				struct nla_chat_cfg wide = { NLA_CHAT_AUTO, " Be  brief.\n", "", 0, NULL };
				expect_prompts(&wide, tok, nla_json_at(item, "system"));
				trimmed++;
			}
			chat_load(&chat, scratch, tok, &automatic);
			named.format = (int)chat.format;
			assert_true(chat.thinks == !strcmp(nla_json_at(item, "name")->valuestring, "qwen3"));
			char *after = nla_format("%s%s", chat.after, chat.thinks ? "<think>\n\n</think>\n\n" : "");
			nla_chat_no_thinking(&chat);
			assert_string_equal(chat.after, after);
			free(after);
			nla_chat_release(&chat);
			expect_prompts(&named, tok, nla_json_at(item, "plain"));
			expect_again(&automatic, tok);
			expect_again(&system, tok);
			n++;
		}
		nla_tokenizer_free(tok);
		free(folder);
	}
	assert_int_equal(n, 18);
	assert_true(trimmed >= 4);
	cJSON_Delete(json);
}

/* The same prompts from what scripts/chat-format.py writes, in the model's folder and elsewhere. */
static void test_file(void **state)
{
	char *path = nla_path_join(scratch, "elsewhere.json");
	struct nla_chat_cfg elsewhere = { NLA_CHAT_AUTO, "auto", path, 0, NULL };
	cJSON *json = cases(), *item;
	int n = 0;

	write_template("{{ 'Human: ' + messages[0]['content'] }}", NULL, true);
	cJSON_ArrayForEach(item, json) {
		char *folder = nla_format(TOKENIZERS "%s", nla_json_at(item, "tokenizer")->valuestring);
		struct nla_tokenizer *tok = load(folder);

		write_json("nla_chat.json", nla_json_at(item, "plain_file"));
		write_json("elsewhere.json", nla_json_at(item, "system_file"));
		expect_prompts(&automatic, tok, nla_json_at(item, "plain"));
		expect_prompts(&elsewhere, tok, nla_json_at(item, "system"));
		nla_tokenizer_free(tok);
		free(folder);
		n++;
	}
	assert_int_equal(n, 9);
	remove_file("nla_chat.json");
	remove_file("elsewhere.json");
	remove_file("chat_template.jinja");
	remove_file("tokenizer_config.json");
	cJSON_Delete(json);
	free(path);
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
	struct nla_chat_cfg no_system = { NLA_CHAT_AUTO, "", "", 0, NULL }, chatml = { NLA_CHAT_CHATML, "auto", "", 0, NULL }, two = { NLA_CHAT_LLAMA2, "auto", "", 0, NULL };
	cJSON *json = cases();

	expect_prompt(TOKENIZERS "small", small, &automatic, "<|im_start|>user\n Hi<|im_end|>\n<|im_start|>assistant\n");
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
	chat_load(&chat, scratch, tok, &automatic);
	assert_int_equal(chat.end_of_turn, 599);
	assert_int_equal(chat.stop.n, n);
	for (size_t i = 0; i < n; i++)
		assert_true(nla_i32s_has(&chat.stop, want[i]));
	assert_false(nla_i32s_has(&chat.stop, 596));
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
	stops("{}", "{\"text_config\": {\"eos_token_id\": [3]}}", (int32_t[]){ 599, 3 }, 2);
	/* odd spellings, and fields of generation_config.json that change nothing here */
	stops("{\"eos_token_id\": [599.0, 597, 597, 598.0e0, 1]}", "{}", (int32_t[]){ 599, 597, 598, 1 }, 4);
	stops("{\"eos_token_id\": []}", "{\"eos_token_id\": 3}", (int32_t[]){ 599 }, 1);
	stops("{\"top_k\": \"x\", \"pad_token_id\": -1, \"eos_token_id\": [3], \"future\": [[]]}", "{}", (int32_t[]){ 599, 3 }, 2);
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
		assert_int_equal(nla_chat_load(&chat, scratch, small, &automatic, &err), NLA_FAIL);
		assert_non_null(strstr(err.text, "generation_config.json': 'eos_token_id' has"));
		free(text);
	}
	write_text("generation_config.json", "{}");
	nla_tokenizer_free(small);
}

/* ---- templates that are not known, and files that are wrong ---- */

static void expect_error(const struct nla_tokenizer *tok, const struct nla_chat_cfg *cfg, const char *message)
{
	struct nla_err err = NLA_ERR_INIT;
	struct nla_chat chat;

	if (!nla_chat_load(&chat, scratch, tok, cfg, &err))
		fail_msg("accepted, want '%s'", message);
	if (!strstr(err.text, message) || !strstr(err.text, scratch))
		fail_msg("'%s', want '%s'", err.text, message);
}

/* What is said while a prompt is checked. Owned by the caller. */
static char *said(const struct nla_tokenizer *tok, const struct nla_chat_cfg *cfg, const char *want)
{
	char *path = nla_path_join(scratch, "said");
	struct nla_err err = NLA_ERR_INIT;
	struct nla_str text = NLA_STR_INIT;
	struct nla_log log;

	assert_int_equal(nla_log_open(&log, "", path, &err), NLA_OK);
	nla_say_tee(&log);
	expect_prompt(scratch, tok, cfg, want);
	nla_say_tee(NULL);
	assert_int_equal(nla_log_close(&log, &err), NLA_OK);
	assert_int_equal(nla_file_read(path, &text, &err), NLA_OK);
	remove_file("said");
	free(path);
	return nla_str_detach(&text);
}

static void expect_said(const struct nla_tokenizer *tok, const struct nla_chat_cfg *cfg, const char *want, const char *message)
{
	char *text = said(tok, cfg, want);

	if (*message ? !strstr(text, message) || strchr(text, '\n') != text + strlen(text) - 1 : *text)
		fail_msg("said '%s', want '%s' in one line", text, message);
	free(text);
}

#define TURNS "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
#define OPEN "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
#define HEADERS "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content + '<|eot_id|>' }}{% endfor %}"
#define TRIMMED "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
#define PLAIN "<|im_start|>user\n Hi<|im_end|>\n<|im_start|>assistant\n"
#define SYSTEM "<|im_start|>system\nBe good.<|im_end|>\n"
#define LLAMA3 "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"

/* By turn markers: one line says what is used. */
static void test_markers(void **state)
{
	struct nla_tokenizer *small = load(TOKENIZERS "small"), *llama = load(TOKENIZERS "llama");
	struct nla_chat_cfg given = { NLA_CHAT_AUTO, "Be good.", "", 0, NULL }, none = { NLA_CHAT_AUTO, "", "", 0, NULL }, named = { NLA_CHAT_CHATML, "auto", "", 0, NULL };

	write_template(TURNS OPEN " ", NULL, true);
	expect_said(small, &automatic, PLAIN, "chat format ChatML, recognised by its template's turn markers, no system turn; scripts/chat-format.py");
	expect_said(small, &given, SYSTEM PLAIN, "system turn 'Be good.'; scripts/chat-format.py");
	expect_said(small, &named, PLAIN, "");
	write_template("{% set system_message = 'Be good.' %}" TURNS OPEN, NULL, false);
	expect_said(small, &none, PLAIN, "no system turn; scripts/chat-format.py");
	expect_said(small, &given, SYSTEM PLAIN, "system turn 'Be good.'");
	write_template("{{ bos_token }}" TRIMMED, NULL, true);
	expect_said(llama, &automatic, LLAMA3, "chat format Llama 3, recognised by its template's turn markers");
	write_template("{{ bos_token }}" TRIMMED, "<|im_end|>", true);
	expect_said(llama, &automatic, "<|im_end|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
		    "<|start_header_id|>assistant<|end_header_id|>\n\n", "recognised by its template's turn markers");
	remove_file("chat_template.jinja");
	remove_file("tokenizer_config.json");
	expect_said(small, &automatic, PLAIN, "chat format ChatML, recognised by its tokens, no system turn; the model has no chat template");
	nla_tokenizer_free(small);
	nla_tokenizer_free(llama);
}

/* A known template (the demo's) says nothing, in each place it may be; a newline at its end and the line ends are not part of it. */
static void test_places(void **state)
{
	static const char known[] = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
		"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
	struct nla_tokenizer *small = load(TOKENIZERS "small");
	cJSON *config = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(config, "chat_template");
	struct nla_str text = NLA_STR_INIT;

	write_template(known, NULL, false);
	expect_said(small, &automatic, PLAIN, "");
	nla_str_addf(&text, "%s\n", known);
	write_template(text.buf, NULL, true);
	expect_said(small, &automatic, PLAIN, "");
	nla_str_reset(&text);
	for (const char *s = known; *s; s++)
		nla_str_add(&text, *s == '\n' ? "\r\n" : (char[]){ *s, 0 });
	write_template(text.buf, NULL, true);
	expect_said(small, &automatic, PLAIN, "");

	/* a list of named ones; chat_template.jinja wins over it, as in transformers */
	for (int i = 0; i < 2; i++) {
		cJSON *named = cJSON_CreateObject();

		cJSON_AddStringToObject(named, "name", i ? "default" : "tool_use");
		cJSON_AddStringToObject(named, "template", i ? known : "{{ 'Human: ' + messages[0]['content'] }}");
		cJSON_AddItemToArray(list, named);
	}
	remove_file("chat_template.jinja");
	write_json("tokenizer_config.json", config);
	expect_said(small, &automatic, PLAIN, "");
	write_text("chat_template.jinja", "{{ 'Human: ' + messages[0]['content'] }}");
	expect_error(small, &automatic, "chat_template.jinja': its template is not a known one");
	remove_file("chat_template.jinja");
	cJSON_ReplaceItemInObject(config, "chat_template", cJSON_CreateObject());
	list = cJSON_GetObjectItem(config, "chat_template");
	cJSON_AddStringToObject(list, "default", known);
	write_json("tokenizer_config.json", config);
	expect_said(small, &automatic, PLAIN, "");
	cJSON_DeleteItemFromObject(list, "default");
	write_json("tokenizer_config.json", config);
	expect_error(small, &automatic, "tokenizer_config.json': its template is not a known one");
	remove_file("tokenizer_config.json");
	nla_str_release(&text);
	cJSON_Delete(config);
	nla_tokenizer_free(small);
}

static void test_untold(void **state)
{
	static const char unknown[] = "does not have the turn markers of exactly one format; run scripts/chat-format.py, or set 'chat.format'";
	static const char turn[] = "mentions a system turn; run scripts/chat-format.py, which renders it, or set 'chat.system'";
	static const struct {
		const char *template, *message;
	} bad[] = {
		{ "{{ 'Human: ' + messages[0]['content'] }}", unknown },
		{ "", unknown },
		{ "{{ 'unclosed", unknown },
		{ "{{ '[INST] ' + messages[0]['content'] + ' [/INST]' }}", unknown },
		{ TURNS HEADERS, unknown },
		{ "{% set system_message = 'Be good.' %}" TURNS OPEN, turn },
		{ "{% if messages[0].role == 'system' %}{% endif %}" TURNS OPEN, turn },
		{ "{{ '<|im_start|>System\\nA<|im_end|>\\n' }}" TURNS OPEN, turn },
		{ "{{ bos_token + '[INST] <<SYS>>' + system + messages[0]['content'] | trim + ' [/INST]' }}", turn },
		{ "{{ system }}" TURNS OPEN "{{ '<think>' }}", "mentions a think block; run scripts/chat-format.py, which renders it" },
		{ "{{ strftime_now('%d') }}" TURNS OPEN, "mentions a date; run scripts/chat-format.py" },
		{ "{{ 'Today Date: ' + date_string }}" HEADERS, "mentions a date" },
		{ "{{ bos_token }}" TURNS OPEN, "mentions a bos_token" },
		{ TURNS OPEN "{{ '<think>' }}", "mentions a think block" },
		{ "{{ x | trim }}" TURNS OPEN, "strips messages" },
		{ HEADERS, "does not strip messages" },
	};
	struct nla_tokenizer *small = load(TOKENIZERS "small"), *llama = load(TOKENIZERS "llama"), *llama2 = load(TOKENIZERS "llama2");
	struct nla_chat_cfg three = { NLA_CHAT_LLAMA3, "auto", "", 0, NULL };

	for (size_t i = 0; i < NLA_LEN(bad); i++)
		for (int beside = 0; beside < 2; beside++) {
			write_template(bad[i].template, NULL, beside);
			expect_error(strstr(bad[i].template, "[INST]") ? llama2 : strstr(bad[i].template, "eot_id") ? llama : small, &automatic,
				     bad[i].message);
		}
	write_template(HEADERS, NULL, true);
	expect_error(small, &automatic, "cannot use the Llama 3 chat format with");
	write_text("tokenizer_config.json", "{\"chat_template\": ");
	expect_error(small, &automatic, "tokenizer_config.json");
	remove_file("chat_template.jinja");
	remove_file("tokenizer_config.json");
	expect_error(small, &three, "its tokenizer has no token '<|start_header_id|>'");
	expect_error(llama2, &automatic, "it has no chat template, and its tokenizer not ChatML's, Llama 3's or Gemma's tokens; write the prompt's texts into "
			      "nla_chat.json (docs/formats.md), or set 'chat.format'");
	nla_tokenizer_free(small);
	nla_tokenizer_free(llama);
	nla_tokenizer_free(llama2);
}

static void test_bad_file(void **state)
{
#define TEXTS "\"before\": \"<|im_start|>\", \"after\": \"\", "
	static const struct {
		const char *text, *message;
	} bad[] = {
		{ "{", "nla_chat.json" },
		{ "[]", "is an array, want an object" },
		{ "{\"before\": 1}", "'before' is a number, want a string" },
		{ "{" TEXTS "\"stop\": [\"<|im_end|>\"]}", "'strip'" },
		{ "{" TEXTS "\"strip\": \"left\", \"stop\": [\"<|im_end|>\"]}", "'strip' is 'left', want none, both or end" },
		{ "{" TEXTS "\"strip\": \"both\"}", "'stop' must be a list of tokens" },
		{ "{" TEXTS "\"strip\": \"both\", \"stop\": []}", "'stop' must be a list of tokens" },
		{ "{" TEXTS "\"strip\": \"both\", \"stop\": [\"</s>\"]}", "'stop' has '</s>', which is no token of this tokenizer" },
		{ "{" TEXTS "\"strip\": \"both\", \"stop\": [\"<|im_end|>\", 3]}", "'stop' has 'a number'" },
	};
	struct nla_tokenizer *small = load(TOKENIZERS "small");
	struct nla_chat_cfg system = { NLA_CHAT_AUTO, "", "", 0, NULL }, format = { NLA_CHAT_CHATML, "auto", "", 0, NULL };

	for (size_t i = 0; i < NLA_LEN(bad); i++) {
		write_text("nla_chat.json", bad[i].text);
		expect_error(small, &automatic, bad[i].message);
	}
	write_text("nla_chat.json", "{" TEXTS "\"strip\": \"none\", \"stop\": [\"<|im_end|>\"]}");
	expect_said(small, &automatic, "<|im_start|> Hi", "");
	expect_error(small, &system, "decides the prompts, system turn included: leave out 'chat.format' and 'chat.system'");
	expect_error(small, &format, "decides the prompts");
	remove_file("nla_chat.json");
	nla_tokenizer_free(small);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_qwen3), cmocka_unit_test(test_templates), cmocka_unit_test(test_override), cmocka_unit_test(test_stop_ids),
		cmocka_unit_test(test_bad_stop_ids), cmocka_unit_test(test_file), cmocka_unit_test(test_bad_file), cmocka_unit_test(test_markers),
		cmocka_unit_test(test_places), cmocka_unit_test(test_untold),
	};

	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
