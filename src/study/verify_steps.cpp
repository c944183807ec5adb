#include "verify_steps.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>

namespace fusion {

StepLosses forward_backward(FusionModel& model, const Batch& batch, const StepContext& step, const std::function<void()>& between) {
  TapePolicy policy;
  Tape tape(true, policy);
  const LossSums sums = model.losses(tape, batch, step);
  std::vector<std::pair<at::Tensor, at::Tensor>> seeds;
  const auto mean = [&](const at::Tensor& sum, int64_t count, double weight) {
    if (count == 0) return 0.0;
    seeds.emplace_back(sum, at::full({}, weight / static_cast<double>(count), sum.options().requires_grad(false)));
    return sum.item<double>() / static_cast<double>(count);
  };
  const double dsm = model.config().loss.dsm_weight;
  StepLosses losses;
  losses.ce = mean(sums.ce, sums.ce_count, 1.0);
  losses.v2t = mean(sums.v2t, sums.v2t_count, dsm);
  losses.t2v = mean(sums.t2v, sums.t2v_count, dsm);
  losses.total = losses.ce + dsm * (losses.v2t + losses.t2v);
  if (between) between();
  tape.backward(seeds);
  return losses;
}

}  // namespace fusion
