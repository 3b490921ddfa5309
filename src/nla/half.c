/*
 * half - see half.h. Opening: the sidecar, whose weights the folder means, the contract with the target, then the weights: an
 * AV's whole checkpoint, an AR's first K + 1 blocks and head [D, D].
 */
#include "nla/half.h"
#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "nla/folder.h"

#define HEAD_FILE "value_head.safetensors"
#define NANO_FILE "ar_lora_value_head.safetensors" /* nanoNLA: adapter and head in one */

static const char *const role_names[] = { "av", "ar" }, *const role_titles[] = { "AV", "AR" };

bool nla_is_whole(const char *folder)
{
	return nla_exists_in(folder, "config.json") &&
	       (nla_exists_in(folder, "model.safetensors") || nla_exists_in(folder, "model.safetensors.index.json"));
}

bool nla_same_folder(const char *a, const char *b)
{
	nla_auto char *x = realpath(a, NULL), *y = realpath(b, NULL);
	return x && y && !strcmp(x, y);
}

/* ---- whose weights ---- */

/* PEFT's own word for what the adapter stands on: believed when it is a verbalizer or reconstructor of this machine. */
static enum nla_status peft_base(const char *folder, char **base, struct nla_err *err)
{
	nla_auto char *path = nla_path_join(folder, "adapter_config.json");
	nla_auto_json cJSON *json = NULL;
	const char *name = NULL;
	if (nla_exists(path) && !nla_json_read(path, &json, err) &&
	    !nla_json_str(json, path, "base_model_name_or_path", "", &name, err) && *name && nla_is_whole(name) &&
	    nla_exists_in(name, NLA_SIDECAR_NAME))
		*base = nla_strdup(name);
	return err->status;
}

static enum nla_status find_base(struct nla_weights *w, const char *folder, const struct nla_sidecar *meta, const char *asked,
				 struct nla_err *err)
{
	if (!w->adapter && nla_is_whole(folder)) {
		w->base = nla_strdup(folder);
		if (asked && *asked && !nla_same_folder(asked, folder))
			return nla_usage(err, "'%s' is a whole checkpoint itself: take '%s' out of av_base or ar_base", folder,
					 asked);
	} else if (asked && *asked) {
		w->base = nla_strdup(asked);
		if (nla_need_dir(asked, err))
			return err->status;
		if (!nla_is_whole(asked))
			return nla_fail(err, "'%s' is no whole checkpoint: want config.json and model.safetensors",
					asked);
	} else if (meta->base_folder) {
		w->base = nla_path_join(folder, meta->base_folder);
		if (!nla_is_whole(w->base))
			return nla_fail(err, "'%s' stands on the checkpoint '%s', which is not there: say where it is with "
					"av_base or ar_base", folder, w->base);
	} else if (!w->adapter) {
		nla_fail(err, "'%s' holds neither an adapter (adapter_config.json) nor a whole checkpoint (config.json and "
			 "model.safetensors)", folder);
		return nla_folder_lead(err, folder, "adapter_config.json", NULL);
	} else {
		return peft_base(folder, &w->base, err);
	}
	return NLA_OK;
}

static enum nla_status find_weights(struct nla_weights *w, const char *folder, const struct nla_sidecar *meta,
				    const char *asked, const char *target, struct nla_err *err)
{
	*w = (struct nla_weights){ .adapter = nla_exists_in(folder, "adapter_config.json") ||
					      nla_exists_in(folder, "adapter_model.safetensors") ||
					      nla_exists_in(folder, NANO_FILE) };
	find_base(w, folder, meta, asked, err);
	nla_auto char *found = w->base;
	w->base = found && !err->status ? realpath(found, NULL) : NULL;
	w->shared = w->base && nla_same_folder(found, target);
	if (w->base && !w->shared && !(asked && *asked) && !nla_same_folder(w->base, folder))
		nla_say("'%s' says that it stands on '%s'", folder, w->base);
	return err->status;
}

/* ---- an AR's own files ---- */

/* Of the head's two places: [d, d] fp32, owned; NULL on failure. */
static nt_tensor *load_head(const char *folder, int64_t d, int device, struct nla_err *err)
{
	bool nano = nla_exists_in(folder, NANO_FILE);
	nla_auto char *path = nla_path_join(folder, nano ? NANO_FILE : HEAD_FILE);
	const char *name = nano ? "value_head.weight" : "weight";
	struct nla_st st;
	nt_tensor *head = NULL;
	if (!nla_st_open(&st, path, err)) {
		head = nla_tensor_read(&st, name, d, d, device, err);
		nla_st_close(&st);
	}
	return head;
}

enum nla_status nla_ar_save_head(nt_tensor *head, const char *folder, struct nla_err *err)
{
	NLA_AUTO(nla_tensors_release) struct nla_tensors out = { 0 };
	nla_auto char *path = nla_path_join(folder, HEAD_FILE);
	nla_tensors_add(&out, "weight", head);
	return nla_tensors_write(&out, path, NT_F32, err);
}

/* What nanoNLA's ar_meta.json adds to the sidecar. An absent final_norm_stripped means kept: files older than that key were
 * trained so. */
static enum nla_status read_ar_meta(struct nla_sidecar *meta, const char *folder, struct nla_err *err)
{
	nla_auto char *path = nla_path_join(folder, "ar_meta.json");
	nla_auto_json cJSON *json = NULL;
	bool stripped;
	const char *quant = "none";
	int64_t depth, block = nla_sidecar_block(meta);
	double scale = nla_scale_value(&meta->mse_scale, meta->d_model), ours = sqrt((double)meta->d_model);
	if (meta->mse_scale.kind == NLA_SCALE_NULL) /* both vectors get the length sqrt(D): another scale is another loss */
		nla_fail(err, "'%s/nla_meta.yaml': extraction.mse_scale is null, an AR of raw vectors: only sqrt_d_model is "
			 "supported", folder);
	else if (meta->d_model > 0 && fabs(scale - ours) > 1e-6 * ours)
		nla_fail(err, "'%s/nla_meta.yaml': extraction.mse_scale is %g, only sqrt_d_model (%g) is supported", folder,
			 scale, ours);
	else if (nla_exists(path) && !nla_json_read(path, &json, err) &&
		 !nla_json_need_int(json, path, "ar_num_layers", &depth, err) &&
		 !nla_json_str(json, path, "quant", "none", &quant, err) &&
		 !nla_json_bool(json, path, "final_norm_stripped", false, &stripped, err)) {
		meta->final_norm = !stripped;
		if (strcmp(quant, "none") && (nla_exists_in(folder, NANO_FILE) || nla_exists_in(folder, "adapter_config.json")))
			nla_say("warning: '%s': 'quant' is '%s': the adapter was trained over weights that were quantised "
				"so, and is read over some that are not: its FVE may be another", path, quant);
		if (depth < 1 || depth > INT32_MAX)
			nla_fail(err, "'%s': ar_num_layers is %lld, want a number of blocks", path, (long long)depth);
		else if (block < 0)
			meta->layer = depth - 1;
		else if (block + 1 != depth)
			nla_fail(err, "'%s': ar_num_layers is %lld, the sidecar's block %lld needs %lld", path,
				 (long long)depth, (long long)block, (long long)block + 1);
	}
	return err->status;
}

/* ---- a half ---- */

static enum nla_status prepare(struct nla_half *h, const char *path, struct nla_err *err)
{
	NLA_AUTO(nla_prompts_release) struct nla_prompts prompts = { 0 };
	const int need = h->role == NLA_AR ? NLA_NEED_AR | NLA_NEED_BLOCK : NLA_NEED_AV;
	if (nla_sidecar_need(&h->meta, NLA_NEED_ANY | need, path, err))
		return err->status;
	h->depth = h->role == NLA_AR ? nla_sidecar_block(&h->meta) + 1 : h->target->lm.arch.n_layers;
	if (nla_contract_check(&h->meta, h->target, path, err) || h->role == NLA_AR)
		return err->status;
	if (nla_prompts_find(&prompts, &h->meta, h->target, err))
		return err->status;
	h->meta.marker_id = prompts.marker_id; /* the sidecar need not name it */
	h->marker = prompts.at;
	h->prompt = prompts.av;
	prompts.av = (struct nla_i32s){ 0 };
	return prompts.right < 0 ? nla_fail(err, "'%s': the marker is the prompt's last token", path) : NLA_OK;
}

/* The base's own weights, unless they are the target's; then what stands over them. */
static enum nla_status load_weights(struct nla_half *h, const char *folder, struct nla_err *err)
{
	const struct nla_lm *target = &h->target->lm;
	const struct nla_lm_part blocks = { .depth = h->depth, .norm = h->meta.final_norm },
				 *part = h->role == NLA_AR ? &blocks : NULL;
	const char *base = h->weights.base;
	if (base && !h->weights.shared) {
		if (target->blocks ? nla_lm_load(&h->own, base, part, target->device, target->dtype, NLA_LM_AUTO, err)
				   : nla_lm_describe(&h->own, base, part, err))
			return err->status;
		const int64_t ids = NLA_MIN(nla_tokenizer_size(h->target->tok), target->arch.vocab);
		if (h->own.arch.d_model != target->arch.d_model || h->own.arch.vocab < ids)
			return nla_fail(err, "'%s' has width %lld and %lld ids, the target width %lld and %lld ids", base,
					(long long)h->own.arch.d_model, (long long)h->own.arch.vocab,
					(long long)target->arch.d_model, (long long)ids);
		if (h->role == NLA_AV)
			h->depth = h->own.arch.n_layers;
	}
	if (h->weights.adapter && nla_adapter_load(&h->adapter, &nla_half_lm(h)->arch, h->depth, folder, target->device, err))
		return err->status;
	if (h->role == NLA_AR)
		h->head = load_head(folder, target->arch.d_model, target->device, err);
	return err->status;
}

/* Injection adds v after block 1, the second. */
static enum nla_status check_injection(const struct nla_half *h, const char *path, struct nla_err *err)
{
	if (h->role == NLA_AV && h->meta.inject == NLA_INJECT_RESIDUAL_ADD && h->depth < 2)
		return nla_fail(err, "'%s': injection_mode is residual_add, which adds the vector after block 1: the model has "
				"block 0 alone", path);
	return NLA_OK;
}

/* A sidecar without a block (kitft's) leaves it to the depth of the truncated folder. */
static enum nla_status find_layer(struct nla_half *h, struct nla_err *err)
{
	struct nla_arch arch;
	if (nla_sidecar_block(&h->meta) < 0 && h->weights.base && !nla_arch_read(&arch, h->weights.base, err))
		h->meta.layer = arch.n_layers - 1;
	return err->status;
}

enum nla_status nla_half_open(struct nla_half *h, enum nla_half_role role, const struct nla_target *target, const char *folder,
			      const char *base, struct nla_err *err)
{
	nla_auto char *path = nla_path_join(folder, NLA_SIDECAR_NAME);
	bool ar = role == NLA_AR;
	*h = (struct nla_half){ .role = role, .target = target };
	if (!nla_sidecar_read(&h->meta, folder, err)) {
		if (h->meta.role && strcmp(h->meta.role, role_names[role]))
			nla_fail(err, "'%s': role is '%s', want an %s", path, h->meta.role, role_titles[role]);
		else if ((!ar || !read_ar_meta(&h->meta, folder, err)) &&
			 !find_weights(&h->weights, folder, &h->meta, base, target->folder, err) &&
			 (!ar || !find_layer(h, err)) && !prepare(h, path, err) && !load_weights(h, folder, err))
			check_injection(h, path, err);
	}
	const struct nla_chat *chat = &target->chat;
	if (!err->status && !ar && !h->meta.chat_format && (!chat->own || *chat->system || chat->thinks))
		nla_say("'%s' does not say which chat format and system turn it was trained with: here %s, system turn '%s'%s",
			path, nla_chat_name(chat), chat->system ? chat->system : "of nla_chat.json",
			chat->thinks ? ", no think block (scripts/chat-format.py --no-thinking for an empty one)" : "");
	if (err->status) {
		nla_folder_lead(err, folder, NLA_SIDECAR_NAME, role_names[role]);
		nla_err_context(err, "cannot load %s '%s'", role_titles[role], folder);
		nla_half_release(h);
	}
	return err->status;
}

static nt_tensor *identity(int64_t d, int device)
{
	int64_t shape[2] = { d, d };
	nla_auto float *eye = nla_alloc((size_t)(d * d), sizeof(float));
	for (int64_t i = 0; i < d; i++)
		eye[i * d + i] = 1;
	return nt_own(nt_from_host(NT_F32, device, eye, 2, shape));
}

enum nla_status nla_half_new(struct nla_half *h, enum nla_half_role role, const struct nla_target *target,
			     const struct nla_sidecar *meta, struct nla_err *err)
{
	*h = (struct nla_half){ .role = role, .target = target };
	nla_sidecar_copy(&h->meta, meta);
	if (role == NLA_AR) {
		h->meta.mse_scale = (struct nla_scale){ .kind = NLA_SCALE_SQRT_D }; /* what we train by, not the set's */
		h->head = identity(target->lm.arch.d_model, target->lm.device);
		if (!h->head)
			nla_nt_fail(err, "cannot make the head");
	}
	if (err->status || prepare(h, NLA_SIDECAR_NAME, err) || check_injection(h, NLA_SIDECAR_NAME, err) ||
	    nla_contract_bind(&h->meta, target, err))
		nla_half_release(h);
	return err->status;
}

/* A name on the hub that the sidecar has, else the folder of the weights: PEFT finds that from any folder, if on this machine
 * alone. */
char *nla_half_base(const struct nla_half *h)
{
	const char *name = h->meta.base_checkpoint, *folder = h->weights.base ? h->weights.base : h->target->folder;
	const bool hub = !h->weights.base && name && !nla_exists(name) && nla_is_hub_name(name);
	char *path = hub ? nla_strdup(name) : realpath(folder, NULL);
	return path ? path : nla_strdup(folder);
}

void nla_half_stamp(const struct nla_half *h, struct nla_sidecar *meta, const char *stage)
{
	const struct nla_chat *chat = &h->target->chat;
	nla_sidecar_stamp(meta, "nla_model", role_names[h->role], stage);
	if (h->role == NLA_AV)
		nla_sidecar_chat(meta, nla_chat_name(chat), chat->system, chat->before, chat->after);
	else
		meta->critic_layer = h->depth - 1;
	if (h->role == NLA_AR && nla_target_has_special(h->target))
		meta->add_special = nla_target_adds_special(h->target, meta);
}

enum nla_status nla_half_save(const struct nla_half *h, const struct nla_adapter *extra, const char *folder, const char *stage,
			      struct nla_err *err)
{
	const struct nla_adapter *own = h->adapter.layers ? &h->adapter : NULL, *saved = own ? own : extra;
	NLA_AUTO(nla_adapter_release) struct nla_adapter joined = { 0 };
	nla_auto char *base = nla_half_base(h);
	NLA_AUTO(nla_sidecar_release) struct nla_sidecar meta = { 0 };
	nla_sidecar_copy(&meta, &h->meta);
	nla_half_stamp(h, &meta, stage);
	free(meta.base_folder);
	meta.base_folder = h->weights.base ? nla_strdup(h->weights.base) : NULL;
	if (own && extra && !nla_adapter_join(&joined, own, extra, err))
		saved = &joined;
	if (err->status || nla_mkdirs(folder, err) ||
	    (saved && nla_adapter_save(saved, folder, base, err)) ||
	    (h->head && nla_ar_save_head(h->head, folder, err)) || nla_sidecar_write(&meta, folder, err))
		nla_err_context(err, "cannot save %s '%s'", role_titles[h->role], folder);
	return err->status;
}

void nla_half_release(struct nla_half *h)
{
	nla_sidecar_release(&h->meta);
	free(h->weights.base);
	nla_lm_release(&h->own);
	nla_adapter_release(&h->adapter);
	nla_i32s_release(&h->prompt);
	nt_free(h->head);
	memset(h, 0, sizeof(*h));
}

const struct nla_lm *nla_half_lm(const struct nla_half *h) { return h->own.arch.n_layers ? &h->own : &h->target->lm; }

struct nla_view nla_half_view(const struct nla_half *h)
{
	struct nla_view view = { .lm = nla_half_lm(h) };
	if (h->adapter.layers)
		view.adapters[view.n_adapters++] = &h->adapter;
	return view;
}
