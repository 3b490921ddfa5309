// How this process's threads wait for each other. GNU OpenMP's spin for milliseconds before they sleep: the fastest way while
// every thread has a processor, and many times slower than sleeping where one of them waits for a processor that another spins
// on. By its manual (GOMP_SPINCOUNT) they hardly spin once there are more of them than processors. So a thread here looks how
// long the others stand in the scheduler's queue; while that is long, a second team, which sleeps, makes them more.
#include "shim/nt.h"

#include <csignal>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <thread>

namespace {

const double every = 0.1, contended = 0.3, calm = 0.1; // seconds between looks; shares of that which a thread stood waiting
const int looks = 5;				       // that find calm before threads spin again

// The longest time, in seconds, that a thread of this process was ready to run and did not since the last call; 0 where the
// kernel does not say. `sums`: what each had waited in all.
double waited(std::map<std::string, double> &sums)
{
	std::map<std::string, double> now;
	double longest = 0, ran, queued;
	std::error_code none;
	for (std::filesystem::directory_iterator task("/proc/self/task", none), end; task != end; task.increment(none)) {
		std::ifstream file(task->path() / "schedstat");
		if (!(file >> ran >> queued))
			continue;
		now[task->path()] = 1e-9 * queued;
		longest = std::max(longest, now[task->path()] - sums[task->path()]);
	}
	sums.swap(now);
	return longest;
}

// The second team, of as many threads as exceed the processors. OpenMP ends it with the thread that began it.
struct Sleepers {
	explicit Sleepers(int n)
		: owner([this, n] {
#pragma omp parallel num_threads(n)
			  omp_get_thread_num();
			  over.get_future().wait();
		  })
	{
	}
	~Sleepers()
	{
		over.set_value();
		owner.join();
	}
	std::promise<void> over;
	std::thread owner;
};

void watch(void)
{
	std::unique_ptr<Sleepers> sleepers;
	std::map<std::string, double> sums;
	waited(sums);
	const int n = std::max(omp_get_num_procs() - nt_threads(), 0) + 2;
	if (n > 64) // a container's share of a large machine: not worth its threads, which may be limited
		return;
	for (int busy = 0, quiet = 0;;) {
		std::this_thread::sleep_for(std::chrono::duration<double>(every));
		double share = waited(sums) / every;
		busy = share > contended ? busy + 1 : 0;
		quiet = share < calm ? quiet + 1 : 0;
		try {
			if (!sleepers && busy > 1) // twice: threads that have just begun share a processor for a moment
				sleepers = std::make_unique<Sleepers>(n);
			else if (quiet >= looks)
				sleepers.reset();
		} catch (const std::system_error &) { // no thread to be had
			return;
		}
	}
}

} // namespace

void nt_wait_politely(void)
{
	static bool begun;
	if (begun || nt_threads() < 2 || getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"))
		return;
	begun = true;
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old); // signals are the caller's
	std::thread(watch).detach();
	pthread_sigmask(SIG_SETMASK, &old, nullptr);
}
