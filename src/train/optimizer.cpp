#include "fusion/train/optimizer.h"

#include "fusion/base/error.h"
#include "fusion/model/io/names.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

namespace fusion {
namespace {

/// End of a run of tensors from `begin` that is measured at once: as few as hold so many elements, so that copies stay small.
size_t piece_end(const Tensors& tensors, size_t begin) {
  constexpr int64_t kElements = int64_t{1} << 26;
  int64_t elements = 0;
  size_t end = begin;
  while (end < tensors.size() && (end == begin || elements + tensors[end].numel() <= kElements)) elements += tensors[end++].numel();
  return end;
}

}  // namespace

AdamW::AdamW(ParameterStore& store, const std::vector<ParameterRule>& rules, const OptimizerConfig& config) : store_(store), config_(config) {
  step_ = at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(store.device()));
  for (const ParameterRule& rule : rules) {
    if (!rule.trains()) continue;
    Parameter& parameter = *rule.parameter;
    const std::string part = part_of(parameter.name);
    const auto known = std::find(parts_.begin(), parts_.end(), part);
    const auto part_index = static_cast<size_t>(known - parts_.begin());
    if (known == parts_.end()) parts_.push_back(part);
    if (!parameter.master.defined()) fail(ExitCode::failure, "optimizer: {} has no master weights", parameter.name);
    if (parameter.begin == parameter.end) continue;  // other ranks own it
    auto group = std::find_if(groups_.begin(), groups_.end(), [&](const Group& g) { return g.lr == rule.lr && g.weight_decay == rule.weight_decay; });
    if (group == groups_.end()) group = groups_.insert(groups_.end(), Group{rule.lr, rule.weight_decay, {}, {}, {}, {}, {}, {}});
    const at::Tensor master = parameter.master.detach();
    group->parameters.push_back(&parameter);
    group->parts.push_back(part_index);
    group->masters.push_back(master);
    group->exp_avg.push_back(at::zeros_like(master));
    group->exp_avg_sq.push_back(at::zeros_like(master));
    group->steps.push_back(step_);
    if (parameter.sharded || parameter.value.is_same(parameter.master)) continue;
    values_.push_back(parameter.value.detach());
    masters_.push_back(master);
  }
}

std::vector<double> AdamW::gradient_squares() const {
  const at::NoGradGuard no_grad;
  Tensors gradients;
  std::vector<size_t> parts;
  for (const Group& group : groups_)
    for (size_t i = 0; i < group.parameters.size(); ++i)
      if (const at::Tensor& gradient = group.parameters[i]->grad; gradient.defined()) {
        gradients.push_back(gradient);
        parts.push_back(group.parts[i]);
      }
  return squares_by_part(gradients.empty() ? Tensors() : at::_foreach_norm(gradients, 2), parts);
}

/// Norms per tensor in fp32, their squares summed in fp64: one transfer, and no overflow before a single norm overflows.
std::vector<double> AdamW::squares_by_part(const Tensors& norms, const std::vector<size_t>& parts) const {
  std::vector<double> sums(1 + parts_.size());
  if (norms.empty()) return sums;
  const at::Tensor squares = at::stack(norms).to(at::kDouble).square();
  const at::Tensor host = at::cat({squares.sum().view({1}), squares}).cpu();
  const double* value = host.const_data_ptr<double>();
  sums[0] = value[0];
  for (size_t i = 0; i < parts.size(); ++i) sums[1 + parts[i]] += value[1 + i];
  return sums;
}

double AdamW::gradient_norm() const { return std::sqrt(gradient_squares()[0]); }

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

void AdamW::update(double factor, double norm, bool measure) {
  const at::NoGradGuard no_grad;
  // The kernel divides each gradient by this on its way: clipping costs no pass of its own. The 1e-6 is torch's clip_grad_norm_'s.
  std::optional<at::Tensor> divisor;
  if (config_.clip_norm > 0 && norm + 1e-6 > config_.clip_norm) divisor = at::full({}, (norm + 1e-6) / config_.clip_norm, step_.options());
  step_.fill_(static_cast<double>(++updates_));
  update_norms_.clear();
  for (Group& group : groups_) {
    const Tensors all_gradients = gradients(group);
    const size_t count = group.masters.size();
    for (size_t begin = 0, end = count; begin < count; begin = end, end = count) {
      if (measure) end = piece_end(group.masters, begin);
      const auto piece = [&](const Tensors& all) { return at::TensorList(all).slice(begin, end - begin); };
      Tensors change;
      if (measure)
        for (const at::Tensor& master : piece(group.masters)) change.push_back(master.clone());
      at::_fused_adamw_(piece(group.masters), piece(all_gradients), piece(group.exp_avg), piece(group.exp_avg_sq), {}, piece(group.steps),
                        factor * group.lr, config_.beta1, config_.beta2, group.weight_decay, config_.eps, /*amsgrad=*/false, /*maximize=*/false,
                        divisor);
      if (!measure) continue;
      at::_foreach_sub_(change, piece(group.masters));
      const Tensors norms = at::_foreach_norm(change, 2);
      update_norms_.insert(update_norms_.end(), norms.begin(), norms.end());
    }
  }
  if (!values_.empty()) at::_foreach_copy_(values_, masters_);
  store_.zero_grads();
}

std::vector<double> AdamW::update_squares() const {
  std::vector<size_t> parts;
  for (const Group& group : groups_) parts.insert(parts.end(), group.parts.begin(), group.parts.end());
  if (update_norms_.size() != parts.size()) fail(ExitCode::failure, "optimizer: the last update was not measured");
  return squares_by_part(update_norms_, parts);
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
