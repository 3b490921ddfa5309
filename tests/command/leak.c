/*
 * leak - preloaded into a program under test: every sixteenth rename, about one a step with a checkpoint, leaks what NLA_LEAK names, a
 * handle or 64 KiB of memory. Each rename tells the file that NLA_MEMORY names how many bytes are resident, and how many malloc has
 * free: our programs keep those pages (src/cmd/program.c), so that they are the most that there ever were.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void tell(const char *path)
{
	static int out = -1, statm = -1;
	char text[64] = "";
	size_t pages = 0;
	if (out < 0 && (out = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)) >= 0)
		statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	if (pread(statm, text, sizeof(text) - 1, 0) > 0 && sscanf(text, "%*u %zu", &pages) == 1)
		(void)!pwrite(out, text, (size_t)snprintf(text, sizeof(text), "%20zu %20zu\n", pages * (size_t)getpagesize(), mallinfo2().fordblks), 0);
}

int rename(const char *from, const char *to)
{
	static int n;
	const char *what = getenv("NLA_LEAK"), *memory = getenv("NLA_MEMORY");
	int (*next)(const char *, const char *);

	if (what && ++n % 16 == 0) {
		if (!strcmp(what, "handle"))
			(void)!open("/dev/null", O_RDONLY | O_CLOEXEC);
		volatile char *lost = strcmp(what, "memory") ? NULL : malloc(1 << 16);
		for (int i = 0; lost && i < 1 << 16; i += 4096)
			lost[i] = 1;
	}
	if (memory)
		tell(memory);
	*(void **)&next = dlsym(RTLD_NEXT, "rename");
	return next(from, to);
}
