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

/// The folder itself, then those of its stages.
std::vector<fs::path> stage_folders(const fs::path& run) {
  std::vector<fs::path> folders = {run};
  if (const fs::path resolved = run / "resolved.yaml"; fs::exists(resolved))
    for (const Stage& stage : load_recipe({resolved.string()}, {}, Missing::keep).stages) folders.push_back(run / stage.name);
  return folders;
}

}  // namespace

fs::path find_model_folder(const fs::path& given) {
  FUSION_CHECK(fs::is_directory(given), "model: {} is no folder", given.string());
  if (fs::exists(given / "config.json")) return given;
  const auto stages = stage_folders(given);
  for (auto stage = stages.rbegin(); stage != stages.rend(); ++stage)
    if (const auto model = model_of_stage(*stage)) return *model;
  fail(ExitCode::usage, "model: {} is neither a model folder (no config.json) nor a run with an export or a checkpoint", given.string());
}

std::vector<fs::path> find_checkpoint_folders(const fs::path& given) {
  FUSION_CHECK(fs::is_directory(given), "checkpoint: {} is no folder", given.string());
  if (!list_checkpoints(given).empty()) return {given};
  std::vector<fs::path> folders;
  for (const fs::path& stage : stage_folders(given))
    if (fs::is_directory(stage / "checkpoints")) folders.push_back(stage / "checkpoints");
  FUSION_CHECK(!folders.empty(), "checkpoint: {} is neither a run with checkpoints nor a folder of them", given.string());
  return folders;
}

}  // namespace fusion
