/*
 * machine - see machine.h. A limit holds for a cgroup and all below it, so the whole path of /proc/self/cgroup is read. Inside
 * a container the path may be the host's, of which /sys shows only the root: what is not there limits nothing.
 */
#include "base/machine.h"
#include "base/file.h"

/* What follows label in DIR/NAME, borrowed from text; "" when there is no such file or label. */
static const char *after(const char *dir, const char *name, const char *label, struct nla_str *text)
{
	nla_auto char *path = nla_format("%s/%s", dir, name);
	const char *at = nla_file_read(path, text, NLA_IGNORED) ? NULL : strstr(text->buf, label);
	return at ? at + strlen(label) : "";
}

/* The number after label in DIR/NAME; -1 when there is none ("max", no such file). */
static double number(const char *dir, const char *name, const char *label)
{
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	const char *at = after(dir, name, label, &text);
	char *end;
	double x = strtod(at, &end);
	bool any = end > at;
	return any ? x : -1;
}

/* The limits of one folder below /sys/fs/cgroup. */
static void narrow(struct nla_machine *m, const char *dir, bool v2)
{
	double limit = number(dir, v2 ? "memory.max" : "memory.limit_in_bytes", "");
	double used = number(dir, v2 ? "memory.current" : "memory.usage_in_bytes", "");
	double inactive = number(dir, "memory.stat", v2 ? "\ninactive_file " : "\ntotal_inactive_file ");
	double active = number(dir, "memory.stat", v2 ? "\nactive_file " : "\ntotal_active_file ");
	double quota = number(dir, v2 ? "cpu.max" : "cpu.cfs_quota_us", "");
	double period = v2 ? number(dir, "cpu.max", " ") : number(dir, "cpu.cfs_period_us", "");
	if (limit >= 0 && limit < (double)m->memory)
		m->memory = (int64_t)limit;
	used = NLA_MAX(used - NLA_MAX(inactive, 0) - NLA_MAX(active, 0), 0);
	if (limit >= 0 && limit - used < (double)m->free)
		m->free = (int64_t)NLA_MAX(limit - used, 0);
	if (quota > 0 && period > 0)
		m->cores = (int)NLA_MAX(NLA_MIN(ceil(quota / period), m->cores), 1);
}

/* line: "4:memory:/a/b" (version 1), "0::/a/b" (version 2). */
static void narrow_path(struct nla_machine *m, const char *root, char *line)
{
	char *names = strchr(line, ':'), *path = names ? strchr(++names, ':') : NULL;
	if (!path)
		return;
	*path++ = '\0';
	static const char *const v2[] = { "", "unified/" };
	const bool is_v2 = !names[0];
	for (char *slash = path; slash;) {
		for (int i = 0; i < (is_v2 ? 2 : 1); i++) {
			nla_auto char *dir = nla_format("%s/sys/fs/cgroup/%s%s", root, is_v2 ? v2[i] : names, path);
			narrow(m, dir, is_v2);
		}
		if ((slash = strrchr(path, '/')) != NULL)
			*slash = '\0';
	}
}

void nla_machine_read(struct nla_machine *m, const char *root)
{
	nla_auto char *proc = nla_format("%s/proc", root), *cgroup = nla_format("%s/self/cgroup", proc);
	struct nla_err err = NLA_ERR_INIT;
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	struct nla_lines lines;
	m->cores = 0;
	for (const char *mask = after(proc, "self/status", "Cpus_allowed:", &text); *mask && *mask != '\n'; mask++)
		m->cores += __builtin_popcount((unsigned)strtol((char[]){ *mask, '\0' }, NULL, 16)); /* hexadecimal, commas */
	if (!*root) /* one that is not there yet may be allowed, too */
		m->cores = NLA_MIN(m->cores, (int)sysconf(_SC_NPROCESSORS_ONLN));
	m->cores = NLA_MAX(m->cores, 1);
	double total = number(proc, "meminfo", "MemTotal:"), available = number(proc, "meminfo", "MemAvailable:");
	m->memory = total > 0 ? (int64_t)(1024 * total) : INT64_MAX;
	m->free = available > 0 ? (int64_t)(1024 * available) : m->memory;
	if (!nla_lines_open(&lines, cgroup, &err)) {
		while (nla_lines_next(&lines))
			narrow_path(m, root, lines.line.buf);
		nla_lines_close(&lines, &err);
	}
}
