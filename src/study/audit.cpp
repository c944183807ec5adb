#include "fusion/study/audit.h"

#include "fusion/base/error.h"
#include "fusion/base/json.h"
#include "fusion/data/ledger.h"
#include "fusion/train/data_plan.h"
#include "fusion/train/run_folder.h"
#include "fusion/train/step.h"

namespace fusion {
namespace {

constexpr size_t kShownFaults = 20;

/// Calls line(text, where) for each line of a file.
template <class Line>
void for_lines(const fs::path& path, const Line& line) {
  const std::string text = read_file(path);
  int64_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string where = fmt::format("{}:{}", path.string(), ++number);
    line(parse_json(std::string_view(text).substr(at, end - at), where), where);
    at = end + 1;
  }
}

class Auditor {
 public:
  Auditor(const Stage& stage, const StageFolder& folder)
      : config_(stage.config),
        folder_(folder),
        mixture_(config_.data.mixture, config_.data.image_folder, config_.data.seed, config_.data.max_samples, config_.data.quarantine),
        plan_(config_.train, mixture_.size()) {
    audit_.name = stage.name;
    for (int64_t epoch = 0; epoch < plan_.steps() / plan_.steps_per_epoch(); ++epoch) {
      audit_.epochs.emplace_back();
      audit_.epochs.back().epoch = epoch;
      audit_.epochs.back().samples = audit_.epochs.back().not_reached = mixture_.size();
    }
  }

  StageAudit run() {
    read_ledger();
    for_lines(folder_.metrics(), [&](const Json& line, const std::string& where) {
      if (!line.contains("evaluation")) step(line, where);
    });
    for (const auto& [place, reason] : rejected_)
      fault(fmt::format("epoch {} position {}: in the ledger ({}), but no step came to it", place.first, place.second, reason));
    return std::move(audit_);
  }

 private:
  void read_ledger() {
    if (!fs::exists(folder_.ledger())) return;
    for_lines(folder_.ledger(), [&](const Json& line, const std::string& where) {
      const std::pair place{json_get<int64_t>(line, "epoch", where), json_get<int64_t>(line, "position", where)};
      const auto reason = json_get<std::string>(line, "reason", where);
      if (!rejected_.emplace(place, reason).second)
        fault(fmt::format("{}: epoch {} position {} is rejected twice", where, place.first, place.second));
    });
  }

  void step(const Json& line, const std::string& where) {
    const auto step = json_get<int64_t>(line, "step", where) - 1;
    if (step != audit_.steps) fault(fmt::format("{}: step {} where step {} was expected", where, step + 1, audit_.steps + 1));
    audit_.steps = step + 1;
    if (step < 0 || step >= plan_.steps()) return fault(fmt::format("{}: the stage has {} steps", where, plan_.steps()));
    const int64_t epoch = plan_.epoch(step);
    deal(epoch);
    EpochAudit& account = audit_.epochs[static_cast<size_t>(epoch)];
    const bool updated = json_get<bool>(line, "updated", where);
    int64_t samples = 0;
    uint64_t trace = 0;
    const int64_t begin = plan_.first(step), end = begin + plan_.places(step);
    for (int64_t position = begin; position < end; ++position) {
      --account.not_reached;
      if (const auto left = rejected_.find({epoch, position}); left != rejected_.end()) {
        ++account.rejected[left->second.substr(0, left->second.find(':'))];
        rejected_.erase(left);
        continue;
      }
      ++samples;
      trace = add_traces(trace, sample_trace(position, id_of(order_[static_cast<size_t>(position)])));
    }
    (updated ? account.trained : account.skipped) += samples;
    if (const auto recorded = json_get<int64_t>(line, "samples", where); recorded != samples)
      fault(fmt::format("{}: {} samples, the order and the ledger leave {}", where, recorded, samples));
    else if (json_get<std::string>(line, "trace", where) != trace_text(trace))
      fault(fmt::format("{}: other samples than the order and the ledger say", where));
  }

  void deal(int64_t epoch) {
    if (epoch == dealt_) return;
    order_ = epoch_order(mixture_, order_options(config_), epoch);
    dealt_ = epoch;
  }

  std::string id_of(int64_t index) const {
    try {
      return mixture_.sample(index).id;
    } catch (const BadSample& bad) {
      return bad.id;
    }
  }

  void fault(std::string text) {
    if (audit_.faults.size() < kShownFaults) audit_.faults.push_back(std::move(text));
  }

  const Config& config_;
  const StageFolder folder_;
  const Mixture mixture_;
  const StagePlan plan_;
  std::map<std::pair<int64_t, int64_t>, std::string> rejected_;  // (epoch, position) -> reason; taken out when a step comes to it
  std::vector<uint32_t> order_;
  int64_t dealt_ = -1;
  StageAudit audit_;
};

}  // namespace

std::vector<StageAudit> audit_run(const fs::path& run) {
  const fs::path resolved = run / "resolved.yaml";
  FUSION_CHECK(fs::exists(resolved), "data: {} is no run folder: it has no resolved.yaml", run.string());
  const Recipe recipe = load_recipe({resolved.string()}, {});
  std::vector<StageAudit> audits;
  for (const Stage& stage : recipe.stages) {
    const StageFolder folder{recipe.staged ? run / stage.name : run};
    if (fs::exists(folder.metrics())) audits.push_back(Auditor(stage, folder).run());
  }
  FUSION_CHECK(!audits.empty(), "data: {}: no stage has begun", run.string());
  return audits;
}

std::string audit_text(const std::vector<StageAudit>& stages) {
  std::string text;
  int64_t faults = 0;
  for (const StageAudit& stage : stages) {
    text += fmt::format("{}: {} steps\n", stage.name, stage.steps);
    for (const EpochAudit& epoch : stage.epochs) {
      int64_t rejected = 0;
      std::string reasons;
      for (const auto& [reason, count] : epoch.rejected) {
        reasons += fmt::format("{}{} {}", reasons.empty() ? "" : ", ", reason, count);
        rejected += count;
      }
      text += fmt::format("  epoch {}: {} samples: {} trained once, {} rejected{}{}{}\n", epoch.epoch + 1, epoch.samples, epoch.trained, rejected,
                          reasons.empty() ? "" : " (" + reasons + ")",
                          epoch.skipped > 0 ? fmt::format(", {} in steps without an update", epoch.skipped) : "",
                          epoch.not_reached > 0 ? fmt::format(", {} not reached yet", epoch.not_reached) : "");
    }
    for (const std::string& fault : stage.faults) text += "  fault: " + fault + "\n";
    faults += static_cast<int64_t>(stage.faults.size());
  }
  return text + (faults == 0 ? "every sample is accounted for\n" : "samples are not accounted for\n");
}

}  // namespace fusion
