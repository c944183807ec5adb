// One pass over each row for functions that ATen would run as half a dozen passes. fp32 on CPUs; every row is computed by one thread.
#pragma once

#include <cstdint>

namespace fusion::kernels {

/// y = x * rstd * weight; rstd[r] = 1 / sqrt(mean(x^2) + eps). [rows, width]
void rms_norm_rows(const float* x, const float* weight, double eps, int64_t rows, int64_t width, float* y, float* rstd);

/// to_x of the above, and to_weight [width], added up over the rows in order.
void rms_norm_rows_backward(const float* x, const float* weight, const float* rstd, const float* to_y, int64_t rows, int64_t width, float* to_x, float* to_weight);

/// Rotation of halves: out = x cos + sign * rotate_half(x) sin for every head. x row r starts at r * stride; out is dense [rows, heads, size];
/// cos and sin [rows, size].
void rotate_rows(const float* x, int64_t stride, const float* cos, const float* sin, float sign, int64_t rows, int64_t heads, int64_t size, float* out);

}  // namespace fusion::kernels
