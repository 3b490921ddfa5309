/*
 * machine - the memory and the cores that this process may use: the least of the host, the scheduler's affinity and the limits
 * of every cgroup that holds it, of version 1 and 2. In a container the host's numbers are not ours.
 */
#pragma once

#include "base/base.h"

struct nla_machine {
	int cores;    /* at least 1; a quota of 1.5 counts as 2 */
	int64_t memory, free; /* bytes; what a cgroup uses already is not free, but for file pages that the kernel can drop */
};

/* root: where proc and sys are found; "" but in tests. */
void nla_machine_read(struct nla_machine *m, const char *root);
