// Which samples one process gets in which micro-batch, from a step on: what the loader reads ahead.
#pragma once

#include "fusion/data/deal.h"
#include "fusion/data/loader.h"
#include "fusion/train/plan.h"

namespace fusion {

/// How a run's steps are dealt over `world` processes. Throws a usage error when train.micro_batch does not divide train.global_batch / world,
/// unless data.pack fills micro-batches by rows.
DealOptions deal_options(const Config& config, int64_t world);

class DataPlan {
 public:
  /// Of the process `rank`, from optimizer step `step` on. `plan` has to outlive it.
  DataPlan(const Config& config, const ModelConfig& model, const StagePlan& plan, std::shared_ptr<const Mixture> mixture, int64_t rank, int64_t world,
           int64_t step);
  /// As Loader::Plan wants it.
  std::optional<Loader::Micro> next();

 private:
  void deal(int64_t step);

  const StagePlan& plan_;
  const std::shared_ptr<const Mixture> mixture_;
  const OrderOptions order_options_;
  const DealOptions deal_options_;
  const CostModel cost_;
  const int64_t rank_;
  int64_t step_, epoch_ = -1, first_ = 0;
  std::vector<uint32_t> order_;  // of epoch_
  Deal deal_;                    // of the step before step_
  size_t micro_ = 0;
};

/// The order of a stage's epochs: the same for any number of processes.
OrderOptions order_options(const Config& config);

}  // namespace fusion
