/*
 * program - every command's main(): configuration from argv, --help, the error line, the exit code.
 *
 *	const struct nla_program nla_program = { "nla-sft", NLA_CMD_SFT, run, "..." };
 *
 * run does the work; stdout is its result. Exit codes: 0 all was done, 1 failed, 2 usage, 3 stopped by a signal with the work
 * saved (the last line ends in the command that continues it), 128 + signal ended at once.
 */
#pragma once

#include "run/config.h"

extern const struct nla_program {
	const char *name;
	enum nla_command command;
	enum nla_status (*run)(const struct nla_config *cfg, struct nla_err *err);
	const char *purpose;
} nla_program;
/* A JSON value, which is freed, and a line's end on stdout; pretty: indented. */
void nla_program_print(cJSON *json, bool pretty);
