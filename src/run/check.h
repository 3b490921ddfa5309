/*
 * check - `nla-train --check`: is this configuration ready, and does it fit?
 *
 * Loads everything as a run would, which verifies files and contracts; writes the memory plan to `out`, for this device or for
 * one of `memory` bytes; makes one step of one prompt, in memory alone. out ends in `go`, or in what to change. No file is
 * written.
 */
#ifndef NLA_CHECK_H
#define NLA_CHECK_H

#include <stdio.h>

#include "run/train.h"

/* An error (exit code 1) when it does not fit; the others are those of loading. */
enum nla_status nla_check(const struct nla_config *cfg, nla_one_step_fn *one_step, FILE *out, struct nla_err *err);

#endif
