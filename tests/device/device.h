/*
 * device - where a test's tensors are: NLA_TEST_DEVICE, a name as after --device, or the CPU. The label `device` runs the tests
 * of the labels torch and model a second time on the simulated GPU (tests/sim), the label `gpu` on a card (tests/gpu).
 *
 *	nt_tensor *ids = nt_i64(DEVICE, at, n);
 *	if (DEVICE == NT_CPU) ...               what holds on the CPU alone, and a word why
 */
#ifndef NLA_TEST_DEVICE_H
#define NLA_TEST_DEVICE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim/nt.h"

#define DEVICE test_device()

static int test_device_index;

/* A run on a device that put nothing there has tested the CPU. */
static inline void test_device_used(void)
{
	int64_t free_bytes, total, peak;
	if (nt_memory(test_device_index, &free_bytes, &total, &peak) || peak)
		return;
	fprintf(stderr, "nothing was made on %s\n", nt_device_name(test_device_index));
	_exit(1);
}

static inline int test_device(void)
{
	static bool opened;
	const char *name = getenv("NLA_TEST_DEVICE");
	if (!opened && name && nt_device_open(name, &test_device_index)) {
		fprintf(stderr, "%s\n", nt_error());
		_exit(1);
	}
	if (!opened && name)
		atexit(test_device_used);
	else if (!opened)
		test_device_index = NT_CPU;
	opened = true;
	return test_device_index;
}

static inline bool on_card(void) { return DEVICE != NT_CPU && !strncmp(nt_device_name(DEVICE), "cuda", 4); }

#endif
