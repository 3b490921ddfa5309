/* Opening a run folder fresh or resumed, its lines, its checkpoints and their counters (folder.h). */
#include "run/folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/progress.h"
#include "lm/ranks.h"

/* Lines of metrics.jsonl and samples.jsonl beyond the checkpoint belong to work that is done again. */
static enum nla_status cut_lines(const char *folder, const char *name, int64_t step, struct nla_err *err)
{
	struct nla_lines in;
	NLA_AUTO(nla_str_release) struct nla_str kept = NLA_STR_INIT;
	const char *line;
	nla_auto char *path = nla_path_join(folder, name);
	if (!nla_exists(path) || nla_lines_open(&in, path, err))
		return err->status;
	while ((line = nla_lines_next(&in))) {
		nla_auto_json cJSON *json = cJSON_Parse(line);
		if (nla_json_value(json, "step") <= (double)step)
			nla_str_addf(&kept, "%s\n", line);
	}
	return nla_lines_close(&in, err) ? err->status : nla_file_write(path, kept.buf, kept.len, false, err);
}

int64_t nla_step_named(const char *name, const char *before, const char *after)
{
	const char *at = nla_starts_with(name, before) ? name + strlen(before) : "";
	char *end;
	const int64_t step = strtoll(at, &end, 10);
	return isdigit((unsigned char)*at) && !strcmp(end, after) ? step : -1;
}

static int64_t step_of(const char *name) { return nla_step_named(name, "step-", ""); }

static bool is_evaluation(const char *name, int64_t beyond)
{
	return nla_step_named(name, "eval-", ".json") > beyond || nla_step_named(name, "eval-", ".rows.jsonl") > beyond;
}

/* Only what a run writes, never what else lies there; but for config.json, until which it holds a run. */
static bool is_ours(const char *name, int64_t beyond)
{
	static const char ours[] = "inputs.json|metrics.jsonl|samples.jsonl|log.txt|checkpoints|reference|evaluations";
	return nla_word_index(ours, name) >= 0 || is_evaluation(name, beyond) ||
	       nla_step_named(name, "trace-", ".json") > beyond;
}

enum nla_status nla_may_write(const struct nla_config *cfg, bool there, const char *what, struct nla_err *err)
{
	return !there || cfg->resume || cfg->overwrite ? NLA_OK
	     : nla_usage(err, "'%s' holds %s: give --resume to continue it, --overwrite to replace it, or another --out",
			 cfg->out, what);
}

/* A model, a set, or an AV: nothing of them is replaced. */
static enum nla_status refuse_others(const char *out, struct nla_err *err)
{
	nla_auto char *config = nla_path_join(out, "config.json");
	nla_auto_json cJSON *json = NULL;
	const bool made = nla_exists_in(out, NLA_SIDECAR_NAME);
	if (nla_is_run(out) || nla_exists_in(out, "checkpoints") ||
	    (!made && (!nla_exists(config) || nla_json_read(config, &json, NLA_IGNORED) || nla_json_at(json, "_made_by"))))
		return NLA_OK;
	return nla_usage(err, "'%s' holds %s, and is no run: give another --out", out,
			 made ? NLA_SIDECAR_NAME : "a config.json of something else");
}

/* A run to resume that is not there yet starts: so that one command starts and restarts. */
static enum nla_status start(struct nla_folder *f, const struct nla_config *cfg, int device, bool fixed_steps,
			     struct nla_err *err)
{
	nla_auto char *config = nla_path_join(f->path, "config.json");
	const bool there = nla_exists(config);
	if (refuse_others(f->path, err) ||
	    nla_may_write(cfg, there || nla_exists_in(f->path, "checkpoints"), "a run already", err) ||
	    (cfg->overwrite && (nla_remove_ours(f->path, is_ours, -1, err) || nla_rmtree(config, err))))
		return err->status;
	if (cfg->resume) {
		if (nla_checkpoint_find(f->path, &f->checkpoint, &f->resumed, err))
			return err->status;
		const bool own = f->checkpoint && nla_exists_in(f->path, "reference/nla_meta.yaml");
		if ((there || f->checkpoint) && (nla_same_run(f->path, cfg, NLA_CMD_LOOPS, fixed_steps, own, err) ||
						 cut_lines(f->path, "metrics.jsonl", f->resumed, err) ||
						 cut_lines(f->path, "samples.jsonl", f->resumed, err) ||
						 nla_remove_ours(f->path, is_evaluation, f->resumed, err)))
			return err->status;
	}
	return nla_same_write(f->path, cfg, NLA_CMD_LOOPS, device, err);
}

enum nla_status nla_lock(int fd, const char *name, struct nla_err *err)
{
	if (fd < 0 || !flock(fd, LOCK_EX | LOCK_NB))
		return NLA_OK;
	if (errno == EWOULDBLOCK)
		return nla_fail(err, "'%s' is in use by another program", name);
	nla_say("'%s' cannot be locked (%s): nothing keeps a second program from writing there", name, strerror(errno));
	return NLA_OK;
}

enum nla_status nla_folder_may_open(const struct nla_config *cfg, struct nla_err *err)
{
	const int fd = open(cfg->out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const bool begun = nla_exists_in(cfg->out, "config.json"), own = nla_exists_in(cfg->out, "reference/nla_meta.yaml");
	const bool there = begun || nla_exists_in(cfg->out, "checkpoints");
	if (!nla_lock(fd, cfg->out, err) && !refuse_others(cfg->out, err) && !nla_may_write(cfg, there, "a run already", err) &&
	    begun && cfg->resume) {
		nla_say_quiet(NLA_SAY_NOTHING); /* what it says is said when the folder is opened */
		nla_same_run(cfg->out, cfg, NLA_CMD_LOOPS, false, own, err);
		nla_say_quiet(cfg->quiet ? NLA_SAY_WARNINGS : NLA_SAY_ALL);
	}
	if (fd >= 0)
		close(fd);
	return err->status;
}

enum nla_status nla_folder_open(struct nla_folder *f, const struct nla_config *cfg, int device, bool fixed_steps,
				struct nla_err *err)
{
	*f = (struct nla_folder){ .path = nla_strdup(cfg->out), .resumed = -1, .good = INT64_MAX, .lock = -1 };
	if (nla_rank()) /* reads what the first one writes */
		return cfg->resume ? nla_checkpoint_find(f->path, &f->checkpoint, &f->resumed, err) : NLA_OK;
	if (!nla_mkdirs(f->path, err) && !nla_lock(f->lock = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), f->path, err) &&
	    !start(f, cfg, device, fixed_steps, err) && !nla_log_open(&f->metrics, f->path, "metrics.jsonl", err) &&
	    !nla_log_open(&f->log, f->path, "log.txt", err)) {
		nla_auto char *who = nla_format("nla %s, commit %s, libtorch %s\n", nla_version, nla_commit, nla_libtorch);
		nla_log_add(&f->log, who, strlen(who));
		nla_say_tee(&f->log);
	}
	return err->status;
}

void nla_folder_close(struct nla_folder *f)
{
	if (!f->path)
		return;
	if (f->log.path)
		nla_say_tee(NULL);
	nla_log_close(&f->metrics, NLA_IGNORED);
	nla_log_close(&f->samples, NLA_IGNORED);
	nla_log_close(&f->log, NLA_IGNORED);
	if (f->lock >= 0)
		close(f->lock);
	free(f->path);
	free(f->checkpoint);
	memset(f, 0, sizeof(*f));
}

enum nla_status nla_log_line(struct nla_log *log, const cJSON *line, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	if (nla_rank())
		return NLA_OK;
	nla_json_add(&text, line, false, 0);
	nla_str_addc(&text, '\n');
	nla_log_add(log, text.buf, text.len);
	return nla_log_flush(log, err);
}

enum nla_status nla_folder_sample(struct nla_folder *f, const cJSON *sample, struct nla_err *err)
{
	if (!nla_rank() && !f->samples.path && nla_log_open(&f->samples, f->path, "samples.jsonl", err))
		return err->status;
	return nla_log_line(&f->samples, sample, err);
}

/* ---- checkpoints ---- */

static int64_t step_in(const char *state)
{
	nla_auto_json cJSON *json = NULL;
	double step = nla_exists(state) && !nla_json_read(state, &json, NLA_IGNORED) ? nla_json_value(json, "step") : -1;
	return step >= 0 && step < 0x1p53 ? (int64_t)step : -1;
}

int64_t nla_checkpoint_good(const struct nla_folder *f)
{
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	nla_auto char *dir = nla_path_join(f->path, "checkpoints");
	int64_t newest = -1;
	nla_list_dir(dir, &names, NLA_IGNORED);
	for (size_t i = 0; i < names.n; i++)
		newest = step_of(names.data[i]) <= f->good ? NLA_MAX(newest, step_of(names.data[i])) : newest;
	return newest;
}

/* Beyond `keep` ones, and what a killed program left half-made. One that is removed has no checkpoint's name any more. */
static enum nla_status drop_old(const struct nla_folder *f, int64_t newest, int64_t keep, struct nla_err *err)
{
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	nla_auto char *dir = nla_path_join(f->path, "checkpoints");
	nla_auto char *link = nla_path_join(dir, "best"), *best = realpath(link, NULL);
	nla_list_dir(dir, &names, err);
	const int64_t good = nla_checkpoint_good(f);
	for (size_t i = 0; i < names.n; i++) { /* one that cannot be removed keeps no other */
		int64_t step = step_of(names.data[i]), newer = 0;
		for (size_t j = 0; j < names.n; j++)
			newer += step_of(names.data[j]) > step && step_of(names.data[j]) <= newest;
		const bool old = step >= 0 && step < newest && newer >= keep && step != good &&
				 !(best && !strcmp(nla_path_base(best), names.data[i]));
		nla_auto char *path = nla_path_join(dir, names.data[i]);
		nla_auto char *gone = nla_format("%s/.tmp-old-%lld", dir, (long long)step);
		if (old && rename(path, gone))
			nla_fail(err, "cannot remove '%s': %s", path, strerror(errno));
		else if (old || nla_starts_with(names.data[i], ".tmp-"))
			nla_rmtree(old ? gone : path, err);
	}
	return err->status;
}

/* A folder at its place is a link that was copied as what it pointed to: the run has resumed from it, or from a newer one. */
static enum nla_status point(const char *dir, const char *which, int64_t step, struct nla_err *err)
{
	nla_auto char *name = nla_format("step-%lld", (long long)step), *link = nla_path_join(dir, which);
	nla_auto char *tmp = nla_path_join(dir, ".tmp-latest");
	struct stat st;
	if (!nla_rmtree(tmp, err) && !lstat(link, &st) && !S_ISLNK(st.st_mode))
		nla_rmtree(link, err);
	if (!err->status && (symlink(name, tmp) || rename(tmp, link))) {
		nla_fail(err, "cannot make the link '%s': %s; name '%s/step-N' with the largest N instead", link,
			 strerror(errno), dir);
		unlink(link); /* what points to an older checkpoint would mislead */
	}
	return err->status || nla_sync(dir, err) ? err->status : NLA_OK;
}

/* The checkpoint is whole: what fails behind it ends no run. */
static void warn_once(bool *warned, const struct nla_err *err)
{
	if (err->status && !*warned)
		nla_say("warning, said once: %s", err->text);
	*warned = *warned || err->status;
}

void nla_checkpoint_link(struct nla_folder *f, const char *which, int64_t step, int64_t keep)
{
	nla_auto char *dir = nla_path_join(f->path, "checkpoints");
	nla_auto char *own = nla_format("%s/step-%lld", dir, (long long)step);
	struct nla_err link = NLA_ERR_INIT, old = NLA_ERR_INIT;
	if (!nla_is_dir(own)) /* `latest` is a folder, and all there is */
		return;
	point(dir, which, step, &link);
	warn_once(strcmp(which, "best") ? &f->warned_latest : &f->warned_best, &link);
	drop_old(f, step, keep, &old);
	warn_once(&f->warned_old, &old);
}

/* Every file and folder of it was synced when it was written; the lines up to it are, first. */
enum nla_status nla_checkpoint_write(struct nla_folder *f, int64_t step, int64_t keep, nla_fill_fn *fill, void *arg,
				     struct nla_err *err)
{
	nla_auto char *dir = nla_path_join(f->path, "checkpoints"), *final = nla_format("%s/step-%lld", dir, (long long)step);
	nla_auto char *path = nla_format("%s/.tmp-%lld", dir, (long long)step);
	if (!nla_rmtree(path, err) && !nla_mkdirs(path, err) && !fill(arg, path, err) && !nla_log_sync(&f->metrics, err) &&
	    !nla_log_sync(&f->samples, err) && !nla_rmtree(final, err) && rename(path, final))
		nla_fail(err, "cannot rename '%s' to '%s': %s", path, final, strerror(errno));
	if (!err->status && !nla_sync(dir, err)) {
		nla_checkpoint_link(f, "latest", step, keep);
	} else {
		nla_err_context(err, "cannot write checkpoint %lld, the former one is whole", (long long)step);
		nla_rmtree(path, NLA_IGNORED);
	}
	return err->status;
}

/* `latest` counts where it is a folder: a link is also there as what it points to, which comes later. */
enum nla_status nla_checkpoint_find(const char *run, char **path, int64_t *step, struct nla_err *err)
{
	nla_auto char *dir = nla_path_join(run, "checkpoints");
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	*path = NULL;
	*step = -1;
	if (nla_is_dir(dir))
		nla_list_dir(dir, &names, err);
	for (size_t i = 0; i < names.n; i++) {
		nla_auto char *state = nla_format("%s/%s/state.json", dir, names.data[i]);
		int64_t n = strcmp(names.data[i], "latest") ? step_of(names.data[i]) : step_in(state);
		if (n >= 0 && n >= *step && nla_exists(state)) {
			free(*path);
			*path = nla_path_join(dir, names.data[i]);
			*step = n;
		}
	}
	return err->status;
}

bool nla_is_run(const char *folder) { return nla_exists_in(folder, "metrics.jsonl") || nla_exists_in(folder, "inputs.json"); }

enum nla_status nla_checkpoint_of(const char *path, char **checkpoint, struct nla_err *err)
{
	int64_t step;
	*checkpoint = nla_exists_in(path, "state.json") ? nla_strdup(path) : NULL;
	if (!*checkpoint && !nla_checkpoint_find(path, checkpoint, &step, err) && !*checkpoint && nla_is_run(path))
		nla_fail(err, "the run '%s' has no whole checkpoint yet", path);
	return err->status;
}

int64_t nla_checkpoint_step(const char *part, char **run)
{
	nla_auto char *real = realpath(part, NULL), *at = nla_path_dir(real ? real : ""), *all = nla_path_dir(at);
	nla_auto char *state = nla_path_join(at, "state.json"), *above = nla_path_dir(all);
	if (run)
		*run = !strcmp(nla_path_base(all), "checkpoints") && nla_is_run(above) ? nla_strdup(above) : NULL;
	return real ? step_in(state) : -1;
}

/* ---- counters ---- */

#define COUNTER(name, def) { #name, NLA_WHOLE, offsetof(struct nla_state, name), def, .high = 0x1p53 }
static const struct nla_field counters[] = {
	COUNTER(step, NLA_MUST), COUNTER(cursor, NLA_MUST), COUNTER(bad_steps, NLA_MUST), COUNTER(skipped, NLA_MUST),
	COUNTER(av_updates, NLA_MUST), COUNTER(ar_updates, NLA_MUST),
	COUNTER(micro_batch, 0), COUNTER(copies, 0), COUNTER(rows, 0), COUNTER(decode_rows, 0),
	COUNTER(score_tokens, 0), COUNTER(ranks, 1), /* older versions' lack some */
};

enum nla_status nla_state_write(const struct nla_state *s, const char *folder, struct nla_err *err)
{
	nla_auto char *path = nla_path_join(folder, "state.json");
	nla_auto_json cJSON *json = cJSON_CreateObject();
	struct nla_state now = *s;
	now.ranks = nla_n_ranks();
	for (size_t i = 0; i < NLA_LEN(counters); i++)
		cJSON_AddNumberToObject(json, counters[i].key, (double)*(const int64_t *)((const char *)&now + counters[i].at));
	return nla_json_write(path, json, true, err);
}

enum nla_status nla_state_read(struct nla_state *s, const char *folder, int64_t rows, struct nla_err *err)
{
	nla_auto char *path = nla_path_join(folder, "state.json");
	nla_auto_json cJSON *json = NULL;
	if (nla_json_read(path, &json, err) || nla_fields_read(counters, NLA_LEN(counters), json, path, s, err))
		return err->status;
	if (rows && s->rows && s->rows != rows)
		nla_usage(err, "cannot resume: the data had %lld rows to train on at '%s' and has %lld now: another set?",
			  (long long)s->rows, path, (long long)rows);
	if (rows && s->ranks != nla_n_ranks())
		s->micro_batch = s->decode_rows = 0;
	s->rows = rows;
	return err->status;
}
