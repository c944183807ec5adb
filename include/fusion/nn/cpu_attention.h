// Exact softmax attention in fp32 on CPUs with AVX2 or AVX-512: one pass over whole score rows that stay in the first cache levels.
// Twice the speed of ATen's blocked kernel at the head sizes and lengths of vision towers, and the same bits for any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace fusion {

/// True when this machine and these tensors (fp32, CPU, head size a multiple of 8 with unit stride) are served.
bool cpu_attention_serves(const at::Tensor& heads);
bool cpu_attention_serves(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

/// q [n, Lq, heads, size], k and v [n, Lk, kv heads, size], any strides but the last; kv heads divide heads. `causal` needs Lq == Lk.
/// Returns [n, Lq, heads, size]. Differentiable.
at::Tensor cpu_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, bool causal);

/// Inside segments of rows, for q, k and v side by side: qkv [R, heads + 2 kv heads, size], segment s is rows offsets[s] to offsets[s + 1].
/// Returns [R, heads, size]; the gradient is written in one piece.
at::Tensor cpu_attention_packed(const at::Tensor& qkv, const std::vector<int64_t>& offsets, int64_t heads, double scale, bool causal);

}  // namespace fusion
