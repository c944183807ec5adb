#include "fusion/nn/layers.h"
#include "fusion/nn/to_device.h"

#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace fusion {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensors split(const at::Tensor& qkv, int64_t heads) {
  const int64_t kv_heads = (qkv.size(1) - heads) / 2;
  return qkv.split_with_sizes({heads, kv_heads, kv_heads}, 1);
}

// ATen gives the operator no derivative of its own.
struct VarlenFunction : torch::autograd::Function<VarlenFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv, const at::Tensor& bounds, int64_t longest, int64_t heads, double scale,
                            bool causal) {
    const auto parts = split(qkv, heads);
    const auto [out, log_sums, random_state, unused, debug] = at::_flash_attention_forward(
        parts[0], parts[1], parts[2], bounds, bounds, longest, longest, /*dropout_p=*/0.0, causal, /*return_debug_mask=*/false, scale);
    context->save_for_backward({qkv, bounds, out, log_sums, random_state, unused});
    context->saved_data["longest"] = longest;
    context->saved_data["heads"] = heads;
    context->saved_data["scale"] = scale;
    context->saved_data["causal"] = causal;
    return out;  // [R, heads, size]
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &bounds = saved[1], &out = saved[2], &log_sums = saved[3], &random_state = saved[4], &unused = saved[5];
    const auto parts = split(saved[0], context->saved_data["heads"].toInt());
    const int64_t longest = context->saved_data["longest"].toInt();
    const auto [to_q, to_k, to_v] = at::_flash_attention_backward(
        gradients[0].contiguous(), parts[0], parts[1], parts[2], out, log_sums, bounds, bounds, longest, longest,
        /*dropout_p=*/0.0, context->saved_data["causal"].toBool(), random_state, unused, context->saved_data["scale"].toDouble());
    return {at::cat({to_q, to_k, to_v}, 1), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor attend_varlen(const at::Tensor& qkv, const std::vector<int64_t>& offsets, int64_t heads, double scale, bool causal) {
  const std::vector<int32_t> bounds(offsets.begin(), offsets.end());
  int64_t longest = 0;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) longest = std::max(longest, offsets[s + 1] - offsets[s]);
  return VarlenFunction::apply(qkv, to_device(at::tensor(bounds, at::kInt), qkv.device()), longest, heads, scale, causal).flatten(1);
}

}  // namespace fusion
