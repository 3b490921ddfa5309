/*
 * program - what every command's main() shares: configuration from argv, --help, the error line, the exit code.
 *
 *	int main(int argc, char **argv) { return nla_program("nla-sft", NLA_CMD_SFT, "...", argc, argv, run); }
 *
 * run does the work; stdout is its result. Exit codes: 0 all was done, 1 failed, 2 usage, 3 stopped by a signal with the work
 * saved (the last line ends in the command that continues it), 128 + signal ended at once.
 */
#pragma once

#include "run/config.h"

typedef enum nla_status nla_program_fn(const struct nla_config *cfg, struct nla_err *err);
int nla_program(const char *name, enum nla_command command, const char *purpose, int argc, char **argv, nla_program_fn *run);
/* A JSON value, which is freed, and a line's end on stdout; pretty: indented. */
void nla_program_print(cJSON *json, bool pretty);
