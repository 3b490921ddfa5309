/* families - the models of tests/data/families, and copies of their files with a word of them changed. */
#pragma once

#include "model/golden.h"
#include "unit/st_write.h"

#define FAMILIES TEST_DATA "/families"

/* FILE of a family goes to the scratch folder, with `to` in the place of the first `from`; NULL: as it is. */
static inline void copy_to_scratch(const char *family, const char *file, const char *from, const char *to)
{
	struct nla_str text = NLA_STR_INIT, changed = NLA_STR_INIT;
	char *in = nla_format("%s/%s/%s", FAMILIES, family, file), *out = nla_path_join(scratch, file);
	assert_ok(nla_file_read(in, &text, &err));
	const char *at = from ? strstr(text.buf, from) : text.buf;
	assert_non_null(at);
	nla_str_addn(&changed, text.buf, (size_t)(at - text.buf));
	nla_str_add(&changed, to ? to : "");
	at += from ? strlen(from) : 0;
	nla_str_addn(&changed, at, text.len - (size_t)(at - text.buf));
	assert_ok(nla_file_write(out, changed.buf, changed.len, false, &err));
	nla_str_release(&text);
	nla_str_release(&changed);
	free(in);
	free(out);
}
