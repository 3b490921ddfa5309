#include "run/compose.h"

#include <string.h>

#include "base/rng.h"

enum { DRAW_END, DRAW_NEXT };

/* 1 to most, evenly. */
static int64_t draw(const struct nla_compose *c, int64_t number, uint32_t what, int64_t most)
{
	struct nla_rng rng = { c->seed, NLA_STREAM_COMPOSE };
	return 1 + NLA_MIN((int64_t)((double)nla_uniform(&rng, 0, (uint32_t)number, what) * (double)most), most - 1);
}

/* The last n words of a text, line breaks and runs of space made one space. */
static void add_end(struct nla_str *out, const char *text, int64_t n)
{
	static const char space[] = " \n\r\t";
	const char *from = text + strlen(text);
	for (; n > 0 && from > text; n--) {
		while (from > text && strchr(space, from[-1]))
			from--;
		while (from > text && !strchr(space, from[-1]))
			from--;
	}
	nla_str_addc(out, '"');
	for (const char *word = from + strspn(from, space); *word;) {
		size_t length = strcspn(word, space);
		nla_str_addn(out, word, length);
		word += length;
		word += strspn(word, space);
		nla_str_add(out, *word ? " " : "");
	}
	nla_str_addc(out, '"');
}

static void add_next(struct nla_str *out, const struct nla_strs *next, int64_t n)
{
	for (size_t i = 0; i < next->n && (int64_t)i < n; i++)
		nla_str_addf(out, "%s\"%s\"", i ? ", " : "", next->data[i] + strspn(next->data[i], " \n\r\t"));
}

enum nla_status nla_compose_check(const char *template, struct nla_err *err)
{
	static const char *const slots[] = { NLA_SLOT_ANSWER, NLA_SLOT_END, NLA_SLOT_NEXT };
	for (size_t i = 0; i < NLA_LEN(slots); i++) {
		const char *first = strstr(template, slots[i]);
		if ((i == 0 && !first) || (first && strstr(first + 1, slots[i])))
			return nla_usage(err, "'teach.explanation' has '%s' %s, want it %s", slots[i], first ? "more than once" : "nowhere",
					 i ? "once or not at all" : "once");
	}
	return NLA_OK;
}

char *nla_compose(const struct nla_compose *c, const struct nla_row *row, int64_t number, const char *answer)
{
	struct nla_str out = NLA_STR_INIT;
	for (const char *at = c->template; *at;) {
		if (nla_starts_with(at, NLA_SLOT_ANSWER)) {
			size_t n = strlen(answer);
			at += strlen(NLA_SLOT_ANSWER);
			nla_str_addn(&out, answer, n && *at == '.' && answer[n - 1] == '.' ? n - 1 : n);
		} else if (nla_starts_with(at, NLA_SLOT_END)) {
			add_end(&out, row->text, draw(c, number, DRAW_END, c->max_end));
			at += strlen(NLA_SLOT_END);
		} else if (nla_starts_with(at, NLA_SLOT_NEXT)) {
			add_next(&out, &row->next, draw(c, number, DRAW_NEXT, c->max_next));
			at += strlen(NLA_SLOT_NEXT);
		} else {
			nla_str_addc(&out, *at++);
		}
	}
	return nla_str_detach(&out);
}
