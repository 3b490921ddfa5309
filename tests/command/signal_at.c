/*
 * signal_at - preloaded into a program under test, which then signals itself at a known point: no test has to be quick enough.
 *
 *	SIGNAL_AT="metrics.jsonl 12 TERM,2.5,INT" LD_PRELOAD=libsignal_at.so nla-train ...
 *
 * When the 12th line has been written to a file of that name (or read from it), the signals are raised one after the other,
 * with a pause where a number of seconds stands, before the call returns.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *name;
	int number;
} known[] = { { "KILL", SIGKILL }, { "TERM", SIGTERM }, { "INT", SIGINT }, { "HUP", SIGHUP }, { "USR1", SIGUSR1 }, { "USR2", SIGUSR2 },
	    { "CONT", SIGCONT }, { "ALRM", SIGALRM } };

static void one_signal(const char *name)
{
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		if (!strcmp(known[i].name, name)) {
			raise(known[i].number);
			return;
		}
	}
	usleep((useconds_t)(1e6 * atof(name)));
}

static int is_open_as(int fd, const char *name)
{
	char link[64], path[4096];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return 0;
	path[n] = '\0';
	const char *base = strrchr(path, '/');
	return base && !strcmp(base + 1, name);
}

static void count(int fd, const char *text, ssize_t n)
{
	static long seen;
	char name[256], signals[64];
	long wanted;
	const char *at = getenv("SIGNAL_AT");

	if (!at || n <= 0 || sscanf(at, "%255s %ld %63s", name, &wanted, signals) != 3 || !is_open_as(fd, name) || seen >= wanted)
		return;
	for (ssize_t i = 0; i < n; i++)
		seen += text[i] == '\n';
	if (seen < wanted)
		return;
	for (char *rest = signals, *one; (one = strtok_r(rest, ",", &rest));)
		one_signal(one);
}

ssize_t write(int fd, const void *text, size_t n)
{
	ssize_t (*next)(int, const void *, size_t) = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
	ssize_t done = next(fd, text, n);

	count(fd, text, done);
	return done;
}

ssize_t read(int fd, void *text, size_t n)
{
	ssize_t (*next)(int, void *, size_t) = (ssize_t(*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
	ssize_t done = next(fd, text, n);

	count(fd, text, done);
	return done;
}
