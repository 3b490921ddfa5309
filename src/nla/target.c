#include "nla/target.h"

#include <stdlib.h>
#include <string.h>

enum nla_status nla_target_open(struct nla_target *t, const char *folder, const struct nla_chat_cfg *chat, int device,
				nt_dtype dtype, int64_t random_seed, struct nla_err *err)
{
	memset(t, 0, sizeof(*t));
	t->folder = nla_strdup(folder);
	if (nla_tokenizer_load(&t->tok, folder, err) || nla_chat_load(&t->chat, folder, t->tok, chat, err))
		goto fail;
	if (random_seed >= 0 ? nla_lm_init(&t->lm, folder, (uint64_t)random_seed, device, dtype, err)
			     : nla_lm_load(&t->lm, folder, NULL, device, dtype, NLA_LM_AUTO, err))
		goto fail;
	if (nla_tokenizer_size(t->tok) > t->lm.arch.vocab) {
		nla_fail(err, "cannot load '%s': the tokenizer has %d ids, the model %lld", folder, (int)nla_tokenizer_size(t->tok),
			 (long long)t->lm.arch.vocab);
		goto fail;
	}
	return NLA_OK;
fail:
	nla_target_close(t);
	return err->status;
}

enum nla_status nla_target_describe(struct nla_target *t, const char *folder, const struct nla_chat_cfg *chat, struct nla_err *err)
{
	memset(t, 0, sizeof(*t));
	t->folder = nla_strdup(folder);
	if (nla_tokenizer_load(&t->tok, folder, err) || nla_chat_load(&t->chat, folder, t->tok, chat, err) ||
	    nla_arch_read(&t->lm.arch, folder, err))
		nla_target_close(t);
	return err->status;
}

void nla_target_close(struct nla_target *t)
{
	nla_lm_release(&t->lm);
	nla_chat_release(&t->chat);
	nla_tokenizer_free(t->tok);
	free(t->folder);
	memset(t, 0, sizeof(*t));
}

/* The token that the marker is in a text, -1 when it is several (n receives how many): what a byte-level vocabulary lists under the marker's own characters may
 * stand for other bytes. */
static int32_t marker_token(const struct nla_tokenizer *tok, const char *marker, size_t *n)
{
	struct nla_err ignored = NLA_ERR_INIT;
	struct nla_i32s ids = { 0 };
	int32_t id = !nla_tokenizer_encode(tok, marker, strlen(marker), &ids, &ignored) && ids.n == 1 ? ids.data[0] : -1;
	if (n)
		*n = ids.n;
	nla_i32s_release(&ids);
	return id;
}

enum nla_status nla_av_prompt(const struct nla_sidecar *meta, const struct nla_target *t, struct nla_i32s *ids, int64_t *marker,
			      struct nla_err *err)
{
	char *content = NULL;
	int32_t id = marker_token(t->tok, meta->marker, NULL);
	int n_found = 0;
	if (nla_template_fill(meta->av_template, "injection_char", meta->marker, &content, err) ||
	    nla_chat_prompt(&t->chat, t->tok, content, ids, err)) {
		free(content);
		return err->status;
	}
	free(content);
	for (size_t i = 0; i < ids->n; i++)
		if (ids->data[i] == (meta->marker_id >= 0 ? meta->marker_id : id)) {
			*marker = (int64_t)i;
			n_found++;
		}
	if (n_found != 1)
		return nla_fail(err, "the AV prompt holds the marker '%s' %d times as one token (id %d expected, the tokenizer gives %d): want it once",
				meta->marker, n_found, (int)meta->marker_id, (int)id);
	return NLA_OK;
}

static enum nla_status check_marker(const struct nla_sidecar *meta, const struct nla_target *t, const char *path, struct nla_err *err)
{
	struct nla_i32s ids = { 0 };
	int64_t at = 0;
	int32_t live = marker_token(t->tok, meta->marker, NULL);
	if (live >= 0 && meta->marker_id >= 0 && live != meta->marker_id) {
		nla_fail(err, "'%s': injection_token_id is %d, the tokenizer gives marker '%s' the id %d", path, (int)meta->marker_id,
			 meta->marker, (int)live);
	} else if (nla_av_prompt(meta, t, &ids, &at, err)) {
		nla_err_context(err, "'%s'", path);
	} else {
		int32_t left = at > 0 ? ids.data[at - 1] : -1, right = at + 1 < (int64_t)ids.n ? ids.data[at + 1] : -1;
		if ((meta->left_id >= 0 && left != meta->left_id) || (meta->right_id >= 0 && right != meta->right_id))
			nla_fail(err, "'%s': the marker's neighbours have ids %d and %d, the sidecar says %d and %d (another tokenizer or template?)",
				 path, (int)left, (int)right, (int)meta->left_id, (int)meta->right_id);
	}
	nla_i32s_release(&ids);
	return err->status;
}

static enum nla_status ar_ids(const struct nla_sidecar *meta, const struct nla_target *t, const char *explanation, struct nla_i32s *ids,
			      struct nla_err *err)
{
	char *text = NULL;
	if (!nla_template_fill(meta->ar_template, "explanation", explanation, &text, err))
		nla_tokenizer_encode(t->tok, text, strlen(text), ids, err);
	free(text);
	return err->status;
}

static bool ends_with_ids(const struct nla_i32s *ids, const struct nla_i32s *tail)
{
	return ids->n >= tail->n && !memcmp(ids->data + ids->n - tail->n, tail->data, tail->n * sizeof(*tail->data));
}

static enum nla_status check_suffix(const struct nla_sidecar *meta, const struct nla_target *t, const char *path, struct nla_err *err)
{
	struct nla_i32s ids = { 0 };
	if (ar_ids(meta, t, "probe", &ids, err)) {
		nla_err_context(err, "'%s'", path);
	} else if (meta->suffix.n && !ends_with_ids(&ids, &meta->suffix)) {
		struct nla_str want = NLA_STR_INIT, have = NLA_STR_INIT;
		for (size_t i = 0; i < meta->suffix.n; i++) {
			nla_str_addf(&want, " %d", (int)meta->suffix.data[i]);
			if (ids.n >= meta->suffix.n)
				nla_str_addf(&have, " %d", (int)ids.data[ids.n - meta->suffix.n + i]);
		}
		nla_fail(err, "'%s': the AR prompt ends in ids%s, critic_suffix_ids says%s (another tokenizer or template?)", path, have.buf,
			 want.buf);
		nla_str_release(&want);
		nla_str_release(&have);
	}
	nla_i32s_release(&ids);
	return err->status;
}

enum nla_status nla_contract_check(const struct nla_sidecar *meta, const struct nla_target *t, const char *path, struct nla_err *err)
{
	if (meta->d_model != t->lm.arch.d_model)
		return nla_fail(err, "'%s': d_model is %lld, the model's width is %lld", path, (long long)meta->d_model,
				(long long)t->lm.arch.d_model);
	if (nla_sidecar_block(meta) >= t->lm.arch.n_layers)
		return nla_fail(err, "'%s': %s is %lld, the model has blocks 0 to %lld", path,
				meta->critic_layer >= 0 ? "critic.extraction_layer_index" : "layer_index", (long long)nla_sidecar_block(meta),
				(long long)t->lm.arch.n_layers - 1);
	if (meta->tokenizer_crc >= 0 && (uint32_t)meta->tokenizer_crc != nla_tokenizer_crc(t->tok))
		return nla_fail(err, "'%s': was made with another tokenizer than '%s' (checksums %08x and %08x)", path, t->folder,
				(unsigned)meta->tokenizer_crc, (unsigned)nla_tokenizer_crc(t->tok));
	if (meta->av_template && meta->marker && check_marker(meta, t, path, err))
		return err->status;
	if (meta->ar_template && check_suffix(meta, t, path, err))
		return err->status;
	return NLA_OK;
}

enum nla_status nla_contract_fits(const struct nla_sidecar *meta, const struct nla_target *t, const struct nla_sidecar *av,
				  const struct nla_sidecar *ar, const char *path, struct nla_err *err)
{
	const struct nla_sidecar *with[] = { av, ar };
	if (nla_contract_check(meta, t, path, err))
		return err->status;
	for (size_t i = 0; i < NLA_LEN(with); i++) {
		int64_t ours = nla_sidecar_block(meta), theirs = with[i] ? nla_sidecar_block(with[i]) : -1;
		if (ours >= 0 && theirs >= 0 && ours != theirs)
			return nla_fail(err, "'%s' is of block %lld, the %s of block %lld", path, (long long)ours, i ? "AR" : "AV",
					(long long)theirs);
	}
	return NLA_OK;
}

/* The ids that the AR prompt ends in whatever the explanation is: the common tail of two. */
static enum nla_status make_suffix(struct nla_sidecar *meta, const struct nla_target *t, struct nla_err *err)
{
	struct nla_i32s a = { 0 }, b = { 0 };
	if (!ar_ids(meta, t, "one", &a, err) && !ar_ids(meta, t, "2)", &b, err)) {
		size_t n = 0;
		while (n < a.n && n < b.n && a.data[a.n - 1 - n] == b.data[b.n - 1 - n])
			n++;
		nla_i32s_release(&meta->suffix);
		nla_i32s_append(&meta->suffix, a.data + a.n - n, n);
		if (n == 0)
			nla_fail(err, "the AR template must end in text behind {explanation}");
	}
	nla_i32s_release(&a);
	nla_i32s_release(&b);
	return err->status;
}

enum nla_status nla_contract_make(struct nla_sidecar *meta, const struct nla_target *t, struct nla_err *err)
{
	struct nla_i32s ids = { 0 };
	int64_t at = 0;
	size_t n_marker;
	meta->marker_id = marker_token(t->tok, meta->marker, &n_marker);
	if (meta->marker_id < 0)
		return nla_fail(err, "the marker '%s' is %zu tokens: choose one that is a single token", meta->marker, n_marker);
	if (nla_av_prompt(meta, t, &ids, &at, err) || make_suffix(meta, t, err))
		goto out;
	meta->left_id = at > 0 ? ids.data[at - 1] : -1;
	meta->right_id = at + 1 < (int64_t)ids.n ? ids.data[at + 1] : -1;
	meta->tokenizer_crc = nla_tokenizer_crc(t->tok);
	meta->d_model = t->lm.arch.d_model;
out:
	nla_i32s_release(&ids);
	return err->status;
}
