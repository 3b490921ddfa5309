// What the files of the simulated GPU share: the table that the program opens it by, and who runs a kernel of ours.
#pragma once

#include "shim/nt_gpu.h"

extern "C" nt::gpu::Plugin nla_plugin;
bool sim_has_heads(int head, int group);
void sim_launch(nt::gpu::Kernel &k, const unsigned *grid, unsigned threads, void **args);
void sim_launched(const std::function<void()> &kernel); // runs it, and notes it down where a graph is captured
