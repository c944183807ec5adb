// Micro-batches of a step side by side on a CPU: one thread each, gradients added in the order of the micro-batches.
// Small models leave most of a second thread idle when it only helps inside operators; whole micro-batches do not.
#pragma once

#include "fusion/train/sharding.h"

#include <condition_variable>
#include <functional>
#include <mutex>

namespace fusion {

/// Runs work(0) ... work(count - 1), `lanes` of them at a time; the operators of one use one thread. With one lane they run one after another
/// with all threads inside the operators. Rethrows the first exception when all lanes have ended.
void run_lanes(int64_t lanes, int64_t count, const std::function<void(int64_t)>& work);

/// Whose turn it is to add gradients of a unit: micro-batch m comes after all below it. With operators on one
/// thread the bits then do not depend on the number of lanes.
class GradientTurns {
 public:
  explicit GradientTurns(int64_t micros) : finished_(static_cast<size_t>(micros), false) {}

  /// Returns when each micro-batch below `micro` has either passed the unit or finished.
  void wait(const Unit& unit, int64_t micro);
  void pass(const Unit& unit, int64_t micro);
  /// The micro-batch will add nothing more, be it done or failed.
  void finish(int64_t micro);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_map<const Unit*, int64_t> passed_;  // the last micro-batch that passed; they pass in order
  std::vector<bool> finished_;
};

/// The tape's policy for one micro-batch: sums its gradients by unit, adds each sum when its turn comes and tells the sharding. Must be destroyed
/// before the parameters' gradients are read.
class MicroGradients : public TapePolicy {
 public:
  MicroGradients(GradientTurns& turns, int64_t micro, Sharding& sharding) : turns_(turns), micro_(micro), sharding_(sharding) {}
  MicroGradients(const MicroGradients&) = delete;
  MicroGradients& operator=(const MicroGradients&) = delete;
  ~MicroGradients() override { turns_.finish(micro_); }

  void acquire(const Unit& unit) override { sharding_.acquire(unit); }
  void begin_backward() override { sharding_.begin_backward(); }
  void accumulate(Parameter& parameter, at::Tensor gradient) override;
  void gradients_complete(const Unit& unit) override;

 private:
  GradientTurns& turns_;
  int64_t micro_;
  Sharding& sharding_;
  std::unordered_map<const Parameter*, at::Tensor> sums_;  // fp32
};

}  // namespace fusion
