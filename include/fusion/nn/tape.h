// The tape runs a step as a list of small autograd graphs and walks it back in an explicit order (docs/architecture.md 4).
#pragma once

#include "fusion/config/model_config.h"
#include "fusion/nn/cheap.h"
#include "fusion/nn/offload.h"
#include "fusion/nn/parameter.h"

#include <functional>
#include <memory>

namespace fusion {

/// Adds in fp32; an undefined sum takes the gradient over.
void add_gradient(at::Tensor& sum, at::Tensor gradient);

/// What sharding hangs on the tape's walk. The default keeps everything in place and adds gradients in fp32.
class TapePolicy {
 public:
  virtual ~TapePolicy() = default;
  /// Makes the unit's values readable; called before each forward and each backward use.
  virtual void acquire(const Unit&) {}
  /// The unit's values are not needed until the next acquire.
  virtual void release(const Unit&) {}
  /// Adds a gradient of one use of a parameter.
  virtual void accumulate(Parameter& parameter, at::Tensor gradient);
  /// The forward pass is over.
  virtual void begin_backward() {}
  /// All uses of the unit in this step have been walked back.
  virtual void gradients_complete(const Unit&) {}
};

/// A step as segments. run() in forward order, then backward() once. Without gradients run() just calls the function.
class Tape {
 public:
  using Function = std::function<Tensors(const Tensors&)>;

  /// `offload` (may be null): where run() sends what it is told to.
  Tape(bool gradients, TapePolicy& policy, Offload* offload = nullptr) : gradients_(gradients), policy_(policy), offload_(offload) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// Runs fn(inputs). `unit` (may be null) owns the parameters that fn reads.
  /// `recompute`: with full the inputs alone are kept, and fn runs again in the backward; with norms what fn makes through cheap() is not kept.
  /// With `away` and full recompute the first input leaves the device until then; no later segment may read it.
  /// Returns fresh leaves; each requires a gradient when the unit trains or any input requires one.
  /// fn must be a pure function of its inputs, the unit's values and constants.
  Tensors run(Unit* unit, Tensors inputs, Function fn, Recompute recompute = Recompute::none, bool away = false);

  /// One output, for functions that have one.
  at::Tensor run1(Unit* unit, Tensors inputs, std::function<at::Tensor(const Tensors&)> fn, Recompute recompute = Recompute::none, bool away = false);

  /// Walks the segments in reverse. `seeds`: outputs of run() with their gradients (same shape).
  void backward(const std::vector<std::pair<at::Tensor, at::Tensor>>& seeds);

  bool gradients() const { return gradients_; }

 private:
  struct Segment {
    Unit* unit;
    Tensors inputs;   // leaves made by earlier segments, or constants
    Tensors outputs;  // with their graph; none with full recompute
    std::vector<at::TensorImpl*> leaves;
    Function fn;         // set with full recompute
    CheapOutputs cheap;  // dropped with recompute of norms
    int64_t away = -1;   // number of the first input's stay in the host's memory
  };
  void walk_back(Segment& segment, Tensors output_gradients);

  bool gradients_;
  TapePolicy& policy_;
  Offload* offload_;
  std::vector<Segment> segments_;
  Tensors leaves_;                                           // keeps the outputs' identities alive until the backward is over
  std::unordered_map<at::TensorImpl*, at::Tensor> pending_;  // gradient of a leaf, summed over its uses
};

}  // namespace fusion
