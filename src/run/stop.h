/*
 * stop - a signal asks a long run to finish its step, checkpoint and end, with exit code 3 unless all was done: INT, TERM,
 * USR1, USR2, and HUP except under nohup. A line on stderr answers it at once.
 * Job schedulers repeat themselves, so a second one within two seconds is the first again; after that it ends the program at
 * once, with exit code 128 + its number.
 */
#pragma once

#include "base/base.h"

void nla_stop_catch(void);
bool nla_stop_asked(void);

/* A watchdog: where the next call, or the end, is more than so many seconds away (0: none), a line says that `what` at that
 * step hangs, and in which stage. */
void nla_watch(int64_t seconds, const char *what, int64_t step);
