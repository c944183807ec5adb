// Learning rate over the steps of a stage (training.md, "Common").
#pragma once

#include "fusion/config/config.h"

namespace fusion {

/// Rises linearly from 0 over the warm-up steps, then follows cosine, line or constant down to min_ratio of the peak.
class Schedule {
 public:
  /// `steps`: optimizer steps of the stage. Throws a usage error when the warm-up is longer.
  Schedule(const ScheduleConfig& config, int64_t steps);

  /// What every group's peak rate is multiplied by in optimizer step `step`, counted from 0.
  double factor(int64_t step) const;
  int64_t warmup_steps() const { return warmup_; }

 private:
  ScheduleType type_;
  double min_ratio_;
  int64_t steps_, warmup_;
};

}  // namespace fusion
