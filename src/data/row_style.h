// One row's text from one style into another.
#pragma once

#include "fusion/base/json.h"
#include "fusion/data/convert_rows.h"

namespace fusion {

/// A row taken apart: its pictures as they are called, and its JSON without them.
struct StyledRow {
  Json row;  // LLaVA's keys, without "image"
  std::vector<std::string> images;
  bool says_images = false;  // it has a key for them, null and empty ones too
  bool llava = false;        // it was written in LLaVA's style
  bool changed = false;      // `images` are no longer those of its text
};

/// Reads a row of any style. Throws ExitCode::data for what is no row, keys that contradict each other, and roles that have no name in LLaVA's style.
StyledRow read_styled(std::string_view text);
/// The row as one line of JSON.
std::string write_styled(const StyledRow& styled, RowStyle style);

}  // namespace fusion
