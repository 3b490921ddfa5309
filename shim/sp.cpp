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

} // namespace

sp_model *sp_from_bytes(const void *proto, size_t n)
{
	return guarded<sp_model *>(nullptr, [&]() -> sp_model * {
		auto m = std::make_unique<sp_model>();
		return failed(m->processor.LoadFromSerializedProto({static_cast<const char *>(proto), n})) ? nullptr : m.release();
	});
}

void sp_free(sp_model *m)
{
	delete m;
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

const char *sp_error(void)
{
	return last_error.c_str();
}
