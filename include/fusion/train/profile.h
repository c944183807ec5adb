// `fusion train --profile steps=10..12`: where the time of some steps goes, as a trace for chrome://tracing and Perfetto.
#pragma once

#include "fusion/base/file.h"

#include <c10/core/Device.h>

#include <optional>

namespace fusion {

/// Steps of a stage, the first is 1; both ends belong to it.
struct ProfileSteps {
  int64_t first = 0, last = 0;
};

/// "steps=10..12" or "steps=10". Throws a usage error.
ProfileSteps parse_profile(const std::string& text);

/// Records operators on all threads, kernels of a GPU, and our own names: steps, micro-batches, units. Costs time, changes no bit.
class StepProfile {
 public:
  /// Writes `folder`/rank-<rank>.steps-<first>-<last>.json once the last step is done.
  StepProfile(ProfileSteps steps, fs::path folder, int64_t rank, c10::Device device);
  /// A profile that the run's end cut short is thrown away, with a warning.
  ~StepProfile();
  StepProfile(const StepProfile&) = delete;
  StepProfile& operator=(const StepProfile&) = delete;

  void before_step(int64_t step);
  void after_step(int64_t step);

 private:
  const ProfileSteps steps_;
  const fs::path folder_;
  const int64_t rank_;
  const c10::Device device_;
  bool running_ = false;
};

}  // namespace fusion
