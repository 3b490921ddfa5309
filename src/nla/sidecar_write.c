/*
 * sidecar_write - nla_sidecar_write of sidecar.h: text with double-quoted scalars in which everything but printable ASCII is escaped, so
 * that no reader's idea of line folding, byte order marks or printable characters can change a template. Floats always have a point:
 * YAML 1.1 reads 1e-05 as a string.
 */
#include "nla/sidecar.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/utf8.h"

static enum nla_status add_str(struct nla_str *out, const char *key, const char *text, struct nla_err *err)
{
	size_t n = text ? strlen(text) : 0, len;
	uint32_t c;

	if (!text)
		return NLA_OK;
	nla_str_addf(out, "%s: \"", key);
	for (; n; text += len, n -= len) {
		if (!(len = nla_utf8_next(text, n, &c)))
			return nla_fail(err, "cannot write the sidecar: '%s' is not valid UTF-8", key + strspn(key, " "));
		if (c == '\n')
			nla_str_add(out, "\\n");
		else if (c == '"' || c == '\\')
			nla_str_addf(out, "\\%c", (char)c);
		else if (c >= ' ' && c < 0x7f)
			nla_str_addc(out, (char)c);
		else
			nla_str_addf(out, c < 0x10000 ? "\\u%04X" : "\\U%08X", c);
	}
	nla_str_add(out, "\"\n");
	return NLA_OK;
}

static void add_int(struct nla_str *out, const char *key, int64_t value)
{
	if (value >= 0)
		nla_str_addf(out, "%s: %" PRId64 "\n", key, value);
}

static void add_num(struct nla_str *out, const char *key, double value)
{
	char text[40];
	size_t digits;

	if (isnan(value))
		return;
	for (int precision = 15; precision <= 17; precision++) {
		snprintf(text, sizeof(text), "%.*g", precision, value);
		if (strtod(text, NULL) == value)
			break;
	}
	digits = strcspn(text, "e");
	nla_str_addf(out, "%s: %.*s%s%s\n", key, (int)digits, text, strchr(text, '.') ? "" : ".0", text + digits);
}

static void add_scale(struct nla_str *out, const char *key, const struct nla_scale *scale)
{
	if (scale->kind == NLA_SCALE_NUMBER)
		add_num(out, key, scale->value);
	else
		nla_str_addf(out, "%s: %s\n", key, scale->kind == NLA_SCALE_NULL ? "null" : "sqrt_d_model");
}

/* A section whose head stands alone (nothing below it was set) would read back as null: it is taken out again. */
static void section(struct nla_str *out, const char *head, size_t *start)
{
	*start = out->len;
	nla_str_addf(out, "%s:\n", head);
}

static void section_end(struct nla_str *out, const char *head, size_t start)
{
	if (out->len == start + strlen(head) + 2) {
		out->len = start;
		out->buf[start] = '\0';
	}
}

static enum nla_status write_tokens(struct nla_str *out, const struct nla_sidecar *s, struct nla_err *err)
{
	size_t start;

	section(out, "tokens", &start);
	if (add_str(out, "  injection_char", s->marker, err))
		return err->status;
	add_int(out, "  injection_token_id", s->marker_id);
	add_int(out, "  injection_left_neighbor_id", s->left_id);
	add_int(out, "  injection_right_neighbor_id", s->right_id);
	if (s->suffix.n) {
		nla_str_add(out, "  critic_suffix_ids: [");
		for (size_t i = 0; i < s->suffix.n; i++)
			nla_str_addf(out, "%s%" PRId32, i ? ", " : "", s->suffix.data[i]);
		nla_str_add(out, "]\n");
	}
	add_int(out, "  tokenizer_crc", s->tokenizer_crc);
	section_end(out, "tokens", start);
	section(out, "prompt_templates", &start);
	if (add_str(out, "  av", s->av_template, err) || add_str(out, "  ar", s->ar_template, err))
		return err->status;
	section_end(out, "prompt_templates", start);
	return NLA_OK;
}

enum nla_status nla_sidecar_write(const struct nla_sidecar *s, const char *folder, struct nla_err *err)
{
	struct nla_str out = NLA_STR_INIT;
	char *path = nla_path_join(folder, NLA_SIDECAR_NAME);
	enum nla_status status;
	size_t start;

	status = add_str(&out, "kind", s->kind, err);
	nla_str_add(&out, "schema_version: 2\n");
	if (status || (status = add_str(&out, "role", s->role, err)) || (status = add_str(&out, "stage", s->stage, err)) ||
	    (status = add_str(&out, "base_checkpoint", s->base_checkpoint, err)) ||
	    (status = add_str(&out, "base_folder", s->base_folder, err)))
		goto out;
	add_int(&out, "d_model", s->d_model);
	nla_str_add(&out, "extraction:\n");
	add_int(&out, "  d_model", s->d_model); /* where readers of nla_dataset files look */
	add_int(&out, "  layer_index", s->layer);
	nla_str_add(&out, "  norm: none\n"); /* of the stored vectors */
	add_scale(&out, "  injection_scale", &s->injection_scale);
	add_scale(&out, "  mse_scale", &s->mse_scale);
	nla_str_addf(&out, "  injection_mode: %s\n",
		     s->inject == NLA_INJECT_EMBED_REPLACE ? "embed_replace" : "residual_add");
	status = write_tokens(&out, s, err);
	if (status)
		goto out;
	if (s->critic_layer >= 0)
		nla_str_addf(&out, "critic:\n  extraction_layer_index: %" PRId64 "\n%s", s->critic_layer,
			     s->final_norm ? "  final_norm: true\n" : "");
	section(&out, "baseline", &start);
	add_num(&out, "  raw_variance", s->baseline_var);
	add_num(&out, "  mean_normalised", s->baseline_mean);
	section_end(&out, "baseline", start);
	add_int(&out, "row_count", s->n_rows);
	status = nla_file_write(path, out.buf, out.len, false, err);
out:
	free(path);
	nla_str_release(&out);
	return status;
}
