/*
 * fault - preloaded into a program under test, which then runs many times, each with a fault at one of its system calls.
 *
 *	LD_PRELOAD=libfault.so nla-train <cases >what-came-of-them
 *
 * libtorch, which takes half a second to load, is loaded once: instead of main() a loop reads cases, and runs main() in a child
 * for each. A case is a line of fields between tabs:
 *
 *	SAID	FOLDER	CALLS	N	KIND	argv ...
 *
 * stderr goes to SAID, stdout nowhere. The N-th call that concerns a path below FOLDER (from 1; 0: none) meets a fault of KIND:
 *
 *	an errno, as a number
 *	short   a read or a write does half of what was asked for
 *	kill    SIGKILL before the call
 *	full    this call and every later one that needs room on the disk: ENOSPC
 *	dead    this call and every later one: EIO
 *	time    SIGKILL, wherever it is then, after N microseconds of processor time
 *	memory  the N-th allocation that the program's own code makes (libraries' not; `new`, too) finds no memory
 *	sites   none; CALLS gets a number of 8 bytes for each such allocation, the same for those of one place
 *
 * CALLS, where it is not empty, gets a line a call: name, result, path, other path, number (open: its flags; write: where;
 * ftruncate: the length), bytes that were written; and after the line those bytes. What is printed for a case is the exit code,
 * or minus the signal. A child has 20 s of processor time, 120 s in all, and 4 GiB of address space more than is mapped.
 *
 * The calls are caught by the kernel (seccomp), below libc and whatever else asks for them; those of the handler itself have a
 * mark in an argument that the call does not use.
 */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define MARK 0x4e4c4146 /* in the sixth argument; a map, which has six, has a flag that changes nothing */
#define MAX_ARGS 64
#define N_CALLS (sizeof(calls) / sizeof(*calls))

/* Which argument is a descriptor, a path, another path. */
static const struct call {
	int number;
	const char *name;
	int fd, path, other;
} calls[] = {
	{ SYS_openat, "open", -1, 1, -1 },       { SYS_read, "read", 0, -1, -1 },         { SYS_pread64, "read", 0, -1, -1 },
	{ SYS_write, "write", 0, -1, -1 },       { SYS_pwrite64, "pwrite", 0, -1, -1 },   { SYS_fsync, "fsync", 0, -1, -1 },
	{ SYS_fdatasync, "fsync", 0, -1, -1 },   { SYS_ftruncate, "ftruncate", 0, -1, -1 }, { SYS_rename, "rename", -1, 0, 1 },
	{ SYS_mkdir, "mkdir", -1, 0, -1 },       { SYS_rmdir, "rmdir", -1, 0, -1 },       { SYS_unlink, "unlink", -1, 0, -1 },
	{ SYS_symlink, "symlink", -1, 1, 0 },    { SYS_linkat, "link", -1, 1, 3 },        { SYS_getdents64, "list", 0, -1, -1 },
	{ SYS_mmap, "mmap", 4, -1, -1 },
};

static const char *folder, *kind;
static long at, count;
static int record = -1;

static bool below(const char *path)
{
	size_t n = strlen(folder);

	return !strncmp(path, folder, n) && (path[n] == '/' || !path[n]);
}

/* 0 or an errno: of the call that is at hand, whose length may be halved. */
static int fault(const struct call *c, long *a)
{
	bool lasting = !strcmp(kind, "full") || !strcmp(kind, "dead");

	count++;
	if (!at || count < at || (count > at && !lasting))
		return 0;
	if (!strcmp(kind, "kill"))
		kill(getpid(), SIGKILL);
	if (!strcmp(kind, "short") && strstr("pread pwrite", c->name)) /* a slow machine's extra line may have moved the call */
		a[2] = (a[2] + 1) / 2;
	if (!strcmp(kind, "full"))
		return (c->number == SYS_openat && a[2] & O_CREAT) || strstr("write pwrite mkdir symlink link", c->name) ? ENOSPC : 0;
	return !strcmp(kind, "dead") ? EIO : (int)strtol(kind, NULL, 10);
}

static long pass_on(const struct call *c, const long *a)
{
	bool map = c->number == SYS_mmap;
	long done = syscall(c->number, a[0], a[1], a[2], a[3] | (map ? MAP_NORESERVE : 0), a[4], map ? a[5] : MARK);

	return done < 0 ? -errno : done;
}

static void note(const struct call *c, const long *a, long done, const char *path)
{
	bool written = strstr("pwrite", c->name) && done > 0;
	long number = c->number == SYS_openat ? a[2] : c->number == SYS_ftruncate ? a[1] : c->number == SYS_pwrite64 ? a[3] :
		      written ? lseek((int)a[0], 0, SEEK_CUR) - done : 0;

	dprintf(record, "%s\t%ld\t%s\t%s\t%ld\t%ld\n", c->name, done, path, c->other < 0 ? "" : (const char *)a[c->other], number,
		written ? done : 0);
	for (long from = 0, n; written && from < done; from += n)
		if ((n = write(record, (const char *)a[1] + from, (size_t)(done - from))) <= 0)
			abort();
}

static void on_call(int signal_number, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	long a[6] = { r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9] }, done;
	const struct call *c = calls;
	char link[64], of_fd[PATH_MAX];
	const char *path = of_fd;
	const int before = errno;

	while (c->number != info->si_syscall)
		c++;
	if (c->fd < 0) {
		path = (const char *)a[c->path];
	} else {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", (int)a[c->fd]);
		ssize_t n = readlink(link, of_fd, sizeof(of_fd) - 1);
		of_fd[n < 0 ? 0 : n] = '\0';
	}
	if (below(path)) {
		int why = fault(c, a);
		done = why ? -why : pass_on(c, a);
		if (record >= 0)
			note(c, a, done, path);
	} else {
		done = pass_on(c, a);
	}
	errno = before;
	r[REG_RAX] = done;
}

/* Calls of the table send SIGSYS, but for marked ones, and maps of no file. */
static void catch_calls(void)
{
	enum { AFTER = 2 + N_CALLS };
	struct sigaction action = { .sa_sigaction = on_call, .sa_flags = SA_SIGINFO | SA_NODEFER };
	struct sock_filter f[AFTER + 9] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)) };
	const struct sock_filter rest[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MARK, 5, 6),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[4])), /* a map's: the file */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (__u32)-1, 3, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[3])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, MAP_NORESERVE, 1, 2),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW), /* of no interest */
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
	};
	struct sock_fprog program = { AFTER + 9, f };

	for (unsigned char i = 0; i < N_CALLS; i++)
		f[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (__u32)calls[i].number,
							(__u8)(N_CALLS - i + (calls[i].number == SYS_mmap ? 2 : 0)), 0);
	f[1 + N_CALLS] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	memcpy(f + AFTER, rest, sizeof(rest));
	if (sigaction(SIGSYS, &action, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
		perror("fault: cannot catch system calls");
		_exit(99);
	}
}

/* ---- allocations ---- */

static enum { NOT_WATCHED, FAIL, SITES } watched;
static uintptr_t code[2]; /* of the program, without its libraries */
static FILE *sites;

static bool is_own(const void *caller) { return (uintptr_t)caller - code[0] < code[1] - code[0]; }

static int find_code(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size, (void)arg;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_flags & PF_X) {
			code[0] = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
			code[1] = code[0] + info->dlpi_phdr[i].p_memsz;
		}
	return 1; /* the first is the program */
}

/* Where an allocation is made: the addresses of its innermost callers. */
static void note_site(void)
{
	void *frames[8];
	uint64_t site = 0;

	watched = NOT_WATCHED;
	for (int i = backtrace(frames, 8); i--;)
		site = (site + (is_own(frames[i]) ? (uintptr_t)frames[i] : 0)) * 0x9e3779b97f4a7c15;
	fwrite(&site, sizeof(site), 1, sites);
	watched = SITES;
}

/* Is this the allocation that fails? */
static bool no_memory(const void *caller)
{
	if (!watched || !is_own(caller))
		return false;
	if (watched == SITES)
		note_site();
	return ++count == at && watched == FAIL;
}

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);

void *malloc(size_t n) { return no_memory(__builtin_return_address(0)) ? NULL : __libc_malloc(n); }

void *calloc(size_t n, size_t size) { return no_memory(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size); }

void *realloc(void *p, size_t n) { return no_memory(__builtin_return_address(0)) ? NULL : __libc_realloc(p, n); }

/* operator new(size_t) */
void *_Znwm(size_t n)
{
	static void *(*next)(size_t);

	if (!next)
		*(void **)&next = dlsym(RTLD_NEXT, "_Znwm");
	return next(no_memory(__builtin_return_address(0)) ? (size_t)1 << 62 : n);
}

static void watch_allocations(void)
{
	void *frame;

	backtrace(&frame, 1); /* loads a library, once */
	dl_iterate_phdr(find_code, NULL);
	sites = strcmp(kind, "sites") ? NULL : fdopen(record, "w");
	watched = sites ? SITES : FAIL;
}

/* ---- cases ---- */

static int (*program)(int, char **, char **);

static void limit(int what, rlim_t to)
{
	struct rlimit r = { to, to };

	setrlimit(what, &r);
}

static void kill_after(long microseconds)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL };
	struct itimerspec when = { .it_value = { microseconds / 1000000, microseconds % 1000000 * 1000 } };
	timer_t timer;

	if (timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer) || timer_settime(timer, 0, &when, NULL))
		_exit(99);
}

static rlim_t mapped(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (!f || fscanf(f, "%lu", &pages) != 1)
		abort();
	fclose(f);
	return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

static void child(char *line)
{
	char *fields[5 + MAX_ARGS + 1], **argv = fields + 5, *rest = line;
	int n = 0, fd;

	while (n < 5 + MAX_ARGS && (fields[n] = strsep(&rest, "\t\n")) && (n < 5 || *fields[n]))
		n++;
	fields[n] = NULL;
	folder = fields[1];
	at = strtol(fields[3], NULL, 10);
	kind = fields[4];
	fd = open(fields[0], O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (*fields[2] && (record = open(fields[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) < 0)
		_exit(99);
	if (n < 6 || fd < 0 || dup2(fd, STDERR_FILENO) < 0 || !freopen("/dev/null", "w", stdout))
		_exit(99);
	close(fd);
	const char *mib = getenv("FAULT_MIB");
	limit(RLIMIT_AS, mapped() + ((rlim_t)(mib ? strtol(mib, NULL, 10) : 4096) << 20));
	limit(RLIMIT_CPU, 20);
	limit(RLIMIT_CORE, 0);
	alarm(120);
	if (*folder)
		catch_calls();
	if (!strcmp(kind, "time"))
		kill_after(at);
	if (!strcmp(kind, "memory") || !strcmp(kind, "sites"))
		watch_allocations();
	n = program(n - 5, argv, environ);
	fflush(NULL);
	_exit(n); /* libtorch takes longer to put itself away than a run takes */
}

static int serve(int argc, char **argv, char **env)
{
	char *line = NULL;
	size_t room = 0;

	unsetenv("LD_PRELOAD");
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

int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void), void (*fini)(void),
		      void (*rtld_fini)(void), void *stack_end)
{
	int (*next)(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void), void (*)(void), void *);

	*(void **)&next = dlsym(RTLD_NEXT, "__libc_start_main");
	program = main;
	return next(serve, argc, argv, init, fini, rtld_fini, stack_end);
}
