/* Batch: the next B rows of the activation set in this epoch's order, with their vectors v [B, D]. Makes the step's memory. */
#include "rl/step.h"

enum nla_status nla_batch(struct nla_rl *rl, struct nla_step *step, struct nla_err *err)
{
	nla_step_start(step, rl->rollout.prompts, rl->rollout.group, rl->set->d);
	nla_cursor_next(rl->cursor, step->n_prompts, step->rows);
	return nla_actset_vectors(rl->set, step->rows, (size_t)step->n_prompts, step->v, err);
}
