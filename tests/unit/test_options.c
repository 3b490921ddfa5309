/* The option table: JSON, flags, messages, help, dump. */
#include "scratch.h"

#include "base/json.h"
#include "base/options.h"

enum { TRAIN = 1, EVAL = 2 };

struct cfg {
	char *model, *device;
	int64_t seed, steps;
	bool resume;
	double temperature;
	int64_t group;
	double lambda;
	int score;
	double deep;
	char *eval_data;
};

#define AT(field) offsetof(struct cfg, field)

static const struct nla_option table[] = {
	{ "model", NLA_OPT_PATH, AT(model), "", 0, 0, NULL, NULL, TRAIN | EVAL, "folder of the target" },
	{ "device", NLA_OPT_STR, AT(device), "auto", 0, 0, NULL, NULL, TRAIN | EVAL, "auto, cpu, cuda or cuda:N" },
	{ "seed", NLA_OPT_INT, AT(seed), "17", 0, 9007199254740992.0, NULL, NULL, TRAIN | EVAL, "of every random number" },
	{ "steps", NLA_OPT_INT, AT(steps), "250", 1, 1e9, NULL, NULL, TRAIN, "updates" },
	{ "rollout.temperature", NLA_OPT_NUM, AT(temperature), "1", 0, 0, NULL, NULL, TRAIN | EVAL, "of sampling" },
	{ "rollout.group", NLA_OPT_INT, AT(group), "4", 2, 1024, NULL, "group", TRAIN, "samples a prompt" },
	{ "reward.lambda", NLA_OPT_NUM, AT(lambda), "0", 0, 100, NULL, "lambda", TRAIN,
	  "price of a token, in the units of the score: a figure published for one score means something else for the other, so look "
	  "at reward.score first" },
	{ "reward.score", NLA_OPT_ENUM, AT(score), "fve", 0, 0, "fve|-mse", NULL, TRAIN, "what a reconstruction earns" },
	{ "reward.very.deep_section_with_a_long_name", NLA_OPT_NUM, AT(deep), "-0.5", -1, 1, NULL, NULL, TRAIN, "nested twice" },
	{ "resume", NLA_OPT_BOOL, AT(resume), "false", 0, 0, NULL, NULL, TRAIN, "go on after the latest checkpoint" },
	{ "eval.data", NLA_OPT_PATH, AT(eval_data), "", 0, 0, NULL, "score", EVAL, "rows to evaluate" },
};

#define N NLA_LEN(table)

struct fixture {
	struct cfg cfg;
	struct nla_args args;
};

/* args ends with NULL; argv[0] is put before. */
static enum nla_status apply(struct fixture *f, unsigned command, struct nla_err *err, const char *const *args)
{
	char *argv[16] = { "bin/nla-test" };
	int argc = 1;

	while (args[argc - 1]) {
		argv[argc] = (char *)args[argc - 1];
		argc++;
	}
	f->args = (struct nla_args){ table, N, .command = command, .argc = argc, .argv = argv };
	return nla_options_args(&f->args, &f->cfg, err);
}

#define ARGS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static int setup(void **state)
{
	struct fixture *f = nla_alloc(1, sizeof(*f));

	memset(f, 0xa5, sizeof(*f)); /* defaults may not lean on what was there */
	nla_options_defaults(table, N, &f->cfg);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	nla_options_release(table, N, &f->cfg);
	nla_options_release(table, N, &f->cfg);
	free(f);
	return 0;
}

static void test_defaults(void **state)
{
	struct cfg *c = &((struct fixture *)*state)->cfg;

	assert_string_equal(c->model, "");
	assert_string_equal(c->device, "auto");
	assert_true(c->seed == 17 && c->steps == 250 && c->temperature == 1 && c->group == 4 && c->lambda == 0 && c->deep == -0.5);
	assert_true(!c->resume && c->score == 0);
}

static void test_flags(void **state)
{
	struct fixture *f = *state;
	struct cfg *c = &f->cfg;
	struct nla_err err;

	assert_ok(apply(f, TRAIN, &err, ARGS("--lambda", "0.002", "--reward.score", "-mse", "--resume", "--model", "a/b",
					     "--reward.very.deep_section_with_a_long_name", "-1e-1", "--steps=1e3")));
	assert_true(c->lambda == 0.002 && c->score == 1 && c->resume && c->deep == -0.1 && c->steps == 1000);
	assert_string_equal(c->model, "a/b");
	assert_null(f->args.config);
	assert_false(f->args.help);
	assert_ok(apply(f, TRAIN, &err, ARGS("--reward.lambda=0.5", "--reward.score=fve", "--resume", "false", "--device", "")));
	assert_true(c->lambda == 0.5 && c->score == 0 && !c->resume);
	assert_string_equal(c->device, "");
	assert_ok(apply(f, TRAIN, &err, ARGS("--resume=true", "--device=--odd=1", "--seed", "9007199254740991")));
	assert_true(c->resume && c->seed == (1ll << 53) - 1);
	assert_string_equal(c->device, "--odd=1");
	assert_ok(apply(f, TRAIN, &err, ARGS("--lambda", "1", "--lambda", "2"))); /* the last one holds */
	assert_true(c->lambda == 2);
	assert_ok(apply(f, TRAIN, &err, ARGS("--lambda", "3", "--help", "--no-such")));
	assert_true(f->args.help && c->lambda == 2);
	assert_ok(apply(f, TRAIN, &err, ARGS("-h")));
	assert_true(f->args.help);
}

static void test_flag_errors(void **state)
{
	static const struct {
		const char *args[4], *says;
	} rows[] = {
		{ { "--lamda", "1" }, "unknown option '--lamda': did you mean '--lambda'?" },
		{ { "--lamda=1" }, "unknown option '--lamda': did you mean '--lambda'?" },
		{ { "--temperature", "1" }, "did you mean '--rollout.temperature'?" },
		{ { "--temprature", "1" }, "did you mean '--rollout.temperature'?" },
		{ { "--rollout.gruop", "1" }, "did you mean '--rollout.group'?" },
		{ { "-lambda", "1" }, "unknown option '-lambda': did you mean '--lambda'?" },
		{ { "--xyzzyxyzzy" }, "unknown option '--xyzzyxyzzy'" },
		{ { "--lambda", "-1" }, "'--lambda': 'reward.lambda' is -1: want a number, 0 to 100" },
		{ { "--reward.lambda", "101" }, "'reward.lambda' is 101: want a number, 0 to 100" },
		{ { "--lambda", "abc" }, "'reward.lambda' is \"abc\": want a number, 0 to 100" },
		{ { "--lambda", "0x1" }, "is \"0x1\": want a number" },
		{ { "--lambda", "nan" }, "is \"nan\": want a number" },
		{ { "--lambda", "" }, "is \"\": want a number" },
		{ { "--lambda", "1 " }, "is \"1 \": want a number" },
		{ { "--rollout.temperature", "1e999" }, "is too large: want a number" },
		{ { "--steps", "2.5" }, "'steps' is 2.5: want an integer, 1 to 1000000000" },
		{ { "--steps", "0" }, "'steps' is 0: want an integer" },
		{ { "--seed", "-1" }, "'seed' is -1: want an integer, at least 0" },
		{ { "--seed", "9007199254740993" }, "want an integer, at least 0" },
		{ { "--resume=yes" }, "'resume' is \"yes\": want true or false" },
		{ { "--reward.score", "mse" }, "'reward.score' is \"mse\": want one of fve|-mse" },
		{ { "--reward.score", "fv" }, "'reward.score' is \"fv\": want one of" },
		{ { "--lambda" }, "option '--lambda' has no value: want a number, 0 to 100" },
		{ { "--model", "--lambda", "1" }, "option '--model' has no value: want a path" },
		{ { "a.json", "b.json" }, "two configurations are given, 'a.json' and 'b.json'" },
		{ { "--eval.data", "x" }, "'nla-test' does not use the option '--eval.data'" },
		{ { "none.json" }, "cannot read 'none.json': No such file" },
	};
	struct fixture *f = *state;
	struct nla_err err;

	for (size_t i = 0; i < NLA_LEN(rows); i++) {
		assert_fails(apply(f, TRAIN, &err, rows[i].args), rows[i].says);
		assert_int_equal(err.status, NLA_USAGE);
	}
	assert_fails(apply(f, TRAIN, &err, ARGS("--xyzzyxyzzy")), "xyzzy");
	assert_null(strstr(err.text, "mean"));
	assert_fails(apply(f, EVAL, &err, ARGS("--lamda", "1")), "unknown option '--lamda'");
	assert_null(strstr(err.text, "'--lambda'")); /* no advice that this command would refuse */
	assert_ok(apply(f, EVAL, &err, ARGS("--score", "rows"))); /* this command's short name */
	assert_string_equal(f->cfg.eval_data, "rows");
}

static void test_json(void **state)
{
	struct fixture *f = *state;
	struct cfg *c = &f->cfg;
	struct nla_err err;

	put_text("c.json", "{\"model\": \"m/t\", \"device\": \"cpu\", \"steps\": 1e3, \"resume\": true, \"rollout\": {\"group\": 8},"
			   " \"reward\": {\"lambda\": 0.002, \"score\": \"-mse\", \"very\": {\"deep_section_with_a_long_name\": 1}},"
			   " \"eval\": {\"data\": \"/abs\"}, \"seed\": null, \"_remark\": {\"steps\": \"any\"}}");
	assert_ok(apply(f, TRAIN, &err, ARGS("--steps", "7", in_scratch("c.json"), "--lambda=0.5")));
	assert_string_equal(f->args.config, in_scratch("c.json"));
	assert_string_equal(c->model, in_scratch("m/t")); /* relative to the file */
	assert_string_equal(c->eval_data, "/abs");        /* a key of another command is fine in a file */
	assert_string_equal(c->device, "cpu");
	assert_true(c->steps == 7 && c->lambda == 0.5); /* flags hold over the file wherever they stand */
	assert_true(c->resume && c->group == 8 && c->score == 1 && c->deep == 1 && c->seed == 17 && c->temperature == 1);
	assert_ok(apply(f, TRAIN, &err, ARGS("--resume", in_scratch("c.json")))); /* the file is no value of a bool */
	assert_int_equal(c->steps, 1000);
	assert_ok(apply(f, TRAIN, &err, ARGS("--lambda", "1", "--", in_scratch("c.json"))));
	assert_non_null(f->args.config);
	put_text("config.json", "{\"steps\": 5}"); /* a folder is its config.json */
	assert_ok(apply(f, TRAIN, &err, ARGS(in_scratch("."))));
	assert_int_equal(c->steps, 5);
}

static void test_json_errors(void **state)
{
	static const struct {
		const char *text, *says;
	} rows[] = {
		{ "{\"reward\": {\"lamda\": 1}}", "c.json': unknown key 'reward.lamda': did you mean 'reward.lambda'?" },
		{ "{\"lambda\": 1}", "unknown key 'lambda': did you mean 'reward.lambda'?" },
		{ "{\"rewrd\": {\"lambda\": 1}}", "unknown key 'rewrd': did you mean 'reward'?" },
		{ "{\"reward\": {\"very\": {\"deep\": 1}}}", "unknown key 'reward.very.deep'" },
		{ "{\"reward\": {\"seed\": 1}}", "unknown key 'reward.seed': did you mean 'seed'?" },
		{ "{\"qqqqqqqqqqqq\": 1}", "unknown key 'qqqqqqqqqqqq'" },
		{ "{\"reward\": 1}", "'reward' is a number: want an object" },
		{ "{\"reward\": null}", "'reward' is null: want an object" },
		{ "{\"reward\": {\"lambda\": {\"x\": 1}}}", "'reward.lambda' is an object: want a number, 0 to 100" },
		{ "{\"reward\": {\"lambda\": -1}}", "c.json': 'reward.lambda' is -1: want a number, 0 to 100" },
		{ "{\"reward\": {\"lambda\": \"1\"}}", "'reward.lambda' is \"1\": want a number" },
		{ "{\"reward\": {\"score\": \"mse\"}}", "'reward.score' is \"mse\": want one of fve|-mse" },
		{ "{\"reward\": {\"score\": 1}}", "'reward.score' is 1: want one of fve|-mse" },
		{ "{\"steps\": 2.5}", "'steps' is 2.5: want an integer" },
		{ "{\"rollout\": {\"temperature\": 1e999}}", "'rollout.temperature' is too large: want a number" },
		{ "{\"resume\": 1}", "'resume' is 1: want true or false" },
		{ "{\"resume\": \"true\"}", "'resume' is \"true\": want true or false" },
		{ "{\"model\": true}", "'model' is true: want a path" },
		{ "{\"device\": [1]}", "'device' is an array: want a string" },
		{ "{\"device\": \"a\xae\"}", "c.json': 'device' is not valid UTF-8" },
		{ "{\"steps\": 1, \"steps\": 2}", "'steps' is given twice" },
		{ "{\"reward\": {\"lambda\": 1}, \"reward\": {\"lambda\": 1}}", "'reward.lambda' is given twice" },
		{ "[1]", "c.json': is an array: want an object" },
		{ "{\"steps\": }", "c.json' is not JSON: error at line 1, column 11" },
	};
	struct fixture *f = *state;
	struct nla_err err;

	for (size_t i = 0; i < NLA_LEN(rows); i++) {
		const char *path = put_text("c.json", rows[i].text);
		assert_fails(nla_options_json(table, N, &f->cfg, path, &err), rows[i].says);
		assert_int_equal(err.status, NLA_USAGE);
	}
}

/* What is dumped reads back to the same configuration, from any folder. */
static void test_dump(void **state)
{
	struct fixture *f = *state;
	struct nla_err err;
	struct nla_str a = NLA_STR_INIT, b = NLA_STR_INIT;
	char *cwd = getcwd(NULL, 0);
	struct cfg back;

	assert_ok(apply(f, TRAIN, &err, ARGS("--model", "./m", "--reward.score", "-mse", "--lambda", "0.1", "--resume",
					     "--seed", "9007199254740991", "--device", "a\"b")));
	cJSON *dump = nla_options_dump(table, N, &f->cfg);
	char *model = nla_path_join(cwd, "m");
	assert_string_equal(nla_json_at(dump, "model")->valuestring, model);
	assert_string_equal(nla_json_at(dump, "eval.data")->valuestring, "");
	assert_string_equal(nla_json_at(dump, "reward.score")->valuestring, "-mse");
	assert_true(cJSON_IsTrue(nla_json_at(dump, "resume")));
	assert_true(nla_json_at(dump, "reward.lambda")->valuedouble == 0.1);
	for (size_t i = 0; i < N; i++)
		assert_non_null(nla_json_at(dump, table[i].key));
	assert_ok(nla_json_write(in_scratch("dump.json"), dump, true, &err));

	nla_options_defaults(table, N, &back);
	assert_ok(nla_options_json(table, N, &back, in_scratch("dump.json"), &err));
	assert_true(back.seed == 9007199254740991 && back.lambda == 0.1 && back.resume && back.score == 1);
	assert_string_equal(back.model, model);
	assert_string_equal(back.device, "a\"b");
	cJSON *again = nla_options_dump(table, N, &back);
	nla_json_add(&a, dump, false, 0);
	nla_json_add(&b, again, false, 0);
	assert_string_equal(a.buf, b.buf);
	cJSON_Delete(dump);
	cJSON_Delete(again);
	nla_options_release(table, N, &back);
	nla_str_release(&a);
	nla_str_release(&b);
	free(model);
	free(cwd);
}

static void test_help(void **state)
{
	static const char want[] =
		"general:\n"
		"  --model PATH                            folder of the target\n"
		"  --device TEXT                           auto, cpu, cuda or cuda:N [default auto]\n"
		"  --seed N                                of every random number [default 17; at least 0]\n"
		"  --steps N                               updates [default 250; 1 to 1000000000]\n"
		"  --resume                                go on after the latest checkpoint [default false]\n"
		"\n"
		"rollout:\n"
		"  --rollout.temperature X                 of sampling [default 1]\n"
		"  --group, --rollout.group N              samples a prompt [default 4; 2 to 1024]\n"
		"\n"
		"reward:\n"
		"  --lambda, --reward.lambda X             price of a token, in the units of the score: a figure\n"
		"                                          published for one score means something else for the\n"
		"                                          other, so look at reward.score first [default 0; 0 to 100]\n"
		"  --reward.score fve|-mse                 what a reconstruction earns [default fve]\n"
		"\n"
		"reward.very:\n"
		"  --reward.very.deep_section_with_a_long_name X\n"
		"                                          nested twice [default -0.5; -1 to 1]\n"
		"\n"
		"  -h, --help                              show this text\n"
		"  --version                               version, commit, libtorch\n";
	struct nla_str s = NLA_STR_INIT;

	nla_options_help(table, N, TRAIN, false, &s);
	assert_string_equal(s.buf, want);
	for (const char *line = s.buf; *line; line += strcspn(line, "\n") + 1)
		assert_true(strcspn(line, "\n") <= 100);
	nla_str_reset(&s);
	nla_options_help(table, N, EVAL, false, &s);
	assert_null(strstr(s.buf, "lambda"));
	assert_null(strstr(s.buf, "reward"));
	assert_non_null(strstr(s.buf, "  --score, --eval.data PATH"));
	nla_str_release(&s);
}

static void test_markdown(void **state)
{
	struct nla_str s = NLA_STR_INIT;

	nla_options_help(table, N, TRAIN | EVAL, true, &s);
	assert_non_null(strstr(s.buf, "\n| `rollout.group` | `group` | integer, 2 to 1024 | `4` | samples a prompt |\n"));
	assert_non_null(strstr(s.buf, "\n| `reward.score` | | `fve\\|-mse` | `fve` | what a reconstruction earns |\n"));
	assert_non_null(strstr(s.buf, "\n| `model` | | path | | folder of the target |\n"));
	size_t lines = 0;
	for (const char *c = s.buf; *c; c++)
		lines += *c == '\n';
	assert_int_equal(lines, N + 11);
	nla_str_release(&s);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(test_defaults), WITH(test_flags),           WITH(test_flag_errors), WITH(test_json),
		WITH(test_dump),     WITH(test_json_errors),     cmocka_unit_test(test_help),
		cmocka_unit_test(test_markdown),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
