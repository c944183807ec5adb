#include "fusion/train/plan.h"

#include "fusion/base/error.h"

#include <algorithm>

namespace fusion {

StagePlan::StagePlan(const TrainConfig& config, int64_t samples, int64_t rank, int64_t world)
    : samples_(samples), rank_(rank), world_(world), global_(config.global_batch), micro_(config.micro_batch) {
  FUSION_CHECK(samples > 0, "data: data.mixture holds no sample");
  FUSION_CHECK(global_ % (micro_ * world_) == 0,
               "config: train.micro_batch ({}) does not divide train.global_batch ({}) / processes ({}); change one of the two", micro_, global_,
               world_);
  micros_ = global_ / (micro_ * world_);
  steps_per_epoch_ = (samples + global_ - 1) / global_;
  steps_ = config.max_steps > 0 ? config.max_steps : config.epochs * steps_per_epoch_;
}

StagePlan::Slice StagePlan::slice(int64_t micro) const {
  const int64_t step = micro / micros_, piece = micro % micros_ * world_ + rank_;
  const int64_t first = step % steps_per_epoch_ * global_ + piece * micro_;
  return {epoch(step), std::min(first, samples_), std::min(first + micro_, samples_)};
}

int64_t StagePlan::places(int64_t step) const { return std::min(global_, samples_ - step % steps_per_epoch_ * global_); }

}  // namespace fusion
