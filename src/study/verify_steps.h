// Training steps and generation of reference cases, shared by verify and bench.
#pragma once

#include "fusion/study/model_case.h"
#include "fusion/study/verify.h"

namespace fusion {

/// Means of one batch, as the reference reports them.
struct StepLosses {
  double total = 0, ce = 0, v2t = 0, t2v = 0;
};

/// Forward and backward of one batch with the released averages; gradients are added to the parameters.
/// `between` is called after the forward pass.
StepLosses forward_backward(FusionModel& model, const Batch& batch, const StepContext& step, const std::function<void()>& between = {});

/// Rules of the reference runs: one rate for all, another for the tower.
TrainConfig reference_rules(double base, double tower);

/// How far a quantity may lie from the reference. The compared numbers are fp32 ones of the official code in any case.
struct VerifyLimits {
  double loss, assembled, state, logits, logits_absolute;        // relative, relative L2; largest difference of a logit
  double grad_relative, grad_total_share, zero_gradient, total;  // |difference| <= relative * norm + share * total norm
  double curve_mean, curve_loss, curve_norm, final_weight;       // relative: mean loss, loss and gradient norm of a step, L2 of a weight
};
const VerifyLimits& limits_of(at::ScalarType dtype);

void check_generation(const ModelCase& model_case, const FusionModel& model, VerifyReport& report);
/// Trains a fresh copy of the case's model as curve.json says.
void check_curve(const ModelCase& model_case, VerifyReport& report);

}  // namespace fusion
