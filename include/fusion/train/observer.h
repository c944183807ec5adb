// What watches a stage: the state that a checkpoint keeps, and who hears about each step.
#pragma once

#include "fusion/base/json.h"
#include "fusion/base/patient_writer.h"
#include "fusion/train/step.h"

namespace fusion {

/// The position of a stage. Everything else that a resumed run needs is a function of it and of the config.
struct TrainState {
  int64_t step = 0;            // optimizer steps done, skipped ones included: data position and place in the schedule
  int64_t updates = 0;         // of these, steps that changed the weights (AdamW's t)
  int64_t skips = 0;           // non-finite steps in a row
  int64_t samples = 0;         // trained on, over all ranks
  int64_t tokens = 0;          // supervised tokens trained on
  Json evaluation;             // figures of the evaluation at the end of the stage; null until it is done, {} without data.eval
  Json measured;               // the last in-loop evaluation: its step and figures; null before the first
  uint64_t metrics_bytes = 0;  // sizes of the files as of this state: what was written later is dropped on resume
  uint64_t ledger_bytes = 0;
  uint64_t wandb_bytes = 0;  // 0 = there is none

  void advance(const StepReport& report);
  Json to_json() const;
  static TrainState from_json(const Json& json, std::string_view where);
};

class Observer {
 public:
  virtual ~Observer() = default;
  /// `state` stands after the step.
  virtual void after_step(const TrainState& state, const StepReport& report) = 0;
  /// Figures of an evaluation: name -> number.
  virtual void after_evaluation(const TrainState& state, const Json& figures) = 0;
};

/// metrics.jsonl: one object per step and per evaluation.
class MetricsFile : public Observer {
 public:
  /// `keep_bytes`: size to truncate to. `steps`: of the whole stage, for those who watch. `rates`: peak rates as in part_rates.
  MetricsFile(const fs::path& path, uint64_t keep_bytes, int64_t steps, Figures rates, c10::Device device);
  void after_step(const TrainState& state, const StepReport& report) override;
  void after_evaluation(const TrainState& state, const Json& figures) override;
  /// Makes the file durable; its size. Throws ExitCode::io.
  uint64_t sync();

 private:
  PatientWriter lines_;
  const int64_t steps_;
  Figures rates_;
  c10::Device device_;
};

struct ConsoleOptions {
  std::string title;       // "stage2 (3/3)"
  int64_t steps = 0;       // of the stage
  int64_t first_step = 0;  // done before
  int64_t every = 1;       // steps between lines
  double lr = 0;           // peak rate that is shown
};
/// A progress bar on a terminal, else one line per `every` steps.
std::unique_ptr<Observer> make_console(const ConsoleOptions& options, c10::Device device);

}  // namespace fusion
