// Layers over row streams [R, width]: each holds its parameters and is called like a function. Registration states the checkpoint name once.
#pragma once

#include "fusion/config/model_config.h"
#include "fusion/nn/parameter.h"

#include <optional>

namespace fusion {

/// y = x W^T + b. weight [out, in].
struct Linear {
  Parameter* weight = nullptr;
  Parameter* bias = nullptr;  // null without bias

  Linear() = default;
  /// A random start as PyTorch's own: weight and bias uniform in +-1/sqrt(in).
  Linear(const Scope& scope, int64_t in, int64_t out, bool with_bias);
  /// The bias starts with zeros.
  Linear(const Scope& scope, int64_t in, int64_t out, bool with_bias, Init weight_init);
  at::Tensor operator()(const at::Tensor& x) const;  // [R, in] -> [R, out]
};

/// LayerNorm over the last dimension, with bias.
struct LayerNorm {
  Parameter* weight = nullptr;
  Parameter* bias = nullptr;
  double eps = 1e-5;

  LayerNorm() = default;
  LayerNorm(const Scope& scope, int64_t width, double epsilon);
  at::Tensor operator()(const at::Tensor& x) const;
};

struct RmsNorm {
  Parameter* weight = nullptr;
  double eps = 1e-5;

  RmsNorm() = default;
  RmsNorm(const Scope& scope, int64_t width, double epsilon);
  at::Tensor operator()(const at::Tensor& x) const;
};

at::Tensor activate(const at::Tensor& x, Activation activation);

/// Linear, erf-GELU, Linear, both with bias; names 0 and 2 as in the checkpoint (mm_projector, aux_projector).
struct Projector {
  Linear first, second;

  Projector() = default;
  Projector(const Scope& scope, int64_t in, int64_t out);
  at::Tensor operator()(const at::Tensor& x) const;
};

/// Multi-head attention of n segments of equal length. q [n, Lq, heads, size], k and v [n, Lk, kv heads, size]; kv heads divide heads.
/// `causal` needs Lq == Lk. Returns [n, Lq, heads * size]. fp32 on a CPU takes our kernel, else ATen picks the flash kernel where there is one.
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, bool causal);

/// The same inside segments of any length, q, k and v side by side: qkv [R, heads + 2 kv heads, size], segment s is rows offsets[s] to
/// offsets[s + 1]. Returns [R, heads * size]. 16-bit types on a GPU go through one flash call for all segments.
at::Tensor attend_segments(const at::Tensor& qkv, const std::vector<int64_t>& offsets, int64_t heads, double scale, bool causal);

/// attend_segments() by ATen's flash operator for segments of unequal length, which exists for 16-bit types on GPUs.
at::Tensor attend_varlen(const at::Tensor& qkv, const std::vector<int64_t>& offsets, int64_t heads, double scale, bool causal);

}  // namespace fusion
