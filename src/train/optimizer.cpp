#include "fusion/train/optimizer.h"

#include "fusion/base/error.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

namespace fusion {

AdamW::AdamW(ParameterStore& store, const std::vector<ParameterRule>& rules, const OptimizerConfig& config) : store_(store), config_(config) {
  step_ = at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(store.device()));
  for (const ParameterRule& rule : rules) {
    if (!rule.trains()) continue;
    Parameter& parameter = *rule.parameter;
    if (!parameter.master.defined()) fail(ExitCode::failure, "optimizer: {} has no master weights", parameter.name);
    if (parameter.begin == parameter.end) continue;  // other ranks own it
    auto group = std::find_if(groups_.begin(), groups_.end(), [&](const Group& g) { return g.lr == rule.lr && g.weight_decay == rule.weight_decay; });
    if (group == groups_.end()) group = groups_.insert(groups_.end(), Group{rule.lr, rule.weight_decay, {}, {}, {}, {}, {}});
    const at::Tensor master = parameter.master.detach();
    group->parameters.push_back(&parameter);
    group->masters.push_back(master);
    group->exp_avg.push_back(at::zeros_like(master));
    group->exp_avg_sq.push_back(at::zeros_like(master));
    group->steps.push_back(step_);
    if (parameter.sharded || parameter.value.is_same(parameter.master)) continue;
    values_.push_back(parameter.value.detach());
    masters_.push_back(master);
  }
}

double AdamW::gradient_squares() const {
  const at::NoGradGuard no_grad;
  Tensors gradients;
  for (const Group& group : groups_)
    for (const Parameter* parameter : group.parameters)
      if (parameter->grad.defined()) gradients.push_back(parameter->grad);
  if (gradients.empty()) return 0.0;
  // Norms per tensor in fp32, their squares summed in fp64: one transfer, and no overflow before a single norm overflows.
  const at::Tensor norms = at::stack(at::_foreach_norm(gradients, 2)).to(at::kDouble);
  return norms.square().sum().item<double>();
}

double AdamW::gradient_norm() const { return std::sqrt(gradient_squares()); }

Tensors AdamW::gradients(const Group& group) {
  Tensors gradients;
  gradients.reserve(group.parameters.size());
  for (const Parameter* parameter : group.parameters) {
    if (parameter->grad.defined()) {
      gradients.push_back(parameter->grad);
      continue;
    }
    if (!zeros_.defined()) {
      int64_t longest = 0;
      for (const Group& each : groups_)
        for (const at::Tensor& master : each.masters) longest = std::max(longest, master.numel());
      zeros_ = at::zeros({longest}, step_.options());
    }
    gradients.push_back(zeros_.narrow(0, 0, parameter->master.numel()).view(parameter->master.sizes()));
  }
  return gradients;
}

void AdamW::update(double factor, double norm) {
  const at::NoGradGuard no_grad;
  // The kernel divides each gradient by this on its way: clipping costs no pass of its own. The 1e-6 is torch's clip_grad_norm_'s.
  std::optional<at::Tensor> divisor;
  if (config_.clip_norm > 0 && norm + 1e-6 > config_.clip_norm) divisor = at::full({}, (norm + 1e-6) / config_.clip_norm, step_.options());
  step_.fill_(static_cast<double>(++updates_));
  for (Group& group : groups_)
    at::_fused_adamw_(group.masters, gradients(group), group.exp_avg, group.exp_avg_sq, {}, group.steps, factor * group.lr, config_.beta1,
                      config_.beta2, group.weight_decay, config_.eps, /*amsgrad=*/false, /*maximize=*/false, divisor);
  if (!values_.empty()) at::_foreach_copy_(values_, masters_);
  store_.zero_grads();
}

std::vector<AdamW::Moment> AdamW::state() const {
  std::vector<Moment> moments;
  for (const Group& group : groups_) {
    for (size_t i = 0; i < group.parameters.size(); ++i) {
      moments.push_back({group.parameters[i], "exp_avg", group.exp_avg[i]});
      moments.push_back({group.parameters[i], "exp_avg_sq", group.exp_avg_sq[i]});
    }
  }
  return moments;
}

}  // namespace fusion
