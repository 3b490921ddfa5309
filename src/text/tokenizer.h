/*
 * tokenizer - text to ids and back, equal to the `tokenizers` library on the files of the families we load.
 *
 * Reads from a model folder a Hugging Face tokenizer.json, byte-level (Qwen, Llama 3, SmolLM2) or of sentencepiece's kind
 * (Llama 2), or a sentencepiece `.model`. A byte-level one: split off added tokens, normalise (NFC or none), split by the
 * file's own regexes (PCRE2), map bytes to GPT-2's alphabet, run the merges. The other kind: split off added tokens, write
 * spaces as U+2581 and put one in front, as transformers' LlamaTokenizer does, run the merges (sentencepiece those of a
 * `.model`); a character without a token falls back on its bytes. Anything in the file that we cannot honour is an error
 * naming the field. Where a space is put in front, and what tokens are added to a `.model`, tokenizer_config.json says.
 *
 * Usage:
 *	struct nla_tokenizer *tok;
 *	if (nla_tokenizer_load(&tok, "model/", err)) ...
 *	struct nla_i32s ids = {0};
 *	nla_tokenizer_encode(tok, text, strlen(text), &ids, err);
 *	nla_tokenizer_free(tok);
 *
 * A loaded tokenizer never changes: any number of threads may encode and decode with it at once.
 */
#pragma once

#include "base/base.h"

struct nla_tokenizer;

/* From a model folder (tokenizer.json first, else tokenizer.model). *out is NULL on failure. */
enum nla_status nla_tokenizer_load(struct nla_tokenizer **out, const char *folder, struct nla_err *err);
void nla_tokenizer_free(struct nla_tokenizer *tok); /* NULL is fine */

/* Highest id + 1, added tokens included; ids between may be unused. */
int32_t nla_tokenizer_size(const struct nla_tokenizer *tok);
/* From now on a text that gets an id from n on is an error: the model has no such token (a pad token that no text has is
 * harmless). */
void nla_tokenizer_limit(struct nla_tokenizer *tok, int32_t n);
/* Id of a token by its text: an added token ("<|im_end|>") or a vocabulary entry in the file's spelling; -1: there is none. */
int32_t nla_tokenizer_id(const struct nla_tokenizer *tok, const char *token);

/* What the tokenizer puts in front of a text by default: a BOS or nothing; borrowed. As transformers 5 has it: by
 * tokenizer.json's post_processor, for a `.model` by add_bos_token. */
const struct nla_i32s *nla_tokenizer_front(const struct nla_tokenizer *tok);
/* Does it put tokens behind a text, too? */
bool nla_tokenizer_behind(const struct nla_tokenizer *tok);

/* Ids of text, appended, without special tokens put around it; added tokens that occur in the text are recognised. Text that is
 * not valid UTF-8 is an error. On an error ids is as it was. */
enum nla_status nla_tokenizer_encode(const struct nla_tokenizer *tok, const char *text, size_t n, struct nla_i32s *ids,
				     struct nla_err *err);
/* The same, where a token that the model lacks is no error; and the first such id from ids[from] on, -1: none. */
enum nla_status nla_tokenizer_encode_any(const struct nla_tokenizer *tok, const char *text, size_t n, struct nla_i32s *ids,
					 struct nla_err *err);
int32_t nla_tokenizer_unknown(const struct nla_tokenizer *tok, const struct nla_i32s *ids, size_t from);
/* Text of ids, appended to out. skip_special leaves out added tokens marked special. Bytes that are not valid UTF-8 (a
 * character cut between tokens) come out as U+FFFD, as in the reference, and so do ids without a token. */
void nla_tokenizer_decode(const struct nla_tokenizer *tok, const int32_t *ids, size_t n, bool skip_special,
			  struct nla_str *out);
/* The text of one token as it stands in a text (for showing tokens one by one), appended raw: may be half a character. */
void nla_tokenizer_piece(const struct nla_tokenizer *tok, int32_t id, struct nla_str *out);
/* crc32 of everything that decides ids (vocabulary, merges, added tokens, normaliser, splits): tells tokenizer drift. */
uint32_t nla_tokenizer_crc(const struct nla_tokenizer *tok);
