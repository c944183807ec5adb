// Tar archives (ustar, pax, GNU long names) read where they lie, strictly, and written: the shards of WebDataset.
#pragma once

#include "fusion/base/file.h"

#include <optional>
#include <string>
#include <string_view>

namespace fusion {

/// A regular file of an archive.
struct TarMember {
  std::string name;       // without a leading "./"; never absolute, never with ".."
  uint64_t begin = 0;     // of its first header, that of a long name included
  std::string_view data;  // its content, in the archive's text
};

/// Walks the members of an archive in their order and passes over folders. Memory: one name. An ExitCode::data error names the archive, the byte and
/// the member: wrong checksums and numbers, links, devices, sparse and unknown members, absolute names and "..", contents and headers that the
/// archive ends in, a missing end mark, text behind it; a compressed archive by its magic, with the way out.
class TarReader {
 public:
  /// Of the whole archive `text`; `path` is for messages.
  TarReader(const fs::path& path, std::string_view text);
  /// Of the members in [begin, end), where walks of the whole archive have found member borders.
  TarReader(const fs::path& path, std::string_view text, uint64_t begin, uint64_t end);

  /// Empty at the end.
  std::optional<TarMember> next();
  /// Where the members passed so far end.
  uint64_t end() const { return at_; }
  /// Headers read so far, those of folders and long names included.
  uint64_t headers() const { return headers_; }

 private:
  struct Extension;
  bool read_end_mark();
  [[noreturn]] void refuse(uint64_t at, const std::string& name, const std::string& why) const;
  std::string_view content(uint64_t header, const std::string& name, uint64_t size) const;

  fs::path path_;
  std::string_view text_;
  uint64_t at_ = 0, stop_ = 0, headers_ = 0;
  bool whole_ = true;  // stop_ is the end of the archive, which has an end mark
};

/// The header blocks of a member, with a pax header for a name that ustar has no room for. Owner, times and rights are always the same ones.
std::string tar_header(const std::string& name, uint64_t size);
/// Zero bytes from the end of a content to the next block.
std::string_view tar_padding(uint64_t size);
/// What an archive ends with.
std::string_view tar_end();

/// The WebDataset key and field of a member: "a/b.seg.PNG" is field "seg.png" of sample "a/b". Empty for names that belong to no sample: those
/// without a dot or with one in front, and "__x__".
struct TarField {
  std::string_view key;
  std::string field;  // in lower case
};
std::optional<TarField> tar_field(std::string_view name);

}  // namespace fusion
