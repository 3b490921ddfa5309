/*
 * check - `nla-train --check`: is this configuration ready, and does it fit?
 *
 * Loads everything as a run would, which verifies files and contracts; prints the memory plan, for this device or for one of `memory`
 * bytes; makes one step of one prompt, in memory alone. stdout ends in `go`, or in what to change. Nothing is written to disk.
 */
#ifndef NLA_CHECK_H
#define NLA_CHECK_H

#include "run/train.h"

/* An error (exit code 1) when it does not fit, besides those of loading. */
enum nla_status nla_check(const struct nla_config *cfg, nla_one_step_fn *one_step, struct nla_err *err);

#endif
