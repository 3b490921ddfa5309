/*
 * target - the model with tokenizer and chat format, and the prompts that a sidecar's templates give under them: rendered and
 * looked through in one place, nla_prompts_find; checking a sidecar and making one compare with what it finds.
 */
#include "nla/target.h"
#include "base/file.h"
#include "base/progress.h"
#include "lm/selfcheck.h"
#include "nla/folder.h"

/* Fills in from the sidecar of an AV what is auto: a file decides without it, and an AV that cannot be read is its loader's to
 * refuse. */
static void chat_like(struct nla_chat_cfg *use, const char *folder, struct nla_sidecar *av)
{
	if (!use->like || (use->file && *use->file) || nla_exists_in(folder, "nla_chat.json") ||
	    nla_sidecar_read(av, use->like, NLA_IGNORED) || !av->chat_format)
		return;
	if (use->format == NLA_CHAT_AUTO)
		use->format = NLA_MAX(nla_word_index(NLA_CHAT_FORMATS, av->chat_format), NLA_CHAT_AUTO);
	if (av->chat_system && !strcmp(use->system, "auto"))
		use->system = av->chat_system;
}

enum nla_status nla_target_describe(struct nla_target *t, const char *folder, const struct nla_chat_cfg *chat,
				    struct nla_err *err)
{
	struct nla_chat_cfg use = chat ? *chat : (struct nla_chat_cfg){ .system = "auto", .file = "" };
	NLA_AUTO(nla_sidecar_release) struct nla_sidecar av = { 0 };
	*t = (struct nla_target){ .folder = nla_strdup(folder), .add_special = use.add_special };
	chat_like(&use, folder, &av);
	if (nla_need_dir(folder, err))
		nla_err_context(err, "cannot load model '%s'", folder);
	else if (!nla_lm_describe(&t->lm, folder, NULL, err) && !nla_tokenizer_load(&t->tok, folder, err))
		nla_chat_load(&t->chat, folder, t->tok, &use, err);
	if (err->status)
		nla_target_close(t);
	return nla_folder_lead(err, folder, "config.json", "model");
}

enum nla_status nla_target_open(struct nla_target *t, const char *folder, const struct nla_chat_cfg *chat, int device,
				nt_dtype dtype, int64_t random_seed, struct nla_err *err)
{
	if (nla_target_describe(t, folder, chat, err))
		return err->status;
	if (random_seed >= 0)
		nla_lm_init(&t->lm, folder, (uint64_t)random_seed, device, dtype, err);
	else
		nla_lm_load(&t->lm, folder, NULL, device, dtype, NLA_LM_AUTO, err);
	if (!err->status && nla_tokenizer_size(t->tok) > t->lm.arch.vocab)
		nla_tokenizer_limit(t->tok, (int32_t)t->lm.arch.vocab);
	if (!err->status && device != NT_CPU) {
		if (*nt_kernels_off() && nla_starts_with(nt_device_name(device), "cuda")) /* the tests' has them if asked */
			nla_say("this GPU runs without our own kernels, which is slower: %s", nt_kernels_off());
		nla_selfcheck(&t->lm, NULL);
		if (nt_check())
			nla_nt_fail(err, "cannot check this GPU's operations");
	}
	if (!err->status && *nt_gpu_passed_over())
		nla_say("warning: this computes on the CPU, though there is a GPU's driver: %s", nt_gpu_passed_over());
	if (err->status)
		nla_target_close(t);
	return nla_folder_lead(err, folder, "config.json", "model");
}

void nla_target_close(struct nla_target *t)
{
	nla_lm_release(&t->lm);
	nla_chat_release(&t->chat);
	nla_tokenizer_free(t->tok);
	free(t->folder);
	memset(t, 0, sizeof(*t));
}

/* Is there a difference? */
bool nla_target_has_special(const struct nla_target *t)
{
	return nla_tokenizer_front(t->tok)->n || nla_tokenizer_behind(t->tok);
}

bool nla_target_adds_special(const struct nla_target *t, const struct nla_sidecar *meta)
{
	return nla_target_has_special(t) && (t->add_special ? t->add_special == 1 : !meta || meta->add_special != 0);
}

enum nla_status nla_target_encode(const struct nla_target *t, bool special, const char *text, struct nla_i32s *ids,
				  struct nla_err *err)
{
	const struct nla_i32s *front = nla_tokenizer_front(t->tok);
	if (special && nla_tokenizer_behind(t->tok))
		return nla_fail(err, "the tokenizer of '%s' puts special tokens behind a text too, which is not supported: set "
				"tokens.add_special false", t->folder);
	if (special)
		nla_i32s_append(ids, front->data, front->n);
	return nla_tokenizer_encode(t->tok, text, strlen(text), ids, err);
}

/* ---- prompts ---- */

/* Does this token stand for the marker alone? What a byte-level vocabulary lists under its characters may stand for other
 * bytes. */
static bool is_marker(const struct nla_target *t, int32_t id, const char *marker)
{
	NLA_AUTO(nla_str_release) struct nla_str piece = NLA_STR_INIT;
	nla_tokenizer_piece(t->tok, id, &piece);
	return !strcmp(piece.buf, marker);
}

/* The marker in the AV prompt: by the sidecar's id, else as the token of its text, alone or where it stands. */
static enum nla_status find_av(struct nla_prompts *p, const struct nla_sidecar *meta, const struct nla_target *t,
			       struct nla_err *err)
{
	nla_auto char *content = NULL;
	NLA_AUTO(nla_i32s_release) struct nla_i32s alone = { 0 };
	int n_found = 0;
	if (nla_tokenizer_encode(t->tok, meta->marker, strlen(meta->marker), &alone, err) ||
	    nla_template_fill(meta->av_template, "injection_char", meta->marker, &content, err) ||
	    nla_chat_prompt(&t->chat, t->tok, content, &p->av, err))
		return err->status;
	const int32_t given = meta->marker_id, live = alone.n == 1 ? alone.data[0] : -1;
	p->marker_id = given >= 0 ? given : live;
	if (given >= 0 && live >= 0 && live != given && !is_marker(t, given, meta->marker))
		return nla_fail(err, "injection_token_id is %d, the tokenizer gives marker '%s' the id %d", (int)given,
				meta->marker, (int)live);
	for (int64_t i = 0, n = (int64_t)p->av.n; i < n; i++)
		if (p->av.data[i] == p->marker_id || (given < 0 && is_marker(t, p->av.data[i], meta->marker))) {
			p->marker_id = p->av.data[i];
			p->at = i;
			p->left = i > 0 ? p->av.data[i - 1] : -1;
			p->right = i + 1 < n ? p->av.data[i + 1] : -1;
			n_found++;
		}
	if (!n_found && p->marker_id < 0)
		nla_fail(err, "the marker '%s' is %zu tokens: choose one that is a single token", meta->marker, alone.n);
	else if (n_found != 1)
		nla_fail(err, "the AV prompt holds the marker '%s' %d times as one token (id %d): want it once%s", meta->marker,
			 n_found, (int)p->marker_id, n_found ? "" : ", and a line break where it merges with its neighbour");
	return err->status;
}

/* The suffix is what two explanations' prompts end in both: ")" may merge with a template's end where a letter does not. */
static enum nla_status find_ar(struct nla_prompts *p, const struct nla_sidecar *meta, const struct nla_target *t,
			       struct nla_err *err)
{
	static const char *const explanations[] = { "probe", "one", "2)" };
	struct nla_i32s ids[NLA_LEN(explanations)] = { { 0 } };
	const struct nla_i32s *a = &ids[1], *b = &ids[2];
	size_t n = 0;
	for (size_t i = 0; i < NLA_LEN(ids) && !err->status; i++) {
		nla_auto char *text = NULL;
		if (!nla_template_fill(meta->ar_template, "explanation", explanations[i], &text, err))
			nla_target_encode(t, nla_target_adds_special(t, meta), text, &ids[i], err);
	}
	while (!err->status && n < a->n && n < b->n && a->data[a->n - 1 - n] == b->data[b->n - 1 - n])
		n++;
	nla_i32s_append(&p->suffix, a->data + a->n - n, n);
	p->ar = ids[0];
	nla_i32s_release(&ids[1]);
	nla_i32s_release(&ids[2]);
	return err->status;
}

enum nla_status nla_prompts_find(struct nla_prompts *p, const struct nla_sidecar *meta, const struct nla_target *t,
				 struct nla_err *err)
{
	*p = (struct nla_prompts){ .marker_id = -1, .left = -1, .right = -1 };
	if (meta->av_template && meta->marker && find_av(p, meta, t, err))
		return err->status;
	return meta->ar_template ? find_ar(p, meta, t, err) : NLA_OK;
}

void nla_prompts_release(struct nla_prompts *p)
{
	nla_i32s_release(&p->av);
	nla_i32s_release(&p->ar);
	nla_i32s_release(&p->suffix);
}

void nla_prompts_pack(struct nla_pack *pack, const struct nla_i32s *prompts, int64_t n, int64_t *row)
{
	size_t shared = n > 1 ? prompts[0].n - 1 : 0;
	for (int64_t i = 1; i < n; i++) {
		size_t same = 0, limit = NLA_MIN(shared, prompts[i].n - 1);
		while (same < limit && prompts[i].data[same] == prompts[0].data[same])
			same++;
		shared = same;
	}
	int64_t head = nla_pack_add(pack, prompts[0].data, (int64_t)shared, -1);
	for (int64_t i = 0; i < n; i++)
		row[i] = nla_pack_add(pack, prompts[i].data + shared, (int64_t)(prompts[i].n - shared), head);
}

/* ---- the contract ---- */

static enum nla_status check_suffix(const struct nla_i32s *want, const struct nla_i32s *ar, struct nla_err *err)
{
	size_t n = want->n, from = ar->n - NLA_MIN(n, ar->n);
	NLA_AUTO(nla_str_release) struct nla_str wanted = NLA_STR_INIT, have = NLA_STR_INIT;
	if (ar->n >= n && !memcmp(ar->data + from, want->data, n * sizeof(*want->data)))
		return NLA_OK;
	for (size_t i = 0; i < n; i++)
		nla_str_addf(&wanted, " %d", (int)want->data[i]);
	for (size_t i = from; i < ar->n; i++)
		nla_str_addf(&have, " %d", (int)ar->data[i]);
	return nla_fail(err, "the AR prompt ends in ids%s, critic_suffix_ids says%s (another tokenizer or template?)", have.buf,
		 wanted.buf);
}

static enum nla_status check_prompts(const struct nla_sidecar *meta, const struct nla_target *t, struct nla_err *err)
{
	NLA_AUTO(nla_prompts_release) struct nla_prompts p = { 0 };
	if (nla_prompts_find(&p, meta, t, err))
		return err->status;
	if (p.av.n && ((meta->left_id >= 0 && p.left != meta->left_id) || (meta->right_id >= 0 && p.right != meta->right_id)))
		nla_fail(err, "the marker's neighbours have ids %d and %d, the sidecar says %d and %d (another tokenizer or "
			 "template?)", (int)p.left, (int)p.right, (int)meta->left_id, (int)meta->right_id);
	else if (p.ar.n && meta->suffix.n)
		check_suffix(&meta->suffix, &p.ar, err);
	return err->status;
}

static char *chat_words(const char *format, const char *system, const char *before)
{
	return !system  ? nla_format("%s that begins '%s'", format, before ? before : "")
	       : *system ? nla_format("%s with system turn '%s'", format, system)
			 : nla_format("%s without a system turn", format);
}

/* Prompts as the AV was trained with them: what stands around the message, where its sidecar says so, else by their names. */
static enum nla_status check_chat(const struct nla_sidecar *meta, const struct nla_chat *c, const char *path,
				  struct nla_err *err)
{
	const bool texts = meta->chat_before && meta->chat_after, named = meta->chat_system && c->system;
	if (!meta->chat_format || (texts ? !strcmp(meta->chat_before, c->before) && !strcmp(meta->chat_after, c->after)
					 : !strcmp(meta->chat_format, nla_chat_name(c)) &&
						   (!named || !strcmp(meta->chat_system, c->system))))
		return NLA_OK;
	nla_auto char *was = chat_words(meta->chat_format, meta->chat_system, meta->chat_before);
	nla_auto char *now = chat_words(nla_chat_name(c), c->system, c->before);
	return nla_fail(err, "'%s': was trained with the chat format %s, here it is %s: %s", path, was, now,
			strcmp(meta->chat_format, "file") ? "without chat.format, chat.system and nla_chat.json it is the AV's"
							  : "give its nla_chat.json as chat.file");
}

enum nla_status nla_contract_check(const struct nla_sidecar *meta, const struct nla_target *t, const char *path,
				   struct nla_err *err)
{
	if (meta->d_model != t->lm.arch.d_model)
		return nla_fail(err, "'%s': d_model is %lld, the model's width is %lld", path, (long long)meta->d_model,
				(long long)t->lm.arch.d_model);
	if (nla_sidecar_block(meta) >= t->lm.arch.n_layers)
		return nla_fail(err, "'%s': %s is %lld, the model has blocks 0 to %lld", path,
				meta->critic_layer >= 0 ? "critic.extraction_layer_index" : "layer_index",
				(long long)nla_sidecar_block(meta), (long long)t->lm.arch.n_layers - 1);
	if (meta->tokenizer_crc >= 0 && (uint32_t)meta->tokenizer_crc != nla_tokenizer_crc(t->tok))
		return nla_fail(err, "'%s': was made with another tokenizer than '%s' (checksums %08x and %08x)", path,
				t->folder, (unsigned)meta->tokenizer_crc, (unsigned)nla_tokenizer_crc(t->tok));
	if (meta->add_special >= 0 && t->add_special && (t->add_special == 1) != meta->add_special)
		return nla_fail(err, "'%s': tokens.add_special is %s there, the option says %s", path,
				meta->add_special ? "true" : "false", t->add_special == 1 ? "true" : "false");
	if (check_chat(meta, &t->chat, path, err))
		return err->status;
	return check_prompts(meta, t, err) ? nla_err_context(err, "'%s'", path) : NLA_OK;
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
			return nla_fail(err, "'%s' is of block %lld, the %s of block %lld", path, (long long)ours,
					i ? "AR" : "AV", (long long)theirs);
		const char *one = meta->base_checkpoint, *other = with[i] ? with[i]->base_checkpoint : NULL;
		if (one && other && nla_is_hub_name(one) && nla_is_hub_name(other) &&
		    strcasecmp(nla_path_base(one), nla_path_base(other)))
			nla_say("warning: '%s' is of '%s', the %s of '%s': are these the same model?", path, one,
				i ? "AR" : "AV", other);
	}
	return NLA_OK;
}

enum nla_status nla_contract_fits_set(struct nla_actset *set, const struct nla_target *t, const struct nla_sidecar *av,
				      const struct nla_sidecar *ar, const char *path, struct nla_err *err)
{
	const size_t front = set->meta.add_special < 0 ? nla_tokenizer_front(t->tok)->n : 0;
	int64_t balance = 0;
	/* Its texts encoded again: as many ids as they count, or as many and those in front? A cut text may encode otherwise:
	 * most decide. */
	for (int64_t i = 0; front && i < NLA_MIN(set->n, 64); i++) {
		NLA_AUTO(nla_i32s_release) struct nla_i32s ids = { 0 };
		const int64_t raw = set->rows[i].n_raw_tokens;
		if (*set->rows[i].text && !nla_target_encode(t, false, set->rows[i].text, &ids, NLA_IGNORED))
			balance += (raw == (int64_t)(ids.n + front)) - (raw == (int64_t)ids.n);
	}
	if (balance)
		set->meta.add_special = balance > 0;
	if (nla_contract_fits(&set->meta, t, av, ar, path, err))
		return err->status;
	bool ours = set->meta.add_special > 0;
	if (ar && set->meta.add_special >= 0 && nla_target_has_special(t) && nla_target_adds_special(t, ar) != ours)
		return nla_fail(err,
				"'%s' was made with%s special tokens in front of its texts, the AR's prompts get %s: want the "
				"same of both "
				"(tokens.add_special, in the sidecars or as an option)",
				path, ours ? "" : "out", ours ? "none" : "them");
	return NLA_OK;
}

/* ---- a new sidecar ---- */

/* What texts rarely hold; the last ones are a token of every vocabulary that has bytes. */
static const char *const markers[] = { "\u320E", "\u3297", "\u00A7", "\u00B6", "\u2020", "\u203B", "\u2022", "\u25C6",
				       "~",      "^",      "|",      "#",      "@",      "*" };
/* In place of the slot: where a marker merges with what is next to it, line breaks keep it apart. */
static const char *const apart[] = { "{injection_char}", "\n{injection_char}", "\n{injection_char}\n" };

static bool serves(const char *marker, const char *template, const struct nla_target *t, struct nla_err *why)
{
	const struct nla_sidecar meta = { .marker = (char *)marker, .av_template = (char *)template, .marker_id = -1 };
	NLA_AUTO(nla_prompts_release) struct nla_prompts p = { 0 };
	*why = (struct nla_err)NLA_ERR_INIT;
	return !nla_prompts_find(&p, &meta, t, why);
}

enum nla_status nla_marker_choose(struct nla_sidecar *meta, const struct nla_target *t, struct nla_err *err)
{
	struct nla_err why;
	NLA_AUTO(nla_strs_release) struct nla_strs found = { 0 };
	NLA_AUTO(nla_str_release) struct nla_str list = NLA_STR_INIT;
	nla_auto char *template = NULL;
	if (meta->marker && serves(meta->marker, meta->av_template, t, &why))
		return NLA_OK;
	for (size_t k = 0; k < NLA_LEN(apart) && !found.n; k++) {
		free(template);
		if (nla_template_fill(meta->av_template, "injection_char", apart[k], &template, err))
			return nla_err_context(err, "'templates.av'");
		for (size_t i = 0; i < NLA_LEN(markers) && found.n < 3; i++)
			if (serves(markers[i], template, t, NLA_IGNORED))
				nla_strs_push(&found, markers[i]);
	}
	const bool parted = strcmp(template, meta->av_template) != 0;
	for (size_t i = 0; i < found.n; i++)
		nla_str_addf(&list, "%s'%s'", i ? ", " : "", found.data[i]);
	if (meta->marker && found.n)
		return nla_usage(err, "'templates.marker' is '%s': %s; with this tokenizer%s these work: %s", meta->marker,
				 why.text, parted ? " and a line break around {injection_char}" : "", list.buf);
	if (meta->marker)
		return nla_usage(err, "'templates.marker' is '%s': %s", meta->marker, why.text);
	if (!found.n)
		return nla_usage(err, "'templates.marker' is auto: no character tried is a token of its own in templates.av, "
				 "give one");
	if (parted || strcmp(found.data[0], markers[0]))
		nla_say("marker '%s': the vector's place in a prompt%s", found.data[0],
			parted ? ", with a line break between it and the text that it merges with" : "");
	meta->marker = nla_strdup(found.data[0]);
	free(meta->av_template);
	meta->av_template = nla_strdup(template);
	return NLA_OK;
}

enum nla_status nla_contract_bind(struct nla_sidecar *meta, const struct nla_target *t, struct nla_err *err)
{
	NLA_AUTO(nla_prompts_release) struct nla_prompts p = { 0 };
	if (nla_prompts_find(&p, meta, t, err))
		return err->status;
	if (p.av.n) {
		meta->marker_id = p.marker_id;
		meta->left_id = p.left;
		meta->right_id = p.right;
	}
	if (!meta->suffix.n)
		nla_i32s_append(&meta->suffix, p.suffix.data, p.suffix.n);
	meta->tokenizer_crc = nla_tokenizer_crc(t->tok);
	return NLA_OK;
}

enum nla_status nla_contract_make(struct nla_sidecar *meta, const struct nla_target *t, struct nla_err *err)
{
	meta->marker_id = -1;
	nla_i32s_release(&meta->suffix);
	if (nla_contract_bind(meta, t, err))
		return err->status;
	if (!meta->suffix.n)
		nla_fail(err, "the AR template must end in text after {explanation}");
	if (nla_target_has_special(t))
		meta->add_special = nla_target_adds_special(t, meta);
	meta->d_model = t->lm.arch.d_model;
	return err->status;
}

const char *const nla_beside[] = { "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
				   "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
				   "merges.txt", "chat_template.jinja", "nla_chat.json", NULL };

enum nla_status nla_copy_beside(const char *from, const char *to, const char *skip, struct nla_err *err)
{
	for (const char *const *name = nla_beside; *name && !err->status; name++) {
		nla_auto char *in = nla_path_join(from, *name), *out = nla_path_join(to, *name);
		if (!(skip && !strcmp(skip, *name)) && nla_exists(in))
			nla_copy_file(in, out, false, err);
	}
	return err->status;
}
