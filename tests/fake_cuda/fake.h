/* What was done on the fake CUDA (fake.c) since the start; a test program reads it before and after. */
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

#include <stdint.h>

struct fake_cuda {
	int64_t launches;  /* kernels, with copies and memsets on the device */
	int64_t products;  /* cuBLAS calls */
	int64_t to_device, to_host; /* copies */
	int64_t waits;     /* of the host for the device */
	int64_t idle;      /* of those, with nothing more for the device to do, so that it waits for the host afterwards */
	int64_t captured;  /* kernels and products of the last graph */
	int64_t graphs;    /* launched */
	int64_t refused;   /* what a capture forbids */
	int64_t sums;      /* of NCCL */
	int64_t bytes, peak; /* taken from the card by libtorch's allocator */
};
__attribute__((visibility("default"))) struct fake_cuda fake_cuda_counts(void);

#endif
