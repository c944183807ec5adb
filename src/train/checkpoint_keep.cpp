#include "fusion/base/error.h"
#include "fusion/train/checkpoint.h"
#include "manifest.h"

#include <algorithm>
#include <cmath>

namespace fusion {
namespace {

/// Beside the folder: what lies in it is compared with its manifest.
fs::path mark_of(const fs::path& checkpoint) { return checkpoint.parent_path() / (checkpoint.filename().string() + ".pinned"); }

/// What an evaluation found at the checkpoint's own step; not-a-number when there was none, or the file cannot be read.
double figure_of(const fs::path& folder, int64_t step, const std::string& name) {
  try {
    const Json state = read_json(folder / "state.json");
    const Json& measured = state.at("measured");
    if (measured.is_object() && measured.at("step").get<int64_t>() == step) return measured.at("figures").at(name).get<double>();
  } catch (const std::exception&) {  // damaged: whether it stays is not decided by this
  }
  return std::nan("");
}

/// The step with the best figure, the later of equals; -1 for none.
int64_t best_step(const fs::path& checkpoints, const std::vector<CheckpointInfo>& newest_first, KeepBest best) {
  int64_t step = -1;
  double value = std::nan("");
  for (const CheckpointInfo& info : newest_first) {
    if (!info.finished || best == KeepBest::none) continue;
    const double figure = figure_of(checkpoints / info.name, info.step, enum_name(best));
    const bool better = best == KeepBest::loss ? figure < value : figure > value;
    if (std::isfinite(figure) && (better || std::isnan(value))) step = info.step, value = figure;
  }
  return step;
}

}  // namespace

bool is_pinned(const fs::path& checkpoint) { return fs::exists(mark_of(checkpoint)); }

void pin(const fs::path& checkpoint, bool on) {
  if (on)
    write_file(mark_of(checkpoint), "");
  else
    remove_tree(mark_of(checkpoint));
}

std::vector<std::string> prune_checkpoints(const fs::path& checkpoints, const KeepPolicy& policy, std::set<std::string>* verified) {
  FUSION_CHECK(policy.last >= 1, "checkpoint: keep is {}, at least 1 must stay", policy.last);
  const std::vector<CheckpointInfo> newest_first = list_checkpoints(checkpoints);
  const int64_t best = best_step(checkpoints, newest_first, policy.best);
  std::vector<std::string> gone;
  int64_t good = 0;
  for (const CheckpointInfo& info : newest_first) {
    const fs::path folder = checkpoints / info.name;
    if (info.finished && good < policy.last) {
      const bool known = verified && verified->contains(info.name), valid = known || verify_checkpoint(folder).empty();
      if (valid && verified) verified->insert(info.name);
      good += valid;
      // A damaged folder newer than every good one stays for a look at it: resume steps over it, and a new save of its step replaces it.
      if (valid || good == 0) continue;
    }
    if (info.finished && (is_pinned(folder) || info.step == best || (policy.every > 0 && info.step % policy.every == 0))) continue;
    remove_checkpoint(folder);
    gone.push_back(info.name);
  }
  for (const std::string& name : names_in(checkpoints))
    if (name.starts_with("latest.tmp-")) {
      remove_tree(checkpoints / name);
      gone.push_back(name);
    }
  return gone;
}

}  // namespace fusion
