#include "run/config.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "nla/half.h"

#define AT(field) offsetof(struct nla_config, field)
#define ALL NLA_CMD_ALL
#define TRAIN NLA_CMD_TRAIN
#define SFT NLA_CMD_SFT
#define EXTRACT NLA_CMD_EXTRACT
#define EVAL NLA_CMD_EVAL
#define EXPLAIN NLA_CMD_EXPLAIN
#define TEACH NLA_CMD_TEACH
#define EXPORT NLA_CMD_EXPORT
#define BIG 1e15

static const char av_template[] =
	"The vector below is what a language model has in mind at one position of a text. Say what it holds, inside <explanation> tags.\n"
	"Vector: {injection_char}";
static const char ar_template[] = "A text and what the model has in mind at its end: {explanation} Vector:";

/* As put, models of 135M parameters answer it: instructions before the text, or several at once, they do not follow. */
static const char teach_prompt[] =
	"Text:\n\"\"\"\n{text}\n\"\"\"\nIn one or two short sentences: what is this text about, and what comes next?";

/* clang-format off */
const struct nla_option nla_config_table[] = {
	{ "model", NLA_OPT_PATH, AT(model), "", 0, 0, NULL, "model", ALL, "target: a model folder in Hugging Face's layout; empty: av, when av and ar are both whole checkpoints (nla-train, nla-eval, nla-explain)" },
	{ "av", NLA_OPT_PATH, AT(av), "", 0, 0, NULL, "av", TRAIN | SFT | EVAL | EXPLAIN | EXPORT, "verbalizer: adapter folder or whole checkpoint (nla-sft: where to go on from; empty: a fresh one)" },
	{ "ar", NLA_OPT_PATH, AT(ar), "", 0, 0, NULL, "ar", TRAIN | SFT | EVAL | EXPLAIN | EXPORT, "reconstructor: adapter folder or whole (truncated) checkpoint, with head (nla-sft: where to go on from; empty: a fresh one)" },
	{ "av_base", NLA_OPT_PATH, AT(av_base), "", 0, 0, NULL, NULL, TRAIN | SFT | EVAL | EXPLAIN | EXPORT, "whole checkpoint that av's adapter stands on; empty: as it says itself, else model" },
	{ "ar_base", NLA_OPT_PATH, AT(ar_base), "", 0, 0, NULL, NULL, TRAIN | SFT | EVAL | EXPLAIN | EXPORT, "the same for ar" },
	{ "ref", NLA_OPT_PATH, AT(ref), "", 0, 0, NULL, "ref", EVAL, "anchor whose log-probabilities are reported; empty: the run's own when av is its checkpoint, else av" },
	{ "data", NLA_OPT_PATH, AT(data), "", 0, 0, NULL, "data", TRAIN | SFT | EVAL | EXPLAIN | TEACH, "activation set" },
	{ "out", NLA_OPT_PATH, AT(out), "", 0, 0, NULL, "out", TRAIN | SFT | EXTRACT | EVAL | TEACH | EXPORT, "folder to write" },
	{ "device", NLA_OPT_STR, AT(device), "auto", 0, 0, NULL, "device", ALL, "auto, cpu, cuda or cuda:N" },
	{ "dtype", NLA_OPT_ENUM, AT(dtype), "auto", 0, 0, "auto|fp32|bf16", "dtype", ALL & ~EXPORT, "of the weights; auto: fp32 on the CPU, bf16 on a GPU" },
	{ "seed", NLA_OPT_INT, AT(seed), "0", 0, BIG, NULL, "seed", ALL & ~EXPORT, "of every random number" },
	{ "threads", NLA_OPT_INT, AT(threads), "0", 0, 1024, NULL, "threads", ALL, "CPU threads; 0: all cores" },
	{ "memory", NLA_OPT_STR, AT(memory), "", 0, 0, NULL, "memory", TRAIN | SFT | EVAL, "bytes of the device to use, as 24G (K, M, G, T: powers of 1000; Ki, Mi, Gi, Ti: of 1024); empty: what is free. A GPU keeps to it" },
	{ "check", NLA_OPT_BOOL, AT(check), "false", 0, 0, NULL, "check", TRAIN, "load and verify everything, print the memory plan (with memory: for a GPU of that size), try one prompt, write nothing" },
	{ "steps", NLA_OPT_INT, AT(steps), "250", 1, BIG, NULL, "steps", TRAIN | SFT, "updates to make" },
	{ "resume", NLA_OPT_BOOL, AT(resume), "false", 0, 0, NULL, "resume", TRAIN | SFT | TEACH, "go on from the newest whole checkpoint in out (nla-teach: after its last batch)" },
	{ "overwrite", NLA_OPT_BOOL, AT(overwrite), "false", 0, 0, NULL, "overwrite", TRAIN | SFT | EXTRACT | EVAL | TEACH | EXPORT, "replace what is in out" },

	{ "chat.format", NLA_OPT_ENUM, AT(chat.format), "auto", 0, 0, NLA_CHAT_FORMATS, NULL, ALL, "of prompts; auto: as nla_chat.json, the model's chat template or its tokens say" },
	{ "chat.system", NLA_OPT_STR, AT(chat.system), "auto", 0, 0, NULL, NULL, ALL, "system turn of prompts; auto: the chat template's own, if it has one; empty: none" },
	{ "chat.file", NLA_OPT_PATH, AT(chat.file), "", 0, 0, NULL, NULL, ALL, "what scripts/chat-format.py wrote of the chat template; empty: nla_chat.json in the model's folder, if there is one" },

	{ "lora.rank", NLA_OPT_INT, AT(lora.rank), "16", 1, 8192, NULL, NULL, TRAIN | SFT, "rank of the adapter to train" },
	{ "lora.alpha", NLA_OPT_NUM, AT(lora.alpha), "32", 0, 1e6, NULL, NULL, TRAIN | SFT, "its scale: alpha/sqrt(rank), or alpha/rank without rslora" },
	{ "lora.rslora", NLA_OPT_BOOL, AT(lora.rslora), "true", 0, 0, NULL, NULL, TRAIN | SFT, "scale by sqrt(rank)" },
	{ "lora.targets", NLA_OPT_STR, AT(lora.targets), "q,k,v,o", 0, 0, NULL, NULL, TRAIN | SFT, "projections: some of q,k,v,o,gate,up,down" },

	{ "rollout.prompts", NLA_OPT_INT, AT(rollout.prompts), "8", 1, 65536, NULL, "prompts", TRAIN, "activations a step" },
	{ "rollout.group", NLA_OPT_INT, AT(rollout.group), "4", 2, 4096, NULL, "group", TRAIN, "responses an activation" },
	{ "rollout.max_new_tokens", NLA_OPT_INT, AT(rollout.max_new_tokens), "160", 1, 16384, NULL, "max-new-tokens", TRAIN | EVAL | EXPLAIN, "longest response" },
	{ "rollout.min_new_tokens", NLA_OPT_INT, AT(rollout.min_new_tokens), "0", 0, 16384, NULL, NULL, TRAIN | EVAL, "stop tokens before that many do not end a response (benchmarks)" },
	{ "rollout.temperature", NLA_OPT_NUM, AT(rollout.temperature), "1", 0, 100, NULL, "temperature", TRAIN | EVAL | EXPLAIN, "of sampling, the full distribution; 0: greedy (not for training)" },
	{ "rollout.truncated", NLA_OPT_ENUM, AT(rollout.truncated), "fail", 0, 0, "fail|score", NULL, TRAIN | EVAL | EXPLAIN, "a response without stop token fails, or is scored if its tags closed" },

	{ "reward.score", NLA_OPT_ENUM, AT(reward.score), "fve", 0, 0, "fve|-mse", NULL, TRAIN, "what is rewarded; also the unit of lambda" },
	{ "reward.lambda", NLA_OPT_NUM, AT(reward.lambda), "0", 0, 100, NULL, "lambda", TRAIN, "penalty a token, in units of reward.score: 0.002 of -mse is about 0.003 of fve" },
	{ "reward.floor", NLA_OPT_INT, AT(reward.floor), "0", 0, 16384, NULL, "floor", TRAIN, "tokens that cost nothing" },
	{ "reward.count", NLA_OPT_ENUM, AT(reward.count), "response", 0, 0, "response|explanation", NULL, TRAIN, "tokens that count: the response with its stop token, or the explanation alone" },
	{ "reward.fail_mse", NLA_OPT_NUM, AT(reward.fail_mse), "2", 0, 4, NULL, NULL, TRAIN | EVAL, "mse of a failed row" },
	{ "advantage.min_std", NLA_OPT_NUM, AT(advantage.min_std), "0", 0, 100, NULL, NULL, TRAIN, "groups whose rewards spread less get advantage 0" },

	{ "update.lr", NLA_OPT_NUM, AT(update.lr), "1e-5", 0, 10, NULL, "lr", TRAIN, "learning rate, constant" },
	{ "update.clip", NLA_OPT_NUM, AT(update.clip), "0.2", 0, 1, NULL, NULL, TRAIN, "ratio clip" },
	{ "update.kl", NLA_OPT_NUM, AT(update.kl), "0.01", 0, 100, NULL, "kl", TRAIN, "weight of the KL term to the AV as it was at the start" },
	{ "update.grad_clip", NLA_OPT_NUM, AT(update.grad_clip), "1", 0, 1e9, NULL, NULL, TRAIN | SFT, "gradient norm to clip to; 0: off" },
	{ "update.micro_batch", NLA_OPT_INT, AT(update.micro_batch), "0", 0, 65536, NULL, NULL, TRAIN | SFT, "responses (nla-sft: rows) a backward pass; 0: as many as the memory plan allows" },
	{ "update.recompute", NLA_OPT_ENUM, AT(update.recompute), "auto", 0, 0, "auto|true|false", NULL, TRAIN | SFT, "run blocks again in the backward pass instead of keeping their activations: less memory, the same gradients; auto: where the plan needs it" },
	{ "update.max_bad_steps", NLA_OPT_INT, AT(update.max_bad_steps), "10", 1, BIG, NULL, NULL, TRAIN | SFT, "non-finite gradients in a row that end the run" },
	{ "ar_update.enabled", NLA_OPT_BOOL, AT(ar_update.enabled), "false", 0, 0, NULL, NULL, TRAIN, "co-train the AR, one step a batch; else frozen" },
	{ "ar_update.lr", NLA_OPT_NUM, AT(ar_update.lr), "1e-5", 0, 10, NULL, NULL, TRAIN, "its learning rate" },
	{ "ar_update.train_head", NLA_OPT_BOOL, AT(ar_update.train_head), "false", 0, 0, NULL, NULL, TRAIN, "train its head too" },

	{ "eval.data", NLA_OPT_PATH, AT(eval.data), "", 0, 0, NULL, NULL, TRAIN | EVAL, "held-out activation set; nla-eval: empty means data" },
	{ "eval.rows", NLA_OPT_INT, AT(eval.rows), "0", 0, BIG, NULL, "rows", TRAIN | EVAL, "rows evaluated, the same for the same set; 0: all" },
	{ "eval.every", NLA_OPT_INT, AT(eval.every), "0", 0, BIG, NULL, NULL, TRAIN, "steps between evaluations; 0: at start and end only, and only with eval.data" },
	{ "eval.batch", NLA_OPT_INT, AT(eval.batch), "128", 1, 65536, NULL, NULL, TRAIN | EVAL, "rows sampled at once" },
	{ "checkpoint.every", NLA_OPT_INT, AT(checkpoint.every), "50", 0, BIG, NULL, NULL, TRAIN | SFT, "steps between checkpoints; 0: at the end only" },
	{ "checkpoint.keep", NLA_OPT_INT, AT(checkpoint.keep), "2", 1, BIG, NULL, NULL, TRAIN | SFT, "newest checkpoints kept" },
	{ "log.every", NLA_OPT_INT, AT(log.every), "1", 1, BIG, NULL, NULL, TRAIN | SFT, "steps between lines for people; metrics.jsonl has all" },
	{ "log.samples_every", NLA_OPT_INT, AT(log.samples_every), "10", 1, BIG, NULL, NULL, TRAIN, "steps between samples" },
	{ "log.samples", NLA_OPT_INT, AT(log.samples), "4", 0, BIG, NULL, NULL, TRAIN, "responses written to samples.jsonl.gz then" },

	{ "sft.role", NLA_OPT_ENUM, AT(sft.role), "av", 0, 0, "lm|av|ar", "role", SFT, "what to train: a small target from nothing, the AV or the AR" },
	{ "sft.corpus", NLA_OPT_PATH, AT(sft.corpus), "", 0, 0, NULL, "corpus", SFT, "role lm: text, or a folder of texts" },
	{ "sft.batch", NLA_OPT_INT, AT(sft.batch), "32", 1, 65536, NULL, "batch", SFT, "rows (role lm: sequences) a step" },
	{ "sft.context", NLA_OPT_INT, AT(sft.context), "256", 2, 32768, NULL, NULL, SFT, "role lm: longest sequence; longer documents are cut into several" },
	{ "sft.lr", NLA_OPT_NUM, AT(sft.lr), "2e-5", 0, 10, NULL, "lr", SFT, "learning rate" },
	{ "sft.schedule", NLA_OPT_ENUM, AT(sft.schedule), "cosine", 0, 0, "constant|cosine", NULL, SFT, "of the learning rate" },
	{ "sft.warmup", NLA_OPT_INT, AT(sft.warmup), "50", 0, BIG, NULL, NULL, SFT, "steps of linear warm-up" },
	{ "sft.min_lr", NLA_OPT_NUM, AT(sft.min_lr), "0.1", 0, 1, NULL, NULL, SFT, "where the cosine ends, as a part of lr" },
	{ "sft.held_out", NLA_OPT_NUM, AT(sft.held_out), "0.05", 0, 0.9, NULL, NULL, SFT, "part of the documents held out" },
	{ "sft.held_every", NLA_OPT_INT, AT(sft.held_every), "100", 1, BIG, NULL, NULL, SFT, "steps between held-out figures" },
	{ "sft.init", NLA_OPT_BOOL, AT(sft.init), "false", 0, 0, NULL, NULL, SFT, "role lm: begin with random weights (the model folder needs config.json and tokenizer only)" },
	{ "sft.save_dtype", NLA_OPT_ENUM, AT(sft.save_dtype), "bf16", 0, 0, "bf16|fp32", NULL, SFT, "role lm: of the model folder that is written" },
	{ "sft.train_head", NLA_OPT_BOOL, AT(sft.train_head), "false", 0, 0, NULL, NULL, SFT, "role ar: train the head too" },

	{ "extract.corpus", NLA_OPT_PATH, AT(extract.corpus), "", 0, 0, NULL, "corpus", EXTRACT, "text, .jsonl or a folder of them, plain or gzip" },
	{ "extract.meta", NLA_OPT_PATH, AT(extract.meta), "", 0, 0, NULL, NULL, EXTRACT, "folder whose nla_meta.yaml gives block, marker and templates (a slim set's); empty: the options here" },
	{ "extract.at", NLA_OPT_ENUM, AT(extract.at), "random", 0, 0, "random|last", NULL, EXTRACT, "which tokens: some of each document, or the last of each text (slim sets)" },
	{ "extract.layer", NLA_OPT_INT, AT(extract.layer), "-1", -1, 4096, NULL, "layer", EXTRACT, "block K whose output is taken, from 0; -1: two thirds of the depth" },
	{ "extract.per_doc", NLA_OPT_INT, AT(extract.per_doc), "1", 1, 4096, NULL, NULL, EXTRACT, "positions a document" },
	{ "extract.min_position", NLA_OPT_INT, AT(extract.min_position), "50", 0, 32768, NULL, NULL, EXTRACT, "first position that may be chosen" },
	{ "extract.max_tokens", NLA_OPT_INT, AT(extract.max_tokens), "1024", 2, 32768, NULL, NULL, EXTRACT, "tokens of a document that are read" },
	{ "extract.next", NLA_OPT_INT, AT(extract.next), "0", 0, 100, NULL, NULL, EXTRACT, "the target's likeliest next tokens to keep with a row" },
	{ "extract.rows", NLA_OPT_INT, AT(extract.rows), "0", 0, BIG, NULL, "rows", EXTRACT, "rows to stop at; 0: the whole corpus" },
	{ "extract.dtype", NLA_OPT_ENUM, AT(extract.dtype), "bf16", 0, 0, "bf16|fp32", NULL, EXTRACT, "of the stored activations" },
	{ "templates.av", NLA_OPT_STR, AT(templates.av), av_template, 0, 0, NULL, NULL, EXTRACT, "AV prompt, with {injection_char} once" },
	{ "templates.ar", NLA_OPT_STR, AT(templates.ar), ar_template, 0, 0, NULL, NULL, EXTRACT, "AR prompt, with {explanation} once and text behind it" },
	{ "templates.marker", NLA_OPT_STR, AT(templates.marker), "\xe3\x88\x8e", 0, 0, NULL, NULL, EXTRACT, "the character put in for {injection_char}: one token" },

	{ "teach.model", NLA_OPT_PATH, AT(teach.model), "", 0, 0, NULL, "teacher", TEACH, "instruct model that writes the explanations; empty: model" },
	{ "teach.prompt", NLA_OPT_STR, AT(teach.prompt), teach_prompt, 0, 0, NULL, NULL, TEACH, "what it is asked, with {text} once and, for sets with next tokens, {next}" },
	{ "teach.explanation", NLA_OPT_STR, AT(teach.explanation), "{answer}", 0, 0, NULL, NULL, TEACH, "the explanation made of its {answer}; may add {end}, the text's last words, and {next}, in quotes" },
	{ "teach.system", NLA_OPT_STR, AT(teach.system), "auto", 0, 0, NULL, NULL, TEACH, "system turn before it; auto: the chat template's own, if it has one; empty: none" },
	{ "teach.max_end", NLA_OPT_INT, AT(teach.max_end), "6", 1, 1000, NULL, NULL, TEACH, "words in {end}, at most: 1 to that many, drawn for each row" },
	{ "teach.max_next", NLA_OPT_INT, AT(teach.max_next), "3", 1, 100, NULL, NULL, TEACH, "tokens in {next}, at most, likewise" },
	{ "teach.context", NLA_OPT_INT, AT(teach.context), "128", 1, 32768, NULL, NULL, TEACH, "last tokens of a row's text that it reads" },
	{ "teach.max_new_tokens", NLA_OPT_INT, AT(teach.max_new_tokens), "96", 1, 16384, NULL, "max-new-tokens", TEACH, "longest answer" },
	{ "teach.temperature", NLA_OPT_NUM, AT(teach.temperature), "0.7", 0, 100, NULL, "temperature", TEACH, "of sampling; 0: greedy" },
	{ "teach.tries", NLA_OPT_INT, AT(teach.tries), "2", 1, 100, NULL, NULL, TEACH, "answers asked for until one serves; then a truncated one is cut at its last sentence" },
	{ "teach.batch", NLA_OPT_INT, AT(teach.batch), "64", 1, 65536, NULL, "batch", TEACH, "rows answered at once" },
	{ "teach.rows", NLA_OPT_INT, AT(teach.rows), "0", 0, BIG, NULL, "rows", TEACH, "rows to teach, from the set's first that lack an explanation; 0: all" },
	{ "teach.again", NLA_OPT_BOOL, AT(teach.again), "false", 0, 0, NULL, NULL, TEACH, "teach rows that have an explanation too" },
	{ "teach.show", NLA_OPT_INT, AT(teach.show), "3", 0, BIG, NULL, NULL, TEACH, "first answers to print on stderr, with the end of their text" },

	{ "explain.row", NLA_OPT_INT, AT(explain.row), "0", 0, BIG, NULL, "row", EXPLAIN, "row of data to explain" },
	{ "explain.vector", NLA_OPT_PATH, AT(explain.vector), "", 0, 0, NULL, "vector", EXPLAIN, "a .safetensors file with one [D] tensor, instead of a row" },
	{ "explain.text", NLA_OPT_STR, AT(explain.text), "", 0, 0, NULL, "text", EXPLAIN, "a text whose activation is taken, instead of a row" },
	{ "explain.position", NLA_OPT_INT, AT(explain.position), "-1", -32768, 32768, NULL, "position", EXPLAIN, "token of the text; negative counts from its end" },
	{ "explain.samples", NLA_OPT_INT, AT(explain.samples), "1", 1, 4096, NULL, "samples", EXPLAIN, "explanations to write" },
	{ "export.dtype", NLA_OPT_ENUM, AT(export.dtype), "bf16", 0, 0, "bf16|fp32", NULL, EXPORT, "of the weights that are written" },
	{ "export.shard", NLA_OPT_NUM, AT(export.shard), "5", 0.0001, 1e6, NULL, NULL, EXPORT, "GB a file holds at most, unless one tensor is larger" },
	{ "score", NLA_OPT_PATH, AT(score), "", 0, 0, NULL, "score", EVAL, "score the texts of this .jsonl (row, and explanation or response) instead of sampling" },
};
/* clang-format on */
const size_t nla_config_n = NLA_LEN(nla_config_table);

/* A whole AV can stand for the target beside a whole AR. Not where activations are taken of a text: those are the target's own. */
static void find_model(struct nla_config *cfg, enum nla_command command)
{
	if (*cfg->model || !(command & (TRAIN | EVAL | EXPLAIN)) || *cfg->explain.text || !nla_is_whole(cfg->av) || !nla_is_whole(cfg->ar))
		return;
	free(cfg->model);
	cfg->model = nla_strdup(cfg->av);
}

enum nla_status nla_config_read(struct nla_config *cfg, enum nla_command command, int argc, char **argv, bool *help, struct nla_err *err)
{
	const char *path = NULL;
	memset(cfg, 0, sizeof(*cfg));
	nla_options_defaults(nla_config_table, nla_config_n, cfg);
	if (nla_options_args(nla_config_table, nla_config_n, cfg, command, argc, argv, &path, help, err) || *help)
		return err->status;
	if (command == NLA_CMD_TRAIN && cfg->rollout.temperature == 0)
		return nla_usage(err, "'rollout.temperature' is 0: training needs samples that differ, want more than 0");
	if (command == NLA_CMD_TRAIN && cfg->ar_update.train_head && !cfg->ar_update.enabled)
		return nla_usage(err, "'ar_update.train_head' is set, but not 'ar_update.enabled': the AR is frozen");
	if (cfg->rollout.min_new_tokens > cfg->rollout.max_new_tokens)
		return nla_usage(err, "'rollout.min_new_tokens' is more than 'rollout.max_new_tokens'");
	if (command == NLA_CMD_EXPLAIN && *cfg->explain.text && *cfg->explain.vector)
		return nla_usage(err, "'explain.text' and 'explain.vector' are both set: give one of them");
	int64_t bytes;
	if (nla_config_memory(cfg, &bytes, err))
		return err->status;
	if (cfg->resume && cfg->overwrite)
		return nla_usage(err, "'resume' and 'overwrite' exclude each other");
	find_model(cfg, command);
	return NLA_OK;
}

void nla_config_release(struct nla_config *cfg) { nla_options_release(nla_config_table, nla_config_n, cfg); }

enum nla_status nla_config_write(const struct nla_config *cfg, const char *path, struct nla_err *err)
{
	struct nla_config lasting = *cfg; /* what was asked of this one start must not be asked again by who reads the file */
	lasting.resume = lasting.overwrite = lasting.check = false;
	cJSON *json = nla_options_dump(nla_config_table, nla_config_n, &lasting);
	enum nla_status status = nla_json_write(path, json, true, err);
	cJSON_Delete(json);
	return status;
}

enum nla_status nla_config_need(const char *value, const char *key, struct nla_err *err)
{
	return *value ? NLA_OK : nla_usage(err, "'%s' is not set: put it in the configuration file or give --%s", key, key);
}

enum nla_status nla_config_lora(const struct nla_config *cfg, struct nla_lora_spec *spec, struct nla_err *err)
{
	*spec = (struct nla_lora_spec){ .rank = cfg->lora.rank, .alpha = cfg->lora.alpha, .rslora = cfg->lora.rslora };
	return nla_lora_targets(cfg->lora.targets, &spec->targets, err) ? nla_err_context(err, "'lora.targets'") : NLA_OK;
}

enum nla_status nla_config_memory(const struct nla_config *cfg, int64_t *bytes, struct nla_err *err)
{
	static const char units[] = "KMGT";
	const char *text = cfg->memory, *unit;
	char *end;
	*bytes = 0;
	if (!*text)
		return NLA_OK;
	double value = *text >= '0' && *text <= '9' ? strtod(text, &end) : (end = cfg->memory, 0);
	unit = *end && end > text ? strchr(units, *end >= 'a' ? *end - 'a' + 'A' : *end) : NULL;
	if (unit) {
		bool binary = end[1] == 'i';
		for (end += 1 + binary; unit >= units; unit--)
			value *= binary ? 1024 : 1000;
	}
	if (*end == 'B')
		end++;
	if (*end || !(value >= 1e6) || value > 1e15)
		return nla_usage(err, "'memory' is '%s': want a size of at least 1M, such as 24G", text);
	*bytes = (int64_t)value;
	return NLA_OK;
}

enum nla_status nla_config_device(const struct nla_config *cfg, int *device, nt_dtype *dtype, struct nla_err *err)
{
	const char *d = cfg->device;
	bool numbered = !strncmp(d, "cuda:", 5) && d[5] && strspn(d + 5, "0123456789") == strlen(d + 5);
	if (strcmp(d, "auto") && strcmp(d, "cpu") && strcmp(d, "cuda") && !numbered)
		return nla_usage(err, "'device' is '%s': want auto, cpu, cuda or cuda:N", d);
	nt_set_threads((int)cfg->threads);
	if (nt_device_open(d, device))
		return nla_nt_fail(err, "cannot use device '%s'", d);
	bool for_gpu = *device != NT_CPU || (cfg->check && *cfg->memory); /* the check of a GPU that is not here */
	*dtype = cfg->dtype == NLA_DTYPE_BF16 || (cfg->dtype == NLA_DTYPE_AUTO && for_gpu) ? NT_BF16 : NT_F32;
	return NLA_OK;
}

enum nla_status nla_config_room(const struct nla_config *cfg, int device, int64_t *room, struct nla_err *err)
{
	int64_t total, peak, limit, context = device == NT_CPU ? 0 : NLA_PLAN_CONTEXT; /* which is there already, and in the plan */
	if (nla_config_memory(cfg, &limit, err))
		return err->status;
	if (nt_memory(device, room, &total, &peak))
		return nla_nt_fail(err, "cannot read the memory's size");
	*room += context;
	if (!limit || (cfg->check && device == NT_CPU)) /* that memory is another device's */
		return NLA_OK;
	*room = NLA_MIN(*room, limit);
	if (device != NT_CPU && nt_memory_limit(device, NLA_MAX(limit - context, 1)))
		return nla_nt_fail(err, "cannot keep to 'memory'");
	return NLA_OK;
}
