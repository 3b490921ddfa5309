/* sp - sentencepiece behind C. The library reports by status objects, but allocates and so may throw. */
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

static thread_local std::string last_error;

/* True, with last_error set, when the status that body() returns is not ok. */
template <class Body>
static bool failed(Body body) noexcept
{
	try {
		const sentencepiece::util::Status status = body();
		if (!status.ok())
			last_error = status.ToString();
		return !status.ok();
	} catch (const std::exception &e) {
		last_error = e.what();
		return true;
	}
}

sp_model *sp_from_bytes(const void *proto, size_t n)
{
	std::unique_ptr<sp_model> m;
	return failed([&] {
		m = std::make_unique<sp_model>();
		return m->processor.LoadFromSerializedProto({static_cast<const char *>(proto), n});
	}) ? nullptr : m.release();
}

void sp_free(sp_model *m)
{
	delete m;
}

int64_t sp_encode(const sp_model *m, const char *text, size_t n, int32_t *ids, size_t cap)
{
	std::vector<int> found;
	if (failed([&] { return m->processor.Encode({text, n}, &found); }))
		return -1;
	std::copy_n(found.begin(), std::min(found.size(), cap), ids);
	return static_cast<int64_t>(found.size());
}

const char *sp_error(void)
{
	return last_error.c_str();
}
