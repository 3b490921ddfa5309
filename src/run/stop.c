/* The signals that end a run, and the flag that its loops poll (stop.h). */
#include "run/stop.h"

#include <signal.h>

#include "lm/ranks.h"
#include "rl/step.h"

static volatile sig_atomic_t asked;
static struct timespec first;
static bool tty, others; /* are ranks, the first of which says it */

static void on_signal(int number)
{
	static const char word[] = "\nstopping: what is at hand is finished and saved first; a second signal, two seconds "
				   "after this one, ends it at once\n";
	const int before = errno;
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!asked) {
		first = now;
		if (!others)
			(void)!write(STDERR_FILENO, word + !tty, sizeof(word) - 1 - !tty); /* on a terminal behind its ^C */
	} else if ((double)(now.tv_sec - first.tv_sec) + 1e-9 * (double)(now.tv_nsec - first.tv_nsec) > 2)
		_exit(128 + number);
	asked = 1;
	errno = before;
}

static char watched[160];

static void on_alarm(int number)
{
	const int before = errno;
	const char *stage = nla_stage_now;
	(void)number;
	(void)!write(STDERR_FILENO, watched, strlen(watched));
	if (stage)
		(void)!(write(STDERR_FILENO, ", in stage ", 11) + write(STDERR_FILENO, stage, strlen(stage)));
	(void)!write(STDERR_FILENO, "\n", 1);
	errno = before;
}

void nla_watch(int64_t seconds, const char *what, int64_t step)
{
	alarm(0);
	nla_stage_now = NULL;
	snprintf(watched, sizeof(watched), "warning: %s %lld has been at work for %lld s, and has not ended", what,
		 (long long)step, (long long)seconds);
	alarm((unsigned)seconds);
}

void nla_stop_catch(void)
{
	static const int caught[] = { SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGHUP };
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART }, before;
	tty = isatty(STDERR_FILENO);
	others = nla_rank() > 0;
	signal(SIGPIPE, SIG_IGN); /* who reads our lines may be gone: no reason to lose the work */
	sigemptyset(&action.sa_mask);
	sigaction(SIGALRM, &(struct sigaction){ .sa_handler = on_alarm, .sa_flags = SA_RESTART }, NULL);
	for (size_t i = 0; i < NLA_LEN(caught); i++) /* each blocks the others: the handler is not interrupted */
		sigaddset(&action.sa_mask, caught[i]);
	for (size_t i = 0; i < NLA_LEN(caught); i++)
		if (caught[i] != SIGHUP || (!sigaction(SIGHUP, NULL, &before) && before.sa_handler != SIG_IGN))
			sigaction(caught[i], &action, NULL);
}

bool nla_stop_asked(void) { return asked; }
