/*
 * options - one table row for each option: key, type, field, default, range, help. The same row parses JSON and flags, checks
 * ranges, prints help, and dumps the resolved configuration. Nothing else in the program knows how an option is spelled.
 *
 *	{ "reward.lambda", NLA_OPT_NUM, offsetof(struct cfg, reward.lambda), "0", 0, 100, NULL, "lambda", CMD_TRAIN, "..." },
 *
 * Keys are dotted: "reward.lambda" is {"reward": {"lambda": ..}} in JSON, and --reward.lambda or its short name --lambda as a
 * flag. A bool flag may stand alone (--resume) or take true/false (--lora.rslora=false). --key=value and --key value are the
 * same; a value that starts with two dashes needs the former. In a file null leaves the default, and a key that starts with an
 * underscore is a remark.
 */
#pragma once

#include <cjson/cJSON.h>

#include "base.h"

enum nla_opt_type {
	NLA_OPT_INT,  /* int64_t                                                       */
	NLA_OPT_NUM,  /* double                                                        */
	NLA_OPT_BOOL, /* bool                                                          */
	NLA_OPT_STR,  /* char *, owned by the configuration; "" when not given         */
	NLA_OPT_PATH, /* char *, owned; a relative one in a file is relative to that file, as a flag to the working folder */
	NLA_OPT_ENUM, /* int: index into choices, a '|'-separated list                 */
	NLA_OPT_NUMS, /* char *, owned: numbers with commas, each as JSON has it; in a file one or an array of them */
};

struct nla_option {
	const char *key;
	enum nla_opt_type type;
	size_t offset;       /* of the field in the configuration struct */
	const char *def;     /* as it would be written as a flag */
	double min, max;     /* of INT, NUM and NUMS, inclusive; none when they are equal */
	const char *choices; /* of ENUM: "fve|-mse" */
	const char *shortname; /* or NULL */
	unsigned commands;   /* bits: which programs use it. In a file every program accepts every key: one file serves all */
	const char *help;
};

#define NLA_OPT_MAY_CHANGE (1u << 31) /* a bit of commands: a resumed run may have another value */

/* Fill cfg with the defaults; release frees its strings. */
void nla_options_defaults(const struct nla_option *table, size_t n, void *cfg);
void nla_options_release(const struct nla_option *table, size_t n, void *cfg);
/* Errors are NLA_USAGE; they name the key, and for an unknown key the nearest known one. */
enum nla_status nla_options_json(const struct nla_option *table, size_t n, void *cfg, const char *path, struct nla_err *err);
/* A command line: flags, and at most one bare argument, read first: a configuration file, or a folder with its config.json. */
struct nla_args {
	const struct nla_option *table;
	size_t n;
	unsigned command;   /* its bit: flags of keys that it does not use are errors */
	int argc;
	char **argv;
	const char *config; /* found: the bare argument, or NULL */
	bool help;          /* found: -h or --help, and then nothing else is read */
	/* or NULL: changes what the file said, before the flags are read. */
	enum nla_status (*loaded)(const struct nla_args *args, void *cfg, struct nla_err *err);
};
enum nla_status nla_options_args(struct nla_args *args, void *cfg, struct nla_err *err);
bool nla_args_have(const struct nla_args *args, const char *flag); /* "--out": as it is, or with = and a value */
/* The help text for one command (its bit, or several), grouped by section, with defaults and ranges, within 100 columns;
 * appended. markdown: a table for docs/options.md instead. */
void nla_options_help(const struct nla_option *table, size_t n, unsigned command, bool markdown, struct nla_str *out);
/* "an integer, 1 to 100": what a message says is wanted, appended. */
void nla_option_want(const struct nla_option *o, struct nla_str *s);
/* The resolved configuration, every key, as nla_options_json reads it (write it with nla_json_write: integers up to 2^53 stay
 * exact). Paths are made absolute. Owned by the caller. */
cJSON *nla_options_dump(const struct nla_option *table, size_t n, const void *cfg);
char *nla_options_path(const char *path); /* as a dump has it: absolute; owned */
