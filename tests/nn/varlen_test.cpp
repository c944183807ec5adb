// The flash operator for segments exists on GPUs alone: a plain one stands in for it here, so that what we hand over and what comes back is seen.
#include "fusion/nn/layers.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/library.h>

namespace fusion {
namespace {

using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

at::Tensor plain(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bounds, bool causal, double scale) {
  const int64_t group = q.size(1) / k.size(1);
  Tensors out;
  for (int64_t s = 0; s + 1 < bounds.size(0); ++s) {
    const int64_t begin = bounds[s].item<int32_t>(), rows = bounds[s + 1].item<int32_t>() - begin;
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, rows).transpose(0, 1); };  // [heads, rows, size]
    auto scores = at::matmul(part(q), part(k).repeat_interleave(group, 0).transpose(1, 2)) * scale;
    if (causal) scores = scores.masked_fill(at::ones({rows, rows}, at::kBool).triu(1), -INFINITY);
    out.push_back(at::matmul(scores.softmax(-1), part(v).repeat_interleave(group, 0)).transpose(0, 1));
  }
  return at::cat(out);
}

Result forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::optional<at::Tensor>& q_bounds,
               const std::optional<at::Tensor>& k_bounds, c10::SymInt longest_q, c10::SymInt longest_k, double dropout, bool causal, bool debug,
               std::optional<double> scale, std::optional<c10::SymInt>, std::optional<c10::SymInt>, const std::optional<at::Tensor>&,
               const std::optional<at::Tensor>&) {
  const at::Tensor steps = q_bounds->diff();
  EXPECT_EQ(q_bounds->scalar_type(), at::kInt);
  EXPECT_TRUE(at::equal(*q_bounds, *k_bounds));
  EXPECT_EQ(longest_q.expect_int(), steps.max().item<int32_t>());
  EXPECT_EQ(longest_k.expect_int(), longest_q.expect_int());
  EXPECT_EQ(dropout, 0.0);
  EXPECT_FALSE(debug);
  return {plain(q, k, v, *q_bounds, causal, *scale), at::empty({0}), at::empty({0}), at::empty({0}), at::empty({0})};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& gradient, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                        const at::Tensor&, const at::Tensor&, const at::Tensor& bounds, const at::Tensor&,
                                                        c10::SymInt, c10::SymInt, double, bool causal, const at::Tensor&, const at::Tensor&,
                                                        std::optional<double> scale, std::optional<c10::SymInt>, std::optional<c10::SymInt>) {
  const int64_t group = q.size(1) / k.size(1);
  const at::Tensor to_q = at::empty_like(q), to_k = at::empty_like(k), to_v = at::empty_like(v);
  for (int64_t s = 0; s + 1 < bounds.size(0); ++s) {
    const int64_t begin = bounds[s].item<int32_t>(), rows = bounds[s + 1].item<int32_t>() - begin;
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, rows).transpose(0, 1); };  // [heads, rows, size]
    const auto shared = [&](const at::Tensor& x) { return part(x).repeat_interleave(group, 0); };
    const auto over_group = [&](const at::Tensor& x) { return x.unflatten(0, {k.size(1), group}).sum(1); };
    auto scores = at::matmul(part(q), shared(k).transpose(1, 2)) * *scale;
    if (causal) scores = scores.masked_fill(at::ones({rows, rows}, at::kBool).triu(1), -INFINITY);
    const auto weights = scores.softmax(-1), to_weights = at::matmul(part(gradient), shared(v).transpose(1, 2));
    const auto to_scores = weights * (to_weights - (to_weights * weights).sum(-1, true)) * *scale;
    part(to_q).copy_(at::matmul(to_scores, shared(k)));
    part(to_k).copy_(over_group(at::matmul(to_scores.transpose(1, 2), part(q))));
    part(to_v).copy_(over_group(at::matmul(weights.transpose(1, 2), part(gradient))));
  }
  return {to_q, to_k, to_v};
}

TORCH_LIBRARY_IMPL(aten, CPU, library) {
  library.impl("_flash_attention_forward", forward);
  library.impl("_flash_attention_backward", backward);
}

TEST(Varlen, SegmentsOfAnyLengthAttendToThemselvesAlone) {
  at::manual_seed(1);
  for (const auto& [heads, kv_heads] : {std::pair<int64_t, int64_t>{4, 4}, {4, 2}})
    for (const bool causal : {true, false})
      for (const std::vector<int64_t>& offsets : {std::vector<int64_t>{0, 7}, {0, 3, 3, 4, 20}, {0, 5, 10, 15}}) {
        const auto qkv = at::randn({offsets.back(), heads + 2 * kv_heads, 8}).requires_grad_(true);
        const auto ours = attend_varlen(qkv, offsets, heads, 0.3, causal), expected = attend_segments(qkv, offsets, heads, 0.3, causal);
        EXPECT_EQ(ours.sizes(), expected.sizes());
        EXPECT_LE((ours - expected).abs().max().item<double>(), 1e-5);
        const auto gradient = at::randn_like(ours);
        const auto mine = torch::autograd::grad({ours}, {qkv}, {gradient})[0], theirs = torch::autograd::grad({expected}, {qkv}, {gradient})[0];
        EXPECT_LE((mine - theirs).abs().max().item<double>(), 1e-5);
      }
}

}  // namespace
}  // namespace fusion
