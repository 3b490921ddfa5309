/*
 * sp - a C face of sentencepiece as a BPE merge engine. Only pointers and sizes cross. A model is a serialised ModelProto, and
 * is never changed after it is made, so any number of threads may use it at once. Errors: NULL or a negative count; sp_error()
 * has the text (thread-local).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sp_model sp_model;

sp_model *sp_from_bytes(const void *proto, size_t n);
void sp_free(sp_model *m);
/* Ids of text[0..n) into ids[0..cap); returns how many there are (may exceed cap: call again with room), or -1. */
int64_t sp_encode(const sp_model *m, const char *text, size_t n, int32_t *ids, size_t cap);
const char *sp_error(void);

#ifdef __cplusplus
}
#endif
