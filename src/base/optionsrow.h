/*
 * optionsrow - what options.c and optionshelp.c both say about one row of the table. Nobody else includes this.
 */
#ifndef NLA_OPTIONSROW_H
#define NLA_OPTIONSROW_H

#include "base/options.h"

/* "an integer from 1 to 100", "one of 'fve', '-mse'", appended: what a message says is wanted. */
void nla_option_want(const struct nla_option *o, struct nla_str *s);
/* "1 to 100", "at least 1", appended; nothing when unbounded. */
void nla_option_range(const struct nla_option *o, struct nla_str *s);
/* The text of an ENUM's index, owned. */
char *nla_option_choice(const struct nla_option *o, int index);

#endif
