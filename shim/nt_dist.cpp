// Ranks: see nt.h. c10d's TCPStore brings them together, Gloo sums what is in the host's memory, NCCL what is on CUDA cards;
// what is on another device goes through the host.
//
// Each rank counts up a number of its own in the store, a beat. The first looks at those of all, the others at the first's: who
// finds one that stands still, or waits for another in a call for longer than `timeout`, writes why under the key "failed",
// where only the first word stays, and every rank ends by it. A connection that breaks says earlier that a rank is gone, and
// not which: the rank that sees it waits here until the beats tell.
#include "shim/nt_gpu.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <arpa/inet.h>
#include <csignal>
#include <fstream>
#include <iostream>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

using nt::action;

namespace
{

using std::chrono::duration;
using Store = c10::intrusive_ptr<c10d::Store>;

constexpr auto forever = std::chrono::hours(24 * 365); // what bounds a call is the beats, never c10d
constexpr int silent = 5, mute = 12; // once a connection broke, the beats after which a rank is gone, and after which none is

double now(void) { return duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string first_line(const std::string &s) { return s.substr(0, std::min<size_t>(s.find('\n'), 300)); }
std::vector<uint8_t> bytes(const std::string &s) { return {s.begin(), s.end()}; }
std::string words(const std::vector<uint8_t> &b) { return {b.begin(), b.end()}; }
std::string seconds(double s) { return std::to_string(std::lround(s)) + " s"; }

// What c10d prints, into a file that the first word makes.
struct Log : std::streambuf {
	std::string path;
	std::ofstream file;
	std::mutex lock;
	std::streamsize xsputn(const char *s, std::streamsize n) override
	{
		std::lock_guard<std::mutex> held(lock);
		if (!file.is_open() && !path.empty())
			file.open(path, std::ios::app);
		file.write(s, n).flush();
		return n;
	}
	int overflow(int c) override { return xsputn(std::array{char(c)}.data(), 1), c; }
};

// The address that this host has towards another one: the one which that can reach.
std::string address_towards(const std::string &peer)
{
	addrinfo hint = {}, *found = nullptr;
	char name[64] = "127.0.0.1";
	hint.ai_socktype = SOCK_DGRAM;
	if (getaddrinfo(peer.c_str(), "9", &hint, &found))
		return name;
	int fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0); // nothing is sent
	sockaddr_storage own = {};
	socklen_t size = sizeof(own);
	if (fd >= 0 && !connect(fd, found->ai_addr, found->ai_addrlen) && !getsockname(fd, (sockaddr *)&own, &size))
		getnameinfo((sockaddr *)&own, size, name, sizeof(name), nullptr, 0, NI_NUMERICHOST);
	close(fd);
	freeaddrinfo(found);
	return name;
}

struct Group {
	explicit Group(const nt_ranks &with) : o(with) {}
	nt_ranks o;
	std::string host, why;		// why it broke
	std::vector<std::string> hosts; // once they have met
	std::atomic<bool> met{false};
	Store store, beats; // two connections: one waits in the calling thread
	c10::intrusive_ptr<c10d::Backend> gloo;
	void *nccl = nullptr;
	double waited = 0; // since the last gradient
	std::atomic<int64_t> calls{0};
	std::atomic<double> since{0};		       // a call began; 0: none has
	std::atomic<double> answered{now()}; // the store did
	std::atomic<const char *> doing{""};
	std::atomic<bool> broken{false};
	std::mutex lock;
	std::condition_variable wake;
	double ran = now(), stood = 0, woke = 0; // under lock: this process was running; it stood still for so long, until then
	bool leaving = false;
	std::thread beating, watching;

	double tick() const { return std::min(1.0, o.timeout / 8); }
	std::string name(int r) const { return "rank " + std::to_string(r) + (!met ? "" : " on " + hosts[size_t(r)]); }
	bool pause(double seconds) // false: the ranks part
	{
		std::unique_lock<std::mutex> held(lock);
		return !wake.wait_for(held, duration<double>(seconds), [this] { return leaving; });
	}
	double stood_still() // 0: no. A process that was stopped takes the others for dead, within twice the timeout
	{
		std::lock_guard<std::mutex> held(lock);
		double gap = now() - std::exchange(ran, now());
		if (gap > o.timeout)
			stood = gap, woke = now();
		return now() - woke < 2 * o.timeout ? stood : 0;
	}
	void stop()
	{
		lock.lock();
		leaving = true;
		lock.unlock();
		wake.notify_all();
		for (std::thread *t : {&beating, &watching})
			if (t->joinable())
				t->join();
	}
	void part() // the store is the first rank's, which leaves last; its other connection may wait for one that never comes
	{
		try {
			if (o.rank)
				beats->add("left", 1);
			for (double end = now() + 5; !o.rank && now() < end && beats->add("left", 0) < o.size - 1;)
				usleep(20000);
		} catch (const std::exception &) { // it has left
		}
	}
};

Group *group;
Log &out = *new Log; // libtorch may write to it until the very end

std::string key(const char *what, int rank) { return what + std::to_string(rank); }
std::string first_word(Store &store, const std::string &said) { return words(store->compareSet("failed", {}, bytes(said))); }

// Who says it, and what: "0..." the first rank, "a..." all of them (the first is gone), "q..." it has been said.
[[noreturn]] void end(Group &g, std::string said)
{
	static std::mutex once;
	once.lock();
	if (double still = g.stood_still())
		said = "a" + g.name(g.o.rank) + " stood still for " + seconds(still);
	std::cerr << said.substr(1) << std::endl;
	if (said[0] == 'a' || (said[0] == '0' && !g.o.rank))
		g.o.over(said.c_str() + 1);
	if (said[0] != 'a')
		g.part();
	_exit(1);
}

[[noreturn]] void blame(Group &g, int r, const std::string &what)
{
	end(g, first_word(g.beats, (r ? "0" : "a") + g.name(r) + what));
}

// The rank that has come to fewer calls than the others.
[[noreturn]] void blame_late(Group &g, double waited)
{
	std::vector<int64_t> n;
	for (int r = 0; r < g.o.size; r++)
		n.push_back(g.beats->add(key("calls/", r), 0));
	auto least = std::min_element(n.begin(), n.end());
	std::string where = g.doing.load() + (" for " + seconds(waited));
	if (*least == *std::max_element(n.begin(), n.end()))
		blame(g, g.o.rank, " waits in " + where + ", as all others do: the network?");
	blame(g, static_cast<int>(least - n.begin()), " has not come to " + where);
}

void beat(Group &g)
{
	std::vector<int64_t> count(static_cast<size_t>(g.o.size));
	std::vector<double> seen(count.size(), now());
	int64_t told = 0, since_broken = 0;
	do {
		bool broken = g.broken;
		double limit = broken ? silent * g.tick() : g.o.timeout, since = g.since;
		g.beats->add(key("beat/", g.o.rank), 1);
		int64_t calls = g.calls;
		g.beats->add(key("calls/", g.o.rank), calls - told);
		told = calls;
		if (g.beats->check({"failed"}))
			end(g, words(g.beats->get("failed")));
		for (int r = 0; r < g.o.size; r++) {
			size_t i = static_cast<size_t>(r);
			int64_t beats = r == g.o.rank || (r && g.o.rank && !broken) ? -1 : g.beats->add(key("beat/", r), 0);
			if (beats < 0 || beats != count[i])
				seen[i] = now();
			count[i] = beats;
			if (now() - seen[i] > limit)
				blame(g, r, (beats ? " gives no sign of life for " : " has not come within ") +
						    seconds(now() - seen[i]));
		}
		if (broken && since_broken++ > mute)
			blame(g, g.o.rank, std::string(": ") + g.doing.load() + ": " + g.why);
		if (!broken && since && now() - since > g.o.timeout)
			blame_late(g, now() - since);
		g.answered = now();
	} while (g.pause(g.tick()));
}

// A thread of the group's; what goes wrong in it is the store's.
void start(std::thread &t, Group &g, void (*run)(Group &))
{
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old); // signals are the caller's
	t = std::thread([&g, run] {
		try {
			run(g);
		} catch (const std::exception &e) {
			if (g.pause(0))
				end(g, "a" + g.name(0) + " is gone, and with it the ranks' store: " + first_line(e.what()));
		}
	});
	pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

// A store that does not answer holds the beats up.
void watch(Group &g)
{
	while (g.pause(g.tick())) {
		g.stood_still();
		double quiet = now() - g.answered;
		if (quiet > g.o.timeout + g.tick())
			end(g, "a" + g.name(0) + " gives no sign of life for " + seconds(quiet));
	}
}

// What all ranks do together. Where it breaks, the beats find out by whom, and this thread waits for its end.
template <class F> void together(const char *what, F &&f)
{
	Group &g = *group;
	g.doing = what;
	g.calls++;
	g.since = now();
	try {
		f();
	} catch (const std::exception &e) {
		g.why = first_line(e.what());
		g.broken = true;
		for (;;)
			pause();
	}
	g.since = 0;
}

// Gloo ends a program in which sizes differ. Here a rank waits for the others.
void agree(const char *what, int64_t size)
{
	std::vector<at::Tensor> both = {at::tensor({size, -size}, at::kLong)};
	c10d::AllreduceOptions most;
	most.reduceOp = c10d::ReduceOp::MAX;
	double began = now();
	together(what, [&] {
		group->gloo->allreduce(both, most)->wait();
		int64_t largest = both[0][0].item<int64_t>(), least = -both[0][1].item<int64_t>();
		TORCH_CHECK(largest == least, "ranks come with ", least, " and with ", largest, " numbers");
	});
	group->waited += now() - began;
}

void sum(const char *what, at::Tensor &t)
{
	const nt::gpu::Plugin *p = nt::gpu::plugin;
	if (!t.is_cpu() && p->ranks_sum) {
		if (!group->nccl)
			together("the start of NCCL", [&] {
				std::vector<at::Tensor> id = {at::zeros({128}, at::kByte)};
				if (!group->o.rank)
					p->ranks_id(id[0].data_ptr());
				group->gloo->broadcast(id, {})->wait();
				group->nccl = p->ranks_join(group->o.rank, group->o.size, id[0].data_ptr());
			});
		together(what, [&] { p->ranks_sum(group->nccl, t.data_ptr(), t.numel()); });
		return;
	}
	std::vector<at::Tensor> host = {t.cpu()};
	together(what, [&] { group->gloo->allreduce(host)->wait(); });
	if (!t.is_cpu())
		t.copy_(host[0]);
}

Store open_store(const nt_ranks &o, bool server)
{
	c10d::TCPStoreOptions options;
	options.port = static_cast<uint16_t>(o.port);
	options.isServer = server;
	options.waitWorkers = false;
	options.timeout = std::chrono::milliseconds(static_cast<int64_t>(1000 * o.timeout));
	return c10::make_intrusive<c10d::PrefixStore>(o.run, c10::make_intrusive<c10d::TCPStore>(o.address, options));
}

void connect(const nt_ranks &o)
{
	char host[256] = "";
	auto g = std::make_unique<Group>(o);
	out.path = o.log ? o.log : "";
	std::cerr.rdbuf(&out);
	gethostname(host, sizeof(host) - 1);
	g->host = host;
	g->store = open_store(o, !o.rank && !o.served);
	g->beats = open_store(o, false);
	group = g.release();
}

// Every rank's host, address and number of ranks.
void meet(Group &g)
{
	std::vector<std::string> keys;
	for (int r = 0; r < g.o.size; r++)
		keys.push_back(key("host/", r));
	TORCH_CHECK(g.store->add(key("came/", g.o.rank), 1) == 1, "two processes are rank ", g.o.rank);
	std::string own = address_towards(g.o.address);
	g.store->set(keys[static_cast<size_t>(g.o.rank)], bytes(g.host + " " + own + " " + std::to_string(g.o.size)));
	together("the start", [&] { g.store->wait(keys, forever); });
	for (int r = 0; r < g.o.size; r++) {
		std::string there = words(g.store->get(keys[static_cast<size_t>(r)]));
		size_t a = there.find(' '), b = there.rfind(' ');
		TORCH_CHECK(there.substr(b + 1) == std::to_string(g.o.size), "rank ", r, " on ", there.substr(0, a),
			    " is one of ", there.substr(b + 1), " ranks, and this is one of ", g.o.size);
		g.hosts.push_back(there.substr(0, a));
		if (!g.o.rank && r == g.o.size - 1) // its own name may be its loopback's to the first
			own = address_towards(there.substr(a + 1, b - a - 1));
	}
	g.met = true;
	if (!g.o.rank)
		g.store->set("met", bytes("1"));
	g.o.here = static_cast<int>(std::count(g.hosts.begin(), g.hosts.end(), g.host));
	g.o.local = static_cast<int>(std::count(g.hosts.begin(), g.hosts.begin() + g.o.rank, g.host));
	const char *interface = getenv("GLOO_SOCKET_IFNAME");
	auto options = c10d::ProcessGroupGloo::Options::create(forever);
	options->threads = 1;
	using Gloo = c10d::ProcessGroupGloo;
	options->devices.push_back(interface ? Gloo::createDeviceForInterface(interface) : Gloo::createDeviceForHostname(own));
	together("the start", [&] {
		auto store = c10::make_intrusive<c10d::PrefixStore>("gloo", g.store);
		g.gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(store, g.o.rank, g.o.size, options);
	});
}

} // namespace

int nt::local_rank() { return group ? group->o.local : 0; }

nt_status nt_ranks_open(struct nt_ranks *o)
{
	return action("ranks", {}, [&] {
		connect(*o);
		group->ran = now(); // it waited for the store
		start(group->beating, *group, beat);
		start(group->watching, *group, watch);
		meet(*group);
		*o = group->o;
	});
}

bool nt_ranks_fail(const struct nt_ranks *o, const char *text)
{
	struct nt_ranks soon = *o;
	soon.timeout = 5;
	try {
		if (!group)
			connect(soon);
		const std::string line = "rank " + std::to_string(o->rank) + ": " + text;
		std::thread([limit = std::max(o->timeout, 10.), line, over = o->over] { // nobody may answer
			std::this_thread::sleep_for(std::chrono::duration<double>(limit));
			over(line.c_str());
			_exit(1);
		}).detach();
		Group &g = *group;
		g.stop();
		if (!g.met && g.store->check({"met"})) // others have, and this process is none of them
			return true;
		if (o->rank)
			usleep(500000); // what all fail by, the first one says
		std::string own = (o->rank ? "0rank " + std::to_string(o->rank) + " on " + g.host + ": " : "q") + text;
		std::string first = first_word(g.store, own);
		if (first != own && !o->rank)
			end(g, first);
		g.part();
		return !o->rank;
	} catch (const std::exception &) { // there is no store to say it in
		return true;
	}
}

void nt_ranks_close(void)
{
	if (!group)
		return;
	agree("the end", 0);
	group->stop();
	group->part();
	if (group->nccl)
		nt::gpu::plugin->ranks_leave(group->nccl);
	delete group;
	group = nullptr;
}

nt_status nt_all_reduce(nt_tensor *t)
{
	return action("all_reduce", {t}, [&] {
		if (!group)
			return;
		agree("a sum", t->t.numel());
		sum("a sum", t->t);
	});
}

nt_status nt_reduce_grads(nt_tensor *const *params, int n, struct nt_reduced *r)
{
	*r = {};
	return action("reduce_grads", {}, [&] {
		int64_t total = 0;
		if (!group || !n)
			return;
		for (int i = 0; i < n; i++)
			total += params[i]->t.numel();
		at::Tensor flat = at::zeros({total}, params[0]->t.options().dtype(at::kFloat).requires_grad(false));
		for (int64_t i = 0, at = 0; i < n; at += params[i++]->t.numel())
			if (const at::Tensor &g = params[i]->t.grad(); g.defined())
				flat.narrow(0, at, g.numel()).copy_(g.reshape({-1}));
		agree("the gradient's sum", total);
		r->waited = std::exchange(group->waited, 0);
		double began = now();
		sum("the gradient's sum", flat);
		r->seconds = now() - began;
		r->bytes = total * 4;
		for (int64_t i = 0, at = 0; i < n; at += params[i++]->t.numel())
			params[i]->t.mutable_grad() = flat.narrow(0, at, params[i]->t.numel()).view(params[i]->t.sizes());
	});
}
