/*
 * optionshelp - the option table in words: --help, README rows, and what an error message wants. See options.h.
 *
 * Help is two columns within WIDTH: flags, then text, wrapped. Flags too long for their column get a line of their own.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/optionsrow.h"

enum { WIDTH = 100, INDENT = 2, MAX_FLAGS = 40 };

/* A bound this large is no bound to a reader. */
#define UNBOUNDED 1e15

void nla_option_range(const struct nla_option *o, struct nla_str *s)
{
	bool low = o->min > -UNBOUNDED, high = o->max < UNBOUNDED;

	if (o->min == o->max || (o->type != NLA_OPT_INT && o->type != NLA_OPT_NUM) || (!low && !high))
		return;
	if (!high)
		nla_str_add(s, "at least ");
	if (low)
		nla_json_add_num(s, o->min);
	if (high) {
		nla_str_add(s, low ? " to " : "at most ");
		nla_json_add_num(s, o->max);
	}
}

void nla_option_want(const struct nla_option *o, struct nla_str *s)
{
	static const char *const what[] = { "an integer", "a number", "true or false", "a string", "a path", "one of '" };
	struct nla_str range = NLA_STR_INIT;

	nla_str_add(s, what[o->type]);
	nla_option_range(o, &range);
	if (range.len)
		nla_str_addf(s, "%s%s", range.buf[0] == 'a' ? " of " : " from ", range.buf);
	nla_str_release(&range);
	if (o->type != NLA_OPT_ENUM)
		return;
	for (const char *c = o->choices; *c; c++)
		nla_str_addn(s, *c == '|' ? "', '" : c, *c == '|' ? 4 : 1);
	nla_str_addc(s, '\'');
}

char *nla_option_choice(const struct nla_option *o, int index)
{
	const char *choice = o->choices;

	for (int i = 0; i < index && choice; i++) {
		choice = strchr(choice, '|');
		choice = choice ? choice + 1 : NULL;
	}
	if (index < 0 || !choice)
		NLA_BUG("option '%s' has no choice %d", o->key, index);
	return nla_strndup(choice, strcspn(choice, "|"));
}

static size_t section_length(const struct nla_option *o)
{
	const char *dot = strrchr(o->key, '.');

	return dot ? (size_t)(dot - o->key) : 0;
}

static bool same_section(const struct nla_option *a, const struct nla_option *b)
{
	size_t n = section_length(a);

	return n == section_length(b) && !memcmp(a->key, b->key, n);
}

/* "--lambda, --reward.lambda X" */
static void add_flags(const struct nla_option *o, struct nla_str *s)
{
	static const char *const value[] = { " N", " X", "", " TEXT", " PATH", " " };

	if (o->shortname && strcmp(o->shortname, o->key))
		nla_str_addf(s, "--%s, ", o->shortname);
	nla_str_addf(s, "--%s%s", o->key, value[o->type]);
	if (o->type == NLA_OPT_ENUM)
		nla_str_add(s, o->choices);
}

static void add_text(const struct nla_option *o, struct nla_str *s)
{
	struct nla_str range = NLA_STR_INIT;
	bool def = o->def && o->def[0];

	nla_option_range(o, &range);
	nla_str_add(s, o->help);
	if (def || range.len) {
		nla_str_add(s, def ? " [default " : " [");
		for (const char *c = def ? o->def : ""; *c; c++)
			*c == '\n' ? nla_str_add(s, "\\n") : nla_str_addc(s, *c);
		nla_str_addf(s, "%s%s]", def && range.len ? "; " : "", range.buf);
	}
	nla_str_release(&range);
}

/* Text from column `column` on, broken at spaces before WIDTH; the cursor already stands there. */
static void add_wrapped(struct nla_str *s, const char *text, size_t column)
{
	size_t at = column;

	while (*text) {
		size_t word = strcspn(text, " ");
		if (at > column && at + 1 + word > WIDTH) {
			nla_str_addf(s, "\n%*s", (int)column, "");
			at = column;
		} else if (at > column) {
			nla_str_addc(s, ' ');
			at++;
		}
		nla_str_addn(s, text, word);
		at += word;
		text += word;
		text += strspn(text, " ");
	}
	nla_str_addc(s, '\n');
}

static void add_row(struct nla_str *s, const char *flags, const char *text, size_t column)
{
	size_t at = INDENT + strlen(flags);

	nla_str_addf(s, "%*s%s", INDENT, "", flags);
	if (at + 2 > column)
		nla_str_addf(s, "\n%*s", (int)column, "");
	else
		nla_str_addf(s, "%*s", (int)(column - at), "");
	add_wrapped(s, text, column);
}

/* A bar would end the cell. */
static void add_cell(struct nla_str *s, const char *text, bool code)
{
	nla_str_add(s, code && text[0] ? "| `" : "| ");
	for (; *text; text++) {
		if (*text == '|')
			nla_str_addc(s, '\\');
		if (*text == '\n') /* a table's row is one line */
			nla_str_add(s, "\\n");
		else
			nla_str_addc(s, *text);
	}
	nla_str_add(s, s->buf[s->len - 1] == ' ' ? "" : code ? "` " : " ");
}

static void add_markdown(const struct nla_option *o, struct nla_str *s)
{
	static const char *const types[] = { "integer", "number", "true or false", "text", "path", "" };
	struct nla_str range = NLA_STR_INIT;

	nla_option_range(o, &range);
	add_cell(s, o->key, true);
	add_cell(s, o->shortname && strcmp(o->shortname, o->key) ? o->shortname : "", true);
	if (range.len && o->type != NLA_OPT_ENUM)
		nla_str_addf(s, "| %s, %s ", types[o->type], range.buf);
	else
		add_cell(s, o->type == NLA_OPT_ENUM ? o->choices : types[o->type], o->type == NLA_OPT_ENUM);
	add_cell(s, o->def ? o->def : "", true);
	add_cell(s, o->help, false);
	nla_str_add(s, "|\n");
	nla_str_release(&range);
}

static void add_option(const struct nla_option *o, bool markdown, size_t column, struct nla_str *out)
{
	struct nla_str flags = NLA_STR_INIT, text = NLA_STR_INIT;

	if (markdown) {
		add_markdown(o, out);
		return;
	}
	add_flags(o, &flags);
	add_text(o, &text);
	add_row(out, flags.buf, text.buf, column);
	nla_str_release(&flags);
	nla_str_release(&text);
}

static size_t flags_column(const struct nla_option *table, size_t n, unsigned command)
{
	struct nla_str flags = NLA_STR_INIT;
	size_t widest = strlen("-h, --help");

	for (size_t i = 0; i < n; i++) {
		nla_str_reset(&flags);
		add_flags(&table[i], &flags);
		if (table[i].commands & command && flags.len <= MAX_FLAGS)
			widest = NLA_MAX(widest, flags.len);
	}
	nla_str_release(&flags);
	return INDENT + widest + 2;
}

/* The first option in the table of its section, among those the command uses. */
static bool opens_section(const struct nla_option *table, size_t i, unsigned command)
{
	for (size_t j = 0; j < i; j++)
		if (table[j].commands & command && same_section(&table[j], &table[i]))
			return false;
	return table[i].commands & command;
}

void nla_options_help(const struct nla_option *table, size_t n, unsigned command, bool markdown, struct nla_str *out)
{
	size_t column = flags_column(table, n, command);

	if (markdown)
		nla_str_add(out, "| key | short flag | value | default | meaning |\n|---|---|---|---|---|\n");
	for (size_t i = 0; i < n; i++) {
		if (!opens_section(table, i, command))
			continue;
		size_t length = section_length(&table[i]);
		if (!markdown && length)
			nla_str_addf(out, "\n%.*s:\n", (int)length, table[i].key);
		else if (!markdown)
			nla_str_add(out, out->len ? "\ngeneral:\n" : "general:\n");
		for (size_t j = i; j < n; j++)
			if (table[j].commands & command && same_section(&table[i], &table[j]))
				add_option(&table[j], markdown, column, out);
	}
	if (!markdown) {
		nla_str_add(out, "\n");
		add_row(out, "-h, --help", "show this text", column);
	}
}
