/*
 * deny - preloaded into a program under test: the calls that DENY names fail, as on file systems that lack them.
 *
 *	DENY="symlink flock" LD_PRELOAD=libdeny.so nla-train ...
 *
 *	symlink   no links: EPERM
 *	flock     no locks: ENOLCK
 *	rmdir     of what is called .tmp-old-*: EBUSY, as when another node has a file in it open
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static int denied(const char *call, int why)
{
	const char *list = getenv("DENY");

	if (!list || !strstr(list, call))
		return 0;
	errno = why;
	return 1;
}

int symlink(const char *to, const char *path)
{
	int (*next)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "symlink");

	return denied("symlink", EPERM) ? -1 : next(to, path);
}

int flock(int fd, int operation)
{
	int (*next)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");

	return denied("flock", ENOLCK) ? -1 : next(fd, operation);
}

int rmdir(const char *path)
{
	int (*next)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "rmdir");

	return strstr(path, ".tmp-old-") && denied("rmdir", EBUSY) ? -1 : next(path);
}
