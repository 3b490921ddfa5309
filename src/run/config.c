/* The option table, and what combines several options (config.h). */
#include "run/config.h"
#include "base/file.h"
#include "base/json.h"
#include "base/machine.h"
#include "base/progress.h"
#include "lm/ranks.h"
#include "nla/half.h"
#include "run/folder.h"
#include "run/health.h"
#include "run/launch.h"

enum {
	ALL = NLA_CMD_ALL, TRAIN = NLA_CMD_TRAIN, SFT = NLA_CMD_SFT, EXTRACT = NLA_CMD_EXTRACT, EVAL = NLA_CMD_EVAL,
	EXPLAIN = NLA_CMD_EXPLAIN, TEACH = NLA_CMD_TEACH, EXPORT = NLA_CMD_EXPORT,
	HALVES = TRAIN | SFT | EVAL | EXPLAIN | EXPORT, SAMPLES = TRAIN | EVAL | EXPLAIN,
	RESUMES = TRAIN | SFT | EXTRACT | TEACH
};
#define FREE NLA_OPT_MAY_CHANGE
#define BIG 1e15

static const char av_template[] =
	"The vector below is what a language model has in mind at one position of a text. "
	"Say what it holds, inside <explanation> tags.\n"
	"Vector:\n{injection_char}";
static const char ar_template[] = "A text and what the model has in mind at its end: {explanation} Vector:";

/* Models of 135M parameters answer this; instructions before the text, or several at once, they do not follow. */
static const char teach_prompt[] =
	"Text:\n\"\"\"\n{text}\n\"\"\"\nIn one or two short sentences: what is this text about, and what comes next?";

/* A row is KIND(field, [default, [least, most or choices,]] short name, programs, help); the key is spelled as the field. */
#define ROW(field, type, def, min, max, choices, flag, who, help) \
	{ #field, NLA_OPT_##type, offsetof(struct nla_config, field), def, min, max, choices, flag, who, help }
#define INT(field, def, min, max, flag, who, help) ROW(field, INT, def, min, max, NULL, flag, who, help)
#define NUM(field, def, min, max, flag, who, help) ROW(field, NUM, def, min, max, NULL, flag, who, help)
#define BOOL(field, who, help) ROW(field, BOOL, "false", 0, 0, NULL, NULL, who, help)
#define STR(field, def, flag, who, help) ROW(field, STR, def, 0, 0, NULL, flag, who, help)
#define PATH(field, flag, who, help) ROW(field, PATH, "", 0, 0, NULL, flag, who, help)
#define ENUM(field, def, choices, flag, who, help) ROW(field, ENUM, def, 0, 0, choices, flag, who, help)

/* clang-format off */
const struct nla_option nla_config_table[] = {
	PATH(model, NULL, ALL, "target: a model folder in Hugging Face's layout; "
	     "empty: av, when av and ar are both whole checkpoints (nla-train, nla-eval, nla-explain)"),
	PATH(av, NULL, HALVES, "verbalizer: adapter folder or whole checkpoint (nla-sft: what to start from; empty: fresh)"),
	PATH(ar, NULL, HALVES, "reconstructor: adapter folder or whole (truncated) checkpoint, with head (nla-sft: as av)"),
	PATH(av_base, NULL, HALVES, "whole checkpoint that av's adapter is based on; empty: as its folder says, or model"),
	PATH(ar_base, NULL, HALVES, "the same for ar"),
	PATH(ref, NULL, EVAL, "anchor of the reported log-probabilities; empty: the run's own if av is its checkpoint, or av"),
	PATH(data, NULL, TRAIN | SFT | EVAL | EXPLAIN | TEACH, "activation set"),
	PATH(out, NULL, TRAIN | SFT | EXTRACT | EVAL | TEACH | EXPORT | FREE,
	     "folder to write; nla-eval and nla-export ignore a file's, the training run's, and "
	     "nla-eval without --out writes evaluations/step-N in av's run"),
	STR(device, "auto", NULL, ALL | FREE, "auto, cpu, cuda or cuda:N"),
	ENUM(dtype, "auto", "auto|fp32|bf16", NULL, ALL & ~EXPORT,
	     "type of the weights; CPUs sum in fp32, some multiply in bf16; auto: bf16 on a GPU, fp32 on CPUs and for role lm"),
	INT(seed, "0", 0, BIG, NULL, ALL & ~EXPORT, "seed of all random numbers"),
	INT(threads, "0", 0, 1024, NULL, ALL | FREE, "CPU threads; 0: OMP_NUM_THREADS or the cores, within limits"),
	STR(memory, "", NULL, (ALL & ~EXPORT) | FREE,
	    "memory of the device to use, such as 24G or 24Gi; empty: what is free. On a GPU it is also a limit"),
	BOOL(check, TRAIN | FREE,
	     "load and verify all, print the memory plan (with memory: for a GPU of that size), try one prompt, write nothing"),
	BOOL(profile, TRAIN | FREE, "write where the second step's time goes to trace-STEP.json in out, for nla-profile"),
	STR(guard, "", NULL, TRAIN | FREE,
	    "warnings that end the run, separated by commas, without spaces: some of " NLA_HEALTH_NAMES),
	INT(watchdog, "1800", 0, 1000000, NULL, TRAIN | SFT | FREE,
	    "seconds after which a step, evaluation or checkpoint that has not ended is named; 0: never"),
	BOOL(quiet, ALL | FREE, "on stderr warnings and errors alone; a run's log.txt has all"),
	INT(steps, "250", 0, BIG, NULL, TRAIN | SFT | FREE, "number of updates; 0: evaluate and save the start"),
	BOOL(resume, RESUMES | FREE, "resume from the newest checkpoint, or batch, in out"),
	BOOL(overwrite, TRAIN | SFT | EXTRACT | EVAL | TEACH | EXPORT | FREE, "replace what is in out"),

	ENUM(chat.format, "auto", NLA_CHAT_FORMATS, NULL, ALL, "prompt format; auto: by nla_chat.json, template or tokens"),
	STR(chat.system, "auto", NULL, ALL, "system turn of prompts; auto: the chat template's, if it has one; empty: none"),
	PATH(chat.file, NULL, ALL, "the output of scripts/chat-format.py; empty: nla_chat.json in the model's folder"),
	{ "tokens.add_special", NLA_OPT_ENUM, offsetof(struct nla_config, chat.add_special), "auto", 0, 0, "auto|true|false",
	  NULL, ALL, "special tokens (BOS) in front of extraction texts and AR prompts; auto: by sidecar, else by tokenizer" },

	INT(lora.rank, "16", 1, 8192, NULL, TRAIN | SFT, "rank of the adapter to train"),
	NUM(lora.alpha, "32", 1e-3, 1e6, NULL, TRAIN | SFT, "adapter scale: alpha/sqrt(rank), without rslora alpha/rank"),
	ROW(lora.rslora, BOOL, "true", 0, 0, NULL, NULL, TRAIN | SFT, "scale by sqrt(rank)"),
	STR(lora.targets, "q,k,v,o", NULL, TRAIN | SFT, "projections with an adapter: some of q,k,v,o,gate,up,down"),

	INT(rollout.prompts, "8", 1, 65536, "prompts", TRAIN, "activations in a step"),
	INT(rollout.group, "4", 2, 4096, "group", TRAIN, "responses to an activation"),
	INT(rollout.max_new_tokens, "160", 1, 16384, "max-new-tokens", SAMPLES, "longest response"),
	INT(rollout.min_new_tokens, "0", 0, 16384, NULL, TRAIN | EVAL, "do not stop a response before that many (benchmarks)"),
	NUM(rollout.temperature, "1", 0, 100, "temperature", SAMPLES, "of the full distribution; 0: greedy (not for training)"),
	ENUM(rollout.truncated, "fail", "fail|score", NULL, SAMPLES, "without stop token: fail, or score if tags are closed"),

	ENUM(reward.score, "fve", "fve|-mse", NULL, TRAIN, "what is rewarded; also the unit of lambda"),
	{ "reward.lambda", NLA_OPT_NUMS, offsetof(struct nla_config, lambdas), "0", 0, 100, NULL, "lambda", TRAIN,
	  "penalty for a token, in units of reward.score; several train together, each in out/lambda-L-seed-S" },
	INT(reward.floor, "0", 0, 16384, "floor", TRAIN, "tokens without penalty"),
	ENUM(reward.count, "response", "response|explanation", NULL, TRAIN, "tokens that count: all of it, or these alone"),
	NUM(reward.fail_mse, "2", 0, 4, NULL, TRAIN | EVAL, "mse of a failed row"),
	NUM(advantage.min_std, "0", 0, 100, NULL, TRAIN, "groups whose rewards have a smaller deviation get advantage 0"),

	NUM(update.lr, "1e-5", 0, 10, "lr", TRAIN, "learning rate, constant"),
	NUM(update.clip, "0.2", 0, 1, NULL, TRAIN, "ratio clip"),
	NUM(update.kl, "0.01", 0, 100, "kl", TRAIN, "weight of the KL term to the AV at the start of the run"),
	NUM(update.grad_clip, "1", 0, 1e9, NULL, TRAIN | SFT, "gradient norm to clip to; 0: off"),
	INT(update.micro_batch, "0", 0, 65536, NULL, TRAIN | SFT | FREE, "responses (nla-sft: rows) at once; 0: by plan"),
	ENUM(update.recompute, "auto", "auto|true|false", NULL, TRAIN | SFT | FREE,
	     "compute blocks twice instead of keeping activations: less memory, equal gradients; auto: if the plan needs it"),
	INT(update.max_bad_steps, "10", 1, BIG, NULL, TRAIN | SFT, "non-finite gradients in a row that end the run"),
	BOOL(ar_update.enabled, TRAIN, "co-train the AR, one step for each batch; else it is frozen"),
	NUM(ar_update.lr, "1e-5", 0, 10, NULL, TRAIN, "learning rate of the AR"),
	BOOL(ar_update.train_head, TRAIN, "train the AR's head too"),

	PATH(eval.data, NULL, TRAIN | EVAL | FREE,
	     "held-out activation set; that of a file is what nla-eval and nla-explain look at, in place of its data"),
	ENUM(eval.baseline, "data", "data|rows", NULL, TRAIN | EVAL | FREE,
	     "variance that FVE is of: the one stored with the evaluated set, or that of the evaluated rows"),
	ENUM(eval.vectors, "own", "own|another", NULL, EVAL,
	     "whose vector a row's explanation is of: its own; or, as a control, the next row's of another document"),
	PATH(eval.start_ar, NULL, EVAL, "an AR that scores the same texts once more (fve_start_ar), if it is another than ar; "
	     "empty: the one that the run began with, where the run trained it"),
	STR(eval.name, "", "name", EVAL, "a run's evaluation is written to evaluations/step-N-NAME; "
	    "empty: to step-N, with eval.vectors another to step-N-another"),
	INT(eval.samples, "1", 1, 4096, NULL, EVAL | FREE, "explanations of each row; the first is the one that 1 would draw"),
	INT(eval.rows, "0", 0, BIG, "rows", TRAIN | EVAL | FREE, "rows to evaluate, always the same of a set; 0: all"),
	INT(eval.every, "0", 0, BIG, NULL, TRAIN | FREE, "steps between evaluations; 0: at start and end, with eval.data only"),
	ROW(eval.logprob, BOOL, "true", 0, 0, NULL, NULL, TRAIN | EVAL | FREE,
	    "log-probabilities of the responses and their KL, which take half of its time; in nla-train at update.kl 0"),
	BOOL(eval.recovered_kl, EVAL, "how much of the target's next-token distribution the reconstructions bring back"),
	INT(eval.batch, "128", 1, 65536, NULL, TRAIN | EVAL | FREE, "rows sampled at once"),
	INT(checkpoint.every, "50", 0, BIG, NULL, TRAIN | SFT | FREE, "steps between checkpoints; 0: at the end only"),
	INT(checkpoint.keep, "2", 1, BIG, NULL, TRAIN | SFT | FREE, "newest checkpoints to keep"),
	BOOL(checkpoint.best, TRAIN | FREE,
	     "keep the one of the best evaluation by reward too, as checkpoints/best; such an evaluation makes one"),
	INT(log.every, "1", 1, BIG, NULL, TRAIN | SFT | FREE, "steps between lines on stderr; metrics.jsonl has all"),
	INT(log.samples_every, "10", 1, BIG, NULL, TRAIN | FREE, "steps between samples; the first step has some too"),
	INT(log.samples, "4", 0, BIG, NULL, TRAIN | FREE, "responses written to samples.jsonl each time, and a failed one"),
	INT(log.probe, "3", 0, 65536, NULL, TRAIN | SFT | FREE, "held-out rows, always the same, whose explanations are shown"),

	ENUM(sft.role, "av", "lm|av|ar", "role", SFT, "what to train: a small target from nothing, the AV or the AR"),
	PATH(sft.corpus, "corpus", SFT, "role lm: text, or a folder of texts"),
	INT(sft.batch, "32", 1, 65536, "batch", SFT, "rows (role lm: sequences) in a step"),
	INT(sft.context, "256", 2, 32768, NULL, SFT, "role lm: longest sequence; longer documents are cut into several"),
	NUM(sft.lr, "2e-5", 0, 10, "lr", SFT, "learning rate"),
	ENUM(sft.schedule, "cosine", "constant|cosine", NULL, SFT, "schedule of the learning rate"),
	INT(sft.warmup, "50", 0, BIG, NULL, SFT, "steps of linear warm-up"),
	NUM(sft.min_lr, "0.1", 0, 1, NULL, SFT, "end of the cosine, as a fraction of lr"),
	NUM(sft.held_out, "0.05", 0, 0.9, NULL, SFT, "fraction of the documents held out"),
	INT(sft.held_every, "100", 1, BIG, NULL, SFT, "steps between evaluations of the held-out documents"),
	BOOL(sft.init, SFT, "role lm: start with random weights (the model folder needs config.json and tokenizer only)"),
	ENUM(sft.save_dtype, "bf16", "bf16|fp32", NULL, SFT, "role lm: type of the written weights"),
	BOOL(sft.train_head, SFT, "role ar: train the head too"),

	PATH(extract.corpus, "corpus", EXTRACT, "text, .jsonl or a folder of them, plain or gzip"),
	PATH(extract.meta, NULL, EXTRACT, "folder whose nla_meta.yaml has block, marker and templates (slim sets)"),
	ENUM(extract.at, "random", "random|last", NULL, EXTRACT, "some tokens of each document, or its last (slim sets)"),
	INT(extract.layer, "-1", -1, 4096, "layer", EXTRACT, "block K, from 0, whose output is taken; -1: at two thirds"),
	INT(extract.per_doc, "1", 1, 4096, NULL, EXTRACT, "positions in a document"),
	INT(extract.min_position, "50", 0, 32768, NULL, EXTRACT, "first position that may be chosen"),
	INT(extract.max_tokens, "1024", 2, 32768, NULL, EXTRACT, "tokens of a document that are read"),
	INT(extract.next, "0", 0, 100, NULL, EXTRACT, "the target's likeliest next tokens to store with a row"),
	INT(extract.rows, "0", 0, BIG, "rows", EXTRACT, "rows to stop at; 0: the whole corpus"),
	ENUM(extract.dtype, "bf16", "bf16|fp32", NULL, EXTRACT, "type of the stored activations"),
	ROW(extract.sidecar, BOOL, "false", 0, 0, NULL, "sidecar", EXTRACT,
	    "extract nothing: write the nla_meta.yaml of an AV, an AR or a set in out that was made elsewhere"),
	STR(templates.av, av_template, NULL, EXTRACT, "AV prompt, with {injection_char} once"),
	STR(templates.ar, ar_template, NULL, EXTRACT, "AR prompt, with {explanation} once and text after it"),
	STR(templates.marker, "auto", NULL, EXTRACT,
	    "what replaces {injection_char}: one token; auto: the first of a list that is one there"),

	PATH(teach.model, "teacher", TEACH, "instruct model that writes the explanations; empty: model"),
	STR(teach.prompt, teach_prompt, NULL, TEACH, "its prompt, with {text} once and, for sets with next tokens, {next}"),
	STR(teach.explanation, "{answer}", NULL, TEACH | FREE, "made of its {answer}; may add {end} of the text and {next}"),
	STR(teach.system, "auto", NULL, TEACH, "its system turn; auto: the chat template's, if it has one; empty: none"),
	INT(teach.max_end, "6", 1, 1000, NULL, TEACH | FREE, "most words in {end}: 1 to that many, drawn for each row"),
	INT(teach.max_next, "3", 1, 100, NULL, TEACH | FREE, "most tokens in {next}, likewise"),
	INT(teach.context, "128", 1, 32768, NULL, TEACH, "last tokens of a row's text that it reads"),
	INT(teach.max_new_tokens, "96", 1, 16384, "max-new-tokens", TEACH, "longest answer"),
	NUM(teach.temperature, "0.7", 0, 100, "temperature", TEACH, "temperature of sampling; 0: greedy"),
	INT(teach.tries, "2", 1, 100, NULL, TEACH | FREE,
	    "answers asked for until one is usable; if none is, one that was cut off is kept up to its last sentence"),
	INT(teach.batch, "64", 1, 65535, "batch", TEACH | FREE, "rows answered at once"),
	INT(teach.rows, "0", 0, BIG, "rows", TEACH | FREE, "rows to teach, the set's first without an explanation; 0: all"),
	BOOL(teach.again, TEACH, "teach rows that have an explanation too"),
	INT(teach.show, "3", 0, BIG, NULL, TEACH | FREE, "first answers to print on stderr, with the end of their text"),

	INT(explain.row, "-1", -1, BIG, "row", EXPLAIN, "row of data to explain"),
	PATH(explain.vector, "vector", EXPLAIN, "a .safetensors file with one tensor, [D] or [N, D], instead of a row"),
	STR(explain.text, "", "text", EXPLAIN, "a text to take activations of, instead of a row; @FILE: a file's, -: stdin's"),
	INT(explain.position, "-1", -32768, 32768, "position", EXPLAIN, "token of the text; negative: from its end"),
	STR(explain.positions, "", "positions", EXPLAIN, "several tokens of the text: all, every:N, or such as 3,7,-1"),
	INT(explain.samples, "1", 1, 4096, "samples", EXPLAIN, "explanations to write"),
	ENUM(export.dtype, "bf16", "bf16|fp32", NULL, EXPORT, "type of the written weights"),
	NUM(export.shard, "5", 0.0001, 1e6, NULL, EXPORT, "most GB in a file, unless one tensor is larger"),
	NUM(dist.timeout, "600", 4, 1e6, NULL, (ALL & ~(EXPLAIN | EXPORT)) | FREE,
	    "seconds after which several ranks end when one of them is gone or hangs, or a rank is not there at the start"),
	PATH(score, NULL, EVAL, "score all texts of this .jsonl (row, and explanation or response) instead of sampling"),
};
/* clang-format on */
const size_t nla_config_n = NLA_LEN(nla_config_table);

/* Each of them fits its range; their product is what is allocated. */
static enum nla_status check_sizes(const struct nla_config *cfg, struct nla_err *err)
{
	const struct { const char *what; int64_t rows, tokens; } sizes[] = {
		{ "rollout.prompts * rollout.group * rollout.max_new_tokens", cfg->rollout.prompts * cfg->rollout.group,
		  cfg->rollout.max_new_tokens },
		{ "eval.batch * rollout.max_new_tokens", cfg->eval.batch, cfg->rollout.max_new_tokens },
		{ "sft.batch * sft.context", cfg->sft.batch, cfg->sft.context },
		{ "teach.batch * teach.max_new_tokens", cfg->teach.batch, cfg->teach.max_new_tokens },
	};
	for (size_t i = 0; i < NLA_LEN(sizes); i++) {
		long long rows = sizes[i].rows, tokens = rows * sizes[i].tokens;
		if (rows > 1 << 20 || tokens > NLA_MAX_TOKENS)
			return nla_usage(err, "'%s' is %lld tokens of %lld rows: want at most %d of %d", sizes[i].what, tokens,
					 rows, NLA_MAX_TOKENS, 1 << 20);
	}
	return NLA_OK;
}

static enum nla_status read_memory(struct nla_config *cfg, struct nla_err *err)
{
	static const char units[] = "KMGT";
	const char *text = cfg->memory, *unit;
	char *end = cfg->memory;
	double value = 0;
	if (!*text)
		return NLA_OK;
	if (strspn(text, "0123456789.") && text[1] != 'x' && text[1] != 'X')
		value = strtod(text, &end);
	unit = *end && end > text ? strchr(units, *end >= 'a' ? *end - 'a' + 'A' : *end) : NULL;
	if (unit) {
		const bool binary = end[1] == 'i';
		for (end += 1 + binary; unit >= units; unit--)
			value *= binary ? 1024 : 1000;
	}
	end += *end == 'B';
	if (*end || !(value >= 1e6) || value > 1e15)
		return nla_usage(err, "'memory' is '%s': want a size of at least 1M, such as 24G", text);
	cfg->memory_bytes = (int64_t)value;
	return NLA_OK;
}

static enum nla_status check_rules(const struct nla_config *cfg, enum nla_command command, struct nla_err *err)
{
	const bool train = command == NLA_CMD_TRAIN, explain = command == NLA_CMD_EXPLAIN, eval = command == NLA_CMD_EVAL;
	const struct { bool broken; const char *why; } rules[] = {
		{ train && cfg->rollout.temperature == 0,
		  "'rollout.temperature' is 0: training needs samples that differ, want more than 0" },
		{ train && cfg->ar_update.train_head && !cfg->ar_update.enabled,
		  "'ar_update.train_head' is set, but not 'ar_update.enabled': the AR is frozen" },
		{ train && cfg->checkpoint.best && !*cfg->eval.data,
		  "'checkpoint.best' is set, but not 'eval.data': nothing tells the best" },
		{ cfg->rollout.min_new_tokens > cfg->rollout.max_new_tokens,
		  "'rollout.min_new_tokens' is more than 'rollout.max_new_tokens'" },
		{ explain && !!*cfg->explain.text + !!*cfg->explain.vector + (cfg->explain.row >= 0) > 1,
		  "more than one of 'explain.text', 'explain.vector' and 'explain.row' is set: give one" },
		{ explain && *cfg->explain.positions && !*cfg->explain.text,
		  "'explain.positions' are tokens of a text: give --text" },
		{ explain && !*cfg->explain.text && !*cfg->explain.vector && cfg->explain.row < 0,
		  "nothing to explain: give a --text that is not empty, a --row of data, or a --vector" },
		{ eval && *cfg->score && !*cfg->out && !*cfg->eval.name,
		  "texts of --score are not what a run says: give --name or --out" },
		{ eval && *cfg->score && cfg->eval.vectors, "texts of --score name their vectors: leave out eval.vectors" },
		{ strchr(cfg->eval.name, '/'), "'eval.name' is part of a folder's name: want no slash" },
		{ cfg->resume && cfg->overwrite && command & RESUMES, "'resume' and 'overwrite' exclude each other" },
	};
	for (size_t i = 0; i < NLA_LEN(rules); i++)
		if (rules[i].broken)
			return nla_usage(err, "%s", rules[i].why);
	return nla_health_guard(cfg, train, err);
}

/* ---- runs ---- */

static void put(char **at, char *value)
{
	free(*at);
	*at = value;
}

/* *at becomes that part of the checkpoint that `path` means, and stays where it means none. */
static enum nla_status take_part(char **at, const char *path, const char *part, bool need, struct nla_err *err)
{
	nla_auto char *checkpoint = NULL;
	if (!*path || nla_checkpoint_of(path, &checkpoint, err) || !checkpoint)
		return err->status;
	if (nla_exists_in(checkpoint, part))
		put(at, nla_path_join(checkpoint, part));
	else if (need)
		nla_fail(err, "the checkpoint '%s' has no %s/", checkpoint, part);
	return err->status;
}

/* A run's folder, or its config.json: what the run came to, in place of what it began with. Its `out` is the run's, and that of
 * any file is a run's to nla-eval and nla-export. What they look at is the held-out set. */
static enum nla_status from_run(const struct nla_args *args, void *config, struct nla_err *err)
{
	struct nla_config *cfg = config;
	const unsigned who = args->command, reads = EVAL | EXPLAIN | EXPORT;
	const bool folder = nla_is_dir(args->config);
	nla_auto char *at = folder ? nla_strdup(args->config) : nla_path_dir(args->config), *checkpoint = NULL;
	const bool run = nla_is_run(at) || nla_exists_in(at, "state.json");
	if (folder && run && who & (TRAIN | SFT)) {
		nla_auto char *all = nla_path_dir(at), *above = nla_path_dir(all);
		nla_auto char *whole = nla_quoted(nla_exists_in(at, "state.json") ? above : at); /* of a checkpoint */
		return nla_usage(err, "'%s' is a run's folder: '%s %s/config.json --out %s --resume' continues that run", at,
				 nla_path_base(args->argv[0]), whole, whole);
	}
	nla_auto char *here = nla_quoted(at);
	if (nla_is_run(at) && who & (TRAIN | SFT) && nla_args_have(args, "--resume") && !nla_args_have(args, "--out") &&
	    !nla_same_folder(cfg->out, at)) /* it was moved, or copied */
		return nla_usage(err, "the 'out' of '%s' is '%s': give --out %s to resume it", args->config, cfg->out, here);
	if (who & (EVAL | EXPORT) || (run && !(who & (TRAIN | SFT))))
		put(&cfg->out, nla_strdup(""));
	if (who & (EVAL | EXPLAIN) && *cfg->eval.data) {
		put(&cfg->data, cfg->eval.data);
		cfg->eval.data = nla_strdup("");
	}
	if (!run || !(who & reads) || nla_checkpoint_of(at, &checkpoint, err))
		return err->status;
	if (who == EVAL && cfg->ar_update.enabled && !*cfg->eval.start_ar && nla_same_input(checkpoint, "ar", cfg->ar))
		put(&cfg->eval.start_ar, nla_strdup(cfg->ar));
	else if (who == EVAL && cfg->ar_update.enabled && !*cfg->eval.start_ar)
		nla_say("the AR that the run began with is not in '%s': it scores nothing", cfg->ar);
	cfg->explain.row = -1; /* a run explains nothing: what its file says is a default */
	if (who == EXPORT) {
		put(&cfg->av, nla_strdup(""));
		put(&cfg->ar, nla_strdup(""));
	}
	return take_part(&cfg->model, checkpoint, "model", false, err) || take_part(&cfg->av, checkpoint, "av", false, err)
		       ? err->status : take_part(&cfg->ar, checkpoint, "ar", false, err);
}

static enum nla_status resolve(struct nla_config *cfg, unsigned who, struct nla_err *err)
{
	const struct { char **at; const char *part; } paths[] = {
		{ &cfg->model, "model" }, { &cfg->av, "av" }, { &cfg->ar, "ar" },
		{ &cfg->av_base, "av" }, { &cfg->ar_base, "ar" }, { &cfg->eval.start_ar, "ar" }, { &cfg->ref, "av" },
		{ &cfg->teach.model, "model" },
	};
	for (size_t i = 0; i < NLA_LEN(paths) && !err->status; i++)
		take_part(paths[i].at, *paths[i].at, paths[i].part, true, err);
	nla_auto char *run = NULL, *beside = nla_format("%s/../ar", cfg->av);
	nla_auto char *own = realpath(beside, NULL), *ar = realpath(cfg->ar, NULL);
	const int64_t step = nla_checkpoint_step(cfg->av, &run);
	const char *name = *cfg->eval.name || !cfg->eval.vectors ? cfg->eval.name : "another";
	if (who == EVAL && !*cfg->out && run && !*name && own && ar && strcmp(own, ar))
		return nla_usage(err, "'%s' is not the AR of that checkpoint: give --name or --out", cfg->ar);
	if (who == EVAL && !*cfg->out && run)
		put(&cfg->out, nla_format("%s/evaluations/step-%lld%s%s", run, (long long)step, *name ? "-" : "", name));
	if (!err->status && !(who & (TRAIN | SFT)) && *cfg->out && nla_is_run(cfg->out))
		nla_usage(err, "'out' is '%s', a run's folder: give another --out", cfg->out);
	return err->status;
}

enum nla_status nla_config_read(struct nla_config *cfg, enum nla_command command, int argc, char **argv, bool *help,
				struct nla_err *err)
{
	struct nla_args args = { nla_config_table, nla_config_n, .command = command, .argc = argc, .argv = argv,
				 .loaded = from_run };
	memset(cfg, 0, sizeof(*cfg));
	nla_options_defaults(nla_config_table, nla_config_n, cfg);
	nla_options_args(&args, cfg, err);
	cfg->reward.lambda = strtod(cfg->lambdas, NULL);
	cfg->check = cfg->check && command & TRAIN; /* one file serves all: this is not asked of others */
	cfg->extract.sidecar = cfg->extract.sidecar && command & EXTRACT;
	*help = args.help;
	if (err->status || *help || check_rules(cfg, command, err) || read_memory(cfg, err) ||
	    check_sizes(cfg, err) || resolve(cfg, command, err))
		return err->status;
	/* A whole AV can serve as the target, with a whole AR. Not where a text's activations are taken, the target's own. */
	if (!*cfg->model && (command & SAMPLES) &&
	    (!(command & EXPLAIN) || !*cfg->explain.text) && nla_is_whole(cfg->av) && nla_is_whole(cfg->ar))
		put(&cfg->model, nla_strdup(cfg->av));
	if (*cfg->model && command & (EVAL | EXPORT) && !*cfg->out)
		return nla_usage(err, "'out' is not set: give --out%s", command & EVAL ? ", or an AV of a run" : "");
	return NLA_OK;
}

void nla_config_release(struct nla_config *cfg) { nla_options_release(nla_config_table, nla_config_n, cfg); }

enum nla_status nla_config_write(const struct nla_config *cfg, int device, const char *folder, struct nla_err *err)
{
	struct nla_config lasting = *cfg; /* a later run that reads the file must not repeat what holds for this start only */
	lasting.resume = lasting.overwrite = lasting.check = lasting.profile = false;
	nla_auto_json cJSON *json = nla_options_dump(nla_config_table, nla_config_n, &lasting);
	nla_auto char *path = nla_path_join(folder, "config.json");
	cJSON_AddItemToObject(json, "_made_by", nla_made_by(device));
	return nla_json_write(path, json, true, err);
}

enum nla_status nla_config_need(const char *value, const char *key, struct nla_err *err)
{
	return *value ? NLA_OK : nla_usage(err, "'%s' is not set: put it in the configuration file or give --%s", key, key);
}

void nla_config_threads(const struct nla_config *cfg)
{
	struct nla_machine machine;
	nla_machine_read(&machine, "");
	const int cores = NLA_MAX(machine.cores / (int)nla_launch_here(), 1);
	if (cfg->threads || nt_threads() > cores)
		nt_set_threads(cfg->threads ? (int)cfg->threads : cores);
	nt_wait_politely();
}

static enum nla_status open_device(const struct nla_config *cfg, int *device, nt_dtype *dtype, struct nla_err *err)
{
	const char *d = cfg->device, *number = !strncmp(d, "cuda:", 5) ? d + 5 : !strncmp(d, "sim:", 4) ? d + 4 : "";
	bool numbered = *number && strspn(number, "0123456789") == strlen(number);
	if (strcmp(d, "auto") && strcmp(d, "cpu") && strcmp(d, "cuda") && strcmp(d, "sim") && !numbered) /* sim: the tests' */
		return nla_usage(err, "'device' is '%s': want auto, cpu, cuda or cuda:N", d);
	nla_config_threads(cfg);
	if (nt_device_open(d, device))
		return nla_nt_fail(err, "cannot use device '%s'", d);
	bool for_gpu = *device != NT_CPU || (cfg->check && *cfg->memory); /* the check of a GPU that is not here */
	*dtype = cfg->dtype == NLA_DTYPE_BF16 || (cfg->dtype == NLA_DTYPE_AUTO && for_gpu) ? NT_BF16 : NT_F32;
	return NLA_OK;
}

static enum nla_status find_room(const struct nla_config *cfg, int device, int64_t *room, struct nla_err *err)
{
	const int64_t limit = cfg->check && device == NT_CPU ? 0 : cfg->memory_bytes; /* of the device that is checked for */
	int64_t total, peak, context = device == NT_CPU ? 0 : NLA_PLAN_CONTEXT; /* in the plan, and already in use */
	if (nla_ranks_start(device))
		return nla_nt_fail(err, "the ranks' GPUs cannot sum");
	if (nt_memory(device, room, &total, &peak))
		return nla_nt_fail(err, "cannot read the memory's size");
	if (device == NT_CPU) {
		struct nla_machine machine;
		nla_machine_read(&machine, "");
		*room = NLA_MIN(*room, machine.free / nla_launch_here());
	}
	*room = nla_ranks_least(limit ? NLA_MIN(*room + context, limit) : *room + context); /* ranks make the same plan */
	if (limit && device != NT_CPU && nt_memory_limit(device, NLA_MAX(limit - context, 1)))
		return nla_nt_fail(err, "cannot keep to 'memory'");
	return NLA_OK;
}

enum nla_status nla_config_target(const struct nla_config *cfg, const char *like, int64_t random_seed, int64_t *room,
				  struct nla_target *target, struct nla_err *err)
{
	struct nla_chat_cfg chat = cfg->chat;
	int device;
	nt_dtype dtype = NT_F32;
	int64_t found;
	chat.like = like;
	if (open_device(cfg, &device, &dtype, err) || find_room(cfg, device, room ? room : &found, err))
		return err->status;
	return nla_target_open(target, cfg->model, &chat, device, dtype, random_seed, err);
}
