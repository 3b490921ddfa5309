/*
 * optionshelp - the option table in words: --help, the page docs/options.md, and what an error message wants. See options.h.
 *
 * Help is two columns: flags, then text, wrapped. Flags too long for their column get a line of their own.
 */

#include "base/json.h"
#include "base/options.h"

enum { WIDTH = 100, COLUMN = 42 };

/* "1 to 100", "at least 1", appended; nothing when unbounded, which a bound of 1e15 is to a reader. */
static void add_range(const struct nla_option *o, const char *before, struct nla_str *s)
{
	bool low = o->min > -1e15, high = o->max < 1e15;
	if (o->min == o->max || (!low && !high))
		return;
	nla_str_addf(s, "%s%s", before, !high ? "at least " : low ? "" : "at most ");
	if (low)
		nla_json_add_num(s, o->min);
	if (low && high)
		nla_str_add(s, " to ");
	if (high)
		nla_json_add_num(s, o->max);
}

void nla_option_want(const struct nla_option *o, struct nla_str *s)
{
	static const char *const what[] = { "an integer", "a number", "true or false", "a string", "a path", "one of ",
					    "a number, or several that differ with commas" };
	nla_str_add(s, what[o->type]);
	add_range(o, ", ", s);
	if (o->type == NLA_OPT_ENUM)
		nla_str_add(s, o->choices);
}

static bool has_other_name(const struct nla_option *o) { return o->shortname && strcmp(o->shortname, o->key); }

/* A line break as \n; a bar, which would end a cell of a table, as \|. */
static void add_escaped(struct nla_str *s, const char *text, bool cell)
{
	for (; *text; text++)
		nla_str_addf(s, "%s%c", *text == '\n' || (*text == '|' && cell) ? "\\" : "", *text == '\n' ? 'n' : *text);
}

/* Words from COLUMN on, broken before WIDTH. */
static void add_wrapped(struct nla_str *s, const char *text)
{
	for (size_t at = COLUMN, word; *text; text += word + strspn(text + word, " ")) {
		word = strcspn(text, " ");
		if (at > COLUMN && at + 1 + word > WIDTH) {
			nla_str_addf(s, "\n%*s", COLUMN, "");
			at = COLUMN;
		} else if (at > COLUMN) {
			nla_str_addc(s, ' ');
			at++;
		}
		nla_str_addn(s, text, word);
		at += word;
	}
	nla_str_addc(s, '\n');
}

/* "  --lambda, --reward.lambda X     what it does [default 0; 0 to 100]" */
static void add_option(const struct nla_option *o, struct nla_str *out)
{
	static const char *const value[] = { " N", " X", "", " TEXT", " PATH", " ", " X,Y,.." };
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	size_t start = out->len;
	nla_str_add(out, "  ");
	if (has_other_name(o))
		nla_str_addf(out, "--%s, ", o->shortname);
	nla_str_addf(out, "--%s%s%s", o->key, value[o->type], o->type == NLA_OPT_ENUM ? o->choices : "");
	size_t width = out->len - start;
	bool fits = width + 2 <= COLUMN;
	nla_str_addf(out, "%s%*s", fits ? "" : "\n", COLUMN - (fits ? (int)width : 0), "");
	nla_str_add(&text, o->help);
	nla_str_add(&text, o->def[0] ? " [default " : "");
	add_escaped(&text, o->def, false);
	add_range(o, o->def[0] ? "; " : " [", &text);
	if (o->def[0] || o->min != o->max)
		nla_str_addc(&text, ']');
	add_wrapped(out, text.buf);
}

/* A cell of a table; in code quotes, unless it is empty. */
static void add_cell(struct nla_str *s, const char *text, bool code)
{
	const char *quote = code && text[0] ? "`" : "";
	nla_str_addf(s, "| %s", quote);
	add_escaped(s, text, true);
	nla_str_addf(s, "%s%s", quote, text[0] ? " " : "");
}

static void add_row(const struct nla_option *o, struct nla_str *s)
{
	static const char *const types[] = { "integer", "number", "true or false", "text", "path", "", "number, or several" };
	add_cell(s, o->key, true);
	add_cell(s, has_other_name(o) ? o->shortname : "", true);
	if (o->type == NLA_OPT_ENUM) {
		add_cell(s, o->choices, true);
	} else {
		nla_str_addf(s, "| %s", types[o->type]);
		add_range(o, ", ", s);
		nla_str_addc(s, ' ');
	}
	add_cell(s, o->def, true);
	add_cell(s, o->help, false);
	nla_str_add(s, "|\n");
}

/* A section is what a key has before its last dot. */
static size_t section_length(const struct nla_option *o)
{
	const char *dot = strrchr(o->key, '.');
	return dot ? (size_t)(dot - o->key) : 0;
}

/* The next option from `at` on that the command uses and whose section is that of `like`; n: none. */
static size_t next_of(const struct nla_option *table, size_t n, unsigned command, const struct nla_option *like, size_t at)
{
	size_t length = section_length(like);
	while (at < n && !(table[at].commands & command && section_length(&table[at]) == length &&
			   !memcmp(table[at].key, like->key, length)))
		at++;
	return at;
}

void nla_options_help(const struct nla_option *table, size_t n, unsigned command, bool markdown, struct nla_str *out)
{
	if (markdown)
		nla_str_add(out, "# Options\n\nEvery program takes a JSON file with these keys (`reward.lambda` is\n"
				 "`{\"reward\": {\"lambda\": 0.002}}`), and flags, which go over the file: `--KEY VALUE`,\n"
				 "`--KEY=VALUE`, or the short flag; `--KEY` alone means true. A relative path in a file is\n"
				 "relative to the file's folder, in a flag to where you are. At the top level of a file, keys\n"
				 "that begin with `_` are comments.\n"
				 "`PROGRAM --help` lists those it uses. `nla-train --help-markdown` writes this page.\n\n"
				 "| key | short flag | value | default | meaning |\n|---|---|---|---|---|\n");
	for (size_t i = 0; i < n; i++) {
		const struct nla_option *first = &table[i];
		size_t length = section_length(first);
		if (next_of(table, n, command, first, 0) != i)
			continue;
		if (!markdown)
			nla_str_addf(out, "%s%.*s%s:\n", out->len ? "\n" : "", (int)length, first->key,
				     length ? "" : "general");
		for (size_t j = i; j < n; j = next_of(table, n, command, first, j + 1))
			markdown ? add_row(&table[j], out) : add_option(&table[j], out);
	}
	if (!markdown)
		nla_str_addf(out, "\n  %-*sshow this text\n  %-*sversion, commit, libtorch\n", COLUMN - 2, "-h, --help",
			     COLUMN - 2, "--version");
}
