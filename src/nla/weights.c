#include "nla/weights.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

static bool holds(const char *folder, const char *name)
{
	char *path = nla_path_join(folder, name);
	bool there = nla_exists(path);
	free(path);
	return there;
}

bool nla_is_whole(const char *folder)
{
	return holds(folder, "config.json") && (holds(folder, "model.safetensors") || holds(folder, "model.safetensors.index.json"));
}

bool nla_same_folder(const char *a, const char *b)
{
	char *x = realpath(a, NULL), *y = realpath(b, NULL);
	bool same = x && y && !strcmp(x, y);
	free(x);
	free(y);
	return same;
}

/* PEFT's own word for what the adapter stands on: believed when it is a verbalizer or reconstructor of this machine. */
static enum nla_status peft_base(const char *folder, char **base, struct nla_err *err)
{
	char *path = nla_path_join(folder, "adapter_config.json");
	cJSON *json = NULL;
	const char *name = NULL;
	if (nla_exists(path) && !nla_json_read(path, &json, err) &&
	    !nla_json_str(json, path, "base_model_name_or_path", "", &name, err) && *name && nla_is_whole(name) && holds(name, "nla_meta.yaml"))
		*base = nla_strdup(name);
	cJSON_Delete(json);
	free(path);
	return err->status;
}

enum nla_status nla_weights_find(struct nla_weights *w, const char *folder, const struct nla_sidecar *meta, const char *asked,
				 const char *target, struct nla_err *err)
{
	memset(w, 0, sizeof(*w));
	w->adapter = holds(folder, "adapter_config.json") || holds(folder, "adapter_model.safetensors") ||
		     holds(folder, "ar_lora_value_head.safetensors");
	if (!w->adapter && nla_is_whole(folder)) {
		if (asked && *asked && !nla_same_folder(asked, folder))
			return nla_usage(err, "'%s' is a whole checkpoint itself: take '%s' out of av_base or ar_base, which say what an adapter stands on",
					 folder, asked);
		w->base = nla_strdup(folder);
	} else if (asked && *asked) {
		w->base = nla_strdup(asked);
		if (!nla_is_whole(asked))
			return nla_fail(err, "'%s' is no whole checkpoint: want config.json and model.safetensors or its shards", asked);
	} else if (meta->base_folder) {
		w->base = nla_path_join(folder, meta->base_folder);
		if (!nla_is_whole(w->base))
			return nla_fail(err, "'%s' stands on the checkpoint '%s', which is not there: say where it is with av_base or ar_base",
					folder, w->base);
	} else if (!w->adapter) {
		return nla_fail(err, "'%s' holds neither an adapter (adapter_config.json) nor a whole checkpoint (config.json and model.safetensors)",
				folder);
	} else if (peft_base(folder, &w->base, err)) {
		return err->status;
	}
	char *found = w->base;
	w->base = found ? realpath(found, NULL) : NULL;
	w->shared = found && target && nla_same_folder(found, target);
	free(found);
	return NLA_OK;
}

void nla_weights_record(const struct nla_weights *w, struct nla_sidecar *meta)
{
	free(meta->base_folder);
	meta->base_folder = w->base ? nla_strdup(w->base) : NULL;
}

void nla_weights_release(struct nla_weights *w)
{
	free(w->base);
	memset(w, 0, sizeof(*w));
}

const char *const nla_beside[] = { "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
				   "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
				   "nla_chat.json", NULL };

enum nla_status nla_copy_beside(const char *from, const char *to, const char *skip, struct nla_err *err)
{
	for (const char *const *name = nla_beside; *name && !err->status; name++) {
		char *in = nla_path_join(from, *name), *out = nla_path_join(to, *name);
		struct nla_str bytes = NLA_STR_INIT;
		if (!(skip && !strcmp(skip, *name)) && nla_exists(in) && !nla_file_read(in, &bytes, err))
			nla_file_write(out, bytes.buf, bytes.len, false, err);
		nla_str_release(&bytes);
		free(in);
		free(out);
	}
	return err->status;
}
