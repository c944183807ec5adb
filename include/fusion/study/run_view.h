// A run folder as others see it, while it runs or after: only read, nothing locked, a line that is just being written left out.
#pragma once

#include "fusion/base/json.h"
#include "fusion/config/config.h"
#include "fusion/train/checkpoint.h"

#include <map>
#include <optional>

namespace fusion {

/// metrics.jsonl of a stage. Columns have one value per step line, NaN where a line has none: "loss", "seconds", "lr.decoder", ...
class Metrics {
 public:
  explicit Metrics(fs::path file) : file_(std::move(file)) {}

  /// Reads what was added since the last call; all of it anew when the file has become shorter, as a resume makes it. No file: no lines.
  /// Throws ExitCode::data naming file and line for a whole line that is no object with a step.
  void update();

  size_t size() const { return steps.size(); }
  /// A column by its name; empty when no line has it.
  const std::vector<double>& column(const std::string& name) const;

  std::vector<double> steps;
  std::map<std::string, std::vector<double>> columns;
  struct Evaluation {
    double step;
    double seconds;  // of all steps before it
    Json figures;
  };
  std::vector<Evaluation> evaluations;
  double seconds = 0;  // of all steps

 private:
  void add(const Json& line, const std::string& where);

  fs::path file_;
  uint64_t read_ = 0;
  int64_t lines_ = 0;
};

/// Rejected samples with the same kind of reason ("image", "over_length").
struct LedgerEntry {
  std::string dataset, kind;
  int64_t count = 0;
  std::string example;  // reason of the first one, with its place
};

struct StageView {
  std::string name;  // empty in a run without stages
  fs::path folder;
  Metrics metrics;
  int64_t steps = 0;            // of the whole stage; 0 while not known
  std::optional<Json> figures;  // finished.json
  std::vector<LedgerEntry> ledger;
  std::vector<CheckpointInfo> checkpoints;  // newest first

  /// Reads again what changes while the run goes on.
  void update();
  double last_step() const { return metrics.steps.empty() ? 0 : metrics.steps.back(); }
};

struct RunView {
  std::string name;
  fs::path folder;
  Json manifest;                 // {} when missing
  std::string origin;            // origin.yaml
  std::optional<Recipe> recipe;  // empty when this program cannot read resolved.yaml
  std::string recipe_problem;    // why
  std::string holder;            // "host a pid 12": who wrote the lock, running or not
  std::vector<StageView> stages;

  /// Reads again what changes while the run goes on.
  void update();
  bool finished() const;
};

/// Throws a usage error for a folder that is no run's (neither resolved.yaml nor metrics.jsonl).
RunView read_run(const fs::path& folder);

}  // namespace fusion
