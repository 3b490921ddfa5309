/*
 * stop - SIGINT and SIGTERM ask a long run to finish its step, checkpoint and end; a second signal ends it at once.
 */
#ifndef NLA_STOP_H
#define NLA_STOP_H

#include <stdbool.h>

void nla_stop_catch(void);
bool nla_stop_asked(void);

#endif
