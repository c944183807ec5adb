// How rows lie in a file: JSON text, tar members or MDS columns. What they hold is read in one place, data/annotation.h.
#pragma once

#include "row_split.h"

#include <memory>
#include <string>

namespace fusion {

/// A row inside its file.
struct StoredRow {
  struct Member {
    std::string name;
    std::string_view bytes;
    bool picture = false;
  };
  std::string_view text;        // the row's JSON; in `made` where it does not stand in the file as one piece
  std::string made, key;        // key: the sample's name in its file, empty = it has none
  std::vector<Member> members;  // what else is stored with it: its pictures

  StoredRow() = default;
  StoredRow(const StoredRow&) = delete;  // `text` may point into `made`
  StoredRow& operator=(const StoredRow&) = delete;

  /// The member that `image` means, the row's `place`-th picture of `count`: the one of that name, with or without folder; else by its place, when
  /// as many pictures are stored. Throws ExitCode::data.
  const Member& picture(std::string_view image, size_t place, size_t count) const;
  /// The only picture, for a row that does not say; null when there is none or several.
  const Member* only_picture() const;
};

/// Whether a member with this ending, in lower case, is a picture.
bool is_picture_ending(std::string_view ending);

/// Safe to use from several threads.
class RowFormat {
 public:
  virtual ~RowFormat() = default;
  virtual std::unique_ptr<RowSplitter> splitter(std::string_view text) const = 0;
  /// Fills `row` with the row in bytes [begin, end), as a splitter found them. Throws ExitCode::data.
  virtual void read(std::string_view text, uint64_t begin, uint64_t end, StoredRow& row) const = 0;
  /// Pictures come with the rows.
  virtual bool shard() const { return true; }
};

/// By the ending of `path`, a file that is mapped as `text`. Throws ExitCode::usage for an ending, ExitCode::data for a content that is not read.
std::unique_ptr<const RowFormat> row_format(const fs::path& path, std::string_view text);

std::unique_ptr<const RowFormat> tar_rows(const fs::path& path);
std::unique_ptr<const RowFormat> mds_rows(const fs::path& path, std::string_view text);

}  // namespace fusion
