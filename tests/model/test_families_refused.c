/* What a model's folder may not say, one line each; spellings that say the same; what Gemma's published files leave out; hostile sizes, broken
 * weights, and weights of another family. */
#include "model/families.h"

static void refused(const char *family, const char *from, const char *to, const char *want)
{
	struct nla_arch arch;
	copy_to_scratch(family, "config.json", from, to);
	assert_fails(nla_arch_read(&arch, scratch, &err), want);
}

static void test_refused(void **state)
{
	refused("llama2", "\"llama\"", "\"gemma2\"", "model_type 'gemma2' is not supported (supported: qwen3, qwen2, llama, gemma3_text)");
	refused("llama2", "\"llama\"", "\"gemma3\"", "model_type 'gemma3' is not supported");
	refused("gemma3mm", "\"gemma3_text\"", "\"gemma4_text\"", "model_type 'gemma4_text' is not supported (supported: qwen3,");
	refused("gemma3mm", "\"gemma3\"", "\"gemma4\"", "model_type 'gemma4' is of several modalities");
	refused("gemma3mm", "\"tie_word_embeddings\": true,\n \"transformers", "\"tie_word_embeddings\": false,\n \"transformers",
		"'tie_word_embeddings' is false, in 'text_config' true");
	refused("gemma3mm", "\"mm_tokens_per_image\"", "\"prompt_lookahead\": 1, \"mm_tokens_per_image\"", "field 'prompt_lookahead' is not known");
	refused("gemma3", "\"final_logit_softcapping\": null", "\"final_logit_softcapping\": 30.0", "'final_logit_softcapping' is 30, only null is");
	refused("gemma3mm", "\"attn_logit_softcapping\": null", "\"attn_logit_softcapping\": 50.0", "'attn_logit_softcapping' is 50, only null is");
	refused("gemma3", "\"use_bidirectional_attention\": false", "\"use_bidirectional_attention\": true",
		"'use_bidirectional_attention' is true, only false is");
	refused("gemma3", "gelu_pytorch_tanh", "gelu", "'hidden_activation' is 'gelu', only 'gelu_pytorch_tanh' is");
	refused("gemma3", "\"sliding_window\": 8", "\"sliding_window\": 0", "'sliding_window' is 0");
	refused("gemma3", "\"sliding_window_pattern\": 2", "\"sliding_window_pattern\": 2.5", "'sliding_window_pattern' is 2.5, want a whole");
	refused("gemma3", "\"sliding_window_pattern\": 2", "\"layer_types\": [\"sliding_attention\", \"full_attention\", \"full_attention\", "
		"\"sliding_attention\"]", "'layer_types' has another entry than 'sliding_attention' for block 2: want 'full_attention' for every 2,");
	refused("gemma3", "\"sliding_window_pattern\": 2", "\"sliding_window_pattern\": 3, \"layer_types\": [\"sliding_attention\", "
		"\"full_attention\", \"sliding_attention\", \"full_attention\"]", "another entry than 'sliding_attention' for block 1");
	refused("gemma3", "\"sliding_window_pattern\": 2", "\"layer_types\": [\"sliding_attention\"]", "'layer_types' has 1 entries of 4");
	refused("gemma3", "\"rope_type\": \"linear\"", "\"rope_type\": \"dynamic\"", "'rope_type' is 'dynamic', only 'default', 'linear' and");
	refused("gemma3", "\"rope_local_base_freq\": 1000.0", "\"rope_local_base_freq\": 1000.0, \"rope_parameters\": {\"full_attention\": "
		"{\"rope_type\": \"linear\", \"factor\": 8.0}, \"sliding_attention\": {\"rope_type\": \"default\", \"rope_theta\": 10000}}",
		"'rope_local_base_freq' is 1000, 'rope_parameters' has 10000");
	refused("gemma3", "\"rope_local_base_freq\": 1000.0", "\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"linear\", \"factor\": 8.0}, "
		"\"sliding_attention\": {\"rope_type\": \"linear\", \"factor\": 8.0}}", "'rope_type' is not 'default', which alone is supported there");
	refused("llama2", "\"silu\"", "\"gelu\"", "'hidden_act' is 'gelu', only 'silu'|'swish' is supported");
	refused("llama2", "\"attention_bias\": false", "\"attention_bias\": true", "'attention_bias' is true");
	refused("llama2", "\"mlp_bias\": false", "\"mlp_bias\": true", "'mlp_bias' is true");
	refused("llama2", "\"use_cache\"", "\"attn_logit_softcapping\": 50.0,\n \"use_cache\"", "'attn_logit_softcapping' is 50, only null is supported");
	refused("llama2", "\"use_cache\"", "\"quantization_config\": {\"bits\": 4},\n \"use_cache\"", "'quantization_config' is {\"bits\":4}: the weights are quantised");
	refused("llama3", "\"rope_type\": \"llama3\"", "\"rope_type\": \"yarn\"", "rope_scaling': 'rope_type' is 'yarn'");
	refused("llama3", "\"factor\": 4.0,", "", "'factor'");
	refused("llama3", "\"rope_scaling\"", "\"rope_parameters\": {\"rope_type\": \"default\"},\n \"rope_scaling\"",
		"'rope_parameters' and 'rope_scaling' differ");
	refused("smollm2", "\"rope_scaling\": null", "\"rope_parameters\": {\"rope_theta\": 5000.0}",
		"'rope_theta' says rope_theta 100000, 'rope_parameters' 5000");
	refused("smollm2", "\"rope_scaling\": null", "\"rope_parameters\": {\"partial_rotary_factor\": 0.5}",
		"'partial_rotary_factor' is 0.5, only 1 is supported");
	refused("llama2", "\"llama\"", "\"qwen3_vl\", \"text_config\": {}", "model_type 'qwen3_vl' is not supported");
	refused("llama2", "\"max_position_embeddings\": 256", "\"max_position_embeddings\": -1", "max_position_embeddings");
	refused("llama3", "\"factor\": 4.0,", "\"factor\": 4.0, \"attention_factor\": 2,", "rope_scaling': field 'attention_factor' is not known");
	refused("qwen2", "\"use_sliding_window\": false", "\"use_sliding_window\": true", "'use_sliding_window' is true");
	refused("qwen2", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "4 heads are no multiple of 3 key/value heads");
	refused("qwen2", "\"num_key_value_heads\": 2,", "", "'num_key_value_heads' is missing");
	refused("qwen3", "\"full_attention\"", "\"sliding_attention\"", "'layer_types' has an entry other than 'full_attention'");
}

/* One fact in other spellings: what is read is the same (transformers 5.23 computes the same numbers with each). */
static void same_arch(const char *family, const char *from, const char *to)
{
	struct nla_arch want, have;
	char *folder = nla_format("%s/%s", FAMILIES, family);
	assert_ok(nla_arch_read(&want, folder, &err));
	copy_to_scratch(family, "config.json", from, to);
	assert_ok(nla_arch_read(&have, scratch, &err));
	assert_true(have.n_kv_heads == want.n_kv_heads && have.head_dim == want.head_dim && have.rope_theta == want.rope_theta &&
		    have.rope_llama3 == want.rope_llama3 && have.rope_factor == want.rope_factor && have.rope_low == want.rope_low &&
		    have.rope_high == want.rope_high && have.rope_original == want.rope_original && have.rms_eps == want.rms_eps &&
		    have.tied == want.tied && have.with == want.with && have.window == want.window && have.pattern == want.pattern &&
		    have.rope_local == want.rope_local && have.query_scalar == want.query_scalar);
	free(folder);
}

#define LLAMA3_ROPE "\"factor\": 4.0, \"high_freq_factor\": 4.0, \"low_freq_factor\": 1.0, \"original_max_position_embeddings\": 64"

static void test_spellings(void **state)
{
	same_arch("llama2", "\"num_key_value_heads\": 4", "\"num_key_value_heads\": null");
	same_arch("llama2", "\"num_key_value_heads\": 4,", "");
	same_arch("llama2", "\"head_dim\": 8", "\"head_dim\": null");
	same_arch("llama2", "\"silu\"", "\"swish\"");
	same_arch("smollm2", "\"rope_theta\": 100000.0", "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 100000.0, "
		  "\"partial_rotary_factor\": 1.0}");
	same_arch("smollm2", "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"default\"}, \"partial_rotary_factor\": 1.0, "
		  "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 100000.0, \"partial_rotary_factor\": 1.0}");
	same_arch("smollm2", "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"default\", \"rope_type\": \"default\"}");
	same_arch("llama3", "\"rope_theta\": 10000.0", "\"rope_theta\": 10000, \"rope_parameters\": {\"rope_type\": \"llama3\", "
		  "\"rope_theta\": 10000.0, " LLAMA3_ROPE "}");
	same_arch("gemma3", "\"sliding_window_pattern\": 2", "\"_sliding_window_pattern\": 2, \"layer_types\": [\"sliding_attention\", "
		  "\"full_attention\", \"sliding_attention\", \"full_attention\"]");
	same_arch("gemma3", "\"rope_scaling\": {\n  \"factor\": 8.0,\n  \"rope_type\": \"linear\"\n }", "\"rope_parameters\": {\"full_attention\": "
		  "{\"rope_type\": \"linear\", \"factor\": 8.0, \"rope_theta\": 100000.0}, \"sliding_attention\": {\"rope_type\": \"default\", "
		  "\"rope_theta\": 1000.0}}");
	same_arch("gemma3mm", "\"tie_word_embeddings\": true,\n  \"use_bidi", "\"tie_word_embeddings\": null,\n  \"use_bidi");
	same_arch("qwen2", "\"use_cache\"", "\"temperature\": 0.7, \"top_p\": 0.8, \"do_sample\": true, \"max_length\": 20, "
		  "\"gradient_checkpointing\": true, \"task_specific_params\": {\"a\": 1}, \"_name_or_path\": \"/x\", \"pruned_heads\": {}, "
		  "\"_attn_implementation\": \"sdpa\", \"tokenizer_class\": \"T\", \"bad_words_ids\": [[1]], \"pretraining_tp\": 2, "
		  "\"max_sequence_length\": 2048, \"model_name\": \"unsloth/x\", \"use_cache\"");
}

/* Gemma's published files leave most of their fields to the library; these are those of 12B. */
static void test_defaults(void **state)
{
	static const char text[] = "{\"model_type\": \"gemma3\", \"vision_config\": {}, \"text_config\": {\"model_type\": \"gemma3_text\", "
		"\"hidden_size\": 3840, \"intermediate_size\": 15360, \"num_attention_heads\": 16, \"num_hidden_layers\": 48, "
		"\"num_key_value_heads\": 8, \"rope_scaling\": {\"factor\": 8.0, \"rope_type\": \"linear\"}, \"sliding_window\": 1024}}";
	struct nla_arch a;
	assert_ok(nla_file_write(in_scratch("config.json"), text, strlen(text), false, &err));
	assert_ok(nla_arch_read(&a, scratch, &err));
	assert_true(a.vocab == 262208 && a.head_dim == 256 && a.tied && a.window == 1024 && a.pattern == 6 && a.rope_theta == 1e6 &&
		    a.rope_local == 1e4 && a.rope_factor == 8 && !a.rope_llama3 && a.query_scalar == 256 && a.max_position == 131072 &&
		    a.rms_eps == 1e-6 && a.inside && nla_arch_local(&a, 4) && !nla_arch_local(&a, 5) && nla_arch_local(&a, 6));
}

/* Sizes that no memory holds, and sizes that no product may overflow. */
static void test_hostile(void **state)
{
	static const struct {
		const char *from, *to, *want;
	} bad[] = {
		{ "\"head_dim\": 8", "\"head_dim\": 9007199254740992", "'head_dim' is 9007199254740992, want a number from 2 to" },
		{ "\"hidden_size\": 32", "\"hidden_size\": 4294967295", "'hidden_size' is 4294967295, want a number" },
		{ "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 1000000000000", "'num_hidden_layers' is 1000000000000, want" },
		{ "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 1e400", "'num_hidden_layers' is too large" },
		{ "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 4.5", "'num_hidden_layers' is 4.5, want a whole number" },
		{ "\"num_attention_heads\": 4", "\"num_attention_heads\": 0", "'num_attention_heads' is 0, want a number from 1" },
		{ "\"vocab_size\": 97", "\"vocab_size\": -97", "'vocab_size' is -97, want" },
		{ "\"vocab_size\": 97", "\"vocab_size\": 100000000", "has shape [97, 32], want [100000000, 32]" },
		{ "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 10000", "'model.layers.4.input_layernorm.weight' is missing" },
		{ "\"max_position_embeddings\": 256", "\"max_position_embeddings\": 1e300", "'max_position_embeddings' is 1" },
	};
	for (size_t i = 0; i < NLA_LEN(bad); i++) {
		struct nla_lm lm;
		copy_to_scratch("llama2", "config.json", bad[i].from, bad[i].to);
		copy_to_scratch("llama2", "model.safetensors", NULL, NULL);
		assert_fails(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err), bad[i].want);
	}
}

/* A NaN or an infinity in any weight is named: at once where it is copied, at the first result where it is mapped. */
static void test_not_finite(void **state)
{
	static const struct {
		const char *name;
		uint32_t bits;
	} bad[] = { { "model.embed_tokens.weight", 0x7fc00000 }, { "model.layers.2.mlp.up_proj.weight", 0xff800000 },
		      { "model.norm.weight", 0x7f800001 } };
	for (size_t i = 0; i < NLA_LEN(bad); i++) {
		struct nla_st st;
		struct nla_lm lm;
		const float nan = NAN;
		char *want = nla_format("tensor '%s' has a NaN or an infinity (element 5)", bad[i].name);
		copy_to_scratch("llama2", "config.json", NULL, NULL);
		assert_ok(nla_st_open(&st, FAMILIES "/llama2/model.safetensors", &err));
		struct nla_st_entry *e = (struct nla_st_entry *)(uintptr_t)nla_st_find(&st, bad[i].name);
		char *bytes = nla_alloc(e->nbytes, 1);
		memcpy(bytes, e->data, e->nbytes);
		memcpy(bytes + 5 * sizeof(uint32_t), &bad[i].bits, sizeof(uint32_t));
		e->data = bytes;
		assert_ok(st_write(in_scratch("model.safetensors"), st.entries, st.n_entries, &err));
		assert_fails(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err), want);
		err = (struct nla_err)NLA_ERR_INIT;
		if (e->ndim == 2 && DEVICE == NT_CPU) { /* norms are copied always, and all of a device's */
			assert_ok(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_MAP, &err));
			assert_fails(nla_lm_blame(&lm, &nan, 1, &err), want);
			nla_lm_release(&lm);
		}
		nla_st_close(&st);
		free(bytes);
		free(want);
	}
}

/* Weights of one family under another's config: the tensors that would be left out, or are missing, are named. */
static void test_other_family(void **state)
{
	static const struct {
		const char *weights, *config, *from, *to, *want;
	} pairs[] = {
		{ "qwen2", "smollm2", "\"num_key_value_heads\": 1", "\"num_key_value_heads\": 2", "self_attn.k_proj.bias' is not part of family llama" },
		{ "llama3", "qwen2", NULL, NULL, "'model.layers.0.self_attn.q_proj.bias' is missing" },
		{ "llama2", "smollm2", NULL, NULL, "'model.layers.0.self_attn.k_proj.weight' has shape [32, 32], want [8, 32]" },
		{ "smollm2", "smollm2", "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3", "belongs to no layer, config.json has 3" },
		{ "smollm2", "smollm2", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", "'lm_head.weight' is missing" },
	};
	for (size_t i = 0; i < NLA_LEN(pairs); i++) {
		struct nla_lm lm;
		copy_to_scratch(pairs[i].config, "config.json", pairs[i].from, pairs[i].to);
		copy_to_scratch(pairs[i].weights, "model.safetensors", NULL, NULL);
		assert_fails(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err), pairs[i].want);
		assert_fails(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_MAP, &err), pairs[i].want);
	}
}

/* A tied model's file may hold the head a second time; one that is not the embedding would be another model. */
static void test_second_head(void **state)
{
	struct nla_st st;
	struct nla_lm lm;
	copy_to_scratch("smollm2", "config.json", NULL, NULL);
	assert_ok(nla_st_open(&st, FAMILIES "/smollm2/model.safetensors", &err));
	struct nla_st_entry *all = nla_alloc(st.n_entries + 1, sizeof(*all)), *head = &all[st.n_entries];
	char name[] = "lm_head.weight";
	memcpy(all, st.entries, st.n_entries * sizeof(*all));
	*head = *nla_st_find(&st, "model.embed_tokens.weight");
	head->name = name;
	assert_ok(st_write(in_scratch("model.safetensors"), all, st.n_entries + 1, &err));
	assert_ok(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err));
	nla_lm_release(&lm);
	char *other = nla_alloc(head->nbytes, 1);
	head->data = other;
	assert_ok(st_write(in_scratch("model.safetensors"), all, st.n_entries + 1, &err));
	assert_fails(nla_lm_load(&lm, scratch, NULL, DEVICE, NT_F32, NLA_LM_AUTO, &err), "'lm_head.weight' is not the embedding");
	free(other);
	free(all);
	nla_st_close(&st);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TINY_TEST(test_refused),	  TINY_TEST(test_spellings),	TINY_TEST(test_defaults),   TINY_TEST(test_hostile),
					    TINY_TEST(test_not_finite), TINY_TEST(test_other_family), TINY_TEST(test_second_head) };
	return run_tiny(tests);
}
