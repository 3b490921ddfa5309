/* folder - see folder.h. */
#include "nla/folder.h"
#include "base/file.h"

static bool holds(const char *folder, const char *name, const char *want)
{
	nla_auto char *below = nla_path_join(folder, name);
	return nla_exists_in(below, want);
}

bool nla_is_hub_name(const char *s)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t owner = strspn(s, letters), name = s[owner] == '/' ? strspn(s + owner + 1, letters) : 0;
	return owner && name && *s != '.' && !s[owner + 1 + name];
}

/* Where `want` is instead: in a checkpoint of a run, or one folder down. */
static char *below_lead(const char *folder, const struct nla_strs *names, const char *want, const char *part)
{
	nla_auto char *latest = part ? nla_format("checkpoints/latest/%s", part) : NULL;
	char *text = NULL;
	const char *run[] = { latest, part };
	for (size_t i = 0; part && i < NLA_LEN(run) && !text; i++)
		if (holds(folder, run[i], want))
			text = nla_format("it is a run or a checkpoint: name '%s/%s'", folder, run[i]);
	size_t n = 0, last = 0;
	for (size_t i = 0; i < names->n && !text; i++)
		if (holds(folder, names->data[i], want)) {
			last = i;
			n++;
		}
	if (n == 1)
		text = nla_format("'%s/%s' has %s: is that folder meant?", folder, names->data[last], want);
	else if (n) /* checkpoints of a training, or an adapter over another */
		text = nla_format("'%s/%s' and %zu more have %s: name the one that is meant", folder, names->data[last], n - 1,
				  want);
	return text;
}

/* torch's own files are programs when they are read: only safetensors are. */
static char *torch_lead(const char *folder, const struct nla_strs *names)
{
	static const char *const stems[] = { "pytorch_model", "adapter_model", "consolidated", "model" };
	const char *found = NULL;
	for (size_t i = 0; i < names->n; i++) {
		const char *name = names->data[i];
		if (nla_ends_with(name, ".safetensors") || nla_ends_with(name, ".safetensors.index.json"))
			return NULL;
		for (size_t j = 0; j < NLA_LEN(stems); j++)
			if (nla_starts_with(name, stems[j]) &&
			    (nla_ends_with(name, ".bin") || nla_ends_with(name, ".pt") || nla_ends_with(name, ".pth")))
				found = name;
	}
	return found ? nla_format("it holds '%s', want safetensors: load it with transformers or peft, and save_pretrained()",
				  found) : NULL;
}

static char *lead(const char *folder, const char *want, const char *part)
{
	NLA_AUTO(nla_strs_release) struct nla_strs names = { 0 };
	nla_auto char *snapshots = nla_path_join(folder, "snapshots");
	char *text = NULL;
	if (nla_exists(folder) && !nla_is_dir(folder))
		text = nla_format("'%s' is a file, want its folder", folder);
	else if (!nla_exists(folder) && nla_is_hub_name(folder))
		text = nla_format("if it is a name on the hub, run 'hf download %s --local-dir DIR' and name DIR", folder);
	else if (nla_is_dir(snapshots) && !nla_list_dir(snapshots, &names, NLA_IGNORED) && names.n)
		text = nla_format("it is a folder of the hub's cache: name '%s/%s'", snapshots, names.data[names.n - 1]);
	else if (nla_is_dir(folder) && !nla_list_dir(folder, &names, NLA_IGNORED)) {
		if (!holds(folder, ".", want))
			text = below_lead(folder, &names, want, part);
		if (!text)
			text = torch_lead(folder, &names);
	}
	return text;
}

enum nla_status nla_folder_lead(struct nla_err *err, const char *folder, const char *want, const char *part)
{
	nla_auto char *text = err->status ? lead(folder, want, part) : NULL;
	if (text && !strstr(err->text, text))
		nla_err_set(err, err->status, "%s; %s", err->text, text);
	return err->status;
}
