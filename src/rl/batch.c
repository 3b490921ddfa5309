/* Batch: the next B rows of the activation set in this epoch's order, with their vectors v [B, D], or a rank's share of them.
 * Makes the step's memory. */
#include "rl/step.h"
#include "lm/ranks.h"

enum nla_status nla_batch(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	const int64_t n = rl->rollout.prompts, group = rl->rollout.group, policies = NLA_MAX(rl->n_of, 1);
	int64_t from, to;
	nla_auto int64_t *rows = nla_alloc((size_t)n, sizeof(*rows));
	nla_share(n, nla_rank(), &from, &to);
	nla_cursor_next(rl->cursor, n, rows);
	nla_step_start(step, to - from, policies * group, rl->set->d);
	step->n_all = n * policies * group;
	memcpy(step->rows, rows + from, (size_t)step->n_prompts * sizeof(*rows));
	for (int64_t i = 0; i < step->n; i++) /* of all policies that draw together the same */
		step->keys[i] = (uint32_t)((from + i / step->group) * group + i % group);
	return nla_actset_vectors(rl->set, step->rows, (size_t)step->n_prompts, step->v, err);
}
