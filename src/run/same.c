/* What a run began with against what it has now (folder.h): settings, and hashes of what paths hold. Of a folder each file
 * counts that programs here read (tensors, JSON, tokenizer, sidecar, rows, texts), by name, size and bytes; of a large one the
 * first MiB (a safetensors header) and 64 samples of the rest, its end among them. */
#include <fnmatch.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/progress.h"
#include "base/rng.h"
#include "commit.h"
#include "run/folder.h"

const char nla_version[] = NLA_VERSION, nla_commit[] = NLA_COMMIT, nla_libtorch[] = NLA_LIBTORCH;

cJSON *nla_made_by(int device)
{
	cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "version", nla_version);
	cJSON_AddStringToObject(json, "commit", nla_commit);
	cJSON_AddStringToObject(json, "libtorch", nla_libtorch);
	cJSON_AddStringToObject(json, "device", nt_device_name(device));
	return json;
}

#define WHOLE ((size_t)16 << 20) /* bytes of a file that is read in full */
#define HEAD ((size_t)1 << 20)
#define PIECE ((size_t)4096)
#define PIECES 64

static bool counts(const char *name)
{
	static const char read[] = "*.@(safetensors|json|jinja|model|yaml|jsonl|jsonl.gz|txt|txt.gz)";
	return !fnmatch(read, name, FNM_PERIOD | FNM_EXTMATCH) &&
	       strcmp(name, "teach.jsonl"); /* a log next to a set, which need not be copied with it */
}

static void add(uint64_t *hash, const void *bytes, size_t n)
{
	uint64_t both[2] = { *hash, nla_hash(bytes, n) };
	*hash = nla_hash(both, sizeof(both));
}

static void add_file(uint64_t *hash, const char *path, struct nla_err *err)
{
	struct nla_map map;
	struct stat st;
	if (stat(path, &st) || !S_ISREG(st.st_mode) || nla_map_open(&map, path, err))
		return;
	add(hash, &map.size, sizeof(map.size));
	add(hash, map.data, map.size <= WHOLE ? map.size : HEAD);
	for (size_t i = 1; map.size > WHOLE && i <= PIECES; i++)
		add(hash, (const char *)map.data + (map.size - PIECE) / PIECES * i, PIECE);
	if (map.size > WHOLE)
		add(hash, (const char *)map.data + map.size - PIECE, PIECE);
	nla_map_close(&map);
}

/* 16 hexadecimal digits, owned; "" when there is nothing to read. */
static char *content_of(const char *path, struct nla_err *err)
{
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	uint64_t hash = 0;
	if (!nla_is_dir(path))
		add_file(&hash, path, err);
	else if (!nla_list_dir(path, &names, err))
		for (size_t i = 0; i < names.n && !err->status; i++)
			if (counts(names.data[i])) {
				nla_auto char *file = nla_path_join(path, names.data[i]);
				add(&hash, names.data[i], strlen(names.data[i]));
				add_file(&hash, file, err);
			}
	return hash ? nla_format("%016llx", (unsigned long long)hash) : nla_strdup("");
}

/* ---- configurations ---- */

enum nla_status nla_same_setting(const char *key, const char *path, const cJSON *was, const cJSON *now, struct nla_err *err)
{
	if (cJSON_Compare(was, now, true))
		return NLA_OK;
	nla_auto char *before = cJSON_PrintUnformatted(was), *after = cJSON_PrintUnformatted(now);
	return nla_usage(err, "cannot resume: '%s' is %.200s in '%s' and %.200s now: give that, or another --out", key,
			 before ? before : "missing", path, after);
}

/* Of use there, and not marked as one that may change; of ranks, whose machines are their own, none of the machine's. */
static bool is_fixed(const struct nla_option *o, unsigned of, enum nla_same what)
{
	const bool machine = nla_word_index("out|device|threads|memory|quiet|watchdog", o->key) >= 0;
	return o->commands & of && !(what == NLA_SAME_RANKS ? machine : o->commands & NLA_OPT_MAY_CHANGE);
}

cJSON *nla_same_describe(const struct nla_config *cfg, unsigned of, enum nla_same what, struct nla_err *err)
{
	nla_auto_json cJSON *config = nla_options_dump(nla_config_table, nla_config_n, cfg);
	cJSON *list = cJSON_CreateObject();
	if (what == NLA_SAME_RANKS) /* first: other builds differ in options, too */
		cJSON_AddItemToObject(list, "program", nla_made_by(NT_CPU));
	for (const struct nla_option *o = nla_config_table; o < nla_config_table + nla_config_n && !err->status; o++) {
		const cJSON *value = nla_json_at(config, o->key);
		if (is_fixed(o, of, what) && o->type == NLA_OPT_PATH) {
			nla_auto char *content = content_of(value->valuestring, err);
			cJSON_AddStringToObject(list, o->key, content);
		} else if (is_fixed(o, of, what) && what != NLA_SAME_INPUTS) {
			cJSON_AddItemToObject(list, o->key, cJSON_Duplicate(value, true));
		}
	}
	return list;
}

/* From a CPU to a card or back; from one card to another is not worth a word. */
static void say_moved(const char *folder, const char *config, int device)
{
	const char *now = nt_device_name(device);
	nla_auto_json cJSON *was = NULL;
	nla_json_read(config, &was, NLA_IGNORED);
	const char *before = cJSON_GetStringValue(nla_json_at(was, "_made_by.device"));
	if (before && strncmp(before, now, strcspn(now, ":")))
		nla_say("'%s' was made on %s so far and continues on %s: its numbers are not those of one device, and with "
			"dtype auto the type of the weights changes too", folder, before, now);
}

enum nla_status nla_same_write(const char *folder, const struct nla_config *cfg, unsigned of, int device, struct nla_err *err)
{
	nla_auto char *inputs = nla_path_join(folder, "inputs.json"), *config = nla_path_join(folder, "config.json");
	nla_auto_json cJSON *held = nla_same_describe(cfg, of, NLA_SAME_INPUTS, err);
	say_moved(folder, config, device);
	if (!err->status && !nla_config_write(cfg, device, folder, err) && !nla_exists(inputs))
		nla_json_write(inputs, held, true, err);
	return err->status;
}

bool nla_same_input(const char *checkpoint, const char *key, const char *path)
{
	nla_auto char *inputs = nla_format("%s/../../inputs.json", checkpoint);
	nla_auto_json cJSON *had = NULL;
	if (!nla_is_dir(path) || nla_json_read(inputs, &had, NLA_IGNORED))
		return nla_is_dir(path);
	nla_auto char *content = content_of(path, NLA_IGNORED);
	const char *was = cJSON_GetStringValue(cJSON_GetObjectItem(had, key));
	return !was || !strcmp(was, content);
}

/* A key that the file lacks is younger than the run, which did what is the default now. A run without inputs.json is an older
 * version's: its paths are compared. */
enum nla_status nla_same_run(const char *folder, const struct nla_config *cfg, unsigned of, bool fixed_steps, bool own,
			     struct nla_err *err)
{
	struct nla_config plain = { 0 };
	nla_options_defaults(nla_config_table, nla_config_n, &plain);
	nla_auto char *config = nla_path_join(folder, "config.json"), *inputs = nla_path_join(folder, "inputs.json");
	nla_auto_json cJSON *was = NULL, *had = NULL, *usual = nla_options_dump(nla_config_table, nla_config_n, &plain);
	nla_auto_json cJSON *now = nla_options_dump(nla_config_table, nla_config_n, cfg);
	nla_auto_json cJSON *has = nla_same_describe(cfg, of, NLA_SAME_INPUTS, err);
	if (!err->status && !nla_json_read(config, &was, err) && nla_exists(inputs))
		nla_json_read(inputs, &had, err);
	for (const struct nla_option *o = nla_config_table; o < nla_config_table + nla_config_n && !err->status; o++) {
		const char *key = o->key;
		const cJSON *before = nla_json_at(was, key), *after = nla_json_at(now, key);
		const cJSON *held = cJSON_GetObjectItem(had, key);
		const bool other = held && !cJSON_Compare(held, cJSON_GetObjectItem(has, key), true);
		if (other && own && nla_word_index("av|ar", key) >= 0)
			nla_say("'%s' has another content than at the start of the run, which resumes with its own %s",
				after->valuestring, key);
		else if (other)
			nla_usage(err, "cannot resume: '%s' has another content than the '%s' that the run in '%s' began with: "
				  "give that, or another --out", after->valuestring, key, folder);
		else if (!held && (is_fixed(o, of, NLA_SAME_SETTINGS) || (fixed_steps && !strcmp(key, "steps"))))
			nla_same_setting(key, config, before ? before : nla_json_at(usual, key), after, err);
	}
	nla_config_release(&plain);
	return err->status;
}
