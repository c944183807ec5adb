// Each function with a backward of its own against plain tensor operations in fp64.
#include "fusion/nn/functions.h"

#include "fusion/nn/rope.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace fusion {
namespace {

using Tensors = std::vector<at::Tensor>;
using Function = std::function<at::Tensor(const Tensors&)>;

// Compares value and gradients of `ours` (fp32) with `plain` (fp64) for the same inputs and a random output gradient.
void expect_same(const Function& ours, const Function& plain, const Tensors& inputs, double tolerance = 1e-5) {
  Tensors mine, reference;
  for (const auto& input : inputs) {
    mine.push_back(input.clone().set_requires_grad(true));
    reference.push_back(input.to(at::kDouble).set_requires_grad(true));
  }
  const auto y = ours(mine), z = plain(reference);
  const auto gradient = at::randn_like(y);
  EXPECT_TRUE(at::allclose(y.to(at::kDouble), z, tolerance, tolerance));
  const auto a = torch::autograd::grad({y}, mine, {gradient}), b = torch::autograd::grad({z}, reference, {gradient.to(at::kDouble)});
  for (size_t i = 0; i < inputs.size(); ++i) EXPECT_TRUE(at::allclose(a[i].to(at::kDouble), b[i], tolerance, tolerance)) << "input " << i;
}

TEST(Functions, RmsNorm) {
  expect_same([](const Tensors& in) { return rms_norm(in[0], in[1], 1e-5); },
              [](const Tensors& in) { return in[0] / (in[0].square().mean(-1, true) + 1e-5).sqrt() * in[1]; }, {at::randn({7, 12}), at::randn({12})});
}

TEST(Functions, RmsNormCastsBeforeTheWeight) {
  const auto x = at::randn({7, 12}).to(at::kBFloat16), weight = at::randn({12}).to(at::kBFloat16);
  const auto wide = x.to(at::kFloat);
  const auto expected = (wide * (wide.square().mean(-1, true) + 1e-5).rsqrt()).to(at::kBFloat16) * weight;
  EXPECT_TRUE(at::equal(rms_norm(x, weight, 1e-5), expected));
}

TEST(Functions, Swiglu) {
  expect_same([](const Tensors& in) { return swiglu(in[0], in[1]); }, [](const Tensors& in) { return in[0] * in[0].sigmoid() * in[1]; },
              {at::randn({7, 12}), at::randn({7, 12})});
  expect_same([](const Tensors& in) { return swiglu(in[0]); },
              [](const Tensors& in) { return in[0].narrow(1, 0, 19) * in[0].narrow(1, 0, 19).sigmoid() * in[0].narrow(1, 19, 19); },
              {at::randn({7, 38}) * 5});
}

TEST(Functions, TanhGelu) {
  expect_same([](const Tensors& in) { return tanh_gelu(in[0]); }, [](const Tensors& in) { return at::gelu(in[0], "tanh"); },
              {at::randn({7, 37}) * 4});
  // Far out, where exp would overflow, and where a number is not one.
  const auto far = at::tensor({-1e9F, -200.0F, -60.0F, 60.0F, 200.0F, 1e9F});
  EXPECT_TRUE(at::allclose(tanh_gelu(far), at::relu(far)));
  EXPECT_TRUE(tanh_gelu(at::tensor({std::nanf("")})).isnan().item<bool>());
}

TEST(Functions, QuickGelu) {
  expect_same([](const Tensors& in) { return quick_gelu(in[0]); }, [](const Tensors& in) { return in[0] * (in[0] * 1.702).sigmoid(); },
              {at::randn({7, 12})});
}

TEST(Functions, Rotate) {
  DecoderConfig config;
  config.hidden_size = 16, config.num_attention_heads = 2;
  const auto table = Rope(config).table({0, 3, 5, 100}, {false, false, false, false}, at::kFloat, at::kCPU);
  expect_same([&](const Tensors& in) { return rotate(in[0], table.cos, table.sin, 2); },
              [&](const Tensors& in) {
                const auto turned = in[0].narrow(1, 0, 2), rest = in[0].narrow(1, 2, 1);
                const auto half = turned.chunk(2, -1);
                return at::cat({turned * table.cos.to(at::kDouble) + at::cat({-half[1], half[0]}, -1) * table.sin.to(at::kDouble), rest}, 1);
              },
              {at::randn({4, 3, 8})});
}

TEST(Functions, WindowAttention) {
  const auto plain = [](const Tensors& in) {
    const auto scores = at::einsum("nlhs,nphs->nhlp", {in[0], in[1]}) / std::sqrt(static_cast<double>(in[0].size(3)));
    return at::einsum("nhlp,nphs->nlhs", {at::softmax(scores, -1), in[2]});
  };
  for (const int64_t size : {1, 8, 24})
    expect_same([](const Tensors& in) { return attend_windows(in[0], in[1], in[2]); }, plain,
                {at::randn({11, 3, 4, size}) * 3, at::randn({11, 9, 4, size}), at::randn({11, 9, 4, size})});
  // Other types take the products of ATen.
  const auto q = at::randn({5, 2, 4, 8}), k = at::randn({5, 9, 4, 8}), v = at::randn({5, 9, 4, 8});
  EXPECT_TRUE(
      at::allclose(attend_windows(q.to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble)).to(at::kFloat), attend_windows(q, k, v), 1e-5, 1e-6));
}

TEST(Functions, LinearCrossEntropyInChunks) {
  const auto labels = at::randint(0, 11, {9}, at::kLong);
  for (const int64_t chunk : {2, 9, 100}) {
    const auto rows = at::empty({9});
    const auto plain = [&](const Tensors& in) { return -at::log_softmax(in[0].matmul(in[1].t()), 1).gather(1, labels.unsqueeze(1)); };
    const Tensors inputs = {at::randn({9, 6}), at::randn({11, 6})};
    expect_same([&](const Tensors& in) { return linear_cross_entropy_sum(in[0], in[1], labels, rows, chunk); },
                [&](const Tensors& in) { return plain(in).sum(); }, inputs);
    EXPECT_TRUE(at::allclose(rows, plain(inputs).squeeze(1), 1e-5, 1e-6));
  }
}

TEST(Functions, CosineDistance) {
  const auto weight = at::rand({5});
  expect_same([&](const Tensors& in) { return cosine_distance_sum(in[0], in[1], weight); },
              [&](const Tensors& in) { return ((1 - at::cosine_similarity(in[0], in[1], 1, 1e-12)) * weight.to(at::kDouble)).sum(); },
              {at::randn({5, 6}), at::randn({5, 6})});
}

// Values of formats.md 1.3, computed there with the reference implementation.
TEST(Rope, LlamaScalingHasTheReferenceFrequencies) {
  DecoderConfig config;
  config.hidden_size = 4096, config.num_attention_heads = 32, config.rope_theta = 500000;
  config.rope_scaling = RopeScaling::llama3, config.original_max_position_embeddings = 8192;
  const auto sin = Rope(config).table({1}, {false}, at::kDouble, at::kCPU).sin.view({-1});
  const auto frequency = [&](int64_t i) { return std::asin(sin[i].item<double>()); };
  EXPECT_NEAR(frequency(28), 3.2114461e-3, 1e-9);
  EXPECT_NEAR(frequency(29), 2.1665705e-3, 1e-9);
  EXPECT_NEAR(frequency(35), 9.5562e-5, 1e-9);
  EXPECT_NEAR(frequency(63), 3.0689e-7, 1e-10);
}

TEST(Rope, LongropeSwitchesBeyondTheOriginalLength) {
  DecoderConfig config;
  config.hidden_size = 8, config.num_attention_heads = 2;
  config.rope_scaling = RopeScaling::longrope;
  config.short_factor = {1.0, 1.5}, config.long_factor = {2.0, 4.0};
  const Rope rope(config);
  EXPECT_FALSE(rope.is_long(4096));
  EXPECT_TRUE(rope.is_long(4097));
  const auto table = rope.table({1, 1}, {false, true}, at::kDouble, at::kCPU);
  const double scaling = std::sqrt(1 + std::log(32.0) / std::log(4096.0));
  EXPECT_NEAR(scaling, 1.1902380714238083, 1e-12);
  EXPECT_NEAR(table.sin[0][0][0].item<double>(), std::sin(1.0) * scaling, 1e-6);
  EXPECT_NEAR(table.sin[1][0][0].item<double>(), std::sin(0.5) * scaling, 1e-6);
}

}  // namespace
}  // namespace fusion
