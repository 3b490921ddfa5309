/*
 * chat_impl - what chat.c, chat_template.c and chat_printed.c share; nobody else includes it.
 */
#ifndef NLA_CHAT_IMPL_H
#define NLA_CHAT_IMPL_H

#include "text/chat.h"

/* One row a format: what stands around each part of a prompt. */
struct nla_chat_row {
	const char *name;
	const char *bos;         /* where there is no template to say                        */
	const char *system[2];   /* around the system text                                   */
	const char *user[2];     /* around the content                                       */
	const char *open;        /* opens the assistant's turn                               */
	const char *end;         /* the token that ends a turn                               */
	const char *tokens[3];   /* each must be one token of the tokenizer                  */
	const char *texts[3];    /* literals of every template of the format                 */
	bool strip;              /* where there is no template to say                        */
	bool system_in_user;     /* the system text is the beginning of the user's message   */
	bool told_by_tokens;     /* a tokenizer that has the tokens is of this format        */
};

#define NLA_CHAT_ROWS 4
extern const struct nla_chat_row nla_chat_rows[NLA_CHAT_ROWS]; /* by enum nla_chat_format; [NLA_CHAT_AUTO] is empty */

/* What a template prints for a user's message (chat_printed.c). */
#define NLA_CHAT_VALUE '\1' /* in the text: a value       */
#define NLA_CHAT_TAG '\2'   /* a tag: what follows may not */
#define NLA_CHAT_BOS '\3'   /* bos_token     */
#define NLA_CHAT_FILTER '\4' /* what was printed goes through a filter */
struct nla_chat_printed {
	struct nla_str text;
	bool bos;     /* bos_token is printed                */
	bool strip;   /* a message's white space is stripped */
	bool changed; /* a message is changed in another way */
};
void nla_chat_print(struct nla_chat_printed *p, const char *source); /* release p->text */
/* A quoted string at s, appended without its quotes. Returns the bytes up to and including the closing quote. */
size_t nla_chat_quoted(const char *s, struct nla_str *text);
/* Bytes from s, in a tag or expression, to the bracket that closes it. */
size_t nla_chat_tag_length(const char *s);

/* What a checkpoint's template says. */
struct nla_chat_template {
	char *path;            /* the file it stands in; NULL: the checkpoint has none            */
	enum nla_chat_format format;
	bool strip, bos;       /* it strips a user's message, it prints bos_token                 */
	bool bos_literal;      /* it prints the format's bos in so many letters                   */
	char *bos_text;        /* bos_token, as transformers finds it; NULL: there is none        */
	bool llama_class;      /* LlamaTokenizer, whose bos_token is <s> where nothing else says  */
	char *system;          /* text of the system turn when none is asked for; NULL: no turn   */
	char *system_head;     /* what it puts at the head of every system text; NULL: nothing    */
	bool system_unclear;   /* there is a default, and no telling when it is used              */
};

/* format: AUTO, or the one that the user asked for, and then a template of another format counts as none. */
enum nla_status nla_chat_template_read(struct nla_chat_template *t, const char *folder, enum nla_chat_format format,
				       struct nla_err *err);
void nla_chat_template_release(struct nla_chat_template *t);

#endif
