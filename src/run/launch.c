/* Finding the other ranks by the environment, and comparing configurations with them; see launch.h. */
#include "run/launch.h"

#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/rng.h"
#include "lm/ranks.h"
#include "run/folder.h"

static struct nt_ranks us;
static char *address, *run;
static struct nla_log own; /* what another rank than the first says */

int64_t nla_launch_here(void) { return NLA_MAX(us.here, 1); }

static const char *env(const char *name)
{
	const char *value = getenv(name);
	return value ? value : "";
}

static enum nla_status number(const char *name, int least, int end, int *out, struct nla_err *err)
{
	const char *text = env(name);
	char *tail;
	const long x = strtol(text, &tail, 10);
	if (!*text || *tail || x < least || x >= end)
		return nla_usage(err, "%s is '%s': want a number, %d to %d", name, text, least, end - 1);
	*out = (int)x;
	return NLA_OK;
}

/* "node[07-12,20],other3" -> "node07", owned. */
static char *first_host(const char *list)
{
	const size_t name = strcspn(list, "[,");
	const char *inside = list[name] == '[' ? list + name + 1 : "";
	return nla_format("%.*s%.*s", (int)name, list, (int)strcspn(inside, "-,]"), inside);
}

static void over(const char *line)
{
	nla_say_quiet(NLA_SAY_ALL);
	nla_say("%s: %s", program_invocation_short_name, line);
}

static enum nla_status find(struct nla_err *err)
{
	enum { SLURM = 2 };
	static const struct { const char *rank, *size, *here; } by[] = {
		{ "RANK", "WORLD_SIZE", "" },
		{ "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE" },
		{ "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "" }, /* of a step, also of one in which mpirun or its daemons are */
		{ "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS" },
	};
	const char *nodes = *env("SLURM_STEP_NODELIST") ? env("SLURM_STEP_NODELIST") : env("SLURM_NODELIST");
	const char *job = env("SLURM_JOB_ID"), *step = env("SLURM_STEP_ID");
	struct nt_ranks r = { .port = 29500, .over = over };
	size_t i = 0;
	while (i < NLA_LEN(by) && (!*env(by[i].rank) || !*env(by[i].size) ||
				   (i == SLURM && *env("PMI_SIZE") && strcmp(env("PMI_SIZE"), env(by[i].size)))))
		i++;
	if (i == NLA_LEN(by) || us.size)
		return NLA_OK;
	if (i == SLURM)
		r.port = 20000 + (int)((nla_hash(job, strlen(job)) + nla_hash(step, strlen(step))) % 10000);
	if (number(by[i].size, 1, 100000, &r.size, err) || number(by[i].rank, 0, r.size, &r.rank, err) ||
	    (*env("MASTER_PORT") && number("MASTER_PORT", 1, 65536, &r.port, err)))
		return err->status;
	if (*env("MASTER_ADDR"))
		address = nla_strdup(env("MASTER_ADDR"));
	else if (i == SLURM && *nodes)
		address = first_host(nodes);
	else if (r.size == 1 || !strcmp(env(by[i].here), env(by[i].size)))
		address = nla_strdup("127.0.0.1");
	else
		return nla_usage(err, "MASTER_ADDR is not set: want the name of rank 0's host");
	r.served = !strcmp(env("TORCHELASTIC_USE_AGENT_STORE"), "True");
	r.address = address;
	/* the same for all ranks, and as far as can be for no others */
	r.run = run = !i ? nla_format("nla/%s/%s/", env("TORCHELASTIC_RUN_ID"), env("TORCHELASTIC_RESTART_COUNT"))
			 : nla_format("nla/%s/%s/%s/", job, i == SLURM ? step : "", env("PMIX_NAMESPACE"));
	us = r;
	return NLA_OK;
}

/* What this rank was told, against what the first was. */
static enum nla_status compare(const struct nla_config *cfg, enum nla_command command, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	nla_auto_json cJSON *mine = nla_same_describe(cfg, command, NLA_SAME_RANKS, err), *first = NULL;
	if (err->status)
		return err->status;
	nla_json_add(&text, mine, false, 0);
	nla_ranks_copy_str(&text);
	if (nla_json_parse(text.buf, text.len, "rank 0", &first, err))
		return err->status;
	for (const cJSON *x = mine->child; x && !err->status; x = x->next) {
		const cJSON *other = cJSON_GetObjectItemCaseSensitive(first, x->string);
		nla_auto char *here = cJSON_PrintUnformatted(x), *there = cJSON_PrintUnformatted(other);
		if (!cJSON_Compare(x, other, true))
			nla_usage(err, "its '%s' is %.200s, and that of rank 0 is %.200s (of files: what they hold)", x->string,
				  here, there ? there : "missing");
	}
	if (nla_ranks_any(err->status) && !err->status)
		nla_ranks_any(false); /* the rank that differs does not come, but ends all, before any has touched a file */
	return err->status;
}

enum nla_status nla_launch(const struct nla_config *cfg, enum nla_command command, struct nla_err *err)
{
	nla_auto char *name = NULL, *log = NULL;
	struct stat st;
	if (find(err) || us.size < 2)
		return err->status;
	if (command & (NLA_CMD_EXPLAIN | NLA_CMD_EXPORT) || cfg->check || cfg->extract.sidecar)
		return nla_usage(err, "this is work of one process, and here are %d ranks: start it without torchrun, srun or "
				 "mpirun", us.size);
	if (command & NLA_CMD_EXTRACT && !stat(cfg->extract.corpus, &st) && !S_ISREG(st.st_mode) &&
	    !S_ISDIR(st.st_mode))
		return nla_usage(err, "'%s' can be read once, and each rank reads it: give extract.corpus a file",
				 cfg->extract.corpus);
	us.timeout = cfg->dist.timeout;
	name = nla_format("rank-%d.log", us.rank);
	us.log = log = *cfg->out ? nla_path_join(cfg->out, name) : NULL;
	if (log && (nla_mkdirs(cfg->out, err) || (us.rank && nla_log_open(&own, cfg->out, name, err))))
		return err->status;
	if (us.rank) {
		nla_say_tee(own.path ? &own : NULL);
		nla_say_quiet(NLA_SAY_NOTHING);
	}
	const nt_status met = nt_ranks_open(&us);
	us.log = NULL;
	if (met)
		return nla_nt_fail(err, "ranks cannot meet at %s:%d", us.address, us.port);
	nla_ranks_set(&us);
	if (us.rank)
		nla_say("rank %d of %d, %d of them on this machine", us.rank, us.size, us.here);
	return compare(cfg, command, err);
}

bool nla_launch_end(const struct nla_err *err)
{
	bool says = true;
	if (find(NLA_IGNORED) || us.size < 2)
		goto out;
	if (us.rank)
		nla_say_quiet(NLA_SAY_NOTHING);
	if (err->status && err->status != NLA_STOPPED)
		says = nt_ranks_fail(&us, err->text);
	else {
		nt_ranks_close();
		says = !us.rank;
	}
	nla_ranks_set(NULL);
	if (says)
		nla_say_quiet(NLA_SAY_ALL);
	nla_say_tee(NULL);
	nla_log_close(&own, NLA_IGNORED);
out:
	free(address);
	free(run);
	return says;
}
