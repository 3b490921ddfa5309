/* leak - preloaded into a program under test: every sixteenth rename, about one a step with a checkpoint, leaks what NLA_LEAK names, a
 * handle or 64 KiB of memory. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int rename(const char *from, const char *to)
{
	static int n;
	const char *what = getenv("NLA_LEAK");
	int (*next)(const char *, const char *);

	if (what && ++n % 16 == 0) {
		if (!strcmp(what, "handle"))
			(void)!open("/dev/null", O_RDONLY | O_CLOEXEC);
		volatile char *lost = strcmp(what, "memory") ? NULL : malloc(1 << 16);
		for (int i = 0; lost && i < 1 << 16; i += 4096)
			lost[i] = 1;
	}
	*(void **)&next = dlsym(RTLD_NEXT, "rename");
	return next(from, to);
}
