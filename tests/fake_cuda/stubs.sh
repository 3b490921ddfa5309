#!/bin/sh
# C source of what libtorch_cuda wants of NVIDIA's libraries: functions that return 0, weak, so that those of fake.c win.
#
#	stubs.sh NM LIB... >stubs.c
nm=$1
shift
for lib in "$@"; do
	"$nm" -uD "$lib"
done | awk '{ print $NF }' | sed 's/@.*//' | grep -E '^(cuda|__cuda|cublas|cudnn|cusparse|cufft|cufile|curand|nccl|nvshmem)' | sort -u |
	sed 's/.*/__attribute__((weak, visibility("default"))) int &(void) { return 0; }/'
