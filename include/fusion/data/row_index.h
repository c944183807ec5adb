// Where the rows of an annotation file lie and how long they are: found once, kept in a file, mapped by every process (data.md 1).
#pragma once

#include "fusion/base/file.h"

#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace fusion {

class RowFormat;

/// Grouping length of the row in bytes [begin, end) of the file as the released sampler counts it: words of all turns, negative without a picture,
/// never 0. Called on several threads.
using RowLength = std::function<int32_t(uint64_t begin, uint64_t end)>;

/// Eight bytes per row: 40 bits for its first byte, 24 for its length. Copies share the map. Safe to use from several threads.
class RowIndex {
 public:
  /// Files of at least this size keep their index; smaller ones are indexed anew at each start, in less time than a look for it may take.
  static constexpr uint64_t kKeptBytes = uint64_t{32} << 20;

  RowIndex() = default;

  /// The index of the file at `path`, mapped as `text`, whose rows lie as `format` says. An index file beside it (".<name>.rows"), else in the cache
  /// folder
  /// ($XDG_CACHE_HOME/fusion/rows), counts when size, time of change and a digest of sampled blocks are the file's. Otherwise the index is made on
  /// all cores, and for a file of at least `kept_bytes` written beside it, else into the cache folder, where another process may find it; of the
  /// processes of a machine that need it at a time one makes it. Throws ExitCode::data with file and place when the file's rows
  /// cannot be told apart: it ends too early, is no array of samples, has a blank line (jsonl) or members that are refused (tar).
  static RowIndex open(const fs::path& path, std::string_view text, const RowFormat& format, const RowLength& length,
                       uint64_t kept_bytes = kKeptBytes);

  int64_t size() const { return static_cast<int64_t>(entries_.size()) - 1; }
  /// Bytes [begin, end) of the file that hold row `index`, as RowFormat reads them.
  uint64_t begin(int64_t index) const { return entries_[static_cast<size_t>(index)] & kPlaceMask; }
  uint64_t end(int64_t index) const { return begin(index + 1); }
  int32_t length(int64_t index) const {
    const auto words = static_cast<int32_t>(entries_[static_cast<size_t>(index)] >> kPlaceBits);
    return words & kNoPicture ? -(words & ~kNoPicture) : words;
  }
  /// 128-bit XXH3 of the file's content, in hex.
  const std::string& content_hash() const { return content_hash_; }

  static constexpr int kPlaceBits = 40;
  static constexpr uint64_t kPlaceMask = (uint64_t{1} << kPlaceBits) - 1;
  static constexpr int32_t kNoPicture = 1 << 23;

 private:
  std::shared_ptr<const void> owner_;  // the map, or the vector of an index that is not kept
  std::span<const uint64_t> entries_;  // [size() + 1]; the last one is where the rows end
  std::string content_hash_;
};

}  // namespace fusion
