#include "fusion/train/plan.h"

#include "fusion/base/error.h"

#include <algorithm>

namespace fusion {

StagePlan::StagePlan(const TrainConfig& config, int64_t samples) : samples_(samples), global_(config.global_batch) {
  FUSION_CHECK(samples > 0, "data: data.mixture holds no sample");
  steps_per_epoch_ = (samples + global_ - 1) / global_;
  steps_ = config.max_steps > 0 ? config.max_steps : config.epochs * steps_per_epoch_;
}

int64_t StagePlan::places(int64_t step) const { return std::min(global_, samples_ - first(step)); }

}  // namespace fusion
