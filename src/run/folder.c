#include "run/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/json.h"
#include "base/progress.h"

/* Options that are marked so, or that training does not read, may differ. */
static bool is_free(const struct nla_option *o)
{
	return o->commands & NLA_OPT_MAY_CHANGE || !(o->commands & (NLA_CMD_TRAIN | NLA_CMD_SFT));
}

/* A key that the file lacks is younger than the run, which did what is the default now. */
static enum nla_status same_config(const char *path, const struct nla_config *cfg, bool fixed_steps, struct nla_err *err)
{
	struct nla_config plain = { 0 };
	nla_options_defaults(nla_config_table, nla_config_n, &plain);
	cJSON *was = NULL, *now = nla_options_dump(nla_config_table, nla_config_n, cfg);
	cJSON *usual = nla_options_dump(nla_config_table, nla_config_n, &plain);
	if (!nla_json_read(path, &was, err))
		for (size_t i = 0; i < nla_config_n && !err->status; i++) {
			const char *key = nla_config_table[i].key;
			const cJSON *a = nla_json_at(was, key), *b = nla_json_at(now, key);
			a = a ? a : nla_json_at(usual, key);
			if ((is_free(&nla_config_table[i]) && !(fixed_steps && !strcmp(key, "steps"))) || cJSON_Compare(a, b, true))
				continue;
			char *before = cJSON_PrintUnformatted(a), *after = cJSON_PrintUnformatted(b);
			nla_usage(err, "cannot resume: '%s' is %s in '%s' and %s now", key, before, path, after);
			free(before);
			free(after);
		}
	nla_config_release(&plain);
	cJSON_Delete(usual);
	cJSON_Delete(was);
	cJSON_Delete(now);
	return err->status;
}

/* Opening a .gz log removes a last member that was cut short. */
static enum nla_status repair(const char *path, struct nla_err *err)
{
	struct nla_log log;
	return nla_log_open(&log, path, err) || nla_log_close(&log, err) ? err->status : NLA_OK;
}

/* Lines of metrics.jsonl and samples.jsonl.gz beyond the checkpoint belong to work that is done again. */
static enum nla_status cut_lines(const char *path, int64_t step, struct nla_err *err)
{
	struct nla_lines in;
	struct nla_str kept = NLA_STR_INIT;
	const char *line;
	if (!nla_exists(path))
		return NLA_OK;
	if ((nla_ends_with(path, ".gz") && repair(path, err)) || nla_lines_open(&in, path, err))
		return err->status;
	while ((line = nla_lines_next(&in))) {
		cJSON *json = cJSON_Parse(line);
		const cJSON *at = json ? cJSON_GetObjectItem(json, "step") : NULL;
		if (at && at->valuedouble <= (double)step)
			nla_str_addf(&kept, "%s\n", line);
		cJSON_Delete(json);
	}
	if (!nla_lines_close(&in, err))
		nla_file_write(path, kept.buf, kept.len, nla_ends_with(path, ".gz"), err);
	nla_str_release(&kept);
	return err->status;
}

static enum nla_status start_resumed(struct nla_folder *f, const struct nla_config *cfg, const char *config, const char *metrics,
				     const char *samples, bool fixed_steps, struct nla_err *err)
{
	if (nla_checkpoint_find(f->path, &f->checkpoint, &f->resumed, err))
		return err->status;
	if (!nla_exists(config) && !f->checkpoint) {
		f->resumed = -1; /* nothing there yet: a resumable loop starts the same way */
		return nla_config_write(cfg, config, err);
	}
	if (same_config(config, cfg, fixed_steps, err))
		return err->status;
	if (!f->checkpoint)
		f->resumed = -1;
	return cut_lines(metrics, f->resumed, err) || cut_lines(samples, f->resumed, err) || nla_config_write(cfg, config, err) ? err->status
															 : NLA_OK;
}

/* Only what a run writes, never what else lies there. */
static bool is_ours(const char *name)
{
	static const char *const ours[] = { "config.json", "metrics.jsonl", "samples.jsonl.gz", "log.txt", "checkpoints", "reference" };
	for (size_t i = 0; i < NLA_LEN(ours); i++)
		if (!strcmp(name, ours[i]))
			return true;
	long long step;
	int plain = 0, rows = 0;
	sscanf(name, "eval-%lld.json%n", &step, &plain);
	sscanf(name, "eval-%lld.rows.jsonl%n", &step, &rows);
	return (plain && !name[plain]) || (rows && !name[rows]);
}

static enum nla_status remove_run(const char *path, struct nla_err *err)
{
	struct nla_strs names = { 0 };
	if (!nla_is_dir(path) || nla_list_dir(path, &names, err))
		return err->status;
	for (size_t i = 0; i < names.n && !err->status; i++) {
		char *p = nla_path_join(path, names.data[i]);
		if (is_ours(names.data[i]))
			nla_rmtree(p, err);
		free(p);
	}
	nla_strs_release(&names);
	return err->status;
}

static enum nla_status start_fresh(struct nla_folder *f, const struct nla_config *cfg, const char *config, struct nla_err *err)
{
	char *checkpoints = nla_path_join(f->path, "checkpoints");
	bool there = nla_exists(config) || nla_exists(checkpoints);
	free(checkpoints);
	if (there && !cfg->overwrite)
		return nla_usage(err, "'%s' holds a run already: give --resume to go on, --overwrite to replace it, or another --out", f->path);
	return (cfg->overwrite && remove_run(f->path, err)) || nla_config_write(cfg, config, err) ? err->status : NLA_OK;
}

/* Held until close, or until the process is gone. A file system that knows no locks goes without. */
static enum nla_status lock_folder(struct nla_folder *f, struct nla_err *err)
{
	if (nla_mkdirs(f->path, err))
		return err->status;
	f->lock = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->lock >= 0 && flock(f->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
		return nla_fail(err, "'%s' is in use by another program", f->path);
	return NLA_OK;
}

enum nla_status nla_folder_open(struct nla_folder *f, const struct nla_config *cfg, bool fixed_steps, struct nla_err *err)
{
	*f = (struct nla_folder){ .path = nla_strdup(cfg->out), .resumed = -1, .metrics.fd = -1, .samples.fd = -1, .log.fd = -1, .lock = -1 };
	char *config = nla_path_join(f->path, "config.json"), *metrics = nla_path_join(f->path, "metrics.jsonl");
	char *samples = nla_path_join(f->path, "samples.jsonl.gz"), *log = nla_path_join(f->path, "log.txt");
	if (lock_folder(f, err) || (cfg->resume ? start_resumed(f, cfg, config, metrics, samples, fixed_steps, err) : start_fresh(f, cfg, config, err)) ||
	    nla_log_open(&f->metrics, metrics, err) || nla_log_open(&f->samples, samples, err) || nla_log_open(&f->log, log, err))
		goto out;
	nla_say_tee(&f->log);
out:
	free(config);
	free(metrics);
	free(samples);
	free(log);
	if (err->status) {
		struct nla_err ignored = NLA_ERR_INIT;
		nla_folder_close(f, &ignored);
	}
	return err->status;
}

enum nla_status nla_folder_close(struct nla_folder *f, struct nla_err *err)
{
	nla_say_tee(NULL);
	struct nla_log *logs[] = { &f->metrics, &f->samples, &f->log };
	for (size_t i = 0; i < NLA_LEN(logs); i++)
		if (logs[i]->path)
			nla_log_close(logs[i], err);
	if (f->path && f->lock >= 0)
		close(f->lock);
	free(f->path);
	free(f->checkpoint);
	memset(f, 0, sizeof(*f));
	return err->status;
}

static enum nla_status add_line(struct nla_log *log, const cJSON *line, struct nla_err *err)
{
	struct nla_str text = NLA_STR_INIT;
	nla_json_add(&text, line, false, 0);
	nla_str_addc(&text, '\n');
	nla_log_add(log, text.buf, text.len);
	nla_str_release(&text);
	return nla_log_flush(log, err);
}

enum nla_status nla_folder_metrics(struct nla_folder *f, const cJSON *line, struct nla_err *err) { return add_line(&f->metrics, line, err); }
enum nla_status nla_folder_sample(struct nla_folder *f, const cJSON *line, struct nla_err *err) { return add_line(&f->samples, line, err); }

/* ---- checkpoints ---- */

enum nla_status nla_checkpoint_begin(const struct nla_folder *f, int64_t step, char **path, struct nla_err *err)
{
	*path = nla_format("%s/checkpoints/.tmp-%lld", f->path, (long long)step);
	if (nla_rmtree(*path, err) || nla_mkdirs(*path, err)) {
		free(*path);
		*path = NULL;
	}
	return err->status;
}

void nla_checkpoint_abandon(const char *path)
{
	struct nla_err ignored = NLA_ERR_INIT;
	nla_rmtree(path, &ignored);
}

static int64_t step_of(const char *name)
{
	long long step;
	int used = 0;
	return sscanf(name, "step-%lld%n", &step, &used) == 1 && !name[used] ? step : -1;
}

/* Beyond `keep` ones, and what a killed program left half-made. */
static enum nla_status drop_old(const char *dir, int64_t newest, int64_t keep, struct nla_err *err)
{
	struct nla_strs names = { 0 };
	if (nla_list_dir(dir, &names, err))
		return err->status;
	for (size_t i = 0; i < names.n && !err->status; i++) {
		int64_t step = step_of(names.data[i]), newer = 0;
		for (size_t j = 0; j < names.n; j++) {
			int64_t other = step_of(names.data[j]);
			newer += other > step && other <= newest;
		}
		if ((step >= 0 && step < newest && newer >= keep) || nla_starts_with(names.data[i], ".tmp-")) {
			char *p = nla_path_join(dir, names.data[i]);
			nla_rmtree(p, err);
			free(p);
		}
	}
	nla_strs_release(&names);
	return err->status;
}

/* Files and folders below path, deepest first, and path itself. */
static enum nla_status sync_tree(const char *path, struct nla_err *err)
{
	struct nla_strs names = { 0 };
	if (nla_is_dir(path) && !nla_list_dir(path, &names, err))
		for (size_t i = 0; i < names.n && !err->status; i++) {
			char *p = nla_path_join(path, names.data[i]);
			sync_tree(p, err);
			free(p);
		}
	nla_strs_release(&names);
	return err->status || nla_sync(path, err) ? err->status : NLA_OK;
}

static enum nla_status point_latest(const char *dir, int64_t step, struct nla_err *err)
{
	char *name = nla_format("step-%lld", (long long)step), *link = nla_path_join(dir, "latest"), *tmp = nla_path_join(dir, ".latest");
	unlink(tmp);
	if (symlink(name, tmp) || rename(tmp, link))
		nla_fail(err, "cannot point '%s' to '%s': %s", link, name, strerror(errno));
	free(name);
	free(link);
	free(tmp);
	return err->status;
}

enum nla_status nla_checkpoint_commit(const struct nla_folder *f, int64_t step, const char *path, int64_t keep, struct nla_err *err)
{
	char *dir = nla_path_join(f->path, "checkpoints"), *final = nla_format("%s/step-%lld", dir, (long long)step);
	if (sync_tree(path, err) || nla_rmtree(final, err))
		goto out;
	if (rename(path, final)) {
		nla_fail(err, "cannot rename '%s' to '%s': %s", path, final, strerror(errno));
		goto out;
	}
	if (nla_sync(dir, err) || point_latest(dir, step, err) || drop_old(dir, step, keep, err))
		goto out;
out:
	free(dir);
	free(final);
	return err->status;
}

enum nla_status nla_checkpoint_find(const char *run, char **path, int64_t *step, struct nla_err *err)
{
	char *dir = nla_path_join(run, "checkpoints");
	struct nla_strs names = { 0 };
	*path = NULL;
	*step = -1;
	if (nla_is_dir(dir) && !nla_list_dir(dir, &names, err))
		for (size_t i = 0; i < names.n; i++) {
			int64_t n = step_of(names.data[i]);
			char *state = nla_format("%s/%s/state.json", dir, names.data[i]);
			if (n > *step && nla_exists(state)) {
				free(*path);
				*path = nla_path_join(dir, names.data[i]);
				*step = n;
			}
			free(state);
		}
	nla_strs_release(&names);
	free(dir);
	return err->status;
}

/* ---- counters ---- */

static const struct {
	const char *key;
	size_t offset;
} counters[] = {
	{ "step", offsetof(struct nla_state, step) },           { "cursor", offsetof(struct nla_state, cursor) },
	{ "bad_steps", offsetof(struct nla_state, bad_steps) }, { "skipped", offsetof(struct nla_state, skipped) },
	{ "av_updates", offsetof(struct nla_state, av_updates) }, { "ar_updates", offsetof(struct nla_state, ar_updates) },
	{ "micro_batch", offsetof(struct nla_state, micro_batch) }, { "copies", offsetof(struct nla_state, copies) },
	{ "rows", offsetof(struct nla_state, rows) },
};

enum nla_status nla_state_write(const struct nla_state *s, const char *folder, struct nla_err *err)
{
	char *path = nla_path_join(folder, "state.json");
	cJSON *json = cJSON_CreateObject();
	for (size_t i = 0; i < NLA_LEN(counters); i++)
		cJSON_AddNumberToObject(json, counters[i].key, (double)*(const int64_t *)((const char *)s + counters[i].offset));
	nla_json_write(path, json, true, err);
	cJSON_Delete(json);
	free(path);
	return err->status;
}

enum nla_status nla_state_read(struct nla_state *s, const char *folder, int64_t rows, struct nla_err *err)
{
	char *path = nla_path_join(folder, "state.json");
	cJSON *json = NULL;
	nla_json_read(path, &json, err);
	for (size_t i = 0; i < NLA_LEN(counters) && !err->status; i++)
		if (counters[i].offset < offsetof(struct nla_state, micro_batch) || nla_json_at(json, counters[i].key)) /* older ones lack the plan and the rows */
			nla_json_need_int(json, path, counters[i].key, (int64_t *)((char *)s + counters[i].offset), err);
	if (!err->status && s->rows && s->rows != rows)
		nla_usage(err, "cannot resume: the data had %lld rows to train on at '%s' and has %lld now: another set at the same path?",
			  (long long)s->rows, path, (long long)rows);
	s->rows = rows;
	cJSON_Delete(json);
	free(path);
	return err->status;
}
