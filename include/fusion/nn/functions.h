// Differentiable functions that keep less than autograd would: each saves its inputs and recomputes what is cheap.
#pragma once

#include <ATen/core/Tensor.h>

namespace fusion {

/// RMSNorm in the order of formats.md 1.3: fp32 statistics, cast back, then the weight. x [R, D], weight [D].
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

/// silu(gate) * up, elementwise.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
/// The same for gate and up side by side, [R, 2 width] -> [R, width].
at::Tensor swiglu(const at::Tensor& gate_up);

/// x * sigmoid(1.702 x), CLIP's activation.
at::Tensor quick_gelu(const at::Tensor& x);

/// GELU in its tanh form.
at::Tensor tanh_gelu(const at::Tensor& x);

/// Attention of L questions over the P keys of their cell, P small. q [n, L, heads, size], k and v [n, P, heads, size]; returns q's shape.
at::Tensor attend_windows(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

/// Rotary embedding, NeoX order (halves), of the first `rotated` heads; the others pass. x [R, heads, head size], cos and sin [R, 1, head size].
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, int64_t rotated);

/// Sum over rows of the cross entropy of x @ weight^T against labels, without keeping [R, V]: logits live for `chunk` rows at a time.
/// x [R, D], weight [V, D], labels int64 [R], all >= 0; `row_losses`, unless undefined, fp32 [R], is filled with each row's part. Returns 0-d fp32.
at::Tensor linear_cross_entropy_sum(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& labels, const at::Tensor& row_losses = {},
                                    int64_t chunk = 2048);

/// Sum over rows of weight * (1 - cos(a, b)), each row normalised with eps 1e-12 (model.md 6). a, b [R, D], weight fp32 [R]. Returns 0-d fp32.
at::Tensor cosine_distance_sum(const at::Tensor& a, const at::Tensor& b, const at::Tensor& weight);

}  // namespace fusion
