// The names of gloo that c10d's header mentions: the wheel has gloo's code and not its headers. Nothing of it is made or called
// here, only shared pointers to it pass through. CMakeLists.txt gives this file the names of those that are included.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace gloo
{

struct Context {
	void setTimeout(std::chrono::milliseconds);
};

namespace transport
{
class Device;
class UnboundBuffer
{
public:
	virtual ~UnboundBuffer();
};
} // namespace transport

namespace rendezvous
{
class Store
{
public:
	virtual ~Store();
	virtual void set(const std::string &, const std::vector<char> &) = 0;
	virtual std::vector<char> get(const std::string &) = 0;
	virtual void wait(const std::vector<std::string> &) = 0;
	virtual void wait(const std::vector<std::string> &keys, const std::chrono::milliseconds &) { wait(keys); }
};
} // namespace rendezvous

} // namespace gloo
