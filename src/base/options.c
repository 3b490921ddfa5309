/*
 * options - the table's interpreter: defaults, JSON, flags, dump. See options.h; the help text is in optionshelp.c.
 *
 * The text of a flag becomes the JSON value that a file would have, and one setter checks and stores both. A message names the
 * key, the value, and what is wanted.
 */
#include "base/options.h"
#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"

/* from: a file, or the flag as it was spelled when that is not the key itself; NULL: neither. */
static enum nla_status refuse(const struct nla_option *o, const cJSON *value, const char *from, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str found = NLA_STR_INIT, want = NLA_STR_INIT;
	if (cJSON_IsNumber(value) && !isfinite(value->valuedouble))
		nla_str_add(&found, "too large");
	else if (cJSON_IsObject(value) || cJSON_IsArray(value))
		nla_str_add(&found, nla_json_type(value));
	else
		nla_json_add(&found, value, false, 0);
	nla_option_want(o, &want);
	nla_usage(err, "'%s' is %s: want %s", o->key, found.buf, want.buf);
	if (from)
		nla_err_context(err, "'%s'", from);
	return err->status;
}

static bool in_range(const struct nla_option *o, double x)
{
	return isfinite(x) && (o->min == o->max || (x >= o->min && x <= o->max));
}

/* Numbers are decimal only: strtod also reads hexadecimal, nan and leading space, none of which JSON has. */
static bool is_decimal(const char *text, double *x)
{
	char *end;
	*x = strtod(text, &end);
	return text[0] && !text[strspn(text, "+-.0123456789eE")] && !*end;
}

/* Is each a number in its range, and none there twice? Into `out` (or NULL), as an array. */
static bool read_numbers(const struct nla_option *o, const char *text, cJSON *out)
{
	bool fine = true;
	for (const char *at = text, *end; fine && at; at = *end ? end + 1 : NULL) {
		double x, other;
		end = strchrnul(at, ',');
		nla_auto char *word = nla_strndup(at, (size_t)(end - at));
		fine = is_decimal(word, &x) && in_range(o, x);
		for (const char *before = text; fine && before < at; before = strchr(before, ',') + 1) {
			other = strtod(before, NULL);
			fine = other < x || other > x;
		}
		if (out)
			cJSON_AddItemToArray(out, cJSON_CreateNumber(x));
	}
	return fine;
}

/* Of NUMS: "0,0.001" of a number, an array or that text; owned. */
static char *numbers_text(const cJSON *value)
{
	NLA_AUTO(nla_str_release) struct nla_str s = NLA_STR_INIT;
	const size_t bracket = cJSON_IsArray(value);
	nla_json_add(&s, value, false, 0);
	return cJSON_IsString(value) ? nla_strdup(value->valuestring) : nla_strndup(s.buf + bracket, s.len - 2 * bracket);
}

/* The same text for the same numbers: 1e-05 for 0.00001. */
static char *numbers_as_one(const struct nla_option *o, const cJSON *value)
{
	nla_auto char *text = numbers_text(value);
	nla_auto_json cJSON *all = cJSON_CreateArray();
	read_numbers(o, text, all);
	return numbers_text(all);
}

static bool is_fine(const struct nla_option *o, const cJSON *value)
{
	nla_auto char *numbers = o->type == NLA_OPT_NUMS ? numbers_text(value) : NULL;
	const double x = value->valuedouble;
	if (o->type == NLA_OPT_INT && (!(fabs(x) < 0x1p53) || x != trunc(x)))
		return false;
	if (o->type == NLA_OPT_INT || o->type == NLA_OPT_NUM)
		return cJSON_IsNumber(value) && in_range(o, x);
	if (numbers)
		return read_numbers(o, numbers, NULL);
	if (o->type == NLA_OPT_BOOL)
		return cJSON_IsBool(value);
	return cJSON_IsString(value) && (o->type != NLA_OPT_ENUM || nla_word_index(o->choices, value->valuestring) >= 0);
}

/* folder: what a relative PATH is relative to, NULL for the working folder. */
static enum nla_status set(const struct nla_option *o, void *cfg, const cJSON *value, const char *folder, const char *from,
			   struct nla_err *err)
{
	void *at = (char *)cfg + o->offset;
	const char *text = cJSON_IsString(value) ? value->valuestring : "";
	if (!is_fine(o, value))
		return refuse(o, value, from, err);
	if (nla_utf8_valid(text, strlen(text)) < strlen(text)) { /* a run's config.json could not hold it */
		nla_usage(err, "'%s' is not valid UTF-8", o->key);
		return from ? nla_err_context(err, "'%s'", from) : err->status;
	}
	if (o->type == NLA_OPT_INT) {
		*(int64_t *)at = (int64_t)value->valuedouble;
	} else if (o->type == NLA_OPT_NUM) {
		*(double *)at = value->valuedouble;
	} else if (o->type == NLA_OPT_BOOL) {
		*(bool *)at = cJSON_IsTrue(value);
	} else if (o->type == NLA_OPT_ENUM) {
		*(int *)at = nla_word_index(o->choices, value->valuestring);
	} else {
		bool join = o->type == NLA_OPT_PATH && value->valuestring[0] && folder && strcmp(folder, ".");
		char *own = o->type == NLA_OPT_NUMS ? numbers_as_one(o, value)
			  : join ? nla_path_join(folder, text) : nla_strdup(text);
		free(*(char **)at);
		*(char **)at = own;
	}
	return NLA_OK;
}

static enum nla_status set_text(const struct nla_option *o, void *cfg, const char *text, const char *from, struct nla_err *err)
{
	double x;
	nla_auto_json cJSON *value;
	if (is_decimal(text, &x) && (o->type == NLA_OPT_INT || o->type == NLA_OPT_NUM))
		value = cJSON_CreateNumber(x);
	else if (o->type == NLA_OPT_BOOL && nla_word_index("true|false", text) >= 0)
		value = cJSON_CreateBool(text[0] == 't');
	else
		value = cJSON_CreateString(text);
	return set(o, cfg, value, NULL, from, err);
}

static bool is_string(const struct nla_option *o)
{
	return o->type == NLA_OPT_STR || o->type == NLA_OPT_PATH || o->type == NLA_OPT_NUMS;
}

void nla_options_defaults(const struct nla_option *table, size_t n, void *cfg)
{
	struct nla_err err = NLA_ERR_INIT;
	for (size_t i = 0; i < n; i++) {
		if (is_string(&table[i]))
			*(char **)((char *)cfg + table[i].offset) = NULL;
		if (set_text(&table[i], cfg, table[i].def, "table", &err))
			NLA_BUG("default of option: %s", err.text);
	}
}

void nla_options_release(const struct nla_option *table, size_t n, void *cfg)
{
	for (size_t i = 0; i < n; i++) {
		char **s = (char **)((char *)cfg + table[i].offset);
		if (is_string(&table[i])) {
			free(*s);
			*s = NULL;
		}
	}
}

/* ": did you mean 'KEY'?" or nothing, owned: the short name, key or section whose last part is nearest to that of word.
 * command: whose flags are meant; 0 for the keys of a file. */
static char *suggest(const struct nla_option *table, size_t n, const char *word, unsigned command)
{
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	for (size_t i = 0; i < n; i++)
		if (table[i].commands & command && table[i].shortname && !strchr(word, '.'))
			nla_strs_push(&names, table[i].shortname);
	for (size_t i = 0; i < n; i++)
		if (!command || table[i].commands & command)
			nla_strs_push(&names, table[i].key);
	for (size_t i = 0; i < n && !command; i++) {
		nla_strs_push(&names, table[i].key);
		*strchrnul(names.data[names.n - 1], '.') = '\0'; /* its section */
	}
	const char *near = nla_nearest(word, &names);
	return near ? nla_format(": did you mean '%s%s'?", command ? "--" : "", near) : nla_strdup("");
}

/* One reading of a file. */
struct reading {
	const struct nla_option *table;
	size_t n;
	void *cfg;
	const char *path;
	char *folder; /* of the file */
	bool *seen;   /* [n] */
};

/* The value of an option, or of a section with all below it; key NULL: the whole file. */
static enum nla_status read_value(struct reading *r, const char *key, const cJSON *json, struct nla_err *err)
{
	enum nla_status status = NLA_OK;
	const cJSON *child;
	bool section = !key;
	for (size_t i = 0; i < r->n && key; i++) {
		section = section || (nla_starts_with(r->table[i].key, key) && r->table[i].key[strlen(key)] == '.');
		if (strcmp(r->table[i].key, key))
			continue;
		if (r->seen[i])
			return nla_usage(err, "'%s': '%s' is given twice", r->path, key);
		r->seen[i] = true;
		return cJSON_IsNull(json) ? NLA_OK : set(&r->table[i], r->cfg, json, r->folder, r->path, err);
	}
	if (key && key[0] == '_')
		return NLA_OK;
	if (!section) {
		nla_auto char *hint = suggest(r->table, r->n, key, 0);
		nla_usage(err, "'%s': unknown key '%s'%s", r->path, key, hint);
		return err->status;
	}
	if (!cJSON_IsObject(json) && key)
		return nla_usage(err, "'%s': '%s' is %s: want an object", r->path, key, nla_json_type(json));
	if (!cJSON_IsObject(json))
		return nla_usage(err, "'%s': is %s: want an object", r->path, nla_json_type(json));
	cJSON_ArrayForEach(child, json) {
		nla_auto char *name = nla_format("%s%s%s", key ? key : "", key ? "." : "", child->string);
		status = status ? status : read_value(r, name, child, err);
	}
	return status;
}

enum nla_status nla_options_json(const struct nla_option *table, size_t n, void *cfg, const char *path, struct nla_err *err)
{
	struct reading r = { .table = table, .n = n, .cfg = cfg, .path = path };
	nla_auto_json cJSON *json = NULL;
	if (nla_json_read(path, &json, err))
		return err->status = NLA_USAGE;
	nla_auto char *folder = r.folder = nla_path_dir(path);
	nla_auto bool *seen = r.seen = nla_alloc(n, sizeof(*seen));
	return read_value(&r, NULL, json, err);
}

/* Short names may be shared by options of different commands: one that this command uses comes first. */
static const struct nla_option *find_flag(const struct nla_args *args, const char *name)
{
	const struct nla_option *found = NULL;
	for (const struct nla_option *o = args->table; o < args->table + args->n; o++)
		if ((!strcmp(o->key, name) || (o->shortname && !strcmp(o->shortname, name))) &&
		    (!found || o->commands & ~found->commands & args->command))
			found = o;
	return found;
}

/* The value of a flag, which may be the next argument; NULL after an error. */
static const char *flag_value(const struct nla_args *args, const struct nla_option *o, const char *name, int *i,
			      struct nla_err *err)
{
	const char *next = *i + 1 < args->argc ? args->argv[*i + 1] : NULL, *equals = strchr(args->argv[*i], '=');
	NLA_AUTO(nla_str_release) struct nla_str want = NLA_STR_INIT;
	if (equals)
		return equals + 1;
	if (o->type == NLA_OPT_BOOL && !(next && nla_word_index("true|false", next) >= 0))
		return "true";
	if (next && !nla_starts_with(next, "--"))
		return args->argv[++*i];
	nla_option_want(o, &want);
	nla_usage(err, "option '--%s' has no value: want %s", name, want.buf);
	return NULL;
}

/* argv[*i] starts with a dash. */
static enum nla_status take_flag(const struct nla_args *args, void *cfg, int *i, struct nla_err *err)
{
	const char *arg = args->argv[*i], *value;
	size_t dashes = strspn(arg, "-");
	nla_auto char *name = nla_strndup(arg + dashes, strcspn(arg + dashes, "="));
	const struct nla_option *o = dashes > 1 ? find_flag(args, name) : NULL;
	if (!o) {
		nla_auto char *hint = suggest(args->table, args->n, name, args->command);
		nla_usage(err, "unknown option '%.*s'%s", (int)(dashes + strlen(name)), arg, hint);
	} else if (!(o->commands & args->command)) {
		nla_usage(err, "'%s' does not use the option '--%s'", nla_path_base(args->argv[0]), name);
	} else if ((value = flag_value(args, o, name, i, err)) && cfg) {
		nla_auto char *shown = strcmp(name, o->key) ? nla_format("--%s", name) : NULL;
		set_text(o, cfg, value, shown, err);
	}
	return err->status;
}

/* cfg NULL: only look, for the configuration file. */
static enum nla_status take_arguments(struct nla_args *args, void *cfg, struct nla_err *err)
{
	bool bare = false; /* behind "--" */
	args->config = NULL;
	for (int i = 1; i < args->argc; i++) {
		const char *arg = args->argv[i];
		if (!bare && !strcmp(arg, "--")) {
			bare = true;
		} else if (!bare && arg[0] == '-') {
			if (take_flag(args, cfg, &i, err))
				return err->status;
		} else if (args->config) {
			return nla_usage(err, "two configurations are given, '%s' and '%s': want one", args->config, arg);
		} else {
			args->config = arg;
		}
	}
	return NLA_OK;
}

enum nla_status nla_options_args(struct nla_args *args, void *cfg, struct nla_err *err)
{
	for (int i = 1; i < args->argc && strcmp(args->argv[i], "--"); i++)
		if (!strcmp(args->argv[i], "-h") || !strcmp(args->argv[i], "--help"))
			args->help = true;
	if (args->help || take_arguments(args, NULL, err))
		return err->status;
	nla_auto char *inside = args->config && nla_is_dir(args->config) ? nla_path_join(args->config, "config.json") : NULL;
	if (inside && !nla_exists(inside))
		return nla_usage(err, "'%s' is not a run's folder: it has no config.json", args->config);
	if (args->config && (nla_options_json(args->table, args->n, cfg, inside ? inside : args->config, err) ||
			     (args->loaded && args->loaded(args, cfg, err))))
		return err->status;
	return take_arguments(args, cfg, err);
}

bool nla_args_have(const struct nla_args *args, const char *flag)
{
	const size_t n = strlen(flag);
	for (int i = 1; i < args->argc; i++)
		if (!strncmp(args->argv[i], flag, n) && (!args->argv[i][n] || args->argv[i][n] == '='))
			return true;
	return false;
}

char *nla_options_path(const char *path)
{
	nla_auto char *cwd = path[0] && path[0] != '/' ? getcwd(NULL, 0) : NULL;
	while (nla_starts_with(path, "./"))
		path += 2 + strspn(path + 2, "/");
	return cwd ? nla_path_join(cwd, path) : nla_strdup(path);
}

static cJSON *dump_value(const struct nla_option *o, const void *cfg)
{
	const void *at = (const char *)cfg + o->offset;
	nla_auto char *text = NULL;
	if (o->type == NLA_OPT_INT)
		return cJSON_CreateNumber((double)*(const int64_t *)at);
	if (o->type == NLA_OPT_NUM)
		return cJSON_CreateNumber(*(const double *)at);
	if (o->type == NLA_OPT_BOOL)
		return cJSON_CreateBool(*(const bool *)at);
	if (o->type == NLA_OPT_NUMS) { /* as numbers_as_one made it, which is JSON but for the brackets */
		text = nla_format(strchr(*(char *const *)at, ',') ? "[%s]" : "%s", *(char *const *)at);
		return cJSON_Parse(text);
	}
	text = o->type == NLA_OPT_ENUM ? nla_word_at(o->choices, *(const int *)at)
	     : o->type == NLA_OPT_PATH ? nla_options_path(*(char *const *)at) : nla_strdup(*(char *const *)at);
	return cJSON_CreateString(text);
}

cJSON *nla_options_dump(const struct nla_option *table, size_t n, const void *cfg)
{
	cJSON *root = cJSON_CreateObject();
	for (size_t i = 0; i < n; i++) {
		const char *key = table[i].key, *dot;
		cJSON *at = root;
		while ((dot = strchr(key, '.')) != NULL) {
			nla_auto char *part = nla_strndup(key, (size_t)(dot - key));
			cJSON *section = cJSON_GetObjectItemCaseSensitive(at, part);
			at = section ? section : cJSON_AddObjectToObject(at, part);
			key = dot + 1;
		}
		cJSON_AddItemToObject(at, key, dump_value(&table[i], cfg));
	}
	return root;
}
