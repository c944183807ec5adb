// AdamW on fp32 masters, with the global norm and clipping in the same passes (training.md).
#pragma once

#include "fusion/train/rules.h"

#include <functional>

namespace fusion {

class AdamW {
 public:
  /// Moments start at 0, for what this rank owns of the parameters that train. `store` must outlive the optimizer.
  AdamW(ParameterStore& store, const std::vector<ParameterRule>& rules, const OptimizerConfig& config);

  /// Parts of the model that train, in the store's order; the same on all ranks.
  const std::vector<std::string>& parts() const { return parts_; }

  /// Sums of the squares of the owned gradients of parameters that train: of all, then of each of parts(). Not finite where any gradient is not.
  /// One pass, one transfer.
  std::vector<double> gradient_squares() const;
  /// L2 norm of the same.
  double gradient_norm() const;

  /// One update at `factor` times each peak rate, with gradients scaled down to clip_norm when their global `norm` exceeds it.
  /// A parameter without gradient is updated as with a zero one. Then refreshes the compute copies and drops the gradients.
  /// `measure`: for update_squares(), at the price of another pass over the weights and of a copy of some of them at a time.
  void update(double factor, double norm, bool measure = false);

  /// As gradient_squares(), of what the last update, which measured, added to the owned weights. Waits for the device.
  std::vector<double> update_squares() const;

  void drop_gradients() { store_.zero_grads(); }

  /// Updates so far: AdamW's t.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

  /// The moments, of the shape of the parameter's master; writable, for checkpoints as "<name>.exp_avg" and "<name>.exp_avg_sq".
  struct Moment {
    const Parameter* parameter;
    const char* kind;  // "exp_avg"
    at::Tensor value;
    std::string name() const { return parameter->name + "." + kind; }
  };
  std::vector<Moment> state() const;

 private:
  /// Parameters with one rate and one decay: one fused call.
  struct Group {
    double lr, weight_decay;
    std::vector<Parameter*> parameters;
    std::vector<size_t> parts;  // index of each parameter's part
    Tensors masters, exp_avg, exp_avg_sq;
    Tensors steps;  // the shared step count, once per parameter
  };
  Tensors gradients(const Group& group);
  std::vector<double> squares_by_part(const Tensors& norms, const std::vector<size_t>& parts) const;

  ParameterStore& store_;
  OptimizerConfig config_;
  std::vector<std::string> parts_;
  std::vector<Group> groups_;
  Tensors values_, masters_;  // compute copies that are not the master itself, and their masters
  at::Tensor step_;           // fp32 [], updates so far as the kernel wants it
  at::Tensor zeros_;          // as long as the largest parameter, made when it is first needed
  int64_t updates_ = 0;
  Tensors update_norms_;  // of each parameter in the order of groups_, when the last update measured them
};

}  // namespace fusion
