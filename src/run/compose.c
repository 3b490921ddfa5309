/* Texts in, texts out: slots filled, answers cleaned and cut (compose.h). */
#include "run/compose.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "nla/av.h"

enum { DRAW_END, DRAW_NEXT };

static const char space[] = " \n\r\t";
const char *const nla_prompt_slots[] = { "{text}", NLA_SLOT_NEXT, NULL };
const char *const nla_explanation_slots[] = { "{answer}", NLA_SLOT_NEXT, "{end}", NULL };

enum nla_status nla_slots_check(const char *key, const char *template, const char *const *slots, struct nla_err *err)
{
	for (size_t i = 0; slots[i]; i++) {
		const char *first = strstr(template, slots[i]);
		if ((i == 0 && !first) || (first && strstr(first + 1, slots[i])))
			return nla_usage(err, "'%s' has '%s' %s, want it %s", key, slots[i],
					 first ? "more than once" : "nowhere", i ? "once or not at all" : "once");
	}
	return NLA_OK;
}

/* values: one a slot, in its place. */
static char *fill(const char *template, const char *const *slots, const char *const *values)
{
	struct nla_str out = NLA_STR_INIT;
	while (*template) {
		size_t i = 0;
		while (slots[i] && !nla_starts_with(template, slots[i]))
			i++;
		if (slots[i])
			nla_str_add(&out, values[i]);
		else
			nla_str_addc(&out, *template);
		template += slots[i] ? strlen(slots[i]) : 1;
	}
	return nla_str_detach(&out);
}

/* The last n words of a text; line breaks and runs of space become one space. */
static char *quote_end(const char *text, int64_t n)
{
	struct nla_str out = NLA_STR_INIT;
	const char *from = text + strlen(text);
	for (; n > 0 && from > text; n--) {
		while (from > text && strchr(space, from[-1]))
			from--;
		while (from > text && !strchr(space, from[-1]))
			from--;
	}
	for (from += strspn(from, space); *from; from += strspn(from, space)) {
		size_t length = strcspn(from, space);
		nla_str_add(&out, out.len ? " " : "\"");
		nla_str_addn(&out, from, length);
		from += length;
	}
	nla_str_add(&out, out.len ? "\"" : "\"\"");
	return nla_str_detach(&out);
}

static char *quote_next(const struct nla_strs *next, int64_t most, bool strip)
{
	struct nla_str out = NLA_STR_INIT;
	for (size_t i = 0; i < next->n && (int64_t)i < most; i++)
		nla_str_addf(&out, "%s\"%s\"", i ? ", " : "", next->data[i] + (strip ? strspn(next->data[i], space) : 0));
	return nla_str_detach(&out);
}

char *nla_compose_prompt(const char *template, const struct nla_row *row, const char *text)
{
	nla_auto char *next = quote_next(&row->next, INT64_MAX, false);
	return fill(template, nla_prompt_slots, (const char *[]){ text, next });
}

/* 1 to most, evenly. */
static int64_t draw(const struct nla_compose *c, int64_t number, uint32_t what, int64_t most)
{
	struct nla_rng rng = { c->seed, NLA_STREAM_COMPOSE };
	return 1 + NLA_MIN((int64_t)((double)nla_uniform(&rng, 0, (uint32_t)number, what) * (double)most), most - 1);
}

char *nla_compose(const struct nla_compose *c, const struct nla_row *row, int64_t number, const char *answer)
{
	size_t n = strlen(answer);
	bool stop = n && answer[n - 1] == '.' && strstr(c->template, "{answer}.");
	nla_auto char *said = nla_strndup(answer, stop ? n - 1 : n);
	nla_auto char *end = quote_end(row->text, draw(c, number, DRAW_END, c->max_end));
	nla_auto char *next = quote_next(&row->next, draw(c, number, DRAW_NEXT, c->max_next), true);
	return fill(c->template, nla_explanation_slots, (const char *[]){ said, next, end });
}

bool nla_has_tag(const char *text) { return strstr(text, "<explanation>") || strstr(text, "</explanation>"); }

enum nla_unfit nla_answer_clean(const char *answer, bool stopped, char **out)
{
	const char *start = answer;
	size_t length = strlen(answer);
	bool whole = nla_find_explanation(answer, length, &start, &length) || stopped;
	if (start == answer)
		start = nla_utf8_strip(answer, strlen(answer), &length);
	*out = nla_strndup(start, length);
	return !length ? NLA_ANSWER_EMPTY : nla_has_tag(*out) ? NLA_ANSWER_TAGS : whole ? NLA_ANSWER_OK : NLA_ANSWER_TRUNCATED;
}

size_t nla_last_sentence(const char *text)
{
	for (size_t n = strlen(text); n; n--) {
		bool quoted = n > 1 && strchr("\"')", text[n - 1]) && strchr(".!?", text[n - 2]);
		if ((strchr(".!?", text[n - 1]) || quoted) && (!text[n] || isspace((unsigned char)text[n])))
			return n;
	}
	return 0;
}
