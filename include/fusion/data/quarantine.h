// Rows that a mixture leaves out because `fusion data check` found them bad: one JSON object per line, {file, content, row, id, reason}.
#pragma once

#include "fusion/base/file.h"

#include <map>
#include <string>
#include <vector>

namespace fusion {

class Quarantine {
 public:
  Quarantine() = default;
  /// Throws ExitCode::usage with file and line when a line is not of this form.
  explicit Quarantine(const fs::path& path);

  /// Rows of an annotation file, ascending. Throws ExitCode::usage when rows of a file of this name are listed, but of another content.
  std::vector<uint32_t> rows(const fs::path& file, const std::string& content_hash) const;

 private:
  struct Rows {
    std::string content;
    std::vector<uint32_t> rows;
  };
  fs::path path_;
  std::multimap<std::string, Rows> files_;  // by file name: the folder may have moved
};

}  // namespace fusion
