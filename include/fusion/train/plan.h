// How a stage is cut into epochs and optimizer steps: pure arithmetic, so that one step number is the whole data position.
#pragma once

#include "fusion/config/config.h"

namespace fusion {

class StagePlan {
 public:
  /// `samples` of the mixture per epoch.
  StagePlan(const TrainConfig& config, int64_t samples);

  int64_t samples() const { return samples_; }
  int64_t steps() const { return steps_; }
  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  int64_t epoch(int64_t step) const { return step / steps_per_epoch_; }

  /// Step `step` trains on `places` samples from place `first` of its epoch's order on. The last step of an epoch is shorter and never filled up.
  int64_t first(int64_t step) const { return step % steps_per_epoch_ * global_; }
  int64_t places(int64_t step) const;

 private:
  int64_t samples_, global_, steps_per_epoch_, steps_;
};

}  // namespace fusion
