/*
 * scratch - a folder that a test program may fill: made by the group's setup, removed by its teardown.
 */
#ifndef NLA_TEST_SCRATCH_H
#define NLA_TEST_SCRATCH_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "base/file.h"

static char scratch[] = "/tmp/nla-test-XXXXXX";

static inline int scratch_setup(void **state)
{
	(void)state;
	return mkdtemp(scratch) ? 0 : -1;
}

static inline int scratch_teardown(void **state)
{
	struct nla_err err = NLA_ERR_INIT;

	(void)state;
	return nla_rmtree(scratch, &err);
}

/* A path in the folder; one of eight buffers that take turns. */
static inline const char *in_scratch(const char *name)
{
	static char path[8][512];
	static int turn;

	turn = (turn + 1) % 8;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", scratch, name);
	return path[turn];
}

static inline const char *put(const char *name, const void *bytes, size_t n, bool gz)
{
	struct nla_err err = NLA_ERR_INIT;
	const char *path = in_scratch(name);

	if (nla_file_write(path, bytes, n, gz, &err))
		fail_msg("%s", err.text);
	return path;
}

static inline const char *put_text(const char *name, const char *text)
{
	return put(name, text, strlen(text), false);
}

#define assert_ok(call)                                        \
	do {                                                   \
		err = (struct nla_err)NLA_ERR_INIT;            \
		if (call)                                      \
			fail_msg("%s: %s", #call, err.text);   \
	} while (0)

/* The call fails, and its one line of text has `part` in it. */
#define assert_fails(call, part)                                                    \
	do {                                                                        \
		err = (struct nla_err)NLA_ERR_INIT;                                 \
		if (!(call))                                                        \
			fail_msg("%s: no error, want '%s'", #call, part);           \
		if (!strstr(err.text, part) || strchr(err.text, '\n'))              \
			fail_msg("%s: '%s', want '%s'", #call, err.text, part);     \
	} while (0)

#define assert_close(got, want, within)                                                                     \
	do {                                                                                                \
		const double got_ = (got), want_ = (want);                                                  \
		if (!(fabs(got_ - want_) <= (within)))                                                      \
			fail_msg("%s is %.17g, want %.17g within %g", #got, got_, want_, (double)(within)); \
	} while (0)

#endif
