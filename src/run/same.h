/*
 * same - does a run resume with what it began with? Options are compared by their values, and what paths name by its content: a
 * link, a copy and a moved folder are the same, another set at the same path is not.
 */
#ifndef NLA_SAME_H
#define NLA_SAME_H

#include "run/config.h"

/* What a file or folder holds, as 16 hexadecimal digits, owned; "" when there is nothing to read. Of a folder the files count
 * that programs here read: tensors, JSON, tokenizer, sidecar, rows, texts. A large file counts by its size, its first MiB (a
 * safetensors header) and 64 samples of the rest, its end among them. */
char *nla_content(const char *path);

/* The value of a setting that a run in the file `path` began with (NULL: missing) and that of now: a difference is an error. */
enum nla_status nla_same_setting(const char *key, const char *path, const cJSON *was, const cJSON *now, struct nla_err *err);

/* A run folder's config.json and inputs.json ({"data": "9f3c...", ...}: what its paths held) against cfg, or written by it.
 * fixed_steps: `steps` may not differ. own: the run has its own AV and AR, so another one is only said to be unused. */
enum nla_status nla_same_run(const char *folder, const struct nla_config *cfg, bool fixed_steps, bool own, struct nla_err *err);
enum nla_status nla_same_write(const char *folder, const struct nla_config *cfg, struct nla_err *err);

#endif
