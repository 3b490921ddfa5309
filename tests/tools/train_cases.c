/*
 * train_cases < cases - nla-train many times, for scripts: libtorch, which takes half a second to load, is loaded once.
 *
 * A case is a line of fields between tabs: a file for stdout and stderr, then the arguments. It runs the program's own main in a child, with
 * 20 s of processor time, 120 s in all, and 4 GiB of address space more than is mapped. Prints what came of it: the exit code, or minus the signal.
 */
int nla_train_main(int argc, char **argv);
#define main nla_train_main
#include "../../src/cmd/nla_train.c"
#undef main

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGS 64

static void limit(int what, rlim_t to)
{
	struct rlimit r = { to, to };

	setrlimit(what, &r);
}

static rlim_t mapped(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (!f || fscanf(f, "%lu", &pages) != 1)
		NLA_BUG("cannot read /proc/self/statm");
	fclose(f);
	return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

static void child(char *line)
{
	char *argv[MAX_ARGS + 1] = { "nla-train" }, *rest = line, *out = strsep(&rest, "\t\n");
	int argc = 1, fd = open(out ? out : "", O_WRONLY | O_CREAT | O_TRUNC, 0600);

	while (argc < MAX_ARGS && (argv[argc] = strsep(&rest, "\t\n")) && *argv[argc])
		argc++;
	argv[argc] = NULL;
	if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0)
		_exit(99);
	limit(RLIMIT_AS, mapped() + ((rlim_t)4 << 30));
	limit(RLIMIT_CPU, 20);
	limit(RLIMIT_CORE, 0);
	alarm(120);
	exit(nla_train_main(argc, argv));
}

int main(void)
{
	char *line = NULL;
	size_t room = 0;

	while (getline(&line, &room, stdin) > 0) {
		int status = 0;
		pid_t pid = fork();

		if (pid == 0)
			child(line);
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			return 1;
		printf("%d\n", WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
		fflush(stdout);
	}
	free(line);
	return 0;
}
