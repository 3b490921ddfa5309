#include "run/stop.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

static volatile sig_atomic_t asked;

static void on_signal(int number)
{
	if (asked)
		_exit(128 + number);
	asked = 1;
}

void nla_stop_catch(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

bool nla_stop_asked(void) { return asked; }
