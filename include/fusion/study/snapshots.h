// What a model looks at while it learns: one sheet of heat maps per chosen sample and evaluation, which the report shows side by side.
#pragma once

#include "fusion/data/mixture.h"
#include "fusion/infer/session.h"

namespace fusion {

/// Sheets of the first `samples` rows of `held_out` that have a picture, about their first question: folder/sample-00.png, ...
void draw_snapshots(const LoadedModel& model, const Mixture& held_out, int64_t samples, const fs::path& folder);

/// One sample's sheets, the first step first.
struct FilmStrip {
  std::string sample;  // "sample-00"
  std::vector<std::pair<int64_t, fs::path>> sheets;
};
/// Of a stage's folder; empty when it has none.
std::vector<FilmStrip> film_strips(const fs::path& stage);

}  // namespace fusion
