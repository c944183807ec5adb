// One stage of a run: from its config to finished weights, through any number of stops.
#pragma once

#include "fusion/data/ledger.h"
#include "fusion/infer/evaluate.h"
#include "fusion/infer/session.h"
#include "fusion/train/build.h"
#include "fusion/train/checkpoint.h"
#include "fusion/train/metrics_server.h"
#include "fusion/train/observer.h"
#include "fusion/train/plan.h"
#include "fusion/train/processes.h"
#include "fusion/train/profile.h"
#include "fusion/train/run_folder.h"
#include "fusion/train/wandb.h"

namespace fusion {

/// Draws what a model looks at, for the first `samples` rows of `held_out`, into a folder.
using DrawSnapshots = std::function<void(const LoadedModel& model, const Mixture& held_out, int64_t samples, const fs::path& folder)>;

struct StageJob {
  std::string title;  // "stage2 (3/3)"
  std::string run;    // name of the run
  std::string stage;  // name of the stage; empty in a run without stages
  Config config;
  Origins origins;
  StageFolder folder;
  std::optional<StageFolder> previous;  // stage whose weights this one starts from
  std::string config_digest;
  c10::Device device = c10::kCPU;
  DrawSnapshots snapshots;  // may be empty
  std::optional<ProfileSteps> profile;
};

class Trainer {
 public:
  /// Builds model, data and optimizer, and goes to the newest checkpoint, else to the start weights.
  Trainer(const StageJob& job, Processes& processes);
  ~Trainer();

  /// Trains to the end of the stage and leaves its export, or stops early with a complete checkpoint and the exit code that says so.
  ExitCode run();

 private:
  void build_data();
  void build_model();
  void start_or_resume();
  std::optional<LoadedCheckpoint> find_checkpoint(const std::function<std::optional<LoadedCheckpoint>()>& search);
  void check_space() const;
  void open_port();
  void open_outputs();
  void open_loader();
  void check_profile() const;
  void announce() const;
  std::vector<Batch> next_batches(double& waited);
  StepReport train_step();
  void guard(const StepReport& report) const;
  void settle_rejections();
  void periodic(bool save_now);
  Json evaluate();
  void draw_snapshots() const;
  CheckpointContent content();
  void begin_save(bool background);
  void commit_save();
  void save();
  void try_to_save(const std::function<void()>& part);
  void finish();
  void export_model();
  Digests digests() const;

  const StageJob& job_;
  const Config& config_;
  Processes& processes_;
  Communicator& comm_;  // all processes

  std::shared_ptr<const ConversationEncoder> encoder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const Mixture> mixture_, held_out_;  // held_out_ is null without data.eval
  std::unique_ptr<StagePlan> plan_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<Ledger> ledger_;   // of the first process
  std::vector<Rejection> rejected_;  // of this step, here

  std::unique_ptr<FusionModel> model_;
  std::vector<ParameterRule> rules_;
  std::unique_ptr<Sharding> sharding_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<Schedule> schedule_;
  std::unique_ptr<StepEngine> engine_;

  std::unique_ptr<CheckpointWriter> writer_;

  TrainState state_;
  std::unique_ptr<MetricsServer> server_;  // of the first process, with log.prometheus_port
  MetricsFile* metrics_ = nullptr;         // one of the observers
  WandbFile* wandb_ = nullptr;             // the same, with log.wandb
  std::vector<std::unique_ptr<Observer>> observers_;
  std::optional<StepProfile> profile_;
  double peak_flops_ = 0;  // per second, of all devices; 0 = not known
  int64_t failed_saves_ = 0;
  std::set<std::string> verified_;  // checkpoints that this process has read in full
};

}  // namespace fusion
