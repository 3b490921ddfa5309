/*
 * progress - one live line on a terminal, plain lines otherwise, always on stderr. Only programs (src/cmd, src/run) use it.
 *
 *	struct nla_progress p;
 *	nla_progress_start(&p, "extract", n_docs);
 *	nla_progress_step(&p, done, "12 rows/s");        on a terminal at most 10 times a second; else every 10 s
 *	nla_progress_end(&p, "1000 rows");
 */
#pragma once

#include "base.h"

struct nla_progress {
	const char *what;
	int64_t total;      /* 0: unknown */
	double share, from; /* done of all, where that is known in another way than by total; what of it was done before */
	double started, shown;
	bool tty;
};
void nla_progress_start(struct nla_progress *p, const char *what, int64_t total);
void nla_progress_step(struct nla_progress *p, int64_t done, const char *fmt, ...) NLA_PRINTF(3, 4);
void nla_progress_end(struct nla_progress *p, const char *fmt, ...) NLA_PRINTF(2, 3);

/* "3 min 20 s"; "3 min 20 s left, until 14:32". */
void nla_add_duration(struct nla_str *s, double seconds);
void nla_add_left(struct nla_str *s, double seconds);
/* "0.731 +- 0.012", "0.731" where the error is NaN, "-" where there is no number; owned. */
char *nla_figure(double x, double error, int digits);

/* A plain line to stderr, clearing a live line first; with a tee: also to that log (log.txt) when set. Quiet: on stderr
 * warnings alone, or not even these, and no progress. */
struct nla_log;
void nla_say_tee(struct nla_log *log);
enum nla_say_level { NLA_SAY_ALL, NLA_SAY_WARNINGS, NLA_SAY_NOTHING };
void nla_say_quiet(enum nla_say_level level);
/* Of several at work in turn, whose the lines are that follow: in front of them on stderr; borrowed. NULL: nobody's own. */
void nla_say_for(const char *who);
void nla_say(const char *fmt, ...) NLA_PRINTF(1, 2);
