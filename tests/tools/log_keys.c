/* log_keys: the tables of the logs' keys, as docs/formats.md holds them: what an empty step's lines say of their rows. */
#include <stdio.h>

#include "run/report.h"

static void print_row(const char *key, const char *meaning) { printf("| `%s` | %s |\n", key, meaning); }

static void heading(const char *s) { printf("\n%s\n\n| key | meaning |\n|---|---|\n", s); }

int main(void)
{
	const struct nla_rl rl = { 0 };
	const struct nla_state state = { 0 };
	const struct nla_sft_line sft = { .held = true };
	struct nla_step empty;
	nla_report_meaning = print_row;
	nla_step_start(&empty, 1, 1, 0);
	nla_decoded_init(&empty.tokens, 1, 0);
	empty.response[0] = nla_strdup("");
	empty.logprob = nla_alloc(1, sizeof(float));
	empty.ref_logprob = nla_alloc(1, sizeof(float));
	empty.vector_of = nla_alloc(1, sizeof(*empty.vector_of));
	empty.mse_start = nla_alloc(1, sizeof(*empty.mse_start));
	empty.kl = nla_alloc(2, sizeof(double));
	heading("**metrics.jsonl** of `nla-train`, a line a step:");
	cJSON_Delete(nla_report_step(&rl, &empty, &state));
	heading("**metrics.jsonl** of `nla-sft`:");
	cJSON_Delete(nla_report_sft(&sft, &state));
	heading("**samples.jsonl**: probes, and `log.samples` responses of the first and every `log.samples_every`th "
		"step, with one that failed, if any did:");
	cJSON_Delete(nla_report_sample(&rl, &empty, 0, 0));
	heading("**Evaluation**, `summary.json` of `nla-eval` (which adds `step`, and `model`, `av`, `ar`, `data` and a "
		"`start_ar` as absolute paths) and `eval-STEP.json` of a run (which adds `reward`, the mean of score less "
		"penalty, failed rows too):");
	cJSON_Delete(nla_report_eval(&rl, &empty));
	heading("**rows.jsonl** of `nla-eval`, `eval-STEP.rows.jsonl` of a run:");
	cJSON_Delete(nla_report_row(&rl, &empty, 0));
	nla_step_release(&empty);
	return 0;
}
