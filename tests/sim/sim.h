/*
 * sim - a simulated GPU for tests, libtorch's device type PrivateUse1 computing with libtorch's own CPU kernels, so that the whole
 * program's numbers can be had "on a device" where there is none. As on a GPU, the host dies of SIGSEGV when it follows an address
 * of the device, operations throw when their tensors are on different devices, and fresh memory holds what nobody wrote (NaN).
 * libnla_sim.so holds it; a program opens it as --device sim or sim:N with its folder in LD_LIBRARY_PATH. Never installed.
 *
 * It accepts what CUDA's own kernels may refuse (types, sizes, alignment), and knows nothing of time: tests/fake_cuda shows the
 * former.
 */
#ifndef NLA_TEST_SIM_H
#define NLA_TEST_SIM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sim_counts {
	int64_t kernels, graphs;     /* operations that compute: views are none; graphs launched */
	int64_t to_host, to_device;  /* copies; reading one number counts as one to the host */
	int64_t bytes, peak;         /* now, and at most since the last reset; both of all devices */
};

int sim_start(void); /* registers the device type "sim", once; returns how many there are */
struct sim_counts sim_counts(void);
void sim_limit(int64_t bytes); /* allocations beyond, of all devices, fail as out of memory; 0: no limit */

#ifdef __cplusplus
}
#endif
#endif
