/* folder: what a folder that cannot be opened is instead, and what to do. */
#include "scratch.h"

#include "nla/folder.h"

static struct nla_err err;

static const char *lead(const char *folder, const char *want, const char *part)
{
	err = (struct nla_err)NLA_ERR_INIT;
	nla_usage(&err, "no");
	assert_int_equal(nla_folder_lead(&err, folder, want, part), NLA_USAGE);
	return err.text + 2;
}

static void file(const char *name, const char *text)
{
	char *dir = nla_path_dir(in_scratch(name));
	assert_ok(nla_mkdirs(dir, &err));
	put_text(name, text);
	free(dir);
}

static void leads(const char *name, const char *want, const char *part, const char *text)
{
	const char *got = lead(in_scratch(name), want, part);
	if (*text ? !strstr(got, text) : *got)
		fail_msg("'%s': want '%s'", err.text, text);
}

static void test_names(void **state)
{
	assert_string_equal(lead("Qwen/Qwen3-8B", "config.json", "model"),
			    "; if it is a name on the hub, run 'hf download Qwen/Qwen3-8B --local-dir DIR' and name DIR");
	assert_string_equal(lead("./Qwen/Qwen3-8B", "config.json", "model"), "");
	assert_string_equal(lead("a/b/c", "config.json", "model"), "");
	assert_string_equal(lead("nowhere", "config.json", "model"), "");
	file("plain.safetensors", "x");
	leads("plain.safetensors", "config.json", "model", "is a file, want its folder");
	file("models--X--Y/snapshots/0af1/config.json", "{}");
	leads("models--X--Y", "config.json", "model", "it is a folder of the hub's cache: name '");
	leads("models--X--Y", "config.json", "model", "models--X--Y/snapshots/0af1'");
	err = (struct nla_err)NLA_ERR_INIT;
	assert_ok(nla_folder_lead(&err, "Qwen/Qwen3-8B", "config.json", NULL));
}

static void test_below(void **state)
{
	file("run/checkpoints/latest/av/nla_meta.yaml", "x");
	file("run/reference/nla_meta.yaml", "x");
	leads("run", "nla_meta.yaml", "av", "/run/checkpoints/latest/av'");
	leads("run/checkpoints/latest", "nla_meta.yaml", "av", "/run/checkpoints/latest/av'");
	leads("run/checkpoints/latest/av", "nla_meta.yaml", "av", "");
	file("peft/default/adapter_config.json", "{}");
	leads("peft", "adapter_config.json", NULL, "/peft/default' has adapter_config.json: is that folder meant?");
	file("peft/later/adapter_config.json", "{}");
	leads("peft", "adapter_config.json", NULL, "/peft/later' and 1 more have adapter_config.json: name the one that is meant");
}

static void test_files(void **state)
{
	file("torch/config.json", "{}");
	file("torch/training_args.bin", "x");
	leads("torch", "config.json", "model", "");
	file("torch/pytorch_model-00001-of-00002.bin", "x");
	leads("torch", "config.json", "model",
	      "it holds 'pytorch_model-00001-of-00002.bin', want safetensors: load it with transformers");
	file("torch/model.safetensors", "x");
	leads("torch", "config.json", "model", "");
	file("lines/a\nb.bin", "x");
	file("lines/model\n.pt", "x"); /* a message is one line */
	leads("lines", "config.json", "model", "it holds 'model .pt', want safetensors");
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_names), cmocka_unit_test(test_below),
					    cmocka_unit_test(test_files) };
	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
