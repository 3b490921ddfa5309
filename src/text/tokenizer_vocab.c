/*
 * tokenizer_vocab - token text <-> id, the merge list, and which tokens merging reaches.
 *
 * The last is what makes sentencepiece exact as the merge engine (tokenizer_proto.c). Run the merge list on each token's own
 * text. If it ends in the token, then whenever two neighbours a, b spell that token in some text, no merge has crossed their
 * outer borders yet, so they are a state of the very same run, whose last state before the token is the pair of its merge:
 * a, b is that pair. If it does not end in the token, no text ever yields it, and sentencepiece must not see it. A piece of
 * text that is a reached token therefore needs no merging at all, which is most of a text.
 */
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/utf8.h"
#include "text/tokenizer_impl.h"

void nla_tok_vocab_release(struct nla_tok_vocab *v)
{
	free(v->offset);
	free(v->length);
	free(v->flags);
	free(v->slots);
	nla_str_release(&v->text);
	memset(v, 0, sizeof(*v));
	nla_str_init(&v->text);
}

static size_t vocab_slot(const struct nla_tok_vocab *v, const char *text, size_t n)
{
	size_t mask = v->n_slots - 1, i = nla_hash(text, n) & mask;

	for (; v->slots[i] >= 0; i = (i + 1) & mask) {
		int32_t id = v->slots[i];

		if (v->length[id] == n && !memcmp(v->text.buf + v->offset[id], text, n))
			break;
	}
	return i;
}

static int32_t *empty_slots(size_t n)
{
	int32_t *slots = nla_alloc(n, sizeof(*slots));

	for (size_t i = 0; i < n; i++)
		slots[i] = -1;
	return slots;
}

/* Kept at most a third full: most look-ups of merges and pieces miss, and a miss should end at the first slot. */
static void vocab_grow(struct nla_tok_vocab *v)
{
	if (v->n_used * 3 < v->n_slots)
		return;
	free(v->slots);
	v->n_slots = v->n_slots ? v->n_slots * 4 : 1024;
	v->slots = empty_slots(v->n_slots);
	for (int32_t id = 0; id < v->n; id++)
		if (v->flags[id] & NLA_TOK_USED)
			v->slots[vocab_slot(v, v->text.buf + v->offset[id], v->length[id])] = id;
}

static void vocab_reserve(struct nla_tok_vocab *v, int32_t n)
{
	if (n > v->cap) {
		v->cap = NLA_MAX(n, NLA_MAX(1024, 2 * v->cap));
		v->offset = nla_realloc(v->offset, (size_t)v->cap, sizeof(*v->offset));
		v->length = nla_realloc(v->length, (size_t)v->cap, sizeof(*v->length));
		v->flags = nla_realloc(v->flags, (size_t)v->cap, sizeof(*v->flags));
	}
	for (; v->n < n; v->n++) {
		v->offset[v->n] = v->length[v->n] = 0;
		v->flags[v->n] = 0;
	}
}

enum nla_status nla_tok_vocab_add(struct nla_tok_vocab *v, const char *name, const char *text, size_t n, int64_t id,
				  uint8_t flags, struct nla_err *err)
{
	if (id < 0 || id >= NLA_TOK_MAX_ID)
		return nla_fail(err, "cannot read '%s': token '%s' has id %lld, want 0 to %d", name, text, (long long)id,
				NLA_TOK_MAX_ID - 1);
	vocab_grow(v);
	vocab_reserve(v, (int32_t)id + 1);
	if (v->flags[id] & NLA_TOK_USED)
		return nla_fail(err, "cannot read '%s': tokens '%s' and '%s' have the same id %lld", name,
				v->text.buf + v->offset[id], text, (long long)id);
	size_t slot = vocab_slot(v, text, n);

	if (v->slots[slot] >= 0)
		return nla_fail(err, "cannot read '%s': token '%s' has two ids, %d and %lld", name, text, v->slots[slot],
				(long long)id);
	v->slots[slot] = (int32_t)id;
	v->n_used++;
	v->offset[id] = v->text.len;
	v->length[id] = (uint32_t)n;
	v->flags[id] = flags | NLA_TOK_USED;
	nla_str_addn(&v->text, text, n);
	nla_str_addc(&v->text, '\0');
	return NLA_OK;
}

int32_t nla_tok_vocab_id(const struct nla_tok_vocab *v, const char *text, size_t n)
{
	return v->n_slots ? v->slots[vocab_slot(v, text, n)] : -1;
}

const char *nla_tok_vocab_text(const struct nla_tok_vocab *v, int32_t id, size_t *n)
{
	if (id < 0 || id >= v->n || !(v->flags[id] & NLA_TOK_USED))
		return NULL;
	*n = v->length[id];
	return v->text.buf + v->offset[id];
}

void nla_tok_merges_push(struct nla_tok_merges *m, struct nla_tok_merge merge)
{
	if (m->n == m->cap) {
		m->cap = NLA_MAX(1024, 2 * m->cap);
		m->data = nla_realloc(m->data, (size_t)m->cap, sizeof(*m->data));
	}
	m->data[m->n++] = merge;
}

void nla_tok_merges_release(struct nla_tok_merges *m)
{
	free(m->data);
	free(m->slots);
	memset(m, 0, sizeof(*m));
}

static size_t merge_slot(const struct nla_tok_merges *m, int32_t left, int32_t right)
{
	uint64_t key = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
	size_t mask = m->n_slots - 1, i = (size_t)(key >> 32) & mask;

	while (m->slots[i] >= 0 && (m->data[m->slots[i]].left != left || m->data[m->slots[i]].right != right))
		i = (i + 1) & mask;
	return i;
}

/* A pair that is listed twice counts at its later place, as in the reference. */
static void index_merges(struct nla_tok_merges *m)
{
	m->n_slots = 1024;
	while (m->n_slots < (size_t)m->n * 3)
		m->n_slots *= 2;
	m->slots = empty_slots(m->n_slots);
	for (int32_t rank = 0; rank < m->n; rank++)
		m->slots[merge_slot(m, m->data[rank].left, m->data[rank].right)] = rank;
}

static int32_t pair_rank(const struct nla_tok_merges *m, int32_t left, int32_t right)
{
	return m->slots[merge_slot(m, left, right)];
}

/* Run the merge list on symbols[0..n): lowest rank first, leftmost where equal. Returns the rank of the last merge when all
 * have become one, else -1. between[] is scratch: the rank of symbols[i] with symbols[i + 1]. */
static int32_t run_merges(const struct nla_tok_merges *m, int32_t *symbols, int32_t *between, size_t n)
{
	int32_t last = 0;

	for (size_t i = 0; i + 1 < n; i++)
		between[i] = pair_rank(m, symbols[i], symbols[i + 1]);
	while (n > 1) {
		size_t best = n;

		for (size_t i = 0; i + 1 < n; i++)
			if (between[i] >= 0 && (best == n || between[i] < between[best]))
				best = i;
		if (best == n)
			return -1;
		last = between[best];
		symbols[best] = m->data[last].result;
		n--;
		memmove(symbols + best + 1, symbols + best + 2, (n - best - 1) * sizeof(*symbols));
		memmove(between + best, between + best + 1, (n - best - 1) * sizeof(*between));
		if (best > 0)
			between[best - 1] = pair_rank(m, symbols[best - 1], symbols[best]);
		if (best + 1 < n)
			between[best] = pair_rank(m, symbols[best], symbols[best + 1]);
	}
	return last;
}

void nla_tok_reach(struct nla_tok_vocab *v, struct nla_tok_merges *m, const struct nla_tok_alphabet *a, int32_t *rank)
{
	struct nla_i32s symbols = {0}, between = {0};
	int32_t byte_id[256];

	for (int b = 0; b < 256; b++) {
		byte_id[b] = nla_tok_vocab_id(v, a->utf8[b], a->length[b]);
		if (byte_id[b] >= 0 && !(v->flags[byte_id[b]] & NLA_TOK_MODEL))
			byte_id[b] = -1;
	}
	index_merges(m);
	for (int32_t id = 0; id < v->n; id++) {
		size_t n = 0, i = 0, length;
		const char *text = nla_tok_vocab_text(v, id, &n);
		uint32_t cp;

		rank[id] = -1;
		if (!text || !(v->flags[id] & NLA_TOK_MODEL))
			continue;
		symbols.n = between.n = 0;
		for (; i < n && (length = nla_utf8_next(text + i, n - i, &cp)) > 0; i += length) {
			if (cp >= NLA_LEN(a->byte) || a->byte[cp] < 0 || byte_id[a->byte[cp]] < 0)
				break;
			nla_i32s_push(&symbols, byte_id[a->byte[cp]]);
			nla_i32s_push(&between, -1);
		}
		if (i < n || !n)
			continue;
		rank[id] = run_merges(m, symbols.data, between.data, symbols.n);
		if (rank[id] >= 0)
			v->flags[id] |= NLA_TOK_WHOLE;
	}
	nla_i32s_release(&symbols);
	nla_i32s_release(&between);
}
