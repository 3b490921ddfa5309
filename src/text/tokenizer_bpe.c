/*
 * tokenizer_bpe - a vocabulary and its merges, see tokenizer_read.h. The symbols of a piece are a linked list, the pairs that
 * can be merged a heap of (rank, place), so no text takes quadratic time. A heap's entry is stale when the rank at its place
 * has changed since.
 */

#include "base/rng.h"
#include "text/tokenizer_read.h"

#define MAX_ID (1 << 24) /* so that a wild id does not take all memory */
#define FREE UINT64_MAX

struct nla_bpe_symbol {
	int32_t id;         /* -1: merged into one to its left     */
	uint32_t rank;      /* of the merge with the next one      */
	int32_t prev, next; /* -1: none                            */
};

void nla_bpe_release(struct nla_bpe *bpe)
{
	free(bpe->tokens);
	free(bpe->ids.entries);
	free(bpe->merges.entries);
	nla_str_release(&bpe->text);
}

/* ---- vocabulary ---- */

static struct nla_bpe_entry *find(const struct nla_bpe_table *t, uint64_t key)
{
	size_t mask = t->size - 1, i = (size_t)(key * 0x9e3779b97f4a7c15u >> 32) & mask;
	while (t->entries[i].key != FREE && t->entries[i].key != key)
		i = (i + 1) & mask;
	return &t->entries[i];
}

/* The same, for a value to come. At most a third full: most look-ups miss, and a miss should end at the first entry. */
static struct nla_bpe_entry *place(struct nla_bpe_table *t, uint64_t key)
{
	const struct nla_bpe_table old = *t;
	if (t->n++ * 3 >= t->size) {
		t->size = t->size ? t->size * 4 : 1024;
		t->entries = nla_alloc(t->size, sizeof(*t->entries));
		memset(t->entries, 0xff, t->size * sizeof(*t->entries));
		for (size_t i = 0; i < old.size; i++)
			if (old.entries[i].key != FREE)
				*find(t, old.entries[i].key) = old.entries[i];
		free(old.entries);
	}
	find(t, key)->key = key;
	return find(t, key);
}

static uint64_t text_key(const char *text, size_t n) { return nla_hash(text, n) >> 1; } /* never FREE */

enum nla_status nla_bpe_add_token(struct nla_bpe *bpe, const char *name, const char *text, size_t n, double number,
				  uint8_t flags, struct nla_err *err)
{
	struct nla_bpe_token *token;
	struct nla_bpe_entry *entry;
	int32_t id;
	if (isnan(number))
		return nla_fail(err, "cannot read '%s': the id of token '%s' is no number", name, text);
	if (!(number >= 0 && number < MAX_ID) || number != (int32_t)number)
		return nla_fail(err, "cannot read '%s': token '%s' has id %.15g, want a whole number from 0 to %d", name, text,
				number, MAX_ID - 1);
	id = (int32_t)number;
	if (id >= bpe->cap) {
		int32_t cap = NLA_MAX(id + 1, NLA_MAX(1024, 2 * bpe->cap));
		bpe->tokens = nla_realloc(bpe->tokens, (size_t)cap, sizeof(*bpe->tokens));
		memset(bpe->tokens + bpe->cap, 0, (size_t)(cap - bpe->cap) * sizeof(*bpe->tokens));
		bpe->cap = cap;
	}
	token = &bpe->tokens[id];
	entry = place(&bpe->ids, text_key(text, n));
	if (token->flags)
		return nla_fail(err, "cannot read '%s': tokens '%s' and '%s' have the same id %d", name,
				bpe->text.buf + token->offset, text, id);
	if (entry->value != FREE)
		return nla_fail(err, "cannot read '%s': token '%s' has two ids, %d and %d", name, text, (int)entry->value, id);
	entry->value = (uint64_t)id;
	bpe->n = NLA_MAX(bpe->n, id + 1);
	token->offset = bpe->text.len;
	token->length = (uint32_t)n;
	token->flags = flags | NLA_BPE_USED;
	nla_str_addn(&bpe->text, text, n);
	nla_str_addc(&bpe->text, '\0');
	return NLA_OK;
}

int32_t nla_bpe_id(const struct nla_bpe *bpe, const char *text, size_t n)
{
	const int32_t id = bpe->ids.size ? (int32_t)find(&bpe->ids, text_key(text, n))->value : -1;
	if (id < 0 || bpe->tokens[id].length != n || memcmp(bpe->text.buf + bpe->tokens[id].offset, text, n))
		return -1;
	return id;
}

int32_t nla_bpe_piece(const struct nla_bpe *bpe, const char *text, size_t n)
{
	const int32_t id = nla_bpe_id(bpe, text, n);
	return id >= 0 && bpe->tokens[id].flags & NLA_BPE_MODEL ? id : -1;
}

const char *nla_bpe_text(const struct nla_bpe *bpe, int32_t id, size_t *n)
{
	if (id < 0 || id >= bpe->n || !bpe->tokens[id].flags)
		return NULL;
	*n = bpe->tokens[id].length;
	return bpe->text.buf + bpe->tokens[id].offset;
}

/* ---- merges ---- */

static uint64_t pair_key(int32_t left, int32_t right) { return (uint64_t)left << 32 | (uint32_t)right; }

void nla_bpe_add_merge(struct nla_bpe *bpe, uint32_t rank, int32_t left, int32_t right, int32_t merged)
{
	place(&bpe->merges, pair_key(left, right))->value = (uint64_t)rank << 32 | (uint32_t)merged;
}

void nla_bpe_work_add(struct nla_bpe_work *work, int32_t id)
{
	work->symbols = nla_grow(work->symbols, work->n, 1, &work->cap, sizeof(*work->symbols));
	work->symbols[work->n++].id = id;
}

void nla_bpe_work_release(struct nla_bpe_work *work)
{
	free(work->symbols);
	free(work->heap);
}

/* Rank the pair that begins at a place, and queue it. */
static void heap_push(const struct nla_bpe *bpe, struct nla_bpe_work *work, int32_t at)
{
	struct nla_bpe_symbol *s = &work->symbols[at];
	uint64_t entry;
	size_t i;
	s->rank = UINT32_MAX; /* as in a free entry */
	if (s->next >= 0)
		s->rank = (uint32_t)(find(&bpe->merges, pair_key(s->id, work->symbols[s->next].id))->value >> 32);
	if (s->rank == UINT32_MAX)
		return;
	work->heap = nla_grow(work->heap, work->n_heap, 1, &work->cap_heap, sizeof(*work->heap));
	entry = (uint64_t)s->rank << 32 | (uint32_t)at;
	for (i = work->n_heap++; i > 0 && work->heap[(i - 1) / 2] > entry; i = (i - 1) / 2)
		work->heap[i] = work->heap[(i - 1) / 2];
	work->heap[i] = entry;
}

static uint64_t heap_pop(struct nla_bpe_work *work)
{
	uint64_t *heap = work->heap, top = heap[0], last = heap[--work->n_heap];
	size_t i = 0;
	for (size_t child = 1; child < work->n_heap; child = 2 * i + 1) {
		child += child + 1 < work->n_heap && heap[child + 1] < heap[child];
		if (heap[child] >= last)
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = last;
	return top;
}

void nla_bpe_merge(const struct nla_bpe *bpe, struct nla_bpe_work *work, struct nla_i32s *ids)
{
	struct nla_bpe_symbol *s = work->symbols;
	for (size_t i = 0; i < work->n; i++) {
		s[i].prev = (int32_t)i - 1;
		s[i].next = i + 1 < work->n ? (int32_t)i + 1 : -1;
	}
	for (size_t i = 0; bpe->merges.size && i < work->n; i++)
		heap_push(bpe, work, (int32_t)i);
	while (work->n_heap) {
		uint64_t entry = heap_pop(work);
		int32_t at = (int32_t)(uint32_t)entry, right = s[at].next;
		if (s[at].id < 0 || s[at].rank != entry >> 32)
			continue;
		s[at].id = (int32_t)find(&bpe->merges, pair_key(s[at].id, s[right].id))->value;
		s[at].next = s[right].next;
		s[right].id = -1;
		if (s[at].next >= 0)
			s[s[at].next].prev = at;
		heap_push(bpe, work, at);
		if (s[at].prev >= 0)
			heap_push(bpe, work, s[at].prev);
	}
	for (size_t i = 0; i < work->n; i++)
		if (s[i].id >= 0)
			nla_i32s_push(ids, s[i].id);
	work->n = 0;
}

/* ---- the alphabet: printable bytes of Latin-1 stand for themselves, the other 68 become U+0100, U+0101, ... in order ---- */

uint32_t nla_bpe_letter(unsigned char b)
{
	if (b < 0x21)
		return 0x100u + b;
	if (b >= 0x7f && b <= 0xa0)
		return 0x121u + (b - 0x7fu);
	return b == 0xad ? 0x143u : b;
}

int nla_bpe_byte(uint32_t letter)
{
	uint32_t b = letter < 0x100 ? letter : letter < 0x121 ? letter - 0x100 : letter - 0x121 + 0x7f;
	b = letter == 0x143 ? 0xad : b;
	return b < 256 && nla_bpe_letter((unsigned char)b) == letter ? (int)b : -1;
}
