/*
 * base - what every layer uses: errors, strings, arrays, memory.
 *
 * Every function that can fail returns enum nla_status (0 is success) and takes a struct nla_err as its last parameter.
 * Calls chain with || into one `out:` label; a caller adds context on the way up:
 *
 *	if (nla_file_read(path, &buf, err) || parse(&buf, err))
 *		return nla_err_context(err, "cannot load config '%s'", path);
 *
 * Libraries never print and never exit. A broken assumption of ours is NLA_BUG(); bad input is always an error.
 */
#pragma once

/* The C library for all: a file below includes what is not here. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum nla_status {
	NLA_OK = 0,
	NLA_FAIL,  /* the work could not be done: exit code 1                   */
	NLA_USAGE, /* the user asked for something that makes no sense: exit 2  */
	NLA_NOMEM, /* out of device or host memory: exit 1, text says what to lower */
	NLA_STOPPED, /* a signal ended it, its work is saved: exit 3            */
};

/* An error: status and one line of text: lower case, no full stop, what failed, quoted subject, why. */
struct nla_err {
	enum nla_status status;
	char text[1024];
};

#define NLA_ERR_INIT { NLA_OK, "" }
#define NLA_IGNORED (&(struct nla_err)NLA_ERR_INIT) /* where a failure changes nothing */
#define NLA_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Set the error and return its status, so that `return nla_fail(err, ...)` reads well. err is never NULL. */
#define nla_fail(err, ...) nla_err_set(err, NLA_FAIL, __VA_ARGS__)
#define nla_usage(err, ...) nla_err_set(err, NLA_USAGE, __VA_ARGS__)
enum nla_status nla_err_set(struct nla_err *err, enum nla_status status, const char *fmt, ...) NLA_PRINTF(3, 4);
/* Prefix the text: "PREFIX: TEXT". Keeps the status and returns it. */
enum nla_status nla_err_context(struct nla_err *err, const char *fmt, ...) NLA_PRINTF(2, 3);

/* Our own mistake: says where on stderr and aborts. Never for bad input. */
#define NLA_BUG(...) nla_bug(__FILE__, __LINE__, __VA_ARGS__)
_Noreturn void nla_bug(const char *file, int line, const char *fmt, ...) NLA_PRINTF(3, 4);

/*
 * Local variables that release themselves where their block ends, on every way out:
 *
 *	nla_auto char *path = nla_path_join(dir, name);
 *	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
 */
#define NLA_AUTO(release) __attribute__((cleanup(release)))
#define nla_auto NLA_AUTO(nla_free_at)
void nla_free_at(void *pointer); /* the address of what free() takes */

/* Memory: never NULL; when the host's runs out, the process says so and exits with 1. nla_alloc zeroes. */
void *nla_alloc(size_t n, size_t size);
void *nla_realloc(void *p, size_t n, size_t size);
char *nla_strdup(const char *s);
char *nla_strndup(const char *s, size_t n);
char *nla_format(const char *fmt, ...) NLA_PRINTF(1, 2); /* owned by the caller */

/*
 * struct nla_str: a growable byte string, always NUL-terminated behind len (it may hold NULs).
 *
 *	struct nla_str s = NLA_STR_INIT;
 *	nla_str_addf(&s, "%s.%d", name, i);
 *	use(s.buf);
 *	nla_str_release(&s);
 */
struct nla_str {
	char *buf; /* never NULL */
	size_t len, cap;
};
extern char nla_str_empty[];
#define NLA_STR_INIT { nla_str_empty, 0, 0 }

void nla_str_init(struct nla_str *s);
void nla_str_release(struct nla_str *s); /* back to the initial state */
void nla_str_reset(struct nla_str *s);   /* empty, memory kept */
void nla_str_add(struct nla_str *s, const char *text);
void nla_str_addn(struct nla_str *s, const void *bytes, size_t n);
void nla_str_addc(struct nla_str *s, char c);
void nla_str_addf(struct nla_str *s, const char *fmt, ...) NLA_PRINTF(2, 3);
char *nla_quoted(const char *word); /* as it is typed into a shell: in quotes where it needs them; owned */
void nla_str_addv(struct nla_str *s, const char *fmt, va_list ap) NLA_PRINTF(2, 0);
#define NLA_STR_ADD_ARGS(s, fmt) /* in a function with ... behind fmt: these */ \
	do {                             \
		va_list ap;              \
		va_start(ap, fmt);       \
		nla_str_addv(s, fmt, ap); \
		va_end(ap);              \
	} while (0)
char *nla_str_detach(struct nla_str *s); /* hand over the buffer; caller frees */

bool nla_starts_with(const char *s, const char *prefix);
bool nla_ends_with(const char *s, const char *suffix);
/* In a '|'-separated list: the place of word, -1 when it is not there; and the word at a place. */
int nla_word_index(const char *words, const char *word);
char *nla_word_at(const char *words, int index); /* owned by the caller */

/* Growable arrays: struct nla_i32s ids = {0}; nla_i32s_push(&ids, 7); use ids.data[0..n); nla_i32s_release(&ids). */
#define NLA_ARRAY(name, type)                          \
	struct name {                                  \
		type *data;                            \
		size_t n, cap;                         \
	};                                             \
	void name##_push(struct name *a, type value);  \
	void name##_append(struct name *a, const type *values, size_t n); \
	void name##_release(struct name *a)

NLA_ARRAY(nla_i32s, int32_t);
NLA_ARRAY(nla_i64s, int64_t);
NLA_ARRAY(nla_f32s, float);
bool nla_i32s_has(const struct nla_i32s *a, int32_t value);
/* Room for `extra` elements behind n of data, which is reallocated where *cap is too small; NULL at first. */
void *nla_grow(void *data, size_t n, size_t extra, size_t *cap, size_t size);

/* Growable array of owned strings. push copies. */
struct nla_strs {
	char **data;
	size_t n, cap;
};
void nla_strs_push(struct nla_strs *a, const char *s);
void nla_strs_release(struct nla_strs *a);
/* The name whose part after its last dot is nearest to that of word by edits, NULL when none is close. For "did you mean". */
const char *nla_nearest(const char *word, const struct nla_strs *names);

#define NLA_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define NLA_MIN(a, b) ((a) < (b) ? (a) : (b))
#define NLA_MAX(a, b) ((a) > (b) ? (a) : (b))

/* strtod of the C locale: a program that embeds us may have set another. */
double nla_strtod(const char *text, char **end);
/* For qsort and bsearch: int64_t ascending; strings (char *), or structs whose first field is one, by bytes. */
int nla_by_number(const void *a, const void *b);
int nla_by_text(const void *a, const void *b);

double nla_seconds(void); /* monotonic clock */
