/*
 * actset_explain - an activation set with other explanations: see actset.h. Nothing of the source is written to, and a name in the new
 * folder is only ever replaced by a whole file, so a set that is there stays one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "nla/actset_impl.h"

static enum nla_status copy_file(const char *from, const char *to, struct nla_err *err)
{
	struct nla_map map;

	if (nla_map_open(&map, from, err))
		return err->status;
	nla_file_write(to, map.data, map.size, false, err);
	nla_map_close(&map);
	return err->status;
}

/* The link gets a name of its own first: link() does not replace. */
static enum nla_status share_file(const char *from, const char *to, struct nla_err *err)
{
	char *tmp = nla_format("%s.tmp", to);

	unlink(tmp);
	if (linkat(AT_FDCWD, from, AT_FDCWD, tmp, AT_SYMLINK_FOLLOW))
		copy_file(from, to, err); /* another file system, or one without hard links */
	else if (rename(tmp, to))
		nla_fail(err, "cannot rename '%s' to '%s': %s", tmp, to, strerror(errno));
	unlink(tmp); /* rename() leaves it when both are links to one file */
	free(tmp);
	return err->status;
}

static enum nla_status share_data(const char *from, const char *to, struct nla_err *err)
{
	struct nla_strs names = { 0 };

	if (nla_list_dir(from, &names, err))
		return err->status;
	for (size_t i = 0; i < names.n && !err->status; i++) {
		char *a = nla_path_join(from, names.data[i]), *b = nla_path_join(to, names.data[i]);

		if (nla_actset_is_data(names.data[i]))
			share_file(a, b, err);
		free(a);
		free(b);
	}
	nla_strs_release(&names);
	return err->status;
}

static enum nla_status add_explained(struct nla_str *rows, const char *line, size_t n, const char *explanation, const char *path,
				     struct nla_err *err)
{
	cJSON *json, *value;

	if (nla_json_parse(line, n, path, &json, err))
		return err->status;
	value = cJSON_CreateString(explanation);
	if (cJSON_GetObjectItemCaseSensitive(json, "explanation"))
		cJSON_ReplaceItemInObjectCaseSensitive(json, "explanation", value);
	else
		cJSON_AddItemToObject(json, "explanation", value);
	nla_json_add(rows, json, false, 0);
	cJSON_Delete(json);
	return NLA_OK;
}

static enum nla_status write_rows(const struct nla_actset *set, const char *to, char *const *explanation, struct nla_err *err)
{
	char *from = nla_path_join(set->path, ROWS_NAME), *path = nla_path_join(to, ROWS_NAME);
	struct nla_str rows = NLA_STR_INIT;
	struct nla_lines lines;
	const char *line;

	if (nla_lines_open(&lines, from, err))
		goto out;
	for (int64_t i = 0; i < set->n && !err->status && (line = nla_lines_next(&lines)); i++) {
		if (explanation[i])
			add_explained(&rows, line, lines.line.len, explanation[i], from, err);
		else
			nla_str_addn(&rows, line, lines.line.len);
		nla_str_addc(&rows, '\n');
	}
	if (!nla_lines_close(&lines, err) && !err->status)
		nla_file_write(path, rows.buf, rows.len, true, err);
out:
	nla_str_release(&rows);
	free(from);
	free(path);
	return err->status;
}

enum nla_status nla_actset_explain(const struct nla_actset *from, const char *to, char *const *explanation, struct nla_err *err)
{
	char *meta = nla_path_join(from->path, META_NAME), *copy = nla_path_join(to, META_NAME);

	if (!nla_mkdirs(to, err) && !share_data(from->path, to, err) && !write_rows(from, to, explanation, err))
		copy_file(meta, copy, err);
	free(meta);
	free(copy);
	return err->status;
}
