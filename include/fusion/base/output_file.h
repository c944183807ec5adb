// A file that another process writes its output to, while this one looks on.
#pragma once

#include "fusion/base/file.h"

namespace fusion {

/// Opened for appending (made when missing, 0600, no links followed). What it held before is not looked at. Throws ExitCode::io.
class OutputFile {
 public:
  explicit OutputFile(fs::path path);
  ~OutputFile();
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;

  const fs::path& path() const { return path_; }
  /// For a child's standard output; closed on exec.
  int descriptor() const { return fd_; }
  void append(std::string_view text);
  /// What was written since the last call, at most `limit` bytes.
  std::string read_new(size_t limit = 1 << 16);
  /// The last `count` lines since the file was opened here, each cut to 500 bytes.
  std::vector<std::string> last_lines(size_t count) const;

 private:
  fs::path path_;
  int fd_ = -1;
  uint64_t begin_ = 0, read_ = 0;
};

}  // namespace fusion
