/*
 * tokenizer_proto - a BPE vocabulary as a sentencepiece ModelProto (sentencepiece_model.proto), so that
 * sentencepiece does the merging: a BPE model with the identity normaliser, no dummy prefix, white space left alone.
 *
 * sentencepiece knows no merge list: it joins any two neighbours whose text is a piece, highest score first. With score = -rank
 * that is the same as the list if no piece's text can be met split in another way than its merge splits it. nla_tok_reach()
 * establishes that: tokens which their own merges do not reach get no usable text here.
 *
 * Piece 0 is the unknown one, which sentencepiece insists on. Its text, and that of holes and unreachable tokens, starts with a
 * space, which is no character of the byte alphabet, so no input can match it.
 */
#include <stdio.h>
#include <string.h>

#include "text/tokenizer_impl.h"

enum { WIRE_VARINT = 0, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
enum { PROTO_PIECES = 1, PROTO_TRAINER = 2, PROTO_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3, PIECE_TYPE_UNKNOWN = 2, PIECE_TYPE_BYTE = 6 };
enum { TRAINER_MODEL_TYPE = 3, TRAINER_BYTE_FALLBACK = 35, MODEL_TYPE_BPE = 2 };
enum { NORM_NAME = 1, NORM_DUMMY_PREFIX = 3, NORM_REMOVE_SPACES = 4, NORM_ESCAPE_SPACES = 5 };

static void add_varint(struct nla_str *out, uint64_t x)
{
	while (x >= 0x80) {
		nla_str_addc(out, (char)(x | 0x80));
		x >>= 7;
	}
	nla_str_addc(out, (char)x);
}

static void add_number(struct nla_str *out, unsigned field, uint64_t x)
{
	add_varint(out, field << 3 | WIRE_VARINT);
	add_varint(out, x);
}

static void add_bytes(struct nla_str *out, unsigned field, const char *bytes, size_t n)
{
	add_varint(out, field << 3 | WIRE_BYTES);
	add_varint(out, n);
	nla_str_addn(out, bytes, n);
}

static void add_float(struct nla_str *out, unsigned field, float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	add_varint(out, field << 3 | WIRE_FIXED32);
	for (int shift = 0; shift < 32; shift += 8)
		nla_str_addc(out, (char)(bits >> shift));
}

static void add_piece(struct nla_str *out, struct nla_str *message, const char *text, size_t n, float score, unsigned type)
{
	nla_str_reset(message);
	add_bytes(message, PIECE_TEXT, text, n);
	add_float(message, PIECE_SCORE, score);
	if (type)
		add_number(message, PIECE_TYPE, type);
	add_bytes(out, PROTO_PIECES, message->buf, message->len);
}

void nla_tok_proto(const struct nla_tok_vocab *v, const int32_t *rank, struct nla_str *out)
{
	struct nla_str message = NLA_STR_INIT;
	bool bytes = false;
	char unmatchable[24];

	add_piece(out, &message, " unknown", 8, 0, PIECE_TYPE_UNKNOWN);
	for (int32_t id = 0; id < v->n; id++) {
		size_t n;
		const char *text = nla_tok_vocab_text(v, id, &n);

		if (v->flags[id] & NLA_TOK_BYTE) {
			add_piece(out, &message, text, n, 0, PIECE_TYPE_BYTE);
			bytes = true;
		} else if (rank[id] >= 0) {
			add_piece(out, &message, text, n, -(float)rank[id], 0);
		} else {
			n = (size_t)snprintf(unmatchable, sizeof(unmatchable), " %d", (int)id);
			add_piece(out, &message, unmatchable, n, 0, 0);
		}
	}
	nla_str_reset(&message);
	add_number(&message, TRAINER_MODEL_TYPE, MODEL_TYPE_BPE);
	add_number(&message, TRAINER_BYTE_FALLBACK, bytes);
	add_bytes(out, PROTO_TRAINER, message.buf, message.len);
	nla_str_reset(&message);
	add_bytes(&message, NORM_NAME, "identity", 8);
	add_number(&message, NORM_DUMMY_PREFIX, 0);
	add_number(&message, NORM_REMOVE_SPACES, 0);
	add_number(&message, NORM_ESCAPE_SPACES, 0);
	add_bytes(out, PROTO_NORMALIZER, message.buf, message.len);
	nla_str_release(&message);
}
