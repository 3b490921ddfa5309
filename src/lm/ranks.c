/* Sums, copies and gathered bytes over ranks, all made of the shim's sum, between zeros; see ranks.h. */
#include "lm/ranks.h"

static const struct nt_ranks *ranks;

int64_t nla_rank(void) { return ranks ? ranks->rank : 0; }
int64_t nla_n_ranks(void) { return ranks ? ranks->size : 1; }
void nla_ranks_set(const struct nt_ranks *r) { ranks = r; }

nt_status nla_ranks_start(int device)
{
	if (device == NT_CPU || !ranks)
		return NT_OK;
	nt_scope_push();
	nt_all_reduce(nt_zeros(NT_F32, device, 1, (int64_t[]){ 4 << 20 }));
	nt_scope_pop();
	return nt_check();
}

void nla_share(int64_t n, int64_t rank, int64_t *from, int64_t *to)
{
	*from = n * rank / nla_n_ranks();
	*to = n * (rank + 1) / nla_n_ranks();
}

/* Bytes, of which each rank has its own, or one has all, and the others zeros. Alone they stay. */
static void sum(void *x, size_t bytes)
{
	const int64_t n = (int64_t)bytes;
	nt_scope_push();
	if (n && nt_all_reduce(nt_borrow(NT_U8, x, 1, &n)))
		NLA_BUG("%s", nt_error());
	nt_scope_pop();
}

void nla_ranks_sum(double *x, int64_t n)
{
	nla_auto double *each = nla_alloc((size_t)(n * nla_n_ranks()), sizeof(*each));
	memcpy(each + nla_rank() * n, x, (size_t)n * sizeof(*x));
	sum(each, (size_t)(n * nla_n_ranks()) * sizeof(*x));
	memset(x, 0, (size_t)n * sizeof(*x));
	for (int64_t i = 0; i < n * nla_n_ranks(); i++)
		x[i % n] += each[i];
}

bool nla_ranks_any(bool x)
{
	double n = x;
	nla_ranks_sum(&n, 1);
	return n > 0;
}

void nla_ranks_copy(void *x, size_t bytes)
{
	if (nla_rank())
		memset(x, 0, bytes);
	sum(x, bytes);
}

void nla_ranks_copy_str(struct nla_str *s)
{
	size_t n = s->len;
	nla_ranks_copy(&n, sizeof(n));
	nla_auto char *text = nla_alloc(n + 1, 1);
	memcpy(text, s->buf, NLA_MIN(n, s->len));
	nla_ranks_copy(text, n);
	nla_str_reset(s);
	nla_str_addn(s, text, n);
}

void nla_ranks_gather(struct nla_str *s, size_t *start)
{
	const size_t n = (size_t)nla_n_ranks(), me = (size_t)nla_rank();
	nla_auto size_t *from = nla_alloc(n + 1, sizeof(*from));
	struct nla_str whole = NLA_STR_INIT;
	from[me + 1] = s->len;
	sum(from + 1, n * sizeof(*from));
	for (size_t i = 0; i < n; i++)
		from[i + 1] += from[i];
	if (start)
		memcpy(start, from, (n + 1) * sizeof(*from));
	nla_auto char *zeros = nla_alloc(from[n] + 1, 1);
	memcpy(zeros + from[me], s->buf, s->len);
	sum(zeros, from[n]);
	nla_str_addn(&whole, zeros, from[n]);
	nla_str_release(s);
	*s = whole;
}

void nla_ranks_gather_i64(struct nla_i64s *a)
{
	NLA_AUTO(nla_str_release) struct nla_str s = NLA_STR_INIT;
	nla_str_addn(&s, a->data, a->n * sizeof(*a->data));
	nla_ranks_gather(&s, NULL);
	a->n = 0;
	nla_i64s_append(a, (const int64_t *)(const void *)s.buf, s.len / sizeof(*a->data));
}

void *nla_ranks_whole(void *part, size_t bytes)
{
	struct nla_str s = NLA_STR_INIT;
	if (!part)
		return NULL;
	nla_str_addn(&s, part, bytes);
	nla_ranks_gather(&s, NULL);
	free(part);
	return nla_str_detach(&s);
}

int64_t nla_ranks_least(int64_t x)
{
	NLA_AUTO(nla_i64s_release) struct nla_i64s all = { 0 };
	nla_i64s_push(&all, x);
	nla_ranks_gather_i64(&all);
	for (size_t i = 0; i < all.n; i++)
		x = NLA_MIN(x, all.data[i]);
	return x;
}
