// Our attention kernel against the formula in fp64: values, gradients, causal rows, shared key heads, odd lengths.
#include "fusion/nn/cpu_attention.h"

#include "fusion/nn/layers.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace fusion {
namespace {

at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, bool causal) {
  const int64_t group = q.size(2) / k.size(2);
  const auto heads_first = [&](const at::Tensor& t, int64_t repeat) { return t.to(at::kDouble).repeat_interleave(repeat, 2).transpose(1, 2); };
  auto scores = heads_first(q, 1).matmul(heads_first(k, group).transpose(-1, -2)) * scale;  // [n, heads, Lq, Lk]
  if (causal) scores = scores.masked_fill(at::ones_like(scores, at::kBool).triu(1), -INFINITY);
  return at::softmax(scores, -1).matmul(heads_first(v, group)).transpose(1, 2);
}

struct Case {
  int64_t n, q_rows, k_rows, heads, kv_heads, size;
  bool causal;
};

class CpuAttentionTest : public testing::TestWithParam<Case> {};

TEST_P(CpuAttentionTest, EqualsTheFormula) {
  const Case c = GetParam();
  const auto q = at::randn({c.n, c.q_rows, c.heads, c.size}).requires_grad_(true),
             k = at::randn({c.n, c.k_rows, c.kv_heads, c.size}).requires_grad_(true),
             v = at::randn({c.n, c.k_rows, c.kv_heads, c.size}).requires_grad_(true);
  if (!cpu_attention_serves(q, k, v)) GTEST_SKIP() << "no AVX2 here: ATen's kernels are used";
  const auto out = cpu_attention(q, k, v, 0.3, c.causal), expected = plain_attention(q, k, v, 0.3, c.causal);
  EXPECT_LT((out - expected).norm().item<double>(), 2e-6 * expected.norm().item<double>());
  const auto gradient = at::randn_like(out);
  const auto ours = torch::autograd::grad({out}, {q, k, v}, {gradient}),
             theirs = torch::autograd::grad({expected}, {q, k, v}, {gradient.to(at::kDouble)});
  for (int i = 0; i < 3; ++i) EXPECT_LT((ours[i] - theirs[i]).norm().item<double>(), 5e-6 * theirs[i].norm().item<double>()) << "gradient " << i;
}

INSTANTIATE_TEST_SUITE_P(Shapes, CpuAttentionTest,
                         testing::Values(Case{1, 1, 2, 1, 1, 8, false}, Case{2, 36, 36, 4, 4, 24, false}, Case{1, 50, 83, 3, 3, 72, false},
                                         Case{2, 7, 129, 2, 2, 40, false}, Case{1, 67, 67, 4, 4, 32, true}, Case{2, 33, 33, 8, 2, 16, true},
                                         Case{1, 8, 8, 2, 1, 128, true}, Case{1, 49, 49, 2, 2, 96, true}));

TEST(CpuAttention, SegmentsEqualSeparateCalls) {
  // Segments of different lengths, an empty one among them, three query heads per key head.
  const std::vector<int64_t> offsets = {0, 41, 41, 50, 91};
  for (const bool causal : {false, true}) {
    const auto qkv = at::randn({91, 6 + 2 * 2, 24}).requires_grad_(true);
    const auto together = attend_segments(qkv, offsets, 6, 0.2, causal);
    Tensors apart;
    for (size_t s = 0; s + 1 < offsets.size(); ++s) {
      if (offsets[s] == offsets[s + 1]) continue;
      const auto parts = qkv.narrow(0, offsets[s], offsets[s + 1] - offsets[s]).unsqueeze(0).split_with_sizes({6, 2, 2}, 2);
      apart.push_back(attend(parts[0], parts[1], parts[2], 0.2, causal).squeeze(0));
    }
    const auto separate = at::cat(apart), gradient = at::randn_like(together);
    EXPECT_TRUE(at::equal(together, separate));
    EXPECT_TRUE(at::equal(torch::autograd::grad({together}, {qkv}, {gradient})[0], torch::autograd::grad({separate}, {qkv}, {gradient})[0]));
  }
}

TEST(CpuAttention, OtherTypesTakeAtensKernels) {
  const std::vector<int64_t> offsets = {0, 7, 14, 17};
  const auto qkv = at::randn({17, 12, 8});
  EXPECT_TRUE(at::allclose(attend_segments(qkv.to(at::kDouble), offsets, 4, 0.2, true).to(at::kFloat), attend_segments(qkv, offsets, 4, 0.2, true),
                           1e-5, 1e-6));
}

TEST(CpuAttention, LargeScoresStayFinite) {
  const auto q = at::full({1, 9, 1, 8}, 100.0), v = at::randn({1, 9, 1, 8});
  if (!cpu_attention_serves(q, q, v)) GTEST_SKIP() << "no AVX2 here: ATen's kernels are used";
  EXPECT_TRUE(at::allclose(cpu_attention(q, q, v, 1.0, false), v.mean(1, true).expand_as(v), 1e-5, 1e-6));
}

TEST(CpuAttention, ThreadsDoNotChangeBits) {
  const auto qkv = at::randn({150, 3 * 4, 24}).requires_grad_(true);
  const auto gradient = at::randn({150, 96});
  const auto run = [&](int threads) {
    at::set_num_threads(threads);
    const auto out = attend_segments(qkv, {0, 50, 100, 150}, 4, 0.2, false);
    return std::pair(out.detach(), torch::autograd::grad({out}, {qkv}, {gradient})[0]);
  };
  const int before = at::get_num_threads();
  const auto one = run(1), two = run(2);
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(one.first, two.first));
  EXPECT_TRUE(at::equal(one.second, two.second));
}

}  // namespace
}  // namespace fusion
