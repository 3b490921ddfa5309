/*
 * chat_printed - what a chat template prints for a user's message, as one text: its literals in order, NLA_CHAT_VALUE where a value
 * stands between them and NLA_CHAT_TAG where a tag does, so that what lies behind it may or may not follow.
 *
 * Branches that are not a user's (`elif message.role == "assistant"`) print nothing. A condition is evaluated for a message of the
 * user's with add_generation_prompt; whatever else it asks for may be so or not. White space between tags is as transformers has it:
 * trim_blocks and lstrip_blocks. A text that is put together in `{% set %}` counts as printed there.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "text/chat_impl.h"

enum truth { NO, MAYBE, YES };

static enum truth and_of(enum truth a, enum truth b) { return NLA_MIN(a, b); }
static enum truth or_of(enum truth a, enum truth b) { return NLA_MAX(a, b); }
static enum truth not_of(enum truth a) { return (enum truth)(YES - a); }

size_t nla_chat_quoted(const char *s, struct nla_str *text)
{
	size_t i = 1;

	for (; s[i] && s[i] != s[0]; i++) {
		if (s[i] == '\\' && s[i + 1]) {
			char c = s[++i];

			nla_str_addc(text, c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c);
		} else {
			nla_str_addc(text, s[i]);
		}
	}
	return s[i] ? i + 1 : i;
}

size_t nla_chat_tag_length(const char *s)
{
	size_t i = 0;
	struct nla_str ignored = NLA_STR_INIT;

	while (s[i] && !((s[i] == '}' || s[i] == '%') && s[i + 1] == '}'))
		i += s[i] == '\'' || s[i] == '"' ? nla_chat_quoted(s + i, &ignored) : 1;
	nla_str_release(&ignored);
	return i;
}

/* ---- expressions ---- */

struct reader {
	const char *at, *end;
};

static bool is_name(char c) { return isalnum((unsigned char)c) || c == '_'; }
static bool is_quote(char c) { return c == '\'' || c == '"'; }

static void skip_spaces(struct reader *r)
{
	while (r->at < r->end && isspace((unsigned char)*r->at))
		r->at++;
}

static bool next_is(const struct reader *r, const char *text)
{
	size_t n = strlen(text);

	return (size_t)(r->end - r->at) >= n && !memcmp(r->at, text, n) &&
	       !(is_name(*text) && r->at + n < r->end && is_name(r->at[n]));
}

static bool take(struct reader *r, const char *text)
{
	skip_spaces(r);
	if (!next_is(r, text))
		return false;
	r->at += strlen(text);
	return true;
}

static void skip_quoted(struct reader *r)
{
	struct nla_str ignored = NLA_STR_INIT;

	r->at += nla_chat_quoted(r->at, &ignored);
	r->at = NLA_MIN(r->at, r->end);
	nla_str_release(&ignored);
}

/* A bracket and all that is in it. */
static void skip_brackets(struct reader *r)
{
	int depth = 0;

	do {
		if (is_quote(*r->at)) {
			skip_quoted(r);
			continue;
		}
		depth += strchr("([{", *r->at) ? 1 : strchr(")]}", *r->at) ? -1 : 0;
		r->at++;
	} while (r->at < r->end && depth > 0);
}

/* A name with what hangs on it: attributes, indices, calls; not its filters. */
static void skip_value(struct reader *r)
{
	while (r->at < r->end && is_name(*r->at))
		r->at++;
	while (r->at < r->end) {
		if (*r->at == '.')
			for (r->at++; r->at < r->end && is_name(*r->at);)
				r->at++;
		else if (*r->at == '[' || *r->at == '(')
			skip_brackets(r);
		else
			break;
	}
}

/* ---- conditions, of a user's message ---- */

struct operand {
	enum truth truth;
	const char *text; /* as it stands there */
	size_t n;
};

static enum truth read_or(struct reader *r);

static bool ends_in(const struct operand *o, const char *tail)
{
	size_t n = strlen(tail);

	return o->n >= n && !memcmp(o->text + o->n - n, tail, n);
}

/* The role of the message in turn; messages[0] may be a system message that was asked for. */
static bool is_role(const struct operand *o)
{
	return (ends_in(o, ".role") || ends_in(o, "['role']") || ends_in(o, "[\"role\"]")) && !nla_starts_with(o->text, "messages[");
}

static struct operand read_operand(struct reader *r)
{
	struct operand o = { .truth = MAYBE };

	skip_spaces(r);
	o.text = r->at;
	if (take(r, "(")) {
		o.truth = read_or(r);
		take(r, ")");
		return o;
	}
	if (r->at < r->end && is_quote(*r->at))
		skip_quoted(r);
	else if (r->at < r->end && *r->at == '[')
		skip_brackets(r);
	else if (r->at < r->end && is_name(*r->at))
		skip_value(r);
	else if (r->at < r->end)
		r->at++;
	o.n = (size_t)(r->at - o.text);
	if (o.n == strlen("add_generation_prompt") && !memcmp(o.text, "add_generation_prompt", o.n))
		o.truth = YES;
	return o;
}

static enum truth same_role(const struct operand *a, const struct operand *b)
{
	const struct operand *role = is_role(a) ? a : b, *text = role == a ? b : a;

	if (!is_role(role) || !text->n || !is_quote(*text->text))
		return MAYBE;
	return text->n == strlen("'user'") && !memcmp(text->text + 1, "user", 4) ? YES : NO;
}

static enum truth read_comparison(struct reader *r)
{
	struct operand a = read_operand(r), b;
	enum truth truth = a.truth;

	if (take(r, "==")) {
		b = read_operand(r);
		truth = same_role(&a, &b);
	} else if (take(r, "!=")) {
		b = read_operand(r);
		truth = not_of(same_role(&a, &b));
	}
	for (skip_spaces(r); r->at < r->end && *r->at != ')' && !next_is(r, "and") && !next_is(r, "or"); skip_spaces(r)) {
		truth = MAYBE; /* is, in, a filter, arithmetic */
		read_operand(r);
	}
	return truth;
}

static enum truth read_not(struct reader *r)
{
	return take(r, "not") ? not_of(read_not(r)) : read_comparison(r);
}

static enum truth read_and(struct reader *r)
{
	enum truth truth = read_not(r);

	while (take(r, "and"))
		truth = and_of(truth, read_not(r));
	return truth;
}

static enum truth read_or(struct reader *r)
{
	enum truth truth = read_and(r);

	while (take(r, "or"))
		truth = or_of(truth, read_and(r));
	return truth;
}

/* ---- printing ---- */

/* What a value is of a message: names[] first, then what may follow. */
enum part { OTHER, ROLE, CONTENT, STRIPPED, CHANGED };

/* messages[0] is none: its content is the system text that a template takes out. */
static enum part part_of(const struct operand *o)
{
	static const char *const names[] = { ".content", "['content']", "[\"content\"]" };

	if (nla_starts_with(o->text, "messages[0]"))
		return OTHER;
	if (is_role(o))
		return ROLE;
	if (o->n >= strlen("content") && !memcmp(o->text, "content", strlen("content")) && !is_name(o->text[strlen("content")]))
		return o->n == strlen("content") ? CONTENT : ends_in(o, "content.strip()") && o->n == strlen("content.strip()") ? STRIPPED : CHANGED;
	for (size_t i = 0; i < NLA_LEN(names); i++) {
		const char *at = memmem(o->text, o->n, names[i], strlen(names[i])), *rest = at ? at + strlen(names[i]) : NULL;
		size_t left = at ? (size_t)(o->text + o->n - rest) : 0;

		if (at && (!left || !is_name(*rest)))
			return !left ? CONTENT : left == strlen(".strip()") && nla_starts_with(rest, ".strip()") ? STRIPPED : CHANGED;
	}
	return OTHER;
}

/* A value with its filters. */
static void print_value(struct nla_chat_printed *p, struct reader *r)
{
	struct operand o = { MAYBE, r->at, 0 };
	enum part part;

	skip_value(r);
	o.n = (size_t)(r->at - o.text);
	part = part_of(&o);
	while (take(r, "|")) {
		bool trim = (skip_spaces(r), next_is(r, "trim"));

		skip_value(r);
		part = part == OTHER || (trim && part == ROLE) ? part : trim && part != CHANGED ? STRIPPED : CHANGED;
	}
	p->strip |= part == STRIPPED;
	p->changed |= part == CHANGED;
	if (o.n == strlen("bos_token") && !memcmp(o.text, "bos_token", o.n)) {
		p->bos = true;
		nla_str_addc(&p->text, NLA_CHAT_BOS);
	} else {
		nla_str_addc(&p->text, NLA_CHAT_VALUE);
	}
}

/* What an expression prints. A part in parentheses, and the sides of an inline `if`, stand as if behind a tag. */
static void print_expression(struct nla_chat_printed *p, struct reader r)
{
	static const char *const words[] = { "if", "else", "and", "or", "not", "in", "is" };

	while (skip_spaces(&r), r.at < r.end) {
		bool word = false;

		for (size_t i = 0; i < NLA_LEN(words) && !word; i++)
			word = take(&r, words[i]);
		if (word || *r.at == '(') {
			nla_str_addc(&p->text, NLA_CHAT_TAG);
			r.at += !word;
		} else if (is_quote(*r.at)) {
			r.at += nla_chat_quoted(r.at, &p->text);
		} else if (is_name(*r.at)) {
			print_value(p, &r);
		} else if (*r.at == '|') {
			take(&r, "|"); /* of a literal or of what stands in parentheses: there is no telling what it becomes */
			skip_spaces(&r);
			skip_value(&r);
			nla_str_addc(&p->text, NLA_CHAT_FILTER);
		} else if (*r.at == '[' || *r.at == '{') {
			skip_brackets(&r);
			nla_str_addc(&p->text, NLA_CHAT_VALUE);
		} else {
			r.at++;
		}
	}
}

/* ---- tags ---- */

#define MAX_DEPTH 64

/* An open `if` or `for`. */
struct block {
	enum truth outer; /* is it reached             */
	enum truth seen;  /* was one of its conditions true */
	bool loop;
};

struct walk {
	struct nla_chat_printed *out;
	struct block blocks[MAX_DEPTH];
	size_t depth;
	enum truth reached;
};

/* What stands in a {% %} tag. */
static void follow(struct walk *w, struct reader r)
{
	struct block *top = w->depth ? &w->blocks[w->depth - 1] : NULL;
	bool begins = take(&r, "if"), loop = !begins && take(&r, "for");

	if (w->reached != NO)
		nla_str_addc(&w->out->text, NLA_CHAT_TAG);
	if ((begins || loop) && w->depth < MAX_DEPTH) {
		enum truth cond = loop ? MAYBE : read_or(&r);

		w->blocks[w->depth++] = (struct block){ w->reached, cond, loop };
		w->reached = and_of(w->reached, cond);
	} else if (top && (take(&r, "endif") || take(&r, "endfor"))) {
		w->reached = top->outer;
		w->depth--;
	} else if (top && take(&r, "elif")) {
		enum truth cond = and_of(read_or(&r), not_of(top->seen));

		top->seen = or_of(top->seen, cond);
		w->reached = and_of(top->outer, cond);
	} else if (top && take(&r, "else")) {
		w->reached = and_of(top->outer, top->loop ? MAYBE : not_of(top->seen));
	} else if (w->reached != NO && take(&r, "set")) {
		while (r.at < r.end && *r.at != '=')
			r.at++;
		if (r.at < r.end) {
			r.at++;
			print_expression(w->out, r);
			nla_str_addc(&w->out->text, NLA_CHAT_TAG);
		}
	}
}

/* Text between two tags; before and after: those tags as they end and begin, "" at the template's own ends. */
static void print_outside(struct nla_chat_printed *p, const char *s, size_t n, const char *before, const char *after)
{
	bool line_start = !*before; /* does s begin at the start of a line */

	if (*before == '-') {
		while (n && isspace((unsigned char)*s))
			s++, n--;
	} else if ((before[0] == '%' || before[0] == '#') && n && *s == '\n') {
		s++, n--;
		line_start = true;
	}
	if (*after && after[2] == '-') {
		while (n && isspace((unsigned char)s[n - 1]))
			n--;
	} else if (*after && (after[1] == '%' || after[1] == '#') && after[2] != '+') {
		size_t cut = n;

		while (cut && (s[cut - 1] == ' ' || s[cut - 1] == '\t'))
			cut--;
		if (cut ? s[cut - 1] == '\n' : line_start)
			n = cut;
	} else if (!*after && n && s[n - 1] == '\n') {
		n--; /* the file's last */
	}
	nla_str_addn(&p->text, s, n);
}

static size_t outside_length(const char *s)
{
	size_t n = 0;

	while (s[n] && !(s[n] == '{' && s[n + 1] && strchr("{%#", s[n + 1])))
		n++;
	return n;
}

void nla_chat_print(struct nla_chat_printed *p, const char *s)
{
	struct walk w = { .out = p, .reached = YES };
	const char *before = "";

	nla_str_init(&p->text);
	p->bos = p->strip = p->changed = false;
	while (*s) {
		size_t n = outside_length(s);

		if (w.reached != NO)
			print_outside(p, s, n, before, s + n);
		s += n;
		if (!*s)
			break;
		const char *stop = s[1] == '#' ? strstr(s, "#}") : s + 2 + nla_chat_tag_length(s + 2);
		struct reader r = { s + 2, stop };

		if (!stop || !*stop)
			break;
		r.at += *r.at == '-' || *r.at == '+';
		r.end -= r.end > r.at && r.end[-1] == '-';
		if (s[1] == '%')
			follow(&w, r);
		else if (s[1] == '{' && w.reached != NO)
			print_expression(p, r);
		before = stop[-1] == '-' ? stop - 1 : stop;
		s = stop + 2;
	}
}
