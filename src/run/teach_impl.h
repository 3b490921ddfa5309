/* What the files of teach share. */
#ifndef NLA_TEACH_IMPL_H
#define NLA_TEACH_IMPL_H

#include "run/compose.h"
#include "run/teach.h"

#define NLA_SLOT_TEXT "{text}"

/* A line of teach.jsonl. */
struct nla_answer {
	int64_t row, try, tokens, left;
	enum nla_unfit unfit;
	char *text;
};
void nla_teach_add_line(struct nla_str *out, const struct nla_answer *a);
/* What an answer means for its row: the first that serves, else the first truncated one with a whole sentence. */
void nla_teach_take(struct nla_teach *t, const struct nla_answer *a);

#endif
