// The files that a data source's path stands for (docs/data.md).
#pragma once

#include "fusion/base/file.h"

#include <optional>
#include <string>
#include <vector>

namespace fusion {

/// A file of rows, and what the index.json of its folder says about it.
struct SourceFile {
  fs::path path;
  std::optional<uint64_t> bytes;
  std::optional<int64_t> rows;
  std::string content;  // 128-bit XXH3 in hex; empty = not listed
};

/// A file: itself. "a-{000..011}.tar": the twelve files of this range. A folder: the shards that its index.json lists (of `fusion data pack`, or
/// version 2 of MDS), without one all its .tar files by name. Throws ExitCode::usage when there is none, a file is missing or shards are compressed.
std::vector<SourceFile> source_files(const fs::path& path);

/// The name of a data set whose path is `path`: its stem, or the folder's name.
std::string source_name(const fs::path& path);

}  // namespace fusion
