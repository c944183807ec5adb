// An offline run of Weights & Biases, written without its libraries: `wandb sync` sends it.
#pragma once

#include "fusion/config/config.h"
#include "fusion/train/observer.h"

namespace fusion {

/// All keys by section, as W&B shows them with a run.
Json config_json(Config config);

/// A .wandb file: header, then LevelDB log blocks of protobuf records.
class WandbFile : public Observer {
 public:
  struct Options {
    std::string run, stage;   // names; stage may be empty
    Json config;              // config_json
    uint64_t keep_bytes = 0;  // of the file of a run that is resumed: what was written later is dropped
    Figures rates;            // peak rates as in part_rates
    c10::Device device = c10::kCPU;
  };
  /// Goes on with the run that `folder` holds, under its id, else makes offline-run-<time>-<id>/run-<id>.wandb there. WANDB_PROJECT, WANDB_ENTITY,
  /// WANDB_NAME, WANDB_NOTES, WANDB_TAGS and WANDB_RUN_GROUP say where a new run belongs.
  WandbFile(const fs::path& folder, Options options);

  void after_step(const TrainState& state, const StepReport& report) override;
  void after_evaluation(const TrainState& state, const Json& figures) override;
  /// Makes all points so far durable; the size of the file. Throws ExitCode::io.
  uint64_t sync();
  /// The stage is complete: summary and exit records.
  void finish();

  const fs::path& path() const { return place_.file; }

 private:
  struct Place {
    fs::path file;
    std::string id;
    int64_t start = 0;   // when the run began, seconds since 1970
    bool known = false;  // goes on
  };
  static Place find_place(const fs::path& folder, uint64_t keep_bytes);

  void add(const std::string& record);
  void begin_run();
  /// One row per step: an evaluation goes into the row of its step.
  void write_row();

  const Options options_;
  const Place place_;
  uint64_t offset_ = 0;  // where the next record begins
  PatientWriter file_;
  int64_t row_step_ = 0;
  Figures row_;
  std::map<std::string, std::string> summary_;  // last value of each figure, as JSON
};

}  // namespace fusion
