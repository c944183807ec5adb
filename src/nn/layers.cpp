#include "fusion/nn/layers.h"

#include "fusion/nn/cheap.h"
#include "fusion/nn/cpu_attention.h"
#include "fusion/nn/functions.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <cmath>

namespace fusion {

Linear::Linear(const Scope& scope, int64_t in, int64_t out, bool with_bias) {
  const auto init = Init::uniform(1.0 / std::sqrt(in));
  weight = scope.add("weight", {out, in}, init);
  if (with_bias) bias = scope.add("bias", {out}, init);
}

Linear::Linear(const Scope& scope, int64_t in, int64_t out, bool with_bias, Init weight_init) : weight(scope.add("weight", {out, in}, weight_init)) {
  if (with_bias) bias = scope.add("bias", {out}, Init::zeros());
}

at::Tensor Linear::operator()(const at::Tensor& x) const { return at::linear(x, weight->value, bias ? bias->value : at::Tensor()); }

LayerNorm::LayerNorm(const Scope& scope, int64_t width, double epsilon)
    : weight(scope.add("weight", {width}, Init::ones())), bias(scope.add("bias", {width}, Init::zeros())), eps(epsilon) {}

at::Tensor LayerNorm::operator()(const at::Tensor& x) const {
  return cheap([x, shape = at::IntArrayRef(weight->shape), scale = weight->value, shift = bias->value, eps = eps] {
    // ATen's bf16 kernel for CPUs adds up the gradients of weight and bias in bf16: over some hundred rows a fifth of their norm is lost.
    if (x.is_cpu() && x.scalar_type() == at::kBFloat16)
      return at::layer_norm(x.to(at::kFloat), shape, scale.to(at::kFloat), shift.to(at::kFloat), eps).to(at::kBFloat16);
    return at::layer_norm(x, shape, scale, shift, eps);
  });
}

RmsNorm::RmsNorm(const Scope& scope, int64_t width, double epsilon) : weight(scope.add("weight", {width}, Init::ones())), eps(epsilon) {}

at::Tensor RmsNorm::operator()(const at::Tensor& x) const {
  return cheap([x, scale = weight->value, eps = eps] { return rms_norm(x, scale, eps); });
}

at::Tensor activate(const at::Tensor& x, Activation activation) {
  return cheap([x, activation] {
    switch (activation) {
      case Activation::gelu_pytorch_tanh:
        return tanh_gelu(x);
      case Activation::gelu:
        return at::gelu(x);
      case Activation::quick_gelu:
        break;
    }
    return quick_gelu(x);
  });
}

Projector::Projector(const Scope& scope, int64_t in, int64_t out) : first(scope / "0", in, out, true), second(scope / "2", out, out, true) {}

at::Tensor Projector::operator()(const at::Tensor& x) const { return second(activate(first(x), Activation::gelu)); }

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, bool causal) {
  if (cpu_attention_serves(q, k, v)) return cpu_attention(q, k, v, scale, causal).flatten(2);
  const auto out = at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), {}, 0.0, causal, scale,
                                                    /*enable_gqa=*/q.size(2) != k.size(2));  // [n, heads, Lq, size]
  return out.transpose(1, 2).reshape({q.size(0), q.size(1), q.size(2) * q.size(3)});         // [n, Lq, heads * size]
}

at::Tensor attend_segments(const at::Tensor& qkv, const std::vector<int64_t>& offsets, int64_t heads, double scale, bool causal) {
  if (cpu_attention_serves(qkv)) return cpu_attention_packed(qkv, offsets, heads, scale, causal).flatten(1);
  const bool flash =
      qkv.is_cuda() && (qkv.scalar_type() == at::kBFloat16 || qkv.scalar_type() == at::kHalf) && qkv.size(2) % 8 == 0 && qkv.size(2) <= 256;
  if (flash) return attend_varlen(qkv, offsets, heads, scale, causal);
  // Neighbours of equal length form one dense call.
  const int64_t kv_heads = (qkv.size(1) - heads) / 2;
  std::vector<at::Tensor> mixed;
  for (size_t first = 0, last; first + 1 < offsets.size(); first = last) {
    const int64_t length = offsets[first + 1] - offsets[first];
    for (last = first + 1; last + 1 < offsets.size() && offsets[last + 1] - offsets[last] == length;) ++last;
    const auto count = static_cast<int64_t>(last - first);
    const auto rows = qkv.narrow(0, offsets[first], count * length).unflatten(0, {count, length});  // [count, length, heads + 2 kv heads, size]
    const auto parts = rows.split_with_sizes({heads, kv_heads, kv_heads}, 2);
    mixed.push_back(attend(parts[0], parts[1], parts[2], scale, causal).flatten(0, 1));
  }
  return mixed.size() == 1 ? mixed[0] : at::cat(mixed);
}

}  // namespace fusion
