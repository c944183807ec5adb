#include "fusion/base/output_file.h"

#include "fusion/base/error.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace fusion {
namespace {

[[noreturn]] void io_error(const char* what, const fs::path& path) {
  fail(ExitCode::io, "file: {} {}: {}", what, path.string(), std::generic_category().message(errno));
}

uint64_t size_of(int fd, const fs::path& path) {
  struct stat status;
  if (::fstat(fd, &status) != 0) io_error("stat", path);
  return static_cast<uint64_t>(status.st_size);
}

/// Up to `size` bytes from `offset`; short at the end of the file.
std::string read_at(int fd, const fs::path& path, uint64_t offset, size_t size) {
  std::string out(size, '\0');
  ssize_t got;
  do got = ::pread(fd, out.data(), size, static_cast<off_t>(offset));
  while (got < 0 && errno == EINTR);
  if (got < 0) io_error("read", path);
  out.resize(static_cast<size_t>(got));
  return out;
}

}  // namespace

OutputFile::OutputFile(fs::path path) : path_(std::move(path)) {
  do fd_ = ::open(path_.c_str(), O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) io_error("open", path_);
  begin_ = read_ = size_of(fd_, path_);
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), begin_(other.begin_), read_(other.read_) {}

void OutputFile::append(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd_, text.data(), text.size());
    if (written < 0 && errno != EINTR) io_error("write", path_);
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
  }
}

std::string OutputFile::read_new(size_t limit) {
  std::string text = read_at(fd_, path_, read_, limit);
  read_ += text.size();
  return text;
}

std::vector<std::string> OutputFile::last_lines(size_t count) const {
  constexpr uint64_t kLine = 500;
  const uint64_t end = size_of(fd_, path_), room = (count + 1) * kLine;
  const uint64_t from = std::max(begin_, end > room ? end - room : 0);
  const std::string text = end > from ? read_at(fd_, path_, from, end - from) : "";
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t line_end = std::min(text.find('\n', at), text.size());
    if (line_end > at) lines.push_back(text.substr(at, std::min<size_t>(line_end - at, kLine)));
    at = line_end + 1;
  }
  if (lines.size() > count) lines.erase(lines.begin(), lines.end() - static_cast<ptrdiff_t>(count));
  return lines;
}

}  // namespace fusion
