/*
 * actset - an activation set: a folder with activations.safetensors (tensor `activations` [N, D], bf16 or fp32, memory-mapped;
 * shards through activations.safetensors.index.json hold activations.0, activations.1, .. in row order), rows.jsonl.gz (one
 * object a row: doc_id, n_raw_tokens, text, optional explanation, optional next) and nla_meta.yaml (kind nla_dataset, both
 * baselines). In Python:
 *
 *	v = safetensors.torch.load_file("set/activations.safetensors")["activations"]
 *	rows = [json.loads(l) for l in gzip.open("set/rows.jsonl.gz", "rt")]
 *
 * The baselines are those of the stored vectors, rounded to bf16 where the set is, so a reader can compute them again.
 *
 * A set that stores none gets them at open, which is said.
 *
 * Checked at open: widths, row counts, finite values (all rows when N*D is at most 64 Mi, else the first and last 1024 rows; a
 * row is always checked when it is read).
 */
#pragma once

#include "base/safetensors.h"
#include "nla/sidecar.h"

#define NLA_ACTSET_ROWS "rows.jsonl.gz"
#define NLA_ACTSET_PART "nla-extract.part" /* of a set's folder, while it is written */
#define NLA_ACTSET_MARKS "batches.jsonl"   /* in there */
#define NLA_ACTSET_DONE "nla-extract.done" /* with what settings and inputs a set was made */

struct nla_row {
	char *doc_id;
	char *text;        /* up to and including the token; "" when the set is slim */
	char *explanation; /* NULL when absent */
	int64_t n_raw_tokens; /* -1 when absent */
	struct nla_strs next; /* the target's likeliest next tokens; none when the set has none */
};

struct nla_actset {
	char *path;
	struct nla_st st;
	struct nla_sidecar meta;
	int64_t n, d;
	struct nla_row *rows; /* [n] */
	struct nla_shard {
		const struct nla_st_entry *entry; /* [rows of the shard, d] */
		int64_t first;                    /* its first row */
	} *shards;
	size_t n_shards;
};
void nla_row_release(struct nla_row *row);
/* No NaN or infinity in its vector v [d]? */
enum nla_status nla_row_finite(const float *v, int64_t d, int64_t row, const char *doc_id, struct nla_err *err);

/* d: the width wanted, or 0 for any. A set of another width is an error that names both. */
enum nla_status nla_actset_open(struct nla_actset *set, const char *folder, int64_t d, struct nla_err *err);
void nla_actset_close(struct nla_actset *set);
/* out [n_rows, d] fp32. A NaN or infinity is an error naming the row. */
enum nla_status nla_actset_vectors(const struct nla_actset *set, const int64_t *rows, size_t n_rows, float *out,
				   struct nla_err *err);
/* What row i of rows [n] gets in place of its own: the next of them that is of another document, the first one after the last.
 * -1: all are of one document. */
int64_t nla_actset_another(const struct nla_actset *set, const int64_t *rows, int64_t n, int64_t i);

/*
 * Writing, streamed: add rows as they come; the baselines are computed and the sidecar written by finish (baseline: over the
 * first 50,000 rows). `meta` supplies layer, d_model, tokens, templates. The folder must not hold a set already. Until
 * finish has succeeded there is no nla_meta.yaml, and a folder without one is not a set. What was written when a program
 * failed, was stopped or killed stays in NLA_ACTSET_PART: create with n continues behind its first n rows. mark adds a line
 * to the marks once all rows so far are with the system: what is needed to continue there.
 */
struct nla_actset_writer;
enum nla_status nla_actset_create(struct nla_actset_writer **out, const char *folder, const struct nla_sidecar *meta,
				  enum nla_st_dtype dtype, int64_t n, struct nla_err *err);
enum nla_status nla_actset_mark(struct nla_actset_writer *w, const char *line, struct nla_err *err);
enum nla_status nla_actset_add(struct nla_actset_writer *w, const struct nla_row *row, const float *v, struct nla_err *err);
enum nla_status nla_actset_finish(struct nla_actset_writer *w, struct nla_err *err); /* frees w also on failure */
void nla_actset_abort(struct nla_actset_writer *w);
/* Where finish was killed when the set was whole: the rest of it. */
enum nla_status nla_actset_publish(const char *folder, struct nla_err *err);
/*
 * The set `from` again at `to`, row i with explanation[i] (NULL: as it was; "": none). Vectors are shared by a hard link, or
 * copied where the file system has none; all else that a row's line holds stays. `to` becomes a set with the last file written,
 * and may hold one already that was made this way: every file is replaced as a whole.
 */
enum nla_status nla_actset_explain(const struct nla_actset *from, const char *to, char *const *explanation,
				   struct nla_err *err);
/* Remove the files of a set, whole or half, and nothing else that the folder holds; none there is no error. */
enum nla_status nla_actset_remove(const char *folder, struct nla_err *err);

/* ---- baselines (spec: AR prediction and score) ---- */

/* Streaming over vectors v [D] (raw): n(v) = v sqrt(D) / max(|v|, 1e-12). */
struct nla_baseline {
	int64_t d, n;
	double *sum;   /* [D] of n(v)             */
	double sum_sq; /* of |n(v)|^2             */
};
#define NLA_BASELINE_ROWS 50000 /* the first ones of a set */
void nla_baseline_init(struct nla_baseline *b, int64_t d);
void nla_baseline_add(struct nla_baseline *b, const float *v);
/* var: mean over rows and D of (n(v)-mu)^2; mean: the same with n(mu) in place of mu. */
void nla_baseline_get(const struct nla_baseline *b, double *var, double *mean);
void nla_baseline_release(struct nla_baseline *b);
/* Those of n rows of a set; rows NULL: the first ones. */
enum nla_status nla_actset_baselines(const struct nla_actset *set, const int64_t *rows, int64_t n, double *var, double *mean,
				     struct nla_err *err);
