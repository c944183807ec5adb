// Rows from one form into another (`fusion data convert`; docs/data.md).
#pragma once

#include "fusion/base/file.h"
#include "fusion/config/enum.h"

#include <string>
#include <vector>

namespace fusion {

/// json and jsonl: LLaVA rows, conversations of from/value with human, gpt and system. messages: role/content with user, assistant and system.
/// sharegpt: LLaVA's turns. Both of these have their pictures in a list "images". tar: LLaVA rows and their pictures in one archive.
FUSION_ENUM(RowStyle, json, jsonl, messages, sharegpt, tar)

struct ConvertReport {
  struct Refused {
    std::string where, reason;
  };
  int64_t rows = 0;
  std::vector<Refused> refused;  // rows that the style cannot carry, in their order
};

/// Reads the rows of `from`, whatever AnnotationFile opens, in any of these styles, and writes them one by one: to `to`, an array when it ends in
/// .json and one row per line in .jsonl. Rows that have the style already keep their bytes; other keys are kept. Pictures of shards are written into
/// the folder of `to` under the name that the row calls them, or KEY.<ending> where that name leads out of it; for tar, pictures are read from
/// `image_folder` (empty = the folder of `from`). Throws ExitCode::usage when the ending of `to` does not fit the style.
ConvertReport convert_rows(const fs::path& from, const fs::path& to, RowStyle style, const fs::path& image_folder = {});

}  // namespace fusion
