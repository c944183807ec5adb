// The rows of a LLaVA file or of shards: memory-mapped, found through an index, parsed on demand (data.md 1; docs/data.md).
#pragma once

#include "fusion/data/row_index.h"
#include "fusion/data/sample.h"
#include "fusion/data/shard_cache.h"

namespace fusion {

class RowFormat;

struct NamedPicture {
  std::string name;
  StoredPicture stored;
};

/// Safe to use from several threads after construction. Eight bytes per sample besides the maps.
class AnnotationFile {
 public:
  /// `path`: a .json (an array of samples) or .jsonl (one per line) file; a .tar (WebDataset) or .mds shard; several of one kind by a range,
  /// "a-{000..011}.tar"; or a folder of shards (data/source_files.h). Maps the files and opens or makes their indexes: RowIndex::open, whose errors
  /// pass through; they are kept when the files have `kept_bytes` together. Shards are read from their copies in `cache` where it has them.
  /// Throws ExitCode::usage for other endings, ExitCode::data for a shard that is not the one that the folder's index.json lists.
  explicit AnnotationFile(const fs::path& path, uint64_t kept_bytes = RowIndex::kKeptBytes, std::shared_ptr<ShardCache> cache = nullptr);
  ~AnnotationFile();
  AnnotationFile(AnnotationFile&&) noexcept;

  int64_t size() const { return ends_.empty() ? 0 : ends_.back(); }
  /// Row `index` with `image` as written, or with its picture `stored`. Turns of role/content rows get our names; a leading system turn is left out,
  /// with a warning. Throws BadSample when it cannot be used.
  Sample sample(int64_t index) const;
  /// Keys of row `index` that sample() does not read; none of a row that is no JSON object.
  std::vector<std::string> other_keys(int64_t index) const;
  /// Words of all turns as the released sampler counts them (Python's str.split()), negative for rows without image; never 0. A row that
  /// cannot be read counts as one word of text.
  int32_t modality_length(int64_t index) const;
  /// "file:line", "file[index]" or "file: sample KEY".
  std::string where(int64_t index) const;
  /// The row's JSON. Throws ExitCode::data when a shard holds none.
  std::string row(int64_t index) const;
  /// The picture of a shard's row that is called `image`, the row's `place`-th of `count`; with count 0 its only one, if any. Throws ExitCode::data.
  std::optional<NamedPicture> picture(int64_t index, std::string_view image, size_t place, size_t count) const;
  /// Row `index` will be read soon: a shard's part with it is fetched meanwhile.
  void will_need(int64_t index) const;

  const fs::path& path() const { return path_; }
  /// Pictures are stored with the rows, or text only.
  bool shards() const;
  /// 128-bit XXH3 of the content, of several files that of their hashes, in hex.
  const std::string& content_hash() const { return content_hash_; }

 private:
  struct Part;  // one file
  struct Place;
  Place place_of(int64_t index) const;

  fs::path path_;
  std::vector<std::unique_ptr<Part>> parts_;
  std::vector<int64_t> ends_;  // row behind the last one of each part
  std::string content_hash_;
};

/// Number of words as Python's str.split() sees them; `text` is well-formed UTF-8.
int64_t count_words(std::string_view text);

}  // namespace fusion
