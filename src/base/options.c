/*
 * options - the table's interpreter: defaults, JSON, flags, dump. See options.h; the help text is in optionshelp.c.
 *
 * Both ways in, a JSON value and a flag's text, end in the same setters, so a range is checked once. A message names the key,
 * what stood there, and what is wanted.
 */
#include "base/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/optionsrow.h"

/* Where a value comes from, for messages: a file, or the flag as it was spelled when that is not the key itself. */
struct source {
	const char *name;
};

static NLA_PRINTF(4, 5) enum nla_status refuse(const struct nla_option *o, const struct source *from, struct nla_err *err,
					       const char *fmt, ...)
{
	struct nla_str want = NLA_STR_INIT;
	va_list ap;

	va_start(ap, fmt);
	char *found;
	if (vasprintf(&found, fmt, ap) < 0)
		NLA_BUG("cannot format '%s'", fmt);
	va_end(ap);
	nla_option_want(o, &want);
	nla_usage(err, "'%s' is %s: want %s", o->key, found, want.buf);
	if (from->name)
		nla_err_context(err, "'%s'", from->name);
	free(found);
	nla_str_release(&want);
	return err->status;
}

static void *field(const struct nla_option *o, void *cfg)
{
	return (char *)cfg + o->offset;
}

static enum nla_status set_num(const struct nla_option *o, void *cfg, double x, const struct source *from, struct nla_err *err)
{
	struct nla_str text = NLA_STR_INIT;
	bool bounded = o->min != o->max, integral = fabs(x) <= 0x1p53 && x == trunc(x);
	bool fine = isfinite(x) && (integral || o->type == NLA_OPT_NUM) && (!bounded || (x >= o->min && x <= o->max));

	if (!fine) {
		if (isfinite(x))
			nla_json_add_num(&text, x);
		else
			nla_str_add(&text, isnan(x) ? "not a number" : "too large");
		refuse(o, from, err, "%s", text.buf);
		nla_str_release(&text);
		return err->status;
	}
	if (o->type == NLA_OPT_INT)
		*(int64_t *)field(o, cfg) = (int64_t)x;
	else
		*(double *)field(o, cfg) = x;
	return NLA_OK;
}

static enum nla_status set_enum(const struct nla_option *o, void *cfg, const char *text, const struct source *from,
				struct nla_err *err)
{
	size_t n = strlen(text);
	int index = 0;

	for (const char *choice = o->choices; choice; index++) {
		const char *bar = strchr(choice, '|');
		size_t length = bar ? (size_t)(bar - choice) : strlen(choice);
		if (length == n && !memcmp(choice, text, n)) {
			*(int *)field(o, cfg) = index;
			return NLA_OK;
		}
		choice = bar ? bar + 1 : NULL;
	}
	return refuse(o, from, err, "'%s'", text);
}

/* folder: what a relative PATH is relative to, NULL for the working folder. */
static void set_str(const struct nla_option *o, void *cfg, const char *text, const char *folder)
{
	char **s = field(o, cfg);
	bool join = o->type == NLA_OPT_PATH && text[0] && folder && strcmp(folder, ".");
	char *value = join ? nla_path_join(folder, text) : nla_strdup(text);

	free(*s);
	*s = value;
}

/* Decimal only: strtod also reads hexadecimal, nan and leading space, none of which JSON has. */
static bool parse_num(const char *text, double *x)
{
	char *end;

	if (!text[0] || text[strspn(text, "+-.0123456789eE")])
		return false;
	*x = strtod(text, &end);
	return !*end;
}

static enum nla_status set_text(const struct nla_option *o, void *cfg, const char *text, const struct source *from,
				struct nla_err *err)
{
	double x;

	switch (o->type) {
	case NLA_OPT_INT:
	case NLA_OPT_NUM:
		return parse_num(text, &x) ? set_num(o, cfg, x, from, err) : refuse(o, from, err, "'%s'", text);
	case NLA_OPT_BOOL:
		if (strcmp(text, "true") && strcmp(text, "false"))
			return refuse(o, from, err, "'%s'", text);
		*(bool *)field(o, cfg) = text[0] == 't';
		return NLA_OK;
	case NLA_OPT_ENUM:
		return set_enum(o, cfg, text, from, err);
	case NLA_OPT_STR:
	case NLA_OPT_PATH:
		break;
	}
	set_str(o, cfg, text, NULL);
	return NLA_OK;
}

void nla_options_defaults(const struct nla_option *table, size_t n, void *cfg)
{
	struct nla_err err = NLA_ERR_INIT;
	const struct source from = { "table" };

	for (size_t i = 0; i < n; i++) {
		const struct nla_option *o = &table[i];
		bool string = o->type == NLA_OPT_STR || o->type == NLA_OPT_PATH;
		if (string)
			*(char **)field(o, cfg) = NULL;
		else if (!o->def)
			NLA_BUG("option '%s' has no default", o->key);
		if (set_text(o, cfg, o->def ? o->def : "", &from, &err))
			NLA_BUG("default of option: %s", err.text);
	}
}

void nla_options_release(const struct nla_option *table, size_t n, void *cfg)
{
	for (size_t i = 0; i < n; i++) {
		if (table[i].type != NLA_OPT_STR && table[i].type != NLA_OPT_PATH)
			continue;
		char **s = field(&table[i], cfg);
		free(*s);
		*s = NULL;
	}
}

static const char *last_part(const char *key)
{
	const char *dot = strrchr(key, '.');

	return dot ? dot + 1 : key;
}

/* The one key whose last part is word: 'prompts' finds 'rollout.prompts'. NULL when none or several have it. */
static const char *by_last_part(const char *const *keys, size_t n, const char *word)
{
	const char *key = NULL;

	for (size_t i = 0; i < n; i++) {
		if (strcmp(last_part(keys[i]), word))
			continue;
		if (key)
			return NULL;
		key = keys[i];
	}
	return key;
}

/* The first key whose last part is nearest to word. */
static const char *near_last_part(const char *const *keys, size_t n, const char *word)
{
	const char **parts = nla_alloc(n, sizeof(*parts)), *key = NULL;

	for (size_t i = 0; i < n; i++)
		parts[i] = last_part(keys[i]);
	const char *part = nla_nearest(word, parts, n);
	for (size_t i = 0; i < n && part && !key; i++)
		if (parts[i] == part)
			key = keys[i];
	free(parts);
	return key;
}

/* The section nearest to word, owned; NULL when none is near. */
static char *by_section(const struct nla_option *table, size_t n, const char *word)
{
	struct nla_strs sections = { 0 };

	for (size_t i = 0; i < n; i++) {
		const char *dot = strrchr(table[i].key, '.');
		char *section = dot ? nla_strndup(table[i].key, (size_t)(dot - table[i].key)) : NULL;
		if (section)
			nla_strs_push(&sections, section);
		free(section);
	}
	const char *near = nla_nearest(word, (const char *const *)sections.data, sections.n);
	char *out = near ? nla_strdup(near) : NULL;
	nla_strs_release(&sections);
	return out;
}

/* ": did you mean 'KEY'?" or nothing, owned. flags: names are short names too, and only those that command uses. */
static char *suggest(const struct nla_option *table, size_t n, const char *word, bool flags, unsigned command)
{
	const char **names = nla_alloc(2 * n, sizeof(*names)), *best = NULL;
	char *section = NULL, *out = NULL;
	size_t k = 0, n_keys;

	for (size_t i = 0; i < n; i++)
		if (!flags || table[i].commands & command)
			names[k++] = table[i].key;
	n_keys = k;
	for (size_t i = 0; i < n; i++)
		if (flags && table[i].commands & command && table[i].shortname)
			names[k++] = table[i].shortname;
	for (size_t i = n_keys; i < k && !best; i++)
		best = strcmp(names[i], word) ? NULL : names[i]; /* right but for its dashes */
	if (!best)
		best = by_last_part(names, n_keys, last_part(word));
	if (!best)
		best = nla_nearest(word, names, k);
	if (!best && !flags)
		best = section = by_section(table, n, word);
	if (!best)
		best = near_last_part(names, n_keys, last_part(word));
	out = best ? nla_format(": did you mean '%s%s'?", flags ? "--" : "", best) : nla_strdup("");
	free(section);
	free(names);
	return out;
}

/* One reading of a file. */
struct reading {
	const struct nla_option *table;
	size_t n;
	void *cfg;
	struct source from;
	const char *folder; /* of the file */
	bool *seen;         /* [n] */
};

static enum nla_status read_leaf(struct reading *r, size_t i, const cJSON *json, struct nla_err *err)
{
	const struct nla_option *o = &r->table[i];
	bool number = o->type == NLA_OPT_INT || o->type == NLA_OPT_NUM;

	if (r->seen[i])
		return nla_usage(err, "'%s': '%s' is given twice", r->from.name, o->key);
	r->seen[i] = true;
	if (cJSON_IsNull(json))
		return NLA_OK;
	if (number && cJSON_IsNumber(json))
		return set_num(o, r->cfg, json->valuedouble, &r->from, err);
	if (o->type == NLA_OPT_BOOL && cJSON_IsBool(json)) {
		*(bool *)field(o, r->cfg) = cJSON_IsTrue(json);
		return NLA_OK;
	}
	if (number || o->type == NLA_OPT_BOOL || !cJSON_IsString(json))
		return refuse(o, &r->from, err, "%s", nla_json_type(json));
	if (o->type == NLA_OPT_ENUM)
		return set_enum(o, r->cfg, json->valuestring, &r->from, err);
	set_str(o, r->cfg, json->valuestring, r->folder);
	return NLA_OK;
}

static bool is_section(const struct reading *r, const char *key)
{
	size_t length = strlen(key);

	for (size_t i = 0; i < r->n; i++)
		if (nla_starts_with(r->table[i].key, key) && r->table[i].key[length] == '.')
			return true;
	return false;
}

static enum nla_status read_member(struct reading *r, const char *key, const cJSON *json, struct nla_err *err);

static enum nla_status read_section(struct reading *r, const char *section, const cJSON *json, struct nla_err *err)
{
	enum nla_status status = NLA_OK;
	const cJSON *child;

	cJSON_ArrayForEach(child, json) {
		char *key = nla_format("%s%s%s", section, section[0] ? "." : "", child->string);
		status = read_member(r, key, child, err);
		free(key);
		if (status)
			break;
	}
	return status;
}

static enum nla_status read_member(struct reading *r, const char *key, const cJSON *json, struct nla_err *err)
{
	for (size_t i = 0; i < r->n; i++)
		if (!strcmp(r->table[i].key, key) && !(cJSON_IsObject(json) && is_section(r, key)))
			return read_leaf(r, i, json, err);
	if (!is_section(r, key)) {
		char *hint = suggest(r->table, r->n, key, false, 0);
		nla_usage(err, "'%s': unknown key '%s'%s", r->from.name, key, hint);
		free(hint);
		return err->status;
	}
	if (!cJSON_IsObject(json))
		return nla_usage(err, "'%s': '%s' is %s: want an object", r->from.name, key, nla_json_type(json));
	return read_section(r, key, json, err);
}

enum nla_status nla_options_json(const struct nla_option *table, size_t n, void *cfg, const char *path, struct nla_err *err)
{
	enum nla_status status;
	cJSON *json;

	if (nla_json_read(path, &json, err))
		return err->status = NLA_USAGE;
	if (!cJSON_IsObject(json)) {
		status = nla_usage(err, "'%s': is %s: want an object", path, nla_json_type(json));
	} else {
		char *folder = nla_path_dir(path);
		struct reading r = { table, n, cfg, { path }, folder, nla_alloc(n, sizeof(*r.seen)) };
		status = read_section(&r, "", json, err);
		free(r.seen);
		free(folder);
	}
	cJSON_Delete(json);
	return status;
}

/* A flag of the command line, its option found; spelling: what stood behind the dashes. */
struct flag {
	const struct nla_option *option;
	char *spelling;
	const char *value;
};

/* Short names may be shared by options of different commands: one that this command uses comes first. */
static const struct nla_option *find_flag(const struct nla_option *table, size_t n, const char *name, unsigned command)
{
	const struct nla_option *other = NULL;

	for (size_t i = 0; i < n; i++) {
		if (strcmp(table[i].key, name) && (!table[i].shortname || strcmp(table[i].shortname, name)))
			continue;
		if (table[i].commands & command)
			return &table[i];
		other = other ? other : &table[i];
	}
	return other;
}

struct command_line {
	const struct nla_option *table;
	size_t n;
	unsigned command;
	int argc;
	char **argv;
	struct flag *flags; /* [n_flags] */
	size_t n_flags;
	const char *config;
};

/* argv[*i] starts with a dash: find its option and its value, which may be the next argument. */
static enum nla_status take_flag(struct command_line *line, int *i, struct nla_err *err)
{
	const char *arg = line->argv[*i], *next = *i + 1 < line->argc ? line->argv[*i + 1] : NULL;
	const char *name = arg + strspn(arg, "-"), *equals = strchr(name, '=');
	char *spelling = nla_strndup(name, equals ? (size_t)(equals - name) : strlen(name));
	const struct nla_option *o = nla_starts_with(arg, "--") ? find_flag(line->table, line->n, spelling, line->command) : NULL;
	struct flag *flag = &line->flags[line->n_flags++];

	*flag = (struct flag){ o, spelling, equals ? equals + 1 : NULL };
	if (!o) {
		char *hint = suggest(line->table, line->n, spelling, true, line->command);
		nla_usage(err, "unknown option '%.*s'%s", (int)(name - arg + (ptrdiff_t)strlen(spelling)), arg, hint);
		free(hint);
		return err->status;
	}
	if (!(o->commands & line->command))
		return nla_usage(err, "'%s' does not use the option '--%s'", nla_path_base(line->argv[0]), spelling);
	if (flag->value)
		return NLA_OK;
	if (o->type == NLA_OPT_BOOL) {
		bool given = next && (!strcmp(next, "true") || !strcmp(next, "false"));
		flag->value = given ? next : "true";
		*i += given;
		return NLA_OK;
	}
	if (!next || nla_starts_with(next, "--")) {
		struct nla_str want = NLA_STR_INIT;
		nla_option_want(o, &want);
		nla_usage(err, "option '--%s' has no value: want %s", spelling, want.buf);
		nla_str_release(&want);
		return err->status;
	}
	flag->value = next;
	++*i;
	return NLA_OK;
}

static enum nla_status take_arguments(struct command_line *line, struct nla_err *err)
{
	bool bare = false; /* behind "--" */

	for (int i = 1; i < line->argc; i++) {
		const char *arg = line->argv[i];
		if (!bare && !strcmp(arg, "--")) {
			bare = true;
		} else if (!bare && arg[0] == '-') {
			if (take_flag(line, &i, err))
				return err->status;
		} else if (line->config) {
			return nla_usage(err, "two configuration files are given, '%s' and '%s': want one", line->config, arg);
		} else {
			line->config = arg;
		}
	}
	return NLA_OK;
}

enum nla_status nla_options_args(const struct nla_option *table, size_t n, void *cfg, unsigned command, int argc, char **argv,
				 const char **config_path, bool *help, struct nla_err *err)
{
	struct command_line line = { .table = table, .n = n, .command = command, .argc = argc, .argv = argv };
	enum nla_status status;

	*config_path = NULL;
	*help = false;
	for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
		if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help"))
			*help = true;
	if (*help)
		return NLA_OK;
	line.flags = nla_alloc((size_t)NLA_MAX(argc, 1), sizeof(*line.flags));
	status = take_arguments(&line, err);
	if (!status && line.config)
		status = nla_options_json(table, n, cfg, line.config, err);
	for (size_t i = 0; i < line.n_flags && !status; i++) {
		const struct flag *flag = &line.flags[i];
		char *shown = strcmp(flag->spelling, flag->option->key) ? nla_format("--%s", flag->spelling) : NULL;
		const struct source from = { shown };
		status = set_text(flag->option, cfg, flag->value, &from, err);
		free(shown);
	}
	for (size_t i = 0; i < line.n_flags; i++)
		free(line.flags[i].spelling);
	free(line.flags);
	*config_path = line.config;
	return status;
}

static char *absolute(const char *path)
{
	char *cwd = path[0] && path[0] != '/' ? getcwd(NULL, 0) : NULL;

	while (nla_starts_with(path, "./"))
		path += 2 + strspn(path + 2, "/");
	char *out = cwd ? nla_path_join(cwd, path) : nla_strdup(path);
	free(cwd);
	return out;
}

static cJSON *dump_value(const struct nla_option *o, const void *cfg)
{
	const void *at = (const char *)cfg + o->offset;
	cJSON *value = NULL;
	char *text = NULL;

	switch (o->type) {
	case NLA_OPT_INT:
		return cJSON_CreateNumber((double)*(const int64_t *)at);
	case NLA_OPT_NUM:
		return cJSON_CreateNumber(*(const double *)at);
	case NLA_OPT_BOOL:
		return cJSON_CreateBool(*(const bool *)at);
	case NLA_OPT_ENUM:
		text = nla_option_choice(o, *(const int *)at);
		break;
	case NLA_OPT_STR:
		text = nla_strdup(*(char *const *)at);
		break;
	case NLA_OPT_PATH:
		text = absolute(*(char *const *)at);
		break;
	}
	value = cJSON_CreateString(text);
	free(text);
	return value;
}

cJSON *nla_options_dump(const struct nla_option *table, size_t n, const void *cfg)
{
	cJSON *root = cJSON_CreateObject();

	for (size_t i = 0; i < n; i++) {
		const char *key = table[i].key, *dot;
		cJSON *at = root;
		while ((dot = strchr(key, '.')) != NULL) {
			char *part = nla_strndup(key, (size_t)(dot - key));
			cJSON *section = cJSON_GetObjectItemCaseSensitive(at, part);
			at = section ? section : cJSON_AddObjectToObject(at, part);
			free(part);
			key = dot + 1;
		}
		cJSON_AddItemToObject(at, key, dump_value(&table[i], cfg));
	}
	return root;
}
