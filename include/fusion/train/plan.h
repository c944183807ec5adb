// How a stage is cut into epochs, optimizer steps and micro-batches: pure arithmetic, so that one step number is the whole data position.
#pragma once

#include "fusion/config/config.h"

namespace fusion {

class StagePlan {
 public:
  /// `samples` of the mixture per epoch, this process being `rank` of `world`.
  /// Throws a usage error when train.micro_batch does not divide train.global_batch / world.
  StagePlan(const TrainConfig& config, int64_t samples, int64_t rank, int64_t world);

  int64_t samples() const { return samples_; }
  int64_t steps() const { return steps_; }
  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  /// Micro-batches of one process per optimizer step.
  int64_t micros() const { return micros_; }
  int64_t epoch(int64_t step) const { return step / steps_per_epoch_; }

  /// Places [begin, end) in the order of `epoch`; may be empty.
  struct Slice {
    int64_t epoch, begin, end;
  };
  /// Slice of this process's micro-batch `micro`, counted over the whole stage. Step s of an epoch covers global_batch places, dealt in pieces of
  /// micro_batch: piece m * world + rank is micro-step m of a rank. The last step of an epoch is shorter and never filled up.
  Slice slice(int64_t micro) const;
  /// Places that optimizer step `step` covers on all processes.
  int64_t places(int64_t step) const;

 private:
  int64_t samples_, rank_, world_, global_, micro_, micros_, steps_per_epoch_, steps_;
};

}  // namespace fusion
