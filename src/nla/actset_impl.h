/* What the files of actset share: how an activation set's folder is laid out. */
#ifndef NLA_ACTSET_IMPL_H
#define NLA_ACTSET_IMPL_H

#include "nla/actset.h"

#define META_NAME "nla_meta.yaml"
#define ROWS_NAME "rows.jsonl.gz"
#define DATA_NAME "activations.safetensors"

/* activations.safetensors, its index, the shards. */
bool nla_actset_is_data(const char *name);

#endif
