// Finds the rows of a .json array or a .jsonl file piece by piece; looks at brackets and quotes only.
#pragma once

#include "fusion/base/file.h"

#include <string_view>
#include <vector>

namespace fusion {

bool is_json_space(char c);

class RowSplitter {
 public:
  /// Throws ExitCode::data when an array does not begin.
  RowSplitter(const fs::path& path, std::string_view text);

  /// First bytes of the next rows, about `bytes` of text; empty at the end. Throws ExitCode::data with the place of what is wrong.
  std::vector<uint64_t> next(uint64_t bytes);
  /// Where the rows found so far end: the first byte behind the last one's comma, line end or bracket's place.
  uint64_t end() const { return static_cast<uint64_t>(at_ - text_.data()); }

 private:
  void next_lines(uint64_t stop, std::vector<uint64_t>& rows);
  void next_elements(uint64_t stop, std::vector<uint64_t>& rows);
  void close_array();
  void skip_space();
  std::string place() const;

  fs::path path_;
  std::string_view text_;
  bool lines_, open_ = true;  // open: an element must follow
  const char *at_, *last_;
  int64_t found_ = 0;
};

}  // namespace fusion
