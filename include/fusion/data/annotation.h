// One LLaVA file: .json (an array of samples) or .jsonl (one sample per line), memory-mapped, rows parsed on demand (data.md 1).
#pragma once

#include "fusion/data/row_index.h"
#include "fusion/data/sample.h"

namespace fusion {

/// Safe to use from several threads after construction. Eight bytes per sample besides the map.
class AnnotationFile {
 public:
  /// Maps the file and opens or makes its index (RowIndex::open, which `kept_bytes` goes to and whose errors pass through).
  /// Throws ExitCode::usage for other endings than .json and .jsonl.
  explicit AnnotationFile(const fs::path& path, uint64_t kept_bytes = RowIndex::kKeptBytes);

  int64_t size() const { return index_.size(); }
  /// Row `index` with `image` as written. Turns of role/content rows get our names; a leading system turn is left out, with a warning.
  /// Throws BadSample when it cannot be used.
  Sample sample(int64_t index) const;
  /// Keys of row `index` that sample() does not read; none of a row that is no JSON object.
  std::vector<std::string> other_keys(int64_t index) const;
  /// Words of all turns as the released sampler counts them (Python's str.split()), negative for rows without image; never 0. A row that
  /// cannot be read counts as one word of text.
  int32_t modality_length(int64_t index) const { return index_.length(index); }
  /// "file:line" or "file[index]".
  std::string where(int64_t index) const;
  /// The row's bytes.
  std::string_view row(int64_t index) const;

  const fs::path& path() const { return path_; }
  /// 128-bit XXH3 of the content, in hex.
  const std::string& content_hash() const { return index_.content_hash(); }

 private:
  fs::path path_;
  bool lines_ = false;
  MappedFile file_;
  RowIndex index_;
};

/// Number of words as Python's str.split() sees them; `text` is well-formed UTF-8.
int64_t count_words(std::string_view text);

}  // namespace fusion
