/* Options from argv, help, errors and exit codes of every command (program.h). */
#include "cmd/program.h"

#include <malloc.h>

#include "base/json.h"
#include "base/progress.h"
#include "run/folder.h"
#include "run/launch.h"

void nla_program_print(cJSON *json, bool pretty)
{
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	nla_json_add(&text, json, pretty, 0);
	puts(text.buf);
	cJSON_Delete(json);
}

static void print_options(enum nla_command command, bool markdown)
{
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	nla_options_help(nla_config_table, nla_config_n, command, markdown, &text);
	fputs(text.buf, stdout);
}

/* The command that continues this one: its words, quoted where a shell needs it, with --resume instead of `overwrite`; before a
 * bare --, behind which all are files. */
static void add_resume(struct nla_str *out, int argc, char **argv, bool overwrite)
{
	NLA_AUTO(nla_str_release) struct nla_str files = NLA_STR_INIT;
	for (int i = 0; i < argc; i++) {
		const char *word = argv[i];
		if (nla_starts_with(word, "--overwrite") || nla_starts_with(word, "--resume")) {
			overwrite = overwrite && nla_starts_with(word, "--resume");
			i += i + 1 < argc && (!strcmp(argv[i + 1], "true") || !strcmp(argv[i + 1], "false"));
			continue;
		}
		nla_auto char *quoted = nla_quoted(word);
		if (files.len || !strcmp(word, "--"))
			nla_str_addf(&files, " %s", quoted);
		else
			nla_str_addf(out, "%s ", quoted);
	}
	nla_str_add(out, overwrite ? "--resume --overwrite false" : "--resume"); /* a file has it */
	nla_str_addn(out, files.buf, files.len);
}

int main(int argc, char **argv)
{
	const char *name = nla_program.name;
	const enum nla_command command = nla_program.command;
	struct nla_err err = NLA_ERR_INIT;
	struct nla_config cfg;
	struct nla_str again = NLA_STR_INIT;
	bool help = false;
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		printf("%s %s, commit %s, libtorch %s\n", name, nla_version, *nla_commit ? nla_commit : "unknown",
		       nla_libtorch);
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "--help-markdown")) { /* for the README's table, which a test compares */
		print_options(NLA_CMD_ALL, true);
		return 0;
	}
	/* A step frees and asks again for arrays of megabytes: keep the pages, or the kernel clears them each time. */
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	nla_config_read(&cfg, command, argc, argv, &help, &err);
	if (!err.status && help) {
		printf("usage: %s [--option value ...] [config.json%s]\n\n%s\n\n", name,
		       command & (NLA_CMD_EVAL | NLA_CMD_EXPLAIN | NLA_CMD_EXPORT) ? ", or a run's folder" : "",
		       nla_program.purpose);
		print_options(command, false);
	} else if (!err.status) {
		nla_say_quiet(cfg.quiet ? NLA_SAY_WARNINGS : NLA_SAY_ALL);
		if (!nla_launch(&cfg, command, &err))
			nla_program.run(&cfg, &err);
		nla_say_quiet(NLA_SAY_ALL);
	}
	const bool says = nla_launch_end(&err);
	const bool overwrite = cfg.overwrite;
	nla_config_release(&cfg);
	if (!err.status && (fflush(stdout) || ferror(stdout))) /* what a full disk took before, too */
		nla_fail(&err, "cannot write to standard output");
	if (err.status == NLA_STOPPED) {
		nla_str_add(&again, "; to continue: ");
		add_resume(&again, argc, argv, overwrite);
	}
	if (err.status && says)
		nla_say("%s: %s%s", name, err.text, again.buf);
	nla_str_release(&again);
	if (nt_live()) /* after a failure too: every path releases what it made */
		NLA_BUG("%lld tensors are still alive", (long long)nt_live());
	return err.status == NLA_OK ? 0 : err.status == NLA_USAGE ? 2 : err.status == NLA_STOPPED ? 3 : 1;
}
