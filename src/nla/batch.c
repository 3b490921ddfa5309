/* batch - rows of a set [n] to train on and held out, and the order of the former: see batch.h. */
#include "nla/batch.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"

/* Uniform in [0,1), a function of the seed and the document alone. */
static double doc_uniform(uint64_t seed, const char *doc_id)
{
	const uint64_t hash = nla_hash(doc_id, strlen(doc_id));
	uint32_t out[4];
	nla_philox(seed, NLA_STREAM_SPLIT, (uint32_t)hash, (uint32_t)(hash >> 32), 0, out);
	return ((double)out[0] * 0x1p21 + (double)(out[1] >> 11)) * 0x1p-53;
}

enum nla_status nla_split_by_doc(struct nla_split *split, const struct nla_actset *set, uint64_t seed, double held_fraction,
				 struct nla_err *err)
{
	if (!(held_fraction >= 0 && held_fraction < 1))
		NLA_BUG("held-out fraction %g", held_fraction);
	*split = (struct nla_split){ .train = nla_alloc((size_t)set->n + 1, sizeof(*split->train)),
				     .held = nla_alloc((size_t)set->n + 1, sizeof(*split->held)) };
	for (int64_t i = 0; i < set->n; i++)
		if (doc_uniform(seed, set->rows[i].doc_id) < held_fraction)
			split->held[split->n_held++] = i;
		else
			split->train[split->n_train++] = i;
	if (split->n_train && (split->n_held || held_fraction == 0))
		return NLA_OK;
	nla_fail(err, "cannot split activation set '%s': of its %lld rows none would be %s at a fraction of %g: it needs more "
		 "documents", set->path, (long long)set->n, split->n_train ? "held out" : "left to train on", held_fraction);
	nla_split_release(split);
	return err->status;
}

void nla_split_release(struct nla_split *split)
{
	free(split->train);
	free(split->held);
	memset(split, 0, sizeof(*split));
}

/* The rows' doc_id in order; owned, not what it points to. */
static const char **sorted_ids(const struct nla_actset *set)
{
	const char **ids = nla_alloc((size_t)set->n + 1, sizeof(*ids));
	for (int64_t i = 0; i < set->n; i++)
		ids[i] = set->rows[i].doc_id;
	qsort(ids, (size_t)set->n, sizeof(*ids), nla_by_text);
	return ids;
}

bool nla_shares_docs(const struct nla_actset *eval, const char *folder)
{
	nla_auto const char **ids = sorted_ids(eval);
	nla_auto char *path = nla_path_join(folder, NLA_ACTSET_ROWS);
	struct nla_lines in;
	const char *line;
	bool found = false;
	if (!nla_exists(path) || nla_lines_open(&in, path, NLA_IGNORED))
		return false;
	for (int64_t n = 0; n < NLA_SHARED_ROWS && !found && (line = nla_lines_next_filled(&in)); n++) {
		nla_auto_json cJSON *json = cJSON_Parse(line);
		const char *id = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "doc_id"));
		found = id && bsearch(&id, ids, (size_t)eval->n, sizeof(*ids), nla_by_text);
	}
	nla_lines_close(&in, NLA_IGNORED);
	return found;
}

enum nla_status nla_disjoint_docs(const struct nla_actset *train, const struct nla_actset *eval, struct nla_err *err)
{
	nla_auto const char **ids = sorted_ids(eval);
	for (int64_t i = 0; i < train->n && !err->status; i++) {
		const char *id = train->rows[i].doc_id;
		if (bsearch(&id, ids, (size_t)eval->n, sizeof(*ids), nla_by_text))
			nla_fail(err, "document '%s' is in the training set '%s' and in the evaluation set '%s'", id,
				 train->path, eval->path);
	}
	return err->status;
}

void nla_cursor_init(struct nla_cursor *c, uint64_t seed, int64_t n)
{
	if (n < 1)
		NLA_BUG("a cursor over %lld rows", (long long)n);
	*c = (struct nla_cursor){ .seed = seed, .n = n, .order = nla_alloc((size_t)n, sizeof(*c->order)), .epoch = -1 };
}

void nla_cursor_release(struct nla_cursor *c)
{
	free(c->order);
	memset(c, 0, sizeof(*c));
}

void nla_cursor_next(struct nla_cursor *c, int64_t count, int64_t *out)
{
	const struct nla_rng rng = { c->seed, NLA_STREAM_SHUFFLE };
	for (int64_t i = 0; i < count; i++, c->position++) {
		if (c->position / c->n != c->epoch) {
			c->epoch = c->position / c->n;
			nla_permutation(&rng, (uint32_t)c->epoch, c->order, (size_t)c->n);
		}
		out[i] = c->order[c->position % c->n];
	}
}
