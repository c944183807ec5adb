#include "verify_steps.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>

namespace fusion {
namespace {

// fp32: README of the reference data, section 5.
constexpr VerifyLimits kFloatLimits = {.loss = 1e-6,
                                       .assembled = 5e-6,
                                       .state = 1e-5,
                                       .logits = 1e-5,
                                       .logits_absolute = 1e-4,
                                       .grad_relative = 5e-5,
                                       .grad_total_share = 1e-7,
                                       .zero_gradient = 1e-6,
                                       .total = 1e-5,
                                       .curve_mean = 3e-5,
                                       .curve_loss = 3e-5,
                                       .curve_norm = 1e-3,
                                       .final_weight = 1e-5};
// bf16 has 8 bits of mantissa: one rounding is up to 4e-3. Measured distances: docs/benchmarks.md.
constexpr VerifyLimits kHalfLimits = {.loss = 3e-3,
                                      .assembled = 2e-2,
                                      .state = 3e-2,
                                      .logits = 5e-2,
                                      .logits_absolute = 0.3,
                                      .grad_relative = 0.1,
                                      .grad_total_share = 2e-3,
                                      .zero_gradient = 1e-2,
                                      .total = 2e-2,
                                      .curve_mean = 1e-2,
                                      .curve_loss = 0.05,
                                      .curve_norm = 0.6,
                                      .final_weight = 0.05};

}  // namespace

const VerifyLimits& limits_of(at::ScalarType dtype) { return dtype == at::kBFloat16 ? kHalfLimits : kFloatLimits; }

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
