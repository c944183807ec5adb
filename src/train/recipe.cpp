#include "fusion/train/recipe.h"

#include "fusion/base/log.h"
#include "fusion/base/signals.h"
#include "fusion/train/runtime.h"
#include "fusion/train/trainer.h"

#include <ATen/Parallel.h>

namespace fusion {
namespace {

void check_stages(const Recipe& recipe) {
  for (size_t i = 1; i < recipe.stages.size(); ++i)
    FUSION_CHECK(recipe.stages[i].config.model.path == recipe.stages[0].config.model.path,
                 "config: stages.{}.model.path: a stage starts from the weights of the stage before; give model.path for the whole recipe", i);
}

void announce_device(const RuntimeConfig& config) {
  const c10::Device device = setup_runtime(config);
  const bool missing = device.is_cpu() && config.device == Device::automatic;
  log::info("{}running on {} with {} CPU threads", missing ? "no GPU found: " : "", device.str(), at::get_num_threads());
}

/// One line per stage with the figures it ended with.
std::string summary(const Recipe& recipe, const RunFolder& run) {
  std::string text =
      fmt::format("{:<16}{:>8}{:>12}{:>10}{:>14}{:>20}  {}\n", "stage", "steps", "samples", "loss", "exact match", "commonest answer", "model");
  for (size_t i = 0; i < recipe.stages.size(); ++i) {
    const StageFolder folder = run.stage(i);
    const std::string where = folder.finished().string();
    const Json figures = read_json(where), evaluation = figures.value("evaluation", Json::object());
    const auto figure = [&](const char* name, double scale, const char* unit) {
      return evaluation.contains(name) ? fmt::format("{:.4g}{}", scale * json_get<double>(evaluation, name, where), unit) : std::string("-");
    };
    text += fmt::format("{:<16}{:>8}{:>12}{:>10}{:>14}{:>20}  {}\n", recipe.stages[i].name, json_get<int64_t>(figures, "steps", where),
                        json_get<int64_t>(figures, "samples", where), figure("loss", 1, ""), figure("exact_match", 100, " %"),
                        figure("baseline", 100, " %"), fs::exists(folder.export_folder()) ? folder.export_folder().string() : "-");
  }
  return text;
}

}  // namespace

ExitCode run_recipe(const Recipe& recipe, const std::vector<std::string>& overrides, const std::string& version) {
  check_stages(recipe);
  signals::install();
  announce_device(recipe.stages.front().config.runtime);
  SingleProcess comm;
  const RunFolder run(recipe, overrides, version);
  log::info("run folder: {}", run.path().string());

  std::optional<StageFolder> previous;
  for (size_t i = 0; i < recipe.stages.size(); ++i) {
    const Stage& stage = recipe.stages[i];
    const std::string title = recipe.staged ? fmt::format("{} ({}/{})", stage.name, i + 1, recipe.stages.size()) : stage.name;
    const StageFolder folder = run.stage(i);
    if (fs::exists(folder.finished())) {
      log::info("{}: finished before, see {}", title, folder.root.string());
    } else {
      const StageJob job{title, stage.config, recipe.origins[i], folder, previous, recipe.digest, setup_runtime(stage.config.runtime)};
      const ExitCode code = Trainer(job, comm).run();
      if (code != ExitCode::done) return code;
      if (i + 1 < recipe.stages.size() && signals::stop_request() != signals::Request::none) return signals::exit_code(signals::stop_request());
    }
    previous = folder;
  }
  log::info("all is done\n{}", summary(recipe, run));
  return ExitCode::done;
}

}  // namespace fusion
