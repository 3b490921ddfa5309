/* corpus - see corpus.h. */
#include "text/corpus.h"

#include <sys/stat.h>

#include "base/json.h"
#include "base/utf8.h"

#define SEPARATOR "<|doc|>"

static bool is_jsonl(const char *name)
{
	return nla_ends_with(name, ".jsonl") || nla_ends_with(name, ".jsonl.gz");
}

static bool is_known(const char *name)
{
	return is_jsonl(name) || nla_ends_with(name, ".txt") || nla_ends_with(name, ".txt.gz");
}

static double size_of(const char *path)
{
	struct stat st;
	return stat(path, &st) ? 0 : (double)st.st_size;
}

enum nla_status nla_corpus_open(struct nla_corpus *c, const char *path, struct nla_err *err)
{
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	memset(c, 0, sizeof(*c));
	if (!nla_exists(path))
		return nla_fail(err, "cannot open corpus '%s': no such file or folder", path);
	if (!nla_is_dir(path)) {
		if (!is_known(path))
			return nla_fail(err, "cannot open corpus '%s': its name must end in .txt or .jsonl, or these with .gz",
					path);
		nla_strs_push(&c->files, path);
		c->bytes = size_of(path);
		return NLA_OK;
	}
	if (nla_list_dir(path, &names, err))
		return err->status;
	for (size_t i = 0; i < names.n; i++) {
		nla_auto char *file = nla_path_join(path, names.data[i]);
		if (is_known(file) && names.data[i][0] != '.' && !nla_is_dir(file)) {
			nla_strs_push(&c->files, file);
			c->bytes += size_of(file);
		}
	}
	if (!c->files.n)
		return nla_fail(err, "cannot open corpus '%s': no file in it ends in .txt or .jsonl, or these with .gz", path);
	return NLA_OK;
}

double nla_corpus_share(const struct nla_corpus *c)
{
	return NLA_MIN(1, (c->done + (c->open ? (double)nla_lines_at(&c->lines) : 0)) / NLA_MAX(c->bytes, 1));
}

static void clear_doc(struct nla_corpus *c)
{
	free(c->doc.id);
	free(c->doc.text);
	free(c->doc.explanation);
	c->doc = (struct nla_doc){ .n_raw_tokens = -1 };
}

void nla_corpus_close(struct nla_corpus *c)
{
	if (c->open)
		nla_lines_close(&c->lines, NLA_IGNORED);
	nla_strs_release(&c->files);
	clear_doc(c);
	memset(c, 0, sizeof(*c));
}

/* The next line of the open file, of .jsonl that is not blank, checked; *line is NULL at its end. */
static enum nla_status next_line(struct nla_corpus *c, const char **line, struct nla_err *err)
{
	const struct nla_lines *l = &c->lines;
	*line = (c->jsonl ? nla_lines_next_filled : nla_lines_next)(&c->lines);
	if (!*line && l->why.status) { /* here, before what came of a document passes for the whole */
		c->open = false;
		return nla_lines_close(&c->lines, err);
	}
	if (!*line)
		return NLA_OK;
	if (memchr(*line, '\0', l->line.len))
		return nla_fail(err, "cannot read '%s': line %zu has a NUL byte", l->path, l->number);
	if (nla_utf8_valid(*line, l->line.len) < l->line.len)
		return nla_fail(err, "cannot read '%s': line %zu is not valid UTF-8", l->path, l->number);
	return NLA_OK;
}

static bool is_blank(const char *text)
{
	return !text[strspn(text, " \t\r\n\f\v")];
}

static char *numbered_id(const struct nla_corpus *c)
{
	return nla_format("%s:%" PRId64, nla_path_base(c->lines.path), c->n_in_file);
}

/* One document of the open file into c->doc; text stays NULL at the file's end. An empty one counts and comes out blank. */
static enum nla_status next_jsonl(struct nla_corpus *c, struct nla_err *err)
{
	const char *line, *text, *explanation;
	nla_auto_json cJSON *json = NULL;
	if (next_line(c, &line, err) || !line)
		return err->status;
	nla_auto char *name = nla_format("%s:%zu", c->lines.path, c->lines.number);
	c->n_in_file++;
	if (nla_json_parse(line, c->lines.line.len, name, &json, err) || nla_json_need_str(json, name, "text", &text, err) ||
	    nla_json_str(json, name, "explanation", NULL, &explanation, err) ||
	    nla_json_int(json, name, "n_raw_tokens", -1, &c->doc.n_raw_tokens, err))
		return err->status;
	const cJSON *id = nla_json_at(json, "doc_id");
	if (!id)
		c->doc.id = numbered_id(c);
	else if (cJSON_IsString(id))
		c->doc.id = nla_strdup(id->valuestring);
	else if (cJSON_IsNumber(id) && fabs(id->valuedouble) <= 0x1p53 && id->valuedouble == floor(id->valuedouble))
		c->doc.id = nla_format("%" PRId64, (int64_t)id->valuedouble);
	else
		nla_fail(err, "'%s': 'doc_id' is neither a string nor a whole number", name);
	c->doc.text = nla_strdup(text);
	c->doc.explanation = explanation ? nla_strdup(explanation) : NULL;
	return err->status;
}

static enum nla_status next_txt(struct nla_corpus *c, struct nla_err *err)
{
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT;
	const char *line;
	bool any = false;
	for (;;) {
		if (next_line(c, &line, err))
			return err->status;
		if (!line || !strcmp(line, SEPARATOR))
			break;
		if (any)
			nla_str_addc(&text, '\n');
		any = true;
		nla_str_add(&text, line);
	}
	if (!line && !any)
		return NLA_OK;
	while (text.len && (text.buf[text.len - 1] == '\n' || text.buf[text.len - 1] == '\r'))
		text.buf[--text.len] = '\0';
	c->n_in_file++;
	c->doc.id = numbered_id(c);
	c->doc.text = nla_str_detach(&text);
	return NLA_OK;
}

enum nla_status nla_corpus_next(struct nla_corpus *c, const struct nla_doc **doc, struct nla_err *err)
{
	*doc = NULL;
	for (;;) {
		clear_doc(c);
		if (!c->open) {
			if (c->next_file == c->files.n)
				return NLA_OK;
			if (nla_lines_open(&c->lines, c->files.data[c->next_file], err))
				return err->status;
			c->open = true;
			c->jsonl = is_jsonl(c->files.data[c->next_file++]);
			c->n_in_file = 0;
		}
		if (c->jsonl ? next_jsonl(c, err) : next_txt(c, err))
			return err->status;
		if (c->doc.text && !is_blank(c->doc.text)) {
			*doc = &c->doc;
			return NLA_OK;
		}
		if (!c->doc.text) {
			c->open = false;
			c->done += size_of(c->lines.path);
			if (nla_lines_close(&c->lines, err))
				return err->status;
		}
	}
}
