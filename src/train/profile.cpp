#include "fusion/train/profile.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"

#include <torch/csrc/autograd/profiler_kineto.h>

#include <charconv>

namespace fusion {
namespace {

namespace profiler = torch::profiler::impl;

/// A whole positive number; 0 for anything else.
int64_t positive(std::string_view text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && number > 0 ? number : 0;
}

}  // namespace

ProfileSteps parse_profile(const std::string& text) {
  constexpr std::string_view kKey = "steps=", kTo = "..";
  ProfileSteps steps;
  if (text.starts_with(kKey)) {
    const std::string_view range = std::string_view(text).substr(kKey.size());
    const size_t to = range.find(kTo);
    steps.first = positive(range.substr(0, to));
    steps.last = to == std::string_view::npos ? steps.first : positive(range.substr(to + kTo.size()));
  }
  FUSION_CHECK(steps.first > 0 && steps.last >= steps.first,
               "train: --profile '{}' is no range of steps; write steps=10..12, or steps=10 for one. The first step is 1", text);
  return steps;
}

StepProfile::StepProfile(ProfileSteps steps, fs::path folder, int64_t rank, c10::Device device)
    : steps_(steps), folder_(std::move(folder)), rank_(rank), device_(device) {}

StepProfile::~StepProfile() {
  if (!running_) return;
  torch::autograd::profiler::disableProfiler();
  log::warn("train: the run ends before step {}: no profile is written", steps_.last);
}

void StepProfile::before_step(int64_t step) {
  if (step != steps_.first) return;
  profiler::ExperimentalConfig more;
  more.profile_all_threads = true;  // of the lanes and of autograd
  const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO, false, false, false, false, false, more);
  std::set<profiler::ActivityType> activities = {profiler::ActivityType::CPU};
  if (device_.is_cuda()) activities.insert(profiler::ActivityType::CUDA);
  torch::autograd::profiler::prepareProfiler(config, activities);
  torch::autograd::profiler::enableProfiler(config, activities);
  running_ = true;
}

void StepProfile::after_step(int64_t step) {
  if (!running_ || step != steps_.last) return;
  running_ = false;
  const auto result = torch::autograd::profiler::disableProfiler();
  const fs::path file = folder_ / fmt::format("rank-{}.steps-{}-{}.json", rank_, steps_.first, steps_.last);
  try {
    make_directories(folder_);
    fs::remove(file);  // of an earlier run
    result->save(file.string());
    if (!fs::exists(file)) fail(ExitCode::io, "file: write {}: failed", file.string());
  } catch (const std::exception& error) {  // as on a full disk; training is worth more
    log::warn("{}. There is no profile; training goes on", error.what());
    return;
  }
  log::info("profile of steps {} to {}: {}; open it in chrome://tracing or ui.perfetto.dev", steps_.first, steps_.last, file.string());
}

}  // namespace fusion
