#include "fusion/nn/rope.h"

#include "fusion/base/error.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <numbers>

namespace fusion {
namespace {

// 1 / (factors * theta^(2i/d)) in fp32, the order in which the reference computes it.
at::Tensor frequencies(const DecoderConfig& config, const at::Tensor& factors) {
  const auto exponents = at::arange(0, config.head_size(), 2, at::kLong).to(at::kFloat) / static_cast<double>(config.head_size());
  const auto powers = at::pow(config.rope_theta, exponents);
  return (factors.defined() ? factors * powers : powers).reciprocal();
}

at::Tensor llama3_frequencies(const DecoderConfig& config) {
  const auto base = frequencies(config, {});
  const auto original = static_cast<double>(config.original_max_position_embeddings);
  const auto wavelength = 2 * std::numbers::pi / base;
  const auto smooth = (original / wavelength - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor);
  const auto blended = (1 - smooth) * base / config.factor + smooth * base;
  const auto scaled = at::where(wavelength > original / config.low_freq_factor, base / config.factor, base);
  const auto middle = (wavelength >= original / config.high_freq_factor).logical_and(wavelength <= original / config.low_freq_factor);
  return at::where(middle, blended, scaled);
}

at::Tensor factor_tensor(const std::vector<double>& factors, int64_t head_size, const char* key) {
  FUSION_CHECK(static_cast<int64_t>(factors.size()) == head_size / 2, "config: decoder.{} has {} factors but half a head is {} wide", key,
               factors.size(), head_size / 2);
  return at::tensor(factors, at::kDouble).to(at::kFloat);
}

}  // namespace

Rope::Rope(const DecoderConfig& config) : original_(config.original_max_position_embeddings) {
  switch (config.rope_scaling) {
    case RopeScaling::none:
      short_frequencies_ = frequencies(config, {});
      return;
    case RopeScaling::llama3:
      short_frequencies_ = llama3_frequencies(config);
      return;
    case RopeScaling::longrope:
      break;
  }
  short_frequencies_ = frequencies(config, factor_tensor(config.short_factor, config.head_size(), "short_factor"));
  long_frequencies_ = frequencies(config, factor_tensor(config.long_factor, config.head_size(), "long_factor"));
  has_long_ = true;
  const double ratio = static_cast<double>(config.max_position_embeddings) / static_cast<double>(original_);
  if (ratio > 1.0) scaling_ = std::sqrt(1.0 + std::log(ratio) / std::log(static_cast<double>(original_)));
}

RopeTable Rope::table(const std::vector<int64_t>& positions, const std::vector<bool>& long_factors, at::ScalarType dtype, at::Device device) const {
  const auto position = at::tensor(positions, at::kLong).to(at::kFloat).unsqueeze(1);  // [R, 1]
  auto angles = position * short_frequencies_;                                         // [R, head size / 2]
  if (has_long_ && std::find(long_factors.begin(), long_factors.end(), true) != long_factors.end()) {
    std::vector<int64_t> chosen(long_factors.begin(), long_factors.end());
    angles = at::where(at::tensor(chosen, at::kLong).to(at::kBool).unsqueeze(1), position * long_frequencies_, angles);
  }
  const auto both = at::cat({angles, angles}, 1).unsqueeze(1);  // [R, 1, head size]
  return {(both.cos() * scaling_).to(device, dtype), (both.sin() * scaling_).to(device, dtype)};
}

}  // namespace fusion
