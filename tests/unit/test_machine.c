/* machine: made trees of /proc and /sys, as version 1, version 2 and containers have them; and the real one. */
#include "scratch.h"

#include "base/machine.h"

#include <sys/stat.h>

static struct nla_err err;

static void put_at(const char *tree, const char *path, const char *text)
{
	char *name = nla_format("%s/%s", tree, path), *full = nla_format("%s/%s", scratch, name), *dir = nla_path_dir(full);

	assert_ok(nla_mkdirs(dir, &err));
	put_text(name, text);
	free(name);
	free(full);
	free(dir);
}

/* A host of 64 GiB, half of it free, and 16 cores. */
static void host(const char *tree, const char *cgroup, const char *mask)
{
	char *status = nla_format("Name:\tnla\nCpus_allowed:\t%s\nCpus_allowed_list:\t0-15\n", mask);

	put_at(tree, "proc/meminfo", "MemTotal:       67108864 kB\nMemFree:        1 kB\nMemAvailable:   33554432 kB\n");
	put_at(tree, "proc/self/status", status);
	put_at(tree, "proc/self/cgroup", cgroup);
	free(status);
}

static void expect(const char *tree, int cores, double memory, double free_bytes)
{
	struct nla_machine m;

	nla_machine_read(&m, in_scratch(tree));
	assert_int_equal(m.cores, cores);
	assert_true(m.memory == (int64_t)memory && m.free == (int64_t)free_bytes);
}

#define GIB 1073741824.0

static void test_no_limits(void **state)
{
	host("plain", "0::/\n", "ffff");
	expect("plain", 16, 64 * GIB, 32 * GIB);
	host("max", "0::/user.slice\n", "0000ffff,00000003");
	put_at("max", "sys/fs/cgroup/user.slice/memory.max", "max\n");
	put_at("max", "sys/fs/cgroup/user.slice/memory.current", "1000\n");
	put_at("max", "sys/fs/cgroup/user.slice/cpu.max", "max 100000\n");
	expect("max", 18, 64 * GIB, 32 * GIB);
}

/* A Slurm job: the limits are above the cgroup of the process, the lowest of each kind holds. */
static void test_version_2(void **state)
{
	host("v2", "0::/system.slice/job_7/step_0/task_0\n", "ffff");
	put_at("v2", "sys/fs/cgroup/system.slice/job_7/memory.max", "8589934592\n");
	put_at("v2", "sys/fs/cgroup/system.slice/job_7/memory.current", "3221225472\n");
	put_at("v2", "sys/fs/cgroup/system.slice/job_7/memory.stat", "anon 7\nactive_file 536870912\ninactive_file 536870912\nactive_anon 9\n");
	put_at("v2", "sys/fs/cgroup/system.slice/job_7/step_0/memory.max", "17179869184\n");
	put_at("v2", "sys/fs/cgroup/system.slice/job_7/cpu.max", "250000 100000\n");
	put_at("v2", "sys/fs/cgroup/system.slice/job_7/step_0/task_0/cpu.max", "max 100000\n");
	expect("v2", 3, 8 * GIB, 6 * GIB);
	put_at("v2", "sys/fs/cgroup/system.slice/job_7/step_0/cpu.max", "50000 100000\n");
	put_at("v2", "sys/fs/cgroup/system.slice/job_7/memory.current", "99999999999\n");
	expect("v2", 1, 8 * GIB, 0);
	host("v2", "0::/system.slice/job_7/step_0/task_0\n", "4");
	expect("v2", 1, 8 * GIB, 0);
}

static void test_version_1(void **state)
{
	host("v1", "9:name=systemd:/\n4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n", "ff");
	put_at("v1", "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	put_at("v1", "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "4294967296\n");
	put_at("v1", "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "1073741824\n");
	put_at("v1", "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "400000\n");
	put_at("v1", "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n");
	expect("v1", 4, 4 * GIB, 3 * GIB);
	put_at("v1", "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "-1\n");
	expect("v1", 8, 4 * GIB, 3 * GIB);
}

/* Inside a container /proc may name the host's path, of which /sys shows only the root; a hybrid host has version 2 elsewhere. */
static void test_container(void **state)
{
	host("box", "4:memory:/docker/abc\n0::/docker/abc\n", "ff");
	put_at("box", "sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n");
	put_at("box", "sys/fs/cgroup/unified/cpu.max", "100001 100000\n");
	expect("box", 2, 2 * GIB, 2 * GIB);
}

static void test_broken(void **state)
{
	host("odd", "nonsense\n:\n0::\n0::nothing\n3:memory\n", "zz");
	put_at("odd", "sys/fs/cgroup/cpu.max", "\n");
	put_at("odd", "sys/fs/cgroup/memory.max", "");
	expect("odd", 1, 64 * GIB, 32 * GIB);
}

static void test_this_machine(void **state)
{
	struct nla_machine m;

	nla_machine_read(&m, "");
	assert_true(m.cores >= 1 && m.cores <= sysconf(_SC_NPROCESSORS_ONLN));
	assert_true(m.memory > 0 && m.free > 0 && m.free <= m.memory);
	assert_true(m.memory <= (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
}

/* A real limit, where this user may set one. */
static void test_real_cgroup(void **state)
{
	static const char *const dirs[] = { "/sys/fs/cgroup/memory", "/sys/fs/cgroup" };
	bool limited = false;

	for (int v2 = 0; v2 < 2 && !limited; v2++) {
		char *dir = nla_format("%s/nla-test-%d", dirs[v2], (int)getpid());
		char *limit = nla_format("%s/%s", dir, v2 ? "memory.max" : "memory.limit_in_bytes");
		char *procs = nla_format("%s/cgroup.procs", dir), *back = nla_format("%s/cgroup.procs", dirs[v2]);
		struct nla_machine m;
		FILE *f;

		if (!mkdir(dir, 0755) && (f = fopen(limit, "w")) && fputs("536870912", f) >= 0 && !fclose(f) &&
		    (f = fopen(procs, "w")) && fprintf(f, "%d", (int)getpid()) > 0 && !fclose(f)) {
			limited = true;
			nla_machine_read(&m, "");
			if ((f = fopen(back, "w"))) {
				fprintf(f, "%d", (int)getpid());
				fclose(f);
			}
		}
		rmdir(dir);
		free(dir);
		free(limit);
		free(procs);
		free(back);
		if (limited)
			assert_true(m.memory <= 536870912 && m.free < 536870912);
	}
	if (!limited) {
		print_message("skipped: this user cannot make a cgroup here\n");
		skip();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_limits), cmocka_unit_test(test_version_2),    cmocka_unit_test(test_version_1),
		cmocka_unit_test(test_container), cmocka_unit_test(test_broken),       cmocka_unit_test(test_this_machine),
		cmocka_unit_test(test_real_cgroup),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
