/*
 * selfcheck - what a GPU has fast versions of, against their plain twins: the model's shapes, a few rows of random numbers,
 * forward and backward. Both are compared with the plain twin in fp32; a fast version that is further from it than twice the
 * plain one, and a rounding of the type, is switched off, with a warning.
 */
#pragma once

#include "lm/lm.h"

/* table: a line an operation, with both differences (as a part of the largest number) and times; or NULL. A failure to run
 * shows in nt_check. */
void nla_selfcheck(const struct nla_lm *lm, FILE *table);
/* This GPU computes some of it by libtorch's operations: it has no kernels of ours, or one was switched off. CPU: false. */
bool nla_gpu_plain(int device);
