#include "fusion/train/lanes.h"

#include <ATen/Parallel.h>

#include <atomic>
#include <exception>
#include <thread>

namespace fusion {

void run_lanes(int64_t lanes, int64_t count, const std::function<void(int64_t)>& work) {
  // The lowest micro-batch that has not begun goes first: the one that others wait for is always running.
  std::atomic<int64_t> next{0};
  const auto lane = [&] {
    for (int64_t micro = next++; micro < count; micro = next++) work(micro);
  };
  lanes = std::min(lanes, count);
  if (lanes <= 1) return lane();

  // Threads of our own, not a parallel region: inside one, MKL takes its slower multi-threaded paths with a team of one.
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  std::vector<std::exception_ptr> failures(static_cast<size_t>(lanes));
  const auto guarded = [&](int64_t index) {
    at::set_num_threads(1);  // OpenMP keeps this number per thread
    try {
      lane();
    } catch (...) {
      failures[static_cast<size_t>(index)] = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> others;
    for (int64_t index = 1; index < lanes; ++index) others.emplace_back(guarded, index);
    guarded(0);
  }
  at::set_num_threads(threads);
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

void GradientTurns::wait(const Unit& unit, int64_t micro) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    const auto last = passed_.find(&unit);
    for (int64_t m = last == passed_.end() ? 0 : last->second + 1; m < micro; ++m)
      if (!finished_[static_cast<size_t>(m)]) return false;
    return true;
  });
}

void GradientTurns::pass(const Unit& unit, int64_t micro) {
  const std::lock_guard lock(mutex_);
  passed_[&unit] = micro;
  changed_.notify_all();
}

void GradientTurns::finish(int64_t micro) {
  const std::lock_guard lock(mutex_);
  finished_[static_cast<size_t>(micro)] = true;
  changed_.notify_all();
}

void MicroGradients::accumulate(Parameter& parameter, at::Tensor gradient) { add_gradient(sums_[&parameter], std::move(gradient)); }

void MicroGradients::gradients_complete(const Unit& unit) {
  turns_.wait(unit, micro_);
  for (Parameter* parameter : unit.parameters) {
    const auto sum = sums_.find(parameter);
    if (sum == sums_.end()) continue;
    add_gradient(parameter->grad, std::move(sum->second));
    sums_.erase(sum);
  }
  sharding_.gradients_complete(unit, micro_);
  turns_.pass(unit, micro_);
}

}  // namespace fusion
