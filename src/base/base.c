/*
 * base - errors, strings, arrays, memory. See base.h.
 *
 * Arrays and strings grow by half, so that n additions cost O(n). A string without memory has cap 0 and points at one shared
 * NUL that is never written, so that a new string can be printed.
 */
#include "base/base.h"

#include <locale.h>

char nla_str_empty[1];

/* A message is one line, whatever line breaks a quoted name has. */
static void print_line(char *text, size_t size, const char *fmt, va_list ap)
{
	vsnprintf(text, size, fmt, ap);
	for (; *text; text++)
		if ((unsigned char)*text < ' ')
			*text = ' ';
}

/* The text goes through a buffer of its own: an argument may be the old text. */
enum nla_status nla_err_set(struct nla_err *err, enum nla_status status, const char *fmt, ...)
{
	char text[sizeof(err->text)];
	va_list ap;
	va_start(ap, fmt);
	print_line(text, sizeof(text), fmt, ap);
	va_end(ap);
	memcpy(err->text, text, sizeof(text));
	return err->status = status;
}

/* The cause is at the end: a text too long for the buffer loses part of its prefix instead. */
enum nla_status nla_err_context(struct nla_err *err, const char *fmt, ...)
{
	char prefix[sizeof(err->text)];
	size_t size = strlen(err->text) + 1, room = sizeof(err->text) - size;
	va_list ap;
	if (err->status == NLA_OK)
		NLA_BUG("context added to no error: '%s'", fmt);
	va_start(ap, fmt);
	print_line(prefix, sizeof(prefix), fmt, ap);
	va_end(ap);
	size_t n = room > 2 ? NLA_MIN(strlen(prefix), room - 2) : 0;
	if (n) {
		memmove(err->text + n + 2, err->text, size);
		memcpy(err->text, prefix, n);
		memcpy(err->text + n, ": ", 2);
	}
	return err->status;
}

_Noreturn void nla_bug(const char *file, int line, const char *fmt, ...)
{
	va_list ap;
	fprintf(stderr, "BUG: %s:%d: ", file, line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	fflush(stderr);
	abort();
}

void nla_free_at(void *pointer) { free(*(void **)pointer); }

static _Noreturn void out_of_memory(size_t n, size_t size)
{
	fprintf(stderr, "%s: out of memory: cannot allocate %zu times %zu bytes\n", program_invocation_short_name, n, size);
	_exit(1);
}

void *nla_alloc(size_t n, size_t size)
{
	void *p = calloc(NLA_MAX(n, 1), NLA_MAX(size, 1));
	if (!p)
		out_of_memory(n, size);
	return p;
}

void *nla_realloc(void *p, size_t n, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(NLA_MAX(n, 1), NLA_MAX(size, 1), &bytes) || !(p = realloc(p, bytes)))
		out_of_memory(n, size);
	return p;
}

char *nla_strdup(const char *s) { return nla_strndup(s, strlen(s)); }

char *nla_strndup(const char *s, size_t n)
{
	size_t len = strnlen(s, n);
	char *copy = nla_alloc(len + 1, 1);
	memcpy(copy, s, len);
	return copy;
}

char *nla_format(const char *fmt, ...)
{
	struct nla_str s = NLA_STR_INIT;
	NLA_STR_ADD_ARGS(&s, fmt);
	return nla_str_detach(&s);
}

void nla_str_init(struct nla_str *s) { *s = (struct nla_str)NLA_STR_INIT; }

void nla_str_release(struct nla_str *s)
{
	if (s->cap)
		free(s->buf);
	nla_str_init(s);
}

void nla_str_reset(struct nla_str *s)
{
	s->len = 0;
	if (s->cap)
		s->buf[0] = '\0';
}

void *nla_grow(void *data, size_t n, size_t extra, size_t *cap, size_t size)
{
	size_t want;
	if (__builtin_add_overflow(n, extra, &want))
		NLA_BUG("array of %zu cannot grow by %zu", n, extra);
	if (want <= *cap)
		return data;
	*cap = NLA_MAX(NLA_MAX(want, *cap + *cap / 2), 16);
	return nla_realloc(data, *cap, size);
}

void nla_str_addn(struct nla_str *s, const void *bytes, size_t n)
{
	s->buf = nla_grow(s->cap ? s->buf : NULL, s->len + 1, n, &s->cap, 1);
	if (n)
		memcpy(s->buf + s->len, bytes, n);
	s->len += n;
	s->buf[s->len] = '\0';
}

void nla_str_add(struct nla_str *s, const char *text) { nla_str_addn(s, text, strlen(text)); }

void nla_str_addc(struct nla_str *s, char c) { nla_str_addn(s, &c, 1); }

void nla_str_addv(struct nla_str *s, const char *fmt, va_list ap)
{
	char *text;
	int n = vasprintf(&text, fmt, ap);
	if (n < 0)
		NLA_BUG("cannot format '%s'", fmt);
	nla_str_addn(s, text, (size_t)n);
	free(text);
}

void nla_str_addf(struct nla_str *s, const char *fmt, ...)
{
	NLA_STR_ADD_ARGS(s, fmt);
}

char *nla_quoted(const char *word)
{
	static const char plain[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz%+,-./:=@_";
	const char *quote = *word && !word[strspn(word, plain)] ? "" : "'";
	struct nla_str s = NLA_STR_INIT;
	nla_str_add(&s, quote);
	for (const char *c = word; *c; c++)
		nla_str_addf(&s, *c == '\'' ? "'\\%c'" : "%c", *c);
	nla_str_add(&s, quote);
	return nla_str_detach(&s);
}

char *nla_str_detach(struct nla_str *s)
{
	char *buf = s->cap ? s->buf : nla_alloc(1, 1);
	nla_str_init(s);
	return buf;
}

bool nla_starts_with(const char *s, const char *prefix) { return !strncmp(s, prefix, strlen(prefix)); }

bool nla_ends_with(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);
	return n >= m && !memcmp(s + n - m, suffix, m);
}

char *nla_word_at(const char *words, int index)
{
	for (int i = 0; i < index && words; i++)
		words = (words = strchr(words, '|')) ? words + 1 : NULL;
	if (index < 0 || !words)
		NLA_BUG("there is no choice %d", index);
	return nla_strndup(words, strcspn(words, "|"));
}

int nla_word_index(const char *words, const char *word)
{
	size_t n = strlen(word);
	for (int i = 0; words; i++) {
		if (strcspn(words, "|") == n && !memcmp(words, word, n))
			return i;
		words = (words = strchr(words, '|')) ? words + 1 : NULL;
	}
	return -1;
}

/* Edits (insert, delete, replace) from a to b; row holds strlen(b) + 1 numbers. */
static size_t edit_distance(const char *a, const char *b, size_t *row)
{
	size_t m = strlen(b);
	for (size_t j = 0; j <= m; j++)
		row[j] = j;
	for (size_t i = 1; *a; i++, a++) {
		size_t corner = row[0];
		row[0] = i;
		for (size_t j = 1; j <= m; j++) {
			size_t above = row[j], d = corner + (*a != b[j - 1]);
			row[j] = NLA_MIN(d, NLA_MIN(above, row[j - 1]) + 1);
			corner = above;
		}
	}
	return row[m];
}

static const char *last_part(const char *name)
{
	const char *dot = strrchr(name, '.');
	return dot ? dot + 1 : name;
}

/* Close is: at most one edit for every three letters of the word, rounded up, and not all of it. */
const char *nla_nearest(const char *word, const struct nla_strs *names)
{
	word = last_part(word);
	size_t length = strlen(word), best = NLA_MIN((length + 2) / 3 + 1, length);
	const char *nearest = NULL;
	for (size_t i = 0; i < names->n; i++) {
		const char *name = last_part(names->data[i]);
		size_t *row = nla_alloc(strlen(name) + 1, sizeof(*row)), d = edit_distance(word, name, row);
		free(row);
		if (d < best) {
			best = d;
			nearest = names->data[i];
		}
	}
	return nearest;
}

#define ARRAY_VERBS(name, type)                                                \
	void name##_append(struct name *a, const type *values, size_t n)       \
	{                                                                      \
		a->data = nla_grow(a->data, a->n, n, &a->cap, sizeof(type)); \
		if (n)                                                         \
			memcpy(a->data + a->n, values, n * sizeof(type));      \
		a->n += n;                                                     \
	}                                                                      \
	void name##_push(struct name *a, type value) { name##_append(a, &value, 1); } \
	void name##_release(struct name *a)                                    \
	{                                                                      \
		free(a->data);                                                 \
		*a = (struct name){ 0 };                                       \
	}

ARRAY_VERBS(nla_i32s, int32_t)
ARRAY_VERBS(nla_i64s, int64_t)
ARRAY_VERBS(nla_f32s, float)

bool nla_i32s_has(const struct nla_i32s *a, int32_t value)
{
	size_t i = 0;
	while (i < a->n && a->data[i] != value)
		i++;
	return i < a->n;
}

void nla_strs_push(struct nla_strs *a, const char *s)
{
	a->data = nla_grow(a->data, a->n, 1, &a->cap, sizeof(*a->data));
	a->data[a->n++] = nla_strdup(s);
}

void nla_strs_release(struct nla_strs *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->data[i]);
	free(a->data);
	*a = (struct nla_strs){ 0 };
}

double nla_strtod(const char *text, char **end)
{
	const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	const double x = strtod_l(text, end, c);
	freelocale(c);
	return x;
}

int nla_by_number(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

int nla_by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

double nla_seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
