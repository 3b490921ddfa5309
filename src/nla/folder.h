/*
 * folder - a folder that a user named could not be opened: what it is instead, and what to do.
 */
#pragma once

#include "base/base.h"

/*
 * Adds to err, when it is one, what leads on: a name on the hub; a folder of the hub's cache; a run, or another folder that has
 * `want` below it (want: a file that the right folder holds; part: where a run's checkpoint keeps it, or NULL); weights that
 * are no safetensors. Returns err's status.
 */
enum nla_status nla_folder_lead(struct nla_err *err, const char *folder, const char *want, const char *part);

bool nla_is_hub_name(const char *s); /* "Qwen/Qwen3-8B": an owner, a slash, a name */
