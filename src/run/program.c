#include "run/program.h"

#include <malloc.h>
#include <stdio.h>
#include <string.h>

static void print_help(const char *name, enum nla_command command, const char *purpose)
{
	struct nla_str text = NLA_STR_INIT;
	nla_options_help(nla_config_table, nla_config_n, command, false, &text);
	printf("usage: %s [--option value ...] [config.json]\n\n%s\n\n%s", name, purpose, text.buf);
	nla_str_release(&text);
}

int nla_program(const char *name, enum nla_command command, const char *purpose, int argc, char **argv, nla_program_fn *run)
{
	struct nla_err err = NLA_ERR_INIT;
	struct nla_config cfg;
	bool help = false;
	if (argc == 2 && !strcmp(argv[1], "--help-markdown")) { /* for the README's table, which a test compares */
		struct nla_str text = NLA_STR_INIT;
		nla_options_help(nla_config_table, nla_config_n, NLA_CMD_ALL, true, &text);
		fputs(text.buf, stdout);
		nla_str_release(&text);
		return 0;
	}
	/* A step frees and asks again for arrays of megabytes: keep the pages, instead of having the kernel clear them each time. */
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	nla_config_read(&cfg, command, argc, argv, &help, &err);
	if (!err.status && help)
		print_help(name, command, purpose);
	else if (!err.status)
		run(&cfg, &err);
	nla_config_release(&cfg);
	if (!err.status && fflush(stdout))
		nla_fail(&err, "cannot write to standard output");
	if (err.status)
		fprintf(stderr, "%s: %s\n", name, err.text);
	if (nt_live()) /* after a failure too: every path releases what it made */
		NLA_BUG("%lld tensors are still alive", (long long)nt_live());
	return err.status == NLA_OK ? 0 : err.status == NLA_USAGE ? 2 : 1;
}
