// Finds the rows of a file piece by piece.
#pragma once

#include "fusion/base/file.h"

#include <string_view>
#include <vector>

namespace fusion {

bool is_json_space(char c);

class RowSplitter {
 public:
  virtual ~RowSplitter() = default;
  /// First bytes of the next rows, about `bytes` of text; empty at the end. Throws ExitCode::data with the place of what is wrong.
  virtual std::vector<uint64_t> next(uint64_t bytes) = 0;
  /// Where the rows found so far end.
  virtual uint64_t end() const = 0;
};

/// Of a .json array or a .jsonl file; looks at brackets and quotes only. A row ends with the comma or line end behind it.
class JsonSplitter : public RowSplitter {
 public:
  /// Throws ExitCode::data when an array does not begin.
  JsonSplitter(const fs::path& path, std::string_view text);

  std::vector<uint64_t> next(uint64_t bytes) override;
  uint64_t end() const override { return static_cast<uint64_t>(at_ - text_.data()); }

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
