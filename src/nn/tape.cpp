#include "fusion/nn/tape.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <optional>
#include <unordered_set>

namespace fusion {
namespace {

/// How a profile shows a segment.
std::string label(const char* way, const Unit* unit) { return std::string(way) + (unit ? unit->name : "rows"); }

}  // namespace

void add_gradient(at::Tensor& sum, at::Tensor gradient) {
  if (sum.defined()) {
    sum.add_(gradient);
  } else {
    // A view or an expanded gradient must not be kept: later uses are added in place.
    sum = gradient.is_contiguous() && gradient.scalar_type() == at::kFloat ? std::move(gradient) : gradient.to(at::kFloat).contiguous();
  }
}

void TapePolicy::accumulate(Parameter& parameter, at::Tensor gradient) { add_gradient(parameter.grad, std::move(gradient)); }

Tensors Tape::run(Unit* unit, Tensors inputs, Function fn, Recompute recompute, bool away) {
  RECORD_USER_SCOPE(label("forward ", unit));
  if (unit) policy_.acquire(*unit);
  Tensors outputs;
  CheapOutputs cheap;
  const bool again = recompute == Recompute::full;
  const bool needs_gradient =
      gradients_ && ((unit && unit->trains()) || std::any_of(inputs.begin(), inputs.end(), [](const at::Tensor& t) { return t.requires_grad(); }));
  {
    const at::AutoGradMode mode(needs_gradient && !again);
    std::optional<CheapOutputs::Scope> noting;
    if (needs_gradient && recompute == Recompute::norms) noting.emplace(cheap);
    outputs = fn(inputs);
  }
  if (unit) policy_.release(*unit);
  if (!needs_gradient) return outputs;

  cheap.drop(outputs);
  Segment segment{unit, std::move(inputs), {}, {}, again ? std::move(fn) : Function(), std::move(cheap)};
  Tensors leaves;
  for (const at::Tensor& output : outputs) {
    at::Tensor leaf = output.detach();
    if (leaf.is_floating_point()) leaf.requires_grad_(again || output.requires_grad());
    segment.leaves.push_back(leaf.unsafeGetTensorImpl());
    leaves_.push_back(leaf);
    leaves.push_back(std::move(leaf));
  }
  if (offload_ && away && again) segment.away = offload_->put(segment.inputs[0]);
  if (!again) segment.outputs = std::move(outputs);
  segments_.push_back(std::move(segment));
  return leaves;
}

at::Tensor Tape::run1(Unit* unit, Tensors inputs, std::function<at::Tensor(const Tensors&)> fn, Recompute recompute, bool away) {
  return run(
      unit, std::move(inputs), [fn = std::move(fn)](const Tensors& in) { return Tensors{fn(in)}; }, recompute, away)[0];
}

void Tape::walk_back(Segment& segment, Tensors output_gradients) {
  RECORD_USER_SCOPE(label("backward ", segment.unit));
  if (segment.unit) policy_.acquire(*segment.unit);
  if (segment.away >= 0) offload_->fetch(segment.away);
  if (segment.fn) {
    const at::AutoGradMode mode(true);
    segment.outputs = segment.fn(segment.inputs);
    segment.fn = nullptr;
  }
  segment.cheap.restore();

  // Only outputs that got a gradient and have a graph take part.
  Tensors roots, root_gradients;
  for (size_t i = 0; i < segment.outputs.size(); ++i) {
    if (!output_gradients[i].defined() || !segment.outputs[i].requires_grad()) continue;
    roots.push_back(segment.outputs[i]);
    root_gradients.push_back(std::move(output_gradients[i]));
  }
  Tensors targets;
  std::vector<at::TensorImpl*> input_leaves;
  for (const at::Tensor& input : segment.inputs) {
    const bool again = std::find(input_leaves.begin(), input_leaves.end(), input.unsafeGetTensorImpl()) != input_leaves.end();
    if (!input.requires_grad() || again) continue;
    targets.push_back(input);
    input_leaves.push_back(input.unsafeGetTensorImpl());
  }
  std::vector<Parameter*> parameters;
  if (segment.unit) {
    for (Parameter* parameter : segment.unit->parameters) {
      if (!parameter->value.requires_grad()) continue;
      targets.push_back(parameter->value);
      parameters.push_back(parameter);
    }
  }
  if (!roots.empty() && !targets.empty()) {
    Tensors gradients = torch::autograd::grad(roots, targets, root_gradients, /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true);
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (!gradients[i].defined()) continue;
      if (i >= input_leaves.size()) {
        policy_.accumulate(*parameters[i - input_leaves.size()], std::move(gradients[i]));
        continue;
      }
      at::Tensor& pending = pending_[input_leaves[i]];
      pending = pending.defined() ? pending + gradients[i] : std::move(gradients[i]);
    }
  }
  if (segment.unit) policy_.release(*segment.unit);
}

void Tape::backward(const std::vector<std::pair<at::Tensor, at::Tensor>>& seeds) {
  policy_.begin_backward();
  for (const auto& [output, gradient] : seeds) pending_[output.unsafeGetTensorImpl()] = gradient;
  // A unit may run several times per step: its gradients are complete after the backward of its first forward use.
  std::unordered_set<const Unit*> seen;
  std::vector<bool> first_use(segments_.size());
  for (size_t i = 0; i < segments_.size(); ++i) first_use[i] = segments_[i].unit && seen.insert(segments_[i].unit).second;

  while (!segments_.empty()) {
    Segment segment = std::move(segments_.back());
    segments_.pop_back();
    Tensors output_gradients;
    bool reached = false;
    for (at::TensorImpl* leaf : segment.leaves) {
      const auto it = pending_.find(leaf);
      output_gradients.push_back(it == pending_.end() ? at::Tensor() : std::move(it->second));
      if (it != pending_.end()) pending_.erase(it);
      reached |= output_gradients.back().defined();
    }
    if (reached) walk_back(segment, std::move(output_gradients));
    // The leaves of this segment are the newest: later segments, which could have used them, are gone.
    leaves_.resize(leaves_.size() - segment.leaves.size());
    if (first_use[segments_.size()]) policy_.gradients_complete(*segment.unit);
  }
  pending_.clear();
}

}  // namespace fusion
