/*
 * sp - sentencepiece behind C. The library reports by status objects, but allocates and so may throw: guarded() is the one
 * place that catches.
 */
#include "shim/sp.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include <sentencepiece_processor.h>

struct sp_model {
	sentencepiece::SentencePieceProcessor processor;
};

namespace {

thread_local std::string last_error;

template <class Result, class Body>
Result guarded(Result failure, Body body) noexcept
{
	try {
		return body();
	} catch (const std::exception &e) {
		try {
			last_error = e.what();
		} catch (...) {
			last_error.clear();
		}
		return failure;
	}
}

bool failed(const sentencepiece::util::Status &status)
{
	if (status.ok())
		return false;
	last_error = status.error_message();
	if (last_error.empty())
		last_error = status.ToString();
	return true;
}

template <class Load>
sp_model *load(Load body)
{
	return guarded<sp_model *>(nullptr, [&]() -> sp_model * {
		auto m = std::make_unique<sp_model>();
		return failed(body(m->processor)) ? nullptr : m.release();
	});
}

bool known(const sp_model *m, int32_t id)
{
	return id >= 0 && id < m->processor.GetPieceSize();
}

} // namespace

sp_model *sp_from_model(const char *path)
{
	return load([&](auto &p) { return p.Load(path); });
}

sp_model *sp_from_bytes(const void *proto, size_t n)
{
	return load([&](auto &p) { return p.LoadFromSerializedProto({static_cast<const char *>(proto), n}); });
}

void sp_free(sp_model *m)
{
	delete m;
}

int32_t sp_vocab_size(const sp_model *m)
{
	return m->processor.GetPieceSize();
}

int32_t sp_piece_id(const sp_model *m, const char *piece)
{
	return m->processor.PieceToId(piece);
}

const char *sp_piece(const sp_model *m, int32_t id)
{
	return known(m, id) ? m->processor.IdToPiece(id).c_str() : nullptr;
}

float sp_score(const sp_model *m, int32_t id)
{
	return known(m, id) ? m->processor.GetScore(id) : 0;
}

enum sp_kind sp_kind(const sp_model *m, int32_t id)
{
	const auto &p = m->processor;
	if (!known(m, id) || p.IsUnused(id))
		return SP_UNUSED;
	return p.IsUnknown(id) ? SP_UNKNOWN : p.IsControl(id) ? SP_CONTROL : p.IsByte(id) ? SP_BYTE : SP_NORMAL;
}

int32_t sp_unk_id(const sp_model *m)
{
	return m->processor.unk_id();
}

int32_t sp_bos_id(const sp_model *m)
{
	return m->processor.bos_id();
}

int32_t sp_eos_id(const sp_model *m)
{
	return m->processor.eos_id();
}

int64_t sp_encode(const sp_model *m, const char *text, size_t n, int32_t *ids, size_t cap)
{
	return guarded<int64_t>(-1, [&]() -> int64_t {
		std::vector<int> found;
		if (failed(m->processor.Encode({text, n}, &found)))
			return -1;
		std::copy_n(found.begin(), std::min(found.size(), cap), ids);
		return static_cast<int64_t>(found.size());
	});
}

int64_t sp_decode(const sp_model *m, const int32_t *ids, size_t n, char *out, size_t cap)
{
	return guarded<int64_t>(-1, [&]() -> int64_t {
		std::string text;
		if (failed(m->processor.Decode(std::vector<int>(ids, ids + n), &text)))
			return -1;
		std::copy_n(text.begin(), std::min(text.size(), cap), out);
		return static_cast<int64_t>(text.size());
	});
}

const char *sp_error(void)
{
	return last_error.c_str();
}
