#include "fusion/train/find_model.h"

#include "fusion/base/error.h"
#include "fusion/config/config.h"
#include "fusion/train/checkpoint.h"

#include <algorithm>

namespace fusion {
namespace {

std::optional<fs::path> model_of_stage(const fs::path& folder) {
  if (fs::exists(folder / "export" / "config.json")) return folder / "export";
  if (const auto newest = newest_checkpoint(folder / "checkpoints")) return newest->folder();
  return std::nullopt;
}

}  // namespace

fs::path find_model_folder(const fs::path& given) {
  FUSION_CHECK(fs::is_directory(given), "model: {} is no folder", given.string());
  if (fs::exists(given / "config.json")) return given;
  if (const auto model = model_of_stage(given)) return *model;
  if (const fs::path resolved = given / "resolved.yaml"; fs::exists(resolved)) {
    const Recipe recipe = load_recipe({resolved.string()}, {}, Missing::keep);
    for (auto stage = recipe.stages.rbegin(); stage != recipe.stages.rend(); ++stage)
      if (const auto model = model_of_stage(given / stage->name)) return *model;
  }
  fail(ExitCode::usage, "model: {} is neither a model folder (no config.json) nor a run with an export or a checkpoint", given.string());
}

}  // namespace fusion
