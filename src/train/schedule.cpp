#include "fusion/train/schedule.h"

#include "fusion/base/error.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fusion {

Schedule::Schedule(const ScheduleConfig& config, int64_t steps)
    : type_(config.type),
      min_ratio_(config.min_ratio),
      steps_(steps),
      warmup_(config.warmup_steps >= 0 ? config.warmup_steps : static_cast<int64_t>(std::ceil(static_cast<double>(steps) * config.warmup_ratio))) {
  FUSION_CHECK(warmup_ <= steps, "config: schedule.warmup_steps ({}) is more than the {} steps of the stage", warmup_, steps);
}

double Schedule::factor(int64_t step) const {
  if (step < warmup_) return static_cast<double>(step) / static_cast<double>(warmup_);
  // Part of the way from the end of the warm-up to the end of the stage; the last step does not reach 1.
  const double way = static_cast<double>(step - warmup_) / static_cast<double>(std::max<int64_t>(1, steps_ - warmup_));
  switch (type_) {
    case ScheduleType::constant:
      return 1.0;
    case ScheduleType::linear:
      return min_ratio_ + (1.0 - min_ratio_) * std::max(0.0, 1.0 - way);
    case ScheduleType::cosine:
      return min_ratio_ + (1.0 - min_ratio_) * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * way)));
  }
  return 1.0;
}

}  // namespace fusion
