/* Opening target, AV and AR; one activation v [D] of a file, a text's token, or a set's row; a new set's sidecar (models.h). */
#include "run/models.h"
#include "base/file.h"
#include "lm/selfcheck.h"
#include "nla/extract.h"
#include "run/folder.h"

enum nla_status nla_models_open(struct nla_models *m, const struct nla_config *cfg, const char *av, const char *ar,
				int64_t *room, struct nla_err *err)
{
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(cfg->av, "av", err) ||
	    nla_config_need(cfg->ar, "ar", err) || nla_config_target(cfg, av, -1, room, &m->target, err) ||
	    nla_half_open(&m->av, NLA_AV, &m->target, av, cfg->av_base, err) ||
	    nla_half_open(&m->ar, NLA_AR, &m->target, ar, cfg->ar_base, err))
		return err->status;
	return nla_contract_fits(&m->av.meta, &m->target, &m->av.meta, &m->ar.meta, cfg->av, err);
}

enum nla_status nla_models_lora(const struct nla_config *cfg, struct nla_lora_spec *spec, struct nla_err *err)
{
	*spec = (struct nla_lora_spec){ .rank = cfg->lora.rank, .alpha = cfg->lora.alpha, .rslora = cfg->lora.rslora };
	return nla_lora_targets(cfg->lora.targets, &spec->targets, err) ? nla_err_context(err, "'lora.targets'") : NLA_OK;
}

void nla_models_close(struct nla_models *m)
{
	nla_half_release(&m->av);
	nla_half_release(&m->ar);
	nla_target_close(&m->target);
}

struct nla_rl nla_models_rl(const struct nla_models *m, const struct nla_config *cfg)
{
	struct nla_view av = nla_half_view(&m->av);
	return (struct nla_rl){ .rollout = cfg->rollout, .reward = cfg->reward, .min_std = cfg->advantage.min_std, .av = &m->av,
				.ar = &m->ar, .policy = av, .reference = av, .sampler = av, .ar_view = nla_half_view(&m->ar),
				.rng = { (uint64_t)cfg->seed, NLA_STREAM_EVAL },
				.own_baseline = cfg->eval.baseline };
}

/* A view with its adapters merged into a copy of its weights, which then is the view. */
static enum nla_status make_copy(struct nla_lm *copy, struct nla_view *view, int64_t depth, struct nla_err *err)
{
	nt_grad_push(false);
	nla_merge_copy(copy, view, depth, err);
	nt_grad_pop();
	*view = (struct nla_view){ .lm = copy };
	return err->status;
}

enum nla_status nla_copies_make(struct nla_copies *c, const struct nla_models *m, const struct nla_adapter *trained, int copies,
				bool ar_frozen, struct nla_rl *rl, struct nla_err *err)
{
	const bool anchor = copies & NLA_PLAN_ANCHOR;
	if ((anchor && rl->reference.n_adapters && make_copy(&c->anchor, &rl->reference, m->av.depth, err)) ||
	    (anchor && ar_frozen && rl->ar_view.n_adapters && make_copy(&c->reader, &rl->ar_view, m->ar.depth, err)))
		return err->status;
	rl->policy = rl->reference;
	if (trained)
		rl->policy.adapters[rl->policy.n_adapters++] = trained;
	rl->sampler = rl->policy;
	rl->merged = copies & NLA_PLAN_DECODER ? &c->merged : NULL;
	return rl->merged ? make_copy(rl->merged, &rl->sampler, m->av.depth, err) : NLA_OK;
}

void nla_copies_release(struct nla_copies *c)
{
	nla_lm_release(&c->merged);
	nla_lm_release(&c->anchor);
	nla_lm_release(&c->reader);
}

struct nla_plan_in nla_models_sizes(const struct nla_models *m, const struct nla_config *cfg)
{
	const struct nla_lm *lm = &m->target.lm;
	return (struct nla_plan_in){ .arch = &lm->arch, .dtype = lm->dtype, .gpu = lm->device != NT_CPU,
				     .plain = nla_gpu_plain(lm->device),
				     .weights = nla_plan_loaded(&m->target, &m->av, &m->ar),
				     .av = m->av.adapter.layers ? &m->av.adapter : NULL,
				     .ar = m->ar.adapter.layers ? &m->ar.adapter : NULL,
				     .ar_depth = m->ar.depth, .prompt = (int64_t)m->av.prompt.n, .prompt_head = m->av.marker,
				     .new_tokens = cfg->rollout.max_new_tokens };
}

double nla_length(const float *v, int64_t d)
{
	double sum = 0;
	for (int64_t j = 0; j < d; j++)
		sum += (double)v[j] * v[j];
	return sqrt(sum);
}

/* Room for n activations. */
static void make_room(struct nla_subject *s, int64_t n, int64_t d)
{
	s->n = n;
	s->d = d;
	s->v = nla_alloc((size_t)(n * d), sizeof(*s->v));
	s->token = nla_alloc((size_t)n, sizeof(*s->token));
	s->position = nla_alloc((size_t)n, sizeof(*s->position));
	for (int64_t i = 0; i < n; i++)
		s->position[i] = -1;
}

static enum nla_status from_file(struct nla_subject *s, const char *path, int64_t d, struct nla_err *err)
{
	NLA_AUTO(nla_st_close) struct nla_st st = { 0 };
	if (nla_st_open(&st, path, err))
		return err->status;
	const struct nla_st_entry *e = st.n_entries == 1 ? &st.entries[0] : NULL;
	const size_t row = e && e->dtype <= NLA_ST_F16 ? (size_t)d * nla_st_dtype_size(e->dtype) : 0;
	if (!row || !e->nbytes || e->nbytes % row || (e->nbytes > row && e->shape[e->ndim - 1] != d))
		return nla_fail(err, "'%s': want one float tensor, [D] or [N, D], of vectors of %lld numbers", path,
				(long long)d);
	make_room(s, (int64_t)(e->nbytes / row), d);
	nt_scope_push();
	if (!nla_tensor_check(&st, e, err) && nt_to_host_f32(nla_tensor_borrow(e), s->v, (size_t)(s->n * d)))
		nla_nt_fail(err, "cannot read '%s'", path);
	nt_scope_pop();
	for (int64_t i = 0; i < s->n && !err->status; i++)
		if (nla_length(s->v + i * d, d) == 0)
			nla_fail(err, "'%s': vector %lld is all zeros: it has no direction to explain", path, (long long)i);
	return err->status;
}

static void set_token(struct nla_subject *s, int64_t i, const struct nla_models *m, const struct nla_i32s *ids, int64_t at)
{
	struct nla_str piece = NLA_STR_INIT;
	s->position[i] = at;
	if (at < 0 || at >= (int64_t)ids->n)
		return;
	nla_tokenizer_piece(m->target.tok, ids->data[at], &piece);
	s->token[i] = nla_str_detach(&piece);
}

/* "all", "every:N", or numbers (negative: from the end), of n tokens; the first `front` are none of the text's own. */
static enum nla_status read_positions(const char *spec, int64_t n, int64_t front, struct nla_i64s *out, struct nla_err *err)
{
	const bool all = !strcmp(spec, "all"), every = nla_starts_with(spec, "every:");
	const char *from = every ? spec + 6 : spec;
	char *end = NULL;
	const long long step = all ? 1 : every ? strtoll(from, &end, 10) : 0;
	for (int64_t i = front; step > 0 && i < n; i += NLA_MIN(step, n))
		nla_i64s_push(out, i);
	for (bool more = !all && !every; more; from = end + 1) {
		const long long at = strtoll(from, &end, 10);
		more = *end == ',';
		if (end == from || (*end && !more))
			break;
		if (at < -n || at >= n)
			return nla_usage(err, "position %lld is outside the text's %lld tokens", at, (long long)n);
		nla_i64s_push(out, at < 0 ? n + at : at);
	}
	if (!all && (end == from || *end || (every && step < 1)))
		return nla_usage(err, "'explain.positions' is '%s': want all, every:N, or such as 3,7,-1", spec);
	return out->n ? NLA_OK : nla_usage(err, "the text has no tokens to explain");
}

/* The text itself, or what @FILE or stdin (-) holds. */
static enum nla_status read_text(const char *text, struct nla_str *out, struct nla_err *err)
{
	if (!strcmp(text, "-") || *text == '@') {
		if (nla_file_read(*text == '@' ? text + 1 : "/dev/stdin", out, err))
			return err->status;
		if (memchr(out->buf, 0, out->len))
			return nla_fail(err, "'%s' holds a zero byte: want text", text);
		if (out->len && out->buf[out->len - 1] == '\n') /* it ends the line, not the text */
			out->buf[--out->len] = '\0';
	} else {
		nla_str_add(out, text);
	}
	return out->len ? NLA_OK : nla_usage(err, "'explain.text' is '%s', which is empty", text);
}

static enum nla_status from_text(struct nla_subject *s, const struct nla_models *m, const struct nla_config *cfg,
				 struct nla_err *err)
{
	const bool special = nla_target_adds_special(&m->target, &m->ar.meta), one = !*cfg->explain.positions;
	const int64_t front = special ? (int64_t)nla_tokenizer_front(m->target.tok)->n : 0;
	NLA_AUTO(nla_i32s_release) struct nla_i32s ids = { 0 };
	NLA_AUTO(nla_i64s_release) struct nla_i64s at = { 0 };
	NLA_AUTO(nla_str_release) struct nla_str text = NLA_STR_INIT, prefix = NLA_STR_INIT;
	nla_auto char *position = nla_format("%lld", (long long)cfg->explain.position);
	if (read_text(cfg->explain.text, &text, err) || nla_target_encode(&m->target, special, text.buf, &ids, err) ||
	    read_positions(one ? position : cfg->explain.positions, (int64_t)ids.n, front, &at, err))
		return err->status;
	make_room(s, (int64_t)at.n, m->target.lm.arch.d_model);
	for (int64_t i = 0; i < s->n; i++)
		set_token(s, i, m, &ids, at.data[i]);
	if (nla_extract_at(&m->target, &ids, at.data, s->n, m->ar.depth - 1, s->v, err) || !one)
		return err->status;
	nla_tokenizer_decode(m->target.tok, ids.data + front, (size_t)NLA_MAX(at.data[0] + 1 - front, 0), false, &prefix);
	s->text = nla_str_detach(&prefix);
	return NLA_OK;
}

static enum nla_status from_row(struct nla_subject *s, const struct nla_models *m, const struct nla_config *cfg,
				struct nla_err *err)
{
	NLA_AUTO(nla_actset_close) struct nla_actset set = { 0 };
	NLA_AUTO(nla_i32s_release) struct nla_i32s ids = { 0 };
	if (nla_config_need(cfg->data, "data", err) || nla_actset_open(&set, cfg->data, m->target.lm.arch.d_model, err))
		return err->status;
	if (cfg->explain.row >= set.n)
		nla_usage(err, "'explain.row' is %lld: '%s' has rows 0 to %lld", (long long)cfg->explain.row, cfg->data,
			  (long long)set.n - 1);
	else if (!nla_contract_fits_set(&set, &m->target, &m->av.meta, &m->ar.meta, cfg->data, err) &&
		 !nla_actset_vectors(&set, &cfg->explain.row, 1, s->v, err) && *set.rows[cfg->explain.row].text)
		s->text = nla_strdup(set.rows[cfg->explain.row].text);
	s->row = cfg->explain.row;
	s->base = (struct nla_baselines){ set.meta.baseline_var, set.meta.baseline_mean };
	if (s->text && !nla_target_encode(&m->target, nla_target_adds_special(&m->target, &m->ar.meta), s->text, &ids, err))
		set_token(s, 0, m, &ids, (int64_t)ids.n - 1);
	if (!err->status && set.rows[s->row].n_raw_tokens > 0) /* what the set says of the whole document */
		s->position[0] = set.rows[s->row].n_raw_tokens - 1;
	return err->status;
}

/* As stored with `data`, if that is a set of this block and width. */
static void take_baselines(struct nla_subject *s, const struct nla_models *m, const char *data)
{
	struct nla_sidecar meta;
	if (!*data || nla_sidecar_read(&meta, data, NLA_IGNORED))
		return;
	if (nla_sidecar_block(&meta) == m->ar.depth - 1 && meta.d_model == m->target.lm.arch.d_model && meta.baseline_var > 0)
		s->base = (struct nla_baselines){ meta.baseline_var, meta.baseline_mean };
	nla_sidecar_release(&meta);
}

enum nla_status nla_subject_find(struct nla_subject *s, const struct nla_models *m, const struct nla_config *cfg,
				 struct nla_err *err)
{
	int64_t d = m->target.lm.arch.d_model;
	*s = (struct nla_subject){ .row = -1, .base = { (double)NAN, (double)NAN } };
	take_baselines(s, m, cfg->data);
	if (*cfg->explain.text)
		return from_text(s, m, cfg, err);
	if (*cfg->explain.vector)
		return from_file(s, cfg->explain.vector, d, err);
	make_room(s, 1, d);
	return from_row(s, m, cfg, err);
}

void nla_subject_release(struct nla_subject *s)
{
	for (int64_t i = 0; i < s->n; i++)
		free(s->token[i]);
	free(s->v);
	free(s->text);
	free(s->token);
	free(s->position);
}

static void take_templates(struct nla_sidecar *meta, const char *marker, const char *av, const char *ar)
{
	meta->marker = strcmp(marker, "auto") ? nla_strdup(marker) : NULL;
	meta->av_template = nla_strdup(av);
	meta->ar_template = nla_strdup(ar);
}

/* Those of another sidecar, which must fit this tokenizer, and its block. */
static enum nla_status describe_like(struct nla_sidecar *meta, const struct nla_target *t, const char *path,
				     struct nla_err *err)
{
	NLA_AUTO(nla_sidecar_release) struct nla_sidecar like;
	if (!nla_sidecar_read(&like, path, err) &&
	    !nla_sidecar_need(&like, NLA_NEED_ANY | NLA_NEED_AV | NLA_NEED_AR, path, err) &&
	    !nla_contract_check(&like, t, path, err)) {
		take_templates(meta, like.marker, like.av_template, like.ar_template);
		meta->inject = like.inject;
		meta->injection_scale = like.injection_scale;
		meta->layer = nla_sidecar_block(&like);
		meta->add_special = like.add_special;
	}
	return err->status;
}

enum nla_status nla_newset_describe(struct nla_sidecar *meta, const struct nla_target *t, const struct nla_config *cfg,
				    struct nla_err *err)
{
	int64_t blocks = t->lm.arch.n_layers;
	meta->kind = nla_strdup("nla_dataset");
	meta->stage = nla_strdup("extract");
	nla_auto char *whole = realpath(cfg->model, NULL);
	meta->base_checkpoint = nla_strdup(nla_path_base(whole ? whole : cfg->model));
	if (!*cfg->extract.meta)
		take_templates(meta, cfg->templates.marker, cfg->templates.av, cfg->templates.ar);
	else if (describe_like(meta, t, cfg->extract.meta, err))
		return err->status;
	else if (cfg->extract.layer < 0 && meta->layer < 0)
		return nla_usage(err, "'%s': its sidecar names no block (layer_index): say which with extract.layer",
				 cfg->extract.meta);
	if (cfg->extract.layer >= 0 || meta->layer < 0)
		meta->layer = cfg->extract.layer >= 0 ? cfg->extract.layer : 2 * blocks / 3;
	if (meta->layer >= blocks)
		return nla_usage(err, "'extract.layer' is %lld: '%s' has blocks 0 to %lld", (long long)meta->layer, cfg->model,
				 (long long)blocks - 1);
	if (!*cfg->extract.meta && nla_marker_choose(meta, t, err))
		return err->status;
	return nla_contract_make(meta, t, err);
}

/* An AR has a head. */
static enum nla_status make_sidecar(struct nla_sidecar *meta, const struct nla_target *t, const struct nla_config *cfg,
				    struct nla_err *err)
{
	const char *out = cfg->out;
	const bool ar = nla_exists_in(out, "value_head.safetensors") || nla_exists_in(out, "ar_lora_value_head.safetensors");
	const bool is_set = nla_exists_in(out, NLA_ACTSET_ROWS);
	NLA_AUTO(nla_actset_close) struct nla_actset set = { 0 };
	NLA_AUTO(nla_half_release) struct nla_half half = { 0 };
	if (nla_newset_describe(meta, t, cfg, err))
		return err->status;
	nla_sidecar_stamp(meta, is_set ? "nla_dataset" : "nla_model", is_set ? NULL : ar ? "ar" : "av", "made elsewhere");
	if (!is_set && !ar)
		nla_sidecar_chat(meta, nla_chat_name(&t->chat), t->chat.system, t->chat.before, t->chat.after);
	if (nla_sidecar_write(meta, out, err))
		return err->status;
	if (!is_set)
		return nla_half_open(&half, ar ? NLA_AR : NLA_AV, t, out, "", err);
	return nla_actset_open(&set, out, meta->d_model, err) || nla_sidecar_write(&set.meta, out, err) ? err->status : NLA_OK;
}

enum nla_status nla_sidecar_make(const struct nla_config *cfg, struct nla_err *err)
{
	NLA_AUTO(nla_target_close) struct nla_target t = { 0 };
	NLA_AUTO(nla_sidecar_release) struct nla_sidecar meta;
	struct nla_chat_cfg chat = cfg->chat;
	nla_auto char *path = nla_path_join(cfg->out, NLA_SIDECAR_NAME);
	chat.like = cfg->extract.meta;
	nla_sidecar_init(&meta);
	if (nla_config_need(cfg->model, "model", err) || nla_config_need(cfg->out, "out", err) || nla_need_dir(cfg->out, err))
		return err->status;
	if (nla_exists(path))
		return nla_usage(err, "'%s' is there already: remove it to make another", path);
	if (cfg->extract.layer < 0 && !*cfg->extract.meta)
		return nla_usage(err, "'extract.layer' is not set: say of which block '%s' is", cfg->out);
	if (!nla_target_describe(&t, cfg->model, &chat, err) && make_sidecar(&meta, &t, cfg, err))
		unlink(path);
	return err->status;
}
