#include "fusion/train/run_folder.h"

#include "fusion/base/error.h"
#include "fusion/base/json.h"
#include "fusion/base/log.h"
#include "fusion/train/checkpoint.h"
#include "fusion/train/runtime.h"

#include <cstdlib>

namespace fusion {
namespace {

constexpr const char* kManifest = "manifest.json";

/// Variables that change what a run computes or where; nothing else of the environment is kept.
constexpr const char* kEnvironment[] = {"OMP_NUM_THREADS",
                                        "MKL_NUM_THREADS",
                                        "ATEN_CPU_CAPABILITY",
                                        "CUDA_VISIBLE_DEVICES",
                                        "CUBLAS_WORKSPACE_CONFIG",
                                        "PYTORCH_CUDA_ALLOC_CONF",
                                        "SLURM_JOB_ID",
                                        "TZ",
                                        "MKL_CBWR"};

std::string manifest_text(const Recipe& recipe, const std::string& version, int64_t world) {
  Json manifest = {{"fusion", version}, {"name", recipe.name}, {"config_digest", recipe.digest}, {"config_sha256", sha256_text(recipe.text)}};
  for (const auto& [name, value] : runtime_facts()) manifest["runtime"][name] = value;
  manifest["runtime"]["processes"] = std::to_string(world);
  for (const Stage& stage : recipe.stages)
    manifest["seeds"][stage.name] = {{"model", stage.config.model.seed}, {"data", stage.config.data.seed}, {"train", stage.config.train.seed}};
  manifest["environment"] = Json::object();
  for (const char* name : kEnvironment)
    if (const char* value = std::getenv(name)) manifest["environment"][name] = value;
  return dump_json(manifest);
}

/// Whether any stage in the folder has got as far as a checkpoint; what a run left before that may be overwritten.
bool holds_checkpoints(const fs::path& run) {
  std::vector<fs::path> stages = {run};
  for (const auto& entry : fs::directory_iterator(run))
    if (entry.is_directory()) stages.push_back(entry.path());
  for (const fs::path& stage : stages)
    for (const CheckpointInfo& checkpoint : list_checkpoints(StageFolder{stage}.checkpoints()))
      if (checkpoint.finished) return true;
  return false;
}

/// Refuses a folder that another config made; warns when the bits of the results may differ from here on.
void check_same_run(const fs::path& manifest_file, const Recipe& recipe, const std::string& now) {
  const Json before = read_json(manifest_file), after = parse_json(now, "manifest");
  const auto digest = json_get<std::string>(before, "config_digest", manifest_file.string());
  FUSION_CHECK(
      digest == recipe.digest,
      "run: {} holds a run of another config (digest {}, now {}; its config is {}). Take another run.dir, or undo the change to continue that run",
      manifest_file.parent_path().string(), digest, recipe.digest, (manifest_file.parent_path() / "resolved.yaml").string());
  for (const auto& [name, value] : after["runtime"].items())
    if (before.contains("runtime") && before["runtime"].value(name, value) != value)
      log::warn("run: {} was {} when the run began and is {} now: it goes on, but not with the very same bits", name, before["runtime"][name].dump(),
                value.dump());
}

}  // namespace

RunFolder::RunFolder(const Recipe& recipe, const std::vector<std::string>& overrides, const std::string& version, Communicator& comm)
    : recipe_(recipe) {
  path_ = run_path(recipe);
  together(comm, "run folder", [&] {
    if (comm.rank() == 0) open(overrides, version, comm.world());
    return "";
  });
}

void RunFolder::open(const std::vector<std::string>& overrides, const std::string& version, int64_t world) {
  const Config& config = recipe_.stages.front().config;
  make_directories(path_);
  lock_ = std::make_unique<FileLock>(path_ / "lock");
  const fs::path manifest_file = path_ / kManifest;
  const bool used = fs::exists(manifest_file) && holds_checkpoints(path_);
  FUSION_CHECK(!used || config.checkpoint.resume != "never",
               "run: {} holds a run and checkpoint.resume is never; take another run.dir or remove the folder", path_.string());

  const std::string manifest = manifest_text(recipe_, version, world);
  if (used) {
    check_same_run(manifest_file, recipe_, manifest);
    return;
  }
  std::string list;
  for (const std::string& override : overrides) list += "- " + dump_json(Json(override), -1) + "\n";
  write_file(path_ / "resolved.yaml", recipe_.text);
  write_file(path_ / "overrides.yaml", list.empty() ? "[]\n" : list);
  write_file(path_ / "origin.yaml", print_recipe(recipe_, PrintStyle::origin));
  write_file(manifest_file, manifest);
}

StageFolder RunFolder::stage(size_t index) const { return {recipe_.staged ? path_ / recipe_.stages[index].name : path_}; }

}  // namespace fusion
