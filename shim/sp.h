/*
 * sp - a C face of sentencepiece: a BPE merge engine and native `.model` files. Only pointers and sizes cross.
 *
 * Two ways to make one:
 *   sp_from_model   a native sentencepiece .model file
 *   sp_from_bytes   a serialised ModelProto built in memory: how src/lm/tokenizer_proto.c runs a byte-level BPE tokenizer.json
 * Errors: NULL or a negative count; sp_error() has the text (thread-local). A model is never changed after it is made, so any
 * number of threads may use it at once.
 */
#ifndef SP_H
#define SP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sp_model sp_model;

sp_model *sp_from_model(const char *path);
sp_model *sp_from_bytes(const void *proto, size_t n);
void sp_free(sp_model *m);

enum sp_kind { SP_NORMAL, SP_UNKNOWN, SP_CONTROL, SP_BYTE, SP_UNUSED };

int32_t sp_vocab_size(const sp_model *m);
int32_t sp_piece_id(const sp_model *m, const char *piece);      /* the unknown id when absent */
const char *sp_piece(const sp_model *m, int32_t id);            /* borrowed; NULL when out of range */
float sp_score(const sp_model *m, int32_t id);                  /* 0 when out of range */
enum sp_kind sp_kind(const sp_model *m, int32_t id);            /* SP_UNUSED when out of range */
int32_t sp_unk_id(const sp_model *m);
int32_t sp_bos_id(const sp_model *m);                           /* -1: none */
int32_t sp_eos_id(const sp_model *m);                           /* -1: none */

/* Ids of text[0..n) into ids[0..cap); returns how many there are (may exceed cap: call again with room), or -1. */
int64_t sp_encode(const sp_model *m, const char *text, size_t n, int32_t *ids, size_t cap);
/* Text of ids into out[0..cap), not terminated; returns its length (may exceed cap), or -1. */
int64_t sp_decode(const sp_model *m, const int32_t *ids, size_t n, char *out, size_t cap);

const char *sp_error(void);

#ifdef __cplusplus
}
#endif
#endif
