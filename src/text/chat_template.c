/*
 * chat_template - what a checkpoint's jinja template renders, told from its string literals.
 *
 * Templates of one format differ in wording (quotes, `message.role` or `message['role']`, tools, reasoning), not in the texts
 * they print for one user message. So the literals are collected with what stands before each, and:
 *
 *	format        the one whose texts are all among them
 *	opening       what is printed behind `if add_generation_prompt` must be the format's opening, whole
 *	system turn   a literal that has a system turn's start and end, or its start and a text (SmolLM2, Qwen2.5); a start alone
 *	              is for a system message or for tools, and must stand in an `if` that says so
 *	its head      "Cutting Knowledge Date: " and "Today Date: " (Llama 3.1), with the date that `date_string = ` sets
 *	user's turn   what is printed for a user's message (chat_printed.c) must be the format's texts around a value, to the next turn
 *	strip         `content | trim` or `content.strip()` of a user's message
 *
 * Whatever does not fit is an error that says so. The date of Llama 3.2's template is today's; here it is the fixed one that the
 * template falls back on, for a prompt that changes overnight is no prompt to train on.
 */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "text/chat_impl.h"

#define OVERRIDE "set 'chat.format' to chatml, llama3 or llama2"

/* A string literal, or text outside of jinja's brackets. */
struct literal {
	char *text;
	size_t at;    /* where it begins in the template                                      */
	bool guarded; /* stands in an `if` of tools or of a system message                    */
};

struct literals {
	struct literal *data;
	size_t n, cap;
	size_t depth, guards; /* of `if` around where we are: how many, and a bit each for those of tools or system */
};

static void literals_push(struct literals *l, struct nla_str *text, size_t at)
{
	if (l->n == l->cap) {
		l->cap = NLA_MAX(32, 2 * l->cap);
		l->data = nla_realloc(l->data, l->cap, sizeof(*l->data));
	}
	l->data[l->n++] = (struct literal){ nla_str_detach(text), at, l->guards != 0 };
}

static void literals_release(struct literals *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->data[i].text);
	free(l->data);
}

/* Text outside of brackets, up to the next; white space alone between two tags is taken for layout. */
static size_t read_outside(const char *s, struct nla_str *text)
{
	size_t n = 0;

	while (s[n] && !(s[n] == '{' && strchr("{%#", s[n + 1] ? s[n + 1] : 'x')))
		n++;
	if (strspn(s, " \t\r\n") < n)
		nla_str_addn(text, s, n);
	return n;
}

static bool names(const char *s, size_t n, const char *word)
{
	const char *found = strstr(s, word);

	return found && found < s + n;
}

/* Keep count of the conditions we are in. s: what stands in a {% %} tag. */
static void follow(struct literals *l, const char *s, size_t n)
{
	size_t skip = strspn(s, "- \t\r\n"), bit;
	bool begins = !strncmp(s + skip, "if", 2), other = !strncmp(s + skip, "el", 2);

	if (!strncmp(s + skip, "endif", 5)) {
		l->depth -= l->depth > 0;
		l->guards &= ~((size_t)1 << (l->depth & 63));
	} else if (begins || other) {
		l->depth += begins;
		bit = (size_t)1 << ((l->depth - 1) & 63);
		l->guards &= ~bit;
		if (names(s, n, "tools") || names(s, n, "system"))
			l->guards |= bit;
	}
}

static void read_literals(const char *s, struct literals *out)
{
	size_t i = 0;

	while (s[i]) {
		struct nla_str text = NLA_STR_INIT;
		size_t n = read_outside(s + i, &text);

		if (text.len)
			literals_push(out, &text, i);
		i += n;
		if (!s[i])
			break;
		if (s[i + 1] == '#') {
			const char *stop = strstr(s + i, "#}");

			i = stop ? (size_t)(stop - s) + 2 : strlen(s);
			continue;
		}
		size_t stop = i + 2 + nla_chat_tag_length(s + i + 2);

		if (s[i + 1] == '%')
			follow(out, s + i + 2, stop - i - 2);
		for (i += 2; i < stop; i += n) {
			nla_str_init(&text);
			n = s[i] == '\'' || s[i] == '"' ? nla_chat_quoted(s + i, &text) : 1;
			if (n > 1)
				literals_push(out, &text, i);
		}
		i += s[i] ? 2 : 0;
	}
}

/* The literal that is set by `name = "..."`, or NULL. */
static const char *assigned(const char *source, const struct literals *l, const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < l->n; i++) {
		size_t at = l->data[i].at;

		while (at > 0 && source[at - 1] == ' ')
			at--;
		if (at < 2 || source[at - 1] != '=' || strchr("=!<>", source[at - 2]))
			continue;
		for (at--; at > 0 && source[at - 1] == ' ';)
			at--;
		if (at >= n && !memcmp(source + at - n, name, n))
			return l->data[i].text;
	}
	return NULL;
}

static bool has_text(const struct literals *l, const char *text)
{
	for (size_t i = 0; i < l->n; i++)
		if (strstr(l->data[i].text, text))
			return true;
	return false;
}

static enum nla_chat_format recognise(const struct literals *l)
{
	for (int f = NLA_CHAT_AUTO + 1; f < NLA_CHAT_ROWS; f++) {
		bool all = true;

		for (size_t i = 0; i < NLA_LEN(nla_chat_rows[f].texts); i++)
			all &= !nla_chat_rows[f].texts[i] || has_text(l, nla_chat_rows[f].texts[i]);
		if (all)
			return (enum nla_chat_format)f;
	}
	return NLA_CHAT_AUTO;
}

/* Does it open the assistant's turn as the format does? Qwen3's also has an empty think block, for who switches thinking off. */
static bool opens_plainly(const char *source, const struct literals *l, const char *open)
{
	const char *last = NULL;
	struct nla_str printed = NLA_STR_INIT;
	bool plain, off;

	for (const char *s = source; (s = strstr(s, "add_generation_prompt")) != NULL; s++)
		last = s;
	if (!last)
		return !*open || (l->n && !strcmp(l->data[l->n - 1].text, open));
	for (size_t i = 0; i < l->n; i++)
		if (l->data[i].at > (size_t)(last - source))
			nla_str_add(&printed, l->data[i].text);
	off = strstr(last, "enable_thinking is false") != NULL;
	plain = !strncmp(printed.buf, open, strlen(open)) &&
		!strcmp(printed.buf + strlen(open), off ? "<think>\n\n</think>\n\n" : "");
	nla_str_release(&printed);
	return plain;
}

/* What surrounds a user's message in a format's text: "<|im_start|>", "\n"; "<|im_end|>", "\n". */
struct turn {
	char *head; /* up to the role */
	const char *bos, *sep, *end;
	char *tail; /* behind the end, up to the next turn */
	bool role;
};

static struct turn turn_of(const struct nla_chat_row *row)
{
	const char *role = strstr(row->user[0], "user"), *close = row->user[1];
	size_t end = nla_starts_with(close, row->end) ? strlen(row->end) : strlen(close);

	return (struct turn){ .bos = row->bos, .head = nla_strndup(row->user[0], role ? (size_t)(role - row->user[0]) : strlen(row->user[0])),
			      .sep = role ? role + strlen("user") : "", .end = close, .tail = nla_strdup(close + end), .role = role != NULL };
}

/* Behind a whole turn: a tag, the end, or another turn. */
static bool at_border(const struct turn *t, const char *s)
{
	return !*s || *s == NLA_CHAT_TAG || nla_starts_with(s, t->head);
}

static bool ends_at(const char *from, const char *s, const char *text)
{
	size_t n = strlen(text);

	return n && (size_t)(s - from) >= n && !memcmp(s - n, text, n);
}

/* The message alone: one value, or one in each branch. Returns where it ends, NULL where it is something else. */
static const char *skip_message(const char *s)
{
	bool found = false;

	for (; *s == NLA_CHAT_VALUE || *s == NLA_CHAT_TAG; s++) {
		if (s[0] == NLA_CHAT_VALUE && s[1] == NLA_CHAT_VALUE)
			return NULL;
		found |= *s == NLA_CHAT_VALUE;
	}
	return found ? s : NULL;
}

/* A turn at s that a user's message goes through, from where it may begin to its end: role, separator, the message. */
static bool is_turn(const struct turn *t, const char *from, const char *s)
{
	if (s > from && s[-1] != NLA_CHAT_TAG && s[-1] != NLA_CHAT_BOS && !ends_at(from, s, t->end) && !ends_at(from, s, t->bos))
		return false;
	s += strlen(t->head);
	if (t->role && *s != NLA_CHAT_VALUE && !nla_starts_with(s, "user"))
		return false;
	s += !t->role ? 0 : *s == NLA_CHAT_VALUE ? 1 : strlen("user");
	if (!nla_starts_with(s, t->sep))
		return false;
	s = skip_message(s + strlen(t->sep));
	return s && nla_starts_with(s, t->end) && at_border(t, s + strlen(t->end));
}

/* Does it print a user's turn as the format does, and every turn's end? */
static bool turns_plainly(const char *printed, const struct nla_chat_row *row)
{
	struct turn t = turn_of(row);
	char *end = nla_strndup(t.end, strlen(t.end) - strlen(t.tail));
	bool found = false, plain = true;

	for (const char *s = printed; (s = strstr(s, t.head)) != NULL; s++)
		found |= is_turn(&t, printed, s);
	for (const char *s = printed; (s = strstr(s, end)) != NULL; s++)
		plain &= nla_starts_with(s, t.end) && at_border(&t, s + strlen(t.end));
	free(end);
	free(t.head);
	free(t.tail);
	return found && plain;
}

/* A literal that prints a whole system turn, or its start and a text: what is in it. */
static void find_system(struct nla_chat_template *t, const struct literals *l, const struct nla_chat_row *row)
{
	const char *opening = row->system[0];

	for (size_t i = 0; i < l->n; i++) {
		const char *start = strstr(l->data[i].text, opening);
		const char *text = start ? start + strlen(opening) : NULL;
		const char *stop = text ? strstr(text, row->end) : NULL;

		t->system_unclear |= text && !*text && !l->data[i].guarded && !t->system_head;
		if (!text || !*text)
			continue;
		char *found = nla_strndup(text, stop ? (size_t)(stop - text) : strlen(text));

		t->system_unclear |= !stop || (t->system && strcmp(t->system, found));
		free(t->system);
		t->system = found;
	}
}

/* Llama 3.1 and later print the dates, and a system turn for them even when there is no system text. */
static enum nla_status find_dates(struct nla_chat_template *t, const char *source, const struct literals *l, struct nla_err *err)
{
	const char *date = assigned(source, l, "date_string"), *cutting = NULL;

	for (size_t i = 0; i < l->n; i++)
		if (nla_starts_with(l->data[i].text, "Cutting Knowledge Date: "))
			cutting = l->data[i].text;
	if (!cutting && !has_text(l, "Today Date: "))
		return NLA_OK;
	if (!cutting || !date || !has_text(l, "Today Date: "))
		return nla_fail(err, "cannot tell the chat format of '%s': it prints a date in a way we do not know; set 'chat.format' "
				"and 'chat.system'", t->path);
	t->system_head = nla_format("%sToday Date: %s\n\n", cutting, date);
	t->system = nla_strdup("");
	return NLA_OK;
}

/* NULL, or in which way the template is not of its format. */
static const char *otherwise(const char *source, const struct literals *l, const struct nla_chat_printed *p, const struct nla_chat_row *row)
{
	if (!opens_plainly(source, l, row->open))
		return "opens the assistant's turn in another way";
	if (p->changed)
		return "changes a message in another way than to strip it";
	return turns_plainly(p->text.buf, row) ? NULL : "prints a turn in another way";
}

/* What else it says, where it is of the format that is looked for. */
static enum nla_status look(struct nla_chat_template *t, const char *source, const struct literals *l, const struct nla_chat_printed *p,
			    struct nla_err *err)
{
	const struct nla_chat_row *row = &nla_chat_rows[t->format];
	const char *set = assigned(source, l, "system_message");

	t->strip = p->strip;
	t->bos = p->bos;
	t->bos_literal = *row->bos && strstr(p->text.buf, row->bos);
	if (find_dates(t, source, l, err))
		return err->status;
	if (!row->system_in_user)
		find_system(t, l, row);
	t->system_unclear |= set && *set;
	return NLA_OK;
}

static enum nla_status understand(struct nla_chat_template *t, const char *source, enum nla_chat_format format,
				  struct nla_err *err)
{
	struct nla_chat_printed printed;
	struct literals l = {0};
	enum nla_status status = NLA_OK;
	const char *other;

	read_literals(source, &l);
	nla_chat_print(&printed, source);
	t->format = recognise(&l);
	other = t->format ? otherwise(source, &l, &printed, &nla_chat_rows[t->format]) : NULL;
	if (format == NLA_CHAT_AUTO && t->format == NLA_CHAT_AUTO)
		status = nla_fail(err, "cannot tell the chat format of '%s': its template is not ChatML, Llama 3's or Llama 2's; " OVERRIDE,
				  t->path);
	else if (format == NLA_CHAT_AUTO && other)
		status = nla_fail(err, "cannot tell the chat format of '%s': it has the tokens of %s, but %s; " OVERRIDE, t->path,
				  nla_chat_rows[t->format].name, other);
	else if (t->format != NLA_CHAT_AUTO && (format == NLA_CHAT_AUTO || format == t->format))
		status = look(t, source, &l, &printed, err);
	else
		t->format = NLA_CHAT_AUTO;
	literals_release(&l);
	nla_str_release(&printed.text);
	return status;
}

/* chat_template of tokenizer_config.json: a text, or a list of named ones. Borrowed; NULL: none. */
static const char *named_template(const cJSON *json)
{
	const cJSON *item, *value = nla_json_at(json, "chat_template");

	if (!cJSON_IsArray(value))
		return cJSON_GetStringValue(value);
	cJSON_ArrayForEach(item, value) {
		const char *name = cJSON_GetStringValue(nla_json_at(item, "name"));

		if (name && !strcmp(name, "default"))
			return cJSON_GetStringValue(nla_json_at(item, "template"));
	}
	return NULL;
}

static char *token_text(const cJSON *value)
{
	const char *text = cJSON_IsObject(value) ? cJSON_GetStringValue(nla_json_at(value, "content")) : cJSON_GetStringValue(value);

	return text ? nla_strdup(text) : NULL;
}

/* bos_token of tokenizer_config.json; else that of special_tokens_map.json, which is not looked at beside added_tokens_decoder. */
static enum nla_status read_bos(struct nla_chat_template *t, const char *folder, const cJSON *json, struct nla_err *err)
{
	const char *class = cJSON_GetStringValue(nla_json_at(json, "tokenizer_class"));
	char *path = nla_path_join(folder, "special_tokens_map.json");
	enum nla_status status = NLA_OK;
	cJSON *map = NULL;

	t->llama_class = !class || nla_starts_with(class, "LlamaTokenizer");
	t->bos_text = token_text(nla_json_at(json, "bos_token"));
	if (!t->bos_text && nla_exists(path) && !nla_json_at(json, "added_tokens_decoder")) {
		status = nla_json_read(path, &map, err);
		t->bos_text = token_text(nla_json_at(map, "bos_token"));
	}
	cJSON_Delete(map);
	free(path);
	return status;
}

enum nla_status nla_chat_template_read(struct nla_chat_template *t, const char *folder, enum nla_chat_format format,
				       struct nla_err *err)
{
	char *jinja = nla_path_join(folder, "chat_template.jinja"), *config = nla_path_join(folder, "tokenizer_config.json");
	struct nla_str source = NLA_STR_INIT;
	enum nla_status status = NLA_OK;
	cJSON *json = NULL;

	memset(t, 0, sizeof(*t));
	if (nla_exists(config))
		status = nla_json_read(config, &json, err);
	if (!status && nla_exists(jinja)) {
		status = nla_file_read(jinja, &source, err);
		t->path = nla_strdup(jinja);
	} else if (named_template(json)) {
		nla_str_add(&source, named_template(json));
		t->path = nla_strdup(config);
	}
	if (!status)
		status = read_bos(t, folder, json, err);
	if (t->path && !status)
		status = understand(t, source.buf, format, err);
	cJSON_Delete(json);
	nla_str_release(&source);
	free(jinja);
	free(config);
	if (status)
		nla_chat_template_release(t);
	return status;
}

void nla_chat_template_release(struct nla_chat_template *t)
{
	free(t->path);
	free(t->bos_text);
	free(t->system);
	free(t->system_head);
	memset(t, 0, sizeof(*t));
}
