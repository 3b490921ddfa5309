/*
 * models - what the commands make of a configuration before their work begins: target, verbalizer and reconstructor opened
 * together, the one activation that it points to, and the sidecar of the activation set that it asks for.
 */
#pragma once

#include "rl/step.h"
#include "run/config.h"

struct nla_models {
	struct nla_target target;
	struct nla_half av, ar;
};

/* On the configuration's device; model, av and ar must be set. av, ar: the folders that stand for cfg's. room: bytes that a
 * memory plan may use, or NULL. close also after a failure, and on a zeroed struct. */
enum nla_status nla_models_open(struct nla_models *m, const struct nla_config *cfg, const char *av, const char *ar,
				int64_t *room, struct nla_err *err);
void nla_models_close(struct nla_models *m);
/* The adapter to train. */
enum nla_status nla_models_lora(const struct nla_config *cfg, struct nla_lora_spec *spec, struct nla_err *err);
/* What the stages hold of them and of the configuration: the AV samples, with the random numbers of evaluations. */
struct nla_rl nla_models_rl(const struct nla_models *m, const struct nla_config *cfg);
/* Copies (of NLA_PLAN_ALL_COPIES), and rl's views over them: the reference is the AV, the policy has `trained` (or NULL) over
 * that. ar_frozen: the AR's adapter may be merged. */
struct nla_copies {
	struct nla_lm merged, anchor, reader; /* blocks == NULL: none */
};
enum nla_status nla_copies_make(struct nla_copies *c, const struct nla_models *m, const struct nla_adapter *trained, int copies,
				bool ar_frozen, struct nla_rl *rl, struct nla_err *err);
void nla_copies_release(struct nla_copies *c);
/* What a memory plan counts of them, for responses of the configured length. */
struct nla_plan_in nla_models_sizes(const struct nla_models *m, const struct nla_config *cfg);

/* What nla-explain explains: explain.vector, a token of explain.text, or a row of data. */
struct nla_subject {
	int64_t n, d;              /* activations, their width */
	float *v;                  /* [n, D] */
	char *text;                /* up to the token; NULL: unknown, or of several */
	char **token;              /* [n] NULL: unknown */
	int64_t *position;         /* [n] -1: unknown */
	int64_t row;               /* of the set; -1: of none */
	struct nla_baselines base; /* stored with `data`; NaN: unknown */
};
enum nla_status nla_subject_find(struct nla_subject *s, const struct nla_models *m, const struct nla_config *cfg,
				 struct nla_err *err);
double nla_length(const float *v, int64_t d); /* its norm; 0: it has no direction that could be explained */
void nla_subject_release(struct nla_subject *s);

/* The sidecar of a new activation set: block, marker and templates of extract.meta or of the options, and the ids that follow
 * from them. */
enum nla_status nla_newset_describe(struct nla_sidecar *meta, const struct nla_target *t, const struct nla_config *cfg,
				    struct nla_err *err);
/* export.c: cfg->av or cfg->ar, by role, as a whole checkpoint into the folder out. */
enum nla_status nla_export(const struct nla_config *cfg, enum nla_half_role role, const char *out, struct nla_err *err);
/* The sidecar of the AV, AR or set in cfg->out, made elsewhere, from the same; what it then is must load. */
enum nla_status nla_sidecar_make(const struct nla_config *cfg, struct nla_err *err);
