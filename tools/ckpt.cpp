#include "fusion/train/checkpoint.h"
#include "fusion/train/find_model.h"
#include "tools.h"

namespace fusion::tools {
namespace {

void list(const std::string& run) {
  for (const fs::path& folder : find_checkpoint_folders(run))
    for (const CheckpointInfo& info : list_checkpoints(folder))
      fmt::print("{}  {}\n", (folder / info.name).string(),
                 !info.finished ? "unfinished"
                 : info.bytes == 0
                     ? "manifest damaged"
                     : fmt::format("{:.1f} MB{}", static_cast<double>(info.bytes) / 1e6, is_pinned(folder / info.name) ? ", pinned" : ""));
}

void set_pin(const std::string& run, int64_t step, bool on) {
  int64_t found = 0;
  for (const fs::path& folder : find_checkpoint_folders(run))
    for (const CheckpointInfo& info : list_checkpoints(folder))
      if (info.finished && info.step == step) pin(folder / info.name, on), ++found;
  FUSION_CHECK(found == 1, "checkpoint: {} has {} finished checkpoints of step {}; `fusion ckpt list` shows them, and a stage's folder can be given",
               run, found, step);
}

/// 1 when a checkpoint is damaged, 4 when a folder has damaged ones only.
ExitCode verify(const std::string& run) {
  ExitCode code = ExitCode::done;
  for (const fs::path& folder : find_checkpoint_folders(run)) {
    int64_t good = 0, damaged = 0;
    for (const CheckpointInfo& info : list_checkpoints(folder)) {
      if (!info.finished) continue;
      const std::string problem = verify_checkpoint(folder / info.name);
      ++(problem.empty() ? good : damaged);
      fmt::print("{}  {}\n", (folder / info.name).string(), problem.empty() ? "ok" : "damaged: " + problem);
    }
    if (damaged > 0 && code != ExitCode::checkpoint) code = good > 0 ? ExitCode::failure : ExitCode::checkpoint;
  }
  return code;
}

void prune(const std::string& run, const KeepPolicy& keep) {
  std::vector<std::unique_ptr<FileLock>> locks;  // not while the run trains: an unfinished save would count as a leftover
  for (const fs::path& folder : find_checkpoint_folders(run))
    for (const fs::path& holder : {folder.parent_path(), folder.parent_path().parent_path()})
      if (locks.empty() && fs::exists(holder / "lock")) locks.push_back(std::make_unique<FileLock>(holder / "lock"));
  for (const fs::path& folder : find_checkpoint_folders(run))
    for (const std::string& name : prune_checkpoints(folder, keep)) fmt::print("{}  removed\n", (folder / name).string());
}

}  // namespace

void add_ckpt(CLI::App& app, ExitCode& code) {
  struct Arguments {
    std::string run;
    KeepPolicy keep;
    int64_t step = 0;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("ckpt", "Look after the checkpoints of a run.");
  command->require_subcommand(1);
  const auto add = [&](const char* name, const char* help) {
    CLI::App* part = command->add_subcommand(name, help);
    part->add_option("run", arguments->run, "Folder of a run, of a stage, or of checkpoints")->required()->check(CLI::ExistingDirectory);
    return part;
  };
  add("list", "Checkpoints, newest first, with their sizes.")->callback([arguments] { list(arguments->run); });
  add("verify", "Compare every file with its manifest; exit 1 when one is damaged, 4 when no good one is left.")->callback([arguments, &code] {
    code = verify(arguments->run);
  });
  CLI::App* part = add("prune", "Remove old checkpoints and what unfinished saves left behind.");
  part->add_option("--keep", arguments->keep.last, "Newest verified checkpoints that stay")->check(CLI::PositiveNumber)->capture_default_str();
  part->add_option("--keep-every", arguments->keep.every, "Those of steps that it divides stay too")->check(CLI::PositiveNumber);
  static const std::map<std::string, KeepBest> kBest = {{"loss", KeepBest::loss}, {"exact_match", KeepBest::exact_match}};
  part->add_option("--keep-best", arguments->keep.best, "The best evaluated one stays too")->transform(CLI::CheckedTransformer(kBest));
  part->callback([arguments] { prune(arguments->run, arguments->keep); });
  for (const bool on : {true, false}) {
    part = add(on ? "pin" : "unpin", on ? "A checkpoint that stays whatever else is removed." : "It goes with the others again.");
    part->add_option("step", arguments->step, "Its step")->required()->check(CLI::NonNegativeNumber);
    part->callback([arguments, on] { set_pin(arguments->run, arguments->step, on); });
  }
}

}  // namespace fusion::tools
