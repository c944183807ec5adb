// One pass over each row for functions that ATen would run as half a dozen passes. fp32 on CPUs; every row is computed by one thread.
#pragma once

#include <cstdint>

namespace fusion::kernels {

/// y = x * rstd * weight; rstd[r] = 1 / sqrt(mean(x^2) + eps). [rows, width]
void rms_norm_rows(const float* x, const float* weight, double eps, int64_t rows, int64_t width, float* y, float* rstd);

/// to_x of the above, and to_weight [width], added up over the rows in order.
void rms_norm_rows_backward(const float* x, const float* weight, const float* rstd, const float* to_y, int64_t rows, int64_t width, float* to_x,
                            float* to_weight);

/// y = x * sigmoid(a x + b x^3): silu, CLIP's quick GELU and the tanh GELU are members of this family. n numbers.
struct Gate {
  float a, b;
};
inline constexpr Gate kSilu{1.0F, 0.0F}, kQuickGelu{1.702F, 0.0F}, kTanhGelu{1.5957691216F, 0.0713548163F};  // 2 sqrt(2/pi) (x + 0.044715 x^3)
void gate_forward(Gate gate, const float* x, int64_t n, float* y);
void gate_backward(Gate gate, const float* x, const float* to_y, int64_t n, float* to_x);

/// y = silu(gate) * up; rows of gate and up start `stride` apart (and those of their gradients), y is dense. [rows, width]
void swiglu_rows(const float* gate, const float* up, int64_t stride, int64_t rows, int64_t width, float* y);
void swiglu_rows_backward(const float* gate, const float* up, int64_t stride, const float* to_y, int64_t rows, int64_t width, float* to_gate,
                          float* to_up, int64_t to_stride);

/// Attention inside n cells: `queries` rows of q over the `keys` rows of k and v, per head. q, out [n, queries, heads, size],
/// k, v [n, keys, heads, size], all dense.
struct Windows {
  int64_t n, queries, keys, heads, size;
  float scale;
};
void window_attention(const Windows& w, const float* q, const float* k, const float* v, float* out);
void window_attention_backward(const Windows& w, const float* q, const float* k, const float* v, const float* to_out, float* to_q, float* to_k,
                               float* to_v);

/// Rotation of halves: out = x cos + sign * rotate_half(x) sin for the first `rotated` of `heads` heads, the others are copied.
/// x and out dense [rows, heads, size]; cos and sin [rows, size].
void rotate_rows(const float* x, const float* cos, const float* sin, float sign, int64_t rows, int64_t heads, int64_t rotated, int64_t size,
                 float* out);

}  // namespace fusion::kernels
