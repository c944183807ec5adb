#include "fusion/train/recipe.h"

#include "fusion/base/log.h"
#include "fusion/base/signals.h"
#include "fusion/base/whereabouts.h"
#include "fusion/train/runtime.h"
#include "fusion/train/trainer.h"

#include <ATen/Parallel.h>

#include <utility>

namespace fusion {
namespace {

void check_stages(const Recipe& recipe) {
  for (size_t i = 1; i < recipe.stages.size(); ++i)
    FUSION_CHECK(recipe.stages[i].config.model.path == recipe.stages[0].config.model.path,
                 "config: stages.{}.model.path: a stage starts from the weights of the stage before; give model.path for the whole recipe", i);
}

void announce(const Ranks& ranks, const RuntimeConfig& config, c10::Device device) {
  const bool missing = device.is_cpu() && config.device == Device::automatic;
  const std::string processes = ranks.world == 1 ? "" : fmt::format(", {} processes by {}", ranks.world, ranks.source);
  log::info("{}running on {} with {} CPU threads{}", missing ? "no GPU found: " : "", device.str(), at::get_num_threads(), processes);
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

ExitCode run_recipe(const Recipe& recipe, const std::vector<std::string>& overrides, const std::string& version, const Ranks& ranks,
                    const DrawSnapshots& snapshots, std::optional<ProfileSteps> profile) {
  check_stages(recipe);
  signals::install();
  const RuntimeConfig& runtime = recipe.stages.front().config.runtime;
  const c10::Device device = setup_runtime(runtime, ranks.local_rank, ranks.local_world);
  announce(ranks, runtime, device);
  whereabouts::set_work("meeting the other processes");
  Processes processes(ranks, runtime, device);
  const RunFolder run(recipe, overrides, version, processes.all());
  log::info("run folder: {}", run.path().string());

  std::optional<StageFolder> previous;
  for (size_t i = 0; i < recipe.stages.size(); ++i) {
    const Stage& stage = recipe.stages[i];
    const std::string title = recipe.staged ? fmt::format("{} ({}/{})", stage.name, i + 1, recipe.stages.size()) : stage.name;
    const StageFolder folder = run.stage(i);
    const auto found = together(processes.all(), "finished stage", [&] { return processes.first() && fs::exists(folder.finished()) ? "yes" : ""; });
    if (!found[0].empty()) {
      log::info("{}: finished before, see {}", title, folder.root.string());
    } else {
      const StageJob job{title,
                         recipe.name,
                         recipe.staged ? stage.name : "",
                         stage.config,
                         recipe.origins[i],
                         folder,
                         previous,
                         recipe.digest,
                         setup_runtime(stage.config.runtime, ranks.local_rank, ranks.local_world),
                         snapshots,
                         std::exchange(profile, std::nullopt)};
      const ExitCode code = Trainer(job, processes).run();
      if (code != ExitCode::done) return code;
    }
    previous = folder;
  }
  FUSION_CHECK(!profile, "train: --profile: every stage of {} is finished; there is no step to look at", run.path().string());
  if (processes.first()) log::info("all is done\n{}", summary(recipe, run));
  return ExitCode::done;
}

}  // namespace fusion
