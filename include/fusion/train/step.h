// One optimizer step: draw, weigh, accumulate, guard, update.
#pragma once

#include "fusion/train/lanes.h"
#include "fusion/train/loss.h"
#include "fusion/train/optimizer.h"
#include "fusion/train/schedule.h"

namespace fusion {

/// Numbers with names: of parts of the model, of data sources.
using Figures = std::vector<std::pair<std::string, double>>;

/// What a step did, the same on all ranks but for times and ids.
struct StepReport {
  int64_t step = 0, epoch = 0;
  double ce = 0, v2t = 0, t2v = 0, loss = 0;  // averages before the update; loss is the total
  double grad_norm = 0;                       // before clipping
  Figures source_ce;                          // mean over the step's tokens of each data source that has some
  Figures grad_norms, update_norms;           // by part of the model; update_norms with log.update_norms, where the step updated
  double lr_factor = 0;                       // of the peak rates
  int64_t samples = 0, rows = 0, tokens = 0;  // trained samples, decoder rows, supervised tokens, over all ranks
  int64_t padded_rows = 0;                    // rows that micro-batches padded to their longest sample would have; with data.pack, room of the packs
  int64_t flops = 0;                          // of forward and backward passes over all ranks, without recomputation
  uint64_t trace = 0;                         // of these samples: the sum of their sample_trace()
  std::vector<int64_t> query_lens;            // latents per question; one, or one per micro-step with card.draw=micro_step
  bool finite = true;                         // loss and gradient
  bool updated = false;
  std::vector<std::string> ids;       // this rank's samples, where the step is not finite
  double seconds = 0, data_wait = 0;  // of the whole step; of these, waiting for the loader
  double mfu = 0;                     // flops per second as a part of what the devices can do; 0 = not known
  int64_t sent_bytes = 0;             // from this rank to others
};

/// Says which sample stood at which place of the epoch's order, so that a sum over a step proves what was trained: `fusion data audit`.
/// Two halves of 32 bits, each of which may be summed on its own without carry into the other (wrapping at 2^32).
uint64_t sample_trace(int64_t position, const std::string& id);
/// The sum of two traces, and a trace as metrics.jsonl holds it.
uint64_t add_traces(uint64_t a, uint64_t b);
std::string trace_text(uint64_t trace);

/// Latents per question of a step: a draw that depends on (train.seed, step[, micro-step]) alone, so all ranks and resumed runs agree.
int64_t draw_query_len(const CardConfig& card, int64_t seed, int64_t step, int64_t micro);

class StepEngine {
 public:
  /// All must outlive the engine. `sources`: names of the data sets that Batch::sources counts; those of one name are one.
  StepEngine(const FusionModel& model, Sharding& sharding, AdamW& optimizer, const Schedule& schedule, const Config& config, Communicator& comm,
             const std::vector<std::string>& sources = {});

  /// Runs optimizer step `step` over this rank's micro-batches, any of which may be empty, and frees them on the way.
  /// Leaves weights and optimizer untouched when the step holds no supervised token anywhere, or a loss or gradient is not finite.
  StepReport run(int64_t step, std::vector<Batch> micros);

 private:
  LossSums accumulate(TapePolicy& policy, const Batch& batch, const StepContext& context, const LossCounts& counts, const LossWeights& weights) const;
  void add_averages(const LossSums& sums, const LossWeights& weights, const LossCounts& counts, const std::vector<int64_t>& sources);
  void finish_losses(StepReport& report, std::vector<double> exact);
  Figures norms(std::vector<double> squares) const;

  const FusionModel& model_;
  Sharding& sharding_;
  AdamW& optimizer_;
  const Schedule& schedule_;
  const Config& config_;
  Communicator& comm_;
  FlopsCounter flops_;
  std::vector<std::string> source_names_;  // without repeats
  std::vector<size_t> source_index_;       // data set of the mixture -> place in source_names_
  std::unique_ptr<CopyLane> copies_;       // with train.recompute.offload
  // fp64 on the device, read once per step: ce, v2t, t2v; [sources] sums of ce; samples; upper and lower half of the trace; [sources] tokens.
  at::Tensor averages_;
};

}  // namespace fusion
