#include "fusion/base/whereabouts.h"

#include "fusion/base/error.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>

namespace fusion::whereabouts {
namespace {

constexpr size_t kRoom = 512;

std::mutex mutex;
int64_t step = 0;
std::string work, call;
bool calling = false;
char* line = nullptr;  // of kRoom bytes, ends with a zero

/// Under the mutex.
void show() {
  if (!line) return;
  std::string text = step > 0 ? fmt::format("step {}", step) : "";
  for (const std::string& part : {work, call.empty() ? "" : fmt::format("{} '{}'", calling ? "in" : "after", call)})
    if (!part.empty()) text += (text.empty() ? "" : ", ") + part;
  text.resize(std::min(text.size(), kRoom - 1));
  std::memcpy(line, text.c_str(), text.size() + 1);
}

}  // namespace

void publish(const fs::path& file) {
  const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  void* map = MAP_FAILED;
  if (fd >= 0 && ::posix_fallocate(fd, 0, kRoom) == 0) map = ::mmap(nullptr, kRoom, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int code = errno;
  if (fd >= 0) ::close(fd);
  if (map == MAP_FAILED) fail(ExitCode::io, "file: map {}: {}", file.string(), std::strerror(code));
  const std::lock_guard lock(mutex);
  line = static_cast<char*>(map);
  show();
}

std::string read(const fs::path& file) {
  std::string text;
  if (fs::exists(file)) text = read_file(file, kRoom);
  text.resize(std::min(text.find('\0'), text.size()));
  return text.empty() ? "start-up" : text;
}

void set_step(int64_t now) {
  const std::lock_guard lock(mutex);
  step = now;
  show();
}

void set_work(std::string_view now) {
  const std::lock_guard lock(mutex);
  work = now;
  show();
}

void call_begins(std::string_view name) {
  const std::lock_guard lock(mutex);
  call = name;
  calling = true;
  show();
}

void call_ends() {
  const std::lock_guard lock(mutex);
  calling = false;
  show();
}

std::string step_prefix() {
  const std::lock_guard lock(mutex);
  return step > 0 ? fmt::format("step {}: ", step) : "";
}

}  // namespace fusion::whereabouts
